//! What can be said of a request without looking at the store.
//!
//! The front door calls [`check`] before it proposes, and executing a command calls it again: what was decided may come from a
//! node that does not check. The order of the checks is part of the API, as a request can be wrong in two ways at once.
//!
//! What depends on the state (a key that must exist, a lease, a revision) is judged when the command is executed.

use crate::command::{Command, DeleteRange, Op, Put, Query, RangeQuery, Txn};
use crate::{KvError, LeaseId};
use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;

/// How many operations a transaction may have in each of its lists, unless configured otherwise.
pub const TXN_OPS_MAX: usize = 128;

/// The largest time to live of a lease, in seconds.
pub const LEASE_TTL_MAX_S: i64 = 9_000_000_000;

/// Checks a command that is about to be proposed or executed.
pub fn check(command: &Command, txn_ops_max: usize) -> Result<(), KvError> {
    match command {
        Command::Put(put) => check_put(put),
        Command::DeleteRange(delete) => check_delete(delete),
        Command::Txn(txn) => check_txn(txn, txn_ops_max),
        Command::LeaseGrant { id: LeaseId::NONE, .. } => Err(KvError::LeaseNotFound),
        Command::LeaseGrant { ttl_s, .. } if *ttl_s > LEASE_TTL_MAX_S => Err(KvError::LeaseTtlTooLarge),
        Command::Read(query) => check_query(query, txn_ops_max),
        Command::As { command, .. } => match **command {
            Command::As { .. } => Err(KvError::Malformed),
            ref command => check(command, txn_ops_max),
        },
        _ => Ok(()),
    }
}

/// Checks a query.
pub fn check_query(query: &Query, txn_ops_max: usize) -> Result<(), KvError> {
    match query {
        Query::Range(range) => check_range(range),
        Query::Txn(txn) if !txn.is_read_only() => Err(KvError::NotReadOnly),
        Query::Txn(txn) => check_txn(txn, txn_ops_max),
        _ => Ok(()),
    }
}

/// Checks a range.
pub fn check_range(range: &RangeQuery) -> Result<(), KvError> {
    has_key(&range.key)
}

fn check_put(put: &Put) -> Result<(), KvError> {
    has_key(&put.key)?;
    if put.ignore_value && !put.value.is_empty() {
        return Err(KvError::ValueProvided);
    }
    if put.ignore_lease && put.lease != LeaseId::NONE {
        return Err(KvError::LeaseProvided);
    }
    Ok(())
}

fn check_delete(delete: &DeleteRange) -> Result<(), KvError> {
    has_key(&delete.key)
}

fn has_key(key: &Bytes) -> Result<(), KvError> {
    if key.is_empty() { Err(KvError::EmptyKey) } else { Ok(()) }
}

/// Checks a transaction.
pub fn check_txn(txn: &Txn, ops_max: usize) -> Result<(), KvError> {
    check_ops(txn, ops_max)?;
    written_by(&txn.success)?;
    written_by(&txn.failure)?;
    Ok(())
}

/// The longest of the three lists counts; a transaction inside has what that leaves.
fn check_ops(txn: &Txn, ops_max: usize) -> Result<(), KvError> {
    let longest = txn.compare.len().max(txn.success.len()).max(txn.failure.len());
    let left = ops_max.checked_sub(longest).ok_or(KvError::TooManyOps)?;
    txn.compare.iter().try_for_each(|compare| has_key(&compare.key))?;
    txn.success.iter().chain(&txn.failure).try_for_each(|op| match op {
        Op::Range(range) => check_range(range),
        Op::Put(put) => check_put(put),
        Op::DeleteRange(delete) => check_delete(delete),
        Op::Txn(inner) => check_ops(inner, left),
    })
}

/// The keys that a list of operations puts, and what it deletes.
#[derive(Default)]
struct Written<'a> {
    puts: BTreeSet<&'a [u8]>,
    deletes: Intervals<'a>,
}

