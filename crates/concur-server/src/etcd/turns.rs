//! What locks and elections share: keys under a name, one a lease, and the turn of the one that was created first.
//!
//! etcd implements both services by a client of its own, so that whoever builds a lock from transactions and watches, and whoever asks
//! the service, wait in one line. Its refusals reach the caller with the client's text under the code `Unknown`, and so they do here.
//!
//! Whoever waits holds a key in the line. When the wait fails, or the caller goes, the key is deleted: a [`Claim`] that was not kept does
//! so when it is dropped. No task waits: the call's own future reads the stream of the watch, and both end together.

use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use concur_kv::{
    Answer, Command, Compare, DeleteRange, KeyValue, LeaseId, Op, OpReply, Put, Query, RangeQuery, Relation, Reply, Revision, SortOrder,
    SortTarget, Target, Txn,
};
use concur_proto::etcdserverpb::{ResponseHeader, WatchResponse};
use concur_proto::mvccpb::event::EventType;
use prost::Message;
use tokio_stream::StreamExt;
use tonic::{Code, Status};

use super::{Caller, Etcd, errors, unexpected};
use crate::auth::Credentials;
use crate::door::Level;
use crate::metrics::Call;
use crate::watch::{Ask, Create, Encoded, Inlet, StreamId, WatchRequest, queue};

/// The time to live of a lease that is granted because the caller named none, in seconds.
const LEASE_TTL_S: i64 = 60;
/// Responses queued for one who waits.
const RESPONSES_MAX: usize = 16;
/// Their bytes.
const RESPONSE_BYTES_MAX: usize = 1 << 20;
/// How long to wait before a read is tried again that found no leader.
const AGAIN_AFTER: Duration = Duration::from_millis(50);

/// One call's way through a line.
#[derive(Debug, Clone)]
pub(super) struct Turns {
    etcd: Etcd,
    call: Call,
    /// What the caller showed: each step is asked for on its account.
    shown: Arc<Credentials>,
    /// When the caller stops waiting, if it said so.
    ends: Option<Instant>,
}

/// A key in the line, deleted when this is dropped unless it was kept.
pub(super) struct Claim {
    turns: Turns,
    pub(super) key: Bytes,
    pub(super) created: Revision,
    kept: bool,
}

impl Claim {
    pub(super) fn keep(mut self) {
        self.kept = true;
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        if let (false, Ok(runtime)) = (self.kept, tokio::runtime::Handle::try_current()) {
            let (turns, key, created) = (self.turns.clone(), self.key.clone(), self.created);
            runtime.spawn(async move { turns.withdraw(key, created).await });
        }
    }
}

impl Turns {
    pub(super) fn new<R>(
        etcd: &Etcd,
        call: Call,
        request: &tonic::Request<R>,
    ) -> impl Future<Output = Result<Self, Status>> + Send + use<R> {
        let shown = Arc::new(Credentials::of(request.metadata(), request.extensions()));
        let own = request.metadata().get("grpc-timeout").and_then(|value| super::parse_timeout(value.as_bytes()));
        let turns = Self { etcd: etcd.clone(), call, shown, ends: own.and_then(|own| Instant::now().checked_add(own)) };
        let admitted = etcd.deadline(request.metadata());
        async move {
            admitted?;
            turns.step().await.map_err(as_said)?;
            Ok(turns)
        }
    }

    /// Waits no longer than the caller does. What etcd's client says is said as it reaches a caller there.
    pub(super) async fn within<T>(&self, work: impl Future<Output = Result<T, Status>>) -> Result<T, Status> {
        let done = match self.ends {
            None => work.await,
            Some(ends) => match tokio::time::timeout_at(ends.into(), work).await {
                Ok(done) => done,
                Err(_) => return Err(Status::deadline_exceeded("context deadline exceeded")),
            },
        };
        done.map_err(as_said)
    }

    /// Who asks, as of now: a wait may last longer than what was read of users and roles when it began.
    async fn step(&self) -> Result<Caller, Status> {
        let caller = self.etcd.caller_again(self.call, &self.shown).await?;
        let deadline = self.ends.map_or(caller.deadline, |ends| ends.min(caller.deadline));
        Ok(Caller { deadline, ..caller })
    }

