//! The hub itself: streams, their watchers, and how far each has been served.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use concur_kv::{Kv, KvError, Record, Revision};
use concur_proto::etcdserverpb::{ResponseHeader, WatchResponse};
use tonic::Status;

use super::encode::{event, response};
use super::index::{Index, Interest};
use super::{Ask, Create, Encoded, Outlet, StreamId, WatchRequest};
use crate::door::Pulse;
use crate::etcd::{Identity, errors, kv_error};
use crate::metrics::Metrics;

/// Bounds of a hub.
#[derive(Debug, Clone)]
pub struct HubLimits {
    /// Streams.
    pub streams_max: usize,
    /// Watchers, over all streams.
    pub watchers_max: usize,
    /// Answers to a stream's own requests that wait for room in its queue; a stream that asks more without reading is ended.
    pub answers_max: usize,
    /// Changes looked at in one slice of serving those behind.
    pub slice_changes_max: usize,
    /// Revisions that one step may bring; if it brings more (a state was installed), watchers are served from the history.
    pub step_revisions_max: i64,
    /// About how large a response is that holds several revisions.
    pub response_bytes: usize,
    /// How large a response of one revision may be before it is sent in fragments to whoever takes them.
    pub fragment_bytes: usize,
    /// How often a watcher that asked for it is told the revision when nothing happens.
    pub notify_interval: Duration,
    /// How long no leader may be known before streams that need one end.
    pub leaderless_time_max: Duration,
}

impl Default for HubLimits {
    fn default() -> Self {
        Self {
            streams_max: 100_000,
            watchers_max: 1_000_000,
            answers_max: 1024,
            slice_changes_max: 4096,
            step_revisions_max: 16 << 10,
            response_bytes: 1 << 20,
            fragment_bytes: 2 << 20,
            notify_interval: Duration::from_secs(10 * 60),
            leaderless_time_max: Duration::from_secs(3),
        }
    }
}

/// The least interval between unasked notifications.
const NOTIFY_INTERVAL_MIN: Duration = Duration::from_millis(100);

/// The id of a response that concerns no watcher, or all of a stream's.
const NO_WATCHER: i64 = -1;

/// A watcher's name in the hub.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct WatcherKey(pub(super) u64);

/// All watches of one namespace.
#[derive(Debug)]
pub struct Hub {
    limits: HubLimits,
    identity: Identity,
    pulse: Arc<Pulse>,
    metrics: Arc<Metrics>,
    /// Everything up to here was handed to the watchers that are not behind.
    revision: Revision,
    streams: BTreeMap<StreamId, Stream>,
    watchers: BTreeMap<WatcherKey, Watcher>,
    /// The watchers that are not behind.
    index: Index,
    behind: BTreeSet<WatcherKey>,
    /// Of those behind, the ones whose stream may have room.
    runnable: BTreeSet<WatcherKey>,
    /// Of these, the one served last.
    served_last: WatcherKey,
    next_key: u64,
    leaderless_since: Option<Instant>,
    /// Whether the last slice ended before everything that has room was served.
    unfinished: bool,
}

#[derive(Debug)]
struct Stream {
    outlet: Outlet,
    needs_leader: bool,
    ids: BTreeMap<i64, WatcherKey>,
    next_id: i64,
    /// Answers that found no room. While there are any, nothing else is pushed.
    answers: VecDeque<Encoded>,
    /// Progress was asked for and not told yet.
    progress: bool,
}

#[derive(Debug)]
struct Watcher {
    stream: StreamId,
    id: i64,
    interest: Interest,
    no_put: bool,
    no_delete: bool,
    prev_kv: bool,
    fragment: bool,
    notify: bool,
    /// The first revision not sent. Of a watcher that is not behind, only meaningful if it lies in the future.
    next: Revision,
    /// Whether anything was sent since the last look for notifications, and when that was.
    heard: Option<Instant>,
}

/// A change, encoded at most once in each form.
struct Change<'a> {
    record: &'a Record,
    plain: Option<Bytes>,
    with_previous: Option<Bytes>,
}

impl<'a> Change<'a> {
    fn new(record: &'a Record) -> Self {
        Self { record, plain: None, with_previous: None }
    }

    fn encoded(&mut self, kv: &Kv, previous: bool) -> Bytes {
        let record = self.record;
        if previous {
            self.with_previous.get_or_insert_with(|| event(record, kv.previous(record))).clone()
        } else {
            self.plain.get_or_insert_with(|| event(record, None)).clone()
        }
    }
}

