//! One node: opens its data directory, starts a replica of each of its groups, listens, and runs the driver.
//!
//! A node is one thread with one current-thread runtime, on which the front doors, consensus, the peers' streams and execution
//! all run; the engine writes on a thread of its own. [`Node::open`] does everything that can be refused (the directory, the log,
//! the ports) and [`Node::run`] runs until told to stop.
//!
//! The data directory remembers the system it belongs to: names of members, and each group's strategy, order and voters. Started
//! under another description the node refuses, since votes that were cast in one quorum system say nothing in another. Once a
//! configuration was changed while the system ran, the state knows better than any description, and a difference is only told.
//!
//! A node that joins a cluster asks its members which one it is (`join.rs`) and follows until it is given a vote.

pub(crate) mod files;
mod listen;

pub(crate) use files::{forget_last_alive, last_alive_ms, note_last_alive, write_lives};
pub use listen::Listeners;

use crate::auth::{AuthOptions, AuthOptionsError, Authority};
use crate::door::{Door, DoorLimits, Jobs, Pulse};
use crate::driver::{Behind, Clock, Desk, DeskOptions, Driver, Group, Handle, KvDesk, Nodes, Parts};
use crate::etcd::{Etcd, EtcdLimits, Identity};
use crate::http_rules::HttpRules;
use crate::join::{Asking, Joined};
use crate::metrics::{Labels, Metrics};
use crate::native::{Namespace, Native};
use crate::peers::{Local, Me, Peers};
use crate::serve::ServeLimits;
use crate::watch::{Hub, HubLimits};
use concur_core::{
    BootCount, Change, Config, Corrupt, GroupId, Ordering, QuorumRule, QuorumSystem, ReplicaId, Rng, StateMachine, Strategy,
};
use concur_kv::{Kv, Retention};
use concur_network::Volume;
use concur_peers::{Configuration, Role};
use concur_replica::{Bulk, Output, Recovered, Replica, Settings};
use concur_store::dir::{DataDir, DirError, Owner};
use concur_store::engine::{EngineError, EngineEvent, EngineOptions, EngineThread, RedbEngine};
use concur_store::log::{FileDisk, Log, LogError, LogOptions};
use concur_tls::{Dialer, TlsError};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio::sync::{mpsc, watch};

/// A member of the cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeMember {
    /// Its name.
    pub name: String,
    /// Its region, or empty.
    pub region: String,
    /// Where peers reach it: `host:port`, or with `https://` before it by TLS; empty within one program.
    pub peer: String,
    /// Where clients reach it, in the same form, or empty if that is not known.
    pub client: String,
}

/// A group that a node takes part in.
#[derive(Debug, Clone)]
pub struct GroupOptions {
    /// Its id.
    pub id: GroupId,
    /// Its namespace.
    pub name: String,
    /// The protocol.
    pub strategy: Strategy,
    /// What it orders.
    pub order: Ordering,
    /// Who votes, and how many are enough.
    pub quorums: QuorumSystem,
    /// To whom a quorum's messages go.
    pub volume: Volume,
    /// How much the log grows before this group's part is replaced by a checkpoint.
    pub checkpoint_bytes: u64,
}

