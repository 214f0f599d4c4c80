//! Every schedule of a small cluster: a few voters, two or three commands, messages in any order or never, timers at any time,
//! crashes between any two effects, restarts from what was durable.
//!
//! A state is the voters' cores, what each has durably, what is in flight, and what was seen decided. Records are durable at the end
//! of each step unless the replica crashes inside it; then any prefix of them is, and the messages that waited for no more may have
//! left. A message that is never delivered is a lost one. Messages to oneself arrive at once, or in any order like the others. Time
//! does not pass, and any armed timer may fire, so often; where a protocol looks at the clock, each replica's stands where the timer
//! that fired last was due.
//!
//! Checked in every state: nothing is decided differently, value or order, by anyone in any run; of two decided commands that
//! interfere in a graph at least one lists the other; whatever the protocol asserts itself.
//!
//! Bounds are set so that the search ends; a search that is cut off says so. Random walks go where it does not. That the search
//! would find a mistake is shown by disks that lie: records of one kind are not kept.

use bytes::Bytes;
use concur_core::{
    Batch, BatchId, Boot, BootCount, Config, Context, Effect, Epoch, Footprint, GroupId, Input, Instance, Mark, Order, Protocol, ReplicaId,
    ReplicaSet, Rng, Seal, Ticket, Time, Value,
};
use std::cell::OnceCell;
use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::hash::{Hash, Hasher};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

/// What may happen, and how often.
#[derive(Debug)]
pub(crate) struct Case<P: Protocol> {
    pub(crate) voters: usize,
    /// What was proposed before, every message about it lost: rivals that one replica alone knows.
    pub(crate) rivals: Vec<(ReplicaId, Value)>,
    /// Who is asked to propose what.
    pub(crate) submits: Vec<(ReplicaId, Value)>,
    /// How many crashes in all.
    pub(crate) crashes: u8,
    /// Who may crash.
    pub(crate) fragile: ReplicaSet,
    /// Pairs that cannot reach each other.
    pub(crate) cut: Vec<(u8, u8)>,
    /// How often timers fire at each replica; at those that are not listed, never.
    pub(crate) timers: Vec<u8>,
    /// Whether messages to oneself arrive at once.
    pub(crate) own_messages_first: bool,
    /// Who leads at first, for protocols that have a leader.
    pub(crate) first: Option<ReplicaId>,
    /// Whether the protocol looks at the clock.
    pub(crate) clocks: bool,
    /// Messages that are left out of the search: they only spread what is decided.
    pub(crate) irrelevant: fn(&P::Message) -> bool,
    /// Records that the disks lose.
    pub(crate) lost: fn(&P::Record) -> bool,
}

impl<P: Protocol> Default for Case<P> {
    fn default() -> Self {
        Self {
            voters: 3,
            rivals: Vec::new(),
            submits: Vec::new(),
            crashes: 0,
            fragile: ReplicaSet(u64::MAX),
            cut: Vec::new(),
            timers: Vec::new(),
            own_messages_first: true,
            first: None,
            clocks: false,
            irrelevant: |_| false,
            lost: |_| false,
        }
    }
}

impl<P: Protocol> Case<P> {
    /// Visits every state, or as many as the budget allows; true if that was all.
    pub(crate) fn check(self, name: &str) -> bool {
        self.check_within(name, budget())
    }

    /// Visits every state, or so many.
    pub(crate) fn check_within(self, name: &str, states_max: usize) -> bool {
        !self.search(name, states_max).cut_off
    }

    /// Visits every state, of which there are as many as `docs/exhaustive-search.md` says.
    pub(crate) fn ends(self, protocol: &str, name: &str) {
        let states = self.search(&format!("{protocol}: {name}"), usize::MAX).visited.len();
        let row = format!("| {protocol} | {name} | {states} |");
        let told = include_str!("../../../../docs/exhaustive-search.md").lines().any(|line| line == row);
        assert!(told, "docs/exhaustive-search.md should say: {row}");
    }

    fn search(self, name: &str, states_max: usize) -> Explorer<P> {
        let mut explorer = Explorer::new(self, states_max);
        let start = explorer.start();
        explorer.explore(&start);
        let end = if explorer.cut_off { "cut off" } else { "complete" };
        println!("{name}: {} states, {end}, {} commands seen decided", explorer.visited.len(), explorer.decided_commands);
        assert!(explorer.decided_commands > 0);
        explorer
    }

