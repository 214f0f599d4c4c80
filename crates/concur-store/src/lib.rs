//! What survives a crash.
//!
//! - [`log`]: the write-ahead log, one a node, with its codec and recovery apart from the disk that it lies on.
//! - [`dir`]: the data directory, its lock and its identity.

mod files;

pub mod dir;
pub mod log;

#[cfg(test)]
mod testing;
