//! A cluster of real processes on this machine, started for a measurement and gone after it.
//!
//! Concur and etcd take the same flags, so that one description starts either. Every node gets free ports of the loopback
//! interface and an empty data directory. A cluster is ready when every node has acknowledged a put. It is ended by
//! dropping it; should this process die first, however it dies, a small shell that waits on a pipe from it ends the nodes
//! and removes their data.
//!
//! What is not here: clusters on several machines, TLS.

use std::fs::{self, File};
use std::io::Read;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use concur_proto::etcdserverpb::{StatusRequest, StatusResponse};

use crate::BenchError;
use crate::load;
use crate::syncs;
use crate::wire::{Call, Caller, Endpoint, Failure, Link};

/// Nodes of a cluster.
pub(crate) const NODES: usize = 3;
/// How long a cluster may take until every node acknowledges a put.
const READY_WITHIN: Duration = Duration::from_secs(30);
/// How often readiness is asked for.
const ASK_EVERY: Duration = Duration::from_millis(20);
/// How long one question may wait for its answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(2);
/// Starts before a cluster is given up: another program may take a port between its choice and its use.
const STARTS_MAX: usize = 3;
/// What of a failed node's messages is shown.
const MESSAGES_SHOWN: usize = 12;

/// A program that serves etcd's API and how it is started.
#[derive(Debug, Clone)]
pub(crate) struct System {
    /// Its name in tables.
    pub(crate) name: String,
    pub(crate) program: PathBuf,
    /// Arguments before the flags that all systems share.
    pub(crate) leading: Vec<String>,
    /// Arguments after them.
    pub(crate) trailing: Vec<String>,
}

/// A running cluster.
pub(crate) struct Cluster {
    nodes: Vec<Node>,
    dir: PathBuf,
    guard: Option<Child>,
    keep: bool,
}

struct Node {
    name: String,
    client: Endpoint,
    process: Child,
}

/// How a cluster is started.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Start<'a> {
    pub(crate) system: &'a System,
    /// Its directory, made and removed by the cluster, within one of this program's own that may go when it is empty.
    pub(crate) dir: &'a Path,
    /// Whether the nodes' synchronisations are traced.
    pub(crate) traced: bool,
    /// Whether data and messages stay when the cluster ends.
    pub(crate) keep: bool,
}

impl Cluster {
    /// Starts the nodes and waits until each acknowledges a put.
    pub(crate) fn start(start: Start) -> Result<Cluster, BenchError> {
        let mut attempt = 1;
        loop {
            match Cluster::start_once(start) {
                Err(BenchError::NodeEnded { .. }) if attempt < STARTS_MAX => attempt += 1,
                outcome => return outcome,
            }
        }
    }

    fn start_once(start: Start) -> Result<Cluster, BenchError> {
        fs::create_dir_all(start.dir).map_err(|error| at(start.dir, error))?;
        // Built up in place, so that whatever fails, the nodes started so far are ended with it.
        let mut cluster = Cluster { nodes: Vec::new(), dir: start.dir.to_owned(), guard: None, keep: start.keep };
        let ports = free_ports(2 * NODES)?;
        let (clients, peers) = ports.split_at(NODES);
        let members: Vec<String> = (0..NODES).map(|node| format!("n{}=http://127.0.0.1:{}", node + 1, peers[node])).collect();
        for node in 0..NODES {
            let started = Node::start(start, node, clients[node], peers[node], &members.join(","))?;
            cluster.nodes.push(started);
            cluster.renew_guard()?;
        }
        cluster.wait_ready()?;
        Ok(cluster)
    }

    pub(crate) fn pids(&self) -> Vec<u32> {
        self.nodes.iter().map(|node| node.process.id()).collect()
    }

    /// All nodes' endpoints, in the order of their names.
    pub(crate) fn endpoints(&self) -> Vec<Endpoint> {
        self.nodes.iter().map(|node| node.client.clone()).collect()
    }

