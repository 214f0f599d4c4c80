//! A disk in memory that can be crashed, killed, filled, and made to lie. For tests and simulators.
//!
//! What was written and not synced is kept apart, write by write: a [crash](MemDisk::crash) keeps, of every sector of 512 bytes,
//! any of the versions that were written, or none, as the caller chooses. After a sync that
//! failed the sectors stay readable but no later sync makes them durable, which is how real kernels behave. Nothing is random
//! here: choices are the caller's.
//!
//! Renaming and removing segments is durable at once, as [`Disk`] demands. A disk has no idea of time: slowness is the
//! simulator's.

use std::collections::BTreeMap;
use std::io::{self, ErrorKind};

use super::disk::{BLOCK, Disk};

/// What a device writes whole.
pub const SECTOR: usize = 512;

/// The disk. See the [module](self).
#[derive(Clone, Debug)]
pub struct MemDisk {
    segments: BTreeMap<u64, Segment>,
    capacity_bytes: u64,
    /// How many operations have changed something, or failed to.
    operations: u64,
    /// The operation from which on the process is dead.
    dies_at: Option<u64>,
    write_fault: Option<WriteFault>,
    sync_fails: bool,
    /// What the disk would be, had it not lied about a write; kept from the first lie on until somebody chooses.
    truth: Option<Box<MemDisk>>,
    /// Space of writes that were synced, to be used again.
    spare: Vec<Vec<u8>>,
}

#[derive(Clone, Debug)]
struct Segment {
    /// How many bytes it has.
    bytes: u64,
    /// What is durable of each block, without the sectors of zeros at its end: most of a log's blocks are padding, and a run of
    /// the simulator has thousands of them.
    durable: Vec<Vec<u8>>,
    /// What was written since the last sync, oldest first.
    cached: Vec<Write>,
}

/// Sectors of one block that were written at once.
#[derive(Clone, Debug)]
struct Write {
    /// The first sector, and how many there are.
    first: usize,
    count: usize,
    /// Their bytes, without the sectors of zeros at the end.
    bytes: Vec<u8>,
    /// A sync failed since: no sync will write it. Then it is one sector.
    abandoned: bool,
}

const ZEROS: [u8; SECTOR] = [0; SECTOR];
const BLOCK_SECTORS: usize = BLOCK / SECTOR;

/// The bytes up to the last sector that is not all zeros.
fn content(sectors: &[u8]) -> &[u8] {
    let last = sectors.chunks_exact(SECTOR).rposition(|sector| sector != ZEROS);
    &sectors[..last.map_or(0, |last| (last + 1) * SECTOR)]
}

impl Write {
    fn sectors(&self) -> std::ops::Range<usize> {
        self.first..self.first + self.count
    }

    fn sector(&self, index: usize) -> &[u8] {
        let at = (index - self.first) * SECTOR;
        self.bytes.get(at..at + SECTOR).unwrap_or(&ZEROS)
    }
}

impl Segment {
    fn empty(bytes: u64) -> Self {
        Segment { bytes, durable: vec![Vec::new(); (bytes as usize).div_ceil(BLOCK)], cached: Vec::new() }
    }

    /// Makes durable what no failed sync has given up; the space of the writes goes to `spare`.
    fn sync(&mut self, spare: &mut Vec<Vec<u8>>) {
        let Segment { durable, cached, .. } = self;
        for write in cached.iter_mut().filter(|write| !write.abandoned) {
            if write.count == BLOCK_SECTORS {
                std::mem::swap(&mut durable[write.first / BLOCK_SECTORS], &mut write.bytes);
                continue;
            }
            for index in write.sectors() {
                keep(durable, index, write.sector(index));
            }
        }
        if cached.iter().any(|write| write.abandoned) {
            // A sector that was written again since is as good as new.
            let synced: Vec<_> = cached.iter().filter(|write| !write.abandoned).map(Write::sectors).collect();
            cached.retain(|write| write.abandoned && !synced.iter().any(|sectors| sectors.contains(&write.first)));
        } else {
            spare.extend(cached.drain(..).map(|write| write.bytes));
            spare.truncate(SPARE_MAX);
        }
    }

