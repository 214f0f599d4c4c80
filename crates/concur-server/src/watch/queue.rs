//! The bounded queue between the hub and one stream.
//!
//! It is bounded twice, by responses and by bytes. The bounds are asked before a response is made ([`Outlet::has_room`]), so the
//! parts of one response pass them together: what is queued exceeds a bound by one response at most.
//! The reading end is the response stream of the call itself, so no task stands between. When it has drained what the hub could
//! not add to, it says so.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Context, Poll};

use tokio::sync::mpsc;
use tokio_stream::Stream;
use tonic::Status;

use super::{Ask, Encoded, StreamId, WatchRequest};
use crate::door::Door;

/// The hub's end.
#[derive(Debug)]
pub struct Outlet {
    sender: mpsc::UnboundedSender<Result<Encoded, Status>>,
    shared: Arc<Shared>,
    responses_max: usize,
    bytes_max: usize,
}

#[derive(Debug, Default)]
struct Shared {
    responses: AtomicUsize,
    bytes: AtomicUsize,
    /// The hub found no room and wants to hear when there is.
    wanted: AtomicBool,
}

/// The stream's end: yields responses as the hub pushed them.
#[derive(Debug)]
pub struct Inlet {
    receiver: mpsc::UnboundedReceiver<Result<Encoded, Status>>,
    shared: Arc<Shared>,
    door: Door,
    stream: StreamId,
}

/// A queue of at most so many responses and bytes.
pub fn queue(door: Door, stream: StreamId, responses_max: usize, bytes_max: usize) -> (Outlet, Inlet) {
    let (sender, receiver) = mpsc::unbounded_channel();
    let shared = Arc::new(Shared::default());
    (Outlet { sender, shared: shared.clone(), responses_max, bytes_max }, Inlet { receiver, shared, door, stream })
}

impl Outlet {
    /// Whether a response would be taken. If not, the stream will ask for [`Ask::Room`] once it has drained.
    pub fn has_room(&self) -> bool {
        if self.free() {
            return true;
        }
        self.shared.wanted.store(true, Ordering::Release);
        // The stream may have drained in between, and would then say nothing.
        self.free()
    }

    fn free(&self) -> bool {
        let Shared { responses, bytes, .. } = &*self.shared;
        responses.load(Ordering::Acquire) < self.responses_max && bytes.load(Ordering::Acquire) < self.bytes_max
    }

    /// Adds a response. Call only after [`Outlet::has_room`] said yes.
    pub(super) fn push(&self, response: Encoded) {
        self.shared.responses.fetch_add(1, Ordering::AcqRel);
        self.shared.bytes.fetch_add(response.len(), Ordering::AcqRel);
        // A stream that is gone is noticed by `is_closed`.
        let _ = self.sender.send(Ok(response));
    }

    /// Ends the stream with a status, after what is queued.
    pub(super) fn fail(&self, status: Status) {
        let _ = self.sender.send(Err(status));
    }

    /// Whether the stream is gone.
    pub(super) fn is_closed(&self) -> bool {
        self.sender.is_closed()
    }
}

impl Stream for Inlet {
    type Item = Result<Encoded, Status>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let polled = self.receiver.poll_recv(cx);
        if let Poll::Ready(Some(Ok(response))) = &polled {
            self.shared.responses.fetch_sub(1, Ordering::AcqRel);
            self.shared.bytes.fetch_sub(response.len(), Ordering::AcqRel);
        }
        let drained = self.receiver.is_empty();
        if drained && self.shared.wanted.swap(false, Ordering::AcqRel) {
            let room = WatchRequest { stream: self.stream, ask: Ask::Room };
            if self.door.try_watch(room).is_err() {
                // The hub looks at every stream at its next tick.
                self.shared.wanted.store(true, Ordering::Release);
            }
        }
        polled
    }
}

impl Drop for Inlet {
    fn drop(&mut self) {
        // If the queue of jobs is full, the hub notices at its next tick that this end is gone.
        let _ = self.door.try_watch(WatchRequest { stream: self.stream, ask: Ask::Close });
    }
}
