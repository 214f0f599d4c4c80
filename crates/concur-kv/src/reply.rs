//! What the store answers: replies to commands, answers to queries.

use crate::auth::{AuthStatus, Permission};
use crate::command::{Alarm, FORMAT, NESTING_MAX};
use crate::{KeyValue, KvError, LeaseId, Revision};
use bytes::Bytes;
use concur_core::{Malformed, Reader, Wire, wire_enum, wire_struct};

/// The answer to a command. In a namespace ordered per key, revisions are those of the one key written, or 0.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    /// The command was refused and changed nothing.
    Refused(KvError),
    /// A key was written.
    Put(PutReply),
    /// Keys were deleted.
    DeleteRange(DeleteReply),
    /// A transaction was executed.
    Txn(TxnReply),
    /// Done; the store is at this revision.
    Done {
        /// The current revision.
        revision: Revision,
    },
    /// A lease was granted.
    LeaseGranted {
        /// The current revision.
        revision: Revision,
        /// Its id.
        id: LeaseId,
        /// Its time to live in seconds.
        ttl_s: i64,
    },
    /// Leases were renewed: the time to live of each that was asked for, 0 for those that are unknown or expired.
    LeasesRenewed {
        /// The current revision.
        revision: Revision,
        /// In the order asked.
        ttls_s: Vec<i64>,
    },
    /// Leases expired.
    LeasesExpired {
        /// The current revision.
        revision: Revision,
        /// Which of those proposed.
        ids: Vec<LeaseId>,
    },
    /// The alarms that were armed or disarmed.
    Alarms {
        /// The current revision.
        revision: Revision,
        /// Which.
        alarms: Vec<Alarm>,
    },
    /// The answer to a read that was decided.
    Read(Answer),
}

/// The answer to a query.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// The query was refused.
    Refused(KvError),
    /// Keys in a range.
    Range(RangeAnswer),
    /// A transaction that wrote nothing.
    Txn(TxnReply),
    /// A lease.
    Lease(LeaseAnswer),
    /// All leases.
    Leases {
        /// The current revision.
        revision: Revision,
        /// Those due first in front.
        ids: Vec<LeaseId>,
    },
    /// The alarms that are armed.
    Alarms {
        /// The current revision.
        revision: Revision,
        /// Which.
        alarms: Vec<Alarm>,
    },
    /// A summary of the store.
    Status(Status),
    /// A hash of the history up to a revision.
    Hash(HashAnswer),
    /// Names of users or roles, in order.
    Names {
        /// The current revision.
        revision: Revision,
        /// Whose.
        names: Vec<String>,
    },
    /// What a role permits.
    Role {
        /// The current revision.
        revision: Revision,
        /// What, by key.
        permissions: Vec<Permission>,
    },
    /// Whether auth is on.
    Auth(AuthStatus),
}

/// A key was written.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PutReply {
    /// The revision of the write.
    pub revision: Revision,
    /// The version before, if asked for and existing.
    pub prev_kv: Option<KeyValue>,
}

/// Keys were deleted.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct DeleteReply {
    /// The revision of the delete, or the current one if nothing was deleted.
    pub revision: Revision,
    /// How many keys.
    pub deleted: u64,
    /// Which, if asked for.
    pub prev_kvs: Vec<KeyValue>,
}

/// Keys in a range.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RangeAnswer {
    /// The *current* revision, whichever was read.
    pub revision: Revision,
    /// What was found.
    pub kvs: Vec<KeyValue>,
    /// Whether the limit left some out.
    pub more: bool,
    /// How many keys are in the range, whatever the limit and the filters.
    pub count: u64,
}

/// A transaction was executed.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TxnReply {
    /// The store's revision afterwards; 0 for a transaction inside another.
    pub revision: Revision,
    /// Whether the compares held.
    pub succeeded: bool,
    /// What each operation answers.
    pub replies: Vec<OpReply>,
}

/// What an operation of a transaction answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OpReply {
    /// Of a read.
    Range(RangeAnswer),
    /// Of a write.
    Put(PutReply),
    /// Of a delete.
    DeleteRange(DeleteReply),
    /// Of a transaction inside.
    Txn(TxnReply),
}

