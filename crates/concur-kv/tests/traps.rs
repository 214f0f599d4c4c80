//! The details of etcd's semantics that are easily got wrong, one by one.

mod support;

use bytes::Bytes;
use concur_kv::*;
use support::*;

const NOTHING: &str = "";

#[test]
fn an_empty_store_is_at_revision_1_and_a_write_adds_1() {
    let mut shell = Shell::new();
    assert_eq!(shell.0.revision(), Revision(1));
    assert_eq!(shell.set("a", "1"), 2);
    assert_eq!(shell.set("a", "1"), 3);
    assert_eq!(shell.range(range("a", "")).revision, Revision(3));
}

#[test]
fn a_transaction_adds_1_and_its_changes_are_numbered() {
    let mut shell = Shell::new();
    shell.set("old", "");
    let reply = shell.txn(then(vec![Op::Put(put("a", "")), Op::DeleteRange(delete("old", "")), Op::Put(put("b", ""))]));
    assert_eq!(reply.revision, Revision(3));
    assert_eq!(shell.history(3), "3:+a 3:-old 3:+b");
    assert_eq!(shell.range(range("a", "c")).kvs.iter().map(|kv| kv.mod_revision.0).collect::<Vec<_>>(), [3, 3]);
}

#[test]
fn a_delete_that_deletes_nothing_adds_no_revision() {
    let mut shell = Shell::new();
    shell.set("a", "1");
    assert_eq!(shell.delete(delete("b", "z")), DeleteReply { revision: Revision(2), ..DeleteReply::default() });
    assert_eq!(shell.txn(then(vec![Op::DeleteRange(delete("b", ""))])).revision, Revision(2));
    assert_eq!(shell.txn(then(vec![Op::Range(range("a", ""))])).revision, Revision(2));
    let deleted = shell.delete(DeleteRange { prev_kv: true, ..delete("a", "\0") });
    assert_eq!((deleted.revision, deleted.deleted, deleted.prev_kvs.len()), (Revision(3), 1, 1));
    assert_eq!(shell.delete(delete("a", "")).revision, Revision(3), "a tombstone is not deleted again");
}

#[test]
fn a_key_counts_versions_and_starts_again_after_a_delete() {
    let mut shell = Shell::new();
    shell.set("a", "1");
    shell.set("a", "2");
    let kv = shell.0.get(b"a").unwrap();
    assert_eq!((kv.create_revision.0, kv.mod_revision.0, kv.version), (2, 3, 2));
    shell.delete(delete("a", ""));
    shell.set("a", "3");
    let kv = shell.0.get(b"a").unwrap();
    assert_eq!((kv.create_revision.0, kv.mod_revision.0, kv.version), (5, 5, 1));
}

#[test]
fn a_key_deleted_and_put_in_one_transaction_is_created_again() {
    let mut shell = Shell::new();
    shell.set("a", "1");
    // From a key on is held against its first key only, so both may stand together.
    shell.txn(then(vec![Op::DeleteRange(delete("\0", "\0")), Op::Put(put("a", "2"))]));
    let kv = shell.0.get(b"a").unwrap();
    assert_eq!((kv.create_revision.0, kv.mod_revision.0, kv.version), (3, 3, 1));
    assert_eq!(shell.history(3), "3:-a 3:+a");
    assert_eq!(shell.show(RangeQuery { revision: Revision(2), ..range("a", "") }), "a=1");
    let keep = Put { ignore_value: true, ..put("a", "") };
    shell.txn(then(vec![Op::DeleteRange(delete("\0", "\0")), Op::Put(keep)]));
    assert_eq!(shell.show(range("a", "")), "a=", "nothing was left to keep");
}

#[test]
fn a_read_at_a_revision_answers_with_the_current_one() {
    let mut shell = Shell::new();
    shell.set("a", "1");
    shell.set("a", "2");
    let answer = shell.range(RangeQuery { revision: Revision(2), ..range("a", "") });
    assert_eq!((answer.revision, &answer.kvs[0].value[..]), (Revision(3), &b"1"[..]));
    assert_eq!(shell.0.range(&RangeQuery { revision: Revision(4), ..range("a", "") }), Err(KvError::FutureRevision));
    assert_eq!(shell.show(RangeQuery { revision: Revision(1), ..range("a", "") }), NOTHING);
}

