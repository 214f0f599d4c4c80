//! Random schedules: messages in any order, lost, doubled, and again long after, slow disks, crashes, cut links, wrong hints,
//! checkpoints, state fetched. The world checks safety at every step. When the faults stop, everybody must come to the same end, reads are answered,
//! and whatever anybody proposes last is decided; where nobody leads, who would show that it lives, nothing goes on after that.

use super::{Cast, Setup, World, batch, id, r};
use concur_core::*;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// The number of what everybody proposes last.
const LAST: u64 = 1 << 20;

/// How much is tried of a protocol.
pub(crate) struct Plan {
    /// How many seeds in debug builds, and in others, unless `NAME_SEEDS` says otherwise in the environment.
    pub(crate) seeds: [u64; 2],
    /// How many steps with faults.
    pub(crate) steps: u64,
    /// Of how many seeds more than one must meet each of the protocol's transitions.
    pub(crate) one_of: u64,
    /// Transitions that schedules need not meet: a scenario of its own shows each.
    pub(crate) rare: &'static [&'static str],
}

impl Plan {
    /// Runs every seed.
    pub(crate) fn check<P: Cast>(&self) {
        let given = std::env::var(format!("{}_SEEDS", P::TRAITS.name.to_uppercase())).ok().and_then(|seeds| seeds.parse().ok());
        let seeds = given.unwrap_or(self.seeds[usize::from(!cfg!(debug_assertions))]);
        let mut met: BTreeMap<&'static str, u64> = BTreeMap::new();
        for seed in 0..seeds {
            let mut chaos = Chaos::<P>::new(seed);
            (0..self.steps).for_each(|_| chaos.step());
            chaos.heal();
            chaos.world.notes.keys().for_each(|name| *met.entry(name).or_default() += 1);
        }
        for name in P::TRAITS.transitions {
            let met = met.get(name).copied().unwrap_or(0);
            println!("{met:>6} seeds  {name}");
            assert!(met > seeds / self.one_of || self.rare.contains(name), "{name}: {met} seeds");
        }
    }
}

struct Chaos<P: Cast> {
    world: World<P>,
    rng: Rng,
    /// How many steps of a million are faults: some schedules are calmer than others.
    faults_ppm: u32,
    submitted: u64,
    reads: u64,
    /// Who was told to stop.
    left: BTreeSet<usize>,
    /// Some of what was sent, if it arrives again long after.
    old: Option<Vec<Wire<P>>>,
}

/// A message, from whom, and to whom.
type Wire<P> = (ReplicaId, ReplicaId, <P as Protocol>::Message);

/// How much of what was sent is kept to arrive again.
const OLD_MAX: usize = 128;

impl<P: Cast> Chaos<P> {
    fn new(seed: u64) -> Self {
        let mut rng = Rng::new(seed);
        let voters = [3, 3, 3, 5, 5, 1, 2, 4, 6, 7][rng.below(10) as usize];
        let mut setup = Setup {
            seed,
            message_bytes_max: [1, 200, 1 << 20][rng.below(3) as usize],
            retained_bytes_max: [0, 200, 1 << 20][rng.below(3) as usize],
            window_max: 4,
            first: rng.chance(300_000).then(|| r(0)),
            fresh: rng.chance(700_000),
            ..Setup::of(voters)
        };
        if rng.chance(100_000) {
            setup.quorums.rule = QuorumRule::Weighted { weights: (0..voters as u64).map(|i| 1 + i % 2).collect() };
        }
        let mut world = World::new(setup);
        world.nodes.iter_mut().for_each(|node| node.quick_disk = rng.chance(300_000));
        let faults_ppm = [50_000, 50_000, 150_000][rng.below(3) as usize];
        let old = rng.chance(500_000).then(Vec::new);
        Self { world, rng, faults_ppm, submitted: 0, reads: 0, left: BTreeSet::new(), old }
    }

    fn anybody(&mut self) -> usize {
        self.rng.below(self.world.nodes.len() as u64) as usize
    }

    fn step(&mut self) {
        if self.rng.chance(self.faults_ppm) { self.fault() } else { self.work() }
    }

