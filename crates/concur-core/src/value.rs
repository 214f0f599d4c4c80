//! What is decided: batches of commands, seals, and nothing at all.

use crate::{BatchId, Footprint, wire_enum, wire_struct};
use bytes::Bytes;

/// What one instance decides.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Value {
    /// Nothing: fills a hole, or stands for what its owner gave up.
    Noop,
    /// Commands.
    Batch(Batch),
    /// The end of the epoch.
    Seal(Seal),
}

/// Commands that are decided at once.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Batch {
    /// Its name for ever.
    pub id: BatchId,
    /// The proposer's wall clock, in milliseconds since 1970; execution never lets logged time fall.
    pub logged_ms: u64,
    /// What its commands together read and write.
    pub footprint: Footprint,
    /// The commands, in the replica's encoding.
    pub commands: Bytes,
}

/// The decision that ends an epoch. It interferes with everything.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Seal {
    /// Its name for ever.
    pub id: BatchId,
    /// The next configuration, in the encoding of peer management.
    pub body: Bytes,
}

impl Value {
    /// Its name, unless it is a no-op.
    pub fn id(&self) -> Option<BatchId> {
        match self {
            Self::Noop => None,
            Self::Batch(batch) => Some(batch.id),
            Self::Seal(seal) => Some(seal.id),
        }
    }

    /// What it interferes with. A no-op touches nothing.
    pub fn footprint(&self) -> &Footprint {
        static NOTHING: Footprint = Footprint::NOTHING;
        match self {
            Self::Noop => &NOTHING,
            Self::Batch(batch) => &batch.footprint,
            Self::Seal(_) => &Footprint::Everything,
        }
    }

    /// Whether it is a seal.
    pub fn is_seal(&self) -> bool {
        matches!(self, Self::Seal(_))
    }

    /// Whether it is a no-op.
    pub fn is_noop(&self) -> bool {
        matches!(self, Self::Noop)
    }

    /// Whether the order of the two matters. A no-op interferes with nothing, not even a seal.
    pub fn interferes(&self, other: &Value) -> bool {
        !self.is_noop() && !other.is_noop() && self.footprint().interferes(other.footprint())
    }

    /// About how many bytes it takes in memory and on the wire.
    pub fn size_bytes(&self) -> usize {
        match self {
            Self::Noop => 1,
            Self::Batch(batch) => 48 + batch.footprint.size_bytes() + batch.commands.len(),
            Self::Seal(seal) => 32 + seal.body.len(),
        }
    }
}

wire_struct!(Batch { id, logged_ms, footprint, commands });
wire_struct!(Seal { id, body });
wire_enum!(Value { 0 => Noop, 1 => Batch(batch), 2 => Seal(seal) });
