//! How messages are sent: to whom ([`Volume`]), and in what wrapping ([`Envelope`]).
//!
//! Links carry envelopes as bytes and may lose, duplicate, delay and reorder them. Nothing here opens a socket: the server and
//! the simulator carry the bytes.

mod envelope;
mod volume;

pub use envelope::{After, Body, Envelope, Fed, Feed, StateChunk};
pub use volume::Volume;
