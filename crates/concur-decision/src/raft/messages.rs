//! What Raft's replicas send, persist and wait for.

use concur_core::{Malformed, Order, ReadId, Reader, ReplicaId, Urgent, Value, Wire, wire_enum, wire_newtype, wire_struct};
use std::sync::Arc;

/// A term: time cut into reigns of at most one leader each. Nobody leads term 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Term(pub u64);

/// No term lies above: messages that say so make no sense.
pub(super) const TERM_MAX: Term = Term(1 << 48);

impl Term {
    /// The term after this one.
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl Order for Term {}

/// What stands at one position of a log. Shared, so that the log, the record and the messages hold one copy.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Entry {
    /// The term whose leader appended it.
    pub term: Term,
    /// The value.
    pub value: Arc<Value>,
}

/// A prefix of a log: its length and the term of its last entry (term 0 if it is empty). Two logs that both have a point are
/// equal up to it (§5.3). Ordered by term, then length: whose log is later (§5.4.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Point {
    /// The term of the last entry.
    pub term: Term,
    /// How many entries.
    pub length: u64,
}

/// What replicas send each other.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Message {
    /// Would you vote for me in this term, the one after mine? Binds nobody (dissertation §9.6).
    PreVote {
        /// The term that would be.
        term: Term,
        /// The whole log.
        log: Point,
    },
    /// The answer to it.
    PreVoted {
        /// The term that was asked for.
        asked: Term,
        /// Yes or no.
        granted: bool,
        /// The voter's own term.
        term: Term,
    },
    /// Vote for me (§5.2).
    Vote {
        /// The candidate's term.
        term: Term,
        /// The whole log.
        log: Point,
        /// The leader asked for this election, so nobody need protect it.
        transfer: bool,
    },
    /// The answer to it, held until the vote is durable.
    Voted {
        /// The candidate's term.
        term: Term,
        /// Yes or no.
        granted: bool,
    },
    /// What you asked belongs to a term that is over.
    Newer {
        /// The term now.
        term: Term,
    },
    /// Stand for election at once (dissertation §3.10).
    HandOver {
        /// The leader's term.
        term: Term,
    },
    /// Append these behind that point (§5.3).
    Append {
        /// The leader's term.
        term: Term,
        /// What they follow.
        prior: Point,
        /// How many instances are decided.
        decided: u64,
        /// What to append.
        entries: Vec<Entry>,
    },
    /// My log agrees with yours up to this length, durably.
    Appended {
        /// The leader's term.
        term: Term,
        /// How many entries.
        length: u64,
    },
    /// My log does not have the point that an Append followed.
    Rejected {
        /// The leader's term.
        term: Term,
        /// The length of that point.
        at: u64,
        /// A length at which to try next: all there is, or where the entries of the conflicting term begin.
        hint: u64,
    },
    /// What you need is no longer kept in the log: fetch my state.
    Behind {
        /// The leader's term.
        term: Term,
        /// The state covers this many instances at least.
        base: u64,
    },
    /// I lead.
    Heartbeat {
        /// The leader's term.
        term: Term,
        /// The last round of reads that was begun before this was sent.
        round: u64,
        /// What is decided.
        decided: Point,
    },
    /// The answer to it: nobody newer is known here.
    Heard {
        /// The leader's term.
        term: Term,
        /// The heartbeat's round.
        round: u64,
    },
    /// So much is decided: sent at once to where somebody waits for it. Not answered.
    Decided {
        /// The leader's term.
        term: Term,
        /// What is decided.
        decided: Point,
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
        /// What was decided when the round began.
        decided: Point,
    },
    /// Ask somebody else, or again.
    ReadLost {
        /// Their name.
        id: ReadId,
    },
}

impl Message {
    /// The terms that it speaks of, but those of entries, which are none above its own.
    pub(super) fn terms(&self) -> [Term; 2] {
        match *self {
            Self::PreVote { term, log } | Self::Vote { term, log, .. } => [term, log.term],
            Self::PreVoted { asked, term, .. } => [asked, term],
            Self::Append { term, prior, .. } => [term, prior.term],
            Self::Heartbeat { term, decided, .. } | Self::Decided { term, decided } => [term, decided.term],
            Self::ReadAt { decided, .. } => [decided.term; 2],
            Self::Voted { term, .. }
            | Self::Newer { term }
            | Self::HandOver { term }
            | Self::Appended { term, .. }
            | Self::Rejected { term, .. }
            | Self::Behind { term, .. }
            | Self::Heard { term, .. } => [term; 2],
            Self::Read { .. } | Self::ReadLost { .. } => [Term(0); 2],
        }
    }
}

impl Urgent for Message {
    fn urgent(&self) -> bool {
        match self {
            Self::PreVote { .. } | Self::PreVoted { .. } | Self::Vote { .. } | Self::Voted { .. } => true,
            Self::Newer { .. } | Self::HandOver { .. } | Self::Heartbeat { .. } | Self::Heard { .. } => true,
            Self::Append { .. } | Self::Appended { .. } | Self::Rejected { .. } | Self::Behind { .. } => false,
            // A decision must not overtake the entries that it speaks of.
            Self::Decided { .. } | Self::Read { .. } | Self::ReadAt { .. } | Self::ReadLost { .. } => false,
        }
    }
}

/// What must survive a crash.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Record {
    /// The term, and for whom this replica voted in it.
    Ballot {
        /// The term.
        term: Term,
        /// The vote.
        vote: Option<ReplicaId>,
    },
    /// The log ends at `at` and goes on with these entries: whatever it held from there on is gone.
    Append {
        /// The position of the first.
        at: u64,
        /// The entries.
        entries: Vec<Entry>,
    },
    /// The log begins here, and is empty: executed state stands for everything before.
    Base {
        /// What the state covers.
        point: Point,
    },
}

/// What can be waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Timer {
    /// A leader was not heard, or an election did not end.
    Election,
    /// A leader's next heartbeat; a candidate's next request to those who did not answer.
    Pulse,
    /// Forwarded reads to ask for again.
    Forward,
}

impl Wire for Entry {
    fn put(&self, out: &mut Vec<u8>) {
        self.term.put(out);
        self.value.put(out);
    }
    fn get(r: &mut Reader) -> Result<Self, Malformed> {
        Ok(Self { term: Wire::get(r)?, value: Arc::new(Wire::get(r)?) })
    }
}

wire_newtype!(Term);
wire_struct!(Point { term, length });
wire_enum!(Message {
    0 => PreVote { term, log },
    1 => PreVoted { asked, granted, term },
    2 => Vote { term, log, transfer },
    3 => Voted { term, granted },
    4 => Newer { term },
    5 => HandOver { term },
    6 => Append { term, prior, decided, entries },
    7 => Appended { term, length },
    8 => Rejected { term, at, hint },
    9 => Behind { term, base },
    10 => Heartbeat { term, round, decided },
    11 => Heard { term, round },
    12 => Decided { term, decided },
    13 => Read { id },
    14 => ReadAt { id, decided },
    15 => ReadLost { id },
});
wire_enum!(Record {
    0 => Ballot { term, vote },
    1 => Append { at, entries },
    2 => Base { point },
});
