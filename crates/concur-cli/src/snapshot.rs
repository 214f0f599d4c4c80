//! `concur snapshot …` and `concur recover`: a state in a file, a cluster from it, and the last resort.
//!
//! What is saved is checked as it arrives, and has its name only when it is whole and on the disk. Restoring and recovering work on
//! files, while no node runs on them.

mod save;
mod show;

use crate::exit::{Exit, Failure, Outcome, Tone, say};
use crate::output::Output;
use crate::reach::endpoint;
use crate::serve;
use clap::{Args, Subcommand};
use concur::offline::{self, FileOptions, Held, OfflineError};
use concur::{Member, RunError, System};
use save::Save;
use serde_json::json;
use show::{figures, forced_text, forced_value, namespace_of, rest, restored_text, restored_value, value};
use std::path::{Path, PathBuf};

/// Keep the state in a file, and make a cluster from it
#[derive(Debug, Subcommand)]
pub(crate) enum Snapshot {
    /// Write a member's state into a file
    Save(Save),
    /// Check a file, and say what it holds
    Status(Status),
    /// Make the data directory of a new cluster's member from files
    ///
    /// A file is one of Concur's own, or one that etcd sent (`etcdctl snapshot save`): what it is, it says itself. Every member of the new cluster is restored from the same files, each with its own name and directory, and then started with
    /// `concur serve` as it is described here. The new cluster has an identity of its own: members of the old one cannot mix with it.
    Restore(Restore),
}

#[derive(Debug, Args)]
pub(crate) struct Status {
    /// The file
    file: PathBuf,
    /// Do not compare the SHA-256 behind a file of etcd's: one that was copied from a data directory has none
    #[arg(long, env = "CONCUR_SKIP_HASH_CHECK")]
    skip_hash_check: bool,
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
    /// Do not compare the SHA-256 behind a file of etcd's: one that was copied from a data directory has none
    #[arg(long, env = "CONCUR_SKIP_HASH_CHECK")]
    skip_hash_check: bool,
    /// Go on from a file of etcd's at a revision so much higher, so that clients which saw later ones never see one twice
    #[arg(
        long,
        env = "CONCUR_BUMP_REVISION",
        value_name = "COUNT",
        default_value = "0",
        hide_default_value = true,
        requires = "mark_compacted"
    )]
    bump_revision: u64,
    /// Compact everything before the raised revision, so that watches from before it end
    #[arg(long, env = "CONCUR_MARK_COMPACTED", requires = "bump_revision")]
    mark_compacted: bool,
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

impl Status {
    fn run(self) -> Outcome {
        let bytes = std::fs::metadata(&self.file).map_err(|error| unreadable(&self.file, &error))?.len();
        let options = FileOptions { skip_hash: self.skip_hash_check, ..FileOptions::default() };
        let held = offline::look(&self.file, options).map_err(|error| Failure::new(Exit::Invalid, error.to_string()))?;
        let file = self.file.display();
        match &held {
            Held::Concur(summary) => self.output.show(&value(summary, &self.file, bytes), |_| {
                let namespace = namespace_of(summary).map(|name| format!("   {name}")).unwrap_or_default();
                format!("{file} is whole{namespace}   {}\n{}", figures(summary, bytes), rest(summary))
            }),
            Held::Etcd(summary) => self.output.show(&show::etcd_value(summary, &self.file, bytes), |_| {
                format!("{file} is whole   {}\n{}", show::etcd_figures(summary, bytes), show::etcd_rest(summary))
            }),
        }
    }
}

impl Restore {
    fn run(self) -> Outcome {
        let system = self.system()?;
        let taken = FileOptions { skip_hash: self.skip_hash_check, raise: self.bump_revision };
        let name = match (&self.name, &system.members[..]) {
            (Some(name), _) => name.clone(),
            (None, [only]) => only.name.clone(),
            (None, _) => return Err(Failure::new(Exit::Usage, "which member is this? Name it with --name")),
        };
        let restored = system.restore(&name, self.data_dir.clone(), &self.files, taken).map_err(failure)?;
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
