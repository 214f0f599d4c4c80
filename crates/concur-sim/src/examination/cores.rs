//! A small world of a protocol's cores alone: what a replica does for them is done here by hand, in as few words as it takes.
//!
//! Each step is one thing that happens to one core, so that whoever examines can look between any two. Records become durable a
//! while after they were asked for, messages wait for the records that they have to, links lose, repeat and reorder, what is decided
//! is executed, the state that stands for it is stored a while later, and whoever lacks it is given it. Every decision and every
//! execution is held against the first of its kind.
//!
//! Not here: membership, sessions, and the real log and engine, which the sweeps have.

mod happens;

use crate::run::guarded;
use bytes::Bytes;
use concur_core::{
    Batch, BatchId, Boot, BootCount, Config, Context, Effect, Epoch, Footprint, GroupId, Input, Inspection, Instance, Mark, Protocol,
    ReadId, ReplicaId, ReplicaSet, Rng, Ticket, Time, Value, Wire,
};
use concur_execution::Sequencer;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

/// The election timeout of these worlds.
pub(super) const ELECTION: Duration = Duration::from_millis(200);
const HEARTBEAT: Duration = Duration::from_millis(40);
/// How long a state, or a proposal that was refused, is on its way.
const SOON: Duration = Duration::from_millis(10);

/// How many things may happen at one moment: a core whose timers take no time asks for more.
const AT_ONCE_MAX: usize = 100_000;

/// How the cores are set up.
#[derive(Debug, Clone, Copy)]
pub(super) struct Setup {
    pub(super) replicas: usize,
    pub(super) seed: u64,
    /// Of a million messages so many are lost, and so many come twice.
    pub(super) loss: u32,
    pub(super) repeats: u32,
    /// How many bytes of what is decided are to be kept.
    pub(super) retained_bytes_max: usize,
}

/// One replica: its core, its disk, and what it has executed.
pub(super) struct Node<P: Protocol> {
    /// The core and what it asks with, while it runs.
    pub(super) running: Option<(P, Context<P>)>,
    boot: u64,
    timers: BTreeMap<P::Timer, Time>,
    /// Every record that was asked for, of which so many are durable.
    records: Vec<P::Record>,
    durable: usize,
    /// How many there were when this run began: the first ticket is the next.
    before: usize,
    /// A checkpoint, and how many records it stands for.
    checkpoint: Option<(Vec<P::Record>, usize)>,
    held: BTreeMap<Ticket, Vec<(ReplicaSet, P::Message)>>,
    sequencer: Sequencer,
    /// What the core was told of that execution waits for.
    wanted: BTreeSet<Instance>,
    /// What is executed, a key: the names of batches in order.
    chains: BTreeMap<u8, Vec<BatchId>>,
    /// What is stored of it.
    pub(super) stored: Mark<Bytes>,
    stored_chains: BTreeMap<u8, Vec<BatchId>>,
    /// The highest ballot that it showed, and the highest that it had made durable.
    ballot: u64,
    durable_ballot: u64,
}

/// What is going to happen.
#[derive(Debug, Clone)]
enum Thing<M, T> {
    Message { from: ReplicaId, to: usize, message: M },
    Synced { node: usize, boot: u64, durable: usize },
    Stored { node: usize, boot: u64 },
    Timer { node: usize, boot: u64, timer: T },
    State { from: usize, to: usize },
    Submit { node: usize, id: BatchId },
    Retry,
}

/// What was said or persisted, in bytes, each once.
#[derive(Debug, Clone, Default)]
pub(super) struct Heard {
    pub(super) messages: BTreeSet<Bytes>,
    pub(super) records: BTreeSet<Bytes>,
}

/// What a twin is recovered from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum From {
    /// What is durable: the last checkpoint and what followed it.
    Durable,
    /// That, and what is not durable yet.
    AllRecords,
    /// A checkpoint of this moment.
    Checkpoint,
}

