//! Random commands against a model that is too simple to be wrong: a whole map of keys for every revision.

mod support;

use bytes::Bytes;
use concur_core::Wire;
use concur_kv::*;
use std::collections::BTreeMap;
use support::*;

type Keys = BTreeMap<Bytes, KeyValue>;

/// The state at each revision, the first two standing for 0 and 1.
struct Model {
    states: Vec<Keys>,
    /// What each revision changed: the key, and whether it was deleted.
    changes: Vec<Vec<(Bytes, bool)>>,
    compacted: i64,
    leases: BTreeMap<LeaseId, ModelLease>,
    paused_ms: u64,
    /// What the open transaction wrote.
    open: Vec<(Bytes, bool)>,
    now: Keys,
}

#[derive(Clone)]
struct ModelLease {
    ttl_s: i64,
    deadline_ms: u64,
    renewals: u64,
}

fn is_in(key: &Bytes, start: &Bytes, end: &Bytes) -> bool {
    match &end[..] {
        b"" => key == start,
        b"\0" => key >= start,
        _ => key >= start && key < end,
    }
}

impl Model {
    fn new() -> Self {
        Self {
            states: vec![Keys::new(), Keys::new()],
            changes: vec![vec![], vec![]],
            compacted: -1,
            leases: BTreeMap::new(),
            paused_ms: 0,
            open: vec![],
            now: Keys::new(),
        }
    }

    fn current(&self) -> i64 {
        self.states.len() as i64 - 1
    }

    fn seen(&self) -> Revision {
        Revision(self.current() + i64::from(!self.open.is_empty()))
    }

    fn commit(&mut self) {
        if !self.open.is_empty() {
            self.states.push(self.now.clone());
            self.changes.push(std::mem::take(&mut self.open));
        }
    }

    fn run(&mut self, command: &Command, now_ms: u64) -> Option<Reply> {
        if let Err(error) = check(command, TXN_OPS_MAX) {
            return Some(Reply::Refused(error));
        }
        let clock_ms = now_ms.saturating_sub(self.paused_ms);
        let reply = match command {
            Command::Put(put) => self.checked_put(put).map(Reply::Put),
            Command::DeleteRange(delete) => Ok(Reply::DeleteRange(self.delete(delete))),
            Command::Txn(txn) => self.txn(txn).map(Reply::Txn),
            Command::Compact { revision } => self.compact(revision.0),
            Command::LeaseGrant { id, .. } if self.leases.contains_key(id) => Err(KvError::LeaseExists),
            Command::LeaseGrant { id, ttl_s } => {
                let ttl_s = (*ttl_s).max(1);
                self.leases.insert(*id, ModelLease { ttl_s, deadline_ms: clock_ms + ttl_s as u64 * 1000, renewals: 0 });
                Ok(Reply::LeaseGranted { revision: self.seen(), id: *id, ttl_s })
            }
            Command::LeaseRevoke { id } => self.revoke(*id).map(|revision| Reply::Done { revision }),
            Command::LeaseRenew { ids } => {
                let mut ttls_s = vec![];
                for id in ids {
                    let lease = self.leases.get_mut(id).filter(|lease| lease.deadline_ms > clock_ms);
                    ttls_s.push(lease.map_or(0, |lease| {
                        lease.deadline_ms = lease.deadline_ms.max(clock_ms + lease.ttl_s as u64 * 1000);
                        lease.renewals += 1;
                        lease.ttl_s
                    }));
                }
                Ok(Reply::LeasesRenewed { revision: self.seen(), ttls_s })
            }
            Command::LeaseExpire { leases } => {
                let mut ids = vec![];
                for due in leases {
                    let is_due = |lease: &ModelLease| lease.renewals == due.renewals && lease.deadline_ms <= clock_ms;
                    if self.leases.get(&due.id).is_some_and(is_due) {
                        self.revoke(due.id).unwrap();
                        ids.push(due.id);
                    }
                }
                Ok(Reply::LeasesExpired { revision: self.seen(), ids })
            }
            Command::LeaseGrace { by_ms } => {
                self.paused_ms += by_ms;
                Ok(Reply::Done { revision: self.seen() })
            }
            Command::Forget => Err(KvError::OrderedTotally),
            Command::Read(Query::Range(range)) => {
                let answer = match self.readable(range.revision.0) {
                    Ok(()) => Answer::Range(self.range(range)),
                    Err(error) => Answer::Refused(error),
                };
                Ok(Reply::Read(answer))
            }
            _ => return None,
        };
        self.commit();
        Some(reply.unwrap_or_else(Reply::Refused))
    }

