//! One face of both sequencers, and of a history that somebody else has put in order.

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
    /// In the order in which another replica executed it: nothing is decided here.
    Followed(Followed),
}

/// What is executed of a history that comes in the order of its source. That order suits whatever is executed here, from whatever
/// source it came: of two instances that interfere every source has the same first.
#[derive(Debug, Clone)]
pub struct Followed {
    mark: Mark<Bytes>,
}

/// Something to execute.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Next {
    /// Where it was decided.
    pub instance: Instance,
    /// What.
    pub value: Value,
    /// Its order, encoded, where the protocol needs that of the last executed.
    pub order: Bytes,
}

impl Sequencer {
    /// Goes on from what is executed.
    pub fn new(order: Ordering, mark: &Mark<Bytes>) -> Self {
        match order {
            Ordering::Total => Self::Slots(Slots::new(mark)),
            Ordering::Partial => Self::Graph(Graph::new(mark.frontier.clone())),
        }
    }

    /// Goes on from what is executed, in the order of a source.
    pub fn followed(mark: Mark<Bytes>) -> Self {
        Self::Followed(Followed { mark })
    }

    /// These instances are decided.
    pub fn decided(&mut self, run: Run, value: Value, order: Bytes, dependencies: Option<Vec<u64>>) {
        match self {
            Self::Slots(slots) => slots.decided(run, value, order),
            Self::Graph(graph) => {
                assert_eq!(run.count, 1, "an instance of a graph is decided alone");
                graph.decided(run.first, value, dependencies.unwrap_or_default());
            }
            Self::Followed(_) => unreachable!("nothing is decided where nobody votes"),
        }
    }

    /// The next instance to execute.
    pub fn pop(&mut self) -> Option<Next> {
        match self {
            Self::Slots(slots) => slots.pop().map(|(instance, value, order)| Next { instance, value, order }),
            Self::Graph(graph) => graph.next().map(|(instance, value)| Next { instance, value, order: Bytes::new() }),
            Self::Followed(_) => None,
        }
    }

    /// The next instance of the source's order was executed. Only where a history is followed.
    pub fn follow(&mut self, instance: Instance, order: Bytes) {
        let Self::Followed(Followed { mark }) = self else { unreachable!("whoever votes makes the order itself") };
        let lane = usize::from(instance.lane.0);
        mark.frontier.insert(instance);
        if !order.is_empty() {
            if mark.orders.len() <= lane {
                mark.orders.resize(lane + 1, None);
            }
            mark.orders[lane] = Some(order);
        }
    }

    /// No-ops that were executed without being handed out since the last call.
    pub fn take_noops(&mut self) -> Vec<Instance> {
        match self {
            Self::Slots(_) | Self::Followed(_) => Vec::new(),
            Self::Graph(graph) => graph.take_noops(),
        }
    }

    /// Undecided instances that execution waits for.
    pub fn wanted(&self) -> Vec<Instance> {
        match self {
            Self::Slots(slots) => slots.wanted().into_iter().collect(),
            Self::Graph(graph) => graph.wanted().collect(),
            Self::Followed(_) => Vec::new(),
        }
    }

    /// What is executed.
    pub fn frontier(&self) -> Frontier {
        match self {
            Self::Slots(slots) => slots.frontier(),
            Self::Graph(graph) => graph.frontier().clone(),
            Self::Followed(followed) => followed.mark.frontier.clone(),
        }
    }

    /// Whether everything in `other` is executed.
    pub fn covers(&self, other: &Frontier) -> bool {
        match self {
            Self::Slots(slots) => slots.covers(other),
            Self::Graph(graph) => graph.frontier().covers(other),
            Self::Followed(followed) => followed.mark.frontier.covers(other),
        }
    }

    /// Whether one instance of the present epoch is executed.
    pub fn contains(&self, instance: Instance) -> bool {
        match self {
            Self::Slots(slots) => instance.lane.0 == 0 && instance.number < slots.below(),
            Self::Graph(graph) => graph.frontier().contains(instance),
            Self::Followed(followed) => followed.mark.frontier.contains(instance),
        }
    }

    /// How many instances are executed.
    pub fn executed_count(&self) -> u64 {
        match self {
            Self::Slots(slots) => slots.below(),
            Self::Graph(graph) => graph.frontier().count(),
            Self::Followed(followed) => followed.mark.frontier.count(),
        }
    }

    /// Where execution stands.
    pub fn mark(&self) -> Mark<Bytes> {
        match self {
            Self::Slots(slots) => slots.mark(),
            Self::Graph(graph) => Mark { frontier: graph.frontier().clone(), orders: Vec::new() },
            Self::Followed(followed) => followed.mark.clone(),
        }
    }

    /// State up to `mark` came from elsewhere.
    pub fn install(&mut self, mark: &Mark<Bytes>) {
        match self {
            Self::Slots(slots) => slots.install(mark),
            Self::Graph(graph) => graph.install(mark.frontier.clone()),
            Self::Followed(followed) if followed.mark.frontier.covers(&mark.frontier) => {}
            Self::Followed(followed) => followed.mark = mark.clone(),
        }
    }

    /// How many instances are decided and wait for others.
    pub fn waiting(&self) -> usize {
        match self {
            Self::Slots(slots) => slots.waiting(),
            Self::Graph(graph) => graph.waiting(),
            Self::Followed(_) => 0,
        }
    }
}
