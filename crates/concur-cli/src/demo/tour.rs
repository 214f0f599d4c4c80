//! The tour: what is shown, measured and checked.

use super::client::Client;
use super::nodes::Nodes;
use crate::exit::{Exit, Failure, Outcome};
use crate::output::write;
use bytes::Bytes;
use concur::Strategy;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io::IsTerminal;
use std::rc::Rc;
use std::time::{Duration, Instant};

/// How long any one thing may take before its line does not hold.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long one call of the tour may take.
const CALL_TIME_MAX: Duration = Duration::from_secs(10);
/// How long a writer waits before it turns to another node.
const WRITE_TIME_MAX: Duration = Duration::from_secs(1);
const WRITERS: usize = 4;
/// Between two writes of one writer: the tour shows what is lost, not how much is possible.
const WRITER_PAUSE: Duration = Duration::from_millis(2);
/// Writes that are acknowledged before the kill, while one is away, and after it came back.
const WRITES_EACH: usize = 300;
const PREFIX: &str = "demo/";

/// Everything that was acknowledged.
type Acknowledged = Rc<RefCell<BTreeMap<Bytes, Bytes>>>;

struct Tour<'n> {
    nodes: &'n Rc<RefCell<Nodes>>,
    clients: Vec<Client>,
    held: bool,
}

/// Shows everything; answers whether every line held.
pub(super) async fn run(nodes: &Rc<RefCell<Nodes>>, strategy: Strategy) -> Outcome<bool> {
    let clients = nodes.borrow().nodes.iter().map(|node| Client::new(node.client_port, CALL_TIME_MAX)).collect();
    let mut tour = Tour { nodes, clients, held: true };
    tour.nodes_line(strategy).await?;
    tour.put_and_get().await?;
    let acknowledged = Acknowledged::default();
    let writers = tour.writers(&acknowledged);
    tour.wait_for_writes(&acknowledged).await;
    let victim = tour.kill(strategy).await?;
    tour.put_again(victim, strategy).await?;
    tour.wait_for_writes(&acknowledged).await;
    nodes.borrow_mut().spawn(victim)?;
    tour.wait_for_leader(victim).await?;
    tour.wait_for_writes(&acknowledged).await;
    writers.iter().for_each(tokio::task::JoinHandle::abort);
    for writer in writers {
        // Aborted is how it ends.
        drop(writer.await);
    }
    tour.verify(victim, &acknowledged).await?;
    Ok(tour.held)
}

/// What to do with the cluster.
pub(super) fn invite(nodes: &Nodes) {
    let port = nodes.nodes[0].client_port;
    let endpoint = if port == 2379 { String::new() } else { format!(" --endpoints 127.0.0.1:{port}") };
    let last = nodes.nodes.last().map_or("n3", |node| node.name.as_str());
    let text = format!(
        "  yours now:   etcdctl{endpoint} get hello   ·   concur get hello{endpoint}   ·   concur kill {last}      (Ctrl-C ends it)\n"
    );
    drop(write(text));
}

