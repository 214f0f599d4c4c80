//! Between etcd's messages and the store's commands, queries and answers.
//!
//! Requests are taken apart here and nowhere else. What the store itself refuses (an empty key, a duplicate one) is not
//! checked again, but where a request can also be wrong in a way that the store's types cannot say (a sort order that does not exist,
//! an operation that asks for nothing) everything is checked first, in the order in which etcd does.

use concur_kv as store;
use concur_kv::{KvError, LeaseId, Revision};
use concur_proto::etcdserverpb as pb;
use concur_proto::mvccpb;

use pb::compare::{CompareResult, CompareTarget, TargetUnion};
use pb::range_request::{SortOrder, SortTarget};
use pb::request_op::Request;
use pb::response_op::Response;

/// Checks a range that etcd's API asks for.
pub(crate) fn check_range(range: &pb::RangeRequest) -> Result<(), KvError> {
    if range.key.is_empty() {
        return Err(KvError::EmptyKey);
    }
    if SortOrder::try_from(range.sort_order).is_err() || SortTarget::try_from(range.sort_target).is_err() {
        return Err(KvError::InvalidSortOption);
    }
    Ok(())
}

/// Checks a transaction that etcd's API asks for. What it writes twice is found by the store.
pub(crate) fn check_txn(txn: &pb::TxnRequest, ops_max: usize) -> Result<(), KvError> {
    let longest = txn.compare.len().max(txn.success.len()).max(txn.failure.len());
    let left = ops_max.checked_sub(longest).ok_or(KvError::TooManyOps)?;
    if txn.compare.iter().any(|compare| compare.key.is_empty()) {
        return Err(KvError::EmptyKey);
    }
    txn.success.iter().chain(&txn.failure).try_for_each(|op| match op.request.as_ref().ok_or(KvError::KeyNotFound)? {
        Request::RequestRange(range) => check_range(range),
        Request::RequestPut(put) => store::check(&store::Command::Put(self::put(put.clone())), ops_max),
        Request::RequestDeleteRange(delete) if delete.key.is_empty() => Err(KvError::EmptyKey),
        Request::RequestDeleteRange(_) => Ok(()),
        Request::RequestTxn(inner) => check_txn(inner, left),
    })
}

pub(crate) fn put(put: pb::PutRequest) -> store::Put {
    store::Put {
        key: put.key,
        value: put.value,
        lease: LeaseId(put.lease),
        prev_kv: put.prev_kv,
        ignore_value: put.ignore_value,
        ignore_lease: put.ignore_lease,
    }
}

pub(crate) fn delete(delete: pb::DeleteRangeRequest) -> store::DeleteRange {
    store::DeleteRange { key: delete.key, range_end: delete.range_end, prev_kv: delete.prev_kv }
}

pub(crate) fn range(range: pb::RangeRequest) -> Result<store::RangeQuery, KvError> {
    let sort_order = match SortOrder::try_from(range.sort_order) {
        Ok(SortOrder::None) => store::SortOrder::None,
        Ok(SortOrder::Ascend) => store::SortOrder::Ascend,
        Ok(SortOrder::Descend) => store::SortOrder::Descend,
        Err(_) => return Err(KvError::InvalidSortOption),
    };
    let sort_target = match SortTarget::try_from(range.sort_target) {
        Ok(SortTarget::Key) => store::SortTarget::Key,
        Ok(SortTarget::Version) => store::SortTarget::Version,
        Ok(SortTarget::Create) => store::SortTarget::Create,
        Ok(SortTarget::Mod) => store::SortTarget::Mod,
        Ok(SortTarget::Value) => store::SortTarget::Value,
        Err(_) => return Err(KvError::InvalidSortOption),
    };
    Ok(store::RangeQuery {
        key: range.key,
        range_end: range.range_end,
        limit: range.limit,
        revision: Revision(range.revision),
        sort_order,
        sort_target,
        keys_only: range.keys_only,
        count_only: range.count_only,
        min_mod_revision: Revision(range.min_mod_revision),
        max_mod_revision: Revision(range.max_mod_revision),
        min_create_revision: Revision(range.min_create_revision),
        max_create_revision: Revision(range.max_create_revision),
    })
}

pub(crate) fn txn(txn: pb::TxnRequest) -> Result<store::Txn, KvError> {
    Ok(store::Txn {
        compare: txn.compare.into_iter().map(compare).collect(),
        success: txn.success.into_iter().map(op).collect::<Result<_, _>>()?,
        failure: txn.failure.into_iter().map(op).collect::<Result<_, _>>()?,
    })
}

fn op(op: pb::RequestOp) -> Result<store::Op, KvError> {
    Ok(match op.request.ok_or(KvError::KeyNotFound)? {
        Request::RequestRange(r) => store::Op::Range(range(r)?),
        Request::RequestPut(p) => store::Op::Put(put(p)),
        Request::RequestDeleteRange(d) => store::Op::DeleteRange(delete(d)),
        Request::RequestTxn(t) => store::Op::Txn(txn(t)?),
    })
}

