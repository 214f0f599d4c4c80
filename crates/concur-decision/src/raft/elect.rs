//! Elections: patience, pre-votes, votes, check-quorum, and the transfer of leadership.

use super::messages::TERM_MAX;
use super::{
    ELECTED, Follower, Leader, Message, PRE_VOTE_REFUSED, Point, Raft, Reads, Role, STEPPED_DOWN, TRANSFERRED, Term, Timer, Transfer,
    VOTE_REFUSED, replicate::Progress,
};
use concur_core::{Context, Phase, ReplicaId, ReplicaSet, Ticket, Value};
use std::time::Duration;

/// Stands for election.
#[derive(Debug, Clone, Hash)]
pub(super) struct Candidate {
    /// Asks whether it would be elected; its term has not begun yet.
    pub(super) canvassing: bool,
    /// Who said yes.
    votes: ReplicaSet,
    /// The leader asked for this election.
    transfer: bool,
}

impl Raft {
    /// The election timer is due. It is not armed again for each message of the leader, so what was heard since counts first.
    pub(super) fn lose_patience(&mut self, cx: &mut Context<Self>) {
        match &self.role {
            Role::Leader(_) => {}
            Role::Follower(follower) if !follower.down && cx.now < follower.heard + follower.patience => {
                let left = (follower.heard + follower.patience).since(cx.now);
                cx.arm(Timer::Election, left);
            }
            Role::Follower(_) | Role::Candidate(_) => self.canvass(cx),
        }
    }

    /// Asks whether a quorum would vote for this replica in the next term (dissertation §9.6): an isolated replica asks for ever
    /// and raises no term.
    fn canvass(&mut self, cx: &mut Context<Self>) {
        if self.term >= TERM_MAX {
            return;
        }
        self.lose_forwarded(cx);
        self.role = Role::Candidate(Candidate { canvassing: true, votes: ReplicaSet::one(cx.config.me), transfer: false });
        let patience = draw_patience(cx);
        cx.arm(Timer::Election, patience);
        cx.arm(Timer::Pulse, cx.config.heartbeat);
        self.ask_for_votes(cx);
        self.count_votes(cx);
    }

    /// Begins a term and votes for itself. Its own vote counts when it is durable, as everybody's.
    fn stand(&mut self, transfer: bool, cx: &mut Context<Self>) {
        if self.term >= TERM_MAX {
            return;
        }
        let me = cx.config.me;
        self.lose_forwarded(cx);
        self.promise(self.term.next(), Some(me), cx);
        self.role = Role::Candidate(Candidate { canvassing: false, votes: ReplicaSet::EMPTY, transfer });
        let patience = draw_patience(cx);
        cx.arm(Timer::Election, patience);
        cx.arm(Timer::Pulse, cx.config.heartbeat);
        self.ask_for_votes(cx);
        cx.send(ReplicaSet::one(me), Message::Voted { term: self.term, granted: true });
    }

    /// Asks those who have not said yes, for the first time or again.
    pub(super) fn ask_for_votes(&mut self, cx: &mut Context<Self>) {
        let Role::Candidate(candidate) = &self.role else { return };
        let (to, log) = (cx.config.others().minus(candidate.votes), self.log.end());
        if candidate.canvassing {
            // A pre-vote binds nobody, so that nothing has to be durable first.
            cx.send_after(Ticket(0), to, Message::PreVote { term: self.term.next(), log });
        } else {
            cx.send(to, Message::Vote { term: self.term, log, transfer: candidate.transfer });
        }
    }

    pub(super) fn asked_for_pre_vote(&mut self, from: ReplicaId, term: Term, log: Point, cx: &mut Context<Self>) {
        let granted = term > self.term && !self.leader_lives(cx) && log >= self.log.end();
        if !granted {
            cx.note(PRE_VOTE_REFUSED, None);
        }
        // A pre-vote binds nobody, so that nothing has to be durable first.
        cx.send_after(Ticket(0), ReplicaSet::one(from), Message::PreVoted { asked: term, granted, term: self.term });
    }

    pub(super) fn pre_voted(&mut self, from: ReplicaId, asked: Term, granted: bool, term: Term, cx: &mut Context<Self>) {
        match &mut self.role {
            Role::Candidate(candidate) if granted && candidate.canvassing && asked == self.term.next() => {
                candidate.votes.insert(from);
                self.count_votes(cx);
            }
            // A replica whose term lags would never be voted for.
            Role::Candidate(_) if !granted => self.outdated_by(term, cx),
            _ => {}
        }
    }

