//! Leases: keys that go when nobody keeps them.
//!
//! A lease has a time to live and a deadline in *logged* time, which only commands move; replicas never look at a clock. Keeping
//! it alive is a command, so that it works through any member and survives a change of leader. Expiry takes two steps: some node
//! finds in [`Kv::expired`] what is due by its clock and proposes [`Command::LeaseExpire`](crate::Command::LeaseExpire), which
//! ends only those that are due in logged time and that nobody renewed meanwhile: the number of renewals is part of the proposal.
//!
//! While a cluster cannot decide, nobody can renew. Whoever leads next proposes [`Command::LeaseGrace`](crate::Command::LeaseGrace)
//! before anything else: it stops the leases' clock for as long as that took, for all leases at the cost of one number.
//!
//! A lease that is due is not renewed, whether it was ended yet or not: its holder must have given up.
//!
//! Which node proposes, and how often, is not decided here, nor is the smallest time to live: [`ttl_least_s`] says what it should be.

use crate::command::DueLease;
use crate::reply::{LeaseAnswer, Reply};
use crate::{Kv, KvError, LeaseId, Revision};
use bytes::Bytes;
use concur_core::wire_struct;
use std::collections::{BTreeMap, BTreeSet};

/// What a lease counts towards the quota.
pub(crate) const LEASE_BYTES: u64 = 128;

/// The smallest time to live that a cluster can keep, in seconds: one and a half election timeouts, rounded up.
pub fn ttl_least_s(election_timeout_ms: u64) -> i64 {
    (election_timeout_ms.saturating_mul(3).div_ceil(2)).div_ceil(1000).max(1) as i64
}

/// All leases.
#[derive(Debug, Default)]
pub(crate) struct Leases {
    pub(crate) by_id: BTreeMap<LeaseId, Lease>,
    /// By deadline.
    due: BTreeSet<(u64, LeaseId)>,
    /// How far the leases' clock is behind logged time.
    pub(crate) paused_ms: u64,
    /// What the durable image does not have yet.
    pub(crate) dirty: BTreeSet<LeaseId>,
}

#[derive(Debug)]
pub(crate) struct Lease {
    pub(crate) terms: Terms,
    keys: BTreeSet<Box<[u8]>>,
}

/// What is kept of a lease in the durable image; its keys are known from their versions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Terms {
    pub(crate) ttl_s: i64,
    /// By the leases' clock.
    pub(crate) deadline_ms: u64,
    pub(crate) renewals: u64,
}

wire_struct!(Terms { ttl_s, deadline_ms, renewals });

impl Leases {
    pub(crate) fn len(&self) -> usize {
        self.by_id.len()
    }

    pub(crate) fn exists(&self, id: LeaseId) -> bool {
        self.by_id.contains_key(&id)
    }

    /// Moves a key from one lease to another, either of which may be none.
    pub(crate) fn attach(&mut self, key: &[u8], from: LeaseId, to: LeaseId) {
        if from == to {
            return;
        }
        if let Some(lease) = self.by_id.get_mut(&from) {
            lease.keys.remove(key);
        }
        if let Some(lease) = self.by_id.get_mut(&to) {
            lease.keys.insert(key.into());
        }
    }

    pub(crate) fn insert(&mut self, id: LeaseId, terms: Terms) {
        self.due.insert((terms.deadline_ms, id));
        self.by_id.insert(id, Lease { terms, keys: BTreeSet::new() });
    }

    fn remove(&mut self, id: LeaseId) -> Option<Lease> {
        let lease = self.by_id.remove(&id)?;
        self.due.remove(&(lease.terms.deadline_ms, id));
        self.dirty.insert(id);
        Some(lease)
    }

    /// The leases' clock at a logged time.
    fn clock_ms(&self, time_ms: u64) -> u64 {
        time_ms.saturating_sub(self.paused_ms)
    }

    fn renew(&mut self, id: LeaseId, time_ms: u64) -> Option<i64> {
        let clock_ms = self.clock_ms(time_ms);
        let terms = &mut self.by_id.get_mut(&id)?.terms;
        if terms.is_due(clock_ms) {
            return None;
        }
        self.due.remove(&(terms.deadline_ms, id));
        // A proposer whose clock is behind never shortens a lease.
        terms.deadline_ms = terms.deadline_ms.max(deadline_ms(clock_ms, terms.ttl_s));
        terms.renewals += 1;
        self.due.insert((terms.deadline_ms, id));
        self.dirty.insert(id);
        Some(terms.ttl_s)
    }
}

