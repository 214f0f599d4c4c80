//! Random schedules of Mencius.

use crate::common::Plan;
use concur_decision::mencius::Mencius;

#[test]
fn nothing_is_decided_twice_lost_or_stuck_whatever_happens() {
    Plan { seeds: [150, 3_000], steps: 1_500, one_of: 1_000, rare: &["revocation renewed"] }.check::<Mencius>();
}
