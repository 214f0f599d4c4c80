//! A scenario as it is played: the real votes, links that hold what is sent, and disks that hold what is persisted.

use super::parse::{Claim, Links, Step, Who};
use bytes::Bytes;
use concur_core::{
    AnyBoot, AnyEffect, AnyInput, AnyProtocol, Batch, BatchId, BootCount, Config, Epoch, Footprint, GroupId, Health, Instance, Mark,
    Ordering, ReadId, ReplicaId, ReplicaSet, Rng, Seal, Start, Strategy, Ticket, Time, Value,
};
use concur_execution::Sequencer;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

const ELECTION: Duration = Duration::from_millis(400);
const HEARTBEAT: Duration = Duration::from_millis(100);
/// How long healing may take.
const PATIENCE: Duration = Duration::from_secs(60);
/// How often who is to lead wakes.
const ELECTIONS_MAX: usize = 60;
/// A conversation that does not end by then never does.
const MESSAGES_MAX: usize = 100_000;

/// From whom, and to whom.
type Link = (ReplicaId, ReplicaId);

/// Everybody, and everything on its way.
pub(super) struct Stage {
    strategy: Strategy,
    now: Time,
    actors: Vec<Actor>,
    /// What is on its way, each link in the order in which it was sent.
    links: BTreeMap<Link, VecDeque<Bytes>>,
    names: BTreeMap<String, Value>,
    /// What was decided anywhere, with its order.
    decided: BTreeMap<Instance, (Value, Bytes)>,
}

/// One replica's vote, its disk, and what it has said.
struct Actor {
    id: ReplicaId,
    config: Arc<Config>,
    core: Option<Box<dyn AnyProtocol>>,
    runs: u64,
    records: Vec<Bytes>,
    durable: usize,
    /// The first record of this run.
    base: usize,
    holds: bool,
    /// What waits for the disk.
    waiting: VecDeque<(Ticket, ReplicaSet, Bytes)>,
    decided: BTreeMap<Instance, (Value, Option<Vec<u64>>)>,
    noted: BTreeSet<&'static str>,
    refused: BTreeSet<BatchId>,
    submitted: BTreeMap<BatchId, Value>,
    reads: u64,
    granted: bool,
}

impl Stage {
    pub(super) fn new(strategy: Strategy, count: usize, message_bytes_max: usize) -> Result<Self, String> {
        if !(1..=9).contains(&count) {
            return Err("1 to 9 replicas can be played".into());
        }
        let voters = ReplicaSet::first(count);
        let config = |me: ReplicaId| Config {
            group: GroupId(0),
            epoch: Epoch(0),
            me,
            quorums: (strategy.quorums)(voters),
            heartbeat: HEARTBEAT,
            election: ELECTION,
            window_max: 64,
            message_bytes_max,
            retained_bytes_max: 1 << 20,
        };
        let actor = |me: ReplicaId| Actor {
            id: me,
            config: Arc::new(config(me)),
            core: None,
            runs: 0,
            records: Vec::new(),
            durable: 0,
            base: 0,
            holds: false,
            waiting: VecDeque::new(),
            decided: BTreeMap::new(),
            noted: BTreeSet::new(),
            refused: BTreeSet::new(),
            submitted: BTreeMap::new(),
            reads: 0,
            granted: false,
        };
        let actors = voters.iter().map(actor).collect();
        let mut stage =
            Self { strategy, now: Time(1_000_000_000), actors, links: BTreeMap::new(), names: BTreeMap::new(), decided: BTreeMap::new() };
        for id in voters.iter() {
            stage.restart(id)?;
        }
        Ok(stage)
    }

