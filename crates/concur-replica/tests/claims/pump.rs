//! A few replicas, and everything between them by hand: links, disks and engines that can be held, hurried, cut and crashed.
//!
//! The pump checks at every step what must hold at all of them: a request is answered once, tickets count records, nothing that is
//! due is left, and a step for which nothing came does nothing.

use crate::tally::Tally;
use bytes::Bytes;
use concur_core::*;
use concur_peers::{Change as Reconfiguration, Configuration, Outcome};
use concur_replica::*;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

pub(crate) const HEARTBEAT: Duration = Duration::from_millis(20);
pub(crate) const ELECTION: Duration = Duration::from_millis(200);

/// How the replicas are set up.
#[derive(Clone)]
pub(crate) struct Setup {
    pub(crate) strategy: Strategy,
    pub(crate) replicas: usize,
    pub(crate) order: Ordering,
    pub(crate) retained_bytes_max: usize,
    pub(crate) transfer_bytes_max: usize,
    pub(crate) pending_commands_max: usize,
    pub(crate) batch_commands_max: usize,
    pub(crate) session_ttl: Duration,
    pub(crate) absence_max: Option<Duration>,
    pub(crate) seed: u64,
}

impl Setup {
    pub(crate) fn new(strategy: Strategy, replicas: usize) -> Self {
        Self {
            strategy,
            replicas,
            order: strategy.traits.order,
            retained_bytes_max: 1 << 20,
            transfer_bytes_max: 64,
            pending_commands_max: 1000,
            batch_commands_max: 8,
            session_ttl: Duration::from_secs(600),
            absence_max: None,
            seed: 1,
        }
    }
}

pub(crate) struct Node {
    pub(crate) replica: Option<Replica<Tally>>,
    pub(crate) boot: u64,
    /// The log, of which so many records are on disk.
    pub(crate) records: Vec<Bytes>,
    pub(crate) durable: usize,
    pub(crate) through: Ticket,
    pub(crate) holds_sync: bool,
    /// What the engine has written, and what it has still to write.
    pub(crate) image: BTreeMap<Bytes, Bytes>,
    pub(crate) engine: VecDeque<(bool, Bulk)>,
    pub(crate) holds_engine: bool,
    /// Which life of its disk this is, and the configuration with which it joined, if it did not begin the group.
    pub(crate) life: u64,
    pub(crate) joined: Option<Arc<Configuration>>,
}

pub(crate) struct Pump {
    pub(crate) setup: Setup,
    pub(crate) now: Time,
    pub(crate) rng: Rng,
    pub(crate) nodes: Vec<Node>,
    packets: BTreeMap<(Time, u64), (ReplicaId, ReplicaId, Bytes)>,
    sent: u64,
    /// Pairs between which nothing passes, in this direction.
    pub(crate) cut: BTreeSet<(usize, usize)>,
    /// Of a million messages, so many are lost, and so many come twice.
    pub(crate) loss: u32,
    pub(crate) repeats: u32,
    pub(crate) answers: BTreeMap<Token, Result<Reply, Refused>>,
    tokens: u64,
    pub(crate) notes: BTreeSet<&'static str>,
    /// So far wall clocks have jumped back.
    pub(crate) wall_back: Duration,
    /// What was sent in the latest steps, if it is kept.
    pub(crate) kept: Option<Vec<(usize, Outgoing)>>,
}

impl Pump {
    pub(crate) fn new(setup: Setup) -> Self {
        let node = || Node {
            replica: None,
            boot: 0,
            records: Vec::new(),
            durable: 0,
            through: Ticket(0),
            holds_sync: false,
            image: BTreeMap::new(),
            engine: VecDeque::new(),
            holds_engine: false,
            life: 1,
            joined: None,
        };
        let mut pump = Self {
            now: Time(1 << 30),
            rng: Rng::new(setup.seed),
            nodes: (0..setup.replicas).map(|_| node()).collect(),
            packets: BTreeMap::new(),
            sent: 0,
            cut: BTreeSet::new(),
            loss: 0,
            repeats: 0,
            answers: BTreeMap::new(),
            tokens: 0,
            notes: BTreeSet::new(),
            wall_back: Duration::ZERO,
            kept: None,
            setup,
        };
        (0..pump.nodes.len()).for_each(|index| pump.start(index));
        pump
    }

