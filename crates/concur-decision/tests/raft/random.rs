//! Random schedules of Raft.

use crate::common::Plan;
use concur_decision::raft::Raft;

#[test]
fn random_schedules_keep_agreement_and_end_well() {
    Plan { seeds: [1_500, 1_500], steps: 500, one_of: 100, rare: &[] }.check::<Raft>();
}
