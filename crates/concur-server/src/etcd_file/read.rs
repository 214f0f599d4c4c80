//! Reads a store from etcd's file, wherever it comes from: nothing in it is believed before it is checked.
//!
//! It is gone through twice: once to find out what it holds and which of it counts, once to make the entries of an image. Of each key
//! is remembered which version is the last, and which the one that the compaction leaves: as much as the node will have in memory anyway.

use super::{ALARM, AUTH, AUTH_ROLES, AUTH_USERS, FINISHED, KEY, LEASE, META, SCHEDULED, read_revision};
use bytes::Bytes;
use concur_bolt::{BoltError, Reader, Sealed};
use concur_core::Corrupt;
use concur_kv::{
    Access, Alarm, AlarmKind, AuthRevision, KeyValue, LEASE_TTL_MAX_S, LeaseId, Permission, Portable, PortableAuth, PortableLease,
    PortableSummary, PortableVersion, QUOTA_BYTES, Revision, Role,
};
use concur_proto::{authpb, etcdserverpb, leasepb, mvccpb};
use prost::Message;
use std::collections::{BTreeMap, HashMap};
use std::io::{Read, Seek, SeekFrom};

/// Where a meta page of bbolt says what it is, and how.
const MAGIC_AT: usize = 16;
const MAGIC: [u8; 4] = 0xED0C_DAED_u32.to_le_bytes();

/// Why a file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// It is no database, or a damaged one.
    #[error("{0}. Discard it and take or fetch another")]
    Bolt(BoltError),
    /// Its hash is not that of its contents, or there is none.
    #[error("{0}. If it was copied from a data directory of etcd, it has none: say --skip-hash-check. If etcd sent it, it is damaged")]
    Hash(BoltError),
    /// What the database holds contradicts itself.
    #[error("the database in it is damaged: {what}. Discard it and take or fetch another")]
    Damaged {
        /// What was found.
        what: String,
    },
}

impl From<BoltError> for FileError {
    fn from(error: BoltError) -> Self {
        Self::Bolt(error)
    }
}

impl From<std::io::Error> for FileError {
    fn from(error: std::io::Error) -> Self {
        Self::Bolt(error.into())
    }
}

impl From<Corrupt> for FileError {
    fn from(error: Corrupt) -> Self {
        Self::Damaged { what: error.to_string() }
    }
}

/// How a file is taken.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct FileOptions {
    /// Not to compare the hash behind the file, or the want of one.
    pub skip_hash: bool,
    /// By how much the revision is raised, with everything before it compacted, so that no client sees a revision that it has seen otherwise.
    pub raise: u64,
}

/// What a file holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Summary {
    /// The store's revision, raised if that was asked for.
    pub revision: i64,
    /// The oldest that can be read; −1 if nothing was compacted.
    pub compacted: i64,
    /// Keys that exist.
    pub keys: u64,
    /// Versions and deletions that are kept.
    pub versions: u64,
    /// Leases.
    pub leases: u64,
    /// The version of etcd's storage that the file names, or empty.
    pub storage_version: String,
    /// The term of the cluster that made it.
    pub term: u64,
    /// Bytes of the database.
    pub bytes: u64,
    /// Whether the SHA-256 behind it was compared.
    pub hash_checked: bool,
    /// A hash of everything that is kept of it.
    pub hash: u64,
    /// Users and roles, in the order of an image.
    auth: Vec<PortableAuth>,
    alarms: Vec<Alarm>,
    granted: BTreeMap<LeaseId, Granted>,
    known: HashMap<Box<[u8]>, Known>,
}

/// What is left of a lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Granted {
    ttl_s: i64,
    left_s: i64,
}

/// What is known of a key: which version is its last, and which the last that is not above the compacted revision.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Known {
    last: (Revision, u64),
    exists: bool,
    base: Option<(Revision, u64)>,
}

/// Whether a file, of which this is the beginning, is a database of bbolt.
pub(crate) fn is_one(beginning: &[u8]) -> bool {
    beginning.get(MAGIC_AT..MAGIC_AT + MAGIC.len()) == Some(&MAGIC)
}

