//! The front door that speaks etcd's v3 API.
//!
//! One [`Etcd`] implements every service; each file holds the services of one subject. A request becomes a command or a query
//! of the store (`convert`), crosses the [`Door`], and the answer becomes the response, its header filled from the
//! reply's revision and the stamp's term. Refusals have the codes and texts that etcd's clients compare ([`errors`]).
//!
//! Reads are linearizable unless the request says serializable. A transaction that writes nothing is served as a read.
//!
//! Every call begins with `Etcd::caller`, which says who asks and checks what `guard` says that call needs; without a caller nothing
//! of the store can be reached. What depends on keys is judged by the store, where the command is executed or the read is answered.
//!
//! A downgrade is judged as etcd judges it, and then refused: there is no older version to go back to.

mod auth;
mod cluster;
mod convert;
mod election;
pub mod errors;
mod guard;
mod health;
mod kv;
mod lease;
mod lock;
mod maintenance;
mod snapshot;
mod turns;
mod watch;

pub(crate) use convert::key_value;
pub(crate) use maintenance::alarm_name;
pub(crate) use watch::serve_watch;

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use concur_core::{Footprint, Span, Wire};
use concur_kv::{Answer, Asker, Command, KvError, Query, Reply, Revision};
use concur_proto::etcdserverpb::ResponseHeader;
use tokio::sync::Semaphore;
use tonic::metadata::MetadataMap;
use tonic::{Code, Status};

use crate::auth::Authority;
use crate::door::{Door, Level, Refusal, Stamp};
use crate::metrics::Metrics;

/// The version of etcd's API that is spoken.
pub const ETCD_VERSION: &str = "3.7.0";

/// Who answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Identity {
    /// The cluster's id.
    pub cluster: u64,
    /// The member's id.
    pub member: u64,
}

/// Bounds of what a client of etcd's API may ask.
#[derive(Debug, Clone)]
pub struct EtcdLimits {
    /// The largest command, 1.5 MiB as etcd has it.
    pub request_bytes_max: usize,
    /// What a message may take beyond that.
    pub request_overhead_bytes: usize,
    /// How long a request waits unless its own deadline is shorter.
    pub request_time_max: Duration,
    /// Operations in each list of a transaction.
    pub txn_ops_max: usize,
    /// The shortest time to live of a lease: one and a half election timeouts, rounded up.
    pub lease_ttl_s_min: i64,
    /// About how large a chunk of a streamed range is.
    pub range_chunk_bytes: usize,
}

impl Default for EtcdLimits {
    fn default() -> Self {
        Self {
            request_bytes_max: 3 << 19,
            request_overhead_bytes: 512 << 10,
            request_time_max: Duration::from_secs(7),
            txn_ops_max: concur_kv::TXN_OPS_MAX,
            lease_ttl_s_min: 2,
            range_chunk_bytes: 512 << 10,
        }
    }
}

/// etcd's API over one namespace.
#[derive(Debug, Clone)]
pub struct Etcd {
    pub(crate) door: Door,
    pub(crate) identity: Identity,
    pub(crate) limits: EtcdLimits,
    pub(crate) metrics: Arc<Metrics>,
    /// Snapshots that may be sent at once.
    snapshots: Arc<Semaphore>,
    pub(crate) authority: Arc<Authority>,
}

/// Each snapshot takes a thread, and keeps the engine from using again what it shows.
const SNAPSHOTS_MAX: usize = 2;

impl Etcd {
    /// The API of the namespace behind `door`.
    pub fn new(door: Door, identity: Identity, limits: EtcdLimits, metrics: Arc<Metrics>) -> Self {
        Self { door, identity, limits, metrics, snapshots: Arc::new(Semaphore::new(SNAPSHOTS_MAX)), authority: Arc::default() }
    }

    /// The same with another way to find out who asks.
    pub fn guarded_by(self, authority: Arc<Authority>) -> Self {
        Self { authority, ..self }
    }

    /// The largest message taken from a client.
    pub(crate) fn message_bytes_max(&self) -> usize {
        self.limits.request_bytes_max + self.limits.request_overhead_bytes
    }

    async fn execute(&self, command: Command, caller: &Caller) -> Result<(Reply, Stamp), Status> {
        concur_kv::check(&command, self.limits.txn_ops_max).map_err(kv_error)?;
        let bytes = command.to_bytes_as(&caller.asker);
        if bytes.len() > self.limits.request_bytes_max {
            return Err(errors::REQUEST_TOO_LARGE.into());
        }
        let (reply, stamp) = self.door.execute(bytes, caller.deadline).await.map_err(refused)?;
        match Reply::from_bytes(&reply) {
            Ok(Reply::Refused(error)) => Err(kv_error(error)),
            Ok(reply) => Ok((reply, stamp)),
            Err(_) => Err(Status::internal("concur: the store's reply cannot be read")),
        }
    }

    async fn ask(&self, query: Query, level: Level, caller: &Caller) -> Result<(Answer, Stamp), Status> {
        let asker = caller.asker.clone();
        self.read(level, reads_all(), caller, move |kv| kv.answer_as(&asker, &query)).await.and_then(|(answer, stamp)| match answer {
            Answer::Refused(error) => Err(kv_error(error)),
            answer => Ok((answer, stamp)),
        })
    }

