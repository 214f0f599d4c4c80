//! `concur check`: the simulator with every checker. The work is the simulator's; here flags become a sweep.

mod latency;

use crate::exit::{Exit, Failure, Outcome, Tone, say};
use crate::output::Output;
use clap::{Args, ValueEnum};
use concur_core::Strategy;
use concur_sim::{Fault, Options, Progress, Report, Sweeping};
use serde_json::{Value, json};
use std::io::{IsTerminal, Write};
use std::path::PathBuf;

/// Hold a strategy to every promise, in simulated worlds where everything goes wrong
///
/// A seed is one run of 3 to 7 replicas with clients and faults. Ends with 0 if all are valid, 1 if a promise was broken (the line
/// that replays it is printed) or something was not covered, 2 if a checker could not tell.
#[derive(Debug, Args)]
pub(crate) struct Check {
    /// Which strategy, as `concur strategies` prints them; without it, the one that a system has by default
    #[arg(long, env = "CONCUR_STRATEGY", value_name = "NAME")]
    strategy: Option<String>,
    /// How many seeds
    #[arg(long, env = "CONCUR_SEEDS", default_value_t = 1_000, value_name = "N")]
    seeds: u64,
    /// One seed, shown closely
    #[arg(long, env = "CONCUR_SEED", value_name = "X")]
    seed: Option<u64>,
    /// The first seed of a sweep
    #[arg(long, env = "CONCUR_FIRST_SEED", default_value_t = 0, value_name = "X")]
    first: u64,
    /// How many replicas; without it, 3 to 7 are drawn
    #[arg(long, env = "CONCUR_REPLICAS", value_name = "N", value_parser = clap::value_parser!(u8).range(1..=7))]
    replicas: Option<u8>,
    /// Which faults, by name or group: network, partition, crash, disk, hints, epochs, all, none
    #[arg(long, env = "CONCUR_FAULTS", default_value = "all", value_name = "LIST")]
    faults: String,
    /// How writes are ordered; without it, it is drawn
    #[arg(long, env = "CONCUR_ORDER", value_enum, value_name = "ORDER")]
    order: Option<Order>,
    /// On how many threads; without it, on all cores
    #[arg(long, env = "CONCUR_THREADS", value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    threads: Option<u16>,
    /// No sweep: commit latencies by site, beside the closed form and what papers printed; of all strategies without `--strategy`
    #[arg(long, env = "CONCUR_LATENCY", conflicts_with_all = ["seeds", "seed", "first", "replicas", "faults", "order", "threads"])]
    latency: bool,
    /// A table of round trips in milliseconds, `site,A,B` and a line a site; without it, the published ones
    #[arg(long, env = "CONCUR_TOPOLOGY", requires = "latency", value_name = "FILE")]
    topology: Option<PathBuf>,
    #[command(flatten)]
    output: Output,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Order {
    /// Every write takes the next revision
    Total,
    /// Each key counts its own changes
    PerKey,
}

impl Check {
    pub(crate) fn run(self) -> Outcome {
        if self.latency {
            let one = self.strategy.is_some().then(|| self.strategy()).transpose()?;
            let strategies = one.map_or_else(|| concur::registry().to_vec(), |strategy| vec![strategy]);
            return latency::run(&strategies, self.topology.as_deref(), &self.output);
        }
        let options = self.options()?;
        let report = match self.seed {
            Some(seed) => Report::of_seed(&options, seed),
            None => self.sweep(options),
        };
        self.output.show(&value(&report), |_| report.text.clone())?;
        crate::exit::done(report.exit_code.into())
    }

    fn strategy(&self) -> Result<Strategy, Failure> {
        let Some(name) = &self.strategy else { return Ok(concur::System::default().decision_making.0) };
        let found = concur::registry().iter().find(|strategy| strategy.traits.name == name);
        found.copied().ok_or_else(|| Failure::new(Exit::Invalid, format!("there is no strategy `{name}`; see `concur strategies`")))
    }

    fn options(&self) -> Result<Options, Failure> {
        let invalid = |message| Failure::new(Exit::Invalid, message);
        let mut options = Options::new(self.strategy()?);
        options.replicas = self.replicas.map(usize::from);
        options.ordering = match self.order {
            Some(Order::Total) => Options::ordering_named("total"),
            Some(Order::PerKey) => Options::ordering_named("per-key"),
            None => None,
        };
        options.faults = Fault::parse(&self.faults).map_err(|word| {
            let names: Vec<&str> = Fault::ALL.iter().map(|fault| fault.name()).collect();
            invalid(format!("there is no fault `{word}`; there are {}", names.join(", ")))
        })?;
        Ok(options)
    }

    fn sweep(&self, options: Options) -> Report {
        let mut sweeping = Sweeping::new(options, self.first, self.seeds);
        if let Some(threads) = self.threads {
            sweeping.threads = threads.into();
        }
        let terminal = std::io::stderr().is_terminal();
        let report = Report::of(&sweeping, |progress| {
            if terminal {
                show(progress);
            }
        });
        if terminal {
            drop(write!(std::io::stderr().lock(), "\r\x1b[K"));
        }
        if report.exit_code != 0 {
            say(Tone::Note, &format!("{} of {} seeds failed", report.sweep.failures.len(), report.sweep.coverage.seeds));
        }
        report
    }
}

fn show(progress: Progress) {
    let Progress { done, seeds, failures, took } = progress;
    let rate = done as f64 / took.as_secs_f64().max(1e-3);
    let left = if done == 0 { String::from("?") } else { format!("{:.0} s", (seeds - done.min(seeds)) as f64 / rate.max(1e-3)) };
    let failed = if failures == 0 { String::new() } else { format!(" · {failures} failed") };
    drop(write!(std::io::stderr().lock(), "\r\x1b[K{done} of {seeds} seeds · {rate:.0} a second · {left} left{failed}"));
}

fn value(report: &Report) -> Value {
    let sweep = &report.sweep;
    let failures: Vec<Value> = sweep
        .failures
        .iter()
        .map(|failure| {
            let kind = failure.violation.as_ref().map(|violation| violation.kind);
            json!({ "seed": failure.seed, "kind": kind, "message": failure.message, "replay": failure.replay })
        })
        .collect();
    json!({
        "verdict": report.verdict,
        "seeds": sweep.coverage.seeds,
        "operations": sweep.completed,
        "events": sweep.events,
        "seconds": sweep.took.as_secs_f64(),
        "seeds_per_second": sweep.rate(),
        "fingerprint": format!("{:016x}", sweep.fingerprint),
        "failures": failures,
        "coverage": sweep.coverage.met,
    })
}
