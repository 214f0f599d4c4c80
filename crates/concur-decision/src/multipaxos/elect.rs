//! Who leads: patience, the round before phase 1, whom to follow, check-quorum, and handing over.
//!
//! A replica that hears no leader first asks everybody whether they hear one. Only if a quorum does not, it prepares a ballot. Nothing is
//! promised in this round, so that a replica that is cut off asks for ever and raises no ballot; one that reaches a part of the others
//! is refused by those who hear the leader, and learns from them what it misses. A leader that hears no quorum, or whose own disk
//! stalls, steps down, so that half a connection keeps nobody in office. No replica is refused for what it lacks.
//!
//! Phase 1 may take longer than an election timeout, where promises come in many parts. So a candidate that gets on is protected as
//! a leader is: by itself, and by those who are being asked for their promise. Two that prepare in turns would never end.

use super::{CANVASS_REFUSED, Candidate, Follower, Message, MultiPaxos, OVERTAKEN, ROUND_MAX, Role, STEPPED_DOWN, Timer, Transfer};
use crate::slots::Learn;
use concur_core::{Ballot, Context, Phase, ReplicaId, ReplicaSet, Ticket, Time};
use std::time::Duration;

/// Asks whether anybody hears a leader.
#[derive(Debug, Clone, Hash)]
pub(super) struct Canvass {
    /// Who hears none.
    granted: ReplicaSet,
    /// Everything below is forgotten by one of them: it is learned or fetched first, so that nobody waits for that in phase 1.
    base: u64,
}

impl MultiPaxos {
    /// The election timer is due. It is not armed again for each message of the leader, so what was heard since counts first.
    pub(super) fn lose_patience(&mut self, cx: &mut Context<Self>) {
        match &self.role {
            Role::Leader(_) => {}
            Role::Follower(follower) if !follower.down && cx.now < follower.heard + follower.patience => {
                let left = (follower.heard + follower.patience).since(cx.now);
                cx.arm(Timer::Election, left);
            }
            Role::Follower(_) | Role::Canvass(_) | Role::Candidate(_) => self.canvass(cx),
        }
    }

    /// Asks everybody whether they hear a leader.
    fn canvass(&mut self, cx: &mut Context<Self>) {
        self.lose_forwarded(cx);
        self.attempts += 1;
        self.role = Role::Canvass(Canvass { granted: ReplicaSet::one(cx.config.me), base: 0 });
        let patience = draw_patience(cx);
        cx.arm(Timer::Election, patience);
        cx.arm(Timer::Pulse, cx.config.heartbeat);
        self.ask_whether_led(cx);
        self.go_on(cx);
    }

    /// Asks everybody, for the first time or again: who heard no leader a while ago may hear one since.
    pub(super) fn ask_whether_led(&self, cx: &mut Context<Self>) {
        // It binds nobody, so that nothing has to be durable first.
        cx.send_after(Ticket(0), cx.config.others(), Message::PrePrepare { attempt: self.attempts });
    }

    pub(super) fn asked_whether_led(&mut self, from: ReplicaId, attempt: u64, cx: &mut Context<Self>) {
        let granted = !self.leader_lives(cx) && !self.is_being_elected(from, cx);
        if !granted {
            cx.note(CANVASS_REFUSED, None);
        }
        let (base, decided) = (self.slots.base(), self.slots.decided());
        let round = self.round.max(self.promised.round);
        // It binds nobody, so that nothing has to be durable first.
        cx.send_after(Ticket(0), ReplicaSet::one(from), Message::PrePrepared { attempt, granted, round, base, decided });
    }

    pub(super) fn pre_prepared(
        &mut self,
        from: ReplicaId,
        attempt: u64,
        granted: bool,
        round: u64,
        [base, decided]: [u64; 2],
        cx: &mut Context<Self>,
    ) {
        self.round = self.round.max(round);
        let known = self.slots.decided();
        let Role::Canvass(canvass) = &mut self.role else { return };
        if attempt != self.attempts {
            return;
        }
        if !granted {
            canvass.granted.remove(from);
            // Whoever hears a leader knows what it decides; this replica may be the only one that does not.
            return self.learn(from, Learn::Summary { decided, known: decided }, cx);
        }
        canvass.granted.insert(from);
        canvass.base = canvass.base.max(base);
        if base > known {
            self.fetch_from(from, base, cx);
        }
        self.go_on(cx);
    }