    async fn read<T, F>(&self, level: Level, footprint: Footprint, caller: &Caller, ask: F) -> Result<(T, Stamp), Status>
    where
        T: Send + 'static,
        F: FnOnce(&concur_kv::Kv) -> T + Send + 'static,
    {
        self.door.read(level, footprint, caller.deadline, ask).await.map_err(refused)
    }

    fn header(&self, revision: Revision, stamp: Stamp) -> Option<ResponseHeader> {
        Some(ResponseHeader {
            cluster_id: self.identity.cluster,
            member_id: self.identity.member,
            revision: revision.0,
            raft_term: stamp.term,
        })
    }

    /// The header of a reply that does not concern the store.
    fn bare_header(&self) -> Option<ResponseHeader> {
        let term = self.door.pulse().term();
        Some(ResponseHeader { cluster_id: self.identity.cluster, member_id: self.identity.member, revision: 0, raft_term: term })
    }

    /// Refuses what no request may bring along: a version of its library that is no text, a wish for a leader that is not there.
    fn check_metadata(&self, metadata: &MetadataMap) -> Result<(), Status> {
        if metadata.get("client-api-version").is_some_and(|version| std::str::from_utf8(version.as_bytes()).is_err()) {
            return Err(errors::INVALID_CLIENT_API_VERSION.into());
        }
        if wants_leader(metadata) && self.door.pulse().leader() == 0 {
            return Err(errors::NO_LEADER.into());
        }
        Ok(())
    }

    /// When whoever sent a request with this metadata stops waiting.
    fn deadline(&self, metadata: &MetadataMap) -> Result<Instant, Status> {
        self.check_metadata(metadata)?;
        let own = metadata.get("grpc-timeout").and_then(|value| parse_timeout(value.as_bytes()));
        let wait = own.unwrap_or(Duration::MAX).min(self.limits.request_time_max);
        Ok(Instant::now() + wait)
    }
}

/// Who sent a request, and until when it waits.
struct Caller {
    deadline: Instant,
    asker: Asker,
}

/// Whether a request asks to be refused when no leader is known.
pub(crate) fn wants_leader(metadata: &MetadataMap) -> bool {
    metadata.get("hasleader").is_some_and(|value| value.as_bytes() == b"true")
}

/// A gRPC timeout: at most eight digits and a unit.
fn parse_timeout(text: &[u8]) -> Option<Duration> {
    let (unit, digits) = text.split_last()?;
    if digits.is_empty() || digits.len() > 8 {
        return None;
    }
    let count: u64 = std::str::from_utf8(digits).ok()?.parse().ok()?;
    Some(match unit {
        b'H' => Duration::from_secs(count * 3600),
        b'M' => Duration::from_secs(count * 60),
        b'S' => Duration::from_secs(count),
        b'm' => Duration::from_millis(count),
        b'u' => Duration::from_micros(count),
        b'n' => Duration::from_nanos(count),
        _ => return None,
    })
}

/// What a client reads when the replica refuses.
pub(crate) fn refused(refusal: Refusal) -> Status {
    match refusal {
        Refusal::Busy => errors::TOO_MANY_REQUESTS.into(),
        Refusal::TimedOut => errors::TIMED_OUT.into(),
        Refusal::NoLeader => errors::NO_LEADER.into(),
        Refusal::LeaderChanged => errors::LEADER_CHANGED.into(),
        Refusal::NotVoter => errors::NOT_FOR_LEARNER.into(),
        Refusal::NoSpace => errors::NO_SPACE.into(),
        Refusal::Stopped => errors::STOPPED.into(),
        Refusal::Unsupported(why) => Status::unimplemented(why),
    }
}

/// What a client reads when the store refuses.
pub(crate) fn kv_error(error: KvError) -> Status {
    Status::new(Code::from(error.grpc_code()), error.text())
}

/// What a read of the whole namespace touches. Every write takes the next revision, so a narrower footprint would say no more.
pub(crate) fn reads_all() -> Footprint {
    Footprint::Spans { reads: vec![Span::From(Bytes::new())], writes: Vec::new() }
}

/// The reply was not of the kind that the command has: the store and the front door disagree.
fn unexpected() -> Status {
    Status::internal("concur: the store answered with another kind of reply")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timeouts_are_read_as_grpc_writes_them() {
        for (text, millis) in [("5S", 5000), ("250m", 250), ("2M", 120_000), ("1H", 3_600_000), ("4000u", 4), ("99999999n", 99)] {
            assert_eq!(parse_timeout(text.as_bytes()).map(|t| t.as_millis()), Some(millis), "{text}");
        }
        for text in ["", "S", "5", "5s", "123456789S", "-1S", "1.5S"] {
            assert_eq!(parse_timeout(text.as_bytes()), None, "{text}");
        }
    }

    #[test]
    fn every_refusal_of_the_store_reads_as_in_the_table() {
        for error in KvError::ALL {
            let status = kv_error(error);
            if status.message().starts_with("etcdserver: ") {
                assert!(
                    errors::ALL.iter().any(|known| known.code == status.code() && known.text == status.message()),
                    "{status:?} is not in the table"
                );
            }
        }
    }
}
