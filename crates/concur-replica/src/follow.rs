//! Follow: a replica that does not vote executes what another executed, in that one's order; so does a voter that has to cross a
//! seal behind which the others have gone.
//!
//! An observer follows always. A voter that sees somebody in a later epoch gathers what that one executed until the seal is among
//! it, executes that, and passes. Whoever holds nothing, or lacks more than its source keeps, is given state first
//! ([`crate::transfer`]).
//!
//! What was lost on the way is asked for again from the exact frontier; a source that does not answer is left for another.

use crate::api::Output;
use crate::commit::Peer;
use crate::feed::PART_INSTANCES_MAX;
use crate::replica::Replica;
use concur_core::{BootCount, Epoch, Frontier, Instance, Ordering, ReplicaId, ReplicaSet, StateMachine, Time, Value};
use concur_execution::{Next, Sequencer};
use concur_network::{After, Body, Fed, Feed};
use std::collections::BTreeSet;

/// How often one source is asked in vain.
const ASKED_MAX: u32 = 3;
/// How many bytes a voter gathers at most until it sees the seal; then it is given state.
const GATHERED_BYTES_MAX: usize = 32 << 20;

/// Where this replica gets what it executes, if it follows.
#[derive(Debug, Default)]
pub(crate) struct Following {
    source: Option<ReplicaId>,
    /// The source's run, and the number of what it sends next.
    expected: Option<(BootCount, u64)>,
    ask_at: Time,
    /// How often the source was asked since it answered.
    asked: u32,
    /// How often a source was chosen.
    chosen: u32,
    /// When something new came.
    progressed_at: Time,
    /// Whoever spoke last from a later epoch and is no member of this one: all members that are known here may have left.
    guide: Option<ReplicaId>,
    /// What a voter has of the source's order and has not executed.
    gathered: Vec<Fed>,
    gathered_bytes: usize,
}

impl Following {
    pub(crate) fn source(&self) -> Option<ReplicaId> {
        self.source
    }

    /// Another epoch begins: who votes in it does not follow, and who observes goes on, from one of its members. What came with the
    /// seal and lies behind it is asked for again.
    pub(crate) fn enter(&mut self, sources: ReplicaSet, now: Time) {
        let source = self.source.filter(|&source| sources.contains(source));
        *self = Self { source, ask_at: now, chosen: self.chosen, progressed_at: now, ..Self::default() };
    }
}

impl Following {
    /// State was installed: what comes behind it is asked for.
    pub(crate) fn ask_again(&mut self, now: Time) {
        (self.expected, self.ask_at, self.asked) = (None, now, 0);
    }
}

impl<M: StateMachine> Replica<M> {
    /// Whether this replica executes what others executed.
    fn follows(&self) -> bool {
        match (&self.protocol, &self.passage) {
            (_, Some(_)) => false,
            (Some(_), None) => self.following.source.is_some(),
            // Who was left out follows too, as long as it is there: what waits with it may be decided by those who stayed.
            (None, None) => true,
        }
    }

    pub(crate) fn follow_at(&self) -> Option<Time> {
        self.follows().then_some(self.following.ask_at)
    }

    /// A member is in another epoch: if that is a later one, what leads to it is asked for.
    pub(crate) fn seen_ahead(&mut self, from: ReplicaId, epoch: Epoch, out: &mut Output) {
        if epoch > self.epoch() && self.protocol.is_none() && !self.other_members().contains(from) {
            self.following.guide = Some(from);
        }
        if epoch <= self.epoch() || self.protocol.is_none() || self.passage.is_some() || self.following.source.is_some() {
            return;
        }
        let (chosen, now) = (self.following.chosen, self.now);
        self.following = Following { source: Some(from), chosen, ask_at: now, progressed_at: now, ..Following::default() };
        self.follow_on(out);
    }

    /// Asks for what comes next, if it is time.
    pub(crate) fn follow_on(&mut self, out: &mut Output) {
        if !self.follows() || self.following.ask_at > self.now {
            return;
        }
        let again = self.settings.config.heartbeat * 2;
        if self.following.source.is_none() || self.following.asked >= ASKED_MAX || self.is_left_behind() {
            self.following.progressed_at = self.now;
            self.following.source = self.choose_source();
            self.following.guide = None;
            (self.following.asked, self.following.expected) = (0, None);
            self.following.chosen += 1;
        }
        self.following.ask_at = self.now + again;
        self.following.asked += 1;
        let Some(source) = self.following.source else { return };
        let frontier = (!self.empty).then(|| self.held());
        self.send_body(ReplicaSet::one(source), false, Body::FollowWanted { frontier, begins: true }, out);
    }

