//! Bytes that are not what they should be are dropped without effect.

use crate::pump::{Pump, Setup};
use crate::tally::sum_of;
use crate::toy::{Toy, script};
use bytes::Bytes;
use concur_core::*;
use concur_network::{After, Body, Envelope, Fed, Feed, StateChunk};
use concur_peers::Configuration;
use concur_replica::{Event, Replica, Status};
use std::time::Duration;

fn group() -> impl Iterator<Item = Pump> {
    concur_decision::registry().iter().map(|&strategy| {
        let mut pump = Pump::new(Setup::new(strategy, 3));
        pump.kept = Some(Vec::new());
        for n in 0..6 {
            let token = pump.command(n % 3, None, &[n as u8, 1]);
            pump.ok(token);
        }
        pump.converge();
        pump
    })
}

fn seen<M: StateMachine>(replica: &Replica<M>) -> (u64, Frontier, Frontier, u64) {
    let Status { executed, stored, protocol, .. } = replica.status();
    (replica.digest(), executed, stored, protocol.ballot)
}

/// Offers bytes, and lets nothing but them happen.
fn offer(pump: &mut Pump, from: u8, bytes: Bytes) {
    pump.offer(0, Event::Message { from: ReplicaId(from), bytes });
}

fn envelope(pump: &Pump, body: Body) -> Bytes {
    let config = pump.config(0);
    Envelope { group: config.group, epoch: config.epoch, body }.encode()
}

#[test]
fn cut_and_foreign_envelopes_do_nothing() {
    for mut pump in group() {
        let real: Vec<Bytes> = pump.kept.take().unwrap().into_iter().map(|(_, outgoing)| outgoing.bytes).collect();
        let before = seen(pump.replica(0));
        pump.kept = Some(Vec::new());
        for bytes in real.iter().take(200) {
            for cut in 0..bytes.len() {
                offer(&mut pump, 1, bytes.slice(..cut));
            }
            let longer = Bytes::from([&bytes[..], &[0]].concat());
            let Ok(whole) = Envelope::decode(bytes) else { panic!("what was sent is whole") };
            let foreign = Envelope { group: GroupId(999), ..whole.clone() }.encode();
            let stale = Envelope { epoch: Epoch(77), ..whole.clone() }.encode();
            for bytes in [longer, foreign, stale] {
                offer(&mut pump, 1, bytes);
            }
            if let Body::Protocol(message) = &whole.body {
                for cut in 0..message.len() {
                    let body = Body::Protocol(message.slice(..cut));
                    let bytes = envelope(&pump, body);
                    offer(&mut pump, 1, bytes);
                }
            }
            // In this replica's own name, what was never held for the disk.
            offer(&mut pump, 0, bytes.clone());
        }
        assert_eq!(seen(pump.replica(0)), before);
        // What another epoch would hold is asked for, and nothing else is said.
        let asks = |bytes: &Bytes| matches!(Envelope::decode(bytes), Ok(Envelope { body: Body::FollowWanted { .. }, .. }));
        assert!(pump.kept.take().unwrap().iter().all(|(_, outgoing)| asks(&outgoing.bytes)), "nothing is answered");
    }
}

