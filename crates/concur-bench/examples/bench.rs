//! The generator without the rest of the program.

use clap::Parser;

/// Load a cluster and measure it.
#[derive(Parser)]
struct Program {
    #[command(flatten)]
    bench: concur_bench::BenchArgs,
}

fn main() {
    std::process::exit(concur_bench::run(Program::parse().bench));
}
