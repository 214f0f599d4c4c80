//! A snapshot: one group's executed state as a stream of bytes, for a file or a connection.
//!
//! It begins with a header that says of which cluster and group, and the *mark* that the state stands at (opaque here; in
//! practice an encoded frontier). Then come chunks of entries in the order they were added, and last a chunk that counts them:
//! a stream without it is incomplete, however good the rest. Every chunk's checksum is seeded with that of the one before, and
//! the first with the header's, so that chunks of two snapshots, or in another order, do not pass as one.
//!
//! | part | bytes |
//! | --- | --- |
//! | header | `CONCURSN`, version (4), CRC-32 (4) of the version and all that follows in the header; cluster (8), node that made it (8), group (8), length of the mark (4), mark |
//! | chunk | kind (1: entries 1, end 2), length (4), CRC-32 (4), content |
//! | entries | each: length of the key (4), key, length of the value (4), value |
//! | end | entries (8), bytes of keys and values (8) |
//!
//! Lengths are little-endian. A reader believes none before the bytes are there: it takes memory as the bytes arrive, and no
//! more than a chunk may have. It hands out entries of a chunk only when the whole chunk was as written.
//!
//! Left out: compression, encryption, and reading from the middle.

use std::fs::File;
use std::io::{self, BufReader, ErrorKind, Read, Write};
use std::path::Path;

use bytes::{Buf, Bytes};
use concur_core::GroupId;
use thiserror::Error;

/// The version that this program writes, and the newest that it reads.
pub const FORMAT_VERSION: u32 = 1;

/// A chunk is ended when it has so many bytes; one with a large entry has more.
const CHUNK_BYTES: usize = 64 << 10;
/// No chunk has more bytes: an entry's key and value have less together.
pub const CHUNK_BYTES_MAX: usize = 256 << 20;
/// No mark has more bytes.
pub const MARK_BYTES_MAX: usize = 16 << 20;

const MAGIC: &[u8; 8] = b"CONCURSN";
const HEADER: usize = 44;
const CHUNK_HEADER: usize = 9;
const ENTRIES: u8 = 1;
const END: u8 = 2;

/// Of what a snapshot is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnapshotHeader {
    /// The cluster.
    pub cluster: u64,
    /// The node that made it.
    pub node: u64,
    /// The group.
    pub group: GroupId,
    /// Where in the group's history the state stands.
    pub mark: Bytes,
}

/// Why a snapshot cannot be written or read.
#[derive(Debug, Error)]
pub enum SnapshotError {
    /// The stream failed, or ended early ([`ErrorKind::UnexpectedEof`]).
    #[error("the snapshot's stream failed: {0}")]
    Io(#[from] io::Error),

    /// Not a snapshot, or changed since it was written.
    #[error("the snapshot is damaged{}: {what}. Discard it and take or fetch another", in_chunk(*chunk))]
    Damaged {
        /// The chunk; 0 is the header, or the whole.
        chunk: u64,
        /// What was found.
        what: &'static str,
    },

    /// Written by a newer program.
    #[error("the snapshot has format {found}, and this program reads up to {FORMAT_VERSION}. Use a newer concur")]
    Newer {
        /// Its version.
        found: u32,
    },

    /// More than a snapshot can hold in one piece.
    #[error("{what} of {bytes} bytes does not fit a snapshot; at most {bytes_max} do")]
    TooLarge {
        /// Of what.
        what: &'static str,
        /// Its bytes.
        bytes: usize,
        /// How many may be.
        bytes_max: usize,
    },
}

/// Writes a snapshot. It is complete only after [`finish`](SnapshotWriter::finish).
#[derive(Debug)]
pub struct SnapshotWriter<W: Write> {
    stream: W,
    chunk: Vec<u8>,
    crc: u32,
    entries: u64,
    bytes: u64,
}

impl<W: Write> SnapshotWriter<W> {
    /// Begins a snapshot. Streams should be buffered; each chunk is two writes.
    pub fn new(mut stream: W, header: &SnapshotHeader) -> Result<Self, SnapshotError> {
        fits("a mark", header.mark.len(), MARK_BYTES_MAX)?;
        let mut bytes = Vec::with_capacity(HEADER + header.mark.len());
        bytes.extend_from_slice(MAGIC);
        bytes.extend_from_slice(&FORMAT_VERSION.to_le_bytes());
        bytes.extend_from_slice(&[0; 4]);
        bytes.extend_from_slice(&header.cluster.to_le_bytes());
        bytes.extend_from_slice(&header.node.to_le_bytes());
        bytes.extend_from_slice(&header.group.0.to_le_bytes());
        bytes.extend_from_slice(&(header.mark.len() as u32).to_le_bytes());
        bytes.extend_from_slice(&header.mark);
        let crc = header_crc(&bytes[..HEADER], &header.mark);
        bytes[12..16].copy_from_slice(&crc.to_le_bytes());
        stream.write_all(&bytes)?;
        Ok(SnapshotWriter { stream, chunk: Vec::new(), crc, entries: 0, bytes: 0 })
    }

