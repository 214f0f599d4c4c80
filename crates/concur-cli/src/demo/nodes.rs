//! The nodes of a demo: child processes, their ports and their directory.

use crate::exit::{Exit, Failure, Outcome};
use concur::Strategy;
use std::cell::RefCell;
use std::fs::File;
use std::net::TcpListener;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// How long a node may take to stop when it is asked to.
const STOP_TIME_MAX: Duration = Duration::from_secs(5);
/// Small, so that a demo begins at once.
const SEGMENT_BYTES: &str = "8MiB";
const PREFIX: &str = "concur-demo-";

/// One node.
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) name: String,
    pub(crate) client_port: u16,
    peer_port: u16,
    /// Its process, while it runs. Its standard input stays open as long as this lives.
    child: Option<Child>,
}

/// All of them.
#[derive(Debug)]
pub(crate) struct Nodes {
    pub(crate) directory: PathBuf,
    pub(crate) nodes: Vec<Node>,
    strategy: Strategy,
    /// Held for its lock, by which the next demo knows that this one lives.
    _lock: File,
}

/// Where directories of demos lie.
pub(crate) fn demos() -> impl Iterator<Item = PathBuf> {
    let entries = std::fs::read_dir(std::env::temp_dir()).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).filter(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(PREFIX)))
}

/// Whether the demo that made a directory still runs.
pub(crate) fn is_alive(directory: &Path) -> bool {
    File::open(directory.join("lock")).is_ok_and(|lock| lock.try_lock().is_err())
}

/// A demo that is just beginning has made its lock and may not hold it yet.
const BEGINNING: Duration = Duration::from_secs(1);

/// Removes what demos left that were killed.
pub(crate) fn sweep() {
    let made = |directory: &Path| std::fs::metadata(directory.join("lock")).and_then(|lock| lock.modified());
    let is_old = |directory: &Path| made(directory).is_ok_and(|at| at.elapsed().is_ok_and(|age| age > BEGINNING));
    for directory in demos().filter(|directory| is_old(directory) && !is_alive(directory)) {
        // Somebody else's stays.
        drop(std::fs::remove_dir_all(directory));
    }
}

impl Nodes {
    /// Starts `count` nodes.
    pub(crate) fn start(strategy: Strategy, count: usize) -> Outcome<Self> {
        let directory = std::env::temp_dir().join(format!("{PREFIX}{}", std::process::id()));
        let failed = |error: std::io::Error| Failure::new(Exit::Failure, format!("cannot use {}: {error}", directory.display()));
        std::fs::DirBuilder::new().mode(0o700).create(&directory).map_err(failed)?;
        let lock = File::create(directory.join("lock")).map_err(failed)?;
        lock.lock().map_err(failed)?;
        // Held until all are picked, so that none is picked twice.
        let mut held = Vec::new();
        let nodes = (0..count).map(|i| node(i, &mut held).map_err(failed)).collect::<Outcome<Vec<_>>>()?;
        drop(held);
        let mut all = Self { directory: directory.clone(), nodes, strategy, _lock: lock };
        for i in 0..count {
            all.spawn(i)?;
        }
        Ok(all)
    }

    /// The place of a node that is called so.
    pub(crate) fn find(&self, name: &str) -> Option<usize> {
        self.nodes.iter().position(|node| node.name == name)
    }

