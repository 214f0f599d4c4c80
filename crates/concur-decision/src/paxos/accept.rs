//! Accept: phase 2. What phase 1 found, or left free to choose, is put to the vote.

use super::messages::{Message, Proposal, Record, SLOTS_MAX, Stretch, each, push};
use super::prepare::Answers;
use super::{FOUND, Paxos, Stage};
use crate::slots::Vote;
use concur_core::{Ballot, Context, Instance, Phase, ReplicaId, ReplicaSet, Value};
use std::sync::Arc;

impl Paxos {
    /// A quorum has joined this replica's ballots in these slots: a value that somebody voted for goes on, since it may have been
    /// decided; where nobody voted, the own value is free to go, or a no-op.
    pub(super) fn begin_votes(&mut self, slots: Vec<u64>, cx: &mut Context<Self>) {
        let (mut votes, mut asked) = (Vec::new(), Vec::new());
        for slot in slots {
            let lead = self.leads.get_mut(&slot).expect("a quorum answered");
            let Stage::Prepare { best, .. } = &mut lead.stage else { continue };
            let (ballot, best) = (lead.ballot, best.take());
            let value = self.choose_value(slot, best.map(|(_, value)| value), &mut asked, cx);
            let lead = self.leads.get_mut(&slot).expect("looked at above");
            lead.next_stage(Stage::Accept { value: value.clone(), votes: ReplicaSet::EMPTY });
            votes.push((slot, ballot, value));
        }
        for message in requests(votes, cx.config.message_bytes_max) {
            // The ballot is durable, so that no later run of this replica uses it for something else: the request need not wait for
            // the own vote, which is made when the request arrives here, as everywhere.
            cx.solicit(Phase::Accept, 0, message);
        }
        self.ask(asked, 0, cx);
    }

    /// What is put to the vote in a slot whose phase 1 is over.
    fn choose_value(&mut self, slot: u64, best: Option<Arc<Value>>, asked: &mut Vec<Stretch>, cx: &mut Context<Self>) -> Arc<Value> {
        let own = self.own.get_mut(&slot);
        match (best, own) {
            (None, Some(own)) => {
                own.offered = true;
                let value = Arc::clone(&own.value);
                self.pass_over_below(slot, asked, cx);
                value
            }
            (None, None) => Arc::new(Value::Noop),
            (Some(best), Some(own)) if best == own.value => {
                own.offered = true;
                best
            }
            (Some(best), own) => {
                cx.note(FOUND, Some(Instance::slot(slot)));
                if own.is_some_and(|own| !own.offered) {
                    self.move_on(slot, cx);
                }
                best
            }
        }
    }

    /// Votes, unless a higher ballot was joined, and joins the ballot thereby (Paxos Made Simple §2.2, phase 2b).
    pub(super) fn vote(&mut self, from: ReplicaId, noops: &[Stretch], proposals: Vec<Proposal>, cx: &mut Context<Self>) {
        let (mut answers, mut passed) = (Answers::default(), Vec::new());
        let nothing = Arc::new(Value::Noop);
        for (slot, ballot) in each(noops) {
            if self.vote_once(slot, ballot, &nothing, &mut answers, cx) {
                push(&mut passed, slot, ballot);
            }
        }
        if !passed.is_empty() {
            cx.persist(Record::Passed { stretches: passed });
        }
        for Proposal { slot, vote: Vote { ballot, value } } in proposals {
            let value = Arc::new(value);
            if self.vote_once(slot, ballot, &value, &mut answers, cx) {
                cx.persist(Record::Voted { slot, vote: Vote { ballot, value: Value::clone(&value) } });
            }
        }
        answers.send(from, &self.slots, cx);
        self.wake(cx);
    }

    /// Votes in one slot; true if that has to be recorded. Asked again, it answers again.
    fn vote_once(&mut self, slot: u64, ballot: Ballot, value: &Arc<Value>, answers: &mut Answers, cx: &Context<Self>) -> bool {
        if !self.may_answer(slot, ballot, answers, cx) {
            return false;
        }
        let before = self.slots.vote(slot).filter(|(before, _)| *before == ballot).map(|(_, before)| before == value);
        match before {
            Some(false) => return false, // A ballot is for one value: this is nobody's message.
            Some(true) => {}
            None => self.slots.accept(slot, ballot, Arc::clone(value)),
        }
        self.voted = self.voted.max(slot + 1);
        push(&mut answers.voted, slot, ballot);
        before.is_none()
    }

    /// Somebody voted. What a quorum voted for at one ballot is decided.
    pub(super) fn count_votes(&mut self, from: ReplicaId, voted: &[Stretch], cx: &mut Context<Self>) {
        let mut chosen = Vec::new();
        for stretch in voted {
            for (&slot, lead) in self.leads.range_mut(stretch.slots()).filter(|(_, lead)| lead.ballot == stretch.ballot) {
                if let Stage::Accept { value, votes } = &mut lead.stage {
                    votes.insert(from);
                    if cx.config.quorums.is_quorum(Phase::Accept, *votes) {
                        chosen.push((slot, lead.ballot, Arc::clone(value)));
                    }
                }
            }
        }
        self.announce(chosen, cx);
    }
}

/// Requests to vote, none of which carries too many bytes.
pub(super) fn requests(votes: Vec<(u64, Ballot, Arc<Value>)>, bytes_max: usize) -> Vec<Message> {
    let (mut out, mut noops, mut proposals, mut slots, mut bytes) = (Vec::new(), Vec::new(), Vec::new(), 0, 0);
    for (slot, ballot, value) in votes {
        if value.is_noop() {
            push(&mut noops, slot, ballot);
            slots += 1;
            if slots == SLOTS_MAX {
                out.push(Message::Accept { noops: std::mem::take(&mut noops), proposals: std::mem::take(&mut proposals) });
                (slots, bytes) = (0, 0);
            }
            continue;
        }
        if bytes > 0 && bytes + value.size_bytes() > bytes_max {
            out.push(Message::Accept { noops: std::mem::take(&mut noops), proposals: std::mem::take(&mut proposals) });
            (slots, bytes) = (0, 0);
        }
        bytes += value.size_bytes();
        proposals.push(Proposal { slot, vote: Vote { ballot, value: Value::clone(&value) } });
    }
    if !noops.is_empty() || !proposals.is_empty() {
        out.push(Message::Accept { noops, proposals });
    }
    out
}
