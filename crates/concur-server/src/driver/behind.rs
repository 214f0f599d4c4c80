//! What the state engine has still to write: off the reply path, in small bulks.
//!
//! Changes gather here, later ones over earlier ones, and go to the engine's thread when enough have, or at the next tick. When
//! its queue is full they gather on; beyond [`GATHERED_BYTES_MAX`] clients' commands are refused until it has caught up.

use bytes::Bytes;
use concur_core::{GroupId, Wire};
use concur_replica::Bulk;
use concur_store::engine::{EngineCommand, EngineError, EngineRead, EngineThread, Refused, Write};
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;

/// Changes of this many bytes go to the engine without waiting for a tick.
const BULK_BYTES: usize = 256 << 10;
/// More than this waits only if the engine cannot keep up.
const GATHERED_BYTES_MAX: usize = 128 << 20;
/// One part of an installed state.
const PART_BYTES: usize = 1 << 20;

/// What one group changed.
#[derive(Default)]
struct Gathered {
    changes: HashMap<Bytes, Option<Bytes>>,
    bytes: usize,
    mark: Bytes,
}

/// Everything that the engine has still to write.
pub(crate) struct Behind {
    engine: EngineThread,
    gathered: BTreeMap<GroupId, Gathered>,
    /// Commands that the engine's queue had no room for, in order.
    commands: VecDeque<EngineCommand>,
    unsynced: bool,
}

impl Behind {
    pub(crate) fn new(engine: EngineThread) -> Self {
        Self { engine, gathered: BTreeMap::new(), commands: VecDeque::new(), unsynced: false }
    }

    /// Adds what a group changed.
    pub(crate) fn write(&mut self, group: GroupId, bulk: Bulk) -> Result<(), EngineError> {
        let gathered = self.gathered.entry(group).or_default();
        for change in bulk.changes {
            gathered.bytes += change.key.len() + change.value.as_ref().map_or(0, Bytes::len) + 32;
            gathered.changes.insert(change.key, change.value);
        }
        gathered.mark = bulk.mark.to_bytes();
        if gathered.bytes >= BULK_BYTES { self.flush() } else { Ok(()) }
    }

    /// Replaces a group's state, with what was gathered before.
    pub(crate) fn install(&mut self, group: GroupId, bulk: Bulk) -> Result<(), EngineError> {
        self.gathered.remove(&group);
        self.commands.push_back(EngineCommand::BeginInstall(group));
        let mut part = Vec::new();
        let mut bytes = 0;
        for change in bulk.changes {
            bytes += change.key.len() + change.value.as_ref().map_or(0, Bytes::len);
            part.push((change.key, change.value));
            if bytes >= PART_BYTES {
                self.commands.push_back(EngineCommand::Install(group, std::mem::take(&mut part)));
                bytes = 0;
            }
        }
        self.commands.push_back(EngineCommand::Install(group, part));
        self.commands.push_back(EngineCommand::FinishInstall(group, bulk.mark.to_bytes()));
        self.submit()
    }

    /// Hands everything that gathered to the engine.
    pub(crate) fn flush(&mut self) -> Result<(), EngineError> {
        self.submit()?;
        if !self.commands.is_empty() {
            return Ok(());
        }
        self.gather_up();
        self.submit()
    }

    /// Puts everything that gathered behind the commands that wait.
    fn gather_up(&mut self) {
        for (group, gathered) in std::mem::take(&mut self.gathered) {
            let bulk = gathered.changes.into_iter().collect();
            self.commands.push_back(EngineCommand::Write(Write { group, bulk, mark: gathered.mark }));
            self.unsynced = true;
        }
    }

    /// Has what was handed over made durable, if anything was since the last time.
    pub(crate) fn sync(&mut self) -> Result<(), EngineError> {
        self.flush()?;
        if std::mem::take(&mut self.unsynced) {
            self.commands.push_back(EngineCommand::Sync);
        }
        self.submit()
    }

    /// Has the engine say under this number when it has all that was handed over and gathered.
    pub(crate) fn tell(&mut self, number: u64) -> Result<(), EngineError> {
        self.gather_up();
        self.commands.push_back(EngineCommand::Tell(number));
        self.submit()
    }

    /// Has the engine give unused space back, and say under this number whether it did. Changes gather meanwhile.
    pub(crate) fn compact(&mut self, number: u64) -> Result<(), EngineError> {
        self.gather_up();
        self.commands.push_back(EngineCommand::Compact(number));
        self.submit()
    }

    /// Where what the engine has is read.
    pub(crate) fn reader(&self) -> Arc<dyn EngineRead> {
        self.engine.reader()
    }

    /// Whether the engine is so far behind that nothing more should be added.
    pub(crate) fn is_overfull(&self) -> bool {
        self.gathered.values().map(|gathered| gathered.bytes).sum::<usize>() > GATHERED_BYTES_MAX
    }

    fn submit(&mut self) -> Result<(), EngineError> {
        while let Some(command) = self.commands.pop_front() {
            match self.engine.submit(command) {
                Ok(()) => {}
                Err(Refused::Busy(command)) => {
                    self.commands.push_front(command);
                    return Ok(());
                }
                Err(Refused::Failed(error)) => return Err(error),
            }
        }
        Ok(())
    }
}