    pub(crate) fn config(&self, index: usize) -> Config {
        Config {
            group: GroupId(3),
            epoch: Epoch(0),
            me: ReplicaId(index as u8),
            quorums: (self.setup.strategy.quorums)(ReplicaSet::first(self.setup.replicas)),
            heartbeat: HEARTBEAT,
            election: ELECTION,
            window_max: 64,
            message_bytes_max: 1 << 20,
            retained_bytes_max: self.setup.retained_bytes_max,
        }
    }

    fn settings(&self, index: usize) -> Settings {
        let node = &self.nodes[index];
        let boot = BootCount((node.life << 32) | node.boot);
        let mut settings = Settings::new(Arc::new(self.config(index)), self.setup.strategy, boot);
        settings.order = self.setup.order;
        settings.transfer_bytes_max = self.setup.transfer_bytes_max;
        settings.pending_commands_max = self.setup.pending_commands_max;
        settings.batch_commands_max = self.setup.batch_commands_max;
        settings.session_ttl = self.setup.session_ttl;
        settings.absence_max = self.setup.absence_max;
        settings.strategies = concur_decision::find;
        settings.incarnation = node.life << 8 | index as u64;
        if let Some(joined) = &node.joined {
            let strategy = concur_decision::find(&joined.strategy).expect("a configuration of the registry");
            let config = Config { epoch: joined.epoch, quorums: joined.quorums(&strategy), ..self.config(index) };
            settings = Settings { config: Arc::new(config), strategy, configuration: joined.clone(), joins: true, ..settings };
        }
        settings
    }

    fn wall_ms(&self, index: usize) -> u64 {
        // Clocks differ, and none is ahead everywhere.
        1_700_000_000_000 + self.now.0 / 1_000_000 - self.wall_back.as_millis() as u64 - 300 * index as u64
    }

    /// Starts a replica from its disk.
    pub(crate) fn start(&mut self, index: usize) {
        self.try_start(index).expect("an honest disk");
    }

    /// Starts a replica from a disk that somebody may have touched.
    pub(crate) fn try_start(&mut self, index: usize) -> Result<(), Corrupt> {
        self.nodes[index].boot += 1;
        self.nodes[index].through = Ticket(0);
        let (settings, now, wall_ms) = (self.settings(index), self.now, self.wall_ms(index));
        let node = &self.nodes[index];
        let image = node.image.iter().map(|(key, value)| (key.clone(), value.clone())).collect();
        let recovered = Recovered { records: node.records.clone(), image };
        let machine = Tally::new(settings.order == Ordering::Total);
        let (rng, mut out) = (self.rng.fork(), Output::default());
        let replica = Replica::start(settings, recovered, machine, now, wall_ms, rng, &mut out)?;
        self.nodes[index].replica = Some(replica);
        self.perform(index, out);
        self.settle(index);
        Ok(())
    }

    /// Another machine starts, which holds nothing and knows this configuration.
    pub(crate) fn join(&mut self, configuration: Arc<Configuration>) -> usize {
        let node = Node {
            replica: None,
            boot: 0,
            records: Vec::new(),
            durable: 0,
            through: Ticket(0),
            holds_sync: false,
            image: BTreeMap::new(),
            engine: VecDeque::new(),
            holds_engine: false,
            life: 1,
            joined: Some(configuration),
        };
        self.nodes.push(node);
        self.start(self.nodes.len() - 1);
        self.nodes.len() - 1
    }

    /// A replica's disk is gone with everything on it; it starts on another.
    pub(crate) fn lose_disk(&mut self, index: usize, configuration: Arc<Configuration>) {
        let node = &mut self.nodes[index];
        (node.records, node.durable, node.image, node.engine) = (Vec::new(), 0, BTreeMap::new(), VecDeque::new());
        (node.replica, node.boot, node.life, node.joined) = (None, 0, node.life + 1, Some(configuration));
        self.start(index);
    }

    /// Asks for a change and waits for what came of it.
    pub(crate) fn change(&mut self, index: usize, change: Reconfiguration) -> Outcome {
        let token = self.ask(index, Request::Change { change, timeout: Duration::from_secs(30) });
        Outcome::from_bytes(&self.ok(token).body).expect("an outcome")
    }

    /// Lets time pass until `is` holds.
    pub(crate) fn until(&mut self, what: &str, mut is: impl FnMut(&Self) -> bool) {
        for _ in 0..3000 {
            if is(self) {
                return;
            }
            self.run(Duration::from_millis(10));
        }
        panic!("{what} never holds; met {:?}", self.notes);
    }

