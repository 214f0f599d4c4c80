//! Mencius' scenarios, each named for what it proves, and random schedules.

#[path = "../common/mod.rs"]
mod common;
mod random;
mod world;

use concur_core::*;
use concur_decision::mencius::{Mencius, Message, Record, Span, Stretch};
use world::{HEARTBEAT, Setup, World, batch, id, r, recover};

fn records_of(world: &World, i: usize) -> Vec<Record> {
    world.nodes[i].stored.iter().chain(&world.nodes[i].unsynced).cloned().collect()
}

#[test]
fn a_lone_write_is_decided_in_its_owners_slot_and_everyone_else_skips_below_it() {
    let mut world = World::new(Setup::of(3));
    world.submit(2, 1);
    world.run(2_000);
    assert_eq!(world.values(), [(2, id(2, 1))]);
    assert_eq!(world.chosen.len(), 3);
    assert!(world.nodes.iter().all(|node| node.executed == 3));
    // The next of the same owner has the others' slots before it.
    world.submit(2, 2);
    world.run(2_000);
    assert_eq!(world.values()[1], (5, id(2, 2)));
    assert_eq!(world.noted("another's slots revoked"), 0);
}

#[test]
fn idle_means_that_nothing_is_sent() {
    let mut world = World::new(Setup::of(5));
    assert!(world.is_quiet(), "nobody has said anything yet");
    for i in 0..5 {
        world.submit(i, 1);
    }
    world.run(3_000);
    assert!(world.is_quiet());
    assert_eq!(world.values().len(), 5);
}

#[test]
fn a_proposal_leaves_once_it_is_durable_and_a_restart_proposes_in_a_later_slot() {
    let mut world = World::new(Setup::of(3));
    world.nodes[0].quick_disk = false;
    world.submit(0, 1);
    assert_eq!(world.wires.len(), 0, "the proposal waits");
    world.sync(0);
    assert!(world.wires.iter().any(|(.., message)| matches!(message, Message::Accept { slot: 0, .. })));
    world.wires.clear();
    world.crash(0, 0);
    world.start(0).expect("records");
    world.submit(0, 2);
    world.sync(0);
    assert!(world.wires.iter().any(|(.., message)| matches!(message, Message::Accept { slot: 3, .. })));
    world.nodes[0].quick_disk = true;
    world.run(5_000);
    // The first was known to its owner alone: it finished it by phase 1.
    assert_eq!(world.values(), [(0, id(0, 1)), (3, id(0, 2))]);
    assert!(world.noted("own slots finished by phase 1") > 0);
}

#[test]
fn votes_and_the_skips_that_they_imply_are_durable_before_they_are_answered() {
    let mut world = World::new(Setup::of(3));
    world.nodes[1].quick_disk = false;
    world.submit(2, 1);
    world.deliver_those(|_, to, _| to == r(1));
    assert!(world.wires.iter().all(|(from, ..)| *from != r(1)), "vote and skip wait");
    world.sync(1);
    let answer = world.wires.iter().find(|(from, to, _)| (*from, *to) == (r(1), r(2))).map(|(.., message)| message.clone());
    assert_eq!(answer, Some(Message::Accepted { slot: 2, skipped: vec![Span { from: 1, end: 4 }] }));
}

#[test]
fn a_skip_is_not_decided_here_before_it_is_durable_and_not_taken_back_after_a_crash() {
    let mut world = World::new(Setup::of(3));
    world.nodes[0].quick_disk = false;
    world.submit(1, 1);
    world.deliver_those(|from, to, _| from == r(1) && to == r(0));
    assert_eq!(world.chosen.len(), 0, "its own skip is not durable");
    world.sync(0);
    let records = records_of(&world, 0);
    assert!(records.iter().any(|record| matches!(record, Record::Skipped { spans } if *spans == [Span { from: 0, end: 3 }])));
    let again = recover(&world.setup, 0, records, 0).expect("records");
    let said = again.inspect().details;
    assert_eq!(said.iter().find(|(name, _)| *name == "next own slot").map(|(_, next)| next.as_str()), Some("3"));
}

