//! The native client: commands executed at most once, retries within a budget, levels of read, watches.
//!
//! A [`Client`] speaks to one namespace through any of its members. Every command has a number in a session that the replicas know,
//! so that it may be sent again, to the same member or another, and is executed once. [`Store`] is a client of a key-value
//! namespace:
//!
//! ```no_run
//! # async fn example() -> Result<(), concur_client::ClientError> {
//! use concur_client::{Level, Options, Store};
//!
//! let store = Store::open(Options::new(["127.0.0.1:2379", "127.0.0.1:22379", "127.0.0.1:32379"]))?;
//! let put = store.put("greeting", "hello").await?;
//! println!("revision {}, answered by {}", put.value.revision, put.stamp.name);
//! let greeting = store.get("greeting", Level::Strong).await?.value;
//! assert_eq!(&greeting.expect("it was just written").value[..], b"hello");
//! # Ok(())
//! # }
//! ```
//!
//! A request ends within [`Options::timeout`]. An error says whether the command may be executed yet ([`ClientError::Unknown`]) or
//! surely is not.
//!
//! An endpoint that begins with `https://` is reached by TLS, with [`Options::dialer`].
//!
//! What is not here: choosing the nearest member, levels between strong and eventual, leases kept alive in the background.

mod client;
mod error;
mod members;
mod retry;
mod session;
mod store;
mod watch;

pub use client::{Client, Level, Options, Stamp, Stamped};
pub use concur_kv as kv;
pub use concur_proto::concur::v1::{GroupStatus, StatusReply};
pub use concur_tls as tls;
pub use error::ClientError;
pub use store::Store;
pub use watch::{Change, Watch, Watching};
