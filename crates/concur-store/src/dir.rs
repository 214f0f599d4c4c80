//! The data directory of a node: whose it is, who has it open, and what lies where.
//!
//! ```text
//! lock         held, with an operating system's file lock, by the one process that owns the directory
//! identity     cluster, node, incarnation, how often the node was started; text, with a checksum
//! log/         segments of the write-ahead log
//! state.redb   executed state
//! reserve      space put aside, given up when the disk is full
//! and small files of whoever owns it
//! ```
//!
//! Peers refuse a member that comes back with an older *incarnation* or *boot count* than they have seen of it, because its
//! disk was replaced or restored and its promises with it. The boot count is therefore incremented, durably, each time the
//! directory is opened, before anything else is done; the incarnation is given once, when the directory is created, and must
//! be higher than that of the disk it replaces (the wall clock does).
//!
//! Small files are written whole under another name, synced, renamed and the directory synced: they are there in the old
//! version or the new one. An identity that is gone while a log is there is damage, not a new directory.
//!
//! Locks of this kind do not hold between machines that share a directory over a network; a data directory belongs on a disk
//! of the machine.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use thiserror::Error;

use crate::files::sync_directory;
use crate::log::{LogIdentity, LogOptions};

/// The version of the directory's layout that this program writes, and the newest that it reads.
pub const FORMAT_VERSION: u32 = 1;

const FIRST_LINE: &str = "concur data directory";
const NAME_BYTES_MAX: usize = 255;
/// An identity file is never larger: one that is was not written by us.
const IDENTITY_BYTES_MAX: u64 = 64 << 10;

/// Whose directory it shall be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owner {
    /// The cluster.
    pub cluster: u64,
    /// The node in it.
    pub node: u64,
    /// The node's name, for people: at most 255 bytes, without control characters.
    pub name: String,
    /// The incarnation that a directory gets when it is created: higher than any this node had before.
    pub incarnation: u64,
    /// A random number that a directory gets when it is created; it salts the log's checksums.
    pub salt: u64,
}

/// What the directory says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The cluster.
    pub cluster: u64,
    /// The node in it.
    pub node: u64,
    /// The node's name when the directory was created.
    pub name: String,
    /// Which life of the node this disk is.
    pub incarnation: u64,
    /// How often the directory was opened, this time included.
    pub boots: u64,
    /// Salts the log's checksums.
    pub salt: u64,
    /// Whether a log was created here, so that its absence is a loss.
    pub has_log: bool,
}

/// Why a data directory cannot be used. Each says what to do.
#[derive(Debug, Error)]
pub enum DirError {
    /// There is none.
    #[error("{} holds no data of a node. Name the directory that the node was started with", path.display())]
    Missing {
        /// The directory.
        path: PathBuf,
    },

    /// Another process owns it.
    #[error(
        "{} is in use by another concur process. Stop that process, or give this one a data directory of its own",
        path.display()
    )]
    Locked {
        /// The directory.
        path: PathBuf,
    },

    /// It belongs to another node or cluster.
    #[error(
        "{} belongs to node {found_node:016x} (“{found_name}”) of cluster {found_cluster:016x}, not to node {node:016x} of cluster {cluster:016x}. \
         Start the node with its own data directory, or an empty one if it is new",
        path.display()
    )]
    Foreign {
        /// The directory.
        path: PathBuf,
        /// Its node.
        found_node: u64,
        /// Its node's name.
        found_name: String,
        /// Its cluster.
        found_cluster: u64,
        /// The node that opened it.
        node: u64,
        /// That node's cluster.
        cluster: u64,
    },

    /// It was written by a newer program.
    #[error("{} has format {found}, and this program reads up to {FORMAT_VERSION}. Start a newer concur on it", path.display())]
    Newer {
        /// The directory.
        path: PathBuf,
        /// Its format.
        found: u32,
    },

    /// Its identity cannot be read.
    #[error(
        "{} is damaged: {what}. How often this node was started, and so what it has promised, is no longer known. Move the directory \
         away and let the node join again with an empty one: it is rebuilt from its peers",
        path.display()
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        what: &'static str,
    },

    /// The owner's name cannot be written down.
    #[error("a node's name has at most {NAME_BYTES_MAX} bytes and no control characters: {name:?}")]
    Name {
        /// The name.
        name: String,
    },

    /// The operating system refused.
    #[error("cannot {operation} {}: {source}", path.display())]
    Io {
        /// What was tried.
        operation: &'static str,
        /// On which file.
        path: PathBuf,
        /// The operating system's answer.
        source: io::Error,
    },
}

