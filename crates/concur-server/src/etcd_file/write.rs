//! Writes a store, as the engine keeps it, into etcd's file.
//!
//! It goes through the state twice, as the file begins with what is known at its end; of the state it keeps the leases in memory.

use super::{
    ALARM, AUTH, AUTH_ROLES, AUTH_USERS, CLUSTER, FINISHED, KEY, LEASE, MEMBERS, MEMBERS_REMOVED, META, SCHEDULED, TOMBSTONE, revision_key,
};
use crate::door::Member;
use concur_bolt::trailer::{HASH_BYTES, Hashing};
use concur_bolt::{BoltError, Layout, Writer};
use concur_core::Corrupt;
use concur_kv::{Access, AlarmKind, AuthRevision, Permission, Portable, PortableAuth, PortableLease, PortableSummary, PortableVersion};
use concur_proto::{authpb, etcdserverpb, leasepb, mvccpb};
use concur_replica::machine_key;
use concur_store::engine::{EngineError, View};
use prost::Message;
use serde_json::json;
use std::io::Write;

/// The storage of etcd that is written: later ones read it, and earlier ones do not look.
pub(crate) const STORAGE_VERSION: &str = "3.6.0";

/// What the file says of where it is from.
#[derive(Debug, Clone)]
pub(crate) struct Origin {
    /// Who was in.
    pub(crate) members: Vec<Member>,
    /// The leader's term.
    pub(crate) term: u64,
    /// How much was executed.
    pub(crate) index: u64,
    /// The time, by which leases have so much left.
    pub(crate) now_ms: u64,
}

