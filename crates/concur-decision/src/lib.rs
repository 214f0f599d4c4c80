//! How replicas vote: one folder a protocol, and the registry that lists them.
//!
//! A protocol implements [`concur_core::Protocol`] in a folder of its own and is added by one line to the `registry!` list below.
//! Everything else (the configuration's words, the command line, the simulator, the benchmarks, the tables in the docs) iterates
//! [`registry`] or asks [`find`]; the enums [`Leadership`] and [`Optimistic`] and the conversions to a [`DecisionMaking`] are made
//! from the same line.
//!
//! [`paxos`], [`multipaxos`] and [`mencius`] stand here with their own tests and are not listed yet: nothing offers or runs them until
//! all that iterates the registry has passed with them.
//!
//! It does not run anything: a replica drives what stands here.

mod registry;

pub mod epaxos;
pub mod mencius;
pub mod multipaxos;
pub mod paxos;
pub mod raft;
pub mod slots;

pub use registry::DecisionMaking;

registry::registry! {
    /// Protocols in which one leader at a time proposes.
    Leadership {
        /// Raft (Ongaro and Ousterhout 2014).
        Raft => raft::Raft,
    }
    /// Protocols without a leader, which take a longer path when commands collide.
    Optimistic {
        /// EPaxos, in its corrected form.
        EPaxos => epaxos::EPaxos,
    }
}
