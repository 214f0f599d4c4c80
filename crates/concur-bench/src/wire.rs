//! One unary gRPC call, made as cheaply as a load generator needs it.
//!
//! The generator shares its machine with the servers it measures, so every microsecond it spends is taken from them. A
//! full client stack keeps a queue, a task and several layers of boxed futures before each connection; here a client
//! holds its own handle of an HTTP/2 connection, writes one frame, and reads one answer. A connection that breaks is
//! dialled again by the first client that needs it.
//!
//! What is not here: TLS, compression, streams, retries. A failed call is counted, never hidden.

use std::fmt;
use std::future::poll_fn;
use std::str::FromStr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use h2::client::SendRequest;
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{HeaderMap, HeaderValue, Method, Request, Uri, header};
use prost::Message;
use serde::{Serialize, Serializer};
use tokio::net::TcpStream;

/// The first bytes of a gRPC message: one for compression, four for the length.
const PREFIX_BYTES: usize = 5;
/// An answer longer than this is refused before memory is taken for it.
const ANSWER_BYTES_MAX: usize = 64 << 20;
/// What a server may send on one stream before it is acknowledged.
const STREAM_WINDOW_BYTES: u32 = 1 << 20;
/// What a server may send on one connection before it is acknowledged.
const CONNECTION_WINDOW_BYTES: u32 = 16 << 20;

/// Where a server listens for clients.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    authority: Authority,
    port: u16,
}

impl Endpoint {
    /// The endpoint at a port of the loopback interface.
    pub fn loopback(port: u16) -> Endpoint {
        let authority = Authority::from_str(&format!("127.0.0.1:{port}")).expect("an address and a port are an authority");
        Endpoint { authority, port }
    }
}

impl FromStr for Endpoint {
    type Err = String;

    fn from_str(text: &str) -> Result<Endpoint, String> {
        if text.starts_with("https://") {
            return Err(format!("`{text}` asks for TLS, which the generator does not speak; give an http:// endpoint"));
        }
        let bare = text.strip_prefix("http://").unwrap_or(text).trim_end_matches('/');
        let authority = Authority::from_str(bare).map_err(|error| format!("`{text}` is not host:port: {error}"))?;
        let port =
            authority.port_u16().ok_or_else(|| format!("`{text}` names no port; an endpoint is host:port, such as 127.0.0.1:2379"))?;
        Ok(Endpoint { authority, port })
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.authority)
    }
}

impl Serialize for Endpoint {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&self.authority)
    }
}

/// A call that the generator makes; the server's name for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Call {
    /// Writes a key.
    Put,
    /// Reads keys.
    Range,
    /// Asks a node about itself.
    Status,
}

impl Call {
    fn path(self) -> PathAndQuery {
        PathAndQuery::from_static(match self {
            Call::Put => "/etcdserverpb.KV/Put",
            Call::Range => "/etcdserverpb.KV/Range",
            Call::Status => "/etcdserverpb.Maintenance/Status",
        })
    }
}

/// Why a call gave no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
pub(crate) enum Failure {
    /// The server could not be dialled.
    #[error("the server cannot be reached")]
    Connect,
    /// The connection broke while the call was under way.
    #[error("the connection broke")]
    Connection,
    /// No answer came in time.
    #[error("no answer in time")]
    Timeout,
    /// Something that is not gRPC came back.
    #[error("the answer is not gRPC")]
    Malformed,
    /// The server refused, with this gRPC status.
    #[error("the server refused: {}", status_name(*.0))]
    Status(u16),
}

impl Failure {
    /// The name under which failures of this kind are counted.
    pub(crate) fn label(self) -> &'static str {
        match self {
            Failure::Connect => "connect",
            Failure::Connection => "connection-broken",
            Failure::Timeout => "timeout",
            Failure::Malformed => "malformed",
            Failure::Status(code) => status_name(code),
        }
    }

    /// Whether the connection is of no further use.
    fn breaks_connection(self) -> bool {
        matches!(self, Failure::Connection | Failure::Malformed)
    }
}

fn status_name(code: u16) -> &'static str {
    match code {
        1 => "cancelled",
        2 => "unknown",
        3 => "invalid-argument",
        4 => "deadline-exceeded",
        5 => "not-found",
        6 => "already-exists",
        7 => "permission-denied",
        8 => "resource-exhausted",
        9 => "failed-precondition",
        10 => "aborted",
        11 => "out-of-range",
        12 => "unimplemented",
        13 => "internal",
        14 => "unavailable",
        15 => "data-loss",
        16 => "unauthenticated",
        _ => "unlisted-status",
    }
}

/// One HTTP/2 connection to an endpoint, shared by the clients that were given it, dialled again when it breaks.
pub(crate) struct Link {
    endpoint: Endpoint,
    dial_timeout: Duration,
    /// The handle that clients copy, and how many dials came before it.
    live: Mutex<(u64, Option<SendRequest<Bytes>>)>,
    /// Held while one client dials, so that the others wait for its connection.
    dialling: tokio::sync::Mutex<()>,
}

