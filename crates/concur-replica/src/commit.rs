//! Commit: what is decided goes to the sequencer, and what execution then waits for is asked of the protocol.

use crate::api::{Decision, Output};
use crate::replica::Replica;
use concur_core::{AnyInput, Floor, Frontier, Ordering, Phase, REPLICAS_MAX, ReplicaId, ReplicaSet, StateMachine, Time};
use concur_network::Body;

/// After how many heartbeats peers are told again what did not change.
const PROGRESS_AGAIN: u32 = 16;
/// In a partial order, a voter that lags by more is not waited for: it is given state.
const LAG_INSTANCES_MAX: u64 = 16_384;

/// What is known of another voter.
#[derive(Debug, Default)]
pub(crate) struct Peer {
    /// What it last said that it holds durably.
    pub(crate) stored: Option<Frontier>,
    /// When anything came from it.
    heard_at: Time,
}

impl<M: StateMachine> Replica<M> {
    /// These instances are decided.
    pub(crate) fn commit(&mut self, decision: Decision, out: &mut Output) {
        self.decided = true;
        out.decided.extend(self.record_executions.then(|| decision.clone()));
        let Decision { run, value, order, dependencies } = decision;
        self.sequencer.decided(run, value, order, dependencies);
    }

    /// The engine holds the state up to `frontier`.
    pub(crate) fn stored(&mut self, frontier: Frontier) {
        self.stored.join(&frontier);
        self.installed();
        self.raise_floor();
    }

    /// A voter was heard.
    pub(crate) fn heard(&mut self, from: ReplicaId) {
        if self.settings.config.voters().contains(from) {
            self.peers.entry(from).or_default().heard_at = self.now;
        }
    }

    /// A voter said what it holds durably.
    pub(crate) fn progress(&mut self, from: ReplicaId, stored: Frontier) {
        if stored.epoch != self.settings.config.epoch || stored.lanes.len() > REPLICAS_MAX {
            return;
        }
        let Some(peer) = self.peers.get_mut(&from) else { return };
        self.transfers.arrived(from, &stored);
        match &mut peer.stored {
            Some(known) => known.join(&stored),
            None => peer.stored = Some(stored),
        }
        self.raise_floor();
    }

    /// Tells the protocol what it may forget.
    pub(crate) fn raise_floor(&mut self) {
        let traits = self.settings.strategy.traits;
        let floor = match (traits.floor, traits.order) {
            (Floor::Local, Ordering::Total) => Some(self.stored.clone()),
            (Floor::Local, Ordering::Partial) => self.floor_among(self.near()),
            (Floor::AllVoters, _) => self.floor_among(self.settings.config.others()),
        };
        let Some(floor) = floor else { return };
        let mut floor = self.transfers.hold(floor);
        floor.join(&self.floor);
        if floor != self.floor {
            self.floor.clone_from(&floor);
            self.inputs.push_back(AnyInput::Floor(floor));
        }
    }

    /// What this replica and these hold durably, lane by lane, if all of them told and they are a quorum.
    ///
    /// Where every voter has to, one that is away holds the floor down for everyone: such a protocol bounds what it keeps by not
    /// proposing. In a partial order two replicas may each have executed what the other has not; had both forgotten it, neither's
    /// state could replace the other's. So nothing is forgotten that a voter lacks which is there and keeps up.
    fn floor_among(&self, others: ReplicaSet) -> Option<Frontier> {
        let config = &self.settings.config;
        let mut floor = self.stored.clone();
        for id in others.iter() {
            floor = floor.meet_prefix(self.peers.get(&id)?.stored.as_ref()?);
        }
        config.quorums.is_quorum(Phase::Accept, others.with(config.me)).then_some(floor)
    }

    /// The voters that were heard lately and do not lag far.
    fn near(&self) -> ReplicaSet {
        let config = &self.settings.config;
        let silence = config.election * 4 + config.heartbeat * 2 * PROGRESS_AGAIN;
        let mine = self.stored.count();
        let keeps_up = |stored: &Frontier| mine.saturating_sub(stored.count()) <= LAG_INSTANCES_MAX;
        let near = |peer: &Peer| self.now.since(peer.heard_at) <= silence && peer.stored.as_ref().is_none_or(keeps_up);
        let others = config.others();
        others.iter().filter(|id| self.peers.get(id).is_some_and(near)).collect()
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