    /// Gives up everything that was written: it stays readable, sector by sector.
    fn give_up(&mut self) {
        let whole = std::mem::take(&mut self.cached);
        let sector = |write: &Write, index| Write { first: index, count: 1, bytes: write.sector(index).to_vec(), abandoned: true };
        self.cached = whole.iter().flat_map(|write| write.sectors().map(move |index| sector(write, index))).collect();
    }
}

/// Makes one sector durable.
fn keep(durable: &mut [Vec<u8>], index: usize, sector: &[u8]) {
    let (block, at) = (&mut durable[index / BLOCK_SECTORS], index % BLOCK_SECTORS * SECTOR);
    if block.len() < at + SECTOR {
        block.resize(at + SECTOR, 0);
    }
    block[at..at + SECTOR].copy_from_slice(sector);
}

/// How many writes' space is kept.
const SPARE_MAX: usize = 16;

/// What becomes of the next write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WriteFault {
    /// Writes so many bytes, rounded down to sectors, and fails.
    Short {
        /// Bytes written.
        bytes: u64,
    },
    /// Writes nothing and says that it did.
    Lost,
    /// Writes elsewhere and says nothing.
    Misdirected {
        /// The segment that is hit, if it exists.
        segment: u64,
        /// Where in it, if there is room.
        offset: u64,
    },
}

impl WriteFault {
    /// Whether the disk says that it wrote at `offset` of a segment, and does not.
    fn lies(self, id: u64, offset: u64) -> bool {
        match self {
            WriteFault::Short { .. } => false,
            WriteFault::Lost => true,
            WriteFault::Misdirected { segment, offset: elsewhere } => (segment, elsewhere) != (id, offset),
        }
    }
}

impl Default for MemDisk {
    fn default() -> Self {
        MemDisk {
            segments: BTreeMap::new(),
            capacity_bytes: u64::MAX,
            operations: 0,
            dies_at: None,
            write_fault: None,
            sync_fails: false,
            truth: None,
            spare: Vec::new(),
        }
    }
}

impl MemDisk {
    /// A power loss. For every sector that was written and not synced, `choose(n)` answers a number below `n`: 0 loses it, and
    /// the others keep one of its versions, oldest first.
    pub fn crash(&mut self, mut choose: impl FnMut(u64) -> u64) {
        if let Some(truth) = &mut self.truth {
            truth.lose_power(&mut choose);
        }
        self.lose_power(&mut choose);
    }

    fn lose_power(&mut self, choose: &mut dyn FnMut(u64) -> u64) {
        for segment in self.segments.values_mut() {
            let cached = std::mem::take(&mut segment.cached);
            let mut versions: Vec<(usize, usize)> =
                cached.iter().enumerate().flat_map(|(order, write)| write.sectors().map(move |index| (index, order))).collect();
            versions.sort_unstable();
            for versions in versions.chunk_by(|a, b| a.0 == b.0) {
                let choice = choose(versions.len() as u64 + 1) as usize;
                if let Some(&(index, order)) = choice.checked_sub(1).and_then(|version| versions.get(version)) {
                    keep(&mut segment.durable, index, cached[order].sector(index));
                }
            }
        }
        self.restart();
    }

    /// The process is started again without a power loss: caches stay, faults that were asked for are forgotten.
    pub fn restart(&mut self) {
        self.dies_at = None;
        self.write_fault = None;
        self.sync_fails = false;
        self.in_truth(Self::restart);
    }

    /// Whether it lied about a write, and may yet be made to have told the truth.
    pub fn has_lied(&self) -> bool {
        self.truth.is_some()
    }

    /// It becomes what it would be, had it never lied: everything since the first lie happened to that disk as well.
    pub fn tell_the_truth(&mut self) {
        if let Some(truth) = self.truth.take() {
            *self = *truth;
        }
    }

    /// It cannot be made to have told the truth any more.
    pub fn stand_by_its_lies(&mut self) {
        self.truth = None;
    }

    /// What is done to the disk is done to what it would be. That answers alike, and so its answer is not looked at.
    fn in_truth<T>(&mut self, act: impl FnOnce(&mut MemDisk) -> T) {
        if let Some(truth) = &mut self.truth {
            act(truth);
        }
    }

    /// From the `operations`-th change on (0 is the next), every call fails: the process is dead. A write dies half way.
    pub fn die_after(&mut self, operations: u64) {
        self.dies_at = Some(self.operations + operations);
        self.in_truth(|truth| truth.die_after(operations));
    }