    /// Adds an entry.
    pub fn entry(&mut self, key: &[u8], value: &[u8]) -> Result<(), SnapshotError> {
        fits("an entry", key.len().saturating_add(value.len()), CHUNK_BYTES_MAX - 8)?;
        if self.chunk.len() + 8 + key.len() + value.len() > CHUNK_BYTES.max(8 + key.len() + value.len()) {
            self.flush_chunk(ENTRIES)?;
        }
        for part in [key, value] {
            self.chunk.extend_from_slice(&(part.len() as u32).to_le_bytes());
            self.chunk.extend_from_slice(part);
        }
        self.entries += 1;
        self.bytes += (key.len() + value.len()) as u64;
        Ok(())
    }

    /// Ends the snapshot and flushes the stream, which it gives back. What is behind the stream is not synced.
    pub fn finish(mut self) -> Result<W, SnapshotError> {
        if !self.chunk.is_empty() {
            self.flush_chunk(ENTRIES)?;
        }
        self.chunk.extend_from_slice(&self.entries.to_le_bytes());
        self.chunk.extend_from_slice(&self.bytes.to_le_bytes());
        self.flush_chunk(END)?;
        self.stream.flush()?;
        Ok(self.stream)
    }

    fn flush_chunk(&mut self, kind: u8) -> Result<(), SnapshotError> {
        self.crc = chunk_crc(self.crc, kind, &self.chunk);
        let mut header = [kind; CHUNK_HEADER];
        header[1..5].copy_from_slice(&(self.chunk.len() as u32).to_le_bytes());
        header[5..9].copy_from_slice(&self.crc.to_le_bytes());
        self.stream.write_all(&header)?;
        self.stream.write_all(&self.chunk)?;
        self.chunk.clear();
        Ok(())
    }
}

/// Reads a snapshot: an iterator of its entries, which ends without an error only at the end of a complete snapshot.
#[derive(Debug)]
pub struct SnapshotReader<R: Read> {
    stream: R,
    header: SnapshotHeader,
    /// What is left of the current chunk.
    rest: Bytes,
    crc: u32,
    chunk: u64,
    entries: u64,
    bytes: u64,
    /// The end was reached, or an error was answered.
    over: bool,
}

impl<R: Read> SnapshotReader<R> {
    /// Reads and checks the header.
    pub fn new(mut stream: R) -> Result<Self, SnapshotError> {
        let damaged = |what| SnapshotError::Damaged { chunk: 0, what };
        let mut fixed = [0; HEADER];
        stream.read_exact(&mut fixed)?;
        let mut fields = &fixed[..];
        if fields.copy_to_bytes(8) != MAGIC[..] {
            return Err(damaged("it is not a snapshot"));
        }
        let (version, crc) = (fields.get_u32_le(), fields.get_u32_le());
        if version > FORMAT_VERSION {
            return Err(SnapshotError::Newer { found: version });
        }
        let (cluster, node, group) = (fields.get_u64_le(), fields.get_u64_le(), GroupId(fields.get_u64_le()));
        let mark_bytes = fields.get_u32_le() as usize;
        if mark_bytes > MARK_BYTES_MAX {
            return Err(damaged("its mark is too long"));
        }
        let mark = read_bytes(&mut stream, mark_bytes)?;
        if header_crc(&fixed, &mark) != crc {
            return Err(damaged("its header is not as it was written"));
        }
        let header = SnapshotHeader { cluster, node, group, mark: mark.into() };
        Ok(SnapshotReader { stream, header, rest: Bytes::new(), crc, chunk: 0, entries: 0, bytes: 0, over: false })
    }

