//! Every bound that a client can reach, reached: what is answered there, and that the server goes on. The page `docs/etcd.md` has the table.
//!
//! With `CONCUR_TEST_ETCD=PATH` a real etcd is asked where the bound is etcd's too.

mod common;
#[path = "changes/side.rs"]
#[allow(dead_code)]
mod side;

use std::time::Duration;

use bytes::Bytes;
use common::{Node, Setup};
use concur_proto::etcdserverpb as pb;
use concur_proto::etcdserverpb::auth_client::AuthClient;
use concur_proto::etcdserverpb::cluster_client::ClusterClient;
use concur_proto::etcdserverpb::kv_client::KvClient;
use concur_proto::etcdserverpb::maintenance_client::MaintenanceClient;
use concur_proto::etcdserverpb::watch_client::WatchClient;
use concur_server::door::DoorLimits;
use concur_server::etcd::EtcdLimits;
use concur_server::serve::ServeLimits;
use concur_server::watch::HubLimits;
use pb::compare::{CompareResult, CompareTarget, TargetUnion};
use pb::request_op::Request as Op;
use prost::Message;
use side::{PATIENCE, Side, all, bytes, is, put, range, txn};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_stream::StreamExt;
use tonic::{Code, Request};
use tower_service::Service;

/// How deep transactions may be nested, the outermost counted: a message is a hundred messages deep at most, and each takes two. In
/// etcd its 128 operations allow more.
const NESTED_MAX: usize = 50;

#[tokio::test]
async fn who_sends_no_headers_is_cut() {
    let serve = ServeLimits { header_time_max: Duration::from_millis(100), ..ServeLimits::default() };
    let node = Node::start_with(Setup { serve, ..Setup::default() }).await;
    let mut slow = TcpStream::connect(node.address).await.expect("a connection");
    slow.write_all(b"GET /health HTTP/1.1\r\nHost: no").await.expect("it is sent");
    let mut left = Vec::new();
    let cut = tokio::time::timeout(PATIENCE, slow.read_to_end(&mut left)).await.expect("it is cut in time");
    assert!(cut.is_err() || !left.starts_with(b"HTTP/1.1 200"));
}

/// A stream too many waits in the client for one that ends.
#[tokio::test]
async fn streams_of_one_connection_are_bounded() {
    let serve = ServeLimits { streams_max: 2, ..ServeLimits::default() };
    let node = Node::start_with(Setup { serve, ..Setup::default() }).await;
    let channel = node.channel().await;
    let range = || pb::RangeRequest { key: "a".into(), ..Default::default() };
    KvClient::new(channel.clone()).range(range()).await.expect("the first says what the server allows");
    let mut held = Vec::new();
    for _ in 0..2 {
        let (asks, asked) = tokio::sync::mpsc::channel::<pb::WatchRequest>(1);
        let asked = tokio_stream::wrappers::ReceiverStream::new(asked);
        held.push((asks, WatchClient::new(channel.clone()).watch(asked).await.expect("a stream").into_inner()));
    }
    let mut kv = KvClient::new(channel);
    let third = tokio::spawn(async move { kv.range(range()).await });
    KvClient::new(node.channel().await).range(range()).await.expect("another connection is not concerned");
    assert!(!third.is_finished());
    drop(held);
    tokio::time::timeout(PATIENCE, third).await.expect("in time").expect("no panic").expect("a range");
}

#[tokio::test]
async fn a_request_is_bounded() {
    let side = Side::start().await;
    let mut kv = side.kv().await;
    let large = |bytes: usize| pb::PutRequest { value: vec![b'v'; bytes].into(), ..put("a", "") };
    kv.put(large((3 << 19) - 512)).await.expect("a put");
    is(kv.put(large(3 << 19)).await, Code::InvalidArgument, "etcdserver: request is too large");
    let request = large(3 << 20);
    let text = format!("grpc: received message larger than max ({} vs. 2097152)", request.encoded_len());
    is(kv.put(request).await, Code::ResourceExhausted, &text);
    kv.put(put("a", "v")).await.expect("it goes on");
}

