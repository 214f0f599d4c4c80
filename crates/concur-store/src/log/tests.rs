//! Claims about the log, most of them tried over many seeds.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::format::{FRAME_HEADER, FrameHeader, header_crc};
use super::*;

/// Splitmix64: enough for tests, and the same everywhere.
struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }

    fn record(&mut self, bytes_max: u64) -> Vec<u8> {
        let first = self.next() as u8;
        (0..self.below(bytes_max)).map(|i| first.wrapping_add(i as u8)).collect()
    }
}

const SEGMENT: u64 = 4 * BLOCK as u64;
const G: GroupId = GroupId(7);

fn options() -> LogOptions {
    LogOptions { identity: LogIdentity { cluster: 1, node: 2 }, segment_bytes: SEGMENT, salt: 99, ..LogOptions::default() }
}

fn open(disk: MemDisk) -> (Log<MemDisk>, Recovered) {
    Log::open(disk, options()).expect("opens")
}

fn put(log: &mut Log<MemDisk>, record: &[u8]) {
    log.append(G, record);
    log.write().expect("writes");
}

fn put_synced(log: &mut Log<MemDisk>, record: &[u8]) {
    put(log, record);
    log.sync().expect("syncs");
}

fn records(recovered: &Recovered) -> Vec<Vec<u8>> {
    recovered.groups.get(&G).map(|records| records.iter().map(|record| record.to_vec()).collect()).unwrap_or_default()
}

fn damage(disk: MemDisk) -> Damage {
    match Log::open(disk, options()) {
        Err(LogError::Damage(damage)) => damage,
        other => panic!("not damage: {:?}", other.map(|(_, recovered)| recovered)),
    }
}

/// What a caller did, of which a recovered log must show a prefix.
#[derive(Clone, Debug)]
enum Step {
    Append(GroupId, Vec<u8>),
    Checkpoint(GroupId, Vec<Vec<u8>>),
    Forget(GroupId),
}

fn state(steps: &[Step]) -> BTreeMap<GroupId, Vec<Bytes>> {
    let mut groups: BTreeMap<GroupId, Vec<Bytes>> = BTreeMap::new();
    for step in steps {
        match step {
            Step::Append(group, record) => groups.entry(*group).or_default().push(record.clone().into()),
            Step::Checkpoint(group, records) => drop(groups.insert(*group, records.iter().cloned().map(Bytes::from).collect())),
            Step::Forget(group) => drop(groups.remove(group)),
        }
    }
    groups
}

/// A log, everything that was asked of it, and how much of that it said to be durable.
struct World {
    log: Option<Log<MemDisk>>,
    steps: Vec<Step>,
    durable: usize,
    dice: Dice,
    torn: u64,
}

impl World {
    fn new(seed: u64) -> World {
        let log = open(MemDisk::default()).0;
        World { log: Some(log), steps: Vec::new(), durable: 0, dice: Dice(seed), torn: 0 }
    }

    fn log(&mut self) -> &mut Log<MemDisk> {
        self.log.as_mut().expect("there is a log")
    }

    /// One random call; an error only where a death was planned.
    fn act(&mut self) -> Result<(), LogError> {
        let group = GroupId(self.dice.below(3));
        match self.dice.below(20) {
            0..8 => {
                let size = [40, 400, 9000][self.dice.below(3) as usize];
                let record = self.dice.record(size);
                self.log().append(group, &record);
                self.steps.push(Step::Append(group, record));
            }
            8..12 => drop(self.log().write()?),
            12..17 => {
                self.log().write()?;
                let steps = self.steps.len();
                self.log().sync()?;
                self.durable = steps;
            }
            17 => drop(self.log().attest()?),
            18 => {
                let records: Vec<Vec<u8>> = (0..self.dice.below(4)).map(|_| self.dice.record(3000)).collect();
                self.log().checkpoint(group, &records);
                self.steps.push(Step::Checkpoint(group, records));
            }
            _ => {
                self.log().forget(group);
                self.steps.push(Step::Forget(group));
            }
        }
        Ok(())
    }

