//! Multi-Paxos's scenarios, each named for what it proves, and random schedules.

#[path = "../common/mod.rs"]
mod common;
mod elections;
mod random;
mod records;
mod world;

use common::Cast;
use concur_core::*;
use concur_decision::multipaxos::{Message, MultiPaxos, Report, Timer};
use concur_decision::slots::Learn;
use world::{Setup, World, ballot, batch, counts, mark, r, records};

/// Voters with a leader, which has nothing to bring up.
fn led(setup: Setup) -> (World, usize) {
    let mut world = World::new(setup);
    world.run(3_000);
    let leader = world.leader().expect("a leader");
    (world, leader)
}

/// What is on its way to others, taken off.
fn sent(world: &mut World) -> Vec<Message> {
    world.wires.drain(..).filter(|(from, to, _)| from != to).map(|(.., message)| message).collect()
}

fn hears(world: &mut World, i: usize, from: usize, message: Message) {
    world.input(i, Input::Receive { from: r(from), message });
}

fn accept(by: Ballot, first: u64, numbers: &[u64], decided: u64) -> Message {
    Message::Accept { ballot: by, first, values: numbers.iter().map(|&number| batch(0, number)).collect(), decided }
}

#[test]
fn the_highest_vote_counts_and_not_the_highest_promise() {
    let votes = [records(ballot(9, 0), &[(0, ballot(2, 1), 7)]), records(ballot(3, 2), &[(0, ballot(3, 2), 8)]), vec![]];
    let mut world = World::from_records(Setup::of(3), votes.to_vec());
    world.campaign(2);
    world.settle();
    assert_eq!((world.leader(), world.numbers()), (Some(2), vec![8]));
    assert!(world.ballot(2) > 10 * 64, "above every promise");
}

#[test]
fn every_value_is_proposed_again_and_holes_become_noops_before_anything_new() {
    let old = ballot(2, 0);
    let votes = [vec![], records(old, &[(1, old, 11), (4, old, 14)]), records(old, &[(2, old, 12)])];
    let mut world = World::from_records(Setup::of(3), votes.to_vec());
    world.crash(0, 0);
    world.campaign(1);
    world.settle_until(|message| matches!(message, Message::Accept { .. }));
    world.submit(1, 99);
    world.settle();
    assert_eq!(world.numbers(), [0, 11, 12, 0, 14, 99]);
    assert_eq!(world.noted("value proposed again"), 3);
}

#[test]
fn whoever_has_missed_everything_can_lead() {
    let (mut world, leader) = led(Setup::of(3));
    let (behind, other) = ((leader + 1) % 3, (leader + 2) % 3);
    world.isolate(&[behind]);
    for number in 1..6 {
        world.submit(leader, number);
        world.settle();
    }
    // The one that has everything reaches nobody any more but the one that has nothing.
    world.cut.clear();
    world.isolate(&[leader]);
    world.cut.extend([(r(leader), r(other)), (r(other), r(leader))]);
    world.campaign(behind);
    world.run(100);
    assert_eq!(world.leader(), Some(behind));
    assert_eq!(world.nodes[behind].executed, 5);
    assert!(world.noted("decision learned in phase 1") + world.noted("value proposed again") >= 5);
}

#[test]
fn decided_below_says_nothing_where_the_own_vote_is_of_another_ballot() {
    let (old, new) = (ballot(2, 0), ballot(3, 2));
    let mut world = World::from_records(Setup::of(3), vec![records(old, &[(0, old, 7), (1, old, 8)]); 3]);
    hears(&mut world, 1, 2, accept(new, 1, &[9], 2));
    assert_eq!(world.chosen.len(), 1, "slot 0 may have been decided as something else");
    assert_eq!(world.chosen[&1], batch(0, 9));
    hears(&mut world, 1, 2, Message::Decided { ballot: new, decided: 2 });
    hears(&mut world, 1, 2, Message::Heartbeat { ballot: new, round: 0, decided: 2, opened: 1 });
    assert_eq!(world.chosen.len(), 1);
    assert!(sent(&mut world).contains(&Message::Learn(Learn::Ask { from: 0 })));
    // What was announced before the vote came counts when it comes.
    hears(&mut world, 1, 2, Message::Decided { ballot: new, decided: 4 });
    hears(&mut world, 1, 2, accept(new, 3, &[11], 0));
    hears(&mut world, 1, 2, accept(new, 2, &[10], 0));
    assert_eq!(world.chosen.keys().copied().collect::<Vec<_>>(), [1, 2, 3]);
}

