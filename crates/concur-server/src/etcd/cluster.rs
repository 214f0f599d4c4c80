//! The Cluster service: who is in, and changes of that.
//!
//! A member that is added to vote observes first and is promoted by the voters themselves once it is close behind, so that it is
//! shown as a learner until then. It has no name in etcd's call: it is called by its peer address, and whoever joins from there takes
//! that name.

use concur_peers::{Change, ChangeError, Configuration, Newcomer, Outcome};
use concur_proto::etcdserverpb as pb;
use concur_proto::etcdserverpb::cluster_server::Cluster;
use tonic::{Code, Request, Response, Status};

use super::{Caller, Etcd, errors, refused};
use crate::door::{Level, Member};
use crate::metrics::Call;
use concur_core::Wire;
use std::time::{Duration, Instant};

/// How often a change is asked for again that came too early.
const LOOK_INTERVAL: Duration = Duration::from_millis(20);
/// Within what time members are heard, if they are there: an epoch may have just begun, or a disk may stall.
const HEARD_WITHIN: Duration = Duration::from_secs(3);

#[tonic::async_trait]
impl Cluster for Etcd {
    async fn member_add(&self, request: Request<pb::MemberAddRequest>) -> Result<Response<pb::MemberAddResponse>, Status> {
        self.metrics.count(Call::MemberAdd, self.do_member_add(request)).await
    }

    async fn member_remove(&self, request: Request<pb::MemberRemoveRequest>) -> Result<Response<pb::MemberRemoveResponse>, Status> {
        self.metrics.count(Call::MemberRemove, self.do_member_remove(request)).await
    }

    async fn member_update(&self, request: Request<pb::MemberUpdateRequest>) -> Result<Response<pb::MemberUpdateResponse>, Status> {
        self.metrics.count(Call::MemberUpdate, self.do_member_update(request)).await
    }

    async fn member_list(&self, request: Request<pb::MemberListRequest>) -> Result<Response<pb::MemberListResponse>, Status> {
        self.metrics.count(Call::MemberList, self.do_member_list(request)).await
    }

    async fn member_promote(&self, request: Request<pb::MemberPromoteRequest>) -> Result<Response<pb::MemberPromoteResponse>, Status> {
        self.metrics.count(Call::MemberPromote, self.do_member_promote(request)).await
    }
}

impl Etcd {
    async fn do_member_list(&self, request: Request<pb::MemberListRequest>) -> Result<Response<pb::MemberListResponse>, Status> {
        let caller = self.caller(Call::MemberList, &request).await?;
        if request.get_ref().linearizable {
            self.read(Level::Strong, super::reads_all(), &caller, |_| ()).await?;
        }
        Ok(Response::new(pb::MemberListResponse { header: self.bare_header(), members: self.wire_members().await? }))
    }

    async fn do_member_add(&self, request: Request<pb::MemberAddRequest>) -> Result<Response<pb::MemberAddResponse>, Status> {
        let caller = self.caller(Call::MemberAdd, &request).await?;
        let message = request.into_inner();
        let peer = address(&message.peer_ur_ls)?;
        let newcomer = Newcomer { name: concur_tls::host_port(&peer).to_owned(), peer: peer.clone(), ..Newcomer::default() };
        self.change(&caller, Change::Add { newcomer, votes: !message.is_learner }).await?;
        let members = self.wire_members().await?;
        let member = members.iter().find(|member| member.peer_ur_ls == [concur_tls::url(&peer)]).cloned();
        Ok(Response::new(pb::MemberAddResponse { header: self.bare_header(), member, members }))
    }

    async fn do_member_remove(&self, request: Request<pb::MemberRemoveRequest>) -> Result<Response<pb::MemberRemoveResponse>, Status> {
        let caller = self.caller(Call::MemberRemove, &request).await?;
        let message = request.into_inner();
        let id = self.member(message.id).await?.number;
        self.change(&caller, Change::Remove { id }).await?;
        Ok(Response::new(pb::MemberRemoveResponse { header: self.bare_header(), members: self.wire_members().await? }))
    }

    async fn do_member_update(&self, request: Request<pb::MemberUpdateRequest>) -> Result<Response<pb::MemberUpdateResponse>, Status> {
        let caller = self.caller(Call::MemberUpdate, &request).await?;
        let message = request.into_inner();
        let member = self.member(message.id).await?;
        let client = member.client_urls.first().map(|url| concur_tls::address(url)).unwrap_or_default();
        let peer = address(&message.peer_ur_ls)?;
        self.change(&caller, Change::Move { id: member.number, peer, client }).await?;
        Ok(Response::new(pb::MemberUpdateResponse { header: self.bare_header(), members: self.wire_members().await? }))
    }

