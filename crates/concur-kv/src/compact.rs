//! Compaction: forgetting the history below a revision.
//!
//! It is immediate for whoever reads, and takes its time in memory and on disk: each command that follows removes a little, so
//! that forgetting millions of versions stalls nothing. What is removed when depends on the commands alone, so replicas agree.
//!
//! A version goes when a newer one of its key is at or below the compacted revision, and a tombstone when it is below. One
//! *at* the compacted revision stays: a watch that starts there must see the delete.

use crate::store::{Dirty, Store};
use crate::{Kv, KvError, Ordering, Record, Revision};

/// How many changes of the log the compaction itself looks at.
const AT_ONCE: usize = 4096;
/// How many each command after it looks at.
pub(crate) const A_COMMAND: usize = 32;

impl Kv {
    pub(crate) fn compact(&mut self, revision: Revision) -> Result<Revision, KvError> {
        if self.store.ordering == Ordering::PerKey {
            return Err(KvError::OrderedPerKey);
        }
        if revision <= self.store.compacted {
            return Err(KvError::Compacted);
        }
        if revision > self.store.revision {
            return Err(KvError::FutureRevision);
        }
        self.store.compact(revision);
        self.store.remove_compacted(AT_ONCE);
        self.meta_dirty = true;
        Ok(self.store.revision)
    }

    /// Removes a little of what was compacted.
    pub(crate) fn compact_on(&mut self, changes_max: usize) {
        if self.store.cursor.is_some() {
            self.store.remove_compacted(changes_max);
            self.meta_dirty = true;
        }
    }

    /// Ordered per key: forgets which keys were deleted, which interferes with everything. A key created later starts above every
    /// version forgotten, so that none comes again.
    pub(crate) fn forget_deleted(&mut self) -> Result<Revision, KvError> {
        if self.store.ordering == Ordering::Total {
            return Err(KvError::OrderedTotally);
        }
        let deleted = |record: &Record| record.is_delete();
        let gone: Vec<Record> = self.store.keys.values().map(|versions| &versions.latest).filter(|r| deleted(r)).cloned().collect();
        for record in gone {
            self.store.keys.remove(record.key());
            self.store.floor = self.store.floor.max(record.revision());
            self.store.forget(&record);
            self.store.dirty.push(Dirty::Removed(record));
        }
        self.meta_dirty = true;
        Ok(self.store.revision)
    }
}

impl Store {
    fn compact(&mut self, revision: Revision) {
        let first = self.log_first();
        self.compacted = revision;
        // One that is not finished goes on from the revision it had come to.
        self.cursor = Some((first, 0)).filter(|_| first <= revision);
    }

    /// Looks at up to `changes_max` changes at or below the compacted revision and removes the versions that they replaced. Log
    /// entries below the compacted revision go with them.
    pub(crate) fn remove_compacted(&mut self, changes_max: usize) {
        for _ in 0..changes_max {
            let Some((revision, sub)) = self.cursor else { return };
            let records = self.log.front().map_or(&[][..], |changes| changes.records());
            // Entries carry their index: after a restart those that were looked at may be missing.
            let at = records.partition_point(|record| record.version_of().1 < sub);
            if let Some(record) = records.get(at).cloned() {
                self.cursor = Some((revision, record.version_of().1 + 1));
                self.remove_before(&record);
            } else if revision < self.compacted {
                self.log.pop_front();
                self.cursor = Some((revision.next(), 0));
            } else {
                self.cursor = None;
            }
        }
    }

    fn remove_before(&mut self, record: &Record) {
        let (revision, sub) = record.version_of();
        let below = revision < self.compacted;
        let bound = (revision, if below { sub } else { 0 });
        let key = record.key();
        while let Some(replaced) = self.keys.get_mut(key).and_then(|versions| versions.pop_before(bound)) {
            self.forget(&replaced);
            self.dirty.push(Dirty::Removed(replaced));
        }
        if below && record.is_delete() {
            let gone = match self.keys.get_mut(key).and_then(|versions| versions.pop_before((revision, sub + 1))) {
                Some(record) => Some(record),
                None => self.keys.remove(key).map(|versions| versions.latest),
            };
            if let Some(gone) = gone {
                debug_assert_eq!(&gone, record, "the tombstone is the oldest version left");
                self.forget(&gone);
                self.dirty.push(Dirty::Removed(gone));
            }
        }
    }
}