    /// Follows so many schedules that are drawn at random.
    pub(crate) fn walk(self, name: &str, walks: usize) {
        let mut explorer = Explorer::new(self, 0);
        let steps: usize = (0..walks).map(|seed| explorer.walk(seed as u64, 200)).sum();
        println!("{name}: {walks} walks of {} steps on average, {} commands seen decided", steps / walks, explorer.decided_commands);
    }
}

struct Explorer<P: Protocol> {
    case: Case<P>,
    states_max: usize,
    /// Any record: contexts count by it.
    record: Option<P::Record>,
    visited: HashSet<u64>,
    decided_commands: u64,
    path: Vec<Action<P>>,
    cut_off: bool,
}

#[derive(Clone)]
struct State<P: Protocol> {
    nodes: Vec<Rc<Node<P>>>,
    flying: Vec<Rc<Flying<P>>>,
    submitted: u8,
    crashes: u8,
    timers: Vec<u8>,
    decided: Rc<BTreeMap<Instance, (Value, P::Order)>>,
}

#[derive(Clone)]
struct Node<P: Protocol> {
    core: Option<P>,
    /// How often it has started.
    boots: u64,
    /// How many records it has persisted in this run.
    persisted: u64,
    durable: Vec<P::Record>,
    armed: BTreeMap<P::Timer, Time>,
    clock: Time,
    hash: OnceCell<u64>,
}

struct Flying<P: Protocol> {
    from: ReplicaId,
    to: ReplicaId,
    message: P::Message,
    hash: u64,
}

enum Action<P: Protocol> {
    Submit(usize),
    Deliver(Rc<Flying<P>>),
    Fire(ReplicaId, P::Timer),
    Crash(ReplicaId),
    Restart(ReplicaId),
    /// The step before ended in a crash, with so many of its records durable.
    CrashInside(ReplicaId, usize),
}

/// Multiplies and mixes word by word: quick, and good enough to tell millions of states apart.
#[derive(Default)]
struct Mixer(u64);

impl Hasher for Mixer {
    fn write(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.write_u64(u64::from_le_bytes(word));
        }
    }
    fn write_u8(&mut self, n: u8) {
        self.write_u64(u64::from(n));
    }
    fn write_u32(&mut self, n: u32) {
        self.write_u64(u64::from(n));
    }
    fn write_u64(&mut self, n: u64) {
        let wide = u128::from(self.0 ^ n ^ 0x9e37_79b9_7f4a_7c15) * 0xda94_2042_e4dd_58b5;
        self.0 = (wide as u64).rotate_left(23) ^ (wide >> 64) as u64;
    }
    fn write_usize(&mut self, n: usize) {
        self.write_u64(n as u64);
    }
    fn finish(&self) -> u64 {
        Rng::new(self.0).next_u64()
    }
}

fn hash_of(value: &impl Hash) -> u64 {
    let mut hasher = Mixer::default();
    value.hash(&mut hasher);
    hasher.finish()
}

impl<P: Protocol> Explorer<P> {
    fn new(case: Case<P>, states_max: usize) -> Self {
        Self { case, states_max, record: None, visited: HashSet::new(), decided_commands: 0, path: Vec::new(), cut_off: false }
    }

    fn start(&mut self) -> State<P> {
        let voters = self.case.voters;
        let nodes = (0..voters).map(|_| Rc::new(Node::dead(Vec::new(), 0))).collect();
        let mut timers = self.case.timers.clone();
        timers.resize(voters, 0);
        let mut state =
            State { nodes, flying: Vec::new(), submitted: 0, crashes: self.case.crashes, timers, decided: Rc::new(BTreeMap::new()) };
        for id in 0..voters {
            state = self.restart(&state, ReplicaId(id as u8));
        }
        for (at, value) in self.case.rivals.clone() {
            state = self.step(state, at, Input::Submit(value)).swap_remove(0).0;
            state.flying.clear();
        }
        state
    }

