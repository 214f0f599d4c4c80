//! Starting from records, and what a checkpoint keeps.

use crate::led;
use crate::world::{Setup, World, ballot, batch, counts, mark, r, records, recover};
use concur_core::*;
use concur_decision::multipaxos::{Message, MultiPaxos, Record, Report};
use concur_decision::slots::{Kept, Learn, Vote};

#[test]
fn every_prefix_of_the_records_can_be_started_from() {
    let (mut world, leader) = led(Setup::of(3));
    for number in 0..20 {
        world.submit(leader, number);
        world.settle();
    }
    world.crash(leader, 0);
    world.run(4_000);
    let leader = world.leader().expect("a leader");
    for number in 20..30 {
        world.submit(leader, number);
        world.settle();
    }
    for i in 0..3 {
        let all = world.nodes[i].stored.clone();
        for n in 0..=all.len() {
            let core = recover(&world.setup, i, all[..n].to_vec(), 0).expect("a prefix agrees with itself");
            let again = recover(&world.setup, i, core.checkpoint(), 0).expect("a checkpoint too");
            assert_eq!(again.checkpoint(), core.checkpoint());
        }
    }
}

#[test]
fn records_that_contradict_themselves_are_refused() {
    let promised = |round| Record::Promised { ballot: ballot(round, 0) };
    let vote = |round, first, number| Record::Accepted { ballot: ballot(round, 0), first, values: vec![batch(0, number)] };
    let kept = |slot, kept| Record::Slot { slot, kept };
    let decided = |number| Kept::Decided { value: batch(0, number) };
    let open = |joined, voted| {
        let vote = Vote { ballot: ballot(voted, 0), value: batch(0, 1) };
        Kept::Open { joined: ballot(joined, 0), vote: Some(vote) }
    };
    for wrong in [
        vec![promised(2), promised(1)],
        vec![vote(1, 0, 1)],
        vec![promised(2), vote(1, 0, 1)],
        vec![promised(2), vote(2, 0, 1), vote(2, 0, 2)],
        vec![promised(2), vote(2, u64::MAX, 1)],
        vec![promised(2), kept(3, decided(1)), kept(3, decided(2))],
        vec![promised(2), kept(3, open(1, 2))],
        vec![promised(2), kept(u64::MAX, decided(1))],
    ] {
        assert!(recover(&Setup::of(3), 0, wrong.clone(), 0).is_err(), "{wrong:?}");
    }
    let later = Mark { frontier: Frontier::slots(Epoch(1), 0), orders: vec![] };
    let mut cx = World::new(Setup::of(3)).nodes.swap_remove(0).cx;
    assert!(MultiPaxos::recover(Boot { records: vec![], mark: later, first: None, fresh: false, boot: BootCount(1) }, &mut cx).is_err());
}

#[test]
fn a_checkpoint_knows_what_is_decided_and_state_stands_for_what_it_covers() {
    let (mut world, leader) = led(Setup::of(3));
    for number in 1..4 {
        world.submit(leader, number);
    }
    world.settle();
    world.compact(leader);
    world.nodes[leader].saved = mark(1);
    world.crash(leader, 0);
    world.nodes[leader].executed = 0;
    world.start(leader).expect("records");
    assert_eq!(world.nodes[leader].executed, 3, "decided again, beyond the mark");
    let core = recover(&world.setup, leader, world.nodes[leader].stored.clone(), 9).expect("consistent");
    assert_eq!(core.checkpoint().last(), Some(&Record::Base { below: 9 }));
}

#[test]
fn a_replica_whose_state_is_behind_what_it_keeps_fetches_what_is_missing() {
    let stored = vec![Record::Promised { ballot: ballot(1, 0) }, Record::Base { below: 5 }];
    let mut world = World::from_records(Setup::of(3), vec![stored; 3]);
    for i in [0, 1] {
        world.nodes[i].saved = mark(5);
        world.crash(i, 0);
        world.start(i).expect("records");
    }
    for i in [0, 2] {
        // As a follower, then as the leader.
        world.campaign(i);
        world.run(500);
        assert_eq!(world.leader(), Some(i));
        assert!(world.nodes[2].fetches.iter().all(|&(from, length)| from != r(2) && length == 5));
        assert!(!world.nodes[2].fetches.is_empty());
        world.nodes[2].fetches.truncate(1);
        if i == 0 {
            world.crash(0, 0);
            world.start(0).expect("records");
        }
    }
    world.install(2);
    world.run(500);
    assert_eq!(world.nodes[2].executed, 5);
    world.nodes[2].fetches.clear();
    world.run(500);
    assert!(world.nodes[2].fetches.is_empty());
}

#[test]
fn quorums_that_could_miss_a_value_are_refused() {
    let start = |prepare, accept| {
        let setup = Setup { quorums: counts(4, prepare, accept), ..Setup::of(4) };
        recover(&setup, 0, vec![], 0).is_ok()
    };
    assert!(start(3, 2));
    assert!(start(2, 3), "two quorums that promise need not meet");
    assert!(!start(2, 2));
}

#[test]
fn what_is_written_is_read() {
    let id = ReadId { boot: BootCount(3), number: 4 };
    let by = ballot(7, 2);
    let values = vec![batch(1, 5), Value::Noop];
    let reports = vec![Report { slot: 3, ballot: Some(by), value: Value::Noop }, Report { slot: 4, ballot: None, value: batch(0, 1) }];
    for message in [
        Message::PrePrepare { attempt: 1 },
        Message::PrePrepared { attempt: 1, granted: true, round: 2, base: 3, decided: 4 },
        Message::Prepare { ballot: by, from: 3, transfer: true },
        Message::Promise { ballot: by, from: 3, reports, next: Some(9), base: 2 },
        Message::Newer { ballot: by },
        Message::HandOver { ballot: by },
        Message::Accept { ballot: by, first: 4, values: values.clone(), decided: 3 },
        Message::Accepted { ballot: by, first: 4, count: 2 },
        Message::Heartbeat { ballot: by, round: 2, decided: 5, opened: 6 },
        Message::Heard { ballot: by, round: 2, decided: 5 },
        Message::Decided { ballot: by, decided: 5 },
        Message::Read { id },
        Message::ReadAt { id, ballot: by, decided: 5 },
        Message::ReadLost { id },
        Message::Learn(Learn::Ask { from: 3 }),
    ] {
        assert_eq!(Message::from_bytes(&message.to_bytes()), Ok(message));
    }
    let base = Record::Base { below: 3 };
    let slot = Record::Slot { slot: 3, kept: Kept::Decided { value: Value::Noop } };
    let votes = Record::Accepted { ballot: by, first: 4, values };
    for record in records(by, &[(2, by, 1)]).into_iter().chain([base, slot, votes]) {
        assert_eq!(Record::from_bytes(&record.to_bytes()), Ok(record));
    }
    assert_eq!(Mark::<()>::from_bytes(&mark(3).to_bytes()), Ok(mark(3)));
}