/// Everything that a node must know.
#[derive(Debug, Clone)]
pub struct NodeOptions {
    /// Tells clusters apart that have the same members.
    pub cluster_token: String,
    /// The members that found the cluster, or that a node which joins may ask; a founder's place is its number.
    pub members: Vec<NodeMember>,
    /// Which of them this node is.
    pub me: ReplicaId,
    /// Whether this node joins a cluster that there is. One with data goes on with it either way.
    pub joins: bool,
    /// Whether members and strategy may change while the system runs.
    pub dynamic: bool,
    /// The protocols that a configuration may name.
    pub strategies: fn(&str) -> Option<Strategy>,
    /// A voter of a group without a leader that is away for longer is gone on without until it is back.
    pub absence_max: Option<Duration>,
    /// Where it keeps its data.
    pub data_dir: PathBuf,
    /// The groups; those that this node does not vote in are left out by it.
    pub groups: Vec<GroupOptions>,
    /// The group that the etcd API serves.
    pub etcd_group: GroupId,
    /// How often an idle leader shows that it lives.
    pub heartbeat: Duration,
    /// How long silence lasts before somebody takes over.
    pub election: Duration,
    /// How long a request may take that names no deadline.
    pub request_time_max: Duration,
    /// How long stopping may take.
    pub stop_time_max: Duration,
    /// The largest request.
    pub request_bytes_max: usize,
    /// The largest batch.
    pub batch_bytes_max: usize,
    /// Batches of this node that may be undecided.
    pub batches_in_flight_max: usize,
    /// Commands that may wait.
    pub pending_commands_max: usize,
    /// Bytes of decided commands that are kept for members that lag.
    pub retained_bytes_max: usize,
    /// How much the log grows before it is shortened.
    pub checkpoint_bytes: u64,
    /// Bytes of one segment of a log that is created.
    pub segment_bytes: u64,
    /// Space put aside for when the disk is full.
    pub reserve_bytes: u64,
    /// What history a store keeps.
    pub retention: Retention,
    /// How it connects to its peers.
    pub dialer: Dialer,
    /// Whom plain HTTP is answered.
    pub http: HttpRules,
    /// What client listeners let the outside make them hold; how long they drain follows from how long stopping may take.
    pub serve: ServeLimits,
    /// Operations in each list of a transaction.
    pub txn_ops_max: usize,
    /// How often a watcher that asked for it is told the revision when nothing happens.
    pub notify_interval: Duration,
    /// How passwords are kept and tokens made.
    pub auth: AuthOptions,
}

/// Why a node cannot start, or stopped. Each says what to do.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    /// The data directory cannot be used.
    #[error(transparent)]
    Directory(#[from] DirError),
    /// The log cannot be used, or failed.
    #[error(transparent)]
    Log(#[from] LogError),
    /// The engine cannot be opened.
    #[error("{0}. The state in the data directory cannot be read; if its disk is sound, report this")]
    Engine(#[from] EngineError),
    /// What was recovered contradicts itself.
    #[error(
        "group `{group}`: {error}. This node must not vote with what it has: move the data directory away and let the node join again with \
         an empty one"
    )]
    Corrupt {
        /// The namespace.
        group: String,
        /// What is wrong.
        error: Corrupt,
    },
    /// The data directory belongs to another description of the system.
    #[error(
        "error[C061]: the data in {} was written by another system: {difference}. Votes cast under one description mean nothing under \
         another. Correct the configuration, or start with an empty data directory",
        path.display()
    )]
    OtherSystem {
        /// The data directory.
        path: PathBuf,
        /// What differs.
        difference: String,
    },
    /// An address cannot be listened on.
    #[error("cannot listen on {address}: {source}. Choose another address, or stop what uses this one")]
    Listen {
        /// The address.
        address: String,
        /// The operating system's answer.
        source: std::io::Error,
    },
    /// TLS cannot be set up.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The options of passwords and tokens cannot be used.
    #[error("error[C070]: {0}")]
    Auth(#[from] AuthOptionsError),
    /// The cluster does not take this node in.
    #[error("error[C063]: this node cannot join: {why}")]
    Join {
        /// Why.
        why: String,
    },
    /// The operating system refused something else.
    #[error("{what}: {source}")]
    Io {
        /// What was tried.
        what: String,
        /// The operating system's answer.
        source: std::io::Error,
    },
}

/// How the members reach one another.
#[derive(Debug)]
pub enum Wires {
    /// Over streams that come to these listeners.
    Streams(Listeners),
    /// Within this program.
    Local(Local),
}

/// A node that is ready to run. It is not `Send`: open it on the thread that runs it.
pub struct Node<M: StateMachine> {
    options: NodeOptions,
    me: Me,
    dir: DataDir,
    log: Log<FileDisk>,
    behind: Behind,
    engine_events: mpsc::UnboundedReceiver<EngineEvent>,
    groups: Vec<Group<M>>,
    handles: BTreeMap<String, Handle<M>>,
    clock: Clock,
    wires: Wires,
    clients: Option<Listeners>,
    /// For those who ask for metrics and health only.
    pages: Listeners,
    etcd: Option<Etcd>,
    /// Where watches are asked for, by namespace.
    doors: BTreeMap<String, Door>,
    /// Finds out who asks.
    authority: Arc<Authority>,
    metrics: Vec<Arc<Metrics>>,
    ready: watch::Sender<bool>,
}

