//! Classic Paxos, rule by rule.

mod world;

use concur_core::*;
use concur_decision::paxos::{self, Known, Message, Paxos, Proposal, Record, Stretch, Voted};
use concur_decision::slots::{Learn, Vote};
use std::time::Duration;
use world::{Alone, ELECTION, HEARTBEAT, World, ballot, batch, boot, config, r, sent};

fn stretch(first: u64, count: u64, ballot: Ballot) -> Vec<Stretch> {
    vec![Stretch { first, count, ballot }]
}

fn prepare(slot: u64, ballot: Ballot) -> Message {
    Message::Prepare { stretches: stretch(slot, 1, ballot) }
}

fn accept(slot: u64, ballot: Ballot, value: Value) -> Message {
    Message::Accept { noops: Vec::new(), proposals: vec![Proposal { slot, vote: Vote { ballot, value } }] }
}

fn promise(slot: u64, ballot: Ballot) -> Message {
    Message::Promise { joined: stretch(slot, 1, ballot), votes: Vec::new() }
}

fn promise_with(slot: u64, ballot: Ballot, vote: Vote) -> Message {
    Message::Promise { joined: Vec::new(), votes: vec![Voted { slot, ballot, vote }] }
}

fn refused(slot: u64, asked: Ballot, joined: Ballot) -> Message {
    Message::Refused { refusals: vec![paxos::Refusal { slot, asked, joined }] }
}

/// The first of three, which has one value under way in slot 0.
fn proposer() -> Alone {
    let mut one = Alone::new(config(3, 0), boot(Vec::new(), 0));
    let effects = one.step(Input::Submit(batch(0, 0)));
    assert!(matches!(&effects[0], Effect::Persist(Record::Joined { stretches }) if *stretches == stretch(0, 1, ballot(2, 0))));
    assert_eq!(sent(&effects), [prepare(0, ballot(2, 0))]);
    one
}

#[test]
fn a_vote_raises_the_promise() {
    let mut one = Alone::new(config(3, 0), boot(Vec::new(), 0));
    let high = ballot(5, 1);
    assert_eq!(one.answers(1, accept(0, high, batch(1, 0))), [Message::Accepted { voted: stretch(0, 1, high) }]);
    let low = ballot(4, 2);
    assert_eq!(one.answers(2, prepare(0, low)), [refused(0, low, high)]);
    assert_eq!(one.answers(2, accept(0, low, batch(2, 0))), [refused(0, low, high)]);
}

#[test]
fn a_promise_binds_and_is_given_again() {
    let mut one = Alone::new(config(3, 0), boot(Vec::new(), 0));
    let (low, high) = (ballot(1, 1), ballot(1, 2));
    assert_eq!(one.answers(1, prepare(0, low)), [promise(0, low)]);
    assert_eq!(one.answers(2, prepare(0, high)), [promise(0, high)]);
    assert_eq!(one.answers(1, accept(0, low, batch(1, 0))), [refused(0, low, high)]);
    let again = one.hear(2, prepare(0, high));
    assert!(!again.iter().any(|effect| matches!(effect, Effect::Persist(_))));
    assert_eq!(sent(&again), [promise(0, high)]);
}

#[test]
fn the_value_of_the_highest_vote_goes_on_and_not_of_the_highest_promise() {
    let mut records = vec![Record::Joined { stretches: stretch(0, 1, ballot(7, 0)) }];
    records.insert(0, Record::Voted { slot: 0, vote: Vote { ballot: ballot(1, 0), value: batch(0, 9) } });
    let mut one = Alone::new(config(5, 0), boot(records, 0));
    let mut asked = Vec::new();
    for _ in 0..20 {
        asked = sent(&one.step(Input::Expired(concur_decision::paxos::Timer::Tick)));
        if matches!(asked.first(), Some(Message::Prepare { .. })) {
            break;
        }
    }
    let mine = ballot(8, 0);
    assert_eq!(asked[0], prepare(0, mine));
    let vote = |round, owner| Vote { ballot: ballot(round, owner), value: batch(owner, 9) };
    // Its own vote was at (1, 0); the others at (3, 2) and (2, 1), of which the second had joined more.
    assert!(one.answers(0, promise_with(0, mine, vote(1, 0))).is_empty());
    assert!(one.answers(2, promise_with(0, mine, vote(3, 2))).is_empty());
    let requests = one.answers(1, promise_with(0, mine, vote(2, 1)));
    assert_eq!(requests, [accept(0, mine, batch(2, 9))]);
}

