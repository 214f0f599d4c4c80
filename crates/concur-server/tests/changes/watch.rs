//! Of watches.

use std::time::Duration;

use concur_proto::etcdserverpb as pb;
use concur_proto::etcdserverpb::watch_client::WatchClient;
use pb::watch_request::RequestUnion;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_stream::wrappers::ReceiverStream;
use tonic::metadata::MetadataValue;
use tonic::{Code, Request, Response, Status, Streaming};

use crate::side::{PATIENCE, Side, Wanted, bytes, delete, is, put};

/// A stream of watches.
pub(crate) struct Watches {
    asks: mpsc::Sender<pb::WatchRequest>,
    /// Opened in the background: a real etcd says nothing, not even that the stream is open, before it is asked something.
    opening: JoinHandle<Result<Response<Streaming<pb::WatchResponse>>, Status>>,
    responses: Option<Streaming<pb::WatchResponse>>,
}

impl Watches {
    pub(crate) async fn open(side: &Side, token: Option<&str>) -> Self {
        let (asks, stream) = mpsc::channel(64);
        let mut request = Request::new(ReceiverStream::new(stream));
        if let Some(token) = token {
            request.metadata_mut().insert("token", token.parse().expect("a value"));
        }
        let mut client = WatchClient::new(side.channel().await);
        let opening = tokio::spawn(async move { client.watch(request).await });
        Self { asks, opening, responses: None }
    }

    async fn ask(&self, union: RequestUnion) {
        self.asks.send(pb::WatchRequest { request_union: Some(union) }).await.expect("the stream is open");
    }

    pub(crate) async fn create(&mut self, create: pb::WatchCreateRequest) -> pb::WatchResponse {
        self.ask(RequestUnion::CreateRequest(create)).await;
        let created = self.next().await;
        assert!(created.created && created.events.is_empty(), "{created:?}");
        created
    }

    async fn next(&mut self) -> pb::WatchResponse {
        let next = async {
            if self.responses.is_none() {
                self.responses = Some((&mut self.opening).await.expect("no panic").expect("a stream").into_inner());
            }
            self.responses.as_mut().expect("it is open").message().await
        };
        let next = tokio::time::timeout(PATIENCE, next).await;
        next.expect("a response in time").expect("no error").expect("no end")
    }

    /// The revisions of so many events, and whether progress was told before the last of them.
    async fn events(&mut self, count: usize) -> (Vec<i64>, bool) {
        let (mut revisions, mut progress) = (Vec::new(), false);
        while revisions.len() < count {
            let response = self.next().await;
            progress |= response.events.is_empty();
            revisions.extend(response.events.iter().map(|event| event.kv.as_ref().expect("a key").mod_revision));
        }
        (revisions, progress)
    }
}

pub(crate) fn watch(key: &str, end: &str) -> pb::WatchCreateRequest {
    pb::WatchCreateRequest { key: bytes(key), range_end: bytes(end), ..Default::default() }
}

/// How a watch ended before it began.
#[track_caller]
pub(crate) fn ended(response: &pb::WatchResponse, reason: &str) {
    assert!(response.created && response.canceled, "{response:?}");
    assert_eq!((response.watch_id, response.cancel_reason.as_str(), response.compact_revision), (-1, reason, 0));
}

pub(crate) async fn begins_at_no_negative_revision() {
    let side = Side::start().await;
    let mut watches = Watches::open(&side, None).await;
    for start_revision in [-1, i64::MIN] {
        let create = pb::WatchCreateRequest { start_revision, ..watch("a", "") };
        ended(&watches.create(create).await, "etcdserver: mvcc: required revision has been compacted");
    }
    assert_eq!(watches.create(watch("a", "")).await.watch_id, 0, "the stream goes on");
}

pub(crate) async fn hears_nothing_before_it_begins() {
    let side = Side::start_with(Wanted { notify: Duration::from_millis(100), ..Wanted::default() }).await;
    let mut kv = side.kv().await;
    let mut watches = Watches::open(&side, None).await;
    let create = pb::WatchCreateRequest { start_revision: 5, progress_notify: true, ..watch("a", "") };
    assert_eq!(watches.create(create).await.header.expect("a header").revision, 1);
    kv.put(put("a", "2")).await.expect("a put");
    // Longer than it takes to tell a quiet watch.
    tokio::time::sleep(Duration::from_millis(300)).await;
    for n in 3..7 {
        kv.put(put("a", &n.to_string())).await.expect("a put");
    }
    assert_eq!(watches.events(2).await, (vec![5, 6], false));
    let far = pb::WatchCreateRequest { start_revision: i64::MAX, ..watch("a", "") };
    assert_eq!(watches.create(far).await.watch_id, 1);
}

