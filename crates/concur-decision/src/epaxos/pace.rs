//! Pace: the heartbeat, by which everything that may have been lost is sent again, suspected, caught up with or given up. It
//! beats while anything is undecided, read or not known by all, and rests when nothing is.

use super::{Chosen, EPaxos, Message, Stage, ZERO, chosen_value, learn::Peer};
use concur_core::{Context, Instance, ReplicaId, ReplicaSet, Ticket};

/// How many instances one replica recovers at a time.
const RECOVERIES_MAX: usize = 128;

impl EPaxos {
    /// Starts the heartbeat if it rests.
    pub(super) fn wake(&mut self, cx: &mut Context<Self>) {
        if !self.ticking {
            self.ticking = true;
            cx.arm(super::Timer::Tick, cx.config.heartbeat);
        }
    }

    /// One beat.
    pub(super) fn tick(&mut self, cx: &mut Context<Self>) {
        self.ticking = false;
        if self.lane.is_none() {
            return;
        }
        self.peers.values_mut().for_each(|peer| peer.silent = peer.silent.saturating_add(1));
        self.send_again(cx);
        self.judge_again(cx);
        self.watch_holes(cx);
        self.suspect(cx);
        self.review_reads(cx);
        self.catch_up(cx);
        self.fetch_what_is_forgotten(cx);
        self.pledge(cx);
        self.believe();
        self.forget(cx);
        // What is said here is not relied on: whoever believes it asks.
        let summary = Message::Summary { committed: self.committed(), gone: self.gone_below(), floor: self.floor.clone() };
        cx.send_after(Ticket(0), cx.config.others(), summary);
        if self.is_busy() {
            self.wake(cx);
        }
    }

    /// Whether a peer seems to live.
    pub(super) fn lives(&self, peer: &Peer, cx: &Context<Self>) -> bool {
        !peer.down && peer.silent <= self.election_ticks(cx)
    }

    fn is_busy(&self) -> bool {
        let committed = self.committed();
        let all_equal = self.peers.values().all(|peer| peer.committed == committed);
        !(all_equal && self.leads.is_empty() && self.watches.is_empty() && self.reads.is_empty() && self.fetch.is_none())
    }

    /// An election timeout, in ticks.
    pub(super) fn election_ticks(&self, cx: &Context<Self>) -> u32 {
        let ticks = cx.config.election.as_nanos() / cx.config.heartbeat.as_nanos().max(1);
        u32::try_from(ticks).unwrap_or(u32::MAX / 8).min(u32::MAX / 8)
    }

    /// Sends again what has had no answer, more and more rarely, and in all no more than a message's worth of values a tick.
    fn send_again(&mut self, cx: &mut Context<Self>) {
        let patience = self.election_ticks(cx);
        let mut due = Vec::new();
        let mut left_behind = Vec::new();
        for (&instance, lead) in &mut self.leads {
            lead.ticks = lead.ticks.saturating_add(1);
            // What is decided here and waits for the disk is driven to its end, however slow the disk is.
            if lead.overtaken && lead.ticks > patience && lead.stage != Stage::Durable {
                left_behind.push(instance);
            } else if lead.ticks >= 2 && (lead.ticks.is_power_of_two() || lead.ticks.is_multiple_of(16)) {
                due.push(instance);
            }
        }
        for instance in left_behind {
            self.release(instance, cx);
        }
        let mut bytes = 0;
        for instance in due {
            if bytes <= cx.config.message_bytes_max {
                bytes += self.send_lead_again(instance, cx);
            }
        }
    }

    /// Sends a lead's request again to those who have not answered, and says how many bytes of values that took.
    fn send_lead_again(&mut self, instance: Instance, cx: &mut Context<Self>) -> usize {
        let (lead, vote) = (&self.leads[&instance], self.vote(instance).expect("what is driven is noted"));
        let (voters, me, ballot) = (cx.config.voters(), self.me, lead.ballot);
        let bytes = vote.command.as_ref().map_or(1, |command| command.size_bytes());
        let missing = match &lead.stage {
            Stage::PreAccept { answers, .. } => {
                let missing = voters.minus(*answers);
                let value = vote.command.clone().expect("noted with its command");
                cx.send(missing, Message::PreAccept { instance, value, deps: vote.initial.clone() });
                missing
            }
            Stage::Durable => {
                cx.send(ReplicaSet::one(me), Message::Durable { instance });
                ReplicaSet::EMPTY
            }
            Stage::Recover(inquiry) => {
                let missing = voters.minus(inquiry.reports.keys().copied().collect());
                cx.send(missing.without(me), Message::Recover { instance, ballot });
                if let Some((value, initial)) = inquiry.noted() {
                    cx.send(inquiry.asked.minus(inquiry.validated), Message::Validate { instance, ballot, value, initial });
                }
                if missing.contains(me) {
                    let report = super::recover::report(vote);
                    cx.send(ReplicaSet::one(me), Message::Recovered { instance, ballot, report });
                }
                ReplicaSet::EMPTY
            }
            Stage::Accept { oks } => {
                let missing = voters.minus(*oks);
                let chosen = if vote.noop { Chosen::Noop } else { Chosen::Command(chosen_value(vote)) };
                cx.send(missing.without(me), Message::Accept { instance, ballot, chosen, deps: vote.deps.clone() });
                if missing.contains(me) {
                    cx.send(ReplicaSet::one(me), Message::Accepted { instance, ballot });
                }
                missing
            }
        };
        bytes * missing.without(me).len()
    }

    /// Waits a tick more for what others drive, asks for it, and takes up what has waited long enough.
    fn suspect(&mut self, cx: &mut Context<Self>) {
        let patience = self.election_ticks(cx);
        // What waits for others is not counted: they have to be taken up beside it.
        let driven = self.leads.values().filter(|lead| lead.ballot > ZERO && !lead.waits()).count();
        let mut overdue = Vec::new();
        let (me, voters, peers) = (self.me, &self.voters, &self.peers);
        for (&instance, watch) in &mut self.watches {
            watch.ticks = watch.ticks.saturating_add(1);
            let coordinator = usize::from(instance.lane.0);
            let delay = *watch.delay.get_or_insert_with(|| {
                let stagger = u64::from(patience) * rank(voters, coordinator, me) / (2 * voters.len() as u64);
                let backoff = u64::from(patience.max(1)) << watch.attempts.min(5);
                (stagger + cx.rng.below(u64::from(patience / 2) + 1) + cx.rng.below(backoff)) as u32
            });
            // Whose coordinator lives is waited for: recovering it would turn its command into nothing.
            let lives = peers.get(&voters[coordinator]).is_some_and(|peer| !peer.down && peer.silent <= patience);
            let wait = if lives { patience } else { 0 };
            if watch.ticks > wait.saturating_add(delay) && driven + overdue.len() < RECOVERIES_MAX {
                overdue.push(instance);
            }
        }
        self.ask_for_watched(cx);
        for instance in overdue {
            self.take_up(instance, cx);
        }
    }
}

/// A replica's place in the row of those who take up what a coordinator left: no two at once.
fn rank(voters: &[ReplicaId], coordinator: usize, me: ReplicaId) -> u64 {
    let mine = voters.iter().position(|&id| id == me).expect("only voters recover");
    ((mine + voters.len() - coordinator) % voters.len()) as u64
}
