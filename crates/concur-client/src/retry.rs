//! When to try again: backoff that spreads callers, and a budget that keeps retries from becoming the load.

use std::hash::{BuildHasher, RandomState};
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// What retries may add to requests: a share of them, and a few a second beside.
#[derive(Debug)]
pub(crate) struct Budget {
    tokens_max: f64,
    tokens: Mutex<(f64, Instant)>,
}

/// What each request adds: one retry in five requests.
const SHARE: f64 = 0.2;
/// What each second adds, so that a caller who asks rarely may try again too.
const PER_SECOND: f64 = 10.0;

impl Budget {
    /// A full budget.
    pub(crate) fn new(tokens_max: u32) -> Self {
        let tokens_max = f64::from(tokens_max);
        Self { tokens_max, tokens: Mutex::new((tokens_max, Instant::now())) }
    }

    /// A request was made.
    pub(crate) fn earn(&self) {
        self.change(SHARE);
    }

    /// Takes what a retry costs, if it is there.
    pub(crate) fn spend(&self) -> bool {
        self.change(-1.0)
    }

    fn change(&self, by: f64) -> bool {
        let mut guard = self.tokens.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let now = Instant::now();
        let (tokens, at) = *guard;
        let grown = (tokens + now.saturating_duration_since(at).as_secs_f64() * PER_SECOND).min(self.tokens_max);
        let changed = (grown + by).min(self.tokens_max);
        let has = changed >= 0.0;
        *guard = (if has { changed } else { grown }, now);
        has
    }
}

/// How long to wait before the `attempt`th retry: doubling, and drawn between half and all of it.
pub(crate) fn backoff(attempt: u32, first: Duration, longest: Duration) -> Duration {
    let whole = first.saturating_mul(1 << attempt.min(16)).min(longest);
    let draw = (random() >> 11) as f64 / (1u64 << 53) as f64;
    whole.mul_f64(0.5 + draw / 2.0)
}

/// A number that nobody can foresee; never 0.
pub(crate) fn random() -> u64 {
    let time = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |since| since.as_nanos());
    // Each state is keyed with what the operating system drew, and differs from the one before.
    RandomState::new().hash_one((time, std::process::id())).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_budget_gives_what_it_has_and_what_requests_earn() {
        let budget = Budget::new(3);
        let spent = (0..20).filter(|_| budget.spend()).count();
        assert!((3..=4).contains(&spent), "{spent}");
        (0..10).for_each(|_| budget.earn());
        assert!(budget.spend() && budget.spend());
    }

    #[test]
    fn waits_double_up_to_the_longest_and_differ() {
        let (first, longest) = (Duration::from_millis(10), Duration::from_secs(1));
        for attempt in 0..40 {
            let whole = first.saturating_mul(1 << attempt.min(16)).min(longest);
            let wait = backoff(attempt, first, longest);
            assert!(wait >= whole / 2 && wait <= whole, "{attempt}: {wait:?}");
        }
        assert_ne!(random(), random());
    }
}
