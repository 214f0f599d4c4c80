//! What may differ, and why: the one table of it.
//!
//! Before two answers are compared each rule takes out of both what nobody can rely on. A rule says which etcd it was found
//! necessary for; whatever no rule covers must be equal to the byte.

use crate::call::Call;
use crate::number::{Known, PICKED};
use crate::side::Answer;
use concur_proto::etcdserverpb as pb;
use concur_proto::mvccpb::KeyValue;
use pb::range_request::{SortOrder, SortTarget};
use pb::request_op::Request;
use pb::response_op::Response;

/// How far apart what is left of a lease may be: the two are asked one after the other.
const TTL_APART_MAX_S: i64 = 60;
/// Up to how many results Go's `sort.Sort` keeps in order if they compare equal.
const GO_SORTS_STABLY_MAX: i64 = 12;

/// The keys in the first chunk of etcd's streamed ranges.
const CHUNK_KEYS: usize = 10;

/// Two answers to one call, with what is known of either side.
pub(crate) struct Pairing<'a> {
    /// The version of the real etcd.
    pub(crate) etcd: &'a str,
    pub(crate) call: &'a Call,
    pub(crate) reference: (&'a mut Answer, &'a Known),
    pub(crate) subject: (&'a mut Answer, &'a Known),
}

/// What may differ.
pub(crate) struct Rule {
    pub(crate) name: &'static str,
    pub(crate) why: &'static str,
    /// The version of etcd that it was found necessary for, by its beginning; or all.
    pub(crate) etcd: &'static str,
    apply: fn(&mut Pairing<'_>),
}

/// All of it.
pub(crate) const RULES: &[Rule] = &[
    Rule { name: "identity", why: "the ids of cluster and member, and the term, are each cluster's own", etcd: "all", apply: identity },
    Rule {
        name: "picked-leases",
        why: "the id of a lease that the server picks is random; the n-th picked here is the n-th picked there",
        etcd: "all",
        apply: picked_leases,
    },
    Rule { name: "time-left", why: "what a lease has left depends on when one asks", etcd: "all", apply: time_left },
    Rule {
        name: "leases-in-any-order",
        why: "leases are listed by the time they have left, to the nanosecond: of two granted together either may come first",
        etcd: "all",
        apply: leases_in_any_order,
    },
    Rule {
        name: "lease-keys-in-any-order",
        why: "etcd lists the keys of a lease in the order of a Go map",
        etcd: "all",
        apply: lease_keys,
    },
    Rule {
        name: "ties-in-any-order",
        why: "Go's sort.Sort does not keep the order of more than 12 results; of those that compare equal any may come first, or fall to the limit",
        etcd: "all",
        apply: ties_in_any_order,
    },
    Rule {
        name: "streams-of-a-target",
        why: "a streamed range by a target without an order goes on, and counts, from the last key of a sorted chunk: what follows is an accident",
        etcd: "3.7",
        apply: streams_of_a_target,
    },
    Rule {
        name: "keys-only-without-lease",
        why: "from 3.6 on a range of keys only leaves the lease out too, unless it sorts by values; before, it was shown",
        etcd: "3.4",
        apply: keys_only_without_lease,
    },
    Rule {
        name: "first-wrong",
        why: "of a transaction that is wrong in two ways 3.4 judged its puts first; later ones judge its operations in order",
        etcd: "3.4",
        apply: first_wrong,
    },
];

/// Whether the events of a watch may lack what a compaction kept: 3.4 removed a tombstone exactly at the compacted revision, later ones keep it.
pub(crate) fn lacks_tombstones(etcd: &str) -> bool {
    etcd.starts_with("3.4")
}

/// Whether a watch may start at a negative revision: 3.4 takes it for one long compacted, but makes the watcher all the same.
pub(crate) fn refuses_negative_starts(etcd: &str) -> bool {
    !etcd.starts_with("3.4")
}

/// What is not sent, or not as it stands, and why: calls that end the real etcd, and what it leaves behind.
pub(crate) const NOT_SENT: &[(&str, &str)] = &[
    (
        "put-of-the-deleted",
        "a transaction may put what it deleted from a key on. If the put keeps the value or the lease, etcd 3.4 and 3.7 end (an index \
         out of range); if the store is compacted at that revision, 3.7 loses the key, and ends when it is read (no revision pair)",
    ),
    (
        "cancel-by-compaction",
        "a watcher that compaction ended keeps its id in etcd, and silences progress, until its client cancels it: the cancel is sent at once, as etcd's client does",
    ),
    ("range-stream", "etcd has it from 3.7 on"),
    ("no-such-sort", "etcd 3.4 takes a sort order that does not exist for none, and a target that does not exist ends it"),
    ("negative-start", "etcd 3.4 takes a watch's negative start for a revision long compacted: not sent there"),
    (
        "early-progress",
        "etcd 3.4 answers a request for progress while a watcher of the stream is behind, which 3.7 does not: not asked there",
    ),
];

/// Takes out of both answers what may differ.
pub(crate) fn normalise(mut pairing: Pairing<'_>) {
    for rule in RULES.iter().filter(|rule| rule.etcd == "all" || pairing.etcd.starts_with(rule.etcd)) {
        (rule.apply)(&mut pairing);
    }
}

/// The rules as a table.
pub(crate) fn table() -> String {
    let rules = RULES.iter().map(|rule| format!("{:<26} etcd {:<4} {}\n", rule.name, rule.etcd, rule.why));
    rules.chain(NOT_SENT.iter().map(|(name, why)| format!("{name:<26} not sent  {why}\n"))).collect()
}

fn each(pairing: &mut Pairing<'_>, mut change: impl FnMut(&mut Answer, &Known)) {
    change(pairing.reference.0, pairing.reference.1);
    change(pairing.subject.0, pairing.subject.1);
}

fn identity(pairing: &mut Pairing<'_>) {
    let bare = |header: &mut Option<pb::ResponseHeader>| {
        if let Some(header) = header {
            (header.cluster_id, header.member_id, header.raft_term) = (0, 0, 0);
        }
    };
    each(pairing, |answer, _| match answer {
        Answer::Range(response) => bare(&mut response.header),
        Answer::Put(response) => bare(&mut response.header),
        Answer::Delete(response) => bare(&mut response.header),
        Answer::Txn(response) => bare(&mut response.header),
        Answer::Compact(response) => bare(&mut response.header),
        Answer::Grant(response) => bare(&mut response.header),
        Answer::Revoke(response) => bare(&mut response.header),
        Answer::TimeToLive(response) => bare(&mut response.header),
        Answer::KeepAlive(response) => bare(&mut response.header),
        Answer::Leases(response) => bare(&mut response.header),
        Answer::Heard(..) | Answer::Refused(..) | Answer::Broken(_) => {}
    });
}

fn picked_leases(pairing: &mut Pairing<'_>) {
    let picks = matches!(pairing.call, Call::Grant(grant) if grant.id == 0);
    each(pairing, |answer, known| match answer {
        Answer::Range(response) => shown_in(&mut response.kvs, known),
        Answer::Put(response) => shown_in(&mut response.prev_kv, known),
        Answer::Delete(response) => shown_in(&mut response.prev_kvs, known),
        Answer::Txn(response) => shown_in_txn(response, known),
        Answer::Grant(response) if picks && response.id > 0 => response.id = PICKED + known.picked.len() as i64,
        Answer::TimeToLive(response) => response.id = known.lease_shown(response.id),
        Answer::KeepAlive(response) => response.id = known.lease_shown(response.id),
        Answer::Leases(response) => response.leases.iter_mut().for_each(|lease| lease.id = known.lease_shown(lease.id)),
        _ => {}
    });
}

fn shown_in<'a>(kvs: impl IntoIterator<Item = &'a mut KeyValue>, known: &Known) {
    kvs.into_iter().for_each(|kv| kv.lease = known.lease_shown(kv.lease));
}

