//! A seed is its bytes, and a protocol that keeps no promise is found out, made small and replayed.

use concur_core::{
    Boot, Context, Corrupt, Delay, Family, Floor, Frontier, Input, Inspection, Instance, Ordering, Protocol, Strategy, Traits, Urgent,
    Value, wire_enum,
};
use concur_sim::{Fault, Options, Schedule, Sweeping, Verdict, run, run_traced, shrink, sweep};
use std::collections::BTreeMap;
use std::time::Duration;

fn few(options: Options, seeds: u64) -> concur_sim::Sweep {
    let mut sweeping = Sweeping::new(options, 1_000_000, seeds);
    sweeping.twice_every = 8;
    sweep(&sweeping, |_| {})
}

#[test]
fn a_seed_is_its_bytes() {
    for &strategy in concur_decision::registry() {
        let options = Options::new(strategy);
        let once = |seed| run(&Schedule::draw(&options, seed));
        assert_eq!(once(7).fingerprint, once(7).fingerprint);
        assert_ne!(once(7).fingerprint, once(8).fingerprint);
        let schedule = Schedule::draw(&options, 7);
        assert_eq!(run_traced(&schedule).0.fingerprint, run(&schedule).fingerprint, "watching changes nothing");
    }
}

#[test]
fn a_protocol_that_asks_nobody_is_found_out_and_made_small() {
    let options = Options { faults: Vec::new(), replicas: Some(3), ..Options::new(Strategy::of::<Hasty>()) };
    let result = few(options.clone(), 4);
    assert_eq!(result.failures.len(), 4, "in every seed two replicas decide at once");
    let seed = result.failures[0].seed;
    let line = format!("concur_sim::check of hasty, with the flags --seed {seed} --replicas 3 --faults none");
    assert_eq!(result.failures[0].replay, line, "the program does not know it");

    let schedule = Schedule::draw(&options, seed);
    let shrunk = shrink(&schedule, Duration::from_secs(20)).expect("it fails");
    assert!(shrunk.schedule.operations() <= 6, "{}", shrunk.schedule);
    let (Verdict::Violated(first), Verdict::Violated(small)) = (run(&schedule).verdict, shrunk.outcome.verdict) else {
        panic!("both are violated")
    };
    assert_eq!(first.kind, small.kind);
    assert!(shrunk.trace.picture(3, 100).contains("Took"), "{}", shrunk.trace.picture(3, 100));
}

#[test]
fn schedules_are_what_a_seed_has_to_be() {
    let options = Options::new(concur_decision::registry()[0]);
    for seed in 0..200 {
        let schedule = Schedule::draw(&options, seed);
        let mut kinds: Vec<Fault> = schedule.episodes.iter().map(|episode| episode.fault).collect();
        kinds.sort_unstable();
        kinds.dedup();
        assert!((3..=7).contains(&schedule.replicas));
        assert!(schedule.operations() >= 200, "seed {seed} has {} operations", schedule.operations());
        assert!(kinds.len() >= 3, "seed {seed} has {kinds:?}");
        assert!(schedule.clients.len() >= 3);
    }
}

/// Decides whatever it is given in the next slot that it knows of, and tells the others afterwards.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Hasty {
    taken: BTreeMap<u64, Value>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Said {
    Took { number: u64, value: Value },
}
wire_enum!(Said { 0 => Took { number, value } });
impl Urgent for Said {}

impl Hasty {
    fn take(&mut self, number: u64, value: Value, cx: &mut Context<Self>) {
        self.taken.entry(number).or_insert_with(|| value.clone());
        cx.persist(Said::Took { number, value: value.clone() });
        cx.decide(Instance::slot(number), value, ());
    }

    fn next(&self) -> u64 {
        self.taken.last_key_value().map_or(0, |(number, _)| number + 1)
    }
}

impl Protocol for Hasty {
    type Message = Said;
    type Record = Said;
    type Timer = ();
    type Order = ();
    const TRAITS: Traits = Traits {
        name: "hasty",
        title: "Hasty",
        paper: "none",
        family: Family::Classic,
        order: Ordering::Total,
        floor: Floor::Local,
        has_leader: false,
        one_ballot: false,
        delay: Delay::Turns,
        delays: "none",
        quorums: "none",
        reads: "whatever is there",
        choose: "never",
        avoid: "always",
        transitions: &[],
    };

    fn recover(boot: Boot<Self>, cx: &mut Context<Self>) -> Result<Self, Corrupt> {
        let mut hasty = Self { taken: BTreeMap::new() };
        for Said::Took { number, value } in boot.records {
            hasty.take(number, value, cx);
        }
        Ok(hasty)
    }

    fn step(&mut self, input: Input<Self>, cx: &mut Context<Self>) {
        match input {
            Input::Submit(value) => {
                let number = self.next();
                self.take(number, value.clone(), cx);
                cx.send(cx.config.others(), Said::Took { number, value });
            }
            Input::Receive { message: Said::Took { number, value }, .. } => self.take(number, value, cx),
            Input::Read { id, .. } => cx.read_at(id, Frontier::start(cx.config.epoch)),
            _ => {}
        }
    }

    fn checkpoint(&self) -> Vec<Said> {
        self.taken.iter().map(|(&number, value)| Said::Took { number, value: value.clone() }).collect()
    }

    fn inspect(&self) -> Inspection {
        Inspection { role: "replica", ..Inspection::default() }
    }
}
