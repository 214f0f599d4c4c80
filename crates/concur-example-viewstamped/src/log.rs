//! The entries that are kept, from a base on: what is before it is forgotten, and executed state stands for it.

use super::{Entry, Point};
use std::collections::VecDeque;

/// A log whose first entries may be forgotten. Positions are counted from the start of the epoch.
#[derive(Debug, Clone, Hash, Default)]
pub(super) struct Log {
    base: Point,
    entries: VecDeque<Entry>,
    bytes: u64,
}

impl Log {
    /// The position of the first entry that is kept, if there is one.
    pub(super) fn base(&self) -> u64 {
        self.base.length
    }

    /// What is forgotten.
    pub(super) fn base_point(&self) -> Point {
        self.base
    }

    /// How many entries there are, forgotten ones included.
    pub(super) fn length(&self) -> u64 {
        self.base.length + self.entries.len() as u64
    }

    /// About how many bytes are kept.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The whole log, as a point.
    pub(super) fn end(&self) -> Point {
        Point { view: self.entries.back().map_or(self.base.view, |entry| entry.view), length: self.length() }
    }

    /// The prefix of this length, unless its end is forgotten or not there yet.
    pub(super) fn point(&self, length: u64) -> Option<Point> {
        if length == self.base.length {
            return Some(self.base);
        }
        Some(Point { view: self.get(length.checked_sub(1)?)?.view, length })
    }

    /// Whether this prefix is one of this log.
    pub(super) fn has(&self, point: Point) -> bool {
        self.point(point.length) == Some(point)
    }

    /// The entry at a position.
    pub(super) fn get(&self, position: u64) -> Option<&Entry> {
        self.entries.get(usize::try_from(position.checked_sub(self.base.length)?).ok()?)
    }

    /// The entries from a position on.
    pub(super) fn iter_from(&self, position: u64) -> impl Iterator<Item = &Entry> {
        let skip = usize::try_from(position.saturating_sub(self.base.length)).expect("a position in memory");
        self.entries.iter().skip(skip)
    }

    /// The entries from a position on, as many as fit into so many bytes, but at least one if there is one.
    pub(super) fn from(&self, position: u64, bytes_max: usize) -> Vec<Entry> {
        let mut bytes = 0;
        let fits = |entry: &&Entry| {
            let first = bytes == 0;
            bytes += entry.value.size_bytes();
            first || bytes <= bytes_max
        };
        self.iter_from(position).take_while(fits).cloned().collect()
    }

    /// Appends one entry.
    pub(super) fn push(&mut self, entry: Entry) {
        assert!(entry.view >= self.end().view, "views never fall along a log");
        self.bytes += entry.value.size_bytes() as u64;
        self.entries.push_back(entry);
    }

    /// Cuts the log to this length and hands out what was behind it.
    pub(super) fn truncate(&mut self, length: u64) -> Vec<Entry> {
        assert!(length >= self.base.length, "what is forgotten was executed, and is never cut off");
        let keep = usize::try_from(length - self.base.length).expect("a position in memory").min(self.entries.len());
        let cut: Vec<Entry> = self.entries.drain(keep..).collect();
        self.bytes -= cut.iter().map(|entry| entry.value.size_bytes() as u64).sum::<u64>();
        cut
    }

    /// Forgets everything; the log begins here.
    pub(super) fn reset(&mut self, base: Point) {
        *self = Self { base, ..Self::default() };
    }

    /// Entries below `floor` are kept only for replicas that lag: the oldest go, until at most so many bytes are kept.
    pub(super) fn forget(&mut self, floor: u64, bytes_max: usize) {
        while self.base.length < floor
            && self.bytes > bytes_max as u64
            && let Some(entry) = self.entries.pop_front()
        {
            self.bytes -= entry.value.size_bytes() as u64;
            self.base = Point { view: entry.view, length: self.base.length + 1 };
        }
    }
}
