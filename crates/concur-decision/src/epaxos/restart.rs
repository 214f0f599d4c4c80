//! Restart: from records to a voter, what a checkpoint keeps, and what may be forgotten.

use super::{Chosen, Conflicts, Deps, EPaxos, Lane, Limits, Peer, Progress, Record, Vote, chosen_value};
use concur_core::{Boot, Context, Corrupt, Frontier, Instance, LaneId, RangeSet, Refusal, ReplicaId, Value};
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// What an instance takes in memory besides its command, about.
const VOTE_BYTES: usize = 192;

/// Makes a voter of its records. Nothing is resumed at the zero ballot: what is undecided is watched, this replica's own as well.
pub(super) fn restart(boot: Boot<EPaxos>, cx: &mut Context<EPaxos>) -> Result<EPaxos, Corrupt> {
    let mut this = empty(cx);
    for record in boot.records {
        this.replay(record)?;
    }
    if boot.mark.frontier.epoch == this.gone.epoch {
        this.cover(&boot.mark.frontier);
    }
    // What others may lack is not known yet: nothing is forgotten until the replica says what may be.
    this.floor = this.gone_below();
    this.index_again();
    if let Some(lane) = this.lane {
        let known = this.lane(lane).known.max(this.gone.lanes.get(usize::from(lane.0)).map_or(0, end));
        this.next = this.next.max(known).max(boot.mark.frontier.lanes.get(usize::from(lane.0)).map_or(0, end));
    }
    this.decide_again(&boot.mark.frontier, cx);
    for index in 0..this.lanes.len() {
        this.advance(LaneId(index as u8));
    }
    this.watch_holes(cx);
    this.wake(cx);
    Ok(this)
}

fn empty(cx: &Context<EPaxos>) -> EPaxos {
    let voters: Vec<ReplicaId> = cx.config.voters().iter().collect();
    let lanes = voters.len();
    let peer = || Peer { committed: vec![0; lanes], gone: vec![0; lanes], floor: vec![0; lanes], silent: 0, down: false };
    EPaxos {
        me: cx.config.me,
        lane: cx.config.index().map(|index| LaneId(index as u8)),
        limits: Limits::of(lanes),
        next: 0,
        lanes: vec![Lane::default(); lanes],
        conflicts: Conflicts::new(lanes),
        floor: vec![0; lanes],
        gone: Frontier::start(cx.config.epoch),
        retained: VecDeque::new(),
        retained_bytes: 0,
        leads: BTreeMap::new(),
        watches: BTreeMap::new(),
        proposed: BTreeMap::new(),
        waiting: Default::default(),
        seals: BTreeSet::new(),
        reads: BTreeMap::new(),
        peers: cx.config.others().iter().map(|id| (id, peer())).collect(),
        fetch: None,
        ticking: false,
        leaving: false,
        voters,
    }
}

impl EPaxos {
    /// Everything that is still needed.
    pub(super) fn records(&self) -> Vec<Record> {
        let mut out = vec![Record::Base { gone: self.gone.clone(), next: self.next }];
        for (index, lane) in self.lanes.iter().enumerate() {
            let lane_id = LaneId(index as u8);
            let whole = |(&number, vote): (&u64, &Vote)| Record::Whole { instance: Instance { lane: lane_id, number }, vote: vote.clone() };
            out.extend(lane.votes.iter().map(whole));
        }
        out
    }

    fn replay(&mut self, record: Record) -> Result<(), Corrupt> {
        match record {
            Record::Base { gone, next } => {
                if gone.lanes.len() > self.lanes.len() || gone.epoch != self.gone.epoch {
                    return Err(Corrupt::new("a checkpoint of another epoch or of more lanes than voters"));
                }
                self.gone.join(&gone);
                self.next = self.next.max(next);
            }
            Record::Whole { instance, vote } => {
                let lists = [&vote.initial, &vote.deps].into_iter().all(|deps| deps.0.is_empty() || deps.0.len() == self.lanes.len());
                if !lists || (vote.progress >= Progress::Accepted && !vote.noop && vote.command.is_none()) {
                    return Err(Corrupt::new(format!("the vote kept of {instance} contradicts itself")));
                }
                *self.vote_of_record(instance)? = vote;
            }
            Record::PreAccepted { instance, value, initial, deps } => {
                let deps = deps.unwrap_or_else(|| initial.clone());
                self.check_list(instance, &deps)?;
                let vote = self.vote_of_record(instance)?;
                if vote.progress != Progress::Initial {
                    return Err(Corrupt::new(format!("{instance} was pre-accepted after more")));
                }
                *vote = Vote { progress: Progress::PreAccepted, command: Some(value), initial, deps, ..Vote::default() };
            }
            Record::Joined { instance, ballot } => {
                let vote = self.vote_of_record(instance)?;
                if ballot <= vote.joined {
                    return Err(Corrupt::new(format!("{instance} joined {ballot:?} after {:?}", vote.joined)));
                }
                vote.joined = ballot;
            }
            Record::Accepted { instance, ballot, chosen, deps } => {
                let vote = self.replay_choice(instance, chosen, deps)?;
                if ballot < vote.joined || vote.progress == Progress::Committed {
                    return Err(Corrupt::new(format!("{instance} was voted for at {ballot:?} after {:?}", vote.joined)));
                }
                (vote.joined, vote.voted, vote.progress) = (ballot, ballot, Progress::Accepted);
            }
            Record::Committed { instance, chosen, deps } => {
                self.replay_choice(instance, chosen, deps)?.progress = Progress::Committed;
            }
        }
        Ok(())
    }

