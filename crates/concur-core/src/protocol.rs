//! The contract of a protocol: one replica's vote in one epoch of one group, a state machine with one door.
//!
//! A protocol takes an [`Input`] and asks for [`Effect`]s; it performs none. Its durability order is data: a message sent with
//! [`Context::send`] leaves once everything persisted before it is durable, and that holds for messages to oneself, so that a
//! replica's own vote counts only when it is safe. [`Context::send_after`] names the one record that a message waits for; it is
//! allowed only where a restart that loses the later records cannot contradict the message.
//!
//! What is not in the contract: membership, log positions, truncation, leaders, snapshots, sockets, clocks. What protocols share
//! without being asked (batching, forwarding, retry, at-most-once, catch-up by state) belongs to the replica.

use crate::{
    BatchId, BootCount, Delay, Epoch, Frontier, GroupId, Instance, LaneId, Phase, QuorumSystem, ReadId, ReplicaId, ReplicaSet, Rng, Run,
    Ticket, Time, Value, Wire,
};
use std::fmt;
use std::hash::Hash;
use std::sync::Arc;
use std::time::Duration;

/// One replica's vote in one epoch of one group.
///
/// `step` cannot fail: a malformed or stale message is dropped with a note; a broken invariant panics. Links lose, duplicate,
/// delay and reorder; a protocol retransmits by timers.
pub trait Protocol: Sized + Clone + Hash + fmt::Debug + 'static {
    /// What replicas send each other.
    type Message: Wire + Clone + Hash + fmt::Debug + Urgent;
    /// What must survive a crash.
    type Record: Wire + Clone + Hash + fmt::Debug;
    /// What can be waited for.
    type Timer: Copy + Ord + Hash + fmt::Debug;
    /// How decided instances relate: nothing, a term, dependencies.
    type Order: Order;
    /// What it is and promises.
    const TRAITS: Traits;

    /// The quorums it needs among these voters, unless the user chose others.
    fn quorums(voters: ReplicaSet) -> QuorumSystem {
        QuorumSystem::majority(voters)
    }

    /// Starts, from nothing or from what was persisted. Decides again, through `cx`, what the records say was decided beyond the
    /// mark: deciding equally twice is nothing.
    fn recover(boot: Boot<Self>, cx: &mut Context<Self>) -> Result<Self, Corrupt>;

    /// Takes one input.
    fn step(&mut self, input: Input<Self>, cx: &mut Context<Self>);

    /// Everything that it still needs of what it persisted: recovering from these records alone is as good as from all.
    fn checkpoint(&self) -> Vec<Self::Record>;

    /// What a person or a test wants to know, in one shape for every protocol.
    fn inspect(&self) -> Inspection;
}

/// Whether a message must not wait behind bulk: elections, heartbeats, leases.
pub trait Urgent {
    /// True if it travels in the lane of its own.
    fn urgent(&self) -> bool {
        false
    }
}

/// How decided instances relate.
pub trait Order: Wire + Clone + PartialEq + Hash + fmt::Debug {
    /// For a graph: for each lane, every interfering instance below this number comes before. `None` where slots are ordered by
    /// number.
    fn dependencies(&self) -> Option<&[u64]> {
        None
    }
}

impl Order for () {}

/// What a replica starts from.
#[derive(Debug, Clone)]
pub struct Boot<P: Protocol> {
    /// The records since the last checkpoint, oldest first, that checkpoint's included.
    pub records: Vec<P::Record>,
    /// How far the executed state that this replica holds has come.
    pub mark: Mark<P::Order>,
    /// Who leads the epoch at first, named by the seal before it.
    pub first: Option<ReplicaId>,
    /// Whether this is the run of the process that entered the epoch: only then may `first` use its ballot.
    pub fresh: bool,
    /// The process's run.
    pub boot: BootCount,
}

/// A frontier with what a protocol must know of the order at its edge.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Mark<O> {
    /// What is executed.
    pub frontier: Frontier,
    /// The order of the last executed instance, a lane.
    pub orders: Vec<Option<O>>,
}

impl<O> Mark<O> {
    /// The start of an epoch.
    pub fn start(epoch: Epoch) -> Self {
        Self { frontier: Frontier::start(epoch), orders: Vec::new() }
    }

