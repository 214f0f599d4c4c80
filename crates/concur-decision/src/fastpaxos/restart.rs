//! Restart: starting from records, taking over installed state, what a checkpoint keeps, and forgetting.

use super::{
    FastPaxos, NUMBERS_MAX, RESTARTED, Record, Role, Timer,
    elect::{draw, election_ticks},
    finishing, is_main, may_be_fast,
};
use crate::slots::{Peers, Reads, Slot, Slots};
use concur_core::{Ballot, Boot, Context, Corrupt, Frontier, Instance, LaneId, Mark, Phase, Value};
use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::sync::Arc;

impl FastPaxos {
    /// Starts from what was persisted. Nothing that this replica had under way is resumed: not its ballot, which it left durable
    /// before anybody heard of it, and no proposal. A fast round in which it voted goes on.
    pub(super) fn start(boot: Boot<Self>, cx: &mut Context<Self>) -> Result<Self, Corrupt> {
        if let Some((a, b)) = cx.config.quorums.disjoint(Phase::Prepare, Phase::Accept) {
            return Err(Corrupt::new(format!("quorums {a:?} of phase 1 and {b:?} of phase 2 do not meet")));
        }
        let mut this = Self {
            me: cx.config.me,
            place: cx.config.index(),
            may_be_fast: may_be_fast(&cx.config.quorums),
            promised: Ballot::default(),
            fast: None,
            round: 0,
            slots: Slots::default(),
            peers: Peers::new(cx.config.others()),
            floor: 0,
            floors: BTreeMap::new(),
            role: Role::Follower,
            mine: BTreeMap::new(),
            places: BTreeMap::new(),
            reads: Reads::default(),
            heard: cx.now,
            stalled: None,
            wanting: false,
            relapses: 0,
            asked: false,
            ticking: false,
            leaving: false,
        };
        let empty = boot.records.is_empty();
        for record in boot.records {
            this.replay(record)?;
        }
        let executed = match boot.mark.frontier.epoch.cmp(&cx.config.epoch) {
            Ordering::Less => 0,
            Ordering::Equal => boot.mark.frontier.below(LaneId(0)),
            Ordering::Greater => return Err(Corrupt::new("the executed state is of a later epoch")),
        };
        this.slots.cover(executed);
        this.decide_again(executed, cx);
        if this.place.is_some() {
            if empty {
                this.enter(boot.fresh && executed == 0, cx);
            } else if this.promised.owner == this.me {
                cx.note(RESTARTED, None);
            }
            this.settle_in(cx);
        }
        Ok(this)
    }

    /// Enters an epoch: promised to its first ballot, which needs no phase 1, and is open to all from the first slot on where rounds
    /// may be fast. Its owner coordinates it if no earlier run can have.
    fn enter(&mut self, fresh: bool, cx: &mut Context<Self>) {
        let Some(owner) = cx.config.voters().iter().next() else { return };
        let ticket = self.promise(Ballot { round: 2, owner }, self.may_be_fast.then_some(0), cx);
        if owner == self.me && fresh {
            self.lead_first(ticket, cx);
        }
    }

    fn decide_again(&mut self, executed: u64, cx: &mut Context<Self>) {
        for (slot, kept) in self.slots.iter_from(executed) {
            if let Slot::Decided(value) = kept {
                cx.decide(Instance::slot(slot), Value::clone(value), ());
            }
        }
    }

    /// The first look around comes soon, in turn, so that where nobody coordinates somebody does soon.
    fn settle_in(&mut self, cx: &mut Context<Self>) {
        self.ticking = true;
        let turn = u32::try_from(self.place.unwrap_or(0)).unwrap_or(0);
        let soon = cx.config.heartbeat / 4 * turn + draw(cx, cx.config.heartbeat / 4);
        cx.arm(Timer::Tick, soon);
    }