#[test]
fn skips_may_come_in_any_order_and_any_number_of_times() {
    let mut world = World::new(Setup::of(3));
    let settled = |from: u64, end: u64| {
        let stretch = Stretch { owner: r(1), noops: vec![Span { from, end }], values: vec![] };
        Input::Receive { from: r(1), message: Message::Settled { stretch } }
    };
    world.input(0, settled(7, 13));
    world.input(0, settled(1, 4));
    world.input(0, settled(7, 13));
    world.input(0, settled(1, 10));
    assert_eq!(world.nodes[0].core.as_ref().map(|core| core.inspect().undecided), Some(0), "nothing of it is used");
    assert_eq!(world.chosen.len(), 0);
    world.submit(2, 1);
    world.run(1_000);
    assert_eq!(world.nodes[0].executed, 3);
}

#[test]
fn a_dead_owner_is_revoked_far_ahead_and_the_others_go_on_at_once() {
    let mut world = World::new(Setup::of(3));
    world.run(500);
    world.crash(1, 0);
    world.submit(2, 1);
    world.run(300);
    assert_eq!(world.nodes[2].executed, 1, "slot 1 is missing");
    world.run(3_000);
    assert_eq!(world.nodes[2].executed, 3);
    assert_eq!(world.noted("another's slots revoked"), 1);
    // From here on nobody waits, and the range is renewed before it is used up.
    for number in 2..400 {
        world.submit(2, number);
        world.settle();
        assert_eq!(world.nodes[2].executed, 3 * number, "{number}");
    }
    assert!(world.noted("revocation renewed") >= 2);
    assert_eq!(world.noted("another's slots revoked"), 1);
    let (before, chosen) = (world.noted("revocation renewed"), world.says(0, "used below"));
    world.run(20_000);
    assert_eq!((world.noted("revocation renewed"), world.says(0, "used below")), (before, chosen), "nothing grows when idle");
}

#[test]
fn a_broken_connection_is_enough_to_revoke_soon() {
    let mut world = World::new(Setup::of(3));
    world.crash(0, 0);
    for i in 1..3 {
        world.input(i, Input::Peer(r(0), Health::Down));
    }
    world.submit(1, 1);
    world.run(6 * HEARTBEAT.as_millis() as u64);
    assert_eq!(world.nodes[1].executed, 2);
}

#[test]
fn a_revocation_proposes_again_what_it_finds() {
    let mut world = World::new(Setup::of(3));
    world.submit(0, 1);
    // Only replica 1 hears of it, and the proposer dies.
    world.deliver_those(|from, to, message| (from, to) == (r(0), r(1)) && matches!(message, Message::Accept { .. }));
    world.crash(0, 0);
    world.wires.clear();
    world.submit(2, 1);
    world.run(5_000);
    assert_eq!(world.values(), [(0, id(0, 1)), (2, id(2, 1))]);
    assert!(world.noted("revocation finished with a value") > 0);
}

#[test]
fn an_owner_that_joined_a_higher_ballot_neither_proposes_nor_skips_there() {
    let mut world = World::new(Setup::of(3));
    let ballot = Ballot { round: 1, owner: r(1) };
    let message = Message::Prepare { owner: r(0), span: Span { from: 0, end: 30 }, ballot };
    world.input(0, Input::Receive { from: r(1), message });
    world.wires.clear();
    world.submit(0, 1);
    let proposed = world.wires.iter().find_map(|(.., message)| if let Message::Accept { slot, .. } = message { Some(*slot) } else { None });
    assert_eq!(proposed, Some(30));
    assert!(records_of(&world, 0).iter().all(|record| !matches!(record, Record::Skipped { .. })));
    // Nor does it after a restart.
    world.crash(0, 0);
    world.start(0).expect("records");
    assert_eq!(world.says(0, "next own slot"), 33);
}

