//! A small deterministic world for the cores of a protocol that decides one sequence: messages in a bag, disks that lag, crashes
//! that lose what was not durable, links that are cut. Messages and records go through their bytes.
//!
//! Checked at every step: no two replicas decide differently, value or order; where one replica leads, a ballot has one leader; no
//! replica votes durably for two values in one slot at one ballot; a read is answered once, with a frontier that covers what it must;
//! a checkpoint is as good as what it stands for.
//!
//! Each protocol's folder says what is its own by [`Cast`], and adds what its scenarios say again and again. Links that take time,
//! state and clients are the simulator's.

mod cast;
mod random;
mod world;

pub(crate) use cast::{Cast, HEARTBEAT, Setup, batch, id, mark, r};
pub(crate) use random::Plan;
pub(crate) use world::World;