#[test]
fn a_negative_revision_is_the_current_one_outside_a_transaction_and_compacted_inside() {
    let mut shell = Shell::new();
    for _ in 0..5 {
        shell.set("a", "1");
    }
    shell.compact(3);
    let negative = RangeQuery { revision: Revision(-1), ..range("a", "") };
    assert_eq!(shell.show(negative.clone()), "a=1");
    assert_eq!(shell.refused(Command::Txn(then(vec![Op::Range(negative.clone())]))), KvError::Compacted);
    assert_eq!(shell.0.read_txn(&then(vec![Op::Range(negative)])), Err(KvError::Compacted));
}

#[test]
fn compaction_keeps_what_is_needed_from_its_revision_on() {
    let mut shell = Shell::new();
    shell.set("a", "2");
    shell.set("a", "3");
    shell.set("b", "4");
    shell.set("a", "5");
    assert_eq!(shell.compact(6), Reply::Refused(KvError::FutureRevision));
    assert_eq!(shell.compact(4), Reply::Done { revision: Revision(5) });
    assert_eq!(shell.compact(4), Reply::Refused(KvError::Compacted));
    assert_eq!(shell.compact(3), Reply::Refused(KvError::Compacted));
    let at = |revision| RangeQuery { revision: Revision(revision), ..range("a", "\0") };
    assert_eq!(shell.0.range(&at(3)), Err(KvError::Compacted));
    assert_eq!(shell.show(at(4)), "a=3 b=4", "the compacted revision can be read");
    assert_eq!(shell.show(at(5)), "a=5 b=4");
    assert_eq!(shell.0.revision(), Revision(5), "compaction adds no revision");
    assert_eq!(shell.history(4), "4:+b 5:+a");
    assert!(matches!(shell.0.history(Revision(3), Revision(9)).map(|_| ()), Err(KvError::Compacted)));
}

#[test]
fn a_tombstone_at_the_compacted_revision_is_kept_and_one_below_is_not() {
    let mut shell = Shell::new();
    shell.set("a", "");
    shell.delete(delete("a", "")); // 3
    shell.set("b", ""); // 4
    shell.compact(3);
    assert_eq!(shell.history(3), "3:-a 4:+b", "a watch from 3 sees the delete");
    shell.compact(4);
    assert_eq!(shell.history(4), "4:+b");
    let status = shell.0.status();
    assert_eq!(status.keys, 1);
    let image: Vec<_> = shell.0.image().collect();
    assert_eq!(image.len(), 2, "the summary and b: {image:?}");
}

#[test]
fn every_change_of_the_compacted_revision_is_kept_even_two_of_one_key() {
    let mut shell = Shell::new();
    shell.set("a", "1");
    shell.txn(then(vec![Op::DeleteRange(delete("\0", "\0")), Op::Put(put("a", "2"))]));
    shell.compact(3);
    assert_eq!(shell.history(3), "3:-a 3:+a");
    assert_eq!(shell.show(range("a", "")), "a=2", "etcd 3.7 loses it and ends itself");
    let entries: Vec<_> = shell.0.image().collect();
    let loaded = Shell(Kv::from_image(Config::default(), &mut entries.into_iter()).unwrap());
    assert_eq!(loaded.history(3), "3:-a 3:+a");
    shell.set("b", "");
    shell.compact(4);
    assert_eq!(shell.0.image().count(), 3, "the summary, a and b");
}

#[test]
fn compacting_an_empty_store_is_as_in_etcd() {
    let mut shell = Shell::new();
    assert_eq!(shell.compact(2), Reply::Refused(KvError::FutureRevision));
    assert_eq!(shell.compact(-1), Reply::Refused(KvError::Compacted));
    assert_eq!(shell.compact(0), Reply::Done { revision: Revision(1) });
    assert_eq!(shell.compact(1), Reply::Done { revision: Revision(1) });
    assert_eq!(shell.compact(1), Reply::Refused(KvError::Compacted));
    assert_eq!(shell.set("a", ""), 2);
    assert_eq!(shell.history(1), "2:+a");
}

