//! The replica and its one door.

use crate::admit::Pending;
use crate::api::{Event, Output, Recovered, Settings};
use crate::commit::Peer;
use crate::epoch::{Early, Passage};
use crate::feed::Window;
use crate::follow::Following;
use crate::propose::{Flights, Unanswered};
use crate::read::Reads;
use crate::replicate::Held;
use crate::transfer::Transfers;
use bytes::Bytes;
use concur_core::{
    AnyBoot, AnyEffect, AnyInput, AnyProtocol, Config, Corrupt, Epoch, Frontier, Instance, Mark, Reader, ReplicaId, ReplicaSet, Rng, Start,
    StateMachine, Strategy, Ticket, Time, Wire,
};
use concur_execution::{Executed, Sequencer};
use concur_peers::Configuration;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

/// The image's entry of where execution stands.
pub(crate) const MARK_KEY: &[u8] = b"\0m";
/// The image's entry of the configuration of the epoch in which execution stands.
pub(crate) const CONFIGURATION_KEY: &[u8] = b"\0c";
/// In front of the image's entries of what has run.
pub(crate) const EXECUTED_PREFIX: u8 = 0;
/// In front of the image's entries of the state machine.
pub(crate) const MACHINE_PREFIX: u8 = 1;

/// One member's copy of one group.
pub struct Replica<M> {
    pub(crate) settings: Settings,
    pub(crate) machine: M,
    /// Its vote, unless it has none: it observes, or passes from one epoch to the next.
    pub(crate) protocol: Option<Box<dyn AnyProtocol>>,
    /// How many records the votes of earlier epochs persisted in this run: tickets go on from there.
    pub(crate) ticket_base: u64,
    pub(crate) rng: Rng,
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
    pub(crate) unanswered: Unanswered,
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
    /// The other members, as far as they were heard.
    pub(crate) peers: BTreeMap<ReplicaId, Peer>,
    /// Holds nothing, not even the beginning, until a member's state is installed.
    pub(crate) empty: bool,
    /// Holds nothing durably: `empty`, or what was installed is not stored yet.
    pub(crate) bare: bool,
    /// On its way into an epoch.
    pub(crate) passage: Option<Passage>,
    /// Messages of an epoch that this replica has not entered.
    pub(crate) early: Early,
    /// How long the last passage took.
    pub(crate) passed: Option<std::time::Duration>,
    /// What is fed to those who follow.
    pub(crate) window: Window,
    pub(crate) following: Following,
    /// When it was first seen that somebody is to be promoted.
    pub(crate) promise_seen: Option<Time>,
    /// The configuration changed, and the driver was not told; nor the engine.
    pub(crate) reconfigured: bool,
    pub(crate) unstored: bool,
    /// What changed is awaited by something: the engine is to hurry.
    pub(crate) hurried: bool,
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
        let mut settings = settings;
        let state = Image::read(recovered.image)?;
        let empty = settings.joins && state.mark.is_none();
        // Of the same epoch what is given says where members are reached now.
        if let Some(configuration) = state.configuration.filter(|known| known.epoch != settings.config.epoch) {
            settings.adopt(configuration)?;
        }
        let mark = state.mark.unwrap_or_else(|| Mark::start(settings.config.epoch));
        if mark.frontier.epoch != settings.config.epoch {
            return Err(Corrupt::new("the executed state is of another epoch than its configuration"));
        }
        if !state.machine.is_empty() {
            machine.load(&mut state.machine.into_iter())?;
            // The engine has what it gave.
            let _ = machine.changes();
        }
        let (own, mut effects, mut protocol) = (Rng::new(rng.clone().next_u64()), Vec::new(), None);
        if !empty && settings.may_vote() {
            let first = settings.configuration.first;
            let boot = AnyBoot { records: recovered.records, mark: mark.clone(), first, fresh: false, boot: settings.boot };
            let start = Start { now, rng, config: settings.config.clone() };
            protocol = Some((settings.strategy.recover)(boot, start, &mut effects)?);
        } else {
            check_outlived(&recovered.records, settings.config.epoch, empty)?;
        }
        let sequencer = match protocol {
            Some(_) => Sequencer::new(settings.strategy.traits.order, &mark),
            None => Sequencer::followed(mark.clone()),
        };
        let mut replica = Self {
            machine,
            protocol,
            ticket_base: 0,
            rng: own,
            sequencer,
            executed: state.executed,
            now,
            wall_ms,
            inbox: VecDeque::new(),
            messages: 0,
            pending: Pending::default(),
            flights: Flights::default(),
            reads: Reads::default(),
            unanswered: Unanswered::default(),
            inputs: VecDeque::new(),
            effects,
            held: BTreeMap::new(),
            durable: Ticket(0),
            decided: false,
            wanted: BTreeSet::new(),
            stored: mark.frontier.clone(),
            peers: settings.configuration.everyone().without(settings.config.me).iter().map(|id| (id, Peer::met(now))).collect(),
            empty,
            bare: empty,
            passage: None,
            early: Early::default(),
            passed: None,
            window: Window::new(mark.frontier.clone()),
            following: Following::default(),
            promise_seen: None,
            reconfigured: true,
            unstored: true,
            hurried: false,
            floor: Frontier::start(settings.config.epoch),
            transfers: Transfers::default(),
            housekeeping_at: now,
            progress_told: Frontier::start(settings.config.epoch),
            progress_due: now,
            sessions_at: now,
            stopping: false,
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
        if self.protocol.as_ref().and_then(|protocol| protocol.wake_at()).is_some_and(|at| at <= self.now) {
            self.inputs.push_back(AnyInput::Tick);
        }
        loop {
            if self.unanswered.again_at().is_some_and(|at| at <= self.now) {
                self.ask_again();
            }
            self.execute(out);
            self.propose(out);
            self.barrier(out);
            if !self.replicate(out) {
                break;
            }
        }
        self.reply(out);
        self.push_feed(out);
        self.store(out);
        if std::mem::take(&mut self.reconfigured) {
            out.configuration = Some(self.settings.configuration.clone());
        }
    }

