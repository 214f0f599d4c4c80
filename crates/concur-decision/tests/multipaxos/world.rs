//! A small deterministic world for Multi-Paxos's cores: messages in a bag, disks that lag, crashes that lose what was not durable, links
//! that are cut. It checks after every step that no two replicas decide differently, that a ballot has one leader, and that a read's
//! frontier covers what anybody had executed when the read came. It knows no transport and no bytes; the simulator has those.

use bytes::Bytes;
use concur_core::*;
use concur_decision::multipaxos::{Message, MultiPaxos, Record, Timer};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

pub(crate) const ELECTION: Duration = Duration::from_millis(1000);
pub(crate) const HEARTBEAT: Duration = Duration::from_millis(100);

/// What the replicas of a world have in common.
#[derive(Debug, Clone)]
pub(crate) struct Setup {
    pub(crate) voters: usize,
    pub(crate) seed: u64,
    pub(crate) message_bytes_max: usize,
    pub(crate) retained_bytes_max: usize,
    pub(crate) window_max: usize,
    pub(crate) first: Option<ReplicaId>,
    /// How many promise and how many vote, if not majorities.
    pub(crate) counts: Option<(usize, usize)>,
    /// Replicas that do not vote, behind the voters.
    pub(crate) observers: usize,
}

impl Setup {
    pub(crate) fn of(voters: usize) -> Self {
        Self {
            voters,
            seed: 1,
            message_bytes_max: 1 << 20,
            retained_bytes_max: 1 << 20,
            window_max: 8,
            first: None,
            counts: None,
            observers: 0,
        }
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
    /// What each read must cover.
    pub(crate) demanded: BTreeMap<(ReplicaId, ReadId), u64>,
    pub(crate) leaders: BTreeMap<u64, ReplicaId>,
    pub(crate) notes: BTreeMap<&'static str, u64>,
    /// The most that anybody has executed, ever.
    executed: u64,
    boots: u64,
}

pub(crate) struct Node {
    pub(crate) core: Option<MultiPaxos>,
    pub(crate) cx: Context<MultiPaxos>,
    pub(crate) timers: BTreeMap<Timer, Time>,
    /// Durable.
    pub(crate) stored: Vec<Record>,
    /// Persisted in this run, not durable yet.
    pub(crate) unsynced: Vec<Record>,
    /// How many records of this run are durable.
    durable: u64,
    held: Vec<(Ticket, ReplicaSet, Message)>,
    /// Whether everything is durable at once.
    pub(crate) quick_disk: bool,
    /// Executed, and how much of it is durable.
    pub(crate) state: u64,
    pub(crate) saved: u64,
    /// Decided, and not yet executed.
    ahead: BTreeSet<u64>,
    pub(crate) fetches: Vec<(ReplicaId, u64)>,
    pub(crate) refused: Vec<(BatchId, Refusal)>,
    pub(crate) reads: Vec<(ReadId, u64)>,
    pub(crate) refused_reads: Vec<(ReadId, Refusal)>,
}

pub(crate) fn r(n: usize) -> ReplicaId {
    ReplicaId(n as u8)
}

pub(crate) fn batch(origin: usize, number: u64) -> Value {
    let id = BatchId { origin: r(origin), boot: BootCount(1), number };
    Value::Batch(Batch { id, logged_ms: 0, footprint: Footprint::Everything, commands: Bytes::from_static(b"put") })
}

pub(crate) fn ballot(round: u64, owner: usize) -> Ballot {
    Ballot { round, owner: r(owner) }
}

/// What a replica has persisted that promised this ballot, and voted in these slots at these ballots for batches of these numbers.
pub(crate) fn records(promised: Ballot, votes: &[(u64, Ballot, u64)]) -> Vec<Record> {
    let mut votes = votes.to_vec();
    votes.sort_by_key(|&(_, ballot, _)| ballot);
    let each = votes.into_iter().flat_map(|(slot, ballot, number)| {
        [Record::Promised { ballot }, Record::Accepted { ballot, first: slot, values: vec![batch(0, number)] }]
    });
    each.chain([Record::Promised { ballot: promised }]).collect()
}

pub(crate) fn mark(executed: u64) -> Mark<()> {
    let orders = if executed == 0 { vec![] } else { vec![Some(())] };
    Mark { frontier: Frontier::slots(Epoch(0), executed), orders }
}

impl World {
    /// Replicas that start from nothing.
    pub(crate) fn new(setup: Setup) -> Self {
        let none = vec![Vec::new(); setup.voters + setup.observers];
        Self::from_records(setup, none)
    }