    /// The order of the last executed instance of `lane`.
    pub fn order(&self, lane: LaneId) -> Option<&O> {
        self.orders.get(usize::from(lane.0)).and_then(Option::as_ref)
    }
}

impl<O: Wire> Wire for Mark<O> {
    fn put(&self, out: &mut Vec<u8>) {
        self.frontier.put(out);
        self.orders.put(out);
    }
    fn get(r: &mut crate::Reader) -> Result<Self, crate::Malformed> {
        Ok(Self { frontier: Wire::get(r)?, orders: Wire::get(r)? })
    }
}

/// What can come to a protocol.
#[derive(Debug, Clone)]
pub enum Input<P: Protocol> {
    /// Propose this batch or seal. It may have been proposed before, here or elsewhere, under the same id.
    Submit(Value),
    /// A message; the sender may be oneself.
    Receive {
        /// Who sent it.
        from: ReplicaId,
        /// What.
        message: P::Message,
    },
    /// An armed timer is due.
    Expired(P::Timer),
    /// Execution waits for the decision of this instance.
    Wanted(Instance),
    /// Find a frontier whose execution makes a read of this footprint linearizable: answer with [`Context::read_at`]. One id
    /// stands for all reads that wait.
    Read {
        /// Its name.
        id: ReadId,
        /// What the reads touch.
        footprint: crate::Footprint,
    },
    /// State up to this mark was installed from a peer and is durable.
    Installed(Mark<P::Order>),
    /// The decisions up to here are executed wherever this protocol needs them to be ([`Traits::floor`]) and may be forgotten.
    Floor(Frontier),
    /// Something was noticed about the connection to a peer: a hint, never a proof.
    Peer(ReplicaId, Health),
    /// The node is about to stop: hand over what only this replica can do.
    Leave,
}

/// A hint about a peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Health {
    /// The connection works.
    Up,
    /// The connection was reset or refused: the process is probably gone.
    Down,
}

/// Why a proposal or a read is not taken up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Refusal {
    /// Somebody else can, if it is known who.
    Redirect(Option<ReplicaId>),
    /// It was given up and will not be decided here unless it is submitted again.
    Lost,
    /// Too much is under way.
    Busy,
}

/// What a protocol asks for.
#[derive(Debug, Clone)]
pub enum Effect<P: Protocol> {
    /// Persist this record. Records are durable in the order in which they were asked for.
    Persist(P::Record),
    /// Send to each of `to`, oneself perhaps included, once everything up to `after` is durable.
    Send {
        /// To whom.
        to: ReplicaSet,
        /// What.
        message: P::Message,
        /// Durable first.
        after: Ticket,
    },
    /// Send to a quorum of the volume's choice; `attempt` counts from 0, and later ones go to everyone. Oneself is included.
    Solicit {
        /// Which quorum it is for.
        phase: Phase,
        /// How often it was asked before.
        attempt: u32,
        /// What.
        message: P::Message,
        /// Durable first.
        after: Ticket,
    },
    /// Wake me with `Expired(timer)`; arming again replaces.
    Arm {
        /// Which.
        timer: P::Timer,
        /// When.
        due: Time,
    },
    /// Never mind.
    Disarm {
        /// Which.
        timer: P::Timer,
    },
    /// These instances are decided. More than one only for no-ops.
    Decide {
        /// Which.
        run: Run,
        /// What.
        value: Value,
        /// How it relates to others.
        order: P::Order,
    },
    /// The reads `id` may be served once `frontier` is executed.
    ReadAt {
        /// Which.
        id: ReadId,
        /// When.
        frontier: Frontier,
    },
    /// A proposal is not taken up.
    Refuse {
        /// Which.
        id: BatchId,
        /// Why.
        reason: Refusal,
    },
    /// A round of reads is not taken up.
    RefuseRead {
        /// Which.
        id: ReadId,
        /// Why.
        reason: Refusal,
    },
    /// What this replica lacks is forgotten at `from`, or was never kept: fetch its state, which covers at least `frontier`.
    Fetch {
        /// Who has it.
        from: ReplicaId,
        /// What it covers.
        frontier: Frontier,
    },
    /// One of [`Traits::transitions`] was passed.
    Note {
        /// Which.
        name: &'static str,
        /// Where, if at an instance.
        instance: Option<Instance>,
    },
}

