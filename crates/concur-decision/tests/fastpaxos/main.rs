//! Fast Paxos' scenarios, each named for what it proves, and random schedules.

#[path = "../common/mod.rs"]
mod common;
mod elections;
mod random;
mod world;

use concur_core::*;
use concur_decision::fastpaxos::{FastPaxos, Message, Progress, Record, Reported};
use concur_decision::slots::{Kept, Learn, Vote};
use world::{HEARTBEAT, Setup, World, batch, id, r, seal};

fn is_vote(message: &Message) -> bool {
    matches!(message, Message::Voted { .. })
}

/// A replica that does not coordinate.
fn other(coordinator: usize, world: &World) -> usize {
    (coordinator + 1) % world.nodes.len()
}

#[test]
fn a_value_is_decided_fast_by_three_quarters_of_the_voters_and_not_by_fewer() {
    for voters in 1..=7 {
        let (mut world, coordinator) = World::led(Setup::of(voters));
        let (proposer, fast) = (other(coordinator, &world), world.setup.quorums.size(Phase::Fast));
        world.submit(proposer, 1);
        // The votes of all but one too few are held back.
        world.settle_but(|from, _, message| is_vote(message) && usize::from(from.0) + 1 >= fast);
        assert_eq!(world.decided(), 0, "{voters} voters: {} votes are too few", fast - 1);
        world.settle_but(|from, _, message| is_vote(message) && usize::from(from.0) >= fast);
        assert_eq!(world.chosen.get(&0), Some(&batch(proposer, 1)), "{voters} voters");
        world.run(2_000);
        assert_eq!((world.noted("fast decision"), world.noted("classic decision")), (1, 0));
        for node in &world.nodes {
            assert_eq!((node.executed, node.timers.len()), (1, 0), "{voters} voters: known to all, and at rest");
        }
    }
}

#[test]
fn without_its_coordinator_a_fast_round_goes_on() {
    let (mut world, coordinator) = World::led(Setup::of(4));
    let proposer = other(coordinator, &world);
    world.crash(coordinator, 0);
    for number in 0..3 {
        world.submit(proposer, number);
        world.settle();
    }
    assert_eq!((world.decided(), world.noted("fast decision")), (3, 3));
}

/// Two replicas propose at once, and each reaches itself first.
fn collide(world: &mut World, [a, b]: [usize; 2], number: u64) {
    world.submit(a, number);
    world.submit(b, number);
    world.settle_but(|from, to, message| matches!(message, Message::Propose { .. }) && from != to);
    world.settle();
}

#[test]
fn of_two_values_that_collide_one_is_picked_and_the_other_is_proposed_again() {
    for voters in 2..=7 {
        let (mut world, coordinator) = World::led(Setup::of(voters));
        let pair = [coordinator, other(coordinator, &world)];
        collide(&mut world, pair, 1);
        world.run(2_000);
        let mut decided: Vec<_> = world.chosen.values().filter_map(Value::id).collect();
        decided.sort();
        let mut both: Vec<_> = pair.iter().map(|&i| id(i, 1)).collect();
        both.sort();
        assert_eq!(decided, both, "{voters} voters");
        // Of many voters nearly all may have got one value first: then it is chosen fast.
        if voters <= 3 {
            assert!(world.noted("collision") > 0 && world.noted("coordinated recovery") > 0, "{voters} voters");
        }
        assert!(world.noted("value proposed again after losing its slot") > 0);
    }
}

#[test]
fn a_collision_is_resolved_by_two_delays_more() {
    let (mut world, coordinator) = World::led(Setup::of(3));
    let pair = [coordinator, other(coordinator, &world)];
    // No time passes: the votes themselves are the promises of the next round.
    collide(&mut world, pair, 1);
    assert_eq!(world.decided(), 2);
    assert!(world.nodes.iter().all(|node| node.stored.iter().all(|record| !matches!(record, Record::Joined { .. }))));
}

#[test]
fn a_voter_that_restarts_keeps_its_vote() {
    let (mut world, coordinator) = World::led(Setup::of(3));
    let [a, b] = [other(coordinator, &world), (coordinator + 2) % 3];
    world.submit(a, 1);
    world.settle_but(|_, to, message| is_vote(message) || to == r(coordinator));
    world.wires.clear();
    world.crash(b, 0);
    world.start(b).expect("records that agree");
    // It never heard of the slot from anybody else, and another value comes for it.
    let (ballot, value) = (Ballot { round: world.ballot(b), owner: r(coordinator) }, batch(a, 2));
    world.input(b, Input::Receive { from: r(a), message: Message::Propose { ballot, fast: 0, slot: 0, value } });
    let answers: Vec<&Message> = world.wires.iter().filter(|(from, ..)| *from == r(b)).map(|(.., message)| message).collect();
    assert_eq!(answers, [&Message::Voted { ballot, slot: 0, id: Some(id(a, 1)) }; 2], "to the proposer and the coordinator");
}

