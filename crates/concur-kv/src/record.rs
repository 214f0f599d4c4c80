//! One version of one key.
//!
//! A [`Record`] is one allocation that holds the version *as it is kept on disk*: the index, the history, the durable image and
//! watch events share it, and nothing is encoded twice. The layout, all numbers varints: flags, revision, index within the
//! revision; for a value also create revision, version, lease and the key's length; then the key and the value.
//!
//! A deletion is a record too (a tombstone): it has a key and a revision and nothing else.

use bytes::Bytes;
use concur_core::wire::{Malformed, put_varint};
use concur_core::{wire_newtype, wire_struct};
use std::fmt;
use std::sync::Arc;

/// A number of the store's history: an empty store is at 1, each change of it adds 1. In a request, 0 means the current one.
///
/// In a namespace ordered per key it counts the changes of one key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Revision(pub i64);

impl Revision {
    /// The revision of an empty store.
    pub const EMPTY: Self = Self(1);
    /// In a request: the current one. In a compacted store's place: none.
    pub const CURRENT: Self = Self(0);

    /// The one after this.
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// The id of a lease. 0 is no lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct LeaseId(pub i64);

impl LeaseId {
    /// No lease.
    pub const NONE: Self = Self(0);
}

wire_newtype!(Revision, LeaseId);

/// One version of one key, as callers see it. The bytes are shared with the store, not copied.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct KeyValue {
    /// The key.
    pub key: Bytes,
    /// The value; empty for a deletion or where only keys were asked for.
    pub value: Bytes,
    /// The revision at which the key was created; 0 for a deletion.
    pub create_revision: Revision,
    /// The revision of this version.
    pub mod_revision: Revision,
    /// How often the key was written since it was created; 0 for a deletion.
    pub version: i64,
    /// The lease that the key is attached to.
    pub lease: LeaseId,
}

wire_struct!(KeyValue { key, value, create_revision, mod_revision, version, lease });

/// One version of one key, or its deletion: cheap to clone, and what the history consists of.
#[derive(Clone, PartialEq, Eq)]
pub struct Record(Arc<[u8]>);

const TOMBSTONE: u8 = 1;

/// A record taken apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct View<'a> {
    pub(crate) deleted: bool,
    pub(crate) revision: Revision,
    pub(crate) sub: u64,
    pub(crate) create: Revision,
    pub(crate) version: i64,
    pub(crate) lease: LeaseId,
    pub(crate) key: &'a [u8],
    pub(crate) value: &'a [u8],
}

impl Record {
    /// Encodes a version, through `scratch` so that the record is one allocation of its exact size.
    pub(crate) fn new(view: View<'_>, scratch: &mut Vec<u8>) -> Self {
        scratch.clear();
        scratch.push(if view.deleted { TOMBSTONE } else { 0 });
        put_varint(view.revision.0 as u64, scratch);
        put_varint(view.sub, scratch);
        if !view.deleted {
            put_varint(view.create.0 as u64, scratch);
            put_varint(view.version as u64, scratch);
            put_varint(view.lease.0 as u64, scratch);
            put_varint(view.key.len() as u64, scratch);
        }
        scratch.extend_from_slice(view.key);
        scratch.extend_from_slice(view.value);
        Self(Arc::from(&scratch[..]))
    }

    /// Reads a record back from an image.
    pub(crate) fn from_image(bytes: &[u8]) -> Result<Self, Malformed> {
        let view = parse(bytes).ok_or(Malformed { what: "record" })?;
        let sane = view.revision.0 > 0 && !view.key.is_empty();
        let live = view.create.0 > 0 && view.create <= view.revision && view.version > 0;
        if !sane || !(view.deleted || live) {
            return Err(Malformed { what: "record" });
        }
        Ok(Self(Arc::from(bytes)))
    }

