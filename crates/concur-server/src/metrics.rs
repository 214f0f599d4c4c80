//! What a node counts and measures, and the page that shows it.
//!
//! One [`Metrics`] a node and namespace, with a registry of its own, so that several nodes can live in one program. The names
//! that etcd's dashboards use stand beside our own `concur_*`, which carry namespace, strategy and region. What happens often
//! is counted where it happens, by counters found once; what is merely a state (leader, sizes, revisions) is read when the
//! page is asked for.
//!
//! The text is OpenMetrics, which older readers take as theirs. Bytes of clients are those on the wire, of all that they speak.
//! Not here: traces and logs.

mod ending;
mod process;

pub use ending::Ending;

use std::fmt::Write as _;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use concur_kv::Status as StoreStatus;
use prometheus_client::encoding::{EncodeLabelSet, text};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::{Family, MetricConstructor};
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry;
use tonic::{Code, Response, Status};

use crate::door::{Pulse, Status as NodeStatus};
use crate::etcd::{ETCD_VERSION, Identity};
use crate::serve::Traffic;

/// The content type of the page.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// The content type for whoever does not ask for that: its lines are the same.
pub const PLAIN_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

macro_rules! calls {
    ($($call:ident $kind:literal $service:literal $method:literal;)*) => {
        /// A call of the API that is counted.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        #[allow(missing_docs)]
        pub enum Call { $($call),* }

        const CALLS: &[(&str, &str, &str)] = &[$(($kind, $service, $method)),*];
    };
}

calls! {
    Range "unary" "etcdserverpb.KV" "Range";
    RangeStream "server_stream" "etcdserverpb.KV" "RangeStream";
    Put "unary" "etcdserverpb.KV" "Put";
    DeleteRange "unary" "etcdserverpb.KV" "DeleteRange";
    Txn "unary" "etcdserverpb.KV" "Txn";
    Compact "unary" "etcdserverpb.KV" "Compact";
    Watch "bidi_stream" "etcdserverpb.Watch" "Watch";
    LeaseGrant "unary" "etcdserverpb.Lease" "LeaseGrant";
    LeaseRevoke "unary" "etcdserverpb.Lease" "LeaseRevoke";
    LeaseKeepAlive "bidi_stream" "etcdserverpb.Lease" "LeaseKeepAlive";
    LeaseTimeToLive "unary" "etcdserverpb.Lease" "LeaseTimeToLive";
    LeaseLeases "unary" "etcdserverpb.Lease" "LeaseLeases";
    MemberAdd "unary" "etcdserverpb.Cluster" "MemberAdd";
    MemberRemove "unary" "etcdserverpb.Cluster" "MemberRemove";
    MemberUpdate "unary" "etcdserverpb.Cluster" "MemberUpdate";
    MemberPromote "unary" "etcdserverpb.Cluster" "MemberPromote";
    MoveLeader "unary" "etcdserverpb.Maintenance" "MoveLeader";
    MemberList "unary" "etcdserverpb.Cluster" "MemberList";
    Alarm "unary" "etcdserverpb.Maintenance" "Alarm";
    Status "unary" "etcdserverpb.Maintenance" "Status";
    Defragment "unary" "etcdserverpb.Maintenance" "Defragment";
    Snapshot "server_stream" "etcdserverpb.Maintenance" "Snapshot";
    Downgrade "unary" "etcdserverpb.Maintenance" "Downgrade";
    Hash "unary" "etcdserverpb.Maintenance" "Hash";
    HashKv "unary" "etcdserverpb.Maintenance" "HashKV";
    AuthStatus "unary" "etcdserverpb.Auth" "AuthStatus";
    Authenticate "unary" "etcdserverpb.Auth" "Authenticate";
    AuthEnable "unary" "etcdserverpb.Auth" "AuthEnable";
    AuthDisable "unary" "etcdserverpb.Auth" "AuthDisable";
    UserAdd "unary" "etcdserverpb.Auth" "UserAdd";
    UserGet "unary" "etcdserverpb.Auth" "UserGet";
    UserList "unary" "etcdserverpb.Auth" "UserList";
    UserDelete "unary" "etcdserverpb.Auth" "UserDelete";
    UserChangePassword "unary" "etcdserverpb.Auth" "UserChangePassword";
    UserGrantRole "unary" "etcdserverpb.Auth" "UserGrantRole";
    UserRevokeRole "unary" "etcdserverpb.Auth" "UserRevokeRole";
    RoleAdd "unary" "etcdserverpb.Auth" "RoleAdd";
    RoleGet "unary" "etcdserverpb.Auth" "RoleGet";
    RoleList "unary" "etcdserverpb.Auth" "RoleList";
    RoleDelete "unary" "etcdserverpb.Auth" "RoleDelete";
    RoleGrantPermission "unary" "etcdserverpb.Auth" "RoleGrantPermission";
    RoleRevokePermission "unary" "etcdserverpb.Auth" "RoleRevokePermission";
    Lock "unary" "v3lockpb.Lock" "Lock";
    Unlock "unary" "v3lockpb.Lock" "Unlock";
    Campaign "unary" "v3electionpb.Election" "Campaign";
    Proclaim "unary" "v3electionpb.Election" "Proclaim";
    Leader "unary" "v3electionpb.Election" "Leader";
    Observe "server_stream" "v3electionpb.Election" "Observe";
    Resign "unary" "v3electionpb.Election" "Resign";
    HealthCheck "unary" "grpc.health.v1.Health" "Check";
    HealthWatch "server_stream" "grpc.health.v1.Health" "Watch";
}

