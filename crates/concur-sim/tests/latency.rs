//! Commit latencies equal their closed forms, for every published table and every strategy.

use concur_core::{Delay, Ordering, Strategy};
use concur_sim::latency::{PUBLISHED, Topology, measure, measure_in_turn, quorums};
use concur_sim::literature::{Line, compare, exceptions, printed, tolerance};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

fn topologies() -> impl Iterator<Item = (&'static str, Topology)> {
    PUBLISHED.iter().map(|&(name, csv)| (name, Topology::parse(csv).expect("a published table")))
}

fn strategies(delay: Delay) -> impl Iterator<Item = Strategy> {
    concur_decision::registry().iter().copied().filter(move |strategy| strategy.traits.delay == delay)
}

#[test]
fn through_a_leader_a_commit_takes_the_way_there_and_its_nearest_majority() {
    for strategy in strategies(Delay::Leader) {
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
    for strategy in strategies(Delay::Fast).filter(|strategy| strategy.traits.order == Ordering::Partial) {
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
fn in_a_total_order_a_lone_write_takes_one_round_trip_to_the_nearest_fast_quorum_wherever_it_is_made() {
    for strategy in strategies(Delay::Fast).filter(|strategy| strategy.traits.order == Ordering::Total) {
        for (name, topology) in topologies() {
            let quorums = quorums(&strategy, &topology);
            for (site, seed) in (0..topology.sites.len()).flat_map(|site| (0..4).map(move |seed| (site, seed))) {
                let run = measure(strategy, &topology, &[site], false, seed);
                let expected = topology.fast(&quorums, site);
                assert_eq!(run.answered[0], expected, "{} in {name}: a client at {site}", strategy.traits.name);
            }
        }
    }
}

#[test]
fn without_a_leader_two_commands_that_meet_take_a_second_round_trip() {
    for strategy in strategies(Delay::Fast).filter(|strategy| strategy.traits.order == Ordering::Partial) {
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

#[test]
fn where_anyone_prepares_a_lone_write_takes_two_round_trips_to_its_nearest_majority() {
    for strategy in strategies(Delay::TwoRounds) {
        for (name, topology) in topologies() {
            let quorums = quorums(&strategy, &topology);
            for (site, seed) in (0..topology.sites.len()).flat_map(|site| [(site, 1), (site, 2)]) {
                let run = measure(strategy, &topology, &[site], false, seed);
                let expected = topology.both_phases(&quorums, site);
                assert_eq!(run.answered[0], expected, "{} in {name}: a client at {site}", strategy.traits.name);
            }
        }
    }
}

#[test]
fn where_the_right_to_propose_rotates_a_lone_commit_waits_for_those_whose_turn_it_skips() {
    for strategy in strategies(Delay::Turns) {
        for (name, topology) in topologies() {
            let (quorums, all) = (quorums(&strategy, &topology), topology.sites.len());
            for (first, then) in (0..all).flat_map(|a| (0..all).map(move |b| (a, b))) {
                let run = measure_in_turn(strategy, &topology, &[first, then], 1);
                let expected = [topology.in_turn(&quorums, None, first), topology.in_turn(&quorums, Some(first), then)];
                assert_eq!(run.answered, expected, "{} in {name}: {first}, then {then}", strategy.traits.name);
            }
            let farthest = |site: usize| topology.nearest(all, site);
            assert!((0..all).all(|site| topology.in_turn(&quorums, Some(site), site) == farthest(site)), "a lone writer waits for all");
        }
    }
}

#[test]
fn where_the_right_to_propose_rotates_commits_at_even_load_wait_for_the_turns_before_them() {
    for strategy in strategies(Delay::Turns) {
        for (name, topology) in topologies() {
            let quorums = quorums(&strategy, &topology);
            let sites: Vec<usize> = (0..topology.sites.len()).collect();
            let run = measure(strategy, &topology, &sites, false, 1);
            for site in sites {
                assert_eq!(run.answered[site], topology.all_at_once(&quorums, site), "{} in {name}: {site}", strategy.traits.name);
            }
        }
    }
}

/// Every line of the tables that `concur check --latency` prints.
fn lines() -> impl Iterator<Item = (&'static str, Topology, Line)> {
    let of = |(name, topology): (&'static str, Topology)| {
        let all = concur_decision::registry().iter().flat_map(|&strategy| compare(strategy, &topology, &printed(name))).collect::<Vec<_>>();
        all.into_iter().map(move |line| (name, topology.clone(), line))
    };
    topologies().flat_map(of)
}

#[test]
fn tables_show_closed_forms_that_are_met_and_what_was_printed_within_its_tolerance() {
    let mut beyond = Vec::new();
    for (name, topology, line) in lines() {
        println!("{name} {line:?}");
        assert_eq!(line.alone, line.closed_form, "{} in {name}: a client at {}", line.strategy, line.site);
        for contended in [false, true] {
            let Some((measured, printed)) = line.beside(contended) else { continue };
            if measured.abs_diff(printed) * 100 > printed * tolerance(&topology) {
                beyond.push((name, line.strategy, line.site.clone(), contended, measured, printed));
            }
        }
    }
    let cells = beyond.iter().map(|(name, strategy, site, contended, ..)| (*name, *strategy, site.as_str(), *contended));
    let excepted = exceptions().into_iter().map(|it| (it.topology, it.strategy, it.site, it.contended));
    assert_eq!(cells.collect::<BTreeSet<_>>(), excepted.collect(), "further away than is tolerated, and what is said to be: {beyond:?}");
}

#[test]
fn fast_paxos_contended_falls_back_to_a_coordinator_and_its_majority() {
    let strategy = concur_decision::find("fastpaxos").expect("it is registered");
    for (name, topology) in topologies() {
        let quorums = quorums(&strategy, &topology);
        let lines = compare(strategy, &topology, &[]);
        // The first voter coordinates what nobody was elected for.
        for (site, line) in lines.iter().enumerate() {
            assert_eq!(line.answered, topology.through_leader(&quorums, 0, site), "{name}: a client at {}", line.site);
        }
        assert!(lines[0].answered < lines[0].closed_form, "{name}: to the coordinator a majority is nearer than a fast quorum");
    }
}
