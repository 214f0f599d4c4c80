//! Phase 1, for all slots at once.
//!
//! The candidate asks from its first undecided slot on. An acceptor joins the ballot, durably, and reports slot by slot what it voted
//! for last or knows to be decided, as much as fits into one message; for more the candidate asks again, from where that ended. What was
//! promised stays: no vote below the ballot is added between two parts, so that they are one answer. Nothing is kept at the acceptor
//! from one part to the next, and a part that is lost is asked for again.
//!
//! Slots below its base an acceptor has forgotten. They are decided, and it cannot say as what: the candidate leads only when it knows
//! everything below the bases of all that it counts, from others' reports or by fetching state. From the highest base on it has
//! the votes of a quorum in every slot.

use super::{LEARNED_IN_PHASE_1, Message, MultiPaxos, PROMISE_IN_PARTS, PROPOSED_AGAIN, Report, Role, SPAN_MAX, TRANSFERRED};
use crate::slots::Slot;
use concur_core::{Ballot, Context, Instance, Phase, ReplicaId, ReplicaSet, Time, Value};
use std::collections::BTreeMap;
use std::sync::Arc;

/// What a report takes besides its value, about.
const REPORT_BYTES: usize = 24;

/// In phase 1 at the promised ballot.
#[derive(Debug, Clone, Hash)]
pub(super) struct Candidate {
    /// The first slot that was undecided here when it began.
    from: u64,
    /// The leader asked for this.
    transfer: bool,
    /// What the acceptors have answered.
    answers: BTreeMap<ReplicaId, Answer>,
    /// The votes at the highest ballots that were reported.
    votes: BTreeMap<u64, (Ballot, Arc<Value>)>,
    /// One past the last slot of which anything was reported.
    top: u64,
    /// When it began, or an acceptor reported something last.
    pub(super) progressed: Time,
}

/// How far an acceptor has reported.
#[derive(Debug, Clone, Copy, Hash)]
struct Answer {
    /// Where its next part begins; none if it has said everything.
    next: Option<u64>,
    /// Everything below is forgotten there.
    base: u64,
}

impl Candidate {
    /// Nobody has answered.
    pub(super) fn new(from: u64, transfer: bool, now: Time) -> Self {
        Self { from, transfer, answers: BTreeMap::new(), votes: BTreeMap::new(), top: from, progressed: now }
    }

    /// Where the next part of an acceptor's answer begins; none if it has said everything.
    fn next(&self, id: ReplicaId) -> Option<u64> {
        self.answers.get(&id).map_or(Some(self.from), |answer| answer.next)
    }

    /// Who has said everything.
    fn done(&self) -> ReplicaSet {
        self.answers.iter().filter(|(_, answer)| answer.next.is_none()).map(|(&id, _)| id).collect()
    }

    /// Of those who have said everything, the one that has forgotten most, and what.
    fn base(&self) -> Option<(ReplicaId, u64)> {
        let done = self.answers.iter().filter(|(_, answer)| answer.next.is_none());
        done.map(|(&id, answer)| (id, answer.base)).max_by_key(|&(_, base)| base)
    }

    /// A vote was reported; of several in one slot the one at the highest ballot counts.
    fn take(&mut self, slot: u64, ballot: Ballot, value: Value) {
        let known = self.votes.get(&slot).is_some_and(|(highest, _)| *highest >= ballot);
        if !known {
            self.votes.insert(slot, (ballot, Arc::new(value)));
        }
    }
}

impl MultiPaxos {
    /// Asks these for their promise, or for the next part of it.
    pub(super) fn prepare(&self, to: ReplicaSet, cx: &mut Context<Self>) {
        let Role::Candidate(candidate) = &self.role else { return };
        let Candidate { transfer, .. } = **candidate;
        for id in to.iter() {
            if let Some(from) = candidate.next(id) {
                // Held until the own promise is durable: a restart must not use the ballot again.
                cx.send(ReplicaSet::one(id), Message::Prepare { ballot: self.promised, from, transfer });
            }
        }
    }

    /// A candidate asks. Its own question comes here too, and is answered like everybody's.
    pub(super) fn asked_to_promise(&mut self, from: ReplicaId, ballot: Ballot, slot: u64, transfer: bool, cx: &mut Context<Self>) {
        if ballot < self.promised {
            return cx.send(ReplicaSet::one(from), Message::Newer { ballot: self.promised });
        }
        if ballot > self.promised {
            // Whoever hears its leader does not let others depose it.
            if self.leader_lives(cx) && !transfer {
                return;
            }
            self.promise(ballot, cx);
            self.follow_nobody(cx);
        }
        if let Role::Follower(follower) = &mut self.role
            && follower.leader.is_none()
        {
            // Its phase 1 gets on: whoever is asked again and again is not to lose patience meanwhile.
            (follower.heard, follower.asked) = (cx.now, Some(cx.now));
        }
        let (reports, next) = self.report(slot, cx.config.message_bytes_max);
        if next.is_some() {
            cx.note(PROMISE_IN_PARTS, None);
        }
        let base = self.slots.base();
        // Held until the promise is durable, and every vote that is reported.
        cx.send(ReplicaSet::one(from), Message::Promise { ballot, from: slot, reports, next, base });
    }

