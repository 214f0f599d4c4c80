//! Learning what was missed: decisions from whoever keeps them, and state from whoever has forgotten them.

use super::{LEARNED, Message, MultiPaxos, Role, STATE_FETCHED};
use crate::slots::Learn;
use concur_core::{Context, Frontier, Instance, LaneId, Mark, ReplicaId, ReplicaSet, Ticket};

impl MultiPaxos {
    /// Something is said or asked of decisions. A leader answers, and learns from nobody: see the module's first lines.
    pub(super) fn learn(&mut self, from: ReplicaId, said: Learn, cx: &mut Context<Self>) {
        if matches!(self.role, Role::Leader(_)) && !matches!(said, Learn::Ask { .. }) {
            return;
        }
        let lesson = self.peers.take(from, said, &mut self.slots, cx.config.message_bytes_max);
        for (slot, value) in &lesson.decided {
            cx.note(LEARNED, Some(Instance::slot(*slot)));
            self.settle(*slot, value, cx);
        }
        if let Some(answer) = lesson.answer {
            // What is decided a quorum has durably, whatever this replica forgets; a question promises nothing.
            cx.send_after(Ticket(0), ReplicaSet::one(from), Message::Learn(answer));
        }
        if let Some(below) = lesson.fetch {
            self.fetch_from(from, below, cx);
        }
        self.go_on(cx);
    }

    /// Asks the replica for the state of another one, which covers everything below a slot.
    pub(super) fn fetch_from(&self, from: ReplicaId, below: u64, cx: &mut Context<Self>) {
        cx.fetch(from, Frontier::slots(cx.config.epoch, below));
    }

    /// State came from a peer and is durable. What it covers is decided; as what is not known here, nor whether what was proposed
    /// there by this replica is what was decided.
    pub(super) fn installed(&mut self, mark: &Mark<()>, cx: &mut Context<Self>) {
        if mark.frontier.epoch != cx.config.epoch {
            return;
        }
        let executed = mark.frontier.below(LaneId(0));
        self.lacking &= executed < self.slots.base();
        if !self.slots.cover(executed) {
            return;
        }
        cx.note(STATE_FETCHED, Some(Instance::slot(executed)));
        let covered: Vec<u64> = self.given.range(..executed).map(|(&slot, _)| slot).collect();
        for slot in covered {
            self.lose(slot, cx);
        }
        // Somebody else has decided what this leader has not.
        if let Role::Leader(_) = self.role {
            self.follow_nobody(cx);
        }
        self.go_on(cx);
    }

    /// Execution waits for a decision: it was missed, since later ones are known. Or it is forgotten here.
    pub(super) fn want(&mut self, instance: Instance, cx: &mut Context<Self>) {
        if instance.number < self.slots.base() {
            self.lacking = true;
            return self.fetch_lacking(cx);
        }
        if let Some(leader) = self.leader() {
            // A question promises nothing.
            cx.send_after(Ticket(0), ReplicaSet::one(leader), Message::Learn(Learn::Ask { from: self.slots.decided() }));
        }
    }

    /// Asks for the state that stands for what is forgotten here, if that is not here.
    pub(super) fn fetch_lacking(&self, cx: &mut Context<Self>) {
        if !self.lacking {
            return;
        }
        let base = self.slots.base();
        let of_leader = |leader: &super::Leader| {
            let others = leader.peers.iter().filter(|peer| peer.id != cx.config.me);
            others.max_by_key(|peer| (peer.decided, peer.heard)).map(|peer| peer.id)
        };
        let from = match &self.role {
            Role::Leader(leader) => of_leader(leader),
            _ => self.leader(),
        };
        if let Some(from) = from {
            self.fetch_from(from, base, cx);
        }
    }
}
