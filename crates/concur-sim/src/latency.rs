//! The simulator as a measuring instrument: commit latencies where nothing but distance takes time.
//!
//! At zero jitter, no disk and no processor time, a commit latency is a closed form of the round-trip matrix, and what is measured
//! must equal it to the nanosecond. With d(k, s) the k-th smallest round trip from site s, its own 0 counted first: a leader at L
//! commits a command of a client at s after rtt(s, L) + d(majority, L); a leaderless protocol commits what nothing interferes with
//! after d(fast quorum, s).
//!
//! Where the right to propose rotates, a command in slot k waits for its own majority and for everything below k. With nothing else
//! under way these are the slots since the last used one, which their owners have to skip: s commits after the greater of
//! d(majority, s) and the farthest round trip to such an owner. If everyone proposes at once, the slots below are others' proposals:
//! s learns of r's after d(majority, r) and the way from r.
//!
//! It does not say what a loaded system does: queues, disks and processors take no time here.

use crate::clients::{Client, Event};
use crate::fault::Fault;
use crate::schedule::{self, Act, Network, Operation, Options, Schedule};
use crate::world::World;
use concur_core::{BatchId, Delay, Happening, Phase, QuorumSystem, ReplicaId, ReplicaSet, Strategy, Time};
use concur_kv::Ordering;
use std::time::Duration;

/// Sites, and the round trips between them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Topology {
    /// The sites' names.
    pub sites: Vec<String>,
    /// The round trips, in the order of the sites.
    pub rtt: Vec<Vec<Duration>>,
}

/// Published tables of round trips, by name.
pub const PUBLISHED: &[(&str, &str)] = &[
    ("sosp13-3", include_str!("../topologies/sosp13-3.csv")),
    ("sosp13-5", include_str!("../topologies/sosp13-5.csv")),
    ("aws-2021-5", include_str!("../topologies/aws-2021-5.csv")),
];

/// What one run measured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Measured {
    /// Who led, if anyone did.
    pub leader: Option<ReplicaId>,
    /// For each client, in order: from its request to the answer.
    pub answered: Vec<Duration>,
    /// For each client, in order: from its request to the decision by a longer path, if it took one.
    pub slow: Vec<Option<Duration>>,
}

/// What the writes of one client took, in order, each from its request.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Waited {
    /// Until the client's replica knew the write decided, which is what papers call its commit.
    pub committed: Vec<Duration>,
    /// Until it was answered, and so had been executed, after everything that comes before it.
    pub answered: Vec<Duration>,
}

impl Topology {
    /// Reads a table: a heading `site,A,B…`, then a line of milliseconds a site. Lines that begin with `#` are remarks.
    pub fn parse(csv: &str) -> Result<Self, String> {
        let mut lines = csv.lines().filter(|line| !line.starts_with('#') && !line.trim().is_empty());
        let heading = lines.next().ok_or("a table without a heading")?;
        let sites: Vec<String> = heading.split(',').skip(1).map(|name| name.trim().to_owned()).collect();
        let millis = |cell: &str| {
            let millis: f64 = cell.trim().parse().map_err(|_| format!("`{cell}` is no number"))?;
            Ok::<_, String>(Duration::from_nanos((millis * 1e6).round() as u64))
        };
        let row = |line: &str| line.split(',').skip(1).map(millis).collect::<Result<Vec<_>, _>>();
        let rtt = lines.map(row).collect::<Result<Vec<_>, _>>()?;
        if rtt.len() != sites.len() || rtt.iter().any(|row| row.len() != sites.len()) {
            return Err(format!("a table of {} sites needs as many lines and columns", sites.len()));
        }
        Ok(Self { sites, rtt })
    }

    /// The `k`-th smallest round trip from `site`, its own counted first.
    pub fn nearest(&self, k: usize, site: usize) -> Duration {
        let mut row = self.rtt[site].clone();
        row.sort_unstable();
        row[k - 1]
    }

    /// After how long a leader commits a command of a client at `site`.
    pub fn through_leader(&self, quorums: &QuorumSystem, leader: usize, site: usize) -> Duration {
        Delay::Leader.least(quorums, &self.rtt, leader, site)
    }

    /// After how long a fast quorum has answered `site`.
    pub fn fast(&self, quorums: &QuorumSystem, site: usize) -> Duration {
        Delay::Fast.least(quorums, &self.rtt, site, site)
    }

    /// After how long both phases of a proposal that nobody contends with are through at `site`.
    pub fn both_phases(&self, quorums: &QuorumSystem, site: usize) -> Duration {
        Delay::TwoRounds.least(quorums, &self.rtt, site, site)
    }

