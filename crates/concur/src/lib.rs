//! One value that describes a replicated system: validate it, run it, embed it.
//!
//! A [`System`] answers four questions: how messages are sent (`network`), who is in (`peer_management`), how replicas vote
//! (`decision_making`) and when a decision is final (`execution`). The rest (members, regions, namespaces, timeouts, limits) has
//! defaults that work, so a literal says only what matters:
//!
//! ```
//! use concur::{Leadership, Network, System};
//!
//! let system = System { quorum_size: 3, network: Network::InProcess, decision_making: Leadership::Raft.into(), ..System::default() };
//! let report = system.validate()?;
//! assert_eq!(report.prediction.failures_survived, 1);
//! # Ok::<(), concur::Invalid>(())
//! ```
//!
//! The same value is read from TOML ([`System::from_toml`]); [`Document`] keeps the places in the file, so that every error and
//! warning names its line. Each has a code that [`explain()`] says more about.
//!
//! What is not here: changing a system while it runs, simulating it, searching over systems.

mod check;
mod explain;
mod finding;
mod predict;
mod read;
mod run;
mod security;
mod system;
mod units;

pub use concur_core::{At, Change, Corrupt, Footprint, Span, StateMachine, Strategy};
pub use concur_decision::{Ballots, Classic, DecisionMaking, Leadership, Optimistic, find, registry};
pub use concur_kv::Retention;
pub use concur_network::Volume;
pub use concur_server::HttpRules;
pub use concur_server::auth::AuthOptions;
pub use concur_server::driver::{Handle, Level as ReadLevel, Refused, Stamp};
pub use concur_server::etcd::ETCD_VERSION;
pub use concur_server::node::{NodeError, NodeOptions};
pub use concur_server::offline;
pub use concur_server::serve::ServeLimits;
pub use concur_tls::{Rules, TlsError, TlsOptions, Version};
pub use explain::{Explanation, explain, explanations};
pub use finding::{Finding, Invalid, Place, Severity};
pub use predict::{Latency, Prediction};
pub use read::Document;
pub use run::{Cluster, RunError, Running, Serving, Store, StoreError};
pub use security::Security;
pub use system::{
    Execution, Goals, Level, Limits, Link, Member, Namespace, Network, Order, PeerManagement, Quorums, Region, Report, System, Timeouts,
    Transport,
};
pub use units::{parse_duration, parse_size};

/// The README's example, which is tested as it stands there.
#[doc = include_str!("../../../README.md")]
#[cfg(doctest)]
pub struct Readme;