/// What is made beside each group before its replica starts: the group, its state machine, and what every desk needs.
type Furnish<'f, M> = &'f mut dyn FnMut(&GroupOptions, &M, &Basics) -> Option<Box<dyn Desk<M>>>;

/// What every desk needs.
struct Basics {
    identity: Identity,
    last_alive_ms: u64,
    state_file: PathBuf,
}

impl Node<Kv> {
    /// Opens a node whose groups are key-value stores. `clients` gets etcd's API and the native one.
    pub fn open_store(options: NodeOptions, quota_bytes: u64, wires: Wires, clients: Option<Listeners>) -> Result<Self, NodeError> {
        let make = |group: &GroupOptions| {
            let ordering = match group.order {
                Ordering::Total => concur_kv::Ordering::Total,
                Ordering::Partial => concur_kv::Ordering::PerKey,
            };
            Kv::new(concur_kv::Config { ordering, quota_bytes, ..concur_kv::Config::default() })
        };
        let (mut etcd, mut doors, mut all) = (None, BTreeMap::new(), Vec::new());
        let authority = Arc::new(Authority::new(&options.auth)?);
        let guard = authority.clone();
        let own = options.clone();
        let mut furnish = |group: &GroupOptions, kv: &Kv, basics: &Basics| -> Option<Box<dyn Desk<Kv>>> {
            let metrics = Arc::new(Metrics::new(basics.identity, own.labels(group)));
            let (door, pulse, jobs) = Door::new(DoorLimits { token_ttl: own.auth.token_ttl, ..DoorLimits::default() });
            all.push(metrics.clone());
            doors.insert(group.name.clone(), door.clone());
            if group.id == own.etcd_group {
                etcd = Some(Etcd::new(door, basics.identity, own.etcd_limits(), metrics.clone()).guarded_by(guard.clone()));
            }
            Some(Box::new(kv_desk(&own, quota_bytes, basics, kv, pulse, jobs, metrics)))
        };
        let mut node = Self::open_with(options, wires, clients, &make, &mut furnish)?;
        (node.etcd, node.doors, node.authority) = (etcd, doors, authority);
        node.metrics = all;
        Ok(node)
    }
}

impl<M: StateMachine> Node<M> {
    /// Opens a node whose groups run state machines of any kind. `clients` gets the native API.
    pub fn open(
        options: NodeOptions,
        wires: Wires,
        clients: Option<Listeners>,
        make: impl Fn(&GroupOptions) -> M,
    ) -> Result<Self, NodeError> {
        Self::open_with(options, wires, clients, &make, &mut |_, _, _| None)
    }

