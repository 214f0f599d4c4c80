//! `concur snapshot save`: a member's state into a file, in either format, checked before it has its name.

use super::cannot;
use super::show::{self, figures, rest, value};
use crate::exit::{Exit, Failure, Outcome, Tone, say};
use crate::output::Output;
use crate::reach::{Asked, Link, Reach, client, wait};
use clap::{Args, ValueEnum};
use concur::offline::{self, EtcdSummary, FileOptions, Held, Summary};
use concur_proto::concur::v1::concur_client::ConcurClient;
use concur_proto::concur::v1::{SnapshotPart, SnapshotRequest};
use concur_proto::etcdserverpb::{self, maintenance_client::MaintenanceClient};
use std::fs::File;
use std::io::{IsTerminal, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::{Duration, Instant};
use tonic::Streaming;

/// Parts that have arrived and are not yet on the disk.
const PARTS_MAX: usize = 4;
/// How often a terminal is told how far it is.
const PROGRESS_INTERVAL: Duration = Duration::from_millis(200);

#[derive(Debug, Args)]
pub(crate) struct Save {
    /// The file to write
    file: PathBuf,
    /// How the file is written: as Concur's own, or as etcd's, from which etcd is restored too
    #[arg(long = "format", env = "CONCUR_SNAPSHOT_FORMAT", value_enum, default_value = "concur", value_name = "FORMAT")]
    file_format: Format,
    /// The namespace whose state it is [default: default]
    #[arg(long, env = "CONCUR_NAMESPACE", default_value = "", hide_default_value = true, value_name = "NAME")]
    namespace: String,
    #[command(flatten)]
    reach: Reach,
    #[command(flatten)]
    output: Output,
}

/// How a file is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    Concur,
    Etcd,
}

impl Save {
    pub(super) fn run(self) -> Outcome {
        match self.file_format {
            Format::Concur => self.run_concur(),
            Format::Etcd => self.run_etcd(),
        }
    }

    fn run_concur(self) -> Outcome {
        wait(async move {
            let link = self.reach.connect().await?;
            let mut client = client!(ConcurClient, link);
            let parts = link.answer(Asked::Read, client.snapshot(SnapshotRequest { namespace: self.namespace.clone() })).await?;
            let temporary = beside(&self.file);
            let written = write_checked(&link, parts, &temporary).await;
            if written.is_err() {
                drop(std::fs::remove_file(&temporary));
            }
            let (summary, bytes) = written?;
            put_in_place(&temporary, &self.file)?;
            let namespace = if self.namespace.is_empty() { "default" } else { &self.namespace };
            let mut value = value(&summary, &self.file, bytes);
            value["namespace"] = namespace.into();
            value["asked"] = link.endpoint.clone().into();
            self.output.show(&value, |wide| {
                let file = self.file.display();
                format!("{file}   {namespace}   {}\n{}", figures(&summary, bytes), if wide { rest(&summary) } else { String::new() })
            })
        })
    }

    /// etcd's file holds the namespace that etcd's clients are served.
    fn run_etcd(self) -> Outcome {
        if !self.namespace.is_empty() {
            return Err(Failure::new(
                Exit::Usage,
                "a file of etcd's holds the namespace that etcd's clients are served: leave --namespace out",
            ));
        }
        wait(async move {
            let link = self.reach.connect().await?;
            let mut client = client!(MaintenanceClient, link);
            let parts = link.answer(Asked::Read, client.snapshot(etcdserverpb::SnapshotRequest {})).await?;
            let temporary = beside(&self.file);
            let written = write_etcd(&link, parts, &temporary).await;
            if written.is_err() {
                drop(std::fs::remove_file(&temporary));
            }
            let (summary, bytes) = written?;
            put_in_place(&temporary, &self.file)?;
            let mut value = show::etcd_value(&summary, &self.file, bytes);
            value["asked"] = link.endpoint.clone().into();
            self.output.show(&value, |_| format!("{}   {}\n", self.file.display(), show::etcd_figures(&summary, bytes)))
        })
    }
}

/// Takes a file of etcd's as it comes, and checks it when it is whole.
async fn write_etcd(link: &Link, mut parts: Streaming<etcdserverpb::SnapshotResponse>, path: &Path) -> Outcome<(EtcdSummary, u64)> {
    let mut file = File::create(path).map_err(|error| cannot("write", path, &error))?;
    let (mut progress, mut bytes) = (Progress::start(), 0);
    loop {
        let part = tokio::time::timeout(link.timeout, parts.message()).await;
        let part = part.unwrap_or_else(|_| Err(tonic::Status::deadline_exceeded("the next part does not come")));
        match part {
            Ok(Some(part)) => {
                progress.add(part.blob.len());
                bytes += part.blob.len() as u64;
                file.write_all(&part.blob).map_err(|error| cannot("write", path, &error))?;
            }
            Ok(None) => break,
            Err(status) => return Err(link.failure(Asked::Read, &status).await),
        }
    }
    drop(progress);
    file.sync_all().map_err(|error| cannot("sync", path, &error))?;
    match offline::look(path, FileOptions::default()) {
        Ok(Held::Etcd(summary)) => Ok((summary, bytes)),
        Ok(Held::Concur(_)) => Err(Failure::new(Exit::Failure, format!("what {} sent is not a file of etcd's", link.endpoint))),
        Err(error) => Err(Failure::new(Exit::Failure, format!("what {} sent cannot be kept: {error}", link.endpoint))),
    }
}