    pub(super) fn asked_for_vote(&mut self, from: ReplicaId, term: Term, log: Point, transfer: bool, cx: &mut Context<Self>) {
        if term < self.term {
            return cx.send(ReplicaSet::one(from), Message::Newer { term: self.term });
        }
        // Dissertation §4.2.3: a replica that hears its leader does not let others depose it.
        if self.leader_lives(cx) && !transfer {
            return;
        }
        let free = term > self.term || self.vote.is_none() || self.vote == Some(from);
        let granted = free && log >= self.log.end();
        if free && !granted {
            cx.note(VOTE_REFUSED, None);
        }
        let vote = if granted { Some(from) } else { self.vote.filter(|_| term == self.term) };
        if (term, vote) != (self.term, self.vote) {
            self.promise(term, vote, cx);
            self.follow_nobody(cx);
        }
        cx.send(ReplicaSet::one(from), Message::Voted { term, granted });
    }

    pub(super) fn voted(&mut self, from: ReplicaId, term: Term, granted: bool, cx: &mut Context<Self>) {
        if let Role::Candidate(candidate) = &mut self.role
            && !candidate.canvassing
            && granted
            && term == self.term
        {
            candidate.votes.insert(from);
            self.count_votes(cx);
        }
    }

    fn count_votes(&mut self, cx: &mut Context<Self>) {
        let Role::Candidate(candidate) = &self.role else { return };
        if !cx.config.quorums.is_quorum(Phase::Prepare, candidate.votes) {
            return;
        }
        if candidate.canvassing {
            return self.stand(false, cx);
        }
        if candidate.transfer {
            cx.note(TRANSFERRED, None);
        }
        self.lead(cx);
    }

    /// Leads the term, which this replica was elected in or named for. The no-op is appended whatever the log holds, a seal too:
    /// nothing of older terms can be decided otherwise (§5.4.2).
    pub(super) fn lead(&mut self, cx: &mut Context<Self>) {
        assert_eq!(self.vote, Some(cx.config.me), "a leader voted for itself");
        cx.note(ELECTED, None);
        cx.disarm(Timer::Election);
        cx.arm(Timer::Pulse, cx.config.heartbeat);
        let length = self.log.length();
        self.role = Role::Leader(Box::new(Leader {
            opened: length,
            peers: cx.config.voters().iter().map(|id| Progress::probing(id, length, cx.now)).collect(),
            proposed: self.log.iter_from(self.decided).filter_map(|entry| entry.value.id()).collect(),
            reads: Reads::default(),
            transfer: None,
        }));
        self.append(Value::Noop, cx);
        self.replicate(cx);
    }

    /// Somebody knows a later term.
    pub(super) fn outdated_by(&mut self, term: Term, cx: &mut Context<Self>) {
        if term > self.term {
            self.promise(term, None, cx);
            self.follow_nobody(cx);
        }
    }

    /// Takes `from` for the leader of `term`, unless the term is over: then it is told so.
    pub(super) fn follow(&mut self, from: ReplicaId, term: Term, cx: &mut Context<Self>) -> bool {
        if term < self.term {
            cx.send(ReplicaSet::one(from), Message::Newer { term: self.term });
            return false;
        }
        if term > self.term {
            self.promise(term, None, cx);
            self.follow_nobody(cx);
        }
        assert!(!matches!(self.role, Role::Leader(_)), "at most one leader a term");
        if matches!(self.role, Role::Candidate(_)) {
            self.follow_nobody(cx);
        }
        if let Role::Follower(follower) = &mut self.role {
            assert!(follower.leader.is_none_or(|leader| leader == from), "at most one leader a term");
            follower.leader = Some(from);
            follower.heard = cx.now;
            follower.down = false;
        }
        true
    }

    /// Waits for whoever leads next. What waits at a leader or was forwarded to one is given up.
    pub(super) fn follow_nobody(&mut self, cx: &mut Context<Self>) {
        self.lose_forwarded(cx);
        self.lose_waiting(cx);
        let patience = draw_patience(cx);
        self.wait(None, patience, cx);
    }

    /// Waits for a leader.
    pub(super) fn wait(&mut self, leader: Option<ReplicaId>, patience: Duration, cx: &mut Context<Self>) {
        self.role = Role::Follower(Follower { leader, heard: cx.now, patience, down: false });
        cx.disarm(Timer::Pulse);
        cx.arm(Timer::Election, patience);
    }

