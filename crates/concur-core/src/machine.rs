//! The state machine that a group replicates.

use crate::{Corrupt, Footprint};
use bytes::Bytes;

/// What the replicated commands are executed on: a key-value store, a counter, anything deterministic.
///
/// Equal commands in equal order (of those that interfere) must give equal replies and equal states, whatever the machine: no
/// clock, no randomness, no iteration in hash order. Time reaches a state machine only as [`At::time_ms`].
///
/// Its durable image is a map of byte keys to byte values, of which it reports changes; how the image is kept (an embedded
/// engine, a snapshot, a stream to a newcomer) is not its business.
pub trait StateMachine: 'static {
    /// What a command reads and writes: whether two commands interfere. A malformed command interferes with everything.
    fn footprint(&self, command: &[u8]) -> Footprint;

    /// Executes a command and answers with its reply. A refusal is a reply; malformed bytes are refused and change nothing.
    fn apply(&mut self, command: &Bytes, at: &At) -> Bytes;

    /// Answers a read from the state as it is.
    fn query(&self, query: &[u8]) -> Bytes;

    /// What a query reads.
    fn query_footprint(&self, _query: &[u8]) -> Footprint {
        Footprint::Everything
    }

    /// What changed in the durable image since the last call. Without an implementation of its own, everything.
    fn changes(&mut self) -> Vec<Change> {
        self.image().map(|(key, value)| Change { key, value: Some(value) }).collect()
    }

    /// The whole durable image, in key order.
    fn image(&self) -> Box<dyn Iterator<Item = (Bytes, Bytes)> + '_>;

    /// Replaces the state by the one that an image holds. On an error the state is as it was.
    fn load(&mut self, entries: &mut dyn Iterator<Item = (Bytes, Bytes)>) -> Result<(), Corrupt>;

    /// A hash of the whole state: equal on two replicas whose executed frontiers are equal.
    fn digest(&self) -> u64;
}

/// When and where a command is executed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct At {
    /// Logged time, in milliseconds since 1970: the proposer's clock. Where everything is ordered it never falls; in a partial
    /// order it is the batch's own, since commands that commute must not see each other's time.
    pub time_ms: u64,
}

/// One change of a durable image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// The key.
    pub key: Bytes,
    /// Its value, or nothing if the key is gone.
    pub value: Option<Bytes>,
}