    /// Of what it is.
    pub fn header(&self) -> &SnapshotHeader {
        &self.header
    }

    fn advance(&mut self) -> Result<Option<(Bytes, Bytes)>, SnapshotError> {
        while self.rest.is_empty() {
            if self.read_chunk()? {
                return Ok(None);
            }
        }
        let (key, value) = match (self.part(), self.part()) {
            (Some(key), Some(value)) => (key, value),
            _ => return Err(self.damaged("an entry does not end within its chunk")),
        };
        self.entries += 1;
        self.bytes += (key.len() + value.len()) as u64;
        Ok(Some((key, value)))
    }

    /// Reads the next chunk; answers whether it was the last.
    fn read_chunk(&mut self) -> Result<bool, SnapshotError> {
        self.chunk += 1;
        let mut header = [0; CHUNK_HEADER];
        self.stream.read_exact(&mut header)?;
        let (kind, mut fields) = (header[0], &header[1..]);
        let (bytes, crc) = (fields.get_u32_le() as usize, fields.get_u32_le());
        if bytes > CHUNK_BYTES_MAX {
            return Err(self.damaged("it is too long"));
        }
        let content = read_bytes(&mut self.stream, bytes)?;
        self.crc = chunk_crc(self.crc, kind, &content);
        if self.crc != crc {
            return Err(self.damaged("it is not as it was written"));
        }
        match kind {
            ENTRIES => {
                self.rest = content.into();
                Ok(false)
            }
            END if content[..] == [self.entries.to_le_bytes(), self.bytes.to_le_bytes()].concat() => Ok(true),
            END => Err(self.damaged("it counts other entries")),
            _ => Err(self.damaged("it is of no known kind")),
        }
    }

    fn part(&mut self) -> Option<Bytes> {
        let bytes = self.rest.try_get_u32_le().ok()? as usize;
        (bytes <= self.rest.len()).then(|| self.rest.split_to(bytes))
    }

    fn damaged(&self, what: &'static str) -> SnapshotError {
        SnapshotError::Damaged { chunk: self.chunk, what }
    }
}

impl<R: Read> Iterator for SnapshotReader<R> {
    type Item = Result<(Bytes, Bytes), SnapshotError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.over {
            return None;
        }
        let next = self.advance().transpose();
        self.over = !matches!(next, Some(Ok(_)));
        next
    }
}

impl SnapshotReader<BufReader<File>> {
    /// Reads a file.
    pub fn open(path: &Path) -> Result<Self, SnapshotError> {
        Self::new(BufReader::with_capacity(4 * CHUNK_BYTES, File::open(path)?))
    }
}

fn in_chunk(chunk: u64) -> String {
    if chunk == 0 { String::new() } else { format!(" in chunk {chunk}") }
}

fn fits(what: &'static str, bytes: usize, bytes_max: usize) -> Result<(), SnapshotError> {
    if bytes > bytes_max { Err(SnapshotError::TooLarge { what, bytes, bytes_max }) } else { Ok(()) }
}

fn header_crc(fixed: &[u8], mark: &[u8]) -> u32 {
    let mut crc = crc32fast::Hasher::new();
    crc.update(&fixed[8..12]);
    crc.update(&fixed[16..]);
    crc.update(mark);
    crc.finalize()
}