#[test]
fn a_large_compaction_is_immediate_for_readers_and_removed_bit_by_bit() {
    let mut shell = Shell::new();
    for n in 0..20_000 {
        shell.set(&format!("k{}", n % 10), "v");
    }
    let before = shell.0.used_bytes();
    shell.compact(20_001);
    let soon = shell.0.used_bytes();
    assert!(soon < before, "something goes at once");
    assert!(soon > before / 2, "not everything");
    assert_eq!(shell.0.range(&RangeQuery { revision: Revision(20_000), ..range("k0", "") }), Err(KvError::Compacted));
    assert_eq!(shell.range(range("k", "l")).count, 10);
    let steps = (0..).take_while(|_| {
        shell.0.changes();
        shell.run(idle());
        let removed = shell.0.changes().len();
        assert!(removed <= 34, "{removed} removals in a command");
        removed > 0
    });
    assert!(steps.count() > 400);
    assert!(shell.0.used_bytes() < 10 * 100);
    assert_eq!(shell.range(range("k", "l")).count, 10);
}

#[test]
fn range_ends_are_one_key_a_range_or_everything_from_a_key_on() {
    let mut shell = Shell::new();
    for key in ["a", "b", "ba", "c"] {
        shell.set(key, "");
    }
    assert_eq!(shell.show(range("b", "")), "b=");
    assert_eq!(shell.show(range("b", "c")), "b= ba=");
    assert_eq!(shell.show(range("b", "\0")), "b= ba= c=");
    assert_eq!(shell.show(range("\0", "\0")), "a= b= ba= c=");
    assert_eq!(shell.show(range("c", "b")), NOTHING);
    assert_eq!(shell.show(range("b", "b")), NOTHING);
    assert_eq!(shell.0.range(&range("", "b")), Err(KvError::EmptyKey));
    assert_eq!(shell.0.range(&range("", "\0")), Err(KvError::EmptyKey));
}

#[test]
fn count_ignores_the_limit_and_the_revision_filters() {
    let mut shell = Shell::new();
    for key in ["a", "b", "c", "d"] {
        shell.set(key, "");
    }
    let limited = shell.range(RangeQuery { limit: 2, ..range("a", "\0") });
    assert_eq!((limited.kvs.len(), limited.more, limited.count), (2, true, 4));
    let exact = shell.range(RangeQuery { limit: 4, ..range("a", "\0") });
    assert_eq!((exact.kvs.len(), exact.more, exact.count), (4, false, 4));
    let filtered = shell.range(RangeQuery { min_mod_revision: Revision(4), ..range("a", "\0") });
    assert_eq!((filtered.kvs.len(), filtered.more, filtered.count), (2, false, 4));
    let counted = shell.range(RangeQuery { count_only: true, limit: 1, ..range("a", "\0") });
    assert_eq!((counted.kvs.len(), counted.more, counted.count), (0, false, 4));
}

#[test]
fn the_limit_applies_after_sorts_and_filters() {
    let mut shell = Shell::new();
    for (key, value) in [("a", "3"), ("b", "1"), ("c", "2"), ("b", "0")] {
        shell.set(key, value);
    }
    let sorted = |sort_target, sort_order, limit| {
        let answer = shell.range(RangeQuery { sort_target, sort_order, limit, ..range("a", "\0") });
        answer.kvs.iter().map(|kv| kv.key[0] as char).collect::<String>() + if answer.more { "+" } else { "" }
    };
    assert_eq!(sorted(SortTarget::Key, SortOrder::Descend, 2), "cb+");
    assert_eq!(sorted(SortTarget::Value, SortOrder::Ascend, 2), "bc+");
    assert_eq!(sorted(SortTarget::Value, SortOrder::None, 1), "b+", "another target without an order is ascending");
    assert_eq!(sorted(SortTarget::Value, SortOrder::None, 0), "bca");
    assert_eq!(sorted(SortTarget::Mod, SortOrder::Descend, 1), "b+");
    assert_eq!(sorted(SortTarget::Create, SortOrder::Descend, 0), "cba");
    assert_eq!(sorted(SortTarget::Version, SortOrder::Descend, 1), "b+");
    let last = RangeQuery { min_mod_revision: Revision(4), limit: 1, ..range("a", "\0") };
    let answer = shell.range(last);
    assert_eq!((&answer.kvs[0].key[..], answer.more), (&b"b"[..], true));
}