    fn replay(&mut self, record: Record) -> Result<(), Corrupt> {
        match record {
            Record::Promised { ballot, fast } => {
                let sane =
                    is_main(ballot) && (ballot > self.promised || (ballot == self.promised && self.fast.is_none_or(|k| fast == Some(k))));
                // A checkpoint of a replica that has promised nothing says so.
                if !sane && ballot != Ballot::default() {
                    return Err(Corrupt::new(format!("{ballot:?} was promised after {:?}", self.promised)));
                }
                (self.promised, self.fast) = (ballot, fast);
            }
            Record::Voted { slot, ballot, fast, value } => return self.replay_vote(slot, ballot, fast, value),
            Record::Joined { slot, ballot } => {
                if slot >= NUMBERS_MAX || ballot.round >= NUMBERS_MAX || ballot < self.slots.joined(slot) {
                    return Err(Corrupt::new(format!("{ballot:?} was joined for slot {slot} after {:?}", self.slots.joined(slot))));
                }
                if !self.slots.is_decided(slot) {
                    self.slots.join(slot, ballot);
                }
            }
            Record::Base { below } => {
                self.slots.cover(below);
            }
            Record::Slot { slot, kept } => {
                if slot >= NUMBERS_MAX || !self.slots.restore(slot, kept) {
                    return Err(Corrupt::new(format!("what is kept of slot {slot} contradicts itself")));
                }
            }
        }
        Ok(())
    }

    fn replay_vote(&mut self, slot: u64, ballot: Ballot, fast: bool, value: Value) -> Result<(), Corrupt> {
        let sound = slot < NUMBERS_MAX && ballot.round > 1 && ballot.round < NUMBERS_MAX && (!fast || is_main(ballot));
        if !sound || ballot < self.slots.joined(slot) {
            return Err(Corrupt::new(format!("a vote in slot {slot} at {ballot:?} after {:?}", self.slots.joined(slot))));
        }
        if !self.slots.is_decided(slot) {
            self.slots.accept(slot, ballot, Arc::new(value));
            if fast {
                self.slots.join(slot, finishing(ballot));
            }
        }
        Ok(())
    }

    /// Everything that is still needed.
    pub(super) fn records(&self) -> Vec<Record> {
        let mut records = vec![Record::Promised { ballot: self.promised, fast: self.fast }, Record::Base { below: self.slots.base() }];
        records.extend(self.slots.records().map(|(slot, kept)| Record::Slot { slot, kept }));
        records
    }

    /// State came from a peer and is durable: it stands for every slot below its mark.
    pub(super) fn installed(&mut self, mark: &Mark<()>, cx: &mut Context<Self>) {
        let below = mark.frontier.below(LaneId(0));
        if mark.frontier.epoch != cx.config.epoch || !self.slots.cover(below) {
            return;
        }
        if let Role::Leading(leading) = &mut self.role {
            leading.tallies = leading.tallies.split_off(&below);
        }
        self.give_up_below(below, cx);
    }

    /// Everything below the frontier is executed durably here.
    pub(super) fn raise_floor(&mut self, frontier: &Frontier, cx: &mut Context<Self>) {
        let floor = match frontier.epoch.cmp(&cx.config.epoch) {
            Ordering::Less => return,
            Ordering::Equal => frontier.below(LaneId(0)),
            // Nobody is waited for in an epoch that is over.
            Ordering::Greater => return self.slots.forget(self.slots.decided(), cx.config.retained_bytes_max),
        };
        self.floor = self.floor.max(floor);
        self.forget(cx);
    }

    /// What is executed durably here is kept only for replicas that lag: not what all voters have executed durably; beyond the bytes
    /// allowed, only what one that lives has not learned; and of that no more than four times as much, or a message.
    pub(super) fn forget(&mut self, cx: &Context<Self>) {
        let ticks = election_ticks(cx);
        let all = cx.config.others().iter().map(|id| self.floors.get(&id).copied().unwrap_or(0)).min().unwrap_or(u64::MAX);
        let living = self.peers.known_to_all(|id| self.peers.lives(id, ticks));
        let most = cx.config.retained_bytes_max;
        let held = most.saturating_mul(4).max(cx.config.message_bytes_max);
        self.slots.forget_but(self.floor, most, [all, living], held);
    }
}
