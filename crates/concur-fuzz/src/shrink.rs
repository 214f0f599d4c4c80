//! Makes a sequence that was answered unlike smaller, as long as it still is.
//!
//! What comes after the call goes first; then pieces of halving size are left out, from the end, and stay out if the rest is still
//! answered unlike. In the end single operations of a transaction stay as they are: a few calls are few enough.

use crate::call::Call;
use crate::pair::{self, Difference};
use crate::worker::Bench;
use std::time::Duration;

/// How long both may take to tell the same: they did not within a longer time already.
const PATIENCE: Duration = Duration::from_secs(2);
/// Tries at most.
const TRIES_MAX: usize = 300;

pub(crate) type Numbered = Vec<(usize, Call)>;

/// The smaller sequence, and how it is answered.
pub(crate) async fn shrink(
    bench: &mut Bench<'_>,
    mut calls: Numbered,
    mut difference: Difference,
    fresh: bool,
) -> Result<(Numbered, Difference), String> {
    calls.truncate(difference.at + 1);
    bench.patience = PATIENCE;
    let mut tries = 0;
    let mut piece = calls.len().div_ceil(2);
    while piece > 0 {
        let mut end = calls.len();
        let mut smaller = false;
        while end > 0 && tries < TRIES_MAX {
            let start = end.saturating_sub(piece);
            let rest = without(&calls, start, end);
            tries += 1;
            let plain: Vec<Call> = rest.iter().map(|(_, call)| call.clone()).collect();
            if let Some(found) = bench.run(&plain, fresh).await? {
                (calls, difference) = (rest, found);
                calls.truncate(difference.at + 1);
                smaller = true;
                end = start.min(calls.len());
            } else {
                end = start;
            }
        }
        if tries >= TRIES_MAX || (piece == 1 && !smaller) {
            break;
        }
        piece = if piece == 1 { 1 } else { piece / 2 };
    }
    bench.patience = pair::PATIENCE;
    Ok((calls, difference))
}

fn without(calls: &Numbered, start: usize, end: usize) -> Numbered {
    calls[..start].iter().chain(&calls[end..]).cloned().collect()
}
