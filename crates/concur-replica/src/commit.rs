//! Commit: what is decided goes to the sequencer, and what execution then waits for is asked of the protocol; how far the members
//! are, and what may be forgotten.

use crate::api::{Decision, Output, PeerStatus};
use crate::replica::Replica;
use concur_core::{AnyInput, Floor, Frontier, Health, Ordering, Phase, REPLICAS_MAX, ReplicaId, ReplicaSet, StateMachine, Time};
use concur_network::Body;

/// After how many heartbeats peers are told again what did not change.
const PROGRESS_AGAIN: u32 = 16;
/// How many heartbeats lie at least between one telling and the next of what changed.
const PROGRESS_EVERY: u32 = 2;
/// In a partial order, a voter that is away and lags by more is not waited for: it is given state.
pub(crate) const LAG_INSTANCES_MAX: u64 = 16_384;

/// What is known of another member.
#[derive(Debug, Default)]
pub(crate) struct Peer {
    /// What it last said that it executed.
    pub(crate) executed: Option<Frontier>,
    /// And holds durably.
    pub(crate) stored: Option<Frontier>,
    /// The life of its disk; 0 until it says.
    pub(crate) incarnation: u64,
    /// When anything came from it.
    pub(crate) heard_at: Time,
    /// Its connection was lost since.
    pub(crate) down: bool,
    /// It is told no more often how far this replica is.
    pub(crate) tell_at: Time,
}

impl Peer {
    /// A member that nothing is known of: its silence counts from now.
    pub(crate) fn met(now: Time) -> Self {
        Self { heard_at: now, ..Self::default() }
    }
}

impl<M: StateMachine> Replica<M> {
    /// These instances are decided.
    pub(crate) fn commit(&mut self, decision: Decision, out: &mut Output) {
        self.decided = true;
        out.decided.extend(self.settings.record_executions.then(|| decision.clone()));
        let Decision { epoch: _, run, value, order, dependencies } = decision;
        self.sequencer.decided(run, value, order, dependencies);
    }

    /// The engine holds the state up to `frontier`.
    pub(crate) fn stored(&mut self, frontier: Frontier, out: &mut Output) {
        self.stored.join(&frontier);
        if std::mem::take(&mut self.bare) {
            self.progress_due = self.now;
        }
        self.installed();
        self.arrive(out);
        self.raise_floor();
    }

    /// A member was heard.
    pub(crate) fn heard(&mut self, from: ReplicaId) {
        if self.other_members().contains(from) {
            let peer = self.peers.entry(from).or_default();
            peer.heard_at = self.now;
            peer.down = false;
        }
    }

    /// A member said how far it is.
    pub(crate) fn progress(&mut self, from: ReplicaId, executed: Frontier, stored: Frontier, incarnation: u64, out: &mut Output) {
        if stored.lanes.len().max(executed.lanes.len()) > REPLICAS_MAX {
            return;
        }
        let (epoch, theirs) = (self.epoch(), executed.epoch);
        self.transfers.arrived(from, &stored);
        if theirs < epoch {
            self.tell_how_far(from, out);
        }
        self.another_life(from, incarnation);
        let Some(peer) = self.peers.get_mut(&from) else { return self.seen_ahead(from, theirs, out) };
        if incarnation < peer.incarnation {
            return; // A life of its disk that is over.
        }
        let entered = theirs == epoch && peer.executed.as_ref().is_some_and(|before| before.epoch < epoch);
        for (known, told) in [(&mut peer.executed, executed), (&mut peer.stored, stored)] {
            match known {
                Some(known) => known.join(&told),
                None => *known = Some(told),
            }
        }
        if entered && self.settings.config.voters().contains(from) {
            // It takes what it could not take before.
            self.inputs.push_back(AnyInput::Peer(from, Health::Up));
        }
        self.seen_ahead(from, theirs, out);
        self.raise_floor();
    }

    /// A member said in which life its disk is. What an earlier one held is gone, and does not make it close behind.
    pub(crate) fn another_life(&mut self, from: ReplicaId, incarnation: u64) {
        if let Some(peer) = self.peers.get_mut(&from).filter(|peer| peer.incarnation < incarnation) {
            (peer.executed, peer.stored, peer.incarnation) = (None, None, incarnation);
        }
    }

    /// Tells the protocol what it may forget.
    pub(crate) fn raise_floor(&mut self) {
        let traits = self.settings.strategy.traits;
        if self.protocol.is_none() || self.stored.epoch != self.epoch() {
            return;
        }
        let floor = match (traits.floor, traits.order) {
            // What is forgotten already needs no second look.
            (Floor::Local, Ordering::Total) if self.stored == self.floor => None,
            (Floor::Local, Ordering::Total) => Some(self.stored.clone()),
            (Floor::Local, Ordering::Partial) if self.settings.absence_max.is_none() => self.floor_among(self.near()),
            (Floor::Local, Ordering::Partial) | (Floor::AllVoters, _) => self.floor_among(self.settings.config.others()),
        };
        let Some(floor) = floor else { return };
        let mut floor = floor;
        self.transfers.hold(&mut floor);
        floor.join(&self.floor);
        if floor != self.floor {
            self.floor.clone_from(&floor);
            self.inputs.push_back(AnyInput::Floor(floor));
        }
    }