    fn open_with(
        options: NodeOptions,
        wires: Wires,
        clients: Option<Listeners>,
        make: &dyn Fn(&GroupOptions) -> M,
        furnish: Furnish<'_, M>,
    ) -> Result<Self, NodeError> {
        let clock = Clock::start();
        let last_alive_ms = files::last_alive_ms(&options.data_dir).unwrap_or_else(|| clock.wall_ms());
        let place = options.place()?;
        let node = member_id(place.cluster, &place.name);
        let owner = Owner { cluster: place.cluster, node, name: place.name.clone(), incarnation: clock.wall_ms(), salt: random() };
        // That this disk joined is known before it is anybody's: as a founder's it would vote.
        let first = |root: &std::path::Path| place.joined.as_ref().map_or(Ok(()), |joined| joined.write(root));
        let mut dir = DataDir::open_after(&options.data_dir, &owner, first)?;
        // Opening the log writes to it, and the leases count from before.
        files::note_last_alive(&dir, last_alive_ms)?;
        let log_options = LogOptions { segment_bytes: options.segment_bytes, ..dir.log_options() };
        let disk = FileDisk::open(dir.log_directory()).map_err(io(format!("cannot open {}", dir.log_directory().display())))?;
        let (log, mut recovered) = Log::open(disk, log_options)?;
        dir.note_log()?;
        if let Some(torn) = &recovered.torn {
            tracing::warn!(
                segment = torn.segment,
                offset = torn.offset,
                "the log's end was torn by a crash and is cut off; nothing durable is lost"
            );
        }
        dir.keep_reserve(options.reserve_bytes)?;
        let (behind, engine_events) = open_engine(&dir)?;
        let client_urls = url(&options.members[usize::from(options.me.0)].client);
        let (incarnation, boot) = (dir.identity().incarnation, dir.identity().boots);
        let token = options.cluster_token.clone();
        let peer = options.members[usize::from(options.me.0)].peer.clone();
        let me = Me { cluster: place.cluster, token, name: place.name.clone(), node, incarnation, boot, client_urls, peer };
        let basics = Basics { identity: Identity { cluster: place.cluster, member: node }, last_alive_ms, state_file: dir.state_file() };
        let (mut seated, mut moved) = (Vec::new(), false);
        for mut seat in options.seats(&place)? {
            let image = behind.1.image(seat.group.id)?;
            let corrupt = |error| NodeError::Corrupt { group: seat.group.name.clone(), error };
            if let Some(known) = concur_replica::configuration_of(&image).map_err(corrupt)?.filter(|known| known.epoch.0 > 0) {
                moved = true;
                // What is described may list others than those who are in, and number them otherwise.
                seat.me = known.named(&place.name).map_or_else(|| known.number_of_a_stranger(), |member| member.id);
            }
            let records = recovered.groups.remove(&seat.group.id).unwrap_or_default();
            seated.push((seat, Recovered { records, image }));
        }
        // Before any group is opened: what another system wrote reads as damage.
        if place.joined.is_none() {
            files::check_system(&dir, &options, moved)?;
        }
        let (mut groups, mut handles) = (Vec::new(), BTreeMap::new());
        for (seat, recovered) in seated {
            let settings = options.settings(&seat, &me, place.joined.is_some());
            let (handle, opened) = open_group(&options, &seat.group, settings, recovered, make(&seat.group), &clock, &basics, furnish)?;
            handles.insert(seat.group.name.clone(), handle);
            groups.push(opened);
        }
        let behind = behind.0;
        let (etcd, doors, metrics, ready) = (None, BTreeMap::new(), Vec::new(), watch::channel(false).0);
        let pages = Listeners::default();
        let authority = Arc::default();
        Ok(Self {
            options,
            me,
            dir,
            log,
            behind,
            engine_events,
            groups,
            handles,
            clock,
            wires,
            clients,
            pages,
            etcd,
            doors,
            authority,
            metrics,
            ready,
        })
    }

    /// A handle to the group of a namespace, if this node takes part in it.
    pub fn handle(&self, namespace: &str) -> Option<Handle<M>> {
        self.handles.get(namespace).cloned()
    }

    /// Serves the pages (metrics, health) on these listeners, and nothing else.
    #[must_use]
    pub fn with_pages(mut self, listeners: Listeners) -> Self {
        self.pages = listeners;
        self
    }

    /// Holds true once every group of this node knows who proposes.
    pub fn ready(&self) -> watch::Receiver<bool> {
        self.ready.subscribe()
    }

    /// Where clients are listened to.
    pub fn client_addresses(&self) -> Vec<std::net::SocketAddr> {
        self.clients.as_ref().map(Listeners::addresses).unwrap_or_default()
    }

    /// Runs until `stop` holds true, or something fails for good. Must be called on a current-thread runtime of its own.
    pub async fn run(self, stop: watch::Receiver<bool>) -> Result<(), NodeError> {
        let lives = files::read_lives(&self.dir)?;
        let (close, closed) = watch::channel(false);
        let mut listening = tokio::task::JoinSet::new();
        let peers = match self.wires {
            Wires::Local(local) => Peers::local(self.me.clone(), local),
            Wires::Streams(listeners) => {
                let (peers, acceptor) = Peers::streams(self.me.clone(), lives.clone(), self.options.dialer.clone());
                listeners.serve(&mut listening, acceptor, listen::peer_limits(), &Arc::default(), closed.clone())?;
                peers
            }
        };
        if let Some(etcd) = self.etcd.clone() {
            let limits = listen::client_limits(&self.options);
            self.pages.serve(&mut listening, crate::pages::Pages(etcd), limits, &Arc::default(), closed.clone())?;
        }
        if let Some(clients) = self.clients {
            let namespaces = self.handles.iter().map(|(name, handle)| (name.clone(), Arc::new(handle.clone()) as Arc<dyn Namespace>));
            let native = Native::new(&self.options, self.me.clone(), namespaces.collect(), self.doors, self.authority);
            let traffic = self.etcd.as_ref().map(|etcd| etcd.metrics.traffic.clone()).unwrap_or_default();
            let doorway = listen::Doorway::new(self.etcd, self.options.http.clone(), native, self.options.request_bytes_max);
            clients.serve(&mut listening, doorway, listen::client_limits(&self.options), &traffic, closed)?;
        }
        let driver = Driver::new(Parts {
            clock: self.clock,
            nodes: Nodes::default(),
            groups: self.groups,
            log: self.log,
            dir: self.dir,
            behind: self.behind,
            engine_events: self.engine_events,
            peers,
            lives,
            metrics: self.metrics,
            checkpoint_bytes: self.options.checkpoint_bytes,
            reserve_bytes: self.options.reserve_bytes,
            stop_time_max: self.options.stop_time_max,
            ready: self.ready,
        });
        let drained = async move {
            let _ = close.send(true);
            while listening.join_next().await.is_some() {}
        };
        driver.run(stop, drained).await
    }
}

