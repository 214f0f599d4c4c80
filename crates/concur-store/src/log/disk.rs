//! What the log asks of a disk, and the aligned buffer that it writes from.
//!
//! A disk is a flat directory of segments, each a number and a fixed size. The log decides what the numbers mean; a disk
//! only keeps bytes. Two disks exist: [`FileDisk`](super::FileDisk) keeps them in files, [`MemDisk`](super::MemDisk) in
//! memory, where it can be crashed and hurt. Nothing here caches, checks or retries.

use std::io;

/// The unit of every read and write: what devices and page caches write whole, and what `O_DIRECT` asks for.
pub const BLOCK: usize = 4096;

/// A flat directory of fixed-size segments. Offsets and lengths are multiples of [`BLOCK`].
///
/// Errors are the operating system's; a full disk is [`io::ErrorKind::StorageFull`]. A read past a segment's end is
/// [`io::ErrorKind::UnexpectedEof`].
pub trait Disk {
    /// The numbers of all segments, in any order.
    fn list(&self) -> io::Result<Vec<u64>>;

    /// Creates a segment of zeros. Its size, its zeros and its directory entry are durable when this returns.
    fn create(&mut self, id: u64, bytes: u64) -> io::Result<()>;

    /// Begins to create a segment, and may return before it is there. The default creates it on the spot.
    fn prepare(&mut self, id: u64, bytes: u64) -> io::Result<()> {
        self.create(id, bytes)
    }

    /// Whether a segment that was prepared is there; with `wait`, does not return before it is. An error is that of the
    /// preparation, which has then left nothing behind.
    fn ready(&mut self, _id: u64, _wait: bool) -> io::Result<bool> {
        Ok(true)
    }

    /// Gives a segment another number, keeping its bytes. Durable, and atomic, when this returns.
    fn rename(&mut self, from: u64, to: u64) -> io::Result<()>;

    /// Removes a segment. Durable when this returns.
    fn remove(&mut self, id: u64) -> io::Result<()>;

    /// Fills `into` from `offset`.
    fn read(&mut self, id: u64, offset: u64, into: &mut [u8]) -> io::Result<()>;

    /// Writes all of `bytes` at `offset`. Durable only after [`sync`](Disk::sync); until then a power loss keeps any
    /// subset of the sectors.
    fn write(&mut self, id: u64, offset: u64, bytes: &[u8]) -> io::Result<()>;

    /// Makes what was written to this segment durable.
    fn sync(&mut self, id: u64) -> io::Result<()>;
}

/// Bytes that begin at an address divisible by [`BLOCK`], so that a disk can hand them to the device without a copy.
#[derive(Debug, Default)]
pub struct AlignedBuffer {
    /// The allocation, one block larger than what it can hold.
    storage: Vec<u8>,
    /// Where in it the aligned bytes begin.
    start: usize,
    /// How many there are.
    len: usize,
    /// Behind so many of them everything is zero: padding need not be cleared again.
    used: usize,
}

impl AlignedBuffer {
    /// The bytes.
    pub fn as_slice(&self) -> &[u8] {
        &self.storage[self.start..self.start + self.len]
    }

    /// The bytes, to be changed.
    pub fn as_mut_slice(&mut self) -> &mut [u8] {
        self.used = self.used.max(self.len);
        &mut self.storage[self.start..self.start + self.len]
    }

    /// How many bytes there are.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// How many fit without another allocation.
    pub fn capacity(&self) -> usize {
        self.storage.len().saturating_sub(BLOCK)
    }

    /// Adds bytes at the end.
    pub fn extend_from_slice(&mut self, bytes: &[u8]) {
        let at = self.len;
        self.grow(at + bytes.len());
        self.len += bytes.len();
        self.as_mut_slice()[at..].copy_from_slice(bytes);
    }

    /// Shortens to `len` bytes, or lengthens with zeros.
    pub fn resize(&mut self, len: usize) {
        let before = self.len;
        self.grow(len);
        self.len = len;
        let used = self.used.min(len);
        if used > before {
            self.storage[self.start + before..self.start + used].fill(0);
        }
    }

    fn grow(&mut self, needed: usize) {
        if needed <= self.capacity() {
            return;
        }
        let capacity = needed.max(self.capacity() * 2).next_multiple_of(BLOCK);
        let storage = vec![0; capacity + BLOCK];
        // In practice `align_offset` always answers for bytes; where it does not, an unaligned buffer only costs a copy.
        let start = match storage.as_ptr().align_offset(BLOCK) {
            offset if offset < BLOCK => offset,
            _ => 0,
        };
        let old = std::mem::replace(self, AlignedBuffer { storage, start, len: self.len, used: 0 });
        self.as_mut_slice().copy_from_slice(old.as_slice());
    }
}
