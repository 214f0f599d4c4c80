//! The numbers that mean something: replicas, epochs, instances, batches, ballots, tickets.

use crate::{Malformed, Reader, Wire, wire_newtype, wire_struct};
use std::fmt;

/// How many replicas, of every role, one configuration of a group can name.
pub const REPLICAS_MAX: usize = 64;

/// A replica's number in its group's configuration, `0..64`. The configuration maps it to a member and its addresses; peers tell
/// incarnations of one member apart by boot counts, so that a number may name another member in a later epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct ReplicaId(pub u8);

impl fmt::Display for ReplicaId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "r{}", self.0)
    }
}

impl Wire for ReplicaId {
    fn put(&self, out: &mut Vec<u8>) {
        out.push(self.0);
    }
    fn get(r: &mut Reader) -> Result<Self, Malformed> {
        match r.byte()? {
            n if usize::from(n) < REPLICAS_MAX => Ok(Self(n)),
            _ => Err(Malformed { what: "replica number" }),
        }
    }
}

/// A set of replicas.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct ReplicaSet(pub u64);

impl ReplicaSet {
    /// No replica.
    pub const EMPTY: Self = Self(0);

    /// Replicas `0..n`.
    pub fn first(n: usize) -> Self {
        assert!(n <= REPLICAS_MAX);
        if n == REPLICAS_MAX { Self(u64::MAX) } else { Self((1 << n) - 1) }
    }

    /// Just this one.
    pub fn one(id: ReplicaId) -> Self {
        Self(1 << id.0)
    }

    /// Whether `id` is in the set.
    pub fn contains(self, id: ReplicaId) -> bool {
        self.0 & (1 << id.0) != 0
    }

    /// Adds `id`; true if it was not there.
    pub fn insert(&mut self, id: ReplicaId) -> bool {
        let was = self.contains(id);
        self.0 |= 1 << id.0;
        !was
    }

    /// Takes `id` out.
    pub fn remove(&mut self, id: ReplicaId) {
        self.0 &= !(1 << id.0);
    }

    /// The set and `id`.
    pub fn with(self, id: ReplicaId) -> Self {
        Self(self.0 | 1 << id.0)
    }

    /// The set without `id`.
    pub fn without(self, id: ReplicaId) -> Self {
        Self(self.0 & !(1 << id.0))
    }

    /// Those in either.
    pub fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Those in both.
    pub fn intersection(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// Those here and not in `other`.
    pub fn minus(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    /// Whether everyone here is in `other`.
    pub fn is_subset(self, other: Self) -> bool {
        self.0 & !other.0 == 0
    }

    /// How many.
    pub fn len(self) -> usize {
        self.0.count_ones() as usize
    }

    /// Whether there is none.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Everyone, in order.
    pub fn iter(self) -> impl Iterator<Item = ReplicaId> + Clone {
        let mut left = self.0;
        std::iter::from_fn(move || {
            if left == 0 {
                return None;
            }
            let n = left.trailing_zeros();
            left &= left - 1;
            Some(ReplicaId(n as u8))
        })
    }
}

impl FromIterator<ReplicaId> for ReplicaSet {
    fn from_iter<I: IntoIterator<Item = ReplicaId>>(ids: I) -> Self {
        ids.into_iter().fold(Self::EMPTY, Self::with)
    }
}

impl fmt::Debug for ReplicaSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.iter().map(|id| id.0)).finish()
    }
}

/// One configuration of one group: members, weights, quorum system and strategy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Epoch(pub u64);

/// The group whose replicas agree on one history; one a namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct GroupId(pub u64);

/// One sequence of instances: slot protocols have one, EPaxos one a replica.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct LaneId(pub u8);

/// Where a value is decided, within one epoch. Numbers start at 0 in each lane.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Instance {
    /// The lane.
    pub lane: LaneId,
    /// The number in the lane.
    pub number: u64,
}

impl Instance {
    /// Instance `number` of the only lane of a slot protocol.
    pub fn slot(number: u64) -> Self {
        Self { lane: LaneId(0), number }
    }
}

impl fmt::Debug for Instance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.lane.0, self.number)
    }
}

impl fmt::Display for Instance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.lane.0, self.number)
    }
}

/// A run of instances of one lane: `count` of them from `first` on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Run {
    /// The first instance.
    pub first: Instance,
    /// How many, at least one.
    pub count: u64,
}

impl Run {
    /// Its instances, in order.
    pub fn instances(self) -> impl Iterator<Item = Instance> {
        let Self { first: Instance { lane, number }, count } = self;
        (number..number.saturating_add(count)).map(move |number| Instance { lane, number })
    }
}

impl From<Instance> for Run {
    fn from(first: Instance) -> Self {
        Self { first, count: 1 }
    }
}

/// How often a member has started, counted durably; a lower one than was seen before is refused by its peers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct BootCount(pub u64);

/// A batch's name for ever: who made it, in which run of its process, and which one of that run. It stays the same however often
/// the batch is proposed, so that executed state can tell that it ran.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BatchId {
    /// The replica where its clients wait.
    pub origin: ReplicaId,
    /// That replica's run.
    pub boot: BootCount,
    /// The number of the batch in that run.
    pub number: u64,
}

impl Wire for BatchId {
    fn put(&self, out: &mut Vec<u8>) {
        self.origin.put(out);
        self.boot.put(out);
        self.number.put(out);
    }

    fn get(r: &mut Reader) -> Result<Self, Malformed> {
        let id = Self { origin: Wire::get(r)?, boot: Wire::get(r)?, number: Wire::get(r)? };
        // The numbers that ran are kept as half-open ranges.
        if id.number == u64::MAX { Err(Malformed { what: "number of a batch" }) } else { Ok(id) }
    }
}

impl fmt::Debug for BatchId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "b{}/{}/{}", self.origin.0, self.boot.0, self.number)
    }
}

/// A ballot: a round and the replica that owns it, ordered by round, then owner.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Ballot {
    /// The round.
    pub round: u64,
    /// Its owner.
    pub owner: ReplicaId,
}

/// The how-manieth record that a replica persisted in this run of its process; durable through a ticket means that it and all
/// before it are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Ticket(pub u64);

/// A round of reads that wait for one barrier. Never used again in a run of a process; carries the run's boot count.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ReadId {
    /// The run.
    pub boot: BootCount,
    /// The number in the run.
    pub number: u64,
}

/// A client's session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct SessionId(pub u64);

wire_newtype!(ReplicaSet, Epoch, GroupId, BootCount, Ticket, SessionId, LaneId);
wire_struct!(Instance { lane, number });
wire_struct!(Run { first, count });
wire_struct!(Ballot { round, owner });
wire_struct!(ReadId { boot, number });
