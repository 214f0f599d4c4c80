//! Phase 1 for every slot from the first undecided one on: promises, and the votes that come with them, a message's worth at a time.
//!
//! Voters below whose first undecided slot others know more say so: what lies below it is decided and is learned, not voted on. So
//! a voter that forgot decided slots answers correctly.

use super::choose::Cast;
use super::{BACKLOG_MAX, FastPaxos, Message, Reported, Role, is_main, one};
use crate::slots::{Kept, Learn, Slot, Vote};
use concur_core::{Ballot, Context, Phase, ReplicaId, ReplicaSet, Ticket, Time, Value};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Asks for promises.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Preparing {
    /// The record of its own promise.
    pub(super) ticket: Ticket,
    /// For how many ticks its rounds stay classic, if it closes a fast round of its own.
    pub(super) closing: Option<u32>,
    /// From which slot on each voter that answered is asked next.
    asked: BTreeMap<ReplicaId, u64>,
    /// The first slot asked about.
    from: u64,
    /// Who has told everything.
    pub(super) complete: ReplicaSet,
    /// What each voter that answered knows to be decided below: of that it reports nothing.
    below: BTreeMap<ReplicaId, u64>,
    /// The last votes, and one past the last slot that has any or is decided.
    pub(super) votes: BTreeMap<u64, BTreeMap<ReplicaId, (Ballot, Arc<Value>)>>,
    pub(super) end: u64,
    /// When it began, or a voter told something last.
    progressed: Time,
}

impl Preparing {
    /// Everything below is decided, and some of those who told everything told nothing of it.
    pub(super) fn below(&self) -> u64 {
        self.complete.iter().filter_map(|id| self.below.get(&id)).copied().max().unwrap_or(0)
    }

    /// The votes in a slot, by the names of the values.
    pub(super) fn casts(&self, slot: u64) -> BTreeMap<ReplicaId, Cast> {
        let votes = self.votes.get(&slot).into_iter().flatten();
        votes.map(|(&voter, (ballot, value))| (voter, (*ballot, value.id()))).collect()
    }
}

impl FastPaxos {
    /// Begins phase 1 at the next ballot of its own. The promise of this replica is durable before anybody hears of the ballot, so that
    /// no later run uses it again.
    pub(super) fn prepare(&mut self, closing: Option<u32>, cx: &mut Context<Self>) {
        let ballot = Ballot { round: self.next_round(), owner: self.me };
        if !is_main(ballot) {
            return; // The rounds are used up.
        }
        let ticket = self.promise(ballot, None, cx);
        let from = self.slots.decided();
        self.role = Role::Preparing(Box::new(Preparing {
            ticket,
            closing,
            asked: BTreeMap::new(),
            from,
            complete: ReplicaSet::EMPTY,
            below: BTreeMap::new(),
            votes: BTreeMap::new(),
            end: from,
            progressed: cx.now,
        }));
        cx.send(cx.config.voters(), Message::Prepare { ballot, from });
        self.wake(cx);
    }

    /// Asks again those who have not told everything; gives up once nobody has told anything for two election timeouts. For how long
    /// all takes says nothing: where values are large and slots many it takes many messages, and whoever begins again asks for all
    /// of them again.
    pub(super) fn prepare_again(&mut self, cx: &mut Context<Self>) {
        let Role::Preparing(preparing) = &self.role else { return };
        if cx.now.since(preparing.progressed) >= cx.config.election * 2 {
            return self.give_way(cx);
        }
        let ballot = self.promised;
        for id in cx.config.voters().minus(preparing.complete).iter() {
            let from = preparing.asked.get(&id).copied().unwrap_or(preparing.from);
            cx.send_after(preparing.ticket, one(id), Message::Prepare { ballot, from });
        }
    }

    /// A promise is asked for. It must not be lower than what was joined for any slot.
    pub(super) fn asked_to_promise(&mut self, from: ReplicaId, ballot: Ballot, slot: u64, cx: &mut Context<Self>) {
        let highest = self.promised.max(self.highest_joined());
        if ballot < highest {
            return cx.send(one(from), Message::Refused { ballot: highest });
        }
        self.follow(ballot, cx);
        let below = self.slots.decided();
        let (to, slots) = self.report(slot.max(below), cx.config.message_bytes_max);
        cx.send(one(from), Message::Promised { ballot, from: slot, below, to: to.max(slot + 1), slots });
    }