#[test]
fn an_owner_wrongly_suspected_learns_of_all_revoked_slots_at_once_and_goes_on_behind_them() {
    let mut world = World::new(Setup::of(3));
    world.isolate(&[0]);
    world.submit(0, 1);
    world.submit(1, 1);
    world.run(5_000);
    assert_eq!(world.values(), [(1, id(1, 1))]);
    world.cut.clear();
    world.run(3_000);
    assert_eq!(world.nodes[0].refused, [(id(0, 1), Refusal::Lost)]);
    let next = world.says(0, "next own slot");
    assert!(next > 500, "{next}");
    world.submit(0, 2);
    world.run(3_000);
    assert_eq!(world.values(), [(1, id(1, 1)), (next, id(0, 2))]);
    assert!(world.nodes.iter().all(|node| node.executed == next + 1));
    assert!(world.is_quiet());
}

#[test]
fn a_value_chosen_before_its_owner_was_revoked_is_kept() {
    let mut world = World::new(Setup::of(3));
    world.submit(0, 1);
    world.deliver_those(|from, to, _| (from, to) == (r(0), r(1)));
    // Replica 1 and the owner have voted: it is chosen, and nobody knows. Then the owner is cut off.
    world.wires.clear();
    world.isolate(&[0]);
    world.submit(2, 1);
    world.run(5_000);
    assert_eq!(world.values()[0], (0, id(0, 1)));
}

#[test]
fn two_revokers_do_not_keep_each_other_from_finishing() {
    for seed in 1..30 {
        let mut world = World::new(Setup { seed, ..Setup::of(5) });
        world.crash(0, 0);
        for i in 1..5 {
            world.submit(i, 1);
        }
        world.run(10_000);
        assert!(world.nodes[1..].iter().all(|node| node.executed == 5), "seed {seed}");
    }
}

#[test]
fn a_lower_ballot_is_refused_and_a_stale_promise_counts_for_nothing() {
    let mut world = World::new(Setup::of(3));
    let span = Span { from: 0, end: 30 };
    let prepare = |round, owner| Message::Prepare { owner: r(0), span, ballot: Ballot { round, owner } };
    world.input(2, Input::Receive { from: r(1), message: prepare(5, r(1)) });
    world.input(2, Input::Receive { from: r(0), message: prepare(4, r(0)) });
    let answers: Vec<Message> = world.wires.drain(..).map(|(.., message)| message).collect();
    assert!(matches!(answers[0], Message::Promised { end: 30, .. }));
    assert_eq!(answers[1], Message::Refused { owner: r(0), span, ballot: Ballot { round: 5, owner: r(1) } });
    let accept = Message::Accept { slot: 0, value: batch(0, 1), skipped: vec![] };
    world.input(2, Input::Receive { from: r(0), message: accept });
    assert!(matches!(world.wires[0].2, Message::Refused { .. }));
}

#[test]
fn a_late_proposal_gets_no_vote_where_something_else_was_decided_at_a_higher_ballot() {
    let mut world = World::new(Setup::of(3));
    let stretch = Stretch { owner: r(0), noops: vec![Span { from: 0, end: 3 }], values: vec![] };
    world.input(1, Input::Receive { from: r(2), message: Message::Settled { stretch } });
    let late = |value: Option<Value>| {
        let (noops, values) = match value {
            Some(value) => (vec![], vec![(0, value)]),
            None => (vec![Span { from: 0, end: 3 }], vec![]),
        };
        let ballot = Ballot { round: 1, owner: r(0) };
        let stretch = Stretch { owner: r(0), noops, values };
        Input::Receive { from: r(0), message: Message::Propose { span: Span { from: 0, end: 3 }, ballot, stretch } }
    };
    world.input(1, late(Some(batch(0, 1))));
    world.input(1, late(None));
    let answers: Vec<Message> = world.wires.drain(..).map(|(.., message)| message).collect();
    assert!(matches!(answers[..], [Message::Settled { .. }, Message::Voted { .. }]), "{answers:?}");
}

