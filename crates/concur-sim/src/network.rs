//! Links between nodes, and between clients and nodes.

use crate::fault::{Episode, Fault};
use crate::schedule::Network;
use concur_core::{ReplicaId, ReplicaSet, Rng};
use std::time::Duration;

/// The state of all links.
#[derive(Debug)]
pub(crate) struct Links {
    size: usize,
    /// How many episodes cut a link, from × to.
    cuts: Vec<u16>,
    /// How many episodes cut a node's clients off.
    client_cuts: Vec<u16>,
    /// Episodes that lose, repeat and delay messages.
    noise: Vec<Episode>,
    /// Flapping partitions that are cut at this moment.
    flapping: Vec<usize>,
    loss_per_million: u32,
}

/// What becomes of a message that is sent: when its copies arrive.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Fate {
    pub(crate) first: Option<Duration>,
    pub(crate) second: Option<Duration>,
    /// The second copy arrives whatever the link does by then.
    pub(crate) stale: bool,
}

impl Links {
    pub(crate) fn new(size: usize, network: &Network) -> Self {
        let (cuts, client_cuts) = (vec![0; size * size], vec![0; size]);
        Self { size, cuts, client_cuts, noise: Vec::new(), flapping: Vec::new(), loss_per_million: network.loss_per_million }
    }

    fn at(&mut self, from: usize, to: usize) -> &mut u16 {
        &mut self.cuts[from * self.size + to]
    }

    pub(crate) fn is_cut(&self, from: usize, to: usize) -> bool {
        self.cuts[from * self.size + to] > 0
    }

    pub(crate) fn is_client_cut(&self, node: usize) -> bool {
        self.client_cuts[node] > 0
    }

    /// Everything works, from now on.
    pub(crate) fn heal(&mut self) {
        self.cuts.fill(0);
        self.client_cuts.fill(0);
        self.noise.clear();
        self.flapping.clear();
        self.loss_per_million = 0;
    }

    /// An episode of noise begins or ends.
    pub(crate) fn noise(&mut self, episode: &Episode, on: bool) {
        if on {
            self.noise.push(episode.clone());
        } else if let Some(index) = self.noise.iter().position(|other| other == episode) {
            self.noise.remove(index);
        }
    }

    /// An episode that cuts links begins or ends. `places` says where each machine stands among those that are in.
    pub(crate) fn cut(&mut self, episode: &Episode, places: &[usize], on: bool) {
        for from in 0..self.size {
            for to in 0..self.size {
                if from == to || !cuts(episode, places, from, to) {
                    continue;
                }
                let cut = self.at(from, to);
                *cut = if on { *cut + 1 } else { cut.saturating_sub(1) };
            }
        }
    }

    /// A flapping partition is cut or open from now on.
    pub(crate) fn flap(&mut self, index: usize, episode: &Episode, places: &[usize], on: bool) {
        if on == self.flapping.contains(&index) {
            return;
        }
        self.flapping.retain(|&other| other != index);
        self.flapping.extend(on.then_some(index));
        self.cut(episode, places, on);
    }

    /// An episode that cuts clients off begins or ends.
    pub(crate) fn cut_clients(&mut self, nodes: ReplicaSet, on: bool) {
        for node in nodes.iter() {
            let cut = &mut self.client_cuts[usize::from(node.0)];
            *cut = if on { *cut + 1 } else { cut.saturating_sub(1) };
        }
    }

    /// A message is sent over a link that is not cut.
    pub(crate) fn send(&self, network: &Network, from: usize, to: usize, rng: &mut Rng) -> Fate {
        let base = network.one_way[from][to];
        let jitter = network.jitter.as_nanos() as u64;
        let delay = if jitter == 0 { base } else { base + Duration::from_nanos(rng.below(jitter)) };
        let mut fate = Fate { first: Some(delay), ..Fate::default() };
        if self.loss_per_million > 0 && rng.chance(self.loss_per_million) {
            fate.first = None;
        }
        for episode in &self.noise {
            if episode.nodes.contains(ReplicaId(from as u8)) || episode.nodes.contains(ReplicaId(to as u8)) {
                disturb(episode, &mut fate, delay, rng);
            }
        }
        fate
    }
}

fn disturb(episode: &Episode, fate: &mut Fate, delay: Duration, rng: &mut Rng) {
    let strength = episode.strength;
    match episode.fault {
        Fault::Loss if rng.chance(strength * 6_000) => fate.first = None,
        Fault::Duplicate if rng.chance(strength * 5_000) => fate.second = Some(delay + Duration::from_micros(rng.below(30_000))),
        Fault::Reorder if rng.chance(300_000) => {
            let later = Duration::from_micros(rng.below(u64::from(strength) * 1_000));
            fate.first = fate.first.map(|first| first + later);
        }
        // From 1 ms to 10 s, each power of ten as likely.
        Fault::Delay if rng.chance(300_000) => {
            let most = 10_u64.pow(3 + rng.below(1 + u64::from(strength) * 4 / 100) as u32);
            let later = Duration::from_micros(rng.between(1_000, most.max(1_001)));
            fate.first = fate.first.map(|first| first + later);
        }
        Fault::Stale if rng.chance(strength * 300) => {
            fate.second = Some(Duration::from_millis(rng.between(300, 10_000)));
            fate.stale = true;
        }
        _ => {}
    }
}

/// Whether an episode cuts the link `from` → `to`.
fn cuts(episode: &Episode, places: &[usize], from: usize, to: usize) -> bool {
    let inside = |node: usize| episode.nodes.contains(ReplicaId(node as u8));
    let size = places.iter().max().map_or(1, |last| last + 1);
    let first = episode.nodes.iter().next().map_or(0, |id| places[usize::from(id.0)]);
    // Places counted from the first node of the episode.
    let place = |node: usize| (places[node] + size - first) % size;
    match episode.fault {
        Fault::Split | Fault::Flap => inside(from) != inside(to),
        Fault::OneWay => inside(from) && !inside(to),
        Fault::Bridge => {
            let side = |node: usize| place(node) <= size / 2;
            place(from) != 0 && place(to) != 0 && side(from) != side(to)
        }
        Fault::Chain => place(from).abs_diff(place(to)) > 1,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn episode(fault: Fault, nodes: &[u8]) -> Episode {
        let nodes = nodes.iter().map(|&n| ReplicaId(n)).collect();
        Episode { fault, start: Duration::ZERO, lasts: Duration::ZERO, nodes, strength: 50 }
    }

    fn network() -> Network {
        Network { one_way: vec![vec![Duration::ZERO; 5]; 5], jitter: Duration::ZERO, loss_per_million: 0, client: Duration::ZERO }
    }

    #[test]
    fn partitions_cut_what_they_are_named_for() {
        for (fault, nodes, cut, open) in [
            (Fault::Split, &[0_u8, 1][..], (0, 2), (0, 1)),
            (Fault::OneWay, &[0], (0, 1), (1, 0)),
            (Fault::Bridge, &[2], (3, 0), (3, 2)),
            (Fault::Bridge, &[2], (1, 4), (2, 1)),
            (Fault::Chain, &[0], (0, 2), (1, 2)),
        ] {
            let mut links = Links::new(5, &network());
            links.cut(&episode(fault, nodes), &[0, 1, 2, 3, 4], true);
            assert!(links.is_cut(cut.0, cut.1), "{fault}");
            assert!(!links.is_cut(open.0, open.1), "{fault}");
            links.cut(&episode(fault, nodes), &[0, 1, 2, 3, 4], false);
            assert!(links.cuts.iter().all(|&cut| cut == 0));
        }
    }
}
