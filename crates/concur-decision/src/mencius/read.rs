//! Read: a quorum says which slots may hold values, and everything below is executed first; [`crate::slots::Reads`] says why that is
//! linearizable. Revoked slots beyond what is used hold none, and are not waited for.
//!
//! When nothing is under way everything below is executed already. Otherwise slots of others may be missing here: whoever owns them
//! is asked at once, and skips what it has not used.

use super::{Mencius, Message, READ};
use concur_core::{Context, Frontier, ReadId, Refusal, ReplicaId, ReplicaSet, Ticket};

impl Mencius {
    /// Reads wait for a frontier. Neither question nor answer waits for a record.
    pub(super) fn read(&mut self, id: ReadId, cx: &mut Context<Self>) {
        if self.place.is_none() {
            return cx.refuse_read(id, Refusal::Redirect(None));
        }
        if !self.reads.begin(id, self.me, self.used) {
            return cx.refuse_read(id, Refusal::Busy);
        }
        cx.send_after(Ticket(0), cx.config.others(), Message::Query { id });
        self.grant(cx);
        self.wake(cx);
    }

    /// A peer's reads wait for what is used here. It will need the skips that it was not told of.
    pub(super) fn queried(&mut self, from: ReplicaId, id: ReadId, cx: &mut Context<Self>) {
        cx.send_after(Ticket(0), ReplicaSet::one(from), Message::Known { id, known: self.used });
        if !self.unsaid.is_empty() {
            self.flush(cx);
        }
    }

    /// A peer said what is used there.
    pub(super) fn known(&mut self, from: ReplicaId, id: ReadId, known: u64, cx: &mut Context<Self>) {
        self.reads.answered(from, id, known);
        self.grant(cx);
    }

    /// Lets reads go for which a quorum has answered.
    fn grant(&mut self, cx: &mut Context<Self>) {
        while let Some((id, known)) = self.reads.granted(&cx.config) {
            cx.note(READ, None);
            self.hear_of(known, cx);
            cx.read_at(id, Frontier::slots(cx.config.epoch, known));
            self.ask_for_all(cx);
        }
    }

    /// Asks again those who have not answered, and gives up in the end.
    pub(super) fn review_reads(&mut self, cx: &mut Context<Self>) {
        let limit = 4 * Self::election_ticks(cx) + 8;
        let (lost, due) = self.reads.tick(limit, cx.config.voters());
        lost.into_iter().for_each(|id| cx.refuse_read(id, Refusal::Lost));
        for (id, to) in due {
            cx.send_after(Ticket(0), to, Message::Query { id });
        }
    }
}
