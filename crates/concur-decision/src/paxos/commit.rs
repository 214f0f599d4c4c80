//! Commit: a slot is decided, told to everyone, and settled here.

use super::messages::{Known, Message, Record, Stretch, each, push};
use super::prepare::Answers;
use super::propose::is_turn;
use super::{DECIDED, FILLED, FINISHED, LEARNED, Paxos};
use concur_core::{Ballot, Context, Instance, ReplicaId, ReplicaSet, Ticket, Value};
use std::sync::Arc;

impl Paxos {
    /// These are decided: a quorum voted for them, durably, so that telling it waits for no record. Everyone is told by the ballot
    /// alone. Whoever voted there has the value, and that is nearly everyone, also of those whose answers are still on their way;
    /// whoever lacks it asks, so that no value crosses a link twice that need not.
    pub(super) fn announce(&mut self, decided: Vec<(u64, Ballot, Arc<Value>)>, cx: &mut Context<Self>) {
        let mut chosen = Vec::new();
        for (slot, ballot, value) in decided {
            let at = Some(Instance::slot(slot));
            cx.note(DECIDED, at);
            if self.leads.get(&slot).is_some_and(|lead| lead.hole) {
                cx.note(if value.is_noop() { FILLED } else { FINISHED }, at);
            }
            if is_turn(slot, cx) && self.own.get(&slot).is_some_and(|own| own.value == value) {
                self.turns.won();
            }
            push(&mut chosen, slot, ballot);
            self.settle(slot, value, cx);
        }
        if !chosen.is_empty() {
            cx.send_after(Ticket(0), cx.config.others(), Message::Decided { chosen, values: Vec::new() });
        }
    }

    /// Somebody says that these are decided: final, whatever ballot was joined.
    pub(super) fn told(&mut self, from: ReplicaId, chosen: &[Stretch], values: Vec<Known>, cx: &mut Context<Self>) {
        let mut lacking = Vec::new();
        for (slot, ballot) in each(chosen).filter(|(slot, _)| !self.slots.is_decided(*slot)).collect::<Vec<_>>() {
            // Once a value is chosen at a ballot, every vote at a higher one is for it too (Paxos Made Simple §2.2, P2b).
            match self.slots.vote(slot).filter(|(voted, _)| *voted >= ballot).map(|(_, value)| Arc::clone(value)) {
                Some(value) => self.settle(slot, value, cx),
                None => {
                    self.slots.hear_of(slot + 1);
                    push(&mut lacking, slot, ballot);
                }
            }
        }
        for Known { slot, value } in values {
            if !self.slots.is_decided(slot) {
                cx.note(LEARNED, Some(Instance::slot(slot)));
            }
            self.settle(slot, Arc::new(value), cx);
        }
        if !lacking.is_empty() {
            // A question promises nothing.
            cx.send_after(Ticket(0), ReplicaSet::one(from), Message::Lacking { chosen: lacking });
        }
        self.wake(cx);
    }

    /// Somebody did not vote where it was told of a decision.
    pub(super) fn tell(&self, to: ReplicaId, chosen: &[Stretch], cx: &mut Context<Self>) {
        let mut answers = Answers::default();
        for (slot, _) in each(chosen) {
            match self.slots.value(slot) {
                Some(value) => answers.add_decided(slot, value, cx.config.message_bytes_max),
                None if slot < self.slots.base() => answers.add_forgotten(),
                None => {}
            }
        }
        answers.send(to, &self.slots, cx);
    }

    /// Learns what is decided in a slot.
    fn settle(&mut self, slot: u64, value: Arc<Value>, cx: &mut Context<Self>) {
        let voted_for = self.slots.vote(slot).is_some_and(|(_, voted)| *voted == value);
        if self.slots.decide(slot, Arc::clone(&value)) {
            // Nothing depends on this record: it spares asking after a restart.
            cx.persist(if voted_for { Record::Chosen { slot } } else { Record::Decided { slot, value: Value::clone(&value) } });
            self.settled(slot, &value, cx);
        }
    }

    /// Hands a new decision to execution and ends what was under way for it.
    pub(super) fn settled(&mut self, slot: u64, value: &Arc<Value>, cx: &mut Context<Self>) {
        self.voted = self.voted.max(slot + 1);
        self.leads.remove(&slot);
        self.watches.remove(&slot);
        self.settle_own(slot, value, cx);
        cx.decide(Instance::slot(slot), Value::clone(value), ());
    }

    /// An own value was decided, here or in another slot than was thought, or another in its place.
    fn settle_own(&mut self, slot: u64, value: &Arc<Value>, cx: &mut Context<Self>) {
        if self.own.get(&slot).is_some_and(|own| own.value != *value) {
            self.move_on(slot, cx);
        }
        let Some(id) = value.id() else { return };
        if let Some(elsewhere) = self.proposed.remove(&id) {
            self.own.remove(&elsewhere);
            self.moving.retain(|moving| moving.id() != Some(id));
        }
    }
}
