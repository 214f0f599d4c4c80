//! EPaxos. No tick of patience (the explorer's election timeout is shorter than a heartbeat): any suspicion may be wrong.

use crate::explorer::{Case, budget, seal, write};
use concur_core::{ReplicaId, Value};
use concur_decision::epaxos::{EPaxos, Message, Record};

/// What only spreads decisions one by one: losing it loses nothing.
fn gossip(message: &Message) -> bool {
    matches!(message, Message::Summary { .. } | Message::Pledged { .. } | Message::Ask { .. } | Message::Answer { .. })
}

/// And commits, all of which are lost: fewer states, so that more faults can be looked at to the end.
fn gossip_and_commits(message: &Message) -> bool {
    gossip(message) || matches!(message, Message::Commit { .. } | Message::Refused { .. })
}

fn check(name: &str, submits: Vec<(ReplicaId, Value)>, crashes: u8, timers: [u8; 3], irrelevant: fn(&Message) -> bool) {
    Case::<EPaxos> { submits, crashes, timers: timers.to_vec(), irrelevant, ..Case::default() }.check(name);
}

/// A rival at the first replica, so that the last one's command goes the slow way if the first one has a say in it.
fn check_against_rival(name: &str, crashes: u8, timers: [u8; 3]) {
    let (rivals, submits, timers) = (vec![write(0, 0)], vec![write(2, 0)], timers.to_vec());
    Case::<EPaxos> { rivals, submits, crashes, timers, irrelevant: gossip_and_commits, ..Case::default() }.check(name);
}

#[test]
fn two_commands() {
    check("two commands", vec![write(0, 0), write(1, 0)], 0, [0, 0, 0], gossip);
    check("two commands, a suspicion", vec![write(0, 0), write(1, 0)], 0, [0, 0, 1], gossip_and_commits);
}

#[test]
fn one_command_and_every_fault() {
    check("one command, all suspect", vec![write(0, 0)], 0, [1, 1, 1], gossip_and_commits);
    check("one command, two suspect, a crash", vec![write(0, 0)], 1, [0, 1, 1], gossip_and_commits);
}

#[test]
fn a_slow_path_and_two_suspicions() {
    check_against_rival("a rival, two suspect", 0, [1, 1, 0]);
    check_against_rival("a rival, one suspects, a crash", 1, [0, 1, 0]);
    check_against_rival("a rival, the coordinator crashes and goes on", 1, [0, 0, 2]);
}

#[test]
fn two_commands_a_crash_and_a_suspicion() {
    check("two commands, a crash, a suspicion", vec![write(0, 0), write(1, 0)], 1, [0, 0, 1], gossip_and_commits);
    check("two commands, a crash, its own suspicion", vec![write(0, 0), write(1, 0)], 1, [1, 0, 0], gossip_and_commits);
}

/// Small enough to be looked at to the end: a command, a rival that interferes and that one replica alone knows, somebody who recovers
/// the command whether its coordinator lives or not, and a crash of anybody at any moment, who goes on.
fn small() -> Case<EPaxos> {
    let (rivals, submits, timers) = (vec![write(1, 0)], vec![write(0, 0)], vec![0, 0, 1]);
    Case { rivals, submits, timers, crashes: 1, irrelevant: gossip_and_commits, ..Case::default() }
}

#[test]
fn everything_that_a_rival_a_recovery_and_a_crash_can_do() {
    small().ends("epaxos", "a rival, a recovery, a crash");
    let two = Case { timers: vec![1, 0, 1], cut: vec![(0, 1)], ..small() };
    two.ends("epaxos", "a rival, its own recovery and another's, a crash");
}

#[test]
#[should_panic(expected = "decided")]
fn votes_that_are_not_kept_are_found_out() {
    let lost = |record: &Record| matches!(record, Record::Committed { .. } | Record::PreAccepted { .. } | Record::Accepted { .. });
    Case { lost, ..small() }.check_within("votes are lost", usize::MAX);
}

#[test]
fn three_commands() {
    check("three commands", vec![write(0, 0), write(1, 0), write(2, 0)], 0, [0, 0, 0], gossip_and_commits);
}

#[test]
fn a_seal_and_a_command() {
    check("a seal and a command", vec![seal(0, 0), write(1, 0)], 0, [0, 0, 0], gossip_and_commits);
    check("a seal and a command, a suspicion", vec![seal(0, 0), write(1, 0)], 0, [0, 0, 1], gossip_and_commits);
}

#[test]
fn walks() {
    let submits = vec![write(0, 0), write(1, 0), write(2, 0), write(0, 1), write(1, 1)];
    for own_messages_first in [false, true] {
        let (submits, timers) = (submits.clone(), vec![4; 3]);
        let case = Case::<EPaxos> { submits, crashes: 2, timers, own_messages_first, irrelevant: gossip, ..Case::default() };
        case.walk("five commands", budget() / 40);
    }
    // Five, where a fast quorum is more than a slow one.
    let (submits, timers) = (vec![write(4, 0), write(1, 0)], vec![2, 0, 1, 0, 0]);
    let case = Case::<EPaxos> { voters: 5, submits, crashes: 1, timers, irrelevant: gossip_and_commits, ..Case::default() };
    case.walk("five voters", budget() / 4);
    // Two that interfere, each noted by some, their coordinators perhaps gone: what may have been decided fast is validated.
    let (submits, timers) = (vec![write(0, 0), write(1, 0)], vec![0, 0, 2, 2, 2]);
    let case = Case::<EPaxos> { voters: 5, submits, crashes: 2, timers, irrelevant: gossip_and_commits, ..Case::default() };
    case.walk("five voters, two commands to validate", budget() / 4);
    // A no-op voted for by one, the command by another, and a second command between them.
    let (rivals, submits, timers) = (vec![write(0, 0)], vec![write(2, 0), write(1, 0)], vec![1, 1, 0]);
    let case = Case::<EPaxos> { rivals, submits, timers, irrelevant: gossip_and_commits, ..Case::default() };
    case.walk("a rival and two commands", budget() / 4);
}
