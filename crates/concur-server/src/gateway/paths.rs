//! Which path is which call, as etcd's API has it. The streamed range has none there; the one it has here is ours.

use prost_reflect::{DescriptorPool, MessageDescriptor};
use std::sync::LazyLock;

/// The descriptors of all services.
static POOL: LazyLock<Option<DescriptorPool>> = LazyLock::new(|| DescriptorPool::decode(concur_proto::DESCRIPTORS).ok());

/// A call: where gRPC has it, and its messages.
pub(super) struct Call {
    pub(super) path: String,
    pub(super) input: MessageDescriptor,
    pub(super) output: MessageDescriptor,
    pub(super) client_streams: bool,
    pub(super) server_streams: bool,
}

/// The call of a path.
pub(super) fn find(path: &str) -> Option<Call> {
    let path = path.strip_prefix("/v3/").or_else(|| path.strip_prefix("/v3beta/"))?;
    let (_, service, method) = PATHS.iter().find(|(known, ..)| *known == path)?;
    let found = POOL.as_ref()?.get_service_by_name(service)?.methods().find(|found| found.name() == *method)?;
    Some(Call {
        path: format!("/{service}/{method}"),
        input: found.input(),
        output: found.output(),
        client_streams: found.is_client_streaming(),
        server_streams: found.is_server_streaming(),
    })
}

const KV: &str = "etcdserverpb.KV";
const LEASE: &str = "etcdserverpb.Lease";
const CLUSTER: &str = "etcdserverpb.Cluster";
const MAINTENANCE: &str = "etcdserverpb.Maintenance";
const AUTH: &str = "etcdserverpb.Auth";
const LOCK: &str = "v3lockpb.Lock";
const ELECTION: &str = "v3electionpb.Election";

const PATHS: &[(&str, &str, &str)] = &[
    ("kv/range", KV, "Range"),
    ("kv/range/stream", KV, "RangeStream"),
    ("kv/put", KV, "Put"),
    ("kv/deleterange", KV, "DeleteRange"),
    ("kv/txn", KV, "Txn"),
    ("kv/compaction", KV, "Compact"),
    ("watch", "etcdserverpb.Watch", "Watch"),
    ("lease/grant", LEASE, "LeaseGrant"),
    ("lease/revoke", LEASE, "LeaseRevoke"),
    ("kv/lease/revoke", LEASE, "LeaseRevoke"),
    ("lease/keepalive", LEASE, "LeaseKeepAlive"),
    ("lease/timetolive", LEASE, "LeaseTimeToLive"),
    ("kv/lease/timetolive", LEASE, "LeaseTimeToLive"),
    ("lease/leases", LEASE, "LeaseLeases"),
    ("kv/lease/leases", LEASE, "LeaseLeases"),
    ("cluster/member/add", CLUSTER, "MemberAdd"),
    ("cluster/member/remove", CLUSTER, "MemberRemove"),
    ("cluster/member/update", CLUSTER, "MemberUpdate"),
    ("cluster/member/list", CLUSTER, "MemberList"),
    ("cluster/member/promote", CLUSTER, "MemberPromote"),
    ("maintenance/alarm", MAINTENANCE, "Alarm"),
    ("maintenance/status", MAINTENANCE, "Status"),
    ("maintenance/defragment", MAINTENANCE, "Defragment"),
    ("maintenance/hash", MAINTENANCE, "Hash"),
    ("maintenance/hashkv", MAINTENANCE, "HashKV"),
    ("maintenance/snapshot", MAINTENANCE, "Snapshot"),
    ("maintenance/transfer-leadership", MAINTENANCE, "MoveLeader"),
    ("maintenance/downgrade", MAINTENANCE, "Downgrade"),
    ("auth/enable", AUTH, "AuthEnable"),
    ("auth/disable", AUTH, "AuthDisable"),
    ("auth/status", AUTH, "AuthStatus"),
    ("auth/authenticate", AUTH, "Authenticate"),
    ("auth/user/add", AUTH, "UserAdd"),
    ("auth/user/get", AUTH, "UserGet"),
    ("auth/user/list", AUTH, "UserList"),
    ("auth/user/delete", AUTH, "UserDelete"),
    ("auth/user/changepw", AUTH, "UserChangePassword"),
    ("auth/user/grant", AUTH, "UserGrantRole"),
    ("auth/user/revoke", AUTH, "UserRevokeRole"),
    ("auth/role/add", AUTH, "RoleAdd"),
    ("auth/role/get", AUTH, "RoleGet"),
    ("auth/role/list", AUTH, "RoleList"),
    ("auth/role/delete", AUTH, "RoleDelete"),
    ("auth/role/grant", AUTH, "RoleGrantPermission"),
    ("auth/role/revoke", AUTH, "RoleRevokePermission"),
    ("lock/lock", LOCK, "Lock"),
    ("lock/unlock", LOCK, "Unlock"),
    ("election/campaign", ELECTION, "Campaign"),
    ("election/proclaim", ELECTION, "Proclaim"),
    ("election/leader", ELECTION, "Leader"),
    ("election/observe", ELECTION, "Observe"),
    ("election/resign", ELECTION, "Resign"),
];

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn every_call_has_a_path_and_every_path_a_call() {
        for (path, service, method) in PATHS {
            assert!(find(&format!("/v3/{path}")).is_some_and(|call| call.path == format!("/{service}/{method}")), "{path}");
        }
        let named: BTreeSet<String> = PATHS.iter().map(|(_, service, method)| format!("{service}/{method}")).collect();
        let services = [KV, LEASE, CLUSTER, MAINTENANCE, AUTH, LOCK, ELECTION, "etcdserverpb.Watch"];
        for service in services {
            let service = POOL.as_ref().unwrap().get_service_by_name(service).unwrap();
            for method in service.methods() {
                let name = format!("{}/{}", service.full_name(), method.name());
                assert!(named.contains(&name), "{name}");
            }
        }
        assert!(find("/v3/kv/nothing").is_none() && find("/v2/keys").is_none());
    }
}
