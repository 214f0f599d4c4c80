//! What is submitted: sent to all voters in a slot of the fast round, or put in a slot by the coordinator, which others are pointed at.

use super::{AGAIN, BACKLOG_MAX, FAST, FastPaxos, Message, Role};
use concur_core::{Ballot, BatchId, Context, Instance, Phase, REPLICAS_MAX, Refusal, ReplicaId, ReplicaSet, Ticket, Value};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Something that was submitted here and is not decided.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Mine {
    pub(super) value: Arc<Value>,
    /// Where it is proposed; none while a coordinator prepares.
    slot: Option<u64>,
    /// At which fast ballot; none if this replica put it in its slot as the coordinator.
    ballot: Option<Ballot>,
    /// Who voted for it there.
    voted: ReplicaSet,
    ticks: u32,
}

impl FastPaxos {
    /// A batch or seal is to be decided.
    pub(super) fn submit(&mut self, value: Value, cx: &mut Context<Self>) {
        let Some(id) = value.id() else { return };
        if self.mine.contains_key(&id) {
            return;
        }
        if self.place.is_none() {
            return cx.refuse(id, Refusal::Redirect(None));
        }
        if self.leaving || (!value.is_seal() && self.is_full(id, cx)) {
            return cx.refuse(id, Refusal::Busy);
        }
        let mine = Mine { value: Arc::new(value), slot: None, ballot: None, voted: ReplicaSet::EMPTY, ticks: 0 };
        self.mine.insert(id, mine);
        self.place(id, cx);
    }

    /// The window is a proposer's, and every member may forward what it proposes.
    fn is_full(&self, id: BatchId, cx: &Context<Self>) -> bool {
        let window = cx.config.window_max.max(1);
        let of_origin = self.mine.keys().filter(|other| other.origin == id.origin).count();
        let backlog = self.slots.known() - self.slots.decided();
        of_origin >= window || self.mine.len() >= window.saturating_mul(REPLICAS_MAX) || backlog >= BACKLOG_MAX / 2
    }

    /// Proposes what has no slot, in the way that this replica can; or points at who can.
    fn place(&mut self, id: BatchId, cx: &mut Context<Self>) {
        let seal = self.mine[&id].value.is_seal();
        match (&self.role, self.fast) {
            (Role::Preparing(_), _) => {}
            (Role::Leading(_), Some(_)) if seal => self.close_for_seal(cx),
            (Role::Leading(_), None) => self.assign(id, cx),
            (_, Some(fast)) if !seal => self.propose(id, fast, cx),
            _ => self.point_elsewhere(id, cx),
        }
    }

    /// Proposes everything that waits for a slot.
    pub(super) fn place_all(&mut self, cx: &mut Context<Self>) {
        let waiting: Vec<BatchId> = self.mine.iter().filter(|(_, mine)| mine.slot.is_none()).map(|(&id, _)| id).collect();
        for id in waiting {
            if self.mine.contains_key(&id) {
                self.place(id, cx);
            }
        }
    }

    fn point_elsewhere(&mut self, id: BatchId, cx: &mut Context<Self>) {
        self.mine.remove(&id);
        let coordinator = self.coordinator();
        self.wanting |= coordinator.is_none() || cx.now.since(self.heard) >= cx.config.election;
        cx.refuse(id, Refusal::Redirect(coordinator));
    }

    /// The coordinator of a classic ballot puts a value in the next slot, unless it is in one already: the coordinator before may
    /// have put it there.
    fn assign(&mut self, id: BatchId, cx: &mut Context<Self>) {
        let (known, value) = (self.slot_of(id), Arc::clone(&self.mine[&id].value));
        let Some(slot) = known.or_else(|| self.next_classic()) else { return };
        // What this replica proposed there in a round that is over goes elsewhere.
        let displaced = self.places.insert(slot, id);
        let Some(mine) = self.mine.get_mut(&id) else { return };
        (mine.slot, mine.ballot) = (Some(slot), None);
        if known.is_none() {
            self.put_to_vote(slot, self.promised, value, cx);
        }
        if let Some(other) = displaced.filter(|&other| other != id) {
            self.displace(other, slot, cx);
        }
    }

    /// Sends a value to all voters, in the slot that seems to be the next free one.
    fn propose(&mut self, id: BatchId, fast: u64, cx: &mut Context<Self>) {
        let slot = self.slots.known().max(fast);
        if slot >= self.slots.decided().saturating_add(BACKLOG_MAX) {
            self.mine.remove(&id);
            return cx.refuse(id, Refusal::Busy);
        }
        self.slots.hear_of(slot + 1);
        self.places.insert(slot, id);
        let Some(mine) = self.mine.get_mut(&id) else { return };
        mine.slot = Some(slot);
        self.send_proposal(id, fast, cx);
        self.wake(cx);
    }

