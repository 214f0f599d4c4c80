//! Memory while a replica is away.
//!
//! Whole replicas, with the real log and rules of forgetting: one is killed, and the others decide over a thousand batches. A protocol
//! that forgets by itself keeps about what it was told to; where nothing may be forgotten that a voter lacks, the replica sees to
//! it that who stays away is gone on without.

use super::Examination;
use crate::fault::{Episode, Fault};
use crate::schedule::{Act, Client, Network, Operation, Options, Schedule};
use crate::world::{Outcome, Verdict, World};
use concur_core::{Floor, Ordering as Order, Protocol, ReplicaId, ReplicaSet};
use concur_kv::Ordering;
use std::time::Duration;

const CLIENTS: u32 = 4;
const EACH: u32 = 300;
/// From when until when one is away.
const AWAY: (Duration, Duration) = (Duration::from_secs(2), Duration::from_secs(10));
const ELECTION: Duration = Duration::from_millis(200);
/// What is to be kept for those who lag: values of some thirty batches, and slots without one between them.
const RETAINED_BYTES_MAX: usize = 2_048;

/// What a protocol kept at some moment.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Kept {
    pub(crate) at: Duration,
    pub(crate) node: usize,
    pub(crate) retained: u64,
    pub(crate) retained_bytes: u64,
}

impl<P: Protocol> Examination<P> {
    /// One of three is away while the others decide over a thousand batches: towards its end they keep a small part of them, and when it
    /// comes back it catches up.
    pub fn bounded_memory(&self) {
        for away in [0, 2] {
            let test = "memory_is_bounded_while_a_replica_is_away";
            self.in_world(test, &format!("3 replicas, r{away} is away"), || {
                let schedule = schedule::<P>(away);
                let (outcome, kept) = World::new(&schedule, false).run_sampled();
                judge(&outcome, &kept, away);
            });
        }
    }
}

fn judge(outcome: &Outcome, kept: &[Kept], away: usize) {
    assert!(outcome.verdict == Verdict::Valid, "it catches up, and every promise is kept: {:?}", outcome.verdict);
    let late = AWAY.0 + (AWAY.1 - AWAY.0) * 3 / 4;
    let batches = u64::from(CLIENTS * EACH);
    assert!(outcome.completed >= batches, "{} of {batches} writes were done", outcome.completed);
    for it in kept.iter().filter(|it| it.node != away && it.at >= late && it.at <= AWAY.1) {
        let Kept { at, node, retained, retained_bytes } = it;
        assert!(*retained <= batches / 8, "at {at:?} r{node} keeps {retained} instances of {batches} batches, though all are executed");
        let most = 4 * RETAINED_BYTES_MAX as u64 + 128 * batches / 8;
        assert!(*retained_bytes <= most, "at {at:?} r{node} keeps {retained_bytes} bytes, where {most} are plenty");
    }
}

/// Clients at those who stay write one short value after the other, each in a batch of its own.
fn schedule<P: Protocol>(away: usize) -> Schedule {
    let options = Options { replicas: Some(3), ordering: Some(Ordering::PerKey), faults: Vec::new(), ..Options::of::<P>() };
    let drawn = Schedule::draw(&options, 7);
    let one_way = vec![vec![Duration::from_micros(300); 3]; 3];
    let network = Network { one_way, jitter: Duration::ZERO, loss_per_million: 0, client: Duration::from_micros(50) };
    let mut tuning = drawn.tuning.clone();
    (tuning.heartbeat, tuning.election) = (ELECTION / 5, ELECTION);
    (tuning.step_max, tuning.window_max, tuning.batches_in_flight_max, tuning.batch_commands_max) = (Duration::ZERO, 64, 8, 1);
    (tuning.retained_bytes_max, tuning.feed_bytes_max, tuning.message_bytes_max) = (RETAINED_BYTES_MAX, RETAINED_BYTES_MAX, 8_192);
    (tuning.sync, tuning.engine) =
        ((Duration::from_micros(100), Duration::from_micros(200)), (Duration::from_millis(1), Duration::from_millis(2)));
    tuning.volume = concur_network::Volume::Broadcast;
    // Where what a voter lacks is kept, one that stays away is made an observer.
    let waits = P::TRAITS.order == Order::Partial || P::TRAITS.floor == Floor::AllVoters;
    tuning.absence_max = waits.then_some(ELECTION * 8);
    let think = (AWAY.1 - AWAY.0) * 2 / 3 / EACH;
    let operation = |number: u32| {
        let think = if number == 0 { AWAY.0 + ELECTION } else { think };
        Operation { number, act: Act::Put, key: (number % 5) as u8, think, padding: 0 }
    };
    let homes: Vec<u8> = (0..3).filter(|&node| usize::from(node) != away).collect();
    let client = |index: u32| Client {
        home: ReplicaId(homes[index as usize % homes.len()]),
        moves: false,
        session: false,
        operations: (0..EACH).map(operation).collect(),
    };
    let episode =
        Episode { fault: Fault::Kill, start: AWAY.0, lasts: AWAY.1 - AWAY.0, nodes: ReplicaSet::one(ReplicaId(away as u8)), strength: 1 };
    let clients = (0..CLIENTS).map(client).collect();
    Schedule { network, tuning, sizes: None, clients, keys: 7, episodes: vec![episode], healed: AWAY.1 + ELECTION, ..drawn }
}
