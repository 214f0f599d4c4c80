//! Learn: what was missed is asked for, slot by slot where something is waited for, by the stretch when this replica lags, and by
//! state where it is forgotten.

use super::{LEARNED, Mencius, Message, Span};
use crate::slots::Learn;
use concur_core::{Context, Frontier, Instance, LaneId, Refusal, ReplicaId, ReplicaSet, Ticket};
use std::cmp::Ordering;

impl Mencius {
    /// Execution waits for a slot. If values stand behind it, it is being asked for; if not, nobody needs it.
    pub(super) fn want(&mut self, instance: Instance, cx: &mut Context<Self>) {
        if instance.number < self.used {
            self.wake(cx);
        }
    }

    /// A peer waits for slots of an owner: own free ones are skipped, and what is decided is told.
    pub(super) fn wanted(&mut self, from: ReplicaId, owner: ReplicaId, span: Span, cx: &mut Context<Self>) {
        if span.end <= self.reach() {
            self.hear_of(span.end, cx);
        }
        self.tell(from, owner, span, cx);
    }

    /// A peer says how far it is, asks, or answers. The slots below what it knows to be decided need no skip of this replica's.
    pub(super) fn learn(&mut self, from: ReplicaId, said: Learn, [next, floor]: [u64; 2], cx: &mut Context<Self>) {
        let (decided, known) = match &said {
            Learn::Summary { decided, known } => (*decided, *known),
            Learn::Told { decided, .. } => (*decided, 0),
            Learn::Ask { from } => (*from, 0),
            Learn::Forgotten { below } => (*below, 0),
        };
        if matches!(&said, Learn::Told { first, .. } if *first > self.slots.decided()) {
            return; // Asked for when this replica was farther: in another run.
        }
        let asked = matches!(said, Learn::Ask { .. });
        let forgotten = matches!(said, Learn::Forgotten { .. });
        self.floors.entry(from).and_modify(|known| *known = floor.max(*known));
        self.pass_decided(decided.min(self.reach()));
        self.hear_of(known, cx);
        let lesson = self.peers.take(from, said, &mut self.slots, cx.config.message_bytes_max);
        for (slot, value) in &lesson.decided {
            cx.note(LEARNED, Some(Instance::slot(*slot)));
            self.settled(*slot, value, cx);
        }
        let answer = lesson.answer.or(asked.then_some(Learn::Summary { decided: self.slots.decided(), known: self.used }));
        if let Some(said) = answer {
            self.say(ReplicaSet::one(from), said, cx);
        }
        if let Some(below) = lesson.fetch {
            self.fetch = Some((from, below));
        }
        if forgotten {
            self.begin_above(decided, cx);
        }
        self.warn(from, next, cx);
        self.forget(cx);
        if self.is_behind(decided) {
            self.wake(cx);
        }
    }

    fn is_behind(&self, decided: u64) -> bool {
        self.fetch.is_some() || decided > self.slots.decided() || !self.peers.all_know(self.slots.decided())
    }

    /// A peer would propose next where its slots were revoked: it is told of all that are.
    fn warn(&self, peer: ReplicaId, next: u64, cx: &mut Context<Self>) {
        let ahead = next >= self.slots.decided() && next < self.reach() && self.owner(next) == peer;
        if ahead && self.slots.is_decided(next) {
            self.tell(peer, peer, Span { from: next, end: u64::MAX }, cx);
        }
    }

    /// Everything below is decided, somewhere: no own slot there is used any more.
    fn pass_decided(&mut self, decided: u64) {
        if let Some(place) = self.place {
            self.next = self.next.max(self.first_of(place, decided));
            self.pass_taken();
        }
    }

    /// Asks whoever knows most, if this replica stands still and somebody knows more.
    pub(super) fn catch_up(&mut self, cx: &mut Context<Self>) {
        let decided = self.slots.decided();
        let before = std::mem::replace(&mut self.decided_before, decided);
        if before == decided
            && let Some(id) = self.peers.fullest(decided)
        {
            self.say(ReplicaSet::one(id), Learn::Ask { from: decided }, cx);
        }
    }

    /// Fetches state from whoever has forgotten what is still lacked.
    pub(super) fn fetch_what_is_forgotten(&mut self, cx: &mut Context<Self>) {
        if let Some((from, below)) = self.fetch.take()
            && below > self.slots.decided()
        {
            cx.fetch(from, Frontier::slots(cx.config.epoch, below));
        }
    }

    /// State came from a peer and is durable: it stands for everything below.
    pub(super) fn installed(&mut self, frontier: &Frontier, cx: &mut Context<Self>) {
        if frontier.epoch != cx.config.epoch || !self.slots.cover(frontier.below(LaneId(0))) {
            return;
        }
        let below = self.slots.decided();
        let rest = self.leads.split_off(&below);
        for lead in std::mem::replace(&mut self.leads, rest).into_values() {
            if let Some(id) = lead.value.id() {
                // It was decided and executed elsewhere, as itself or not; which of the two, who submits it again will learn.
                self.proposed.remove(&id);
                cx.refuse(id, Refusal::Lost);
            }
        }
        self.revocations.retain(|_, revocation| revocation.span.from >= below);
        self.use_up_to(self.slots.base(), cx);
        for place in 0..self.stride() {
            self.advance(place);
        }
        self.pass_decided(self.slots.decided());
        self.wake(cx);
    }

    /// Everything below the frontier is executed durably here.
    pub(super) fn raise_floor(&mut self, frontier: &Frontier, cx: &mut Context<Self>) {
        match frontier.epoch.cmp(&cx.config.epoch) {
            Ordering::Less => {}
            Ordering::Equal => {
                self.floor = self.floor.max(frontier.below(LaneId(0)));
                self.forget(cx);
            }
            // Nobody is waited for in an epoch that is over.
            Ordering::Greater => self.slots.forget(self.slots.decided(), cx.config.retained_bytes_max),
        }
    }

    /// What is executed durably here is kept only for replicas that lag: not what all voters have executed durably; beyond the bytes
    /// allowed, only what one that lives has not learned; and of that no more than four times as much, or a message.
    fn forget(&mut self, cx: &Context<Self>) {
        let ticks = Self::election_ticks(cx);
        let all = self.floors.values().copied().min().unwrap_or(u64::MAX);
        let living = self.peers.known_to_all(|id| self.peers.lives(id, ticks));
        let most = cx.config.retained_bytes_max;
        let held = most.saturating_mul(4).max(cx.config.message_bytes_max);
        self.slots.forget_but(self.floor, most, [all, living], held);
    }

    /// Says something of what is decided or executed durably, which no restart contradicts, or asks, which promises nothing.
    pub(super) fn say(&self, to: ReplicaSet, said: Learn, cx: &mut Context<Self>) {
        cx.send_after(Ticket(0), to, Message::Learn { said, next: self.next, floor: self.floor });
    }

    /// A connection works again: its end may lack something.
    pub(super) fn peer_up(&mut self, id: ReplicaId, cx: &mut Context<Self>) {
        self.peers.hint(id, false);
        if self.place.is_some() && self.voters.contains(&id) && id != self.me {
            self.say(ReplicaSet::one(id), Learn::Summary { decided: self.slots.decided(), known: self.used }, cx);
        }
    }
}