#[test]
fn bodies_that_make_no_sense_do_nothing() {
    for mut pump in group() {
        let before = seen(pump.replica(0));
        let epoch = pump.config(0).epoch;
        let id = BatchId { origin: ReplicaId(2), boot: BootCount(1), number: 70 };
        let batch = Batch { id, logged_ms: 0, footprint: Footprint::Everything, commands: Bytes::new() };
        let wide = Frontier { epoch, lanes: vec![Lane { below: u64::MAX, ..Lane::default() }; 300] };
        let high = Frontier { epoch: Epoch(u64::MAX), lanes: vec![Lane { below: u64::MAX, ..Lane::default() }] };
        let mark = Mark { frontier: high.clone(), orders: vec![Some(Bytes::new()); 3] };
        let mine = BatchId { origin: ReplicaId(0), boot: BootCount(1), number: u64::MAX };
        let chunk = |entries| Body::State(StateChunk { transfer: 0, chunk: 0, last: true, entries });
        let tall = Frontier { epoch, lanes: vec![Lane { below: u64::MAX, ..Lane::default() }; 3] };
        let mut next = Configuration::clone(&pump.replica(0).status().configuration);
        next.epoch = Epoch(epoch.0 + 1);
        let unknown = Configuration { strategy: "nobody knows it".into(), ..next.clone() };
        let empty = Configuration { members: Vec::new(), ..next.clone() };
        let far = Configuration { epoch: Epoch(9), ..next };
        let seals: Vec<Value> = [Bytes::new(), unknown.to_bytes(), empty.to_bytes(), far.to_bytes()]
            .map(|body| Value::Seal(Seal { id: BatchId { origin: ReplicaId(1), boot: BootCount(1), number: 71 }, body }))
            .to_vec();
        let instance = Instance { lane: LaneId(0), number: 0 };
        let fed = seals.iter().map(|seal| Fed { epoch, run: instance.into(), value: seal.clone(), order: Bytes::new() }).collect();
        let feed = Feed { run: BootCount(1), after: After::Frontier(Frontier::start(epoch)), through: 9, entries: fed };
        let state = |configuration: &Configuration| {
            let mark = Mark { frontier: Frontier::start(configuration.epoch), orders: Vec::new() };
            vec![(Bytes::from_static(b"\0c"), configuration.to_bytes()), (Bytes::from_static(b"\0m"), Mark::<Bytes>::to_bytes(&mark))]
        };
        let bodies = [
            Body::Forward(Value::Noop),
            Body::Forward(Value::Batch(batch)), // Another's than the sender's.
            Body::Declined { id: mine, leader: Some(ReplicaId(63)), busy: false },
            Body::Progress { executed: wide.clone(), stored: wide, incarnation: 1 },
            Body::Progress { executed: high.clone(), stored: high, incarnation: 1 },
            Body::StateGone { transfer: u64::MAX },
            chunk(vec![]),
            chunk(vec![(Bytes::from_static(b"\0m"), mark.to_bytes())]),
            Body::Protocol(Bytes::new()),
            Body::Feed(feed),
            Body::FeedGone {},
            Body::HoldsNothing { incarnation: 0 },
            Body::Barrier { id: ReadId { boot: BootCount(9), number: 9 }, frontier: None },
            chunk(state(&unknown)),
            chunk(state(&empty)),
        ];
        let forwarded = seals.into_iter().map(Body::Forward);
        for body in bodies.into_iter().chain(forwarded) {
            for from in [1, 2, 63] {
                if from == 2 && matches!(body, Body::Forward(Value::Batch(_))) {
                    continue;
                }
                let bytes = envelope(&pump, body.clone());
                offer(&mut pump, from, bytes);
            }
        }
        assert_eq!(seen(pump.replica(0)), before);
        // What asks for state is answered, or told that there is none.
        for (transfer, chunk) in [(u64::MAX, 0), (0, u64::MAX), (7, 7)] {
            let bytes = envelope(&pump, Body::StateWanted { transfer, chunk });
            offer(&mut pump, 1, bytes);
        }
        // Counted on or not, who claims to have executed everything changes nothing for anybody.
        let bytes = envelope(&pump, Body::Progress { executed: tall.clone(), stored: tall, incarnation: u64::MAX });
        offer(&mut pump, 1, bytes);
        let token = pump.command(0, None, &[90, 9]);
        assert_eq!(sum_of(&pump.ok(token).body), 9);
        pump.converge();
    }
}

#[test]
fn flipped_bits_outside_a_protocols_own_messages_stop_nothing() {
    for mut pump in group() {
        let mut rng = Rng::new(3);
        let kept = pump.kept.take().unwrap();
        let others = kept.into_iter().map(|(_, outgoing)| outgoing.bytes);
        let others = others.filter(|bytes| Envelope::decode(bytes).is_ok_and(|envelope| !matches!(envelope.body, Body::Protocol(_))));
        for bytes in others.take(300) {
            for _ in 0..20 {
                let mut flipped = bytes.to_vec();
                let at = rng.below(flipped.len() as u64) as usize;
                flipped[at] ^= 1 << rng.below(8);
                let flipped = Bytes::from(flipped);
                let own = Envelope::decode(&flipped).is_ok_and(|envelope| matches!(envelope.body, Body::Protocol(_)));
                if !own {
                    offer(&mut pump, 1 + rng.below(2) as u8, flipped);
                }
            }
        }
        let token = pump.command(1, None, &[90, 9]);
        assert_eq!(sum_of(&pump.ok(token).body), 9);
    }
}

#[test]
fn a_batch_that_cannot_be_read_is_cut_short_alike_everywhere() {
    for mut pump in group() {
        let id = BatchId { origin: ReplicaId(1), boot: BootCount(9), number: 0 };
        // One whole command, then half of one.
        let commands = Bytes::from_static(&[0, 0, 2, 6, 1, 0, 0, 200]);
        let batch = Value::Batch(Batch { id, logged_ms: 0, footprint: Footprint::Everything, commands });
        let before = pump.count(0, 6);
        for index in [0, 2] {
            let bytes = envelope(&pump, Body::Forward(batch.clone()));
            pump.offer(index, Event::Message { from: ReplicaId(1), bytes });
        }
        pump.run(Duration::from_secs(3));
        pump.converge();
        assert!(pump.notes.contains("malformed batch cut short"));
        assert!((0..3).all(|index| pump.count(index, 6) == before + 1));
    }
}

#[test]
fn a_full_inbox_loses_messages_and_nothing_else() {
    script(|script| *script = Default::default());
    let mut pump = Pump::new(Setup::new(Strategy::of::<Toy>(), 1));
    let bytes = envelope(&pump, Body::StateGone { transfer: 1 });
    let replica = pump.nodes[0].replica.as_mut().unwrap();
    let room = replica.settings().inbox_messages_max;
    for _ in 0..room + 5 {
        replica.offer(Event::Message { from: ReplicaId(1), bytes: bytes.clone() });
    }
    let token = pump.command(0, None, &[1, 1]);
    pump.ok(token);
    assert!(pump.notes.contains("inbox full: messages dropped"));
}
