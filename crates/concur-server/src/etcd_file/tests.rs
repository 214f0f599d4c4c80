//! What a real etcd wrote is read, what is written reads the same, and damage is refused.

use super::*;
use bytes::Bytes;
use concur_bolt::trailer::Hashing;
use concur_bolt::{BoltError, Writer};
use concur_core::GroupId;
use concur_kv::{Access, Asker, AuthCommand, Command, Config, DeleteRange, Kv, KvError, LeaseId, Permission, Put, RangeQuery, Reply};
use concur_replica::kept_key;
use concur_store::engine::{Engine, EngineRead, MemoryEngine, View, Write};
use std::io::Cursor;
use std::sync::Arc;

/// Made by `.ci/etcd/fixture`.
const REAL: &[u8] = include_bytes!("../../tests/data/etcd.snapshot");
const GROUP: GroupId = GroupId(0);
const NOW_MS: u64 = 1_700_000_000_000;

fn taken() -> FileOptions {
    FileOptions::default()
}

/// The store that a file holds, and its image.
fn store(file: &[u8], options: FileOptions) -> Result<(Kv, Vec<(Bytes, Bytes)>), FileError> {
    let summary = examine(Cursor::new(file), options)?;
    let mut image = Vec::new();
    Import::new(Cursor::new(file), &summary)?.entries(NOW_MS, |key, value| -> Result<(), FileError> {
        image.push((key, value));
        Ok(())
    })?;
    let kv = Kv::from_image(Config::default(), &mut image.clone().into_iter())?;
    Ok((kv, image))
}

fn view(image: impl Iterator<Item = (Bytes, Bytes)>) -> View {
    let mut engine = MemoryEngine::default();
    let bulk = image.map(|(key, value)| (kept_key(&key), Some(value))).collect();
    engine.apply(&[Write { group: GROUP, bulk, mark: Bytes::new() }], true).unwrap();
    let reader: Arc<dyn EngineRead> = engine.reader();
    reader.view(GROUP).unwrap().unwrap()
}

fn written(image: impl Iterator<Item = (Bytes, Bytes)>) -> Vec<u8> {
    let member = crate::door::Member { id: 7, name: "n\"1".into(), peer_urls: vec!["http://a:1".into()], ..Default::default() };
    let origin = Origin { members: vec![member], term: 5, index: 9, now_ms: NOW_MS };
    let export = Export::measure(view(image), origin).unwrap();
    let mut file = Vec::new();
    let hash = export.write(&mut file).unwrap();
    assert_eq!(file.len() as u64, export.bytes());
    file.extend(hash);
    file
}

fn values(kv: &Kv, revision: i64) -> Vec<(String, usize, [i64; 3])> {
    let all = RangeQuery { key: "\0".into(), range_end: "\0".into(), revision: Revision(revision), ..Default::default() };
    let of = |kv: &concur_kv::KeyValue| {
        let key = String::from_utf8_lossy(&kv.key).into_owned();
        (key, kv.value.len(), [kv.create_revision.0, kv.mod_revision.0, kv.version])
    };
    kv.range(&all).unwrap().kvs.iter().map(of).collect()
}

#[test]
fn a_real_file_is_read() {
    let summary = examine(Cursor::new(REAL), taken()).unwrap();
    let counts = (summary.revision, summary.compacted, summary.keys, summary.versions, summary.leases);
    assert_eq!(counts, (14, 8, 4, 10, 2));
    assert_eq!(summary.bytes, REAL.len() as u64 - 32);
    let (kv, _) = store(REAL, taken()).unwrap();
    assert_eq!((kv.revision(), kv.compacted()), (Revision(14), Revision(8)));
    let of = |key: &str, bytes, numbers| (key.to_owned(), bytes, numbers);
    assert_eq!(values(&kv, 8), [of("a", 1, [2, 3, 2])]);
    assert_eq!(values(&kv, 10), [of("a", 1, [2, 9, 3]), of("b", 5, [10, 10, 1])]);
    assert_eq!(values(&kv, 11), [of("b", 5, [10, 10, 1]), of("d", 1, [11, 11, 1]), of("e", 1, [11, 11, 1])]);
    let last = [of("b", 5, [10, 10, 1]), of("e", 1, [11, 11, 1]), of("large", 20_000, [13, 13, 1]), of("leased", 1, [12, 12, 1])];
    assert_eq!(values(&kv, 14), last);
    // The deletion at the compacted revision is history too.
    let changes = kv.history(Revision(8), Revision(8)).unwrap().next().unwrap();
    assert_eq!((changes.records[0].key(), changes.records[0].is_delete()), (&b"c"[..], true));
    let mut ttls: Vec<_> = kv.lease_ids().iter().map(|&id| kv.lease_time_to_live(id, true, NOW_MS)).collect();
    ttls.sort_by_key(|lease| lease.granted_ttl_s);
    assert_eq!((ttls[0].granted_ttl_s, ttls[0].keys.len()), (60, 0));
    assert_eq!((ttls[1].granted_ttl_s, &ttls[1].keys[..]), (1000, &[Bytes::from("leased")][..]));
}

