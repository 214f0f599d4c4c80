//! Feed: what this replica executed goes, in its order, to those who follow it: observers, newcomers, and voters that must cross a
//! seal which their own protocol will not show them any more.
//!
//! A window of what was executed last is kept, seals included, across epochs. Whoever follows names the exact frontier of what it
//! has and gets whatever of the window lies beyond, then what is executed from then on, a few parts ahead of its answers. Its order
//! suits any frontier that some other replica's order led to, so a follower may change its source at any time. Who lacks more than
//! the window holds is told to fetch state.
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
/// How many times what is kept otherwise may be kept for those to whom a state is on its way.
const HELD_MAX: usize = 4;
/// For how many election timeouts a silent follower is fed.
const SILENT_ELECTIONS: u32 = 4;

/// What was executed last, and who follows.
#[derive(Debug)]
pub(crate) struct Window {
    entries: VecDeque<Fed>,
    /// The number of the first entry; they are numbered through a run.
    first: u64,
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
        Self { entries: VecDeque::new(), first: 0, bytes: 0, base, followers: BTreeMap::new() }
    }

    /// The number behind the last entry.
    pub(crate) fn end(&self) -> u64 {
        self.first + self.entries.len() as u64
    }

    /// Something was executed.
    fn push(&mut self, fed: Fed) {
        self.bytes += fed.size_bytes();
        self.entries.push_back(fed);
    }

    /// Lets go of the oldest beyond so many bytes; of what lies behind number `held` only beyond a multiple.
    fn trim(&mut self, bytes_max: usize, held: Option<u64>) {
        while self.bytes > bytes_max {
            if held.is_some_and(|held| self.first >= held) && self.bytes <= bytes_max.saturating_mul(HELD_MAX) {
                return;
            }
            let Some(fed) = self.entries.pop_front() else { return };
            self.first += 1;
            self.bytes -= fed.size_bytes();
            match fed.value {
                Value::Seal(_) => self.base = Frontier::start(Epoch(fed.epoch.0 + 1)),
                _ => drop(self.base.insert(fed.instance)),
            }
        }
    }

    /// A state took the place of what was executed.
    pub(crate) fn restart(&mut self, base: Frontier) {
        let next = self.end();
        *self = Self { first: next, ..Self::new(base) };
    }

    /// A part of what lies beyond a frontier, or `None` if more lies beyond than is kept.
    fn beyond(&self, frontier: &Frontier, bytes_max: usize) -> Option<(Vec<Fed>, u64)> {
        if !frontier.covers(&self.base) {
            return None;
        }
        let (mut entries, mut through, mut bytes) = (Vec::new(), self.first, 0);
        for fed in &self.entries {
            let has = fed.epoch < frontier.epoch || (fed.epoch == frontier.epoch && frontier.contains(fed.instance));
            if !has {
                bytes += fed.size_bytes();
                if bytes > bytes_max && !entries.is_empty() {
                    break;
                }
                entries.push(fed.clone());
            }
            through += 1;
        }
        Some((entries, through))
    }

    /// A part from a number on; `None` if that is no longer kept.
    fn from(&self, number: u64, bytes_max: usize) -> Option<Vec<Fed>> {
        let skip = usize::try_from(number.checked_sub(self.first)?).ok()?;
        let mut bytes = 0;
        let fits = |fed: &&Fed| {
            bytes += fed.size_bytes();
            bytes <= bytes_max || bytes == fed.size_bytes()
        };
        Some(self.entries.iter().skip(skip).take_while(fits).cloned().collect())
    }
}

impl<M: StateMachine> Replica<M> {
    /// Keeps what was executed for those who follow, if there can be somebody.
    pub(crate) fn keep_for_feed(&mut self, next: Next) {
        let Next { instance, value, order } = next;
        let epoch = self.epoch();
        self.window.push(Fed { epoch, instance, value, order });
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
            let Some(entries) = self.window.from(after, self.feed_part_bytes()) else {
                self.gone_for(id, out);
                continue;
            };
            let through = after + entries.len() as u64;
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
