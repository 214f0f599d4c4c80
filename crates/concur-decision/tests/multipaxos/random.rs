//! Random schedules of Multi-Paxos.

use crate::common::Plan;
use concur_decision::multipaxos::MultiPaxos;

#[test]
fn random_schedules_keep_agreement_and_end_well() {
    Plan { seeds: [1_500, 1_500], steps: 500, one_of: 100, rare: &[] }.check::<MultiPaxos>();
}
