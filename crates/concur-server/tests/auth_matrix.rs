//! Every call of the API against everybody who may make it: the code that each sees, in one table.
//!
//! The calls are read from the protocol's own files: one that is in them and not in the table fails, and the other way round.

mod common;

use std::collections::BTreeSet;

use bytes::Bytes;
use common::{IDENTITY, Node, Setup, users};
use concur_kv::{Command, LeaseId, Put};
use concur_proto::authpb;
use concur_proto::etcdserverpb as pb;
use concur_proto::etcdserverpb::auth_client::AuthClient;
use concur_proto::etcdserverpb::cluster_client::ClusterClient;
use concur_proto::etcdserverpb::kv_client::KvClient;
use concur_proto::etcdserverpb::lease_client::LeaseClient;
use concur_proto::etcdserverpb::maintenance_client::MaintenanceClient;
use concur_proto::etcdserverpb::watch_client::WatchClient;
use concur_proto::v3electionpb as election;
use concur_proto::v3electionpb::election_client::ElectionClient;
use concur_proto::v3lockpb as lock;
use concur_proto::v3lockpb::lock_client::LockClient;
use pb::request_op::Request as Op;
use pb::watch_request::RequestUnion;
use tonic::transport::Channel;
use tonic::{Code, Request, Status, Streaming};

/// Who asks: with auth off; without a token; a user who may nothing; one who may read `k`; one who may write it; root.
const COLUMNS: [&str; 6] = ["off", "nobody", "guest", "reader", "writer", "root"];