#[test]
fn a_target_without_an_order_sorts_what_the_limit_leaves_and_one_more() {
    let mut shell = Shell::new();
    for (key, value) in [("a", "4"), ("b", "3"), ("c", "2"), ("d", "1")] {
        shell.set(key, value);
    }
    let sorted = |limit, sort_order| {
        let answer = shell.range(RangeQuery { sort_target: SortTarget::Value, sort_order, limit, ..range("a", "\0") });
        answer.kvs.iter().map(|kv| kv.key[0] as char).collect::<String>() + if answer.more { "+" } else { "" }
    };
    assert_eq!(sorted(1, SortOrder::None), "b+", "of a and b");
    assert_eq!(sorted(2, SortOrder::None), "cb+", "of a, b and c");
    assert_eq!(sorted(2, SortOrder::Ascend), "dc+");
}

#[test]
fn keys_only_leaves_values_out_even_where_they_are_sorted_by() {
    let mut shell = Shell::new();
    shell.set("a", "2");
    shell.set("b", "1");
    assert_eq!(shell.show(RangeQuery { keys_only: true, sort_target: SortTarget::Value, ..range("a", "\0") }), "b= a=");
}

#[test]
fn keys_only_leaves_leases_out_unless_values_are_sorted_by() {
    let mut shell = Shell::new();
    shell.run(Command::LeaseGrant { id: LeaseId(7), ttl_s: 60 });
    shell.run(Command::Put(Put { key: "a".into(), lease: LeaseId(7), ..Put::default() }));
    let lease = |keys_only, sort_target| shell.range(RangeQuery { keys_only, sort_target, ..range("a", "") }).kvs[0].lease;
    assert_eq!([lease(false, SortTarget::Key), lease(true, SortTarget::Key)], [LeaseId(7), LeaseId::NONE]);
    assert_eq!([lease(true, SortTarget::Mod), lease(true, SortTarget::Value)], [LeaseId::NONE, LeaseId(7)]);
}

#[test]
fn a_transaction_reads_what_it_wrote() {
    let mut shell = Shell::new();
    shell.set("a", "1");
    let reply = shell.txn(then(vec![
        Op::Range(range("a", "\0")),
        Op::Put(put("b", "2")),
        Op::Range(range("a", "\0")),
        Op::DeleteRange(delete("a", "")),
        Op::Range(range("a", "\0")),
        Op::Range(RangeQuery { revision: Revision(2), ..range("a", "\0") }),
    ]));
    let seen = |i: usize| match &reply.replies[i] {
        OpReply::Range(answer) => (answer.revision.0, answer.kvs.iter().map(|kv| kv.key[0] as char).collect::<String>()),
        reply => panic!("{reply:?}"),
    };
    assert_eq!(seen(0), (2, "a".into()));
    assert_eq!(seen(2), (3, "ab".into()));
    assert_eq!(seen(4), (3, "b".into()));
    assert_eq!(seen(5), (3, "a".into()));
}

#[test]
fn all_compares_are_judged_before_anything_is_executed() {
    let mut shell = Shell::new();
    let exists = |key: &str| compare(key, Relation::NotEqual, Target::Create(Revision(0)));
    let inner = Txn { compare: vec![exists("a")], success: vec![Op::Put(put("seen", ""))], failure: vec![Op::Put(put("unseen", ""))] };
    let reply = shell.txn(then(vec![Op::Put(put("a", "")), Op::Txn(inner)]));
    assert_eq!(shell.show(range("a", "\0")), "a= unseen=");
    let OpReply::Txn(inner) = &reply.replies[1] else { panic!() };
    assert_eq!((inner.succeeded, inner.revision), (false, Revision(0)));
}