    /// How many steps may have been recovered, none fewer than those that are durable.
    fn prefixes(&self, recovered: &Recovered) -> Vec<usize> {
        (self.durable..=self.steps.len()).filter(|kept| state(&self.steps[..*kept]) == recovered.groups).collect()
    }

    /// Ends the process, with or without the power, and checks what a new one finds.
    fn restart(&mut self, power_loss: bool) {
        let mut disk = self.log.take().expect("there is a log").into_disk();
        let keep = self.dice.below(3);
        disk.restart();
        if power_loss {
            disk.crash(|n| match keep {
                0 => 0,
                1 => n - 1,
                _ => self.dice.below(n),
            });
        }
        // Sometimes the process dies again while it opens.
        if self.dice.below(3) == 0 {
            disk.die_after(self.dice.below(8));
            let mut unborn = disk.clone();
            match Log::open(LentDisk(&mut unborn), options()) {
                Ok((_, recovered)) => self.durable = self.prefixes(&recovered)[0],
                Err(error) => assert!(matches!(error, LogError::Failed { .. }), "{error}"),
            }
            disk = unborn;
            disk.crash(|n| self.dice.below(n));
        }
        let (log, recovered) = open(disk);
        self.log = Some(log);
        self.torn += u64::from(recovered.torn.is_some());
        let kept = self.prefixes(&recovered).last().copied();
        let kept = kept.unwrap_or_else(|| panic!("recovered no prefix that holds the durable {} of {}", self.durable, self.steps.len()));
        self.steps.truncate(kept);
        self.durable = kept;
    }
}

/// A disk that outlives the log on it.
struct LentDisk<'a>(&'a mut MemDisk);

impl Disk for LentDisk<'_> {
    fn list(&self) -> io::Result<Vec<u64>> {
        self.0.list()
    }
    fn create(&mut self, id: u64, bytes: u64) -> io::Result<()> {
        self.0.create(id, bytes)
    }
    fn rename(&mut self, from: u64, to: u64) -> io::Result<()> {
        self.0.rename(from, to)
    }
    fn remove(&mut self, id: u64) -> io::Result<()> {
        self.0.remove(id)
    }
    fn read(&mut self, id: u64, offset: u64, into: &mut [u8]) -> io::Result<()> {
        self.0.read(id, offset, into)
    }
    fn write(&mut self, id: u64, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.0.write(id, offset, bytes)
    }
    fn sync(&mut self, id: u64) -> io::Result<()> {
        self.0.sync(id)
    }
}

#[test]
fn whatever_crashes_what_was_synced_stays_and_nothing_else_comes_back() {
    let mut torn = 0;
    for seed in 0..400 {
        let mut world = World::new(seed);
        for _ in 0..12 {
            let planned = world.dice.below(2) == 0;
            if planned {
                let operations = world.dice.below(25);
                world.log().disk_mut().die_after(operations);
            }
            for _ in 0..world.dice.below(40) {
                if let Err(error) = world.act() {
                    assert!(planned, "seed {seed}: {error}");
                    break;
                }
            }
            let power_loss = world.dice.below(4) > 0;
            world.restart(power_loss);
        }
        torn += world.torn;
    }
    assert!(torn > 150, "the seeds drew only {torn} torn tails");
}

#[test]
fn a_failed_sync_poisons_and_what_a_restart_reports_is_durable() {
    for seed in 0..200 {
        let mut world = World::new(seed);
        for _ in 0..30 {
            world.act().expect("nothing fails yet");
        }
        world.log().append(G, b"unlucky");
        world.steps.push(Step::Append(G, b"unlucky".to_vec()));
        world.log().write().expect("writes");
        world.log().disk_mut().fail_next_sync();
        let error = world.log().sync().expect_err("the disk fails");
        assert_eq!(world.log().sync(), Err(error.clone()));
        assert_eq!(world.log().write(), Err(error.clone()));
        assert_eq!(world.log().attest(), Err(error));
        // The process starts again and reads its cache, which a failed sync left unsynced for good; then the power fails.
        world.restart(false);
        assert_eq!(world.durable, world.steps.len());
        world.restart(true);
    }
}

