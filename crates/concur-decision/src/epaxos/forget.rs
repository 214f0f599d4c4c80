//! Forget: what is executed need not be held for ever, and what others forgot comes as their state.
//!
//! **What a vote is still needed for,** once its instance is decided and executed durably: for those who lag, who may be given state
//! instead; for whoever recovers it, who counts only those who remember; for the index, which answers with a bound instead; and for
//! recoveries of other commands. A voter that is asked what speaks against a command c with the dependencies D (`validate`) must name
//! whatever it noted that interferes with c, is not in D and does not list c. It cannot if it has forgotten it, and to say "something
//! may" would make a no-op of what was decided fast.
//!
//! **So that it need not,** each voter *pledges* bounds: whatever it notes from here on, it answers with at least those (they are what
//! it evicted from its index; the record of the pledge is durable before anybody hears of it). With the pledge it says below which
//! numbers everything lies that it had noted before. Once all of that is decided at another replica q, q knows: whatever is not
//! decided at q, and lists less than the pledge in some lane, that voter noted with something to add, or will. A replica forgets only
//! what lies below the pledges, so known, of a slow quorum. If then a command is validated that is not decided here and lists less
//! than what is forgotten, in another lane than its own, each of a slow quorum noted it with something to add, or will. A fast quorum
//! would have one of them in it, so that there is none, and the answer "impossible" is right. And if it lists what is forgotten,
//! nothing forgotten can speak against it. (In its own lane nothing can at all: what comes before it there and interferes is in its
//! coordinator's index or below what that evicted, restarted or not, and what comes behind lists it.)
//!
//! Nothing is asked of the command's coordinator, which may have been away for long, nor of more than a slow quorum: up to f voters
//! that are dead pin nothing, in a group whose voters never change too. One that comes back takes the slow path until its lists cover
//! what the others forgot. One that lives and lags is waited for while memory lasts.
//!
//! A crash undoes what was forgotten since the last checkpoint. What a checkpoint says is forgotten was so when it was made, and it
//! holds every decision that was known by then, hence all that the pledges asked for. A pledge outlives every crash, and what was
//! noted before it was in force is below what was said with it, or was lost before anybody heard of it.
//!
//! **What is installed is not forgotten.** Where a peer's state goes beyond what is known here it says that instances are decided, not
//! as what. Whoever recovers another command may have to know, and nobody else may live who does. So the votes on them stay, and take
//! part in recoveries, as if nothing were known; and until the pledges reach as far as the state, nothing is forgotten here, so that
//! all of what is not forgotten was undecided here when something last was, as the argument above wants. (The same holds for what was
//! executed by a decision of which a crash took the record.)

use super::{EPaxos, Message, Pledge, Progress, Record, Vote, learn::Peer};
use concur_core::{Context, Frontier, Instance, LaneId, RangeSet, Refusal, ReplicaId, Value};

/// What an instance takes in memory besides its command, about.
const VOTE_BYTES: usize = 192;
/// With so many instances held below the floor, and four times the bytes allowed, a voter that lives and lags is not waited for.
const RETAINED_MIN: usize = 1024;

/// What a voter pledged to list.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub(super) struct Pledges {
    /// A bound a lane, which it kept in whatever it noted that is not decided here.
    pub(super) kept: Vec<u64>,
    /// What it said since, of which that is not known yet.
    pub(super) said: Option<Pledge>,
}

impl EPaxos {
    /// State up to `frontier` was installed.
    pub(super) fn install(&mut self, frontier: &Frontier, cx: &mut Context<Self>) {
        if frontier.epoch != self.gone.epoch || frontier.lanes.len() > self.lanes.len() {
            return;
        }
        for id in self.cover(frontier) {
            // It was decided and executed elsewhere, as itself or as nothing; which of the two, who submits it again will learn.
            cx.refuse(id, Refusal::Lost);
        }
        for index in 0..self.lanes.len() {
            self.advance(LaneId(index as u8));
        }
        self.wake(cx);
    }

