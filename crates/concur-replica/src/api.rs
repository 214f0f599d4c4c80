//! What a driver gives a replica and gets from it: plain data.

use bytes::Bytes;
use concur_core::{
    BatchId, BootCount, Change, Config, Epoch, Footprint, Frontier, Health, Inspection, Instance, Mark, Ordering, ReplicaId, Run,
    SessionId, Strategy, Ticket, Value,
};
use concur_execution::{InSession, Level, Stamp};
use concur_network::Volume;
use concur_peers::{Change as Reconfiguration, Configuration};
use std::sync::Arc;
use std::time::Duration;

/// How one replica is set up. Durations are of the driver's monotonic clock.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The group, its voters and their timeouts, in the epoch that the replica is in.
    pub config: Arc<Config>,
    /// The protocol of that epoch.
    pub strategy: Strategy,
    /// Who is in. What the state holds counts before what is given here.
    pub configuration: Arc<Configuration>,
    /// Which life of its disk this is: another after the disk was lost. The configuration names the life in which a member votes.
    pub incarnation: u64,
    /// Whether this life of the disk began in a group that there was: while it holds nothing it waits for a member's state. Otherwise
    /// it is one of those that begin the group. The same in every run of the life.
    pub joins: bool,
    /// The protocols that an epoch may name.
    pub strategies: fn(&str) -> Option<Strategy>,
    /// What the namespace orders. A partial order needs a protocol that has one; a total order is had from any.
    pub order: Ordering,
    /// To whom a quorum's messages go.
    pub volume: Volume,
    /// Which run of the process this is: no two runs of any life of this member have the same.
    pub boot: BootCount,
    /// How many batches of this replica's clients may be undecided.
    pub batches_in_flight_max: usize,
    /// How many commands one batch may hold.
    pub batch_commands_max: usize,
    /// How many bytes of commands one batch may hold; a single larger command makes a batch of its own.
    pub batch_bytes_max: usize,
    /// How many commands may wait for a batch; more are refused with [`Refused::Busy`].
    pub pending_commands_max: usize,
    /// How many bytes of commands may wait for a batch.
    pub pending_bytes_max: usize,
    /// How many reads may wait.
    pub pending_reads_max: usize,
    /// How many messages from peers may wait; more are dropped, as a link may.
    pub inbox_messages_max: usize,
    /// How long a session lives without a command, in logged time.
    pub session_ttl: Duration,
    /// How many bytes of state one transfer message carries.
    pub transfer_bytes_max: usize,
    /// How many bytes of executed batches are kept for those who follow; who lags further is given state.
    pub feed_bytes_max: usize,
    /// A member that lags by no more decisions is close behind.
    pub close_instances_max: u64,
    /// A voter that was silent for so long, or has come to lack much, in a group without a leader, is made an observer that is
    /// promoted when it is back and close behind; until then what it has not seen is kept for it. `None`, for a group whose voters
    /// never change: it is neither given up nor is anything kept for it.
    pub absence_max: Option<Duration>,
    /// Whether [`Output::executed`] and [`Output::decided`] are filled, from the start on.
    pub record_executions: bool,
}

impl Settings {
    /// The defaults for a member of a group that knows no other protocol.
    pub fn new(config: Arc<Config>, strategy: Strategy, boot: BootCount) -> Self {
        let configuration = Configuration::of_voters(config.epoch, strategy.traits.name, config.voters());
        Self {
            feed_bytes_max: config.retained_bytes_max,
            config,
            strategy,
            configuration: Arc::new(configuration),
            incarnation: 1,
            joins: false,
            strategies: |_| None,
            order: Ordering::Total,
            volume: Volume::Broadcast,
            boot,
            batches_in_flight_max: 1,
            batch_commands_max: 4096,
            batch_bytes_max: 1 << 20,
            pending_commands_max: 16_384,
            pending_bytes_max: 64 << 20,
            pending_reads_max: 16_384,
            inbox_messages_max: 16_384,
            session_ttl: Duration::from_secs(600),
            transfer_bytes_max: 256 << 10,
            close_instances_max: 1024,
            absence_max: None,
            record_executions: false,
        }
    }
}

