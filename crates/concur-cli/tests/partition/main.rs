//! Members in network namespaces of their own are killed, paused and cut off under load. Nothing acknowledged is lost, no revision is
//! there twice or missing, every watch tells of every revision, every answer is what its revision says, and all members' hashes agree.
//!
//! Making network namespaces takes root and `ip`, so that the test is not among those that run anywhere; `.ci/run` runs it.
//! `CONCUR_PARTITION_ROUNDS` says how many faults there are for each strategy, `CONCUR_PARTITION_SEED` which,
//! `CONCUR_PARTITION_STRATEGY` that there is only one strategy.

#[path = "../common/mod.rs"]
mod common;
mod load;
mod model;
mod net;

use bytes::Bytes;
use common::registers::{stop, within};
use common::{LOOK_INTERVAL, PATIENCE, Process, Scratch, concur, tail};
use concur_proto::etcdserverpb as pb;
use concur_proto::mvccpb::KeyValue;
use load::{Client, Dice, Shared, channel};
use model::History;
use net::Net;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::{Instant, SystemTime};
use tonic::transport::Channel;

const MEMBERS: usize = 3;
const CLIENTS: u64 = 6;
const ROUNDS: u64 = 10;
/// Answers that show that the cluster goes on.
const PROGRESS: u64 = 200;

struct Cluster {
    strategy: &'static str,
    processes: Vec<Option<Process>>,
    net: Net,
    scratch: Scratch,
}

impl Cluster {
    fn start(strategy: &'static str) -> Self {
        let (net, scratch) = (Net::new(MEMBERS), Scratch::new(&format!("partition-{strategy}")));
        let mut file = format!(
            "[system]\ndecision_making = \"{strategy}\"\n[timeouts]\nheartbeat = \"60 ms\"\nelection = \"500 ms\"\n\
             [limits]\ncheckpoint_bytes = \"128 KiB\"\nretained_bytes_max = \"64 KiB\"\n"
        );
        for i in 0..MEMBERS {
            let address = net.address(i);
            file += &format!("[[members]]\nname = \"n{i}\"\npeer = \"{address}:2380\"\nclient = \"{address}:2379\"\n");
        }
        std::fs::write(scratch.0.join("system.toml"), file).unwrap();
        let mut cluster = Self { strategy, processes: (0..MEMBERS).map(|_| None).collect(), net, scratch };
        (0..MEMBERS).for_each(|i| cluster.spawn(i));
        cluster
    }

    fn spawn(&mut self, i: usize) {
        let mut command = concur();
        command.args(["serve", "--insecure", "--name", &format!("n{i}"), "--log-segment-bytes", "1MiB", "--until-stdin-ends"]);
        command.arg("--config").arg(self.scratch.0.join("system.toml")).arg("--data-dir").arg(self.scratch.0.join(format!("n{i}")));
        self.processes[i] = Some(Process::start(self.net.on(i, &command), &self.log(i)));
    }

    fn log(&self, i: usize) -> PathBuf {
        self.scratch.0.join(format!("n{i}.log"))
    }

    fn signal(&mut self, i: usize, signal: rustix::process::Signal) {
        let log = self.log(i);
        let process = self.processes[i].as_mut().unwrap();
        let ended = process.0.try_wait().unwrap();
        assert!(ended.is_none(), "n{i} ended by itself with {ended:?}; its log ends\n{}", tail(&log));
        process.signal(signal);
    }

    fn channels(&self) -> Vec<Channel> {
        (0..MEMBERS).map(|i| channel(&format!("{}:2379", self.net.address(i)))).collect()
    }
}

/// Waits until the clients have so many more answers.
async fn progress(cluster: &Cluster, history: &Shared, more: u64) {
    let count = || history.borrow().told.len() as u64;
    let (enough, until) = (count() + more, Instant::now() + PATIENCE);
    while count() < enough {
        assert!(history.borrow().violations.is_empty(), "{:#?}", history.borrow().violations);
        let logs = || (0..MEMBERS).map(|i| format!("n{i}:\n{}\n", tail(&cluster.log(i)))).collect::<String>();
        assert!(Instant::now() < until, "nothing is answered any more\n{}", logs());
        tokio::time::sleep(LOOK_INTERVAL).await;
    }
}

async fn fault(cluster: &mut Cluster, history: &Shared, dice: &mut Dice) {
    let i = dice.below(MEMBERS as u64) as usize;
    let others: Vec<usize> = (0..MEMBERS).filter(|&other| other != i).collect();
    let more = 1 + dice.below(2 * PROGRESS);
    match dice.below(6) {
        0 | 1 => {
            cluster.signal(i, rustix::process::Signal::KILL);
            cluster.processes[i] = None;
            progress(cluster, history, more).await;
            cluster.spawn(i);
        }
        2 => {
            cluster.signal(i, rustix::process::Signal::STOP);
            progress(cluster, history, more).await;
            cluster.signal(i, rustix::process::Signal::CONT);
        }
        // Cut off from both; heard by both without hearing, or the other way round; from one of them only.
        3 => cut(cluster, history, more, others.iter().flat_map(|&other| [(i, other), (other, i)])).await,
        4 => cut(cluster, history, more, others.iter().map(|&other| (i, other))).await,
        _ => cut(cluster, history, more, [(i, others[0]), (others[0], i)]).await,
    }
    progress(cluster, history, PROGRESS).await;
}

