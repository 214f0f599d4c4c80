//! What replicas say to each other and keep: spans of one owner's slots, messages, records, timers.

use crate::slots::{Kept, Learn};
use concur_core::{Ballot, ReadId, ReplicaId, Urgent, Value, wire_enum, wire_struct};

/// The slots of one owner among these numbers: every n-th of them, n being the number of voters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Span {
    /// The first number.
    pub from: u64,
    /// One past the last.
    pub end: u64,
}

/// What is proposed, voted for or decided in some slots of one owner, slot by slot.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Stretch {
    /// Whose slots.
    pub owner: ReplicaId,
    /// No-ops in all of its slots there.
    pub noops: Vec<Span>,
    /// Values, each in its slot.
    pub values: Vec<(u64, Value)>,
}

/// What a voter knows of a slot when it joins a ballot for it; of several, where it is the same no-op.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Report {
    /// Which of the owner's slots.
    pub span: Span,
    /// The ballot of the vote; none if it is decided.
    pub ballot: Option<Ballot>,
    /// The value voted for or decided.
    pub value: Value,
}

/// What replicas say. The paper's names stand in brackets.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Message {
    /// The owner proposes a value in its slot, at ballot zero (SUGGEST).
    Accept {
        /// Where.
        slot: u64,
        /// What.
        value: Value,
        /// Slots of the sender's that it skipped, not yet told to everyone.
        skipped: Vec<Span>,
    },
    /// The vote is cast, and every lower unused slot of the voter's is skipped (ACCEPT).
    Accepted {
        /// Where.
        slot: u64,
        /// Slots of the sender's that it skipped, not yet told to everyone.
        skipped: Vec<Span>,
    },
    /// What the owner proposed in its slot is decided (LEARN).
    Commit {
        /// Where.
        slot: u64,
    },
    /// These are decided: an owner's skips (SKIP), what a revocation came to, or an answer to a question.
    Settled {
        /// What.
        stretch: Stretch,
    },
    /// Somebody finishes slots that are not its own, or that it lost track of: join this ballot and say what is known (PREPARE).
    Prepare {
        /// Whose slots.
        owner: ReplicaId,
        /// Which.
        span: Span,
        /// The ballot.
        ballot: Ballot,
    },
    /// The ballot is joined in all of them that are undecided here (ACK).
    Promised {
        /// Whose slots.
        owner: ReplicaId,
        /// Which.
        span: Span,
        /// The ballot.
        ballot: Ballot,
        /// What is known was reported below this number; what lies beyond did not fit.
        end: u64,
        /// What was known.
        reports: Vec<Report>,
    },
    /// A vote is asked for, in all of these slots at once (PROPOSE).
    Propose {
        /// The slots that were prepared.
        span: Span,
        /// The ballot.
        ballot: Ballot,
        /// For what.
        stretch: Stretch,
    },
    /// The vote is cast in all of them.
    Voted {
        /// Whose slots.
        owner: ReplicaId,
        /// The slots that were prepared.
        span: Span,
        /// The ballot.
        ballot: Ballot,
    },
    /// A higher ballot was joined before, in some of these slots.
    Refused {
        /// Whose slots.
        owner: ReplicaId,
        /// The slots asked about.
        span: Span,
        /// The highest ballot joined.
        ballot: Ballot,
    },
    /// These are used or lie below slots that are: what is decided of them? Their owner skips those that it has not used.
    Want {
        /// Whose slots.
        owner: ReplicaId,
        /// Which.
        span: Span,
    },
    /// Which slots may hold values?
    Query {
        /// The round of reads.
        id: ReadId,
    },
    /// None from here on.
    Known {
        /// The round of reads.
        id: ReadId,
        /// One past the last slot that may hold a value.
        known: u64,
    },
    /// How far replicas know what is decided.
    Learn {
        /// What is said.
        said: Learn,
        /// The first own slot that the sender has not used, as far as it knows.
        next: u64,
        /// What it has executed durably.
        floor: u64,
    },
}

impl Urgent for Message {
    fn urgent(&self) -> bool {
        use Message::{Known, Prepare, Query, Refused, Want};
        match self {
            Prepare { .. } | Refused { .. } | Want { .. } | Query { .. } | Known { .. } => true,
            Message::Learn { said, .. } => !matches!(said, Learn::Told { .. }),
            _ => false,
        }
    }
}

/// What must survive a crash.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Record {
    /// A vote for what the slot's owner proposes, at ballot zero; in an own slot, the proposal itself.
    Accepted {
        /// Where.
        slot: u64,
        /// What.
        value: Value,
    },
    /// Own slots are skipped: a vote for nothing at ballot zero, which settles them.
    Skipped {
        /// Which, exactly.
        spans: Vec<Span>,
    },
    /// A ballot was joined in all of these that were undecided.
    Joined {
        /// Whose slots.
        owner: ReplicaId,
        /// Which.
        span: Span,
        /// Which ballot.
        ballot: Ballot,
    },
    /// Votes at a higher ballot, in slots that were undecided.
    Voted {
        /// The ballot.
        ballot: Ballot,
        /// For what.
        stretch: Stretch,
    },
    /// The start of a checkpoint: what is forgotten.
    Base {
        /// Every slot below.
        below: u64,
    },
    /// In a checkpoint: everything about one slot.
    Whole {
        /// Which.
        slot: u64,
        /// Everything.
        kept: Kept,
    },
}

/// What can be waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Timer {
    /// The heartbeat, by which everything is sent again, asked for, suspected and given up.
    Tick,
    /// Skips that not everyone was told of were kept back for long enough.
    Flush,
}

wire_struct!(Span { from, end });
wire_struct!(Stretch { owner, noops, values });
wire_struct!(Report { span, ballot, value });
wire_enum!(Message {
    0 => Accept { slot, value, skipped },
    1 => Accepted { slot, skipped },
    2 => Commit { slot },
    3 => Settled { stretch },
    4 => Prepare { owner, span, ballot },
    5 => Promised { owner, span, ballot, end, reports },
    6 => Propose { span, ballot, stretch },
    7 => Voted { owner, span, ballot },
    8 => Refused { owner, span, ballot },
    9 => Want { owner, span },
    10 => Query { id },
    11 => Known { id, known },
    12 => Learn { said, next, floor },
});
wire_enum!(Record {
    0 => Accepted { slot, value },
    1 => Skipped { spans },
    2 => Joined { owner, span, ballot },
    3 => Voted { ballot, stretch },
    4 => Base { below },
    5 => Whole { slot, kept },
});