    /// When to call [`Replica::step`] at the latest, though nothing is offered.
    pub fn wake_at(&self) -> Time {
        // Where anything happens, a step that comes anyway keeps the house; half a heartbeat is waited for it.
        let mut at = self.housekeeping_at + self.settings.config.heartbeat / 2;
        let protocol = self.protocol.as_ref().and_then(|protocol| protocol.wake_at());
        // On the way into an epoch nothing is proposed.
        let flights = self.flights.wake_at().filter(|_| self.passage.is_none());
        let others = [protocol, flights, self.reads.wake_at(), self.unanswered.again_at(), self.transfers.wake_at(), self.follow_at()];
        for other in others.into_iter().flatten() {
            at = at.min(other);
        }
        at
    }

    /// Every record of the protocol that is still needed; written as a checkpoint, it lets the log before it go.
    pub fn checkpoint(&self) -> Vec<Bytes> {
        self.kept_records()
    }

    /// The state machine, for reads whose level was granted.
    pub fn machine(&self) -> &M {
        &self.machine
    }

    /// Where the executed state stands.
    pub fn mark(&self) -> Mark<Bytes> {
        self.sequencer.mark()
    }

    /// The whole executed state in the form in which it is kept, and the encoded mark at which it stands.
    pub fn snapshot(&self) -> (Bytes, Vec<(Bytes, Bytes)>) {
        (self.sequencer.mark().to_bytes(), self.image())
    }

    /// What a reply of this moment may say of itself that touched no state.
    pub fn stamp_now(&self) -> concur_execution::Stamp {
        self.stamp(concur_execution::Level::Eventual)
    }

    /// A hash of the executed state with the table of what ran: equal on replicas whose frontiers are equal.
    pub fn digest(&self) -> u64 {
        self.machine.digest().rotate_left(1) ^ self.executed.digest()
    }

