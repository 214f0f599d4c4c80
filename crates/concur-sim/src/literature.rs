//! Against the literature: what each protocol's writes take by site, beside the closed form and what papers printed.
//!
//! *Alone* is a write that nothing meets; without jitter it equals the closed form, or lies between its least and its most where that
//! depends on whose turn it is. *Contended* is the median of a loop of writes of all sites to one key. What was printed was measured
//! on machines, which take time as well, over distances that change.

use crate::latency::{Topology, contend, measure, quorums};
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
    /// Measured, with nothing in its way.
    pub alone: Duration,
    /// The closed form's least.
    pub least: Duration,
    /// The closed form's most.
    pub most: Duration,
    /// Measured where all sites write one key in a loop: the median.
    pub contended: Duration,
    /// What a paper printed.
    pub printed: Option<Printed>,
}

/// How many writes each site does in the loop.
const WRITES: usize = 41;
/// Among how many seeds one is looked for in which the right site leads.
const SEEDS_MAX: u64 = 2_000;

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

/// Measures a protocol at every site, with whoever led in what was printed as the leader, or else whoever serves all sites best.
pub fn compare(strategy: Strategy, topology: &Topology, printed: &[Printed]) -> Vec<Line> {
    let traits = strategy.traits;
    let quorums = quorums(&strategy, topology);
    let of_it: Vec<&Printed> = printed.iter().filter(|line| line.strategy == traits.name).collect();
    let named = of_it.iter().find_map(|line| topology.sites.iter().position(|site| Some(site) == line.leader.as_ref()));
    let all = topology.sites.len();
    let sum = |leader: &usize| (0..all).map(|site| traits.delay.most(&quorums, &topology.rtt, *leader, site)).sum::<Duration>();
    let leader = named.or((0..all).min_by_key(sum)).unwrap_or(0);
    let seed = seed_led_by(strategy, topology, leader);
    let (_, contended) = contend(strategy, topology, WRITES, seed);
    let of_site = |site: usize| Line {
        strategy: traits.name,
        leader: traits.has_leader.then(|| topology.sites[leader].clone()),
        site: topology.sites[site].clone(),
        alone: measure(strategy, topology, &[site], false, seed).answered[0],
        least: traits.delay.least(&quorums, &topology.rtt, leader, site),
        most: traits.delay.most(&quorums, &topology.rtt, leader, site),
        contended: contended[site],
        printed: of_it.iter().find(|line| line.site == topology.sites[site]).map(|&line| line.clone()),
    };
    (0..all).map(of_site).collect()
}

/// A seed in which this site leads; any if nobody does.
fn seed_led_by(strategy: Strategy, topology: &Topology, leader: usize) -> u64 {
    let led = |seed: &u64| measure(strategy, topology, &[leader], false, *seed).leader.is_some_and(|id| usize::from(id.0) == leader);
    if strategy.traits.has_leader { (0..SEEDS_MAX).find(led).unwrap_or(0) } else { 0 }
}
