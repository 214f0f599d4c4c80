//! The state machine as a witness: it does what the store does, and notes what was executed and what was read where.
//!
//! Commands that interfere form chains: ordered totally, one chain of all commands; ordered per key, a chain for each key of the
//! commands that write it. A chain is a count and a hash over its commands and their replies, kept in the durable image like the
//! rest of the state. So two replicas that executed interfering commands in different orders, or one of which skipped, repeated or
//! answered differently, give themselves away at the first command, whether they executed it, replayed it from their logs or
//! were handed it as state; and a read knows exactly which commands it saw.

use bytes::Bytes;
use concur_core::{At, Change, Corrupt, Footprint, StateMachine, Wire};
use concur_kv::{Config, Kv, Ordering, Record, Revision};
use std::cell::RefCell;
use std::collections::BTreeMap;

/// A chain: 0 if ordered totally; a key's number if ordered per key.
pub(crate) type ChainId = u8;

/// How far a chain has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Chain {
    pub(crate) count: u64,
    pub(crate) hash: u64,
}

/// One command that was executed.
#[derive(Debug, Clone)]
pub(crate) struct Applied {
    /// The chains that it extended, as they stand behind it.
    pub(crate) chains: Vec<(ChainId, Chain)>,
    pub(crate) body: Bytes,
    pub(crate) reply: Bytes,
    pub(crate) time_ms: u64,
    /// What each revision changed, as a hash.
    pub(crate) changes: Vec<(Revision, u64)>,
}

/// One query that was answered, and how far each chain had come.
#[derive(Debug, Clone)]
pub(crate) struct Looked {
    pub(crate) query: Bytes,
    pub(crate) chains: Vec<(ChainId, u64)>,
}

/// What was noted since it was last taken.
#[derive(Debug, Default)]
pub(crate) struct Notes {
    pub(crate) applied: Vec<Applied>,
    pub(crate) looked: Vec<Looked>,
}

/// The store, watched.
#[derive(Debug)]
pub(crate) struct Witness {
    kv: Kv,
    keys: u8,
    chains: BTreeMap<ChainId, Chain>,
    dirty: Vec<ChainId>,
    notes: RefCell<Notes>,
}

/// The name of a key.
pub(crate) fn key(number: u8) -> Bytes {
    const KEYS: [&[u8]; 9] = [b"k0", b"k1", b"k2", b"k3", b"k4", b"k5", b"k6", b"k7", b"k8"];
    Bytes::from_static(KEYS[usize::from(number)])
}

const PREFIX: u8 = b'w';

