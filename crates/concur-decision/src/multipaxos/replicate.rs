//! Phase 2: asking the acceptors for their votes, ahead of their answers; sending again what was lost; heartbeats.
//!
//! An Accept carries a run of consecutive slots. To each acceptor a bounded number of them is on its way; what is not answered in time
//! is sent again, one message at a time until one is answered, as long as it is undecided. What was decided without an acceptor
//! it asks for (`learn`), so that one that is away costs the leader nothing.

use super::{Leader, Message, MultiPaxos, Role, Timer, propose::runs};
use crate::slots::{Learn, Slots};
use concur_core::{Ballot, Context, ReplicaId, ReplicaSet, Ticket, Time, Value};
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

/// How many unanswered messages may be on their way to one acceptor.
const IN_FLIGHT_MAX: usize = 64;

/// What a leader knows of one voter.
#[derive(Debug, Clone, Hash)]
pub(super) struct Progress {
    /// Who.
    pub(super) id: ReplicaId,
    /// The first slot that was not sent, or is to be sent again.
    pub(super) next: u64,
    /// It knows that everything below is decided.
    pub(super) decided: u64,
    /// When it was heard last.
    pub(super) heard: Time,
    /// The last round of heartbeats that it answered.
    pub(super) answered: u64,
    /// How many messages may be on their way: one after a loss, then twice as many with each answer.
    window: usize,
    /// The messages on their way.
    in_flight: VecDeque<Flight>,
}

/// A message on its way.
#[derive(Debug, Clone, Copy, Hash)]
struct Flight {
    first: u64,
    end: u64,
    since: Time,
}

impl Progress {
    /// Nothing is known of it, and everything is to be sent.
    pub(super) fn new(id: ReplicaId, now: Time) -> Self {
        Self { id, next: 0, decided: 0, heard: now, answered: 0, window: IN_FLIGHT_MAX, in_flight: VecDeque::new() }
    }

    /// What is on its way may be lost: it is sent again, carefully.
    pub(super) fn probe(&mut self) {
        self.next = 0;
        self.window = 1;
        self.in_flight.clear();
    }

    fn ready(&self) -> bool {
        self.in_flight.len() < self.window
    }

    /// It has answered for these slots.
    fn answered(&mut self, first: u64, end: u64) {
        let before = self.in_flight.len();
        self.in_flight.retain(|flight| flight.first < first || flight.end > end);
        if self.in_flight.len() < before {
            self.window = (self.window * 2).min(IN_FLIGHT_MAX);
        }
    }

    fn overdue(&self, now: Time, after: Duration) -> bool {
        self.in_flight.iter().any(|flight| now.since(flight.since) >= after)
    }
}

impl Leader {
    /// The first slot that a voter is to be sent next, if it takes anything and there is something.
    fn due(&self, peer: &Progress) -> Option<u64> {
        let mut rest = self.pending.range(peer.next..).filter(|(_, proposal)| !proposal.votes.contains(peer.id));
        rest.next().filter(|_| peer.ready()).map(|(&slot, _)| slot)
    }

    /// The run of undecided values from a slot on, as many as fit into so many bytes but at least one.
    fn run(&self, first: u64, slots: &Slots, bytes_max: usize) -> Vec<Value> {
        let mut bytes = 0;
        let consecutive = self.pending.range(first..).zip(first..).take_while(|((slot, _), place)| *slot == place);
        let values = consecutive.map(|((&slot, _), _)| slots.vote(slot).expect("a leader has voted for what it proposes").1);
        let fits = |value: &&Arc<Value>| {
            let start = bytes == 0;
            bytes += value.size_bytes();
            start || bytes <= bytes_max
        };
        values.take_while(fits).map(|value| Value::clone(value)).collect()
    }
}

impl MultiPaxos {
    /// Sends to every acceptor what it can take. Those that need the same share one message.
    pub(super) fn replicate(&mut self, cx: &mut Context<Self>) {
        let Self { slots, role: Role::Leader(leader), promised, promise, .. } = self else { return };
        let others = cx.config.others();
        loop {
            let due: Vec<(ReplicaId, u64)> =
                leader.peers.iter().filter(|peer| others.contains(peer.id)).filter_map(|peer| Some((peer.id, leader.due(peer)?))).collect();
            let Some(first) = due.iter().map(|&(_, slot)| slot).min() else { return };
            let to: ReplicaSet = due.iter().filter(|&&(_, slot)| slot == first).map(|&(id, _)| id).collect();
            let values = leader.run(first, slots, cx.config.message_bytes_max);
            let end = first + values.len() as u64;
            for peer in leader.peers.iter_mut().filter(|peer| to.contains(peer.id)) {
                peer.next = end;
                peer.in_flight.push_back(Flight { first, end, since: cx.now });
            }
            // The leader's own vote need not be durable: a restart that loses it proposes nothing at this ballot, which is durable and
            // never used again, and the vote is counted only when it is.
            cx.send_after(*promise, to, Message::Accept { ballot: *promised, first, values, decided: slots.decided() });
        }
    }

