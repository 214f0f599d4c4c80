//! One stream of watches as a client sees it: what was told to whom, in which order.
//!
//! How events are cut into responses is nobody's promise, except that all events of one revision come together or in marked fragments,
//! and that progress is never told ahead of events: both are checked here, on each side alone. What is compared is what each watcher
//! was told, in order.

use crate::number::Known;
use concur_proto::etcdserverpb as pb;
use concur_proto::mvccpb;
use pb::watch_client::WatchClient;
use pb::watch_request::RequestUnion;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use tokio::sync::mpsc;
use tonic::transport::Channel;

/// How long an answer may take.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(20);
/// The id of a response that concerns no watcher, or all.
const NO_WATCHER: i64 = -1;
/// The watcher that tells when what was written has arrived.
pub(crate) const MARKER_ID: i64 = 9007;
/// The key that it watches.
pub(crate) const MARKER_KEY: &[u8] = b"~marker";

/// What a watcher was told.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Heard {
    Created { revision: i64, id: i64, canceled: bool, compact_revision: i64, reason: String },
    Canceled { id: i64, compact_revision: i64, reason: String },
    Event { id: i64, event: mvccpb::Event },
    Broken(String),
}

impl Heard {
    /// The watcher concerned.
    fn id(&self) -> i64 {
        match self {
            Heard::Created { id, .. } | Heard::Canceled { id, .. } | Heard::Event { id, .. } => *id,
            Heard::Broken(_) => i64::MIN,
        }
    }
}

/// A stream.
pub(crate) struct Stream {
    asks: mpsc::Sender<pb::WatchRequest>,
    responses: mpsc::UnboundedReceiver<Result<pb::WatchResponse, tonic::Status>>,
    /// Told since it was last compared, without what the marker was told.
    pub(crate) heard: Vec<Heard>,
    /// The last revision that each watcher was told of.
    told: BTreeMap<i64, i64>,
    /// The revision up to which each watcher that there is was told to have heard everything.
    progress: BTreeMap<i64, i64>,
    /// How often progress of all was told.
    pub(crate) progresses: usize,
    marked: i64,
    /// Of a watcher whose last response said that more fragments follow.
    fragment: Option<i64>,
    /// Watchers that compaction ended: whether their cancelling is answered means nothing.
    buried: BTreeSet<i64>,
}

impl Stream {
    /// Opens a stream with its marker.
    pub(crate) async fn open(channel: Channel) -> Result<Self, String> {
        let (asks, asked) = mpsc::channel(64);
        let (sender, responses) = mpsc::unbounded_channel();
        let mut client = WatchClient::new(channel).max_decoding_message_size(64 << 20);
        let marker = pb::WatchCreateRequest { key: MARKER_KEY.into(), watch_id: MARKER_ID, ..Default::default() };
        let first = pb::WatchRequest { request_union: Some(RequestUnion::CreateRequest(marker)) };
        asks.send(first).await.map_err(|error| error.to_string())?;
        let opened = client.watch(tokio_stream::wrappers::ReceiverStream::new(asked)).await;
        let mut incoming = opened.map_err(|status| format!("a stream of watches is refused: {status}"))?.into_inner();
        tokio::spawn(async move {
            loop {
                let next = incoming.message().await;
                let over = !matches!(next, Ok(Some(_)));
                let Some(next) = next.transpose() else { return };
                if sender.send(next).is_err() || over {
                    return;
                }
            }
        });
        let (heard, told) = (Vec::new(), BTreeMap::new());
        let mut stream = Self {
            asks,
            responses,
            heard,
            told,
            progress: BTreeMap::new(),
            progresses: 0,
            marked: 0,
            fragment: None,
            buried: BTreeSet::new(),
        };
        stream.created(&Known::default()).await;
        match stream.heard.pop() {
            Some(Heard::Created { id: MARKER_ID, canceled: false, .. }) => Ok(stream),
            other => Err(format!("the marker was not created: {other:?}")),
        }
    }

    async fn ask(&mut self, union: RequestUnion) {
        if self.asks.send(pb::WatchRequest { request_union: Some(union) }).await.is_err() {
            self.heard.push(Heard::Broken("the stream is closed".into()));
        }
    }

    /// Creates a watcher and waits for the answer.
    pub(crate) async fn create(&mut self, create: pb::WatchCreateRequest, known: &Known) {
        self.ask(RequestUnion::CreateRequest(create)).await;
        self.created(known).await;
    }

    pub(crate) async fn cancel(&mut self, id: i64) {
        self.ask(RequestUnion::CancelRequest(pb::WatchCancelRequest { watch_id: id })).await;
    }

    pub(crate) async fn ask_progress(&mut self) {
        self.ask(RequestUnion::ProgressRequest(pb::WatchProgressRequest {})).await;
    }

