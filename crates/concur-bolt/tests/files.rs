//! What is written is read back, and what is damaged is refused or read, but never a panic, a loop or a claim on memory.

use bytes::Bytes;
use concur_bolt::{BoltError, PAGE_BYTES, Reader, Writer};
use std::collections::BTreeMap;
use std::io::{Cursor, Write};

type Buckets = BTreeMap<Vec<u8>, BTreeMap<Vec<u8>, Vec<u8>>>;

fn fill<W: Write>(mut writer: Writer<W>, buckets: &Buckets) -> Result<(concur_bolt::Layout, W), BoltError> {
    // In another order than that of their names.
    for (name, entries) in buckets.iter().rev() {
        let mut bucket = writer.bucket(name);
        for (key, value) in entries {
            bucket.put(key, value)?;
        }
        bucket.finish()?;
    }
    writer.finish()
}

fn file_of(buckets: &Buckets) -> Vec<u8> {
    let (layout, _) = fill(Writer::measure(), buckets).unwrap();
    let (_, file) = fill(Writer::new(Vec::new(), layout).unwrap(), buckets).unwrap();
    assert_eq!(file.len() as u64, layout.bytes());
    file
}

fn read(file: &[u8]) -> Result<Buckets, BoltError> {
    let mut reader = Reader::open(Cursor::new(file), file.len() as u64)?;
    let mut buckets = Buckets::new();
    for name in reader.buckets()? {
        let Some(entries) = reader.bucket(&name)? else { continue };
        let pair = |entry: Result<(Bytes, Bytes), BoltError>| entry.map(|(key, value)| (key.to_vec(), value.to_vec()));
        buckets.insert(name.to_vec(), entries.map(pair).collect::<Result<_, _>>()?);
    }
    Ok(buckets)
}

/// Numbers without order, the same in every run.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
        (self.0 >> 33) % bound
    }
}

fn buckets(seed: u64) -> Buckets {
    let mut numbers = Numbers(seed);
    let mut buckets = Buckets::new();
    for name in 0..numbers.below(5) {
        let (entries, key_bytes, value_bytes) = (numbers.below(3000), 4 + numbers.below(60), 1 + numbers.below(300));
        let entry = |numbers: &mut Numbers, i: u64| {
            let mut key = i.to_be_bytes().to_vec();
            key.resize(8 + numbers.below(key_bytes) as usize, 7);
            let large = numbers.below(200) == 0;
            (key, vec![i as u8; if large { 20_000 } else { numbers.below(value_bytes) as usize }])
        };
        buckets.insert(vec![b'a' + name as u8], (0..entries).map(|i| entry(&mut numbers, i)).collect());
    }
    buckets.insert(b"empty".to_vec(), BTreeMap::new());
    buckets.insert(b"small".to_vec(), BTreeMap::from([(b"k".to_vec(), b"v".to_vec())]));
    buckets
}

#[test]
fn what_is_written_is_read_back() {
    for seed in 0..30 {
        let buckets = buckets(seed);
        let file = file_of(&buckets);
        assert_eq!(file.len() % PAGE_BYTES, 0);
        assert_eq!(read(&file).unwrap(), buckets, "seed {seed}");
    }
}

/// Every branch leads to two pages at least, whatever the number and the length of keys.
#[test]
fn no_branch_has_a_single_child() {
    for (key_bytes, entries) in [(17, 100_000u64), (1500, 40), (1500, 3), (5000, 7), (5000, 300)] {
        let key = |i: u64| {
            let mut key = i.to_be_bytes().to_vec();
            key.resize(key_bytes, 0);
            key
        };
        for entries in [entries, entries + 1, entries + 2] {
            let buckets = Buckets::from([(b"b".to_vec(), (0..entries).map(|i| (key(i), vec![1; 30])).collect())]);
            let file = file_of(&buckets);
            let mut at = 0;
            while at < file.len() {
                let field =
                    |from: usize, bytes: usize| file[at + from..at + from + bytes].iter().rev().fold(0, |n, &b| n << 8 | u64::from(b));
                assert!(field(8, 2) != 1 || field(10, 2) >= 2, "a branch with {} at {at}", field(10, 2));
                at += PAGE_BYTES * (1 + field(12, 4) as usize);
            }
            assert_eq!(read(&file).unwrap(), buckets);
        }
    }
}

