//! Reads by read index.
//!
//! A leader that has decided everything that phase 1 brought up knows everything that was decided before its ballot, and it decides
//! what comes after. If a quorum that votes answers a heartbeat that was sent after a read came, nobody could have led a higher ballot
//! by then: a quorum that promises one meets this quorum, in a replica that had not promised it when it answered. So what was
//! decided when the heartbeat was sent covers every write acknowledged before the read. All reads that wait share one round, and
//! rounds overlap. A follower asks the leader for the frontier and serves the read itself.

use super::{Message, MultiPaxos, READ_FORWARDED, READ_SERVED, Role, Timer};
use concur_core::{Ballot, Context, Frontier, Phase, ReadId, Refusal, ReplicaId, ReplicaSet, Ticket, Time};
use std::collections::VecDeque;

/// How many rounds may be under way; what comes then waits for the next.
const ROUNDS_MAX: usize = 8;

/// How many reads may wait for a round, and how many may be forwarded. One stands for all reads of a replica at a moment.
const READS_MAX: usize = 1024;

/// Reads at a leader.
#[derive(Debug, Clone, Hash, Default)]
pub(super) struct Reads {
    /// The last round begun. Heartbeats carry it.
    pub(super) round: u64,
    /// Reads that no round covers yet.
    waiting: Vec<Asked>,
    /// Rounds that no quorum has answered yet, oldest first.
    rounds: VecDeque<Round>,
}

/// A read, by the name that it has at the replica where it waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Asked {
    by: ReplicaId,
    id: ReadId,
}

#[derive(Debug, Clone, Hash)]
struct Round {
    number: u64,
    /// What was decided when it began.
    decided: u64,
    reads: Vec<Asked>,
}

/// A read for which the leader was asked.
#[derive(Debug, Clone, Copy, Hash)]
pub(super) struct Forwarded {
    id: ReadId,
    since: Time,
}

impl MultiPaxos {
    /// Finds a frontier for a read, here or by asking the leader.
    pub(super) fn read(&mut self, id: ReadId, cx: &mut Context<Self>) {
        if let Role::Leader(_) = self.role {
            return self.enqueue(Asked { by: cx.config.me, id }, cx);
        }
        let Some(leader) = self.leader() else { return cx.refuse_read(id, Refusal::Redirect(None)) };
        if self.forwarded.len() >= READS_MAX {
            return cx.refuse_read(id, Refusal::Busy);
        }
        if self.forwarded.is_empty() {
            cx.arm(Timer::Forward, cx.config.heartbeat * 2);
        }
        self.forwarded.push_back(Forwarded { id, since: cx.now });
        cx.note(READ_FORWARDED, None);
        // A question promises nothing.
        cx.send_after(Ticket(0), ReplicaSet::one(leader), Message::Read { id });
    }

    /// A follower asks for a frontier. Asked twice, it is answered twice, each time with one that covers what came before.
    pub(super) fn asked_to_read(&mut self, from: ReplicaId, id: ReadId, cx: &mut Context<Self>) {
        match self.role {
            Role::Leader(_) => self.enqueue(Asked { by: from, id }, cx),
            _ => cx.send_after(Ticket(0), ReplicaSet::one(from), Message::ReadLost { id }), // It promises nothing.
        }
    }

    fn enqueue(&mut self, asked: Asked, cx: &mut Context<Self>) {
        let Role::Leader(leader) = &mut self.role else { return };
        if leader.reads.waiting.contains(&asked) {
            return;
        }
        if leader.reads.waiting.len() >= READS_MAX {
            return Self::lose_read(asked, Refusal::Busy, cx);
        }
        leader.reads.waiting.push(asked);
        self.begin_round(cx);
    }

    /// Begins a round for the reads that wait, once everything that phase 1 brought up is decided.
    pub(super) fn begin_round(&mut self, cx: &mut Context<Self>) {
        let decided = self.slots.decided();
        let Role::Leader(leader) = &mut self.role else { return };
        let Reads { round, waiting, rounds } = &mut leader.reads;
        if waiting.is_empty() || decided < leader.opened || rounds.len() >= ROUNDS_MAX {
            return;
        }
        *round += 1;
        rounds.push_back(Round { number: *round, decided, reads: std::mem::take(waiting) });
        self.send_heartbeat(cx);
        self.confirm_reads(cx);
    }

