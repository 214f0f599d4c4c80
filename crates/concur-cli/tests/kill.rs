//! Real processes are killed and paused under load: nothing acknowledged is lost, and no strong read is stale.
//!
//! Each writer owns a register and writes growing numbers into it, each only over a smaller one, so that a write whose client gave
//! up cannot come back over a later one. A strong read that began after a number was acknowledged, or read, must not answer with a
//! smaller one, wherever it is asked. In the end every member must hold every write that was acknowledged.
//!
//! `CONCUR_KILL_ROUNDS` says how many faults there are for each strategy, `CONCUR_KILL_SEED` which.

use bytes::Bytes;
use concur_proto::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use concur_proto::etcdserverpb::kv_client::KvClient;
use concur_proto::etcdserverpb::request_op::Request;
use concur_proto::etcdserverpb::{Compare, PutRequest, RangeRequest, RequestOp, TxnRequest};
use std::cell::RefCell;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::rc::Rc;
use std::time::{Duration, Instant, SystemTime};
use tonic::Status;
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
    peer_port: u16,
    child: Option<Child>,
}

struct Cluster {
    directory: PathBuf,
    strategy: &'static str,
    members: Vec<Member>,
}

impl Cluster {
    fn start(strategy: &'static str) -> Self {
        let directory = std::env::temp_dir().join(format!("concur-kill-{strategy}-{}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        let free = || std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap().port();
        let members = (0..MEMBERS).map(|_| Member { client_port: free(), peer_port: free(), child: None }).collect();
        let mut cluster = Self { directory, strategy, members };
        (0..MEMBERS).for_each(|i| cluster.spawn(i));
        cluster
    }

    fn spawn(&mut self, i: usize) {
        let all = self.members.iter().enumerate().map(|(i, m)| format!("n{i}=http://127.0.0.1:{}", m.peer_port));
        let all = all.collect::<Vec<_>>().join(",");
        let log = std::fs::File::options().create(true).append(true).open(self.log(i)).unwrap();
        let member = &mut self.members[i];
        let (client, peer) = (format!("http://127.0.0.1:{}", member.client_port), format!("http://127.0.0.1:{}", member.peer_port));
        let mut command = Command::new(env!("CARGO_BIN_EXE_concur"));
        command.arg("serve").args(["--name", &format!("n{i}")]).arg("--data-dir").arg(self.directory.join(format!("n{i}")));
        command.args(["--listen-client-urls", &client, "--advertise-client-urls", &client, "--listen-peer-urls", &peer]);
        command.args(["--initial-advertise-peer-urls", &peer, "--initial-cluster", &all, "--strategy", self.strategy]);
        command.args(["--heartbeat-interval", "60", "--election-timeout", "500", "--log-segment-bytes", "1MiB", "--until-stdin-ends"]);
        member.child = Some(command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(log).spawn().unwrap());
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

fn client(port: u16) -> KvClient<Channel> {
    let endpoint = Endpoint::from_shared(format!("http://127.0.0.1:{port}")).unwrap().tcp_nodelay(true);
    KvClient::new(endpoint.connect_timeout(CALL_TIME_MAX).connect_lazy()).max_decoding_message_size(256 << 20)
}

async fn within<T>(call: impl Future<Output = Result<tonic::Response<T>, Status>>) -> Result<T, Status> {
    let answer = tokio::time::timeout(CALL_TIME_MAX, call).await;
    answer.unwrap_or_else(|_| Err(Status::deadline_exceeded("no answer"))).map(tonic::Response::into_inner)
}

fn key(writer: usize) -> Bytes {
    Bytes::from(format!("register/{writer}"))
}

/// Equal lengths, so that the order of bytes is that of numbers.
fn number(n: u64) -> Bytes {
    Bytes::from(format!("{n:012}"))
}

fn put(key: Bytes, value: Bytes) -> RequestOp {
    RequestOp { request: Some(Request::RequestPut(PutRequest { key, value, ..PutRequest::default() })) }
}

/// Writes `n` into a register if it holds less, and a key of its own.
fn write(writer: usize, n: u64) -> (TxnRequest, (Bytes, Bytes)) {
    let less = Compare {
        key: key(writer),
        result: CompareResult::Less as i32,
        target: CompareTarget::Value as i32,
        target_union: Some(TargetUnion::Value(number(n))),
        ..Compare::default()
    };
    let own = (Bytes::from(format!("written/{writer}/{n:012}")), number(n));
    let success = vec![put(key(writer), number(n)), put(own.0.clone(), own.1.clone())];
    (TxnRequest { compare: vec![less], success, failure: Vec::new() }, own)
}

async fn writer(writer: usize, ports: Vec<u16>, history: Shared) {
    let mut clients: Vec<_> = ports.into_iter().map(client).collect();
    let mut at = writer % clients.len();
    for n in 1u64.. {
        history.borrow_mut().registers[writer].tried = n;
        let (request, own) = write(writer, n);
        match within(clients[at].txn(request)).await {
            Ok(reply) => {
                let mut history = history.borrow_mut();
                if !reply.succeeded {
                    history.violations.push(format!("writer {writer}: {n} was executed twice, or its register went ahead of its writer"));
                }
                history.acknowledged.push(own);
                let register = &mut history.registers[writer];
                register.known = register.known.max(n);
            }
            Err(_) => at = (at + 1) % clients.len(),
        }
        tokio::task::yield_now().await;
    }
}

async fn reader(reader: usize, ports: Vec<u16>, history: Shared) {
    let mut clients: Vec<_> = ports.into_iter().map(client).collect();
    for round in reader.. {
        let (at, register) = (round % clients.len(), (round / clients.len()) % WRITERS);
        let known = history.borrow().registers[register].known;
        let read = within(clients[at].range(RangeRequest { key: key(register), ..RangeRequest::default() })).await;
        let Ok(reply) = read else { continue };
        let value = reply.kvs.first().map_or("", |kv| std::str::from_utf8(&kv.value).unwrap());
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

async fn prepare(ports: &[u16]) {
    let until = Instant::now() + PATIENCE;
    let mut kv = client(ports[0]);
    for writer in 0..WRITERS {
        let first = PutRequest { key: key(writer), value: number(0), ..PutRequest::default() };
        while let Err(status) = within(kv.put(first.clone())).await {
            assert!(Instant::now() < until, "{status}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

/// Every member holds every acknowledged write, once it has caught up.
async fn check(cluster: &Cluster, ports: &[u16], history: &History) {
    for (i, &port) in ports.iter().enumerate() {
        let (mut kv, until) = (client(port), Instant::now() + PATIENCE);
        loop {
            let all = RangeRequest { key: "written/".into(), range_end: "written0".into(), serializable: true, ..RangeRequest::default() };
            let held: std::collections::BTreeMap<_, _> = kv
                .range(all)
                .await
                .map(|reply| reply.into_inner().kvs)
                .unwrap_or_default()
                .into_iter()
                .map(|kv| (kv.key, kv.value))
                .collect();
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
        println!("{}: CONCUR_KILL_SEED={seed} CONCUR_KILL_ROUNDS={rounds}", strategy.traits.name);
        let mut cluster = Cluster::start(strategy.traits.name);
        let mut dice = Dice(seed);
        tokio::task::LocalSet::new().block_on(&runtime, async {
            let ports: Vec<u16> = cluster.members.iter().map(|member| member.client_port).collect();
            prepare(&ports).await;
            let history = Shared::default();
            history.borrow_mut().registers.resize_with(WRITERS, Register::default);
            let writers = (0..WRITERS).map(|w| tokio::task::spawn_local(writer(w, ports.clone(), history.clone())));
            let mut tasks: Vec<_> = writers.collect();
            tasks.extend((0..READERS).map(|r| tokio::task::spawn_local(reader(r, ports.clone(), history.clone()))));
            progress(&mut cluster, &history, PROGRESS).await;
            for _ in 0..rounds {
                fault(&mut cluster, &history, &mut dice).await;
            }
            tasks.iter().for_each(tokio::task::JoinHandle::abort);
            for task in tasks {
                assert!(task.await.is_err_and(|error| error.is_cancelled()), "a client panicked");
            }
            let history = history.take();
            assert!(history.violations.is_empty(), "{:#?}", history.violations);
            check(&cluster, &ports, &history).await;
            println!("{} writes acknowledged, {} strong reads", history.acknowledged.len(), history.reads);
        });
    }
}