#[test]
fn a_refused_transaction_changes_nothing() {
    let mut shell = Shell::new();
    shell.set("a", "");
    let read = |revision| Op::Range(RangeQuery { revision: Revision(revision), ..range("a", "") });
    for (last, error) in [
        (read(3), KvError::FutureRevision),
        (Op::Put(Put { lease: LeaseId(9), ..put("c", "") }), KvError::LeaseNotFound),
        (Op::Put(Put { ignore_value: true, ..put("c", "") }), KvError::KeyNotFound),
        (Op::Put(Put { ignore_lease: true, ..put("c", "") }), KvError::KeyNotFound),
        (Op::Put(put("b", "")), KvError::DuplicateKey),
    ] {
        assert_eq!(shell.refused(Command::Txn(then(vec![Op::Put(put("b", "")), last]))), error);
    }
    // What is not executed is not checked.
    let unused = Txn { failure: vec![read(99)], ..then(vec![]) };
    assert!(shell.txn(unused).succeeded);
}

#[test]
fn a_missing_key_compares_as_zero_but_has_no_value() {
    let mut shell = Shell::new();
    shell.set("a", "");
    let mut holds = |key: &str, range_end: &str, relation, target| {
        let compare = Compare { range_end: bytes(range_end), ..compare(key, relation, target) };
        shell.txn(Txn { compare: vec![compare], ..Txn::default() }).succeeded
    };
    use Relation::*;
    for zero in [Target::Version(0), Target::Create(Revision(0)), Target::Mod(Revision(0)), Target::Lease(LeaseId(0))] {
        assert!(holds("x", "", Equal, zero.clone()));
        assert!(!holds("x", "", NotEqual, zero.clone()));
        assert!(holds("x", "z", Equal, zero), "an empty range too");
    }
    assert!(holds("x", "", Less, Target::Version(1)));
    for relation in [Equal, NotEqual, Less, Greater] {
        assert!(!holds("x", "", relation, Target::Value(Bytes::new())), "{relation:?}");
    }
    assert!(holds("a", "", Equal, Target::Value(Bytes::new())));
    assert!(holds("a", "", NotEqual, Target::Value(bytes("b"))));
}

#[test]
fn a_compare_with_a_range_holds_for_every_key_or_not_at_all() {
    let mut shell = Shell::new();
    shell.set("a", "");
    shell.set("b", "");
    shell.set("b", "");
    let mut holds = |relation, target| {
        let compare = Compare { range_end: bytes("\0"), ..compare("a", relation, target) };
        shell.txn(Txn { compare: vec![compare], ..Txn::default() }).succeeded
    };
    assert!(holds(Relation::Greater, Target::Version(0)));
    assert!(!holds(Relation::Greater, Target::Version(1)));
    assert!(holds(Relation::Less, Target::Create(Revision(4))));
}

#[test]
fn prev_kv_ignore_value_and_ignore_lease() {
    let mut shell = Shell::new();
    shell.grant(7, 60, 0);
    let first = shell.put(Put { prev_kv: true, lease: LeaseId(7), ..put("a", "1") });
    assert_eq!(first.prev_kv, None);
    let second = shell.put(Put { prev_kv: true, ignore_lease: true, ..put("a", "2") });
    assert_eq!(&second.prev_kv.unwrap().value[..], b"1");
    shell.put(Put { ignore_value: true, lease: LeaseId(7), ..put("a", "") });
    let kv = shell.0.get(b"a").unwrap();
    assert_eq!((&kv.value[..], kv.lease, kv.version), (&b"2"[..], LeaseId(7), 3));
    assert_eq!(shell.refused(Command::Put(Put { ignore_value: true, ..put("b", "") })), KvError::KeyNotFound);
}

