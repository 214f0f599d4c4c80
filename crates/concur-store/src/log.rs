//! The write-ahead log: one stream of records a node, shared by its groups, that survives a crash.
//!
//! **What it is.** Records are [appended](Log::append) to a buffer in memory, [written](Log::write) together as one *frame*,
//! and made durable together by one [sync](Log::sync). A position is a place in the stream; everything below the position
//! that `sync` answers is durable. The stream is cut into segments of fixed size, zeroed ahead and used again, because
//! overwriting space that exists is much quicker to sync than growing a file. A frame begins on a block boundary, so a
//! block that was synced is never written again by later frames.
//!
//! **Why a checksum is not enough.** A power loss keeps any subset of the sectors that were not yet synced: the last frames
//! may be missing, torn, or there behind a hole. That is honest, nobody was told that they were durable, and they are cut
//! off ([`TornTail`]). A disk that rots or loses a synced write looks the same to a checksum, but cutting *that* off would
//! forget a vote. So every frame carries `synced_through`, the position known durable before it was written. A bad frame at
//! or above every later frame's `synced_through` is a torn tail; a bad frame below one is [`LogError::Damage`], and the
//! node must not vote with what is left. Recovery therefore looks beyond the first bad frame, at every block to the end.
//!
//! **The last frame** is attested by none: a byte flipped there by a rotting disk cannot be told from a torn tail, and is cut
//! off. Every frame attests the ones before it, an open attests all it recovered, and [`Log::attest`] writes an empty frame
//! for the purpose when the log falls idle, so that the doubt never lasts.
//!
//! **Why cut frames never return.** A frame that a power loss kept behind a hole must not come back when the hole is filled
//! by later frames. Its position alone does not tell, since the same segment goes on. So each opening of the log is a *run*
//! with its own number: opening writes an empty frame that carries the number, over the first bad block, and syncs it before
//! anything else is written. Along the stream runs never fall; a frame of an older run behind a newer one is a leftover.
//! Within one run no position is written twice. Content of a recycled segment has another position, and the checksums are
//! seeded with the segment's number and a salt (which also keeps a client from forging a frame inside a value).
//!
//! **What opening does besides.** It writes the frames that none attested once more and syncs them, before it reports them:
//! a process that died between write and sync, or whose sync failed, leaves frames that a reader sees and a power loss takes.
//!
//! **Space.** A [checkpoint](Log::checkpoint) of a group replaces all its older records. Every frame carries the *floor*:
//! where the oldest record stands that a group still needs. Segments wholly below a floor that is itself durable are used
//! again; a log whose first segment is above it misses one. Some spare segments are kept ready. When no more can be made the
//! log [is full](Log::is_full): it still has the spares, for checkpoints and the protocols' own records, and its owner is
//! expected to refuse what clients would add.
//!
//! **Failure.** A write or sync that fails poisons the log: every later call answers the same error, and nothing is tried
//! again, since after a failed sync nobody knows what the disk has.
//!
//! **What it does not do.** It knows no clock and no thread; it never decides to write or sync; it does not index records
//! (they are read once, at opening); it does not repair damage (replicas rebuild a node from its peers); and it cannot see
//! that its newest segments were deleted as a whole, nor that an older copy of the whole directory was put back: peers see
//! that, by incarnations and boot counts.

mod disk;
mod error;
pub mod files;
mod format;
pub mod memory;
mod recover;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;

pub use concur_core::GroupId;

pub use self::disk::{AlignedBuffer, BLOCK, Disk};
pub use self::error::{Damage, LogError};
pub use self::files::FileDisk;
pub use self::format::FORMAT_VERSION;
use self::format::{CONTINUED, FRAME_HEADER, FrameHeader, Kind, MORE, RECORD_HEADER, Seed, SegmentHeader, record_at, record_header};
pub use self::memory::{MemDisk, SECTOR, WriteFault};
pub use self::recover::{Recovered, TornTail};

