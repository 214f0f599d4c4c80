//! Propose: commands become batches, which go to the protocol here or are forwarded to whoever can propose; what was lost is
//! proposed again under the same id.
//!
//! How long is waited before a batch is submitted again: while nobody is known who could propose, until the protocol here has taken
//! something that may tell it, a quarter of a heartbeat at least and a heartbeat at most ([`Unanswered`]); after a peer declined it
//! without naming somebody better, or somebody was too busy, a heartbeat, then two, four, eight; otherwise an election timeout, twice
//! as long each time.

use crate::admit::Waiting;
use crate::api::{Output, Refused, Token};
use crate::item::Item;
use crate::replica::Replica;
use concur_core::{AnyInput, Batch, BatchId, Footprint, Ordering, Refusal, ReplicaId, ReplicaSet, StateMachine, Time, Value, Wire};
use concur_execution::InSession;
use concur_network::Body;
use std::collections::BTreeMap;
use std::time::Duration;

/// How often a batch follows a hint at who proposes before it waits a while.
const REDIRECTS_MAX: u32 = 3;
/// How often a wait is doubled.
const DOUBLED_MAX: u32 = 3;
/// No wait is shorter, so that a step ends whatever the timeouts are set to.
const WAIT_MIN: Duration = Duration::from_millis(1);

/// Batches of this replica's clients that are not executed yet.
#[derive(Debug, Default)]
pub(crate) struct Flights {
    flights: BTreeMap<u64, Flight>,
    /// The seal among them, and the change that it makes, in words.
    seal: Option<(u64, String)>,
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
    /// How often that was done since somebody seemed to take it up.
    retries: u32,
    /// How often it followed a hint since then.
    redirects: u32,
    /// The protocol here knew nobody who could propose.
    unanswered: bool,
}

/// Questions to which the protocol had no answer: batches that nobody is known to propose, reads for which it has no barrier.
///
/// The protocol is a function of what it takes, so that it has no other answer before it took something else. They are asked again
/// once it did, and now and then though it did not.
#[derive(Debug, Default)]
pub(crate) struct Unanswered {
    /// When one was asked last, if there are any.
    asked_at: Option<Time>,
    /// When to ask again: something came that may tell.
    again_at: Option<Time>,
}

impl Unanswered {
    /// A question was asked in vain.
    pub(crate) fn asked(&mut self, now: Time) {
        (self.asked_at, self.again_at) = (Some(now), None);
    }

    /// The protocol is about to take something else than a question; it is not asked more often than every `least`.
    pub(crate) fn may_tell(&mut self, least: Duration) {
        self.again_at = self.again_at.or(self.asked_at.map(|asked_at| asked_at + least));
    }

    /// When to ask again, if something came.
    pub(crate) fn again_at(&self) -> Option<Time> {
        self.again_at
    }
}

impl Flights {
    /// How many batches are under way; a seal is not counted, and holds none up.
    pub(crate) fn len(&self) -> usize {
        self.flights.len() - usize::from(self.seal.is_some())
    }

    /// The change that is under way, in words.
    pub(crate) fn change(&self) -> Option<String> {
        self.seal.as_ref().map(|(_, what)| what.clone())
    }

    /// The next number of a batch or seal.
    pub(crate) fn number(&mut self) -> u64 {
        self.next += 1;
        self.next - 1
    }

    /// A seal is under way.
    pub(crate) fn begin_seal(&mut self, number: u64, value: Value, waiting: Option<(Token, Time)>, what: String, retry_at: Time) {
        assert!(self.seal.is_none(), "one change at a time");
        self.seal = Some((number, what));
        self.flights
            .insert(number, Flight { value, waiting: vec![waiting], at: None, retry_at, retries: 0, redirects: 0, unanswered: false });
    }

    /// A seal was executed; whoever waits for it, if it is one of these.
    pub(crate) fn sealed(&mut self, id: BatchId) -> Option<Token> {
        let (number, _) = self.seal.take_if(|(number, _)| self.flights.get(number).is_some_and(|flight| flight.value.id() == Some(id)))?;
        let flight = self.flights.remove(&number)?;
        flight.waiting.into_iter().flatten().map(|(token, _)| token).next()
    }

