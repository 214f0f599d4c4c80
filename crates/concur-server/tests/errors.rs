//! Every refusal of etcd's table is provoked over the wire, with its code and text, or it is said why it cannot arise here.

mod common;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use common::{IDENTITY, Node, Setup};
use concur_core::{Epoch, ReplicaId, Wire};
use concur_peers::{ChangeError, Outcome};
use concur_proto::etcdserverpb as pb;
use concur_proto::etcdserverpb::cluster_client::ClusterClient;
use concur_proto::etcdserverpb::kv_client::KvClient;
use concur_proto::etcdserverpb::lease_client::LeaseClient;
use concur_proto::etcdserverpb::maintenance_client::MaintenanceClient;
use concur_server::door::{Door, DoorLimits, Job, Jobs, Level, Member, Refusal, Stamp, Status as NodeStatus};
use concur_server::etcd::errors::{self, EtcdError};
use concur_server::etcd::{Etcd, EtcdLimits};
use concur_server::front::Front;
use concur_server::metrics::{Labels, Metrics};
use concur_server::serve::{ServeLimits, Socket, serve};
use tonic::transport::Channel;
use tonic::{Request, Status};

/// What cannot arise, and why.
const CANNOT: &[(EtcdError, &str)] = &[
    (errors::MEMBER_NOT_ENOUGH_STARTED, "a change that the members there are cannot carry is refused as of an unhealthy cluster"),
    (errors::TOO_MANY_LEARNERS, "any number of members may learn"),
    (errors::NOT_LEADER, "every member takes every request and passes it on"),
    (errors::NOT_CAPABLE, "there is no member that speaks less of the API than another"),
    (errors::TIMED_OUT_LEADER_FAILED, "a request whose time is over is told so, or that no leader is known"),
    (errors::TIMED_OUT_CONNECTION_LOST, "as above"),
    (errors::WATCH_CANCELED, "who ends its own stream of watches is told nothing"),
    (errors::CLUSTER_VERSION_UNAVAILABLE, "there is no older version to go back to, so a downgrade is not served"),
    (errors::BAD_DOWNGRADE_FORMAT, "as above"),
    (errors::INVALID_DOWNGRADE_TARGET, "as above"),
    (errors::DOWNGRADE_IN_PROCESS, "as above"),
    (errors::NO_DOWNGRADE, "etcd keeps it to itself: to cancel what is not under way is no error"),
    (errors::CLUSTER_ID_MISMATCH, "it is for members, and those speak another protocol among each other"),
    (errors::TIMED_OUT_APPLYING, "a request whose time is over is told so, whatever it waited for"),
    (errors::CANCELED, "who gives up a request is not told so"),
    (errors::DEADLINE_EXCEEDED, "who waits no longer has been told by its own library"),
];

/// Whether an entry is of users and roles, which have tests of their own.
fn is_of_auth(error: &EtcdError) -> bool {
    ["user", "role", "auth", "permission", "password"].iter().any(|word| error.text.contains(word))
}