#[test]
fn damage_below_what_is_attested_is_never_cut_off_whatever_happened_before() {
    let mut damaged = 0;
    for seed in 0..150 {
        let mut world = World::new(seed);
        for _ in 0..4 {
            for _ in 0..world.dice.below(30) {
                world.act().expect("nothing fails");
            }
            world.restart(true);
        }
        world.log().append(G, b"last");
        world.log().write().expect("writes");
        world.log().sync().expect("syncs");
        assert!(world.log().attest().expect("attests"));
        world.log().sync().expect("syncs");
        let (first, end) = (world.log().live[0] * SEGMENT, world.log().content_end);
        let disk = world.log.take().expect("there is a log").into_disk();
        let (_, whole) = open(disk.clone());
        for _ in 0..40 {
            let position = first + world.dice.below(end - first);
            let mut hurt = disk.clone();
            assert!(hurt.flip(position / SEGMENT, position % SEGMENT, 1 << world.dice.below(8)));
            match Log::open(hurt, options()) {
                Ok((_, recovered)) => assert_eq!(recovered.groups, whole.groups, "seed {seed}: cut off silently at {position}"),
                Err(LogError::Damage(_)) => damaged += 1,
                Err(other) => panic!("seed {seed} at {position}: {other}"),
            }
        }
    }
    assert!(damaged > 1000, "only {damaged} flips hit content");
}

#[test]
fn a_frame_behind_a_hole_does_not_return_when_the_hole_is_filled() {
    let options = LogOptions { segment_bytes: 8 * SEGMENT, ..options() };
    let (mut log, _) = Log::open(MemDisk::default(), options).expect("opens");
    put_synced(&mut log, b"kept");
    put(&mut log, &[1; 5000]);
    let behind = log.written();
    put(&mut log, b"behind the hole");
    let mut disk = log.into_disk();
    let mut sector = 0;
    disk.crash(|n| {
        sector += 1;
        if sector <= 16 { 0 } else { n - 1 }
    });
    let (mut log, recovered) = open(disk);
    assert_eq!(records(&recovered), [b"kept".to_vec()]);
    assert_eq!(recovered.torn.map(|torn| torn.frames_beyond), Some(1));
    // The run's own frame and this one fill the hole to the byte.
    put_synced(&mut log, b"after");
    assert_eq!(log.written(), behind);
    let (_, recovered) = open(log.into_disk());
    assert_eq!(records(&recovered), [b"kept".to_vec(), b"after".to_vec()]);
}

#[test]
fn any_flipped_byte_that_a_later_frame_attests_is_damage_or_padding() {
    let (mut log, _) = open(MemDisk::default());
    let written: Vec<Vec<u8>> = (0..6).map(|i| vec![i; 100 + 1500 * i as usize]).collect();
    written.iter().for_each(|record| put_synced(&mut log, record));
    assert!(log.attest().expect("attests"));
    assert!(!log.attest().expect("attests"), "an empty frame needs no other");
    log.sync().expect("syncs");
    let end = log.content_end;
    let disk = log.into_disk();
    let mut damaged = 0;
    for position in (0..end).step_by(61).chain((0..end / 512).flat_map(|sector| sector * 512..sector * 512 + 48)) {
        let mut hurt = disk.clone();
        assert!(hurt.flip(position / SEGMENT, position % SEGMENT, 0x10));
        match Log::open(hurt, options()) {
            Ok((_, recovered)) => assert_eq!(records(&recovered), written, "cut off silently at {position}"),
            Err(LogError::Damage(_)) => damaged += 1,
            Err(other) => panic!("at {position}: {other}"),
        }
    }
    assert!(damaged > 300, "only {damaged} flips hit content");
}

