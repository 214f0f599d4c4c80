//! Commit: an instance is decided, told to everyone, and settled here.

use super::{Chosen, Deps, EPaxos, Message, Progress, Record, Stage, chosen_value};
use concur_core::{Context, Instance, LaneId, Refusal, ReplicaId, ReplicaSet, Ticket};

impl EPaxos {
    /// The record of a fast commit is durable.
    pub(super) fn announce_fast_commit(&mut self, from: ReplicaId, instance: Instance, cx: &mut Context<Self>) {
        let waits = self.leads.get(&instance).is_some_and(|lead| lead.stage == Stage::Durable);
        if from != self.me || !waits {
            return;
        }
        cx.note("fast path", Some(instance));
        self.announce(instance, cx);
        self.settle(instance, cx);
    }

    /// Tells everyone else, and sends the command only to those that may lack it. It waits for no record: what a slow quorum voted
    /// for, or a fast one noted with a durable commit here, no restart can contradict.
    pub(super) fn announce(&mut self, instance: Instance, cx: &mut Context<Self>) {
        let holders = self.leads.get(&instance).map_or(ReplicaSet::EMPTY, |lead| lead.holders).without(self.me);
        let others = cx.config.others();
        let vote = self.vote(instance).expect("decided here");
        let deps = vote.deps.clone();
        if vote.noop {
            return cx.send_after(Ticket(0), others, Message::Commit { instance, chosen: Chosen::Noop, deps });
        }
        let value = chosen_value(vote);
        cx.send_after(Ticket(0), holders, Message::Commit { instance, chosen: Chosen::Known, deps: deps.clone() });
        cx.send_after(Ticket(0), others.minus(holders), Message::Commit { instance, chosen: Chosen::Command(value), deps });
    }

    /// Somebody says that an instance is decided: final, whatever ballot was joined.
    pub(super) fn learn(&mut self, from: ReplicaId, instance: Instance, chosen: Chosen, deps: Deps, cx: &mut Context<Self>) {
        // What is executed already is of interest only if something waits for it.
        let sought = self.watches.contains_key(&instance) || self.leads.contains_key(&instance);
        if self.holds_decision(instance) || (self.is_decided(instance) && !sought) {
            return self.confirm(instance, &chosen, &deps);
        }
        let Some(chosen) = self.hold(instance, chosen) else {
            self.watch(instance, cx);
            return self.ask_for(from, instance, cx);
        };
        let vote = self.vote_mut(instance);
        vote.progress = Progress::Committed;
        vote.noop = chosen == Chosen::Noop;
        vote.deps.clone_from(&deps);
        // Nothing depends on this record: it spares asking after a restart.
        cx.persist(Record::Committed { instance, chosen, deps });
        self.settle(instance, cx);
    }

    /// Deciding twice must be deciding equally.
    fn confirm(&self, instance: Instance, chosen: &Chosen, deps: &Deps) {
        if let Some(vote) = self.vote(instance).filter(|vote| vote.progress == Progress::Committed) {
            let noop = *chosen == Chosen::Noop;
            assert_eq!((vote.noop, &vote.deps), (noop, deps), "{instance} is decided twice, differently");
        }
    }

    /// Hands a decision to execution and forgets what was under way for it.
    pub(super) fn settle(&mut self, instance: Instance, cx: &mut Context<Self>) {
        self.leads.remove(&instance);
        self.watches.remove(&instance);
        let vote = self.vote(instance).expect("decided here");
        let (value, deps, noop) = (chosen_value(vote), vote.deps.clone(), vote.noop);
        let id = vote.command.as_ref().and_then(|command| command.id());
        if noop {
            self.seals.remove(&instance);
        }
        if self.lane == Some(instance.lane)
            && let Some(id) = id
            && self.proposed.get(&id) == Some(&instance.number)
        {
            self.proposed.remove(&id);
            if noop {
                cx.note("own command lost", Some(instance));
                cx.refuse(id, Refusal::Lost);
            }
        }
        cx.decide(instance, value, deps);
        self.advance(instance.lane);
    }

    /// Moves the number below which everything in a lane is decided.
    pub(super) fn advance(&mut self, lane: LaneId) {
        let index = usize::from(lane.0);
        let (lane, gone) = (&mut self.lanes[index], self.gone.lanes.get(index));
        lane.committed = lane.committed.max(gone.map_or(0, |gone| gone.below));
        loop {
            let number = lane.committed;
            let held = lane.votes.get(&number).is_some_and(|vote| vote.progress == Progress::Committed);
            if !held && !gone.is_some_and(|gone| gone.contains(number)) {
                break;
            }
            lane.committed += 1;
        }
        lane.known = lane.known.max(lane.committed);
    }
}