/// The driver's name for a request, returned with its reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Token(pub u64);

/// What can happen to a replica.
#[derive(Debug, Clone)]
pub enum Event {
    /// A client of this replica asks for something.
    Request {
        /// The driver's name for it.
        token: Token,
        /// What.
        request: Request,
    },
    /// Bytes of an envelope came from a peer.
    Message {
        /// From whom.
        from: ReplicaId,
        /// An encoded [`concur_network::Envelope`].
        bytes: Bytes,
    },
    /// Every record up to this ticket is on disk.
    Durable(Ticket),
    /// The engine holds the executed state up to this frontier durably.
    Stored(Frontier),
    /// A hint about the connection to a peer.
    Peer(ReplicaId, Health),
    /// The node is about to stop.
    Leave,
}

/// What a client asks for.
#[derive(Debug, Clone)]
pub enum Request {
    /// Execute a command once.
    Command {
        /// Its place in a session, if a retry elsewhere must not execute it twice.
        session: Option<InSession>,
        /// The command, in the state machine's encoding.
        body: Bytes,
        /// How long the client waits.
        timeout: Duration,
    },
    /// Open a session under a name that the client drew at random.
    OpenSession {
        /// The name.
        session: SessionId,
        /// How long the client waits.
        timeout: Duration,
    },
    /// Read.
    Read {
        /// How fresh.
        level: Level,
        /// What is read.
        footprint: Footprint,
        /// The query, in the state machine's encoding. `None`: the driver reads the machine itself as soon as it has the reply;
        /// in a partial order only for one key.
        query: Option<Bytes>,
        /// How long the client waits.
        timeout: Duration,
    },
    /// Change who is in, or by which strategy the group decides. The reply's body is a [`concur_peers::Outcome`].
    Change {
        /// What.
        change: Reconfiguration,
        /// How long the client waits.
        timeout: Duration,
    },
}

/// A reply: the state machine's bytes (empty where the driver reads the machine itself), and a stamp.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    /// The reply or answer.
    pub body: Bytes,
    /// Its freshness.
    pub stamp: Stamp,
}

/// Why there is no reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Refused {
    /// A queue is full; nothing was done. Try again later.
    Busy,
    /// Nothing was done before the client's time was up.
    Expired,
    /// The command was proposed and not seen executed before the client's time was up: it may still be.
    Unknown,
    /// The session is not known: it expired or was never opened. Nothing was done.
    NoSession,
    /// The replica is stopping; nothing was done.
    Stopping,
    /// In a partial order this needs a query that can be decided as a command.
    NeedsQuery,
    /// The command is larger than a batch can carry.
    TooLarge,
}

/// Something to send to one peer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outgoing {
    /// To whom; never oneself.
    pub to: ReplicaId,
    /// Whether it must not wait behind bulk.
    pub urgent: bool,
    /// An encoded [`concur_network::Envelope`].
    pub bytes: Bytes,
}

/// Changes of the durable image, and the mark that they lead to.
#[derive(Debug, Clone)]
pub struct Bulk {
    /// The changes, later ones over earlier ones.
    pub changes: Vec<Change>,
    /// Where the image stands after them.
    pub mark: Mark<Bytes>,
    /// Whether something waits until they are durable: the engine is not to take its time.
    pub urgent: bool,
}

/// What a replica starts from: nothing, or what its log and engine hold.
#[derive(Debug, Clone, Default)]
pub struct Recovered {
    /// The records since the last checkpoint, that checkpoint's included, oldest first.
    pub records: Vec<Bytes>,
    /// The engine's durable image, in any order; empty if there is none.
    pub image: Vec<(Bytes, Bytes)>,
}

