//! In from etcd and out again, with real processes: a file that a real etcd streamed, a cluster of three that goes on from it, what its
//! members say of themselves, and the file that they stream.

mod common;

use common::{LOOK_INTERVAL, PATIENCE, Process, Scratch, free, tail};
use concur_proto::etcdserverpb as pb;
use pb::kv_client::KvClient;
use pb::maintenance_client::MaintenanceClient;
use std::path::PathBuf;
use std::time::{Duration, Instant};
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};

const CALL_TIME_MAX: Duration = Duration::from_secs(20);

fn real() -> String {
    format!("{}/../concur-server/tests/data/etcd.snapshot", env!("CARGO_MANIFEST_DIR"))
}

#[track_caller]
fn done(arguments: &[&str]) -> serde_json::Value {
    let output = common::concur().args(arguments).args(["-o", "json"]).output().unwrap();
    assert!(output.status.success(), "concur {}: {}", arguments.join(" "), String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

#[track_caller]
fn refused(arguments: &[&str], words: &str) {
    let output = common::concur().args(arguments).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(3), "{said}");
    assert!(said.contains(words), "{words:?} is not in: {said}");
}

struct World {
    nodes: Vec<(String, String, Option<Process>)>,
    scratch: Scratch,
}

impl World {
    /// Members that are restored from a file and started.
    fn restored(test: &str, members: usize, file: &str) -> Self {
        let nodes = (0..members).map(|_| (free(), free(), None)).collect();
        let mut world = Self { nodes, scratch: Scratch::new(&format!("etcd-files-{test}")) };
        for i in 0..members {
            let (data, cluster) = (world.data(i).display().to_string(), world.cluster());
            let restored = ["snapshot", "restore", file, "--name", &format!("n{i}"), "--data-dir", &data, "--initial-cluster", &cluster];
            assert_eq!(done(&restored)["namespaces"][0]["revision"], 14);
            world.start(i);
        }
        world
    }

    fn data(&self, i: usize) -> PathBuf {
        self.scratch.0.join(format!("n{i}"))
    }

    fn log(&self, i: usize) -> PathBuf {
        self.scratch.0.join(format!("n{i}.log"))
    }

    fn cluster(&self) -> String {
        self.nodes.iter().enumerate().map(|(i, (_, peer, _))| format!("n{i}=http://{peer}")).collect::<Vec<_>>().join(",")
    }

    fn start(&mut self, i: usize) {
        let (client, peer, _) = &self.nodes[i];
        let (client, peer) = (format!("http://{client}"), format!("http://{peer}"));
        let mut command = common::concur();
        command.args(["serve", "--name", &format!("n{i}"), "--log-segment-bytes", "1MiB", "--until-stdin-ends"]);
        command.args(["--listen-client-urls", &client, "--advertise-client-urls", &client, "--listen-peer-urls", &peer]);
        command.args(["--initial-advertise-peer-urls", &peer, "--initial-cluster", &self.cluster()]).arg("--data-dir").arg(self.data(i));
        self.nodes[i].2 = Some(Process::start(command, &self.log(i)));
    }

    fn channel(&self, i: usize) -> Channel {
        Endpoint::from_shared(format!("http://{}", self.nodes[i].0)).unwrap().timeout(CALL_TIME_MAX).connect_lazy()
    }

    /// Tries until it is done.
    async fn until<T, F: Future<Output = Result<T, Status>>>(&self, what: &str, mut attempt: impl FnMut() -> F) -> T {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match attempt().await {
                Ok(found) => return found,
                Err(status) if Instant::now() > deadline => {
                    let said: String = (0..self.nodes.len()).map(|i| format!("n{i}:\n{}\n", tail(&self.log(i)))).collect();
                    panic!("{what}: {status}\n{said}");
                }
                Err(_) => tokio::time::sleep(LOOK_INTERVAL).await,
            }
        }
    }

    async fn put(&self, i: usize, key: &str) -> i64 {
        let put = || pb::PutRequest { key: key.to_owned().into(), value: vec![b'v'; 1000].into(), ..Default::default() };
        let reply = self.until("a put", || async { KvClient::new(self.channel(i)).put(put()).await }).await;
        reply.into_inner().header.unwrap().revision
    }

    async fn get(&self, i: usize, key: &str, revision: i64) -> Vec<(Vec<u8>, i64)> {
        let range = || pb::RangeRequest { key: key.to_owned().into(), range_end: "\0".into(), revision, ..Default::default() };
        let reply = self.until("a range", || async { KvClient::new(self.channel(i)).range(range()).await }).await;
        reply.into_inner().kvs.into_iter().map(|kv| (kv.key.to_vec(), kv.mod_revision)).collect()
    }

    async fn hash(&self, i: usize, revision: i64) -> Result<pb::HashKvResponse, Status> {
        MaintenanceClient::new(self.channel(i)).hash_kv(pb::HashKvRequest { revision }).await.map(tonic::Response::into_inner)
    }

    /// The hash of a revision, which all members have to have.
    async fn one_hash(&self, revision: i64) -> u32 {
        let mut hashes = Vec::new();
        for i in 0..self.nodes.len() {
            let answer = self.until("a hash", || self.hash(i, revision)).await;
            assert_eq!(answer.hash_revision, revision);
            hashes.push((answer.hash, answer.compact_revision));
        }
        assert!(hashes.iter().all(|hash| *hash == hashes[0]), "at {revision}: {hashes:?}");
        hashes[0].0
    }
}

