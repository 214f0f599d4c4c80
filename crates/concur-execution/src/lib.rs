//! When a decision is final: the order in which decisions are executed ([`Sequencer`]), what has run ([`Executed`]), and the
//! levels of read ([`Level`]).
//!
//! A sequencer makes one order of what is decided: [`Slots`] the contiguous prefix, [`Graph`] the strongly connected components of
//! the committed closure. It does not execute anything itself, and knows neither clients nor the state machine.

mod executed;
mod graph;
mod level;
mod sequencer;
mod slots;

pub use executed::{Executed, InSession, Seen};
pub use graph::Graph;
pub use level::{Level, Stamp};
pub use sequencer::{Followed, Next, Sequencer};
pub use slots::Slots;
