//! Executed state on disk, behind the reply path.
//!
//! State is executed and answered from memory; the engine follows. What execution changed comes here in small *bulks*, each
//! with the *mark* that the state stands at after it (opaque here; in practice an encoded frontier). A bulk and its mark are
//! one transaction. Transactions are not durable one by one: the write-ahead log is the redo log, so the engine is made
//! durable at intervals, and after a crash it stands at the mark of the last interval. The log must keep what lies above.
//!
//! - [`Engine`] is the table, [`EngineRead`] its reading side, which may be used from any thread while the other writes:
//!   [`RedbEngine`] on disk, [`MemoryEngine`] for a node without one and for tests.
//! - [`EngineThread`] writes on a thread of its own, takes bulks from a bounded queue, joins those that wait into one
//!   transaction, and reports what is written and what is durable.
//!
//! Each group has a namespace of its own. A state that was transferred from a peer is *installed*: its entries are gathered
//! beside the group's present state, and one transaction puts them in its place, so that an interrupted install leaves the old
//! state and is swept at the next opening.
//!
//! Left out: any knowledge of what keys and values mean, and any retry. The first error is final.

pub mod memory;
pub mod redb;
pub mod thread;

use std::sync::Arc;

use bytes::Bytes;
use concur_core::GroupId;
use thiserror::Error;

pub use self::memory::MemoryEngine;
pub use self::redb::{ENGINE_FORMAT_VERSION, RedbEngine};
pub use self::thread::{EngineCommand, EngineEvent, EngineOptions, EngineThread, Refused};

/// Keys and their new values; without a value the key is removed. Later entries win.
pub type Bulk = Vec<(Bytes, Option<Bytes>)>;

/// What execution changed in one group, and where its state then stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Write {
    /// The group.
    pub group: GroupId,
    /// What changed.
    pub bulk: Bulk,
    /// Where the state stands afterwards.
    pub mark: Bytes,
}

/// Why an engine stopped. Final: nothing is tried again.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("the state engine could not {operation}: {message}")]
pub struct EngineError {
    /// What was tried.
    pub operation: &'static str,
    /// The disk is full.
    pub full: bool,
    /// What the engine said.
    pub message: String,
}

/// Executed state of all groups.
pub trait Engine: Send {
    /// Applies writes, in order, in one transaction: readers see them when this returns, and they survive a crash if
    /// `durable`, or after a later call that is. An empty slice makes durable what went before.
    fn apply(&mut self, writes: &[Write], durable: bool) -> Result<(), EngineError>;

    /// Begins to gather a state for `group`, beside the one it has; gives up one that was begun before.
    fn begin_install(&mut self, group: GroupId) -> Result<(), EngineError>;

    /// Adds to the state that is gathered.
    fn install(&mut self, group: GroupId, bulk: &Bulk) -> Result<(), EngineError>;

    /// Puts the state that was gathered in the place of the group's, at `mark`; durable when this returns.
    fn finish_install(&mut self, group: GroupId, mark: &Bytes) -> Result<(), EngineError>;

    /// Gives space that is not used back to the file system. Answers whether it was done: not while somebody holds a [`View`].
    /// Readers wait meanwhile.
    fn compact(&mut self) -> Result<bool, EngineError>;

    /// The reading side.
    fn reader(&self) -> Arc<dyn EngineRead>;
}

/// The reading side of an [`Engine`]. It sees what was applied, durable or not.
pub trait EngineRead: Send + Sync {
    /// The groups that have a state.
    fn groups(&self) -> Result<Vec<GroupId>, EngineError>;

    /// Where a group's state stands; none if it has no state.
    fn mark(&self, group: GroupId) -> Result<Option<Bytes>, EngineError>;

    /// One value.
    fn get(&self, group: GroupId, key: &[u8]) -> Result<Option<Bytes>, EngineError>;

    /// A consistent view of a group's whole state, that later writes do not change; none if it has no state.
    fn view(&self, group: GroupId) -> Result<Option<View>, EngineError>;
}

/// Keys and values in the order of keys.
pub type Entries = Box<dyn Iterator<Item = Result<(Bytes, Bytes), EngineError>> + Send>;

/// Everything a group has, as it stood at one mark. To load at a start, or to stream. While it is held the engine keeps what it
/// shows, and the file grows by what is written meanwhile.
pub struct View {
    /// Where the state stands.
    pub mark: Bytes,
    begin: Box<dyn Fn() -> Result<Entries, EngineError> + Send>,
}

impl View {
    fn new(mark: Bytes, begin: impl Fn() -> Result<Entries, EngineError> + Send + 'static) -> Self {
        Self { mark, begin: Box::new(begin) }
    }

    /// Goes through the state from its beginning; the same each time.
    pub fn entries(&self) -> Result<Entries, EngineError> {
        (self.begin)()
    }
}

impl std::fmt::Debug for View {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("View").field("mark", &self.mark).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