    async fn do_member_promote(&self, request: Request<pb::MemberPromoteRequest>) -> Result<Response<pb::MemberPromoteResponse>, Status> {
        let caller = self.caller(Call::MemberPromote, &request).await?;
        let message = request.into_inner();
        let id = self.member(message.id).await?.number;
        self.change(&caller, Change::Promote { id, incarnation: 0 }).await?;
        Ok(Response::new(pb::MemberPromoteResponse { header: self.bare_header(), members: self.wire_members().await? }))
    }

    /// Hands the leadership to a member.
    pub(super) async fn lead(&self, caller: &Caller, target: u64) -> Result<(), Status> {
        let status = self.door.status().await.map_err(refused)?;
        if status.leader == target {
            return Ok(());
        }
        let member = status.members.iter().find(|member| member.id == target && !member.observer);
        let Some(member) = member else { return Err(errors::BAD_TRANSFEREE.into()) };
        self.change(caller, Change::Lead { id: member.number }).await.map(drop)
    }

    /// Has a change decided. Clients of etcd make one after another and expect each to be taken: one that comes before the last has
    /// settled waits for that.
    async fn change(&self, caller: &Caller, change: Change) -> Result<Configuration, Status> {
        let began = Instant::now();
        loop {
            let (body, _) = self.door.change(change.clone(), caller.deadline).await.map_err(refused)?;
            let error = match Outcome::from_bytes(&body) {
                Ok(Outcome::Done(configuration)) => return Ok(configuration),
                Ok(Outcome::Refused(error)) => error,
                Err(_) => return Err(Status::internal("the outcome cannot be read")),
            };
            let again = Instant::now() + LOOK_INTERVAL;
            if again >= caller.deadline || !settles(&error, began.elapsed()) {
                return Err(status_of(&error));
            }
            tokio::time::sleep_until(again.into()).await;
        }
    }

    async fn member(&self, id: u64) -> Result<Member, Status> {
        let status = self.door.status().await.map_err(refused)?;
        let found = status.members.into_iter().find(|member| member.id == id);
        found.ok_or_else(|| errors::MEMBER_NOT_FOUND.into())
    }

    async fn wire_members(&self) -> Result<Vec<pb::Member>, Status> {
        let status = self.door.status().await.map_err(refused)?;
        let member = |member: Member| pb::Member {
            id: member.id,
            name: if has_started(&member) { member.name } else { String::new() },
            peer_ur_ls: member.peer_urls,
            client_ur_ls: member.client_urls,
            is_learner: member.observer,
        };
        Ok(status.members.into_iter().map(member).collect())
    }
}

/// Whether a member that was added without a name has shown itself: until then etcd's clients are shown none.
fn has_started(member: &Member) -> bool {
    let unnamed = member.peer_urls.iter().any(|url| concur_tls::host_port(url) == member.name);
    !unnamed || !member.client_urls.is_empty()
}

/// Whether a change that is refused so, and was asked for so long ago, may be taken in a moment.
fn settles(error: &ChangeError, waited: Duration) -> bool {
    match error {
        ChangeError::UnderWay { .. } | ChangeError::Superseded { .. } => true,
        // The others have not yet been heard in an epoch that has just begun; or they are not there.
        ChangeError::NoQuorum { .. } => waited < HEARD_WITHIN,
        _ => false,
    }
}

/// The address of the first peer URL: `host:port`, with `https://` before it where that is how it is reached. All of them must be sound.
fn address(urls: &[String]) -> Result<String, Status> {
    match urls.first() {
        Some(first) if urls.iter().all(|url| is_sound(url)) => Ok(concur_tls::address(first)),
        _ => Err(errors::MEMBER_BAD_URLS.into()),
    }
}

fn is_sound(url: &str) -> bool {
    let known = url.starts_with("http://") || concur_tls::is_tls(url);
    known && concur_tls::host_port(url).rsplit_once(':').is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok())
}

/// A refusal in etcd's words where it has some, else in ours.
fn status_of(error: &ChangeError) -> Status {
    let known = match error {
        ChangeError::NoMember { .. } => errors::MEMBER_NOT_FOUND,
        ChangeError::AddressTaken { .. } => errors::PEER_URL_EXISTS,
        ChangeError::NameTaken { .. } => errors::MEMBER_EXISTS,
        ChangeError::NoQuorum { .. } => errors::UNHEALTHY,
        ChangeError::Behind { .. } | ChangeError::NotSeen { .. } => errors::LEARNER_NOT_READY,
        ChangeError::Same { .. } => errors::MEMBER_NOT_LEARNER,
        ChangeError::NoVoter { .. } | ChangeError::NoLeader { .. } => errors::BAD_TRANSFEREE,
        ChangeError::NotIn => errors::NOT_FOR_LEARNER,
        other => return Status::new(Code::FailedPrecondition, format!("concur: {other}")),
    };
    known.into()
}