/// Starts one group's replica.
#[allow(clippy::too_many_arguments)]
fn open_group<M: StateMachine>(
    options: &NodeOptions,
    group: &GroupOptions,
    settings: Settings,
    recovered: Recovered,
    machine: M,
    clock: &Clock,
    basics: &Basics,
    furnish: Furnish<'_, M>,
) -> Result<(Handle<M>, Group<M>), NodeError> {
    let logged_bytes = recovered.records.iter().map(|record| record.len() as u64).sum();
    let begins = recovered.image.is_empty() && !settings.joins;
    let mut out = Output::default();
    let rng = Rng::new(random());
    let started = Replica::start(settings, recovered, machine, clock.now(), clock.wall_ms(), rng, &mut out);
    let replica = started.map_err(|error| NodeError::Corrupt { group: group.name.clone(), error })?;
    if begins {
        // Who is in is kept from the beginning: without it nobody could go on from this node alone.
        out.bulk.get_or_insert_with(|| whole(&replica));
    }
    let desk = furnish(group, replica.machine(), basics);
    let (handle, asks) = Handle::new(options.pending_commands_max);
    let mut group = Group::new(group, basics.identity.cluster, options.dynamic, replica, out, desk, asks);
    group.logged_bytes = logged_bytes;
    Ok((handle, group))
}

/// The whole state, as the engine is to have it.
fn whole<M: StateMachine>(replica: &Replica<M>) -> Bulk {
    let changes = replica.snapshot().1.into_iter().map(|(key, value)| Change { key, value: Some(value) }).collect();
    Bulk { changes, mark: replica.mark(), urgent: true }
}

fn kv_desk(
    options: &NodeOptions,
    quota_bytes: u64,
    basics: &Basics,
    kv: &Kv,
    pulse: Arc<Pulse>,
    jobs: Jobs,
    metrics: Arc<Metrics>,
) -> KvDesk {
    // Before the first request comes: one that finds auth off is let in.
    pulse.auth().observe(kv.auth());
    let limits = HubLimits { notify_interval: options.notify_interval, ..HubLimits::default() };
    let hub = Hub::new(limits, basics.identity, pulse.clone(), metrics, kv.revision());
    let own = &options.members[usize::from(options.me.0)];
    let mut desk = KvDesk::new(DeskOptions {
        jobs,
        pulse,
        hub,
        region: own.region.clone(),
        retention: options.retention,
        quota_bytes,
        state_file: basics.state_file.clone(),
        last_alive_ms: basics.last_alive_ms,
    });
    if !own.client.is_empty() {
        // The configuration need not say where clients reach this node; it knows.
        Desk::<Kv>::met(&mut desk, basics.identity.member, &url(&own.client));
    }
    desk
}

/// Reads the state that the engine holds, before it is handed to its thread's queue.
struct Images(Arc<dyn concur_store::engine::EngineRead>);

impl Images {
    fn image(&self, group: GroupId) -> Result<Vec<(bytes::Bytes, bytes::Bytes)>, EngineError> {
        self.0.view(group)?.map_or(Ok(Vec::new()), |view| view.entries()?.collect())
    }
}

/// Bytes of the engine's cache: the state is in memory anyway.
const ENGINE_CACHE_BYTES: usize = 16 << 20;