/// Why a store could not be written.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ExportError {
    /// The engine cannot be read.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// The file cannot be written.
    #[error(transparent)]
    Bolt(#[from] BoltError),
    /// What the engine has cannot be understood.
    #[error(transparent)]
    Corrupt(#[from] Corrupt),
}

/// A store that is to be written.
pub(crate) struct Export {
    view: View,
    origin: Origin,
    layout: Layout,
}

impl Export {
    /// Looks through the state for how large the file will be.
    pub(crate) fn measure(view: View, origin: Origin) -> Result<Self, ExportError> {
        let (layout, _) = fill(Writer::measure(), &view, &origin)?;
        Ok(Self { view, origin, layout })
    }

    /// Bytes of the database.
    pub(crate) fn bytes(&self) -> u64 {
        self.layout.bytes()
    }

    /// Writes the database, and returns the hash that belongs behind it.
    pub(crate) fn write(&self, out: impl Write) -> Result<[u8; HASH_BYTES], ExportError> {
        let writer = Writer::new(Hashing::new(out), self.layout)?;
        let (_, hashing) = fill(writer, &self.view, &self.origin)?;
        Ok(hashing.finish().0)
    }
}

fn fill<W: Write>(mut writer: Writer<W>, view: &View, origin: &Origin) -> Result<(Layout, W), ExportError> {
    let (mut leases, mut summary, mut auth) = (Vec::new(), None, Vec::new());
    let mut keys = writer.bucket(KEY);
    for entry in view.entries()? {
        let (key, value) = entry?;
        let Some(key) = machine_key(&key) else { continue };
        match Portable::read(&key, &value)? {
            Portable::Auth(entry) => auth.push(entry),
            Portable::Lease(lease) => leases.push(lease),
            Portable::Summary(found) => summary = Some(found),
            Portable::Version(version) => {
                let (key, value) = version_entry(version);
                keys.put(&key, &value)?;
            }
        }
    }
    keys.finish()?;
    let summary = summary.ok_or_else(|| Corrupt::new("the state has no summary"))?;
    put_leases(&mut writer, &mut leases, &summary, origin)?;
    put_meta(&mut writer, &summary, origin)?;
    put_alarms(&mut writer, &summary)?;
    put_members(&mut writer, origin)?;
    put_auth(&mut writer, &auth)?;
    Ok(writer.finish()?)
}

fn version_entry(PortableVersion { kv, sub, deleted }: PortableVersion) -> (Vec<u8>, Vec<u8>) {
    let mut key = revision_key(kv.mod_revision, sub).to_vec();
    if deleted {
        key.push(TOMBSTONE);
        return (key, mvccpb::KeyValue { key: kv.key, ..Default::default() }.encode_to_vec());
    }
    (key, crate::etcd::key_value(kv).encode_to_vec())
}

fn put_leases<W: Write>(
    writer: &mut Writer<W>,
    leases: &mut [PortableLease],
    summary: &PortableSummary,
    origin: &Origin,
) -> Result<(), BoltError> {
    let clock_ms = origin.now_ms.saturating_sub(summary.paused_ms);
    // As unsigned numbers, which is how the keys compare.
    leases.sort_by_key(|lease| lease.id.0 as u64);
    let mut bucket = writer.bucket(LEASE);
    for lease in leases.iter() {
        let left_s = i64::try_from(lease.deadline_ms.saturating_sub(clock_ms).div_ceil(1000)).unwrap_or(i64::MAX).max(1);
        let remaining_ttl = if left_s < lease.ttl_s { left_s } else { 0 };
        let kept = leasepb::Lease { id: lease.id.0, ttl: lease.ttl_s, remaining_ttl };
        bucket.put(&lease.id.0.to_be_bytes(), &kept.encode_to_vec())?;
    }
    bucket.finish()
}

fn put_meta<W: Write>(writer: &mut Writer<W>, summary: &PortableSummary, origin: &Origin) -> Result<(), BoltError> {
    let voters: Vec<u64> = origin.members.iter().filter(|member| !member.observer).map(|member| member.id).collect();
    let learners: Vec<u64> = origin.members.iter().filter(|member| member.observer).map(|member| member.id).collect();
    let mut state = json!({ "voters": voters, "auto_leave": false });
    if !learners.is_empty() {
        state["learners"] = learners.into();
    }
    let compacted = revision_key(summary.compacted, 0);
    let mut bucket = writer.bucket(META);
    bucket.put(b"confState", state.to_string().as_bytes())?;
    bucket.put(b"consistent_index", &origin.index.to_be_bytes())?;
    if summary.compacted.0 > 0 {
        // Where some is left to remove, etcd does that when it starts.
        if !summary.compacting {
            bucket.put(FINISHED, &compacted)?;
        }
        bucket.put(SCHEDULED, &compacted)?;
    }
    bucket.put(b"storageVersion", STORAGE_VERSION.as_bytes())?;
    bucket.put(b"term", &origin.term.to_be_bytes())?;
    bucket.finish()
}

fn put_alarms<W: Write>(writer: &mut Writer<W>, summary: &PortableSummary) -> Result<(), BoltError> {
    let alarm = |alarm: &concur_kv::Alarm| {
        let kind = match alarm.kind {
            AlarmKind::NoSpace => etcdserverpb::AlarmType::Nospace,
            AlarmKind::Corrupt => etcdserverpb::AlarmType::Corrupt,
        };
        etcdserverpb::AlarmMember { member_id: alarm.member, alarm: kind as i32 }.encode_to_vec()
    };
    let mut alarms: Vec<Vec<u8>> = summary.alarms.iter().map(alarm).collect();
    alarms.sort();
    let mut bucket = writer.bucket(ALARM);
    for alarm in alarms {
        bucket.put(&alarm, &[])?;
    }
    bucket.finish()
}

fn put_members<W: Write>(writer: &mut Writer<W>, origin: &Origin) -> Result<(), BoltError> {
    let mut members: Vec<_> = origin.members.iter().map(|member| (format!("{:x}", member.id), member)).collect();
    members.sort_by(|(a, _), (b, _)| a.cmp(b));
    let mut bucket = writer.bucket(MEMBERS);
    for (id, Member { id: number, name, peer_urls, client_urls, observer, .. }) in members {
        let mut value = json!({ "id": number, "peerURLs": peer_urls, "name": name, "clientURLs": client_urls });
        if *observer {
            value["isLearner"] = true.into();
        }
        bucket.put(id.as_bytes(), value.to_string().as_bytes())?;
    }
    bucket.finish()?;
    writer.bucket(MEMBERS_REMOVED).finish()?;
    writer.bucket(CLUSTER).finish()
}

/// Users, roles, and whether they count. The entries come in the order of their names.
fn put_auth<W: Write>(writer: &mut Writer<W>, entries: &[PortableAuth]) -> Result<(), BoltError> {
    let summary = entries.iter().find_map(|entry| match entry {
        PortableAuth::Summary { enabled, revision } => Some((*enabled, revision.0)),
        _ => None,
    });
    let (enabled, revision) = summary.unwrap_or((false, AuthRevision::FIRST.0));
    let mut bucket = writer.bucket(AUTH);
    bucket.put(b"authEnabled", &[u8::from(enabled)])?;
    bucket.put(b"authRevision", &revision.to_be_bytes())?;
    bucket.finish()?;
    let mut bucket = writer.bucket(AUTH_ROLES);
    for entry in entries {
        if let PortableAuth::Role { name, role } = entry {
            let key_permission = role.permissions.iter().map(permission).collect();
            bucket.put(name.as_bytes(), &authpb::Role { name: name.clone().into_bytes().into(), key_permission }.encode_to_vec())?;
        }
    }
    bucket.finish()?;
    let mut bucket = writer.bucket(AUTH_USERS);
    for entry in entries {
        if let PortableAuth::User { name, password, no_password, roles } = entry {
            let user = authpb::User {
                name: name.clone().into_bytes().into(),
                password: password.clone(),
                roles: roles.iter().cloned().collect(),
                options: Some(authpb::UserAddOptions { no_password: *no_password }),
            };
            bucket.put(name.as_bytes(), &user.encode_to_vec())?;
        }
    }
    bucket.finish()
}

fn permission(permission: &Permission) -> authpb::Permission {
    let perm_type = match permission.access {
        Access::Read => authpb::permission::Type::Read,
        Access::Write => authpb::permission::Type::Write,
        Access::ReadWrite => authpb::permission::Type::Readwrite,
    };
    authpb::Permission { perm_type: perm_type as i32, key: permission.key.clone(), range_end: permission.range_end.clone() }
}
