//! What commands read and write.
//!
//! Ordered totally, every write takes the next revision, and so interferes with everything; reads that are decided commute with
//! each other. Ordered per key, puts, deletes and transactions touch the keys that they name. Whatever touches leases, alarms, the
//! quota or time still interferes with everything there: it is rare, deletes keys that it does not name, and reads logged time,
//! which is only the same everywhere for commands that are ordered. Users and roles are such, and so is a put of a user's that names a
//! lease: whether it may depends on the other keys of that lease.

use crate::auth::Asker;
use crate::command::{Command, Op, Query, Txn};
use crate::{LeaseId, Ordering};
use bytes::Bytes;
use concur_core::{Footprint, Span};

/// What a command touches in a namespace that is ordered so.
pub fn footprint(command: &Command, ordering: Ordering) -> Footprint {
    let (asker, command) = command.apart();
    if ordering == Ordering::PerKey && *asker != Asker::Nobody && attaches(command) {
        return Footprint::Everything;
    }
    match (ordering, command) {
        (Ordering::Total, Command::Read(_)) => reads_all(),
        (Ordering::Total, _) => Footprint::Everything,
        (Ordering::PerKey, Command::Put(put)) => Footprint::write(put.key.clone()),
        (Ordering::PerKey, Command::DeleteRange(delete)) => {
            Footprint::Spans { reads: Vec::new(), writes: vec![span(&delete.key, &delete.range_end)] }
        }
        (Ordering::PerKey, Command::Txn(txn)) => txn_footprint(txn),
        (Ordering::PerKey, Command::Read(Query::Range(range))) => {
            Footprint::Spans { reads: vec![span(&range.key, &range.range_end)], writes: Vec::new() }
        }
        (Ordering::PerKey, Command::Read(Query::Txn(txn))) => txn_footprint(txn),
        (Ordering::PerKey, Command::Read(_)) => reads_all(),
        (Ordering::PerKey, _) => Footprint::Everything,
    }
}

/// Whether a command attaches a key to a lease.
fn attaches(command: &Command) -> bool {
    fn any(txn: &Txn) -> bool {
        txn.success.iter().chain(&txn.failure).any(|op| match op {
            Op::Put(put) => put.lease != LeaseId::NONE,
            Op::Txn(inner) => any(inner),
            Op::Range(_) | Op::DeleteRange(_) => false,
        })
    }
    match command {
        Command::Put(put) => put.lease != LeaseId::NONE,
        Command::Txn(txn) => any(txn),
        _ => false,
    }
}

fn reads_all() -> Footprint {
    Footprint::Spans { reads: vec![Span::From(Bytes::new())], writes: Vec::new() }
}

/// Both branches: which is taken is not known before.
fn txn_footprint(txn: &Txn) -> Footprint {
    let (mut reads, mut writes) = (Vec::new(), Vec::new());
    collect(txn, &mut reads, &mut writes);
    let mut footprint = Footprint::Spans { reads, writes };
    footprint.normalise();
    footprint
}

fn collect(txn: &Txn, reads: &mut Vec<Span>, writes: &mut Vec<Span>) {
    reads.extend(txn.compare.iter().map(|compare| span(&compare.key, &compare.range_end)));
    for op in txn.success.iter().chain(&txn.failure) {
        match op {
            Op::Range(range) => reads.push(span(&range.key, &range.range_end)),
            Op::Put(put) => writes.push(Span::Key(put.key.clone())),
            Op::DeleteRange(delete) => writes.push(span(&delete.key, &delete.range_end)),
            Op::Txn(inner) => collect(inner, reads, writes),
        }
    }
}

fn span(key: &Bytes, range_end: &Bytes) -> Span {
    match &range_end[..] {
        [] => Span::Key(key.clone()),
        [0] => Span::From(key.clone()),
        _ => Span::Range { start: key.clone(), end: range_end.clone() },
    }
}
