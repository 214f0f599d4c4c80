//! What shells and manual readers want to know: `concur completions`, `concur man`.

use crate::Program;
use crate::exit::{Exit, Failure, Outcome};
use crate::output;
use clap::{Args, CommandFactory};
use clap_complete::Shell;
use std::path::PathBuf;

/// Print a script that completes commands and flags in a shell
#[derive(Debug, Args)]
pub(crate) struct Completions {
    /// For which
    shell: Shell,
}

impl Completions {
    pub(crate) fn run(self) -> Outcome {
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut Program::command(), "concur", &mut script);
        output::write(script)
    }
}

/// Print the manual page, or write a page for each command into a directory
#[derive(Debug, Args)]
pub(crate) struct Man {
    /// Where to write the pages
    #[arg(long, env = "CONCUR_OUT", value_name = "DIR")]
    out: Option<PathBuf>,
}

impl Man {
    pub(crate) fn run(self) -> Outcome {
        let failed = |error: std::io::Error| Failure::new(Exit::Failure, format!("cannot write the manual: {error}"));
        if let Some(out) = self.out {
            std::fs::create_dir_all(&out).map_err(failed)?;
            return clap_mangen::generate_to(Program::command(), out).map_err(failed);
        }
        let mut page = Vec::new();
        clap_mangen::Man::new(Program::command()).render(&mut page).map_err(failed)?;
        output::write(page)
    }
}
