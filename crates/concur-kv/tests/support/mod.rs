//! Short ways to write requests, and random ones.
#![allow(dead_code, unreachable_pub, reason = "each test file uses what it needs")]

use bytes::Bytes;
use concur_core::Rng;
use concur_kv::*;

pub fn bytes(s: &str) -> Bytes {
    Bytes::copy_from_slice(s.as_bytes())
}

pub fn put(key: &str, value: &str) -> Put {
    Put { key: bytes(key), value: bytes(value), ..Put::default() }
}

pub fn range(key: &str, range_end: &str) -> RangeQuery {
    RangeQuery { key: bytes(key), range_end: bytes(range_end), ..RangeQuery::default() }
}

pub fn delete(key: &str, range_end: &str) -> DeleteRange {
    DeleteRange { key: bytes(key), range_end: bytes(range_end), prev_kv: false }
}

pub fn compare(key: &str, relation: Relation, target: Target) -> Compare {
    Compare { key: bytes(key), range_end: Bytes::new(), relation, target }
}

pub fn then(success: Vec<Op>) -> Txn {
    Txn { success, ..Txn::default() }
}

/// A command that changes nothing but how far a compaction has come.
pub fn idle() -> Command {
    Command::LeaseRenew { ids: vec![] }
}

/// A store to type commands at; everything happens at time 0 unless said otherwise.
pub struct Shell(pub Kv);

impl Shell {
    pub fn new() -> Self {
        Self(Kv::new(Config::default()))
    }

    pub fn per_key() -> Self {
        Self(Kv::new(Config { ordering: Ordering::PerKey, ..Config::default() }))
    }

    pub fn run(&mut self, command: Command) -> Reply {
        self.at(0, command)
    }

    pub fn at(&mut self, time_ms: u64, command: Command) -> Reply {
        self.0.execute(&command, time_ms)
    }

    pub fn refused(&mut self, command: Command) -> KvError {
        let digest = self.0.digest();
        match self.run(command) {
            Reply::Refused(error) => {
                assert_eq!(self.0.digest(), digest, "a refusal changes nothing");
                error
            }
            reply => panic!("not refused: {reply:?}"),
        }
    }

    pub fn put(&mut self, put: Put) -> PutReply {
        match self.run(Command::Put(put)) {
            Reply::Put(reply) => reply,
            reply => panic!("{reply:?}"),
        }
    }

    /// Puts and gives the revision.
    pub fn set(&mut self, key: &str, value: &str) -> i64 {
        self.put(put(key, value)).revision.0
    }

    pub fn delete(&mut self, delete: DeleteRange) -> DeleteReply {
        match self.run(Command::DeleteRange(delete)) {
            Reply::DeleteRange(reply) => reply,
            reply => panic!("{reply:?}"),
        }
    }

    pub fn txn(&mut self, txn: Txn) -> TxnReply {
        match self.run(Command::Txn(txn)) {
            Reply::Txn(reply) => reply,
            reply => panic!("{reply:?}"),
        }
    }

    pub fn compact(&mut self, revision: i64) -> Reply {
        self.run(Command::Compact { revision: Revision(revision) })
    }

    pub fn grant(&mut self, id: i64, ttl_s: i64, time_ms: u64) -> Reply {
        self.at(time_ms, Command::LeaseGrant { id: LeaseId(id), ttl_s })
    }

    pub fn range(&self, query: RangeQuery) -> RangeAnswer {
        self.0.range(&query).unwrap()
    }

    /// `key=value` of everything in a range.
    pub fn show(&self, query: RangeQuery) -> String {
        let show = |kv: &KeyValue| format!("{}={}", kv.key.escape_ascii(), kv.value.escape_ascii());
        self.range(query).kvs.iter().map(show).collect::<Vec<_>>().join(" ")
    }

    /// What changed from a revision on: `revision:+key` for a put, `revision:-key` for a delete.
    pub fn history(&self, from: i64) -> String {
        let mut shown = Vec::new();
        for changes in self.0.history(Revision(from), Revision(i64::MAX - 1)).unwrap() {
            for record in changes.records {
                assert_eq!(record.revision(), changes.revision);
                let sign = if record.is_delete() { '-' } else { '+' };
                shown.push(format!("{}:{sign}{}", changes.revision, record.key().escape_ascii()));
            }
        }
        shown.join(" ")
    }
}

/// Random commands over few keys, so that they meet.
pub struct Generator {
    pub rng: Rng,
    pub keys: u64,
}

impl Generator {
    pub fn new(seed: u64) -> Self {
        Self { rng: Rng::new(seed), keys: 6 }
    }

    pub fn key(&mut self) -> Bytes {
        bytes(&format!("k{}", self.rng.below(self.keys)))
    }

