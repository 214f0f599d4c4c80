//! Every bound that a client can reach, reached: what is answered there, and that the server goes on.

mod common;

use std::time::Duration;

use common::{Node, Setup};
use concur_proto::etcdserverpb as pb;
use concur_proto::etcdserverpb::kv_client::KvClient;
use concur_proto::etcdserverpb::watch_client::WatchClient;
use concur_server::serve::ServeLimits;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const PATIENCE: Duration = Duration::from_secs(30);

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