    fn work(&mut self) {
        let i = self.anybody();
        match self.rng.below(100) {
            0..54 => self.deliver(),
            54..64 => self.pass_time(),
            64..82 => self.world.sync(i),
            82..91 => self.submit(i),
            91..95 => self.read(i),
            95..97 => self.compact(i),
            97..99 => self.world.install(i),
            _ => self.world.input(i, Input::Wanted(Instance::slot(self.world.nodes[i].executed))),
        }
    }

    fn fault(&mut self) {
        let (i, j) = (self.anybody(), self.anybody());
        match self.rng.below(100) {
            0..20 => self.crash(i),
            20..45 => self.restart(i),
            45..51 if i != j => drop(self.world.cut.insert((r(i), r(j)))),
            45..51 => {}
            51..58 => self.world.isolate(&[i]),
            58..72 => self.world.cut.clear(),
            72..87 => self.world.input(i, Input::Peer(r(j), if self.rng.chance(500_000) { Health::Down } else { Health::Up })),
            87..97 => self.world.nodes[i].quick_disk = self.rng.chance(300_000),
            _ => self.leave(i),
        }
    }

    /// A message, usually the oldest; now and then any, twice, or never. What a replica says to itself arrives, once.
    fn deliver(&mut self) {
        if self.world.wires.is_empty() {
            return self.pass_time();
        }
        let any = self.rng.below(self.world.wires.len() as u64) as usize;
        self.deliver_old(any);
        let (from, to, _) = self.world.wires[any];
        match self.rng.below(100) {
            0..65 => self.world.deliver(0),
            90..95 if from != to => {
                let again = self.world.wires[any].clone();
                self.world.wires.push(again);
                self.world.deliver(any);
            }
            95.. if from != to => drop(self.world.wires.remove(any)),
            _ => self.world.deliver(any),
        }
    }

    /// Keeps one that is on its way; and now and then one that was kept arrives: an answer to an earlier attempt, say.
    fn deliver_old(&mut self, any: usize) {
        let Some(old) = &mut self.old else { return };
        let kept = self.world.wires[any].clone();
        if kept.0 != kept.1 {
            if old.len() < OLD_MAX {
                old.push(kept);
            } else {
                old[self.rng.below(OLD_MAX as u64) as usize] = kept;
            }
        }
        if !old.is_empty() && self.rng.chance(150_000) {
            let (from, to, message) = old[self.rng.below(old.len() as u64) as usize].clone();
            self.world.receive(from, to, &message);
        }
    }

    fn pass_time(&mut self) {
        let until = self.world.now + Duration::from_millis(self.rng.below(300));
        if !self.world.fire(until) {
            self.world.now = until;
        }
    }

    /// Proposes something, usually new, where that can be: at the leader, if there is one; now and then at anybody.
    fn submit(&mut self, i: usize) {
        let at = self.proposer().filter(|_| self.rng.chance(800_000)).unwrap_or(i);
        self.submitted += u64::from(self.rng.chance(900_000));
        let origin = self.anybody();
        self.world.input(at, Input::Submit(batch(origin, self.submitted)));
    }

    fn proposer(&self) -> Option<usize> {
        self.world.leader().filter(|_| P::TRAITS.has_leader)
    }

    fn read(&mut self, i: usize) {
        self.reads += 1;
        self.world.read(i, self.reads);
    }

    fn compact(&mut self, i: usize) {
        if self.world.nodes[i].core.is_some() {
            self.world.compact(i);
        }
        // The frontier of an epoch long past forgets nothing.
        self.world.input(i, Input::Floor(Frontier::default()));
    }

    fn crash(&mut self, i: usize) {
        let survive = self.rng.below(self.world.nodes[i].unsynced.len() as u64 + 1) as usize;
        self.world.crash(i, survive);
    }

    fn restart(&mut self, i: usize) {
        if self.world.nodes[i].core.is_none() {
            self.world.start(i).expect("records that agree with themselves");
        }
    }

    fn leave(&mut self, i: usize) {
        self.world.input(i, Input::Leave);
        self.left.insert(i);
    }

