//! `concur check` without the program around it, which builds in seconds: for seeded defects, and while working on a protocol.

use concur_sim::{Options, check};
use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    check(Options::new(concur_decision::registry()[0]), std::env::args().skip(1))
}
