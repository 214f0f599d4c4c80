//! Classic Paxos. No tick of patience: any replica may take up any slot that it has heard of, at any moment.

use crate::explorer::{Case, budget, seal, write};
use concur_decision::paxos::{Message, Paxos, Record};

/// What only spreads what is known: losing it loses nothing.
fn gossip(message: &Message) -> bool {
    matches!(message, Message::Learn(_) | Message::Lacking { .. } | Message::Query { .. } | Message::Bound { .. })
}

/// And decisions, unless they answer a question, and refusals, all of which are lost: fewer states, so that more faults can be looked
/// at to the end.
fn gossip_and_notices(message: &Message) -> bool {
    gossip(message) || matches!(message, Message::Refused { .. }) || matches!(message, Message::Decided { values, .. } if values.is_empty())
}

fn case() -> Case<Paxos> {
    Case { irrelevant: gossip_and_notices, ..Case::default() }
}

#[test]
fn two_commands() {
    let submits = vec![write(0, 0), write(1, 0)];
    Case { submits: submits.clone(), irrelevant: gossip, ..case() }.check("two commands");
    Case { submits, timers: vec![0, 0, 1], ..case() }.check("two commands, a suspicion");
}

#[test]
fn two_commands_a_crash_and_a_suspicion() {
    let submits = vec![write(0, 0), write(0, 1)];
    Case { submits: vec![write(0, 0), write(1, 0)], crashes: 1, ..case() }.check("two commands, a crash");
    Case { submits: submits.clone(), crashes: 1, timers: vec![1, 0, 0], ..case() }.check("two of one replica, it crashes and goes on");
    Case { submits, crashes: 1, timers: vec![0, 0, 1], ..case() }.check("two of one replica, a crash, a suspicion");
}

#[test]
fn one_command_and_every_fault() {
    Case { submits: vec![write(0, 0)], timers: vec![1, 1, 1], ..case() }.check("one command, all suspect");
    Case { submits: vec![write(0, 0)], crashes: 1, timers: vec![0, 1, 1], ..case() }.check("one command, two suspect, a crash");
    Case { submits: vec![write(0, 0)], crashes: 1, timers: vec![1, 1, 0], ..case() }.check("one command, a crash, its own suspicion");
}

/// Small enough to be looked at to the end: two of three propose, contend for one slot at different ballots, and reach only the
/// third; one of them crashes at any moment, and goes on.
fn small() -> Case<Paxos> {
    Case { submits: vec![write(0, 0), write(1, 0)], crashes: 1, cut: vec![(0, 1)], ..case() }
}

#[test]
fn everything_that_two_ballots_and_a_crash_can_do() {
    small().ends("paxos", "two ballots, a crash");
    let (rivals, submits) = (vec![write(0, 0)], vec![write(1, 0)]);
    Case { rivals, submits, timers: vec![1, 0, 0], ..small() }.check("two ballots and a third, a crash");
    Case { timers: vec![0, 1, 0], ..small() }.check("two ballots and another, a crash");
}

#[test]
fn a_rival_and_a_seal() {
    let rivals = vec![write(0, 0)];
    Case { rivals, submits: vec![seal(1, 0)], crashes: 1, timers: vec![1, 0, 0], ..case() }.check("a rival and a seal, a crash");
}

#[test]
fn walks() {
    let submits = vec![write(0, 0), write(1, 0), write(2, 0), write(0, 1), write(1, 1)];
    for own_messages_first in [false, true] {
        let (submits, timers) = (submits.clone(), vec![4; 3]);
        let case = Case { submits, crashes: 2, timers, own_messages_first, irrelevant: gossip, ..case() };
        case.walk("five commands", budget() / 40);
    }
    let (submits, timers) = (vec![write(4, 0), write(1, 0)], vec![2, 0, 2, 0, 1]);
    Case { voters: 5, submits, crashes: 2, timers, ..case() }.walk("five voters", budget() / 10);
}

#[test]
#[should_panic(expected = "decided")]
fn votes_that_are_not_kept_are_found_out() {
    let lost = |record: &Record| matches!(record, Record::Voted { .. } | Record::Passed { .. } | Record::Chosen { .. });
    Case { lost, ..small() }.check_within("votes are lost", usize::MAX);
}

#[test]
#[should_panic(expected = "decided")]
fn promises_that_are_not_kept_are_found_out() {
    let lost = |record: &Record| matches!(record, Record::Joined { .. });
    Case { lost, ..small() }.check_within("promises are lost", usize::MAX);
}