/// A quick hash for fingerprints and chains, not for tables.
pub(crate) fn mix(hash: u64, bytes: &[u8]) -> u64 {
    let mut hash = hash ^ (bytes.len() as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let mut chunks = bytes.chunks_exact(8);
    for chunk in &mut chunks {
        hash = mix_u64(hash, u64::from_le_bytes(chunk.try_into().expect("eight bytes")));
    }
    let mut last = [0; 8];
    last[..chunks.remainder().len()].copy_from_slice(chunks.remainder());
    mix_u64(hash, u64::from_le_bytes(last))
}

/// The same for one number.
pub(crate) fn mix_u64(hash: u64, number: u64) -> u64 {
    let product = u128::from(hash ^ number) * 0x9fb2_1c65_1e98_df25_u128;
    (product as u64 ^ (product >> 64) as u64).rotate_left(23) ^ number.wrapping_mul(0xd6e8_feb8_6659_fd93)
}

/// A hash over what a revision changed.
pub(crate) fn hash_of(records: &[Record]) -> u64 {
    records.iter().fold(0, |hash, record| mix(hash, record.as_ref()))
}

impl Witness {
    pub(crate) fn new(ordering: Ordering, keys: u8) -> Self {
        let kv = Kv::new(Config { ordering, ..Config::default() });
        Self { kv, keys, chains: BTreeMap::new(), dirty: Vec::new(), notes: RefCell::default() }
    }

    /// What was noted since the last call is moved behind `into`.
    pub(crate) fn take_notes(&self, into: &mut Notes) {
        let mut notes = self.notes.borrow_mut();
        into.applied.append(&mut notes.applied);
        into.looked.append(&mut notes.looked);
    }

    /// The store.
    pub(crate) fn kv(&self) -> &Kv {
        &self.kv
    }

    /// How far the chains have come.
    pub(crate) fn chains(&self) -> &BTreeMap<ChainId, Chain> {
        &self.chains
    }

    fn touched(&self, command: &[u8]) -> Vec<ChainId> {
        if self.kv.config().ordering == Ordering::Total {
            return vec![0];
        }
        let Footprint::Spans { writes, .. } = self.kv.footprint(command) else { return (0..=self.keys).collect() };
        (0..=self.keys).filter(|&number| writes.iter().any(|span| span.contains(&key(number)))).collect()
    }

    fn extend(&mut self, id: ChainId, body: &[u8], reply: &[u8]) -> Chain {
        let chain = self.chains.entry(id).or_default();
        chain.count += 1;
        chain.hash = mix(mix(mix_u64(chain.hash, chain.count), body), reply);
        let chain = *chain;
        if !self.dirty.contains(&id) {
            self.dirty.push(id);
        }
        chain
    }

    fn entry(&self, id: ChainId) -> (Bytes, Bytes) {
        let chain = self.chains.get(&id).copied().unwrap_or_default();
        (Bytes::copy_from_slice(&[PREFIX, id]), (chain.count, chain.hash).to_bytes())
    }
}

impl StateMachine for Witness {
    fn footprint(&self, command: &[u8]) -> Footprint {
        self.kv.footprint(command)
    }

    fn apply(&mut self, command: &Bytes, at: &At) -> Bytes {
        let reply = self.kv.apply(command, at);
        let touched = self.touched(command);
        let chains = touched.into_iter().map(|id| (id, self.extend(id, command, &reply))).collect();
        let changes = self.kv.applied().chunk_by(|a, b| a.revision() == b.revision());
        let changes = changes.map(|records| (records[0].revision(), hash_of(records))).collect();
        let applied = Applied { chains, body: command.clone(), reply: reply.clone(), time_ms: at.time_ms, changes };
        self.notes.borrow_mut().applied.push(applied);
        reply
    }

    fn query(&self, query: &[u8]) -> Bytes {
        let chains = self.chains.iter().map(|(&id, chain)| (id, chain.count)).collect();
        self.notes.borrow_mut().looked.push(Looked { query: Bytes::copy_from_slice(query), chains });
        self.kv.query(query)
    }

    fn changes(&mut self) -> Vec<Change> {
        let mut changes = StateMachine::changes(&mut self.kv);
        for id in std::mem::take(&mut self.dirty) {
            let (key, value) = self.entry(id);
            changes.push(Change { key, value: Some(value) });
        }
        changes
    }

    fn image(&self) -> Box<dyn Iterator<Item = (Bytes, Bytes)> + '_> {
        Box::new(StateMachine::image(&self.kv).chain(self.chains.keys().map(|&id| self.entry(id))))
    }

    fn load(&mut self, entries: &mut dyn Iterator<Item = (Bytes, Bytes)>) -> Result<(), Corrupt> {
        self.chains.clear();
        self.dirty.clear();
        let mut inner = Vec::new();
        for (key, value) in entries {
            match key[..] {
                [PREFIX, id] => {
                    let (count, hash) = Wire::from_bytes(&value)?;
                    self.chains.insert(id, Chain { count, hash });
                }
                _ => inner.push((key, value)),
            }
        }
        self.kv.load(&mut inner.into_iter())
    }

    fn digest(&self) -> u64 {
        self.chains.iter().fold(self.kv.digest(), |hash, (&id, chain)| mix_u64(mix_u64(hash, u64::from(id)), chain.hash))
    }
}