#[test]
fn votes_come_in_any_order_and_none_goes_back() {
    let (old, new) = (ballot(1, 0), ballot(2, 2));
    let mut world = World::from_records(Setup::of(3), vec![records(old, &[]); 3]);
    hears(&mut world, 1, 0, accept(old, 5, &[15, 16], 0));
    hears(&mut world, 1, 0, accept(old, 2, &[12], 0));
    hears(&mut world, 1, 2, accept(new, 2, &[22], 0));
    hears(&mut world, 1, 0, accept(old, 2, &[12], 0));
    hears(&mut world, 1, 0, accept(old, 9, &[19], 0));
    let answers = sent(&mut world);
    let voted = |by, first, count| Message::Accepted { ballot: by, first, count };
    let newer = || Message::Newer { ballot: new };
    assert_eq!(answers, [voted(old, 5, 2), voted(old, 2, 1), voted(new, 2, 1), newer(), newer()]);
    hears(&mut world, 1, 0, Message::Prepare { ballot: ballot(3, 0), from: 0, transfer: true });
    let report = |slot, by, number| Report { slot, ballot: Some(by), value: batch(0, number) };
    let reports = vec![report(2, new, 22), report(5, old, 15), report(6, old, 16)];
    assert_eq!(sent(&mut world), [Message::Promise { ballot: ballot(3, 0), from: 0, reports, next: None, base: 0 }]);
}

#[test]
fn a_promise_that_does_not_fit_comes_in_parts() {
    let old = ballot(1, 0);
    let votes: Vec<(u64, Ballot, u64)> = (0..5).map(|slot| (slot, old, slot + 10)).collect();
    let setup = Setup { message_bytes_max: 1, ..Setup::of(3) };
    let mut world = World::from_records(setup, vec![vec![], records(old, &votes), vec![]]);
    world.crash(0, 0);
    world.campaign(2);
    world.settle();
    assert_eq!((world.leader(), world.numbers()), (Some(2), vec![10, 11, 12, 13, 14]));
    assert_eq!(world.noted("promise in parts"), 4);
    // A part that comes twice, or is lost, changes nothing.
    world.campaign(1);
    world.run(3_000);
    assert_eq!(world.numbers().len(), 5);
}

#[test]
fn an_acceptor_that_has_forgotten_answers_and_the_candidate_fetches_before_it_leads() {
    let (mut world, leader) = led(Setup { retained_bytes_max: 0, ..Setup::of(3) });
    let (behind, other) = ((leader + 1) % 3, (leader + 2) % 3);
    world.isolate(&[behind]);
    for number in 1..6 {
        world.submit(leader, number);
        world.settle();
    }
    world.run(300);
    world.compact(leader);
    world.compact(other);
    world.crash(leader, 0);
    world.cut.clear();
    world.wires.clear();
    world.campaign(behind);
    world.settle();
    assert_eq!(world.leader(), None);
    assert_eq!(world.nodes[behind].fetches.first(), Some(&(r(other), 5)));
    world.install(behind);
    world.settle();
    assert_eq!(world.leader(), Some(behind));
    world.submit(behind, 6);
    world.settle();
    assert_eq!(world.numbers(), [1, 2, 3, 4, 5, 6]);
}

