//! What replicas of one group send each other: a protocol's messages, and what replicas do for every protocol.

use bytes::Bytes;
use concur_core::wire::encoded;
use concur_core::{
    BatchId, BootCount, Epoch, Footprint, Frontier, GroupId, Instance, Malformed, ReadId, Reader, Run, Value, Wire, wire_enum, wire_struct,
};

/// The version of the encoding; a receiver refuses others.
const VERSION: u8 = 1;

/// One message between two replicas of a group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Envelope {
    /// The group.
    pub group: GroupId,
    /// The sender's epoch.
    pub epoch: Epoch,
    /// The message.
    pub body: Body,
}

/// What is in an envelope.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Body {
    /// A message of the protocol.
    Protocol(Bytes),
    /// Please propose this for me: I cannot.
    Forward(Value),
    /// The forwarded batch is not taken up; `leader` may be better.
    Declined {
        /// Which.
        id: BatchId,
        /// Who proposes, if known.
        leader: Option<concur_core::ReplicaId>,
        /// Whether the receiver was too busy.
        busy: bool,
    },
    /// How far the sender is: what it has executed, and what it holds durably.
    Progress {
        /// Executed.
        executed: Frontier,
        /// Executed and durable.
        stored: Frontier,
        /// The life of its disk.
        incarnation: u64,
    },
    /// The sender's disk is in this life and holds nothing yet: what it said in earlier ones is gone.
    HoldsNothing {
        /// The life of its disk.
        incarnation: u64,
    },
    /// Please send your state from this chunk on; `transfer` 0 begins a new one.
    StateWanted {
        /// Which transfer.
        transfer: u64,
        /// Which chunk.
        chunk: u64,
    },
    /// A part of the sender's state.
    State(StateChunk),
    /// That transfer is not known (any more): begin again.
    StateGone {
        /// Which.
        transfer: u64,
    },
    /// Please send me what you execute, from here on and until I am silent.
    FollowWanted {
        /// What the sender has executed; `None` if it holds nothing.
        frontier: Option<Frontier>,
        /// Whether to begin at the frontier; otherwise the last part that was sent has arrived.
        begins: bool,
    },
    /// What the sender has executed, in its order.
    Feed(Feed),
    /// What you lack is not kept here: fetch my state.
    FeedGone {},
    /// Please find a frontier for a read of this footprint: I do not vote.
    BarrierWanted {
        /// The sender's name for it.
        id: ReadId,
        /// What is read.
        footprint: Footprint,
    },
    /// The read may be served once that is executed; `None`: not here, ask again.
    Barrier {
        /// Which.
        id: ReadId,
        /// When.
        frontier: Option<Frontier>,
    },
}

/// A part of what a replica executed, in its order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Feed {
    /// The run of the sender's process, which numbers what it executes.
    pub run: BootCount,
    /// What it comes behind.
    pub after: After,
    /// The number behind the last instance.
    pub through: u64,
    /// What was executed.
    pub entries: Vec<Fed>,
}

/// What a part of a feed comes behind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum After {
    /// The frontier that was asked for: whoever has not so much lacks something in between.
    Frontier(Frontier),
    /// The part before it, which this number is behind.
    Number(u64),
}

/// One decision that was executed, or a run of no-ops.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fed {
    /// The epoch in which it was decided.
    pub epoch: Epoch,
    /// Where; only no-ops, of one order, are several.
    pub run: Run,
    /// What.
    pub value: Value,
    /// Its order, encoded.
    pub order: Bytes,
}

/// A part of a state at one frontier.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StateChunk {
    /// Which transfer.
    pub transfer: u64,
    /// The how-manieth chunk, from 0.
    pub chunk: u64,
    /// Whether it is the last.
    pub last: bool,
    /// Entries of the durable image, in key order.
    pub entries: Vec<(Bytes, Bytes)>,
}

impl Envelope {
    /// The encoding, behind its version.
    pub fn encode(&self) -> Bytes {
        encoded(|out| {
            out.reserve(64 + self.body.size_bytes());
            out.push(VERSION);
            self.group.put(out);
            self.epoch.put(out);
            self.body.put(out);
        })
    }

    /// Reads one that fills `bytes`; payloads are slices of it.
    pub fn decode(bytes: &Bytes) -> Result<Self, Malformed> {
        let mut r = Reader::new(bytes.clone());
        if r.byte()? != VERSION {
            return Err(Malformed { what: "envelope of another version" });
        }
        let envelope = Self { group: Wire::get(&mut r)?, epoch: Wire::get(&mut r)?, body: Wire::get(&mut r)? };
        r.finish()?;
        Ok(envelope)
    }
}

impl Body {
    /// About how many bytes the encoding takes.
    pub fn size_bytes(&self) -> usize {
        match self {
            Self::Protocol(message) => message.len(),
            Self::Forward(value) => value.size_bytes(),
            Self::State(chunk) => chunk.entries.iter().map(|(key, value)| key.len() + value.len() + 8).sum(),
            Self::Feed(feed) => feed.entries.iter().map(Fed::size_bytes).sum(),
            Self::Declined { .. }
            | Self::Progress { .. }
            | Self::HoldsNothing { .. }
            | Self::StateWanted { .. }
            | Self::StateGone { .. }
            | Self::FollowWanted { .. }
            | Self::FeedGone {}
            | Self::BarrierWanted { .. }
            | Self::Barrier { .. } => 64,
        }
    }
}

impl Fed {
    /// About how many bytes it takes in memory and on the wire.
    pub fn size_bytes(&self) -> usize {
        32 + self.value.size_bytes() + self.order.len()
    }

    /// Takes up what was executed next, if that is one more no-op of a run; false if it is not.
    pub fn take_up(&mut self, next: &Fed) -> bool {
        let behind = Instance { number: self.run.first.number.saturating_add(self.run.count), ..self.run.first };
        let alike = self.value.is_noop() && next.value.is_noop() && self.epoch == next.epoch && self.order == next.order;
        let goes_on = alike && next.run.first == behind;
        self.run.count += if goes_on { next.run.count } else { 0 };
        goes_on
    }

    /// Instance by instance.
    pub fn each(self) -> impl Iterator<Item = Fed> {
        self.run.instances().map(move |instance| Fed { run: instance.into(), ..self.clone() })
    }
}

wire_struct!(Feed { run, after, through, entries });
wire_enum!(After { 0 => Frontier(frontier), 1 => Number(number) });
wire_struct!(Fed { epoch, run, value, order });
wire_struct!(StateChunk { transfer, chunk, last, entries });
wire_enum!(Body {
    0 => Protocol(message),
    1 => Forward(value),
    2 => Declined { id, leader, busy },
    3 => Progress { executed, stored, incarnation },
    4 => StateWanted { transfer, chunk },
    5 => State(chunk),
    6 => StateGone { transfer },
    7 => FollowWanted { frontier, begins },
    8 => Feed(feed),
    9 => FeedGone {},
    10 => BarrierWanted { id, footprint },
    11 => Barrier { id, frontier },
    12 => HoldsNothing { incarnation },
});

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn envelopes_come_back_and_cut_ones_do_not() {
        let body = Body::Forward(Value::Noop);
        let envelope = Envelope { group: GroupId(3), epoch: Epoch(1), body };
        let bytes = envelope.encode();
        assert_eq!(Envelope::decode(&bytes), Ok(envelope));
        assert!((0..bytes.len()).all(|n| Envelope::decode(&bytes.slice(..n)).is_err()));
    }
}