    /// Visits everything that can follow.
    fn explore(&mut self, state: &State<P>) {
        if self.visited.len() >= self.states_max {
            self.cut_off = true;
            return;
        }
        if !self.visited.insert(state.key()) {
            return;
        }
        for action in state.actions(&self.case) {
            self.path.push(action);
            for (next, inside) in self.act(state) {
                let crashed_inside = inside.is_some();
                self.path.extend(inside);
                self.explore(&next);
                if crashed_inside {
                    self.path.pop();
                }
            }
            self.path.pop();
        }
    }

    /// One schedule, drawn at random.
    fn walk(&mut self, seed: u64, steps: usize) -> usize {
        let mut rng = Rng::new(seed);
        let mut state = self.start();
        for step in 0..steps {
            let actions = state.actions(&self.case);
            if actions.is_empty() {
                self.path.clear();
                return step;
            }
            let pick = rng.below(actions.len() as u64) as usize;
            self.path.extend(actions.into_iter().nth(pick));
            let mut nexts = self.act(&state);
            // The first is without a crash inside.
            let crash = nexts.len() > 1 && rng.below(20) == 0;
            let pick = if crash { 1 + rng.below(nexts.len() as u64 - 1) as usize } else { 0 };
            let (next, inside) = nexts.swap_remove(pick);
            self.path.extend(inside);
            state = next;
        }
        self.path.clear();
        steps
    }

    /// Carries out the last action of the path: the state without a crash inside first, then those with one.
    fn act(&mut self, state: &State<P>) -> Vec<(State<P>, Option<Action<P>>)> {
        let mut next = state.clone();
        let (at, input) = match self.path.last().expect("an action is under way") {
            Action::Submit(index) => {
                next.submitted |= 1 << index;
                let (at, value) = self.case.submits[*index].clone();
                (at, Input::Submit(value))
            }
            Action::Deliver(flying) => {
                let place = next.flying.iter().position(|other| Rc::ptr_eq(other, flying)).expect("in flight");
                next.flying.remove(place);
                (flying.to, Input::Receive { from: flying.from, message: flying.message.clone() })
            }
            Action::Fire(at, timer) => {
                next.timers[usize::from(at.0)] -= 1;
                (*at, Input::Expired(*timer))
            }
            Action::Crash(at) => {
                next.crashes -= 1;
                return vec![(next.crash(*at), None)];
            }
            Action::Restart(at) => {
                let at = *at;
                return vec![(self.restart(&next, at), None)];
            }
            Action::CrashInside(..) => unreachable!("follows an action"),
        };
        self.step(next, at, input)
    }

    /// A context whose tickets go on from those of the run.
    fn context(&self, me: ReplicaId, now: Time, persisted: u64) -> Context<P> {
        let config = Config {
            group: GroupId(1),
            epoch: Epoch(1),
            me,
            quorums: P::quorums(ReplicaSet::first(self.case.voters)),
            heartbeat: Duration::from_millis(2),
            election: Duration::from_millis(1), // No tick of patience: any suspicion may be wrong.
            window_max: 16,
            message_bytes_max: 1 << 20,
            retained_bytes_max: 1 << 20,
        };
        let mut cx = Context::new(now, Rng::new(1), Arc::new(config));
        for _ in 0..persisted {
            cx.persist(self.record.clone().expect("something was persisted"));
        }
        cx.take_effects();
        cx
    }

    fn restart(&mut self, state: &State<P>, at: ReplicaId) -> State<P> {
        let mut next = state.clone();
        let Node { durable, boots, clock, .. } = state.node(at).clone();
        let (fresh, boots) = (boots == 0, boots + 1);
        let boot = Boot { records: durable.clone(), mark: Mark::start(Epoch(1)), first: self.case.first, fresh, boot: BootCount(boots) };
        let mut cx = self.context(at, clock, 0);
        let core = P::recover(boot, &mut cx).unwrap_or_else(|corrupt| panic!("{corrupt}"));
        let node = Node { core: Some(core), clock, ..Node::dead(durable, boots) };
        self.perform(&mut next, at, node, cx.take_effects(), usize::MAX);
        next
    }