#[test]
fn what_is_forgotten_between_two_parts_of_a_promise_is_fetched_as_well() {
    let old = ballot(1, 0);
    let setup = Setup { message_bytes_max: 1, ..Setup::of(3) };
    let mut world = World::from_records(setup, vec![vec![], vec![], records(old, &[])]);
    world.crash(0, 0);
    world.campaign(2);
    world.settle_until(|message| matches!(message, Message::Prepare { .. }));
    world.wires.clear();
    let by = ballot(2, 2);
    let report = |slot| vec![Report { slot, ballot: Some(old), value: batch(0, slot) }];
    hears(&mut world, 2, 1, Message::Promise { ballot: by, from: 0, reports: report(0), next: Some(1), base: 0 });
    assert_eq!(sent(&mut world), [Message::Prepare { ballot: by, from: 1, transfer: false }]);
    hears(&mut world, 2, 1, Message::Promise { ballot: by, from: 1, reports: report(7), next: None, base: 6 });
    hears(&mut world, 2, 2, Message::Promise { ballot: by, from: 0, reports: vec![], next: None, base: 0 });
    assert_eq!((world.role(2), &world.nodes[2].fetches[..]), ("candidate", &[(r(1), 6)][..]));
    world.input(2, Input::Installed(mark(6)));
    assert_eq!(world.role(2), "leader");
    let values: Vec<Message> = sent(&mut world).into_iter().filter(|message| matches!(message, Message::Accept { .. })).collect();
    let noop = Message::Accept { ballot: by, first: 6, values: vec![Value::Noop], decided: 6 };
    assert_eq!(values, [noop.clone(), noop, accept(by, 7, &[7], 6), accept(by, 7, &[7], 6)]);
}

#[test]
fn nothing_is_promised_or_voted_before_it_is_durable() {
    let mut world = World::from_records(Setup::of(3), vec![records(ballot(1, 0), &[]); 3]);
    world.nodes[1].quick_disk = false;
    hears(&mut world, 1, 0, Message::Prepare { ballot: ballot(2, 0), from: 0, transfer: false });
    assert_eq!(world.wires.len(), 0, "the promise waits");
    world.sync(1);
    assert_eq!(world.wires.drain(..).count(), 1);
    hears(&mut world, 1, 0, accept(ballot(2, 0), 0, &[1], 0));
    assert_eq!(world.wires.len(), 0, "the vote waits");
    world.sync(1);
    assert_eq!(world.wires.drain(..).count(), 1);
    world.campaign(1);
    let granted = Message::PrePrepared { attempt: 1, granted: true, round: 2, base: 0, decided: 0 };
    hears(&mut world, 1, 0, granted);
    assert!(world.wires.iter().all(|(.., message)| matches!(message, Message::PrePrepare { .. })), "the candidacy waits");
    world.sync(1);
    assert!(world.wires.iter().any(|(.., message)| matches!(message, Message::Prepare { .. })));
}

#[test]
fn a_leaders_accept_does_not_wait_for_its_own_disk() {
    let (mut world, leader) = led(Setup::of(3));
    world.nodes[leader].quick_disk = false;
    world.submit(leader, 1);
    assert_eq!(world.wires.len(), 2, "to both others, and not to itself");
    assert!(world.wires.iter().all(|(.., message)| matches!(message, Message::Accept { .. })));
}

#[test]
fn what_is_not_answered_is_sent_again_carefully() {
    let (mut world, leader) = led(Setup { message_bytes_max: 1, ..Setup::of(3) });
    world.isolate(&[leader]);
    for number in 1..5 {
        world.submit(leader, number);
    }
    assert_eq!(world.wires.len(), 8 + 4, "four messages to each of the others, ahead of the answers; its own votes");
    world.settle();
    world.cut.clear();
    let until = world.now + MultiPaxos::ELECTION / 2;
    while world.fire(until) && !world.wires.iter().any(|(.., message)| matches!(message, Message::Accept { .. })) {
        world.settle();
    }
    let accepts = world.wires.iter().filter(|(.., message)| matches!(message, Message::Accept { .. }));
    assert_eq!(accepts.count(), 2, "one to each");
    world.settle();
    assert_eq!(world.numbers(), [1, 2, 3, 4]);
}

