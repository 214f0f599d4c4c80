//! Raft's scenarios, each named for what it proves, and random schedules.

#[path = "../common/mod.rs"]
mod common;
mod random;
mod world;

use concur_core::*;
use concur_decision::raft::{Entry, Message, Point, Raft, Record, Term};
use world::{Setup, World, batch, entries, mark, r, records, recover};

fn point(term: u64, length: u64) -> Point {
    Point { term: Term(term), length }
}

/// Three voters with a leader that has decided its no-op.
fn led(setup: Setup) -> (World, usize) {
    let mut world = World::new(setup);
    world.run(3_000);
    let leader = world.leader().expect("a leader");
    (world, leader)
}

#[test]
fn figure_7_every_follower_comes_to_the_leaders_log() {
    let logs: [&[u64]; 7] = [
        &[1, 1, 1, 4, 4, 5, 5, 6, 6, 6],
        &[1, 1, 1, 4, 4, 5, 5, 6, 6],
        &[1, 1, 1, 4],
        &[1, 1, 1, 4, 4, 5, 5, 6, 6, 6, 6],
        &[1, 1, 1, 4, 4, 5, 5, 6, 6, 6, 7, 7],
        &[1, 1, 1, 4, 4, 4, 4],
        &[1, 1, 1, 2, 2, 2, 3, 3, 3, 3, 3],
    ];
    let mut world = World::from_records(Setup::of(7), logs.iter().map(|log| records(7, log)).collect());
    world.campaign(0);
    world.settle();
    assert_eq!((world.leader(), world.term(0)), (Some(0), 8));
    for i in 0..7 {
        assert_eq!(world.log(i), [1, 1, 1, 4, 4, 5, 5, 6, 6, 6, 8], "replica {i}");
    }
    assert_eq!(world.decided(), 11);
    assert_eq!(world.noted("suffix truncated"), 4);
}

/// Figure 8 up to (c): the leader of term 4 has its entry of term 2 at a majority, and its own no-op nowhere else.
fn figure_8() -> World {
    let each = [(2, &[1, 2][..]), (2, &[1, 2]), (3, &[1]), (3, &[1]), (3, &[1, 3])];
    let setup = Setup { message_bytes_max: 1, ..Setup::of(5) };
    let mut world = World::from_records(setup, each.iter().map(|&(term, log)| records(term, log)).collect());
    world.crash(4, 0);
    for _ in 0..2 {
        world.campaign(0); // First it learns term 3 from those who refuse.
        world.settle_until(|m| matches!(m, Message::Append { prior, .. } if prior.length == 2));
    }
    assert_eq!((world.leader(), world.term(0)), (Some(0), 4));
    // The probe with the no-op is rejected; the entry of term 2 is sent next, alone, to those who lack it.
    world.cut.insert((r(0), r(1)));
    world.settle_until(|m| matches!(m, Message::Append { prior, .. } if prior.length == 1));
    world.settle_until(|m| matches!(m, Message::Append { prior, .. } if prior.length == 2));
    world
}

#[test]
fn figure_8_an_entry_of_an_older_term_is_not_decided_by_counting() {
    let mut world = figure_8();
    assert_eq!([world.log(0), world.log(2), world.log(3)], [vec![1, 2, 4], vec![1, 2], vec![1, 2]]);
    assert_eq!(world.decided(), 0);
    // (d): it can still be overwritten.
    world.crash(0, 0);
    world.wires.clear();
    world.cut.clear();
    world.start(4).expect("records");
    while world.leader().is_none() {
        world.campaign(4);
        world.settle();
    }
    assert_eq!(world.log(2), [1, 3, world.term(4)]);
    assert_eq!(world.orders[&1], Term(3));
}

#[test]
fn figure_8_an_entry_of_the_own_term_decides_everything_before_it() {
    let mut world = figure_8();
    world.settle();
    assert_eq!(world.decided(), 3);
    assert_eq!(world.orders[&1], Term(2));
}