/// Labels of a started call.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Started {
    grpc_type: &'static str,
    grpc_service: &'static str,
    grpc_method: &'static str,
}

/// Labels of a handled call.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Handled {
    grpc_type: &'static str,
    grpc_service: &'static str,
    grpc_method: &'static str,
    grpc_code: &'static str,
}

/// The peer that a measurement is of.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
#[allow(non_snake_case)]
pub struct Peer {
    /// Its member id, in hexadecimal as etcd prints it.
    pub To: String,
}

/// Makes histograms of durations with etcd's buckets.
#[derive(Debug, Clone, Copy)]
pub struct Seconds {
    first: f64,
    count: u16,
}

impl MetricConstructor<Histogram> for Seconds {
    fn new_metric(&self) -> Histogram {
        Histogram::new(exponential_buckets(self.first, 2.0, self.count))
    }
}

/// Everything counted and measured.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    started: Vec<Counter>,
    succeeded: Vec<Counter>,
    handled: Family<Handled, Counter>,
    states: States,
    /// Bytes to and from clients.
    pub traffic: Arc<Traffic>,
    /// How long the log took to make its tail durable.
    pub wal_fsync_seconds: Histogram,
    /// How long the storage engine took to commit.
    pub backend_commit_seconds: Histogram,
    /// Round trips to peers.
    pub peer_round_trip_seconds: Family<Peer, Histogram, Seconds>,
    /// Bytes sent to peers.
    pub peer_sent_bytes: Family<Peer, Counter>,
    /// Bytes received from peers.
    pub peer_received_bytes: Family<Peer, Counter>,
    /// Watch streams open.
    pub watch_streams: Gauge,
    /// Watchers on them.
    pub watchers: Gauge,
    /// Watchers that are behind and catch up from the history.
    pub slow_watchers: Gauge,
    /// Events handed to watch streams.
    pub watch_events: Counter,
    /// How often `/health` said that all is well, and that it is not; etcd's names have no suffix.
    pub health_successes: Gauge,
    /// The other.
    pub health_failures: Gauge,
}