    /// The lease given, or one granted.
    pub(super) async fn lease(&self, given: i64) -> Result<LeaseId, Status> {
        if given != 0 {
            return Ok(LeaseId(given));
        }
        let request = concur_proto::etcdserverpb::LeaseGrantRequest { ttl: LEASE_TTL_S, id: 0 };
        self.etcd.grant(request, &self.step().await?).await.map(|granted| LeaseId(granted.id))
    }

    pub(super) async fn txn(&self, txn: Txn) -> Result<(Vec<OpReply>, bool, ResponseHeader), Status> {
        match self.etcd.execute(Command::Txn(txn), &self.step().await?).await? {
            (Reply::Txn(reply), stamp) => Ok((reply.replies, reply.succeeded, self.header(reply.revision, stamp)?)),
            _ => Err(unexpected()),
        }
    }

    pub(super) async fn delete(&self, key: Bytes) -> Result<ResponseHeader, Status> {
        match self.etcd.execute(Command::DeleteRange(DeleteRange { key, ..DeleteRange::default() }), &self.step().await?).await? {
            (Reply::DeleteRange(reply), stamp) => self.header(reply.revision, stamp),
            _ => Err(unexpected()),
        }
    }

    /// The first key of a range. While no leader is known it is asked for again: a read does no harm.
    pub(super) async fn first(&self, query: RangeQuery) -> Result<(Option<KeyValue>, ResponseHeader), Status> {
        loop {
            match self.etcd.ask(Query::Range(query.clone()), Level::Strong, &self.step().await?).await {
                Ok((Answer::Range(answer), stamp)) => {
                    let header = self.header(answer.revision, stamp)?;
                    return Ok((answer.kvs.into_iter().next(), header));
                }
                Ok(_) => return Err(unexpected()),
                Err(status) if passes(&status) => tokio::time::sleep(AGAIN_AFTER).await,
                Err(status) => return Err(status),
            }
        }
    }

    fn header(&self, revision: Revision, stamp: crate::door::Stamp) -> Result<ResponseHeader, Status> {
        self.etcd.header(revision, stamp).ok_or_else(unexpected)
    }

    /// Waits until every key of the line created before this revision is gone.
    pub(super) async fn wait(&self, line: &Line, before: Revision) -> Result<(), Status> {
        loop {
            let query = RangeQuery { max_create_revision: Revision(before.0 - 1), ..line.last() };
            let (last, header) = self.first(query).await?;
            let Some(last) = last else { return Ok(()) };
            self.gone(last.key, Revision(header.revision)).await?;
        }
    }

    /// Waits until a key is deleted.
    async fn gone(&self, key: Bytes, from: Revision) -> Result<(), Status> {
        let mut watch = self.watch(Create { key, start: from.0, no_put: true, ..Create::default() }).await?;
        while let Some(response) = watch.next().await {
            let response = read(&response?)?;
            if response.events.iter().any(|event| event.r#type() == EventType::Delete) {
                return Ok(());
            }
        }
        Err(Status::unknown("lost watcher waiting for delete"))
    }

    pub(super) async fn watch(&self, create: Create) -> Result<Inlet, Status> {
        let (door, stream) = (&self.etcd.door, StreamId::next());
        let (outlet, inlet) = queue(door.clone(), stream, RESPONSES_MAX, RESPONSE_BYTES_MAX);
        for ask in [Ask::Open { outlet, needs_leader: false }, Ask::Create(create)] {
            door.watch(WatchRequest { stream, ask }).await.map_err(super::refused)?;
        }
        Ok(inlet)
    }

    /// A claim to the turn, if its key was put.
    pub(super) fn claim(&self, key: Bytes, created: Revision) -> Claim {
        Claim { turns: self.clone(), key, created, kept: false }
    }