#[test]
fn a_stale_append_truncates_nothing() {
    let mut world = World::from_records(Setup::of(3), vec![records(2, &[1, 1, 2, 2]); 3]);
    let append = |prior, upto: usize, from: usize| {
        let entries: Vec<Entry> = entries(&[1, 1, 2, 2])[from..upto].to_vec();
        Input::Receive { from: r(0), message: Message::Append { term: Term(2), prior, decided: 0, entries } }
    };
    world.input(1, append(point(0, 0), 1, 0));
    world.input(1, append(point(1, 1), 2, 1));
    world.input(1, append(point(1, 2), 2, 2));
    assert_eq!(world.log(1), [1, 1, 2, 2]);
    let answers: Vec<&Message> = world.wires.iter().map(|(.., message)| message).collect();
    let appended = |length| Message::Appended { term: Term(2), length };
    assert_eq!(answers, [&appended(1), &appended(2), &appended(2)]);
}

#[test]
fn what_an_append_says_is_decided_counts_only_as_far_as_the_logs_agree() {
    let mut world = World::from_records(Setup::of(3), vec![records(2, &[1, 1, 1, 1]); 3]);
    let message = Message::Append { term: Term(2), prior: point(1, 1), decided: 4, entries: entries(&[1, 1])[1..].to_vec() };
    world.input(1, Input::Receive { from: r(0), message });
    assert_eq!(world.decided(), 2, "the entries behind may be others");
    let heartbeat = |decided| Message::Heartbeat { term: Term(2), round: 0, decided };
    world.input(1, Input::Receive { from: r(0), message: heartbeat(point(2, 4)) });
    assert_eq!(world.decided(), 2, "the entry at the end is of another term");
    world.input(1, Input::Receive { from: r(0), message: heartbeat(point(1, 4)) });
    assert_eq!(world.decided(), 4);
}

#[test]
fn a_longer_log_of_an_older_term_does_not_win() {
    let mut world = World::from_records(Setup::of(3), vec![records(3, &[1, 1, 1, 1]), records(3, &[1, 3]), records(3, &[1, 3])]);
    let ask = |log, term| Message::Vote { term: Term(term), log, transfer: false };
    world.input(1, Input::Receive { from: r(0), message: ask(point(1, 4), 4) });
    world.input(1, Input::Receive { from: r(2), message: ask(point(3, 2), 4) });
    let answers: Vec<(ReplicaId, Message)> = world.wires.drain(..).map(|(_, to, message)| (to, message)).collect();
    let voted = |granted| Message::Voted { term: Term(4), granted };
    assert_eq!(answers, [(r(0), voted(false)), (r(2), voted(true))]);
    assert_eq!(world.noted("vote refused: log behind"), 1);
}

#[test]
fn nothing_is_promised_before_it_is_durable() {
    let mut world = World::from_records(Setup::of(3), vec![records(1, &[1]); 3]);
    world.nodes[1].quick_disk = false;
    let vote = Message::Vote { term: Term(2), log: point(1, 1), transfer: false };
    world.input(1, Input::Receive { from: r(0), message: vote });
    assert_eq!(world.wires.len(), 0, "the vote waits");
    world.sync(1);
    assert_eq!(world.wires.drain(..).count(), 1);
    let append = Message::Append { term: Term(2), prior: point(1, 1), decided: 0, entries: entries(&[1, 2])[1..].to_vec() };
    world.input(1, Input::Receive { from: r(0), message: append });
    assert_eq!(world.wires.len(), 0, "the acknowledgement waits");
    world.sync(1);
    assert_eq!(world.wires.drain(..).count(), 1);
    world.campaign(1);
    world.input(1, Input::Receive { from: r(0), message: Message::PreVoted { asked: Term(3), granted: true, term: Term(2) } });
    assert!(world.wires.iter().all(|(.., message)| matches!(message, Message::PreVote { .. })), "the candidacy waits");
    world.sync(1);
    assert!(world.wires.iter().any(|(.., message)| matches!(message, Message::Vote { .. })));
}

