//! Raft. It looks at the clock: whoever's timer fires believes that its time has come, and nobody else does.

use crate::explorer::{Case, budget, write};
use concur_core::{ReplicaId, ReplicaSet};
use concur_decision::raft::{Message, Raft, Record};

/// Heartbeats and reads: losing them loses nothing.
fn quiet(message: &Message) -> bool {
    matches!(message, Message::Heartbeat { .. } | Message::Heard { .. } | Message::Read { .. } | Message::ReadAt { .. })
}

/// The first leads from the beginning; the others stand for election when their timers fire.
fn case() -> Case<Raft> {
    let (first, timers) = (Some(ReplicaId(0)), vec![0, 1, 1]);
    Case { submits: vec![write(0, 0), write(1, 0)], first, timers, clocks: true, irrelevant: quiet, ..Case::default() }
}

/// Small enough to be looked at to the end: the leader and whoever is elected above it do not hear each other.
fn small() -> Case<Raft> {
    Case { cut: vec![(0, 1)], ..case() }
}

#[test]
fn everything_that_two_leaders_and_a_crash_can_do() {
    for who in (0..3).map(ReplicaId) {
        let fragile = ReplicaSet::one(who);
        Case { crashes: 1, fragile, ..small() }.ends("raft", &format!("two leaders; {who} crashes"));
    }
}

#[test]
fn a_leader_and_whoever_would_follow_it() {
    case().check("a leader, two candidates");
    Case { crashes: 1, ..case() }.check("a leader, two candidates, a crash");
}

#[test]
fn walks() {
    Case { crashes: 2, timers: vec![3; 3], ..case() }.walk("elections and crashes", budget() / 10);
}

#[test]
#[should_panic(expected = "decided")]
fn entries_that_are_not_kept_are_found_out() {
    let lost = |record: &Record| matches!(record, Record::Append { .. });
    Case { lost, crashes: 1, ..small() }.check_within("entries are lost", usize::MAX);
}
