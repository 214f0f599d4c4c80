//! The native front door: commands with sessions, reads at a level and watches, for any namespace and state machine.
//!
//! Commands and queries are bytes in the encoding of the namespace's state machine. A namespace in which this node does not vote
//! is refused with the names of those that do.
//!
//! A status says what its caller must know to try again: `ResourceExhausted` and `Unavailable` that nothing was done,
//! `DeadlineExceeded` that it may be done yet, `Aborted` that the session is not known and nothing was done,
//! `FailedPrecondition` that another node is to be asked. What is left is wrong wherever it is asked.
//!
//! In a store with auth on, a request shows a token as one of etcd's API does (it is had there), and a command or query is judged as
//! that user's; changes and snapshots are for the role `root`, everything else for users.
//!
//! Left out: levels other than strong and eventual. A weaker level than strong that this node does not serve is served strongly.

mod guard;
mod namespace;
mod snapshot;
mod watch;

pub(crate) use namespace::Namespace;

use guard::Who;

use crate::auth::Authority;
use crate::door::Door;
use crate::driver::{Answer, GroupStatus, MemberStatus};
use crate::node::NodeOptions;
use crate::peers::Me;
use bytes::Bytes;
use concur_core::{SessionId, Wire};
use concur_peers::{Change, ChangeError, Outcome};
use concur_proto::concur::v1 as pb;
use concur_proto::concur::v1::concur_server::Concur;
use concur_replica::{InSession, Level, Refused, Stamp as ReplicaStamp};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::Semaphore;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

/// How long a node tries to catch up before it is saved as it is.
const CATCH_UP_MAX: Duration = Duration::from_secs(3);
/// How often a change is looked at again for which too few of the next voters were there.
const LOOK_INTERVAL: Duration = Duration::from_millis(50);

/// The native API of one node.
#[derive(Clone)]
pub struct Native {
    shared: Arc<Shared>,
}

struct Shared {
    cluster: u64,
    node: u64,
    name: String,
    region: String,
    request_time_max: Duration,
    request_bytes_max: usize,
    namespaces: BTreeMap<String, Arc<dyn Namespace>>,
    /// Where watches of a namespace are asked for, if it has any.
    doors: BTreeMap<String, Door>,
    /// Who votes in the namespaces that are not here.
    elsewhere: BTreeMap<String, String>,
    /// Finds out who asks.
    authority: Arc<Authority>,
    /// A snapshot is a copy of the state: there is one at a time.
    snapshots: Arc<Semaphore>,
}

impl std::fmt::Debug for Native {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Native({})", self.shared.name)
    }
}

impl Native {
    pub(crate) fn new(
        options: &NodeOptions,
        me: Me,
        namespaces: BTreeMap<String, Arc<dyn Namespace>>,
        doors: BTreeMap<String, Door>,
        authority: Arc<Authority>,
    ) -> Self {
        let voters = |group: &crate::node::GroupOptions| {
            let names = group.quorums.voters.iter().filter_map(|id| options.members.get(usize::from(id.0)));
            names.map(|member| member.name.as_str()).collect::<Vec<_>>().join(", ")
        };
        let away = options.groups.iter().filter(|group| !namespaces.contains_key(&group.name));
        let shared = Shared {
            cluster: me.cluster,
            node: me.node,
            name: me.name.clone(),
            region: options.region().to_owned(),
            request_time_max: options.request_time_max,
            request_bytes_max: options.request_bytes_max,
            elsewhere: away.map(|group| (group.name.clone(), voters(group))).collect(),
            namespaces,
            doors,
            authority,
            snapshots: Arc::new(Semaphore::new(1)),
        };
        Self { shared: Arc::new(shared) }
    }

    #[allow(clippy::result_large_err)]
    fn namespace(&self, name: &str) -> Result<(&str, &Arc<dyn Namespace>), Status> {
        let name = if name.is_empty() { "default" } else { name };
        match self.shared.namespaces.get_key_value(name) {
            Some((name, namespace)) => Ok((name, namespace)),
            None => Err(match self.shared.elsewhere.get(name) {
                Some(voters) => Status::failed_precondition(format!("namespace `{name}` is not on this node; ask one of {voters}")),
                None => Status::not_found(format!("there is no namespace `{name}`")),
            }),
        }
    }

    fn timeout(&self, deadline_ms: u32) -> Duration {
        let own = Duration::from_millis(u64::from(deadline_ms));
        if own.is_zero() { self.shared.request_time_max } else { own.min(self.shared.request_time_max) }
    }

