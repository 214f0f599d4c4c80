//! Running a system: all members in this program, or one of them.
//!
//! Each member is a thread with a runtime of its own, so a cluster runs beside whatever runtime the caller has, and a handle can be
//! used from any.

use crate::security::Tls;
use crate::{Member, Namespace, Network, Order, PeerManagement, System};
use concur_core::{GroupId, Ordering, ReplicaId, StateMachine};
use concur_kv::{Kv, Retention};
use concur_network::Volume;
use concur_server::HttpRules;
use concur_server::auth::AuthOptions;
use concur_server::driver::Handle;
use concur_server::node::{GroupOptions, Listeners, Node, NodeError, NodeMember, NodeOptions, Wires, group_id};
use concur_server::offline::{self, FileOptions, OfflineError, Restored};
use concur_server::peers::Local;
use concur_server::serve::ServeLimits;
use concur_server::watch::HubLimits;
use concur_tls::Dialer;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering as Memory};
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::sync::{oneshot, watch};

/// Why a system cannot run, or a member of it stopped.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The description has errors.
    #[error(transparent)]
    Invalid(#[from] crate::Invalid),
    /// There is no such member.
    #[error("error[C062]: no member is called `{name}`; there are {members}")]
    NoSuchMember {
        /// The name asked for.
        name: String,
        /// The names there are.
        members: String,
    },
    /// A member that runs alone needs an address, in its own entry and in its peers'.
    #[error("error[C006]: the member `{name}` has no address for its peers, so nobody could reach it: give it one under `peer`")]
    NoAddress {
        /// The member.
        name: String,
    },
    /// A node cannot start, or stopped.
    #[error("{name}: {error}")]
    Node {
        /// The member.
        name: String,
        /// Why.
        error: NodeError,
    },
    /// A data directory cannot be made.
    #[error(transparent)]
    Offline(#[from] OfflineError),
    /// The operating system refused.
    #[error("{what}: {source}")]
    Io {
        /// What was tried.
        what: String,
        /// The operating system's answer.
        source: std::io::Error,
    },
}

/// A whole system that runs in this program. Dropping it stops every member.
#[derive(Debug)]
pub struct Cluster<M> {
    members: Vec<Running<M>>,
    /// Removed after the members have stopped.
    _temporary: Option<Temporary>,
}

/// One member that runs in this program. Dropping it stops it.
#[derive(Debug)]
pub struct Running<M> {
    name: String,
    handles: Vec<(String, Handle<M>)>,
    clients: Vec<SocketAddr>,
    stop: watch::Sender<bool>,
    thread: Option<JoinHandle<Result<(), RunError>>>,
}

/// Space between log segments of members of one program: they are many, and short-lived.
const SEGMENT_BYTES: u64 = 4 << 20;
const SEGMENT_BYTES_OF_A_NODE: u64 = 32 << 20;
/// Put aside for when the disk is full.
const RESERVE_BYTES: u64 = 32 << 20;

/// A voter of a group without a leader is gone on without for so long, and given its vote again when it is back.
const ABSENCE_MAX: Duration = Duration::from_secs(60);

/// How a member is served as a process of its own.
#[derive(Debug, Clone, Default)]
pub struct Serving {
    /// Where it keeps its data; nothing: where the system says.
    pub data_dir: Option<PathBuf>,
    /// Where it listens for peers; none: at its own address in the member list.
    pub listen_peer: Vec<String>,
    /// Where it listens for clients; none: at its own address in the member list, if it has one there.
    pub listen_client: Vec<String>,
    /// Whether it joins a cluster that there is, whose members the system lists; with data it goes on with those either way.
    pub joins: bool,
    /// What history its stores keep.
    pub retention: Retention,
    /// How passwords are kept and tokens made.
    pub auth: AuthOptions,
    /// Bytes of a log segment; nothing: 32 MiB.
    pub segment_bytes: Option<u64>,
    /// Where it listens for those who ask for metrics and health, and for nothing else.
    pub listen_metrics: Vec<String>,
    /// Operations in each list of a transaction, at most 128; nothing: 128.
    pub txn_ops_max: Option<usize>,
    /// How often a watcher that asked for it is told the revision when nothing happens; nothing: 10 minutes.
    pub notify_interval: Option<Duration>,
    /// Whom plain HTTP is answered.
    pub http: HttpRules,
    /// What client listeners let the outside make them hold.
    pub serve: ServeLimits,
}

impl System {
    /// Runs one member on this thread until `stop` ends. `ready` is called once it knows who proposes in each of its groups.
    pub fn serve(
        &self,
        name: &str,
        serving: &Serving,
        stop: impl Future<Output = ()> + Send + 'static,
        ready: impl FnOnce() + Send + 'static,
    ) -> Result<(), RunError> {
        self.validate()?;
        let mut options = self.node_options(name)?;
        options.data_dir = serving.data_dir.clone().unwrap_or(options.data_dir);
        options.retention = serving.retention;
        options.auth = serving.auth.clone();
        options.joins = serving.joins;
        options.http = serving.http.clone();
        options.serve = serving.serve.clone();
        options.txn_ops_max = serving.txn_ops_max.unwrap_or(options.txn_ops_max).min(concur_kv::TXN_OPS_MAX);
        options.notify_interval = serving.notify_interval.unwrap_or(options.notify_interval);
        options.segment_bytes = serving.segment_bytes.unwrap_or(options.segment_bytes);
        let own = &options.members[usize::from(options.me.0)];
        let listen = |asked: &[String], own: &String| {
            let own = Some(own.clone()).filter(|own| !own.is_empty() && asked.is_empty());
            asked.iter().cloned().chain(own).collect::<Vec<_>>()
        };
        if own.peer.is_empty() && serving.listen_peer.is_empty() && options.members.len() > 1 {
            return Err(RunError::NoAddress { name: name.into() });
        }
        let refused = |error| RunError::Node { name: name.into(), error };
        let (peer, client) = (listen(&serving.listen_peer, &own.peer), listen(&serving.listen_client, &own.client));
        let all = [&client[..], &serving.listen_metrics].concat();
        let tls = self.tls(name, &options, &all, &peer)?;
        options.dialer = tls.dialer.clone();
        let wires = Wires::Streams(tls.bind_peers(&peer).map_err(refused)?);
        let clients = tls.bind_clients(&client).map_err(refused)?;
        let pages = tls.bind_clients(&serving.listen_metrics).map_err(refused)?;
        let node = Node::open_store(options, self.limits.quota_bytes, wires, Some(clients)).map_err(refused)?.with_pages(pages);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|source| RunError::Io { what: "cannot start a runtime".into(), source })?;
        let (tell, told) = watch::channel(false);
        let mut is_ready = node.ready();
        runtime.spawn(async move {
            if is_ready.wait_for(|ready| *ready).await.is_ok() {
                ready();
            }
        });
        runtime.spawn(async move {
            stop.await;
            let _ = tell.send(true);
            // Keeps the signal given until the node has seen it.
            tell.closed().await;
        });
        runtime.block_on(node.run(told)).map_err(refused)
    }

    /// Runs all members in this program, each namespace a key-value store.
    pub async fn concur(&self) -> Result<Cluster<Kv>, RunError> {
        let quota_bytes = self.limits.quota_bytes;
        self.start_all(Arc::new(move |options, wires, clients| Node::open_store(options, quota_bytes, wires, clients))).await
    }

    /// Runs all members in this program, each namespace a state machine that `make` makes.
    pub async fn concur_with<M, F>(&self, make: F) -> Result<Cluster<M>, RunError>
    where
        M: StateMachine,
        F: Fn(&str) -> M + Send + Sync + 'static,
    {
        self.start_all(Arc::new(move |options, wires, clients| Node::open(options, wires, clients, |group| make(&group.name)))).await
    }

    /// Runs one member in this program, with key-value stores. The others run elsewhere.
    pub async fn node(&self, name: &str) -> Result<Running<Kv>, RunError> {
        let quota_bytes = self.limits.quota_bytes;
        let open = Arc::new(move |options, wires, clients| Node::open_store(options, quota_bytes, wires, clients));
        self.start_one(name, open).await
    }

    /// Runs one member in this program, with state machines that `make` makes. The others run elsewhere.
    pub async fn node_with<M, F>(&self, name: &str, make: F) -> Result<Running<M>, RunError>
    where
        M: StateMachine,
        F: Fn(&str) -> M + Send + Sync + 'static,
    {
        let open = Arc::new(move |options, wires, clients| Node::open(options, wires, clients, |group| make(&group.name)));
        self.start_one(name, open).await
    }

    /// Makes the data directory of a member from snapshots, at most one for each namespace, so that it founds a cluster which goes on from
    /// them; all members are made from the same ones. `data_dir`: where, if not where the system says. `taken`: how files that etcd made are.
    pub fn restore(
        &self,
        name: &str,
        data_dir: Option<PathBuf>,
        snapshots: &[PathBuf],
        taken: FileOptions,
    ) -> Result<Vec<Restored>, RunError> {
        self.validate()?;
        let mut options = self.node_options(name)?;
        options.data_dir = data_dir.unwrap_or(options.data_dir);
        Ok(offline::restore(&options, snapshots, taken)?)
    }

    /// What a node of this system must know.
    pub fn node_options(&self, name: &str) -> Result<NodeOptions, RunError> {
        let members = self.numbered_members();
        let me = members.iter().position(|member| member.name == name).ok_or_else(|| {
            let members = members.iter().map(|member| member.name.as_str()).collect::<Vec<_>>().join(", ");
            RunError::NoSuchMember { name: name.into(), members }
        })?;
        let data_dir = self.data_dir_of(name);
        Ok(NodeOptions {
            cluster_token: self.cluster_token.clone(),
            members: members.into_iter().map(node_member).collect(),
            me: ReplicaId(me as u8),
            joins: false,
            dynamic: self.peer_management == PeerManagement::Dynamic,
            strategies: concur_decision::find,
            absence_max: (self.peer_management == PeerManagement::Dynamic).then_some(ABSENCE_MAX),
            data_dir,
            groups: self.groups(),
            etcd_group: self.etcd_group(),
            heartbeat: self.timeouts.heartbeat,
            election: self.timeouts.election,
            request_time_max: self.timeouts.request,
            stop_time_max: self.timeouts.stop,
            request_bytes_max: self.limits.request_bytes_max,
            batch_bytes_max: self.limits.batch_bytes_max,
            batches_in_flight_max: self.limits.batches_in_flight_max,
            pending_commands_max: self.limits.pending_commands_max,
            retained_bytes_max: self.limits.retained_bytes_max,
            checkpoint_bytes: self.limits.checkpoint_bytes,
            segment_bytes: SEGMENT_BYTES_OF_A_NODE,
            reserve_bytes: RESERVE_BYTES,
            retention: Retention::Everything,
            dialer: Dialer::default(),
            http: HttpRules::default(),
            serve: ServeLimits::default(),
            txn_ops_max: concur_kv::TXN_OPS_MAX,
            notify_interval: HubLimits::default().notify_interval,
            auth: AuthOptions::default(),
        })
    }

    /// The certificates that a node with these addresses needs.
    fn tls(&self, name: &str, options: &NodeOptions, client: &[String], peer: &[String]) -> Result<Tls, RunError> {
        let members: Vec<String> = options.members.iter().map(|member| member.peer.clone()).collect();
        let opened = self.security.open(&options.data_dir, client, peer, &members);
        opened.map_err(|error| RunError::Node { name: name.into(), error: error.into() })
    }

    /// Where a member keeps its data, unless it is told otherwise.
    pub fn data_dir_of(&self, name: &str) -> PathBuf {
        if self.data_dir.as_os_str().is_empty() { PathBuf::from(format!("{name}.concur")) } else { self.data_dir.join(name) }
    }

    fn etcd_group(&self) -> GroupId {
        group_id(if self.etcd_namespace.is_empty() { "default" } else { &self.etcd_namespace })
    }

    fn groups(&self) -> Vec<GroupOptions> {
        let volume = match self.network {
            Network::Stream { volume, .. } => volume,
            Network::InProcess => Volume::Broadcast,
        };
        let group = |name: &str, decision_making: crate::DecisionMaking, order, quorums| GroupOptions {
            id: group_id(name),
            name: name.to_owned(),
            strategy: decision_making.0,
            order: match order {
                Order::Total => Ordering::Total,
                // What has one lane is ordered totally, whatever is asked.
                Order::PerKey => decision_making.0.traits.order,
            },
            quorums,
            volume,
            checkpoint_bytes: self.limits.checkpoint_bytes,
        };
        let own = group("default", self.decision_making, self.order, self.quorum_system());
        let others = self.namespaces.iter().map(|namespace: &Namespace| {
            let decision_making = namespace.decision_making.unwrap_or(self.decision_making);
            group(&namespace.name, decision_making, namespace.order, self.namespace_quorums(namespace))
        });
        std::iter::once(own).chain(others).collect()
    }

    /// Starts every member.
    async fn start_all<M: StateMachine>(&self, open: Arc<Open<M>>) -> Result<Cluster<M>, RunError> {
        self.validate()?;
        let mut system = self.clone();
        let temporary = if self.data_dir.as_os_str().is_empty() { Some(Temporary::create()?) } else { None };
        if let Some(temporary) = &temporary {
            system.data_dir = temporary.0.clone();
        }
        system.members = self.numbered_members();
        let (wires, dialer) = system.wire_all()?;
        let mut members = Vec::new();
        for (name, wires, clients) in wires {
            let options =
                NodeOptions { segment_bytes: SEGMENT_BYTES, reserve_bytes: 0, dialer: dialer.clone(), ..system.node_options(&name)? };
            members.push(start(name, options, wires, clients, open.clone()).await?);
        }
        Ok(Cluster { members, _temporary: temporary })
    }

    async fn start_one<M: StateMachine>(&self, name: &str, open: Arc<Open<M>>) -> Result<Running<M>, RunError> {
        self.validate()?;
        let mut options = self.node_options(name)?;
        let own = &options.members[usize::from(options.me.0)];
        if own.peer.is_empty() {
            return Err(RunError::NoAddress { name: name.into() });
        }
        let refused = |error| RunError::Node { name: name.into(), error };
        let peer = [own.peer.clone()];
        let client: Vec<String> = Some(own.client.clone()).filter(|address| !address.is_empty()).into_iter().collect();
        let tls = self.tls(name, &options, &client, &peer)?;
        options.dialer = tls.dialer.clone();
        let wires = Wires::Streams(tls.bind_peers(&peer).map_err(refused)?);
        let clients = tls.bind_clients(&client).map_err(refused)?;
        start(name.to_owned(), options, wires, Some(clients), open).await
    }

    /// Binds every member's listeners, and gives those without addresses free ports.
    fn wire_all(&mut self) -> Result<(Vec<Wired>, Dialer), RunError> {
        let local = Local::default();
        let (client, peer) = self.members.iter().map(|member| (member.client.clone(), member.peer.clone())).collect::<(Vec<_>, Vec<_>)>();
        let tls = self.security.open(&self.data_dir, &client, &peer, &[]);
        let tls = tls.map_err(|error| RunError::Node { name: self.members[0].name.clone(), error: error.into() })?;
        let in_process = self.network == Network::InProcess;
        let mut wired = Vec::new();
        for member in &mut self.members {
            let refused = |error| RunError::Node { name: member.name.clone(), error };
            let wires = if in_process {
                Wires::Local(local.clone())
            } else {
                Wires::Streams(bind(&mut member.peer, |peer| tls.bind_peers(peer)).map_err(refused)?)
            };
            let refused = |error| RunError::Node { name: member.name.clone(), error };
            let listens = !in_process || !member.client.is_empty();
            let clients = if listens { Some(bind(&mut member.client, |client| tls.bind_clients(client)).map_err(refused)?) } else { None };
            wired.push((member.name.clone(), wires, clients));
        }
        Ok((wired, tls.dialer))
    }
}

