//! The durable image in plain terms, for whoever keeps the same state in another form: an entry taken apart, and put together.
//!
//! Only of a namespace that is ordered totally: what one ordered per key keeps, nobody else does. An image is put together in the
//! order of its keys: the summary of users and roles, roles, users, each by name; leases by id; the summary; versions by revision.
//! Loading it checks the whole.

use crate::auth::{AUTH, PortableAuth};
use crate::command::Alarm;
use crate::image::{LEASE, META, META_FORMAT, Meta, RECORD, lease_id, lease_key, record_key};
use crate::lease::Terms;
use crate::record::View;
use crate::{KeyValue, LeaseId, Ordering, Record, Revision};
use bytes::Bytes;
use concur_core::{Corrupt, Wire};

/// An entry of the image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Portable {
    /// Users and roles.
    Auth(PortableAuth),
    /// A lease.
    Lease(PortableLease),
    /// What is said of the store as a whole.
    Summary(PortableSummary),
    /// A version of a key, or its deletion.
    Version(PortableVersion),
}

/// A lease; its keys are known from their versions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PortableLease {
    /// Its id.
    pub id: LeaseId,
    /// What it was granted, in seconds.
    pub ttl_s: i64,
    /// When it is due, by the leases' clock.
    pub deadline_ms: u64,
}

/// What is said of the store as a whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PortableSummary {
    /// The current revision.
    pub revision: Revision,
    /// The oldest that can be read; 0 or less if nothing was compacted.
    pub compacted: Revision,
    /// Whether versions are left that the compaction has yet to remove.
    pub compacting: bool,
    /// How far the leases' clock is behind logged time.
    pub paused_ms: u64,
    /// How large the store may become.
    pub quota_bytes: u64,
    /// The alarms that are armed.
    pub alarms: Vec<Alarm>,
}

/// A version of a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PortableVersion {
    /// The version; of a deletion the key and the revision count.
    pub kv: KeyValue,
    /// Which change of its revision it is.
    pub sub: u64,
    /// Whether the key was deleted.
    pub deleted: bool,
}

impl Portable {
    /// Takes an entry apart.
    pub fn read(key: &[u8], value: &Bytes) -> Result<Self, Corrupt> {
        match key.split_first() {
            Some((&AUTH, _)) => Ok(Self::Auth(PortableAuth::read(key, value)?)),
            Some((&LEASE, id)) => {
                let Terms { ttl_s, deadline_ms, .. } = Terms::from_bytes(value)?;
                Ok(Self::Lease(PortableLease { id: lease_id(id)?, ttl_s, deadline_ms }))
            }
            Some((&META, [])) => Ok(Self::Summary(PortableSummary::of(Meta::from_bytes(value)?)?)),
            Some((&RECORD, _)) => {
                let record = Record::from_image(value)?;
                let sub = record.version_of().1;
                Ok(Self::Version(PortableVersion { kv: record.key_value(), sub, deleted: record.is_delete() }))
            }
            _ => Err(Corrupt::new("image: a key of no kind that others know")),
        }
    }

    /// Puts an entry together. What cannot be a version, such as one without a key, is an error.
    pub fn to_image(&self) -> Result<(Bytes, Bytes), Corrupt> {
        match self {
            Self::Auth(entry) => Ok(entry.to_image()),
            Self::Lease(PortableLease { id, ttl_s, deadline_ms }) => {
                let terms = Terms { ttl_s: *ttl_s, deadline_ms: *deadline_ms, renewals: 0 };
                Ok((lease_key(*id), terms.to_bytes()))
            }
            Self::Summary(summary) => Ok((Bytes::from_static(&[META]), summary.meta().to_bytes())),
            Self::Version(PortableVersion { kv, sub, deleted }) => {
                let put = View {
                    deleted: false,
                    revision: kv.mod_revision,
                    sub: *sub,
                    create: kv.create_revision,
                    version: kv.version,
                    lease: kv.lease,
                    key: &kv.key,
                    value: &kv.value,
                };
                let gone = View { deleted: true, create: Revision(0), version: 0, lease: LeaseId::NONE, value: &[], ..put };
                let record = Record::new(if *deleted { gone } else { put }, &mut Vec::new());
                Record::from_image(record.bytes())?;
                Ok((record_key(kv.mod_revision, *sub), record.to_image()))
            }
        }
    }
}

impl PortableSummary {
    fn of(meta: Meta) -> Result<Self, Corrupt> {
        if meta.format != META_FORMAT || meta.ordering != Ordering::Total {
            return Err(Corrupt::new("image: made by another kind of store"));
        }
        Ok(Self {
            revision: meta.revision,
            compacted: meta.compacted,
            compacting: meta.cursor.is_some(),
            paused_ms: meta.paused_ms,
            quota_bytes: meta.quota_bytes,
            alarms: meta.alarms.into_iter().collect(),
        })
    }

    fn meta(&self) -> Meta {
        Meta {
            format: META_FORMAT,
            ordering: Ordering::Total,
            revision: self.revision,
            compacted: self.compacted,
            cursor: None,
            floor: Revision(0),
            quota_bytes: self.quota_bytes,
            txn_ops_max: crate::TXN_OPS_MAX as u64,
            paused_ms: self.paused_ms,
            alarms: self.alarms.iter().copied().collect(),
        }
    }
}
