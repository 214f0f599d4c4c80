//! Quorums are questions, not counts.
//!
//! A protocol asks whether a set of replicas is enough for a phase, and never compares lengths itself; so majorities, weights and
//! flexible sizes serve the same protocol. [`QuorumSystem::disjoint`] looks for two quorums that must meet and do not.

use crate::{ReplicaId, ReplicaSet};

/// The phases of a decision that need a quorum.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Phase {
    /// Phase 1: elect, prepare, recover; and whatever asks "is this ballot still the highest".
    Prepare,
    /// Phase 2: accept, append.
    Accept,
    /// A fast round.
    Fast,
}

/// Who votes, and which sets of them are enough.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct QuorumSystem {
    /// Who votes.
    pub voters: ReplicaSet,
    /// Which sets of them are enough.
    pub rule: QuorumRule,
}

/// Which sets of voters are enough for each phase.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum QuorumRule {
    /// More than half, in every phase; all but a quarter, rounded up, for a fast round (Lamport 2006 §2.2: ⌈3N/4⌉).
    Majority,
    /// At least so many, a phase (flexible quorums, Howard, Malkhi and Spiegelman 2016).
    Counts {
        /// Phase 1.
        prepare: usize,
        /// Phase 2.
        accept: usize,
        /// A fast round.
        fast: usize,
    },
    /// More than half of the sum of weights; `weights[i]` belongs to replica `i`.
    Weighted {
        /// A weight a replica number.
        weights: Vec<u64>,
    },
}

impl QuorumSystem {
    /// Majorities of `voters`.
    pub fn majority(voters: ReplicaSet) -> Self {
        Self { voters, rule: QuorumRule::Majority }
    }

    /// Whether `set` is enough for `phase`. Whoever does not vote does not count.
    pub fn is_quorum(&self, phase: Phase, set: ReplicaSet) -> bool {
        let set = set.intersection(self.voters);
        match &self.rule {
            QuorumRule::Weighted { weights } => 2 * weigh(weights, set) > weigh(weights, self.voters),
            _ => !set.is_empty() && set.len() >= self.size(phase),
        }
    }

    /// Whether a value for which `voted` voted, of the `responders` that answered, may have been chosen in a fast round: whether
    /// everyone who did not answer could complete a fast quorum (Lamport 2006 §2.2, O4).
    pub fn may_be_chosen(&self, responders: ReplicaSet, voted: ReplicaSet) -> bool {
        self.is_quorum(Phase::Fast, self.voters.minus(responders).union(voted))
    }

    /// The size of the smallest quorum of a phase.
    pub fn size(&self, phase: Phase) -> usize {
        let n = self.voters.len();
        match (&self.rule, phase) {
            (QuorumRule::Majority, Phase::Fast) => (3 * n).div_ceil(4),
            (QuorumRule::Majority, _) => n / 2 + 1,
            (QuorumRule::Counts { prepare, .. }, Phase::Prepare) => *prepare,
            (QuorumRule::Counts { accept, .. }, Phase::Accept) => *accept,
            (QuorumRule::Counts { fast, .. }, Phase::Fast) => *fast,
            (QuorumRule::Weighted { weights }, _) => smallest_weighted(weights, self.voters),
        }
    }

    /// How many replicas may be lost, whichever they are, with every phase still possible (a fast round is not counted).
    pub fn tolerates(&self) -> usize {
        let lightest_first = |set: ReplicaSet| {
            let mut ids: Vec<ReplicaId> = set.iter().collect();
            if let QuorumRule::Weighted { weights } = &self.rule {
                ids.sort_by_key(|id| weights.get(usize::from(id.0)).copied().unwrap_or(0));
            }
            ids
        };
        let ids = lightest_first(self.voters);
        let enough = |lost: usize| {
            let left: ReplicaSet = ids[..ids.len() - lost].iter().copied().collect();
            self.is_quorum(Phase::Prepare, left) && self.is_quorum(Phase::Accept, left)
        };
        (0..ids.len()).take_while(|&lost| enough(lost)).last().unwrap_or(0)
    }

    /// Two quorums, one of each phase, that do not meet, if there are such. Phases that must meet: prepare with accept, and accept
    /// with accept or prepare with prepare only where a protocol says so.
    pub fn disjoint(&self, a: Phase, b: Phase) -> Option<(ReplicaSet, ReplicaSet)> {
        match &self.rule {
            QuorumRule::Weighted { .. } => None, // Two sets of more than half of a sum share a member.
            _ => {
                let (first, second) = (self.size(a), self.size(b));
                if first.saturating_add(second) > self.voters.len() {
                    return None;
                }
                let left: ReplicaSet = self.voters.iter().take(first).collect();
                let right = self.voters.iter().skip(first).take(second).collect();
                Some((left, right))
            }
        }
    }
}

fn weigh(weights: &[u64], set: ReplicaSet) -> u64 {
    set.iter().map(|id| weights.get(usize::from(id.0)).copied().unwrap_or(0)).sum()
}

fn smallest_weighted(weights: &[u64], voters: ReplicaSet) -> usize {
    let mut each: Vec<u64> = voters.iter().map(|id| weights.get(usize::from(id.0)).copied().unwrap_or(0)).collect();
    each.sort_unstable_by(|a, b| b.cmp(a));
    let total: u64 = each.iter().sum();
    let mut sum = 0;
    let needed = each.iter().position(|weight| {
        sum += weight;
        2 * sum > total
    });
    needed.map_or(voters.len().max(1), |i| i + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(ids: &[u8]) -> ReplicaSet {
        ids.iter().map(|&n| ReplicaId(n)).collect()
    }

    #[test]
    fn a_majority_is_more_than_half_of_the_voters() {
        let q = QuorumSystem::majority(ReplicaSet::first(4));
        assert!(!q.is_quorum(Phase::Accept, set(&[0, 1])));
        assert!(q.is_quorum(Phase::Accept, set(&[0, 1, 3])));
        assert!(!q.is_quorum(Phase::Accept, set(&[0, 1, 9])));
        assert_eq!(q.tolerates(), 1);
        assert_eq!(q.disjoint(Phase::Prepare, Phase::Accept), None);
    }

    #[test]
    fn quorums_that_do_not_meet_are_shown() {
        let rule = QuorumRule::Counts { prepare: 2, accept: 2, fast: 4 };
        let q = QuorumSystem { voters: ReplicaSet::first(4), rule };
        assert_eq!(q.disjoint(Phase::Prepare, Phase::Accept), Some((set(&[0, 1]), set(&[2, 3]))));
    }

    #[test]
    fn weights_count_instead_of_heads() {
        let rule = QuorumRule::Weighted { weights: vec![3, 1, 1, 1] };
        let q = QuorumSystem { voters: ReplicaSet::first(4), rule };
        assert!(q.is_quorum(Phase::Accept, set(&[0, 2])));
        assert!(!q.is_quorum(Phase::Accept, set(&[1, 2, 3])));
        assert_eq!(q.size(Phase::Accept), 2);
    }

    #[test]
    fn a_fast_value_may_be_chosen_only_if_the_silent_can_complete_it() {
        let q = QuorumSystem::majority(ReplicaSet::first(5)); // fast: 4 of 5
        assert!(q.may_be_chosen(set(&[0, 1, 2]), set(&[0, 1])));
        assert!(!q.may_be_chosen(set(&[0, 1, 2]), set(&[0])));
    }
}