impl Link {
    pub(crate) fn new(endpoint: Endpoint, dial_timeout: Duration) -> Arc<Link> {
        Arc::new(Link { endpoint, dial_timeout, live: Mutex::new((0, None)), dialling: tokio::sync::Mutex::new(()) })
    }

    /// The handle of a working connection, and the dial it came from.
    async fn handle(&self) -> Result<(u64, SendRequest<Bytes>), Failure> {
        if let Some(live) = self.current() {
            return Ok(live);
        }
        let _dialling = self.dialling.lock().await;
        if let Some(live) = self.current() {
            return Ok(live);
        }
        let sender = tokio::time::timeout(self.dial_timeout, dial(&self.endpoint)).await.map_err(|_| Failure::Connect)??;
        let mut live = self.live.lock().expect("no panic while the handle is held");
        live.0 += 1;
        live.1 = Some(sender.clone());
        Ok((live.0, sender))
    }

    fn current(&self) -> Option<(u64, SendRequest<Bytes>)> {
        let live = self.live.lock().expect("no panic while the handle is held");
        live.1.clone().map(|sender| (live.0, sender))
    }

    /// Drops the connection of that dial; a later one is kept.
    fn forget(&self, dial: u64) {
        let mut live = self.live.lock().expect("no panic while the handle is held");
        if live.0 == dial {
            live.1 = None;
        }
    }
}

async fn dial(endpoint: &Endpoint) -> Result<SendRequest<Bytes>, Failure> {
    let host = endpoint.authority.host().trim_start_matches('[').trim_end_matches(']');
    let socket = TcpStream::connect((host, endpoint.port)).await.map_err(|_| Failure::Connect)?;
    socket.set_nodelay(true).map_err(|_| Failure::Connect)?;
    let (sender, connection) = h2::client::Builder::new()
        .initial_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .enable_push(false)
        .handshake(socket)
        .await
        .map_err(|_| Failure::Connect)?;
    // The connection's end reaches every call on it as an error; the driver has nothing to add.
    tokio::spawn(async move { drop(connection.await) });
    Ok(sender)
}

/// One client's use of a link.
pub(crate) struct Caller {
    link: Arc<Link>,
    held: Option<(u64, SendRequest<Bytes>)>,
    timeout: Duration,
    buffer: BytesMut,
}

impl Caller {
    pub(crate) fn new(link: Arc<Link>, timeout: Duration) -> Caller {
        Caller { link, held: None, timeout, buffer: BytesMut::new() }
    }

    /// Makes sure that a connection stands.
    pub(crate) async fn connect(&mut self) -> Result<(), Failure> {
        if self.held.is_none() {
            self.held = Some(self.link.handle().await?);
        }
        Ok(())
    }

    /// Sends one request and reads its answer.
    pub(crate) async fn call<A: Message + Default>(&mut self, method: Call, request: &impl Message) -> Result<A, Failure> {
        let frame = self.frame(request);
        let answer = match tokio::time::timeout(self.timeout, self.exchange(method, frame)).await {
            Ok(answer) => answer,
            Err(_) => Err(Failure::Timeout),
        };
        match answer {
            Ok(message) => A::decode(message).map_err(|_| Failure::Malformed),
            Err(failure) => {
                if failure.breaks_connection() {
                    let dial = self.held.take().map(|(dial, _)| dial);
                    dial.into_iter().for_each(|dial| self.link.forget(dial));
                }
                Err(failure)
            }
        }
    }

    /// The request as gRPC frames it.
    fn frame(&mut self, request: &impl Message) -> Bytes {
        let length = request.encoded_len();
        let length_on_wire = u32::try_from(length).expect("a request is far below 4 GiB");
        self.buffer.reserve(PREFIX_BYTES + length);
        self.buffer.put_u8(0);
        self.buffer.put_u32(length_on_wire);
        request.encode(&mut self.buffer).expect("the buffer has room for the message");
        self.buffer.split().freeze()
    }

    async fn exchange(&mut self, method: Call, frame: Bytes) -> Result<Bytes, Failure> {
        self.connect().await?;
        let authority = self.link.endpoint.authority.clone();
        let (_, sender) = self.held.as_mut().ok_or(Failure::Connect)?;
        poll_fn(|context| sender.poll_ready(context)).await.map_err(|_| Failure::Connection)?;
        let (answer, mut stream) = sender.send_request(head(authority, method), false).map_err(|_| Failure::Connection)?;
        stream.send_data(frame, true).map_err(|_| Failure::Connection)?;
        let answer = answer.await.map_err(|error| stream_failure(&error))?;
        if !answer.status().is_success() {
            return Err(Failure::Malformed);
        }
        check_status(answer.headers())?;
        let mut body = answer.into_body();
        let mut received = Bytes::new();
        while let Some(chunk) = body.data().await {
            let chunk = chunk.map_err(|error| stream_failure(&error))?;
            body.flow_control().release_capacity(chunk.len()).map_err(|_| Failure::Connection)?;
            received = join(received, chunk)?;
        }
        if let Some(trailers) = body.trailers().await.map_err(|error| stream_failure(&error))? {
            check_status(&trailers)?;
        }
        unframe(received)
    }
}

