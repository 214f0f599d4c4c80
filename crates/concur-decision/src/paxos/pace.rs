//! Pace: the heartbeat, by which everything that may have been lost is sent again, and holes are suspected. It beats while anything
//! is undecided, read or not known by all, and rests when nothing is.

use super::accept::requests;
use super::messages::{Message, parts, push};
use super::{Paxos, Stage, Timer};
use crate::slots::Learn;
use concur_core::{Context, ReplicaId, ReplicaSet, Ticket};
use std::collections::BTreeMap;

impl Paxos {
    /// Starts the heartbeat if it rests.
    pub(super) fn wake(&mut self, cx: &mut Context<Self>) {
        if !self.ticking && cx.config.index().is_some() {
            self.ticking = true;
            cx.arm(Timer::Tick, cx.config.heartbeat);
        }
    }

    /// One beat.
    pub(super) fn tick(&mut self, cx: &mut Context<Self>) {
        self.ticking = false;
        if cx.config.index().is_none() {
            return;
        }
        self.peers.tick();
        self.send_again(cx);
        self.suspect(cx);
        self.stagger = None;
        self.review_reads(cx);
        self.place(cx);
        self.fetch_lacking(cx);
        self.say_how_far(cx.config.others(), cx);
        if self.is_busy() {
            self.wake(cx);
        }
    }

    /// Whoever believes this asks; nothing else follows from it.
    pub(super) fn say_how_far(&self, to: ReplicaSet, cx: &mut Context<Self>) {
        let summary = Learn::Summary { decided: self.slots.decided(), known: self.slots.known() };
        cx.send_after(Ticket(0), to, Message::Learn(summary));
    }

    fn is_busy(&self) -> bool {
        let all_decided = self.leads.is_empty() && self.slots.decided() >= self.slots.known();
        !(all_decided && self.reads.is_empty() && !self.lacking && self.peers.all_know(self.slots.decided()))
    }

    /// An election timeout, in ticks.
    pub(super) fn election_ticks(&self, cx: &Context<Self>) -> u32 {
        let ticks = cx.config.election.as_nanos() / cx.config.heartbeat.as_nanos().max(1);
        u32::try_from(ticks).unwrap_or(u32::MAX / 16).min(u32::MAX / 16)
    }

    /// Sends again what has had no answer, more and more rarely, and in all no more than about a message's worth of values a tick.
    /// Who was refused by some and not answered by the others gives way: those may be dead.
    fn send_again(&mut self, cx: &mut Context<Self>) {
        let (mut outbid, mut due) = (Vec::new(), Vec::new());
        for (&slot, lead) in &mut self.leads {
            lead.ticks = lead.ticks.saturating_add(1);
            if lead.ticks >= 2 && !lead.refused.is_empty() {
                outbid.push(slot);
            } else if lead.ticks >= 2 && (lead.ticks.is_power_of_two() || lead.ticks.is_multiple_of(16)) {
                due.push(slot);
            }
        }
        outbid.into_iter().for_each(|slot| self.give_way(slot, cx));
        let (mut prepares, mut accepts, mut bytes) = (BTreeMap::<_, Vec<_>>::new(), BTreeMap::<_, Vec<_>>::new(), 0);
        for slot in due {
            let lead = &self.leads[&slot];
            match &lead.stage {
                Stage::Prepare { answers, .. } => {
                    push(prepares.entry(cx.config.voters().minus(*answers)).or_default(), slot, lead.ballot);
                }
                Stage::Accept { value, votes } if bytes <= cx.config.message_bytes_max => {
                    let missing = cx.config.voters().minus(*votes);
                    bytes += value.size_bytes() * missing.len();
                    accepts.entry(missing).or_default().push((slot, lead.ballot, value.clone()));
                }
                Stage::Accept { .. } => {}
            }
        }
        for (missing, stretches) in prepares {
            parts(stretches).into_iter().for_each(|stretches| cx.send(missing, Message::Prepare { stretches }));
        }
        for (missing, votes) in accepts {
            requests(votes, cx.config.message_bytes_max).into_iter().for_each(|message| cx.send(missing, message));
        }
    }

    /// A peer can be reached again: what it has not answered is soon sent again.
    pub(super) fn peer_up(&mut self, id: ReplicaId, cx: &mut Context<Self>) {
        self.peers.hint(id, false);
        self.leads.values_mut().for_each(|lead| lead.ticks = lead.ticks.min(1));
        if cx.config.index().is_some() {
            self.say_how_far(ReplicaSet::one(id), cx);
            self.wake(cx);
        }
    }
}
