//! Of users, and of what they may do.

use concur_proto::authpb;
use concur_proto::etcdserverpb as pb;
use concur_proto::etcdserverpb::auth_client::AuthClient;
use concur_proto::etcdserverpb::cluster_client::ClusterClient;
use concur_proto::etcdserverpb::lease_client::LeaseClient;
use concur_proto::etcdserverpb::maintenance_client::MaintenanceClient;
use pb::request_op::Request as Op;
use tonic::{Code, Request};

use crate::side::{Side, all, bytes, is, put, range, txn, with};
use crate::watch::{Watches, ended, watch};

const DENIED: &str = "etcdserver: permission denied";
const UNNAMED: &str = "etcdserver: user name is empty";
const BAD_TOKEN: &str = "etcdserver: invalid auth token";

pub(crate) async fn tells_anybody_whether_users_are_asked_for() {
    let side = Side::guarded().await;
    let mut auth = AuthClient::new(side.channel().await);
    let status = auth.auth_status(pb::AuthStatusRequest {}).await.expect("a status").into_inner();
    assert!(status.enabled && status.auth_revision > 1, "{status:?}");
    auth.auth_status(with(pb::AuthStatusRequest {}, &side.enter("guest").await)).await.expect("a status");
    is(auth.auth_status(with(pb::AuthStatusRequest {}, "junk.7")).await, Code::Unauthenticated, BAD_TOKEN);
}

pub(crate) async fn reads_nothing_through_a_nested_put() {
    let side = Side::guarded().await;
    let mut kv = side.kv().await;
    let (writer, root) = (side.enter("writer").await, side.enter("root").await);
    kv.put(with(put("k", "v"), &writer)).await.expect("a put");
    let told = Op::RequestPut(pb::PutRequest { prev_kv: true, ..put("k", "w") });
    is(kv.txn(with(txn(vec![told.clone()]), &writer)).await, Code::PermissionDenied, DENIED);
    let nested = txn(vec![Op::RequestTxn(txn(vec![told]))]);
    is(kv.txn(with(nested, &writer)).await, Code::PermissionDenied, DENIED);
    let mut leases = LeaseClient::new(side.channel().await);
    leases.lease_grant(with(pb::LeaseGrantRequest { id: 9, ttl: 600 }, &root)).await.expect("a lease");
    kv.put(with(pb::PutRequest { lease: 9, ..put("other", "v") }, &root)).await.expect("a put");
    let attached = Op::RequestPut(pb::PutRequest { lease: 9, ..put("k", "w") });
    is(kv.txn(with(txn(vec![attached.clone()]), &writer)).await, Code::PermissionDenied, DENIED);
    is(kv.txn(with(txn(vec![Op::RequestTxn(txn(vec![attached]))]), &writer)).await, Code::PermissionDenied, DENIED);
    kv.txn(with(txn(vec![Op::RequestTxn(txn(vec![Op::RequestPut(put("k", "w"))]))]), &writer)).await.expect("a put");
}

pub(crate) async fn judges_what_is_nested() {
    let side = Side::guarded().await;
    let mut kv = side.kv().await;
    let reader = side.enter("reader").await;
    let nested = |op: Op| txn(vec![Op::RequestTxn(txn(vec![op]))]);
    is(kv.txn(with(nested(Op::RequestRange(all())), &reader)).await, Code::PermissionDenied, DENIED);
    is(kv.txn(with(nested(Op::RequestPut(put("k", "v"))), &reader)).await, Code::PermissionDenied, DENIED);
    let mut compared = txn(vec![Op::RequestRange(range("k"))]);
    compared.compare = vec![pb::Compare { key: bytes("other"), ..Default::default() }];
    is(kv.txn(with(compared.clone(), &reader)).await, Code::PermissionDenied, DENIED);
    is(kv.txn(with(txn(vec![Op::RequestTxn(compared)]), &reader)).await, Code::PermissionDenied, DENIED);
    kv.txn(with(nested(Op::RequestRange(range("k"))), &reader)).await.expect("a read");
}

