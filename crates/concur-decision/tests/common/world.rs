//! Replicas, their disks, and what is on its way between them.

use super::cast::{Cast, Setup, batch, config, r};
use concur_core::*;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

pub(crate) struct World<P: Cast> {
    pub(crate) setup: Setup,
    pub(crate) now: Time,
    pub(crate) nodes: Vec<Node<P>>,
    /// On their way.
    pub(crate) wires: Vec<(ReplicaId, ReplicaId, P::Message)>,
    /// Links that are down, one way.
    pub(crate) cut: BTreeSet<(ReplicaId, ReplicaId)>,
    /// What was decided, by anybody, ever.
    pub(crate) chosen: BTreeMap<u64, Value>,
    /// And how it is ordered.
    pub(crate) orders: BTreeMap<u64, P::Order>,
    /// The most that anybody has executed, ever.
    pub(crate) executed: u64,
    /// One past the last value that was executed where it came from, ever.
    pub(crate) acknowledged: u64,
    /// What each read must cover.
    pub(crate) demanded: BTreeMap<(ReplicaId, ReadId), u64>,
    pub(crate) notes: BTreeMap<&'static str, u64>,
    leaders: BTreeMap<u64, ReplicaId>,
    /// What was voted for, durably, by whom, in which slot and at which ballot.
    voted: BTreeMap<(usize, u64, Ballot), Value>,
    boots: u64,
}

pub(crate) struct Node<P: Cast> {
    /// Nothing while it is down.
    pub(crate) core: Option<P>,
    pub(crate) cx: Context<P>,
    pub(crate) timers: BTreeMap<P::Timer, Time>,
    /// Durable.
    pub(crate) stored: Vec<P::Record>,
    /// Persisted in this run, not durable yet.
    pub(crate) unsynced: Vec<P::Record>,
    /// How many records of this run are durable.
    durable: u64,
    /// What waits for them to be.
    held: Vec<(Ticket, ReplicaSet, P::Message)>,
    /// Whether everything is durable at once.
    pub(crate) quick_disk: bool,
    /// How many instances are executed, and the order of the last.
    pub(crate) executed: u64,
    last: Option<P::Order>,
    /// How much of it is durable.
    pub(crate) saved: Mark<P::Order>,
    /// Decided, and not yet executed.
    ahead: BTreeMap<u64, (Value, P::Order)>,
    pub(crate) fetches: Vec<(ReplicaId, u64)>,
    pub(crate) refused: Vec<(BatchId, Refusal)>,
    pub(crate) reads: Vec<(ReadId, u64)>,
    pub(crate) refused_reads: Vec<(ReadId, Refusal)>,
}

impl<P: Cast> World<P> {
    /// Replicas that start from nothing.
    pub(crate) fn new(setup: Setup) -> Self {
        let none = vec![Vec::new(); setup.replicas()];
        Self::from_records(setup, none)
    }

    /// Replicas that start from these records.
    pub(crate) fn from_records(setup: Setup, each: Vec<Vec<P::Record>>) -> Self {
        let nodes = each.into_iter().enumerate().map(|(i, stored)| Node::new(&setup, i, stored)).collect();
        let mut world = Self {
            setup,
            now: Time::from_millis(10_000),
            nodes,
            wires: Vec::new(),
            cut: BTreeSet::new(),
            chosen: BTreeMap::new(),
            orders: BTreeMap::new(),
            executed: 0,
            acknowledged: 0,
            demanded: BTreeMap::new(),
            notes: BTreeMap::new(),
            leaders: BTreeMap::new(),
            voted: BTreeMap::new(),
            boots: 0,
        };
        for i in 0..world.nodes.len() {
            let fresh = world.setup.fresh && world.nodes[i].stored.is_empty();
            world.boot(i, fresh).expect("records that agree with themselves");
        }
        world
    }

    /// Starts a replica again, from what is durable.
    pub(crate) fn start(&mut self, i: usize) -> Result<(), Corrupt> {
        self.boot(i, false)
    }

    fn boot(&mut self, i: usize, fresh: bool) -> Result<(), Corrupt> {
        self.boots += 1;
        let rng = Rng::new(self.setup.seed * 1_000_003 + self.boots);
        let node = &mut self.nodes[i];
        node.cx = Context::new(self.now, rng, Arc::new(config::<P>(&self.setup, i)));
        let (records, mark) = (node.stored.clone(), node.saved.clone());
        let boot = Boot { records, mark, first: self.setup.first, fresh, boot: BootCount(self.boots) };
        node.core = Some(P::recover(boot, &mut node.cx)?);
        node.executed = node.saved.frontier.below(LaneId(0));
        node.last = node.saved.order(LaneId(0)).cloned();
        self.take_effects(i);
        Ok(())
    }

