//! The coordinator: what it does once a quorum has promised, and when its ballot is classic and when fast.
//!
//! One ballot is classic for the slots below some `k` and fast from `k` on. So a coordinator returns to fast rounds by saying "any" for
//! the slots that it has not used at its ballot, which takes no phase 1; to fall back it needs a new ballot, and phase 1.

use super::choose::choose;
use super::collide::Tally;
use super::{
    CLOSED_FOR_SEAL, ELECTED, FELL_BACK, FastPaxos, HOLE, Message, Progress, RESIGNED, RETURNED, Role, elect::election_ticks, one,
};
use crate::slots::Slot;
use concur_core::{Ballot, Context, Instance, Phase, ReplicaId, ReplicaSet, Ticket, Value};
use std::collections::BTreeMap;
use std::sync::Arc;

/// What a slot that needed recovery weighs, against 1 for one that did not.
const RECOVERY_WEIGHS: u32 = 4;
/// From this weight on the coordinator falls back: four recoveries in a row, or more than a fifth of all slots for a while.
const WEIGHT_MAX: u32 = 16;
/// After how many fast decisions in a row earlier collisions are forgiven.
const FORGIVEN_AFTER: u32 = 64;
/// For how many ticks rounds stay classic the first time; twice as long each further time, up to 16 times.
const CALM_TICKS: u32 = 4;
const RELAPSES_MAX: u32 = 4;
/// How many holes are filled in one tick.
const HOLES_MAX: usize = 256;

/// Coordinates.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Leading {
    /// The record of its promise: whatever it says under its ballot may leave once that is durable, since a later run, which has
    /// forgotten what this one said, uses a higher ballot.
    pub(super) ticket: Ticket,
    /// Everything below was decided when it was elected, whether it is known here as what or not.
    pub(super) first: u64,
    /// The first slot that it has not used at its ballot, while that is classic.
    pub(super) next: u64,
    /// From where on it is fast.
    pub(super) fast: Option<u64>,
    /// The undecided slots that it works on.
    pub(super) tallies: BTreeMap<u64, Tally>,
    /// Fast slots that wait for votes: since patience last ran out, and before that.
    pub(super) young: Vec<u64>,
    pub(super) old: Vec<u64>,
    /// Who durably knows how slots are used at its ballot.
    followed: ReplicaSet,
    /// For how many ticks its own disk has not answered.
    unheard: u32,
    /// For how many ticks it has learned nothing of what it lacks below `first`, and how much it knew before.
    pub(super) unlearned: u32,
    learned: u64,
    /// How much recent recoveries weigh, and how many fast decisions came since the last.
    weight: u32,
    calm_decisions: u32,
    /// For how many ticks its rounds stay classic.
    calm: u32,
}

impl Leading {
    /// Nothing is under way yet at a ballot.
    pub(super) fn new(ticket: Ticket, first: u64, next: u64, calm: u32) -> Self {
        Self {
            ticket,
            first,
            next,
            fast: None,
            tallies: BTreeMap::new(),
            young: Vec::new(),
            old: Vec::new(),
            followed: ReplicaSet::EMPTY,
            unheard: 0,
            unlearned: 0,
            learned: 0,
            weight: 0,
            calm_decisions: 0,
            calm,
        }
    }
}

impl FastPaxos {
    /// Leads the first ballot of an epoch, which everybody knows, and promised when entering.
    pub(super) fn lead_first(&mut self, ticket: Ticket, cx: &mut Context<Self>) {
        assert!(self.slots.known() == 0 && self.promised.owner == self.me, "nothing was ever voted for");
        let leading = Leading { fast: self.fast, followed: cx.config.others(), ..Leading::new(ticket, 0, 0, 0) };
        self.role = Role::Leading(Box::new(leading));
    }

    /// Leads the ballot that a quorum has promised: what was reported is put to the vote, and later slots are open to all.
    pub(super) fn lead(&mut self, cx: &mut Context<Self>) {
        let Role::Preparing(preparing) = std::mem::replace(&mut self.role, Role::Follower) else { return };
        let first = preparing.below().max(self.slots.decided());
        let end = preparing.end.max(first);
        self.role = Role::Leading(Box::new(Leading::new(preparing.ticket, first, end, preparing.closing.unwrap_or(0))));
        if preparing.closing.is_none() {
            cx.note(ELECTED, None);
        }
        self.slots.hear_of(end);
        let undecided: Vec<u64> = (first..end).filter(|&slot| !self.slots.is_decided(slot)).collect();
        for slot in undecided {
            let picked = choose(&cx.config.quorums, preparing.complete, &preparing.casts(slot));
            let votes = preparing.votes.get(&slot).into_iter().flat_map(|votes| votes.values());
            let value = picked.and_then(|id| votes.map(|(_, value)| value).find(|value| value.id() == id).cloned());
            if value.is_none() {
                cx.note(HOLE, Some(Instance::slot(slot)));
            }
            self.put_to_vote(slot, self.promised, value.unwrap_or_else(|| Arc::new(Value::Noop)), cx);
        }
        if self.may_open(cx) {
            self.open(cx);
        } else {
            self.show(cx.config.others(), cx);
        }
        self.place_all(cx);
        self.wake(cx);
    }

