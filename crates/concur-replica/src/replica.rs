//! The replica and its one door.

use crate::admit::Pending;
use crate::api::{Event, Output, Recovered, Settings, Status};
use crate::commit::Peer;
use crate::propose::Flights;
use crate::read::Reads;
use crate::replicate::Held;
use crate::transfer::Transfers;
use bytes::Bytes;
use concur_core::{
    AnyBoot, AnyEffect, AnyInput, AnyProtocol, Corrupt, Frontier, Instance, Mark, ReplicaId, Rng, Start, StateMachine, Ticket, Time, Wire,
};
use concur_execution::{Executed, Sequencer};
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// The image's entry of where execution stands.
pub(crate) const MARK_KEY: &[u8] = b"\0m";
/// In front of the image's entries of what has run.
pub(crate) const EXECUTED_PREFIX: u8 = 0;
/// In front of the image's entries of the state machine.
pub(crate) const MACHINE_PREFIX: u8 = 1;

/// One member's copy of one group.
pub struct Replica<M> {
    pub(crate) settings: Settings,
    pub(crate) machine: M,
    pub(crate) protocol: Box<dyn AnyProtocol>,
    pub(crate) sequencer: Sequencer,
    pub(crate) executed: Executed,
    pub(crate) now: Time,
    pub(crate) wall_ms: u64,
    /// What was offered and not yet looked at.
    pub(crate) inbox: VecDeque<Event>,
    /// How many messages came since the last step, those included for which there was no room.
    pub(crate) messages: usize,
    pub(crate) pending: Pending,
    pub(crate) flights: Flights,
    pub(crate) reads: Reads,
    /// Inputs that wait for the protocol.
    pub(crate) inputs: VecDeque<AnyInput>,
    pub(crate) effects: Vec<AnyEffect>,
    /// Messages that wait for records to be durable.
    pub(crate) held: BTreeMap<Ticket, Vec<Held>>,
    pub(crate) durable: Ticket,
    /// Whether something was decided since execution last looked at what it waits for.
    pub(crate) decided: bool,
    /// The undecided instances that execution waits for, as the protocol was told.
    pub(crate) wanted: BTreeSet<Instance>,
    /// What the engine holds durably.
    pub(crate) stored: Frontier,
    /// The other voters, as far as they were heard.
    pub(crate) peers: BTreeMap<ReplicaId, Peer>,
    pub(crate) floor: Frontier,
    pub(crate) transfers: Transfers,
    /// When to tell peers how far this replica is, and to look for requests whose time is up.
    pub(crate) housekeeping_at: Time,
    /// What peers were told that this replica holds, and when they are told again though nothing changed: messages are lost, and
    /// peers restart.
    pub(crate) progress_told: Frontier,
    pub(crate) progress_due: Time,
    /// When to look for idle sessions.
    pub(crate) sessions_at: Time,
    pub(crate) stopping: bool,
    pub(crate) record_executions: bool,
}

impl<M: StateMachine> Replica<M> {
    /// Starts a replica, from nothing or from what its log and engine hold. `out` gets what it asks for first.
    pub fn start(
        settings: Settings,
        recovered: Recovered,
        mut machine: M,
        now: Time,
        wall_ms: u64,
        rng: Rng,
        out: &mut Output,
    ) -> Result<Self, Corrupt> {
        let state = Image::read(recovered.image)?;
        let mark = state.mark.unwrap_or_else(|| Mark::start(settings.config.epoch));
        if !state.machine.is_empty() {
            machine.load(&mut state.machine.into_iter())?;
            // The engine has what it gave.
            let _ = machine.changes();
        }
        let boot = AnyBoot { records: recovered.records, mark: mark.clone(), first: None, fresh: false, boot: settings.boot };
        let start = Start { now, rng, config: settings.config.clone() };
        let mut effects = Vec::new();
        let protocol = (settings.strategy.recover)(boot, start, &mut effects)?;
        let sequencer = Sequencer::new(settings.strategy.traits.order, &mark);
        let mut replica = Self {
            machine,
            protocol,
            sequencer,
            executed: state.executed,
            now,
            wall_ms,
            inbox: VecDeque::new(),
            messages: 0,
            pending: Pending::default(),
            flights: Flights::default(),
            reads: Reads::default(),
            inputs: VecDeque::new(),
            effects,
            held: BTreeMap::new(),
            durable: Ticket(0),
            decided: false,
            wanted: BTreeSet::new(),
            stored: mark.frontier.clone(),
            peers: BTreeMap::new(),
            floor: Frontier::start(settings.config.epoch),
            transfers: Transfers::default(),
            housekeeping_at: now,
            progress_told: Frontier::start(settings.config.epoch),
            progress_due: now,
            sessions_at: now,
            stopping: false,
            record_executions: false,
            settings,
        };
        replica.perform(out);
        replica.raise_floor();
        replica.step(now, wall_ms, out);
        Ok(replica)
    }