    fn check_put(&self, put: &Put) -> Result<(), KvError> {
        if put.lease != LeaseId::NONE && !self.leases.contains_key(&put.lease) {
            return Err(KvError::LeaseNotFound);
        }
        if (put.ignore_value || put.ignore_lease) && !self.now.contains_key(&put.key) { Err(KvError::KeyNotFound) } else { Ok(()) }
    }

    fn checked_put(&mut self, put: &Put) -> Result<PutReply, KvError> {
        self.check_put(put)?;
        Ok(self.put(put))
    }

    fn put(&mut self, put: &Put) -> PutReply {
        let before = self.now.get(&put.key).cloned();
        let revision = Revision(self.current() + 1);
        let kept = before.clone().unwrap_or_default();
        let kv = KeyValue {
            key: put.key.clone(),
            value: if put.ignore_value { kept.value.clone() } else { put.value.clone() },
            create_revision: if before.is_some() { kept.create_revision } else { revision },
            mod_revision: revision,
            version: kept.version + 1,
            lease: if put.ignore_lease { kept.lease } else { put.lease },
        };
        self.now.insert(put.key.clone(), kv);
        self.open.push((put.key.clone(), false));
        PutReply { revision, prev_kv: before.filter(|_| put.prev_kv) }
    }

    fn delete(&mut self, delete: &DeleteRange) -> DeleteReply {
        let gone: Vec<KeyValue> = self.now.values().filter(|kv| is_in(&kv.key, &delete.key, &delete.range_end)).cloned().collect();
        for kv in &gone {
            self.now.remove(&kv.key);
            self.open.push((kv.key.clone(), true));
        }
        let deleted = gone.len() as u64;
        DeleteReply { revision: self.seen(), deleted, prev_kvs: if delete.prev_kv { gone } else { vec![] } }
    }

    fn revoke(&mut self, id: LeaseId) -> Result<Revision, KvError> {
        self.leases.remove(&id).ok_or(KvError::LeaseNotFound)?;
        let keys: Vec<Bytes> = self.now.values().filter(|kv| kv.lease == id).map(|kv| kv.key.clone()).collect();
        for key in keys {
            self.delete(&DeleteRange { key, ..DeleteRange::default() });
        }
        self.commit();
        Ok(self.seen())
    }

    fn compact(&mut self, revision: i64) -> Result<Reply, KvError> {
        if revision <= self.compacted {
            return Err(KvError::Compacted);
        }
        if revision > self.current() {
            return Err(KvError::FutureRevision);
        }
        self.compacted = revision;
        Ok(Reply::Done { revision: self.seen() })
    }

    fn readable(&self, revision: i64) -> Result<(), KvError> {
        match revision {
            r if r > self.current() => Err(KvError::FutureRevision),
            r if r > 0 && r < self.compacted => Err(KvError::Compacted),
            _ => Ok(()),
        }
    }