#[test]
fn an_accept_that_was_lost_and_is_decided_is_asked_for() {
    let (mut world, leader) = led(Setup::of(3));
    let behind = (leader + 1) % 3;
    world.cut.insert((r(leader), r(behind)));
    world.submit(leader, 1);
    world.settle();
    world.cut.clear();
    world.submit(leader, 2);
    world.settle();
    assert_eq!(world.nodes[behind].executed, 0);
    world.run(250);
    assert_eq!(world.nodes[behind].executed, 2);
    assert_eq!(world.noted("learned by asking"), 1);
    // Execution that waits asks at once.
    world.cut.insert((r(leader), r(behind)));
    world.submit(leader, 3);
    world.settle();
    world.cut.clear();
    world.input(behind, Input::Wanted(Instance::slot(2)));
    world.settle();
    assert_eq!(world.nodes[behind].executed, 3);
}

#[test]
fn a_decision_is_told_at_once_to_everyone_if_nothing_else_is_pending() {
    let (mut world, leader) = led(Setup::of(3));
    let (origin, third) = ((leader + 1) % 3, (leader + 2) % 3);
    world.input(leader, Input::Submit(batch(origin, 1)));
    world.settle();
    assert_eq!((world.nodes[origin].executed, world.nodes[third].executed), (1, 1));
}

#[test]
fn a_batch_that_is_under_way_is_not_proposed_again_and_the_window_is_bounded() {
    let (mut world, leader) = led(Setup { window_max: 1, ..Setup::of(3) });
    world.isolate(&[leader]);
    for number in 0..65 {
        world.submit(leader, number);
        world.submit(leader, number);
    }
    assert_eq!(world.nodes[leader].refused.len(), 2);
    assert!(world.nodes[leader].refused.iter().all(|&(_, reason)| reason == Refusal::Busy));
    // Another leads and has found none of it: everything goes back, though nothing is proposed in its place.
    world.run(4_000);
    world.cut.clear();
    world.run(1_000);
    assert!(world.leader().is_some_and(|next| next != leader));
    let lost = world.nodes[leader].refused.iter().filter(|&&(_, reason)| reason == Refusal::Lost);
    assert_eq!(lost.count(), 64);
}

#[test]
fn what_another_value_took_the_slot_of_goes_back() {
    let (mut world, leader) = led(Setup::of(3));
    world.isolate(&[leader]);
    world.submit(leader, 1);
    world.run(4_000);
    let next = world.leader().expect("another leads");
    world.submit(next, 2);
    world.settle();
    assert_eq!(world.nodes[leader].refused, []);
    world.cut.clear();
    world.run(1_000);
    assert_eq!(world.nodes[leader].refused, [(batch(leader, 1).id().expect("named"), Refusal::Lost)]);
    assert_eq!(world.numbers(), [2]);
}

#[test]
fn a_leader_over_which_state_is_installed_says_nothing_more() {
    let (mut world, leader) = led(Setup::of(3));
    world.isolate(&[leader]);
    world.submit(leader, 1);
    world.settle();
    world.input(leader, Input::Installed(mark(1)));
    assert_eq!(world.role(leader), "follower");
    assert_eq!(world.nodes[leader].refused, [(batch(leader, 1).id().expect("named"), Refusal::Lost)]);
    // Nor does it learn what another leader decided in its stead.
    let (mut world, leader) = led(Setup::of(3));
    world.isolate(&[leader]);
    world.submit(leader, 1);
    let told = Learn::Told { first: 0, values: vec![batch(1, 9)], decided: 1 };
    hears(&mut world, leader, (leader + 1) % 3, Message::Learn(told));
    assert_eq!((world.role(leader), world.decided()), ("leader", 0));
}

