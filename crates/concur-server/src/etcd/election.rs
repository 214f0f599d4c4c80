//! The Election service: of those who campaign for a name one leads, and the next when it resigns or its lease ends.

use bytes::Bytes;
use concur_kv::{DeleteRange, LeaseId, Op, Revision, Txn};
use concur_proto::etcdserverpb::ResponseHeader;
use concur_proto::mvccpb::KeyValue;
use concur_proto::mvccpb::event::EventType;
use concur_proto::v3electionpb as pb;
use concur_proto::v3electionpb::election_server::Election;
use tokio::sync::mpsc;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use super::turns::{Line, Turns, created_at, found, key_of, put, read};
use super::{Etcd, key_value, unexpected};
use crate::metrics::Call;
use crate::watch::Create;

/// Leaders that wait for an observer to read them.
const OBSERVED_MAX: usize = 4;

type Observed = Result<pb::LeaderResponse, Status>;

#[tonic::async_trait]
impl Election for Etcd {
    type ObserveStream = ReceiverStream<Observed>;

    async fn campaign(&self, request: Request<pb::CampaignRequest>) -> Result<Response<pb::CampaignResponse>, Status> {
        let campaign = async {
            let turns = Turns::new(self, Call::Campaign, &request).await?;
            turns.within(campaign(&turns, request.into_inner())).await.map(Response::new)
        };
        self.metrics.count(Call::Campaign, campaign).await
    }

    async fn proclaim(&self, request: Request<pb::ProclaimRequest>) -> Result<Response<pb::ProclaimResponse>, Status> {
        let proclaim = async {
            let turns = Turns::new(self, Call::Proclaim, &request).await?;
            let pb::ProclaimRequest { leader, value } = request.into_inner();
            let leader = leader.ok_or_else(no_leader_given)?;
            let header = turns.within(proclaim(&turns, leader.key, Revision(leader.rev), value, LeaseId(leader.lease))).await?;
            Ok(Response::new(pb::ProclaimResponse { header: Some(header) }))
        };
        self.metrics.count(Call::Proclaim, proclaim).await
    }

    async fn leader(&self, request: Request<pb::LeaderRequest>) -> Result<Response<pb::LeaderResponse>, Status> {
        let leader = async {
            let turns = Turns::new(self, Call::Leader, &request).await?;
            let (first, header) = turns.within(turns.first(Line::of(&request.get_ref().name).first())).await?;
            let first = first.ok_or_else(|| Status::unknown("election: no leader"))?;
            Ok(Response::new(pb::LeaderResponse { header: Some(header), kv: Some(key_value(first)) }))
        };
        self.metrics.count(Call::Leader, leader).await
    }

    async fn observe(&self, request: Request<pb::LeaderRequest>) -> Result<Response<Self::ObserveStream>, Status> {
        let observe = async {
            let turns = Turns::new(self, Call::Observe, &request).await?;
            let line = Line::of(&request.get_ref().name);
            let (leaders, stream) = mpsc::channel(OBSERVED_MAX);
            tokio::spawn(async move {
                // It ends with its observer.
                tokio::select! {
                    () = leaders.closed() => {}
                    ended = turns.within(observe(&turns, &line, &leaders)) => if let Err(status) = ended {
                        let _ = leaders.send(Err(status)).await;
                    }
                }
            });
            Ok(Response::new(ReceiverStream::new(stream)))
        };
        self.metrics.count(Call::Observe, observe).await
    }

    async fn resign(&self, request: Request<pb::ResignRequest>) -> Result<Response<pb::ResignResponse>, Status> {
        let resign = async {
            let turns = Turns::new(self, Call::Resign, &request).await?;
            let leader = request.into_inner().leader.ok_or_else(no_leader_given)?;
            let delete = Op::DeleteRange(DeleteRange { key: leader.key.clone(), ..DeleteRange::default() });
            let compare = vec![created_at(leader.key, Revision(leader.rev))];
            let (_, _, header) = turns.within(turns.txn(Txn { compare, success: vec![delete], failure: vec![] })).await?;
            Ok(Response::new(pb::ResignResponse { header: Some(header) }))
        };
        self.metrics.count(Call::Resign, resign).await
    }
}

