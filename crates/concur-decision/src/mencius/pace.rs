//! Pace: the heartbeat, by which everything that may have been lost is sent again, asked for, suspected or given up. It beats while
//! anything is undecided, read, or not known by all, and rests when nothing is.

use super::recover::Stage;
use super::{AHEAD, Lead, Mencius, Message, Span, Timer, Watch, ZERO};
use crate::slots::Learn;
use concur_core::{Context, ReplicaId, ReplicaSet, Ticket, Value};

impl Mencius {
    /// Starts the heartbeat if it rests.
    pub(super) fn wake(&mut self, cx: &mut Context<Self>) {
        if self.place.is_some() && !std::mem::replace(&mut self.ticking, true) {
            cx.arm(Timer::Tick, cx.config.heartbeat);
        }
    }

    /// One beat.
    pub(super) fn tick(&mut self, cx: &mut Context<Self>) {
        self.ticking = false;
        if self.place.is_none() {
            return;
        }
        self.peers.tick();
        self.fetch_what_is_forgotten(cx);
        self.catch_up(cx);
        self.watch(cx);
        self.send_again(cx);
        self.review_reads(cx);
        if !self.is_busy() {
            return;
        }
        self.say_how_far(cx);
        self.wake(cx);
    }

    fn is_busy(&self) -> bool {
        let decided = self.slots.decided();
        let driven = !self.leads.is_empty() || !self.revocations.is_empty() || !self.reads.is_empty();
        driven || decided < self.used || self.fetch.is_some() || !self.unheard.is_empty() || !self.peers.all_know(decided)
    }

    /// Tells the others how far this replica is. Those that may lack something and say nothing are asked, and have to answer.
    fn say_how_far(&self, cx: &mut Context<Self>) {
        let decided = self.slots.decided();
        let asked = self.peers.silent(2).intersection(self.peers.unaware(decided)).union(self.unheard);
        self.say(cx.config.others().minus(asked), Learn::Summary { decided, known: self.used }, cx);
        self.say(asked, Learn::Ask { from: decided }, cx);
    }

    /// An election timeout, in ticks.
    pub(super) fn election_ticks(cx: &Context<Self>) -> u32 {
        let ticks = cx.config.election.as_nanos() / cx.config.heartbeat.as_nanos().max(1);
        u32::try_from(ticks).unwrap_or(u32::MAX / 8).min(u32::MAX / 8)
    }

    /// Sends again what has had no answer, more and more rarely, and in all no more than a message's worth of values a tick.
    fn send_again(&mut self, cx: &mut Context<Self>) {
        let (voters, me) = (cx.config.voters(), self.me);
        let mut bytes = 0;
        for (&slot, lead) in &mut self.leads {
            lead.ticks = lead.ticks.saturating_add(1);
            // Who has joined a higher ballot for its own slot proposes nothing there.
            if is_due(lead.ticks) && self.slots.joined(slot) == ZERO {
                if bytes > cx.config.message_bytes_max {
                    lead.ticks -= 1; // It stays due.
                    continue;
                }
                let missing = voters.minus(lead.oks).without(me);
                bytes += lead.value.size_bytes() * missing.len();
                cx.send(missing, Message::Accept { slot, value: Value::clone(&lead.value), skipped: self.unsaid.clone() });
            }
        }
        for (&place, revocation) in &mut self.revocations {
            revocation.ticks = revocation.ticks.saturating_add(1);
            let (owner, span, ballot) = (self.voters[place as usize], revocation.span, revocation.ballot);
            match &revocation.stage {
                _ if !is_due(revocation.ticks) => {}
                Stage::Prepare { answers } => {
                    let missing = voters.minus(answers.keys().copied().collect()).without(me);
                    cx.send(missing, Message::Prepare { owner, span, ballot });
                }
                Stage::Propose { stretch, oks } => {
                    cx.send(voters.minus(*oks).without(me), Message::Propose { span, ballot, stretch: stretch.clone() });
                }
            }
        }
    }

    /// Looks at each owner's first undecided slot: one that is wanted and does not move is asked for, and in the end revoked.
    fn watch(&mut self, cx: &mut Context<Self>) {
        for place in 0..self.stride() {
            let (at, owner) = (place as usize, self.voters[place as usize]);
            let open = self.open[at];
            self.revocations.retain(|&of, revocation| of != place || open < revocation.span.end);
            let watch = &mut self.watches[at];
            if watch.slot != open {
                *watch = Watch { slot: open, slow: watch.slow, ..Watch::default() };
            } else if open < self.used || self.is_used_up(owner) {
                let watch = &mut self.watches[at];
                watch.ticks = watch.ticks.saturating_add(1);
            }
            if self.revocations.contains_key(&place) {
                continue;
            }
            if open < self.used {
                self.ask_for(owner, cx);
            }
            if let Some(wait) = self.patience(owner, cx)
                && self.watches[at].ticks >= wait.saturating_add(self.delay(owner, cx))
            {
                let suspected = self.is_suspected(owner, cx);
                self.watches[at].slow |= !suspected && owner != self.me;
                self.revoke(place, self.end_of_revocation(owner), cx);
            }
        }
    }

