//! What is done to files while no node runs on them: a snapshot is looked through, data directories are made from snapshots, and a
//! node that lost its quorum for good is made the whole of its groups.
//!
//! A snapshot is one of Concur's own or etcd's file: what it is, its first bytes tell. All three put a state at the start of an epoch far above the one in which it was made: what anybody who was left behind says is of an
//! earlier one.
//!
//! Not here: anything that is decided. Whoever does this answers for what is lost.

mod alone;
mod etcd;
mod snapshot;

pub use crate::etcd_file::{FileError, FileOptions, Summary as EtcdSummary};
pub use alone::{Forced, go_on_alone};
pub use snapshot::{Held, Restored, Summary, examine, look, restore};

use crate::node::NodeError;
use concur_store::dir::DirError;
use concur_store::engine::EngineError;
use concur_store::snapshot::SnapshotError;
use std::path::PathBuf;

/// By how much a forced epoch lies above the one before.
const FORCED_EPOCHS: u64 = 1000;
const CACHE_BYTES: usize = 16 << 20;

/// Why it was not done. Each says what to do.
#[derive(Debug, thiserror::Error)]
pub enum OfflineError {
    /// The node's files cannot be used.
    #[error(transparent)]
    Node(#[from] NodeError),
    /// The snapshot cannot be used.
    #[error("{}: {error}", path.display())]
    Snapshot {
        /// The file.
        path: PathBuf,
        /// Why.
        error: SnapshotError,
    },
    /// The file that etcd made cannot be used.
    #[error("{}: {error}", path.display())]
    Etcd {
        /// The file.
        path: PathBuf,
        /// Why.
        error: FileError,
    },
    /// Only a file of etcd's is gone on from at another revision.
    #[error("{} is a snapshot of Concur's own, and its revision is not raised: leave --bump-revision out", path.display())]
    NotRaised {
        /// The file.
        path: PathBuf,
    },
    /// There is something where a directory is to be made.
    #[error(
        "{} is there already and is not empty. A node that votes with data of two histories would break its promises: name a directory that \
         does not exist, or move this one away",
        path.display()
    )]
    Used {
        /// The directory.
        path: PathBuf,
    },
    /// A snapshot of a namespace that the system does not have.
    #[error(
        "{} is of the namespace with number {group:016x}, and the system has {namespaces}. Describe that namespace too, or leave the file out",
        path.display()
    )]
    NoNamespace {
        /// The file.
        path: PathBuf,
        /// The group.
        group: u64,
        /// Those that there are.
        namespaces: String,
    },
    /// Two snapshots of one namespace.
    #[error("{} and {} are of one namespace; name the one that is to count", first.display(), second.display())]
    Twice {
        /// One.
        first: PathBuf,
        /// The other.
        second: PathBuf,
    },
    /// The namespace was ordered otherwise.
    #[error(
        "{}: the store was ordered {found} and `{namespace}` is described as ordered {wanted}, whose revisions mean other things. Describe it \
         with `order = \"{found}\"` and a strategy that has it",
        path.display()
    )]
    OtherOrder {
        /// The file.
        path: PathBuf,
        /// The namespace.
        namespace: String,
        /// How it was ordered.
        found: &'static str,
        /// How it is to be.
        wanted: &'static str,
    },
    /// A directory whose node never came so far.
    #[error("{} holds no executed state: there is nothing to go on from", path.display())]
    Nothing {
        /// The directory.
        path: PathBuf,
    },
}

impl From<DirError> for OfflineError {
    fn from(error: DirError) -> Self {
        Self::Node(error.into())
    }
}

impl From<EngineError> for OfflineError {
    fn from(error: EngineError) -> Self {
        Self::Node(error.into())
    }
}

/// How a store orders, in the words of the configuration.
fn order_word(order: concur_kv::Ordering) -> &'static str {
    match order {
        concur_kv::Ordering::Total => "total",
        concur_kv::Ordering::PerKey => "per-key",
    }
}
