//! What is left after a loss: a cluster from a snapshot, one node after its quorum was lost for good, a member whose disk was lost or
//! is damaged.
//!
//! Members are real processes. What was acknowledged before each loss, and executed by whoever is left, is there afterwards.

mod common;

use common::{LOOK_INTERVAL, PATIENCE, Process, Scratch, free, tail};
use concur_proto::etcdserverpb::kv_client::KvClient;
use concur_proto::etcdserverpb::{PutRequest, RangeRequest};
use std::path::{Path, PathBuf};
use std::process::Output;
use std::time::{Duration, Instant};
use tokio::runtime::Runtime;
use tonic::transport::{Channel, Endpoint};

const CALL_TIME_MAX: Duration = Duration::from_secs(2);
const KEYS: usize = 200;

struct Node {
    client: String,
    peer: String,
    process: Option<Process>,
}

/// Nodes of one cluster after another, in one directory.
struct World {
    nodes: Vec<Node>,
    scratch: Scratch,
    strategy: &'static str,
    runtime: Runtime,
}

fn name(i: usize) -> String {
    format!("n{}", i + 1)
}

/// Runs a command of the program.
fn concur(arguments: &[&str]) -> Output {
    common::concur().args(arguments).output().unwrap()
}

#[track_caller]
fn done(arguments: &[&str]) -> serde_json::Value {
    let output = concur(&[arguments, &["-o", "json"]].concat());
    assert!(output.status.success(), "concur {}: {}", arguments.join(" "), String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

#[track_caller]
fn refused(arguments: &[&str], code: i32, words: &str) {
    let output = concur(arguments);
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{said}");
    assert!(said.contains(words), "{words:?} is not in: {said}");
}

impl World {
    fn new(test: &str, strategy: &'static str, nodes: usize) -> Self {
        let scratch = Scratch::new(&format!("recover-{test}-{strategy}"));
        let nodes = (0..nodes).map(|_| Node { client: free(), peer: free(), process: None }).collect();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        Self { nodes, scratch, strategy, runtime }
    }

    fn data(&self, i: usize) -> PathBuf {
        self.scratch.0.join(name(i))
    }

    fn data_text(&self, i: usize) -> String {
        self.data(i).display().to_string()
    }

    fn listed(&self, nodes: &[usize]) -> String {
        nodes.iter().map(|&i| format!("{}=http://{}", name(i), self.nodes[i].peer)).collect::<Vec<_>>().join(",")
    }

    fn clients(&self, nodes: &[usize]) -> String {
        nodes.iter().map(|&i| self.nodes[i].client.as_str()).collect::<Vec<_>>().join(",")
    }

    /// Starts a node that is told of these.
    fn spawn(&mut self, i: usize, of: &[usize], more: &[&str]) {
        let (client, peer) = (format!("http://{}", self.nodes[i].client), format!("http://{}", self.nodes[i].peer));
        let mut command = common::concur();
        command.args(["serve", "--name", &name(i), "--log-segment-bytes", "1MiB", "--until-stdin-ends", "--strategy", self.strategy]);
        command.args(["--heartbeat-interval", "60ms", "--election-timeout", "500ms", "--initial-cluster", &self.listed(of)]);
        command.args(["--listen-client-urls", &client, "--advertise-client-urls", &client, "--listen-peer-urls", &peer]);
        command.args(["--initial-advertise-peer-urls", &peer]).arg("--data-dir").arg(self.data(i)).args(more);
        self.nodes[i].process = Some(Process::start(command, &self.log(i)));
    }

    fn kill(&mut self, i: usize) {
        self.nodes[i].process = None;
    }

    fn log(&self, i: usize) -> PathBuf {
        self.scratch.0.join(format!("{}.log", name(i)))
    }

    /// Tries until it is done.
    #[track_caller]
    fn until<T>(&self, what: &str, mut attempt: impl FnMut() -> Option<T>) -> T {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(found) = attempt() {
                return found;
            }
            let said = || (0..self.nodes.len()).map(|i| format!("{}:\n{}\n", name(i), tail(&self.log(i)))).collect::<String>();
            assert!(Instant::now() < deadline, "{what}: it does not come\n{}", said());
            std::thread::sleep(LOOK_INTERVAL);
        }
    }

    fn speaker(&self, i: usize) -> KvClient<Channel> {
        let endpoint = Endpoint::from_shared(format!("http://{}", self.nodes[i].client)).unwrap();
        let _inside = self.runtime.enter();
        KvClient::new(endpoint.connect_timeout(CALL_TIME_MAX).timeout(CALL_TIME_MAX).connect_lazy())
    }

    /// Has keys written at a node, each until it is acknowledged.
    #[track_caller]
    fn write(&self, i: usize, prefix: &str, count: usize) {
        let mut speaker = self.speaker(i);
        for n in 0..count {
            let put = PutRequest { key: format!("{prefix}/{n:06}").into(), value: format!("{n:0100}").into(), ..PutRequest::default() };
            self.until("a write", || self.runtime.block_on(speaker.put(put.clone())).ok());
        }
    }

    /// How many keys a node has, of those that begin so, as it answers at once or with the others' word.
    fn count(&self, i: usize, prefix: &str, strong: bool) -> Option<usize> {
        let (key, range_end) = (format!("{prefix}/").into(), format!("{prefix}0").into());
        let range = RangeRequest { key, range_end, serializable: !strong, count_only: true, ..RangeRequest::default() };
        let answer = self.runtime.block_on(self.speaker(i).range(range)).ok()?;
        usize::try_from(answer.into_inner().count).ok()
    }

    /// Waits until a node has that many.
    #[track_caller]
    fn has(&self, i: usize, prefix: &str, count: usize) {
        self.until(&format!("{count} keys of {prefix} at {}", name(i)), || self.count(i, prefix, false).filter(|&n| n == count));
    }

    /// Runs a change beside which a node comes in, and waits for both.
    #[track_caller]
    fn change(&self, arguments: &[&str], endpoints: &[usize]) -> serde_json::Value {
        done(&[arguments, &["--endpoints", &self.clients(endpoints), "--timeout", "60s", "--wait-time", "100s"]].concat())
    }
}

#[test]
fn a_cluster_goes_on_from_a_snapshot_and_no_other_file_is_taken() {
    let mut world = World::new("snapshot", concur::registry()[0].traits.name, 6);
    let (old, new) = ([0, 1, 2], [3, 4, 5]);
    old.iter().for_each(|&i| world.spawn(i, &old, &[]));
    world.write(0, "k", KEYS);
    let file = world.scratch.0.join("state.snapshot").display().to_string();
    // From one that may lag: it catches up first.
    let saved = done(&["snapshot", "save", &file, "--endpoints", &world.clients(&[2])]);
    world.write(1, "later", 5);
    let status = done(&["snapshot", "status", &file]);
    assert_eq!(saved["hash"], status["hash"]);
    assert_eq!(saved["revision"].as_u64(), Some(1 + KEYS as u64));
    assert_eq!(std::fs::metadata(&file).unwrap().len(), status["bytes"].as_u64().unwrap());

    damaged_files_are_refused(&world, &file);
    let (used, listed) = (world.data_text(0), world.listed(&old));
    let into_used = ["snapshot", "restore", &file, "--name", "n1", "--data-dir", &used, "--initial-cluster", &listed];
    refused(&into_used, 3, "is there already and is not empty");

    let mut epochs = Vec::new();
    for i in new {
        let (name, data, listed) = (name(i), world.data_text(i), world.listed(&new));
        let restore = ["snapshot", "restore", &file, "--name", &name, "--data-dir", &data, "--initial-cluster", &listed];
        epochs.push(done(&restore)["namespaces"][0]["epoch"].as_u64().unwrap());
        world.spawn(i, &new, &[]);
    }
    assert!(epochs[0] > saved["epoch"].as_u64().unwrap() && epochs.iter().all(|epoch| *epoch == epochs[0]), "{epochs:?}");
    world.write(5, "after", 5);
    for i in new {
        world.has(i, "after", 5);
        assert_eq!(world.count(i, "k", false), Some(KEYS), "{}", name(i));
        assert_eq!(world.count(i, "later", false), Some(0), "{}", name(i));
    }
    let again = world.scratch.0.join("again.snapshot").display().to_string();
    let of_new = done(&["snapshot", "save", &again, "--endpoints", &world.clients(&[3])]);
    assert_ne!(of_new["cluster"], saved["cluster"]);
}

/// A byte that is not as it was written, a file that ends early, and one with something behind its end.
fn damaged_files_are_refused(world: &World, file: &str) {
    let whole = std::fs::read(file).unwrap();
    let mut changed = whole.clone();
    changed[whole.len() / 2] ^= 1;
    let longer = [&whole[..], b"x"].concat();
    for (what, bytes) in [("changed", &changed[..]), ("short", &whole[..whole.len() - 1]), ("long", &longer[..])] {
        let path = world.scratch.0.join(what);
        std::fs::write(&path, bytes).unwrap();
        let (path, data) = (path.display().to_string(), world.scratch.0.join("refused").display().to_string());
        refused(&["snapshot", "status", &path], 3, "the snapshot is damaged");
        refused(&["snapshot", "restore", &path, "--name", "n1", "--data-dir", &data], 3, "the snapshot is damaged");
        assert!(!Path::new(&data).exists(), "{what}");
    }
}

#[test]
fn one_node_goes_on_after_its_quorum_was_lost_and_grows_back_to_three() {
    for strategy in concur::registry() {
        recover(strategy.traits.name);
    }
}

fn recover(strategy: &'static str) {
    let mut world = World::new("alone", strategy, 3);
    let all = [0, 1, 2];
    all.iter().for_each(|&i| world.spawn(i, &all, &[]));
    world.write(0, "k", KEYS);
    [1, 2].iter().for_each(|&i| world.has(i, "k", KEYS));
    let data = world.data_text(2);
    let recover = ["recover", "--force-new-cluster", "--data-dir", &data, "--yes"];
    refused(&recover, 1, "in use by another concur process");
    for i in all {
        world.kill(i);
    }
    for i in [0, 1] {
        std::fs::remove_dir_all(world.data(i)).unwrap();
    }
    refused(&recover[..4], 64, "nothing was done");
    let forced = done(&recover);
    assert_eq!(forced["namespaces"][0]["revision"].as_u64(), Some(1 + KEYS as u64), "{forced}");

    world.spawn(2, &[2], &[]);
    world.write(2, "alone", 5);
    assert_eq!(world.count(2, "k", true), Some(KEYS));
    for i in [0, 1] {
        world.spawn(i, &all, &["--initial-cluster-state", "existing"]);
        let peer = world.nodes[i].peer.clone();
        world.change(&["member", "add", &name(i), &peer], &[2]);
    }
    world.kill(2);
    world.write(0, "grown", 5);
    world.has(1, "grown", 5);
    for i in [0, 1] {
        assert_eq!((world.count(i, "k", true), world.count(i, "alone", true)), (Some(KEYS), Some(5)), "{}", name(i));
    }
}

#[test]
fn a_member_is_rebuilt_whose_disk_was_lost_or_whose_log_is_damaged() {
    for strategy in concur::registry() {
        rebuild(strategy.traits.name);
    }
}

fn rebuild(strategy: &'static str) {
    let mut world = World::new("disk", strategy, 3);
    let all = [0, 1, 2];
    all.iter().for_each(|&i| world.spawn(i, &all, &[]));
    world.write(0, "k", KEYS);

    world.kill(1);
    std::fs::remove_dir_all(world.data(1)).unwrap();
    world.spawn(1, &all, &["--initial-cluster-state", "existing"]);
    world.change(&["member", "replace", "n2"], &[0, 2]);
    world.has(1, "k", KEYS);

    // The others are a quorum only if the one that was rebuilt votes.
    world.has(2, "k", KEYS);
    world.kill(2);
    world.write(1, "rebuilt", 5);

    damage(&world.data(2).join("log"));
    world.spawn(2, &all, &[]);
    let mut process = world.nodes[2].process.take().unwrap();
    let ended = world.until("a node with a damaged log ends", || process.0.try_wait().unwrap());
    let said = tail(&world.log(2));
    assert!(!ended.success() && said.contains("damage"), "{said}");
    std::fs::remove_dir_all(world.data(2)).unwrap();
    world.spawn(2, &all, &["--initial-cluster-state", "existing"]);
    world.change(&["member", "replace", "n3"], &[0, 1]);
    world.has(2, "k", KEYS);
    world.kill(0);
    world.write(2, "again", 5);
    world.has(1, "again", 5);
}

/// Changes a byte in the middle of what a log holds.
fn damage(log: &Path) {
    let mut segments: Vec<PathBuf> = std::fs::read_dir(log).unwrap().map(|entry| entry.unwrap().path()).collect();
    segments.sort();
    let path = segments.iter().find(|path| std::fs::read(path).unwrap().iter().any(|&byte| byte != 0)).unwrap();
    let mut bytes = std::fs::read(path).unwrap();
    let used = bytes.iter().rposition(|&byte| byte != 0).unwrap();
    let middle = (used / 2..used).find(|&at| bytes[at] != 0).unwrap();
    bytes[middle] ^= 0xff;
    std::fs::write(path, bytes).unwrap();
}