    /// The seals that were not executed; who waited for each.
    pub(crate) fn void_seals(&mut self) -> Vec<Option<Token>> {
        let Some((number, _)) = self.seal.take() else { return Vec::new() };
        let flight = self.flights.remove(&number);
        flight.into_iter().map(|flight| flight.waiting.into_iter().flatten().map(|(token, _)| token).next()).collect()
    }

    /// Everything is proposed again at once; false if there is nothing.
    pub(crate) fn resubmit(&mut self, now: Time) -> bool {
        for flight in self.flights.values_mut() {
            (flight.retry_at, flight.retries) = (now, 0);
        }
        !self.flights.is_empty()
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

    /// What nobody was known to propose is submitted again.
    pub(crate) fn ask_again(&mut self, now: Time) {
        for flight in self.flights.values_mut().filter(|flight| flight.unanswered) {
            flight.retry_at = flight.retry_at.min(now);
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
        if self.passage.is_some() {
            return; // Nobody takes anything up before the next epoch.
        }
        while self.flights.len() < self.settings.batches_in_flight_max.max(1) && self.pending.len() > 0 {
            self.batch(out);
        }
        let overdue: Vec<u64> = self.flights.flights.iter().filter(|(_, f)| f.retry_at <= self.now).map(|(&n, _)| n).collect();
        for number in overdue {
            self.submit_again(number);
        }
    }

    /// Takes one batch of what waits. What came too late for its client is refused instead.
    fn batch(&mut self, out: &mut Output) {
        let (commands_max, bytes_max) = (self.settings.batch_commands_max.max(1), self.settings.batch_bytes_max);
        let mut commands = Vec::with_capacity(self.pending.bytes().min(bytes_max));
        let mut waiting = Vec::with_capacity(self.pending.len().min(commands_max));
        // In a total order everything interferes, without asking.
        let total = self.settings.order == Ordering::Total;
        let mut footprint = if total { Footprint::Everything } else { Footprint::NOTHING };
        while waiting.len() < commands_max {
            let room = if waiting.is_empty() { usize::MAX } else { bytes_max.saturating_sub(commands.len()) };
            let Some(next) = self.pending.pop(room) else { break };
            if next.deadline <= self.now {
                out.replies.extend(next.token.map(|token| (token, Err(Refused::Expired))));
                continue;
            }
            if !total {
                self.touch(&next, &mut footprint);
            }
            next.item.put(&mut commands);
            waiting.push(next.token.map(|token| (token, next.deadline)));
        }
        if waiting.is_empty() {
            return;
        }
        footprint.normalise();
        let number = self.flights.number();
        let id = BatchId { origin: self.me(), boot: self.settings.boot, number };
        let value = Value::Batch(Batch { id, logged_ms: self.wall_ms, footprint, commands: commands.into() });
        let retry_at = self.now + self.retry_after(0);
        let flight = Flight { value: value.clone(), waiting, at: None, retry_at, retries: 0, redirects: 0, unanswered: false };
        self.flights.flights.insert(number, flight);
        self.inputs.push_back(AnyInput::Submit(value));
    }

    /// Adds what a command touches: for the state machine, and in its session.
    fn touch(&self, waiting: &Waiting, footprint: &mut Footprint) {
        match &waiting.item {
            Item::Apply { session, body } => {
                footprint.join(self.machine.footprint(body));
                session.iter().for_each(|place| footprint.join(place.footprint()));
            }
            // A query is not a command, so that the machine is not asked.
            Item::Query { .. } => footprint.join(waiting.footprint.as_deref().cloned().unwrap_or(Footprint::Everything)),
            Item::Open { session } => footprint.join(InSession::beginning(*session)),
            Item::Expire { .. } => footprint.join(Footprint::Everything),
        }
    }

    fn submit_again(&mut self, number: u64) {
        let retries = self.flights.flights.get(&number).map_or(0, |flight| flight.retries + 1).min(DOUBLED_MAX);
        let retry_at = self.now + self.retry_after(retries);
        let Some(flight) = self.flights.flights.get_mut(&number) else { return };
        flight.retries = retries;
        flight.retry_at = retry_at;
        flight.redirects = 0;
        flight.at = None;
        flight.unanswered = false;
        self.inputs.push_back(AnyInput::Submit(flight.value.clone()));
    }

    /// An election timeout, twice as long each time.
    pub(crate) fn retry_after(&self, retries: u32) -> Duration {
        self.settings.config.election.max(WAIT_MIN) * (1 << retries.min(DOUBLED_MAX))
    }

    /// When to ask a peer again that knows nobody yet.
    pub(crate) fn soon(&self) -> Time {
        self.now + self.question_every()
    }

    /// How often at most the protocol is asked that knows nobody yet.
    pub(crate) fn question_every(&self) -> Duration {
        (self.settings.config.heartbeat / 4).max(WAIT_MIN)
    }

    /// Asks the protocol what it had no answer to: it may have one.
    pub(crate) fn ask_again(&mut self) {
        self.unanswered = Unanswered::default();
        self.flights.ask_again(self.now);
        self.reads.ask_again(self.now);
    }

    /// The protocol does not take a batch up, or gave it up.
    pub(crate) fn refused(&mut self, id: BatchId, reason: Refusal, out: &mut Output) {
        let (leader, busy) = match reason {
            Refusal::Redirect(leader) => (leader, false),
            Refusal::Lost => (None, false),
            Refusal::Busy => (None, true),
        };
        if id.origin != self.me() {
            return self.send_body(ReplicaSet::one(id.origin), true, Body::Declined { id, leader, busy }, out);
        }
        if id.boot == self.settings.boot && !self.redirect(id.number, leader, out) {
            self.wait_a_while(id.number, busy);
        }
    }

    /// The peer to which a batch was forwarded does not take it up.
    pub(crate) fn declined(&mut self, id: BatchId, leader: Option<ReplicaId>, busy: bool, out: &mut Output) {
        let mine = id.origin == self.me() && id.boot == self.settings.boot;
        if mine && (busy || !self.redirect(id.number, leader, out)) {
            self.wait_a_while(id.number, true);
        }
    }

    /// Forwards a batch to whoever is said to propose, if that is somebody else and hints were not followed too often. A replica
    /// that does not vote asks the voters in turn.
    fn redirect(&mut self, number: u64, leader: Option<ReplicaId>, out: &mut Output) -> bool {
        let (me, voters) = (self.me(), self.settings.config.voters());
        let retry_at = self.now + self.retry_after(0);
        let Some(flight) = self.flights.flights.get_mut(&number) else { return true };
        let turn = (flight.retries + flight.redirects) as usize % voters.without(me).len().max(1);
        let anybody = if self.protocol.is_some() { None } else { voters.without(me).iter().nth(turn) };
        let to = leader.filter(|&to| to != me && voters.contains(to)).or(anybody);
        let Some(to) = to.filter(|_| flight.redirects < REDIRECTS_MAX) else { return false };
        flight.redirects += 1;
        flight.at = Some(to);
        flight.retry_at = retry_at;
        let body = Body::Forward(flight.value.clone());
        self.send_body(ReplicaSet::one(to), false, body, out);
        true
    }

    /// Submits a batch again after a while, which is longer each time if `patiently`, and otherwise ends when the protocol here may
    /// know more.
    fn wait_a_while(&mut self, number: u64, patiently: bool) {
        let (now, heartbeat) = (self.now, self.settings.config.heartbeat.max(WAIT_MIN));
        let Some(flight) = self.flights.flights.get_mut(&number) else { return };
        if !patiently {
            flight.retries = 0;
            flight.unanswered = true;
            self.unanswered.asked(now);
        }
        flight.retry_at = flight.retry_at.min(now + heartbeat * (1 << flight.retries));
    }
}