pub(crate) async fn tells_keys_of_leases_to_who_may_read_them() {
    let side = Side::guarded().await;
    let (reader, root) = (side.enter("reader").await, side.enter("root").await);
    let (mut kv, mut leases) = (side.kv().await, LeaseClient::new(side.channel().await));
    leases.lease_grant(with(pb::LeaseGrantRequest { id: 9, ttl: 600 }, &root)).await.expect("a lease");
    kv.put(with(pb::PutRequest { lease: 9, ..put("k", "") }, &root)).await.expect("a put");
    let ask = |keys| with(pb::LeaseTimeToLiveRequest { id: 9, keys }, &reader);
    assert_eq!(leases.lease_time_to_live(ask(true)).await.expect("a lease").into_inner().keys.len(), 1);
    kv.put(with(pb::PutRequest { lease: 9, ..put("other", "") }, &root)).await.expect("a put");
    is(leases.lease_time_to_live(ask(true)).await, Code::PermissionDenied, DENIED);
    assert_eq!(leases.lease_time_to_live(ask(false)).await.expect("a lease").into_inner().granted_ttl, 600);
}

pub(crate) async fn asks_who_calls_for_every_call() {
    let side = Side::guarded().await;
    let mut leases = LeaseClient::new(side.channel().await);
    let (mut members, mut maintenance) = (ClusterClient::new(side.channel().await), MaintenanceClient::new(side.channel().await));
    let invalid = Code::InvalidArgument;
    is(side.kv().await.compact(pb::CompactionRequest::default()).await, invalid, UNNAMED);
    is(leases.lease_grant(pb::LeaseGrantRequest { id: 1, ttl: 60 }).await, invalid, UNNAMED);
    is(leases.lease_revoke(pb::LeaseRevokeRequest { id: 1 }).await, invalid, UNNAMED);
    is(leases.lease_leases(pb::LeaseLeasesRequest {}).await, invalid, UNNAMED);
    is(leases.lease_time_to_live(pb::LeaseTimeToLiveRequest { id: 1, keys: false }).await, invalid, UNNAMED);
    let asked = tokio_stream::iter([pb::LeaseKeepAliveRequest { id: 1 }]);
    let renewed = match leases.lease_keep_alive(asked).await {
        Ok(stream) => stream.into_inner().message().await,
        Err(status) => Err(status),
    };
    is(renewed, invalid, UNNAMED);
    is(members.member_list(pb::MemberListRequest { linearizable: false }).await, invalid, UNNAMED);
    for action in [0, 1, 2] {
        is(maintenance.alarm(pb::AlarmRequest { action, member_id: 0, alarm: 1 }).await, invalid, UNNAMED);
    }
    is(maintenance.status(pb::StatusRequest {}).await, invalid, UNNAMED);
}

pub(crate) async fn keeps_upkeep_for_root() {
    let side = Side::guarded().await;
    let (reader, root) = (side.enter("reader").await, side.enter("root").await);
    let mut maintenance = MaintenanceClient::new(side.channel().await);
    maintenance.status(with(pb::StatusRequest {}, &reader)).await.expect("a status");
    maintenance.alarm(with(pb::AlarmRequest::default(), &reader)).await.expect("a list");
    let denied = Code::PermissionDenied;
    is(maintenance.alarm(with(pb::AlarmRequest { action: 1, member_id: 0, alarm: 1 }, &reader)).await, denied, DENIED);
    is(maintenance.defragment(with(pb::DefragmentRequest {}, &reader)).await, denied, DENIED);
    is(maintenance.hash(with(pb::HashRequest {}, &reader)).await, denied, DENIED);
    is(maintenance.hash_kv(with(pb::HashKvRequest { revision: 0 }, &reader)).await, denied, DENIED);
    is(maintenance.move_leader(with(pb::MoveLeaderRequest { target_id: 1 }, &reader)).await, denied, DENIED);
    is(maintenance.downgrade(with(pb::DowngradeRequest { action: 2, version: String::new() }, &reader)).await, denied, DENIED);
    let sent = match maintenance.snapshot(with(pb::SnapshotRequest {}, &reader)).await {
        Ok(stream) => stream.into_inner().message().await,
        Err(status) => Err(status),
    };
    is(sent, denied, DENIED);
    is(side.kv().await.compact(with(pb::CompactionRequest { revision: 1, physical: false }, &reader)).await, denied, DENIED);
    maintenance.hash_kv(with(pb::HashKvRequest { revision: 0 }, &root)).await.expect("a hash");
}

