//! Durable means durable: the disk synchronisations of a cluster, counted by `strace`.
//!
//! Each node of one short extra run starts under `strace`, which writes a line for every `fsync` and `fdatasync` with the
//! time at which it began and how long it took. Lines within the measured window are counted; a system that acknowledges
//! writes without any is found out. Tracing costs time, so this run's throughput is not quoted.
//!
//! What is not here: writes made durable by other means (`O_DSYNC`, `io_uring`), which would have to be traced by name.

use std::path::Path;
use std::process::{Command, Stdio};

use serde::Serialize;

use crate::ratios::median;

/// Synchronisations of one system in the traced run.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct SyncCount {
    /// Puts answered in the window.
    pub puts: u64,
    /// `fsync` and `fdatasync` calls that succeeded in the window, over all nodes.
    pub syncs: u64,
    /// Puts that one synchronisation carried on average, every put being carried once on every node.
    pub puts_per_sync: f64,
    /// The median time that one took, in microseconds.
    pub sync_p50_us: f64,
}

/// The command in front of a node's own that traces its synchronisations into that file. The tracer is a grandchild, so
/// that the node stays the child that was started.
pub(crate) fn tracer(trace: &Path) -> Vec<String> {
    let mut command: Vec<String> =
        ["strace", "-D", "-f", "--seccomp-bpf", "-ttt", "-T", "-e", "trace=fdatasync,fsync", "-o"].map(str::to_owned).into();
    command.push(trace.display().to_string());
    command
}

/// Whether a process can be traced here.
pub(crate) fn is_possible() -> bool {
    let mut command = Command::new("strace");
    command.args(["-f", "--seccomp-bpf", "-e", "trace=fdatasync,fsync", "-o", "/dev/null", "true"]);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok_and(|status| status.success())
}

/// One synchronisation that succeeded.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Sync {
    /// Seconds since 1970: when it began, or, for one that another thread's line interrupted, when it ended.
    at: f64,
    took_us: f64,
}

/// Counts what the traces of a cluster's nodes hold within the window.
pub(crate) fn count<'a>(traces: impl IntoIterator<Item = &'a str>, window: (f64, f64), puts: u64) -> SyncCount {
    let mut nodes = 0;
    let lines = traces.into_iter().inspect(|_| nodes += 1).flat_map(str::lines);
    let all = lines.filter_map(parse);
    let took_us: Vec<f64> = all.filter(|sync| (window.0..window.1).contains(&sync.at)).map(|sync| sync.took_us).collect();
    let syncs = took_us.len() as u64;
    SyncCount { puts, syncs, puts_per_sync: (puts * nodes) as f64 / syncs.max(1) as f64, sync_p50_us: median(took_us).unwrap_or(0.0) }
}

/// A line such as `4121  1700000000.000100 fdatasync(7) = 0 <0.000123>` or
/// `4121  1700000000.000300 <... fdatasync resumed>) = 0 <0.000123>`.
fn parse(line: &str) -> Option<Sync> {
    let mut words = line.split_ascii_whitespace();
    let at = words.nth(1)?.parse().ok()?;
    let call =
        line.contains("fsync(") || line.contains("fdatasync(") || line.contains("fsync resumed>") || line.contains("fdatasync resumed>");
    let took = line.rsplit_once(") = 0 <").or_else(|| line.rsplit_once("= 0 <"))?.1.strip_suffix('>')?;
    call.then_some(Sync { at, took_us: took.parse::<f64>().ok()? * 1e6 })
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRACE: &str = "\
12 1700000000.000100 fdatasync(7)          = 0 <0.000100>
13 1700000001.000000 fdatasync(8 <unfinished ...>
12 1700000001.000200 fsync(7) = 0 <0.000300>
13 1700000001.000400 <... fdatasync resumed>) = 0 <0.000500>
12 1700000001.500000 fsync(7) = -1 EIO (Input/output error) <0.000300>
12 1700000002.000000 fsync(7) = 0 <0.000300>
12 1700000001.600000 --- SIGURG {si_signo=SIGURG} ---
12 1700000002.100000 +++ killed by SIGKILL +++
";

    #[test]
    fn completed_synchronisations_within_the_window_count() {
        let counted = count([TRACE], (1_700_000_000.0, 1_700_000_002.0), 30);
        assert_eq!((counted.syncs, counted.puts), (3, 30));
        assert_eq!(counted.puts_per_sync, 10.0);
        assert!((counted.sync_p50_us - 300.0).abs() < 1e-6, "{counted:?}");
        let both = count([TRACE, TRACE], (1_700_000_001.0, 1_700_000_002.0), 30);
        assert_eq!((both.syncs, both.puts_per_sync), (4, 15.0));
    }

    #[test]
    fn a_node_that_never_synchronised_is_seen() {
        assert_eq!(count(["", "garbage\n"], (0.0, f64::MAX), 5), SyncCount { puts: 5, syncs: 0, puts_per_sync: 10.0, sync_p50_us: 0.0 });
    }
}