/// Refuses a key that is put twice, or put and deleted. Two deletes may overlap, and the two lists of one transaction exclude
/// each other. The order is etcd's: a transaction inside is held against the deletes of this list and of those inside before it,
/// then this list's puts against everything.
fn written_by(ops: &[Op]) -> Result<Written<'_>, KvError> {
    let mut written = Written::default();
    for op in ops {
        if let Op::DeleteRange(delete) = op {
            written.deletes.insert(&delete.key, &delete.range_end);
        }
    }
    for op in ops {
        let Op::Txn(inner) = op else { continue };
        let (then, otherwise) = (written_by(&inner.success)?, written_by(&inner.failure)?);
        for key in &then.puts {
            written.put(key)?;
        }
        for key in &otherwise.puts {
            if then.puts.contains(key) {
                continue;
            }
            written.put(key)?;
        }
        written.deletes.join(then.deletes);
        written.deletes.join(otherwise.deletes);
    }
    for op in ops {
        if let Op::Put(put) = op {
            written.put(&put.key)?;
        }
    }
    Ok(written)
}

impl<'a> Written<'a> {
    fn put(&mut self, key: &'a [u8]) -> Result<(), KvError> {
        if self.deletes.contains(key) || !self.puts.insert(key) { Err(KvError::DuplicateKey) } else { Ok(()) }
    }
}

