//! What a run measured: latencies, counts, and the reports made of them.
//!
//! Latencies go into a histogram with three significant digits, so that a run of any length takes the same memory and a
//! percentile is right to a thousandth of itself. An operation belongs to the window in which it ended (closed loop) or
//! was meant to begin (open loop).

use std::collections::BTreeMap;
use std::time::Duration;

use hdrhistogram::Histogram;
use serde::Serialize;

use crate::usage::ServerUse;
use crate::wire::{Endpoint, Failure};
use crate::workload::{Action, Workload};

/// The longest latency told apart; longer ones count as this.
pub(crate) const LATENCY_NS_MAX: u64 = 120_000_000_000;

/// What one thread's clients saw within the window.
#[derive(Debug)]
pub(crate) struct Recorder {
    latencies: BTreeMap<Action, Histogram<u64>>,
    errors: BTreeMap<Failure, u64>,
    /// Answers that came within the window.
    pub(crate) completed: u64,
    /// Gets that found no such key.
    pub(crate) missing: u64,
    /// Operations of an open loop that no client was free to send before the window closed.
    pub(crate) unsent: u64,
}

impl Recorder {
    pub(crate) fn new() -> Recorder {
        Recorder { latencies: BTreeMap::new(), errors: BTreeMap::new(), completed: 0, missing: 0, unsent: 0 }
    }

    pub(crate) fn latency(&mut self, action: Action, latency: Duration) {
        let latency_ns = u64::try_from(latency.as_nanos()).unwrap_or(LATENCY_NS_MAX);
        self.latencies.entry(action).or_insert_with(histogram).saturating_record(latency_ns.max(1));
    }

    pub(crate) fn error(&mut self, failure: Failure) {
        *self.errors.entry(failure).or_default() += 1;
    }

    /// Adds what another thread saw.
    pub(crate) fn merge(&mut self, other: Recorder) {
        for (action, latencies) in other.latencies {
            self.latencies.entry(action).or_insert_with(histogram).add(latencies).expect("all histograms have the same bounds");
        }
        for (failure, count) in other.errors {
            *self.errors.entry(failure).or_default() += count;
        }
        self.completed += other.completed;
        self.missing += other.missing;
        self.unsent += other.unsent;
    }

    /// Latencies of all operations together.
    pub(crate) fn overall(&self) -> Latency {
        let mut all = histogram();
        for latencies in self.latencies.values() {
            all.add(latencies).expect("all histograms have the same bounds");
        }
        Latency::of(&all)
    }

    /// Latencies of each kind of operation; empty unless there are several.
    pub(crate) fn by_action(&self) -> BTreeMap<String, Latency> {
        if self.latencies.len() < 2 {
            return BTreeMap::new();
        }
        self.latencies.iter().map(|(action, latencies)| (action.name().to_owned(), Latency::of(latencies))).collect()
    }

    /// Failures, each under the name of its kind.
    pub(crate) fn errors(&self) -> BTreeMap<String, u64> {
        let mut named = BTreeMap::new();
        for (failure, count) in &self.errors {
            *named.entry(failure.label().to_owned()).or_default() += count;
        }
        named
    }
}

pub(crate) fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, LATENCY_NS_MAX, 3).expect("the bounds are in order and three digits are allowed")
}

/// Latencies in microseconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Latency {
    /// Operations measured.
    pub count: u64,
    /// The mean.
    pub mean_us: f64,
    /// Half of the operations took no longer.
    pub p50_us: f64,
    /// Nine in ten took no longer.
    pub p90_us: f64,
    /// Ninety-nine in a hundred took no longer.
    pub p99_us: f64,
    /// All but one in a thousand took no longer.
    pub p999_us: f64,
    /// The longest.
    pub max_us: f64,
}

impl Latency {
    pub(crate) fn of(latencies: &Histogram<u64>) -> Latency {
        let at = |quantile| latencies.value_at_quantile(quantile) as f64 / 1e3;
        Latency {
            count: latencies.len(),
            mean_us: latencies.mean() / 1e3,
            p50_us: at(0.50),
            p90_us: at(0.90),
            p99_us: at(0.99),
            p999_us: at(0.999),
            max_us: latencies.max() as f64 / 1e3,
        }
    }
}

