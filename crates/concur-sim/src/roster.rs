//! Who is in, as all configurations that anybody was seen to have say it: which machine a number belongs to, which configuration is
//! the newest, and that each epoch has one configuration everywhere, the one that the seal before it carried.
//!
//! Numbers are not given twice in a run, so that a number belongs to one machine for ever; a machine that leaves and comes in again
//! has another.

use crate::ledger::{Ledger, Violation};
use crate::schedule::Schedule;
use concur_core::{Epoch, Phase, ReplicaId, ReplicaSet, Strategy};
use concur_peers::{Configuration, Member, Role};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// What is known of members, over all configurations.
#[derive(Debug)]
pub(crate) struct Roster {
    configurations: BTreeMap<Epoch, Arc<Configuration>>,
    machines: BTreeMap<ReplicaId, usize>,
    /// Addresses that only a change that was refused would have brought in.
    refused: BTreeSet<String>,
    /// The strategy that the run began with, which need not be one of those that have a name.
    strategy: Strategy,
}

/// The name of a machine.
pub(crate) fn name_of(machine: usize) -> String {
    format!("n{}", machine + 1)
}

/// The machine of that name.
fn machine_named(name: &str) -> Option<usize> {
    name.strip_prefix('n')?.parse::<usize>().ok()?.checked_sub(1)
}

/// The life of a machine's disk in which it begins.
pub(crate) fn first_life(machine: usize) -> u64 {
    machine as u64 + 1
}

impl Roster {
    /// The first machines begin the group; its first configuration names the lives of their disks, or none.
    pub(crate) fn new(schedule: &Schedule) -> Self {
        let Schedule { strategy, replicas, named, sizes, .. } = *schedule;
        let member = |machine: usize| Member {
            id: ReplicaId(machine as u8),
            name: name_of(machine),
            weight: 1,
            incarnation: if named { first_life(machine) } else { 0 },
            peer: format!("{}:0", name_of(machine)),
            ..Member::default()
        };
        let mut genesis = Configuration::genesis(strategy.traits.name, (0..replicas).map(member).collect());
        genesis.counts = sizes;
        assert!(genesis.fits(&strategy).is_ok(), "quorums are drawn so that they meet");
        let machines = (0..replicas).map(|machine| (ReplicaId(machine as u8), machine)).collect();
        let configurations = BTreeMap::from([(Epoch(0), Arc::new(genesis))]);
        Self { configurations, machines, refused: BTreeSet::new(), strategy }
    }

    /// Of the last epoch that anybody came to.
    pub(crate) fn newest(&self) -> &Arc<Configuration> {
        self.configurations.last_key_value().expect("there is the first").1
    }

    /// Of an epoch.
    pub(crate) fn of(&self, epoch: Epoch) -> Option<&Arc<Configuration>> {
        self.configurations.get(&epoch)
    }

    /// The newest that names somebody.
    pub(crate) fn newest_with(&self, id: ReplicaId) -> Option<&Arc<Configuration>> {
        self.configurations.values().rev().find(|configuration| configuration.member(id).is_some())
    }

    /// The machine that has this number.
    pub(crate) fn machine(&self, id: ReplicaId) -> Option<usize> {
        self.machines.get(&id).copied()
    }

    /// The protocol of that name.
    pub(crate) fn strategy(&self, name: &str) -> Strategy {
        let other = (name != self.strategy.traits.name).then(|| concur_decision::find(name));
        other.flatten().unwrap_or(self.strategy)
    }

    /// The protocol of an epoch.
    pub(crate) fn strategy_of(&self, epoch: Epoch) -> Strategy {
        self.of(epoch).map_or(self.strategy, |configuration| self.strategy(&configuration.strategy))
    }

    /// Whether some of the voters are enough for whatever a configuration decides.
    pub(crate) fn is_quorum(&self, configuration: &Configuration, some: ReplicaSet) -> bool {
        let quorums = configuration.quorums(&self.strategy(&configuration.strategy));
        quorums.is_quorum(Phase::Prepare, some) && quorums.is_quorum(Phase::Accept, some)
    }

