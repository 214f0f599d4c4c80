//! How long things take: going on after a loss, and a lone write; and what a quiet core says of itself.

use super::cores::{Cores, ELECTION, Setup};
use super::wire::busy;
use super::{Examination, Lone};
use crate::latency::{PUBLISHED, Topology, measure, quorums};
use concur_core::{Delay, Phase, Protocol, QuorumSystem, Strategy};
use std::time::Duration;

/// How many seeds of each place and loss are tried.
const SEEDS: u64 = 3;

impl<P: Protocol> Examination<P> {
    /// A new group executes a write within the bound; and so do those who are left when as many as the quorums tolerate are gone at
    /// once and for good, whoever they are.
    pub fn liveness_within_its_bound(&self) {
        let test = "whoever_is_left_goes_on_within_the_bound";
        let mut longest = Duration::ZERO;
        for (replicas, first, seed) in [3, 4, 5, 7].into_iter().flat_map(|n| (0..n).flat_map(move |v| (0..SEEDS).map(move |s| (n, v, s)))) {
            let what = format!("{replicas} cores, seed {seed}, of which those from r{first} on are lost");
            self.in_world(test, &what, || longest = longest.max(self.goes_on_after(replicas, first, seed)));
        }
        let elections = longest.as_secs_f64() / ELECTION.as_secs_f64();
        println!("{}: the longest took {elections:.1} election timeouts, where {} are allowed", P::TRAITS.name, self.liveness);
    }

    fn goes_on_after(&self, replicas: usize, first: usize, seed: u64) -> Duration {
        let mut world = Cores::<P>::new(Setup { replicas, seed, loss: 0, repeats: 0, retained_bytes_max: 1 << 20 });
        let bound = ELECTION * self.liveness;
        let mut longest = Duration::ZERO;
        let mut answered = |world: &mut Cores<P>, node: usize, when: &str| {
            world.write(node, 0);
            let since = world.now;
            let within = world.run_until(bound, Cores::is_answered);
            let all: Vec<_> = (0..replicas).map(|node| world.inspect(node)).collect();
            assert!(within, "{when} a write at r{node} is not executed there within {} election timeouts: {all:?}", self.liveness);
            longest = longest.max(world.now.since(since));
        };
        answered(&mut world, first, "in a new group");
        let lost = world.config(0).quorums.tolerates();
        (0..lost).for_each(|ahead| world.crash((first + ahead) % replicas));
        answered(&mut world, (first + lost) % replicas, "after the loss");
        world.start_all();
        answered(&mut world, first, "after all came back");
        let caught_up = world.run_until(bound, Cores::agree);
        assert!(caught_up, "whoever came back has not executed everything within {} election timeouts", self.liveness);
        longest
    }

    /// In a group at rest nothing is undecided, all name one leader if there is one, and what is said to be kept is what can be; in a
    /// group that is not, roles and ballots make sense after every step.
    pub fn inspection(&self) {
        for (replicas, seed) in [(3, 21), (5, 22)] {
            let what = format!("{replicas} cores, seed {seed}");
            self.in_world("it_says_of_itself_what_is_so", &what, || {
                let mut world = busy::<P>(replicas, seed);
                let rest = |world: &Cores<P>| (0..replicas).all(|node| world.inspect(node).is_some_and(|it| it.undecided == 0));
                let at_rest = world.run_until(ELECTION * self.liveness, rest);
                let all: Vec<_> = (0..replicas).filter_map(|node| world.inspect(node)).collect();
                assert!(at_rest, "everything is executed everywhere, and Inspection::undecided is not 0 everywhere: {all:?}");
                if P::TRAITS.has_leader {
                    let one = |world: &Cores<P>| {
                        let mut named = (0..replicas).filter_map(|node| world.inspect(node)).map(|it| it.leader);
                        let first = named.next().flatten();
                        first.is_some() && named.all(|leader| leader == first)
                    };
                    let named = world.run_until(ELECTION * self.liveness, one);
                    assert!(named, "in a group at rest not all name the same leader: {all:?}");
                }
                let (decided, bytes) = (world.decided.len() as u64, world.decided_bytes());
                for (node, it) in all.iter().enumerate() {
                    assert!(it.retained <= decided, "r{node} retains {} instances, and {decided} were decided", it.retained);
                    let most = bytes + 256 * decided;
                    assert!(it.retained_bytes <= most, "r{node} retains {} bytes, and {bytes} were decided", it.retained_bytes);
                }
            });
        }
    }

    /// Where nothing but distance takes time, a lone write takes what its closed form says, to the nanosecond where that is one number.
    pub fn latencies(&self) {
        let strategy = Strategy::of::<P>();
        for &(name, csv) in PUBLISHED {
            let topology = Topology::parse(csv).expect("a published table");
            let quorums = quorums(&strategy, &topology);
            for (site, seed) in (0..topology.sites.len()).flat_map(|site| (0..2).map(move |seed| (site, seed))) {
                let what = format!("a lone write at {} of {name}, seed {seed}", topology.sites[site]);
                self.in_world("a_lone_write_takes_as_long_as_its_closed_form_says", &what, || {
                    let measured = measure(strategy, &topology, &[site], false, seed);
                    let lone = Lone { site, leader: measured.leader.map(|id| usize::from(id.0)) };
                    let took = measured.answered[0];
                    let smallest = quorums.size(Phase::Accept).min(quorums.size(Phase::Fast));
                    let least = topology.nearest(smallest, site);
                    assert!(took >= least, "it took {took:?}, less than a round trip to a quorum, {least:?}: what did it wait for?");
                    match self.latency.map(|form| form(&topology, &quorums, lone)) {
                        Some(stated) => assert_eq!(took, stated, "left: measured; right: the closed form that was stated, with {lone:?}"),
                        None => within::<P>(took, &topology, &quorums, lone),
                    }
                });
            }
        }
    }
}

/// What [`Traits::delay`](concur_core::Traits) says of a write that nothing collides with.
fn within<P: Protocol>(took: Duration, topology: &Topology, quorums: &QuorumSystem, lone: Lone) {
    let delay = P::TRAITS.delay;
    assert!(lone.leader.is_some() || delay != Delay::Leader, "Traits::delay names a leader, and nobody has the role \"leader\"");
    let leader = lone.leader.unwrap_or(0);
    let least = delay.least(quorums, &topology.rtt, leader, lone.site);
    let most = if delay == Delay::Fast { least } else { delay.most(quorums, &topology.rtt, leader, lone.site) };
    assert!((least..=most).contains(&took), "it took {took:?}; Traits::delay, {delay:?}, says {least:?} to {most:?}, with {lone:?}");
}
