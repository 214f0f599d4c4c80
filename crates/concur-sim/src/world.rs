//! The world: virtual time, and everything that happens in it, in one order.
//!
//! Whatever happens next is the earliest entry of one queue, ties in the order in which they were put there; so a run is a function
//! of its [`Schedule`] alone, and [`Outcome::fingerprint`], a hash over everything that happened, says so. How nodes are driven
//! stands in [`drive`](crate::drive), what goes wrong in [`trouble`](crate::trouble), what clients do in
//! [`clients`](crate::clients).
//!
//! A run goes on while faults strike, then everything is healed, and every client must make progress within a bounded number of
//! election timeouts, finish, and find all replicas equal.

use crate::chase::{Chase, Strike};
use crate::clients::{Client, Sent};
use crate::coverage::SIZES_CHOSEN;
use crate::examination::Kept;
use crate::history;
use crate::ledger::{Ledger, Violation};
use crate::network::Links;
use crate::node::{Asker, Life, Node};
use crate::operator::Operator;
use crate::roster::{Roster, first_life};
use crate::schedule::Schedule;
use crate::steady::Steady;
use crate::trace::Trace;
use crate::trouble::Struck;
use crate::watching::Watcher;
use crate::witness::{Notes, mix, mix_u64};
use bytes::Bytes;
use concur_core::{BatchId, Health, ReplicaId, ReplicaSet, Rng, Time};
use concur_peers::Role;
use concur_replica::{Output, Refused, Reply};
use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use std::time::Duration;

/// How a run ended.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// What was broken, if something was.
    pub verdict: Verdict,
    /// A hash over everything that happened.
    pub fingerprint: u64,
    /// What was met: faults that struck, transitions that were passed.
    pub met: BTreeSet<&'static str>,
    /// Operations that were completed.
    pub completed: u64,
    /// Things that happened.
    pub events: u64,
    /// How long it took in virtual time.
    pub lasted: Duration,
}

/// What a run shows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Every promise was kept.
    Valid,
    /// One was broken.
    Violated(Violation),
    /// A checker ran out of budget.
    Unknown(String),
}

/// After how many things a run is given up as one that never ends.
const EVENTS_MAX: u64 = 3_000_000;

/// In how many election timeouts a client must make progress, and the replicas must agree, once everything is healed.
const ELECTIONS_MAX: u32 = 40;

pub(crate) struct World<'a> {
    pub(crate) schedule: &'a Schedule,
    pub(crate) now: Time,
    queue: BinaryHeap<Entry>,
    order: u64,
    /// What is going to happen, by the queue's numbers, and numbers that are free.
    things: Vec<Option<Thing>>,
    free: Vec<u32>,
    pub(crate) rng: Rng,
    pub(crate) nodes: Vec<Node>,
    pub(crate) roster: Roster,
    pub(crate) operator: Operator,
    pub(crate) links: Links,
    /// Whom each episode that has begun strikes.
    pub(crate) struck: Vec<Option<Struck>>,
    pub(crate) clients: Vec<Client>,
    pub(crate) ledger: Ledger,
    pub(crate) watcher: Watcher,
    pub(crate) met: BTreeSet<&'static str>,
    pub(crate) trace: Option<Trace>,
    pub(crate) healed: bool,
    /// Messages that wait for restarts arrive until then.
    pub(crate) late_until: Time,
    pub(crate) chase: Chase,
    /// Which machines are cut off by each episode of lost disks that is aimed.
    pub(crate) turns: BTreeMap<usize, ReplicaSet>,
    pub(crate) steady: Option<Steady>,
    /// What protocols kept, whenever the world looked, if it is asked for.
    pub(crate) kept: Option<Vec<Kept>>,
    /// When the replica that made a batch knew it decided, in the order of time, if it is asked for.
    pub(crate) commits: Option<Vec<(Time, BatchId)>>,
    /// Things that came for a node while it was paused.
    held: Vec<(usize, Thing)>,
    pub(crate) out: Output,
    pub(crate) notes: Notes,
    fingerprint: u64,
    events: u64,
    finished_at: Option<Time>,
    done: bool,
}

/// When something happens, and where it is kept until then.
struct Entry {
    at: Time,
    order: u64,
    thing: u32,
}

