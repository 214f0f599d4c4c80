//! What a leader takes up.

use super::{Entry, Leader, Message, Raft, Record, Role};
use concur_core::{BatchId, Context, REPLICAS_MAX, Refusal, ReplicaSet, Value};
use std::sync::Arc;

impl Raft {
    /// Takes a batch or seal up, or says who can. One that is in the log and undecided is not appended again; one that was executed
    /// is recognised when it is executed.
    pub(super) fn submit(&mut self, value: Value, cx: &mut Context<Self>) {
        let Some(id) = value.id() else { return };
        let (length, decided) = (self.log.length(), self.decided);
        let refusal = match &mut self.role {
            Role::Leader(leader) if leader.transfer.is_some() => Refusal::Redirect(None),
            Role::Leader(leader) if leader.proposed.contains(&id) => return,
            Role::Leader(leader) if leader.submitted(length, decided) >= proposals_max(cx) => Refusal::Busy,
            Role::Leader(leader) => {
                leader.proposed.insert(id);
                self.append(value, cx);
                return self.replicate(cx);
            }
            Role::Follower(_) | Role::Candidate(_) => Refusal::Redirect(self.leader()),
        };
        cx.refuse(id, refusal);
    }

    /// Appends to the leader's own log. Its own acknowledgement is a message to itself, held until the entry is durable.
    pub(super) fn append(&mut self, value: Value, cx: &mut Context<Self>) {
        let entry = Entry { term: self.term, value: Arc::new(value) };
        cx.persist(Record::Append { at: self.log.length(), entries: vec![entry.clone()] });
        self.log.push(entry);
        self.acknowledge_own(cx);
    }

    pub(super) fn acknowledge_own(&self, cx: &mut Context<Self>) {
        let appended = Message::Appended { term: self.term, length: self.log.length() };
        cx.send(ReplicaSet::one(cx.config.me), appended);
    }

    /// These values were cut off: they will not be decided here unless somebody submits them again.
    pub(super) fn give_up(cut: Vec<Entry>, cx: &mut Context<Self>) {
        let ids: Vec<BatchId> = cut.iter().filter_map(|entry| entry.value.id()).collect();
        for id in ids {
            cx.refuse(id, Refusal::Lost);
        }
    }
}

impl Leader {
    /// How many values of this term are undecided, its no-op not counted.
    fn submitted(&self, length: u64, decided: u64) -> u64 {
        length - decided.max(self.opened + 1)
    }
}

/// The window is a proposer's, and every member may forward what it proposes.
fn proposals_max(cx: &Context<Raft>) -> u64 {
    (cx.config.window_max.max(1) * REPLICAS_MAX) as u64
}