/// An opened data directory. It is locked as long as this lives.
#[derive(Debug)]
pub struct DataDir {
    root: PathBuf,
    identity: Identity,
    /// Held for its lock.
    _lock: File,
}

impl DataDir {
    /// Opens a directory, or creates it, and counts the start.
    pub fn open(root: impl Into<PathBuf>, owner: &Owner) -> Result<DataDir, DirError> {
        Self::open_after(root, owner, |_| Ok(()))
    }

    /// Opens a directory. Of one that is created, `first` puts in what must be there before anything says that it is one.
    pub fn open_after(root: impl Into<PathBuf>, owner: &Owner, first: impl FnOnce(&Path) -> io::Result<()>) -> Result<DataDir, DirError> {
        let root = root.into();
        check_name(&owner.name)?;
        create_directory(&root)?;
        let lock = lock(&root)?;
        let path = root.join("identity");
        let mut identity = match read_identity(&path)? {
            Some(found) => check_owner(&root, owner, found)?,
            None => {
                let identity = first_identity(&root, owner)?;
                first(&root).map_err(io_error("begin", &root))?;
                identity
            }
        };
        identity.boots += 1;
        create_directory(&root.join("log"))?;
        let dir = DataDir { root, identity, _lock: lock };
        dir.write_identity()?;
        Ok(dir)
    }

    /// What a directory says of itself, if there is one; nothing is opened or counted.
    pub fn identity_of(root: &Path) -> Result<Option<Identity>, DirError> {
        read_identity(&root.join("identity"))
    }

    /// Opens a directory that there is, whoever's it is, and counts the start.
    pub fn open_existing(root: impl Into<PathBuf>) -> Result<DataDir, DirError> {
        let root = root.into();
        let path = root.join("identity");
        let missing = || DirError::Missing { path: root.clone() };
        if !path.exists() {
            return Err(missing());
        }
        let lock = lock(&root)?;
        let mut identity = read_identity(&path)?.ok_or_else(missing)?;
        identity.boots += 1;
        let dir = DataDir { root, identity, _lock: lock };
        dir.write_identity()?;
        Ok(dir)
    }

    /// The directory.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// What it says of itself.
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// Where the log's segments lie.
    pub fn log_directory(&self) -> PathBuf {
        self.root.join("log")
    }

    /// Where executed state lies.
    pub fn state_file(&self) -> PathBuf {
        self.root.join("state.redb")
    }

    /// How the log of this directory is opened, with the defaults otherwise.
    pub fn log_options(&self) -> LogOptions {
        LogOptions {
            identity: LogIdentity { cluster: self.identity.cluster, node: self.identity.node },
            salt: self.identity.salt,
            must_exist: self.identity.has_log,
            ..LogOptions::default()
        }
    }

    /// Notes durably that there is a log. To be called once the log was opened, before anything in it counts.
    pub fn note_log(&mut self) -> Result<(), DirError> {
        if !self.identity.has_log {
            self.identity.has_log = true;
            self.write_identity()?;
        }
        Ok(())
    }

    /// Bytes that the filesystem still gives to this process.
    pub fn free_bytes(&self) -> Result<u64, DirError> {
        let stat = rustix::fs::statvfs(&self.root).map_err(|error| io_error("measure", &self.root)(error.into()))?;
        Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
    }

    /// Puts `bytes` aside, so that there is something to [give up](DataDir::release_reserve) when the disk is full. Answers
    /// whether there was room.
    pub fn keep_reserve(&self, bytes: u64) -> Result<bool, DirError> {
        let path = self.root.join("reserve");
        if fs::metadata(&path).is_ok_and(|metadata| metadata.len() >= bytes) {
            return Ok(true);
        }
        let kept = File::create(&path).and_then(|file| allocate(&file, bytes).and_then(|()| file.sync_all()));
        match kept {
            Ok(()) => sync_directory(&self.root).map(|()| true).map_err(io_error("sync", &self.root)),
            Err(error) if error.kind() == io::ErrorKind::StorageFull => self.release_reserve().map(|_| false),
            Err(error) => Err(io_error("fill", &path)(error)),
        }
    }

