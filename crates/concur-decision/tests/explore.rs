//! Every schedule of a small cluster: three voters, two or three commands that interfere, messages in any order or never, timers
//! at any time, crashes between any two effects, restarts from what was durable.
//!
//! A state is the voters' cores, what each has durably, what is in flight, and what was seen decided. Time does not pass: any
//! armed timer may fire, so often. Records are durable at the end of each step unless the replica crashes inside it; then any
//! prefix of them is, and the messages that waited for no more may have left. A message that is never delivered is a lost one.
//! Messages to oneself arrive at once, or in any order like the others.
//!
//! Checked in every state: nothing is decided differently, value or order, by anyone in any run; of two decided commands that
//! interfere at least one lists the other.
//!
//! Bounds are set so that the search ends; a search that is cut off says so. Random walks go where it does not.

use bytes::Bytes;
use concur_core::{
    Batch, BatchId, Boot, BootCount, Config, Context, Effect, Epoch, Footprint, GroupId, Input, Instance, Mark, Order, Protocol, ReplicaId,
    ReplicaSet, Rng, Seal, Ticket, Time, Value,
};
use concur_decision::epaxos::{EPaxos, Message};
use std::cell::OnceCell;
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::fmt;
use std::hash::{Hash, Hasher};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

/// What may happen, and how often.
#[derive(Debug, Clone)]
struct Bounds {
    voters: usize,
    /// What was proposed before, every message about it lost: rivals that one replica alone knows.
    rivals: Vec<(ReplicaId, Value)>,
    /// Who is asked to propose what.
    submits: Vec<(ReplicaId, Value)>,
    /// How many crashes in all.
    crashes: u8,
    /// How often timers fire at each replica.
    timers: Vec<u8>,
    /// Whether messages to oneself arrive at once.
    own_messages_first: bool,
    /// How many states are visited at most.
    states_max: usize,
}

struct Explorer<P: Protocol> {
    bounds: Bounds,
    /// Messages that are left out of the search: they only spread what is decided.
    irrelevant: fn(&P::Message) -> bool,
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
    durable: Vec<P::Record>,
    armed: BTreeSet<P::Timer>,
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
    fn new(bounds: Bounds, irrelevant: fn(&P::Message) -> bool) -> Self {
        Self { bounds, irrelevant, visited: HashSet::new(), decided_commands: 0, path: Vec::new(), cut_off: false }
    }

    fn start(&mut self) -> State<P> {
        let voters = self.bounds.voters;
        let nodes = (0..voters).map(|_| Rc::new(Node::dead(Vec::new()))).collect();
        let timers = self.bounds.timers.clone();
        let mut state =
            State { nodes, flying: Vec::new(), submitted: 0, crashes: self.bounds.crashes, timers, decided: Rc::new(BTreeMap::new()) };
        for id in 0..voters {
            state = self.restart(&state, ReplicaId(id as u8));
        }
        for (at, value) in self.bounds.rivals.clone() {
            state = self.step(state, at, Input::Submit(value)).swap_remove(0).0;
            state.flying.clear();
        }
        state
    }

