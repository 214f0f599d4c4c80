//! Reading keys.

use crate::check::check_range;
use crate::command::{RangeQuery, SortOrder, SortTarget};
use crate::reply::RangeAnswer;
use crate::{Kv, KvError, Ordering, Record, Revision};

impl Kv {
    /// The keys of a range, at a revision.
    pub fn range(&self, query: &RangeQuery) -> Result<RangeAnswer, KvError> {
        check_range(query)?;
        self.check_readable(query.revision)?;
        Ok(self.range_in(query))
    }

    /// One key's current version, without the machinery of a range.
    pub fn get(&self, key: &[u8]) -> Option<crate::KeyValue> {
        self.store.live(key).map(Record::key_value)
    }

    fn check_readable(&self, revision: Revision) -> Result<(), KvError> {
        if self.store.ordering == Ordering::PerKey && revision != Revision::CURRENT {
            return Err(KvError::OrderedPerKey);
        }
        if revision > self.store.revision {
            return Err(KvError::FutureRevision);
        }
        if revision > Revision::CURRENT && revision < self.store.compacted {
            return Err(KvError::Compacted);
        }
        Ok(())
    }

    /// The same inside a transaction, where a negative revision does not mean the current one.
    pub(crate) fn check_readable_in_txn(&self, revision: Revision) -> Result<(), KvError> {
        if revision < Revision::CURRENT && revision < self.store.compacted && self.store.ordering == Ordering::Total {
            return Err(KvError::Compacted);
        }
        self.check_readable(revision)
    }

    /// Executes a range that was checked.
    pub(crate) fn range_in(&self, query: &RangeQuery) -> RangeAnswer {
        let revision = self.store.seen();
        let at = Some(query.revision).filter(|&at| at > Revision::CURRENT);
        if query.count_only {
            let count = self.store.count(&query.key, &query.range_end, at);
            return RangeAnswer { revision, count, ..RangeAnswer::default() };
        }
        let limit = usize::try_from(query.limit).ok().filter(|&limit| limit > 0).unwrap_or(usize::MAX);
        let records = self.store.range(&query.key, &query.range_end, at);
        let mut found: Vec<&Record>;
        let count;
        if query.is_in_default_order() && !query.is_filtered() {
            // One more than asked for tells whether there are more; the rest is only counted.
            found = records.take(limit.saturating_add(1)).collect();
            let is_all = found.len() <= limit;
            count = if is_all { found.len() as u64 } else { self.store.count(&query.key, &query.range_end, at) };
            if query.sort_target != SortTarget::Key {
                query.sort(&mut found);
            }
        } else {
            found = records.collect();
            count = found.len() as u64;
            found.retain(|record| query.passes(record));
            query.sort(&mut found);
        }
        let more = found.len() > limit;
        found.truncate(limit);
        let key_value = match query.sort_target {
            _ if !query.keys_only => Record::key_value,
            // To sort by values etcd reads the records whole.
            SortTarget::Value => Record::without_value,
            _ => Record::key_only,
        };
        RangeAnswer { revision, kvs: found.into_iter().map(key_value).collect(), more, count }
    }
}

impl RangeQuery {
    /// Whether no order is asked for, or that of the keys. The limit then says which keys are looked at, and a target without an order
    /// sorts only those (and the one that tells that there are more), as in etcd.
    pub fn is_in_default_order(&self) -> bool {
        self.sort_order == SortOrder::None || (self.sort_target == SortTarget::Key && self.sort_order == SortOrder::Ascend)
    }

    /// Whether results are filtered by their revisions.
    pub fn is_filtered(&self) -> bool {
        [self.min_mod_revision, self.max_mod_revision, self.min_create_revision, self.max_create_revision]
            .iter()
            .any(|&bound| bound != Revision::CURRENT)
    }

    fn passes(&self, record: &Record) -> bool {
        let view = record.view();
        let within = |value: Revision, min: Revision, max: Revision| {
            (min == Revision::CURRENT || value >= min) && (max == Revision::CURRENT || value <= max)
        };
        within(view.revision, self.min_mod_revision, self.max_mod_revision)
            && within(view.create, self.min_create_revision, self.max_create_revision)
    }

    // A target other than the key with no order means ascending. Equal ones stay in key order.
    fn sort(&self, records: &mut [&Record]) {
        let ascending = |a: &Record, b: &Record| {
            let (a, b) = (a.view(), b.view());
            match self.sort_target {
                SortTarget::Key => a.key.cmp(b.key),
                SortTarget::Version => a.version.cmp(&b.version),
                SortTarget::Create => a.create.cmp(&b.create),
                SortTarget::Mod => a.revision.cmp(&b.revision),
                SortTarget::Value => a.value.cmp(b.value),
            }
        };
        match self.sort_order {
            SortOrder::Descend => records.sort_by(|a, b| ascending(a, b).reverse()),
            SortOrder::None | SortOrder::Ascend => records.sort_by(|a, b| ascending(a, b)),
        }
    }
}