#[test]
fn a_put_without_a_lease_detaches_the_key() {
    let mut shell = Shell::new();
    shell.grant(7, 60, 0);
    shell.grant(8, 60, 0);
    let keys = |shell: &Shell, id| shell.0.lease_time_to_live(LeaseId(id), true, 0).keys;
    shell.put(Put { lease: LeaseId(7), ..put("a", "") });
    assert_eq!(keys(&shell, 7), ["a"]);
    shell.put(Put { lease: LeaseId(8), ..put("a", "") });
    assert_eq!((keys(&shell, 7).len(), keys(&shell, 8).len()), (0, 1));
    shell.set("a", "");
    assert_eq!(keys(&shell, 8).len(), 0);
    shell.run(Command::LeaseRevoke { id: LeaseId(8) });
    assert_eq!(shell.show(range("a", "")), "a=", "no longer the lease's");
}

#[test]
fn revoking_a_lease_deletes_its_keys_sorted_in_one_revision() {
    let mut shell = Shell::new();
    shell.grant(7, 60, 0);
    for key in ["c", "a", "b"] {
        shell.put(Put { lease: LeaseId(7), ..put(key, "") });
    }
    assert_eq!(shell.run(Command::LeaseRevoke { id: LeaseId(7) }), Reply::Done { revision: Revision(5) });
    assert_eq!(shell.history(5), "5:-a 5:-b 5:-c");
    assert_eq!(shell.refused(Command::LeaseRevoke { id: LeaseId(7) }), KvError::LeaseNotFound);
    shell.grant(9, 60, 0);
    assert_eq!(shell.run(Command::LeaseRevoke { id: LeaseId(9) }), Reply::Done { revision: Revision(5) }, "no keys, no revision");
}

#[test]
fn leases_are_granted_renewed_and_expire_by_logged_time() {
    let mut shell = Shell::new();
    assert!(matches!(shell.grant(7, 10, 1000), Reply::LeaseGranted { ttl_s: 10, .. }));
    assert_eq!(shell.grant(7, 10, 1000), Reply::Refused(KvError::LeaseExists));
    assert_eq!(shell.grant(0, 10, 1000), Reply::Refused(KvError::LeaseNotFound));
    assert_eq!(shell.grant(8, LEASE_TTL_MAX_S + 1, 1000), Reply::Refused(KvError::LeaseTtlTooLarge));
    shell.put(Put { lease: LeaseId(7), ..put("a", "") });
    assert_eq!(shell.0.lease_time_to_live(LeaseId(7), false, 2500).ttl_s, 8);
    assert_eq!(shell.0.next_expiry_ms(), Some(11_000));
    let renew = |ids: &[i64]| Command::LeaseRenew { ids: ids.iter().map(|&id| LeaseId(id)).collect() };
    let renewed = |reply| match reply {
        Reply::LeasesRenewed { ttls_s, .. } => ttls_s,
        reply => panic!("{reply:?}"),
    };
    assert_eq!(renewed(shell.at(5000, renew(&[7, 99]))), [10, 0], "unknown: 0");
    assert_eq!(shell.0.expired(14_999, 10), []);
    let due = shell.0.expired(15_000, 10);
    assert_eq!(due, [DueLease { id: LeaseId(7), renewals: 1 }]);
    assert_eq!(shell.0.lease_time_to_live(LeaseId(7), false, 15_000).ttl_s, -1);
    assert_eq!(renewed(shell.at(15_000, renew(&[7]))), [0], "a lease that is due is not renewed");
    assert_eq!(shell.range(range("a", "")).count, 1);
    let expired = shell.at(15_000, Command::LeaseExpire { leases: due });
    assert_eq!(expired, Reply::LeasesExpired { revision: Revision(3), ids: vec![LeaseId(7)] });
    assert_eq!(shell.range(range("a", "")).count, 0);
}

#[test]
fn an_expiry_that_a_renewal_overtook_does_nothing() {
    let mut shell = Shell::new();
    shell.grant(7, 10, 0);
    let due = shell.0.expired(10_000, 10);
    shell.at(9_999, Command::LeaseRenew { ids: vec![LeaseId(7)] });
    let late = Command::LeaseExpire { leases: due.clone() };
    assert_eq!(shell.at(30_000, late), Reply::LeasesExpired { revision: Revision(1), ids: vec![] });
    // Nor one by a clock that is ahead of logged time.
    let mut shell = Shell::new();
    shell.grant(7, 10, 0);
    assert_eq!(shell.at(5_000, Command::LeaseExpire { leases: due }), Reply::LeasesExpired { revision: Revision(1), ids: vec![] });
}

