//! Opening: reads the stream from its first segment on, decides whether what ends it is honest, and begins a new run.
//!
//! The order matters. Headers first, since they say whose the segments are and how to read them; then the frames, one behind
//! the other, to the first that is not valid; then every block behind that one, for frames that prove it was durable. Only
//! when nothing contradicts is anything written: what no frame attested once more, then the empty frame of the new run.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bytes::Bytes;

use super::disk::{AlignedBuffer, BLOCK, Disk};
use super::error::LogError;
use super::format::{
    CONTINUED, FORMAT_VERSION, FRAME_HEADER, FrameHeader, HeaderFault, Kind, MORE, Seed, SegmentHeader, claims_frame, record_at,
};
use super::{GroupId, Log, LogOptions, Position, SPARE};

/// Bytes read from the disk at once.
const WINDOW_BYTES: u64 = 1 << 20;
/// Bytes of the largest segment.
const SEGMENT_BYTES_MAX: u64 = 1 << 30;

/// What an opened log holds. All of it is durable.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Recovered {
    /// Each group's records since, and including, its last complete checkpoint, in the order they were appended.
    pub groups: BTreeMap<GroupId, Vec<Bytes>>,
    /// What was cut off the end, if anything was.
    pub torn: Option<TornTail>,
    /// There was no log, and one was created.
    pub fresh: bool,
    /// Where the records end.
    pub end: Position,
}

/// An end that a crash left, and that nobody was told to be durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TornTail {
    /// The segment.
    pub segment: u64,
    /// Bytes from the segment's beginning to the first frame that was cut off.
    pub offset: u64,
    /// Complete frames that stood behind it and were cut off too.
    pub frames_beyond: u64,
}

pub(super) fn open<D: Disk>(disk: D, options: LogOptions) -> Result<(Log<D>, Recovered), LogError> {
    check_segment_bytes(options.segment_bytes)?;
    if options.spares == 0 {
        return Err(LogError::Options { what: "fewer than one spare segment", value: 0 });
    }
    let mut log = begin(disk, options)?;
    if log.live.is_empty() {
        return create(log, options.must_exist);
    }
    let attested = check_headers(&mut log)?;
    let found = scan(&mut log, attested)?;
    let beyond = found.end / log.segment_bytes;
    while let Some(&segment) = log.live.back().filter(|segment| **segment > beyond) {
        log.live.pop_back();
        log.retire(segment)?;
    }
    log.tail = found.end;
    log.run = found.run_max;
    rewrite(&mut log, found.attested)?;
    log.needs = found.replay.groups.iter().map(|(group, held)| (*group, held.start)).collect();
    begin_run(&mut log)?;
    let groups = found.replay.groups.into_iter().map(|(group, held)| (group, held.records)).collect();
    Ok((log, Recovered { groups, torn: found.torn, fresh: false, end: Position(found.end) }))
}

fn check_segment_bytes(bytes: u64) -> Result<(), LogError> {
    if !bytes.is_multiple_of(BLOCK as u64) || !(2 * BLOCK as u64..=SEGMENT_BYTES_MAX).contains(&bytes) {
        return Err(LogError::Options { what: "segments of such a size", value: bytes });
    }
    Ok(())
}

/// The log before anything of it is read: which segments there are.
fn begin<D: Disk>(disk: D, options: LogOptions) -> Result<Log<D>, LogError> {
    let mut ids = disk.list().map_err(|error| LogError::failed("list", 0, &error))?;
    ids.sort_unstable();
    let (live, spares): (Vec<u64>, Vec<u64>) = ids.into_iter().partition(|id| id & SPARE == 0);
    Ok(Log {
        disk,
        identity: options.identity,
        segment_bytes: options.segment_bytes,
        salt: options.salt,
        run: 0,
        live: VecDeque::from(live),
        spare_next: spares.last().map_or(0, |spare| spare & !SPARE),
        spares: BTreeSet::from_iter(spares),
        spares_wanted: options.spares,
        preparing: None,
        no_space: false,
        tail: 0,
        dirty: BTreeSet::new(),
        synced: 0,
        attested: 0,
        content_end: 0,
        floor_written: 0,
        floor_durable: 0,
        needs: BTreeMap::new(),
        checkpoints_pending: Vec::new(),
        checkpoints_written: Vec::new(),
        pending: AlignedBuffer::default(),
        failed: None,
    })
}

