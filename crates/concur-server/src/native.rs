//! The native front door: commands with sessions, and reads at a level, for any namespace and state machine.
//!
//! Commands and queries are bytes in the encoding of the namespace's state machine. A namespace in which this node does not vote
//! is refused with the names of those that do.
//!
//! Left out: levels other than strong and eventual, and watches, which etcd's API on the same port serves for its namespace.

use crate::driver::{Answer, GroupStatus, Handle};
use crate::node::NodeOptions;
use crate::peers::Me;
use bytes::Bytes;
use concur_core::{Footprint, SessionId, StateMachine};
use concur_proto::concur::v1::concur_server::Concur;
use concur_proto::concur::v1::{
    ExecuteReply, ExecuteRequest, GroupStatus as WireGroup, Level as WireLevel, ReadReply, ReadRequest, Stamp, StatusReply, StatusRequest,
    WatchReply, WatchRequest,
};
use concur_replica::{InSession, Level, Refused, Stamp as ReplicaStamp};
use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;
use tonic::{Request, Response, Status, Streaming};

/// The number in a session that opens it.
pub const OPENS: u64 = 0;

type Soon<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// One namespace, whatever its state machine.
pub(crate) trait Namespace: Send + Sync {
    fn execute(&self, session: Option<InSession>, body: Bytes, timeout: Duration) -> Soon<Answer>;
    fn open_session(&self, session: SessionId, timeout: Duration) -> Soon<Answer>;
    fn query(&self, level: Level, body: Bytes, timeout: Duration) -> Soon<Answer>;
    fn status(&self) -> Soon<Result<GroupStatus, Refused>>;
}

impl<M: StateMachine> Namespace for Handle<M> {
    fn execute(&self, session: Option<InSession>, body: Bytes, timeout: Duration) -> Soon<Answer> {
        let handle = self.clone();
        Box::pin(async move { Handle::execute(&handle, session, body, timeout).await })
    }
    fn open_session(&self, session: SessionId, timeout: Duration) -> Soon<Answer> {
        let handle = self.clone();
        Box::pin(async move { Handle::open_session(&handle, session, timeout).await })
    }
    fn query(&self, level: Level, body: Bytes, timeout: Duration) -> Soon<Answer> {
        let handle = self.clone();
        // What a query touches is known to the state machine only; a read of everything is as fresh.
        Box::pin(async move { Handle::query(&handle, level, Footprint::Everything, body, timeout).await })
    }
    fn status(&self) -> Soon<Result<GroupStatus, Refused>> {
        let handle = self.clone();
        Box::pin(async move { Handle::status(&handle).await })
    }
}

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
    /// Who votes in the namespaces that are not here.
    elsewhere: BTreeMap<String, String>,
}

impl std::fmt::Debug for Native {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Native({})", self.shared.name)
    }
}

