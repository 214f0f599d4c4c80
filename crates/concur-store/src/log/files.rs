//! Segments in real files.
//!
//! One file a segment, `0123456789abcdef.wal`, of its full size from the beginning and written over with zeros, because
//! overwriting blocks that exist needs no change of the file's metadata, and so the quickest sync there is. Files are opened
//! with `O_DIRECT` where the filesystem allows it (tried once, with a real write) and plainly where not. A sync is
//! `fdatasync`; creating, renaming and removing sync the directory too.
//!
//! Writing tens of megabytes of zeros takes long, so segments are prepared on a thread of their own, under a temporary name;
//! whoever writes the log waits only when it has used up all spares before the next is there. Temporary files that a crash left
//! are removed at opening.
//!
//! Access is not locked here: one process owns a data directory by [`DataDir`](crate::dir::DataDir).

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};

use super::disk::{AlignedBuffer, BLOCK, Disk};
use crate::files::sync_directory;

/// Zeros written at once while a segment is prepared, and how many before they are synced, so that the log's own syncs do not
/// wait behind a whole segment.
const ZERO_BYTES: u64 = 1 << 20;
const ZERO_BYTES_SYNCED: u64 = 8 << 20;

/// The disk. See the [module](self).
#[derive(Debug)]
pub struct FileDisk {
    directory: PathBuf,
    direct: bool,
    open: BTreeMap<u64, File>,
    preparing: BTreeMap<u64, JoinHandle<io::Result<File>>>,
    /// Tells threads that prepare to give up.
    cancelled: Arc<AtomicBool>,
    /// For callers whose own buffer is not aligned.
    bounce: AlignedBuffer,
}

impl FileDisk {
    /// The disk in `directory`, which is created if need be.
    pub fn open(directory: impl Into<PathBuf>) -> io::Result<FileDisk> {
        let directory = directory.into();
        fs::create_dir_all(&directory)?;
        for entry in fs::read_dir(&directory)? {
            let path = entry?.path();
            if path.extension().is_some_and(|extension| extension == "tmp") {
                fs::remove_file(path)?;
            }
        }
        let direct = allows_direct(&directory.join("direct.tmp"));
        sync_directory(&directory)?;
        Ok(FileDisk {
            directory,
            direct,
            open: BTreeMap::new(),
            preparing: BTreeMap::new(),
            cancelled: Arc::default(),
            bounce: AlignedBuffer::default(),
        })
    }

    /// Whether the filesystem allowed `O_DIRECT`.
    pub fn is_direct(&self) -> bool {
        self.direct
    }

    fn path(&self, id: u64) -> PathBuf {
        self.directory.join(format!("{id:016x}.wal"))
    }

    fn file(&mut self, id: u64) -> io::Result<&File> {
        use std::collections::btree_map::Entry;
        let path = self.path(id);
        match self.open.entry(id) {
            Entry::Occupied(entry) => Ok(entry.into_mut()),
            Entry::Vacant(entry) => Ok(entry.insert(options(self.direct).open(path)?)),
        }
    }
}

impl Disk for FileDisk {
    fn list(&self) -> io::Result<Vec<u64>> {
        let mut ids = Vec::new();
        for entry in fs::read_dir(&self.directory)? {
            let name = entry?.file_name();
            let digits = name.to_str().and_then(|name| name.strip_suffix(".wal")).filter(|digits| digits.len() == 16);
            ids.extend(digits.and_then(|digits| u64::from_str_radix(digits, 16).ok()));
        }
        Ok(ids)
    }

    fn create(&mut self, id: u64, bytes: u64) -> io::Result<()> {
        self.prepare(id, bytes)?;
        self.ready(id, true).map(drop)
    }

    fn prepare(&mut self, id: u64, bytes: u64) -> io::Result<()> {
        let (directory, path, direct) = (self.directory.clone(), self.path(id), self.direct);
        let cancelled = Arc::clone(&self.cancelled);
        let thread = thread::Builder::new().name("wal-prepare".into());
        let handle = thread.spawn(move || prepare(&directory, &path, bytes, direct, &cancelled))?;
        self.preparing.insert(id, handle);
        Ok(())
    }

    fn ready(&mut self, id: u64, wait: bool) -> io::Result<bool> {
        let Some(handle) = self.preparing.remove(&id) else {
            return Ok(true);
        };
        if !wait && !handle.is_finished() {
            self.preparing.insert(id, handle);
            return Ok(false);
        }
        let file = handle.join().map_err(|_| io::Error::other("the thread that prepares segments panicked"))??;
        self.open.insert(id, file);
        Ok(true)
    }