    /// Stops a replica; `survive` of its records that were not known durable turn out to be.
    pub(crate) fn crash(&mut self, i: usize, survive: usize) {
        let node = &mut self.nodes[i];
        node.core = None;
        let survivors: Vec<P::Record> = node.unsynced.drain(..).take(survive).collect();
        node.durable = 0;
        node.held.clear();
        node.timers.clear();
        node.ahead.clear();
        node.fetches.clear();
        self.store(i, survivors);
        self.demanded.retain(|&(by, _), _| by != r(i));
        // Messages to oneself do not outlive the process.
        self.wires.retain(|(from, to, _)| (*from, *to) != (r(i), r(i)));
    }

    pub(crate) fn input(&mut self, i: usize, input: Input<P>) {
        if let Input::Read { id, .. } = &input
            && self.nodes[i].core.is_some()
        {
            self.demanded.insert((r(i), *id), P::demand(self));
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
                Effect::Persist(record) => node.unsynced.push(through_bytes(&record)),
                Effect::Send { to, message, after } => node.held.push((after, to, message)),
                Effect::Solicit { .. } => unreachable!("whoever is needed is sent to"),
                Effect::Arm { timer, due } => drop(node.timers.insert(timer, due)),
                Effect::Disarm { timer } => drop(node.timers.remove(&timer)),
                Effect::Decide { run, value, order } => self.decide(i, run, &value, &order),
                Effect::ReadAt { id, frontier } => self.answer_read(i, id, frontier.below(LaneId(0))),
                Effect::Refuse { id, reason } => node.refused.push((id, reason)),
                Effect::RefuseRead { id, reason } => {
                    self.demanded.remove(&(r(i), id)).expect("a read is answered once");
                    node.refused_reads.push((id, reason));
                }
                Effect::Fetch { from, frontier } => node.fetches.push((from, frontier.below(LaneId(0)))),
                Effect::Note { name, .. } => *self.notes.entry(name).or_default() += 1,
            }
        }
        if P::TRAITS.has_leader {
            self.check_leader(i);
        }
        self.release(i);
        if self.nodes[i].quick_disk {
            self.sync(i);
        }
    }

    fn decide(&mut self, i: usize, run: Run, value: &Value, order: &P::Order) {
        let seed = self.setup.seed;
        for slot in run.instances().map(|instance| instance.number) {
            let known = self.chosen.entry(slot).or_insert_with(|| value.clone());
            assert_eq!(known, value, "seed {seed}: replica {i} decides differently in slot {slot}");
            let known = self.orders.entry(slot).or_insert_with(|| order.clone());
            assert_eq!(known, order, "seed {seed}: replica {i} orders slot {slot} differently");
            if slot >= self.nodes[i].executed {
                self.nodes[i].ahead.insert(slot, (value.clone(), order.clone()));
            }
        }
        self.execute(i);
    }

    fn execute(&mut self, i: usize) {
        let node = &mut self.nodes[i];
        while let Some((value, order)) = node.ahead.remove(&node.executed) {
            node.executed += 1;
            node.last = Some(order);
            if value.id().is_some_and(|id| id.origin == r(i)) {
                self.acknowledged = self.acknowledged.max(node.executed);
            }
        }
        self.executed = self.executed.max(node.executed);
    }

    fn answer_read(&mut self, i: usize, id: ReadId, below: u64) {
        let demanded = self.demanded.remove(&(r(i), id)).expect("a read is answered once");
        assert!(below >= demanded, "seed {}: replica {i} reads at {below}, and must cover {demanded}", self.setup.seed);
        self.nodes[i].reads.push((id, below));
    }

    fn check_leader(&mut self, i: usize) {
        let seen = self.inspect(i);
        if seen.role == "leader" {
            let known = *self.leaders.entry(seen.ballot).or_insert(r(i));
            assert_eq!(known, r(i), "seed {}: two leaders at {}", self.setup.seed, seen.ballot);
        }
    }

    /// Everything persisted becomes durable, and what waited for it leaves.
    pub(crate) fn sync(&mut self, i: usize) {
        let node = &mut self.nodes[i];
        let records = std::mem::take(&mut node.unsynced);
        node.durable += records.len() as u64;
        self.store(i, records);
        self.release(i);
    }

    fn store(&mut self, i: usize, records: Vec<P::Record>) {
        for (slot, ballot, value) in records.iter().flat_map(P::votes) {
            let known = self.voted.entry((i, slot, ballot)).or_insert_with(|| value.clone());
            assert_eq!(*known, value, "seed {}: replica {i} votes twice in slot {slot} at {ballot:?}", self.setup.seed);
        }
        self.nodes[i].stored.extend(records);
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
        self.receive(from, to, &message);
    }

    /// A message arrives, unless its link is down.
    pub(crate) fn receive(&mut self, from: ReplicaId, to: ReplicaId, message: &P::Message) {
        if !self.cut.contains(&(from, to)) {
            self.input(usize::from(to.0), Input::Receive { from, message: through_bytes(message) });
        }
    }

    /// Delivers what is on its way, in order, until nothing is; no time passes.
    pub(crate) fn settle(&mut self) {
        self.settle_but(|_, _, _| false);
    }

    /// Delivers, in order, what is not held back, until nothing else is on its way.
    pub(crate) fn settle_but(&mut self, held: impl Fn(ReplicaId, ReplicaId, &P::Message) -> bool) {
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
        let pairs = (0..self.nodes.len()).flat_map(|a| (0..self.nodes.len()).map(move |b| (a, b)));
        self.cut.extend(pairs.filter(|(a, b)| those.contains(a) != those.contains(b)).map(|(a, b)| (r(a), r(b))));
    }

    pub(crate) fn submit(&mut self, i: usize, number: u64) {
        self.input(i, Input::Submit(batch(i, number)));
    }

    pub(crate) fn read(&mut self, i: usize, number: u64) -> ReadId {
        let id = ReadId { boot: BootCount(self.boots), number };
        self.input(i, Input::Read { id, footprint: Footprint::Everything });
        id
    }

    /// Everything executed here is durable and may be forgotten; records are rewritten as a checkpoint, which is as good as all.
    pub(crate) fn compact(&mut self, i: usize) {
        self.sync(i);
        let node = &mut self.nodes[i];
        node.saved = node.mark();
        let floor = node.saved.frontier.clone();
        self.input(i, Input::Floor(floor));
        self.sync(i);
        let node = &mut self.nodes[i];
        let Some(core) = &node.core else { return };
        node.stored = core.checkpoint();
        let again = |records: &[P::Record]| {
            let core = Self::recover(&self.setup, i, records.to_vec(), node.saved.clone());
            core.expect("a checkpoint agrees with itself").checkpoint()
        };
        let settled = if P::CHECKPOINT_SETTLES { again(&again(&node.stored)) } else { node.stored.clone() };
        assert_eq!(again(&settled), settled, "seed {}: replica {i}", self.setup.seed);
    }

    /// Gives replica `i` the state that it asked for first, if whoever it asked has it.
    pub(crate) fn install(&mut self, i: usize) {
        if self.nodes[i].fetches.is_empty() {
            return;
        }
        let (from, least) = self.nodes[i].fetches.remove(0);
        let theirs = &self.nodes[usize::from(from.0)];
        let (executed, state) = (theirs.executed, theirs.mark());
        if theirs.core.is_some() && executed >= least && executed > self.nodes[i].executed {
            let node = &mut self.nodes[i];
            node.executed = executed;
            node.last = state.order(LaneId(0)).cloned();
            node.saved = state.clone();
            node.ahead.retain(|&slot, _| slot >= executed);
            self.input(i, Input::Installed(state));
            self.execute(i);
        }
    }

    /// Who leads or coordinates, of those who believe so the one at the highest ballot.
    pub(crate) fn leader(&self) -> Option<usize> {
        let leads = |i: &usize| self.nodes[*i].core.is_some() && matches!(self.inspect(*i).role, "leader" | "coordinator");
        (0..self.nodes.len()).filter(leads).max_by_key(|&i| self.inspect(i).ballot)
    }

    /// One past the last instance that was decided, by anybody.
    pub(crate) fn decided(&self) -> u64 {
        self.chosen.last_key_value().map_or(0, |(&slot, _)| slot + 1)
    }

    /// What a replica says of itself.
    pub(crate) fn inspect(&self, i: usize) -> Inspection {
        self.nodes[i].core.as_ref().expect("running").inspect()
    }

    pub(crate) fn noted(&self, name: &str) -> u64 {
        self.notes.get(name).copied().unwrap_or(0)
    }

    /// Whether nothing will happen by itself.
    pub(crate) fn is_quiet(&self) -> bool {
        self.wires.is_empty() && self.nodes.iter().all(|node| node.timers.is_empty())
    }

    /// A core on its own, from these records and this executed state.
    pub(crate) fn recover(setup: &Setup, i: usize, records: Vec<P::Record>, mark: Mark<P::Order>) -> Result<P, Corrupt> {
        let mut cx = Context::new(Time(0), Rng::new(0), Arc::new(config::<P>(setup, i)));
        P::recover(Boot { records, mark, first: None, fresh: false, boot: BootCount(1) }, &mut cx)
    }
}

impl<P: Cast> Node<P> {
    fn new(setup: &Setup, i: usize, stored: Vec<P::Record>) -> Self {
        Self {
            core: None,
            cx: Context::new(Time(0), Rng::new(0), Arc::new(config::<P>(setup, i))),
            timers: BTreeMap::new(),
            stored,
            unsynced: Vec::new(),
            durable: 0,
            held: Vec::new(),
            quick_disk: true,
            executed: 0,
            last: None,
            saved: Mark::start(Epoch(0)),
            ahead: BTreeMap::new(),
            fetches: Vec::new(),
            refused: Vec::new(),
            reads: Vec::new(),
            refused_reads: Vec::new(),
        }
    }

    fn mark(&self) -> Mark<P::Order> {
        let orders = self.last.iter().cloned().map(Some).collect();
        Mark { frontier: Frontier::slots(Epoch(0), self.executed), orders }
    }
}

fn through_bytes<T: Wire>(written: &T) -> T {
    T::from_bytes(&written.to_bytes()).expect("what is written is read")
}
