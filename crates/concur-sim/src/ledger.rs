//! What was decided and executed, over all replicas: the first to do a thing writes it here, and everyone after is held to it.
//!
//! These checks run while the run does, so that a violation is seen where it happens. What concerns whole histories of clients is
//! in [`history`](crate::history).

use crate::decisions::Decisions;
use crate::requests::OpId;
use crate::witness::{Applied, Chain, ChainId, Looked};
use bytes::Bytes;
use concur_core::{BatchId, Epoch, Instance, ReplicaId, Wire};
use concur_kv::Revision;
use concur_peers::Configuration;
use std::collections::BTreeMap;

/// A broken promise.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// Which promise: runs that break the same one have the same word.
    pub kind: &'static str,
    /// What happened.
    pub message: String,
}

impl Violation {
    pub(crate) fn new(kind: &'static str, message: impl Into<String>) -> Self {
        Self { kind, message: message.into() }
    }
}

impl std::fmt::Display for Violation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.kind, self.message)
    }
}

/// A command that was executed somewhere.
#[derive(Debug, Clone)]
pub(crate) struct Executed {
    pub(crate) op: OpId,
    pub(crate) body: Bytes,
    pub(crate) reply: Bytes,
    /// The logged time at which it was executed.
    pub(crate) time_ms: u64,
    /// Its place in each chain, from 1.
    pub(crate) places: Vec<(ChainId, u64)>,
}

/// What is led: an epoch, a ballot, and its owner where the number does not say it.
type Lead = (Epoch, u64, Option<ReplicaId>);

/// A replica in one run of its process.
type Run = (ReplicaId, u64);

/// What all replicas are held to.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    chains: BTreeMap<ChainId, Vec<u64>>,
    /// In the order of their first execution.
    pub(crate) executed: Vec<Executed>,
    asked: BTreeMap<Bytes, OpId>,
    of: BTreeMap<OpId, usize>,
    looked: BTreeMap<Bytes, Vec<(ChainId, u64)>>,
    decided: BTreeMap<(Epoch, Instance), Option<BatchId>>,
    pub(crate) decisions: Decisions,
    /// The seal that each epoch ended with.
    sealed: BTreeMap<Epoch, (Instance, BatchId)>,
    leaders: BTreeMap<Lead, Run>,
    /// What each revision changed, where all are in one order.
    revisions: BTreeMap<Revision, u64>,
}

impl Ledger {
    /// A client sends a command.
    pub(crate) fn ask(&mut self, body: Bytes, op: OpId) {
        self.asked.insert(body, op);
    }

    /// A replica executed an instance. Answers whether that was the end of the epoch.
    pub(crate) fn instance(
        &mut self,
        replica: ReplicaId,
        epoch: Epoch,
        instance: Instance,
        id: Option<BatchId>,
        total: bool,
    ) -> Result<bool, Violation> {
        let first = *self.decided.entry((epoch, instance)).or_insert(id);
        if first != id {
            let message = format!("{instance} of epoch {} is {first:?} elsewhere and {id:?} at {replica}", epoch.0);
            return Err(Violation::new("agreement", message));
        }
        let seal = id.filter(|&id| self.decisions.seal(epoch, id).is_some());
        let Some(id) = seal else {
            let behind = |&(end, _): &(Instance, BatchId)| total && instance > end;
            let Some((end, _)) = self.sealed.get(&epoch).copied().filter(behind) else { return Ok(false) };
            let message = format!("{replica} executed {instance} of epoch {}, which ended with {end}", epoch.0);
            return Err(Violation::new("sealed", message));
        };
        let first = *self.sealed.entry(epoch).or_insert((instance, id));
        if first != (instance, id) {
            let message = format!("epoch {} ended with {first:?} elsewhere and with {instance} = {id:?} at {replica}", epoch.0);
            return Err(Violation::new("sealed", message));
        }
        Ok(true)
    }

    /// Where the seal that ended an epoch leads.
    pub(crate) fn seal_of(&self, epoch: Epoch) -> Option<Configuration> {
        let (_, id) = self.sealed.get(&epoch)?;
        Configuration::from_bytes(self.decisions.seal(epoch, *id)?).ok()
    }

