//! A small deterministic world for Fast Paxos' cores: messages in a bag, disks that lag, crashes that lose what was not durable, links
//! that are cut. It checks after every step that no two replicas decide differently, that nobody votes for two values at one
//! ballot, and that a read's frontier covers what had been decided when the read came. (Who coordinates a ballot is part of its name.)

use bytes::Bytes;
use concur_core::*;
use concur_decision::fastpaxos::{FastPaxos, Message, Record, Timer};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

pub(crate) const ELECTION: Duration = Duration::from_millis(400);
pub(crate) const HEARTBEAT: Duration = Duration::from_millis(100);

/// What the replicas of a world have in common.
#[derive(Debug, Clone)]
pub(crate) struct Setup {
    pub(crate) quorums: QuorumSystem,
    pub(crate) seed: u64,
    pub(crate) message_bytes_max: usize,
    pub(crate) retained_bytes_max: usize,
    pub(crate) window_max: usize,
}

impl Setup {
    pub(crate) fn of(voters: usize) -> Self {
        let quorums = QuorumSystem::majority(ReplicaSet::first(voters));
        Self { quorums, seed: 1, message_bytes_max: 1 << 20, retained_bytes_max: 1 << 20, window_max: 8 }
    }
}

pub(crate) struct World {
    pub(crate) setup: Setup,
    pub(crate) now: Time,
    pub(crate) nodes: Vec<Node>,
    /// On their way.
    pub(crate) wires: Vec<(ReplicaId, ReplicaId, Message)>,
    /// Links that are down, one way.
    pub(crate) cut: BTreeSet<(ReplicaId, ReplicaId)>,
    /// What was decided, by anybody, ever.
    pub(crate) chosen: BTreeMap<u64, Value>,
    /// What was voted for, durably, by whom.
    voted: BTreeMap<(usize, Ballot, u64), Value>,
    /// What each read must cover.
    pub(crate) demanded: BTreeMap<(ReplicaId, ReadId), u64>,
    pub(crate) notes: BTreeMap<&'static str, u64>,
    boots: u64,
}

pub(crate) struct Node {
    pub(crate) core: Option<FastPaxos>,
    cx: Context<FastPaxos>,
    pub(crate) timers: BTreeMap<Timer, Time>,
    /// Durable.
    pub(crate) stored: Vec<Record>,
    /// Persisted in this run, not durable yet.
    pub(crate) unsynced: Vec<Record>,
    durable: u64,
    held: Vec<(Ticket, ReplicaSet, Message)>,
    /// Whether everything is durable at once.
    pub(crate) quick_disk: bool,
    /// How many slots are executed, and how many of them durably.
    pub(crate) executed: u64,
    pub(crate) saved: u64,
    ahead: BTreeSet<u64>,
    pub(crate) fetches: Vec<(ReplicaId, u64)>,
    pub(crate) refused: Vec<(BatchId, Refusal)>,
    pub(crate) reads: Vec<(ReadId, u64)>,
}

pub(crate) fn r(n: usize) -> ReplicaId {
    ReplicaId(n as u8)
}

pub(crate) fn id(origin: usize, number: u64) -> BatchId {
    BatchId { origin: r(origin), boot: BootCount(1), number }
}

pub(crate) fn batch(origin: usize, number: u64) -> Value {
    let commands = Bytes::from_static(b"put");
    Value::Batch(Batch { id: id(origin, number), logged_ms: 0, footprint: Footprint::Everything, commands })
}

pub(crate) fn seal(origin: usize, number: u64) -> Value {
    Value::Seal(Seal { id: id(origin, number), body: Bytes::from_static(b"next") })
}

pub(crate) fn mark(executed: u64) -> Mark<()> {
    Mark { frontier: Frontier::slots(Epoch(0), executed), orders: vec![Some(())] }
}

