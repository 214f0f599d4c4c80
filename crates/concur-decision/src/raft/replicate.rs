//! Replication: appending to the followers' logs, finding where they agree, and sending again what was lost.
//!
//! A leader does not know its followers' logs when it is elected, so it *probes*: one message at a time, each further back if it is
//! rejected. Once a follower agreed, what is appended *streams* to it, a bounded number of messages ahead of the answers. What is not
//! answered in time is sent again as a probe. A follower that needs entries below the base is told to fetch state.

use super::{APPEND_REJECTED, Entry, Leader, Message, Point, Raft, Record, Role, SUFFIX_TRUNCATED, Term, Timer, log::Log};
use concur_core::{Context, Frontier, Instance, ReplicaId, ReplicaSet, Ticket, Time};
use std::collections::VecDeque;
use std::time::Duration;

/// How many unanswered messages may be on their way to one follower.
const IN_FLIGHT_MAX: usize = 64;

/// What a leader knows of one voter.
#[derive(Debug, Clone, Hash)]
pub(super) struct Progress {
    /// Who.
    pub(super) id: ReplicaId,
    /// Its log agrees with the leader's up to this length, durably.
    pub(super) matched: u64,
    /// The position of the next entry to send.
    pub(super) next: u64,
    /// How it is sent to.
    pace: Pace,
    /// When it was heard last.
    pub(super) heard: Time,
    /// When it last acknowledged something, or was first sent what it has not acknowledged.
    progressed: Time,
    /// The last round of heartbeats that it answered.
    pub(super) answered: u64,
}

/// How a follower is sent to.
#[derive(Debug, Clone, Hash)]
enum Pace {
    /// One message at a time, until one is accepted.
    Probe { sent: bool },
    /// Ahead of the answers: the lengths that the messages on their way lead to.
    Stream { in_flight: VecDeque<u64> },
}

impl Progress {
    /// Nothing is known of a log; the best guess is that it equals the leader's first `next` entries.
    pub(super) fn probing(id: ReplicaId, next: u64, now: Time) -> Self {
        Self { id, matched: 0, next, pace: Pace::Probe { sent: false }, heard: now, progressed: now, answered: 0 }
    }

    /// What is on its way is lost, and will not arrive before the connection is back.
    pub(super) fn lost(&mut self, now: Time) {
        self.probe_again(now);
        self.pace = Pace::Probe { sent: true };
    }

    /// What was sent and not answered is sent again.
    pub(super) fn probe_again(&mut self, now: Time) {
        if matches!(self.pace, Pace::Stream { .. }) {
            self.next = self.matched;
        }
        self.pace = Pace::Probe { sent: false };
        self.progressed = now;
    }

    fn ready(&self, log: &Log) -> bool {
        let allowed = match &self.pace {
            Pace::Probe { sent } => !sent,
            Pace::Stream { in_flight } => in_flight.len() < IN_FLIGHT_MAX,
        };
        allowed && self.next >= log.base() && self.next < log.length()
    }

    fn sent(&mut self, length: u64, now: Time) {
        if !self.waits() {
            self.progressed = now;
        }
        match &mut self.pace {
            Pace::Probe { sent } => *sent = true,
            Pace::Stream { in_flight } => {
                in_flight.push_back(length);
                self.next = length;
            }
        }
    }

    /// Whether something is on its way to it.
    fn waits(&self) -> bool {
        match &self.pace {
            Pace::Probe { sent } => *sent,
            Pace::Stream { in_flight } => !in_flight.is_empty(),
        }
    }

    fn acknowledged(&mut self, length: u64, now: Time) {
        if length > self.matched {
            self.matched = length;
            self.progressed = now;
        }
        let matched = self.matched;
        match &mut self.pace {
            Pace::Probe { .. } if length >= self.next => self.pace = Pace::Stream { in_flight: VecDeque::new() },
            Pace::Probe { .. } => return,
            Pace::Stream { in_flight } => {
                while in_flight.front().is_some_and(|&end| end <= matched) {
                    in_flight.pop_front();
                }
            }
        }
        self.next = self.next.max(matched);
    }

    /// Steps back to where the logs may agree; false if this answers a message of long ago.
    fn step_back(&mut self, at: u64, hint: u64) -> bool {
        let current = match self.pace {
            Pace::Probe { .. } => at == self.next,
            Pace::Stream { .. } => true,
        };
        if at <= self.matched || !current {
            return false;
        }
        self.next = hint.min(at - 1).max(self.matched);
        self.pace = Pace::Probe { sent: false };
        true
    }
}