/// A member's name, and what it listens on.
type Wired = (String, Wires, Option<Listeners>);

/// Binds an address, or a free port, which is written into it.
fn bind(address: &mut String, bind: impl Fn(&[String]) -> Result<Listeners, NodeError>) -> Result<Listeners, NodeError> {
    let asked = if address.is_empty() { "127.0.0.1:0" } else { address.as_str() };
    let listeners = bind(&[asked.to_owned()])?;
    if let Some(bound) = listeners.addresses().first() {
        // A port that was asked for is there; another host than the bound one may be what certificates name.
        let host = concur_tls::host_port(asked).rsplit_once(':').map_or(asked, |(host, _)| host);
        let scheme = if concur_tls::is_tls(asked) { concur_tls::HTTPS } else { "" };
        *address = format!("{scheme}{host}:{}", bound.port());
    }
    Ok(listeners)
}

fn node_member(member: Member) -> NodeMember {
    NodeMember { name: member.name, region: member.region, peer: member.peer, client: member.client }
}

/// How a node is opened, on its own thread.
type Open<M> = dyn Fn(NodeOptions, Wires, Option<Listeners>) -> Result<Node<M>, NodeError> + Send + Sync;

/// What a node's thread says once it is open.
struct Opened<M> {
    handles: Vec<(String, Handle<M>)>,
    clients: Vec<SocketAddr>,
}

