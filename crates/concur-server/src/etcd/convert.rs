//! Between etcd's messages and the store's commands, queries and answers.
//!
//! Requests are taken apart here and nowhere else. What the store itself refuses (an empty key, a duplicate one) is not
//! checked again; refused here is only what its types cannot say, such as an operation that asks for nothing.

use concur_kv as store;
use concur_kv::{KvError, LeaseId, Revision};
use concur_proto::etcdserverpb as pb;
use concur_proto::mvccpb;

use pb::compare::{CompareResult, CompareTarget, TargetUnion};
use pb::range_request::{SortOrder, SortTarget};
use pb::request_op::Request;
use pb::response_op::Response;

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
        compare: txn.compare.into_iter().map(compare).collect::<Result<_, _>>()?,
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

// The named target decides; what it is compared with is zero or empty unless the union gives that very field.
fn compare(compare: pb::Compare) -> Result<store::Compare, KvError> {
    let relation = match CompareResult::try_from(compare.result) {
        Ok(CompareResult::Equal) => store::Relation::Equal,
        Ok(CompareResult::Greater) => store::Relation::Greater,
        Ok(CompareResult::Less) => store::Relation::Less,
        Ok(CompareResult::NotEqual) => store::Relation::NotEqual,
        Err(_) => return Err(KvError::Malformed),
    };
    let given = compare.target_union;
    let target = match (CompareTarget::try_from(compare.target).map_err(|_| KvError::Malformed)?, given) {
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
    };
    Ok(store::Compare { key: compare.key, range_end: compare.range_end, relation, target })
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