    /// The node that leads, by its place; none where nothing leads or the nodes cannot say.
    pub(crate) fn leader(&self) -> Result<Option<usize>, BenchError> {
        let runtime = load::runtime()?;
        let leader = runtime.block_on(async {
            for (place, node) in self.nodes.iter().enumerate() {
                let mut caller = Caller::new(Link::new(node.client.clone(), ANSWER_WITHIN), ANSWER_WITHIN);
                let Ok(status) = caller.call::<StatusResponse>(Call::Status, &StatusRequest::default()).await else { continue };
                if status.leader != 0 && status.header.is_some_and(|header| header.member_id == status.leader) {
                    return Some(place);
                }
            }
            None
        });
        Ok(leader)
    }

    /// Ends the nodes and returns what was traced of each.
    pub(crate) fn end_and_read_traces(mut self) -> Result<Vec<String>, BenchError> {
        self.end_nodes();
        let deadline = Instant::now() + READY_WITHIN;
        let mut traces = Vec::new();
        for node in &self.nodes {
            let path = trace_file(&self.dir, &node.name);
            // The tracer is nobody's child here; its last line tells that it has written all.
            loop {
                let trace = fs::read_to_string(&path).map_err(|error| at(&path, error))?;
                let ended = format!("{} ", node.process.id());
                if trace.lines().rev().any(|line| line.starts_with(&ended) && line.contains("+++ killed by SIGKILL +++")) {
                    traces.push(trace);
                    break;
                }
                if Instant::now() > deadline {
                    return Err(BenchError::Failed(format!("strace did not finish {}", path.display())));
                }
                thread::sleep(ASK_EVERY);
            }
        }
        Ok(traces)
    }

    /// Starts the shell that ends the present nodes when this process is gone, in place of the one for fewer nodes.
    fn renew_guard(&mut self) -> Result<(), BenchError> {
        self.end_guard();
        let remove =
            if self.keep { ":" } else { "for i in 1 2 3 4 5; do rm -rf -- \"$dir\" 2>/dev/null && break; done; rmdir -- \"${dir%/*}\"" };
        let script = format!("dir=$1; shift; read -r _; kill -9 \"$@\" 2>/dev/null; {remove}");
        let mut command = Command::new("sh");
        command.arg("-c").arg(script).arg("sh").arg(&self.dir).args(self.pids().iter().map(u32::to_string));
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        own_group(&mut command);
        let guard =
            command.spawn().map_err(|error| BenchError::Failed(format!("the shell that guards the nodes cannot start: {error}")))?;
        self.guard = Some(guard);
        Ok(())
    }

    /// The guard goes first, so that it never acts on a process number that has been given to another.
    fn end_guard(&mut self) {
        if let Some(mut guard) = self.guard.take() {
            end(&mut guard);
        }
    }

    fn end_nodes(&mut self) {
        self.end_guard();
        self.nodes.iter_mut().for_each(|node| end(&mut node.process));
    }

    fn wait_ready(&mut self) -> Result<(), BenchError> {
        let runtime = load::runtime()?;
        let deadline = Instant::now() + READY_WITHIN;
        for place in 0..self.nodes.len() {
            loop {
                self.check_alive()?;
                let node = &self.nodes[place];
                let Err(failure) = runtime.block_on(load::probe(&node.client, ANSWER_WITHIN)) else { break };
                if Instant::now() > deadline {
                    return Err(self.not_ready(place, failure));
                }
                thread::sleep(ASK_EVERY);
            }
        }
        Ok(())
    }

    /// An error if a node has ended by itself.
    pub(crate) fn check_alive(&mut self) -> Result<(), BenchError> {
        for node in &mut self.nodes {
            if let Ok(Some(status)) = node.process.try_wait() {
                let messages = last_lines(&message_file(&self.dir, &node.name));
                return Err(BenchError::NodeEnded { node: node.name.clone(), status: status.to_string(), messages });
            }
        }
        Ok(())
    }

    fn not_ready(&self, place: usize, failure: Failure) -> BenchError {
        let node = &self.nodes[place];
        let messages = last_lines(&message_file(&self.dir, &node.name));
        let waited_s = READY_WITHIN.as_secs();
        BenchError::Failed(format!(
            "node {} at {} acknowledged no put within {waited_s} s: {failure}; its last messages:\n{messages}",
            node.name, node.client
        ))
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.end_nodes();
        if !self.keep {
            // Left-over data hurts nobody; a tracer may still be writing its last line.
            drop(fs::remove_dir_all(&self.dir));
        }
    }
}

