//! Of keys: ranges, transactions, compaction, space.

use concur_proto::etcdserverpb as pb;
use concur_proto::etcdserverpb::lease_client::LeaseClient;
use concur_proto::etcdserverpb::maintenance_client::MaintenanceClient;
use pb::request_op::Request as Op;
use tonic::metadata::MetadataValue;
use tonic::{Code, Request};

use crate::side::{Side, all, bytes, delete, is, put, range, txn};

const COMPACTED: &str = "etcdserver: mvcc: required revision has been compacted";
const FUTURE: &str = "etcdserver: mvcc: required revision is a future revision";
const FULL: &str = "etcdserver: mvcc: database space exceeded";

pub(crate) async fn streams_a_range() {
    let side = Side::start().await;
    let mut kv = side.kv().await;
    for n in 0..200 {
        kv.put(put(&format!("k{n:03}"), &"v".repeat(n))).await.expect("a put");
    }
    let whole = kv.range(all()).await.expect("a range").into_inner();
    let mut chunks = kv.range_stream(all()).await.expect("a stream").into_inner();
    let (mut kvs, mut count, mut last) = (Vec::new(), 0, None);
    while let Some(chunk) = chunks.message().await.expect("a chunk") {
        assert!(last.is_none(), "nothing comes behind the header");
        let chunk = chunk.range_response.expect("a response");
        assert!(chunk.header.is_some() || (chunk.count == 0 && !chunk.more), "of the last chunk only");
        kvs.extend(chunk.kvs);
        count += 1;
        last = chunk.header.map(|header| (header.revision, chunk.count));
    }
    assert!(count > 1);
    assert_eq!((kvs, last), (whole.kvs, Some((201, 200))));
}

pub(crate) async fn streams_no_sorted_range() {
    let side = Side::start().await;
    let mut kv = side.kv().await;
    let sorted = pb::RangeRequest { sort_order: 2, ..all() };
    is(kv.range_stream(sorted).await.map(drop), Code::Unimplemented, "RangeStream does not support custom sort orders");
    let filtered = pb::RangeRequest { max_create_revision: 1, ..all() };
    is(kv.range_stream(filtered).await.map(drop), Code::Unimplemented, "RangeStream does not support revision filters");
    is(kv.range_stream(range("")).await.map(drop), Code::InvalidArgument, "etcdserver: key is not provided");
    is(kv.range_stream(pb::RangeRequest { revision: 9, ..all() }).await.map(drop), Code::OutOfRange, FUTURE);
}

pub(crate) async fn leaves_leases_out_of_keys_only() {
    let side = Side::start().await;
    let mut kv = side.kv().await;
    LeaseClient::new(side.channel().await).lease_grant(pb::LeaseGrantRequest { id: 7, ttl: 600 }).await.expect("a lease");
    kv.put(pb::PutRequest { lease: 7, ..put("a", "v") }).await.expect("a put");
    let keys = pb::RangeRequest { keys_only: true, ..range("a") };
    let seen = |range: pb::RangeResponse| (range.kvs[0].lease, range.kvs[0].version, range.kvs[0].value.len());
    assert_eq!(seen(kv.range(keys.clone()).await.expect("a range").into_inner()), (0, 1, 0));
    let by_value = pb::RangeRequest { sort_target: 4, ..keys.clone() };
    assert_eq!(seen(kv.range(by_value).await.expect("a range").into_inner()), (7, 1, 0), "it looks at values");
    assert_eq!(seen(kv.range(range("a")).await.expect("a range").into_inner()), (7, 1, 1));
    let read = kv.txn(txn(vec![Op::RequestRange(keys)])).await.expect("a read").into_inner();
    let Some(pb::response_op::Response::ResponseRange(read)) = read.responses[0].response.clone() else { panic!("{read:?}") };
    assert_eq!(seen(read), (0, 1, 0));
}

/// A store at revision 6 that keeps what is from 4 on.
async fn compacted(side: &Side) {
    let mut kv = side.kv().await;
    for n in 0..5 {
        kv.put(put("a", &n.to_string())).await.expect("a put");
    }
    kv.compact(pb::CompactionRequest { revision: 4, physical: true }).await.expect("a compaction");
}

pub(crate) async fn judges_revisions_before_a_transaction_writes() {
    let side = Side::start().await;
    compacted(&side).await;
    let mut kv = side.kv().await;
    let at = |revision| Op::RequestRange(pb::RangeRequest { revision, ..range("a") });
    let written = || Op::RequestPut(put("b", "v"));
    for (revision, text) in [(3, COMPACTED), (-1, COMPACTED), (i64::MIN, COMPACTED), (7, FUTURE), (i64::MAX, FUTURE)] {
        is(kv.txn(txn(vec![written(), at(revision)])).await, Code::OutOfRange, text);
        is(kv.txn(txn(vec![at(revision)])).await, Code::OutOfRange, text);
        let inner = txn(vec![at(revision)]);
        is(kv.txn(txn(vec![written(), Op::RequestTxn(inner)])).await, Code::OutOfRange, text);
    }
    kv.txn(txn(vec![Op::RequestPut(put("c", "v")), at(4), at(6)])).await.expect("a transaction");
    let left = kv.range(all()).await.expect("a range").into_inner();
    let keys: Vec<_> = left.kvs.iter().map(|kv| kv.key.clone()).collect();
    assert_eq!((keys, left.header.expect("a header").revision), (vec![bytes("a"), bytes("c")], 7));
}

