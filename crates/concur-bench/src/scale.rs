//! Many clients, watchers, leases and keys, one after the other on one cluster, and what each costs: time, latency, memory, disk.
//!
//! Each system takes one turn with a fresh cluster of three nodes. Clients put at once, each over a connection of its own; watchers, a
//! hundred on a stream, are told of puts that come at an even pace; leases, each with a key, are granted, and later end together while
//! puts come at that pace; keys are written once each. Latencies of paced puts run from the moment at which each was due.
//!
//! What is not here: rounds. A run is long and its figures are large; where systems differ by little, repeat it.

mod pace;
mod watchers;

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use concur_proto::etcdserverpb::kv_client::KvClient;
use concur_proto::etcdserverpb::lease_client::LeaseClient;
use concur_proto::etcdserverpb::{LeaseGrantRequest, PutRequest, RangeRequest};
use serde::Serialize;
use tokio::task::JoinSet;
use tonic::transport::{Channel, Endpoint as Dial};

use crate::cluster::{Cluster, Start, System};
use crate::compare::{CONNECTIONS_MAX, durable_filesystem, systems};
use crate::load::{self, Plan, Until};
use crate::measure::{Latency, histogram};
use crate::print::grouped;
use crate::usage;
use crate::workload::Workload;
use crate::{BenchError, Machine, ScaleArgs, SystemUsed};
use pace::{Paced, record};

/// Calls under way at once while leases are granted.
const GRANTERS: usize = 64;
/// How long one call may take.
const CALL_WITHIN: Duration = Duration::from_secs(30);
/// How long leases may take to end after their time.
const DRAIN_WITHIN: Duration = Duration::from_secs(900);

/// The keys of leases: from here to there.
const LEASE_KEYS: (&str, &str) = ("scale/lease/", "scale/lease0");

/// What both systems made of it.
#[derive(Debug, Serialize)]
pub struct Scaling {
    /// Where it ran.
    pub machine: Machine,
    /// Bytes of a value.
    pub value_bytes: usize,
    /// Length of each measured window.
    pub seconds: f64,
    /// Paced puts a second.
    pub rate: f64,
    /// The first system.
    pub ours: Scaled,
    /// What stands beside it.
    pub theirs: Scaled,
}

/// One system's turn.
#[derive(Debug, Serialize)]
pub struct Scaled {
    /// The system.
    pub system: SystemUsed,
    /// Its steps, in order.
    pub steps: Vec<Step>,
}

/// One step of a turn.
#[derive(Debug, Serialize)]
pub struct Step {
    /// What is there after it.
    pub what: String,
    /// How long it took to come to that, or to end.
    pub took_seconds: f64,
    /// What the latency is of.
    pub measured: String,
    /// That latency.
    pub latency: Latency,
    /// Calls that failed, and events that did not come.
    pub errors: u64,
    /// Resident memory of the node that takes most, in MiB.
    pub resident_mib: f64,
    /// What the data of the node that has most take on disk, in MiB.
    pub disk_mib: f64,
}

/// What a step measured.
struct Seen {
    took: Duration,
    latency: Latency,
    errors: u64,
}

/// Runs both turns; `say` is told how far it is.
pub(crate) fn run(args: &ScaleArgs, mut say: impl FnMut(&str)) -> Result<Scaling, BenchError> {
    let dir = args.dir.clone().unwrap_or_else(std::env::temp_dir).join(format!("concur-bench-{}", std::process::id()));
    fs::create_dir_all(&dir).map_err(|error| BenchError::Invalid(format!("{} cannot be made: {error}", dir.display())))?;
    let outcome = run_in(args, &dir, &mut say);
    if !args.keep {
        drop(fs::remove_dir(&dir));
    }
    outcome
}