/// The outcome of one run.
#[derive(Debug, Clone, Serialize)]
pub struct LoadReport {
    /// What the clients did.
    pub workload: Workload,
    /// The servers they did it to.
    pub endpoints: Vec<Endpoint>,
    /// Clients, each with one operation under way at most.
    pub clients: usize,
    /// Connections that the clients shared.
    pub connections: usize,
    /// Bytes of a value.
    pub value_bytes: usize,
    /// Size of the key space.
    pub keys: u64,
    /// Seed of keys, values and the mix.
    pub seed: u64,
    /// Operations a second that an open loop meant to send; none in a closed loop.
    pub rate: Option<f64>,
    /// Length of the measured window.
    pub seconds: f64,
    /// Operations answered within the window.
    pub operations: u64,
    /// Operations answered a second.
    pub throughput: f64,
    /// Latencies of the answered operations; in an open loop from the time at which each was meant to be sent, and
    /// with the unsent ones at what they had waited when the window closed.
    pub latency: Latency,
    /// The same for each kind of operation, where there are several.
    pub by_action: BTreeMap<String, Latency>,
    /// Failed operations by kind.
    pub errors: BTreeMap<String, u64>,
    /// Gets that found no such key.
    pub missing: u64,
    /// Operations that an open loop had no free client for.
    pub unsent: u64,
    /// The servers' use of the machine, where their processes are known.
    pub servers: Option<ServerUse>,
    /// CPU time that the generator itself spent on an operation.
    pub generator_cpu_us_per_op: Option<f64>,
    /// The window by the wall clock, in seconds since 1970: other tools' timestamps are matched with it.
    pub window: (f64, f64),
}

impl LoadReport {
    /// All failures.
    pub fn errors_total(&self) -> u64 {
        self.errors.values().sum()
    }

    /// CPU time of all servers together for one operation, where it is known.
    pub fn server_cpu_us_per_op(&self) -> Option<f64> {
        self.servers.as_ref().map(|servers| servers.cpu_us_per_op)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn close(found: f64, expected: f64) -> bool {
        (found - expected).abs() <= expected / 500.0
    }

    #[test]
    fn percentiles_are_right_to_a_thousandth() {
        let mut recorder = Recorder::new();
        (1..=10_000).for_each(|us| recorder.latency(Action::Put, Duration::from_micros(us)));
        let latency = recorder.overall();
        assert_eq!(latency.count, 10_000);
        assert!(close(latency.mean_us, 5_000.5), "{latency:?}");
        assert!(close(latency.p50_us, 5_000.0), "{latency:?}");
        assert!(close(latency.p90_us, 9_000.0), "{latency:?}");
        assert!(close(latency.p99_us, 9_900.0), "{latency:?}");
        assert!(close(latency.p999_us, 9_990.0), "{latency:?}");
        assert!(close(latency.max_us, 10_000.0), "{latency:?}");
    }

    #[test]
    fn merging_two_threads_is_as_if_one_had_seen_all() {
        let (mut one, mut other) = (Recorder::new(), Recorder::new());
        (0..500).for_each(|us| one.latency(Action::Put, Duration::from_micros(us * 2)));
        (0..500).for_each(|us| other.latency(Action::Get, Duration::from_micros(us * 2 + 1)));
        one.error(Failure::Timeout);
        other.error(Failure::Timeout);
        other.error(Failure::Status(14));
        one.completed = 3;
        other.completed = 4;
        one.merge(other);
        assert_eq!(one.overall().count, 1_000);
        assert!(close(one.overall().p50_us, 499.0), "{:?}", one.overall());
        assert_eq!(one.by_action().keys().collect::<Vec<_>>(), ["get", "put"]);
        assert_eq!(one.errors(), BTreeMap::from([("timeout".to_owned(), 2), ("unavailable".to_owned(), 1)]));
        assert_eq!(one.completed, 7);
    }

    #[test]
    fn a_latency_beyond_all_bounds_is_kept_as_the_longest() {
        let mut recorder = Recorder::new();
        recorder.latency(Action::Put, Duration::from_secs(1_000_000));
        recorder.latency(Action::Put, Duration::ZERO);
        assert!(close(recorder.overall().max_us, 120e6), "{:?}", recorder.overall());
        assert!(recorder.by_action().is_empty());
    }
}