#[test]
fn a_lone_write_takes_two_round_trips_wherever_it_is_made() {
    for voters in [1, 2, 3, 5] {
        for site in 0..voters {
            let mut world = World::new(voters);
            for number in 0..10 {
                let begun = world.now;
                world.submit(site, number);
                world.run(HEARTBEAT * 10);
                let (_, at) = world.nodes[site].decided.values().find(|(value, _)| *value == batch(site, number)).expect("decided");
                assert_eq!(at.since(begun), Duration::from_millis(if voters == 1 { 0 } else { 4 }));
            }
            let noops = world.chosen.values().filter(|value| value.is_noop()).count();
            assert!(noops <= 4 * voters, "{noops} no-ops: who is alone wastes no slots");
        }
    }
}

#[test]
fn who_proposes_beside_others_is_not_held_up() {
    let mut world = World::new(3);
    for number in 0..20 {
        let begun = world.now;
        (0..3).for_each(|site| world.submit(site, number));
        world.run(Duration::from_millis(4));
        for site in 0..3 {
            let (value, at) = world.nodes[site].decided.values().find(|(value, _)| *value == batch(site, number)).expect("decided");
            assert_eq!((world.times_decided(value), at.since(begun)), (1, Duration::from_millis(4)));
        }
    }
    assert_eq!(world.notes.get("own value moved to another slot"), None);
    world.run(ELECTION * 3);
    assert!((0..60).all(|slot| world.chosen.contains_key(&slot)));
}

#[test]
fn a_busy_replica_does_not_wait_for_idle_or_dead_ones() {
    let mut world = World::new(5);
    world.crash(3);
    for number in 0..20 {
        world.submit(4, number);
        world.run(Duration::from_millis(4));
        let end = world.chosen.iter().find(|(_, value)| **value == batch(4, number)).map(|(&slot, _)| slot).expect("decided");
        assert!((0..=end).all(|slot| world.nodes[4].decided.contains_key(&slot)), "and in order");
        if number % 5 == 0 {
            world.submit(0, number);
            world.run(Duration::from_millis(4));
        }
    }
}

#[test]
fn who_is_far_away_gets_its_turn_although_the_others_are_quicker() {
    let mut world = World::new(3);
    world.delay = |from, to| Duration::from_millis(if from == r(0) || to == r(0) { 100 } else { 1 });
    world.submit(0, 0);
    for next in 0..1000 {
        for site in 1..3 {
            world.submit(site, next);
        }
        world.run(Duration::from_millis(4));
    }
    assert_eq!(world.times_decided(&batch(0, 0)), 1);
    assert!(world.notes["own value moved to another slot"] <= 12);
}

#[test]
fn what_was_put_to_the_vote_stays_and_what_was_not_moves_on() {
    let (mine, theirs) = (ballot(2, 0), ballot(3, 1));
    let mut one = proposer();
    assert!(one.answers(1, refused(0, mine, theirs)).is_empty(), "a quorum may be found without it");
    let moved = one.answers(2, refused(0, mine, theirs));
    assert!(matches!(&moved[0], Message::Prepare { stretches } if stretches.last().is_some_and(|last| last.first > 0)));

    let mut one = proposer();
    one.answers(0, promise(0, mine));
    assert_eq!(one.answers(1, promise(0, mine)), [accept(0, mine, batch(0, 0))]);
    assert!(one.answers(1, refused(0, mine, theirs)).is_empty());
    assert!(one.answers(2, refused(0, mine, theirs)).is_empty(), "it may be decided where it is");
    // Until it is known that it was not.
    let told = one.answers(1, Message::Decided { chosen: Vec::new(), values: vec![Known { slot: 0, value: batch(1, 0) }] });
    assert!(matches!(&told[0], Message::Prepare { stretches } if stretches.last().is_some_and(|last| last.first > 0)));
}

