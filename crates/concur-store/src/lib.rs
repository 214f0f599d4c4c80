//! What survives a crash.
//!
//! - [`log`]: the write-ahead log, one a node, with its codec and recovery apart from the disk that it lies on.
//! - [`dir`]: the data directory, its lock and its identity.
//! - [`engine`]: executed state, written behind the reply path.
//! - [`snapshot`]: a group's state as a stream of bytes.
//!
//! Nothing here knows a protocol, a runtime or a clock. The order in which a node uses the four is: open the directory, open
//! the log, note the log in the directory, load the engine, replay what the log holds above the engine's marks.

mod files;

pub mod dir;
pub mod engine;
pub mod log;
pub mod snapshot;

#[cfg(test)]
mod testing;
