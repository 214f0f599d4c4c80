//! The generator against a small server whose every answer is known.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use bytes::{BufMut, Bytes, BytesMut};
use clap::Parser;
use concur_bench::{BenchArgs, LoadReport};
use concur_proto::etcdserverpb::{PutRequest, PutResponse, RangeRequest, RangeResponse, ResponseHeader};
use concur_proto::mvccpb::KeyValue;
use h2::server::SendResponse;
use http::{HeaderMap, HeaderValue, Request, Response};
use prost::Message;

/// What the server saw.
#[derive(Default)]
struct Seen {
    puts: AtomicU64,
    gets: AtomicU64,
    serializable: AtomicU64,
    connections: AtomicU64,
}

/// What the server does with the put of that number.
#[derive(Clone, Copy)]
enum Puts {
    Answered,
    /// Every tenth is refused with gRPC's `unavailable`.
    TenthRefused,
    /// At every hundredth the connection breaks.
    HundredthBreaks,
}

/// Starts a server on a free port; it ends with the test program.
fn serve(puts: Puts) -> (u16, Arc<Seen>) {
    let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
    listener.set_nonblocking(true).unwrap();
    let port = listener.local_addr().unwrap().port();
    let seen = Arc::new(Seen::default());
    let shared = seen.clone();
    thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let listener = tokio::net::TcpListener::from_std(listener).unwrap();
            loop {
                let (socket, _) = listener.accept().await.unwrap();
                socket.set_nodelay(true).unwrap();
                shared.connections.fetch_add(1, Ordering::Relaxed);
                tokio::spawn(connection(socket, shared.clone(), puts));
            }
        });
    });
    (port, seen)
}

async fn connection(socket: tokio::net::TcpStream, seen: Arc<Seen>, puts: Puts) {
    let Ok(mut connection) = h2::server::handshake(socket).await else { return };
    while let Some(Ok((request, respond))) = connection.accept().await {
        let is_put = request.uri().path().ends_with("/Put");
        let number = if is_put { seen.puts.fetch_add(1, Ordering::Relaxed) + 1 } else { seen.gets.fetch_add(1, Ordering::Relaxed) + 1 };
        match puts {
            Puts::HundredthBreaks if is_put && number.is_multiple_of(100) => return,
            Puts::TenthRefused if is_put && number.is_multiple_of(10) => refuse(respond),
            _ => drop(tokio::spawn(answer(request, respond, seen.clone()))),
        }
    }
}

fn refuse(mut respond: SendResponse<Bytes>) {
    let refusal = Response::builder().header("content-type", "application/grpc").header("grpc-status", "14").body(()).unwrap();
    respond.send_response(refusal, true).unwrap();
}

async fn answer(request: Request<h2::RecvStream>, mut respond: SendResponse<Bytes>, seen: Arc<Seen>) {
    let is_put = request.uri().path() == "/etcdserverpb.KV/Put";
    let mut body = request.into_body();
    let mut received = BytesMut::new();
    while let Some(chunk) = body.data().await {
        let Ok(chunk) = chunk else { return };
        drop(body.flow_control().release_capacity(chunk.len()));
        received.extend_from_slice(&chunk);
    }
    let message = received.split_off(5).freeze();
    let answer = if is_put { put(message) } else { range(message, &seen) };
    let mut frame = BytesMut::new();
    frame.put_u8(0);
    frame.put_u32(answer.len() as u32);
    frame.extend_from_slice(&answer);
    let head = Response::builder().header("content-type", "application/grpc").body(()).unwrap();
    let Ok(mut stream) = respond.send_response(head, false) else { return };
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from_static("0"));
    drop(stream.send_data(frame.freeze(), false));
    drop(stream.send_trailers(trailers));
}

fn put(message: Bytes) -> Vec<u8> {
    let request = PutRequest::decode(message).unwrap();
    assert!(request.key.starts_with(b"bench/"));
    assert_eq!(request.value.len(), 256);
    PutResponse { header: Some(ResponseHeader::default()), prev_kv: None }.encode_to_vec()
}

/// Keys with an odd number exist, and are large enough to come in several frames.
fn range(message: Bytes, seen: &Seen) -> Vec<u8> {
    let request = RangeRequest::decode(message).unwrap();
    seen.serializable.fetch_add(u64::from(request.serializable), Ordering::Relaxed);
    let odd = request.key.last().is_some_and(|digit| digit % 2 == 1);
    let found = KeyValue { key: request.key, value: vec![7; 40_000].into(), ..KeyValue::default() };
    RangeResponse { kvs: if odd { vec![found] } else { Vec::new() }, ..RangeResponse::default() }.encode_to_vec()
}

#[derive(Parser)]
struct Program {
    #[command(flatten)]
    bench: BenchArgs,
}

fn measure(port: u16, flags: &str) -> LoadReport {
    let line = format!("bench --endpoints 127.0.0.1:{port} --warm-up 0s {flags}");
    concur_bench::measure(&Program::parse_from(line.split_whitespace()).bench.load).unwrap()
}

#[test]
fn every_put_asked_for_is_made_and_counted() {
    let (port, seen) = serve(Puts::Answered);
    let report = measure(port, "--clients 8 --operations 500 --threads 2");
    // Operations under way when the last is counted are made and do not count.
    assert!((500..=508).contains(&report.operations), "{}", report.operations);
    assert!(seen.puts.load(Ordering::Relaxed) >= report.operations);
    assert_eq!(report.latency.count, report.operations);
    assert!(report.errors.is_empty(), "{:?}", report.errors);
    assert_eq!(report.connections, 3);
    assert!(report.throughput > 0.0);
}

#[test]
fn refusals_are_counted_by_kind_and_never_as_answers() {
    let (port, _) = serve(Puts::TenthRefused);
    let report = measure(port, "--clients 1 --operations 200");
    assert_eq!(report.errors.keys().collect::<Vec<_>>(), ["unavailable"]);
    assert_eq!((report.operations, report.errors_total()), (180, 20));
}

#[test]
fn a_broken_connection_is_an_error_once_and_dialled_again() {
    let (port, seen) = serve(Puts::HundredthBreaks);
    let report = measure(port, "--clients 1 --operations 400");
    assert_eq!((report.operations, report.errors_total()), (396, 4), "{:?}", report.errors);
    assert!(seen.connections.load(Ordering::Relaxed) >= 4);
}

#[test]
fn reads_are_filled_first_and_a_missing_key_is_told_apart() {
    let (port, seen) = serve(Puts::Answered);
    let report = measure(port, "--clients 4 --operations 300 --keys 10 --workload get-serializable");
    assert_eq!(seen.puts.load(Ordering::Relaxed), 10);
    assert_eq!(seen.serializable.load(Ordering::Relaxed), seen.gets.load(Ordering::Relaxed));
    assert!((60..240).contains(&report.missing), "{}", report.missing);
    assert!(report.errors.is_empty(), "{:?}", report.errors);
    let strong = measure(port, "--clients 4 --operations 300 --workload mixed --read-ratio 0.5 --no-fill");
    assert_eq!(strong.by_action.keys().collect::<Vec<_>>(), ["get", "put"]);
}

#[test]
fn an_open_loop_sends_what_is_due() {
    let (port, seen) = serve(Puts::Answered);
    let report = measure(port, "--clients 64 --rate 2000 --duration 200ms");
    let made = seen.puts.load(Ordering::Relaxed);
    // Due at 0, 0.5, … 199.5 ms; never more, and fewer only by what the window's end left unsent.
    assert!(made <= 401, "{made}");
    assert_eq!(made + report.unsent, report.latency.count, "every operation due was either made or counted as unsent");
}