/// What one member knows of its group, the same for every protocol.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// The group.
    pub group: GroupId,
    /// The epoch.
    pub epoch: Epoch,
    /// This replica.
    pub me: ReplicaId,
    /// Who votes and how many are enough. `quorums.voters` are the voters.
    pub quorums: QuorumSystem,
    /// How often an idle leader or coordinator shows that it lives.
    pub heartbeat: Duration,
    /// How long silence lasts before somebody else takes over; each protocol draws from one to two of these.
    pub election: Duration,
    /// How many proposals of one proposer may be undecided.
    pub window_max: usize,
    /// How many bytes of values one message may carry.
    pub message_bytes_max: usize,
    /// How many bytes of decided values are kept for replicas that lag, beyond what must be kept.
    pub retained_bytes_max: usize,
}

impl Config {
    /// Who votes.
    pub fn voters(&self) -> ReplicaSet {
        self.quorums.voters
    }

    /// The voters but this replica.
    pub fn others(&self) -> ReplicaSet {
        self.quorums.voters.without(self.me)
    }

    /// This replica's place among the voters, in order, if it votes.
    pub fn index(&self) -> Option<usize> {
        self.quorums.voters.iter().position(|id| id == self.me)
    }
}

/// What a protocol is given to see and to ask with.
#[derive(Debug)]
pub struct Context<P: Protocol> {
    /// The time, sampled after the input was taken from its queue.
    pub now: Time,
    /// Randomness of this replica's own.
    pub rng: Rng,
    /// The group's configuration.
    pub config: Arc<Config>,
    effects: Vec<Effect<P>>,
    persisted: Ticket,
}

impl<P: Protocol> Context<P> {
    /// A context for one replica's run, which has persisted nothing yet.
    pub fn new(now: Time, rng: Rng, config: Arc<Config>) -> Self {
        Self { now, rng, config, effects: Vec::new(), persisted: Ticket(0) }
    }

    /// Persists a record; the ticket names it.
    pub fn persist(&mut self, record: P::Record) -> Ticket {
        self.effects.push(Effect::Persist(record));
        self.persisted.0 += 1;
        self.persisted
    }

    /// The ticket of the last record persisted, `Ticket(0)` if there is none in this run.
    pub fn persisted(&self) -> Ticket {
        self.persisted
    }

    /// Sends to each of `to` once everything persisted so far is durable.
    pub fn send(&mut self, to: ReplicaSet, message: P::Message) {
        self.send_after(self.persisted, to, message);
    }

    /// Sends once `ticket` is durable, which may be before later records are: only for messages that a restart that loses those
    /// cannot contradict. Each use carries its argument.
    pub fn send_after(&mut self, ticket: Ticket, to: ReplicaSet, message: P::Message) {
        if !to.is_empty() {
            self.effects.push(Effect::Send { to, message, after: ticket });
        }
    }

    /// Sends to a quorum for `phase` that the volume chooses, oneself included, once everything persisted so far is durable.
    pub fn solicit(&mut self, phase: Phase, attempt: u32, message: P::Message) {
        self.effects.push(Effect::Solicit { phase, attempt, message, after: self.persisted });
    }

    /// Wakes this protocol with `timer` after a while; arming again replaces.
    pub fn arm(&mut self, timer: P::Timer, after: Duration) {
        let due = self.now + after;
        self.effects.push(Effect::Arm { timer, due });
    }

    /// Takes an armed timer back.
    pub fn disarm(&mut self, timer: P::Timer) {
        self.effects.push(Effect::Disarm { timer });
    }

    /// Hands a decision to execution, at once. Deciding equally twice is nothing.
    pub fn decide(&mut self, run: impl Into<Run>, value: Value, order: P::Order) {
        let run = run.into();
        assert!(run.count == 1 || value.is_noop(), "a run of instances is decided only for no-ops");
        self.effects.push(Effect::Decide { run, value, order });
    }

    /// The reads `id` may be served once `frontier` is executed.
    pub fn read_at(&mut self, id: ReadId, frontier: Frontier) {
        self.effects.push(Effect::ReadAt { id, frontier });
    }

    /// A proposal is not taken up, or was given up.
    pub fn refuse(&mut self, id: BatchId, reason: Refusal) {
        self.effects.push(Effect::Refuse { id, reason });
    }