/// What is left of a replica as it loses power.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Left {
    /// All that was durable, from the first record on.
    Records,
    /// The last checkpoint, and what followed it.
    LastCheckpoint,
    /// A checkpoint of this moment, if it runs, and nothing else.
    CheckpointOfNow,
}

/// What a twin decides as it recovers: the instance, the value, the order.
pub(super) type Decided<P> = (Instance, Value, <P as Protocol>::Order);

pub(super) struct Cores<P: Protocol> {
    pub(super) setup: Setup,
    pub(super) now: Time,
    rng: Rng,
    pub(super) nodes: Vec<Node<P>>,
    queue: BTreeMap<(Time, u64), Thing<P::Message, P::Timer>>,
    order: u64,
    /// How many things happened at this moment.
    at_once: usize,
    /// The first decision of each instance.
    pub(super) decided: BTreeMap<Instance, (Value, P::Order)>,
    /// The longest history of each key.
    chains: BTreeMap<u8, Vec<BatchId>>,
    /// What was proposed and is not executed where it came from.
    pending: BTreeMap<BatchId, Value>,
    proposed: u64,
    reads: u64,
    pub(super) granted: u64,
    pub(super) heard: Heard,
    pub(super) sent: Vec<(ReplicaId, usize, P::Message)>,
    /// Who leads at which ballot.
    leaders: BTreeMap<u64, ReplicaId>,
}

impl<P: Protocol> Cores<P> {
    /// A new group, everybody running.
    pub(super) fn new(setup: Setup) -> Self {
        let mut world = Self::empty(setup);
        world.nodes = (0..setup.replicas).map(|_| Node::new(&Mark::start(Epoch(1)), BTreeMap::new())).collect();
        (0..setup.replicas).for_each(|node| world.start(node));
        world
    }

    fn empty(setup: Setup) -> Self {
        let mut world = Self {
            setup,
            now: Time::from_millis(1_000),
            rng: Rng::new(setup.seed),
            nodes: Vec::new(),
            queue: BTreeMap::new(),
            order: 0,
            at_once: 0,
            decided: BTreeMap::new(),
            chains: BTreeMap::new(),
            pending: BTreeMap::new(),
            proposed: 0,
            reads: 0,
            granted: 0,
            heard: Heard::default(),
            sent: Vec::new(),
            leaders: BTreeMap::new(),
        };
        world.after(ELECTION, Thing::Retry);
        world
    }

    /// The same group after everybody lost power, with nothing on its way: each is recovered from what is left of it, but for those
    /// who stay away.
    pub(super) fn after_power_loss(&self, left: Left, away: ReplicaSet) -> Self {
        let mut twin = Self::empty(Setup { loss: 0, repeats: 0, seed: self.setup.seed ^ self.order, ..self.setup });
        (twin.now, twin.decided, twin.chains) = (self.now, self.decided.clone(), self.chains.clone());
        (twin.proposed, twin.leaders) = (self.proposed, self.leaders.clone());
        for node in &self.nodes {
            let mut copy = Node::new(&node.stored, node.stored_chains.clone());
            let (mut durable, mut ballot, mut checkpoint) = (node.durable, node.durable_ballot, None);
            match (left, &node.running) {
                (Left::Records, _) => {}
                (Left::CheckpointOfNow, Some((core, _))) => {
                    (durable, ballot) = (node.records.len(), node.ballot);
                    checkpoint = Some((core.checkpoint(), durable));
                }
                _ => checkpoint = node.checkpoint.clone(),
            }
            copy.records = node.records[..durable].to_vec();
            (copy.durable, copy.boot, copy.checkpoint) = (durable, node.boot, checkpoint);
            (copy.ballot, copy.durable_ballot) = (ballot, ballot);
            twin.nodes.push(copy);
        }
        let there = (0..twin.nodes.len()).filter(|&node| !away.contains(ReplicaId(node as u8)));
        there.for_each(|node| twin.start(node));
        twin
    }

