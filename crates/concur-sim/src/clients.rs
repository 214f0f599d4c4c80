//! Clients: what they ask, whom, how they retry, and the history that they remember.
//!
//! A client does one operation after the other. With a session it retries a command whose outcome it does not know, under the same
//! number, at another node; without one it counts it as unknown and goes on. Reads, and what was refused before anything was done,
//! are asked again by everyone.

use crate::ledger::Violation;
use crate::node::Asker;
use crate::requests::{self, OpId};
use crate::schedule::{self, Act, Operation, Schedule};
use crate::world::{Thing, World};
use bytes::Bytes;
use concur_core::{ReplicaId, SessionId, Time, Wire};
use concur_kv::{Answer, OpReply, Revision};
use concur_replica::{InSession, Level, Refused, Reply, Request};
use std::collections::BTreeMap;
use std::time::Duration;

/// A client's request on its way to a node.
#[derive(Debug, Clone)]
pub(crate) struct Sent {
    pub(crate) by: Asker,
    pub(crate) attempt: u32,
    pub(crate) request: Request,
    /// Whether it may make the log grow.
    pub(crate) writes: bool,
    /// A query that the node's driver answers itself.
    pub(crate) query: Option<Bytes>,
}

/// What a client remembers of one operation.
#[derive(Debug, Clone)]
pub(crate) struct Event {
    pub(crate) id: OpId,
    pub(crate) operation: Operation,
    pub(crate) invoked: Time,
    /// When the answer came, if it did.
    pub(crate) returned: Option<Time>,
    pub(crate) answer: Bytes,
    /// The query that was answered.
    pub(crate) query: Bytes,
}

/// A client.
#[derive(Debug)]
pub(crate) struct Client {
    pub(crate) index: usize,
    home: ReplicaId,
    moves: bool,
    wants_session: bool,
    session: Option<SessionId>,
    sessions: u64,
    /// The number of the next command in the session.
    number: u64,
    /// How many operations were begun before the first in the session.
    before_session: usize,
    operations: Vec<Operation>,
    next: usize,
    pub(crate) history: Vec<Event>,
    doing: Option<Doing>,
    attempts: u32,
    /// Revisions of keys as seen last.
    seen: BTreeMap<u8, Revision>,
    progress: Time,
}

/// An operation under way.
#[derive(Debug)]
struct Doing {
    operation: Operation,
    id: OpId,
    /// The bytes of the command, the same in every attempt.
    command: Option<Bytes>,
    attempt: u32,
    failures: u32,
    node: ReplicaId,
    opening: Option<SessionId>,
    /// An attempt may have been executed, and nobody knows.
    doubtful: bool,
    query: Bytes,
}

impl Client {
    pub(crate) fn new(index: usize, client: &schedule::Client, schedule: &Schedule) -> Self {
        let mut operations = client.operations.clone();
        // The healed tail: everyone writes and reads once more.
        let think = schedule.tuning.election;
        for (number, act) in [(1 << 20, Act::Put), (1 << 20 | 1, Act::Get)] {
            operations.push(Operation { number, act, key: (index % usize::from(schedule.keys)) as u8, think, padding: 0 });
        }
        Self {
            index,
            home: client.home,
            moves: client.moves,
            wants_session: client.session,
            session: None,
            sessions: 0,
            number: 0,
            before_session: 0,
            operations,
            next: 0,
            history: Vec::new(),
            doing: None,
            attempts: 0,
            seen: BTreeMap::new(),
            progress: Time(0),
        }
    }

    pub(crate) fn first_think(&self) -> Duration {
        self.operations[0].think
    }

    pub(crate) fn completed(&self) -> u64 {
        self.history.iter().filter(|event| event.returned.is_some()).count() as u64
    }

    pub(crate) fn is_done(&self) -> bool {
        self.next >= self.operations.len() && self.doing.is_none()
    }

    pub(crate) fn expect_progress(&mut self, now: Time) {
        self.progress = now;
    }

    /// Since when it has made no progress, and at what.
    pub(crate) fn waits_since(&self) -> Option<(Time, String)> {
        (!self.is_done()).then(|| {
            let what = self
                .doing
                .as_ref()
                .map_or("thinks".to_owned(), |doing| format!("{:?} {} at {}", doing.operation.act, doing.id, doing.node));
            (self.progress, what)
        })
    }

    /// The command of which this attempt is one, if it is one of the operation under way.
    pub(crate) fn command_of(&self, attempt: u32) -> Option<OpId> {
        let doing = self.doing.as_ref()?;
        (doing.attempt == attempt && doing.opening.is_none() && !doing.operation.act.is_read()).then_some(doing.id)
    }

