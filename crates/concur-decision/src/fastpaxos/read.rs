//! Reads by a quorum: see [`Reads`] for why they are linearizable. A quorum of phase 1 meets every fast and every classic
//! quorum, and slots that nobody decides are finished by the coordinator, which hears of them at the next tick.

use super::{BARRIER, FastPaxos, Message, elect::election_ticks, one};
use concur_core::{Context, Frontier, ReadId, Refusal, ReplicaId, Ticket};

impl FastPaxos {
    /// Reads wait for a frontier. Neither question nor answer waits for a record: a restart can lose only votes that were not durable.
    pub(super) fn read(&mut self, id: ReadId, cx: &mut Context<Self>) {
        if self.place.is_none() {
            return cx.refuse_read(id, Refusal::Redirect(None));
        }
        if self.leaving || !self.reads.begin(id, self.me, self.slots.known()) {
            return cx.refuse_read(id, Refusal::Busy);
        }
        cx.send_after(Ticket(0), cx.config.others(), Message::Query { id });
        self.grant_reads(cx);
    }

    pub(super) fn asked_what_is_known(&mut self, from: ReplicaId, id: ReadId, cx: &mut Context<Self>) {
        // It says no less than what is durable.
        cx.send_after(Ticket(0), one(from), Message::Known { id, known: self.slots.known() });
    }

    pub(super) fn count_known(&mut self, from: ReplicaId, id: ReadId, known: u64, cx: &mut Context<Self>) {
        self.reads.answered(from, id, known);
        self.grant_reads(cx);
    }

    fn grant_reads(&mut self, cx: &mut Context<Self>) {
        while let Some((id, known)) = self.reads.granted(&cx.config.clone()) {
            self.slots.hear_of(known);
            cx.note(BARRIER, None);
            cx.read_at(id, Frontier::slots(cx.config.epoch, known));
        }
    }

    /// Asks again those who have not answered, and gives up in the end.
    pub(super) fn review_reads(&mut self, cx: &mut Context<Self>) {
        let (lost, again) = self.reads.tick(4 * election_ticks(cx) + 8, cx.config.voters());
        for id in lost {
            cx.refuse_read(id, Refusal::Lost);
        }
        for (id, missing) in again {
            cx.send_after(Ticket(0), missing, Message::Query { id }); // A question promises nothing.
        }
    }
}