#[test]
fn an_acceptor_that_knows_the_decision_answers_as_if_it_had_voted() {
    let (mut world, leader) = led(Setup { retained_bytes_max: 0, ..Setup::of(3) });
    world.submit(leader, 1);
    world.settle();
    world.run(200);
    let other = (leader + 1) % 3;
    world.compact(other);
    let by = ballot(world.ballot(leader) / 64, leader);
    hears(&mut world, other, leader, Message::Accept { ballot: by, first: 0, values: vec![batch(leader, 1)], decided: 0 });
    assert_eq!(sent(&mut world), [Message::Accepted { ballot: by, first: 0, count: 1 }]);
}

#[test]
fn a_read_index_waits_for_what_phase_1_brought_up() {
    let old = ballot(1, 0);
    let mut world = World::from_records(Setup::of(3), vec![records(old, &[(0, old, 1), (1, old, 2)]); 3]);
    world.campaign(1);
    world.settle_until(|message| matches!(message, Message::Accept { .. }));
    let id = world.read(1, 1);
    let accepts = std::mem::take(&mut world.wires);
    world.run(100);
    assert_eq!((world.leader(), world.nodes[1].reads.len()), (Some(1), 0));
    world.wires = accepts;
    world.settle();
    assert_eq!(world.nodes[1].reads, [(id, 2)]);
}

#[test]
fn a_read_needs_answers_that_come_after_it() {
    let (mut world, leader) = led(Setup::of(3));
    world.run(50);
    world.fire(world.now + world::HEARTBEAT * 2);
    let heartbeats = std::mem::take(&mut world.wires);
    let id = world.read(leader, 1);
    world.wires.clear();
    world.wires.extend(heartbeats);
    world.settle();
    assert_eq!(world.nodes[leader].reads, [], "answers to an older heartbeat do not count");
    world.run(200);
    assert_eq!(world.nodes[leader].reads, [(id, world.decided())]);
}

#[test]
fn a_read_counts_a_quorum_that_votes_and_not_one_that_promises() {
    // Two of four promise, three vote: another two may have promised somebody else.
    let mut world = World::new(Setup { quorums: counts(4, 2, 3), ..Setup::of(4) });
    world.run(3_000);
    let leader = world.leader().expect("a leader");
    world.isolate(&[leader, (leader + 1) % 4]);
    let id = world.read(leader, 1);
    world.settle();
    assert_eq!(world.nodes[leader].reads, []);
    world.cut.clear();
    world.run(100);
    assert_eq!(world.nodes[leader].reads, [(id, 0)]);
}

#[test]
fn a_follower_asks_the_leader_for_a_frontier_and_learns_what_is_decided() {
    let (mut world, leader) = led(Setup::of(3));
    let other = (leader + 1) % 3;
    world.submit(leader, 1);
    world.settle();
    let id = world.read(other, 1);
    world.settle();
    assert_eq!((world.nodes[other].reads.clone(), world.nodes[other].executed), (vec![(id, 1)], 1));
    // An old leader cannot confirm, and the follower gives up when it is gone.
    world.isolate(&[leader]);
    let lost = world.read(other, 2);
    let stale = world.read(leader, 1);
    world.run(4_000);
    assert_eq!(world.nodes[other].refused_reads, [(lost, Refusal::Lost)]);
    assert_eq!(world.nodes[leader].refused_reads, [(stale, Refusal::Lost)]);
}

#[test]
fn one_voter_is_a_group() {
    let (mut world, leader) = led(Setup::of(1));
    world.nodes[0].quick_disk = false;
    world.submit(leader, 1);
    world.settle();
    assert_eq!(world.decided(), 0, "nothing is decided before it is durable, on one node too");
    world.sync(0);
    world.settle();
    assert_eq!(world.decided(), 1);
    let id = world.read(0, 1);
    assert_eq!(world.nodes[0].reads, [(id, 1)]);
    world.input(0, Input::Leave);
    assert_eq!(world.leader(), Some(0));
}