    fn stamp(&self, namespace: &str, stamp: ReplicaStamp) -> Option<pb::Stamp> {
        let level = match stamp.level {
            Level::Strong => pb::Level::Strong,
            Level::Eventual => pb::Level::Eventual,
        };
        Some(pb::Stamp {
            level: level as i32,
            namespace: namespace.to_owned(),
            epoch: stamp.epoch.0,
            position: stamp.position,
            node: self.shared.node,
            region: self.shared.region.clone(),
            name: self.shared.name.clone(),
            token: Bytes::new(),
        })
    }
}

/// Has a change decided. Where too few of the next voters are there, it is looked at again for as long as the caller waits, as any
/// request without a quorum is: a member whose disk stalled, or that was not yet heard in this epoch, is there in a moment.
async fn patiently(namespace: &Arc<dyn Namespace>, change: Change, timeout: Duration) -> Answer {
    let deadline = Instant::now() + timeout;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let reply = namespace.change(change.clone(), left).await?;
        let waits = matches!(Outcome::from_bytes(&reply.body), Ok(Outcome::Refused(ChangeError::NoQuorum { .. })));
        if !waits || deadline.saturating_duration_since(Instant::now()) <= LOOK_INTERVAL {
            return Ok(reply);
        }
        tokio::time::sleep(LOOK_INTERVAL).await;
    }
}

#[tonic::async_trait]
impl Concur for Native {
    type WatchStream = ReceiverStream<Result<pb::WatchReply, Status>>;
    type SnapshotStream = ReceiverStream<Result<pb::SnapshotPart, Status>>;

    async fn change(&self, request: Request<pb::ChangeRequest>) -> Result<Response<pb::ChangeReply>, Status> {
        let shown = guard::shown(&request);
        let request = request.into_inner();
        let (name, namespace) = self.namespace(&request.namespace)?;
        self.permit(name, &shown, Who::Root).await?;
        let change = Change::from_bytes(&request.change).map_err(|_| Status::invalid_argument("this change cannot be read"))?;
        let reply = patiently(namespace, change, self.timeout(request.deadline_ms)).await.map_err(refused)?;
        Ok(Response::new(pb::ChangeReply { outcome: reply.body, stamp: self.stamp(name, reply.stamp) }))
    }

    async fn snapshot(&self, request: Request<pb::SnapshotRequest>) -> Result<Response<Self::SnapshotStream>, Status> {
        let shown = guard::shown(&request);
        let request = request.into_inner();
        let (name, namespace) = self.namespace(&request.namespace)?;
        self.permit(name, &shown, Who::Root).await?;
        let status = namespace.status().await.map_err(refused)?;
        let taken =
            || Status::resource_exhausted("this node sends another snapshot just now: try again when it is through, or ask another member");
        let permit = self.shared.snapshots.clone().try_acquire_owned().map_err(|_| taken())?;
        let kept = namespace.kept(CATCH_UP_MAX).await.map_err(refused)?;
        let from = snapshot::From { cluster: self.shared.cluster, node: self.shared.node, group: status.group };
        Ok(Response::new(snapshot::stream(from, kept, permit)))
    }

    async fn open_session(&self, request: Request<pb::OpenSessionRequest>) -> Result<Response<pb::OpenSessionReply>, Status> {
        let shown = guard::shown(&request);
        let request = request.into_inner();
        let (name, namespace) = self.namespace(&request.namespace)?;
        self.permit(name, &shown, Who::User).await?;
        if request.session == 0 {
            return Err(Status::invalid_argument("a session has a number that is not 0"));
        }
        let timeout = self.timeout(request.deadline_ms);
        let reply = namespace.open_session(SessionId(request.session), timeout).await.map_err(refused)?;
        Ok(Response::new(pb::OpenSessionReply { stamp: self.stamp(name, reply.stamp) }))
    }

