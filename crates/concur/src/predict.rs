//! What to expect of a system before it runs: losses survived, and latencies where round trips are given.
//!
//! Latencies are the closed forms at rest of the strategy's [`Delay`](concur_core::Delay): no queueing, disk or processor time, a
//! stable leader, no collisions unless said. Load is not predicted.

use crate::System;
use concur_core::{Phase, QuorumSystem, ReplicaSet};
use std::collections::BTreeMap;
use std::time::Duration;

/// What to expect of a system.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Prediction {
    /// Replicas that vote.
    pub voters: usize,
    /// The smallest number of them that decides.
    pub quorum: usize,
    /// So many members may be lost, whichever they are.
    pub failures_survived: usize,
    /// Every one of these regions may be lost alone.
    pub regions_survived: Vec<String>,
    /// Losing one of these regions stops the system.
    pub regions_needed: Vec<String>,
    /// Write latencies; none unless the round trips between all members' regions are known.
    pub latencies: Vec<Latency>,
    /// The member that should lead for these latencies, if the strategy has leaders.
    pub leader: Option<String>,
}

/// How long a write takes from one region.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Latency {
    /// The region of the client and of the member it speaks to.
    pub region: String,
    /// The member that it speaks to.
    pub member: String,
    /// With nothing in its way.
    pub usual: Duration,
    /// Where others write at the same time.
    pub collided: Duration,
}

pub(crate) fn predict(system: &System) -> Prediction {
    let quorums = system.quorum_system();
    let mut prediction = Prediction {
        voters: quorums.voters.len(),
        quorum: quorums.size(Phase::Accept),
        failures_survived: quorums.tolerates(),
        ..Prediction::default()
    };
    for (region, lost) in regions(system) {
        let left = quorums.voters.minus(lost);
        let survives = quorums.is_quorum(Phase::Prepare, left) && quorums.is_quorum(Phase::Accept, left);
        if survives { &mut prediction.regions_survived } else { &mut prediction.regions_needed }.push(region);
    }
    if let Some(table) = round_trips(system) {
        latencies(system, &quorums, &table, &mut prediction);
    }
    prediction
}

/// Which replicas are in which region.
pub(crate) fn regions(system: &System) -> BTreeMap<String, ReplicaSet> {
    let mut regions: BTreeMap<String, ReplicaSet> = BTreeMap::new();
    for (i, member) in system.numbered_members().iter().enumerate().take(concur_core::REPLICAS_MAX) {
        if !member.region.is_empty() {
            regions.entry(member.region.clone()).or_default().insert(concur_core::ReplicaId(i as u8));
        }
    }
    regions
}

/// Round trips between members, if all are known. Within a region 0 unless a link says otherwise.
pub(crate) fn round_trips(system: &System) -> Option<Vec<Vec<Duration>>> {
    if system.links.is_empty() {
        return None;
    }
    let members = system.numbered_members();
    let between = |a: &str, b: &str| {
        let link = system.links.iter().find(|l| (l.between.0 == a && l.between.1 == b) || (l.between.0 == b && l.between.1 == a));
        link.map(|l| l.round_trip).or((a == b).then_some(Duration::ZERO))
    };
    let row = |i: usize| {
        let to = |j: usize| if i == j { Some(Duration::ZERO) } else { between(&members[i].region, &members[j].region) };
        (0..members.len()).map(to).collect::<Option<Vec<_>>>()
    };
    (0..members.len()).map(row).collect()
}

fn latencies(system: &System, quorums: &QuorumSystem, table: &[Vec<Duration>], prediction: &mut Prediction) {
    let members = system.numbered_members();
    let traits = system.decision_making.0.traits;
    let most = |leader: usize, site: usize| traits.delay.most(quorums, table, leader, site);
    let sum = |leader: &usize| (0..members.len()).map(|site| most(*leader, site)).fold(Duration::ZERO, Duration::saturating_add);
    let leader = (0..members.len()).min_by_key(sum).unwrap_or(0);
    for (site, member) in members.iter().enumerate() {
        let (usual, collided) = (traits.delay.least(quorums, table, leader, site), most(leader, site));
        prediction.latencies.push(Latency { region: member.region.clone(), member: member.name.clone(), usual, collided });
    }
    prediction.leader = members.get(leader).filter(|_| traits.has_leader).map(|member| member.name.clone());
}

/// The least time in which any strategy can decide for each member: until the nearest quorum could answer.
pub(crate) fn physical_bounds(system: &System) -> Option<Vec<(String, Duration)>> {
    let table = round_trips(system)?;
    let quorums = system.quorum_system();
    let bound = |i: usize| concur_core::nearest(&quorums, Phase::Accept, &table[i]);
    Some(system.numbered_members().iter().enumerate().map(|(i, m)| (m.name.clone(), bound(i))).collect())
}