#[allow(clippy::type_complexity)]
fn open_engine(dir: &DataDir) -> Result<((Behind, Images), mpsc::UnboundedReceiver<EngineEvent>), NodeError> {
    let engine = RedbEngine::open(&dir.state_file(), ENGINE_CACHE_BYTES)?;
    let (events, receiver) = mpsc::unbounded_channel();
    let report = move |event| {
        if !matches!(event, EngineEvent::Written(..)) {
            let _ = events.send(event);
        }
    };
    let thread = EngineThread::spawn(engine, EngineOptions::default(), report).map_err(io("cannot start the engine's thread"))?;
    let images = Images(thread.reader());
    Ok(((Behind::new(thread), images), receiver))
}

impl NodeOptions {
    /// The cluster's id: equal for equal tokens and member names.
    pub fn cluster_id(&self) -> u64 {
        let mut names: Vec<&str> = self.members.iter().map(|member| member.name.as_str()).collect();
        names.sort_unstable();
        hash(std::iter::once(self.cluster_token.as_str()).chain(names))
    }

    /// A founding member's id.
    pub fn member_id(&self, replica: ReplicaId) -> u64 {
        member_id(self.cluster_id(), &self.members[usize::from(replica.0)].name)
    }

    /// The region of this node, or empty.
    pub(crate) fn region(&self) -> &str {
        &self.members[usize::from(self.me.0)].region
    }

    /// Which cluster this node belongs to, and under which name: as its data say, as a member tells it, or as it is founded.
    fn place(&self) -> Result<Place, NodeError> {
        let own = &self.members[usize::from(self.me.0)];
        if let Some(joined) = Joined::read(&self.data_dir)? {
            if joined.asked != own.name && joined.name != own.name {
                let Joined { asked, .. } = &joined;
                let path = self.data_dir.display();
                let why =
                    format!("the data in {path} are those of {asked}, and it is started as {}. Name it so, or another directory", own.name);
                return Err(NodeError::Join { why });
            }
            return Ok(Place { cluster: joined.cluster, name: joined.name.clone(), joined: Some(joined) });
        }
        if let Some(identity) = DataDir::identity_of(&self.data_dir)? {
            return Ok(Place { cluster: identity.cluster, name: own.name.clone(), joined: None });
        }
        if !self.joins {
            return Ok(Place { cluster: self.cluster_id(), name: own.name.clone(), joined: None });
        }
        let members = self.members.iter().map(|member| member.peer.as_str()).collect();
        let joined = Joined::ask(&Asking { name: &own.name, token: &self.cluster_token, own: &own.peer, members, dialer: &self.dialer })?;
        Ok(Place { cluster: joined.cluster, name: joined.name.clone(), joined: Some(joined) })
    }

    /// The groups that this node takes part in, and its number in each.
    fn seats(&self, place: &Place) -> Result<Vec<SeatOptions>, NodeError> {
        let Some(joined) = &place.joined else {
            let mine = self.groups.iter().filter(|group| group.quorums.voters.contains(self.me));
            let seat = |group: &GroupOptions| SeatOptions { me: self.me, configuration: self.founding(group), group: group.clone() };
            return Ok(mine.map(seat).collect());
        };
        let mut seats = Vec::new();
        for told in &joined.groups {
            let configuration = told.configuration.clone();
            let unknown =
                || NodeError::Join { why: format!("it decides by `{}`, which this program does not know", configuration.strategy) };
            let strategy = (self.strategies)(&configuration.strategy).ok_or_else(unknown)?;
            let Some(me) = configuration.named(&place.name).map(|member| member.id) else { continue };
            let group = GroupOptions {
                id: told.id,
                name: told.namespace.clone(),
                strategy,
                order: if told.per_key { Ordering::Partial } else { Ordering::Total },
                quorums: configuration.quorums(&strategy),
                volume: self.groups.first().map_or(Volume::Broadcast, |group| group.volume),
                checkpoint_bytes: self.checkpoint_bytes,
            };
            seats.push(SeatOptions { me, configuration, group });
        }
        Ok(seats)
    }

