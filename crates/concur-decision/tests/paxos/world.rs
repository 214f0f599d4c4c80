//! A small deterministic world for cores of classic Paxos: links that take a time each, disks that stall, crashes that lose what was
//! not durable. It checks that no two replicas decide differently. It knows no bytes, no state and no faults drawn at random; the
//! simulator has those.

use bytes::Bytes;
use concur_core::*;
use concur_decision::paxos::{Message, Paxos, Record, Timer};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

pub(crate) const ELECTION: Duration = Duration::from_millis(1000);
pub(crate) const HEARTBEAT: Duration = Duration::from_millis(100);

pub(crate) fn r(n: usize) -> ReplicaId {
    ReplicaId(n as u8)
}

pub(crate) fn ballot(round: u64, owner: usize) -> Ballot {
    Ballot { round, owner: r(owner) }
}

pub(crate) fn batch(origin: usize, number: u64) -> Value {
    let id = BatchId { origin: r(origin), boot: BootCount(1), number };
    Value::Batch(Batch { id, logged_ms: 0, footprint: Footprint::Everything, commands: Bytes::from_static(b"put") })
}

pub(crate) fn config(voters: usize, me: usize) -> Config {
    Config {
        group: GroupId(1),
        epoch: Epoch(0),
        me: r(me),
        quorums: Paxos::quorums(ReplicaSet::first(voters)),
        heartbeat: HEARTBEAT,
        election: ELECTION,
        window_max: 8,
        message_bytes_max: 1 << 20,
        retained_bytes_max: 1 << 20,
    }
}

pub(crate) fn boot(records: Vec<Record>, below: u64) -> Boot<Paxos> {
    let mark = Mark { frontier: Frontier::slots(Epoch(0), below), orders: Vec::new() };
    Boot { fresh: records.is_empty(), records, mark, first: None, boot: BootCount(1) }
}

/// One core by itself, and what it asks for.
pub(crate) struct Alone {
    pub(crate) core: Paxos,
    pub(crate) cx: Context<Paxos>,
}

impl Alone {
    pub(crate) fn new(config: Config, boot: Boot<Paxos>) -> Self {
        let mut cx = Context::new(Time::from_millis(1000), Rng::new(1), Arc::new(config));
        let core = Paxos::recover(boot, &mut cx).expect("sound records");
        cx.take_effects();
        Self { core, cx }
    }

    pub(crate) fn step(&mut self, input: Input<Paxos>) -> Vec<Effect<Paxos>> {
        self.core.step(input, &mut self.cx);
        self.cx.take_effects()
    }

    pub(crate) fn hear(&mut self, from: usize, message: Message) -> Vec<Effect<Paxos>> {
        self.step(Input::Receive { from: r(from), message })
    }

    /// What it sends when it hears something.
    pub(crate) fn answers(&mut self, from: usize, message: Message) -> Vec<Message> {
        sent(&self.hear(from, message))
    }
}

pub(crate) fn sent(effects: &[Effect<Paxos>]) -> Vec<Message> {
    let message = |effect: &Effect<Paxos>| match effect {
        Effect::Send { message, .. } | Effect::Solicit { message, .. } => Some(message.clone()),
        _ => None,
    };
    effects.iter().filter_map(message).collect()
}

pub(crate) struct World {
    pub(crate) now: Time,
    pub(crate) nodes: Vec<Node>,
    wires: BTreeMap<(Time, u64), (ReplicaId, ReplicaId, Message)>,
    sent: u64,
    /// How long a message takes.
    pub(crate) delay: fn(ReplicaId, ReplicaId) -> Duration,
    /// Who cannot be reached.
    pub(crate) cut: BTreeSet<ReplicaId>,
    pub(crate) chosen: BTreeMap<u64, Value>,
    pub(crate) notes: BTreeMap<&'static str, u64>,
}

pub(crate) struct Node {
    pub(crate) core: Option<Paxos>,
    cx: Context<Paxos>,
    pub(crate) timers: BTreeMap<Timer, Time>,
    /// Everything persisted; the first so many are durable.
    pub(crate) records: Vec<Record>,
    durable: usize,
    /// How many records earlier runs left.
    before: usize,
    pub(crate) stalled: bool,
    held: Vec<(usize, ReplicaSet, Message)>,
    pub(crate) decided: BTreeMap<u64, (Value, Time)>,
    pub(crate) refused: Vec<(BatchId, Refusal)>,
    pub(crate) reads: Vec<(ReadId, Frontier)>,
}

impl World {
    pub(crate) fn new(voters: usize) -> Self {
        let node = |me| Node {
            core: None,
            cx: Context::new(Time(0), Rng::new(me as u64), Arc::new(config(voters, me))),
            timers: BTreeMap::new(),
            records: Vec::new(),
            durable: 0,
            before: 0,
            stalled: false,
            held: Vec::new(),
            decided: BTreeMap::new(),
            refused: Vec::new(),
            reads: Vec::new(),
        };
        let mut world = Self {
            now: Time::from_millis(10_000),
            nodes: (0..voters).map(node).collect(),
            wires: BTreeMap::new(),
            sent: 0,
            delay: |_, _| Duration::from_millis(1),
            cut: BTreeSet::new(),
            chosen: BTreeMap::new(),
            notes: BTreeMap::new(),
        };
        (0..voters).for_each(|i| world.restart(i));
        world
    }