    /// A leader asks for votes. Slots are independent of each other; where this replica has voted at this ballot already, or knows what
    /// is decided, there is nothing to do, and it answers as if it had voted (the module's first lines say why).
    pub(super) fn asked_to_accept(
        &mut self,
        from: ReplicaId,
        ballot: Ballot,
        first: u64,
        values: Vec<Value>,
        decided: u64,
        cx: &mut Context<Self>,
    ) {
        if !self.follow(from, ballot, cx) {
            return;
        }
        let count = values.len() as u64;
        let is_new = |slot: u64| !self.slots.is_decided(slot) && self.slots.vote(slot).is_none_or(|(voted, _)| voted < ballot);
        let fresh = values.into_iter().zip(first..).filter(|&(_, slot)| is_new(slot));
        let fresh: Vec<(u64, Arc<Value>)> = fresh.map(|(value, slot)| (slot, Arc::new(value))).collect();
        for run in runs(fresh) {
            self.vote(ballot, run, cx);
        }
        // Held until the votes are durable.
        cx.send(ReplicaSet::one(from), Message::Accepted { ballot, first, count });
        self.announce(decided, first, cx);
    }

    /// A voter has voted, this replica itself included.
    pub(super) fn accepted(&mut self, from: ReplicaId, ballot: Ballot, first: u64, count: u64, cx: &mut Context<Self>) {
        let Role::Leader(leader) = &mut self.role else { return };
        let (end, now) = (first + count, cx.now);
        if ballot != self.promised || end > leader.next {
            return;
        }
        let Some(peer) = leader.peer(from) else { return };
        peer.heard = now;
        peer.answered(first, end);
        for proposal in leader.pending.range_mut(first..end).map(|(_, proposal)| proposal) {
            proposal.votes.insert(from);
        }
        self.count(first, end, cx);
        self.replicate(cx);
    }

    /// Shows that this replica leads, or stands, and sends again what was not answered.
    pub(super) fn pulse(&mut self, cx: &mut Context<Self>) {
        match self.role {
            Role::Follower(_) => {}
            Role::Canvass(_) => {
                cx.arm(Timer::Pulse, cx.config.heartbeat);
                self.ask_whether_led(cx);
            }
            Role::Candidate(_) => {
                cx.arm(Timer::Pulse, cx.config.heartbeat);
                // What it asks of itself is not lost.
                self.prepare(cx.config.others(), cx);
                self.fetch_for_candidate(cx);
            }
            Role::Leader(_) if self.keeps_quorum(cx) => {
                cx.arm(Timer::Pulse, cx.config.heartbeat);
                self.look_at_own_disk(cx);
                self.send_heartbeat(cx);
                self.send_again(cx);
                self.hand_over(cx);
            }
            Role::Leader(_) => self.follow_nobody(cx),
        }
        self.fetch_lacking(cx);
    }

    /// A message to itself, which comes when everything before it is durable: every own vote so far.
    fn look_at_own_disk(&self, cx: &mut Context<Self>) {
        let Role::Leader(leader) = &self.role else { return };
        let first = leader.pending.first_key_value().map_or(leader.next, |(&slot, _)| slot);
        let voted = Message::Accepted { ballot: self.promised, first, count: leader.next - first };
        cx.send(ReplicaSet::one(cx.config.me), voted);
    }

    /// One heartbeat for all.
    pub(super) fn send_heartbeat(&self, cx: &mut Context<Self>) {
        let Role::Leader(leader) = &self.role else { return };
        let (round, decided, opened) = (leader.reads.round, self.slots.decided(), leader.opened);
        // It speaks of the ballot, which is durable, and of what a quorum has.
        cx.send_after(self.promise, cx.config.others(), Message::Heartbeat { ballot: self.promised, round, decided, opened });
    }

    fn send_again(&mut self, cx: &mut Context<Self>) {
        let Role::Leader(leader) = &mut self.role else { return };
        let after = (cx.config.election / 4).max(cx.config.heartbeat * 2);
        for peer in leader.peers.iter_mut().filter(|peer| peer.overdue(cx.now, after)) {
            peer.probe();
        }
        self.replicate(cx);
    }

    /// The leader lives.
    pub(super) fn heartbeat(&mut self, from: ReplicaId, ballot: Ballot, round: u64, [decided, opened]: [u64; 2], cx: &mut Context<Self>) {
        if !self.follow(from, ballot, cx) {
            return;
        }
        self.announce(decided, u64::MAX, cx);
        self.give_back(ballot, opened, cx);
        let known = self.slots.decided();
        // The answer says that no higher ballot is known here. If a restart forgets this one, it has forgotten no higher one: a promise
        // or an answer at a higher ballot would have waited for its record.
        cx.send_after(Ticket(0), ReplicaSet::one(from), Message::Heard { ballot, round, decided: known });
        if let Role::Follower(follower) = &mut self.role {
            let missed = known < decided.min(follower.told);
            follower.told = decided;
            if missed {
                // What was on its way at the last heartbeat has arrived or is lost. A question promises nothing.
                cx.send_after(Ticket(0), ReplicaSet::one(from), Message::Learn(Learn::Ask { from: known }));
            }
        }
        self.fetch_lacking(cx);
    }

    /// A voter answered a heartbeat.
    pub(super) fn heard(&mut self, from: ReplicaId, ballot: Ballot, round: u64, decided: u64, cx: &mut Context<Self>) {
        let Role::Leader(leader) = &mut self.role else { return };
        if ballot != self.promised || round > leader.reads.round {
            return;
        }
        let Some(peer) = leader.peer(from) else { return };
        peer.heard = cx.now;
        peer.answered = peer.answered.max(round);
        peer.decided = peer.decided.max(decided);
        self.confirm_reads(cx);
    }
}
