//! The programs: `concur`, and `etcd`, which starts a node as etcd is started.
//!
//! One tree of commands, a module a family. Each command prints its data on standard output, in the form that `-o` chooses, and
//! everything else on standard error, and ends with one of the codes of `exit::Exit`. A flag's value comes from the command
//! line, else from its `CONCUR_*` variable, else from its default.
//!
//! What is not here: what the commands do beyond asking and printing. The libraries do that.

mod check;
mod cluster;
mod config;
mod demo;
mod etcd;
mod exit;
mod kv;
mod lease;
mod member;
mod output;
mod reach;
mod serve;
mod shell;
mod snapshot;
mod store;
mod strategies;
mod txn;
mod watch;

use clap::{Parser, Subcommand};
use exit::{Exit, Outcome};
use std::process::ExitCode;

/// The simulator and the server both make and drop small things all the time.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Consensus in the form that fits: validate, run and use replicated systems.
#[derive(Debug, Parser)]
#[command(name = "concur", version, propagate_version = true, after_help = EXIT_CODES)]
pub(crate) struct Program {
    #[command(subcommand)]
    command: Command,
}

const EXIT_CODES: &str = "Exit codes: 0 ok, 1 failure, 2 unreachable or unknown, 3 invalid input, 4 no quorum, 5 unhealthy, 64 wrong usage.\n\
                          Every flag has a CONCUR_* variable; a flag on the command line goes before it.";

#[derive(Debug, Subcommand)]
enum Command {
    Demo(demo::Demo),
    Kill(demo::Kill),
    Start(demo::Start),
    Serve(Box<serve::Serve>),
    Validate(config::Validate),
    Explain(config::Explain),
    Strategies(strategies::Strategies),
    Get(kv::Get),
    Put(kv::Put),
    Del(kv::Del),
    Watch(watch::Watch),
    Txn(txn::Txn),
    #[command(subcommand)]
    Lease(lease::Lease),
    Members(cluster::Members),
    #[command(subcommand)]
    Member(member::Member),
    #[command(subcommand)]
    Strategy(member::Strategy),
    Status(cluster::Status),
    #[command(subcommand)]
    Snapshot(snapshot::Snapshot),
    Recover(snapshot::Recover),
    #[command(subcommand)]
    Config(config::Config),
    /// Load a cluster, ours or any of etcd's API, and measure it
    Bench(Box<concur_bench::BenchArgs>),
    Check(check::Check),
    Completions(shell::Completions),
    Man(shell::Man),
}

impl Command {
    fn run(self) -> Outcome {
        match self {
            Self::Demo(command) => command.run(),
            Self::Kill(command) => command.run(),
            Self::Start(command) => command.run(),
            Self::Serve(command) => command.run(),
            Self::Validate(command) => command.run(),
            Self::Explain(command) => command.run(),
            Self::Strategies(command) => command.run(),
            Self::Get(command) => command.run(),
            Self::Put(command) => command.run(),
            Self::Del(command) => command.run(),
            Self::Watch(command) => command.run(),
            Self::Txn(command) => command.run(),
            Self::Lease(command) => command.run(),
            Self::Members(command) => command.run(),
            Self::Member(command) => command.run(),
            Self::Strategy(command) => command.run(),
            Self::Status(command) => command.run(),
            Self::Snapshot(command) => command.run(),
            Self::Recover(command) => command.run(),
            Self::Config(command) => command.run(),
            Self::Bench(args) => exit::done(concur_bench::run(*args)),
            Self::Check(command) => command.run(),
            Self::Completions(command) => command.run(),
            Self::Man(command) => command.run(),
        }
    }
}

/// Runs `concur` with the arguments of this process.
pub fn concur() -> ExitCode {
    match Program::try_parse() {
        Ok(program) => program.command.run().map_or_else(|failure| failure.report(), |()| Exit::Ok.code()),
        Err(message) => {
            // Help and versions are asked for; the rest is wrong usage.
            let exit = if message.use_stderr() { Exit::Usage } else { Exit::Ok };
            drop(message.print());
            exit.code()
        }
    }
}

/// Runs `etcd` with the arguments of this process.
pub fn etcd() -> ExitCode {
    etcd::main()
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    fn without_variable(command: &clap::Command, path: &str, found: &mut Vec<String>) {
        let path = format!("{path} {}", command.get_name());
        for argument in command.get_arguments() {
            let is_flag = argument.get_long().is_some_and(|long| !["help", "version"].contains(&long));
            let named = argument.get_env().is_some_and(|name| name.to_string_lossy().starts_with("CONCUR_"));
            if is_flag && !named {
                found.push(format!("{path} --{}", argument.get_id()));
            }
        }
        command.get_subcommands().for_each(|command| without_variable(command, &path, found));
    }

    #[test]
    fn every_flag_has_a_variable() {
        let mut found = Vec::new();
        without_variable(&Program::command(), "", &mut found);
        assert!(found.is_empty(), "{found:?}");
    }

    #[test]
    fn the_tree_of_commands_is_sound() {
        Program::command().debug_assert();
    }
}
