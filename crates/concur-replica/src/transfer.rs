//! Transfer: a replica that lacks what its peers have forgotten gets the state of one of them, in chunks, and goes on from there.
//!
//! The source keeps one view a peer, taken at one frontier, until the peer has it or stays silent for long. The receiver installs
//! it when the last chunk is there; the protocol hears of it only when the engine holds it durably. A source that restarted, or
//! gave the view up, says so, and the transfer begins again; one that does not answer is given up, or left as soon as the protocol
//! names another.
//!
//! State can be installed only over what it covers. In a partial order a source may lack something that the receiver has executed;
//! it is decided, so the source has it soon, and the receiver asks again. That it does not stay ahead somewhere for ever is the
//! protocol's to see to: what is proposed anew depends on what was forgotten, and waits for the state.
//!
//! Not here: a state that is sent while it changes, and chunks ahead of the answers. The view is a copy in memory.

use crate::api::{Bulk, Output, Refused};
use crate::propose::Flight;
use crate::replica::{Image, Replica};
use bytes::Bytes;
use concur_core::{AnyInput, Change, Frontier, Mark, ReplicaId, ReplicaSet, StateMachine, Time};
use concur_network::{Body, StateChunk};
use std::collections::BTreeMap;
use std::sync::Arc;

/// How often the receiver asks for one chunk before it gives the transfer up.
const ASKED_MAX: u32 = 5;
/// How often it begins again because the state did not cover its own, or was gone.
const BEGUN_MAX: u32 = 5;
/// For how many election timeouts a view is kept that nobody asks for.
const VIEW_IDLE_ELECTIONS: u32 = 8;

/// Transfers of state, both ways.
#[derive(Debug, Default)]
pub(crate) struct Transfers {
    /// Views being sent, a peer.
    sending: BTreeMap<ReplicaId, View>,
    fetching: Option<Fetching>,
    /// State that was installed and is not durable yet.
    installing: Option<Mark<Bytes>>,
}

/// A state as it was when it was asked for.
#[derive(Debug, Clone)]
struct View {
    transfer: u64,
    /// What the state covers. Until its peer holds so much, what comes behind it is not forgotten.
    frontier: Frontier,
    entries: Arc<Vec<(Bytes, Bytes)>>,
    /// Where each chunk begins.
    starts: Arc<Vec<usize>>,
    taken_at: Time,
    used_at: Time,
    /// Whether the peer has asked for more than the first chunk.
    under_way: bool,
    /// The number, in what is fed, of what comes behind it.
    fed_from: u64,
}

#[derive(Debug)]
struct Fetching {
    from: ReplicaId,
    /// 0 until the first chunk names it.
    transfer: u64,
    chunk: u64,
    entries: Vec<(Bytes, Bytes)>,
    ask_at: Time,
    /// How often the present chunk was asked for.
    asked: u32,
    /// How often the transfer began.
    begun: u32,
}

impl Fetching {
    fn new(from: ReplicaId, ask_at: Time) -> Self {
        Self { from, transfer: 0, chunk: 0, entries: Vec::new(), ask_at, asked: 0, begun: 1 }
    }

    fn begin_again(&mut self, ask_at: Time) {
        *self = Self { begun: self.begun + 1, ..Self::new(self.from, ask_at) };
    }
}

impl Transfers {
    pub(crate) fn fetching(&self) -> bool {
        self.fetching.is_some() || self.installing.is_some()
    }

    pub(crate) fn wake_at(&self) -> Option<Time> {
        self.fetching.as_ref().map(|fetching| fetching.ask_at)
    }
}

impl Transfers {
    /// What a peer holds durably: the view that it was sent is no longer needed once that covers it.
    pub(crate) fn arrived(&mut self, peer: ReplicaId, stored: &Frontier) {
        if self.sending.get(&peer).is_some_and(|view| stored.covers(&view.frontier)) {
            self.sending.remove(&peer);
        }
    }

    /// What may be forgotten of `floor` while states are on their way: a peer that has installed one goes on from there, and would
    /// find nothing if what comes behind it were gone by then. Views that nobody asks for do not last.
    pub(crate) fn hold(&self, floor: &mut Frontier) {
        let epoch = floor.epoch;
        self.sending.values().filter(|view| view.frontier.epoch == epoch).for_each(|view| floor.keep_prefix(&view.frontier));
    }

    /// From which number on what is fed has to be kept for those to whom a state is on its way.
    pub(crate) fn held_from(&self) -> Option<u64> {
        self.sending.values().map(|view| view.fed_from).min()
    }