/// A stream that its server reset is one refused call; anything else is the end of the connection.
fn stream_failure(error: &h2::Error) -> Failure {
    match error.reason() {
        Some(h2::Reason::REFUSED_STREAM) if error.is_reset() => Failure::Status(14),
        Some(h2::Reason::CANCEL) if error.is_reset() => Failure::Status(1),
        _ => Failure::Connection,
    }
}

fn head(authority: Authority, method: Call) -> Request<()> {
    let mut parts = http::uri::Parts::default();
    parts.scheme = Some(Scheme::HTTP);
    parts.authority = Some(authority);
    parts.path_and_query = Some(method.path());
    let mut request = Request::new(());
    *request.method_mut() = Method::POST;
    *request.uri_mut() = Uri::from_parts(parts).expect("a scheme, an authority and a path are a URI");
    let headers = request.headers_mut();
    headers.insert(header::TE, HeaderValue::from_static("trailers"));
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    request
}

/// A call's status stands in the trailers, or in the head of an answer that has no body.
fn check_status(headers: &HeaderMap) -> Result<(), Failure> {
    let Some(value) = headers.get("grpc-status") else { return Ok(()) };
    match value.to_str().ok().and_then(|text| text.parse::<u16>().ok()) {
        Some(0) => Ok(()),
        Some(code) => Err(Failure::Status(code)),
        None => Err(Failure::Malformed),
    }
}

fn join(received: Bytes, chunk: Bytes) -> Result<Bytes, Failure> {
    if received.len() + chunk.len() > ANSWER_BYTES_MAX {
        return Err(Failure::Malformed);
    }
    if received.is_empty() {
        return Ok(chunk);
    }
    let mut joined = BytesMut::from(received);
    joined.extend_from_slice(&chunk);
    Ok(joined.freeze())
}

/// The one message of an answer.
fn unframe(mut received: Bytes) -> Result<Bytes, Failure> {
    let prefix: [u8; PREFIX_BYTES] = received.get(..PREFIX_BYTES).and_then(|bytes| bytes.try_into().ok()).ok_or(Failure::Malformed)?;
    let [compressed, length @ ..] = prefix;
    let message = received.split_off(PREFIX_BYTES);
    if compressed != 0 || message.len() != u32::from_be_bytes(length) as usize {
        return Err(Failure::Malformed);
    }
    Ok(message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_is_a_host_and_a_port_with_or_without_a_scheme() {
        for text in ["127.0.0.1:2379", "http://127.0.0.1:2379", "http://127.0.0.1:2379/"] {
            assert_eq!(text.parse::<Endpoint>().unwrap().to_string(), "127.0.0.1:2379");
        }
        assert_eq!("[::1]:2379".parse::<Endpoint>().unwrap().to_string(), "[::1]:2379");
        assert_eq!(Endpoint::loopback(80), "127.0.0.1:80".parse().unwrap());
        for wrong in ["https://127.0.0.1:2379", "127.0.0.1", "", "a b:1", "127.0.0.1:99999"] {
            assert!(wrong.parse::<Endpoint>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_cut_long_or_compressed_answer_is_refused() {
        let whole = Bytes::from_static(&[0, 0, 0, 0, 2, 8, 1]);
        assert_eq!(unframe(whole.clone()), Ok(Bytes::from_static(&[8, 1])));
        for wrong in [
            whole.slice(..6),
            whole.slice(..3),
            Bytes::new(),
            Bytes::from_static(&[1, 0, 0, 0, 1, 8]),
            Bytes::from_static(&[0, 0, 0, 0, 1, 8, 1]),
        ] {
            assert_eq!(unframe(wrong), Err(Failure::Malformed));
        }
    }

    #[test]
    fn a_status_other_than_zero_is_a_failure_with_its_name() {
        let mut headers = HeaderMap::new();
        assert_eq!(check_status(&headers), Ok(()));
        headers.insert("grpc-status", HeaderValue::from_static("0"));
        assert_eq!(check_status(&headers), Ok(()));
        headers.insert("grpc-status", HeaderValue::from_static("14"));
        assert_eq!(check_status(&headers).unwrap_err().label(), "unavailable");
        headers.insert("grpc-status", HeaderValue::from_static("x"));
        assert_eq!(check_status(&headers), Err(Failure::Malformed));
    }
}
