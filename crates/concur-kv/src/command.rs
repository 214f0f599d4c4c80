//! What is asked of the store: commands, which are decided and executed everywhere, and queries, which one replica answers.
//!
//! Plain data with a compact encoding. The first byte is the format's version; a node reads every version before its own. What has to
//! do with users and roles is written in the second version, everything else as before there were any.

use crate::auth::{Asker, AuthCommand, COMMAND_AS, QUERY_AS, put_account};
use crate::{LeaseId, Revision};
use bytes::Bytes;
use concur_core::wire::put_varint;
use concur_core::{Malformed, Reader, Wire, wire_enum, wire_struct};

/// The version of the encoding of commands, queries and their answers.
pub(crate) const FORMAT: u8 = 1;

/// The version that knows users and roles.
pub(crate) const FORMAT_AUTH: u8 = 2;

const AUTH: u8 = 14;

/// A change to be decided, and executed by every replica in the order decided.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// Writes one key.
    Put(Put),
    /// Deletes a key or a range of keys.
    DeleteRange(DeleteRange),
    /// Compares, then executes one of two lists of operations, all at one revision.
    Txn(Txn),
    /// Forgets the history below a revision.
    Compact {
        /// The oldest revision that can be read from then on.
        revision: Revision,
    },
    /// Grants a lease.
    LeaseGrant {
        /// Its id, picked by the proposer if the client did not.
        id: LeaseId,
        /// Its time to live in seconds, raised by the proposer to the least that the cluster can keep.
        ttl_s: i64,
    },
    /// Ends a lease and deletes its keys, in one revision.
    LeaseRevoke {
        /// Which.
        id: LeaseId,
    },
    /// Keeps leases alive: each has its whole time to live from the logged time on.
    LeaseRenew {
        /// Which.
        ids: Vec<LeaseId>,
    },
    /// Ends those of these leases that nobody renewed since they were seen to be due; a revision each, if it has keys.
    LeaseExpire {
        /// Leases as [`Kv::expired`](crate::Kv::expired) gave them.
        leases: Vec<DueLease>,
    },
    /// Stops the leases' clock for a while that has passed: what nobody could renew, as the cluster had no leader, does not expire.
    LeaseGrace {
        /// For how long.
        by_ms: u64,
    },
    /// Arms an alarm of a member.
    AlarmArm {
        /// Which.
        alarm: Alarm,
    },
    /// Disarms an alarm of a member.
    AlarmDisarm {
        /// Which.
        alarm: Alarm,
    },
    /// Sets the quota.
    SetQuota {
        /// How large the store may become.
        quota_bytes: u64,
    },
    /// In a namespace ordered per key: forgets which keys were deleted. Keys created later start above every forgotten version.
    Forget,
    /// A read that is decided like a command.
    Read(Query),
    /// A change of users and roles.
    Auth(AuthCommand),
    /// A command on somebody's account. It is not on another's again.
    As {
        /// Who asks.
        asker: Asker,
        /// For what.
        command: Box<Command>,
    },
}

/// A question that one replica answers from its state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Query {
    /// Keys in a range.
    Range(RangeQuery),
    /// A transaction that writes nothing.
    Txn(Txn),
    /// How long a lease has to live.
    LeaseTimeToLive {
        /// Which.
        id: LeaseId,
        /// Whether to list its keys.
        keys: bool,
        /// The time of the question.
        now_ms: u64,
    },
    /// All leases, those due first in front.
    Leases,
    /// The alarms that are armed.
    Alarms,
    /// A summary of the store.
    Status,
    /// A hash of the history up to a revision.
    HashAt {
        /// Which; 0 is the current one.
        revision: Revision,
    },
    /// A user's roles.
    User {
        /// The name.
        name: String,
    },
    /// The names of all users.
    Users,
    /// What a role permits.
    Role {
        /// The name.
        name: String,
    },
    /// The names of all roles.
    Roles,
    /// Whether auth is on.
    AuthStatus,
    /// A query on somebody's account. It is not on another's again.
    As {
        /// Who asks.
        asker: Asker,
        /// For what.
        query: Box<Query>,
    },
}

