//! A state as the bytes of a snapshot file, read where it is kept and sent a part at a time.

use crate::driver::Kept;
use crate::parts::{self, Failed};
use concur_core::GroupId;
use concur_proto::concur::v1 as pb;
use concur_store::engine::EngineError;
use concur_store::snapshot::{SnapshotError, SnapshotHeader, SnapshotWriter};
use tokio::sync::OwnedSemaphorePermit;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

/// Who sends it, and of what.
pub(super) struct From {
    pub(super) cluster: u64,
    pub(super) node: u64,
    pub(super) group: GroupId,
}

/// The permit is given back when the last part is on its way.
pub(super) fn stream(from: From, kept: Kept, permit: OwnedSemaphorePermit) -> ReceiverStream<Result<pb::SnapshotPart, Status>> {
    let caught_up = kept.caught_up;
    let part = move |payload| pb::SnapshotPart { payload, caught_up };
    parts::stream(permit, part, move |out| {
        let view = kept.view().map_err(unreadable)?;
        let header = SnapshotHeader { cluster: from.cluster, node: from.node, group: from.group, mark: view.mark.clone() };
        let mut writer = SnapshotWriter::new(out, &header).map_err(failed)?;
        for entry in view.entries().map_err(unreadable)? {
            let (key, value) = entry.map_err(unreadable)?;
            writer.entry(&key, &value).map_err(failed)?;
        }
        writer.finish().map(drop).map_err(failed)
    })
}

fn unreadable(error: EngineError) -> Failed {
    Failed::Because(error.to_string())
}

fn failed(error: SnapshotError) -> Failed {
    match error {
        SnapshotError::Io(error) => error.into(),
        error => Failed::Because(error.to_string()),
    }
}
