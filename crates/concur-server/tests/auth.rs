//! Users, tokens and certificates over a real socket: who is let in, and what the refusals say.

mod common;

use std::time::Duration;

use bytes::Bytes;
use common::{Node, Setup, users};
use concur_proto::authpb;
use concur_proto::etcdserverpb as pb;
use concur_proto::etcdserverpb::auth_client::AuthClient;
use concur_proto::etcdserverpb::kv_client::KvClient;
use concur_proto::etcdserverpb::kv_server::Kv;
use concur_proto::etcdserverpb::lease_client::LeaseClient;
use concur_server::ClientName;
use concur_server::auth::AuthOptions;
use concur_server::door::DoorLimits;
use concur_server::etcd::errors::{self, EtcdError};
use tonic::transport::Channel;
use tonic::{Code, Request, Status};

async fn guarded(auth: AuthOptions) -> Node {
    Node::start_with(Setup { seed: users(true), auth, ..Setup::default() }).await
}

fn with<T>(message: T, token: &str) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert("token", token.parse().expect("a value"));
    request
}

async fn enter(channel: &Channel, name: &str, password: &str) -> Result<String, Status> {
    let request = pb::AuthenticateRequest { name: name.into(), password: password.into() };
    Ok(AuthClient::new(channel.clone()).authenticate(request).await?.into_inner().token)
}

fn range() -> pb::RangeRequest {
    pb::RangeRequest { key: Bytes::from_static(b"k"), ..Default::default() }
}

fn put(key: &str) -> pb::PutRequest {
    pb::PutRequest { key: Bytes::copy_from_slice(key.as_bytes()), ..Default::default() }
}

fn is(result: Result<impl Sized, Status>, error: EtcdError) {
    let status = result.err().expect("a refusal");
    assert_eq!((status.code(), status.message()), (error.code, error.text));
}

#[tokio::test]
async fn every_refusal_of_auth_has_the_code_and_text_that_clients_compare() {
    let node = Node::start().await;
    let mut auth = AuthClient::new(node.channel().await);
    let user = |name: &str| pb::AuthUserAddRequest { name: name.into(), password: "secret".into(), ..Default::default() };
    let grant = |user: &str, role: &str| pb::AuthUserGrantRoleRequest { user: user.into(), role: role.into() };
    let revoke = |name: &str, role: &str| pb::AuthUserRevokeRoleRequest { name: name.into(), role: role.into() };
    let role = |name: &str| pb::AuthRoleAddRequest { name: name.into() };
    let permit = |name: &str, perm| pb::AuthRoleGrantPermissionRequest { name: name.into(), perm };
    let on = |key: &str, end: &str, perm_type| {
        let bytes = |text: &str| Bytes::copy_from_slice(text.as_bytes());
        Some(authpb::Permission { perm_type, key: bytes(key), range_end: bytes(end) })
    };
    let take = |key: &str| pb::AuthRoleRevokePermissionRequest {
        role: "r".into(),
        key: Bytes::copy_from_slice(key.as_bytes()),
        range_end: Bytes::new(),
    };
    is(auth.authenticate(pb::AuthenticateRequest::default()).await, errors::AUTH_NOT_ENABLED);
    is(auth.auth_enable(pb::AuthEnableRequest {}).await, errors::ROOT_USER_NOT_EXIST);
    is(auth.user_add(user("")).await, errors::USER_EMPTY);
    auth.user_add(user("root")).await.expect("a user");
    is(auth.user_add(user("root")).await, errors::USER_EXISTS);
    is(auth.auth_enable(pb::AuthEnableRequest {}).await, errors::ROOT_ROLE_NOT_EXIST);
    is(auth.user_get(pb::AuthUserGetRequest { name: "nobody".into() }).await, errors::USER_NOT_FOUND);
    is(auth.user_grant_role(grant("root", "r")).await, errors::ROLE_NOT_FOUND);
    is(auth.role_get(pb::AuthRoleGetRequest { role: "r".into() }).await, errors::ROLE_NOT_FOUND);
    is(auth.role_add(role("")).await, errors::ROLE_EMPTY);
    auth.role_add(role("r")).await.expect("a role");
    is(auth.role_add(role("r")).await, errors::ROLE_EXISTS);
    is(auth.role_grant_permission(permit("r", None)).await, errors::PERMISSION_NOT_GIVEN);
    is(auth.role_grant_permission(permit("r", on("b", "a", 0))).await, errors::INVALID_AUTH_MANAGEMENT);
    is(auth.role_grant_permission(permit("r", on("a", "b", 9))).await, errors::INVALID_AUTH_MANAGEMENT);
    is(auth.role_revoke_permission(take("k")).await, errors::PERMISSION_NOT_GRANTED);
    is(auth.user_revoke_role(revoke("root", "r")).await, errors::ROLE_NOT_GRANTED);
    auth.user_grant_role(grant("root", "root")).await.expect("a grant");
    let options = Some(authpb::UserAddOptions { no_password: true });
    auth.user_add(pb::AuthUserAddRequest { options, ..user("card") }).await.expect("a user");
    auth.auth_enable(pb::AuthEnableRequest {}).await.expect("auth is on");
    is(enter(&node.channel().await, "root", "wrong").await, errors::AUTH_FAILED);
    is(enter(&node.channel().await, "nobody", "secret").await, errors::AUTH_FAILED);
    let card = enter(&node.channel().await, "card", "secret").await.expect_err("a refusal");
    let text = "auth: authentication failed, password was given for no password user";
    assert_eq!((card.code(), card.message()), (Code::Unknown, text));
    let root = enter(&node.channel().await, "root", "secret").await.expect("a token");
    is(auth.user_delete(with(pb::AuthUserDeleteRequest { name: "root".into() }, &root)).await, errors::INVALID_AUTH_MANAGEMENT);
    is(auth.user_revoke_role(with(revoke("root", "root"), &root)).await, errors::INVALID_AUTH_MANAGEMENT);
    let mut kv = KvClient::new(node.channel().await);
    is(kv.range(range()).await, errors::USER_EMPTY);
    is(kv.range(with(range(), "abc.1")).await, errors::INVALID_AUTH_TOKEN);
    is(kv.range(with(range(), "abc")).await, errors::INVALID_AUTH_TOKEN);
    auth.user_add(with(user("alice"), &root)).await.expect("a user");
    let alice = enter(&node.channel().await, "alice", "secret").await.expect("a token");
    is(kv.range(with(range(), &alice)).await, errors::PERMISSION_DENIED);
    kv.range(with(range(), &root)).await.expect("root reads");
    let status = auth.auth_status(pb::AuthStatusRequest {}).await.expect("a status").into_inner();
    assert!(status.enabled && status.auth_revision == 6, "{status:?}");
}

