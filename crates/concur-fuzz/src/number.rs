//! Numbers that mean something on either side: "three revisions ago", "the second lease that the server picked".
//!
//! A call is made before it is known where the stores stand, and is sent again, when a difference is made smaller, to stores that stand
//! elsewhere. So a number in a call may lie in one of three bands far from any real one, and is replaced as it is sent. All others
//! are sent as they are: zero, minus one, the ends of their range.

use bytes::Bytes;
use concur_proto::etcdserverpb as pb;
use pb::compare::TargetUnion;
use pb::request_op::Request;

/// The current revision; a few above or below it stand beside it.
pub(crate) const CURRENT: i64 = 1 << 40;
/// The compacted revision.
pub(crate) const COMPACTED: i64 = 1 << 41;
/// The first lease whose id the server picked.
pub(crate) const PICKED: i64 = 1 << 42;
/// How far a band reaches in both directions.
const REACH: i64 = 1 << 20;

/// What the numbers stand for, on one side.
#[derive(Debug, Clone, Default)]
pub(crate) struct Known {
    pub(crate) current: i64,
    pub(crate) compacted: i64,
    pub(crate) picked: Vec<i64>,
}

fn near(number: i64, band: i64) -> Option<i64> {
    number.checked_sub(band).filter(|offset| offset.abs() < REACH)
}

impl Known {
    /// The number to send.
    pub(crate) fn real(&self, number: i64) -> i64 {
        if let Some(offset) = near(number, CURRENT) {
            self.current + offset
        } else if let Some(offset) = near(number, COMPACTED) {
            self.compacted + offset
        } else if let Some(offset) = near(number, PICKED) {
            // A lease that was not picked is one that does not exist.
            usize::try_from(offset).ok().and_then(|at| self.picked.get(at).copied()).unwrap_or(PICKED - 1 - offset)
        } else {
            number
        }
    }

    /// The number that stands for a lease.
    pub(crate) fn lease_shown(&self, id: i64) -> i64 {
        self.picked.iter().position(|&picked| picked == id).map_or(id, |at| PICKED + at as i64)
    }

    pub(crate) fn range(&self, range: &pb::RangeRequest) -> pb::RangeRequest {
        pb::RangeRequest {
            revision: self.real(range.revision),
            min_mod_revision: self.real(range.min_mod_revision),
            max_mod_revision: self.real(range.max_mod_revision),
            min_create_revision: self.real(range.min_create_revision),
            max_create_revision: self.real(range.max_create_revision),
            ..range.clone()
        }
    }

    pub(crate) fn put(&self, put: &pb::PutRequest) -> pb::PutRequest {
        pb::PutRequest { lease: self.real(put.lease), ..put.clone() }
    }

    pub(crate) fn txn(&self, txn: &pb::TxnRequest) -> pb::TxnRequest {
        let ops = |ops: &[pb::RequestOp]| ops.iter().map(|op| self.op(op)).collect();
        pb::TxnRequest {
            compare: txn.compare.iter().map(|compare| self.compare(compare)).collect(),
            success: ops(&txn.success),
            failure: ops(&txn.failure),
        }
    }

    fn op(&self, op: &pb::RequestOp) -> pb::RequestOp {
        pb::RequestOp {
            request: op.request.as_ref().map(|request| match request {
                Request::RequestRange(range) => Request::RequestRange(self.range(range)),
                Request::RequestPut(put) => Request::RequestPut(self.put(put)),
                Request::RequestDeleteRange(delete) => Request::RequestDeleteRange(delete.clone()),
                Request::RequestTxn(txn) => Request::RequestTxn(self.txn(txn)),
            }),
        }
    }

    fn compare(&self, compare: &pb::Compare) -> pb::Compare {
        let target_union = compare.target_union.as_ref().map(|target| match target {
            TargetUnion::Version(n) => TargetUnion::Version(self.real(*n)),
            TargetUnion::CreateRevision(n) => TargetUnion::CreateRevision(self.real(*n)),
            TargetUnion::ModRevision(n) => TargetUnion::ModRevision(self.real(*n)),
            TargetUnion::Lease(n) => TargetUnion::Lease(self.real(*n)),
            TargetUnion::Value(value) => TargetUnion::Value(value.clone()),
        });
        pb::Compare { target_union, ..compare.clone() }
    }
}

/// How a number is printed.
pub(crate) fn number(number: i64) -> String {
    let named = |name: &str, offset: i64| match offset {
        0 => name.to_owned(),
        offset => format!("{name}{offset:+}"),
    };
    if let Some(offset) = near(number, CURRENT) {
        named("current", offset)
    } else if let Some(offset) = near(number, COMPACTED) {
        named("compacted", offset)
    } else if let Some(offset) = near(number, PICKED) {
        format!("picked#{offset}")
    } else {
        number.to_string()
    }
}

/// How bytes are printed; long ones by their beginning and length.
pub(crate) fn bytes(bytes: &Bytes) -> String {
    match bytes.len() {
        0..=40 => format!("\"{}\"", bytes.escape_ascii()),
        len => format!("\"{}…\" ({len} bytes)", bytes[..16].escape_ascii()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_a_band_are_replaced_and_others_are_not() {
        let known = Known { current: 90, compacted: 40, picked: vec![777, 888] };
        for (number, real) in [(CURRENT - 3, 87), (CURRENT, 90), (COMPACTED + 1, 41), (PICKED + 1, 888), (0, 0), (-1, -1)] {
            assert_eq!(known.real(number), real, "{}", super::number(number));
        }
        assert_eq!(known.real(i64::MAX), i64::MAX);
        assert_eq!(known.real(i64::MIN), i64::MIN);
        assert_eq!(known.lease_shown(888), PICKED + 1);
        assert_eq!(known.lease_shown(5), 5);
    }

    #[test]
    fn numbers_and_bytes_print_short() {
        assert_eq!(number(CURRENT - 3), "current-3");
        assert_eq!(number(COMPACTED), "compacted");
        assert_eq!(number(PICKED + 2), "picked#2");
        assert_eq!(number(-1), "-1");
        assert_eq!(bytes(&Bytes::from_static(b"a\0\xff")), "\"a\\x00\\xff\"");
        assert_eq!(bytes(&Bytes::from(vec![b'v'; 99])), "\"vvvvvvvvvvvvvvvv…\" (99 bytes)");
    }
}
