//! Makes sequences of calls: the same for the same seed and number, anywhere.
//!
//! A sequence has a few keys of its own, so that its calls meet; they are chosen to lie close (`a`, `a\0`, `ab`, `a\xff`). What the
//! chances lean towards is where implementations of the API have been wrong: ranges whose end is empty, zero, or before their start;
//! revisions just around the current and the compacted one and at the ends of their range; puts, deletes and transactions inside
//! transactions that touch the same keys; numbers of an enumeration that mean nothing.

use crate::call::Call;
use crate::number::{COMPACTED, CURRENT, PICKED};
use bytes::Bytes;
use concur_proto::etcdserverpb as pb;
use pb::compare::TargetUnion;
use pb::request_op::Request;

/// Leases whose ids the calls choose.
pub(crate) const CHOSEN_LEASES: [i64; 6] = [1, 2, 7, -3, i64::MAX, i64::MIN];

/// A stream of numbers (splitmix64).
#[derive(Debug, Clone)]
pub(crate) struct Chance(u64);

impl Chance {
    pub(crate) fn new(seed: u64, sequence: u64) -> Self {
        // Mixed twice, so that sequences with numbers side by side have nothing in common.
        let mixed = Self(seed).next();
        Self(Self(mixed ^ sequence).next())
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }

    fn pick<T: Clone>(&mut self, from: &[T]) -> T {
        from[self.below(from.len() as u64) as usize].clone()
    }
}

/// What a sequence is made with.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Options {
    /// Calls in a sequence.
    pub(crate) calls: usize,
    /// Whether the real etcd is 3.7 or later: what is not sent to older ones says [`crate::normal::NOT_SENT`].
    pub(crate) modern: bool,
}

/// Makes a sequence.
pub(crate) fn sequence(seed: u64, number: u64, options: Options) -> Vec<Call> {
    let mut maker = Maker { chance: Chance::new(seed, number), keys: Vec::new(), granted: 0, watches: number.is_multiple_of(2), options };
    maker.keys = maker.some_keys();
    // One in forty is about size, and short.
    if number % 40 == 13 {
        return maker.large();
    }
    (0..options.calls).map(|_| maker.call()).collect()
}

struct Maker {
    chance: Chance,
    keys: Vec<Bytes>,
    /// Leases whose id the server picks, so far.
    granted: u64,
    /// Whether the sequence watches: watching waits, so half of them do not.
    watches: bool,
    options: Options,
}

impl Maker {
    fn some_keys(&mut self) -> Vec<Bytes> {
        let close: [&[u8]; 14] =
            [b"a", b"a\0", b"aa", b"ab", b"a\xff", b"a\xff\xff", b"b", b"c", b"\0", b"\0\0", b"\xff", b"\xff\xff", b"key/1", b"key/2"];
        let count = 3 + self.chance.below(9);
        let mut keys: Vec<Bytes> = (0..count).map(|_| Bytes::from_static(self.chance.pick(&close))).collect();
        let len = self.chance.below(6) + 1;
        keys.push((0..len).map(|_| self.chance.below(256) as u8).collect());
        if self.chance.one_in(10) {
            keys.push(vec![b'l'; 2000].into());
        }
        if self.chance.one_in(4) {
            // Many of them, so that sorts have something to do.
            keys.extend((0..30).map(|n| Bytes::from(format!("m{n:02}"))));
        }
        keys
    }

    fn key(&mut self) -> Bytes {
        if self.chance.one_in(60) {
            Bytes::new()
        } else {
            let keys = self.keys.clone();
            self.chance.pick(&keys)
        }
    }

    /// A key and the end of a range from it.
    fn span(&mut self) -> (Bytes, Bytes) {
        let key = self.key();
        let end = match self.chance.below(12) {
            0..=3 => Bytes::new(),
            4 | 5 => Bytes::from_static(b"\0"),
            6 => key.clone(),
            7 => [&key[..], b"\0"].concat().into(),
            8 => prefix_end(&key),
            _ => self.key(),
        };
        if self.chance.one_in(25) { (Bytes::from_static(b"\0"), Bytes::from_static(b"\0")) } else { (key, end) }
    }