impl Raft {
    /// Sends to every follower what it can take. Followers that need the same share one message.
    pub(super) fn replicate(&mut self, cx: &mut Context<Self>) {
        let Self { log, role: Role::Leader(leader), term, ballot, decided, .. } = self else { return };
        let me = cx.config.me;
        while let Some(at) = leader.peers.iter().find(|p| p.id != me && p.ready(log)).map(|p| p.next) {
            let to = leader.those(|p| p.id != me && p.next == at && p.ready(log));
            let entries = log.from(at, cx.config.message_bytes_max);
            let length = at + entries.len() as u64;
            for peer in leader.peers.iter_mut().filter(|p| to.contains(p.id)) {
                peer.sent(length, cx.now);
            }
            let prior = log.point(at).expect("a position above the base");
            // The entries need not be durable here: a restart that loses them leaves this replica without a term to lead, since its
            // vote for itself, which is durable, was for this one; and it counts its own copy only once that is durable.
            cx.send_after(*ballot, to, Message::Append { term: *term, prior, decided: *decided, entries });
        }
    }

    /// A leader's entries (§5.3). What does not conflict is never cut off: a message of long ago may name less than there is.
    pub(super) fn asked_to_append(
        &mut self,
        from: ReplicaId,
        term: Term,
        prior: Point,
        decided: u64,
        entries: Vec<Entry>,
        cx: &mut Context<Self>,
    ) {
        if !self.follow(from, term, cx) {
            return;
        }
        let Some(length) = prior.length.checked_add(entries.len() as u64).filter(|_| well_formed(term, prior, &entries)) else { return };
        // Whatever is decided agrees with every leader from then on, so that what ends below it needs no comparison.
        if length <= self.decided {
            return cx.send(ReplicaSet::one(from), Message::Appended { term, length: self.decided });
        }
        if prior.length > self.decided && !self.log.has(prior) {
            let hint = match prior.length > self.log.length() {
                true => self.log.length(),
                false => self.log.start_of_term_before(prior.length).max(self.decided),
            };
            cx.note(APPEND_REJECTED, Some(Instance::slot(prior.length)));
            // Held like every answer: the term must be durable before anybody relies on it.
            return cx.send(ReplicaSet::one(from), Message::Rejected { term, at: prior.length, hint });
        }
        if !self.take_in(prior.length, entries, cx) {
            return;
        }
        // Held until the entries are durable.
        cx.send(ReplicaSet::one(from), Message::Appended { term, length });
        self.learn_length(decided.min(length), cx);
    }

    /// Appends what is new of the entries from `at` on, behind what this log and the leader's have in common. False if they cannot
    /// stand there: terms would fall along the log, behind what was decided since a leader that is deposed sent them.
    fn take_in(&mut self, at: u64, mut entries: Vec<Entry>, cx: &mut Context<Self>) -> bool {
        let skip = self.decided.saturating_sub(at);
        let known = (at + skip..).zip(&entries[skip as usize..]);
        let same = known.take_while(|&(position, entry)| self.log.get(position).is_some_and(|mine| mine.term == entry.term));
        let same = skip as usize + same.count();
        let fresh = entries.split_off(same);
        let at = at + same as u64;
        let Some(first) = fresh.first() else { return true };
        if self.log.point(at).is_none_or(|before| first.term < before.term) {
            return false;
        }
        assert!(at >= self.decided, "what is decided is never overwritten");
        let cut = self.log.truncate(at);
        if !cut.is_empty() {
            cx.note(SUFFIX_TRUNCATED, Some(Instance::slot(at)));
            Self::give_up(cut, cx);
        }
        cx.persist(Record::Append { at, entries: fresh.clone() });
        for entry in fresh {
            self.log.push(entry);
        }
        true
    }

    /// A voter has so much, this replica itself included.
    pub(super) fn appended(&mut self, from: ReplicaId, term: Term, length: u64, cx: &mut Context<Self>) {
        let end = self.log.length();
        let Role::Leader(leader) = &mut self.role else { return };
        if term != self.term || length > end {
            return;
        }
        let Some(peer) = leader.peer(from) else { return };
        peer.heard = cx.now;
        peer.acknowledged(length, cx.now);
        self.count(cx);
        self.replicate(cx);
        self.hand_over(cx);
    }

    /// A follower's log does not have the point that was named.
    pub(super) fn rejected(&mut self, from: ReplicaId, term: Term, at: u64, hint: u64, cx: &mut Context<Self>) {
        let base = self.log.base();
        let Role::Leader(leader) = &mut self.role else { return };
        let Some(peer) = leader.peer(from) else { return };
        if term != self.term {
            return;
        }
        peer.heard = cx.now;
        if peer.step_back(at, hint) {
            if peer.next < base {
                self.send_behind(ReplicaSet::one(from), cx);
            }
            self.replicate(cx);
        }
    }