    /// How the replica is set up.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    pub(crate) fn me(&self) -> ReplicaId {
        self.settings.config.me
    }

    pub(crate) fn epoch(&self) -> Epoch {
        self.settings.config.epoch
    }

    /// Every member but this one.
    pub(crate) fn other_members(&self) -> ReplicaSet {
        self.settings.configuration.everyone().without(self.me())
    }

    /// The ticket of the last record that was asked for.
    pub(crate) fn persisted(&self) -> Ticket {
        Ticket(self.ticket_base + self.protocol.as_ref().map_or(0, |protocol| protocol.persisted().0))
    }
}

/// Who is in, as a kept state says; none if nothing was kept yet.
pub fn configuration_of(image: &[(Bytes, Bytes)]) -> Result<Option<Configuration>, Corrupt> {
    let found = image.iter().find(|(key, _)| key == CONFIGURATION_KEY);
    Ok(found.map(|(_, value)| Configuration::from_bytes(value)).transpose()?)
}

/// The logged time at which a kept state stands.
pub fn logged_ms_of(image: &[(Bytes, Bytes)]) -> Result<u64, Corrupt> {
    let mut executed = Executed::default();
    for (key, value) in image.iter().filter(|(key, _)| is_of_replica(key) && key != MARK_KEY && key != CONFIGURATION_KEY) {
        executed.load(&key.slice(1..), value)?;
    }
    Ok(executed.logged_ms())
}

/// Whether an entry of a kept state is the replica's own, and not its machine's.
pub fn is_of_replica(key: &[u8]) -> bool {
    key.first() == Some(&EXECUTED_PREFIX)
}

/// What an entry of a kept state is called by the machine whose it is.
pub fn machine_key(key: &Bytes) -> Option<Bytes> {
    (key.first() == Some(&MACHINE_PREFIX)).then(|| key.slice(1..))
}

/// The key in a kept state of an entry of the machine's.
pub fn kept_key(machine_key: &[u8]) -> Bytes {
    [&[MACHINE_PREFIX], machine_key].concat().into()
}

/// A state as it is kept, made to stand at the start of another epoch: what a group goes on from that was cut off from its quorum
/// for good, or that begins from a snapshot. `next` makes the configuration from the one that the state names; its epoch must be later.
/// Answers with the configuration, and the entries that change.
pub fn stand_elsewhere(
    image: &[(Bytes, Bytes)],
    next: impl FnOnce(&Configuration) -> Configuration,
) -> Result<(Configuration, Vec<(Bytes, Bytes)>), Corrupt> {
    let before = configuration_of(image)?.ok_or_else(|| Corrupt::new("the state does not say who is in"))?;
    let next = next(&before);
    if next.epoch <= before.epoch {
        return Err(Corrupt::new(format!("epoch {} does not follow epoch {}", next.epoch.0, before.epoch.0)));
    }
    let entries = stand_first(&next);
    Ok((next, entries))
}

/// What says of a state that is from nowhere here that it stands at the start of an epoch: the entries that go with its machine's.
pub fn stand_first(configuration: &Configuration) -> Vec<(Bytes, Bytes)> {
    let mark = Mark::<Bytes>::start(configuration.epoch).to_bytes();
    vec![(Bytes::from_static(CONFIGURATION_KEY), configuration.to_bytes()), (Bytes::from_static(MARK_KEY), mark)]
}

impl Settings {
    /// Whether a configuration that somebody sent can be that of `epoch`, and be decided in here.
    pub(crate) fn accepts(&self, configuration: &Configuration, epoch: Epoch) -> bool {
        configuration.epoch == epoch && self.find(&configuration.strategy).is_some_and(|strategy| configuration.fits(&strategy).is_ok())
    }

