//! How the log looks on disk. All numbers are little-endian.
//!
//! A segment begins with a header block:
//!
//! | bytes | what |
//! | --- | --- |
//! | 0–7 | `CONCURWL` |
//! | 8–11 | format version |
//! | 12–15 | CRC-32 of the version and of bytes 16 to the block's end |
//! | 16–23 | the segment's number (its generation: numbers are never used twice for different content of the log) |
//! | 24–31 | bytes a segment |
//! | 32–47 | cluster, node |
//! | 48–55 | salt |
//! | 56–63 | synced through, when the segment was begun |
//!
//! The first sixteen bytes mean the same in every version, so that an older program can tell a newer log from a damaged one.
//!
//! Behind it stand frames, each from a block boundary on, padded with zeros to the next:
//!
//! | bytes | what |
//! | --- | --- |
//! | 0–3 | `FRAM` |
//! | 4–7 | CRC-32 of bytes 8–47, seeded with the salt and the segment's number |
//! | 8–15 | the frame's own position |
//! | 16–23 | run: how many times the log was opened when this frame was written |
//! | 24–31 | synced through: what was known durable before this frame was written |
//! | 32–39 | floor: nothing below is needed to recover |
//! | 40–43 | bytes of the body |
//! | 44–47 | CRC-32 of the body, seeded with the seed above, the position and the run |
//!
//! The body is records: group (8 bytes), kind (1), length (4), content. A record that does not fit into what is left of a
//! segment is cut: its first pieces carry [`MORE`], its later ones [`CONTINUED`].

use super::disk::BLOCK;
use super::{GroupId, LogIdentity};

/// The version that this program writes, and the newest that it reads.
pub const FORMAT_VERSION: u32 = 1;

const SEGMENT_MAGIC: &[u8; 8] = b"CONCURWL";
const FRAME_MAGIC: &[u8; 4] = b"FRAM";

/// Bytes of a frame before its body.
pub(super) const FRAME_HEADER: usize = 48;
/// Bytes of a record before its content.
pub(super) const RECORD_HEADER: usize = 13;

/// Set in a record's kind when its content goes on in the next record.
pub(super) const MORE: u8 = 0x80;
/// Set in a record's kind when its content goes on from the record before.
pub(super) const CONTINUED: u8 = 0x40;

/// What a segment says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct SegmentHeader {
    pub(super) segment: u64,
    pub(super) segment_bytes: u64,
    pub(super) identity: LogIdentity,
    pub(super) salt: u64,
    pub(super) synced_through: u64,
}

/// Why a header block was not accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum HeaderFault {
    /// No header, or not as it was written.
    Unreadable,
    /// Written by a newer program.
    Newer(u32),
}

impl SegmentHeader {
    /// Writes the header over the first block of `block`.
    pub(super) fn encode(&self, block: &mut [u8]) {
        assert_eq!(block.len(), BLOCK);
        block.fill(0);
        block[0..8].copy_from_slice(SEGMENT_MAGIC);
        block[8..12].copy_from_slice(&FORMAT_VERSION.to_le_bytes());
        block[16..24].copy_from_slice(&self.segment.to_le_bytes());
        block[24..32].copy_from_slice(&self.segment_bytes.to_le_bytes());
        block[32..40].copy_from_slice(&self.identity.cluster.to_le_bytes());
        block[40..48].copy_from_slice(&self.identity.node.to_le_bytes());
        block[48..56].copy_from_slice(&self.salt.to_le_bytes());
        block[56..64].copy_from_slice(&self.synced_through.to_le_bytes());
        let crc = header_crc(block);
        block[12..16].copy_from_slice(&crc.to_le_bytes());
    }

    /// Reads a header block.
    pub(super) fn decode(block: &[u8]) -> Result<SegmentHeader, HeaderFault> {
        if block.len() != BLOCK || &block[0..8] != SEGMENT_MAGIC || u32_at(block, 12) != header_crc(block) {
            return Err(HeaderFault::Unreadable);
        }
        match u32_at(block, 8) {
            0 => Err(HeaderFault::Unreadable),
            version if version > FORMAT_VERSION => Err(HeaderFault::Newer(version)),
            _ => Ok(SegmentHeader {
                segment: u64_at(block, 16),
                segment_bytes: u64_at(block, 24),
                identity: LogIdentity { cluster: u64_at(block, 32), node: u64_at(block, 40) },
                salt: u64_at(block, 48),
                synced_through: u64_at(block, 56),
            }),
        }
    }
}

/// The checksum that a header block of any version must carry.
pub(super) fn header_crc(block: &[u8]) -> u32 {
    let mut crc = crc32fast::Hasher::new();
    crc.update(&block[8..12]);
    crc.update(&block[16..]);
    crc.finalize()
}

/// What a frame says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct FrameHeader {
    pub(super) position: u64,
    pub(super) run: u64,
    pub(super) synced_through: u64,
    pub(super) floor: u64,
    pub(super) body_bytes: u32,
    pub(super) body_crc: u32,
}

/// What every checksum of a segment begins from.
#[derive(Clone, Copy, Debug)]
pub(super) struct Seed(u32);

impl Seed {
    pub(super) fn new(salt: u64, segment: u64) -> Seed {
        let mut crc = crc32fast::Hasher::new();
        crc.update(&salt.to_le_bytes());
        crc.update(&segment.to_le_bytes());
        Seed(crc.finalize())
    }