    async fn created(&mut self, known: &Known) {
        let before = self.heard.iter().filter(|heard| matches!(heard, Heard::Created { .. })).count();
        while self.heard.iter().filter(|heard| matches!(heard, Heard::Created { .. })).count() == before {
            if !self.next(known).await {
                return;
            }
        }
    }

    /// Waits until the marker was told of this revision.
    pub(crate) async fn mark(&mut self, revision: i64, known: &Known) {
        while self.marked < revision && self.next(known).await {}
    }

    /// Takes what has arrived.
    pub(crate) fn drain(&mut self, known: &Known) {
        while let Ok(response) = self.responses.try_recv() {
            self.take(response, known);
        }
    }

    async fn next(&mut self, known: &Known) -> bool {
        match tokio::time::timeout(ANSWER_TIME_MAX, self.responses.recv()).await {
            Ok(Some(response)) => {
                self.take(response, known);
                !matches!(self.heard.last(), Some(Heard::Broken(_)))
            }
            Ok(None) => self.broken("the stream has ended".into()),
            Err(_) => self.broken(format!("nothing was told within {ANSWER_TIME_MAX:?}")),
        }
    }

    fn broken(&mut self, what: String) -> bool {
        self.heard.push(Heard::Broken(what));
        false
    }

    fn take(&mut self, response: Result<pb::WatchResponse, tonic::Status>, known: &Known) {
        let response = match response {
            Ok(response) => response,
            Err(status) => return self.heard.push(Heard::Broken(format!("the stream ended: {status}"))),
        };
        let pb::WatchResponse { header, watch_id: id, created, canceled, compact_revision, cancel_reason: reason, fragment, events } =
            response;
        let revision = header.map_or(0, |header| header.revision);
        if created {
            if !canceled {
                self.told.remove(&id);
                self.buried.remove(&id);
                self.progress.insert(id, 0);
            }
            self.heard.push(Heard::Created { revision, id, canceled, compact_revision, reason });
        } else if canceled && compact_revision == 0 && self.buried.contains(&id) {
            // etcd's answer to the cancel of what it had cancelled itself.
        } else if canceled {
            self.progress.remove(&id);
            self.heard.push(Heard::Canceled { id, compact_revision, reason });
        } else if events.is_empty() {
            self.progresses += usize::from(id == NO_WATCHER);
            for (_, progress) in self.progress.iter_mut().filter(|(watcher, _)| id == NO_WATCHER || **watcher == id) {
                *progress = revision;
            }
        } else {
            self.events(id, revision, fragment, events, known);
        }
    }

    fn events(&mut self, id: i64, revision: i64, fragment: bool, events: Vec<mvccpb::Event>, known: &Known) {
        let at = |event: &mvccpb::Event| event.kv.as_ref().map_or(0, |kv| kv.mod_revision);
        let (first, last) = (events.first().map_or(0, at), events.last().map_or(0, at));
        let goes_on = self.fragment.take() == Some(id);
        self.fragment = fragment.then_some(id);
        if self.told.get(&id).is_some_and(|&told| if goes_on { first < told } else { first <= told }) {
            self.heard.push(Heard::Broken(format!("watcher {id} was told of revision {first} in two responses that are no fragments")));
        }
        if !events.is_sorted_by_key(at) {
            self.heard.push(Heard::Broken(format!("watcher {id} was told of revisions out of order")));
        }
        if revision < last {
            self.heard.push(Heard::Broken(format!("a header of revision {revision} over an event of {last}")));
        }
        if let Some(progress) = self.progress.get(&id).filter(|progress| first <= **progress) {
            self.heard.push(Heard::Broken(format!("watcher {id} was told of revision {first} after progress up to {progress}")));
        }
        self.told.insert(id, last);
        if id == MARKER_ID {
            self.marked = self.marked.max(last);
            return;
        }
        for mut event in events {
            for kv in event.kv.iter_mut().chain(&mut event.prev_kv) {
                kv.lease = known.lease_shown(kv.lease);
            }
            self.heard.push(Heard::Event { id, event });
        }
    }

    /// Forgets what was compared. A watcher that compaction ended is cancelled, as etcd's client does: until then etcd keeps its id.
    pub(crate) async fn forget(&mut self) {
        for heard in std::mem::take(&mut self.heard) {
            if let Heard::Canceled { id, compact_revision: 1.., .. } = heard {
                self.buried.insert(id);
                self.cancel(id).await;
            }
        }
    }

    /// What each watcher was told, in order; watchers by their ids.
    pub(crate) fn by_watcher(&self) -> Vec<Heard> {
        let mut heard = self.heard.clone();
        heard.sort_by_key(Heard::id);
        heard
    }
}