    /// Whether the ballot, which is classic, may be opened: a fast quorum seems to live, things have been calm for long enough, and no
    /// seal is on its way.
    pub(super) fn may_open(&self, cx: &Context<Self>) -> bool {
        let Role::Leading(leading) = &self.role else { return false };
        let few = self.slots.known().saturating_sub(leading.next) <= HOLES_MAX as u64;
        leading.calm == 0 && few && self.will_open() && self.fast_quorum_lives(cx)
    }

    /// Whether the ballot will be opened as soon as things are calm.
    pub(super) fn will_open(&self) -> bool {
        matches!(&self.role, Role::Leading(leading) if leading.fast.is_none()) && self.may_be_fast && !self.seal_is_open()
    }

    fn seal_is_open(&self) -> bool {
        let waits = self.mine.values().any(|mine| mine.value.is_seal());
        waits
            || self.proposes_seal()
            || self.slots.iter_from(self.slots.decided().saturating_sub(1)).any(|(_, kept)| match kept {
                Slot::Open { vote, .. } => vote.as_ref().is_some_and(|(_, value)| value.is_seal()),
                Slot::Decided(value) => value.is_seal(),
            })
    }

    fn fast_quorum_lives(&self, cx: &Context<Self>) -> bool {
        cx.config.quorums.is_quorum(Phase::Fast, self.living(cx))
    }

    /// The voters that seem to live, this replica included.
    pub(super) fn living(&self, cx: &Context<Self>) -> ReplicaSet {
        let ticks = election_ticks(cx);
        cx.config.voters().iter().filter(|&id| id == self.me || self.peers.lives(id, ticks)).collect()
    }

    /// Says "any" for every slot that was not used at this ballot. Those that somebody has used at another are settled first.
    fn open(&mut self, cx: &mut Context<Self>) {
        self.fill_used(HOLES_MAX, cx);
        let Role::Leading(leading) = &mut self.role else { return };
        assert!(leading.fast.is_none(), "one \"any\" a ballot");
        leading.fast = Some(leading.next);
        leading.followed = ReplicaSet::EMPTY;
        let next = leading.next;
        self.promise(self.promised, Some(next), cx);
        self.show(cx.config.others(), cx);
        self.place_all(cx);
    }

    /// Shows that this replica coordinates, and how.
    pub(super) fn show(&self, to: ReplicaSet, cx: &mut Context<Self>) {
        let Role::Leading(leading) = &self.role else { return };
        let lead = Message::Lead { ballot: self.promised, fast: leading.fast, progress: self.progress() };
        cx.send_after(leading.ticket, to, lead);
    }

    /// The coordinator shows itself.
    pub(super) fn led(&mut self, from: ReplicaId, ballot: Ballot, fast: Option<u64>, said: Progress, cx: &mut Context<Self>) {
        if ballot < self.promised {
            let ballot = self.promised;
            return cx.send(one(from), Message::Refused { ballot });
        }
        self.follow(ballot, cx);
        self.learn_fast(ballot, fast, cx);
        self.learn_progress(from, said, cx);
        let (fast, progress) = (self.fast, self.progress());
        cx.send(one(from), Message::Followed { ballot, fast, progress });
    }

    /// A ballot that is promised here is fast from some slot on: true for ever, whoever says so.
    pub(super) fn learn_fast(&mut self, ballot: Ballot, fast: Option<u64>, cx: &mut Context<Self>) {
        if ballot == self.promised && self.fast.is_none() && fast.is_some() {
            self.promise(ballot, fast, cx);
            self.propose_again(cx);
        }
    }

    /// A voter follows.
    pub(super) fn followed(&mut self, from: ReplicaId, ballot: Ballot, fast: Option<u64>, said: Progress, cx: &mut Context<Self>) {
        let current = ballot == self.promised;
        if let Role::Leading(leading) = &mut self.role
            && current
            && fast == leading.fast
        {
            leading.followed.insert(from);
        }
        self.learn_progress(from, said, cx);
    }

    /// Whether somebody may not know how slots are used, or things are not calm yet.
    pub(super) fn leads_busily(&self, cx: &Context<Self>) -> bool {
        let Role::Leading(leading) = &self.role else { return false };
        !leading.tallies.is_empty() || self.will_open() || !cx.config.others().is_subset(leading.followed)
    }