    /// Visits everything that can follow.
    fn explore(&mut self, state: &State<P>) {
        if self.visited.len() >= self.bounds.states_max {
            self.cut_off = true;
            return;
        }
        if !self.visited.insert(state.key()) {
            return;
        }
        for action in state.actions(&self.bounds) {
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
            let actions = state.actions(&self.bounds);
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
                let (at, value) = self.bounds.submits[*index].clone();
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

    fn context(&self, me: ReplicaId) -> Context<P> {
        let config = Config {
            group: GroupId(1),
            epoch: Epoch(1),
            me,
            quorums: P::quorums(ReplicaSet::first(self.bounds.voters)),
            heartbeat: Duration::from_millis(2),
            election: Duration::from_millis(1), // No tick of patience: any suspicion may be wrong.
            window_max: 16,
            message_bytes_max: 1 << 20,
            retained_bytes_max: 1 << 20,
        };
        Context::new(Time(0), Rng::new(1), Arc::new(config))
    }

    fn restart(&mut self, state: &State<P>, at: ReplicaId) -> State<P> {
        let mut next = state.clone();
        let durable = state.node(at).durable.clone();
        let boot =
            Boot { records: durable.clone(), mark: Mark::start(Epoch(1)), first: None, fresh: durable.is_empty(), boot: BootCount(1) };
        let mut cx = self.context(at);
        let core = P::recover(boot, &mut cx).unwrap_or_else(|corrupt| panic!("{corrupt}"));
        let node = Node { core: Some(core), ..Node::dead(durable) };
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
                node.armed.remove(timer);
            }
            let mut cx = self.context(at);
            node.core.as_mut().expect("only the living step").step(input, &mut cx);
            let effects = cx.take_effects();
            let records = effects.iter().filter(|effect| matches!(effect, Effect::Persist(_))).count();
            if state.crashes > 0 {
                for kept in 0..records {
                    let mut torn = state.clone();
                    torn.crashes -= 1;
                    self.perform(&mut torn, at, node.clone(), effects.clone(), kept);
                    crashed.push((torn.crash(at), Some(Action::CrashInside(at, kept))));
                }
            }
            self.perform(&mut state, at, node, effects, records);
            if self.bounds.own_messages_first
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
        let (mut records, limit) = (0, Ticket(durable as u64));
        for effect in effects {
            match effect {
                Effect::Persist(record) => {
                    if records < durable {
                        node.durable.push(record);
                    }
                    records += 1;
                }
                Effect::Send { to, message, after } if after <= limit => self.launch(state, at, to, message),
                Effect::Solicit { message, after, .. } if after <= limit => {
                    self.launch(state, at, ReplicaSet::first(self.bounds.voters), message);
                }
                Effect::Arm { timer, .. } => drop(node.armed.replace(timer)),
                Effect::Disarm { timer } => drop(node.armed.take(&timer)),
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
        if (self.irrelevant)(&message) {
            return;
        }
        for to in to.iter() {
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
        self.nodes[usize::from(at.0)] = Rc::new(Node::dead(self.node(at).durable.clone()));
        self.flying.retain(|flying| flying.from != at || flying.to != at);
        self
    }

    fn key(&self) -> u64 {
        let nodes: Vec<u64> = self.nodes.iter().map(|node| node.hash()).collect();
        let flying: Vec<u64> = self.flying.iter().map(|flying| flying.hash).collect();
        hash_of(&(nodes, flying, self.submitted, self.crashes, &self.timers, &self.decided))
    }

    fn actions(&self, bounds: &Bounds) -> Vec<Action<P>> {
        let mut out = Vec::new();
        let lives = |id: ReplicaId| self.node(id).core.is_some();
        for (index, (at, _)) in bounds.submits.iter().enumerate() {
            if self.submitted & (1 << index) == 0 && lives(*at) {
                out.push(Action::Submit(index));
            }
        }
        out.extend(self.flying.iter().filter(|flying| lives(flying.to)).cloned().map(Action::Deliver));
        for id in (0..bounds.voters as u8).map(ReplicaId) {
            if !lives(id) {
                out.push(Action::Restart(id));
                continue;
            }
            if self.timers[usize::from(id.0)] > 0 {
                out.extend(self.node(id).armed.iter().map(|&timer| Action::Fire(id, timer)));
            }
            if self.crashes > 0 {
                out.push(Action::Crash(id));
            }
        }
        out
    }
}

impl<P: Protocol> Node<P> {
    fn dead(durable: Vec<P::Record>) -> Self {
        Self { core: None, durable, armed: BTreeSet::new(), hash: OnceCell::new() }
    }

    fn hash(&self) -> u64 {
        *self.hash.get_or_init(|| hash_of(&(&self.core, &self.durable, &self.armed)))
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

fn write(origin: u8, number: u64) -> (ReplicaId, Value) {
    let id = BatchId { origin: ReplicaId(origin), boot: BootCount(1), number };
    let footprint = Footprint::write(Bytes::from_static(b"k"));
    (ReplicaId(origin), Value::Batch(Batch { id, logged_ms: 0, footprint, commands: Bytes::new() }))
}

fn seal(origin: u8, number: u64) -> (ReplicaId, Value) {
    let id = BatchId { origin: ReplicaId(origin), boot: BootCount(1), number };
    (ReplicaId(origin), Value::Seal(Seal { id, body: Bytes::new() }))
}

/// How many states a search visits at most; walks are in proportion. Builds with debug assertions look at less, so that the tests
/// stay quick; `EXPLORE_STATES_MAX=20000000` and a night look at nearly everything.
fn budget() -> usize {
    let asked = std::env::var("EXPLORE_STATES_MAX").ok().and_then(|max| max.parse().ok());
    asked.unwrap_or(if cfg!(debug_assertions) { 8_000 } else { 200_000 })
}

/// What only spreads decisions one by one: losing it loses nothing.
fn gossip(message: &Message) -> bool {
    matches!(message, Message::Summary { .. } | Message::Ask { .. } | Message::Answer { .. })
}

/// And commits, all of which are lost: fewer states, so that more faults can be looked at to the end.
fn gossip_and_commits(message: &Message) -> bool {
    gossip(message) || matches!(message, Message::Commit { .. } | Message::Refused { .. })
}

fn check(name: &str, submits: Vec<(ReplicaId, Value)>, crashes: u8, timers: [u8; 3], irrelevant: fn(&Message) -> bool) {
    check_with(name, Vec::new(), submits, crashes, timers, irrelevant);
}

/// A rival at the first replica, so that the last one's command goes the slow way if the first one has a say in it.
fn check_against_rival(name: &str, crashes: u8, timers: [u8; 3]) {
    check_with(name, vec![write(0, 0)], vec![write(2, 0)], crashes, timers, gossip_and_commits);
}

fn check_with(
    name: &str,
    rivals: Vec<(ReplicaId, Value)>,
    submits: Vec<(ReplicaId, Value)>,
    crashes: u8,
    timers: [u8; 3],
    irrelevant: fn(&Message) -> bool,
) {
    let states_max = budget();
    let bounds = Bounds { voters: 3, rivals, submits, crashes, timers: timers.to_vec(), own_messages_first: true, states_max };
    let mut explorer: Explorer<EPaxos> = Explorer::new(bounds, irrelevant);
    let start = explorer.start();
    explorer.explore(&start);
    let end = if explorer.cut_off { "cut off" } else { "complete" };
    println!("{name}: {} states, {end}, {} commands seen decided", explorer.visited.len(), explorer.decided_commands);
    assert!(explorer.decided_commands > 0);
}

#[test]
fn two_commands() {
    check("two commands", vec![write(0, 0), write(1, 0)], 0, [0, 0, 0], gossip);
    check("two commands, a suspicion", vec![write(0, 0), write(1, 0)], 0, [0, 0, 1], gossip_and_commits);
}

#[test]
fn one_command_and_every_fault() {
    check("one command, all suspect", vec![write(0, 0)], 0, [1, 1, 1], gossip_and_commits);
    check("one command, two suspect, a crash", vec![write(0, 0)], 1, [0, 1, 1], gossip_and_commits);
}

#[test]
fn a_slow_path_and_two_suspicions() {
    check_against_rival("a rival, two suspect", 0, [1, 1, 0]);
    check_against_rival("a rival, one suspects, a crash", 1, [0, 1, 0]);
    check_against_rival("a rival, the coordinator crashes and goes on", 1, [0, 0, 2]);
}

#[test]
fn two_commands_a_crash_and_a_suspicion() {
    check("two commands, a crash, a suspicion", vec![write(0, 0), write(1, 0)], 1, [0, 0, 1], gossip_and_commits);
    check("two commands, a crash, its own suspicion", vec![write(0, 0), write(1, 0)], 1, [1, 0, 0], gossip_and_commits);
}

#[test]
fn three_commands() {
    check("three commands", vec![write(0, 0), write(1, 0), write(2, 0)], 0, [0, 0, 0], gossip_and_commits);
}

#[test]
fn a_seal_and_a_command() {
    check("a seal and a command", vec![seal(0, 0), write(1, 0)], 0, [0, 0, 0], gossip_and_commits);
    check("a seal and a command, a suspicion", vec![seal(0, 0), write(1, 0)], 0, [0, 0, 1], gossip_and_commits);
}

#[test]
fn walks() {
    let submits = vec![write(0, 0), write(1, 0), write(2, 0), write(0, 1), write(1, 1)];
    for own_messages_first in [false, true] {
        let submits = submits.clone();
        let bounds = Bounds { voters: 3, rivals: Vec::new(), submits, crashes: 2, timers: vec![4; 3], own_messages_first, states_max: 0 };
        walk(bounds, gossip, budget() / 40);
    }
    // Five, where a fast quorum is more than a slow one.
    let submits = vec![write(4, 0), write(1, 0)];
    let timers = vec![2, 0, 1, 0, 0];
    let bounds = Bounds { voters: 5, rivals: Vec::new(), submits, crashes: 1, timers, own_messages_first: true, states_max: 0 };
    walk(bounds, gossip_and_commits, budget() / 4);
    // A no-op voted for by one, the command by another, and a second command between them.
    let submits = vec![write(2, 0), write(1, 0)];
    let rivals = vec![write(0, 0)];
    let bounds = Bounds { voters: 3, rivals, submits, crashes: 0, timers: vec![1, 1, 0], own_messages_first: true, states_max: 0 };
    walk(bounds, gossip_and_commits, budget() / 4);
}

fn walk(bounds: Bounds, irrelevant: fn(&Message) -> bool, walks: usize) {
    let mut explorer: Explorer<EPaxos> = Explorer::new(bounds, irrelevant);
    let steps: usize = (0..walks).map(|seed| explorer.walk(seed as u64, 200)).sum();
    println!("{walks} walks of {} steps on average, {} commands seen decided", steps / walks, explorer.decided_commands);
}
