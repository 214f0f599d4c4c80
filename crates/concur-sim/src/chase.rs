//! Whoever just did something rare is struck: began to lead, finished what another left, lost what it had proposed. What protocols
//! must get right there shows only when the next such thing follows before this one is known everywhere.
//!
//! A strike cuts a node off, before anything of it arrives or between two of its messages, often until the next strike, so that one
//! after the other is left with what only it has. Sometimes the node loses power as well, sometimes half of the others do and are
//! back at once, so that what they forget they are asked for again. Where nobody leads, one that lost power is often struck once
//! more, in what it does about that, and then hidden while the others finish without it; its clients still reach it.

use crate::fault::{Episode, Fault};
use crate::ledger::Violation;
use crate::world::{Thing, World};
use concur_core::{Epoch, Health, ReplicaId, ReplicaSet, Time};
use std::collections::BTreeMap;
use std::time::Duration;

/// How many nodes are struck in a run because they were at something delicate.
const BLOWS_MAX: u32 = 12;

/// The chase, while an episode of it lasts.
#[derive(Debug, Default)]
pub(crate) struct Chase {
    /// How many episodes last.
    episodes: u32,
    /// The highest ballot whose leader is struck, or about to be.
    ballot: (Epoch, u64),
    /// How many nodes were struck at something delicate, chase or not.
    blows: u32,
    /// How often each transition was passed.
    passed: BTreeMap<&'static str, u64>,
    /// How often any.
    passed_all: u64,
    /// Who is struck when so many more of its syncs have returned, and how.
    aim: Option<(usize, u64, Strike)>,
    /// Whether it strikes the same node twice and waits in between: where nobody leads, in half of the episodes.
    patient: bool,
    /// Who lost power and is to be struck again.
    prey: Option<usize>,
    /// Nobody but a new leader, or whoever is to be struck again, is struck before.
    quiet_until: Time,
    /// Whom it keeps cut off, and the how manieth strike that was.
    isolated: Option<(usize, u64)>,
    strikes: u64,
}

/// What happens to a node besides being cut off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Strike {
    /// Nothing.
    CutOff,
    /// Nothing, and it stays cut off until the next strike.
    Hide,
    /// It loses power.
    PowerLoss,
    /// Half of the others lose power and are back at once.
    Forget,
}