    /// A tick of a coordinator's: whether it still can do its work, what has to be sent again, and which rounds are in place.
    pub(super) fn coordinate(&mut self, cx: &mut Context<Self>) {
        let living = self.living(cx);
        let Role::Leading(leading) = &mut self.role else { return };
        leading.unheard += 1;
        leading.calm = leading.calm.saturating_sub(1);
        // A message to oneself is held until everything before it is durable, so that silence from oneself is a stalled disk.
        let stalls = leading.unheard > election_ticks(cx) + 1;
        if stalls || !cx.config.quorums.is_quorum(Phase::Prepare, living) {
            cx.note(RESIGNED, None);
            return self.give_way(cx);
        }
        cx.send(one(self.me), Message::Echo { ballot: self.promised });
        self.show(cx.config.others(), cx);
        if self.closes_for_lack(cx) {
            return;
        }
        if self.asks_again_below(cx) {
            return;
        }
        self.tally_again(cx);
        self.fill_used(HOLES_MAX, cx);
        self.watch_fast_holes(HOLES_MAX, cx);
        if self.may_open(cx) {
            cx.note(RETURNED, None);
            self.open(cx);
        }
    }

    pub(super) fn hear_echo(&mut self, from: ReplicaId, ballot: Ballot) {
        let current = from == self.me && ballot == self.promised;
        if let Role::Leading(leading) = &mut self.role
            && current
        {
            leading.unheard = 0;
        }
    }

    /// Closes the fast round if too much of it had to be recovered, or too few live for it.
    fn closes_for_lack(&mut self, cx: &mut Context<Self>) -> bool {
        let lives = self.fast_quorum_lives(cx);
        let Role::Leading(leading) = &self.role else { return false };
        if leading.fast.is_none() || (lives && leading.weight < WEIGHT_MAX) {
            return false;
        }
        if lives {
            self.relapses = (self.relapses + 1).min(RELAPSES_MAX);
        }
        cx.note(FELL_BACK, None);
        self.prepare(Some(CALM_TICKS << self.relapses), cx);
        true
    }

    /// Prepares once more if those who knew what is decided below `first` are gone, and perhaps have forgotten it: nobody works on
    /// those slots, and the votes that decided them are reported by others.
    fn asks_again_below(&mut self, cx: &mut Context<Self>) -> bool {
        let (decided, patience) = (self.slots.decided(), 2 * election_ticks(cx) + 1);
        let Role::Leading(leading) = &mut self.role else { return false };
        if decided >= leading.first {
            return false;
        }
        leading.unlearned = if decided > leading.learned { 0 } else { leading.unlearned + 1 };
        leading.learned = decided;
        if leading.unlearned <= patience {
            return false;
        }
        let calm = leading.calm;
        self.prepare(Some(calm), cx);
        true
    }

    /// Closes the fast round, since a seal never travels in one.
    pub(super) fn close_for_seal(&mut self, cx: &mut Context<Self>) {
        cx.note(CLOSED_FOR_SEAL, None);
        self.prepare(Some(0), cx);
    }

    /// Slots that somebody has used in vain are settled with nothing, while the ballot is classic: no value was sent for them at
    /// it, and phase 1 found no vote.
    fn fill_used(&mut self, most: usize, cx: &mut Context<Self>) {
        for _ in 0..most {
            let known = self.slots.known();
            let Role::Leading(leading) = &mut self.role else { return };
            if leading.fast.is_some() || leading.next >= known {
                return;
            }
            let slot = leading.next;
            leading.next += 1;
            if !self.slots.is_decided(slot) {
                cx.note(HOLE, Some(Instance::slot(slot)));
                self.put_to_vote(slot, self.promised, Arc::new(Value::Noop), cx);
            }
        }
    }

    /// The next undecided slot of a classic ballot, which is used up.
    pub(super) fn next_classic(&mut self) -> Option<u64> {
        let known = self.slots.known();
        let Role::Leading(leading) = &mut self.role else { return None };
        if leading.fast.is_some() {
            return None;
        }
        // What somebody decided at a higher ballot, of which this replica has not heard yet, is no place for a value.
        let mut slot = leading.next;
        while self.slots.is_decided(slot) {
            slot += 1;
        }
        leading.next = slot + 1;
        self.slots.hear_of(known.max(slot + 1));
        Some(slot)
    }

    /// A slot was decided that a coordinator worked on.
    pub(super) fn weigh_decision(&mut self, slot: u64) {
        let Role::Leading(leading) = &mut self.role else { return };
        leading.tallies.remove(&slot);
        if leading.fast.is_none_or(|fast| slot < fast) {
            return;
        }
        leading.weight = leading.weight.saturating_sub(1);
        leading.calm_decisions += 1;
        if leading.calm_decisions >= FORGIVEN_AFTER {
            self.relapses = 0;
        }
    }

    /// A slot of the fast round needed recovery.
    pub(super) fn weigh_recovery(&mut self) {
        let Role::Leading(leading) = &mut self.role else { return };
        leading.weight = (leading.weight + RECOVERY_WEIGHS).min(2 * WEIGHT_MAX);
        leading.calm_decisions = 0;
    }
}
