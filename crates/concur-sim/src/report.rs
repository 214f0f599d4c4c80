//! What `concur check` does, but for reading its flags: sweeps or replays, and says in words what came out.

use crate::fault::Fault;
use crate::ledger::Violation;
use crate::run::run;
use crate::schedule::{Options, Schedule};
use crate::shrink::shrink;
use crate::sweep::{Failure, Progress, Sweep, Sweeping, sweep};
use crate::world::Verdict;
use concur_kv::Ordering;
use std::fmt::Write;
use std::time::Duration;

/// For how long a failure is made smaller.
const SHRINK_BUDGET: Duration = Duration::from_secs(30);

/// How many lines of a trace are drawn.
const LINES_MAX: usize = 160;

/// The result of a check.
#[derive(Debug, Clone)]
pub struct Report {
    /// The sweep.
    pub sweep: Sweep,
    /// 0 valid, 1 violated or not covered, 2 unknown.
    pub exit_code: u8,
    /// The verdict, in words.
    pub verdict: &'static str,
    /// Everything, in words.
    pub text: String,
}

impl Report {
    /// Runs a sweep and tells what came out. The first failure is made smaller and drawn.
    pub fn of(sweeping: &Sweeping, progress: impl FnMut(Progress)) -> Self {
        let sweep = sweep(sweeping, progress);
        let mut text = String::new();
        summary(&mut text, sweeping, &sweep);
        let options = &sweeping.options;
        let missing = sweep.coverage.missing(&options.strategy, &options.faults);
        for failure in sweep.failures.iter().skip(1) {
            let _ = writeln!(text, "{}\n  {}", failure.message, failure.replay);
        }
        if let Some(failure) = sweep.failures.first() {
            explain(&mut text, options, failure);
        }
        let violated = sweep.failures.iter().any(|failure| failure.violation.is_some());
        let uncovered = sweep.failures.is_empty() && !missing.is_empty();
        let exit_code = match (violated, sweep.failures.is_empty()) {
            (true, _) => 1,
            (false, false) => 2,
            (false, true) => u8::from(uncovered),
        };
        let verdict = match exit_code {
            0 => "valid",
            2 => "unknown: a checker ran out of budget",
            _ if violated => "violated",
            _ => "not covered: something that should be met was met too seldom",
        };
        let _ = writeln!(text, "{verdict}");
        Self { sweep, exit_code, verdict, text }
    }

    /// Runs one seed and tells what came out.
    pub fn of_seed(options: &Options, seed: u64) -> Self {
        let schedule = Schedule::draw(options, seed);
        let (mut outcome, again) = (run(&schedule), run(&schedule));
        let mut text = schedule.to_string();
        let (events, lasted, fingerprint) = (outcome.events, outcome.lasted, outcome.fingerprint);
        let completed = outcome.completed;
        let _ = writeln!(text, "{completed} operations, {events} things in {lasted:?} of virtual time, fingerprint {fingerprint:016x}");
        let _ = writeln!(text, "met: {}", outcome.met.iter().copied().collect::<Vec<_>>().join(", "));
        if again.fingerprint != fingerprint {
            outcome.verdict = Verdict::Violated(Violation::new("determinism", "two runs of one seed differ"));
        }
        let mut sweep = Sweep::default();
        sweep.coverage.add(&outcome);
        (sweep.completed, sweep.events, sweep.virtual_time, sweep.fingerprint) = (completed, events, lasted, fingerprint);
        sweep.failures.extend(Failure::of(options, seed, outcome.verdict));
        let (exit_code, verdict) = match sweep.failures.first().map(|failure| failure.violation.is_some()) {
            None => (0, "valid"),
            Some(true) => (1, "violated"),
            Some(false) => (2, "unknown"),
        };
        if let Some(failure) = sweep.failures.first() {
            explain(&mut text, options, failure);
        }
        let _ = writeln!(text, "{verdict}");
        Self { sweep, exit_code, verdict, text }
    }
}

fn summary(text: &mut String, sweeping: &Sweeping, sweep: &Sweep) {
    let options = &sweeping.options;
    let _ = writeln!(text, "coverage: in how many of {} seeds", sweep.coverage.seeds);
    for line in sweep.coverage.lines(&options.strategy, &options.faults) {
        let _ = writeln!(text, "{line}");
    }
    let replicas = options.replicas.map_or("3 to 7".to_owned(), |n| n.to_string());
    let _ = writeln!(
        text,
        "{}: {} seeds of {replicas} replicas, {} operations, {} things, {:.0} h of virtual time, {} failures",
        options.strategy.traits.name,
        sweep.coverage.seeds,
        sweep.completed,
        sweep.events,
        sweep.virtual_time.as_secs_f64() / 3600.0,
        sweep.failures.len()
    );
    let _ = writeln!(
        text,
        "{:.1?}, {:.0} seeds/s on {} threads, fingerprint {:016x}",
        sweep.took,
        sweep.rate(),
        sweeping.threads,
        sweep.fingerprint
    );
}

/// The line that replays a seed. The program knows registered protocols only; another one's crate calls [`check`](fn@crate::check).
pub(crate) fn replay_line(options: &Options, seed: u64) -> String {
    let name = options.strategy.traits.name;
    let mut line = match concur_decision::find(name) {
        Some(_) => format!("concur check --strategy {name} --seed {seed}"),
        None => format!("concur_sim::check of {name}, with the flags --seed {seed}"),
    };
    if let Some(replicas) = options.replicas {
        let _ = write!(line, " --replicas {replicas}");
    }
    match options.ordering {
        Some(Ordering::Total) => line += " --order total",
        Some(Ordering::PerKey) => line += " --order per-key",
        None => {}
    }
    if options.faults.len() < Fault::ALL.len() {
        let names: Vec<&str> = options.faults.iter().map(|fault| fault.name()).collect();
        let _ = write!(line, " --faults {}", if names.is_empty() { "none".to_owned() } else { names.join(",") });
    }
    line
}

/// Shrinks a failure and draws it.
fn explain(text: &mut String, options: &Options, failure: &Failure) {
    let schedule = Schedule::draw(options, failure.seed);
    if let Some(shrunk) = shrink(&schedule, SHRINK_BUDGET) {
        let _ = writeln!(text, "\nseed {} made smaller, in {} runs:\n{}", failure.seed, shrunk.runs, shrunk.schedule);
        text.push_str(&shrunk.trace.picture(shrunk.schedule.machines(), LINES_MAX));
        let again = match &shrunk.outcome.verdict {
            Verdict::Valid => "valid".to_owned(),
            Verdict::Violated(violation) => violation.to_string(),
            Verdict::Unknown(message) => message.clone(),
        };
        let _ = writeln!(text, "{again}");
    }
    let _ = writeln!(text, "\nseed {}: {}\n  {}", failure.seed, failure.message, failure.replay);
}
