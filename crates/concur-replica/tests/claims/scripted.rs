//! What a replica does with refusals, silence, and what was decided before a restart.

use crate::pump::{ELECTION, HEARTBEAT, Pump, Setup};
use crate::tally::sum_of;
use crate::toy::{Act, Toy, record, script};
use bytes::Bytes;
use concur_core::{
    Batch, BatchId, BootCount, Footprint, Frontier, Health, Mark, ReadId, Refusal, ReplicaId, SessionId, Strategy, Value, Wire,
};
use concur_network::{Body, Envelope, StateChunk};
use concur_replica::{Event, InSession, Level, Output, Refused, Request, Token};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

const TOY: Strategy = Strategy::of::<Toy>();

fn toy() -> Pump {
    script(|script| *script = Default::default());
    Pump::new(Setup::new(TOY, 1))
}

fn add(pump: &mut Pump, timeout: Duration) -> Token {
    pump.ask(0, Request::Command { session: None, body: Bytes::from_static(&[1, 1]), timeout })
}

#[test]
fn what_is_refused_lost_or_never_answered_is_submitted_again_under_one_name() {
    let mut pump = toy();
    let acts = [Act::Refuse(Refusal::Lost), Act::Refuse(Refusal::Redirect(None)), Act::Swallow, Act::Refuse(Refusal::Busy)];
    script(|script| script.submits.extend(acts));
    let token = add(&mut pump, Duration::from_secs(30));
    assert_eq!(sum_of(&pump.ok(token).body), 1);
    let submitted = script(|script| std::mem::take(&mut script.submitted));
    assert_eq!(submitted.len(), 5);
    assert_eq!(submitted.iter().collect::<BTreeSet<_>>().len(), 1);
}

#[test]
fn a_busy_protocol_is_asked_more_and_more_rarely() {
    let mut pump = toy();
    script(|script| script.submits.extend([Act::Refuse(Refusal::Busy); 1000]));
    let token = add(&mut pump, Duration::from_secs(60));
    pump.run(HEARTBEAT * 80);
    let asked = script(|script| script.submitted.len());
    assert!((8..=16).contains(&asked), "{asked} times in 80 heartbeats");
    assert!(!pump.answers.contains_key(&token));
    script(|script| script.submits.clear());
    pump.ok(token);
}

#[test]
fn while_nobody_can_propose_the_protocol_is_asked_when_it_may_know_more() {
    let mut pump = toy();
    script(|script| script.submits.extend([Act::Refuse(Refusal::Redirect(None)); 1000]));
    add(&mut pump, Duration::from_secs(60));
    pump.run(HEARTBEAT * 10);
    let asked = script(|script| std::mem::take(&mut script.submitted).len());
    assert_eq!(asked, 11, "once a heartbeat where it takes nothing");
    for _ in 0..80 {
        pump.offer(0, Event::Peer(ReplicaId(0), Health::Up));
        pump.run(HEARTBEAT / 8);
    }
    let asked = script(|script| script.submitted.len());
    assert!((38..=41).contains(&asked), "{asked} times in 10 heartbeats, four a heartbeat where it takes something all the time");
}

#[test]
fn a_batch_follows_hints_to_voters_a_few_times_and_then_waits() {
    let mut pump = toy();
    pump.kept = Some(Vec::new());
    let hints = [Some(ReplicaId(9)), Some(ReplicaId(0)), None];
    script(|script| script.submits.extend(hints.map(|hint| Act::Refuse(Refusal::Redirect(hint)))));
    let token = add(&mut pump, Duration::from_secs(30));
    pump.ok(token);
    assert!(pump.kept.take().unwrap().is_empty(), "whoever does not vote is not asked to propose");
}

