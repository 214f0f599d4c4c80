//! How long a decision takes at rest: closed forms of the round trips.
//!
//! At rest means no queueing, disk or processor time, a stable leader where there is one, and a client beside a replica. What a
//! protocol's messages wait for is then all there is, and a simulator without jitter measures exactly this.

use crate::{Phase, QuorumSystem, ReplicaId, ReplicaSet};
use std::time::Duration;

/// What a write of a client beside a replica waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Delay {
    /// The way to the leader and back, and the leader's round trip to its nearest quorum.
    Leader,
    /// Two round trips to the nearest quorum: to prepare, and to have accepted.
    TwoRounds,
    /// A round trip to the nearest quorum; and, where others have not said that they propose nothing before it, to them.
    Turns,
    /// A round trip to the nearest fast quorum; and, where commands collide, another one to the nearest quorum.
    Fast,
}

impl Delay {
    /// The least that a write of a client at `site` takes. `rtt[a][b]` is the round trip between the replicas of
    /// these numbers, and `leader` the number of whoever leads, where that matters.
    ///
    /// # Panics
    /// If the table has no row or column for one of them.
    pub fn least(self, quorums: &QuorumSystem, rtt: &[Vec<Duration>], leader: usize, site: usize) -> Duration {
        let nearest = |phase, site: usize| nearest(quorums, phase, &rtt[site]);
        match self {
            Self::Leader => rtt[site][leader] + nearest(Phase::Accept, leader),
            Self::TwoRounds => nearest(Phase::Prepare, site) + nearest(Phase::Accept, site),
            Self::Turns => nearest(Phase::Accept, site),
            Self::Fast => nearest(Phase::Fast, site),
        }
    }

    /// The most that it takes where other clients write at the same time, nobody loses more than one collision, and nothing else is
    /// in the way.
    pub fn most(self, quorums: &QuorumSystem, rtt: &[Vec<Duration>], leader: usize, site: usize) -> Duration {
        let least = self.least(quorums, rtt, leader, site);
        match self {
            Self::Leader => least,
            Self::TwoRounds => least * 2,
            Self::Turns => rtt[site].iter().copied().max().unwrap_or_default().max(least),
            Self::Fast => least + nearest(quorums, Phase::Accept, &rtt[site]),
        }
    }
}

/// The round trip, of a row of them by replica number, after which a quorum has answered; [`Duration::MAX`] if there is none.
pub fn nearest(quorums: &QuorumSystem, phase: Phase, row: &[Duration]) -> Duration {
    let mut order: Vec<(Duration, ReplicaId)> = row.iter().enumerate().map(|(n, &after)| (after, ReplicaId(n as u8))).collect();
    order.sort_unstable();
    let mut answered = ReplicaSet::EMPTY;
    for (after, id) in order {
        answered.insert(id);
        if quorums.is_quorum(phase, answered) {
            return after;
        }
    }
    Duration::MAX
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_waits_for_what_its_messages_need() {
        let quorums = QuorumSystem::majority(ReplicaSet::first(5));
        let row = |site: u64| (0..5_u64).map(|other| Duration::from_millis(10 * site.abs_diff(other))).collect();
        let rtt: Vec<Vec<Duration>> = (0..5).map(row).collect();
        let at = |delay: Delay, site| {
            let millis = |d: Duration| d.as_millis();
            (millis(delay.least(&quorums, &rtt, 2, site)), millis(delay.most(&quorums, &rtt, 2, site)))
        };
        assert_eq!(at(Delay::Leader, 0), (30, 30));
        assert_eq!(at(Delay::TwoRounds, 0), (40, 80));
        assert_eq!(at(Delay::Turns, 0), (20, 40));
        assert_eq!(at(Delay::Fast, 0), (30, 50));
        assert_eq!(at(Delay::Turns, 2), (10, 20));
    }
}