#[test]
fn a_leaders_append_does_not_wait_for_its_own_disk() {
    let (mut world, leader) = led(Setup::of(3));
    world.nodes[leader].quick_disk = false;
    world.submit(leader, 1);
    assert_eq!(world.wires.len(), 2, "to both followers, and not to itself");
    assert!(world.wires.iter().all(|(.., message)| matches!(message, Message::Append { .. })));
}

#[test]
fn an_isolated_replica_does_not_disturb_when_it_comes_back() {
    let (mut world, leader) = led(Setup::of(3));
    let (term, other) = (world.term(leader), (leader + 1) % 3);
    world.isolate(&[other]);
    world.run(20_000);
    assert_eq!(world.term(other), term);
    world.cut.clear();
    world.run(5_000);
    assert_eq!((world.leader(), world.term(leader)), (Some(leader), term));
}

#[test]
fn a_replica_that_cannot_hear_the_leader_is_refused_by_those_who_can() {
    let (mut world, leader) = led(Setup::of(3));
    let (term, other) = (world.term(leader), (leader + 1) % 3);
    world.cut.extend([(r(leader), r(other)), (r(other), r(leader))]);
    world.run(20_000);
    assert_eq!((world.leader(), world.term(leader)), (Some(leader), term));
    assert!(world.noted("pre-vote refused") > 0);
    // The connection's end is a hint, which those who hear the leader do not share.
    world.input(other, Input::Peer(r(leader), Health::Down));
    world.run(5_000);
    assert_eq!(world.leader(), Some(leader));
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
fn a_leader_whose_disk_stalls_steps_down() {
    let (mut world, leader) = led(Setup::of(3));
    world.nodes[leader].quick_disk = false;
    world.submit(leader, 1);
    world.run(300);
    assert_eq!(world.nodes[leader].executed, world.decided(), "the others' disks are enough");
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
fn a_read_index_waits_for_an_entry_of_the_own_term() {
    let mut world = World::from_records(Setup::of(3), vec![records(1, &[1, 1]); 3]);
    world.campaign(0);
    world.settle_until(|m| matches!(m, Message::Append { .. }));
    let id = world.read(0, 1);
    let appends = std::mem::take(&mut world.wires);
    world.run(100);
    assert_eq!((world.leader(), world.nodes[0].reads.len()), (Some(0), 0));
    world.wires = appends;
    world.settle();
    assert_eq!(world.nodes[0].reads, [(id, 3)]);
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
fn a_follower_asks_the_leader_for_a_frontier_and_learns_what_is_decided() {
    let (mut world, leader) = led(Setup::of(3));
    let other = (leader + 1) % 3;
    world.submit(leader, 1);
    world.settle();
    let id = world.read(other, 1);
    world.settle();
    assert_eq!(world.nodes[other].reads, [(id, 2)]);
    assert_eq!(world.nodes[other].executed, 2);
    // An old leader cannot confirm, and the follower gives up when it is gone.
    world.isolate(&[leader]);
    let lost = world.read(other, 2);
    let stale = world.read(leader, 1);
    world.run(4_000);
    assert_eq!(world.nodes[other].refused_reads, [(lost, Refusal::Lost)]);
    assert_eq!(world.nodes[leader].refused_reads, [(stale, Refusal::Lost)]);
}

#[test]
fn every_prefix_of_the_records_can_be_started_from() {
    let (mut world, leader) = led(Setup::of(3));
    for number in 0..20 {
        world.submit(leader, number);
        world.settle();
    }
    world.crash(leader, 0);
    world.run(4_000);
    let (leader, stored) = (world.leader().expect("a leader"), |world: &World, i: usize| world.nodes[i].stored.clone());
    for number in 20..30 {
        world.submit(leader, number);
        world.settle();
    }
    for i in 0..3 {
        let all = stored(&world, i);
        for n in 0..=all.len() {
            let core = recover(&world.setup, i, all[..n].to_vec(), Point::default()).expect("a prefix agrees with itself");
            let again = recover(&world.setup, i, core.checkpoint(), Point::default()).expect("a checkpoint too");
            assert_eq!(again.checkpoint(), core.checkpoint());
        }
    }
}

#[test]
fn records_that_contradict_themselves_are_refused() {
    let ballot = |term, vote: Option<u8>| Record::Ballot { term: Term(term), vote: vote.map(ReplicaId) };
    let append = |at, terms: &[u64]| Record::Append { at, entries: entries(terms) };
    let base = |term, length| Record::Base { point: point(term, length) };
    for wrong in [
        vec![ballot(2, None), ballot(1, None)],
        vec![ballot(2, Some(0)), ballot(2, Some(1))],
        vec![ballot(1, None), append(1, &[1])],
        vec![ballot(1, None), append(0, &[2])],
        vec![ballot(2, None), append(0, &[2, 1])],
        vec![ballot(2, None), append(0, &[0])],
        vec![ballot(2, None), base(3, 9)],
        vec![ballot(2, None), base(2, 9), base(2, 8)],
        vec![ballot(2, None), base(2, 9), append(8, &[2])],
    ] {
        assert!(recover(&Setup::of(3), 0, wrong.clone(), Point::default()).is_err(), "{wrong:?}");
    }
    let based = vec![ballot(2, None), base(2, 9)];
    assert!(recover(&Setup::of(3), 0, based.clone(), point(1, 9)).is_err(), "the state contradicts the base");
    assert!(recover(&Setup::of(3), 0, based, point(2, 9)).is_ok());
}

#[test]
fn state_ahead_of_the_log_becomes_its_base() {
    let stored = records(3, &[1, 1, 3, 3]);
    let after = |executed| recover(&Setup::of(3), 0, stored.clone(), executed).expect("consistent").checkpoint();
    assert_eq!(after(point(3, 3)), stored, "the state agrees with the log");
    let base = |term, length| Record::Base { point: point(term, length) };
    assert!(after(point(3, 9)).contains(&base(3, 9)), "the state is beyond the log");
    assert!(after(point(2, 3)).contains(&base(2, 3)), "the log holds what was never decided");
    assert_eq!(after(point(5, 9))[0], Record::Ballot { term: Term(5), vote: None });
}

#[test]
fn installed_state_keeps_a_suffix_that_agrees_and_no_other() {
    for (executed, log) in [(point(1, 2), vec![1, 1, 2, 2]), (point(2, 4), vec![1, 1, 2, 2]), (point(3, 3), vec![]), (point(2, 6), vec![])]
    {
        let mut world = World::from_records(Setup::of(3), vec![records(3, &[1, 1, 2, 2]); 3]);
        world.input(1, Input::Installed(mark(executed)));
        assert_eq!(world.log(1), log, "{executed:?}");
        let again = recover(&world.setup, 1, world.nodes[1].stored.clone(), executed).expect("consistent");
        assert_eq!(again.checkpoint(), world.nodes[1].core.as_ref().expect("running").checkpoint());
    }
}

#[test]
fn a_follower_behind_the_retained_log_is_given_state_and_goes_on_by_log() {
    let (mut world, leader) = led(Setup { retained_bytes_max: 0, ..Setup::of(3) });
    let other = (leader + 1) % 3;
    world.isolate(&[other]);
    for number in 0..10 {
        world.submit(leader, number);
        world.settle();
    }
    world.compact(leader);
    assert_eq!(world.log(leader), []);
    world.submit(leader, 10);
    world.cut.clear();
    world.run(1_000);
    assert_eq!(world.nodes[other].fetches.first(), Some(&(r(leader), 11)));
    world.install(other);
    world.run(1_000);
    assert_eq!(world.nodes[other].executed, 12);
    world.submit(leader, 11);
    world.run(200);
    assert_eq!(world.nodes[other].executed, 13);
}

#[test]
fn a_replica_whose_state_is_behind_its_log_fetches_what_is_missing() {
    let stored = vec![Record::Ballot { term: Term(1), vote: None }, Record::Base { point: point(1, 5) }];
    let mut world = World::from_records(Setup::of(3), vec![stored; 3]);
    for i in [0, 1] {
        world.nodes[i].saved = mark(point(1, 5));
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
    assert_eq!(world.nodes[2].executed, world.decided());
}

#[test]
fn one_voter_is_a_group() {
    let (mut world, leader) = led(Setup::of(1));
    world.nodes[0].quick_disk = false;
    world.submit(leader, 1);
    world.settle();
    assert_eq!(world.decided(), 1, "nothing is decided before it is durable, on one node too");
    world.sync(0);
    world.settle();
    assert_eq!(world.decided(), 2);
    let id = world.read(0, 1);
    assert_eq!(world.nodes[0].reads, [(id, 2)]);
    world.input(0, Input::Leave);
    assert_eq!(world.leader(), Some(0));
}

#[test]
fn the_first_leader_of_an_epoch_needs_no_votes_but_only_in_its_first_run() {
    let mut world = World::new(Setup { first: Some(r(2)), ..Setup::of(3) });
    assert_eq!((world.leader(), world.term(2)), (Some(2), 1));
    world.submit(0, 1);
    assert_eq!(world.nodes[0].refused, [(batch(0, 1).id().expect("named"), Refusal::Redirect(Some(r(2))))]);
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
    assert_eq!((world.role(2), world.term(2)), ("follower", 1));
}

#[test]
fn a_leader_that_leaves_hands_over_to_a_follower_that_has_everything() {
    let (mut world, leader) = led(Setup::of(3));
    world.submit(leader, 1);
    world.input(leader, Input::Leave);
    world.submit(leader, 2);
    assert_eq!(world.nodes[leader].refused, [(batch(leader, 2).id().expect("named"), Refusal::Redirect(None))]);
    world.settle();
    assert!(world.leader().is_some_and(|next| next != leader));
    assert_eq!(world.noted("leadership transferred"), 1);
    assert_eq!(world.decided(), 3);
}

#[test]
fn a_decision_is_told_at_once_to_everyone_if_nothing_else_was_appended() {
    let (mut world, leader) = led(Setup::of(3));
    let (origin, third) = ((leader + 1) % 3, (leader + 2) % 3);
    world.input(leader, Input::Submit(batch(origin, 1)));
    world.settle();
    assert_eq!(world.nodes[origin].executed, 2);
    assert_eq!(world.nodes[third].executed, 2);
}

#[test]
fn a_batch_that_is_under_way_is_not_appended_again_and_the_window_is_bounded() {
    let (mut world, leader) = led(Setup { window_max: 1, ..Setup::of(3) });
    world.isolate(&[leader]);
    for number in 0..65 {
        world.submit(leader, number);
        world.submit(leader, number);
    }
    assert_eq!(world.log(leader).len(), 65);
    assert_eq!(world.nodes[leader].refused.len(), 2);
    assert!(world.nodes[leader].refused.iter().all(|&(_, reason)| reason == Refusal::Busy));
    // Another leader takes over: what was cut off is given back.
    world.run(4_000);
    world.cut.clear();
    world.run(4_000);
    let lost = world.nodes[leader].refused.iter().filter(|&&(_, reason)| reason == Refusal::Lost);
    assert_eq!(lost.count(), 64);
}

#[test]
fn whoever_does_not_vote_is_not_heard() {
    let (mut world, leader) = led(Setup::of(3));
    let (term, stranger) = (world.term(leader), r(9));
    for message in [
        Message::Newer { term: Term(99) },
        Message::Vote { term: Term(99), log: point(99, 99), transfer: true },
        Message::Append { term: Term(99), prior: point(0, 0), decided: 0, entries: entries(&[99]) },
    ] {
        world.input(leader, Input::Receive { from: stranger, message });
    }
    assert_eq!((world.leader(), world.term(leader), world.wires.len()), (Some(leader), term, 0));
}

#[test]
fn messages_that_make_no_sense_are_dropped() {
    let mut world = World::from_records(Setup::of(3), vec![records(3, &[1, 1]); 3]);
    let append = |prior, decided, terms: &[u64]| Message::Append { term: Term(3), prior, decided, entries: entries(terms) };
    for message in
        [append(point(1, u64::MAX), 0, &[3]), append(point(1, 2), 0, &[3, 2]), append(point(1, 2), 0, &[4]), append(point(1, 2), 0, &[0])]
    {
        world.input(1, Input::Receive { from: r(0), message });
    }
    world.input(1, Input::Receive { from: r(0), message: append(point(1, u64::MAX - 1), u64::MAX, &[3]) });
    let newest = Term(u64::MAX);
    for message in [
        Message::Newer { term: newest },
        Message::PreVoted { asked: Term(4), granted: false, term: newest },
        Message::Vote { term: newest, log: point(1, 2), transfer: true },
        Message::Heartbeat { term: Term(3), round: 0, decided: Point { term: newest, length: 1 } },
    ] {
        world.input(1, Input::Receive { from: r(0), message });
    }
    assert_eq!(world.log(1), [1, 1]);
    world.campaign(2);
    world.settle();
    for message in [Message::Appended { term: Term(4), length: u64::MAX }, Message::Heard { term: Term(4), round: u64::MAX }] {
        world.input(2, Input::Receive { from: r(0), message });
    }
    world.input(2, Input::Receive { from: r(0), message: Message::Rejected { term: Term(4), at: 0, hint: u64::MAX } });
    assert_eq!(world.leader(), Some(2));
}

#[test]
fn quorums_that_could_elect_two_leaders_are_refused() {
    let voters = ReplicaSet::first(4);
    let start = |prepare, accept| {
        let quorums = QuorumSystem { voters, rule: QuorumRule::Counts { prepare, accept, fast: 4 } };
        let mut config = (*World::new(Setup::of(4)).nodes[0].cx.config).clone();
        config.quorums = quorums;
        let mut cx = Context::new(Time(0), Rng::new(0), config.into());
        Raft::recover(Boot { records: vec![], mark: mark(Point::default()), first: None, fresh: true, boot: BootCount(1) }, &mut cx).is_ok()
    };
    assert!(start(3, 2));
    assert!(!start(2, 3), "two elections need not share a voter");
    assert!(!start(3, 1), "an election and an append need not");
}

#[test]
fn what_is_written_is_read() {
    let id = ReadId { boot: BootCount(3), number: 4 };
    let (term, at) = (Term(7), point(6, 5));
    for message in [
        Message::PreVote { term, log: at },
        Message::PreVoted { asked: term, granted: true, term },
        Message::Vote { term, log: at, transfer: true },
        Message::Voted { term, granted: false },
        Message::Newer { term },
        Message::HandOver { term },
        Message::Append { term, prior: at, decided: 3, entries: entries(&[6, 7]) },
        Message::Appended { term, length: 9 },
        Message::Rejected { term, at: 5, hint: 2 },
        Message::Behind { term, base: 8 },
        Message::Heartbeat { term, round: 2, decided: at },
        Message::Heard { term, round: 2 },
        Message::Decided { term, decided: at },
        Message::Read { id },
        Message::ReadAt { id, decided: at },
        Message::ReadLost { id },
    ] {
        assert_eq!(Message::from_bytes(&message.to_bytes()), Ok(message));
    }
    for record in records(3, &[1, 2]).into_iter().chain([Record::Base { point: at }]) {
        assert_eq!(Record::from_bytes(&record.to_bytes()), Ok(record));
    }
}
