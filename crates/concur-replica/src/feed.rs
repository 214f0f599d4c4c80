//! Feed: what this replica executed goes, in its order, to those who follow it: observers, newcomers, and voters that must cross a
//! seal which their own protocol will not show them any more.
//!
//! A window of what was executed last is kept, seals included, across epochs. Whoever follows names the exact frontier of what it
//! has and gets whatever of the window lies beyond, then what is executed from then on, a few parts ahead of its answers. Its order
//! suits any frontier that some other replica's order led to, so a follower may change its source at any time. Who lacks more than
//! the window holds is told to fetch state.
//!
//! A run of no-ops takes the place of one: a protocol may fill hundreds of instances with nothing at once.
//!
//! Only what is executed is in the window, so that nothing is fed that a seal voids.

use crate::api::Output;
use crate::replica::Replica;
use concur_core::{Epoch, Frontier, Instance, ReplicaId, ReplicaSet, StateMachine, Time, Value};
use concur_execution::Next;
use concur_network::{After, Body, Fed, Feed};
use std::collections::{BTreeMap, VecDeque};

/// Parts that are on their way to one follower.
const AHEAD_MAX: u32 = 4;
/// So many instances one part carries at most: a run of no-ops is short on the wire and long to execute.
pub(crate) const PART_INSTANCES_MAX: u64 = 4_096;
/// How many times what is kept otherwise may be kept for those to whom a state is on its way.
const HELD_MAX: usize = 4;
/// For how many election timeouts a silent follower is fed.
const SILENT_ELECTIONS: u32 = 4;

/// What was executed last, and who follows.
#[derive(Debug)]
pub(crate) struct Window {
    /// Each with the number of its first instance; instances are numbered through a run of the process.
    entries: VecDeque<(u64, Fed)>,
    /// The number behind the last of them.
    end: u64,
    bytes: usize,
    /// Exactly what was executed before the first entry.
    base: Frontier,
    followers: BTreeMap<ReplicaId, Follower>,
}

/// Somebody who follows.
#[derive(Debug)]
struct Follower {
    /// The number of what is sent next.
    next: u64,
    /// Parts that were sent and not answered.
    ahead: u32,
    heard_at: Time,
}

impl Window {
    /// Empty, behind what is executed.
    pub(crate) fn new(base: Frontier) -> Self {
        Self { entries: VecDeque::new(), end: 0, bytes: 0, base, followers: BTreeMap::new() }
    }

    /// The number behind the last entry.
    pub(crate) fn end(&self) -> u64 {
        self.end
    }

    /// Something was executed.
    fn push(&mut self, fed: Fed) {
        let number = self.end;
        self.end += fed.run.count;
        if !self.entries.back_mut().is_some_and(|(_, last)| last.take_up(&fed)) {
            self.bytes += fed.size_bytes();
            self.entries.push_back((number, fed));
        }
    }

    /// Lets go of the oldest beyond so many bytes; of what lies behind number `held` only beyond a multiple.
    fn trim(&mut self, bytes_max: usize, held: Option<u64>) {
        while self.bytes > bytes_max {
            let Some((number, fed)) = self.entries.front() else { return };
            if held.is_some_and(|held| number + fed.run.count > held) && self.bytes <= bytes_max.saturating_mul(HELD_MAX) {
                return;
            }
            let Some((_, fed)) = self.entries.pop_front() else { return };
            self.bytes -= fed.size_bytes();
            match fed.value {
                Value::Seal(_) => self.base = Frontier::start(Epoch(fed.epoch.0 + 1)),
                _ => {
                    for instance in fed.run.instances() {
                        self.base.insert(instance);
                    }
                }
            }
        }
    }

    /// A state took the place of what was executed.
    pub(crate) fn restart(&mut self, base: Frontier) {
        *self = Self { end: self.end, ..Self::new(base) };
    }

    /// A part of what lies beyond a frontier, and the number behind it; `None` if more lies beyond than is kept.
    fn beyond(&self, frontier: &Frontier, bytes_max: usize) -> Option<(Vec<Fed>, u64)> {
        if !frontier.covers(&self.base) {
            return None;
        }
        let has = |epoch: Epoch, instance| epoch < frontier.epoch || (epoch == frontier.epoch && frontier.contains(instance));
        Some(self.part(0, bytes_max, has))
    }