#[test]
fn overload_is_refused_at_once_and_nothing_that_was_taken_is_lost() {
    script(|script| *script = Default::default());
    let mut pump = Pump::new(Setup { pending_commands_max: 10, batch_commands_max: 4, ..Setup::new(TOY, 1) });
    script(|script| script.submits.push_back(Act::Swallow));
    let tokens: Vec<Token> = (0..30).map(|_| add(&mut pump, Duration::from_secs(30))).collect();
    let busy = |pump: &Pump| pump.answers.values().filter(|answer| **answer == Err(Refused::Busy)).count();
    // One is under way, ten wait.
    assert_eq!((pump.answers.len(), busy(&pump)), (19, 19));
    pump.run(ELECTION * 2);
    assert_eq!((pump.answers.len(), busy(&pump)), (30, 19));
    assert_eq!(tokens.iter().filter(|token| pump.answers[token].is_ok()).count(), 11);
    assert_eq!(pump.count(0, 1), 11);
    let big = Bytes::from(vec![0; 2 << 20]);
    let token = pump.ask(0, Request::Command { session: None, body: big, timeout: Duration::from_secs(1) });
    assert_eq!(pump.answer(token), Err(Refused::TooLarge));
}

#[test]
fn what_was_proposed_may_still_run_and_what_was_not_never_does() {
    let mut pump = toy();
    script(|script| script.submits.push_back(Act::Swallow));
    let proposed = add(&mut pump, ELECTION / 4);
    let waiting = add(&mut pump, ELECTION / 4);
    let late = add(&mut pump, Duration::ZERO);
    pump.run(ELECTION / 2);
    assert_eq!(pump.answers.get(&proposed), Some(&Err(Refused::Unknown)));
    assert_eq!(pump.answers.get(&waiting), Some(&Err(Refused::Expired)));
    assert_eq!(pump.answers.get(&late), Some(&Err(Refused::Expired)));
    pump.run(ELECTION * 2);
    assert_eq!(pump.count(0, 1), 1, "the first ran in the end, the others did not");
}

#[test]
fn a_barrier_is_asked_for_again_and_its_name_is_never_used_again() {
    let mut pump = toy();
    let mut names: Vec<ReadId> = Vec::new();
    for _ in 0..2 {
        script(|script| script.reads.extend([Act::Refuse(Refusal::Lost), Act::Swallow, Act::Refuse(Refusal::Busy)]));
        let write = add(&mut pump, Duration::from_secs(9));
        let sum = sum_of(&pump.ok(write).body);
        let token = pump.strong(0, 1);
        assert_eq!(sum_of(&pump.ok(token).body), sum);
        names.extend(script(|script| std::mem::take(&mut script.asked)));
        pump.crash(0);
        pump.start(0);
    }
    assert_eq!(names.len(), 8);
    assert_eq!(names.iter().collect::<BTreeSet<_>>().len(), 8);
}

#[test]
fn a_read_that_is_never_granted_expires_and_an_eventual_one_does_not_wait() {
    let mut pump = toy();
    script(|script| script.reads.extend([Act::Swallow; 100]));
    let (footprint, query) = (Footprint::Everything, Some(Bytes::from_static(&[1])));
    let strong = Request::Read { level: Level::Strong, footprint: footprint.clone(), query: query.clone(), timeout: ELECTION };
    let strong = pump.ask(0, strong);
    let eventual = pump.ask(0, Request::Read { level: Level::Eventual, footprint, query, timeout: ELECTION });
    assert!(pump.answers[&eventual].is_ok());
    pump.run(ELECTION * 2);
    assert_eq!(pump.answers.get(&strong), Some(&Err(Refused::Expired)));
}

#[test]
fn what_the_records_say_was_decided_is_executed_as_the_replica_starts() {
    let mut pump = toy();
    pump.nodes[0].holds_engine = true;
    for _ in 0..5 {
        let token = add(&mut pump, Duration::from_secs(9));
        pump.ok(token);
    }
    let (before, node) = (pump.replica(0).digest(), &mut pump.nodes[0]);
    node.engine.clear();
    pump.crash(0);
    pump.start(0);
    assert_eq!(pump.count(0, 1), 5);
    assert_eq!(pump.replica(0).digest(), before);
}