async fn cut(cluster: &mut Cluster, history: &Shared, more: u64, ways: impl IntoIterator<Item = (usize, usize)>) {
    ways.into_iter().for_each(|(from, to)| cluster.net.cut(from, to));
    progress(cluster, history, more).await;
    cluster.net.heal();
}

/// Waits until no lease is left, and answers with the revision at which all rests.
async fn rest(channels: &[Channel]) -> i64 {
    let until = Instant::now() + PATIENCE;
    loop {
        let leases = within(pb::lease_client::LeaseClient::new(channels[0].clone()).lease_leases(pb::LeaseLeasesRequest {})).await;
        if let Ok(leases) = leases.map(tonic::Response::into_inner)
            && leases.leases.is_empty()
        {
            return leases.header.expect("an answer has a header").revision;
        }
        assert!(Instant::now() < until, "leases do not end");
        tokio::time::sleep(LOOK_INTERVAL).await;
    }
}

/// What all members say of a revision, once they say the same.
async fn agreed_hash(cluster: &Cluster, channels: &[Channel], revision: i64) -> u32 {
    let until = Instant::now() + PATIENCE;
    loop {
        let mut said = Vec::new();
        for channel in channels {
            let mut client = pb::maintenance_client::MaintenanceClient::new(channel.clone());
            said.push(within(client.hash_kv(pb::HashKvRequest { revision })).await.map(|reply| {
                let reply = reply.into_inner();
                (reply.hash, reply.compact_revision)
            }));
        }
        if said.iter().all(|each| each.is_ok() && *each == said[0]) {
            return said.remove(0).unwrap().0;
        }
        assert!(Instant::now() < until, "{}: the hashes at revision {revision} differ: {said:?}", cluster.strategy);
        tokio::time::sleep(LOOK_INTERVAL).await;
    }
}

/// What a member holds.
async fn held(channel: &Channel) -> BTreeMap<Bytes, KeyValue> {
    let everything = Bytes::from_static(b"\0");
    let range = pb::RangeRequest { key: everything.clone(), range_end: everything, serializable: true, ..pb::RangeRequest::default() };
    let reply = within(pb::kv_client::KvClient::new(channel.clone()).range(range)).await.expect("a read of its own").into_inner();
    reply.kvs.into_iter().map(|kv| (kv.key.clone(), kv)).collect()
}

fn variable(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{name} is a number")))
}

#[test]
#[ignore = "takes root and network namespaces; .ci/run runs it"]
fn every_revision_is_there_once_and_every_watch_tells_of_it() {
    let rounds = variable("CONCUR_PARTITION_ROUNDS").unwrap_or(ROUNDS);
    let seed = variable("CONCUR_PARTITION_SEED").unwrap_or_else(|| SystemTime::UNIX_EPOCH.elapsed().unwrap().as_nanos() as u64 | 1);
    println!("CONCUR_PARTITION_SEED={seed} CONCUR_PARTITION_ROUNDS={rounds}");
    let only = std::env::var("CONCUR_PARTITION_STRATEGY").ok();
    let names = concur::registry().iter().map(|strategy| strategy.traits.name);
    for strategy in names.filter(|&name| only.as_deref().is_none_or(|only| only == name)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let mut cluster = Cluster::start(strategy);
        tokio::task::LocalSet::new().block_on(&runtime, endure(&mut cluster, rounds, Dice(seed)));
    }
}

/// Load, faults, and whether all that was seen fits together.
async fn endure(cluster: &mut Cluster, rounds: u64, mut dice: Dice) {
    let channels = cluster.channels();
    let history: Shared = Rc::new(RefCell::new(History::new(MEMBERS)));
    let client = |name| Client {
        name,
        channels: channels.clone(),
        history: history.clone(),
        dice: Dice(dice.0.wrapping_add(name.wrapping_mul(0x9e37_79b9_7f4a_7c15)) | 1),
        count: 0,
        seen: (Bytes::new(), 0),
    };
    let mut load: Vec<_> = (0..CLIENTS).map(|name| tokio::task::spawn_local(client(name).run())).collect();
    load.push(tokio::task::spawn_local(load::compact(channels.clone(), history.clone(), dice.clone())));
    let each = channels.iter().cloned().enumerate();
    let watches = each.map(|(i, channel)| tokio::task::spawn_local(load::watch(i, channel, history.clone()))).collect();
    progress(cluster, &history, PROGRESS).await;
    for _ in 0..rounds {
        fault(cluster, &history, &mut dice).await;
    }
    stop(load).await;
    let revision = rest(&channels).await;
    let until = Instant::now() + PATIENCE;
    while (0..MEMBERS).any(|i| history.borrow().next(i) <= revision) {
        let told: Vec<i64> = (0..MEMBERS).map(|i| history.borrow().next(i) - 1).collect();
        assert!(history.borrow().violations.is_empty(), "{:#?}", history.borrow().violations);
        assert!(Instant::now() < until, "{}: the watches have told up to {told:?} of {revision}", cluster.strategy);
        tokio::time::sleep(LOOK_INTERVAL).await;
    }
    stop(watches).await;
    let hash = agreed_hash(cluster, &channels, revision).await;
    let history = history.take();
    let (answers, leases) = (history.told.len(), history.leased.len());
    let state = history.judge();
    for (i, channel) in channels.iter().enumerate() {
        assert_eq!(held(channel).await, state, "{}: what n{i} holds", cluster.strategy);
    }
    println!("{}: {rounds} rounds, {answers} answers, {revision} revisions, {leases} leases, hash {hash:08x}", cluster.strategy);
}
