//! The entries that are kept, from a base on.

use super::{Entry, Point, Term};
use std::collections::VecDeque;

/// A log whose first `base` entries are forgotten: executed state stands for them.
#[derive(Debug, Clone, Hash, Default)]
pub(super) struct Log {
    /// What is forgotten.
    base: Point,
    entries: VecDeque<Entry>,
    /// Of all entries.
    bytes: u64,
    /// Entries below this position are kept for followers that lag, and for nothing else. At least the base.
    floor: u64,
    /// Of the entries below it.
    floor_bytes: u64,
}

impl Log {
    /// The position of the first entry that is kept, if there is one.
    pub(super) fn base(&self) -> u64 {
        self.base.length
    }

    /// How many entries there are, forgotten ones included.
    pub(super) fn length(&self) -> u64 {
        self.base.length + self.entries.len() as u64
    }

    /// About how many bytes are kept.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The whole log.
    pub(super) fn end(&self) -> Point {
        Point { term: self.entries.back().map_or(self.base.term, |entry| entry.term), length: self.length() }
    }

    /// The prefix of this length, unless its end is forgotten or not there yet.
    pub(super) fn point(&self, length: u64) -> Option<Point> {
        if length == self.base.length {
            return Some(self.base);
        }
        let entry = self.get(length.checked_sub(1)?)?;
        Some(Point { term: entry.term, length })
    }

    /// Whether this prefix is one of this log.
    pub(super) fn has(&self, point: Point) -> bool {
        self.point(point.length) == Some(point)
    }

    /// The entry at a position.
    pub(super) fn get(&self, position: u64) -> Option<&Entry> {
        self.entries.get(usize::try_from(position.checked_sub(self.base.length)?).ok()?)
    }

    /// The position at which the entries of the term of the entry before `length` begin, as far as they are kept.
    pub(super) fn start_of_term_before(&self, length: u64) -> u64 {
        let Some(point) = self.point(length) else { return self.base.length };
        self.base.length + self.entries.partition_point(|entry| entry.term < point.term) as u64
    }

    /// The entries from a position on, as many as fit into so many bytes, but at least one if there is one.
    pub(super) fn from(&self, position: u64, bytes_max: usize) -> Vec<Entry> {
        let skip = usize::try_from(position - self.base.length).expect("a position in memory");
        let mut bytes = 0;
        let fits = |entry: &&Entry| {
            let first = bytes == 0;
            bytes += entry.value.size_bytes();
            first || bytes <= bytes_max
        };
        self.entries.range(skip..).take_while(fits).cloned().collect()
    }

    /// Appends one entry.
    pub(super) fn push(&mut self, entry: Entry) {
        assert!(entry.term >= self.end().term, "terms never fall along a log");
        self.bytes += entry.value.size_bytes() as u64;
        self.entries.push_back(entry);
    }

    /// Cuts the log to this length and hands out what was behind it.
    pub(super) fn truncate(&mut self, length: u64) -> Vec<Entry> {
        assert!(length >= self.floor, "what is executed is never cut off");
        let keep = usize::try_from(length - self.base.length).expect("a position in memory").min(self.entries.len());
        let cut: Vec<Entry> = self.entries.drain(keep..).collect();
        self.bytes -= cut.iter().map(|entry| entry.value.size_bytes() as u64).sum::<u64>();
        cut
    }

    /// Forgets everything; the log begins here.
    pub(super) fn reset(&mut self, base: Point) {
        *self = Self { base, floor: base.length, ..Self::default() };
    }

    /// Entries below `floor` are not needed here; the oldest of them are dropped until at most so many bytes of them are left.
    pub(super) fn forget(&mut self, floor: u64, bytes_max: usize) {
        while self.floor < floor.min(self.length()) {
            self.floor_bytes += self.get(self.floor).map_or(0, |entry| entry.value.size_bytes() as u64);
            self.floor += 1;
        }
        while self.floor_bytes > bytes_max as u64
            && self.base.length < self.floor
            && let Some(entry) = self.entries.pop_front()
        {
            let size = entry.value.size_bytes() as u64;
            self.bytes -= size;
            self.floor_bytes -= size;
            self.base = Point { term: entry.term, length: self.base.length + 1 };
        }
    }

    /// What is forgotten, as a point.
    pub(super) fn base_point(&self) -> Point {
        self.base
    }

    /// The last term, for checks.
    pub(super) fn last_term(&self) -> Term {
        self.end().term
    }

    /// The entries from a position on.
    pub(super) fn iter_from(&self, position: u64) -> impl Iterator<Item = &Entry> {
        let skip = usize::try_from(position.saturating_sub(self.base.length)).expect("a position in memory");
        self.entries.iter().skip(skip)
    }
}