/// Reads a whole file and says what it holds.
pub(crate) fn examine<R: Read + Seek>(mut file: R, options: FileOptions) -> Result<Summary, FileError> {
    let sealed = Sealed::of_size(file.seek(SeekFrom::End(0))?);
    if !options.skip_hash {
        sealed.check(&mut file).map_err(|error| match error {
            BoltError::OtherHash | BoltError::NoHash => FileError::Hash(error),
            error => FileError::Bolt(error),
        })?;
    }
    let mut reader = Reader::open(file, sealed.bytes)?;
    let auth = read_auth(&mut reader)?;
    let meta = read_meta(&mut reader)?;
    let granted = read_leases(&mut reader)?;
    let alarms = read_alarms(&mut reader)?;
    let mut summary = Summary {
        revision: Revision::EMPTY.0.max(meta.compacted.0),
        compacted: meta.compacted.0,
        keys: 0,
        versions: 0,
        leases: granted.len() as u64,
        storage_version: meta.storage_version,
        term: meta.term,
        bytes: sealed.bytes,
        hash_checked: !options.skip_hash,
        hash: HASH_START,
        auth,
        alarms,
        granted,
        known: HashMap::new(),
    };
    look_through(&mut reader, &mut summary)?;
    if options.raise > 0 {
        let raised = i64::try_from(options.raise).ok().and_then(|by| summary.revision.checked_add(by));
        summary.revision =
            raised.filter(|&revision| revision < i64::MAX / 2).ok_or_else(|| damaged("the revision cannot be raised so far"))?;
        summary.compacted = summary.revision;
        summary.known.values_mut().for_each(|known| known.base = Some(known.last));
    }
    count(&mut reader, &mut summary)?;
    Ok(summary)
}

/// A store from a file that was examined.
pub(crate) struct Import<'a, R> {
    reader: Reader<R>,
    summary: &'a Summary,
}

impl<'a, R: Read + Seek> Import<'a, R> {
    /// Of the same file.
    pub(crate) fn new(file: R, summary: &'a Summary) -> Result<Self, FileError> {
        Ok(Self { reader: Reader::open(file, summary.bytes)?, summary })
    }

    /// Makes the entries of an image, in order. Leases have what is left of them from `from_ms` on, by the leases' clock.
    pub(crate) fn entries<E: From<FileError>>(
        mut self,
        from_ms: u64,
        mut emit: impl FnMut(Bytes, Bytes) -> Result<(), E>,
    ) -> Result<(), E> {
        let summary = self.summary;
        let mut put = |entry: &Portable| {
            let (key, value) = entry.to_image().map_err(FileError::from)?;
            emit(key, value)
        };
        for entry in &summary.auth {
            put(&Portable::Auth(entry.clone()))?;
        }
        for (&id, granted) in &summary.granted {
            let left_ms = u64::try_from(granted.left_s).unwrap_or(0).saturating_mul(1000);
            put(&Portable::Lease(PortableLease { id, ttl_s: granted.ttl_s, deadline_ms: from_ms.saturating_add(left_ms) }))?;
        }
        put(&Portable::Summary(PortableSummary {
            revision: Revision(summary.revision),
            compacted: Revision(summary.compacted),
            compacting: false,
            paused_ms: 0,
            quota_bytes: QUOTA_BYTES,
            alarms: summary.alarms.clone(),
        }))?;
        for version in versions(&mut self.reader)? {
            if let Some(version) = summary.kept(version?) {
                put(&Portable::Version(version))?;
            }
        }
        Ok(())
    }
}

impl Summary {
    /// A version as it is kept, if it is.
    fn kept(&self, mut version: PortableVersion) -> Option<PortableVersion> {
        let at = (version.kv.mod_revision, version.sub);
        let known = self.known.get(&version.kv.key[..])?;
        let compacted = Revision(self.compacted);
        let is_base = known.base == Some(at);
        let kept = at.0 >= compacted || (is_base && !version.deleted);
        // A key whose lease is gone belongs to none: etcd goes on without, and a store here does not load with it.
        if known.last == at && !self.granted.contains_key(&version.kv.lease) {
            version.kv.lease = LeaseId::NONE;
        }
        kept.then_some(version)
    }
}

struct Meta {
    compacted: Revision,
    storage_version: String,
    term: u64,
}

fn read_meta<R: Read + Seek>(reader: &mut Reader<R>) -> Result<Meta, FileError> {
    let mut meta = Meta { compacted: Revision(-1), storage_version: String::new(), term: 0 };
    let Some(entries) = reader.bucket(META)? else { return Ok(meta) };
    for entry in entries {
        let (key, value) = entry?;
        match &key[..] {
            // One that is scheduled and not finished is as good as done: what it would remove is left out.
            SCHEDULED | FINISHED => {
                let (revision, ..) = read_revision(&value).ok_or_else(|| damaged("what it says of its compaction"))?;
                meta.compacted = meta.compacted.max(revision);
            }
            b"storageVersion" => meta.storage_version = String::from_utf8_lossy(&value[..value.len().min(64)]).into_owned(),
            b"term" => meta.term = value[..].try_into().map_or(0, u64::from_be_bytes),
            _ => {}
        }
    }
    if meta.compacted.0 == 0 {
        meta.compacted = Revision(-1);
    }
    Ok(meta)
}

