//! The replicated key-value store: revisions, transactions, leases, and history for watches, with the semantics of etcd v3.
//!
//! [`Kv`] is a state machine without I/O. It executes a [`Command`] at a logged time and answers with a [`Reply`]; it answers
//! a [`Query`] from the state as it is. Every replica that executes the same commands in the same order has the same state, to the
//! byte of its durable image.
//!
//! ```
//! use concur_kv::{Command, Config, Kv, Put, RangeQuery, Reply, Revision};
//!
//! let mut kv = Kv::new(Config::default());
//! let put = Put { key: "greeting".into(), value: "hello".into(), ..Put::default() };
//! let Reply::Put(reply) = kv.execute(&Command::Put(put), 0) else { panic!() };
//! assert_eq!(reply.revision, Revision(2)); // an empty store is at 1
//!
//! let answer = kv.range(&RangeQuery { key: "greeting".into(), ..RangeQuery::default() })?;
//! assert_eq!(&answer.kvs[0].value[..], b"hello");
//! # Ok::<(), concur_kv::KvError>(())
//! ```
//!
//! A namespace is ordered totally, with one revision that each write takes the next of, or per key ([`Ordering::PerKey`]): each
//! key counts its own changes, writes to different keys commute, and there is no history.
//!
//! Users and roles are state as keys are ([`Auth`]): who asks is part of a command, and judged when it is executed.
//!
//! Not here: passwords and tokens, the watch hub, when to propose an expiry or a compaction, the size limit of a request, and anything
//! that knows gRPC beyond the numbers of its status codes.

mod auth;
mod check;
mod command;
mod compact;
mod error;
mod footprint;
mod hash;
mod image;
mod kv;
mod lease;
mod machine;
mod portable;
mod quota;
mod range;
mod record;
mod reply;
mod retention;
mod store;
mod txn;
mod watch;

pub use auth::*;
pub use check::{LEASE_TTL_MAX_S, TXN_OPS_MAX, check, check_query, check_range, check_txn};
pub use command::*;
pub use error::KvError;
pub use footprint::footprint;
pub use image::image_summary;
pub use kv::{Config, Kv, Ordering, QUOTA_BYTES};
pub use lease::ttl_least_s;
pub use portable::{Portable, PortableLease, PortableSummary, PortableVersion};
pub use record::{KeyValue, LeaseId, Record, Revision};
pub use reply::*;
pub use retention::{AutoCompaction, Retention};
pub use watch::RevisionChanges;
