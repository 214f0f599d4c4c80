//! Slots: the contiguous prefix is executed, in order.

use bytes::Bytes;
use concur_core::{Epoch, Frontier, Instance, Lane, Mark, Run, Value};
use std::collections::VecDeque;

/// Orders the one lane of a slot protocol: a slot is executed once every lower one is.
#[derive(Debug, Clone)]
pub struct Slots {
    epoch: Epoch,
    below: u64,
    /// What is decided from `below` on; `None` where it is not.
    window: VecDeque<Option<Decided>>,
    /// The order of the last executed slot.
    last: Option<Bytes>,
    decided: usize,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Decided {
    value: Value,
    order: Bytes,
}

impl Slots {
    /// Goes on from what is executed.
    pub fn new(mark: &Mark<Bytes>) -> Self {
        let mut slots = Self { epoch: mark.frontier.epoch, below: 0, window: VecDeque::new(), last: None, decided: 0 };
        slots.install(mark);
        slots
    }

    /// These slots are decided. Deciding a slot that waits here differently panics: agreement is broken.
    pub fn decided(&mut self, run: Run, value: Value, order: Bytes) {
        let end = run.first.number.saturating_add(run.count);
        let first = run.first.number.max(self.below);
        if first >= end {
            return;
        }
        for number in first..end - 1 {
            self.decided_one(number, value.clone(), order.clone());
        }
        self.decided_one(end - 1, value, order);
    }

    fn decided_one(&mut self, number: u64, value: Value, order: Bytes) {
        let index = usize::try_from(number - self.below).expect("a window in memory");
        if self.window.len() <= index {
            self.window.resize(index + 1, None);
        }
        match &self.window[index] {
            Some(earlier) => assert_eq!(earlier.value, value, "slot {number} was decided differently"),
            None => {
                self.window[index] = Some(Decided { value, order });
                self.decided += 1;
            }
        }
    }

    /// The next slot to execute, with its order, if it is decided.
    pub fn pop(&mut self) -> Option<(Instance, Value, Bytes)> {
        let Decided { value, order } = self.window.front_mut()?.take()?;
        self.window.pop_front();
        let instance = Instance::slot(self.below);
        self.below += 1;
        self.decided -= 1;
        self.last = Some(order.clone());
        Some((instance, value, order))
    }

    /// The undecided slot that execution waits for, if something behind it is decided.
    pub fn wanted(&self) -> Option<Instance> {
        matches!(self.window.front(), Some(None)).then(|| Instance::slot(self.below))
    }

    /// What is executed.
    pub fn frontier(&self) -> Frontier {
        Frontier::slots(self.epoch, self.below)
    }

    /// Whether everything in `other` is executed: its slots are the prefix that is executed here, or less.
    pub fn covers(&self, other: &Frontier) -> bool {
        if other.epoch != self.epoch {
            return self.epoch > other.epoch;
        }
        let reaches = |lane: &Lane| lane.below.max(lane.beyond.end().unwrap_or(0));
        other.lanes.iter().enumerate().all(|(i, lane)| reaches(lane) <= if i == 0 { self.below } else { 0 })
    }

    /// How many slots are executed.
    pub fn below(&self) -> u64 {
        self.below
    }

    /// Where execution stands.
    pub fn mark(&self) -> Mark<Bytes> {
        Mark { frontier: self.frontier(), orders: vec![self.last.clone()] }
    }

    /// State up to `mark` came from elsewhere. What is behind the state that is here is passed over; a later epoch begins anew.
    pub fn install(&mut self, mark: &Mark<Bytes>) {
        let below = mark.frontier.below(concur_core::LaneId(0));
        if mark.frontier.epoch > self.epoch {
            *self = Self { epoch: mark.frontier.epoch, below, window: VecDeque::new(), last: None, decided: 0 };
        } else if mark.frontier.epoch < self.epoch || below < self.below {
            return;
        }
        let drop = usize::try_from(below - self.below).unwrap_or(usize::MAX).min(self.window.len());
        self.decided -= self.window.drain(..drop).flatten().count();
        self.below = below;
        self.last = mark.orders.first().cloned().flatten();
    }

    /// How many slots are decided and wait for a lower one.
    pub fn waiting(&self) -> usize {
        self.decided
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_contiguous_prefix_is_executed() {
        let mut slots = Slots::new(&Mark::start(Epoch(0)));
        let order = Bytes::from_static(&[7]);
        slots.decided(Instance::slot(1).into(), Value::Noop, order.clone());
        assert_eq!(slots.pop(), None);
        assert_eq!(slots.wanted(), Some(Instance::slot(0)));
        slots.decided(Run { first: Instance::slot(0), count: 3 }, Value::Noop, order.clone());
        assert_eq!((0..4).filter_map(|_| slots.pop()).count(), 3);
        assert_eq!(slots.mark(), Mark { frontier: Frontier::slots(Epoch(0), 3), orders: vec![Some(order)] });
        assert_eq!((slots.wanted(), slots.waiting()), (None, 0));
    }

    #[test]
    fn installed_state_replaces_what_it_covers() {
        let mut slots = Slots::new(&Mark::start(Epoch(0)));
        slots.decided(Instance::slot(5).into(), Value::Noop, Bytes::new());
        slots.install(&Mark { frontier: Frontier::slots(Epoch(0), 5), orders: vec![None] });
        assert_eq!(slots.pop(), Some((Instance::slot(5), Value::Noop, Bytes::new())));
    }

    #[test]
    fn what_is_executed_or_of_a_later_epoch_is_never_undone() {
        let mut slots = Slots::new(&Mark { frontier: Frontier::slots(Epoch(1), 9), orders: vec![None] });
        slots.install(&Mark { frontier: Frontier::slots(Epoch(1), 3), orders: vec![None] });
        slots.install(&Mark { frontier: Frontier::slots(Epoch(0), 30), orders: vec![None] });
        slots.decided(Instance::slot(4).into(), Value::Noop, Bytes::new());
        assert_eq!((slots.below(), slots.pop(), slots.waiting()), (9, None, 0));
        for n in 0..20 {
            let other = Frontier::slots(Epoch(1), n);
            assert_eq!(slots.covers(&other), slots.frontier().covers(&other), "{n}");
        }
        slots.decided(Instance::slot(10).into(), Value::Noop, Bytes::new());
        slots.install(&Mark { frontier: Frontier::slots(Epoch(2), 2), orders: vec![None] });
        assert_eq!((slots.frontier(), slots.waiting()), (Frontier::slots(Epoch(2), 2), 0));
    }
}
