//! What commands read and write.
//!
//! Ordered totally, every write takes the next revision, and so interferes with everything; reads that are decided commute with
//! each other. Ordered per key, puts, deletes and transactions touch the keys that they name. Whatever touches leases, alarms, the
//! quota or time still interferes with everything there: it is rare, deletes keys that it does not name, and reads logged time,
//! which is only the same everywhere for commands that are ordered.

use crate::Ordering;
use crate::command::{Command, Op, Query, Txn};
use bytes::Bytes;
use concur_core::{Footprint, Span};

/// What a command touches in a namespace that is ordered so.
pub fn footprint(command: &Command, ordering: Ordering) -> Footprint {
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