#[test]
fn nobody_is_asked_before_the_own_ballot_is_durable() {
    let mut world = World::new(3);
    world.nodes[0].stalled = true;
    world.submit(0, 0);
    world.run(HEARTBEAT * 3);
    assert!(world.nodes[1].records.is_empty() && world.chosen.is_empty());
    world.sync(0);
    world.run(HEARTBEAT);
    assert_eq!(world.times_decided(&batch(0, 0)), 1);
}

#[test]
fn no_ballot_is_used_again_after_a_restart() {
    let mut world = World::new(3);
    world.cut.insert(r(0));
    world.submit(0, 0);
    world.run(HEARTBEAT / 2);
    for _ in 0..3 {
        let ballots = |records: &[Record]| -> Vec<Ballot> {
            let stretches = records.iter().filter_map(|record| match record {
                Record::Joined { stretches } => Some(stretches.clone()),
                _ => None,
            });
            stretches
                .flatten()
                .filter(|stretch| (stretch.first..stretch.first + stretch.count).contains(&0))
                .map(|stretch| stretch.ballot)
                .collect()
        };
        let before = ballots(&world.nodes[0].records);
        world.crash(0);
        world.restart(0);
        world.run(ELECTION * 20);
        let after = ballots(&world.nodes[0].records);
        assert!(after.len() > before.len());
        assert!(after.windows(2).all(|pair| pair[0] < pair[1]), "{after:?}");
    }
}

#[test]
fn what_a_dead_proposer_began_is_finished() {
    // It asked for the slot, and nobody voted: a no-op.
    let mut world = World::new(3);
    world.submit(2, 0);
    world.run(Duration::from_millis(1));
    world.crash(2);
    world.run(ELECTION * 5);
    assert!(world.chosen[&2].is_noop());
    assert!(world.notes["hole finished with a no-op"] > 0);
    // One of the others voted: its value.
    let mut world = World::new(3);
    world.submit(2, 0);
    world.run(Duration::from_millis(2));
    world.cut.insert(r(1));
    world.run(Duration::from_millis(1));
    world.crash(2);
    world.cut.clear();
    world.run(ELECTION * 5);
    assert_eq!(world.chosen[&2], batch(2, 0));
    assert!(world.notes["hole finished with a value"] > 0);
}

#[test]
fn a_read_waits_for_what_a_quorum_has_voted_on() {
    let mut world = World::new(3);
    world.submit(0, 0);
    world.run(HEARTBEAT * 5);
    let id = ReadId { boot: BootCount(1), number: 0 };
    world.step(2, Input::Read { id, footprint: Footprint::Everything });
    world.run(HEARTBEAT);
    assert_eq!(world.nodes[2].reads, [(id, Frontier::slots(Epoch(0), 1))]);
}

#[test]
fn what_is_idle_is_quiet() {
    let mut world = World::new(3);
    for number in 0..5 {
        (0..3).for_each(|site| world.submit(site, number));
        world.run(HEARTBEAT);
    }
    world.run(ELECTION * 5);
    assert!(world.nodes.iter().all(|node| node.timers.is_empty()));
    let all = world.nodes[0].decided.len();
    assert!(world.nodes.iter().all(|node| node.decided.len() == all));
}

