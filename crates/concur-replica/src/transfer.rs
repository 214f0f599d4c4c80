//! Transfer: a replica that lacks what its peers have forgotten gets the state of one of them, in chunks, and goes on from there.
//!
//! The source keeps one view a peer, taken at one frontier, until the peer has it or stays silent for long. The receiver installs
//! it when the last chunk is there; the protocol hears of it only when the engine holds it durably.

use crate::api::{Bulk, Output, Refused};
use crate::propose::Flight;
use crate::replica::{Image, Replica};
use bytes::Bytes;
use concur_core::{AnyInput, Frontier, Mark, ReplicaId, ReplicaSet, StateMachine, Time};
use concur_network::{Body, StateChunk};
use std::collections::BTreeMap;
use std::sync::Arc;

/// How often the receiver asks again before it gives the transfer up.
const ASKED_MAX: u32 = 20;

/// Transfers of state, both ways.
#[derive(Debug, Default)]
pub(crate) struct Transfers {
    /// Views being sent, a peer.
    sending: BTreeMap<ReplicaId, View>,
    fetching: Option<Fetching>,
    /// State that was installed and is not durable yet.
    installing: Option<Mark<Bytes>>,
    next: u64,
}

#[derive(Debug)]
struct View {
    transfer: u64,
    entries: Arc<Vec<(Bytes, Bytes)>>,
    /// Where each chunk begins.
    starts: Vec<usize>,
    used_at: Time,
}

#[derive(Debug)]
struct Fetching {
    from: ReplicaId,
    /// 0 until the first chunk names it.
    transfer: u64,
    chunk: u64,
    entries: Vec<(Bytes, Bytes)>,
    ask_at: Time,
    asked: u32,
}

impl Transfers {
    pub(crate) fn fetching(&self) -> bool {
        self.fetching.is_some() || self.installing.is_some()
    }

    pub(crate) fn wake_at(&self) -> Option<Time> {
        self.fetching.as_ref().map(|fetching| fetching.ask_at)
    }

    /// The source does not know the transfer any more: begin again.
    pub(crate) fn gone(&mut self, from: ReplicaId, transfer: u64) {
        if let Some(fetching) = &mut self.fetching
            && fetching.from == from
            && fetching.transfer == transfer
        {
            fetching.transfer = 0;
            fetching.chunk = 0;
            fetching.entries.clear();
        }
    }
}

impl<M: StateMachine> Replica<M> {
    /// Begins to fetch state that covers `frontier`, unless that is executed or a fetch is under way.
    pub(crate) fn fetch(&mut self, from: ReplicaId, frontier: &Frontier, out: &mut Output) {
        if self.transfers.fetching() || from == self.me() || self.sequencer.frontier().covers(frontier) {
            return;
        }
        out.notes.push(("state fetched", None));
        let ask_at = self.now;
        self.transfers.fetching = Some(Fetching { from, transfer: 0, chunk: 0, entries: Vec::new(), ask_at, asked: 0 });
        self.retry_fetch(out);
    }

    /// Asks for the chunk that is missing, if its time has come.
    pub(crate) fn retry_fetch(&mut self, out: &mut Output) {
        let after = self.settings.config.election;
        let Some(fetching) = &mut self.transfers.fetching else { return };
        if fetching.ask_at > self.now {
            return;
        }
        fetching.asked += 1;
        if fetching.asked > ASKED_MAX {
            self.transfers.fetching = None;
            return;
        }
        fetching.ask_at = self.now + after;
        let body = Body::StateWanted { transfer: fetching.transfer, chunk: fetching.chunk };
        let to = ReplicaSet::one(fetching.from);
        self.send_body(to, false, body, out);
    }

    /// A peer wants a part of this replica's state.
    pub(crate) fn state_wanted(&mut self, from: ReplicaId, transfer: u64, chunk: u64, out: &mut Output) {
        if transfer == 0 {
            self.take_view(from);
        }
        let now = self.now;
        let idle = self.settings.config.election * 20;
        self.transfers.sending.retain(|_, view| now.since(view.used_at) < idle);
        let view = self.transfers.sending.get_mut(&from).filter(|view| transfer == 0 || view.transfer == transfer);
        let Some(view) = view else {
            return self.send_body(ReplicaSet::one(from), false, Body::StateGone { transfer }, out);
        };
        view.used_at = now;
        let index = usize::try_from(chunk).unwrap_or(usize::MAX);
        let Some(&start) = view.starts.get(index) else { return };
        let end = view.starts.get(index + 1).copied().unwrap_or(view.entries.len());
        let last = index + 1 == view.starts.len();
        let entries = view.entries[start..end].to_vec();
        let body = Body::State(StateChunk { transfer: view.transfer, chunk, last, entries });
        self.send_body(ReplicaSet::one(from), false, body, out);
    }

    fn take_view(&mut self, peer: ReplicaId) {
        let entries = self.image();
        let (mut starts, mut bytes) = (vec![0], 0);
        for (i, (key, value)) in entries.iter().enumerate() {
            bytes += key.len() + value.len() + 8;
            if bytes > self.settings.transfer_bytes_max && i > 0 {
                starts.push(i);
                bytes = key.len() + value.len() + 8;
            }
        }
        self.transfers.next += 1;
        let transfer = (self.settings.boot.0 << 32) + self.transfers.next;
        let view = View { transfer, entries: Arc::new(entries), starts, used_at: self.now };
        self.transfers.sending.insert(peer, view);
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
            self.transfers.fetching = None;
            self.install(entries, out);
        } else {
            self.retry_fetch(out);
        }
    }

    /// Replaces the state by a peer's, if it is ahead.
    fn install(&mut self, entries: Vec<(Bytes, Bytes)>, out: &mut Output) {
        let Ok(image) = Image::read(entries.clone()) else {
            return out.notes.push(("malformed state dropped", None));
        };
        let Some(mark) = image.mark else { return };
        let executed = self.sequencer.frontier();
        if executed.covers(&mark.frontier) || !mark.frontier.covers(&executed) {
            return out.notes.push(("state behind dropped", None));
        }
        if self.machine.load(&mut image.machine.into_iter()).is_err() {
            return out.notes.push(("malformed state dropped", None));
        }
        let _ = self.machine.changes();
        self.executed = image.executed;
        self.sequencer.install(&mark);
        out.notes.push(("state installed", None));
        out.changed = true;
        // Earlier changes are in the installed image or before it.
        out.bulk = None;
        let changes = entries.into_iter().map(|(key, value)| concur_core::Change { key, value: Some(value) }).collect();
        out.install = Some(Bulk { changes, mark: mark.clone() });
        self.transfers.installing = Some(mark);
        self.forget_flights(out);
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
        if let Some(mark) = self.transfers.installing.take_if(|mark| self.stored.covers(&mark.frontier)) {
            self.inputs.push_back(AnyInput::Installed(mark));
        }
    }
}