async fn start<M: StateMachine>(
    name: String,
    options: NodeOptions,
    wires: Wires,
    clients: Option<Listeners>,
    open: Arc<Open<M>>,
) -> Result<Running<M>, RunError> {
    let (stop, stopped) = watch::channel(false);
    let (told, opened) = oneshot::channel();
    let of = name.clone();
    let run = move || {
        let node_error = |error| RunError::Node { name: of.clone(), error };
        let groups: Vec<String> = options.groups.iter().map(|group| group.name.clone()).collect();
        let node = open(options, wires, clients).map_err(node_error)?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|source| RunError::Io { what: "cannot start a runtime".into(), source })?;
        let handles = groups.into_iter().filter_map(|group| node.handle(&group).map(|handle| (group, handle))).collect();
        let _ = told.send(Opened { handles, clients: node.client_addresses() });
        runtime.block_on(node.run(stopped)).map_err(node_error)
    };
    let thread = std::thread::Builder::new().name(format!("concur-{name}")).spawn(run);
    let thread = thread.map_err(|source| RunError::Io { what: "cannot start a thread".into(), source })?;
    match opened.await {
        Ok(Opened { handles, clients }) => Ok(Running { name, handles, clients, stop, thread: Some(thread) }),
        Err(_) => Err(match thread.join() {
            Ok(Err(error)) => error,
            _ => RunError::Io { what: format!("{name} ended before it was open"), source: std::io::ErrorKind::Other.into() },
        }),
    }
}