#[test]
fn it_starts_from_every_prefix_of_what_the_log_and_the_engine_held() {
    let mut pump = toy();
    pump.nodes[0].holds_engine = true;
    let open = Request::OpenSession { session: SessionId(5), timeout: Duration::from_secs(9) };
    let token = pump.ask(0, open);
    pump.ok(token);
    let place = |number| Some(InSession { session: SessionId(5), number, received_below: 0 });
    // How many records were durable when each bulk was there: the engine never has what the log has not.
    let mut bulks = vec![(0, 0)];
    for number in 0..12 {
        let token = pump.command(0, place(number), &[number as u8, 1]);
        pump.ok(token);
        bulks.push((pump.nodes[0].engine.len(), pump.nodes[0].durable));
    }
    let (records, engine) = (pump.nodes[0].records.clone(), pump.nodes[0].engine.clone());
    for &(written, least) in &bulks {
        for kept in least..=records.len() {
            let mut pump = toy();
            pump.crash(0);
            let node = &mut pump.nodes[0];
            node.records = records[..kept].to_vec();
            node.durable = kept;
            node.engine = engine.iter().take(written).cloned().collect();
            while !node.engine.is_empty() {
                node.write_bulk();
            }
            node.boot = 10;
            pump.start(0);
            let commands = kept.saturating_sub(1) as u64;
            assert_eq!(pump.replica(0).machine().commands(), commands, "{written} bulks, {kept} records");
            for number in 0..commands {
                let token = pump.command(0, place(number), &[number as u8, 1]);
                assert_eq!(sum_of(&pump.ok(token).body), 1);
            }
            assert_eq!(pump.replica(0).machine().commands(), commands);
        }
    }
}

#[test]
fn one_batch_decided_twice_runs_once() {
    script(|script| *script = Default::default());
    let id = BatchId { origin: ReplicaId(4), boot: BootCount(1), number: 8 };
    // One command without a session: a tag, no session, and two bytes.
    let commands = Bytes::from_static(&[0, 0, 2, 6, 1]);
    let batch = Value::Batch(Batch { id, logged_ms: 5, footprint: Footprint::Everything, commands });
    let mut pump = Pump::new(Setup::new(TOY, 1));
    pump.crash(0);
    pump.nodes[0].records = vec![record(batch.clone()), record(Value::Noop), record(batch.clone())];
    pump.nodes[0].durable = 3;
    pump.start(0);
    assert_eq!(pump.count(0, 6), 1);
    assert!(pump.notes.contains("duplicate batch skipped"));
    // Nor is it proposed again for whoever forwards it late.
    let config = pump.config(0);
    let bytes = Envelope { group: config.group, epoch: config.epoch, body: Body::Forward(batch) }.encode();
    pump.offer(0, Event::Message { from: ReplicaId(4), bytes });
    assert!(script(|script| script.submitted.is_empty()));
}

#[test]
fn the_protocol_hears_what_is_stored_and_not_before() {
    let mut pump = toy();
    pump.nodes[0].holds_engine = true;
    let token = add(&mut pump, Duration::from_secs(9));
    pump.ok(token);
    pump.run(HEARTBEAT * 4);
    assert!(script(|script| script.floors.is_empty()));
    pump.nodes[0].holds_engine = false;
    pump.settle(0);
    let epoch = pump.config(0).epoch;
    assert_eq!(script(|script| script.floors.clone()), [Frontier::slots(epoch, 1)]);
    // After a restart it hears at once how far its engine is.
    pump.crash(0);
    script(|script| script.floors.clear());
    pump.start(0);
    assert_eq!(script(|script| script.floors.clone()), [Frontier::slots(epoch, 1)]);
    assert_eq!(Frontier::from_bytes(&Frontier::slots(epoch, 1).to_bytes()), Ok(Frontier::slots(epoch, 1)));
}

