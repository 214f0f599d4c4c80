//! gRPC's health check: serving while a leader is known and the node is a member and not stopping.

use std::time::Duration;

use concur_proto::grpc::health::v1::health_check_response::ServingStatus;
use concur_proto::grpc::health::v1::health_server::Health;
use concur_proto::grpc::health::v1::{HealthCheckRequest, HealthCheckResponse};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use super::Etcd;
use crate::metrics::Call;

/// How often a watched health is looked at.
const LOOK_INTERVAL: Duration = Duration::from_millis(500);

#[tonic::async_trait]
impl Health for Etcd {
    type WatchStream = ReceiverStream<Result<HealthCheckResponse, Status>>;

    async fn check(&self, request: Request<HealthCheckRequest>) -> Result<Response<HealthCheckResponse>, Status> {
        let answer = async {
            match self.serving(&request.get_ref().service) {
                ServingStatus::ServiceUnknown => Err(Status::not_found("unknown service")),
                status => Ok(Response::new(HealthCheckResponse { status: status as i32 })),
            }
        };
        self.metrics.count(Call::HealthCheck, answer).await
    }

    async fn watch(&self, request: Request<HealthCheckRequest>) -> Result<Response<Self::WatchStream>, Status> {
        let (changes, stream) = mpsc::channel(1);
        let service = request.into_inner().service;
        tokio::spawn(self.clone().report(service, changes));
        self.metrics.count(Call::HealthWatch, async { Ok(Response::new(ReceiverStream::new(stream))) }).await
    }
}

impl Etcd {
    fn serving(&self, service: &str) -> ServingStatus {
        if !service.is_empty() && !service.starts_with("etcdserverpb.") {
            return ServingStatus::ServiceUnknown;
        }
        let pulse = self.door.pulse();
        if pulse.leader() == 0 || pulse.stopping() || pulse.removed() { ServingStatus::NotServing } else { ServingStatus::Serving }
    }

    async fn report(self, service: String, changes: mpsc::Sender<Result<HealthCheckResponse, Status>>) {
        let mut look = tokio::time::interval(LOOK_INTERVAL);
        let mut last = None;
        loop {
            tokio::select! {
                _ = changes.closed() => return,
                _ = look.tick() => {}
            }
            let status = self.serving(&service);
            if last.replace(status) != Some(status) && changes.send(Ok(HealthCheckResponse { status: status as i32 })).await.is_err() {
                return;
            }
        }
    }
}
