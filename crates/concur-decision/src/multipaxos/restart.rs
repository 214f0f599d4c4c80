//! Restart: starting from records, and what has to be kept of what was persisted.

use super::{
    Follower, MultiPaxos, Record, Role,
    elect::{draw, draw_patience},
};
use crate::slots::{Peers, Slot, Slots};
use concur_core::{Ballot, Boot, Config, Context, Corrupt, Instance, LaneId, Mark, Phase, ReplicaId, Ticket, Value};
use std::cmp::Ordering;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

/// About how many bytes of values one record carries.
pub(super) const RECORD_BYTES_MAX: usize = 1 << 20;

impl MultiPaxos {
    /// Starts from what was persisted. Of what lies beyond the mark only what a checkpoint knew is known to be decided, before a leader
    /// says so.
    pub(super) fn start(boot: Boot<Self>, cx: &mut Context<Self>) -> Result<Self, Corrupt> {
        check_quorums(&cx.config)?;
        let mut this = Self {
            promised: Ballot::default(),
            promise: Ticket(0),
            slots: Slots::default(),
            announced: 0,
            round: 0,
            attempts: 0,
            lacking: false,
            role: Role::Follower(Follower {
                leader: None,
                heard: cx.now,
                patience: Duration::ZERO,
                down: false,
                told: u64::MAX,
                asked: None,
            }),
            peers: Peers::new(cx.config.others()),
            given: BTreeMap::new(),
            forwarded: VecDeque::new(),
        };
        let empty = boot.records.is_empty();
        for record in boot.records {
            this.replay(record)?;
        }
        this.meet(&boot.mark, cx)?;
        if !cx.config.voters().contains(cx.config.me) {
            return Ok(this);
        }
        match boot.first.filter(|_| empty) {
            Some(first) => this.boot_promised(first, boot.fresh, cx),
            None if this.promised == Ballot::default() => {
                // Nobody has led yet, so nobody need be waited for.
                let soon = draw(cx, cx.config.election);
                this.wait(None, soon, cx);
            }
            None => {
                let patience = draw_patience(cx);
                this.wait(None, patience, cx);
            }
        }
        Ok(this)
    }

    fn replay(&mut self, record: Record) -> Result<(), Corrupt> {
        match record {
            Record::Promised { ballot } => {
                if ballot < self.promised {
                    return Err(Corrupt::new(format!("a promise of {ballot:?} after {:?}", self.promised)));
                }
                self.promised = ballot;
            }
            Record::Accepted { ballot, first, values } => {
                if ballot != self.promised || first.checked_add(values.len() as u64).is_none() {
                    return Err(Corrupt::new(format!("votes at {ballot:?} from {first} on, promised to {:?}", self.promised)));
                }
                for (value, slot) in values.into_iter().zip(first..) {
                    self.replay_vote(slot, ballot, value)?;
                }
            }
            Record::Base { below } => {
                self.slots.cover(below);
            }
            Record::Slot { slot, kept } => {
                if slot == u64::MAX || !self.slots.restore(slot, kept) {
                    return Err(Corrupt::new(format!("what is kept of slot {slot} contradicts itself")));
                }
            }
        }
        Ok(())
    }

    /// One ballot has one value a slot. What a checkpoint knew to be decided needs no vote.
    fn replay_vote(&mut self, slot: u64, ballot: Ballot, value: Value) -> Result<(), Corrupt> {
        let differs = |(voted, before): (Ballot, &Arc<Value>)| voted > ballot || (voted == ballot && **before != value);
        if self.slots.vote(slot).is_some_and(differs) {
            return Err(Corrupt::new(format!("two votes in slot {slot} at {ballot:?}, or one of a higher ballot before it")));
        }
        if !self.slots.is_decided(slot) {
            self.slots.accept(slot, ballot, Arc::new(value));
        }
        Ok(())
    }

    /// Brings the votes and the executed state together, and decides again what is known to be decided beyond it.
    fn meet(&mut self, mark: &Mark<()>, cx: &mut Context<Self>) -> Result<(), Corrupt> {
        let executed = match mark.frontier.epoch.cmp(&cx.config.epoch) {
            Ordering::Less => 0,
            Ordering::Equal => mark.frontier.below(LaneId(0)),
            Ordering::Greater => return Err(Corrupt::new("the executed state is of a later epoch")),
        };
        self.lacking = executed < self.slots.base();
        self.slots.cover(executed);
        for (slot, kept) in self.slots.iter_from(executed) {
            if let Slot::Decided(value) = kept {
                cx.decide(Instance::slot(slot), Value::clone(value), ());
            }
        }
        Ok(())
    }

    /// Everybody enters the epoch promised to its first leader, in round 1. Nothing older can have been accepted, so it needs no
    /// phase 1; but only in the run of the process that entered, since a later run may have forgotten what it sent.
    fn boot_promised(&mut self, first: ReplicaId, fresh: bool, cx: &mut Context<Self>) {
        let me = cx.config.me;
        self.promise(Ballot { round: 1, owner: first }, cx);
        if first == me && fresh {
            return self.lead(BTreeMap::new(), 0, cx);
        }
        let patience = draw_patience(cx);
        self.wait(Some(first).filter(|&first| first != me), patience, cx);
    }

    /// The promise, the base, and every slot that is kept.
    pub(super) fn records(&self) -> Vec<Record> {
        let mut records = vec![Record::Promised { ballot: self.promised }];
        if self.slots.base() > 0 {
            records.push(Record::Base { below: self.slots.base() });
        }
        records.extend(self.slots.records().map(|(slot, kept)| Record::Slot { slot, kept }));
        records
    }
}

/// A value that was chosen is found only if a quorum that promises shares a voter with every one that votes.
fn check_quorums(config: &Config) -> Result<(), Corrupt> {
    match config.quorums.disjoint(Phase::Prepare, Phase::Accept) {
        Some((a, b)) => Err(Corrupt::new(format!("quorums {a:?} of promises and {b:?} of votes do not meet"))),
        None => Ok(()),
    }
}
