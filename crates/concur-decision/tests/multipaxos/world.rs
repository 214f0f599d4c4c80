//! Multi-Paxos in the common world: promises and votes, quorums of two sizes, and what a ballot's leader does.

use crate::common::Cast;
use concur_core::{Ballot, Corrupt, Input, Mark, QuorumRule, QuorumSystem, ReplicaSet, Value};
use concur_decision::multipaxos::{Message, MultiPaxos, Record, Timer};

pub(crate) use crate::common::{HEARTBEAT, Setup, batch, r};

pub(crate) type World = crate::common::World<MultiPaxos>;

impl Cast for MultiPaxos {
    /// What is decided and nowhere executed has been answered to nobody.
    fn demand(world: &World) -> u64 {
        world.executed
    }

    fn votes(record: &Record) -> Vec<(u64, Ballot, Value)> {
        match record {
            Record::Accepted { ballot, first, values } => {
                (*first..).zip(values).map(|(slot, value)| (slot, *ballot, value.clone())).collect()
            }
            _ => Vec::new(),
        }
    }
}

pub(crate) fn ballot(round: u64, owner: usize) -> Ballot {
    Ballot { round, owner: r(owner) }
}

/// Quorums in which so many promise and so many vote.
pub(crate) fn counts(voters: usize, prepare: usize, accept: usize) -> QuorumSystem {
    QuorumSystem { voters: ReplicaSet::first(voters), rule: QuorumRule::Counts { prepare, accept, fast: voters } }
}

/// What a replica has persisted that promised this ballot, and voted in these slots at these ballots for batches of these numbers.
pub(crate) fn records(promised: Ballot, votes: &[(u64, Ballot, u64)]) -> Vec<Record> {
    let mut votes = votes.to_vec();
    votes.sort_by_key(|&(_, ballot, _)| ballot);
    let each = votes.into_iter().flat_map(|(slot, ballot, number)| {
        [Record::Promised { ballot }, Record::Accepted { ballot, first: slot, values: vec![batch(0, number)] }]
    });
    each.chain([Record::Promised { ballot: promised }]).collect()
}

pub(crate) fn mark(executed: u64) -> Mark<()> {
    crate::common::mark(executed, ())
}

/// A core on its own, from these records and this executed state.
pub(crate) fn recover(setup: &Setup, i: usize, records: Vec<Record>, executed: u64) -> Result<MultiPaxos, Corrupt> {
    World::recover(setup, i, records, mark(executed))
}

impl World {
    /// Delivers in order until the next message is such a one; what comes from oneself goes first.
    pub(crate) fn settle_until(&mut self, stop: impl Fn(&Message) -> bool) {
        self.settle_but(|from, to, message| from != to && stop(message));
    }

    /// Replica `i` loses patience, and nobody else does.
    pub(crate) fn campaign(&mut self, i: usize) {
        self.now = self.now + MultiPaxos::ELECTION * 3;
        self.input(i, Input::Expired(Timer::Election));
    }

    pub(crate) fn role(&self, i: usize) -> &'static str {
        self.inspect(i).role
    }

    pub(crate) fn ballot(&self, i: usize) -> u64 {
        self.inspect(i).ballot
    }

    /// What was decided, by the numbers of the batches; 0 is a no-op.
    pub(crate) fn numbers(&self) -> Vec<u64> {
        self.chosen.values().map(|value| value.id().map_or(0, |id| id.number)).collect()
    }
}