fn create<D: Disk>(mut log: Log<D>, must_exist: bool) -> Result<(Log<D>, Recovered), LogError> {
    if must_exist {
        return Err(LogError::Missing);
    }
    // Spares without a log are what a crash left of an earlier creation, of a size that nobody recorded.
    while let Some(spare) = log.spares.pop_first() {
        log.disk.remove(spare).map_err(|error| LogError::failed("remove", spare, &error))?;
    }
    begin_run(&mut log)?;
    Ok((log, Recovered { fresh: true, ..Recovered::default() }))
}

/// Writes and syncs the empty frame that begins a run, and attests all that stands before it.
fn begin_run<D: Disk>(log: &mut Log<D>) -> Result<(), LogError> {
    log.run += 1;
    log.synced = log.tail;
    log.content_end = log.tail;
    log.pending.resize(FRAME_HEADER);
    log.write_frame()?;
    log.sync()?;
    Ok(())
}

/// Checks that the segments belong together and to whoever opens them. Answers what their headers attest.
fn check_headers<D: Disk>(log: &mut Log<D>) -> Result<u64, LogError> {
    let mut block = AlignedBuffer::default();
    block.resize(BLOCK);
    let mut attested = 0;
    for (index, &segment) in log.live.iter().enumerate() {
        let expected = log.live[0] + index as u64;
        if segment != expected {
            return Err(LogError::damage(expected, 0, "the segment is missing"));
        }
        log.disk.read(segment, 0, block.as_mut_slice()).map_err(|error| unreadable(segment, 0, &error))?;
        let header = SegmentHeader::decode(block.as_slice()).map_err(|fault| match fault {
            HeaderFault::Unreadable => LogError::damage(segment, 0, "its header is not as it was written"),
            HeaderFault::Newer(found) => LogError::Newer { segment, found, supported: FORMAT_VERSION },
        })?;
        if header.identity != log.identity {
            return Err(LogError::Foreign { found: header.identity, expected: log.identity });
        }
        if header.segment != segment {
            return Err(LogError::damage(segment, 0, "its header is that of another segment"));
        }
        if index == 0 {
            check_segment_bytes(header.segment_bytes).map_err(|_| LogError::damage(segment, 0, "its header states an impossible size"))?;
            log.segment_bytes = header.segment_bytes;
            log.salt = header.salt;
        }
        if header.segment_bytes != log.segment_bytes || header.salt != log.salt {
            return Err(LogError::damage(segment, 0, "its header is that of another log"));
        }
        attested = attested.max(header.synced_through);
    }
    Ok(attested)
}

/// An error of a read: a file that is too short is damage, anything else is the disk's failure.
fn unreadable(segment: u64, offset: u64, error: &std::io::Error) -> LogError {
    match error.kind() {
        std::io::ErrorKind::UnexpectedEof => LogError::damage(segment, offset, "the segment is shorter than it was"),
        _ => LogError::failed("read", segment, error),
    }
}

/// What the scan found.
struct Found {
    replay: Replay,
    /// Where the stream ends.
    end: u64,
    /// What the last frame attests.
    attested: u64,
    /// The highest run of any frame, cut off or not.
    run_max: u64,
    torn: Option<TornTail>,
}