    pub(super) fn take(&mut self, step: Step) -> Result<(), String> {
        match step {
            Step::Strategy(_) | Step::MessageBytes(_) | Step::Replicas(_) => Err("it is said once, before everything else".into()),
            Step::Submit(who, name, keys) => {
                let mut footprint = if keys.is_empty() { Footprint::Everything } else { Footprint::NOTHING };
                keys.into_iter().for_each(|key| footprint.join(Footprint::write(Bytes::from(key))));
                self.submit(who, name, |id| Value::Batch(Batch { id, logged_ms: 0, footprint, commands: Bytes::new() }))
            }
            Step::Seal(who, name) => self.submit(who, name, |id| Value::Seal(Seal { id, body: Bytes::new() })),
            Step::Deliver(links) => self.deliver(&links),
            Step::Lose(links) => self.of_links(&links).map(|taken| assert!(!taken.is_empty())),
            Step::Repeat(links) => {
                for (link, message) in self.of_links(&links)? {
                    self.links.entry(link).or_default().extend([message.clone(), message]);
                }
                Ok(())
            }
            Step::Talk(who) => self.talk(self.set(who)),
            Step::Elect(who, by) => self.elect(who, self.set(by).with(who)),
            Step::Wake(who) => self.wake(who),
            Step::Run(groups, long) => {
                let groups: Vec<ReplicaSet> = groups.into_iter().map(|who| self.set(who)).collect();
                self.run(&groups, self.now + long)
            }
            Step::Hold(who) => self.actor(who).map(|actor| actor.holds = true),
            Step::Sync(who) => self.sync(who),
            Step::Crash(who) => self.crash(who),
            Step::Restart(who) => self.restart(who),
            Step::Hint(who, about, up) => self.input(who, AnyInput::Peer(about, if up { Health::Up } else { Health::Down })),
            Step::Want(who, instance) => self.input(who, AnyInput::Wanted(instance)),
            Step::Read(who) => {
                let actor = self.actor(who)?;
                (actor.reads, actor.granted) = (actor.reads + 1, false);
                let id = ReadId { boot: BootCount(actor.runs), number: actor.reads };
                self.input(who, AnyInput::Read { id, footprint: Footprint::Everything })
            }
            Step::Heal => self.heal(),
            Step::Expect(claim) => self.expect(&claim),
        }
    }

    fn set(&self, who: Who) -> ReplicaSet {
        match who {
            Who::All => ReplicaSet::first(self.actors.len()),
            Who::These(set) => set,
        }
    }

    fn actor(&mut self, id: ReplicaId) -> Result<&mut Actor, String> {
        self.actors.get_mut(usize::from(id.0)).ok_or_else(|| format!("there is no {id}"))
    }

    fn submit(&mut self, who: ReplicaId, name: String, make: impl FnOnce(BatchId) -> Value) -> Result<(), String> {
        let number = self.names.len() as u64;
        let value = match self.names.get(&name) {
            // The same batch again, perhaps by another replica.
            Some(value) => value.clone(),
            None => make(BatchId { origin: who, boot: BootCount(self.actor(who)?.runs), number }),
        };
        self.names.insert(name, value.clone());
        let id = value.id().expect("it was just named");
        self.actor(who)?.refused.remove(&id);
        self.actor(who)?.submitted.insert(id, value.clone());
        self.input(who, AnyInput::Submit(value))
    }

    fn input(&mut self, who: ReplicaId, input: AnyInput) -> Result<(), String> {
        let now = self.now;
        let actor = self.actor(who)?;
        let Some(core) = &mut actor.core else { return Err(format!("{who} is down")) };
        let mut effects = Vec::new();
        core.step(now, input, &mut effects);
        self.perform(who, effects)
    }

    /// Does what a vote asks for. What it persists is durable at once unless its disk is held.
    fn perform(&mut self, who: ReplicaId, effects: Vec<AnyEffect>) -> Result<(), String> {
        let voters = ReplicaSet::first(self.actors.len());
        for effect in effects {
            let actor = self.actor(who)?;
            match effect {
                AnyEffect::Persist(record) => actor.records.push(record),
                AnyEffect::Send { to, message, after, .. } => actor.waiting.push_back((after, to.intersection(voters), message)),
                AnyEffect::Solicit { message, after, .. } => actor.waiting.push_back((after, voters, message)),
                AnyEffect::Decide { run, value, order, dependencies } => {
                    for number in run.first.number..run.first.number + run.count {
                        let instance = Instance { number, ..run.first };
                        let new = (value.clone(), order.clone());
                        let known = self.decided.entry(instance).or_insert_with(|| new.clone());
                        if *known != new {
                            return Err(format!("{who} decides {:?} at {instance}, where {:?} is decided", new.0, known.0));
                        }
                        self.actor(who)?.decided.insert(instance, (value.clone(), dependencies.clone()));
                    }
                }
                AnyEffect::ReadAt { .. } => actor.granted = true,
                AnyEffect::Refuse { id, .. } => {
                    actor.refused.insert(id);
                }
                AnyEffect::Note { name, .. } => {
                    actor.noted.insert(name);
                }
                AnyEffect::Dropped { why } => return Err(format!("{who} drops what it cannot read: {why}")),
                AnyEffect::RefuseRead { .. } | AnyEffect::Fetch { .. } => {}
            }
        }
        if !self.actor(who)?.holds {
            self.sync(who)?;
        }
        self.release(who)
    }