pub(crate) async fn survives_reads_that_fail() {
    let side = Side::start().await;
    compacted(&side).await;
    let mut kv = side.kv().await;
    let mut read = txn(vec![Op::RequestRange(pb::RangeRequest { revision: 2, ..range("a") })]);
    read.failure = read.success.clone();
    is(kv.txn(read).await, Code::OutOfRange, COMPACTED);
    let mut brief = Request::new(txn(vec![Op::RequestRange(all())]));
    brief.set_timeout(std::time::Duration::from_nanos(1));
    let _ = kv.txn(brief).await;
    kv.put(put("a", "v")).await.expect("it goes on");
}

pub(crate) async fn refuses_sorts_that_are_not_there() {
    let side = Side::start().await;
    let mut kv = side.kv().await;
    let none = "etcdserver: invalid sort option";
    for range in [pb::RangeRequest { sort_target: 9, ..range("a") }, pb::RangeRequest { sort_order: -1, ..range("a") }] {
        is(kv.range(range.clone()).await, Code::InvalidArgument, none);
        is(kv.txn(txn(vec![Op::RequestRange(range)])).await, Code::InvalidArgument, none);
    }
}

pub(crate) async fn refuses_a_version_that_is_no_text() {
    let side = Side::start().await;
    let mut kv = side.kv().await;
    let mut garbled = Request::new(range("a"));
    garbled.metadata_mut().insert("client-api-version", MetadataValue::try_from(&b"3.\xff"[..]).expect("a value"));
    is(kv.range(garbled).await, Code::InvalidArgument, "etcdserver: invalid client api version");
    kv.range(range("a")).await.expect("it goes on");
}

pub(crate) async fn keeps_what_does_not_write_while_full() {
    let side = Side::start().await;
    let (mut kv, mut maintenance) = (side.kv().await, MaintenanceClient::new(side.channel().await));
    kv.put(put("a", "v")).await.expect("a put");
    let alarm = |action| pb::AlarmRequest { action, member_id: 5, alarm: 1 };
    maintenance.alarm(alarm(1)).await.expect("an alarm");
    is(kv.put(put("a", "v")).await, Code::ResourceExhausted, FULL);
    let nested = || txn(vec![Op::RequestTxn(txn(vec![Op::RequestPut(put("a", "v"))]))]);
    is(kv.txn(nested()).await, Code::ResourceExhausted, FULL);
    let grant = pb::LeaseGrantRequest { id: 0, ttl: 600 };
    is(LeaseClient::new(side.channel().await).lease_grant(grant).await, Code::ResourceExhausted, FULL);
    kv.range(all()).await.expect("a range");
    kv.txn(txn(vec![Op::RequestRange(all())])).await.expect("a read");
    kv.txn(txn(vec![Op::RequestTxn(txn(vec![Op::RequestDeleteRange(delete("none"))]))])).await.expect("a delete");
    kv.delete_range(delete("a")).await.expect("a delete");
    kv.compact(pb::CompactionRequest { revision: 3, physical: true }).await.expect("a compaction");
    maintenance.alarm(alarm(2)).await.expect("no alarm");
    kv.txn(nested()).await.expect("a put");
}

pub(crate) async fn compacts_within_bounds() {
    let side = Side::start().await;
    compacted(&side).await;
    let mut kv = side.kv().await;
    let mut compact = async |revision| kv.compact(pb::CompactionRequest { revision, physical: false }).await;
    for (revision, text) in [(4, COMPACTED), (0, COMPACTED), (-1, COMPACTED), (i64::MIN, COMPACTED), (7, FUTURE), (i64::MAX, FUTURE)] {
        is(compact(revision).await, Code::OutOfRange, text);
    }
    assert_eq!(compact(6).await.expect("a compaction").into_inner().header.expect("a header").revision, 6);
}

pub(crate) async fn hashes_up_to_a_revision() {
    let side = Side::start().await;
    let mut maintenance = MaintenanceClient::new(side.channel().await);
    let mut hash = async |revision| maintenance.hash_kv(pb::HashKvRequest { revision }).await;
    let first = hash(0).await.expect("a hash").into_inner();
    assert_eq!((first.hash_revision, first.compact_revision), (1, -1), "nothing was compacted");
    compacted(&side).await;
    let all = hash(0).await.expect("a hash").into_inner();
    assert_eq!((all.hash_revision, all.compact_revision, all.header.expect("a header").revision), (6, 4, 6));
    assert_eq!(hash(6).await.expect("a hash").into_inner().hash, all.hash);
    let five = hash(5).await.expect("a hash").into_inner();
    assert_eq!((five.hash_revision, five.compact_revision, five.header.expect("a header").revision), (5, 4, 6));
    assert_ne!(five.hash, all.hash);
    is(hash(7).await, Code::OutOfRange, FUTURE);
    is(hash(3).await, Code::OutOfRange, COMPACTED);
}
