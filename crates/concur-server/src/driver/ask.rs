//! What may be asked of a group, whatever its state machine, and the handle to ask with.
//!
//! The queue is bounded; when it is full a request is refused at once. Every request is answered once.

use bytes::Bytes;
use concur_core::{Footprint, GroupId, SessionId, StateMachine};
use concur_peers::{Change, Configuration, Member};
pub use concur_replica::{InSession, Level, Refused, Reply, Stamp};
use concur_store::engine::{EngineError, EngineRead, View};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, oneshot};

/// The answer to a command or a query.
pub type Answer = Result<Reply, Refused>;

/// Called once with the state of a read, on the node's thread.
pub type Look<M> = Box<dyn FnOnce(Result<(&M, Stamp), Refused>) + Send>;

/// What is asked.
pub enum Ask<M> {
    /// Execute a command.
    Command {
        /// Its place in a session, if it has one.
        session: Option<InSession>,
        /// In the state machine's encoding.
        body: Bytes,
        /// When the caller stops waiting.
        deadline: Instant,
        /// Where the answer goes.
        reply: oneshot::Sender<Answer>,
    },
    /// Open a session.
    Open {
        /// Its name, drawn at random.
        session: SessionId,
        /// When the caller stops waiting.
        deadline: Instant,
        /// Where the answer goes.
        reply: oneshot::Sender<Answer>,
    },
    /// Answer a query in the state machine's encoding.
    Query {
        /// How fresh.
        level: Level,
        /// The query.
        body: Bytes,
        /// When the caller stops waiting.
        deadline: Instant,
        /// Where the answer goes.
        reply: oneshot::Sender<Answer>,
    },
    /// Look at the state.
    Look {
        /// How fresh.
        level: Level,
        /// What is read.
        footprint: Footprint,
        /// When the caller stops waiting.
        deadline: Instant,
        /// What is called with it.
        run: Look<M>,
    },
    /// Change who is in, or the strategy.
    Change {
        /// What.
        change: Change,
        /// When the caller stops waiting.
        deadline: Instant,
        /// Where the answer goes; its body is a [`concur_peers::Outcome`].
        reply: oneshot::Sender<Answer>,
    },
    /// Leave to look at the whole executed state where it is kept, as of a barrier if one can be had in time.
    Kept {
        /// When the barrier is given up.
        deadline: Instant,
        /// Where the leave goes.
        reply: oneshot::Sender<Kept>,
    },
    /// Say how the group is.
    Status(oneshot::Sender<GroupStatus>),
}

/// A group's executed state where it is kept, with everything that this node had executed.
#[derive(Clone)]
pub struct Kept {
    pub(crate) engine: Arc<dyn EngineRead>,
    pub(crate) group: GroupId,
    /// Whether it holds everything that was acknowledged when it was asked for.
    pub caught_up: bool,
}

impl Kept {
    /// A view that stays as it is. Reads from the disk: not on the node's thread.
    pub fn view(&self) -> Result<View, EngineError> {
        let nothing = || EngineError { operation: "read", full: false, message: "the group has no state".into() };
        self.engine.view(self.group)?.ok_or_else(nothing)
    }
}

impl std::fmt::Debug for Kept {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Kept").field("group", &self.group).field("caught_up", &self.caught_up).finish_non_exhaustive()
    }
}

/// A member of a group, as one node sees it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MemberStatus {
    /// What the configuration says of it.
    pub member: Member,
    /// Its id.
    pub node: u64,
    /// Whether it was heard lately; a node hears itself.
    pub heard: bool,
    /// The epoch that it said to be in.
    pub epoch: u64,
    /// By how many decisions it lags behind this node, if it is in the same epoch.
    pub lag: Option<u64>,
}

