//! A state as the bytes of a snapshot file, a part at a time: the next is made when the last has room to go.

use bytes::Bytes;
use concur_proto::concur::v1 as pb;
use concur_store::snapshot::{SnapshotError, SnapshotHeader, SnapshotWriter};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

/// Parts that wait for the connection.
const PARTS_MAX: usize = 2;

pub(super) fn stream(
    header: SnapshotHeader,
    entries: Vec<(Bytes, Bytes)>,
    part_bytes: usize,
) -> ReceiverStream<Result<pb::SnapshotPart, Status>> {
    let (parts, receiver) = mpsc::channel(PARTS_MAX);
    tokio::spawn(async move {
        if let Err(error) = send(&parts, &header, entries, part_bytes).await {
            let _ = parts.send(Err(Status::internal(error.to_string()))).await;
        }
    });
    ReceiverStream::new(receiver)
}

/// Ends early if nobody takes the parts any more.
async fn send(
    parts: &mpsc::Sender<Result<pb::SnapshotPart, Status>>,
    header: &SnapshotHeader,
    entries: Vec<(Bytes, Bytes)>,
    part_bytes: usize,
) -> Result<(), SnapshotError> {
    let buffer = Shared::default();
    let mut writer = SnapshotWriter::new(buffer.clone(), header)?;
    for (key, value) in entries {
        writer.entry(&key, &value)?;
        if buffer.len() >= part_bytes && parts.send(Ok(pb::SnapshotPart { payload: buffer.take() })).await.is_err() {
            return Ok(());
        }
    }
    writer.finish()?;
    let _ = parts.send(Ok(pb::SnapshotPart { payload: buffer.take() })).await;
    Ok(())
}

/// What the writer has written and nobody has taken.
#[derive(Debug, Clone, Default)]
struct Shared(std::sync::Arc<std::sync::Mutex<Vec<u8>>>);

impl Shared {
    fn buffer(&self) -> std::sync::MutexGuard<'_, Vec<u8>> {
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn len(&self) -> usize {
        self.buffer().len()
    }

    fn take(&self) -> Bytes {
        std::mem::take(&mut *self.buffer()).into()
    }
}

impl std::io::Write for Shared {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.buffer().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}