#[test]
fn a_fast_vote_promises_the_round_that_finishes_its_slot() {
    let (mut world, coordinator) = World::led(Setup::of(3));
    let [a, b] = [other(coordinator, &world), (coordinator + 2) % 3];
    world.submit(a, 1);
    world.settle_but(|_, _, message| is_vote(message));
    world.wires.clear();
    let round = world.ballot(b);
    world.crash(b, 0);
    world.start(b).expect("records that agree");
    // A ballot between the fast round and the one after it comes too late, after a restart as well.
    let between = Ballot { round, owner: r(a) };
    assert!(between > Ballot { round, owner: r(coordinator) }, "who comes first coordinates");
    world.input(b, Input::Receive { from: r(a), message: Message::Prepare { ballot: between, from: 0 } });
    let refused = Message::Refused { ballot: Ballot { round: round + 1, owner: r(coordinator) } };
    assert_eq!(world.wires, [(r(b), r(a), refused)]);
}

#[test]
fn a_seal_never_travels_in_a_fast_round() {
    for at_coordinator in [true, false] {
        let (mut world, coordinator) = World::led(Setup::of(3));
        let i = if at_coordinator { coordinator } else { other(coordinator, &world) };
        world.input(i, Input::Submit(seal(i, 1)));
        if !at_coordinator {
            assert_eq!(world.nodes[i].refused, [(id(i, 1), Refusal::Redirect(Some(r(coordinator))))]);
            world.input(coordinator, Input::Submit(seal(i, 1)));
        }
        while !world.wires.is_empty() {
            let fast = |message: &Message| matches!(message, Message::Propose { value, .. } if value.is_seal());
            assert!(world.wires.iter().all(|(.., message)| !fast(message)));
            world.deliver(0);
        }
        assert_eq!(world.chosen.get(&0), Some(&seal(i, 1)));
        world.run(5_000);
        assert_eq!(world.detail(coordinator, "fast from"), "-", "no round is opened beside a seal");
    }
}

#[test]
fn a_voter_drops_a_seal_in_a_fast_round() {
    let (mut world, coordinator) = World::led(Setup::of(3));
    let ballot = Ballot { round: world.ballot(0), owner: r(coordinator) };
    let message = Message::Propose { ballot, fast: 0, slot: 0, value: seal(0, 1) };
    world.input(1, Input::Receive { from: r(0), message });
    assert_eq!(world.wires, []);
}

#[test]
fn what_a_dead_proposer_left_is_finished_and_what_it_skipped_is_filled() {
    let (mut world, coordinator) = World::led(Setup::of(4));
    let proposer = other(coordinator, &world);
    world.submit(proposer, 1);
    world.wires.clear(); // Nobody hears of the first.
    world.submit(proposer, 2);
    let voter = (coordinator + 2) % 4;
    world.settle_but(|_, to, message| matches!(message, Message::Propose { .. }) && to != r(voter));
    world.crash(proposer, 0);
    world.wires.clear(); // And one voter alone of the second.
    world.run(5_000);
    assert_eq!(world.chosen, [(0, Value::Noop), (1, batch(proposer, 2))].into());
    assert!(world.noted("hole filled") > 0);
}

#[test]
fn a_vote_for_a_value_that_is_gone_with_all_who_had_it_holds_nothing_up() {
    let (mut world, coordinator) = World::led(Setup::of(5));
    let proposer = other(coordinator, &world);
    world.submit(proposer, 1);
    // Only it has the value and votes; of that the coordinator hears.
    world.settle_but(|from, to, message| matches!(message, Message::Propose { .. }) && from != to);
    world.crash(proposer, 0);
    world.wires.clear();
    world.run(5_000);
    world.submit(coordinator, 2);
    world.run(5_000);
    assert_eq!(world.chosen.values().filter_map(Value::id).collect::<Vec<_>>(), [id(coordinator, 2)]);
    assert!(world.nodes.iter().filter(|node| node.core.is_some()).all(|node| node.executed == world.decided()));
}

#[test]
fn what_only_one_that_died_knew_to_be_decided_is_found_in_the_votes() {
    let (mut world, coordinator) = World::led(Setup::of(5));
    let proposer = other(coordinator, &world);
    world.submit(proposer, 1);
    // All vote, and only the proposer hears of it and decides.
    world.settle_but(|from, to, message| from != to && to != r(proposer) && !matches!(message, Message::Propose { .. }));
    assert_eq!(world.decided(), 1);
    world.wires.clear();
    // The next coordinator hears that something is decided there, and never what.
    world.crash(coordinator, 0);
    world.start(coordinator).expect("records that agree");
    let until = world.now + HEARTBEAT * 100;
    while world.coordinator().is_none() && world.fire(until) {
        world.settle_but(|_, _, message| matches!(message, Message::Learn(_)));
    }
    assert!(world.coordinator().is_some_and(|leads| leads != proposer));
    world.crash(proposer, 0);
    world.wires.clear();
    world.run(10_000);
    assert!(world.nodes.iter().filter(|node| node.core.is_some()).all(|node| node.executed == 1));
}