#[tokio::test]
async fn a_message_of_a_stream_is_bounded() {
    let side = Side::start().await;
    let create = pb::WatchCreateRequest { key: vec![b'k'; 3 << 20].into(), ..Default::default() };
    let union = Some(pb::watch_request::RequestUnion::CreateRequest(create));
    let request = pb::WatchRequest { request_union: union };
    let text = format!("grpc: received message larger than max ({} vs. 2097152)", request.encoded_len());
    let asked = tokio_stream::iter([request]).chain(tokio_stream::pending());
    let ended = match WatchClient::new(side.channel().await).watch(asked).await {
        Ok(stream) => tokio::time::timeout(PATIENCE, stream.into_inner().message()).await.expect("in time"),
        Err(status) => Err(status),
    };
    is(ended, Code::ResourceExhausted, &text);
    let small = pb::WatchCreateRequest { key: vec![b'k'; 1 << 20].into(), ..Default::default() };
    let union = Some(pb::watch_request::RequestUnion::CreateRequest(small));
    let asked = tokio_stream::iter([pb::WatchRequest { request_union: union }]).chain(tokio_stream::pending());
    let mut watching = WatchClient::new(side.channel().await).watch(asked).await.expect("a stream").into_inner();
    assert!(watching.message().await.expect("an answer").expect("no end").created);
}

/// A length that no bytes follow: refused by the length, before anything is taken for it.
#[tokio::test]
async fn a_length_that_is_only_claimed_takes_nothing() {
    let side = Side::start().await;
    let mut channel = side.channel().await;
    for path in ["/etcdserverpb.KV/Put", "/etcdserverpb.Watch/Watch", "/etcdserverpb.Lease/LeaseKeepAlive"] {
        let body = http_body_util::Full::new(Bytes::from_static(&[0, 0xff, 0xff, 0xff, 0xff, 1, 2, 3]));
        let request = http::Request::post(format!("http://{}{path}", side.address))
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .body(tonic::body::Body::new(body))
            .expect("a request");
        std::future::poll_fn(|cx| Service::poll_ready(&mut channel, cx)).await.expect("a connection");
        let answered = tokio::time::timeout(PATIENCE, channel.call(request)).await.expect("in time").expect("an answer");
        let told = answered.headers().get("grpc-status").map(|status| status.to_str().expect("a number").to_owned());
        if let Some(told) = told {
            assert_ne!(told, "0", "{path}");
        }
    }
    side.kv().await.range(all()).await.expect("it goes on");
}

#[tokio::test]
async fn a_transaction_is_bounded_in_each_list_and_in_depth() {
    let side = Side::start().await;
    let mut kv = side.kv().await;
    let many = "etcdserver: too many operations in txn request";
    let puts = |count: usize| txn((0..count).map(|n| Op::RequestPut(put(&format!("{n:03}"), ""))).collect());
    let compares =
        |count: usize| pb::TxnRequest { compare: vec![pb::Compare { key: bytes("a"), ..Default::default() }; count], ..Default::default() };
    kv.txn(puts(128)).await.expect("a transaction");
    kv.txn(compares(128)).await.expect("a transaction");
    is(kv.txn(puts(129)).await, Code::InvalidArgument, many);
    is(kv.txn(compares(129)).await, Code::InvalidArgument, many);
    is(kv.txn(pb::TxnRequest { failure: puts(129).success, ..Default::default() }).await, Code::InvalidArgument, many);
    // What is inside has what the lists around it leave.
    let inside = |left: usize| {
        let mut outer = puts(127);
        outer.success.push(pb::RequestOp { request: Some(Op::RequestTxn(txn(vec![Op::RequestRange(range("a")); left]))) });
        outer
    };
    kv.txn(inside(0)).await.expect("a transaction");
    is(kv.txn(inside(1)).await, Code::InvalidArgument, many);
    let around = |innermost, depth: usize| (1..depth).fold(innermost, |inner, _| txn(vec![Op::RequestTxn(inner)]));
    let nested = |depth| around(txn(vec![]), depth);
    for depth in [1, 2, NESTED_MAX] {
        kv.txn(nested(depth)).await.expect("a transaction");
    }
    for depth in [130, 1000] {
        is(kv.txn(nested(depth)).await, Code::InvalidArgument, many);
    }
    if side.node().is_some() {
        let reads = txn(vec![Op::RequestRange(range("a"))]);
        is(kv.txn(around(reads, NESTED_MAX + 1)).await, Code::InvalidArgument, many);
    }
    kv.put(put("a", "v")).await.expect("it goes on");
}

