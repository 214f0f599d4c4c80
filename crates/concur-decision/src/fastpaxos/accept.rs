//! The voter: one durable vote a slot and round, for the first value that reaches it in a fast round, for the coordinator's in a
//! classic one.

use super::{FastPaxos, Message, Record, finishing, is_main, one};
use concur_core::{Ballot, Context, ReplicaId, ReplicaSet, Value};
use std::sync::Arc;

impl FastPaxos {
    /// The least ballot at which this replica still votes in a slot: what it promised for all, or joined for this one.
    fn least(&self, slot: u64) -> Ballot {
        self.promised.max(self.slots.joined(slot))
    }

    /// A proposer's value. That its round is fast is true whoever says so, so that a voter may hear of it here first.
    pub(super) fn asked_fast(&mut self, from: ReplicaId, ballot: Ballot, fast: u64, slot: u64, value: Value, cx: &mut Context<Self>) {
        if self.slots.is_decided(slot) {
            return self.tell(from, slot, cx);
        }
        if ballot > self.promised {
            let heard = self.heard;
            self.follow(ballot, cx);
            self.heard = heard; // Its coordinator was not.
        }
        self.learn_fast(ballot, Some(fast), cx);
        self.note_value(slot, ballot, &value, cx);
        if ballot < self.promised {
            let ballot = self.promised;
            return cx.send(one(from), Message::Refused { ballot });
        }
        if self.fast != Some(fast) {
            return; // A ballot is opened once.
        }
        let voted = self.slots.vote(slot).filter(|(at, _)| *at == ballot).map(|(_, value)| value.id());
        let id = match voted {
            Some(before) => before,
            // It joined the round that finishes this slot.
            None if self.least(slot) > ballot => return,
            None => {
                let id = value.id();
                self.vote_fast(slot, ballot, value, cx);
                id
            }
        };
        cx.send(ReplicaSet::one(from).with(ballot.owner), Message::Voted { ballot, slot, id });
    }

    /// Votes in a fast round, and joins the next one for this slot: the vote is a promise to the same coordinator (§3.2).
    fn vote_fast(&mut self, slot: u64, ballot: Ballot, value: Value, cx: &mut Context<Self>) {
        assert!(!value.is_seal(), "a fast round never carries a seal");
        cx.persist(Record::Voted { slot, ballot, fast: true, value: value.clone() });
        self.slots.accept(slot, ballot, Arc::new(value));
        self.slots.join(slot, finishing(ballot));
    }

    /// The coordinator's value in a classic round. Voting raises the promise, for this slot.
    pub(super) fn asked_to_accept(&mut self, from: ReplicaId, ballot: Ballot, slot: u64, value: Value, cx: &mut Context<Self>) {
        if self.slots.is_decided(slot) {
            return self.tell(from, slot, cx);
        }
        let least = self.least(slot);
        if ballot < least {
            return cx.send(one(from), Message::Refused { ballot: least });
        }
        self.follow(ballot, cx);
        let (id, main) = (value.id(), is_main(ballot));
        if main && self.fast.is_some_and(|fast| slot >= fast && ballot == self.promised) {
            return; // Never both "any" and a value.
        }
        match self.slots.vote(slot).filter(|(at, _)| *at == ballot).map(|(_, voted)| voted.id() == id) {
            Some(true) => {}
            Some(false) => return, // One value a classic ballot.
            None => {
                cx.persist(Record::Voted { slot, ballot, fast: false, value: value.clone() });
                self.slots.accept(slot, ballot, Arc::new(value));
            }
        }
        cx.send(one(from), Message::Voted { ballot, slot, id });
        self.lose(slot, id, cx);
    }

    /// The coordinator finishes a slot of its fast round and asks for a promise and the last vote.
    pub(super) fn asked_to_join(&mut self, from: ReplicaId, ballot: Ballot, slot: u64, cx: &mut Context<Self>) {
        if self.slots.is_decided(slot) {
            return self.tell(from, slot, cx);
        }
        let least = self.least(slot);
        if ballot < least {
            return cx.send(one(from), Message::Refused { ballot: least });
        }
        self.follow(ballot, cx);
        if ballot > self.slots.joined(slot) {
            cx.persist(Record::Joined { slot, ballot });
            self.slots.join(slot, ballot);
        }
        let vote = self.slots.vote(slot).map(|(ballot, value)| crate::slots::Vote { ballot, value: Value::clone(value) });
        cx.send(one(from), Message::Joined { ballot, slot, vote });
    }
}