    fn value(&mut self) -> Bytes {
        match self.chance.below(12) {
            0 => Bytes::new(),
            1 => (0..20).map(|_| self.chance.below(256) as u8).collect(),
            2 if self.chance.one_in(30) => vec![b'v'; 10_000].into(),
            _ => Bytes::from(self.chance.below(4).to_string()),
        }
    }

    fn revision(&mut self) -> i64 {
        match self.chance.below(16) {
            0..=6 => 0,
            7 => CURRENT,
            8 => CURRENT + 1,
            9 => CURRENT - 1,
            10 => CURRENT - self.chance.below(30) as i64,
            11 => COMPACTED + self.chance.below(3) as i64 - 1,
            12 => COMPACTED,
            13 => -1,
            14 => self.chance.pick(&[i64::MIN, i64::MAX, -2, 1, i64::MAX - 1]),
            _ => CURRENT - self.chance.below(8) as i64,
        }
    }

    fn bound(&mut self) -> i64 {
        match self.chance.below(10) {
            0 => self.chance.pick(&[-1, i64::MAX, i64::MIN, 1]),
            1 | 2 => CURRENT - self.chance.below(12) as i64,
            _ => 0,
        }
    }

    fn lease(&mut self) -> i64 {
        match self.chance.below(6) {
            0 | 1 => PICKED + self.chance.below(self.granted + 1) as i64,
            2 => 4242,
            _ => self.chance.pick(&CHOSEN_LEASES),
        }
    }

    fn range(&mut self) -> pb::RangeRequest {
        let (key, range_end) = self.span();
        let mut range = pb::RangeRequest { key, range_end, revision: self.revision(), ..Default::default() };
        if self.chance.one_in(3) {
            range.limit = self.chance.pick(&[1, 2, 3, 5, 100, -1, i64::MAX, i64::MIN]);
        }
        if self.chance.one_in(3) {
            range.sort_order = self.chance.pick(&[0, 1, 2, 2]);
            range.sort_target = self.chance.below(5) as i32;
        }
        if self.options.modern && self.chance.one_in(120) {
            range.sort_order = self.chance.pick(&[3, -1, 9]);
        }
        if self.options.modern && self.chance.one_in(120) {
            range.sort_target = self.chance.pick(&[5, -1, 77]);
        }
        range.serializable = self.chance.one_in(5);
        range.keys_only = self.chance.one_in(6);
        range.count_only = self.chance.one_in(8);
        if self.chance.one_in(4) {
            range.min_mod_revision = self.bound();
            range.max_mod_revision = self.bound();
            range.min_create_revision = self.bound();
            range.max_create_revision = self.bound();
        }
        range
    }

    fn put(&mut self) -> pb::PutRequest {
        let mut put = pb::PutRequest { key: self.key(), value: self.value(), prev_kv: self.chance.one_in(4), ..Default::default() };
        if self.chance.one_in(4) {
            put.lease = self.lease();
        }
        if self.chance.one_in(8) {
            put.ignore_value = true;
            if !self.chance.one_in(5) {
                put.value = Bytes::new();
            }
        }
        if self.chance.one_in(8) {
            put.ignore_lease = true;
            if !self.chance.one_in(5) {
                put.lease = 0;
            }
        }
        put
    }

    fn delete(&mut self) -> pb::DeleteRangeRequest {
        let (key, range_end) = if self.chance.one_in(2) { (self.key(), Bytes::new()) } else { self.span() };
        pb::DeleteRangeRequest { key, range_end, prev_kv: self.chance.one_in(3) }
    }

