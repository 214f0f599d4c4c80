//! `concur snapshot …` and `concur recover`: a state in a file, a cluster from it, and the last resort.
//!
//! What is saved is checked as it arrives, and has its name only when it is whole and on the disk. Restoring and recovering work on
//! files, while no node runs on them.

use crate::exit::{Exit, Failure, Outcome, Tone, say};
use crate::output::Output;
use crate::reach::{Asked, Link, Reach, client, endpoint, wait};
use crate::serve;
use clap::{Args, Subcommand};
use concur::offline::{self, Forced, OfflineError, Restored, Summary};
use concur::{Member, RunError, System};
use concur_proto::concur::v1::concur_client::ConcurClient;
use concur_proto::concur::v1::{SnapshotPart, SnapshotRequest};
use serde_json::{Value, json};
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

/// Keep the state in a file, and make a cluster from it
#[derive(Debug, Subcommand)]
pub(crate) enum Snapshot {
    /// Write a member's state into a file
    Save(Save),
    /// Check a file, and say what it holds
    Status(Status),
    /// Make the data directory of a new cluster's member from files
    ///
    /// Every member of the new cluster is restored from the same files, each with its own name and directory, and then started with
    /// `concur serve` as it is described here. The new cluster has an identity of its own: members of the old one cannot mix with it.
    Restore(Restore),
}

#[derive(Debug, Args)]
pub(crate) struct Save {
    /// The file to write
    file: PathBuf,
    /// The namespace whose state it is [default: default]
    #[arg(long, env = "CONCUR_NAMESPACE", default_value = "", hide_default_value = true, value_name = "NAME")]
    namespace: String,
    #[command(flatten)]
    reach: Reach,
    #[command(flatten)]
    output: Output,
}

#[derive(Debug, Args)]
pub(crate) struct Status {
    /// The file
    file: PathBuf,
    #[command(flatten)]
    output: Output,
}

#[derive(Debug, Args)]
pub(crate) struct Restore {
    /// Snapshots, one for each namespace that does not begin empty
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// Where the member keeps its data: a directory that does not exist, or is empty [default: NAME.concur]
    #[arg(long, env = "CONCUR_DATA_DIR", value_name = "DIRECTORY")]
    data_dir: Option<PathBuf>,
    /// Which member it is
    #[arg(long, env = "CONCUR_NAME", value_name = "NAME")]
    name: Option<String>,
    /// The description of the system, in TOML, with which the member will be started
    #[arg(long, env = "CONCUR_CONFIG", value_name = "FILE", conflicts_with_all = ["initial_cluster", "initial_advertise_peer_urls"])]
    config: Option<PathBuf>,
    /// All members and where peers reach them
    #[arg(long, env = "CONCUR_INITIAL_CLUSTER", value_name = "NAME=URL,…", value_delimiter = ',')]
    initial_cluster: Vec<String>,
    /// Where peers reach it, if it is alone
    #[arg(long, env = "CONCUR_INITIAL_ADVERTISE_PEER_URLS", value_parser = endpoint, value_name = "URL")]
    initial_advertise_peer_urls: Option<String>,
    /// Tells clusters apart that have the same members
    #[arg(long, env = "CONCUR_INITIAL_CLUSTER_TOKEN", value_name = "TEXT")]
    initial_cluster_token: Option<String>,
    /// How replicas will vote, as `concur strategies` names it; for a member without a file
    #[arg(long, env = "CONCUR_STRATEGY", value_name = "NAME", conflicts_with = "config")]
    strategy: Option<String>,
    #[command(flatten)]
    output: Output,
}

/// The last resort: make one node the whole cluster, after its quorum was lost for good
///
/// Works on the data directory of a node that does not run. What the lost members had acknowledged and this node never saw is gone.
#[derive(Debug, Args)]
pub(crate) struct Recover {
    /// Make this node the only member of each of its namespaces
    #[arg(long, env = "CONCUR_FORCE_NEW_CLUSTER", required = true)]
    force_new_cluster: bool,
    /// The node's data directory
    #[arg(long, env = "CONCUR_DATA_DIR", value_name = "DIRECTORY")]
    data_dir: PathBuf,
    /// Do it: what may be lost is understood
    #[arg(long, env = "CONCUR_YES")]
    yes: bool,
    #[command(flatten)]
    output: Output,
}

