//! Random schedules of Fast Paxos.

use crate::common::Plan;
use concur_decision::fastpaxos::FastPaxos;

#[test]
fn random_schedules_keep_agreement_and_end_well() {
    Plan { seeds: [600, 3_000], steps: 600, one_of: 1_000, rare: &["fast round closed for a seal"] }.check::<FastPaxos>();
}