    pub(crate) fn view(&self) -> View<'_> {
        parse(&self.0).expect("a record was checked when it was made")
    }

    /// The encoding, shared.
    pub(crate) fn to_image(&self) -> Bytes {
        Bytes::from_owner(self.clone())
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.0
    }

    pub(crate) fn version_of(&self) -> (Revision, u64) {
        let view = self.view();
        (view.revision, view.sub)
    }

    /// The key.
    pub fn key(&self) -> &[u8] {
        self.view().key
    }

    /// The value, empty for a deletion.
    pub fn value(&self) -> &[u8] {
        self.view().value
    }

    /// The revision of this version.
    pub fn revision(&self) -> Revision {
        self.view().revision
    }

    /// Whether the key was deleted.
    pub fn is_delete(&self) -> bool {
        self.0[0] & TOMBSTONE != 0
    }

    /// Whether the key did not exist before.
    pub fn is_create(&self) -> bool {
        let view = self.view();
        !view.deleted && view.version == 1
    }

    /// The version as callers see it; key and value share the record's memory.
    pub fn key_value(&self) -> KeyValue {
        let view = self.view();
        let whole = self.to_image();
        let value_at = whole.len() - view.value.len();
        let key_at = value_at - view.key.len();
        KeyValue {
            key: whole.slice(key_at..value_at),
            value: whole.slice(value_at..),
            create_revision: view.create,
            mod_revision: view.revision,
            version: view.version,
            lease: view.lease,
        }
    }

    /// The same without the value, and without the lease: etcd answers from its index, which has neither.
    pub(crate) fn key_only(&self) -> KeyValue {
        KeyValue { value: Bytes::new(), lease: LeaseId::NONE, ..self.key_value() }
    }

    /// The same without the value.
    pub(crate) fn without_value(&self) -> KeyValue {
        KeyValue { value: Bytes::new(), ..self.key_value() }
    }

    /// What it counts towards the quota: its bytes, and what the index takes for it.
    pub(crate) fn size_bytes(&self) -> u64 {
        self.0.len() as u64 + RECORD_OVERHEAD_BYTES
    }
}

/// What a record takes in the index, as the quota counts it.
pub(crate) const RECORD_OVERHEAD_BYTES: u64 = 64;

impl AsRef<[u8]> for Record {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.view().fmt(f)
    }
}

fn parse(bytes: &[u8]) -> Option<View<'_>> {
    let (&flags, mut rest) = bytes.split_first()?;
    if flags & !TOMBSTONE != 0 {
        return None;
    }
    let revision = Revision(varint(&mut rest)? as i64);
    let sub = varint(&mut rest)?;
    if flags & TOMBSTONE != 0 {
        let (create, lease) = (Revision(0), LeaseId::NONE);
        return Some(View { deleted: true, revision, sub, create, version: 0, lease, key: rest, value: &[] });
    }
    let create = Revision(varint(&mut rest)? as i64);
    let version = varint(&mut rest)? as i64;
    let lease = LeaseId(varint(&mut rest)? as i64);
    let key_bytes = usize::try_from(varint(&mut rest)?).ok()?;
    let (key, value) = rest.split_at_checked(key_bytes)?;
    Some(View { deleted: false, revision, sub, create, version, lease, key, value })
}

fn varint(rest: &mut &[u8]) -> Option<u64> {
    let mut value = 0u64;
    for shift in (0..64).step_by(7) {
        let (&byte, tail) = rest.split_first()?;
        *rest = tail;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_read_as_it_was_written() {
        let mut scratch = Vec::new();
        let put = View {
            deleted: false,
            revision: Revision(300),
            sub: 7,
            create: Revision(2),
            version: 130,
            lease: LeaseId(-5),
            key: b"key",
            value: b"value",
        };
        let record = Record::new(put, &mut scratch);
        assert_eq!(record.view(), put);
        assert_eq!(Record::from_image(record.bytes()), Ok(record.clone()));
        let kv = record.key_value();
        assert_eq!((&kv.key[..], &kv.value[..], kv.version, kv.lease), (&b"key"[..], &b"value"[..], 130, LeaseId(-5)));
        let gone = View { deleted: true, create: Revision(0), version: 0, lease: LeaseId(0), value: b"", ..put };
        let tombstone = Record::new(gone, &mut scratch);
        assert_eq!(tombstone.view(), gone);
        assert!(tombstone.is_delete());
        assert_eq!(&tombstone.key_value().key[..], b"key");
    }

    #[test]
    fn a_damaged_record_is_malformed() {
        let mut scratch = Vec::new();
        let put = View {
            deleted: false,
            revision: Revision(3),
            sub: 0,
            create: Revision(3),
            version: 1,
            lease: LeaseId(0),
            key: b"key",
            value: b"",
        };
        let record = Record::new(put, &mut scratch);
        for n in 0..record.bytes().len() {
            assert!(Record::from_image(&record.bytes()[..n]).is_err(), "{n}");
        }
        assert!(Record::from_image(&[9, 9, 9]).is_err());
    }
}