/// An event chosen for one watcher.
struct Chosen {
    revision: Revision,
    bytes: Bytes,
}

impl Stream {
    fn has_room(&self) -> bool {
        self.answers.is_empty() && self.outlet.has_room()
    }
}

impl Watcher {
    fn wants(&self, record: &Record) -> bool {
        record.revision() >= self.next && !(if record.is_delete() { self.no_delete } else { self.no_put })
    }
}

impl Hub {
    /// A hub for a state that stands at `revision`.
    pub fn new(limits: HubLimits, identity: Identity, pulse: Arc<Pulse>, metrics: Arc<Metrics>, revision: Revision) -> Self {
        Self {
            limits,
            identity,
            pulse,
            metrics,
            revision,
            streams: BTreeMap::new(),
            watchers: BTreeMap::new(),
            index: Index::default(),
            behind: BTreeSet::new(),
            runnable: BTreeSet::new(),
            served_last: WatcherKey(0),
            next_key: 0,
            leaderless_since: None,
            unfinished: false,
        }
    }

    /// Does what a stream asks.
    pub fn handle(&mut self, request: WatchRequest, kv: &Kv) {
        let WatchRequest { stream, ask } = request;
        match ask {
            Ask::Open { outlet, needs_leader } => self.open(stream, outlet, needs_leader),
            Ask::Create(create) => self.create(stream, create, kv),
            Ask::Cancel(id) => self.cancel(stream, id),
            Ask::Progress => self.progress_asked(stream),
            Ask::Room => self.room(stream, kv),
            Ask::Close => self.close_stream(stream),
            Ask::Fail(status) => self.fail_stream(stream, status),
        }
    }

    /// Hands out what was executed since the last call, and serves a slice of those behind.
    pub fn advance(&mut self, kv: &Kv) {
        let (from, to) = (self.revision.next(), kv.revision());
        if to >= from {
            if to.0 - from.0 >= self.limits.step_revisions_max || from < kv.compacted() {
                self.leave_all_behind();
            } else if !self.index.is_empty() {
                self.hand_out(kv, from, to);
            }
            self.revision = to;
        }
        self.catch_up(kv);
    }

    /// Looks at the time: notifications, streams that need a leader, streams that are gone.
    pub fn tick(&mut self, kv: &Kv, now: Instant) {
        let gone: Vec<StreamId> = self.streams.iter().filter(|(_, s)| s.outlet.is_closed()).map(|(&id, _)| id).collect();
        gone.into_iter().for_each(|stream| self.close_stream(stream));
        let leaderless = if self.pulse.leader() == 0 { Some(*self.leaderless_since.get_or_insert(now)) } else { None };
        self.leaderless_since = leaderless;
        if leaderless.is_some_and(|since| now.saturating_duration_since(since) >= self.limits.leaderless_time_max) {
            let orphans: Vec<StreamId> = self.streams.iter().filter(|(_, s)| s.needs_leader).map(|(&id, _)| id).collect();
            orphans.into_iter().for_each(|stream| self.fail_stream(stream, errors::NO_LEADER.into()));
        }
        let waiting: Vec<StreamId> = self.streams.iter().filter(|(_, s)| !s.answers.is_empty() || s.progress).map(|(&id, _)| id).collect();
        waiting.into_iter().for_each(|stream| self.flush(stream));
        self.notify(now);
        self.runnable.clone_from(&self.behind);
        self.advance(kv);
    }

    /// Whether [`Hub::advance`] has more to do at once: those behind have room, and the last slice was too small.
    pub fn is_unfinished(&self) -> bool {
        self.unfinished
    }

    /// Ends every stream, as the node stops.
    pub fn close(&mut self) {
        let all: Vec<StreamId> = self.streams.keys().copied().collect();
        all.into_iter().for_each(|stream| self.fail_stream(stream, errors::STOPPED.into()));
    }

    fn open(&mut self, stream: StreamId, outlet: Outlet, needs_leader: bool) {
        if self.streams.len() >= self.limits.streams_max {
            outlet.fail(errors::TOO_MANY_REQUESTS.into());
            return;
        }
        let opened = Stream { outlet, needs_leader, ids: BTreeMap::new(), next_id: 0, answers: VecDeque::new(), progress: false };
        if self.streams.insert(stream, opened).is_none() {
            self.metrics.watch_streams.inc();
        }
    }