/// The state after so many instances, as a peer would send it.
fn state_of(pump: &Pump, length: u64, transfer: u64, last: bool) -> Bytes {
    let config = pump.config(0);
    let mark = Mark { frontier: Frontier::slots(config.epoch, length), orders: vec![Some(Bytes::new())] };
    let sum = (u128::from(length) << 64) | u128::from(length);
    let sum = (Bytes::from_static(b"\x01\x01"), Bytes::copy_from_slice(&sum.to_le_bytes()));
    let configuration = pump.replica(0).status().configuration.to_bytes();
    let entries = vec![(Bytes::from_static(b"\0c"), configuration), (Bytes::from_static(b"\0m"), mark.to_bytes()), sum];
    let body = Body::State(StateChunk { transfer, chunk: 0, last, entries });
    Envelope { group: config.group, epoch: config.epoch, body }.encode()
}

fn asks_for_state(pump: &mut Pump, from: ReplicaId) -> usize {
    let group = pump.config(0).group;
    let sent = pump.kept.replace(Vec::new()).unwrap();
    let asks =
        |bytes: &Bytes| matches!(Envelope::decode(bytes), Ok(Envelope { group: g, body: Body::StateWanted { .. }, .. }) if g == group);
    sent.iter().filter(|(_, outgoing)| outgoing.to == from && asks(&outgoing.bytes)).count()
}

#[test]
fn installed_state_is_told_once_it_is_stored_and_what_it_reaches_is_executed() {
    let mut pump = toy();
    pump.kept = Some(Vec::new());
    pump.nodes[0].holds_engine = true;
    let acts = [Act::Decide(7), Act::Decide(5), Act::Fetch(ReplicaId(1), 5)];
    script(|script| script.submits.extend(acts));
    let unknown = add(&mut pump, Duration::from_secs(30));
    pump.run(ELECTION * 7 / 2);
    assert_eq!(script(|script| script.wanted.clone()), [0]);
    assert_eq!(asks_for_state(&mut pump, ReplicaId(1)), 1);
    // Nobody but the one that was asked is believed.
    let bytes = state_of(&pump, 5, 9, true);
    pump.offer(0, Event::Message { from: ReplicaId(2), bytes: bytes.clone() });
    assert_eq!(pump.count(0, 1), 0);
    pump.offer(0, Event::Message { from: ReplicaId(1), bytes });
    // Slot 5 was decided and is reached; slot 6 is what is lacking before slot 7.
    assert_eq!((pump.count(0, 1), pump.replica(0).status().executed), (5, Frontier::slots(pump.config(0).epoch, 6)));
    assert_eq!(script(|script| script.wanted.clone()), [0, 6]);
    assert!(script(|script| script.installed.is_empty()));
    assert!(pump.replica(0).status().fetching);
    pump.nodes[0].holds_engine = false;
    pump.settle(0);
    assert_eq!(script(|script| script.installed.clone()), [Frontier::slots(pump.config(0).epoch, 5)]);
    assert!(!pump.answers.contains_key(&unknown));
}

#[test]
fn a_crash_between_an_install_and_its_storing_leaves_the_one_state_or_the_other() {
    for written in 0..2 {
        let mut pump = toy();
        pump.kept = Some(Vec::new());
        for _ in 0..3 {
            let token = add(&mut pump, Duration::from_secs(9));
            pump.ok(token);
        }
        pump.nodes[0].holds_engine = true;
        let token = add(&mut pump, Duration::from_secs(9));
        pump.ok(token);
        script(|script| script.submits.push_back(Act::Fetch(ReplicaId(1), 4)));
        script(|script| script.submits.push_back(Act::Fetch(ReplicaId(1), 6)));
        add(&mut pump, Duration::from_secs(30));
        pump.run(ELECTION * 2);
        let bytes = state_of(&pump, 6, 9, true);
        pump.offer(0, Event::Message { from: ReplicaId(1), bytes });
        assert_eq!(pump.count(0, 1), 6);
        // The bulk of the fourth command, then the state in its place, then what was executed since, which is nothing.
        let node = &mut pump.nodes[0];
        assert_eq!(node.engine.iter().map(|(whole, _)| *whole).collect::<Vec<_>>(), [false, true, false]);
        (0..3 * written).for_each(|_| drop(node.write_bulk()));
        node.engine.clear();
        // What a real protocol would have of the peer's instances, the toy has none of: give it the mark's worth.
        let filler = record(Value::Noop);
        node.records.resize(if written == 0 { 4 } else { 6 }, filler);
        node.durable = node.records.len();
        pump.crash(0);
        pump.start(0);
        assert_eq!(pump.count(0, 1), if written == 0 { 4 } else { 6 });
    }
}

