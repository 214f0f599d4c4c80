//! Learn: a decision that was missed is asked for, one by one while it is waited for, by the stretch when this replica lags.

use super::{Chosen, Decided, EPaxos, Message, Progress, Stretch, chosen_value, recover::Watch};
use concur_core::{Context, Frontier, Instance, LaneId, ReplicaId, ReplicaSet, Ticket, Value};

/// How many instances are asked for at a time when this replica lags in a lane.
const STRETCH_MAX: u64 = 4096;
/// How many single instances are asked for in one tick.
const ASKED_MAX: usize = 256;
/// How many numbers a lane are examined in one tick for holes that nobody drives.
const HOLES_MAX: u64 = 256;

/// What is known of another voter.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Peer {
    pub(super) committed: Vec<u64>,
    pub(super) gone: Vec<u64>,
    pub(super) floor: Vec<u64>,
    /// For how many ticks nothing was heard.
    pub(super) silent: u32,
    /// Whether its connection broke.
    pub(super) down: bool,
}

impl EPaxos {
    /// Execution waits for an instance.
    pub(super) fn want(&mut self, instance: Instance, cx: &mut Context<Self>) {
        if usize::from(instance.lane.0) < self.lanes.len() && self.lane.is_some() {
            let lane = self.lane_mut(instance.lane);
            lane.known = lane.known.max(instance.number + 1);
            self.watch(instance, cx);
        }
    }

    /// Makes sure that an undecided instance is asked for, and in the end recovered, unless this replica drives it.
    pub(super) fn watch(&mut self, instance: Instance, cx: &mut Context<Self>) {
        if !self.is_decided(instance) && !self.leads.contains_key(&instance) {
            self.watches.entry(instance).or_default();
            self.wake(cx);
        }
    }

    /// Makes sure that it is learned as what an instance is decided, even if it is executed here.
    pub(super) fn seek(&mut self, instance: Instance, cx: &mut Context<Self>) {
        if !self.leads.contains_key(&instance) {
            self.watches.entry(instance).or_default();
            self.wake(cx);
        }
    }

    /// Asks one replica for one decision.
    pub(super) fn ask_for(&self, from: ReplicaId, instance: Instance, cx: &mut Context<Self>) {
        self.ask(ReplicaSet::one(from), vec![Stretch { first: instance, count: 1 }], cx);
    }

    /// A question promises nothing, so it waits for no record.
    fn ask(&self, to: ReplicaSet, stretches: Vec<Stretch>, cx: &mut Context<Self>) {
        cx.send_after(Ticket(0), to, Message::Ask { stretches });
    }

    /// Asks for what has been undecided for some ticks: first its coordinator, then everyone.
    pub(super) fn ask_for_watched(&mut self, cx: &mut Context<Self>) {
        let down = |id: ReplicaId| self.peers.get(&id).is_none_or(|peer| peer.down);
        let mut of: std::collections::BTreeMap<ReplicaId, Vec<Stretch>> = Default::default();
        let due = self.watches.iter().filter(|(_, watch)| asks_at(watch));
        for (&instance, watch) in due.take(ASKED_MAX) {
            let coordinator = self.coordinator(instance);
            let first = watch.ticks <= 2 && !down(coordinator);
            let to = if first { ReplicaSet::one(coordinator) } else { cx.config.others() };
            to.iter().for_each(|id| append(of.entry(id).or_default(), instance));
        }
        for (id, stretches) in of {
            self.ask(ReplicaSet::one(id), stretches, cx);
        }
    }

    /// Answers what is decided here, as much as one message carries. It may hold a fast commit that is not durable yet, so it waits
    /// for the records.
    pub(super) fn tell(&mut self, to: ReplicaId, stretches: &[Stretch], cx: &mut Context<Self>) {
        let (mut decided, mut rest, mut bytes) = (Vec::new(), None, 0);
        let mut examined = 0;
        for stretch in stretches {
            let (lane, from) = (stretch.first.lane, stretch.first.number);
            let end = from.saturating_add(stretch.count.min(STRETCH_MAX));
            if !self.holds_decision(stretch.first) && self.gone.contains(stretch.first) {
                self.say_forgotten(to, stretch.first, cx);
            }
            for (&number, vote) in self.lane(lane).votes.range(from..end) {
                let instance = Instance { lane, number };
                let value = if vote.progress == Progress::Committed { chosen_value(vote) } else { continue };
                bytes += value.size_bytes() + 8 * (2 + self.lanes.len());
                examined += 1;
                if !decided.is_empty() && (bytes > cx.config.message_bytes_max || examined > STRETCH_MAX) {
                    rest = Some(Stretch { first: instance, count: end - number });
                    break;
                }
                decided.push(Decided { instance, value, deps: vote.deps.clone() });
            }
            if rest.is_some() {
                break;
            }
        }
        if !decided.is_empty() {
            cx.send(ReplicaSet::one(to), Message::Answer { decided, rest });
        }
    }

