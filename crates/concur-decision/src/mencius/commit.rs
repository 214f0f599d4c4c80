//! Commit: what a quorum voted for, or its owner skipped, is decided, told to everyone, and settled here.

use super::{LEARNED, Mencius, Message, OWN_LOST, Span, Stretch};
use crate::slots::Slot;
use concur_core::{Context, Instance, Phase, Refusal, ReplicaId, ReplicaSet, Ticket, Value};
use std::sync::Arc;

/// How many slots one answer tells of at most.
const TOLD_MAX: u64 = 4096;

impl Mencius {
    /// A voter voted for what this replica proposed, and says which of its own slots it has skipped.
    pub(super) fn accepted(&mut self, from: ReplicaId, slot: u64, skipped: &[Span], cx: &mut Context<Self>) {
        self.learn_skips(from, skipped, cx);
        let Some(lead) = self.leads.get_mut(&slot) else { return };
        lead.ticks = 0;
        lead.oks.insert(from);
        if !cx.config.quorums.is_quorum(Phase::Accept, lead.oks) {
            return;
        }
        // Votes at ballot zero count though this replica has joined a higher ballot since: whoever prepared that one has met one of
        // these voters, and proposes the same.
        let value = Arc::clone(&lead.value);
        // What a quorum has durably is decided, whatever this replica forgets.
        cx.send_after(Ticket(0), cx.config.others(), Message::Commit { slot });
        self.settle(slot, &value, cx);
    }

    /// An owner's proposal is decided. Whatever this replica voted for there is that: a vote at a higher ballot was for what a
    /// quorum had been asked about, after the first vote or instead of it. Who has not voted asks.
    pub(super) fn told_decided(&mut self, from: ReplicaId, slot: u64, cx: &mut Context<Self>) {
        if slot >= self.reach() || self.slots.is_decided(slot) {
            return;
        }
        self.hear_of(slot + 1, cx);
        match self.slots.vote(slot).map(|(_, value)| Arc::clone(value)) {
            Some(value) => drop(self.settle(slot, &value, cx)),
            None => {
                let span = Span { from: slot, end: slot + 1 };
                cx.send_after(Ticket(0), ReplicaSet::one(from), Message::Want { owner: from, span }); // It promises nothing.
            }
        }
    }

    /// These are decided, whoever says so.
    pub(super) fn told(&mut self, from: ReplicaId, stretch: &Stretch, cx: &mut Context<Self>) {
        if from == stretch.owner {
            self.learn_skips(from, &stretch.noops, cx);
        } else {
            self.settle_all(stretch, cx);
        }
        for (slot, value) in &stretch.values {
            if self.settle(*slot, &Arc::new(value.clone()), cx) {
                cx.note(LEARNED, Some(Instance::slot(*slot)));
            }
        }
    }

    /// Settles everything in a stretch.
    pub(super) fn settle_all(&mut self, stretch: &Stretch, cx: &mut Context<Self>) {
        for (slot, value) in self.expand(stretch) {
            self.settle(slot, &value, cx);
        }
    }

    /// Slot by slot, what a stretch says of those that are not known to be decided.
    pub(super) fn expand(&self, stretch: &Stretch) -> Vec<(u64, Arc<Value>)> {
        let mut all = self.expand_from(stretch, self.slots.decided());
        all.retain(|(slot, _)| !self.slots.is_decided(*slot));
        all
    }

    /// Slot by slot, what a stretch says from a slot on.
    pub(super) fn expand_from(&self, stretch: &Stretch, from: u64) -> Vec<(u64, Arc<Value>)> {
        let (place, nothing) = (self.place_of(stretch.owner), Arc::new(Value::Noop));
        let noops = stretch.noops.iter().flat_map(|span| self.each(place, Span { from: span.from.max(from), ..*span }));
        let values = stretch.values.iter().map(|(slot, value)| (*slot, Arc::new(value.clone())));
        let all = noops.map(|slot| (slot, Arc::clone(&nothing))).chain(values);
        all.filter(|(slot, _)| (from..self.reach()).contains(slot)).collect()
    }

    /// A slot is decided; true if that is new.
    pub(super) fn settle(&mut self, slot: u64, value: &Arc<Value>, cx: &mut Context<Self>) -> bool {
        let new = slot < self.reach() && self.slots.decide(slot, Arc::clone(value));
        if new {
            self.settled(slot, value, cx);
        }
        new
    }

    /// What follows from a decision that is new: execution gets it if anything from there on is used, and whoever waits for what was
    /// proposed there instead is told that it is lost.
    pub(super) fn settled(&mut self, slot: u64, value: &Arc<Value>, cx: &mut Context<Self>) {
        let place = slot % self.stride();
        if let Some(lead) = self.leads.remove(&slot)
            && let Some(id) = lead.value.id()
        {
            self.proposed.remove(&id);
            if value.id() != Some(id) {
                cx.note(OWN_LOST, Some(Instance::slot(slot)));
                cx.refuse(id, Refusal::Lost);
            }
        }
        if slot < self.used {
            cx.decide(Instance::slot(slot), Value::clone(value), ());
        }
        self.give_up_against(place, slot, value, cx);
        self.advance(place);
        if Some(place) == self.place {
            self.pass_taken();
        }
        if !value.is_noop() {
            self.hear_of(slot + 1, cx);
        }
    }

    /// Moves on to a place's first slot that is not known to be decided.
    pub(super) fn advance(&mut self, place: u64) {
        let mut open = self.first_of(place, self.open[place as usize].max(self.slots.decided()));
        while self.slots.is_decided(open) {
            open += self.stride();
        }
        self.open[place as usize] = open;
    }

    /// Tells what is decided of some slots of an owner, as much as one message carries. A skip of this replica's own may not be
    /// durable yet, so it waits for the records.
    pub(super) fn tell(&self, to: ReplicaId, owner: ReplicaId, span: Span, cx: &mut Context<Self>) {
        if span.from < self.slots.base() {
            self.say_forgotten(to, cx);
        }
        let (place, mut stretch, mut bytes) = (self.place_of(owner), Stretch::of(owner), 0);
        let from = span.from.max(self.slots.base());
        let end = span.end.min(from.saturating_add(TOLD_MAX.saturating_mul(self.stride())));
        for slot in self.each(place, Span { from, end }) {
            let value = match self.slots.get(slot) {
                Some(Slot::Decided(value)) => value,
                // A skip that waits to be durable.
                Some(Slot::Open { vote: Some((super::ZERO, value)), .. }) if value.is_noop() => value,
                _ => continue,
            };
            bytes += if value.is_noop() { 0 } else { value.size_bytes() };
            if bytes > cx.config.message_bytes_max && !stretch.values.is_empty() {
                break;
            }
            stretch.push(slot, value, self.stride());
        }
        if !stretch.is_empty() {
            cx.send(ReplicaSet::one(to), Message::Settled { stretch });
        }
    }
}