    fn body(self, position: u64, run: u64, body: &[u8]) -> u32 {
        let mut crc = crc32fast::Hasher::new_with_initial(self.0);
        crc.update(&position.to_le_bytes());
        crc.update(&run.to_le_bytes());
        crc.update(body);
        crc.finalize()
    }

    fn header(self, bytes: &[u8]) -> u32 {
        let mut crc = crc32fast::Hasher::new_with_initial(self.0);
        crc.update(&bytes[8..FRAME_HEADER]);
        crc.finalize()
    }
}

impl FrameHeader {
    /// Completes a frame whose body already stands behind the place of its header.
    pub(super) fn seal(frame: &mut [u8], seed: Seed, position: u64, run: u64, synced_through: u64, floor: u64) {
        let (header, body) = frame.split_at_mut(FRAME_HEADER);
        let body_bytes = u32::try_from(body.len()).expect("a frame fits a segment");
        header[0..4].copy_from_slice(FRAME_MAGIC);
        header[8..16].copy_from_slice(&position.to_le_bytes());
        header[16..24].copy_from_slice(&run.to_le_bytes());
        header[24..32].copy_from_slice(&synced_through.to_le_bytes());
        header[32..40].copy_from_slice(&floor.to_le_bytes());
        header[40..44].copy_from_slice(&body_bytes.to_le_bytes());
        header[44..48].copy_from_slice(&seed.body(position, run, body).to_le_bytes());
        let crc = seed.header(header);
        header[4..8].copy_from_slice(&crc.to_le_bytes());
    }

    /// Reads a frame's header that must stand at `position`, with `room` bytes from there to the segment's end.
    pub(super) fn decode(bytes: &[u8], seed: Seed, position: u64, room: u64) -> Option<FrameHeader> {
        if !claims_frame(bytes, position) || u32_at(bytes, 4) != seed.header(bytes) {
            return None;
        }
        let header = FrameHeader {
            position,
            run: u64_at(bytes, 16),
            synced_through: u64_at(bytes, 24),
            floor: u64_at(bytes, 32),
            body_bytes: u32_at(bytes, 40),
            body_crc: u32_at(bytes, 44),
        };
        let fits = u64::from(header.body_bytes) + FRAME_HEADER as u64 <= room;
        (fits && header.synced_through <= position && header.floor <= position).then_some(header)
    }

    /// Whether `body` is what was written.
    pub(super) fn matches(&self, seed: Seed, body: &[u8]) -> bool {
        body.len() == self.body_bytes as usize && seed.body(self.position, self.run, body) == self.body_crc
    }

    /// Bytes on disk, padding included.
    pub(super) fn disk_bytes(&self) -> u64 {
        (FRAME_HEADER as u64 + u64::from(self.body_bytes)).next_multiple_of(BLOCK as u64)
    }
}

/// Whether these bytes look like a frame written for this position, whatever their checksum says.
pub(super) fn claims_frame(bytes: &[u8], position: u64) -> bool {
    bytes.len() >= FRAME_HEADER && &bytes[0..4] == FRAME_MAGIC && u64_at(bytes, 8) == position
}

/// What a record is to the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// One record that was appended.
    Record,
    /// From here on a checkpoint of the group is listed.
    CheckpointBegin,
    /// One record of a checkpoint.
    CheckpointRecord,
    /// The checkpoint is complete and replaces everything older.
    CheckpointEnd,
    /// The group is gone.
    Forget,
}

impl Kind {
    pub(super) fn code(self) -> u8 {
        match self {
            Kind::Record => 0,
            Kind::CheckpointBegin => 1,
            Kind::CheckpointRecord => 2,
            Kind::CheckpointEnd => 3,
            Kind::Forget => 4,
        }
    }

    pub(super) fn of(code: u8) -> Option<Kind> {
        match code & !(MORE | CONTINUED) {
            0 => Some(Kind::Record),
            1 => Some(Kind::CheckpointBegin),
            2 => Some(Kind::CheckpointRecord),
            3 => Some(Kind::CheckpointEnd),
            4 => Some(Kind::Forget),
            _ => None,
        }
    }
}

/// The bytes before a record's content.
pub(super) fn record_header(group: GroupId, code: u8, bytes: usize) -> [u8; RECORD_HEADER] {
    let bytes = u32::try_from(bytes).expect("a record is at most 4 GiB");
    let mut header = [0; RECORD_HEADER];
    header[0..8].copy_from_slice(&group.0.to_le_bytes());
    header[8] = code;
    header[9..13].copy_from_slice(&bytes.to_le_bytes());
    header
}

/// One record of a body: group, kind with its marks, and where its content stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct RecordAt {
    pub(super) group: GroupId,
    pub(super) code: u8,
    pub(super) content: std::ops::Range<usize>,
}

/// Reads the record that begins at `at`; nothing when it does not end within `body`.
pub(super) fn record_at(body: &[u8], at: usize) -> Option<RecordAt> {
    let header = body.get(at..at.checked_add(RECORD_HEADER)?)?;
    let start = at + RECORD_HEADER;
    let end = start.checked_add(u32_at(header, 9) as usize)?;
    (end <= body.len()).then(|| RecordAt { group: GroupId(u64_at(header, 0)), code: header[8], content: start..end })
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}
