//! The coordinator's tally of each undecided slot: votes of the fast round, and how it finishes a slot in which no value has a fast
//! quorum, or nobody voted.
//!
//! Collision (§3.2): once a quorum of phase 1 has voted so that no value can have a fast quorum any more, the coordinator picks by
//! rule O4 and puts its pick to the vote at the odd ballot above its own, for that slot alone. The votes are the promises: each
//! joined that ballot. Where votes are missing for too long, voters are asked to join it.

use super::choose::{Cast, choose};
use super::{BACKLOG_MAX, CLASSIC, COLLISION, FastPaxos, HOLE, Message, RECOVERY, Role, Timer, elect::election_ticks, finishing, main_of};
use crate::slots::Vote;
use concur_core::{Ballot, BatchId, Context, Instance, Phase, ReplicaId, ReplicaSet, Value};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// One undecided slot.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub(super) struct Tally {
    /// Who voted in the fast round, or joined the next: with the last vote.
    reports: BTreeMap<ReplicaId, Option<Cast>>,
    /// Values that were seen for it.
    values: BTreeMap<BatchId, Arc<Value>>,
    stage: Stage,
    ticks: u32,
    /// More than one value was seen to have votes.
    collided: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
enum Stage {
    /// Votes of the fast round are awaited.
    #[default]
    Votes,
    /// Those who have not voted are asked.
    Asking,
    /// A value is put to the vote.
    Accept { ballot: Ballot, value: Arc<Value>, votes: ReplicaSet },
}

impl FastPaxos {
    /// Puts a value to the vote, at the coordinator's ballot or at the one that finishes its slots: once a slot and ballot.
    pub(super) fn put_to_vote(&mut self, slot: u64, ballot: Ballot, value: Arc<Value>, cx: &mut Context<Self>) {
        let Role::Leading(leading) = &mut self.role else { return };
        let fast = leading.fast.is_some_and(|fast| slot >= fast);
        assert_eq!(fast, ballot != self.promised, "a ballot is classic or fast for a slot, never both");
        let tally = leading.tallies.entry(slot).or_default();
        assert!(!matches!(tally.stage, Stage::Accept { .. }), "one value a ballot");
        tally.stage = Stage::Accept { ballot, value: Arc::clone(&value), votes: ReplicaSet::EMPTY };
        tally.ticks = 0;
        self.slots.hear_of(slot + 1);
        // Under a ballot that is durably its own, and that no later run uses.
        let (ticket, value) = (leading.ticket, Value::clone(&value));
        cx.send_after(ticket, cx.config.voters(), Message::Accept { ballot, slot, value });
        self.wake(cx);
    }

    /// A vote, of either kind of round: it may decide a proposal of this replica's, or what it coordinates.
    pub(super) fn count_vote(&mut self, from: ReplicaId, ballot: Ballot, slot: u64, id: Option<BatchId>, cx: &mut Context<Self>) {
        self.count_own(from, ballot, slot, id, cx);
        let (decided, promised) = (self.slots.decided(), self.promised);
        if self.slots.is_decided(slot) {
            return;
        }
        let Role::Leading(leading) = &mut self.role else { return };
        if slot >= leading.first.max(decided).saturating_add(BACKLOG_MAX) || main_of(ballot) != promised {
            return;
        }
        if ballot == promised && leading.fast.is_some_and(|fast| slot >= fast) {
            self.note_report(from, slot, Some((ballot, id)), cx);
            return self.weigh(slot, false, cx);
        }
        let Some(Tally { stage: Stage::Accept { ballot: asked, value, votes }, .. }) = leading.tallies.get_mut(&slot) else { return };
        if *asked != ballot || value.id() != id {
            return;
        }
        votes.insert(from);
        if cx.config.quorums.is_quorum(Phase::Accept, *votes) {
            let (value, votes) = (Arc::clone(value), *votes);
            cx.note(CLASSIC, Some(Instance::slot(slot)));
            self.announce(slot, &value, votes, cx);
            self.decided(slot, value, cx);
        }
    }

    /// A voter voted in the fast round or joined the one after.
    fn note_report(&mut self, from: ReplicaId, slot: u64, report: Option<Cast>, cx: &mut Context<Self>) {
        self.watch(slot, cx);
        self.slots.hear_of(slot + 1);
        let Role::Leading(leading) = &mut self.role else { return };
        let tally = leading.tallies.entry(slot).or_default();
        tally.reports.entry(from).or_insert(report);
    }

    /// A proposer's value passed by: should it be picked, it is at hand.
    pub(super) fn note_value(&mut self, slot: u64, ballot: Ballot, value: &Value, cx: &mut Context<Self>) {
        let current = ballot == self.promised && !self.slots.is_decided(slot);
        let fast = matches!(&self.role, Role::Leading(leading) if leading.fast.is_some_and(|fast| slot >= fast));
        if let Some(id) = value.id()
            && current
            && fast
        {
            self.watch(slot, cx);
            let Role::Leading(leading) = &mut self.role else { return };
            let values = &mut leading.tallies.entry(slot).or_default().values;
            if values.len() < concur_core::REPLICAS_MAX {
                values.entry(id).or_insert_with(|| Arc::new(value.clone()));
            }
        }
    }