/// Users, roles, and whether they count; nothing where there never were any.
fn read_auth<R: Read + Seek>(reader: &mut Reader<R>) -> Result<Vec<PortableAuth>, FileError> {
    let (mut enabled, mut revision, mut entries) = (false, AuthRevision::FIRST, Vec::new());
    for entry in reader.bucket(AUTH)?.into_iter().flatten() {
        let (key, value) = entry?;
        match &key[..] {
            b"authEnabled" => enabled = value[..] == [1],
            b"authRevision" => revision = AuthRevision(value[..].try_into().map_or(0, u64::from_be_bytes).max(revision.0)),
            _ => {}
        }
    }
    for entry in reader.bucket(AUTH_ROLES)?.into_iter().flatten() {
        let (key, value) = entry?;
        let read = authpb::Role::decode(value).map_err(|_| damaged("a role"))?;
        let permissions = read.key_permission.into_iter().map(read_permission).collect::<Option<_>>();
        let role = Role { permissions: permissions.ok_or_else(|| damaged("a role's permission"))? };
        entries.push(PortableAuth::Role { name: name(&key)?, role });
    }
    for entry in reader.bucket(AUTH_USERS)?.into_iter().flatten() {
        let (key, value) = entry?;
        let authpb::User { password, roles, options, .. } = authpb::User::decode(value).map_err(|_| damaged("a user"))?;
        let no_password = options.is_some_and(|options| options.no_password);
        entries.push(PortableAuth::User { name: name(&key)?, password, no_password, roles: roles.into_iter().collect() });
    }
    if enabled || revision > AuthRevision::FIRST || !entries.is_empty() {
        entries.insert(0, PortableAuth::Summary { enabled, revision });
    }
    Ok(entries)
}

fn name(key: &[u8]) -> Result<String, FileError> {
    String::from_utf8(key.to_vec()).map_err(|_| damaged("a name of a user or role that is no text"))
}

fn read_permission(read: authpb::Permission) -> Option<Permission> {
    let access = match authpb::permission::Type::try_from(read.perm_type) {
        Ok(authpb::permission::Type::Read) => Access::Read,
        Ok(authpb::permission::Type::Write) => Access::Write,
        Ok(authpb::permission::Type::Readwrite) => Access::ReadWrite,
        Err(_) => return None,
    };
    Some(Permission { access, key: read.key, range_end: read.range_end }).filter(|permission| !permission.key.is_empty())
}

fn read_leases<R: Read + Seek>(reader: &mut Reader<R>) -> Result<BTreeMap<LeaseId, Granted>, FileError> {
    let mut granted = BTreeMap::new();
    let Some(entries) = reader.bucket(LEASE)? else { return Ok(granted) };
    for entry in entries {
        let (key, value) = entry?;
        let lease = leasepb::Lease::decode(value).map_err(|_| damaged("a lease"))?;
        let in_range = lease.id != 0 && (1..=LEASE_TTL_MAX_S).contains(&lease.ttl) && lease.remaining_ttl >= 0;
        if key[..] != lease.id.to_be_bytes() || !in_range {
            return Err(damaged("a lease"));
        }
        let left_s = if lease.remaining_ttl == 0 { lease.ttl } else { lease.remaining_ttl.min(lease.ttl) };
        granted.insert(LeaseId(lease.id), Granted { ttl_s: lease.ttl, left_s });
    }
    Ok(granted)
}

fn read_alarms<R: Read + Seek>(reader: &mut Reader<R>) -> Result<Vec<Alarm>, FileError> {
    let mut alarms = Vec::new();
    let Some(entries) = reader.bucket(ALARM)? else { return Ok(alarms) };
    for entry in entries {
        let alarm = etcdserverpb::AlarmMember::decode(entry?.0).map_err(|_| damaged("an alarm"))?;
        let kind = match etcdserverpb::AlarmType::try_from(alarm.alarm) {
            Ok(etcdserverpb::AlarmType::Nospace) => AlarmKind::NoSpace,
            Ok(etcdserverpb::AlarmType::Corrupt) => AlarmKind::Corrupt,
            _ => continue,
        };
        alarms.push(Alarm { member: alarm.member_id, kind });
    }
    Ok(alarms)
}