/// `ok`; `empty`: user name is empty; `no`: permission denied; `other`: served by no one, whoever asks, or refused for another reason.
const TABLE: &[(&str, [&str; 6])] = &[
    ("KV/Range", ["ok", "empty", "no", "ok", "no", "ok"]),
    ("KV/RangeStream", ["ok", "empty", "no", "ok", "no", "ok"]),
    ("KV/Put", ["ok", "empty", "no", "no", "ok", "ok"]),
    ("KV/Put with what was there", ["ok", "empty", "no", "no", "no", "ok"]),
    ("KV/DeleteRange", ["ok", "empty", "no", "no", "ok", "ok"]),
    ("KV/Txn", ["ok", "empty", "no", "no", "ok", "ok"]),
    ("KV/Txn that reads", ["ok", "empty", "no", "ok", "no", "ok"]),
    ("KV/Compact", ["ok", "empty", "no", "no", "no", "ok"]),
    ("Watch/Watch", ["ok", "empty", "no", "ok", "no", "ok"]),
    ("Watch/Watch from the key on", ["ok", "empty", "no", "no", "no", "ok"]),
    ("Lease/LeaseGrant", ["ok", "empty", "ok", "ok", "ok", "ok"]),
    ("Lease/LeaseRevoke", ["ok", "empty", "no", "no", "ok", "ok"]),
    ("Lease/LeaseKeepAlive", ["ok", "empty", "no", "no", "ok", "ok"]),
    ("Lease/LeaseTimeToLive", ["ok", "empty", "ok", "ok", "ok", "ok"]),
    ("Lease/LeaseTimeToLive with keys", ["ok", "empty", "no", "ok", "no", "ok"]),
    ("Lease/LeaseLeases", ["ok", "empty", "no", "ok", "no", "ok"]),
    ("Cluster/MemberAdd", ["other", "empty", "no", "no", "no", "other"]),
    ("Cluster/MemberRemove", ["other", "empty", "no", "no", "no", "other"]),
    ("Cluster/MemberUpdate", ["other", "empty", "no", "no", "no", "other"]),
    ("Cluster/MemberPromote", ["other", "empty", "no", "no", "no", "other"]),
    ("Cluster/MemberList", ["ok", "empty", "ok", "ok", "ok", "ok"]),
    ("Maintenance/Alarm", ["ok", "empty", "no", "no", "no", "ok"]),
    ("Maintenance/Alarm that lists", ["ok", "empty", "ok", "ok", "ok", "ok"]),
    ("Maintenance/Status", ["ok", "empty", "ok", "ok", "ok", "ok"]),
    ("Maintenance/Defragment", ["ok", "empty", "no", "no", "no", "ok"]),
    ("Maintenance/Hash", ["ok", "empty", "no", "no", "no", "ok"]),
    ("Maintenance/HashKV", ["ok", "empty", "no", "no", "no", "ok"]),
    ("Maintenance/Snapshot", ["other", "empty", "no", "no", "no", "other"]),
    ("Maintenance/MoveLeader", ["ok", "empty", "no", "no", "no", "ok"]),
    ("Maintenance/Downgrade", ["ok", "empty", "no", "no", "no", "ok"]),
    ("Auth/AuthEnable", ["ok", "empty", "no", "no", "no", "ok"]),
    ("Auth/AuthDisable", ["ok", "empty", "no", "no", "no", "ok"]),
    ("Auth/AuthStatus", ["ok", "ok", "ok", "ok", "ok", "ok"]),
    ("Auth/Authenticate", ["other", "ok", "ok", "ok", "ok", "ok"]),
    ("Auth/UserAdd", ["ok", "empty", "no", "no", "no", "ok"]),
    ("Auth/UserGet", ["ok", "empty", "no", "no", "no", "ok"]),
    ("Auth/UserGet of the reader", ["ok", "empty", "no", "ok", "no", "ok"]),
    ("Auth/UserList", ["ok", "empty", "no", "no", "no", "ok"]),
    ("Auth/UserDelete", ["ok", "empty", "no", "no", "no", "ok"]),
    ("Auth/UserChangePassword", ["ok", "empty", "no", "no", "no", "ok"]),
    ("Auth/UserGrantRole", ["ok", "empty", "no", "no", "no", "ok"]),
    ("Auth/UserRevokeRole", ["ok", "empty", "no", "no", "no", "ok"]),
    ("Auth/RoleAdd", ["ok", "empty", "no", "no", "no", "ok"]),
    ("Auth/RoleGet", ["ok", "empty", "no", "ok", "no", "ok"]),
    ("Auth/RoleList", ["ok", "empty", "no", "no", "no", "ok"]),
    ("Auth/RoleDelete", ["ok", "empty", "no", "no", "no", "ok"]),
    ("Auth/RoleGrantPermission", ["ok", "empty", "no", "no", "no", "ok"]),
    ("Auth/RoleRevokePermission", ["ok", "empty", "no", "no", "no", "ok"]),
    ("Lock/Lock", ["ok", "empty", "no", "no", "no", "ok"]),
    ("Lock/Unlock", ["ok", "empty", "no", "no", "ok", "ok"]),
    ("Election/Campaign", ["ok", "empty", "no", "no", "no", "ok"]),
    ("Election/Proclaim", ["other", "empty", "no", "no", "no", "other"]),
    ("Election/Leader", ["ok", "empty", "no", "no", "no", "ok"]),
    ("Election/Observe", ["ok", "empty", "no", "no", "no", "ok"]),
    ("Election/Resign", ["ok", "empty", "no", "no", "no", "ok"]),
];

/// The calls that etcd's protocol files name.
fn calls() -> BTreeSet<String> {
    let directory = concat!(env!("CARGO_MANIFEST_DIR"), "/../concur-proto/proto/etcd");
    let mut calls = BTreeSet::new();
    for file in std::fs::read_dir(directory).expect("protocol files") {
        let text = std::fs::read_to_string(file.expect("a file").path()).expect("a text");
        let mut service = "";
        for line in text.lines().map(str::trim) {
            if let Some(rest) = line.strip_prefix("service ") {
                service = rest.split([' ', '{']).next().unwrap_or_default();
            } else if let Some(rest) = line.strip_prefix("rpc ") {
                calls.insert(format!("{service}/{}", rest.split(['(', ' ']).next().unwrap_or_default()));
            }
        }
    }
    calls
}

