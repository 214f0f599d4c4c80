//! Sweeps seeds until one breaks a promise, and says which in one line: what `defects/run` calls.
//!
//! `catch --strategy NAME [--replicas N] [--first SEED] [--seeds N] [--threads N]` ends with 1 if something was caught, 0 if not.

use concur_sim::{Options, Schedule, Verdict, Violation, run};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

fn main() {
    let args: Vec<String> = std::env::args().collect();
    let text = |name: &str| args.iter().position(|arg| arg == name).and_then(|at| args.get(at + 1));
    let number = |name: &str| text(name).map(|text| text.parse::<u64>().expect("a number"));
    let mut options = Options::new(concur_decision::find(text("--strategy").expect("--strategy NAME")).expect("a strategy"));
    options.replicas = number("--replicas").map(|replicas| replicas as usize);
    let (first, seeds) = (number("--first").unwrap_or(0), number("--seeds").unwrap_or(10_000));
    let cores = std::thread::available_parallelism().map_or(1, |cores| cores.get() as u64);

    let (next, stop, caught) = (AtomicU64::new(0), AtomicBool::new(false), Mutex::new(Vec::<(u64, Violation)>::new()));
    std::thread::scope(|scope| {
        for _ in 0..number("--threads").unwrap_or(cores) {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    if index >= seeds {
                        break;
                    }
                    // Every earlier seed is done or under way, so that the least of those caught is the first there is.
                    if let Verdict::Violated(violation) = run(&Schedule::draw(&options, first + index)).verdict {
                        caught.lock().expect("nobody panics with it").push((first + index, violation));
                        stop.store(true, Ordering::Relaxed);
                    }
                }
            });
        }
    });
    let caught = caught.into_inner().expect("nobody panics with it");
    match caught.into_iter().min_by_key(|(seed, _)| *seed) {
        Some((seed, Violation { kind, message })) => {
            println!("violated: {kind} at seed {seed}: {message}");
            std::process::exit(1);
        }
        None => println!("{seeds} seeds, nothing caught"),
    }
}
