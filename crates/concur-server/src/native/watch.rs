//! Watches of the native API: several share one stream, of any namespaces that keep a history.
//!
//! Each watch is a stream of the namespace's [hub](crate::watch), whose responses one task turns into replies. A client that reads
//! slowly holds up those tasks, and with them the hub's queues: the hub then serves it from the history.

use super::Native;
use crate::auth::Credentials;
use crate::door::Door;
use crate::watch::{Ask, Create, Encoded, Inlet, StreamId, WatchRequest, queue};
use bytes::BytesMut;
use concur_kv::Asker;
use concur_proto::concur::v1 as pb;
use concur_proto::etcdserverpb::WatchResponse;
use concur_proto::mvccpb::Event;
use concur_proto::mvccpb::event::EventType;
use pb::watch_request::Request as Asked;
use prost::Message;
use std::collections::BTreeMap;
use tokio::sync::mpsc;
use tokio::task::{AbortHandle, JoinSet};
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};

/// Watches on one stream.
const WATCHES_MAX: usize = 1024;
/// Replies that wait for the client, over all watches of a stream.
const REPLIES_MAX: usize = 64;
/// Responses, and bytes of them, that wait in one watch's queue.
const RESPONSES_MAX: usize = 16;
const RESPONSE_BYTES_MAX: usize = 1 << 20;

type Replies = mpsc::Sender<Result<pb::WatchReply, Status>>;

/// Serves one stream of watches.
pub(super) fn serve(
    native: Native,
    shown: Credentials,
    requests: Streaming<pb::WatchRequest>,
) -> ReceiverStream<Result<pb::WatchReply, Status>> {
    let (replies, stream) = mpsc::channel(REPLIES_MAX);
    let watching = Watching { native, shown, replies, tasks: JoinSet::new(), watches: BTreeMap::new() };
    tokio::spawn(watching.run(requests));
    ReceiverStream::new(stream)
}

struct Watching {
    native: Native,
    shown: Credentials,
    replies: Replies,
    /// Ended, they end the watches.
    tasks: JoinSet<()>,
    watches: BTreeMap<u64, AbortHandle>,
}

impl Watching {
    async fn run(mut self, mut requests: Streaming<pb::WatchRequest>) {
        loop {
            tokio::select! {
                request = requests.message() => match request {
                    Ok(Some(request)) => self.ask(request).await,
                    // It asks for no more, and its watches go on.
                    Ok(None) => break,
                    Err(_) => return,
                },
                () = self.replies.closed() => return,
                Some(_) = self.tasks.join_next() => self.watches.retain(|_, watch| !watch.is_finished()),
            }
        }
        tokio::select! {
            () = self.replies.closed() => {}
            () = async { while self.tasks.join_next().await.is_some() {} } => {}
        }
    }

    async fn ask(&mut self, request: pb::WatchRequest) {
        match request.request {
            Some(Asked::Create(create)) => {
                let id = create.id;
                if let Err(why) = self.create(create).await {
                    let _ = self.replies.send(Ok(ended(id, why))).await;
                }
            }
            Some(Asked::Cancel(cancel)) => {
                if let Some(watch) = self.watches.remove(&cancel.id) {
                    watch.abort();
                    let _ = self.replies.send(Ok(ended(cancel.id, End::For("cancelled".into())))).await;
                }
            }
            None => {}
        }
    }

    async fn create(&mut self, create: pb::WatchCreate) -> Result<(), End> {
        if self.watches.contains_key(&create.id) {
            return Err(End::For("a watch of this stream has this id already".into()));
        }
        if self.watches.len() >= WATCHES_MAX {
            return Err(End::For(format!("a stream has at most {WATCHES_MAX} watches")));
        }
        let (name, _) = self.native.namespace(&create.namespace).map_err(|status| match status.code() {
            tonic::Code::FailedPrecondition => End::Elsewhere(status.message().to_owned()),
            _ => End::For(status.message().to_owned()),
        })?;
        let Some(door) = self.native.shared.doors.get(name) else {
            return Err(End::For(format!("the namespace `{name}` has no watches")));
        };
        let start = i64::try_from(create.revision).map_err(|_| End::For("there is no such revision".into()))?;
        let asker = self.native.asker(name, &self.shown).await.map_err(|status| End::For(status.message().to_owned()))?;
        let Asking { id, start, inlet } = open(door, asker, &create, start).await?;
        let task = forward(id, start, inlet, self.replies.clone());
        self.watches.insert(id, self.tasks.spawn(task));
        Ok(())
    }
}