#[test]
fn a_checkpoint_is_as_good_as_everything_that_was_persisted() {
    let mut world = World::new(3);
    for number in 0..30 {
        (0..3).filter(|&site| (number + site as u64).is_multiple_of(2)).for_each(|site| world.submit(site, number));
        let i = (number % 3) as usize;
        if number % 4 == 1 {
            world.crash(i);
        }
        world.run(HEARTBEAT / 50);
        if number % 4 == 3 {
            world.restart((number as usize + 1) % 3);
        }
        for node in world.nodes.iter().filter(|node| node.core.is_some()) {
            let kept = node.core.as_ref().expect("lives").checkpoint();
            let recover = |records| Alone::new(config(3, 0), boot(records, 0)).core.checkpoint();
            assert_eq!(recover(node.records.clone()), recover(kept.clone()));
            assert_eq!(recover(kept.clone()), kept);
        }
        let dead: Vec<usize> = (0..3).filter(|&i| world.nodes[i].core.is_none()).collect();
        dead.into_iter().for_each(|i| world.restart(i));
    }
}

#[test]
fn records_that_contradict_each_other_are_refused() {
    let joined = |round| Record::Joined { stretches: stretch(3, 1, ballot(round, 1)) };
    let vote = |round| Record::Voted { slot: 3, vote: Vote { ballot: ballot(round, 1), value: batch(1, 0) } };
    for records in [
        vec![joined(2), joined(1)],
        vec![joined(2), vote(1)],
        vec![Record::Chosen { slot: 3 }],
        vec![vote(1), Record::Chosen { slot: 3 }, vote(2)],
        vec![vote(1), Record::Chosen { slot: 3 }, Record::Decided { slot: 3, value: Value::Noop }],
        vec![Record::Joined { stretches: stretch(u64::MAX, 2, ballot(1, 1)) }],
    ] {
        let mut cx = Context::<Paxos>::new(Time(0), Rng::new(1), std::sync::Arc::new(config(3, 0)));
        assert!(Paxos::recover(boot(records, 0), &mut cx).is_err());
    }
}

#[test]
fn whoever_lags_behind_what_is_kept_fetches_state() {
    let decided = |slot| Record::Decided { slot, value: batch(1, slot) };
    let mut full = Alone::new(Config { retained_bytes_max: 0, ..config(3, 0) }, boot((0..10).map(decided).collect(), 0));
    full.step(Input::Floor(Frontier::slots(Epoch(0), 8)));
    let forgotten = Message::Learn(Learn::Forgotten { below: 8 });
    assert_eq!(full.answers(1, prepare(2, ballot(3, 1))), std::slice::from_ref(&forgotten));
    assert_eq!(full.answers(1, Message::Learn(Learn::Ask { from: 2 })), std::slice::from_ref(&forgotten));

    let mut behind = Alone::new(config(3, 1), boot(Vec::new(), 0));
    let id = batch(1, 77).id().expect("a batch");
    behind.step(Input::Submit(batch(1, 77)));
    let effects = behind.hear(0, forgotten);
    assert!(effects.iter().any(|effect| matches!(effect, Effect::Fetch { from, .. } if *from == r(0))));
    let mark = Mark { frontier: Frontier::slots(Epoch(0), 8), orders: Vec::new() };
    let effects = behind.step(Input::Installed(mark));
    assert!(effects.iter().any(|effect| matches!(effect, Effect::Refuse { id: lost, reason: Refusal::Lost } if *lost == id)));
    assert_eq!(behind.core.inspect().undecided, 0);
}

#[test]
fn answers_are_cut_where_a_message_is_full() {
    let decided = |slot| Record::Decided { slot, value: batch(1, slot) };
    let limited = Config { message_bytes_max: 2 * batch(1, 0).size_bytes(), ..config(3, 0) };
    let mut one = Alone::new(limited, boot((0..5).map(decided).collect(), 0));
    let answers = one.answers(1, Message::Prepare { stretches: stretch(0, 6, ballot(3, 1)) });
    let values = |message: &Message| if let Message::Decided { values, .. } = message { values.len() } else { 0 };
    assert_eq!(answers.iter().map(values).filter(|&count| count > 0).collect::<Vec<_>>(), [2, 2, 1]);
    assert!(answers.contains(&promise(5, ballot(3, 1))));
}

