//! `concur check --latency`: each strategy's commit latencies by site, beside the closed form and what papers printed.

use crate::exit::{Exit, Failure, Outcome};
use crate::output::{Output, Table};
use concur_core::Strategy;
use concur_sim::latency::{PUBLISHED, Topology};
use concur_sim::literature::{Line, compare, exceptions, printed, tolerance};
use serde_json::{Value, json};
use std::path::Path;
use std::time::Duration;

/// Measures the strategies over one table of round trips, or over every published one.
pub(super) fn run(strategies: &[Strategy], file: Option<&Path>, output: &Output) -> Outcome {
    let mut tables = Vec::new();
    for (name, topology) in topologies(file)? {
        let printed = printed(&name);
        let lines = strategies.iter().flat_map(|&strategy| compare(strategy, &topology, &printed)).collect::<Vec<_>>();
        tables.push((name, topology, lines));
    }
    let value = Value::Array(tables.iter().map(|(name, _, lines)| value(name, lines)).collect());
    output.show(&value, |_| tables.iter().map(|(name, topology, lines)| text(name, topology, lines)).collect::<Vec<_>>().join("\n"))
}

fn topologies(file: Option<&Path>) -> Result<Vec<(String, Topology)>, Failure> {
    let parse = |name: &str, csv: &str| {
        let bad = |why| Failure::new(Exit::Invalid, format!("{name} is no table of round trips: {why}"));
        let topology = Topology::parse(csv).map_err(bad)?;
        match topology.sites.len() {
            1..=7 => Ok((name.to_owned(), topology)),
            sites => Err(bad(format!("it has {sites} sites, and 1 to 7 can be simulated"))),
        }
    };
    let Some(path) = file else {
        return PUBLISHED.iter().map(|(name, csv)| parse(name, csv)).collect();
    };
    let name = path.display().to_string();
    let csv = std::fs::read_to_string(path).map_err(|error| Failure::new(Exit::Invalid, format!("cannot read {name}: {error}")))?;
    Ok(vec![parse(&name, &csv)?])
}

fn millis(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

fn value(name: &str, lines: &[Line]) -> Value {
    let line = |line: &Line| {
        let printed = line.printed.as_ref();
        json!({
            "strategy": line.strategy,
            "leader": line.leader,
            "site": line.site,
            "alone_ms": millis(line.alone),
            "closed_form_ms": millis(line.closed_form),
            "contended_ms": { "commit": millis(line.committed), "answer": millis(line.answered) },
            "printed_ms": {
                "alone": printed.and_then(|printed| printed.alone).map(millis),
                "contended": printed.and_then(|printed| printed.contended).map(millis),
            },
        })
    };
    json!({ "topology": name, "latencies": lines.iter().map(line).collect::<Vec<_>>() })
}

fn text(name: &str, topology: &Topology, lines: &[Line]) -> String {
    let show = |duration: Duration| format!("{:.0}", millis(duration));
    let beside = |line: &Line, contended| line.beside(contended).map(|(_, printed)| show(printed)).unwrap_or_else(|| "-".into());
    let headings = ["STRATEGY", "LEADER", "SITE", "ALONE", "CLOSED FORM", "PRINTED", "CONTENDED COMMIT", "PRINTED", "CONTENDED ANSWER"];
    let mut table = Table::new(&headings);
    for line in lines {
        table.row([
            line.strategy.to_owned(),
            line.leader.clone().unwrap_or_else(|| "-".into()),
            line.site.clone(),
            show(line.alone),
            show(line.closed_form),
            beside(line, false),
            show(line.committed),
            beside(line, true),
            show(line.answered),
        ]);
    }
    format!("{name}: milliseconds from a client's request, medians\n{}{}", table.text(), remarks(name, topology, lines))
}

/// What is to be said of cells that are further from what was printed than is tolerated.
fn remarks(name: &str, topology: &Topology, lines: &[Line]) -> String {
    let far = exceptions().into_iter().filter(|far| far.topology == name && lines.iter().any(|line| line.strategy == far.strategy));
    let remark = |far: concur_sim::literature::Exception| {
        let which = if far.contended { "contended" } else { "alone" };
        format!("more than {} % from what is printed: {} at {}, {which}: {}\n", tolerance(topology), far.strategy, far.site, far.why)
    };
    far.map(remark).collect()
}
