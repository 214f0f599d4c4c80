//! One worker: a pair of clusters, and sequence after sequence.

use crate::call::Call;
use crate::generate::{Options, sequence};
use crate::pair::{Counts, Difference, PATIENCE, Pair};
use crate::shrink::shrink;
use crate::side::Side;
use crate::start::{Cluster, Program};
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// Every so many sequences, started clusters are replaced by fresh ones.
const FRESH_EVERY: u64 = 50;
/// How often a sequence that was answered unlike is sent again, to see whether it is so again.
const AGAIN_MAX: usize = 2;

/// Where the two are.
pub(crate) enum Where {
    Running { reference: Vec<String>, subject: Vec<String> },
    Started { reference: Program, subject: Program, scratch: PathBuf },
}

/// What to do.
pub(crate) struct Plan {
    pub(crate) seed: u64,
    pub(crate) length: usize,
    pub(crate) calls_max: u64,
    pub(crate) time_max: Option<Duration>,
    pub(crate) only: Option<u64>,
    pub(crate) keep: Option<Vec<usize>>,
    pub(crate) differences_max: usize,
    pub(crate) place: Where,
}

/// What all workers share.
pub(crate) struct Shared {
    pub(crate) plan: Plan,
    pub(crate) differences: AtomicUsize,
    began: Instant,
    next: AtomicU64,
    calls: AtomicU64,
    sequences: AtomicU64,
    /// Sequences that were answered unlike once and alike when sent again.
    fleeting: AtomicUsize,
    stopped: AtomicBool,
    counts: Mutex<Counts>,
    versions: Mutex<(String, String)>,
}

impl Shared {
    pub(crate) fn new(plan: Plan) -> Self {
        Self {
            plan,
            differences: AtomicUsize::new(0),
            began: Instant::now(),
            next: AtomicU64::new(0),
            calls: AtomicU64::new(0),
            sequences: AtomicU64::new(0),
            fleeting: AtomicUsize::new(0),
            stopped: AtomicBool::new(false),
            counts: Mutex::new([0; Call::KINDS.len()]),
            versions: Mutex::default(),
        }
    }

    /// The number of the next sequence, unless it is over.
    fn next(&self) -> Option<u64> {
        let over = self.stopped.load(Ordering::Relaxed)
            || self.calls.load(Ordering::Relaxed) >= self.plan.calls_max
            || self.plan.time_max.is_some_and(|max| self.began.elapsed() >= max)
            || self.differences.load(Ordering::Relaxed) >= self.plan.differences_max;
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        match self.plan.only {
            Some(only) => (number == 0).then_some(only),
            None => (!over).then_some(number),
        }
    }

    fn count(&self, counts: &Counts) {
        let mut all = self.counts.lock().expect("nobody panics with it");
        all.iter_mut().zip(counts).for_each(|(all, count)| *all += count);
        self.calls.fetch_add(counts.iter().sum(), Ordering::Relaxed);
        self.sequences.fetch_add(1, Ordering::Relaxed);
    }

    /// How many calls were compared.
    pub(crate) fn compared(&self) -> u64 {
        self.calls.load(Ordering::Relaxed)
    }

    /// How much was compared, in words.
    pub(crate) fn summary(&self) -> String {
        let counts = self.counts.lock().expect("nobody panics with it");
        let kinds = Call::KINDS.iter().zip(counts.iter()).filter(|(_, count)| **count > 0).map(|(kind, count)| format!("{kind} {count}"));
        let (calls, seconds) = (self.calls.load(Ordering::Relaxed), self.began.elapsed().as_secs_f64());
        let versions = self.versions.lock().expect("nobody panics with it");
        format!(
            "{calls} calls in {} sequences against etcd {} ({}), {seconds:.0} s, {:.0} calls/s: {}\n{} differences, {} seen once only",
            self.sequences.load(Ordering::Relaxed),
            versions.0,
            versions.1,
            calls as f64 / seconds.max(0.001),
            kinds.collect::<Vec<_>>().join(", "),
            self.differences.load(Ordering::Relaxed),
            self.fleeting.load(Ordering::Relaxed),
        )
    }
}

/// A pair and the clusters that it was started with.
pub(crate) struct Bench<'a> {
    plan: &'a Plan,
    pub(crate) pair: Pair,
    /// How long both may take to tell the same.
    pub(crate) patience: Duration,
    /// Whether nothing was asked yet.
    fresh: bool,
    /// Killed when this goes.
    _clusters: Option<(Cluster, Cluster)>,
}

impl<'a> Bench<'a> {
    async fn new(plan: &'a Plan) -> Result<Self, String> {
        let (reference, subject, clusters) = match &plan.place {
            Where::Running { reference, subject } => (reference.clone(), subject.clone(), None),
            Where::Started { reference, subject, scratch } => {
                let (reference, subject) = tokio::join!(Cluster::start(reference, scratch), Cluster::start(subject, scratch));
                let (reference, subject) = (reference?, subject?);
                (reference.endpoints.clone(), subject.endpoints.clone(), Some((reference, subject)))
            }
        };
        let pair = Pair::new(Side::connect(&reference).await?, Side::connect(&subject).await?).await?;
        Ok(Self { plan, pair, patience: PATIENCE, fresh: clusters.is_some(), _clusters: clusters })
    }

