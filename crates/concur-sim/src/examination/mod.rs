//! The examination: everything that a protocol must show before anybody builds on it, as tests that a crate gets by one line.
//!
//! ```ignore
//! concur_sim::check_strategy!(MyProtocol);
//! ```
//!
//! [`check_strategy!`](crate::check_strategy) expands to tests, each named for what it proves. They run the protocol in two worlds:
//! whole replicas under every fault, as `concur check` does, and its cores alone, where somebody can look between any two steps.
//! Settings follow the type: `check_strategy!(MyProtocol, seeds = 10_000, liveness = 12)`; see [`Examination`].
//!
//! A failure says which promise broke, why it matters, and the line that replays it.
//!
//! It does not prove a protocol: it looks for what is wrong with it, in as many places as its seeds reach.

mod bounded;
mod cores;
mod quorums;
mod restart;
mod time;
mod wire;

pub(crate) use bounded::Kept;

use crate::latency::Topology;
use crate::report::Report;
use crate::run::{guarded, run};
use crate::schedule::{Options, Schedule};
use crate::sweep::{Sweep, Sweeping, sweep};
use concur_core::{Protocol, QuorumSystem};
use std::marker::PhantomData;
use std::time::Duration;

/// Tests that examine a protocol: `check_strategy!(MyProtocol)`, in a file of its own under `tests/`, or in a module of its own.
///
/// Settings may follow, in any order: `seeds`, `liveness` and `latency`, the methods of [`Examination`](crate::examination::Examination).
/// The first seed is drawn anew by nobody: the same tests run in the same way everywhere.
#[macro_export]
macro_rules! check_strategy {
    ($protocol:ty $(, $setting:ident = $value:expr)* $(,)?) => {
        fn examination() -> $crate::examination::Examination<$protocol> {
            $crate::examination::Examination::new(env!("CARGO_PKG_NAME"), module_path!())$(.$setting($value))*
        }

        #[test]
        fn every_promise_is_kept_and_every_transition_is_met() {
            examination().every_promise();
        }

        #[test]
        fn whoever_is_left_goes_on_within_the_bound() {
            examination().liveness_within_its_bound();
        }

        #[test]
        fn a_restart_from_records_forgets_nothing() {
            examination().restarts();
        }

        #[test]
        fn a_seed_is_its_bytes() {
            examination().replays();
        }

        #[test]
        fn what_is_written_is_read_and_rubbish_is_dropped() {
            examination().wire();
        }

        #[test]
        fn it_says_of_itself_what_is_so() {
            examination().inspection();
        }

        #[test]
        fn a_lone_write_takes_as_long_as_its_closed_form_says() {
            examination().latencies();
        }

        #[test]
        fn memory_is_bounded_while_a_replica_is_away() {
            examination().bounded_memory();
        }

        #[test]
        fn quorums_that_must_meet_do() {
            examination().quorums();
        }

        #[test]
        #[ignore = "replays one seed: CONCUR_EXAM_SEED, and CONCUR_EXAM_REPLICAS if it was swept with a number of them"]
        fn replay() {
            examination().replay();
        }
    };
}

/// Where a lone write came from, and who led.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lone {
    /// The site of the client.
    pub site: usize,
    /// The site of the leader, if anybody led.
    pub leader: Option<usize>,
}

/// After how long a lone write is answered.
pub type ClosedForm = fn(&Topology, &QuorumSystem, Lone) -> Duration;

/// How many seeds are run, if nothing else is said.
const SEEDS: u64 = 4;
/// In how many election timeouts whoever is left must go on, if nothing else is said.
const LIVENESS: u32 = 20;
/// How many seeds are added at a time in search of a transition, and how many at most.
const SEARCH: (u64, u64) = (4, 512);

/// What is examined, and how thoroughly.
#[derive(Debug)]
pub struct Examination<P> {
    package: &'static str,
    module: &'static str,
    seeds: u64,
    liveness: u32,
    latency: Option<ClosedForm>,
    protocol: PhantomData<fn() -> P>,
}

impl<P: Protocol> Examination<P> {
    /// The examination that stands in this module of this package: `check_strategy!` says so itself.
    pub fn new(package: &'static str, module: &'static str) -> Self {
        Self { package, module, seeds: SEEDS, liveness: LIVENESS, latency: None, protocol: PhantomData }
    }

    /// How many seeds are run with all faults, over all numbers of replicas together: at least 4, one each. `CONCUR_EXAM_SEEDS` in
    /// the environment goes before it.
    pub fn seeds(self, seeds: u64) -> Self {
        Self { seeds, ..self }
    }

    /// In how many election timeouts a write must be executed, once as many replicas are gone for good as the quorums tolerate, and
    /// once a group has begun.
    pub fn liveness(self, elections: u32) -> Self {
        Self { liveness: elections, ..self }
    }

    /// After how long a lone write is answered where nothing but distance takes time, if `Traits::delay` does not say it exactly.
    pub fn latency(self, closed_form: ClosedForm) -> Self {
        Self { latency: Some(closed_form), ..self }
    }

