//! The Cluster service: who is in. Changes of membership are not served yet by this door.

use concur_proto::etcdserverpb as pb;
use concur_proto::etcdserverpb::cluster_server::Cluster;
use tonic::{Request, Response, Status};

use super::{Etcd, refused};
use crate::door::Level;
use crate::metrics::Call;

const NO_CHANGES: &str = "concur: members cannot be changed through etcd's API; the cluster's members are those it was started with";

#[tonic::async_trait]
impl Cluster for Etcd {
    async fn member_add(&self, _: Request<pb::MemberAddRequest>) -> Result<Response<pb::MemberAddResponse>, Status> {
        Err(Status::unimplemented(NO_CHANGES))
    }

    async fn member_remove(&self, _: Request<pb::MemberRemoveRequest>) -> Result<Response<pb::MemberRemoveResponse>, Status> {
        Err(Status::unimplemented(NO_CHANGES))
    }

    async fn member_update(&self, _: Request<pb::MemberUpdateRequest>) -> Result<Response<pb::MemberUpdateResponse>, Status> {
        Err(Status::unimplemented(NO_CHANGES))
    }

    async fn member_list(&self, request: Request<pb::MemberListRequest>) -> Result<Response<pb::MemberListResponse>, Status> {
        self.metrics.count(Call::MemberList, self.do_member_list(request)).await
    }

    async fn member_promote(&self, _: Request<pb::MemberPromoteRequest>) -> Result<Response<pb::MemberPromoteResponse>, Status> {
        Err(Status::unimplemented(NO_CHANGES))
    }
}

impl Etcd {
    async fn do_member_list(&self, request: Request<pb::MemberListRequest>) -> Result<Response<pb::MemberListResponse>, Status> {
        let caller = self.caller(request.metadata())?;
        if request.get_ref().linearizable {
            self.read(Level::Strong, super::reads_all(), &caller, |_| ()).await?;
        }
        let status = self.door.status().await.map_err(refused)?;
        let members = status.members.into_iter().map(|member| pb::Member {
            id: member.id,
            name: member.name,
            peer_ur_ls: member.peer_urls,
            client_ur_ls: member.client_urls,
            is_learner: member.observer,
        });
        Ok(Response::new(pb::MemberListResponse { header: self.bare_header(), members: members.collect() }))
    }
}
