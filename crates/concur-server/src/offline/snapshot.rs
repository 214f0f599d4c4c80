//! Snapshot files: what one holds, and the data directory of a member of a cluster that begins from some.
//!
//! Every member of the new cluster is made from the same files. They come to the same identity, that of no cluster before, since it
//! follows from what the files hold as well as from the members' names and the token.

use super::{CACHE_BYTES, EtcdSummary, FORCED_EPOCHS, FileOptions, OfflineError, etcd, order_word};
use crate::node::{GroupOptions, NodeError, NodeOptions, files, io, random, stored_id};
use bytes::Bytes;
use concur_core::{Corrupt, Epoch, GroupId, Ordering};
use concur_kv::image_summary;
use concur_peers::Configuration;
use concur_replica::{configuration_of, is_of_replica, logged_ms_of, machine_key, stand_elsewhere};
use concur_store::dir::{DataDir, Owner};
use concur_store::engine::{Bulk, Engine, RedbEngine};
use concur_store::snapshot::{SnapshotError, SnapshotReader};
use std::fs::File;
use std::io::{BufReader, ErrorKind, Read};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

/// One part of an installed state.
pub(super) const PART_BYTES: usize = 1 << 20;
const READ_BYTES: usize = 256 << 10;

/// What a snapshot holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Summary {
    /// The cluster.
    pub cluster: u64,
    /// The node that made it.
    pub node: u64,
    /// The group.
    pub group: GroupId,
    /// Who was in, and by which strategy.
    pub configuration: Configuration,
    /// How the store orders.
    pub order: &'static str,
    /// The store's revision.
    pub revision: i64,
    /// The logged time at which it was made.
    pub logged_ms: u64,
    /// Entries of the state.
    pub entries: u64,
    /// Bytes of their keys and values.
    pub bytes: u64,
    /// A hash of everything in it.
    pub hash: u64,
    /// The entries that are not the store's.
    head: Vec<(Bytes, Bytes)>,
}

/// What a file holds, of either kind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Held {
    /// A snapshot of Concur's own.
    Concur(Summary),
    /// etcd's file.
    Etcd(EtcdSummary),
}

impl Held {
    /// The store's revision.
    pub fn revision(&self) -> i64 {
        match self {
            Self::Concur(summary) => summary.revision,
            Self::Etcd(summary) => summary.revision,
        }
    }

    /// The epoch in which it was made; none if no epoch was.
    pub fn epoch(&self) -> Option<Epoch> {
        match self {
            Self::Concur(summary) => Some(summary.configuration.epoch),
            Self::Etcd(_) => None,
        }
    }

    /// A number that tells files apart, and clusters that made equal ones.
    fn described(&self) -> u64 {
        match self {
            Self::Concur(summary) => summary.hash ^ summary.cluster,
            Self::Etcd(summary) => summary.hash,
        }
    }

    /// The logged time at which it was made, if it says.
    pub(super) fn logged_ms(&self) -> Option<u64> {
        match self {
            Self::Concur(summary) => Some(summary.logged_ms),
            Self::Etcd(_) => None,
        }
    }

    fn order(&self) -> &'static str {
        match self {
            Self::Concur(summary) => summary.order,
            Self::Etcd(_) => order_word(concur_kv::Ordering::Total),
        }
    }
}

/// What was made of one namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Restored {
    /// The namespace.
    pub namespace: String,
    /// What the snapshot held, if there was one; else the namespace begins empty.
    pub from: Option<Held>,
    /// Who is in, in which epoch.
    pub after: Configuration,
}

/// Reads a whole file of either kind and says what it holds.
pub fn look(path: &Path, options: FileOptions) -> Result<Held, OfflineError> {
    let unreadable = |error: std::io::Error| OfflineError::Snapshot { path: path.to_owned(), error: error.into() };
    let mut file = File::open(path).map_err(unreadable)?;
    if etcd::is_one(&mut file).map_err(unreadable)? {
        return etcd::examine(path, file, options).map(Held::Etcd);
    }
    if options.raise > 0 {
        return Err(OfflineError::NotRaised { path: path.to_owned() });
    }
    examine(file).map(Held::Concur).map_err(|error| OfflineError::Snapshot { path: path.to_owned(), error })
}

