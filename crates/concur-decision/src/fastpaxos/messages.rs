//! What replicas say to each other and keep: messages, records, the timers.

use crate::slots::{Kept, Learn, Vote};
use concur_core::{Ballot, BatchId, ReadId, Urgent, Value, wire_enum, wire_struct};

/// What a voter has in one slot.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Reported {
    /// The slot.
    pub slot: u64,
    /// The vote, or the decision.
    pub kept: Kept,
}

/// How far a replica is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Progress {
    /// Every slot below is known to be decided there.
    pub decided: u64,
    /// One past the last slot known of there.
    pub known: u64,
    /// Every slot below is executed there, durably.
    pub floor: u64,
}

/// What replicas say.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Message {
    /// Would you promise this ballot? Asked before anybody is disturbed by it.
    Canvass {
        /// Which.
        ballot: Ballot,
    },
    /// The answer.
    Canvassed {
        /// The ballot that was asked about.
        ballot: Ballot,
        /// Whether it would be promised, and no coordinator seems to live here.
        granted: bool,
        /// The highest round known here.
        round: u64,
    },
    /// Phase 1a, for every slot from one on.
    Prepare {
        /// The ballot to promise.
        ballot: Ballot,
        /// The first slot of which the votes are wanted.
        from: u64,
    },
    /// Phase 1b: the ballot is promised, and these are the votes in the slots from one up to another.
    Promised {
        /// The ballot.
        ballot: Ballot,
        /// The first slot that was asked about.
        from: u64,
        /// Everything below is decided; what is forgotten of it is not in `slots`.
        below: u64,
        /// The slots from here on come with the next answer; none if this is the greatest number.
        to: u64,
        /// The votes and decisions in between.
        slots: Vec<Reported>,
    },
    /// A higher ballot is promised here.
    Refused {
        /// That one.
        ballot: Ballot,
    },
    /// The coordinator lives, and this is how slots are used at its ballot: phase 2a with "any" for every slot from `fast` on.
    Lead {
        /// Its ballot.
        ballot: Ballot,
        /// The round is fast from this slot on; if none, whoever has something to propose sends it to the coordinator.
        fast: Option<u64>,
        /// How far the coordinator is.
        progress: Progress,
    },
    /// The answer: so much is durably known here.
    Followed {
        /// The ballot.
        ballot: Ballot,
        /// From where on it is known to be fast.
        fast: Option<u64>,
        /// How far this replica is.
        progress: Progress,
    },
    /// A proposer's value, in a slot of a fast round.
    Propose {
        /// The round.
        ballot: Ballot,
        /// From where on it is fast.
        fast: u64,
        /// The slot that seems to be the next free one.
        slot: u64,
        /// The value.
        value: Value,
    },
    /// Phase 2a of a classic round.
    Accept {
        /// The ballot.
        ballot: Ballot,
        /// The slot.
        slot: u64,
        /// The value.
        value: Value,
    },
    /// Phase 2b, of either kind of round: a durable vote. In a fast round it also promises the next round for this slot.
    Voted {
        /// The ballot.
        ballot: Ballot,
        /// The slot.
        slot: u64,
        /// The name of the value, none if it is a no-op.
        id: Option<BatchId>,
    },
    /// Phase 1a of the round after a fast one, for one slot.
    Finish {
        /// The ballot to join.
        ballot: Ballot,
        /// The slot.
        slot: u64,
    },
    /// Phase 1b for one slot.
    Joined {
        /// The ballot.
        ballot: Ballot,
        /// The slot.
        slot: u64,
        /// The last vote there, if there is one.
        vote: Option<Vote>,
    },
    /// A value is decided that the receiver has voted for.
    Decided {
        /// Where.
        slot: u64,
        /// The name of the value, none if it is a no-op.
        id: Option<BatchId>,
    },
    /// A replica ticks: so far it is. Whoever rests answers how far it is, a coordinator by showing itself.
    Beat {
        /// How far it is.
        progress: Progress,
    },
    /// What is decided, told and asked for.
    Learn(Learn),
    /// Which slots do you know of? Asked for a read.
    Query {
        /// The read.
        id: ReadId,
    },
    /// The answer.
    Known {
        /// The read.
        id: ReadId,
        /// One past the last slot known of here.
        known: u64,
    },
    /// The coordinator stops: take over at once.
    TakeOver {
        /// Its ballot.
        ballot: Ballot,
    },
    /// To oneself: the disk keeps up.
    Echo {
        /// The ballot at which it was sent.
        ballot: Ballot,
    },
}

wire_struct!(Reported { slot, kept });
wire_struct!(Progress { decided, known, floor });
wire_enum!(Message {
    0 => Canvass { ballot },
    1 => Canvassed { ballot, granted, round },
    2 => Prepare { ballot, from },
    3 => Promised { ballot, from, below, to, slots },
    4 => Refused { ballot },
    5 => Lead { ballot, fast, progress },
    6 => Followed { ballot, fast, progress },
    7 => Propose { ballot, fast, slot, value },
    8 => Accept { ballot, slot, value },
    9 => Voted { ballot, slot, id },
    10 => Finish { ballot, slot },
    11 => Joined { ballot, slot, vote },
    12 => Decided { slot, id },
    13 => Learn(learn),
    14 => Query { id },
    15 => Known { id, known },
    16 => TakeOver { ballot },
    17 => Echo { ballot },
    18 => Beat { progress },
});

impl Urgent for Message {
    fn urgent(&self) -> bool {
        matches!(
            self,
            Self::Canvass { .. }
                | Self::Canvassed { .. }
                | Self::Prepare { .. }
                | Self::Refused { .. }
                | Self::Lead { .. }
                | Self::Followed { .. }
                | Self::TakeOver { .. }
                | Self::Echo { .. }
        )
    }
}

/// What survives a crash. Decisions are not among it, except in a checkpoint: a replica that lost them asks, or they are found again
/// in the votes, which saves a disk write a decision.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Record {
    /// A ballot was promised for every slot, or was learned to be fast.
    Promised {
        /// The ballot.
        ballot: Ballot,
        /// From where on it is fast, if that is known.
        fast: Option<u64>,
    },
    /// A vote was cast.
    Voted {
        /// Where.
        slot: u64,
        /// At which ballot.
        ballot: Ballot,
        /// Whether in a fast round: then the next one is promised with it.
        fast: bool,
        /// For what.
        value: Value,
    },
    /// A ballot was joined for one slot.
    Joined {
        /// Where.
        slot: u64,
        /// Which.
        ballot: Ballot,
    },
    /// Slots below are decided and forgotten.
    Base {
        /// The first slot that is kept.
        below: u64,
    },
    /// A slot, in a checkpoint.
    Slot {
        /// Which.
        slot: u64,
        /// What is kept of it.
        kept: Kept,
    },
}

wire_enum!(Record {
    0 => Promised { ballot, fast },
    1 => Voted { slot, ballot, fast, value },
    2 => Joined { slot, ballot },
    3 => Base { below },
    4 => Slot { slot, kept },
});

/// What can be waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Timer {
    /// Send again, suspect, catch up.
    Tick,
    /// A coordinator's patience with fast slots that miss votes.
    Patience,
}