    fn sync(&mut self, who: ReplicaId) -> Result<(), String> {
        let actor = self.actor(who)?;
        actor.durable = actor.records.len();
        self.release(who)
    }

    /// Sends what is durable enough. What it says to itself it hears at once.
    fn release(&mut self, who: ReplicaId) -> Result<(), String> {
        loop {
            let actor = self.actor(who)?;
            let durable = actor.durable.saturating_sub(actor.base) as u64;
            let Some(ready) = actor.waiting.iter().position(|(after, ..)| after.0 <= durable) else { return Ok(()) };
            let (_, to, message) = actor.waiting.remove(ready).expect("just found");
            for other in to.iter().filter(|&other| other != who) {
                self.links.entry((who, other)).or_default().push_back(message.clone());
            }
            if to.contains(who) && self.actor(who)?.core.is_some() {
                self.input(who, AnyInput::Receive { from: who, message })?;
            }
        }
    }

    fn kind(&self, message: &Bytes) -> String {
        (self.strategy.describe)(message)
    }

    /// Takes messages off their links.
    fn of_links(&mut self, links: &Links) -> Result<Vec<(Link, Bytes)>, String> {
        let (from, to) = (self.set(links.from), self.set(links.to));
        let describe = self.strategy.describe;
        let is = |message: &Bytes| links.kind.as_ref().is_none_or(|kind| is_of_kind(&describe(message), kind));
        let mut taken = Vec::new();
        for (&link, queue) in self.links.iter_mut().filter(|((a, b), _)| from.contains(*a) && to.contains(*b)) {
            let mut places: Vec<usize> = (0..queue.len()).filter(|&place| is(&queue[place])).collect();
            if links.last {
                places.drain(..places.len().saturating_sub(1));
            }
            for place in places.into_iter().rev() {
                taken.push((link, queue.remove(place).expect("just counted")));
            }
        }
        if taken.is_empty() {
            return Err(format!("nothing like that is on its way; there is {}", self.on_the_way()));
        }
        taken.reverse();
        Ok(taken)
    }

    fn on_the_way(&self) -> String {
        let each = self.links.iter().flat_map(|((from, to), queue)| queue.iter().map(move |message| (from, to, message)));
        let shown: Vec<String> = each.map(|(from, to, message)| format!("{from} > {to} {}", self.kind(message))).collect();
        if shown.is_empty() { "nothing at all".into() } else { shown.join("; ") }
    }

    fn deliver(&mut self, links: &Links) -> Result<(), String> {
        for ((from, to), message) in self.of_links(links)? {
            self.input(to, AnyInput::Receive { from, message })?;
        }
        Ok(())
    }

    fn talk(&mut self, among: ReplicaSet) -> Result<(), String> {
        for _ in 0..MESSAGES_MAX {
            let runs = |id: ReplicaId| self.actors.get(usize::from(id.0)).is_some_and(|actor| actor.core.is_some());
            let ready = |((from, to), queue): &(&Link, &VecDeque<Bytes>)| {
                among.contains(*from) && among.contains(*to) && runs(*to) && !queue.is_empty()
            };
            let Some((&(from, to), _)) = self.links.iter().find(ready) else { return Ok(()) };
            let message = self.links.get_mut(&(from, to)).and_then(VecDeque::pop_front).expect("just found");
            self.input(to, AnyInput::Receive { from, message })?;
        }
        Err("they talk without end".into())
    }

    fn leads(&self, who: ReplicaId) -> bool {
        self.actors[usize::from(who.0)].core.as_ref().is_some_and(|core| core.inspect().role == "leader")
    }