#[test]
fn a_store_goes_on_from_a_file_at_the_next_revision() {
    let (mut kv, _) = store(REAL, taken()).unwrap();
    kv.execute(&Command::Put(Put { key: "a".into(), ..Put::default() }), NOW_MS);
    assert_eq!(kv.revision(), Revision(15));
    kv.execute(&Command::Compact { revision: Revision(15) }, NOW_MS);
    assert_eq!(kv.status().keys, 5);
}

#[test]
fn what_is_written_reads_the_same() {
    let (_, image) = store(REAL, taken()).unwrap();
    let file = written(image.iter().cloned());
    let (_, again) = store(&file, taken()).unwrap();
    assert_eq!(again, image);
}

/// Deletions, transactions, a lease half spent, an alarm, a compaction that is not through.
#[test]
fn a_whole_history_goes_through_a_file() {
    let mut kv = Kv::new(Config::default());
    let lease = LeaseId(-5);
    kv.execute(&Command::LeaseGrant { id: lease, ttl_s: 100 }, NOW_MS - 40_500);
    for i in 0..3000u32 {
        let key = format!("{:03}", i % 500);
        let put = Put {
            key: key.clone().into(),
            value: i.to_string().into(),
            lease: if i % 7 == 0 { lease } else { LeaseId::NONE },
            ..Put::default()
        };
        kv.execute(&Command::Put(put), NOW_MS);
        if i % 11 == 0 {
            let range = DeleteRange { key: key.into(), range_end: format!("{:03}", i % 500 + 3).into(), prev_kv: false };
            kv.execute(&Command::DeleteRange(range), NOW_MS);
        }
    }
    let alarm = concur_kv::Alarm { member: 3, kind: concur_kv::AlarmKind::NoSpace };
    kv.execute(&Command::AlarmArm { alarm }, NOW_MS);
    let uncompacted = kv.revision();
    kv.execute(&Command::Compact { revision: Revision(uncompacted.0 - 7) }, NOW_MS);
    for compacting in [true, false] {
        let file = written(kv.image());
        let (read, _) = store(&file, taken()).unwrap();
        assert_eq!((read.revision(), read.compacted()), (kv.revision(), kv.compacted()), "{compacting}");
        for at in [kv.compacted().0, kv.revision().0 - 1, kv.revision().0] {
            assert_eq!(values(&read, at), values(&kv, at), "{compacting}, at {at}");
            assert_eq!(read.hash_at(Revision(at)), kv.hash_at(Revision(at)), "{compacting}, at {at}");
        }
        let (expected, found) = (kv.lease_time_to_live(lease, true, NOW_MS), read.lease_time_to_live(lease, true, NOW_MS));
        assert_eq!((found.granted_ttl_s, found.keys), (100, expected.keys));
        assert!((found.ttl_s - expected.ttl_s).abs() <= 1, "{} for {}", found.ttl_s, expected.ttl_s);
        assert_eq!(read.alarms().collect::<Vec<_>>(), [alarm]);
        // Each command removes a little.
        (0..2000).for_each(|_| drop(kv.execute(&Command::LeaseRenew { ids: vec![] }, NOW_MS)));
    }
}

