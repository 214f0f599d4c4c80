//! Whether whoever asks may: what each command and query needs.
//!
//! | what | who may |
//! | --- | --- |
//! | range, compare | who may read all the keys |
//! | put | who may write the key, and read it if the answer shows what was there; and write every key of the lease it attaches to |
//! | delete | who may write all the keys, and read them if the answer shows them |
//! | transaction | who may do all of it, both branches, and whatever is inside |
//! | lease: grant | any user |
//! | lease: revoke, keep alive | any user who may write all its keys |
//! | lease: time to live | any user, for the keys one who may read them all |
//! | lease: list | who may read every key of every lease |
//! | alarms, status | any user |
//! | whether auth is on | anybody |
//! | a user's roles | that user, and `root` |
//! | a role's permissions | who has the role, and `root` |
//! | assigning a token, what a node proposes because time passes | a node |
//! | everything else | whoever has the role `root` |
//!
//! Every match here names every variant: what is added must be given a line.

use super::{Asker, Auth, AuthCommand, AuthRevision, ROOT, User};
use crate::command::{Command, DeleteRange, Op, Put, Query, Txn};
use crate::{Kv, KvError, LeaseId};

/// What is to be done with keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Use {
    Read,
    Write,
}

impl Auth {
    /// Refuses whoever is not a user.
    pub fn check_user(&self, asker: &Asker) -> Result<(), KvError> {
        match asker {
            _ if !self.enabled => Ok(()),
            Asker::Node => Ok(()),
            Asker::User { name, .. } if self.users.contains_key(name) => Ok(()),
            Asker::User { name, .. } if !name.is_empty() => Err(KvError::PermissionDenied),
            Asker::User { .. } | Asker::Nobody => Err(KvError::UserEmpty),
        }
    }

    /// Refuses whoever has not the role `root`. The revision does not matter, as in etcd: who may is judged as of now.
    pub fn check_root(&self, asker: &Asker) -> Result<(), KvError> {
        match asker {
            _ if !self.enabled => Ok(()),
            Asker::Node => Ok(()),
            Asker::User { name, .. } if !name.is_empty() => {
                let user = self.users.get(name).ok_or(KvError::UserNotFound)?;
                if user.roles.contains(ROOT) { Ok(()) } else { Err(KvError::PermissionDenied) }
            }
            Asker::User { .. } | Asker::Nobody => Err(KvError::UserEmpty),
        }
    }

    /// Refuses whoever may not read all keys of a range.
    pub fn check_read(&self, asker: &Asker, key: &[u8], range_end: &[u8]) -> Result<(), KvError> {
        self.check_keys(asker, key, range_end, Use::Read)
    }

    fn check_node(&self, asker: &Asker) -> Result<(), KvError> {
        if !self.enabled || *asker == Asker::Node { Ok(()) } else { Err(KvError::PermissionDenied) }
    }

    fn check_keys(&self, asker: &Asker, key: &[u8], range_end: &[u8], to: Use) -> Result<(), KvError> {
        if !self.enabled {
            return Ok(());
        }
        let Some(user) = self.user_of(asker)? else { return Ok(()) };
        let may = user.roles.contains(ROOT)
            || match to {
                Use::Read => user.grants.may_read(key, range_end),
                Use::Write => user.grants.may_write(key, range_end),
            };
        if may { Ok(()) } else { Err(KvError::PermissionDenied) }
    }

    /// The user that asks; nobody in particular if it is a node.
    fn user_of(&self, asker: &Asker) -> Result<Option<&User>, KvError> {
        match asker {
            Asker::Node => Ok(None),
            Asker::Nobody | Asker::User { revision: AuthRevision(0), .. } => Err(KvError::UserEmpty),
            Asker::User { revision, .. } if *revision < self.revision => Err(KvError::AuthOldRevision),
            Asker::User { name, .. } => self.users.get(name).map(Some).ok_or(KvError::PermissionDenied),
        }
    }

    fn has_role(&self, asker: &Asker, role: &str) -> bool {
        matches!(asker, Asker::User { name, .. } if self.users.get(name).is_some_and(|user| user.roles.contains(role)))
    }
}

impl Kv {
    /// Users and roles.
    pub fn auth(&self) -> &Auth {
        &self.auth
    }