impl Snapshot {
    pub(crate) fn run(self) -> Outcome {
        match self {
            Self::Save(save) => save.run(),
            Self::Status(status) => status.run(),
            Self::Restore(restore) => restore.run(),
        }
    }
}

impl Save {
    fn run(self) -> Outcome {
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

impl Status {
    fn run(self) -> Outcome {
        let file = File::open(&self.file).map_err(|error| unreadable(&self.file, &error))?;
        let bytes = file.metadata().map_err(|error| unreadable(&self.file, &error))?.len();
        let summary = offline::examine(file).map_err(|error| Failure::new(Exit::Invalid, format!("{}: {error}", self.file.display())))?;
        self.output.show(&value(&summary, &self.file, bytes), |_| {
            let namespace = namespace_of(&summary).map(|name| format!("   {name}")).unwrap_or_default();
            format!("{} is whole{namespace}   {}\n{}", self.file.display(), figures(&summary, bytes), rest(&summary))
        })
    }
}

impl Restore {
    fn run(self) -> Outcome {
        let system = self.system()?;
        let name = match (&self.name, &system.members[..]) {
            (Some(name), _) => name.clone(),
            (None, [only]) => only.name.clone(),
            (None, _) => return Err(Failure::new(Exit::Usage, "which member is this? Name it with --name")),
        };
        let restored = system.restore(&name, self.data_dir.clone(), &self.files).map_err(failure)?;
        let data_dir = self.data_dir.clone().unwrap_or_else(|| system.data_dir_of(&name));
        let value = json!({
            "name": name,
            "data_dir": data_dir.display().to_string(),
            "namespaces": restored.iter().map(restored_value).collect::<Vec<_>>(),
        });
        self.output.show(&value, |_| restored_text(&name, &data_dir, &restored))
    }

    /// The system that is to go on from the files.
    fn system(&self) -> Outcome<System> {
        let mut system = match &self.config {
            Some(file) => serve::system_of_file(file)?,
            None => {
                let mut members = serve::members_of(&self.initial_cluster)?;
                if members.is_empty() {
                    let peer = self.initial_advertise_peer_urls.as_deref().unwrap_or("127.0.0.1:2380");
                    members.push(Member::new(self.name.as_deref().unwrap_or("default"), peer, ""));
                }
                let decision_making = serve::decision_making_of(self.strategy.as_deref())?;
                System { quorum_size: members.len(), members, decision_making, data_dir: PathBuf::new(), ..System::default() }
            }
        };
        if let Some(token) = &self.initial_cluster_token {
            system.cluster_token.clone_from(token);
        }
        Ok(system)
    }
}

const AT_STAKE: &str = "\
this makes one node the whole of its cluster, without asking anybody. It is for a cluster whose quorum is lost for good, and only then:
- what the lost members had acknowledged and this node never saw is gone, and nobody can tell which writes those are
- a member that is lost and comes back with its old data would go on by itself, beside this one: two histories under one name
If a quorum can be brought back, or one lost member's data directory can, do that instead: nothing is lost then. If another node survived
too, compare `concur status` of each, and take the one whose revision is highest. Copy the data directory first";

impl Recover {
    pub(crate) fn run(self) -> Outcome {
        if !self.yes {
            let what = format!("nothing was done; {AT_STAKE}. Then say --yes as well");
            return Err(Failure::new(Exit::Usage, what));
        }
        say(Tone::Note, AT_STAKE);
        let forced = offline::go_on_alone(&self.data_dir, concur::find).map_err(|error| failure(error.into()))?;
        let value = json!({
            "data_dir": self.data_dir.display().to_string(),
            "namespaces": forced.iter().map(forced_value).collect::<Vec<_>>(),
        });
        self.output.show(&value, |_| forced_text(&self.data_dir, &forced))
    }
}

fn failure(error: RunError) -> Failure {
    let exit = match &error {
        RunError::Offline(OfflineError::Node(_)) | RunError::Node { .. } | RunError::Io { .. } => Exit::Failure,
        RunError::Offline(_) | RunError::Invalid(_) | RunError::NoSuchMember { .. } | RunError::NoAddress { .. } => Exit::Invalid,
    };
    Failure::new(exit, error.to_string())
}

fn cannot(what: &str, path: &Path, error: &std::io::Error) -> Failure {
    Failure::new(Exit::Failure, format!("cannot {what} {}: {error}", path.display()))
}

fn unreadable(path: &Path, error: &std::io::Error) -> Failure {
    Failure::new(Exit::Invalid, format!("cannot read {}: {error}", path.display()))
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

fn namespace_of(summary: &Summary) -> Option<&'static str> {
    (summary.group.0 == 0).then_some("default")
}

fn figures(summary: &Summary, bytes: u64) -> String {
    format!("revision {}   epoch {}   {} entries   {bytes} bytes", summary.revision, summary.configuration.epoch.0, summary.entries)
}

fn names(configuration: &concur_peers::Configuration) -> String {
    configuration.members.iter().map(|member| format!("{} ({})", member.name, member.role.word())).collect::<Vec<_>>().join(", ")
}

fn rest(summary: &Summary) -> String {
    let Summary { cluster, node, group, configuration, order, hash, .. } = summary;
    format!(
        "of cluster {cluster:x}, made by {node:x}, group {:x}, ordered {order}, hash {hash:016x}\n{}: {}\n",
        group.0,
        configuration.strategy,
        names(configuration)
    )
}

fn value(summary: &Summary, file: &Path, bytes: u64) -> Value {
    json!({
        "file": file.display().to_string(),
        "namespace": namespace_of(summary),
        "group": format!("{:x}", summary.group.0),
        "revision": summary.revision,
        "epoch": summary.configuration.epoch.0,
        "entries": summary.entries,
        "bytes": bytes,
        "hash": format!("{:016x}", summary.hash),
        "cluster": format!("{:x}", summary.cluster),
        "node": format!("{:x}", summary.node),
        "strategy": summary.configuration.strategy,
        "order": summary.order,
        "logged_ms": summary.logged_ms,
        "members": summary.configuration.members.iter().map(|member| &member.name).collect::<Vec<_>>(),
    })
}

fn restored_value(restored: &Restored) -> Value {
    json!({
        "namespace": restored.namespace,
        "revision": restored.from.as_ref().map(|summary| summary.revision),
        "epoch_before": restored.from.as_ref().map(|summary| summary.configuration.epoch.0),
        "epoch": restored.after.epoch.0,
        "strategy": restored.after.strategy,
        "members": restored.after.members.iter().map(|member| &member.name).collect::<Vec<_>>(),
    })
}

fn restored_text(name: &str, data_dir: &Path, restored: &[Restored]) -> String {
    let mut text = format!("{name} is restored in {}\n", data_dir.display());
    for Restored { namespace, from, after } in restored {
        text += &match from {
            Some(summary) => {
                let (before, epoch) = (summary.configuration.epoch.0, after.epoch.0);
                format!("{namespace}: revision {}, epoch {before} → {epoch}, {}: {}\n", summary.revision, after.strategy, names(after))
            }
            None => format!("{namespace}: empty\n"),
        };
    }
    text + "next: restore every other member from the same files, and start them all with `concur serve`, described as here\n"
}

fn forced_value(forced: &Forced) -> Value {
    json!({
        "group": format!("{:x}", forced.group.0),
        "epoch_before": forced.before.epoch.0,
        "epoch": forced.after.epoch.0,
        "revision_kept": forced.kept_revision,
        "revision": forced.revision,
        "strategy": forced.after.strategy,
        "members_before": forced.before.members.iter().map(|member| &member.name).collect::<Vec<_>>(),
        "members": forced.after.members.iter().map(|member| &member.name).collect::<Vec<_>>(),
    })
}

fn forced_text(data_dir: &Path, forced: &[Forced]) -> String {
    let mut text = String::new();
    for Forced { group, before, after, revision, kept_revision } in forced {
        let namespace = if group.0 == 0 { "default".to_owned() } else { format!("namespace {:x}", group.0) };
        let epochs = format!("epoch {} → {}", before.epoch.0, after.epoch.0);
        text += &format!("{namespace}: {epochs}, {} → {}\n", names(before), names(after));
        let from_log =
            if kept_revision < revision { format!(", of which {kept_revision} was kept and the rest in the log") } else { String::new() };
        text += &format!("{namespace}: it goes on at revision {revision}{from_log}\n");
    }
    let name = forced.first().and_then(|forced| forced.after.members.first()).map_or("NAME", |member| &member.name);
    text + &format!(
        "next: start {name} on {} as before (concur serve); add members again with `concur member add`, each with an empty data directory.\n\
         Never start the others on their old directories: delete those, or put them away\n",
        data_dir.display()
    )
}
