//! What the simulator found, as scenarios of one core.

use bytes::Bytes;
use concur_core::*;
use concur_decision::epaxos::{Chosen, Decided, Deps, EPaxos, Message, Report, Stretch, Timer, Verdict};
use std::sync::Arc;
use std::time::Duration;

const R0: ReplicaId = ReplicaId(0);

fn start(me: u8) -> (EPaxos, Context<EPaxos>) {
    let config = Config {
        group: GroupId(1),
        epoch: Epoch(1),
        me: ReplicaId(me),
        quorums: EPaxos::quorums(ReplicaSet::first(3)),
        heartbeat: Duration::from_millis(20),
        election: Duration::from_millis(100),
        window_max: 64,
        message_bytes_max: 4096,
        retained_bytes_max: 0,
    };
    let mut cx = Context::new(Time(0), Rng::new(1), Arc::new(config));
    let boot = Boot { records: Vec::new(), mark: Mark::start(Epoch(1)), first: None, fresh: false, boot: BootCount(1) };
    let core = EPaxos::recover(boot, &mut cx).expect("nothing is corrupt");
    cx.take_effects();
    (core, cx)
}

fn write(origin: u8, number: u64) -> Value {
    let id = BatchId { origin: ReplicaId(origin), boot: BootCount(1), number };
    Value::Batch(Batch { id, logged_ms: 0, footprint: Footprint::write(Bytes::from_static(b"k")), commands: Bytes::new() })
}

fn instance(lane: u8, number: u64) -> Instance {
    Instance { lane: LaneId(lane), number }
}

/// The messages that a core asks to have sent in one step.
fn step(core: &mut EPaxos, cx: &mut Context<EPaxos>, input: Input<EPaxos>) -> Vec<Message> {
    core.step(input, cx);
    let message = |effect| match effect {
        Effect::Send { message, .. } | Effect::Solicit { message, .. } => Some(message),
        _ => None,
    };
    cx.take_effects().into_iter().filter_map(message).collect()
}

/// A read's answer may name an instance of which the record is not durable yet. If it is lost with a power loss, the others settle
/// the number as a no-op, and the state that comes from them covers it.
#[test]
fn a_number_that_others_settled_is_not_given_out_again() {
    let (mut core, mut cx) = start(2);
    let frontier = Frontier { epoch: Epoch(1), lanes: [0, 0, 2].map(|below| Lane { below, beyond: RangeSet::new() }).to_vec() };
    step(&mut core, &mut cx, Input::Installed(Mark { frontier, orders: vec![None; 3] }));
    let sent = step(&mut core, &mut cx, Input::Submit(write(2, 0)));
    let proposed =
        sent.into_iter().find_map(|message| if let Message::PreAccept { instance, .. } = message { Some(instance) } else { None });
    assert_eq!(proposed, Some(instance(2, 2)));
}

/// Of two replicas that each lack something that the other has forgotten, neither can take the other's state. So those who remember
/// an instance finish it, whoever has forgotten it.
#[test]
fn what_one_replica_forgot_is_finished_by_those_who_remember() {
    let (mut core, mut cx) = start(1);
    let (deps, value) = (Deps(vec![0, 0, 0]), write(0, 0));
    let noted = Message::PreAccept { instance: instance(0, 0), value: value.clone(), deps: deps.clone() };
    step(&mut core, &mut cx, Input::Receive { from: R0, message: noted });
    step(&mut core, &mut cx, Input::Peer(R0, Health::Down));
    let ballot = (0..200).find_map(|_| {
        let sent = step(&mut core, &mut cx, Input::Expired(Timer::Tick));
        sent.into_iter().find_map(|message| if let Message::Recover { ballot, .. } = message { Some(ballot) } else { None })
    });
    let ballot = ballot.expect("a coordinator that is gone is recovered from");

    let gone = Frontier { epoch: Epoch(1), lanes: vec![Lane { below: 1, beyond: RangeSet::new() }] };
    step(&mut core, &mut cx, Input::Receive { from: R0, message: Message::Forgotten { instance: instance(0, 0), gone } });
    let mut sent = Vec::new();
    for from in [1, 2] {
        let report = Report::PreAccepted { value: value.clone(), initial: deps.clone(), equal: true };
        let message = Message::Recovered { instance: instance(0, 0), ballot, report };
        sent.extend(step(&mut core, &mut cx, Input::Receive { from: ReplicaId(from), message }));
    }
    for from in [1, 2] {
        let message = Message::Validated { instance: instance(0, 0), ballot, verdict: Verdict::Possible { doubts: Vec::new() } };
        sent.extend(step(&mut core, &mut cx, Input::Receive { from: ReplicaId(from), message }));
    }
    let put_to_vote = |message: &Message| matches!(message, Message::Accept { chosen: Chosen::Command(voted), .. } if *voted == value);
    assert!(sent.iter().any(put_to_vote), "{sent:?}");
}

/// A link that repeats messages must not make questions and answers multiply.
#[test]
fn an_answer_that_is_repeated_is_not_followed_by_another_question() {
    let (mut core, mut cx) = start(1);
    let decided = vec![Decided { instance: instance(0, 0), value: write(0, 0), deps: Deps(vec![0, 0, 0]) }];
    let rest = Some(Stretch { first: instance(0, 1), count: 5 });
    let answer = Message::Answer { decided, rest };
    let mut questions = || {
        let sent = step(&mut core, &mut cx, Input::Receive { from: R0, message: answer.clone() });
        sent.into_iter().filter(|message| matches!(message, Message::Ask { .. })).count()
    };
    assert_eq!((questions(), questions(), questions()), (1, 0, 0));
}
