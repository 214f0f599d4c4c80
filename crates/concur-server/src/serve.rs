//! One listener that speaks HTTP/1 and gRPC over HTTP/2 on the same port.
//!
//! Connections are accepted by one task and served by one task each, on the runtime that called [`serve`]: a node is one
//! thread. The first bytes of a connection say which HTTP it is. Requests go to a [`tower_service::Service`], which is what the
//! generated gRPC services are; tonic's own server stack (balancing, layers, timeouts of its own) is not in the way.
//!
//! Everything a stranger can make the server hold is bounded by [`ServeLimits`]: connections, streams a connection, windows,
//! frames, headers. A connection beyond the limit is told so in its own protocol, for a moment, and closed; beyond
//! [`REFUSED_CONNECTIONS_MAX`] such it is closed without a word.
//!
//! When the stop signal comes, the listener closes, each connection is sent GOAWAY (or `Connection: close`) and may finish
//! what it began, until the deadline; then the rest is cut.
//!
//! A listener with TLS agrees on keys in the connection's own task, within a time; a caller that its certificate names is in the
//! extensions of its requests ([`concur_tls::ClientName`]).
//!
//! A client that pings more often than [`ServeLimits::ping_apart_min`] is cut (`pings`).
//!
//! Requests' deadlines are not here: those belong to the services.

mod counted;
mod pings;

pub use counted::Traffic;

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use concur_tls::{ServerTls, Stream};
use http::header::CONTENT_TYPE;
use http::{HeaderValue, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tonic::body::Body;
use tower_service::Service;

use counted::Counted;
use pings::Pings;

/// The future of an answer; what the generated services return.
pub type Answering = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

/// Connections beyond [`ServeLimits::connections_max`] that are told so rather than cut.
pub const REFUSED_CONNECTIONS_MAX: usize = 64;

/// How long a refused connection may take to read why.
const REFUSAL_TIME: Duration = Duration::from_secs(1);

/// How long to wait before accepting again when the process is out of descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// What one listener lets the outside make it hold.
#[derive(Debug, Clone)]
pub struct ServeLimits {
    /// Open connections.
    pub connections_max: usize,
    /// Requests and streams under way on one HTTP/2 connection.
    pub streams_max: u32,
    /// Bytes that a peer may send ahead on one stream.
    pub stream_window_bytes: u32,
    /// Bytes that a peer may send ahead on one connection, over all its streams.
    pub connection_window_bytes: u32,
    /// The largest HTTP/2 frame accepted.
    pub frame_bytes_max: u32,
    /// The headers of one request.
    pub header_bytes_max: u32,
    /// Bytes of answers buffered for one stream.
    pub send_buffer_bytes_max: usize,
    /// How long an HTTP/1 client may take to send its headers.
    pub header_time_max: Duration,
    /// How often a silent HTTP/2 connection is asked whether it lives; zero: never.
    pub ping_interval: Duration,
    /// How long it may take to say so.
    pub ping_time_max: Duration,
    /// How far apart a client's pings must be; zero: as it likes.
    pub ping_apart_min: Duration,
    /// How long requests under way may take after the stop signal.
    pub drain_time_max: Duration,
}

impl Default for ServeLimits {
    fn default() -> Self {
        Self {
            connections_max: 8192,
            streams_max: 4096,
            stream_window_bytes: 2 << 20,
            connection_window_bytes: 8 << 20,
            frame_bytes_max: 64 << 10,
            header_bytes_max: 32 << 10,
            send_buffer_bytes_max: 1 << 20,
            header_time_max: Duration::from_secs(10),
            ping_interval: Duration::from_secs(2 * 60 * 60),
            ping_time_max: Duration::from_secs(20),
            ping_apart_min: Duration::from_secs(5),
            drain_time_max: Duration::from_secs(5),
        }
    }
}

/// What is listened on.
#[derive(Debug)]
pub struct Socket {
    /// Where connections come from.
    pub listener: TcpListener,
    /// How they are encrypted, if they are.
    pub tls: Option<Arc<ServerTls>>,
    /// What is counted of them.
    pub traffic: Arc<Traffic>,
}

/// Serves connections until `stop` holds true, then drains. Returns how many connections were cut at the deadline.
///
/// Must be called on a tokio runtime with time and I/O enabled. `Err` only if the listener itself fails for good.
pub async fn serve<S>(socket: Socket, service: S, limits: ServeLimits, mut stop: watch::Receiver<bool>) -> io::Result<usize>
where
    S: Service<Request<Incoming>, Response = Response<Body>, Error = Infallible, Future = Answering> + Clone + Send + 'static,
{
    let Socket { listener, tls, traffic } = socket;
    let builder = Arc::new(builder(&limits));
    let open = Arc::new(AtomicUsize::new(0));
    let mut tasks = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            Some(_) = tasks.join_next() => continue,
            () = stopped(&mut stop) => break,
        };
        let (stream, from) = match accepted {
            Ok(accepted) => accepted,
            Err(error) if accept_failed_for_good(&error) => return Err(error),
            Err(error) => {
                tracing::warn!(%error, "a connection could not be accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let place = Place::take(&open);
        let number = place.number;
        let traffic = traffic.clone();
        let connection = Connection {
            traffic,
            ping_apart_min: limits.ping_apart_min,
            stream,
            from,
            tls: tls.clone(),
            builder: builder.clone(),
            stop: stop.clone(),
            _place: place,
        };
        if number < limits.connections_max {
            tasks.spawn(connection.run(service.clone()));
        } else if number < limits.connections_max + REFUSED_CONNECTIONS_MAX {
            tasks.spawn(async move {
                let _ = tokio::time::timeout(REFUSAL_TIME, connection.run(Refusing)).await;
            });
        }
    }
    drop(listener);
    drain(tasks, limits.drain_time_max).await
}

/// Returns once the signal is given, or nobody is left to give it.
async fn stopped(stop: &mut watch::Receiver<bool>) {
    let _ = stop.wait_for(|stop| *stop).await;
}

async fn drain(mut tasks: JoinSet<()>, time_max: Duration) -> io::Result<usize> {
    let all = async { while tasks.join_next().await.is_some() {} };
    if tokio::time::timeout(time_max, all).await.is_ok() {
        return Ok(0);
    }
    let cut = tasks.len();
    tasks.shutdown().await;
    Ok(cut)
}

fn builder(limits: &ServeLimits) -> Builder<TokioExecutor> {
    let mut builder = Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.header_time_max)
        .max_buf_size((limits.header_bytes_max as usize).max(8192));
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(limits.streams_max)
        .initial_stream_window_size(limits.stream_window_bytes)
        .initial_connection_window_size(limits.connection_window_bytes)
        .max_frame_size(limits.frame_bytes_max)
        .max_header_list_size(limits.header_bytes_max)
        .max_send_buf_size(limits.send_buffer_bytes_max)
        .keep_alive_interval((!limits.ping_interval.is_zero()).then_some(limits.ping_interval))
        .keep_alive_timeout(limits.ping_time_max)
        .auto_date_header(false);
    builder
}

fn accept_failed_for_good(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::InvalidInput | io::ErrorKind::NotConnected | io::ErrorKind::Unsupported)
}