    /// Answers with one decision, whole.
    pub(super) fn tell_one(&mut self, to: ReplicaId, instance: Instance, cx: &mut Context<Self>) {
        let vote = self.vote(instance).expect("decided here");
        let chosen = if vote.noop { Chosen::Noop } else { Chosen::Command(chosen_value(vote)) };
        let deps = vote.deps.clone();
        cx.send(ReplicaSet::one(to), Message::Commit { instance, chosen, deps });
    }

    /// Answers that a decision is forgotten here.
    pub(super) fn say_forgotten(&mut self, to: ReplicaId, instance: Instance, cx: &mut Context<Self>) {
        cx.send(ReplicaSet::one(to), Message::Forgotten { instance, gone: self.gone.clone() });
    }

    /// Decisions that were asked for arrive; what did not fit is asked for next, if there was news: an answer that a link repeats
    /// must not be followed by a question each time, or both would multiply. What is missed is asked for at a later tick.
    pub(super) fn learn_all(&mut self, from: ReplicaId, decided: Vec<Decided>, rest: Option<Stretch>, cx: &mut Context<Self>) {
        let mut news = false;
        for Decided { instance, value, deps } in decided {
            if !self.is_decided(instance) {
                news = true;
                cx.note("learned by asking", Some(instance));
            }
            let chosen = if let Value::Noop = value { Chosen::Noop } else { Chosen::Command(value) };
            self.learn(from, instance, chosen, deps, cx);
        }
        if let Some(rest) = rest.filter(|_| news) {
            self.ask(ReplicaSet::one(from), vec![rest], cx);
        }
    }

    /// An instance is decided and nobody who answered so keeps it. Others may: state is fetched only if it is still undecided at
    /// the next tick. Until that comes, those who remember go on to finish it, as if whoever forgot were silent: of two replicas
    /// that each lack something that the other has forgotten, neither can take the other's state.
    pub(super) fn note_forgotten(&mut self, from: ReplicaId, instance: Instance, gone: Frontier, cx: &mut Context<Self>) {
        if self.is_decided(instance) || gone.epoch != self.gone.epoch || !gone.contains(instance) {
            return;
        }
        self.watch(instance, cx);
        self.fetch = Some((instance, from, gone));
    }

    pub(super) fn fetch_what_is_forgotten(&mut self, cx: &mut Context<Self>) {
        if let Some((instance, from, gone)) = self.fetch.take()
            && !self.is_decided(instance)
        {
            cx.fetch(from, gone);
        }
    }

    /// A peer says how far it is. If either lags, the heartbeats go on until neither does.
    pub(super) fn compare(&mut self, from: ReplicaId, lists: [Vec<u64>; 3], cx: &mut Context<Self>) {
        let Some(peer) = self.peers.get_mut(&from) else { return };
        [peer.committed, peer.gone, peer.floor] = lists;
        if self.peers[&from].committed != self.committed() {
            self.wake(cx);
        }
    }

    /// In a lane where this replica stands still and a peer is ahead, asks for a stretch of what the peer has decided.
    pub(super) fn catch_up(&mut self, cx: &mut Context<Self>) {
        for index in 0..self.lanes.len() {
            let lane = &mut self.lanes[index];
            let (mine, before) = (lane.committed, lane.committed_before);
            lane.committed_before = mine;
            let ahead: Vec<(&ReplicaId, &Peer)> = self.peers.iter().filter(|(_, peer)| peer.committed[index] > mine).collect();
            if mine != before || ahead.is_empty() {
                continue;
            }
            let keep: Vec<_> = ahead.iter().filter(|(_, peer)| peer.gone[index] <= mine).collect();
            let draw = cx.rng.next_u64() as usize;
            let first = Instance { lane: LaneId(index as u8), number: mine };
            if let Some(&&(&id, peer)) = keep.get(draw % keep.len().max(1)) {
                let count = (peer.committed[index] - mine).min(STRETCH_MAX);
                self.ask(ReplicaSet::one(id), vec![Stretch { first, count }], cx);
            } else {
                // All have forgotten it: their answer says what their state covers.
                self.ask_for(*ahead[draw % ahead.len()].0, first, cx);
            }
        }
    }

    /// Watches the numbers that are undecided and that nobody may know of: a coordinator may have died between two proposals.
    pub(super) fn watch_holes(&mut self, cx: &mut Context<Self>) {
        for index in 0..self.lanes.len() {
            let (from, known) = (self.lanes[index].committed, self.lanes[index].known);
            for number in from..known.min(from + HOLES_MAX) {
                self.watch(Instance { lane: LaneId(index as u8), number }, cx);
            }
        }
    }
}

/// Whether a watched instance is asked for in this tick.
fn asks_at(watch: &Watch) -> bool {
    watch.ticks >= 2 && (watch.ticks.is_power_of_two() || watch.ticks.is_multiple_of(16))
}

/// Adds an instance to the stretches, to the last one if it follows.
fn append(stretches: &mut Vec<Stretch>, instance: Instance) {
    match stretches.last_mut() {
        Some(last) if last.first.lane == instance.lane && last.first.number + last.count == instance.number => last.count += 1,
        _ => stretches.push(Stretch { first: instance, count: 1 }),
    }
}
