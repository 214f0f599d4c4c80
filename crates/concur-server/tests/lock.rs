//! Locks and elections as services: turns, refusals, and that nobody who left stands in the way.

mod common;

use std::time::Duration;

use bytes::Bytes;
use common::Node;
use concur_proto::etcdserverpb as pb;
use concur_proto::etcdserverpb::kv_client::KvClient;
use concur_proto::etcdserverpb::lease_client::LeaseClient;
use concur_proto::v3electionpb as epb;
use concur_proto::v3electionpb::election_client::ElectionClient;
use concur_proto::v3lockpb::lock_client::LockClient;
use concur_proto::v3lockpb::{LockRequest, UnlockRequest};
use tokio::time::timeout;
use tonic::{Code, Request, Status};

const LONG: Duration = Duration::from_secs(20);

async fn grant(node: &Node, id: i64) -> i64 {
    let grant = pb::LeaseGrantRequest { id, ttl: 600 };
    LeaseClient::new(node.channel().await).lease_grant(grant).await.expect("a lease").into_inner().id
}

async fn keys(node: &Node, prefix: &str) -> Vec<String> {
    let key = Bytes::copy_from_slice(prefix.as_bytes());
    let range = pb::RangeRequest { key, range_end: vec![0].into(), ..Default::default() };
    let found = KvClient::new(node.channel().await).range(range).await.expect("a range").into_inner();
    found.kvs.iter().map(|kv| String::from_utf8_lossy(&kv.key).into_owned()).collect()
}

async fn until_keys(node: &Node, prefix: &str, count: usize) {
    let all = async {
        while keys(node, prefix).await.len() != count {
            tokio::task::yield_now().await;
        }
    };
    timeout(LONG, all).await.expect("the keys are so many in time");
}

fn lock(name: &'static str, lease: i64) -> LockRequest {
    LockRequest { name: Bytes::from_static(name.as_bytes()), lease }
}

fn seen(result: Result<impl Sized, Status>) -> (Code, String) {
    let status = result.err().expect("a refusal");
    (status.code(), status.message().to_owned())
}

#[tokio::test]
async fn one_holds_a_lock_and_the_next_gets_it_when_it_is_released() {
    let node = Node::start().await;
    let mut locks = LockClient::new(node.channel().await);
    grant(&node, 0x1f).await;
    grant(&node, -2).await;
    let held = locks.lock(lock("m", 0x1f)).await.expect("a lock").into_inner();
    assert_eq!(&held.key[..], b"m/1f");
    assert_eq!(held.header.expect("a header").revision, 2);
    let again = locks.lock(lock("m", 0x1f)).await.expect("the same lease holds it already").into_inner();
    assert_eq!(again.key, held.key);
    let mut other = locks.clone();
    let next = tokio::spawn(async move { other.lock(lock("m", -2)).await });
    until_keys(&node, "m/", 2).await;
    assert!(!next.is_finished());
    locks.unlock(UnlockRequest { key: held.key }).await.expect("it is released");
    let next = timeout(LONG, next).await.expect("in time").expect("no panic").expect("a lock").into_inner();
    assert_eq!(&next.key[..], b"m/-2");
}

#[tokio::test]
async fn a_lock_goes_with_its_lease_and_without_one_gets_one() {
    let node = Node::start().await;
    let mut locks = LockClient::new(node.channel().await);
    let held = locks.lock(lock("m", 0)).await.expect("a lock").into_inner();
    let range = pb::RangeRequest { key: held.key, ..Default::default() };
    let lease = KvClient::new(node.channel().await).range(range).await.expect("a range").into_inner().kvs[0].lease;
    assert!(lease > 0);
    let mut other = locks.clone();
    let waits = grant(&node, 5).await;
    let next = tokio::spawn(async move { other.lock(lock("m", waits)).await });
    until_keys(&node, "m/", 2).await;
    LeaseClient::new(node.channel().await).lease_revoke(pb::LeaseRevokeRequest { id: lease }).await.expect("it is revoked");
    timeout(LONG, next).await.expect("in time").expect("no panic").expect("a lock");
}

#[tokio::test]
async fn who_goes_while_waiting_leaves_the_line() {
    let node = Node::start().await;
    let mut locks = LockClient::new(node.channel().await);
    for id in [1, 2, 3] {
        grant(&node, id).await;
    }
    let held = locks.lock(lock("m", 1)).await.expect("a lock").into_inner();
    // One breaks off, one has waited long enough.
    let mut other = locks.clone();
    let gone = tokio::spawn(async move { other.lock(lock("m", 2)).await });
    until_keys(&node, "m/", 2).await;
    gone.abort();
    until_keys(&node, "m/", 1).await;
    let mut patient = Request::new(lock("m", 3));
    patient.metadata_mut().insert("grpc-timeout", "100m".parse().expect("a timeout"));
    locks.lock(patient).await.expect_err("its time is over, by its own clock or the server's");
    until_keys(&node, "m/", 1).await;
    locks.unlock(UnlockRequest { key: held.key }).await.expect("it is released");
    locks.lock(lock("m", 3)).await.expect("nobody is before it");
}

