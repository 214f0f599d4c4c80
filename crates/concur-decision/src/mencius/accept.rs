//! Accept: votes for what owners propose at ballot zero, and the skips that follow from them.

use super::{Mencius, Message, Record, SKIPPED, Span, Stretch, Timer, ZERO};
use crate::slots::Learn;
use concur_core::{Context, Instance, ReplicaId, ReplicaSet, Value};
use std::sync::Arc;

/// After so many pieces, skips that not everyone was told of are told at once.
const UNSAID_MAX: usize = 64;

impl Mencius {
    /// An owner proposes a value. The vote, and the skips of every own free slot below (the paper's Rule 1), are durable before they
    /// are answered. A duplicate gets the same answer; a second value in one slot gets none.
    pub(super) fn accept(&mut self, from: ReplicaId, slot: u64, value: Value, skipped: &[Span], cx: &mut Context<Self>) {
        self.learn_skips(from, skipped, cx);
        let span = Span { from: slot, end: slot.saturating_add(1) };
        if slot >= self.reach() {
            return;
        }
        if slot < self.slots.base() {
            return self.say_forgotten(from, cx);
        }
        if self.slots.is_decided(slot) {
            return self.tell(from, from, Span { end: u64::MAX, ..span }, cx);
        }
        self.moves(from);
        let joined = self.slots.joined(slot);
        if joined > ZERO {
            let span = Span { end: self.end_of_joined(from, slot), ..span };
            return cx.send(ReplicaSet::one(from), Message::Refused { owner: from, span, ballot: joined });
        }
        let before = self.slots.vote(slot).map(|(_, value)| Arc::clone(value));
        if before.as_ref().is_some_and(|before| **before != value) {
            return;
        }
        if before.is_none() {
            cx.persist(Record::Accepted { slot, value: value.clone() });
            self.slots.accept(slot, ZERO, Arc::new(value));
            self.hear_of(slot + 1, cx);
        }
        cx.send(ReplicaSet::one(from), Message::Accepted { slot, skipped: self.unsaid.clone() });
    }

    /// How far a revoker's ballot goes that was joined in a slot of an owner's: nothing is voted for at ballot zero below.
    fn end_of_joined(&self, owner: ReplicaId, slot: u64) -> u64 {
        let all = Span { from: slot, end: u64::MAX };
        let open = self.each(self.place_of(owner), all).find(|&slot| !self.slots.is_decided(slot) && self.slots.joined(slot) == ZERO);
        open.unwrap_or_else(|| self.reach()).max(slot + 1)
    }

    /// Skips every own free slot below a number: a vote for nothing, which settles it once it is durable.
    pub(super) fn skip_below(&mut self, bound: u64, cx: &mut Context<Self>) {
        if self.place.is_none() || self.next >= bound {
            return;
        }
        let (mut stretch, stride, nothing) = (Stretch::of(self.me), self.stride(), Arc::new(Value::Noop));
        cx.note(SKIPPED, Some(Instance::slot(self.next)));
        while self.next < bound {
            assert!(self.is_free(self.next), "one proposal or skip a slot");
            self.slots.accept(self.next, ZERO, Arc::clone(&nothing));
            stretch.push(self.next, &nothing, stride);
            self.pass_taken();
        }
        cx.persist(Record::Skipped { spans: stretch.noops.clone() });
        for span in &stretch.noops {
            match self.unsaid.last_mut() {
                Some(last) if last.end == span.from => last.end = span.end,
                _ => self.unsaid.push(*span),
            }
        }
        cx.send(ReplicaSet::one(self.me), Message::Settled { stretch });
        if self.unsaid.len() >= UNSAID_MAX {
            self.flush(cx);
        } else if !std::mem::replace(&mut self.flushing, true) {
            cx.arm(Timer::Flush, cx.config.heartbeat / 4);
        }
    }

    /// Tells everyone of the skips that some may not have heard of. Who misses it asks.
    pub(super) fn flush(&mut self, cx: &mut Context<Self>) {
        self.flushing = false;
        let noops = std::mem::take(&mut self.unsaid);
        if !noops.is_empty() {
            let stretch = Stretch { owner: self.me, noops, values: Vec::new() };
            cx.send(cx.config.others(), Message::Settled { stretch });
        }
    }

    /// The node is about to stop: its slots are the one thing that only it can give up at once. What it has proposed goes on.
    pub(super) fn leave(&mut self, cx: &mut Context<Self>) {
        self.leaving = true;
        self.skip_below(self.used.saturating_add(super::AHEAD).min(self.reach()), cx);
        self.flush(cx);
    }

    /// An owner has skipped these slots of its.
    pub(super) fn learn_skips(&mut self, owner: ReplicaId, spans: &[Span], cx: &mut Context<Self>) {
        let (place, nothing) = (self.place_of(owner), Arc::new(Value::Noop));
        for &span in spans {
            for slot in self.each(place, Span { from: span.from.max(self.slots.decided()), ..span }) {
                self.settle(slot, &nothing, cx);
            }
        }
        if !spans.is_empty() {
            self.moves(owner);
        }
    }

    /// An owner uses or skips slots by itself: it is not slow any more.
    pub(super) fn moves(&mut self, owner: ReplicaId) {
        let place = self.place_of(owner) as usize;
        self.watches[place].slow = false;
    }

    /// What is asked about is decided and forgotten here.
    pub(super) fn say_forgotten(&self, to: ReplicaId, cx: &mut Context<Self>) {
        self.say(ReplicaSet::one(to), Learn::Forgotten { below: self.slots.base() }, cx);
    }
}
