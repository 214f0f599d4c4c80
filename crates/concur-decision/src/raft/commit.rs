//! What is decided: counting at the leader, learning elsewhere, and forgetting.

use super::{Message, Point, Raft, Role, Term};
use concur_core::{Context, Frontier, Instance, LaneId, Phase, ReplicaId, ReplicaSet, Value};

impl Raft {
    /// Decides what a quorum has, durably. Only an entry of the leader's own term is decided by counting, and with it everything
    /// before it (§5.4.2, Figure 8).
    pub(super) fn count(&mut self, cx: &mut Context<Self>) {
        let Role::Leader(leader) = &self.role else { return };
        let enough = |length: u64| cx.config.quorums.is_quorum(Phase::Accept, leader.those(|peer| peer.matched >= length));
        let lengths = leader.peers.iter().map(|peer| peer.matched);
        let Some(length) = lengths.filter(|&length| length > self.decided && enough(length)).max() else { return };
        if self.log.point(length).is_none_or(|point| point.term != self.term) {
            return;
        }
        let origins = self.decide_to(length, cx);
        // Where clients wait for it, it is told at once. Elsewhere it comes with the next Append that there is to send; if all that
        // was appended is decided there is none, and whoever watches there would wait for the heartbeat.
        let told = if self.decided == self.log.length() { cx.config.others() } else { origins.intersection(cx.config.others()) };
        let decided = self.log.point(self.decided).expect("what is decided is in the log");
        // What a quorum has durably is decided, whatever this replica forgets.
        cx.send_after(self.ballot, told, Message::Decided { term: self.term, decided });
        self.begin_round(cx);
    }

    /// Hands the entries up to this length to execution. Says where they came from.
    fn decide_to(&mut self, length: u64, cx: &mut Context<Self>) -> ReplicaSet {
        let mut origins = ReplicaSet::EMPTY;
        for position in self.decided..length {
            let entry = self.log.get(position).expect("what is decided is in the log");
            cx.decide(Instance::slot(position), Value::clone(&entry.value), entry.term);
            if let Some(id) = entry.value.id() {
                origins.insert(id.origin);
                if let Role::Leader(leader) = &mut self.role {
                    leader.proposed.remove(&id);
                }
            }
        }
        self.decided = length;
        origins
    }

    /// The log agrees with the leader's up to this length, and so much is decided.
    pub(super) fn learn_length(&mut self, length: u64, cx: &mut Context<Self>) {
        if length > self.decided {
            self.decide_to(length, cx);
        }
    }

    /// This prefix is decided, whoever says so and whenever. It concerns this log only if it has the same prefix (§5.3).
    pub(super) fn learn(&mut self, point: Point, cx: &mut Context<Self>) {
        if self.log.has(point) {
            self.learn_length(point.length, cx);
        }
    }

    /// The leader says at once what is decided, since somebody waits for it here.
    pub(super) fn told_decided(&mut self, from: ReplicaId, term: Term, decided: Point, cx: &mut Context<Self>) {
        if self.follow(from, term, cx) {
            self.learn(decided, cx);
        }
    }

    /// What is executed durably here is kept only for followers that lag, within bounds.
    pub(super) fn forget(&mut self, frontier: &Frontier, cx: &mut Context<Self>) {
        let floor = match frontier.epoch.cmp(&cx.config.epoch) {
            std::cmp::Ordering::Less => return,
            std::cmp::Ordering::Equal => frontier.below(LaneId(0)).min(self.decided),
            std::cmp::Ordering::Greater => self.decided,
        };
        self.log.forget(floor, cx.config.retained_bytes_max);
    }
}