    fn txn(&mut self, depth: u64) -> pb::TxnRequest {
        let lists = if self.chance.one_in(12) { 6 } else { 3 };
        let count = |maker: &mut Self| maker.chance.below(lists);
        let compares = count(self).min(2);
        let (then, otherwise) = (count(self), count(self));
        let writes = !self.chance.one_in(3);
        pb::TxnRequest {
            compare: (0..compares).map(|_| self.compare()).collect(),
            success: (0..then).map(|_| self.op(depth, writes)).collect(),
            failure: (0..otherwise).map(|_| self.op(depth, writes)).collect(),
        }
    }

    fn op(&mut self, depth: u64, writes: bool) -> pb::RequestOp {
        let request = match self.chance.below(if writes { 12 } else { 3 }) {
            0..=2 => Request::RequestRange(self.range()),
            3..=7 => Request::RequestPut(self.put()),
            8 | 9 => Request::RequestDeleteRange(self.delete()),
            10 | 11 if depth < 3 => Request::RequestTxn(self.txn(depth + 1)),
            _ => return pb::RequestOp { request: None },
        };
        if self.chance.one_in(150) { pb::RequestOp { request: None } } else { pb::RequestOp { request: Some(request) } }
    }

    fn compare(&mut self) -> pb::Compare {
        let (key, range_end) = if self.chance.one_in(3) { self.span() } else { (self.key(), Bytes::new()) };
        let number = self.chance.below(3) as i64;
        let (target, union) = match self.chance.below(5) {
            0 => (0, TargetUnion::Version(self.chance.pick(&[0, 1, 2, number, i64::MAX, -1]))),
            1 => (1, TargetUnion::CreateRevision(self.revision())),
            2 => (2, TargetUnion::ModRevision(self.revision())),
            3 => (3, TargetUnion::Value(self.value())),
            _ => (4, TargetUnion::Lease(if self.chance.one_in(2) { 0 } else { self.lease() })),
        };
        let mut compare = pb::Compare { result: self.chance.below(4) as i32, target, key, range_end, target_union: Some(union) };
        match self.chance.below(60) {
            0 => compare.target_union = None,
            1 => compare.target = self.chance.below(5) as i32,
            2 => compare.result = self.chance.pick(&[4, -1, 99]),
            3 => compare.target = self.chance.pick(&[5, -1, 99]),
            _ => {}
        }
        compare
    }

    fn compact(&mut self) -> pb::CompactionRequest {
        let revision = match self.chance.below(8) {
            0..=3 => CURRENT - self.chance.below(12) as i64,
            4 => CURRENT + 1,
            5 => COMPACTED + self.chance.below(3) as i64 - 1,
            6 => CURRENT,
            _ => self.revision(),
        };
        pb::CompactionRequest { revision, physical: self.chance.one_in(4) }
    }

    fn grant(&mut self) -> Call {
        let id = if self.chance.one_in(3) { 0 } else { self.chance.pick(&CHOSEN_LEASES) };
        if self.chance.one_in(6) {
            let ttl = self.chance.pick(&[0, 1, 2, -1, i64::MIN]);
            return Call::GrantShort(pb::LeaseGrantRequest { id, ttl });
        }
        let ttl = self.chance.pick(&[600, 3600, 86_400, 9_000_000_000, 9_000_000_001, i64::MAX, 1 << 40]);
        if id == 0 && ttl <= 9_000_000_000 {
            self.granted += 1;
        }
        Call::Grant(pb::LeaseGrantRequest { id, ttl })
    }