#[test]
fn every_call_of_the_protocol_is_in_the_table() {
    let named = |row: &&(&str, [&str; 6])| row.0.split(' ').next().unwrap_or_default().to_owned();
    let table: BTreeSet<String> = TABLE.iter().map(|row| named(&row)).collect();
    assert_eq!(table, calls());
    assert_eq!(table.len(), 49);
}

#[tokio::test]
async fn everybody_sees_what_the_table_says() {
    let mut wrong = Vec::new();
    for column in 0..COLUMNS.len() {
        let node = start(column > 0).await;
        let token = match COLUMNS[column] {
            "off" | "nobody" => None,
            user => Some(authenticate(node.channel().await, user).await),
        };
        for (call, expected) in TABLE {
            // What changes the users, or takes the key away, gets a node of its own.
            let own = ["Auth/", "KV/Delete", "Lease/LeaseRevoke", "Maintenance/Alarm", "Lock/", "Election/"]
                .iter()
                .any(|start| call.starts_with(start));
            let (other, token) = match (&token, own) {
                (token, false) => (None, token.clone()),
                (None, true) => (Some(start(column > 0).await), None),
                (Some(_), true) => {
                    let node = start(true).await;
                    let token = authenticate(node.channel().await, COLUMNS[column]).await;
                    (Some(node), Some(token))
                }
            };
            let status = make(other.as_ref().unwrap_or(&node), call, token.as_deref()).await.err();
            let seen = match status.as_ref().map(|status| (status.code(), status.message())) {
                None => "ok",
                Some((Code::InvalidArgument, "etcdserver: user name is empty")) => "empty",
                Some((Code::PermissionDenied, "etcdserver: permission denied")) => "no",
                // Locks and elections are made by a client of etcd's, which forgets the code.
                Some((Code::Unknown, "etcdserver: user name is empty")) if is_line(call) => "empty",
                Some((Code::Unknown, "etcdserver: permission denied")) if is_line(call) => "no",
                Some((Code::Unknown, "election: not leader")) => "other",
                // Of the state on disk the node of these tests has none.
                Some((Code::Unavailable, _)) if *call == "Maintenance/Snapshot" => "other",
                // Of that node the members do not change either.
                Some((Code::Unimplemented | Code::FailedPrecondition, _)) => "other",
                Some(_) => "neither",
            };
            if seen != expected[column] {
                wrong.push(format!("{call}, {}: expected {}, saw {seen}: {status:?}", COLUMNS[column], expected[column]));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

fn is_line(call: &str) -> bool {
    call.starts_with("Lock/") || call.starts_with("Election/")
}

/// A node with users, a key `k` on lease 7, a lease 8 without keys, and a leader of `led`.
async fn start(enabled: bool) -> Node {
    let mut seed = vec![
        Command::LeaseGrant { id: LeaseId(7), ttl_s: 600 },
        Command::LeaseGrant { id: LeaseId(8), ttl_s: 600 },
        Command::Put(Put { key: "k".into(), value: "v".into(), lease: LeaseId(7), ..Put::default() }),
        Command::Put(Put { key: "led/8".into(), value: "v".into(), ..Put::default() }),
    ];
    seed.extend(users(enabled));
    Node::start_with(Setup { seed, ..Setup::default() }).await
}

async fn authenticate(channel: Channel, name: &str) -> String {
    let request = pb::AuthenticateRequest { name: name.into(), password: "secret".into() };
    AuthClient::new(channel).authenticate(request).await.expect("a token").into_inner().token
}

/// Makes a call; of a stream the first answer counts.
async fn make(node: &Node, call: &str, token: Option<&str>) -> Result<(), Status> {
    let channel = node.channel().await;
    match call.split_once('/').expect("a service").0 {
        "KV" => kv(KvClient::new(channel), call, token).await,
        "Watch" => watch(WatchClient::new(channel), call, token).await,
        "Lease" => lease(LeaseClient::new(channel), call, token).await,
        "Cluster" => cluster(ClusterClient::new(channel), call, token).await,
        "Maintenance" => maintenance(MaintenanceClient::new(channel), call, token).await,
        "Auth" => auth(AuthClient::new(channel), call, token).await,
        _ => concurrency(channel, call, token).await,
    }
}

fn with<T>(message: T, token: Option<&str>) -> Request<T> {
    let mut request = Request::new(message);
    if let Some(token) = token {
        request.metadata_mut().insert("token", token.parse().expect("a value"));
    }
    request
}

async fn first<T>(mut stream: Streaming<T>) -> Result<(), Status> {
    stream.message().await.map(drop)
}

fn k() -> Bytes {
    Bytes::from_static(b"k")
}

async fn kv(mut client: KvClient<Channel>, call: &str, token: Option<&str>) -> Result<(), Status> {
    let put = pb::PutRequest { key: k(), ignore_lease: true, ..Default::default() };
    let range = pb::RangeRequest { key: k(), ..Default::default() };
    let op = |request| pb::RequestOp { request: Some(request) };
    let inside = |request| op(Op::RequestTxn(pb::TxnRequest { success: vec![op(request)], ..Default::default() }));
    match call {
        "KV/Range" => client.range(with(range, token)).await.map(drop),
        "KV/RangeStream" => first(client.range_stream(with(range, token)).await?.into_inner()).await,
        "KV/Put" => client.put(with(put, token)).await.map(drop),
        "KV/Put with what was there" => client.put(with(pb::PutRequest { prev_kv: true, ..put }, token)).await.map(drop),
        "KV/DeleteRange" => client.delete_range(with(pb::DeleteRangeRequest { key: k(), ..Default::default() }, token)).await.map(drop),
        "KV/Txn" => {
            let txn = pb::TxnRequest { failure: vec![inside(Op::RequestPut(put))], ..Default::default() };
            client.txn(with(txn, token)).await.map(drop)
        }
        "KV/Txn that reads" => {
            let txn = pb::TxnRequest { success: vec![inside(Op::RequestRange(range))], ..Default::default() };
            client.txn(with(txn, token)).await.map(drop)
        }
        "KV/Compact" => client.compact(with(pb::CompactionRequest { revision: 2, physical: false }, token)).await.map(drop),
        _ => panic!("{call}"),
    }
}

async fn watch(mut client: WatchClient<Channel>, call: &str, token: Option<&str>) -> Result<(), Status> {
    let range_end = if call == "Watch/Watch" { Bytes::new() } else { Bytes::from_static(&[0]) };
    let create = pb::WatchCreateRequest { key: k(), range_end, ..Default::default() };
    let request = pb::WatchRequest { request_union: Some(RequestUnion::CreateRequest(create)) };
    let mut stream = client.watch(with(tokio_stream::iter([request]), token)).await?.into_inner();
    let answer = stream.message().await?.expect("an answer");
    assert!(answer.created);
    if !answer.canceled {
        return Ok(());
    }
    assert_eq!(answer.watch_id, -1);
    let refused = answer.cancel_reason.strip_prefix("rpc error: code = ").and_then(|rest| rest.split_once(" desc = "));
    Err(match refused.expect("a status") {
        ("InvalidArgument", text) => Status::invalid_argument(text),
        ("PermissionDenied", text) => Status::permission_denied(text),
        other => panic!("{other:?}"),
    })
}

async fn lease(mut client: LeaseClient<Channel>, call: &str, token: Option<&str>) -> Result<(), Status> {
    let time_to_live = |keys| pb::LeaseTimeToLiveRequest { id: 7, keys };
    match call {
        "Lease/LeaseGrant" => client.lease_grant(with(pb::LeaseGrantRequest { ttl: 60, id: 0 }, token)).await.map(drop),
        "Lease/LeaseRevoke" => client.lease_revoke(with(pb::LeaseRevokeRequest { id: 7 }, token)).await.map(drop),
        "Lease/LeaseKeepAlive" => {
            let asked = tokio_stream::iter([pb::LeaseKeepAliveRequest { id: 7 }]);
            first(client.lease_keep_alive(with(asked, token)).await?.into_inner()).await
        }
        "Lease/LeaseTimeToLive" => client.lease_time_to_live(with(time_to_live(false), token)).await.map(drop),
        "Lease/LeaseTimeToLive with keys" => client.lease_time_to_live(with(time_to_live(true), token)).await.map(drop),
        "Lease/LeaseLeases" => client.lease_leases(with(pb::LeaseLeasesRequest {}, token)).await.map(drop),
        _ => panic!("{call}"),
    }
}

async fn cluster(mut client: ClusterClient<Channel>, call: &str, token: Option<&str>) -> Result<(), Status> {
    let (id, urls) = (IDENTITY.member, vec!["http://127.0.0.1:1".to_owned()]);
    match call {
        "Cluster/MemberAdd" => {
            client.member_add(with(pb::MemberAddRequest { peer_ur_ls: urls, ..Default::default() }, token)).await.map(drop)
        }
        "Cluster/MemberRemove" => client.member_remove(with(pb::MemberRemoveRequest { id }, token)).await.map(drop),
        "Cluster/MemberUpdate" => client.member_update(with(pb::MemberUpdateRequest { id, peer_ur_ls: urls }, token)).await.map(drop),
        "Cluster/MemberPromote" => client.member_promote(with(pb::MemberPromoteRequest { id }, token)).await.map(drop),
        "Cluster/MemberList" => client.member_list(with(pb::MemberListRequest { linearizable: true }, token)).await.map(drop),
        _ => panic!("{call}"),
    }
}

async fn maintenance(mut client: MaintenanceClient<Channel>, call: &str, token: Option<&str>) -> Result<(), Status> {
    match call {
        "Maintenance/Alarm" => client.alarm(with(pb::AlarmRequest { action: 1, member_id: 5, alarm: 1 }, token)).await.map(drop),
        "Maintenance/Alarm that lists" => client.alarm(with(pb::AlarmRequest::default(), token)).await.map(drop),
        "Maintenance/Status" => client.status(with(pb::StatusRequest {}, token)).await.map(drop),
        "Maintenance/Defragment" => client.defragment(with(pb::DefragmentRequest {}, token)).await.map(drop),
        "Maintenance/Hash" => client.hash(with(pb::HashRequest {}, token)).await.map(drop),
        "Maintenance/HashKV" => client.hash_kv(with(pb::HashKvRequest { revision: 0 }, token)).await.map(drop),
        "Maintenance/Snapshot" => first(client.snapshot(with(pb::SnapshotRequest {}, token)).await?.into_inner()).await,
        "Maintenance/MoveLeader" => client.move_leader(with(pb::MoveLeaderRequest { target_id: IDENTITY.member }, token)).await.map(drop),
        "Maintenance/Downgrade" => {
            client.downgrade(with(pb::DowngradeRequest { version: "3.6.0".into(), ..Default::default() }, token)).await.map(drop)
        }
        _ => panic!("{call}"),
    }
}

async fn auth(mut client: AuthClient<Channel>, call: &str, token: Option<&str>) -> Result<(), Status> {
    let (name, role) = ("guest".to_owned(), "reads".to_owned());
    let perm = authpb::Permission { perm_type: 0, key: k(), range_end: Bytes::new() };
    match call {
        "Auth/AuthEnable" => client.auth_enable(with(pb::AuthEnableRequest {}, token)).await.map(drop),
        "Auth/AuthDisable" => client.auth_disable(with(pb::AuthDisableRequest {}, token)).await.map(drop),
        "Auth/AuthStatus" => client.auth_status(with(pb::AuthStatusRequest {}, token)).await.map(drop),
        "Auth/Authenticate" => {
            client.authenticate(with(pb::AuthenticateRequest { name: "root".into(), password: "secret".into() }, token)).await.map(drop)
        }
        "Auth/UserAdd" => {
            let options = Some(authpb::UserAddOptions { no_password: true });
            let request = pb::AuthUserAddRequest { name: "more".into(), options, ..Default::default() };
            client.user_add(with(request, token)).await.map(drop)
        }
        "Auth/UserGet" => client.user_get(with(pb::AuthUserGetRequest { name: "root".into() }, token)).await.map(drop),
        "Auth/UserGet of the reader" => client.user_get(with(pb::AuthUserGetRequest { name: "reader".into() }, token)).await.map(drop),
        "Auth/UserList" => client.user_list(with(pb::AuthUserListRequest {}, token)).await.map(drop),
        "Auth/UserDelete" => client.user_delete(with(pb::AuthUserDeleteRequest { name }, token)).await.map(drop),
        "Auth/UserChangePassword" => {
            client.user_change_password(with(pb::AuthUserChangePasswordRequest { name, ..Default::default() }, token)).await.map(drop)
        }
        "Auth/UserGrantRole" => client.user_grant_role(with(pb::AuthUserGrantRoleRequest { user: name, role }, token)).await.map(drop),
        "Auth/UserRevokeRole" => {
            let request = pb::AuthUserRevokeRoleRequest { name: "reader".into(), role };
            client.user_revoke_role(with(request, token)).await.map(drop)
        }
        "Auth/RoleAdd" => client.role_add(with(pb::AuthRoleAddRequest { name: "more".into() }, token)).await.map(drop),
        "Auth/RoleGet" => client.role_get(with(pb::AuthRoleGetRequest { role }, token)).await.map(drop),
        "Auth/RoleList" => client.role_list(with(pb::AuthRoleListRequest {}, token)).await.map(drop),
        "Auth/RoleDelete" => client.role_delete(with(pb::AuthRoleDeleteRequest { role }, token)).await.map(drop),
        "Auth/RoleGrantPermission" => {
            let request = pb::AuthRoleGrantPermissionRequest { name: role, perm: Some(perm) };
            client.role_grant_permission(with(request, token)).await.map(drop)
        }
        "Auth/RoleRevokePermission" => {
            let request = pb::AuthRoleRevokePermissionRequest { role, key: k(), range_end: Bytes::new() };
            client.role_revoke_permission(with(request, token)).await.map(drop)
        }
        _ => panic!("{call}"),
    }
}

async fn concurrency(channel: Channel, call: &str, token: Option<&str>) -> Result<(), Status> {
    let (mut locks, mut elections) = (LockClient::new(channel.clone()), ElectionClient::new(channel));
    let (key, led) = (k(), election::LeaderRequest { name: "led".into() });
    let leader = Some(election::LeaderKey { name: k(), key: k(), rev: 1, lease: 7 });
    match call {
        "Lock/Lock" => locks.lock(with(lock::LockRequest { name: key, lease: 0 }, token)).await.map(drop),
        "Lock/Unlock" => locks.unlock(with(lock::UnlockRequest { key }, token)).await.map(drop),
        "Election/Campaign" => {
            elections.campaign(with(election::CampaignRequest { name: key, ..Default::default() }, token)).await.map(drop)
        }
        "Election/Proclaim" => elections.proclaim(with(election::ProclaimRequest { leader, value: key }, token)).await.map(drop),
        "Election/Leader" => elections.leader(with(led, token)).await.map(drop),
        "Election/Observe" => first(elections.observe(with(led, token)).await?.into_inner()).await,
        "Election/Resign" => elections.resign(with(election::ResignRequest { leader }, token)).await.map(drop),
        _ => panic!("{call}"),
    }
}
