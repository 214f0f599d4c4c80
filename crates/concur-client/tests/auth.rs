//! Users and tokens in a cluster in this program: every member knows them, whatever the strategy, and no door is left open.

use concur::{Cluster, Leadership, Optimistic, System, Timeouts};
use concur_client::kv::{Asker, Command, Kv, Put, Query};
use concur_core::Wire;
use concur_proto::concur::v1 as native;
use concur_proto::concur::v1::concur_client::ConcurClient;
use concur_proto::etcdserverpb as pb;
use concur_proto::etcdserverpb::auth_client::AuthClient;
use concur_proto::etcdserverpb::kv_client::KvClient;
use std::time::Duration;
use tonic::transport::Channel;
use tonic::{Code, Request, Status};

async fn cluster(system: System) -> (Cluster<Kv>, Vec<Channel>) {
    let heartbeat = Duration::from_millis(50);
    let timeouts = Timeouts { heartbeat, election: 20 * heartbeat, request: Duration::from_secs(60), ..Timeouts::default() };
    let cluster = System { quorum_size: 3, timeouts, ..system }.concur().await.unwrap();
    let mut channels = Vec::new();
    for member in cluster.members() {
        let url = format!("http://{}", member.client_addresses()[0]);
        channels.push(Channel::from_shared(url).unwrap().connect().await.unwrap());
    }
    (cluster, channels)
}

/// Adds root and alice, who may write `a`, each at another member; auth is on when it returns.
async fn enable(channels: &[Channel]) {
    let mut auth: Vec<_> = channels.iter().cloned().map(AuthClient::new).collect();
    let user = |name: &str| pb::AuthUserAddRequest { name: name.into(), password: "secret".into(), ..Default::default() };
    let grant = |user: &str, role: &str| pb::AuthUserGrantRoleRequest { user: user.into(), role: role.into() };
    auth[0].user_add(user("root")).await.unwrap();
    auth[1].user_grant_role(grant("root", "root")).await.unwrap();
    auth[2].user_add(user("alice")).await.unwrap();
    auth[0].role_add(pb::AuthRoleAddRequest { name: "r".into() }).await.unwrap();
    let perm = concur_proto::authpb::Permission { perm_type: 2, key: "a".into(), range_end: "".into() };
    auth[1].role_grant_permission(pb::AuthRoleGrantPermissionRequest { name: "r".into(), perm: Some(perm) }).await.unwrap();
    auth[2].user_grant_role(grant("alice", "r")).await.unwrap();
    auth[0].auth_enable(pb::AuthEnableRequest {}).await.unwrap();
    settle(channels).await;
}

/// Waits until every member has executed what was acknowledged: one that is behind has its callers look again, as in etcd.
async fn settle(channels: &[Channel]) {
    for channel in channels {
        AuthClient::new(channel.clone()).auth_status(pb::AuthStatusRequest {}).await.unwrap();
    }
}

async fn enter(channel: &Channel, name: &str) -> String {
    let request = pb::AuthenticateRequest { name: name.into(), password: "secret".into() };
    AuthClient::new(channel.clone()).authenticate(request).await.unwrap().into_inner().token
}

fn with<T>(message: T, token: &str) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert("token", token.parse().unwrap());
    request
}

fn put(key: &str) -> pb::PutRequest {
    pb::PutRequest { key: bytes::Bytes::copy_from_slice(key.as_bytes()), ..Default::default() }
}

fn code<T>(result: Result<T, Status>) -> Code {
    result.err().map_or(Code::Ok, |status| status.code())
}

