//! `concur check` without the program around it, which builds in seconds: for seeded defects, and while working on a protocol.

use concur_sim::{Fault, Options, Report, Sweeping, sweep};
use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let text = |name: &str| args.iter().position(|arg| arg == name).and_then(|at| args.get(at + 1)).map(String::as_str);
    let number = |name: &str| text(name).map(|text| text.parse::<u64>().unwrap_or_else(|_| usage(name)));
    let mut options = Options::new(concur_decision::find(text("--strategy").unwrap_or("raft")).unwrap_or_else(|| usage("--strategy")));
    options.replicas = number("--replicas").map(|replicas| replicas as usize);
    options.ordering = text("--order").map(|word| Options::ordering_named(word).unwrap_or_else(|| usage("--order")));
    if let Some(list) = text("--faults") {
        options.faults = Fault::parse(list).unwrap_or_else(|_| usage("--faults"));
    }
    if let Some(seed) = number("--seed") {
        return finish(&Report::of_seed(&options, seed));
    }
    let first_only = args.iter().any(|arg| arg == "--first-violation");
    let mut sweeping = Sweeping::new(options, number("--first").unwrap_or(0), number("--seeds").unwrap_or(1_000));
    if let Some(threads) = number("--threads") {
        sweeping.threads = threads as usize;
    }
    if first_only {
        sweeping.failures_max = 1;
        return first_violation(&sweeping);
    }
    if let Some(failures) = number("--failures") {
        sweeping.failures_max = failures as usize;
    }
    finish(&Report::of(&sweeping, |_| {}))
}

fn finish(report: &Report) -> ExitCode {
    print!("{}", report.text);
    ExitCode::from(report.exit_code)
}

/// Says only which promise was broken first.
fn first_violation(sweeping: &Sweeping) -> ExitCode {
    let sweep = sweep(sweeping, |_| {});
    let Some(failure) = sweep.failures.first() else {
        println!("valid: {} seeds", sweep.coverage.seeds);
        return ExitCode::SUCCESS;
    };
    match &failure.violation {
        Some(violation) => println!("violated: {} at seed {}\n{}", violation.kind, failure.seed, violation.message),
        None => println!("unknown: {} at seed {}", failure.message, failure.seed),
    }
    ExitCode::from(if failure.violation.is_some() { 1 } else { 2 })
}

fn usage<T>(what: &str) -> T {
    eprintln!(
        "{what}: usage: check [--strategy NAME] [--replicas N] [--order total|per-key] [--faults LIST] [--threads N] \
         ([--seed X] | [--seeds N] [--first X] [--failures N] [--first-violation])"
    );
    std::process::exit(64)
}
