//! Which instances interfere with a command: an index from keys to the greatest number that read or wrote them, a lane.
//!
//! Everything that this replica pre-accepted, accepted or learned is entered and never taken out one by one; what is executed
//! everywhere that matters is evicted, and from then on every answer lists at least everything below the bound of eviction.
//! Answers may list more than interferes: a dependency on what does not interfere is no edge when it comes to executing. So what
//! would cost too much to answer exactly (a scan over very many keys, very many distinct ranges) is answered by more.

use super::messages::Deps;
use bytes::Bytes;
use concur_core::{Footprint, Instance, Span};
use std::collections::BTreeMap;
use std::ops::Bound;

/// How many keys a range may cover in the index before its answer is "everything".
const SCAN_KEYS_MAX: usize = 1024;
/// How many distinct ranges are told apart; further ones count as interfering with everything.
const RANGES_MAX: usize = 256;
/// How many keys at least are looked at for eviction at a time.
const SWEEP_KEYS: usize = 4096;

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Conflicts {
    evicted: Vec<u64>,
    any: Vec<u64>,
    everything: Vec<u64>,
    keys: BTreeMap<Bytes, Touched>,
    ranges: Vec<(Span, Touched)>,
    /// Where the sweep for eviction goes on.
    cursor: Option<Bytes>,
}

/// Who touched a key or range: numbers from which on nobody did, a lane.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Touched {
    reads: Box<[u64]>,
    writes: Box<[u64]>,
}

impl Conflicts {
    pub(super) fn new(lanes: usize) -> Self {
        let none = vec![0; lanes];
        Self { evicted: none.clone(), any: none.clone(), everything: none, keys: BTreeMap::new(), ranges: Vec::new(), cursor: None }
    }

    /// Enters an instance.
    pub(super) fn add(&mut self, instance: Instance, footprint: &Footprint) {
        let (lane, bound) = (usize::from(instance.lane.0), instance.number + 1);
        raise(&mut self.any[lane], bound);
        let Footprint::Spans { reads, writes } = footprint else {
            return raise(&mut self.everything[lane], bound);
        };
        for span in reads {
            self.touch(span, lane, bound, false);
        }
        for span in writes {
            self.touch(span, lane, bound, true);
        }
    }

    fn touch(&mut self, span: &Span, lane: usize, bound: u64, write: bool) {
        let lanes = self.any.len();
        let touched = if let Span::Key(key) = span {
            // A key sliced out of a batch would keep the whole batch in memory.
            if !self.keys.contains_key(key) {
                self.keys.insert(Bytes::copy_from_slice(key), Touched::none(lanes));
            }
            self.keys.get_mut(key)
        } else {
            if self.ranges.len() < RANGES_MAX && self.ranges.iter().all(|(known, _)| known != span) {
                self.ranges.push((span.clone(), Touched::none(lanes)));
            }
            self.ranges.iter_mut().find(|(known, _)| known == span).map(|(_, touched)| touched)
        };
        match touched {
            Some(touched) if write => raise(&mut touched.writes[lane], bound),
            Some(touched) => raise(&mut touched.reads[lane], bound),
            None => raise(&mut self.everything[lane], bound),
        }
    }

    /// For each lane, a number below which everything lies that was entered and interferes with `footprint`.
    pub(super) fn bounds(&self, footprint: &Footprint) -> Deps {
        let mut out = Deps(self.evicted.clone());
        match footprint {
            Footprint::Everything => out.join(&self.any),
            Footprint::Spans { reads, writes } => {
                out.join(&self.everything);
                reads.iter().for_each(|span| self.collect(span, false, &mut out));
                writes.iter().for_each(|span| self.collect(span, true, &mut out));
            }
        }
        out
    }

    /// Adds who wrote what `span` touches and, for a write, who read it.
    fn collect(&self, span: &Span, write: bool, out: &mut Deps) {
        let mut take = |touched: &Touched| {
            out.join(&touched.writes);
            if write {
                out.join(&touched.reads);
            }
        };
        self.ranges.iter().filter(|(range, _)| range.intersects(span)).for_each(|(_, touched)| take(touched));
        if let Span::Key(key) = span {
            self.keys.get(key).into_iter().for_each(take);
            return;
        }
        let from = Bound::Included(span.start().clone());
        let mut covered = self.keys.range((from, Bound::Unbounded)).take_while(|(key, _)| span.contains(key));
        covered.by_ref().take(SCAN_KEYS_MAX).for_each(|(_, touched)| take(touched));
        if covered.next().is_some() {
            out.join(&self.any);
        }
    }