/// Finds the revision, and of each key the versions that matter.
fn look_through<R: Read + Seek>(reader: &mut Reader<R>, summary: &mut Summary) -> Result<(), FileError> {
    let compacted = Revision(summary.compacted);
    for version in versions(reader)? {
        let PortableVersion { kv, sub, deleted } = version?;
        let at = (kv.mod_revision, sub);
        summary.revision = summary.revision.max(at.0.0);
        if kv.key.is_empty() {
            continue;
        }
        let base = Some(at).filter(|_| at.0 <= compacted);
        match summary.known.get_mut(&kv.key[..]) {
            Some(known) => *known = Known { last: at, exists: !deleted, base: base.or(known.base) },
            None => drop(summary.known.insert(kv.key[..].into(), Known { last: at, exists: !deleted, base })),
        }
    }
    Ok(())
}

/// Counts what is kept, and sees that no revision is missing behind the compacted one.
fn count<R: Read + Seek>(reader: &mut Reader<R>, summary: &mut Summary) -> Result<(), FileError> {
    summary.keys = summary.known.values().filter(|known| known.exists).count() as u64;
    let (mut count, mut hash) = (0, summary.hash);
    for number in [summary.revision, summary.compacted] {
        hash = fold(hash, &number.to_le_bytes());
    }
    for entry in &summary.auth {
        let (key, value) = Portable::Auth(entry.clone()).to_image()?;
        hash = fold(fold(hash, &key), &value);
    }
    for (id, granted) in &summary.granted {
        for number in [id.0, granted.ttl_s, granted.left_s] {
            hash = fold(hash, &number.to_le_bytes());
        }
    }
    let mut before = Revision(summary.compacted).max(Revision::EMPTY);
    for version in versions(reader)? {
        let Some(PortableVersion { kv, sub, deleted }) = summary.kept(version?) else { continue };
        count += 1;
        for number in [kv.mod_revision.0, kv.create_revision.0, kv.version, kv.lease.0, sub as i64, i64::from(deleted)] {
            hash = fold(hash, &number.to_le_bytes());
        }
        hash = fold(fold(hash, &kv.key), &kv.value);
        if kv.mod_revision > before {
            if kv.mod_revision > before.next() {
                return Err(damaged(format!("nothing at revision {}", before.next())));
            }
            before = kv.mod_revision;
        }
    }
    if before < Revision(summary.revision) {
        return Err(damaged(format!("nothing at revision {}", before.next())));
    }
    (summary.versions, summary.hash) = (count, hash);
    Ok(())
}

/// The versions and deletions of the `key` bucket, checked one by one. A revision that was raised has one without a key.
fn versions<R: Read + Seek>(reader: &mut Reader<R>) -> Result<impl Iterator<Item = Result<PortableVersion, FileError>> + '_, FileError> {
    let entries = reader.bucket(KEY)?.ok_or_else(|| damaged("it has no keys' bucket: it is a database of something else"))?;
    Ok(entries.map(|entry| {
        let (key, value) = entry?;
        read_version(&key, value)
    }))
}

fn read_version(key: &[u8], value: Bytes) -> Result<PortableVersion, FileError> {
    let (revision, sub, deleted) = read_revision(key).ok_or_else(|| damaged("a key that is no revision"))?;
    let wrong = |what: &str| damaged(format!("{what} at revision {revision}.{sub}"));
    let kv = mvccpb::KeyValue::decode(value).map_err(|_| wrong("what is no version"))?;
    let mod_revision = revision;
    if deleted {
        let kv = KeyValue { key: kv.key, mod_revision, ..KeyValue::default() };
        return if kv.key.is_empty() { Err(wrong("a deletion of nothing")) } else { Ok(PortableVersion { kv, sub, deleted }) };
    }
    let raised = kv == mvccpb::KeyValue::default();
    let sane = kv.mod_revision == revision.0 && (1..=revision.0).contains(&kv.create_revision) && kv.version > 0 && !kv.key.is_empty();
    if !raised && !sane {
        return Err(wrong("a version that cannot be"));
    }
    let kv = KeyValue {
        key: kv.key,
        value: kv.value,
        create_revision: Revision(kv.create_revision),
        mod_revision,
        version: kv.version,
        lease: LeaseId(kv.lease),
    };
    Ok(PortableVersion { kv, sub, deleted })
}

fn damaged(what: impl Into<String>) -> FileError {
    FileError::Damaged { what: what.into() }
}

const HASH_START: u64 = 0xcbf2_9ce4_8422_2325;

/// FNV-1a, with the length in front.
fn fold(hash: u64, bytes: &[u8]) -> u64 {
    let length = (bytes.len() as u64).to_le_bytes();
    length.iter().chain(bytes).fold(hash, |hash, &byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}