impl Native {
    pub(crate) fn new(options: &NodeOptions, me: Me, namespaces: BTreeMap<String, Arc<dyn Namespace>>) -> Self {
        let own = &options.members[usize::from(options.me.0)];
        let voters = |group: &crate::node::GroupOptions| {
            let names = group.quorums.voters.iter().filter_map(|id| options.members.get(usize::from(id.0)));
            names.map(|member| member.name.as_str()).collect::<Vec<_>>().join(", ")
        };
        let away = options.groups.iter().filter(|group| !namespaces.contains_key(&group.name));
        let shared = Shared {
            cluster: me.cluster,
            node: me.node,
            name: own.name.clone(),
            region: own.region.clone(),
            request_time_max: options.request_time_max,
            request_bytes_max: options.request_bytes_max,
            elsewhere: away.map(|group| (group.name.clone(), voters(group))).collect(),
            namespaces,
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

    fn stamp(&self, namespace: &str, stamp: ReplicaStamp) -> Option<Stamp> {
        let level = match stamp.level {
            Level::Strong => WireLevel::Strong,
            Level::Eventual => WireLevel::Eventual,
        };
        Some(Stamp {
            level: level as i32,
            namespace: namespace.to_owned(),
            epoch: stamp.epoch.0,
            revision: stamp.position,
            node: self.shared.node,
            region: self.shared.region.clone(),
            token: Bytes::new(),
        })
    }
}

#[tonic::async_trait]
impl Concur for Native {
    type WatchStream = tokio_stream::Empty<Result<WatchReply, Status>>;

    async fn execute(&self, request: Request<ExecuteRequest>) -> Result<Response<ExecuteReply>, Status> {
        let request = request.into_inner();
        let (name, namespace) = self.namespace(&request.namespace)?;
        if request.command.len() > self.shared.request_bytes_max {
            return Err(Status::invalid_argument(format!("a command has at most {} bytes", self.shared.request_bytes_max)));
        }
        let timeout = self.timeout(request.deadline_ms);
        let session = SessionId(request.session);
        let answer = match (request.session, request.number) {
            (0, _) => namespace.execute(None, request.command, timeout).await,
            (_, OPENS) => namespace.open_session(session, timeout).await,
            // A session of this door has one command under way: its client has every earlier reply.
            (_, number) => namespace.execute(Some(InSession { session, number, received_below: number }), request.command, timeout).await,
        };
        let reply = answer.map_err(refused)?;
        Ok(Response::new(ExecuteReply { reply: reply.body, stamp: self.stamp(name, reply.stamp) }))
    }

    async fn read(&self, request: Request<ReadRequest>) -> Result<Response<ReadReply>, Status> {
        let request = request.into_inner();
        let (name, namespace) = self.namespace(&request.namespace)?;
        let level = match WireLevel::try_from(request.level) {
            Ok(WireLevel::Strong) => Level::Strong,
            Ok(WireLevel::Eventual) => Level::Eventual,
            // A stronger level than was asked for is never wrong.
            Ok(_) => Level::Strong,
            Err(_) => return Err(Status::invalid_argument("an unknown level")),
        };
        let reply = namespace.query(level, request.query, self.timeout(request.deadline_ms)).await.map_err(refused)?;
        Ok(Response::new(ReadReply { answer: reply.body, stamp: self.stamp(name, reply.stamp) }))
    }

    async fn watch(&self, _: Request<Streaming<WatchRequest>>) -> Result<Response<Self::WatchStream>, Status> {
        Err(Status::unimplemented("watch through etcd's API, which this port serves too"))
    }

    async fn status(&self, _: Request<StatusRequest>) -> Result<Response<StatusReply>, Status> {
        let mut groups = Vec::new();
        for namespace in self.shared.namespaces.values() {
            groups.push(wire_group(namespace.status().await.map_err(refused)?));
        }
        Ok(Response::new(StatusReply {
            cluster: self.shared.cluster,
            node: self.shared.node,
            name: self.shared.name.clone(),
            version: env!("CARGO_PKG_VERSION").into(),
            groups,
        }))
    }
}

fn wire_group(group: GroupStatus) -> WireGroup {
    WireGroup {
        namespace: group.namespace,
        strategy: group.strategy.into(),
        epoch: group.epoch,
        leader: group.leader,
        term: group.term,
        decided: group.executed + group.behind,
        executed: group.executed,
        revision: group.revision,
        voters: group.voters,
        observers: Vec::new(),
    }
}

/// What a client reads when the replica refuses. `Unavailable` and `ResourceExhausted` say that nothing was done.
fn refused(refused: Refused) -> Status {
    match refused {
        Refused::Busy => Status::resource_exhausted("too much waits; nothing was done, try again later"),
        Refused::Expired => Status::unavailable("the time was up before anything was done"),
        Refused::Unknown => Status::deadline_exceeded("the time was up; the command may still be executed"),
        Refused::NoSession => Status::failed_precondition("the session is not known: it expired or was never opened; nothing was done"),
        Refused::Stopping => Status::unavailable("the node is stopping; nothing was done"),
        Refused::NeedsQuery => Status::invalid_argument("in a namespace ordered per key this must be one query"),
        Refused::TooLarge => Status::invalid_argument("the command is larger than a message can carry"),
    }
}
