//! Commit latencies equal their closed forms, for every published table and every strategy.

use concur_core::{Ordering, Strategy};
use concur_sim::latency::{PUBLISHED, Topology, measure, quorums};
use std::collections::BTreeMap;
use std::time::Duration;

fn topologies() -> impl Iterator<Item = (&'static str, Topology)> {
    PUBLISHED.iter().map(|&(name, csv)| (name, Topology::parse(csv).expect("a published table")))
}

fn strategies(with_leader: bool) -> impl Iterator<Item = Strategy> {
    concur_decision::registry().iter().copied().filter(move |strategy| strategy.traits.has_leader == with_leader)
}

#[test]
fn through_a_leader_a_commit_takes_the_way_there_and_its_nearest_majority() {
    for strategy in strategies(true) {
        for (name, topology) in topologies() {
            let quorums = quorums(&strategy, &topology);
            let all = topology.sites.len();
            let mut measured: BTreeMap<(usize, usize), Duration> = BTreeMap::new();
            // Whoever is elected leads; enough seeds elect everyone.
            for seed in 0..400 {
                let site = seed as usize % all;
                let run = measure(strategy, &topology, &[site], false, seed);
                let leader = usize::from(run.leader.expect("somebody leads").0);
                let expected = topology.through_leader(&quorums, leader, site);
                assert_eq!(run.answered[0], expected, "{} in {name}: a client at {site}, {leader} leads", strategy.traits.name);
                measured.insert((leader, site), run.answered[0]);
                if measured.len() == all * all {
                    break;
                }
            }
            assert_eq!(measured.len(), all * all, "{name}: every site leads in some seed");
        }
    }
}

#[test]
fn without_a_leader_what_nothing_meets_takes_one_round_trip_to_the_nearest_fast_quorum() {
    for strategy in strategies(false).filter(|strategy| strategy.traits.order == Ordering::Partial) {
        for (name, topology) in topologies() {
            let quorums = quorums(&strategy, &topology);
            let sites: Vec<usize> = (0..topology.sites.len()).collect();
            let run = measure(strategy, &topology, &sites, false, 1);
            for site in sites {
                assert_eq!(run.answered[site], topology.fast(&quorums, site), "{} in {name}: a client at {site}", strategy.traits.name);
            }
        }
    }
}

#[test]
fn without_a_leader_two_commands_that_meet_take_a_second_round_trip() {
    for strategy in strategies(false).filter(|strategy| strategy.traits.order == Ordering::Partial) {
        for (name, topology) in topologies() {
            let quorums = quorums(&strategy, &topology);
            let all = topology.sites.len();
            let mut met = 0;
            for (site, other) in (0..all).flat_map(|a| (0..all).map(move |b| (a, b))).filter(|(a, b)| a != b) {
                let run = measure(strategy, &topology, &[site, other], true, 1);
                let Some(slow) = run.slow[0] else { continue };
                met += 1;
                let expected = topology.slow(&quorums, site, other);
                assert_eq!(slow, expected, "{} in {name}: {site} meets {other}", strategy.traits.name);
                let bound = topology.fast(&quorums, site) + topology.nearest(quorums.size(concur_core::Phase::Accept), site);
                assert!(slow <= bound, "{name}: a slow path begins at the latest when a fast quorum has answered");
            }
            assert!(met >= all, "{name}: {met} of {} pairs took the slow path", all * (all - 1));
        }
    }
}