#[tokio::test]
async fn users_and_roles_are_shown_as_they_were_made() {
    let node = Node::start_with(Setup { seed: users(false), ..Setup::default() }).await;
    let mut auth = AuthClient::new(node.channel().await);
    let all = auth.user_list(pb::AuthUserListRequest {}).await.expect("users").into_inner();
    assert_eq!(all.users, ["guest", "reader", "root", "writer"]);
    let roles = auth.role_list(pb::AuthRoleListRequest {}).await.expect("roles").into_inner();
    assert_eq!(roles.roles, ["reads", "root", "writes"]);
    let reader = auth.user_get(pb::AuthUserGetRequest { name: "reader".into() }).await.expect("a user").into_inner();
    assert_eq!(reader.roles, ["reads"]);
    let writes = auth.role_get(pb::AuthRoleGetRequest { role: "writes".into() }).await.expect("a role").into_inner();
    assert_eq!((writes.perm.len(), writes.perm[0].perm_type, &writes.perm[0].key[..]), (1, 1, &b"k"[..]));
    let root = auth.role_get(pb::AuthRoleGetRequest { role: "root".into() }).await.expect("a role").into_inner();
    assert_eq!((root.perm[0].perm_type, &root.perm[0].key[..], &root.perm[0].range_end[..]), (2, &b""[..], &[0][..]));
}

#[tokio::test]
async fn a_token_ends_with_its_user_its_password_and_its_time() {
    let node = guarded(AuthOptions::default()).await;
    let channel = node.channel().await;
    let (mut kv, mut auth) = (KvClient::new(channel.clone()), AuthClient::new(channel.clone()));
    let root = enter(&channel, "root", "secret").await.expect("a token");
    let reader = enter(&channel, "reader", "secret").await.expect("a token");
    let (letters, number) = reader.split_once('.').expect("letters and a number");
    assert!(letters.len() == 16 && number.parse::<u64>().is_ok(), "{reader}");
    kv.range(with(range(), &reader)).await.expect("a range");
    let password = |name: &str| pb::AuthUserChangePasswordRequest { name: name.into(), password: "new".into(), ..Default::default() };
    auth.user_change_password(with(password("writer"), &root)).await.expect("a change");
    kv.range(with(range(), &reader)).await.expect("another's password leaves it");
    auth.user_change_password(with(password("reader"), &root)).await.expect("a change");
    is(kv.range(with(range(), &reader)).await, errors::INVALID_AUTH_TOKEN);
    is(enter(&channel, "reader", "secret").await, errors::AUTH_FAILED);
    let reader = enter(&channel, "reader", "new").await.expect("a token");
    kv.range(with(range(), &reader)).await.expect("a range");
    auth.user_delete(with(pb::AuthUserDeleteRequest { name: "reader".into() }, &root)).await.expect("a change");
    is(kv.range(with(range(), &reader)).await, errors::INVALID_AUTH_TOKEN);
    auth.auth_disable(with(pb::AuthDisableRequest {}, &root)).await.expect("auth is off");
    kv.range(with(range(), &root)).await.expect("nobody asks who");
    auth.auth_enable(pb::AuthEnableRequest {}).await.expect("auth is on");
    is(kv.range(with(range(), &root)).await, errors::INVALID_AUTH_TOKEN);
    let door = DoorLimits { token_ttl: Duration::ZERO, ..DoorLimits::default() };
    let brief = Node::start_with(Setup { seed: users(true), door, ..Setup::default() }).await;
    let root = enter(&brief.channel().await, "root", "secret").await.expect("a token");
    is(KvClient::new(brief.channel().await).range(with(range(), &root)).await, errors::INVALID_AUTH_TOKEN);
}

