//! `concur strategies`: the registry.

use crate::exit::Outcome;
use crate::output::Output;
use clap::Args;
use concur_core::{Family, Ordering, Phase, ReplicaSet, Strategy};
use serde_json::{Value, json};
use std::fmt::Write;

/// Every strategy: what it orders, its quorums, delays and reads, and when to choose it
#[derive(Debug, Args)]
pub(crate) struct Strategies {
    #[command(flatten)]
    output: Output,
}

impl Strategies {
    pub(crate) fn run(self) -> Outcome {
        let value = Value::Array(concur::registry().iter().map(value).collect());
        self.output.show(&value, |wide| concur::registry().iter().map(|strategy| text(strategy, wide)).collect::<Vec<_>>().join("\n"))
    }
}

/// Numbers of voters for which quorums are shown.
const SIZES: [usize; 3] = [3, 5, 7];

fn family(family: Family) -> &'static str {
    match family {
        Family::Classic => "classic",
        Family::Leadership => "leadership",
        Family::Ballots => "ballots",
        Family::Optimistic => "optimistic",
    }
}

fn order(order: Ordering) -> &'static str {
    match order {
        Ordering::Total => "total",
        Ordering::Partial => "partial",
    }
}

fn value(strategy: &Strategy) -> Value {
    let traits = &strategy.traits;
    let sizes = SIZES.map(|voters| {
        let quorums = (strategy.quorums)(ReplicaSet::first(voters));
        json!({
            "voters": voters,
            "prepare": quorums.size(Phase::Prepare),
            "accept": quorums.size(Phase::Accept),
            "fast": if traits.family == Family::Optimistic { json!(quorums.size(Phase::Fast)) } else { Value::Null },
            "failures_survived": quorums.tolerates(),
        })
    });
    json!({
        "name": traits.name,
        "title": traits.title,
        "family": family(traits.family),
        "order": order(traits.order),
        "leader": traits.has_leader,
        "quorums": traits.quorums,
        "delays": traits.delays,
        "reads": traits.reads,
        "sizes": sizes,
        "choose": traits.choose,
        "avoid": traits.avoid,
        "paper": traits.paper,
    })
}

fn text(strategy: &Strategy, wide: bool) -> String {
    let traits = &strategy.traits;
    let mut text = format!("{}\n", traits.name);
    let mut line = |name: &str, value: &str| {
        let _ = writeln!(text, "  {name:<9} {value}");
    };
    let leader = if traits.has_leader { "one leader at a time" } else { "no leader" };
    line("family", &format!("{}, {leader}", family(traits.family)));
    line("order", order(traits.order));
    line("quorums", traits.quorums);
    line("delays", traits.delays);
    line("reads", traits.reads);
    line("survives", &survives(strategy));
    line("choose", traits.choose);
    line("avoid", traits.avoid);
    if wide {
        for voters in SIZES {
            line(&format!("of {voters}"), &sizes(strategy, voters));
        }
        line("paper", traits.paper);
    }
    text
}

fn survives(strategy: &Strategy) -> String {
    let one = |voters| format!("{} of {voters}", (strategy.quorums)(ReplicaSet::first(voters)).tolerates());
    SIZES.map(one).join(", ")
}

fn sizes(strategy: &Strategy, voters: usize) -> String {
    let quorums = (strategy.quorums)(ReplicaSet::first(voters));
    let plain = format!("{} prepare, {} accept", quorums.size(Phase::Prepare), quorums.size(Phase::Accept));
    match strategy.traits.family {
        Family::Optimistic => format!("{plain}, {} accept in one round", quorums.size(Phase::Fast)),
        _ => plain,
    }
}
