//! Changing the view (§4.2): wishes, promises, and the log that the next view begins with.
//!
//! A wish binds nobody. A promise does: it is durable before it is told, and whoever made it takes nothing of earlier views any more.
//! Everything that was decided in one is held, durably, by a quorum whose replicas had that view's whole log, and one of them is
//! among those who promise; so the best log of a quorum, by the last view held in full and then by length, has all of it.

use super::{
    Entry, Gather, HANDED_OVER, JOINED, Message, PROMISED, Primary, Record, Role, STARTED, SUFFIX_CUT, SUSPECTED, Timer, View, Viewstamped,
    Waiting,
};
use concur_core::{BatchId, Context, Phase, Refusal, ReplicaId, ReplicaSet, Ticket};
use std::collections::BTreeSet;
use std::time::Duration;

/// How good a log is: later views first, then longer logs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Report {
    /// The last view whose log was held in full.
    pub(super) normal: View,
    /// How long the log is.
    pub(super) length: u64,
}

impl Viewstamped {
    /// The patience timer is due. It is not armed again for each sign of life, so what was heard since counts first.
    pub(super) fn lose_patience(&mut self, cx: &mut Context<Self>) {
        let until = self.heard + self.patience;
        match self.role {
            Role::Primary(_) => {}
            _ if !self.down && cx.now < until => cx.arm(Timer::Patience, until.since(cx.now)),
            _ => {
                cx.note(SUSPECTED, None);
                let wish = self.wishes.values().copied().max().unwrap_or_default().max(self.view.next());
                self.wishes.insert(cx.config.me, wish);
                self.wish_again(cx);
                self.patience = draw_patience(cx);
                cx.arm(Timer::Patience, self.patience);
                self.count_wishes(cx);
            }
        }
    }

    /// Tells the others what this replica wishes for, if it does.
    pub(super) fn wish_again(&self, cx: &mut Context<Self>) {
        if let Some(&view) = self.wishes.get(&cx.config.me) {
            // A wish binds nobody, so that nothing has to be durable first.
            cx.send_after(Ticket(0), cx.config.others(), Message::StartViewChange { view });
        }
    }

    /// Somebody does not hear the primary. It counts once this replica does not either.
    pub(super) fn wished(&mut self, from: ReplicaId, view: View, cx: &mut Context<Self>) {
        if view <= self.view {
            return cx.send(ReplicaSet::one(from), Message::Newer { view: self.view });
        }
        self.wishes.insert(from, view);
        if let Some(mine) = self.wishes.get_mut(&cx.config.me) {
            *mine = view.max(*mine);
            self.count_wishes(cx);
        }
    }

    fn count_wishes(&mut self, cx: &mut Context<Self>) {
        let Some(&view) = self.wishes.get(&cx.config.me) else { return };
        let agree = self.wishes.iter().filter(|(_, wish)| **wish == view).map(|(&id, _)| id).collect();
        if cx.config.quorums.is_quorum(Phase::Prepare, agree) {
            self.promise(view, cx);
        }
    }

    /// Leaves every earlier view for ever, and tells the primary of this one what there is.
    pub(super) fn promise(&mut self, view: View, cx: &mut Context<Self>) {
        assert!(view > self.view, "views only grow");
        cx.note(PROMISED, None);
        self.enter(view, cx.persist(Record::View { view }), cx);
        self.wishes.retain(|_, wish| *wish > view);
        self.wishes.remove(&cx.config.me);
        self.role = Role::Waiting(Waiting::default());
        self.early.clear();
        let patience = draw_patience(cx);
        self.wait(patience, cx);
        self.report(cx);
    }

    /// The view, the record that holds it, and whose turn it is.
    pub(super) fn enter(&mut self, view: View, promised: Ticket, cx: &Context<Self>) {
        let voters = cx.config.voters();
        let turn = voters.iter().nth((view.0 % voters.len().max(1) as u64) as usize);
        (self.view, self.promised, self.turn) = (view, promised, turn.filter(|_| view > View(0)));
    }

    /// Waits for the primary from now on.
    pub(super) fn wait(&mut self, patience: Duration, cx: &mut Context<Self>) {
        (self.heard, self.patience, self.down) = (cx.now, patience, false);
        cx.arm(Timer::Patience, patience);
    }

    /// Tells whoever's turn it is how good this log is. Held until the promise and the log are durable, to oneself too.
    fn report(&self, cx: &mut Context<Self>) {
        if let Some(primary) = self.turn {
            let report = Message::DoViewChange { view: self.view, normal: self.normal, length: self.log.length() };
            cx.send(ReplicaSet::one(primary), report);
        }
    }

    /// Asks again for what was not answered.
    pub(super) fn wait_on(&mut self, cx: &mut Context<Self>) {
        let Role::Waiting(waiting) = &self.role else { return };
        if waiting.gather.is_some() {
            self.ask(cx);
        } else if self.turn != Some(cx.config.me) {
            self.report(cx);
        }
    }

