//! A snapshot in etcd's own file, streamed.
//!
//! It is made from what the engine keeps, on a thread of its own: the node goes on, and memory is taken for a part or two. What it
//! holds is everything that was acknowledged before it was asked for, or if no quorum can be asked, everything that this member has
//! executed, as etcd's is.

use super::{Etcd, kv_error, reads_all, refused};
use crate::door::Level;
use crate::etcd_file::{Export, ExportError, Origin, STORAGE_VERSION};
use crate::parts::{self, Failed};
use concur_bolt::BoltError;
use concur_kv::{KvError, Ordering};
use concur_proto::etcdserverpb as pb;
use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering as Atomically};
use std::time::{Duration, Instant, SystemTime};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Response, Status};

/// How long the others are asked what was acknowledged.
const CATCH_UP_MAX: Duration = Duration::from_secs(3);

type Stream = ReceiverStream<Result<pb::SnapshotResponse, Status>>;

impl Etcd {
    pub(super) async fn do_snapshot(&self) -> Result<Response<Stream>, Status> {
        let taken = || {
            Status::resource_exhausted(
                "concur: this member sends other snapshots just now: try again when they are through, or ask another",
            )
        };
        let permit = self.snapshots.clone().try_acquire_owned().map_err(|_| taken())?;
        let deadline = Instant::now() + CATCH_UP_MAX;
        let ordering = self.door.read(Level::Eventual, reads_all(), deadline, |kv| kv.config().ordering).await.map_err(refused)?.0;
        if ordering == Ordering::PerKey {
            return Err(kv_error(KvError::OrderedPerKey));
        }
        let kept = self.door.kept(deadline).await.map_err(refused)?;
        let status = self.door.status().await.map_err(refused)?;
        let now_ms = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_millis());
        let origin = Origin {
            members: status.members,
            term: status.term,
            index: status.executed,
            now_ms: u64::try_from(now_ms).unwrap_or(u64::MAX),
        };
        let left = Arc::new(AtomicU64::new(0));
        let remaining = left.clone();
        let part = move |blob: bytes::Bytes| {
            let before = left.load(Atomically::Relaxed);
            let remaining_bytes = before.saturating_sub(blob.len() as u64);
            left.store(remaining_bytes, Atomically::Relaxed);
            pb::SnapshotResponse { header: None, remaining_bytes, blob, version: STORAGE_VERSION.into() }
        };
        Ok(Response::new(parts::stream(permit, part, move |out| {
            let view = kept.view().map_err(|error| Failed::Because(error.to_string()))?;
            let export = Export::measure(view, origin).map_err(failed)?;
            remaining.store(export.bytes(), Atomically::Relaxed);
            let hash = export.write(&mut *out).map_err(failed)?;
            // The hash comes by itself.
            out.flush()?;
            out.write_all(&hash)?;
            Ok(())
        })))
    }
}

fn failed(error: ExportError) -> Failed {
    match error {
        ExportError::Bolt(BoltError::Io(error)) => error.into(),
        error => Failed::Because(error.to_string()),
    }
}
