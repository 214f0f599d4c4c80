//! What a leader takes up, and how it proposes: its own vote is the first for each value.

use super::{Given, Leader, Message, MultiPaxos, Record, Role, Timer, read::Reads, replicate::Progress, restart::RECORD_BYTES_MAX};
use concur_core::{Ballot, BatchId, Context, REPLICAS_MAX, Refusal, ReplicaSet, Value};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// A value that is proposed and not decided.
#[derive(Debug, Clone, Hash)]
pub(super) struct Proposal {
    /// Who has voted for it, durably.
    pub(super) votes: ReplicaSet,
    /// Its name, unless it is a no-op.
    pub(super) id: Option<BatchId>,
}

impl MultiPaxos {
    /// Takes a batch or seal up, or says who can. One that is proposed and undecided is not proposed again; one that was executed is
    /// recognised when it is executed.
    pub(super) fn submit(&mut self, value: Value, cx: &mut Context<Self>) {
        let Some(id) = value.id() else { return };
        let refusal = match &mut self.role {
            Role::Leader(leader) if leader.transfer.is_some() => Refusal::Redirect(None),
            Role::Leader(leader) if leader.proposed.contains(&id) => return,
            Role::Leader(leader) if leader.pending.len() >= proposals_max(cx) => Refusal::Busy,
            Role::Leader(leader) => {
                let slot = leader.next;
                self.given.insert(slot, Given { ballot: self.promised, id });
                self.propose(vec![(slot, Arc::new(value))], cx);
                return self.replicate(cx);
            }
            Role::Follower(_) | Role::Canvass(_) | Role::Candidate(_) => Refusal::Redirect(self.leader()),
        };
        cx.refuse(id, refusal);
    }

    /// Leads the promised ballot, which a quorum has promised or which everybody entered the epoch with. What phase 1 brought up is
    /// proposed before anything else.
    pub(super) fn lead(&mut self, votes: BTreeMap<u64, (Ballot, Arc<Value>)>, top: u64, cx: &mut Context<Self>) {
        assert_eq!(self.promised.owner, cx.config.me, "a leader owns its ballot");
        cx.note(super::ELECTED, None);
        cx.disarm(Timer::Election);
        cx.arm(Timer::Pulse, cx.config.heartbeat);
        let own = self.slots.iter_from(self.slots.decided()).last().map_or(0, |(slot, _)| slot + 1);
        let opened = top.max(own).max(self.slots.decided());
        self.role = Role::Leader(Box::new(Leader {
            opened,
            next: opened,
            pending: BTreeMap::new(),
            proposed: BTreeSet::new(),
            peers: cx.config.voters().iter().map(|id| Progress::new(id, cx.now)).collect(),
            reads: Reads::default(),
            transfer: None,
        }));
        let proposals = self.bring_up(votes, opened, cx);
        self.propose(proposals, cx);
        self.send_heartbeat(cx);
        self.replicate(cx);
    }

    /// Votes for these, slot by slot, and waits for others' votes. The own vote counts when it is durable: a message to itself.
    fn propose(&mut self, proposals: Vec<(u64, Arc<Value>)>, cx: &mut Context<Self>) {
        for run in runs(proposals) {
            let (first, count) = (run[0].0, run.len() as u64);
            let Role::Leader(leader) = &mut self.role else { return };
            leader.next = leader.next.max(first + count);
            for (slot, value) in &run {
                let id = value.id();
                leader.pending.insert(*slot, Proposal { votes: ReplicaSet::EMPTY, id });
                leader.proposed.extend(id);
            }
            self.vote(self.promised, run, cx);
            cx.send(ReplicaSet::one(cx.config.me), Message::Accepted { ballot: self.promised, first, count });
        }
    }

    /// Votes in a run of undecided slots. Whatever is sent afterwards waits for the record.
    pub(super) fn vote(&mut self, ballot: Ballot, run: Vec<(u64, Arc<Value>)>, cx: &mut Context<Self>) {
        assert_eq!(ballot, self.promised, "nobody votes at a ballot that it has not joined");
        let values = run.iter().map(|(_, value)| Value::clone(value)).collect();
        cx.persist(Record::Accepted { ballot, first: run[0].0, values });
        for (slot, value) in run {
            self.slots.accept(slot, ballot, value);
        }
    }
}

/// Cuts proposals, in the order of their slots, into runs of consecutive ones that one record carries.
pub(super) fn runs(proposals: Vec<(u64, Arc<Value>)>) -> Vec<Vec<(u64, Arc<Value>)>> {
    let mut runs: Vec<Vec<(u64, Arc<Value>)>> = Vec::new();
    let mut bytes = 0;
    for (slot, value) in proposals {
        bytes += value.size_bytes();
        match runs.last_mut() {
            Some(run) if run.last().is_some_and(|(last, _)| last + 1 == slot) && bytes <= RECORD_BYTES_MAX => run.push((slot, value)),
            _ => {
                bytes = value.size_bytes();
                runs.push(vec![(slot, value)]);
            }
        }
    }
    runs
}

/// The window is a proposer's, and every member may forward what it proposes.
fn proposals_max(cx: &Context<MultiPaxos>) -> usize {
    cx.config.window_max.max(1) * REPLICAS_MAX
}
