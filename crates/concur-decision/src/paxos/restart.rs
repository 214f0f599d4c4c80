//! Restart: from records to a voter, what a checkpoint keeps, and what may be forgotten.

use super::messages::{Record, Stretch, each};
use super::{Paxos, Turns};
use crate::slots::{Peers, Reads, Slot, Slots, Vote};
use concur_core::{Ballot, Boot, Config, Context, Corrupt, Frontier, Instance, LaneId, Phase, Value};
use std::cmp::Ordering;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

impl Paxos {
    /// Makes a voter of its records. No ballot is resumed: what is undecided is finished at a higher one, if nobody else does.
    pub(super) fn start(boot: Boot<Self>, cx: &mut Context<Self>) -> Result<Self, Corrupt> {
        check_quorums(&cx.config)?;
        let mut slots = Slots::default();
        for record in boot.records {
            replay(&mut slots, record)?;
        }
        let executed = match boot.mark.frontier.epoch.cmp(&cx.config.epoch) {
            Ordering::Less => 0,
            Ordering::Equal => boot.mark.frontier.below(LaneId(0)),
            Ordering::Greater => return Err(Corrupt::new("the executed state is of a later epoch")),
        };
        slots.cover(executed);
        let last = slots.iter().filter(|(_, kept)| !matches!(kept, Slot::Open { vote: None, .. })).last();
        let voted = last.map_or(0, |(slot, _)| slot + 1).max(slots.decided());
        for (slot, kept) in slots.iter_from(executed) {
            if let Slot::Decided(value) = kept {
                cx.decide(Instance::slot(slot), Value::clone(value), ());
            }
        }
        let mut this = Self {
            lacking: executed < slots.base(),
            slots,
            voted,
            peers: Peers::new(cx.config.others()),
            reads: Reads::default(),
            turns: Turns::default(),
            leads: BTreeMap::new(),
            watches: BTreeMap::new(),
            own: BTreeMap::new(),
            proposed: BTreeMap::new(),
            moving: VecDeque::new(),
            stagger: None,
            ticking: false,
            leaving: false,
        };
        this.wake(cx);
        Ok(this)
    }

    /// Everything that is still needed.
    pub(super) fn records(&self) -> Vec<Record> {
        let base = std::iter::once(Record::Base { below: self.slots.base() });
        base.chain(self.slots.records().map(|(slot, kept)| Record::Kept { slot, kept })).collect()
    }

    /// Everything below is executed durably here.
    pub(super) fn raise_floor(&mut self, frontier: &Frontier, cx: &Context<Self>) {
        if frontier.epoch == cx.config.epoch {
            self.slots.forget(frontier.below(LaneId(0)), cx.config.retained_bytes_max);
        }
    }
}

fn replay(slots: &mut Slots, record: Record) -> Result<(), Corrupt> {
    match record {
        Record::Base { below } => drop(slots.cover(below)),
        Record::Kept { slot, kept } => {
            if slot < slots.base() || !slots.restore(slot, kept) {
                return Err(Corrupt::new(format!("what is kept of slot {slot} contradicts itself")));
            }
        }
        Record::Joined { stretches } => {
            for (slot, ballot) in checked(&stretches)? {
                check_rise(slots, slot, ballot)?;
                slots.join(slot, ballot);
            }
        }
        Record::Passed { stretches } => {
            let nothing = Arc::new(Value::Noop);
            for (slot, ballot) in checked(&stretches)? {
                check_rise(slots, slot, ballot)?;
                slots.accept(slot, ballot, Arc::clone(&nothing));
            }
        }
        Record::Voted { slot, vote: Vote { ballot, value } } => {
            checked(&[Stretch { first: slot, count: 1, ballot }])?;
            check_rise(slots, slot, ballot)?;
            slots.accept(slot, ballot, Arc::new(value));
        }
        Record::Chosen { slot } => {
            let vote = slots.vote(slot).map(|(_, value)| Arc::clone(value));
            let value = vote.ok_or_else(|| Corrupt::new(format!("slot {slot} is decided by a vote that is missing")))?;
            slots.decide(slot, value);
        }
        Record::Decided { slot, value } => {
            if slots.value(slot).is_some_and(|before| **before != value) {
                return Err(Corrupt::new(format!("slot {slot} is decided twice, differently")));
            }
            slots.decide(slot, Arc::new(value));
        }
    }
    Ok(())
}

fn checked(stretches: &[Stretch]) -> Result<Vec<(u64, Ballot)>, Corrupt> {
    match stretches.iter().find(|stretch| !stretch.makes_sense()) {
        Some(stretch) => Err(Corrupt::new(format!("{stretch:?} cannot be"))),
        None => Ok(each(stretches).collect()),
    }
}

/// What is recorded of a slot only grows, until it is decided.
fn check_rise(slots: &Slots, slot: u64, ballot: Ballot) -> Result<(), Corrupt> {
    if slots.is_decided(slot) || ballot < slots.joined(slot) {
        return Err(Corrupt::new(format!("{ballot:?} in slot {slot} after {:?}, or after its decision", slots.joined(slot))));
    }
    Ok(())
}

/// What was decided is found again only if whoever asks meets whoever decided (Paxos Made Simple §2.2, P2c).
fn check_quorums(config: &Config) -> Result<(), Corrupt> {
    match config.quorums.disjoint(Phase::Prepare, Phase::Accept) {
        Some((a, b)) => Err(Corrupt::new(format!("quorums {a:?} of phase 1 and {b:?} of phase 2 do not meet"))),
        None => Ok(()),
    }
}