#[test]
fn several_steps_into_one_output_leave_the_engine_with_the_last_state() {
    let mut pump = toy();
    let (now, bytes) = (pump.now, state_of(&pump, 6, 9, true));
    script(|script| script.submits.extend([Act::Fetch(ReplicaId(1), 6)]));
    let mut out = Output::default();
    let replica = pump.nodes[0].replica.as_mut().unwrap();
    let request = |token| {
        let request = Request::Command { session: None, body: Bytes::from_static(&[1, 1]), timeout: ELECTION * 9 };
        Event::Request { token: Token(token), request }
    };
    replica.offer(request(1));
    replica.step(now, 1, &mut out);
    assert!(out.bulk.is_none());
    // The batch is taken up at last and executed; then the state comes, in which it is not.
    for later in [ELECTION * 2, ELECTION * 3] {
        replica.step(now + later, 1, &mut out);
        replica.offer(Event::Durable(out.through));
    }
    assert!(out.bulk.is_some());
    replica.offer(Event::Message { from: ReplicaId(1), bytes });
    replica.step(now + ELECTION * 4, 1, &mut out);
    assert_eq!(replica.machine().commands(), 6);
    let (install, bulk) = (out.install.take().unwrap(), out.bulk.take().unwrap());
    let written: BTreeMap<Bytes, Option<Bytes>> =
        install.changes.into_iter().chain(bulk.changes).map(|change| (change.key, change.value)).collect();
    let image = written.into_iter().filter_map(|(key, value)| Some((key, value?))).collect();
    pump.nodes[0].image = image;
    pump.nodes[0].records = vec![record(Value::Noop); 6];
    pump.nodes[0].durable = 6;
    pump.crash(0);
    pump.start(0);
    assert_eq!(pump.replica(0).machine().commands(), 6);
}

#[test]
fn a_silent_source_is_left_for_another_and_given_up_in_the_end() {
    let mut pump = toy();
    pump.kept = Some(Vec::new());
    let first = [Act::Fetch(ReplicaId(1), 5), Act::Fetch(ReplicaId(2), 5), Act::Fetch(ReplicaId(2), 5)];
    script(|script| script.submits.extend(first.into_iter().chain([Act::Swallow; 9])));
    add(&mut pump, Duration::from_secs(60));
    pump.run(ELECTION / 2);
    assert_eq!(asks_for_state(&mut pump, ReplicaId(1)), 1);
    pump.run(ELECTION * 5);
    assert!(asks_for_state(&mut pump, ReplicaId(2)) > 0);
    pump.run(ELECTION * 20);
    assert!(!pump.replica(0).status().fetching);
    assert!(pump.notes.contains("state fetch given up"));
}

#[test]
fn a_replica_that_stops_refuses_what_comes_and_finishes_what_came() {
    let mut pump = toy();
    script(|script| script.submits.push_back(Act::Refuse(Refusal::Lost)));
    let before = add(&mut pump, Duration::from_secs(9));
    pump.offer(0, Event::Leave);
    let after = add(&mut pump, Duration::from_secs(9));
    assert_eq!(pump.answers.get(&after), Some(&Err(Refused::Stopping)));
    pump.ok(before);
}
