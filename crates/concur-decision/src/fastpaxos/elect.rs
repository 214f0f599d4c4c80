//! Elections: suspicion, the canvass before phase 1, and whom a replica follows.
//!
//! Nobody shows that it lives while nothing is to do. Whoever has something that only a coordinator can bring to an end (a slot that
//! is undecided, a value that it could not propose) ticks and tells the others how far it is; a coordinator that hears of it
//! answers. One that does not for longer than an election timeout, or whose connection broke, is suspected: the replica asks
//! whether a quorum would promise it a higher ballot, and whoever has heard the coordinator lately says no.

use super::{CANVASS_REFUSED, FastPaxos, Message, OVERTAKEN, Record, Role, main_of, one};
use concur_core::{Ballot, Context, Phase, ReplicaId, ReplicaSet, Ticket, Time};
use std::time::Duration;

/// Asks for favour.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Candidate {
    /// The ballot that it would take.
    ballot: Ballot,
    /// Who would promise it.
    granted: ReplicaSet,
    since: Time,
}

impl FastPaxos {
    /// Looks whether a coordinator is missed, and for how long.
    pub(super) fn suspect(&mut self, cx: &mut Context<Self>) {
        match &self.role {
            Role::Follower => {}
            Role::Candidate(candidate) if cx.now.since(candidate.since) < cx.config.election => return self.ask_for_favour(cx),
            // Nobody favours it; perhaps the coordinator lives.
            Role::Candidate(_) => self.role = Role::Follower,
            Role::Preparing(_) | Role::Leading(_) => return,
        }
        if !self.needs_coordinator() {
            self.stalled = None;
            return;
        }
        let gone = self.is_orphan() || self.peers.is_down(self.promised.owner);
        let (since, patience) = match self.stalled {
            Some(stalled) => stalled,
            None => *self.stalled.insert((cx.now, draw_patience(gone, cx))),
        };
        let since = if gone { since } else { since.max(self.heard) };
        // One that broke off in the meantime is not waited for so long.
        let patience = if gone { patience.min(cx.config.election) } else { patience };
        if cx.now.since(since) >= patience {
            self.canvass(cx);
        }
    }

    /// Whether something waits that takes a coordinator.
    pub(super) fn needs_coordinator(&self) -> bool {
        self.is_orphan() || self.wanting || !self.mine.is_empty() || self.has_holes() || self.misses_coordinator()
    }

    /// Whether its connection is known to be broken: somebody else takes over before anything stalls.
    fn misses_coordinator(&self) -> bool {
        matches!(self.role, Role::Follower | Role::Candidate(_)) && self.peers.is_down(self.promised.owner)
    }

    fn canvass(&mut self, cx: &mut Context<Self>) {
        let ballot = Ballot { round: self.next_round(), owner: self.me };
        self.role = Role::Candidate(Candidate { ballot, granted: one(self.me), since: cx.now });
        self.stalled = None;
        self.ask_for_favour(cx);
        self.weigh_favour(cx);
    }

    /// The next even round that is higher than any heard of.
    pub(super) fn next_round(&self) -> u64 {
        (self.round.max(self.promised.round) | 1) + 1
    }

    /// A canvass binds nobody, so that nothing has to be durable first.
    fn ask_for_favour(&mut self, cx: &mut Context<Self>) {
        let Role::Candidate(candidate) = &self.role else { return };
        let (ballot, missing) = (candidate.ballot, cx.config.others().minus(candidate.granted));
        cx.send_after(Ticket(0), missing, Message::Canvass { ballot });
    }

    pub(super) fn asked_for_favour(&mut self, from: ReplicaId, ballot: Ballot, cx: &mut Context<Self>) {
        let granted = ballot > self.promised && !self.protects_coordinator(from, cx);
        if !granted {
            cx.note(CANVASS_REFUSED, None);
        }
        let round = self.round.max(self.promised.round);
        // It binds nobody.
        cx.send_after(Ticket(0), one(from), Message::Canvassed { ballot, granted, round });
        if matches!(self.role, Role::Leading(_)) {
            self.show(one(from), cx);
        }
    }

    /// Whether this replica knows of a coordinator that need not be replaced: it is one, or becomes one, or heard another within an
    /// election timeout.
    fn protects_coordinator(&self, from: ReplicaId, cx: &Context<Self>) -> bool {
        match &self.role {
            Role::Leading(_) | Role::Preparing(_) => true,
            Role::Candidate(_) => false,
            Role::Follower => self.coordinator().is_some_and(|id| id != from) && cx.now.since(self.heard) < cx.config.election,
        }
    }

    pub(super) fn count_favour(&mut self, from: ReplicaId, ballot: Ballot, granted: bool, round: u64, cx: &mut Context<Self>) {
        self.round = self.round.max(round);
        if let Role::Candidate(candidate) = &mut self.role
            && candidate.ballot == ballot
            && granted
        {
            candidate.granted.insert(from);
            self.weigh_favour(cx);
        }
    }

