//! Real processes are killed and paused under load: nothing acknowledged is lost, and no strong read is stale.
//!
//! Each writer owns a register and writes growing numbers into it, each only over a smaller one, so that a write whose client gave
//! up cannot come back over a later one. A strong read that began after a number was acknowledged, or read, must not answer with a
//! smaller one, wherever it is asked. In the end every member must hold every write that was acknowledged.
//!
//! The default namespace is spoken to over etcd's API; where a strategy can order per key, such a namespace over the native one.
//! Logs are shortened often, so that members come back by checkpoints and by state as well as by log.
//!
//! `CONCUR_KILL_ROUNDS` says how many faults there are for each strategy, `CONCUR_KILL_SEED` which.

use bytes::Bytes;
use concur_client::kv;
use concur_client::{Level, Options, Store};
use concur_proto::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use concur_proto::etcdserverpb::kv_client::KvClient;
use concur_proto::etcdserverpb::request_op::Request;
use concur_proto::etcdserverpb::{Compare, PutRequest, RangeRequest, RequestOp, TxnRequest};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::rc::Rc;
use std::time::{Duration, Instant, SystemTime};
use tonic::transport::{Channel, Endpoint};

const MEMBERS: usize = 3;
const WRITERS: usize = 4;
const READERS: usize = 3;
const ROUNDS: u64 = 6;
/// Acknowledged writes that show that the cluster goes on.
const PROGRESS: u64 = 40;
/// How long anything may take; much longer than it does, for machines that do other things too.
const PATIENCE: Duration = Duration::from_secs(120);
const CALL_TIME_MAX: Duration = Duration::from_millis(1500);

struct Member {
    client_port: u16,
    child: Option<Child>,
}

struct Cluster {
    directory: PathBuf,
    members: Vec<Member>,
}

/// The namespace that is ordered per key.
const PER_KEY: &str = "per-key";

