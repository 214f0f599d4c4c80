//! What survives a crash.
//!
//! - [`log`]: the write-ahead log, one a node, with its codec and recovery apart from the disk that it lies on.

pub mod log;

#[cfg(test)]
mod testing;