    /// Everything in `frontier` is decided and executed, whether it is known as what or not. Returns the own proposals that it settles.
    pub(super) fn cover(&mut self, frontier: &Frontier) -> Vec<concur_core::BatchId> {
        let mut covered = Frontier { lanes: vec![concur_core::Lane::default(); self.lanes.len()], ..self.gone.clone() };
        for (index, lane) in self.lanes.iter_mut().enumerate() {
            let Some(done) = frontier.lanes.get(index) else { continue };
            let mut missing = RangeSet::new();
            for run in std::iter::once(0..done.below).chain(done.beyond.iter()) {
                let mut from = run.start;
                let known = lane.votes.range(run.clone()).filter(|(_, vote)| vote.progress == Progress::Committed);
                for &held in known.map(|(number, _)| number) {
                    missing.insert_range(from..held);
                    from = held + 1;
                }
                missing.insert_range(from..run.end);
            }
            lane.known = lane.known.max(end(done));
            covered.lanes[index].beyond = missing;
        }
        self.gone.join(&covered);
        self.leads.retain(|instance, _| !frontier.contains(*instance));
        self.watches.retain(|instance, _| !frontier.contains(*instance));
        // A seal that was more than nothing ends with its epoch.
        self.seals.retain(|instance| !frontier.contains(*instance));
        let Some(lane) = self.lane else { return Vec::new() };
        // A number that was given out, and named in the answer to a read, before its record was durable may have been lost here and
        // settled by others as a no-op.
        self.next = self.next.max(self.lane(lane).known);
        let settled = |number: &u64| frontier.contains(Instance { lane, number: *number });
        let ids: Vec<_> = self.proposed.iter().filter(|(_, number)| settled(number)).map(|(&id, _)| id).collect();
        self.proposed.retain(|_, number| !settled(number));
        ids
    }

    /// Everything below `frontier` is executed durably here, and as far as it is waited for, elsewhere.
    pub(super) fn raise_floor(&mut self, frontier: &Frontier, cx: &mut Context<Self>) {
        if frontier.epoch != self.gone.epoch {
            return;
        }
        for index in 0..self.lanes.len() {
            let lane = LaneId(index as u8);
            let (old, new) = (self.floor[index], frontier.below(lane));
            if new > old {
                self.floor[index] = new;
                self.retain(lane, old, new, cx);
            }
        }
    }

    /// Numbers from `old` to `new` of a lane pass below the floor.
    pub(super) fn retain(&mut self, lane: LaneId, old: u64, new: u64, cx: &Context<Self>) {
        let votes = &self.lanes[usize::from(lane.0)].votes;
        for (&number, vote) in votes.range(old..new) {
            self.retained.push_back(Instance { lane, number });
            self.retained_bytes += kept_bytes(vote);
        }
        self.forget(cx);
    }

    /// Takes out of the index what is executed durably here and at every voter that lives, and so pledges to list it: their lists cover
    /// their floors, so that a bound below those adds nothing to them and costs no slow path.
    pub(super) fn pledge(&mut self, cx: &mut Context<Self>) {
        let too_much = self.retained.len() > RETAINED_MIN && self.retained_bytes > cx.config.retained_bytes_max.saturating_mul(4);
        let bounds = if too_much { self.floor.clone() } else { self.floor_of(|peer| self.lives(peer, cx)) };
        self.conflicts.evict(&bounds);
        let bounds = self.conflicts.evicted().to_vec();
        if bounds != self.pledge.bounds {
            self.pledge = Pledge { bounds, noted: self.known() };
            cx.persist(Record::Pledged { bounds: self.pledge.bounds.clone() });
        }
        // Said again while the heart beats: whoever has heard one takes in the next when everything noted before the first is decided.
        if self.pledge.bounds.iter().any(|&bound| bound > 0) {
            cx.send(cx.config.voters(), Message::Pledged { pledge: self.pledge.clone() });
        }
    }

    /// A voter pledged to list something.
    pub(super) fn note_pledge(&mut self, from: ReplicaId, pledge: Pledge) {
        let voter = self.voters.iter().position(|&id| id == from).expect("only voters are heard");
        self.pledges[voter].said.get_or_insert(pledge);
    }

