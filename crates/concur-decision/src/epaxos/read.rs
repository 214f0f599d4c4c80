//! Read: what a majority knows to interfere is executed first, and then the state answers.
//!
//! **Why it is linearizable** (for one key, or whatever one footprint reads). Let a write be acknowledged before the read begins.
//! It was decided; so at some ballot a slow quorum voted for it, or a fast one noted it at the zero ballot, and in either case at
//! least a slow quorum had it durably in their votes, and so in their indexes, restarted or not, before it was decided. (What a
//! recovery or a Commit message passes on was decided in one of these ways before, or goes through a vote itself.) The slow quorum
//! that the read asks meets that one, and the common member answers, after the read began, with a bound above the write's number:
//! from its index, or because what it evicted lies below its bound of eviction. The read waits until everything below the bounds
//! is executed, hence the write. What another read has seen was decided as well, so that reads do not go back either.
//!
//! The bounds may name instances that do not interfere, and numbers whose instances were never heard of: those are waited for
//! too, and watched, so that they are learned or recovered. Neither question nor answer waits for a record: a restart can lose
//! only what was never noted durably, and that is not decided; answering too much is harmless.

use super::{Deps, EPaxos, Message};
use concur_core::{Context, Footprint, Frontier, LaneId, ReadId, Refusal, ReplicaId, ReplicaSet, Ticket};

/// How many rounds of reads may wait.
const READS_MAX: usize = 256;

/// A round of reads.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Reading {
    pub(super) footprint: Footprint,
    pub(super) answers: ReplicaSet,
    pub(super) union: Deps,
    pub(super) ticks: u32,
}

impl EPaxos {
    /// Reads wait for a frontier.
    pub(super) fn read(&mut self, id: ReadId, footprint: Footprint, cx: &mut Context<Self>) {
        if self.lane.is_none() {
            return cx.refuse_read(id, Refusal::Redirect(None));
        }
        // Behind a seal lies the next epoch, which alone knows what was written there.
        if self.reads.len() >= READS_MAX || !self.seals.is_empty() || self.leaving {
            return cx.refuse_read(id, Refusal::Busy);
        }
        let union = self.conflicts.bounds(&footprint);
        let answers = ReplicaSet::one(self.me);
        cx.send_after(Ticket(0), cx.config.others(), Message::Query { read: id, footprint: footprint.clone() });
        self.reads.insert(id, Reading { footprint, answers, union, ticks: 0 });
        self.grant(id, cx);
        self.wake(cx);
    }

    /// A peer's reads wait for what interferes with them here.
    pub(super) fn bound(&mut self, from: ReplicaId, read: ReadId, footprint: &Footprint, cx: &mut Context<Self>) {
        let deps = self.conflicts.bounds(footprint);
        cx.send_after(Ticket(0), ReplicaSet::one(from), Message::Bounds { read, deps });
    }

    /// A peer said what interferes there.
    pub(super) fn count_bounds(&mut self, from: ReplicaId, id: ReadId, deps: &Deps, cx: &mut Context<Self>) {
        if let Some(reading) = self.reads.get_mut(&id) {
            reading.answers.insert(from);
            reading.union.join(&deps.0);
            self.grant(id, cx);
        }
    }

    /// Lets the reads go as soon as a slow quorum has answered.
    fn grant(&mut self, id: ReadId, cx: &mut Context<Self>) {
        if self.reads[&id].answers.len() < self.limits.slow {
            return;
        }
        let union = self.reads.remove(&id).expect("looked at above").union;
        let mut frontier = Frontier::start(cx.config.epoch);
        for (index, &below) in union.0.iter().enumerate() {
            let lane = self.lane_mut(LaneId(index as u8));
            lane.known = lane.known.max(below);
            frontier.lanes.push(concur_core::Lane { below, ..Default::default() });
        }
        cx.note("barrier read", None);
        cx.read_at(id, frontier);
    }

    /// Asks again those who have not answered, and gives up in the end.
    pub(super) fn review_reads(&mut self, cx: &mut Context<Self>) {
        let limit = 4 * self.election_ticks(cx) + 8;
        let voters = cx.config.voters();
        for (&read, reading) in &mut self.reads {
            reading.ticks += 1;
            if reading.ticks > limit {
                cx.refuse_read(read, Refusal::Lost);
            } else if reading.ticks.is_power_of_two() {
                let footprint = reading.footprint.clone();
                cx.send_after(Ticket(0), voters.minus(reading.answers), Message::Query { read, footprint });
            }
        }
        self.reads.retain(|_, reading| reading.ticks <= limit);
    }
}
