//! The slots that a replica keeps: promises, votes and decisions, from a base on.

use concur_core::{Ballot, Value, wire_enum, wire_struct};
use std::collections::BTreeMap;
use std::sync::Arc;

/// A vote for a value at a ballot.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Vote {
    /// The ballot.
    pub ballot: Ballot,
    /// The value.
    pub value: Value,
}

/// A slot as a record of a checkpoint keeps it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Kept {
    /// Undecided as far as is known: the ballot that was joined for it, and the vote.
    Open {
        /// The ballot joined.
        joined: Ballot,
        /// The vote, if there is one.
        vote: Option<Vote>,
    },
    /// Decided.
    Decided {
        /// What.
        value: Value,
    },
}

wire_struct!(Vote { ballot, value });
wire_enum!(Kept { 0 => Open { joined, vote }, 1 => Decided { value } });

/// One slot.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Slot {
    /// Undecided as far as is known here.
    Open {
        /// The ballot that was joined for it, where that is done slot by slot.
        joined: Ballot,
        /// The last vote.
        vote: Option<(Ballot, Arc<Value>)>,
    },
    /// Decided: nothing else about it counts any more.
    Decided(Arc<Value>),
}

impl Default for Slot {
    fn default() -> Self {
        Self::Open { joined: Ballot::default(), vote: None }
    }
}

impl Slot {
    fn size_bytes(&self) -> u64 {
        match self {
            Self::Open { vote: Some((_, value)), .. } | Self::Decided(value) => value.size_bytes() as u64,
            Self::Open { vote: None, .. } => 0,
        }
    }
}

/// One lane of slots. Those below the base are forgotten: they are decided, and executed state stands for them.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub(crate) struct Slots {
    base: u64,
    kept: BTreeMap<u64, Slot>,
    /// Every slot below is decided.
    decided: u64,
    /// No slot from here on is known of.
    known: u64,
    /// Of all values that are kept.
    bytes: u64,
    /// Slots below are kept for replicas that lag, and for nothing else. At least the base.
    floor: u64,
    /// Of the values below it.
    floor_bytes: u64,
}

impl Slots {
    /// The first slot that is kept, if there is one.
    pub(crate) fn base(&self) -> u64 {
        self.base
    }

    /// The first slot that is not known to be decided: everything before it is.
    pub(crate) fn decided(&self) -> u64 {
        self.decided
    }

    /// No slot from here on is known of.
    pub(crate) fn known(&self) -> u64 {
        self.known
    }

    /// Slots below this one exist: somebody has used the last of them, or waits for it.
    pub(crate) fn hear_of(&mut self, known: u64) {
        self.known = self.known.max(known);
    }

    /// How many slots are kept, and how many bytes their values take.
    pub(crate) fn retained(&self) -> (u64, u64) {
        (self.kept.len() as u64, self.bytes)
    }

    /// Whether it is decided as far as is known here, forgotten or not.
    pub(crate) fn is_decided(&self, slot: u64) -> bool {
        slot < self.decided || matches!(self.kept.get(&slot), Some(Slot::Decided(_)))
    }

    /// What is decided there, if it is known and kept.
    pub(crate) fn value(&self, slot: u64) -> Option<&Arc<Value>> {
        match self.kept.get(&slot)? {
            Slot::Decided(value) => Some(value),
            Slot::Open { .. } => None,
        }
    }

    /// What is kept of a slot.
    pub(crate) fn get(&self, slot: u64) -> Option<&Slot> {
        self.kept.get(&slot)
    }

    /// The vote in an undecided slot.
    pub(crate) fn vote(&self, slot: u64) -> Option<(Ballot, &Arc<Value>)> {
        match self.kept.get(&slot)? {
            Slot::Open { vote, .. } => vote.as_ref().map(|(ballot, value)| (*ballot, value)),
            Slot::Decided(_) => None,
        }
    }

    /// The ballot that was joined for an undecided slot.
    pub(crate) fn joined(&self, slot: u64) -> Ballot {
        match self.kept.get(&slot) {
            Some(Slot::Open { joined, .. }) => *joined,
            _ => Ballot::default(),
        }
    }

    /// Joins a ballot for one undecided slot. Whoever calls persists it.
    pub(crate) fn join(&mut self, slot: u64, ballot: Ballot) {
        assert!(!self.is_decided(slot), "what is decided needs no ballot");
        self.hear_of(slot + 1);
        if let Slot::Open { joined, .. } = self.kept.entry(slot).or_default() {
            assert!(ballot >= *joined, "a promise never falls");
            *joined = ballot;
        }
    }

