//! What protocols decided, over all replicas, before anything of it is executed.
//!
//! Two promises, sharper than what can be seen of them later: nobody decides an instance differently, neither the value nor how it
//! relates to others; and in a partial order, of two commands that interfere, at least one lists the other.

use crate::ledger::Violation;
use concur_core::{Instance, ReplicaId};
use concur_replica::Decision;
use std::collections::BTreeMap;

/// The first decision of each instance.
#[derive(Debug, Default)]
pub(crate) struct Decisions {
    first: BTreeMap<Instance, Decision>,
}

impl Decisions {
    /// A replica decided something.
    pub(crate) fn add(&mut self, replica: ReplicaId, decision: &Decision) -> Result<(), Violation> {
        let Instance { lane, number } = decision.run.first;
        for number in number..number + decision.run.count {
            let instance = Instance { lane, number };
            let first = self.first.entry(instance).or_insert_with(|| decision.clone());
            if first.value.id() != decision.value.id() || first.order != decision.order {
                let (a, b) = (relation(first), relation(decision));
                return Err(Violation::new("agreement", format!("{instance} is decided as {a}, and at {replica} as {b}")));
            }
        }
        Ok(())
    }

    /// In a partial order, no two that interfere are left without one.
    pub(crate) fn check_ordered(&self) -> Result<(), Violation> {
        let all: Vec<(Instance, &Decision, &[u64])> = self
            .first
            .iter()
            .filter(|(_, decision)| !decision.value.is_noop())
            .filter_map(|(&instance, decision)| Some((instance, decision, decision.dependencies.as_deref()?)))
            .collect();
        let lists = |deps: &[u64], other: Instance| deps.get(usize::from(other.lane.0)).is_some_and(|&below| other.number < below);
        for (place, &(a, first, of_a)) in all.iter().enumerate() {
            for &(b, second, of_b) in &all[place + 1..] {
                if !lists(of_b, a) && !lists(of_a, b) && first.value.interferes(&second.value) {
                    let message = format!("{a} and {b} interfere, and neither lists the other: {of_a:?}, {of_b:?}");
                    return Err(Violation::new("unordered", message));
                }
            }
        }
        Ok(())
    }
}

fn relation(decision: &Decision) -> String {
    match &decision.dependencies {
        Some(deps) => format!("{:?} after {deps:?}", decision.value.id()),
        None => format!("{:?} in {:02x?}", decision.value.id(), &decision.order[..]),
    }
}
