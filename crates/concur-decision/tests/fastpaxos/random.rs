//! Random schedules: messages in any order, lost and doubled, slow disks, crashes, cut links, wrong hints, state fetched. The world
//! checks safety at every step; when the faults stop, everybody must come to the same end, and to rest.

use crate::world::{Setup, World, batch, r};
use concur_core::{Frontier, Health, Input, Instance, Protocol, QuorumRule, QuorumSystem, ReplicaSet, Rng};
use concur_decision::fastpaxos::FastPaxos;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

const STEPS: u64 = 600;

/// How many seeds: fewer in debug builds.
fn seeds() -> u64 {
    let given = std::env::var("FASTPAXOS_SEEDS").ok().and_then(|seeds| seeds.parse().ok());
    given.unwrap_or(if cfg!(debug_assertions) { 200 } else { 3_000 })
}

struct Chaos {
    world: World,
    rng: Rng,
    submitted: u64,
    reads: u64,
    /// Who was told to stop.
    left: BTreeSet<usize>,
}

#[test]
fn random_schedules_keep_agreement_and_end_well() {
    let mut notes: BTreeMap<&'static str, u64> = BTreeMap::new();
    for seed in 0..seeds() {
        let world = run(seed);
        for (name, count) in world.notes {
            *notes.entry(name).or_default() += u64::from(count > 0);
        }
    }
    for name in FastPaxos::TRAITS.transitions {
        let met = notes.get(name).copied().unwrap_or(0);
        println!("{met:>6} seeds  {name}");
        assert!(met > 0 || *name == "fast round closed for a seal", "{name}");
    }
}

fn run(seed: u64) -> World {
    let mut rng = Rng::new(seed);
    let voters = [3, 3, 3, 5, 5, 1, 2, 4, 6, 7][rng.below(10) as usize];
    let mut quorums = QuorumSystem::majority(ReplicaSet::first(voters));
    if rng.chance(100_000) {
        quorums.rule = QuorumRule::Weighted { weights: (0..voters as u64).map(|i| 1 + i % 2).collect() };
    }
    let setup = Setup {
        quorums,
        seed,
        message_bytes_max: [1, 200, 1 << 20][rng.below(3) as usize],
        retained_bytes_max: [0, 200, 1 << 20][rng.below(3) as usize],
        window_max: 4,
    };
    let mut chaos = Chaos { world: World::new(setup), rng, submitted: 0, reads: 0, left: BTreeSet::new() };
    for node in &mut chaos.world.nodes {
        node.quick_disk = chaos.rng.chance(300_000);
    }
    for _ in 0..STEPS {
        chaos.step();
    }
    chaos.heal(seed);
    chaos.world
}

impl Chaos {
    fn anybody(&mut self) -> usize {
        self.rng.below(self.world.nodes.len() as u64) as usize
    }

    fn step(&mut self) {
        let (i, j) = (self.anybody(), self.anybody());
        match self.rng.below(1000) {
            0..540 => self.deliver(),
            540..610 => self.pass_time(),
            610..780 => self.world.sync(i),
            780..870 => self.submit(i),
            870..900 => self.read(i),
            900..920 => self.world.compact_if_running(i),
            920..940 => self.world.install(i),
            940..950 => self.world.input(i, Input::Peer(r(j), if self.rng.chance(500_000) { Health::Down } else { Health::Up })),
            950..962 => self.crash(i),
            962..980 => self.restart(i),
            980..984 => drop(self.world.cut.insert((r(i), r(j)))),
            984..987 => self.world.isolate(&[i]),
            987..996 => self.world.cut.clear(),
            996..997 => {
                self.world.input(i, Input::Leave);
                self.left.insert(i);
            }
            _ => self.world.input(i, Input::Wanted(Instance::slot(self.world.nodes[i].executed))),
        }
    }

    /// A message, usually the oldest; now and then any, twice, or never.
    fn deliver(&mut self) {
        if self.world.wires.is_empty() {
            return self.pass_time();
        }
        let any = self.rng.below(self.world.wires.len() as u64) as usize;
        match self.rng.below(100) {
            0..60 => self.world.deliver(0),
            60..90 => self.world.deliver(any),
            90..95 => {
                let again = self.world.wires[any].clone();
                self.world.wires.push(again);
                self.world.deliver(any);
            }
            _ => drop(self.world.wires.remove(any)),
        }
    }

    fn pass_time(&mut self) {
        let until = self.world.now + Duration::from_millis(self.rng.below(300));
        if !self.world.fire(until) {
            self.world.now = until;
        }
    }

    fn submit(&mut self, i: usize) {
        self.submitted += u64::from(self.rng.chance(900_000));
        let origin = self.anybody();
        self.world.input(i, Input::Submit(batch(origin, self.submitted)));
    }

    fn read(&mut self, i: usize) {
        if self.world.nodes[i].core.is_some() {
            self.reads += 1;
            self.world.read(i, self.reads);
        }
    }

    fn crash(&mut self, i: usize) {
        let survive = self.rng.below(self.world.nodes[i].unsynced.len() as u64 + 1) as usize;
        self.world.crash(i, survive);
        self.world.demanded.retain(|&(by, _), _| by != r(i));
    }

    fn restart(&mut self, i: usize) {
        if self.world.nodes[i].core.is_none() {
            self.world.start(i).expect("records that agree with themselves");
        }
    }

    /// The faults stop: within some election timeouts everybody has executed the same, and something new too, and nothing goes on.
    fn heal(&mut self, seed: u64) {
        self.world.cut.clear();
        for i in std::mem::take(&mut self.left) {
            self.crash(i);
        }
        for i in 0..self.world.nodes.len() {
            self.restart(i);
            self.world.nodes[i].quick_disk = true;
            self.world.sync(i);
        }
        let before = self.world.decided();
        for _ in 0..24 {
            self.world.run(250);
            for i in 0..self.world.nodes.len() {
                self.world.install(i);
                self.world.nodes[i].fetches.clear();
            }
            self.submitted += 1;
            let i = self.anybody();
            self.world.submit(i, self.submitted);
        }
        for _ in 0..20 {
            self.world.run(1_000);
            for i in 0..self.world.nodes.len() {
                self.world.install(i);
                self.world.nodes[i].fetches.clear();
            }
        }
        let decided = self.world.decided();
        assert!(decided > before, "seed {seed}: nothing new was decided");
        for (i, node) in self.world.nodes.iter().enumerate() {
            assert_eq!(node.executed, decided, "seed {seed}: replica {i}");
            assert!(node.timers.is_empty(), "seed {seed}: replica {i} is not at rest: {:?}", node.core);
        }
        assert!(self.world.demanded.is_empty(), "seed {seed}: reads without an answer {:?}", self.world.demanded);
        assert_eq!(self.world.chosen.len() as u64, decided, "seed {seed}");
    }
}

impl World {
    fn compact_if_running(&mut self, i: usize) {
        if self.nodes[i].core.is_some() {
            self.compact(i);
        }
        // The frontier of an epoch long past forgets nothing.
        self.input(i, Input::Floor(Frontier::default()));
    }
}
