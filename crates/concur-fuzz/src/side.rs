//! One of the two that are compared: its clients, its streams of watches, and what is known of it.

use crate::call::Call;
use crate::number::Known;
use crate::watch::{Heard, Stream};
use concur_proto::etcdserverpb as pb;
use pb::kv_client::KvClient;
use pb::lease_client::LeaseClient;
use pb::maintenance_client::MaintenanceClient;
use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::time::Duration;
use tonic::transport::{Channel, Endpoint};
use tonic::{Response, Status};

/// How long one call may take.
const CALL_TIME_MAX: Duration = Duration::from_secs(30);
/// How large a response may be.
const RESPONSE_BYTES_MAX: usize = 64 << 20;

/// What one of them said.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Answer {
    Range(pb::RangeResponse),
    Put(pb::PutResponse),
    Delete(pb::DeleteRangeResponse),
    Txn(pb::TxnResponse),
    Compact(pb::CompactionResponse),
    Grant(pb::LeaseGrantResponse),
    Revoke(pb::LeaseRevokeResponse),
    TimeToLive(pb::LeaseTimeToLiveResponse),
    KeepAlive(pb::LeaseKeepAliveResponse),
    Leases(pb::LeaseLeasesResponse),
    /// What was told of watches, and whether a request for progress was answered.
    Heard(Vec<Heard>, Option<bool>),
    /// The status's code and text.
    Refused(tonic::Code, String),
    /// What may never be.
    Broken(String),
}

pub(crate) type Answering = Pin<Box<dyn Future<Output = Answer> + Send>>;

/// One of the two.
pub(crate) struct Side {
    pub(crate) known: Known,
    pub(crate) streams: BTreeMap<u8, Stream>,
    channels: Vec<Channel>,
    /// The member that executed the last write: it has what was written.
    wrote_at: usize,
    /// The member that was asked last for a write.
    asked_at: usize,
}

impl Side {
    /// Connects to all members.
    pub(crate) async fn connect(endpoints: &[String]) -> Result<Self, String> {
        let mut channels = Vec::new();
        for endpoint in endpoints {
            let parsed = Endpoint::from_shared(endpoint.clone()).map_err(|error| format!("{endpoint}: {error}"))?;
            // A window large enough for the largest answers.
            let parsed = parsed.initial_connection_window_size(16 << 20).initial_stream_window_size(8 << 20).tcp_nodelay(true);
            channels.push(parsed.connect().await.map_err(|error| format!("{endpoint}: {error:?}"))?);
        }
        Ok(Self { known: Known::default(), streams: BTreeMap::new(), channels, wrote_at: 0, asked_at: 0 })
    }

    /// What it says of its version.
    pub(crate) async fn version(&self) -> Result<String, Status> {
        let mut maintenance = MaintenanceClient::new(self.channels[0].clone());
        maintenance.status(pb::StatusRequest {}).await.map(|status| status.into_inner().version)
    }

    /// The current revision.
    pub(crate) async fn revision(&self) -> Result<i64, Status> {
        let range = pb::RangeRequest { key: vec![0].into(), count_only: true, ..Default::default() };
        let answer = self.kv(0).range(range).await?.into_inner();
        Ok(answer.header.map_or(0, |header| header.revision))
    }

    /// Which member is asked the call of this number. A serializable read goes where the last write was executed.
    fn member(&self, call: &Call, at: usize) -> usize {
        if call.is_serializable() { self.wrote_at } else { at % self.channels.len() }
    }

    pub(crate) fn kv(&self, member: usize) -> KvClient<Channel> {
        KvClient::new(self.channels[member].clone()).max_decoding_message_size(RESPONSE_BYTES_MAX)
    }

    fn lease(&self, member: usize) -> LeaseClient<Channel> {
        LeaseClient::new(self.channels[member].clone()).max_decoding_message_size(RESPONSE_BYTES_MAX)
    }

    pub(crate) fn channel(&self, member: usize) -> Channel {
        self.channels[member % self.channels.len()].clone()
    }

    /// Whoever was asked last for a write has executed it.
    pub(crate) fn wrote(&mut self) {
        self.wrote_at = self.asked_at;
    }

