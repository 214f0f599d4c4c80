//! `concur watch`.
//!
//! When the server is lost, the watch goes on at another one, from the revision behind the last that was seen.

use crate::exit::{Exit, Failure, Outcome, Tone, say};
use crate::output::{Output, put_bytes, readable};
use crate::reach::{Asked, Link, Reach, client, wait};
use crate::store::{Keys, Namespaced, Native};
use clap::Args;
use concur_proto::etcdserverpb as pb;
use concur_proto::etcdserverpb::watch_client::WatchClient;
use concur_proto::etcdserverpb::watch_request::RequestUnion;
use concur_proto::mvccpb::event::EventType;
use concur_proto::mvccpb::{Event, KeyValue};
use serde_json::{Map, Value};
use tonic::{Status, Streaming};

/// Print every change of a key, or of a range of keys, as it comes
#[derive(Debug, Args)]
pub(crate) struct Watch {
    #[command(flatten)]
    keys: Keys,
    /// From this revision of the store on
    #[arg(long, env = "CONCUR_REVISION", default_value = "0", hide_default_value = true, value_parser = clap::value_parser!(i64).range(0..))]
    revision: i64,
    /// Say what was there before
    #[arg(long, env = "CONCUR_PREVIOUS")]
    previous: bool,
    /// End after so many changes
    #[arg(long, env = "CONCUR_COUNT", value_parser = clap::value_parser!(u64).range(1..), value_name = "N")]
    count: Option<u64>,
    #[command(flatten)]
    namespaced: Namespaced,
    #[command(flatten)]
    reach: Reach,
    #[command(flatten)]
    output: Output,
}

impl Watch {
    pub(crate) fn run(self) -> Outcome {
        wait(async {
            if let Some(namespace) = &self.namespaced.namespace {
                return self.native(namespace).await;
            }
            let mut state = Going { next: self.revision, left: self.count, heard: false };
            let mut link = self.reach.connect().await?;
            loop {
                state.heard = false;
                match self.follow(&link, &mut state).await {
                    Ended::Enough => return Ok(()),
                    Ended::Failed(failure) => return Err(failure),
                    // The server is there and will not serve.
                    Ended::Lost(status) if !state.heard => {
                        return Err(link.failure(Asked::Read, &status).await);
                    }
                    Ended::Lost(_) => say(Tone::Note, &format!("{} is lost; going on from revision {}", link.endpoint, state.next)),
                }
                link = self.reach.connect().await?;
            }
        })
    }

    /// Over the native API, whose client goes on elsewhere by itself.
    async fn native(&self, namespace: &str) -> Outcome {
        let (key, range_end) = self.keys.range();
        let revision = u64::try_from(self.revision).unwrap_or(0);
        let mut watching = Native::open(&self.reach, namespace).await?.watch(key, range_end, revision, self.previous).await?;
        let mut left = self.count;
        loop {
            for event in watching.next().await? {
                self.output.show_next(&event_value(&event), |wide| event_text(&event, wide))?;
                left = left.map(|left| left - 1);
                if left == Some(0) {
                    return Ok(());
                }
            }
        }
    }

    async fn follow(&self, link: &Link, state: &mut Going) -> Ended {
        let (key, range_end) = self.keys.range();
        let create = pb::WatchCreateRequest { key, range_end, start_revision: state.next, prev_kv: self.previous, ..Default::default() };
        let mut stream = match open(link, create).await {
            Ok(stream) => stream,
            Err(status) => return Ended::Lost(status),
        };
        loop {
            let response = match stream.message().await {
                Ok(Some(response)) => response,
                Ok(None) => return Ended::Lost(Status::unavailable("the server ended the watch")),
                Err(status) => return Ended::Lost(status),
            };
            state.heard = true;
            if response.canceled {
                return Ended::Failed(cancelled(&response));
            }
            for event in &response.events {
                if let Err(failure) = self.output.show_next(&event_value(event), |wide| event_text(event, wide)) {
                    return Ended::Failed(failure);
                }
                if state.seen_enough() {
                    return Ended::Enough;
                }
            }
            state.advance(&response);
        }
    }
}