pub(crate) async fn tells_progress_behind_the_events() {
    let side = Side::start().await;
    let mut kv = side.kv().await;
    for n in 0..50 {
        kv.put(put("a", &n.to_string())).await.expect("a put");
    }
    let mut watches = Watches::open(&side, None).await;
    watches.create(pb::WatchCreateRequest { start_revision: 2, ..watch("a", "") }).await;
    watches.ask(RequestUnion::ProgressRequest(pb::WatchProgressRequest {})).await;
    let (revisions, early) = watches.events(50).await;
    assert_eq!((revisions, early), ((2..52).collect(), false));
    // A real etcd drops what is asked while a watcher is behind.
    watches.ask(RequestUnion::ProgressRequest(pb::WatchProgressRequest {})).await;
    let told = watches.next().await;
    assert_eq!((told.watch_id, told.events.len(), told.header.expect("a header").revision), (-1, 0, 51));
}

pub(crate) async fn is_told_though_nothing_ever_happened() {
    let side = Side::start_with(Wanted { notify: Duration::from_millis(100), ..Wanted::default() }).await;
    let mut watches = Watches::open(&side, None).await;
    watches.create(pb::WatchCreateRequest { progress_notify: true, ..watch("a", "") }).await;
    side.kv().await.put(put("other", "")).await.expect("a put");
    loop {
        let told = watches.next().await;
        assert_eq!((told.watch_id, told.events.len()), (0, 0));
        if told.header.expect("a header").revision == 2 {
            return;
        }
    }
}

pub(crate) async fn ends_only_the_one_that_is_named() {
    let side = Side::start().await;
    let mut watches = Watches::open(&side, None).await;
    assert_eq!(watches.create(watch("a", "")).await.watch_id, 0);
    ended(&watches.create(watch("b", "a")).await, "mvcc: watcher range is empty");
    assert_eq!(watches.create(pb::WatchCreateRequest { watch_id: 4, ..watch("b", "") }).await.watch_id, 4);
    let twice = pb::WatchCreateRequest { watch_id: 4, ..watch("b", "") };
    ended(&watches.create(twice).await, "mvcc: duplicate watch ID provided on the WatchStream");
    for watch_id in [-1, 7, 4, 4] {
        watches.ask(RequestUnion::CancelRequest(pb::WatchCancelRequest { watch_id })).await;
    }
    let cancelled = watches.next().await;
    assert_eq!((cancelled.watch_id, cancelled.canceled, cancelled.created, cancelled.cancel_reason.as_str()), (4, true, false, ""));
    side.kv().await.put(put("a", "v")).await.expect("a put");
    assert_eq!(watches.events(1).await, (vec![2], false), "the first one lives");
}

pub(crate) async fn is_counted_once() {
    let side = Side::start().await;
    let mut watches = Watches::open(&side, None).await;
    watches.create(watch("a", "")).await;
    watches.create(watch("b", "")).await;
    let counted = async || {
        let page = side.get("/metrics").await.1;
        let line = page.lines().find_map(|line| line.strip_prefix("etcd_debugging_mvcc_watcher_total ")).map(str::to_owned);
        line.expect("the metric is there")
    };
    assert_eq!(counted().await, "2");
    watches.ask(RequestUnion::CancelRequest(pb::WatchCancelRequest { watch_id: 0 })).await;
    assert!(watches.next().await.canceled);
    drop(watches);
    let began = std::time::Instant::now();
    while counted().await != "0" {
        assert!(began.elapsed() < PATIENCE, "it never goes down");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

pub(crate) async fn sees_a_deletion_at_the_compacted_revision() {
    let side = Side::start().await;
    let mut kv = side.kv().await;
    for n in 0..4 {
        kv.put(put("a", &n.to_string())).await.expect("a put");
    }
    kv.delete_range(delete("a")).await.expect("a delete");
    kv.put(put("b", "")).await.expect("a put");
    kv.compact(pb::CompactionRequest { revision: 6, physical: true }).await.expect("a compaction");
    let mut watches = Watches::open(&side, None).await;
    watches.create(pb::WatchCreateRequest { start_revision: 6, ..watch("a", "c") }).await;
    assert_eq!(watches.events(2).await, (vec![6, 7], false));
    let below = watches.create(pb::WatchCreateRequest { start_revision: 5, ..watch("a", "c") }).await;
    let cancelled = watches.next().await;
    assert_eq!((cancelled.watch_id, cancelled.canceled, cancelled.created), (below.watch_id, true, false));
    assert_eq!((cancelled.compact_revision, cancelled.cancel_reason.as_str()), (6, ""));
}

pub(crate) async fn refuses_a_version_that_is_no_text() {
    let side = Side::start().await;
    let (_asks, stream) = mpsc::channel::<pb::WatchRequest>(1);
    let mut request = Request::new(ReceiverStream::new(stream));
    request.metadata_mut().insert("client-api-version", MetadataValue::try_from(&b"\xfe"[..]).expect("a value"));
    let opened = WatchClient::new(side.channel().await).watch(request).await;
    is(opened.map(drop), Code::InvalidArgument, "etcdserver: invalid client api version");
}
