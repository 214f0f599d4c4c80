//! Starts servers to compare, in scratch directories that go with them.

use std::fs::{self, File};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use concur_proto::etcdserverpb as pb;
use pb::kv_client::KvClient;

/// How long a cluster may take to answer its first read.
const START_TIME_MAX: Duration = Duration::from_secs(60);

/// A running cluster. It is killed, and its directory removed, when dropped.
pub(crate) struct Cluster {
    pub(crate) endpoints: Vec<String>,
    members: Vec<Child>,
    dir: PathBuf,
}

/// What to start.
#[derive(Debug, Clone)]
pub(crate) struct Program {
    pub(crate) path: PathBuf,
    pub(crate) members: usize,
    /// What comes before the flags that both take.
    pub(crate) arguments: Vec<String>,
}

impl Cluster {
    /// Starts a cluster and waits until it answers.
    pub(crate) async fn start(program: &Program, scratch: &Path) -> Result<Self, String> {
        static CLUSTERS: AtomicU64 = AtomicU64::new(0);
        let number = CLUSTERS.fetch_add(1, Ordering::Relaxed);
        let dir = scratch.join(format!("concur-fuzz-{}-{number}", std::process::id()));
        fs::create_dir_all(&dir).map_err(|error| format!("{}: {error}", dir.display()))?;
        let ports = free_ports(2 * program.members)?;
        let (clients, peers) = ports.split_at(program.members);
        let mut cluster = Self { endpoints: Vec::new(), members: Vec::new(), dir };
        for (at, &client) in clients.iter().enumerate() {
            cluster.endpoints.push(format!("http://127.0.0.1:{client}"));
            let member = cluster.spawn(program, at, client, peers);
            cluster.members.push(member.map_err(|error| format!("{}: {error}", program.path.display()))?);
        }
        let deadline = Instant::now() + START_TIME_MAX;
        for endpoint in &cluster.endpoints {
            while !answers(endpoint).await {
                if Instant::now() >= deadline {
                    return Err(format!("{} did not answer in {START_TIME_MAX:?}: {}", program.path.display(), cluster.last_words()));
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
        Ok(cluster)
    }

    fn spawn(&self, program: &Program, at: usize, client: u16, peers: &[u16]) -> std::io::Result<Child> {
        let url = |port: u16| format!("http://127.0.0.1:{port}");
        let all: Vec<String> = peers.iter().enumerate().map(|(at, &port)| format!("n{at}={}", url(port))).collect();
        let log = File::create(self.dir.join(format!("n{at}.log")))?;
        let mut command = Command::new(&program.path);
        command
            .args(&program.arguments)
            .args(["--name", &format!("n{at}"), "--initial-cluster-state", "new", "--initial-cluster-token", "fuzz"])
            .arg("--data-dir")
            .arg(self.dir.join(format!("n{at}")))
            .args(["--listen-client-urls", &url(client), "--advertise-client-urls", &url(client)])
            .args(["--listen-peer-urls", &url(peers[at]), "--initial-advertise-peer-urls", &url(peers[at])])
            .args(["--initial-cluster", &all.join(",")]);
        command.stdin(Stdio::piped()).stdout(log.try_clone()?).stderr(log).spawn()
    }

    /// The end of each member's log.
    fn last_words(&self) -> String {
        let tail = |at: usize| {
            let text = fs::read_to_string(self.dir.join(format!("n{at}.log"))).unwrap_or_default();
            text.lines().rev().take(3).collect::<Vec<_>>().join(" | ")
        };
        (0..self.members.len()).map(tail).collect::<Vec<_>>().join("\n")
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for member in &mut self.members {
            let _ = member.kill();
            let _ = member.wait();
        }
        let _ = fs::remove_dir_all(&self.dir);
    }
}

fn free_ports(count: usize) -> Result<Vec<u16>, String> {
    let listeners: Result<Vec<_>, _> = (0..count).map(|_| TcpListener::bind("127.0.0.1:0")).collect();
    let listeners = listeners.map_err(|error| format!("no free port: {error}"))?;
    listeners.iter().map(|listener| listener.local_addr().map(|at| at.port()).map_err(|error| error.to_string())).collect()
}

async fn answers(endpoint: &str) -> bool {
    let Ok(mut kv) = KvClient::connect(endpoint.to_owned()).await else { return false };
    let range = pb::RangeRequest { key: vec![0].into(), ..Default::default() };
    matches!(tokio::time::timeout(Duration::from_secs(5), kv.range(range)).await, Ok(Ok(_)))
}
