//! Who is in, and the strategy, change under load: five members are replaced one at a time by five others, then the group decides by
//! another strategy and by the first again. Nothing acknowledged is lost, no strong read is stale, a watch has no gap and nothing twice.
//!
//! Members are real processes; those who left end by themselves. Writers and readers check as in `kill`: each writer owns a register
//! with growing numbers. The longest time without an acknowledged write around each change is printed, and nothing about it asserted.

use bytes::Bytes;
use concur_client::{Options, Store, Watch};
use concur_proto::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use concur_proto::etcdserverpb::kv_client::KvClient;
use concur_proto::etcdserverpb::request_op::Request;
use concur_proto::etcdserverpb::{Compare, PutRequest, RangeRequest, RequestOp, TxnRequest};
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::rc::Rc;
use std::time::{Duration, Instant};
use tokio::task::JoinHandle;
use tonic::transport::{Channel, Endpoint};

const MEMBERS: usize = 5;
const WRITERS: usize = 4;
const READERS: usize = 2;
/// Acknowledged writes that show that the cluster goes on.
const PROGRESS: usize = 100;
/// How long anything may take; much longer than it does, for machines that do other things too.
const PATIENCE: Duration = Duration::from_secs(180);
const CALL_TIME_MAX: Duration = Duration::from_secs(2);
const LOOK_INTERVAL: Duration = Duration::from_millis(5);

struct Node {
    client: String,
    peer: String,
    child: Option<Child>,
}

/// The founders, and those who take their places.
struct Cluster {
    directory: PathBuf,
    nodes: Vec<Node>,
}

fn free() -> String {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string()
}

fn concur() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_concur"));
    command.env("NO_COLOR", "1").env_remove("CONCUR_LOG");
    command
}

fn name(i: usize) -> String {
    format!("n{}", i + 1)
}

impl Cluster {
    fn start(strategy: &str) -> Self {
        let directory = std::env::temp_dir().join(format!("concur-members-{}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        let nodes = (0..2 * MEMBERS).map(|_| Node { client: free(), peer: free(), child: None }).collect();
        let mut cluster = Self { directory, nodes };
        for i in 0..MEMBERS {
            cluster.spawn(i, &["--strategy", strategy]);
        }
        cluster
    }

    /// Starts a node; the founders list one another, and who joins lists those that are in and itself.
    fn spawn(&mut self, i: usize, more: &[&str]) {
        let log = std::fs::File::options().create(true).append(true).open(self.log(i)).unwrap();
        let listed = if i < MEMBERS { 0..MEMBERS } else { i + 1 - MEMBERS..i + 1 };
        let listed: Vec<String> = listed.map(|i| format!("{}=http://{}", name(i), self.nodes[i].peer)).collect();
        let mut command = concur();
        command.args(["serve", "--name", &name(i), "--log-segment-bytes", "1MiB", "--until-stdin-ends"]).args(more);
        command.args(["--heartbeat-interval", "60ms", "--election-timeout", "500ms", "--initial-cluster-token", "members"]);
        command.args(["--initial-cluster", &listed.join(",")]).arg("--data-dir").arg(self.directory.join(name(i)));
        let (client, peer) = (format!("http://{}", self.nodes[i].client), format!("http://{}", self.nodes[i].peer));
        command.args(["--listen-client-urls", &client, "--advertise-client-urls", &client]);
        command.args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer]);
        self.nodes[i].child = Some(command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(log).spawn().unwrap());
    }

    fn log(&self, i: usize) -> PathBuf {
        self.directory.join(format!("{}.log", name(i)))
    }

    fn said(&self) -> String {
        let tail = |i: usize| {
            let text = std::fs::read_to_string(self.log(i)).unwrap_or_default();
            let lines: Vec<&str> = text.lines().collect();
            format!("{}:\n{}\n", name(i), lines[lines.len().saturating_sub(12)..].join("\n"))
        };
        (0..self.nodes.len()).filter(|&i| self.log(i).exists()).map(tail).collect()
    }

    fn clients(&self) -> Vec<String> {
        self.nodes.iter().map(|node| node.client.clone()).collect()
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for child in self.nodes.iter_mut().filter_map(|node| node.child.as_mut()) {
            let _ = child.kill();
            let _ = child.wait();
        }
        if !std::thread::panicking() {
            let _ = std::fs::remove_dir_all(&self.directory);
        }
    }
}

/// What is known of one register.
#[derive(Default)]
struct Register {
    /// The greatest number that anybody tried to write, and the greatest that was acknowledged or read.
    tried: u64,
    known: u64,
}

