//! Who is in, and the strategy, change under load: five members are replaced one at a time by five others, then the group decides by
//! every other strategy in turn and by the first again. Nothing acknowledged is lost, no strong read is stale, a watch has no gap and
//! nothing twice.
//!
//! Members are real processes; those who left end by themselves. Writers and readers check as
//! [`common::registers`] says. The longest time without an acknowledged write around each change is printed, and nothing about it asserted.

mod common;

use bytes::Bytes;
use common::registers::{CALL_TIME_MAX, History, Said, Shared, WRITERS, key, number, own_key, own_keys, stop, within, write_over_less};
use common::{LOOK_INTERVAL, PATIENCE, Process, Scratch, concur, free, page, tail};
use concur_client::{Options, Store, Watch};
use concur_proto::etcdserverpb::kv_client::KvClient;
use concur_proto::etcdserverpb::{PutRequest, RangeRequest};
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::process::Stdio;
use std::rc::Rc;
use std::time::{Duration, Instant};
use tokio::task::JoinHandle;
use tonic::transport::{Channel, Endpoint};

const MEMBERS: usize = 5;
const READERS: usize = 2;
/// Acknowledged writes that show that the cluster goes on.
const PROGRESS: usize = 100;
struct Node {
    client: String,
    peer: String,
    process: Option<Process>,
}

/// The founders, and those who take their places.
struct Cluster {
    nodes: Vec<Node>,
    scratch: Scratch,
}

fn name(i: usize) -> String {
    format!("n{}", i + 1)
}

impl Cluster {
    fn start(strategy: &str) -> Self {
        let nodes = (0..2 * MEMBERS).map(|_| Node { client: free(), peer: free(), process: None }).collect();
        let mut cluster = Self { nodes, scratch: Scratch::new("members") };
        for i in 0..MEMBERS {
            cluster.spawn(i, &["--strategy", strategy]);
        }
        cluster
    }

    /// Starts a node; the founders list one another, and who joins lists those that are in and itself.
    fn spawn(&mut self, i: usize, more: &[&str]) {
        let listed = if i < MEMBERS { 0..MEMBERS } else { i + 1 - MEMBERS..i + 1 };
        let listed: Vec<String> = listed.map(|i| format!("{}=http://{}", name(i), self.nodes[i].peer)).collect();
        let mut command = concur();
        command.args(["serve", "--name", &name(i), "--log-segment-bytes", "1MiB", "--until-stdin-ends"]).args(more);
        command.args(["--heartbeat-interval", "60ms", "--election-timeout", "500ms", "--initial-cluster-token", "members"]);
        command.args(["--initial-cluster", &listed.join(",")]).arg("--data-dir").arg(self.scratch.0.join(name(i)));
        let (client, peer) = (format!("http://{}", self.nodes[i].client), format!("http://{}", self.nodes[i].peer));
        command.args(["--listen-client-urls", &client, "--advertise-client-urls", &client]);
        command.args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer]);
        self.nodes[i].process = Some(Process::start(command, &self.log(i)));
    }

    fn log(&self, i: usize) -> PathBuf {
        self.scratch.0.join(format!("{}.log", name(i)))
    }

    fn said(&self) -> String {
        let logs = (0..self.nodes.len()).map(|i| (name(i), self.log(i))).filter(|(_, log)| log.exists());
        logs.map(|(name, log)| format!("{name}:\n{}\n", tail(&log))).collect()
    }

    fn clients(&self) -> Vec<String> {
        self.nodes.iter().map(|node| node.client.clone()).collect()
    }
}

/// What the watch saw: revisions, and keys.
type Seen = Rc<RefCell<Vec<(u64, Bytes)>>>;

/// A client that stays with a member until it fails.
struct Speaker {
    members: Vec<KvClient<Channel>>,
    at: usize,
}

impl Speaker {
    fn new(addresses: &[String], at: usize) -> Self {
        let member = |address: &String| {
            let endpoint = Endpoint::from_shared(format!("http://{address}")).unwrap().tcp_nodelay(true).connect_timeout(CALL_TIME_MAX);
            KvClient::new(endpoint.connect_lazy()).max_decoding_message_size(256 << 20)
        };
        Self { members: addresses.iter().map(member).collect(), at: at % addresses.len() }
    }

    fn member(&mut self) -> &mut KvClient<Channel> {
        &mut self.members[self.at]
    }

    async fn leave(&mut self) {
        self.at = (self.at + 1) % self.members.len();
        tokio::task::yield_now().await;
    }