    fn watch(&mut self) -> Call {
        let (key, range_end) = self.span();
        let start_revision = match self.chance.below(8) {
            0..=2 => 0,
            3 => CURRENT - self.chance.below(30) as i64,
            4 => COMPACTED + self.chance.below(3) as i64 - 1,
            5 => CURRENT + self.chance.below(6) as i64,
            6 if self.options.modern => self.chance.pick(&[-1, 1, i64::MIN, i64::MAX]),
            _ => CURRENT - self.chance.below(5) as i64,
        };
        let filters = match self.chance.below(8) {
            0 => vec![0],
            1 => vec![1],
            2 => vec![0, 1],
            3 => vec![1, 1, 9],
            _ => vec![],
        };
        let create = pb::WatchCreateRequest {
            key,
            range_end,
            start_revision,
            filters,
            progress_notify: self.chance.one_in(4),
            prev_kv: self.chance.one_in(3),
            watch_id: self.watch_id(),
            fragment: self.chance.one_in(3),
        };
        Call::Watch(self.chance.below(2) as u8, create)
    }

    fn watch_id(&mut self) -> i64 {
        if self.chance.one_in(2) { 0 } else { self.chance.pick(&[1, 2, 3, 5, -4, i64::MAX, i64::MIN]) }
    }

    fn call(&mut self) -> Call {
        if self.watches && self.chance.one_in(9) {
            return match self.chance.below(10) {
                0..=4 => self.watch(),
                5 => Call::Cancel(self.chance.below(2) as u8, self.watch_id()),
                6 if self.options.modern => Call::Progress(self.chance.below(2) as u8),
                _ => Call::Settle,
            };
        }
        match self.chance.below(100) {
            0..=35 => Call::Range(self.range()),
            36..=39 if self.options.modern => Call::RangeStream(self.range()),
            36..=60 => Call::Put(self.put()),
            61..=66 => Call::Delete(self.delete()),
            67..=88 => {
                let txn = self.txn(0);
                Call::Txn(sendable(txn))
            }
            89 => Call::Compact(self.compact()),
            90..=92 => self.grant(),
            93 | 94 => Call::Revoke(self.lease()),
            95 | 96 => Call::TimeToLive(pb::LeaseTimeToLiveRequest { id: self.lease(), keys: self.chance.one_in(2) }),
            97 | 98 => Call::KeepAlive(self.lease()),
            _ => Call::Leases,
        }
    }

    /// Values near the largest, lists of operations around the most, responses that come in parts.
    fn large(&mut self) -> Vec<Call> {
        let watch = |prev_kv, fragment, start_revision| pb::WatchCreateRequest {
            key: Bytes::from_static(b"\0"),
            range_end: Bytes::from_static(b"\0"),
            prev_kv,
            fragment,
            start_revision,
            ..Default::default()
        };
        let mut calls = vec![Call::Watch(0, watch(true, true, 0)), Call::Watch(1, watch(false, false, 0))];
        for _ in 0..6 {
            let mut txn = pb::TxnRequest::default();
            let each = self.chance.pick(&[100_000, 200_000, 300_000]);
            for at in 0..4 {
                let key = Bytes::from(format!("large{at}"));
                let put = pb::PutRequest { key, value: vec![self.chance.below(256) as u8; each].into(), ..Default::default() };
                txn.success.push(pb::RequestOp { request: Some(Request::RequestPut(put)) });
            }
            calls.push(Call::Txn(txn));
        }
        calls.extend([Call::Settle, Call::Watch(0, watch(true, true, CURRENT - 4)), Call::Settle]);
        for bytes in [1 << 20, 1_500_000, 1_640_000, 2_000_000] {
            let key = self.key();
            calls.push(Call::Put(pb::PutRequest { key, value: vec![b'x'; bytes].into(), ..Default::default() }));
        }
        for count in [127, 128, 129, 200] {
            let ranges: Vec<_> = (0..count).map(|_| pb::RequestOp { request: Some(Request::RequestRange(self.range())) }).collect();
            let inner = pb::RequestOp { request: Some(Request::RequestTxn(self.txn(2))) };
            let (success, failure) = if self.chance.one_in(2) { (ranges, vec![inner]) } else { (vec![inner], ranges) };
            calls.push(Call::Txn(sendable(pb::TxnRequest { compare: vec![self.compare()], success, failure })));
        }
        calls.extend((0..self.options.calls / 4).map(|_| self.call()));
        calls
    }
}