    /// The votes and decisions from a slot on, as many as fit into so many bytes but at least one, and where the next part begins.
    fn report(&self, from: u64, bytes_max: usize) -> (Vec<Report>, Option<u64>) {
        let (mut reports, mut bytes) = (Vec::new(), 0);
        for (slot, kept) in self.slots.iter_from(from) {
            let (ballot, value) = match kept {
                Slot::Open { vote: None, .. } => continue,
                Slot::Open { vote: Some((ballot, value)), .. } => (Some(*ballot), value),
                Slot::Decided(value) => (None, value),
            };
            bytes += REPORT_BYTES + value.size_bytes();
            if bytes > bytes_max && !reports.is_empty() {
                return (reports, Some(slot));
            }
            reports.push(Report { slot, ballot, value: Value::clone(value) });
        }
        (reports, None)
    }

    /// An acceptor has joined the ballot, and reports.
    pub(super) fn promised_by(
        &mut self,
        from: ReplicaId,
        ballot: Ballot,
        slot: u64,
        reports: Vec<Report>,
        (next, base): (Option<u64>, u64),
        cx: &mut Context<Self>,
    ) {
        let Role::Candidate(candidate) = &mut self.role else { return };
        if ballot != self.promised || candidate.next(from) != Some(slot) {
            return;
        }
        candidate.answers.insert(from, Answer { next, base });
        candidate.progressed = cx.now;
        candidate.top = reports.last().map_or(candidate.top, |last| candidate.top.max(last.slot + 1));
        let mut learned = Vec::new();
        for Report { slot, ballot, value } in reports {
            match ballot {
                _ if self.slots.is_decided(slot) => {}
                Some(ballot) => candidate.take(slot, ballot, value),
                None => learned.push((slot, Arc::new(value))),
            }
        }
        for (slot, value) in learned {
            if self.slots.decide(slot, Arc::clone(&value)) {
                cx.note(LEARNED_IN_PHASE_1, Some(Instance::slot(slot)));
                self.settle(slot, &value, cx);
            }
        }
        self.extend_patience(cx);
        if next.is_some() {
            return self.prepare(ReplicaSet::one(from), cx);
        }
        if base > self.slots.decided() {
            self.fetch_from(from, base, cx);
        }
        self.count_promises(cx);
    }

    /// Leads, if a quorum has promised and reported, and nothing that one of them has forgotten is lacked here.
    pub(super) fn count_promises(&mut self, cx: &mut Context<Self>) {
        let Role::Candidate(candidate) = &mut self.role else { return };
        let enough = cx.config.quorums.is_quorum(Phase::Prepare, candidate.done());
        if !enough || candidate.base().is_some_and(|(_, base)| base > self.slots.decided()) {
            return;
        }
        if candidate.transfer {
            cx.note(TRANSFERRED, None);
        }
        let (votes, top) = (std::mem::take(&mut candidate.votes), candidate.top);
        self.lead(votes, top, cx);
    }

    /// What is proposed first: in every slot below the top the value of the highest vote (PMS §2.2: of the highest ballot *voted*), and
    /// nothing where no vote was reported, since nothing was chosen there and nothing can be any more.
    pub(super) fn bring_up(
        &self,
        mut votes: BTreeMap<u64, (Ballot, Arc<Value>)>,
        top: u64,
        cx: &mut Context<Self>,
    ) -> Vec<(u64, Arc<Value>)> {
        let undecided = (self.slots.decided()..top).filter(|&slot| !self.slots.is_decided(slot));
        let mut proposals = Vec::new();
        for slot in undecided {
            let value = match votes.remove(&slot) {
                Some((_, value)) => {
                    cx.note(PROPOSED_AGAIN, Some(Instance::slot(slot)));
                    value
                }
                None => Arc::new(Value::Noop),
            };
            proposals.push((slot, value));
        }
        proposals
    }

    /// Asks a candidate's state of somebody again, if it waits for that.
    pub(super) fn fetch_for_candidate(&self, cx: &mut Context<Self>) {
        let Role::Candidate(candidate) = &self.role else { return };
        if let Some((from, base)) = candidate.base().filter(|&(_, base)| base > self.slots.decided()) {
            self.fetch_from(from, base, cx);
        }
    }
}

/// Whether an answer can be one: slots in order and none far out, votes below the ballot, the next part behind this one.
pub(super) fn in_order(ballot: Ballot, from: u64, reports: &[Report], (next, base): (Option<u64>, u64)) -> bool {
    let mut at = from.max(base);
    for report in reports {
        let near = report.slot.checked_sub(at).is_some_and(|gap| gap <= SPAN_MAX);
        if !near || report.slot == u64::MAX || report.ballot.is_some_and(|voted| voted >= ballot) {
            return false;
        }
        at = report.slot + 1;
    }
    next.is_none_or(|next| next >= at && next > from)
}