async fn every_member_knows_a_token(system: System) {
    let (cluster, channels) = cluster(system).await;
    enable(&channels).await;
    for from in &channels {
        let alice = enter(from, "alice").await;
        for at in &channels {
            let mut kv = KvClient::new(at.clone());
            kv.put(with(put("a"), &alice)).await.unwrap();
            assert_eq!(code(kv.put(with(put("b"), &alice)).await), Code::PermissionDenied);
            let range = pb::RangeRequest { key: "a".into(), ..Default::default() };
            assert_eq!(kv.range(with(range.clone(), &alice)).await.unwrap().into_inner().count, 1);
            assert_eq!(code(kv.range(range).await), Code::InvalidArgument);
        }
    }
    let (root, alice) = (enter(&channels[0], "root").await, enter(&channels[1], "alice").await);
    let mut auth = AuthClient::new(channels[2].clone());
    auth.role_delete(with(pb::AuthRoleDeleteRequest { role: "r".into() }, &root)).await.unwrap();
    settle(&channels).await;
    for at in &channels {
        assert_eq!(code(KvClient::new(at.clone()).put(with(put("a"), &alice)).await), Code::PermissionDenied);
    }
    cluster.stop().await.unwrap();
}

#[tokio::test]
async fn every_member_knows_a_token_with_a_leader() {
    every_member_knows_a_token(System { decision_making: Leadership::Raft.into(), ..System::default() }).await;
}

#[tokio::test]
async fn every_member_knows_a_token_without_a_leader() {
    every_member_knows_a_token(System { decision_making: Optimistic::EPaxos.into(), ..System::default() }).await;
}

#[tokio::test]
async fn the_native_door_is_guarded_too() {
    let (cluster, channels) = cluster(System { decision_making: Leadership::Raft.into(), ..System::default() }).await;
    enable(&channels).await;
    let (root, alice) = (enter(&channels[0], "root").await, enter(&channels[0], "alice").await);
    let mut door = ConcurClient::new(channels[0].clone());
    let execute = |command: Command| native::ExecuteRequest { command: command.to_bytes(), ..Default::default() };
    let read = |query: Query| native::ReadRequest { query: query.to_bytes(), ..Default::default() };
    let of = |key: &'static str| Command::Put(Put { key: key.into(), ..Put::default() });
    let refused = |reply: bytes::Bytes| matches!(concur_client::kv::Reply::from_bytes(&reply), Ok(concur_client::kv::Reply::Refused(_)));
    // Judged by the store, as everybody else's.
    assert!(refused(door.execute(execute(of("a"))).await.unwrap().into_inner().reply));
    assert!(refused(door.execute(with(execute(of("b")), &alice)).await.unwrap().into_inner().reply));
    assert!(!refused(door.execute(with(execute(of("a")), &alice)).await.unwrap().into_inner().reply));
    assert_eq!(code(door.execute(with(execute(of("a")), "nobodys.1")).await), Code::Unauthenticated);
    // Nothing from outside says whose it is.
    assert_eq!(code(door.execute(execute(of("b").by_node())).await), Code::InvalidArgument);
    assert_eq!(code(door.execute(with(execute(of("b").by_node()), &alice)).await), Code::InvalidArgument);
    let forged = Query::As { asker: Asker::Node, query: Box::new(Query::Users) };
    assert_eq!(code(door.read(with(read(forged), &alice)).await), Code::InvalidArgument);
    // What the store does not judge.
    assert_eq!(code(door.status(native::StatusRequest {}).await), Code::InvalidArgument);
    assert_eq!(code(door.status(with(native::StatusRequest {}, &alice)).await), Code::Ok);
    assert_eq!(code(door.snapshot(native::SnapshotRequest::default()).await), Code::InvalidArgument);
    assert_eq!(code(door.snapshot(with(native::SnapshotRequest::default(), &alice)).await), Code::PermissionDenied);
    assert_eq!(code(door.snapshot(with(native::SnapshotRequest::default(), &root)).await), Code::Ok);
    assert_eq!(code(door.change(with(native::ChangeRequest::default(), &alice)).await), Code::PermissionDenied);
    assert_eq!(code(door.open_session(native::OpenSessionRequest { session: 5, ..Default::default() }).await), Code::InvalidArgument);
    let create = native::WatchCreate { id: 1, key: "b".into(), ..Default::default() };
    let asked = native::WatchRequest { request: Some(native::watch_request::Request::Create(create)) };
    let mut watching = door.watch(with(tokio_stream::iter([asked]), &alice)).await.unwrap().into_inner();
    let reply = watching.message().await.unwrap().unwrap();
    assert!(reply.ended.contains("permission denied"), "{reply:?}");
    cluster.stop().await.unwrap();
}