    /// Gives up what was put aside. Answers whether there was anything.
    pub fn release_reserve(&self) -> Result<bool, DirError> {
        let path = self.root.join("reserve");
        match fs::remove_file(&path) {
            Ok(()) => sync_directory(&self.root).map(|()| true).map_err(io_error("sync", &self.root)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(io_error("remove", &path)(error)),
        }
    }

    fn write_identity(&self) -> Result<(), DirError> {
        let path = self.root.join("identity");
        write_whole(&path, encode_identity(&self.identity).as_bytes()).map_err(io_error("write", &path))
    }
}

/// Writes a small file whole: after a crash it holds what it held before, or `bytes`.
pub fn write_whole(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let temporary = path.with_extension("tmp");
    let mut file = File::create(&temporary)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    drop(file);
    fs::rename(&temporary, path)?;
    sync_directory(path.parent().unwrap_or(Path::new(".")))
}

/// Writes a small file whole, with a checksum in front.
pub fn write_checked(path: &Path, bytes: &[u8]) -> io::Result<()> {
    write_whole(path, &[&crc32fast::hash(bytes).to_le_bytes(), bytes].concat())
}

/// Reads such a file back; `None` if there is none. One that is not as it was written is an error.
pub fn read_checked(path: &Path) -> io::Result<Option<Vec<u8>>> {
    let whole = match fs::read(path) {
        Ok(whole) => whole,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let sound = whole.split_first_chunk().filter(|(sum, bytes)| crc32fast::hash(bytes).to_le_bytes() == **sum);
    let (_, bytes) = sound.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "it is not as it was written"))?;
    Ok(Some(bytes.to_vec()))
}

fn check_name(name: &str) -> Result<(), DirError> {
    if name.len() > NAME_BYTES_MAX || name.chars().any(char::is_control) {
        return Err(DirError::Name { name: name.to_owned() });
    }
    Ok(())
}

/// Creates a directory, durably.
fn create_directory(path: &Path) -> Result<(), DirError> {
    if path.is_dir() {
        return Ok(());
    }
    fs::create_dir_all(path).map_err(io_error("create", path))?;
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    sync_directory(parent).map_err(io_error("sync", parent))
}

fn lock(root: &Path) -> Result<File, DirError> {
    let path = root.join("lock");
    let opened = OpenOptions::new().create(true).truncate(false).write(true).open(&path);
    let file = opened.map_err(io_error("open", &path))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(DirError::Locked { path: root.to_owned() }),
        Err(TryLockError::Error(error)) => Err(io_error("lock", &path)(error)),
    }
}

fn check_owner(root: &Path, owner: &Owner, found: Identity) -> Result<Identity, DirError> {
    if (found.cluster, found.node) == (owner.cluster, owner.node) {
        return Ok(found);
    }
    Err(DirError::Foreign {
        path: root.to_owned(),
        found_node: found.node,
        found_name: found.name,
        found_cluster: found.cluster,
        node: owner.node,
        cluster: owner.cluster,
    })
}

/// The identity of a directory that has none: only where nothing else is either.
fn first_identity(root: &Path, owner: &Owner) -> Result<Identity, DirError> {
    let log = root.join("log");
    let holds_log = fs::read_dir(&log).is_ok_and(|mut entries| entries.next().is_some());
    if holds_log || root.join("state.redb").exists() {
        return Err(DirError::Damaged { path: root.join("identity"), what: "it is gone, and the log or the state is not" });
    }
    Ok(Identity {
        cluster: owner.cluster,
        node: owner.node,
        name: owner.name.clone(),
        incarnation: owner.incarnation,
        boots: 0,
        salt: owner.salt,
        has_log: false,
    })
}

