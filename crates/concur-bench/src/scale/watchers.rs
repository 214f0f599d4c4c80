//! Many watchers, each of a key of its own, and how long after a put each is told.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use concur_proto::etcdserverpb::watch_client::WatchClient;
use concur_proto::etcdserverpb::watch_request::RequestUnion;
use concur_proto::etcdserverpb::{WatchCreateRequest, WatchRequest};
use hdrhistogram::Histogram;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tonic::Status;
use tonic::transport::Channel;

use super::pace::{Paced, record};
use super::{CALL_WITHIN, Seen};
use crate::measure::{Latency, histogram};
use crate::{BenchError, ScaleArgs};

/// Watchers of one stream.
const PER_STREAM: usize = 100;
/// Watched keys are taken in steps of this, so that neighbours are on different streams.
const STRIDE: u64 = 7919;

/// The open streams.
pub(super) struct Watchers(JoinSet<Result<(), Status>>);

/// What all streams have seen together.
struct Board {
    /// When what was put into a key left.
    sent: HashMap<Bytes, Instant>,
    taken: Histogram<u64>,
    created: usize,
    told: u64,
}

fn key(number: u64) -> Bytes {
    Bytes::from(format!("scale/watch/{number:06}"))
}

/// Opens the watchers; then puts into their keys at an even pace, and measures from each put's leaving to its event.
pub(super) async fn open_and_measure(args: &ScaleArgs, channels: &[Channel]) -> Result<(Watchers, Seen), BenchError> {
    let board = Arc::new(Mutex::new(Board { sent: HashMap::new(), taken: histogram(), created: 0, told: 0 }));
    let (changed, mut changes) = watch::channel(());
    let (began, mut streams, count) = (Instant::now(), JoinSet::new(), args.watchers as u64);
    for (stream, first) in (0..args.watchers).step_by(PER_STREAM).enumerate() {
        let keys: Vec<Bytes> = (first..args.watchers.min(first + PER_STREAM)).map(|number| key(number as u64)).collect();
        streams.spawn(stream_of(channels[stream % channels.len()].clone(), keys, board.clone(), changed.clone()));
    }
    let failed = |what: &str| BenchError::Failed(format!("{what} within {} s", CALL_WITHIN.as_secs()));
    let all_created = changes.wait_for(|()| board.lock().expect("no watcher panics").created == args.watchers);
    tokio::time::timeout(CALL_WITHIN, all_created).await.map_err(|_| failed("not all watchers were created"))?.ok();
    let took = began.elapsed();

    let sent = |number: u64, at: Instant| {
        board.lock().expect("no watcher panics").sent.insert(key(number * STRIDE % count), at);
    };
    let value = Bytes::from(vec![b'v'; args.value_bytes]);
    let what = |number: u64| (key(number * STRIDE % count), value.clone());
    let paced = Paced::each(channels, args.rate, tokio::time::sleep(args.duration), what, sent).await;
    let due = paced.answered();
    let all_told = changes.wait_for(|()| board.lock().expect("no watcher panics").told >= due);
    // What has not come by then is counted as missing.
    drop(tokio::time::timeout(Duration::from_secs(10), all_told).await);
    let board = board.lock().expect("no watcher panics");
    let errors = paced.errors() + due.saturating_sub(board.told);
    Ok((Watchers(streams), Seen { took, latency: Latency::of(&board.taken), errors }))
}

async fn stream_of(channel: Channel, keys: Vec<Bytes>, board: Arc<Mutex<Board>>, changed: watch::Sender<()>) -> Result<(), Status> {
    let create = |key: Bytes| {
        let create = WatchCreateRequest { key, ..WatchCreateRequest::default() };
        WatchRequest { request_union: Some(RequestUnion::CreateRequest(create)) }
    };
    let requests: Vec<WatchRequest> = keys.into_iter().map(create).collect();
    // The stream of requests stays open.
    let requests = tokio_stream::StreamExt::chain(tokio_stream::iter(requests), tokio_stream::pending());
    let mut responses = WatchClient::new(channel).watch(requests).await?.into_inner();
    while let Some(response) = responses.message().await? {
        let now = Instant::now();
        let mut board = board.lock().expect("no watcher panics");
        board.created += usize::from(response.created && !response.canceled);
        for event in response.events {
            let key = event.kv.map(|kv| kv.key).unwrap_or_default();
            board.told += 1;
            if let Some(sent) = board.sent.remove(&key) {
                record(&mut board.taken, now.saturating_duration_since(sent));
            }
        }
        changed.send_replace(());
    }
    Ok(())
}

impl Watchers {
    /// Ends the streams.
    pub(super) async fn close(mut self) {
        self.0.shutdown().await;
    }
}