    /// Another epoch began: a state that was installed in the old one is of no interest to the next vote.
    pub(crate) fn enter(&mut self) {
        self.installing = None;
    }
}

impl<M: StateMachine> Replica<M> {
    /// Begins to fetch state, which is to cover `frontier`, unless that is executed or a fetch is under way from somebody who answers.
    pub(crate) fn fetch(&mut self, from: ReplicaId, frontier: Option<&Frontier>, out: &mut Output) {
        let answers = |fetching: &Fetching| fetching.from == from || fetching.asked < 2;
        let under_way = self.transfers.installing.is_some() || self.transfers.fetching.as_ref().is_some_and(answers);
        if under_way || from == self.me() || frontier.is_some_and(|frontier| self.sequencer.covers(frontier)) {
            return;
        }
        out.notes.push(("state fetched", None));
        self.transfers.fetching = Some(Fetching::new(from, self.now));
        self.retry_fetch(out);
    }

    /// Asks for the chunk that is missing, if its time has come.
    pub(crate) fn retry_fetch(&mut self, out: &mut Output) {
        let ask_at = self.now + self.settings.config.election;
        let Some(fetching) = &mut self.transfers.fetching else { return };
        if fetching.ask_at > self.now {
            return;
        }
        fetching.asked += 1;
        if fetching.asked > ASKED_MAX || fetching.begun > BEGUN_MAX {
            self.transfers.fetching = None;
            return out.notes.push(("state fetch given up", None));
        }
        fetching.ask_at = ask_at;
        let body = Body::StateWanted { transfer: fetching.transfer, chunk: fetching.chunk };
        let to = ReplicaSet::one(fetching.from);
        self.send_body(to, false, body, out);
    }

    /// The source does not know the transfer any more: begin again.
    pub(crate) fn state_gone(&mut self, from: ReplicaId, transfer: u64, out: &mut Output) {
        let now = self.now;
        let Some(fetching) = &mut self.transfers.fetching else { return };
        if fetching.from == from && fetching.transfer == transfer && transfer != 0 {
            fetching.begin_again(now);
            self.retry_fetch(out);
        }
    }

    /// A peer wants a part of this replica's state.
    pub(crate) fn state_wanted(&mut self, from: ReplicaId, transfer: u64, chunk: u64, out: &mut Output) {
        if self.empty {
            return;
        }
        if transfer == 0 {
            self.take_view(from);
        }
        let now = self.now;
        let view = self.transfers.sending.get_mut(&from).filter(|view| transfer == 0 || view.transfer == transfer);
        let Some(view) = view else {
            return self.send_body(ReplicaSet::one(from), false, Body::StateGone { transfer }, out);
        };
        view.used_at = now;
        view.under_way |= chunk > 0;
        let index = usize::try_from(chunk).unwrap_or(usize::MAX);
        let Some(&start) = view.starts.get(index) else { return };
        let next = index + 1; // A place in memory is below the greatest number.
        let end = view.starts.get(next).copied().unwrap_or(view.entries.len());
        let last = next == view.starts.len();
        let entries = view.entries[start..end].to_vec();
        let body = Body::State(StateChunk { transfer: view.transfer, chunk, last, entries });
        self.send_body(ReplicaSet::one(from), false, body, out);
    }

    /// Makes the view for a peer. One that was just made serves again: a question that came twice must not begin twice, and
    /// several peers that lag need not have a copy each.
    fn take_view(&mut self, peer: ReplicaId) {
        let (now, config) = (self.now, &self.settings.config);
        let begins = |view: &View| !view.under_way && view.starts.len() > 1 && now.since(view.taken_at) < config.election;
        if self.transfers.sending.get(&peer).is_some_and(begins) {
            return;
        }
        // Another in every run of every life.
        let transfer = self.rng.next_u64() | 1;
        let fed_from = self.window.end();
        let young = |view: &&View| now.since(view.taken_at) < config.heartbeat / 2;
        let view = match self.transfers.sending.values().find(young) {
            Some(view) => View { transfer, used_at: now, under_way: false, ..view.clone() },
            None => {
                let entries = self.image();
                let starts = Arc::new(chunk_starts(&entries, self.settings.transfer_bytes_max));
                let frontier = self.sequencer.frontier();
                View { transfer, frontier, entries: Arc::new(entries), starts, taken_at: now, used_at: now, under_way: false, fed_from }
            }
        };
        self.transfers.sending.insert(peer, view);
    }

    /// Lets go of views that nobody asks for.
    pub(crate) fn forget_views(&mut self) {
        let (now, idle) = (self.now, self.settings.config.election * VIEW_IDLE_ELECTIONS);
        self.transfers.sending.retain(|_, view| now.since(view.used_at) < idle);
    }

