//! Restart: starting from records, taking over installed state, and what has to be kept of what was persisted.

use super::{
    Entry, Follower, Message, Point, Raft, Record, Role, STATE_FETCHED, Term,
    elect::{draw, draw_patience},
    log::Log,
};
use concur_core::{Boot, Config, Context, Corrupt, Frontier, Instance, LaneId, Mark, Phase, ReplicaId, ReplicaSet, Ticket};
use std::cmp::Ordering;
use std::collections::VecDeque;
use std::time::Duration;

/// About how many bytes of values one record of a checkpoint carries.
const RECORD_BYTES_MAX: usize = 1 << 20;

impl Raft {
    /// Starts from what was persisted. Nothing is known to be decided beyond the mark before a leader says so.
    pub(super) fn start(boot: Boot<Self>, cx: &mut Context<Self>) -> Result<Self, Corrupt> {
        check_quorums(&cx.config)?;
        let mut raft = Self {
            term: Term(0),
            vote: None,
            ballot: Ticket(0),
            log: Log::default(),
            decided: 0,
            lacking: false,
            role: Role::Follower(Follower { leader: None, heard: cx.now, patience: Duration::ZERO, down: false }),
            forwarded: VecDeque::new(),
        };
        let empty = boot.records.is_empty();
        for record in boot.records {
            raft.replay(record)?;
        }
        raft.decided = raft.log.base();
        raft.meet(&boot.mark, cx)?;
        if !cx.config.voters().contains(cx.config.me) {
            return Ok(raft);
        }
        match boot.first.filter(|_| empty && raft.term == Term(0)) {
            Some(first) => raft.boot_promised(first, boot.fresh, cx),
            None if raft.term == Term(0) => {
                // Nobody has led yet, so nobody need be waited for.
                let soon = draw(cx, cx.config.election);
                raft.wait(None, soon, cx);
            }
            None => {
                let patience = draw_patience(cx);
                raft.wait(None, patience, cx);
            }
        }
        Ok(raft)
    }

    fn replay(&mut self, record: Record) -> Result<(), Corrupt> {
        match record {
            Record::Ballot { term, vote } => {
                if term < self.term || (term == self.term && self.vote.is_some() && self.vote != vote) {
                    return Err(Corrupt::new(format!("{:?} for {:?} after {:?} for {:?}", term, vote, self.term, self.vote)));
                }
                (self.term, self.vote) = (term, vote);
            }
            Record::Append { at, entries } => {
                if at < self.log.base() || at > self.log.length() {
                    let (base, length) = (self.log.base(), self.log.length());
                    return Err(Corrupt::new(format!("an append at {at} to a log from {base} to {length}")));
                }
                self.log.truncate(at);
                for entry in entries {
                    if entry.term < self.log.last_term() || entry.term > self.term || entry.term == Term(0) {
                        let last = self.log.last_term();
                        return Err(Corrupt::new(format!("an entry of {:?} after {:?} in {:?}", entry.term, last, self.term)));
                    }
                    self.log.push(entry);
                }
            }
            Record::Base { point } => {
                if point.length < self.log.base() || point.term > self.term {
                    return Err(Corrupt::new(format!("a base {point:?} after base {} in {:?}", self.log.base(), self.term)));
                }
                self.log.reset(point);
            }
        }
        Ok(())
    }

    /// Brings the log and the executed state together. The state may be ahead of the log, which then begins there; or behind what
    /// the log keeps, and then it has to be fetched.
    fn meet(&mut self, mark: &Mark<Term>, cx: &mut Context<Self>) -> Result<(), Corrupt> {
        let executed = match mark.frontier.epoch.cmp(&cx.config.epoch) {
            Ordering::Less => Point::default(),
            Ordering::Equal => point_of(mark).ok_or_else(|| Corrupt::new("the executed state names no term"))?,
            Ordering::Greater => return Err(Corrupt::new("the executed state is of a later epoch")),
        };
        if self.log.point(executed.length).is_some_and(|mine| mine != executed) && executed.length == self.log.base() {
            return Err(Corrupt::new(format!("the state at {executed:?} contradicts the log's base")));
        }
        self.lacking = executed.length < self.log.base();
        self.adopt(executed, cx);
        Ok(())
    }