impl Lease {
    /// The keys attached to it, in order.
    pub(crate) fn keys(&self) -> impl Iterator<Item = &[u8]> {
        self.keys.iter().map(|key| &key[..])
    }
}

impl Terms {
    fn is_due(&self, clock_ms: u64) -> bool {
        self.deadline_ms <= clock_ms
    }
}

fn deadline_ms(clock_ms: u64, ttl_s: i64) -> u64 {
    clock_ms.saturating_add(u64::try_from(ttl_s).unwrap_or(0).saturating_mul(1000))
}

impl Kv {
    /// Leases that are due by a clock, the longest due first: what to propose to expire.
    pub fn expired(&self, now_ms: u64, leases_max: usize) -> Vec<DueLease> {
        let clock_ms = self.leases.clock_ms(now_ms);
        let due = self.leases.due.iter().take_while(|(deadline_ms, _)| *deadline_ms <= clock_ms);
        due.take(leases_max).map(|&(_, id)| DueLease { id, renewals: self.leases.by_id[&id].terms.renewals }).collect()
    }

    /// When the next lease is due, in logged time.
    pub fn next_expiry_ms(&self) -> Option<u64> {
        self.leases.due.first().map(|(deadline_ms, _)| deadline_ms.saturating_add(self.leases.paused_ms))
    }

    /// Whether a lease exists.
    pub fn lease_exists(&self, id: LeaseId) -> bool {
        self.leases.exists(id)
    }

    /// All leases, those due first in front.
    pub fn lease_ids(&self) -> Vec<LeaseId> {
        self.leases.due.iter().map(|&(_, id)| id).collect()
    }

    /// How long a lease has to live at a time.
    pub fn lease_time_to_live(&self, id: LeaseId, keys: bool, now_ms: u64) -> LeaseAnswer {
        let revision = self.revision();
        let clock_ms = self.leases.clock_ms(now_ms);
        let Some(lease) = self.leases.by_id.get(&id).filter(|lease| !lease.terms.is_due(clock_ms)) else {
            return LeaseAnswer { revision, id, ttl_s: -1, ..LeaseAnswer::default() };
        };
        let ttl_s = i64::try_from((lease.terms.deadline_ms - clock_ms) / 1000).unwrap_or(i64::MAX);
        let keys = lease.keys.iter().filter(|_| keys).map(|key| Bytes::copy_from_slice(key)).collect();
        LeaseAnswer { revision, id, ttl_s, granted_ttl_s: lease.terms.ttl_s, keys }
    }

    pub(crate) fn lease_grant(&mut self, id: LeaseId, ttl_s: i64, time_ms: u64) -> Result<Reply, KvError> {
        if self.leases.exists(id) {
            return Err(KvError::LeaseExists);
        }
        let ttl_s = ttl_s.max(1);
        let terms = Terms { ttl_s, deadline_ms: deadline_ms(self.leases.clock_ms(time_ms), ttl_s), renewals: 0 };
        self.leases.insert(id, terms);
        self.leases.dirty.insert(id);
        Ok(Reply::LeaseGranted { revision: self.revision(), id, ttl_s })
    }

    /// Ends a lease and deletes its keys, in order, in one revision.
    pub(crate) fn lease_revoke(&mut self, id: LeaseId) -> Result<Revision, KvError> {
        let lease = self.leases.remove(id).ok_or(KvError::LeaseNotFound)?;
        for key in &lease.keys {
            self.store.write(key, None);
        }
        Ok(self.store.commit())
    }

    pub(crate) fn lease_renew(&mut self, ids: &[LeaseId], time_ms: u64) -> Reply {
        let ttls_s = ids.iter().map(|&id| self.leases.renew(id, time_ms).unwrap_or(0)).collect();
        Reply::LeasesRenewed { revision: self.revision(), ttls_s }
    }

    pub(crate) fn lease_expire(&mut self, leases: &[DueLease], time_ms: u64) -> Reply {
        let clock_ms = self.leases.clock_ms(time_ms);
        let mut ids = Vec::new();
        for &DueLease { id, renewals } in leases {
            let is_due = |lease: &Lease| lease.terms.renewals == renewals && lease.terms.is_due(clock_ms);
            if self.leases.by_id.get(&id).is_some_and(is_due) && self.lease_revoke(id).is_ok() {
                ids.push(id);
            }
        }
        Reply::LeasesExpired { revision: self.revision(), ids }
    }

    pub(crate) fn lease_grace(&mut self, by_ms: u64) -> Reply {
        self.leases.paused_ms = self.leases.paused_ms.saturating_add(by_ms);
        self.meta_dirty = true;
        Reply::Done { revision: self.revision() }
    }
}