    fn highest_joined(&self) -> Ballot {
        let joined = self.slots.iter_from(self.slots.decided()).map(|(_, kept)| match kept {
            Slot::Open { joined, .. } => *joined,
            Slot::Decided(_) => Ballot::default(),
        });
        joined.max().unwrap_or_default()
    }

    /// The votes and decisions from a slot on, as much as one message carries, and where the next begins.
    fn report(&self, from: u64, bytes_max: usize) -> (u64, Vec<Reported>) {
        let (mut out, mut bytes) = (Vec::new(), 0);
        for (slot, kept) in self.slots.iter_from(from) {
            let kept = match kept {
                Slot::Open { vote: None, .. } => continue,
                Slot::Open { joined, vote: Some((ballot, value)) } => {
                    Kept::Open { joined: *joined, vote: Some(Vote { ballot: *ballot, value: Value::clone(value) }) }
                }
                Slot::Decided(value) => Kept::Decided { value: Value::clone(value) },
            };
            bytes += 32 + size_bytes(&kept);
            if !out.is_empty() && bytes > bytes_max {
                return (slot, out);
            }
            out.push(Reported { slot, kept });
        }
        (u64::MAX, out)
    }

    /// A voter promised, and told what it has from one slot up to another.
    pub(super) fn count_promise(
        &mut self,
        from: ReplicaId,
        ballot: Ballot,
        [slot, below, to]: [u64; 3],
        slots: Vec<Reported>,
        cx: &mut Context<Self>,
    ) {
        let Role::Preparing(preparing) = &mut self.role else { return };
        let expected = *preparing.asked.entry(from).or_insert(preparing.from);
        // Nobody votes far beyond what was decided, so that no two votes lie far apart; how many there are depends on how much is durable.
        let mut near = below.max(slot);
        let far = slots.iter().any(|reported| reported.slot.saturating_sub(std::mem::replace(&mut near, reported.slot)) > BACKLOG_MAX * 2);
        if ballot != self.promised || slot != expected || preparing.complete.contains(from) || far {
            return;
        }
        preparing.asked.insert(from, to);
        preparing.progressed = cx.now;
        let known = preparing.below.entry(from).or_default();
        *known = below.max(*known);
        let mut decided = Vec::new();
        for Reported { slot, kept } in slots {
            preparing.end = preparing.end.max(slot + 1);
            match kept {
                Kept::Open { vote, .. } => {
                    let vote = vote.map(|vote| (vote.ballot, Arc::new(vote.value)));
                    preparing.votes.entry(slot).or_default().extend(vote.map(|vote| (from, vote)));
                }
                Kept::Decided { value } => decided.push((slot, Arc::new(value))),
            }
        }
        if to == u64::MAX {
            preparing.complete.insert(from);
        } else {
            cx.send_after(preparing.ticket, one(from), Message::Prepare { ballot, from: to });
        }
        let enough = cx.config.quorums.is_quorum(Phase::Prepare, preparing.complete);
        for (slot, value) in decided {
            self.decided(slot, value, cx);
        }
        if below > self.slots.decided() {
            self.ask(one(from), cx);
        }
        if enough {
            self.lead(cx);
        }
    }

    /// Asks what is decided from the first slot on that is not known to be. A question promises nothing.
    pub(super) fn ask(&mut self, to: ReplicaSet, cx: &mut Context<Self>) {
        self.asked = true;
        cx.send_after(Ticket(0), to, Message::Learn(Learn::Ask { from: self.slots.decided() }));
    }
}

fn size_bytes(kept: &Kept) -> usize {
    match kept {
        Kept::Open { vote, .. } => vote.as_ref().map_or(0, |vote| vote.value.size_bytes()),
        Kept::Decided { value } => value.size_bytes(),
    }
}
