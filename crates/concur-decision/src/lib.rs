//! How replicas vote: one folder a protocol, and the registry that lists them.
//!
//! A protocol implements [`concur_core::Protocol`] in a folder of its own and is added by one line to the `registry!` list below.
//! Everything else (the configuration's words, the command line, the simulator, the benchmarks, the tables in the docs) iterates
//! [`registry`] or asks [`find`]; the enums of the families, such as [`Leadership`], and the conversions to a [`DecisionMaking`] are
//! made from the same line.
//!
//! It does not run anything: a replica drives what stands here.

mod registry;

pub mod epaxos;
pub mod fastpaxos;
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
        /// Multi-Paxos (Lamport 2001), with a stable leader.
        MultiPaxos => multipaxos::MultiPaxos,
    }
    /// Protocols in which any replica prepares and proposes for a slot.
    Classic {
        /// Classic Paxos (Lamport 1998), without a leader.
        Paxos => paxos::Paxos,
    }
    /// Protocols in which the right to propose rotates.
    Ballots {
        /// Mencius (Mao, Junqueira and Marzullo 2008).
        Mencius => mencius::Mencius,
    }
    /// Protocols without a leader, which take a longer path when commands collide.
    Optimistic {
        /// Fast Paxos (Lamport 2006).
        FastPaxos => fastpaxos::FastPaxos,
        /// EPaxos, in its corrected form.
        EPaxos => epaxos::EPaxos,
    }
}