/// How a group is, as one node sees it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct GroupStatus {
    /// The configuration in force.
    pub configuration: Arc<Configuration>,
    /// What this node is in it: "voter", "observer", "joining", "sealed", "removed".
    pub seat: &'static str,
    /// The change that this node proposed and that is not decided, in words.
    pub change: Option<String>,
    /// How long the latest passage to another epoch took here.
    pub passage: Option<Duration>,
    /// Everybody.
    pub members: Vec<MemberStatus>,
    /// From whom this node follows; 0: from nobody.
    pub follows: u64,
    /// The group.
    pub group: GroupId,
    /// The namespace.
    pub namespace: String,
    /// The strategy.
    pub strategy: &'static str,
    /// "leader", "follower", "candidate", "replica".
    pub role: &'static str,
    /// The epoch.
    pub epoch: u64,
    /// The member that leads or stands for it, by id; 0: none known.
    pub leader: u64,
    /// Its term, or what stands for it.
    pub term: u64,
    /// Instances executed.
    pub executed: u64,
    /// Of these, how many the engine holds durably.
    pub stored: u64,
    /// Instances known and not executed.
    pub behind: u64,
    /// Commands that wait.
    pub pending: u64,
    /// The store's revision; 0 if it has none.
    pub revision: u64,
    /// The members that vote, by id.
    pub voters: Vec<u64>,
    /// What is wrong, in words.
    pub errors: Vec<String>,
}

/// A handle to one group on one node.
pub struct Handle<M> {
    asks: mpsc::Sender<Ask<M>>,
}

impl<M> Clone for Handle<M> {
    fn clone(&self) -> Self {
        Self { asks: self.asks.clone() }
    }
}

impl<M> std::fmt::Debug for Handle<M> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Handle")
    }
}

impl<M: StateMachine> Handle<M> {
    pub(crate) fn new(asks_max: usize) -> (Self, mpsc::Receiver<Ask<M>>) {
        let (asks, receiver) = mpsc::channel(asks_max);
        (Self { asks }, receiver)
    }

    /// Executes a command, at most once if it has a place in a session.
    pub async fn execute(&self, session: Option<InSession>, body: Bytes, timeout: Duration) -> Answer {
        let deadline = Instant::now() + timeout;
        self.ask(|reply| Ask::Command { session, body, deadline, reply }).await?
    }

    /// Opens a session.
    pub async fn open_session(&self, session: SessionId, timeout: Duration) -> Answer {
        let deadline = Instant::now() + timeout;
        self.ask(|reply| Ask::Open { session, deadline, reply }).await?
    }

    /// Answers a query.
    pub async fn query(&self, level: Level, body: Bytes, timeout: Duration) -> Answer {
        let deadline = Instant::now() + timeout;
        self.ask(|reply| Ask::Query { level, body, deadline, reply }).await?
    }

    /// Looks at the state as of a barrier of `level`. In a partial order a strong look is at one key.
    pub async fn look<T, F>(&self, level: Level, footprint: Footprint, timeout: Duration, look: F) -> Result<(T, Stamp), Refused>
    where
        T: Send + 'static,
        F: FnOnce(&M) -> T + Send + 'static,
    {
        let deadline = Instant::now() + timeout;
        let ask = |reply: oneshot::Sender<Result<(T, Stamp), Refused>>| Ask::Look {
            level,
            footprint,
            deadline,
            run: Box::new(move |state| {
                let _ = reply.send(state.map(|(machine, stamp)| (look(machine), stamp)));
            }),
        };
        self.ask(ask).await?
    }

    /// Changes who is in, or the strategy. The reply's body is a [`concur_peers::Outcome`].
    pub async fn change(&self, change: Change, timeout: Duration) -> Answer {
        let deadline = Instant::now() + timeout;
        self.ask(|reply| Ask::Change { change, deadline, reply }).await?
    }

    /// The whole executed state: with everything that was acknowledged by now, if the others can be asked in time; in a namespace
    /// ordered per key, as this node has it.
    pub async fn kept(&self, timeout: Duration) -> Result<Kept, Refused> {
        let deadline = Instant::now() + timeout;
        self.ask(|reply| Ask::Kept { deadline, reply }).await
    }

    /// How the group is.
    pub async fn status(&self) -> Result<GroupStatus, Refused> {
        self.ask(Ask::Status).await
    }

    async fn ask<T>(&self, ask: impl FnOnce(oneshot::Sender<T>) -> Ask<M>) -> Result<T, Refused> {
        let (reply, answer) = oneshot::channel();
        self.asks.try_send(ask(reply)).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => Refused::Busy,
            mpsc::error::TrySendError::Closed(_) => Refused::Stopping,
        })?;
        // Without an answer the node is gone: what was proposed may still be executed.
        answer.await.map_err(|_| Refused::Unknown)
    }
}
