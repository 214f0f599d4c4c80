//! A state machine small enough to know by heart: sums a key.

use bytes::Bytes;
use concur_core::{At, Change, Corrupt, Footprint, StateMachine};
use std::collections::{BTreeMap, BTreeSet};

/// A command is a key and an amount to add, a byte each; the reply and the answer to a query of one key is the sum.
#[derive(Debug, Default, Clone)]
pub(crate) struct Tally {
    /// How many commands and what sum, a key.
    pub(crate) sums: BTreeMap<u8, (u64, u64)>,
    dirty: BTreeSet<u8>,
    /// The logged time of the latest command, where it may not fall.
    ordered_ms: Option<u64>,
}

impl Tally {
    pub(crate) fn new(total_order: bool) -> Self {
        Self { ordered_ms: total_order.then_some(0), ..Self::default() }
    }

    pub(crate) fn commands(&self) -> u64 {
        self.sums.values().map(|&(count, _)| count).sum()
    }
}

pub(crate) fn sum_of(body: &Bytes) -> u64 {
    u64::from_le_bytes(body[..].try_into().expect("a sum"))
}

impl StateMachine for Tally {
    fn footprint(&self, command: &[u8]) -> Footprint {
        match command {
            [key, _] => Footprint::write(Bytes::copy_from_slice(&[*key])),
            _ => Footprint::Everything,
        }
    }

    fn apply(&mut self, command: &Bytes, at: &At) -> Bytes {
        if let Some(latest) = &mut self.ordered_ms {
            assert!(at.time_ms >= *latest, "logged time fell");
            *latest = at.time_ms;
        }
        let [key, amount] = command[..] else { return Bytes::new() };
        let (count, sum) = self.sums.entry(key).or_default();
        *count += 1;
        *sum += u64::from(amount);
        self.dirty.insert(key);
        Bytes::copy_from_slice(&sum.to_le_bytes())
    }

    fn query(&self, query: &[u8]) -> Bytes {
        let sum = self.sums.get(&query[0]).map_or(0, |&(_, sum)| sum);
        Bytes::copy_from_slice(&sum.to_le_bytes())
    }

    fn changes(&mut self) -> Vec<Change> {
        let dirty = std::mem::take(&mut self.dirty);
        let value = |key: &u8| self.sums.get(key).map(|&sum| value_of(sum));
        dirty.iter().map(|key| Change { key: Bytes::copy_from_slice(&[*key]), value: value(key) }).collect()
    }

    fn image(&self) -> Box<dyn Iterator<Item = (Bytes, Bytes)> + '_> {
        Box::new(self.sums.iter().map(|(key, &sum)| (Bytes::copy_from_slice(&[*key]), value_of(sum))))
    }

    fn load(&mut self, entries: &mut dyn Iterator<Item = (Bytes, Bytes)>) -> Result<(), Corrupt> {
        let mut sums = BTreeMap::new();
        for (key, value) in entries {
            let numbers: [u8; 16] = value[..].try_into().map_err(|_| Corrupt::new("a sum"))?;
            let numbers = u128::from_le_bytes(numbers);
            sums.insert(key[0], ((numbers >> 64) as u64, numbers as u64));
        }
        (self.sums, self.dirty) = (sums, BTreeSet::new());
        Ok(())
    }

    fn digest(&self) -> u64 {
        let mix = |hash: u64, n: u64| (hash ^ n).wrapping_mul(0x100_0000_01b3);
        self.sums.iter().fold(7, |hash, (&key, &(count, sum))| mix(mix(mix(hash, key.into()), count), sum))
    }
}

fn value_of((count, sum): (u64, u64)) -> Bytes {
    Bytes::copy_from_slice(&((u128::from(count) << 64) | u128::from(sum)).to_le_bytes())
}
