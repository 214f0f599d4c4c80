//! Accepting: the service that peers' streams come to.

use super::{Directory, FromPeer, INBOX_MAX, Life, MESSAGE_BYTES_MAX, Me, check_hello, sound_urls};
use crate::serve::Answering;
use concur_core::Wire;
use concur_proto::concur::peer::v1::peer_server::{Peer as PeerService, PeerServer};
use concur_proto::concur::peer::v1::{ClusterReply, ClusterRequest, Frames, Group, Hello};
use http::Request;
use hyper::body::Incoming;
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Response, Status, Streaming};
use tower_service::Service;

/// How long a caller may take to say who it is.
const HELLO_TIME_MAX: Duration = Duration::from_secs(5);

/// Serves the peers' listener.
#[derive(Clone)]
pub(crate) struct Acceptor {
    server: PeerServer<Accepting>,
}

impl Acceptor {
    pub(super) fn new(me: Me, directory: Arc<Mutex<Directory>>, known: BTreeMap<u64, Life>, inbox: mpsc::Sender<FromPeer>) -> Self {
        let lives = known.into_iter().map(|(id, life)| (id, Caller { life, stream: 0 })).collect();
        let accepting = Accepting { me, directory, callers: Arc::new(Mutex::new(lives)), inbox };
        Self { server: PeerServer::new(accepting).max_decoding_message_size(MESSAGE_BYTES_MAX) }
    }
}

impl Service<Request<Incoming>> for Acceptor {
    type Response = http::Response<tonic::body::Body>;
    type Error = Infallible;
    type Future = Answering;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Incoming>) -> Answering {
        self.server.call(request)
    }
}

#[derive(Clone)]
struct Accepting {
    me: Me,
    directory: Arc<Mutex<Directory>>,
    callers: Arc<Mutex<BTreeMap<u64, Caller>>>,
    inbox: mpsc::Sender<FromPeer>,
}

/// What is known of a member that called, and its newest stream; older ones are not read any more.
#[derive(Debug, Clone, Copy, Default)]
struct Caller {
    life: Life,
    stream: u64,
}

impl Accepting {
    /// Takes a caller up, and names its stream.
    fn admit(&self, hello: &Hello) -> Result<(u64, u64), String> {
        let directory = self.directory.lock().unwrap_or_else(PoisonError::into_inner);
        let mut callers = self.callers.lock().unwrap_or_else(PoisonError::into_inner);
        let known = callers.get(&hello.node).copied().unwrap_or_default();
        check_hello(&self.me, hello, directory.peers.get(&hello.node), known.life)?;
        let caller = callers.entry(hello.node).or_default();
        caller.life = Life { incarnation: hello.incarnation, boot: hello.boot };
        caller.stream += 1;
        Ok((hello.node, caller.stream))
    }

    /// Whether somebody of this cluster calls whom no configuration known here lists: it may have come in while this node was away.
    fn is_stranger(&self, hello: &Hello) -> bool {
        let directory = self.directory.lock().unwrap_or_else(PoisonError::into_inner);
        let ours = hello.cluster == self.me.cluster && hello.to == self.me.node;
        ours && !hello.peer.is_empty() && hello.peer.len() <= 256 && !directory.peers.contains_key(&hello.node)
    }

    /// The groups in which the caller is listed, by its name or by where it is reached.
    fn groups_of(&self, request: &ClusterRequest) -> Vec<Group> {
        let directory = self.directory.lock().unwrap_or_else(PoisonError::into_inner);
        let lists = |listed: &&super::Listed| {
            let members = &listed.configuration.members;
            members.iter().any(|member| member.name == request.name || request.peers.contains(&member.peer))
        };
        let group = |listed: &super::Listed| Group {
            id: listed.id.0,
            namespace: listed.namespace.clone(),
            per_key: listed.per_key,
            configuration: listed.configuration.to_bytes(),
        };
        directory.groups.iter().filter(lists).map(group).collect()
    }

    fn is_newest(&self, id: u64, stream: u64) -> bool {
        let callers = self.callers.lock().unwrap_or_else(PoisonError::into_inner);
        callers.get(&id).is_some_and(|caller| caller.stream == stream)
    }

    async fn read(self, id: u64, stream: u64, mut frames: Streaming<Frames>, _open: mpsc::Sender<Result<Frames, Status>>) {
        while let Ok(Some(message)) = frames.message().await {
            if !self.is_newest(id, stream) || self.inbox.send(FromPeer::Frames(id, message.frames)).await.is_err() {
                return;
            }
        }
    }
}

#[tonic::async_trait]
impl PeerService for Accepting {
    type StreamStream = ReceiverStream<Result<Frames, Status>>;

    async fn stream(&self, request: tonic::Request<Streaming<Frames>>) -> Result<Response<Self::StreamStream>, Status> {
        let mut frames = request.into_inner();
        let first = tokio::time::timeout(HELLO_TIME_MAX, frames.message()).await;
        let first = first.map_err(|_| Status::deadline_exceeded("no hello came"))??;
        let hello = first.and_then(|first| first.hello).ok_or_else(|| Status::invalid_argument("a stream begins with a hello"))?;
        let (id, stream) = self.admit(&hello).map_err(|why| {
            tracing::warn!(node = format!("{:016x}", hello.node), "a peer was refused: {why}");
            if self.is_stranger(&hello) {
                let _ = self.inbox.try_send(FromPeer::Stranger(hello.peer.clone()));
            }
            Status::failed_precondition(why)
        })?;
        let life = Life { incarnation: hello.incarnation, boot: hello.boot };
        self.inbox
            .send(FromPeer::Met(id, life, sound_urls(&hello.client_urls)))
            .await
            .map_err(|_| Status::unavailable("the node is stopping"))?;
        let (open, answers) = mpsc::channel(INBOX_MAX);
        let answer = Frames { hello: Some(self.me.hello(hello.node)), frames: Vec::new() };
        open.try_send(Ok(answer)).map_err(|_| Status::internal("no room for a hello"))?;
        tokio::spawn(self.clone().read(id, stream, frames, open));
        Ok(Response::new(ReceiverStream::new(answers)))
    }

    async fn cluster(&self, request: tonic::Request<ClusterRequest>) -> Result<Response<ClusterReply>, Status> {
        let request = request.into_inner();
        if request.token != self.me.token {
            return Err(Status::failed_precondition("this cluster has another token (--initial-cluster-token): correct it"));
        }
        let groups = self.groups_of(&request);
        if groups.is_empty() {
            return Err(Status::not_found(format!(
                "no member of this cluster is called {0}: run `concur member add {0} PEER-URL`",
                request.name
            )));
        }
        Ok(Response::new(ClusterReply { cluster: self.me.cluster, groups }))
    }
}
