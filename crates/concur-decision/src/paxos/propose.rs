//! Propose: a value gets a slot, and the slots below it that nobody uses are passed over.
//!
//! **Which slot.** Any replica may use any slot, at any ballot that is its own; which one it tries first is a matter of speed alone.
//! If all took the next free slot, of those that propose at once one would win and the others would have lost a round trip or two.
//! So slots have turns, round the voters: a replica tries the first slot of its turn that is *untouched* as far as it knows (nobody
//! has joined a ballot there), in round 2. The untouched slots below belong to others that may have nothing to propose, and execution
//! would wait for them: so it asks for them as well, by the same message, in round 1, to put a no-op there. Should the one whose turn
//! it is propose at the same moment, its round 2 prevails whoever comes first, and neither has lost anything; if it has been passed
//! over it takes its next turn. A busy replica is thus never held up by idle or dead ones, and an untouched group answers whoever
//! writes after two round trips.
//!
//! Who has heard no rival for its last few proposals is *alone* and takes every slot as it comes, so that no slot is wasted.
//!
//! **Who is far away.** Its turns would be over whenever its requests arrive, always. Whoever is passed over therefore reaches
//! further ahead next time, twice as far each time, until it finds its turn untouched, and comes back step by step. What lies between is
//! left to the others for a round trip, and then passed over.
//!
//! What this costs: a no-op in the log for every turn that is passed over (a few bytes, N−1 at most beside each value), and one
//! round trip more for whoever reaches ahead when the others fall silent.

use super::messages::{Message, NUMBER_MAX, Record, Stretch, push};
use super::{Lead, MOVED, Own, PASSED_OVER, Paxos};
use crate::slots::Slot;
use concur_core::{Ballot, Context, Instance, Phase, Refusal, Value};
use std::sync::Arc;

/// After so many proposals without a rival a replica is alone.
const ALONE_AFTER: u32 = 4;
/// How many turns ahead a replica reaches at most.
const REACH_MAX: u64 = 64;
/// How many slots one proposal passes over at most. Others are finished as holes.
const PASSED_MAX: u64 = 512;
/// How many slots may be known of and undecided before nothing more is taken up.
const BACKLOG_MAX: u64 = 1 << 14;

/// The round in which a slot is taken out of turn, and in which it is passed over.
pub(super) const OUT_OF_TURN: u64 = 1;
/// The round in which a replica takes its turn.
pub(super) const IN_TURN: u64 = 2;

/// What a replica goes by when it chooses slots.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub(super) struct Turns {
    /// Every slot below was touched, or is left to be finished as a hole.
    touched: u64,
    /// How many turns ahead the next proposal goes.
    pub(super) reach: u64,
    /// How many proposals were made since a rival was heard.
    alone: u32,
    /// Somebody knows everything below to be decided.
    ahead: u64,
}

impl Turns {
    /// Somebody else proposes.
    pub(super) fn heard_rival(&mut self) {
        self.alone = 0;
    }

    /// Somebody knows everything below this slot to be decided.
    pub(super) fn heard_decided(&mut self, below: u64) {
        self.ahead = self.ahead.max(below);
    }

    /// A turn was found used: the next one is tried further ahead.
    pub(super) fn lost(&mut self) {
        self.reach = (2 * self.reach).clamp(1, REACH_MAX);
    }

    /// A turn was used.
    pub(super) fn won(&mut self) {
        self.reach = self.reach.saturating_sub(1);
    }
}

impl Paxos {
    /// A batch or seal is to be decided. One that is under way, or decided and not in order yet, is not proposed again.
    pub(super) fn submit(&mut self, value: Value, cx: &mut Context<Self>) {
        let Some(id) = value.id() else { return };
        let waits = |(_, kept): (u64, &Slot)| matches!(kept, Slot::Decided(value) if value.id() == Some(id));
        if self.proposed.contains_key(&id) || self.slots.iter_from(self.slots.decided()).any(waits) {
            return;
        }
        match self.obstacle(cx) {
            Some(reason) => cx.refuse(id, reason),
            None => {
                self.moving.push_back(Arc::new(value));
                self.place(cx);
            }
        }
    }

    /// Why nothing can be proposed.
    fn obstacle(&self, cx: &Context<Self>) -> Option<Refusal> {
        if cx.config.index().is_none() {
            return Some(Refusal::Redirect(None));
        }
        let backlog = self.slots.known() - self.slots.decided();
        let full = self.proposed.len() >= cx.config.window_max.max(1) || backlog >= BACKLOG_MAX || self.slots.known() >= NUMBER_MAX / 2;
        (full || self.leaving).then_some(Refusal::Busy)
    }

