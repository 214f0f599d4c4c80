//! Mencius. No tick of patience: any replica may finish another's slots at any moment, whether that one lives or not.

use crate::explorer::{Case, budget, seal, write};
use concur_core::{ReplicaId, ReplicaSet};
use concur_decision::mencius::{Mencius, Message, Record};

/// What only spreads what is known, or asks for it: losing it loses nothing.
fn gossip(message: &Message) -> bool {
    matches!(message, Message::Learn { .. } | Message::Query { .. } | Message::Known { .. } | Message::Want { .. })
}

/// And notices of decisions and refusals, all of which are lost: fewer states, so that more faults can be looked at to the end.
fn gossip_and_notices(message: &Message) -> bool {
    gossip(message) || matches!(message, Message::Commit { .. } | Message::Refused { .. })
}

fn case() -> Case<Mencius> {
    Case { irrelevant: gossip_and_notices, ..Case::default() }
}

/// Small enough to be looked at to the end: two propose and do not hear each other, and the third finishes their slots beside them.
fn small() -> Case<Mencius> {
    Case { submits: vec![write(0, 0), write(1, 0)], timers: vec![0, 0, 2], cut: vec![(0, 1)], ..case() }
}

#[test]
fn everything_that_an_owner_a_revoker_and_a_crash_can_do() {
    let fragile = ReplicaSet::one(ReplicaId(0));
    Case { crashes: 1, fragile, ..small() }.ends("mencius", "two owners, of whom one crashes, and a revoker");
}

#[test]
fn two_commands() {
    let submits = vec![write(0, 0), write(1, 0)];
    Case { submits: submits.clone(), irrelevant: gossip, ..case() }.check("two commands");
    Case { submits: submits.clone(), crashes: 1, ..case() }.check("two commands, a crash");
    Case { submits, timers: vec![0, 0, 2], ..case() }.check("two commands, a revoker");
}

#[test]
fn a_seal_and_two_who_suspect() {
    let submits = vec![seal(0, 0), write(1, 0)];
    Case { submits, crashes: 1, timers: vec![0, 1, 1], ..case() }.check("a seal, two revokers, a crash");
}

#[test]
fn walks() {
    let submits = vec![write(0, 0), write(1, 0), write(2, 0), write(0, 1), write(1, 1)];
    for own_messages_first in [false, true] {
        let (submits, timers) = (submits.clone(), vec![4; 3]);
        let case = Case { submits, crashes: 2, timers, own_messages_first, irrelevant: gossip, ..case() };
        case.walk("five commands", budget() / 40);
    }
}

#[test]
#[should_panic(expected = "decided")]
fn votes_that_are_not_kept_are_found_out() {
    let lost = |record: &Record| matches!(record, Record::Accepted { .. } | Record::Voted { .. });
    Case { lost, crashes: 1, ..small() }.check_within("votes are lost", usize::MAX);
}