/// Something that happens.
#[derive(Debug, Clone)]
pub(crate) enum Thing {
    /// A message arrives.
    Arrive { node: usize, letter: Letter },
    /// A process has the processor again.
    Step { node: usize, boot: u64 },
    /// A timer may be due.
    Wake { node: usize, boot: u64 },
    /// A sync returns.
    Synced { node: usize, boot: u64 },
    /// A log that was full is tried again.
    Rewrite { node: usize, boot: u64 },
    /// The engine finished a job.
    Stored { node: usize, boot: u64 },
    /// A client's request arrives.
    Request { node: usize, sent: Box<Sent> },
    /// A reply arrives at a client, or at the operator.
    Reply { to: Asker, attempt: u32, result: Result<Reply, Refused> },
    /// A client gave up waiting.
    Timeout { client: usize, attempt: u32 },
    /// The operator did.
    Lapse { slot: usize, attempt: u32 },
    /// The operator turns to a wish.
    Wish { slot: usize },
    /// The operator looks after the members.
    Care,
    /// A machine that came in is started for the first time.
    Enlist { node: usize, id: ReplicaId },
    /// A machine that was removed is stopped for good.
    Retire { node: usize, id: ReplicaId },
    /// A machine whose disk is lost begins another life.
    Reborn { node: usize },
    /// A node that was seen at something delicate loses power, if it still runs.
    Blow { node: usize, boot: u64 },
    /// A client goes on.
    Act { client: usize },
    /// An episode begins.
    Begin(usize),
    /// It strikes again.
    Again(usize),
    /// It ends.
    End(usize),
    /// A node that is chased is struck.
    Chase { node: usize, strike: Strike },
    /// It is not cut off any longer.
    Unchase { strike: u64 },
    /// A node is started if it is down.
    Restart { node: usize },
    /// A process that was asked to stop ends.
    Exit { node: usize, boot: u64 },
    /// A connection tells something of a peer.
    Hint { node: usize, about: usize, health: Health },
    /// Everything is healed.
    Heal,
    /// The world looks around.
    Look,
}

/// A message on its way.
#[derive(Debug, Clone)]
pub(crate) struct Letter {
    /// The numbers of both in the group.
    pub(crate) to: ReplicaId,
    pub(crate) from: ReplicaId,
    /// The machine that sent it, and in which life.
    pub(crate) sender: usize,
    pub(crate) life: Life,
    /// Its program was of another version.
    pub(crate) foreign: bool,
    pub(crate) bytes: Bytes,
    /// It arrives whatever the link does.
    pub(crate) stale: bool,
}

impl<'a> World<'a> {
    pub(crate) fn new(schedule: &'a Schedule, trace: bool) -> Self {
        let machines = schedule.machines();
        let links = Links::new(machines, &schedule.network);
        let roster = Roster::new(schedule);
        let id = |machine: usize| Some(ReplicaId(machine as u8)).filter(|_| machine < schedule.replicas);
        let nodes = (0..machines).map(|machine| Node::new(id(machine), first_life(machine), roster.newest().clone())).collect();
        let met = BTreeSet::from_iter(schedule.sizes.map(|_| SIZES_CHOSEN));
        let clients = schedule.clients.iter().enumerate().map(|(index, client)| Client::new(index, client, schedule)).collect();
        Self {
            schedule,
            now: Time(1_000_000_000),
            queue: BinaryHeap::with_capacity(1024),
            order: 0,
            things: Vec::with_capacity(1024),
            free: Vec::new(),
            rng: Rng::new(schedule.seed),
            nodes,
            roster,
            operator: Operator::new(schedule),
            links,
            struck: schedule.episodes.iter().map(|_| None).collect(),
            clients,
            ledger: Ledger::default(),
            watcher: Watcher::new(),
            met,
            trace: trace.then(Trace::default),
            healed: false,
            late_until: Time(0),
            chase: Chase::default(),
            turns: BTreeMap::new(),
            steady: None,
            kept: None,
            commits: None,
            held: Vec::new(),
            out: Output::default(),
            notes: Notes::default(),
            fingerprint: schedule.seed,
            events: 0,
            finished_at: None,
            done: false,
        }
    }

    /// Puts a thing into the queue.
    pub(crate) fn after(&mut self, delay: Duration, thing: Thing) {
        self.at(self.now + delay, thing);
    }

    pub(crate) fn at(&mut self, at: Time, thing: Thing) {
        self.order += 1;
        let thing = match self.free.pop() {
            Some(index) => {
                self.things[index as usize] = Some(thing);
                index
            }
            None => {
                self.things.push(Some(thing));
                self.things.len() as u32 - 1
            }
        };
        self.queue.push(Entry { at, order: self.order, thing });
    }

