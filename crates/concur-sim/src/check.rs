//! `concur check` without the program around it: all of an `examples/check.rs`, which builds in seconds and checks a protocol that
//! need not be registered.
//!
//! Not here: what the program adds, as other formats of output.

use crate::fault::Fault;
use crate::report::Report;
use crate::schedule::Options;
use crate::sweep::{Progress, Sweeping, sweep};
use std::process::ExitCode;

const USAGE: &str = "check [--strategy NAME] [--replicas N] [--order total|per-key] [--faults LIST] [--threads N] \
                     ([--seed X] | [--seeds N] [--first X] [--failures N] [--first-violation])";

/// Sweeps, or replays one seed, as the flags say, and prints what came out: 0 if every promise was kept, 1 if one was broken or
/// something not covered, 2 if a checker could not tell, 64 if the flags make no sense.
///
/// `--strategy` names another protocol than that of `options`.
pub fn check(options: Options, args: impl IntoIterator<Item = String>) -> ExitCode {
    let args: Vec<String> = args.into_iter().collect();
    match checked(options, &args) {
        Ok(exit_code) => ExitCode::from(exit_code),
        Err(flag) => {
            eprintln!("{flag}: usage: {USAGE}");
            ExitCode::from(64)
        }
    }
}

fn checked(mut options: Options, args: &[String]) -> Result<u8, String> {
    let text = |flag: &str| args.iter().position(|arg| arg == flag).and_then(|at| args.get(at + 1)).map(String::as_str);
    let number = |flag: &str| text(flag).map(|text| text.parse::<u64>().map_err(|_| flag.to_owned())).transpose();
    if let Some(name) = text("--strategy") {
        options.strategy = (options.strategies)(name).ok_or("--strategy")?;
    }
    options.replicas = number("--replicas")?.map(|replicas| replicas as usize);
    options.ordering = text("--order").map(|word| Options::ordering_named(word).ok_or("--order")).transpose()?;
    if let Some(list) = text("--faults") {
        options.faults = Fault::parse(list).map_err(|_| "--faults")?;
    }
    if let Some(seed) = number("--seed")? {
        return Ok(printed(&Report::of_seed(&options, seed)));
    }
    let mut sweeping = Sweeping::new(options, number("--first")?.unwrap_or(0), number("--seeds")?.unwrap_or(1_000));
    sweeping.threads = number("--threads")?.map_or(sweeping.threads, |threads| threads as usize);
    if args.iter().any(|arg| arg == "--first-violation") {
        return Ok(first_violation(&Sweeping { failures_max: 1, ..sweeping }));
    }
    sweeping.failures_max = number("--failures")?.map_or(sweeping.failures_max, |failures| failures as usize);
    Ok(printed(&Report::of(&sweeping, |_: Progress| {})))
}

fn printed(report: &Report) -> u8 {
    print!("{}", report.text);
    report.exit_code
}

/// Says only which promise was broken first.
fn first_violation(sweeping: &Sweeping) -> u8 {
    let sweep = sweep(sweeping, |_| {});
    let Some(failure) = sweep.failures.first() else {
        println!("valid: {} seeds", sweep.coverage.seeds);
        return 0;
    };
    match &failure.violation {
        Some(violation) => println!("violated: {} at seed {}\n{}", violation.kind, failure.seed, violation.message),
        None => println!("unknown: {} at seed {}", failure.message, failure.seed),
    }
    if failure.violation.is_some() { 1 } else { 2 }
}
