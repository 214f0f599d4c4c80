//! Starting from records, and what has to be kept of what was persisted.

use super::{
    Entry, Point, Record, Role, Timer, View, Viewstamped, Waiting,
    log::Log,
    transfer::point_of,
    view_change::{draw, draw_patience},
};
use concur_core::{Boot, Context, Corrupt, Mark, Phase, ReplicaId, Ticket, Time};
use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::time::Duration;

/// About how many bytes of values one record of a checkpoint carries.
const RECORD_BYTES_MAX: usize = 1 << 20;

impl Viewstamped {
    /// Starts from what was persisted. Nothing is known to be decided beyond the mark before a primary says so.
    pub(super) fn start(boot: Boot<Self>, cx: &mut Context<Self>) -> Result<Self, Corrupt> {
        if let Some((a, b)) = cx.config.quorums.disjoint(Phase::Prepare, Phase::Accept) {
            return Err(Corrupt::new(format!("quorums {a:?} that change a view and {b:?} that append do not meet")));
        }
        let mut this = Self {
            view: View(0),
            promised: Ticket(0),
            turn: None,
            normal: View(0),
            log: Log::default(),
            early: BTreeMap::new(),
            decided: 0,
            lacking: false,
            role: Role::Waiting(Waiting::default()),
            heard: Time(0),
            patience: Duration::ZERO,
            down: false,
            wishes: BTreeMap::new(),
            reads: BTreeMap::new(),
        };
        let empty = boot.records.is_empty();
        for record in boot.records {
            this.replay(record)?;
        }
        this.enter(this.view, Ticket(0), cx);
        this.decided = this.log.base();
        this.meet(&boot.mark, cx)?;
        if cx.config.voters().contains(cx.config.me) {
            this.begin(boot.first.filter(|_| empty), boot.fresh, cx);
        }
        Ok(this)
    }

    fn replay(&mut self, record: Record) -> Result<(), Corrupt> {
        match record {
            Record::View { view } => self.replay_view(view)?,
            Record::Start { view, at, entries } => {
                self.replay_view(view)?;
                self.normal = view;
                self.replay_entries(at, entries)?;
            }
            Record::Append { at, .. } if at != self.log.length() => {
                return Err(Corrupt::new(format!("an append at {at} to a log of {}", self.log.length())));
            }
            Record::Append { at, entries } => self.replay_entries(at, entries)?,
            Record::Base { point } if point.length < self.log.base() => {
                return Err(Corrupt::new(format!("a base {point:?} after base {}", self.log.base())));
            }
            Record::Base { point } => self.log.reset(point),
        }
        Ok(())
    }

    fn replay_view(&mut self, view: View) -> Result<(), Corrupt> {
        if view < self.view {
            return Err(Corrupt::new(format!("{view:?} after {:?}", self.view)));
        }
        self.view = view;
        Ok(())
    }

    fn replay_entries(&mut self, at: u64, entries: Vec<Entry>) -> Result<(), Corrupt> {
        if at < self.log.base() || at > self.log.length() {
            return Err(Corrupt::new(format!("entries at {at} in a log from {} to {}", self.log.base(), self.log.length())));
        }
        self.log.truncate(at);
        for entry in entries {
            let last = self.log.end().view;
            if entry.view < last || entry.view > self.view || entry.view == View(0) {
                return Err(Corrupt::new(format!("an entry of {:?} after {last:?} in {:?}", entry.view, self.view)));
            }
            self.log.push(entry);
        }
        Ok(())
    }

    /// Brings the log and the executed state together. The state may be ahead of the log, which then begins there; or behind what
    /// the log keeps, and then it has to be fetched.
    fn meet(&mut self, mark: &Mark<View>, cx: &mut Context<Self>) -> Result<(), Corrupt> {
        let executed = match mark.frontier.epoch.cmp(&cx.config.epoch) {
            Ordering::Less => Point::default(),
            Ordering::Equal => point_of(mark).ok_or_else(|| Corrupt::new("the executed state names no view"))?,
            Ordering::Greater => return Err(Corrupt::new("the executed state is of a later epoch")),
        };
        if executed.length == self.log.base() && executed != self.log.base_point() {
            return Err(Corrupt::new(format!("the state at {executed:?} contradicts the log's base {:?}", self.log.base_point())));
        }
        self.lacking = executed.length < self.log.base();
        self.adopt(executed, cx);
        if executed.view > self.view {
            let promised = cx.persist(Record::View { view: executed.view });
            self.enter(executed.view, promised, cx);
        }
        Ok(())
    }

    /// What a voter is when it starts: a backup of its view if it holds its log, one that waits if not.
    fn begin(&mut self, first: Option<ReplicaId>, fresh: bool, cx: &mut Context<Self>) {
        cx.arm(Timer::Pulse, cx.config.heartbeat);
        match first.and_then(|first| first_view(first, cx)) {
            Some(view) if self.view == View(0) => return self.begin_promised(view, fresh, cx),
            _ => {}
        }
        if self.turn == Some(cx.config.me) {
            // As its primary it may have sent what it no longer has.
            return self.promise(self.view.next(), cx);
        }
        if self.normal == self.view && self.view > View(0) {
            self.role = Role::Backup;
        }
        // Where nobody has been primary yet, nobody need be waited for.
        let patience = if self.view == View(0) { draw(cx, cx.config.election) } else { draw_patience(cx) };
        self.wait(patience, cx);
        self.wait_on(cx);
    }

    /// Everybody enters the epoch promised to the view of its first primary. Nothing older can have been accepted, so that it begins
    /// at once; but only in the run of the process that entered, since a later run may have forgotten what it sent.
    fn begin_promised(&mut self, view: View, fresh: bool, cx: &mut Context<Self>) {
        let promised = cx.persist(Record::Start { view, at: self.log.length(), entries: Vec::new() });
        self.enter(view, promised, cx);
        self.normal = view;
        match self.turn == Some(cx.config.me) {
            true if fresh && self.log.length() == 0 => self.lead(cx),
            true => self.promise(self.view.next(), cx),
            false => {
                self.role = Role::Backup;
                let patience = draw_patience(cx);
                self.wait(patience, cx);
            }
        }
    }

    /// The base, the entries that are kept, the last view held in full, and the view promised to.
    pub(super) fn records(&self) -> Vec<Record> {
        let base = self.log.base_point();
        let mut records = vec![Record::Base { point: base }];
        let first = self.log.from(base.length, RECORD_BYTES_MAX);
        let mut at = base.length + first.len() as u64;
        // The entries may be of views between the two: a record of the later one allows for them.
        records.push(Record::Start { view: self.normal, at: base.length, entries: first });
        while at < self.log.length() {
            let entries = self.log.from(at, RECORD_BYTES_MAX);
            let next = at + entries.len() as u64;
            records.push(Record::Append { at, entries });
            at = next;
        }
        records.push(Record::View { view: self.view });
        records
    }
}

/// The first view of which a voter is the primary.
fn first_view(first: ReplicaId, cx: &Context<Viewstamped>) -> Option<View> {
    let voters = cx.config.voters();
    let place = voters.iter().position(|id| id == first)?;
    Some(View(if place == 0 { voters.len() } else { place } as u64))
}