    fn range(&self, query: &RangeQuery) -> RangeAnswer {
        let keys = if query.revision.0 > 0 { &self.states[query.revision.0 as usize] } else { &self.now };
        let mut kvs: Vec<KeyValue> = keys.values().filter(|kv| is_in(&kv.key, &query.key, &query.range_end)).cloned().collect();
        let count = kvs.len() as u64;
        let revision = self.seen();
        if query.count_only {
            return RangeAnswer { revision, count, ..RangeAnswer::default() };
        }
        let min = |value: Revision, bound: Revision| bound.0 == 0 || value >= bound;
        let max = |value: Revision, bound: Revision| bound.0 == 0 || value <= bound;
        kvs.retain(|kv| min(kv.mod_revision, query.min_mod_revision) && max(kv.mod_revision, query.max_mod_revision));
        kvs.retain(|kv| min(kv.create_revision, query.min_create_revision) && max(kv.create_revision, query.max_create_revision));
        if query.is_in_default_order() && !query.is_filtered() && query.limit > 0 {
            kvs.truncate(usize::try_from(query.limit).unwrap().saturating_add(1));
        }
        match query.sort_target {
            SortTarget::Key => {}
            SortTarget::Version => kvs.sort_by_key(|kv| if query.sort_order == SortOrder::Descend { -kv.version } else { kv.version }),
            SortTarget::Create => kvs.sort_by_key(|kv| signed(query, kv.create_revision)),
            SortTarget::Mod => kvs.sort_by_key(|kv| signed(query, kv.mod_revision)),
            SortTarget::Value if query.sort_order == SortOrder::Descend => kvs.sort_by(|a, b| b.value.cmp(&a.value)),
            SortTarget::Value => kvs.sort_by(|a, b| a.value.cmp(&b.value)),
        }
        if query.sort_target == SortTarget::Key && query.sort_order == SortOrder::Descend {
            kvs.reverse();
        }
        let more = query.limit > 0 && kvs.len() as i64 > query.limit;
        if more {
            kvs.truncate(query.limit as usize);
        }
        if query.keys_only {
            kvs.iter_mut().for_each(|kv| kv.value.clear());
            if query.sort_target != SortTarget::Value {
                kvs.iter_mut().for_each(|kv| kv.lease = LeaseId::NONE);
            }
        }
        RangeAnswer { revision, kvs, more, count }
    }

    fn holds(&self, compare: &Compare) -> bool {
        let holds = |kv: &KeyValue| {
            let ordering = match &compare.target {
                Target::Version(version) => kv.version.cmp(version),
                Target::Create(revision) => kv.create_revision.cmp(revision),
                Target::Mod(revision) => kv.mod_revision.cmp(revision),
                Target::Lease(lease) => kv.lease.cmp(lease),
                Target::Value(value) => kv.value.cmp(value),
            };
            match compare.relation {
                Relation::Equal => ordering.is_eq(),
                Relation::NotEqual => ordering.is_ne(),
                Relation::Less => ordering.is_lt(),
                Relation::Greater => ordering.is_gt(),
            }
        };
        let found: Vec<_> = self.now.values().filter(|kv| is_in(&kv.key, &compare.key, &compare.range_end)).collect();
        match (&found[..], &compare.target) {
            ([], Target::Value(_)) => false,
            ([], _) => holds(&KeyValue::default()),
            (found, _) => found.iter().all(|kv| holds(kv)),
        }
    }

    /// The transaction with every branch not taken left out, so that the rest is a plain list.
    fn txn(&mut self, txn: &Txn) -> Result<TxnReply, KvError> {
        let taken = self.take(txn)?;
        let reply = self.execute(&taken);
        Ok(TxnReply { revision: self.seen(), ..reply })
    }

    fn take(&self, txn: &Txn) -> Result<(bool, Vec<Taken>), KvError> {
        let succeeded = txn.compare.iter().all(|compare| self.holds(compare));
        let ops = if succeeded { &txn.success } else { &txn.failure };
        let take = |op: &Op| match op {
            Op::Range(range) if range.revision.0 < 0 && range.revision.0 < self.compacted => Err(KvError::Compacted),
            Op::Range(range) => self.readable(range.revision.0).map(|()| Taken::Range(range.clone())),
            Op::Put(put) => self.check_put(put).map(|()| Taken::Put(put.clone())),
            Op::DeleteRange(delete) => Ok(Taken::Delete(delete.clone())),
            Op::Txn(inner) => self.take(inner).map(|(succeeded, ops)| Taken::Txn(succeeded, ops)),
        };
        Ok((succeeded, ops.iter().map(take).collect::<Result<_, _>>()?))
    }