/// Disjoint intervals by their start, so that a transaction of many deletes is not compared pair by pair.
#[derive(Default)]
struct Intervals<'a> {
    ends: BTreeMap<&'a [u8], End<'a>>,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum End<'a> {
    /// The interval is this key alone.
    Within(&'a [u8]),
    /// It ends before this key.
    Before(&'a [u8]),
}

impl<'a> Intervals<'a> {
    // etcd compares `range_end` as it stands: `\0`, every key from the first on, lies below the first key, and such an interval
    // meets nothing, not even its first key. Clients empty a store and fill it again in one transaction that way.
    fn insert(&mut self, start: &'a [u8], range_end: &'a [u8]) {
        match range_end {
            [] => self.add(start, End::Within(start)),
            end if end > start => self.add(start, End::Before(end)),
            _ => {}
        }
    }

    fn add(&mut self, mut start: &'a [u8], mut end: End<'a>) {
        if let Some((&s, &e)) = self.ends.range::<[u8], _>((Bound::Unbounded, Bound::Included(start))).next_back()
            && e.reaches(start)
        {
            (start, end) = (s, end.later(e));
        }
        while let Some((&s, &e)) = self.ends.range::<[u8], _>((Bound::Included(start), Bound::Unbounded)).next()
            && (s == start || end.reaches(s))
        {
            end = end.later(e);
            self.ends.remove(s);
        }
        self.ends.insert(start, end);
    }

    fn join(&mut self, other: Intervals<'a>) {
        for (start, end) in other.ends {
            self.add(start, end);
        }
    }

    fn contains(&self, key: &[u8]) -> bool {
        let before = self.ends.range::<[u8], _>((Bound::Unbounded, Bound::Included(key))).next_back();
        before.is_some_and(|(_, end)| end.reaches(key))
    }
}

impl End<'_> {
    /// Whether an interval with this end and a start at or below `key` contains it.
    fn reaches(self, key: &[u8]) -> bool {
        match self {
            Self::Within(last) => key <= last,
            Self::Before(end) => key < end,
        }
    }

    fn later(self, other: Self) -> Self {
        let (Self::Within(a) | Self::Before(a), Self::Within(b) | Self::Before(b)) = (self, other);
        match a.cmp(b) {
            std::cmp::Ordering::Less => other,
            std::cmp::Ordering::Greater => self,
            // Within a key reaches further than before it.
            std::cmp::Ordering::Equal if matches!(self, Self::Within(_)) => self,
            std::cmp::Ordering::Equal => other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::{Compare, Relation, Target};
    use KvError::{DuplicateKey, EmptyKey, LeaseProvided, TooManyOps, ValueProvided};

    fn bytes(s: &'static str) -> Bytes {
        Bytes::from_static(s.as_bytes())
    }

    fn put(key: &'static str) -> Op {
        Op::Put(Put { key: bytes(key), ..Put::default() })
    }

    fn delete(key: &'static str, range_end: &'static str) -> Op {
        Op::DeleteRange(DeleteRange { key: bytes(key), range_end: bytes(range_end), prev_kv: false })
    }

    fn txn(success: Vec<Op>, failure: Vec<Op>) -> Txn {
        Txn { compare: vec![], success, failure }
    }

    fn verdict(success: Vec<Op>) -> Result<(), KvError> {
        check(&Command::Txn(txn(success, vec![])), TXN_OPS_MAX)
    }

    #[test]
    fn a_key_is_put_once_and_not_in_a_deleted_range() {
        assert_eq!(verdict(vec![put("a"), put("b")]), Ok(()));
        assert_eq!(verdict(vec![put("a"), put("a")]), Err(DuplicateKey));
        assert_eq!(verdict(vec![put("a"), delete("a", "")]), Err(DuplicateKey));
        assert_eq!(verdict(vec![put("b"), delete("a", "c")]), Err(DuplicateKey));
        assert_eq!(verdict(vec![put("c"), delete("a", "c")]), Ok(()));
        assert_eq!(verdict(vec![delete("a", "m"), delete("x", "z"), put("p")]), Ok(()));
        assert_eq!(verdict(vec![delete("a", "m"), delete("k", "z"), put("p")]), Err(DuplicateKey));
    }

    #[test]
    fn overlapping_deletes_are_legal() {
        assert_eq!(verdict(vec![delete("a", "c"), delete("b", "d"), delete("a", "c")]), Ok(()));
    }

    #[test]
    fn a_key_in_then_and_else_is_legal() {
        assert_eq!(check(&Command::Txn(txn(vec![put("a")], vec![put("a")])), TXN_OPS_MAX), Ok(()));
        assert_eq!(verdict(vec![Op::Txn(txn(vec![put("a")], vec![put("a")]))]), Ok(()));
        assert_eq!(verdict(vec![Op::Txn(txn(vec![put("a")], vec![])), put("a")]), Err(DuplicateKey));
        assert_eq!(verdict(vec![Op::Txn(txn(vec![put("a")], vec![])), Op::Txn(txn(vec![], vec![put("a")]))]), Err(DuplicateKey));
        assert_eq!(verdict(vec![delete("a", ""), Op::Txn(txn(vec![], vec![put("a")]))]), Err(DuplicateKey));
        assert_eq!(verdict(vec![Op::Txn(txn(vec![delete("a", "")], vec![put("a")]))]), Ok(()));
    }

    #[test]
    fn a_delete_whose_end_is_not_behind_its_key_forbids_nothing_as_in_etcd() {
        assert_eq!(verdict(vec![delete("\0", "\0"), put("a")]), Ok(()));
        assert_eq!(verdict(vec![delete("a", "\0"), put("a")]), Ok(()));
        assert_eq!(verdict(vec![delete("b", "a"), put("b")]), Ok(()));
        assert_eq!(verdict(vec![delete("a", "a"), put("a")]), Ok(()));
        assert_eq!(verdict(vec![delete("a", "\0"), delete("a", ""), put("a")]), Err(DuplicateKey));
    }

    #[test]
    fn transactions_inside_consume_the_limit() {
        let many = |n: usize| vec![Op::Range(RangeQuery { key: bytes("a"), ..RangeQuery::default() }); n];
        assert_eq!(verdict(many(128)), Ok(()));
        assert_eq!(verdict(many(129)), Err(TooManyOps));
        assert_eq!(check(&Command::Txn(txn(vec![], many(129))), TXN_OPS_MAX), Err(TooManyOps));
        let compares = vec![Compare { key: bytes("a"), range_end: bytes(""), relation: Relation::Equal, target: Target::Version(0) }; 129];
        assert_eq!(check(&Command::Txn(Txn { compare: compares, ..Txn::default() }), TXN_OPS_MAX), Err(TooManyOps));
        assert_eq!(verdict(vec![Op::Txn(txn(many(127), vec![]))]), Ok(()));
        assert_eq!(verdict(vec![Op::Txn(txn(many(128), vec![]))]), Err(TooManyOps));
    }

    #[test]
    fn keys_values_and_leases_are_checked_first() {
        let check = |put: Put| check(&Command::Put(put), TXN_OPS_MAX);
        assert_eq!(check(Put::default()), Err(EmptyKey));
        let a = Put { key: bytes("a"), ..Put::default() };
        assert_eq!(check(Put { ignore_value: true, value: bytes("v"), ..a.clone() }), Err(ValueProvided));
        assert_eq!(check(Put { ignore_lease: true, lease: LeaseId(1), ..a }), Err(LeaseProvided));
        assert_eq!(verdict(vec![put("")]), Err(EmptyKey));
        assert_eq!(verdict(vec![delete("", "\0")]), Err(EmptyKey));
    }
}
