//! Streams of answers whose end is counted: those that are open are the ones that started and did not end.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio_stream::Stream;
use tonic::{Code, Status};

use super::{Call, Metrics};

/// A stream of answers. One that is dropped before its end was cancelled by its reader.
#[derive(Debug)]
pub struct Ending<S> {
    inner: S,
    metrics: Arc<Metrics>,
    call: Call,
    ended: Code,
}

impl<S> Ending<S> {
    pub(super) fn new(inner: S, metrics: Arc<Metrics>, call: Call) -> Self {
        Self { inner, metrics, call, ended: Code::Cancelled }
    }
}

impl<T, S: Stream<Item = Result<T, Status>> + Unpin> Stream for Ending<S> {
    type Item = S::Item;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<S::Item>> {
        let polled = Pin::new(&mut self.inner).poll_next(cx);
        match &polled {
            Poll::Ready(None) => self.ended = Code::Ok,
            Poll::Ready(Some(Err(status))) => self.ended = status.code(),
            _ => {}
        }
        polled
    }
}

impl<S> Drop for Ending<S> {
    fn drop(&mut self) {
        self.metrics.ended(self.call, self.ended);
    }
}