#[test]
fn a_revoker_whose_proposal_comes_too_late_takes_up_the_rest_afresh() {
    let mut world = World::new(Setup::of(3));
    world.submit(0, 1);
    // Replica 1 alone hears of it. It prepares, and is cut off with its proposal; replica 2 has promised and knows nothing else.
    world.deliver_those(|from, to, message| (from, to) == (r(0), r(1)) && matches!(message, Message::Accept { .. }));
    world.crash(0, 0);
    world.wires.clear();
    world.input(1, Input::Peer(r(0), Health::Down));
    world.submit(1, 1);
    let until = world.now + HEARTBEAT * 8;
    while world.fire(until) {
        world.deliver_those(|_, _, message| !matches!(message, Message::Propose { .. }));
    }
    assert!(world.noted("another's slots revoked") > 0);
    world.wires.clear();
    // Meanwhile slot 0 alone is decided as nothing, at a higher ballot, and replica 2 knows it.
    let stretch = Stretch { owner: r(0), noops: vec![Span { from: 0, end: 3 }], values: vec![] };
    world.input(2, Input::Receive { from: r(0), message: Message::Settled { stretch } });
    world.run(10_000);
    assert_eq!(world.noted("revocation overtaken"), 1);
    assert_eq!(world.values(), [(1, id(1, 1))]);
    assert!(world.nodes[1].executed >= 2);
}

#[test]
fn a_revoker_told_that_its_first_slots_are_forgotten_goes_on_behind_them() {
    let mut world = World::new(Setup::of(3));
    world.crash(0, 0);
    world.input(1, Input::Peer(r(0), Health::Down));
    world.submit(1, 1);
    let until = world.now + HEARTBEAT * 8;
    while world.fire(until) {
        world.deliver_those(|_, _, message| !matches!(message, Message::Prepare { .. }));
    }
    world.wires.clear();
    // Slot 0 is decided meanwhile, and replica 2 has forgotten it: it answers nobody who asks for slot 0 too.
    let stretch = Stretch { owner: r(0), noops: vec![Span { from: 0, end: 3 }], values: vec![] };
    world.input(1, Input::Receive { from: r(2), message: Message::Settled { stretch } });
    let said = concur_decision::slots::Learn::Forgotten { below: 2 };
    let forgotten = Message::Learn { said, next: 2, floor: 2 };
    world.input(1, Input::Receive { from: r(2), message: forgotten.clone() });
    let prepared = |world: &World| {
        let spans =
            world.wires.iter().filter_map(|(.., message)| if let Message::Prepare { span, .. } = message { Some(*span) } else { None });
        spans.map(|span| span.from).collect::<Vec<_>>()
    };
    assert_eq!(prepared(&world), [3, 3], "to both others");
    world.wires.clear();
    world.input(1, Input::Receive { from: r(2), message: forgotten });
    assert!(prepared(&world).is_empty(), "once is enough");
}

#[test]
fn an_owner_finishes_what_it_has_promised_to_a_revoker_that_does_not_come_back() {
    let mut world = World::new(Setup::of(2));
    world.submit(0, 1);
    world.wires.clear();
    let prepare = Message::Prepare { owner: r(0), span: Span { from: 0, end: 30 }, ballot: Ballot { round: 1, owner: r(1) } };
    world.input(0, Input::Receive { from: r(1), message: prepare });
    world.wires.clear();
    world.run(1_500);
    assert_eq!(world.values(), [(0, id(0, 1))]);
    assert_eq!((world.noted("own slots finished by phase 1"), world.noted("another's slots revoked")), (1, 0));
}

