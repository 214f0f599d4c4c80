//! Random schedules: messages in any order, lost and repeated, disks that lag, crashes, suspicions, checkpoints; then everything
//! heals, and everyone has to come to the same end.

use crate::world::{Setup, World, r};
use concur_core::{Health, Input, Protocol, Refusal, Rng};
use concur_decision::mencius::Mencius;
use std::collections::BTreeMap;

/// How many seeds a loop takes: fewer in debug builds.
fn seeds(debug: u64, optimised: u64) -> u64 {
    let from = std::env::var("MENCIUS_SEEDS").ok().and_then(|seeds| seeds.parse().ok());
    from.unwrap_or(if cfg!(debug_assertions) { debug } else { optimised })
}

fn any(rng: &mut Rng, n: usize) -> usize {
    rng.below(n as u64) as usize
}

fn wild(world: &mut World, rng: &mut Rng, steps: u64) {
    let n = world.nodes.len();
    for number in 1..=steps {
        let i = any(rng, n);
        match rng.below(40) {
            0 => world.nodes[i].quick_disk = rng.chance(500_000),
            1 | 2 => world.sync(i),
            3 if world.nodes[i].core.is_some() => {
                let survive = any(rng, world.nodes[i].unsynced.len() + 1);
                world.crash(i, survive);
            }
            4 | 5 if world.nodes[i].core.is_none() => world.start(i, false),
            6 => world.submit(i, number),
            7 => drop(world.read(i, number)),
            8 => world.input(i, Input::Peer(r(any(rng, n)), Health::Down)),
            9 => world.isolate(&[i]),
            10 => world.cut.clear(),
            11 => world.compact(i),
            12 => world.install(i),
            13..=16 => {
                let until = world.now + crate::world::HEARTBEAT;
                world.fire(until);
            }
            17 if !world.wires.is_empty() => {
                let lost = any(rng, world.wires.len());
                if world.wires[lost].0 != world.wires[lost].1 {
                    world.wires.remove(lost);
                }
            }
            18 if !world.wires.is_empty() => {
                let (from, to, message) = world.wires[any(rng, world.wires.len())].clone();
                if from != to {
                    world.wires.push((from, to, message));
                }
            }
            _ if !world.wires.is_empty() => {
                let index = if rng.chance(700_000) { 0 } else { any(rng, world.wires.len()) };
                world.deliver(index);
            }
            _ => {}
        }
    }
}

fn heal(world: &mut World) {
    world.cut.clear();
    for i in 0..world.nodes.len() {
        world.nodes[i].quick_disk = true;
        if world.nodes[i].core.is_none() {
            world.start(i, false);
        }
        world.sync(i);
    }
    world.run(40_000);
}

#[test]
fn nothing_is_decided_twice_lost_or_stuck_whatever_happens() {
    let mut notes: BTreeMap<&'static str, u64> = BTreeMap::new();
    for seed in 0..seeds(35, 3_000) {
        let voters = [1, 2, 3, 3, 4, 5, 7][(seed % 7) as usize];
        let message_bytes_max = [1, 200, 1 << 20][(seed % 3) as usize];
        let retained_bytes_max = [0, 300, 1 << 20][(seed / 3 % 3) as usize];
        let mut world = World::new(Setup { seed, message_bytes_max, retained_bytes_max, ..Setup::of(voters) });
        let mut rng = Rng::new(seed);
        wild(&mut world, &mut rng, 1_500);
        heal(&mut world);
        for i in 0..voters {
            world.nodes[i].refused.clear();
            world.submit(i, 1 << 20);
        }
        world.run(10_000);
        // Who was revoked ahead and has not heard of it yet learns it by its first proposal.
        for i in 0..voters {
            if world.nodes[i].refused.contains(&(crate::world::id(i, 1 << 20), Refusal::Lost)) {
                world.submit(i, 1 << 20);
            }
        }
        world.run(10_000);
        let ends: Vec<u64> = world.nodes.iter().map(|node| node.executed).collect();
        let describe = || world.nodes.iter().map(|node| format!("{:?}\n", node.core.as_ref().map(Protocol::inspect))).collect::<String>();
        let last = |i| world.values().iter().any(|&(_, id)| id == crate::world::id(i, 1 << 20));
        assert!(ends.iter().all(|&end| end == ends[0]) && (0..voters).all(last), "seed {seed}: {ends:?}\n{}", describe());
        assert!(world.is_quiet(), "seed {seed}: {:?}\n{}", world.wires, describe());
        world.notes.iter().for_each(|(name, times)| *notes.entry(name).or_default() += times);
    }
    println!("{notes:?}");
    for transition in Mencius::TRAITS.transitions {
        let rare = *transition == "revocation renewed"; // A scenario of its own.
        assert!(rare || notes.contains_key(transition), "never passed: {transition}");
    }
}
