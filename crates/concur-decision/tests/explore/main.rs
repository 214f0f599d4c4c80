//! Protocols explored exhaustively: every schedule of a small cluster, within bounds.
//!
//! A protocol is explored by a few cases of its own: which messages only spread what is known, who proposes, what may go wrong.

mod epaxos;
mod explorer;
mod fastpaxos;
mod mencius;
mod multipaxos;
mod paxos;
mod raft;