/// A lease.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LeaseAnswer {
    /// The current revision.
    pub revision: Revision,
    /// Its id.
    pub id: LeaseId,
    /// How many whole seconds it has to live; -1 if it is unknown or expired.
    pub ttl_s: i64,
    /// How many it was granted; 0 if it is unknown.
    pub granted_ttl_s: i64,
    /// The keys attached to it, in order, if asked for.
    pub keys: Vec<Bytes>,
}

/// A summary of the store.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Status {
    /// The current revision.
    pub revision: Revision,
    /// The oldest revision that can be read; 0 or less if nothing was compacted.
    pub compacted: Revision,
    /// How many keys exist.
    pub keys: u64,
    /// How many leases exist.
    pub leases: u64,
    /// What counts towards the quota.
    pub used_bytes: u64,
    /// The quota.
    pub quota_bytes: u64,
    /// The alarms that are armed.
    pub alarms: Vec<Alarm>,
}

/// A hash of the history up to a revision.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct HashAnswer {
    /// The current revision.
    pub revision: Revision,
    /// The revision hashed.
    pub hash_revision: Revision,
    /// The compacted revision, which the hash depends on; 0 or less if nothing was compacted.
    pub compacted: Revision,
    /// The hash.
    pub hash: u64,
}

fn get_txn(r: &mut Reader, depth: usize) -> Result<TxnReply, Malformed> {
    let (revision, succeeded) = (Wire::get(r)?, Wire::get(r)?);
    let count = r.count(1)?;
    let replies = (0..count).map(|_| get_op(r, depth)).collect::<Result<_, _>>()?;
    Ok(TxnReply { revision, succeeded, replies })
}

fn get_op(r: &mut Reader, depth: usize) -> Result<OpReply, Malformed> {
    match r.byte()? {
        0 => Ok(OpReply::Range(Wire::get(r)?)),
        1 => Ok(OpReply::Put(Wire::get(r)?)),
        2 => Ok(OpReply::DeleteRange(Wire::get(r)?)),
        3 if depth < NESTING_MAX => Ok(OpReply::Txn(get_txn(r, depth + 1)?)),
        _ => Err(Malformed { what: "reply to an operation" }),
    }
}

impl Wire for TxnReply {
    fn put(&self, out: &mut Vec<u8>) {
        self.revision.put(out);
        self.succeeded.put(out);
        self.replies.put(out);
    }
    fn get(r: &mut Reader) -> Result<Self, Malformed> {
        get_txn(r, 0)
    }
}

impl Wire for OpReply {
    fn put(&self, out: &mut Vec<u8>) {
        match self {
            Self::Range(reply) => tagged(0, reply, out),
            Self::Put(reply) => tagged(1, reply, out),
            Self::DeleteRange(reply) => tagged(2, reply, out),
            Self::Txn(reply) => tagged(3, reply, out),
        }
    }
    fn get(r: &mut Reader) -> Result<Self, Malformed> {
        get_op(r, 0)
    }
}

fn tagged<T: Wire>(tag: u8, value: &T, out: &mut Vec<u8>) {
    out.push(tag);
    value.put(out);
}

impl Wire for Reply {
    fn put(&self, out: &mut Vec<u8>) {
        out.push(FORMAT);
        match self {
            Self::Refused(error) => tagged(0, error, out),
            Self::Put(reply) => tagged(1, reply, out),
            Self::DeleteRange(reply) => tagged(2, reply, out),
            Self::Txn(reply) => tagged(3, reply, out),
            Self::Done { revision } => tagged(4, revision, out),
            Self::LeaseGranted { revision, id, ttl_s } => tagged(5, &(*revision, *id, *ttl_s), out),
            Self::LeasesRenewed { revision, ttls_s } => {
                tagged(6, revision, out);
                ttls_s.put(out);
            }
            Self::LeasesExpired { revision, ids } => {
                tagged(7, revision, out);
                ids.put(out);
            }
            Self::Alarms { revision, alarms } => {
                tagged(8, revision, out);
                alarms.put(out);
            }
            Self::Read(answer) => tagged(9, answer, out),
        }
    }
    fn get(r: &mut Reader) -> Result<Self, Malformed> {
        if r.byte()? != FORMAT {
            return Err(Malformed { what: "version of a reply" });
        }
        Ok(match r.byte()? {
            0 => Self::Refused(Wire::get(r)?),
            1 => Self::Put(Wire::get(r)?),
            2 => Self::DeleteRange(Wire::get(r)?),
            3 => Self::Txn(Wire::get(r)?),
            4 => Self::Done { revision: Wire::get(r)? },
            5 => Self::LeaseGranted { revision: Wire::get(r)?, id: Wire::get(r)?, ttl_s: Wire::get(r)? },
            6 => Self::LeasesRenewed { revision: Wire::get(r)?, ttls_s: Wire::get(r)? },
            7 => Self::LeasesExpired { revision: Wire::get(r)?, ids: Wire::get(r)? },
            8 => Self::Alarms { revision: Wire::get(r)?, alarms: Wire::get(r)? },
            9 => Self::Read(Wire::get(r)?),
            _ => return Err(Malformed { what: "reply" }),
        })
    }
}