/// Takes a snapshot's parts into a file, and checks them as they come.
async fn write_checked(link: &Link, mut parts: Streaming<SnapshotPart>, path: &Path) -> Outcome<(Summary, u64)> {
    let file = File::create(path).map_err(|error| cannot("write", path, &error))?;
    let (sender, receiver) = sync_channel(PARTS_MAX);
    let checking = tokio::task::spawn_blocking(move || {
        let mut arriving = Arriving { parts: receiver, part: bytes::Bytes::new(), file, bytes: 0 };
        let summary = offline::examine(&mut arriving);
        (summary, arriving.bytes, arriving.file)
    });
    let came = forward(link, &mut parts, sender).await;
    let (summary, bytes, file) = checking.await.map_err(|error| Failure::new(Exit::Failure, error.to_string()))?;
    // A stream that broke off is the cause, and that the file ends early its effect.
    came?;
    let summary = summary.map_err(|error| Failure::new(Exit::Failure, format!("what {} sent cannot be kept: {error}", link.endpoint)))?;
    file.sync_all().map_err(|error| cannot("sync", path, &error))?;
    Ok((summary, bytes))
}

async fn forward(link: &Link, parts: &mut Streaming<SnapshotPart>, sender: SyncSender<bytes::Bytes>) -> Outcome {
    let (mut progress, mut behind) = (Progress::start(), false);
    loop {
        let part = tokio::time::timeout(link.timeout, parts.message()).await;
        let part = part.unwrap_or_else(|_| Err(tonic::Status::deadline_exceeded("the next part does not come")));
        match part {
            Ok(Some(part)) => {
                behind |= !part.caught_up;
                progress.add(part.payload.len());
                // Waits for the disk, with nothing else to do. Whoever checks takes no more once something is wrong, and says what.
                if sender.send(part.payload).is_err() {
                    return Ok(());
                }
            }
            Ok(None) if behind => {
                let who = &link.endpoint;
                say(
                    Tone::Note,
                    &format!("{who} could not ask the others how far they are: what it had executed is saved, which may not be all"),
                );
                return Ok(());
            }
            Ok(None) => return Ok(()),
            Err(status) => return Err(link.failure(Asked::Read, &status).await),
        }
    }
}

/// A snapshot as it arrives: what is read from it is in the file.
struct Arriving {
    parts: Receiver<bytes::Bytes>,
    part: bytes::Bytes,
    file: File,
    bytes: u64,
}

impl Read for Arriving {
    fn read(&mut self, into: &mut [u8]) -> std::io::Result<usize> {
        while self.part.is_empty() {
            let Ok(part) = self.parts.recv() else { return Ok(0) };
            self.file.write_all(&part)?;
            self.bytes += part.len() as u64;
            self.part = part;
        }
        let count = into.len().min(self.part.len());
        into[..count].copy_from_slice(&self.part.split_to(count));
        Ok(count)
    }
}

/// How far a long transfer is, for a person at a terminal.
struct Progress {
    began: Instant,
    told: Instant,
    bytes: usize,
    shown: bool,
}

impl Progress {
    fn start() -> Self {
        Self { began: Instant::now(), told: Instant::now(), bytes: 0, shown: false }
    }

    fn add(&mut self, bytes: usize) {
        self.bytes += bytes;
        if self.told.elapsed() >= PROGRESS_INTERVAL && std::io::stderr().is_terminal() {
            let mib = self.bytes as f64 / f64::from(1 << 20);
            eprint!("\r{mib:.1} MiB   {:.1} MiB/s ", mib / self.began.elapsed().as_secs_f64());
            (self.told, self.shown) = (Instant::now(), true);
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if self.shown {
            eprintln!();
        }
    }
}

/// Where a file is written before it has its name.
fn beside(file: &Path) -> PathBuf {
    let mut name = file.file_name().unwrap_or_default().to_owned();
    name.push(".part");
    file.with_file_name(name)
}

fn put_in_place(temporary: &Path, file: &Path) -> Outcome {
    std::fs::rename(temporary, file).map_err(|error| cannot("give its name to", file, &error))?;
    let directory = file.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(directory).and_then(|directory| directory.sync_all()).map_err(|error| cannot("sync", directory, &error))
}
