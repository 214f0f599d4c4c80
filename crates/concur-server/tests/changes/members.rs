//! Of members and of their upkeep.

use concur_proto::etcdserverpb as pb;
use concur_proto::etcdserverpb::cluster_client::ClusterClient;
use concur_proto::etcdserverpb::maintenance_client::MaintenanceClient;
use tonic::Code;

use crate::side::{Side, Wanted, is, put};

pub(crate) async fn tells_its_state() {
    let side = Side::start().await;
    let mut maintenance = MaintenanceClient::new(side.channel().await);
    let status = maintenance.status(pb::StatusRequest {}).await.expect("a status").into_inner();
    assert!(status.version.starts_with("3.7."), "{status:?}");
    assert_eq!(status.storage_version, "3.7.0");
    assert!(status.db_size_in_use <= status.db_size, "{status:?}");
    assert_eq!((status.db_size_quota, status.is_learner), (2 << 30, false));
    assert!(status.errors.is_empty(), "{status:?}");
    let downgrade = status.downgrade_info.expect("it says whether it goes back");
    assert_eq!((downgrade.enabled, downgrade.target_version.as_str()), (false, ""));
    let alarm = |action| pb::AlarmRequest { action, member_id: 5, alarm: 1 };
    maintenance.alarm(alarm(1)).await.expect("an alarm");
    let status = maintenance.status(pb::StatusRequest {}).await.expect("a status").into_inner();
    assert_eq!(status.errors.len(), 1);
    assert!(status.errors[0].contains("alarm:NOSPACE"), "{status:?}");
}

pub(crate) async fn tells_the_quota_that_it_was_given() {
    let side = Side::start_with(Wanted { quota_bytes: 123_456_789, ..Wanted::default() }).await;
    let status = MaintenanceClient::new(side.channel().await).status(pb::StatusRequest {}).await.expect("a status").into_inner();
    assert_eq!(status.db_size_quota, 123_456_789);
}

pub(crate) async fn lists_members_as_it_is_asked() {
    let side = Side::start().await;
    let mut members = ClusterClient::new(side.channel().await);
    for linearizable in [true, false] {
        let list = members.member_list(pb::MemberListRequest { linearizable }).await.expect("members").into_inner();
        assert_eq!((list.members.len(), list.members[0].is_learner), (1, false));
        assert_eq!(list.header.expect("a header").revision, 0);
    }
}

pub(crate) async fn names_members_that_are_not_there() {
    let side = Side::start().await;
    let mut members = ClusterClient::new(side.channel().await);
    let none = "etcdserver: member not found";
    is(members.member_promote(pb::MemberPromoteRequest { id: 99 }).await, Code::NotFound, none);
    is(members.member_remove(pb::MemberRemoveRequest { id: 99 }).await, Code::NotFound, none);
    let peer_ur_ls = vec!["http://127.0.0.1:1".to_owned()];
    is(members.member_update(pb::MemberUpdateRequest { id: 99, peer_ur_ls }).await, Code::NotFound, none);
    let add = |peer_ur_ls| pb::MemberAddRequest { peer_ur_ls, is_learner: true };
    let invalid = "etcdserver: given member URLs are invalid";
    for urls in [vec![], vec!["127.0.0.1:1".to_owned()], vec!["http://127.0.0.1".to_owned()], vec!["ftp://127.0.0.1:1".to_owned()]] {
        is(members.member_add(add(urls)).await, Code::InvalidArgument, invalid);
    }
    let mut maintenance = MaintenanceClient::new(side.channel().await);
    let lead = maintenance.move_leader(pb::MoveLeaderRequest { target_id: 99 }).await;
    is(lead, Code::FailedPrecondition, "etcdserver: bad leader transferee");
}

pub(crate) async fn arms_no_alarm_without_a_kind() {
    let side = Side::start().await;
    let mut maintenance = MaintenanceClient::new(side.channel().await);
    for action in [1, 2] {
        let done = maintenance.alarm(pb::AlarmRequest { action, member_id: 5, alarm: 0 }).await.expect("nothing").into_inner();
        assert!(done.alarms.is_empty());
    }
    let listed = maintenance.alarm(pb::AlarmRequest::default()).await.expect("a list").into_inner();
    assert!(listed.alarms.is_empty());
    side.kv().await.put(put("a", "")).await.expect("a put");
}

pub(crate) async fn leaves_an_alarm_of_any_member_out_of_health() {
    let side = Side::start().await;
    let mut maintenance = MaintenanceClient::new(side.channel().await);
    for member_id in [5, 6, 0] {
        maintenance.alarm(pb::AlarmRequest { action: 1, member_id, alarm: 1 }).await.expect("an alarm");
    }
    let listed = maintenance.alarm(pb::AlarmRequest::default()).await.expect("a list").into_inner();
    let mut armed: Vec<_> = listed.alarms.iter().map(|alarm| (alarm.member_id, alarm.alarm)).collect();
    armed.sort_unstable();
    assert_eq!(armed, [(0, 1), (5, 1), (6, 1)]);
    let (status, body) = side.get("/health").await;
    assert_eq!((status, body.trim()), (503, r#"{"health":"false","reason":"ALARM NOSPACE"}"#));
    assert_eq!(side.get("/health?exclude=NOSPACE").await.0, 200);
    assert_eq!(side.get("/health?exclude=CORRUPT").await.0, 503);
    assert_eq!(side.get("/readyz").await.0, 200, "a full store can serve");
}

pub(crate) async fn judges_downgrades() {
    let side = Side::start().await;
    let mut maintenance = MaintenanceClient::new(side.channel().await);
    let mut ask = async |action, version: &str| maintenance.downgrade(pb::DowngradeRequest { action, version: version.into() }).await;
    for version in ["", "3", "x.y", "3.6.0.1"] {
        is(ask(0, version).await, Code::InvalidArgument, "etcdserver: wrong downgrade target version format");
    }
    for version in ["3.7.0", "3.5.0", "3.8.0", "2.6.0"] {
        is(ask(0, version).await, Code::InvalidArgument, "etcdserver: invalid downgrade target version");
    }
    assert_eq!(ask(0, "3.6.0").await.expect("it could").into_inner().version, "3.7");
    assert_eq!(ask(2, "").await.expect("nothing to cancel").into_inner().version, "3.7");
}