wire_enum!(Answer {
    0 => Refused(error), 1 => Range(range), 2 => Txn(txn), 3 => Lease(lease), 4 => Leases { revision, ids },
    5 => Alarms { revision, alarms }, 6 => Status(status), 7 => Hash(hash),
    8 => Names { revision, names }, 9 => Role { revision, permissions }, 10 => Auth(status),
});
wire_struct!(PutReply { revision, prev_kv });
wire_struct!(DeleteReply { revision, deleted, prev_kvs });
wire_struct!(RangeAnswer { revision, kvs, more, count });
wire_struct!(LeaseAnswer { revision, id, ttl_s, granted_ttl_s, keys });
wire_struct!(Status { revision, compacted, keys, leases, used_bytes, quota_bytes, alarms });
wire_struct!(HashAnswer { revision, hash_revision, compacted, hash });

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::AlarmKind;

    #[test]
    fn replies_survive_the_wire_and_truncations_are_malformed() {
        let revision = Revision(77);
        let kv = KeyValue { key: Bytes::from_static(b"k"), value: Bytes::from_static(b"v"), version: 3, ..KeyValue::default() };
        let put = PutReply { revision, prev_kv: Some(kv.clone()) };
        let delete = DeleteReply { revision, deleted: 1, prev_kvs: vec![kv.clone()] };
        let range = RangeAnswer { revision, kvs: vec![kv], more: true, count: 9 };
        let inner = TxnReply { replies: vec![OpReply::DeleteRange(delete.clone())], ..TxnReply::default() };
        let txn = TxnReply { revision, succeeded: true, replies: vec![OpReply::Range(range.clone()), OpReply::Txn(inner)] };
        let alarms = vec![Alarm { member: 0, kind: AlarmKind::NoSpace }];
        let lease = LeaseAnswer { id: LeaseId(4), keys: vec![Bytes::from_static(b"k")], ..LeaseAnswer::default() };
        let answers = [
            Answer::Refused(KvError::Compacted),
            Answer::Range(range),
            Answer::Txn(txn.clone()),
            Answer::Lease(lease),
            Answer::Leases { revision, ids: vec![LeaseId(1)] },
            Answer::Alarms { revision, alarms: alarms.clone() },
            Answer::Status(Status { alarms: alarms.clone(), ..Status::default() }),
            Answer::Hash(HashAnswer { hash: u64::MAX, ..HashAnswer::default() }),
            Answer::Names { revision, names: vec!["alice".into()] },
            Answer::Role { revision, permissions: vec![] },
            Answer::Auth(AuthStatus::default()),
        ];
        let replies = [
            Reply::Refused(KvError::NoSpace),
            Reply::Put(put),
            Reply::DeleteRange(delete),
            Reply::Txn(txn),
            Reply::Done { revision },
            Reply::LeaseGranted { revision, id: LeaseId(1), ttl_s: 9 },
            Reply::LeasesRenewed { revision, ttls_s: vec![0, 9] },
            Reply::LeasesExpired { revision, ids: vec![LeaseId(1)] },
            Reply::Alarms { revision, alarms },
        ];
        for reply in replies.into_iter().chain(answers.into_iter().map(Reply::Read)) {
            let bytes = reply.to_bytes();
            assert_eq!(Reply::from_bytes(&bytes), Ok(reply.clone()));
            for n in 0..bytes.len() {
                assert!(Reply::from_bytes(&bytes.slice(..n)).is_err(), "{reply:?} cut to {n}");
            }
        }
    }
}
