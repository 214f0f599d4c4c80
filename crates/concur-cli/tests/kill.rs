//! Real processes are killed and paused under load: nothing acknowledged is lost, and no strong read is stale ([`common::registers`]).
//! In the end every member must hold every write that was acknowledged.
//!
//! The default namespace is spoken to over etcd's API; where a strategy can order per key, such a namespace over the native one.
//! Logs are shortened often, so that members come back by checkpoints and by state as well as by log.
//!
//! `CONCUR_KILL_ROUNDS` says how many faults there are for each strategy, `CONCUR_KILL_SEED` which.

mod common;

use bytes::Bytes;
use common::registers::{CALL_TIME_MAX, History, Said, Shared, WRITERS, key, number, own_key, own_keys, stop, within, write_over_less};
use common::{LOOK_INTERVAL, PATIENCE, Process, Scratch, concur, free, tail};
use concur_client::kv;
use concur_client::{Level, Options, Store};
use concur_proto::etcdserverpb::kv_client::KvClient;
use concur_proto::etcdserverpb::{PutRequest, RangeRequest};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Mutex;
use std::time::{Instant, SystemTime};
use tonic::transport::{Channel, Endpoint};

const MEMBERS: usize = 3;
const READERS: usize = 3;
const ROUNDS: u64 = 6;
/// Acknowledged writes that show that the cluster goes on.
const PROGRESS: u64 = 40;
struct Member {
    client: String,
    process: Option<Process>,
}

struct Cluster {
    strategy: &'static str,
    members: Vec<Member>,
    scratch: Scratch,
}

/// The namespace that is ordered per key.
const PER_KEY: &str = "per-key";

impl Cluster {
    fn start(strategy: &'static str, per_key: bool) -> Self {
        let scratch = Scratch::new(&format!("kill-{strategy}{}", if per_key { "-per-key" } else { "" }));
        let members: Vec<Member> = (0..MEMBERS).map(|_| Member { client: free(), process: None }).collect();
        let mut file = format!(
            "[system]\ndecision_making = \"{strategy}\"\n[timeouts]\nheartbeat = \"60 ms\"\nelection = \"500 ms\"\n\
             [limits]\ncheckpoint_bytes = \"128 KiB\"\nretained_bytes_max = \"64 KiB\"\n\
             [[namespace]]\nname = \"{PER_KEY}\"\norder = \"per-key\"\n"
        );
        for (i, member) in members.iter().enumerate() {
            let (peer, client) = (free(), &member.client);
            file += &format!("[[members]]\nname = \"n{i}\"\npeer = \"{peer}\"\nclient = \"{client}\"\n");
        }
        std::fs::write(scratch.0.join("system.toml"), file).unwrap();
        let mut cluster = Self { strategy, members, scratch };
        (0..MEMBERS).for_each(|i| cluster.spawn(i));
        cluster
    }

    fn spawn(&mut self, i: usize) {
        let mut command = concur();
        command.args(["serve", "--name", &format!("n{i}"), "--log-segment-bytes", "1MiB", "--until-stdin-ends"]);
        command.arg("--config").arg(self.scratch.0.join("system.toml")).arg("--data-dir").arg(self.scratch.0.join(format!("n{i}")));
        self.members[i].process = Some(Process::start(command, &self.log(i)));
    }

    fn log(&self, i: usize) -> PathBuf {
        self.scratch.0.join(format!("n{i}.log"))
    }

    fn signal(&mut self, i: usize, signal: rustix::process::Signal) {
        let log = self.log(i);
        let process = self.members[i].process.as_mut().unwrap();
        let ended = process.0.try_wait().unwrap();
        assert!(ended.is_none(), "n{i} ended by itself with {ended:?}; its log ends\n{}", tail(&log));
        process.signal(signal);
    }

    fn kill(&mut self, i: usize) {
        self.signal(i, rustix::process::Signal::KILL);
        self.members[i].process = None;
    }
}

/// A client of one member. Every call says why it failed, for people.
#[allow(clippy::large_enum_variant)]
enum Speaker {
    Etcd(KvClient<Channel>),
    Native(Store),
}

