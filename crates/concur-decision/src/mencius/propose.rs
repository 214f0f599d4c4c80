//! Propose: a value goes to the lowest own slot that is free, at ballot zero, without asking anyone first.

use super::{BACKLOG_MAX, Lead, Mencius, Message, Record, ZERO};
use concur_core::{BatchId, Context, Refusal, ReplicaSet, Value};
use std::sync::Arc;

impl Mencius {
    /// A batch or seal is to be decided.
    pub(super) fn submit(&mut self, value: Value, cx: &mut Context<Self>) {
        let Some(id) = value.id() else { return };
        if self.proposed.contains_key(&id) {
            return;
        }
        match self.obstacle(cx) {
            Some(reason) => cx.refuse(id, reason),
            None => self.propose(id, value, cx),
        }
    }

    /// Why nothing can be proposed.
    fn obstacle(&self, cx: &Context<Self>) -> Option<Refusal> {
        if self.place.is_none() {
            return Some(Refusal::Redirect(None));
        }
        let far = self.next >= self.slots.decided().saturating_add(BACKLOG_MAX);
        let full = self.leads.len() >= cx.config.window_max.max(1);
        (far || full || self.leaving).then_some(Refusal::Busy)
    }

    /// The proposal leaves once it is durable here: in its next run this replica must know that the slot is taken. Everyone has to
    /// hear of it, since everyone has slots to skip, whatever the volume.
    fn propose(&mut self, id: BatchId, value: Value, cx: &mut Context<Self>) {
        let slot = self.next;
        assert!(self.is_free(slot), "one proposal or skip a slot");
        let shared = Arc::new(value.clone());
        cx.persist(Record::Accepted { slot, value: value.clone() });
        self.slots.accept(slot, ZERO, Arc::clone(&shared));
        self.pass_taken();
        self.proposed.insert(id, slot);
        self.leads.insert(slot, Lead { value: shared, oks: ReplicaSet::EMPTY, refused: ReplicaSet::EMPTY, ticks: 0 });
        self.hear_of(slot + 1, cx);
        let skipped = std::mem::take(&mut self.unsaid);
        cx.send(cx.config.others(), Message::Accept { slot, value, skipped });
        cx.send(ReplicaSet::one(self.me), Message::Accepted { slot, skipped: Vec::new() });
        self.wake(cx);
    }
}