/// What a step asks the driver to do. The sends may leave at once; then the records are to be written and synced in order, and
/// [`Event::Durable`] told with `through`.
#[derive(Debug, Default)]
pub struct Output {
    /// Records to append to the log, oldest first.
    pub records: Vec<Bytes>,
    /// The ticket of the last record.
    pub through: Ticket,
    /// Messages that may leave now.
    pub sends: Vec<Outgoing>,
    /// Replies to clients.
    pub replies: Vec<(Token, Result<Reply, Refused>)>,
    /// What the engine is to write, off the reply path.
    pub bulk: Option<Bulk>,
    /// The whole image to replace the engine's with, atomically; then [`Event::Stored`] is told. Goes before `bulk`.
    pub install: Option<Bulk>,
    /// Transitions that were passed, for traces and coverage.
    pub notes: Vec<(&'static str, Option<Instance>)>,
    /// The instances executed in this step, in order, with their epochs, and the batch that each decided, if
    /// [`Settings::record_executions`] is on.
    pub executed: Vec<(Epoch, Instance, Option<BatchId>)>,
    /// What the protocol decided here in this step, if that is on.
    pub decided: Vec<Decision>,
    /// Whether the machine's state changed.
    pub changed: bool,
    /// The configuration, when it changed in this step: whom to reach where, and who is told what happens to connections.
    pub configuration: Option<Arc<Configuration>>,
}

impl Output {
    /// Empties everything, keeping the space.
    pub fn clear(&mut self) {
        self.records.clear();
        self.sends.clear();
        self.replies.clear();
        self.bulk = None;
        self.install = None;
        self.notes.clear();
        self.executed.clear();
        self.decided.clear();
        self.changed = false;
        self.configuration = None;
    }

    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.records.is_empty() && self.sends.is_empty() && self.replies.is_empty() && self.bulk.is_none() && self.install.is_none()
    }
}

/// Something that the protocol decided.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision {
    /// In which epoch.
    pub epoch: Epoch,
    /// Where.
    pub run: Run,
    /// What.
    pub value: Value,
    /// How it relates to others, encoded.
    pub order: Bytes,
    /// For a graph: a number a lane, below which everything that interferes comes first.
    pub dependencies: Option<Vec<u64>>,
}

/// What a replica says of itself.
#[derive(Debug, Clone)]
pub struct Status {
    /// What its protocol says.
    pub protocol: Inspection,
    /// What it has executed.
    pub executed: Frontier,
    /// What its engine holds durably.
    pub stored: Frontier,
    /// What the other members last said of themselves.
    pub peers: Vec<(ReplicaId, PeerStatus)>,
    /// Commands that wait for a batch.
    pub pending_commands: usize,
    /// Batches of its clients that are undecided.
    pub batches_in_flight: usize,
    /// Decided instances that wait for others before they can be executed.
    pub unexecuted: usize,
    /// Whether it is fetching state from a peer.
    pub fetching: bool,
    /// Who is in.
    pub configuration: Arc<Configuration>,
    /// What this replica is: `voter`, `observer`, `joining`, `removed`, or `sealed` while it passes from one epoch to the next.
    pub role: &'static str,
    /// From whom it follows, if it does.
    pub follows: Option<ReplicaId>,
    /// The change that it proposed and that is not decided, in words.
    pub change: Option<String>,
    /// How long the latest passage took here, from the execution of the seal to the first vote in the next epoch.
    pub passage: Option<Duration>,
}

/// What a member last said of itself, or is known of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerStatus {
    /// What it has executed.
    pub executed: Frontier,
    /// And holds durably.
    pub stored: Frontier,
    /// How long ago it was heard.
    pub silent: Duration,
    /// The life of its disk; 0 if it has not said.
    pub incarnation: u64,
    /// By how many decisions it lags behind this replica, as far as that can be told; `None` if it is in another epoch.
    pub lag: Option<u64>,
}
