//! `concur check` for a protocol that is not registered: sweeps as long as one likes, and ends with a table of what was covered.
//!
//! ```console
//! $ cargo run --profile sweep -p concur-example-viewstamped --example sweep_viewstamped -- --replicas 3 --seeds 2000
//! ```

use concur_example_viewstamped::Viewstamped;
use concur_sim::{Options, check};
use std::process::ExitCode;

fn main() -> ExitCode {
    check(Options::of::<Viewstamped>(), std::env::args().skip(1))
}