/// What is set when the page is asked for.
#[derive(Debug, Default)]
struct States {
    has_leader: Gauge,
    is_leader: Gauge,
    is_learner: Gauge,
    leader_changes: Counter,
    committed: Counter,
    applied: Counter,
    pending: Gauge,
    failed: Counter,
    quota: Gauge<u64, AtomicU64>,
    storage: Gauge<u64, AtomicU64>,
    storage_used: Gauge<u64, AtomicU64>,
    keys: Gauge<u64, AtomicU64>,
    revision: Gauge,
    compacted: Gauge,
    leases: Gauge<u64, AtomicU64>,
    client_received: Counter,
    client_sent: Counter,
    ranges: Counter,
    puts: Counter,
    deletes: Counter,
    txns: Counter,
    process: process::Process,
}

/// How a node names itself in its own metrics.
#[derive(Debug, Clone, Default)]
pub struct Labels {
    /// The namespace.
    pub namespace: String,
    /// The strategy it runs.
    pub strategy: String,
    /// The node's region.
    pub region: String,
}

impl Metrics {
    /// Metrics of one node's part of one namespace, all zero.
    pub fn new(identity: Identity, labels: Labels) -> Self {
        let mut registry = Registry::default();
        let started = Family::<Started, Counter>::default();
        let handled = Family::<Handled, Counter>::default();
        registry.register("grpc_server_started", "Calls started on the server", started.clone());
        registry.register("grpc_server_handled", "Calls completed on the server, by code", handled.clone());
        let metrics = Self {
            started: CALLS.iter().map(|&call| started.get_or_create_owned(&started_labels(call))).collect(),
            succeeded: CALLS.iter().map(|&call| handled.get_or_create_owned(&handled_labels(call, "OK"))).collect(),
            handled,
            states: States::default(),
            traffic: Arc::default(),
            wal_fsync_seconds: Seconds { first: 0.001 / 16.0, count: 18 }.new_metric(),
            backend_commit_seconds: Seconds { first: 0.001 / 16.0, count: 18 }.new_metric(),
            peer_round_trip_seconds: Family::new_with_constructor(Seconds { first: 0.0001, count: 16 }),
            peer_sent_bytes: Family::default(),
            peer_received_bytes: Family::default(),
            watch_streams: Gauge::default(),
            watchers: Gauge::default(),
            slow_watchers: Gauge::default(),
            watch_events: Counter::default(),
            health_successes: Gauge::default(),
            health_failures: Gauge::default(),
            registry,
        };
        metrics.register(identity, labels)
    }

    fn register(mut self, identity: Identity, labels: Labels) -> Self {
        let mut registry = std::mem::take(&mut self.registry);
        self.register_states(&mut registry, identity);
        self.register_counts(&mut registry);
        let Labels { namespace, strategy, region } = labels;
        let own = [("namespace", namespace), ("strategy", strategy), ("region", region)].map(|(k, v)| (k.into(), v.into()));
        let concur = registry.sub_registry_with_prefix("concur").sub_registry_with_labels(own.into_iter());
        let states = &self.states;
        concur.register("build", "The program", Info::new(vec![("version", env!("CARGO_PKG_VERSION"))]));
        concur.register("has_leader", "Whether a leader is known", states.has_leader.clone());
        concur.register("decided", "Proposals decided", states.committed.clone());
        concur.register("executed", "Proposals executed", states.applied.clone());
        concur.register("leases", "Leases", states.leases.clone());
        concur.register("revision", "The current revision", states.revision.clone());
        concur.register("keys", "Keys in the store", states.keys.clone());
        self.registry = registry;
        self
    }