    /// The process is gone. Of what was not synced or stored, some prefix was.
    pub(crate) fn crash(&mut self, index: usize) {
        let node = &mut self.nodes[index];
        node.replica = None;
        let unsynced = (node.records.len() - node.durable) as u64;
        node.records.truncate(node.durable + self.rng.below(unsynced + 1) as usize);
        node.durable = node.records.len();
        for _ in 0..self.rng.below(node.engine.len() as u64 + 1) {
            node.write_bulk();
        }
        node.engine.clear();
        (node.holds_sync, node.holds_engine) = (false, false);
    }

    pub(crate) fn replica(&self, index: usize) -> &Replica<Tally> {
        self.nodes[index].replica.as_ref().expect("it runs")
    }

    /// Asks a replica, which need not run; the token names the answer.
    pub(crate) fn ask(&mut self, index: usize, request: Request) -> Token {
        self.tokens += 1;
        let token = Token(self.tokens);
        if self.nodes[index].replica.is_some() {
            self.offer(index, Event::Request { token, request });
        }
        token
    }

    pub(crate) fn command(&mut self, index: usize, session: Option<InSession>, body: &[u8]) -> Token {
        let body = Bytes::copy_from_slice(body);
        self.ask(index, Request::Command { session, body, timeout: Duration::from_secs(30) })
    }

    pub(crate) fn strong(&mut self, index: usize, key: u8) -> Token {
        let key = Bytes::copy_from_slice(&[key]);
        let (footprint, query) = (Footprint::read(key.clone()), Some(key));
        self.ask(index, Request::Read { level: Level::Strong, footprint, query, timeout: Duration::from_secs(30) })
    }

    /// Lets time pass until the answer is there; panics if it takes too long.
    pub(crate) fn answer(&mut self, token: Token) -> Result<Reply, Refused> {
        for _ in 0..3000 {
            if let Some(answer) = self.answers.get(&token) {
                return answer.clone();
            }
            self.run(Duration::from_millis(10));
        }
        panic!("{token:?} is not answered; met {:?}", self.notes);
    }

    pub(crate) fn ok(&mut self, token: Token) -> Reply {
        self.answer(token).unwrap_or_else(|refused| panic!("{token:?} is refused: {refused:?}"))
    }

    /// Hands an event to a replica, which steps.
    pub(crate) fn offer(&mut self, index: usize, event: Event) {
        let Some(replica) = &mut self.nodes[index].replica else { return };
        replica.offer(event);
        self.step(index);
    }

    /// One step, and the steps that the disk's answers ask for.
    pub(crate) fn step(&mut self, index: usize) {
        let out = self.step_once(index);
        self.perform(index, out);
        self.settle(index);
    }

    fn step_once(&mut self, index: usize) -> Output {
        let (now, wall_ms) = (self.now, self.wall_ms(index));
        let replica = self.nodes[index].replica.as_mut().expect("it runs");
        let mut out = Output::default();
        replica.step(now, wall_ms, &mut out);
        assert!(replica.wake_at() > now, "something that is due is left");
        let mut again = Output::default();
        replica.step(now, wall_ms, &mut again);
        assert!(again.is_empty(), "something was left to do: {again:?}");
        out
    }

    /// The disk and the engine answer, unless they are held.
    pub(crate) fn settle(&mut self, index: usize) {
        loop {
            let node = &mut self.nodes[index];
            if !node.holds_sync && node.durable < node.records.len() {
                node.durable = node.records.len();
                let through = node.through;
                self.tell(index, Event::Durable(through));
            } else if !node.holds_engine && !node.engine.is_empty() {
                let stored = node.write_bulk();
                self.tell(index, Event::Stored(stored));
            } else {
                return;
            }
        }
    }

    fn tell(&mut self, index: usize, event: Event) {
        self.nodes[index].replica.as_mut().expect("it runs").offer(event);
        let out = self.step_once(index);
        self.perform(index, out);
    }

