//! What the tests with real processes share.
#![allow(dead_code)] // Each program of tests uses a part.

pub(crate) mod ports;
pub(crate) mod registers;

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// How long anything may take; much longer than it does, for machines that do other things too.
pub(crate) const PATIENCE: Duration = Duration::from_secs(180);
/// How often something is looked at that is waited for.
pub(crate) const LOOK_INTERVAL: Duration = Duration::from_millis(5);

/// An address of this test's own.
pub(crate) fn free() -> String {
    ports::free()
}

/// The program, as it is where nobody set anything.
pub(crate) fn concur() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_concur"));
    command.env("NO_COLOR", "1").env_remove("CONCUR_LOG");
    command
}

/// A directory for a test; it goes, unless the test failed.
pub(crate) struct Scratch(pub(crate) PathBuf);

impl Scratch {
    pub(crate) fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("concur-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }
}

/// A node's process; killed when it is dropped.
pub(crate) struct Process(pub(crate) Child);

impl Process {
    /// Starts a node that appends what it says to a file.
    pub(crate) fn start(mut command: Command, log: &Path) -> Self {
        let log = std::fs::File::options().create(true).append(true).open(log).unwrap();
        Self(command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(log).spawn().unwrap())
    }

    pub(crate) fn signal(&self, signal: rustix::process::Signal) {
        rustix::process::kill_process(rustix::process::Pid::from_child(&self.0), signal).unwrap();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The end of what a node said.
pub(crate) fn tail(log: &Path) -> String {
    let text = std::fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(12)..].join("\n")
}

/// A page over plain HTTP.
pub(crate) fn page(address: &str, path: &str) -> String {
    let mut socket = std::net::TcpStream::connect(address).unwrap();
    std::io::Write::write_all(&mut socket, format!("GET {path} HTTP/1.0\r\n\r\n").as_bytes()).unwrap();
    let mut answer = String::new();
    std::io::Read::read_to_string(&mut socket, &mut answer).unwrap();
    answer
}
