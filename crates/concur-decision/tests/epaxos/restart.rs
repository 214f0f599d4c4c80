//! What a voter that starts again still knows.

use bytes::Bytes;
use concur_core::*;
use concur_decision::epaxos::{Chosen, Deps, EPaxos, Message, Record};
use std::sync::Arc;
use std::time::Duration;

const ME: ReplicaId = ReplicaId(1);

/// Replica 1 of three, from these records and a state that covers so much of each lane.
fn start(records: Vec<Record>, executed: [u64; 3]) -> (EPaxos, Context<EPaxos>) {
    let config = Config {
        group: GroupId(1),
        epoch: Epoch(1),
        me: ME,
        quorums: EPaxos::quorums(ReplicaSet::first(3)),
        heartbeat: Duration::from_millis(20),
        election: Duration::from_millis(100),
        window_max: 64,
        message_bytes_max: 4096,
        retained_bytes_max: 0,
    };
    let mut cx = Context::new(Time(0), Rng::new(1), Arc::new(config));
    let frontier = Frontier { epoch: Epoch(1), lanes: executed.map(|below| Lane { below, beyond: RangeSet::new() }).to_vec() };
    let mark = Mark { frontier, orders: vec![None; 3] };
    let boot = Boot { records, mark, first: None, fresh: false, boot: BootCount(2) };
    let core = EPaxos::recover(boot, &mut cx).expect("nothing is corrupt");
    cx.take_effects();
    (core, cx)
}

fn instance(lane: u8, number: u64) -> Instance {
    Instance { lane: LaneId(lane), number }
}

fn nothing() -> Deps {
    Deps(vec![0; 3])
}

fn write(origin: u8, number: u64) -> Value {
    let id = BatchId { origin: ReplicaId(origin), boot: BootCount(1), number };
    Value::Batch(Batch { id, logged_ms: 0, footprint: Footprint::write(Bytes::from_static(b"k")), commands: Bytes::new() })
}

fn pre_accepted(instance: Instance, value: Value) -> Record {
    Record::PreAccepted { instance, value, initial: nothing(), deps: None }
}

fn sent(core: &mut EPaxos, cx: &mut Context<EPaxos>, input: Input<EPaxos>) -> Vec<Message> {
    core.step(input, cx);
    let message = |effect| match effect {
        Effect::Send { message, .. } | Effect::Solicit { message, .. } => Some(message),
        _ => None,
    };
    cx.take_effects().into_iter().filter_map(message).collect()
}

/// Whoever recovers another command that lists none of this one counts the coordinator of this one among those that would have listed it
/// (rule 8), whatever became of it. A coordinator that forgot would let a command be decided fast that is then recovered as nothing.
#[test]
fn a_coordinator_lists_what_of_its_own_was_decided_as_nothing() {
    let own = instance(1, 0);
    let decided = Record::Committed { instance: own, chosen: Chosen::Noop, deps: nothing() };
    let (mut core, mut cx) = start(vec![pre_accepted(own, write(1, 0)), decided], [0; 3]);
    let message = Message::PreAccept { instance: instance(0, 0), value: write(0, 0), deps: nothing() };
    let answers = sent(&mut core, &mut cx, Input::Receive { from: ReplicaId(0), message });
    let expected = Message::PreAccepted { instance: instance(0, 0), deps: Some(Deps(vec![0, 1, 0])) };
    assert!(answers.contains(&expected), "{answers:?}");
}

/// A seal that was noted here and decided elsewhere, as executed state says that came since, ends nothing.
#[test]
fn a_seal_that_executed_state_covers_holds_nothing_up() {
    let id = BatchId { origin: ReplicaId(0), boot: BootCount(1), number: 0 };
    let seal = Value::Seal(Seal { id, body: Bytes::from_static(b"next") });
    let (mut core, mut cx) = start(vec![pre_accepted(instance(0, 0), seal)], [1, 0, 0]);
    let proposed = sent(&mut core, &mut cx, Input::Submit(write(1, 0)));
    assert!(proposed.iter().any(|message| matches!(message, Message::PreAccept { .. })), "{proposed:?}");
}
