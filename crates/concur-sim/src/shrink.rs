//! Makes a run that fails small: episodes, wishes, clients and operations are left out as long as it fails in the same way.

use crate::run::{run, run_traced};
use crate::schedule::Schedule;
use crate::trace::Trace;
use crate::world::{Outcome, Verdict};
use std::time::{Duration, Instant};

/// A small run that fails as a larger one did.
#[derive(Debug, Clone)]
pub struct Shrunk {
    /// What is left.
    pub schedule: Schedule,
    /// How it ends.
    pub outcome: Outcome,
    /// What happened last.
    pub trace: Trace,
    /// How many runs it took.
    pub runs: u64,
}

/// Shrinks a run that fails, for at most `budget` of real time. `None` if it does not fail.
pub fn shrink(schedule: &Schedule, budget: Duration) -> Option<Shrunk> {
    let kind = kind(&run(schedule))?;
    let mut shrinking = Shrinking { best: schedule.clone(), kind, until: Instant::now() + budget, runs: 1 };
    loop {
        let before = size(&shrinking.best);
        shrinking.episodes();
        shrinking.wishes();
        shrinking.clients();
        shrinking.operations();
        shrinking.surroundings();
        if size(&shrinking.best) == before || shrinking.is_over() {
            break;
        }
    }
    let (outcome, trace) = run_traced(&shrinking.best);
    Some(Shrunk { schedule: shrinking.best, outcome, trace, runs: shrinking.runs })
}

fn kind(outcome: &Outcome) -> Option<&'static str> {
    match &outcome.verdict {
        Verdict::Valid => None,
        Verdict::Violated(violation) => Some(violation.kind),
        Verdict::Unknown(_) => Some("unknown"),
    }
}

fn size(schedule: &Schedule) -> (usize, usize, usize, usize) {
    (schedule.episodes.len(), schedule.wishes.len(), schedule.clients.len(), schedule.operations())
}

struct Shrinking {
    best: Schedule,
    kind: &'static str,
    until: Instant,
    runs: u64,
}

impl Shrinking {
    fn is_over(&self) -> bool {
        Instant::now() >= self.until
    }

    /// Keeps a smaller schedule if it fails as well.
    fn offer(&mut self, smaller: Schedule) -> bool {
        if self.is_over() {
            return false;
        }
        self.runs += 1;
        let fails = kind(&run(&smaller)) == Some(self.kind);
        if fails {
            self.best = smaller;
        }
        fails
    }

    fn episodes(&mut self) {
        let mut index = 0;
        while index < self.best.episodes.len() {
            let mut smaller = self.best.clone();
            smaller.episodes.remove(index);
            if !self.offer(smaller) {
                index += 1;
            }
        }
    }

    fn wishes(&mut self) {
        let mut index = 0;
        while index < self.best.wishes.len() {
            let mut smaller = self.best.clone();
            smaller.wishes.remove(index);
            if !self.offer(smaller) {
                index += 1;
            }
        }
    }

    fn clients(&mut self) {
        let mut index = 0;
        while index < self.best.clients.len() && self.best.clients.len() > 1 {
            let mut smaller = self.best.clone();
            smaller.clients.remove(index);
            if !self.offer(smaller) {
                index += 1;
            }
        }
    }

    /// Leaves out runs of operations, ever shorter ones.
    fn operations(&mut self) {
        for client in 0..self.best.clients.len() {
            let mut length = self.best.clients[client].operations.len();
            while length > 0 && !self.is_over() {
                let mut start = 0;
                while start < self.best.clients[client].operations.len() {
                    let mut smaller = self.best.clone();
                    let operations = &mut smaller.clients[client].operations;
                    let end = (start + length).min(operations.len());
                    operations.drain(start..end);
                    if !self.offer(smaller) {
                        start += length;
                    }
                }
                length /= 2;
            }
        }
    }

    fn surroundings(&mut self) {
        let simpler: [fn(&mut Schedule); 7] = [
            |schedule| schedule.network.loss_per_million = 0,
            |schedule| schedule.network.jitter = Duration::ZERO,
            |schedule| schedule.tuning.step_max = Duration::ZERO,
            |schedule| schedule.tuning.batches_in_flight_max = 1,
            |schedule| schedule.harassed = false,
            |schedule| schedule.late = false,
            |schedule| schedule.tuning.absence_max = None,
        ];
        for simplify in simpler {
            let mut smaller = self.best.clone();
            simplify(&mut smaller);
            self.offer(smaller);
        }
    }
}
