//! Pace: the heartbeat, by which everything that may have been lost is sent again, suspected or caught up with. It beats while
//! anything is undecided, read or not known by all, or a coordinator is missed, and rests when nothing is.

use super::{FastPaxos, NUMBERS_MAX, Role, Timer, one};
use concur_core::{Context, Frontier, Instance, LaneId};

impl FastPaxos {
    /// Starts the heartbeat if it rests.
    pub(super) fn wake(&mut self, cx: &mut Context<Self>) {
        if !self.ticking && self.place.is_some() {
            self.ticking = true;
            cx.arm(Timer::Tick, cx.config.heartbeat);
        }
    }

    /// One beat.
    pub(super) fn tick(&mut self, cx: &mut Context<Self>) {
        self.ticking = false;
        if self.place.is_none() {
            return;
        }
        self.asked = false;
        self.peers.tick();
        match self.role {
            Role::Leading(_) => self.coordinate(cx),
            Role::Preparing(_) => self.prepare_again(cx),
            Role::Follower | Role::Candidate(_) => self.suspect(cx),
        }
        self.proposals_again(cx);
        self.review_reads(cx);
        self.catch_up(cx);
        self.forget(cx);
        if !matches!(self.role, Role::Leading(_)) {
            self.beat(cx);
        }
        self.wake_if_busy(cx);
    }

    /// Goes on beating while there is something to wait for.
    pub(super) fn wake_if_busy(&mut self, cx: &mut Context<Self>) {
        if !self.ticking && self.is_busy(cx) {
            self.wake(cx);
        }
    }

    fn is_busy(&self, cx: &Context<Self>) -> bool {
        let waits = self.has_holes() || !self.mine.is_empty() || !self.reads.is_empty() || !self.peers.all_know(self.slots.decided());
        let prepares = matches!(self.role, Role::Candidate(_) | Role::Preparing(_));
        let misses = matches!(self.role, Role::Follower) && self.needs_coordinator();
        waits || prepares || misses || self.leads_busily(cx)
    }

    /// Whether a slot is known of that is not decided.
    pub(super) fn has_holes(&self) -> bool {
        self.slots.holes().next().is_some()
    }

    /// Asks for what others are known to have decided and is not known here, if nothing was asked since the last tick.
    fn catch_up(&mut self, cx: &mut Context<Self>) {
        if let Some(fullest) = self.peers.fullest(self.slots.decided()) {
            self.ask(one(fullest), cx);
        }
    }

    /// Execution waits for a slot.
    pub(super) fn want(&mut self, instance: Instance, cx: &mut Context<Self>) {
        if instance.lane != LaneId(0) || instance.number >= NUMBERS_MAX || self.place.is_none() {
            return;
        }
        self.slots.hear_of(instance.number + 1);
        // Decided, and forgotten here though execution has not got so far: somebody's state has it.
        if instance.number < self.slots.base()
            && let Some(fullest) = self.peers.fullest(0)
        {
            cx.fetch(fullest, Frontier::slots(cx.config.epoch, self.slots.base()));
        }
    }
}