    fn perform(&mut self, index: usize, out: Output) {
        let node = &mut self.nodes[index];
        if !out.records.is_empty() {
            assert_eq!(out.through.0 - node.through.0, out.records.len() as u64, "a ticket a record");
            node.through = out.through;
        }
        node.records.extend(out.records);
        node.engine.extend(out.install.map(|bulk| (true, bulk)));
        node.engine.extend(out.bulk.map(|bulk| (false, bulk)));
        self.notes.extend(out.notes.iter().map(|(name, _)| *name));
        for (token, answer) in out.replies {
            assert!(self.answers.insert(token, answer).is_none(), "{token:?} is answered twice");
        }
        for outgoing in out.sends {
            assert_ne!(usize::from(outgoing.to.0), index, "nothing is sent to oneself");
            self.kept.iter_mut().for_each(|kept| kept.push((index, outgoing.clone())));
            let twice = self.rng.chance(self.repeats);
            for _ in 0..=usize::from(twice) {
                if !self.rng.chance(self.loss) {
                    let delay = Duration::from_micros(self.rng.between(500, if self.loss > 0 { 20_000 } else { 1_500 }));
                    self.sent += 1;
                    let packet = (ReplicaId(index as u8), outgoing.to, outgoing.bytes.clone());
                    self.packets.insert((self.now + delay, self.sent), packet);
                }
            }
        }
    }

    /// Lets time pass.
    pub(crate) fn run(&mut self, time: Duration) {
        let end = self.now + time;
        loop {
            let wakes = self.nodes.iter().filter_map(|node| node.replica.as_ref().map(Replica::wake_at));
            let packet = self.packets.first_key_value().map(|(&(due, _), _)| due);
            let Some(next) = wakes.chain(packet).min().filter(|&next| next <= end) else { break };
            self.now = self.now.max(next);
            while let Some(entry) = self.packets.first_entry().filter(|entry| entry.key().0 <= self.now) {
                let (from, to, bytes) = entry.remove();
                let to = usize::from(to.0);
                if to < self.nodes.len() && !self.cut.contains(&(usize::from(from.0), to)) {
                    self.offer(to, Event::Message { from, bytes });
                }
            }
            for index in 0..self.nodes.len() {
                if self.nodes[index].replica.as_ref().is_some_and(|replica| replica.wake_at() <= self.now) {
                    self.step(index);
                }
            }
        }
        self.now = end;
    }

    /// Mends all links.
    pub(crate) fn mend(&mut self) {
        self.cut.clear();
    }

    /// Cuts every link of a replica.
    pub(crate) fn isolate(&mut self, index: usize) {
        let others = (0..self.nodes.len()).filter(|&other| other != index);
        self.cut.extend(others.flat_map(|other| [(index, other), (other, index)]));
    }

    /// Whether all that run have executed the same and stand at the same state.
    pub(crate) fn agree(&self) -> bool {
        let state = |node: &Node| node.replica.as_ref().map(|replica| (replica.status().executed, replica.digest()));
        let states: Vec<_> = self.nodes.iter().filter_map(state).collect();
        states.windows(2).all(|pair| pair[0] == pair[1])
    }

    /// Mends everything and lets time pass until all agree.
    pub(crate) fn converge(&mut self) {
        (self.cut, self.loss, self.repeats) = (BTreeSet::new(), 0, 0);
        for index in 0..self.nodes.len() {
            if self.nodes[index].replica.is_none() {
                self.start(index);
            }
            (self.nodes[index].holds_sync, self.nodes[index].holds_engine) = (false, false);
            self.settle(index);
        }
        for _ in 0..300 {
            self.run(Duration::from_millis(100));
            let idle = |node: &Node| node.replica.as_ref().is_some_and(|replica| replica.status().unexecuted == 0);
            if self.agree() && self.nodes.iter().all(idle) {
                return;
            }
        }
        let status = |node: &Node| node.replica.as_ref().map(Replica::status);
        panic!("no agreement: {:#?}", self.nodes.iter().map(status).collect::<Vec<_>>());
    }

    /// Checks of one replica that it has executed so many commands of a key.
    pub(crate) fn count(&self, index: usize, key: u8) -> u64 {
        self.replica(index).machine().sums.get(&key).map_or(0, |&(count, _)| count)
    }
}

impl Node {
    pub(crate) fn write_bulk(&mut self) -> Frontier {
        let (whole, bulk) = self.engine.pop_front().expect("something to write");
        if whole {
            self.image.clear();
        }
        for Change { key, value } in bulk.changes {
            match value {
                Some(value) => drop(self.image.insert(key, value)),
                None => drop(self.image.remove(&key)),
            }
        }
        bulk.mark.frontier
    }
}
