//! What a batch is made of.

use crate::api::Refused;
use bytes::Bytes;
use concur_core::{Malformed, Reader, SessionId, Wire, wire_enum};
use concur_execution::InSession;

/// One command of a batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Item {
    /// A command of the state machine.
    Apply {
        /// Its place in a session.
        session: Option<InSession>,
        /// The command.
        body: Bytes,
    },
    /// A read that is decided as a command; only its origin answers it.
    Query {
        /// The query.
        body: Bytes,
    },
    /// A session begins.
    Open {
        /// Its name.
        session: SessionId,
    },
    /// Sessions without a command since then end.
    Expire {
        /// Logged time.
        before_ms: u64,
    },
}

wire_enum!(Item { 0 => Apply { session, body }, 1 => Query { body }, 2 => Open { session }, 3 => Expire { before_ms } });

impl Item {
    /// About how many bytes it adds to a batch.
    pub(crate) fn size_bytes(&self) -> usize {
        match self {
            Self::Apply { body, .. } | Self::Query { body } => 16 + body.len(),
            Self::Open { .. } | Self::Expire { .. } => 16,
        }
    }
}

/// Reads a batch's commands one by one; ends at the first that is malformed.
pub(crate) fn decode(commands: &Bytes) -> impl Iterator<Item = Result<Item, Malformed>> + use<> {
    let mut r = Reader::new(commands.clone());
    std::iter::from_fn(move || if r.is_empty() { None } else { Some(Item::get(&mut r)) })
}

/// What executing one item answers.
pub(crate) type Outcome = Result<Bytes, Refused>;
