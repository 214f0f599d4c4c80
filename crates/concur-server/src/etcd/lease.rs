//! The Lease service.

use std::collections::VecDeque;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{SystemTime, UNIX_EPOCH};

use concur_kv::{Answer, Command, KvError, LeaseId, Query, Reply};
use concur_proto::etcdserverpb as pb;
use concur_proto::etcdserverpb::lease_server::Lease;
use tokio_stream::Stream;
use tonic::{Request, Response, Status, Streaming};

use super::{Caller, Etcd, errors, unexpected};
use crate::auth::Credentials;
use crate::door::Level;
use crate::metrics::{Call, Ending};

/// How often another id is tried when a random one is taken.
const ID_ATTEMPTS_MAX: usize = 4;

/// Leases renewed by one command.
const RENEWALS_MAX: usize = 1024;

#[tonic::async_trait]
impl Lease for Etcd {
    type LeaseKeepAliveStream = Ending<KeepAlive>;

    async fn lease_grant(&self, request: Request<pb::LeaseGrantRequest>) -> Result<Response<pb::LeaseGrantResponse>, Status> {
        self.metrics.count(Call::LeaseGrant, self.do_grant(request)).await
    }

    async fn lease_revoke(&self, request: Request<pb::LeaseRevokeRequest>) -> Result<Response<pb::LeaseRevokeResponse>, Status> {
        self.metrics.count(Call::LeaseRevoke, self.do_revoke(request)).await
    }

    async fn lease_keep_alive(
        &self,
        request: Request<Streaming<pb::LeaseKeepAliveRequest>>,
    ) -> Result<Response<Self::LeaseKeepAliveStream>, Status> {
        self.metrics.count_stream(Call::LeaseKeepAlive, self.do_keep_alive(request)).await
    }

    async fn lease_time_to_live(
        &self,
        request: Request<pb::LeaseTimeToLiveRequest>,
    ) -> Result<Response<pb::LeaseTimeToLiveResponse>, Status> {
        self.metrics.count(Call::LeaseTimeToLive, self.do_time_to_live(request)).await
    }

    async fn lease_leases(&self, request: Request<pb::LeaseLeasesRequest>) -> Result<Response<pb::LeaseLeasesResponse>, Status> {
        self.metrics.count(Call::LeaseLeases, self.do_leases(request)).await
    }
}

impl Etcd {
    async fn do_grant(&self, request: Request<pb::LeaseGrantRequest>) -> Result<Response<pb::LeaseGrantResponse>, Status> {
        let caller = self.caller(Call::LeaseGrant, &request).await?;
        self.grant(request.into_inner(), &caller).await.map(Response::new)
    }

    pub(super) async fn grant(&self, request: pb::LeaseGrantRequest, caller: &Caller) -> Result<pb::LeaseGrantResponse, Status> {
        let ttl_s = request.ttl.max(self.limits.lease_ttl_s_min);
        let mut attempts = 0;
        loop {
            let id = LeaseId(if request.id == 0 { random_id() } else { request.id });
            attempts += 1;
            match self.execute(Command::LeaseGrant { id, ttl_s }, caller).await {
                Ok((Reply::LeaseGranted { revision, id, ttl_s }, stamp)) => {
                    let header = self.header(revision, stamp);
                    return Ok(pb::LeaseGrantResponse { header, id: id.0, ttl: ttl_s, error: String::new() });
                }
                Ok(_) => return Err(unexpected()),
                Err(status) if request.id == 0 && attempts < ID_ATTEMPTS_MAX && is(&status, KvError::LeaseExists) => {}
                Err(status) => return Err(status),
            }
        }
    }

    async fn do_revoke(&self, request: Request<pb::LeaseRevokeRequest>) -> Result<Response<pb::LeaseRevokeResponse>, Status> {
        let caller = self.caller(Call::LeaseRevoke, &request).await?;
        let id = LeaseId(request.into_inner().id);
        match self.execute(Command::LeaseRevoke { id }, &caller).await? {
            (Reply::Done { revision }, stamp) => Ok(Response::new(pb::LeaseRevokeResponse { header: self.header(revision, stamp) })),
            _ => Err(unexpected()),
        }
    }

    /// Renews what the client asked for so far in one command, then what it asked for meanwhile; no task stands behind the stream.
    async fn do_keep_alive(&self, request: Request<Streaming<pb::LeaseKeepAliveRequest>>) -> Result<Response<KeepAlive>, Status> {
        let leader = super::wants_leader(request.metadata());
        self.deadline(request.metadata())?;
        let shown = Arc::new(Credentials::of(request.metadata(), request.extensions()));
        let (etcd, asked) = (self.clone(), request.into_inner());
        Ok(Response::new(KeepAlive { etcd, shown, leader, asked, ended: None, renewing: None, answers: VecDeque::new() }))
    }

    async fn renew(self, ids: Vec<LeaseId>, shown: Arc<Credentials>, leader: bool) -> Renewed {
        let mut renewed = self.renew_together(&ids, &shown, leader).await;
        if renewed.1.as_ref().is_some_and(|refusal| ids.len() > 1 && is(refusal, KvError::PermissionDenied)) {
            // Those asked for before the one that is denied are kept alive all the same.
            renewed = (VecDeque::new(), None);
            for id in &ids {
                let (answer, refusal) = self.renew_together(std::slice::from_ref(id), &shown, leader).await;
                renewed.0.extend(answer);
                renewed.1 = refusal;
                if renewed.1.is_some() {
                    break;
                }
            }
        }
        renewed
    }

