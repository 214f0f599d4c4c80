//! The durable image: what a store comes back as.

mod support;

use bytes::Bytes;
use concur_core::{At, StateMachine, Wire};
use concur_kv::*;
use std::collections::BTreeMap;
use support::*;

fn reload(kv: &Kv) -> Kv {
    let config = Config { ordering: kv.config().ordering, ..Config::default() };
    let entries: Vec<_> = kv.image().collect();
    Kv::from_image(config, &mut entries.into_iter()).unwrap()
}

fn apply_changes(image: &mut BTreeMap<Bytes, Bytes>, kv: &mut Kv) {
    for change in kv.changes() {
        match change.value {
            Some(value) => image.insert(change.key, value),
            None => image.remove(&change.key),
        };
    }
}

/// At every few steps: the changes so far make the image, and a store loaded from it goes on exactly as this one does.
fn check(seed: u64, ordering: Ordering, steps: u64) {
    let mut random = Generator::new(seed);
    let mut kv = Kv::new(Config { ordering, ..Config::default() });
    let mut other = Kv::new(Config { ordering, ..Config::default() });
    let mut image = BTreeMap::new();
    let mut now_ms = 0;
    for step in 0..steps {
        now_ms += random.rng.below(2000);
        let command = random.command(&kv, now_ms);
        let reply = kv.execute(&command, now_ms);
        assert_eq!(other.execute(&command, now_ms), reply, "seed {seed}, step {step}: {command:?}");
        assert_eq!(other.digest(), kv.digest(), "seed {seed}, step {step}: {command:?}");
        if random.rng.below(10) == 0 {
            apply_changes(&mut image, &mut kv);
            let whole: Vec<_> = kv.image().collect();
            assert!(whole.is_sorted(), "seed {seed}, step {step}");
            assert_eq!(image.clone().into_iter().collect::<Vec<_>>(), whole, "seed {seed}, step {step}");
            other = reload(&kv);
            assert_eq!(other.digest(), kv.digest(), "seed {seed}, step {step}");
            assert_eq!(other.status(), kv.status(), "seed {seed}, step {step}");
            assert_eq!(other.changes(), [], "a store just loaded has nothing to write");
            if ordering == Ordering::Total {
                let from = kv.compacted();
                let (a, b) = (kv.history(from, kv.revision()).unwrap(), other.history(from, kv.revision()).unwrap());
                assert!(a.eq(b), "seed {seed}, step {step}");
                assert_eq!(kv.hash_at(Revision(0)), other.hash_at(Revision(0)), "seed {seed}, step {step}");
            }
        }
    }
}

#[test]
fn changes_make_the_image_and_the_image_makes_the_store() {
    for seed in 0..60 {
        check(seed, Ordering::Total, 300);
        check(seed, Ordering::PerKey, 300);
    }
}

#[test]
fn a_store_loaded_in_the_middle_of_a_compaction_goes_on_removing() {
    let mut kv = Kv::new(Config::default());
    let mut random = Generator::new(7);
    for _ in 0..3500 {
        kv.execute(&Command::Put(Put { lease: LeaseId::NONE, ignore_value: false, ignore_lease: false, ..random.put() }), 0);
        kv.execute(&Command::DeleteRange(random.delete()), 0);
    }
    let revision = kv.revision();
    kv.execute(&Command::Compact { revision }, 0);
    let mut image: BTreeMap<_, _> = kv.image().collect();
    kv.changes();
    let mut steps = 0;
    while kv.image().count() > 20 {
        let mut other = reload(&kv);
        for _ in 0..5 {
            let command = idle();
            assert_eq!(other.execute(&command, 0), kv.execute(&command, 0));
            assert_eq!(other.digest(), kv.digest());
        }
        apply_changes(&mut image, &mut kv);
        kv = other;
        steps += 1;
        assert!(steps < 1000);
    }
    assert!(steps > 10);
    assert_eq!(image, kv.image().collect());
}

#[test]
fn an_image_that_contradicts_itself_is_corrupt() {
    let mut shell = Shell::new();
    shell.grant(7, 60, 0);
    shell.put(Put { lease: LeaseId(7), ..put("a", "1") });
    shell.set("b", "2");
    let whole: Vec<_> = shell.0.image().collect();
    let load = |entries: Vec<(Bytes, Bytes)>| Kv::from_image(Config::default(), &mut entries.into_iter()).map(|kv| kv.digest());
    assert_eq!(load(whole.clone()), Ok(shell.0.digest()));
    assert_eq!(load(vec![]), Ok(Shell::new().0.digest()));
    for missing in 0..whole.len() {
        let mut entries = whole.clone();
        entries.remove(missing);
        assert!(load(entries).is_err(), "without entry {missing}");
    }
    for (place, (_, value)) in whole.iter().enumerate() {
        for cut in 0..value.len() {
            let mut entries = whole.clone();
            entries[place].1 = value.slice(..cut);
            // A shorter value is a value.
            if load(entries).is_ok() {
                assert!(whole[place].0.starts_with(b"r"), "entry {place} cut to {cut}");
            }
        }
    }
    let mut entries = whole.clone();
    entries.swap(0, 1);
    assert!(load(entries).is_err());
    let mut entries = whole;
    entries.push((Bytes::from_static(b"z"), Bytes::new()));
    assert!(load(entries).is_err());
    let per_key = Shell::per_key();
    assert!(load(per_key.0.image().collect()).is_err(), "made by another kind of store");
}

#[test]
fn a_load_that_fails_leaves_the_store_as_it_was() {
    let mut shell = Shell::new();
    shell.set("a", "1");
    let digest = shell.0.digest();
    let junk = (Bytes::from_static(b"x"), Bytes::new());
    assert!(shell.0.load(&mut [junk].into_iter()).is_err());
    assert_eq!(shell.0.digest(), digest);
}

#[test]
fn malformed_commands_and_queries_are_refused_and_change_nothing() {
    let mut shell = Shell::new();
    shell.set("a", "1");
    let digest = shell.0.digest();
    for junk in [&b""[..], b"\x01", b"\x01\xff", b"\x02\x00", b"\x01\x00\x00\x00\x01a\x01v!"] {
        let reply = shell.0.apply(&Bytes::from_static(junk), &At { time_ms: 5 });
        assert_eq!(Reply::from_bytes(&reply), Ok(Reply::Refused(KvError::Malformed)), "{junk:?}");
        let answer = shell.0.query(junk);
        assert_eq!(Reply::from_bytes(&answer), Ok(Reply::Read(Answer::Refused(KvError::Malformed))), "{junk:?}");
        assert_eq!(StateMachine::footprint(&shell.0, junk), concur_core::Footprint::Everything);
    }
    assert_eq!(shell.0.digest(), digest);
    let reply = shell.0.apply(&Command::Put(put("a", "2")).to_bytes(), &At { time_ms: 5 });
    assert_eq!(Reply::from_bytes(&reply), Ok(Reply::Put(PutReply { revision: Revision(3), prev_kv: None })));
    let answer = shell.0.query(&Query::Range(range("a", "")).to_bytes());
    let Ok(Reply::Read(Answer::Range(answer))) = Reply::from_bytes(&answer) else { panic!("{answer:?}") };
    assert_eq!(&answer.kvs[0].value[..], b"2");
}
