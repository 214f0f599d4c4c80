//! A node's listeners, and which service a request on the clients' goes to.

use super::{NodeError, NodeOptions, io};
use crate::etcd::Etcd;
use crate::front::Front;
use crate::http_rules::HttpRules;
use crate::native::Native;
use crate::serve::{Answering, ServeLimits, Socket, Traffic, serve, text};
use concur_proto::concur::v1::concur_server::ConcurServer;
use concur_tls::{ServerTls, TlsError, host_port, is_tls};
use http::{Request, Response, StatusCode};
use hyper::body::Incoming;
use std::convert::Infallible;
use std::net::{SocketAddr, TcpListener, ToSocketAddrs};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tonic::body::Body;
use tower_service::Service;

/// Bound sockets, not yet served.
#[derive(Debug, Default)]
pub struct Listeners {
    sockets: Vec<(TcpListener, Option<Arc<ServerTls>>)>,
}

impl Listeners {
    /// Binds every address, `host:port`, or with `https://` before it for one with TLS. Addresses with TLS need `tls`.
    pub fn bind<'a>(addresses: impl IntoIterator<Item = &'a str>, tls: Option<&Arc<ServerTls>>) -> Result<Self, NodeError> {
        let mut sockets = Vec::new();
        for address in addresses {
            let refused = |source| NodeError::Listen { address: address.to_owned(), source };
            let own = match (is_tls(address), tls) {
                (false, _) => None,
                (true, Some(tls)) => Some(tls.clone()),
                (true, None) => return Err(TlsError::NoCertificate { address: address.to_owned(), whom: "it", prefix: "" }.into()),
            };
            let mut places: Vec<SocketAddr> = host_port(address).to_socket_addrs().map_err(refused)?.collect();
            // A name such as localhost is listened on where most look for it.
            places.sort_by_key(SocketAddr::is_ipv6);
            let socket = TcpListener::bind(&places[..]).map_err(refused)?;
            socket.set_nonblocking(true).map_err(refused)?;
            sockets.push((socket, own));
        }
        Ok(Self { sockets })
    }

    /// Where they listen.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.sockets.iter().filter_map(|(socket, _)| socket.local_addr().ok()).collect()
    }

    /// Serves each on a task of its own.
    pub(super) fn serve<S>(
        self,
        tasks: &mut JoinSet<()>,
        service: S,
        limits: ServeLimits,
        traffic: &Arc<Traffic>,
        closed: watch::Receiver<bool>,
    ) -> Result<(), NodeError>
    where
        S: Service<Request<Incoming>, Response = Response<Body>, Error = Infallible, Future = Answering> + Clone + Send + 'static,
    {
        for (socket, tls) in self.sockets {
            let listener = tokio::net::TcpListener::from_std(socket).map_err(io("cannot listen"))?;
            let socket = Socket { listener, tls, traffic: traffic.clone() };
            let (service, limits, closed) = (service.clone(), limits.clone(), closed.clone());
            tasks.spawn(async move {
                if let Err(error) = serve(socket, service, limits, closed).await {
                    tracing::error!(%error, "a listener failed");
                }
            });
        }
        Ok(())
    }
}

/// Peers are few and send much.
pub(super) fn peer_limits() -> ServeLimits {
    ServeLimits {
        connections_max: 256,
        stream_window_bytes: 16 << 20,
        connection_window_bytes: 32 << 20,
        frame_bytes_max: 1 << 20,
        ping_apart_min: Duration::ZERO,
        drain_time_max: Duration::ZERO,
        ..ServeLimits::default()
    }
}

pub(super) fn client_limits(options: &NodeOptions) -> ServeLimits {
    ServeLimits { drain_time_max: options.stop_time_max / 4, ..options.serve.clone() }
}

/// Everything that a client listener serves: etcd's API and pages where there is a store for them, and the native API.
#[derive(Debug, Clone)]
pub(super) struct Doorway {
    etcd: Option<Front>,
    native: ConcurServer<Native>,
}

impl Doorway {
    pub(super) fn new(etcd: Option<Etcd>, rules: HttpRules, native: Native, request_bytes_max: usize) -> Self {
        let native = ConcurServer::new(native).max_decoding_message_size(request_bytes_max + (512 << 10));
        Self { etcd: etcd.map(|etcd| Front::new(etcd).with_rules(rules)), native }
    }
}

impl Service<Request<Incoming>> for Doorway {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Answering;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Incoming>) -> Answering {
        if request.uri().path().starts_with("/concur.v1.Concur/") {
            return self.native.call(request);
        }
        match &mut self.etcd {
            Some(front) => front.call(request),
            None if request.uri().path() == "/livez" => Box::pin(std::future::ready(Ok(text(StatusCode::OK, "text/plain", "ok\n")))),
            None => Box::pin(std::future::ready(Ok(text(StatusCode::NOT_FOUND, "text/plain", "only the native API is served here\n")))),
        }
    }
}