    async fn renew_together(&self, ids: &[LeaseId], shown: &Credentials, leader: bool) -> Renewed {
        match self.try_renew(ids, shown, leader).await {
            Ok(answers) => (answers, None),
            Err(status) => (VecDeque::new(), Some(status)),
        }
    }

    async fn try_renew(&self, ids: &[LeaseId], shown: &Credentials, leader: bool) -> Result<Answers, Status> {
        if leader && self.door.pulse().leader() == 0 {
            return Err(errors::NO_LEADER.into());
        }
        let caller = self.caller_again(Call::LeaseKeepAlive, shown).await?;
        match self.execute(Command::LeaseRenew { ids: ids.to_vec() }, &caller).await? {
            (Reply::LeasesRenewed { revision, ttls_s }, stamp) if ttls_s.len() == ids.len() => {
                let header = self.header(revision, stamp);
                let answer = |(id, ttl): (&LeaseId, i64)| pb::LeaseKeepAliveResponse { header, id: id.0, ttl };
                Ok(ids.iter().zip(ttls_s).map(answer).collect())
            }
            _ => Err(unexpected()),
        }
    }

    async fn do_time_to_live(&self, request: Request<pb::LeaseTimeToLiveRequest>) -> Result<Response<pb::LeaseTimeToLiveResponse>, Status> {
        let caller = self.caller(Call::LeaseTimeToLive, &request).await?;
        let request = request.into_inner();
        let query = Query::LeaseTimeToLive { id: LeaseId(request.id), keys: request.keys, now_ms: now_ms() };
        match self.ask(query, Level::Strong, &caller).await? {
            (Answer::Lease(lease), stamp) => Ok(Response::new(pb::LeaseTimeToLiveResponse {
                header: self.header(lease.revision, stamp),
                id: request.id,
                ttl: lease.ttl_s,
                granted_ttl: lease.granted_ttl_s,
                keys: lease.keys,
            })),
            _ => Err(unexpected()),
        }
    }

    async fn do_leases(&self, request: Request<pb::LeaseLeasesRequest>) -> Result<Response<pb::LeaseLeasesResponse>, Status> {
        let caller = self.caller(Call::LeaseLeases, &request).await?;
        match self.ask(Query::Leases, Level::Strong, &caller).await? {
            (Answer::Leases { revision, ids }, stamp) => Ok(Response::new(pb::LeaseLeasesResponse {
                header: self.header(revision, stamp),
                leases: ids.into_iter().map(|id| pb::LeaseStatus { id: id.0 }).collect(),
            })),
            _ => Err(unexpected()),
        }
    }
}

type Answers = VecDeque<pb::LeaseKeepAliveResponse>;

/// The answers, and what ends the stream behind them.
type Renewed = (Answers, Option<Status>);

/// The answers to a stream of keep-alives.
pub struct KeepAlive {
    etcd: Etcd,
    shown: Arc<Credentials>,
    leader: bool,
    asked: Streaming<pb::LeaseKeepAliveRequest>,
    /// Nothing more is asked, and whether the client broke off.
    ended: Option<Option<Status>>,
    renewing: Option<Pin<Box<dyn Future<Output = Renewed> + Send>>>,
    answers: Answers,
}

impl Stream for KeepAlive {
    type Item = Result<pb::LeaseKeepAliveResponse, Status>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            if let Some(answer) = self.answers.pop_front() {
                return Poll::Ready(Some(Ok(answer)));
            }
            if let Some(renewing) = &mut self.renewing {
                let renewed = std::task::ready!(renewing.as_mut().poll(cx));
                self.renewing = None;
                let (answers, refusal) = renewed;
                self.answers = answers;
                if refusal.is_some() {
                    self.ended = Some(refusal);
                }
                continue;
            }
            let ids = self.gather(cx);
            if !ids.is_empty() {
                self.renewing = Some(Box::pin(self.etcd.clone().renew(ids, self.shown.clone(), self.leader)));
                continue;
            }
            return match &mut self.ended {
                None => Poll::Pending,
                Some(broken) => Poll::Ready(broken.take().map(Err)),
            };
        }
    }
}

impl KeepAlive {
    /// What the client has asked so far.
    fn gather(&mut self, cx: &mut Context<'_>) -> Vec<LeaseId> {
        let mut ids = Vec::new();
        while ids.len() < RENEWALS_MAX && self.ended.is_none() {
            match Pin::new(&mut self.asked).poll_next(cx) {
                Poll::Ready(Some(Ok(asked))) => ids.push(LeaseId(asked.id)),
                Poll::Ready(Some(Err(status))) => self.ended = Some(Some(errors::of_a_message(status))),
                Poll::Ready(None) => self.ended = Some(None),
                Poll::Pending => break,
            }
        }
        ids
    }
}

fn is(status: &Status, error: KvError) -> bool {
    status.message() == error.text()
}

/// A positive number that is hard to guess.
fn random_id() -> i64 {
    loop {
        let id = (RandomState::new().build_hasher().finish() >> 1) as i64;
        if id != 0 {
            return id;
        }
    }
}

fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}