    /// Runs to the end, and tells what protocols kept meanwhile.
    pub(crate) fn run_sampled(mut self) -> (Outcome, Vec<Kept>) {
        self.kept = Some(Vec::new());
        let outcome = self.finish();
        (outcome, self.kept.unwrap_or_default())
    }

    /// Runs to the end.
    pub(crate) fn run(mut self) -> (Outcome, Option<Trace>) {
        (self.finish(), self.trace)
    }

    fn finish(&mut self) -> Outcome {
        let started = self.now;
        let verdict = match crate::run::guarded(|| self.live()) {
            Ok(Ok(())) => {
                let Self { schedule, ledger, clients, .. } = &*self;
                crate::run::guarded(|| history::check(schedule, ledger, clients))
            }
            Ok(Err(violation)) => Ok(Verdict::Violated(violation)),
            Err(panic) => Err(panic),
        };
        let verdict = verdict.unwrap_or_else(Verdict::Violated);
        let completed = self.clients.iter().map(Client::completed).sum();
        let (fingerprint, events, lasted) = (self.fingerprint, self.events, self.now.since(started));
        Outcome { verdict, fingerprint, met: std::mem::take(&mut self.met), completed, events, lasted }
    }

    pub(crate) fn live(&mut self) -> Result<(), Violation> {
        self.begin()?;
        while let Some(Entry { at, thing, .. }) = self.queue.pop() {
            let index = thing;
            let thing = self.things[index as usize].take().expect("what is in the queue is kept");
            self.free.push(index);
            self.now = at;
            self.events += 1;
            if self.events > EVENTS_MAX {
                return Err(Violation::new("liveness", format!("{EVENTS_MAX} things happened, and no end")));
            }
            self.remember(&thing);
            self.happen(thing)?;
            if self.done {
                break;
            }
        }
        Ok(())
    }

    fn begin(&mut self) -> Result<(), Violation> {
        for node in 0..self.schedule.replicas {
            self.start(node)?;
        }
        for client in 0..self.clients.len() {
            let first = self.clients[client].first_think();
            self.after(first, Thing::Act { client });
        }
        for (index, episode) in self.schedule.episodes.iter().enumerate() {
            self.after(episode.start, Thing::Begin(index));
            self.after(episode.start + episode.lasts, Thing::End(index));
        }
        for (slot, wish) in self.schedule.wishes.iter().enumerate() {
            self.after(wish.at, Thing::Wish { slot });
        }
        if self.schedule.operated {
            self.after(self.schedule.tuning.election, Thing::Care);
        }
        self.after(self.schedule.healed, Thing::Heal);
        self.after(self.schedule.tuning.election / 2, Thing::Look);
        Ok(())
    }

    fn happen(&mut self, thing: Thing) -> Result<(), Violation> {
        if let Some(node) = thing.node()
            && self.nodes[node].paused
        {
            self.held.push((node, thing));
            return Ok(());
        }
        match thing {
            Thing::Arrive { node, letter } => self.arrive(node, letter),
            Thing::Step { node, boot } => self.step_due(node, boot),
            Thing::Wake { node, boot } => self.wake(node, boot),
            Thing::Synced { node, boot } => self.synced(node, boot),
            Thing::Rewrite { node, boot } => self.rewrite(node, boot),
            Thing::Stored { node, boot } => self.stored(node, boot),
            Thing::Request { node, sent } => self.request(node, *sent),
            Thing::Reply { to: Asker::Client(client), attempt, result } => self.replied(client, attempt, result),
            Thing::Reply { to: Asker::Operator(slot), attempt, result } => self.operator_answered(slot, attempt, result),
            Thing::Timeout { client, attempt } => self.timed_out(client, attempt),
            Thing::Lapse { slot, attempt } => self.lapsed(slot, attempt),
            Thing::Wish { slot } => self.wish(slot),
            Thing::Care => self.care(),
            Thing::Enlist { node, id } => self.enlist(node, id),
            Thing::Retire { node, id } => self.retire(node, id),
            Thing::Reborn { node } => self.reborn(node),
            Thing::Blow { node, boot } => self.blow(node, boot),
            Thing::Act { client } => self.act(client),
            Thing::Begin(index) => self.begin_episode(index),
            Thing::Chase { node, strike } => self.strike_chased(node, strike),
            Thing::Unchase { strike } => {
                self.unchase(strike);
                Ok(())
            }
            Thing::Again(index) => self.again(index),
            Thing::End(index) => self.end_episode(index),
            Thing::Restart { node } => self.restart(node),
            Thing::Exit { node, boot } => self.exit(node, boot),
            Thing::Hint { node, about, health } => self.hint(node, about, health),
            Thing::Heal => self.heal(),
            Thing::Look => self.look(),
        }
    }