fn scan<D: Disk>(log: &mut Log<D>, attested_by_headers: u64) -> Result<Found, LogError> {
    let (segments, bytes) = (log.live.clone(), log.segment_bytes);
    let mut reader = Reader::new(&mut log.disk, bytes, log.salt);
    let mut replay = Replay::default();
    let mut last: Option<FrameHeader> = None;
    let mut end = segments[0] * bytes + BLOCK as u64;
    let final_end = (segments[segments.len() - 1] + 1) * bytes;
    while end < final_end {
        end = if end.is_multiple_of(bytes) { end + BLOCK as u64 } else { end };
        let run = last.map_or(0, |frame| frame.run);
        match reader.frame(end)? {
            Some(frame) if frame.run >= run => {
                if frame.run > run {
                    replay.new_run();
                }
                replay.apply(reader.body(&frame), end, bytes)?;
                end += frame.disk_bytes();
                last = Some(frame);
            }
            _ => break,
        }
    }
    let (run, floor) = last.map_or((0, 0), |frame| (frame.run, frame.floor));
    let beyond = look_beyond(&mut reader, end, final_end, run)?;
    if beyond.attested.max(attested_by_headers) > end {
        return Err(LogError::damage(end / bytes, end % bytes, "a frame that was durable is not as it was written"));
    }
    if segments[0] * bytes > floor {
        return Err(LogError::damage(segments[0] - 1, 0, "the segment is missing"));
    }
    let torn = (beyond.frames > 0 || beyond.claimed).then_some(TornTail {
        segment: end / bytes,
        offset: end % bytes,
        frames_beyond: beyond.frames,
    });
    let attested = last.map_or(end, |frame| frame.synced_through);
    Ok(Found { replay, end, attested, run_max: run.max(beyond.run_max), torn })
}

/// What stands behind the first bad frame.
#[derive(Default)]
struct Beyond {
    /// The highest position that a frame there attests.
    attested: u64,
    /// Frames there that are not leftovers of an older run.
    frames: u64,
    /// The bad frame is one that was written there, not merely what the segment held before.
    claimed: bool,
    run_max: u64,
}

fn look_beyond<D: Disk>(reader: &mut Reader<'_, D>, end: u64, final_end: u64, run: u64) -> Result<Beyond, LogError> {
    let mut beyond = Beyond::default();
    let mut at = end;
    while at < final_end {
        let Some(frame) = reader.frame(at)? else {
            beyond.claimed |= at == end && reader.claimed(at)?;
            at += BLOCK as u64;
            continue;
        };
        beyond.run_max = beyond.run_max.max(frame.run);
        if frame.run >= run {
            beyond.frames += 1;
            beyond.attested = beyond.attested.max(frame.synced_through);
        }
        at += frame.disk_bytes();
    }
    Ok(beyond)
}

/// Writes what no frame attested once more, and syncs it: it may stand in a cache that a power loss takes.
fn rewrite<D: Disk>(log: &mut Log<D>, attested: u64) -> Result<(), LogError> {
    let (bytes, salt, end) = (log.segment_bytes, log.salt, log.tail);
    let mut at = attested.max(log.live[0] * bytes + BLOCK as u64);
    let mut segments = BTreeSet::new();
    while at < end {
        at = if at.is_multiple_of(bytes) { at + BLOCK as u64 } else { at };
        let segment = at / bytes;
        let len = WINDOW_BYTES.min(end - at).min(bytes - at % bytes);
        let mut reader = Reader::new(&mut log.disk, bytes, salt);
        reader.load(at, len)?;
        let Reader { disk, window, .. } = reader;
        disk.write(segment, at % bytes, &window.as_slice()[..len as usize]).map_err(|error| LogError::failed("write", segment, &error))?;
        segments.insert(segment);
        at += len;
    }
    for segment in segments {
        log.disk.sync(segment).map_err(|error| LogError::failed("sync", segment, &error))?;
    }
    Ok(())
}

/// Reads frames through a window on the disk.
struct Reader<'a, D> {
    disk: &'a mut D,
    segment_bytes: u64,
    salt: u64,
    window: AlignedBuffer,
    /// The position of the window's first byte.
    window_start: u64,
}

impl<'a, D: Disk> Reader<'a, D> {
    fn new(disk: &'a mut D, segment_bytes: u64, salt: u64) -> Self {
        Reader { disk, segment_bytes, salt, window: AlignedBuffer::default(), window_start: 0 }
    }

    /// The frame that stands at `position`, if a valid one does. Its body is then in the window.
    fn frame(&mut self, position: u64) -> Result<Option<FrameHeader>, LogError> {
        let room = self.segment_bytes - position % self.segment_bytes;
        let seed = Seed::new(self.salt, position / self.segment_bytes);
        let Some(frame) = FrameHeader::decode(self.bytes(position, BLOCK as u64)?, seed, position, room) else {
            return Ok(None);
        };
        self.bytes(position, frame.disk_bytes())?;
        Ok(frame.matches(seed, self.body(&frame)).then_some(frame))
    }