    /// Gives each own value that has none a slot, and asks for it.
    pub(super) fn place(&mut self, cx: &mut Context<Self>) {
        let mut asked = Vec::new();
        while let Some(value) = self.moving.pop_front() {
            let id = value.id().expect("only what has a name is proposed");
            let slot = self.choose(cx);
            if self.turns.reach == 0 {
                self.pass_over_below(slot, &mut asked, cx);
            }
            let round = if is_turn(slot, cx) { IN_TURN } else { OUT_OF_TURN };
            self.take(slot, round, &mut asked, cx);
            self.own.insert(slot, Own { value, offered: false });
            self.proposed.insert(id, slot);
            self.turns.alone = self.turns.alone.saturating_add(1);
        }
        self.ask(asked, 0, cx);
    }

    /// Where the next own value goes.
    fn choose(&self, cx: &Context<Self>) -> u64 {
        let from = self.lowest();
        if self.turns.alone >= ALONE_AFTER {
            return from.max(self.slots.known());
        }
        let from = from + self.turns.reach * cx.config.voters().len() as u64;
        (from..).find(|&slot| is_turn(slot, cx) && self.is_untouched(slot)).expect("there is a free slot above all others")
    }

    /// Below this slot there is nothing to choose.
    fn lowest(&self) -> u64 {
        self.turns.touched.max(self.slots.decided()).max(self.turns.ahead)
    }

    /// Whether nobody has joined a ballot there, as far as is known.
    fn is_untouched(&self, slot: u64) -> bool {
        slot >= self.slots.decided() && self.slots.get(slot).is_none()
    }

    /// The untouched slots below an own one are asked for too.
    pub(super) fn pass_over_below(&mut self, slot: u64, asked: &mut Vec<Stretch>, cx: &mut Context<Self>) {
        let from = self.lowest().max(slot.saturating_sub(PASSED_MAX));
        for below in from..slot {
            if self.is_untouched(below) {
                cx.note(PASSED_OVER, Some(Instance::slot(below)));
                self.take(below, OUT_OF_TURN, asked, cx);
            }
        }
        self.turns.touched = self.turns.touched.max(slot);
    }

    /// An own value that was not put to the vote in its slot, and is not going to be, needs another one. (What was put to the vote
    /// may yet be decided there, whoever finishes it, so that it waits for the decision.)
    pub(super) fn move_on(&mut self, slot: u64, cx: &mut Context<Self>) {
        let Some(own) = self.own.remove(&slot) else { return };
        if is_turn(slot, cx) {
            self.turns.lost();
        }
        cx.note(MOVED, Some(Instance::slot(slot)));
        self.moving.push_back(own.value);
    }

    /// Takes a slot up: joins a ballot of its own there, which is persisted and asked for by [`Paxos::ask`].
    pub(super) fn take(&mut self, slot: u64, round: u64, asked: &mut Vec<Stretch>, cx: &Context<Self>) {
        let ballot = Ballot { round, owner: cx.config.me };
        assert!(ballot > self.slots.joined(slot), "a ballot is used once");
        self.slots.join(slot, ballot);
        let watch = self.watches.remove(&slot).unwrap_or_default();
        self.leads.insert(slot, Lead::new(ballot, watch.attempts));
        push(asked, slot, ballot);
    }

    /// Asks everyone to join ballots that were joined here. The own promise is a message to itself like theirs, and all of it waits
    /// for the record: a ballot is in the ledger before it is used, so that no later run uses it again (The Part-Time Parliament
    /// §2.3; Paxos Made Simple §2.5).
    pub(super) fn ask(&mut self, asked: Vec<Stretch>, attempt: u32, cx: &mut Context<Self>) {
        if asked.is_empty() {
            return;
        }
        cx.persist(Record::Joined { stretches: asked.clone() });
        cx.solicit(Phase::Prepare, attempt, Message::Prepare { stretches: asked });
        self.wake(cx);
    }
}

/// Whether a slot is this replica's turn.
pub(super) fn is_turn(slot: u64, cx: &Context<Paxos>) -> bool {
    let voters = cx.config.voters().len() as u64;
    cx.config.index().is_some_and(|index| slot % voters.max(1) == index as u64)
}