    /// A slot of the fast round that was not tallied yet waits for its votes, but not for ever.
    fn watch(&mut self, slot: u64, cx: &mut Context<Self>) {
        let Role::Leading(leading) = &mut self.role else { return };
        if leading.tallies.contains_key(&slot) {
            return;
        }
        if leading.young.is_empty() && leading.old.is_empty() {
            cx.arm(Timer::Patience, cx.config.heartbeat / 2);
        }
        leading.young.push(slot);
        leading.tallies.insert(slot, Tally::default());
    }

    /// Slots that have waited for one to two periods are finished.
    pub(super) fn lose_patience(&mut self, cx: &mut Context<Self>) {
        let Role::Leading(leading) = &mut self.role else { return };
        let young = std::mem::take(&mut leading.young);
        let old = std::mem::replace(&mut leading.old, young);
        if !leading.old.is_empty() {
            cx.arm(Timer::Patience, cx.config.heartbeat / 2);
        }
        for slot in old {
            self.weigh(slot, true, cx);
        }
    }

    /// Looks at every slot again, since somebody is gone whose votes were awaited.
    pub(super) fn weigh_all(&mut self, cx: &mut Context<Self>) {
        let Role::Leading(leading) = &self.role else { return };
        let slots: Vec<u64> = leading.tallies.keys().copied().collect();
        for slot in slots {
            self.weigh(slot, false, cx);
        }
    }

    /// Decides a slot of the fast round, finishes it, or waits for more votes.
    fn weigh(&mut self, slot: u64, impatient: bool, cx: &mut Context<Self>) {
        let (ballot, living, config) = (self.promised, self.living(cx), cx.config.clone());
        let Role::Leading(leading) = &mut self.role else { return };
        let Some(tally) = leading.tallies.get_mut(&slot) else { return };
        if matches!(tally.stage, Stage::Accept { .. }) {
            return;
        }
        let responders: ReplicaSet = tally.reports.keys().copied().collect();
        let names: BTreeSet<Option<BatchId>> =
            tally.reports.values().flatten().filter(|(at, _)| *at == ballot).map(|(_, id)| *id).collect();
        if names.len() > 1 && !tally.collided {
            tally.collided = true;
            cx.note(COLLISION, Some(Instance::slot(slot)));
        }
        let voters = |id: &Option<BatchId>| tally.voters((ballot, *id));
        if let Some(&id) = names.iter().find(|id| config.quorums.is_quorum(Phase::Fast, voters(id))) {
            return match self.value_of(slot, id) {
                // Its proposer tells everyone.
                Some(value) => self.decided(slot, value, cx),
                None if impatient => self.ask_to_join(slot, ReplicaSet::EMPTY, cx),
                None => {}
            };
        }
        let silent = living.minus(responders);
        let open = names.is_empty() || names.iter().any(|id| config.quorums.is_quorum(Phase::Fast, voters(id).union(silent)));
        let waits = open && !impatient && tally.stage == Stage::Votes;
        if config.quorums.is_quorum(Phase::Prepare, responders) {
            if !waits {
                self.pick(slot, responders, cx);
            }
        } else if impatient {
            self.ask_to_join(slot, responders, cx);
        }
    }

    /// Picks by rule O4 and puts the pick to the vote.
    fn pick(&mut self, slot: u64, responders: ReplicaSet, cx: &mut Context<Self>) {
        let ballot = finishing(self.promised);
        let Role::Leading(leading) = &self.role else { return };
        let reports = &leading.tallies[&slot].reports;
        let casts: BTreeMap<ReplicaId, Cast> = reports.iter().filter_map(|(&voter, report)| Some((voter, (*report)?))).collect();
        let Some(id) = choose(&cx.config.quorums, responders, &casts) else {
            cx.note(HOLE, Some(Instance::slot(slot)));
            return self.put_to_vote(slot, ballot, Arc::new(Value::Noop), cx);
        };
        let Some(value) = self.value_of(slot, id) else {
            // Those who voted for it have it. If none of them lives, the others do: any quorum of phase 1 finds what was chosen.
            let holders: ReplicaSet = casts.iter().filter(|(_, (_, of))| *of == id).map(|(&voter, _)| voter).collect();
            let (gone, rest) = (holders.intersection(self.living(cx)).is_empty(), responders.minus(holders));
            let asked = leading.tallies[&slot].stage == Stage::Asking;
            return match asked && gone && cx.config.quorums.is_quorum(Phase::Prepare, rest) {
                true => self.pick(slot, rest, cx),
                false => self.ask_to_join(slot, ReplicaSet::EMPTY, cx),
            };
        };
        cx.note(RECOVERY, Some(Instance::slot(slot)));
        self.weigh_recovery();
        self.put_to_vote(slot, ballot, value, cx);
    }