impl Speaker {
    fn new(per_key: bool, address: &str) -> Self {
        if per_key {
            let options =
                Options { namespace: PER_KEY.into(), timeout: CALL_TIME_MAX, answer_bytes_max: 256 << 20, ..Options::new([address]) };
            return Self::Native(Store::open(options).unwrap());
        }
        let endpoint = Endpoint::from_shared(format!("http://{address}")).unwrap().tcp_nodelay(true);
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
            Self::Etcd(client) => Ok(within(client.txn(write_over_less(writer, n))).await?.into_inner().succeeded),
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
    async fn read(&mut self, register: usize) -> Said<Option<Bytes>> {
        Ok(match self {
            Self::Etcd(client) => {
                let range = RangeRequest { key: key(register), ..RangeRequest::default() };
                within(client.range(range)).await?.into_inner().kvs.into_iter().next().map(|kv| kv.value)
            }
            Self::Native(store) => within(store.get(key(register), Level::Strong)).await?.value.map(|kv| kv.value),
        })
    }

    /// Every key of the writers' own that this member holds.
    async fn written(&mut self) -> Said<BTreeMap<Bytes, Bytes>> {
        let (key, range_end) = own_keys();
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

fn speakers(per_key: bool, addresses: &[String]) -> Vec<Speaker> {
    addresses.iter().map(|address| Speaker::new(per_key, address)).collect()
}

/// Writes a key of its own, then the register.
async fn writer(writer: usize, mut speakers: Vec<Speaker>, history: Shared) {
    let mut at = writer % speakers.len();
    for n in 1u64.. {
        // Long enough that a member soon misses more than the others keep.
        let (own, value) = (own_key(writer, n), Bytes::from(format!("{n:02000}")));
        match speakers[at].put(own.clone(), value.clone()).await {
            Ok(()) => history.borrow_mut().acknowledge(own, value),
            Err(_) => at = (at + 1) % speakers.len(),
        }
        history.borrow_mut().tries(writer, n);
        match speakers[at].write(writer, n).await {
            Ok(done) => history.borrow_mut().wrote(writer, n, done),
            Err(_) => at = (at + 1) % speakers.len(),
        }
        tokio::task::yield_now().await;
    }
}

async fn reader(reader: usize, mut speakers: Vec<Speaker>, history: Shared) {
    for round in reader.. {
        let (at, register) = (round % speakers.len(), (round / speakers.len()) % WRITERS);
        let known = history.borrow().known(register);
        let Ok(value) = speakers[at].read(register).await else { continue };
        history.borrow_mut().read(register, known, value.as_deref(), &format!("n{at}"));
    }
}

/// Waits until the writers have so many more acknowledgements.
async fn progress(cluster: &mut Cluster, history: &Shared, more: u64) {
    let count = || history.borrow().acknowledged.len() as u64;
    let (enough, until) = (count() + more, Instant::now() + PATIENCE);
    while count() < enough {
        history.borrow().assert_sound();
        let logs = || (0..MEMBERS).map(|i| format!("n{i}:\n{}\n", tail(&cluster.log(i)))).collect::<String>();
        assert!(Instant::now() < until, "nothing is acknowledged any more\n{}", logs());
        tokio::time::sleep(LOOK_INTERVAL).await;
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
            tokio::time::sleep(LOOK_INTERVAL).await;
        }
    }
}

/// Every member holds every acknowledged write, once it has caught up.
async fn check(cluster: &Cluster, speakers: Vec<Speaker>, history: &History) {
    for (i, mut speaker) in speakers.into_iter().enumerate() {
        let until = Instant::now() + PATIENCE;
        loop {
            let held = speaker.written().await.unwrap_or_default();
            let lost = history.lost(&held);
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
            tokio::time::sleep(LOOK_INTERVAL).await;
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
    println!("CONCUR_KILL_SEED={seed} CONCUR_KILL_ROUNDS={rounds}");
    let per_key = |strategy: &concur::Strategy| strategy.traits.order == concur_core::Ordering::Partial;
    let all = concur::registry().iter().map(|strategy| (strategy.traits.name, false));
    let cases: Vec<_> = all.chain(concur::registry().iter().filter(|s| per_key(s)).map(|s| (s.traits.name, true))).collect();
    // Most of the time a cluster waits for timeouts and for its disk, so that two take little more than one.
    let cases = Mutex::new(cases.into_iter());
    let next = || cases.lock().unwrap().next();
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
                while let Some((strategy, per_key)) = next() {
                    let mut cluster = Cluster::start(strategy, per_key);
                    let clients = tokio::task::LocalSet::new();
                    clients.block_on(&runtime, endure(&mut cluster, per_key, rounds, Dice(seed)));
                }
            });
        }
    });
}

/// Load, faults, and what is left of it.
async fn endure(cluster: &mut Cluster, per_key: bool, rounds: u64, mut dice: Dice) {
    let addresses: Vec<String> = cluster.members.iter().map(|member| member.client.clone()).collect();
    prepare(&mut Speaker::new(per_key, &addresses[0])).await;
    let history = Shared::default();
    let writers = (0..WRITERS).map(|w| tokio::task::spawn_local(writer(w, speakers(per_key, &addresses), history.clone())));
    let mut tasks: Vec<_> = writers.collect();
    tasks.extend((0..READERS).map(|r| tokio::task::spawn_local(reader(r, speakers(per_key, &addresses), history.clone()))));
    progress(cluster, &history, PROGRESS).await;
    for _ in 0..rounds {
        fault(cluster, &history, &mut dice).await;
    }
    stop(tasks).await;
    let history = history.take();
    history.assert_sound();
    check(cluster, speakers(per_key, &addresses), &history).await;
    let (order, written) = (if per_key { "per key" } else { "total" }, history.acknowledged.len());
    println!("{}, {order}: {rounds} rounds, {written} writes acknowledged, {} strong reads", cluster.strategy, history.reads);
}
