//! Measures what one group commit costs on this machine: `cargo run --release -p concur-store --example log_speed -- DIRECTORY`.
//! It writes small frames to a fresh log in DIRECTORY, syncing each, and prints the median and the 99th percentile.

use std::time::Instant;

use concur_store::log::{Disk, FileDisk, GroupId, Log, LogOptions};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let directory = std::env::args().nth(1).ok_or("name a directory that does not exist yet")?;
    let disk = FileDisk::open(&directory)?;
    if !disk.list()?.is_empty() {
        return Err(format!("{directory} holds a log").into());
    }
    let started = Instant::now();
    let (mut log, _) = Log::open(disk, LogOptions::default())?;
    println!("created in {:?}, O_DIRECT {}", started.elapsed(), log.disk().is_direct());
    for round in ["first pass", "while recycling"] {
        let mut times = Vec::new();
        for _ in 0..40_000 {
            let begun = Instant::now();
            log.append(GroupId(1), &[7; 300]);
            log.write()?;
            log.sync()?;
            times.push(begun.elapsed());
            if times.len() % 5_000 == 0 {
                log.checkpoint(GroupId(1), [b"everything"]);
            }
        }
        times.sort_unstable();
        let (p50, p99, most) = (times[times.len() / 2], times[times.len() / 100 * 99], times[times.len() - 1]);
        println!("{round}: write and sync p50 {p50:?}, p99 {p99:?}, max {most:?}, {} MiB in use", log.bytes_in_use() >> 20);
    }
    drop(log);
    let started = Instant::now();
    let (_, recovered) = Log::open(FileDisk::open(&directory)?, LogOptions { must_exist: true, ..LogOptions::default() })?;
    let records = recovered.groups.values().map(Vec::len).sum::<usize>();
    println!("opened again in {:?} with {records} records", started.elapsed());
    Ok(())
}
