//! Getting what others have: a part of a log (§5.2), or the state behind it.
//!
//! A log is asked for in two cases, and nothing but the source differs: the primary of a view that has not begun gets the best log
//! of those who promised, which does not change while they wait; everybody else gets the primary's. Parts are collected beside the
//! own log and replace its end all at once: a log that is half one's own and half another's would be neither view's.

use super::{BEST_LOG_TAKEN, Entry, Message, Point, Record, Role, STATE_TAKEN, View, Viewstamped, Waiting};
use concur_core::{Context, Frontier, Instance, LaneId, Mark, ReplicaId, ReplicaSet};
use std::collections::BTreeSet;

/// A log that is being got.
#[derive(Debug, Clone, Hash)]
pub(super) struct Gather {
    /// From whom.
    from: ReplicaId,
    /// The end of what both logs have; `None` before the first part names it.
    prior: Option<Point>,
    /// What follows it.
    entries: Vec<Entry>,
    /// How many are decided, as the source says.
    decided: u64,
}

impl Gather {
    pub(super) fn new(from: ReplicaId) -> Self {
        Self { from, prior: None, entries: Vec::new(), decided: 0 }
    }

    /// The end of what is here already.
    fn end(&self) -> Option<Point> {
        let prior = self.prior?;
        let view = self.entries.last().map_or(prior.view, |entry| entry.view);
        Some(Point { view, length: prior.length + self.entries.len() as u64 })
    }
}

impl Viewstamped {
    /// The view has begun, and its log is the primary's.
    pub(super) fn join(&mut self, primary: ReplicaId, cx: &mut Context<Self>) {
        let Role::Waiting(waiting) = &mut self.role else { return };
        if waiting.gather.is_none() {
            waiting.gather = Some(Gather::new(primary));
            self.ask(cx);
        }
    }

    /// Asks for what comes next.
    pub(super) fn ask(&self, cx: &mut Context<Self>) {
        let Role::Waiting(Waiting { gather: Some(gather), .. }) = &self.role else { return };
        let decided = self.log.point(self.decided).expect("what is decided is at or above the base");
        let end = gather.end().unwrap_or(self.log.end());
        // A question promises nothing but the view.
        cx.send_after(self.promised, ReplicaSet::one(gather.from), Message::GetState { view: self.view, end, decided });
    }

    /// Somebody lacks something of this log. It is sent by the primary, and to the primary by whoever waits for it.
    pub(super) fn asked_for_state(&mut self, from: ReplicaId, end: Point, decided: Point, cx: &mut Context<Self>) {
        let until = match &self.role {
            Role::Primary(primary) => primary.started,
            Role::Waiting(_) if self.turn == Some(from) => self.log.length(),
            _ => return,
        };
        let (view, to) = (self.view, ReplicaSet::one(from));
        if let Some(prior) = [end, decided].into_iter().find(|&point| self.log.has(point)) {
            let entries = self.log.from(prior.length, cx.config.message_bytes_max);
            // Of a log that waits the promise told only what was durable; and a primary does not lead this view after a restart.
            cx.send_after(self.promised, to, Message::NewState { view, prior, entries, until, decided: self.decided });
        } else if decided.length < self.log.base() {
            // What it speaks of is executed here, durably.
            cx.send_after(self.promised, to, Message::Behind { view, base: self.log.base() });
        }
    }

    /// A part of the log that is being got.
    pub(super) fn new_state(
        &mut self,
        from: ReplicaId,
        prior: Point,
        entries: Vec<Entry>,
        until: u64,
        decided: u64,
        cx: &mut Context<Self>,
    ) {
        let next = match &self.role {
            Role::Waiting(Waiting { gather: Some(gather), .. }) if gather.from == from => match gather.end() {
                Some(end) => end == prior,
                None => prior.length >= self.decided && self.log.has(prior),
            },
            _ => false,
        };
        if !next || !self.continues(prior.view, &entries) {
            return; // It came twice, or late.
        }
        let Role::Waiting(Waiting { gather: Some(gather), .. }) = &mut self.role else { return };
        let progress = !entries.is_empty();
        gather.prior.get_or_insert(prior);
        gather.entries.extend(entries);
        gather.decided = gather.decided.max(decided);
        let (at, end) = (gather.prior.map_or(0, |prior| prior.length), gather.end().map_or(0, |end| end.length));
        if end < until {
            if progress {
                self.ask(cx);
            }
            return;
        }
        let (entries, decided) = (std::mem::take(&mut gather.entries), gather.decided);
        if self.turn == Some(cx.config.me) {
            cx.note(BEST_LOG_TAKEN, Some(Instance::slot(at)));
        }
        self.hold(at, entries, decided, cx);
    }