    /// Votes for a value in an undecided slot, and so joins its ballot. Whoever calls persists it.
    pub(crate) fn accept(&mut self, slot: u64, ballot: Ballot, value: Arc<Value>) {
        self.join(slot, ballot);
        let entry = self.kept.entry(slot).or_default();
        self.bytes -= entry.size_bytes();
        if let Slot::Open { vote, .. } = entry {
            assert!(vote.as_ref().is_none_or(|(before, _)| *before <= ballot), "votes never go back");
            *vote = Some((ballot, value));
        }
        self.bytes += entry.size_bytes();
    }

    /// Learns what is decided in a slot; true if that is new. Deciding differently panics.
    pub(crate) fn decide(&mut self, slot: u64, value: Arc<Value>) -> bool {
        self.hear_of(slot + 1);
        if slot < self.base {
            return false;
        }
        let entry = self.kept.entry(slot).or_default();
        if let Slot::Decided(before) = entry {
            assert_eq!(*before, value, "slot {slot} is decided differently");
            return false;
        }
        self.bytes -= entry.size_bytes();
        *entry = Slot::Decided(value);
        self.bytes += entry.size_bytes();
        self.advance();
        true
    }

    fn advance(&mut self) {
        while matches!(self.kept.get(&self.decided), Some(Slot::Decided(_))) {
            self.decided += 1;
        }
    }

    /// Everything below this slot is decided, and executed state stands for it here: what is kept of it goes, unless it is known to
    /// be decided and still retained. True if that is new.
    pub(crate) fn cover(&mut self, below: u64) -> bool {
        if below <= self.decided {
            return false;
        }
        self.hear_of(below);
        let rest = self.kept.split_off(&below);
        self.bytes = rest.values().map(Slot::size_bytes).sum();
        self.kept = rest;
        (self.base, self.floor, self.floor_bytes, self.decided) = (below, below, 0, below);
        self.advance();
        true
    }

    /// Slots below `floor` are not needed here; the oldest of them are dropped until at most so many bytes of them are left.
    pub(crate) fn forget(&mut self, floor: u64, bytes_max: usize) {
        self.forget_but(floor, bytes_max, [0, u64::MAX], bytes_max);
    }

    /// Slots below `floor` are not needed here. Of them everybody needs only what lies at or above `all`, and those who live what lies
    /// at or above `living`: the former is kept up to so many bytes, the latter up to `held_bytes_max`.
    pub(crate) fn forget_but(&mut self, floor: u64, bytes_max: usize, [all, living]: [u64; 2], held_bytes_max: usize) {
        while self.floor < floor.min(self.decided) {
            self.floor_bytes += self.kept.get(&self.floor).map_or(0, Slot::size_bytes);
            self.floor += 1;
        }
        while self.base < self.floor {
            let (slot, bytes) = (self.base, self.floor_bytes);
            if !(slot < all || (slot < living && bytes > bytes_max as u64) || bytes > held_bytes_max as u64) {
                return;
            }
            let size = self.kept.remove(&slot).map_or(0, |slot| slot.size_bytes());
            self.bytes -= size;
            self.floor_bytes -= size;
            self.base += 1;
        }
    }

    /// What is decided from a slot on, without a hole, as much as fits into so many bytes, but at least one if there is one.
    pub(crate) fn decided_from(&self, slot: u64, bytes_max: usize) -> Vec<Value> {
        let (mut out, mut bytes) = (Vec::new(), 0);
        for (place, (&number, kept)) in self.kept.range(slot..).enumerate() {
            let Slot::Decided(value) = kept else { break };
            bytes += value.size_bytes();
            if number != slot + place as u64 || (place > 0 && bytes > bytes_max) {
                break;
            }
            out.push(Value::clone(value));
        }
        out
    }

