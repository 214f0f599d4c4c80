//! A state as the bytes of a snapshot file, a part at a time: the next is made when the last has room to go.

use crate::driver::Image;
use bytes::Bytes;
use concur_proto::concur::v1 as pb;
use concur_store::snapshot::{SnapshotError, SnapshotHeader, SnapshotWriter};
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

/// Parts that wait for the connection, and how large they are.
const PARTS_MAX: usize = 2;
const PART_BYTES: usize = 256 << 10;
/// Who takes no part for so long is given up.
const TAKEN_WITHIN: Duration = Duration::from_secs(30);

type Part = Result<pb::SnapshotPart, Status>;

/// The permit is given back when the last part is on its way.
pub(super) fn stream(header: SnapshotHeader, image: Image, permit: OwnedSemaphorePermit) -> ReceiverStream<Part> {
    let (parts, receiver) = mpsc::channel(PARTS_MAX);
    tokio::spawn(async move {
        if let Err(error) = send(&parts, &header, image).await {
            let _ = parts.send_timeout(Err(Status::internal(error.to_string())), TAKEN_WITHIN).await;
        }
        drop(permit);
    });
    ReceiverStream::new(receiver)
}

/// Ends early if nobody takes the parts any more.
async fn send(parts: &mpsc::Sender<Part>, header: &SnapshotHeader, image: Image) -> Result<(), SnapshotError> {
    let Image { entries, caught_up, .. } = image;
    let buffer = Shared::default();
    let part = || Ok(pb::SnapshotPart { payload: buffer.take(), caught_up });
    let mut writer = SnapshotWriter::new(buffer.clone(), header)?;
    for (key, value) in entries {
        writer.entry(&key, &value)?;
        if buffer.len() >= PART_BYTES && parts.send_timeout(part(), TAKEN_WITHIN).await.is_err() {
            return Ok(());
        }
    }
    writer.finish()?;
    let _ = parts.send_timeout(part(), TAKEN_WITHIN).await;
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