/// How far a watch is.
struct Going {
    /// The first revision not seen; 0 for whatever comes.
    next: i64,
    left: Option<u64>,
    /// Whether this server said anything.
    heard: bool,
}

impl Going {
    fn advance(&mut self, response: &pb::WatchResponse) {
        let last = response.events.iter().filter_map(|event| event.kv.as_ref()).map(|kv| kv.mod_revision).max();
        let created = response.header.as_ref().filter(|_| self.next == 0).map(|header| header.revision);
        self.next = last.or(created).map_or(self.next, |seen| self.next.max(seen + 1));
    }

    fn seen_enough(&mut self) -> bool {
        self.left = self.left.map(|left| left - 1);
        self.left == Some(0)
    }
}

enum Ended {
    Enough,
    Lost(Status),
    Failed(Failure),
}

/// Opens a stream with one watch. It asks for no more, and so the requests end at once.
async fn open(link: &Link, create: pb::WatchCreateRequest) -> Result<Streaming<pb::WatchResponse>, Status> {
    let (asks, stream) = tokio::sync::mpsc::channel(1);
    let request = pb::WatchRequest { request_union: Some(RequestUnion::CreateRequest(create)) };
    asks.send(request).await.map_err(|_| Status::internal("the requests' queue is closed"))?;
    // Servers of etcd's API take the end of the requests for the end of the watches: the sender lives as long as the stream.
    let requests = Requests { stream, _open: asks };
    let opened = tokio::time::timeout(link.timeout, async { client!(WatchClient, link).watch(requests).await });
    Ok(opened.await.map_err(|_| Status::deadline_exceeded("no answer in time"))??.into_inner())
}

/// Requests of a stream that stays open.
struct Requests {
    stream: tokio::sync::mpsc::Receiver<pb::WatchRequest>,
    _open: tokio::sync::mpsc::Sender<pb::WatchRequest>,
}

impl tokio_stream::Stream for Requests {
    type Item = pb::WatchRequest;

    fn poll_next(mut self: std::pin::Pin<&mut Self>, cx: &mut std::task::Context<'_>) -> std::task::Poll<Option<Self::Item>> {
        self.stream.poll_recv(cx)
    }
}

fn cancelled(response: &pb::WatchResponse) -> Failure {
    if response.compact_revision > 0 {
        let oldest = response.compact_revision;
        return Failure::new(Exit::Failure, format!("the history was compacted; the oldest revision left is {oldest}"));
    }
    Failure::new(Exit::Failure, format!("the server ended the watch: {}", response.cancel_reason))
}

fn parts(event: &Event) -> (&'static str, KeyValue) {
    let kind = if event.r#type == EventType::Delete as i32 { "delete" } else { "put" };
    (kind, event.kv.clone().unwrap_or_default())
}

fn event_value(event: &Event) -> Value {
    let (kind, kv) = parts(event);
    let mut fields = Map::new();
    fields.insert("kind".into(), kind.into());
    put_bytes(&mut fields, "key", &kv.key);
    if kind == "put" {
        put_bytes(&mut fields, "value", &kv.value);
    }
    fields.insert("revision".into(), kv.mod_revision.into());
    if let Some(previous) = &event.prev_kv {
        put_bytes(&mut fields, "previous", &previous.value);
    }
    Value::Object(fields)
}

fn event_text(event: &Event, wide: bool) -> String {
    let (kind, kv) = parts(event);
    let mut text = format!("{:<8}  {kind:<6}  {}", kv.mod_revision, readable(&kv.key));
    if kind == "put" {
        text += &format!("  {}", readable(&kv.value));
    }
    if let Some(previous) = &event.prev_kv {
        text += &format!("  was {}", readable(&previous.value));
    }
    if wide && kv.version > 0 {
        text += &format!("  version {}", kv.version);
    }
    text + "\n"
}
