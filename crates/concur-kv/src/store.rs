//! Keys, their versions, and the log of changes.
//!
//! The index is an ordered map from keys to their versions, newest apart, as most keys have one. Beside it, revisions being dense,
//! the log is a queue: entry *n* is what revision `first + n` changed. Both hold the same [`Record`]s.
//!
//! A write goes straight into the index and is part of the open revision until [`Store::commit`]; a transaction is checked before
//! it writes, so nothing is ever taken back. Ordered per key, there is no log and only the newest version of each key, whose
//! revision counts that key's changes; deleted keys stay as tombstones, so that a version never comes again.
//!
//! It keeps no leases and refuses nothing.

use crate::hash::hash;
use crate::record::View;
use crate::{LeaseId, Ordering, Record, Revision};
use std::collections::{BTreeMap, VecDeque};
use std::ops::Bound;

#[derive(Debug)]
pub(crate) struct Store {
    pub(crate) ordering: Ordering,
    /// The last committed revision. Ordered per key: 0.
    pub(crate) revision: Revision,
    /// The oldest revision that can be read.
    pub(crate) compacted: Revision,
    /// How far the removal of what was compacted has come: the first change not looked at.
    pub(crate) cursor: Option<(Revision, u64)>,
    /// Ordered per key: keys that are not in the index have had this many changes.
    pub(crate) floor: Revision,
    pub(crate) keys: BTreeMap<Box<[u8]>, Versions>,
    /// What each revision changed, from [`Store::log_first`] on.
    pub(crate) log: VecDeque<Changes>,
    /// What was written since [`Store::begin`].
    pub(crate) written: Vec<Record>,
    /// Where in `written` the open revision starts.
    open: usize,
    /// What the durable image does not have yet, in order.
    pub(crate) dirty: Vec<Dirty>,
    /// The sum of the hashes of all records.
    pub(crate) digest: u64,
    pub(crate) used_bytes: u64,
    /// How many keys exist.
    pub(crate) live: u64,
    scratch: Vec<u8>,
}

/// A change of the durable image.
#[derive(Debug)]
pub(crate) enum Dirty {
    Kept(Record),
    Removed(Record),
}

/// The versions of one key that are kept.
#[derive(Debug)]
pub(crate) struct Versions {
    pub(crate) latest: Record,
    older: Option<Box<Older>>,
}

/// In order of revision.
#[derive(Debug)]
struct Older(VecDeque<Record>);

/// What one revision changed.
#[derive(Debug)]
pub(crate) enum Changes {
    One(Record),
    Many(Box<[Record]>),
}

impl Changes {
    pub(crate) fn new(records: &[Record]) -> Self {
        match records {
            [record] => Self::One(record.clone()),
            records => Self::Many(records.into()),
        }
    }

    pub(crate) fn records(&self) -> &[Record] {
        match self {
            Self::One(record) => std::slice::from_ref(record),
            Self::Many(records) => records,
        }
    }
}

impl Versions {
    pub(crate) fn new(record: Record) -> Self {
        Self { latest: record, older: None }
    }

    pub(crate) fn push(&mut self, record: Record) {
        let before = std::mem::replace(&mut self.latest, record);
        self.older.get_or_insert_with(|| Box::new(Older(VecDeque::with_capacity(1)))).0.push_back(before);
    }

    /// The newest version that is not newer than `revision`.
    pub(crate) fn at(&self, revision: Revision) -> Option<&Record> {
        if self.latest.revision() <= revision {
            return Some(&self.latest);
        }
        let older = &self.older.as_ref()?.0;
        let newer_from = older.partition_point(|record| record.revision() <= revision);
        older.get(newer_from.checked_sub(1)?)
    }

    /// Takes out the oldest version if it is older than `bound` and not the last one.
    pub(crate) fn pop_before(&mut self, bound: (Revision, u64)) -> Option<Record> {
        let older = &mut self.older.as_mut()?.0;
        if older.front()?.version_of() >= bound {
            return None;
        }
        let oldest = older.pop_front();
        if older.is_empty() {
            self.older = None;
        }
        oldest
    }

    /// All that are kept, oldest first.
    pub(crate) fn all(&self) -> impl Iterator<Item = &Record> {
        self.older.iter().flat_map(|older| &older.0).chain([&self.latest])
    }
}

/// Where a range of keys starts and ends.
type Span<'a> = (Bound<&'a [u8]>, Bound<&'a [u8]>);

/// The keys from `key` on, below `range_end`: by etcd's rules, nothing for one key, `\0` for no end.
pub(crate) fn span<'a>(key: &'a [u8], range_end: &'a [u8]) -> Option<Span<'a>> {
    match range_end {
        [] => Some((Bound::Included(key), Bound::Included(key))),
        [0] => Some((Bound::Included(key), Bound::Unbounded)),
        end if key < end => Some((Bound::Included(key), Bound::Excluded(end))),
        _ => None,
    }
}