/// Bytes of a segment unless asked otherwise.
pub const SEGMENT_BYTES_DEFAULT: u64 = 64 << 20;

/// Segments from this number on are spares: space without content.
const SPARE: u64 = 1 << 63;

/// A buffer that grew beyond this is given back once it is written.
const BUFFER_BYTES_KEPT: usize = 8 << 20;

/// A place in the stream, in bytes from its beginning. Positions only grow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Position(pub u64);

/// Whose log it is. A log with another identity is refused.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LogIdentity {
    /// The cluster.
    pub cluster: u64,
    /// The node in it.
    pub node: u64,
}

/// How a log is opened.
#[derive(Clone, Copy, Debug)]
pub struct LogOptions {
    /// Whose log it is.
    pub identity: LogIdentity,
    /// Bytes of a segment of a log that is created; one that exists keeps its own. A multiple of [`BLOCK`], at least two,
    /// at most 1 GiB.
    pub segment_bytes: u64,
    /// Spare segments kept ready. One is taken when the current segment is full; the rest is the reserve for a full disk. At
    /// least one.
    pub spares: usize,
    /// A random number for a log that is created; one that exists keeps its own.
    pub salt: u64,
    /// Whether the log must exist: then an empty directory is [`LogError::Missing`], not a fresh log.
    pub must_exist: bool,
}

impl Default for LogOptions {
    fn default() -> Self {
        LogOptions { identity: LogIdentity::default(), segment_bytes: SEGMENT_BYTES_DEFAULT, spares: 2, salt: 0, must_exist: false }
    }
}

/// Once this is durable, a group needs nothing that stands before it.
#[derive(Clone, Copy, Debug)]
struct Cleared {
    group: GroupId,
    /// Where the checkpoint, or the end of the group, begins.
    start: u64,
    /// The group is gone, and has not come back.
    gone: bool,
}

/// The log. See the [module](self).
#[derive(Debug)]
pub struct Log<D: Disk> {
    disk: D,
    identity: LogIdentity,
    segment_bytes: u64,
    salt: u64,
    /// The number of this opening.
    run: u64,
    /// Segments with content, oldest first; the last is being written.
    live: VecDeque<u64>,
    /// Spare segments that are ready, and how many there should be.
    spares: BTreeSet<u64>,
    spares_wanted: usize,
    /// A spare that the disk is preparing.
    preparing: Option<u64>,
    /// The number of the next spare.
    spare_next: u64,
    /// The disk had no room for another spare.
    no_space: bool,
    /// Where the next frame begins, or the end of a full segment.
    tail: u64,
    /// Segments written since the last sync.
    dirty: BTreeSet<u64>,
    /// Everything below is durable.
    synced: u64,
    /// What the last frame attests.
    attested: u64,
    /// The end of the last frame that holds records.
    content_end: u64,
    /// The floor that the last written frame carries, and the durable one.
    floor_written: u64,
    floor_durable: u64,
    /// For every group, the first position that it needs.
    needs: BTreeMap<GroupId, u64>,
    /// Checkpoints that are complete in the buffer, and that are written, in order.
    checkpoints_pending: Vec<Cleared>,
    checkpoints_written: Vec<Cleared>,
    /// A frame in the making: room for its header, then the records.
    pending: AlignedBuffer,
    /// The error that every call answers from now on.
    failed: Option<LogError>,
}

impl<D: Disk> Log<D> {
    /// Opens the log on `disk`, creates it if there is none, and answers what it holds. Everything that it answers is durable.
    pub fn open(disk: D, options: LogOptions) -> Result<(Self, Recovered), LogError> {
        recover::open(disk, options)
    }

    /// Adds a record to what the next [`write`](Log::write) writes.
    pub fn append(&mut self, group: GroupId, record: &[u8]) {
        self.need(group);
        self.push(group, Kind::Record, record);
    }

