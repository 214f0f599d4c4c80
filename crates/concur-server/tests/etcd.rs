//! etcd's API over a real socket: what clients see of revisions, transactions, leases, errors.

mod common;

use bytes::Bytes;
use common::{IDENTITY, Node, Setup};
use concur_proto::etcdserverpb as pb;
use concur_proto::etcdserverpb::cluster_client::ClusterClient;
use concur_proto::etcdserverpb::kv_client::KvClient;
use concur_proto::etcdserverpb::lease_client::LeaseClient;
use concur_proto::etcdserverpb::maintenance_client::MaintenanceClient;
use concur_proto::grpc::health::v1::HealthCheckRequest;
use concur_proto::grpc::health::v1::health_client::HealthClient;
use concur_server::etcd::EtcdLimits;
use pb::compare::{CompareResult, CompareTarget, TargetUnion};
use pb::request_op::Request as Op;
use tokio_stream::StreamExt;
use tonic::{Code, Request, Status};

fn bytes(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

fn put(key: &str, value: &str) -> pb::PutRequest {
    pb::PutRequest { key: bytes(key), value: bytes(value), ..Default::default() }
}

fn range(key: &str, end: &str) -> pb::RangeRequest {
    pb::RangeRequest { key: bytes(key), range_end: bytes(end), ..Default::default() }
}

fn op(request: Op) -> pb::RequestOp {
    pb::RequestOp { request: Some(request) }
}

fn seen(result: Result<impl Sized, Status>) -> (Code, String) {
    let status = result.err().expect("a refusal");
    (status.code(), status.message().to_owned())
}

#[tokio::test]
async fn writes_take_the_next_revision_and_reads_see_them() {
    let node = Node::start().await;
    let mut kv = KvClient::new(node.channel().await);
    let first = kv.put(put("a", "1")).await.expect("a put").into_inner();
    let header = first.header.expect("a header");
    assert_eq!((header.cluster_id, header.member_id, header.revision, header.raft_term), (IDENTITY.cluster, IDENTITY.member, 2, 1));
    let second = kv.put(pb::PutRequest { prev_kv: true, ..put("a", "2") }).await.expect("a put").into_inner();
    assert_eq!(&second.prev_kv.expect("what was there").value[..], b"1");
    kv.put(put("b", "3")).await.expect("a put");
    let all = kv.range(range("a", "\0")).await.expect("a range").into_inner();
    let shown: Vec<_> = all.kvs.iter().map(|kv| (&kv.key[..], &kv.value[..], kv.version, kv.mod_revision)).collect();
    assert_eq!(shown, [(&b"a"[..], &b"2"[..], 2, 3), (&b"b"[..], &b"3"[..], 1, 4)]);
    let before = kv.range(pb::RangeRequest { revision: 2, ..range("a", "") }).await.expect("a range").into_inner();
    assert_eq!((before.header.expect("a header").revision, &before.kvs[0].value[..]), (4, &b"1"[..]));
    let gone = kv.delete_range(pb::DeleteRangeRequest { key: bytes("a"), range_end: bytes("c"), prev_kv: true }).await;
    let gone = gone.expect("a delete").into_inner();
    assert_eq!((gone.deleted, gone.prev_kvs.len(), gone.header.expect("a header").revision), (2, 2, 5));
    let nothing = kv.delete_range(pb::DeleteRangeRequest { key: bytes("a"), ..Default::default() }).await.expect("a delete").into_inner();
    assert_eq!((nothing.deleted, nothing.header.expect("a header").revision), (0, 5));
}

#[tokio::test]
async fn a_transaction_takes_the_branch_that_its_compares_say() {
    let node = Node::start().await;
    let mut kv = KvClient::new(node.channel().await);
    let txn = pb::TxnRequest {
        compare: vec![pb::Compare {
            key: bytes("a"),
            result: CompareResult::Equal as i32,
            target: CompareTarget::Create as i32,
            target_union: Some(TargetUnion::CreateRevision(0)),
            ..Default::default()
        }],
        success: vec![op(Op::RequestPut(put("a", "1"))), op(Op::RequestRange(range("a", "")))],
        failure: vec![op(Op::RequestRange(pb::RangeRequest { serializable: true, ..range("a", "") }))],
    };
    let first = kv.txn(txn.clone()).await.expect("a transaction").into_inner();
    assert!(first.succeeded);
    assert_eq!(first.header.expect("a header").revision, 2);
    let Some(pb::response_op::Response::ResponseRange(read)) = &first.responses[1].response else { panic!("{first:?}") };
    assert_eq!(&read.kvs[0].value[..], b"1", "an operation sees those before it");
    let second = kv.txn(txn).await.expect("a transaction").into_inner();
    assert!(!second.succeeded);
    assert_eq!((second.header.expect("a header").revision, second.responses.len()), (2, 1));
}

#[tokio::test]
async fn numbers_of_a_compare_that_mean_nothing_are_judged_as_etcd_judges_them() {
    let node = Node::start().await;
    let mut kv = KvClient::new(node.channel().await);
    kv.put(put("there", "1")).await.expect("a put");
    let mut holds = async |key: &str, target: i32, result: i32| {
        let compare = pb::Compare { key: bytes(key), target, result, ..Default::default() };
        kv.txn(pb::TxnRequest { compare: vec![compare], ..Default::default() }).await.expect("a transaction").into_inner().succeeded
    };
    let value = CompareTarget::Value as i32;
    for (result, expected) in [(0, true), (1, false), (2, false), (3, false), (9, true)] {
        assert_eq!((holds("there", 9, result).await, holds("none", -1, result).await), (expected, expected), "result {result}");
    }
    assert_eq!((holds("there", value, 9).await, holds("none", value, 9).await, holds("none", 0, -1).await), (true, false, true));
}

#[tokio::test]
async fn what_is_wrong_in_two_ways_is_refused_for_the_one_that_etcd_sees_first() {
    let node = Node::start().await;
    let mut kv = KvClient::new(node.channel().await);
    let nothing = pb::RequestOp { request: None };
    let unsorted = op(Op::RequestRange(pb::RangeRequest { sort_order: 9, ..range("", "") }));
    let txn = |success: Vec<pb::RequestOp>| pb::TxnRequest { success, ..Default::default() };
    let invalid = Code::InvalidArgument;
    assert_eq!(seen(kv.txn(txn(vec![nothing.clone(); 129])).await), (invalid, "etcdserver: too many operations in txn request".into()));
    assert_eq!(seen(kv.txn(txn(vec![nothing.clone()])).await), (invalid, "etcdserver: key not found".into()));
    assert_eq!(seen(kv.txn(txn(vec![unsorted, nothing.clone()])).await), (invalid, "etcdserver: key is not provided".into()));
    let unkeyed = pb::TxnRequest { compare: vec![pb::Compare::default()], success: vec![nothing], ..Default::default() };
    assert_eq!(seen(kv.txn(unkeyed).await), (invalid, "etcdserver: key is not provided".into()));
    let unsorted = pb::RangeRequest { sort_target: 9, ..range("a", "") };
    assert_eq!(seen(kv.range(unsorted.clone()).await), (invalid, "etcdserver: invalid sort option".into()));
    assert_eq!(seen(kv.range_stream(unsorted).await), (invalid, "etcdserver: invalid sort option".into()));
    let sorted = pb::RangeRequest { sort_order: 2, min_mod_revision: 1, ..range("a", "") };
    assert_eq!(seen(kv.range_stream(sorted).await), (Code::Unimplemented, "RangeStream does not support custom sort orders".into()));
    let filtered = pb::RangeRequest { min_mod_revision: 1, ..range("a", "") };
    assert_eq!(seen(kv.range_stream(filtered).await), (Code::Unimplemented, "RangeStream does not support revision filters".into()));
}

#[tokio::test]
async fn refusals_have_the_codes_and_texts_that_clients_compare() {
    let node = Node::start().await;
    let mut kv = KvClient::new(node.channel().await);
    let mut lease = LeaseClient::new(node.channel().await);
    for n in 0..4 {
        kv.put(put("k", &n.to_string())).await.expect("a put");
    }
    kv.compact(pb::CompactionRequest { revision: 4, physical: true }).await.expect("a compaction");
    let doubled = vec![op(Op::RequestPut(put("x", ""))), op(Op::RequestPut(put("x", "")))];
    let many = (0..129).map(|n| op(Op::RequestPut(put(&n.to_string(), "")))).collect();
    let txn = |success| pb::TxnRequest { success, ..Default::default() };
    let invalid = |text: &str| (Code::InvalidArgument, format!("etcdserver: {text}"));
    assert_eq!(seen(kv.range(range("", "")).await), invalid("key is not provided"));
    assert_eq!(seen(kv.put(put("", "")).await), invalid("key is not provided"));
    assert_eq!(seen(kv.put(pb::PutRequest { ignore_value: true, ..put("none", "") }).await), invalid("key not found"));
    assert_eq!(seen(kv.put(pb::PutRequest { ignore_value: true, ..put("k", "v") }).await), invalid("value is provided"));
    assert_eq!(seen(kv.put(pb::PutRequest { ignore_lease: true, lease: 1, ..put("k", "v") }).await), invalid("lease is provided"));
    assert_eq!(seen(kv.txn(txn(doubled)).await), invalid("duplicate key given in txn request"));
    assert_eq!(seen(kv.txn(txn(many)).await), invalid("too many operations in txn request"));
    assert_eq!(seen(kv.txn(txn(vec![pb::RequestOp::default()])).await), invalid("key not found"));
    assert_eq!(seen(kv.put(put("k", &"v".repeat(3 << 19))).await), invalid("request is too large"));
    let outside = |text: &str| (Code::OutOfRange, format!("etcdserver: {text}"));
    let compacted = outside("mvcc: required revision has been compacted");
    assert_eq!(seen(kv.range(pb::RangeRequest { revision: 3, ..range("k", "") }).await), compacted);
    assert_eq!(seen(kv.compact(pb::CompactionRequest { revision: 4, physical: false }).await), compacted);
    let future = outside("mvcc: required revision is a future revision");
    assert_eq!(seen(kv.range(pb::RangeRequest { revision: 99, ..range("k", "") }).await), future);
    let no_lease = (Code::NotFound, "etcdserver: requested lease not found".to_owned());
    assert_eq!(seen(kv.put(pb::PutRequest { lease: 77, ..put("k", "v") }).await), no_lease);
    assert_eq!(seen(lease.lease_revoke(pb::LeaseRevokeRequest { id: 77 }).await), no_lease);
    lease.lease_grant(pb::LeaseGrantRequest { ttl: 5, id: 7 }).await.expect("a lease");
    let exists = (Code::FailedPrecondition, "etcdserver: lease already exists".to_owned());
    assert_eq!(seen(lease.lease_grant(pb::LeaseGrantRequest { ttl: 5, id: 7 }).await), exists);
    let too_long = outside("too large lease TTL");
    assert_eq!(seen(lease.lease_grant(pb::LeaseGrantRequest { ttl: 9_000_000_001, id: 8 }).await), too_long);
}

#[tokio::test]
async fn a_lease_lives_while_it_is_kept_alive_and_takes_its_keys_along() {
    let node = Node::start().await;
    let mut kv = KvClient::new(node.channel().await);
    let mut lease = LeaseClient::new(node.channel().await);
    let granted = lease.lease_grant(pb::LeaseGrantRequest { ttl: 60, id: 0 }).await.expect("a lease").into_inner();
    assert!(granted.id > 0);
    assert_eq!(granted.ttl, 60);
    let least = lease.lease_grant(pb::LeaseGrantRequest { ttl: 1, id: 9 }).await.expect("a lease").into_inner();
    assert_eq!(least.ttl, EtcdLimits::default().lease_ttl_s_min);
    kv.put(pb::PutRequest { lease: granted.id, ..put("held", "v") }).await.expect("a put");
    let asked = tokio_stream::iter([granted.id, 12345].map(|id| pb::LeaseKeepAliveRequest { id }));
    let mut answers = lease.lease_keep_alive(asked).await.expect("a stream").into_inner();
    let mut ttls = Vec::new();
    while let Some(answer) = answers.message().await.expect("an answer") {
        ttls.push((answer.id, answer.ttl));
    }
    assert_eq!(ttls, [(granted.id, 60), (12345, 0)], "an unknown lease has no time to live");
    let held = lease.lease_time_to_live(pb::LeaseTimeToLiveRequest { id: granted.id, keys: true }).await.expect("a lease").into_inner();
    assert!((58..=60).contains(&held.ttl), "{held:?}");
    assert_eq!((held.granted_ttl, &held.keys[0][..]), (60, &b"held"[..]));
    let unknown = lease.lease_time_to_live(pb::LeaseTimeToLiveRequest { id: 4, keys: false }).await.expect("an answer").into_inner();
    assert_eq!(unknown.ttl, -1);
    let all = lease.lease_leases(pb::LeaseLeasesRequest {}).await.expect("leases").into_inner();
    assert_eq!(all.leases.len(), 2);
    lease.lease_revoke(pb::LeaseRevokeRequest { id: granted.id }).await.expect("the lease ends");
    assert_eq!(kv.range(range("held", "")).await.expect("a range").into_inner().count, 0);
}

#[tokio::test]
async fn a_streamed_range_is_the_range_in_chunks_at_one_revision() {
    let limits = EtcdLimits { range_chunk_bytes: 4 << 10, ..EtcdLimits::default() };
    let node = Node::start_with(Setup { etcd: limits, ..Setup::default() }).await;
    let mut kv = KvClient::new(node.channel().await);
    for n in 0..500 {
        kv.put(put(&format!("k{n:04}"), &"v".repeat(n % 200))).await.expect("a put");
    }
    for limit in [0, 1, 100, 499, 500, 501] {
        let request = pb::RangeRequest { limit, ..range("k", "l") };
        let whole = kv.range(request.clone()).await.expect("a range").into_inner();
        let mut chunks = kv.range_stream(request).await.expect("a stream").into_inner();
        let (mut kvs, mut last, mut count) = (Vec::new(), None, 0);
        while let Some(chunk) = chunks.next().await {
            let chunk = chunk.expect("a chunk").range_response.expect("a response");
            assert!(last.is_none(), "nothing follows the header");
            count += 1;
            kvs.extend(chunk.kvs);
            last = chunk.header.map(|header| (header.revision, chunk.more, chunk.count));
        }
        assert!(count > 1 || limit == 1, "{limit}");
        assert_eq!(kvs, whole.kvs, "{limit}");
        assert_eq!(last, Some((501, whole.more, whole.count)), "{limit}");
    }
    let sorted = pb::RangeRequest { sort_order: 2, ..range("k", "l") };
    assert_eq!(seen(kv.range_stream(sorted).await).0, Code::Unimplemented);
}

#[tokio::test]
async fn without_a_leader_those_who_ask_for_one_are_refused() {
    let node = Node::start().await;
    let mut kv = KvClient::new(node.channel().await);
    let mut health = HealthClient::new(node.channel().await);
    let check = HealthCheckRequest { service: String::new() };
    assert_eq!(health.check(check.clone()).await.expect("health").into_inner().status, 1);
    node.pulse.set_leader(0, 2);
    let mut request = Request::new(range("a", ""));
    request.metadata_mut().insert("hasleader", "true".parse().expect("a value"));
    assert_eq!(seen(kv.range(request).await), (Code::Unavailable, "etcdserver: no leader".to_owned()));
    kv.range(pb::RangeRequest { serializable: true, ..range("a", "") }).await.expect("a range");
    assert_eq!(health.check(check).await.expect("health").into_inner().status, 2);
}

#[tokio::test]
async fn members_status_alarms_and_hashes_are_told() {
    let node = Node::start().await;
    let mut kv = KvClient::new(node.channel().await);
    let mut maintenance = MaintenanceClient::new(node.channel().await);
    kv.put(put("a", "1")).await.expect("a put");
    let members = ClusterClient::new(node.channel().await).member_list(pb::MemberListRequest { linearizable: true }).await;
    let members = members.expect("members").into_inner();
    assert_eq!((members.members[0].id, members.header.expect("a header").revision), (IDENTITY.member, 0));
    let status = maintenance.status(pb::StatusRequest {}).await.expect("a status").into_inner();
    assert_eq!((status.leader, status.raft_term, status.version.as_str()), (IDENTITY.member, 1, "3.7.0"));
    assert_eq!(status.db_size_quota, 2 << 30);
    let hash = maintenance.hash_kv(pb::HashKvRequest { revision: 0 }).await.expect("a hash").into_inner();
    assert_eq!(hash.hash_revision, 2);
    let alarm = |action, alarm| pb::AlarmRequest { action, member_id: 5, alarm };
    let armed = maintenance.alarm(alarm(1, 1)).await.expect("an alarm").into_inner();
    assert_eq!((armed.alarms.len(), armed.alarms[0].member_id, armed.alarms[0].alarm), (1, 5, 1));
    let full = (Code::ResourceExhausted, "etcdserver: mvcc: database space exceeded".to_owned());
    assert_eq!(seen(kv.put(put("b", "1")).await), full);
    maintenance.alarm(alarm(2, 1)).await.expect("no alarm");
    kv.put(put("b", "1")).await.expect("a put");
    assert!(maintenance.alarm(alarm(0, 0)).await.expect("a list").into_inner().alarms.is_empty());
}

/// The store arms the alarm by itself, for nobody in particular; what frees space goes on, and disarming lets writes in again.
#[tokio::test]
async fn a_full_store_refuses_what_takes_space_until_it_is_disarmed() {
    let store = concur_kv::Config { quota_bytes: 4000, ..Default::default() };
    let node = Node::start_with(Setup { store, ..Setup::default() }).await;
    let mut kv = KvClient::new(node.channel().await);
    let mut maintenance = MaintenanceClient::new(node.channel().await);
    let large = || put("k", &"v".repeat(500));
    let full = (Code::ResourceExhausted, "etcdserver: mvcc: database space exceeded".to_owned());
    let mut written = 0;
    let refusal = loop {
        match kv.put(large()).await {
            Ok(_) => written += 1,
            Err(status) => break (status.code(), status.message().to_owned()),
        }
    };
    assert_eq!(refusal, full);
    assert!((5..8).contains(&written), "{written}");
    let alarm = |action, member_id, alarm| pb::AlarmRequest { action, member_id, alarm };
    let listed = maintenance.alarm(alarm(0, 0, 0)).await.expect("a list").into_inner();
    assert_eq!((listed.alarms.len(), listed.alarms[0].member_id, listed.alarms[0].alarm), (1, 0, 1));
    let status = maintenance.status(pb::StatusRequest {}).await.expect("a status").into_inner();
    assert!(status.errors.iter().any(|error| error.contains("alarm:NOSPACE")), "{:?}", status.errors);
    // Even what is small: a grant, a transaction that puts. One that only reads or deletes goes on.
    let mut lease = LeaseClient::new(node.channel().await);
    assert_eq!(seen(lease.lease_grant(pb::LeaseGrantRequest { ttl: 60, id: 0 }).await), full);
    let txn = |request| pb::TxnRequest { success: vec![op(request)], ..Default::default() };
    assert_eq!(seen(kv.txn(txn(Op::RequestPut(put("k", "")))).await), full);
    kv.txn(txn(Op::RequestRange(range("k", "")))).await.expect("a read");
    kv.txn(txn(Op::RequestDeleteRange(pb::DeleteRangeRequest { key: bytes("none"), ..Default::default() }))).await.expect("a delete");
    kv.delete_range(pb::DeleteRangeRequest { key: bytes("k"), ..Default::default() }).await.expect("a delete");
    let revision = kv.range(range("k", "")).await.expect("a range").into_inner().header.expect("a header").revision;
    kv.compact(pb::CompactionRequest { revision, physical: true }).await.expect("a compaction");
    assert_eq!(seen(kv.put(put("k", "1")).await), full, "the alarm stands until it is disarmed");
    // That of another member is another, and no alarm is none: nothing is told of, and nothing changes.
    for other in [alarm(2, 5, 1), alarm(2, 0, 0), alarm(1, 0, 0), alarm(2, 0, 2)] {
        assert!(maintenance.alarm(other).await.expect("no alarm").into_inner().alarms.is_empty());
    }
    assert_eq!(maintenance.alarm(alarm(0, 0, 1)).await.expect("a list").into_inner().alarms.len(), 1);
    let disarmed = maintenance.alarm(alarm(2, 0, 1)).await.expect("it was armed").into_inner();
    assert_eq!((disarmed.alarms.len(), disarmed.alarms[0].member_id), (1, 0));
    kv.put(put("k", "1")).await.expect("a put");
}

#[tokio::test]
async fn a_downgrade_is_judged_as_etcd_judges_it() {
    let node = Node::start().await;
    let mut maintenance = MaintenanceClient::new(node.channel().await);
    let (validate, enable, cancel) = (0, 1, 2);
    let ask = |action, version: &str| pb::DowngradeRequest { action, version: version.into() };
    let format = (Code::InvalidArgument, "etcdserver: wrong downgrade target version format".to_owned());
    let target = (Code::InvalidArgument, "etcdserver: invalid downgrade target version".to_owned());
    for action in [validate, enable] {
        for version in ["", "3", "x.y", "3.6.0.1", "v3.6"] {
            assert_eq!(seen(maintenance.downgrade(ask(action, version)).await), format, "{version:?}");
        }
        for version in ["3.7", "3.5.0", "3.8.1", "2.6"] {
            assert_eq!(seen(maintenance.downgrade(ask(action, version)).await), target, "{version:?}");
        }
    }
    for version in ["3.6", "3.6.0", "3.6.9"] {
        let answer = maintenance.downgrade(ask(validate, version)).await.expect("it could").into_inner();
        assert_eq!((answer.version.as_str(), answer.header.expect("a header").revision), ("3.7", 1));
    }
    assert_eq!(seen(maintenance.downgrade(ask(enable, "3.6")).await).0, Code::FailedPrecondition);
    assert_eq!(maintenance.downgrade(ask(cancel, "")).await.expect("nothing to cancel").into_inner().version, "3.7");
    let status = maintenance.status(pb::StatusRequest {}).await.expect("a status").into_inner();
    assert_eq!(status.downgrade_info, Some(pb::DowngradeInfo::default()));
}