/// Writes one key. Without a lease it detaches the key from the one it had.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Put {
    /// The key; never empty.
    pub key: Bytes,
    /// The value.
    pub value: Bytes,
    /// The lease to attach the key to.
    pub lease: LeaseId,
    /// Whether to answer with the version before.
    pub prev_kv: bool,
    /// Keep the value; the key must exist.
    pub ignore_value: bool,
    /// Keep the lease; the key must exist.
    pub ignore_lease: bool,
}

/// Deletes a key or a range of keys.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct DeleteRange {
    /// The key, or the first of the range; never empty.
    pub key: Bytes,
    /// The key behind the last; empty for one key, `\0` for every key from the first on.
    pub range_end: Bytes,
    /// Whether to answer with what was deleted.
    pub prev_kv: bool,
}

/// Reads a key or a range of keys.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RangeQuery {
    /// The key, or the first of the range; never empty.
    pub key: Bytes,
    /// The key behind the last; empty for one key, `\0` for every key from the first on.
    pub range_end: Bytes,
    /// How many to answer with at most; 0 is all.
    pub limit: i64,
    /// At which revision; 0 is the current one.
    pub revision: Revision,
    /// In which order.
    pub sort_order: SortOrder,
    /// By what.
    pub sort_target: SortTarget,
    /// Leave the values out.
    pub keys_only: bool,
    /// Only count.
    pub count_only: bool,
    /// Only those modified here or later; 0 is no bound, as below.
    pub min_mod_revision: Revision,
    /// Only those modified here or earlier.
    pub max_mod_revision: Revision,
    /// Only those created here or later.
    pub min_create_revision: Revision,
    /// Only those created here or earlier.
    pub max_create_revision: Revision,
}

/// In which order a range is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum SortOrder {
    /// By key, or ascending if another target is named.
    #[default]
    None,
    /// Smallest first.
    Ascend,
    /// Largest first.
    Descend,
}

/// By what a range is sorted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum SortTarget {
    /// The key.
    #[default]
    Key,
    /// The version.
    Version,
    /// The create revision.
    Create,
    /// The revision.
    Mod,
    /// The value.
    Value,
}

/// Compares, then executes one of two lists of operations.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Txn {
    /// All must hold.
    pub compare: Vec<Compare>,
    /// What is executed if they do.
    pub success: Vec<Op>,
    /// What is executed otherwise.
    pub failure: Vec<Op>,
}

/// One operation of a transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Op {
    /// Reads, and sees what the transaction wrote before.
    Range(RangeQuery),
    /// Writes.
    Put(Put),
    /// Deletes.
    DeleteRange(DeleteRange),
    /// A transaction inside; its compares are judged before anything is executed.
    Txn(Txn),
}

/// A condition on a key, or on each key of a range.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Compare {
    /// The key; never empty.
    pub key: Bytes,
    /// The end of the range, as in [`RangeQuery::range_end`].
    pub range_end: Bytes,
    /// How what is stored must relate to `target`.
    pub relation: Relation,
    /// What it is compared with.
    pub target: Target,
}

/// How what is stored must relate to what is given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Relation {
    /// The same.
    Equal,
    /// What is stored is greater.
    Greater,
    /// What is stored is less.
    Less,
    /// Not the same.
    NotEqual,
}

/// What a compare looks at, and the value that it gives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// The version; a missing key has 0.
    Version(i64),
    /// The create revision; a missing key has 0.
    Create(Revision),
    /// The revision; a missing key has 0.
    Mod(Revision),
    /// The value; any compare with a missing key's is false.
    Value(Bytes),
    /// The lease; a missing key has 0.
    Lease(LeaseId),
}

/// A lease that was seen to be due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DueLease {
    /// Which.
    pub id: LeaseId,
    /// How often it had been renewed.
    pub renewals: u64,
}

/// An alarm of a member.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Alarm {
    /// The member; 0 if the store armed it by itself.
    pub member: u64,
    /// Which alarm.
    pub kind: AlarmKind,
}

/// What an alarm is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum AlarmKind {
    /// The quota is exceeded: nothing that takes space is accepted.
    NoSpace,
    /// A member's data is corrupt: nothing is accepted.
    Corrupt,
}

/// How deep transactions nest at most, whatever the limit of operations: what keeps decoding within the stack.
pub(crate) const NESTING_MAX: usize = 128;