#[derive(Default)]
struct History {
    registers: Vec<Register>,
    acknowledged: Vec<(Bytes, Bytes)>,
    /// When something was acknowledged.
    times: Vec<Instant>,
    reads: u64,
    /// What the watch saw: revisions, and keys.
    seen: Vec<(u64, Bytes)>,
    violations: Vec<String>,
}

type Shared = Rc<RefCell<History>>;
type Said<T> = Result<T, String>;

fn key(writer: usize) -> Bytes {
    Bytes::from(format!("register/{writer}"))
}

/// Equal lengths, so that the order of bytes is that of numbers.
fn number(n: u64) -> Bytes {
    Bytes::from(format!("{n:012}"))
}

async fn within<T, E: ToString>(call: impl Future<Output = Result<T, E>>) -> Said<T> {
    match tokio::time::timeout(CALL_TIME_MAX, call).await {
        Ok(answer) => answer.map_err(|error| error.to_string()),
        Err(_) => Err("no answer".into()),
    }
}

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
        let compare = Compare {
            key: key(writer),
            result: CompareResult::Less as i32,
            target: CompareTarget::Value as i32,
            target_union: Some(TargetUnion::Value(number(n))),
            ..Compare::default()
        };
        let put = PutRequest { key: key(writer), value: number(n), ..PutRequest::default() };
        let success = vec![RequestOp { request: Some(Request::RequestPut(put)) }];
        let txn = TxnRequest { compare: vec![compare], success, failure: Vec::new() };
        Ok(within(self.member().txn(txn)).await?.into_inner().succeeded)
    }

    /// Every key of the writers' own that a member holds.
    async fn written(&mut self) -> Said<BTreeMap<Bytes, Bytes>> {
        let (key, range_end) = (Bytes::from("written/"), Bytes::from("written0"));
        let range = RangeRequest { key, range_end, serializable: true, ..RangeRequest::default() };
        Ok(within(self.member().range(range)).await?.into_inner().kvs.into_iter().map(|kv| (kv.key, kv.value)).collect())
    }
}

/// Writes a key of its own, then the register.
async fn writer(writer: usize, mut speaker: Speaker, history: Shared) {
    for n in 1u64.. {
        let (key, value) = (Bytes::from(format!("written/{writer}/{n:012}")), Bytes::from(format!("{n:0200}")));
        let put = PutRequest { key: key.clone(), value: value.clone(), ..PutRequest::default() };
        match within(speaker.member().put(put)).await {
            Ok(_) => {
                let mut history = history.borrow_mut();
                history.acknowledged.push((key, value));
                history.times.push(Instant::now());
            }
            Err(_) => speaker.leave().await,
        }
        history.borrow_mut().registers[writer].tried = n;
        match speaker.write(writer, n).await {
            Ok(done) => {
                let mut history = history.borrow_mut();
                if !done {
                    history.violations.push(format!("writer {writer}: {n} was executed twice, or its register went ahead of its writer"));
                }
                history.registers[writer].known = history.registers[writer].known.max(n);
            }
            Err(_) => speaker.leave().await,
        }
        tokio::task::yield_now().await;
    }
}

async fn reader(reader: usize, mut speaker: Speaker, history: Shared) {
    for round in reader.. {
        let register = round % WRITERS;
        let known = history.borrow().registers[register].known;
        let range = RangeRequest { key: key(register), ..RangeRequest::default() };
        let Ok(answer) = within(speaker.member().range(range)).await else {
            speaker.leave().await;
            continue;
        };
        let value = answer.into_inner().kvs.into_iter().next().map(|kv| String::from_utf8_lossy(&kv.value).into_owned());
        saw(&mut history.borrow_mut(), register, known, value, speaker.at);
        speaker.leave().await;
    }
}

/// What a strong read says: nothing older than what was known when it began, and nothing that nobody tried to write.
fn saw(history: &mut History, register: usize, known: u64, value: Option<String>, at: usize) {
    history.reads += 1;
    let tried = history.registers[register].tried;
    match value.as_deref().map(str::parse::<u64>) {
        Some(Ok(n)) if n >= known && n <= tried => history.registers[register].known = history.registers[register].known.max(n),
        _ => {
            let at = name(at);
            history.violations.push(format!("{at} answered {value:?} for register {register}: {known} was known, {tried} was tried"));
        }
    }
}

/// Follows every key of the writers' own, at whichever member is there.
async fn watcher(addresses: Vec<String>, history: Shared) {
    let options = Options { timeout: PATIENCE, retries_max: 1 << 20, ..Options::new(addresses) };
    let store = Store::open(options).unwrap();
    let watch = Watch { key: "written/".into(), range_end: "written0".into(), revision: 1, ..Watch::default() };
    let mut watching = store.watch(watch).await.unwrap();
    loop {
        let changes = watching.next().await.unwrap();
        history.borrow_mut().seen.extend(changes.into_iter().map(|change| (change.revision, change.key)));
    }
}

