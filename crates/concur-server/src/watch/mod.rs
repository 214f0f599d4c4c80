//! Who watches what, and how they are told.
//!
//! One [`Hub`] stands beside the state of a namespace, on the node's thread. After every execution step the driver gives it
//! the state ([`Hub::advance`]); it finds the watchers of what changed, encodes each event once for all of them, and pushes
//! responses into each stream's bounded [`queue`](Outlet). It never waits: a watcher whose stream has no room falls *behind*,
//! leaves the index, and is served from the store's history in slices once there is room again; a watcher created in the past
//! starts that way. When it has caught up it returns to the index. A watcher that falls behind what was compacted is
//! cancelled with the compacted revision.
//!
//! Ids, texts and the order of responses are etcd's: `created` comes before events, all events of one revision come in one
//! response unless the watcher takes fragments, progress comes only when everything before it was sent.
//!
//! It holds no events of its own and does no I/O; time is an argument of [`Hub::tick`].

mod encode;
mod hub;
mod index;
mod queue;

pub use encode::Encoded;
pub use hub::{Hub, HubLimits};
pub use queue::{Inlet, Outlet, queue};

use bytes::Bytes;
use concur_kv::Asker;
use std::sync::atomic::{AtomicU64, Ordering};
use tonic::Status;

/// One client's stream of watches, named once in a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StreamId(pub u64);

impl StreamId {
    /// A name that no other stream of this process has.
    pub(crate) fn next() -> Self {
        static STREAMS: AtomicU64 = AtomicU64::new(1);
        Self(STREAMS.fetch_add(1, Ordering::Relaxed))
    }
}

/// What a stream asks of the hub.
#[derive(Debug)]
pub struct WatchRequest {
    /// Which stream.
    pub stream: StreamId,
    /// What it asks.
    pub ask: Ask,
}

/// What a stream can ask.
#[derive(Debug)]
pub enum Ask {
    /// To be known; the first thing a stream asks.
    Open {
        /// Where its responses go.
        outlet: Outlet,
        /// Whether it must end when no leader is known.
        needs_leader: bool,
    },
    /// To watch.
    Create(Create),
    /// To watch no more.
    Cancel(i64),
    /// To be told how far everything was sent.
    Progress,
    /// To go on: there is room in its queue.
    Room,
    /// To be forgotten.
    Close,
    /// To be ended so: what it sent cannot be read.
    Fail(Status),
}

/// A watch to create.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Create {
    /// Its id; 0: the next free one.
    pub id: i64,
    /// The key, or the first of the range. Empty is the smallest key.
    pub key: Bytes,
    /// As in a range: empty for one key, one zero byte for every key from the first on.
    pub range_end: Bytes,
    /// The first revision of interest; 0: whatever comes.
    pub start: i64,
    /// Leave out what was put.
    pub no_put: bool,
    /// Leave out what was deleted.
    pub no_delete: bool,
    /// Say what was there before.
    pub prev_kv: bool,
    /// Whether one revision may come in several responses.
    pub fragment: bool,
    /// Whether to be told the revision now and then when nothing happens.
    pub notify: bool,
    /// Who asks; judged when the watch begins, as in etcd, and not again.
    pub asker: Asker,
    /// Why nobody could be found out to ask, if so.
    pub refused: Option<String>,
}
