//! Transactions.
//!
//! Three steps: every compare on the path taken is judged on the state before the transaction, those inside too; every operation
//! on that path is checked; then they are executed in order, each seeing what was written before it. Nothing can fail in the third.

use crate::check::check_txn;
use crate::command::{Compare, Op, Relation, Target, Txn};
use crate::record::View;
use crate::reply::{OpReply, TxnReply};
use crate::{Kv, KvError, LeaseId, Revision};
use std::cmp::Ordering::{self, Equal, Greater, Less};

/// Which branch each transaction takes: the outer one first, then those inside, in order.
type Path = std::vec::IntoIter<bool>;

impl Kv {
    pub(crate) fn txn(&mut self, txn: &Txn) -> Result<TxnReply, KvError> {
        let path = self.judge_and_check(txn)?;
        let reply = self.execute_txn(txn, &mut path.into_iter());
        Ok(TxnReply { revision: self.store.seen(), ..reply })
    }

    /// Answers a transaction that writes nothing.
    pub fn read_txn(&self, txn: &Txn) -> Result<TxnReply, KvError> {
        if !txn.is_read_only() {
            return Err(KvError::NotReadOnly);
        }
        check_txn(txn, self.config.txn_ops_max)?;
        let path = self.judge_and_check(txn)?;
        let reply = self.answer_txn(txn, &mut path.into_iter());
        Ok(TxnReply { revision: self.store.seen(), ..reply })
    }

    fn judge_and_check(&self, txn: &Txn) -> Result<Vec<bool>, KvError> {
        let mut path = Vec::with_capacity(1);
        self.judge(txn, &mut path);
        self.check_in_state(txn, &mut path.clone().into_iter())?;
        Ok(path)
    }

    fn judge(&self, txn: &Txn, path: &mut Vec<bool>) {
        let succeeded = txn.compare.iter().all(|compare| self.holds(compare));
        path.push(succeeded);
        for op in txn.branch(succeeded) {
            if let Op::Txn(inner) = op {
                self.judge(inner, path);
            }
        }
    }

    fn check_in_state(&self, txn: &Txn, path: &mut Path) -> Result<(), KvError> {
        let succeeded = path.next().expect("a verdict for every transaction");
        txn.branch(succeeded).iter().try_for_each(|op| match op {
            Op::Range(range) => self.check_readable_in_txn(range.revision),
            Op::Put(put) => self.check_put_in_state(put),
            Op::DeleteRange(_) => Ok(()),
            Op::Txn(inner) => self.check_in_state(inner, path),
        })
    }

    fn execute_txn(&mut self, txn: &Txn, path: &mut Path) -> TxnReply {
        let succeeded = path.next().expect("a verdict for every transaction");
        let execute = |op: &Op| match op {
            Op::Range(range) => OpReply::Range(self.range_in(range)),
            Op::Put(put) => OpReply::Put(self.put_checked(put)),
            Op::DeleteRange(delete) => OpReply::DeleteRange(self.delete_range(delete)),
            Op::Txn(inner) => OpReply::Txn(self.execute_txn(inner, path)),
        };
        TxnReply { revision: Revision(0), succeeded, replies: txn.branch(succeeded).iter().map(execute).collect() }
    }

    fn answer_txn(&self, txn: &Txn, path: &mut Path) -> TxnReply {
        let succeeded = path.next().expect("a verdict for every transaction");
        let answer = |op: &Op| match op {
            Op::Range(range) => OpReply::Range(self.range_in(range)),
            Op::Txn(inner) => OpReply::Txn(self.answer_txn(inner, path)),
            Op::Put(_) | Op::DeleteRange(_) => unreachable!("refused as it is not read-only"),
        };
        TxnReply { revision: Revision(0), succeeded, replies: txn.branch(succeeded).iter().map(answer).collect() }
    }

    fn holds(&self, compare: &Compare) -> bool {
        let mut records = self.store.range(&compare.key, &compare.range_end, None).peekable();
        if records.peek().is_none() {
            return compare.holds_for_missing();
        }
        records.all(|record| compare.holds_for(&record.view()))
    }
}

impl Txn {
    fn branch(&self, succeeded: bool) -> &[Op] {
        if succeeded { &self.success } else { &self.failure }
    }
}

impl Compare {
    fn holds_for(&self, view: &View<'_>) -> bool {
        self.relation.holds(match &self.target {
            Target::Version(version) => view.version.cmp(version),
            Target::Create(revision) => view.create.cmp(revision),
            Target::Mod(revision) => view.revision.cmp(revision),
            Target::Value(value) => view.value.cmp(value),
            Target::Lease(lease) => view.lease.cmp(lease),
        })
    }

    // There is no value to compare with, not even an empty one.
    fn holds_for_missing(&self) -> bool {
        self.relation.holds(match &self.target {
            Target::Version(version) => 0.cmp(version),
            Target::Create(revision) | Target::Mod(revision) => Revision(0).cmp(revision),
            Target::Lease(lease) => LeaseId::NONE.cmp(lease),
            Target::Value(_) => return false,
        })
    }
}

impl Relation {
    fn holds(self, ordering: Ordering) -> bool {
        match self {
            Self::Equal => ordering == Equal,
            Self::Greater => ordering == Greater,
            Self::Less => ordering == Less,
            Self::NotEqual => ordering != Equal,
        }
    }
}
