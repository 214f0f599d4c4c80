//! Quorums: which sets are enough, for one to nine voters, looked at one by one.

use super::Examination;
use concur_core::{Phase, Protocol, QuorumSystem, ReplicaId, ReplicaSet};

impl<P: Protocol> Examination<P> {
    /// For 1 to 9 voters: everybody is a quorum and nobody is none; who is added to a quorum takes nothing from it, and who does not
    /// vote adds nothing; every two sets that are enough, one to learn what was accepted and one to accept, share a voter; and of
    /// three or more voters one may be lost.
    pub fn quorums(&self) {
        for count in 1..=9 {
            let quorums = P::quorums(ReplicaSet::first(count));
            if let Err(what) = looked_at(&quorums, count) {
                self.broke(
                    "quorums",
                    &format!("among {count} voters, {what}"),
                    "what one quorum decides the next must learn, so that they share a voter; and a group that stops when one voter does \
                     is no better than that voter",
                    "see Protocol::quorums, and QuorumSystem::disjoint",
                );
            }
        }
    }
}

fn looked_at(quorums: &QuorumSystem, count: usize) -> Result<(), String> {
    let everybody = ReplicaSet::first(count);
    if quorums.voters != everybody {
        return Err(format!("the quorum system is of {:?}", quorums.voters));
    }
    let all: Vec<ReplicaSet> = (0..1_u64 << count).map(ReplicaSet).collect();
    for phase in [Phase::Prepare, Phase::Accept, Phase::Fast] {
        let is = |set: ReplicaSet| quorums.is_quorum(phase, set);
        if !is(everybody) || is(ReplicaSet::EMPTY) {
            return Err(format!("everybody is no quorum of {phase:?}, or nobody is one"));
        }
        let outside = ReplicaId(40);
        for &set in &all {
            if is(set) != is(set.with(outside)) {
                return Err(format!("who does not vote counts in {phase:?}, beside {set:?}"));
            }
            if is(set) && everybody.iter().any(|id| !is(set.with(id))) {
                return Err(format!("{set:?} is a quorum of {phase:?}, and with one more it is none"));
            }
        }
    }
    for accepts in [Phase::Accept, Phase::Fast] {
        // The smallest are enough: whatever contains them meets whatever they meet.
        let smallest = |phase: Phase| {
            let is = move |set: ReplicaSet| quorums.is_quorum(phase, set);
            all.iter().copied().filter(move |&set| is(set) && set.iter().all(|id| !is(set.without(id))))
        };
        let second: Vec<ReplicaSet> = smallest(accepts).collect();
        let apart = smallest(Phase::Prepare).find_map(|a| Some((a, second.iter().find(|b| a.intersection(**b).is_empty())?)));
        if let Some((a, b)) = apart {
            return Err(format!("{a:?} is enough to prepare and {b:?} for {accepts:?}, and they do not meet"));
        }
    }
    match quorums.tolerates() {
        0 if count >= 3 => Err("the loss of one may stop all".into()),
        _ => Ok(()),
    }
}