    /// Adds a checkpoint: `records` replace everything that was appended for `group` before, once they are durable.
    pub fn checkpoint(&mut self, group: GroupId, records: impl IntoIterator<Item = impl AsRef<[u8]>>) {
        self.need(group);
        self.push(group, Kind::CheckpointBegin, &[]);
        for record in records {
            self.push(group, Kind::CheckpointRecord, record.as_ref());
        }
        self.push(group, Kind::CheckpointEnd, &[]);
        self.checkpoints_pending.push(Cleared { group, start: self.tail, gone: false });
    }

    /// Adds that a group is gone: none of its records are needed any more.
    pub fn forget(&mut self, group: GroupId) {
        self.push(group, Kind::Forget, &[]);
        self.checkpoints_pending.push(Cleared { group, start: self.tail, gone: true });
    }

    /// Bytes that the next [`write`](Log::write) writes. The owner bounds them by writing.
    pub fn pending_bytes(&self) -> usize {
        self.pending.len().saturating_sub(FRAME_HEADER)
    }

    /// Writes what was appended, as one frame, or several where a segment ends. Answers the position behind it, not yet
    /// durable.
    ///
    /// [`LogError::Full`] leaves what was not written pending and may be tried again; every other error is final.
    pub fn write(&mut self) -> Result<Position, LogError> {
        self.sound()?;
        while self.pending_bytes() > 0 {
            self.write_frame()?;
        }
        self.checkpoints_written.append(&mut self.checkpoints_pending);
        Ok(Position(self.tail))
    }

    /// Makes what was written durable. Everything below the position that it answers is.
    pub fn sync(&mut self) -> Result<Position, LogError> {
        self.sound()?;
        while let Some(&segment) = self.dirty.first() {
            self.disk.sync(segment).map_err(|error| self.poison("sync", segment, &error))?;
            self.dirty.pop_first();
        }
        self.synced = self.tail;
        self.floor_durable = self.floor_written;
        for Cleared { group, start, gone } in std::mem::take(&mut self.checkpoints_written) {
            match gone {
                true => self.needs.remove(&group),
                false => self.needs.insert(group, start),
            };
        }
        self.release()?;
        self.fill_spares()?;
        Ok(Position(self.synced))
    }

    /// Writes an empty frame if the last records are durable but attested by no frame behind them. For an idle moment; not
    /// synced by itself, and answers whether it wrote.
    pub fn attest(&mut self) -> Result<bool, LogError> {
        self.sound()?;
        if self.attested >= self.content_end || self.synced < self.content_end || self.pending_bytes() > 0 {
            return Ok(false);
        }
        self.pending.resize(FRAME_HEADER);
        self.write_frame()?;
        Ok(true)
    }

    /// Everything below is durable.
    pub fn synced(&self) -> Position {
        Position(self.synced)
    }

    /// Everything below is written.
    pub fn written(&self) -> Position {
        Position(self.tail)
    }

    /// How many times the log was opened.
    pub fn run(&self) -> u64 {
        self.run
    }

    /// Bytes that segments with content take. Spares are not counted.
    pub fn bytes_in_use(&self) -> u64 {
        self.live.len() as u64 * self.segment_bytes
    }

    /// Bytes of a segment.
    pub fn segment_bytes(&self) -> u64 {
        self.segment_bytes
    }

    /// The group that needs the oldest position: a checkpoint of it frees the most. None when no group needs anything.
    pub fn oldest_need(&self) -> Option<(GroupId, Position)> {
        self.needs.iter().min_by_key(|(_, at)| **at).map(|(group, at)| (*group, Position(*at)))
    }

    /// Whether the disk had no room for another spare segment. What is left is for checkpoints and the protocols' own records:
    /// the owner refuses clients' writes.
    pub fn is_full(&self) -> bool {
        self.no_space && self.spares.len() < self.spares_wanted
    }

    /// Tries again to make the spare segments that a full disk refused; answers whether the log is no longer full.
    pub fn refill(&mut self) -> Result<bool, LogError> {
        self.sound()?;
        self.no_space = false;
        self.fill_spares()?;
        Ok(!self.is_full())
    }