impl Txn {
    /// Whether no operation writes.
    pub fn is_read_only(&self) -> bool {
        self.success.iter().chain(&self.failure).all(|op| match op {
            Op::Range(_) => true,
            Op::Put(_) | Op::DeleteRange(_) => false,
            Op::Txn(txn) => txn.is_read_only(),
        })
    }

    fn read(r: &mut Reader, depth: usize) -> Result<Self, Malformed> {
        Ok(Self { compare: Wire::get(r)?, success: read_ops(r, depth)?, failure: read_ops(r, depth)? })
    }
}

fn read_ops(r: &mut Reader, depth: usize) -> Result<Vec<Op>, Malformed> {
    let count = r.count(1)?;
    (0..count).map(|_| Op::read(r, depth)).collect()
}

impl Op {
    fn read(r: &mut Reader, depth: usize) -> Result<Self, Malformed> {
        match r.byte()? {
            0 => Ok(Self::Range(Wire::get(r)?)),
            1 => Ok(Self::Put(Wire::get(r)?)),
            2 => Ok(Self::DeleteRange(Wire::get(r)?)),
            3 if depth < NESTING_MAX => Ok(Self::Txn(Txn::read(r, depth + 1)?)),
            _ => Err(Malformed { what: "operation" }),
        }
    }
}

impl Wire for Txn {
    fn put(&self, out: &mut Vec<u8>) {
        self.compare.put(out);
        self.success.put(out);
        self.failure.put(out);
    }
    fn get(r: &mut Reader) -> Result<Self, Malformed> {
        Self::read(r, 0)
    }
}

impl Wire for Op {
    fn put(&self, out: &mut Vec<u8>) {
        match self {
            Self::Range(range) => tagged(0, range, out),
            Self::Put(put) => tagged(1, put, out),
            Self::DeleteRange(delete) => tagged(2, delete, out),
            Self::Txn(txn) => tagged(3, txn, out),
        }
    }
    fn get(r: &mut Reader) -> Result<Self, Malformed> {
        Self::read(r, 0)
    }
}

fn tagged<T: Wire>(tag: u8, value: &T, out: &mut Vec<u8>) {
    out.push(tag);
    value.put(out);
}

/// Small signed numbers in few bytes.
fn put_signed(value: i64, out: &mut Vec<u8>) {
    put_varint(((value << 1) ^ (value >> 63)) as u64, out);
}

fn get_signed(r: &mut Reader) -> Result<i64, Malformed> {
    let folded = r.varint()?;
    Ok((folded >> 1) as i64 ^ -((folded & 1) as i64))
}

// Put is what most commands are: its flags share a byte.
impl Wire for Put {
    fn put(&self, out: &mut Vec<u8>) {
        let flags = u8::from(self.prev_kv) | u8::from(self.ignore_value) << 1 | u8::from(self.ignore_lease) << 2;
        out.push(flags);
        put_signed(self.lease.0, out);
        self.key.put(out);
        self.value.put(out);
    }
    fn get(r: &mut Reader) -> Result<Self, Malformed> {
        let flags = r.byte()?;
        if flags > 7 {
            return Err(Malformed { what: "put" });
        }
        let lease = LeaseId(get_signed(r)?);
        let (key, value) = (Bytes::get(r)?, Bytes::get(r)?);
        Ok(Self { key, value, lease, prev_kv: flags & 1 != 0, ignore_value: flags & 2 != 0, ignore_lease: flags & 4 != 0 })
    }
}

// Most ranges use few of the fields: a bit mask says which of the numbers follow.
impl Wire for RangeQuery {
    fn put(&self, out: &mut Vec<u8>) {
        let numbers = self.numbers();
        let mask = numbers.iter().enumerate().fold(0u8, |mask, (i, &n)| mask | u8::from(n != 0) << i);
        out.push(u8::from(self.keys_only) | u8::from(self.count_only) << 1);
        out.push(mask);
        self.sort_order.put(out);
        self.sort_target.put(out);
        for number in numbers.into_iter().filter(|&n| n != 0) {
            put_signed(number, out);
        }
        self.key.put(out);
        self.range_end.put(out);
    }
    fn get(r: &mut Reader) -> Result<Self, Malformed> {
        let (flags, mask) = (r.byte()?, r.byte()?);
        if flags > 3 || mask >= 1 << 6 {
            return Err(Malformed { what: "range" });
        }
        let (sort_order, sort_target) = (Wire::get(r)?, Wire::get(r)?);
        let mut numbers = [0; 6];
        for (_, number) in numbers.iter_mut().enumerate().filter(|(i, _)| mask & 1 << i != 0) {
            *number = get_signed(r)?;
        }
        let [limit, revision, min_mod, max_mod, min_create, max_create] = numbers;
        Ok(Self {
            key: Wire::get(r)?,
            range_end: Wire::get(r)?,
            limit,
            revision: Revision(revision),
            sort_order,
            sort_target,
            keys_only: flags & 1 != 0,
            count_only: flags & 2 != 0,
            min_mod_revision: Revision(min_mod),
            max_mod_revision: Revision(max_mod),
            min_create_revision: Revision(min_create),
            max_create_revision: Revision(max_create),
        })
    }
}