    /// How many changes were asked of the disk so far.
    pub fn operations(&self) -> u64 {
        self.operations
    }

    /// Limits what all segments together may take.
    pub fn set_capacity_bytes(&mut self, bytes: u64) {
        self.capacity_bytes = bytes;
        self.in_truth(|truth| truth.set_capacity_bytes(bytes));
    }

    /// Bytes that all segments together take.
    pub fn used_bytes(&self) -> u64 {
        self.segments.values().map(|segment| segment.bytes).sum()
    }

    /// What becomes of the next write.
    pub fn spoil_next_write(&mut self, fault: WriteFault) {
        self.write_fault = Some(fault);
    }

    /// The next sync fails.
    pub fn fail_next_sync(&mut self) {
        self.sync_fails = true;
        self.in_truth(Self::fail_next_sync);
    }

    /// Changes one byte, in the cache and on the disk, by exclusive or. Answers whether there is such a byte.
    pub fn flip(&mut self, id: u64, offset: u64, mask: u8) -> bool {
        self.in_truth(|truth| truth.flip(id, offset, mask));
        let Some(segment) = self.segments.get_mut(&id).filter(|segment| offset < segment.bytes) else {
            return false;
        };
        let flip = |bytes: &mut Vec<u8>, at: usize| {
            bytes.resize(bytes.len().max((at + 1).next_multiple_of(SECTOR)), 0);
            bytes[at] ^= mask;
        };
        let offset = offset as usize;
        flip(&mut segment.durable[offset / BLOCK], offset % BLOCK);
        for write in segment.cached.iter_mut().filter(|write| write.sectors().contains(&(offset / SECTOR))) {
            flip(&mut write.bytes, offset - write.first * SECTOR);
        }
        true
    }

    /// The numbers of all segments and their bytes, in order.
    pub fn segments(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        self.segments.iter().map(|(id, segment)| (*id, segment.bytes))
    }

    /// Removes a segment behind the log's back. Answers whether there was one.
    pub fn lose_segment(&mut self, id: u64) -> bool {
        self.in_truth(|truth| truth.lose_segment(id));
        self.segments.remove(&id).is_some()
    }

    /// Counts a change; an error when the process is dead. With `true` it dies of this one.
    fn count(&mut self) -> io::Result<bool> {
        let now = self.operations;
        self.operations += 1;
        match self.dies_at {
            Some(dies_at) if now > dies_at => Err(dead()),
            Some(dies_at) => Ok(now == dies_at),
            None => Ok(false),
        }
    }

    /// Counts a change that is there whole or not at all.
    fn count_atomic(&mut self) -> io::Result<()> {
        if self.count()? { Err(dead()) } else { Ok(()) }
    }

    fn store(&mut self, id: u64, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let segment = self.segments.get_mut(&id).ok_or_else(|| missing(id))?;
        if offset + bytes.len() as u64 > segment.bytes {
            return Err(io::Error::new(ErrorKind::InvalidInput, "a write beyond the end of a segment"));
        }
        let mut first = offset as usize / SECTOR;
        let mut rest = &bytes[..bytes.len() / SECTOR * SECTOR];
        while !rest.is_empty() {
            let room = BLOCK - first % BLOCK_SECTORS * SECTOR;
            let (piece, behind) = rest.split_at(room.min(rest.len()));
            let mut space = self.spare.pop().unwrap_or_default();
            space.clear();
            space.extend_from_slice(content(piece));
            let count = piece.len() / SECTOR;
            segment.cached.push(Write { first, count, bytes: space, abandoned: false });
            (first, rest) = (first + count, behind);
        }
        Ok(())
    }
}

impl Disk for MemDisk {
    fn list(&self) -> io::Result<Vec<u64>> {
        Ok(self.segments.keys().copied().collect())
    }

    fn create(&mut self, id: u64, bytes: u64) -> io::Result<()> {
        self.in_truth(|truth| truth.create(id, bytes));
        self.count_atomic()?;
        if self.segments.contains_key(&id) {
            return Err(io::Error::new(ErrorKind::AlreadyExists, format!("segment {id:016x} exists")));
        }
        if self.used_bytes().saturating_add(bytes) > self.capacity_bytes {
            return Err(io::Error::new(ErrorKind::StorageFull, "no space left on the simulated disk"));
        }
        self.segments.insert(id, Segment::empty(bytes));
        Ok(())
    }

