//! A connection whose bytes are counted and whose pings are limited.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Instant;

use concur_tls::Stream;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::pings::Pings;

/// Bytes that went over connections, TLS's own left out.
#[derive(Debug, Default)]
pub struct Traffic {
    received: AtomicU64,
    sent: AtomicU64,
}

impl Traffic {
    /// Bytes that came.
    pub fn received(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }

    /// Bytes that left.
    pub fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }
}

/// A connection whose bytes are counted, and which ends when it is pinged too often.
pub(super) struct Counted {
    pub(super) stream: Stream,
    pub(super) traffic: Arc<Traffic>,
    pub(super) pings: Pings,
}

impl AsyncRead for Counted {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let own = self.get_mut();
        let before = into.filled().len();
        let read = Pin::new(&mut own.stream).poll_read(cx, into);
        let came = &into.filled()[before..];
        own.traffic.received.fetch_add(came.len() as u64, Ordering::Relaxed);
        if !own.pings.came(came, Instant::now) {
            return Poll::Ready(Err(io::Error::other("it is pinged too often (--grpc-keepalive-min-time)")));
        }
        read
    }
}

impl AsyncWrite for Counted {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[io::IoSlice::new(bytes)])
    }

    fn poll_write_vectored(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[io::IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let own = self.get_mut();
        let written = Pin::new(&mut own.stream).poll_write_vectored(cx, bytes);
        if let Poll::Ready(Ok(mut left)) = written {
            own.traffic.sent.fetch_add(left as u64, Ordering::Relaxed);
            for slice in bytes {
                let part = left.min(slice.len());
                own.pings.left(&slice[..part]);
                left -= part;
            }
        }
        written
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
