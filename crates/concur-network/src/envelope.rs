//! What replicas of one group send each other: a protocol's messages, and what replicas do for every protocol.

use bytes::Bytes;
use concur_core::{BatchId, Epoch, Frontier, GroupId, Malformed, Reader, Value, Wire, wire_enum, wire_struct};

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
        let mut out = Vec::with_capacity(64 + self.body.size_bytes());
        out.push(VERSION);
        self.group.put(&mut out);
        self.epoch.put(&mut out);
        self.body.put(&mut out);
        Bytes::from(out)
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
    /// About how many bytes the encoding takes, where that is many.
    fn size_bytes(&self) -> usize {
        match self {
            Self::Protocol(message) => message.len(),
            Self::Forward(value) => value.size_bytes(),
            Self::State(chunk) => chunk.entries.iter().map(|(key, value)| key.len() + value.len() + 8).sum(),
            Self::Declined { .. } | Self::Progress { .. } | Self::StateWanted { .. } | Self::StateGone { .. } => 64,
        }
    }
}

wire_struct!(StateChunk { transfer, chunk, last, entries });
wire_enum!(Body {
    0 => Protocol(message),
    1 => Forward(value),
    2 => Declined { id, leader, busy },
    3 => Progress { executed, stored },
    4 => StateWanted { transfer, chunk },
    5 => State(chunk),
    6 => StateGone { transfer },
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