impl RangeQuery {
    fn numbers(&self) -> [i64; 6] {
        [
            self.limit,
            self.revision.0,
            self.min_mod_revision.0,
            self.max_mod_revision.0,
            self.min_create_revision.0,
            self.max_create_revision.0,
        ]
    }
}

impl Wire for Command {
    fn put(&self, out: &mut Vec<u8>) {
        match self {
            Self::Auth(command) => {
                out.push(FORMAT_AUTH);
                return tagged(AUTH, command, out);
            }
            Self::As { asker, command } => {
                put_account(COMMAND_AS, asker, out);
                return command.put(out);
            }
            _ => out.push(FORMAT),
        }
        match self {
            Self::Put(put) => tagged(0, put, out),
            Self::DeleteRange(delete) => tagged(1, delete, out),
            Self::Txn(txn) => tagged(2, txn, out),
            Self::Compact { revision } => tagged(3, revision, out),
            Self::LeaseGrant { id, ttl_s } => tagged(4, &(*id, *ttl_s), out),
            Self::LeaseRevoke { id } => tagged(5, id, out),
            Self::LeaseRenew { ids } => tagged(6, ids, out),
            Self::LeaseExpire { leases } => tagged(7, leases, out),
            Self::LeaseGrace { by_ms } => tagged(8, by_ms, out),
            Self::AlarmArm { alarm } => tagged(9, alarm, out),
            Self::AlarmDisarm { alarm } => tagged(10, alarm, out),
            Self::SetQuota { quota_bytes } => tagged(11, quota_bytes, out),
            Self::Forget => out.push(12),
            Self::Read(query) => tagged(13, query, out),
            Self::Auth(_) | Self::As { .. } => {}
        }
    }
    fn get(r: &mut Reader) -> Result<Self, Malformed> {
        Self::read(r, true)
    }
}

impl Command {
    fn read(r: &mut Reader, outermost: bool) -> Result<Self, Malformed> {
        let (format, tag) = (r.byte()?, r.byte()?);
        Ok(match (format, tag) {
            (FORMAT, 0) => Self::Put(Wire::get(r)?),
            (FORMAT, 1) => Self::DeleteRange(Wire::get(r)?),
            (FORMAT, 2) => Self::Txn(Wire::get(r)?),
            (FORMAT, 3) => Self::Compact { revision: Wire::get(r)? },
            (FORMAT, 4) => Self::LeaseGrant { id: Wire::get(r)?, ttl_s: Wire::get(r)? },
            (FORMAT, 5) => Self::LeaseRevoke { id: Wire::get(r)? },
            (FORMAT, 6) => Self::LeaseRenew { ids: Wire::get(r)? },
            (FORMAT, 7) => Self::LeaseExpire { leases: Wire::get(r)? },
            (FORMAT, 8) => Self::LeaseGrace { by_ms: Wire::get(r)? },
            (FORMAT, 9) => Self::AlarmArm { alarm: Wire::get(r)? },
            (FORMAT, 10) => Self::AlarmDisarm { alarm: Wire::get(r)? },
            (FORMAT, 11) => Self::SetQuota { quota_bytes: Wire::get(r)? },
            (FORMAT, 12) => Self::Forget,
            (FORMAT, 13) => Self::Read(Query::read(r, false)?),
            (FORMAT_AUTH, AUTH) => Self::Auth(Wire::get(r)?),
            (FORMAT_AUTH, COMMAND_AS) if outermost => Self::As { asker: Wire::get(r)?, command: Box::new(Self::read(r, false)?) },
            (FORMAT | FORMAT_AUTH, _) => return Err(Malformed { what: "command" }),
            _ => return Err(Malformed { what: "version of a command" }),
        })
    }
}

