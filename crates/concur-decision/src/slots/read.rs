//! Reads without a leader: a quorum says which slots it knows of, and everything below is executed first (Charapko, Ailijani and
//! Demirbas, "Linearizable Quorum Reads in Paxos", 2019).
//!
//! **Why it is linearizable.** A write that was acknowledged before the read began was decided: a quorum voted for it, durably, in
//! some slot. The quorum that the read asks meets that one, so that the common member answers, after the read began, with a number
//! above that slot: it has the vote, or a later one there, or the decision, or has forgotten the slot and everything below its base
//! is known of. Neither question nor answer waits for a record: a restart can lose only votes that were not durable, and those
//! decided nothing; answering too much is harmless. Slots that nobody uses may lie below: whoever reads drives them to a decision.

use concur_core::{Config, Phase, ReadId, ReplicaId, ReplicaSet};
use std::collections::BTreeMap;

/// How many rounds of reads may wait.
const READS_MAX: usize = 256;

/// Rounds of reads that wait for a quorum.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub(crate) struct Reads {
    rounds: BTreeMap<ReadId, Round>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Round {
    answers: ReplicaSet,
    known: u64,
    ticks: u32,
}

impl Reads {
    /// Whether nobody waits.
    pub(crate) fn is_empty(&self) -> bool {
        self.rounds.is_empty()
    }

    /// Begins a round, for which the question goes to all other voters; false if too many wait. This replica's own knowledge counts
    /// as its answer.
    pub(crate) fn begin(&mut self, id: ReadId, me: ReplicaId, known: u64) -> bool {
        let room = self.rounds.len() < READS_MAX;
        if room {
            self.rounds.insert(id, Round { answers: ReplicaSet::one(me), known, ticks: 0 });
        }
        room
    }

    /// A voter knows of no slot from `known` on.
    pub(crate) fn answered(&mut self, from: ReplicaId, id: ReadId, known: u64) {
        if let Some(round) = self.rounds.get_mut(&id) {
            round.answers.insert(from);
            round.known = round.known.max(known);
        }
    }

    /// A round that a quorum has answered, and what has to be executed first. Every quorum that could have decided meets it.
    pub(crate) fn granted(&mut self, config: &Config) -> Option<(ReadId, u64)> {
        let enough = |round: &Round| config.quorums.is_quorum(Phase::Prepare, round.answers);
        let (&id, known) = self.rounds.iter().find(|(_, round)| enough(round)).map(|(id, round)| (id, round.known))?;
        self.rounds.remove(&id);
        Some((id, known))
    }

    /// A tick has passed: those that waited for longer than so many are given up, and handed out; of the others, whom to ask again.
    pub(crate) fn tick(&mut self, limit: u32, voters: ReplicaSet) -> (Vec<ReadId>, Vec<(ReadId, ReplicaSet)>) {
        self.rounds.values_mut().for_each(|round| round.ticks += 1);
        let lost: Vec<ReadId> = self.rounds.iter().filter(|(_, round)| round.ticks > limit).map(|(&id, _)| id).collect();
        self.rounds.retain(|_, round| round.ticks <= limit);
        let due = self.rounds.iter().filter(|(_, round)| round.ticks.is_power_of_two());
        (lost, due.map(|(&id, round)| (id, voters.minus(round.answers))).collect())
    }
}
