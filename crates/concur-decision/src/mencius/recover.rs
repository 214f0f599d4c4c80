//! Recover: slots that their owner does not finish are finished by somebody else, many at once: what the paper calls revocation.
//!
//! Phase 1 joins a ballot in every undecided slot of one owner's in a span, and gathers what was voted for; phase 2 proposes, in each
//! of them, the value of the highest vote, and a no-op where there is none. The whole span has one ballot and one answer a voter,
//! but the promises and votes are each slot's own.

use super::{
    FINISHED, FOUND, Mencius, Message, OVERTAKEN, OWN_FINISHED, OWN_REVOKED, RENEWED, REVOKED, Record, Report, Span, Stretch, Watch,
};
use crate::slots::Slot;
use concur_core::{Ballot, Context, Instance, Phase, ReplicaId, ReplicaSet, Ticket, Value};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Slots of one owner that this replica finishes.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Revocation {
    /// Which.
    pub(super) span: Span,
    pub(super) ballot: Ballot,
    pub(super) stage: Stage,
    /// For how many ticks nothing was heard.
    pub(super) ticks: u32,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Stage {
    /// Phase 1: what each voter reported, and below which number that is all.
    Prepare { answers: BTreeMap<ReplicaId, (u64, Vec<Report>)> },
    /// Phase 2: what is proposed, and who voted for it.
    Propose { stretch: Stretch, oks: ReplicaSet },
}

/// What a message of a revocation is about: whose slots, which, at which ballot.
type About = (ReplicaId, Span, Ballot);

impl Mencius {
    /// Begins to finish a place's undecided slots below `end`, at a ballot that was never used in any of them: it is durable before
    /// anyone hears of it.
    pub(super) fn revoke(&mut self, place: u64, end: u64, cx: &mut Context<Self>) {
        let span = Span { from: self.open[place as usize], end: end.min(self.reach()) };
        if span.from >= span.end {
            return;
        }
        let owner = self.voters[place as usize];
        let undecided = self.each(place, span).filter(|&slot| !self.slots.is_decided(slot));
        let joined = undecided.map(|slot| self.slots.joined(slot).round).max().unwrap_or(0);
        let ballot = Ballot { round: joined.max(self.watches[place as usize].round) + 1, owner: self.me };
        let name = match () {
            () if owner == self.me => OWN_FINISHED,
            () if span.from >= self.used => RENEWED,
            () => REVOKED,
        };
        cx.note(name, Some(Instance::slot(span.from)));
        self.join(owner, span, ballot, cx);
        let (end, reports) = self.report(place, span, cx);
        self.revocations.insert(place, Revocation { span, ballot, stage: Stage::Prepare { answers: BTreeMap::new() }, ticks: 0 });
        cx.send(cx.config.others(), Message::Prepare { owner, span, ballot });
        cx.send(ReplicaSet::one(self.me), Message::Promised { owner, span, ballot, end, reports });
        self.wake(cx);
    }

    /// Joins a ballot in every undecided slot of a span in which no higher one was joined. An own slot that was free is not any more.
    fn join(&mut self, owner: ReplicaId, span: Span, ballot: Ballot, cx: &mut Context<Self>) {
        let place = self.place_of(owner);
        let lower = |&slot: &u64| !self.slots.is_decided(slot) && self.slots.joined(slot) < ballot;
        for slot in self.each(place, span).filter(lower).collect::<Vec<_>>() {
            self.slots.join(slot, ballot);
        }
        cx.persist(Record::Joined { owner, span, ballot });
        self.give_way(place, ballot);
        let next = self.next;
        self.pass_taken();
        if self.next != next && ballot.owner != self.me {
            cx.note(OWN_REVOKED, Some(Instance::slot(next)));
        }
    }

    /// What this replica drives of a place at a lower ballot is over.
    fn give_way(&mut self, place: u64, ballot: Ballot) {
        if self.revocations.get(&place).is_some_and(|mine| mine.ballot < ballot) {
            self.revocations.remove(&place);
        }
    }

    /// Somebody wants to finish slots of an owner: join, and say what is known.
    pub(super) fn prepare(&mut self, from: ReplicaId, owner: ReplicaId, span: Span, ballot: Ballot, cx: &mut Context<Self>) {
        let place = self.place_of(owner);
        if span.from < self.slots.base() {
            return self.say_forgotten(from, cx);
        }
        if span.end > self.reach() {
            return;
        }
        let undecided: Vec<u64> = self.each(place, span).filter(|&slot| !self.slots.is_decided(slot)).collect();
        let joined = undecided.iter().map(|&slot| self.slots.joined(slot)).max().unwrap_or_default();
        if joined > ballot {
            return cx.send(ReplicaSet::one(from), Message::Refused { owner, span, ballot: joined });
        }
        if undecided.iter().any(|&slot| self.slots.joined(slot) < ballot) {
            self.join(owner, span, ballot, cx);
            self.wait_afresh(place);
            self.wake(cx);
        }
        let (end, reports) = self.report(place, span, cx);
        cx.send(ReplicaSet::one(from), Message::Promised { owner, span, ballot, end, reports });
    }

    /// What is known of a place's slots: votes and decisions, as much as one message carries, and below which number that is all.
    fn report(&self, place: u64, span: Span, cx: &Context<Self>) -> (u64, Vec<Report>) {
        let (mut reports, mut bytes): (Vec<Report>, usize) = (Vec::new(), 0);
        for slot in self.each(place, span) {
            let (ballot, value) = match self.slots.get(slot) {
                Some(Slot::Decided(value)) => (None, value),
                Some(Slot::Open { vote: Some((ballot, value)), .. }) => (Some(*ballot), value),
                _ => continue,
            };
            let end = slot + self.stride();
            match reports.last_mut() {
                Some(last) if value.is_noop() && last.value.is_noop() && (last.ballot, last.span.end) == (ballot, slot) => {
                    last.span.end = end
                }
                _ => {
                    bytes += value.size_bytes();
                    if bytes > cx.config.message_bytes_max && !reports.is_empty() {
                        return (slot, reports);
                    }
                    reports.push(Report { span: Span { from: slot, end }, ballot, value: Value::clone(value) });
                }
            }
        }
        (span.end, reports)
    }

    /// A voter has joined and says what it knew.
    pub(super) fn promised(&mut self, from: ReplicaId, about: About, end: u64, reports: Vec<Report>, cx: &mut Context<Self>) {
        let Some((place, revocation)) = self.driven(about) else { return };
        let Stage::Prepare { answers } = &mut revocation.stage else { return };
        answers.insert(from, (end, reports));
        let all: ReplicaSet = answers.keys().copied().collect();
        if cx.config.quorums.is_quorum(Phase::Prepare, all) {
            let answers = std::mem::take(answers);
            self.conclude(place, about, answers.into_values().collect(), cx);
        }
    }

    /// The revocation that a message is about, if it is still under way here.
    fn driven(&mut self, (owner, span, ballot): About) -> Option<(u64, &mut Revocation)> {
        let place = self.place_of(owner);
        let revocation = self.revocations.get_mut(&place)?;
        let same = (revocation.span, revocation.ballot) == (span, ballot);
        revocation.ticks = if same { 0 } else { revocation.ticks };
        same.then_some((place, revocation))
    }

    /// A quorum has answered: in each slot that all of them reported, the value of the highest vote is proposed, and a no-op where
    /// nobody voted. What one of them knows to be decided is.
    fn conclude(&mut self, place: u64, (owner, span, ballot): About, answers: Vec<(u64, Vec<Report>)>, cx: &mut Context<Self>) {
        let mut end = answers.iter().map(|(end, _)| *end).min().unwrap_or(span.from);
        let mut highest: BTreeMap<u64, (Option<Ballot>, Arc<Value>)> = BTreeMap::new();
        for report in answers.into_iter().flat_map(|(_, reports)| reports) {
            let value = Arc::new(report.value);
            for slot in self.each(place, report.span) {
                match highest.get(&slot) {
                    Some((before, _)) if !is_higher(report.ballot, *before) => {}
                    _ => drop(highest.insert(slot, (report.ballot, Arc::clone(&value)))),
                }
            }
        }
        let (mut stretch, mut bytes, nothing) = (Stretch::of(owner), 0, Arc::new(Value::Noop));
        for slot in self.each(place, span) {
            let (vote, value) = highest.get(&slot).map_or((Some(super::ZERO), &nothing), |(vote, value)| (*vote, value));
            if vote.is_none() {
                self.settle(slot, value, cx);
            }
            if slot >= end || self.slots.is_decided(slot) {
                continue;
            }
            bytes += value.size_bytes();
            if bytes > cx.config.message_bytes_max && !stretch.values.is_empty() && !value.is_noop() {
                end = slot;
                continue;
            }
            stretch.push(slot, value, self.stride());
        }
        if stretch.is_empty() {
            self.revocations.remove(&place);
            return self.go_on(place, span, cx);
        }
        self.put_to_vote(place, (owner, span, ballot), stretch, cx);
    }

    fn put_to_vote(&mut self, place: u64, (owner, span, ballot): About, stretch: Stretch, cx: &mut Context<Self>) {
        let Some(revocation) = self.revocations.get_mut(&place) else { return };
        revocation.stage = Stage::Propose { stretch: stretch.clone(), oks: ReplicaSet::EMPTY };
        self.vote_for(ballot, &stretch, cx);
        cx.send(cx.config.others(), Message::Propose { span, ballot, stretch });
        cx.send(ReplicaSet::one(self.me), Message::Voted { owner, span, ballot });
    }

    /// Votes for a stretch in every slot that is undecided here and has not had that vote, and records exactly that; true if there is one.
    fn vote_for(&mut self, ballot: Ballot, stretch: &Stretch, cx: &mut Context<Self>) -> bool {
        let mut fresh = self.expand(stretch);
        fresh.retain(|(slot, _)| self.slots.vote(*slot).is_none_or(|(before, _)| before != ballot));
        let (mut voted, stride) = (Stretch::of(stretch.owner), self.stride());
        let mut known = 0;
        for (slot, value) in fresh {
            self.slots.accept(slot, ballot, Arc::clone(&value));
            voted.push(slot, &value, stride);
            known = known.max(if value.is_noop() { 0 } else { slot + 1 });
        }
        self.pass_taken();
        let any = !voted.is_empty();
        if any {
            cx.persist(Record::Voted { ballot, stretch: voted });
        }
        self.hear_of(known, cx);
        any
    }

    /// Whoever prepared these slots asks for votes. What is decided here has its vote only if the same is proposed: at a lower ballot
    /// than that of the decision it may be something else.
    pub(super) fn asked_to_vote(&mut self, from: ReplicaId, span: Span, ballot: Ballot, stretch: &Stretch, cx: &mut Context<Self>) {
        let owner = stretch.owner;
        let last = stretch.noops.iter().map(|span| span.end.saturating_sub(self.stride()));
        if last.chain(stretch.values.iter().map(|(slot, _)| *slot)).any(|last| last >= self.reach()) {
            return;
        }
        if span.from < self.slots.base() {
            return self.say_forgotten(from, cx);
        }
        let other = |(slot, value): &(u64, Arc<Value>)| self.slots.value(*slot).is_some_and(|decided| decided != value);
        if let Some((slot, _)) = self.expand_from(stretch, span.from).into_iter().find(other) {
            return self.tell(from, owner, Span { from: slot, end: u64::MAX }, cx);
        }
        let joined = self.expand(stretch).iter().map(|(slot, _)| self.slots.joined(*slot)).max().unwrap_or_default();
        if joined > ballot {
            return cx.send(ReplicaSet::one(from), Message::Refused { owner, span, ballot: joined });
        }
        // A ballot is for one value a slot: this is nobody's message.
        let clashes =
            |(slot, value): &(u64, Arc<Value>)| self.slots.vote(*slot).is_some_and(|(at, before)| at == ballot && before != value);
        if self.expand(stretch).iter().any(clashes) {
            return;
        }
        self.give_way(self.place_of(owner), ballot);
        // What is only repeated gets nobody further: whoever repeats it may hear nothing.
        if self.vote_for(ballot, stretch, cx) {
            self.wait_afresh(self.place_of(owner));
        }
        self.wake(cx);
        cx.send(ReplicaSet::one(from), Message::Voted { owner, span, ballot });
    }

    /// A voter voted for everything that was proposed.
    pub(super) fn voted(&mut self, from: ReplicaId, about: About, cx: &mut Context<Self>) {
        let Some((place, revocation)) = self.driven(about) else { return };
        let Stage::Propose { stretch, oks } = &mut revocation.stage else { return };
        oks.insert(from);
        if !cx.config.quorums.is_quorum(Phase::Accept, *oks) {
            return;
        }
        let stretch = stretch.clone();
        self.revocations.remove(&place);
        cx.note(if stretch.values.is_empty() { FINISHED } else { FOUND }, Some(Instance::slot(about.1.from)));
        // What a quorum has durably is decided, whatever this replica forgets.
        cx.send_after(Ticket(0), cx.config.others(), Message::Settled { stretch: stretch.clone() });
        self.settle_all(&stretch, cx);
        self.go_on(place, about.1, cx);
    }

    /// Takes up what did not fit into one message.
    fn go_on(&mut self, place: u64, span: Span, cx: &mut Context<Self>) {
        if self.open[place as usize] < span.end {
            self.revoke(place, span.end, cx);
        }
    }

    /// A voter has forgotten the slots below a number, so that it answers nobody who asks for them too. What this replica finishes of
    /// them it takes up behind what it knows to be decided; as long as it does not know them itself, it learns them first.
    pub(super) fn begin_above(&mut self, below: u64, cx: &mut Context<Self>) {
        let stale = |(_, revocation): &(&u64, &Revocation)| revocation.span.from < below.min(self.slots.decided());
        let stale: Vec<(u64, Span)> = self.revocations.iter().filter(stale).map(|(&place, revocation)| (place, revocation.span)).collect();
        for (place, span) in stale {
            self.revocations.remove(&place);
            self.go_on(place, span, cx);
        }
    }

    /// Somebody has joined a higher ballot than the one that this replica uses there: two revokers back off at random, and an owner
    /// waits for what comes of it.
    pub(super) fn refused(&mut self, from: ReplicaId, owner: ReplicaId, span: Span, ballot: Ballot, cx: &mut Context<Self>) {
        let place = self.place_of(owner);
        if self.revocations.get(&place).is_some_and(|mine| mine.span == span && mine.ballot < ballot) {
            cx.note(OVERTAKEN, Some(Instance::slot(span.from)));
            self.revocations.remove(&place);
            let watch = &mut self.watches[place as usize];
            let (attempts, round) = (watch.attempts.saturating_add(1), watch.round.max(ballot.round));
            *watch = Watch { attempts, round, ticks: 0, delay: None, ..*watch };
        }
        if owner == self.me {
            let watch = &mut self.watches[place as usize];
            watch.round = watch.round.max(ballot.round);
            self.go_on_behind(from, span, ballot, cx);
        }
    }

    /// A voter refuses an own proposal, since it has joined a revoker's ballot, and up to the end of the span no other will have its
    /// vote. If so many do, or are gone, that nothing can be decided at ballot zero, those slots are given up, though the revoker has
    /// not asked here, and may never: or each of them would cost its proposal an election timeout.
    fn go_on_behind(&mut self, from: ReplicaId, span: Span, ballot: Ballot, cx: &mut Context<Self>) {
        let gone: ReplicaSet = cx.config.others().iter().filter(|&id| self.is_suspected(id, cx)).collect();
        let Some(lead) = self.leads.get_mut(&span.from) else { return };
        lead.refused.insert(from);
        let possible = cx.config.quorums.is_quorum(Phase::Accept, cx.config.voters().minus(lead.refused).minus(gone));
        let ahead = Span { from: self.next.max(span.from), end: span.end.min(self.reach()) };
        if !possible && ahead.from < ahead.end {
            self.join(self.me, ahead, ballot, cx);
        }
    }

    /// A slot is decided, and not as this replica proposes: somebody finished it at a higher ballot, so that nobody will vote for this
    /// proposal as a whole.
    pub(super) fn give_up_against(&mut self, place: u64, slot: u64, value: &Value, cx: &mut Context<Self>) {
        let Some(Revocation { stage: Stage::Propose { stretch, .. }, .. }) = self.revocations.get(&place) else { return };
        let proposed = stretch.values.iter().find(|(at, _)| *at == slot).map(|(_, value)| value);
        let nothing = stretch.noops.iter().any(|span| (span.from..span.end).contains(&slot));
        let against = if nothing { !value.is_noop() } else { proposed.is_some_and(|proposed| proposed != value) };
        if against {
            cx.note(OVERTAKEN, Some(Instance::slot(slot)));
            self.revocations.remove(&place);
        }
    }

    /// Somebody else finishes a place's slots: wait for it.
    fn wait_afresh(&mut self, place: u64) {
        let watch = &mut self.watches[place as usize];
        (watch.ticks, watch.delay) = (0, None);
    }
}

/// Whether a vote counts more than another; what is decided counts most.
fn is_higher(vote: Option<Ballot>, before: Option<Ballot>) -> bool {
    match (vote, before) {
        (_, None) => false,
        (None, Some(_)) => true,
        (Some(vote), Some(before)) => vote > before,
    }
}