    /// Every invariant that the simulator checks, under all faults at once, epochs and switches of strategy among them; and every
    /// transition in the traits is passed in some seed. Seeds are added until it is, up to a bound.
    pub fn every_promise(&self) {
        let each = self.asked_seeds().div_ceil(4);
        let numbers = [3, 4, 5, 7].into_iter().zip(0..).map(|(replicas, turn)| (Some(replicas), turn * 1_000_000, each));
        let search = (0..SEARCH.1).step_by(SEARCH.0 as usize).map(|ahead| (None, 10_000_000 + ahead, SEARCH.0));
        let mut left: Vec<&str> = P::TRAITS.transitions.to_vec();
        let mut swept = 0;
        for (replicas, first, seeds) in numbers.chain(search) {
            if replicas.is_none() && left.is_empty() {
                break;
            }
            let result = self.swept(&Options { replicas, ..Options::of::<P>() }, first, seeds);
            left.retain(|name| !result.coverage.met.contains_key(name));
            swept += seeds;
        }
        println!("{}: {swept} seeds, and {} transitions", P::TRAITS.name, P::TRAITS.transitions.len());
        if !left.is_empty() {
            self.broke(
                "coverage",
                &format!("{left:?} of Traits::transitions passed in none of {swept} seeds"),
                "a path that no run takes is not examined",
                "raise the number of seeds: check_strategy!(…, seeds = N), or CONCUR_EXAM_SEEDS=N; a transition that no run can pass is to \
                 be left out of the list",
            );
        }
    }

    /// The same seed gives the same bytes, run twice.
    pub fn replays(&self) {
        let options = Options { replicas: Some(3), ..Options::of::<P>() };
        for seed in 20_000_000..20_000_002 {
            let schedule = Schedule::draw(&options, seed);
            if run(&schedule).fingerprint != run(&schedule).fingerprint {
                self.broke(
                    "determinism",
                    &format!("two runs of seed {seed} differ"),
                    why("determinism"),
                    "look for a clock, a hash map that is iterated, a global, an address; time and randomness are arguments",
                );
            }
        }
    }

    /// Replays one seed, made smaller and drawn if it fails.
    pub fn replay(&self) {
        let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
        let Some(seed) = number("CONCUR_EXAM_SEED") else { panic!("CONCUR_EXAM_SEED=N says which seed is to be replayed") };
        let options = Options { replicas: number("CONCUR_EXAM_REPLICAS").map(|replicas| replicas as usize), ..Options::of::<P>() };
        let report = Report::of_seed(&options, seed);
        println!("{}", report.text);
        assert_eq!(report.exit_code, 0, "{}", report.verdict);
    }

    fn asked_seeds(&self) -> u64 {
        let asked = std::env::var("CONCUR_EXAM_SEEDS").ok().and_then(|text| text.parse().ok());
        asked.unwrap_or(self.seeds).max(4)
    }

    /// Sweeps on one thread, as tests run beside each other, and fails if a seed does.
    fn swept(&self, options: &Options, first: u64, seeds: u64) -> Sweep {
        let sweeping = Sweeping { threads: 1, twice_every: 0, failures_max: 1, ..Sweeping::new(options.clone(), first, seeds) };
        let result = sweep(&sweeping, |_| {});
        if let Some(failure) = result.failures.first() {
            let (seed, of) = (failure.seed, options.replicas.map_or(String::new(), |replicas| format!("CONCUR_EXAM_REPLICAS={replicas} ")));
            let promise = failure.violation.as_ref().map_or("unknown", |violation| violation.kind);
            self.broke(
                promise,
                &format!("seed {seed}, after {} that were valid: {}", result.coverage.seeds.saturating_sub(1), failure.message),
                why(promise),
                &format!(
                    "see it, made smaller and drawn:\n    CONCUR_EXAM_SEED={seed} {of}{}",
                    self.line("replay -- --ignored --nocapture")
                ),
            );
        }
        result
    }

    /// Runs one of the small worlds; a panic in it is a broken promise.
    fn in_world(&self, test: &str, what: &str, act: impl FnOnce()) {
        if let Err(violation) = guarded(act) {
            self.broke(
                test,
                &format!("{what}: {}", violation.message),
                why(test),
                &format!("the world is drawn from nothing but what is said above; the test shows it again:\n    {}", self.line(test)),
            );
        }
    }

    /// The line that runs a test of this examination.
    fn line(&self, test: &str) -> String {
        let inner = self.module.split_once("::").map_or(String::new(), |(_, inner)| format!("{inner}::"));
        format!("cargo test -p {} {inner}{test}", self.package)
    }

    fn broke(&self, promise: &str, what: &str, why: &str, then: &str) -> ! {
        panic!("{}: {promise} is broken\n  what: {what}\n  why it matters: {why}\n  what to do: {then}\n", P::TRAITS.name)
    }
}

/// Why a promise matters, in a line.
fn why(promise: &str) -> &'static str {
    match promise {
        "agreement" => "two replicas that decide differently have two histories, and no checker mends that",
        "order" | "unordered" | "state" => "what interferes is executed in one order everywhere, or replicas differ for ever",
        "persistence" => "what was promised is durable before anybody hears of it, or a restart takes it back",
        "liveness" | "convergence" => "once everything is healed clients go on within a bounded number of election timeouts",
        "bounds" => "a queue or a log that grows without end ends with the process",
        "two leaders" => "of two that lead at one ballot each decides",
        "acknowledged" | "linearizability" | "serializability" | "exactly once" | "invented" | "lost" | "read" | "replay" | "reply" => {
            "clients build on what they were told"
        }
        "configuration" | "refused change" | "sealed" => {
            "whoever does not know who is in, and when that changed, counts votes that do not count"
        }
        "damage" => "a replica must be able to read what it wrote, or it never votes again",
        "disturbed" => "one that was cut off and comes back must not cost the others their leader",
        "determinism" => "a failure that cannot be replayed cannot be mended",
        "panic" => "nothing from outside stops a node: messages that are malformed or stale are dropped",
        "a_restart_from_records_forgets_nothing" => "a replica that starts again must not contradict what it said before",
        "whoever_is_left_goes_on_within_the_bound" => "a group that tolerates a loss goes on after it",
        "what_is_written_is_read_and_rubbish_is_dropped" => "what comes from a disk or a link may be cut, old, or somebody else's",
        _ => "it is one of the promises of the contract: concur_core::Protocol",
    }
}
