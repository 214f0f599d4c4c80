//! Recover: ballots that came too late, and slots whose proposers fell silent.
//!
//! Two proposers that outbid each other for ever decide nothing (Paxos Made Simple §2.4). Here nobody outbids at once: a value that
//! was not put to the vote goes to another slot, where nobody is; who has put one to the vote, or finishes somebody else's slot,
//! draws a time to wait, from a span that doubles with every attempt, and then asks with a round above what it has seen.

use super::messages::{NUMBER_MAX, Refusal};
use super::propose::IN_TURN;
use super::{BACKED_OFF, Lead, Paxos, REFUSED, Stage};
use concur_core::{Context, Instance, Phase, ReplicaId};

/// How many slots one replica finishes for others at a time.
const HOLES_MAX: usize = 256;
/// How often the span from which a wait is drawn is doubled.
const DOUBLED_MAX: u32 = 6;

/// An undecided slot that this replica does not drive.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub(super) struct Watch {
    /// For how many ticks it is left to others, drawn at the first.
    wait: Option<u32>,
    /// How often this replica has tried.
    pub(super) attempts: u32,
    /// A round that somebody has joined.
    seen: u64,
}

impl Paxos {
    /// Somebody has joined higher ballots. A quorum may be found without it; if not, the slot is left alone for a while.
    pub(super) fn count_refusals(&mut self, from: ReplicaId, refusals: &[Refusal], cx: &mut Context<Self>) {
        for refusal in refusals {
            let Some(lead) = self.leads.get_mut(&refusal.slot).filter(|lead| lead.ballot == refusal.asked) else { continue };
            if refusal.joined <= lead.ballot {
                continue;
            }
            lead.refused.insert(from);
            lead.seen = lead.seen.max(refusal.joined.round);
            let phase = if let Stage::Prepare { .. } = lead.stage { Phase::Prepare } else { Phase::Accept };
            if !cx.config.quorums.is_quorum(phase, cx.config.voters().minus(lead.refused)) {
                self.give_way(refusal.slot, cx);
            }
        }
    }

    /// Leaves a slot to whoever has outbid this replica there.
    pub(super) fn give_way(&mut self, slot: u64, cx: &mut Context<Self>) {
        let Some(Lead { attempts, seen, hole, .. }) = self.leads.remove(&slot) else { return };
        cx.note(REFUSED, Some(Instance::slot(slot)));
        let own = self.own.get(&slot).map(|own| own.offered);
        let mut watch = Watch { wait: None, attempts: attempts.saturating_add(1), seen };
        if own == Some(true) || hole {
            cx.note(BACKED_OFF, Some(Instance::slot(slot)));
            watch.wait = Some(1 + cx.rng.below(1 << watch.attempts.min(DOUBLED_MAX)) as u32);
        }
        self.watches.insert(slot, watch);
        if own == Some(false) {
            self.move_on(slot, cx);
        }
        self.wake(cx);
    }

    /// Waits a tick more for what others drive, and takes up what has waited long enough.
    pub(super) fn suspect(&mut self, cx: &mut Context<Self>) {
        let driven = self.leads.values().filter(|lead| lead.hole).count();
        let holes: Vec<u64> = self.slots.holes().filter(|slot| !self.leads.contains_key(slot)).take(HOLES_MAX).collect();
        let (mut asked, mut attempt, mut taken) = (Vec::new(), 0, driven);
        for slot in holes {
            let patience = self.patience(slot, cx);
            let watch = self.watches.entry(slot).or_default();
            let wait = watch.wait.get_or_insert(patience);
            *wait = wait.saturating_sub(1);
            let round = self.slots.joined(slot).round.max(watch.seen).max(IN_TURN) + 1;
            if *wait == 0 && taken < HOLES_MAX && round < NUMBER_MAX {
                let attempts = watch.attempts;
                taken += 1;
                attempt = attempt.max(attempts);
                self.take(slot, round, &mut asked, cx);
                let hole = !self.own.contains_key(&slot);
                self.leads.get_mut(&slot).expect("taken up above").hole = hole;
            }
        }
        self.ask(asked, attempt, cx);
    }

    /// For how many ticks a slot is left to whoever proposes there: an election timeout if that one seems to live, and some more so
    /// that not all take it up at once.
    fn patience(&mut self, slot: u64, cx: &mut Context<Self>) -> u32 {
        let joined = self.slots.joined(slot);
        let election = self.election_ticks(cx);
        let own = joined.owner == cx.config.me && joined.round > 0;
        let gone = joined.round > 0 && (self.peers.is_down(joined.owner) || !self.peers.lives(joined.owner, election));
        let waits = if own || gone { 0 } else { election };
        1 + waits + *self.stagger.get_or_insert_with(|| cx.rng.below(u64::from(election) + 1) as u32)
    }

    /// Nobody else will finish what a peer began that is probably gone.
    pub(super) fn suspect_what_is_left_of(&mut self, gone: ReplicaId, cx: &mut Context<Self>) {
        let soon = 1 + cx.rng.below(u64::from(self.election_ticks(cx) / 2) + 1) as u32;
        for (&slot, watch) in &mut self.watches {
            if self.slots.joined(slot).owner == gone {
                watch.wait = watch.wait.map(|wait| wait.min(soon));
            }
        }
    }
}
