//! What the servers cost: their CPU time and memory, from `/proc`.
//!
//! On a machine that the generator shares, throughput says as much about the generator as about the servers; the CPU time
//! that the servers spend on one operation does not. The kernel's counters are exact over a window, rounded to a tick of
//! ten milliseconds.
//!
//! What is not here: servers on other machines, and systems without `/proc`.

use std::fs;
use std::path::Path;

use serde::Serialize;

use crate::BenchError;

/// What the server processes used over the measured window.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ServerUse {
    /// The processes.
    pub pids: Vec<u32>,
    /// CPU time of all of them in the window.
    pub cpu_seconds: f64,
    /// CPU time of all of them for one operation.
    pub cpu_us_per_op: f64,
    /// Resident memory of each at the window's end.
    pub resident_mib: Vec<f64>,
}

/// CPU time of some processes at one moment.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Sample {
    cpu_seconds: f64,
}

impl Sample {
    /// Reads the counters of the processes.
    pub(crate) fn of(pids: &[u32]) -> Result<Sample, BenchError> {
        let mut ticks = 0;
        for pid in pids {
            ticks += read(*pid, "stat", cpu_ticks)?;
        }
        Ok(Sample { cpu_seconds: ticks as f64 / rustix::param::clock_ticks_per_second() as f64 })
    }

    /// CPU time since the earlier sample.
    pub(crate) fn seconds_since(&self, earlier: &Sample) -> f64 {
        self.cpu_seconds - earlier.cpu_seconds
    }
}

/// What the processes used between two samples, for that many operations.
pub(crate) fn between(pids: &[u32], earlier: &Sample, later: &Sample, operations: u64) -> Result<ServerUse, BenchError> {
    let cpu_seconds = later.seconds_since(earlier);
    let cpu_us_per_op = cpu_seconds * 1e6 / operations.max(1) as f64;
    Ok(ServerUse { pids: pids.to_vec(), cpu_seconds, cpu_us_per_op, resident_mib: resident_mib(pids)? })
}

/// Resident memory of each process.
pub(crate) fn resident_mib(pids: &[u32]) -> Result<Vec<f64>, BenchError> {
    pids.iter().map(|pid| read(*pid, "status", |text| resident_kib(text).map(|kib| kib as f64 / 1024.0))).collect()
}

/// The processes whose program has that name.
pub(crate) fn pids_named(name: &str) -> Result<Vec<u32>, BenchError> {
    let entries = fs::read_dir("/proc").map_err(|error| BenchError::Failed(format!("/proc cannot be read: {error}")))?;
    let numbers = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let mut pids: Vec<u32> = numbers.filter(|pid| program(*pid).as_deref() == Some(name)).collect();
    pids.retain(|pid| *pid != std::process::id());
    pids.sort_unstable();
    if pids.is_empty() {
        return Err(BenchError::Invalid(format!("no process runs a program named `{name}`")));
    }
    Ok(pids)
}

/// The file name of a process's program, as it was started.
fn program(pid: u32) -> Option<String> {
    let line = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    let first = line.split(|byte| *byte == 0).next().filter(|first| !first.is_empty())?;
    Some(Path::new(std::str::from_utf8(first).ok()?).file_name()?.to_str()?.to_owned())
}

fn read<T>(pid: u32, file: &str, parse: impl Fn(&str) -> Option<T>) -> Result<T, BenchError> {
    let path = format!("/proc/{pid}/{file}");
    let text = fs::read_to_string(&path)
        .map_err(|error| BenchError::Failed(format!("server process {pid} cannot be measured: {path}: {error}")))?;
    parse(&text).ok_or_else(|| BenchError::Failed(format!("server process {pid} cannot be measured: {path} does not read as proc(5) says")))
}

/// User and system time. The program's name, in parentheses, may hold anything, so that the fields are counted after it.
fn cpu_ticks(stat: &str) -> Option<u64> {
    let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace().skip(11);
    Some(fields.next()?.parse::<u64>().ok()? + fields.next()?.parse::<u64>().ok()?)
}

fn resident_kib(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.trim().strip_suffix("kB")?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_time_is_found_behind_any_program_name() {
        let stat = "4121 (a) R 9 (b) S 1 4121 4121 0 -1 4194560 3057 0 12 0 250 125 3 4 20 0 9 0 77 1000 200 18446744073709551615";
        assert_eq!(cpu_ticks(stat), Some(375));
        assert_eq!(cpu_ticks("4121 (a) S 1 2"), None);
        assert_eq!(cpu_ticks(""), None);
    }

    #[test]
    fn resident_memory_is_the_line_that_the_kernel_names_so() {
        assert_eq!(resident_kib("Name:\tx\nVmHWM:\t  9000 kB\nVmRSS:\t  8192 kB\n"), Some(8192));
        assert_eq!(resident_kib("Name:\tkthreadd\n"), None);
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn this_process_can_be_measured() {
        let own = [std::process::id()];
        let earlier = Sample::of(&own).unwrap();
        let usage = between(&own, &earlier, &Sample::of(&own).unwrap(), 0).unwrap();
        assert!(usage.cpu_seconds >= 0.0);
        assert!(usage.resident_mib[0] > 0.5, "{usage:?}");
        assert!(Sample::of(&[u32::MAX]).is_err());
    }
}