#[tokio::test]
async fn three_members_go_on_from_a_file_of_etcd_and_agree() {
    let mut world = World::restored("three", 3, &real());
    assert_eq!(world.put(0, "next").await, 15);
    for i in 0..3 {
        // A read behind a barrier: the member has come so far.
        let keys: Vec<_> = world.get(i, "a", 0).await.into_iter().map(|(key, at)| (String::from_utf8(key).unwrap(), at)).collect();
        let of = |key: &str, at| (key.to_owned(), at);
        assert_eq!(keys, [of("b", 10), of("e", 11), of("large", 13), of("leased", 12), of("next", 15)]);
        assert_eq!(world.get(i, "a", 8).await, [(b"a".to_vec(), 3)]);
    }
    let (at_8, at_14) = (world.one_hash(8).await, world.one_hash(14).await);
    let below = world.hash(1, 7).await.unwrap_err();
    assert_eq!((below.code(), below.message()), (Code::OutOfRange, "etcdserver: mvcc: required revision has been compacted"));
    let above = world.hash(1, 99).await.unwrap_err();
    assert_eq!((above.code(), above.message()), (Code::OutOfRange, "etcdserver: mvcc: required revision is a future revision"));
    // A restart in between leaves each member elsewhere in removing what is compacted.
    world.nodes[2].2 = None;
    let mut now = 0;
    // A put that is tried again may be done twice.
    for n in 0..50 {
        now = world.put(0, &format!("k{}", n % 5)).await;
    }
    let before = world.until("a hash", || world.hash(0, 14)).await.hash;
    assert_eq!(before, at_14);
    let compact = || pb::CompactionRequest { revision: 14, physical: false };
    world.until("a compaction", || async { KvClient::new(world.channel(0)).compact(compact()).await }).await;
    world.start(2);
    for i in 0..3 {
        world.get(i, "a", 0).await;
    }
    assert_ne!(world.one_hash(14).await, at_8);
    world.one_hash(40).await;
    out_again(&world, now).await;
}

