//! Claims about a replica, whatever protocol it runs.
//!
//! - [`any`]: with every protocol of the registry, three replicas and everything that may happen to them.
//! - [`epochs`]: who is in and by which strategy changes, from every protocol to every other.
//! - [`scripted`]: with a protocol that does as it is told, one replica.
//! - [`hostile`]: bytes that are not what they should be.

mod any;
mod epochs;
mod hostile;
mod pump;
mod scripted;
mod tally;
mod toy;