fn shown_in_txn(txn: &mut pb::TxnResponse, known: &Known) {
    for op in &mut txn.responses {
        match &mut op.response {
            Some(Response::ResponseRange(range)) => shown_in(&mut range.kvs, known),
            Some(Response::ResponsePut(put)) => shown_in(&mut put.prev_kv, known),
            Some(Response::ResponseDeleteRange(delete)) => shown_in(&mut delete.prev_kvs, known),
            Some(Response::ResponseTxn(inner)) => shown_in_txn(inner, known),
            None => {}
        }
    }
}

fn time_left(pairing: &mut Pairing<'_>) {
    if let (Answer::TimeToLive(reference), Answer::TimeToLive(subject)) = (&*pairing.reference.0, &mut *pairing.subject.0)
        && reference.ttl > 0
        && reference.ttl.abs_diff(subject.ttl) <= TTL_APART_MAX_S as u64
    {
        subject.ttl = reference.ttl;
    }
}

fn streams_of_a_target(pairing: &mut Pairing<'_>) {
    let is_one = matches!(pairing.call, Call::RangeStream(request) if request.sort_target != SortTarget::Key as i32);
    let goes_on = |answer: &Answer| matches!(answer, Answer::Range(response) if response.more || response.kvs.len() > CHUNK_KEYS);
    if is_one && (goes_on(pairing.reference.0) || goes_on(pairing.subject.0)) {
        each(pairing, |answer, _| {
            if let Answer::Range(response) = answer {
                (response.count, response.more) = (0, false);
                response.kvs.clear();
            }
        });
    }
}

