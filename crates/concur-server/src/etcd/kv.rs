//! The KV service.

use concur_kv::{Answer, Asker, Command, Query, RangeAnswer, Reply, Revision, SortTarget};
use concur_proto::etcdserverpb as pb;
use concur_proto::etcdserverpb::kv_server::Kv;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use super::{Caller, Etcd, convert, kv_error, unexpected};
use crate::door::{Level, Stamp};
use crate::metrics::Call;

/// Chunks of a streamed range that wait for the client.
const CHUNKS_MAX: usize = 2;

/// Keys in the first chunk of a streamed range.
const CHUNK_KEYS_FIRST: i64 = 64;

#[tonic::async_trait]
impl Kv for Etcd {
    type RangeStreamStream = ReceiverStream<Result<pb::RangeStreamResponse, Status>>;

    async fn range(&self, request: Request<pb::RangeRequest>) -> Result<Response<pb::RangeResponse>, Status> {
        self.metrics.count(Call::Range, self.do_range(request)).await
    }

    async fn put(&self, request: Request<pb::PutRequest>) -> Result<Response<pb::PutResponse>, Status> {
        self.metrics.count(Call::Put, self.do_put(request)).await
    }

    async fn delete_range(&self, request: Request<pb::DeleteRangeRequest>) -> Result<Response<pb::DeleteRangeResponse>, Status> {
        self.metrics.count(Call::DeleteRange, self.do_delete(request)).await
    }

    async fn txn(&self, request: Request<pb::TxnRequest>) -> Result<Response<pb::TxnResponse>, Status> {
        self.metrics.count(Call::Txn, self.do_txn(request)).await
    }

    async fn compact(&self, request: Request<pb::CompactionRequest>) -> Result<Response<pb::CompactionResponse>, Status> {
        self.metrics.count(Call::Compact, self.do_compact(request)).await
    }

    async fn range_stream(&self, request: Request<pb::RangeRequest>) -> Result<Response<Self::RangeStreamStream>, Status> {
        self.metrics.count(Call::RangeStream, self.do_range_stream(request)).await
    }
}

impl Etcd {
    async fn do_range(&self, request: Request<pb::RangeRequest>) -> Result<Response<pb::RangeResponse>, Status> {
        let caller = self.caller(Call::Range, &request).await?;
        let request = request.into_inner();
        let level = level(request.serializable);
        convert::check_range(&request).map_err(kv_error)?;
        let query = Query::Range(convert::range(request).map_err(kv_error)?);
        match self.ask(query, level, &caller).await? {
            (Answer::Range(answer), stamp) => Ok(Response::new(convert::range_answer(self.header(answer.revision, stamp), answer))),
            _ => Err(unexpected()),
        }
    }

    async fn do_put(&self, request: Request<pb::PutRequest>) -> Result<Response<pb::PutResponse>, Status> {
        let caller = self.caller(Call::Put, &request).await?;
        match self.execute(Command::Put(convert::put(request.into_inner())), &caller).await? {
            (Reply::Put(reply), stamp) => Ok(Response::new(convert::put_reply(self.header(reply.revision, stamp), reply))),
            _ => Err(unexpected()),
        }
    }

    async fn do_delete(&self, request: Request<pb::DeleteRangeRequest>) -> Result<Response<pb::DeleteRangeResponse>, Status> {
        let caller = self.caller(Call::DeleteRange, &request).await?;
        match self.execute(Command::DeleteRange(convert::delete(request.into_inner())), &caller).await? {
            (Reply::DeleteRange(reply), stamp) => Ok(Response::new(convert::delete_reply(self.header(reply.revision, stamp), reply))),
            _ => Err(unexpected()),
        }
    }

    async fn do_txn(&self, request: Request<pb::TxnRequest>) -> Result<Response<pb::TxnResponse>, Status> {
        let caller = self.caller(Call::Txn, &request).await?;
        let request = request.into_inner();
        let serializable = all_serializable(&request);
        convert::check_txn(&request, self.limits.txn_ops_max).map_err(kv_error)?;
        let txn = convert::txn(request).map_err(kv_error)?;
        let (reply, stamp) = if txn.is_read_only() {
            match self.ask(Query::Txn(txn), level(serializable), &caller).await? {
                (Answer::Txn(reply), stamp) => (reply, stamp),
                _ => return Err(unexpected()),
            }
        } else {
            match self.execute(Command::Txn(txn), &caller).await? {
                (Reply::Txn(reply), stamp) => (reply, stamp),
                _ => return Err(unexpected()),
            }
        };
        Ok(Response::new(convert::txn_reply(self.header(reply.revision, stamp), reply)))
    }

    async fn do_compact(&self, request: Request<pb::CompactionRequest>) -> Result<Response<pb::CompactionResponse>, Status> {
        let caller = self.caller(Call::Compact, &request).await?;
        let revision = Revision(request.into_inner().revision);
        match self.execute(Command::Compact { revision }, &caller).await? {
            (Reply::Done { revision }, stamp) => Ok(Response::new(pb::CompactionResponse { header: self.header(revision, stamp) })),
            _ => Err(unexpected()),
        }
    }