    /// What lies below `bounds` may go: answers list all of it from here on. A part of the keys is looked at in each call.
    pub(super) fn evict(&mut self, bounds: &[u64]) {
        for (mine, bound) in self.evicted.iter_mut().zip(bounds) {
            raise(mine, *bound);
        }
        let evicted = &self.evicted;
        self.ranges.retain(|(_, touched)| !touched.is_below(evicted));
        let budget = SWEEP_KEYS.max(self.keys.len() / 8);
        let from = self.cursor.take().map_or(Bound::Unbounded, Bound::Excluded);
        let mut looked_at = 0;
        let mut drop = Vec::new();
        for (key, touched) in self.keys.range((from, Bound::Unbounded)).take(budget) {
            looked_at += 1;
            if touched.is_below(evicted) {
                drop.push(key.clone());
            }
            if looked_at == budget {
                self.cursor = Some(key.clone());
            }
        }
        for key in drop {
            self.keys.remove(&key);
        }
    }

    /// Below these numbers every answer lists everything.
    pub(super) fn evicted(&self) -> &[u64] {
        &self.evicted
    }

    /// How many keys and ranges are entered.
    pub(super) fn len(&self) -> usize {
        self.keys.len() + self.ranges.len()
    }
}

impl Touched {
    fn none(lanes: usize) -> Self {
        Self { reads: vec![0; lanes].into(), writes: vec![0; lanes].into() }
    }

    fn is_below(&self, bounds: &[u64]) -> bool {
        self.reads.iter().chain(&*self.writes).zip(bounds.iter().cycle()).all(|(mine, bound)| mine <= bound)
    }
}

fn raise(bound: &mut u64, to: u64) {
    *bound = (*bound).max(to);
}

#[cfg(test)]
mod tests {
    use super::*;
    use concur_core::{LaneId, Rng};

    fn span(rng: &mut Rng) -> Span {
        let key = |n: u64| Bytes::from(vec![b'a' + n as u8]);
        let n = rng.below(8);
        match rng.below(8) {
            0 => Span::From(key(n)),
            1 => Span::Range { start: key(n), end: key(n + 1 + rng.below(4)) },
            _ => Span::Key(key(n)),
        }
    }

    fn footprint(rng: &mut Rng) -> Footprint {
        if rng.below(20) == 0 {
            return Footprint::Everything;
        }
        let mut spans = || (0..rng.below(3)).map(|_| span(rng)).collect();
        Footprint::Spans { reads: spans(), writes: spans() }
    }

    #[test]
    fn every_interfering_instance_is_listed_and_little_else() {
        let mut rng = Rng::new(3);
        let (mut index, mut all) = (Conflicts::new(3), Vec::new());
        for number in 0..400 {
            let instance = Instance { lane: LaneId(rng.below(3) as u8), number };
            let new = footprint(&mut rng);
            index.add(instance, &new);
            all.push((instance, new));
            if number % 50 == 49 {
                index.evict(&[number - 40, number - 30, number - 20]);
            }
            let asked = footprint(&mut rng);
            let listed = index.bounds(&asked);
            let mut exact = Deps(index.evicted.clone());
            for (instance, footprint) in &all {
                if footprint.interferes(&asked) {
                    assert!(listed.lists(*instance), "{asked:?} misses {instance} {footprint:?}");
                    raise(&mut exact.0[usize::from(instance.lane.0)], instance.number + 1);
                }
            }
            assert_eq!(listed, exact, "{asked:?}");
        }
        index.evict(&[400, 400, 400]);
        assert_eq!(index.len(), 0);
    }

    #[test]
    fn what_costs_too_much_is_answered_by_more() {
        let mut index = Conflicts::new(1);
        let at = |number| Instance { lane: LaneId(0), number };
        for n in 0..3000u64 {
            index.add(at(n), &Footprint::write(Bytes::from(n.to_be_bytes().to_vec())));
        }
        let wide = Span::From(Bytes::new());
        assert_eq!(index.bounds(&Footprint::Spans { reads: vec![wide], writes: vec![] }), Deps(vec![3000]));
        for n in 0..1000u64 {
            let start = Bytes::from(n.to_be_bytes().to_vec());
            index.add(at(3000 + n), &Footprint::Spans { reads: vec![], writes: vec![Span::From(start)] });
        }
        assert!(index.ranges.len() <= RANGES_MAX);
        assert_eq!(index.bounds(&Footprint::read(Bytes::from_static(b"zzz"))), Deps(vec![4000]));
    }
}
