//! What is sent to both, and how it is printed.

use crate::number::{bytes, number};
use concur_proto::etcdserverpb as pb;
use pb::compare::{CompareResult, CompareTarget, TargetUnion};
use pb::range_request::{SortOrder, SortTarget};
use pb::request_op::Request;
use std::fmt::{Display, Formatter, Result};

/// One call.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Call {
    Range(pb::RangeRequest),
    RangeStream(pb::RangeRequest),
    Put(pb::PutRequest),
    Delete(pb::DeleteRangeRequest),
    Txn(pb::TxnRequest),
    Compact(pb::CompactionRequest),
    Grant(pb::LeaseGrantRequest),
    /// A lease of the shortest life, ended at once: it must not end of itself in between.
    GrantShort(pb::LeaseGrantRequest),
    Revoke(i64),
    TimeToLive(pb::LeaseTimeToLiveRequest),
    KeepAlive(i64),
    Leases,
    Watch(u8, pb::WatchCreateRequest),
    Cancel(u8, i64),
    /// Asks how far everything was told, and waits for the answer.
    Progress(u8),
    /// Waits until both told the same of everything watched.
    Settle,
}

impl Call {
    pub(crate) const KINDS: [&str; 16] = [
        "range",
        "range-stream",
        "put",
        "delete",
        "txn",
        "compact",
        "grant",
        "grant-short",
        "revoke",
        "time-to-live",
        "keep-alive",
        "leases",
        "watch",
        "cancel",
        "progress",
        "settle",
    ];

    /// Its place in [`Call::KINDS`].
    pub(crate) fn kind(&self) -> usize {
        match self {
            Call::Range(_) => 0,
            Call::RangeStream(_) => 1,
            Call::Put(_) => 2,
            Call::Delete(_) => 3,
            Call::Txn(_) => 4,
            Call::Compact(_) => 5,
            Call::Grant(_) => 6,
            Call::GrantShort(_) => 7,
            Call::Revoke(_) => 8,
            Call::TimeToLive(_) => 9,
            Call::KeepAlive(_) => 10,
            Call::Leases => 11,
            Call::Watch(..) => 12,
            Call::Cancel(..) => 13,
            Call::Progress(_) => 14,
            Call::Settle => 15,
        }
    }

    /// Whether it changes nothing, so that it can be sent beside others.
    pub(crate) fn reads(&self) -> bool {
        let only_ranges = |ops: &[pb::RequestOp]| ops.iter().all(|op| matches!(op.request, Some(Request::RequestRange(_))));
        match self {
            Call::Range(_) | Call::RangeStream(_) | Call::TimeToLive(_) | Call::Leases => true,
            Call::Txn(txn) => only_ranges(&txn.success) && only_ranges(&txn.failure),
            _ => false,
        }
    }

    /// Whether it may be answered from what one member has.
    pub(crate) fn is_serializable(&self) -> bool {
        match self {
            Call::Range(range) | Call::RangeStream(range) => range.serializable,
            Call::Txn(txn) => txn.success.iter().chain(&txn.failure).all(|op| match &op.request {
                Some(Request::RequestRange(range)) => range.serializable,
                _ => false,
            }),
            _ => false,
        }
    }
}

/// Collects what differs from the default.
struct Fields<'a, 'b> {
    f: &'a mut Formatter<'b>,
    any: bool,
}

impl Fields<'_, '_> {
    fn add(&mut self, shown: bool, name: &str, value: impl Display) -> std::result::Result<(), std::fmt::Error> {
        if shown {
            write!(self.f, "{}{name}={value}", if self.any { " " } else { "" })?;
            self.any = true;
        }
        Ok(())
    }

    fn flag(&mut self, name: &str, set: bool) -> Result {
        if set {
            write!(self.f, "{}{name}", if self.any { " " } else { "" })?;
            self.any = true;
        }
        Ok(())
    }

    fn num(&mut self, name: &str, value: i64) -> Result {
        self.add(value != 0, name, number(value))
    }

    fn keys(&mut self, key: &bytes::Bytes, end: &bytes::Bytes) -> Result {
        self.add(true, "key", bytes(key))?;
        self.add(!end.is_empty(), "end", bytes(end))
    }
}

fn name<T: std::fmt::Debug, E>(known: std::result::Result<T, E>, raw: i32) -> String {
    known.map_or_else(|_| raw.to_string(), |known| format!("{known:?}").to_lowercase())
}

fn range(f: &mut Fields, r: &pb::RangeRequest) -> Result {
    f.keys(&r.key, &r.range_end)?;
    f.num("limit", r.limit)?;
    f.num("revision", r.revision)?;
    f.add(r.sort_order != 0, "order", name(SortOrder::try_from(r.sort_order), r.sort_order))?;
    f.add(r.sort_target != 0, "by", name(SortTarget::try_from(r.sort_target), r.sort_target))?;
    f.flag("serializable", r.serializable)?;
    f.flag("keys_only", r.keys_only)?;
    f.flag("count_only", r.count_only)?;
    f.num("min_mod", r.min_mod_revision)?;
    f.num("max_mod", r.max_mod_revision)?;
    f.num("min_create", r.min_create_revision)?;
    f.num("max_create", r.max_create_revision)
}

fn put(f: &mut Fields, p: &pb::PutRequest) -> Result {
    f.add(true, "key", bytes(&p.key))?;
    f.add(!p.value.is_empty(), "value", bytes(&p.value))?;
    f.num("lease", p.lease)?;
    f.flag("prev_kv", p.prev_kv)?;
    f.flag("ignore_value", p.ignore_value)?;
    f.flag("ignore_lease", p.ignore_lease)
}

