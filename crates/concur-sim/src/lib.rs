//! The deterministic world: clock, network, disks, faults, clients, checkers.
//!
//! A seed is one run: [`Schedule::draw`] makes of it a system of 3 to 7 replicas, its clients with at least 200 operations, and at
//! least three kinds of [`Fault`] that strike while they work; [`run`] lets it happen in virtual time, drives each
//! [`concur_replica::Replica`] as the real node does, over the real log's codec on a disk in memory, and holds it to every promise:
//! agreement, one order of what interferes, nothing acknowledged lost, exactly once, linearizability, what was durable never
//! falling back, one leader a term, bounded queues, refusing rather than lying, watches without gap, duplicate or reordering, and
//! progress once everything is healed. Who is in and by which strategy they decide changes while all that happens: an operator has
//! wishes of its own ([`Wish`]).
//! [`sweep`](sweep()) runs many seeds on all cores and tells what they covered; [`shrink`](shrink()) makes a run that fails small;
//! [`latency`] measures commit latencies that must equal closed forms; [`check_strategy!`] makes of all this, and of small worlds of
//! a protocol's cores alone, an [`examination`] that any crate can have its protocol sit.
//!
//! The same seed gives the same bytes on any machine: nothing here iterates a hash map, reads a clock or shares anything between
//! runs.
//!
//! Not here: sockets, real time, and what only the real engine does (its commits are atomic here and take time). That it finds what
//! is damaged when it opens is taken for granted here, and examined where the engine is. Of another version there is none yet: a
//! program of one is a node that reads nothing of this version, and of which this one reads nothing.

mod chase;
mod check;
mod clients;
mod coverage;
mod decisions;
mod drive;
pub mod examination;
mod fault;
mod history;
pub mod latency;
mod ledger;
mod linear;
pub mod literature;
mod lives;
mod network;
mod node;
mod operator;
mod plan;
mod report;
mod requests;
mod roster;
mod run;
pub mod scenario;
mod schedule;
mod shrink;
mod steady;
mod sweep;
mod trace;
mod trouble;
mod watching;
mod witness;
mod world;

pub use check::check;
pub use coverage::Coverage;
pub use fault::{Episode, Fault};
pub use ledger::Violation;
pub use plan::{Asked, Kind, Wish};
pub use report::Report;
pub use run::{run, run_traced};
pub use schedule::{Act, Client, Network, Operation, Options, Schedule, Tuning};
pub use shrink::{Shrunk, shrink};
pub use sweep::{Failure, Progress, Sweep, Sweeping, sweep};
pub use trace::Trace;
pub use world::{Outcome, Verdict};
