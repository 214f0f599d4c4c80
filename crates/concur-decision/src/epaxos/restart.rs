//! Restart: from records to a voter, and what a checkpoint keeps.

use super::forget::{Pledges, end};
use super::{Chosen, Conflicts, Deps, EPaxos, Lane, Limits, Pledge, Progress, Record, Vote, chosen_value, learn::Peer};
use concur_core::{Boot, Context, Corrupt, Frontier, Instance, LaneId, ReplicaId};
use std::collections::{BTreeMap, BTreeSet, VecDeque};

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
    for (index, lane) in this.lanes.iter_mut().enumerate() {
        lane.known = lane.known.max(this.gone.lanes.get(index).map_or(0, end));
    }
    // All that was noted in earlier runs lies below what is known.
    this.pledge.noted = this.known();
    if let Some(lane) = this.lane {
        this.next = this.next.max(this.lane(lane).known).max(boot.mark.frontier.lanes.get(usize::from(lane.0)).map_or(0, end));
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
        forgotten: vec![0; lanes],
        pledge: Pledge { bounds: vec![0; lanes], noted: vec![0; lanes] },
        pledges: vec![Pledges { kept: vec![0; lanes], said: None }; lanes],
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
        let mut out = vec![Record::Base { gone: self.gone.clone(), forgotten: self.forgotten.clone(), next: self.next }];
        out.push(Record::Pledged { bounds: self.pledge.bounds.clone() });
        for (index, lane) in self.lanes.iter().enumerate() {
            let lane_id = LaneId(index as u8);
            let whole = |(&number, vote): (&u64, &Vote)| Record::Whole { instance: Instance { lane: lane_id, number }, vote: vote.clone() };
            out.extend(lane.votes.iter().map(whole));
        }
        out
    }

    fn replay(&mut self, record: Record) -> Result<(), Corrupt> {
        match record {
            Record::Base { gone, forgotten, next } => {
                let lanes = self.lanes.len();
                if gone.lanes.len() > lanes || gone.epoch != self.gone.epoch || forgotten.len() != lanes {
                    return Err(Corrupt::new("a checkpoint of another epoch or of more lanes than voters"));
                }
                self.gone.join(&gone);
                self.forgotten = forgotten;
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
            Record::Pledged { bounds } => {
                if bounds.len() != self.lanes.len() {
                    return Err(Corrupt::new("a pledge for another number of lanes"));
                }
                self.pledge.bounds = bounds;
            }
            Record::Validated { instance, chosen, initial } => {
                self.check_list(instance, &initial)?;
                let vote = self.vote_of_record(instance)?;
                if let Chosen::Command(value) = chosen {
                    vote.command = Some(value);
                }
                if vote.command.is_none() {
                    return Err(Corrupt::new(format!("the command of {instance} is missing")));
                }
                vote.initial = initial;
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

    /// Makes the index from what is held. What is not held any more lies below the bound of eviction, and so does what was pledged.
    fn index_again(&mut self) {
        let mut evicted = self.floor.clone();
        evicted.iter_mut().zip(&self.pledge.bounds).for_each(|(bound, pledged)| *bound = (*bound).max(*pledged));
        for (bound, lane) in evicted.iter_mut().zip(&self.gone.lanes) {
            *bound = (*bound).max(end(lane));
        }
        self.conflicts.evict(&evicted);
        for (index, lane) in self.lanes.iter().enumerate() {
            for (&number, vote) in &lane.votes {
                let instance = Instance { lane: LaneId(index as u8), number };
                let Some(command) = &vote.command else { continue };
                // What was decided as nothing too: whoever recovers what interferes with it counts on its coordinator for having listed it.
                self.conflicts.add(instance, command.footprint());
                let nothing = vote.noop && vote.progress == Progress::Committed;
                if command.is_seal() && !nothing && !self.gone.contains(instance) {
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
}
