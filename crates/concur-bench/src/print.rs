//! Reports as text: a run for the terminal, a comparison as a Markdown table.

use std::fmt::Write;

use crate::compare::{CaseResult, Comparison, Placement};
use crate::measure::{Latency, LoadReport};
use crate::ratios::Paired;
use crate::scale::{Scaling, Step};
use crate::syncs::SyncCount;

/// Fewer rounds than this are not enough to publish.
const ROUNDS_PUBLISHED: usize = 5;

/// A run, a few lines.
pub(crate) fn load(report: &LoadReport) -> String {
    let mut text = String::new();
    let mode = report.rate.map_or("closed loop".to_owned(), |rate| format!("open loop at {}/s", grouped(rate as u64)));
    // Writing into a string cannot fail.
    _ = writeln!(
        text,
        "{} · {} over {} to {} · {mode} · {}-byte values, {} keys · {:.1} s",
        report.workload.name(),
        counted(report.clients, "client"),
        counted(report.connections, "connection"),
        counted(report.endpoints.len(), "endpoint"),
        report.value_bytes,
        grouped(report.keys),
        report.seconds
    );
    _ = writeln!(
        text,
        "operations  {}   {}/s   errors {}",
        grouped(report.operations),
        grouped(report.throughput.round() as u64),
        errors(report)
    );
    _ = writeln!(text, "latency     {}", latency(&report.latency));
    for (action, of_action) in &report.by_action {
        _ = writeln!(text, "  {action:<10}{}", latency(of_action));
    }
    if report.missing > 0 {
        _ = writeln!(text, "missing     {} gets found no such key", grouped(report.missing));
    }
    if report.unsent > 0 {
        _ = writeln!(
            text,
            "unsent      {} operations were due but no client was free; they count with what they had waited",
            grouped(report.unsent)
        );
    }
    if let Some(servers) = &report.servers {
        let resident: Vec<String> = servers.resident_mib.iter().map(|mib| format!("{mib:.0} MiB")).collect();
        _ = writeln!(text, "servers     {:.1} µs CPU an operation   resident {}", servers.cpu_us_per_op, resident.join(", "));
    }
    if let Some(cpu) = report.generator_cpu_us_per_op {
        _ = writeln!(text, "generator   {cpu:.1} µs CPU an operation");
    }
    text
}

fn counted(number: usize, thing: &str) -> String {
    if number == 1 { format!("1 {thing}") } else { format!("{number} {thing}s") }
}

fn errors(report: &LoadReport) -> String {
    if report.errors.is_empty() {
        return "0".into();
    }
    let kinds: Vec<String> = report.errors.iter().map(|(kind, count)| format!("{kind} {}", grouped(*count))).collect();
    format!("{} ({})", grouped(report.errors_total()), kinds.join(", "))
}

fn latency(latency: &Latency) -> String {
    if latency.count == 0 {
        return "nothing was answered".into();
    }
    let [p50, p90, p99, p999, max] = [latency.p50_us, latency.p90_us, latency.p99_us, latency.p999_us, latency.max_us].map(time);
    format!("p50 {p50}   p90 {p90}   p99 {p99}   p99.9 {p999}   max {max}")
}

/// A time in the unit that suits it.
fn time(us: f64) -> String {
    match us {
        us if us < 1_000.0 => format!("{us:.0} µs"),
        us if us < 100_000.0 => format!("{:.2} ms", us / 1e3),
        us if us < 1_000_000.0 => format!("{:.0} ms", us / 1e3),
        us => format!("{:.2} s", us / 1e6),
    }
}

/// A number with its thousands apart.
pub(crate) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (at, digit) in digits.char_indices() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A comparison as Markdown.
pub(crate) fn comparison(comparison: &Comparison) -> String {
    let (ours, theirs) = (&comparison.ours, &comparison.theirs);
    let machine = &comparison.machine;
    let mut text = String::new();
    _ = writeln!(
        text,
        "{} {} against {} {}, three durable nodes each, on one machine with the load generator on it:",
        ours.name, ours.version, theirs.name, theirs.version
    );
    _ = writeln!(
        text,
        "{}, {}, Linux {}, data on {}.",
        machine.processor,
        counted(machine.cores, "core"),
        machine.kernel,
        machine.filesystem
    );
    _ = writeln!(
        text,
        "{}-byte values, random keys of {}; {} in alternating order, {} s a case after {} s of warm-up. A cell is {} / {}, medians, then the median of the paired ratios (smallest–largest).\n",
        comparison.value_bytes,
        grouped(comparison.keys),
        counted(comparison.rounds, "round"),
        comparison.seconds,
        comparison.warm_up_seconds,
        ours.name,
        theirs.name
    );
    _ = writeln!(text, "| workload | clients | operations/s | p50 | p99 | server CPU an operation | resident a node |");
    _ = writeln!(text, "| --- | --- | --- | --- | --- | --- | --- |");
    for case in &comparison.cases {
        _ = writeln!(text, "{}", row(case));
    }
    if let Some(syncs) = &comparison.syncs {
        _ = writeln!(text, "\nDisk synchronisations in an extra traced run, 64 clients putting:\n");
        _ = writeln!(text, "| system | puts | fsync + fdatasync, three nodes | puts a synchronisation | median synchronisation |");
        _ = writeln!(text, "| --- | --- | --- | --- | --- |");
        _ = writeln!(text, "{}", sync_row(&ours.name, &syncs.ours));
        _ = writeln!(text, "{}", sync_row(&theirs.name, &syncs.theirs));
    }
    notes(&mut text, comparison);
    text
}