    /// Asks what is answered once. Nothing of the watches is.
    pub(crate) fn ask(&mut self, call: &Call, at: usize) -> Answering {
        let member = self.member(call, at);
        if !call.reads() {
            self.asked_at = member;
        }
        let (mut kv, mut lease, known) = (self.kv(member), self.lease(member), &self.known);
        let asking: Answering = match call {
            Call::Range(range) => {
                let range = known.range(range);
                Box::pin(async move { answer(kv.range(range).await, Answer::Range) })
            }
            Call::RangeStream(range) => {
                let range = known.range(range);
                Box::pin(async move { range_stream(&mut kv, range).await })
            }
            Call::Put(put) => {
                let put = known.put(put);
                Box::pin(async move { answer(kv.put(put).await, Answer::Put) })
            }
            Call::Delete(delete) => {
                let delete = delete.clone();
                Box::pin(async move { answer(kv.delete_range(delete).await, Answer::Delete) })
            }
            Call::Txn(txn) => {
                let txn = known.txn(txn);
                Box::pin(async move { answer(kv.txn(txn).await, Answer::Txn) })
            }
            Call::Compact(compact) => {
                let compact = pb::CompactionRequest { revision: known.real(compact.revision), ..*compact };
                Box::pin(async move { answer(kv.compact(compact).await, Answer::Compact) })
            }
            Call::Grant(grant) => {
                let grant = *grant;
                Box::pin(async move { answer(lease.lease_grant(grant).await, Answer::Grant) })
            }
            Call::GrantShort(grant) => {
                let grant = *grant;
                Box::pin(async move { grant_short(&mut lease, grant).await })
            }
            Call::Revoke(id) => {
                let id = known.real(*id);
                Box::pin(async move { answer(lease.lease_revoke(pb::LeaseRevokeRequest { id }).await, Answer::Revoke) })
            }
            Call::TimeToLive(asked) => {
                let asked = pb::LeaseTimeToLiveRequest { id: known.real(asked.id), ..*asked };
                Box::pin(async move { answer(lease.lease_time_to_live(asked).await, Answer::TimeToLive) })
            }
            Call::KeepAlive(id) => {
                let id = known.real(*id);
                Box::pin(async move { keep_alive(&mut lease, id).await })
            }
            Call::Leases => Box::pin(async move { answer(lease.lease_leases(pb::LeaseLeasesRequest {}).await, Answer::Leases) }),
            Call::Watch(..) | Call::Cancel(..) | Call::Progress(_) | Call::Settle => {
                Box::pin(std::future::ready(Answer::Broken(format!("{call} is not asked so"))))
            }
        };
        Box::pin(async move {
            let broken = |_| Answer::Broken(format!("no answer within {CALL_TIME_MAX:?}"));
            tokio::time::timeout(CALL_TIME_MAX, asking).await.unwrap_or_else(broken)
        })
    }
}

fn refused(status: &Status) -> Answer {
    Answer::Refused(status.code(), status.message().to_owned())
}

fn answer<T>(result: Result<Response<T>, Status>, wrap: fn(T) -> Answer) -> Answer {
    result.map_or_else(|status| refused(&status), |response| wrap(response.into_inner()))
}

async fn keep_alive(lease: &mut LeaseClient<Channel>, id: i64) -> Answer {
    let asks = tokio_stream::once(pb::LeaseKeepAliveRequest { id });
    let mut stream = match lease.lease_keep_alive(asks).await {
        Ok(response) => response.into_inner(),
        Err(status) => return refused(&status),
    };
    let first = match stream.message().await {
        Ok(Some(first)) => first,
        Ok(None) => return Answer::Broken("a keep-alive was not answered".into()),
        Err(status) => return refused(&status),
    };
    match stream.message().await {
        Ok(None) => Answer::KeepAlive(first),
        Ok(Some(second)) => Answer::Broken(format!("a keep-alive was answered twice: {second:?}")),
        Err(status) => refused(&status),
    }
}

/// Grants and revokes; the answer is the grant's, unless the lease could not be revoked.
async fn grant_short(lease: &mut LeaseClient<Channel>, grant: pb::LeaseGrantRequest) -> Answer {
    let granted = match lease.lease_grant(grant).await {
        Ok(granted) => granted.into_inner(),
        Err(status) => return refused(&status),
    };
    match lease.lease_revoke(pb::LeaseRevokeRequest { id: granted.id }).await {
        // Whose id the server picked is gone already: nobody asks for it again.
        Ok(_) if grant.id == 0 && granted.id > 0 => Answer::Grant(pb::LeaseGrantResponse { id: 0, ..granted }),
        Ok(_) => Answer::Grant(granted),
        Err(status) => refused(&status),
    }
}

/// All chunks as one answer, as a client would merge them; their form is checked.
async fn range_stream(kv: &mut KvClient<Channel>, range: pb::RangeRequest) -> Answer {
    let mut stream = match kv.range_stream(range).await {
        Ok(response) => response.into_inner(),
        Err(status) => return refused(&status),
    };
    let (mut whole, mut ended) = (pb::RangeResponse::default(), false);
    loop {
        let chunk = match stream.message().await {
            Ok(Some(chunk)) => chunk.range_response.unwrap_or_default(),
            Ok(None) if ended => return Answer::Range(whole),
            Ok(None) => return Answer::Broken("a streamed range ended without its last chunk".into()),
            Err(status) => return refused(&status),
        };
        if ended {
            return Answer::Broken(format!("a chunk after the last: {chunk:?}"));
        }
        whole.kvs.extend(chunk.kvs);
        ended = chunk.header.is_some();
        if !ended && (chunk.more || chunk.count != 0) {
            return Answer::Broken("more or count before the last chunk".into());
        }
        (whole.header, whole.more, whole.count) = (chunk.header, chunk.more, chunk.count);
    }
}
