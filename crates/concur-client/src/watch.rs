//! Watches that outlive the member that serves them.
//!
//! Lost, a watch goes on at another member from behind the last revision that was seen: nothing is missed and nothing seen twice.

use crate::client::{Client, Tries};
use crate::error::ClientError;
use bytes::Bytes;
use concur_proto::concur::v1 as pb;
use pb::watch_request::Request as Asked;
use std::time::Instant;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};

/// What is watched.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Watch {
    /// The key, or the first of the range.
    pub key: Bytes,
    /// The key behind the last; empty for one key, one zero byte for every key from the first on.
    pub range_end: Bytes,
    /// The first revision of interest; 0: from now on.
    pub revision: u64,
    /// Whether to say what was there before.
    pub previous: bool,
}

/// One change of a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// The key.
    pub key: Bytes,
    /// Its value; nothing if it was deleted.
    pub value: Option<Bytes>,
    /// The revision of the change.
    pub revision: u64,
    /// The value before, if it was asked for and there was one.
    pub previous: Bytes,
}

/// A watch that stands.
#[derive(Debug)]
pub struct Watching {
    client: Client,
    watch: Watch,
    stream: Option<Stream>,
    /// Changes that came with the first reply.
    ready: Vec<Change>,
}

/// The id of the only watch on a stream.
const ID: u64 = 1;

#[derive(Debug)]
struct Stream {
    replies: Streaming<pb::WatchReply>,
    /// Open, so that the member does not take the end of the requests for the client's end.
    _requests: mpsc::Sender<pb::WatchRequest>,
}

impl Watching {
    pub(crate) async fn open(client: Client, watch: Watch) -> Result<Self, ClientError> {
        let mut watching = Self { client, watch, stream: None, ready: Vec::new() };
        watching.resume().await?;
        Ok(watching)
    }

    /// The next changes, in order. Waits for as long as there are none; an error comes when no member serves the watch for the
    /// client's timeout (calling again goes on trying), or none ever will.
    pub async fn next(&mut self) -> Result<Vec<Change>, ClientError> {
        loop {
            if !self.ready.is_empty() {
                return Ok(std::mem::take(&mut self.ready));
            }
            let Some(stream) = &mut self.stream else {
                self.resume().await?;
                continue;
            };
            // A reply that is not taken in whole is asked for again: the revision moves only with it.
            let reply = match stream.replies.message().await {
                Ok(Some(reply)) => reply,
                Ok(None) | Err(_) => {
                    self.stream = None;
                    continue;
                }
            };
            if let Some(changes) = self.take(reply)? {
                return Ok(changes);
            }
        }
    }

    /// Takes a reply in; answers with its changes, if it has any.
    fn take(&mut self, reply: pb::WatchReply) -> Result<Option<Vec<Change>>, ClientError> {
        if reply.compacted > 0 {
            return Err(ClientError::Compacted { oldest: reply.compacted });
        }
        if !reply.ended.is_empty() {
            self.stream = None;
            return if reply.elsewhere { Ok(None) } else { Err(ClientError::Refused(reply.ended)) };
        }
        self.watch.revision = self.watch.revision.max(reply.revision + 1);
        let changes: Vec<Change> = reply.events.into_iter().map(change).collect();
        Ok((!changes.is_empty()).then_some(changes))
    }

    /// Finds a member that serves the watch.
    async fn resume(&mut self) -> Result<(), ClientError> {
        let client = self.client.clone();
        let deadline = Instant::now() + client.shared.options.timeout;
        let mut tries = Tries::new(&client.shared, deadline, false);
        loop {
            match self.start(&mut tries).await? {
                Ok(()) => return Ok(()),
                Err(status) => tries.failed(&status).await?,
            }
        }
    }

    /// Asks the current member. The first reply says that the watch stands.
    async fn start(&mut self, tries: &mut Tries<'_>) -> Result<Result<(), Status>, ClientError> {
        let options = &self.client.shared.options;
        let (place, mut member) = self.client.shared.members.current(options.answer_bytes_max);
        tries.speaks_to(place);
        let Watch { key, range_end, revision, previous } = self.watch.clone();
        let create = pb::WatchCreate { id: ID, namespace: options.namespace.clone(), key, range_end, revision, previous };
        let opening = async {
            let (requests, stream) = mpsc::channel(1);
            let request = pb::WatchRequest { request: Some(Asked::Create(create)) };
            requests.send(request).await.map_err(|_| Status::internal("the requests' queue is closed"))?;
            let mut replies = member.watch(ReceiverStream::new(stream)).await?.into_inner();
            let first = replies.message().await?.ok_or_else(|| Status::unavailable("the member ended the watch"))?;
            Ok((first, Stream { replies, _requests: requests }))
        };
        let opened = match tokio::time::timeout(options.attempt_time_max, opening).await {
            Ok(opened) => opened,
            Err(_) => Err(Status::deadline_exceeded("no answer in time")),
        };
        let (first, stream) = match opened {
            Ok(opened) => opened,
            Err(status) => return Ok(Err(status)),
        };
        if first.elsewhere {
            return Ok(Err(Status::unavailable(first.ended)));
        }
        self.stream = Some(stream);
        self.ready = self.take(first)?.unwrap_or_default();
        Ok(Ok(()))
    }
}

fn change(event: pb::WatchEvent) -> Change {
    let deleted = event.kind == pb::watch_event::Kind::Delete as i32;
    let value = if deleted { None } else { Some(event.value) };
    Change { key: event.key, value, revision: event.revision, previous: event.previous }
}