    /// Answers the reads of every round that a quorum has answered: one that votes, since every quorum that promises meets it, and
    /// two quorums that promise need not meet.
    pub(super) fn confirm_reads(&mut self, cx: &mut Context<Self>) {
        let me = cx.config.me;
        while let Role::Leader(leader) = &mut self.role
            && let Some(number) = leader.reads.rounds.front().map(|round| round.number)
        {
            let answered = leader.those(|peer| peer.id == me || peer.answered >= number);
            if !cx.config.quorums.is_quorum(Phase::Accept, answered) {
                return;
            }
            let Some(round) = leader.reads.rounds.pop_front() else { return };
            for asked in round.reads {
                self.answer_read(asked, round.decided, cx);
            }
            self.begin_round(cx);
        }
    }

    fn answer_read(&self, Asked { by, id }: Asked, decided: u64, cx: &mut Context<Self>) {
        cx.note(READ_SERVED, None);
        if by == cx.config.me {
            cx.read_at(id, Frontier::slots(cx.config.epoch, decided));
        } else {
            // What a quorum has durably is decided, whatever this replica forgets.
            cx.send_after(Ticket(0), ReplicaSet::one(by), Message::ReadAt { id, ballot: self.promised, decided });
        }
    }

    /// The leader answered. An answer to an earlier asking, of an earlier leader even, was confirmed after the read came as well.
    pub(super) fn read_at(&mut self, id: ReadId, ballot: Ballot, decided: u64, cx: &mut Context<Self>) {
        if self.take_forwarded(id) {
            if ballot == self.promised {
                self.announce(decided, u64::MAX, cx);
            }
            cx.read_at(id, Frontier::slots(cx.config.epoch, decided));
        }
    }

    /// Whoever was asked does not lead, or has too much to do.
    pub(super) fn read_lost(&mut self, id: ReadId, cx: &mut Context<Self>) {
        if self.take_forwarded(id) {
            cx.refuse_read(id, Refusal::Lost);
        }
    }

    fn take_forwarded(&mut self, id: ReadId) -> bool {
        let found = self.forwarded.iter().position(|forwarded| forwarded.id == id);
        found.and_then(|index| self.forwarded.remove(index)).is_some()
    }

    /// Asks again for what was not answered, and gives up what waited for an election timeout.
    pub(super) fn forward_again(&mut self, cx: &mut Context<Self>) {
        while let Some(&Forwarded { id, since }) = self.forwarded.front()
            && cx.now.since(since) >= cx.config.election
        {
            self.forwarded.pop_front();
            cx.refuse_read(id, Refusal::Lost);
        }
        let Some(leader) = self.leader().filter(|_| !self.forwarded.is_empty()) else { return };
        for forwarded in &self.forwarded {
            // A question promises nothing.
            cx.send_after(Ticket(0), ReplicaSet::one(leader), Message::Read { id: forwarded.id });
        }
        cx.arm(Timer::Forward, cx.config.heartbeat * 2);
    }

    /// The leader that was asked is gone.
    pub(super) fn lose_forwarded(&mut self, cx: &mut Context<Self>) {
        for Forwarded { id, .. } in self.forwarded.drain(..) {
            cx.refuse_read(id, Refusal::Lost);
        }
    }

    /// This replica leads no longer.
    pub(super) fn lose_waiting(&mut self, cx: &mut Context<Self>) {
        let Role::Leader(leader) = &mut self.role else { return };
        let Reads { waiting, rounds, .. } = std::mem::take(&mut leader.reads);
        for asked in rounds.into_iter().flat_map(|round| round.reads).chain(waiting) {
            Self::lose_read(asked, Refusal::Lost, cx);
        }
    }

    fn lose_read(Asked { by, id }: Asked, reason: Refusal, cx: &mut Context<Self>) {
        if by == cx.config.me {
            cx.refuse_read(id, reason);
        } else {
            cx.send_after(Ticket(0), ReplicaSet::one(by), Message::ReadLost { id }); // It promises nothing.
        }
    }
}