    pub(crate) fn crash(&mut self, i: usize) {
        let node = &mut self.nodes[i];
        node.core = None;
        node.timers.clear();
        node.held.clear();
        node.records.truncate(node.durable);
        self.wires.retain(|_, (from, to, _)| *from != r(i) || *to != r(i));
    }

    pub(crate) fn restart(&mut self, i: usize) {
        let node = &mut self.nodes[i];
        node.before = node.records.len();
        node.cx = Context::new(self.now, Rng::new(self.sent), node.cx.config.clone());
        node.core = Some(Paxos::recover(boot(node.records.clone(), 0), &mut node.cx).expect("sound records"));
        self.perform(i);
    }

    pub(crate) fn step(&mut self, i: usize, input: Input<Paxos>) {
        let node = &mut self.nodes[i];
        let Some(core) = &mut node.core else { return };
        node.cx.now = self.now;
        core.step(input, &mut node.cx);
        self.perform(i);
    }

    pub(crate) fn submit(&mut self, i: usize, number: u64) {
        self.step(i, Input::Submit(batch(i, number)));
    }

    fn perform(&mut self, i: usize) {
        let effects = self.nodes[i].cx.take_effects();
        let voters = self.nodes[i].cx.config.voters();
        for effect in effects {
            let node = &mut self.nodes[i];
            match effect {
                Effect::Persist(record) => {
                    node.records.push(record);
                    node.durable = if node.stalled { node.durable } else { node.records.len() };
                }
                Effect::Send { to, message, after } => self.hold(i, after, to, message),
                Effect::Solicit { message, after, .. } => self.hold(i, after, voters, message),
                Effect::Arm { timer, due } => drop(node.timers.insert(timer, due)),
                Effect::Disarm { timer } => drop(node.timers.remove(&timer)),
                Effect::Decide { run, value, .. } => {
                    for slot in run.first.number..run.first.number + run.count {
                        assert_eq!(*self.chosen.entry(slot).or_insert_with(|| value.clone()), value, "slot {slot}");
                        node.decided.entry(slot).or_insert((value.clone(), self.now));
                    }
                }
                Effect::ReadAt { id, frontier } => node.reads.push((id, frontier)),
                Effect::Refuse { id, reason } => node.refused.push((id, reason)),
                Effect::Note { name, .. } => *self.notes.entry(name).or_default() += 1,
                Effect::RefuseRead { .. } | Effect::Fetch { .. } => {}
            }
        }
    }

    fn hold(&mut self, i: usize, after: Ticket, to: ReplicaSet, message: Message) {
        let node = &mut self.nodes[i];
        let after = if after == Ticket(0) { 0 } else { node.before + after.0 as usize };
        if after > node.durable {
            return node.held.push((after, to, message));
        }
        for to in to.iter() {
            let takes = if to == r(i) { Duration::ZERO } else { (self.delay)(r(i), to) };
            self.sent += 1;
            self.wires.insert((self.now + takes, self.sent), (r(i), to, message.clone()));
        }
    }

    /// A stalled disk goes on.
    pub(crate) fn sync(&mut self, i: usize) {
        let node = &mut self.nodes[i];
        (node.stalled, node.durable) = (false, node.records.len());
        for (_, to, message) in std::mem::take(&mut node.held) {
            self.hold(i, Ticket(0), to, message);
        }
    }

    /// Lets so much time pass.
    pub(crate) fn run(&mut self, time: Duration) {
        let end = self.now + time;
        loop {
            let wire = self.wires.first_key_value().map(|(&(at, _), _)| at);
            let timers = self.nodes.iter().enumerate().flat_map(|(i, node)| node.timers.iter().map(move |(&timer, &at)| (at, i, timer)));
            let timer = timers.min();
            let next = wire.into_iter().chain(timer.map(|(at, ..)| at)).min();
            let Some(next) = next.filter(|&at| at <= end) else { break };
            self.now = self.now.max(next);
            if wire == Some(next) {
                let (_, (from, to, message)) = self.wires.pop_first().expect("looked at above");
                if from == to || !(self.cut.contains(&from) || self.cut.contains(&to)) {
                    self.step(usize::from(to.0), Input::Receive { from, message });
                }
            } else if let Some((_, i, timer)) = timer {
                self.nodes[i].timers.remove(&timer);
                self.step(i, Input::Expired(timer));
            }
        }
        self.now = end;
    }

    /// How often a batch was decided.
    pub(crate) fn times_decided(&self, value: &Value) -> usize {
        self.chosen.values().filter(|chosen| *chosen == value).count()
    }
}
