//! Restarts: after every step of a run, twins recovered from what was persisted.

use super::Examination;
use super::cores::{Cores, ELECTION, From, Left, Setup};
use concur_core::{Protocol, ReplicaId, ReplicaSet, Rng};

/// How many things happen in a run of which every one is looked behind.
const STEPS: usize = 1_000;
/// After how many of them the whole group loses power.
const BLACKOUT_EVERY: usize = 50;

impl<P: Protocol> Examination<P> {
    /// After every step twins of the core that took it are recovered from what is durable, from all records so far, and from a
    /// checkpoint of that moment: they start, show no lower ballot, and decide nothing differently. Every now and then the whole group loses
    /// power, with whole logs and with checkpoints, and as many as the quorums tolerate stay away at first: what was decided is decided
    /// again without them, and the group goes on.
    pub fn restarts(&self) {
        for (replicas, seed) in [(1, 1), (3, 2), (3, 3), (5, 4)] {
            let what = format!("{replicas} cores, seed {seed}");
            self.in_world("a_restart_from_records_forgets_nothing", &what, || self.restarts_in(replicas, seed));
        }
    }

    fn restarts_in(&self, replicas: usize, seed: u64) {
        let (loss, repeats) = (if replicas == 1 { 0 } else { 30_000 }, 50_000);
        let mut world = Cores::<P>::new(Setup { replicas, seed, loss, repeats, retained_bytes_max: 1_000 });
        let mut rng = Rng::new(seed);
        let any = |rng: &mut Rng| rng.below(replicas as u64) as usize;
        for step in 0..STEPS {
            match rng.below(120) {
                0..6 => drop(world.write(any(&mut rng), (step % 3) as u8)),
                6 => world.keep_checkpoint(any(&mut rng)),
                7 => world.crash(any(&mut rng)),
                8..12 => world.start_all(),
                12 => world.read(any(&mut rng), 1),
                _ => {}
            }
            if let Some(node) = world.next() {
                compare(&mut world, node, step);
            }
            if step % BLACKOUT_EVERY == BLACKOUT_EVERY - 1 {
                let lost = world.config(0).quorums.tolerates();
                let away: ReplicaSet = (0..lost).map(|ahead| ReplicaId(((step / BLACKOUT_EVERY + ahead) % replicas) as u8)).collect();
                for left in [Left::Records, Left::LastCheckpoint, Left::CheckpointOfNow] {
                    self.goes_on(world.after_power_loss(left, away), step, left, away);
                }
            }
        }
    }

    /// A group that lost power executes a new write without those who stay away, and nothing differently from before; and with them
    /// everything that anybody had executed.
    fn goes_on(&self, mut twin: Cores<P>, step: usize, left: Left, away: ReplicaSet) {
        let (before, bound) = (twin.decided.len(), ELECTION * self.liveness);
        let there = (0..twin.setup.replicas).find(|&node| !away.contains(ReplicaId(node as u8))).unwrap_or(0);
        twin.write(there, 0);
        let went_on = twin.run_until(bound, Cores::is_answered);
        twin.start_all();
        let caught_up = went_on && twin.run_until(bound, Cores::agree);
        let all: Vec<_> = (0..twin.setup.replicas).map(|node| twin.inspect(node)).collect();
        assert!(
            caught_up && twin.decided.len() > before,
            "after step {step} the group lost power and was recovered from {}, at first without {away:?}: {} within {} election timeouts; {all:?}",
            left_in_words(left),
            if went_on { "not everything is executed everywhere again" } else { "a new write is not executed" },
            self.liveness
        );
    }
}

/// Twins of a core start, show no lower ballot, and decide nothing differently. What one decides of what is durable binds everybody
/// from then on: its records say that it is decided, though the core may wait for something before it says so itself.
fn compare<P: Protocol>(world: &mut Cores<P>, node: usize, step: usize) {
    let now = world.inspect(node).map_or(0, |now| now.ballot);
    for from in [From::Durable, From::AllRecords, From::Checkpoint] {
        let here = format!("after step {step}, r{node} recovered from {}", in_words(from));
        let (inspection, decided) = world.twin(node, from).unwrap_or_else(|why| panic!("{here}: {why}"));
        for (instance, value, order) in decided {
            let known = world.decided.get(&instance);
            let same = known.is_none_or(|(first, its_order)| *first == value && *its_order == order);
            assert!(same, "{here}: it decides {instance} as {value:?} {order:?}; known is {known:?}");
            if from == From::Durable {
                world.decided.insert(instance, (value, order));
            }
        }
        let fell = P::TRAITS.has_leader && from != From::Durable && inspection.ballot < now;
        assert!(!fell, "{here}: its ballot is {}, and {now} was persisted", inspection.ballot);
    }
}

fn in_words(from: From) -> &'static str {
    match from {
        From::Durable => "what is durable",
        From::AllRecords => "all its records so far",
        From::Checkpoint => "checkpoint()",
    }
}

fn left_in_words(left: Left) -> &'static str {
    match left {
        Left::Records => "all its durable records",
        Left::LastCheckpoint => "its last checkpoints and what followed them",
        Left::CheckpointOfNow => "checkpoints of that moment",
    }
}
