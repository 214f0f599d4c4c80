//! A store in etcd's own file: the bbolt database with etcd's buckets that its snapshots are. The way in from etcd, and the way out.
//!
//! | bucket | keys and values |
//! | --- | --- |
//! | `key` | a revision (8 bytes, `_`, which change of it in 8, `t` behind a deletion; numbers big-endian): a `KeyValue` |
//! | `lease` | an id (8 bytes): a `Lease` |
//! | `meta` | `scheduledCompactRev`, `finishedCompactRev`: a revision; `consistent_index`, `term` (8 bytes), `confState` (JSON), `storageVersion` |
//! | `alarm` | an `AlarmMember`: nothing |
//! | `members`, `members_removed`, `cluster` | who was in, which a restored cluster forgets |
//! | `auth`, `authUsers`, `authRoles` | whether it is enabled; users; roles |
//!
//! [`Export`] writes one from a view of the engine, [`examine`] and [`Import`] read one. Both keep the whole history since the last
//! compaction: versions, deletions, create revisions, leases with what is left of them, alarms, users and roles.
//!
//! What is written names no version of the cluster and the storage of etcd 3.6, so that any etcd from 3.4 on takes it.

mod read;
mod write;

#[cfg(test)]
mod tests;

pub use read::{FileError, FileOptions, Summary};
pub(crate) use read::{Import, examine, is_one};
pub(crate) use write::{Export, ExportError, Origin, STORAGE_VERSION};

use concur_kv::Revision;

const KEY: &[u8] = b"key";
const LEASE: &[u8] = b"lease";
const META: &[u8] = b"meta";
const ALARM: &[u8] = b"alarm";
const AUTH: &[u8] = b"auth";
const AUTH_USERS: &[u8] = b"authUsers";
const AUTH_ROLES: &[u8] = b"authRoles";
const MEMBERS: &[u8] = b"members";
const MEMBERS_REMOVED: &[u8] = b"members_removed";
const CLUSTER: &[u8] = b"cluster";

const SCHEDULED: &[u8] = b"scheduledCompactRev";
const FINISHED: &[u8] = b"finishedCompactRev";

/// Behind the revision of a deletion.
const TOMBSTONE: u8 = b't';
const REVISION_BYTES: usize = 17;

/// A revision as a key: which, and which change of it.
fn revision_key(revision: Revision, sub: u64) -> [u8; REVISION_BYTES] {
    let mut key = [b'_'; REVISION_BYTES];
    key[..8].copy_from_slice(&revision.0.to_be_bytes());
    key[9..].copy_from_slice(&sub.to_be_bytes());
    key
}

/// The revision of a key, which change of it, and whether it is a deletion.
fn read_revision(key: &[u8]) -> Option<(Revision, u64, bool)> {
    let (key, deleted) = match key {
        [key @ .., TOMBSTONE] if key.len() == REVISION_BYTES => (key, true),
        key => (key, false),
    };
    let [revision @ .., b'_', _, _, _, _, _, _, _, _] = key else { return None };
    let revision = i64::from_be_bytes(revision.try_into().ok()?);
    let sub = i64::from_be_bytes(key[9..].try_into().ok()?);
    Some((Revision(revision), u64::try_from(sub).ok()?, deleted)).filter(|(revision, ..)| revision.0 >= 0)
}