    /// Whether this replica knows of a leader that it should protect: it leads, or heard the leader within an election timeout and
    /// did not see its connection go down.
    fn leader_lives(&self, cx: &Context<Self>) -> bool {
        match &self.role {
            Role::Leader(_) => true,
            Role::Candidate(_) => false,
            Role::Follower(f) => f.leader.is_some() && !f.down && cx.now.since(f.heard) < cx.config.election,
        }
    }

    /// Whether a leader should go on: it hears a quorum, and its own disk keeps up. (Dissertation §6.2; a message to itself is held
    /// until everything before it is durable, so that silence from itself is a stalled disk.)
    pub(super) fn keeps_quorum(&self, cx: &mut Context<Self>) -> bool {
        let Role::Leader(leader) = &self.role else { return false };
        let heard = leader.those(|peer| cx.now.since(peer.heard) < cx.config.election);
        let enough = cx.config.quorums.is_quorum(Phase::Accept, heard.with(cx.config.me));
        if !enough {
            cx.note(STEPPED_DOWN, None);
        }
        enough && heard.contains(cx.config.me)
    }

    /// The leader's connection went down: whoever saw it asks for votes soon, at slightly different times.
    pub(super) fn peer_down(&mut self, id: ReplicaId, cx: &mut Context<Self>) {
        match &mut self.role {
            Role::Follower(follower) if follower.leader == Some(id) => {
                follower.down = true;
                let spread = u64::try_from(cx.config.heartbeat.as_nanos()).unwrap_or(u64::MAX);
                let soon = Duration::from_nanos(cx.rng.below(spread));
                cx.arm(Timer::Election, soon);
            }
            Role::Leader(leader) => {
                if let Some(peer) = leader.peer(id) {
                    peer.lost(cx.now);
                }
            }
            _ => {}
        }
    }

    /// A connection works again.
    pub(super) fn peer_up(&mut self, id: ReplicaId, cx: &mut Context<Self>) {
        match &mut self.role {
            Role::Leader(leader) => {
                if let Some(peer) = leader.peer(id) {
                    peer.probe_again(cx.now);
                }
                self.replicate(cx);
            }
            Role::Follower(follower) if follower.leader == Some(id) => follower.down = false,
            _ => {}
        }
    }

    /// The node is about to stop: a leader hands over to the follower that has most (dissertation §3.10).
    pub(super) fn leave(&mut self, cx: &mut Context<Self>) {
        let (me, now, election) = (cx.config.me, cx.now, cx.config.election);
        let Role::Leader(leader) = &mut self.role else { return };
        let alive = leader.peers.iter().filter(|peer| peer.id != me && now.since(peer.heard) < election);
        // Of equals the one with the lowest number.
        let best = alive.rev().max_by_key(|peer| peer.matched).map(|peer| peer.id);
        leader.transfer = best.map(|to| Transfer { to, since: now });
        self.hand_over(cx);
    }

    /// Tells the successor to stand as soon as it has everything; after an election timeout this replica leads on.
    pub(super) fn hand_over(&mut self, cx: &mut Context<Self>) {
        let length = self.log.length();
        let Role::Leader(leader) = &mut self.role else { return };
        let Some(Transfer { to, since }) = leader.transfer else { return };
        if cx.now.since(since) >= cx.config.election {
            leader.transfer = None;
        } else if leader.peer(to).is_some_and(|peer| peer.matched == length) {
            // The successor needs votes like anyone; a leader that forgets having asked for this contradicts nothing.
            cx.send_after(self.ballot, ReplicaSet::one(to), Message::HandOver { term: self.term });
        }
    }

    /// The leader wants this replica to lead: no pre-vote, and nobody protects the leader.
    pub(super) fn take_over(&mut self, from: ReplicaId, term: Term, cx: &mut Context<Self>) {
        if term == self.term && self.leader() == Some(from) {
            self.stand(true, cx);
        }
    }
}

/// How long to wait for a leader: one to two election timeouts.
pub(super) fn draw_patience(cx: &mut Context<Raft>) -> Duration {
    let election = cx.config.election;
    election + draw(cx, election)
}

/// A random part of a duration.
pub(super) fn draw(cx: &mut Context<Raft>, of: Duration) -> Duration {
    Duration::from_nanos(cx.rng.below(u64::try_from(of.as_nanos()).unwrap_or(u64::MAX)))
}