    /// Takes a candidate further, if it has what it waits for.
    pub(super) fn go_on(&mut self, cx: &mut Context<Self>) {
        match &self.role {
            Role::Canvass(canvass) => {
                let enough = cx.config.quorums.is_quorum(Phase::Prepare, canvass.granted);
                if enough && self.slots.decided() >= canvass.base {
                    self.stand(false, cx);
                }
            }
            Role::Candidate(_) => self.count_promises(cx),
            Role::Follower(_) | Role::Leader(_) => {}
        }
    }

    /// Prepares a ballot above every one that is known. It is joined here first, durably, before anybody hears of it: a later run of
    /// this process begins above it, so that no ballot is used twice.
    fn stand(&mut self, transfer: bool, cx: &mut Context<Self>) {
        let round = self.round.max(self.promised.round) + 1;
        if round > ROUND_MAX {
            return;
        }
        self.lose_forwarded(cx);
        self.promise(Ballot { round, owner: cx.config.me }, cx);
        self.role = Role::Candidate(Box::new(Candidate::new(self.slots.decided(), transfer, cx.now)));
        cx.arm(Timer::Pulse, cx.config.heartbeat);
        self.extend_patience(cx);
        self.prepare(cx.config.voters(), cx);
    }

    /// A candidate that gets on is given more time.
    pub(super) fn extend_patience(&self, cx: &mut Context<Self>) {
        let patience = draw_patience(cx);
        cx.arm(Timer::Election, patience);
    }

    /// Somebody has joined a higher ballot, so that this replica's own will not get through.
    pub(super) fn outdated_by(&mut self, ballot: Ballot, cx: &mut Context<Self>) {
        self.round = self.round.max(ballot.round);
        if ballot > self.promised && matches!(self.role, Role::Candidate(_) | Role::Leader(_)) {
            cx.note(OVERTAKEN, None);
            self.follow_nobody(cx);
        }
    }

    /// Takes `from` for the leader of `ballot`, unless that is overtaken: then it is told so.
    pub(super) fn follow(&mut self, from: ReplicaId, ballot: Ballot, cx: &mut Context<Self>) -> bool {
        assert_eq!(ballot.owner, from, "a leader speaks for its own ballot");
        if ballot < self.promised {
            cx.send(ReplicaSet::one(from), Message::Newer { ballot: self.promised });
            return false;
        }
        if ballot > self.promised {
            self.promise(ballot, cx);
            self.follow_nobody(cx);
        }
        if !matches!(self.role, Role::Follower(_)) {
            self.follow_nobody(cx);
        }
        if let Role::Follower(follower) = &mut self.role {
            follower.leader = Some(from);
            follower.heard = cx.now;
            follower.down = false;
        }
        true
    }

    /// Waits for whoever leads next. Reads that wait at a leader or were forwarded to one are given up.
    pub(super) fn follow_nobody(&mut self, cx: &mut Context<Self>) {
        self.lose_forwarded(cx);
        self.lose_waiting(cx);
        let patience = draw_patience(cx);
        self.wait(None, patience, cx);
    }

    /// Waits for a leader.
    pub(super) fn wait(&mut self, leader: Option<ReplicaId>, patience: Duration, cx: &mut Context<Self>) {
        // What it says first to be decided is not on its way as a vote.
        self.role = Role::Follower(Follower { leader, heard: cx.now, patience, down: false, told: u64::MAX, asked: None });
        cx.disarm(Timer::Pulse);
        cx.arm(Timer::Election, patience);
    }

    /// Whether this replica knows of a leader that it should protect: it leads, or heard the leader within an election timeout and
    /// did not see its connection go down.
    pub(super) fn leader_lives(&self, cx: &Context<Self>) -> bool {
        match &self.role {
            Role::Leader(_) => true,
            Role::Canvass(_) | Role::Candidate(_) => false,
            Role::Follower(f) => f.leader.is_some() && !f.down && cx.now.since(f.heard) < cx.config.election,
        }
    }

