//! What protocols that decide slots truly share: the votes and decisions of a lane that a replica keeps, how a replica learns what it
//! missed, and how one without a leader finds out what a read must wait for.
//!
//! It knows no protocol. What a vote is for and when it counts is each protocol's own; so are ballots and quorums, and all timers.

mod learn;
mod log;
mod read;

pub use learn::Learn;
pub(crate) use learn::{Lesson, Peers};
pub use log::{Kept, Vote};
pub(crate) use log::{Slot, Slots};
pub(crate) use read::Reads;
