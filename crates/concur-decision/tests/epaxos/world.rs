//! A small world for EPaxos' cores: virtual time, links that delay, lose and duplicate, partitions, disks that lag, crashes that
//! keep any prefix of what was not durable, clients that write and read, execution by the graph, state saved now and then.
//!
//! Checked as it runs: nothing is decided differently; what interferes is executed in one order; a read finds every write
//! acknowledged before it began. The simulator proper has bytes, real log codecs and more faults; this one has types.

use crate::graph::Graph;
use bytes::Bytes;
use concur_core::*;
use concur_decision::epaxos::{Deps, EPaxos, Message, Record, Timer};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

const HEARTBEAT: Duration = Duration::from_millis(20);
const ELECTION: Duration = Duration::from_millis(100);

#[derive(Debug, Clone)]
pub(crate) struct Setup {
    pub(crate) voters: usize,
    pub(crate) seed: u64,
    pub(crate) clients: usize,
    /// Keys that clients choose from; with none, every command interferes with everything.
    pub(crate) keys: u64,
    /// How many writes each client makes after the faults.
    pub(crate) writes: u64,
    pub(crate) retained_bytes_max: usize,
    /// For how long there are faults.
    pub(crate) faults: Duration,
}

pub(crate) struct World {
    setup: Setup,
    rng: Rng,
    now: Time,
    events: BTreeMap<(Time, u64), Event>,
    sequence: u64,
    nodes: Vec<Node>,
    clients: Vec<Client>,
    /// Links that are down, one way.
    cut: BTreeSet<(usize, usize)>,
    faulty: bool,
    decided: BTreeMap<Instance, (Value, Deps)>,
    /// The order in which interfering batches must be executed: what the first replica to come so far did, a key.
    history: BTreeMap<Option<u64>, Vec<BatchId>>,
    acknowledged: BTreeMap<Option<u64>, BTreeSet<BatchId>>,
    pub(crate) notes: BTreeMap<&'static str, u64>,
    pub(crate) component_max: usize,
    pub(crate) installs: u64,
}

struct Node {
    core: Option<EPaxos>,
    cx: Context<EPaxos>,
    run: u64,
    timers: BTreeMap<Timer, Time>,
    stored: Vec<Record>,
    unsynced: Vec<Record>,
    durable: u64,
    held: Vec<(Ticket, usize, Message)>,
    syncing: bool,
    graph: Graph,
    state: State,
    saved: (Frontier, State),
    reads: BTreeMap<u64, (Frontier, Option<u64>, BTreeSet<BatchId>)>,
    asked: BTreeMap<u64, (Option<u64>, BTreeSet<BatchId>)>,
}

/// What is executed: batches in order, a key.
#[derive(Debug, Clone, Default)]
struct State {
    logs: BTreeMap<Option<u64>, Vec<BatchId>>,
    ran: BTreeSet<BatchId>,
}

struct Client {
    node: usize,
    number: u64,
    key: Option<u64>,
    waiting: Option<Value>,
    done: u64,
    turn: u64,
}

enum Event {
    Deliver {
        from: usize,
        to: usize,
        message: Message,
        run: u64,
    },
    Sync {
        node: usize,
        run: u64,
    },
    Timer {
        node: usize,
        timer: Timer,
        due: Time,
        run: u64,
    },
    /// A client goes on, or asks again, unless something happened to it since.
    Client(usize, u64),
    Read(usize),
    Save(usize),
    Restart(usize),
    Fault,
    Heal,
}

impl World {
    pub(crate) fn new(setup: Setup) -> Self {
        let mut rng = Rng::new(setup.seed);
        let nodes = (0..setup.voters).map(|id| Node::new(id, &setup, rng.fork())).collect();
        let clients = (0..setup.clients)
            .map(|client| Client { node: client % setup.voters, number: client as u64, key: None, waiting: None, done: 0, turn: 0 })
            .collect();
        let mut world = Self {
            rng,
            now: Time(0),
            events: BTreeMap::new(),
            sequence: 0,
            nodes,
            clients,
            cut: BTreeSet::new(),
            faulty: setup.faults > Duration::ZERO,
            decided: BTreeMap::new(),
            history: BTreeMap::new(),
            acknowledged: BTreeMap::new(),
            notes: BTreeMap::new(),
            component_max: 0,
            installs: 0,
            setup,
        };
        for node in 0..world.setup.voters {
            world.restart(node);
            world.after(Duration::from_millis(30 + node as u64), Event::Save(node));
            world.after(Duration::from_millis(5 + node as u64), Event::Read(node));
        }
        for client in 0..world.clients.len() {
            world.call(client, Duration::from_millis(1));
        }
        if world.faulty {
            world.after(Duration::from_millis(10), Event::Fault);
            world.after(world.setup.faults, Event::Heal);
        }
        world
    }