    /// Whether some of the voters are enough for any of it: to read or begin, or to decide what was begun.
    pub(crate) fn is_part_quorum(&self, configuration: &Configuration, some: ReplicaSet) -> bool {
        let quorums = configuration.quorums(&self.strategy(&configuration.strategy));
        quorums.is_quorum(Phase::Prepare, some) || quorums.is_quorum(Phase::Accept, some)
    }

    /// A change that would have brought this address in was refused.
    pub(crate) fn refuse(&mut self, address: &str) -> Result<(), Violation> {
        self.refused.insert(address.to_owned());
        self.configurations.values().try_for_each(|configuration| self.check_refused(configuration))
    }

    fn check_refused(&self, configuration: &Configuration) -> Result<(), Violation> {
        let found = configuration.members.iter().find(|member| self.refused.contains(&member.peer));
        found.map_or(Ok(()), |member| {
            let message = format!("{} came in at {} with a change that was refused: {configuration:?}", member.name, member.peer);
            Err(Violation::new("refused change", message))
        })
    }

    /// Somebody has a configuration. Answers with the one before it if nobody had it so far.
    pub(crate) fn learn(&mut self, ledger: &Ledger, configuration: &Arc<Configuration>) -> Result<Option<Arc<Configuration>>, Violation> {
        let epoch = configuration.epoch;
        if let Some(known) = self.configurations.get(&epoch) {
            if known == configuration {
                return Ok(None);
            }
            let message = format!("epoch {} has two configurations: {known:?} and {configuration:?}", epoch.0);
            return Err(Violation::new("configuration", message));
        }
        let before = epoch.0.checked_sub(1).and_then(|before| self.of(Epoch(before)).cloned());
        let Some(before) = before.filter(|before| ledger.seal_of(before.epoch).is_some_and(|sealed| sealed == **configuration)) else {
            let message = format!("epoch {} begins without a seal that leads to it: {configuration:?}", epoch.0);
            return Err(Violation::new("configuration", message));
        };
        for member in &configuration.members {
            let machine = machine_named(&member.name).ok_or_else(|| Violation::new("configuration", format!("nobody is {member:?}")))?;
            if *self.machines.entry(member.id).or_insert(machine) != machine {
                return Err(Violation::new("configuration", format!("{} has the number of another machine", member.name)));
            }
        }
        self.check_refused(configuration)?;
        self.configurations.insert(epoch, configuration.clone());
        Ok(Some(before))
    }
}

/// What a configuration changes in the one before it, in words that coverage counts.
pub(crate) fn changes(before: &Configuration, next: &Configuration) -> Vec<&'static str> {
    let mut words = Vec::new();
    for member in &next.members {
        let word = match (before.member(member.id), member.role) {
            (None, Role::Voter) => Some("a voter came in at once"),
            (None, Role::Observer) => Some("observer added"),
            (None, Role::Promised { replaces: None }) => Some("voter added"),
            (None, Role::Promised { replaces: Some(_) }) => Some("newcomer to take another's place"),
            (Some(was), Role::Voter) if was.role == Role::Observer => Some("observer promoted"),
            (Some(was), Role::Voter) if !was.role.votes() => Some("promise kept"),
            (Some(was), Role::Promised { .. }) if was.role.votes() => Some("voter rebuilt"),
            (Some(was), _) if was.weight != member.weight => Some("vote weighed"),
            (Some(was), _) if was.peer != member.peer => Some("member moved"),
            _ => None,
        };
        words.extend(word);
    }
    for gone in before.members.iter().filter(|member| next.member(member.id).is_none()) {
        let replaced = next.members.iter().any(|member| {
            before.member(member.id).is_some_and(|was| was.role == (Role::Promised { replaces: Some(gone.id) })) && member.role.votes()
        });
        words.push(match (replaced, gone.role) {
            (true, _) => "member replaced",
            (false, Role::Voter) => "voter removed",
            (false, _) => "observer removed",
        });
    }
    if before.strategy != next.strategy {
        words.push("strategy switched");
    }
    match next.voters().len() {
        1 => words.push("a single voter is left"),
        7.. => words.push("seven voters"),
        count if count % 2 == 0 => words.push("an even number of voters"),
        _ => {}
    }
    words
}