    async fn execute(&self, request: Request<pb::ExecuteRequest>) -> Result<Response<pb::ExecuteReply>, Status> {
        let shown = guard::shown(&request);
        let request = request.into_inner();
        let (name, namespace) = self.namespace(&request.namespace)?;
        if request.command.len() > self.shared.request_bytes_max {
            return Err(Status::invalid_argument(format!("a command has at most {} bytes", self.shared.request_bytes_max)));
        }
        let (number, received_below) = (request.number, request.received_below);
        if number > InSession::NUMBER_MAX {
            return Err(Status::invalid_argument(format!("a command's number in its session is at most {}", InSession::NUMBER_MAX)));
        }
        if received_below > number {
            return Err(Status::invalid_argument("the reply to this command was received already"));
        }
        let session = SessionId(request.session);
        let place = (request.session != 0).then_some(InSession { session, number, received_below });
        let command = self.command(name, &shown, request.command).await?;
        let reply = namespace.execute(place, command, self.timeout(request.deadline_ms)).await.map_err(refused)?;
        Ok(Response::new(pb::ExecuteReply { reply: reply.body, stamp: self.stamp(name, reply.stamp) }))
    }

    async fn read(&self, request: Request<pb::ReadRequest>) -> Result<Response<pb::ReadReply>, Status> {
        let shown = guard::shown(&request);
        let request = request.into_inner();
        let (name, namespace) = self.namespace(&request.namespace)?;
        let level = match pb::Level::try_from(request.level) {
            Ok(pb::Level::Eventual) => Level::Eventual,
            // A stronger level than was asked for is never wrong.
            Ok(_) => Level::Strong,
            Err(_) => return Err(Status::invalid_argument("an unknown level")),
        };
        let query = self.query(name, &shown, request.query).await?;
        let reply = namespace.query(level, query, self.timeout(request.deadline_ms)).await.map_err(refused)?;
        Ok(Response::new(pb::ReadReply { answer: reply.body, stamp: self.stamp(name, reply.stamp) }))
    }

    async fn watch(&self, request: Request<Streaming<pb::WatchRequest>>) -> Result<Response<Self::WatchStream>, Status> {
        let shown = guard::shown(&request);
        Ok(Response::new(watch::serve(self.clone(), shown, request.into_inner())))
    }

    async fn status(&self, request: Request<pb::StatusRequest>) -> Result<Response<pb::StatusReply>, Status> {
        let shown = guard::shown(&request);
        for name in self.shared.namespaces.keys() {
            self.permit(name, &shown, Who::User).await?;
        }
        let mut groups = Vec::new();
        for namespace in self.shared.namespaces.values() {
            groups.push(wire_group(namespace.status().await.map_err(refused)?));
        }
        Ok(Response::new(pb::StatusReply {
            cluster: self.shared.cluster,
            node: self.shared.node,
            name: self.shared.name.clone(),
            version: env!("CARGO_PKG_VERSION").into(),
            groups,
        }))
    }
}

fn wire_group(group: GroupStatus) -> pb::GroupStatus {
    pb::GroupStatus {
        namespace: group.namespace,
        strategy: group.strategy.into(),
        epoch: group.epoch,
        leader: group.leader,
        term: group.term,
        decided: group.executed + group.behind,
        executed: group.executed,
        revision: group.revision,
        voters: group.voters,
        observers: group.members.iter().filter(|member| !member.member.role.votes()).map(|member| member.node).collect(),
        configuration: group.configuration.to_bytes(),
        role: group.seat.into(),
        change: group.change.unwrap_or_default(),
        passage_us: group.passage.map_or(0, |passage| u64::try_from(passage.as_micros()).unwrap_or(u64::MAX)),
        follows: group.follows,
        members: group.members.into_iter().map(wire_member).collect(),
    }
}

fn wire_member(status: MemberStatus) -> pb::MemberStatus {
    let member = status.member;
    pb::MemberStatus {
        node: status.node,
        role: member.role.word().into(),
        name: member.name,
        peer: member.peer,
        client: member.client,
        region: member.region,
        weight: member.weight,
        heard: status.heard,
        epoch: status.epoch,
        lag: status.lag,
    }
}

/// What a client reads when the replica refuses.
fn refused(refused: Refused) -> Status {
    match refused {
        Refused::Busy => Status::resource_exhausted("too much waits; nothing was done, try again later"),
        Refused::Expired => Status::unavailable("the time was up before anything was done"),
        Refused::Unknown => Status::deadline_exceeded("the time was up; the command may still be executed"),
        Refused::NoSession => Status::aborted("the session is not known: it expired or was never opened; nothing was done"),
        Refused::Stopping => Status::unavailable("the node is stopping; nothing was done"),
        Refused::NeedsQuery => Status::invalid_argument("in a namespace ordered per key this must be one query"),
        Refused::TooLarge => Status::invalid_argument("the command is larger than a message can carry"),
    }
}
