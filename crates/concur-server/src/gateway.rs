//! etcd's API as JSON over plain HTTP: what grpc-gateway makes of it, under `/v3/`, and under its older name `/v3beta/`.
//!
//! A request becomes a call of the same services that gRPC clients reach, in this process: its body is read by the call's descriptor into
//! a message (`json`), framed, and handed to the [`Front`] with the headers that name the caller; the answer's frames come back as JSON.
//! So every check, count and refusal is the services' own, and a call that is served is served here too. Which path is which call is a
//! table (`paths`); fields, enums and the forms of numbers and bytes come from the descriptors of the `.proto` files.
//!
//! Fields have their names from the `.proto` files (`cluster_id`) and are taken in camel case too; 64-bit integers are texts and are taken
//! as numbers too; bytes are base64; what has its default is left out; fields that nobody knows are ignored. Streams are read as objects
//! one after the other and answered as lines of `{"result":…}`, the last of which may be `{"error":…}`. A refusal has the status of HTTP
//! that grpc-gateway gives its code, and a body with `error`, `message` and `code`: clients of older and newer etcd look at one or the other.
//!
//! Bounds: a request is as large as a gRPC message may be, in base64; answers of a stream wait for their reader, a few at a time; large
//! ones are written on another thread.
//!
//! What is not here: WebSockets, and GET or PUT in place of POST.

mod json;
mod paths;

use bytes::{Bytes, BytesMut};
use http::header::{AUTHORIZATION, CONTENT_TYPE, TE};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Limited, StreamBody};
use hyper::body::{Frame, Incoming};
use prost_reflect::MessageDescriptor;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::body::Body;
use tonic::{Code, Status};

use crate::front::Front;
use crate::serve::{Answering, text};
use paths::Call;

const JSON: &str = "application/json";

/// Messages of a stream that wait in either direction.
const WAITING_MAX: usize = 4;

/// From this size on a message is written on another thread.
const LARGE_BYTES: usize = 64 << 10;

/// Whether a path is the gateway's.
pub(crate) fn serves(path: &str) -> bool {
    path.starts_with("/v3/") || path.starts_with("/v3beta/")
}

/// Answers a request under `/v3/`.
pub(crate) fn answer(front: Front, request: Request<Incoming>) -> Answering {
    Box::pin(async move {
        let Some(call) = paths::find(request.uri().path()) else {
            return Ok(refusal(&Status::not_found("Not Found")));
        };
        if request.method() != Method::POST {
            return Ok(refusal(&Status::unimplemented("Method Not Allowed")));
        }
        Ok(serve(front, call, request).await.unwrap_or_else(|status| refusal(&status)))
    })
}

async fn serve(mut front: Front, call: Call, request: Request<Incoming>) -> Result<Response<Body>, Status> {
    let (parts, body) = request.into_parts();
    let bytes_max = front.message_bytes_max() * 2;
    let sent = if call.client_streams {
        let (to, from) = mpsc::channel(WAITING_MAX);
        tokio::spawn(read_all(body, call.input.clone(), bytes_max, to));
        Body::new(StreamBody::new(ReceiverStream::new(from)))
    } else {
        let read = Limited::new(body, bytes_max).collect().await;
        let read = read.map_err(|error| Status::invalid_argument(format!("the request cannot be read: {error}")))?;
        let message = json::read(&call.input, &read.to_bytes())?;
        Body::new(http_body_util::Full::new(frame_of(&message)))
    };
    let mut asked = Request::new(sent);
    *asked.method_mut() = Method::POST;
    *asked.uri_mut() = call.path.parse().map_err(|_| Status::internal("the call has no path"))?;
    *asked.version_mut() = http::Version::HTTP_2;
    *asked.headers_mut() = metadata(&parts.headers);
    *asked.extensions_mut() = parts.extensions;
    // As at etcd's gateway: a certificate opens the connection, and who asks is told by a token alone.
    asked.extensions_mut().remove::<concur_tls::ClientName>();
    let answered = front.rpc(asked).await.unwrap_or_else(|never| match never {});
    let (head, body) = answered.into_parts();
    if let Some(status) = Status::from_header_map(&head.headers).filter(|status| status.code() != Code::Ok) {
        return Err(status);
    }
    let mut answers = Answers { body, waiting: BytesMut::new(), output: call.output };
    if call.server_streams { stream(answers).await } else { unary(&mut answers).await }
}

