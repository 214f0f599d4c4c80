//! Which watchers a key concerns.
//!
//! Watchers of one key are found by hash. Ranges are kept by their start; a prefix, which nearly every range is, is found by
//! the prefixes of the key, so that a thousand watched prefixes cost a key of forty bytes forty look-ups and no more. Other ranges
//! are looked at one by one from the first whose start is not above the key.

use std::collections::{BTreeMap, HashMap};

use bytes::Bytes;

use super::hub::WatcherKey;

/// What a watcher watches.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Interest {
    One(Bytes),
    Prefix(Bytes),
    Range { start: Bytes, end: Bytes },
    From(Bytes),
}

impl Interest {
    /// By etcd's rules of ranges; nothing if the range is empty.
    pub(super) fn of(key: Bytes, range_end: Bytes) -> Option<Self> {
        let key = if key.is_empty() { Bytes::from_static(&[0]) } else { key };
        match &range_end[..] {
            [] => Some(Self::One(key)),
            [0] => Some(Self::From(key)),
            end if key >= end => None,
            end if prefix_end(&key).as_deref() == Some(end) => Some(Self::Prefix(key)),
            _ => Some(Self::Range { start: key, end: range_end }),
        }
    }

    pub(super) fn covers(&self, key: &[u8]) -> bool {
        match self {
            Self::One(one) => one == key,
            Self::Prefix(prefix) => key.starts_with(prefix),
            Self::Range { start, end } => start <= key && key < &end[..],
            Self::From(start) => start <= key,
        }
    }
}

/// The key behind every key with this prefix, if there is one.
fn prefix_end(prefix: &[u8]) -> Option<Vec<u8>> {
    let keep = prefix.iter().rposition(|&byte| byte != u8::MAX)?;
    let mut end = prefix[..=keep].to_vec();
    end[keep] += 1;
    Some(end)
}

#[derive(Debug, Default)]
pub(super) struct Index {
    ones: HashMap<Bytes, Vec<WatcherKey>>,
    prefixes: HashMap<Bytes, Vec<WatcherKey>>,
    /// How many prefixes have which length.
    prefix_lengths: BTreeMap<usize, usize>,
    /// By start; without an end, every key from the start on.
    ranges: BTreeMap<(Bytes, WatcherKey), Option<Bytes>>,
}

impl Index {
    pub(super) fn is_empty(&self) -> bool {
        self.ones.is_empty() && self.prefixes.is_empty() && self.ranges.is_empty()
    }

    pub(super) fn insert(&mut self, interest: &Interest, watcher: WatcherKey) {
        match interest {
            Interest::One(key) => self.ones.entry(key.clone()).or_default().push(watcher),
            Interest::Prefix(prefix) => {
                self.prefixes.entry(prefix.clone()).or_default().push(watcher);
                *self.prefix_lengths.entry(prefix.len()).or_default() += 1;
            }
            Interest::Range { start, end } => {
                self.ranges.insert((start.clone(), watcher), Some(end.clone()));
            }
            Interest::From(start) => {
                self.ranges.insert((start.clone(), watcher), None);
            }
        }
    }

    pub(super) fn remove(&mut self, interest: &Interest, watcher: WatcherKey) {
        match interest {
            Interest::One(key) => take_out(&mut self.ones, key, watcher),
            Interest::Prefix(prefix) => {
                take_out(&mut self.prefixes, prefix, watcher);
                if let Some(count) = self.prefix_lengths.get_mut(&prefix.len()) {
                    *count -= 1;
                    if *count == 0 {
                        self.prefix_lengths.remove(&prefix.len());
                    }
                }
            }
            Interest::Range { start, .. } | Interest::From(start) => {
                self.ranges.remove(&(start.clone(), watcher));
            }
        }
    }

    /// Calls `found` with each watcher of `key`.
    pub(super) fn visit(&self, key: &[u8], mut found: impl FnMut(WatcherKey)) {
        if let Some(watchers) = self.ones.get(key) {
            watchers.iter().for_each(|&watcher| found(watcher));
        }
        for (&length, _) in self.prefix_lengths.range(..=key.len()) {
            if let Some(watchers) = self.prefixes.get(&key[..length]) {
                watchers.iter().for_each(|&watcher| found(watcher));
            }
        }
        for ((start, watcher), end) in &self.ranges {
            if &start[..] > key {
                break;
            }
            if end.as_ref().is_none_or(|end| key < &end[..]) {
                found(*watcher);
            }
        }
    }
}

fn take_out(map: &mut HashMap<Bytes, Vec<WatcherKey>>, key: &Bytes, watcher: WatcherKey) {
    if let Some(watchers) = map.get_mut(key) {
        watchers.retain(|&other| other != watcher);
        if watchers.is_empty() {
            map.remove(key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(text: &'static str) -> Bytes {
        Bytes::from_static(text.as_bytes())
    }

    #[test]
    fn ranges_mean_what_etcd_means() {
        assert_eq!(Interest::of(bytes("a"), bytes("")), Some(Interest::One(bytes("a"))));
        assert_eq!(Interest::of(bytes("a"), bytes("b")), Some(Interest::Prefix(bytes("a"))));
        assert_eq!(Interest::of(bytes("a"), bytes("c")), Some(Interest::Range { start: bytes("a"), end: bytes("c") }));
        assert_eq!(Interest::of(bytes("a"), bytes("\0")), Some(Interest::From(bytes("a"))));
        assert_eq!(Interest::of(bytes(""), bytes("\0")), Some(Interest::From(bytes("\0"))));
        assert_eq!(Interest::of(bytes("b"), bytes("a")), None);
        assert_eq!(Interest::of(bytes("b"), bytes("b")), None);
        assert_eq!(prefix_end(b"a\xff"), Some(b"b".to_vec()));
        assert_eq!(prefix_end(b"\xff\xff"), None);
    }

    #[test]
    fn the_index_finds_exactly_those_that_cover_the_key() {
        let interests = [("a", ""), ("a", "b"), ("a", "c"), ("ab", "\0"), ("ab", "ac"), ("b", ""), ("", "\0"), ("abc", "abd")];
        let interests = interests.map(|(key, end)| Interest::of(bytes(key), bytes(end)).expect("not empty"));
        let mut index = Index::default();
        for (n, interest) in interests.iter().enumerate() {
            index.insert(interest, WatcherKey(n as u64));
        }
        let check = |index: &Index, left: &[usize]| {
            for key in ["a", "ab", "abc", "abcd", "ac", "b", "ba", "c", "\0", "z"] {
                let mut found = Vec::new();
                index.visit(key.as_bytes(), |watcher| found.push(watcher.0 as usize));
                found.sort_unstable();
                let wanted: Vec<usize> = left.iter().copied().filter(|&n| interests[n].covers(key.as_bytes())).collect();
                assert_eq!(found, wanted, "{key:?}");
            }
        };
        let mut left: Vec<usize> = (0..interests.len()).collect();
        check(&index, &left);
        while let Some(n) = left.pop() {
            index.remove(&interests[n], WatcherKey(n as u64));
            check(&index, &left);
        }
        assert!(index.is_empty());
    }
}