    /// One step of one replica and, if they come first, the messages that it sends itself.
    fn step(&mut self, state: State<P>, at: ReplicaId, input: Input<P>) -> Vec<(State<P>, Option<Action<P>>)> {
        let mut crashed = Vec::new();
        let mut state = state;
        let mut inputs = vec![input];
        while let Some(input) = inputs.pop() {
            let mut node = state.node(at).clone();
            if let Input::Expired(timer) = &input {
                let due = node.armed.remove(timer).unwrap_or_default();
                node.clock = node.clock.max(due);
            }
            let mut cx = self.context(at, node.clock, node.persisted);
            node.core.as_mut().expect("only the living step").step(input, &mut cx);
            let effects = cx.take_effects();
            let records = effects.iter().filter(|effect| matches!(effect, Effect::Persist(_))).count();
            if state.crashes > 0 && self.case.fragile.contains(at) {
                for kept in 0..records {
                    let mut torn = state.clone();
                    torn.crashes -= 1;
                    self.perform(&mut torn, at, node.clone(), effects.clone(), kept);
                    crashed.push((torn.crash(at), Some(Action::CrashInside(at, kept))));
                }
            }
            self.perform(&mut state, at, node, effects, records);
            if self.case.own_messages_first
                && let Some(place) = state.flying.iter().position(|flying| flying.from == at && flying.to == at)
            {
                let flying = state.flying.remove(place);
                inputs.push(Input::Receive { from: at, message: flying.message.clone() });
            }
        }
        crashed.insert(0, (state, None));
        crashed
    }

    /// Carries out effects of which the first `durable` records are durable.
    fn perform(&mut self, state: &mut State<P>, at: ReplicaId, mut node: Node<P>, effects: Vec<Effect<P>>, durable: usize) {
        let (mut records, limit) = (0, Ticket(node.persisted.saturating_add(durable as u64)));
        for effect in effects {
            match effect {
                Effect::Persist(record) => {
                    node.persisted += 1;
                    self.record.get_or_insert_with(|| record.clone());
                    if records < durable && !(self.case.lost)(&record) {
                        node.durable.push(record);
                    }
                    records += 1;
                }
                Effect::Send { to, message, after } if after <= limit => self.launch(state, at, to, message),
                Effect::Solicit { message, after, .. } if after <= limit => {
                    self.launch(state, at, ReplicaSet::first(self.case.voters), message);
                }
                Effect::Arm { timer, due } => drop(node.armed.insert(timer, if self.case.clocks { due } else { Time(0) })),
                Effect::Disarm { timer } => drop(node.armed.remove(&timer)),
                // Execution and its answers wait for nothing more.
                Effect::Decide { run, value, order } => {
                    for number in run.first.number..run.first.number + run.count {
                        self.observe(state, Instance { number, ..run.first }, &value, &order);
                    }
                }
                _ => {}
            }
        }
        node.hash = OnceCell::new();
        state.nodes[usize::from(at.0)] = Rc::new(node);
    }

    fn launch(&self, state: &mut State<P>, from: ReplicaId, to: ReplicaSet, message: P::Message) {
        if (self.case.irrelevant)(&message) {
            return;
        }
        let is_cut = |to: ReplicaId| self.case.cut.iter().any(|&(a, b)| [(a, b), (b, a)].contains(&(from.0, to.0)));
        for to in to.iter().filter(|&to| !is_cut(to)) {
            let hash = hash_of(&(from, to, &message));
            if let Err(place) = state.flying.binary_search_by_key(&hash, |flying| flying.hash) {
                state.flying.insert(place, Rc::new(Flying { from, to, message: message.clone(), hash }));
            }
        }
    }

    fn observe(&mut self, state: &mut State<P>, instance: Instance, value: &Value, order: &P::Order) {
        if let Some(before) = state.decided.get(&instance) {
            assert!(before.0 == *value && before.1 == *order, "{instance} decided as {before:?} and as {value:?} {order:?}");
            return;
        }
        for (other, (theirs, their_order)) in &*state.decided {
            let (Some(ours), Some(theirs_deps)) = (order.dependencies(), their_order.dependencies()) else { continue };
            let lists = |deps: &[u64], of: &Instance| of.number < deps[usize::from(of.lane.0)];
            assert!(
                !value.interferes(theirs) || lists(ours, other) || lists(theirs_deps, &instance),
                "{instance} {order:?} and {other} {their_order:?} interfere and neither lists the other"
            );
        }
        self.decided_commands += u64::from(!value.is_noop());
        Rc::make_mut(&mut state.decided).insert(instance, (value.clone(), order.clone()));
    }
}