    /// Whether this replica knows of somebody else whose phase 1 gets on: its own does, or it was asked for a part of its promise within
    /// an election timeout.
    fn is_being_elected(&self, but: ReplicaId, cx: &Context<Self>) -> bool {
        let lately = |at: Time| cx.now.since(at) < cx.config.election;
        match &self.role {
            Role::Candidate(candidate) => lately(candidate.progressed),
            Role::Follower(f) => self.promised.owner != but && f.leader.is_none() && f.asked.is_some_and(lately),
            Role::Canvass(_) | Role::Leader(_) => false,
        }
    }

    /// Whether a leader should go on: it hears enough to decide anything, and its own disk keeps up (a message to itself is held
    /// until everything before it is durable, so that silence from itself is a stalled disk).
    pub(super) fn keeps_quorum(&self, cx: &mut Context<Self>) -> bool {
        let Role::Leader(leader) = &self.role else { return false };
        let heard = leader.those(|peer| cx.now.since(peer.heard) < cx.config.election);
        let enough = cx.config.quorums.is_quorum(Phase::Accept, heard.with(cx.config.me));
        if !enough {
            cx.note(STEPPED_DOWN, None);
        }
        enough && heard.contains(cx.config.me)
    }

    /// The leader's connection went down: whoever saw it asks soon, at slightly different times.
    pub(super) fn peer_down(&mut self, id: ReplicaId, cx: &mut Context<Self>) {
        match &mut self.role {
            Role::Follower(follower) if follower.leader == Some(id) => {
                follower.down = true;
                let heartbeat = cx.config.heartbeat;
                let soon = draw(cx, heartbeat);
                cx.arm(Timer::Election, soon);
            }
            Role::Leader(leader) => {
                if let Some(peer) = leader.peer(id) {
                    peer.probe(); // What is on its way is lost.
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
                    peer.probe();
                }
                self.replicate(cx);
            }
            Role::Follower(follower) if follower.leader == Some(id) => follower.down = false,
            _ => {}
        }
    }

    /// The node is about to stop: a leader hands over to the follower that knows most. Anyone can take over, but whoever knows more
    /// has less to learn.
    pub(super) fn leave(&mut self, cx: &mut Context<Self>) {
        let (me, now, election) = (cx.config.me, cx.now, cx.config.election);
        let Role::Leader(leader) = &mut self.role else { return };
        let alive = leader.peers.iter().filter(|peer| peer.id != me && now.since(peer.heard) < election);
        // Of equals the one with the lowest number.
        let best = alive.rev().max_by_key(|peer| peer.decided).map(|peer| peer.id);
        leader.transfer = best.map(|to| Transfer { to, since: now });
        self.hand_over(cx);
    }

    /// Tells the successor to prepare a ballot; what is undecided it finds in phase 1. After an election timeout this replica leads on.
    pub(super) fn hand_over(&mut self, cx: &mut Context<Self>) {
        let Role::Leader(leader) = &mut self.role else { return };
        let Some(Transfer { to, since }) = leader.transfer else { return };
        if cx.now.since(since) >= cx.config.election {
            leader.transfer = None;
        } else {
            // The successor needs promises like anyone; a leader that forgets having asked for this contradicts nothing.
            cx.send_after(self.promise, ReplicaSet::one(to), Message::HandOver { ballot: self.promised });
        }
    }

    /// The leader wants this replica to lead: nobody is asked first, and nobody protects the leader.
    pub(super) fn take_over(&mut self, from: ReplicaId, ballot: Ballot, cx: &mut Context<Self>) {
        if ballot == self.promised && self.leader() == Some(from) {
            self.stand(true, cx);
        }
    }
}

/// How long to wait for a leader: one to two election timeouts.
pub(super) fn draw_patience(cx: &mut Context<MultiPaxos>) -> Duration {
    let election = cx.config.election;
    election + draw(cx, election)
}

/// A random part of a duration.
pub(super) fn draw(cx: &mut Context<MultiPaxos>, of: Duration) -> Duration {
    Duration::from_nanos(cx.rng.below(u64::try_from(of.as_nanos()).unwrap_or(u64::MAX)))
}