    pub(super) fn config(&self, node: usize) -> Config {
        Config {
            group: GroupId(1),
            epoch: Epoch(1),
            me: ReplicaId(node as u8),
            quorums: P::quorums(ReplicaSet::first(self.setup.replicas)),
            heartbeat: HEARTBEAT,
            election: ELECTION,
            window_max: 64,
            message_bytes_max: 2_048,
            retained_bytes_max: self.setup.retained_bytes_max,
        }
    }

    fn at(&mut self, at: Time, thing: Thing<P::Message, P::Timer>) {
        self.order += 1;
        self.queue.insert((at, self.order), thing);
    }

    fn after(&mut self, delay: Duration, thing: Thing<P::Message, P::Timer>) {
        self.at(self.now + delay, thing);
    }

    fn micros(&mut self, low: u64, high: u64) -> Duration {
        Duration::from_micros(self.rng.between(low, high))
    }

    // What is done to the world.

    /// A client of a node writes a key.
    pub(super) fn write(&mut self, node: usize, key: u8) -> BatchId {
        let id = BatchId { origin: ReplicaId(node as u8), boot: BootCount(1), number: self.proposed };
        self.proposed += 1;
        let footprint = Footprint::write(Bytes::copy_from_slice(&[key]));
        let value = Value::Batch(Batch { id, logged_ms: 0, footprint, commands: Bytes::copy_from_slice(&[key; 64]) });
        self.pending.insert(id, value);
        self.after(Duration::ZERO, Thing::Submit { node, id });
        id
    }

    /// A client of a node reads a key.
    pub(super) fn read(&mut self, node: usize, key: u8) {
        let id = ReadId { boot: BootCount(self.nodes[node].boot), number: self.reads };
        self.reads += 1;
        self.input(node, Input::Read { id, footprint: Footprint::read(Bytes::copy_from_slice(&[key])) });
    }

    /// A node loses power: of what was not durable some prefix is.
    pub(super) fn crash(&mut self, node: usize) {
        let kept = self.rng.below((self.nodes[node].records.len() - self.nodes[node].durable) as u64 + 1) as usize;
        let it = &mut self.nodes[node];
        it.running = None;
        it.ballot = it.durable_ballot;
        it.durable += kept;
        it.records.truncate(it.durable);
        it.timers.clear();
        it.held.clear();
        it.sequencer = Sequencer::new(P::TRAITS.order, &it.stored);
        it.wanted.clear();
        it.chains = it.stored_chains.clone();
    }

    /// A node writes down everything that its core still needs.
    pub(super) fn keep_checkpoint(&mut self, node: usize) {
        let it = &mut self.nodes[node];
        if let Some((core, _)) = &it.running
            && it.durable == it.records.len()
        {
            it.checkpoint = Some((core.checkpoint(), it.records.len()));
        }
    }

    /// Starts a node from its disk.
    pub(super) fn start(&mut self, node: usize) {
        let it = &mut self.nodes[node];
        it.boot += 1;
        it.before = it.records.len();
        let records = it.latest_records(it.durable);
        let (core, cx) = self.recover(node, records, self.now).unwrap_or_else(|why| panic!("r{node} refuses its own records: {why}"));
        self.nodes[node].running = Some((core, cx));
        self.perform(node);
    }

    /// Starts everybody who is down.
    pub(super) fn start_all(&mut self) {
        let down = (0..self.nodes.len()).filter(|&node| self.nodes[node].running.is_none());
        down.collect::<Vec<_>>().into_iter().for_each(|node| self.start(node));
    }

    /// A core recovered from these records, and what it asks with.
    fn recover(&self, node: usize, records: Vec<P::Record>, now: Time) -> Result<(P, Context<P>), String> {
        let it = &self.nodes[node];
        let mark = typed::<P>(&it.stored);
        let boot = Boot { records, mark, first: None, fresh: false, boot: BootCount(it.boot) };
        let rng = Rng::new(self.setup.seed ^ (node as u64) << 32 ^ it.boot << 8);
        let mut cx = Context::new(now, rng, Arc::new(self.config(node)));
        let core = P::recover(boot, &mut cx).map_err(|corrupt| corrupt.to_string())?;
        Ok((core, cx))
    }