pub(crate) async fn looks_at_no_token_while_users_are_not_asked_for() {
    let side = Side::start().await;
    side.kv().await.put(with(put("a", "v"), "junk")).await.expect("a put");
    let request = pb::AuthenticateRequest { name: "root".into(), password: "secret".into() };
    let entered = AuthClient::new(side.channel().await).authenticate(request).await;
    is(entered, Code::FailedPrecondition, "etcdserver: authentication is not enabled");
}

pub(crate) async fn grants_no_empty_range() {
    let side = Side::guarded().await;
    let root = side.enter("root").await;
    let mut auth = AuthClient::new(side.channel().await);
    let mut grant = async |perm: Option<(&str, &str)>| {
        let perm = perm.map(|(key, end)| authpb::Permission { perm_type: 0, key: bytes(key), range_end: bytes(end) });
        auth.role_grant_permission(with(pb::AuthRoleGrantPermissionRequest { name: "reads".into(), perm }, &root)).await
    };
    is(grant(None).await, Code::InvalidArgument, "etcdserver: permission not given");
    for empty in [("b", "a"), ("b", "b"), ("", "")] {
        is(grant(Some(empty)).await, Code::InvalidArgument, "etcdserver: invalid auth management");
    }
    for sound in [("b", "c"), ("b", "\0"), ("b", ""), ("\0", "\0")] {
        grant(Some(sound)).await.expect("a permission");
    }
}

pub(crate) async fn watches_only_what_may_be_read() {
    let side = Side::guarded().await;
    let denied = "rpc error: code = PermissionDenied desc = etcdserver: permission denied";
    let reader = side.enter("reader").await;
    let mut watches = Watches::open(&side, Some(&reader)).await;
    for (key, end) in [("k", "\0"), ("k", "l"), ("", "\0"), ("k\0", ""), ("other", ""), ("", "")] {
        ended(&watches.create(watch(key, end)).await, denied);
    }
    let early = pb::WatchCreateRequest { start_revision: -1, ..watch("other", "") };
    ended(&watches.create(early).await, "etcdserver: mvcc: required revision has been compacted");
    assert_eq!(watches.create(watch("k", "")).await.watch_id, 0);
    let unnamed = "rpc error: code = InvalidArgument desc = etcdserver: user name is empty";
    ended(&Watches::open(&side, None).await.create(watch("k", "")).await, unnamed);
    let junk = "rpc error: code = Unauthenticated desc = etcdserver: invalid auth token";
    ended(&Watches::open(&side, Some("junk.7")).await.create(watch("k", "")).await, junk);
}

pub(crate) async fn knows_tokens_by_either_name() {
    let side = Side::guarded().await;
    let reader = side.enter("reader").await;
    let mut kv = side.kv().await;
    is(kv.range(with(range("k"), "junk.7")).await, Code::Unauthenticated, BAD_TOKEN);
    is(kv.range(range("k")).await, Code::InvalidArgument, UNNAMED);
    for name in ["token", "authorization"] {
        let mut request = Request::new(range("k"));
        request.metadata_mut().insert(name, reader.parse().expect("a value"));
        kv.range(request).await.unwrap_or_else(|status| panic!("{name}: {status}"));
    }
    let asked = format!("Authorization: {reader}\r\n");
    assert_eq!(side.page("POST", "/v3/kv/range", &asked, r#"{"key":"aw=="}"#).await.0, 200);
    let (status, _, body) = side.page("POST", "/v3/kv/range", "Authorization: junk.7\r\n", r#"{"key":"aw=="}"#).await;
    assert!(status == 401 && body.contains(BAD_TOKEN), "{status} {body}");
}