impl Tour<'_> {
    fn line(&mut self, holds: bool, text: &str) -> Outcome {
        self.held &= holds;
        mark(if holds { "✓" } else { "✗" }, if holds { "32" } else { "31" }, text)
    }

    fn name(&self, i: usize) -> String {
        self.nodes.borrow().nodes[i].name.clone()
    }

    async fn nodes_line(&mut self, strategy: Strategy) -> Outcome {
        let count = self.clients.len();
        for i in 0..count {
            self.wait_for_leader(i).await?;
        }
        let place = |(i, node): (usize, &super::nodes::Node)| match i {
            0 => format!("{} 127.0.0.1:{}", node.name, node.client_port),
            _ => format!("{} :{}", node.name, node.client_port),
        };
        let places = self.nodes.borrow().nodes.iter().enumerate().map(place).collect::<Vec<_>>().join("   ");
        self.line(true, &format!("{count} nodes   {places}      {} · majority of {count}", strategy.traits.name))
    }

    /// Waits until a node knows who leads, or stands for it.
    async fn wait_for_leader(&mut self, i: usize) -> Outcome {
        let until = Instant::now() + PATIENCE;
        loop {
            if self.clients[i].status().await.is_ok_and(|status| status.leader != 0) {
                return Ok(());
            }
            let ended = !self.nodes.borrow_mut().is_running(i);
            if ended || Instant::now() > until {
                let why = if ended { "ended" } else { "is not ready" };
                let lines = self.nodes.borrow().last_lines(i);
                return Err(Failure::new(Exit::Failure, format!("{} {why}; its last lines:\n{lines}", self.name(i))));
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    async fn put_and_get(&mut self) -> Outcome {
        let began = Instant::now();
        let put = self.clients[0].put("hello", "world").await;
        let took = millis(began.elapsed());
        match put {
            Ok(revision) => self.line(true, &format!("put hello=world        {took}   revision {revision}"))?,
            Err(status) => self.line(false, &format!("put hello=world: {}", status.message()))?,
        }
        let began = Instant::now();
        let got = self.clients[0].get("hello").await;
        let took = millis(began.elapsed());
        match got {
            Ok(Some(value)) if value == "world" => {
                let name = self.name(0);
                self.line(true, &format!("get hello → world      {took}   strong, served by {name}"))
            }
            Ok(value) => self.line(false, &format!("get hello → {value:?} instead of world")),
            Err(status) => self.line(false, &format!("get hello: {}", status.message())),
        }
    }

    /// Clients that write all the time, each to the node it finds, and note what was acknowledged.
    fn writers(&self, acknowledged: &Acknowledged) -> Vec<tokio::task::JoinHandle<()>> {
        let ports: Vec<u16> = self.nodes.borrow().nodes.iter().map(|node| node.client_port).collect();
        let writer = |w: usize| {
            let mut clients: Vec<Client> = ports.iter().map(|&port| Client::new(port, WRITE_TIME_MAX)).collect();
            let acknowledged = acknowledged.clone();
            tokio::task::spawn_local(async move {
                let mut at = w % clients.len();
                for n in 0u64.. {
                    let (key, value) = (format!("{PREFIX}{w}/{n:08}"), format!("{w}-{n}"));
                    match clients[at].put(&key, &value).await {
                        Ok(_) => drop(acknowledged.borrow_mut().insert(key.into(), value.into())),
                        // It may be there or not: nothing was promised.
                        Err(_) => at = (at + 1) % clients.len(),
                    }
                    tokio::time::sleep(WRITER_PAUSE).await;
                }
            })
        };
        (0..WRITERS).map(writer).collect()
    }

    async fn wait_for_writes(&self, acknowledged: &Acknowledged) {
        let enough = acknowledged.borrow().len() + WRITES_EACH;
        let until = Instant::now() + PATIENCE;
        while acknowledged.borrow().len() < enough && Instant::now() < until {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Kills the leader, or the first where nobody leads.
    async fn kill(&mut self, strategy: Strategy) -> Outcome<usize> {
        let mut leader = None;
        for i in 0..self.clients.len() {
            if strategy.traits.has_leader
                && self.clients[i].status().await.is_ok_and(|s| s.leader != 0 && s.header.is_some_and(|h| h.member_id == s.leader))
            {
                leader = Some(i);
            }
        }
        let victim = leader.unwrap_or(0);
        let name = self.name(victim);
        let Some(pid) = self.nodes.borrow_mut().kill(victim) else {
            return Err(Failure::new(Exit::Failure, format!("{name} could not be killed")));
        };
        let role = if leader.is_some() { "leader, " } else { "" };
        mark("✗", "33", &format!("kill -9 {name} ({role}pid {pid})"))?;
        Ok(victim)
    }

    /// Writes through the nodes that are left until one acknowledges.
    async fn put_again(&mut self, victim: usize, strategy: Strategy) -> Outcome {
        let began = Instant::now();
        let others: Vec<usize> = (0..self.clients.len()).filter(|&i| i != victim).collect();
        for i in others.iter().cycle() {
            let Err(status) = self.clients[*i].put("hello", "again").await else { break };
            if began.elapsed() > PATIENCE {
                return self.line(false, &format!("put hello=again: {}", status.message()));
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let gap = began.elapsed().as_millis().max(1);
        let next = if strategy.traits.has_leader { self.leader_among(&others).await } else { "nobody leads".into() };
        self.line(true, &format!("put hello=again        writes were unavailable for {gap} ms · {next}"))
    }

    async fn leader_among(&mut self, nodes: &[usize]) -> String {
        for &i in nodes {
            if self.clients[i].status().await.is_ok_and(|s| s.header.is_some_and(|h| h.member_id == s.leader)) {
                return format!("{} leads", self.name(i));
            }
        }
        "the next leader is not known yet".into()
    }

    /// Looks on every node for every write that was acknowledged.
    async fn verify(&mut self, victim: usize, acknowledged: &Acknowledged) -> Outcome {
        let wanted = acknowledged.borrow().clone();
        let mut there = wanted.len();
        let mut lacking = String::new();
        for i in 0..self.clients.len() {
            let found = self.found(i, &wanted).await;
            if found < wanted.len() && lacking.is_empty() {
                lacking = format!("; {} lacks {}", self.name(i), wanted.len() - found);
            }
            there = there.min(found);
        }
        let holds = there == wanted.len() && !wanted.is_empty();
        let (name, count) = (self.name(victim), self.clients.len());
        let counts = format!("{} of {}{lacking}", thousands(there), thousands(wanted.len()));
        let claim = if holds { "every acknowledged write is there" } else { "acknowledged writes are missing" };
        self.line(holds, &format!("{name} restarted, caught up; {claim} on all {} ({counts})", word(count)))
    }

    /// How many of the acknowledged writes a node has, once it has caught up or long enough passed.
    async fn found(&mut self, i: usize, wanted: &BTreeMap<Bytes, Bytes>) -> usize {
        let until = Instant::now() + PATIENCE;
        loop {
            let has = self.clients[i].under(PREFIX).await.unwrap_or_default();
            let found = wanted.iter().filter(|(key, value)| has.get(*key) == Some(value)).count();
            if found == wanted.len() || Instant::now() > until {
                return found;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

fn mark(sign: &str, colour: &str, text: &str) -> Outcome {
    let coloured = std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    write(if coloured { format!("\x1b[{colour}m{sign}\x1b[0m {text}\n") } else { format!("{sign} {text}\n") })
}

fn millis(took: Duration) -> String {
    format!("{:.1} ms", took.as_secs_f64() * 1e3)
}

/// A small number in letters.
fn word(n: usize) -> String {
    const WORDS: [&str; 10] = ["none", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"];
    WORDS.get(n).map_or_else(|| n.to_string(), |word| (*word).to_owned())
}

/// `1,204`.
fn thousands(n: usize) -> String {
    let digits = n.to_string();
    let groups: Vec<&str> = digits.as_bytes().rchunks(3).rev().map(|chunk| std::str::from_utf8(chunk).unwrap_or("")).collect();
    groups.join(",")
}