    /// What is executed or gathered here: behind that it goes on, whatever was lost on the way, and from any source.
    fn held(&self) -> Frontier {
        let (mut held, epoch) = (self.sequencer.frontier(), self.epoch());
        for fed in self.following.gathered.iter().filter(|fed| fed.epoch == epoch) {
            held.insert(fed.run.first);
        }
        held
    }

    /// Whether the source has had nothing new for long, and others have: it may be cut off itself, or was removed. One that was in a
    /// later epoch may have lost it in a crash: a voter looks again whom to follow, if anybody.
    fn is_left_behind(&self) -> bool {
        let stale = self.now.since(self.following.progressed_at) > self.settings.config.election && !self.transfers.fetching();
        let other = |id: ReplicaId| Some(id) != self.following.source && self.is_ahead(id);
        stale && (self.protocol.is_some() || self.following.guide.is_some() || self.other_members().iter().any(other))
    }

    /// Whether a member is there and has executed something that is not executed here.
    fn is_ahead(&self, id: ReplicaId) -> bool {
        let ahead = |peer: &Peer| peer.executed.as_ref().is_some_and(|executed| !self.sequencer.covers(executed));
        self.peers.get(&id).is_some_and(|peer| self.seems_up(peer) && ahead(peer))
    }

    /// Whether a member was heard lately.
    pub(crate) fn seems_up(&self, peer: &Peer) -> bool {
        !peer.down && self.now.since(peer.heard_at) < self.silence()
    }

    /// Whom to follow: members in turn, those that are ahead first, then whoever speaks from a later epoch, then those that seem to be
    /// there. A voter follows only who is there
    /// in a later epoch; where no member of its own is, it waits for whoever tells it of one, and may be none that it knows.
    fn choose_source(&self) -> Option<ReplicaId> {
        let others: Vec<ReplicaId> = self.other_members().iter().collect();
        let up = |id: &&ReplicaId| self.peers.get(id).is_some_and(|peer| self.seems_up(peer));
        let later = |id: &&ReplicaId| {
            let peer = self.peers.get(id).filter(|peer| self.seems_up(peer));
            peer.and_then(|peer| peer.executed.as_ref()).is_some_and(|executed| executed.epoch > self.epoch())
        };
        let mut candidates: Vec<ReplicaId> = match self.protocol {
            Some(_) => others.iter().filter(later).copied().collect(),
            None => others.iter().filter(|id| self.is_ahead(**id)).copied().collect(),
        };
        if candidates.is_empty() && self.protocol.is_none() {
            candidates.extend(self.following.guide);
        }
        if candidates.is_empty() && self.protocol.is_none() {
            candidates = others.iter().filter(up).copied().collect();
        }
        if candidates.is_empty() && self.protocol.is_none() {
            candidates = others;
        }
        let turn = usize::from(self.me().0) + self.following.chosen as usize;
        (!candidates.is_empty()).then(|| candidates[turn % candidates.len()])
    }

    /// The source no longer keeps what is lacked here.
    pub(crate) fn feed_gone(&mut self, from: ReplicaId, out: &mut Output) {
        if self.follows() && self.following.source == Some(from) {
            self.following.asked = 0;
            self.following.ask_at = self.now + self.settings.config.election;
            self.fetch(from, None, out);
        }
    }

