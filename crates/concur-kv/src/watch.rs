//! History, for watches.
//!
//! A watch that starts at any revision that is not compacted is served from the log: [`Kv::history`] walks it, revision by
//! revision, without copying values. What a command just changed is in [`Kv::applied`], which is also what a namespace ordered per
//! key has, as it keeps no history. Who watches what, and in which order responses leave, is the watch hub's business.

use crate::{KeyValue, Kv, KvError, Ordering, Record, Revision};

/// What one revision changed, in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RevisionChanges<'a> {
    /// The revision.
    pub revision: Revision,
    /// What it changed.
    pub records: &'a [Record],
}

impl Kv {
    /// What the last command changed. One that ends several leases may have several revisions.
    pub fn applied(&self) -> &[Record] {
        &self.store.written
    }

    /// What each revision from one to another changed, both included as far as they exist: nothing if all are in the future.
    pub fn history(&self, from: Revision, to: Revision) -> Result<impl Iterator<Item = RevisionChanges<'_>>, KvError> {
        if self.store.ordering == Ordering::PerKey {
            return Err(KvError::OrderedPerKey);
        }
        if from < self.store.compacted {
            return Err(KvError::Compacted);
        }
        let first = self.store.log_first();
        let from = from.max(first);
        let place = |revision: Revision| usize::try_from(revision.0 - first.0).unwrap_or(0).min(self.store.log.len());
        let (start, end) = (place(from), place(to.min(self.store.revision).next()));
        let changes = self.store.log.range(start.min(end)..end);
        Ok((from.0..).zip(changes).map(|(revision, changes)| RevisionChanges { revision: Revision(revision), records: changes.records() }))
    }

    /// The version of the key before this change; none if it did not exist or is compacted.
    pub fn previous(&self, record: &Record) -> Option<KeyValue> {
        let before = Revision(record.revision().0 - 1);
        if self.store.ordering == Ordering::PerKey || record.is_create() || before < self.store.compacted {
            return None;
        }
        let version = self.store.keys.get(record.key())?.at(before)?;
        Some(version).filter(|record| !record.is_delete()).map(Record::key_value)
    }
}
