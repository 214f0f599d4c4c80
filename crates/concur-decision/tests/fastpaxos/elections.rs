//! Who coordinates, from when on, and until when.

use crate::world::{HEARTBEAT, Setup, World, batch, r, seal};
use crate::{is_vote, other};
use concur_core::*;
use concur_decision::fastpaxos::Message;
use concur_decision::slots::Learn;

#[test]
fn a_coordinator_that_restarts_takes_a_higher_ballot() {
    let (mut world, coordinator) = World::led(Setup::of(3));
    let before = world.ballot(coordinator);
    let proposer = other(coordinator, &world);
    world.submit(proposer, 1);
    world.settle();
    world.crash(coordinator, 0);
    world.start(coordinator).expect("records that agree");
    world.run(3_000);
    let after = world.coordinator().expect("somebody coordinates");
    assert!(world.ballot(after) >= before + 2);
    assert_eq!(world.noted("restarted coordinator"), 1);
    world.submit(proposer, 2);
    world.settle();
    assert_eq!(world.decided(), 2);
}

#[test]
fn a_phase_1_that_takes_long_comes_to_an_end_as_long_as_it_goes_on() {
    let setup = Setup { message_bytes_max: 1, window_max: 64, ..Setup::of(3) };
    let (mut world, coordinator) = World::led(setup);
    let i = other(coordinator, &world);
    for number in 0..40 {
        world.submit(i, number);
    }
    world.settle_but(|_, to, message| is_vote(message) || to == r(coordinator));
    world.crash(coordinator, 0);
    world.wires.clear();
    world.input(i, Input::Peer(r(coordinator), Health::Down));
    // Every answer carries one slot, and takes a heartbeat: 40 slots take ten election timeouts.
    for _ in 0..200 {
        let on_their_way = world.wires.len();
        world.now = world.now + HEARTBEAT / 2;
        while world.fire(world.now) {}
        (0..on_their_way).for_each(|_| world.deliver(0));
    }
    assert_eq!(world.decided(), 40, "two of three are a quorum of classic rounds");
}

#[test]
fn a_coordinator_puts_no_value_where_somebody_has_decided() {
    let (mut world, coordinator) = World::led(Setup::of(3));
    world.input(coordinator, Input::Submit(seal(coordinator, 1)));
    world.settle();
    assert_eq!(world.detail(coordinator, "fast from"), "-", "its ballot is classic");
    let next = world.decided();
    let told = Learn::Told { first: next, values: vec![batch(1, 9); 1], decided: next };
    world.input(coordinator, Input::Receive { from: r(other(coordinator, &world)), message: Message::Learn(told) });
    world.submit(coordinator, 2);
    world.settle();
    assert_eq!(world.chosen.get(&(next + 1)), Some(&batch(coordinator, 2)));
}

#[test]
fn wrong_suspicion_disturbs_nobody() {
    let (mut world, coordinator) = World::led(Setup::of(3));
    let (before, i) = (world.ballot(coordinator), other(coordinator, &world));
    world.submit(i, 1);
    world.settle();
    world.input(i, Input::Peer(r(coordinator), Health::Down));
    world.run(5_000);
    assert_eq!((world.coordinator(), world.ballot(coordinator)), (Some(coordinator), before));
}

#[test]
fn who_cannot_hear_the_coordinator_is_refused_by_those_who_can() {
    let (mut world, coordinator) = World::led(Setup::of(5));
    let (before, i, j) = (world.ballot(coordinator), other(coordinator, &world), (coordinator + 2) % 5);
    world.cut.extend([(r(coordinator), r(i)), (r(i), r(coordinator))]);
    world.input(i, Input::Peer(r(coordinator), Health::Down));
    for number in 0..50 {
        world.submit(j, number);
        world.run(100);
    }
    assert_eq!((world.coordinator(), world.ballot(coordinator)), (Some(coordinator), before));
    assert!(world.noted("canvass refused") > 0);
}

#[test]
fn a_dead_coordinator_is_replaced_when_something_stalls_and_at_once_when_its_connection_breaks() {
    for hint in [false, true] {
        let (mut world, coordinator) = World::led(Setup::of(3));
        let i = other(coordinator, &world);
        world.crash(coordinator, 0);
        world.run(10_000);
        assert_eq!(world.coordinator(), None, "nobody needs one");
        if hint {
            for j in (0..3).filter(|&j| j != coordinator) {
                world.input(j, Input::Peer(r(coordinator), Health::Down));
            }
            world.run(600);
            assert!(world.coordinator().is_some());
        }
        world.submit(i, 1);
        world.run(3_000);
        let refused = world.nodes[i].refused.clone();
        if let [(_, Refusal::Redirect(Some(to)))] = refused[..] {
            world.input(usize::from(to.0), Input::Submit(batch(i, 1)));
        }
        world.run(3_000);
        assert_eq!(world.decided(), 1, "two of three are a quorum of classic rounds: {refused:?}");
    }
}

#[test]
fn a_coordinator_whose_disk_stalls_decides_by_the_others_disks_and_resigns() {
    let (mut world, coordinator) = World::led(Setup::of(3));
    world.nodes[coordinator].quick_disk = false;
    world.submit(other(coordinator, &world), 1);
    world.run(300);
    assert_eq!(world.decided(), 1, "two of three disks are enough for a classic round");
    for number in 2..30 {
        world.submit(other(coordinator, &world), number);
        world.run(100);
    }
    assert!(world.noted("coordinator resigned") > 0);
    assert!(world.coordinator().is_some_and(|next| next != coordinator));
}