#[test]
fn a_flipped_byte_that_nothing_attests_cuts_a_tail_and_never_more() {
    let (mut log, _) = open(MemDisk::default());
    put_synced(&mut log, b"first");
    put_synced(&mut log, b"second");
    let mut disk = log.into_disk();
    assert!(disk.flip(0, 3 * BLOCK as u64 + 60, 1));
    let (log, recovered) = open(disk);
    assert_eq!(records(&recovered), [b"first".to_vec()]);
    // Opening attests what it reports.
    let mut disk = log.into_disk();
    assert!(disk.flip(0, 2 * BLOCK as u64 + 60, 1));
    assert_eq!(damage(disk).offset, 2 * BLOCK as u64);
    assert_eq!(recovered.torn, Some(TornTail { segment: 0, offset: 3 * BLOCK as u64, frames_beyond: 0 }));
}

#[test]
fn damage_names_where_it_is_and_is_found_again() {
    let (mut log, _) = open(MemDisk::default());
    for i in 0..5 {
        put_synced(&mut log, &[i; 10]);
    }
    let mut disk = log.into_disk();
    assert!(disk.flip(0, 3 * BLOCK as u64 + FRAME_HEADER as u64 + 2, 1));
    let found = damage(disk.clone());
    assert_eq!((found.segment, found.offset), (0, 3 * BLOCK as u64));
    assert_eq!(damage(disk), found);
}

#[test]
fn lost_and_misdirected_writes_are_damage() {
    for fault in [
        WriteFault::Lost,
        WriteFault::Misdirected { segment: 0, offset: 3 * BLOCK as u64 },
        WriteFault::Misdirected { segment: 0, offset: 0 },
        WriteFault::Misdirected { segment: 5, offset: 0 },
    ] {
        let (mut log, _) = open(MemDisk::default());
        put_synced(&mut log, b"before");
        put_synced(&mut log, b"and");
        log.disk_mut().spoil_next_write(fault);
        put_synced(&mut log, b"spoilt");
        put_synced(&mut log, b"after");
        let mut disk = log.into_disk();
        disk.crash(|_| 0);
        damage(disk);
    }
}

#[test]
fn a_disk_that_lied_can_be_made_to_have_told_the_truth() {
    for fault in [WriteFault::Lost, WriteFault::Misdirected { segment: 0, offset: 2 * BLOCK as u64 }] {
        let (mut log, _) = open(MemDisk::default());
        put_synced(&mut log, b"before");
        log.disk_mut().spoil_next_write(fault);
        put_synced(&mut log, b"spoilt");
        let mut disk = log.into_disk();
        assert!(disk.has_lied());
        disk.crash(|_| 0);
        let mut stands = disk.clone();
        stands.stand_by_its_lies();
        disk.tell_the_truth();
        assert_eq!(records(&open(disk).1), [b"before".to_vec(), b"spoilt".to_vec()]);
        // Nothing attests what it lied about last: that cannot be told from a write that never was.
        stands.tell_the_truth();
        assert!(records(&open(stands).1).len() < 2);
    }
}

#[test]
fn a_short_write_poisons_and_is_a_torn_tail() {
    let (mut log, _) = open(MemDisk::default());
    put_synced(&mut log, b"before");
    log.disk_mut().spoil_next_write(WriteFault::Short { bytes: 1024 });
    log.append(G, &[5; 3000]);
    let error = log.write().expect_err("the disk fails");
    assert_eq!(log.write(), Err(error));
    let (_, recovered) = open(log.into_disk());
    assert_eq!(records(&recovered), [b"before".to_vec()]);
    assert!(recovered.torn.is_some());
}

#[test]
fn a_missing_segment_is_damage() {
    let (mut log, _) = open(MemDisk::default());
    for i in 0..20 {
        put_synced(&mut log, &[i; 10]);
    }
    let disk = log.into_disk();
    for segment in [0, 1, 2] {
        let mut hurt = disk.clone();
        assert!(hurt.lose_segment(segment));
        let found = damage(hurt);
        assert_eq!((found.segment, found.what), (segment, "the segment is missing"));
    }
}

