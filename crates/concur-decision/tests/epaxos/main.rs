//! EPaxos under random schedules: nothing is lost, reordered or stuck.

// The graph is the execution crate's; it is compiled in here so that no crate of protocols depends on execution.
mod found;
#[path = "../../../concur-execution/src/graph.rs"]
#[allow(dead_code, missing_docs, unreachable_pub)]
mod graph;
mod restart;
mod validation;
mod world;

use concur_core::Protocol;
use concur_decision::epaxos::EPaxos;
use std::collections::BTreeMap;
use std::time::Duration;
use world::{Setup, World};

fn setup(voters: usize, seed: u64) -> Setup {
    Setup { voters, seed, clients: 2 * voters, keys: 3, writes: 3, retained_bytes_max: 1 << 20, faults: Duration::from_millis(1500) }
}

/// How many seeds a loop takes: fewer in debug builds.
fn seeds(debug: u64, optimised: u64) -> u64 {
    let from = std::env::var("EPAXOS_SEEDS").ok().and_then(|seeds| seeds.parse().ok());
    from.unwrap_or(if cfg!(debug_assertions) { debug } else { optimised })
}

fn sweep(name: &str, count: u64, setup: impl Fn(u64) -> Setup) -> BTreeMap<&'static str, u64> {
    let mut notes = BTreeMap::new();
    let (mut installs, mut component_max) = (0, 0);
    for seed in 0..count {
        let mut world = World::new(setup(seed));
        world.run(Duration::from_secs(60));
        world.check_end();
        for (note, times) in &world.notes {
            *notes.entry(*note).or_default() += times;
        }
        installs += world.installs;
        component_max = component_max.max(world.component_max);
    }
    println!("{name}: {count} seeds, {notes:?}, state installed {installs} times, largest component {component_max}");
    notes
}

#[test]
fn nothing_is_lost_or_stuck_whatever_the_faults() {
    for voters in [3, 5] {
        let notes = sweep(&format!("{voters} voters"), seeds(60, 1000), |seed| setup(voters, seed));
        for transition in EPaxos::TRAITS.transitions {
            assert!(notes.contains_key(transition), "{voters} voters never passed: {transition}");
        }
    }
}

#[test]
fn any_number_of_voters_will_do() {
    for voters in [1, 2, 4, 6, 7] {
        sweep(&format!("{voters} voters"), seeds(12, 100), |seed| setup(voters, seed));
    }
}

#[test]
fn who_lags_behind_what_is_kept_fetches_state() {
    for voters in [3, 5] {
        let setup = |seed| Setup { retained_bytes_max: 2000, ..setup(voters, seed) };
        sweep(&format!("little kept by {voters} voters"), seeds(40, 500), setup);
    }
}

#[test]
fn sixty_four_clients_write_one_key() {
    for keys in [0, 1] {
        let hot = |seed| Setup { clients: 64, keys, writes: 20, faults: Duration::from_millis(400), ..setup(3, seed) };
        sweep("sixty-four clients, one key", seeds(2, 20), hot);
    }
}

#[test]
fn without_faults_or_conflicts_everything_is_decided_fast() {
    let setup = |seed| Setup { keys: 1 << 40, faults: Duration::ZERO, writes: 50, ..setup(3, seed) };
    let notes = sweep("calm", 2, setup);
    assert_eq!(notes.get("slow path"), None);
    assert_eq!(notes["fast path"], 2 * 6 * 50);
}
