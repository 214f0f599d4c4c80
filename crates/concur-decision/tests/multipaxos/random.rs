//! Random schedules: messages in any order, lost and doubled, slow disks, crashes, cut links, wrong hints, state fetched. The world
//! checks safety at every step; when the faults stop, everybody must come to the same end.

use crate::world::{Setup, World, r};
use concur_core::{Frontier, Health, Input, Instance, Protocol, Rng};
use concur_decision::multipaxos::MultiPaxos;
use std::collections::BTreeMap;
use std::time::Duration;

const SEEDS: u64 = 600;
const STEPS: u64 = 500;

struct Chaos {
    world: World,
    rng: Rng,
    submitted: u64,
    reads: u64,
}

#[test]
fn random_schedules_keep_agreement_and_end_well() {
    let mut notes: BTreeMap<&'static str, u64> = BTreeMap::new();
    for seed in 0..SEEDS {
        let world = run(seed);
        for (name, count) in world.notes {
            *notes.entry(name).or_default() += u64::from(count > 0);
        }
    }
    for name in MultiPaxos::TRAITS.transitions {
        let seeds = notes.get(name).copied().unwrap_or(0);
        println!("{seeds:>6} seeds  {name}");
        assert!(seeds > SEEDS / 100, "{name}: {seeds} seeds");
    }
}

fn run(seed: u64) -> World {
    let mut rng = Rng::new(seed);
    let setup = Setup {
        voters: [3, 3, 3, 5, 5, 1, 2, 4][rng.below(8) as usize],
        seed,
        message_bytes_max: [1, 200, 1 << 20][rng.below(3) as usize],
        retained_bytes_max: [0, 200, 1 << 20][rng.below(3) as usize],
        window_max: 4,
        first: rng.chance(300_000).then(|| r(0)),
        counts: None,
        observers: 0,
    };
    let mut chaos = Chaos { world: World::new(setup), rng, submitted: 0, reads: 0 };
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
            0..500 => self.deliver(),
            500..600 => self.pass_time(),
            600..780 => self.world.sync(i),
            780..870 => self.submit(),
            870..910 => self.read(i),
            910..930 => self.world.compact_if_running(i),
            930..950 => self.world.install(i),
            950..960 => self.world.input(i, Input::Peer(r(j), if self.rng.chance(500_000) { Health::Down } else { Health::Up })),
            960..972 => self.crash(i),
            972..985 => self.restart(i),
            985..989 => drop(self.world.cut.insert((r(i), r(j)))),
            989..991 => self.world.isolate(&[i]),
            991..996 => self.world.cut.clear(),
            996..998 => self.world.input(i, Input::Leave),
            _ => self.world.input(i, Input::Wanted(Instance::slot(self.world.nodes[i].state))),
        }
    }

    /// A message, usually the oldest; now and then any, twice, or never.
    fn deliver(&mut self) {
        if self.world.wires.is_empty() {
            return self.pass_time();
        }
        let any = self.rng.below(self.world.wires.len() as u64) as usize;
        match self.rng.below(100) {
            0..70 => self.world.deliver(0),
            70..90 => self.world.deliver(any),
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

    fn submit(&mut self) {
        let i = self.world.leader().filter(|_| self.rng.chance(800_000)).unwrap_or_else(|| self.anybody());
        self.submitted += u64::from(self.rng.chance(900_000));
        let origin = self.anybody();
        self.world.input(i, Input::Submit(crate::world::batch(origin, self.submitted)));
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
            self.world.start(i, false).expect("records that agree with themselves");
        }
    }

    /// The faults stop: within some election timeouts everybody has executed the same, and something new too.
    fn heal(&mut self, seed: u64) {
        self.world.cut.clear();
        for i in 0..self.world.nodes.len() {
            self.restart(i);
            self.world.nodes[i].quick_disk = true;
            self.world.sync(i);
        }
        let before = self.world.decided();
        for _ in 0..20 {
            self.world.run(500);
            for i in 0..self.world.nodes.len() {
                self.world.install(i);
                self.world.nodes[i].fetches.clear();
            }
            self.submitted += 1;
            if let Some(leader) = self.world.leader() {
                self.world.submit(leader, self.submitted);
            }
        }
        self.world.run(500);
        let decided = self.world.decided();
        assert!(decided > before, "seed {seed}: nothing new was decided");
        for node in &self.world.nodes {
            assert_eq!(node.state, decided, "seed {seed}");
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
