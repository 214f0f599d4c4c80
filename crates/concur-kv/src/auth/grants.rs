//! What a user's roles permit, merged: disjoint intervals of keys in order, one list to read and one to write.
//!
//! Permissions that touch make one interval, so that a range which several of them cover together is permitted, as in etcd.

use super::{Access, Permission};
use bytes::Bytes;

/// What a user may read and write.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Grants {
    read: Vec<Interval>,
    write: Vec<Interval>,
}

/// Keys from one on up to, without, another.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Interval {
    start: Bytes,
    /// Nothing: there is no end.
    end: Option<Bytes>,
}

impl Grants {
    pub(super) fn of<'p>(permissions: impl Iterator<Item = &'p Permission> + Clone) -> Self {
        let merge = |kind: Access| {
            let wanted = permissions.clone().filter(|permission| permission.access == kind || permission.access == Access::ReadWrite);
            merged(wanted.map(|permission| Interval::of(&permission.key, &permission.range_end)).collect())
        };
        Self { read: merge(Access::Read), write: merge(Access::Write) }
    }

    /// Whether all keys of a range may be read.
    pub(super) fn may_read(&self, key: &[u8], range_end: &[u8]) -> bool {
        covered(&self.read, key, range_end)
    }

    /// Whether all keys of a range may be written.
    pub(super) fn may_write(&self, key: &[u8], range_end: &[u8]) -> bool {
        covered(&self.write, key, range_end)
    }
}

/// Whether a key and the end of a range, as a permission has them, are such.
pub(super) fn is_range(key: &[u8], range_end: &[u8]) -> bool {
    !key.is_empty() && (range_end.is_empty() || range_end == [0] || key < range_end)
}

impl Interval {
    fn of(key: &Bytes, range_end: &Bytes) -> Self {
        let end = match &range_end[..] {
            [] => Some(after(key)),
            [0] => None,
            _ => Some(range_end.clone()),
        };
        Self { start: key.clone(), end }
    }

    /// Whether it holds every key up to, without, `end`, given that it starts early enough.
    fn reaches(&self, end: Option<&[u8]>) -> bool {
        match (&self.end, end) {
            (None, _) => true,
            (Some(_), None) => false,
            (Some(own), Some(end)) => &own[..] >= end,
        }
    }
}

/// The next key in byte order.
fn after(key: &[u8]) -> Bytes {
    [key, &[0]].concat().into()
}

fn merged(mut intervals: Vec<Interval>) -> Vec<Interval> {
    intervals.sort_by(|a, b| a.start.cmp(&b.start));
    let mut merged: Vec<Interval> = Vec::with_capacity(intervals.len());
    for interval in intervals {
        match merged.last_mut().filter(|last| last.reaches(Some(&interval.start))) {
            Some(last) if last.reaches(interval.end.as_deref()) => {}
            Some(last) => last.end = interval.end,
            None => merged.push(interval),
        }
    }
    merged
}

fn covered(intervals: &[Interval], key: &[u8], range_end: &[u8]) -> bool {
    let Some(interval) = intervals.partition_point(|interval| &interval.start[..] <= key).checked_sub(1).map(|i| &intervals[i]) else {
        return false;
    };
    let holds_key = interval.end.as_ref().is_none_or(|end| key < &end[..]);
    holds_key
        && match range_end {
            [] => true,
            [0] => interval.reaches(None),
            end => interval.reaches(Some(end)),
        }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grants(permissions: &[(Access, &'static str, &'static str)]) -> Grants {
        let of = |&(access, key, end): &(Access, &'static str, &'static str)| Permission {
            access,
            key: Bytes::from_static(key.as_bytes()),
            range_end: Bytes::from_static(end.as_bytes()),
        };
        let permissions: Vec<Permission> = permissions.iter().map(of).collect();
        Grants::of(permissions.iter())
    }

    #[test]
    fn one_key_permits_that_key_and_no_range_from_it() {
        let grants = grants(&[(Access::Read, "k", "")]);
        for (key, end, may) in [
            ("k", "", true),
            ("k", "k\0", true),
            ("k", "\0", false),
            ("k", "l", false),
            ("j", "", false),
            ("k\0", "", false),
            ("j", "k\0", false),
        ] {
            assert_eq!(grants.may_read(key.as_bytes(), end.as_bytes()), may, "{key:?} {end:?}");
            assert!(!grants.may_write(key.as_bytes(), end.as_bytes()));
        }
    }

    #[test]
    fn an_open_end_permits_whatever_follows() {
        let grants = grants(&[(Access::ReadWrite, "m", "\0")]);
        for (key, end, may) in [("m", "\0", true), ("z", "\0", true), ("n", "zz", true), ("l", "\0", false), ("l", "n", false)] {
            assert_eq!(grants.may_write(key.as_bytes(), end.as_bytes()), may, "{key:?} {end:?}");
        }
    }

    #[test]
    fn what_touches_is_covered_together_and_a_gap_is_not() {
        let grants = grants(&[(Access::Read, "c", "e"), (Access::Read, "a", "c"), (Access::Write, "e", "g"), (Access::Read, "f", "g")]);
        for (key, end, may) in [("a", "e", true), ("b", "d", true), ("a", "f", false), ("d", "g", false), ("f", "g", true)] {
            assert_eq!(grants.may_read(key.as_bytes(), end.as_bytes()), may, "{key:?} {end:?}");
        }
        assert!(grants.may_write(b"e", b"g"));
        let inner = self::grants(&[(Access::Read, "a", "z"), (Access::Read, "b", "c"), (Access::Read, "d", "")]);
        assert!(inner.may_read(b"a", b"z"), "what lies within another changes nothing");
    }
}