    /// A proposal promises nothing, so that it waits for no record: voters vote once, whatever is proposed to them.
    fn send_proposal(&mut self, id: BatchId, fast: u64, cx: &mut Context<Self>) {
        let Some(mine) = self.mine.get_mut(&id) else { return };
        let Some(slot) = mine.slot else { return };
        let ballot = self.promised;
        if mine.ballot != Some(ballot) {
            (mine.ballot, mine.voted, mine.ticks) = (Some(ballot), ReplicaSet::EMPTY, 0);
        }
        let missing = cx.config.voters().minus(mine.voted);
        let value = Value::clone(&mine.value);
        cx.send_after(Ticket(0), missing, Message::Propose { ballot, fast, slot, value });
    }

    /// The round is a new one: what was proposed in its slots at an earlier one is proposed again there.
    pub(super) fn propose_again(&mut self, cx: &mut Context<Self>) {
        let (Some(fast), promised) = (self.fast, self.promised) else { return };
        let stale = |mine: &Mine| mine.ballot.is_some_and(|ballot| ballot < promised) && mine.slot.is_some_and(|slot| slot >= fast);
        let stale: Vec<BatchId> = self.mine.iter().filter(|(_, mine)| stale(mine)).map(|(&id, _)| id).collect();
        for id in stale {
            self.send_proposal(id, fast, cx);
        }
    }

    /// Sends again what has too few votes, more and more rarely, and no more than a message's worth of values a tick.
    pub(super) fn proposals_again(&mut self, cx: &mut Context<Self>) {
        self.propose_again(cx);
        let Some(fast) = self.fast else { return };
        let (mut due, mut bytes) = (Vec::new(), 0);
        for (&id, mine) in self.mine.iter_mut().filter(|(_, mine)| mine.ballot.is_some()) {
            mine.ticks = mine.ticks.saturating_add(1);
            let now = mine.ticks >= 2 && (mine.ticks.is_power_of_two() || mine.ticks.is_multiple_of(16));
            if now && bytes <= cx.config.message_bytes_max && mine.slot.is_some_and(|slot| slot >= fast) {
                bytes += mine.value.size_bytes() * cx.config.voters().minus(mine.voted).len();
                due.push(id);
            }
        }
        for id in due {
            self.send_proposal(id, fast, cx);
        }
    }

    /// A vote for a proposal of this replica's. Equal votes of a fast quorum at one ballot have chosen it; the proposer is the first to
    /// see that, one round trip after it proposed.
    pub(super) fn count_own(&mut self, from: ReplicaId, ballot: Ballot, slot: u64, id: Option<BatchId>, cx: &mut Context<Self>) {
        let Some(mine) = id.and_then(|id| self.mine.get_mut(&id)) else { return };
        if mine.slot != Some(slot) || mine.ballot != Some(ballot) {
            return;
        }
        mine.voted.insert(from);
        if cx.config.quorums.is_quorum(Phase::Fast, mine.voted) {
            let (value, voted) = (Arc::clone(&mine.value), mine.voted);
            cx.note(FAST, Some(Instance::slot(slot)));
            self.announce(slot, &value, voted, cx);
            self.decided(slot, value, cx);
        }
    }

    /// A slot is decided: with what this replica proposed, here or elsewhere, or with something else.
    pub(super) fn settle_own(&mut self, slot: u64, id: Option<BatchId>, cx: &mut Context<Self>) {
        if let Some(mine) = id.and_then(|id| self.mine.remove(&id))
            && let Some(place) = mine.slot
        {
            self.places.remove(&place);
        }
        self.lose(slot, id, cx);
    }

    /// Another value was picked for a slot, or decided there: what this replica proposed there goes to a later one. (Were it decided
    /// there after all, because the pick came to nothing, it would be decided twice, and executed once.)
    pub(super) fn lose(&mut self, slot: u64, winner: Option<BatchId>, cx: &mut Context<Self>) {
        let Some(loser) = self.places.get(&slot).copied().filter(|&id| Some(id) != winner) else { return };
        self.places.remove(&slot);
        self.displace(loser, slot, cx);
    }

    fn displace(&mut self, loser: BatchId, slot: u64, cx: &mut Context<Self>) {
        let Some(mine) = self.mine.get_mut(&loser) else { return };
        (mine.slot, mine.ballot, mine.voted) = (None, None, ReplicaSet::EMPTY);
        cx.note(AGAIN, Some(Instance::slot(slot)));
        self.place(loser, cx);
    }

    /// This replica coordinates no longer: what waits for a slot goes elsewhere.
    pub(super) fn refuse_unplaced(&mut self, cx: &mut Context<Self>) {
        let waiting: Vec<BatchId> = self.mine.iter().filter(|(_, mine)| mine.slot.is_none()).map(|(&id, _)| id).collect();
        for id in waiting {
            self.point_elsewhere(id, cx);
        }
    }

    /// Installed state covers every slot below: what was proposed there is decided, as itself or not. Who submits it again will learn.
    pub(super) fn give_up_below(&mut self, below: u64, cx: &mut Context<Self>) {
        let rest = self.places.split_off(&below);
        let settled: BTreeMap<u64, BatchId> = std::mem::replace(&mut self.places, rest);
        for id in settled.into_values() {
            self.mine.remove(&id);
            cx.refuse(id, Refusal::Lost);
        }
    }
}
