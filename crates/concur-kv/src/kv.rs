//! The store as a whole: commands in, replies out.

use crate::auth::{Asker, Auth, AuthStatus};
use crate::check::{TXN_OPS_MAX, check, check_query};
use crate::command::{Alarm, AlarmKind, Command, DeleteRange, Put, Query};
use crate::lease::Leases;
use crate::record::{RECORD_OVERHEAD_BYTES, Record, Revision};
use crate::reply::{Answer, DeleteReply, PutReply, Reply, Status};
use crate::store::Store;
use crate::{KvError, LeaseId, compact};
use std::collections::BTreeSet;

/// How the changes of a namespace are ordered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Ordering {
    /// Every write takes the next global revision, so all writes interfere.
    #[default]
    Total,
    /// Each key counts its own changes; writes to different keys commute. No history, no compaction.
    PerKey,
}

/// What a store is made with; the same on every replica. A store read back from an image has what the image says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Config {
    /// How changes are ordered.
    pub ordering: Ordering,
    /// How large the store may become.
    pub quota_bytes: u64,
    /// How many operations a transaction may have in each of its lists.
    pub txn_ops_max: usize,
}

/// The quota where none is configured: 2 GiB.
pub const QUOTA_BYTES: u64 = 2 << 30;

impl Default for Config {
    fn default() -> Self {
        Self { ordering: Ordering::Total, quota_bytes: QUOTA_BYTES, txn_ops_max: TXN_OPS_MAX }
    }
}

/// The replicated key-value store.
#[derive(Debug)]
pub struct Kv {
    pub(crate) config: Config,
    pub(crate) store: Store,
    pub(crate) leases: Leases,
    pub(crate) alarms: BTreeSet<Alarm>,
    pub(crate) auth: Auth,
    /// Whether the durable image's summary is behind.
    pub(crate) meta_dirty: bool,
}

impl Kv {
    /// An empty store.
    pub fn new(config: Config) -> Self {
        let (store, leases, auth) = (Store::new(config.ordering), Leases::default(), Auth::default());
        Self { config, store, leases, alarms: BTreeSet::new(), auth, meta_dirty: true }
    }

    /// What it was made with, as changed since.
    pub fn config(&self) -> Config {
        self.config
    }

    /// The current revision; 0 if ordered per key.
    pub fn revision(&self) -> Revision {
        self.store.revision
    }

    /// The oldest revision that can be read; 0 or less if nothing was compacted.
    pub fn compacted(&self) -> Revision {
        self.store.compacted
    }

    /// Executes a command at a logged time.
    pub fn execute(&mut self, command: &Command, time_ms: u64) -> Reply {
        let (asker, command) = command.apart();
        self.store.begin();
        let reply = self.run(asker, command, time_ms).unwrap_or_else(Reply::Refused);
        // Decided reads commute with each other, so they leave no trace.
        if !matches!(command, Command::Read(_)) {
            self.compact_on(compact::A_COMMAND);
        }
        if self.store.ordering == Ordering::Total && !self.store.written.is_empty() {
            self.meta_dirty = true;
        }
        reply
    }

    fn run(&mut self, asker: &Asker, command: &Command, time_ms: u64) -> Result<Reply, KvError> {
        check(command, self.config.txn_ops_max)?;
        if self.auth.is_enabled() {
            self.authorise(asker, command)?;
        }
        self.admit(command)?;
        let reply = match command {
            Command::Put(put) => Reply::Put(self.put(put)?),
            Command::DeleteRange(delete) => Reply::DeleteRange(self.delete_range(delete)),
            Command::Txn(txn) => Reply::Txn(self.txn(txn)?),
            Command::Compact { revision } => Reply::Done { revision: self.compact(*revision)? },
            Command::LeaseGrant { id, ttl_s } => self.lease_grant(*id, *ttl_s, time_ms)?,
            Command::LeaseRevoke { id } => Reply::Done { revision: self.lease_revoke(*id)? },
            Command::LeaseRenew { ids } => self.lease_renew(ids, time_ms),
            Command::LeaseExpire { leases } => self.lease_expire(leases, time_ms),
            Command::LeaseGrace { by_ms } => self.lease_grace(*by_ms),
            Command::AlarmArm { alarm } => self.alarm_set(*alarm, true),
            Command::AlarmDisarm { alarm } => self.alarm_set(*alarm, false),
            Command::SetQuota { quota_bytes } => self.set_quota(*quota_bytes),
            Command::Forget => Reply::Done { revision: self.forget_deleted()? },
            Command::Read(query) => Reply::Read(self.answer(query)),
            Command::Auth(command) => {
                self.auth.execute(command)?;
                Reply::Done { revision: self.revision() }
            }
            Command::As { .. } => return Err(KvError::Malformed),
        };
        self.store.commit();
        Ok(reply)
    }

    /// Answers a query from the state as it is, on a node's own account: nobody is judged.
    pub fn answer(&self, query: &Query) -> Answer {
        self.try_answer(query).unwrap_or_else(Answer::Refused)
    }

    /// Answers a query from the state as it is, if whoever asks may.
    pub fn answer_as(&self, asker: &Asker, query: &Query) -> Answer {
        let verdict = if self.auth.is_enabled() { self.authorise_query(asker, query) } else { Ok(()) };
        verdict.map_or_else(Answer::Refused, |()| self.answer(query))
    }

