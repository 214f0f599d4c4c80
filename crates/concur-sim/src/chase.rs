//! Whoever leads is struck soon after it began to: what elections must get right shows only when one follows another before
//! anything is settled.
//!
//! A strike cuts the new leader off (until the next strike, so that one after the other is left with what only it has), takes its
//! power, or cuts it off and restarts some of those that voted for it. Where nobody leads, anyone is struck, now and then.

use crate::fault::{Episode, Fault};
use crate::ledger::Violation;
use crate::world::{Thing, World};
use concur_core::{Health, ReplicaId, ReplicaSet};
use std::time::Duration;

/// The chase, while an episode of it lasts.
#[derive(Debug, Default)]
pub(crate) struct Chase {
    /// How many episodes last.
    episodes: u32,
    /// The highest ballot whose leader is struck, or about to be.
    ballot: u64,
    /// Whom it keeps cut off.
    isolated: Option<usize>,
}

impl World<'_> {
    /// An episode begins or ends.
    pub(crate) fn chase(&mut self, on: bool) {
        self.chase.episodes = if on { self.chase.episodes + 1 } else { self.chase.episodes.saturating_sub(1) };
        if self.chase.episodes == 0 {
            self.release_chased();
        } else if on && !self.schedule.strategy.traits.has_leader {
            self.chase_anyone();
        }
    }

    /// Everything is healed.
    pub(crate) fn end_chase(&mut self) {
        self.release_chased();
        self.chase = Chase { ballot: self.chase.ballot, ..Chase::default() };
    }

    /// A node leads.
    pub(crate) fn chase_leader(&mut self, node: usize, ballot: u64) {
        if self.chase.episodes == 0 || ballot <= self.chase.ballot {
            return;
        }
        self.chase.ballot = ballot;
        // Some strike before anything of it arrives, some between two of its messages.
        let farthest = self.schedule.network.one_way[node].iter().max().copied().unwrap_or_default();
        let most = if self.rng.chance(300_000) { farthest / 2 } else { farthest * 6 + self.schedule.tuning.sync.1 * 2 };
        let later = Duration::from_nanos(self.rng.below(most.as_nanos() as u64 + 1));
        self.after(later, Thing::Chase { node });
    }

    fn chase_anyone(&mut self) {
        let (node, later) = (self.rng.below(self.nodes.len() as u64) as usize, self.rng.between(5_000, 150_000));
        self.after(Duration::from_micros(later), Thing::Chase { node });
    }

    /// Strikes.
    pub(crate) fn strike_chased(&mut self, node: usize) -> Result<(), Violation> {
        if self.chase.episodes == 0 {
            return Ok(());
        }
        self.met.insert("a new leader struck");
        self.release_chased();
        match self.rng.below(4) {
            0 => self.restart_soon(node, self.schedule.tuning.election),
            kind => {
                self.note_world(node, || "is cut off".to_owned());
                self.chase.isolated = Some(node);
                self.links.cut(&isolation(node), true);
                self.tell_peers(node, Health::Down, 800_000);
                for other in (0..self.nodes.len()).filter(|&other| kind == 1 && other != node) {
                    if self.rng.chance(500_000) {
                        self.restart_soon(other, Duration::from_millis(5));
                    }
                }
            }
        }
        if !self.schedule.strategy.traits.has_leader {
            self.chase_anyone();
        }
        Ok(())
    }

    /// A node loses power and comes up within `most`.
    fn restart_soon(&mut self, node: usize, most: Duration) {
        let up_again = self.now + Duration::from_nanos(self.rng.between(1_000_000, most.as_nanos() as u64));
        self.cut_power(node, up_again);
        self.at(up_again, Thing::Restart { node });
    }

    fn release_chased(&mut self) {
        if let Some(node) = self.chase.isolated.take() {
            self.links.cut(&isolation(node), false);
        }
    }
}

fn isolation(node: usize) -> Episode {
    let nodes = ReplicaSet::one(ReplicaId(node as u8));
    Episode { fault: Fault::Split, start: Duration::ZERO, lasts: Duration::ZERO, nodes, strength: 0 }
}
