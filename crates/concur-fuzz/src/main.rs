//! Asks Concur and a real etcd the same, and compares what they say.
//!
//! A *sequence* is a few hundred calls made from a seed ([`generate`]). Each is sent to both ([`pair`]); replies, refusals with their
//! code and text, and what watches tell must be equal, but for what the one table of [`normal`] lets differ, with a reason each. A
//! sequence that was answered unlike is made smaller ([`shrink`]) as long as it still is, and printed with the line that sends
//! it again.
//!
//! Either both are given by their endpoints, or the programs are started here (`--start`), one cluster of each for each worker. Before a
//! sequence both are emptied and brought to one revision; started ones are now and then replaced by fresh ones, whose first revisions
//! are a case of their own.
//!
//! What is not compared: speed, membership, maintenance, auth, and what nobody asked two members at once.

mod call;
mod generate;
mod normal;
mod number;
mod pair;
mod shrink;
mod side;
mod start;
mod watch;
mod worker;

use clap::Parser;
use start::Program;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use worker::{Plan, Shared, Where};

/// Asks Concur and a real etcd the same and compares what they say. Ends with 0 if nothing differed, 1 if something did.
#[derive(Debug, Parser)]
#[command(name = "concur-fuzz", version)]
struct Arguments {
    /// What every sequence is made from
    #[arg(long, env = "CONCUR_FUZZ_SEED", default_value_t = 1)]
    seed: u64,
    /// Ends after so many calls
    #[arg(long, env = "CONCUR_FUZZ_CALLS")]
    calls: Option<u64>,
    /// Ends after so long: 90s, 2m
    #[arg(long, env = "CONCUR_FUZZ_TIME", value_parser = time)]
    time: Option<Duration>,
    /// Only this sequence
    #[arg(long, env = "CONCUR_FUZZ_SEQUENCE")]
    sequence: Option<u64>,
    /// Of that sequence only these calls, by their places: 3,17,18
    #[arg(long, env = "CONCUR_FUZZ_KEEP", value_delimiter = ',', requires = "sequence")]
    keep: Option<Vec<usize>>,
    /// Calls in a sequence
    #[arg(long, env = "CONCUR_FUZZ_LENGTH", default_value_t = 200)]
    length: usize,
    /// Differences after which to end
    #[arg(long, env = "CONCUR_FUZZ_DIFFERENCES", default_value_t = 1)]
    differences: usize,
    /// Starts both: the real etcd's program
    #[arg(long, env = "CONCUR_FUZZ_ETCD", value_name = "PROGRAM", requires = "concur")]
    etcd: Option<PathBuf>,
    /// Starts both: Concur's program
    #[arg(long, env = "CONCUR_FUZZ_CONCUR", value_name = "PROGRAM", requires = "etcd")]
    concur: Option<PathBuf>,
    /// The strategy that Concur is started with [default: its own]
    #[arg(long, env = "CONCUR_FUZZ_STRATEGY")]
    strategy: Option<String>,
    /// How many members Concur is started with
    #[arg(long, env = "CONCUR_FUZZ_MEMBERS", default_value_t = 1)]
    members: usize,
    /// Pairs of clusters that are started and asked at once
    #[arg(long, env = "CONCUR_FUZZ_WORKERS", default_value_t = 2)]
    workers: u64,
    /// Where the started ones keep their data: a file system in memory is quickest
    #[arg(long, env = "CONCUR_FUZZ_SCRATCH", value_name = "DIRECTORY")]
    scratch: Option<PathBuf>,
    /// The real etcd's endpoints
    #[arg(long, env = "CONCUR_FUZZ_REFERENCE", value_name = "URL,…", value_delimiter = ',', conflicts_with = "etcd", requires = "subject")]
    reference: Vec<String>,
    /// Concur's endpoints
    #[arg(long, env = "CONCUR_FUZZ_SUBJECT", value_name = "URL,…", value_delimiter = ',', requires = "reference")]
    subject: Vec<String>,
    /// Prints what may differ, and why
    #[arg(long)]
    rules: bool,
}

fn time(text: &str) -> Result<Duration, String> {
    let (digits, unit) = text.split_at(text.len() - text.chars().next_back().map_or(0, char::len_utf8));
    let number: u64 = digits.parse().map_err(|_| "a number and a unit: 90s, 2m, 1h".to_owned())?;
    let seconds = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        _ => return Err("the unit is s, m or h".into()),
    };
    Ok(Duration::from_secs(number.saturating_mul(seconds)))
}

/// What Concur is started with.
fn serve(strategy: Option<&str>) -> Vec<String> {
    let strategy = strategy.into_iter().flat_map(|name| ["--strategy", name]);
    ["serve", "--until-stdin-ends"].into_iter().chain(strategy).map(str::to_owned).collect()
}

fn plan(arguments: &Arguments) -> Result<Plan, String> {
    let place = match (&arguments.etcd, &arguments.concur) {
        (Some(etcd), Some(concur)) => Where::Started {
            reference: Program { path: etcd.clone(), members: 1, arguments: Vec::new() },
            subject: Program { path: concur.clone(), members: arguments.members, arguments: serve(arguments.strategy.as_deref()) },
            scratch: arguments.scratch.clone().unwrap_or_else(std::env::temp_dir),
        },
        _ if arguments.reference.is_empty() => {
            return Err("give two programs (--etcd, --concur) or endpoints (--reference, --subject)".into());
        }
        _ => Where::Running { reference: arguments.reference.clone(), subject: arguments.subject.clone() },
    };
    Ok(Plan {
        seed: arguments.seed,
        length: arguments.length,
        calls_max: arguments.calls.unwrap_or(u64::MAX),
        time_max: arguments.time,
        only: arguments.sequence,
        keep: arguments.keep.clone(),
        differences_max: arguments.differences,
        place,
    })
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if arguments.rules {
        print!("{}", normal::table());
        return ExitCode::SUCCESS;
    }
    let plan = match plan(&arguments) {
        Ok(plan) => plan,
        Err(why) => {
            eprintln!("concur-fuzz: {why}");
            return ExitCode::from(64);
        }
    };
    let workers = if plan.only.is_some() || matches!(plan.place, Where::Running { .. }) { 1 } else { arguments.workers.max(1) };
    let shared = Arc::new(Shared::new(plan));
    let threads: Vec<_> = (0..workers)
        .map(|_| {
            let shared = shared.clone();
            std::thread::spawn(move || worker::work(&shared))
        })
        .collect();
    let mut failed = false;
    for thread in threads {
        match thread.join() {
            Ok(Ok(())) => {}
            Ok(Err(why)) => {
                eprintln!("concur-fuzz: {why}");
                failed = true;
            }
            Err(_) => failed = true,
        }
    }
    println!("{}", shared.summary());
    if shared.compared() == 0 {
        eprintln!("concur-fuzz: nothing was compared");
        failed = true;
    }
    if failed || shared.differences.load(Ordering::Relaxed) > 0 { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_are_consistent_and_times_are_read() {
        use clap::CommandFactory;
        Arguments::command().debug_assert();
        assert_eq!(time("2m"), Ok(Duration::from_secs(120)));
        assert_eq!(time("90s"), Ok(Duration::from_secs(90)));
        assert!(time("90").is_err() && time("").is_err() && time("m").is_err());
    }
}
