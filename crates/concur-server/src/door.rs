//! The boundary between the front doors and the replica: a handle to one namespace.
//!
//! A front door (etcd's API, the native one) holds a [`Door`]; the node's driver holds the receiving end, [`Jobs`]. Both live
//! on one current-thread runtime, but the generated services ask for `Send` futures, so requests cross by one bounded queue and
//! each answer by a one-shot channel: no task is spawned and no lock taken for a request.
//!
//! What the driver owes:
//! - every [`Execute`] is answered once: with the reply of the state machine, stamped, once it was executed here, or with a
//!   [`Refusal`]. It keeps the deadline (answering [`Refusal::TimedOut`]), so that no timer is set a request.
//! - every [`Read`] has its closure called once, with the state as of a barrier of the level it asks for, or with a refusal.
//! - every [`WatchRequest`] goes to the [`Hub`](crate::watch::Hub), which is told of each execution step.
//! - the [`Pulse`] is kept current.
//!
//! Everything waiting is bounded: the queue by [`DoorLimits::jobs_max`], commands under way by
//! [`DoorLimits::in_flight_bytes_max`]. Beyond either, a request is refused at once with [`Refusal::Busy`].
//!
//! What is not here: sessions and retries (the replica's), and what commands mean (the front doors' and the state machine's).

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use concur_core::{Epoch, Footprint, ReplicaId};
use concur_kv::Kv;
use concur_peers::Change;
use tokio::sync::{mpsc, oneshot};

use crate::auth::{Known, TOKEN_TTL};
use crate::driver::Kept;
use crate::watch::WatchRequest;

/// How fresh a read must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Level {
    /// Linearizable: behind a barrier of the protocol.
    Strong,
    /// Some committed state, at once.
    Eventual,
}

/// What a reply says of its freshness.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp {
    /// The level served.
    pub level: Level,
    /// The configuration it was served in.
    pub epoch: Epoch,
    /// The leader's term, or what stands for it; never falls.
    pub term: u64,
}

/// Why a request was not executed, or not surely.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// A queue is full; nothing was done.
    #[error("too many requests wait; ask again later")]
    Busy,
    /// The deadline passed. A command may be executed yet.
    #[error("the deadline passed before the request was decided")]
    TimedOut,
    /// The deadline passed while no leader was known. A command may be executed yet.
    #[error("no leader is known")]
    NoLeader,
    /// Leadership changed while the request waited. A command may be executed yet.
    #[error("the leader changed while the request waited")]
    LeaderChanged,
    /// This replica is no voter and cannot serve this.
    #[error("this replica does not vote and cannot serve this")]
    NotVoter,
    /// The disk is full; nothing was done. Deleting and compacting go on.
    #[error("the disk is full")]
    NoSpace,
    /// The node is stopping.
    #[error("the node is stopping")]
    Stopped,
    /// The node cannot do this.
    #[error("{0}")]
    Unsupported(&'static str),
}

/// An answered command: its reply, and what it says of its freshness.
pub type Executed = Result<(Bytes, Stamp), Refusal>;

/// A command to execute.
#[derive(Debug)]
pub struct Execute {
    /// In the encoding of the namespace's state machine.
    pub command: Bytes,
    /// When the caller stops waiting.
    pub deadline: Instant,
    /// Where the answer goes. Closed when the caller is gone.
    pub reply: oneshot::Sender<Executed>,
}

/// What is called with the state of a read.
pub type OnState = Box<dyn FnOnce(Result<(&Kv, Stamp), Refusal>) + Send>;

/// A read to serve.
pub struct Read {
    /// How fresh.
    pub level: Level,
    /// What it reads.
    pub footprint: Footprint,
    /// When the caller stops waiting.
    pub deadline: Instant,
    /// Called once, on the node's thread. Its work is bounded by the request it came from.
    pub run: OnState,
}

/// Upkeep of a member's own storage.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Upkeep {
    /// Gives unused space of the storage engine back to the file system.
    Defragment,
}

/// What the driver is asked.
pub enum Job {
    /// Execute a command.
    Execute(Execute),
    /// Serve a read.
    Read(Read),
    /// Pass this to the watch hub.
    Watch(WatchRequest),
    /// Change who is in, or the strategy.
    Change(Asked),
    /// Say what the node knows.
    Status(oneshot::Sender<Status>),
    /// Do this to the storage.
    Upkeep(Upkeep, oneshot::Sender<Result<(), Refusal>>),
    /// Leave to look at the state where it is kept, as of a barrier if one can be had in time.
    Kept {
        /// When the barrier is given up.
        deadline: Instant,
        /// Where the leave goes.
        reply: oneshot::Sender<Kept>,
    },
}