    fn register_states(&self, registry: &mut Registry, identity: Identity) {
        let states = &self.states;
        registry.register("etcd_server_has_leader", "Whether a leader is known", states.has_leader.clone());
        registry.register("etcd_server_is_leader", "Whether this member leads", states.is_leader.clone());
        registry.register("etcd_server_is_learner", "Whether this member does not vote", states.is_learner.clone());
        registry.register("etcd_server_leader_changes_seen", "Leader changes seen", states.leader_changes.clone());
        registry.register("etcd_server_proposals_committed", "Proposals decided", states.committed.clone());
        registry.register("etcd_server_proposals_applied", "Proposals executed", states.applied.clone());
        registry.register("etcd_server_proposals_pending", "Proposals that wait", states.pending.clone());
        registry.register("etcd_server_proposals_failed", "Proposals that failed", states.failed.clone());
        registry.register("etcd_server_quota_backend_bytes", "The store's quota", states.quota.clone());
        registry.register("etcd_mvcc_db_total_size_in_bytes", "Storage on disk", states.storage.clone());
        registry.register("etcd_mvcc_db_total_size_in_use_in_bytes", "Storage in use", states.storage_used.clone());
        registry.register("etcd_debugging_mvcc_keys_total", "Keys in the store", states.keys.clone());
        registry.register("etcd_debugging_mvcc_current_revision", "The current revision", states.revision.clone());
        registry.register("etcd_debugging_mvcc_compact_revision", "The compacted revision", states.compacted.clone());
        registry.register("etcd_network_client_grpc_received_bytes", "Bytes received from clients", states.client_received.clone());
        registry.register("etcd_network_client_grpc_sent_bytes", "Bytes sent to clients", states.client_sent.clone());
        for prefix in ["etcd_mvcc", "etcd_debugging_mvcc"] {
            registry.register(format!("{prefix}_range"), "Ranges read here", states.ranges.clone());
            registry.register(format!("{prefix}_put"), "Puts asked for here", states.puts.clone());
            registry.register(format!("{prefix}_delete"), "Deletes asked for here", states.deletes.clone());
            registry.register(format!("{prefix}_txn"), "Transactions asked for here", states.txns.clone());
        }
        states.process.register(registry);
        let id = format!("{:x}", identity.member);
        registry.register("etcd_server_id", "The member's id", one(vec![("server_id", id)]));
        let cluster = ETCD_VERSION.rsplit_once('.').map_or(ETCD_VERSION, |(minor, _)| minor).to_owned();
        registry.register("etcd_cluster_version", "The API's version, without its last number", one(vec![("cluster_version", cluster)]));
        registry.register("etcd_server_version", "The API's version", one(vec![("server_version", ETCD_VERSION.to_owned())]));
    }

    fn register_counts(&self, registry: &mut Registry) {
        registry.register("etcd_disk_wal_fsync_duration_seconds", "Syncs of the log", self.wal_fsync_seconds.clone());
        registry.register("etcd_disk_backend_commit_duration_seconds", "Commits of the engine", self.backend_commit_seconds.clone());
        registry.register("etcd_network_peer_round_trip_time_seconds", "Round trips to peers", self.peer_round_trip_seconds.clone());
        registry.register("etcd_network_peer_sent_bytes", "Bytes sent to peers", self.peer_sent_bytes.clone());
        registry.register("etcd_network_peer_received_bytes", "Bytes received from peers", self.peer_received_bytes.clone());
        registry.register("etcd_debugging_mvcc_watch_stream_total", "Watch streams open", self.watch_streams.clone());
        registry.register("etcd_debugging_mvcc_watcher_total", "Watchers", self.watchers.clone());
        registry.register("etcd_debugging_mvcc_slow_watcher_total", "Watchers behind", self.slow_watchers.clone());
        registry.register("etcd_server_health_success", "Checks of health that passed", self.health_successes.clone());
        registry.register("etcd_server_health_failures", "Checks of health that did not", self.health_failures.clone());
        registry.register("etcd_debugging_mvcc_events", "Events handed to watch streams", self.watch_events.clone());
    }

    /// Counts a call and how it ended.
    pub async fn count<T, F>(&self, call: Call, answer: F) -> Result<T, Status>
    where
        F: Future<Output = Result<T, Status>>,
    {
        self.started[call as usize].inc();
        let answer = answer.await;
        self.ended(call, answer.as_ref().err().map_or(Code::Ok, Status::code));
        answer
    }

    /// Counts a call that is answered by a stream, and how it ended, when it does.
    pub async fn count_stream<S, F>(self: &Arc<Self>, call: Call, answer: F) -> Result<Response<Ending<S>>, Status>
    where
        F: Future<Output = Result<Response<S>, Status>>,
    {
        self.started[call as usize].inc();
        match answer.await {
            Ok(response) => Ok(response.map(|stream| Ending::new(stream, self.clone(), call))),
            Err(status) => {
                self.ended(call, status.code());
                Err(status)
            }
        }
    }