#[test]
fn what_could_not_be_renewed_without_a_leader_does_not_expire() {
    let mut shell = Shell::new();
    shell.grant(7, 10, 0);
    shell.at(60_000, Command::LeaseGrace { by_ms: 55_000 });
    assert_eq!(shell.0.expired(60_000, 10), []);
    assert_eq!(shell.0.lease_time_to_live(LeaseId(7), false, 60_000).ttl_s, 5);
    assert_eq!(shell.0.expired(65_000, 10).len(), 1);
    assert_eq!(shell.0.next_expiry_ms(), Some(65_000));
}

#[test]
fn a_hundred_thousand_leases_expire_in_bounded_steps() {
    let mut shell = Shell::new();
    for id in 1..=100_000 {
        shell.grant(id, 10, 0);
        if id % 100 == 0 {
            shell.put(Put { lease: LeaseId(id), ..put(&format!("k{id}"), "") });
        }
    }
    let mut steps = 0;
    loop {
        let leases = shell.0.expired(10_000, 1000);
        if leases.is_empty() {
            break;
        }
        assert!(leases.len() <= 1000);
        steps += 1;
        assert!(steps <= 100);
        shell.at(10_000, Command::LeaseExpire { leases });
    }
    assert_eq!((steps, shell.0.status().leases, shell.0.status().keys), (100, 0, 0));
    assert_eq!(shell.0.revision(), Revision(1 + 1000 + 1000), "a revision for each lease with keys");
}

#[test]
fn the_smallest_ttl_is_one_and_a_half_election_timeouts_rounded_up() {
    assert_eq!([0, 500, 1000, 1333, 1334, 5000].map(ttl_least_s), [1, 1, 2, 2, 3, 8]);
}

#[test]
fn an_exceeded_quota_refuses_what_takes_space_until_it_is_disarmed() {
    let mut shell = Shell(Kv::new(Config { quota_bytes: 2000, ..Config::default() }));
    let mut puts = 0;
    while matches!(shell.run(Command::Put(put("a", "0123456789"))), Reply::Put(_)) {
        puts += 1;
    }
    assert!((10..30).contains(&puts));
    let alarm = Alarm { member: 0, kind: AlarmKind::NoSpace };
    assert_eq!(shell.0.alarms().collect::<Vec<_>>(), [alarm]);
    assert_eq!(shell.refused(Command::Put(put("a", ""))), KvError::NoSpace);
    assert_eq!(shell.refused(Command::Txn(Txn { failure: vec![Op::Put(put("b", ""))], ..Txn::default() })), KvError::NoSpace);
    assert_eq!(shell.refused(Command::LeaseGrant { id: LeaseId(1), ttl_s: 9 }), KvError::NoSpace);
    assert!(shell.txn(then(vec![Op::Range(range("a", "")), Op::DeleteRange(delete("x", ""))])).succeeded);
    assert_eq!(shell.delete(delete("a", "")).deleted, 1);
    let revision = shell.0.revision();
    assert_eq!(shell.compact(revision.0), Reply::Done { revision });
    assert!(!shell.0.is_over_quota());
    assert_eq!(shell.refused(Command::Put(put("a", ""))), KvError::NoSpace, "armed until disarmed");
    assert_eq!(shell.run(Command::AlarmDisarm { alarm }), Reply::Alarms { revision, alarms: vec![alarm] });
    assert_eq!(shell.set("a", ""), revision.0 + 1);
}