impl<P: Protocol> State<P> {
    fn node(&self, at: ReplicaId) -> &Node<P> {
        &self.nodes[usize::from(at.0)]
    }

    fn crash(mut self, at: ReplicaId) -> Self {
        self.nodes[usize::from(at.0)] = Rc::new(self.node(at).crashed());
        self.flying.retain(|flying| flying.from != at || flying.to != at);
        self
    }

    fn key(&self) -> u64 {
        let nodes: Vec<u64> = self.nodes.iter().map(|node| node.hash()).collect();
        let flying: Vec<u64> = self.flying.iter().map(|flying| flying.hash).collect();
        hash_of(&(nodes, flying, self.submitted, self.crashes, &self.timers, &self.decided))
    }

    fn actions(&self, case: &Case<P>) -> Vec<Action<P>> {
        let mut out = Vec::new();
        let lives = |id: ReplicaId| self.node(id).core.is_some();
        for (index, (at, _)) in case.submits.iter().enumerate() {
            if self.submitted & (1 << index) == 0 && lives(*at) {
                out.push(Action::Submit(index));
            }
        }
        out.extend(self.flying.iter().filter(|flying| lives(flying.to)).cloned().map(Action::Deliver));
        for id in (0..case.voters as u8).map(ReplicaId) {
            if !lives(id) {
                out.push(Action::Restart(id));
                continue;
            }
            if self.timers[usize::from(id.0)] > 0 {
                out.extend(self.node(id).armed.keys().map(|&timer| Action::Fire(id, timer)));
            }
            if self.crashes > 0 && case.fragile.contains(id) {
                out.push(Action::Crash(id));
            }
        }
        out
    }
}

impl<P: Protocol> Node<P> {
    fn dead(durable: Vec<P::Record>, boots: u64) -> Self {
        Self { core: None, boots, persisted: 0, durable, armed: BTreeMap::new(), clock: Time(0), hash: OnceCell::new() }
    }

    fn crashed(&self) -> Self {
        Self { clock: self.clock, ..Self::dead(self.durable.clone(), self.boots) }
    }

    fn hash(&self) -> u64 {
        *self.hash.get_or_init(|| hash_of(&(&self.core, self.boots, &self.durable, &self.armed, self.clock)))
    }
}

impl<P: Protocol> fmt::Debug for Action<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Submit(index) => write!(f, "submit {index}"),
            Self::Deliver(flying) => write!(f, "{} → {}  {:?}", flying.from, flying.to, flying.message),
            Self::Fire(at, timer) => write!(f, "{at} {timer:?}"),
            Self::Crash(at) => write!(f, "{at} crashes"),
            Self::Restart(at) => write!(f, "{at} restarts"),
            Self::CrashInside(at, kept) => write!(f, "{at} crashed inside that, {kept} of its records durable"),
        }
    }
}

impl<P: Protocol> Drop for Explorer<P> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the schedule that led there:");
            self.path.iter().for_each(|action| eprintln!("  {action:?}"));
        }
    }
}

/// A batch that writes one key, submitted at its origin.
pub(crate) fn write(origin: u8, number: u64) -> (ReplicaId, Value) {
    let id = BatchId { origin: ReplicaId(origin), boot: BootCount(1), number };
    let footprint = Footprint::write(Bytes::from_static(b"k"));
    (ReplicaId(origin), Value::Batch(Batch { id, logged_ms: 0, footprint, commands: Bytes::new() }))
}

/// A seal, submitted at its origin.
pub(crate) fn seal(origin: u8, number: u64) -> (ReplicaId, Value) {
    let id = BatchId { origin: ReplicaId(origin), boot: BootCount(1), number };
    (ReplicaId(origin), Value::Seal(Seal { id, body: Bytes::new() }))
}

/// How many states a search visits at most; walks are in proportion. Builds with debug assertions look at less, so that the tests
/// stay quick; `EXPLORE_STATES_MAX=20000000` and a night look at nearly everything.
pub(crate) fn budget() -> usize {
    let asked = std::env::var("EXPLORE_STATES_MAX").ok().and_then(|max| max.parse().ok());
    asked.unwrap_or(if cfg!(debug_assertions) { 8_000 } else { 200_000 })
}