impl World<'_> {
    /// An episode begins or ends.
    pub(crate) fn chase(&mut self, on: bool) {
        self.chase.patient = self.rng.chance(500_000) && !self.schedule.strategy.traits.has_leader;
        self.chase.episodes = if on { self.chase.episodes + 1 } else { self.chase.episodes.saturating_sub(1) };
        if self.chase.episodes == 0 {
            self.release_chased();
        }
    }

    /// Everything is healed.
    pub(crate) fn end_chase(&mut self) {
        self.release_chased();
        self.chase = Chase::default();
    }

    /// A node leads.
    pub(crate) fn chase_leader(&mut self, node: usize, epoch: Epoch, ballot: u64) {
        if self.chase.episodes > 0 && (epoch, ballot) > self.chase.ballot {
            self.chase.ballot = (epoch, ballot);
            self.plan_strike(node);
        }
    }

    /// A node passed a transition. The rarer it is, the likelier that is a reason; where somebody leads, leading is.
    pub(crate) fn chase_passing(&mut self, node: usize, name: &'static str) {
        if self.chase.episodes == 0 {
            return;
        }
        let passed = self.chase.passed.entry(name).or_default();
        *passed += 1;
        let passed = *passed;
        self.chase.passed_all += 1;
        let prey = self.chase.prey == Some(node);
        let odds = match (delicate(name), self.schedule.strategy.traits.has_leader, self.chase.patient) {
            // What is passed on the way from one epoch to the next is rare enough, and matters most.
            (Some(_), ..) => 1 + passed / 4,
            (None, true, _) => passed * 8,
            (None, false, false) => passed.min(4),
            // Its share of all that is passed. Whoever is to be struck again is hardly struck in what everyone does all the time.
            (None, false, true) => 1 + passed * (if prey { 64 } else { 8 }) / self.chase.passed_all,
        };
        if (prey || self.now >= self.chase.quiet_until) && self.rng.below(odds) == 0 {
            let (least, most) = if self.chase.patient { (2, 4) } else { (0, 1) };
            let election = self.schedule.tuning.election.as_nanos() as u64;
            self.chase.quiet_until = self.now + Duration::from_nanos(self.rng.between(least * election, most * election));
            self.plan_strike(node);
        }
    }

    fn plan_strike(&mut self, node: usize) {
        let mut strike = [Strike::PowerLoss, Strike::CutOff, Strike::CutOff, Strike::Forget, Strike::Forget][self.rng.below(5) as usize];
        if self.chase.patient {
            // One that has lost power is struck once more in what it does about that, and then nobody hears of it for long.
            strike = if self.chase.prey.take() == Some(node) { Strike::Hide } else { Strike::PowerLoss };
            self.chase.prey = (strike == Strike::PowerLoss).then_some(node);
        }
        let farthest = self.farthest(node);
        let most = match self.rng.below(3) {
            // What half of the others forget matters as long as nobody has heard of the node.
            _ if strike == Strike::Forget => farthest / 2,
            // What a node is hidden with is what it did last: it takes a while to get there.
            0 if strike != Strike::Hide => farthest / 2,
            1 => farthest * 6 + self.schedule.tuning.sync.1 * 2,
            _ => {
                self.chase.aim = Some((node, self.rng.between(1, 3), strike));
                return;
            }
        };
        let later = Duration::from_nanos(self.rng.below(most.as_nanos() as u64 + 1));
        self.after(later, Thing::Chase { node, strike });
    }

    /// A node's sync returned. What waited for it is not heard if the node is struck now.
    pub(crate) fn chase_synced(&mut self, node: usize) {
        let Some((aimed, left, strike)) = self.chase.aim.take_if(|(aimed, ..)| *aimed == node) else { return };
        if left > 1 {
            self.chase.aim = Some((aimed, left - 1, strike));
        } else {
            self.after(Duration::ZERO, Thing::Chase { node, strike });
        }
    }

    fn farthest(&self, node: usize) -> Duration {
        self.schedule.network.one_way[node].iter().max().copied().unwrap_or_default()
    }

    /// Strikes.
    pub(crate) fn strike_chased(&mut self, node: usize, strike: Strike) -> Result<(), Violation> {
        if self.chase.episodes == 0 {
            return Ok(());
        }
        self.release_chased();
        self.note_world(node, || "is cut off".to_owned());
        self.chase.strikes += 1;
        self.chase.isolated = Some((node, self.chase.strikes));
        self.links.cut(&isolation(node), &self.everywhere(), true);
        self.tell_peers(node, Health::Down, 1_000_000);
        let election = self.schedule.tuning.election;
        match strike {
            Strike::CutOff | Strike::Hide => {}
            Strike::PowerLoss => {
                let most = if self.rng.chance(500_000) { election } else { Duration::from_millis(5) };
                self.restart_soon(node, most);
            }
            Strike::Forget => {
                let present = self.present();
                let first = self.rng.below(present.len() as u64) as usize;
                for place in 0..present.len() / 2 {
                    let other = present[(first + place) % present.len()];
                    if other != node {
                        self.restart_soon(other, Duration::from_millis(5));
                    }
                }
            }
        }
        if strike == Strike::PowerLoss || (strike != Strike::Hide && self.rng.chance(300_000)) {
            let least = self.farthest(node) + Duration::from_millis(1);
            let most = if self.rng.chance(500_000) { least * 2 } else { least + election * 2 };
            let later = Duration::from_nanos(self.rng.between(least.as_nanos() as u64, most.as_nanos() as u64));
            self.after(later, Thing::Unchase { strike: self.chase.strikes });
        }
        Ok(())
    }

    /// Every machine stands where it is.
    pub(crate) fn everywhere(&self) -> Vec<usize> {
        (0..self.nodes.len()).collect()
    }

    /// A node passed something delicate: it may lose power at once, or a little later; or whoever it gets its state from does.
    pub(crate) fn harass(&mut self, node: usize, name: &'static str) {
        if !self.schedule.harassed || self.healed || self.chase.blows >= BLOWS_MAX {
            return;
        }
        let Some(odds) = delicate(name) else { return };
        if !self.rng.chance(odds) {
            return;
        }
        self.chase.blows += 1;
        let process = self.nodes[node].process.as_ref();
        let follows = process.and_then(|process| process.replica.status().follows).and_then(|id| self.roster.machine(id));
        let node = follows.filter(|_| self.rng.chance(400_000)).unwrap_or(node);
        let tuning = &self.schedule.tuning;
        let most = [Duration::from_millis(1), tuning.sync.1 * 2, tuning.engine.1 * 2, tuning.election / 2];
        let most = most[self.rng.below(4) as usize];
        let later = Duration::from_nanos(self.rng.below(most.as_nanos() as u64 + 1));
        let boot = self.nodes[node].boot;
        self.after(later, Thing::Blow { node, boot });
    }

    pub(crate) fn blow(&mut self, node: usize, boot: u64) -> Result<(), Violation> {
        let Some(process) = self.nodes[node].process.as_ref().filter(|_| self.is_running(node, boot) && !self.healed) else {
            return Ok(());
        };
        let status = process.replica.status();
        let what = match status.role {
            "joining" if status.fetching => "newcomer crashed in its transfer",
            "sealed" => "crashed between two epochs",
            _ if status.follows.is_some() => "crashed while it followed",
            _ => "crashed near a change",
        };
        self.met.insert(what);
        let most = if self.rng.chance(500_000) { self.schedule.tuning.election } else { Duration::from_millis(5) };
        self.restart_soon(node, most);
        Ok(())
    }

    /// A node loses power and comes up within `most`.
    fn restart_soon(&mut self, node: usize, most: Duration) {
        let up_again = self.now + Duration::from_nanos(self.rng.between(1_000_000, most.as_nanos() as u64));
        self.cut_power(node, up_again);
        self.at(up_again, Thing::Restart { node });
    }

    /// A node is not kept cut off any longer, unless another strike did that.
    pub(crate) fn unchase(&mut self, strike: u64) {
        if self.chase.isolated.is_some_and(|(_, by)| by == strike) {
            self.release_chased();
        }
    }

    fn release_chased(&mut self) {
        if let Some((node, _)) = self.chase.isolated.take() {
            self.links.cut(&isolation(node), &self.everywhere(), false);
        }
    }
}

/// The odds in a million that passing something between two epochs, or in getting state, brings a blow; `None` if it is neither.
fn delicate(name: &str) -> Option<u32> {
    Some(match name {
        "seal proposed" | "promotion proposed" | "seal executed" | "epoch entered" => 50_000,
        "seal executed from the feed" | "epoch entered by state" | "entered as first" => 80_000,
        "state fetched" | "state installed" | "state of a later epoch installed" | "feed gone" => 80_000,
        "fed" => 4_000,
        _ => return None,
    })
}

fn isolation(node: usize) -> Episode {
    apart(ReplicaSet::one(ReplicaId(node as u8)))
}

/// Some machines are cut off from all others.
pub(crate) fn apart(nodes: ReplicaSet) -> Episode {
    Episode { fault: Fault::Split, start: Duration::ZERO, lasts: Duration::ZERO, nodes, strength: 0 }
}