    /// Queues an event for the next step. A message for which there is no room is dropped, as a link may drop it; how many
    /// requests wait before a step is for the driver to bound.
    pub fn offer(&mut self, event: Event) {
        if matches!(event, Event::Message { .. }) {
            self.messages += 1;
            if self.messages > self.settings.inbox_messages_max {
                return;
            }
        }
        self.inbox.push_back(event);
    }

    /// Takes everything that was offered, and the passing of time, through all stages. `now` is sampled after the events were
    /// taken from their queues; `wall_ms` is the wall clock, which becomes the logged time of what is proposed. `out` is added to.
    pub fn step(&mut self, now: Time, wall_ms: u64, out: &mut Output) {
        self.now = self.now.max(now);
        self.wall_ms = wall_ms;
        self.admit(out);
        self.housekeep(out);
        if self.protocol.wake_at().is_some_and(|at| at <= self.now) {
            self.inputs.push_back(AnyInput::Tick);
        }
        loop {
            self.execute(out);
            self.propose(out);
            self.barrier();
            if !self.replicate(out) {
                break;
            }
        }
        self.reply(out);
        self.store(out);
    }

    /// When to call [`Replica::step`] at the latest, though nothing is offered.
    pub fn wake_at(&self) -> Time {
        let mut at = self.housekeeping_at;
        let others = [self.protocol.wake_at(), self.flights.wake_at(), self.reads.wake_at(), self.transfers.wake_at()];
        for other in others.into_iter().flatten() {
            at = at.min(other);
        }
        at
    }

    /// Every record of the protocol that is still needed; written as a checkpoint, it lets the log before it go.
    pub fn checkpoint(&self) -> Vec<Bytes> {
        self.protocol.checkpoint()
    }

    /// The state machine, for reads whose level was granted.
    pub fn machine(&self) -> &M {
        &self.machine
    }

    /// What this replica says of itself.
    pub fn status(&self) -> Status {
        Status {
            protocol: self.protocol.inspect(),
            executed: self.sequencer.frontier(),
            stored: self.stored.clone(),
            peers: self.peers.iter().filter_map(|(&id, peer)| Some((id, peer.stored.clone()?))).collect(),
            pending_commands: self.pending.len(),
            batches_in_flight: self.flights.len(),
            unexecuted: self.sequencer.waiting(),
            fetching: self.transfers.fetching(),
        }
    }

    /// A hash of the executed state with the table of what ran: equal on replicas whose frontiers are equal.
    pub fn digest(&self) -> u64 {
        self.machine.digest().rotate_left(1) ^ self.executed.digest()
    }

    /// Whether [`Output::executed`] and [`Output::decided`] are filled.
    pub fn record_executions(&mut self, on: bool) {
        self.record_executions = on;
    }

    /// How the replica is set up.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    pub(crate) fn me(&self) -> ReplicaId {
        self.settings.config.me
    }
}

impl<M> std::fmt::Debug for Replica<M> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Replica({} of group {})", self.settings.config.me, self.settings.config.group.0)
    }
}

/// A durable image, sorted into whose it is.
pub(crate) struct Image {
    pub(crate) mark: Option<Mark<Bytes>>,
    pub(crate) executed: Executed,
    pub(crate) machine: Vec<(Bytes, Bytes)>,
}

impl Image {
    pub(crate) fn read(entries: Vec<(Bytes, Bytes)>) -> Result<Self, Corrupt> {
        let entries_count = entries.len();
        let mut image = Self { mark: None, executed: Executed::default(), machine: Vec::with_capacity(entries_count) };
        for (key, value) in entries {
            match key.first() {
                Some(&MACHINE_PREFIX) => image.machine.push((key.slice(1..), value)),
                Some(_) if key == MARK_KEY => image.mark = Some(Mark::from_bytes(&value)?),
                Some(&EXECUTED_PREFIX) => image.executed.load(&key.slice(1..), &value)?,
                _ => return Err(Corrupt::new("unknown entry in the state's image")),
            }
        }
        if image.mark.is_none() && entries_count > 0 {
            return Err(Corrupt::new("the state's image does not say where it stands"));
        }
        Ok(image)
    }
}
