//! The Lock service: one holder a name, those who wait in the order in which they came.

use concur_kv::{Op, Revision, Txn};
use concur_proto::v3lockpb as pb;
use concur_proto::v3lockpb::lock_server::Lock;
use tonic::{Request, Response, Status};

use super::turns::{Line, Turns, created_at, found, key_of, put};
use super::{Etcd, unexpected};
use crate::metrics::Call;

#[tonic::async_trait]
impl Lock for Etcd {
    async fn lock(&self, request: Request<pb::LockRequest>) -> Result<Response<pb::LockResponse>, Status> {
        self.metrics.count(Call::Lock, self.do_lock(request)).await
    }

    async fn unlock(&self, request: Request<pb::UnlockRequest>) -> Result<Response<pb::UnlockResponse>, Status> {
        let unlock = async {
            let turns = Turns::new(self, Call::Unlock, &request).await?;
            let header = turns.within(turns.delete(request.into_inner().key)).await?;
            Ok(Response::new(pb::UnlockResponse { header: Some(header) }))
        };
        self.metrics.count(Call::Unlock, unlock).await
    }
}

impl Etcd {
    async fn do_lock(&self, request: Request<pb::LockRequest>) -> Result<Response<pb::LockResponse>, Status> {
        let turns = Turns::new(self, Call::Lock, &request).await?;
        let request = request.into_inner();
        turns.within(lock(&turns, &request.name, request.lease)).await.map(Response::new)
    }
}

async fn lock(turns: &Turns, name: &[u8], lease: i64) -> Result<pb::LockResponse, Status> {
    let (line, lease) = (Line::of(name), turns.lease(lease).await?);
    let key = line.key(lease);
    let (mine, holder) = (Op::Range(key_of(&key)), Op::Range(line.first()));
    let enter = Txn {
        compare: vec![created_at(key.clone(), Revision(0))],
        success: vec![put(&key, Default::default(), lease), holder.clone()],
        failure: vec![mine, holder],
    };
    let (replies, entered, header) = turns.txn(enter).await?;
    let created = if entered { Revision(header.revision) } else { found(replies.first()).ok_or_else(unexpected)?.create_revision };
    let claim = turns.claim(key.clone(), created);
    if found(replies.get(1)).is_none_or(|holder| holder.create_revision == created) {
        claim.keep();
        return Ok(pb::LockResponse { header: Some(header), key });
    }
    turns.wait(&line, created).await?;
    let (mine, header) = turns.first(key_of(&key)).await?;
    claim.keep();
    match mine {
        Some(_) => Ok(pb::LockResponse { header: Some(header), key }),
        None => Err(Status::unknown("mutex: session is expired")),
    }
}
