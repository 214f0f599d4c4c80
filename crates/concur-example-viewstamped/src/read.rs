//! Reads: which frontier makes one linearizable.
//!
//! Whatever was decided before the read came is held by a quorum that acknowledged it, and a log never becomes shorter than what its
//! replica acknowledged and was decided. So the longest log of any set that meets those quorums covers it. A replica asks everybody,
//! waits for such a set, then until as much is decided here, and serves the read itself; the primary is not needed for it.

use super::{Message, READ, Viewstamped};
use concur_core::{Context, Frontier, Phase, ReadId, Refusal, ReplicaId, ReplicaSet, Ticket, Time};

/// How many reads may wait. One stands for all reads of a replica at a moment.
const READS_MAX: usize = 1024;

/// A read that waits.
#[derive(Debug, Clone, Hash)]
pub(super) struct Asked {
    /// Who answered.
    answered: ReplicaSet,
    /// The longest log of theirs, and of this replica.
    length: u64,
    /// When it came.
    since: Time,
}

impl Viewstamped {
    /// Asks everybody how long their logs are. This replica's own may not be durable: that can only make the read wait for more.
    pub(super) fn read(&mut self, id: ReadId, cx: &mut Context<Self>) {
        if self.reads.len() >= READS_MAX {
            return cx.refuse_read(id, Refusal::Busy);
        }
        let asked = Asked { answered: ReplicaSet::one(cx.config.me), length: self.log.length(), since: cx.now };
        self.reads.insert(id, asked);
        cx.send_after(Ticket(0), cx.config.others(), Message::Read { id }); // A question promises nothing.
        self.serve_reads(cx);
    }

    pub(super) fn asked_to_read(&self, from: ReplicaId, id: ReadId, cx: &mut Context<Self>) {
        cx.send(ReplicaSet::one(from), Message::Length { id, length: self.log.length() });
    }

    pub(super) fn told_length(&mut self, from: ReplicaId, id: ReadId, length: u64, cx: &mut Context<Self>) {
        if let Some(asked) = self.reads.get_mut(&id) {
            asked.answered.insert(from);
            asked.length = asked.length.max(length);
            self.serve_reads(cx);
        }
    }

    /// Answers the reads for which enough was heard, and enough is decided.
    pub(super) fn serve_reads(&mut self, cx: &mut Context<Self>) {
        let quorums = &cx.config.quorums;
        let ready = |asked: &Asked| asked.length <= self.decided && quorums.is_quorum(Phase::Prepare, asked.answered);
        let served: Vec<(ReadId, u64)> =
            self.reads.iter().filter(|(_, asked)| ready(asked)).map(|(&id, asked)| (id, asked.length)).collect();
        for (id, length) in served {
            self.reads.remove(&id);
            cx.note(READ, None);
            cx.read_at(id, Frontier::slots(cx.config.epoch, length));
        }
    }

    /// Asks again for what was not answered, and gives up what waited for an election timeout: what it waits for may have lost its
    /// place in the log.
    pub(super) fn read_again(&mut self, cx: &mut Context<Self>) {
        let (now, election, others) = (cx.now, cx.config.election, cx.config.others());
        self.reads.retain(|&id, asked| {
            let waits = now.since(asked.since) < election;
            if waits {
                cx.send_after(Ticket(0), others.minus(asked.answered), Message::Read { id }); // A question promises nothing.
            } else {
                cx.refuse_read(id, Refusal::Lost);
            }
            waits
        });
    }
}