#[tokio::test]
async fn whose_key_is_gone_when_its_turn_comes_does_not_get_the_lock() {
    let node = Node::start().await;
    let mut locks = LockClient::new(node.channel().await);
    grant(&node, 1).await;
    grant(&node, 2).await;
    let held = locks.lock(lock("m", 1)).await.expect("a lock").into_inner();
    let mut other = locks.clone();
    let next = tokio::spawn(async move { other.lock(lock("m", 2)).await });
    until_keys(&node, "m/", 2).await;
    LeaseClient::new(node.channel().await).lease_revoke(pb::LeaseRevokeRequest { id: 2 }).await.expect("it is revoked");
    locks.unlock(UnlockRequest { key: held.key }).await.expect("it is released");
    let next = timeout(LONG, next).await.expect("in time").expect("no panic");
    assert_eq!(seen(next), (Code::Unknown, "mutex: session is expired".into()));
}

#[tokio::test]
async fn refusals_come_as_etcds_client_says_them() {
    let node = Node::start().await;
    let mut locks = LockClient::new(node.channel().await);
    let mut elections = ElectionClient::new(node.channel().await);
    let name = Bytes::from_static(b"e");
    assert_eq!(seen(locks.lock(lock("m", 77)).await), (Code::Unknown, "etcdserver: requested lease not found".into()));
    assert_eq!(seen(locks.unlock(UnlockRequest::default()).await), (Code::Unknown, "etcdserver: key is not provided".into()));
    let leader = epb::LeaderRequest { name: name.clone() };
    assert_eq!(seen(elections.leader(leader).await), (Code::Unknown, "election: no leader".into()));
    let not_given = (Code::Unknown, r#""leader" field must be provided"#.to_owned());
    assert_eq!(seen(elections.resign(epb::ResignRequest::default()).await), not_given);
    assert_eq!(seen(elections.proclaim(epb::ProclaimRequest::default()).await), not_given);
    let nobody = epb::LeaderKey { name: name.clone(), key: Bytes::from_static(b"e/1"), rev: 7, lease: 1 };
    let proclaim = epb::ProclaimRequest { leader: Some(nobody.clone()), value: name.clone() };
    assert_eq!(seen(elections.proclaim(proclaim).await), (Code::Unknown, "election: not leader".into()));
    elections.resign(epb::ResignRequest { leader: Some(nobody) }).await.expect("who does not lead resigns in vain");
    let campaign = epb::CampaignRequest { name, lease: 77, value: Bytes::new() };
    assert_eq!(seen(elections.campaign(campaign).await), (Code::Unknown, "etcdserver: requested lease not found".into()));
}

#[tokio::test]
async fn one_leads_at_a_time_and_observers_see_each() {
    let node = Node::start().await;
    let mut elections = ElectionClient::new(node.channel().await);
    let name = Bytes::from_static(b"e");
    grant(&node, 1).await;
    grant(&node, 2).await;
    let mut observed = elections.observe(epb::LeaderRequest { name: name.clone() }).await.expect("a stream").into_inner();
    let campaign = |lease, value: &'static str| epb::CampaignRequest { name: name.clone(), lease, value: value.into() };
    let won = elections.campaign(campaign(1, "one")).await.expect("it leads").into_inner().leader.expect("a leader");
    assert_eq!((&won.key[..], won.lease), (&b"e/1"[..], 1));
    let mut next = async || {
        let next = timeout(LONG, observed.message()).await.expect("in time").expect("no error").expect("no end");
        (next.header.expect("a header").revision, String::from_utf8_lossy(&next.kv.expect("a key").value).into_owned())
    };
    assert_eq!(next().await, (won.rev, "one".into()));
    elections.campaign(campaign(1, "uno")).await.expect("it leads already and says another value");
    assert_eq!(next().await.1, "uno");
    let mut other = elections.clone();
    let second = campaign(2, "two");
    let waits = tokio::spawn(async move { other.campaign(second).await });
    until_keys(&node, "e/", 2).await;
    // Who leads the cluster meanwhile is nothing to those who wait.
    node.pulse.set_leader(0, 2);
    node.pulse.set_leader(common::IDENTITY.member, 3);
    elections.proclaim(epb::ProclaimRequest { leader: Some(won.clone()), value: "eins".into() }).await.expect("it leads");
    assert_eq!(next().await.1, "eins");
    assert!(!waits.is_finished());
    elections.resign(epb::ResignRequest { leader: Some(won) }).await.expect("it resigns");
    timeout(LONG, waits).await.expect("in time").expect("no panic").expect("it leads");
    assert_eq!(next().await.1, "two");
    let leader = elections.leader(epb::LeaderRequest { name: name.clone() }).await.expect("a leader").into_inner();
    assert_eq!(&leader.kv.expect("a key").value[..], b"two");
}
