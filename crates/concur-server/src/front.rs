//! Sends each request to the service that its path names.
//!
//! A [`Front`] is what [`serve`](crate::serve::serve) is given: gRPC calls go to the services of etcd's API and to the health
//! check, everything else to the pages of `pages`. It is cloned for each connection and holds only handles.

use std::convert::Infallible;
use std::task::{Context, Poll};

use concur_proto::etcdserverpb::auth_server::AuthServer;
use concur_proto::etcdserverpb::cluster_server::ClusterServer;
use concur_proto::etcdserverpb::kv_server::KvServer;
use concur_proto::etcdserverpb::lease_server::LeaseServer;
use concur_proto::etcdserverpb::maintenance_server::MaintenanceServer;
use concur_proto::grpc::health::v1::health_server::HealthServer;
use concur_proto::v3electionpb::election_server::ElectionServer;
use concur_proto::v3lockpb::lock_server::LockServer;
use http::{Request, Response};
use hyper::body::Incoming;
use tonic::Status;
use tonic::body::Body;
use tower_service::Service;

use crate::etcd::{Etcd, serve_watch};
use crate::pages;
use crate::serve::{Answering, is_grpc};

/// Everything that a client listener serves.
#[derive(Debug, Clone)]
pub struct Front {
    etcd: Etcd,
    kv: KvServer<Etcd>,
    lease: LeaseServer<Etcd>,
    cluster: ClusterServer<Etcd>,
    maintenance: MaintenanceServer<Etcd>,
    auth: AuthServer<Etcd>,
    lock: LockServer<Etcd>,
    election: ElectionServer<Etcd>,
    health: HealthServer<Etcd>,
}

impl Front {
    /// Serves one namespace as etcd does.
    pub fn new(etcd: Etcd) -> Self {
        let max = etcd.message_bytes_max();
        Self {
            kv: KvServer::new(etcd.clone()).max_decoding_message_size(max),
            lease: LeaseServer::new(etcd.clone()).max_decoding_message_size(max),
            cluster: ClusterServer::new(etcd.clone()).max_decoding_message_size(max),
            maintenance: MaintenanceServer::new(etcd.clone()).max_decoding_message_size(max),
            auth: AuthServer::new(etcd.clone()).max_decoding_message_size(max),
            lock: LockServer::new(etcd.clone()).max_decoding_message_size(max),
            election: ElectionServer::new(etcd.clone()).max_decoding_message_size(max),
            health: HealthServer::new(etcd.clone()).max_decoding_message_size(max),
            etcd,
        }
    }
}

impl Service<Request<Incoming>> for Front {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Answering;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Incoming>) -> Answering {
        let path = request.uri().path();
        match path.strip_prefix('/').and_then(|path| path.split_once('/')).map(|(service, _)| service) {
            Some("etcdserverpb.KV") => self.kv.call(request),
            Some("etcdserverpb.Lease") => self.lease.call(request),
            Some("etcdserverpb.Watch") if path == "/etcdserverpb.Watch/Watch" => serve_watch(self.etcd.clone(), request),
            Some("etcdserverpb.Maintenance") => self.maintenance.call(request),
            Some("etcdserverpb.Cluster") => self.cluster.call(request),
            Some("etcdserverpb.Auth") => self.auth.call(request),
            Some("v3lockpb.Lock") => self.lock.call(request),
            Some("v3electionpb.Election") => self.election.call(request),
            Some("grpc.health.v1.Health") => self.health.call(request),
            _ if is_grpc(&request) => {
                let status = Status::unimplemented(format!("unknown service or method {path}"));
                Box::pin(std::future::ready(Ok(status.into_http())))
            }
            _ => pages::answer(self.etcd.clone(), request),
        }
    }
}