    fn elect(&mut self, who: ReplicaId, among: ReplicaSet) -> Result<(), String> {
        for _ in 0..ELECTIONS_MAX {
            self.wake(who)?;
            while !self.leads(who) {
                let with = |(from, to): &Link| (*from == who || *to == who) && among.contains(*from) && among.contains(*to);
                let Some((&(from, to), _)) = self.links.iter().find(|(link, queue)| with(link) && !queue.is_empty()) else { break };
                let message = self.links.get_mut(&(from, to)).and_then(VecDeque::pop_front).expect("just found");
                self.input(to, AnyInput::Receive { from, message })?;
            }
            if self.leads(who) {
                return Ok(());
            }
        }
        Err(format!("{who} is not elected"))
    }

    fn wake_at(&self, who: ReplicaId) -> Option<Time> {
        self.actors[usize::from(who.0)].core.as_ref()?.wake_at()
    }

    fn wake(&mut self, who: ReplicaId) -> Result<(), String> {
        self.actor(who)?;
        let at = self.wake_at(who).ok_or_else(|| format!("{who} waits for nothing"))?;
        self.now = self.now.max(at);
        self.input(who, AnyInput::Tick)
    }

    fn run(&mut self, groups: &[ReplicaSet], end: Time) -> Result<(), String> {
        groups.iter().try_for_each(|&group| self.talk(group))?;
        let all = groups.iter().fold(ReplicaSet::EMPTY, |all, &group| all.union(group));
        loop {
            let next = all.iter().filter_map(|id| self.wake_at(id).map(|at| (at, id))).min();
            let Some((at, who)) = next.filter(|(at, _)| *at <= end) else { break };
            self.now = self.now.max(at);
            self.input(who, AnyInput::Tick)?;
            groups.iter().filter(|group| group.contains(who)).try_for_each(|&group| self.talk(group))?;
        }
        self.now = self.now.max(end);
        Ok(())
    }

    fn crash(&mut self, who: ReplicaId) -> Result<(), String> {
        let actor = self.actor(who)?;
        if actor.core.take().is_none() {
            return Err(format!("{who} is down already"));
        }
        actor.records.truncate(actor.durable);
        actor.waiting.clear();
        // Nobody waits for what it was given.
        actor.submitted.clear();
        actor.holds = false;
        Ok(())
    }

    fn restart(&mut self, who: ReplicaId) -> Result<(), String> {
        let (strategy, now) = (self.strategy, self.now);
        let actor = self.actor(who)?;
        if actor.core.is_some() {
            return Err(format!("{who} runs"));
        }
        actor.runs += 1;
        actor.base = actor.records.len();
        let boot =
            AnyBoot { records: actor.records.clone(), mark: start(), first: None, fresh: actor.runs == 1, boot: BootCount(actor.runs) };
        let start = Start { now, rng: Rng::new(u64::from(who.0) << 32 | actor.runs), config: Arc::clone(&actor.config) };
        let mut effects = Vec::new();
        let core = (strategy.recover)(boot, start, &mut effects).map_err(|corrupt| format!("{who}: {corrupt}"))?;
        actor.core = Some(core);
        self.perform(who, effects)
    }

    fn heal(&mut self) -> Result<(), String> {
        let all = ReplicaSet::first(self.actors.len());
        for id in all.iter() {
            self.actor(id)?.holds = false;
            self.sync(id)?;
            if self.actor(id)?.core.is_none() {
                self.restart(id)?;
            }
        }
        let end = self.now + PATIENCE;
        while self.now < end {
            self.run(&[all], self.now + HEARTBEAT)?;
            let instances: Vec<Instance> = self.decided.keys().copied().collect();
            let settled = |actor: &Actor| {
                let done = |id: &BatchId| actor.refused.contains(id) || actor.decided.values().any(|(value, _)| value.id() == Some(*id));
                instances.iter().all(|instance| actor.decided.contains_key(instance)) && actor.submitted.keys().all(done)
            };
            if self.actors.iter().all(settled) {
                return Ok(());
            }
            // What execution waits for is asked for.
            for id in all.iter() {
                let lacks = |instance: &&Instance| !self.actors[usize::from(id.0)].decided.contains_key(instance);
                let Some(&instance) = instances.iter().find(lacks) else { continue };
                self.input(id, AnyInput::Wanted(instance))?;
            }
        }
        Err("not everybody has decided everything".into())
    }

