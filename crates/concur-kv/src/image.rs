//! The durable image: the store as a map of byte keys to byte values.
//!
//! | key | value |
//! | --- | --- |
//! | `a`, … | users and roles, see [`crate::Auth`] |
//! | `k`, key | the key's newest version, if ordered per key |
//! | `l`, lease id | its time to live, deadline and renewals |
//! | `m` | the summary: ordering, revision, compacted, limits, alarms |
//! | `r`, revision, index | one version of one key, if ordered totally |
//!
//! Numbers in keys are big-endian, so that byte order is their order and an engine appends. What belongs to a lease is known from
//! the versions. [`changes`](Kv::changes) gives what differs since the last call, in an order in which the last word on a key is
//! right; applied to an older image it gives [`image`](Kv::image).
//!
//! The digest is over the same entries: a sum of hashes, kept up with each record, that does not depend on the order of writes.

use crate::auth::AUTH;
use crate::command::Alarm;
use crate::hash::hash;
use crate::lease::Terms;
use crate::reply::HashAnswer;
use crate::store::{Changes, Dirty, Store};
use crate::{Config, Kv, KvError, LeaseId, Ordering, Record, Revision};
use bytes::Bytes;
use concur_core::{Change, Corrupt, Wire, wire_enum, wire_struct};
use std::collections::{BTreeSet, VecDeque};

const KEY: u8 = b'k';
pub(crate) const LEASE: u8 = b'l';
pub(crate) const META: u8 = b'm';
pub(crate) const RECORD: u8 = b'r';

/// What the image says of the store as a whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Meta {
    pub(crate) format: u8,
    pub(crate) ordering: Ordering,
    pub(crate) revision: Revision,
    pub(crate) compacted: Revision,
    pub(crate) cursor: Option<(Revision, u64)>,
    pub(crate) floor: Revision,
    pub(crate) quota_bytes: u64,
    pub(crate) txn_ops_max: u64,
    pub(crate) paused_ms: u64,
    pub(crate) alarms: BTreeSet<Alarm>,
}

pub(crate) const META_FORMAT: u8 = 1;

wire_enum!(Ordering { 0 => Total, 1 => PerKey });
wire_struct!(Meta { format, ordering, revision, compacted, cursor, floor, quota_bytes, txn_ops_max, paused_ms, alarms });

/// What an image's summary says, if `key` is that of the summary: how the store orders, and its revision.
pub fn image_summary(key: &[u8], value: &Bytes) -> Result<Option<(Ordering, Revision)>, Corrupt> {
    if key != [META] {
        return Ok(None);
    }
    let meta = Meta::from_bytes(value)?;
    Ok(Some((meta.ordering, meta.revision)))
}

impl Kv {
    /// What changed in the durable image since the last call.
    pub fn changes(&mut self) -> Vec<Change> {
        let dirty = std::mem::take(&mut self.store.dirty);
        let mut changes = Vec::with_capacity(dirty.len() + self.leases.dirty.len() + usize::from(self.meta_dirty));
        for entry in dirty {
            let (record, kept) = match entry {
                Dirty::Kept(record) => (record, true),
                Dirty::Removed(record) => (record, false),
            };
            changes.push(Change { key: self.store.image_key(&record), value: kept.then(|| record.to_image()) });
        }
        changes.extend(self.auth.take_changes());
        for id in std::mem::take(&mut self.leases.dirty) {
            let value = self.leases.by_id.get(&id).map(|lease| lease.terms.to_bytes());
            changes.push(Change { key: lease_key(id), value });
        }
        if std::mem::take(&mut self.meta_dirty) {
            changes.push(Change { key: Bytes::from_static(&[META]), value: Some(self.meta().to_bytes()) });
        }
        changes
    }