    /// What this replica and these hold durably, lane by lane, if all of them told and they are a quorum.
    ///
    /// In a partial order two replicas may each have executed what the other has not; had both forgotten it, neither's state could
    /// replace the other's. So nothing is forgotten that a voter lacks. One that is away holds the floor down until the others go on
    /// without it ([`Replica::keep_promises`]). Where who votes never changes, it is not waited for: should the only replica be lost
    /// that had seen both sides of a partition, what was forgotten on either is lost to the other.
    fn floor_among(&self, others: ReplicaSet) -> Option<Frontier> {
        let config = &self.settings.config;
        let mut floor = self.stored.clone();
        for id in others.iter() {
            // Who has not entered the epoch holds nothing of it.
            floor.keep_prefix(self.peers.get(&id)?.stored.as_ref().filter(|stored| stored.epoch >= config.epoch)?);
        }
        config.quorums.is_quorum(Phase::Accept, others.with(config.me)).then_some(floor)
    }

    /// The voters that were heard lately and do not lag far.
    fn near(&self) -> ReplicaSet {
        let config = &self.settings.config;
        let mine = self.stored.count();
        let keeps_up = |stored: &Frontier| {
            let theirs = if stored.epoch < config.epoch { 0 } else { stored.count() };
            mine.saturating_sub(theirs) <= LAG_INSTANCES_MAX
        };
        let near = |peer: &Peer| self.now.since(peer.heard_at) <= self.silence() && peer.stored.as_ref().is_none_or(keeps_up);
        config.others().iter().filter(|id| self.peers.get(id).is_some_and(near)).collect()
    }

    /// Who is silent for longer is probably away: members say how far they are more often than that.
    pub(crate) fn silence(&self) -> std::time::Duration {
        self.settings.config.election * 4 + self.settings.config.heartbeat * 2 * PROGRESS_AGAIN
    }

    /// By how many decisions a member lags behind whoever is farthest, as far as is known here; `None` if it is in another epoch, or
    /// has not said.
    pub(crate) fn lag(&self, peer: &Peer) -> Option<u64> {
        Some(self.farthest().saturating_sub(self.executed_here(peer)?))
    }

    /// By how many this replica does.
    pub(crate) fn own_lag(&self) -> u64 {
        self.farthest() - self.sequencer.executed_count()
    }

    /// What a member has executed of this epoch, if it is in it.
    fn executed_here(&self, peer: &Peer) -> Option<u64> {
        peer.executed.as_ref().filter(|executed| executed.epoch == self.epoch()).map(Frontier::count)
    }

    /// The most that anybody is known to have executed in this epoch.
    pub(crate) fn farthest(&self) -> u64 {
        let others = self.peers.values().filter_map(|peer| self.executed_here(peer)).max();
        self.sequencer.executed_count().max(others.unwrap_or(0))
    }

    /// What the members last said of themselves.
    pub(crate) fn peer_status(&self) -> Vec<(ReplicaId, PeerStatus)> {
        let status = |(&id, peer): (&ReplicaId, &Peer)| {
            let (executed, stored) = (peer.executed.clone()?, peer.stored.clone()?);
            let (silent, incarnation, lag) = (self.now.since(peer.heard_at), peer.incarnation, self.lag(peer));
            Some((id, PeerStatus { executed, stored, silent, incarnation, lag }))
        };
        self.peers.iter().filter_map(status).collect()
    }

    /// Tells the members how far this replica is, when that changed, and now and then though it did not.
    pub(crate) fn tell_progress(&mut self, out: &mut Output) {
        let again = self.settings.config.heartbeat * (PROGRESS_AGAIN - PROGRESS_EVERY);
        let due = if self.stored == self.progress_told { self.progress_due } else { self.progress_due - again };
        if self.now < due {
            return;
        }
        self.tell_everyone(self.other_members(), out);
    }

    /// Tells these how far this replica is.
    pub(crate) fn tell_everyone(&mut self, to: ReplicaSet, out: &mut Output) {
        self.progress_told.clone_from(&self.stored);
        self.progress_due = self.now + self.settings.config.heartbeat * PROGRESS_AGAIN;
        // Whoever was told how far a bare one is would count on what a crash would take away.
        let incarnation = self.settings.incarnation;
        self.send_body(to, false, if self.bare { Body::HoldsNothing { incarnation } } else { self.how_far() }, out);
    }

    /// Tells one that is in an earlier epoch, but not at every message of its.
    pub(crate) fn tell_how_far(&mut self, to: ReplicaId, out: &mut Output) {
        let (now, again) = (self.now, self.settings.config.heartbeat / 2);
        let peer = self.peers.entry(to).or_default();
        if peer.tell_at > now || self.bare {
            return;
        }
        peer.tell_at = now + again;
        self.send_body(ReplicaSet::one(to), false, self.how_far(), out);
    }

    fn how_far(&self) -> Body {
        Body::Progress { executed: self.sequencer.frontier(), stored: self.stored.clone(), incarnation: self.settings.incarnation }
    }
}