    /// Counts the end of a call.
    pub fn ended(&self, call: Call, code: Code) {
        if code == Code::Ok {
            self.succeeded[call as usize].inc();
        } else {
            self.handled.get_or_create(&handled_labels(CALLS[call as usize], code_name(code))).inc();
        }
    }

    /// The page: what was counted, and the states as they are.
    pub fn page(&self, pulse: &Pulse, identity: Identity, node: &NodeStatus, store: &StoreStatus) -> String {
        let states = &self.states;
        states.has_leader.set(i64::from(node.leader != 0));
        states.is_leader.set(i64::from(node.leader == identity.member && node.leader != 0));
        states.is_learner.set(i64::from(node.observer));
        raise(&states.leader_changes, pulse.leader_changes());
        raise(&states.committed, node.decided);
        raise(&states.applied, node.executed);
        states.pending.set(node.pending as i64);
        raise(&states.failed, node.failed);
        states.quota.set(store.quota_bytes);
        states.storage.set(node.storage_bytes);
        states.storage_used.set(node.storage_used_bytes);
        states.keys.set(store.keys);
        states.revision.set(store.revision.0);
        states.compacted.set(store.compacted.0);
        states.leases.set(store.leases);
        raise(&states.client_received, self.traffic.received());
        raise(&states.client_sent, self.traffic.sent());
        let done =
            [(&states.ranges, Call::Range), (&states.puts, Call::Put), (&states.deletes, Call::DeleteRange), (&states.txns, Call::Txn)];
        for (counter, call) in done {
            raise(counter, self.succeeded[call as usize].get());
        }
        states.process.look();
        let mut page = String::with_capacity(16 << 10);
        if text::encode(&mut page, &self.registry).is_err() {
            page.clear();
            let _ = writeln!(page, "# EOF");
        }
        page
    }

    /// Measures the time one sync of the log took.
    pub fn wal_synced(&self, took: Duration) {
        self.wal_fsync_seconds.observe(took.as_secs_f64());
    }
}

/// Sets a counter to a count kept elsewhere, which never falls while the process lives.
fn raise(counter: &Counter, to: u64) {
    counter.inner().fetch_max(to, Ordering::Relaxed);
}

/// A gauge that is 1 and says something by its labels.
fn one(labels: Vec<(&'static str, String)>) -> Family<Vec<(&'static str, String)>, Gauge> {
    let family = Family::<Vec<(&'static str, String)>, Gauge>::default();
    family.get_or_create(&labels).set(1);
    family
}

fn started_labels((grpc_type, grpc_service, grpc_method): (&'static str, &'static str, &'static str)) -> Started {
    Started { grpc_type, grpc_service, grpc_method }
}

fn handled_labels((grpc_type, grpc_service, grpc_method): (&'static str, &'static str, &'static str), grpc_code: &'static str) -> Handled {
    Handled { grpc_type, grpc_service, grpc_method, grpc_code }
}

/// How gRPC's own libraries name a code in metrics.
fn code_name(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "Canceled",
        Code::Unknown => "Unknown",
        Code::InvalidArgument => "InvalidArgument",
        Code::DeadlineExceeded => "DeadlineExceeded",
        Code::NotFound => "NotFound",
        Code::AlreadyExists => "AlreadyExists",
        Code::PermissionDenied => "PermissionDenied",
        Code::ResourceExhausted => "ResourceExhausted",
        Code::FailedPrecondition => "FailedPrecondition",
        Code::Aborted => "Aborted",
        Code::OutOfRange => "OutOfRange",
        Code::Unimplemented => "Unimplemented",
        Code::Internal => "Internal",
        Code::Unavailable => "Unavailable",
        Code::DataLoss => "DataLoss",
        Code::Unauthenticated => "Unauthenticated",
    }
}
