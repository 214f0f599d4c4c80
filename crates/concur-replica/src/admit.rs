//! Admit: what was offered is looked at; limits are checked before anything is kept.

use crate::api::{Event, Output, Refused, Request, Token};
use crate::item::Item;
use crate::read::Read;
use crate::replica::Replica;
use bytes::Bytes;
use concur_core::{AnyInput, Epoch, Footprint, Health, Ordering, ReplicaId, Seal, Span, StateMachine, Time, Value, Wire};
use concur_execution::Level;
use concur_network::{Body, Envelope};
use concur_peers::Configuration;
use std::collections::VecDeque;

/// Commands that wait for a batch.
#[derive(Debug, Default)]
pub(crate) struct Pending {
    commands: VecDeque<Waiting>,
    bytes: usize,
}

/// One command, and the client that waits for it; the replica's own commands have none.
#[derive(Debug)]
pub(crate) struct Waiting {
    pub(crate) token: Option<Token>,
    pub(crate) item: Item,
    pub(crate) deadline: Time,
    /// What it touches, where the item does not tell.
    pub(crate) footprint: Option<Box<Footprint>>,
}

impl Waiting {
    /// A command that says itself what it touches.
    pub(crate) fn new(token: Option<Token>, item: Item, deadline: Time) -> Self {
        Self { token, item, deadline, footprint: None }
    }
}

impl Pending {
    pub(crate) fn len(&self) -> usize {
        self.commands.len()
    }

    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(crate) fn push(&mut self, waiting: Waiting) {
        self.bytes += waiting.item.size_bytes();
        self.commands.push_back(waiting);
    }

    /// The next command, if it is within `bytes`.
    pub(crate) fn pop(&mut self, bytes: usize) -> Option<Waiting> {
        let size = self.commands.front()?.item.size_bytes();
        if size > bytes {
            return None;
        }
        self.bytes -= size;
        self.commands.pop_front()
    }

    /// Takes out the commands whose clients' time is up.
    pub(crate) fn expire(&mut self, now: Time, mut expired: impl FnMut(Token)) {
        let bytes = &mut self.bytes;
        self.commands.retain(|waiting| {
            let live = waiting.deadline > now;
            if !live {
                *bytes -= waiting.item.size_bytes();
                waiting.token.into_iter().for_each(&mut expired);
            }
            live
        });
    }
}

impl<M: StateMachine> Replica<M> {
    /// Looks at everything that was offered.
    pub(crate) fn admit(&mut self, out: &mut Output) {
        if std::mem::take(&mut self.messages) > self.settings.inbox_messages_max {
            out.notes.push(("inbox full: messages dropped", None));
        }
        while let Some(event) = self.inbox.pop_front() {
            match event {
                Event::Request { token, request } => self.request(token, request, out),
                Event::Message { from, bytes } => self.receive(from, &bytes, out),
                Event::Durable(ticket) => self.durable(ticket, out),
                Event::Stored(frontier) => self.stored(frontier, out),
                Event::Peer(id, health) => self.peer(id, health),
                Event::Leave => {
                    self.stopping = true;
                    self.inputs.push_back(AnyInput::Leave);
                }
            }
        }
    }

    fn request(&mut self, token: Token, request: Request, out: &mut Output) {
        if self.stopping {
            return out.replies.push((token, Err(Refused::Stopping)));
        }
        match request {
            Request::Command { session, body, timeout } => {
                let deadline = self.now + timeout;
                self.queue(Waiting::new(Some(token), Item::Apply { session, body }, deadline), out);
            }
            Request::OpenSession { session, timeout } => {
                let deadline = self.now + timeout;
                self.queue(Waiting::new(Some(token), Item::Open { session }, deadline), out);
            }
            Request::Read { level, footprint, query, timeout } => {
                let read = Read { token, footprint, query, deadline: self.now + timeout };
                self.read(level, read, out);
            }
            Request::Change { change, timeout } => self.change(token, change, timeout, out),
        }
    }

    /// Puts a command where the next batch takes it from.
    pub(crate) fn queue(&mut self, waiting: Waiting, out: &mut Output) {
        let size = waiting.item.size_bytes();
        let full = self.pending.len() >= self.settings.pending_commands_max || self.pending.bytes + size > self.settings.pending_bytes_max;
        let refused = if size > self.settings.config.message_bytes_max {
            Refused::TooLarge
        } else if full {
            Refused::Busy
        } else {
            return self.pending.push(waiting);
        };
        out.replies.extend(waiting.token.map(|token| (token, Err(refused))));
    }