    /// Refuses a command whose asker may not. Called only while auth is on.
    pub(crate) fn authorise(&self, asker: &Asker, command: &Command) -> Result<(), KvError> {
        let auth = &self.auth;
        match command {
            Command::Put(put) => self.judge_put(asker, put),
            Command::DeleteRange(delete) => self.judge_delete(asker, delete),
            Command::Txn(txn) => self.judge_txn(asker, txn),
            Command::LeaseGrant { .. } => auth.check_user(asker),
            Command::LeaseRevoke { id } => {
                auth.check_user(asker)?;
                self.judge_lease(asker, *id, Use::Write)
            }
            Command::LeaseRenew { ids } => {
                auth.check_user(asker)?;
                ids.iter().try_for_each(|id| self.judge_lease(asker, *id, Use::Write))
            }
            Command::LeaseExpire { .. } | Command::LeaseGrace { .. } => auth.check_node(asker),
            Command::Auth(AuthCommand::Authenticate { .. }) => auth.check_node(asker),
            Command::Compact { .. }
            | Command::AlarmArm { .. }
            | Command::AlarmDisarm { .. }
            | Command::SetQuota { .. }
            | Command::Forget
            | Command::Auth(_) => auth.check_root(asker),
            Command::Read(query) => self.authorise_query(asker, query),
            Command::As { .. } => Err(KvError::Malformed),
        }
    }

    /// Refuses a query whose asker may not. Called only while auth is on.
    pub(crate) fn authorise_query(&self, asker: &Asker, query: &Query) -> Result<(), KvError> {
        let auth = &self.auth;
        match query {
            Query::Range(range) => auth.check_read(asker, &range.key, &range.range_end),
            Query::Txn(txn) => self.judge_txn(asker, txn),
            Query::LeaseTimeToLive { id, keys, .. } => {
                auth.check_user(asker)?;
                if *keys { self.judge_lease(asker, *id, Use::Read) } else { Ok(()) }
            }
            Query::Leases => {
                auth.check_user(asker)?;
                self.leases.by_id.keys().try_for_each(|id| self.judge_lease(asker, *id, Use::Read))
            }
            Query::Alarms | Query::Status => auth.check_user(asker),
            Query::HashAt { .. } | Query::Users | Query::Roles => auth.check_root(asker),
            Query::User { name } => match auth.check_root(asker) {
                Err(_) if matches!(asker, Asker::User { name: own, .. } if own == name) => Ok(()),
                verdict => verdict,
            },
            Query::Role { name } => match auth.check_root(asker) {
                Err(_) if auth.has_role(asker, name) => Ok(()),
                verdict => verdict,
            },
            Query::AuthStatus => Ok(()),
            Query::As { .. } => Err(KvError::Malformed),
        }
    }

    fn judge_put(&self, asker: &Asker, put: &Put) -> Result<(), KvError> {
        self.auth.check_keys(asker, &put.key, &[], Use::Write)?;
        // Who cannot end a lease must not attach a key to it either: the others would keep it alive, or take it along.
        self.judge_lease(asker, put.lease, Use::Write)?;
        if put.prev_kv { self.auth.check_read(asker, &put.key, &[]) } else { Ok(()) }
    }

    fn judge_delete(&self, asker: &Asker, delete: &DeleteRange) -> Result<(), KvError> {
        self.auth.check_keys(asker, &delete.key, &delete.range_end, Use::Write)?;
        if delete.prev_kv { self.auth.check_read(asker, &delete.key, &delete.range_end) } else { Ok(()) }
    }

    /// Both branches: which is taken says something about the keys compared.
    fn judge_txn(&self, asker: &Asker, txn: &Txn) -> Result<(), KvError> {
        txn.compare.iter().try_for_each(|compare| self.auth.check_read(asker, &compare.key, &compare.range_end))?;
        txn.success.iter().chain(&txn.failure).try_for_each(|op| match op {
            Op::Range(range) => self.auth.check_read(asker, &range.key, &range.range_end),
            Op::Put(put) => self.judge_put(asker, put),
            Op::DeleteRange(delete) => self.judge_delete(asker, delete),
            Op::Txn(inner) => self.judge_txn(asker, inner),
        })
    }

    /// Every key of a lease, unless the asker may do everything. A lease that is not there has none.
    fn judge_lease(&self, asker: &Asker, id: LeaseId, to: Use) -> Result<(), KvError> {
        let Some(lease) = self.leases.by_id.get(&id) else { return Ok(()) };
        if self.auth.check_root(asker).is_ok() {
            return Ok(());
        }
        lease.keys().try_for_each(|key| self.auth.check_keys(asker, key, &[], to))
    }
}