    fn name_of(&self, value: &Value) -> String {
        let named = self.names.iter().find(|(_, known)| *known == value).map(|(name, _)| name.clone());
        named.unwrap_or_else(|| if value.is_noop() { "noop".into() } else { format!("{value:?}") })
    }

    fn expect(&self, claim: &Claim) -> Result<(), String> {
        match claim {
            Claim::Decided(who, names) => self.each(*who, |actor| {
                let decided: BTreeSet<String> = actor.named().map(|value| self.name_of(value)).collect();
                let wanted: BTreeSet<String> = names.iter().cloned().collect();
                (decided == wanted).then_some(()).ok_or_else(|| format!("has decided {decided:?}"))
            }),
            Claim::DecidedAt(who, name, instance) => self.each(*who, |actor| {
                let found = actor.decided.get(instance).map_or("nothing".to_owned(), |(value, _)| self.name_of(value));
                (found == *name).then_some(()).ok_or_else(|| format!("has decided {found} there"))
            }),
            Claim::Is(who, role) => self.each(*who, |actor| {
                let is = actor.core.as_ref().map_or("down", |core| core.inspect().role);
                (is == role).then_some(()).ok_or_else(|| format!("is {is}"))
            }),
            Claim::Noted(who, note, ever) => self.each(*who, |actor| {
                if !self.strategy.traits.transitions.contains(&note.as_str()) {
                    return Err(format!("`{note}` is no transition of this strategy"));
                }
                let has = actor.noted.contains(note.as_str());
                (has == *ever).then_some(()).ok_or_else(|| format!("has noted {:?}", actor.noted))
            }),
            Claim::Refused(who, name) => self.each(*who, |actor| {
                let id = self.names.get(name).and_then(Value::id).ok_or_else(|| format!("knows of no {name}"))?;
                actor.refused.contains(&id).then_some(()).ok_or_else(|| "has not refused it".into())
            }),
            Claim::Granted(who, wanted) => self
                .each(*who, |actor| (actor.granted == *wanted).then_some(()).ok_or_else(|| format!("was granted it: {}", actor.granted))),
            Claim::OnTheWay(links, wanted) => {
                let (from, to) = (self.set(links.from), self.set(links.to));
                let is = |message: &Bytes| links.kind.as_ref().is_none_or(|kind| is_of_kind(&self.kind(message), kind));
                let on_these = self.links.iter().filter(|((a, b), _)| from.contains(*a) && to.contains(*b));
                let there = on_these.flat_map(|(_, queue)| queue).any(is);
                (there == *wanted).then_some(()).ok_or_else(|| format!("on its way is {}", self.on_the_way()))
            }
            Claim::Before(first, second) => self.each(Who::All, |actor| {
                let order = actor.order(self.strategy.traits.order);
                let place = |name: &str| order.iter().position(|value| self.name_of(value) == name);
                match (place(first), place(second)) {
                    (Some(a), Some(b)) if a > b => Err(format!("executes {second} before {first}")),
                    _ => Ok(()),
                }
            }),
        }
    }

    fn each(&self, who: Who, claim: impl Fn(&Actor) -> Result<(), String>) -> Result<(), String> {
        for id in self.set(who).iter() {
            let actor = self.actors.get(usize::from(id.0)).ok_or_else(|| format!("there is no {id}"))?;
            claim(actor).map_err(|why| format!("{} {why}", actor.id))?;
        }
        Ok(())
    }
}

impl Actor {
    fn named(&self) -> impl Iterator<Item = &Value> {
        self.decided.values().map(|(value, _)| value).filter(|value| !value.is_noop())
    }

    /// What is decided here in the order of its execution, as far as that can go.
    fn order(&self, ordering: Ordering) -> Vec<Value> {
        let mut sequencer = Sequencer::new(ordering, &start());
        for (&instance, (value, dependencies)) in &self.decided {
            sequencer.decided(instance.into(), value.clone(), Bytes::new(), dependencies.clone());
        }
        std::iter::from_fn(|| sequencer.pop()).map(|next| next.value).collect()
    }
}

/// Nothing is executed.
fn start() -> Mark<Bytes> {
    Mark::start(Epoch(0))
}

/// A message is named by the first word of what it says of itself.
fn is_of_kind(said: &str, kind: &str) -> bool {
    said.strip_prefix(kind).is_some_and(|rest| rest.is_empty() || rest.starts_with([' ', '(', '{']))
}
