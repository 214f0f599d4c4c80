//! A small client of etcd's API: just what the tour needs.

use bytes::Bytes;
use concur_proto::etcdserverpb::kv_client::KvClient;
use concur_proto::etcdserverpb::maintenance_client::MaintenanceClient;
use concur_proto::etcdserverpb::{PutRequest, RangeRequest, StatusRequest, StatusResponse};
use std::collections::BTreeMap;
use std::time::Duration;
use tonic::Status;
use tonic::transport::{Channel, Endpoint};

/// One node's client. It connects by itself, again and again.
#[derive(Debug, Clone)]
pub(crate) struct Client {
    kv: KvClient<Channel>,
    maintenance: MaintenanceClient<Channel>,
    time_max: Duration,
}

impl Client {
    /// A client of the node on `port`, each of whose calls may take `time_max`. Must be called on a runtime.
    pub(crate) fn new(port: u16, time_max: Duration) -> Self {
        let endpoint = Endpoint::from_shared(format!("http://127.0.0.1:{port}")).expect("a port makes an address");
        let channel = endpoint.tcp_nodelay(true).connect_timeout(time_max).connect_lazy();
        let large = 64 << 20;
        let kv = KvClient::new(channel.clone()).max_decoding_message_size(large);
        Self { kv, maintenance: MaintenanceClient::new(channel), time_max }
    }

    /// Writes; the revision.
    pub(crate) async fn put(&mut self, key: &str, value: &str) -> Result<i64, Status> {
        let request = PutRequest { key: owned(key), value: owned(value), ..PutRequest::default() };
        let reply = within(self.time_max, self.kv.put(request)).await?;
        Ok(reply.into_inner().header.map_or(0, |header| header.revision))
    }

    /// Reads one key, linearizably.
    pub(crate) async fn get(&mut self, key: &str) -> Result<Option<Bytes>, Status> {
        let request = RangeRequest { key: owned(key), ..RangeRequest::default() };
        let reply = within(self.time_max, self.kv.range(request)).await?;
        Ok(reply.into_inner().kvs.into_iter().next().map(|kv| kv.value))
    }

    /// Everything under a prefix that ends with `/`, as this node has it.
    pub(crate) async fn under(&mut self, prefix: &str) -> Result<BTreeMap<Bytes, Bytes>, Status> {
        let range_end = owned(&prefix.replace('/', "0")); // The character behind the slash.
        let request = RangeRequest { key: owned(prefix), range_end, serializable: true, ..RangeRequest::default() };
        let reply = within(self.time_max * 5, self.kv.range(request)).await?;
        Ok(reply.into_inner().kvs.into_iter().map(|kv| (kv.key, kv.value)).collect())
    }

    /// What the node says of itself.
    pub(crate) async fn status(&mut self) -> Result<StatusResponse, Status> {
        Ok(within(self.time_max, self.maintenance.status(StatusRequest {})).await?.into_inner())
    }
}

async fn within<T>(time_max: Duration, call: impl Future<Output = Result<T, Status>>) -> Result<T, Status> {
    tokio::time::timeout(time_max, call).await.unwrap_or_else(|_| Err(Status::deadline_exceeded("no answer in time")))
}

fn owned(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}