// The named target decides; what it is compared with is zero or empty unless the union gives that very field. A target that does not
// exist compares as equal, and a result that does not exist is always the right one, as in etcd; only where there is no key a compare
// of values holds never.
fn compare(compare: pb::Compare) -> store::Compare {
    use store::Relation::{Equal, Greater, Less, NotEqual};
    let relation = match CompareResult::try_from(compare.result) {
        Ok(CompareResult::Equal) => Some(Equal),
        Ok(CompareResult::Greater) => Some(Greater),
        Ok(CompareResult::Less) => Some(Less),
        Ok(CompareResult::NotEqual) => Some(NotEqual),
        Err(_) => None,
    };
    let target = CompareTarget::try_from(compare.target).ok();
    let (relation, target) = match (relation, target) {
        (Some(relation), Some(target)) => (relation, compared_with(target, compare.target_union)),
        (None, Some(CompareTarget::Value)) => HOLDS_IF_THERE,
        (None | Some(Equal), _) => HOLDS,
        (Some(_), None) => HOLDS_NEVER,
    };
    store::Compare { key: compare.key, range_end: compare.range_end, relation, target }
}

/// Versions are 1 and more, and 0 where there is no key.
const HOLDS: (store::Relation, store::Target) = (store::Relation::Greater, store::Target::Version(-1));
const HOLDS_IF_THERE: (store::Relation, store::Target) = (store::Relation::Greater, store::Target::Version(0));
const HOLDS_NEVER: (store::Relation, store::Target) = (store::Relation::Less, store::Target::Version(0));

fn compared_with(target: CompareTarget, given: Option<TargetUnion>) -> store::Target {
    match (target, given) {
        (CompareTarget::Version, Some(TargetUnion::Version(n))) => store::Target::Version(n),
        (CompareTarget::Version, _) => store::Target::Version(0),
        (CompareTarget::Create, Some(TargetUnion::CreateRevision(n))) => store::Target::Create(Revision(n)),
        (CompareTarget::Create, _) => store::Target::Create(Revision(0)),
        (CompareTarget::Mod, Some(TargetUnion::ModRevision(n))) => store::Target::Mod(Revision(n)),
        (CompareTarget::Mod, _) => store::Target::Mod(Revision(0)),
        (CompareTarget::Value, Some(TargetUnion::Value(value))) => store::Target::Value(value),
        (CompareTarget::Value, _) => store::Target::Value(bytes::Bytes::new()),
        (CompareTarget::Lease, Some(TargetUnion::Lease(n))) => store::Target::Lease(LeaseId(n)),
        (CompareTarget::Lease, _) => store::Target::Lease(LeaseId(0)),
    }
}

pub(crate) fn key_value(kv: store::KeyValue) -> mvccpb::KeyValue {
    mvccpb::KeyValue {
        key: kv.key,
        create_revision: kv.create_revision.0,
        mod_revision: kv.mod_revision.0,
        version: kv.version,
        value: kv.value,
        lease: kv.lease.0,
    }
}

fn key_values(kvs: Vec<store::KeyValue>) -> Vec<mvccpb::KeyValue> {
    kvs.into_iter().map(key_value).collect()
}

pub(crate) fn put_reply(header: Option<pb::ResponseHeader>, reply: store::PutReply) -> pb::PutResponse {
    pb::PutResponse { header, prev_kv: reply.prev_kv.map(key_value) }
}

pub(crate) fn delete_reply(header: Option<pb::ResponseHeader>, reply: store::DeleteReply) -> pb::DeleteRangeResponse {
    pb::DeleteRangeResponse { header, deleted: reply.deleted as i64, prev_kvs: key_values(reply.prev_kvs) }
}

pub(crate) fn range_answer(header: Option<pb::ResponseHeader>, answer: store::RangeAnswer) -> pb::RangeResponse {
    pb::RangeResponse { header, kvs: key_values(answer.kvs), more: answer.more, count: answer.count as i64 }
}

pub(crate) fn txn_reply(header: Option<pb::ResponseHeader>, reply: store::TxnReply) -> pb::TxnResponse {
    pb::TxnResponse { header, succeeded: reply.succeeded, responses: reply.replies.into_iter().map(op_reply).collect() }
}

// Inside a transaction a header carries the revision and nothing else.
fn op_reply(reply: store::OpReply) -> pb::ResponseOp {
    let at = |revision: Revision| Some(pb::ResponseHeader { revision: revision.0, ..Default::default() });
    pb::ResponseOp {
        response: Some(match reply {
            store::OpReply::Range(range) => Response::ResponseRange(range_answer(at(range.revision), range)),
            store::OpReply::Put(put) => Response::ResponsePut(put_reply(at(put.revision), put)),
            store::OpReply::DeleteRange(delete) => Response::ResponseDeleteRange(delete_reply(at(delete.revision), delete)),
            store::OpReply::Txn(txn) => Response::ResponseTxn(txn_reply(at(Revision(0)), txn)),
        }),
    }
}
