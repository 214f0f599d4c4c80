//! Read: a quorum says in which slots it has voted, and everything below is executed first ([`crate::slots`] has the argument).
//!
//! What was only prepared counts for nothing here: a write that was acknowledged had the votes of a quorum. So a read waits for what
//! is being voted on when it comes, and not for whoever has merely asked for a slot.

use super::messages::Message;
use super::{BARRIER_READ, Paxos};
use concur_core::{Context, Frontier, ReadId, Refusal, ReplicaId, ReplicaSet, Ticket};

impl Paxos {
    /// Reads wait for a frontier.
    pub(super) fn read(&mut self, id: ReadId, cx: &mut Context<Self>) {
        if cx.config.index().is_none() {
            return cx.refuse_read(id, Refusal::Redirect(None));
        }
        if self.leaving || !self.reads.begin(id, cx.config.me, self.voted) {
            return cx.refuse_read(id, Refusal::Busy);
        }
        // A question promises nothing.
        cx.send_after(Ticket(0), cx.config.others(), Message::Query { id });
        self.grant(cx);
        self.wake(cx);
    }

    /// A peer's reads wait.
    pub(super) fn bound(&self, from: ReplicaId, id: ReadId, cx: &mut Context<Self>) {
        cx.send_after(Ticket(0), ReplicaSet::one(from), Message::Bound { id, voted: self.voted });
    }

    /// A peer has voted in no slot from there on.
    pub(super) fn count_bound(&mut self, from: ReplicaId, id: ReadId, voted: u64, cx: &mut Context<Self>) {
        self.reads.answered(from, id, voted);
        self.grant(cx);
    }

    /// Lets the reads go that a quorum has answered. The slots below are waited for, so that they are finished if nobody does.
    fn grant(&mut self, cx: &mut Context<Self>) {
        while let Some((id, below)) = self.reads.granted(&cx.config) {
            self.slots.hear_of(below);
            cx.note(BARRIER_READ, None);
            cx.read_at(id, Frontier::slots(cx.config.epoch, below));
        }
    }

    /// Asks again those who have not answered, and gives up in the end.
    pub(super) fn review_reads(&mut self, cx: &mut Context<Self>) {
        let limit = 4 * self.election_ticks(cx) + 8;
        let (lost, due) = self.reads.tick(limit, cx.config.voters());
        lost.into_iter().for_each(|id| cx.refuse_read(id, Refusal::Lost));
        due.into_iter().for_each(|(id, to)| cx.send_after(Ticket(0), to, Message::Query { id }));
    }
}