    /// Replicas that start from these records.
    pub(crate) fn from_records(setup: Setup, each: Vec<Vec<Record>>) -> Self {
        let nodes = each.into_iter().enumerate().map(|(i, stored)| Node::new(&setup, i, stored)).collect();
        let mut world = Self {
            setup,
            now: Time::from_millis(10_000),
            nodes,
            wires: Vec::new(),
            cut: BTreeSet::new(),
            chosen: BTreeMap::new(),
            demanded: BTreeMap::new(),
            leaders: BTreeMap::new(),
            notes: BTreeMap::new(),
            executed: 0,
            boots: 0,
        };
        for i in 0..world.nodes.len() {
            let fresh = world.nodes[i].stored.is_empty();
            world.start(i, fresh).expect("records that agree with themselves");
        }
        world
    }

    pub(crate) fn start(&mut self, i: usize, fresh: bool) -> Result<(), Corrupt> {
        self.boots += 1;
        let config = config(&self.setup, i);
        let node = &mut self.nodes[i];
        let rng = Rng::new(self.setup.seed * 1_000_003 + self.boots);
        node.cx = Context::new(self.now, rng, Arc::new(config));
        let records = node.stored.clone();
        let boot = Boot { records, mark: mark(node.saved), first: self.setup.first, fresh, boot: BootCount(self.boots) };
        node.core = Some(MultiPaxos::recover(boot, &mut node.cx)?);
        node.state = node.saved;
        self.take_effects(i);
        Ok(())
    }

    /// Stops a replica; `survive` of its records that were not known durable turn out to be.
    pub(crate) fn crash(&mut self, i: usize, survive: usize) {
        let node = &mut self.nodes[i];
        node.core = None;
        let survivors: Vec<Record> = node.unsynced.drain(..).take(survive).collect();
        node.stored.extend(survivors);
        node.durable = 0;
        node.held.clear();
        node.timers.clear();
        node.ahead.clear();
        node.fetches.clear();
    }

    pub(crate) fn input(&mut self, i: usize, input: Input<MultiPaxos>) {
        if let Input::Read { id, .. } = &input {
            self.demanded.insert((r(i), *id), self.executed);
        }
        let node = &mut self.nodes[i];
        node.cx.now = self.now;
        let Some(core) = &mut node.core else { return };
        core.step(input, &mut node.cx);
        let seen = core.inspect();
        if seen.role == "leader" {
            let known = *self.leaders.entry(seen.ballot).or_insert(r(i));
            assert_eq!(known, r(i), "two leaders at ballot {}", seen.ballot);
        }
        self.take_effects(i);
    }

