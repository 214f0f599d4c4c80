//! The node: driver, peer streams, front doors, metrics.
//!
//! A client's request comes in through [`serve`], which speaks HTTP/1 and gRPC on one port; [`front`] sends it to the service
//! its path names, and JSON through `gateway` to the same ones; [`etcd`] turns it into a command or a query of the store; [`door`]
//! carries that to the replica. [`auth`] finds out who asks. What the
//! store changed goes back to those who watch through [`watch`]. [`metrics`] counts, and the pages of plain HTTP show.
//!
//! This crate and the client are the only ones that know sockets and tokio.

pub mod auth;
pub mod door;
pub mod driver;
pub mod etcd;
pub(crate) mod etcd_file;
pub mod front;
mod gateway;
mod http_rules;
mod join;
pub mod metrics;
pub mod native;
pub mod node;
pub mod offline;
mod pages;
mod parts;
pub mod peers;
pub mod serve;
pub mod watch;

pub use concur_tls::ClientName;
pub use http_rules::HttpRules;