    fn rename(&mut self, from: u64, to: u64) -> io::Result<()> {
        self.in_truth(|truth| truth.rename(from, to));
        self.count_atomic()?;
        if self.segments.contains_key(&to) {
            return Err(io::Error::new(ErrorKind::AlreadyExists, format!("segment {to:016x} exists")));
        }
        let segment = self.segments.remove(&from).ok_or_else(|| missing(from))?;
        self.segments.insert(to, segment);
        Ok(())
    }

    fn remove(&mut self, id: u64) -> io::Result<()> {
        self.in_truth(|truth| truth.remove(id));
        self.count_atomic()?;
        self.segments.remove(&id).map(drop).ok_or_else(|| missing(id))
    }

    fn read(&mut self, id: u64, offset: u64, into: &mut [u8]) -> io::Result<()> {
        aligned(offset, into.len());
        if self.dies_at.is_some_and(|dies_at| self.operations > dies_at) {
            return Err(dead());
        }
        let segment = self.segments.get(&id).ok_or_else(|| missing(id))?;
        let start = offset as usize;
        if (start + into.len()) as u64 > segment.bytes {
            return Err(io::Error::from(ErrorKind::UnexpectedEof));
        }
        for (block, into) in segment.durable[start / BLOCK..].iter().zip(into.chunks_exact_mut(BLOCK)) {
            let (content, padding) = into.split_at_mut(block.len());
            content.copy_from_slice(block);
            padding.fill(0);
        }
        let wanted = start / SECTOR..(start + into.len()) / SECTOR;
        for write in &segment.cached {
            let sectors = write.sectors();
            for index in sectors.start.max(wanted.start)..sectors.end.min(wanted.end) {
                let at = (index - wanted.start) * SECTOR;
                into[at..at + SECTOR].copy_from_slice(write.sector(index));
            }
        }
        Ok(())
    }

    fn write(&mut self, id: u64, offset: u64, bytes: &[u8]) -> io::Result<()> {
        aligned(offset, bytes.len());
        let fault = self.write_fault.take();
        let lies = fault.is_some_and(|fault| fault.lies(id, offset));
        if lies && self.truth.is_none() {
            self.truth = Some(Box::new(self.clone()));
        }
        self.in_truth(|truth| {
            truth.write_fault = fault.filter(|_| !lies);
            truth.write(id, offset, bytes)
        });
        if self.count()? {
            let half = bytes.len() / 2 / SECTOR * SECTOR;
            self.store(id, offset, &bytes[..half])?;
            return Err(dead());
        }
        match fault {
            None => self.store(id, offset, bytes),
            Some(WriteFault::Lost) => Ok(()),
            Some(WriteFault::Short { bytes: written }) => {
                let written = (written as usize).min(bytes.len()) / SECTOR * SECTOR;
                self.store(id, offset, &bytes[..written])?;
                Err(io::Error::other("the simulated disk wrote only a part"))
            }
            Some(WriteFault::Misdirected { segment, offset }) => {
                let room = self.segments.get(&segment).map_or(0, |hit| hit.bytes);
                let room = room.saturating_sub(offset).min(bytes.len() as u64) as usize / SECTOR * SECTOR;
                if room > 0 { self.store(segment, offset, &bytes[..room]) } else { Ok(()) }
            }
        }
    }

    fn sync(&mut self, id: u64) -> io::Result<()> {
        self.in_truth(|truth| truth.sync(id));
        let dies = self.count()?;
        let segment = self.segments.get_mut(&id).ok_or_else(|| missing(id))?;
        if dies {
            return Err(dead());
        }
        if std::mem::take(&mut self.sync_fails) {
            segment.give_up();
            return Err(io::Error::other("the simulated disk could not sync"));
        }
        segment.sync(&mut self.spare);
        Ok(())
    }
}

fn aligned(offset: u64, len: usize) {
    assert!(offset.is_multiple_of(BLOCK as u64), "an offset is a multiple of a block");
    assert!(len.is_multiple_of(BLOCK), "a length is a multiple of a block");
}

fn missing(id: u64) -> io::Error {
    io::Error::new(ErrorKind::NotFound, format!("no segment {id:016x}"))
}

fn dead() -> io::Error {
    io::Error::new(ErrorKind::BrokenPipe, "the simulated process is dead")
}