    fn take_effects(&mut self, i: usize) {
        for effect in self.nodes[i].cx.take_effects() {
            let node = &mut self.nodes[i];
            match effect {
                Effect::Persist(record) => node.unsynced.push(record),
                Effect::Send { to, message, after } => node.held.push((after, to, message)),
                Effect::Solicit { .. } => unreachable!("every follower is sent to"),
                Effect::Arm { timer, due } => drop(node.timers.insert(timer, due)),
                Effect::Disarm { timer } => drop(node.timers.remove(&timer)),
                Effect::Decide { run, value, order: () } => self.decide(i, run, value),
                Effect::ReadAt { id, frontier } => {
                    let demanded = self.demanded.remove(&(r(i), id)).expect("a read is answered once");
                    assert!(frontier.below(LaneId(0)) >= demanded, "read at {frontier:?}, but {demanded} had been executed");
                    node.reads.push((id, frontier.below(LaneId(0))));
                }
                Effect::Refuse { id, reason } => node.refused.push((id, reason)),
                Effect::RefuseRead { id, reason } => {
                    self.demanded.remove(&(r(i), id)).expect("a read is answered once");
                    node.refused_reads.push((id, reason));
                }
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
        while node.ahead.remove(&node.state) {
            node.state += 1;
        }
        self.executed = self.executed.max(node.state);
    }

    /// Everything persisted becomes durable, and what waited for it leaves.
    pub(crate) fn sync(&mut self, i: usize) {
        let node = &mut self.nodes[i];
        node.durable += node.unsynced.len() as u64;
        let records = std::mem::take(&mut node.unsynced);
        node.stored.extend(records);
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

    /// Delivers in order until the next message is such a one; what comes from oneself goes first.
    pub(crate) fn settle_until(&mut self, stop: impl Fn(&Message) -> bool) {
        while let Some(next) = self.wires.iter().position(|(from, to, message)| from == to || !stop(message)) {
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

    /// Replica `i` loses patience, and nobody else does.
    pub(crate) fn campaign(&mut self, i: usize) {
        self.now = self.now + ELECTION * 3;
        self.input(i, Input::Expired(Timer::Election));
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

    /// Everything executed here is durable and may be forgotten; records are rewritten as a checkpoint.
    pub(crate) fn compact(&mut self, i: usize) {
        self.sync(i);
        let node = &mut self.nodes[i];
        node.saved = node.state;
        self.input(i, Input::Floor(Frontier::slots(Epoch(0), self.nodes[i].saved)));
        self.sync(i);
        let node = &mut self.nodes[i];
        let Some(core) = &node.core else { return };
        node.stored = core.checkpoint();
        let again = recover(&self.setup, i, node.stored.clone(), node.saved).expect("a checkpoint agrees with itself");
        assert_eq!(again.checkpoint(), node.stored);
    }

    /// Gives replica `i` the state that it asked for first, if whoever it asked has it.
    pub(crate) fn install(&mut self, i: usize) {
        if self.nodes[i].fetches.is_empty() {
            return;
        }
        let (from, length) = self.nodes[i].fetches.remove(0);
        let theirs = &self.nodes[usize::from(from.0)];
        let state = theirs.state;
        if theirs.core.is_some() && state >= length && state > self.nodes[i].state {
            self.nodes[i].state = state;
            self.nodes[i].saved = state;
            self.nodes[i].ahead.retain(|&slot| slot >= state);
            self.input(i, Input::Installed(mark(state)));
        }
    }

    pub(crate) fn leader(&self) -> Option<usize> {
        let ballot = |node: &Node| node.core.as_ref().map(MultiPaxos::inspect).filter(|seen| seen.role == "leader").map(|seen| seen.ballot);
        (0..self.nodes.len()).filter(|&i| ballot(&self.nodes[i]).is_some()).max_by_key(|&i| ballot(&self.nodes[i]))
    }

    /// How many instances were decided, by anybody.
    pub(crate) fn decided(&self) -> u64 {
        self.chosen.last_key_value().map_or(0, |(&slot, _)| slot + 1)
    }

    pub(crate) fn role(&self, i: usize) -> &'static str {
        self.nodes[i].core.as_ref().expect("running").inspect().role
    }

    pub(crate) fn ballot(&self, i: usize) -> u64 {
        self.nodes[i].core.as_ref().expect("running").inspect().ballot
    }

    /// What was decided, by the numbers of the batches; 0 is a no-op.
    pub(crate) fn numbers(&self) -> Vec<u64> {
        self.chosen.values().map(|value| value.id().map_or(0, |id| id.number)).collect()
    }

    pub(crate) fn noted(&self, name: &str) -> u64 {
        self.notes.get(name).copied().unwrap_or(0)
    }
}

impl Node {
    fn new(setup: &Setup, i: usize, stored: Vec<Record>) -> Self {
        Self {
            core: None,
            cx: Context::new(Time(0), Rng::new(0), Arc::new(config(setup, i))),
            timers: BTreeMap::new(),
            stored,
            unsynced: Vec::new(),
            durable: 0,
            held: Vec::new(),
            quick_disk: true,
            state: 0,
            saved: 0,
            ahead: BTreeSet::new(),
            fetches: Vec::new(),
            refused: Vec::new(),
            reads: Vec::new(),
            refused_reads: Vec::new(),
        }
    }
}

/// A core on its own, from these records and this executed state.
pub(crate) fn recover(setup: &Setup, i: usize, records: Vec<Record>, executed: u64) -> Result<MultiPaxos, Corrupt> {
    let mut cx = Context::new(Time(0), Rng::new(0), Arc::new(config(setup, i)));
    MultiPaxos::recover(Boot { records, mark: mark(executed), first: None, fresh: false, boot: BootCount(1) }, &mut cx)
}

fn config(setup: &Setup, i: usize) -> Config {
    let voters = ReplicaSet::first(setup.voters);
    let counted = |(prepare, accept)| QuorumSystem { voters, rule: QuorumRule::Counts { prepare, accept, fast: setup.voters } };
    let quorums = setup.counts.map_or(QuorumSystem::majority(voters), counted);
    Config {
        group: GroupId(1),
        epoch: Epoch(0),
        me: r(i),
        quorums,
        heartbeat: HEARTBEAT,
        election: ELECTION,
        window_max: setup.window_max,
        message_bytes_max: setup.message_bytes_max,
        retained_bytes_max: setup.retained_bytes_max,
    }
}