impl World {
    /// Replicas that start from nothing.
    pub(crate) fn new(setup: Setup) -> Self {
        let nodes = (0..setup.quorums.voters.len()).map(|i| Node::new(&setup, i)).collect();
        let mut world = Self {
            setup,
            now: Time::from_millis(10_000),
            nodes,
            wires: Vec::new(),
            cut: BTreeSet::new(),
            chosen: BTreeMap::new(),
            voted: BTreeMap::new(),
            demanded: BTreeMap::new(),
            notes: BTreeMap::new(),
            boots: 0,
        };
        for i in 0..world.nodes.len() {
            world.start(i).expect("nothing contradicts itself");
        }
        world
    }

    /// Replicas with a coordinator, whose ballot is open where that can be, and who are at rest.
    pub(crate) fn led(setup: Setup) -> (Self, usize) {
        let mut world = Self::new(setup);
        world.run(3_000);
        assert!(world.nodes.iter().all(|node| node.timers.is_empty()), "at rest");
        let coordinator = world.coordinator().expect("somebody coordinates");
        (world, coordinator)
    }

    pub(crate) fn start(&mut self, i: usize) -> Result<(), Corrupt> {
        self.boots += 1;
        let config = config(&self.setup, i);
        let node = &mut self.nodes[i];
        let rng = Rng::new(self.setup.seed * 1_000_003 + self.boots);
        node.cx = Context::new(self.now, rng, Arc::new(config));
        let records = node.stored.clone();
        let boot = Boot { records, mark: mark(node.saved), first: None, fresh: false, boot: BootCount(self.boots) };
        node.executed = node.saved;
        node.core = Some(FastPaxos::recover(boot, &mut node.cx)?);
        self.take_effects(i);
        Ok(())
    }

    /// Stops a replica; `survive` of its records that were not known durable turn out to be.
    pub(crate) fn crash(&mut self, i: usize, survive: usize) {
        let node = &mut self.nodes[i];
        node.core = None;
        let survivors: Vec<Record> = node.unsynced.drain(..).take(survive).collect();
        node.stored.extend(survivors.iter().cloned());
        node.durable = 0;
        node.held.clear();
        node.timers.clear();
        node.ahead.clear();
        node.fetches.clear();
        survivors.iter().for_each(|record| self.note_vote(i, record));
    }

    /// A vote is durable: the only one of this replica in that slot at that ballot.
    fn note_vote(&mut self, i: usize, record: &Record) {
        if let Record::Voted { slot, ballot, value, .. } = record {
            let known = self.voted.entry((i, *ballot, *slot)).or_insert_with(|| value.clone());
            assert_eq!(known, value, "replica {i} votes twice at {ballot:?} in slot {slot}");
        }
    }

    pub(crate) fn input(&mut self, i: usize, input: Input<FastPaxos>) {
        if let Input::Read { id, .. } = &input {
            self.demanded.insert((r(i), *id), self.decided());
        }
        let node = &mut self.nodes[i];
        node.cx.now = self.now;
        let Some(core) = &mut node.core else { return };
        core.step(input, &mut node.cx);
        self.take_effects(i);
    }

    fn take_effects(&mut self, i: usize) {
        for effect in self.nodes[i].cx.take_effects() {
            let node = &mut self.nodes[i];
            match effect {
                Effect::Persist(record) => node.unsynced.push(record),
                Effect::Send { to, message, after } => node.held.push((after, to, message)),
                Effect::Solicit { .. } => unreachable!("every voter is sent to"),
                Effect::Arm { timer, due } => drop(node.timers.insert(timer, due)),
                Effect::Disarm { timer } => drop(node.timers.remove(&timer)),
                Effect::Decide { run, value, .. } => self.decide(i, run, value),
                Effect::ReadAt { id, frontier } => {
                    let demanded = self.demanded.remove(&(r(i), id)).expect("a read is answered once");
                    assert!(frontier.below(LaneId(0)) >= demanded, "read at {frontier:?}, but {demanded} had been decided");
                    node.reads.push((id, frontier.below(LaneId(0))));
                }
                Effect::Refuse { id, reason } => node.refused.push((id, reason)),
                Effect::RefuseRead { id, .. } => drop(self.demanded.remove(&(r(i), id)).expect("a read is answered once")),
                Effect::Fetch { from, frontier } => node.fetches.push((from, frontier.below(LaneId(0)))),
                Effect::Note { name, .. } => *self.notes.entry(name).or_default() += 1,
            }
        }
        self.release(i);
        if self.nodes[i].quick_disk {
            self.sync(i);
        }
    }

