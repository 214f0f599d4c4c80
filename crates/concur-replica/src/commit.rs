//! Commit: what is decided goes to the sequencer, and what execution then waits for is asked of the protocol.

use crate::api::Output;
use crate::replica::Replica;
use bytes::Bytes;
use concur_core::{AnyInput, Floor, Frontier, REPLICAS_MAX, ReplicaId, Run, StateMachine, Value};
use concur_network::Body;

/// After how many heartbeats peers are told again what did not change.
const PROGRESS_AGAIN: u32 = 16;

impl<M: StateMachine> Replica<M> {
    /// These instances are decided.
    pub(crate) fn commit(&mut self, run: Run, value: Value, order: Bytes, dependencies: Option<Vec<u64>>) {
        self.decided = true;
        self.sequencer.decided(run, value, order, dependencies);
    }

    /// The engine holds the state up to `frontier`.
    pub(crate) fn stored(&mut self, frontier: Frontier) {
        self.stored.join(&frontier);
        self.installed();
        self.raise_floor();
    }

    /// A voter said what it holds durably.
    pub(crate) fn progress(&mut self, from: ReplicaId, stored: Frontier) {
        let config = &self.settings.config;
        if !config.voters().contains(from) || stored.epoch != config.epoch || stored.lanes.len() > REPLICAS_MAX {
            return;
        }
        let known = self.peers.entry(from).or_insert_with(|| Frontier::start(stored.epoch));
        known.join(&stored);
        if self.settings.strategy.traits.floor == Floor::AllVoters {
            self.raise_floor();
        }
    }

    /// Tells the protocol what it may forget. Where every voter must have executed it, one that was never heard, or is away, holds
    /// the floor down for everyone: such a protocol bounds what it keeps by not proposing.
    pub(crate) fn raise_floor(&mut self) {
        let mut floor = self.stored.clone();
        if self.settings.strategy.traits.floor == Floor::AllVoters {
            for id in self.settings.config.others().iter() {
                let Some(theirs) = self.peers.get(&id) else { return };
                floor = floor.meet_prefix(theirs);
            }
        }
        if floor != self.floor && floor.covers(&self.floor) {
            self.floor = floor.clone();
            self.inputs.push_back(AnyInput::Floor(floor));
        }
    }

    /// Tells the voters how far this replica is, when that changed, and now and then though it did not.
    pub(crate) fn tell_progress(&mut self, out: &mut Output) {
        if self.stored == self.progress_told && self.now < self.progress_due {
            return;
        }
        self.progress_told.clone_from(&self.stored);
        self.progress_due = self.now + self.settings.config.heartbeat * PROGRESS_AGAIN;
        let body = Body::Progress { executed: self.sequencer.frontier(), stored: self.stored.clone() };
        self.send_body(self.settings.config.others(), false, body, out);
    }
}