/// What one member streams is a file that etcd's checks let pass, and that the program says the same of.
async fn out_again(world: &World, revision: i64) {
    let mut parts = MaintenanceClient::new(world.channel(1)).snapshot(pb::SnapshotRequest {}).await.unwrap().into_inner();
    let (mut file, mut left) = (Vec::new(), None);
    while let Some(part) = parts.message().await.unwrap() {
        assert!(left.is_none_or(|left| left == part.remaining_bytes + part.blob.len() as u64 || part.blob.len() == 32), "{left:?}");
        assert_eq!((part.version.as_str(), part.header), ("3.6.0", None));
        left = Some(part.remaining_bytes);
        file.extend_from_slice(&part.blob);
    }
    assert_eq!((left, file.len() % 512), (Some(0), 32));
    let path = world.scratch.0.join("streamed").display().to_string();
    std::fs::write(&path, &file).unwrap();
    let status = done(&["snapshot", "status", &path]);
    assert_eq!((&status["revision"], &status["compacted"], &status["leases"]), (&revision.into(), &14.into(), &2.into()));
    let saved = world.scratch.0.join("saved").display().to_string();
    let told = done(&["snapshot", "save", "--format", "etcd", &saved, "--endpoints", &world.nodes[2].0]);
    assert_eq!((&told["revision"], &told["versions"], &told["hash_checked"]), (&status["revision"], &status["versions"], &true.into()));
}

#[tokio::test]
async fn requests_are_answered_while_a_member_is_defragmented_and_while_it_sends_a_snapshot() {
    let world = World::restored("busy", 1, &real());
    for n in 0..300 {
        world.put(0, &format!("fill{}", n % 3)).await;
    }
    let (stop, stopped) = tokio::sync::watch::channel(false);
    let channel = world.channel(0);
    let writing = tokio::spawn(async move {
        let mut kv = KvClient::new(channel);
        let mut written = 0u32;
        while !*stopped.borrow() {
            let put = pb::PutRequest { key: "busy".into(), value: written.to_string().into(), ..Default::default() };
            kv.put(put).await.expect("a put is answered");
            written += 1;
        }
        written
    });
    let mut maintenance = MaintenanceClient::new(world.channel(0));
    let before = maintenance.status(pb::StatusRequest {}).await.unwrap().into_inner();
    assert!(before.db_size >= before.db_size_in_use && before.db_size_in_use > 0 && before.db_size_quota == 2 << 30, "{before:?}");
    for _ in 0..3 {
        let mut parts = maintenance.snapshot(pb::SnapshotRequest {}).await.unwrap().into_inner();
        while parts.message().await.unwrap().is_some() {}
        world
            .until("defragmentation", || async { MaintenanceClient::new(world.channel(0)).defragment(pb::DefragmentRequest {}).await })
            .await;
    }
    stop.send(true).unwrap();
    assert!(writing.await.unwrap() > 0);
    assert!(!world.get(0, "busy", 0).await.is_empty());
}

#[test]
fn files_that_cannot_be_trusted_are_refused() {
    let scratch = Scratch::new("etcd-files-refused");
    let whole = std::fs::read(real()).unwrap();
    let mut changed = whole.clone();
    changed[whole.len() / 2] ^= 1;
    let data = scratch.0.join("data").display().to_string();
    for (what, bytes, words) in [
        ("changed", &changed[..], "its SHA-256 is not that of its contents"),
        ("bare", &whole[..whole.len() - 32], "say --skip-hash-check"),
        ("short", &whole[..whole.len() - 4096], "its SHA-256 is not that of its contents"),
    ] {
        let path = scratch.0.join(what).display().to_string();
        std::fs::write(&path, bytes).unwrap();
        refused(&["snapshot", "status", &path], words);
        refused(&["snapshot", "restore", &path, "--data-dir", &data], words);
        assert!(!std::path::Path::new(&data).exists(), "{what}");
    }
    let bare = scratch.0.join("bare").display().to_string();
    assert_eq!(done(&["snapshot", "status", &bare, "--skip-hash-check"])["hash_checked"], false);
    let raised = ["snapshot", "restore", &bare, "--skip-hash-check", "--data-dir", &data, "--bump-revision", "1000", "--mark-compacted"];
    assert_eq!(done(&raised)["namespaces"][0]["revision"], 1014);
}
