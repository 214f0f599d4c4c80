//! What the clients ask: which operation, which key, which value.
//!
//! Every client draws from its own stream, seeded from the run's seed and the client's number, so that a run asks the same
//! things whatever the timing. Values are slices of one block of random bytes: nothing is copied before the request is
//! encoded, and no server gains by compressing them.
//!
//! What is not here: skewed keys, scans, transactions.

use bytes::Bytes;
use clap::ValueEnum;
use serde::Serialize;

/// How much more random text than one value the block holds, so that values differ.
const BLOCK_SPARE_BYTES: usize = 64 << 10;

/// What the clients of a run do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Workload {
    /// Puts to random keys.
    Put,
    /// Linearizable gets of random keys.
    Get,
    /// Gets that the asked node answers from its own state.
    GetSerializable,
    /// Puts and linearizable gets, in the ratio given.
    Mixed,
}

impl Workload {
    /// The name on the command line and in reports.
    pub fn name(self) -> &'static str {
        match self {
            Workload::Put => "put",
            Workload::Get => "get",
            Workload::GetSerializable => "get-serializable",
            Workload::Mixed => "mixed",
        }
    }

    /// Whether it reads, and so wants every key written before it begins.
    pub fn reads(self) -> bool {
        self != Workload::Put
    }
}

/// One kind of operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Action {
    Put,
    Get,
    GetSerializable,
}

impl Action {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Action::Put => "put",
            Action::Get => "get",
            Action::GetSerializable => "get-serializable",
        }
    }
}

/// What all clients of a run have in common.
#[derive(Debug, Clone)]
pub(crate) struct Shape {
    pub(crate) workload: Workload,
    /// The share of reads in a mixed workload, from 0 to 1.
    pub(crate) read_ratio: f64,
    pub(crate) key_prefix: String,
    pub(crate) keys: u64,
    pub(crate) value_bytes: usize,
    /// Random bytes, of which each value is a slice.
    pub(crate) block: Bytes,
}

impl Shape {
    pub(crate) fn new(workload: Workload, read_ratio: f64, key_prefix: &str, keys: u64, value_bytes: usize, seed: u64) -> Shape {
        assert!(keys > 0, "a key space has a key");
        let mut random = Random::new(seed, u64::MAX);
        let mut block = vec![0; value_bytes + BLOCK_SPARE_BYTES];
        for chunk in block.chunks_mut(8) {
            chunk.copy_from_slice(&random.next().to_le_bytes()[..chunk.len()]);
        }
        Shape { workload, read_ratio, key_prefix: key_prefix.to_owned(), keys, value_bytes, block: block.into() }
    }

    /// The key of that number.
    pub(crate) fn key(&self, number: u64) -> Bytes {
        format!("{}{number:08}", self.key_prefix).into()
    }

    fn value(&self, random: &mut Random) -> Bytes {
        let at = random.below(BLOCK_SPARE_BYTES as u64) as usize;
        self.block.slice(at..at + self.value_bytes)
    }
}

/// One operation, ready to be asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Operation {
    pub(crate) action: Action,
    pub(crate) key: Bytes,
    /// Empty unless it is a put.
    pub(crate) value: Bytes,
}

/// One client's stream of operations.
#[derive(Debug, Clone)]
pub(crate) struct Operations {
    shape: Shape,
    random: Random,
}

impl Operations {
    pub(crate) fn new(shape: &Shape, seed: u64, client: u64) -> Operations {
        Operations { shape: shape.clone(), random: Random::new(seed, client) }
    }

    pub(crate) fn next(&mut self) -> Operation {
        let action = match self.shape.workload {
            Workload::Put => Action::Put,
            Workload::Get => Action::Get,
            Workload::GetSerializable => Action::GetSerializable,
            Workload::Mixed if self.random.fraction() < self.shape.read_ratio => Action::Get,
            Workload::Mixed => Action::Put,
        };
        let key = self.shape.key(self.random.below(self.shape.keys));
        let value = if action == Action::Put { self.shape.value(&mut self.random) } else { Bytes::new() };
        Operation { action, key, value }
    }

    /// The put that writes the key of that number before a run that reads.
    pub(crate) fn filling(&mut self, number: u64) -> Operation {
        Operation { action: Action::Put, key: self.shape.key(number), value: self.shape.value(&mut self.random) }
    }
}

/// A stream of random numbers (SplitMix64: Steele, Lea and Flood, OOPSLA 2014).
#[derive(Debug, Clone)]
pub(crate) struct Random {
    state: u64,
}

impl Random {
    pub(crate) fn new(seed: u64, stream: u64) -> Random {
        let mut mixed = Random { state: seed };
        let state = mixed.next() ^ stream.wrapping_mul(0xd134_2543_de82_ef95);
        Random { state }
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below the bound.
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        ((u128::from(self.next()) * u128::from(bound)) >> 64) as u64
    }

    /// A number from 0 up to, but not, 1.
    fn fraction(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1_u64 << 53) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn take(workload: Workload, read_ratio: f64, seed: u64, client: u64, count: usize) -> Vec<Operation> {
        let shape = Shape::new(workload, read_ratio, "bench/", 100, 256, seed);
        let mut operations = Operations::new(&shape, seed, client);
        (0..count).map(|_| operations.next()).collect()
    }

    #[test]
    fn the_same_seed_and_client_ask_the_same_and_others_do_not() {
        assert_eq!(take(Workload::Put, 0.0, 7, 1, 50), take(Workload::Put, 0.0, 7, 1, 50));
        assert_ne!(take(Workload::Put, 0.0, 7, 1, 50), take(Workload::Put, 0.0, 7, 2, 50));
        assert_ne!(take(Workload::Put, 0.0, 7, 1, 50), take(Workload::Put, 0.0, 8, 1, 50));
    }

    #[test]
    fn random_keys_cover_the_whole_key_space_evenly() {
        let mut seen = std::collections::BTreeMap::<Bytes, u32>::new();
        for operation in take(Workload::Get, 0.0, 1, 0, 20_000) {
            *seen.entry(operation.key).or_default() += 1;
        }
        assert_eq!(seen.len(), 100);
        assert_eq!(seen.first_key_value().unwrap().0, "bench/00000000");
        assert!(seen.values().all(|count| (120..280).contains(count)), "{seen:?}");
    }

    #[test]
    fn a_mixed_workload_keeps_its_ratio_and_only_puts_carry_a_value() {
        let operations = take(Workload::Mixed, 0.75, 3, 0, 20_000);
        let reads = operations.iter().filter(|operation| operation.action == Action::Get).count();
        assert!((14_600..15_400).contains(&reads), "{reads}");
        assert!(operations.iter().all(|operation| operation.value.len() == if operation.action == Action::Put { 256 } else { 0 }));
    }
}