    /// A part of what the source executed.
    pub(crate) fn fed(&mut self, from: ReplicaId, feed: Feed, out: &mut Output) {
        if !self.follows() || self.following.source != Some(from) || self.empty {
            return;
        }
        let Feed { run, after, through, entries } = feed;
        let count = entries.iter().fold(0, |count: u64, fed| count.saturating_add(fed.run.count));
        if count > PART_INSTANCES_MAX || entries.iter().any(|fed| fed.run.count != 1 && !fed.value.is_noop()) {
            return; // Nobody says that.
        }
        let entries: Vec<Fed> = entries.into_iter().flat_map(Fed::each).collect();
        match after {
            After::Frontier(frontier) if self.held().covers(&frontier) => {}
            // An earlier run asked for it, which had more.
            After::Frontier(_) => return,
            After::Number(after) if self.following.expected == Some((run, after)) => {}
            // Something before it was lost, or comes later.
            After::Number(_) => {
                let soon = self.now + self.settings.config.heartbeat / 2;
                self.following.ask_at = self.following.ask_at.min(soon);
                return;
            }
        }
        self.following.expected = Some((run, through));
        self.following.asked = 0;
        self.following.ask_at = self.now + self.settings.config.heartbeat * 2;
        self.send_body(ReplicaSet::one(from), false, Body::FollowWanted { frontier: None, begins: false }, out);
        if self.protocol.is_none() {
            return self.execute_fed(entries, out);
        }
        if !entries.is_empty() {
            self.following.progressed_at = self.now;
        }
        self.following.gathered_bytes += entries.iter().map(Fed::size_bytes).sum::<usize>();
        self.following.gathered.extend(entries);
        let epoch = self.epoch();
        if self.following.gathered.iter().any(|fed| fed.epoch == epoch && fed.value.is_seal()) {
            self.cross(from, out);
        } else if self.following.gathered_bytes > GATHERED_BYTES_MAX {
            self.turn_back(from, out);
        }
    }

    /// What was gathered is let go, and state asked for. What is on its way behind it would leave a hole.
    fn turn_back(&mut self, from: ReplicaId, out: &mut Output) {
        (self.following.gathered, self.following.gathered_bytes, self.following.expected) = (Vec::new(), 0, None);
        self.fetch(from, None, out);
    }

    /// A voter executes what its source executed up to the seal, and passes.
    fn cross(&mut self, from: ReplicaId, out: &mut Output) {
        if !self.leads_through() {
            out.notes.push(("feed that leads nowhere dropped", None));
            return self.turn_back(from, out);
        }
        out.notes.push(("seal executed from the feed", None));
        let gathered = std::mem::take(&mut self.following.gathered);
        self.keep_noops();
        // The rest of the epoch comes in the source's order, and nothing is decided here any more.
        self.sequencer = Sequencer::followed(self.sequencer.mark());
        self.execute_fed(gathered, out);
        assert!(self.passage.is_some(), "what was gathered leads through the seal");
    }

    /// Whether what was gathered leads from what is executed here to a seal that can be passed.
    fn leads_through(&self) -> bool {
        let (epoch, total) = (self.epoch(), self.settings.strategy.traits.order == Ordering::Total);
        let (mut next, mut seen) = (self.sequencer.executed_count(), BTreeSet::new());
        for fed in &self.following.gathered {
            let instance = fed.run.first;
            if fed.epoch < epoch || (fed.epoch == epoch && (self.sequencer.contains(instance) || !seen.insert(instance))) {
                continue;
            }
            if fed.epoch > epoch || (total && instance != Instance::slot(next)) {
                return false;
            }
            next += 1;
            if let Value::Seal(seal) = &fed.value {
                return self.leads_on(seal);
            }
        }
        false
    }

    /// Executes what is new of a source's order, up to where another way begins.
    fn execute_fed(&mut self, entries: Vec<Fed>, out: &mut Output) {
        let total = self.settings.strategy.traits.order == Ordering::Total;
        let mut any = false;
        for Fed { epoch, run, value, order } in entries {
            let instance = run.first;
            if epoch < self.epoch() || (epoch == self.epoch() && self.sequencer.contains(instance)) {
                continue;
            }
            // In a later epoch this replica votes, or the source said it in a wrong order.
            let gap = total && epoch == self.epoch() && instance.number != self.sequencer.executed_count();
            let nowhere = matches!(&value, Value::Seal(seal) if !self.leads_on(seal));
            if epoch > self.epoch() || self.passage.is_some() || gap || nowhere {
                self.following.expected = None;
                break;
            }
            any = true;
            self.sequencer.follow(instance, order.clone());
            self.run(Next { instance, value, order }, out);
        }
        if any {
            self.following.progressed_at = self.now;
            out.notes.push(("fed", None));
        }
    }
}