/// Reads a whole snapshot of Concur's own and says what it holds. An error: it is not one, or not as it was written.
pub fn examine(stream: impl Read) -> Result<Summary, SnapshotError> {
    read_through(stream).map_err(|error| match error {
        SnapshotError::Io(error) if error.kind() == ErrorKind::UnexpectedEof => other("it ends before its end"),
        error => error,
    })
}

fn read_through(stream: impl Read) -> Result<Summary, SnapshotError> {
    let mut stream = BufReader::with_capacity(READ_BYTES, stream);
    let mut reader = SnapshotReader::new(&mut stream)?;
    let header = reader.header().clone();
    let (mut entries, mut bytes, mut hash, mut head, mut kind) = (0, 0, 0xcbf2_9ce4_8422_2325, Vec::new(), None);
    for entry in reader.by_ref() {
        let (key, value) = entry?;
        entries += 1;
        bytes += (key.len() + value.len()) as u64;
        hash = fold(fold(hash, &key), &value);
        if let Some(key) = machine_key(&key) {
            kind = kind.or(image_summary(&key, &value).map_err(|_| other("its store's summary cannot be read"))?);
        }
        if is_of_replica(&key) {
            head.push((key, value));
        }
    }
    if stream.read(&mut [0])? > 0 {
        return Err(other("something follows its end"));
    }
    let unreadable = |_: Corrupt| other("what it says of its group cannot be read");
    let configuration = configuration_of(&head).map_err(unreadable)?.ok_or_else(|| other("it does not say who was in"))?;
    let (ordering, revision) = kind.ok_or_else(|| other("it is not of a key-value store"))?;
    let (order, logged_ms) = (order_word(ordering), logged_ms_of(&head).map_err(unreadable)?);
    let (cluster, node, group) = (header.cluster, header.node, header.group);
    Ok(Summary { cluster, node, group, configuration, order, revision: revision.0, logged_ms, entries, bytes, hash, head })
}

/// Makes the data directory of a founding member from snapshots, at most one for each of its namespaces; those without one begin
/// empty. The directory appears under its name only when it is whole.
pub fn restore(options: &NodeOptions, snapshots: &[PathBuf], taken: FileOptions) -> Result<Vec<Restored>, OfflineError> {
    let root = &options.data_dir;
    if holds_something(root)? {
        return Err(OfflineError::Used { path: root.clone() });
    }
    let files = examine_all(options, snapshots, taken)?;
    let described = files.iter().fold(options.cluster_id(), |id, (_, _, held)| id.rotate_left(7) ^ held.described());
    let cluster = stored_id(described);
    let making = beside(root);
    if making.exists() {
        std::fs::remove_dir_all(&making).map_err(io(format!("cannot remove {}", making.display())))?;
    }
    let restored = make(options, &making, cluster, &files)?;
    std::fs::rename(&making, root).map_err(io(format!("cannot give {} its name", root.display())))?;
    let parent = root.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(parent).and_then(|parent| parent.sync_all()).map_err(io(format!("cannot sync {}", parent.display())))?;
    Ok(restored)
}

type Examined<'a> = (&'a GroupOptions, &'a PathBuf, Held);

/// Every file, whose namespace it is of and what it holds, in the order of the namespaces.
fn examine_all<'a>(options: &'a NodeOptions, snapshots: &'a [PathBuf], taken: FileOptions) -> Result<Vec<Examined<'a>>, OfflineError> {
    let mut found: Vec<Examined<'a>> = Vec::new();
    for path in snapshots {
        let held = look(path, taken)?;
        // etcd has one namespace: the one that etcd's clients are served.
        let id = match &held {
            Held::Concur(summary) => summary.group,
            Held::Etcd(_) => options.etcd_group,
        };
        let Some(group) = options.groups.iter().find(|group| group.id == id) else {
            let namespaces = options.groups.iter().map(|group| group.name.as_str()).collect::<Vec<_>>().join(", ");
            return Err(OfflineError::NoNamespace { path: path.clone(), group: id.0, namespaces });
        };
        if let Some((_, first, _)) = found.iter().find(|(other, ..)| other.id == group.id) {
            return Err(OfflineError::Twice { first: (*first).clone(), second: path.clone() });
        }
        let wanted = if group.order == Ordering::Total { "total" } else { "per-key" };
        if held.order() != wanted {
            let (namespace, found) = (group.name.clone(), held.order());
            return Err(OfflineError::OtherOrder { path: path.clone(), namespace, found, wanted });
        }
        found.push((group, path, held));
    }
    found.sort_by_key(|(group, ..)| group.id);
    Ok(found)
}