impl<M: StateMachine> Cluster<M> {
    /// The members, by number.
    pub fn members(&self) -> &[Running<M>] {
        &self.members
    }

    /// A member.
    pub fn node(&self, name: &str) -> Option<&Running<M>> {
        self.members.iter().find(|member| member.name == name)
    }

    /// Stops every member; the first error is returned.
    pub async fn stop(mut self) -> Result<(), RunError> {
        self.members.iter().for_each(Running::leave);
        let mut ended = Ok(());
        for member in std::mem::take(&mut self.members) {
            ended = ended.and(member.stop().await);
        }
        ended
    }
}

impl<M> Running<M> {
    /// Tells it to stop, as [`Running::stop`] does, without waiting for it.
    pub fn leave(&self) {
        let _ = self.stop.send(true);
    }
}

impl<M: StateMachine> Running<M> {
    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// A handle to a namespace, if this member votes in it. `default` is always there.
    pub fn handle(&self, namespace: &str) -> Option<Handle<M>> {
        self.handles.iter().find(|(name, _)| name == namespace).map(|(_, handle)| handle.clone())
    }

    /// Where it listens for clients.
    pub fn client_addresses(&self) -> &[SocketAddr] {
        &self.clients
    }

    /// Stops it: leadership is handed over, what clients wait for is finished, everything is made durable.
    pub async fn stop(mut self) -> Result<(), RunError> {
        self.leave();
        match self.thread.take() {
            Some(thread) => join(thread).await,
            None => Ok(()),
        }
    }
}

