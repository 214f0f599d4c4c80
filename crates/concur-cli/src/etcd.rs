//! The `etcd` program: one node, started as etcd is.
//!
//! It takes etcd's flags in the forms that Go's flag package takes (`-name n1`, `--name=n1`), its `ETCD_*` variables and its file
//! (`--config-file`, YAML, which counts alone), with etcd's defaults, and starts what `concur serve` starts. Flags that have a meaning
//! here do what they say; the others are taken with a warning that names them, and what no etcd has is refused (`flags`). What would
//! change the meaning of everything else, such as discovery, is refused with what to do instead.
//!
//! `--strategy` (`ETCD_STRATEGY`, `CONCUR_STRATEGY`) is ours. Logs are lines of JSON as etcd writes them (`logs`). Beyond loopback
//! without TLS it warns, as what starts it expects.
//!
//! What is not here: `etcd gateway` and `etcd grpc-proxy`.

mod args;
mod file;
mod flags;
mod logs;
mod node;

use crate::serve;
use args::Parsed;
use flags::Settings;
use std::process::ExitCode;

const USAGE: &str = "Usage:

  etcd [flags]
    Start an etcd server.

  etcd --version
    Show the version of etcd.

  etcd -h | --help
    Show the help information about etcd.

  etcd --config-file
    Path to the server configuration file. If it is given, other flags and variables are ignored.
";

/// Runs the program.
pub(crate) fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args_os().skip(1).map(|argument| argument.to_string_lossy().into_owned()).collect();
    match args::parse(&arguments) {
        Ok(Parsed::Help) => {
            println!("{USAGE}\n{}", flags::help());
            ExitCode::SUCCESS
        }
        Ok(Parsed::Version) => {
            print!("{}", version());
            ExitCode::SUCCESS
        }
        Ok(Parsed::Flags(given)) => run(given),
        Err(why) => {
            eprintln!("{why}\n{USAGE}");
            ExitCode::from(2)
        }
    }
}

/// What scripts look for, and what this is.
fn version() -> String {
    let (os, machine) = (std::env::consts::OS, if cfg!(target_arch = "x86_64") { "amd64" } else { std::env::consts::ARCH });
    format!(
        "etcd Version: {}\nGit SHA: none\nGo Version: none\nGo OS/Arch: {os}/{machine}\nConcur Version: {}\n",
        concur::ETCD_VERSION,
        env!("CARGO_PKG_VERSION")
    )
}

fn run(given: Vec<(String, String)>) -> ExitCode {
    match Settings::gather(given, std::env::vars()).and_then(|settings| start(&settings)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            if tracing::dispatcher::has_been_set() {
                tracing::error!("{why}");
            } else {
                eprintln!("{why}");
            }
            ExitCode::FAILURE
        }
    }
}

fn start(settings: &Settings) -> Result<(), String> {
    logs::start(settings)?;
    for warning in settings.warnings() {
        tracing::warn!("{warning}");
    }
    let launch = node::launch(settings)?;
    serve::launch(&launch).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    #[test]
    fn scripts_find_the_version_in_its_line() {
        let version = super::version();
        let first = version.lines().next().unwrap();
        let number = first.strip_prefix("etcd Version: ").unwrap();
        assert!(number.starts_with("3.7.") && number.split('.').count() == 3, "{number}");
        for line in ["Git SHA: ", "Go Version: ", "Go OS/Arch: "] {
            assert!(version.contains(line), "{line}");
        }
    }
}