    /// Makes both ready for a sequence: fresh if they can be, and emptied otherwise.
    async fn prepare(&mut self, fresh: bool) -> Result<(), String> {
        if fresh && matches!(self.plan.place, Where::Started { .. }) {
            if !self.fresh {
                let (counts, patience) = (self.pair.counts, self.patience);
                *self = Self::new(self.plan).await?;
                (self.pair.counts, self.patience) = (counts, patience);
            }
            return self.pair.begin_fresh().await;
        }
        self.pair.wipe().await
    }

    /// Sends a sequence to both.
    pub(crate) async fn run(&mut self, calls: &[Call], fresh: bool) -> Result<Option<Difference>, String> {
        if let Err(why) = self.prepare(fresh).await {
            // One of them may be beyond being emptied; then others take their place.
            if !matches!(self.plan.place, Where::Started { .. }) {
                return Err(why);
            }
            let (counts, patience) = (self.pair.counts, self.patience);
            *self = Self::new(self.plan).await?;
            (self.pair.counts, self.patience) = (counts, patience);
            self.prepare(fresh).await?;
        }
        self.fresh = false;
        self.pair.patience = self.patience;
        Ok(self.pair.run(calls).await)
    }
}

/// Does sequences until it is over.
pub(crate) fn work(shared: &Shared) -> Result<(), String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|error| error.to_string())?;
    let done = runtime.block_on(sequences(shared));
    shared.stopped.fetch_or(done.is_err(), Ordering::Relaxed);
    done
}

async fn sequences(shared: &Shared) -> Result<(), String> {
    let plan = &shared.plan;
    let mut bench = Bench::new(plan).await?;
    let etcd = bench.pair.etcd().to_owned();
    let options = Options { calls: plan.length, modern: is_modern(&etcd) };
    let of = match &plan.place {
        Where::Started { subject, .. } => format!("{}, {} members", subject.arguments.join(" "), subject.members),
        Where::Running { subject, .. } => subject.join(","),
    };
    *shared.versions.lock().expect("nobody panics with it") = (etcd, of);
    while let Some(number) = shared.next() {
        let mut calls: Vec<(usize, Call)> = sequence(plan.seed, number, options).into_iter().enumerate().collect();
        if let Some(keep) = &plan.keep {
            calls.retain(|(place, _)| keep.contains(place));
        }
        one(shared, &mut bench, number, calls).await?;
    }
    Ok(())
}

async fn one(shared: &Shared, bench: &mut Bench<'_>, number: u64, calls: Vec<(usize, Call)>) -> Result<(), String> {
    let fresh = number.is_multiple_of(FRESH_EVERY);
    let plain = |calls: &[(usize, Call)]| calls.iter().map(|(_, call)| call.clone()).collect::<Vec<_>>();
    let before = bench.pair.counts;
    let difference = bench.run(&plain(&calls), fresh).await?;
    let counts: Counts = std::array::from_fn(|kind| bench.pair.counts[kind] - before[kind]);
    shared.count(&counts);
    let Some(difference) = difference else { return Ok(()) };
    let first = (calls.clone(), difference.clone());
    let again = {
        let mut again = None;
        for _ in 0..AGAIN_MAX {
            again = again.or(bench.run(&plain(&calls), fresh).await?);
        }
        again
    };
    let (calls, difference, fleeting) = match again {
        Some(difference) => {
            let (calls, difference) = shrink(bench, calls, difference, fresh).await?;
            (calls, difference, false)
        }
        None => (first.0, first.1, true),
    };
    let which = if fleeting { &shared.fleeting } else { &shared.differences };
    which.fetch_add(1, Ordering::Relaxed);
    print(shared, number, &calls, &difference, fleeting);
    Ok(())
}

fn print(shared: &Shared, number: u64, calls: &[(usize, Call)], difference: &Difference, fleeting: bool) {
    let mut text = format!("\n-- sequence {number}{}\n", if fleeting { ": answered unlike once, alike when sent again" } else { "" });
    // Of one that could not be made smaller the last calls say most.
    let skipped = if fleeting { difference.at.saturating_sub(12) } else { 0 };
    for (at, (place, call)) in calls.iter().enumerate().take(difference.at + 1).skip(skipped) {
        text.push_str(&format!("{} {place:>4}  {call}\n", if at == difference.at { ">" } else { " " }));
    }
    text.push_str(&format!("   etcd:   {:?}\n   concur: {:?}\n", difference.reference, difference.subject));
    let keep: Vec<String> = calls.iter().take(difference.at + 1).map(|(place, _)| place.to_string()).collect();
    let keep = if fleeting { String::new() } else { format!(" --keep {}", keep.join(",")) };
    let Plan { seed, length, .. } = &shared.plan;
    text.push_str(&format!("   again:  concur-fuzz --seed {seed} --length {length} --sequence {number}{keep} …\n"));
    println!("{text}");
}

/// Whether this etcd is 3.7 or later.
fn is_modern(version: &str) -> bool {
    let mut parts = version.split('.').map(|part| part.parse::<u32>().unwrap_or(0));
    (parts.next().unwrap_or(0), parts.next().unwrap_or(0)) >= (3, 7)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_compared_as_numbers() {
        assert!(is_modern("3.7.3") && is_modern("3.10.0") && is_modern("4.0.0"));
        assert!(!is_modern("3.6.16") && !is_modern("3.4.23") && !is_modern(""));
    }
}
