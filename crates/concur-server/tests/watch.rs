//! Watches over a real socket: order, ids, history, compaction, progress, fragments, slow readers.

mod common;

use std::time::Duration;

use bytes::Bytes;
use common::{Node, Setup};
use concur_proto::etcdserverpb as pb;
use concur_proto::etcdserverpb::kv_client::KvClient;
use concur_proto::etcdserverpb::watch_client::WatchClient;
use concur_server::watch::HubLimits;
use pb::watch_request::RequestUnion;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;
use tonic::{Code, Request, Status, Streaming};

struct Watches {
    asks: mpsc::Sender<pb::WatchRequest>,
    responses: Streaming<pb::WatchResponse>,
}

impl Watches {
    async fn open(channel: Channel) -> Self {
        let (asks, stream) = mpsc::channel(16);
        let responses = WatchClient::new(channel).watch(ReceiverStream::new(stream)).await.expect("a stream").into_inner();
        Self { asks, responses }
    }

    async fn ask(&self, union: RequestUnion) {
        self.asks.send(pb::WatchRequest { request_union: Some(union) }).await.expect("the stream is open");
    }

    async fn create(&mut self, create: pb::WatchCreateRequest) -> pb::WatchResponse {
        self.ask(RequestUnion::CreateRequest(create)).await;
        let created = self.next().await;
        assert!(created.created && created.events.is_empty(), "{created:?}");
        created
    }

    async fn next(&mut self) -> pb::WatchResponse {
        let next = tokio::time::timeout(Duration::from_secs(20), self.responses.message());
        next.await.expect("a response in time").expect("no error").expect("no end")
    }

    /// Events until there are `count`, as (kind, key, value, revision).
    async fn events(&mut self, count: usize) -> Vec<(i32, String, String, i64)> {
        let mut events = Vec::new();
        while events.len() < count {
            events.extend(self.next().await.events.into_iter().map(shown));
        }
        assert_eq!(events.len(), count);
        events
    }
}

