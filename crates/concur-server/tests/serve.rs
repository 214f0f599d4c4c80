//! The listener: plain HTTP beside gRPC, limits, draining.

mod common;

use std::time::Duration;

use bytes::Bytes;
use common::{Node, Setup, get};
use concur_proto::etcdserverpb as pb;
use concur_proto::etcdserverpb::kv_client::KvClient;
use concur_proto::etcdserverpb::watch_client::WatchClient;
use concur_server::door::DoorLimits;
use concur_server::serve::ServeLimits;
use tokio::net::TcpStream;
use tonic::Code;

fn put(value_bytes: usize) -> pb::PutRequest {
    pb::PutRequest { key: Bytes::from_static(b"k"), value: Bytes::from(vec![b'v'; value_bytes]), ..Default::default() }
}

#[tokio::test]
async fn pages_are_served_beside_grpc_on_one_port() {
    let node = Node::start().await;
    let mut kv = KvClient::new(node.channel().await);
    kv.put(put(1)).await.expect("a put");
    assert_eq!(get(&node, "/health").await, (200, r#"{"health":"true","reason":""}"#.into()));
    assert_eq!(get(&node, "/livez").await, (200, "ok\n".into()));
    let (status, body) = get(&node, "/readyz?verbose").await;
    assert!(status == 200 && body.contains("[+]linearizable_read ok"), "{body}");
    assert!(get(&node, "/version").await.1.contains(r#""etcdserver":"3.7.0""#));
    assert_eq!(get(&node, "/nothing").await.0, 404);
    let (status, page) = get(&node, "/metrics").await;
    assert_eq!(status, 200);
    for line in [
        "etcd_server_has_leader 1",
        "etcd_server_proposals_committed_total 1",
        "etcd_debugging_mvcc_current_revision 2",
        r#"grpc_server_handled_total{grpc_type="unary",grpc_service="etcdserverpb.KV",grpc_method="Put",grpc_code="OK"} 1"#,
    ] {
        assert!(page.lines().any(|l| l == line), "{line} is not in\n{page}");
    }
    assert!(page.ends_with("# EOF\n"));
}

#[tokio::test]
async fn health_fails_without_a_leader_and_says_why() {
    let node = Node::start().await;
    node.pulse.set_leader(0, 1);
    assert_eq!(get(&node, "/health").await, (503, r#"{"health":"false","reason":"RAFT NO LEADER"}"#.into()));
    assert_eq!(get(&node, "/health?serializable=true").await.0, 200);
    assert_eq!(get(&node, "/readyz").await.0, 503);
    assert_eq!(get(&node, "/readyz?exclude=linearizable_read").await, (200, "ok\n".into()));
    assert_eq!(get(&node, "/readyz/data_corruption").await, (200, "ok\n".into()));
    assert_eq!(get(&node, "/livez").await.0, 200);
}

#[tokio::test]
async fn a_connection_too_many_is_told_so_and_a_place_is_given_back() {
    let serve = ServeLimits { connections_max: 1, ..ServeLimits::default() };
    let node = Node::start_with(Setup { serve, ..Setup::default() }).await;
    let mut kv = KvClient::new(node.channel().await);
    kv.put(put(1)).await.expect("a put");
    assert_eq!(get(&node, "/livez").await, (503, "too many connections to this server\n".into()));
    let refused = KvClient::new(node.channel().await).put(put(1)).await.expect_err("a refusal");
    assert_eq!((refused.code(), refused.message()), (Code::ResourceExhausted, "too many connections to this server"));
    drop(kv);
    let freed = async {
        while get(&node, "/livez").await.0 != 200 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), freed).await.expect("the place is free again");
}

#[tokio::test]
async fn commands_in_flight_are_bounded_by_their_bytes() {
    let door = DoorLimits { in_flight_bytes_max: 1000, ..DoorLimits::default() };
    let node = Node::start_with(Setup { door, ..Setup::default() }).await;
    let mut kv = KvClient::new(node.channel().await);
    kv.put(put(500)).await.expect("a put");
    let refused = kv.put(put(2000)).await.expect_err("a refusal");
    assert_eq!((refused.code(), refused.message()), (Code::ResourceExhausted, "etcdserver: too many requests"));
    kv.put(put(500)).await.expect("a refused command is not counted any more");
}

#[tokio::test]
async fn stopping_lets_idle_connections_go_and_cuts_the_rest_at_the_deadline() {
    let node = Node::start().await;
    let mut kv = KvClient::new(node.channel().await);
    kv.put(put(1)).await.expect("a put");
    node.stop.send(true).expect("it serves");
    assert_eq!(node.serving.await.expect("no panic").expect("no error"), 0);
    assert!(TcpStream::connect(node.address).await.is_err());

    let serve = ServeLimits { drain_time_max: Duration::from_millis(50), ..ServeLimits::default() };
    let node = Node::start_with(Setup { serve, ..Setup::default() }).await;
    let pending = tokio_stream::pending::<pb::WatchRequest>();
    let mut watching = WatchClient::new(node.channel().await).watch(pending).await.expect("a stream").into_inner();
    node.stop.send(true).expect("it serves");
    assert_eq!(node.serving.await.expect("no panic").expect("no error"), 1);
    assert!(watching.message().await.is_err());
}
