//! The quota, and alarms.
//!
//! What counts is every record that is kept and every lease, not what a disk makes of them, so that all replicas refuse the same
//! command. Ordered totally, the store arms the alarm itself when a command does not fit; ordered per key it must not, as which of
//! two commuting writes fits would depend on their order: there a node that sees [`Kv::is_over_quota`] proposes the alarm.
//!
//! While the alarm is armed, whatever takes space is refused: puts, transactions that put, grants. Deletes and compaction free it.

use crate::command::{Alarm, AlarmKind, Command, Op, Txn};
use crate::lease::LEASE_BYTES;
use crate::reply::Reply;
use crate::{Kv, KvError, Ordering};

impl Kv {
    /// What counts towards the quota.
    pub fn used_bytes(&self) -> u64 {
        self.store.used_bytes + self.leases.len() as u64 * LEASE_BYTES
    }

    /// Whether the quota is exceeded.
    pub fn is_over_quota(&self) -> bool {
        self.used_bytes() > self.config.quota_bytes
    }

    /// The alarms that are armed.
    pub fn alarms(&self) -> impl Iterator<Item = Alarm> {
        self.alarms.iter().copied()
    }

    pub(crate) fn cost_bytes(&self, command: &Command) -> u64 {
        match command {
            Command::Put(put) => Self::put_bytes(put),
            Command::Txn(txn) => Self::txn_bytes(txn),
            Command::LeaseGrant { .. } => LEASE_BYTES,
            _ => 0,
        }
    }

    // The larger branch: what a transaction may take is judged before its compares.
    fn txn_bytes(txn: &Txn) -> u64 {
        let branch = |ops: &[Op]| {
            let of = |op: &Op| match op {
                Op::Put(put) => Self::put_bytes(put),
                Op::Txn(txn) => Self::txn_bytes(txn),
                Op::Range(_) | Op::DeleteRange(_) => 0,
            };
            ops.iter().map(of).sum()
        };
        u64::max(branch(&txn.success), branch(&txn.failure))
    }

    pub(crate) fn admit_bytes(&mut self, cost_bytes: u64) -> Result<(), KvError> {
        if self.alarms.iter().any(|alarm| alarm.kind == AlarmKind::NoSpace) {
            return Err(KvError::NoSpace);
        }
        if self.config.ordering == Ordering::PerKey || self.fits(cost_bytes) {
            return Ok(());
        }
        // What a compaction has yet to remove is not held against the client.
        self.compact_on(usize::MAX);
        if self.fits(cost_bytes) {
            return Ok(());
        }
        self.alarms.insert(Alarm { member: 0, kind: AlarmKind::NoSpace });
        self.meta_dirty = true;
        Err(KvError::NoSpace)
    }

    fn fits(&self, cost_bytes: u64) -> bool {
        self.used_bytes().saturating_add(cost_bytes) <= self.config.quota_bytes
    }

    pub(crate) fn alarm_set(&mut self, alarm: Alarm, armed: bool) -> Reply {
        let changed = if armed { self.alarms.insert(alarm) } else { self.alarms.remove(&alarm) };
        self.meta_dirty |= changed;
        let alarms = if armed || changed { vec![alarm] } else { vec![] };
        Reply::Alarms { revision: self.revision(), alarms }
    }

    pub(crate) fn set_quota(&mut self, quota_bytes: u64) -> Reply {
        self.config.quota_bytes = quota_bytes;
        self.meta_dirty = true;
        Reply::Done { revision: self.revision() }
    }
}