    fn execute(&mut self, (succeeded, ops): &(bool, Vec<Taken>)) -> TxnReply {
        let mut replies = vec![];
        for op in ops {
            replies.push(match op {
                Taken::Range(range) => OpReply::Range(self.range(range)),
                Taken::Put(put) => OpReply::Put(self.put(put)),
                Taken::Delete(delete) => OpReply::DeleteRange(self.delete(delete)),
                Taken::Txn(succeeded, ops) => OpReply::Txn(self.execute(&(*succeeded, ops.clone()))),
            });
        }
        TxnReply { revision: Revision(0), succeeded: *succeeded, replies }
    }
}

#[derive(Clone)]
enum Taken {
    Range(RangeQuery),
    Put(Put),
    Delete(DeleteRange),
    Txn(bool, Vec<Taken>),
}

fn signed(query: &RangeQuery, revision: Revision) -> i64 {
    if query.sort_order == SortOrder::Descend { -revision.0 } else { revision.0 }
}

/// Every state that can be read, every change that can be watched, and the versions before them.
fn check_history(kv: &Kv, model: &Model, seed: u64) {
    let first = model.compacted.max(1);
    for revision in first..=model.current() {
        let everything = RangeQuery { revision: Revision(revision), ..range("\0", "\0") };
        assert_eq!(kv.range(&everything).unwrap().kvs, model.range(&everything).kvs, "seed {seed}, revision {revision}");
    }
    let mut revision = first.max(2);
    for changes in kv.history(Revision(first), kv.revision()).unwrap() {
        assert_eq!(changes.revision.0, revision, "seed {seed}: revisions are dense");
        let shown: Vec<_> = changes.records.iter().map(|r| (Bytes::copy_from_slice(r.key()), r.is_delete())).collect();
        assert_eq!(shown, model.changes[revision as usize], "seed {seed}, changes of {revision}");
        for record in changes.records.iter().filter(|record| !record.is_create()) {
            let before = model.states[revision as usize - 1].get(record.key()).filter(|_| revision > model.compacted);
            assert_eq!(kv.previous(record).as_ref(), before, "seed {seed}, before {revision}");
        }
        revision += 1;
    }
    assert_eq!(revision, model.current().max(first.max(2) - 1) + 1, "seed {seed}: history reaches the present");
}

#[test]
fn random_commands_answer_as_the_model_does() {
    for seed in 0..150 {
        let mut random = Generator::new(seed);
        let mut kv = Kv::new(Config::default());
        let mut model = Model::new();
        let mut now_ms = 0;
        for step in 0..250 {
            now_ms += random.rng.below(2000);
            let command = random.command(&kv, now_ms);
            if matches!(command, Command::SetQuota { .. }) {
                continue;
            }
            let decoded = Command::from_bytes(&command.to_bytes()).unwrap();
            assert_eq!(decoded, command, "seed {seed}, step {step}");
            let reply = kv.execute(&command, now_ms);
            assert_eq!(Reply::from_bytes(&reply.to_bytes()).as_ref(), Ok(&reply), "seed {seed}, step {step}");
            if let Some(expected) = model.run(&command, now_ms) {
                assert_eq!(reply, expected, "seed {seed}, step {step}: {command:?}");
            }
            assert_eq!(kv.revision(), model.seen(), "seed {seed}, step {step}");
            assert_eq!(kv.status().keys, model.now.len() as u64, "seed {seed}, step {step}");
            let attached: usize = kv.lease_ids().iter().map(|&id| kv.lease_time_to_live(id, true, 0).keys.len()).sum();
            assert_eq!(attached, model.now.values().filter(|kv| kv.lease != LeaseId::NONE).count(), "seed {seed}, step {step}");
        }
        check_history(&kv, &model, seed);
    }
}
