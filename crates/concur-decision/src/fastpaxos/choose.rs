//! Rule O4 of the paper (§3.1): which value the votes that were reported allow.

use concur_core::{Ballot, BatchId, QuorumSystem, ReplicaId, ReplicaSet};
use std::collections::{BTreeMap, BTreeSet};

/// A vote as far as it matters here: the ballot, and the name of the value, none if it is a no-op.
pub(super) type Cast = (Ballot, Option<BatchId>);

/// The value to propose, by its name, given the last votes of those who answered, a quorum of phase 1; `None` if nobody voted, so
/// that any will do.
///
/// Only the highest ballot voted in matters. If it has one value, that one may have been chosen, or nothing was. If it has several
/// it was fast, and one may have been chosen if all who voted for it, and all who did not answer, are a fast quorum. Two cannot:
/// the fast quorums of both and the answering quorum would share a voter. If none was, the one with most votes is the likeliest
/// to be in nobody's way.
pub(super) fn choose(quorums: &QuorumSystem, responders: ReplicaSet, votes: &BTreeMap<ReplicaId, Cast>) -> Option<Option<BatchId>> {
    let answered = || votes.iter().filter(|(id, _)| responders.contains(**id));
    let highest = answered().map(|(_, (ballot, _))| *ballot).max()?;
    let voters =
        |of: Option<BatchId>| -> ReplicaSet { answered().filter(|(_, cast)| **cast == (highest, of)).map(|(&id, _)| id).collect() };
    let values: BTreeSet<Option<BatchId>> =
        answered().filter(|(_, (ballot, _))| *ballot == highest).map(|(_, (_, value))| *value).collect();
    if values.len() > 1 {
        let mut chosen = values.iter().filter(|&&value| quorums.may_be_chosen(responders, voters(value)));
        let first = chosen.next();
        assert!(chosen.next().is_none(), "two values may have been chosen: quorums do not meet");
        if let Some(&value) = first {
            return Some(value);
        }
    }
    values.iter().copied().max_by_key(|&value| (voters(value).len(), std::cmp::Reverse(value)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use concur_core::{BootCount, Phase};

    fn id(number: u64) -> Option<BatchId> {
        Some(BatchId { origin: ReplicaId(0), boot: BootCount(1), number })
    }

    fn pick(n: usize, responders: &[u8], votes: &[(u8, u64, u64)]) -> Option<Option<BatchId>> {
        let cast = |&(voter, round, value): &(u8, u64, u64)| (ReplicaId(voter), (Ballot { round, owner: ReplicaId(0) }, id(value)));
        let quorums = QuorumSystem::majority(ReplicaSet::first(n));
        choose(&quorums, responders.iter().map(|&n| ReplicaId(n)).collect(), &votes.iter().map(cast).collect())
    }

    #[test]
    fn the_highest_ballot_counts_and_one_value_is_taken() {
        assert_eq!(pick(5, &[0, 1, 2], &[]), None);
        assert_eq!(pick(5, &[0, 1, 2], &[(0, 2, 1), (1, 4, 2)]), Some(id(2)));
        assert_eq!(pick(5, &[0, 1], &[(0, 2, 1), (3, 4, 2)]), Some(id(1)), "only who answered");
    }

    #[test]
    fn of_several_the_one_that_may_have_been_chosen() {
        // Four of five choose. Of three answers two say b: with the two that are silent it may be chosen; a may not.
        assert_eq!(pick(5, &[0, 1, 2], &[(0, 2, 1), (1, 2, 2), (2, 2, 2)]), Some(id(2)));
        // All answered: neither was; the one with most votes.
        assert_eq!(pick(5, &[0, 1, 2, 3, 4], &[(0, 2, 1), (1, 2, 1), (2, 2, 2), (3, 2, 2), (4, 2, 2)]), Some(id(2)));
        // Three answers, three values.
        assert_eq!(pick(4, &[0, 1, 2], &[(0, 2, 3), (1, 2, 2), (2, 2, 1)]), Some(id(1)));
        // Six: five choose. Of four answers three say b, and two are silent.
        assert_eq!(pick(6, &[0, 1, 2, 3], &[(0, 2, 1), (1, 2, 2), (2, 2, 2), (3, 2, 2)]), Some(id(2)));
        assert_eq!(pick(7, &[0, 1, 2, 3], &[(0, 2, 1), (1, 2, 2), (2, 2, 2), (3, 2, 2)]), Some(id(2)));
    }

    /// Whatever a fast quorum has chosen is found again from any quorum of phase 1, however the others voted.
    #[test]
    fn what_a_fast_quorum_chose_is_always_taken() {
        for n in 1..=7_usize {
            let quorums = QuorumSystem::majority(ReplicaSet::first(n));
            let sets = || (0..1_u64 << n).map(ReplicaSet);
            for fast in sets().filter(|&set| quorums.is_quorum(Phase::Fast, set)) {
                for responders in sets().filter(|&set| quorums.is_quorum(Phase::Prepare, set)) {
                    let ballot = Ballot { round: 2, owner: ReplicaId(0) };
                    let others = |voter: ReplicaId| if fast.contains(voter) { 9 } else { 1 };
                    let votes = ReplicaSet::first(n).iter().map(|voter| (voter, (ballot, id(others(voter))))).collect();
                    assert_eq!(choose(&quorums, responders, &votes), Some(id(9)), "{n} voters, {fast:?} chose, {responders:?} answered");
                }
            }
        }
    }
}