    /// The configuration with which a group begins.
    pub(crate) fn founding(&self, group: &GroupOptions) -> Configuration {
        let voters = group.quorums.voters;
        let weight = |id: ReplicaId| match &group.quorums.rule {
            QuorumRule::Weighted { weights } => weights.get(usize::from(id.0)).copied().unwrap_or(1),
            QuorumRule::Majority | QuorumRule::Counts { .. } => 1,
        };
        let member = |id: ReplicaId| {
            let NodeMember { name, region, peer, client } = self.members[usize::from(id.0)].clone();
            concur_peers::Member { id, name, role: Role::Voter, weight: weight(id), incarnation: 0, peer, client, region }
        };
        let mut founding = Configuration::genesis(group.strategy.traits.name, voters.iter().map(member).collect());
        // Numbers of members that vote elsewhere stay free for them.
        founding.last_id = self.members.len().saturating_sub(1) as u64;
        if let QuorumRule::Counts { prepare, accept, fast } = group.quorums.rule
            && group.quorums != (group.strategy.quorums)(voters)
        {
            founding.counts = Some((prepare as u64, accept as u64, fast as u64));
        }
        founding
    }

    fn labels(&self, group: &GroupOptions) -> Labels {
        let region = self.members[usize::from(self.me.0)].region.clone();
        Labels { namespace: group.name.clone(), strategy: group.strategy.traits.name.into(), region }
    }

    fn etcd_limits(&self) -> EtcdLimits {
        let election_ms = u64::try_from(self.election.as_millis()).unwrap_or(u64::MAX);
        EtcdLimits {
            request_bytes_max: self.request_bytes_max,
            request_time_max: self.request_time_max,
            lease_ttl_s_min: concur_kv::ttl_least_s(election_ms),
            txn_ops_max: self.txn_ops_max,
            ..EtcdLimits::default()
        }
    }

    fn settings(&self, seat: &SeatOptions, me: &Me, joins: bool) -> Settings {
        let SeatOptions { me: id, configuration, group } = seat;
        let config = Config {
            group: group.id,
            epoch: configuration.epoch,
            me: *id,
            quorums: group.quorums.clone(),
            heartbeat: self.heartbeat,
            election: self.election,
            window_max: WINDOW_MAX,
            message_bytes_max: (2 * self.request_bytes_max).max(4 << 20),
            retained_bytes_max: self.retained_bytes_max,
        };
        Settings {
            configuration: Arc::new(configuration.clone()),
            incarnation: me.incarnation,
            joins,
            strategies: self.strategies,
            absence_max: self.absence_max,
            order: group.order,
            volume: group.volume,
            batch_bytes_max: self.batch_bytes_max,
            batches_in_flight_max: self.batches_in_flight_max,
            pending_commands_max: self.pending_commands_max,
            // No two runs of any life of the disk have the same.
            ..Settings::new(Arc::new(config), group.strategy, BootCount((me.incarnation << 20) | me.boot))
        }
    }
}

/// Which cluster a node belongs to.
struct Place {
    cluster: u64,
    /// Its name in it.
    name: String,
    /// What it was told when it joined, if it did.
    joined: Option<Joined>,
}

/// A group that this node takes part in.
struct SeatOptions {
    me: ReplicaId,
    configuration: Configuration,
    group: GroupOptions,
}

fn url(address: &str) -> Vec<String> {
    if address.is_empty() { Vec::new() } else { vec![concur_tls::url(address)] }
}

/// Undecided proposals of one proposer, its peers' forwarded ones included.
const WINDOW_MAX: usize = 1024;

/// The id of a namespace's group: the default one is 0.
pub fn group_id(namespace: &str) -> GroupId {
    if namespace == "default" { GroupId(0) } else { GroupId(hash([namespace].into_iter())) }
}

/// The id of a member: it follows from its name.
pub(crate) fn member_id(cluster: u64, name: &str) -> u64 {
    hash([format!("{cluster:016x}").as_str(), name].into_iter())
}

/// The id of a cluster that begins from a state which is described by a number.
pub(crate) fn stored_id(described: u64) -> u64 {
    hash(["restored", &format!("{described:016x}")].into_iter())
}

/// FNV-1a over texts and the ends between them; never 0.
fn hash<'t>(texts: impl Iterator<Item = &'t str>) -> u64 {
    let bytes = texts.flat_map(|text| text.bytes().chain([0xff]));
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)).max(1)
}

/// A number nobody can foresee.
pub(crate) fn random() -> u64 {
    use std::hash::{BuildHasher, Hasher};
    let mut hasher = std::hash::RandomState::new().build_hasher();
    hasher.write_u128(SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_nanos()));
    hasher.finish()
}

pub(crate) fn io(what: impl Into<String>) -> impl FnOnce(std::io::Error) -> NodeError {
    let what = what.into();
    move |source| NodeError::Io { what, source }
}
