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
    /// Sessions end that had no command for so long, by logged time.
    Expire {
        /// A duration and not a time: whoever proposes it reads its clock again when it makes the batch, and may read less by then.
        idle_ms: u64,
    },
}

wire_enum!(Item { 0 => Apply { session, body }, 1 => Query { body }, 2 => Open { session }, 3 => Expire { idle_ms } });

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