    fn replay_choice(&mut self, instance: Instance, chosen: Chosen, deps: Deps) -> Result<&mut Vote, Corrupt> {
        self.check_list(instance, &deps)?;
        let vote = self.vote_of_record(instance)?;
        let noop = chosen == Chosen::Noop;
        if vote.progress == Progress::Committed && (vote.noop != noop || vote.deps != deps) {
            return Err(Corrupt::new(format!("{instance} is decided twice, differently")));
        }
        if let Chosen::Command(value) = chosen {
            vote.command = Some(value);
        }
        if !noop && vote.command.is_none() {
            return Err(Corrupt::new(format!("the command of {instance} is missing")));
        }
        (vote.noop, vote.deps) = (noop, deps);
        Ok(vote)
    }

    fn check_list(&self, instance: Instance, deps: &Deps) -> Result<(), Corrupt> {
        if deps.0.len() == self.lanes.len() {
            Ok(())
        } else {
            Err(Corrupt::new(format!("dependencies of {instance}: wrong number of lanes")))
        }
    }

    fn vote_of_record(&mut self, instance: Instance) -> Result<&mut Vote, Corrupt> {
        if usize::from(instance.lane.0) >= self.lanes.len() {
            return Err(Corrupt::new(format!("{instance} is in no voter's lane")));
        }
        Ok(self.vote_mut(instance))
    }

    /// Makes the index from what is held. What is not held any more lies below the bound of eviction.
    fn index_again(&mut self) {
        let mut evicted = self.floor.clone();
        for (bound, lane) in evicted.iter_mut().zip(&self.gone.lanes) {
            *bound = (*bound).max(end(lane));
        }
        self.conflicts.evict(&evicted);
        for (index, lane) in self.lanes.iter().enumerate() {
            for (&number, vote) in &lane.votes {
                let instance = Instance { lane: LaneId(index as u8), number };
                let Some(command) = &vote.command else { continue };
                let nothing = vote.noop && vote.progress == Progress::Committed;
                if !nothing {
                    self.conflicts.add(instance, command.footprint());
                }
                if !nothing && command.is_seal() {
                    self.seals.insert(instance);
                }
            }
        }
    }

    /// Hands to execution what the records say was decided beyond what is executed, and keeps the rest for those that lag.
    fn decide_again(&mut self, executed: &Frontier, cx: &mut Context<Self>) {
        for index in 0..self.lanes.len() {
            let lane = LaneId(index as u8);
            for (&number, vote) in &self.lanes[index].votes {
                let instance = Instance { lane, number };
                let done = executed.epoch == self.gone.epoch && executed.contains(instance);
                if vote.progress == Progress::Committed && !done {
                    cx.decide(instance, chosen_value(vote), vote.deps.clone());
                }
            }
            self.retain(lane, 0, self.floor[index], cx);
        }
    }

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

    /// Everything in `frontier` is decided, whether it is known as what or not. Returns the own proposals that it settles.
    fn cover(&mut self, frontier: &Frontier) -> Vec<concur_core::BatchId> {
        let mut covered = Frontier { lanes: vec![concur_core::Lane::default(); self.lanes.len()], ..self.gone.clone() };
        for (index, lane) in self.lanes.iter_mut().enumerate() {
            let Some(done) = frontier.lanes.get(index) else { continue };
            lane.votes.retain(|number, vote| vote.progress == Progress::Committed || !done.contains(*number));
            let mut missing = RangeSet::new();
            for run in std::iter::once(0..done.below).chain(done.beyond.iter()) {
                let mut from = run.start;
                for &held in lane.votes.range(run.clone()).map(|(number, _)| number) {
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
    fn retain(&mut self, lane: LaneId, old: u64, new: u64, cx: &Context<Self>) {
        let votes = &self.lanes[usize::from(lane.0)].votes;
        for (&number, vote) in votes.range(old..new) {
            self.retained.push_back(Instance { lane, number });
            self.retained_bytes += kept_bytes(vote);
        }
        self.forget(cx);
    }

    /// Forgets what every voter has executed durably; beyond the bytes allowed, what those have that live; beyond four times as
    /// many, the oldest. (Two replicas that forget what the other lacks cannot help each other: each executed what the other did
    /// not, and no state covers both. So those that live are waited for, while memory lasts.)
    pub(super) fn forget(&mut self, cx: &Context<Self>) {
        let (all, living) = (self.floor_of(|_| true), self.floor_of(|peer| self.lives(peer, cx)));
        let max = cx.config.retained_bytes_max;
        while let Some(&instance) = self.retained.front() {
            let below = |bounds: &[u64]| instance.number < bounds[usize::from(instance.lane.0)];
            let bytes = self.retained_bytes;
            if !(below(&all) || (bytes > max && below(&living)) || bytes > max.saturating_mul(4)) {
                return;
            }
            self.retained.pop_front();
            let vote = self.lane_mut(instance.lane).votes.remove(&instance.number);
            self.retained_bytes -= vote.as_ref().map_or(0, kept_bytes);
            self.gone.insert(instance);
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
fn end(lane: &concur_core::Lane) -> u64 {
    lane.below.max(lane.beyond.end().unwrap_or(0))
}
