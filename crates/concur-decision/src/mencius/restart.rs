//! Restart: from records to a voter, and what a checkpoint keeps.

use super::{Mencius, Record, Span, Stretch, Watch, ZERO};
use crate::slots::{Kept, Peers, Reads, Slot, Slots};
use concur_core::{Ballot, Boot, Context, Corrupt, Instance, LaneId, Phase, ReplicaId, ReplicaSet, Value};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Makes a voter of its records. Nothing is resumed at ballot zero: its undecided own slots it finishes by phase 1.
pub(super) fn restart(boot: Boot<Mencius>, cx: &mut Context<Mencius>) -> Result<Mencius, Corrupt> {
    if let Some((a, b)) = cx.config.quorums.disjoint(Phase::Prepare, Phase::Accept) {
        return Err(Corrupt::new(format!("quorums {a:?} and {b:?} of phase 1 and phase 2 do not meet")));
    }
    let mut this = empty(cx);
    let again = !boot.fresh || !boot.records.is_empty();
    for record in boot.records {
        this.replay(record)?;
    }
    if boot.mark.frontier.epoch > cx.config.epoch {
        return Err(Corrupt::new("the executed state is of a later epoch"));
    }
    let executed = if boot.mark.frontier.epoch == cx.config.epoch { boot.mark.frontier.below(LaneId(0)) } else { 0 };
    this.slots.cover(executed);
    this.settle_own_skips();
    this.find_used();
    for (slot, kept) in this.slots.iter_from(executed).take_while(|(slot, _)| *slot < this.used) {
        if let Slot::Decided(value) = kept {
            cx.decide(Instance::slot(slot), Value::clone(value), ());
        }
    }
    for place in 0..this.stride() {
        this.advance(place);
    }
    let Some(place) = this.place else { return Ok(this) };
    this.next = this.first_of(place, this.slots.decided());
    this.pass_taken();
    this.skip_below(this.used, cx);
    if again {
        this.unheard = cx.config.others();
        this.wake(cx);
    }
    Ok(this)
}

fn empty(cx: &Context<Mencius>) -> Mencius {
    let voters: Vec<ReplicaId> = cx.config.voters().iter().collect();
    Mencius {
        me: cx.config.me,
        place: cx.config.index().map(|index| index as u64),
        slots: Slots::default(),
        open: (0..voters.len() as u64).collect(),
        next: 0,
        used: 0,
        unsaid: Vec::new(),
        leads: BTreeMap::new(),
        proposed: BTreeMap::new(),
        revocations: BTreeMap::new(),
        watches: vec![Watch::default(); voters.len()],
        reads: Reads::default(),
        peers: Peers::new(cx.config.others()),
        floor: 0,
        floors: cx.config.others().iter().map(|id| (id, 0)).collect(),
        unheard: ReplicaSet::EMPTY,
        fetch: None,
        decided_before: 0,
        ticking: false,
        flushing: false,
        leaving: false,
        voters,
    }
}

impl Mencius {
    /// Everything that is still needed.
    pub(super) fn records(&self) -> Vec<Record> {
        let base = Record::Base { below: self.slots.base() };
        std::iter::once(base).chain(self.slots.records().map(|(slot, kept)| Record::Whole { slot, kept })).collect()
    }

    fn replay(&mut self, record: Record) -> Result<(), Corrupt> {
        match record {
            Record::Base { below } => {
                self.slots.cover(below);
            }
            Record::Whole { slot, kept } => {
                if slot < self.slots.base() || !self.slots.restore(slot, kept) {
                    return Err(Corrupt::new(format!("what is kept of slot {slot} contradicts itself")));
                }
            }
            Record::Accepted { slot, value } => self.replay_vote(slot, ZERO, &Arc::new(value))?,
            Record::Skipped { spans } => {
                let (place, nothing) = (self.place.ok_or_else(|| Corrupt::new("a skip by who owns no slots"))?, Arc::new(Value::Noop));
                for slot in spans.iter().flat_map(|&span| self.recorded(place, span)).collect::<Vec<_>>() {
                    self.replay_vote(slot, ZERO, &nothing)?;
                }
            }
            Record::Joined { owner, span, ballot } => {
                for slot in self.recorded(self.recorded_place(owner)?, span) {
                    if !self.slots.is_decided(slot) && self.slots.joined(slot) < ballot {
                        self.slots.join(slot, ballot);
                    }
                }
            }
            Record::Voted { ballot, stretch: Stretch { owner, noops, values } } => {
                let (place, nothing) = (self.recorded_place(owner)?, Arc::new(Value::Noop));
                for slot in noops.iter().flat_map(|&span| self.recorded(place, span)).collect::<Vec<_>>() {
                    self.replay_vote(slot, ballot, &nothing)?;
                }
                for (slot, value) in values {
                    self.replay_vote(slot, ballot, &Arc::new(value))?;
                }
            }
        }
        Ok(())
    }

    fn recorded_place(&self, owner: ReplicaId) -> Result<u64, Corrupt> {
        let known = self.voters.contains(&owner);
        if known { Ok(self.place_of(owner)) } else { Err(Corrupt::new(format!("slots of {owner}, who does not vote"))) }
    }

    /// The slots of a place in a span of a record: what was written was near what was decided then, which need not be known now.
    fn recorded(&self, place: u64, span: Span) -> impl Iterator<Item = u64> + use<> {
        let first = self.first_of(place, span.from.max(self.slots.base()));
        (first..span.end.max(first)).step_by(self.stride() as usize)
    }

    fn replay_vote(&mut self, slot: u64, ballot: Ballot, value: &Arc<Value>) -> Result<(), Corrupt> {
        if slot < self.slots.base() {
            return Ok(());
        }
        if let Some(decided) = self.slots.value(slot) {
            let same = decided == value;
            return if same { Ok(()) } else { Err(Corrupt::new(format!("a vote in slot {slot} against its decision"))) };
        }
        let before = self.slots.vote(slot).is_some_and(|(voted, before)| voted == ballot && before != value);
        if before || ballot < self.slots.joined(slot) {
            return Err(Corrupt::new(format!("a second vote at {ballot:?} in slot {slot}, or one after a promise")));
        }
        self.slots.accept(slot, ballot, Arc::clone(value));
        Ok(())
    }

    /// A skip that is durable here is settled, unless a revoker's ballot was joined since: then it is settled alike by whoever
    /// finishes it.
    fn settle_own_skips(&mut self) {
        let nothing = Arc::new(Value::Noop);
        let (place, stride) = (self.place, self.stride());
        let skipped = self.slots.records().filter(|(slot, kept)| {
            let skip = matches!(kept, Kept::Open { vote: Some(vote), .. } if vote.ballot == ZERO && vote.value.is_noop());
            skip && Some(slot % stride) == place
        });
        for slot in skipped.map(|(slot, _)| slot).collect::<Vec<_>>() {
            self.slots.decide(slot, Arc::clone(&nothing));
        }
    }

    /// What may hold a value: where one was voted for or decided, and everything that is forgotten.
    fn find_used(&mut self) {
        let held = self.slots.iter().filter(|(_, kept)| match kept {
            Slot::Open { vote, .. } => vote.as_ref().is_some_and(|(_, value)| !value.is_noop()),
            Slot::Decided(value) => !value.is_noop(),
        });
        self.used = held.map(|(slot, _)| slot + 1).max().unwrap_or(0).max(self.slots.base());
    }
}
