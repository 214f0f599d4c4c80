//! Propose: commands become batches, which go to the protocol here or are forwarded to whoever can propose; what was lost is
//! proposed again under the same id.

use crate::api::{Output, Token};
use crate::item::{self, Item};
use crate::replica::Replica;
use bytes::Bytes;
use concur_core::{
    AnyInput, Batch, BatchId, Footprint, Ordering, Refusal, ReplicaId, ReplicaSet, SessionId, StateMachine, Time, Value, Wire,
};
use concur_network::Body;
use std::collections::BTreeMap;
use std::time::Duration;

/// How often a batch follows a hint at who proposes before it waits a while.
const REDIRECTS_MAX: u32 = 3;

/// Batches of this replica's clients that are not executed yet.
#[derive(Debug, Default)]
pub(crate) struct Flights {
    flights: BTreeMap<u64, Flight>,
    next: u64,
}

/// One batch under way.
#[derive(Debug)]
pub(crate) struct Flight {
    pub(crate) value: Value,
    /// Who waits for each command.
    pub(crate) waiting: Vec<Option<(Token, Time)>>,
    /// Where it was sent, if elsewhere.
    at: Option<ReplicaId>,
    /// Submit it again if it is not executed by then.
    retry_at: Time,
    retries: u32,
    redirects: u32,
}

impl Flights {
    pub(crate) fn len(&self) -> usize {
        self.flights.len()
    }

    pub(crate) fn wake_at(&self) -> Option<Time> {
        self.flights.values().map(|flight| flight.retry_at).min()
    }

    /// Takes out the batch that was executed.
    pub(crate) fn remove(&mut self, number: u64) -> Option<Flight> {
        self.flights.remove(&number)
    }

    /// The batches under way.
    pub(crate) fn ids(&self) -> Vec<BatchId> {
        self.flights.values().filter_map(|flight| flight.value.id()).collect()
    }

    /// Takes out the clients whose time is up. Their commands may still be executed.
    pub(crate) fn expire(&mut self, now: Time, mut expired: impl FnMut(Token)) {
        for waiting in self.flights.values_mut().flat_map(|flight| &mut flight.waiting) {
            if let Some((token, deadline)) = *waiting
                && deadline <= now
            {
                expired(token);
                *waiting = None;
            }
        }
    }

    /// What was sent to a peer that is probably gone is soon proposed elsewhere.
    pub(crate) fn peer_down(&mut self, id: ReplicaId, retry_at: Time) {
        for flight in self.flights.values_mut().filter(|flight| flight.at == Some(id)) {
            flight.retry_at = flight.retry_at.min(retry_at);
        }
    }
}

impl<M: StateMachine> Replica<M> {
    /// Makes batches of what waits, while few enough are under way, and submits again what is overdue.
    pub(crate) fn propose(&mut self, out: &mut Output) {
        self.expire_pending(out);
        while self.flights.len() < self.settings.batches_in_flight_max && self.pending.len() > 0 {
            self.batch();
        }
        let overdue: Vec<u64> = self.flights.flights.iter().filter(|(_, f)| f.retry_at <= self.now).map(|(&n, _)| n).collect();
        for number in overdue {
            self.submit_again(number);
        }
    }

    fn batch(&mut self) {
        let mut items: Vec<Item> = Vec::new();
        let mut waiting = Vec::new();
        let mut bytes = 0;
        while items.len() < self.settings.batch_commands_max {
            let room = if items.is_empty() { usize::MAX } else { self.settings.batch_bytes_max.saturating_sub(bytes) };
            let Some(next) = self.pending.pop(room) else { break };
            bytes += next.item.size_bytes();
            waiting.push(next.token.map(|token| (token, next.deadline)));
            items.push(next.item);
        }
        let number = self.flights.next;
        self.flights.next += 1;
        let id = BatchId { origin: self.me(), boot: self.settings.boot, number };
        let footprint = self.batch_footprint(&items);
        let commands = item::encode(items.iter(), bytes);
        let value = Value::Batch(Batch { id, logged_ms: self.wall_ms, footprint, commands });
        let retry_at = self.now + self.retry_after(0);
        let flight = Flight { value: value.clone(), waiting, at: None, retry_at, retries: 0, redirects: 0 };
        self.flights.flights.insert(number, flight);
        self.inputs.push_back(AnyInput::Submit(value));
    }