fn branches(txn: &pb::TxnRequest) -> impl Iterator<Item = &Request> {
    txn.success.iter().chain(&txn.failure).filter_map(|op| op.request.as_ref())
}

/// Whether a transaction deletes a range whose end is not behind its key. It may put what it deletes.
fn deletes_from_a_key_on(txn: &pb::TxnRequest) -> bool {
    branches(txn).any(|request| match request {
        Request::RequestDeleteRange(delete) => !delete.range_end.is_empty() && delete.range_end <= delete.key,
        Request::RequestTxn(inner) => deletes_from_a_key_on(inner),
        _ => false,
    })
}

/// The transaction, or what is left of one that would end a real etcd.
fn sendable(mut txn: pb::TxnRequest) -> pb::TxnRequest {
    if deletes_from_a_key_on(&txn) {
        put_nothing(&mut txn);
    }
    txn
}

/// Takes the puts out: etcd ends itself when one keeps the value of what was deleted before (3.4, 3.7), and loses the key when it
/// compacts at that revision (3.7: two versions of a key have one revision, and the tombstone alone is kept).
fn put_nothing(txn: &mut pb::TxnRequest) {
    for ops in [&mut txn.success, &mut txn.failure] {
        ops.retain(|op| !matches!(op.request, Some(Request::RequestPut(_))));
        for op in ops {
            if let Some(Request::RequestTxn(inner)) = &mut op.request {
                put_nothing(inner);
            }
        }
    }
}

/// The end of the range of everything that begins so.
fn prefix_end(key: &Bytes) -> Bytes {
    let Some(keep) = key.iter().rposition(|&byte| byte != u8::MAX) else { return Bytes::from_static(b"\0") };
    let mut end = key[..=keep].to_vec();
    end[keep] += 1;
    end.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sequence_is_the_same_for_the_same_seed_and_another_for_another() {
        let options = Options { calls: 300, modern: true };
        assert_eq!(sequence(7, 3, options), sequence(7, 3, options));
        assert_ne!(sequence(7, 3, options), sequence(7, 4, options));
        assert_ne!(sequence(7, 3, options), sequence(8, 3, options));
    }

    #[test]
    fn sequences_side_by_side_have_nothing_in_common() {
        let options = Options { calls: 50, modern: true };
        let all: Vec<Vec<Call>> = (0..12).map(|number| sequence(2, number, options)).collect();
        for (at, one) in all.iter().enumerate() {
            for other in &all[at + 1..] {
                let long = |call: &&Call| matches!(call, Call::Txn(txn) if txn.success.len() > 1);
                assert!(!one.iter().filter(long).any(|call| other.contains(call)));
            }
        }
    }

    #[test]
    fn what_ends_etcd_is_not_sent() {
        let put = pb::PutRequest { key: "a".into(), ..Default::default() };
        let delete = pb::DeleteRangeRequest { key: "a".into(), range_end: "\0".into(), prev_kv: false };
        let op = |request| pb::RequestOp { request: Some(request) };
        let inner = pb::TxnRequest { success: vec![op(Request::RequestDeleteRange(delete))], ..Default::default() };
        let success = vec![op(Request::RequestTxn(inner)), op(Request::RequestPut(put))];
        let txn = sendable(pb::TxnRequest { success, ..Default::default() });
        assert!(branches(&txn).all(|request| !matches!(request, Request::RequestPut(_))));
    }

    #[test]
    fn every_kind_of_call_comes_up() {
        let options = Options { calls: 2000, modern: true };
        let calls: Vec<Call> = (0..4).flat_map(|number| sequence(1, number, options)).collect();
        for (kind, name) in Call::KINDS.iter().enumerate() {
            assert!(calls.iter().any(|call| call.kind() == kind), "{name}");
        }
    }
}
