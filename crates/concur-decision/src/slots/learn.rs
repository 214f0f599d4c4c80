//! Learn: replicas tell each other how far they know what is decided; whoever is behind asks for the next stretch, and fetches state
//! from whoever has forgotten it.

use super::log::Slots;
use concur_core::{ReplicaId, ReplicaSet, Value, wire_enum};
use std::collections::BTreeMap;
use std::sync::Arc;

/// What is said of decisions. Whatever it says is true for ever, so that none of it waits for a record: what is decided is durable
/// at a quorum.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Learn {
    /// Everything below `decided` is known to be decided here, and no slot from `known` on is known of.
    Summary {
        /// The first slot not known to be decided.
        decided: u64,
        /// One past the last slot known of.
        known: u64,
    },
    /// What is decided from here on?
    Ask {
        /// The first slot wanted.
        from: u64,
    },
    /// This is decided, slot by slot from the first on.
    Told {
        /// The slot of the first value.
        first: u64,
        /// The values.
        values: Vec<Value>,
        /// Everything below is known to be decided there.
        decided: u64,
    },
    /// What was asked for is forgotten; executed state covers everything below.
    Forgotten {
        /// The first slot that is kept.
        below: u64,
    },
}

wire_enum!(Learn {
    0 => Summary { decided, known },
    1 => Ask { from },
    2 => Told { first, values, decided },
    3 => Forgotten { below },
});

/// What follows from something said.
#[derive(Debug, Default)]
pub(crate) struct Lesson {
    /// What is newly known to be decided: to be handed to execution, and taken off whatever is under way.
    pub(crate) decided: Vec<(u64, Arc<Value>)>,
    /// What to answer to whoever said it.
    pub(crate) answer: Option<Learn>,
    /// What this replica lacks is forgotten there: its state covers everything below this slot.
    pub(crate) fetch: Option<u64>,
}

/// What is known of the other voters' knowledge.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub(crate) struct Peers {
    peers: BTreeMap<ReplicaId, Peer>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
struct Peer {
    decided: u64,
    /// For how many ticks nothing was heard.
    silent: u32,
    /// Its connection broke.
    down: bool,
}

impl Peers {
    /// Nothing is known of any.
    pub(crate) fn new(others: ReplicaSet) -> Self {
        Self { peers: others.iter().map(|id| (id, Peer::default())).collect() }
    }

    /// Something came from a peer.
    pub(crate) fn heard(&mut self, from: ReplicaId) {
        if let Some(peer) = self.peers.get_mut(&from) {
            (peer.silent, peer.down) = (0, false);
        }
    }

    /// A connection broke, or works again.
    pub(crate) fn hint(&mut self, id: ReplicaId, down: bool) {
        if let Some(peer) = self.peers.get_mut(&id) {
            peer.down = down;
        }
    }

    /// A tick has passed.
    pub(crate) fn tick(&mut self) {
        self.peers.values_mut().for_each(|peer| peer.silent = peer.silent.saturating_add(1));
    }

    /// Whether a peer was heard within so many ticks, and its connection has not broken since.
    pub(crate) fn lives(&self, id: ReplicaId, ticks: u32) -> bool {
        self.peers.get(&id).is_some_and(|peer| !peer.down && peer.silent <= ticks)
    }

    /// Whether its connection is known to be broken.
    pub(crate) fn is_down(&self, id: ReplicaId) -> bool {
        self.peers.get(&id).is_some_and(|peer| peer.down)
    }

    /// Whether everybody is known to know what is decided below this slot.
    pub(crate) fn all_know(&self, decided: u64) -> bool {
        self.peers.values().all(|peer| peer.decided >= decided)
    }

    /// Everything below this slot is known to be decided by each of these.
    pub(crate) fn known_to_all(&self, among: impl Fn(ReplicaId) -> bool) -> u64 {
        self.peers.iter().filter(|(id, _)| among(**id)).map(|(_, peer)| peer.decided).min().unwrap_or(u64::MAX)
    }

    /// Who is not known to know what is decided below this slot.
    pub(crate) fn unaware(&self, decided: u64) -> ReplicaSet {
        self.peers.iter().filter(|(_, peer)| peer.decided < decided).map(|(&id, _)| id).collect()
    }

    /// Of whom nothing was heard for so many ticks.
    pub(crate) fn silent(&self, ticks: u32) -> ReplicaSet {
        self.peers.iter().filter(|(_, peer)| peer.silent >= ticks).map(|(&id, _)| id).collect()
    }

    /// Whom to ask for what is missing: of those that are known to have more, the one that has most, one that seems to live first.
    pub(crate) fn fullest(&self, decided: u64) -> Option<ReplicaId> {
        let more = self.peers.iter().filter(|(_, peer)| peer.decided > decided);
        more.max_by_key(|(id, peer)| (!peer.down, peer.decided, std::cmp::Reverse(**id))).map(|(&id, _)| id)
    }

    /// Takes what a peer said.
    pub(crate) fn take(&mut self, from: ReplicaId, said: Learn, slots: &mut Slots, bytes_max: usize) -> Lesson {
        let mut lesson = Lesson::default();
        let theirs = match &said {
            Learn::Summary { decided, .. } | Learn::Told { decided, .. } => *decided,
            Learn::Ask { from } => *from,
            Learn::Forgotten { below } => *below,
        };
        if let Some(peer) = self.peers.get_mut(&from) {
            peer.decided = peer.decided.max(theirs);
        }
        match said {
            Learn::Summary { decided, known } => {
                slots.hear_of(known);
                if decided > slots.decided() {
                    lesson.answer = Some(Learn::Ask { from: slots.decided() });
                }
            }
            Learn::Ask { from } if from < slots.base() => lesson.answer = Some(Learn::Forgotten { below: slots.base() }),
            Learn::Ask { from } => {
                let values = slots.decided_from(from, bytes_max);
                if !values.is_empty() {
                    lesson.answer = Some(Learn::Told { first: from, values, decided: slots.decided() });
                }
            }
            Learn::Told { first, values, decided } => {
                let before = slots.decided();
                // A stretch that no lane can hold says nothing.
                let values = if first.checked_add(values.len() as u64).is_some() { values } else { Vec::new() };
                for (value, slot) in values.into_iter().zip(first..) {
                    let value = Arc::new(value);
                    if slots.decide(slot, Arc::clone(&value)) {
                        lesson.decided.push((slot, value));
                    }
                }
                slots.hear_of(decided);
                // The next stretch at once, as long as each brings something: even whoever lacks more may know what comes next, since
                // decisions are not made, nor learned, in order.
                if slots.decided() > before && slots.known() > slots.decided() {
                    lesson.answer = Some(Learn::Ask { from: slots.decided() });
                }
            }
            Learn::Forgotten { below } => {
                slots.hear_of(below);
                lesson.fetch = Some(below).filter(|&below| below > slots.decided());
            }
        }
        lesson
    }
}