fn no_leader_given() -> Status {
    Status::unknown(r#""leader" field must be provided"#)
}

async fn campaign(turns: &Turns, request: pb::CampaignRequest) -> Result<pb::CampaignResponse, Status> {
    let (line, lease) = (Line::of(&request.name), turns.lease(request.lease).await?);
    let key = line.key(lease);
    let enter = Txn {
        compare: vec![created_at(key.clone(), Revision(0))],
        success: vec![put(&key, request.value.clone(), lease)],
        failure: vec![Op::Range(key_of(&key))],
    };
    let (replies, entered, header) = turns.txn(enter).await?;
    let mine = found(replies.first());
    let created = if entered { Revision(header.revision) } else { mine.ok_or_else(unexpected)?.create_revision };
    let claim = turns.claim(key.clone(), created);
    if mine.is_some_and(|mine| mine.value != request.value) {
        proclaim(turns, key.clone(), created, request.value, lease).await?;
    }
    turns.wait(&line, created).await?;
    claim.keep();
    let leader = pb::LeaderKey { name: request.name, key, rev: created.0, lease: lease.0 };
    Ok(pb::CampaignResponse { header: Some(header), leader: Some(leader) })
}

async fn proclaim(turns: &Turns, key: Bytes, created: Revision, value: Bytes, lease: LeaseId) -> Result<ResponseHeader, Status> {
    let compare = vec![created_at(key.clone(), created)];
    let (_, leads, header) = turns.txn(Txn { compare, success: vec![put(&key, value, lease)], failure: vec![] }).await?;
    if leads { Ok(header) } else { Err(Status::unknown("election: not leader")) }
}

/// Sends each leader, and what it proclaims, until the watch or the observer ends.
async fn observe(turns: &Turns, line: &Line, leaders: &mpsc::Sender<Observed>) -> Result<(), Status> {
    loop {
        let (first, header) = turns.first(line.first()).await?;
        let (header, kv) = match first {
            Some(first) => (header, key_value(first)),
            None => match next_leader(turns, line, header).await? {
                Some(next) => next,
                None => return Ok(()),
            },
        };
        let (key, from) = (kv.key.clone(), header.revision + 1);
        if !tell(leaders, header, kv).await || !follow(turns, key, from, leaders).await? {
            return Ok(());
        }
    }
}

async fn tell(leaders: &mpsc::Sender<Observed>, header: ResponseHeader, kv: KeyValue) -> bool {
    leaders.send(Ok(pb::LeaderResponse { header: Some(header), kv: Some(kv) })).await.is_ok()
}

/// The first who puts a key where there is none.
async fn next_leader(turns: &Turns, line: &Line, header: ResponseHeader) -> Result<Option<(ResponseHeader, KeyValue)>, Status> {
    let create = Create { key: line.prefix(), range_end: line.end(), start: header.revision, no_delete: true, ..Create::default() };
    let mut watch = turns.watch(create).await?;
    while let Some(response) = watch.next().await {
        let response = read(&response?)?;
        if let Some(kv) = response.events.into_iter().find_map(|event| event.kv) {
            let header = ResponseHeader { revision: kv.mod_revision, ..response.header.unwrap_or_default() };
            return Ok(Some((header, kv)));
        }
    }
    Ok(None)
}

/// What one leader proclaims. Whether it ended and another may lead.
async fn follow(turns: &Turns, key: Bytes, from: i64, leaders: &mpsc::Sender<Observed>) -> Result<bool, Status> {
    let mut watch = turns.watch(Create { key, start: from, ..Create::default() }).await?;
    while let Some(response) = watch.next().await {
        let response = read(&response?)?;
        let header = response.header.unwrap_or_default();
        for event in response.events {
            if event.r#type() == EventType::Delete {
                return Ok(true);
            }
            if !tell(leaders, header, event.kv.unwrap_or_default()).await {
                return Ok(false);
            }
        }
    }
    Ok(false)
}