    /// After how long a write of a lone client at `site` is answered, which has written before: no write of others is under way, or
    /// came in between. `leader` leads, where somebody does.
    pub fn lone(&self, delay: Delay, quorums: &QuorumSystem, leader: usize, site: usize) -> Duration {
        match delay {
            Delay::Turns => self.in_turn(quorums, Some(site), site),
            Delay::Leader | Delay::TwoRounds | Delay::Fast => delay.least(quorums, &self.rtt, leader, site),
        }
    }

    /// After how long the slow path of two commands that meet is through at `site`, if it begins with the first answer of a slow
    /// quorum that knows of `other`'s command, both having been proposed at once.
    pub fn slow(&self, quorums: &QuorumSystem, site: usize, other: usize) -> Duration {
        let slow = self.nearest(quorums.size(Phase::Accept), site);
        let learned = |&via: &usize| via != site && self.rtt[other][via] < self.rtt[site][via];
        let first = (0..self.sites.len()).filter(learned).map(|via| self.rtt[site][via]).min().unwrap_or_default();
        slow.max(first) + slow
    }

    /// After how long a command of `site` is committed where the right to propose rotates and nothing else is under way, if the site
    /// `last` proposed last, or nobody yet: those whose turn lies between have to say that they skip it.
    pub fn in_turn(&self, quorums: &QuorumSystem, last: Option<usize>, site: usize) -> Duration {
        let all = self.sites.len();
        let first = last.map_or(0, |last| last + 1);
        let skipped = (first..).map(|turn| turn % all).take_while(|&owner| owner != site);
        let skips = skipped.map(|owner| self.rtt[site][owner]).max().unwrap_or_default();
        skips.max(Delay::Turns.least(quorums, &self.rtt, site, site))
    }

    /// After how long a command of `site` is committed where the right to propose rotates, if every site proposes at once and nobody
    /// has before.
    pub fn all_at_once(&self, quorums: &QuorumSystem, site: usize) -> Duration {
        let majority = |site| Delay::Turns.least(quorums, &self.rtt, site, site);
        let learned = |before: usize| majority(before) + self.rtt[before][site] / 2;
        (0..site).map(learned).max().unwrap_or_default().max(majority(site))
    }
}

/// Lets clients at `sites` write once at one moment, all to one key or each to its own, and measures.
pub fn measure(strategy: Strategy, topology: &Topology, sites: &[usize], one_key: bool, seed: u64) -> Measured {
    measured(&schedule(strategy, topology, sites, one_key, 1, seed), sites)
}

/// Lets clients at `sites` write one after the other, each when everything before has long settled, and measures.
pub fn measure_in_turn(strategy: Strategy, topology: &Topology, sites: &[usize], seed: u64) -> Measured {
    let mut schedule = schedule(strategy, topology, sites, false, 1, seed);
    for (client, turn) in schedule.clients.iter_mut().zip(0..) {
        client.operations.iter_mut().for_each(|operation| operation.think += APART * turn);
    }
    measured(&schedule, sites)
}

fn measured(schedule: &Schedule, sites: &[usize]) -> Measured {
    let mut world = World::new(schedule, true);
    let leader = live(&mut world);
    let first = |client: &Client| client.history[0].clone();
    let events: Vec<_> = world.clients.iter().map(first).collect();
    let answered = events.iter().map(|event| event.returned.expect("everything is answered").since(event.invoked)).collect();
    let slow_at = |site: usize, after: Time| {
        let trace = world.trace.as_ref().expect("it was asked for");
        let here = trace.events().filter(|event| event.replica == ReplicaId(site as u8) && event.at >= after);
        here.filter(|event| matches!(event.what, Happening::Transition { name: "slow path", .. })).map(|event| event.at).next()
    };
    let slow = |(event, &site): (&Event, &usize)| {
        let at = slow_at(site, event.invoked)?;
        event.returned.is_some_and(|returned| at <= returned).then(|| at.since(event.invoked))
    };
    let slow = events.iter().zip(sites).map(slow).collect();
    Measured { leader, answered, slow }
}

/// Lets a client at every site write one key, so many times one after the other, and measures each write.
pub fn contend(strategy: Strategy, topology: &Topology, writes: usize, seed: u64) -> (Option<ReplicaId>, Vec<Waited>) {
    let sites: Vec<usize> = (0..topology.sites.len()).collect();
    loops(&schedule(strategy, topology, &sites, true, writes, seed), writes)
}