    /// A part from a number on, and the number behind it; `None` if that is no longer kept.
    fn from(&self, number: u64, bytes_max: usize) -> Option<(Vec<Fed>, u64)> {
        let first = self.entries.front().map_or(self.end, |(first, _)| *first);
        (number >= first).then(|| self.part(number, bytes_max, |_, _| false))
    }

    /// A part from a number on without what the follower has: at least one entry, and no more instances than it takes at once.
    fn part(&self, number: u64, bytes_max: usize, has: impl Fn(Epoch, Instance) -> bool) -> (Vec<Fed>, u64) {
        let (mut part, mut bytes, mut room): (Vec<Fed>, _, _) = (Vec::new(), 0, PART_INSTANCES_MAX);
        let skip = self.entries.partition_point(|(first, fed)| first + fed.run.count <= number);
        for (first, fed) in self.entries.iter().skip(skip) {
            for (at, instance) in (*first..).zip(fed.run.instances()) {
                if at < number || has(fed.epoch, instance) {
                    continue;
                }
                let one = Fed { run: instance.into(), ..fed.clone() };
                if !part.last_mut().is_some_and(|last| last.take_up(&one)) {
                    bytes += one.size_bytes();
                    if bytes > bytes_max && !part.is_empty() {
                        return (part, at);
                    }
                    part.push(one);
                }
                room -= 1;
                if room == 0 {
                    return (part, at + 1);
                }
            }
        }
        (part, self.end)
    }
}

impl<M: StateMachine> Replica<M> {
    /// Keeps what was executed for those who follow, if there can be somebody.
    pub(crate) fn keep_for_feed(&mut self, next: Next) {
        let Next { instance, value, order } = next;
        let epoch = self.epoch();
        self.window.push(Fed { epoch, run: instance.into(), value, order });
        let bytes_max = if self.settings.configuration.members.len() > 1 { self.settings.feed_bytes_max } else { 0 };
        self.window.trim(bytes_max, self.transfers.held_from());
    }

    /// No-ops that a graph executed without handing them out are part of what followers have to know.
    pub(crate) fn keep_noops(&mut self) {
        for instance in self.sequencer.take_noops() {
            self.keep_noop(instance);
        }
    }

    fn keep_noop(&mut self, instance: Instance) {
        self.keep_for_feed(Next { instance, value: Value::Noop, order: bytes::Bytes::new() });
    }

    /// Somebody wants to be fed, or has received a part.
    pub(crate) fn follow_wanted(&mut self, from: ReplicaId, frontier: Option<Frontier>, begins: bool, out: &mut Output) {
        if self.empty {
            return;
        }
        let now = self.now;
        if !begins {
            if let Some(follower) = self.window.followers.get_mut(&from) {
                follower.heard_at = now;
                follower.ahead = follower.ahead.saturating_sub(1);
            }
            return;
        }
        if frontier.as_ref().is_some_and(|frontier| frontier.epoch > self.epoch()) {
            return; // It is ahead: there is nothing here for it.
        }
        let bytes_max = self.feed_part_bytes();
        let beyond = |frontier: Frontier| Some((self.window.beyond(&frontier, bytes_max)?, frontier));
        let Some(((entries, through), frontier)) = frontier.and_then(beyond) else {
            return self.gone_for(from, out);
        };
        self.window.followers.insert(from, Follower { next: through, ahead: 1, heard_at: now });
        self.send_feed(from, After::Frontier(frontier), through, entries, out);
    }

    /// Sends on to those who follow what was executed.
    pub(crate) fn push_feed(&mut self, out: &mut Output) {
        if self.window.followers.is_empty() {
            return;
        }
        let (now, silent, end) = (self.now, self.settings.config.election * SILENT_ELECTIONS, self.window.end());
        self.window.followers.retain(|_, follower| now.since(follower.heard_at) < silent);
        let ready = |follower: &Follower| follower.ahead < AHEAD_MAX && follower.next < end;
        while let Some(id) = self.window.followers.iter().find(|(_, follower)| ready(follower)).map(|(&id, _)| id) {
            let after = self.window.followers[&id].next;
            let Some((entries, through)) = self.window.from(after, self.feed_part_bytes()) else {
                self.gone_for(id, out);
                continue;
            };
            if let Some(follower) = self.window.followers.get_mut(&id) {
                follower.next = through;
                follower.ahead += 1;
            }
            self.send_feed(id, After::Number(after), through, entries, out);
        }
    }