    /// The undecided slots below `known`, from the first on; those of which nothing is kept as well.
    pub(crate) fn holes(&self) -> impl Iterator<Item = u64> + '_ {
        (self.decided..self.known).filter(|&slot| !self.is_decided(slot))
    }

    /// The same, from a slot on.
    pub(crate) fn holes_from(&self, slot: u64) -> impl Iterator<Item = u64> + '_ {
        (self.decided.max(slot)..self.known).filter(|&slot| !self.is_decided(slot))
    }

    /// Everything that is kept, in the order of the slots.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (u64, &Slot)> {
        self.kept.iter().map(|(&slot, kept)| (slot, kept))
    }

    /// Everything that is kept from a slot on.
    pub(crate) fn iter_from(&self, slot: u64) -> impl Iterator<Item = (u64, &Slot)> {
        self.kept.range(slot..).map(|(&slot, kept)| (slot, kept))
    }

    /// What a checkpoint keeps of each slot.
    pub(crate) fn records(&self) -> impl Iterator<Item = (u64, Kept)> + '_ {
        self.iter().map(|(slot, kept)| {
            let kept = match kept {
                Slot::Open { joined, vote } => {
                    let vote = vote.as_ref().map(|(ballot, value)| Vote { ballot: *ballot, value: Value::clone(value) });
                    Kept::Open { joined: *joined, vote }
                }
                Slot::Decided(value) => Kept::Decided { value: Value::clone(value) },
            };
            (slot, kept)
        })
    }

    /// Takes a slot back from a checkpoint; false if what it says cannot be.
    pub(crate) fn restore(&mut self, slot: u64, kept: Kept) -> bool {
        match kept {
            Kept::Open { joined, vote } => {
                let sane = vote.as_ref().is_none_or(|vote| vote.ballot <= joined) && !self.is_decided(slot);
                if sane {
                    if let Some(Vote { ballot, value }) = vote {
                        self.accept(slot, ballot, Arc::new(value));
                    }
                    self.join(slot, joined);
                }
                sane
            }
            Kept::Decided { value } => {
                let sane = self.value(slot).is_none_or(|before| **before == value);
                if sane {
                    self.decide(slot, Arc::new(value));
                }
                sane
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use concur_core::ReplicaId;

    fn ballot(round: u64) -> Ballot {
        Ballot { round, owner: ReplicaId(0) }
    }

    #[test]
    fn what_is_decided_moves_on_over_what_was_decided_before() {
        let mut slots = Slots::default();
        slots.accept(0, ballot(1), Arc::new(Value::Noop));
        assert!(slots.decide(1, Arc::new(Value::Noop)));
        assert_eq!((slots.decided(), slots.known()), (0, 2));
        assert_eq!(slots.holes().collect::<Vec<_>>(), [0]);
        assert!(slots.decide(0, Arc::new(Value::Noop)));
        assert!(!slots.decide(0, Arc::new(Value::Noop)));
        assert_eq!(slots.decided(), 2);
        assert_eq!(slots.decided_from(0, 1 << 20).len(), 2);
        assert_eq!(slots.decided_from(0, 1).len(), 1);
    }

    #[test]
    fn what_state_stands_for_is_forgotten_and_the_rest_is_kept() {
        let mut slots = Slots::default();
        slots.accept(0, ballot(1), Arc::new(Value::Noop));
        slots.accept(5, ballot(2), Arc::new(Value::Noop));
        slots.decide(3, Arc::new(Value::Noop));
        assert!(slots.cover(3));
        assert!(!slots.cover(2));
        assert_eq!((slots.base(), slots.decided(), slots.known()), (3, 4, 6));
        assert_eq!(slots.vote(5).map(|(ballot, _)| ballot), Some(ballot(2)));
        slots.forget(9, 0);
        assert_eq!((slots.base(), slots.decided()), (4, 4));
        assert_eq!(slots.retained(), (1, 1));
    }

    #[test]
    fn what_nobody_needs_is_forgotten_and_who_lives_is_waited_for() {
        let mut slots = Slots::default();
        assert!((0..9).all(|slot| slots.decide(slot, Arc::new(Value::Noop))));
        slots.forget_but(8, 100, [3, 5], 100);
        assert_eq!(slots.base(), 3, "everybody has what is below");
        slots.forget_but(8, 0, [3, 5], 100);
        assert_eq!(slots.base(), 5, "those who live have it");
        slots.forget_but(8, 0, [3, 5], 1);
        assert_eq!(slots.base(), 7, "and they are not waited for at any price");
    }

    #[test]
    fn a_checkpoint_brings_back_what_was_kept() {
        let mut slots = Slots::default();
        slots.accept(1, ballot(1), Arc::new(Value::Noop));
        slots.join(1, ballot(4));
        slots.decide(0, Arc::new(Value::Noop));
        let mut again = Slots::default();
        for (slot, kept) in slots.records() {
            assert!(again.restore(slot, kept));
        }
        assert_eq!(again, slots);
        assert!(!again.restore(0, Kept::Open { joined: ballot(1), vote: None }));
    }
}
