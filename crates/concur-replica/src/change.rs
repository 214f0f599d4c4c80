//! Change: who asks for another configuration gets a seal proposed, or is told why not; members that were promised a vote get it
//! once they are close behind.
//!
//! A seal is proposed only if the next voters that are there and close behind form a quorum, so that the pause is short and the
//! group does not end in an epoch that nobody can decide in. One change is proposed at a time by one replica; of those that several
//! propose at once the first executed wins, and the others go back.

use crate::api::{Output, Reply, Token};
use crate::commit::{LAG_INSTANCES_MAX, Peer};
use crate::replica::Replica;
use concur_core::{AnyInput, BatchId, ReplicaId, ReplicaSet, Seal, StateMachine, Time, Value, Wire};
use concur_execution::Level;
use concur_peers::{Change, ChangeError, Configuration, Outcome, Role};
use std::time::Duration;

/// A voter that is there and lags by more decisions is given up until it is close behind.
const SLOW_INSTANCES_MAX: u64 = 2 * LAG_INSTANCES_MAX;

impl<M: StateMachine> Replica<M> {
    /// A client asks for a change.
    pub(crate) fn change(&mut self, token: Token, change: Change, timeout: Duration, out: &mut Output) {
        let deadline = self.now + timeout;
        if let Err(error) = self.propose_change(change, Some((token, deadline)), out) {
            out.notes.push(("change refused", None));
            let (body, stamp) = (Outcome::Refused(error).to_bytes(), self.stamp(Level::Eventual));
            out.replies.push((token, Ok(Reply { body, stamp })));
        }
    }

    fn propose_change(&mut self, mut change: Change, waiting: Option<(Token, Time)>, out: &mut Output) -> Result<(), ChangeError> {
        if self.passage.is_some() {
            return Err(ChangeError::UnderWay { what: format!("epoch {} begins", self.epoch().0) });
        }
        // Who does not vote knows neither how far the others are nor who leads.
        if self.protocol.is_none() {
            return Err(ChangeError::NotIn);
        }
        if let Some(what) = self.flights.change() {
            return Err(ChangeError::UnderWay { what });
        }
        if let Change::Promote { id, incarnation } = &mut change {
            *incarnation = self.ready_to_vote(*id)?;
        }
        let next = self.next_configuration(&change)?;
        let number = self.flights.number();
        let id = BatchId { origin: self.me(), boot: self.settings.boot, number };
        let seal = Value::Seal(Seal { id, body: next.to_bytes() });
        let retry_at = self.now + self.retry_after(0);
        self.flights.begin_seal(number, seal.clone(), waiting, change.to_string(), retry_at);
        out.notes.push(("seal proposed", None));
        self.inputs.push_back(AnyInput::Submit(seal));
        Ok(())
    }

    /// The configuration that a change leads to, if it could decide.
    fn next_configuration(&self, change: &Change) -> Result<Configuration, ChangeError> {
        let find = |name: &str| self.settings.find(name);
        let mut next = self.settings.configuration.next(change, find)?;
        let strategy = find(&next.strategy).ok_or_else(|| ChangeError::NoStrategy { strategy: next.strategy.clone() })?;
        let close = self.close();
        if let Some(blocked) = next.blocked(&strategy, close) {
            return Err(blocked);
        }
        if let Change::Lead { id } = change
            && !close.contains(*id)
        {
            return Err(self.behind(*id));
        }
        // A disk that was seen is the one that votes from now on.
        for member in next.members.iter_mut().filter(|member| member.role.votes() && member.incarnation == 0) {
            member.incarnation = self.incarnation_of(member.id);
        }
        if strategy.traits.has_leader && next.first.is_none() {
            next.first = self.next_leader(close.intersection(next.voters()));
        }
        let term = self.protocol.as_ref().map_or(0, |protocol| protocol.inspect().ballot);
        next.term_base += term + 1;
        Ok(next)
    }

    /// Who leads the next epoch at first: who leads now, if it stays; else this replica, or one that lags least.
    fn next_leader(&self, close: ReplicaSet) -> Option<ReplicaId> {
        let leads = self.protocol.as_ref().and_then(|protocol| protocol.inspect().leader).filter(|&id| close.contains(id));
        let me = Some(self.me()).filter(|&id| close.contains(id));
        let lag = |id: &ReplicaId| self.peers.get(id).and_then(|peer| self.lag(peer)).unwrap_or(u64::MAX);
        leads.or(me).or_else(|| close.iter().min_by_key(|id| lag(id)))
    }