impl Wire for Query {
    fn put(&self, out: &mut Vec<u8>) {
        let auth = matches!(self, Self::User { .. } | Self::Users | Self::Role { .. } | Self::Roles | Self::AuthStatus);
        if let Self::As { asker, query } = self {
            put_account(QUERY_AS, asker, out);
            return query.put(out);
        }
        out.push(if auth { FORMAT_AUTH } else { FORMAT });
        match self {
            Self::Range(range) => tagged(0, range, out),
            Self::Txn(txn) => tagged(1, txn, out),
            Self::LeaseTimeToLive { id, keys, now_ms } => tagged(2, &(*id, *keys, *now_ms), out),
            Self::Leases => out.push(3),
            Self::Alarms => out.push(4),
            Self::Status => out.push(5),
            Self::HashAt { revision } => tagged(6, revision, out),
            Self::User { name } => tagged(7, name, out),
            Self::Users => out.push(8),
            Self::Role { name } => tagged(9, name, out),
            Self::Roles => out.push(10),
            Self::AuthStatus => out.push(11),
            Self::As { .. } => {}
        }
    }
    fn get(r: &mut Reader) -> Result<Self, Malformed> {
        Self::read(r, true)
    }
}

impl Query {
    fn read(r: &mut Reader, outermost: bool) -> Result<Self, Malformed> {
        let (format, tag) = (r.byte()?, r.byte()?);
        Ok(match (format, tag) {
            (FORMAT, 0) => Self::Range(Wire::get(r)?),
            (FORMAT, 1) => Self::Txn(Wire::get(r)?),
            (FORMAT, 2) => Self::LeaseTimeToLive { id: Wire::get(r)?, keys: Wire::get(r)?, now_ms: Wire::get(r)? },
            (FORMAT, 3) => Self::Leases,
            (FORMAT, 4) => Self::Alarms,
            (FORMAT, 5) => Self::Status,
            (FORMAT, 6) => Self::HashAt { revision: Wire::get(r)? },
            (FORMAT_AUTH, 7) => Self::User { name: Wire::get(r)? },
            (FORMAT_AUTH, 8) => Self::Users,
            (FORMAT_AUTH, 9) => Self::Role { name: Wire::get(r)? },
            (FORMAT_AUTH, 10) => Self::Roles,
            (FORMAT_AUTH, 11) => Self::AuthStatus,
            (FORMAT_AUTH, QUERY_AS) if outermost => Self::As { asker: Wire::get(r)?, query: Box::new(Self::read(r, false)?) },
            (FORMAT | FORMAT_AUTH, _) => return Err(Malformed { what: "query" }),
            _ => return Err(Malformed { what: "version of a query" }),
        })
    }
}