#[test]
fn what_cannot_be_written_is_refused() {
    let mut writer = Writer::measure();
    let mut bucket = writer.bucket(b"b");
    bucket.put(b"b", b"").unwrap();
    assert!(bucket.put(b"b", b"").is_err());
    assert!(bucket.put(b"a", b"").is_err());
    let mut bucket = writer.bucket(b"b");
    assert!(bucket.put(b"", b"").is_err());
    assert!(bucket.put(&[0; 40_000], b"").is_err());
    let other = Buckets::from([(b"b".to_vec(), BTreeMap::new())]);
    let (layout, _) = fill(Writer::measure(), &buckets(3)).unwrap();
    assert!(fill(Writer::new(Vec::new(), layout).unwrap(), &other).is_err(), "another file than was measured");
}

/// Flipped bits, changed numbers, cut ends: what is read must end, in an error or not.
#[test]
fn damage_is_refused_or_harmless() {
    let mut numbers = Numbers(5);
    let file = file_of(&buckets(8));
    assert!((20..200).contains(&(file.len() / PAGE_BYTES)), "{} pages", file.len() / PAGE_BYTES);
    let (mut refused, mut rounds) = (0, 0);
    for round in 0..500 {
        let mut damaged = file.clone();
        for _ in 0..=numbers.below(3) {
            // Mostly where the numbers are: at the beginnings of pages.
            let page = numbers.below((file.len() / PAGE_BYTES) as u64) as usize;
            let at = page * PAGE_BYTES + numbers.below(if round % 4 == 0 { PAGE_BYTES as u64 } else { 128 }) as usize;
            match numbers.below(4) {
                0 => damaged[at] ^= 1 << numbers.below(8),
                1 => damaged[at..(at + 8).min(file.len())].fill(0xff),
                2 => damaged[at] = numbers.below(256) as u8,
                _ => damaged[at..(at + 4).min(file.len())].fill(0),
            }
        }
        if round % 16 == 0 {
            damaged.truncate(numbers.below(file.len() as u64) as usize);
        }
        rounds += 1;
        refused += u32::from(read(&damaged).is_err());
    }
    assert!(refused > rounds / 4, "{refused} of {rounds} refused");
}

#[test]
fn a_tree_that_leads_to_itself_ends() {
    let many = (0..20_000u64).map(|i| (i.to_be_bytes().to_vec(), vec![1; 30])).collect();
    let file = file_of(&Buckets::from([(b"b".to_vec(), many)]));
    let kind = |page: usize| file[page * PAGE_BYTES + 8];
    let branches: Vec<usize> = (3..file.len() / PAGE_BYTES).filter(|&page| kind(page) == 1).collect();
    assert!(branches.len() > 2);
    for (&from, &to) in branches.iter().flat_map(|from| branches.iter().map(move |to| (from, to))) {
        let mut damaged = file.clone();
        let at = from * PAGE_BYTES + 16 + 8;
        damaged[at..at + 8].copy_from_slice(&(to as u64).to_le_bytes());
        if let Ok(buckets) = read(&damaged) {
            assert!(buckets[&b"b"[..]].len() <= 20_000);
        }
    }
}

#[test]
fn no_memory_is_taken_for_what_is_not_there() {
    let mut file = file_of(&buckets(8));
    let pages = file.len() / PAGE_BYTES;
    for page in 3..pages {
        file[page * PAGE_BYTES + 12..page * PAGE_BYTES + 16].fill(0xff);
    }
    assert!(matches!(read(&file), Err(BoltError::Damaged { .. })));
    assert!(matches!(read(b""), Err(BoltError::NotOne)));
    assert!(matches!(read(&[0; 5000]), Err(BoltError::NotOne)));
}

/// A crash may leave the newer meta half written: the other counts.
#[test]
fn one_good_meta_is_enough() {
    let buckets = buckets(4);
    let whole = file_of(&buckets);
    for page in [0, 1] {
        let mut file = whole.clone();
        file[page * PAGE_BYTES + 40] ^= 1;
        assert_eq!(read(&file).unwrap(), buckets);
    }
    let mut file = whole;
    file[40] ^= 1;
    file[PAGE_BYTES + 40] ^= 1;
    assert!(matches!(read(&file), Err(BoltError::NotOne)));
}
