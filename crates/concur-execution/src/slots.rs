//! Slots: the contiguous prefix is executed, in order.

use bytes::Bytes;
use concur_core::{Epoch, Frontier, Instance, Lane, Mark, Run, Value};
use std::collections::{BTreeMap, VecDeque};

/// How many slots from the first one that is not executed lie in the dense window. Whoever comes back after a long time hears of live
/// slots long before it has what lies between.
const NEAR_MAX: usize = 1 << 16;

/// Orders the one lane of a slot protocol: a slot is executed once every lower one is.
#[derive(Debug, Clone)]
pub struct Slots {
    epoch: Epoch,
    below: u64,
    /// What is decided from `below` on; `None` where it is not.
    window: VecDeque<Option<Decided>>,
    /// What is decided behind the window.
    far: BTreeMap<u64, Decided>,
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
        let mut slots =
            Self { epoch: mark.frontier.epoch, below: 0, window: VecDeque::new(), far: BTreeMap::new(), last: None, decided: 0 };
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
        let near = usize::try_from(number - self.below).ok().filter(|&index| index < NEAR_MAX);
        let earlier = match near {
            Some(index) => self.window.get(index).and_then(Option::as_ref),
            None => self.far.get(&number),
        };
        if let Some(earlier) = earlier {
            return assert_eq!(earlier.value, value, "slot {number} was decided differently");
        }
        self.decided += 1;
        match near {
            Some(index) => self.put_near(index, Decided { value, order }),
            None => drop(self.far.insert(number, Decided { value, order })),
        }
    }

    fn put_near(&mut self, index: usize, decided: Decided) {
        if self.window.len() <= index {
            self.window.resize(index + 1, None);
        }
        self.window[index] = Some(decided);
    }

    /// What is no longer far goes into the window.
    fn draw_near(&mut self) {
        while let Some(entry) = self.far.first_entry()
            && *entry.key() < self.below.saturating_add(NEAR_MAX as u64)
        {
            let (number, decided) = entry.remove_entry();
            self.put_near((number - self.below) as usize, decided);
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
        self.draw_near();
        Some((instance, value, order))
    }

    /// The undecided slot that execution waits for, if something behind it is decided.
    pub fn wanted(&self) -> Option<Instance> {
        let waits = match self.window.front() {
            Some(first) => first.is_none(),
            None => !self.far.is_empty(),
        };
        waits.then(|| Instance::slot(self.below))
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
            let (window, far) = (VecDeque::new(), BTreeMap::new());
            *self = Self { epoch: mark.frontier.epoch, below, window, far, last: None, decided: 0 };
        } else if mark.frontier.epoch < self.epoch || below < self.below {
            return;
        }
        let drop = usize::try_from(below - self.below).unwrap_or(usize::MAX).min(self.window.len());
        self.decided -= self.window.drain(..drop).flatten().count();
        self.below = below;
        let passed = self.far.len();
        self.far = self.far.split_off(&below);
        self.decided -= passed - self.far.len();
        self.draw_near();
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
    use concur_core::{BatchId, BootCount, LaneId, ReplicaId, Seal};

    fn value(number: u64) -> Value {
        let id = BatchId { origin: ReplicaId(0), boot: BootCount(1), number };
        Value::Seal(Seal { id, body: Bytes::new() })
    }

    /// A replica that was away for a day hears of live slots at once: that takes no memory for what lies between.
    #[test]
    fn what_is_decided_far_ahead_waits_without_what_lies_between() {
        let mut slots = Slots::new(&Mark::start(Epoch(0)));
        let far = 1 << 40;
        for number in [far + 2, far, far + 1, 3] {
            slots.decided(Run { first: Instance::slot(number), count: 1 }, value(number), Bytes::new());
        }
        assert!(slots.window.len() < 8);
        assert_eq!((slots.wanted(), slots.waiting(), slots.pop()), (Some(Instance::slot(0)), 4, None));
        slots.install(&Mark { frontier: Frontier::slots(Epoch(0), far), orders: vec![None] });
        let popped: Vec<_> = std::iter::from_fn(|| slots.pop()).map(|(instance, value, _)| (instance, value)).collect();
        assert_eq!(popped, (far..far + 3).map(|number| (Instance::slot(number), value(number))).collect::<Vec<_>>());
        assert_eq!((slots.wanted(), slots.waiting()), (None, 0));
    }

    #[test]
    fn what_was_far_is_executed_in_order_when_it_is_near() {
        let mut slots = Slots::new(&Mark::start(Epoch(0)));
        let all = 3 * NEAR_MAX as u64;
        for number in (0..all).rev() {
            slots.decided(Run { first: Instance::slot(number), count: 1 }, Value::Noop, Bytes::new());
        }
        assert!(slots.window.len() <= NEAR_MAX);
        let popped: Vec<u64> = std::iter::from_fn(|| slots.pop()).map(|(instance, ..)| instance.number).collect();
        assert!(popped.iter().copied().eq(0..all));
        assert_eq!((slots.frontier().below(LaneId(0)), slots.waiting()), (all, 0));
    }

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
