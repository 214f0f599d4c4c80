//! The `concur` program; see the library.

fn main() -> std::process::ExitCode {
    concur_cli::concur()
}