/// Fills a directory.
fn make(options: &NodeOptions, root: &Path, cluster: u64, files: &[Examined<'_>]) -> Result<Vec<Restored>, OfflineError> {
    let name = &options.members[usize::from(options.me.0)].name;
    let wall_ms = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO).as_millis() as u64;
    let node = crate::node::member_id(cluster, name);
    let owner = Owner { cluster, node, name: name.clone(), incarnation: wall_ms, salt: random() };
    let dir = DataDir::open(root, &owner)?;
    let mut engine = RedbEngine::open(&dir.state_file(), CACHE_BYTES)?;
    // Leases could not be renewed since.
    let logged_ms = files.iter().filter_map(|(_, _, held)| held.logged_ms()).max().unwrap_or(0);
    let mut restored = Vec::new();
    for group in options.groups.iter().filter(|group| group.quorums.voters.contains(options.me)) {
        let founding = options.founding(group);
        let Some((_, path, held)) = files.iter().find(|(of, ..)| of.id == group.id) else {
            restored.push(Restored { namespace: group.name.clone(), from: None, after: founding });
            continue;
        };
        let after = match held {
            Held::Concur(summary) => {
                let next = |before: &Configuration| {
                    let epoch = Epoch(before.epoch.0 + FORCED_EPOCHS);
                    Configuration { epoch, term_base: before.term_base + FORCED_EPOCHS, ..founding }
                };
                let corrupt = |error| NodeError::Corrupt { group: group.name.clone(), error };
                let (after, changed) = stand_elsewhere(&summary.head, next).map_err(corrupt)?;
                install(&mut engine, group.id, path, changed)?;
                after
            }
            Held::Etcd(summary) => etcd::install(&mut engine, group.id, path, summary, founding, logged_ms)?,
        };
        restored.push(Restored { namespace: group.name.clone(), from: Some(held.clone()), after });
    }
    if !files.is_empty() {
        files::note_last_alive(&dir, logged_ms)?;
    }
    Ok(restored)
}

fn install(engine: &mut RedbEngine, group: GroupId, path: &Path, changed: Vec<(Bytes, Bytes)>) -> Result<(), OfflineError> {
    let failed = |error| OfflineError::Snapshot { path: path.to_owned(), error };
    engine.begin_install(group)?;
    let (mut part, mut bytes) = (Bulk::new(), 0);
    for entry in SnapshotReader::open(path).map_err(failed)? {
        let (key, value) = entry.map_err(failed)?;
        bytes += key.len() + value.len();
        part.push((key, Some(value)));
        if bytes >= PART_BYTES {
            engine.install(group, &std::mem::take(&mut part))?;
            bytes = 0;
        }
    }
    let mark = changed.last().map(|(_, mark)| mark.clone()).unwrap_or_default();
    part.extend(changed.into_iter().map(|(key, value)| (key, Some(value))));
    engine.install(group, &part)?;
    Ok(engine.finish_install(group, &mark)?)
}

fn holds_something(root: &Path) -> Result<bool, NodeError> {
    match std::fs::read_dir(root) {
        Ok(mut entries) => Ok(entries.next().is_some()),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
        Err(error) if error.kind() == ErrorKind::NotADirectory => Ok(true),
        Err(error) => Err(io(format!("cannot read {}", root.display()))(error)),
    }
}

/// Where a directory is made before it has its name.
fn beside(root: &Path) -> PathBuf {
    let mut name = root.file_name().unwrap_or_default().to_owned();
    name.push(".restoring");
    root.with_file_name(name)
}

fn other(what: &'static str) -> SnapshotError {
    SnapshotError::Damaged { chunk: 0, what }
}

/// FNV-1a, with the length in front.
fn fold(hash: u64, bytes: &[u8]) -> u64 {
    let length = (bytes.len() as u64).to_le_bytes();
    length.iter().chain(bytes).fold(hash, |hash, &byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}