impl Cluster {
    fn start(strategy: &'static str) -> Self {
        let directory = std::env::temp_dir().join(format!("concur-kill-{strategy}-{}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        let free = || std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap().port();
        let members: Vec<Member> = (0..MEMBERS).map(|_| Member { client_port: free(), child: None }).collect();
        let mut file = format!(
            "[system]\ndecision_making = \"{strategy}\"\n[timeouts]\nheartbeat = \"60 ms\"\nelection = \"500 ms\"\n\
             [limits]\ncheckpoint_bytes = \"128 KiB\"\nretained_bytes_max = \"64 KiB\"\n\
             [[namespace]]\nname = \"{PER_KEY}\"\norder = \"per-key\"\n"
        );
        for (i, member) in members.iter().enumerate() {
            let (peer, client) = (free(), member.client_port);
            file += &format!("[[members]]\nname = \"n{i}\"\npeer = \"127.0.0.1:{peer}\"\nclient = \"127.0.0.1:{client}\"\n");
        }
        std::fs::write(directory.join("system.toml"), file).unwrap();
        let mut cluster = Self { directory, members };
        (0..MEMBERS).for_each(|i| cluster.spawn(i));
        cluster
    }

    fn spawn(&mut self, i: usize) {
        let log = std::fs::File::options().create(true).append(true).open(self.log(i)).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_concur"));
        command.args(["serve", "--name", &format!("n{i}"), "--log-segment-bytes", "1MiB", "--until-stdin-ends"]);
        command.arg("--config").arg(self.directory.join("system.toml")).arg("--data-dir").arg(self.directory.join(format!("n{i}")));
        self.members[i].child = Some(command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(log).spawn().unwrap());
    }

    fn log(&self, i: usize) -> PathBuf {
        self.directory.join(format!("n{i}.log"))
    }

    fn signal(&mut self, i: usize, signal: rustix::process::Signal) {
        let child = self.members[i].child.as_mut().unwrap();
        let ended = child.try_wait().unwrap();
        assert!(ended.is_none(), "n{i} ended by itself with {ended:?}; its log ends\n{}", tail(&self.log(i)));
        let pid = rustix::process::Pid::from_child(child);
        rustix::process::kill_process(pid, signal).unwrap();
    }

    fn kill(&mut self, i: usize) {
        self.signal(i, rustix::process::Signal::KILL);
        self.members[i].child.take().unwrap().wait().unwrap();
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for child in self.members.iter_mut().filter_map(|member| member.child.as_mut()) {
            let _ = child.kill();
            let _ = child.wait();
        }
        if !std::thread::panicking() {
            let _ = std::fs::remove_dir_all(&self.directory);
        }
    }
}

fn tail(path: &Path) -> String {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(12)..].join("\n")
}

/// What is known of one register.
#[derive(Default)]
struct Register {
    /// The greatest number that anybody tried to write.
    tried: u64,
    /// The greatest that was acknowledged to its writer, or answered to a reader.
    known: u64,
}

#[derive(Default)]
struct History {
    registers: Vec<Register>,
    acknowledged: Vec<(Bytes, Bytes)>,
    reads: u64,
    violations: Vec<String>,
}

type Shared = Rc<RefCell<History>>;

fn key(writer: usize) -> Bytes {
    Bytes::from(format!("register/{writer}"))
}

/// Equal lengths, so that the order of bytes is that of numbers.
fn number(n: u64) -> Bytes {
    Bytes::from(format!("{n:012}"))
}

/// A client of one member. Every call says why it failed, for people.
#[allow(clippy::large_enum_variant)]
enum Speaker {
    Etcd(KvClient<Channel>),
    Native(Store),
}

type Said<T> = Result<T, String>;

async fn within<T, E: ToString>(call: impl Future<Output = Result<T, E>>) -> Said<T> {
    match tokio::time::timeout(CALL_TIME_MAX, call).await {
        Ok(answer) => answer.map_err(|error| error.to_string()),
        Err(_) => Err("no answer".into()),
    }
}

impl Speaker {
    fn new(per_key: bool, port: u16) -> Self {
        if per_key {
            let options = Options {
                namespace: PER_KEY.into(),
                timeout: CALL_TIME_MAX,
                answer_bytes_max: 256 << 20,
                ..Options::new([format!("127.0.0.1:{port}")])
            };
            return Self::Native(Store::open(options).unwrap());
        }
        let endpoint = Endpoint::from_shared(format!("http://127.0.0.1:{port}")).unwrap().tcp_nodelay(true);
        Self::Etcd(KvClient::new(endpoint.connect_timeout(CALL_TIME_MAX).connect_lazy()).max_decoding_message_size(256 << 20))
    }

    async fn put(&mut self, key: Bytes, value: Bytes) -> Said<()> {
        match self {
            Self::Etcd(kv) => within(kv.put(PutRequest { key, value, ..PutRequest::default() })).await.map(drop),
            Self::Native(store) => within(store.put(key, value)).await.map(drop),
        }
    }

    /// Writes `n` into a register if it holds less; whether it did.
    async fn write(&mut self, writer: usize, n: u64) -> Said<bool> {
        match self {
            Self::Etcd(client) => {
                let compare = Compare {
                    key: key(writer),
                    result: CompareResult::Less as i32,
                    target: CompareTarget::Value as i32,
                    target_union: Some(TargetUnion::Value(number(n))),
                    ..Compare::default()
                };
                let put = PutRequest { key: key(writer), value: number(n), ..PutRequest::default() };
                let success = vec![RequestOp { request: Some(Request::RequestPut(put)) }];
                let reply = within(client.txn(TxnRequest { compare: vec![compare], success, failure: Vec::new() })).await?;
                Ok(reply.into_inner().succeeded)
            }
            Self::Native(store) => {
                let target = kv::Target::Value(number(n));
                let compare = kv::Compare { key: key(writer), range_end: Bytes::new(), relation: kv::Relation::Less, target };
                let put = kv::Put { key: key(writer), value: number(n), ..kv::Put::default() };
                let txn = kv::Txn { compare: vec![compare], success: vec![kv::Op::Put(put)], failure: Vec::new() };
                Ok(within(store.txn(txn)).await?.value.succeeded)
            }
        }
    }