/// What many of everything cost, as Markdown.
pub(crate) fn scaling(scaling: &Scaling) -> String {
    let (ours, theirs, machine) = (&scaling.ours, &scaling.theirs, &scaling.machine);
    let mut text = String::new();
    _ = writeln!(
        text,
        "{} {} beside {} {}, three durable nodes each, on one machine with the load generator on it: {}, {}, Linux {}, data on {}.",
        ours.system.name,
        ours.system.version,
        theirs.system.name,
        theirs.system.version,
        machine.processor,
        counted(machine.cores, "core"),
        machine.kernel,
        machine.filesystem
    );
    _ = writeln!(
        text,
        "One run, in this order on one cluster; {}-byte values; windows of {} s with {} puts a second unless the row says otherwise. A cell is {} / {}.\n",
        scaling.value_bytes, scaling.seconds, scaling.rate, ours.system.name, theirs.system.name
    );
    _ = writeln!(
        text,
        "| what is there | took | latency of | p50 | p99 | longest | resident, largest node | on disk, largest node | errors |"
    );
    _ = writeln!(text, "| --- | --- | --- | --- | --- | --- | --- | --- | --- |");
    for (ours, theirs) in ours.steps.iter().zip(&theirs.steps) {
        let both = |show: &dyn Fn(&Step) -> String| format!("{} / {}", show(ours), show(theirs));
        let cells = [
            both(&|step| format!("{:.1} s", step.took_seconds)),
            ours.measured.clone(),
            both(&|step| time(step.latency.p50_us)),
            both(&|step| time(step.latency.p99_us)),
            both(&|step| time(step.latency.max_us)),
            both(&|step| format!("{:.0} MiB", step.resident_mib)),
            both(&|step| format!("{:.0} MiB", step.disk_mib)),
            both(&|step| grouped(step.errors)),
        ];
        _ = writeln!(text, "| {} | {} |", ours.what, cells.join(" | "));
    }
    text
}

fn notes(text: &mut String, comparison: &Comparison) {
    if comparison.rounds < ROUNDS_PUBLISHED {
        _ = writeln!(text, "\nFewer than {ROUNDS_PUBLISHED} rounds: a look, not a result.");
    }
    for case in comparison.cases.iter().filter(|case| case.errors.ours + case.errors.theirs > 0) {
        let (name, clients) = (case.case.workload.name(), case.case.clients);
        _ = writeln!(text, "\nErrors at {name}, {clients} clients: {} and {}.", case.errors.ours, case.errors.theirs);
    }
    if let Some(syncs) = &comparison.syncs {
        for (system, count) in [(&comparison.ours, &syncs.ours), (&comparison.theirs, &syncs.theirs)] {
            if count.syncs == 0 {
                _ = writeln!(
                    text,
                    "\n**{} acknowledged {} puts without one synchronisation: it was not durable.**",
                    system.name, count.puts
                );
            }
        }
    }
}

fn row(result: &CaseResult) -> String {
    let place = match result.case.placement {
        Placement::Spread => "",
        Placement::Leader => " at the leader",
        Placement::Follower => " at a follower",
    };
    let cells = [
        cell(&result.throughput, |per_s| grouped(per_s.round() as u64)),
        cell(&result.p50_us, time),
        cell(&result.p99_us, time),
        cell(&result.server_cpu_us_per_op, |us| format!("{us:.1} µs")),
        cell(&result.resident_mib, |mib| format!("{mib:.0} MiB")),
    ];
    format!("| {} | {}{place} | {} |", result.case.workload.name(), result.case.clients, cells.join(" | "))
}

fn cell(paired: &Option<Paired>, show: impl Fn(f64) -> String) -> String {
    let Some(paired) = paired else { return "not measured".into() };
    let (ours, theirs) = (show(paired.ours), show(paired.theirs));
    format!("{ours} / {theirs} · **{:.2}×** ({:.2}–{:.2})", paired.ratio, paired.ratio_min, paired.ratio_max)
}

fn sync_row(name: &str, count: &SyncCount) -> String {
    let (puts, syncs) = (grouped(count.puts), grouped(count.syncs));
    format!("| {name} | {puts} | {syncs} | {:.1} | {} |", count.puts_per_sync, time(count.sync_p50_us))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ratios::paired;

    #[test]
    fn numbers_read_easily() {
        assert_eq!([0, 999, 1_000, 1_234_567].map(grouped), ["0", "999", "1,000", "1,234,567"]);
        assert_eq!(
            [0.4, 283.2, 1_530.0, 43_000.0, 250_000.0, 2_500_000.0].map(time),
            ["0 µs", "283 µs", "1.53 ms", "43.00 ms", "250 ms", "2.50 s"]
        );
    }

    #[test]
    fn a_cell_shows_both_medians_and_the_ratio_with_its_spread() {
        let figures = paired([(Some(300.0), Some(600.0)), (Some(240.0), Some(600.0)), (Some(330.0), Some(600.0))]);
        assert_eq!(cell(&figures, time), "300 µs / 600 µs · **0.50×** (0.40–0.55)");
        assert_eq!(cell(&None, time), "not measured");
    }
}
