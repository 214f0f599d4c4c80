//! What protocols decided, over all replicas, before anything of it is executed.
//!
//! Two promises, sharper than what can be seen of them later: nobody decides an instance differently, neither the value nor how it
//! relates to others; and in a partial order, of two commands of one epoch that interfere, at least one lists the other.

use crate::ledger::Violation;
use bytes::Bytes;
use concur_core::{BatchId, Epoch, Instance, ReplicaId, Value};
use concur_replica::Decision;
use std::collections::BTreeMap;

/// The first decision of each instance.
#[derive(Debug, Default)]
pub(crate) struct Decisions {
    first: BTreeMap<(Epoch, Instance), Decision>,
    /// Every seal that was decided, whether it was executed or not, and where it leads.
    seals: BTreeMap<(Epoch, BatchId), Bytes>,
    /// The latest time that any batch bears.
    logged_ms: u64,
}

impl Decisions {
    /// A replica decided something.
    pub(crate) fn add(&mut self, replica: ReplicaId, decision: &Decision) -> Result<(), Violation> {
        let (epoch, Instance { lane, number }) = (decision.epoch, decision.run.first);
        if let Value::Seal(seal) = &decision.value
            && *self.seals.entry((epoch, seal.id)).or_insert_with(|| seal.body.clone()) != seal.body
        {
            return Err(Violation::new("agreement", format!("the seal {:?} leads elsewhere at {replica}", seal.id)));
        }
        if let Value::Batch(batch) = &decision.value {
            self.logged_ms = self.logged_ms.max(batch.logged_ms);
        }
        for number in number..number + decision.run.count {
            let instance = Instance { lane, number };
            let first = self.first.entry((epoch, instance)).or_insert_with(|| decision.clone());
            if first.value.id() != decision.value.id() || first.order != decision.order {
                let (a, b) = (relation(first), relation(decision));
                let message = format!("{instance} of epoch {} is decided as {a}, and at {replica} as {b}", epoch.0);
                return Err(Violation::new("agreement", message));
            }
        }
        Ok(())
    }

    /// The latest time that was logged.
    pub(crate) fn logged_ms(&self) -> u64 {
        self.logged_ms
    }

    /// Where a seal leads that was decided in an epoch.
    pub(crate) fn seal(&self, epoch: Epoch, id: BatchId) -> Option<&Bytes> {
        self.seals.get(&(epoch, id))
    }

    /// In a partial order, no two that interfere are left without one.
    pub(crate) fn check_ordered(&self) -> Result<(), Violation> {
        let all: Vec<Ordered<'_>> = self
            .first
            .iter()
            .filter(|(_, decision)| !decision.value.is_noop())
            .filter_map(|(&(epoch, instance), decision)| Some((epoch, instance, decision, decision.dependencies.as_deref()?)))
            .collect();
        all.chunk_by(|a, b| a.0 == b.0).try_for_each(check_epoch)
    }
}

/// A decision with what it lists.
type Ordered<'a> = (Epoch, Instance, &'a Decision, &'a [u64]);

fn check_epoch(all: &[Ordered<'_>]) -> Result<(), Violation> {
    let lists = |deps: &[u64], other: Instance| deps.get(usize::from(other.lane.0)).is_some_and(|&below| other.number < below);
    for (place, &(epoch, a, first, of_a)) in all.iter().enumerate() {
        for &(_, b, second, of_b) in &all[place + 1..] {
            if !lists(of_b, a) && !lists(of_a, b) && first.value.interferes(&second.value) {
                let message = format!("{a} and {b} of epoch {} interfere, and neither lists the other: {of_a:?}, {of_b:?}", epoch.0);
                return Err(Violation::new("unordered", message));
            }
        }
    }
    Ok(())
}

fn relation(decision: &Decision) -> String {
    match &decision.dependencies {
        Some(deps) => format!("{:?} after {deps:?}", decision.value.id()),
        None => format!("{:?} in {:02x?}", decision.value.id(), &decision.order[..]),
    }
}