    /// A paused node goes on: what came for it comes now.
    pub(crate) fn resume(&mut self, node: usize) {
        self.nodes[node].paused = false;
        let (mine, others) = std::mem::take(&mut self.held).into_iter().partition(|(to, _)| *to == node);
        self.held = others;
        let mine: Vec<(usize, Thing)> = mine;
        for (_, thing) in mine {
            self.at(self.now, thing);
        }
    }

    /// Takes what the operator asked of a node that is paused.
    pub(crate) fn take_held_requests(&mut self, node: usize) -> Vec<Sent> {
        let is_mine = |(to, thing): &mut (usize, Thing)| {
            *to == node && matches!(thing, Thing::Request { sent, .. } if matches!(sent.by, Asker::Operator(_)))
        };
        let taken = self.held.extract_if(.., is_mine);
        taken.filter_map(|(_, thing)| if let Thing::Request { sent, .. } = thing { Some(*sent) } else { None }).collect()
    }

    fn remember(&mut self, thing: &Thing) {
        let mut hash = mix_u64(self.fingerprint, self.now.0);
        hash = match thing {
            Thing::Arrive { node, letter } => mix(hash, &letter.bytes) ^ ((*node as u64) << 8 | letter.sender as u64),
            Thing::Reply { to, attempt, result } => {
                let body = result.as_ref().map_or(&[][..], |reply| &reply.body[..]);
                let to = match to {
                    Asker::Client(client) => *client as u64,
                    Asker::Operator(slot) => 1 << 16 | *slot as u64,
                };
                mix(mix_u64(hash, to << 32 | u64::from(*attempt)), body)
            }
            other => mix_u64(hash, other.node().map_or(99, |node| node as u64)),
        };
        self.fingerprint = hash;
    }

    /// How long liveness may take.
    pub(crate) fn patience(&self) -> Duration {
        let farthest = self.schedule.network.one_way.iter().flatten().max().copied().unwrap_or_default();
        self.schedule.tuning.election * ELECTIONS_MAX + farthest * 20
    }

    /// The world looks at every node and client, and at itself.
    fn look(&mut self) -> Result<(), Violation> {
        for node in 0..self.nodes.len() {
            self.look_at(node)?;
        }
        self.look_at_leader()?;
        self.after(self.schedule.tuning.election / 2, Thing::Look);
        if !self.healed {
            return Ok(());
        }
        let patience = self.patience();
        for client in &self.clients {
            if let Some((since, what)) = client.waits_since()
                && self.now.since(since) > patience
            {
                let waited = self.now.since(since);
                let message = format!("client c{} made no progress for {waited:?}: {what};{}", client.index, self.where_all_are());
                return Err(Violation::new("liveness", message));
            }
        }
        if self.clients.iter().any(|client| !client.is_done()) {
            return Ok(());
        }
        let finished = *self.finished_at.get_or_insert(self.now);
        if self.converged() {
            self.done = true;
            self.check_logs()?;
            self.hear_the_rest()?;
            return self.compare_states();
        }
        // Whoever came in by the last change has as long.
        if self.now.since(finished.max(self.operator.changed_at)) > patience {
            return Err(Violation::new("convergence", self.who_lags()));
        }
        Ok(())
    }

    fn converged(&self) -> bool {
        (0..self.nodes.len()).all(|node| self.lag_of(node).is_none()) && self.is_settled()
    }