fn encode_identity(identity: &Identity) -> String {
    let Identity { cluster, node, name, incarnation, boots, salt, has_log } = identity;
    let text = format!(
        "{FIRST_LINE}\nformat {FORMAT_VERSION}\ncluster {cluster:016x}\nnode {node:016x}\nname {name}\nincarnation {incarnation}\n\
         boots {boots}\nsalt {salt:016x}\nlog {has_log}\n"
    );
    let checksum = crc32fast::hash(text.as_bytes());
    format!("{text}checksum {checksum:08x}\n")
}

/// Reads the identity; none if there is no such file.
fn read_identity(path: &Path) -> Result<Option<Identity>, DirError> {
    let metadata = match fs::metadata(path) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(io_error("read", path)(error)),
    };
    let damaged = |what| DirError::Damaged { path: path.to_owned(), what };
    if metadata.len() > IDENTITY_BYTES_MAX {
        return Err(damaged("it is too large"));
    }
    let bytes = fs::read(path).map_err(io_error("read", path))?;
    let text = String::from_utf8(bytes).map_err(|_| damaged("it is not text"))?;
    // Every version ends with the checksum of all before, and has its number in the second line.
    let (text, checksum) = text.rsplit_once("checksum ").ok_or_else(|| damaged("it has no checksum"))?;
    if checksum != format!("{:08x}\n", crc32fast::hash(text.as_bytes())) {
        return Err(damaged("its checksum is wrong"));
    }
    let mut lines = text.lines();
    let mut line = |name: &str| lines.next().and_then(|line| line.strip_prefix(name));
    line(FIRST_LINE).ok_or_else(|| damaged("it does not begin as one"))?;
    let found = line("format ").and_then(|found| found.parse().ok()).ok_or_else(|| damaged("it names no format"))?;
    if found > FORMAT_VERSION {
        let path = path.parent().unwrap_or(path).to_owned();
        return Err(DirError::Newer { path, found });
    }
    let fields = || -> Option<Identity> {
        Some(Identity {
            cluster: u64::from_str_radix(line("cluster ")?, 16).ok()?,
            node: u64::from_str_radix(line("node ")?, 16).ok()?,
            name: line("name ")?.to_owned(),
            incarnation: line("incarnation ")?.parse().ok()?,
            boots: line("boots ")?.parse().ok()?,
            salt: u64::from_str_radix(line("salt ")?, 16).ok()?,
            has_log: line("log ")?.parse().ok()?,
        })
    }();
    fields.map(Some).ok_or_else(|| damaged("a line is missing"))
}

/// Makes a file that takes `bytes` of the disk.
fn allocate(file: &File, bytes: u64) -> io::Result<()> {
    match rustix::fs::fallocate(file, rustix::fs::FallocateFlags::empty(), 0, bytes) {
        Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOSYS | rustix::io::Errno::INVAL) => {
            io::copy(&mut io::Read::take(io::repeat(0), bytes), &mut &*file).map(drop)
        }
        allocated => Ok(allocated?),
    }
}

