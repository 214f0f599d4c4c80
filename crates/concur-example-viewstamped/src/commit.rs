//! What is decided: counting at the primary, learning elsewhere, and forgetting.

use super::{Message, Role, Viewstamped};
use concur_core::{Context, Frontier, Instance, LaneId, Phase, ReplicaSet, Value};

impl Viewstamped {
    /// Decides what a quorum holds durably. Entries of earlier views count like any: whoever acknowledges in this view holds its
    /// whole log, and the next view begins with the best log of a quorum, one of whose replicas is among those that acknowledged.
    pub(super) fn count(&mut self, cx: &mut Context<Self>) {
        let Role::Primary(primary) = &self.role else { return };
        let holds = |length: u64| primary.those(|peer| peer.acknowledged >= Some(length));
        let lengths = primary.peers.iter().filter_map(|peer| peer.acknowledged).filter(|&length| length > self.decided);
        let Some(length) = lengths.filter(|&length| cx.config.quorums.is_quorum(Phase::Accept, holds(length))).max() else { return };
        let origins = self.learn(length, cx);
        // Where clients wait for it, it is told at once; elsewhere it comes with the next message. A quorum has it durably.
        let commit = Message::Commit { view: self.view, decided: self.decided };
        cx.send_after(self.promised, origins.intersection(cx.config.others()), commit);
    }

    /// So many of this log are decided: hands them to execution. Says where they came from.
    pub(super) fn learn(&mut self, length: u64, cx: &mut Context<Self>) -> ReplicaSet {
        let mut origins = ReplicaSet::EMPTY;
        for position in self.decided..length {
            let entry = self.log.get(position).expect("what is decided is in the log");
            cx.decide(Instance::slot(position), Value::clone(&entry.value), entry.view);
            if let Some(id) = entry.value.id() {
                origins.insert(id.origin);
                if let Role::Primary(primary) = &mut self.role {
                    primary.proposed.remove(&id);
                }
            }
        }
        self.decided = self.decided.max(length);
        self.serve_reads(cx);
        origins
    }

    /// What is executed durably here is kept only for replicas that lag, within bounds.
    pub(super) fn forget(&mut self, frontier: &Frontier, cx: &mut Context<Self>) {
        let floor = match frontier.epoch.cmp(&cx.config.epoch) {
            std::cmp::Ordering::Less => return,
            std::cmp::Ordering::Equal => frontier.below(LaneId(0)).min(self.decided),
            std::cmp::Ordering::Greater => self.decided,
        };
        self.log.forget(floor, cx.config.retained_bytes_max);
    }
}
