//! What clients send: each operation as bytes that no other operation has, so that what was executed can be told apart.

use crate::schedule::{Act, Operation};
use crate::witness::key;
use bytes::Bytes;
use concur_core::{Footprint, Span, Wire};
use concur_kv::{Command, Compare, DeleteRange, Op, Put, Query, RangeQuery, Relation, Revision, Target, Txn};

/// The name of an operation in a run: its client, and its number there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct OpId {
    pub(crate) client: u16,
    pub(crate) number: u32,
}

impl std::fmt::Display for OpId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "c{}.{}", self.client, self.number)
    }
}

impl Act {
    /// Whether it is a read.
    pub(crate) fn is_read(self) -> bool {
        matches!(self, Act::Get | Act::GetAll | Act::Peek)
    }
}

/// The keys that an operation touches.
pub(crate) fn keys(operation: &Operation, keys: u8) -> std::ops::Range<u8> {
    match operation.act {
        Act::PutTwo => operation.key..operation.key + 2,
        Act::GetAll => 0..keys + 1,
        _ => operation.key..operation.key + 1,
    }
}

/// The command of an operation that writes. `seen` is the revision of the key that the client saw last, 0 if it saw none.
pub(crate) fn command(id: OpId, operation: &Operation, seen: Revision) -> Bytes {
    let value = Bytes::from(format!("{id}{:.<width$}", "", width = usize::from(operation.padding)));
    let put = |number: u8| Put { key: key(number), value: value.clone(), ..Put::default() };
    let compare = |relation, target| Compare { key: key(operation.key), range_end: Bytes::new(), relation, target };
    let command = match operation.act {
        Act::Put => Command::Put(put(operation.key)),
        Act::Swap => Command::Txn(Txn {
            compare: vec![compare(Relation::Equal, Target::Mod(seen))],
            success: vec![Op::Put(put(operation.key))],
            failure: vec![
                Op::Range(RangeQuery { key: key(operation.key), ..RangeQuery::default() }),
                // Never true; makes the bytes unlike any other's.
                Op::Txn(Txn { compare: vec![compare(Relation::Equal, Target::Value(value.clone()))], ..Txn::default() }),
            ],
        }),
        Act::PutTwo => Command::Txn(Txn {
            compare: vec![],
            success: vec![Op::Put(put(operation.key)), Op::Put(put(operation.key + 1))],
            failure: vec![],
        }),
        Act::Delete => {
            let delete = Op::DeleteRange(DeleteRange { key: key(operation.key), range_end: Bytes::new(), prev_kv: true });
            let compare = vec![compare(Relation::NotEqual, Target::Value(value.clone()))];
            Command::Txn(Txn { compare, success: vec![delete.clone()], failure: vec![delete] })
        }
        Act::Get | Act::GetAll | Act::Peek => unreachable!("reads are queries"),
    };
    command.to_bytes()
}

/// The query of an operation that reads. The limit is out of reach and names the attempt.
pub(crate) fn query(id: OpId, attempt: u32, operation: &Operation) -> Bytes {
    let range_end = if operation.act == Act::GetAll { Bytes::from_static(b"l") } else { Bytes::new() };
    let first = if operation.act == Act::GetAll { key(0) } else { key(operation.key) };
    let limit = 1 + ((i64::from(id.client) << 40) | (i64::from(id.number) << 16) | i64::from(attempt & 0xffff)) + (1 << 56);
    Query::Range(RangeQuery { key: first, range_end, limit, ..RangeQuery::default() }).to_bytes()
}

/// What an operation that reads touches.
pub(crate) fn footprint(operation: &Operation) -> Footprint {
    match operation.act {
        Act::GetAll => Footprint::Spans { reads: vec![Span::Range { start: key(0), end: Bytes::from_static(b"l") }], writes: Vec::new() },
        _ => Footprint::read(key(operation.key)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn no_two_operations_have_the_same_bytes() {
        let mut seen = std::collections::BTreeSet::new();
        for client in 0..3 {
            for number in 0..3 {
                for act in [Act::Put, Act::Swap, Act::PutTwo, Act::Delete] {
                    let operation = Operation { number, act, key: 1, think: Duration::ZERO, padding: 0 };
                    assert!(seen.insert(command(OpId { client, number }, &operation, Revision(0))));
                }
            }
        }
        for attempt in 0..4 {
            let operation = Operation { number: 0, act: Act::Get, key: 1, think: Duration::ZERO, padding: 0 };
            assert!(seen.insert(query(OpId { client: 0, number: 0 }, attempt, &operation)));
        }
    }
}
