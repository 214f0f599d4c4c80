//! Fast Paxos in the common world: votes, seals, and a coordinator at rest. (Who coordinates a ballot is part of its name.)

use crate::common::Cast;
use bytes::Bytes;
use concur_core::{Ballot, Corrupt, Seal, Value};
use concur_decision::fastpaxos::{FastPaxos, Record};
use std::time::Duration;

pub(crate) use crate::common::{HEARTBEAT, Setup, batch, id, r};

pub(crate) type World = crate::common::World<FastPaxos>;

impl Cast for FastPaxos {
    const ELECTION: Duration = Duration::from_millis(400);

    fn votes(record: &Record) -> Vec<(u64, Ballot, Value)> {
        match record {
            Record::Voted { slot, ballot, value, .. } => vec![(*slot, *ballot, value.clone())],
            _ => Vec::new(),
        }
    }
}

pub(crate) fn seal(origin: usize, number: u64) -> Value {
    Value::Seal(Seal { id: id(origin, number), body: Bytes::from_static(b"next") })
}

/// A core on its own, from these records and this executed state.
pub(crate) fn recover(setup: &Setup, i: usize, records: Vec<Record>, executed: u64) -> Result<FastPaxos, Corrupt> {
    World::recover(setup, i, records, crate::common::mark(executed, ()))
}

impl World {
    /// Replicas with a coordinator, which they found among themselves, whose ballot is open where that can be, and who are at rest.
    pub(crate) fn led(setup: Setup) -> (Self, usize) {
        let mut world = Self::new(Setup { fresh: false, ..setup });
        world.run(3_000);
        assert!(world.is_quiet(), "at rest");
        let coordinator = world.coordinator().expect("somebody coordinates");
        (world, coordinator)
    }

    pub(crate) fn coordinator(&self) -> Option<usize> {
        self.leader()
    }

    pub(crate) fn detail(&self, i: usize, name: &str) -> String {
        self.inspect(i).details.into_iter().find(|(key, _)| *key == name).expect("a detail").1
    }

    pub(crate) fn ballot(&self, i: usize) -> u64 {
        self.inspect(i).ballot
    }
}