    /// A round of reads is not taken up, or was given up.
    pub fn refuse_read(&mut self, id: ReadId, reason: Refusal) {
        self.effects.push(Effect::RefuseRead { id, reason });
    }

    /// What is lacked here is no longer kept at `from`, whose state covers at least `frontier`: get it.
    pub fn fetch(&mut self, from: ReplicaId, frontier: Frontier) {
        self.effects.push(Effect::Fetch { from, frontier });
    }

    /// One of the transitions of [`Traits::transitions`] was passed.
    pub fn note(&mut self, name: &'static str, instance: Option<Instance>) {
        debug_assert!(P::TRAITS.transitions.contains(&name), "{name} is not among the transitions listed");
        self.effects.push(Effect::Note { name, instance });
    }

    /// What was asked for since the last call.
    pub fn take_effects(&mut self) -> Vec<Effect<P>> {
        std::mem::take(&mut self.effects)
    }

    /// What was asked for since the last call, into a buffer whose space is used again.
    pub fn swap_effects(&mut self, into: &mut Vec<Effect<P>>) {
        into.clear();
        std::mem::swap(&mut self.effects, into);
    }
}

/// Which family of decision making a protocol belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    /// Any replica prepares and proposes for a slot.
    Classic,
    /// One leader proposes.
    Leadership,
    /// Ownership rotates.
    Ballots,
    /// Values are chosen without a leader unless they collide.
    Optimistic,
}

/// What decided instances are ordered by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Ordering {
    /// One lane of slots, executed in order.
    Total,
    /// A lane a voter and a graph of dependencies: what does not interfere is not ordered.
    Partial,
}

/// Who must have executed a decision before it may be forgotten.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Floor {
    /// This replica, durably; who lags further is given state.
    Local,
    /// Every voter.
    AllVoters,
}

/// What a protocol is and promises: what the registry prints.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Traits {
    /// The word that chooses it: lower case.
    pub name: &'static str,
    /// Its name in the literature.
    pub title: &'static str,
    /// The paper, with authors and year.
    pub paper: &'static str,
    /// Its family.
    pub family: Family,
    /// What it orders.
    pub order: Ordering,
    /// Who must have executed before it may forget.
    pub floor: Floor,
    /// Whether one replica at a time proposes.
    pub has_leader: bool,
    /// Whether the ballot that it shows is promised for all instances at once: durable, and never falling. Otherwise instances have
    /// ballots of their own, and the highest of those that are open is shown.
    pub one_ballot: bool,
    /// What a write waits for at rest, as a closed form of the round trips.
    pub delay: Delay,
    /// Message delays until a client at a replica has its answer.
    pub delays: &'static str,
    /// Its quorums, in words.
    pub quorums: &'static str,
    /// How strong reads are served.
    pub reads: &'static str,
    /// When to choose it.
    pub choose: &'static str,
    /// When not.
    pub avoid: &'static str,
    /// The transitions that an examination must see, each passed to [`Context::note`].
    pub transitions: &'static [&'static str],
}

/// What a replica's protocol says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Inspection {
    /// "leader", "follower", "candidate", "replica".
    pub role: &'static str,
    /// The highest ballot, term or round seen.
    pub ballot: u64,
    /// Who proposes, where one replica does and it is known.
    pub leader: Option<ReplicaId>,
    /// How many instances are known and not decided.
    pub undecided: u64,
    /// How many instances are kept in memory.
    pub retained: u64,
    /// And their bytes, about.
    pub retained_bytes: u64,
    /// Whatever else helps a person, as names and values.
    pub details: Vec<(&'static str, String)>,
}

/// Records or an image that contradict themselves: this replica must not vote with them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Corrupt {
    /// What is wrong.
    pub what: String,
}

impl Corrupt {
    /// Says what is wrong.
    pub fn new(what: impl Into<String>) -> Self {
        Self { what: what.into() }
    }
}

impl fmt::Display for Corrupt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "corrupt records: {}", self.what)
    }
}

impl std::error::Error for Corrupt {}

impl From<crate::Malformed> for Corrupt {
    fn from(error: crate::Malformed) -> Self {
        Self::new(error.to_string())
    }
}