    /// Starts one node that is not running.
    pub(crate) fn spawn(&mut self, i: usize) -> Outcome {
        let failed = |error: std::io::Error| Failure::new(Exit::Failure, format!("cannot start {}: {error}", self.nodes[i].name));
        let peer = |node: &Node| format!("{}=http://127.0.0.1:{}", node.name, node.peer_port);
        let cluster = self.nodes.iter().map(peer).collect::<Vec<_>>().join(",");
        let node = &self.nodes[i];
        let log = File::options().create(true).append(true).open(self.directory.join(format!("{}.log", node.name))).map_err(failed)?;
        let mut command = Command::new(std::env::current_exe().map_err(failed)?);
        // What is set for this program is not meant for the nodes.
        for (key, _) in std::env::vars_os().filter(|(key, _)| key.to_string_lossy().starts_with("CONCUR_")) {
            command.env_remove(key);
        }
        command.arg("serve").args(["--name", &node.name]).arg("--data-dir").arg(self.directory.join(&node.name));
        let (client, peer) = (format!("http://127.0.0.1:{}", node.client_port), format!("http://127.0.0.1:{}", node.peer_port));
        command.args(["--listen-client-urls", &client, "--advertise-client-urls", &client]);
        command.args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer]);
        command.args(["--initial-cluster", &cluster, "--initial-cluster-token", &self.directory.to_string_lossy()]);
        command.args(["--strategy", self.strategy.traits.name, "--log-segment-bytes", SEGMENT_BYTES, "--until-stdin-ends"]);
        let child = command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(log).spawn().map_err(failed)?;
        self.nodes[i].child = Some(child);
        Ok(())
    }

    /// `kill -9`. Returns the process that was killed, if it ran.
    pub(crate) fn kill(&mut self, i: usize) -> Option<u32> {
        let mut child = self.nodes[i].child.take()?;
        let pid = child.id();
        let killed = child.kill().and_then(|()| child.wait());
        killed.ok().map(|_| pid)
    }

    /// Whether a node runs.
    pub(crate) fn is_running(&mut self, i: usize) -> bool {
        self.nodes[i].child.as_mut().is_some_and(|child| child.try_wait().is_ok_and(|status| status.is_none()))
    }

    /// The last lines that a node logged.
    pub(crate) fn last_lines(&self, i: usize) -> String {
        let text = std::fs::read_to_string(self.directory.join(format!("{}.log", self.nodes[i].name))).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(5)..].join("\n")
    }

    fn any_running(&mut self) -> bool {
        (0..self.nodes.len()).any(|i| self.is_running(i))
    }

    fn ask_to_stop(&self) {
        for child in self.nodes.iter().filter_map(|node| node.child.as_ref()) {
            if let Some(pid) = i32::try_from(child.id()).ok().and_then(rustix::process::Pid::from_raw) {
                // It may have ended by itself.
                let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
            }
        }
    }

    fn clean(&mut self) {
        for i in 0..self.nodes.len() {
            self.kill(i);
        }
        drop(std::fs::remove_dir_all(&self.directory));
    }
}

/// Asks every node to stop, kills those that do not, and removes the directory.
pub(crate) async fn stop(nodes: &RefCell<Nodes>) {
    nodes.borrow().ask_to_stop();
    let until = Instant::now() + STOP_TIME_MAX;
    while Instant::now() < until && nodes.borrow_mut().any_running() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    nodes.borrow_mut().clean();
}

impl Drop for Nodes {
    fn drop(&mut self) {
        self.clean();
    }
}

fn node(i: usize, held: &mut Vec<TcpListener>) -> std::io::Result<Node> {
    // etcd's own for the first; those that its documents use for more members on one machine.
    let wanted = match i {
        0 => 2379,
        1..=4 => (2379 + 10_000 * (i + 1)) as u16,
        _ => 0,
    };
    let mut free = || -> std::io::Result<u16> {
        held.push(TcpListener::bind(("127.0.0.1", 0))?);
        Ok(held[held.len() - 1].local_addr()?.port())
    };
    let (client_port, peer_port) = match wanted {
        1.. if is_free(wanted) && is_free(wanted + 1) => (wanted, wanted + 1),
        _ => (free()?, free()?),
    };
    Ok(Node { name: format!("n{}", i + 1), client_port, peer_port, child: None })
}

fn is_free(port: u16) -> bool {
    TcpListener::bind(("127.0.0.1", port)).is_ok()
}