#[test]
fn an_owner_that_was_revoked_ahead_and_not_asked_goes_on_behind_at_once() {
    let mut world = World::new(Setup::of(3));
    let prepare = Message::Prepare { owner: r(0), span: Span { from: 0, end: 300 }, ballot: Ballot { round: 1, owner: r(2) } };
    for i in [1, 2] {
        world.input(i, Input::Receive { from: r(2), message: prepare.clone() });
    }
    // The revoker is over: who has joined its ballot is all that is left of it.
    world.wires.clear();
    for number in 1..=5 {
        world.submit(0, number);
        world.run(10);
    }
    world.run(1_500);
    assert_eq!(world.values().len(), 5);
    assert_eq!((world.noted("own slots finished by phase 1"), world.noted("another's slots revoked")), (1, 0));
    for number in 6..=9 {
        world.submit(0, number);
        world.run(50);
    }
    assert_eq!((world.values().len(), world.noted("own slots finished by phase 1")), (9, 1), "ballot zero is used again");
}

/// The third voter could still vote at ballot zero, if it were there: it does not count.
#[test]
fn an_owner_goes_on_behind_if_whoever_has_not_refused_is_gone() {
    let mut world = World::new(Setup::of(3));
    let prepare = Message::Prepare { owner: r(0), span: Span { from: 0, end: 300 }, ballot: Ballot { round: 1, owner: r(2) } };
    world.input(1, Input::Receive { from: r(2), message: prepare });
    world.wires.clear();
    world.crash(2, 0);
    for number in 1..=9 {
        world.submit(0, number);
        world.run(1_500);
    }
    assert_eq!(world.values().len(), 9);
    let finished = world.noted("own slots finished by phase 1");
    assert!(finished <= 2, "each of {finished} rounds costs a timeout");
}

/// Refusals speak of one ballot, and of all slots that are joined from there on, whatever their ballots.
#[test]
fn an_owner_that_is_refused_keeps_what_it_has_promised_further_on() {
    let mut world = World::new(Setup::of(3));
    world.submit(0, 1);
    world.wires.clear();
    let higher = Ballot { round: 2, owner: r(1) };
    world.input(
        0,
        Input::Receive { from: r(1), message: Message::Prepare { owner: r(0), span: Span { from: 6, end: 12 }, ballot: higher } },
    );
    let refused = Message::Refused { owner: r(0), span: Span { from: 0, end: 12 }, ballot: Ballot { round: 1, owner: r(2) } };
    for from in [1, 2] {
        world.input(0, Input::Receive { from: r(from), message: refused.clone() });
    }
    world.run(5_000);
    assert_eq!(world.values(), [(0, id(0, 1))]);
}

/// A revoker that hears nothing, and repeats what all have voted for, does not keep the others from finishing.
#[test]
fn what_is_only_repeated_gives_a_revoker_no_more_time() {
    let mut world = World::new(Setup::of(3));
    let (span, ballot) = (Span { from: 0, end: 3 }, Ballot { round: 1, owner: r(2) });
    let stretch = Stretch { owner: r(0), noops: vec![span], values: vec![] };
    let propose = Message::Propose { span, ballot, stretch };
    world.cut.extend([(r(0), r(2)), (r(1), r(2))]);
    world.input(1, Input::Receive { from: r(2), message: propose.clone() });
    let stored = records_of(&world, 1).len();
    world.submit(1, 1);
    for _ in 0..200 {
        world.input(1, Input::Receive { from: r(2), message: propose.clone() });
        world.run(50);
    }
    assert_eq!(world.values(), [(1, id(1, 1))]);
    assert!(world.nodes[1].executed >= 2);
    let votes = |record: &&Record| matches!(record, Record::Voted { ballot: at, .. } if *at == ballot);
    assert_eq!((stored, records_of(&world, 1).iter().filter(votes).count()), (1, 1), "it votes once");
}

#[test]
fn a_read_waits_for_what_was_acknowledged_and_for_nothing_when_idle() {
    let mut world = World::new(Setup::of(3));
    world.submit(1, 1);
    world.run(2_000);
    let id = world.read(0, 1);
    world.settle();
    assert_eq!(world.nodes[0].reads, [(id, 2)]);
    assert_eq!(world.nodes[0].executed, 2);
    world.run(2_000);
    assert!(world.is_quiet());
    // Revoked slots ahead are not waited for.
    world.crash(2, 0);
    world.submit(0, 2);
    world.run(5_000);
    let id = world.read(0, 2);
    world.settle();
    assert_eq!(world.nodes[0].reads[1], (id, 4));
}