/// What was seen.
#[derive(Default)]
struct Seen(BTreeMap<&'static str, ()>);

impl Seen {
    fn refused(&mut self, expected: EtcdError, result: Result<impl Sized, Status>) {
        let status = result.err().unwrap_or_else(|| panic!("not refused: {}", expected.text));
        assert_eq!((status.code(), status.message()), (expected.code, expected.text));
        self.0.insert(expected.text, ());
    }
}

/// A front door behind which everything is refused, and every change of members too.
async fn refusing(refusal: Refusal, change: Option<ChangeError>) -> Channel {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("an address");
    let (door, pulse, jobs) = Door::new(DoorLimits::default());
    pulse.set_leader(IDENTITY.member, 1);
    let limits = EtcdLimits { request_time_max: Duration::from_millis(100), ..EtcdLimits::default() };
    let metrics = Arc::new(Metrics::new(IDENTITY, Labels::default()));
    let front = Front::new(Etcd::new(door, IDENTITY, limits, metrics));
    tokio::spawn(refuse(jobs, refusal, change));
    // The signal lives as long as the listener: as long as the test.
    let (stop, stopped) = tokio::sync::watch::channel(false);
    tokio::spawn(async move {
        let _stop = stop;
        serve(Socket { listener, tls: None, traffic: Arc::default() }, front, ServeLimits::default(), stopped).await
    });
    Channel::from_shared(format!("http://{address}")).expect("a URL").connect().await.expect("a connection")
}

async fn refuse(mut jobs: Jobs, refusal: Refusal, change: Option<ChangeError>) {
    let stamp = Stamp { level: Level::Strong, epoch: Epoch(0), term: 1 };
    let member = Member { id: 7, name: "n7".into(), number: ReplicaId(1), ..Member::default() };
    while let Some(job) = jobs.recv().await {
        match job {
            Job::Execute(execute) => drop(execute.reply.send(Err(refusal))),
            Job::Read(read) => (read.run)(Err(refusal)),
            Job::Change(asked) => {
                let outcome = Outcome::Refused(change.clone().expect("a change is asked for where one is refused"));
                drop(asked.reply.send(Ok((outcome.to_bytes(), stamp))));
            }
            Job::Status(reply) => drop(reply.send(NodeStatus { leader: 1, members: vec![member.clone()], ..NodeStatus::default() })),
            Job::Watch(_) | Job::Kept { .. } => {}
            Job::Upkeep(_, reply) => drop(reply.send(Err(refusal))),
        }
    }
}

fn put(key: &'static str) -> pb::PutRequest {
    pb::PutRequest { key: Bytes::from_static(key.as_bytes()), ..Default::default() }
}

fn op(put: pb::PutRequest) -> pb::RequestOp {
    pb::RequestOp { request: Some(pb::request_op::Request::RequestPut(put)) }
}

async fn of_the_store(seen: &mut Seen) {
    let node = Node::start().await;
    let mut kv = KvClient::new(node.channel().await);
    let mut leases = LeaseClient::new(node.channel().await);
    let range = |revision| pb::RangeRequest { key: Bytes::from_static(b"a"), revision, ..Default::default() };
    for _ in 0..4 {
        kv.put(put("a")).await.expect("a put");
    }
    kv.compact(pb::CompactionRequest { revision: 4, physical: false }).await.expect("a compaction");
    seen.refused(errors::EMPTY_KEY, kv.put(put("")).await);
    seen.refused(errors::KEY_NOT_FOUND, kv.put(pb::PutRequest { ignore_value: true, ..put("none") }).await);
    seen.refused(errors::VALUE_PROVIDED, kv.put(pb::PutRequest { ignore_value: true, value: "v".into(), ..put("a") }).await);
    seen.refused(errors::LEASE_PROVIDED, kv.put(pb::PutRequest { ignore_lease: true, lease: 3, ..put("a") }).await);
    let twice = |count| pb::TxnRequest { success: vec![op(put("a")); count], ..Default::default() };
    seen.refused(errors::DUPLICATE_KEY, kv.txn(twice(2)).await);
    seen.refused(errors::TOO_MANY_OPS, kv.txn(twice(129)).await);
    seen.refused(errors::INVALID_SORT_OPTION, kv.range(pb::RangeRequest { sort_target: 9, ..range(0) }).await);
    let mut garbled = Request::new(range(0));
    garbled.metadata_mut().insert("client-api-version", tonic::metadata::MetadataValue::try_from(&b"\xff"[..]).expect("a value"));
    seen.refused(errors::INVALID_CLIENT_API_VERSION, kv.range(garbled).await);
    seen.refused(errors::COMPACTED, kv.range(range(3)).await);
    seen.refused(errors::FUTURE_REVISION, kv.range(range(6)).await);
    seen.refused(errors::LEASE_NOT_FOUND, leases.lease_revoke(pb::LeaseRevokeRequest { id: 5 }).await);
    leases.lease_grant(pb::LeaseGrantRequest { id: 5, ttl: 60 }).await.expect("a lease");
    seen.refused(errors::LEASE_EXISTS, leases.lease_grant(pb::LeaseGrantRequest { id: 5, ttl: 60 }).await);
    seen.refused(errors::LEASE_TTL_TOO_LARGE, leases.lease_grant(pb::LeaseGrantRequest { id: 6, ttl: i64::MAX }).await);
    seen.refused(errors::REQUEST_TOO_LARGE, kv.put(pb::PutRequest { value: vec![0; 3 << 19].into(), ..put("a") }).await);
    let mut members = ClusterClient::new(node.channel().await);
    seen.refused(errors::MEMBER_NOT_FOUND, members.member_remove(pb::MemberRemoveRequest { id: 99 }).await);
    let add = pb::MemberAddRequest { peer_ur_ls: vec!["no URL".into()], is_learner: false };
    seen.refused(errors::MEMBER_BAD_URLS, members.member_add(add).await);
    let mut maintenance = MaintenanceClient::new(node.channel().await);
    seen.refused(errors::BAD_TRANSFEREE, maintenance.move_leader(pb::MoveLeaderRequest { target_id: 99 }).await);
    let arm = pb::AlarmRequest { action: 1, member_id: 0, alarm: pb::AlarmType::Corrupt as i32 };
    maintenance.alarm(arm).await.expect("an alarm");
    seen.refused(errors::CORRUPT, kv.put(put("a")).await);
    node.pulse.set_leader(0, 2);
    let mut needs_leader = Request::new(range(0));
    needs_leader.metadata_mut().insert("hasleader", "true".parse().expect("a value"));
    seen.refused(errors::NO_LEADER, kv.range(needs_leader).await);
    let store = concur_kv::Config { quota_bytes: 300, ..concur_kv::Config::default() };
    let small = Node::start_with(Setup { store, ..Setup::default() }).await;
    let mut kv = KvClient::new(small.channel().await);
    seen.refused(errors::NO_SPACE, kv.put(pb::PutRequest { value: vec![0; 400].into(), ..put("a") }).await);
}

async fn of_the_replica(seen: &mut Seen) {
    for (refusal, expected) in [
        (Refusal::Busy, errors::TOO_MANY_REQUESTS),
        (Refusal::TimedOut, errors::TIMED_OUT),
        (Refusal::NoLeader, errors::NO_LEADER),
        (Refusal::LeaderChanged, errors::LEADER_CHANGED),
        (Refusal::NotVoter, errors::NOT_FOR_LEARNER),
        (Refusal::NoSpace, errors::NO_SPACE),
        (Refusal::Stopped, errors::STOPPED),
    ] {
        let mut kv = KvClient::new(refusing(refusal, None).await);
        seen.refused(expected, kv.put(put("a")).await);
        seen.refused(expected, kv.range(pb::RangeRequest { key: Bytes::from_static(b"a"), ..Default::default() }).await);
    }
}

async fn of_changes(seen: &mut Seen) {
    let (name, address) = ("n7".to_owned(), "127.0.0.1:1".to_owned());
    for (change, expected) in [
        (ChangeError::NameTaken { name: name.clone() }, errors::MEMBER_EXISTS),
        (ChangeError::AddressTaken { address, name: name.clone() }, errors::PEER_URL_EXISTS),
        (ChangeError::Same { what: name.clone() }, errors::MEMBER_NOT_LEARNER),
        (ChangeError::NotSeen { name: name.clone() }, errors::LEARNER_NOT_READY),
        (ChangeError::NoMember { who: name.clone() }, errors::MEMBER_NOT_FOUND),
        (ChangeError::NoVoter { name: name.clone() }, errors::BAD_TRANSFEREE),
        (ChangeError::NoQuorum { voters: name.clone(), close: String::new() }, errors::UNHEALTHY),
        (ChangeError::NotIn, errors::NOT_FOR_LEARNER),
    ] {
        let mut members = ClusterClient::new(refusing(Refusal::Busy, Some(change)).await);
        seen.refused(expected, members.member_promote(pb::MemberPromoteRequest { id: 7 }).await);
    }
}

#[tokio::test]
async fn every_refusal_of_the_table_is_provoked_or_cannot_arise() {
    let mut seen = Seen::default();
    of_the_store(&mut seen).await;
    of_the_replica(&mut seen).await;
    of_changes(&mut seen).await;
    for error in errors::ALL.iter().filter(|error| !is_of_auth(error)) {
        let cannot = CANNOT.iter().find(|(other, _)| other == error);
        match (seen.0.contains_key(error.text), cannot) {
            (true, None) | (false, Some(_)) => {}
            (true, Some((_, why))) => panic!("it was seen: {} ({why})", error.text),
            (false, None) => panic!("neither provoked nor said why it cannot arise: {}", error.text),
        }
    }
    assert!(CANNOT.iter().all(|(error, why)| errors::ALL.contains(error) && !why.is_empty()));
}
