//! What a command reads and writes: the state machine's word on which commands interfere.

use crate::wire_enum;
use bytes::Bytes;

/// What a command, batch or read touches. Two interfere if one writes what the other reads or writes; commands that do not
/// interfere may be executed in different orders on different replicas.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Footprint {
    /// Interferes with every other footprint, empty ones too.
    Everything,
    /// Only these.
    Spans {
        /// What is read.
        reads: Vec<Span>,
        /// What is written.
        writes: Vec<Span>,
    },
}

/// A key, or a range of keys in byte order.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Span {
    /// One key.
    Key(Bytes),
    /// From the first key up to, without, the second.
    Range {
        /// The first key.
        start: Bytes,
        /// The key behind the last.
        end: Bytes,
    },
    /// Every key from this one on.
    From(Bytes),
}

impl Footprint {
    /// Touches nothing.
    pub const NOTHING: Self = Self::Spans { reads: Vec::new(), writes: Vec::new() };

    /// Writes one key.
    pub fn write(key: Bytes) -> Self {
        Self::Spans { reads: Vec::new(), writes: vec![Span::Key(key)] }
    }

    /// Reads one key.
    pub fn read(key: Bytes) -> Self {
        Self::Spans { reads: vec![Span::Key(key)], writes: Vec::new() }
    }

    /// Whether the order of the two matters.
    pub fn interferes(&self, other: &Footprint) -> bool {
        let (Self::Spans { reads, writes }, Self::Spans { reads: r, writes: w }) = (self, other) else {
            return true;
        };
        touch(writes, w) || touch(writes, r) || touch(reads, w)
    }

    /// The footprint of both together, as a batch has.
    pub fn join(&mut self, other: Footprint) {
        match (self, other) {
            (Self::Everything, _) => {}
            (this, Self::Everything) => *this = Self::Everything,
            (Self::Spans { reads, writes }, Self::Spans { reads: r, writes: w }) => {
                reads.extend(r);
                writes.extend(w);
            }
        }
    }

    /// About how many bytes it takes on the wire.
    pub fn size_bytes(&self) -> usize {
        match self {
            Self::Everything => 1,
            Self::Spans { reads, writes } => reads.iter().chain(writes).map(Span::size_bytes).sum(),
        }
    }

    /// Sorts the spans and drops repeated ones.
    pub fn normalise(&mut self) {
        if let Self::Spans { reads, writes } = self {
            for spans in [reads, writes] {
                spans.sort_unstable();
                spans.dedup();
            }
        }
    }
}

fn touch(a: &[Span], b: &[Span]) -> bool {
    a.iter().any(|x| b.iter().any(|y| x.intersects(y)))
}

impl Span {
    /// The first key.
    pub fn start(&self) -> &Bytes {
        match self {
            Self::Key(key) | Self::From(key) | Self::Range { start: key, .. } => key,
        }
    }

    fn size_bytes(&self) -> usize {
        match self {
            Self::Key(key) | Self::From(key) => 4 + key.len(),
            Self::Range { start, end } => 8 + start.len() + end.len(),
        }
    }

    /// Whether `key` is in it.
    pub fn contains(&self, key: &[u8]) -> bool {
        match self {
            Self::Key(k) => k == key,
            Self::Range { start, end } => start <= key && key < &end[..],
            Self::From(start) => start <= key,
        }
    }

    /// Whether they share a key.
    pub fn intersects(&self, other: &Span) -> bool {
        match (self, other) {
            (Self::Key(k), s) | (s, Self::Key(k)) => s.contains(k),
            (Self::From(_), Self::From(_)) => true,
            (Self::Range { start, end }, Self::From(from)) | (Self::From(from), Self::Range { start, end }) => start < end && from < end,
            (Self::Range { start: a, end: b }, Self::Range { start: c, end: d }) => a < b && c < d && a < d && c < b,
        }
    }
}

wire_enum!(Span { 0 => Key(key), 1 => Range { start, end }, 2 => From(start) });
wire_enum!(Footprint { 0 => Everything, 1 => Spans { reads, writes } });

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_meet_where_they_share_a_key() {
        let key = |k: &'static str| Span::Key(Bytes::from_static(k.as_bytes()));
        let range = |a: &'static str, b: &'static str| Span::Range {
            start: Bytes::from_static(a.as_bytes()),
            end: Bytes::from_static(b.as_bytes()),
        };
        let from = |a: &'static str| Span::From(Bytes::from_static(a.as_bytes()));
        for (a, b, meet) in [
            (key("a"), key("a"), true),
            (key("a"), key("b"), false),
            (key("b"), range("a", "b"), false),
            (key("a"), range("a", "b"), true),
            (range("a", "c"), range("b", "d"), true),
            (range("a", "b"), range("b", "d"), false),
            (range("c", "a"), range("a", "z"), false),
            (from("b"), range("a", "b"), false),
            (from("a"), range("b", "c"), true),
            (from("x"), from("y"), true),
        ] {
            assert_eq!(a.intersects(&b), meet, "{a:?} {b:?}");
            assert_eq!(b.intersects(&a), meet, "{b:?} {a:?}");
        }
    }

    #[test]
    fn two_reads_commute() {
        let k = Bytes::from_static(b"k");
        assert!(!Footprint::read(k.clone()).interferes(&Footprint::read(k.clone())));
        assert!(Footprint::write(k.clone()).interferes(&Footprint::read(k.clone())));
        assert!(Footprint::Everything.interferes(&Footprint::NOTHING));
    }
}