    /// Runs until every client has made its writes after the faults, and everyone has executed everything; panics if that takes
    /// longer than `limit`.
    pub(crate) fn run(&mut self, limit: Duration) -> Duration {
        while let Some((&(at, sequence), _)) = self.events.first_key_value() {
            let event = self.events.remove(&(at, sequence)).expect("looked at");
            self.now = at;
            self.happen(event);
            if !self.faulty && self.settled() {
                return at.since(Time(0));
            }
            assert!(at.since(Time(0)) < limit, "seed {}: stuck\n{}", self.setup.seed, self.describe());
        }
        panic!("seed {}: nothing happens any more\n{}", self.setup.seed, self.describe());
    }

    fn settled(&self) -> bool {
        let idle = self.clients.iter().all(|client| client.done >= self.setup.writes);
        idle && self.nodes.iter().all(|node| {
            let decided = self.decided.keys().all(|&instance| node.graph.frontier().contains(instance));
            node.core.is_some() && node.asked.is_empty() && node.reads.is_empty() && decided && node.graph.waiting() == 0
        })
    }

    fn describe(&self) -> String {
        let mut out = String::new();
        for (id, node) in self.nodes.iter().enumerate() {
            let wanted: Vec<_> = node.graph.wanted().take(5).collect();
            let inspection = node.core.as_ref().map(Protocol::inspect);
            out += &format!("{id}: {:?} waiting {} wants {wanted:?} {inspection:?}\n", node.graph.frontier(), node.graph.waiting());
        }
        out + &format!("clients {:?}", self.clients.iter().map(|client| client.done).collect::<Vec<_>>())
    }

    fn after(&mut self, after: Duration, event: Event) {
        self.sequence += 1;
        self.events.insert((self.now + after, self.sequence), event);
    }