#[test]
fn nothing_is_promised_or_voted_before_it_is_durable() {
    let (mut world, coordinator) = World::led(Setup::of(3));
    let (proposer, voter) = (other(coordinator, &world), (coordinator + 2) % 3);
    let of_voter = |world: &World| world.wires.iter().filter(|(from, ..)| *from == r(voter)).count();
    world.nodes[voter].quick_disk = false;
    let main = Ballot { round: world.ballot(voter), owner: r(coordinator) };
    let odd = Ballot { round: main.round + 1, ..main };
    let next = Ballot { round: main.round + 2, ..main };
    let asks = [
        (proposer, Message::Propose { ballot: main, fast: 0, slot: 0, value: batch(proposer, 1) }),
        (coordinator, Message::Finish { ballot: odd, slot: 1 }),
        (coordinator, Message::Accept { ballot: odd, slot: 2, value: batch(proposer, 3) }),
        (coordinator, Message::Prepare { ballot: next, from: 0 }),
        (coordinator, Message::Lead { ballot: next, fast: Some(3), progress: Progress { decided: 0, known: 0, floor: 0 } }),
    ];
    for (from, message) in asks {
        world.input(voter, Input::Receive { from: r(from), message: message.clone() });
        assert_eq!(of_voter(&world), 0, "{message:?}");
        world.sync(voter);
        assert!(of_voter(&world) > 0, "{message:?}");
        world.wires.clear();
    }
    // A proposal promises nothing.
    world.submit(voter, 9);
    assert_eq!(of_voter(&world), 3);
}

#[test]
fn quorums_that_do_not_meet_as_o4_needs_never_open_a_round() {
    let rules = [
        QuorumRule::Weighted { weights: vec![2, 1, 1, 1] },
        QuorumRule::Counts { prepare: 3, accept: 2, fast: 2 },
        QuorumRule::Counts { prepare: 2, accept: 3, fast: 3 },
    ];
    for rule in rules {
        let quorums = QuorumSystem { voters: ReplicaSet::first(4), rule };
        let (mut world, coordinator) = World::led(Setup { quorums, ..Setup::of(4) });
        let i = other(coordinator, &world);
        world.submit(i, 1);
        assert_eq!(world.nodes[i].refused, [(id(i, 1), Refusal::Redirect(Some(r(coordinator))))]);
        world.input(coordinator, Input::Submit(batch(i, 1)));
        world.run(2_000);
        assert_eq!((world.decided(), world.noted("classic decision"), world.noted("fast decision")), (1, 1, 0));
        assert_eq!(world.detail(i, "fast from"), "-");
    }
    let apart = QuorumRule::Counts { prepare: 1, accept: 3, fast: 4 };
    let quorums = QuorumSystem { voters: ReplicaSet::first(4), rule: apart };
    assert!(world::recover(&Setup { quorums, ..Setup::of(4) }, 0, Vec::new(), 0).is_err());
}

#[test]
fn frequent_collisions_close_the_fast_round_and_calm_opens_it_again() {
    let (mut world, coordinator) = World::led(Setup::of(3));
    let pair = [other(coordinator, &world), (coordinator + 2) % 3];
    for number in 0..12 {
        collide(&mut world, pair, number);
    }
    world.run(250);
    assert_eq!(world.noted("fell back to classic"), 1);
    assert_eq!(world.detail(pair[0], "fast from"), "-");
    world.submit(pair[0], 100);
    assert_eq!(world.nodes[pair[0]].refused.last(), Some(&(id(pair[0], 100), Refusal::Redirect(Some(r(coordinator))))));
    world.run(5_000);
    assert_eq!(world.noted("returned to fast"), 1);
    let before = world.noted("fast decision");
    world.submit(pair[0], 101);
    world.settle();
    assert_eq!(world.noted("fast decision"), before + 1);
    assert_eq!(world.chosen.values().filter_map(Value::id).count(), 25);
}