#[test]
fn a_foreign_log_and_a_newer_one_are_refused() {
    let disk = open(MemDisk::default()).0.into_disk();
    let foreign = LogOptions { identity: LogIdentity { cluster: 1, node: 3 }, ..options() };
    assert!(matches!(Log::open(disk.clone(), foreign), Err(LogError::Foreign { found: LogIdentity { cluster: 1, node: 2 }, .. })));

    let mut newer = disk;
    let mut block = vec![0; BLOCK];
    newer.read(0, 0, &mut block).expect("reads");
    block[8] = 2;
    let crc = header_crc(&block);
    block[12..16].copy_from_slice(&crc.to_le_bytes());
    newer.write(0, 0, &block).expect("writes");
    assert!(matches!(Log::open(newer, options()), Err(LogError::Newer { segment: 0, found: 2, supported: 1 })));
}

#[test]
fn a_log_that_must_exist_is_not_created() {
    let must = LogOptions { must_exist: true, ..options() };
    assert_eq!(Log::open(MemDisk::default(), must).err(), Some(LogError::Missing));
    let disk = open(MemDisk::default()).0.into_disk();
    assert!(!Log::open(disk, must).expect("it exists").1.fresh);
}

#[test]
fn options_that_make_no_log_are_refused() {
    for segment_bytes in [0, 4096, 10_000, 1 << 40] {
        let refused = Log::open(MemDisk::default(), LogOptions { segment_bytes, ..options() });
        assert!(matches!(refused, Err(LogError::Options { value, .. }) if value == segment_bytes));
    }
}

#[test]
fn an_existing_log_keeps_its_size_and_salt() {
    let (mut log, _) = open(MemDisk::default());
    put_synced(&mut log, b"x");
    let other = LogOptions { segment_bytes: 2 * SEGMENT, salt: 1, ..options() };
    let (log, recovered) = Log::open(log.into_disk(), other).expect("opens");
    assert_eq!(log.segment_bytes(), SEGMENT);
    assert_eq!(records(&recovered), [b"x".to_vec()]);
}

#[test]
fn a_stated_length_beyond_the_segment_is_not_believed() {
    let seed = Seed::new(99, 0);
    let mut frame = vec![0; BLOCK];
    FrameHeader::seal(&mut frame, seed, BLOCK as u64, 1, 0, 0);
    assert!(FrameHeader::decode(&frame, seed, BLOCK as u64, BLOCK as u64).is_some());
    assert!(FrameHeader::decode(&frame, seed, BLOCK as u64, BLOCK as u64 - 1).is_none());
}

#[test]
fn checkpoints_free_segments_which_are_used_again() {
    let (mut log, _) = open(MemDisk::default());
    let mut in_use_max = 0;
    for i in 0..200u32 {
        put_synced(&mut log, &i.to_le_bytes());
        if i % 7 == 0 {
            log.checkpoint(G, [i.to_le_bytes()]);
            log.write().expect("writes");
            log.sync().expect("syncs");
        }
        in_use_max = in_use_max.max(log.bytes_in_use());
    }
    assert!(in_use_max <= 5 * SEGMENT, "{in_use_max} bytes");
    assert!(log.disk().used_bytes() <= 7 * SEGMENT);
    let (_, recovered) = open(log.into_disk());
    assert_eq!(records(&recovered), [196, 197, 198, 199].map(|i: u32| i.to_le_bytes().to_vec()));
}

