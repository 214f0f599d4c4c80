//! The operator: asks for what the schedule wishes, starts machines that came in, stops for good those that were removed, and has
//! members rebuilt whose disks were lost.
//!
//! An operator knows the last configuration that anybody came to, and asks whomever the wish says; what is refused for now, or never
//! answered, is asked for again. It is careful: it does not ask for what would leave too few of those that are not hurt, and stops
//! a machine for good only when a quorum holds the epoch without it.
//!
//! What it was told holds: a change that was done is the configuration that it was said to lead to, and of one that was refused
//! nothing is ever seen.

use crate::fault::Fault;
use crate::ledger::Violation;
use crate::node::Asker;
use crate::plan::{Asked, Kind, VOTERS_MAX, Wish};
use crate::roster::{changes, name_of};
use crate::schedule::Schedule;
use crate::world::{Thing, World};
use concur_core::{Epoch, Health, ReplicaId, Time, Wire};
use concur_peers::{Change, ChangeError, Configuration, Member, Newcomer, Outcome, Role};
use concur_replica::{Refused, Reply, Request};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// How often one wish is asked for.
const TRIES_MAX: u32 = 16;
/// How many members there may be.
const MEMBERS_MAX: usize = 9;
/// How many epochs there may be after everything is healed: what was promised is kept, and that is all.
const EPOCHS_AFTER_MAX: u64 = 40;

/// What the operator is at.
#[derive(Debug)]
pub(crate) struct Operator {
    /// One for each wish, then one for each machine.
    slots: Vec<Slot>,
    /// Changes that may be decided though nobody has answered, by slot and attempt.
    doubts: BTreeMap<(usize, u32), Doubt>,
    /// How many disks began another life.
    pub(crate) lives: u64,
    /// When the last epoch began.
    pub(crate) changed_at: Time,
    /// The last epoch when everything was healed.
    healed_in: Option<Epoch>,
}

#[derive(Debug, Default)]
struct Slot {
    attempt: u32,
    tries: u32,
    /// It waits for an answer.
    busy: bool,
    over: bool,
    /// The machine that it wants in.
    newcomer: Option<usize>,
    kept: bool,
}

#[derive(Debug)]
struct Doubt {
    /// An address that nothing else would bring in.
    address: Option<String>,
    /// The last epoch when a replica had it before it; `None` while it is on its way.
    taken: Option<Epoch>,
}

impl Operator {
    pub(crate) fn new(schedule: &Schedule) -> Self {
        let slots = (0..schedule.wishes.len() + schedule.machines()).map(|_| Slot::default()).collect();
        Self { slots, doubts: BTreeMap::new(), lives: 0, changed_at: Time(0), healed_in: None }
    }
}

