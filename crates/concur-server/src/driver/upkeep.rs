//! Who waits for the engine: to have what is executed, so that it can be looked at where it is kept, or to give unused space back.
//!
//! The engine has a thread of its own, so neither holds the node up. What is executed meanwhile gathers (`behind`); only when very
//! much has are commands refused.

use super::Driver;
use super::ask::Kept;
use super::behind::Behind;
use super::group::Wanted;
use crate::door::Refusal;
use concur_core::{GroupId, StateMachine};
use std::collections::BTreeMap;
use tokio::sync::oneshot;

/// Who waits, by the number that the engine will tell.
#[derive(Default)]
pub(crate) struct Upkeep {
    next: u64,
    waiting: BTreeMap<u64, (GroupId, Wanted)>,
    /// Those who asked for a compaction while one is under way get that one's answer.
    joined: Vec<oneshot::Sender<Result<(), Refusal>>>,
}

impl Upkeep {
    fn is_compacting(&self) -> bool {
        self.waiting.values().any(|(_, wanted)| matches!(wanted, Wanted::Compacted(_)))
    }

    /// The engine has come to a number.
    pub(crate) fn told(&mut self, number: u64, done: bool, behind: &Behind) {
        match self.waiting.remove(&number) {
            Some((group, Wanted::Kept(reply, caught_up))) => {
                let _ = reply.send(Kept { engine: behind.reader(), group, caught_up });
            }
            Some((_, Wanted::Compacted(reply))) => {
                // Somebody takes a snapshot: what that shows has to stay.
                let answer = if done { Ok(()) } else { Err(Refusal::Busy) };
                for reply in self.joined.drain(..).chain([reply]) {
                    let _ = reply.send(answer);
                }
            }
            None => {}
        }
    }
}

impl<M: StateMachine> Driver<M> {
    /// Passes on what is wanted of the engine. Whoever waits hears nothing but the end of its channel if the engine failed.
    pub(crate) fn look_after_the_engine(&mut self) {
        let wanted = self.parts.groups.iter_mut().flat_map(|group| {
            let id = group.seat.id;
            group.seat.wanted.drain(..).map(move |wanted| (id, wanted))
        });
        let wanted: Vec<_> = wanted.collect();
        for (id, wanted) in wanted {
            if self.engine_failed.is_some() {
                continue;
            }
            let wanted = match wanted {
                Wanted::Compacted(reply) if self.upkeep.is_compacting() => {
                    self.upkeep.joined.push(reply);
                    continue;
                }
                wanted => wanted,
            };
            let number = self.upkeep.next;
            self.upkeep.next += 1;
            let passed = match &wanted {
                Wanted::Kept(..) => self.parts.behind.tell(number),
                Wanted::Compacted(_) => self.parts.behind.compact(number),
            };
            self.upkeep.waiting.insert(number, (id, wanted));
            if let Err(error) = passed {
                self.engine_gone(&error);
            }
        }
    }
}