    /// Tells followers that what they need is forgotten.
    fn send_behind(&mut self, to: ReplicaSet, cx: &mut Context<Self>) {
        // What it speaks of is executed here, durably.
        cx.send_after(self.ballot, to, Message::Behind { term: self.term, base: self.log.base() });
    }

    /// The leader no longer keeps what this log needs. State is fetched, unless it came in the meantime.
    pub(super) fn behind(&mut self, from: ReplicaId, term: Term, base: u64, cx: &mut Context<Self>) {
        if !self.follow(from, term, cx) {
            return;
        }
        if self.decided >= base {
            cx.send(ReplicaSet::one(from), Message::Appended { term, length: self.decided });
        } else {
            cx.fetch(from, Frontier::slots(cx.config.epoch, base));
        }
    }

    /// Shows that this replica leads or stands, and sends again what was not answered.
    pub(super) fn pulse(&mut self, cx: &mut Context<Self>) {
        match self.role {
            Role::Follower(_) => {}
            Role::Candidate(_) => {
                self.ask_for_votes(cx);
                cx.arm(Timer::Pulse, cx.config.heartbeat);
            }
            Role::Leader(_) if self.keeps_quorum(cx) => {
                cx.arm(Timer::Pulse, cx.config.heartbeat);
                self.acknowledge_own(cx);
                self.send_heartbeat(cx);
                self.send_again(cx);
                self.hand_over(cx);
                self.fetch_lacking(cx);
            }
            Role::Leader(_) => self.follow_nobody(cx),
        }
    }

    /// One heartbeat for all followers: what is decided is a point, which each compares with its own log.
    pub(super) fn send_heartbeat(&mut self, cx: &mut Context<Self>) {
        let Role::Leader(leader) = &self.role else { return };
        let decided = self.log.point(self.decided).expect("what is decided is at or above the base");
        let heartbeat = Message::Heartbeat { term: self.term, round: leader.reads.round, decided };
        // It speaks of the term, which is durable, and of what a quorum has.
        cx.send_after(self.ballot, cx.config.others(), heartbeat);
    }

    fn send_again(&mut self, cx: &mut Context<Self>) {
        let Role::Leader(leader) = &mut self.role else { return };
        let (now, overdue) = (cx.now, overdue(cx));
        for peer in leader.peers.iter_mut().filter(|peer| peer.waits() && now.since(peer.progressed) >= overdue) {
            peer.probe_again(now);
        }
        let base = self.log.base();
        let behind = leader.those(|peer| peer.next < base).without(cx.config.me);
        self.send_behind(behind, cx);
        self.replicate(cx);
    }

    /// The leader lives.
    pub(super) fn heartbeat(&mut self, from: ReplicaId, term: Term, round: u64, decided: Point, cx: &mut Context<Self>) {
        if !self.follow(from, term, cx) {
            return;
        }
        self.learn(decided, cx);
        // The answer says that no later term is known here. If a restart forgets this term, it has forgotten no later one: a vote
        // or an answer in a later term would have waited for its record.
        cx.send_after(Ticket(0), ReplicaSet::one(from), Message::Heard { term, round });
        self.fetch_lacking(cx);
    }

    /// A follower answered a heartbeat.
    pub(super) fn heard(&mut self, from: ReplicaId, term: Term, round: u64, cx: &mut Context<Self>) {
        let Role::Leader(leader) = &mut self.role else { return };
        if term != self.term || round > leader.reads.round {
            return;
        }
        let Some(peer) = leader.peer(from) else { return };
        peer.heard = cx.now;
        peer.answered = peer.answered.max(round);
        self.confirm_reads(cx);
    }

    /// The voter, other than this replica, that has most: whom to ask for state.
    pub(super) fn fullest(leader: &Leader, me: ReplicaId) -> Option<ReplicaId> {
        leader.peers.iter().filter(|peer| peer.id != me).max_by_key(|peer| (peer.matched, peer.heard)).map(|peer| peer.id)
    }
}

/// Terms never fall along a log, and no leader has entries of a term after its own.
fn well_formed(term: Term, prior: Point, entries: &[Entry]) -> bool {
    let last = entries.iter().try_fold(prior.term.max(Term(1)), |last, entry| (last <= entry.term).then_some(entry.term));
    last.is_some_and(|last| last <= term)
}

/// How long an unanswered Append is waited for.
fn overdue(cx: &Context<Raft>) -> Duration {
    (cx.config.election / 4).max(cx.config.heartbeat * 2)
}
