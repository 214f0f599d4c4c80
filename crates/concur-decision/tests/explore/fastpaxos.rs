//! Fast Paxos. The first voter coordinates the first ballot, open from slot 0 on; who restarts or suspects is elected above it.

use crate::explorer::{Case, budget, seal, write};
use concur_core::{ReplicaId, ReplicaSet};
use concur_decision::fastpaxos::{FastPaxos, Message, Record};
use concur_decision::slots::Learn;

/// What only spreads what is known: losing it loses nothing.
fn gossip(message: &Message) -> bool {
    match message {
        Message::Beat { .. } | Message::Followed { .. } | Message::Echo { .. } => true,
        Message::Query { .. } | Message::Known { .. } => true,
        Message::Learn(learn) => !matches!(learn, Learn::Told { .. }),
        _ => false,
    }
}

/// And decisions, refusals, and what a coordinator says of itself, all of which are lost: fewer states, so that more faults can be
/// looked at to the end. That a later ballot is open is heard from whoever proposes in it.
fn gossip_and_notices(message: &Message) -> bool {
    gossip(message) || matches!(message, Message::Learn(_) | Message::Decided { .. } | Message::Refused { .. } | Message::Lead { .. })
}

fn case() -> Case<FastPaxos> {
    Case { irrelevant: gossip_and_notices, clocks: true, ..Case::default() }
}

#[test]
fn two_commands_collide() {
    let submits = vec![write(1, 0), write(2, 0)];
    Case { submits: submits.clone(), irrelevant: gossip, ..case() }.check("two commands");
    Case { submits, timers: vec![2, 0, 0], ..case() }.check("two commands, an impatient coordinator");
}

/// Beyond that, whatever is about later slots: a value that loses the first one is looked at no further.
fn beyond(message: &Message) -> bool {
    match message {
        Message::Propose { slot, .. } | Message::Accept { slot, .. } | Message::Finish { slot, .. } => *slot > 0,
        _ => gossip_and_notices(message),
    }
}

/// Small enough to be looked at to the end: the coordinator and another propose in one slot, and votes are cast at the fast ballot and
/// at the one that finishes it.
fn small() -> Case<FastPaxos> {
    Case { submits: vec![write(1, 0), write(0, 0)], irrelevant: beyond, ..case() }
}

/// The two proposers do not hear each other, and the one that does not coordinate is elected above the other.
fn rivals() -> Case<FastPaxos> {
    Case { cut: vec![(0, 1)], timers: vec![0, 2, 1], ..small() }
}

#[test]
fn everything_that_a_collision_and_a_crash_can_do() {
    Case { crashes: 1, ..small() }.ends("fastpaxos", "a collision, a crash");
}

#[test]
fn everything_that_two_coordinators_and_a_crash_can_do() {
    for who in (0..3).map(ReplicaId) {
        let fragile = ReplicaSet::one(who);
        Case { crashes: 1, fragile, ..rivals() }.ends("fastpaxos", &format!("two coordinators; {who} crashes"));
    }
}

#[test]
fn a_seal_beside_a_fast_round() {
    Case { submits: vec![write(1, 0), seal(0, 0)], crashes: 1, irrelevant: gossip_and_notices, ..small() }.check("a seal, a crash");
}

#[test]
fn walks() {
    let submits = vec![write(0, 0), write(1, 0), write(2, 0), write(0, 1), write(1, 1)];
    for own_messages_first in [false, true] {
        let (submits, timers) = (submits.clone(), vec![8; 3]);
        let case = Case { submits, crashes: 2, timers, own_messages_first, irrelevant: gossip, ..case() };
        case.walk("five commands", budget() / 40);
    }
    let (submits, timers) = (vec![write(4, 0), write(1, 0), seal(0, 0)], vec![4, 4, 4, 4, 4]);
    Case { voters: 5, submits, crashes: 2, timers, ..case() }.walk("five voters and a seal", budget() / 10);
}

#[test]
#[should_panic(expected = "decided")]
fn votes_that_are_not_kept_are_found_out() {
    let lost = |record: &Record| matches!(record, Record::Voted { .. });
    Case { lost, crashes: 1, ..small() }.check_within("votes are lost", usize::MAX);
}

#[test]
#[should_panic(expected = "decided")]
fn promises_that_are_not_kept_are_found_out() {
    let lost = |record: &Record| matches!(record, Record::Promised { .. } | Record::Joined { .. });
    Case { lost, crashes: 1, fragile: ReplicaSet::one(ReplicaId(2)), ..rivals() }.check_within("promises are lost", usize::MAX);
}