#[tokio::test]
async fn a_jwt_is_good_until_users_or_roles_change() {
    let keys = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/keys");
    let auth_token = format!("jwt,sign-method=ES256,pub-key={keys}/ec.pub.pem,priv-key={keys}/ec.pem,ttl=1h");
    let node = guarded(AuthOptions { auth_token, ..AuthOptions::default() }).await;
    let channel = node.channel().await;
    let (mut kv, mut auth) = (KvClient::new(channel.clone()), AuthClient::new(channel.clone()));
    let reader = enter(&channel, "reader", "secret").await.expect("a token");
    let root = enter(&channel, "root", "secret").await.expect("a token");
    assert_eq!(reader.split('.').count(), 3);
    kv.range(with(range(), &reader)).await.expect("a range");
    is(kv.put(with(put("k"), &reader)).await, errors::PERMISSION_DENIED);
    is(kv.range(with(range(), &format!("{reader}x"))).await, errors::INVALID_AUTH_TOKEN);
    auth.role_add(with(pb::AuthRoleAddRequest { name: "more".into() }, &root)).await.expect("a change");
    is(kv.range(with(range(), &reader)).await, errors::AUTH_OLD_REVISION);
    is(kv.put(with(put("k"), &root)).await, errors::AUTH_OLD_REVISION);
    let reader = enter(&channel, "reader", "secret").await.expect("a token");
    kv.range(with(range(), &reader)).await.expect("a range");
}

#[tokio::test]
async fn a_certificate_names_the_user_of_a_request_without_a_token() {
    let node = guarded(AuthOptions::default()).await;
    let from = |name: &str, gateway: bool| {
        let mut request = Request::new(range());
        request.extensions_mut().insert(ClientName(name.into()));
        if gateway {
            request.metadata_mut().insert("grpcgateway-accept", "*/*".parse().expect("a value"));
        }
        request
    };
    node.etcd.range(from("reader", false)).await.expect("a range");
    is(node.etcd.range(from("writer", false)).await, errors::PERMISSION_DENIED);
    is(node.etcd.range(from("stranger", false)).await, errors::PERMISSION_DENIED);
    is(node.etcd.range(from("reader", true)).await, errors::USER_EMPTY);
    let guest = enter(&node.channel().await, "guest", "secret").await.expect("a token");
    let mut both = from("reader", false);
    both.metadata_mut().insert("token", guest.parse().expect("a value"));
    is(node.etcd.range(both).await, errors::PERMISSION_DENIED);
}

#[tokio::test]
async fn leases_asked_for_before_one_that_is_denied_are_kept_alive() {
    let node = guarded(AuthOptions::default()).await;
    let channel = node.channel().await;
    let (mut kv, mut lease) = (KvClient::new(channel.clone()), LeaseClient::new(channel.clone()));
    let root = enter(&channel, "root", "secret").await.expect("a token");
    let writer = enter(&channel, "writer", "secret").await.expect("a token");
    for (id, key) in [(7, "k"), (8, "other")] {
        lease.lease_grant(with(pb::LeaseGrantRequest { ttl: 60, id }, &root)).await.expect("a lease");
        kv.put(with(pb::PutRequest { lease: id, ..put(key) }, &root)).await.expect("a put");
    }
    let asked = tokio_stream::iter([7, 8, 7].map(|id| pb::LeaseKeepAliveRequest { id }));
    let mut answers = lease.lease_keep_alive(with(asked, &writer)).await.expect("a stream").into_inner();
    let first = answers.message().await.expect("an answer").expect("an answer");
    assert_eq!((first.id, first.ttl), (7, 60));
    is(answers.message().await, errors::PERMISSION_DENIED);
}