    /// What a member of the last configuration still lacks.
    fn lag_of(&self, index: usize) -> Option<&'static str> {
        let node = &self.nodes[index];
        let newest = self.roster.newest();
        let member = newest.member(node.id?)?;
        if !self.schedule.operated && node.damaged {
            return None;
        }
        let Some(process) = &node.process else { return Some("is down") };
        let status = process.replica.status();
        let is = match member.role {
            Role::Promised { .. } => return Some("was promised a vote and has none"),
            role => role.word(),
        };
        let lags = [
            (node.is_hurt() && self.schedule.operated, "was not rebuilt"),
            (status.configuration.epoch != newest.epoch, "is in an earlier epoch"),
            (status.role != is, "is not what it is to be"),
            (!self.ledger.complete(process.replica.machine().chains()), "has not executed everything"),
        ];
        lags.into_iter().find(|(lags, _)| *lags).map(|(_, what)| what)
    }

    /// Where every machine of the group is, in a line.
    fn where_all_are(&self) -> String {
        let newest = self.roster.newest();
        let mut text = format!(" the newest epoch is {} of {};", newest.epoch.0, newest.strategy);
        for (index, node) in self.nodes.iter().enumerate().filter(|(_, node)| node.id.is_some()) {
            text += &match &node.process {
                None => format!(" r{index} is down;"),
                Some(process) => {
                    let status = process.replica.status();
                    let (role, protocol) = (status.role, &status.protocol);
                    let votes = format!("{} at {}", protocol.role, protocol.ballot);
                    let follows = status.follows.map_or(String::new(), |id| format!(" behind {id}"));
                    let passes = status.change.map_or(String::new(), |what| format!(", {what}"));
                    format!(
                        " r{index} as {:?}: {role} {votes} in {:?} of {:?}{follows}{passes};",
                        node.id,
                        status.executed,
                        status.configuration.voters()
                    )
                }
            };
        }
        text
    }

    fn who_lags(&self) -> String {
        let newest = self.roster.newest();
        let mut text = format!("in epoch {} of {} not everyone is where all are to be:", newest.epoch.0, newest.strategy);
        for (index, what) in (0..self.nodes.len()).filter_map(|index| Some((index, self.lag_of(index)?))) {
            text += &format!(" r{index} {what}");
            if let Some(process) = &self.nodes[index].process {
                text += &format!(" ({:?})", process.replica.status());
            }
            text += ";";
        }
        text
    }

    /// Nobody's log or memory holds much more than what was asked to be kept.
    fn check_logs(&self) -> Result<(), Violation> {
        let tuning = &self.schedule.tuning;
        for (index, process) in self.nodes.iter().enumerate().filter_map(|(index, node)| Some((index, node.process.as_ref()?))) {
            let checkpoint: u64 = process.replica.checkpoint().iter().map(|record| record.len() as u64 + 64).sum();
            // What grows until the next checkpoint, that checkpoint beside the last one, and the ends of segments. One that is larger
            // than what may grow is followed by the next at once, before the one ahead of it is given up.
            let [earlier, last, next] = process.checkpoints_bytes;
            let earlier = if last > tuning.checkpoint_bytes { earlier } else { 0 };
            let kept = earlier + last.max(checkpoint) + next.max(checkpoint);
            let most = 2 * tuning.checkpoint_bytes + kept + 8 * tuning.segment_bytes;
            if process.log.bytes_in_use() > most {
                let used = process.log.bytes_in_use();
                return Err(Violation::new("bounds", format!("the log of r{index} takes {used} bytes, where {most} are enough")));
            }
        }
        Ok(())
    }

    /// Equal frontiers mean equal states, to the last session.
    fn compare_states(&mut self) -> Result<(), Violation> {
        let processes: Vec<_> = self.nodes.iter().filter_map(|node| node.process.as_ref()).collect();
        let states: Vec<_> = processes.iter().map(|p| (p.replica.status().executed, p.replica.digest())).collect();
        for (index, (frontier, digest)) in states.iter().enumerate() {
            for (other, (theirs, their_digest)) in states.iter().enumerate().skip(index + 1) {
                if frontier == theirs && digest != their_digest {
                    let message = format!("running replicas {index} and {other} executed {frontier:?} and differ");
                    return Err(Violation::new("state", message));
                }
            }
        }
        Ok(())
    }

    /// Everything is healed: clients have the rest of their operations to do, and the bounds of liveness hold.
    pub(crate) fn healed_now(&mut self) {
        self.healed = true;
        let now = self.now;
        self.clients.iter_mut().for_each(|client| client.expect_progress(now));
    }
}

impl Thing {
    /// The node to which it happens, if it waits while that is paused.
    fn node(&self) -> Option<usize> {
        match self {
            Self::Arrive { node, .. }
            | Self::Step { node, .. }
            | Self::Wake { node, .. }
            | Self::Synced { node, .. }
            | Self::Rewrite { node, .. }
            | Self::Stored { node, .. }
            | Self::Request { node, .. }
            | Self::Exit { node, .. }
            | Self::Hint { node, .. } => Some(*node),
            _ => None,
        }
    }
}

impl Ord for Entry {
    fn cmp(&self, other: &Self) -> Ordering {
        (other.at, other.order).cmp(&(self.at, self.order))
    }
}

impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Entry {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Entry {}