impl Node {
    fn start(start: Start, node: usize, client: u16, peer: u16, members: &str) -> Result<Node, BenchError> {
        let name = format!("n{}", node + 1);
        let (client_url, peer_url) = (format!("http://127.0.0.1:{client}"), format!("http://127.0.0.1:{peer}"));
        let data_dir = start.dir.join(&name);
        let messages = message_file(start.dir, &name);
        let log = File::create(&messages).map_err(|error| at(&messages, error))?;
        let second = log.try_clone().map_err(|error| at(&messages, error))?;
        let mut line = if start.traced { syncs::tracer(&trace_file(start.dir, &name)) } else { Vec::new() };
        line.push(start.system.program.display().to_string());
        line.extend(start.system.leading.iter().cloned());
        let mut command = Command::new(&line[0]);
        command.args(&line[1..]);
        command.args(["--name", &name]).arg("--data-dir").arg(&data_dir);
        command.args(["--listen-client-urls", &client_url, "--advertise-client-urls", &client_url]);
        command.args(["--listen-peer-urls", &peer_url, "--initial-advertise-peer-urls", &peer_url]);
        command.args(["--initial-cluster", members, "--initial-cluster-state", "new", "--initial-cluster-token", "concur-bench"]);
        command.args(&start.system.trailing);
        command.stdin(Stdio::null()).stdout(log).stderr(second);
        own_group(&mut command);
        let process = command.spawn().map_err(|error| BenchError::Failed(format!("{} cannot be started: {error}", line[0])))?;
        Ok(Node { name, client: Endpoint::loopback(client), process })
    }
}

fn message_file(dir: &Path, name: &str) -> PathBuf {
    dir.join(format!("{name}.log"))
}

fn trace_file(dir: &Path, name: &str) -> PathBuf {
    dir.join(format!("{name}.strace"))
}

fn last_lines(path: &Path) -> String {
    let mut text = Vec::new();
    let read = File::open(path).and_then(|mut file| file.read_to_end(&mut text));
    if read.is_err() {
        return String::new();
    }
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(MESSAGES_SHOWN)..].join("\n")
}

/// Ends a child and waits for it; one that has ended already is no error.
fn end(child: &mut Child) {
    drop(child.kill());
    drop(child.wait());
}

/// A signal from the terminal reaches only this program, which then ends its nodes in order.
fn own_group(command: &mut Command) {
    #[cfg(unix)]
    std::os::unix::process::CommandExt::process_group(command, 0);
}

fn at(path: &Path, error: std::io::Error) -> BenchError {
    BenchError::Failed(format!("{}: {error}", path.display()))
}

/// Ports that are free at this moment; all are held until all are found, so that none comes twice.
fn free_ports(count: usize) -> Result<Vec<u16>, BenchError> {
    let listeners: Result<Vec<TcpListener>, _> = (0..count).map(|_| TcpListener::bind(("127.0.0.1", 0))).collect();
    let ports = listeners.and_then(|listeners| listeners.iter().map(|listener| Ok(listener.local_addr()?.port())).collect());
    ports.map_err(|error| BenchError::Failed(format!("no free ports on the loopback interface: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_port_is_its_own() {
        let mut ports = free_ports(2 * NODES).unwrap();
        ports.sort_unstable();
        ports.dedup();
        assert_eq!(ports.len(), 2 * NODES);
    }

    #[test]
    fn a_program_that_ends_at_once_is_reported_and_leaves_nothing_behind() {
        let dir = std::env::temp_dir().join(format!("concur-bench-test-{}", std::process::id()));
        let system = System {
            name: "failing".into(),
            program: "sh".into(),
            leading: vec!["-c".into(), "echo this cannot work; exit 7".into()],
            trailing: Vec::new(),
        };
        let outcome = Cluster::start(Start { system: &system, dir: &dir, traced: false, keep: false });
        let error = outcome.err().expect("the nodes ended").to_string();
        assert!(error.contains("exit status: 7"), "{error}");
        assert!(error.contains("this cannot work"), "{error}");
        assert!(!dir.exists());
    }
}
