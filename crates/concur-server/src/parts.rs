//! A large answer as a stream of parts, made on a thread of its own as fast as they are taken.
//!
//! Whoever makes it writes bytes; when a part is full it waits until the connection has room. Who takes no part for long is given up,
//! so that nobody holds for ever what the answer is made from.

use bytes::Bytes;
use std::io::{Error, ErrorKind, Write};
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

/// How large a part is: whole pages.
pub(crate) const PART_BYTES: usize = 256 << 10;
/// Parts that wait for the connection.
const PARTS_MAX: usize = 2;
/// Who takes no part for so long is given up.
const TAKEN_WITHIN: Duration = Duration::from_secs(30);

/// Why an answer ended early.
#[derive(Debug)]
pub(crate) enum Failed {
    /// Nobody takes it any more.
    Left,
    /// Something failed, in words for whoever asked.
    Because(String),
}

impl From<Error> for Failed {
    fn from(error: Error) -> Self {
        if error.kind() == ErrorKind::BrokenPipe { Self::Left } else { Self::Because(error.to_string()) }
    }
}

/// What is written to.
pub(crate) struct Parts<T> {
    parts: mpsc::Sender<Result<T, Status>>,
    make: Box<dyn FnMut(Bytes) -> T + Send>,
    buffer: Vec<u8>,
    runtime: Handle,
}

/// Makes an answer: `make` a part of bytes, `work` the bytes. The permit is given back at the end.
pub(crate) fn stream<T: Send + 'static>(
    permit: OwnedSemaphorePermit,
    make: impl FnMut(Bytes) -> T + Send + 'static,
    work: impl FnOnce(&mut Parts<T>) -> Result<(), Failed> + Send + 'static,
) -> ReceiverStream<Result<T, Status>> {
    let (parts, receiver) = mpsc::channel(PARTS_MAX);
    let mut out = Parts { parts, make: Box::new(make), buffer: Vec::new(), runtime: Handle::current() };
    tokio::task::spawn_blocking(move || {
        let ended = work(&mut out).and_then(|()| out.flush().map_err(Failed::from));
        if let Err(Failed::Because(why)) = ended {
            tracing::warn!("a snapshot could not be sent: {why}");
            let _ = out.send(Err(Status::internal(why)));
        }
        drop(permit);
    });
    ReceiverStream::new(receiver)
}

impl<T> Parts<T> {
    fn send(&self, part: Result<T, Status>) -> Result<(), Error> {
        let sent = self.runtime.block_on(self.parts.send_timeout(part, TAKEN_WITHIN));
        sent.map_err(|_| Error::from(ErrorKind::BrokenPipe))
    }
}

impl<T> Write for Parts<T> {
    fn write(&mut self, bytes: &[u8]) -> Result<usize, Error> {
        let count = bytes.len().min(PART_BYTES - self.buffer.len());
        self.buffer.extend_from_slice(&bytes[..count]);
        if self.buffer.len() == PART_BYTES {
            self.flush()?;
        }
        Ok(count)
    }

    /// Sends what has gathered.
    fn flush(&mut self) -> Result<(), Error> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        let bytes = std::mem::replace(&mut self.buffer, Vec::with_capacity(PART_BYTES));
        let part = (self.make)(bytes.into());
        self.send(Ok(part))
    }
}