fn keys_only_without_lease(pairing: &mut Pairing<'_>) {
    let call = pairing.call;
    each(pairing, |answer, _| match (call, answer) {
        (Call::Range(request), Answer::Range(response)) => leave_leases_out(request, response),
        (Call::Txn(request), Answer::Txn(response)) => leave_leases_out_of_txn(request, response),
        _ => {}
    });
}

fn first_wrong(pairing: &mut Pairing<'_>) {
    let is_judged_in_state = |text: &str| {
        ["lease not found", "key not found", "has been compacted", "is a future revision"].iter().any(|end| text.ends_with(end))
    };
    if let (Call::Txn(_), Answer::Refused(code, text), Answer::Refused(other_code, other)) =
        (pairing.call, &*pairing.reference.0, &mut *pairing.subject.0)
        && is_judged_in_state(text)
        && is_judged_in_state(other)
    {
        (*other_code, *other) = (*code, text.clone());
    }
}

fn leave_leases_out(request: &pb::RangeRequest, response: &mut pb::RangeResponse) {
    if request.keys_only && request.sort_target != SortTarget::Value as i32 {
        response.kvs.iter_mut().for_each(|kv| kv.lease = 0);
    }
}

fn leave_leases_out_of_txn(request: &pb::TxnRequest, response: &mut pb::TxnResponse) {
    let branch = if response.succeeded { &request.success } else { &request.failure };
    for (op, answer) in branch.iter().zip(&mut response.responses) {
        match (&op.request, &mut answer.response) {
            (Some(Request::RequestRange(request)), Some(Response::ResponseRange(response))) => leave_leases_out(request, response),
            (Some(Request::RequestTxn(request)), Some(Response::ResponseTxn(response))) => leave_leases_out_of_txn(request, response),
            _ => {}
        }
    }
}

fn leases_in_any_order(pairing: &mut Pairing<'_>) {
    each(pairing, |answer, _| {
        if let Answer::Leases(response) = answer {
            response.leases.sort_by_key(|lease| lease.id);
        }
    });
}

fn lease_keys(pairing: &mut Pairing<'_>) {
    each(pairing, |answer, _| {
        if let Answer::TimeToLive(response) = answer {
            response.keys.sort();
        }
    });
}

fn ties_in_any_order(pairing: &mut Pairing<'_>) {
    let call = pairing.call;
    each(pairing, |answer, _| match (call, answer) {
        (Call::Range(request), Answer::Range(response)) => order_ties(request, response),
        (Call::Txn(request), Answer::Txn(response)) => order_ties_in_txn(request, response),
        _ => {}
    });
}

fn order_ties_in_txn(request: &pb::TxnRequest, response: &mut pb::TxnResponse) {
    let branch = if response.succeeded { &request.success } else { &request.failure };
    for (op, answer) in branch.iter().zip(&mut response.responses) {
        match (&op.request, &mut answer.response) {
            (Some(Request::RequestRange(request)), Some(Response::ResponseRange(response))) => order_ties(request, response),
            (Some(Request::RequestTxn(request)), Some(Response::ResponseTxn(response))) => order_ties_in_txn(request, response),
            _ => {}
        }
    }
}