    /// A replica executed a command.
    pub(crate) fn applied(&mut self, replica: ReplicaId, applied: Applied) -> Result<(), Violation> {
        let mut fresh = 0;
        for &(id, Chain { count, hash }) in &applied.chains {
            let known = self.chains.entry(id).or_default();
            match known.get(count as usize - 1) {
                Some(&first) if first == hash => {}
                Some(_) => {
                    let first = self.executed.iter().find(|executed| executed.places.contains(&(id, count)));
                    let first = first.map_or("?".to_owned(), |executed| executed.op.to_string());
                    let here = self.asked.get(&applied.body).map_or("?".to_owned(), OpId::to_string);
                    let message = format!("command {count} of chain {id} is {first} elsewhere and {here}, or differs, at {replica}");
                    return Err(Violation::new("order", message));
                }
                None if known.len() as u64 + 1 == count => {
                    known.push(hash);
                    fresh += 1;
                }
                None => return Err(Violation::new("order", format!("{replica} executed command {count} of chain {id}, after a gap"))),
            }
        }
        if fresh == 0 && !applied.chains.is_empty() {
            return Ok(());
        }
        if fresh != applied.chains.len() {
            return Err(Violation::new("order", format!("{replica} executed a command that is new to some of its chains only")));
        }
        self.first(replica, applied)
    }

    /// A replica says what revisions changed.
    pub(crate) fn changed(&mut self, replica: ReplicaId, changes: &[(Revision, u64)]) -> Result<(), Violation> {
        for &(revision, hash) in changes {
            if *self.revisions.entry(revision).or_insert(hash) != hash {
                return Err(Violation::new("watch", format!("revision {revision} changed something else at {replica} than elsewhere")));
            }
        }
        Ok(())
    }

    /// What a revision changed, if it was executed.
    pub(crate) fn revision(&self, revision: Revision) -> Option<u64> {
        self.revisions.get(&revision).copied()
    }

    /// The last revision that was executed anywhere.
    pub(crate) fn last_revision(&self) -> Option<Revision> {
        self.revisions.last_key_value().map(|(&revision, _)| revision)
    }

    fn first(&mut self, replica: ReplicaId, applied: Applied) -> Result<(), Violation> {
        let Some(&op) = self.asked.get(&applied.body) else {
            return Err(Violation::new("invented", format!("{replica} executed what no client asked for: {:?}", applied.body)));
        };
        if self.of.insert(op, self.executed.len()).is_some() {
            return Err(Violation::new("exactly once", format!("{op} was executed twice; the second time first seen at {replica}")));
        }
        let places = applied.chains.iter().map(|&(id, chain)| (id, chain.count)).collect();
        self.executed.push(Executed { op, body: applied.body, reply: applied.reply, time_ms: applied.time_ms, places });
        Ok(())
    }

    /// A replica answered a query. The same attempt may be answered again, later; the last answer counts, as it is the one sent.
    pub(crate) fn looked(&mut self, looked: Looked) {
        self.looked.insert(looked.query, looked.chains);
    }

    /// What a query that was answered has seen of each chain.
    pub(crate) fn seen(&self, query: &Bytes) -> Option<&Vec<(ChainId, u64)>> {
        self.looked.get(query)
    }

    /// An operation that writes, if it was executed.
    pub(crate) fn executed(&self, op: OpId) -> Option<&Executed> {
        self.of.get(&op).map(|&index| &self.executed[index])
    }

    /// A replica acknowledges a command.
    pub(crate) fn acknowledged(&self, replica: ReplicaId, op: OpId, reply: &Bytes) -> Result<(), Violation> {
        match self.executed(op) {
            None => Err(Violation::new("acknowledged", format!("{replica} acknowledges {op}, which nobody executed"))),
            Some(executed) if executed.reply != reply => {
                Err(Violation::new("acknowledged", format!("{replica} answers {op} differently from its execution")))
            }
            Some(_) => Ok(()),
        }
    }

    /// A replica leads.
    pub(crate) fn leads(&mut self, run: Run, lead: Lead) -> Result<(), Violation> {
        let first = *self.leaders.entry(lead).or_insert(run);
        if first == run {
            return Ok(());
        }
        let ((first, boot), (replica, again), (epoch, ballot, _)) = (first, run, lead);
        let message = format!("{first} in its run {boot} and {replica} in its run {again} both lead at {ballot} of epoch {}", epoch.0);
        Err(Violation::new("two leaders", message))
    }

    /// Whether chains have come as far as anyone's have.
    pub(crate) fn complete(&self, chains: &BTreeMap<ChainId, Chain>) -> bool {
        self.chains.iter().all(|(id, known)| chains.get(id).is_some_and(|chain| chain.count == known.len() as u64))
    }

    /// Chains that were handed over or read back must be what was executed.
    pub(crate) fn check_chains(&self, replica: ReplicaId, chains: &BTreeMap<ChainId, Chain>) -> Result<(), Violation> {
        for (id, chain) in chains.iter().filter(|(_, chain)| chain.count > 0) {
            let known = self.chains.get(id).and_then(|known| known.get(chain.count as usize - 1));
            if known != Some(&chain.hash) {
                let message = format!("{replica} holds state of {} commands of chain {id} that were not executed so", chain.count);
                return Err(Violation::new("state", message));
            }
        }
        Ok(())
    }
}
