//! To whom the messages of a quorum go.

use concur_core::{Phase, QuorumSystem, ReplicaId, ReplicaSet};

/// To whom a message goes that asks for a quorum.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Volume {
    /// To every voter: the quickest answers count.
    #[default]
    Broadcast,
    /// To one quorum first, the next voters by number from the sender on; whoever asks again asks everyone. Fewer messages, and a
    /// retransmission's delay when one of the quorum is away.
    Thrifty,
}

impl Volume {
    /// Whom to ask in attempt `attempt`, counted from 0. The sender is asked too if it votes.
    pub fn targets(self, quorums: &QuorumSystem, phase: Phase, attempt: u32, me: ReplicaId) -> ReplicaSet {
        if self == Self::Broadcast || attempt > 0 {
            return quorums.voters;
        }
        let after = quorums.voters.iter().filter(|&id| id >= me);
        let before = quorums.voters.iter().filter(|&id| id < me);
        let mut set = ReplicaSet::EMPTY;
        for id in after.chain(before) {
            if quorums.is_quorum(phase, set) {
                break;
            }
            set.insert(id);
        }
        set
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thrifty_asks_one_quorum_then_everyone() {
        let quorums = QuorumSystem::majority(ReplicaSet::first(5));
        let first = Volume::Thrifty.targets(&quorums, Phase::Accept, 0, ReplicaId(4));
        assert_eq!(first, [ReplicaId(4), ReplicaId(0), ReplicaId(1)].into_iter().collect());
        assert_eq!(Volume::Thrifty.targets(&quorums, Phase::Accept, 1, ReplicaId(4)), quorums.voters);
        assert_eq!(Volume::Broadcast.targets(&quorums, Phase::Accept, 0, ReplicaId(4)), quorums.voters);
    }
}