wire_struct!(DeleteRange { key, range_end, prev_kv });
wire_struct!(Compare { key, range_end, relation, target });
wire_struct!(DueLease { id, renewals });
wire_struct!(Alarm { member, kind });
wire_enum!(SortOrder { 0 => None, 1 => Ascend, 2 => Descend });
wire_enum!(SortTarget { 0 => Key, 1 => Version, 2 => Create, 3 => Mod, 4 => Value });
wire_enum!(Relation { 0 => Equal, 1 => Greater, 2 => Less, 3 => NotEqual });
wire_enum!(Target { 0 => Version(version), 1 => Create(revision), 2 => Mod(revision), 3 => Value(value), 4 => Lease(lease) });
wire_enum!(AlarmKind { 0 => NoSpace, 1 => Corrupt });

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Access, AuthRevision, Permission};

    fn samples() -> Vec<Command> {
        let key = Bytes::from_static(b"key");
        let put = Put { key: key.clone(), value: Bytes::from_static(b"v"), lease: LeaseId(-7), prev_kv: true, ..Put::default() };
        let delete = DeleteRange { key: key.clone(), range_end: Bytes::from_static(b"\0"), prev_kv: true };
        let range = RangeQuery {
            key: key.clone(),
            limit: 5,
            revision: Revision(-1),
            sort_order: SortOrder::Descend,
            sort_target: SortTarget::Value,
            keys_only: true,
            max_create_revision: Revision(900),
            ..RangeQuery::default()
        };
        let compare = |target| Compare { key: key.clone(), range_end: Bytes::new(), relation: Relation::NotEqual, target };
        let inner = Txn { success: vec![Op::Put(put.clone())], ..Txn::default() };
        let txn = Txn {
            compare: vec![
                compare(Target::Version(1)),
                compare(Target::Create(Revision(2))),
                compare(Target::Mod(Revision(3))),
                compare(Target::Value(key.clone())),
                compare(Target::Lease(LeaseId(4))),
            ],
            success: vec![Op::Range(range.clone()), Op::Txn(inner)],
            failure: vec![Op::DeleteRange(delete.clone())],
        };
        let alarm = Alarm { member: 3, kind: AlarmKind::Corrupt };
        vec![
            Command::Put(put),
            Command::DeleteRange(delete),
            Command::Txn(txn.clone()),
            Command::Compact { revision: Revision(9) },
            Command::LeaseGrant { id: LeaseId(i64::MAX), ttl_s: 60 },
            Command::LeaseRevoke { id: LeaseId(1) },
            Command::LeaseRenew { ids: vec![LeaseId(1), LeaseId(2)] },
            Command::LeaseExpire { leases: vec![DueLease { id: LeaseId(1), renewals: 300 }] },
            Command::LeaseGrace { by_ms: 1 },
            Command::AlarmArm { alarm },
            Command::AlarmDisarm { alarm },
            Command::SetQuota { quota_bytes: u64::MAX },
            Command::Forget,
            Command::Read(Query::Range(range)),
            Command::Read(Query::Txn(txn)),
            Command::Read(Query::LeaseTimeToLive { id: LeaseId(1), keys: true, now_ms: 12 }),
            Command::Read(Query::Leases),
            Command::Read(Query::Alarms),
            Command::Read(Query::Status),
            Command::Read(Query::HashAt { revision: Revision(3) }),
            Command::Read(Query::User { name: "alice".into() }),
            Command::Read(Query::AuthStatus),
        ]
        .into_iter()
        .chain(auth_samples().into_iter().map(Command::Auth))
        .chain([Command::Forget.by_node()])
        .collect()
    }

    fn auth_samples() -> Vec<AuthCommand> {
        let (name, role, key) = ("alice".to_owned(), "readers".to_owned(), Bytes::from_static(b"k"));
        let permission = Permission { access: Access::ReadWrite, key: key.clone(), range_end: Bytes::from_static(b"\0") };
        vec![
            AuthCommand::Enable,
            AuthCommand::Disable,
            AuthCommand::Authenticate { user: name.clone(), token: key.clone(), revision: AuthRevision(300) },
            AuthCommand::UserAdd { name: name.clone(), password: key.clone(), no_password: true },
            AuthCommand::UserDelete { name: name.clone() },
            AuthCommand::UserChangePassword { name: name.clone(), password: key.clone() },
            AuthCommand::UserGrantRole { name: name.clone(), role: role.clone() },
            AuthCommand::UserRevokeRole { name, role: role.clone() },
            AuthCommand::RoleAdd { name: role.clone() },
            AuthCommand::RoleDelete { name: role.clone() },
            AuthCommand::RoleGrantPermission { name: role.clone(), permission: Some(permission) },
            AuthCommand::RoleRevokePermission { name: role, key, range_end: Bytes::new() },
        ]
    }

    #[test]
    fn commands_survive_the_wire_and_truncations_are_malformed() {
        for command in samples() {
            let bytes = command.to_bytes();
            assert_eq!(Command::from_bytes(&bytes), Ok(command.clone()));
            for n in 0..bytes.len() {
                assert!(Command::from_bytes(&bytes.slice(..n)).is_err(), "{command:?} cut to {n}");
            }
        }
    }

    #[test]
    fn a_transaction_nested_too_deep_is_malformed_and_takes_no_stack() {
        let mut bytes = vec![FORMAT, 2];
        for _ in 0..500_000 {
            bytes.extend([0, 1, 3]); // no compare, one operation on success: a transaction
        }
        assert!(Command::from_bytes(&Bytes::from(bytes)).is_err());
    }
}
