//! Accepting: the service that peers' streams come to.

use super::{FromPeer, INBOX_MAX, Life, MESSAGE_BYTES_MAX, Me, Peer, check_hello, sound_urls};
use crate::serve::Answering;
use concur_core::ReplicaId;
use concur_proto::concur::peer::v1::peer_server::{Peer as PeerService, PeerServer};
use concur_proto::concur::peer::v1::{Frames, Hello, TransferChunk, TransferRequest};
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
    pub(super) fn new(me: Me, peers: Vec<Peer>, known: BTreeMap<ReplicaId, Life>, inbox: mpsc::Sender<FromPeer>) -> Self {
        let lives = known.into_iter().map(|(id, life)| (id, Caller { life, stream: 0 })).collect();
        let accepting = Accepting { me, peers: Arc::new(peers), callers: Arc::new(Mutex::new(lives)), inbox };
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
    peers: Arc<Vec<Peer>>,
    callers: Arc<Mutex<BTreeMap<ReplicaId, Caller>>>,
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
    fn admit(&self, hello: &Hello) -> Result<(ReplicaId, u64), String> {
        let peer = self.peers.iter().find(|peer| peer.node == hello.node);
        let mut callers = self.callers.lock().unwrap_or_else(PoisonError::into_inner);
        let known = peer.and_then(|peer| callers.get(&peer.replica)).copied().unwrap_or_default();
        check_hello(&self.me, hello, peer, known.life)?;
        let id = peer.map(|peer| peer.replica).ok_or("unknown")?;
        let caller = callers.entry(id).or_default();
        caller.life = Life { incarnation: hello.incarnation, boot: hello.boot };
        caller.stream += 1;
        Ok((id, caller.stream))
    }

    fn is_newest(&self, id: ReplicaId, stream: u64) -> bool {
        let callers = self.callers.lock().unwrap_or_else(PoisonError::into_inner);
        callers.get(&id).is_some_and(|caller| caller.stream == stream)
    }

    async fn read(self, id: ReplicaId, stream: u64, mut frames: Streaming<Frames>, _open: mpsc::Sender<Result<Frames, Status>>) {
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
    type TransferStream = tokio_stream::Empty<Result<TransferChunk, Status>>;

    async fn stream(&self, request: tonic::Request<Streaming<Frames>>) -> Result<Response<Self::StreamStream>, Status> {
        let mut frames = request.into_inner();
        let first = tokio::time::timeout(HELLO_TIME_MAX, frames.message()).await;
        let first = first.map_err(|_| Status::deadline_exceeded("no hello came"))??;
        let hello = first.and_then(|first| first.hello).ok_or_else(|| Status::invalid_argument("a stream begins with a hello"))?;
        let (id, stream) = self.admit(&hello).map_err(|why| {
            tracing::warn!(node = format!("{:016x}", hello.node), "a peer was refused: {why}");
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

    async fn transfer(&self, _: tonic::Request<TransferRequest>) -> Result<Response<Self::TransferStream>, Status> {
        Err(Status::unimplemented("state travels in the stream's envelopes"))
    }
}