impl<M> Drop for Running<M> {
    fn drop(&mut self) {
        self.leave();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl<M> Drop for Cluster<M> {
    fn drop(&mut self) {
        // Told together, so that none waits for the time that another takes to stop.
        self.members.iter().for_each(Running::leave);
    }
}

/// Waits for a thread without blocking the caller's runtime.
async fn join(thread: JoinHandle<Result<(), RunError>>) -> Result<(), RunError> {
    let (told, ended) = oneshot::channel();
    std::thread::spawn(move || told.send(thread.join()));
    match ended.await {
        Ok(Ok(result)) => result,
        _ => Err(RunError::Io { what: "a node's thread panicked".into(), source: std::io::ErrorKind::Other.into() }),
    }
}

/// A directory that is removed with its contents.
#[derive(Debug)]
struct Temporary(PathBuf);

impl Temporary {
    fn create() -> Result<Self, RunError> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let number = NEXT.fetch_add(1, Memory::Relaxed);
        let path = std::env::temp_dir().join(format!("concur-{}-{number}", std::process::id()));
        create_private(&path).map_err(|source| RunError::Io { what: format!("cannot create {}", path.display()), source })?;
        Ok(Self(path))
    }
}

fn create_private(path: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    std::fs::DirBuilder::new().mode(0o700).create(path)
}

impl Drop for Temporary {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A key-value store, as a handle to a namespace has it.
#[derive(Debug, Clone)]
pub struct Store {
    handle: Handle<Kv>,
    timeout: Duration,
}

/// Why the store did not do what it was asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// The replica refused, or did not answer in time.
    #[error("the request was not executed, or not surely: {0:?}")]
    Refused(concur_server::driver::Refused),
    /// The store refused.
    #[error(transparent)]
    Kv(#[from] concur_kv::KvError),
}

impl Running<Kv> {
    /// The store of a namespace, if this member votes in it.
    pub fn store(&self, namespace: &str) -> Option<Store> {
        Some(Store { handle: self.handle(namespace)?, timeout: Duration::from_secs(7) })
    }
}

impl Store {
    /// Executes any command of the store.
    pub async fn execute(&self, command: &concur_kv::Command) -> Result<concur_kv::Reply, StoreError> {
        let answer = self.handle.execute(None, concur_core::Wire::to_bytes(command), self.timeout).await;
        match concur_core::Wire::from_bytes(&answer.map_err(StoreError::Refused)?.body) {
            Ok(concur_kv::Reply::Refused(error)) => Err(error.into()),
            Ok(reply) => Ok(reply),
            Err(_) => Err(concur_kv::KvError::Malformed.into()),
        }
    }