    /// Whether something was written for `position`, valid or not.
    fn claimed(&mut self, position: u64) -> Result<bool, LogError> {
        Ok(claims_frame(self.bytes(position, BLOCK as u64)?, position))
    }

    /// The body of the frame that [`frame`](Reader::frame) found last.
    fn body(&self, frame: &FrameHeader) -> &[u8] {
        let start = (frame.position - self.window_start) as usize + FRAME_HEADER;
        &self.window.as_slice()[start..start + frame.body_bytes as usize]
    }

    fn bytes(&mut self, position: u64, len: u64) -> Result<&[u8], LogError> {
        let held = self.window_start + self.window.len() as u64;
        if position < self.window_start || position + len > held {
            let room = self.segment_bytes - position % self.segment_bytes;
            self.load(position, len.max(WINDOW_BYTES.min(room)))?;
        }
        let start = (position - self.window_start) as usize;
        Ok(&self.window.as_slice()[start..start + len as usize])
    }

    fn load(&mut self, position: u64, len: u64) -> Result<(), LogError> {
        let (segment, offset) = (position / self.segment_bytes, position % self.segment_bytes);
        self.window.resize(len as usize);
        self.window_start = position;
        self.disk.read(segment, offset, self.window.as_mut_slice()).map_err(|error| unreadable(segment, offset, &error))
    }
}

/// Records of one group.
#[derive(Default)]
struct Held {
    records: Vec<Bytes>,
    /// Where the first of them begins.
    start: u64,
}

/// A record of which only the first pieces were read.
struct Partial {
    group: GroupId,
    kind: Kind,
    start: u64,
    content: Vec<u8>,
}

/// Makes records of frames, and of records what is held for each group.
#[derive(Default)]
struct Replay {
    groups: BTreeMap<GroupId, Held>,
    partial: Option<Partial>,
    /// A checkpoint of which the end was not read yet.
    checkpoint: Option<(GroupId, Held)>,
}

impl Replay {
    /// What the run before did not complete, it never will.
    fn new_run(&mut self) {
        self.partial = None;
        self.checkpoint = None;
    }

    fn apply(&mut self, body: &[u8], position: u64, segment_bytes: u64) -> Result<(), LogError> {
        let damage = |what| LogError::damage(position / segment_bytes, position % segment_bytes, what);
        let body = Bytes::copy_from_slice(body);
        let mut at = 0;
        while at < body.len() {
            let record = record_at(&body, at).ok_or_else(|| damage("a record does not end within its frame"))?;
            let kind = Kind::of(record.code).ok_or_else(|| damage("a record is of no known kind"))?;
            at = record.content.end;
            self.piece(record.group, kind, record.code, body.slice(record.content), position);
        }
        Ok(())
    }

    fn piece(&mut self, group: GroupId, kind: Kind, code: u8, content: Bytes, position: u64) {
        let (first, last) = (code & CONTINUED == 0, code & MORE == 0);
        if first && last {
            return self.record(group, kind, content, position);
        }
        if first {
            self.partial = Some(Partial { group, kind, start: position, content: Vec::new() });
        }
        // Later pieces of a record whose first piece was in a segment that is released: a checkpoint replaced the record.
        let Some(partial) = self.partial.as_mut().filter(|partial| partial.group == group && partial.kind == kind) else {
            return;
        };
        partial.content.extend_from_slice(&content);
        if last && let Some(partial) = self.partial.take() {
            self.record(group, kind, partial.content.into(), partial.start);
        }
    }

    fn record(&mut self, group: GroupId, kind: Kind, content: Bytes, start: u64) {
        match kind {
            Kind::Record => self.groups.entry(group).or_insert(Held { records: Vec::new(), start }).records.push(content),
            Kind::CheckpointBegin => self.checkpoint = Some((group, Held { records: Vec::new(), start })),
            Kind::CheckpointRecord => {
                if let Some((_, held)) = self.checkpoint.as_mut().filter(|(of, _)| *of == group) {
                    held.records.push(content);
                }
            }
            Kind::CheckpointEnd => {
                if let Some((_, held)) = self.checkpoint.take().filter(|(of, _)| *of == group) {
                    self.groups.insert(group, held);
                }
            }
            Kind::Forget => drop(self.groups.remove(&group)),
        }
    }
}