    fn incarnation_of(&self, id: ReplicaId) -> u64 {
        if id == self.me() { self.settings.incarnation } else { self.peers.get(&id).map_or(0, |peer| peer.incarnation) }
    }

    /// The members that are there and close behind, this one too if it is.
    fn close(&self) -> ReplicaSet {
        let close = |(_, peer): &(&ReplicaId, &Peer)| self.is_close(peer);
        let others: ReplicaSet = self.peers.iter().filter(close).map(|(&id, _)| id).collect();
        if self.own_lag() <= self.settings.close_instances_max { others.with(self.me()) } else { others }
    }

    /// Whether a member is there and lags little; should it crash, it comes back in this epoch.
    fn is_close(&self, peer: &Peer) -> bool {
        let is_here = peer.stored.as_ref().is_some_and(|stored| stored.epoch == self.epoch());
        is_here && self.seems_up(peer) && self.lag(peer).is_some_and(|lag| lag <= self.settings.close_instances_max)
    }

    /// The life of the disk with which a member that is close behind would vote.
    fn ready_to_vote(&self, id: ReplicaId) -> Result<u64, ChangeError> {
        let name = || self.settings.configuration.member(id).map_or_else(|| id.to_string(), |member| member.name.clone());
        if self.settings.configuration.member(id).is_none() {
            return Err(ChangeError::NoMember { who: id.to_string() });
        }
        let peer = self.peers.get(&id).filter(|peer| peer.incarnation != 0).ok_or_else(|| ChangeError::NotSeen { name: name() })?;
        if self.is_close(peer) { Ok(peer.incarnation) } else { Err(self.behind(id)) }
    }

    fn behind(&self, id: ReplicaId) -> ChangeError {
        let name = self.settings.configuration.member(id).map_or_else(|| id.to_string(), |member| member.name.clone());
        let all = self.sequencer.executed_count();
        ChangeError::Behind { name, lag: self.peers.get(&id).and_then(|peer| self.lag(peer)).unwrap_or(all) }
    }

    /// Gives those their vote to whom it is promised and who are close behind. The voters take turns, so that not all propose it.
    pub(crate) fn keep_promises(&mut self, out: &mut Output) {
        if self.protocol.is_none() || self.stopping || self.flights.change().is_some() {
            return;
        }
        let promised = self.settings.configuration.members.iter().filter(|member| matches!(member.role, Role::Promised { .. }));
        let Some(id) = promised.map(|member| member.id).find(|id| self.ready_to_vote(*id).is_ok()) else {
            self.promise_seen = None;
            return self.go_on_without_absent(out);
        };
        let seen = *self.promise_seen.get_or_insert(self.now);
        if self.now.since(seen) < self.my_turn() {
            return;
        }
        self.promise_seen = Some(self.now);
        if self.propose_change(Change::Promote { id, incarnation: 0 }, None, out).is_ok() {
            out.notes.push(("promotion proposed", None));
        }
    }

    /// A voter that has long been away, or lacks much, is made an observer, which is promoted when it is back and close behind: what
    /// it lacks would be kept for it.
    fn go_on_without_absent(&mut self, out: &mut Output) {
        let Some(absence) = self.settings.absence_max.filter(|_| !self.settings.strategy.traits.has_leader) else { return };
        let turn = self.my_turn();
        let absent = |id: &ReplicaId| {
            self.peers.get(id).is_some_and(|peer| {
                // Whose disk was lost holds nothing, and has no vote until the member is rebuilt.
                let lost = peer.incarnation != 0 && !self.settings.configuration.may_vote(*id, peer.incarnation);
                let lag = self.lag(peer).unwrap_or(if lost { self.farthest() } else { 0 });
                let silent = self.now.since(peer.heard_at);
                let away = peer.down || silent > self.settings.config.election;
                silent > absence.saturating_add(turn) || lag > if away { LAG_INSTANCES_MAX } else { SLOW_INSTANCES_MAX }
            })
        };
        let Some(id) = self.settings.config.others().iter().find(absent) else { return };
        if self.propose_change(Change::Rebuild { id }, None, out).is_ok() {
            out.notes.push(("absent voter given up", None));
        }
    }

    /// How long this replica leaves it to the voters before it to propose what any of them could.
    fn my_turn(&self) -> Duration {
        let config = &self.settings.config;
        let before = config.others().iter().filter(|&id| id < config.me && self.peers.get(&id).is_some_and(|peer| !peer.down)).count();
        config.election * u32::try_from(before).unwrap_or(u32::MAX)
    }
}