/// A counted place among the open connections, given back when dropped.
struct Place {
    open: Arc<AtomicUsize>,
    number: usize,
}

impl Place {
    fn take(open: &Arc<AtomicUsize>) -> Self {
        let number = open.fetch_add(1, Ordering::Relaxed);
        Self { open: open.clone(), number }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.open.fetch_sub(1, Ordering::Relaxed);
    }
}

struct Connection {
    stream: TcpStream,
    from: SocketAddr,
    tls: Option<Arc<ServerTls>>,
    traffic: Arc<Traffic>,
    ping_apart_min: Duration,
    builder: Arc<Builder<TokioExecutor>>,
    stop: watch::Receiver<bool>,
    _place: Place,
}

impl Connection {
    async fn run<S>(mut self, service: S)
    where
        S: Service<Request<Incoming>, Response = Response<Body>, Error = Infallible, Future = Answering> + Clone + Send + 'static,
    {
        if let Err(error) = self.stream.set_nodelay(true) {
            tracing::debug!(%error, "a connection was gone before it was served");
            return;
        }
        let (stream, name) = match self.tls {
            None => (Stream::Plain(self.stream), None),
            Some(tls) => match tls.accept(self.stream, self.from).await {
                Some(accepted) => accepted,
                None => return,
            },
        };
        let encrypted = matches!(stream, Stream::Tls(_));
        let service = service_fn(move |mut request: Request<Incoming>| {
            if encrypted {
                request.extensions_mut().insert(Encrypted);
            }
            if let Some(name) = &name {
                request.extensions_mut().insert(name.clone());
            }
            service.clone().call(request)
        });
        let mut serving = pin!(
            self.builder
                .serve_connection(TokioIo::new(Counted { stream, traffic: self.traffic, pings: Pings::new(self.ping_apart_min) }), service)
        );
        let ended = tokio::select! {
            ended = serving.as_mut() => ended,
            () = stopped(&mut self.stop) => {
                serving.as_mut().graceful_shutdown();
                serving.await
            }
        };
        if let Err(error) = ended {
            tracing::debug!(%error, "a connection ended early");
        }
    }
}

/// In the extensions of every request that came by TLS.
#[derive(Debug, Clone, Copy)]
pub struct Encrypted;

/// Answers whatever is asked with "too many connections".
#[derive(Clone)]
struct Refusing;

impl Service<Request<Incoming>> for Refusing {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Answering;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Incoming>) -> Answering {
        const WHY: &str = "too many connections to this server";
        let answer = if is_grpc(&request) {
            tonic::Status::resource_exhausted(WHY).into_http()
        } else {
            text(StatusCode::SERVICE_UNAVAILABLE, "text/plain; charset=utf-8", format!("{WHY}\n"))
        };
        Box::pin(std::future::ready(Ok(answer)))
    }
}

/// Whether a request is a gRPC call, by its content type.
pub fn is_grpc<B>(request: &Request<B>) -> bool {
    request.headers().get(CONTENT_TYPE).is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc"))
}

/// A whole answer of HTTP.
pub fn text(status: StatusCode, content_type: &'static str, body: impl Into<bytes::Bytes>) -> Response<Body> {
    let mut response = Response::new(Body::new(Full::new(body.into())));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}
