//! What the kernel says of this process, under the names that every exporter has for it.

use std::sync::atomic::AtomicU64;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

/// Ticks of a second in `/proc`, on every platform that Linux runs on.
const TICKS: f64 = 100.0;

/// What is read when the page is asked for.
#[derive(Debug, Default)]
pub(super) struct Process {
    resident: Gauge<u64, AtomicU64>,
    virtual_size: Gauge<u64, AtomicU64>,
    descriptors: Gauge<u64, AtomicU64>,
    descriptors_max: Gauge<u64, AtomicU64>,
    started: Gauge<f64, AtomicU64>,
    cpu: Counter<f64, AtomicU64>,
}

impl Process {
    pub(super) fn register(&self, registry: &mut Registry) {
        registry.register("process_resident_memory_bytes", "Memory of the process", self.resident.clone());
        registry.register("process_virtual_memory_bytes", "Address space of the process", self.virtual_size.clone());
        registry.register("process_open_fds", "Open descriptors of the process", self.descriptors.clone());
        registry.register("process_max_fds", "Descriptors that the process may open", self.descriptors_max.clone());
        registry.register("os_fd_used", "Open descriptors of the process", self.descriptors.clone());
        registry.register("os_fd_limit", "Descriptors that the process may open", self.descriptors_max.clone());
        registry.register("process_start_time_seconds", "When the process started, since 1970", self.started.clone());
        registry.register("process_cpu_seconds", "Time on processors, in programs and in the kernel", self.cpu.clone());
    }

    pub(super) fn look(&self) {
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        self.resident.set(bytes(&status, "VmRSS:"));
        self.virtual_size.set(bytes(&status, "VmSize:"));
        self.descriptors.set(std::fs::read_dir("/proc/self/fd").map_or(0, |open| open.count() as u64));
        let limits = std::fs::read_to_string("/proc/self/limits").unwrap_or_default();
        self.descriptors_max
            .set(after(&limits, "Max open files").and_then(|rest| rest.split_whitespace().next()?.parse().ok()).unwrap_or(0));
        let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
        // The name, in brackets, may hold spaces.
        let fields: Vec<f64> = stat.rsplit(')').next().unwrap_or("").split_whitespace().map(|field| field.parse().unwrap_or(0.0)).collect();
        let ticks = |field: usize| fields.get(field - 3).copied().unwrap_or(0.0) / TICKS;
        let cpu = ticks(14) + ticks(15);
        self.cpu.inc_by((cpu - self.cpu.get()).max(0.0));
        let system = std::fs::read_to_string("/proc/stat").unwrap_or_default();
        let booted: f64 = after(&system, "btime").and_then(|rest| rest.trim().parse().ok()).unwrap_or(0.0);
        self.started.set(booted + ticks(22));
    }
}

/// What stands behind a name on its line.
fn after<'t>(text: &'t str, name: &str) -> Option<&'t str> {
    text.lines().find_map(|line| line.strip_prefix(name))
}

fn bytes(status: &str, name: &str) -> u64 {
    let kilobytes = after(status, name).and_then(|rest| rest.trim().trim_end_matches("kB").trim().parse::<u64>().ok());
    kilobytes.unwrap_or(0) << 10
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg(target_os = "linux")]
    fn the_kernel_is_understood() {
        let process = Process::default();
        process.look();
        assert!(process.resident.get() > 1 << 20 && process.virtual_size.get() >= process.resident.get());
        assert!(process.descriptors.get() >= 3 && process.descriptors_max.get() >= process.descriptors.get());
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs_f64();
        assert!(process.started.get() > 1e9 && process.started.get() < now + 10.0, "{}", process.started.get());
    }
}