#[test]
fn a_raised_revision_has_nothing_before_it() {
    let (kv, _) = store(REAL, FileOptions { raise: 1000, ..taken() }).unwrap();
    assert_eq!((kv.revision(), kv.compacted()), (Revision(1014), Revision(1014)));
    let all = values(&kv, 0);
    assert_eq!(all.len(), 4);
    assert_eq!(all[0].2, [10, 10, 1]);
    assert!(examine(Cursor::new(REAL), FileOptions { raise: u64::MAX, ..taken() }).is_err());
    // Such a store goes through a file too.
    let (again, _) = store(&written(kv.image()), taken()).unwrap();
    assert_eq!(again.revision(), Revision(1014));
}

#[test]
fn a_hash_is_compared_unless_told_otherwise() {
    let bare = &REAL[..REAL.len() - 32];
    assert!(matches!(examine(Cursor::new(bare), taken()), Err(FileError::Hash(BoltError::NoHash))));
    let skip = FileOptions { skip_hash: true, ..taken() };
    assert_eq!(examine(Cursor::new(bare), skip).unwrap().revision, 14);
    let mut other = REAL.to_vec();
    other[REAL.len() - 1] ^= 1;
    assert!(matches!(examine(Cursor::new(&other), taken()), Err(FileError::Hash(BoltError::OtherHash))));
    assert_eq!(examine(Cursor::new(&other), skip).unwrap().revision, 14);
}

/// A bucket and its entries.
type Bucket<'b> = (&'b [u8], &'b [(&'b [u8], &'b [u8])]);