    fn end(&mut self) -> Bytes {
        match self.rng.below(4) {
            0 => bytes("\0"),
            1 => self.key(),
            _ => Bytes::new(),
        }
    }

    fn lease(&mut self) -> LeaseId {
        LeaseId(if self.rng.chance(300_000) { 1 + self.rng.below(3) as i64 } else { 0 })
    }

    fn revision(&mut self, current: Revision) -> Revision {
        match self.rng.below(3) {
            0 => Revision(self.rng.between(0, 8) as i64 + current.0 - 7),
            1 => Revision(self.rng.below(3) as i64 - 1),
            _ => Revision(0),
        }
    }

    pub fn put(&mut self) -> Put {
        let ignore_value = self.rng.chance(80_000);
        let ignore_lease = self.rng.chance(80_000);
        let n = self.rng.below(100);
        Put {
            key: self.key(),
            value: if ignore_value { Bytes::new() } else { bytes(&format!("v{n}")) },
            lease: if ignore_lease { LeaseId::NONE } else { self.lease() },
            prev_kv: self.rng.chance(500_000),
            ignore_value,
            ignore_lease,
        }
    }

    pub fn delete(&mut self) -> DeleteRange {
        DeleteRange { key: self.key(), range_end: self.end(), prev_kv: self.rng.chance(500_000) }
    }

    pub fn range(&mut self, current: Revision) -> RangeQuery {
        let filter = |this: &mut Self| if this.rng.chance(100_000) { this.revision(current) } else { Revision(0) };
        RangeQuery {
            key: self.key(),
            range_end: self.end(),
            limit: self.rng.below(4) as i64 - 1,
            revision: self.revision(current),
            sort_order: [SortOrder::None, SortOrder::Ascend, SortOrder::Descend][self.rng.below(3) as usize],
            sort_target: [SortTarget::Key, SortTarget::Version, SortTarget::Create, SortTarget::Mod, SortTarget::Value]
                [self.rng.below(5) as usize],
            keys_only: self.rng.chance(100_000),
            count_only: self.rng.chance(100_000),
            min_mod_revision: filter(self),
            max_mod_revision: filter(self),
            min_create_revision: filter(self),
            max_create_revision: filter(self),
        }
    }

    fn compare(&mut self, current: Revision) -> Compare {
        let relations = [Relation::Equal, Relation::Greater, Relation::Less, Relation::NotEqual];
        let n = self.rng.below(4) as i64;
        let target = match self.rng.below(5) {
            0 => Target::Version(n),
            1 => Target::Create(self.revision(current)),
            2 => Target::Mod(self.revision(current)),
            3 => Target::Lease(LeaseId(n)),
            _ => Target::Value(bytes(&format!("v{}", self.rng.below(100)))),
        };
        Compare { key: self.key(), range_end: self.end(), relation: relations[self.rng.below(4) as usize], target }
    }

    pub fn txn(&mut self, current: Revision, depth: u64) -> Txn {
        let ops = |this: &mut Self| {
            let count = this.rng.below(4);
            (0..count)
                .map(|_| match this.rng.below(6 + u64::from(depth > 0)) {
                    0 | 1 => Op::Range(this.range(current)),
                    2..=4 => Op::Put(this.put()),
                    5 => Op::DeleteRange(this.delete()),
                    _ => Op::Txn(this.txn(current, depth - 1)),
                })
                .collect()
        };
        let compares = self.rng.below(3);
        Txn { compare: (0..compares).map(|_| self.compare(current)).collect(), success: ops(self), failure: ops(self) }
    }

    pub fn command(&mut self, kv: &Kv, now_ms: u64) -> Command {
        let current = kv.revision();
        match self.rng.below(40) {
            0..=14 => Command::Put(self.put()),
            15..=18 => Command::DeleteRange(self.delete()),
            19..=26 => Command::Txn(self.txn(current, 2)),
            27 => Command::Compact { revision: Revision(current.0 - self.rng.below(12) as i64 + 1) },
            28 | 29 => Command::LeaseGrant { id: LeaseId(self.rng.below(4) as i64), ttl_s: self.rng.below(20) as i64 },
            30 => Command::LeaseRevoke { id: self.lease() },
            31 => Command::LeaseRenew { ids: vec![LeaseId(1), self.lease()] },
            32 | 33 => Command::LeaseExpire { leases: kv.expired(now_ms, 2) },
            34 => Command::LeaseGrace { by_ms: self.rng.below(1000) },
            35 => Command::SetQuota { quota_bytes: 10_000 + self.rng.below(50_000) },
            36 if kv.alarms().next().is_some() => Command::AlarmDisarm { alarm: kv.alarms().next().unwrap() },
            36 => Command::Forget,
            37 => Command::Read(Query::Status),
            _ => Command::Read(Query::Range(self.range(current))),
        }
    }
}