    /// The whole durable image, in key order.
    pub fn image(&self) -> impl Iterator<Item = (Bytes, Bytes)> + '_ {
        let entry = |record: &Record| (self.store.image_key(record), record.to_image());
        let (per_key, total) = match self.store.ordering {
            Ordering::PerKey => (Some(self.store.keys.values().map(|versions| &versions.latest)), None),
            Ordering::Total => (None, Some(self.store.records_by_revision())),
        };
        let leases = self.leases.by_id.iter().map(|(&id, lease)| (lease_key(id), lease.terms.to_bytes()));
        let meta = (Bytes::from_static(&[META]), self.meta().to_bytes());
        let newest = per_key.into_iter().flatten().map(entry);
        let auth = self.auth.image();
        auth.chain(newest).chain(leases).chain([meta]).chain(total.into_iter().flatten().map(entry))
    }

    /// A store as an image describes it. An image without entries is an empty store with this configuration.
    pub fn from_image(config: Config, entries: &mut dyn Iterator<Item = (Bytes, Bytes)>) -> Result<Self, Corrupt> {
        let mut kv = Self::new(config);
        let mut meta = None;
        let mut before: Option<Bytes> = None;
        for (key, value) in entries {
            if before.as_ref().is_some_and(|before| *before >= key) {
                return Err(Corrupt::new("image: keys out of order"));
            }
            match key.split_first() {
                Some((&KEY | &RECORD, _)) => kv.load_record(&key, &value, meta.as_ref())?,
                Some((&LEASE, id)) => kv.leases.insert(lease_id(id)?, Terms::from_bytes(&value)?),
                Some((&AUTH, _)) => kv.auth.load(&key, &value)?,
                Some((&META, [])) => meta = Some(Meta::from_bytes(&value)?),
                _ => return Err(Corrupt::new("image: a key of no kind")),
            }
            before = Some(key);
        }
        match meta {
            Some(meta) => kv.finish_loading(&meta)?,
            None if before.is_some() => return Err(Corrupt::new("image: no summary")),
            None => {}
        }
        Ok(kv)
    }

    /// A hash of the whole state.
    pub fn digest(&self) -> u64 {
        let leases = self.leases.by_id.iter().map(|(id, lease)| hash(&(*id, lease.terms).to_bytes()));
        let meta = hash(&self.meta().to_bytes());
        let auth = self.auth.image().map(|entry| hash(&entry.to_bytes()));
        leases.chain(auth).fold(self.store.digest.wrapping_add(meta), u64::wrapping_add)
    }

    /// A hash of every version from the compacted revision up to one that is not in the future. Equal on replicas of one
    /// compacted revision.
    pub fn hash_at(&self, revision: Revision) -> Result<HashAnswer, KvError> {
        if self.store.ordering == Ordering::PerKey && revision != Revision::CURRENT {
            return Err(KvError::OrderedPerKey);
        }
        let store = &self.store;
        let up_to = if revision == Revision::CURRENT { store.revision } else { revision };
        if up_to > store.revision {
            return Err(KvError::FutureRevision);
        }
        if up_to < store.compacted {
            return Err(KvError::Compacted);
        }
        let hash = match store.ordering {
            Ordering::PerKey => store.digest,
            Ordering::Total => store.hash_of_readable(up_to),
        };
        Ok(HashAnswer { revision: store.revision, hash_revision: up_to, compacted: store.compacted, hash })
    }

    fn meta(&self) -> Meta {
        Meta {
            format: META_FORMAT,
            ordering: self.config.ordering,
            revision: self.store.revision,
            compacted: self.store.compacted,
            cursor: self.store.cursor,
            floor: self.store.floor,
            quota_bytes: self.config.quota_bytes,
            txn_ops_max: self.config.txn_ops_max as u64,
            paused_ms: self.leases.paused_ms,
            alarms: self.alarms.clone(),
        }
    }

    fn load_record(&mut self, key: &Bytes, value: &Bytes, meta: Option<&Meta>) -> Result<(), Corrupt> {
        let record = Record::from_image(value)?;
        if self.store.image_key(&record) != key {
            return Err(Corrupt::new("image: a record under another's key"));
        }
        match (self.store.ordering, meta) {
            (Ordering::PerKey, _) => {}
            (Ordering::Total, Some(meta)) if record.revision() <= meta.revision => {}
            (Ordering::Total, _) => return Err(Corrupt::new("image: a record above the store's revision")),
        }
        self.store.restore(record);
        Ok(())
    }

    fn finish_loading(&mut self, meta: &Meta) -> Result<(), Corrupt> {
        if meta.format != META_FORMAT || meta.ordering != self.config.ordering {
            return Err(Corrupt::new("image: made by another kind of store"));
        }
        let cursor_is_sane = meta.cursor.is_none_or(|(at, _)| at > Revision::EMPTY && at <= meta.compacted);
        if meta.compacted > meta.revision || !cursor_is_sane {
            return Err(Corrupt::new("image: compacted above the store's revision"));
        }
        self.config.quota_bytes = meta.quota_bytes;
        self.config.txn_ops_max = usize::try_from(meta.txn_ops_max).unwrap_or(usize::MAX);
        self.alarms = meta.alarms.clone();
        self.leases.paused_ms = meta.paused_ms;
        self.leases.dirty.clear();
        self.meta_dirty = false;
        self.store.revision = meta.revision;
        self.store.compacted = meta.compacted;
        self.store.cursor = meta.cursor;
        self.store.floor = meta.floor;
        if self.store.ordering == Ordering::Total {
            self.store.restore_log()?;
        }
        for versions in self.store.keys.values() {
            let view = versions.latest.view();
            if view.lease != LeaseId::NONE && !self.leases.exists(view.lease) {
                return Err(Corrupt::new("image: a key of a lease that does not exist"));
            }
            self.leases.attach(view.key, LeaseId::NONE, view.lease);
        }
        Ok(())
    }
}