/// Why a watch ended.
enum End {
    /// For this reason.
    For(String),
    /// Here; another node may serve it.
    Elsewhere(String),
}

fn ended(id: u64, why: End) -> pb::WatchReply {
    let (reason, elsewhere) = match why {
        End::For(reason) => (reason, false),
        End::Elsewhere(reason) => (reason, true),
    };
    pb::WatchReply { id, ended: reason, elsewhere, ..Default::default() }
}

/// A watch that was asked for.
struct Asking {
    id: u64,
    start: i64,
    inlet: Inlet,
}

/// Asks the hub for a watch on a stream of its own.
async fn open(door: &Door, asker: Asker, create: &pb::WatchCreate, start: i64) -> Result<Asking, End> {
    let stream = StreamId::next();
    let (outlet, inlet) = queue(door.clone(), stream, RESPONSES_MAX, RESPONSE_BYTES_MAX);
    let (key, range_end) = (create.key.clone(), create.range_end.clone());
    let hub = Create { key, range_end, start, prev_kv: create.previous, asker, ..Create::default() };
    for ask in [Ask::Open { outlet, needs_leader: true }, Ask::Create(hub)] {
        door.watch(WatchRequest { stream, ask }).await.map_err(|refusal| End::Elsewhere(refusal.to_string()))?;
    }
    Ok(Asking { id: create.id, start, inlet })
}

/// Turns the hub's responses into replies until either side ends.
async fn forward(id: u64, start: i64, mut inlet: Inlet, replies: Replies) {
    while let Some(response) = inlet.next().await {
        let reply = match response {
            Ok(response) => reply(id, start, &response),
            Err(status) => ended(id, End::Elsewhere(status.message().to_owned())),
        };
        let last = !reply.ended.is_empty();
        if replies.send(Ok(reply)).await.is_err() || last {
            return;
        }
    }
}

fn reply(id: u64, start: i64, response: &Encoded) -> pb::WatchReply {
    let mut bytes = BytesMut::with_capacity(response.len());
    response.put(&mut bytes);
    let Ok(response) = WatchResponse::decode(bytes.freeze()) else {
        return ended(id, End::For("the server cannot read its own history".into()));
    };
    if response.canceled {
        let compacted = u64::try_from(response.compact_revision).unwrap_or(0);
        let reason = if compacted > 0 { "the history from there on is compacted".into() } else { response.cancel_reason };
        return pb::WatchReply { compacted, ..ended(id, End::For(reason)) };
    }
    let current = response.header.map_or(0, |header| header.revision);
    let seen = match response.events.iter().filter_map(|event| event.kv.as_ref()).map(|kv| kv.mod_revision).max() {
        Some(last) => last,
        // What was written before the watch began may still come.
        None if response.created && start > 0 => current.min(start - 1),
        None => current,
    };
    let events = response.events.into_iter().map(event).collect();
    pb::WatchReply { id, revision: u64::try_from(seen).unwrap_or(0), events, ..Default::default() }
}

fn event(event: Event) -> pb::WatchEvent {
    let deleted = event.r#type == EventType::Delete as i32;
    let kind = if deleted { pb::watch_event::Kind::Delete } else { pb::watch_event::Kind::Put };
    let kv = event.kv.unwrap_or_default();
    pb::WatchEvent {
        kind: kind as i32,
        key: kv.key,
        value: kv.value,
        revision: u64::try_from(kv.mod_revision).unwrap_or(0),
        previous: event.prev_kv.map(|kv| kv.value).unwrap_or_default(),
    }
}