    fn rename(&mut self, from: u64, to: u64) -> io::Result<()> {
        fs::rename(self.path(from), self.path(to))?;
        if let Some(file) = self.open.remove(&from) {
            self.open.insert(to, file);
        }
        sync_directory(&self.directory)
    }

    fn remove(&mut self, id: u64) -> io::Result<()> {
        self.open.remove(&id);
        fs::remove_file(self.path(id))?;
        sync_directory(&self.directory)
    }

    fn read(&mut self, id: u64, offset: u64, into: &mut [u8]) -> io::Result<()> {
        if !self.direct || is_aligned(into) {
            return self.file(id)?.read_exact_at(into, offset);
        }
        let mut bounce = std::mem::take(&mut self.bounce);
        bounce.resize(into.len());
        let read = self.file(id)?.read_exact_at(bounce.as_mut_slice(), offset);
        into.copy_from_slice(bounce.as_slice());
        self.bounce = bounce;
        read
    }

    fn write(&mut self, id: u64, offset: u64, bytes: &[u8]) -> io::Result<()> {
        if !self.direct || is_aligned(bytes) {
            return self.file(id)?.write_all_at(bytes, offset);
        }
        let mut bounce = std::mem::take(&mut self.bounce);
        bounce.resize(0);
        bounce.extend_from_slice(bytes);
        let written = self.file(id)?.write_all_at(bounce.as_slice(), offset);
        self.bounce = bounce;
        written
    }

    fn sync(&mut self, id: u64) -> io::Result<()> {
        self.file(id)?.sync_data()
    }
}

impl Drop for FileDisk {
    /// Waits for the threads that prepare, so that none writes into a directory that another process has locked since.
    fn drop(&mut self) {
        self.cancelled.store(true, Ordering::Relaxed);
        for (_, handle) in std::mem::take(&mut self.preparing) {
            // Its result concerns nobody: an unfinished file was removed, a finished one is a spare.
            drop(handle.join());
        }
    }
}

/// Makes a file of zeros under a temporary name, then gives it its own.
fn prepare(directory: &Path, path: &Path, bytes: u64, direct: bool, cancelled: &AtomicBool) -> io::Result<File> {
    let temporary = path.with_extension("tmp");
    let made = write_zeros(&temporary, bytes, direct, cancelled)
        .and_then(|file| fs::rename(&temporary, path).map(|()| file))
        .and_then(|file| sync_directory(directory).map(|()| file));
    if made.is_err() {
        // The error that is answered is the first one; a file that stays is removed at the next opening.
        drop(fs::remove_file(&temporary));
    }
    made
}

fn write_zeros(path: &Path, bytes: u64, direct: bool, cancelled: &AtomicBool) -> io::Result<File> {
    let file = options(direct).create(true).truncate(true).open(path)?;
    let mut zeros = AlignedBuffer::default();
    zeros.resize(ZERO_BYTES.min(bytes) as usize);
    let mut at = 0;
    while at < bytes {
        if cancelled.load(Ordering::Relaxed) {
            return Err(ErrorKind::Interrupted.into());
        }
        let len = ZERO_BYTES.min(bytes - at);
        file.write_all_at(&zeros.as_slice()[..len as usize], at)?;
        at += len;
        if at.is_multiple_of(ZERO_BYTES_SYNCED) {
            file.sync_data()?;
        }
    }
    file.sync_all()?;
    Ok(file)
}

fn options(direct: bool) -> OpenOptions {
    let mut options = OpenOptions::new();
    options.read(true).write(true);
    if direct {
        options.custom_flags(direct_flag());
    }
    options
}

#[cfg(target_os = "linux")]
fn direct_flag() -> i32 {
    rustix::fs::OFlags::DIRECT.bits() as i32
}

#[cfg(not(target_os = "linux"))]
fn direct_flag() -> i32 {
    0
}

/// Whether files beside `path` can be written and read with `O_DIRECT`.
fn allows_direct(path: &Path) -> bool {
    let mut block = AlignedBuffer::default();
    block.resize(BLOCK);
    let tried = cfg!(target_os = "linux")
        && options(true)
            .create(true)
            .truncate(true)
            .open(path)
            .is_ok_and(|file| file.write_all_at(block.as_slice(), 0).is_ok() && file.read_exact_at(block.as_mut_slice(), 0).is_ok());
    // Left behind, it is removed at the next opening.
    drop(fs::remove_file(path));
    tried
}

fn is_aligned(bytes: &[u8]) -> bool {
    (bytes.as_ptr() as usize).is_multiple_of(BLOCK)
}