    fn decide(&mut self, i: usize, run: Run, value: Value) {
        let slot = run.first.number;
        let known = self.chosen.entry(slot).or_insert_with(|| value.clone());
        assert_eq!(*known, value, "replica {i} decides differently in slot {slot}");
        let node = &mut self.nodes[i];
        node.ahead.insert(slot);
        while node.ahead.remove(&node.executed) {
            node.executed += 1;
        }
    }

    /// Everything persisted becomes durable, and what waited for it leaves.
    pub(crate) fn sync(&mut self, i: usize) {
        let node = &mut self.nodes[i];
        node.durable += node.unsynced.len() as u64;
        let records = std::mem::take(&mut node.unsynced);
        node.stored.extend(records.iter().cloned());
        records.iter().for_each(|record| self.note_vote(i, record));
        self.release(i);
    }

    fn release(&mut self, i: usize) {
        let node = &mut self.nodes[i];
        let durable = Ticket(node.durable);
        for (after, to, message) in std::mem::take(&mut node.held) {
            if after <= durable {
                self.wires.extend(to.iter().map(|to| (r(i), to, message.clone())));
            } else {
                node.held.push((after, to, message));
            }
        }
    }

    pub(crate) fn deliver(&mut self, index: usize) {
        let (from, to, message) = self.wires.remove(index);
        if !self.cut.contains(&(from, to)) {
            self.input(usize::from(to.0), Input::Receive { from, message });
        }
    }

    /// Delivers what is on its way, in order, until nothing is; no time passes.
    pub(crate) fn settle(&mut self) {
        while !self.wires.is_empty() {
            self.deliver(0);
        }
    }

    /// Delivers, in order, what is not held back, until nothing else is on its way.
    pub(crate) fn settle_but(&mut self, held: impl Fn(ReplicaId, ReplicaId, &Message) -> bool) {
        while let Some(next) = self.wires.iter().position(|(from, to, message)| !held(*from, *to, message)) {
            self.deliver(next);
        }
    }

    /// Fires the timer that is due first, and moves the clock there; false if that is later than `until`.
    pub(crate) fn fire(&mut self, until: Time) -> bool {
        let armed = self.nodes.iter().enumerate().flat_map(|(i, node)| node.timers.iter().map(move |(&timer, &due)| (due, i, timer)));
        let Some((due, i, timer)) = armed.min().filter(|&(due, ..)| due <= until) else { return false };
        self.now = self.now.max(due);
        self.nodes[i].timers.remove(&timer);
        self.input(i, Input::Expired(timer));
        true
    }

    /// Lets time pass with links that are instant.
    pub(crate) fn run(&mut self, millis: u64) {
        let until = self.now + Duration::from_millis(millis);
        self.settle();
        while self.fire(until) {
            self.settle();
        }
        self.now = until;
    }

    /// Cuts every link between these and the others.
    pub(crate) fn isolate(&mut self, those: &[usize]) {
        for a in 0..self.nodes.len() {
            for b in 0..self.nodes.len() {
                if those.contains(&a) != those.contains(&b) {
                    self.cut.insert((r(a), r(b)));
                }
            }
        }
    }

    pub(crate) fn submit(&mut self, i: usize, number: u64) {
        self.input(i, Input::Submit(batch(i, number)));
    }

    pub(crate) fn read(&mut self, i: usize, number: u64) -> ReadId {
        let id = ReadId { boot: BootCount(i as u64), number };
        self.input(i, Input::Read { id, footprint: Footprint::Everything });
        id
    }

