//! Admit: what was offered is looked at; limits are checked before anything is kept.

use crate::api::{Event, Output, Refused, Request, Token};
use crate::item::Item;
use crate::read::Read;
use crate::replica::Replica;
use bytes::Bytes;
use concur_core::{AnyInput, Footprint, Health, Ordering, ReplicaId, Span, StateMachine, Time, Value};
use concur_execution::Level;
use concur_network::{Body, Envelope};
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
                Event::Stored(frontier) => self.stored(frontier),
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
        if envelope.group != self.settings.config.group || envelope.epoch != self.settings.config.epoch {
            return out.notes.push(("envelope of another epoch dropped", None));
        }
        self.heard(from);
        match envelope.body {
            Body::Protocol(message) => self.inputs.push_back(AnyInput::Receive { from, message }),
            Body::Forward(value) => self.forwarded(from, value, out),
            Body::Declined { id, leader, busy } => self.declined(id, leader, busy, out),
            Body::Progress { executed: _, stored } => self.progress(from, stored),
            Body::StateWanted { transfer, chunk } => self.state_wanted(from, transfer, chunk, out),
            Body::State(chunk) => self.state(from, chunk, out),
            Body::StateGone { transfer } => self.state_gone(from, transfer, out),
        }
    }

    /// A peer cannot propose and asks this replica to. What has run is not proposed again: the peer will learn of it.
    fn forwarded(&mut self, from: ReplicaId, value: Value, out: &mut Output) {
        match value.id().filter(|id| id.origin == from) {
            None => out.notes.push(("malformed envelope dropped", None)),
            Some(id) if self.executed.contains(id) => out.notes.push(("duplicate batch skipped", None)),
            Some(_) => self.inputs.push_back(AnyInput::Submit(value)),
        }
    }

    fn peer(&mut self, id: ReplicaId, health: Health) {
        self.inputs.push_back(AnyInput::Peer(id, health));
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