    /// Somebody promised to this view, of which this replica is to be the primary.
    pub(super) fn reported(&mut self, from: ReplicaId, report: Report, cx: &mut Context<Self>) {
        let me = cx.config.me;
        match &mut self.role {
            // It has not heard yet that the view has begun.
            Role::Primary(_) => cx.send_after(self.promised, ReplicaSet::one(from), Message::StartView { view: self.view }),
            Role::Waiting(waiting) if self.turn == Some(me) && waiting.gather.is_none() => {
                waiting.reports.insert(from, report);
                let promised = waiting.reports.keys().copied().collect();
                if cx.config.quorums.is_quorum(Phase::Prepare, promised) {
                    // Of equals this replica's own, which it need not ask for.
                    let best = waiting.reports.iter().max_by_key(|(id, report)| (**report, **id == me)).map(|(&id, _)| id);
                    self.choose(best.expect("a quorum is not empty"), cx);
                }
            }
            _ => {}
        }
    }

    fn choose(&mut self, best: ReplicaId, cx: &mut Context<Self>) {
        if best == cx.config.me {
            return self.hold(self.log.length(), Vec::new(), self.decided, cx);
        }
        let Role::Waiting(waiting) = &mut self.role else { return };
        waiting.gather = Some(Gather::new(best));
        self.ask(cx);
    }

    /// Holds the view's log in full, now that what stands from `at` on gives way to these entries: the view is normal here.
    pub(super) fn hold(&mut self, at: u64, entries: Vec<Entry>, decided: u64, cx: &mut Context<Self>) {
        assert!(at >= self.decided, "what is decided never gives way");
        let kept: BTreeSet<BatchId> = entries.iter().filter_map(|entry| entry.value.id()).collect();
        cx.persist(Record::Start { view: self.view, at, entries: entries.clone() });
        let cut = self.log.truncate(at);
        entries.into_iter().for_each(|entry| self.log.push(entry));
        self.normal = self.view;
        self.give_up(cut, &kept, cx);
        let primary = self.turn.expect("somebody sent the log");
        if primary == cx.config.me {
            self.lead(cx);
        } else {
            cx.note(JOINED, None);
            self.role = Role::Backup;
            let patience = draw_patience(cx);
            self.wait(patience, cx);
            self.acknowledge(primary, cx);
        }
        self.learn(decided.min(self.log.length()), cx);
    }

    /// Begins the view.
    pub(super) fn lead(&mut self, cx: &mut Context<Self>) {
        assert_eq!(self.turn, Some(cx.config.me), "a view has one primary, known from its number");
        cx.note(STARTED, None);
        cx.disarm(Timer::Patience);
        self.wishes.clear();
        let proposed = self.log.iter_from(self.decided).filter_map(|entry| entry.value.id()).collect();
        self.role = Role::Primary(Box::new(Primary::new(self.log.length(), cx.config.voters(), proposed, cx.now)));
        // It may leave before this replica's own copy is durable: after a restart it does not lead this view any more.
        cx.send_after(self.promised, cx.config.others(), Message::StartView { view: self.view });
        self.acknowledge(cx.config.me, cx);
    }

    /// These values lost their places: they will not be decided here unless somebody submits them again.
    pub(super) fn give_up(&self, cut: Vec<Entry>, kept: &BTreeSet<BatchId>, cx: &mut Context<Self>) {
        let lost: Vec<BatchId> = cut.iter().filter_map(|entry| entry.value.id()).filter(|id| !kept.contains(id)).collect();
        if !lost.is_empty() {
            cx.note(SUFFIX_CUT, None);
        }
        for id in lost {
            cx.refuse(id, Refusal::Lost);
        }
    }

    /// The connection to the primary went down: whoever saw it wishes soon, at slightly different times.
    pub(super) fn peer_down(&mut self, id: ReplicaId, cx: &mut Context<Self>) {
        if self.turn == Some(id) && !matches!(self.role, Role::Primary(_)) {
            self.down = true;
            let soon = draw(cx, cx.config.heartbeat);
            cx.arm(Timer::Patience, soon);
        }
    }

    /// The node is about to stop: a primary goes over to the next view whose primary it hears, and takes the others along.
    pub(super) fn leave(&mut self, cx: &mut Context<Self>) {
        let Role::Primary(primary) = &self.role else { return };
        let alive = primary.those(|peer| cx.now.since(peer.heard) < cx.config.election).without(cx.config.me);
        let voters = cx.config.voters();
        let turns = (1..voters.len() as u64).map(|ahead| View(self.view.0.saturating_add(ahead)));
        let heard = |view: &View| voters.iter().nth((view.0 % voters.len() as u64) as usize).is_some_and(|id| alive.contains(id));
        let Some(next) = turns.filter(|view| *view > self.view).find(heard) else { return };
        cx.note(HANDED_OVER, None);
        self.promise(next, cx);
        cx.send(cx.config.others(), Message::Newer { view: next });
    }
}

/// How long to wait for a primary: one to two election timeouts.
pub(super) fn draw_patience(cx: &mut Context<Viewstamped>) -> Duration {
    let election = cx.config.election;
    election + draw(cx, election)
}

/// A random part of a duration.
pub(super) fn draw(cx: &mut Context<Viewstamped>, of: Duration) -> Duration {
    Duration::from_nanos(cx.rng.below(u64::try_from(of.as_nanos()).unwrap_or(u64::MAX)))
}