    /// Pledges count when everything that was noted before them is decided here.
    pub(super) fn believe(&mut self) {
        let committed = self.committed();
        for Pledges { kept, said } in &mut self.pledges {
            let sure = said.take_if(|pledge| pledge.noted.iter().zip(&committed).all(|(noted, committed)| noted <= committed));
            for (kept, bound) in kept.iter_mut().zip(sure.into_iter().flat_map(|pledge| pledge.bounds)) {
                *kept = (*kept).max(bound);
            }
        }
    }

    /// What a slow quorum lists whatever it notes: below these numbers votes may be forgotten.
    pub(super) fn bar(&self) -> Vec<u64> {
        let bar = |lane: usize| {
            let mut kept: Vec<u64> = self.pledges.iter().map(|pledges| pledges.kept[lane]).collect();
            kept.sort_unstable_by(|a, b| b.cmp(a));
            kept[self.limits.slow - 1]
        };
        (0..self.lanes.len()).map(bar).collect()
    }

    /// Forgets the votes on what is gone, if all of that lies below the bar.
    fn forget_what_is_gone(&mut self, bar: &[u64]) -> bool {
        let ends: Vec<u64> = (0..self.lanes.len()).map(|index| self.gone.lanes.get(index).map_or(0, end)).collect();
        if ends == self.forgotten {
            return true;
        }
        if ends.iter().zip(bar).any(|(end, bar)| end > bar) {
            return false;
        }
        self.forgotten = ends;
        let gone = &self.gone;
        for (index, lane) in self.lanes.iter_mut().enumerate() {
            lane.votes.retain(|&number, _| !gone.contains(Instance { lane: LaneId(index as u8), number }));
        }
        self.leads.retain(|instance, _| !gone.contains(*instance));
        self.watches.retain(|instance, _| !gone.contains(*instance));
        let retained = std::mem::take(&mut self.retained);
        self.retained = retained.into_iter().filter(|&instance| self.vote(instance).is_some()).collect();
        self.retained_bytes = self.retained.iter().filter_map(|&instance| self.vote(instance)).map(kept_bytes).sum();
        true
    }

    /// Forgets, of what a slow quorum has pledged to list, what every voter has executed durably; beyond the bytes allowed, what those
    /// have that live; beyond four times as many, the oldest. (Two replicas that forget what the other lacks cannot help each other: each executed what the other did
    /// not, and no state covers both. So those that live are waited for, while memory lasts.)
    pub(super) fn forget(&mut self, cx: &Context<Self>) {
        let bar = self.bar();
        if !self.forget_what_is_gone(&bar) {
            return;
        }
        let (all, living) = (self.floor_of(|_| true), self.floor_of(|peer| self.lives(peer, cx)));
        let max = cx.config.retained_bytes_max;
        while let Some(&instance) = self.retained.front() {
            let below = |bounds: &[u64]| instance.number < bounds[usize::from(instance.lane.0)];
            let bytes = self.retained_bytes;
            let spare = below(&all) || (bytes > max && below(&living)) || bytes > max.saturating_mul(4);
            if !(spare && below(&bar)) {
                return;
            }
            self.retained.pop_front();
            let vote = self.lane_mut(instance.lane).votes.remove(&instance.number);
            self.retained_bytes -= vote.as_ref().map_or(0, kept_bytes);
            self.gone.insert(instance);
            let forgotten = &mut self.forgotten[usize::from(instance.lane.0)];
            *forgotten = (*forgotten).max(instance.number + 1);
        }
    }

    /// Below these numbers everything is executed durably here and at the peers asked about.
    pub(super) fn floor_of(&self, counts: impl Fn(&Peer) -> bool) -> Vec<u64> {
        let mut bounds = self.floor.clone();
        for peer in self.peers.values().filter(|peer| counts(peer)) {
            bounds.iter_mut().zip(&peer.floor).for_each(|(bound, floor)| *bound = (*bound).min(*floor));
        }
        bounds
    }
}

/// What a vote takes in memory. Below the floor it does not change any more.
fn kept_bytes(vote: &Vote) -> usize {
    VOTE_BYTES + vote.command.as_ref().map_or(0, Value::size_bytes)
}

/// One past the greatest number of a lane of a frontier.
pub(super) fn end(lane: &concur_core::Lane) -> u64 {
    lane.below.max(lane.beyond.end().unwrap_or(0))
}
