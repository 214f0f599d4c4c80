//! Sends each request to the service that its path names.
//!
//! A [`Front`] is what [`serve`](crate::serve::serve) is given: gRPC calls go to the services of etcd's API and to the health
//! check and to reflection, JSON under `/v3/` to the gateway, everything else to the pages of `pages`. It is cloned for each connection and
//! holds only handles. Whom browsers may speak for is said by [`HttpRules`].

use std::convert::Infallible;
use std::sync::Arc;
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
use tonic::body::Body;
use tonic::{Code, Status};
use tower_service::Service;

use crate::etcd::errors::of_a_message;
use crate::etcd::{Etcd, serve_watch};
use crate::http_rules::HttpRules;
use crate::serve::{Answering, is_grpc};
use crate::{gateway, pages};

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
    rules: Arc<HttpRules>,
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
            rules: Arc::default(),
        }
    }

    /// With rules for plain HTTP.
    #[must_use]
    pub fn with_rules(mut self, rules: HttpRules) -> Self {
        self.rules = Arc::new(rules);
        self
    }

    /// The largest message taken from a client.
    pub(crate) fn message_bytes_max(&self) -> usize {
        self.etcd.message_bytes_max()
    }

    /// Answers a call of gRPC, or one that was made of something else.
    pub(crate) fn rpc(&mut self, request: Request<Body>) -> Answering {
        let answering = self.service(request);
        Box::pin(async move {
            let answer = answering.await?;
            // A message too large or too deep is refused below the services, before there is a call.
            match Status::from_header_map(answer.headers()) {
                Some(status) if matches!(status.code(), Code::OutOfRange | Code::Internal) => Ok(of_a_message(status).into_http()),
                _ => Ok(answer),
            }
        })
    }

    fn service(&mut self, request: Request<Body>) -> Answering {
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
            Some("grpc.reflection.v1.ServerReflection" | "grpc.reflection.v1alpha.ServerReflection") => reflect(request),
            _ => {
                let status = Status::unimplemented(format!("unknown service or method {path}"));
                Box::pin(std::future::ready(Ok(status.into_http())))
            }
        }
    }
}

/// Tells which services there are, and how their messages look.
fn reflect(request: Request<Body>) -> Answering {
    let builder = || tonic_reflection::server::Builder::configure().register_encoded_file_descriptor_set(concur_proto::DESCRIPTORS);
    Box::pin(async move {
        if request.uri().path().starts_with("/grpc.reflection.v1alpha.") {
            return match builder().build_v1alpha() {
                Ok(mut service) => service.call(request).await,
                Err(error) => Ok(Status::internal(error.to_string()).into_http()),
            };
        }
        match builder().build_v1() {
            Ok(mut service) => service.call(request).await,
            Err(error) => Ok(Status::internal(error.to_string()).into_http()),
        }
    })
}

impl Service<Request<Incoming>> for Front {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Answering;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Incoming>) -> Answering {
        if is_grpc(&request) {
            return self.rpc(request.map(Body::new));
        }
        if let Some(answer) = self.rules.at_once(&request) {
            return Box::pin(std::future::ready(Ok(answer)));
        }
        let origin = self.rules.allowed(&request);
        let answering = match request.uri().path() {
            path if gateway::serves(path) => gateway::answer(self.clone(), request),
            _ => pages::answer(self.etcd.clone(), request),
        };
        match origin {
            None => answering,
            Some(origin) => Box::pin(async move { answering.await.map(|answer| HttpRules::allow(answer, origin)) }),
        }
    }
}