/// A page over plain HTTP.
fn page(address: &str, path: &str) -> String {
    let mut socket = std::net::TcpStream::connect(address).unwrap();
    std::io::Write::write_all(&mut socket, format!("GET {path} HTTP/1.0\r\n\r\n").as_bytes()).unwrap();
    let mut answer = String::new();
    std::io::Read::read_to_string(&mut socket, &mut answer).unwrap();
    answer
}

/// Waits until this holds.
async fn until(cluster: &Cluster, history: &Shared, what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        assert!(history.borrow().violations.is_empty(), "{:#?}", history.borrow().violations);
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
fn five_are_replaced_by_five_and_the_strategy_is_switched_under_load() {
    let [first, second, ..] = concur::registry() else { panic!("there are two strategies") };
    let mut cluster = Cluster::start(first.traits.name);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let clients = tokio::task::LocalSet::new();
    clients.block_on(&runtime, endure(&mut cluster, [second.traits.name, first.traits.name]));
}

async fn endure(cluster: &mut Cluster, strategies: [&str; 2]) {
    let history = Shared::default();
    history.borrow_mut().registers.resize_with(WRITERS, Register::default);
    prepare(cluster).await;
    let tasks = load(cluster, &history);
    let watching = tokio::task::spawn_local(watcher(cluster.clients(), history.clone()));
    progress(cluster, &history).await;
    let mut pauses = Vec::new();
    for i in 0..MEMBERS {
        let (old, new, peer) = (name(i), name(i + MEMBERS), cluster.nodes[i + MEMBERS].peer.clone());
        cluster.spawn(i + MEMBERS, &["--initial-cluster-state", "existing"]);
        let client = cluster.nodes[i + MEMBERS].client.clone();
        pauses.push(change(cluster, &history, &["member", "replace", &old, &new, &peer, "--client-url", &client]).await);
    }
    assert!(page(&cluster.nodes[MEMBERS - 1].client, "/readyz").contains("this node was removed"));
    for strategy in strategies {
        pauses.push(change(cluster, &history, &["strategy", "switch", strategy]).await);
    }
    for i in 0..MEMBERS {
        let mut child = cluster.nodes[i].child.take().unwrap();
        until(cluster, &history, "a member that left ends", || child.try_wait().unwrap().is_some()).await;
        assert!(child.wait().unwrap().success(), "{} left: {}", name(i), cluster.said());
    }
    stop(tasks).await;
    until(cluster, &history, "the watch", || {
        let history = history.borrow();
        let seen: BTreeSet<&Bytes> = history.seen.iter().map(|(_, key)| key).collect();
        history.acknowledged.iter().all(|(key, _)| seen.contains(key))
    })
    .await;
    stop(vec![watching]).await;
    let history = history.take();
    check(cluster, &history).await;
    report(&history, pauses);
}

async fn stop(tasks: Vec<JoinHandle<()>>) {
    tasks.iter().for_each(JoinHandle::abort);
    for task in tasks {
        assert!(task.await.is_err_and(|error| error.is_cancelled()), "a client panicked");
    }
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
async fn check(cluster: &Cluster, history: &History) {
    assert!(history.violations.is_empty(), "{:#?}", history.violations);
    for i in MEMBERS..2 * MEMBERS {
        let (mut speaker, deadline) = (Speaker::new(&cluster.clients()[i..=i], 0), Instant::now() + PATIENCE);
        loop {
            let held = speaker.written().await.unwrap_or_default();
            let lost: Vec<_> = history.acknowledged.iter().filter(|(key, value)| held.get(key) != Some(value)).collect();
            if lost.is_empty() {
                break;
            }
            assert!(Instant::now() < deadline, "{} lacks {} writes, {:?} first\n{}", name(i), lost.len(), lost[0].0, cluster.said());
            tokio::time::sleep(LOOK_INTERVAL).await;
        }
    }
    let order = history.seen.windows(2).find(|pair| pair[0].0 >= pair[1].0);
    assert!(order.is_none(), "the watch went back, or saw twice: {order:?}");
    let keys: BTreeSet<&Bytes> = history.seen.iter().map(|(_, key)| key).collect();
    assert_eq!(keys.len(), history.seen.len(), "the watch saw a key twice");
}

fn report(history: &History, changes: Vec<(serde_json::Value, Duration)>) {
    println!("{} writes acknowledged, {} strong reads, {} events watched", history.acknowledged.len(), history.reads, history.seen.len());
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