fn io_error(operation: &'static str, path: &Path) -> impl FnOnce(io::Error) -> DirError {
    move |source| DirError::Io { operation, path: path.to_owned(), source }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Scratch;

    fn owner() -> Owner {
        Owner { cluster: 1, node: 2, name: "n2".into(), incarnation: 30, salt: 4 }
    }

    #[test]
    fn starts_are_counted_and_the_identity_stays() {
        let scratch = Scratch::new("dir-starts");
        for boots in 1..=3 {
            let later = Owner { incarnation: 30 + boots, name: format!("n{boots}"), salt: boots, ..owner() };
            let dir = DataDir::open(scratch.path().join("a/b"), &later).expect("opens");
            let expected = Identity { cluster: 1, node: 2, name: "n1".into(), incarnation: 31, boots, salt: 1, has_log: false };
            assert_eq!(dir.identity(), &expected);
        }
    }

    #[test]
    fn a_second_process_is_refused_by_name() {
        let scratch = Scratch::new("dir-lock");
        let first = DataDir::open(scratch.path(), &owner()).expect("opens");
        let error = DataDir::open(scratch.path(), &owner()).expect_err("it is locked");
        assert!(matches!(&error, DirError::Locked { path } if path == scratch.path()), "{error}");
        drop(first);
        let boots = DataDir::open(scratch.path(), &owner()).expect("it is free").identity().boots;
        assert_eq!(boots, 2, "a refused opening is no start");
    }

    #[test]
    fn another_nodes_directory_is_refused() {
        let scratch = Scratch::new("dir-foreign");
        drop(DataDir::open(scratch.path(), &owner()).expect("opens"));
        for stranger in [Owner { node: 3, ..owner() }, Owner { cluster: 9, ..owner() }] {
            let error = DataDir::open(scratch.path(), &stranger).expect_err("it is foreign");
            assert!(matches!(error, DirError::Foreign { found_node: 2, found_cluster: 1, .. }), "{error}");
        }
    }

    #[test]
    fn any_changed_byte_of_the_identity_is_damage() {
        let scratch = Scratch::new("dir-damage");
        drop(DataDir::open(scratch.path(), &owner()).expect("opens"));
        let path = scratch.path().join("identity");
        let whole = fs::read(&path).expect("reads");
        for at in 0..whole.len() {
            let mut hurt = whole.clone();
            hurt[at] ^= 1;
            fs::write(&path, &hurt).expect("writes");
            let error = DataDir::open(scratch.path(), &owner()).expect_err("it is damaged");
            assert!(matches!(error, DirError::Damaged { .. }), "byte {at}: {error}");
        }
        fs::write(&path, &whole[..whole.len() / 2]).expect("writes");
        assert!(matches!(DataDir::open(scratch.path(), &owner()), Err(DirError::Damaged { .. })));
    }

    #[test]
    fn a_lost_identity_beside_a_log_is_damage_and_not_a_new_node() {
        let scratch = Scratch::new("dir-lost");
        let dir = DataDir::open(scratch.path(), &owner()).expect("opens");
        fs::write(dir.log_directory().join("0000000000000000.wal"), b"x").expect("writes");
        drop(dir);
        fs::remove_file(scratch.path().join("identity")).expect("removes");
        assert!(matches!(DataDir::open(scratch.path(), &owner()), Err(DirError::Damaged { .. })));
    }

    #[test]
    fn a_newer_format_is_refused() {
        let scratch = Scratch::new("dir-newer");
        let text = format!("{FIRST_LINE}\nformat 2\nsomething else\n");
        let checksum = crc32fast::hash(text.as_bytes());
        fs::write(scratch.path().join("identity"), format!("{text}checksum {checksum:08x}\n")).expect("writes");
        let error = DataDir::open(scratch.path(), &owner()).expect_err("it is newer");
        assert!(matches!(error, DirError::Newer { found: 2, .. }), "{error}");
    }

    #[test]
    fn a_log_that_was_noted_must_exist() {
        let scratch = Scratch::new("dir-log");
        let mut dir = DataDir::open(scratch.path(), &owner()).expect("opens");
        assert!(!dir.log_options().must_exist);
        dir.note_log().expect("writes");
        drop(dir);
        let dir = DataDir::open(scratch.path(), &owner()).expect("opens");
        assert!(dir.log_options().must_exist);
        assert_eq!((dir.log_options().identity.node, dir.log_options().salt), (2, 4));
    }

    #[test]
    fn a_name_that_would_break_the_file_is_refused() {
        let scratch = Scratch::new("dir-name");
        for name in ["a\nboots 9".to_owned(), "x".repeat(256)] {
            let refused = DataDir::open(scratch.path(), &Owner { name, ..owner() });
            assert!(matches!(refused, Err(DirError::Name { .. })));
        }
    }

    #[test]
    fn a_reserve_is_kept_and_given_up() {
        let scratch = Scratch::new("dir-reserve");
        let dir = DataDir::open(scratch.path(), &owner()).expect("opens");
        assert!(dir.free_bytes().expect("measures") > 0);
        assert!(dir.keep_reserve(1 << 20).expect("keeps"));
        assert_eq!(fs::metadata(scratch.path().join("reserve")).expect("is there").len(), 1 << 20);
        assert!(dir.release_reserve().expect("gives up"));
        assert!(!dir.release_reserve().expect("nothing left"));
    }
}