    /// Leaves the line, if the key is still the one that was put.
    async fn withdraw(mut self, key: Bytes, created: Revision) {
        self.ends = None;
        let delete = Op::DeleteRange(DeleteRange { key: key.clone(), ..DeleteRange::default() });
        if let Err(status) = self.txn(Txn { compare: vec![created_at(key, created)], success: vec![delete], failure: vec![] }).await {
            tracing::debug!(%status, "a line could not be left; the key goes with its lease");
        }
    }
}

/// The keys of one name.
pub(super) struct Line {
    prefix: Bytes,
}

impl Line {
    pub(super) fn of(name: &[u8]) -> Self {
        Self { prefix: [name, b"/"].concat().into() }
    }

    /// The key of a lease: its number as Go prints it in hexadecimal.
    pub(super) fn key(&self, lease: LeaseId) -> Bytes {
        let sign = if lease.0 < 0 { "-" } else { "" };
        [&self.prefix[..], format!("{sign}{:x}", lease.0.unsigned_abs()).as_bytes()].concat().into()
    }

    /// Behind the last key: the prefix ends in a slash.
    pub(super) fn end(&self) -> Bytes {
        let mut end = self.prefix.to_vec();
        *end.last_mut().expect("a slash at least") += 1;
        end.into()
    }

    pub(super) fn prefix(&self) -> Bytes {
        self.prefix.clone()
    }

    fn one(&self, sort_order: SortOrder) -> RangeQuery {
        let (key, range_end) = (self.prefix(), self.end());
        RangeQuery { key, range_end, limit: 1, sort_order, sort_target: SortTarget::Create, ..RangeQuery::default() }
    }

    /// The key whose turn it is.
    pub(super) fn first(&self) -> RangeQuery {
        self.one(SortOrder::Ascend)
    }

    fn last(&self) -> RangeQuery {
        self.one(SortOrder::Descend)
    }
}

/// One key, as a query.
pub(super) fn key_of(key: &Bytes) -> RangeQuery {
    RangeQuery { key: key.clone(), ..RangeQuery::default() }
}

/// Holds while a key is the one created at a revision; at 0 while there is none.
pub(super) fn created_at(key: Bytes, created: Revision) -> Compare {
    Compare { key, range_end: Bytes::new(), relation: Relation::Equal, target: Target::Create(created) }
}

/// Puts a key under a lease.
pub(super) fn put(key: &Bytes, value: Bytes, lease: LeaseId) -> Op {
    Op::Put(Put { key: key.clone(), value, lease, ..Put::default() })
}

/// The first key that a range of a transaction found.
pub(super) fn found(reply: Option<&OpReply>) -> Option<&KeyValue> {
    match reply {
        Some(OpReply::Range(range)) => range.kvs.first(),
        _ => None,
    }
}

/// A refusal as it reaches a caller through etcd's client.
fn as_said(status: Status) -> Status {
    if status.code() == Code::DeadlineExceeded { status } else { Status::unknown(status.message()) }
}

/// Whether another leader may do better.
fn passes(status: &Status) -> bool {
    [errors::NO_LEADER, errors::LEADER_CHANGED, errors::TIMED_OUT].iter().any(|error| error.text == status.message())
}

/// A response as it was encoded for the wire. One that ends the watch is a refusal.
pub(super) fn read(encoded: &Encoded) -> Result<WatchResponse, Status> {
    let mut bytes = BytesMut::with_capacity(encoded.len());
    encoded.put(&mut bytes);
    let response = WatchResponse::decode(bytes.freeze()).map_err(|error| Status::internal(error.to_string()))?;
    match response {
        WatchResponse { canceled: true, compact_revision: 1.., .. } => Err(errors::COMPACTED.into()),
        WatchResponse { canceled: true, cancel_reason, .. } => Err(Status::unknown(cancel_reason)),
        response => Ok(response),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_named_as_etcds_client_names_them() {
        let line = Line::of(b"n");
        assert_eq!(&line.key(LeaseId(0x1f))[..], b"n/1f");
        assert_eq!(&line.key(LeaseId(-31))[..], b"n/-1f");
        assert_eq!(&line.key(LeaseId(i64::MIN))[..], b"n/-8000000000000000");
        assert_eq!((&line.prefix()[..], &line.end()[..]), (&b"n/"[..], &b"n0"[..]));
    }
}