fn run_in(args: &ScaleArgs, dir: &Path, say: &mut impl FnMut(&str)) -> Result<Scaling, BenchError> {
    let filesystem = durable_filesystem(dir)?;
    let (ours, theirs) = systems(&args.programs, false)?;
    let mut turn = |system: &System| turn(args, system, &dir.join(&system.name), say);
    let (ours, theirs) = (turn(&ours)?, turn(&theirs)?);
    let machine = Machine::here(filesystem);
    let (value_bytes, seconds, rate) = (args.value_bytes, args.duration.as_secs_f64(), args.rate);
    Ok(Scaling { machine, value_bytes, seconds, rate, ours, theirs })
}

fn turn(args: &ScaleArgs, system: &System, dir: &Path, say: &mut impl FnMut(&str)) -> Result<Scaled, BenchError> {
    let mut cluster = Cluster::start(Start { system, dir, traced: false, keep: args.keep })?;
    let runtime = load::runtime()?;
    let mut steps: Vec<Step> = Vec::new();
    let mut done = |cluster: &mut Cluster, what: String, measured: &str, seen: Seen| {
        cluster.check_alive()?;
        let resident_mib = usage::resident_mib(&cluster.pids())?.into_iter().fold(0.0, f64::max);
        let disk_mib =
            (1..=cluster.pids().len()).map(|node| bytes_under(&dir.join(format!("n{node}")))).max().unwrap_or(0) as f64 / 1048576.0;
        let Seen { took, latency, errors } = seen;
        say(&format!(
            "{} · {what} · {:.1} s · {measured} p50 {:.0} µs, p99 {:.0} µs · {resident_mib:.0} MiB · errors {errors}",
            system.name,
            took.as_secs_f64(),
            latency.p50_us,
            latency.p99_us
        ));
        steps.push(Step { what, took_seconds: took.as_secs_f64(), measured: measured.into(), latency, errors, resident_mib, disk_mib });
        Ok::<(), BenchError>(())
    };

    let seen = clients(args, &cluster)?;
    done(&mut cluster, format!("{} clients putting at once", grouped(args.clients as u64)), "a put", seen)?;

    let channels = runtime.block_on(async { channels(&cluster) })?;
    let (watchers, seen) = runtime.block_on(watchers::open_and_measure(args, &channels))?;
    done(&mut cluster, format!("{} watchers", grouped(args.watchers as u64)), "put to event", seen)?;
    runtime.block_on(watchers.close());

    let granted_at = Instant::now();
    let seen = runtime.block_on(grant(args, &channels))?;
    done(&mut cluster, format!("{} leases with a key each", grouped(args.leases as u64)), "a grant", seen)?;
    let seen = runtime.block_on(drain(args, &channels, granted_at + args.lease_ttl))?;
    done(&mut cluster, format!("{} leases ending", grouped(args.leases as u64)), "a put meanwhile", seen)?;

    let began = Instant::now();
    load::fill(&plan(args, &cluster, CONNECTIONS_MAX, CONNECTIONS_MAX))?;
    let took = began.elapsed();
    let seen = runtime.block_on(async { Paced::run(&channels, args, tokio::time::sleep(args.duration)).await });
    done(&mut cluster, format!("{} keys", grouped(args.keys)), "a put after", Seen { took, ..seen })?;
    Ok(Scaled { system: SystemUsed::of(system), steps })
}

fn plan(args: &ScaleArgs, cluster: &Cluster, clients: usize, connections: usize) -> Plan {
    Plan {
        endpoints: cluster.endpoints(),
        clients,
        connections,
        threads: 1,
        workload: Workload::Put,
        read_ratio: 0.0,
        value_bytes: args.value_bytes,
        keys: args.keys,
        key_prefix: "scale/key/".into(),
        seed: 1,
        until: Until::Elapsed(args.duration),
        warm_up: Duration::from_secs(1),
        rate: None,
        timeout: CALL_WITHIN,
        server_pids: Vec::new(),
        fill: false,
        progress: false,
    }
}

