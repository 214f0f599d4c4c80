//! One replica, composed of how messages travel, how replicas vote, and when a decision is final.
//!
//! ```text
//! client request ─ admit ─ propose ─ replicate ─ commit ─ execute ─ reply
//!                  (level,  (batch,   (protocol;   (decided,  (state    (to the waiting
//!                   limits,  forward)  persist,     sequenced) machine)   client, stamped)
//!                   timeout)           send)
//! ```
//!
//! [`Replica::step`] is that sentence. A driver offers [`Event`]s and calls `step`, which drains every queue through the stages,
//! each in a file of its own, and fills an [`Output`]: records to make durable, messages to send, replies, and changes for the
//! engine. The replica performs no I/O, reads no clock, and never waits; the simulator and the node call the same `step`.
//!
//! What protocols do not do for themselves is done here, once: batching, forwarding to whoever can propose, proposing again what
//! was lost, at-most-once, holding messages until what they promise is durable, serving reads, catching up by state.
//!
//! Who is in changes by seals: a decision that ends an epoch and names the next one's configuration. What that takes (the passage from
//! one epoch to the next, the feed that observers and stragglers follow, the proposal of changes) is here too, in the files `epoch`,
//! `feed`, `follow` and `change`; no protocol knows of it.
//!
//! Not here: sockets, disks, threads, configuration files, front doors.

mod admit;
mod api;
mod change;
mod commit;
mod epoch;
mod execute;
mod feed;
mod follow;
mod item;
mod propose;
mod read;
mod replica;
mod replicate;
mod reply;
mod transfer;

pub use api::*;
pub use concur_execution::{InSession, Level, Stamp};
pub use replica::{Replica, configuration_of, is_of_replica, kept_key, logged_ms_of, machine_key, stand_elsewhere, stand_first};
