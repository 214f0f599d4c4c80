//! The Watch service.
//!
//! A stream's requests are read by one task and passed to the [hub](crate::watch); its responses are the reading end of the
//! queue that the hub fills, written as they were encoded. A client that has no more to ask keeps its watches; the stream ends
//! when the client goes, or the hub ends it.

use concur_proto::etcdserverpb::watch_create_request::FilterType;
use concur_proto::etcdserverpb::watch_request::RequestUnion;
use concur_proto::etcdserverpb::{WatchCreateRequest, WatchRequest as PbRequest};
use http::Request as HttpRequest;
use prost::Message;
use tonic::body::Body;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::server::{Grpc, StreamingService};
use tonic::{Request, Response, Status, Streaming};

use super::{Etcd, errors, refused, wants_leader};
use crate::auth::Credentials;
use crate::metrics::{Call, Ending};
use crate::serve::Answering;
use crate::watch::{Ask, Create, Encoded, Inlet, StreamId, WatchRequest, queue};

/// Responses queued for one stream.
const RESPONSES_MAX: usize = 256;

/// Bytes of responses queued for one stream.
const RESPONSE_BYTES_MAX: usize = 4 << 20;

/// Serves one stream of watches.
pub(crate) fn serve_watch(etcd: Etcd, request: HttpRequest<Body>) -> Answering {
    let bytes_max = etcd.message_bytes_max();
    Box::pin(async move {
        let mut grpc = Grpc::new(WatchCodec).apply_max_message_size_config(Some(bytes_max), None);
        Ok(grpc.streaming(WatchService(etcd), request).await)
    })
}

struct WatchService(Etcd);

impl StreamingService<PbRequest> for WatchService {
    type Response = Encoded;
    type ResponseStream = Ending<Inlet>;
    type Future = std::pin::Pin<Box<dyn Future<Output = Result<Response<Ending<Inlet>>, Status>> + Send>>;

    fn call(&mut self, request: Request<Streaming<PbRequest>>) -> Self::Future {
        let etcd = self.0.clone();
        Box::pin(async move { etcd.metrics.count_stream(Call::Watch, etcd.do_watch(request)).await })
    }
}

impl Etcd {
    async fn do_watch(&self, request: Request<Streaming<PbRequest>>) -> Result<Response<Inlet>, Status> {
        let needs_leader = wants_leader(request.metadata());
        self.check_metadata(request.metadata())?;
        let stream = StreamId::next();
        let (outlet, inlet) = queue(self.door.clone(), stream, RESPONSES_MAX, RESPONSE_BYTES_MAX);
        let open = WatchRequest { stream, ask: Ask::Open { outlet, needs_leader } };
        self.door.watch(open).await.map_err(refused)?;
        let shown = Credentials::of(request.metadata(), request.extensions());
        tokio::spawn(self.clone().read_asks(stream, shown, request.into_inner()));
        Ok(Response::new(inlet))
    }

    async fn read_asks(self, stream: StreamId, shown: Credentials, mut asks: Streaming<PbRequest>) {
        loop {
            let request = match asks.message().await {
                Ok(Some(request)) => request,
                Ok(None) => return,
                // The client is gone, or sent what cannot be read.
                Err(status) => {
                    let ask = Ask::Fail(errors::of_a_message(status));
                    let _ = self.door.watch(WatchRequest { stream, ask }).await;
                    return;
                }
            };
            let ask = match request.request_union {
                Some(RequestUnion::CreateRequest(create)) => match self.caller_again(Call::Watch, &shown).await {
                    Ok(caller) => Ask::Create(Create { asker: caller.asker, ..convert(create) }),
                    Err(status) => Ask::Create(Create { refused: Some(errors::in_a_watch(&status)), ..convert(create) }),
                },
                Some(RequestUnion::CancelRequest(cancel)) => Ask::Cancel(cancel.watch_id),
                Some(RequestUnion::ProgressRequest(_)) => Ask::Progress,
                None => continue,
            };
            if self.door.watch(WatchRequest { stream, ask }).await.is_err() {
                return;
            }
        }
    }
}

fn convert(create: WatchCreateRequest) -> Create {
    let filters = |kind: FilterType| create.filters.contains(&(kind as i32));
    Create {
        no_put: filters(FilterType::Noput),
        no_delete: filters(FilterType::Nodelete),
        id: create.watch_id,
        key: create.key,
        range_end: create.range_end,
        start: create.start_revision,
        prev_kv: create.prev_kv,
        fragment: create.fragment,
        notify: create.progress_notify,
        ..Create::default()
    }
}

/// Reads requests as usual and writes responses that are encoded already.
#[derive(Debug, Clone, Copy, Default)]
struct WatchCodec;

impl Codec for WatchCodec {
    type Encode = Encoded;
    type Decode = PbRequest;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for WatchCodec {
    type Item = Encoded;
    type Error = Status;

    fn encode(&mut self, response: Encoded, out: &mut EncodeBuf<'_>) -> Result<(), Status> {
        out.reserve(response.len());
        response.put(out);
        Ok(())
    }
}

impl Decoder for WatchCodec {
    type Item = PbRequest;
    type Error = Status;

    fn decode(&mut self, bytes: &mut DecodeBuf<'_>) -> Result<Option<PbRequest>, Status> {
        PbRequest::decode(bytes).map(Some).map_err(|error| Status::internal(error.to_string()))
    }
}
