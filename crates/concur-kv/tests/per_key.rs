//! A namespace ordered per key: writes to different keys commute.

mod support;

use concur_core::{Footprint, StateMachine, Wire};
use concur_kv::*;
use support::*;

fn touches(shell: &Shell, command: &Command) -> Footprint {
    StateMachine::footprint(&shell.0, &command.to_bytes())
}

#[test]
fn each_key_counts_its_own_changes() {
    let mut shell = Shell::per_key();
    assert_eq!(shell.set("a", "1"), 1);
    assert_eq!(shell.set("b", "1"), 1);
    assert_eq!(shell.set("a", "2"), 2);
    let kv = shell.0.get(b"a").unwrap();
    assert_eq!((kv.create_revision.0, kv.mod_revision.0, kv.version), (1, 2, 2));
    assert_eq!(shell.show(range("a", "\0")), "a=2 b=1");
    assert_eq!(shell.0.revision(), Revision(0), "there is no revision of the whole");
}

#[test]
fn a_version_never_comes_again_not_even_after_a_delete() {
    let mut shell = Shell::per_key();
    shell.set("a", "1");
    shell.delete(delete("a", ""));
    assert_eq!(shell.show(range("a", "\0")), "");
    assert_eq!(shell.set("a", "2"), 3);
    let kv = shell.0.get(b"a").unwrap();
    assert_eq!((kv.create_revision.0, kv.version), (3, 1));
    shell.delete(delete("a", ""));
    assert_eq!(shell.run(Command::Forget), Reply::Done { revision: Revision(0) });
    assert_eq!(shell.0.used_bytes(), 0);
    assert_eq!(shell.set("a", "3"), 5, "above what was forgotten");
    assert_eq!(shell.set("new", ""), 5);
}

#[test]
fn what_needs_a_global_revision_is_refused_with_a_reason() {
    let mut shell = Shell::per_key();
    shell.set("a", "1");
    assert_eq!(shell.compact(1), Reply::Refused(KvError::OrderedPerKey));
    assert_eq!(shell.0.range(&RangeQuery { revision: Revision(1), ..range("a", "") }), Err(KvError::OrderedPerKey));
    assert!(matches!(shell.0.history(Revision(1), Revision(1)).map(|_| ()), Err(KvError::OrderedPerKey)));
    assert_eq!(shell.0.hash_at(Revision(1)), Err(KvError::OrderedPerKey));
    assert!(shell.0.hash_at(Revision(0)).is_ok());
    assert_eq!(Shell::new().refused(Command::Forget), KvError::OrderedTotally);
}

#[test]
fn footprints_name_keys_and_only_keys() {
    let (total, per_key) = (Shell::new(), Shell::per_key());
    let put_a = Command::Put(put("a", "1"));
    let put_b = Command::Put(put("b", "1"));
    let delete_all = Command::DeleteRange(delete("\0", "\0"));
    let read_ab = Command::Read(Query::Range(range("a", "c")));
    let exists = compare("x", Relation::Equal, Target::Version(1));
    let txn = Command::Txn(Txn { compare: vec![exists], failure: vec![Op::Put(put("y", ""))], ..Txn::default() });
    let grant = Command::LeaseGrant { id: LeaseId(1), ttl_s: 10 };
    for (a, b, meet) in [
        (&put_a, &put_a, true),
        (&put_a, &put_b, false),
        (&put_a, &delete_all, true),
        (&put_a, &read_ab, true),
        (&read_ab, &read_ab, false),
        (&txn, &put_a, false),
        (&txn, &Command::Put(put("x", "")), true),
        (&txn, &Command::Put(put("y", "")), true),
        (&txn, &Command::Read(Query::Range(range("x", ""))), false),
        (&txn, &Command::Read(Query::Range(range("y", ""))), true),
        (&grant, &put_a, true),
        (&grant, &read_ab, true),
    ] {
        assert_eq!(touches(&per_key, a).interferes(&touches(&per_key, b)), meet, "{a:?} {b:?}");
    }
    assert!(touches(&total, &put_a).interferes(&touches(&total, &put_b)), "one revision for all");
    assert!(touches(&total, &put_a).interferes(&touches(&total, &read_ab)));
    assert!(!touches(&total, &read_ab).interferes(&touches(&total, &read_ab)));
}

/// Exchanges neighbours that do not interfere, at random, and executes both orders.
#[test]
fn commands_that_do_not_interfere_commute() {
    let mut exchanged = 0;
    for seed in 0..200 {
        let mut random = Generator { keys: 12, ..Generator::new(seed) };
        let mut one = Shell::per_key();
        let mut commands = vec![];
        for n in 0..120 {
            let command = random.command(&one.0, n * 100);
            commands.push((n, command.clone(), one.at(n * 100, command)));
        }
        let mut order: Vec<usize> = (0..commands.len()).collect();
        let footprints: Vec<Footprint> = commands.iter().map(|(_, command, _)| touches(&one, command)).collect();
        for _ in 0..4000 {
            let i = random.rng.below(order.len() as u64 - 1) as usize;
            if !footprints[order[i]].interferes(&footprints[order[i + 1]]) {
                order.swap(i, i + 1);
                exchanged += 1;
            }
        }
        let mut other = Shell::per_key();
        for place in order {
            let (n, command, reply) = &commands[place];
            assert_eq!(&other.at(n * 100, command.clone()), reply, "seed {seed}: {command:?}");
        }
        assert_eq!(other.0.digest(), one.0.digest(), "seed {seed}");
        assert!(other.0.image().eq(one.0.image()), "seed {seed}");
    }
    assert!(exchanged > 1000);
}

#[test]
fn the_quota_refuses_by_alarm_only_as_a_full_store_would_depend_on_the_order() {
    let mut shell = Shell(Kv::new(Config { ordering: Ordering::PerKey, quota_bytes: 100, ..Config::default() }));
    shell.set("a", "0123456789");
    shell.set("b", "0123456789");
    assert!(shell.0.is_over_quota());
    assert_eq!(shell.set("c", ""), 1);
    shell.run(Command::AlarmArm { alarm: Alarm { member: 1, kind: AlarmKind::NoSpace } });
    assert_eq!(shell.refused(Command::Put(put("d", ""))), KvError::NoSpace);
}

#[test]
fn leases_work_per_key_too() {
    let mut shell = Shell::per_key();
    shell.grant(7, 10, 0);
    shell.put(Put { lease: LeaseId(7), ..put("a", "") });
    shell.put(Put { lease: LeaseId(7), ..put("b", "") });
    shell.set("c", "");
    let leases = shell.0.expired(10_000, 10);
    shell.at(10_000, Command::LeaseExpire { leases });
    assert_eq!(shell.show(range("a", "\0")), "c=");
    assert_eq!(shell.0.applied().len(), 2);
}