/// A file with these entries of these buckets.
fn file_of(buckets: &[Bucket<'_>]) -> Vec<u8> {
    fn fill<W: std::io::Write>(mut writer: Writer<W>, buckets: &[Bucket<'_>]) -> (concur_bolt::Layout, W) {
        for (name, entries) in buckets {
            let mut bucket = writer.bucket(name);
            entries.iter().for_each(|(key, value)| bucket.put(key, value).unwrap());
            bucket.finish().unwrap();
        }
        writer.finish().unwrap()
    }
    let layout = fill(Writer::measure(), buckets).0;
    let (hash, mut file) = fill(Writer::new(Hashing::new(Vec::new()), layout).unwrap(), buckets).1.finish();
    file.extend(hash);
    file
}

#[test]
fn users_and_roles_go_through_a_file_and_count_as_before() {
    let mut kv = Kv::new(Config::default());
    let permission = Permission { access: Access::Read, key: "a".into(), range_end: Bytes::from_static(&[0]) };
    let change = |kv: &mut Kv, command| assert!(!matches!(kv.execute(&Command::Auth(command), 0), Reply::Refused(_)));
    for name in ["root", "alice"] {
        let password = Bytes::from_static(b"$2b$04$hash");
        change(&mut kv, AuthCommand::UserAdd { name: name.into(), password, no_password: false });
    }
    change(&mut kv, AuthCommand::UserAdd { name: "bob".into(), password: Bytes::new(), no_password: true });
    for name in ["root", "readers"] {
        change(&mut kv, AuthCommand::RoleAdd { name: name.into() });
    }
    change(&mut kv, AuthCommand::RoleGrantPermission { name: "readers".into(), permission: Some(permission.clone()) });
    change(&mut kv, AuthCommand::UserGrantRole { name: "root".into(), role: "root".into() });
    change(&mut kv, AuthCommand::UserGrantRole { name: "alice".into(), role: "readers".into() });
    change(&mut kv, AuthCommand::Enable);
    let (again, image) = store(&written(kv.image()), taken()).unwrap();
    assert!(again.auth().is_enabled());
    assert_eq!(again.auth().revision(), kv.auth().revision());
    assert_eq!(again.auth().permissions_of("readers").unwrap(), [permission]);
    let alice = again.auth().user("alice").unwrap();
    assert_eq!((&alice.password[..], alice.no_password, alice.roles.len()), (&b"$2b$04$hash"[..], false, 1));
    assert!(again.auth().user("bob").unwrap().no_password);
    let asker = |name: &str| Asker::User { name: name.into(), revision: kv.auth().revision() };
    assert!(again.auth().check_read(&asker("alice"), b"b", b"").is_ok());
    assert_eq!(again.auth().check_read(&asker("bob"), b"b", b""), Err(KvError::PermissionDenied));
    assert!(image.is_sorted_by(|before, after| before.0 < after.0));
    // And once more: nothing is lost on the way.
    assert_eq!(store(&written(again.image()), taken()).unwrap().1, image);
}

#[test]
fn what_cannot_be_kept_or_contradicts_itself_is_refused() {
    let refused = |buckets: &[Bucket<'_>]| examine(Cursor::new(file_of(buckets)), taken()).unwrap_err().to_string();
    let empty: Bucket<'_> = (KEY, &[]);
    let (put, later) = (revision_key(Revision(2), 0), revision_key(Revision(4), 0));
    // A key `k` that was created and written at revision 2, and at 4.
    let (two, four): (&[u8], &[u8]) = (&[10, 1, b'k', 16, 2, 24, 2, 32, 1], &[10, 1, b'k', 16, 4, 24, 4, 32, 1]);
    assert_eq!(examine(Cursor::new(file_of(&[empty])), taken()).unwrap().revision, 1);
    assert_eq!(examine(Cursor::new(file_of(&[(KEY, &[(&put, two)])])), taken()).unwrap().revision, 2);
    assert!(refused(&[(b"other", &[])]).contains("no keys' bucket"));
    assert!(refused(&[empty, (AUTH_USERS, &[(b"root", &[0xff])])]).contains("a user"));
    assert!(refused(&[empty, (AUTH_ROLES, &[(&[0xff], &[])])]).contains("no text"));
    assert!(refused(&[(KEY, &[(&put, two), (&later, four)])]).contains("nothing at revision 3"));
    assert!(refused(&[(KEY, &[(&put, four)])]).contains("a version that cannot be at revision 2.0"));
    assert!(refused(&[(KEY, &[(b"short", two)])]).contains("no revision"));
    assert!(refused(&[(KEY, &[(&put, b"\xff")])]).contains("no version"));
    assert!(refused(&[empty, (LEASE, &[(&[0; 8], b"")])]).contains("a lease"));
    assert!(refused(&[empty, (META, &[(FINISHED, b"x")])]).contains("compaction"));
    // A compaction above everything that is kept: the revision never falls.
    let mark = revision_key(Revision(9), 0);
    let (kv, _) = store(&file_of(&[(KEY, &[(&put, two)]), (META, &[(SCHEDULED, &mark)])]), taken()).unwrap();
    assert_eq!((kv.revision(), kv.compacted()), (Revision(9), Revision(9)));
    // A key whose lease is gone belongs to none.
    let leased: &[u8] = &[10, 1, b'k', 16, 2, 24, 2, 32, 1, 48, 7];
    let (kv, _) = store(&file_of(&[(KEY, &[(&put, leased)])]), taken()).unwrap();
    assert_eq!(kv.range(&RangeQuery { key: "k".into(), ..Default::default() }).unwrap().kvs[0].lease, LeaseId::NONE);
}

/// Whatever is changed in a file: it is refused, or a store that loads.
#[test]
fn a_damaged_file_never_panics() {
    let mut number = 7u64;
    let mut below = |bound: usize| {
        number = number.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
        (number >> 33) as usize % bound
    };
    let skip = FileOptions { skip_hash: true, ..taken() };
    let mut refused = 0;
    for _ in 0..600 {
        let mut file = REAL.to_vec();
        for _ in 0..=below(3) {
            // Pages begin with their numbers.
            let at = below(REAL.len() / 4096) * 4096 + below(200);
            match below(3) {
                0 => file[at] ^= 1 << below(8),
                1 => file[at] = below(256) as u8,
                _ => file[at..at + 4].fill(0xff),
            }
        }
        refused += usize::from(store(&file, skip).is_err());
    }
    assert!(refused > 100, "{refused} refused");
}

#[test]
fn revisions_are_keys() {
    for (revision, sub) in [(1, 0), (2, 3), (i64::MAX, 1 << 40)] {
        let key = revision_key(Revision(revision), sub);
        assert_eq!(read_revision(&key), Some((Revision(revision), sub, false)));
        assert_eq!(read_revision(&[&key[..], b"t"].concat()), Some((Revision(revision), sub, true)));
        assert_eq!(read_revision(&[&key[..], b"x"].concat()), None);
        assert_eq!(read_revision(&key[..16]), None);
    }
    assert_eq!(read_revision(&revision_key(Revision(-1), 0)), None);
}