    fn micros(&mut self, low: u64, high: u64) -> Duration {
        Duration::from_micros(self.rng.between(low, high))
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Deliver { from, to, message, run } => {
                let own = from == to;
                if self.nodes[to].core.is_some() && (!own || self.nodes[to].run == run) {
                    self.step(to, Input::Receive { from: ReplicaId(from as u8), message });
                }
            }
            Event::Sync { node, run } => self.sync(node, run),
            Event::Timer { node, timer, due, run } => {
                if self.nodes[node].run == run && self.nodes[node].timers.get(&timer) == Some(&due) {
                    self.nodes[node].timers.remove(&timer);
                    self.step(node, Input::Expired(timer));
                }
            }
            Event::Client(client, turn) => {
                if self.clients[client].turn == turn {
                    self.client(client);
                }
            }
            Event::Read(node) => self.read(node),
            Event::Save(node) => self.save(node),
            Event::Restart(node) => self.restart(node),
            Event::Fault => self.fault(),
            Event::Heal => {
                self.faulty = false;
                self.cut.clear();
                self.clients.iter_mut().for_each(|client| client.done = 0);
                for node in 0..self.nodes.len() {
                    if self.nodes[node].core.is_none() {
                        self.restart(node);
                    }
                }
            }
        }
    }

    fn step(&mut self, at: usize, input: Input<EPaxos>) {
        let node = &mut self.nodes[at];
        node.cx.now = self.now;
        let Some(core) = &mut node.core else { return };
        core.step(input, &mut node.cx);
        self.perform(at);
    }

    fn perform(&mut self, at: usize) {
        let mut decided = false;
        for effect in self.nodes[at].cx.take_effects() {
            match effect {
                Effect::Persist(record) => {
                    // As it is written, so it is read.
                    self.nodes[at].unsynced.push(Record::from_bytes(&record.to_bytes()).expect("readable"));
                    self.begin_sync(at);
                }
                Effect::Send { to, message, after } => self.send(at, to, &message, after),
                Effect::Solicit { message, after, .. } => self.send(at, ReplicaSet::first(self.setup.voters), &message, after),
                Effect::Arm { timer, due } => {
                    self.nodes[at].timers.insert(timer, due);
                    let run = self.nodes[at].run;
                    self.after(due.since(self.now), Event::Timer { node: at, timer, due, run });
                }
                Effect::Disarm { timer } => drop(self.nodes[at].timers.remove(&timer)),
                Effect::Decide { run, value, order } => {
                    self.decide(at, run.first, value, order);
                    decided = true;
                }
                Effect::ReadAt { id, frontier } => {
                    if let Some((key, seen)) = self.nodes[at].asked.remove(&id.number) {
                        self.nodes[at].reads.insert(id.number, (frontier, key, seen));
                    }
                }
                Effect::RefuseRead { id, .. } => drop(self.nodes[at].asked.remove(&id.number)),
                Effect::Refuse { id, .. } => {
                    let client = self.clients.iter().position(|client| client.waiting.as_ref().and_then(Value::id) == Some(id));
                    if let Some(client) = client {
                        let after = self.micros(500, 20_000);
                        self.call(client, after);
                    }
                }
                Effect::Fetch { from, frontier } => self.fetch(at, usize::from(from.0), &frontier),
                Effect::Note { name, .. } => *self.notes.entry(name).or_default() += 1,
            }
        }
        self.execute(at);
        if decided && self.nodes[at].core.is_some() {
            let wanted: Vec<Instance> = self.nodes[at].graph.wanted().collect();
            wanted.into_iter().for_each(|instance| self.step(at, Input::Wanted(instance)));
        }
    }

    fn begin_sync(&mut self, at: usize) {
        if !std::mem::replace(&mut self.nodes[at].syncing, true) {
            let (after, run) = (self.micros(100, 3_000), self.nodes[at].run);
            self.after(after, Event::Sync { node: at, run });
        }
    }

    fn sync(&mut self, at: usize, run: u64) {
        let node = &mut self.nodes[at];
        if node.run != run || node.core.is_none() {
            return;
        }
        node.syncing = false;
        node.durable += node.unsynced.len() as u64;
        node.stored.append(&mut node.unsynced);
        let held = std::mem::take(&mut node.held);
        for (_, to, message) in held {
            self.launch(at, to, message);
        }
    }

    fn send(&mut self, from: usize, to: ReplicaSet, message: &Message, after: Ticket) {
        for to in to.iter().map(|id| usize::from(id.0)) {
            if after.0 <= self.nodes[from].durable {
                self.launch(from, to, message.clone());
            } else {
                self.nodes[from].held.push((after, to, message.clone()));
            }
        }
    }

    fn launch(&mut self, from: usize, to: usize, message: Message) {
        let run = self.nodes[to].run;
        if from == to {
            return self.after(Duration::ZERO, Event::Deliver { from, to, message, run });
        }
        if self.cut.contains(&(from, to)) || (self.faulty && self.rng.chance(30_000)) {
            return;
        }
        let message = Message::from_bytes(&message.to_bytes()).expect("readable");
        let slow = self.faulty && self.rng.chance(20_000);
        let mut after = if slow { self.micros(5_000, 400_000) } else { self.micros(500, 4_000) };
        if self.faulty && self.rng.chance(20_000) {
            self.after(after, Event::Deliver { from, to, message: message.clone(), run });
            after = self.micros(500, 100_000);
        }
        self.after(after, Event::Deliver { from, to, message, run });
    }

    fn decide(&mut self, at: usize, instance: Instance, value: Value, deps: Deps) {
        if let Some((theirs, their_deps)) = self.decided.get(&instance) {
            assert!(*theirs == value && *their_deps == deps, "seed {}: {instance} is decided differently", self.setup.seed);
        }
        self.nodes[at].graph.decided(instance, value.clone(), deps.0.clone());
        self.decided.insert(instance, (value, deps));
    }

    fn execute(&mut self, at: usize) {
        let mut component = 0;
        while let Some((_, value)) = self.nodes[at].graph.next() {
            component += 1;
            self.component_max = self.component_max.max(component);
            if self.nodes[at].graph.between_components() {
                component = 0;
            }
            let id = value.id().expect("no-ops are not handed out");
            let node = &mut self.nodes[at];
            if node.state.ran.insert(id) {
                let key = key_of(&value);
                let log = node.state.logs.entry(key).or_default();
                let history = self.history.entry(key).or_default();
                assert!(log.len() >= history.len() || history[log.len()] == id, "seed {}: {at} runs {id:?} out of order", self.setup.seed);
                log.push(id);
                if log.len() > history.len() {
                    history.push(id);
                }
            }
            self.acknowledge(at, id);
        }
        self.serve(at);
    }

    fn acknowledge(&mut self, at: usize, id: BatchId) {
        let waits = |client: &Client| client.node == at && client.waiting.as_ref().and_then(Value::id) == Some(id);
        if let Some(client) = self.clients.iter().position(waits) {
            self.acknowledged.entry(self.clients[client].key).or_default().insert(id);
            self.clients[client].waiting = None;
            self.clients[client].done += 1;
            let after = self.micros(10, 200);
            self.call(client, after);
        }
    }

    /// Has a client go on in a while; what it was to do otherwise it does not do.
    fn call(&mut self, client: usize, after: Duration) {
        self.clients[client].turn += 1;
        self.after(after, Event::Client(client, self.clients[client].turn));
    }

    fn client(&mut self, client: usize) {
        let state = &mut self.clients[client];
        if state.waiting.is_none() {
            if !self.faulty && state.done >= self.setup.writes {
                return;
            }
            state.number += 1 << 16;
            state.key = (self.setup.keys > 0).then(|| self.rng.below(self.setup.keys));
            let id = BatchId { origin: ReplicaId(state.node as u8), boot: BootCount(1), number: state.number };
            let key = |key: u64| Footprint::write(Bytes::from(key.to_be_bytes().to_vec()));
            let footprint = state.key.map_or(Footprint::Everything, key);
            state.waiting = Some(Value::Batch(Batch { id, logged_ms: 0, footprint, commands: Bytes::from_static(&[7; 100]) }));
        }
        let (at, value) = (state.node, state.waiting.clone().expect("set above"));
        if self.nodes[at].state.ran.contains(&value.id().expect("a batch")) {
            return self.acknowledge(at, value.id().expect("a batch"));
        }
        // A client whose replica crashed, or installed state, asks again.
        self.call(client, Duration::from_millis(700));
        self.step(at, Input::Submit(value));
    }

    fn read(&mut self, at: usize) {
        let after = self.micros(20_000, 60_000);
        self.after(after, Event::Read(at));
        if self.nodes[at].core.is_none() || self.settled() {
            return;
        }
        let key = (self.setup.keys > 0).then(|| self.rng.below(self.setup.keys));
        let seen = self.acknowledged.get(&key).cloned().unwrap_or_default();
        self.sequence += 1;
        let number = self.sequence;
        self.nodes[at].asked.insert(number, (key, seen));
        let footprint = key.map_or(Footprint::Everything, |key| Footprint::read(Bytes::from(key.to_be_bytes().to_vec())));
        let id = ReadId { boot: BootCount(self.nodes[at].run), number };
        self.step(at, Input::Read { id, footprint });
    }

    fn serve(&mut self, at: usize) {
        let node = &mut self.nodes[at];
        let state = &node.state;
        let seed = self.setup.seed;
        node.reads.retain(|_, (frontier, _, seen)| {
            let ripe = node.graph.frontier().covers(frontier);
            assert!(!ripe || seen.is_subset(&state.ran), "seed {seed}: {at} reads and misses what was acknowledged before");
            !ripe
        });
    }

    /// Saves the executed state, as an engine would, and sometimes makes a checkpoint of the log.
    fn save(&mut self, at: usize) {
        let after = self.micros(20_000, 80_000);
        self.after(after, Event::Save(at));
        let node = &mut self.nodes[at];
        if node.core.is_none() || !node.graph.between_components() {
            return;
        }
        node.saved = (node.graph.frontier().clone(), node.state.clone());
        let frontier = node.saved.0.clone();
        self.step(at, Input::Floor(frontier));
        if self.rng.below(4) == 0 {
            let node = &mut self.nodes[at];
            let (run, records) = (node.run, node.core.as_ref().expect("runs").checkpoint());
            self.sync(at, run);
            self.nodes[at].stored = records;
        }
    }

    fn fetch(&mut self, at: usize, from: usize, frontier: &Frontier) {
        let source = &self.nodes[from];
        let (theirs, state) = (source.graph.frontier().clone(), source.state.clone());
        let fits = theirs.covers(frontier) && theirs.covers(self.nodes[at].graph.frontier());
        if source.core.is_none() || !fits || self.cut.contains(&(from, at)) || !source.graph.between_components() {
            return;
        }
        self.installs += 1;
        let node = &mut self.nodes[at];
        node.state = state.clone();
        node.graph.install(theirs.clone());
        node.saved = (theirs.clone(), state);
        self.step(at, Input::Installed(Mark { frontier: theirs, orders: Vec::new() }));
    }

    fn fault(&mut self) {
        if !self.faulty {
            return;
        }
        let after = self.micros(5_000, 150_000);
        self.after(after, Event::Fault);
        let at = self.rng.below(self.nodes.len() as u64) as usize;
        match self.rng.below(8) {
            0 | 1 if self.nodes[at].core.is_some() => self.crash(at),
            2 => {
                for other in 0..self.nodes.len() {
                    self.cut.insert((at, other));
                    self.cut.insert((other, at));
                }
            }
            3 => {
                let other = self.rng.below(self.nodes.len() as u64) as usize;
                self.cut.insert((at, other));
            }
            4 | 5 => self.cut.clear(),
            6 => {
                let other = self.rng.below(self.nodes.len() as u64) as usize;
                let health = if self.rng.below(2) == 0 { Health::Down } else { Health::Up };
                self.step(at, Input::Peer(ReplicaId(other as u8), health));
            }
            _ => {}
        }
    }

    fn crash(&mut self, at: usize) {
        let kept = self.rng.below(self.nodes[at].unsynced.len() as u64 + 1) as usize;
        let node = &mut self.nodes[at];
        let survived: Vec<_> = node.unsynced.drain(..kept).collect();
        node.stored.extend(survived);
        node.core = None;
        node.run += 1;
        let after = self.micros(1_000, 400_000);
        self.after(after, Event::Restart(at));
    }

    fn restart(&mut self, at: usize) {
        if self.nodes[at].core.is_some() {
            return;
        }
        let fresh = Node::new(at, &self.setup, self.rng.fork());
        let run = self.nodes[at].run + 1;
        let old = std::mem::replace(&mut self.nodes[at], fresh);
        let node = &mut self.nodes[at];
        (node.run, node.stored, node.saved) = (run, old.stored, old.saved);
        node.state = node.saved.1.clone();
        node.graph = Graph::new(node.saved.0.clone());
        node.cx.now = self.now;
        let mark = Mark { frontier: node.saved.0.clone(), orders: Vec::new() };
        let boot = Boot { records: node.stored.clone(), mark, first: None, fresh: false, boot: BootCount(run) };
        let seed = self.setup.seed;
        node.core = Some(EPaxos::recover(boot, &mut node.cx).unwrap_or_else(|corrupt| panic!("seed {seed}: {corrupt}")));
        self.perform(at);
        for client in 0..self.clients.len() {
            if self.clients[client].node == at && self.now > Time(0) {
                self.call(client, Duration::from_millis(2));
            }
        }
    }

    /// Everyone has executed the same batches in the same order, and nothing acknowledged is missing.
    pub(crate) fn check_end(&self) {
        for node in &self.nodes {
            assert_eq!(node.state.logs, self.history, "seed {}", self.setup.seed);
            for (key, ids) in &self.acknowledged {
                assert!(ids.iter().all(|id| self.history[key].contains(id)), "seed {}: an acknowledged write is lost", self.setup.seed);
            }
        }
    }
}

impl Node {
    fn new(id: usize, setup: &Setup, rng: Rng) -> Self {
        let config = Config {
            group: GroupId(1),
            epoch: Epoch(1),
            me: ReplicaId(id as u8),
            quorums: EPaxos::quorums(ReplicaSet::first(setup.voters)),
            heartbeat: HEARTBEAT,
            election: ELECTION,
            window_max: 64,
            message_bytes_max: 4096,
            retained_bytes_max: setup.retained_bytes_max,
        };
        let start = Frontier::start(Epoch(1));
        Self {
            core: None,
            cx: Context::new(Time(0), rng, Arc::new(config)),
            run: 0,
            timers: BTreeMap::new(),
            stored: Vec::new(),
            unsynced: Vec::new(),
            durable: 0,
            held: Vec::new(),
            syncing: false,
            graph: Graph::new(start.clone()),
            state: State::default(),
            saved: (start, State::default()),
            reads: BTreeMap::new(),
            asked: BTreeMap::new(),
        }
    }
}

fn key_of(value: &Value) -> Option<u64> {
    let Footprint::Spans { writes, .. } = value.footprint() else { return None };
    writes.first().map(|span| u64::from_be_bytes(span.start()[..].try_into().expect("eight bytes")))
}