    /// Everything executed here is durable and may be forgotten; records are rewritten as a checkpoint, which is as good as all.
    pub(crate) fn compact(&mut self, i: usize) {
        self.sync(i);
        let node = &mut self.nodes[i];
        node.saved = node.executed;
        let floor = Frontier::slots(Epoch(0), node.saved);
        self.input(i, Input::Floor(floor));
        self.sync(i);
        let node = &mut self.nodes[i];
        let Some(core) = &node.core else { return };
        node.stored = core.checkpoint();
        let again = recover(&self.setup, i, node.stored.clone(), node.saved).expect("a checkpoint agrees with itself");
        assert_eq!(again.checkpoint(), node.stored);
    }

    /// Gives replica `i` the state that it asked for first, if whoever it asked has it.
    pub(crate) fn install(&mut self, i: usize) {
        if self.nodes[i].fetches.is_empty() || self.nodes[i].core.is_none() {
            return;
        }
        let (from, least) = self.nodes[i].fetches.remove(0);
        let theirs = &self.nodes[usize::from(from.0)];
        let state = theirs.executed;
        if theirs.core.is_some() && state >= least && state > self.nodes[i].executed {
            let node = &mut self.nodes[i];
            (node.executed, node.saved) = (state, state);
            node.ahead.retain(|&slot| slot >= state);
            while node.ahead.remove(&node.executed) {
                node.executed += 1;
            }
            self.input(i, Input::Installed(mark(state)));
        }
    }

    pub(crate) fn coordinator(&self) -> Option<usize> {
        let ballot = |i: usize| {
            self.nodes[i].core.as_ref().map(FastPaxos::inspect).filter(|seen| seen.role == "coordinator").map(|seen| seen.ballot)
        };
        (0..self.nodes.len()).filter(|&i| ballot(i).is_some()).max_by_key(|&i| ballot(i))
    }

    /// One past the last slot that was decided, by anybody.
    pub(crate) fn decided(&self) -> u64 {
        self.chosen.last_key_value().map_or(0, |(&slot, _)| slot + 1)
    }

    pub(crate) fn detail(&self, i: usize, name: &str) -> String {
        let details = self.nodes[i].core.as_ref().expect("running").inspect().details;
        details.into_iter().find(|(key, _)| *key == name).expect("a detail").1
    }

    pub(crate) fn ballot(&self, i: usize) -> u64 {
        self.nodes[i].core.as_ref().expect("running").inspect().ballot
    }

    pub(crate) fn noted(&self, name: &str) -> u64 {
        self.notes.get(name).copied().unwrap_or(0)
    }
}

impl Node {
    fn new(setup: &Setup, i: usize) -> Self {
        Self {
            core: None,
            cx: Context::new(Time(0), Rng::new(0), Arc::new(config(setup, i))),
            timers: BTreeMap::new(),
            stored: Vec::new(),
            unsynced: Vec::new(),
            durable: 0,
            held: Vec::new(),
            quick_disk: true,
            executed: 0,
            saved: 0,
            ahead: BTreeSet::new(),
            fetches: Vec::new(),
            refused: Vec::new(),
            reads: Vec::new(),
        }
    }
}

/// A core on its own, from these records and this executed state.
pub(crate) fn recover(setup: &Setup, i: usize, records: Vec<Record>, executed: u64) -> Result<FastPaxos, Corrupt> {
    let mut cx = Context::new(Time(0), Rng::new(0), Arc::new(config(setup, i)));
    FastPaxos::recover(Boot { records, mark: mark(executed), first: None, fresh: false, boot: BootCount(1) }, &mut cx)
}

fn config(setup: &Setup, i: usize) -> Config {
    Config {
        group: GroupId(1),
        epoch: Epoch(0),
        me: r(i),
        quorums: setup.quorums.clone(),
        heartbeat: HEARTBEAT,
        election: ELECTION,
        window_max: setup.window_max,
        message_bytes_max: setup.message_bytes_max,
        retained_bytes_max: setup.retained_bytes_max,
    }
}
