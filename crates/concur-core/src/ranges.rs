//! A set of numbers kept as disjoint ranges.

use crate::{Malformed, Reader, Wire, wire::put_varint};
use std::collections::BTreeMap;
use std::ops::Range;

/// A set of `u64`, stored as disjoint, non-adjacent, half-open ranges.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct RangeSet {
    ranges: BTreeMap<u64, u64>,
}

impl RangeSet {
    /// The empty set.
    pub fn new() -> Self {
        Self::default()
    }

    /// Whether `n` is in the set.
    pub fn contains(&self, n: u64) -> bool {
        self.ranges.range(..=n).next_back().is_some_and(|(_, &end)| n < end)
    }

    /// Adds `n`; true if it was not there.
    pub fn insert(&mut self, n: u64) -> bool {
        if self.contains(n) {
            return false;
        }
        self.insert_range(n..n + 1);
        true
    }

    /// Adds every number of `range`.
    pub fn insert_range(&mut self, range: Range<u64>) {
        if range.start >= range.end {
            return;
        }
        let (mut start, mut end) = (range.start, range.end);
        if let Some((&s, &e)) = self.ranges.range(..start).next_back()
            && e >= start
        {
            start = s;
            end = end.max(e);
        }
        while let Some((&s, &e)) = self.ranges.range(start..=end).next() {
            end = end.max(e);
            self.ranges.remove(&s);
        }
        self.ranges.insert(start, end);
    }

    /// Takes out every number below `n`.
    pub fn remove_below(&mut self, n: u64) {
        while let Some((&s, &e)) = self.ranges.first_key_value() {
            if s >= n {
                return;
            }
            self.ranges.remove(&s);
            if e > n {
                self.ranges.insert(n, e);
                return;
            }
        }
    }

    /// If the set holds `n`, the end of the range that does.
    pub fn end_of_run(&self, n: u64) -> Option<u64> {
        self.ranges.range(..=n).next_back().filter(|&(_, &end)| n < end).map(|(_, &end)| end)
    }

    /// The ranges, in order.
    pub fn iter(&self) -> impl Iterator<Item = Range<u64>> + '_ {
        self.ranges.iter().map(|(&s, &e)| s..e)
    }

    /// The smallest number.
    pub fn first(&self) -> Option<u64> {
        self.ranges.first_key_value().map(|(&s, _)| s)
    }

    /// One past the greatest number.
    pub fn end(&self) -> Option<u64> {
        self.ranges.last_key_value().map(|(_, &e)| e)
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }

    /// How many numbers.
    pub fn count(&self) -> u64 {
        self.ranges.iter().map(|(s, e)| e - s).sum()
    }

    /// How many ranges, which is what it costs in memory.
    pub fn pieces(&self) -> usize {
        self.ranges.len()
    }

    /// Whether everything here is in `other`.
    pub fn is_subset(&self, other: &Self) -> bool {
        self.iter().all(|r| other.end_of_run(r.start).is_some_and(|end| end >= r.end))
    }
}

impl Wire for RangeSet {
    fn put(&self, out: &mut Vec<u8>) {
        put_varint(self.ranges.len() as u64, out);
        for (s, e) in &self.ranges {
            s.put(out);
            e.put(out);
        }
    }
    fn get(r: &mut Reader) -> Result<Self, Malformed> {
        let n = r.count(2)?;
        let mut set = Self::new();
        for _ in 0..n {
            let (s, e) = (u64::get(r)?, u64::get(r)?);
            if s >= e || set.end().is_some_and(|end| s <= end) {
                return Err(Malformed { what: "range set" });
            }
            set.ranges.insert(s, e);
        }
        Ok(set)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Rng;
    use std::collections::BTreeSet;

    #[test]
    fn agrees_with_a_plain_set() {
        let mut rng = Rng::new(7);
        let (mut ours, mut plain) = (RangeSet::new(), BTreeSet::new());
        for _ in 0..5_000 {
            let n = rng.below(200);
            match rng.below(40) {
                0 => {
                    ours.remove_below(n / 4);
                    plain.retain(|&p| p >= n / 4);
                }
                1 => {
                    let end = n + rng.below(9);
                    ours.insert_range(n..end);
                    plain.extend(n..end);
                }
                _ => assert_eq!(ours.insert(n), plain.insert(n)),
            }
            assert!((0..220).all(|n| ours.contains(n) == plain.contains(&n)));
            assert_eq!(ours.count(), plain.len() as u64);
        }
        assert_eq!(RangeSet::from_bytes(&ours.to_bytes()), Ok(ours));
    }
}