impl World<'_> {
    /// Whether the operator waits for nothing.
    pub(crate) fn is_settled(&self) -> bool {
        self.operator.slots.iter().all(|slot| !slot.busy)
    }

    /// Whether a change may be under way that nobody knows of.
    pub(crate) fn is_in_doubt(&self) -> bool {
        let newest = self.roster.newest().epoch;
        let mut running = self.nodes.iter().filter_map(|node| node.process.as_ref());
        self.operator.doubts.values().any(|doubt| doubt.taken.is_none_or(|epoch| epoch >= newest))
            || running.any(|process| process.replica.status().change.is_some())
    }

    /// The time of a wish has come.
    pub(crate) fn wish(&mut self, slot: usize) -> Result<(), Violation> {
        let wish = self.schedule.wishes[slot];
        if self.healed || self.operator.slots[slot].busy || self.operator.slots[slot].over {
            self.operator.slots[slot].over |= self.healed;
            return Ok(());
        }
        if wish.waits && slot > 0 && !self.operator.slots[slot - 1].over {
            self.after(self.schedule.tuning.election / 4, Thing::Wish { slot });
            return Ok(());
        }
        if self.is_granted(slot) {
            self.operator.slots[slot].over = true;
            return Ok(());
        }
        match self.change_for(slot, &wish) {
            Some((change, about)) if self.is_careful(&change) => {
                let node = self.whom(slot, &wish, about);
                self.ask(slot, node, change);
            }
            _ => self.try_again(slot),
        }
        Ok(())
    }

    /// Whether the machine that a wish wants in is in.
    fn is_granted(&self, slot: usize) -> bool {
        let newcomer = self.operator.slots[slot].newcomer;
        newcomer.is_some_and(|machine| self.roster.newest().named(&name_of(machine)).is_some())
    }

    /// Whether enough that are not hurt would be left.
    fn is_careful(&self, change: &Change) -> bool {
        let next = self.roster.newest().next(change, |name| Some(self.roster.strategy(name)));
        next.is_ok_and(|next| self.is_sound(&next, |_| true)) || !self.nodes.iter().any(|node| node.is_hurt())
    }

    /// What a wish comes to, as things are.
    fn change_for(&mut self, slot: usize, wish: &Wish) -> Option<(Change, Option<ReplicaId>)> {
        let newest = self.roster.newest().clone();
        let voters: Vec<ReplicaId> = newest.voters().iter().collect();
        let others: Vec<ReplicaId> = newest.everyone().minus(newest.voters()).iter().collect();
        let place = wish.pick as usize;
        let pick = |some: &[ReplicaId]| some.get(place % some.len().max(1)).copied();
        let leader = self.leader().filter(|&id| newest.voters().contains(id)).or(pick(&voters));
        let may_leave = voters.len() > 2 || (voters.len() == 2 && wish.pick.is_multiple_of(4));
        let leads = self.roster.strategy(&newest.strategy).traits.has_leader;
        let about = match wish.kind {
            Kind::AddVoter if voters.len() + others.len() >= VOTERS_MAX => return None,
            Kind::AddVoter | Kind::AddObserver => return self.add(slot, wish.kind == Kind::AddVoter),
            Kind::Remove => pick(&voters).filter(|_| may_leave)?,
            Kind::RemoveLeader => leader.filter(|_| may_leave)?,
            Kind::RemoveObserver | Kind::Promote => pick(&others)?,
            Kind::Replace => pick(&voters)?,
            Kind::Rebuild => pick(&voters).filter(|_| voters.len() > 2)?,
            Kind::Weigh => newest.members.iter().find(|member| member.weight != 1).map(|member| member.id).or(pick(&voters))?,
            Kind::Lead => pick(&voters).filter(|_| leads)?,
            Kind::Move => pick(&newest.everyone().iter().collect::<Vec<_>>())?,
            Kind::Switch => return self.switch(&newest, place).map(|change| (change, None)),
        };
        let member = newest.member(about)?;
        let change = match wish.kind {
            Kind::Replace => Change::Replace { id: about, newcomer: self.newcomer(slot)? },
            Kind::Promote => {
                let machine = self.roster.machine(about)?;
                Change::Promote { id: about, incarnation: self.nodes[machine].life.incarnation }
            }
            Kind::Rebuild => Change::Rebuild { id: about },
            Kind::Weigh if member.weight != 1 => Change::Weigh { id: about, weight: 1 },
            Kind::Weigh => Change::Weigh { id: about, weight: 2 + u64::from(wish.pick % 2) },
            Kind::Lead => Change::Lead { id: about },
            Kind::Move => Change::Move { id: about, peer: self.address(slot, &member.name), client: String::new() },
            _ => Change::Remove { id: about },
        };
        Some((change, Some(about)))
    }

    fn add(&mut self, slot: usize, votes: bool) -> Option<(Change, Option<ReplicaId>)> {
        Some((Change::Add { newcomer: self.newcomer(slot)?, votes }, None))
    }

    /// Another strategy, if the one that the run began with can be named: it is to come back.
    fn switch(&self, newest: &Configuration, place: usize) -> Option<Change> {
        let own = (self.schedule.strategies)(self.schedule.strategy.traits.name)?.traits.name;
        let foreign = concur_decision::find(own).is_none().then_some(own);
        let names = concur_decision::registry().iter().map(|strategy| strategy.traits.name).chain(foreign);
        let others: Vec<&str> = names.filter(|name| *name != newest.strategy).collect();
        let strategy = others.get(place % others.len().max(1))?;
        Some(Change::Switch { strategy: (*strategy).into() })
    }

    /// A machine that stands by, and that no other wish wants, as somebody who comes in.
    fn newcomer(&mut self, slot: usize) -> Option<Newcomer> {
        let stands_by = |machine: usize| self.nodes[machine].id.is_none();
        let slots = self.operator.slots.iter().enumerate();
        let wanted: Vec<usize> =
            slots.filter(|(other, it)| *other != slot && (!it.over || it.kept)).filter_map(|(_, it)| it.newcomer).collect();
        if self.roster.newest().members.len() >= MEMBERS_MAX {
            return None;
        }
        let mine = self.operator.slots[slot].newcomer.filter(|&machine| stands_by(machine));
        let free = (0..self.nodes.len()).find(|machine| stands_by(*machine) && !wanted.contains(machine));
        let machine = mine.or(free)?;
        self.operator.slots[slot].newcomer = Some(machine);
        let name = name_of(machine);
        Some(Newcomer { peer: self.address(slot, &name), name, ..Newcomer::default() })
    }

    /// An address that no other change would bring in.
    fn address(&self, slot: usize, name: &str) -> String {
        format!("{name}:{slot}.{}", self.operator.slots[slot].attempt + 1)
    }

    fn leader(&self) -> Option<ReplicaId> {
        let running = self.nodes.iter().filter_map(|node| Some((node.id?, node.process.as_ref()?)));
        let newest = self.roster.newest().epoch;
        let here = running.filter(|(_, process)| process.replica.settings().config.epoch == newest);
        let leads = here.map(|(id, process)| (id, process.replica.inspect())).filter(|(_, inspected)| inspected.role == "leader");
        leads.max_by_key(|(_, inspected)| inspected.ballot).map(|(id, _)| id)
    }

    /// The machine that is asked.
    fn whom(&mut self, slot: usize, wish: &Wish, about: Option<ReplicaId>) -> usize {
        let members: Vec<ReplicaId> = self.roster.newest().everyone().iter().collect();
        let member = |place: u32| members[place as usize % members.len()];
        let id = match wish.asked {
            Asked::Anybody(place) => return place as usize % self.nodes.len(),
            Asked::Itself => about.unwrap_or(member(wish.pick)),
            Asked::Leader => self.leader().unwrap_or(member(wish.pick)),
            Asked::Member(place) => member(place),
        };
        // Whoever did not answer is left for another.
        let id = if self.operator.slots[slot].tries < 3 { id } else { member(self.rng.below(64) as u32) };
        self.roster.machine(id).unwrap_or(0)
    }

    fn ask(&mut self, slot: usize, node: usize, change: Change) {
        let election = self.schedule.tuning.election.as_nanos() as u64;
        let timeout = Duration::from_nanos(self.rng.between(election, 4 * election));
        let address = match &change {
            Change::Add { newcomer, .. } | Change::Replace { newcomer, .. } => Some(newcomer.peer.clone()),
            Change::Move { peer, .. } => Some(peer.clone()),
            _ => None,
        };
        let it = &mut self.operator.slots[slot];
        it.attempt += 1;
        (it.busy, it.tries) = (true, it.tries + 1);
        let attempt = it.attempt;
        self.operator.doubts.insert((slot, attempt), Doubt { address, taken: None });
        self.note_world(node, || format!("is asked to {change}"));
        let request = Request::Change { change, timeout };
        let sent = crate::clients::Sent { by: Asker::Operator(slot), attempt, request, writes: true, query: None };
        let delay = self.schedule.network.client;
        self.after(delay, Thing::Request { node, sent: Box::new(sent) });
        self.after(delay * 2 + timeout + self.schedule.tuning.heartbeat * 2, Thing::Lapse { slot, attempt });
    }

    /// A request did not come to any replica.
    pub(crate) fn never_came(&mut self, by: Asker, attempt: u32) {
        if let Asker::Operator(slot) = by {
            self.operator.doubts.remove(&(slot, attempt));
        }
    }

    /// A replica has a request before it.
    pub(crate) fn came(&mut self, by: Asker, attempt: u32) {
        let newest = self.roster.newest().epoch;
        if let Asker::Operator(slot) = by
            && let Some(doubt) = self.operator.doubts.get_mut(&(slot, attempt))
        {
            doubt.taken = Some(newest);
        }
    }

    /// A replica answers whether a change was done.
    pub(crate) fn change_answered(
        &mut self,
        index: usize,
        by: Asker,
        attempt: u32,
        result: &Result<Reply, Refused>,
    ) -> Result<(), Violation> {
        let Asker::Operator(slot) = by else { return Ok(()) };
        let done = match result {
            Err(Refused::Unknown) => return Ok(()),
            Err(Refused::NoSession | Refused::NeedsQuery | Refused::TooLarge) => {
                return Err(Violation::new("refused", format!("{result:?} to a change asked of r{index}")));
            }
            Err(_) => None,
            Ok(reply) => match Outcome::from_bytes(&reply.body) {
                Ok(Outcome::Done(configuration)) => Some(configuration),
                Ok(Outcome::Refused(_)) => None,
                Err(error) => return Err(Violation::new("reply", format!("r{index} answers a change with {error}"))),
            },
        };
        let address = self.operator.doubts.remove(&(slot, attempt)).and_then(|doubt| doubt.address);
        match (done, address) {
            (None, Some(address)) => self.roster.refuse(&address),
            (None, None) => Ok(()),
            (Some(done), address) => {
                let known = self.roster.of(done.epoch).is_some_and(|known| **known == done);
                let holds = address.is_none_or(|address| done.members.iter().any(|member| member.peer == address));
                let lie = || Violation::new("acknowledged", format!("r{index} says of a change that it led to {done:?}"));
                if known && holds { Ok(()) } else { Err(lie()) }
            }
        }
    }

    /// The answer is here.
    pub(crate) fn operator_answered(&mut self, slot: usize, attempt: u32, result: Result<Reply, Refused>) -> Result<(), Violation> {
        if self.operator.slots[slot].attempt != attempt || !self.operator.slots[slot].busy {
            return Ok(());
        }
        self.operator.slots[slot].busy = false;
        if self.is_care(slot) {
            return Ok(());
        }
        match result.ok().and_then(|reply| Outcome::from_bytes(&reply.body).ok()) {
            Some(Outcome::Done(_)) => self.granted(slot),
            Some(Outcome::Refused(error)) if is_final(&error) => self.operator.slots[slot].over = true,
            _ => self.try_again(slot),
        }
        Ok(())
    }

    fn granted(&mut self, slot: usize) {
        self.operator.slots[slot].over = true;
        match self.schedule.wishes[slot].kind {
            Kind::RemoveLeader => self.met.insert("leader removed"),
            Kind::Lead => self.met.insert("another made to lead"),
            _ => true,
        };
    }

    /// The operator waits no longer for an answer.
    pub(crate) fn lapsed(&mut self, slot: usize, attempt: u32) -> Result<(), Violation> {
        if self.operator.slots[slot].attempt == attempt && self.operator.slots[slot].busy {
            self.operator.slots[slot].busy = false;
            if !self.is_care(slot) {
                self.try_again(slot);
            }
        }
        Ok(())
    }

    /// Whether a slot is a machine's.
    fn is_care(&self, slot: usize) -> bool {
        slot >= self.schedule.wishes.len()
    }

    fn try_again(&mut self, slot: usize) {
        let doubtful = self.operator.doubts.keys().any(|&(of, _)| of == slot);
        let it = &mut self.operator.slots[slot];
        it.tries += 1;
        if it.tries > TRIES_MAX {
            // What it wanted in may come in yet.
            (it.over, it.kept) = (true, doubtful);
            return;
        }
        let election = self.schedule.tuning.election.as_nanos() as u64;
        let later = Duration::from_nanos(self.rng.between(election / 8, election));
        self.after(later, Thing::Wish { slot });
    }

    /// The operator looks after those whose disks were lost.
    pub(crate) fn care(&mut self) -> Result<(), Violation> {
        let newest = self.roster.newest().clone();
        if self.healed {
            let healed_in = *self.operator.healed_in.get_or_insert(newest.epoch);
            if newest.epoch.0 > healed_in.0 + EPOCHS_AFTER_MAX {
                return Err(Violation::new("convergence", format!("epochs go on without end, to {newest:?}")));
            }
        }
        for node in 0..self.nodes.len() {
            self.nodes[node].mending |= self.votes_in_another_life(node, &newest);
            if self.nodes[node].mending {
                self.mend(node, &newest);
            }
        }
        self.after(self.schedule.tuning.election / 2, Thing::Care);
        Ok(())
    }

    /// Whether a sound node was given the vote of a disk that it lost: a promotion was under way when it lost it.
    fn votes_in_another_life(&self, node: usize, newest: &Configuration) -> bool {
        let node = &self.nodes[node];
        let other = |member: &Member| member.role == Role::Voter && ![0, node.life.incarnation].contains(&member.incarnation);
        !node.is_hurt() && node.id.and_then(|id| newest.member(id)).is_some_and(other)
    }

    fn mend(&mut self, node: usize, newest: &Configuration) {
        let member = self.nodes[node].id.and_then(|id| newest.member(id));
        let (Some(member), life) = (member, self.nodes[node].life) else {
            self.nodes[node].mending = false;
            return;
        };
        match member.role {
            // Until all know of it, an observer may still be promoted in the life that is over.
            Role::Observer if !self.is_met(node, member.id) => {}
            Role::Promised { .. } => {}
            Role::Voter if member.incarnation != life.incarnation => {
                let slot = self.schedule.wishes.len() + node;
                let change = Change::Rebuild { id: member.id };
                let others: Vec<ReplicaId> = newest.everyone().without(member.id).iter().collect();
                if self.operator.slots[slot].busy || others.is_empty() || !self.is_careful(&change) {
                    return;
                }
                let asked = others[self.rng.below(others.len() as u64) as usize];
                let asked = self.roster.machine(asked).unwrap_or(node);
                self.ask(slot, asked, change);
            }
            role => {
                self.met.insert(if role == Role::Voter { "a lost disk votes again" } else { "a lost disk observes again" });
                self.nodes[node].mending = false;
            }
        }
    }

    /// Whether all that run know in which life a node's disk is.
    fn is_met(&self, node: usize, id: ReplicaId) -> bool {
        let life = self.nodes[node].life.incarnation;
        let mut others = self.nodes.iter().enumerate().filter(|&(other, _)| other != node).filter_map(|(_, node)| node.process.as_ref());
        others.all(|process| process.replica.status().peers.iter().all(|(peer, status)| *peer != id || status.incarnation >= life))
    }

    /// A node has a configuration.
    pub(crate) fn configured(&mut self, index: usize, configuration: &Arc<Configuration>) -> Result<(), Violation> {
        let Some(before) = self.roster.learn(&self.ledger, configuration)? else { return Ok(()) };
        self.operator.changed_at = self.now;
        for word in changes(&before, configuration) {
            self.met.insert(word);
            let fault = match word {
                "strategy switched" => Fault::Switch,
                "observer added" => Fault::Observer,
                _ => Fault::Change,
            };
            self.met.insert(fault.name());
        }
        if configuration.strategy == self.schedule.strategy.traits.name && before.strategy != configuration.strategy {
            self.met.insert("strategy switched back");
        }
        self.note_world(index, || format!("first in {}", in_short(configuration)));
        for member in configuration.members.iter().filter(|member| before.member(member.id).is_none()) {
            self.comes_in(member.id, configuration)?;
        }
        for member in before.members.iter().filter(|member| configuration.member(member.id).is_none()) {
            let Some(node) = self.roster.machine(member.id) else { continue };
            let election = self.schedule.tuning.election.as_nanos() as u64;
            let later = Duration::from_nanos(self.rng.between(election / 2, 6 * election));
            self.after(later, Thing::Retire { node, id: member.id });
        }
        Ok(())
    }

    fn comes_in(&mut self, id: ReplicaId, configuration: &Arc<Configuration>) -> Result<(), Violation> {
        let node = self.roster.machine(id).filter(|&node| node < self.nodes.len() && self.nodes[node].id.is_none());
        let Some(node) = node else {
            return Err(Violation::new("configuration", format!("{id} comes in, whom nobody wanted in: {configuration:?}")));
        };
        (self.nodes[node].id, self.nodes[node].home) = (Some(id), configuration.clone());
        let election = self.schedule.tuning.election.as_nanos() as u64;
        let most = if self.rng.chance(200_000) { 6 * election } else { election };
        let later = Duration::from_nanos(self.rng.below(most));
        self.after(later, Thing::Enlist { node, id });
        Ok(())
    }

    /// A machine that came in is started.
    pub(crate) fn enlist(&mut self, node: usize, id: ReplicaId) -> Result<(), Violation> {
        if self.nodes[node].id != Some(id) || self.nodes[node].may_start {
            return Ok(());
        }
        (self.nodes[node].may_start, self.nodes[node].down_until) = (true, self.now);
        self.start(node)?;
        self.tell_peers(node, Health::Up, 900_000);
        Ok(())
    }

    /// A machine that was removed is stopped for good, once nobody needs what it holds.
    pub(crate) fn retire(&mut self, node: usize, id: ReplicaId) -> Result<(), Violation> {
        if self.nodes[node].id != Some(id) {
            return Ok(());
        }
        if !self.is_entered() {
            self.after(self.schedule.tuning.election / 2, Thing::Retire { node, id });
            return Ok(());
        }
        self.note_world(node, || "is stopped for good".to_owned());
        self.drop_held(node);
        self.stop_process(node);
        self.tell_peers(node, Health::Down, 800_000);
        let life = self.next_life();
        let node = &mut self.nodes[node];
        node.wipe(life);
        (node.id, node.may_start, node.mending, node.paused) = (None, false, false, false);
        self.met.insert("a removed machine stopped for good");
        Ok(())
    }
}

/// Whether asking again is of no use.
fn is_final(error: &ChangeError) -> bool {
    use ChangeError::{Behind, NoQuorum, NotIn, NotSeen, Superseded, UnderWay};
    !matches!(error, Behind { .. } | NoQuorum { .. } | NotIn | NotSeen { .. } | Superseded { .. } | UnderWay { .. })
}

/// A configuration in a line.
fn in_short(configuration: &Configuration) -> String {
    let one = |member: &concur_peers::Member| {
        let role = match member.role {
            Role::Voter => String::new(),
            role => format!(" ({})", role.word()),
        };
        let weight = if member.weight == 1 { String::new() } else { format!(" ×{}", member.weight) };
        format!("{} {}{role}{weight}", member.id, member.name)
    };
    let members: Vec<String> = configuration.members.iter().map(one).collect();
    let first = configuration.first.map_or(String::new(), |first| format!(", {first} leads first"));
    format!("epoch {} of {}: {}{first}", configuration.epoch.0, configuration.strategy, members.join(", "))
}