    /// The error that poisoned the log, if one did.
    pub fn failure(&self) -> Option<&LogError> {
        self.failed.as_ref()
    }

    /// The disk.
    pub fn disk(&self) -> &D {
        &self.disk
    }

    /// The disk, so that a test or a simulator can hurt it.
    pub fn disk_mut(&mut self) -> &mut D {
        &mut self.disk
    }

    /// Gives the disk back. What was not written is lost, what was not synced is up to the disk: a crash of the process.
    pub fn into_disk(self) -> D {
        self.disk
    }

    fn sound(&self) -> Result<(), LogError> {
        match &self.failed {
            Some(error) => Err(error.clone()),
            None => Ok(()),
        }
    }

    fn poison(&mut self, operation: &'static str, segment: u64, error: &io::Error) -> LogError {
        let error = LogError::failed(operation, segment, error);
        self.failed = Some(error.clone());
        error
    }

    /// Notes that a group has content from here on, if it had none.
    fn need(&mut self, group: GroupId) {
        self.needs.entry(group).or_insert(self.tail);
        for cleared in self.checkpoints_pending.iter_mut().chain(&mut self.checkpoints_written) {
            cleared.gone &= cleared.group != group;
        }
    }

    fn push(&mut self, group: GroupId, kind: Kind, content: &[u8]) {
        if self.failed.is_some() {
            return;
        }
        if self.pending.is_empty() {
            self.pending.resize(FRAME_HEADER);
        }
        self.pending.extend_from_slice(&record_header(group, kind.code(), content.len()));
        self.pending.extend_from_slice(content);
    }

    /// Writes one frame: all that is pending, or as much as the segment takes.
    fn write_frame(&mut self) -> Result<(), LogError> {
        if self.tail.is_multiple_of(self.segment_bytes) {
            self.begin_segment()?;
        }
        let room = (self.segment_bytes - self.tail % self.segment_bytes) as usize;
        let rest = if self.pending.len() > room { self.cut(room) } else { AlignedBuffer::default() };
        let records = self.pending_bytes();
        let floor = self.needs.values().copied().min().unwrap_or(self.synced);
        let segment = self.tail / self.segment_bytes;
        let seed = Seed::new(self.salt, segment);
        FrameHeader::seal(self.pending.as_mut_slice(), seed, self.tail, self.run, self.synced, floor);
        self.pending.resize(self.pending.len().next_multiple_of(BLOCK));
        self.dirty.insert(segment);
        let offset = self.tail % self.segment_bytes;
        if let Err(error) = self.disk.write(segment, offset, self.pending.as_slice()) {
            return Err(self.poison("write", segment, &error));
        }
        self.tail += self.pending.len() as u64;
        self.attested = self.synced;
        self.floor_written = floor;
        if records > 0 {
            self.content_end = self.tail;
        }
        if rest.is_empty() && self.pending.capacity() <= BUFFER_BYTES_KEPT {
            self.pending.resize(0);
        } else {
            self.pending = rest;
        }
        Ok(())
    }

    /// Shortens what is pending to `room` bytes, cutting a record in two if need be, and answers the rest as a frame of its own.
    fn cut(&mut self, room: usize) -> AlignedBuffer {
        let bytes = self.pending.as_mut_slice();
        let mut at = FRAME_HEADER;
        let record = loop {
            let record = record_at(bytes, at).expect("what is pending was encoded here");
            if record.content.end > room {
                break record;
            }
            at = record.content.end;
        };
        let mut rest = AlignedBuffer::default();
        rest.resize(FRAME_HEADER);
        // A piece without content would say nothing: then the record begins in the next frame.
        let fits = room.saturating_sub(record.content.start).min(record.content.len());
        if fits == 0 {
            rest.extend_from_slice(&bytes[at..]);
            self.pending.resize(at);
            return rest;
        }
        let first = record_header(record.group, record.code | MORE, fits);
        bytes[at..at + RECORD_HEADER].copy_from_slice(&first);
        let second = record_header(record.group, record.code | CONTINUED, record.content.len() - fits);
        rest.extend_from_slice(&second);
        rest.extend_from_slice(&bytes[record.content.start + fits..]);
        self.pending.resize(room);
        rest
    }