    fn create(&mut self, stream: StreamId, create: Create, kv: &Kv) {
        let Some(open) = self.streams.get_mut(&stream) else { return };
        let key = if create.key.is_empty() { &[0][..] } else { &create.key };
        let verdict = kv.auth().check_read(&create.asker, key, &create.range_end);
        let denied = create.refused.or_else(|| verdict.err().map(|error| errors::in_a_watch(&kv_error(error))));
        let interest = Interest::of(create.key, create.range_end);
        let refusal = if create.start < 0 {
            Some(errors::COMPACTED.text.to_owned())
        } else if denied.is_some() {
            denied
        } else if kv.config().ordering == concur_kv::Ordering::PerKey {
            Some(KvError::OrderedPerKey.text())
        } else if interest.is_none() {
            Some("mvcc: watcher range is empty".to_owned())
        } else if create.id != 0 && open.ids.contains_key(&create.id) {
            Some("mvcc: duplicate watch ID provided on the WatchStream".to_owned())
        } else if self.watchers.len() >= self.limits.watchers_max {
            Some(errors::TOO_MANY_REQUESTS.text.to_owned())
        } else {
            None
        };
        let (Some(interest), None) = (interest, &refusal) else {
            let head = WatchResponse {
                created: true,
                canceled: true,
                cancel_reason: refusal.unwrap_or_default(),
                ..response(self.header(), NO_WATCHER)
            };
            return self.answer(stream, head);
        };
        let id = if create.id != 0 { create.id } else { open.free_id() };
        let key = WatcherKey(self.next_key);
        self.next_key += 1;
        open.ids.insert(id, key);
        let next = if create.start == 0 { self.revision.next() } else { Revision(create.start) };
        let Create { no_put, no_delete, prev_kv, fragment, notify, .. } = create;
        let watcher = Watcher { stream, id, interest, no_put, no_delete, prev_kv, fragment, notify, next, heard: None };
        self.metrics.watchers.inc();
        if next > self.revision {
            self.index.insert(&watcher.interest, key);
        } else {
            self.behind.insert(key);
            self.runnable.insert(key);
            self.metrics.slow_watchers.inc();
        }
        self.watchers.insert(key, watcher);
        // The answer may let go of progress that was asked for before: it must know that this watcher is behind.
        self.answer(stream, WatchResponse { created: true, ..response(self.header(), id) });
        self.catch_up(kv);
    }

    fn cancel(&mut self, stream: StreamId, id: i64) {
        let Some(key) = self.streams.get_mut(&stream).and_then(|open| open.ids.remove(&id)) else { return };
        self.forget(key);
        self.answer(stream, WatchResponse { canceled: true, ..response(self.header(), id) });
    }

    fn progress_asked(&mut self, stream: StreamId) {
        if let Some(open) = self.streams.get_mut(&stream) {
            open.progress = !open.ids.is_empty();
            self.flush(stream);
        }
    }

    fn room(&mut self, stream: StreamId, kv: &Kv) {
        self.flush(stream);
        if let Some(open) = self.streams.get(&stream) {
            self.runnable.extend(open.ids.values().filter(|key| self.behind.contains(key)));
        }
        self.catch_up(kv);
    }

    fn close_stream(&mut self, stream: StreamId) {
        if let Some(open) = self.streams.remove(&stream) {
            self.metrics.watch_streams.dec();
            open.ids.into_values().for_each(|key| self.forget(key));
        }
    }

    fn fail_stream(&mut self, stream: StreamId, status: Status) {
        if let Some(open) = self.streams.get(&stream) {
            open.outlet.fail(status);
        }
        self.close_stream(stream);
    }

    fn forget(&mut self, key: WatcherKey) {
        if let Some(watcher) = self.watchers.remove(&key) {
            self.metrics.watchers.dec();
            self.runnable.remove(&key);
            if self.behind.remove(&key) {
                self.metrics.slow_watchers.dec();
            } else {
                self.index.remove(&watcher.interest, key);
            }
        }
    }

    fn header(&self) -> ResponseHeader {
        ResponseHeader {
            cluster_id: self.identity.cluster,
            member_id: self.identity.member,
            revision: self.revision.0,
            raft_term: self.pulse.term(),
        }
    }

