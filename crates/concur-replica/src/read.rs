//! Strong reads: all that wait share one barrier of the protocol's, and are answered once what it names is executed.

use crate::api::{Output, Reply, Token};
use crate::replica::Replica;
use bytes::Bytes;
use concur_core::{AnyInput, Footprint, Frontier, Ordering, ReadId, StateMachine, Time};
use concur_execution::Level;
use std::collections::BTreeMap;

/// How many barriers may be under way; reads that come meanwhile share the next.
const ROUNDS_MAX: usize = 2;

/// Reads that wait for a barrier, for its answer, or for execution to reach it.
#[derive(Debug, Default)]
pub(crate) struct Reads {
    waiting: Vec<Read>,
    rounds: BTreeMap<ReadId, Round>,
    granted: Vec<(Frontier, Vec<Read>)>,
    /// How many reads wait, in all three.
    count: usize,
    next: u64,
}

/// One read.
#[derive(Debug)]
pub(crate) struct Read {
    pub(crate) token: Token,
    pub(crate) footprint: Footprint,
    pub(crate) query: Option<Bytes>,
    pub(crate) deadline: Time,
}

#[derive(Debug)]
struct Round {
    reads: Vec<Read>,
    /// Ask again, under a new id, if there is no answer by then.
    retry_at: Time,
}

impl Reads {
    pub(crate) fn len(&self) -> usize {
        self.count
    }

    /// A read waits for the next barrier.
    pub(crate) fn push(&mut self, read: Read) {
        self.count += 1;
        self.waiting.push(read);
    }

    pub(crate) fn wake_at(&self) -> Option<Time> {
        self.rounds.values().map(|round| round.retry_at).min()
    }

    /// The protocol named the frontier at which a round may be served.
    pub(crate) fn granted(&mut self, id: ReadId, frontier: Frontier) {
        if let Some(round) = self.rounds.remove(&id) {
            self.granted.push((frontier, round.reads));
        }
    }

    /// The protocol cannot serve a round: it is asked again soon.
    pub(crate) fn refused(&mut self, id: ReadId, retry_at: Time) {
        if let Some(round) = self.rounds.get_mut(&id) {
            round.retry_at = round.retry_at.min(retry_at);
        }
    }

    /// Takes out the reads whose clients' time is up.
    pub(crate) fn expire(&mut self, now: Time, mut expired: impl FnMut(Token)) {
        let rounds = self.rounds.values_mut().map(|round| &mut round.reads);
        let granted = self.granted.iter_mut().map(|(_, reads)| reads);
        for reads in std::iter::once(&mut self.waiting).chain(rounds).chain(granted) {
            let before = reads.len();
            reads.retain(|read| {
                if read.deadline <= now {
                    expired(read.token);
                }
                read.deadline > now
            });
            self.count -= before - reads.len();
        }
        self.rounds.retain(|_, round| !round.reads.is_empty());
        self.granted.retain(|(_, reads)| !reads.is_empty());
    }
}

impl<M: StateMachine> Replica<M> {
    /// Asks the protocol for a barrier for the reads that wait.
    pub(crate) fn barrier(&mut self) {
        let now = self.now;
        let overdue: Vec<ReadId> = self.reads.rounds.iter().filter(|(_, round)| round.retry_at <= now).map(|(&id, _)| id).collect();
        for id in overdue {
            // An id is never used again: a late answer to it must not serve the reads of a later barrier.
            let round = self.reads.rounds.remove(&id).expect("listed above");
            self.reads.waiting.extend(round.reads);
        }
        if self.reads.waiting.is_empty() || self.reads.rounds.len() >= ROUNDS_MAX {
            return;
        }
        let reads = std::mem::take(&mut self.reads.waiting);
        let id = ReadId { boot: self.settings.boot, number: self.reads.next };
        self.reads.next += 1;
        let footprint = self.barrier_footprint(&reads);
        self.reads.rounds.insert(id, Round { reads, retry_at: now + self.settings.config.election });
        self.inputs.push_back(AnyInput::Read { id, footprint });
    }

    fn barrier_footprint(&self, reads: &[Read]) -> Footprint {
        if self.settings.order == Ordering::Total {
            return Footprint::Everything;
        }
        let mut footprint = Footprint::NOTHING;
        for read in reads {
            footprint.join(read.footprint.clone());
        }
        footprint.normalise();
        footprint
    }

    /// Answers the reads whose barrier is executed.
    pub(crate) fn serve(&mut self, out: &mut Output) {
        let mut granted = std::mem::take(&mut self.reads.granted);
        for (_, reads) in granted.extract_if(.., |(frontier, _)| self.sequencer.covers(frontier)) {
            self.reads.count -= reads.len();
            reads.into_iter().for_each(|read| self.answer(Level::Strong, read, out));
        }
        self.reads.granted = granted;
    }

    /// Answers a read from the state as it is.
    pub(crate) fn answer(&self, level: Level, read: Read, out: &mut Output) {
        let body = read.query.map(|query| self.machine.query(&query)).unwrap_or_default();
        out.replies.push((read.token, Ok(Reply { body, stamp: self.stamp(level) })));
    }
}
