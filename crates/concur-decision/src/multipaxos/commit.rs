//! What is decided: counting at the leader, learning from it elsewhere, and forgetting.

use super::{Message, MultiPaxos, PROPOSAL_LOST, Role};
use concur_core::{Ballot, Context, Instance, LaneId, Phase, Refusal, ReplicaId, ReplicaSet, Value};
use std::sync::Arc;

impl MultiPaxos {
    /// Decides what a quorum has voted for in these slots, durably, at this leader's ballot.
    pub(super) fn count(&mut self, first: u64, end: u64, cx: &mut Context<Self>) {
        let Role::Leader(leader) = &mut self.role else { return };
        let quorums = &cx.config.quorums;
        let enough = leader.pending.range(first..end).filter(|(_, proposal)| quorums.is_quorum(Phase::Accept, proposal.votes));
        let chosen: Vec<u64> = enough.map(|(&slot, _)| slot).collect();
        let before = self.slots.decided();
        for slot in chosen {
            let Role::Leader(leader) = &mut self.role else { return };
            if let Some(id) = leader.pending.remove(&slot).and_then(|proposal| proposal.id) {
                leader.proposed.remove(&id);
            }
            let value = Arc::clone(self.slots.vote(slot).expect("a leader has voted for what it proposes").1);
            self.slots.decide(slot, Arc::clone(&value));
            self.settle(slot, &value, cx);
        }
        let decided = self.slots.decided();
        if decided == before {
            return;
        }
        let ids = (before..decided).filter_map(|slot| self.slots.value(slot)?.id());
        let origins: ReplicaSet = ids.map(|id| id.origin).collect();
        // Where clients wait for it, it is told at once. Elsewhere it comes with the next Accept that there is to send; if nothing is
        // pending there is none, and whoever watches there would wait for the heartbeat. What a quorum has durably is decided,
        // whatever this replica forgets.
        let is_idle = matches!(&self.role, Role::Leader(leader) if leader.pending.is_empty());
        let to = if is_idle { cx.config.others() } else { origins.intersection(cx.config.others()) };
        cx.send_after(self.promise, to, Message::Decided { ballot: self.promised, decided });
        self.begin_round(cx);
    }

    /// A slot is newly known to be decided: execution is told, and whoever submitted something else that was proposed there.
    pub(super) fn settle(&mut self, slot: u64, value: &Arc<Value>, cx: &mut Context<Self>) {
        cx.decide(Instance::slot(slot), Value::clone(value), ());
        if let Some(given) = self.given.remove(&slot).filter(|given| value.id() != Some(given.id)) {
            cx.note(PROPOSAL_LOST, Some(Instance::slot(slot)));
            cx.refuse(given.id, Refusal::Lost);
        }
    }

    /// The leader of the promised ballot says that everything below is decided. That tells what the decision is only in slots in
    /// which this replica has voted at this very ballot. Of those it knows already, but for votes that are new from slot `fresh` on.
    pub(super) fn announce(&mut self, decided: u64, fresh: u64, cx: &mut Context<Self>) {
        let from = self.announced.min(fresh).max(self.slots.decided());
        self.announced = self.announced.max(decided);
        let voted = |slot: u64| self.slots.vote(slot).filter(|(ballot, _)| *ballot == self.promised).map(|(_, value)| Arc::clone(value));
        let below = self.slots.iter_from(from).map(|(slot, _)| slot).take_while(|&slot| slot < self.announced);
        let learned: Vec<(u64, Arc<Value>)> = below.filter_map(|slot| Some((slot, voted(slot)?))).collect();
        for (slot, value) in learned {
            self.slots.decide(slot, Arc::clone(&value));
            self.settle(slot, &value, cx);
        }
    }

    /// The leader says at once what is decided, since somebody waits for it here.
    pub(super) fn told_decided(&mut self, from: ReplicaId, ballot: Ballot, decided: u64, cx: &mut Context<Self>) {
        if self.follow(from, ballot, cx) {
            self.announce(decided, u64::MAX, cx);
        }
    }

    /// The leader found nothing of a lower ballot from this slot on: what this replica proposed there when it led goes back to
    /// whoever submitted it, while the slot itself may never be used. (Should a later leader find this replica's own vote first, it is
    /// decided after all, and the second time is passed over when it is executed.)
    pub(super) fn give_back(&mut self, ballot: Ballot, opened: u64, cx: &mut Context<Self>) {
        let lost: Vec<u64> = self.given.range(opened..).filter(|(_, given)| given.ballot < ballot).map(|(&slot, _)| slot).collect();
        for slot in lost {
            self.lose(slot, cx);
        }
    }

    /// What was submitted here and proposed in this slot goes back.
    pub(super) fn lose(&mut self, slot: u64, cx: &mut Context<Self>) {
        if let Some(given) = self.given.remove(&slot) {
            cx.note(PROPOSAL_LOST, Some(Instance::slot(slot)));
            cx.refuse(given.id, Refusal::Lost);
        }
    }

    /// What is executed durably here is kept only for replicas that lag, within bounds.
    pub(super) fn forget(&mut self, frontier: &concur_core::Frontier, cx: &mut Context<Self>) {
        let floor = match frontier.epoch.cmp(&cx.config.epoch) {
            std::cmp::Ordering::Less => return,
            std::cmp::Ordering::Equal => frontier.below(LaneId(0)),
            std::cmp::Ordering::Greater => self.slots.decided(),
        };
        self.slots.forget(floor, cx.config.retained_bytes_max);
    }
}