    /// Whether a vote in this configuration, which was accepted, could begin with such a state.
    pub(crate) fn can_begin(&self, configuration: &Configuration, mark: &Mark<Bytes>, now: Time) -> bool {
        let Some(strategy) = self.find(&configuration.strategy) else { return false };
        let quorums = configuration.quorums(&strategy);
        let config = Arc::new(Config { epoch: configuration.epoch, quorums, ..(*self.config).clone() });
        let boot = AnyBoot { records: Vec::new(), mark: mark.clone(), first: None, fresh: false, boot: self.boot };
        (strategy.recover)(boot, Start { now, rng: Rng::new(0), config }, &mut Vec::new()).is_ok()
    }

    /// The strategy of this name.
    pub(crate) fn find(&self, name: &str) -> Option<Strategy> {
        Some(self.strategy).filter(|strategy| strategy.traits.name == name).or_else(|| (self.strategies)(name))
    }

    /// Goes by another configuration.
    pub(crate) fn adopt(&mut self, configuration: Configuration) -> Result<(), Corrupt> {
        let name = &configuration.strategy;
        self.strategy =
            self.find(name).ok_or_else(|| Corrupt::new(format!("the configuration names a strategy that is not known here: {name}")))?;
        let quorums = configuration.quorums(&self.strategy);
        self.config = Arc::new(Config { epoch: configuration.epoch, quorums, ..(*self.config).clone() });
        self.configuration = Arc::new(configuration);
        Ok(())
    }

    /// Whether this replica, in this life of its disk, votes. A disk whose life began by joining votes only where the configuration
    /// names that life: where it names none, an earlier disk of this member may have voted.
    pub(crate) fn may_vote(&self) -> bool {
        let bound = self.configuration.member(self.config.me).is_some_and(|member| member.incarnation != 0);
        (bound || !self.joins) && self.configuration.may_vote(self.config.me, self.incarnation)
    }
}

impl<M> std::fmt::Debug for Replica<M> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Replica({} of group {})", self.settings.config.me, self.settings.config.group.0)
    }
}

/// Records of a replica that begins without a vote are of votes that ended. A vote's first record comes only once the state at its
/// epoch's start is durable: where the state is older, or gone, it was lost or put back, and what the vote promised would be forgotten.
fn check_outlived(records: &[Bytes], epoch: Epoch, empty: bool) -> Result<(), Corrupt> {
    for record in records {
        if empty {
            return Err(Corrupt::new("the log holds votes, and the executed state is gone"));
        }
        if Epoch::get(&mut Reader::new(record.clone()))? >= epoch {
            return Err(Corrupt::new("the log holds votes of a later epoch than the executed state"));
        }
    }
    Ok(())
}

/// A durable image, sorted into whose it is.
pub(crate) struct Image {
    pub(crate) mark: Option<Mark<Bytes>>,
    pub(crate) configuration: Option<Configuration>,
    pub(crate) executed: Executed,
    pub(crate) machine: Vec<(Bytes, Bytes)>,
}

impl Image {
    pub(crate) fn read(entries: Vec<(Bytes, Bytes)>) -> Result<Self, Corrupt> {
        let entries_count = entries.len();
        let mut image = Self { mark: None, configuration: None, executed: Executed::default(), machine: Vec::with_capacity(entries_count) };
        for (key, value) in entries {
            match key.first() {
                Some(&MACHINE_PREFIX) => image.machine.push((key.slice(1..), value)),
                Some(_) if key == MARK_KEY => image.mark = Some(Mark::from_bytes(&value)?),
                Some(_) if key == CONFIGURATION_KEY => image.configuration = Some(Configuration::from_bytes(&value)?),
                Some(&EXECUTED_PREFIX) => image.executed.load(&key.slice(1..), &value)?,
                _ => return Err(Corrupt::new("unknown entry in the state's image")),
            }
        }
        if (image.mark.is_none() || image.configuration.is_none()) && entries_count > 0 {
            return Err(Corrupt::new("the state's image does not say where it stands, or who is in"));
        }
        Ok(image)
    }
}
