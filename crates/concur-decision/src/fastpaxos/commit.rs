//! Decisions: told to those who wait, handed to execution, and learned by who missed them.

use super::{ASKED, BACKLOG_MAX, FETCHED, FastPaxos, Message, Progress, Role, one};
use crate::slots::{Learn, Lesson, Slot};
use concur_core::{BatchId, Context, Frontier, Instance, ReplicaId, ReplicaSet, Ticket, Value};
use std::sync::Arc;

impl FastPaxos {
    /// A slot is decided: handed to execution if that is new.
    pub(super) fn decided(&mut self, slot: u64, value: Arc<Value>, cx: &mut Context<Self>) {
        if self.slots.decide(slot, Arc::clone(&value)) {
            self.settle(slot, &value, cx);
        }
    }

    fn settle(&mut self, slot: u64, value: &Value, cx: &mut Context<Self>) {
        cx.decide(Instance::slot(slot), value.clone(), ());
        self.weigh_decision(slot);
        self.settle_own(slot, value.id(), cx);
    }

    /// Tells everyone else: by its name those who voted for it, the rest in full. It waits for no record: a quorum has voted for
    /// it, durably.
    pub(super) fn announce(&self, slot: u64, value: &Value, voted: ReplicaSet, cx: &mut Context<Self>) {
        let others = cx.config.others();
        cx.send_after(Ticket(0), others.intersection(voted), Message::Decided { slot, id: value.id() });
        let told = Learn::Told { first: slot, values: vec![value.clone()], decided: self.slots.decided() };
        cx.send_after(Ticket(0), others.minus(voted), Message::Learn(told));
    }

    /// Answers whoever asks about a slot that is decided here.
    pub(super) fn tell(&self, to: ReplicaId, slot: u64, cx: &mut Context<Self>) {
        let learn = match self.slots.get(slot) {
            Some(Slot::Decided(value)) => Learn::Told { first: slot, values: vec![Value::clone(value)], decided: self.slots.decided() },
            _ => Learn::Forgotten { below: self.slots.base() },
        };
        // What is decided is durable at a quorum, or executed here durably if it is forgotten.
        cx.send_after(Ticket(0), one(to), Message::Learn(learn));
    }

    /// A value that was voted for here is decided.
    pub(super) fn told_decided(&mut self, from: ReplicaId, slot: u64, id: Option<BatchId>, cx: &mut Context<Self>) {
        if self.slots.is_decided(slot) {
            return;
        }
        match self.value_of(slot, id) {
            Some(value) => self.decided(slot, value, cx),
            None => {
                self.slots.hear_of(slot + 1);
                self.ask(one(from), cx);
            }
        }
    }

    /// Something is said about what is decided. One question a tick is enough, as long as answers bring something.
    pub(super) fn learn(&mut self, from: ReplicaId, said: Learn, cx: &mut Context<Self>) {
        let told = matches!(said, Learn::Told { .. });
        if let Learn::Told { first, .. } = &said
            && *first >= self.slots.decided().saturating_add(BACKLOG_MAX)
        {
            return;
        }
        let Lesson { decided, answer, fetch } = self.peers.take(from, said, &mut self.slots, cx.config.message_bytes_max);
        for (slot, value) in decided {
            cx.note(ASKED, Some(Instance::slot(slot)));
            self.settle(slot, &value, cx);
        }
        if let Some(below) = fetch {
            cx.note(FETCHED, None);
            // State is on its way.
            if let Role::Leading(leading) = &mut self.role {
                leading.unlearned = 0;
            }
            cx.fetch(from, Frontier::slots(cx.config.epoch, below));
        }
        match answer {
            Some(Learn::Ask { .. }) if self.asked && !told => {}
            Some(Learn::Ask { .. }) => self.ask(one(from), cx),
            // What is decided is durable at a quorum.
            Some(answer) => cx.send_after(Ticket(0), one(from), Message::Learn(answer)),
            None => {}
        }
    }

    /// A replica ticks. Who rests answers, since it waits to hear how far the others are; a coordinator shows that it lives, which
    /// it does by itself while it ticks.
    pub(super) fn beaten(&mut self, from: ReplicaId, said: Progress, cx: &mut Context<Self>) {
        self.learn_progress(from, said, cx);
        if self.ticking || from == self.me {
            return;
        }
        if matches!(self.role, Role::Leading(_)) {
            return self.show(one(from), cx);
        }
        // Whoever believes it asks, so that it waits for no record.
        let summary = Learn::Summary { decided: self.slots.decided(), known: self.slots.known() };
        cx.send_after(Ticket(0), one(from), Message::Learn(summary));
    }

    /// Tells everyone else how far this replica is.
    pub(super) fn beat(&self, cx: &mut Context<Self>) {
        // Whoever believes it asks, so that it waits for no record.
        cx.send_after(Ticket(0), cx.config.others(), Message::Beat { progress: self.progress() });
    }

    /// How far this replica is.
    pub(super) fn progress(&self) -> Progress {
        Progress { decided: self.slots.decided(), known: self.slots.known(), floor: self.floor }
    }

    /// How far another is.
    pub(super) fn learn_progress(&mut self, from: ReplicaId, said: Progress, cx: &mut Context<Self>) {
        let floor = self.floors.entry(from).or_default();
        *floor = said.floor.max(*floor);
        self.learn(from, Learn::Summary { decided: said.decided, known: said.known }, cx);
    }
}