    /// Writes one key; returns the revision.
    pub async fn put(&self, key: &str, value: &str) -> Result<i64, StoreError> {
        let (key, value) = (bytes::Bytes::copy_from_slice(key.as_bytes()), bytes::Bytes::copy_from_slice(value.as_bytes()));
        let put = concur_kv::Put { key, value, ..concur_kv::Put::default() };
        match self.execute(&concur_kv::Command::Put(put)).await? {
            concur_kv::Reply::Put(reply) => Ok(reply.revision.0),
            _ => Err(concur_kv::KvError::Malformed.into()),
        }
    }

    /// Reads one key, linearizably.
    pub async fn get(&self, key: &str) -> Result<Option<bytes::Bytes>, StoreError> {
        self.read(key, concur_server::driver::Level::Strong).await
    }

    /// Reads one key from what this member has executed, which may be old.
    pub async fn get_eventual(&self, key: &str) -> Result<Option<bytes::Bytes>, StoreError> {
        self.read(key, concur_server::driver::Level::Eventual).await
    }

    async fn read(&self, key: &str, level: concur_server::driver::Level) -> Result<Option<bytes::Bytes>, StoreError> {
        let key = bytes::Bytes::copy_from_slice(key.as_bytes());
        let footprint = concur_core::Footprint::read(key.clone());
        let query = concur_kv::RangeQuery { key, ..concur_kv::RangeQuery::default() };
        let looked = self.handle.look(level, footprint, self.timeout, move |kv: &Kv| kv.range(&query)).await;
        let (answer, _) = looked.map_err(StoreError::Refused)?;
        Ok(answer?.kvs.into_iter().next().map(|kv| kv.value))
    }
}