fn shown(event: concur_proto::mvccpb::Event) -> (i32, String, String, i64) {
    let kv = event.kv.expect("a key");
    let text = |bytes: &Bytes| String::from_utf8(bytes.to_vec()).expect("text");
    (event.r#type, text(&kv.key), text(&kv.value), kv.mod_revision)
}

fn bytes(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

fn watch(key: &str, end: &str) -> pb::WatchCreateRequest {
    pb::WatchCreateRequest { key: bytes(key), range_end: bytes(end), ..Default::default() }
}

async fn put(kv: &mut KvClient<Channel>, key: &str, value: &str) -> i64 {
    let put = pb::PutRequest { key: bytes(key), value: bytes(value), ..Default::default() };
    kv.put(put).await.expect("a put").into_inner().header.expect("a header").revision
}

async fn delete(kv: &mut KvClient<Channel>, key: &str) {
    kv.delete_range(pb::DeleteRangeRequest { key: bytes(key), ..Default::default() }).await.expect("a delete");
}

fn event(kind: i32, key: &str, value: &str, revision: i64) -> (i32, String, String, i64) {
    (kind, key.into(), value.into(), revision)
}

#[tokio::test]
async fn what_happens_after_creation_is_told_in_order() {
    let node = Node::start().await;
    let mut kv = KvClient::new(node.channel().await);
    let mut watches = Watches::open(node.channel().await).await;
    put(&mut kv, "a", "before").await;
    assert_eq!(watches.create(watch("a", "b")).await.watch_id, 0);
    assert_eq!(watches.create(watch("zzz", "")).await.watch_id, 1);
    put(&mut kv, "a", "1").await;
    put(&mut kv, "b", "2").await;
    put(&mut kv, "ab", "3").await;
    delete(&mut kv, "a").await;
    let events = watches.events(3).await;
    assert_eq!(events, [event(0, "a", "1", 3), event(0, "ab", "3", 5), event(1, "a", "", 6)]);
}

#[tokio::test]
async fn a_watch_from_the_past_gets_the_history_then_what_comes() {
    let node = Node::start().await;
    let mut kv = KvClient::new(node.channel().await);
    for n in 0..10 {
        put(&mut kv, "k", &n.to_string()).await;
    }
    let mut watches = Watches::open(node.channel().await).await;
    watches.create(pb::WatchCreateRequest { start_revision: 5, ..watch("k", "") }).await;
    let events = watches.events(7).await;
    assert_eq!(events.iter().map(|event| event.3).collect::<Vec<_>>(), (5..=11).collect::<Vec<_>>());
    put(&mut kv, "k", "x").await;
    assert_eq!(watches.events(1).await, [event(0, "k", "x", 12)]);
}

#[tokio::test]
async fn a_watch_from_the_future_hears_nothing_before() {
    let node = Node::start().await;
    let mut kv = KvClient::new(node.channel().await);
    let mut watches = Watches::open(node.channel().await).await;
    watches.create(pb::WatchCreateRequest { start_revision: 4, ..watch("k", "") }).await;
    for n in 2..6 {
        assert_eq!(put(&mut kv, "k", &n.to_string()).await, n);
    }
    assert_eq!(watches.events(2).await, [event(0, "k", "4", 4), event(0, "k", "5", 5)]);
}

#[tokio::test]
async fn a_start_that_is_compacted_cancels_and_says_where_to_start() {
    let node = Node::start().await;
    let mut kv = KvClient::new(node.channel().await);
    for n in 0..10 {
        put(&mut kv, "k", &n.to_string()).await;
    }
    delete(&mut kv, "k").await;
    kv.compact(pb::CompactionRequest { revision: 12, physical: true }).await.expect("a compaction");
    let mut watches = Watches::open(node.channel().await).await;
    watches.create(pb::WatchCreateRequest { start_revision: 5, ..watch("k", "") }).await;
    let cancelled = watches.next().await;
    assert!(cancelled.canceled && !cancelled.created);
    assert_eq!((cancelled.compact_revision, cancelled.watch_id, cancelled.cancel_reason.as_str()), (12, 0, ""));
    watches.create(pb::WatchCreateRequest { start_revision: 12, ..watch("k", "") }).await;
    assert_eq!(watches.events(1).await, [event(1, "k", "", 12)], "a delete at the compacted revision is seen");
    let refused = watches.create(pb::WatchCreateRequest { start_revision: -1, ..watch("k", "") }).await;
    assert_eq!((refused.watch_id, refused.canceled), (-1, true));
    assert_eq!(refused.cancel_reason, "etcdserver: mvcc: required revision has been compacted");
}

#[tokio::test]
async fn ids_are_given_kept_and_freed_as_etcd_does() {
    let node = Node::start().await;
    let mut kv = KvClient::new(node.channel().await);
    let mut watches = Watches::open(node.channel().await).await;
    assert_eq!(watches.create(pb::WatchCreateRequest { watch_id: 1, ..watch("a", "") }).await.watch_id, 1);
    assert_eq!(watches.create(watch("b", "")).await.watch_id, 0);
    assert_eq!(watches.create(watch("c", "")).await.watch_id, 2);
    let twice = watches.create(pb::WatchCreateRequest { watch_id: 1, ..watch("a", "") }).await;
    assert_eq!((twice.watch_id, twice.canceled), (-1, true));
    let empty = watches.create(watch("b", "a")).await;
    assert_eq!((empty.watch_id, empty.canceled), (-1, true));
    watches.ask(RequestUnion::CancelRequest(pb::WatchCancelRequest { watch_id: 1 })).await;
    let cancelled = watches.next().await;
    assert_eq!((cancelled.watch_id, cancelled.canceled), (1, true));
    put(&mut kv, "a", "unheard").await;
    put(&mut kv, "b", "heard").await;
    assert_eq!(watches.events(1).await, [event(0, "b", "heard", 3)]);
}

#[tokio::test]
async fn filters_leave_out_and_previous_versions_are_shown() {
    let node = Node::start().await;
    let mut kv = KvClient::new(node.channel().await);
    let mut watches = Watches::open(node.channel().await).await;
    watches.create(pb::WatchCreateRequest { filters: vec![0], prev_kv: true, ..watch("k", "") }).await;
    watches.create(pb::WatchCreateRequest { filters: vec![1], prev_kv: true, ..watch("k", "") }).await;
    put(&mut kv, "k", "1").await;
    put(&mut kv, "k", "2").await;
    delete(&mut kv, "k").await;
    let mut heard = [Vec::new(), Vec::new()];
    while heard[0].is_empty() || heard[1].len() < 2 {
        let response = watches.next().await;
        heard[response.watch_id as usize].extend(response.events);
    }
    let previous = |event: &concur_proto::mvccpb::Event| event.prev_kv.as_ref().map(|kv| kv.value.clone());
    assert_eq!(heard[0].iter().map(previous).collect::<Vec<_>>(), [Some(bytes("2"))]);
    assert_eq!(heard[1].iter().map(previous).collect::<Vec<_>>(), [None, Some(bytes("1"))]);
    assert!(heard[1].iter().all(|event| event.r#type == 0));
}

#[tokio::test]
async fn one_revision_comes_whole_or_in_fragments() {
    let hub = HubLimits { fragment_bytes: 1000, ..HubLimits::default() };
    let node = Node::start_with(Setup { hub, ..Setup::default() }).await;
    let mut kv = KvClient::new(node.channel().await);
    let mut watches = Watches::open(node.channel().await).await;
    watches.create(watch("", "\0")).await;
    watches.create(pb::WatchCreateRequest { fragment: true, ..watch("", "\0") }).await;
    let puts = (0..20).map(|n| pb::PutRequest { key: bytes(&format!("k{n}")), value: bytes(&"v".repeat(100)), ..Default::default() });
    let success = puts.map(|put| pb::RequestOp { request: Some(pb::request_op::Request::RequestPut(put)) }).collect();
    kv.txn(pb::TxnRequest { success, ..Default::default() }).await.expect("a transaction");
    let whole = watches.next().await;
    assert_eq!((whole.watch_id, whole.events.len(), whole.fragment), (0, 20, false));
    let mut parts = Vec::new();
    while parts.iter().map(|part: &pb::WatchResponse| part.events.len()).sum::<usize>() < 20 {
        parts.push(watches.next().await);
    }
    assert!(parts.len() > 1);
    let (last, rest) = parts.split_last().expect("parts");
    assert!(!last.fragment && rest.iter().all(|part| part.fragment));
}

#[tokio::test]
async fn progress_is_told_once_and_never_before_the_events() {
    let node = Node::start().await;
    let mut kv = KvClient::new(node.channel().await);
    for n in 0..100 {
        put(&mut kv, "k", &n.to_string()).await;
    }
    let mut watches = Watches::open(node.channel().await).await;
    watches.ask(RequestUnion::CreateRequest(pb::WatchCreateRequest { start_revision: 2, ..watch("k", "") })).await;
    watches.ask(RequestUnion::ProgressRequest(pb::WatchProgressRequest {})).await;
    assert!(watches.next().await.created);
    assert_eq!(watches.events(100).await.len(), 100);
    let progress = watches.next().await;
    assert_eq!((progress.watch_id, progress.header.expect("a header").revision, progress.events.len()), (-1, 101, 0));
    put(&mut kv, "k", "x").await;
    assert_eq!(watches.next().await.events.len(), 1);
}

#[tokio::test]
async fn a_quiet_watch_is_told_the_revision_if_it_asked() {
    let hub = HubLimits { notify_interval: Duration::from_millis(100), ..HubLimits::default() };
    let node = Node::start_with(Setup { hub, ..Setup::default() }).await;
    let mut kv = KvClient::new(node.channel().await);
    let mut watches = Watches::open(node.channel().await).await;
    watches.create(pb::WatchCreateRequest { progress_notify: true, ..watch("k", "") }).await;
    put(&mut kv, "other", "").await;
    loop {
        let told = watches.next().await;
        assert!(told.events.is_empty() && told.watch_id == 0);
        if told.header.expect("a header").revision == 2 {
            return;
        }
    }
}

#[tokio::test]
async fn thousands_of_watchers_on_one_stream_are_each_told_once() {
    const WATCHERS: i64 = 4000;
    const KEYS: i64 = 50;
    let node = Node::start().await;
    let mut kv = KvClient::new(node.channel().await);
    let mut watches = Watches::open(node.channel().await).await;
    for n in 0..WATCHERS {
        assert_eq!(watches.create(watch(&format!("k{}", n % KEYS), "")).await.watch_id, n);
    }
    for n in 0..KEYS {
        put(&mut kv, &format!("k{n}"), "v").await;
    }
    watches.ask(RequestUnion::ProgressRequest(pb::WatchProgressRequest {})).await;
    let mut told = std::collections::BTreeSet::new();
    loop {
        let response = watches.next().await;
        if response.watch_id == -1 {
            assert_eq!(response.header.expect("a header").revision, 1 + KEYS);
            break;
        }
        let [event] = &response.events[..] else { panic!("one event each: {response:?}") };
        assert_eq!(event.kv.as_ref().expect("a key").key, format!("k{}", response.watch_id % KEYS));
        assert!(told.insert(response.watch_id), "watcher {} was told twice", response.watch_id);
    }
    assert_eq!(told.len() as i64, WATCHERS, "progress came before the events");
}

#[tokio::test]
async fn a_stream_with_a_watcher_that_is_behind_is_told_progress_only_behind_all_its_events() {
    let node = Node::start_with(Setup { hub: HubLimits { slice_changes_max: 8, ..HubLimits::default() }, ..Setup::default() }).await;
    let mut kv = KvClient::new(node.channel().await);
    for n in 0..300 {
        put(&mut kv, "k", &n.to_string()).await;
    }
    let mut watches = Watches::open(node.channel().await).await;
    watches.ask(RequestUnion::CreateRequest(pb::WatchCreateRequest { start_revision: 2, ..watch("k", "") })).await;
    watches.ask(RequestUnion::CreateRequest(watch("other", ""))).await;
    watches.ask(RequestUnion::ProgressRequest(pb::WatchProgressRequest {})).await;
    let mut last = 0;
    loop {
        let response = watches.next().await;
        if response.watch_id == -1 {
            assert_eq!((last, response.header.expect("a header").revision), (301, 301));
            return;
        }
        last = response.events.last().map_or(last, |event| event.kv.as_ref().expect("a key").mod_revision);
    }
}

#[tokio::test]
async fn progress_asked_for_before_does_not_overtake_the_history_of_a_watcher_created_since() {
    let node = Node::start().await;
    let mut kv = KvClient::new(node.channel().await);
    for n in 0..3 {
        put(&mut kv, "k", &n.to_string()).await;
    }
    let mut watches = Watches::open(node.channel().await).await;
    watches.create(pb::WatchCreateRequest { start_revision: 6, ..watch("later", "") }).await;
    watches.ask(RequestUnion::ProgressRequest(pb::WatchProgressRequest {})).await;
    // Its answer says that the request was read: it waits for the watcher that begins in the future.
    watches.create(watch("other", "")).await;
    assert_eq!(put(&mut kv, "x", "").await, 5);
    watches.ask(RequestUnion::CreateRequest(pb::WatchCreateRequest { start_revision: 2, ..watch("k", "") })).await;
    let (mut created, mut progress, mut last) = (false, false, 0);
    while !progress || last < 4 {
        let response = watches.next().await;
        created |= response.created;
        progress |= response.watch_id == -1;
        assert!(
            !(created && response.watch_id == -1 && last < 4),
            "progress up to {:?} came before the event of revision 2",
            response.header
        );
        last = response.events.last().map_or(last, |event| event.kv.as_ref().expect("a key").mod_revision);
    }
}

#[tokio::test]
async fn a_slow_reader_misses_nothing() {
    let node = Node::start().await;
    let mut kv = KvClient::new(node.channel().await);
    let mut watches = Watches::open(node.channel().await).await;
    watches.create(watch("k", "l")).await;
    // More than the stream's queue, its buffers and its windows hold, while nobody reads.
    let value = "v".repeat(256 << 10);
    for _ in 0..120 {
        put(&mut kv, "k", &value).await;
    }
    let (_, page) = common::get(&node, "/metrics").await;
    assert!(page.contains("etcd_debugging_mvcc_slow_watcher_total 1\n"), "it is behind");
    let revisions: Vec<i64> = watches.events(120).await.into_iter().map(|event| event.3).collect();
    assert_eq!(revisions, (2..122).collect::<Vec<_>>());
    put(&mut kv, "k", "last").await;
    assert_eq!(watches.events(1).await, [event(0, "k", "last", 122)]);
    let (_, page) = common::get(&node, "/metrics").await;
    assert!(page.contains("etcd_debugging_mvcc_slow_watcher_total 0\n"), "it is not behind any more");
}

#[tokio::test]
async fn a_stream_that_needs_a_leader_ends_without_one() {
    let hub = HubLimits { leaderless_time_max: Duration::from_millis(10), ..HubLimits::default() };
    let node = Node::start_with(Setup { hub, ..Setup::default() }).await;
    let (asks, stream) = mpsc::channel(1);
    let mut request = Request::new(ReceiverStream::new(stream));
    request.metadata_mut().insert("hasleader", "true".parse().expect("a value"));
    let mut responses = WatchClient::new(node.channel().await).watch(request).await.expect("a stream").into_inner();
    node.pulse.set_leader(0, 1);
    let ended: Status = responses.message().await.expect_err("the stream ends");
    assert_eq!((ended.code(), ended.message()), (Code::Unavailable, "etcdserver: no leader"));
    drop(asks);
}

#[tokio::test]
async fn a_step_too_large_to_hand_out_is_served_from_the_history() {
    let hub = HubLimits { step_revisions_max: 0, slice_changes_max: 2, ..HubLimits::default() };
    let node = Node::start_with(Setup { hub, ..Setup::default() }).await;
    let mut kv = KvClient::new(node.channel().await);
    let mut watches = Watches::open(node.channel().await).await;
    watches.create(watch("k", "l")).await;
    watches.create(pb::WatchCreateRequest { start_revision: 9, ..watch("k", "l") }).await;
    let mut heard = [Vec::new(), Vec::new()];
    for n in 2..12 {
        put(&mut kv, &format!("k{n}"), "").await;
    }
    while heard.iter().map(Vec::len).sum::<usize>() < 13 {
        let response = watches.next().await;
        heard[response.watch_id as usize].extend(response.events.into_iter().map(|event| shown(event).3));
    }
    assert_eq!(heard, [(2..12).collect::<Vec<_>>(), (9..12).collect::<Vec<_>>()]);
}