/// A change that is asked for.
#[derive(Debug)]
pub struct Asked {
    /// What.
    pub change: Change,
    /// When the caller stops waiting.
    pub deadline: Instant,
    /// Where the answer goes; its body is an encoded [`concur_peers::Outcome`].
    pub reply: oneshot::Sender<Executed>,
}

/// Bounds of what may wait at a door.
#[derive(Debug, Clone, Copy)]
pub struct DoorLimits {
    /// Jobs in the queue.
    pub jobs_max: usize,
    /// Bytes of commands that were sent and not answered.
    pub in_flight_bytes_max: usize,
    /// How long a simple token lives after it was last shown.
    pub token_ttl: Duration,
}

impl Default for DoorLimits {
    fn default() -> Self {
        Self { jobs_max: 16 << 10, in_flight_bytes_max: 256 << 20, token_ttl: TOKEN_TTL }
    }
}

/// What every request may look at without asking: kept current by the driver.
#[derive(Debug, Default)]
pub struct Pulse {
    leader: AtomicU64,
    term: AtomicU64,
    leader_changes: AtomicU64,
    stopping: AtomicBool,
    removed: AtomicBool,
    auth: Known,
}

impl Pulse {
    /// The member that leads, or 0.
    pub fn leader(&self) -> u64 {
        self.leader.load(Ordering::Relaxed)
    }

    /// Its term.
    pub fn term(&self) -> u64 {
        self.term.load(Ordering::Relaxed)
    }

    /// How often another leader was seen.
    pub fn leader_changes(&self) -> u64 {
        self.leader_changes.load(Ordering::Relaxed)
    }

    /// Whether the node is stopping.
    pub fn stopping(&self) -> bool {
        self.stopping.load(Ordering::Relaxed)
    }

    /// Driver: who leads (0: nobody is known to), in which term. A term never falls.
    pub fn set_leader(&self, leader: u64, term: u64) {
        let before = self.leader.swap(leader, Ordering::Relaxed);
        if leader != 0 && leader != before {
            self.leader_changes.fetch_add(1, Ordering::Relaxed);
        }
        self.term.fetch_max(term, Ordering::Relaxed);
    }

    /// Whether the node is in no configuration of this namespace any more.
    pub fn removed(&self) -> bool {
        self.removed.load(Ordering::Relaxed)
    }

    /// Driver: whether it is.
    pub fn set_removed(&self, removed: bool) {
        self.removed.store(removed, Ordering::Relaxed);
    }

    /// What is known of users and tokens.
    pub fn auth(&self) -> &Known {
        &self.auth
    }

    /// Driver: the node stops.
    pub fn set_stopping(&self) {
        self.stopping.store(true, Ordering::Relaxed);
    }
}

/// A member as the front doors show it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Member {
    /// Its id in the cluster.
    pub id: u64,
    /// Its name; empty before it first started.
    pub name: String,
    /// Where peers reach it.
    pub peer_urls: Vec<String>,
    /// Where clients reach it.
    pub client_urls: Vec<String>,
    /// Whether it does not vote.
    pub observer: bool,
    /// Its number in the group.
    pub number: ReplicaId,
}

/// What a node knows of itself and of one group, at one moment.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Status {
    /// The namespace that this group serves.
    pub namespace: String,
    /// The name of the strategy it runs.
    pub strategy: String,
    /// This node's region, if it has one.
    pub region: String,
    /// The configuration in force.
    pub epoch: Epoch,
    /// The member that leads, or 0.
    pub leader: u64,
    /// Its term.
    pub term: u64,
    /// How many commands or batches are decided; etcd's raft index.
    pub decided: u64,
    /// How many are executed; etcd's applied index.
    pub executed: u64,
    /// Proposals that wait for their decision.
    pub pending: u64,
    /// Proposals that failed, ever.
    pub failed: u64,
    /// Whether this node does not vote.
    pub observer: bool,
    /// All members, in the order of their ids.
    pub members: Vec<Member>,
    /// Bytes that the storage takes on disk.
    pub storage_bytes: u64,
    /// Of these, how many are in use.
    pub storage_used_bytes: u64,
    /// The quota of the store.
    pub quota_bytes: u64,
    /// What is wrong, in words.
    pub errors: Vec<String>,
}

