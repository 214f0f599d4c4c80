//! `concur strategies`: the registry.

use crate::exit::Outcome;
use crate::output::{Output, Table};
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
        self.output.show(&value, text)
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

/// A row each of what can be counted, then a paragraph each of when to choose it.
fn text(wide: bool) -> String {
    let mut table = Table::new(&["NAME", "FAMILY", "ORDER", "LEADER", "QUORUM", "FAST", "SURVIVES", "DELAYS", "READS"]);
    for strategy in concur::registry() {
        let traits = &strategy.traits;
        let fast = if traits.family == Family::Optimistic { quorum_sizes(strategy, Phase::Fast) } else { "-".into() };
        let leader = if traits.has_leader { "one" } else { "none" };
        table.row([
            traits.name.to_owned(),
            family(traits.family).to_owned(),
            order(traits.order).to_owned(),
            leader.to_owned(),
            quorum_sizes(strategy, Phase::Accept),
            fast,
            each_size(|voters| (strategy.quorums)(ReplicaSet::first(voters)).tolerates()),
            gist(traits.delays).to_owned(),
            gist(traits.reads).to_owned(),
        ]);
    }
    let sizes = each_size(|voters| voters);
    let mut text = format!(
        "{}\nQUORUM, FAST (a decision in one round trip) and SURVIVES (losses): of {sizes} voters. DELAYS: of messages, until a client at a \
         replica has its answer.\n",
        table.text()
    );
    for strategy in concur::registry() {
        text.push('\n');
        text.push_str(&paragraph(strategy, wide));
    }
    text
}

/// What a text says before it goes into detail.
fn gist(text: &str) -> &str {
    text.split(':').next().unwrap_or(text)
}

fn quorum_sizes(strategy: &Strategy, phase: Phase) -> String {
    each_size(|voters| (strategy.quorums)(ReplicaSet::first(voters)).size(phase))
}

fn each_size(of: impl Fn(usize) -> usize) -> String {
    SIZES.map(|voters| of(voters).to_string()).join(" ")
}

fn paragraph(strategy: &Strategy, wide: bool) -> String {
    let traits = &strategy.traits;
    let mut text = format!("{}, {}\n", traits.name, traits.title);
    let mut line = |name: &str, value: &str| {
        let _ = writeln!(text, "  {name:<9} {value}");
    };
    line("choose", traits.choose);
    line("avoid", traits.avoid);
    if wide {
        line("quorums", traits.quorums);
        line("delays", traits.delays);
        line("reads", traits.reads);
        line("paper", traits.paper);
    }
    text
}