    fn weigh_favour(&mut self, cx: &mut Context<Self>) {
        if let Role::Candidate(candidate) = &self.role
            && cx.config.quorums.is_quorum(Phase::Prepare, candidate.granted)
        {
            self.prepare(None, cx);
        }
    }

    /// The coordinator stops and wants this replica to go on.
    pub(super) fn take_over(&mut self, from: ReplicaId, ballot: Ballot, cx: &mut Context<Self>) {
        if ballot == self.promised && from == ballot.owner && matches!(self.role, Role::Follower | Role::Candidate(_)) {
            self.prepare(None, cx);
        }
    }

    /// Promises a ballot for every slot, or learns that it is fast. Persisted at once, so that whatever is sent afterwards waits.
    pub(super) fn promise(&mut self, ballot: Ballot, fast: Option<u64>, cx: &mut Context<Self>) -> Ticket {
        assert!(ballot >= self.promised, "a promise never falls");
        let higher = ballot > self.promised;
        (self.promised, self.fast) = (ballot, fast);
        self.round = self.round.max(ballot.round);
        if higher {
            (self.stalled, self.heard) = (None, cx.now);
        }
        cx.persist(Record::Promised { ballot, fast })
    }

    /// Takes the owner of a ballot, or of the one that it belongs to, for the coordinator.
    pub(super) fn follow(&mut self, ballot: Ballot, cx: &mut Context<Self>) {
        let main = main_of(ballot);
        if main > self.promised {
            self.promise(main, None, cx);
            self.yield_to_another(cx);
        }
        if main == self.promised {
            self.heard = cx.now;
            self.wanting = false;
            if matches!(self.role, Role::Candidate(_)) {
                self.role = Role::Follower;
            }
        }
    }

    /// Somebody promised a higher ballot. The own one can do nothing there any more.
    pub(super) fn overtaken_by(&mut self, ballot: Ballot, cx: &mut Context<Self>) {
        self.round = self.round.max(ballot.round);
        if ballot > self.promised && main_of(ballot) != self.promised {
            self.yield_to_another(cx);
        }
    }

    fn yield_to_another(&mut self, cx: &mut Context<Self>) {
        if matches!(self.role, Role::Leading(_) | Role::Preparing(_)) {
            cx.note(OVERTAKEN, None);
            self.give_way(cx);
        }
    }

    /// What a coordinator had under way is left to the next. What waits here for a slot is refused; what is in one waits for what
    /// is decided there.
    pub(super) fn give_way(&mut self, cx: &mut Context<Self>) {
        self.role = Role::Follower;
        self.refuse_unplaced(cx);
        self.wake(cx);
    }

    /// A connection broke. If it was the coordinator's, somebody takes over soon.
    pub(super) fn peer_down(&mut self, id: ReplicaId, cx: &mut Context<Self>) {
        self.peers.hint(id, true);
        if id == self.promised.owner && self.place.is_some() {
            self.stalled = None;
            self.wake(cx);
        }
        self.weigh_all(cx);
    }

    /// A connection works again.
    pub(super) fn peer_up(&mut self, id: ReplicaId, cx: &mut Context<Self>) {
        self.peers.hint(id, false);
        if matches!(self.role, Role::Leading(_)) {
            self.show(one(id).intersection(cx.config.others()), cx);
        }
        self.wake(cx);
    }

    /// The node is about to stop. A coordinator hands over to whoever knows most.
    pub(super) fn leave(&mut self, cx: &mut Context<Self>) {
        self.leaving = true;
        if matches!(self.role, Role::Leading(_)) {
            let lives = |id: &ReplicaId| self.peers.lives(*id, election_ticks(cx));
            let fullest = self.peers.fullest(0).filter(lives);
            if let Some(next) = fullest.or_else(|| cx.config.others().iter().find(lives)) {
                // It promises nothing.
                cx.send_after(Ticket(0), one(next), Message::TakeOver { ballot: self.promised });
            }
        }
    }
}

/// How long something may wait for a coordinator: from one to two election timeouts; where there is none, replicas take turns.
fn draw_patience(gone: bool, cx: &mut Context<FastPaxos>) -> Duration {
    let (heartbeat, election) = (cx.config.heartbeat, cx.config.election);
    if gone {
        let turn = u32::try_from(cx.config.index().unwrap_or(0)).unwrap_or(0);
        return heartbeat / 2 * turn + draw(cx, heartbeat);
    }
    election + draw(cx, election)
}

/// A while, shorter than the most.
pub(super) fn draw(cx: &mut Context<FastPaxos>, most: Duration) -> Duration {
    Duration::from_nanos(cx.rng.below(u64::try_from(most.as_nanos()).unwrap_or(u64::MAX)))
}

/// An election timeout, in ticks.
pub(super) fn election_ticks(cx: &Context<FastPaxos>) -> u32 {
    let ticks = cx.config.election.as_nanos() / cx.config.heartbeat.as_nanos().max(1);
    u32::try_from(ticks).unwrap_or(u32::MAX / 8).min(u32::MAX / 8)
}