#[test]
fn a_read_asks_owners_for_slots_that_it_waits_for() {
    let mut world = World::new(Setup::of(3));
    world.submit(2, 1);
    world.deliver_those(|from, to, _| from == r(2) || to == r(2));
    let executed = world.nodes[0].executed;
    assert!(executed < 3, "replica 1 has told replica 2 alone of its skip");
    let id = world.read(0, 1);
    world.settle();
    assert_eq!((world.nodes[0].reads.as_slice(), world.nodes[0].executed), ([(id, 3)].as_slice(), 3), "no timer was needed");
}

#[test]
fn who_leaves_gives_up_its_slots() {
    let mut world = World::new(Setup::of(3));
    world.input(0, Input::Leave);
    world.settle();
    world.submit(0, 1);
    assert_eq!(world.nodes[0].refused, [(id(0, 1), Refusal::Busy)]);
    world.crash(0, 0);
    for number in 1..50 {
        world.submit(1, number);
        world.settle();
        assert!(world.nodes[1].executed >= 3 * number - 1, "{number}");
    }
    assert_eq!(world.noted("another's slots revoked"), 0);
}

#[test]
fn a_window_that_is_full_refuses() {
    let mut world = World::new(Setup { window_max: 2, ..Setup::of(3) });
    for number in 1..4 {
        world.submit(0, number);
    }
    assert_eq!(world.nodes[0].refused, [(id(0, 3), Refusal::Busy)]);
    world.submit(0, 2);
    assert_eq!(world.nodes[0].refused.len(), 1, "what is under way is not proposed again");
}

#[test]
fn values_found_in_a_revocation_are_taken_a_message_at_a_time() {
    let mut world = World::new(Setup { message_bytes_max: 1, ..Setup::of(3) });
    for number in 1..6 {
        world.submit(0, number);
    }
    world.deliver_those(|from, to, message| (from, to) == (r(0), r(1)) && matches!(message, Message::Accept { .. }));
    world.crash(0, 0);
    world.wires.clear();
    world.submit(2, 1);
    world.run(8_000);
    let values: Vec<BatchId> = world.values().into_iter().map(|(_, id)| id).collect();
    assert_eq!(values[..2], [id(0, 1), id(2, 1)]);
    assert_eq!(values.len(), 6);
}

#[test]
fn every_prefix_of_the_records_can_be_started_from() {
    let mut world = World::new(Setup::of(3));
    for number in 1..8 {
        world.submit((number % 3) as usize, number);
        world.run(150);
    }
    world.crash(1, 0);
    world.submit(0, 20);
    world.run(4_000);
    world.start(1).expect("records");
    world.submit(1, 21);
    world.run(4_000);
    for i in 0..3 {
        let all = world.nodes[i].stored.clone();
        for n in 0..=all.len() {
            let core = recover(&world.setup, i, all[..n].to_vec(), 0).expect("a prefix agrees with itself");
            // What was skipped at the start is settled once its record is durable, which the checkpoint's is.
            let again = recover(&world.setup, i, core.checkpoint(), 0).expect("a checkpoint too");
            let third = recover(&world.setup, i, again.checkpoint(), 0).expect("and its own");
            assert_eq!(third.checkpoint(), again.checkpoint());
        }
    }
}

#[test]
fn records_that_contradict_themselves_are_refused() {
    let accepted = |slot, number| Record::Accepted { slot, value: batch(0, number) };
    let joined = |round| Record::Joined { owner: r(0), span: Span { from: 0, end: 30 }, ballot: Ballot { round, owner: r(2) } };
    let skipped = |from, end| Record::Skipped { spans: vec![Span { from, end }] };
    for wrong in [
        vec![accepted(0, 1), accepted(0, 2)],
        vec![joined(1), accepted(0, 1)],
        vec![joined(1), skipped(0, 3)],
        vec![accepted(3, 1), skipped(0, 6)],
        vec![Record::Joined { owner: r(9), span: Span { from: 0, end: 3 }, ballot: Ballot { round: 1, owner: r(2) } }],
    ] {
        assert!(recover(&Setup::of(3), 0, wrong.clone(), 0).is_err(), "{wrong:?}");
    }
}