    /// The faults stop: within some election timeouts everybody has executed the same, and something new too.
    fn heal(&mut self) {
        self.world.cut.clear();
        if !P::TRAITS.has_leader {
            // Who gave up what is its own does so until it starts again.
            std::mem::take(&mut self.left).into_iter().for_each(|i| self.crash(i));
        }
        for i in 0..self.world.nodes.len() {
            self.restart(i);
            self.world.nodes[i].quick_disk = true;
            self.world.sync(i);
        }
        let (before, pause) = (P::end(&self.world), P::ELECTION.as_millis() as u64 / 2);
        for _ in 0..20 {
            self.calm(pause);
            self.submitted += 1;
            let i = self.anybody();
            self.propose(i, self.submitted);
        }
        self.world.run(pause);
        if !P::TRAITS.has_leader {
            (0..20).for_each(|_| self.calm(1_000));
        }
        assert!(P::end(&self.world) > before, "{}: nothing new was decided", self.describe());
        self.check_end();
        self.propose_last();
        self.check_end();
    }

    /// Time passes, and everybody gets the state that it lacks.
    fn calm(&mut self, millis: u64) {
        self.world.run(millis);
        for i in 0..self.world.nodes.len() {
            self.world.install(i);
            self.world.nodes[i].fetches.clear();
        }
    }

    /// Where that can be: at whoever leads, or where a refusal says.
    fn propose(&mut self, origin: usize, number: u64) {
        let at = self.proposer().unwrap_or(origin);
        self.world.input(at, Input::Submit(batch(origin, number)));
        if let Some(&(refused, Refusal::Redirect(Some(to)))) = self.world.nodes[at].refused.last()
            && refused == id(origin, number)
        {
            self.world.nodes[at].refused.pop();
            self.world.input(usize::from(to.0), Input::Submit(batch(origin, number)));
        }
    }

    /// Everybody proposes once more; what is refused is proposed again once, where the refusal says.
    fn propose_last(&mut self) {
        self.world.nodes.iter_mut().for_each(|node| node.refused.clear());
        (0..self.world.nodes.len()).for_each(|i| self.propose(i, LAST));
        (0..10).for_each(|_| self.calm(1_000));
        let refused: Vec<_> = self.world.nodes.iter_mut().flat_map(|node| std::mem::take(&mut node.refused)).collect();
        if !refused.is_empty() {
            refused.into_iter().for_each(|(id, reason)| self.propose_again(id, reason));
            (0..10).for_each(|_| self.calm(1_000));
        }
        let decided: BTreeSet<BatchId> = self.world.chosen.values().filter_map(Value::id).collect();
        for i in 0..self.world.nodes.len() {
            assert!(decided.contains(&id(i, LAST)), "{}: what replica {i} proposed last is not decided", self.describe());
        }
    }

    fn propose_again(&mut self, id: BatchId, reason: Refusal) {
        let origin = usize::from(id.origin.0);
        match reason {
            Refusal::Redirect(Some(to)) => self.world.input(usize::from(to.0), Input::Submit(batch(origin, id.number))),
            _ => self.propose(origin, id.number),
        }
    }

    fn check_end(&self) {
        let end = self.world.nodes[0].executed;
        assert!(end >= P::end(&self.world), "{}: not everything is executed", self.describe());
        assert!(self.world.nodes.iter().all(|node| node.executed == end), "{}: not all have executed the same", self.describe());
        assert_eq!(self.world.chosen.range(..end).count() as u64, end, "{}", self.describe());
        assert!(self.world.demanded.is_empty(), "{}: reads without an answer {:?}", self.describe(), self.world.demanded);
        assert!(P::TRAITS.has_leader || self.world.is_quiet(), "{}: not at rest {:?}", self.describe(), self.world.wires);
    }

    fn describe(&self) -> String {
        let each = self.world.nodes.iter().map(|node| format!("\n{} executed, {:?}", node.executed, node.core.as_ref().map(P::inspect)));
        format!("seed {}:{}\n", self.world.setup.seed, each.collect::<String>())
    }
}
