//! One face of both sequencers.

use crate::{Graph, Slots};
use bytes::Bytes;
use concur_core::{Frontier, Instance, Mark, Ordering, Run, Value};

/// Makes one order of what is decided.
#[derive(Debug, Clone)]
pub enum Sequencer {
    /// By slot.
    Slots(Slots),
    /// By dependencies.
    Graph(Graph),
}

impl Sequencer {
    /// Goes on from what is executed.
    pub fn new(order: Ordering, mark: &Mark<Bytes>) -> Self {
        match order {
            Ordering::Total => Self::Slots(Slots::new(mark)),
            Ordering::Partial => Self::Graph(Graph::new(mark.frontier.clone())),
        }
    }

    /// These instances are decided.
    pub fn decided(&mut self, run: Run, value: Value, order: Bytes, dependencies: Option<Vec<u64>>) {
        match self {
            Self::Slots(slots) => slots.decided(run, value, order),
            Self::Graph(graph) => {
                assert_eq!(run.count, 1, "an instance of a graph is decided alone");
                graph.decided(run.first, value, dependencies.unwrap_or_default());
            }
        }
    }

    /// The next instance to execute.
    pub fn pop(&mut self) -> Option<(Instance, Value)> {
        match self {
            Self::Slots(slots) => slots.pop(),
            Self::Graph(graph) => graph.next(),
        }
    }

    /// Undecided instances that execution waits for.
    pub fn wanted(&self) -> Vec<Instance> {
        match self {
            Self::Slots(slots) => slots.wanted().into_iter().collect(),
            Self::Graph(graph) => graph.wanted().collect(),
        }
    }

    /// What is executed.
    pub fn frontier(&self) -> Frontier {
        match self {
            Self::Slots(slots) => slots.frontier(),
            Self::Graph(graph) => graph.frontier().clone(),
        }
    }

    /// Whether everything in `other` is executed.
    pub fn covers(&self, other: &Frontier) -> bool {
        match self {
            Self::Slots(slots) => slots.covers(other),
            Self::Graph(graph) => graph.frontier().covers(other),
        }
    }

    /// How many instances are executed.
    pub fn executed_count(&self) -> u64 {
        match self {
            Self::Slots(slots) => slots.below(),
            Self::Graph(graph) => graph.frontier().count(),
        }
    }

    /// Where execution stands.
    pub fn mark(&self) -> Mark<Bytes> {
        match self {
            Self::Slots(slots) => slots.mark(),
            Self::Graph(graph) => Mark { frontier: graph.frontier().clone(), orders: Vec::new() },
        }
    }

    /// State up to `mark` came from elsewhere.
    pub fn install(&mut self, mark: &Mark<Bytes>) {
        match self {
            Self::Slots(slots) => slots.install(mark),
            Self::Graph(graph) => graph.install(mark.frontier.clone()),
        }
    }

    /// How many instances are decided and wait for others.
    pub fn waiting(&self) -> usize {
        match self {
            Self::Slots(slots) => slots.waiting(),
            Self::Graph(graph) => graph.waiting(),
        }
    }
}