    fn read(&mut self, level: Level, read: Read, out: &mut Output) {
        if self.empty {
            return out.replies.push((read.token, Err(Refused::Busy))); // There is no state yet.
        }
        if level == Level::Eventual {
            return self.answer(level, read, out);
        }
        if self.settings.order == Ordering::Partial && !is_one_key(&read.footprint) {
            // A barrier and a local read are linearizable for one key only; several are ordered by deciding the read.
            let Some(body) = read.query else {
                return out.replies.push((read.token, Err(Refused::NeedsQuery)));
            };
            let waiting = Waiting::new(Some(read.token), Item::Query { body }, read.deadline);
            return self.queue(Waiting { footprint: Some(Box::new(read.footprint)), ..waiting }, out);
        }
        if self.reads.len() >= self.settings.pending_reads_max {
            return out.replies.push((read.token, Err(Refused::Busy)));
        }
        self.reads.push(read);
    }

    fn receive(&mut self, from: ReplicaId, bytes: &Bytes, out: &mut Output) {
        if from == self.me() {
            // Its own messages never leave the replica: what says so was not held for the disk.
            return out.notes.push(("envelope of oneself dropped", None));
        }
        let Ok(envelope) = Envelope::decode(bytes) else {
            return out.notes.push(("malformed envelope dropped", None));
        };
        if envelope.group != self.settings.config.group {
            return out.notes.push(("envelope of another group dropped", None));
        }
        self.heard(from);
        let epoch = envelope.epoch;
        match envelope.body {
            // What members say of their state and ask of others' holds in every epoch.
            Body::Progress { executed, stored, incarnation } => self.progress(from, executed, stored, incarnation, out),
            Body::HoldsNothing { incarnation } => self.another_life(from, incarnation),
            Body::StateWanted { transfer, chunk } => self.state_wanted(from, transfer, chunk, out),
            Body::State(chunk) => self.state(from, chunk, out),
            Body::StateGone { transfer } => self.state_gone(from, transfer, out),
            Body::FollowWanted { frontier, begins } => self.follow_wanted(from, frontier, begins, out),
            Body::Feed(feed) => self.fed(from, feed, out),
            Body::FeedGone {} => self.feed_gone(from, out),
            // A barrier's frontier names its epoch itself.
            Body::Barrier { id, frontier } => self.barrier_answered(id, frontier),
            body if epoch == self.epoch() && self.passage.is_none() => self.of_this_epoch(from, body, out),
            body if epoch >= self.epoch() => self.of_an_epoch_to_come(from, epoch, body, out),
            // Whoever is in an earlier epoch is told.
            _ => {
                out.notes.push(("message of an earlier epoch", None));
                self.tell_how_far(from, out);
            }
        }
    }

    /// Takes what is about the decisions of the epoch that this replica is in.
    pub(crate) fn of_this_epoch(&mut self, from: ReplicaId, body: Body, out: &mut Output) {
        match body {
            Body::Protocol(message) => self.inputs.push_back(AnyInput::Receive { from, message }),
            Body::Forward(value) => self.forwarded(from, value, out),
            Body::Declined { id, leader, busy } => self.declined(id, leader, busy, out),
            Body::BarrierWanted { id, footprint } => self.barrier_wanted(from, id, footprint, out),
            _ => unreachable!("looked at before"),
        }
    }

    /// What is of an epoch that this replica has not entered waits until it has.
    fn of_an_epoch_to_come(&mut self, from: ReplicaId, epoch: Epoch, body: Body, out: &mut Output) {
        if !matches!(body, Body::Declined { .. }) {
            self.early.push(from, epoch, body);
        }
        self.seen_ahead(from, epoch, out);
    }

    /// A peer cannot propose and asks this replica to. What has run is not proposed again: the peer will learn of it.
    fn forwarded(&mut self, from: ReplicaId, value: Value, out: &mut Output) {
        let sound = |value: &Value| match value {
            Value::Seal(seal) => self.leads_on(seal),
            _ => true,
        };
        match value.id().filter(|id| id.origin == from && sound(&value)) {
            None => out.notes.push(("malformed envelope dropped", None)),
            Some(id) if self.executed.contains(id) => out.notes.push(("duplicate batch skipped", None)),
            Some(_) => self.inputs.push_back(AnyInput::Submit(value)),
        }
    }

    /// Whether a seal that somebody sent leads to an epoch that this replica could enter.
    pub(crate) fn leads_on(&self, seal: &Seal) -> bool {
        let next = Epoch(self.epoch().0 + 1);
        Configuration::from_bytes(&seal.body).is_ok_and(|configuration| self.settings.accepts(&configuration, next))
    }

    fn peer(&mut self, id: ReplicaId, health: Health) {
        if self.settings.config.voters().contains(id) {
            self.inputs.push_back(AnyInput::Peer(id, health));
        }
        if let Some(peer) = self.peers.get_mut(&id) {
            peer.down = health == Health::Down;
        }
        if health == Health::Down {
            self.flights.peer_down(id, self.now + self.settings.config.heartbeat / 2);
        }
    }
}

/// Whether a read touches just one key.
fn is_one_key(footprint: &Footprint) -> bool {
    match footprint {
        Footprint::Everything => false,
        Footprint::Spans { reads, writes } => writes.is_empty() && matches!(reads[..], [Span::Key(_)]),
    }
}