async fn unary(answers: &mut Answers) -> Result<Response<Body>, Status> {
    let message = answers.next().await?.ok_or_else(|| Status::internal("the call ended without an answer"))?;
    let text_of = json_of(&answers.output, message).await?;
    // The status comes behind the message.
    answers.next().await?;
    Ok(text(StatusCode::OK, JSON, text_of))
}

/// Answers with a line a message, once there is a first one; until then a refusal has a status of its own.
async fn stream(mut answers: Answers) -> Result<Response<Body>, Status> {
    let first = match answers.next().await {
        Ok(first) => first,
        Err(status) => return Ok(text(http_status(status.code()), JSON, error_line(&status))),
    };
    let (to, from) = mpsc::channel::<Result<Frame<Bytes>, Status>>(WAITING_MAX);
    tokio::spawn(async move {
        let mut next = Ok(first);
        loop {
            let line = match next {
                Ok(Some(message)) => json_of(&answers.output, message).await.map(|json| format!("{{\"result\":{json}}}\n")),
                Ok(None) => return,
                Err(status) => Err(status),
            };
            let (line, ends) = line.map_or_else(|status| (error_line(&status), true), |line| (line, false));
            if to.send(Ok(Frame::data(line.into()))).await.is_err() || ends {
                return;
            }
            next = tokio::select! {
                () = to.closed() => return,
                next = answers.next() => next,
            };
        }
    });
    let mut response = Response::new(Body::new(StreamBody::new(ReceiverStream::new(from))));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(JSON));
    Ok(response)
}

/// The messages of an answer.
struct Answers {
    body: Body,
    waiting: BytesMut,
    output: MessageDescriptor,
}

impl Answers {
    /// The next message; nothing at the end. The refusal that ended the call, if one did.
    async fn next(&mut self) -> Result<Option<Bytes>, Status> {
        loop {
            if let Some(message) = unframe(&mut self.waiting)? {
                return Ok(Some(message));
            }
            match self.body.frame().await.transpose()? {
                None => return Ok(None),
                Some(frame) => match frame.into_data() {
                    Ok(data) => self.waiting.extend_from_slice(&data),
                    Err(frame) => {
                        let trailers = frame.into_trailers().unwrap_or_default();
                        if let Some(status) = Status::from_header_map(&trailers).filter(|status| status.code() != Code::Ok) {
                            return Err(status);
                        }
                    }
                },
            }
        }
    }
}

async fn json_of(kind: &MessageDescriptor, message: Bytes) -> Result<String, Status> {
    if message.len() < LARGE_BYTES {
        return json::write(kind, message);
    }
    let kind = kind.clone();
    tokio::task::spawn_blocking(move || json::write(&kind, message)).await.map_err(|_| Status::unavailable("the node is stopping"))?
}

/// Reads the objects of a body, one after the other, as they come.
async fn read_all(mut body: Incoming, input: MessageDescriptor, bytes_max: usize, to: mpsc::Sender<Result<Frame<Bytes>, Status>>) {
    let mut waiting = BytesMut::new();
    while let Some(Ok(frame)) = body.frame().await {
        let Ok(data) = frame.into_data() else { continue };
        waiting.extend_from_slice(&data);
        loop {
            let next = match json::first(&input, &mut waiting) {
                Ok(None) if waiting.len() > bytes_max => Err(Status::invalid_argument("the request is too large")),
                Ok(None) => break,
                Ok(Some(message)) => Ok(Frame::data(frame_of(&message))),
                Err(status) => Err(status),
            };
            let ends = next.is_err();
            if to.send(next).await.is_err() || ends {
                return;
            }
        }
    }
}

/// What of a request's headers is the call's: who asks, and what was marked as metadata.
fn metadata(headers: &HeaderMap) -> HeaderMap {
    let mut metadata = HeaderMap::new();
    metadata.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    metadata.insert(TE, HeaderValue::from_static("trailers"));
    for (name, value) in headers {
        let marked = name.as_str().strip_prefix("grpc-metadata-").and_then(|name| name.parse::<HeaderName>().ok());
        if let Some(name) = marked {
            metadata.append(name, value.clone());
        } else if name == AUTHORIZATION || name == "grpc-timeout" || name == "token" {
            metadata.append(name.clone(), value.clone());
        }
    }
    metadata
}