    /// The other does not keep what is lacked here: its state is fetched, unless it came in the meantime.
    pub(super) fn behind(&mut self, from: ReplicaId, base: u64, cx: &mut Context<Self>) {
        let has = match self.role {
            Role::Primary(_) => return,
            Role::Backup => self.log.length(),
            Role::Waiting(_) => self.decided,
        };
        if has < base {
            cx.fetch(from, Frontier::slots(cx.config.epoch, base));
        } else if let Role::Backup = self.role {
            self.acknowledge(from, cx);
        }
    }

    /// State came from a peer and is durable.
    pub(super) fn installed(&mut self, mark: &Mark<View>, cx: &mut Context<Self>) {
        let Some(executed) = point_of(mark).filter(|_| mark.frontier.epoch == cx.config.epoch) else { return };
        self.lacking &= executed.length < self.log.base();
        let replaced = self.adopt(executed, cx);
        if !cx.config.voters().contains(cx.config.me) {
            return;
        }
        let primary = self.turn.filter(|&id| id != cx.config.me);
        match &mut self.role {
            // The state is of a later view than this replica knows.
            _ if executed.view > self.view => self.promise(executed.view, cx),
            // It was decided in a later view, though proposed in an earlier one: nothing can be decided in this one any more.
            Role::Primary(_) if replaced => self.promise(self.view.next(), cx),
            // Whether the state continues the view's log only the primary can say.
            Role::Backup if replaced => {
                self.role = Role::Waiting(Waiting { gather: primary.map(Gather::new), ..Waiting::default() });
                self.early.clear();
                self.ask(cx);
            }
            Role::Waiting(waiting) => {
                waiting.gather = waiting.gather.as_ref().map(|gather| Gather::new(gather.from));
                self.ask(cx);
            }
            Role::Backup => primary.into_iter().for_each(|primary| self.acknowledge(primary, cx)),
            Role::Primary(primary) => {
                primary.proposed = self.log.iter_from(self.decided).filter_map(|entry| entry.value.id()).collect();
            }
        }
        self.serve_reads(cx);
    }

    /// Everything up to this point is decided, and executed here. The log is kept if it has the point; if not, what it holds is
    /// behind or conflicts, nothing from there on can have been decided with it, and it begins anew at the point.
    ///
    /// The last view held in full stays what it was. That claims too little for a log that now begins with what a later view decided,
    /// and so no harm: had anything been decided since, somebody in every quorum claims a later view.
    pub(super) fn adopt(&mut self, executed: Point, cx: &mut Context<Self>) -> bool {
        if executed.length <= self.decided {
            return false;
        }
        let replaces = !self.log.has(executed);
        if replaces {
            cx.note(STATE_TAKEN, Some(Instance::slot(executed.length)));
            let cut: Vec<Entry> = self.log.iter_from(executed.length).cloned().collect();
            self.give_up(cut, &BTreeSet::new(), cx);
            self.log.reset(executed);
            cx.persist(Record::Base { point: executed });
        }
        self.decided = executed.length;
        replaces
    }

    /// Execution waits for something that this log no longer has.
    pub(super) fn fetch_if_lost(&mut self, instance: Instance, cx: &mut Context<Self>) {
        self.lacking |= instance.number < self.log.base();
        self.fetch_lacking(cx);
    }

    /// Asks for the state that the log's base stands for, if it is not here: the primary, or if that is this replica, whoever has most.
    pub(super) fn fetch_lacking(&self, cx: &mut Context<Self>) {
        let from = match &self.role {
            _ if !self.lacking => return,
            Role::Primary(primary) => {
                let others = primary.peers.iter().filter(|peer| peer.id != cx.config.me);
                others.max_by_key(|peer| (peer.acknowledged, peer.heard)).map(|peer| peer.id)
            }
            _ => self.turn.filter(|&id| id != cx.config.me),
        };
        if let Some(from) = from {
            cx.fetch(from, Frontier::slots(cx.config.epoch, self.log.base()));
        }
    }
}

/// What is executed, if the mark can be one of this protocol's.
pub(super) fn point_of(mark: &Mark<View>) -> Option<Point> {
    match mark.frontier.below(LaneId(0)) {
        0 => Some(Point::default()),
        length => Some(Point { view: *mark.order(LaneId(0))?, length }),
    }
}