    /// A strong read of a register.
    async fn read(&mut self, register: usize) -> Said<String> {
        let value = match self {
            Self::Etcd(client) => {
                let range = RangeRequest { key: key(register), ..RangeRequest::default() };
                within(client.range(range)).await?.into_inner().kvs.into_iter().next().map(|kv| kv.value)
            }
            Self::Native(store) => within(store.get(key(register), Level::Strong)).await?.value.map(|kv| kv.value),
        };
        Ok(value.map_or_else(String::new, |value| String::from_utf8_lossy(&value).into_owned()))
    }

    /// Every key of the writers' own that this member holds.
    async fn written(&mut self) -> Said<BTreeMap<Bytes, Bytes>> {
        let (key, range_end) = (Bytes::from("written/"), Bytes::from("written0"));
        match self {
            Self::Etcd(client) => {
                let range = RangeRequest { key, range_end, serializable: true, ..RangeRequest::default() };
                let reply = within(client.range(range)).await?.into_inner();
                Ok(reply.kvs.into_iter().map(|kv| (kv.key, kv.value)).collect())
            }
            Self::Native(store) => {
                let range = kv::RangeQuery { key, range_end, ..kv::RangeQuery::default() };
                let answer = within(store.range(Level::Eventual, range)).await?.value;
                Ok(answer.kvs.into_iter().map(|kv| (kv.key, kv.value)).collect())
            }
        }
    }
}

fn speakers(per_key: bool, ports: &[u16]) -> Vec<Speaker> {
    ports.iter().map(|&port| Speaker::new(per_key, port)).collect()
}

/// Writes a key of its own, then the register.
async fn writer(writer: usize, mut speakers: Vec<Speaker>, history: Shared) {
    let mut at = writer % speakers.len();
    for n in 1u64.. {
        // Long enough that a member soon misses more than the others keep.
        let own = (Bytes::from(format!("written/{writer}/{n:012}")), Bytes::from(format!("{n:02000}")));
        match speakers[at].put(own.0.clone(), own.1.clone()).await {
            Ok(()) => history.borrow_mut().acknowledged.push(own),
            Err(_) => at = (at + 1) % speakers.len(),
        }
        history.borrow_mut().registers[writer].tried = n;
        match speakers[at].write(writer, n).await {
            Ok(done) => {
                let mut history = history.borrow_mut();
                if !done {
                    history.violations.push(format!("writer {writer}: {n} was executed twice, or its register went ahead of its writer"));
                }
                let register = &mut history.registers[writer];
                register.known = register.known.max(n);
            }
            Err(_) => at = (at + 1) % speakers.len(),
        }
        tokio::task::yield_now().await;
    }
}

async fn reader(reader: usize, mut speakers: Vec<Speaker>, history: Shared) {
    for round in reader.. {
        let (at, register) = (round % speakers.len(), (round / speakers.len()) % WRITERS);
        let known = history.borrow().registers[register].known;
        let Ok(value) = speakers[at].read(register).await else { continue };
        let mut history = history.borrow_mut();
        history.reads += 1;
        let tried = history.registers[register].tried;
        match value.parse::<u64>() {
            Ok(n) if n >= known && n <= tried => history.registers[register].known = history.registers[register].known.max(n),
            _ => history.violations.push(format!("n{at} answered {value:?} for register {register}: {known} was known, {tried} was tried")),
        }
    }
}

/// Waits until the writers have so many more acknowledgements.
async fn progress(cluster: &mut Cluster, history: &Shared, more: u64) {
    let count = || history.borrow().acknowledged.len() as u64;
    let (enough, until) = (count() + more, Instant::now() + PATIENCE);
    while count() < enough {
        assert!(history.borrow().violations.is_empty(), "{:#?}", history.borrow().violations);
        let logs = || (0..MEMBERS).map(|i| format!("n{i}:\n{}\n", tail(&cluster.log(i)))).collect::<String>();
        assert!(Instant::now() < until, "nothing is acknowledged any more\n{}", logs());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// A small generator, seeded and printed.
struct Dice(u64);

impl Dice {
    fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % n
    }
}

async fn fault(cluster: &mut Cluster, history: &Shared, dice: &mut Dice) {
    let i = dice.below(MEMBERS as u64) as usize;
    let more = 1 + dice.below(PROGRESS);
    if dice.below(3) < 2 {
        cluster.kill(i);
        progress(cluster, history, more).await;
        cluster.spawn(i);
    } else {
        cluster.signal(i, rustix::process::Signal::STOP);
        progress(cluster, history, more).await;
        cluster.signal(i, rustix::process::Signal::CONT);
    }
    progress(cluster, history, PROGRESS).await;
}

async fn prepare(speaker: &mut Speaker) {
    let until = Instant::now() + PATIENCE;
    for writer in 0..WRITERS {
        while let Err(why) = speaker.put(key(writer), number(0)).await {
            assert!(Instant::now() < until, "{why}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

/// Every member holds every acknowledged write, once it has caught up.
async fn check(cluster: &Cluster, speakers: Vec<Speaker>, history: &History) {
    for (i, mut speaker) in speakers.into_iter().enumerate() {
        let until = Instant::now() + PATIENCE;
        loop {
            let held = speaker.written().await.unwrap_or_default();
            let lost: Vec<_> = history.acknowledged.iter().filter(|(key, value)| held.get(key) != Some(value)).collect();
            if lost.is_empty() {
                break;
            }
            assert!(
                Instant::now() < until,
                "n{i} lacks {} acknowledged writes, {:?} first\n{}",
                lost.len(),
                lost[0],
                tail(&cluster.log(i))
            );
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

fn variable(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{name} is a number")))
}

#[test]
fn nothing_acknowledged_is_lost_and_nothing_stale_is_read() {
    let rounds = variable("CONCUR_KILL_ROUNDS").unwrap_or(ROUNDS);
    let seed = variable("CONCUR_KILL_SEED").unwrap_or_else(|| SystemTime::UNIX_EPOCH.elapsed().unwrap().as_nanos() as u64 | 1);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    for strategy in concur::registry() {
        let per_key = if strategy.traits.order == concur_core::Ordering::Partial { &[false, true][..] } else { &[false] };
        for &per_key in per_key {
            let order = if per_key { "per key" } else { "total" };
            println!("{}, {order}: CONCUR_KILL_SEED={seed} CONCUR_KILL_ROUNDS={rounds}", strategy.traits.name);
            let mut cluster = Cluster::start(strategy.traits.name);
            let clients = tokio::task::LocalSet::new();
            clients.block_on(&runtime, endure(&mut cluster, per_key, rounds, Dice(seed)));
        }
    }
}

/// Load, faults, and what is left of it.
async fn endure(cluster: &mut Cluster, per_key: bool, rounds: u64, mut dice: Dice) {
    let ports: Vec<u16> = cluster.members.iter().map(|member| member.client_port).collect();
    prepare(&mut Speaker::new(per_key, ports[0])).await;
    let history = Shared::default();
    history.borrow_mut().registers.resize_with(WRITERS, Register::default);
    let writers = (0..WRITERS).map(|w| tokio::task::spawn_local(writer(w, speakers(per_key, &ports), history.clone())));
    let mut tasks: Vec<_> = writers.collect();
    tasks.extend((0..READERS).map(|r| tokio::task::spawn_local(reader(r, speakers(per_key, &ports), history.clone()))));
    progress(cluster, &history, PROGRESS).await;
    for _ in 0..rounds {
        fault(cluster, &history, &mut dice).await;
    }
    tasks.iter().for_each(tokio::task::JoinHandle::abort);
    for task in tasks {
        assert!(task.await.is_err_and(|error| error.is_cancelled()), "a client panicked");
    }
    let history = history.take();
    assert!(history.violations.is_empty(), "{:#?}", history.violations);
    check(cluster, speakers(per_key, &ports), &history).await;
    println!("{} writes acknowledged, {} strong reads", history.acknowledged.len(), history.reads);
}
