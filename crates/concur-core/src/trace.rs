//! One representation of a run: what scripts, the simulator, server logs and pictures all print.

use crate::{Instance, ReplicaId, Time};
use std::fmt;

/// One thing that happened at one replica.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TraceEvent {
    /// When.
    pub at: Time,
    /// Where.
    pub replica: ReplicaId,
    /// What.
    pub what: Happening,
}

/// What can happen at a replica.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Happening {
    /// A protocol passed through one of the transitions that it lists in its traits.
    Transition {
        /// Which.
        name: &'static str,
        /// At which instance, if at one.
        instance: Option<Instance>,
    },
    /// A message was sent.
    Sent {
        /// To whom.
        to: ReplicaId,
        /// The message, for people.
        message: String,
    },
    /// A message arrived.
    Received {
        /// From whom.
        from: ReplicaId,
        /// The message, for people.
        message: String,
    },
    /// Something was dropped, and why.
    Dropped {
        /// Why.
        why: &'static str,
    },
    /// An instance was decided.
    Decided {
        /// Which.
        instance: Instance,
        /// The value, for people.
        value: String,
    },
    /// An instance was executed.
    Executed {
        /// Which.
        instance: Instance,
    },
    /// A process or its surroundings changed: a crash, a restart, a partition.
    World {
        /// What, for people.
        text: String,
    },
}

impl fmt::Display for TraceEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = self.at.0 / 1_000_000;
        let us = self.at.0 / 1_000 % 1_000;
        write!(f, "{ms:>7}.{us:03} ms  {:<4}", self.replica.to_string())?;
        match &self.what {
            Happening::Transition { name, instance: Some(i) } => write!(f, "· {name} at {i}"),
            Happening::Transition { name, instance: None } => write!(f, "· {name}"),
            Happening::Sent { to, message } => write!(f, "→ {to}  {message}"),
            Happening::Received { from, message } => write!(f, "← {from}  {message}"),
            Happening::Dropped { why } => write!(f, "✗ dropped: {why}"),
            Happening::Decided { instance, value } => write!(f, "✓ decided {instance} = {value}"),
            Happening::Executed { instance } => write!(f, "= executed {instance}"),
            Happening::World { text } => write!(f, "! {text}"),
        }
    }
}