pub(crate) fn lease_key(id: LeaseId) -> Bytes {
    let mut key = vec![LEASE];
    key.extend_from_slice(&(id.0 as u64 ^ 1 << 63).to_be_bytes());
    Bytes::from(key)
}

pub(crate) fn lease_id(bytes: &[u8]) -> Result<LeaseId, Corrupt> {
    let bytes = <[u8; 8]>::try_from(bytes).map_err(|_| Corrupt::new("image: a lease's key"))?;
    Ok(LeaseId((u64::from_be_bytes(bytes) ^ 1 << 63) as i64))
}

pub(crate) fn record_key(revision: Revision, sub: u64) -> Bytes {
    let mut key = vec![RECORD];
    key.extend_from_slice(&revision.0.to_be_bytes());
    key.extend_from_slice(&sub.to_be_bytes());
    Bytes::from(key)
}

impl Store {
    fn image_key(&self, record: &Record) -> Bytes {
        let view = record.view();
        let mut key = Vec::with_capacity(1 + view.key.len());
        match self.ordering {
            Ordering::PerKey => {
                key.push(KEY);
                key.extend_from_slice(view.key);
            }
            Ordering::Total => return record_key(view.revision, view.sub),
        }
        Bytes::from(key)
    }

    // The log has the recent ones in order already, but those that a compaction removed are still in its first entry.
    fn records_by_revision(&self) -> impl Iterator<Item = &Record> {
        let mut records: Vec<_> = self.keys.values().flat_map(|versions| versions.all()).map(|r| (r.version_of(), r)).collect();
        records.sort_unstable_by_key(|(version, _)| *version);
        records.into_iter().map(|(_, record)| record)
    }

    /// Builds the log from the versions.
    fn restore_log(&mut self) -> Result<(), Corrupt> {
        let first = self.log_first();
        let recent: Vec<Record> = self.records_by_revision().skip_while(|record| record.revision() < first).cloned().collect();
        let mut rest = &recent[..];
        let mut log = VecDeque::new();
        for revision in (first.0..=self.revision.0).map(Revision) {
            let (changed, later) = rest.split_at(rest.partition_point(|record| record.revision() <= revision));
            // Of the revision that a compaction has come to, all may be gone. At the compacted one there is nothing where a store came
            // from elsewhere: some do not keep a deletion there, and a revision that was raised past others is of no change.
            let begun = self.cursor.is_some_and(|(at, sub)| at == revision && sub > 0);
            if changed.is_empty() && !begun && revision != self.compacted {
                return Err(Corrupt::new(format!("image: nothing at revision {revision}")));
            }
            log.push_back(Changes::new(changed));
            rest = later;
        }
        self.log = log;
        Ok(())
    }

    // Versions that a compaction has yet to remove are left out: a hash must not tell how far that has come.
    fn hash_of_readable(&self, up_to: Revision) -> u64 {
        let mut sum = 0u64;
        for versions in self.keys.values() {
            let base = versions.at(self.compacted.min(up_to)).map(Record::version_of);
            for record in versions.all().take_while(|record| record.revision() <= up_to) {
                let version = record.version_of();
                let is_base = Some(version) == base && !record.is_delete();
                if version.0 >= self.compacted || is_base {
                    sum = sum.wrapping_add(hash(record.bytes()));
                }
            }
        }
        sum
    }
}