#[test]
fn a_group_that_never_checkpoints_is_named_and_forgetting_it_frees() {
    let (mut log, _) = open(MemDisk::default());
    log.append(GroupId(1), b"old");
    for i in 0..20 {
        put_synced(&mut log, &[i]);
        log.checkpoint(G, [[i]]);
    }
    assert_eq!(log.oldest_need().map(|(group, _)| group), Some(GroupId(1)));
    let before = log.bytes_in_use();
    log.forget(GroupId(1));
    for _ in 0..2 {
        log.checkpoint(G, [b"end"]);
        log.write().expect("writes");
        log.sync().expect("syncs");
    }
    put_synced(&mut log, b"last");
    assert!(log.bytes_in_use() < before);
    let (_, recovered) = open(log.into_disk());
    assert_eq!(recovered.groups.len(), 1);
    assert_eq!(records(&recovered), [b"end".to_vec(), b"last".to_vec()]);
}

#[test]
fn a_record_larger_than_a_segment_spans_several() {
    let (mut log, _) = open(MemDisk::default());
    let large: Vec<u8> = (0..5 * SEGMENT).map(|i| (i / 3) as u8).collect();
    put(&mut log, b"small");
    log.append(G, &large);
    log.append(G, b"");
    log.write().expect("writes");
    log.sync().expect("syncs");
    let (_, recovered) = open(log.into_disk());
    assert_eq!(records(&recovered), [b"small".to_vec(), large, Vec::new()]);
}

#[test]
fn a_full_disk_leaves_a_reserve_and_goes_on_when_there_is_room() {
    let mut disk = MemDisk::default();
    disk.set_capacity_bytes(4 * SEGMENT);
    let (mut log, _) = open(disk);
    let mut written = Vec::new();
    while !log.is_full() {
        written.push(vec![written.len() as u8; 3000]);
        put_synced(&mut log, &written[written.len() - 1]);
    }
    log.append(G, b"the reserve takes this");
    written.push(b"the reserve takes this".to_vec());
    log.write().expect("there is a reserve");
    log.sync().expect("syncs");
    let refused = loop {
        written.push(vec![9; 3000]);
        log.append(G, &written[written.len() - 1]);
        match log.write() {
            Ok(_) => drop(log.sync().expect("syncs")),
            Err(error) => break error,
        }
    };
    assert_eq!(refused, LogError::Full { needed_bytes: SEGMENT });
    assert!(!log.refill().expect("sound"));
    log.disk_mut().set_capacity_bytes(8 * SEGMENT);
    assert!(log.refill().expect("sound"));
    log.write().expect("what was pending is written");
    log.sync().expect("syncs");
    let (_, recovered) = open(log.into_disk());
    assert_eq!(records(&recovered), written);
}

#[test]
fn real_files_hold_the_log_over_restarts() {
    let directory = crate::testing::Scratch::new("log-files");
    let options = LogOptions { segment_bytes: 64 << 10, ..options() };
    let mut expected: Vec<Vec<u8>> = Vec::new();
    for round in 0..4u32 {
        let disk = FileDisk::open(directory.path()).expect("a directory");
        let (mut log, recovered) = Log::open(disk, options).expect("opens");
        assert_eq!(records(&recovered), expected);
        for i in 0..60u32 {
            let record = vec![i as u8; (round * 997 + i * 61) as usize];
            log.append(G, &record);
            expected.push(record);
            log.write().expect("writes");
            if i % 3 == 0 {
                log.sync().expect("syncs");
            }
        }
        if round == 2 {
            expected = vec![b"all".to_vec()];
            log.checkpoint(G, &expected);
            log.write().expect("writes");
        }
        log.sync().expect("syncs");
    }
}

#[test]
fn unfinished_files_are_swept_and_others_left_alone() {
    let directory = crate::testing::Scratch::new("log-sweep");
    std::fs::write(directory.path().join("8000000000000001.tmp"), b"half").expect("writes");
    std::fs::write(directory.path().join("notes.txt"), b"mine").expect("writes");
    let disk = FileDisk::open(directory.path()).expect("a directory");
    assert_eq!(disk.list().expect("lists"), Vec::<u64>::new());
    assert!(!directory.path().join("8000000000000001.tmp").exists());
    assert!(directory.path().join("notes.txt").exists());
}