/// As deep as a message's bytes allow: far beyond any stack.
#[tokio::test]
async fn what_is_nested_without_end_takes_no_stack() {
    let side = Side::start().await;
    let mut nested: Vec<u8> = Vec::new();
    // From the inside out, lengths first known: built backwards, then turned around.
    while nested.len() < 1 << 20 {
        for tag in [0x22, 0x12] {
            let mut length = Vec::new();
            prost::encoding::encode_varint(nested.len() as u64, &mut length);
            nested.extend(length.iter().rev());
            nested.push(tag);
        }
    }
    nested.reverse();
    let framed = [&[0][..], &u32::try_from(nested.len()).expect("a length").to_be_bytes(), &nested].concat();
    let mut channel = side.channel().await;
    let request = http::Request::post(format!("http://{}/etcdserverpb.KV/Txn", side.address))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(tonic::body::Body::new(http_body_util::Full::new(Bytes::from(framed))))
        .expect("a request");
    std::future::poll_fn(|cx| Service::poll_ready(&mut channel, cx)).await.expect("a connection");
    let _ = tokio::time::timeout(PATIENCE, channel.call(request)).await.expect("in time");
    let objects = |depth: usize| r#"{"success":[{"request_txn":"#.repeat(depth) + "{}" + &"}]}".repeat(depth);
    assert_eq!(side.post("/v3/kv/txn", &objects(200)).await.0, 400);
    // A real etcd does not read the rest, and the connection breaks.
    if side.node().is_some() {
        let flat = [("/v3/kv/range", "[".repeat(200_000)), ("/v3/kv/put", r#"{"x":"#.repeat(200_000)), ("/v3/kv/txn", objects(20_000))];
        for (path, body) in flat {
            assert_eq!(side.post(path, &body).await.0, 400, "{path}");
        }
    }
    side.kv().await.range(all()).await.expect("it goes on");
}

#[tokio::test]
async fn a_key_is_any_bytes_but_none() {
    let side = Side::start().await;
    let mut kv = side.kv().await;
    let key = |bytes: &[u8]| Bytes::copy_from_slice(bytes);
    let keys: [&[u8]; 7] = [&[0], &[0, 0], b"a", b"a\0", &[0xff], &[0xff, 0xff], &[0xff, 0xff, 0]];
    for at in keys {
        kv.put(pb::PutRequest { key: key(at), ..Default::default() }).await.expect("a put");
    }
    let mut count = async |from: &[u8], end: &[u8]| {
        kv.range(pb::RangeRequest { key: key(from), range_end: key(end), ..Default::default() }).await.expect("a range").into_inner().count
    };
    assert_eq!(count(&[0], &[0]).await, 7, "all");
    assert_eq!(count(&[0xff], &[0]).await, 3, "from there on");
    assert_eq!(count(&[0xff], &[]).await, 1);
    assert_eq!(count(&[0xff], &[0xff, 0xff]).await, 1);
    assert_eq!(count(&[0xff, 0xff, 0xff], &[0]).await, 0);
    assert_eq!(count(b"a", b"a").await, 0);
    assert_eq!(count(b"b", b"a").await, 0);
    assert_eq!(count(b"a", &[0xff]).await, 2);
    let empty = "etcdserver: key is not provided";
    is(kv.range(pb::RangeRequest { range_end: bytes("a"), ..Default::default() }).await, Code::InvalidArgument, empty);
    is(kv.put(put("", "v")).await, Code::InvalidArgument, empty);
    is(kv.delete_range(pb::DeleteRangeRequest { range_end: bytes("\0"), ..Default::default() }).await, Code::InvalidArgument, empty);
    is(kv.txn(txn(vec![Op::RequestRange(range(""))])).await, Code::InvalidArgument, empty);
    let mut gone = async |from: &[u8], end: &[u8]| {
        let delete = pb::DeleteRangeRequest { key: key(from), range_end: key(end), ..Default::default() };
        kv.delete_range(delete).await.expect("a delete").into_inner().deleted
    };
    assert_eq!((gone(b"b", b"a").await, gone(&[0xff, 0xff], &[0]).await, gone(&[0], &[0]).await), (0, 2, 5));
}

#[tokio::test]
async fn numbers_go_to_their_ends() {
    let side = Side::start().await;
    let mut kv = side.kv().await;
    for value in ["1", "2", "3"] {
        kv.put(put("a", value)).await.expect("a put");
    }
    let future = "etcdserver: mvcc: required revision is a future revision";
    is(kv.range(pb::RangeRequest { revision: i64::MAX, ..range("a") }).await, Code::OutOfRange, future);
    for revision in [-1, i64::MIN] {
        let now = kv.range(pb::RangeRequest { revision, ..range("a") }).await.expect("a range").into_inner();
        assert_eq!(&now.kvs[0].value[..], b"3", "a negative revision is the current one");
    }
    for limit in [i64::MIN, -1, 0, i64::MAX, i64::MAX - 1] {
        let whole = kv.range(pb::RangeRequest { limit, ..all() }).await.expect("a range").into_inner();
        assert_eq!((whole.kvs.len(), whole.more), (1, false), "{limit}");
    }
    let mut filtered = async |min, max| {
        let range = pb::RangeRequest { min_mod_revision: min, max_create_revision: max, ..all() };
        kv.range(range).await.expect("a range").into_inner().kvs.len()
    };
    assert_eq!((filtered(i64::MIN, i64::MAX).await, filtered(i64::MAX, 0).await, filtered(0, i64::MIN).await), (1, 0, 0));
    let mut holds = async |target: CompareTarget, result: CompareResult, union: TargetUnion| {
        let compare =
            pb::Compare { key: bytes("a"), target: target as i32, result: result as i32, target_union: Some(union), ..Default::default() };
        kv.txn(pb::TxnRequest { compare: vec![compare], ..Default::default() }).await.expect("a transaction").into_inner().succeeded
    };
    use CompareResult::{Greater, Less, NotEqual};
    assert!(holds(CompareTarget::Mod, Greater, TargetUnion::ModRevision(i64::MIN)).await);
    assert!(holds(CompareTarget::Mod, Less, TargetUnion::ModRevision(i64::MAX)).await);
    assert!(holds(CompareTarget::Version, Less, TargetUnion::Version(i64::MAX)).await);
    assert!(holds(CompareTarget::Create, Greater, TargetUnion::CreateRevision(i64::MIN)).await);
    assert!(holds(CompareTarget::Lease, NotEqual, TargetUnion::Lease(i64::MIN)).await);
    let mut maintenance = MaintenanceClient::new(side.channel().await);
    is(maintenance.hash_kv(pb::HashKvRequest { revision: i64::MAX }).await, Code::OutOfRange, future);
    kv.put(put("a", "v")).await.expect("it goes on");
}

#[tokio::test]
async fn headers_are_bounded() {
    let side = Side::start().await;
    let mut request = Request::new(range("a"));
    request.metadata_mut().insert("token", "x".repeat(8 << 10).parse().expect("a value"));
    side.kv().await.range(request).await.expect("what is long is no harm");
    if side.node().is_some() {
        let mut request = Request::new(range("a"));
        request.metadata_mut().insert("token", "x".repeat(64 << 10).parse().expect("a value"));
        side.kv().await.range(request).await.expect_err("a refusal");
        let headers = format!("X: {}\r\n", "x".repeat(64 << 10));
        assert_eq!(side.page("GET", "/health", &headers, "").await.0, 431);
    }
    side.kv().await.range(range("a")).await.expect("it goes on");
}

#[tokio::test]
async fn names_are_long_and_passwords_are_not() {
    let side = Side::start().await;
    let mut auth = AuthClient::new(side.channel().await);
    let user = |name: String, password: String| pb::AuthUserAddRequest { name, password, ..Default::default() };
    is(auth.user_add(user(String::new(), "p".into())).await, Code::InvalidArgument, "etcdserver: user name is empty");
    is(auth.role_add(pb::AuthRoleAddRequest { name: String::new() }).await, Code::InvalidArgument, "etcdserver: role name is empty");
    auth.user_add(user("n".repeat(30 << 10), "p".repeat(72))).await.expect("a user");
    auth.role_add(pb::AuthRoleAddRequest { name: "r".repeat(30 << 10) }).await.expect("a role");
    is(auth.user_add(user("a".into(), "p".repeat(73))).await, Code::Unknown, "bcrypt: password length exceeds 72 bytes");
    let huge = "n".repeat(3 << 19);
    is(auth.role_add(pb::AuthRoleAddRequest { name: huge.clone() }).await, Code::InvalidArgument, "etcdserver: request is too large");
    let entered = auth.authenticate(pb::AuthenticateRequest { name: huge, password: "p".into() }).await;
    is(entered, Code::FailedPrecondition, "etcdserver: authentication is not enabled");
}

#[tokio::test]
async fn every_address_of_a_member_is_looked_at() {
    let side = Side::start().await;
    let mut members = ClusterClient::new(side.channel().await);
    let mut add = async |urls: Vec<String>| members.member_add(pb::MemberAddRequest { peer_ur_ls: urls, is_learner: true }).await;
    let invalid = "etcdserver: given member URLs are invalid";
    is(add(vec!["http://127.0.0.1:1".into(), "no URL".into()]).await, Code::InvalidArgument, invalid);
    is(add(vec!["no URL".into(); 10_000]).await, Code::InvalidArgument, invalid);
    is(add(vec!["x".repeat(1 << 20)]).await, Code::InvalidArgument, invalid);
}

#[tokio::test]
async fn a_body_of_json_is_bounded() {
    let side = Side::start().await;
    let value = |bytes: usize| format!(r#"{{"key":"YQ==","value":"{}"}}"#, "A".repeat(bytes));
    assert_eq!(side.post("/v3/kv/put", &value(1 << 20)).await.0, 200);
    let (status, refused) = side.post("/v3/kv/put", &value(2_200_000)).await;
    assert_eq!((status, &refused["message"]), (400, &serde_json::json!("etcdserver: request is too large")));
    let (status, refused) = side.post("/v3/kv/put", &value(3_600_000)).await;
    assert_eq!((status, &refused["code"]), (429, &serde_json::json!(8)), "{refused}");
    side.kv().await.range(all()).await.expect("it goes on");
}

#[tokio::test]
async fn watches_are_bounded() {
    let hub = HubLimits { streams_max: 2, watchers_max: 3, ..HubLimits::default() };
    let node = Node::start_with(Setup { hub, ..Setup::default() }).await;
    let open = async || {
        let (asks, asked) = tokio::sync::mpsc::channel(8);
        let asked = tokio_stream::wrappers::ReceiverStream::new(asked);
        (asks, WatchClient::new(node.channel().await).watch(asked).await.expect("a stream").into_inner())
    };
    let (asks, mut responses) = open().await;
    let create = || {
        let create = pb::WatchCreateRequest { key: "a".into(), ..Default::default() };
        pb::WatchRequest { request_union: Some(pb::watch_request::RequestUnion::CreateRequest(create)) }
    };
    for _ in 0..3 {
        asks.send(create()).await.expect("it is open");
        assert!(!responses.message().await.expect("an answer").expect("no end").canceled);
    }
    asks.send(create()).await.expect("it is open");
    let refused = responses.message().await.expect("an answer").expect("no end");
    assert_eq!((refused.watch_id, refused.canceled, refused.cancel_reason.as_str()), (-1, true, "etcdserver: too many requests"));
    let (_second, _held) = open().await;
    let (_third, mut ended) = open().await;
    is(ended.message().await, Code::ResourceExhausted, "etcdserver: too many requests");
}

#[test]
fn the_page_says_the_bounds() {
    let page = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/etcd.md")).expect("the page");
    let table = page.split_once("## Limits").expect("it has them").1;
    let (etcd, serve, hub, door) = (EtcdLimits::default(), ServeLimits::default(), HubLimits::default(), DoorLimits::default());
    let number = |n: u64| {
        let digits = n.to_string();
        let groups: Vec<_> = digits.as_bytes().rchunks(3).rev().map(|group| String::from_utf8_lossy(group).into_owned()).collect();
        groups.join(",")
    };
    for (what, bound) in [
        ("a request", format!("{} MiB", etcd.request_bytes_max as f64 / f64::from(1 << 20))),
        ("a message", format!("{} KiB more", etcd.request_overhead_bytes >> 10)),
        ("operations in each list of a transaction", etcd.txn_ops_max.to_string()),
        ("transactions in each other", NESTED_MAX.to_string()),
        ("the time to live of a lease", format!("{} s to {} s", etcd.lease_ttl_s_min, number(concur_kv::LEASE_TTL_MAX_S as u64))),
        ("the time of a request", format!("{} s", etcd.request_time_max.as_secs())),
        ("connections", number(serve.connections_max as u64)),
        ("streams of one connection", number(serve.streams_max.into())),
        ("headers of a request", format!("{} KiB", serve.header_bytes_max >> 10)),
        ("the time that headers may take", format!("{} s", serve.header_time_max.as_secs())),
        ("time between a client's pings", format!("{} s", serve.ping_apart_min.as_secs())),
        ("watchers of a node", number(hub.watchers_max as u64)),
        ("streams of watches of a node", number(hub.streams_max as u64)),
        ("requests that wait in a node", number(door.jobs_max as u64)),
        ("commands under way in a node", format!("{} MiB", door.in_flight_bytes_max >> 20)),
        ("the quota of a store", format!("{} GiB", concur_kv::Config::default().quota_bytes >> 30)),
    ] {
        let row = table.lines().find(|line| line.starts_with(&format!("| {what} |"))).unwrap_or_else(|| panic!("no row for {what}"));
        assert!(row.starts_with(&format!("| {what} | {bound}")), "{what} is {bound}: {row}");
    }
}
