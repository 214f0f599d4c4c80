//! Prepare: phase 1. Whoever asks with a ballot higher than any joined before learns how the others voted last.

use super::messages::{Known, Message, Record, Refusal, Stretch, Voted, each, push};
use super::{Paxos, Stage};
use crate::slots::{Learn, Slot, Slots, Vote};
use concur_core::{Ballot, Context, Phase, ReplicaId, ReplicaSet, Ticket, Value};
use std::sync::Arc;

/// What an acceptor answers to one message, collected until everything that it says is persisted.
#[derive(Debug, Default)]
pub(super) struct Answers {
    /// Promises without a vote.
    pub(super) joined: Vec<Stretch>,
    /// Promises with one.
    votes: Vec<Voted>,
    /// Votes.
    pub(super) voted: Vec<Stretch>,
    /// Ballots that came too late.
    refusals: Vec<Refusal>,
    /// What is decided already.
    values: Vec<Known>,
    /// Whether something was asked about that is forgotten.
    forgotten: bool,
    /// Messages that are full.
    full: Vec<Message>,
    bytes: usize,
}

impl Answers {
    fn make_room(&mut self, value: &Value, bytes_max: usize) {
        if self.bytes > 0 && self.bytes + value.size_bytes() > bytes_max {
            let promise = Message::Promise { joined: std::mem::take(&mut self.joined), votes: std::mem::take(&mut self.votes) };
            let decided = Message::Decided { chosen: Vec::new(), values: std::mem::take(&mut self.values) };
            self.full.extend([promise, decided]);
            self.bytes = 0;
        }
        self.bytes += value.size_bytes();
    }

    fn add_vote(&mut self, voted: Voted, bytes_max: usize) {
        self.make_room(&voted.vote.value, bytes_max);
        self.votes.push(voted);
    }

    pub(super) fn add_decided(&mut self, slot: u64, value: &Value, bytes_max: usize) {
        self.make_room(value, bytes_max);
        self.values.push(Known { slot, value: value.clone() });
    }

    pub(super) fn add_forgotten(&mut self) {
        self.forgotten = true;
    }

    /// Sends it once everything persisted so far is durable: promises and votes must be.
    pub(super) fn send(self, to: ReplicaId, slots: &Slots, cx: &mut Context<Paxos>) {
        let to = ReplicaSet::one(to);
        self.full.into_iter().for_each(|message| cx.send(to, message));
        if !self.joined.is_empty() || !self.votes.is_empty() {
            cx.send(to, Message::Promise { joined: self.joined, votes: self.votes });
        }
        if !self.voted.is_empty() {
            cx.send(to, Message::Accepted { voted: self.voted });
        }
        if !self.refusals.is_empty() {
            cx.send(to, Message::Refused { refusals: self.refusals });
        }
        // What is decided is durable at a quorum.
        if !self.values.is_empty() {
            cx.send_after(Ticket(0), to, Message::Decided { chosen: Vec::new(), values: self.values });
        }
        if self.forgotten {
            cx.send_after(Ticket(0), to, Message::Learn(Learn::Forgotten { below: slots.base() }));
        }
    }
}

impl Paxos {
    /// Joins ballots unless higher ones were joined (Paxos Made Simple §2.2, phase 1b). Asked twice, it answers twice.
    pub(super) fn promise(&mut self, from: ReplicaId, stretches: &[Stretch], cx: &mut Context<Self>) {
        if from != cx.config.me {
            self.turns.heard_rival();
        }
        let (mut answers, mut fresh) = (Answers::default(), Vec::new());
        for (slot, ballot) in each(stretches) {
            if !self.may_answer(slot, ballot, &mut answers, cx) {
                continue;
            }
            if self.slots.joined(slot) < ballot {
                self.slots.join(slot, ballot);
                push(&mut fresh, slot, ballot);
            }
            match self.slots.vote(slot) {
                None => push(&mut answers.joined, slot, ballot),
                Some((voted, value)) => {
                    let vote = Vote { ballot: voted, value: Value::clone(value) };
                    answers.add_vote(Voted { slot, ballot, vote }, cx.config.message_bytes_max);
                }
            }
        }
        if !fresh.is_empty() {
            cx.persist(Record::Joined { stretches: fresh });
        }
        answers.send(from, &self.slots, cx);
        self.wake(cx);
    }

    /// Whether a ballot is not too late in a slot. What is decided or forgotten there is answered with that, whatever is asked.
    pub(super) fn may_answer(&self, slot: u64, ballot: Ballot, answers: &mut Answers, cx: &Context<Self>) -> bool {
        match self.slots.get(slot) {
            None if slot < self.slots.base() => answers.add_forgotten(),
            Some(Slot::Decided(value)) => answers.add_decided(slot, value, cx.config.message_bytes_max),
            Some(Slot::Open { joined, .. }) if *joined > ballot => answers.refusals.push(Refusal { slot, asked: ballot, joined: *joined }),
            _ => return true,
        }
        false
    }

    /// Somebody joined ballots of this replica's.
    pub(super) fn count_promises(&mut self, from: ReplicaId, joined: &[Stretch], votes: Vec<Voted>, cx: &mut Context<Self>) {
        let mut ready = Vec::new();
        for stretch in joined {
            for (&slot, lead) in self.leads.range_mut(stretch.slots()).filter(|(_, lead)| lead.ballot == stretch.ballot) {
                if let Stage::Prepare { answers, .. } = &mut lead.stage {
                    answers.insert(from);
                    ready.push(slot);
                }
            }
        }
        for Voted { slot, ballot, vote } in votes {
            let Some(lead) = self.leads.get_mut(&slot).filter(|lead| lead.ballot == ballot) else { continue };
            if let Stage::Prepare { answers, best } = &mut lead.stage {
                answers.insert(from);
                // The value of the highest ballot voted at, not of the highest one joined (Paxos Made Simple §2.2, phase 2a).
                if best.as_ref().is_none_or(|(highest, _)| vote.ballot > *highest) {
                    *best = Some((vote.ballot, Arc::new(vote.value)));
                }
                ready.push(slot);
            }
        }
        ready.retain(|slot| match &self.leads[slot].stage {
            Stage::Prepare { answers, .. } => cx.config.quorums.is_quorum(Phase::Prepare, *answers),
            Stage::Accept { .. } => false,
        });
        self.begin_votes(ready, cx);
    }
}
