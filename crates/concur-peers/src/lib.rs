//! Who is in: the configuration of a group, and the changes that lead from one to the next.
//!
//! A group's history is a chain of epochs. Each has a [`Configuration`]: its members with their roles and weights, its strategy,
//! and who leads at first. The epoch ends with a seal, a decided value whose body is the next configuration; one mechanism serves
//! every protocol, and no protocol knows of it.
//!
//! ```text
//!   epoch 4: n1 n2 n3, raft              epoch 5: n1 n2 n4, raft           epoch 6: n1 n2 n4, epaxos
//!   ─ batch ─ batch ─ batch ─ seal ┐     ┌ batch ─ batch ─ batch ─ seal ┐  ┌ batch ─ …
//!                                  └─────┘                              └──┘
//!      the seal is decided and executed: everything before it has run everywhere that passes it, nothing behind it runs
//! ```
//!
//! [`Configuration::next`] makes the configuration that a [`Change`] asks for, or says why there is none; [`Configuration::blocked`]
//! says whether it could decide anything with the members that are there and close behind. Both are pure.
//!
//! What is not here: how a seal is decided, how a replica passes from one epoch to the next, and how newcomers get the state
//! (`concur-replica`); where members are reached is carried and not looked at.

mod change;
mod configuration;

pub use change::{Change, ChangeError, Newcomer, Outcome};
pub use configuration::{Configuration, Member, Role};
