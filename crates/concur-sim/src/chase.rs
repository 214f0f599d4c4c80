//! Whoever just did something rare is struck: began to lead, finished what another left, lost what it had proposed. What protocols
//! must get right there shows only when the next such thing follows before this one is known everywhere.
//!
//! A strike cuts a node off, before anything of it arrives or between two of its messages, often until the next strike, so that one
//! after the other is left with what only it has. Sometimes the node loses power as well, sometimes half of the others do and are
//! back at once, so that what they forget they are asked for again.

use crate::fault::{Episode, Fault};
use crate::ledger::Violation;
use crate::world::{Thing, World};
use concur_core::{Health, ReplicaId, ReplicaSet, Time};
use std::collections::BTreeMap;
use std::time::Duration;

/// The chase, while an episode of it lasts.
#[derive(Debug, Default)]
pub(crate) struct Chase {
    /// How many episodes last.
    episodes: u32,
    /// The highest ballot whose leader is struck, or about to be.
    ballot: u64,
    /// How often each transition was passed.
    passed: BTreeMap<&'static str, u64>,
    /// Nobody but a new leader is struck before.
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
    /// It loses power.
    PowerLoss,
    /// Half of the others lose power and are back at once.
    Forget,
}

impl World<'_> {
    /// An episode begins or ends.
    pub(crate) fn chase(&mut self, on: bool) {
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
    pub(crate) fn chase_leader(&mut self, node: usize, ballot: u64) {
        if self.chase.episodes > 0 && ballot > self.chase.ballot {
            self.chase.ballot = ballot;
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
        let odds = *passed * if self.schedule.strategy.traits.has_leader { 8 } else { 1 };
        if self.now >= self.chase.quiet_until && self.rng.below(odds) == 0 {
            let most = self.schedule.tuning.election.as_nanos() as u64 * 3;
            self.chase.quiet_until = self.now + Duration::from_nanos(self.rng.below(most));
            self.plan_strike(node);
        }
    }

    fn plan_strike(&mut self, node: usize) {
        let strike = [Strike::PowerLoss, Strike::CutOff, Strike::CutOff, Strike::Forget, Strike::Forget][self.rng.below(5) as usize];
        // What half of the others forget matters as long as nobody has heard of the node.
        let early = strike == Strike::Forget || self.rng.chance(300_000);
        let farthest = self.farthest(node);
        let most = if early { farthest / 2 } else { farthest * 6 + self.schedule.tuning.sync.1 * 2 };
        let later = Duration::from_nanos(self.rng.below(most.as_nanos() as u64 + 1));
        self.after(later, Thing::Chase { node, strike });
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
        self.links.cut(&isolation(node), true);
        self.tell_peers(node, Health::Down, 1_000_000);
        let election = self.schedule.tuning.election;
        match strike {
            Strike::CutOff => {}
            Strike::PowerLoss => {
                let most = if self.rng.chance(500_000) { election } else { Duration::from_millis(5) };
                self.restart_soon(node, most);
            }
            Strike::Forget => {
                let first = self.rng.below(self.nodes.len() as u64) as usize;
                for place in 0..self.nodes.len() / 2 {
                    let other = (first + place) % self.nodes.len();
                    if other != node {
                        self.restart_soon(other, Duration::from_millis(5));
                    }
                }
            }
        }
        if strike == Strike::PowerLoss || self.rng.chance(300_000) {
            let least = self.farthest(node) + Duration::from_millis(1);
            let most = if self.rng.chance(500_000) { least * 2 } else { least + election * 2 };
            let later = Duration::from_nanos(self.rng.between(least.as_nanos() as u64, most.as_nanos() as u64));
            self.after(later, Thing::Unchase { strike: self.chase.strikes });
        }
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
            self.links.cut(&isolation(node), false);
        }
    }
}

fn isolation(node: usize) -> Episode {
    let nodes = ReplicaSet::one(ReplicaId(node as u8));
    Episode { fault: Fault::Split, start: Duration::ZERO, lasts: Duration::ZERO, nodes, strength: 0 }
}