    /// Makes a spare segment the one that is written. Its header is durable before it has its number.
    fn begin_segment(&mut self) -> Result<(), LogError> {
        let spare = self.take_spare()?;
        let segment = self.tail / self.segment_bytes;
        let header = SegmentHeader {
            segment,
            segment_bytes: self.segment_bytes,
            identity: self.identity,
            salt: self.salt,
            synced_through: self.synced,
        };
        let mut block = AlignedBuffer::default();
        block.resize(BLOCK);
        header.encode(block.as_mut_slice());
        let begun = self.disk.write(spare, 0, block.as_slice()).and_then(|()| self.disk.sync(spare));
        begun.and_then(|()| self.disk.rename(spare, segment)).map_err(|error| self.poison("begin", segment, &error))?;
        self.live.push_back(segment);
        self.tail += BLOCK as u64;
        self.fill_spares()
    }

    /// A spare segment that is ready; waits for one, or makes one, if there is none.
    fn take_spare(&mut self) -> Result<u64, LogError> {
        self.fill_spares()?;
        if let Some(spare) = self.spares.pop_first() {
            return Ok(spare);
        }
        if self.preparing.is_none() {
            self.no_space = false;
            self.fill_spares()?;
        }
        if let Some(spare) = self.preparing {
            self.await_spare(spare, true)?;
        }
        self.spares.pop_first().ok_or(LogError::Full { needed_bytes: self.segment_bytes })
    }

    /// Has the disk prepare spares, one at a time, until there are as many as wanted or there is no room.
    fn fill_spares(&mut self) -> Result<(), LogError> {
        loop {
            if let Some(spare) = self.preparing {
                self.await_spare(spare, false)?;
            }
            if self.preparing.is_some() || self.no_space || self.spares.len() >= self.spares_wanted {
                return Ok(());
            }
            let spare = self.next_spare();
            match self.disk.prepare(spare, self.segment_bytes) {
                Ok(()) => self.preparing = Some(spare),
                Err(error) => self.spare_refused(spare, &error)?,
            }
        }
    }

    fn await_spare(&mut self, spare: u64, wait: bool) -> Result<(), LogError> {
        match self.disk.ready(spare, wait) {
            Ok(true) => {
                self.preparing = None;
                self.spares.insert(spare);
                Ok(())
            }
            Ok(false) => Ok(()),
            Err(error) => {
                self.preparing = None;
                self.spare_refused(spare, &error)
            }
        }
    }

    fn spare_refused(&mut self, spare: u64, error: &io::Error) -> Result<(), LogError> {
        if error.kind() != io::ErrorKind::StorageFull {
            return Err(self.poison("create", spare, error));
        }
        self.no_space = true;
        Ok(())
    }

    fn next_spare(&mut self) -> u64 {
        self.spare_next += 1;
        SPARE | self.spare_next
    }

    /// Gives up the segments that nothing needs any more, oldest first, so that those left are always without a gap.
    fn release(&mut self) -> Result<(), LogError> {
        while self.live.len() > 1 && (self.live[0] + 1) * self.segment_bytes <= self.floor_durable {
            let segment = self.live[0];
            self.retire(segment)?;
            self.live.pop_front();
        }
        Ok(())
    }

    /// Makes a segment a spare, or removes it when there are enough.
    fn retire(&mut self, segment: u64) -> Result<(), LogError> {
        if self.spares.len() >= self.spares_wanted {
            return self.disk.remove(segment).map_err(|error| self.poison("remove", segment, &error));
        }
        let spare = self.next_spare();
        self.disk.rename(segment, spare).map_err(|error| self.poison("recycle", segment, &error))?;
        self.spares.insert(spare);
        Ok(())
    }
}
