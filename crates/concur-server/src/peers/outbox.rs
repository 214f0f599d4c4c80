//! What waits to be sent on one stream.

use bytes::Bytes;
use concur_proto::concur::peer::v1::{Frames, Hello};
use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use tokio_stream::Stream;

/// Messages of each kind that may wait.
const FRAMES_MAX: usize = 8192;
/// Bytes of bulk that may wait; one that is larger than all of it may wait alone.
const BULK_BYTES_MAX: usize = 32 << 20;
/// About how many bytes leave in one message.
const MESSAGE_BYTES: usize = 1 << 20;

/// The queues of one link. The lock is never held across an await, and both sides are on one thread.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    queues: Mutex<Queues>,
}

#[derive(Debug, Default)]
struct Queues {
    urgent: VecDeque<Bytes>,
    bulk: VecDeque<Bytes>,
    bulk_bytes: usize,
    /// The stream that takes from here; older ones end. 0: none.
    stream: u64,
    streams: u64,
    waker: Option<Waker>,
    /// Something was pushed since the last wake.
    fresh: bool,
    closed: bool,
}

impl Outbox {
    fn queues(&self) -> MutexGuard<'_, Queues> {
        self.queues.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Queues a message, if there is a stream that takes it.
    pub(super) fn push(&self, urgent: bool, bytes: Bytes) {
        let mut queues = self.queues();
        if queues.stream == 0 {
            return;
        }
        queues.fresh = true;
        if urgent {
            if queues.urgent.len() >= FRAMES_MAX {
                queues.urgent.pop_front();
            }
            return queues.urgent.push_back(bytes);
        }
        queues.bulk_bytes += bytes.len();
        queues.bulk.push_back(bytes);
        while queues.bulk.len() > 1 && (queues.bulk.len() > FRAMES_MAX || queues.bulk_bytes > BULK_BYTES_MAX) {
            let oldest = queues.bulk.pop_front().map_or(0, |bytes| bytes.len());
            queues.bulk_bytes -= oldest;
        }
    }

    /// Wakes the stream if something was pushed.
    pub(super) fn wake(&self) -> bool {
        let mut queues = self.queues();
        if !std::mem::take(&mut queues.fresh) {
            return false;
        }
        if let Some(waker) = queues.waker.take() {
            waker.wake();
        }
        true
    }

    /// A stream that takes from here once it is [connected](Outbox::connect).
    pub(super) fn stream(self: &Arc<Self>, hello: Hello) -> Outgoing {
        let mut queues = self.queues();
        queues.streams += 1;
        Outgoing { outbox: self.clone(), number: queues.streams, hello: Some(hello) }
    }

    /// The newest stream is connected: what is pushed from here on goes to it.
    pub(super) fn connect(&self) {
        let mut queues = self.queues();
        queues.stream = queues.streams;
    }

    /// There is no connection: what waits is lost.
    pub(super) fn disconnect(&self) {
        let mut queues = self.queues();
        queues.stream = 0;
        queues.urgent.clear();
        queues.bulk.clear();
        queues.bulk_bytes = 0;
        if let Some(waker) = queues.waker.take() {
            waker.wake();
        }
    }

    /// The node stops.
    pub(super) fn close(&self) {
        self.disconnect();
        self.queues().closed = true;
    }

    pub(super) fn is_closed(&self) -> bool {
        self.queues().closed
    }
}

/// The stream of messages to one peer.
#[derive(Debug)]
pub(super) struct Outgoing {
    outbox: Arc<Outbox>,
    number: u64,
    hello: Option<Hello>,
}

impl Stream for Outgoing {
    type Item = Frames;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Frames>> {
        if let Some(hello) = self.hello.take() {
            return Poll::Ready(Some(Frames { hello: Some(hello), frames: Vec::new() }));
        }
        let mut queues = self.outbox.queues();
        if queues.closed || queues.streams != self.number {
            return Poll::Ready(None);
        }
        let frames = if queues.stream == self.number { queues.take() } else { Vec::new() };
        if frames.is_empty() {
            queues.waker = Some(cx.waker().clone());
            return Poll::Pending;
        }
        Poll::Ready(Some(Frames { hello: None, frames }))
    }
}

impl Queues {
    fn take(&mut self) -> Vec<Bytes> {
        let mut frames: Vec<Bytes> = Vec::with_capacity(self.urgent.len() + self.bulk.len().min(16));
        let mut bytes = 0;
        while bytes < MESSAGE_BYTES {
            let next = self.urgent.pop_front().or_else(|| {
                let bulk = self.bulk.pop_front()?;
                self.bulk_bytes -= bulk.len();
                Some(bulk)
            });
            let Some(frame) = next else { break };
            bytes += frame.len();
            frames.push(frame);
        }
        frames
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(n: usize) -> Bytes {
        Bytes::from(vec![0; n])
    }

    #[test]
    fn urgent_leaves_first_and_the_oldest_bulk_is_lost() {
        let outbox = Arc::new(Outbox::default());
        outbox.push(false, frame(1));
        let _stream = outbox.stream(Hello::default());
        outbox.connect();
        assert!(outbox.queues().take().is_empty(), "sent before the connection is lost");
        for n in 2..=4 {
            outbox.push(false, frame(n));
        }
        outbox.push(true, frame(9));
        let lengths: Vec<usize> = outbox.queues().take().iter().map(Bytes::len).collect();
        assert_eq!(lengths, [9, 2, 3, 4]);
        for _ in 0..5 {
            outbox.push(false, frame(BULK_BYTES_MAX / 4 + 1));
        }
        assert_eq!(outbox.queues().bulk.len(), 3);
    }
}