    /// Phase 1 of the round after the fast one, for one slot, to all but those who need not be asked.
    fn ask_to_join(&mut self, slot: u64, but: ReplicaSet, cx: &mut Context<Self>) {
        let ballot = finishing(self.promised);
        let Role::Leading(leading) = &mut self.role else { return };
        // Those who are asked already are asked again at a tick.
        let Some(tally) = leading.tallies.get_mut(&slot).filter(|tally| tally.stage == Stage::Votes) else { return };
        tally.stage = Stage::Asking;
        cx.send_after(leading.ticket, cx.config.voters().minus(but), Message::Finish { ballot, slot });
        self.wake(cx);
    }

    /// A voter joined.
    pub(super) fn count_join(&mut self, from: ReplicaId, ballot: Ballot, slot: u64, vote: Option<Vote>, cx: &mut Context<Self>) {
        let current = main_of(ballot) == self.promised && ballot != self.promised && !self.slots.is_decided(slot);
        let Role::Leading(leading) = &mut self.role else { return };
        let Some(tally) = leading.tallies.get_mut(&slot).filter(|_| current) else { return };
        let cast = vote.as_ref().map(|vote| (vote.ballot, vote.value.id()));
        if let Some(Vote { value, .. }) = vote
            && let Some(id) = value.id()
            && tally.reports.get(&from).is_none_or(|report| *report == cast)
        {
            tally.values.entry(id).or_insert_with(|| Arc::new(value));
        }
        self.note_report(from, slot, cast, cx);
        self.weigh(slot, false, cx);
    }

    /// The value of this name that was proposed in a slot, if it is known here.
    pub(super) fn value_of(&self, slot: u64, id: Option<BatchId>) -> Option<Arc<Value>> {
        let Some(name) = id else { return Some(Arc::new(Value::Noop)) };
        let voted = self.slots.vote(slot).map(|(_, value)| value).filter(|value| value.id() == id);
        let tallied = match &self.role {
            Role::Leading(leading) => leading.tallies.get(&slot).and_then(|tally| tally.values.get(&name)),
            _ => None,
        };
        voted.or(tallied).cloned().or_else(|| self.mine.get(&name).map(|mine| Arc::clone(&mine.value)))
    }

    /// Whether a seal is put to the vote.
    pub(super) fn proposes_seal(&self) -> bool {
        let Role::Leading(leading) = &self.role else { return false };
        leading.tallies.values().any(|tally| matches!(&tally.stage, Stage::Accept { value, .. } if value.is_seal()))
    }

    /// Where a value of this name is put to the vote, if it is.
    pub(super) fn slot_of(&self, id: BatchId) -> Option<u64> {
        let Role::Leading(leading) = &self.role else { return None };
        let found = leading.tallies.iter().find(|(_, tally)| matches!(&tally.stage, Stage::Accept { value, .. } if value.id() == Some(id)));
        found.map(|(&slot, _)| slot)
    }

    /// Undecided slots of the fast round that nobody has told of, or whose votes do not come, are finished.
    pub(super) fn watch_fast_holes(&mut self, most: usize, cx: &mut Context<Self>) {
        let Role::Leading(leading) = &self.role else { return };
        let Some(fast) = leading.fast else { return };
        let holes: Vec<u64> = self.slots.holes_from(fast).take(most).collect();
        for slot in holes {
            self.watch(slot, cx);
        }
    }

    /// Asks again for what was not answered, no more than a message's worth of values a tick.
    pub(super) fn tally_again(&mut self, cx: &mut Context<Self>) {
        let (finishing, patience) = (finishing(self.promised), election_ticks(cx));
        let Role::Leading(leading) = &mut self.role else { return };
        let mut bytes = 0;
        for (&slot, tally) in &mut leading.tallies {
            tally.ticks = tally.ticks.saturating_add(1);
            if tally.ticks < 2 || !(tally.ticks.is_power_of_two() || tally.ticks.is_multiple_of(patience.max(1))) {
                continue;
            }
            match &tally.stage {
                Stage::Votes => {}
                Stage::Asking => {
                    let missing = cx.config.voters();
                    cx.send_after(leading.ticket, missing, Message::Finish { ballot: finishing, slot });
                }
                Stage::Accept { ballot, value, votes } if bytes <= cx.config.message_bytes_max => {
                    let (missing, value) = (cx.config.voters().minus(*votes), Value::clone(value));
                    bytes += value.size_bytes() * missing.len();
                    cx.send_after(leading.ticket, missing, Message::Accept { ballot: *ballot, slot, value });
                }
                Stage::Accept { .. } => {}
            }
        }
    }
}

impl Tally {
    /// Who voted so.
    fn voters(&self, cast: Cast) -> ReplicaSet {
        self.reports.iter().filter(|(_, report)| **report == Some(cast)).map(|(&voter, _)| voter).collect()
    }
}