/// A message as gRPC sends it: not compressed, its length before it.
fn frame_of(message: &[u8]) -> Bytes {
    let mut framed = BytesMut::with_capacity(message.len() + 5);
    framed.extend_from_slice(&[0]);
    framed.extend_from_slice(&u32::try_from(message.len()).unwrap_or(u32::MAX).to_be_bytes());
    framed.extend_from_slice(message);
    framed.freeze()
}

/// The first message of what came, if it is whole.
fn unframe(waiting: &mut BytesMut) -> Result<Option<Bytes>, Status> {
    let Some(head) = waiting.first_chunk::<5>() else { return Ok(None) };
    if head[0] != 0 {
        return Err(Status::internal("the call's answer is compressed"));
    }
    let length = u32::from_be_bytes([head[1], head[2], head[3], head[4]]) as usize;
    if waiting.len() - 5 < length {
        return Ok(None);
    }
    let _ = waiting.split_to(5);
    Ok(Some(waiting.split_to(length).freeze()))
}

/// A refusal as the whole answer.
fn refusal(status: &Status) -> Response<Body> {
    let said = status.message();
    let body = serde_json::json!({ "error": said, "code": status.code() as i32, "message": said });
    text(http_status(status.code()), JSON, body.to_string())
}

/// A refusal as the last line of a stream.
fn error_line(status: &Status) -> String {
    let (code, http) = (status.code() as i32, http_status(status.code()));
    let error = serde_json::json!({
        "grpc_code": code,
        "http_code": http.as_u16(),
        "message": status.message(),
        "http_status": http.canonical_reason().unwrap_or_default(),
        "code": code,
    });
    format!("{}\n", serde_json::json!({ "error": error }))
}

/// What grpc-gateway answers with for a code.
fn http_status(code: Code) -> StatusCode {
    match code {
        Code::Ok => StatusCode::OK,
        Code::Cancelled => StatusCode::from_u16(499).unwrap_or(StatusCode::REQUEST_TIMEOUT),
        Code::InvalidArgument | Code::FailedPrecondition | Code::OutOfRange => StatusCode::BAD_REQUEST,
        Code::DeadlineExceeded => StatusCode::GATEWAY_TIMEOUT,
        Code::NotFound => StatusCode::NOT_FOUND,
        Code::AlreadyExists | Code::Aborted => StatusCode::CONFLICT,
        Code::PermissionDenied => StatusCode::FORBIDDEN,
        Code::Unauthenticated => StatusCode::UNAUTHORIZED,
        Code::ResourceExhausted => StatusCode::TOO_MANY_REQUESTS,
        Code::Unimplemented => StatusCode::NOT_IMPLEMENTED,
        Code::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        Code::Unknown | Code::Internal | Code::DataLoss => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_come_in_pieces() {
        let framed = [frame_of(b"one"), frame_of(b""), frame_of(b"three")].concat();
        let (mut waiting, mut got) = (BytesMut::new(), Vec::new());
        for byte in framed {
            waiting.extend_from_slice(&[byte]);
            got.extend(unframe(&mut waiting).unwrap());
        }
        assert_eq!(got, [&b"one"[..], b"", b"three"]);
        assert!(unframe(&mut BytesMut::from(&[1, 0, 0, 0, 0][..])).is_err());
    }

    #[test]
    fn headers_that_name_the_caller_go_along() {
        let mut headers = HeaderMap::new();
        headers.insert(AUTHORIZATION, HeaderValue::from_static("token"));
        headers.insert("grpc-metadata-hasleader", HeaderValue::from_static("true"));
        headers.insert("cookie", HeaderValue::from_static("x"));
        let metadata = metadata(&headers);
        assert_eq!(metadata.get(AUTHORIZATION).unwrap(), "token");
        assert_eq!(metadata.get("hasleader").unwrap(), "true");
        assert!(metadata.get("cookie").is_none());
    }
}
