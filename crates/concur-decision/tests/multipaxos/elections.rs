//! Who leads, and who does not.

use crate::common::Cast;
use crate::world::{Setup, World, ballot, batch, r, records};
use crate::{hears, led};
use concur_core::*;
use concur_decision::multipaxos::{Message, MultiPaxos};

#[test]
fn an_isolated_replica_does_not_disturb_when_it_comes_back() {
    let (mut world, leader) = led(Setup::of(3));
    let (seen, other) = (world.ballot(leader), (leader + 1) % 3);
    world.isolate(&[other]);
    world.run(20_000);
    assert_eq!(world.ballot(other), seen);
    world.cut.clear();
    world.run(5_000);
    assert_eq!((world.leader(), world.ballot(leader)), (Some(leader), seen));
}

#[test]
fn whoever_cannot_hear_the_leader_is_refused_by_those_who_can_and_learns_from_them() {
    let (mut world, leader) = led(Setup::of(3));
    let (seen, other) = (world.ballot(leader), (leader + 1) % 3);
    world.cut.extend([(r(leader), r(other)), (r(other), r(leader))]);
    world.submit(leader, 1);
    world.run(20_000);
    assert_eq!((world.leader(), world.ballot(leader)), (Some(leader), seen));
    assert!(world.noted("pre-prepare refused") > 0);
    assert_eq!(world.nodes[other].executed, 1, "what is decided goes around the link that is down");
    // The connection's end is a hint, which those who hear the leader do not share.
    world.input(other, Input::Peer(r(leader), Health::Down));
    world.run(5_000);
    assert_eq!(world.leader(), Some(leader));
}

#[test]
fn a_partition_that_leaves_a_quorum_to_one_replica_only_makes_that_one_lead() {
    // Everybody reaches replica 1 and nobody else (the quorum-loss partition).
    let (mut world, mut leader) = led(Setup::of(5));
    while leader == 1 {
        world.campaign(0);
        world.run(3_000);
        leader = world.leader().expect("a leader");
    }
    for (a, b) in (0..5).flat_map(|a| (0..5).map(move |b| (a, b))).filter(|&(a, b)| a != b && a != 1 && b != 1) {
        world.cut.insert((r(a), r(b)));
    }
    world.run(10_000);
    assert_eq!(world.leader(), Some(1));
    let seen = world.ballot(1);
    world.submit(1, 1);
    world.run(10_000);
    assert_eq!((world.leader(), world.ballot(1), world.numbers()), (Some(1), seen, vec![1]));
}

#[test]
fn a_consent_is_taken_back_when_a_leader_is_heard() {
    let (mut world, leader) = led(Setup::of(5));
    let others: Vec<usize> = (0..5).filter(|&i| i != leader).collect();
    let (seen, candidate) = (world.ballot(others[0]), others[0]);
    let answer = |granted| Message::PrePrepared { attempt: 1, granted, round: 0, base: 0, decided: 0 };
    world.isolate(&[candidate]);
    world.campaign(candidate);
    world.settle();
    hears(&mut world, candidate, others[1], answer(true));
    hears(&mut world, candidate, others[1], answer(false));
    hears(&mut world, candidate, others[2], answer(true));
    assert_eq!(world.ballot(candidate), seen, "two of five hear no leader");
    hears(&mut world, candidate, others[3], answer(true));
    assert!(world.ballot(candidate) > seen);
}

#[test]
fn a_leader_without_a_quorum_steps_down() {
    let (mut world, leader) = led(Setup::of(5));
    world.isolate(&[leader, (leader + 1) % 5]);
    world.run(1_200);
    assert_ne!(world.role(leader), "leader");
    assert_eq!(world.noted("stepped down without a quorum"), 1);
    world.run(4_000);
    assert!(world.leader().is_some_and(|next| next != leader));
}

#[test]
fn a_leader_that_is_heard_and_hears_nothing_steps_down() {
    let (mut world, leader) = led(Setup::of(3));
    for other in (0..3).filter(|&other| other != leader) {
        world.cut.insert((r(other), r(leader)));
    }
    world.run(1_200);
    assert_ne!(world.role(leader), "leader");
    world.run(6_000);
    assert!(world.leader().is_some_and(|next| next != leader));
}

#[test]
fn a_leader_whose_disk_stalls_steps_down() {
    let (mut world, leader) = led(Setup::of(3));
    world.nodes[leader].quick_disk = false;
    world.submit(leader, 1);
    world.run(300);
    assert_eq!((world.nodes[leader].executed, world.decided()), (1, 1), "the others' disks are enough");
    world.run(1_000);
    assert_ne!(world.role(leader), "leader");
    world.run(4_000);
    assert!(world.leader().is_some_and(|next| next != leader));
}