#[test]
fn a_pending_compaction_is_not_held_against_the_quota() {
    let mut shell = Shell(Kv::new(Config { quota_bytes: 1_000_000, ..Config::default() }));
    while matches!(shell.run(Command::Put(put("a", "v"))), Reply::Put(_)) {}
    let revision = shell.0.revision();
    assert!(revision.0 > 10_000);
    shell.compact(revision.0);
    shell.run(Command::AlarmDisarm { alarm: Alarm { member: 0, kind: AlarmKind::NoSpace } });
    assert_eq!(shell.set("b", &"x".repeat(990_000)), revision.0 + 1);
}

#[test]
fn a_corrupt_alarm_refuses_every_change_but_those_of_alarms() {
    let mut shell = Shell::new();
    let alarm = Alarm { member: 3, kind: AlarmKind::Corrupt };
    assert!(matches!(shell.run(Command::AlarmArm { alarm }), Reply::Alarms { .. }));
    assert_eq!(shell.refused(Command::DeleteRange(delete("a", ""))), KvError::Corrupt);
    assert_eq!(shell.refused(Command::Compact { revision: Revision(1) }), KvError::Corrupt);
    shell.run(Command::AlarmDisarm { alarm });
    assert_eq!(shell.set("a", ""), 2);
}

#[test]
fn watches_from_any_revision_see_every_change_once_and_the_version_before() {
    let mut shell = Shell::new();
    shell.set("a", "1");
    shell.set("a", "2");
    shell.delete(delete("a", ""));
    shell.set("a", "3");
    assert_eq!(shell.history(0), "2:+a 3:+a 4:-a 5:+a");
    assert_eq!(shell.history(4), "4:-a 5:+a");
    assert_eq!(shell.history(6), NOTHING, "the future holds nothing yet");
    let records: Vec<Record> = shell.0.history(Revision(2), Revision(5)).unwrap().flat_map(|c| c.records.to_vec()).collect();
    let before = |shell: &Shell, i: usize| shell.0.previous(&records[i]).map(|kv| String::from_utf8(kv.value.to_vec()).unwrap());
    assert_eq!([0, 1, 2, 3].map(|i| before(&shell, i)), [None, Some("1".into()), Some("2".into()), None]);
    let deleted = records[2].key_value();
    assert_eq!(deleted, KeyValue { key: bytes("a"), mod_revision: Revision(4), ..KeyValue::default() });
    shell.compact(4);
    assert_eq!(before(&shell, 2), None, "compacted");
}

#[test]
fn reads_and_applied_changes_share_the_stored_bytes() {
    let mut shell = Shell::new();
    shell.set("a", "value");
    let (first, second) = (shell.0.get(b"a").unwrap(), shell.0.get(b"a").unwrap());
    assert_eq!(first.value.as_ptr(), second.value.as_ptr());
    shell.run(Command::DeleteRange(delete("a", "")));
    assert_eq!(shell.0.applied().iter().map(Record::is_delete).collect::<Vec<_>>(), [true]);
    shell.run(Command::Read(Query::Status));
    assert_eq!(shell.0.applied(), []);
}

#[test]
fn a_hash_at_a_revision_does_not_see_later_changes_nor_how_far_a_compaction_has_come() {
    let mut shell = Shell::new();
    for n in 0..10_000 {
        shell.set(&format!("k{}", n % 7), "v");
        if n % 49 == 0 {
            shell.delete(delete("k3", "k4"));
        }
    }
    shell.delete(delete("k3", ""));
    for _ in 0..100 {
        shell.set("k4", "v");
    }
    let last = shell.0.revision().0;
    let hash = |shell: &Shell, revision| shell.0.hash_at(Revision(revision)).map(|answer| answer.hash);
    let at_500 = hash(&shell, 500).unwrap();
    shell.set("more", "");
    assert_eq!(hash(&shell, 500), Ok(at_500));
    assert_ne!(hash(&shell, 501), Ok(at_500));
    shell.compact(last - 50);
    assert_eq!(hash(&shell, last - 51), Err(KvError::Compacted));
    assert_eq!(hash(&shell, last + 2), Err(KvError::FutureRevision));
    let during = hash(&shell, last - 20).unwrap();
    for _ in 0..1000 {
        shell.run(idle());
    }
    assert_eq!(hash(&shell, last - 20), Ok(during));
}
