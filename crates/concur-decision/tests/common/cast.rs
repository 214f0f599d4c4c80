//! Who plays in a world: a protocol, its replicas' configuration, and what they are given to decide.

use super::World;
use bytes::Bytes;
use concur_core::*;
use std::time::Duration;

pub(crate) const HEARTBEAT: Duration = Duration::from_millis(100);

/// A protocol, and what its world has to know of it.
pub(crate) trait Cast: Protocol<Record: PartialEq> {
    /// How long silence lasts before somebody takes over.
    const ELECTION: Duration = Duration::from_millis(1000);
    /// Whether a checkpoint, being durable, settles what a replica only waits to have on disk, and what it settles by starting, so that
    /// the two after it say more.
    const CHECKPOINT_SETTLES: bool = false;

    /// What a read that comes now must cover.
    fn demand(world: &World<Self>) -> u64 {
        world.decided()
    }

    /// How far everybody must come to execute.
    fn end(world: &World<Self>) -> u64 {
        world.decided()
    }

    /// What a record votes for: slots, ballots, values.
    fn votes(_: &Self::Record) -> Vec<(u64, Ballot, Value)> {
        Vec::new()
    }
}

/// What the replicas of a world have in common.
#[derive(Debug, Clone)]
pub(crate) struct Setup {
    /// Who votes.
    pub(crate) quorums: QuorumSystem,
    /// How many replicas, behind the voters, do not vote.
    pub(crate) observers: usize,
    pub(crate) seed: u64,
    pub(crate) message_bytes_max: usize,
    pub(crate) retained_bytes_max: usize,
    pub(crate) window_max: usize,
    /// Who leads at first.
    pub(crate) first: Option<ReplicaId>,
    /// Whether who starts without records enters the epoch, and was not there before.
    pub(crate) fresh: bool,
}

impl Setup {
    pub(crate) fn of(voters: usize) -> Self {
        Self {
            quorums: QuorumSystem::majority(ReplicaSet::first(voters)),
            observers: 0,
            seed: 1,
            message_bytes_max: 1 << 20,
            retained_bytes_max: 1 << 20,
            window_max: 8,
            first: None,
            fresh: true,
        }
    }

    pub(crate) fn replicas(&self) -> usize {
        self.quorums.voters.len() + self.observers
    }
}

pub(crate) fn config<P: Cast>(setup: &Setup, i: usize) -> Config {
    Config {
        group: GroupId(1),
        epoch: Epoch(0),
        me: r(i),
        quorums: setup.quorums.clone(),
        heartbeat: HEARTBEAT,
        election: P::ELECTION,
        window_max: setup.window_max,
        message_bytes_max: setup.message_bytes_max,
        retained_bytes_max: setup.retained_bytes_max,
    }
}

pub(crate) fn r(n: usize) -> ReplicaId {
    ReplicaId(n as u8)
}

pub(crate) fn id(origin: usize, number: u64) -> BatchId {
    BatchId { origin: r(origin), boot: BootCount(1), number }
}

pub(crate) fn batch(origin: usize, number: u64) -> Value {
    let commands = Bytes::from_static(b"put");
    Value::Batch(Batch { id: id(origin, number), logged_ms: 0, footprint: Footprint::Everything, commands })
}

/// So many instances are executed, the last in this order.
pub(crate) fn mark<O>(executed: u64, last: O) -> Mark<O> {
    let orders = if executed == 0 { vec![] } else { vec![Some(last)] };
    Mark { frontier: Frontier::slots(Epoch(0), executed), orders }
}
