//! What Multi-Paxos's replicas send, persist and wait for.

use crate::slots::{Kept, Learn};
use concur_core::{Ballot, BatchId, ReadId, Urgent, Value, wire_enum, wire_struct};

/// What an acceptor says of one slot in phase 1. Of slots that it says nothing of it has no vote.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Report {
    /// The slot.
    pub slot: u64,
    /// The ballot of its last vote there; none if it knows that the value is decided.
    pub ballot: Option<Ballot>,
    /// The value voted for, or decided.
    pub value: Value,
}

/// What replicas send each other. The owner of a ballot is the replica that prepares and leads it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Message {
    /// Do you hear a leader? Binds nobody.
    PrePrepare {
        /// Which time this replica asks, in its run.
        attempt: u64,
    },
    /// The answer to it.
    PrePrepared {
        /// Of that question.
        attempt: u64,
        /// No leader is heard: go ahead.
        granted: bool,
        /// The highest round known: a ballot has to lie above it.
        round: u64,
        /// The first slot that is kept: whoever leads must know everything below it.
        base: u64,
        /// Everything below is known to be decided.
        decided: u64,
    },
    /// Phase 1a, for every slot: join this ballot, and report from this slot on.
    Prepare {
        /// The candidate's ballot.
        ballot: Ballot,
        /// The first slot to report; what lies below, the candidate knows, or has been told in an earlier part.
        from: u64,
        /// The leader asked for this, so that nobody need protect it.
        transfer: bool,
    },
    /// Phase 1b: the ballot is joined, durably, for every slot; and so much of the votes as one message carries.
    Promise {
        /// The candidate's ballot.
        ballot: Ballot,
        /// From which slot on this reports.
        from: u64,
        /// By slot.
        reports: Vec<Report>,
        /// Where the next part begins; none if this was the last.
        next: Option<u64>,
        /// Slots below are forgotten here: they are decided, and not reported.
        base: u64,
    },
    /// What you asked belongs to a ballot that is overtaken.
    Newer {
        /// By this one.
        ballot: Ballot,
    },
    /// Prepare a ballot at once: this leader is about to go.
    HandOver {
        /// The leader's ballot.
        ballot: Ballot,
    },
    /// Phase 2a: vote for these, slot by slot from the first on.
    Accept {
        /// The leader's ballot.
        ballot: Ballot,
        /// The slot of the first value.
        first: u64,
        /// The values.
        values: Vec<Value>,
        /// Everything below is decided; see [`Message::Decided`].
        decided: u64,
    },
    /// Phase 2b: voted, durably, in all these slots.
    Accepted {
        /// The leader's ballot.
        ballot: Ballot,
        /// The first of them.
        first: u64,
        /// How many.
        count: u64,
    },
    /// I lead.
    Heartbeat {
        /// The leader's ballot.
        ballot: Ballot,
        /// The last round of reads that was begun before this was sent.
        round: u64,
        /// Everything below is decided; see [`Message::Decided`].
        decided: u64,
        /// From this slot on no vote at a lower ballot was found by the quorum that was asked.
        opened: u64,
    },
    /// The answer to it: nobody newer is known here.
    Heard {
        /// The leader's ballot.
        ballot: Ballot,
        /// The heartbeat's round.
        round: u64,
        /// Everything below is known to be decided here.
        decided: u64,
    },
    /// Everything below this slot is decided, and wherever the leader proposed something at this ballot it is what is decided. So
    /// it tells what the decision is only where one has voted at this very ballot. Sent at once to where somebody waits for it; not
    /// answered.
    Decided {
        /// The leader's ballot.
        ballot: Ballot,
        /// The first slot that is not known to be decided.
        decided: u64,
    },
    /// Find a frontier for reads.
    Read {
        /// Their name at the replica that asks.
        id: ReadId,
    },
    /// These reads may be served once this much is executed.
    ReadAt {
        /// Their name.
        id: ReadId,
        /// The leader's ballot.
        ballot: Ballot,
        /// What was decided when the round began; see [`Message::Decided`].
        decided: u64,
    },
    /// Ask somebody else, or again.
    ReadLost {
        /// Their name.
        id: ReadId,
    },
    /// Decisions that were missed.
    Learn(Learn),
}

impl Urgent for Message {
    fn urgent(&self) -> bool {
        match self {
            Self::PrePrepare { .. } | Self::PrePrepared { .. } | Self::Prepare { .. } | Self::Newer { .. } => true,
            Self::HandOver { .. } | Self::Heartbeat { .. } | Self::Heard { .. } => true,
            Self::Promise { reports, .. } => reports.is_empty(),
            // A decision must not overtake the values that it speaks of, or it says nothing.
            Self::Accept { .. } | Self::Accepted { .. } | Self::Decided { .. } => false,
            Self::Read { .. } | Self::ReadAt { .. } | Self::ReadLost { .. } | Self::Learn(_) => false,
        }
    }
}

/// What must survive a crash.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Record {
    /// A ballot was joined, for every slot at once.
    Promised {
        /// Which.
        ballot: Ballot,
    },
    /// Votes, slot by slot from the first on. The ballot was joined before.
    Accepted {
        /// The ballot.
        ballot: Ballot,
        /// The slot of the first value.
        first: u64,
        /// The values.
        values: Vec<Value>,
    },
    /// Of a checkpoint: what lies below this slot is decided, and executed state stands for it.
    Base {
        /// The first slot that is kept.
        below: u64,
    },
    /// Of a checkpoint: one slot.
    Slot {
        /// Which.
        slot: u64,
        /// What is kept of it.
        kept: Kept,
    },
}

/// What can be waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Timer {
    /// A leader was not heard, or a candidate did not get through.
    Election,
    /// A leader's next heartbeat; a candidate's next question to those who did not answer.
    Pulse,
    /// Forwarded reads to ask for again.
    Forward,
}

/// A batch that this replica proposed when it led, and what became of it is not known here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Given {
    pub(super) ballot: Ballot,
    pub(super) id: BatchId,
}

wire_struct!(Report { slot, ballot, value });
wire_enum!(Message {
    0 => PrePrepare { attempt },
    1 => PrePrepared { attempt, granted, round, base, decided },
    2 => Prepare { ballot, from, transfer },
    3 => Promise { ballot, from, reports, next, base },
    4 => Newer { ballot },
    5 => HandOver { ballot },
    6 => Accept { ballot, first, values, decided },
    7 => Accepted { ballot, first, count },
    8 => Heartbeat { ballot, round, decided, opened },
    9 => Heard { ballot, round, decided },
    10 => Decided { ballot, decided },
    11 => Read { id },
    12 => ReadAt { id, ballot, decided },
    13 => ReadLost { id },
    14 => Learn(said),
});
wire_enum!(Record {
    0 => Promised { ballot },
    1 => Accepted { ballot, first, values },
    2 => Base { below },
    3 => Slot { slot, kept },
});