    /// Streams a range in chunks, all at the revision of the first.
    async fn do_range_stream(
        &self,
        request: Request<pb::RangeRequest>,
    ) -> Result<Response<ReceiverStream<Result<pb::RangeStreamResponse, Status>>>, Status> {
        let caller = self.caller(Call::RangeStream, &request).await?;
        let request = request.into_inner();
        let level = level(request.serializable);
        convert::check_range(&request).map_err(kv_error)?;
        let query = convert::range(request).map_err(kv_error)?;
        if !query.is_in_default_order() {
            return Err(Status::unimplemented("RangeStream does not support custom sort orders"));
        }
        if query.is_filtered() {
            return Err(Status::unimplemented("RangeStream does not support revision filters"));
        }
        let (chunks, stream) = mpsc::channel(CHUNKS_MAX);
        // A target without an order sorts what the limit leaves, as in a range; that is one chunk.
        let keys = if query.sort_target == SortTarget::Key { CHUNK_KEYS_FIRST } else { i64::MAX };
        let first = self.chunk(&query, query.limit, keys, level, &caller).await?;
        let rest = Chunks { etcd: self.clone(), asker: caller.asker, left: query.limit, keys: CHUNK_KEYS_FIRST, query };
        tokio::spawn(rest.send(first, chunks));
        Ok(Response::new(ReceiverStream::new(stream)))
    }

    async fn chunk(
        &self,
        query: &concur_kv::RangeQuery,
        left: i64,
        keys: i64,
        level: Level,
        caller: &Caller,
    ) -> Result<(RangeAnswer, Stamp), Status> {
        let limit = if left > 0 { left.min(keys) } else { keys };
        let query = concur_kv::RangeQuery { limit: if query.count_only { 0 } else { limit }, ..query.clone() };
        match self.ask(Query::Range(query), level, caller).await? {
            (Answer::Range(answer), stamp) => Ok((answer, stamp)),
            _ => Err(unexpected()),
        }
    }
}

/// What is left of a streamed range.
struct Chunks {
    etcd: Etcd,
    /// Each chunk is judged when it is read.
    asker: Asker,
    query: concur_kv::RangeQuery,
    /// Of the client's limit; 0 is none.
    left: i64,
    /// Keys in the chunk before.
    keys: i64,
}

impl Chunks {
    async fn send(mut self, first: (RangeAnswer, Stamp), chunks: mpsc::Sender<Result<pb::RangeStreamResponse, Status>>) {
        let count = first.0.count;
        let header = self.etcd.header(first.0.revision, first.1);
        if self.query.revision == Revision::CURRENT {
            self.query.revision = first.0.revision;
        }
        let mut answer = first.0;
        loop {
            let sent = answer.kvs.len() as i64;
            let exhausted = self.left > 0 && self.left <= sent;
            let last = !answer.more || exhausted;
            self.keys = self.next_size(&answer);
            self.left -= if self.left > 0 { sent } else { 0 };
            if let Some(kv) = answer.kvs.last() {
                self.query.key = [&kv.key[..], &[0]].concat().into();
            }
            let mut chunk = convert::range_answer(None, answer);
            chunk.count = 0;
            if last {
                (chunk.header, chunk.count) = (header, count as i64);
            } else {
                chunk.more = false;
            }
            if chunks.send(Ok(pb::RangeStreamResponse { range_response: Some(chunk) })).await.is_err() || last {
                return;
            }
            let deadline = std::time::Instant::now() + self.etcd.limits.request_time_max;
            let caller = Caller { deadline, asker: self.asker.clone() };
            // The first chunk was behind the barrier, and a revision once read is the same everywhere.
            match self.etcd.chunk(&self.query, self.left, self.keys, Level::Eventual, &caller).await {
                Ok((next, _)) => answer = next,
                Err(status) => {
                    let _ = chunks.send(Err(status)).await;
                    return;
                }
            }
        }
    }

    /// As many keys as make about one chunk's bytes, judged by the chunk before.
    fn next_size(&self, before: &RangeAnswer) -> i64 {
        let bytes: usize = before.kvs.iter().map(|kv| kv.key.len() + kv.value.len() + 32).sum();
        let each = (bytes / before.kvs.len().max(1)).max(1);
        ((self.etcd.limits.range_chunk_bytes / each).max(1) as i64).min(self.keys * 8)
    }
}

fn level(serializable: bool) -> Level {
    if serializable { Level::Eventual } else { Level::Strong }
}

/// Whether every read of a transaction asked to be serializable.
fn all_serializable(txn: &pb::TxnRequest) -> bool {
    txn.success.iter().chain(&txn.failure).all(|op| match &op.request {
        Some(pb::request_op::Request::RequestRange(range)) => range.serializable,
        _ => false,
    })
}