    /// How many ticks an owner's first undecided slot may stand still before this replica finishes it; none if it need not.
    fn patience(&self, owner: ReplicaId, cx: &Context<Self>) -> Option<u32> {
        let election = Self::election_ticks(cx);
        let open = self.open[self.place_of(owner) as usize];
        if owner == self.me {
            // What a run before this one left, or a revoker that does not come to an end. What goes well goes on at ballot zero.
            let wait = match self.leads.get(&open) {
                None if self.slots.joined(open) > ZERO => Some(election),
                None => Some(2),
                Some(lead) => (!self.goes_on(open, lead)).then_some(election),
            };
            return wait.filter(|_| open < self.used.min(self.next));
        }
        match self.is_suspected(owner, cx) {
            true if open < self.used => Some(2),
            true => self.is_used_up(owner).then_some(0),
            false => (open < self.used).then_some(2 * election),
        }
    }

    /// How far a revocation goes: of another's slots, far enough ahead that the rest go on at normal latency; of the own, as far as
    /// they are not under way.
    fn end_of_revocation(&self, owner: ReplicaId) -> u64 {
        if owner != self.me {
            return self.used.saturating_add(AHEAD);
        }
        let open = self.open[self.place_of(owner) as usize];
        let going = self.leads.iter().find(|(slot, lead)| **slot > open && self.goes_on(**slot, lead)).map(|(&slot, _)| slot);
        going.unwrap_or(self.next).min(self.next)
    }

    /// Whether an own proposal goes on at ballot zero: as far as is known, nobody has joined a higher one for it, here or elsewhere.
    fn goes_on(&self, slot: u64, lead: &Lead) -> bool {
        lead.refused.is_empty() && self.slots.joined(slot) == ZERO
    }

    /// How many ticks this replica leaves it to others: the living take turns, and two that met each other wait at random.
    fn delay(&mut self, owner: ReplicaId, cx: &mut Context<Self>) -> u32 {
        let (rank, election) = (self.rank(owner, cx), u64::from(Self::election_ticks(cx).max(1)));
        let at = self.place_of(owner) as usize;
        let watch = &mut self.watches[at];
        *watch.delay.get_or_insert_with(|| {
            let backoff = if watch.attempts == 0 { 1 } else { election << watch.attempts.min(5) };
            (2 * rank + cx.rng.below(backoff + rank)).min(u64::from(u32::MAX)) as u32
        })
    }

    /// How many living voters come before this one in finishing an owner's slots; the owner itself comes first.
    fn rank(&self, owner: ReplicaId, cx: &Context<Self>) -> u64 {
        let (n, election) = (self.stride(), Self::election_ticks(cx));
        let place = self.place_of(owner);
        let mine = (self.place.unwrap_or(0) + n - place) % n;
        let before = (1..mine).map(|step| self.voters[((place + step) % n) as usize]);
        before.filter(|&id| self.peers.lives(id, election)).count() as u64
    }

    /// Whether an owner seems to be gone: silent, its connection broken, or known to be slow.
    pub(super) fn is_suspected(&self, owner: ReplicaId, cx: &Context<Self>) -> bool {
        let gone = self.peers.is_down(owner) || !self.peers.lives(owner, Self::election_ticks(cx));
        owner != self.me && (gone || self.watches[self.place_of(owner) as usize].slow)
    }

    /// Whether an owner's slots are revoked ahead of what is used, and half of them are used up.
    fn is_used_up(&self, owner: ReplicaId) -> bool {
        let open = self.open[self.place_of(owner) as usize];
        open >= self.used.saturating_add(self.stride()) && open < self.used.saturating_add(AHEAD / 2)
    }

    /// More slots are used: who is gone is revoked further ahead, by the first of the living at once.
    pub(super) fn renew_revocations(&mut self, cx: &mut Context<Self>) {
        for place in 0..self.stride() {
            let owner = self.voters[place as usize];
            let due = self.is_used_up(owner) && self.is_suspected(owner, cx) && !self.revocations.contains_key(&place);
            if due && self.rank(owner, cx) == 0 {
                self.revoke(place, self.end_of_revocation(owner), cx);
            }
        }
    }

    /// Asks for an owner's slots that are wanted and have not moved: first the owner, which skips what it has not used, then
    /// everyone.
    fn ask_for(&self, owner: ReplicaId, cx: &mut Context<Self>) {
        let at = self.place_of(owner) as usize;
        let span = Span { from: self.open[at], end: self.used };
        let going = self.leads.get(&span.from).is_some_and(|lead| self.goes_on(span.from, lead));
        let to = match self.watches[at].ticks {
            _ if going => ReplicaSet::EMPTY,
            1 if owner != self.me && !self.peers.is_down(owner) => ReplicaSet::one(owner),
            ticks if ticks == 1 || is_due(ticks) => cx.config.others(),
            _ => ReplicaSet::EMPTY,
        };
        cx.send_after(Ticket(0), to, Message::Want { owner, span }); // It promises nothing.
    }

    /// Asks every owner for what this replica waits for, at once.
    pub(super) fn ask_for_all(&self, cx: &mut Context<Self>) {
        for (&owner, &open) in self.voters.iter().zip(&self.open) {
            if open < self.used && owner != self.me {
                let span = Span { from: open, end: self.used };
                cx.send_after(Ticket(0), ReplicaSet::one(owner), Message::Want { owner, span }); // It promises nothing.
            }
        }
    }
}

/// Whether something that was heard of so many ticks ago is sent again in this one.
fn is_due(ticks: u32) -> bool {
    ticks >= 2 && (ticks.is_power_of_two() || ticks.is_multiple_of(16))
}