    /// Sends the answer to a request, behind those that wait.
    fn answer(&mut self, stream: StreamId, head: WatchResponse) {
        let Some(open) = self.streams.get_mut(&stream) else { return };
        open.answers.push_back(Encoded::new(&head, Vec::new()));
        if open.answers.len() > self.limits.answers_max {
            return self.fail_stream(stream, errors::TOO_MANY_REQUESTS.into());
        }
        self.flush(stream);
    }

    /// Sends answers that waited for room, then progress if it is due.
    fn flush(&mut self, stream: StreamId) {
        let header = self.header();
        let Some(open) = self.streams.get_mut(&stream) else { return };
        while !open.answers.is_empty() && open.outlet.has_room() {
            open.outlet.push(open.answers.pop_front().expect("it is not empty"));
        }
        if open.progress && open.has_room() {
            let (behind, watchers, next) = (&self.behind, &self.watchers, self.revision.next());
            let in_step = |key: &WatcherKey| !behind.contains(key) && watchers.get(key).is_none_or(|watcher| watcher.next <= next);
            if open.ids.values().all(in_step) {
                open.outlet.push(Encoded::new(&response(header, NO_WATCHER), Vec::new()));
                open.progress = false;
            }
        }
    }

    /// Hands the changes of some revisions to the watchers that they concern.
    fn hand_out(&mut self, kv: &Kv, from: Revision, to: Revision) {
        let Ok(history) = kv.history(from, to) else { return self.leave_all_behind() };
        let mut concerned: BTreeMap<WatcherKey, Vec<usize>> = BTreeMap::new();
        let mut changes = Vec::new();
        for record in history.flat_map(|revision| revision.records) {
            self.index.visit(record.key(), |key| concerned.entry(key).or_default().push(changes.len()));
            changes.push(Change::new(record));
        }
        let header = ResponseHeader { revision: to.0, ..self.header() };
        for (key, places) in concerned {
            let Some(watcher) = self.watchers.get_mut(&key) else { continue };
            let wanted = places.into_iter().filter(|&place| watcher.wants(changes[place].record)).collect::<Vec<_>>();
            let chosen = wanted
                .into_iter()
                .map(|place| Chosen { revision: changes[place].record.revision(), bytes: changes[place].encoded(kv, watcher.prev_kv) });
            let chosen: Vec<Chosen> = chosen.collect();
            if chosen.is_empty() {
                continue;
            }
            let Some(open) = self.streams.get(&watcher.stream) else { continue };
            if let Some(next) = send(open, watcher, header, chosen, &self.limits, &self.metrics) {
                watcher.next = next;
                self.index.remove(&watcher.interest, key);
                self.behind.insert(key);
                self.metrics.slow_watchers.inc();
            }
        }
    }

    /// Everyone who is not behind, and does not wait for the future, is served from the history from here on.
    fn leave_all_behind(&mut self) {
        let next = self.revision.next();
        for (&key, watcher) in &mut self.watchers {
            if self.behind.insert(key) {
                watcher.next = watcher.next.max(next);
                self.runnable.insert(key);
                self.metrics.slow_watchers.inc();
            }
        }
        self.index = Index::default();
    }

    /// Serves one slice of those behind, beginning after the one served last.
    fn catch_up(&mut self, kv: &Kv) {
        let mut left = self.limits.slice_changes_max;
        self.unfinished = false;
        if self.runnable.is_empty() {
            return;
        }
        let after = std::ops::Bound::Excluded(self.served_last);
        let turn: Vec<WatcherKey> = self
            .runnable
            .range((after, std::ops::Bound::Unbounded))
            .chain(self.runnable.range(..=self.served_last))
            .take(self.limits.slice_changes_max)
            .copied()
            .collect();
        for key in turn {
            if left == 0 {
                self.unfinished = true;
                return;
            }
            left = left.saturating_sub(self.serve_behind(kv, key, left).max(1));
        }
    }