    /// The session in which this attempt asks for a command, and what was asked for in it so far; `None` if it is none of the
    /// operation under way.
    pub(crate) fn session_of(&self, attempt: u32) -> Option<(SessionId, impl Iterator<Item = OpId>)> {
        self.command_of(attempt)?;
        Some((self.session?, self.history[self.before_session..].iter().map(|event| event.id)))
    }
}

impl World<'_> {
    /// A client goes on: with what it is doing, or with what comes next.
    pub(crate) fn act(&mut self, index: usize) -> Result<(), Violation> {
        let now = self.now;
        let client = &mut self.clients[index];
        if client.doing.is_none() {
            let Some(&operation) = client.operations.get(client.next) else { return Ok(()) };
            client.next += 1;
            let id = OpId { client: index as u16, number: operation.number };
            let seen = client.seen.get(&operation.key).copied().unwrap_or_default();
            let command = (!operation.act.is_read()).then(|| requests::command(id, &operation, seen));
            if let Some(command) = &command {
                self.ledger.ask(command.clone(), id);
            }
            let event = Event { id, operation, invoked: now, returned: None, answer: Bytes::new(), query: Bytes::new() };
            client.history.push(event);
            let node = client.home;
            let moves = client.moves || self.nodes[usize::from(node.0)].id.is_none();
            client.doing =
                Some(Doing { operation, id, command, attempt: 0, failures: 0, node, opening: None, doubtful: false, query: Bytes::new() });
            if moves {
                self.move_on(index);
            }
        }
        self.attempt(index);
        Ok(())
    }

    /// The client turns to another node: a member, or now and then one that was removed, or is none yet.
    fn move_on(&mut self, index: usize) {
        let stray = self.schedule.operated && !self.healed && self.rng.chance(80_000);
        let members = self.roster.newest().everyone();
        let nodes: Vec<usize> =
            if stray { (0..self.nodes.len()).collect() } else { members.iter().filter_map(|id| self.roster.machine(id)).collect() };
        let node = ReplicaId(nodes[self.rng.below(nodes.len() as u64) as usize] as u8);
        if let Some(doing) = &mut self.clients[index].doing {
            doing.node = node;
        }
    }

    /// Sends what the client is doing once more.
    fn attempt(&mut self, index: usize) {
        let election = self.schedule.tuning.election.as_nanos() as u64;
        let timeout = Duration::from_nanos(self.rng.between(election, 4 * election));
        let alone = self.rng.chance(200_000);
        let seed = self.schedule.seed;
        let client = &mut self.clients[index];
        client.attempts += 1;
        let attempt = client.attempts;
        let doing = client.doing.as_mut().expect("a client that attempts is doing something");
        doing.attempt = attempt;
        doing.opening = None;
        let mut driver_reads = None;
        let request = match (&doing.command, client.session) {
            (Some(_), None) if client.wants_session => {
                client.sessions += 1;
                let session = SessionId(seed.wrapping_mul(1 << 20) ^ (index as u64) << 10 ^ client.sessions);
                doing.opening = Some(session);
                client.number = 0;
                Request::OpenSession { session, timeout }
            }
            (Some(body), session) => {
                let number = client.number;
                let session = session.map(|session| InSession { session, number, received_below: number });
                Request::Command { session, body: body.clone(), timeout }
            }
            (None, _) => {
                let level = if doing.operation.act == Act::Peek { Level::Eventual } else { Level::Strong };
                let footprint = requests::footprint(&doing.operation);
                let query = requests::query(doing.id, attempt, &doing.operation);
                doing.query = query.clone();
                // Some drivers read the machine themselves, which they may for one key.
                let query = if alone && doing.operation.act != Act::GetAll {
                    driver_reads = Some(query);
                    None
                } else {
                    Some(query)
                };
                Request::Read { level, footprint, query, timeout }
            }
        };
        let (writes, node) = (doing.command.is_some(), usize::from(doing.node.0));
        let sent = Sent { by: Asker::Client(index), attempt, request, writes, query: driver_reads };
        let delay = self.schedule.network.client;
        self.after(delay, Thing::Request { node, sent: Box::new(sent) });
        self.after(delay * 2 + timeout + self.schedule.tuning.heartbeat * 2, Thing::Timeout { client: index, attempt });
    }

    pub(crate) fn replied(&mut self, index: usize, attempt: u32, result: Result<Reply, Refused>) -> Result<(), Violation> {
        let Some(doing) = self.clients[index].doing.as_mut().filter(|doing| doing.attempt == attempt) else {
            return Ok(());
        };
        match result {
            Ok(_) if doing.opening.is_some() => {
                let session = doing.opening.take();
                let client = &mut self.clients[index];
                (client.session, client.before_session) = (session, client.history.len() - 1);
                self.attempt(index);
            }
            Ok(reply) => self.complete(index, reply.body),
            Err(Refused::Unknown) => self.in_doubt(index),
            Err(Refused::NoSession) => {
                let doubtful = doing.doubtful;
                self.met.insert("session lost");
                self.clients[index].session = None;
                if doubtful { self.give_up(index) } else { self.try_later(index) }
            }
            Err(Refused::NeedsQuery | Refused::TooLarge) => {
                return Err(Violation::new("refused", format!("{result:?} to {} of client c{index}", doing.id)));
            }
            Err(Refused::Busy | Refused::Expired | Refused::Stopping) => {
                if result == Err(Refused::Busy) {
                    self.met.insert("busy");
                }
                self.try_later(index);
            }
        }
        Ok(())
    }

    pub(crate) fn timed_out(&mut self, index: usize, attempt: u32) -> Result<(), Violation> {
        if self.clients[index].doing.as_ref().is_some_and(|doing| doing.attempt == attempt) {
            self.met.insert("client timeout");
            self.in_doubt(index);
        }
        Ok(())
    }

    /// The attempt may have been executed, or may yet be.
    fn in_doubt(&mut self, index: usize) {
        let client = &mut self.clients[index];
        let doing = client.doing.as_mut().expect("it is in doubt of something");
        if doing.opening.is_some() || doing.command.is_none() {
            return self.try_later(index);
        }
        doing.doubtful = true;
        if client.session.is_some() {
            self.met.insert("retried in a session");
            self.try_later(index);
        } else {
            self.give_up(index);
        }
    }

    /// The outcome stays unknown.
    fn give_up(&mut self, index: usize) {
        self.met.insert("outcome unknown");
        let client = &mut self.clients[index];
        client.doing = None;
        // If it was executed in a session, it may still be: that number is used.
        client.number += 1;
        self.think(index);
    }

    fn try_later(&mut self, index: usize) {
        let doing = self.clients[index].doing.as_mut().expect("it tries something");
        doing.failures += 1;
        // No later reply to this attempt counts.
        self.clients[index].attempts += 1;
        let attempt = self.clients[index].attempts;
        let doing = self.clients[index].doing.as_mut().expect("it tries something");
        doing.attempt = attempt;
        let failures = doing.failures.min(5);
        self.move_on(index);
        let most = (2_000_u64 << failures).min(self.schedule.tuning.election.as_micros() as u64 / 2);
        let later = Duration::from_micros(self.rng.between(500, most.max(501)));
        self.after(later, Thing::Act { client: index });
    }

    fn complete(&mut self, index: usize, answer: Bytes) {
        let now = self.now;
        let client = &mut self.clients[index];
        let doing = client.doing.take().expect("something was answered");
        client.remember(&doing.operation, &answer);
        let event = client.history.last_mut().expect("it was begun");
        (event.returned, event.answer, event.query) = (Some(now), answer, doing.query);
        client.progress = now;
        if doing.command.is_some() {
            client.number += 1;
        }
        self.think(index);
    }

    fn think(&mut self, index: usize) {
        let client = &self.clients[index];
        let Some(operation) = client.operations.get(client.next) else { return };
        let hurry = if self.healed { 8 } else { 1 };
        self.after(operation.think / hurry, Thing::Act { client: index });
    }
}

impl Client {
    /// Takes the revisions of keys out of an answer, for the next swap.
    fn remember(&mut self, operation: &Operation, answer: &Bytes) {
        use concur_kv::Reply as Kv;
        let seen = match Kv::from_bytes(answer) {
            Ok(Kv::Put(put)) => put.revision,
            Ok(Kv::Read(Answer::Range(range))) if operation.act != Act::GetAll => {
                range.kvs.first().map_or(Revision(0), |kv| kv.mod_revision)
            }
            Ok(Kv::Txn(txn)) if operation.act == Act::Swap => match txn.replies.first() {
                Some(OpReply::Put(put)) => put.revision,
                Some(OpReply::Range(range)) => range.kvs.first().map_or(Revision(0), |kv| kv.mod_revision),
                _ => return,
            },
            _ => return,
        };
        self.seen.insert(operation.key, seen);
    }
}
