//! The contract of Concur.
//!
//! Everything that the other crates agree on stands here: the numbers that mean something ([`ReplicaId`], [`Epoch`],
//! [`Instance`], [`BatchId`]), what is decided ([`Value`]) and executed ([`Frontier`]), which commands interfere ([`Footprint`]),
//! which sets of replicas are enough ([`QuorumSystem`]), what a replicated program is ([`StateMachine`]), and above all what a
//! consensus protocol is: [`Protocol`], a state machine that takes an [`Input`] and asks for [`Effect`]s.
//!
//! The crate knows no protocol, performs no I/O, and reads no clock: time and randomness are arguments ([`Time`], [`Rng`]).
//! It does not say how messages travel, how long anything is kept, or who the members are.

mod delay;
mod erased;
mod footprint;
mod frontier;
mod ids;
mod machine;
mod protocol;
mod quorum;
mod ranges;
mod time;
mod trace;
mod value;
pub mod wire;

pub use delay::*;
pub use erased::*;
pub use footprint::*;
pub use frontier::*;
pub use ids::*;
pub use machine::*;
pub use protocol::*;
pub use quorum::*;
pub use ranges::*;
pub use time::*;
pub use trace::*;
pub use value::*;
pub use wire::{Malformed, Reader, Wire};