/// A handle to one namespace.
#[derive(Debug, Clone)]
pub struct Door {
    jobs: mpsc::Sender<Job>,
    pulse: Arc<Pulse>,
    in_flight_bytes: Arc<AtomicUsize>,
    limits: DoorLimits,
}

/// The driver's end of a [`Door`].
pub type Jobs = mpsc::Receiver<Job>;

impl Door {
    /// A door, its pulse for the driver to keep, and the jobs for it to do.
    pub fn new(limits: DoorLimits) -> (Self, Arc<Pulse>, Jobs) {
        let (jobs, receiver) = mpsc::channel(limits.jobs_max);
        let pulse = Arc::new(Pulse { auth: Known::new(limits.token_ttl), ..Pulse::default() });
        let door = Self { jobs, pulse: pulse.clone(), in_flight_bytes: Arc::default(), limits };
        (door, pulse, receiver)
    }

    /// What is known without asking.
    pub fn pulse(&self) -> &Arc<Pulse> {
        &self.pulse
    }

    /// Executes a command and waits for its reply.
    pub async fn execute(&self, command: Bytes, deadline: Instant) -> Executed {
        let _load = self.admit(command.len())?;
        let (reply, answer) = oneshot::channel();
        self.post(Job::Execute(Execute { command, deadline, reply }))?;
        answer.await.unwrap_or(Err(Refusal::Stopped))
    }

    /// Computes something from the state as of a barrier of `level`.
    pub async fn read<T, F>(&self, level: Level, footprint: Footprint, deadline: Instant, ask: F) -> Result<(T, Stamp), Refusal>
    where
        T: Send + 'static,
        F: FnOnce(&Kv) -> T + Send + 'static,
    {
        let (reply, answer) = oneshot::channel();
        let run = Box::new(move |state: Result<(&Kv, Stamp), Refusal>| {
            if !reply.is_closed() {
                let _ = reply.send(state.map(|(kv, stamp)| (ask(kv), stamp)));
            }
        });
        self.post(Job::Read(Read { level, footprint, deadline, run }))?;
        answer.await.unwrap_or(Err(Refusal::Stopped))
    }

    /// Passes a request to the watch hub, waiting for room in the queue.
    pub async fn watch(&self, request: WatchRequest) -> Result<(), Refusal> {
        self.jobs.send(Job::Watch(request)).await.map_err(|_| Refusal::Stopped)
    }

    /// Passes a request to the watch hub if there is room for it.
    pub fn try_watch(&self, request: WatchRequest) -> Result<(), Refusal> {
        self.post(Job::Watch(request))
    }

    /// What the node knows.
    pub async fn status(&self) -> Result<Status, Refusal> {
        let (reply, answer) = oneshot::channel();
        self.post(Job::Status(reply))?;
        answer.await.map_err(|_| Refusal::Stopped)
    }

    /// Changes who is in; the reply is an encoded [`concur_peers::Outcome`].
    pub async fn change(&self, change: Change, deadline: Instant) -> Executed {
        let (reply, answer) = oneshot::channel();
        self.post(Job::Change(Asked { change, deadline, reply }))?;
        answer.await.unwrap_or(Err(Refusal::Stopped))
    }

    /// Has the storage looked after.
    pub async fn upkeep(&self, what: Upkeep) -> Result<(), Refusal> {
        let (reply, answer) = oneshot::channel();
        self.post(Job::Upkeep(what, reply))?;
        answer.await.unwrap_or(Err(Refusal::Stopped))
    }

    /// The state where it is kept: with everything that was acknowledged by now, if the others can be asked before the deadline.
    pub async fn kept(&self, deadline: Instant) -> Result<Kept, Refusal> {
        let (reply, answer) = oneshot::channel();
        self.post(Job::Kept { deadline, reply })?;
        answer.await.map_err(|_| Refusal::Stopped)
    }

    fn post(&self, job: Job) -> Result<(), Refusal> {
        self.jobs.try_send(job).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => Refusal::Busy,
            mpsc::error::TrySendError::Closed(_) => Refusal::Stopped,
        })
    }

    fn admit(&self, bytes: usize) -> Result<Load, Refusal> {
        let load = Load { bytes, total: self.in_flight_bytes.clone() };
        let before = load.total.fetch_add(bytes, Ordering::Relaxed);
        if before.saturating_add(bytes) > self.limits.in_flight_bytes_max { Err(Refusal::Busy) } else { Ok(load) }
    }
}

/// Bytes counted as in flight until this is dropped.
struct Load {
    bytes: usize,
    total: Arc<AtomicUsize>,
}

impl Drop for Load {
    fn drop(&mut self) {
        self.total.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}
