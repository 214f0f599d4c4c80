//! A leader that has a quorum all along keeps leading: nobody who is cut off, half or in turns, disturbs it, nor does it when it
//! comes back.
//!
//! This is asked only where it can be answered for: nothing but partitions strikes, and no message is lost or still on its way from
//! a time when it was; the leader and a majority reach each other without a break, know each other for an election timeout
//! already, and when that began nobody had seen a higher ballot. From then on whoever asks to be elected is refused by that
//! majority, as it hears its leader.

use crate::fault::{Episode, Fault};
use crate::ledger::Violation;
use crate::network::Links;
use crate::node::Node;
use crate::world::World;
use concur_core::{Epoch, Phase, ReplicaId, ReplicaSet, Time};
use std::time::Duration;

/// A leader with a majority. Nodes are named by their machines.
#[derive(Debug)]
pub(crate) struct Steady {
    leader: ReplicaId,
    epoch: Epoch,
    ballot: u64,
    /// It, and those that it reached and that reached it ever since.
    reached: ReplicaSet,
    /// In how many looks.
    looks: u32,
    /// How often each node was started.
    boots: Vec<u64>,
}

/// After so many looks, two an election timeout, the leader and its majority know each other.
const LOOKS: u32 = 3;

/// How long a message may be late.
const LATE: Duration = Duration::from_secs(10);

impl World<'_> {
    /// Links may have been cut.
    pub(crate) fn note_cuts(&mut self) {
        let Self { steady, links, .. } = self;
        if let Some(steady) = steady {
            let leader = steady.leader;
            steady.reached = steady.reached.iter().filter(|&id| id == leader || is_open(links, leader, id)).collect();
        }
    }

    /// The world looks whether the leader is the one that it has to be.
    pub(crate) fn look_at_leader(&mut self) -> Result<(), Violation> {
        let newest = self.roster.newest().epoch;
        if !self.roster.strategy_of(newest).traits.has_leader || !self.is_calm() {
            self.steady = None;
            return Ok(());
        }
        let boots: Vec<u64> = self.nodes.iter().map(|node| node.boot).collect();
        let before = std::mem::take(&mut self.steady);
        let Some(mut steady) = before.filter(|steady| self.goes_on(steady, newest, &boots)) else {
            self.steady = self.find_leader(boots);
            return Ok(());
        };
        steady.looks += 1;
        // It may have died of its disk, and not been started since.
        let Some(process) = &self.nodes[usize::from(steady.leader.0)].process else { return Ok(()) };
        let protocol = process.replica.inspect();
        if protocol.role == "leader" && protocol.ballot == steady.ballot {
            self.met.extend((steady.looks >= LOOKS).then_some("a leader with a quorum kept on"));
            self.steady = Some(steady);
            return Ok(());
        }
        if steady.looks < LOOKS {
            return Ok(());
        }
        let Steady { leader, ballot, reached, .. } = steady;
        let now = format!("it is {} at {}", protocol.role, protocol.ballot);
        Err(Violation::new("disturbed", format!("{leader} led at {ballot} and reached {reached:?} all along, and {now}")))
    }

    fn goes_on(&self, steady: &Steady, epoch: Epoch, boots: &[u64]) -> bool {
        steady.epoch == epoch && steady.boots == boots && self.is_majority(steady.reached)
    }

    fn is_majority(&self, machines: ReplicaSet) -> bool {
        let newest = self.roster.newest();
        let ids: ReplicaSet = machines.iter().filter_map(|machine| self.nodes[usize::from(machine.0)].id).collect();
        newest.quorums(&self.roster.strategy(&newest.strategy)).is_quorum(Phase::Accept, ids)
    }

    /// Nothing strikes but partitions, and nothing that struck before has left messages under way.
    fn is_calm(&self) -> bool {
        let since = self.now.since(Time(1_000_000_000));
        let harmless = |episode: &Episode| match episode.fault {
            Fault::Split | Fault::OneWay | Fault::Bridge | Fault::Chain | Fault::Flap | Fault::ClientSplit | Fault::ClockJump => true,
            Fault::Delay | Fault::Stale => episode.start > since || episode.start + episode.lasts + LATE < since,
            _ => episode.start > since || self.healed || episode.start + episode.lasts < since,
        };
        // What such a message leads to is over a little later.
        let settled = self.schedule.tuning.election * 2;
        let none_late = self.late_until == Time(0) || self.now > self.late_until + settled;
        none_late
            && (self.healed || self.schedule.network.loss_per_million == 0)
            && self.schedule.episodes.iter().all(harmless)
            && self.voting_machines().all(|node| !node.paused && (node.damaged || node.process.is_some()))
    }

    fn voting_machines(&self) -> impl Iterator<Item = &Node> {
        self.roster.newest().voters().iter().filter_map(|id| self.roster.machine(id)).map(|machine| &self.nodes[machine])
    }

    /// A leader that a majority follows, if nobody has seen a higher ballot.
    fn find_leader(&self, boots: Vec<u64>) -> Option<Steady> {
        let epoch = self.roster.newest().epoch;
        let running = self.nodes.iter().enumerate().filter_map(|(index, node)| Some((ReplicaId(index as u8), node.process.as_ref()?)));
        let here = running.filter(|(_, process)| process.replica.settings().config.epoch == epoch);
        let seen: Vec<_> = here.map(|(machine, process)| (machine, process.replica.inspect())).collect();
        let (leader, ballot) =
            seen.iter().filter(|(_, it)| it.role == "leader").map(|&(machine, ref it)| (machine, it.ballot)).max_by_key(|it| it.1)?;
        if seen.iter().any(|(_, it)| it.ballot > ballot) {
            return None;
        }
        let id = self.nodes[usize::from(leader.0)].id;
        let follows = seen.iter().filter(|(_, it)| it.ballot == ballot && it.leader == id);
        let open = |machine: &ReplicaId| *machine == leader || is_open(&self.links, leader, *machine);
        let reached: ReplicaSet = follows.map(|&(machine, _)| machine).filter(open).collect();
        self.is_majority(reached).then_some(Steady { leader, epoch, ballot, reached, looks: 0, boots })
    }
}

fn is_open(links: &Links, a: ReplicaId, b: ReplicaId) -> bool {
    let (a, b) = (usize::from(a.0), usize::from(b.0));
    !(links.is_cut(a, b) || links.is_cut(b, a))
}
