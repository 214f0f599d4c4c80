//! Exactly which instances are executed.

use crate::{Epoch, Instance, LaneId, Malformed, RangeSet, Reader, Wire, wire_struct};
use std::fmt;

/// Exactly which instances of an epoch are executed, a lane at a time. A frontier of a later epoch covers every earlier one.
#[derive(Clone, PartialEq, Eq, Hash, Default)]
pub struct Frontier {
    /// The epoch.
    pub epoch: Epoch,
    /// Its lanes; a lane that is not listed is empty.
    pub lanes: Vec<Lane>,
}

/// What is executed of one lane: every number below `below`, and those in `beyond` (graphs execute out of lane order).
#[derive(Clone, PartialEq, Eq, Hash, Default)]
pub struct Lane {
    /// Every number below this one.
    pub below: u64,
    /// And these, all above `below`.
    pub beyond: RangeSet,
}

impl Frontier {
    /// Nothing executed yet in an epoch.
    pub fn start(epoch: Epoch) -> Self {
        Self { epoch, lanes: Vec::new() }
    }

    /// The first `count` instances of a slot protocol.
    pub fn slots(epoch: Epoch, count: u64) -> Self {
        Self { epoch, lanes: vec![Lane { below: count, beyond: RangeSet::new() }] }
    }

    /// Whether `instance`, of this frontier's epoch, is executed.
    pub fn contains(&self, instance: Instance) -> bool {
        self.lanes.get(usize::from(instance.lane.0)).is_some_and(|lane| lane.contains(instance.number))
    }

    /// Every number of `lane` below this is executed.
    pub fn below(&self, lane: LaneId) -> u64 {
        self.lanes.get(usize::from(lane.0)).map_or(0, |lane| lane.below)
    }

    /// Marks `instance` executed; false if it was.
    pub fn insert(&mut self, instance: Instance) -> bool {
        let index = usize::from(instance.lane.0);
        if self.lanes.len() <= index {
            self.lanes.resize_with(index + 1, Lane::default);
        }
        self.lanes[index].insert(instance.number)
    }

    /// Whether everything in `other` is executed here. A later epoch covers an earlier one.
    pub fn covers(&self, other: &Frontier) -> bool {
        if self.epoch != other.epoch {
            return self.epoch > other.epoch;
        }
        let none = Lane::default();
        other.lanes.iter().enumerate().all(|(i, theirs)| self.lanes.get(i).unwrap_or(&none).covers(theirs))
    }

    /// Everything in either; of two epochs, the later.
    pub fn join(&mut self, other: &Frontier) {
        if other.epoch > self.epoch {
            self.clone_from(other);
        }
        if other.epoch < self.epoch {
            return;
        }
        if self.lanes.len() < other.lanes.len() {
            self.lanes.resize_with(other.lanes.len(), Lane::default);
        }
        for (mine, theirs) in self.lanes.iter_mut().zip(&other.lanes) {
            mine.join(theirs);
        }
    }

    /// Keeps what is in both, rounded down to whole lanes' prefixes; of two epochs, the earlier. For floors: what everyone has.
    pub fn keep_prefix(&mut self, other: &Frontier) {
        if other.epoch < self.epoch {
            return self.clone_from(other);
        }
        if other.epoch > self.epoch {
            return;
        }
        self.lanes.truncate(other.lanes.len());
        for (mine, theirs) in self.lanes.iter_mut().zip(&other.lanes) {
            *mine = Lane { below: mine.below.min(theirs.below), beyond: RangeSet::new() };
        }
    }

    /// How many instances are executed, or the greatest number if it cannot be counted.
    pub fn count(&self) -> u64 {
        self.lanes.iter().fold(0, |count: u64, lane| count.saturating_add(lane.below).saturating_add(lane.beyond.count()))
    }
}

impl Lane {
    /// Whether `number` is executed.
    pub fn contains(&self, number: u64) -> bool {
        number < self.below || self.beyond.contains(number)
    }

    /// Marks `number` executed; false if it was.
    pub fn insert(&mut self, number: u64) -> bool {
        if self.contains(number) {
            return false;
        }
        if number != self.below {
            return self.beyond.insert(number);
        }
        self.below += 1;
        self.absorb();
        true
    }

    /// Whether everything in `other` is executed here.
    pub fn covers(&self, other: &Lane) -> bool {
        let prefix = other.below <= self.below || self.beyond.end_of_run(self.below).is_some_and(|end| end >= other.below);
        prefix
            && other
                .beyond
                .iter()
                .all(|r| r.end <= self.below || self.beyond.end_of_run(r.start.max(self.below)).is_some_and(|e| e >= r.end))
    }

    fn join(&mut self, other: &Lane) {
        self.below = self.below.max(other.below);
        for r in other.beyond.iter() {
            self.beyond.insert_range(r);
        }
        self.absorb();
    }

    /// Moves what joins the prefix into it.
    fn absorb(&mut self) {
        self.beyond.remove_below(self.below);
        if let Some(end) = self.beyond.end_of_run(self.below) {
            self.below = end;
            self.beyond.remove_below(end);
        }
    }
}

impl fmt::Debug for Frontier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "e{}{:?}", self.epoch.0, self.lanes)
    }
}

impl fmt::Debug for Lane {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "<{}", self.below)?;
        for r in self.beyond.iter() {
            write!(f, "+{}..{}", r.start, r.end)?;
        }
        Ok(())
    }
}

impl Wire for Lane {
    fn put(&self, out: &mut Vec<u8>) {
        self.below.put(out);
        self.beyond.put(out);
    }
    fn get(r: &mut Reader) -> Result<Self, Malformed> {
        let lane = Self { below: u64::get(r)?, beyond: RangeSet::get(r)? };
        if lane.beyond.first().is_some_and(|first| first <= lane.below) {
            return Err(Malformed { what: "lane" });
        }
        Ok(lane)
    }
}

wire_struct!(Frontier { epoch, lanes });

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn out_of_order_execution_is_exact() {
        let mut f = Frontier::start(Epoch(1));
        for n in [0, 2, 3, 5] {
            assert!(f.insert(Instance { lane: LaneId(1), number: n }));
        }
        assert_eq!(f.lanes[1].below, 1);
        assert!(!f.contains(Instance { lane: LaneId(1), number: 1 }));
        assert!(!f.insert(Instance { lane: LaneId(1), number: 3 }));
        let partial = f.clone();
        f.insert(Instance { lane: LaneId(1), number: 1 });
        assert_eq!(f.lanes[1].below, 4);
        assert!(f.covers(&partial));
        assert!(!partial.covers(&f));
        let mut joined = partial.clone();
        joined.join(&f);
        assert_eq!(joined, f);
        assert!(Frontier::start(Epoch(2)).covers(&f));
        assert_eq!(Frontier::from_bytes(&f.to_bytes()), Ok(f));
    }
}
