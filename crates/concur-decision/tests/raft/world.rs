//! Raft in the common world: logs by their terms, and what a term's leader does.

use crate::common::Cast;
use concur_core::{Corrupt, Input, Mark, Protocol};
use concur_decision::raft::{Entry, Message, Point, Raft, Record, Term, Timer};
use std::sync::Arc;

pub(crate) use crate::common::{HEARTBEAT, Setup, batch, r};

pub(crate) type World = crate::common::World<Raft>;

impl Cast for Raft {}

/// Entries of these terms; what they hold tells position and term.
pub(crate) fn entries(terms: &[u64]) -> Vec<Entry> {
    let entry = |(at, &term): (usize, &u64)| Entry { term: Term(term), value: Arc::new(batch(0, term * 1000 + at as u64)) };
    terms.iter().enumerate().map(entry).collect()
}

/// What a replica in this term, with a log of these terms, has persisted.
pub(crate) fn records(term: u64, terms: &[u64]) -> Vec<Record> {
    vec![Record::Ballot { term: Term(term), vote: None }, Record::Append { at: 0, entries: entries(terms) }]
}

pub(crate) fn mark(point: Point) -> Mark<Term> {
    crate::common::mark(point.length, point.term)
}

/// A core on its own, from these records and this executed state.
pub(crate) fn recover(setup: &Setup, i: usize, records: Vec<Record>, executed: Point) -> Result<Raft, Corrupt> {
    World::recover(setup, i, records, mark(executed))
}

impl World {
    /// Delivers in order until the next message is such a one; what comes from oneself goes first.
    pub(crate) fn settle_until(&mut self, stop: impl Fn(&Message) -> bool) {
        self.settle_but(|from, to, message| from != to && stop(message));
    }

    /// Replica `i` loses patience, and nobody else does.
    pub(crate) fn campaign(&mut self, i: usize) {
        self.now = self.now + Raft::ELECTION * 3;
        self.input(i, Input::Expired(Timer::Election));
    }

    pub(crate) fn role(&self, i: usize) -> &'static str {
        self.inspect(i).role
    }

    pub(crate) fn term(&self, i: usize) -> u64 {
        self.inspect(i).ballot
    }

    /// The terms of the log, as far as it is kept.
    pub(crate) fn log(&self, i: usize) -> Vec<u64> {
        let records = self.nodes[i].core.as_ref().expect("running").checkpoint();
        let each = records.iter().flat_map(|record| match record {
            Record::Append { entries, .. } => entries.iter().map(|entry| entry.term.0).collect(),
            _ => Vec::new(),
        });
        each.collect()
    }
}