/// Lets a client at one site write so many times, each when everything before has long settled, and measures each write.
pub fn alone(strategy: Strategy, topology: &Topology, site: usize, writes: usize, seed: u64) -> (Option<ReplicaId>, Waited) {
    let mut schedule = schedule(strategy, topology, &[site], true, writes, seed);
    schedule.clients[0].operations.iter_mut().skip(1).for_each(|operation| operation.think = APART);
    schedule.healed += APART * writes as u32;
    let (leader, mut waited) = loops(&schedule, writes);
    (leader, waited.remove(0))
}

fn loops(schedule: &Schedule, writes: usize) -> (Option<ReplicaId>, Vec<Waited>) {
    let mut world = World::new(schedule, false);
    world.commits = Some(Vec::new());
    let leader = live(&mut world);
    let commits = world.commits.take().unwrap_or_default();
    let waited = |(client, asked): (&Client, &schedule::Client)| waited(&client.history[..writes], asked.home, &commits);
    (leader, world.clients.iter().zip(&schedule.clients).map(waited).collect())
}

/// What a client waited that is the only one of its replica, which makes a batch of each of its writes, one after the other.
fn waited(history: &[Event], home: ReplicaId, commits: &[(Time, BatchId)]) -> Waited {
    let mut of_it: Vec<&(Time, BatchId)> = commits.iter().filter(|(_, batch)| batch.origin == home).collect();
    of_it.dedup_by_key(|(_, batch)| *batch);
    assert!(of_it.len() >= history.len(), "every write is a batch that was decided");
    let mut waited = Waited::default();
    for (event, (committed, batch)) in history.iter().zip(of_it) {
        let returned = event.returned.expect("everything is answered");
        assert!((event.invoked..=returned).contains(committed), "{batch:?} is the batch of {}", event.id);
        waited.committed.push(committed.since(event.invoked));
        waited.answered.push(returned.since(event.invoked));
    }
    waited
}

/// Runs to the end, and says who leads.
fn live(world: &mut World) -> Option<ReplicaId> {
    assert_eq!(world.live(), Ok(()), "nothing goes wrong where nothing but distance takes time");
    world.nodes.iter().filter_map(|node| node.process.as_ref()).find_map(|process| {
        let protocol = process.replica.inspect();
        (protocol.role == "leader").then(|| process.replica.settings().config.me)
    })
}

/// When the clients write: long after everyone has settled.
const WRITE_AT: Duration = Duration::from_secs(20);

/// After how long what they wrote has settled.
const APART: Duration = Duration::from_secs(5);

fn schedule(strategy: Strategy, topology: &Topology, sites: &[usize], one_key: bool, writes: usize, seed: u64) -> Schedule {
    let replicas = topology.sites.len();
    let faults: Vec<Fault> = Vec::new();
    let drawn =
        Schedule::draw(&Options { replicas: Some(replicas), ordering: Some(Ordering::PerKey), faults, ..Options::new(strategy) }, seed);
    let one_way = topology.rtt.iter().map(|row| row.iter().map(|rtt| *rtt / 2).collect()).collect();
    let network = Network { one_way, jitter: Duration::ZERO, loss_per_million: 0, client: Duration::ZERO };
    let mut tuning = drawn.tuning.clone();
    (tuning.heartbeat, tuning.election) = (Duration::from_millis(900), Duration::from_secs(4));
    (tuning.step_max, tuning.sync, tuning.engine) = Default::default();
    (tuning.window_max, tuning.batches_in_flight_max, tuning.retained_bytes_max) = (64, 1, 1 << 20);
    (tuning.volume, tuning.absence_max) = (concur_network::Volume::Broadcast, None);
    let client = |(index, &site): (usize, &usize)| {
        let key = if one_key { 0 } else { index as u8 };
        let think = |number: usize| if number == 0 { WRITE_AT } else { Duration::ZERO };
        let write = |number: usize| Operation { number: number as u32, act: Act::Put, key, think: think(number), padding: 0 };
        schedule::Client { home: ReplicaId(site as u8), moves: false, session: false, operations: (0..writes).map(write).collect() }
    };
    let clients = sites.iter().enumerate().map(client).collect();
    Schedule { network, tuning, sizes: None, clients, keys: 7, episodes: Vec::new(), healed: WRITE_AT * 2, ..drawn }
}

/// The quorums of a strategy among a topology's sites.
pub fn quorums(strategy: &Strategy, topology: &Topology) -> QuorumSystem {
    (strategy.quorums)(ReplicaSet::first(topology.sites.len()))
}
