//! Levels of read, and what a reply says of its freshness.

use concur_core::{Epoch, ReplicaId};

/// The consistency that a read asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Level {
    /// Some committed state, at once.
    Eventual,
    /// Linearizable.
    Strong,
}

/// What a reply says of its freshness.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Stamp {
    /// The level served.
    pub level: Level,
    /// The epoch.
    pub epoch: Epoch,
    /// How many instances the state had executed.
    pub position: u64,
    /// Who answered.
    pub replica: ReplicaId,
}