fn clients(args: &ScaleArgs, cluster: &Cluster) -> Result<Seen, BenchError> {
    // A space of keys that does not grow what later steps find there.
    let report = load::run(&Plan { keys: 1000, ..plan(args, cluster, args.clients, args.clients) })?;
    Ok(Seen { took: Duration::from_secs_f64(report.seconds), latency: report.latency, errors: report.errors_total() })
}

/// A few connections to each node.
fn channels(cluster: &Cluster) -> Result<Vec<Channel>, BenchError> {
    let endpoints = cluster.endpoints();
    let dial = |at: usize| {
        let dial = Dial::from_shared(format!("http://{}", endpoints[at % endpoints.len()]));
        let dial = dial.map_err(|error| BenchError::Failed(error.to_string()))?;
        Ok(dial.tcp_nodelay(true).timeout(CALL_WITHIN).connect_lazy())
    };
    (0..CONNECTIONS_MAX).map(dial).collect()
}

fn lease_key(number: usize) -> String {
    format!("{}{number:09}", LEASE_KEYS.0)
}

/// Grants the leases and gives each a key.
async fn grant(args: &ScaleArgs, channels: &[Channel]) -> Result<Seen, BenchError> {
    let (began, ttl) = (Instant::now(), args.lease_ttl.as_secs().max(1) as i64);
    let mut granters = JoinSet::new();
    for granter in 0..GRANTERS {
        let (channel, leases) = (channels[granter % channels.len()].clone(), args.leases);
        granters.spawn(async move {
            let (mut taken, mut errors) = (histogram(), 0);
            for number in (granter..leases).step_by(GRANTERS) {
                let asked = Instant::now();
                let granted = LeaseClient::new(channel.clone()).lease_grant(LeaseGrantRequest { ttl, id: 0 }).await;
                record(&mut taken, asked.elapsed());
                let Ok(granted) = granted else {
                    errors += 1;
                    continue;
                };
                let put = PutRequest { key: lease_key(number).into(), lease: granted.into_inner().id, ..PutRequest::default() };
                errors += u64::from(KvClient::new(channel.clone()).put(put).await.is_err());
            }
            (taken, errors)
        });
    }
    let (mut taken, mut errors) = (histogram(), 0);
    while let Some(granter) = granters.join_next().await {
        let (of_one, failed) = granter.map_err(|_| BenchError::Failed("a client of the generator panicked".into()))?;
        taken.add(of_one).expect("all histograms have the same bounds");
        errors += failed;
    }
    Ok(Seen { took: began.elapsed(), latency: Latency::of(&taken), errors })
}

/// Puts at an even pace from when the first lease is due to end until none of their keys is left.
async fn drain(args: &ScaleArgs, channels: &[Channel], due: Instant) -> Result<Seen, BenchError> {
    tokio::time::sleep_until(due.into()).await;
    let (began, channel) = (Instant::now(), channels[0].clone());
    let gone = async {
        while began.elapsed() < DRAIN_WITHIN {
            let (key, range_end) = (LEASE_KEYS.0.into(), LEASE_KEYS.1.into());
            let range = RangeRequest { key, range_end, count_only: true, ..RangeRequest::default() };
            let left = KvClient::new(channel.clone()).range(range).await;
            if left.is_ok_and(|left| left.into_inner().count == 0) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(250)).await;
        }
    };
    let seen = Paced::run(channels, args, gone).await;
    if began.elapsed() >= DRAIN_WITHIN {
        return Err(BenchError::Failed(format!("the leases did not end within {} s of their time", DRAIN_WITHIN.as_secs())));
    }
    Ok(Seen { took: began.elapsed(), ..seen })
}

/// What the files under a directory take; what goes away meanwhile takes nothing.
fn bytes_under(dir: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(dir) else { return 0 };
    let of = |entry: fs::DirEntry| match entry.metadata() {
        Ok(found) if found.is_dir() => bytes_under(&entry.path()),
        Ok(found) => found.len(),
        Err(_) => 0,
    };
    entries.flatten().map(of).sum()
}
