//! How commands end: the exit codes, and the message of a failure.

use std::io::{IsTerminal, Write};
use std::process::ExitCode;

/// What the program says to whoever started it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Exit {
    /// What was asked was done.
    Ok = 0,
    /// It was not.
    Failure = 1,
    /// Nobody answered, or it is unknown whether it was done.
    Unreachable = 2,
    /// What was given cannot be right.
    Invalid = 3,
    /// Somebody answered, and too few are left to decide.
    NoQuorum = 4,
    /// The cluster works and something in it does not.
    Unhealthy = 5,
    /// The command line cannot be read.
    Usage = 64,
}

impl Exit {
    pub(crate) fn code(self) -> ExitCode {
        ExitCode::from(self as u8)
    }
}

/// A command that did not do what was asked.
#[derive(Debug)]
pub(crate) struct Failure {
    code: u8,
    /// Nothing, if everything was said already.
    message: String,
}

/// How a command ends.
pub(crate) type Outcome<T = ()> = Result<T, Failure>;

impl Failure {
    pub(crate) fn new(exit: Exit, message: impl Into<String>) -> Self {
        Self { code: exit as u8, message: message.into() }
    }

    /// The data that was printed says everything.
    pub(crate) fn silent(exit: Exit) -> Self {
        Self::new(exit, "")
    }

    /// Whether it ends so.
    pub(crate) fn is(&self, exit: Exit) -> bool {
        self.code == exit as u8
    }

    /// What it says.
    pub(crate) fn into_message(self) -> String {
        self.message
    }

    pub(crate) fn report(self) -> ExitCode {
        if !self.message.is_empty() {
            say(Tone::Error, &self.message);
        }
        ExitCode::from(self.code)
    }
}

/// What a part of the program that says everything itself ended with.
pub(crate) fn done(code: i32) -> Outcome {
    match u8::try_from(code) {
        Ok(0) => Ok(()),
        Ok(code) => Err(Failure { code, message: String::new() }),
        Err(_) => Err(Failure::silent(Exit::Failure)),
    }
}

/// How a message is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tone {
    /// The command failed.
    Error,
    /// For information.
    Note,
}

/// Writes a message on standard error. One that nobody can read is no reason to stop.
pub(crate) fn say(tone: Tone, message: &str) {
    let mut to = std::io::stderr().lock();
    let coloured = to.is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    drop(match (tone, coloured) {
        (Tone::Error, true) => writeln!(to, "\x1b[1;31merror:\x1b[0m {message}"),
        (Tone::Error, false) => writeln!(to, "error: {message}"),
        (Tone::Note, _) => writeln!(to, "{message}"),
    });
}