    /// Writes `n` into a register if it holds less; whether it did.
    async fn write(&mut self, writer: usize, n: u64) -> Said<bool> {
        Ok(within(self.member().txn(write_over_less(writer, n))).await?.into_inner().succeeded)
    }

    /// Every key of the writers' own that a member holds.
    async fn written(&mut self) -> Said<BTreeMap<Bytes, Bytes>> {
        let (key, range_end) = own_keys();
        let range = RangeRequest { key, range_end, serializable: true, ..RangeRequest::default() };
        Ok(within(self.member().range(range)).await?.into_inner().kvs.into_iter().map(|kv| (kv.key, kv.value)).collect())
    }
}

/// Writes a key of its own, then the register.
async fn writer(writer: usize, mut speaker: Speaker, history: Shared) {
    for n in 1u64.. {
        let (key, value) = (own_key(writer, n), Bytes::from(format!("{n:0200}")));
        let put = PutRequest { key: key.clone(), value: value.clone(), ..PutRequest::default() };
        match within(speaker.member().put(put)).await {
            Ok(_) => history.borrow_mut().acknowledge(key, value),
            Err(_) => speaker.leave().await,
        }
        history.borrow_mut().tries(writer, n);
        match speaker.write(writer, n).await {
            Ok(done) => history.borrow_mut().wrote(writer, n, done),
            Err(_) => speaker.leave().await,
        }
        tokio::task::yield_now().await;
    }
}

async fn reader(reader: usize, mut speaker: Speaker, history: Shared) {
    for round in reader.. {
        let register = round % WRITERS;
        let known = history.borrow().known(register);
        let range = RangeRequest { key: key(register), ..RangeRequest::default() };
        if let Ok(answer) = within(speaker.member().range(range)).await {
            let value = answer.into_inner().kvs.into_iter().next().map(|kv| kv.value);
            history.borrow_mut().read(register, known, value.as_deref(), &name(speaker.at));
        }
        speaker.leave().await;
    }
}

/// Follows every key of the writers' own, at whichever member is there.
async fn watcher(addresses: Vec<String>, seen: Seen) {
    let options = Options { timeout: PATIENCE, retries_max: 1 << 20, ..Options::new(addresses) };
    let store = Store::open(options).unwrap();
    let (key, range_end) = own_keys();
    let watch = Watch { key, range_end, revision: 1, ..Watch::default() };
    let mut watching = store.watch(watch).await.unwrap();
    loop {
        let changes = watching.next().await.unwrap();
        seen.borrow_mut().extend(changes.into_iter().map(|change| (change.revision, change.key)));
    }
}

/// Waits until this holds.
async fn until(cluster: &Cluster, history: &Shared, what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        history.borrow().assert_sound();
        assert!(Instant::now() < deadline, "{what}: it does not come\n{}", cluster.said());
        tokio::time::sleep(LOOK_INTERVAL).await;
    }
}

async fn progress(cluster: &Cluster, history: &Shared) {
    let enough = history.borrow().acknowledged.len() + PROGRESS;
    until(cluster, history, "progress", || history.borrow().acknowledged.len() >= enough).await;
}

/// Runs a command of the program beside the load; what it printed, and the longest time without an acknowledged write meanwhile.
async fn change(cluster: &Cluster, history: &Shared, arguments: &[&str]) -> (serde_json::Value, Duration) {
    let mut command = concur();
    command.args(arguments).args(["-o", "json", "--timeout", "60s", "--endpoints", &cluster.clients().join(",")]);
    let began = Instant::now();
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    until(cluster, history, &arguments.join(" "), || child.try_wait().unwrap().is_some()).await;
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "concur {}: {said}\n{}", arguments.join(" "), cluster.said());
    progress(cluster, history).await;
    let history = history.borrow();
    let times: Vec<Instant> = history.times.iter().copied().filter(|at| *at >= began).collect();
    let pause = times.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap_or_default();
    (serde_json::from_slice(&output.stdout).unwrap(), pause)
}

#[test]
fn five_are_replaced_by_five_and_the_group_walks_through_every_strategy_under_load() {
    let names: Vec<&str> = concur::registry().iter().map(|strategy| strategy.traits.name).collect();
    let mut cluster = Cluster::start(names[0]);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let clients = tokio::task::LocalSet::new();
    clients.block_on(&runtime, endure(&mut cluster, &names[1..], names[0]));
}

