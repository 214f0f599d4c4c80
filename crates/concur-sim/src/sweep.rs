//! Many seeds, on all cores.

use crate::coverage::Coverage;
use crate::ledger::Violation;
use crate::report::replay_line;
use crate::run::run;
use crate::schedule::{Options, Schedule};
use crate::world::{Outcome, Verdict};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// What is swept.
#[derive(Debug, Clone)]
pub struct Sweeping {
    /// What seeds are drawn with.
    pub options: Options,
    /// The first seed.
    pub first: u64,
    /// How many.
    pub seeds: u64,
    /// On how many threads.
    pub threads: usize,
    /// One seed in so many is run twice, and must give the same bytes; 0 is none.
    pub twice_every: u64,
    /// Stop at so many failures.
    pub failures_max: usize,
}

impl Sweeping {
    /// So many seeds, on all cores; one in 64 is run twice, and ten failures are enough.
    pub fn new(options: Options, first: u64, seeds: u64) -> Self {
        let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        Self { options, first, seeds, threads, twice_every: 64, failures_max: 10 }
    }
}

/// A seed that failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// Which.
    pub seed: u64,
    /// The promise that was broken; `None` if a checker could not tell.
    pub violation: Option<Violation>,
    /// In words.
    pub message: String,
    /// The line that replays it.
    pub replay: String,
}

/// What a sweep shows.
#[derive(Debug, Clone, Default)]
pub struct Sweep {
    /// What was met.
    pub coverage: Coverage,
    /// Seeds that failed, in order.
    pub failures: Vec<Failure>,
    /// Operations that clients completed.
    pub completed: u64,
    /// Things that happened.
    pub events: u64,
    /// Virtual time, all runs together.
    pub virtual_time: Duration,
    /// Real time.
    pub took: Duration,
    /// A hash over all runs, whatever the order in which they ran.
    pub fingerprint: u64,
}

/// How far a sweep is.
#[derive(Debug, Clone, Copy)]
pub struct Progress {
    /// Seeds that are done.
    pub done: u64,
    /// Of how many.
    pub seeds: u64,
    /// Failures so far.
    pub failures: u64,
    /// How long it has taken.
    pub took: Duration,
}

/// Runs the seeds; `progress` is called a few times a second.
pub fn sweep(sweeping: &Sweeping, mut progress: impl FnMut(Progress)) -> Sweep {
    let started = Instant::now();
    let (next, done, failed) = (AtomicU64::new(0), AtomicU64::new(0), AtomicU64::new(0));
    let stop = AtomicBool::new(false);
    let total = Mutex::new(Sweep::default());
    std::thread::scope(|scope| {
        let work = || {
            let mut part = Sweep::default();
            while !stop.load(Ordering::Relaxed) {
                let index = next.fetch_add(1, Ordering::Relaxed);
                if index >= sweeping.seeds {
                    break;
                }
                let before = part.failures.len();
                part.run(sweeping, sweeping.first + index);
                let new = (part.failures.len() - before) as u64;
                let failures = failed.fetch_add(new, Ordering::Relaxed) + new;
                if failures >= sweeping.failures_max as u64 {
                    stop.store(true, Ordering::Relaxed);
                }
                done.fetch_add(1, Ordering::Relaxed);
            }
            total.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).join(part);
        };
        let workers: Vec<_> = (0..sweeping.threads.max(1)).map(|_| scope.spawn(work)).collect();
        while workers.iter().any(|worker| !worker.is_finished()) {
            let (done, failures) = (done.load(Ordering::Relaxed), failed.load(Ordering::Relaxed));
            progress(Progress { done, seeds: sweeping.seeds, failures, took: started.elapsed() });
            std::thread::park_timeout(Duration::from_millis(if done < 50 { 20 } else { 200 }));
        }
    });
    let mut sweep = total.into_inner().unwrap_or_else(|poisoned| poisoned.into_inner());
    sweep.took = started.elapsed();
    sweep.failures.sort_by_key(|failure| failure.seed);
    sweep
}

impl Sweep {
    fn run(&mut self, sweeping: &Sweeping, seed: u64) {
        let schedule = Schedule::draw(&sweeping.options, seed);
        let outcome = run(&schedule);
        let again = sweeping.twice_every > 0 && seed.is_multiple_of(sweeping.twice_every);
        if again && run(&schedule).fingerprint != outcome.fingerprint {
            let violation = Violation::new("determinism", "two runs of one seed differ");
            self.fail(sweeping, seed, Verdict::Violated(violation));
        }
        self.add(seed, &outcome);
        self.fail(sweeping, seed, outcome.verdict);
    }

    fn add(&mut self, seed: u64, outcome: &Outcome) {
        self.coverage.add(outcome);
        self.completed += outcome.completed;
        self.events += outcome.events;
        self.virtual_time += outcome.lasted;
        self.fingerprint = self.fingerprint.wrapping_add(outcome.fingerprint.rotate_left((seed % 64) as u32));
    }

    fn fail(&mut self, sweeping: &Sweeping, seed: u64, verdict: Verdict) {
        self.failures.extend(Failure::of(&sweeping.options, seed, verdict));
    }

    fn join(&mut self, other: Sweep) {
        self.coverage.join(&other.coverage);
        self.failures.extend(other.failures);
        self.completed += other.completed;
        self.events += other.events;
        self.virtual_time += other.virtual_time;
        self.fingerprint = self.fingerprint.wrapping_add(other.fingerprint);
    }

    /// Seeds a second.
    pub fn rate(&self) -> f64 {
        self.coverage.seeds as f64 / self.took.as_secs_f64().max(1e-9)
    }
}

impl Failure {
    /// A seed whose verdict is not that it is valid.
    pub(crate) fn of(options: &Options, seed: u64, verdict: Verdict) -> Option<Self> {
        let replay = replay_line(options, seed);
        match verdict {
            Verdict::Valid => None,
            Verdict::Violated(violation) => Some(Self { seed, message: violation.to_string(), violation: Some(violation), replay }),
            Verdict::Unknown(message) => Some(Self { seed, message, violation: None, replay }),
        }
    }
}