#[test]
fn what_makes_no_sense_is_dropped() {
    let mut world = World::new(Setup::of(3));
    world.submit(0, 1);
    world.run(500);
    let huge = Span { from: u64::MAX - 1, end: u64::MAX };
    let wild = Ballot { round: u64::MAX, owner: r(1) };
    let stretch = |owner, noops, values| Stretch { owner, noops, values };
    let learn = |said| Message::Learn { said, next: u64::MAX, floor: u64::MAX };
    use concur_decision::slots::Learn;
    for message in [
        Message::Accept { slot: u64::MAX, value: batch(0, 9), skipped: vec![huge] },
        Message::Accept { slot: 1, value: Value::Noop, skipped: vec![] },
        Message::Accept { slot: 2, value: batch(0, 9), skipped: vec![] },
        Message::Accepted { slot: u64::MAX, skipped: vec![huge, Span { from: 9, end: 3 }] },
        Message::Commit { slot: u64::MAX },
        Message::Settled { stretch: stretch(r(9), vec![huge], vec![]) },
        Message::Settled { stretch: stretch(r(2), vec![huge], vec![(u64::MAX - 1, batch(0, 9))]) },
        Message::Prepare { owner: r(9), span: huge, ballot: wild },
        Message::Prepare { owner: r(2), span: huge, ballot: Ballot { round: 1, owner: r(1) } },
        Message::Prepare { owner: r(2), span: Span { from: 5, end: 5 }, ballot: Ballot { round: 1, owner: r(1) } },
        Message::Promised { owner: r(2), span: huge, ballot: wild, end: 0, reports: vec![] },
        Message::Propose { span: huge, ballot: Ballot { round: 1, owner: r(1) }, stretch: stretch(r(2), vec![huge], vec![]) },
        Message::Voted { owner: r(9), span: huge, ballot: wild },
        Message::Refused { owner: r(0), span: huge, ballot: wild },
        Message::Want { owner: r(0), span: huge },
        Message::Known { id: ReadId { boot: BootCount(9), number: 9 }, known: u64::MAX },
        learn(Learn::Told { first: u64::MAX, values: vec![Value::Noop; 3], decided: 0 }),
        learn(Learn::Told { first: 1, values: vec![], decided: u64::MAX }),
        learn(Learn::Ask { from: u64::MAX }),
        learn(Learn::Forgotten { below: u64::MAX }),
        learn(Learn::Summary { decided: u64::MAX, known: 4 }),
    ] {
        world.input(0, Input::Receive { from: r(1), message: message.clone() });
        world.input(0, Input::Receive { from: r(7), message });
    }
    assert_eq!(world.values(), [(0, id(0, 1))]);
}

#[test]
fn an_observer_takes_no_part() {
    let voters = QuorumSystem::majority(ReplicaSet::first(3));
    let mut world = World::new(Setup::of(3));
    let config = Config { me: r(9), quorums: voters, ..(*world.nodes[0].cx.config).clone() };
    let mut cx = Context::<Mencius>::new(world.now, Rng::new(1), std::sync::Arc::new(config));
    let boot = Boot { records: vec![], mark: world::mark(0), first: None, fresh: true, boot: BootCount(1) };
    let mut core = Mencius::recover(boot, &mut cx).expect("nothing to contradict");
    world.submit(1, 1);
    let messages: Vec<_> = world.wires.drain(..).collect();
    for (from, _, message) in messages {
        core.step(Input::Receive { from, message }, &mut cx);
    }
    assert!(cx.take_effects().is_empty());
    core.step(Input::Submit(batch(9, 1)), &mut cx);
    let effects = cx.take_effects();
    assert!(matches!(effects[..], [Effect::Refuse { reason: Refusal::Redirect(None), .. }]));
}