#[test]
fn whoever_does_not_vote_is_not_heard_and_takes_no_part() {
    let (mut world, leader) = led(Setup::of(3));
    let (before, stranger) = (world.ballot(leader), 9);
    for message in [
        Message::Newer { ballot: ballot(99, 9) },
        Message::Prepare { ballot: ballot(99, 9), from: 0, transfer: true },
        accept(ballot(99, 9), 0, &[1], 0),
    ] {
        hears(&mut world, leader, stranger, message);
    }
    assert_eq!((world.leader(), world.ballot(leader), world.wires.len()), (Some(leader), before, 0));
    let mut world = World::new(Setup { observers: 1, ..Setup::of(3) });
    assert!(world.nodes[3].timers.is_empty());
    world.submit(3, 1);
    let id = world.read(3, 1);
    hears(&mut world, 3, 0, Message::Prepare { ballot: ballot(1, 0), from: 0, transfer: false });
    assert_eq!(world.nodes[3].refused, [(batch(3, 1).id().expect("named"), Refusal::Redirect(None))]);
    assert_eq!(world.nodes[3].refused_reads, [(id, Refusal::Redirect(None))]);
    assert_eq!((world.wires.len(), world.ballot(3)), (0, 0));
}

#[test]
fn messages_that_make_no_sense_are_dropped() {
    let (mut world, leader) = led(Setup::of(3));
    let other = (leader + 1) % 3;
    let (by, seen) = (ballot(world.ballot(leader) / 64, leader), world.ballot(other));
    let strange = [
        accept(by, u64::MAX, &[1], 0),
        accept(by, u64::MAX - 1, &[1], u64::MAX),
        accept(by, 1 << 60, &[1], 0),
        accept(by, 0, &[], 0),
        accept(ballot(99, other), 0, &[1], 0),
        accept(ballot(u64::MAX, leader), 0, &[1], 0),
        Message::Prepare { ballot: ballot(0, leader), from: 0, transfer: true },
        Message::Prepare { ballot: ballot(u64::MAX, leader), from: u64::MAX, transfer: true },
        Message::Newer { ballot: ballot(u64::MAX, leader) },
        Message::PrePrepared { attempt: 1, granted: false, round: u64::MAX, base: 0, decided: u64::MAX },
        Message::Heartbeat { ballot: ballot(99, other), round: 0, decided: 0, opened: 0 },
        Message::HandOver { ballot: ballot(99, leader) },
        Message::Learn(Learn::Ask { from: u64::MAX }),
    ];
    for message in strange {
        hears(&mut world, other, leader, message);
    }
    assert_eq!((world.ballot(other), world.decided()), (seen, 0));
    let promise = |reports, next| Message::Promise { ballot: by, from: 3, reports, next, base: 0 };
    let report = |slot, at| Report { slot, ballot: at, value: Value::Noop };
    for message in [
        promise(vec![report(2, None)], None),
        promise(vec![report(u64::MAX, None)], None),
        promise(vec![report(1 << 60, None)], None),
        promise(vec![report(4, None), report(4, None)], None),
        promise(vec![report(4, Some(by))], None),
        promise(vec![], Some(3)),
        Message::Accepted { ballot: by, first: u64::MAX, count: 2 },
        Message::Accepted { ballot: by, first: 0, count: u64::MAX },
        Message::Heard { ballot: by, round: u64::MAX, decided: u64::MAX },
    ] {
        hears(&mut world, leader, other, message);
    }
    assert_eq!((world.leader(), world.decided()), (Some(leader), 0));
    let heartbeat = Message::Heartbeat { ballot: by, round: 0, decided: u64::MAX, opened: u64::MAX };
    hears(&mut world, other, leader, heartbeat);
    world.run(1_000);
    world.submit(leader, 1);
    world.run(1_000);
    assert_eq!(world.decided(), 1);
    world.input(other, Input::Expired(Timer::Forward));
    for first in [u64::MAX - 1, u64::MAX] {
        let told = Learn::Told { first, values: vec![Value::Noop; 2], decided: u64::MAX };
        hears(&mut world, other, leader, Message::Learn(told));
    }
}
