//! What replicas say to each other and keep.
//!
//! Most of it is about stretches of slots, each at one ballot, so that one message serves a slot or many.

use crate::slots::{Kept, Learn, Vote};
use concur_core::{Ballot, ReadId, Urgent, Value, wire_enum, wire_struct};
use std::ops::Range;

/// Slots and rounds from here on are not used: nothing that is computed from a smaller one overflows.
pub(super) const NUMBER_MAX: u64 = 1 << 62;
/// How many slots one message may name.
pub(super) const SLOTS_MAX: u64 = 4096;

/// Slots in a row, at one ballot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Stretch {
    /// The first slot.
    pub first: u64,
    /// How many.
    pub count: u64,
    /// The ballot.
    pub ballot: Ballot,
}

impl Stretch {
    pub(super) fn slots(&self) -> Range<u64> {
        self.first..self.first + self.count
    }

    /// Whether it can be: some slots, none out of bounds, at a ballot that somebody can own.
    pub(super) fn makes_sense(&self) -> bool {
        (1..=SLOTS_MAX).contains(&self.count) && self.first < NUMBER_MAX && (1..NUMBER_MAX).contains(&self.ballot.round)
    }
}

/// Adds a slot to stretches, to the last one if it follows.
pub(super) fn push(stretches: &mut Vec<Stretch>, slot: u64, ballot: Ballot) {
    match stretches.last_mut() {
        Some(last) if last.ballot == ballot && last.slots().end == slot && last.count < SLOTS_MAX => last.count += 1,
        _ => stretches.push(Stretch { first: slot, count: 1, ballot }),
    }
}

/// Stretches in as many parts as it takes for none to name too many slots.
pub(super) fn parts(stretches: Vec<Stretch>) -> Vec<Vec<Stretch>> {
    let (mut out, mut slots) = (vec![Vec::new()], 0);
    for stretch in stretches {
        if slots + stretch.count > SLOTS_MAX {
            out.push(Vec::new());
            slots = 0;
        }
        slots += stretch.count;
        out.last_mut().expect("never empty").push(stretch);
    }
    out
}

/// Every slot of some stretches, with its ballot.
pub(super) fn each(stretches: &[Stretch]) -> impl Iterator<Item = (u64, Ballot)> + '_ {
    stretches.iter().flat_map(|stretch| stretch.slots().map(|slot| (slot, stretch.ballot)))
}

/// A promise for a slot in which the acceptor has voted.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Voted {
    /// The slot.
    pub slot: u64,
    /// The ballot that was joined.
    pub ballot: Ballot,
    /// Its last vote.
    pub vote: Vote,
}

/// A value that is put to the vote.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Proposal {
    /// The slot.
    pub slot: u64,
    /// The ballot, and the value.
    pub vote: Vote,
}

/// A ballot that came too late.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Refusal {
    /// The slot.
    pub slot: u64,
    /// The ballot that was asked for.
    pub asked: Ballot,
    /// The higher one that was joined.
    pub joined: Ballot,
}

/// What is decided in a slot.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Known {
    /// The slot.
    pub slot: u64,
    /// The value.
    pub value: Value,
}

/// What replicas send each other.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Message {
    /// Phase 1a: will you join these ballots? (The Part-Time Parliament's *NextBallot*.)
    Prepare {
        /// Where, and which.
        stretches: Vec<Stretch>,
    },
    /// Phase 1b: joined, and this is how the sender voted there last (*LastVote*).
    Promise {
        /// Where it has not voted.
        joined: Vec<Stretch>,
        /// Where it has.
        votes: Vec<Voted>,
    },
    /// Phase 2a: vote for these (*BeginBallot*).
    Accept {
        /// Where to vote for nothing.
        noops: Vec<Stretch>,
        /// Where to vote for something.
        proposals: Vec<Proposal>,
    },
    /// Phase 2b: voted (*Voted*).
    Accepted {
        /// Where, and at which ballots.
        voted: Vec<Stretch>,
    },
    /// Higher ballots were joined.
    Refused {
        /// Where.
        refusals: Vec<Refusal>,
    },
    /// These are decided (*Success*).
    Decided {
        /// With the value of a vote at this ballot: whoever voted there, at it or a higher one, has it.
        chosen: Vec<Stretch>,
        /// With this value: for those who asked.
        values: Vec<Known>,
    },
    /// What was decided here? The sender did not vote there.
    Lacking {
        /// Where.
        chosen: Vec<Stretch>,
    },
    /// How far replicas are, and what they missed.
    Learn(Learn),
    /// Reads wait: in which slots have you voted?
    Query {
        /// Their name.
        id: ReadId,
    },
    /// In none from here on.
    Bound {
        /// Their name.
        id: ReadId,
        /// One past the last slot with a vote or a decision.
        voted: u64,
    },
}