#[test]
fn a_lost_connection_to_the_leader_starts_an_election_at_once() {
    let (mut world, leader) = led(Setup::of(3));
    world.crash(leader, 0);
    for i in (0..3).filter(|&i| i != leader) {
        world.input(i, Input::Peer(r(leader), Health::Down));
    }
    world.run(2 * 100);
    assert!(world.leader().is_some());
}

#[test]
fn a_prepare_out_of_the_past_deposes_nobody() {
    let (mut world, leader) = led(Setup::of(3));
    let seen = world.ballot(leader);
    let other = (leader + 1) % 3;
    for i in 0..3 {
        hears(&mut world, i, other, Message::Prepare { ballot: ballot(50, other), from: 0, transfer: false });
    }
    world.run(1_000);
    assert_eq!((world.leader(), world.ballot(leader)), (Some(leader), seen));
}

#[test]
fn a_restarted_candidate_or_leader_never_uses_its_ballot_again() {
    let (mut world, leader) = led(Setup::of(3));
    let before = world.ballot(leader);
    // A value that nobody else votes for, and whose own vote is lost.
    world.isolate(&[leader]);
    world.nodes[leader].quick_disk = false;
    world.submit(leader, 1);
    world.crash(leader, 0);
    world.start(leader).expect("records");
    world.nodes[leader].quick_disk = true;
    world.cut.clear();
    assert_eq!(world.role(leader), "follower");
    world.campaign(leader);
    world.run(3_000);
    assert!(world.leader().is_some_and(|next| world.ballot(next) > before));
}

#[test]
fn the_first_leader_of_an_epoch_needs_no_phase_1_but_only_in_its_first_run() {
    let mut world = World::new(Setup { first: Some(r(2)), ..Setup::of(3) });
    assert_eq!((world.leader(), world.ballot(2)), (Some(2), 66));
    assert!(world.wires.iter().all(|(.., message)| matches!(message, Message::Heartbeat { .. })));
    world.submit(0, 1);
    assert_eq!(world.nodes[0].refused, [(batch(0, 1).id().expect("named"), Refusal::Redirect(Some(r(2))))]);
    world.submit(2, 2);
    world.settle();
    assert_eq!(world.decided(), 1);
    world.crash(2, 0);
    world.start(2).expect("records");
    assert_eq!(world.role(2), "follower");

    // It crashed before anything was durable.
    let mut world = World::new(Setup { first: Some(r(2)), ..Setup::of(3) });
    world.crash(2, 0);
    world.nodes[2].stored.clear();
    world.start(2).expect("records");
    assert_eq!((world.role(2), world.ballot(2)), ("follower", 66));
}

#[test]
fn a_leader_that_leaves_hands_over() {
    let (mut world, leader) = led(Setup::of(3));
    world.submit(leader, 1);
    world.input(leader, Input::Leave);
    world.submit(leader, 2);
    assert_eq!(world.nodes[leader].refused, [(batch(leader, 2).id().expect("named"), Refusal::Redirect(None))]);
    world.settle();
    assert!(world.leader().is_some_and(|next| next != leader));
    assert_eq!(world.noted("leadership transferred"), 1);
    assert_eq!(world.numbers(), [1]);
    // Nobody takes it: it leads on.
    let (mut world, leader) = led(Setup::of(3));
    world.input(leader, Input::Leave);
    world.wires.clear();
    world.cut = (0..3).flat_map(|a| (0..3).map(move |b| (r(a), r(b)))).filter(|(from, _)| *from == r(leader)).collect();
    world.run(MultiPaxos::ELECTION.as_millis() as u64 / 2);
    world.cut.clear();
    world.run(5_000);
    assert!(world.leader().is_some());
}

#[test]
fn a_phase_1_that_takes_long_and_gets_on_is_not_overtaken() {
    // Two of those who live have much to report, a slot a message, and every message takes almost half an election timeout. Where there
    // is a third that has nothing to say, it waits for longer than that without being asked again.
    let votes = |slots: std::ops::Range<u64>| records(ballot(1, 0), &slots.map(|slot| (slot, ballot(1, 0), slot + 10)).collect::<Vec<_>>());
    for replicas in [3, 5] {
        let mut each = vec![Vec::new(); replicas];
        (each[1], each[2]) = (votes(0..12), votes(12..24));
        let mut world = World::from_records(Setup { message_bytes_max: 1, ..Setup::of(replicas) }, each);
        world.crash(0, 0);
        if replicas == 5 {
            world.crash(3, 0);
        }
        world.campaign(2);
        world.settle_until(|message| matches!(message, Message::Prepare { .. }));
        for _ in 0..80 {
            let on_their_way = world.wires.len();
            let until = world.now + MultiPaxos::ELECTION * 2 / 5;
            while world.fire(until) {}
            world.now = until;
            for _ in 0..on_their_way {
                world.deliver(0);
            }
        }
        assert_eq!(world.leader(), Some(2));
        assert_eq!(world.numbers(), (10..34).collect::<Vec<_>>());
    }
}