    fn send_feed(&self, to: ReplicaId, after: After, through: u64, entries: Vec<Fed>, out: &mut Output) {
        let feed = Feed { run: self.settings.boot, after, through, entries };
        self.send_body(ReplicaSet::one(to), false, Body::Feed(feed), out);
    }

    fn gone_for(&mut self, id: ReplicaId, out: &mut Output) {
        self.window.followers.remove(&id);
        out.notes.push(("feed gone", None));
        self.send_body(ReplicaSet::one(id), false, Body::FeedGone {}, out);
    }

    fn feed_part_bytes(&self) -> usize {
        self.settings.config.message_bytes_max.min(1 << 20)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use concur_core::{Batch, BatchId, BootCount, Footprint, Run};

    fn fed(number: u64, noop: bool) -> Fed {
        let id = BatchId { origin: ReplicaId(0), boot: BootCount(1), number };
        let batch = Batch { id, logged_ms: 0, footprint: Footprint::NOTHING, commands: Bytes::new() };
        let value = if noop { Value::Noop } else { Value::Batch(batch) };
        Fed { epoch: Epoch(1), run: Instance::slot(number).into(), value, order: Bytes::new() }
    }

    fn runs(part: &[Fed]) -> Vec<(u64, u64)> {
        part.iter().map(|fed| (fed.run.first.number, fed.run.count)).collect()
    }

    /// A batch, ten thousand no-ops, a batch, in slots from 0 on.
    fn window() -> Window {
        let mut window = Window::new(Frontier::start(Epoch(1)));
        (0..10_002).for_each(|number| window.push(fed(number, number != 0 && number != 10_001)));
        window
    }

    #[test]
    fn no_ops_in_a_row_are_fed_as_one_and_a_part_may_end_among_them() {
        let window = window();
        assert_eq!((window.entries.len(), window.end()), (3, 10_002));
        let (part, through) = window.from(0, 1 << 20).expect("all is kept");
        assert_eq!((runs(&part), through), (vec![(0, 1), (1, PART_INSTANCES_MAX - 1)], PART_INSTANCES_MAX));
        let (part, through) = window.from(through, 1 << 20).expect("all is kept");
        assert_eq!((runs(&part), through), (vec![(PART_INSTANCES_MAX, PART_INSTANCES_MAX)], 2 * PART_INSTANCES_MAX));
        let (part, through) = window.from(10_000, 1 << 20).expect("all is kept");
        assert_eq!((runs(&part), through), (vec![(10_000, 1), (10_001, 1)], 10_002));
        assert_eq!(window.from(10_000, 1).expect("one entry at least").1, 10_001);
        assert_eq!(part.into_iter().flat_map(Fed::each).count(), 2);
    }

    #[test]
    fn who_has_some_of_a_run_gets_the_rest() {
        let window = window();
        let mut frontier = Frontier::slots(Epoch(1), 9_990);
        frontier.insert(Instance::slot(9_995));
        let (part, through) = window.beyond(&frontier, 1 << 20).expect("all is kept");
        assert_eq!((runs(&part), through), (vec![(9_990, 5), (9_996, 5), (10_001, 1)], 10_002));
    }

    #[test]
    fn a_run_of_no_ops_takes_the_space_of_one_and_goes_as_a_whole() {
        let mut window = window();
        let bytes = window.bytes;
        assert!(bytes < 1_000, "{bytes}");
        // Number 5 000 is still to be sent, and lies in the run.
        window.trim(bytes / 2, Some(5_000));
        assert_eq!(window.base, Frontier::slots(Epoch(1), 1));
        window.trim(bytes / 2, None);
        assert_eq!(window.base, Frontier::slots(Epoch(1), 10_001));
        assert_eq!(window.from(10_000, 1 << 20), None);
        window.restart(Frontier::slots(Epoch(1), 20_000));
        assert_eq!((window.end(), window.from(10_001, 1)), (10_002, None));
        assert_eq!(window.from(10_002, 1), Some((Vec::new(), 10_002)));
        assert_eq!(Run { first: Instance::slot(u64::MAX), count: 9 }.instances().count(), 0, "no lane goes on for ever");
    }
}