    /// In a total order everything interferes, without asking.
    fn batch_footprint(&self, items: &[Item]) -> Footprint {
        if self.settings.order == Ordering::Total {
            return Footprint::Everything;
        }
        let mut footprint = Footprint::NOTHING;
        for item in items {
            footprint.join(match item {
                Item::Apply { body, .. } | Item::Query { body } => self.machine.footprint(body),
                Item::Open { session } => Footprint::write(session_key(*session)),
                Item::Expire { .. } => Footprint::Everything,
            });
            // A session's commands come behind its opening everywhere, and commute with each other as far as it is concerned.
            if let Item::Apply { session: Some(place), .. } = item {
                footprint.join(Footprint::read(session_key(place.session)));
            }
        }
        footprint.normalise();
        footprint
    }

    fn submit_again(&mut self, number: u64) {
        let after = |retries| self.retry_after(retries);
        let delays: Vec<Duration> = (0..6).map(after).collect();
        let Some(flight) = self.flights.flights.get_mut(&number) else { return };
        flight.retries = (flight.retries + 1).min(5);
        flight.retry_at = self.now + delays[flight.retries as usize];
        flight.redirects = 0;
        flight.at = None;
        self.inputs.push_back(AnyInput::Submit(flight.value.clone()));
    }

    /// An election timeout, twice as long each time.
    fn retry_after(&self, retries: u32) -> Duration {
        self.settings.config.election * (1 << retries.min(3))
    }

    /// The protocol does not take a batch up, or gave it up.
    pub(crate) fn refused(&mut self, id: BatchId, reason: Refusal, out: &mut Output) {
        if id.origin != self.me() {
            let (leader, busy) = match reason {
                Refusal::Redirect(leader) => (leader, false),
                Refusal::Lost => (None, false),
                Refusal::Busy => (None, true),
            };
            return self.send_body(ReplicaSet::one(id.origin), true, Body::Declined { id, leader, busy }, out);
        }
        if id.boot == self.settings.boot {
            let leader = if let Refusal::Redirect(leader) = reason { leader } else { None };
            self.redirect(id.number, leader, out);
        }
    }

    /// The peer to which a batch was forwarded does not take it up.
    pub(crate) fn declined(&mut self, id: BatchId, leader: Option<ReplicaId>, _busy: bool, out: &mut Output) {
        if id.origin == self.me() && id.boot == self.settings.boot {
            self.redirect(id.number, leader, out);
        }
    }

    /// Forwards a batch to whoever is said to propose, or waits a little.
    fn redirect(&mut self, number: u64, leader: Option<ReplicaId>, out: &mut Output) {
        let (now, me) = (self.now, self.me());
        let (soon, later) = (now + self.settings.config.heartbeat / 4, now + self.retry_after(0));
        let Some(flight) = self.flights.flights.get_mut(&number) else { return };
        let target = leader.filter(|&to| to != me && flight.redirects < REDIRECTS_MAX);
        let Some(to) = target else {
            flight.retry_at = flight.retry_at.min(soon);
            return;
        };
        flight.redirects += 1;
        flight.at = Some(to);
        flight.retry_at = later;
        let body = Body::Forward(flight.value.clone());
        self.send_body(ReplicaSet::one(to), false, body, out);
    }
}

/// What stands for a session in footprints. A key of the state machine's that is equal only makes more interfere than must.
fn session_key(session: SessionId) -> Bytes {
    let mut key = b"\xff\xffsession".to_vec();
    session.put(&mut key);
    Bytes::from(key)
}