fn chunk_crc(before: u32, kind: u8, content: &[u8]) -> u32 {
    let mut crc = crc32fast::Hasher::new_with_initial(before);
    crc.update(&[kind]);
    crc.update(&(content.len() as u32).to_le_bytes());
    crc.update(content);
    crc.finalize()
}

/// Reads exactly so many bytes, taking memory only as they arrive.
fn read_bytes(stream: &mut impl Read, bytes: usize) -> io::Result<Vec<u8>> {
    let mut content = Vec::with_capacity(bytes.min(CHUNK_BYTES));
    stream.take(bytes as u64).read_to_end(&mut content)?;
    if content.len() < bytes { Err(ErrorKind::UnexpectedEof.into()) } else { Ok(content) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header() -> SnapshotHeader {
        SnapshotHeader { cluster: 1, node: 2, group: GroupId(3), mark: Bytes::from_static(b"here") }
    }

    fn entries(count: usize, value_bytes: usize) -> Vec<(Bytes, Bytes)> {
        (0..count).map(|i| (Bytes::from(format!("key {i}")), Bytes::from(vec![i as u8; value_bytes + i]))).collect()
    }

    fn snapshot(entries: &[(Bytes, Bytes)]) -> Vec<u8> {
        let mut writer = SnapshotWriter::new(Vec::new(), &header()).expect("begins");
        entries.iter().for_each(|(key, value)| writer.entry(key, value).expect("writes"));
        writer.finish().expect("ends")
    }

    fn read(bytes: &[u8]) -> Result<Vec<(Bytes, Bytes)>, SnapshotError> {
        let reader = SnapshotReader::new(bytes)?;
        assert_eq!(reader.header(), &header());
        reader.collect()
    }

    #[test]
    fn what_was_written_is_read() {
        for (count, value_bytes) in [(0, 0), (1, 0), (3, 200_000), (5_000, 30)] {
            let written = entries(count, value_bytes);
            assert_eq!(read(&snapshot(&written)).expect("reads"), written);
        }
    }

    #[test]
    fn any_changed_byte_and_any_early_end_is_an_error() {
        let whole = snapshot(&entries(20, 40));
        for at in 0..whole.len() {
            let mut hurt = whole.clone();
            hurt[at] ^= 0x40;
            assert!(read(&hurt).is_err(), "byte {at}");
            assert!(matches!(read(&whole[..at]), Err(SnapshotError::Io(error)) if error.kind() == ErrorKind::UnexpectedEof), "end {at}");
        }
    }

    #[test]
    fn chunks_left_out_or_put_elsewhere_do_not_pass() {
        let written = entries(3, CHUNK_BYTES);
        let whole = snapshot(&written);
        let first = HEADER + 4;
        let second = first + CHUNK_HEADER + 8 + written[0].0.len() + written[0].1.len();
        let without = [&whole[..first], &whole[second..]].concat();
        assert!(matches!(read(&without), Err(SnapshotError::Damaged { chunk: 1, .. })));
    }

    #[test]
    fn lengths_are_not_believed() {
        let mut hurt = snapshot(&entries(1, 10));
        hurt[40..44].copy_from_slice(&u32::MAX.to_le_bytes());
        assert!(matches!(read(&hurt), Err(SnapshotError::Damaged { chunk: 0, .. })));
        let mut hurt = snapshot(&entries(1, 10));
        hurt[49..53].copy_from_slice(&(CHUNK_BYTES_MAX as u32).to_le_bytes());
        assert!(matches!(read(&hurt), Err(SnapshotError::Io(_))));
    }

    #[test]
    fn a_newer_snapshot_is_refused() {
        let mut newer = snapshot(&[]);
        newer[8] = 2;
        assert!(matches!(read(&newer), Err(SnapshotError::Newer { found: 2 })));
    }
}