impl Urgent for Message {}

/// What must survive a crash.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Record {
    /// Of a checkpoint: everything below is decided, and executed state stands for it.
    Base {
        /// The first slot that is kept.
        below: u64,
    },
    /// Of a checkpoint: a slot.
    Kept {
        /// Which.
        slot: u64,
        /// As it was.
        kept: Kept,
    },
    /// These ballots were joined.
    Joined {
        /// Where, and which.
        stretches: Vec<Stretch>,
    },
    /// Voted for nothing, and joined the ballot.
    Passed {
        /// Where, and at which ballots.
        stretches: Vec<Stretch>,
    },
    /// Voted for a value, and joined its ballot.
    Voted {
        /// The slot.
        slot: u64,
        /// The vote.
        vote: Vote,
    },
    /// What was voted for last is decided.
    Chosen {
        /// The slot.
        slot: u64,
    },
    /// This is decided.
    Decided {
        /// The slot.
        slot: u64,
        /// What.
        value: Value,
    },
}

/// What is waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Timer {
    /// The next beat.
    Tick,
}

wire_struct!(Stretch { first, count, ballot });
wire_struct!(Voted { slot, ballot, vote });
wire_struct!(Proposal { slot, vote });
wire_struct!(Refusal { slot, asked, joined });
wire_struct!(Known { slot, value });
wire_enum!(Message {
    0 => Prepare { stretches },
    1 => Promise { joined, votes },
    2 => Accept { noops, proposals },
    3 => Accepted { voted },
    4 => Refused { refusals },
    5 => Decided { chosen, values },
    6 => Lacking { chosen },
    7 => Learn(learn),
    8 => Query { id },
    9 => Bound { id, voted },
});
wire_enum!(Record {
    0 => Base { below },
    1 => Kept { slot, kept },
    2 => Joined { stretches },
    3 => Passed { stretches },
    4 => Voted { slot, vote },
    5 => Chosen { slot },
    6 => Decided { slot, value },
});

#[cfg(test)]
mod tests {
    use super::*;
    use concur_core::{ReplicaId, Wire};

    #[test]
    fn what_is_written_is_read() {
        let ballot = Ballot { round: 2, owner: ReplicaId(1) };
        let mut stretches = Vec::new();
        [3, 4, 6].into_iter().for_each(|slot| push(&mut stretches, slot, ballot));
        assert_eq!(stretches.len(), 2);
        assert_eq!(each(&stretches).map(|(slot, _)| slot).collect::<Vec<_>>(), [3, 4, 6]);
        let vote = Vote { ballot, value: Value::Noop };
        for message in [
            Message::Prepare { stretches: stretches.clone() },
            Message::Promise { joined: stretches.clone(), votes: vec![Voted { slot: 9, ballot, vote: vote.clone() }] },
            Message::Accept { noops: stretches.clone(), proposals: vec![Proposal { slot: 9, vote: vote.clone() }] },
            Message::Refused { refusals: vec![Refusal { slot: 1, asked: ballot, joined: ballot }] },
            Message::Decided { chosen: stretches.clone(), values: vec![Known { slot: 7, value: Value::Noop }] },
            Message::Learn(Learn::Ask { from: 3 }),
        ] {
            assert_eq!(Message::from_bytes(&message.to_bytes()), Ok(message));
        }
        for record in [Record::Joined { stretches }, Record::Voted { slot: 1, vote }, Record::Chosen { slot: 1 }] {
            assert_eq!(Record::from_bytes(&record.to_bytes()), Ok(record));
        }
    }

    #[test]
    fn no_message_names_more_slots_than_are_taken_from_one() {
        let mut all = Vec::new();
        for slot in (0..5 * SLOTS_MAX).filter(|slot| slot % 3 != 0) {
            push(&mut all, slot, Ballot { round: 1, ..Ballot::default() });
        }
        let count = |stretches: &[Stretch]| stretches.iter().map(|stretch| stretch.count).sum::<u64>();
        let parts = parts(all.clone());
        assert!(parts.iter().all(|part| count(part) <= SLOTS_MAX && part.iter().all(Stretch::makes_sense)));
        assert_eq!(parts.concat(), all);
        let mut whole = Vec::new();
        (0..2 * SLOTS_MAX).for_each(|slot| push(&mut whole, slot, Ballot { round: 1, ..Ballot::default() }));
        assert!(whole.iter().all(Stretch::makes_sense));
    }
}