#[test]
fn too_much_is_refused_and_observers_say_who_may() {
    let mut one = Alone::new(config(3, 0), boot(Vec::new(), 0));
    let refusal = |effects: Vec<Effect<Paxos>>| {
        effects.into_iter().find_map(|effect| if let Effect::Refuse { reason, .. } = effect { Some(reason) } else { None })
    };
    for number in 0..8 {
        assert_eq!(refusal(one.step(Input::Submit(batch(0, number)))), None);
    }
    assert_eq!(refusal(one.step(Input::Submit(batch(0, 8)))), Some(Refusal::Busy));
    assert_eq!(refusal(one.step(Input::Submit(batch(0, 7)))), None, "it is under way");
    let mut observer = Alone::new(Config { me: r(7), ..config(3, 0) }, boot(Vec::new(), 0));
    assert_eq!(refusal(observer.step(Input::Submit(batch(7, 0)))), Some(Refusal::Redirect(None)));
    assert!(observer.hear(0, prepare(0, ballot(1, 0))).is_empty());
}

#[test]
fn what_makes_no_sense_is_dropped() {
    let mut one = proposer();
    let (huge, mine) = (u64::MAX, ballot(2, 0));
    let learn = [
        Learn::Summary { decided: huge, known: huge },
        Learn::Summary { decided: 9, known: 3 },
        Learn::Told { first: huge, values: vec![Value::Noop; 3], decided: huge },
        Learn::Forgotten { below: huge },
        Learn::Ask { from: huge },
    ];
    let messages = [
        prepare(huge, ballot(1, 1)),
        prepare(3, ballot(1, 2)),
        prepare(3, ballot(0, 1)),
        prepare(3, ballot(huge, 1)),
        Message::Prepare { stretches: stretch(3, huge, ballot(1, 1)) },
        Message::Prepare { stretches: vec![Stretch { first: 3, count: 4096, ballot: ballot(1, 1) }; 3] },
        Message::Prepare { stretches: stretch(3, 0, ballot(1, 1)) },
        Message::Promise { joined: stretch(0, huge, mine), votes: Vec::new() },
        promise_with(huge, mine, Vote { ballot: ballot(1, 1), value: Value::Noop }),
        promise_with(0, mine, Vote { ballot: ballot(9, 1), value: Value::Noop }),
        accept(huge, ballot(1, 1), batch(1, 0)),
        accept(3, ballot(4, 2), batch(1, 0)),
        Message::Accept { noops: stretch(huge, 2, ballot(1, 1)), proposals: Vec::new() },
        Message::Accepted { voted: stretch(huge - 1, 9, mine) },
        refused(0, mine, ballot(huge, 1)),
        Message::Decided { chosen: stretch(huge, 9, mine), values: Vec::new() },
        Message::Decided { chosen: Vec::new(), values: vec![Known { slot: huge, value: Value::Noop }] },
        Message::Lacking { chosen: stretch(huge, 9, mine) },
        Message::Bound { id: ReadId { boot: BootCount(1), number: 1 }, voted: huge },
    ];
    let before = one.core.checkpoint();
    for message in messages.into_iter().chain(learn.map(Message::Learn)) {
        assert!(one.hear(1, message.clone()).is_empty(), "{message:?}");
    }
    assert!(one.hear(9, prepare(3, ballot(1, 9))).is_empty(), "of a stranger");
    assert_eq!(one.core.checkpoint(), before);
    // Two values at one ballot are nobody's doing: the vote stays what it was.
    one.hear(1, accept(3, ballot(4, 1), batch(1, 0)));
    assert!(sent(&one.hear(1, accept(3, ballot(4, 1), batch(1, 1)))).is_empty());
}
