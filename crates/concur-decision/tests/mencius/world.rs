//! Mencius in the common world: owners' slots, and what a revocation decides far ahead.

use crate::common::Cast;
use concur_core::{BatchId, Corrupt, Mark, ReplicaId};
use concur_decision::mencius::{Mencius, Message, Record};

pub(crate) use crate::common::{HEARTBEAT, Setup, batch, id, r};

pub(crate) type World = crate::common::World<Mencius>;

impl Cast for Mencius {
    /// What was skipped at the start is settled once its record is durable, which the checkpoint's is.
    const CHECKPOINT_SETTLES: bool = true;

    /// What is decided far ahead, by a revocation, is nothing to wait for.
    fn demand(world: &World) -> u64 {
        world.acknowledged
    }

    fn end(world: &World) -> u64 {
        world.values().last().map_or(0, |(slot, _)| slot + 1)
    }
}

pub(crate) fn mark(executed: u64) -> Mark<()> {
    crate::common::mark(executed, ())
}

/// A core on its own, from these records and this executed state.
pub(crate) fn recover(setup: &Setup, i: usize, records: Vec<Record>, executed: u64) -> Result<Mencius, Corrupt> {
    World::recover(setup, i, records, mark(executed))
}

impl World {
    /// Delivers only what such messages are, and what comes from oneself; the others stay.
    pub(crate) fn deliver_those(&mut self, those: impl Fn(ReplicaId, ReplicaId, &Message) -> bool) {
        self.settle_but(|from, to, message| from != to && !those(from, to, message));
    }

    /// The slots that hold values, and whose.
    pub(crate) fn values(&self) -> Vec<(u64, BatchId)> {
        self.chosen.iter().filter_map(|(&slot, value)| Some((slot, value.id()?))).collect()
    }

    /// A number that the core says of itself.
    pub(crate) fn says(&self, i: usize, name: &str) -> u64 {
        let details = self.inspect(i).details;
        details.into_iter().find(|(key, _)| *key == name).expect("said").1.parse().expect("a number")
    }
}