    /// Everything up to this point is decided, and executed here. The log is kept if it has the point; if not, what it holds is
    /// behind or conflicts, nothing from there on can have been decided with it (§5.3), and it begins anew at the point.
    fn adopt(&mut self, executed: Point, cx: &mut Context<Self>) -> bool {
        if executed.length <= self.decided {
            let agrees = executed.length < self.log.base() || self.log.has(executed);
            assert!(agrees, "what is decided is never decided differently");
            return false;
        }
        let kept = self.log.has(executed);
        if !kept {
            if executed.term > self.term {
                self.promise(executed.term, None, cx);
            }
            self.log.reset(executed);
            cx.persist(Record::Base { point: executed });
        }
        self.decided = executed.length;
        !kept
    }

    /// Everybody enters the epoch promised to its first leader, in term 1. Nothing older can have been accepted, so it needs no
    /// votes; but only in the run of the process that entered, since a later run may have forgotten what it sent.
    fn boot_promised(&mut self, first: ReplicaId, fresh: bool, cx: &mut Context<Self>) {
        let me = cx.config.me;
        self.promise(Term(1), Some(first), cx);
        if first == me && fresh && self.log.length() == 0 {
            return self.lead(cx);
        }
        let patience = draw_patience(cx);
        self.wait(Some(first).filter(|&first| first != me), patience, cx);
    }

    /// State came from a peer and is durable.
    pub(super) fn installed(&mut self, mark: &Mark<Term>, cx: &mut Context<Self>) {
        let Some(executed) = point_of(mark).filter(|_| mark.frontier.epoch == cx.config.epoch) else { return };
        self.lacking &= executed.length < self.log.base();
        let (term, led) = (self.term, matches!(self.role, Role::Leader(_)));
        if self.adopt(executed, cx) {
            cx.note(STATE_FETCHED, Some(Instance::slot(executed.length)));
            assert!(!led || self.term > term, "a leader has everything that is decided in its term or before");
        }
        if let Role::Leader(leader) = &mut self.role {
            leader.proposed = self.log.iter_from(self.decided).filter_map(|entry| entry.value.id()).collect();
        }
        if self.term > term && cx.config.voters().contains(cx.config.me) {
            self.follow_nobody(cx);
        }
        if let Some(leader) = self.leader() {
            cx.send(ReplicaSet::one(leader), Message::Appended { term: self.term, length: self.decided });
        }
    }

    /// Execution waits for something that this log no longer has.
    pub(super) fn fetch_if_lost(&mut self, instance: Instance, cx: &mut Context<Self>) {
        self.lacking |= instance.number < self.log.base();
        self.fetch_lacking(cx);
    }

    /// Asks for the state that the log's base stands for, if it is not here.
    pub(super) fn fetch_lacking(&mut self, cx: &mut Context<Self>) {
        if !self.lacking {
            return;
        }
        let from = match &self.role {
            Role::Leader(leader) => Self::fullest(leader, cx.config.me),
            _ => self.leader(),
        };
        if let Some(from) = from {
            cx.fetch(from, Frontier::slots(cx.config.epoch, self.log.base()));
        }
    }

    /// The term and vote, the base, and the entries that are kept.
    pub(super) fn records(&self) -> Vec<Record> {
        let mut records = vec![Record::Ballot { term: self.term, vote: self.vote }];
        let base = self.log.base_point();
        if base.length > 0 {
            records.push(Record::Base { point: base });
        }
        let mut at = base.length;
        while at < self.log.length() {
            let entries: Vec<Entry> = self.log.from(at, RECORD_BYTES_MAX);
            let next = at + entries.len() as u64;
            records.push(Record::Append { at, entries });
            at = next;
        }
        records
    }
}

/// What is executed, if the mark can be one of this protocol's.
fn point_of(mark: &Mark<Term>) -> Option<Point> {
    match mark.frontier.below(LaneId(0)) {
        0 => Some(Point::default()),
        length => Some(Point { term: *mark.order(LaneId(0))?, length }),
    }
}

/// A term has one leader only if two elections share a voter, and it has everything only if an election and an append do.
fn check_quorums(config: &Config) -> Result<(), Corrupt> {
    for phase in [Phase::Prepare, Phase::Accept] {
        if let Some((a, b)) = config.quorums.disjoint(Phase::Prepare, phase) {
            return Err(Corrupt::new(format!("quorums {a:?} and {b:?} of elections and {phase:?} do not meet")));
        }
    }
    Ok(())
}