    /// A twin of a running core: what it says of itself, and what it decides as it recovers.
    pub(super) fn twin(&self, node: usize, from: From) -> Result<(Inspection, Vec<Decided<P>>), String> {
        let it = &self.nodes[node];
        let records = match (from, &it.running) {
            (From::Checkpoint, Some((core, _))) => core.checkpoint(),
            (From::Durable, _) => it.latest_records(it.durable),
            _ => it.latest_records(it.records.len()),
        };
        let (core, mut cx) = guarded(|| self.recover(node, records, self.now)).map_err(|panic| panic.message)??;
        let mut decided = Vec::new();
        for effect in cx.take_effects() {
            if let Effect::Decide { run, value, order } = effect {
                let numbers = run.first.number..run.first.number + run.count;
                decided.extend(numbers.map(|number| (Instance { number, ..run.first }, value.clone(), order.clone())));
            }
        }
        Ok((core.inspect(), decided))
    }

    /// Whether everything that was proposed is executed where it came from.
    pub(super) fn is_answered(&self) -> bool {
        self.pending.is_empty()
    }

    /// How many bytes were decided.
    pub(super) fn decided_bytes(&self) -> u64 {
        self.decided.values().map(|(value, _)| value.size_bytes() as u64).sum()
    }

    /// Whether everybody runs and has executed everything that anybody has.
    pub(super) fn agree(&self) -> bool {
        self.nodes.iter().all(|node| node.running.is_some() && node.chains == self.chains)
    }

    pub(super) fn inspect(&self, node: usize) -> Option<Inspection> {
        self.nodes[node].running.as_ref().map(|(core, _)| core.inspect())
    }

    /// The next thing happens: to which node, if to one that runs.
    pub(super) fn next(&mut self) -> Option<usize> {
        let ((at, _), thing) = self.queue.pop_first().expect("somebody always tries again");
        self.at_once = if at > self.now { 0 } else { self.at_once + 1 };
        assert!(self.at_once < AT_ONCE_MAX, "time stands still: {AT_ONCE_MAX} things happened at one moment, the last of them {thing:?}");
        self.now = self.now.max(at);
        self.happen(thing)
    }

    /// Lets things happen until `done`, at most for so long; whether it was.
    pub(super) fn run_until(&mut self, most: Duration, mut done: impl FnMut(&Self) -> bool) -> bool {
        let end = self.now + most;
        while !done(self) {
            if self.now >= end {
                return false;
            }
            self.next();
        }
        true
    }

    /// A message that came before comes again.
    pub(super) fn deliver(&mut self, from: ReplicaId, to: usize, message: P::Message) {
        self.input(to, Input::Receive { from, message });
    }
}

impl<P: Protocol> Node<P> {
    fn new(stored: &Mark<Bytes>, chains: BTreeMap<u8, Vec<BatchId>>) -> Self {
        Self {
            running: None,
            boot: 0,
            timers: BTreeMap::new(),
            records: Vec::new(),
            durable: 0,
            before: 0,
            checkpoint: None,
            held: BTreeMap::new(),
            sequencer: Sequencer::new(P::TRAITS.order, stored),
            wanted: BTreeSet::new(),
            chains: chains.clone(),
            stored: stored.clone(),
            stored_chains: chains,
            ballot: 0,
            durable_ballot: 0,
        }
    }

    /// The first so many records, the checkpoint in place of those that it stands for.
    fn latest_records(&self, upto: usize) -> Vec<P::Record> {
        match &self.checkpoint {
            Some((checkpoint, stands_for)) if *stands_for <= upto => {
                checkpoint.iter().chain(&self.records[*stands_for..upto]).cloned().collect()
            }
            _ => self.records[..upto].to_vec(),
        }
    }
}

fn typed<P: Protocol>(mark: &Mark<Bytes>) -> Mark<P::Order> {
    let order = |o: &Option<Bytes>| o.as_ref().and_then(|bytes| P::Order::from_bytes(bytes).ok());
    Mark { frontier: mark.frontier.clone(), orders: mark.orders.iter().map(order).collect() }
}
