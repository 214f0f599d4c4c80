//! Against the literature: what each protocol's writes take by site, beside the closed form and what papers printed.
//!
//! *Alone* is the median of a client's writes that nothing meets; without jitter it equals the closed form. *Contended* are medians
//! of a loop of writes of all sites to one key: until the client's replica knows of the decision, which papers call commit, and until
//! the answer, which follows execution. What was printed was measured on machines, which take time as well, over distances that change.

use crate::latency::{Topology, Waited, alone, contend, measure, quorums};
use concur_core::Strategy;
use std::time::Duration;

/// What was printed of the published tables of round trips, by the table's name.
pub const PRINTED: &[(&str, &str)] = &[
    ("sosp13-3", include_str!("../topologies/sosp13-3.published.csv")),
    ("sosp13-5", include_str!("../topologies/sosp13-5.published.csv")),
];

/// A line of a paper's table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Printed {
    /// The protocol's word.
    pub strategy: String,
    /// The site that led, if one did.
    pub leader: Option<String>,
    /// The site of the client.
    pub site: String,
    /// Without conflicts.
    pub alone: Option<Duration>,
    /// Where every command conflicts.
    pub contended: Option<Duration>,
}

/// What a write of one protocol takes at one site.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// The protocol.
    pub strategy: &'static str,
    /// The site that leads, where one does.
    pub leader: Option<String>,
    /// The site of the client.
    pub site: String,
    /// Until the answer, with nothing in its way: the median over writes and seeds.
    pub alone: Duration,
    /// What the distances say of the same.
    pub closed_form: Duration,
    /// Until the commit, where all sites write one key in a loop: the median over writes and seeds.
    pub committed: Duration,
    /// Until the answer, in the same loop.
    pub answered: Duration,
    /// What a paper printed.
    pub printed: Option<Printed>,
}

/// A cell that is further from what was printed than [`tolerance`] allows, and why.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Exception {
    /// The table's name.
    pub topology: &'static str,
    /// The protocol's word.
    pub strategy: &'static str,
    /// The site of the client.
    pub site: &'static str,
    /// Whether it is the cell with conflicts.
    pub contended: bool,
    /// What explains it.
    pub why: &'static str,
}

/// Every cell that is further from what was printed than [`tolerance`] allows.
pub fn exceptions() -> Vec<Exception> {
    let lines = include_str!("../topologies/exceptions.csv").lines().filter(|line| !line.starts_with('#')).skip(1);
    let exception = |line: &'static str| {
        let mut cells = line.splitn(5, ',');
        let mut next = || cells.next();
        let (topology, strategy, site, cell, why) = (next()?, next()?, next()?, next()?, next()?);
        Some(Exception { topology, strategy, site, contended: cell == "contended", why })
    };
    lines.filter_map(exception).collect()
}

/// How many writes a client does alone with each seed.
const ALONE: usize = 5;
/// How many writes each site does in the loop.
const WRITES: usize = 41;
/// How many seeds are measured.
const SEEDS: usize = 3;
/// Among how many seeds those are looked for in which the right site leads.
const SEEDS_MAX: u64 = 2_000;

/// How far a measurement may be from what was printed, as a percentage of that: where some distances were inferred from a paper's
/// pictures, as the one with five sites, more than where all were printed.
pub fn tolerance(topology: &Topology) -> u32 {
    if topology.sites.len() == 3 { 5 } else { 10 }
}

impl Line {
    /// What was measured beside what was printed: without conflicts, or with.
    pub fn beside(&self, contended: bool) -> Option<(Duration, Duration)> {
        let printed = self.printed.as_ref()?;
        if contended { Some((self.committed, printed.contended?)) } else { Some((self.alone, printed.alone?)) }
    }
}

/// What was printed for the table of this name.
pub fn printed(name: &str) -> Vec<Printed> {
    let csv = PRINTED.iter().find(|(known, _)| *known == name).map_or("", |(_, csv)| csv);
    let lines = csv.lines().filter(|line| !line.starts_with('#')).skip(1);
    lines.filter_map(line).collect()
}

fn line(text: &str) -> Option<Printed> {
    let mut cells = text.split(',').map(str::trim);
    let mut next = || cells.next().map(str::to_owned);
    let (strategy, leader, site) = (next()?, next()?, next()?);
    let mut millis = || next()?.parse().ok().map(Duration::from_millis);
    Some(Printed { strategy, leader: Some(leader).filter(|name| !name.is_empty()), site, alone: millis(), contended: millis() })
}

/// Measures a protocol at every site, with whoever led in what was printed as the leader, or else whoever serves all sites best; if
/// that one leads in no seed, with whoever leads in the first.
pub fn compare(strategy: Strategy, topology: &Topology, printed: &[Printed]) -> Vec<Line> {
    let traits = strategy.traits;
    let quorums = quorums(&strategy, topology);
    let of_it: Vec<&Printed> = printed.iter().filter(|line| line.strategy == traits.name).collect();
    let named = of_it.iter().find_map(|line| topology.sites.iter().position(|site| Some(site) == line.leader.as_ref()));
    let all = topology.sites.len();
    let sum = |leader: &usize| (0..all).map(|site| traits.delay.most(&quorums, &topology.rtt, *leader, site)).sum::<Duration>();
    let leader = named.or((0..all).min_by_key(sum)).unwrap_or(0);
    let mut seeds: Vec<u64> = seeds_led_by(strategy, topology, leader).take(SEEDS).collect();
    let mut leader = leader;
    if seeds.is_empty() {
        seeds.push(0);
        leader = measure(strategy, topology, &[leader], false, 0).leader.map_or(leader, |id| usize::from(id.0));
    }
    let contended: Vec<Vec<Waited>> = seeds.iter().map(|&seed| contend(strategy, topology, WRITES, seed).1).collect();
    let of_site = |site: usize| {
        let alone: Vec<Waited> = seeds.iter().map(|&seed| alone(strategy, topology, site, ALONE, seed).1).collect();
        Line {
            strategy: traits.name,
            leader: traits.has_leader.then(|| topology.sites[leader].clone()),
            site: topology.sites[site].clone(),
            alone: median(alone.iter().map(|waited| &waited.answered)),
            closed_form: topology.lone(traits.delay, &quorums, leader, site),
            committed: median(contended.iter().map(|of_seed| &of_seed[site].committed)),
            answered: median(contended.iter().map(|of_seed| &of_seed[site].answered)),
            printed: of_it.iter().find(|line| line.site == topology.sites[site]).map(|&line| line.clone()),
        }
    };
    (0..all).map(of_site).collect()
}

fn median<'a>(waited: impl Iterator<Item = &'a Vec<Duration>>) -> Duration {
    let mut all: Vec<Duration> = waited.flatten().copied().collect();
    all.sort_unstable();
    all[all.len() / 2]
}

/// Seeds in which this site leads; all if nobody does.
fn seeds_led_by(strategy: Strategy, topology: &Topology, leader: usize) -> impl Iterator<Item = u64> {
    let led = move |seed: &u64| {
        let measured = || measure(strategy, topology, &[leader], false, *seed);
        !strategy.traits.has_leader || measured().leader.is_some_and(|id| usize::from(id.0) == leader)
    };
    (0..SEEDS_MAX).filter(led)
}