/// Puts those that compare equal in the order of their keys. Of the last of them, if a limit fell among them, which they are is left out.
fn order_ties(request: &pb::RangeRequest, response: &mut pb::RangeResponse) {
    let (order, target) = (SortOrder::try_from(request.sort_order), SortTarget::try_from(request.sort_target));
    if response.count <= GO_SORTS_STABLY_MAX || target == Ok(SortTarget::Key) || order.is_err() {
        return;
    }
    // Values that were left out cannot be told apart here: then nothing can be said of the order.
    let rank = |kv: &KeyValue| match target {
        Ok(SortTarget::Version) => kv.version.to_be_bytes().to_vec(),
        Ok(SortTarget::Create) => kv.create_revision.to_be_bytes().to_vec(),
        Ok(SortTarget::Mod) => kv.mod_revision.to_be_bytes().to_vec(),
        _ => kv.value.to_vec(),
    };
    let mut ties: Vec<Vec<KeyValue>> = Vec::new();
    for kv in std::mem::take(&mut response.kvs) {
        match ties.last_mut().filter(|tie| rank(&tie[0]) == rank(&kv)) {
            Some(tie) => tie.push(kv),
            None => ties.push(vec![kv]),
        }
    }
    let last = ties.len().saturating_sub(1);
    for (at, mut tie) in ties.into_iter().enumerate() {
        tie.sort_by(|a, b| a.key.cmp(&b.key));
        if at == last && response.more {
            tie = tie
                .iter()
                .map(|kv| KeyValue {
                    value: if target == Ok(SortTarget::Value) { kv.value.clone() } else { Default::default() },
                    ..Default::default()
                })
                .collect();
        }
        response.kvs.extend(tie);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;

    fn check(call: &Call, reference: Answer, subject: Answer, same: bool) {
        check_for("3.7.3", call, reference, subject, same);
    }

    fn check_for(etcd: &str, call: &Call, mut reference: Answer, mut subject: Answer, same: bool) {
        let known = Known { current: 9, compacted: 0, picked: vec![111] };
        let other = Known { picked: vec![222], ..known.clone() };
        normalise(Pairing { etcd, call, reference: (&mut reference, &known), subject: (&mut subject, &other) });
        assert_eq!(reference == subject, same, "{reference:?}\n{subject:?}");
    }

    fn header(cluster_id: u64, revision: i64) -> Option<pb::ResponseHeader> {
        Some(pb::ResponseHeader { cluster_id, member_id: cluster_id + 1, raft_term: cluster_id + 2, revision })
    }

    #[test]
    fn identity_may_differ_but_not_the_revision() {
        let call = Call::Leases;
        let answer = |cluster, revision| Answer::Leases(pb::LeaseLeasesResponse { header: header(cluster, revision), leases: vec![] });
        check(&call, answer(1, 5), answer(2, 5), true);
        check(&call, answer(1, 5), answer(1, 6), false);
    }

    #[test]
    fn picked_leases_may_differ_and_chosen_ones_not() {
        let leases = |ids: &[i64]| {
            let leases = ids.iter().map(|&id| pb::LeaseStatus { id }).collect();
            Answer::Leases(pb::LeaseLeasesResponse { header: None, leases })
        };
        check(&Call::Leases, leases(&[111]), leases(&[222]), true);
        check(&Call::Leases, leases(&[111]), leases(&[223]), false);
        check(&Call::Leases, leases(&[5]), leases(&[6]), false);
        let put = |lease| {
            let kv = KeyValue { lease, ..Default::default() };
            Answer::Put(pb::PutResponse { header: None, prev_kv: Some(kv) })
        };
        check(&Call::Put(pb::PutRequest::default()), put(111), put(222), true);
        check(&Call::Put(pb::PutRequest::default()), put(1), put(2), false);
        let grant = |id| Answer::Grant(pb::LeaseGrantResponse { id, ttl: 600, ..Default::default() });
        check(&Call::Grant(pb::LeaseGrantRequest { id: 0, ttl: 600 }), grant(31), grant(32), true);
        check(&Call::Grant(pb::LeaseGrantRequest { id: 31, ttl: 600 }), grant(31), grant(32), false);
        check(&Call::Grant(pb::LeaseGrantRequest { id: 0, ttl: 600 }), grant(31), grant(-32), false);
    }

    #[test]
    fn time_left_may_differ_a_little_and_a_lease_that_is_gone_not() {
        let call = Call::TimeToLive(pb::LeaseTimeToLiveRequest::default());
        let left = |ttl| Answer::TimeToLive(pb::LeaseTimeToLiveResponse { ttl, ..Default::default() });
        check(&call, left(599), left(600), true);
        check(&call, left(599), left(300), false);
        check(&call, left(-1), left(1), false);
    }

    #[test]
    fn leases_and_their_keys_may_come_in_any_order() {
        let leases = |ids: &[i64]| {
            let leases = ids.iter().map(|&id| pb::LeaseStatus { id }).collect();
            Answer::Leases(pb::LeaseLeasesResponse { header: None, leases })
        };
        check(&Call::Leases, leases(&[1, 2]), leases(&[2, 1]), true);
        check(&Call::Leases, leases(&[1, 2]), leases(&[2, 2]), false);
        let call = Call::TimeToLive(pb::LeaseTimeToLiveRequest::default());
        let keys = |keys: &[&'static str]| {
            let keys = keys.iter().map(|key| Bytes::from_static(key.as_bytes())).collect();
            Answer::TimeToLive(pb::LeaseTimeToLiveResponse { keys, ..Default::default() })
        };
        check(&call, keys(&["a", "b"]), keys(&["b", "a"]), true);
        check(&call, keys(&["a", "b"]), keys(&["a"]), false);
    }

    #[test]
    fn ties_of_many_results_may_come_in_any_order() {
        let kv = |key: &'static str, version| KeyValue { key: Bytes::from_static(key.as_bytes()), version, ..Default::default() };
        let answer = |count, more, kvs: &[KeyValue]| Answer::Range(pb::RangeResponse { header: None, kvs: kvs.to_vec(), more, count });
        let call = Call::Range(pb::RangeRequest { sort_target: SortTarget::Version as i32, sort_order: 1, ..Default::default() });
        let (a, b, c) = (kv("a", 1), kv("b", 1), kv("c", 2));
        check(&call, answer(13, false, &[a.clone(), b.clone(), c.clone()]), answer(13, false, &[b.clone(), a.clone(), c.clone()]), true);
        check(&call, answer(12, false, &[a.clone(), b.clone()]), answer(12, false, &[b.clone(), a.clone()]), false);
        check(&call, answer(13, false, &[a.clone(), c.clone()]), answer(13, false, &[c.clone(), a.clone()]), false);
        check(&call, answer(13, true, std::slice::from_ref(&a)), answer(13, true, std::slice::from_ref(&b)), true);
        check(&call, answer(13, false, std::slice::from_ref(&a)), answer(13, false, std::slice::from_ref(&b)), false);
        let by_key = Call::Range(pb::RangeRequest { sort_order: 2, ..Default::default() });
        check(&by_key, answer(13, false, &[a.clone(), b.clone()]), answer(13, false, &[b, a]), false);
    }

    #[test]
    fn a_stream_of_a_target_may_go_on_as_it_likes() {
        let answer = |more, count| Answer::Range(pb::RangeResponse { more, count, ..Default::default() });
        let by = |sort_target| Call::RangeStream(pb::RangeRequest { sort_target, ..Default::default() });
        check(&by(2), answer(true, 6), answer(true, 4), true);
        check(&by(2), answer(false, 6), answer(false, 4), false);
        check(&by(0), answer(true, 6), answer(true, 4), false);
    }

    #[test]
    fn the_lease_of_a_key_alone_may_be_shown_by_the_old_one() {
        let answer = |lease| {
            let kvs = vec![KeyValue { lease, ..Default::default() }];
            Answer::Range(pb::RangeResponse { kvs, ..Default::default() })
        };
        let keys_only = Call::Range(pb::RangeRequest { keys_only: true, ..Default::default() });
        check_for("3.4.23", &keys_only, answer(7), answer(0), true);
        check_for("3.7.3", &keys_only, answer(7), answer(0), false);
        check_for("3.4.23", &Call::Range(pb::RangeRequest::default()), answer(7), answer(0), false);
    }

    #[test]
    fn the_old_one_may_see_another_wrong_first() {
        let refused = |text: &str| Answer::Refused(tonic::Code::NotFound, format!("etcdserver: {text}"));
        let call = Call::Txn(pb::TxnRequest::default());
        check_for("3.4.23", &call, refused("requested lease not found"), refused("mvcc: required revision has been compacted"), true);
        check_for("3.7.3", &call, refused("requested lease not found"), refused("mvcc: required revision has been compacted"), false);
        check_for("3.4.23", &call, refused("requested lease not found"), refused("request is too large"), false);
        assert!(lacks_tombstones("3.4.23") && !lacks_tombstones("3.7.3"));
        assert!(refuses_negative_starts("3.7.3") && !refuses_negative_starts("3.4.23"));
    }

    #[test]
    fn the_table_names_each_rule_once() {
        let names: std::collections::BTreeSet<_> = RULES.iter().map(|rule| rule.name).collect();
        assert_eq!(names.len(), RULES.len());
        assert_eq!(table().lines().count(), RULES.len() + NOT_SENT.len());
    }
}