    /// A part of a peer's state arrived.
    pub(crate) fn state(&mut self, from: ReplicaId, chunk: StateChunk, out: &mut Output) {
        let now = self.now;
        let Some(fetching) = &mut self.transfers.fetching else { return };
        let begins = fetching.transfer == 0 && chunk.chunk == 0;
        if fetching.from != from || chunk.chunk != fetching.chunk || !(begins || fetching.transfer == chunk.transfer) {
            return;
        }
        fetching.transfer = chunk.transfer;
        fetching.chunk += 1;
        fetching.entries.extend(chunk.entries);
        fetching.asked = 0;
        fetching.ask_at = now;
        if chunk.last {
            let entries = std::mem::take(&mut fetching.entries);
            self.install(entries, out);
        } else {
            self.retry_fetch(out);
        }
    }

    /// Replaces the state by a peer's, if it is ahead. If it is ahead in one lane and behind in another, a later one is asked for.
    fn install(&mut self, entries: Vec<(Bytes, Bytes)>, out: &mut Output) {
        let again_at = self.now + self.settings.config.heartbeat;
        let Some(mut fetching) = self.transfers.fetching.take() else { return };
        let Ok(image) = Image::read(entries.clone()) else {
            return out.notes.push(("malformed state dropped", None));
        };
        let (Some(mark), Some(configuration)) = (image.mark, image.configuration) else {
            return out.notes.push(("malformed state dropped", None));
        };
        let enters = mark.frontier.epoch > self.epoch();
        let sound = self.settings.accepts(&configuration, mark.frontier.epoch);
        // Once it is stored, a vote begins with it: one that cannot would never start again.
        if !sound || ((enters || self.empty) && !self.settings.can_begin(&configuration, &mark, self.now)) {
            return out.notes.push(("malformed state dropped", None));
        }
        if mark.frontier.epoch < self.epoch() || self.passage.is_some() {
            return out.notes.push(("state of another epoch dropped", None));
        }
        if self.sequencer.covers(&mark.frontier) && !self.empty {
            return out.notes.push(("state behind dropped", None));
        }
        if !mark.frontier.covers(&self.sequencer.frontier()) {
            fetching.begin_again(again_at);
            self.transfers.fetching = Some(fetching);
            return out.notes.push(("state aside dropped", None));
        }
        if self.machine.load(&mut image.machine.into_iter()).is_err() {
            return out.notes.push(("malformed state dropped", None));
        }
        // The whole image goes to the engine; earlier changes are in it or before it.
        let _ = self.machine.changes();
        out.bulk = None;
        self.executed = image.executed;
        out.notes.push(("state installed", None));
        out.changed = true;
        let changes = entries.into_iter().map(|(key, value)| Change { key, value: Some(value) }).collect();
        out.install = Some(Bulk { changes, mark: mark.clone(), urgent: true });
        self.forget_flights(out);
        self.window.restart(mark.frontier.clone());
        if enters || self.empty {
            out.notes.push(("state of a later epoch installed", None));
            self.empty = false;
            return self.enter(configuration, mark, false, out);
        }
        self.sequencer.install(&mark);
        self.decided = true;
        self.following.ask_again(self.now);
        self.transfers.installing = Some(mark);
    }

    /// Batches that the installed state has executed: their replies are not known here.
    fn forget_flights(&mut self, out: &mut Output) {
        for id in self.flights.ids() {
            if !self.executed.contains(id) {
                continue;
            }
            let waiting = self.flights.remove(id.number).map(|Flight { waiting, .. }| waiting);
            for (token, _) in waiting.into_iter().flatten().flatten() {
                out.replies.push((token, Err(Refused::Unknown)));
            }
        }
    }

    /// Tells the protocol of installed state once the engine holds it.
    pub(crate) fn installed(&mut self) {
        if let Some(mark) = self.transfers.installing.take_if(|mark| self.stored.covers(&mark.frontier))
            && self.protocol.is_some()
        {
            self.inputs.push_back(AnyInput::Installed(mark));
        }
    }
}

/// Where the chunks of so many bytes begin. An entry that is larger makes a chunk of its own.
fn chunk_starts(entries: &[(Bytes, Bytes)], bytes_max: usize) -> Vec<usize> {
    let (mut starts, mut bytes) = (vec![0], 0);
    for (i, (key, value)) in entries.iter().enumerate() {
        let size = key.len() + value.len() + 8;
        bytes += size;
        if bytes > bytes_max && i > 0 {
            starts.push(i);
            bytes = size;
        }
    }
    starts
}