async fn endure(cluster: &mut Cluster, others: &[&str], last: &str) {
    let (history, seen) = (Shared::default(), Seen::default());
    prepare(cluster).await;
    let tasks = load(cluster, &history);
    let watching = tokio::task::spawn_local(watcher(cluster.clients(), seen.clone()));
    progress(cluster, &history).await;
    let mut pauses = Vec::new();
    for i in 0..MEMBERS {
        let (old, new, peer) = (name(i), name(i + MEMBERS), cluster.nodes[i + MEMBERS].peer.clone());
        cluster.spawn(i + MEMBERS, &["--initial-cluster-state", "existing"]);
        let client = cluster.nodes[i + MEMBERS].client.clone();
        pauses.push(change(cluster, &history, &["member", "replace", &old, &new, &peer, "--client-url", &client]).await);
    }
    assert!(page(&cluster.nodes[MEMBERS - 1].client, "/readyz").contains("this node was removed"));
    for strategy in others.iter().copied().chain([last]) {
        pauses.push(change(cluster, &history, &["strategy", "switch", strategy]).await);
    }
    for i in 0..MEMBERS {
        let mut process = cluster.nodes[i].process.take().unwrap();
        until(cluster, &history, "a member that left ends", || process.0.try_wait().unwrap().is_some()).await;
        assert!(process.0.wait().unwrap().success(), "{} left: {}", name(i), cluster.said());
    }
    stop(tasks).await;
    until(cluster, &history, "the watch", || {
        let seen = seen.borrow();
        let seen: BTreeSet<&Bytes> = seen.iter().map(|(_, key)| key).collect();
        history.borrow().acknowledged.iter().all(|(key, _)| seen.contains(key))
    })
    .await;
    stop(vec![watching]).await;
    let (history, seen) = (history.take(), seen.take());
    check(cluster, &history, &seen).await;
    println!("{} writes acknowledged, {} strong reads, {} events watched", history.acknowledged.len(), history.reads, seen.len());
    report(pauses);
}

async fn prepare(cluster: &Cluster) {
    let (mut speaker, deadline) = (Speaker::new(&cluster.clients()[..MEMBERS], 0), Instant::now() + PATIENCE);
    for writer in 0..WRITERS {
        let put = PutRequest { key: key(writer), value: number(0), ..PutRequest::default() };
        while let Err(why) = within(speaker.member().put(put.clone())).await {
            assert!(Instant::now() < deadline, "{why}\n{}", cluster.said());
            tokio::time::sleep(LOOK_INTERVAL).await;
        }
    }
}

fn load(cluster: &Cluster, history: &Shared) -> Vec<JoinHandle<()>> {
    let addresses = cluster.clients();
    let mut tasks: Vec<_> =
        (0..WRITERS).map(|w| tokio::task::spawn_local(writer(w, Speaker::new(&addresses, w), history.clone()))).collect();
    tasks.extend((0..READERS).map(|r| tokio::task::spawn_local(reader(r, Speaker::new(&addresses, r), history.clone()))));
    tasks
}

/// Every member that is left holds everything; the watch saw each once, in order.
async fn check(cluster: &Cluster, history: &History, seen: &[(u64, Bytes)]) {
    history.assert_sound();
    for i in MEMBERS..2 * MEMBERS {
        let (mut speaker, deadline) = (Speaker::new(&cluster.clients()[i..=i], 0), Instant::now() + PATIENCE);
        loop {
            let held = speaker.written().await.unwrap_or_default();
            let lost = history.lost(&held);
            if lost.is_empty() {
                break;
            }
            assert!(Instant::now() < deadline, "{} lacks {} writes, {:?} first\n{}", name(i), lost.len(), lost[0], cluster.said());
            tokio::time::sleep(LOOK_INTERVAL).await;
        }
    }
    let order = seen.windows(2).find(|pair| pair[0].0 >= pair[1].0);
    assert!(order.is_none(), "the watch went back, or saw twice: {order:?}");
    let keys: BTreeSet<&Bytes> = seen.iter().map(|(_, key)| key).collect();
    assert_eq!(keys.len(), seen.len(), "the watch saw a key twice");
}

fn report(changes: Vec<(serde_json::Value, Duration)>) {
    for (said, pause) in &changes {
        let (done, epoch, own) = (&said["done"], &said["epoch"], &said["pause_ms"]);
        println!("{done}: epoch {epoch}, {own} ms at the member that was asked, {:.1} ms without an acknowledged write", millis(*pause));
    }
    let mut pauses: Vec<Duration> = changes.iter().map(|(_, pause)| *pause).collect();
    pauses.sort_unstable();
    println!(
        "without an acknowledged write around a change: median {:.1} ms, longest {:.1} ms",
        millis(pauses[pauses.len() / 2]),
        millis(pauses[pauses.len() - 1])
    );
}

fn millis(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}