impl Store {
    pub(crate) fn new(ordering: Ordering) -> Self {
        let revision = match ordering {
            Ordering::Total => Revision::EMPTY,
            Ordering::PerKey => Revision(0),
        };
        Self {
            ordering,
            revision,
            compacted: Revision(-1),
            cursor: None,
            floor: Revision(0),
            keys: BTreeMap::new(),
            log: VecDeque::new(),
            written: Vec::new(),
            open: 0,
            dirty: Vec::new(),
            digest: 0,
            used_bytes: 0,
            live: 0,
            scratch: Vec::new(),
        }
    }

    /// The revision of the log's first entry.
    pub(crate) fn log_first(&self) -> Revision {
        self.cursor.map_or(self.compacted.max(Revision::EMPTY.next()), |(revision, _)| revision)
    }

    /// Starts a command.
    pub(crate) fn begin(&mut self) {
        self.written.clear();
        self.open = 0;
    }

    /// Closes the open revision, if anything was written.
    pub(crate) fn commit(&mut self) -> Revision {
        if self.written.len() > self.open {
            if self.ordering == Ordering::Total {
                self.revision = self.revision.next();
                self.log.push_back(Changes::new(&self.written[self.open..]));
            }
            self.open = self.written.len();
        }
        self.revision
    }

    /// The revision as the open transaction sees it.
    pub(crate) fn seen(&self) -> Revision {
        match self.ordering {
            Ordering::Total if self.written.len() > self.open => self.revision.next(),
            _ => self.revision,
        }
    }

    /// The key's version, if it exists.
    pub(crate) fn live(&self, key: &[u8]) -> Option<&Record> {
        self.keys.get(key).map(|versions| &versions.latest).filter(|record| !record.is_delete())
    }

    /// The keys of a range that exist, in order; at a revision, or as they are.
    pub(crate) fn range<'a>(&'a self, key: &'a [u8], range_end: &'a [u8], at: Option<Revision>) -> impl Iterator<Item = &'a Record> {
        span(key, range_end)
            .into_iter()
            .flat_map(|bounds| self.keys.range::<[u8], _>(bounds))
            .filter_map(move |(_, versions)| match at {
                None => Some(&versions.latest),
                Some(revision) => versions.at(revision),
            })
            .filter(|record| !record.is_delete())
    }

    /// How many keys of a range exist.
    pub(crate) fn count(&self, key: &[u8], range_end: &[u8], at: Option<Revision>) -> u64 {
        // Without tombstones no record needs to be looked at, which is most of the cost.
        if at.is_none() && self.live == self.keys.len() as u64 {
            return span(key, range_end).map_or(0, |bounds| self.keys.range::<[u8], _>(bounds).count() as u64);
        }
        self.range(key, range_end, at).count() as u64
    }

    /// Writes a version of a key in the open revision, or deletes the key, which must exist. Returns the version before.
    pub(crate) fn write(&mut self, key: &[u8], new: Option<(&[u8], LeaseId)>) -> Option<Record> {
        let slot = self.keys.get_mut(key);
        let before = slot.as_ref().map(|versions| versions.latest.clone());
        let last = before.as_ref().map(Record::view);
        let existing = last.filter(|view| !view.deleted);
        let (revision, sub) = match self.ordering {
            Ordering::Total => (self.revision.next(), (self.written.len() - self.open) as u64),
            Ordering::PerKey => (last.map_or(self.floor, |view| view.revision).next(), 0),
        };
        let view = match new {
            Some((value, lease)) => {
                let (create, version) = existing.map_or((revision, 1), |view| (view.create, view.version + 1));
                self.live += u64::from(existing.is_none());
                View { deleted: false, revision, sub, create, version, lease, key, value }
            }
            None => {
                debug_assert!(existing.is_some(), "only what exists is deleted");
                self.live -= 1;
                View { deleted: true, revision, sub, create: Revision(0), version: 0, lease: LeaseId::NONE, key, value: &[] }
            }
        };
        let record = Record::new(view, &mut self.scratch);
        self.digest = self.digest.wrapping_add(hash(record.bytes()));
        self.used_bytes += record.size_bytes();
        match (slot, self.ordering) {
            (Some(versions), Ordering::Total) => versions.push(record.clone()),
            (Some(versions), Ordering::PerKey) => {
                let replaced = std::mem::replace(&mut versions.latest, record.clone());
                self.forget(&replaced);
            }
            (None, _) => {
                self.keys.insert(key.into(), Versions::new(record.clone()));
            }
        }
        self.dirty.push(Dirty::Kept(record.clone()));
        self.written.push(record);
        before.filter(|record| !record.is_delete())
    }

    /// Takes a record that is no longer kept out of the sums.
    pub(crate) fn forget(&mut self, record: &Record) {
        self.digest = self.digest.wrapping_sub(hash(record.bytes()));
        self.used_bytes -= record.size_bytes();
    }

    /// Puts in a record of an image. Those of a key come in order.
    pub(crate) fn restore(&mut self, record: Record) {
        self.digest = self.digest.wrapping_add(hash(record.bytes()));
        self.used_bytes += record.size_bytes();
        let view = record.view();
        let exists = !view.deleted;
        match self.keys.get_mut(view.key) {
            Some(versions) => {
                self.live -= u64::from(!versions.latest.is_delete());
                versions.push(record);
            }
            None => {
                self.keys.insert(view.key.into(), Versions::new(record.clone()));
            }
        }
        self.live += u64::from(exists);
    }
}