    /// Serves one watcher from the history as far as its room and the slice allow. Returns how many changes were looked at.
    fn serve_behind(&mut self, kv: &Kv, key: WatcherKey, slice: usize) -> usize {
        let header = self.header();
        let Some(watcher) = self.watchers.get_mut(&key) else { return 0 };
        let Some(open) = self.streams.get(&watcher.stream).filter(|open| open.has_room()) else {
            self.runnable.remove(&key);
            return 0;
        };
        self.served_last = key;
        if watcher.next < kv.compacted() {
            self.cancel_compacted(key, kv.compacted());
            return 1;
        }
        let (mut looked, mut bytes, mut chosen) = (0, 0, Vec::new());
        let mut next = self.revision.next();
        let Ok(history) = kv.history(watcher.next, self.revision) else { return 1 };
        for changes in history {
            if looked >= slice || bytes >= self.limits.response_bytes {
                next = changes.revision;
                break;
            }
            looked += changes.records.len();
            for record in changes.records.iter().filter(|r| watcher.interest.covers(r.key()) && watcher.wants(r)) {
                let encoded = Change::new(record).encoded(kv, watcher.prev_kv);
                bytes += encoded.len();
                chosen.push(Chosen { revision: changes.revision, bytes: encoded });
            }
        }
        if !chosen.is_empty() {
            next = send(open, watcher, header, chosen, &self.limits, &self.metrics).unwrap_or(next);
        }
        watcher.next = next.max(watcher.next);
        if watcher.next > self.revision {
            self.behind.remove(&key);
            self.runnable.remove(&key);
            self.metrics.slow_watchers.dec();
            self.index.insert(&watcher.interest, key);
            let stream = watcher.stream;
            self.flush(stream);
        } else {
            self.unfinished = true;
        }
        looked
    }

    fn cancel_compacted(&mut self, key: WatcherKey, compacted: Revision) {
        let Some(watcher) = self.watchers.get(&key) else { return };
        let (stream, id) = (watcher.stream, watcher.id);
        if let Some(open) = self.streams.get_mut(&stream) {
            open.ids.remove(&id);
        }
        self.forget(key);
        let head = WatchResponse { canceled: true, compact_revision: compacted.0, ..response(self.header(), id) };
        self.answer(stream, head);
    }

    /// Tells watchers that asked for it, and heard nothing for an interval, the revision up to which they heard everything.
    fn notify(&mut self, now: Instant) {
        let interval = self.limits.notify_interval.max(NOTIFY_INTERVAL_MIN);
        let (header, next) = (self.header(), self.revision.next());
        for (key, watcher) in self.watchers.iter_mut().filter(|(_, watcher)| watcher.notify) {
            let Some(heard) = watcher.heard else {
                watcher.heard = Some(now);
                continue;
            };
            if now.saturating_duration_since(heard) < interval || watcher.next > next || self.behind.contains(key) {
                continue;
            }
            if let Some(open) = self.streams.get(&watcher.stream).filter(|open| open.has_room()) {
                open.outlet.push(Encoded::new(&response(header, watcher.id), Vec::new()));
                watcher.heard = Some(now);
            }
        }
    }
}

impl Stream {
    fn free_id(&mut self) -> i64 {
        while self.ids.contains_key(&self.next_id) {
            self.next_id += 1;
        }
        let id = self.next_id;
        self.next_id += 1;
        id
    }
}

/// Sends a watcher its events, whole revisions together. Returns the first revision that found no room.
fn send(
    open: &Stream,
    watcher: &mut Watcher,
    header: ResponseHeader,
    chosen: Vec<Chosen>,
    limits: &HubLimits,
    metrics: &Metrics,
) -> Option<Revision> {
    let mut chosen = chosen.into_iter().peekable();
    while let Some(first) = chosen.peek() {
        if !open.has_room() {
            return Some(first.revision);
        }
        let (mut events, mut bytes, mut last) = (Vec::new(), 0, first.revision);
        while let Some(event) = chosen.next_if(|event| event.revision == last || bytes < limits.response_bytes) {
            bytes += event.bytes.len();
            last = event.revision;
            events.push(event.bytes);
        }
        metrics.watch_events.inc_by(events.len() as u64);
        watcher.heard = None;
        if watcher.fragment && bytes > limits.fragment_bytes {
            push_fragments(open, response(header, watcher.id), events, limits.fragment_bytes);
        } else {
            open.outlet.push(Encoded::new(&response(header, watcher.id), events));
        }
    }
    None
}

/// Pushes one response in parts; all but the last say that more follows.
fn push_fragments(open: &Stream, head: WatchResponse, events: Vec<Bytes>, fragment_bytes: usize) {
    let mut events = events.into_iter().peekable();
    while events.peek().is_some() {
        let (mut part, mut bytes) = (Vec::new(), 0);
        while let Some(event) = events.next_if(|event| part.is_empty() || bytes + event.len() <= fragment_bytes) {
            bytes += event.len();
            part.push(event);
        }
        let head = WatchResponse { fragment: events.peek().is_some(), ..head.clone() };
        open.outlet.push(Encoded::new(&head, part));
    }
}