fn delete(f: &mut Fields, d: &pb::DeleteRangeRequest) -> Result {
    f.keys(&d.key, &d.range_end)?;
    f.flag("prev_kv", d.prev_kv)
}

fn compare(f: &mut Formatter, c: &pb::Compare) -> Result {
    write!(f, "{}", bytes(&c.key))?;
    if !c.range_end.is_empty() {
        write!(f, "..{}", bytes(&c.range_end))?;
    }
    write!(f, " {} {}", name(CompareTarget::try_from(c.target), c.target), name(CompareResult::try_from(c.result), c.result))?;
    match &c.target_union {
        None => write!(f, " nothing"),
        Some(TargetUnion::Version(n)) => write!(f, " version {}", number(*n)),
        Some(TargetUnion::CreateRevision(n)) => write!(f, " create {}", number(*n)),
        Some(TargetUnion::ModRevision(n)) => write!(f, " mod {}", number(*n)),
        Some(TargetUnion::Lease(n)) => write!(f, " lease {}", number(*n)),
        Some(TargetUnion::Value(value)) => write!(f, " value {}", bytes(value)),
    }
}

fn ops(f: &mut Formatter, ops: &[pb::RequestOp]) -> Result {
    for (at, op) in ops.iter().enumerate() {
        write!(f, "{}", if at > 0 { "; " } else { "" })?;
        let mut fields = Fields { f, any: true };
        match &op.request {
            None => fields.f.write_str("nothing")?,
            Some(Request::RequestRange(r)) => fields.f.write_str("range").and_then(|()| range(&mut fields, r))?,
            Some(Request::RequestPut(p)) => fields.f.write_str("put").and_then(|()| put(&mut fields, p))?,
            Some(Request::RequestDeleteRange(d)) => fields.f.write_str("delete").and_then(|()| delete(&mut fields, d))?,
            Some(Request::RequestTxn(t)) => txn(fields.f, t)?,
        }
    }
    Ok(())
}

fn txn(f: &mut Formatter, t: &pb::TxnRequest) -> Result {
    f.write_str("txn if (")?;
    for (at, c) in t.compare.iter().enumerate() {
        f.write_str(if at > 0 { " and " } else { "" })?;
        compare(f, c)?;
    }
    f.write_str(") then (")?;
    ops(f, &t.success)?;
    f.write_str(") else (")?;
    ops(f, &t.failure)?;
    f.write_str(")")
}

fn watch(f: &mut Fields, w: &pb::WatchCreateRequest) -> Result {
    f.num("id", w.watch_id)?;
    f.keys(&w.key, &w.range_end)?;
    f.num("start", w.start_revision)?;
    f.add(!w.filters.is_empty(), "filters", format!("{:?}", w.filters))?;
    f.flag("prev_kv", w.prev_kv)?;
    f.flag("fragment", w.fragment)?;
    f.flag("notify", w.progress_notify)
}

impl Display for Call {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        if let Call::Txn(t) = self {
            return txn(f, t);
        }
        f.write_str(Self::KINDS[self.kind()])?;
        let mut fields = Fields { f, any: true };
        match self {
            Call::Range(r) | Call::RangeStream(r) => range(&mut fields, r),
            Call::Put(p) => put(&mut fields, p),
            Call::Delete(d) => delete(&mut fields, d),
            Call::Compact(c) => fields.add(true, "revision", number(c.revision)).and_then(|()| fields.flag("physical", c.physical)),
            Call::Grant(g) | Call::GrantShort(g) => fields.num("id", g.id).and_then(|()| fields.add(true, "ttl", g.ttl)),
            Call::Revoke(id) | Call::KeepAlive(id) => fields.add(true, "id", number(*id)),
            Call::TimeToLive(t) => fields.add(true, "id", number(t.id)).and_then(|()| fields.flag("keys", t.keys)),
            Call::Watch(stream, w) => fields.add(true, "stream", stream).and_then(|()| watch(&mut fields, w)),
            Call::Cancel(stream, id) => fields.add(true, "stream", stream).and_then(|()| fields.add(true, "id", id)),
            Call::Progress(stream) => fields.add(true, "stream", stream),
            Call::Leases | Call::Settle | Call::Txn(_) => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::number::CURRENT;
    use ::bytes::Bytes;

    #[test]
    fn calls_print_what_is_not_the_default() {
        let range = pb::RangeRequest {
            key: Bytes::from_static(b"a"),
            range_end: Bytes::from_static(b"\0"),
            revision: CURRENT - 1,
            sort_order: 9,
            keys_only: true,
            ..Default::default()
        };
        assert_eq!(Call::Range(range.clone()).to_string(), r#"range key="a" end="\x00" revision=current-1 order=9 keys_only"#);
        let compare = pb::Compare { key: Bytes::from_static(b"a"), target: 3, result: 3, target_union: None, ..Default::default() };
        let txn = pb::TxnRequest {
            compare: vec![compare],
            success: vec![pb::RequestOp { request: Some(Request::RequestRange(range)) }, pb::RequestOp::default()],
            failure: vec![],
        };
        let shown =
            r#"txn if ("a" value notequal nothing) then (range key="a" end="\x00" revision=current-1 order=9 keys_only; nothing) else ()"#;
        assert_eq!(Call::Txn(txn).to_string(), shown);
        assert_eq!(Call::Cancel(1, -1).to_string(), "cancel stream=1 id=-1");
    }
}