    fn try_answer(&self, query: &Query) -> Result<Answer, KvError> {
        check_query(query, self.config.txn_ops_max)?;
        Ok(match query {
            Query::Range(range) => Answer::Range(self.range(range)?),
            Query::Txn(txn) => Answer::Txn(self.read_txn(txn)?),
            Query::LeaseTimeToLive { id, keys, now_ms } => Answer::Lease(self.lease_time_to_live(*id, *keys, *now_ms)),
            Query::Leases => Answer::Leases { revision: self.revision(), ids: self.lease_ids() },
            Query::Alarms => Answer::Alarms { revision: self.revision(), alarms: self.alarms.iter().copied().collect() },
            Query::Status => Answer::Status(self.status()),
            Query::HashAt { revision } => Answer::Hash(self.hash_at(*revision)?),
            Query::User { name } => {
                let roles = &self.auth.user(name).ok_or(KvError::UserNotFound)?.roles;
                Answer::Names { revision: self.revision(), names: roles.iter().cloned().collect() }
            }
            Query::Users => Answer::Names { revision: self.revision(), names: names(self.auth.users()) },
            Query::Role { name } => Answer::Role { revision: self.revision(), permissions: self.auth.permissions_of(name)? },
            Query::Roles => Answer::Names { revision: self.revision(), names: names(self.auth.roles()) },
            Query::AuthStatus => Answer::Auth(self.auth_status()),
            Query::As { .. } => return Err(KvError::Malformed),
        })
    }

    /// Whether auth is on.
    pub fn auth_status(&self) -> AuthStatus {
        AuthStatus { revision: self.revision(), enabled: self.auth.is_enabled(), auth_revision: self.auth.revision() }
    }

    /// A summary of the store.
    pub fn status(&self) -> Status {
        Status {
            revision: self.revision(),
            compacted: self.compacted(),
            keys: self.store.live,
            leases: self.leases.len() as u64,
            used_bytes: self.used_bytes(),
            quota_bytes: self.config.quota_bytes,
            alarms: self.alarms.iter().copied().collect(),
        }
    }

    pub(crate) fn put(&mut self, put: &Put) -> Result<PutReply, KvError> {
        self.check_put_in_state(put)?;
        Ok(self.put_checked(put))
    }

    // A transaction may delete, from a key on, what it then puts with `ignore_value`: what was there to keep is gone by then, and
    // the value is empty.
    pub(crate) fn put_checked(&mut self, put: &Put) -> PutReply {
        let before = if put.ignore_value || put.ignore_lease { self.store.live(&put.key).cloned() } else { None };
        let kept = before.as_ref().map(Record::view);
        let value = if put.ignore_value { kept.map_or(&[][..], |view| view.value) } else { &put.value };
        let lease = if put.ignore_lease { kept.map_or(LeaseId::NONE, |view| view.lease) } else { put.lease };
        let before = self.store.write(&put.key, Some((value, lease)));
        let lease_before = before.as_ref().map_or(LeaseId::NONE, |record| record.view().lease);
        self.leases.attach(&put.key, lease_before, lease);
        let prev_kv = before.filter(|_| put.prev_kv).map(|record| record.key_value());
        PutReply { revision: self.written_at(), prev_kv }
    }

    /// What a put needs of the state, judged before anything of a transaction is executed.
    pub(crate) fn check_put_in_state(&self, put: &Put) -> Result<(), KvError> {
        if put.lease != LeaseId::NONE && !self.leases.exists(put.lease) {
            return Err(KvError::LeaseNotFound);
        }
        if (put.ignore_value || put.ignore_lease) && self.store.live(&put.key).is_none() {
            return Err(KvError::KeyNotFound);
        }
        Ok(())
    }

    pub(crate) fn delete_range(&mut self, delete: &DeleteRange) -> DeleteReply {
        let gone: Vec<Record> = self.store.range(&delete.key, &delete.range_end, None).cloned().collect();
        for record in &gone {
            self.delete(record);
        }
        let prev_kvs = if delete.prev_kv { gone.iter().map(Record::key_value).collect() } else { Vec::new() };
        DeleteReply { revision: self.store.seen(), deleted: gone.len() as u64, prev_kvs }
    }

    pub(crate) fn delete(&mut self, record: &Record) {
        let view = record.view();
        self.store.write(view.key, None);
        self.leases.attach(view.key, view.lease, LeaseId::NONE);
    }

    /// The revision of the write just made.
    fn written_at(&self) -> Revision {
        match self.store.ordering {
            Ordering::Total => self.store.seen(),
            Ordering::PerKey => self.store.written.last().map_or(Revision(0), Record::revision),
        }
    }

    /// Refuses what alarms and the quota forbid.
    fn admit(&mut self, command: &Command) -> Result<(), KvError> {
        let alarms = matches!(command, Command::AlarmArm { .. } | Command::AlarmDisarm { .. } | Command::Read(_) | Command::Auth(_));
        if !alarms && self.alarms.iter().any(|alarm| alarm.kind == AlarmKind::Corrupt) {
            return Err(KvError::Corrupt);
        }
        match self.cost_bytes(command) {
            0 => Ok(()),
            cost_bytes => self.admit_bytes(cost_bytes),
        }
    }

    /// What a put takes at most.
    pub(crate) fn put_bytes(put: &Put) -> u64 {
        (put.key.len() + put.value.len()) as u64 + RECORD_OVERHEAD_BYTES
    }
}

fn names<'a, T>(all: impl Iterator<Item = (&'a str, T)>) -> Vec<String> {
    all.map(|(name, _)| name.to_owned()).collect()
}