#[test]
fn who_was_away_learns_what_others_keep_and_fetches_what_they_forgot() {
    for retained_bytes_max in [0, 1 << 20] {
        let (mut world, coordinator) = World::led(Setup { retained_bytes_max, message_bytes_max: 100, ..Setup::of(4) });
        let (i, away) = (other(coordinator, &world), (coordinator + 2) % 4);
        world.isolate(&[away]);
        for number in 0..9 {
            world.submit(i, number);
            world.settle();
        }
        for j in (0..4).filter(|&j| j != away) {
            world.compact(j);
        }
        world.cut.clear();
        // It is even the one that coordinates next: what it does not know is not voted on again.
        world.crash(coordinator, 0);
        world.input(away, Input::Peer(r(coordinator), Health::Down));
        world.run(500);
        for _ in 0..4 {
            world.install(away);
            world.run(1_000);
        }
        assert_eq!(world.nodes[away].executed, 9);
        assert_eq!(world.decided(), 9);
        assert_eq!(world.noted("state fetched for what is forgotten") > 0, retained_bytes_max == 0);
    }
}

#[test]
fn a_read_covers_what_a_fast_quorum_has_voted_for_and_drives_holes_to_an_end() {
    let (mut world, coordinator) = World::led(Setup::of(3));
    let (writer, reader) = (other(coordinator, &world), (coordinator + 2) % 3);
    world.submit(writer, 1);
    world.wires.clear();
    world.submit(writer, 2);
    world.settle();
    assert_eq!(world.decided(), 2, "the second is decided; the first was never heard of");
    let id = world.read(reader, 1);
    world.settle();
    assert_eq!(world.nodes[reader].reads, [(id, 2)]);
    world.run(3_000);
    assert!(world.nodes[reader].executed >= 2);
}

#[test]
fn the_window_is_bounded_for_each_origin() {
    let (mut world, coordinator) = World::led(Setup { window_max: 2, ..Setup::of(3) });
    let i = other(coordinator, &world);
    world.isolate(&[i]);
    for number in 0..4 {
        world.submit(i, number);
    }
    assert_eq!(world.nodes[i].refused, [(id(i, 2), Refusal::Busy), (id(i, 3), Refusal::Busy)]);
    world.cut.clear();
    world.run(5_000);
    assert_eq!(world.chosen.values().filter_map(Value::id).count(), 2);
}

#[test]
fn an_observer_takes_no_part() {
    let (mut world, _) = World::led(Setup::of(3));
    let mut setup = world.setup.clone();
    setup.quorums.voters = ReplicaSet(0b110);
    world.setup = setup;
    world.start(0).expect("nothing contradicts itself");
    world.submit(0, 1);
    world.read(0, 1);
    world.run(1_000);
    assert_eq!(world.nodes[0].refused, [(id(0, 1), Refusal::Redirect(None))]);
    assert!(world.nodes[0].timers.is_empty() && world.demanded.is_empty());
}

#[test]
fn messages_that_make_no_sense_do_nothing() {
    let (mut world, coordinator) = World::led(Setup::of(3));
    let me = other(coordinator, &world);
    let before = world.nodes[me].core.clone();
    let numbers = [0, 1, 2, 3, 1 << 40, (1 << 62) - 1, 1 << 62, u64::MAX - 1, u64::MAX];
    for (round, slot) in numbers.iter().flat_map(|&round| numbers.iter().map(move |&slot| (round, slot))) {
        for owner in [r(0), r(1), r(2), r(63)] {
            let ballot = Ballot { round, owner };
            let value = batch(0, 1);
            let kept = Kept::Open { joined: ballot, vote: Some(Vote { ballot, value: value.clone() }) };
            let messages = [
                Message::Canvass { ballot },
                Message::Canvassed { ballot, granted: true, round: slot },
                Message::Prepare { ballot, from: slot },
                Message::Promised { ballot, from: slot, below: slot, to: round, slots: vec![Reported { slot, kept }] },
                Message::Refused { ballot },
                Message::Propose { ballot, fast: round, slot, value: value.clone() },
                Message::Accept { ballot, slot, value: Value::Noop },
                Message::Voted { ballot, slot, id: None },
                Message::Finish { ballot, slot },
                Message::Joined { ballot, slot, vote: Some(Vote { ballot, value: value.clone() }) },
                Message::Lead { ballot, fast: Some(slot), progress: Progress { decided: 0, known: 0, floor: slot } },
                Message::Followed { ballot, fast: Some(slot), progress: Progress { decided: 0, known: 0, floor: slot } },
                Message::TakeOver { ballot },
                Message::Echo { ballot },
                Message::Learn(Learn::Ask { from: slot }),
                Message::Learn(Learn::Told { first: slot.max(1 << 40), values: vec![Value::Noop; 2], decided: 0 }),
            ];
            for message in messages {
                for at in [me, coordinator] {
                    world.input(at, Input::Receive { from: r(0), message: message.clone() });
                    world.input(at, Input::Receive { from: r(9), message: message.clone() });
                }
                world.wires.clear();
            }
        }
    }
    let ballots = |core: &Option<FastPaxos>| core.as_ref().map(|core| core.inspect().ballot);
    assert!(ballots(&world.nodes[me].core) >= ballots(&before), "nobody panicked, and promises grew at most");
}
