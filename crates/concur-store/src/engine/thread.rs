//! The engine on a thread of its own.
//!
//! Commands come through a queue that is bounded in number and in bytes; when it is full a command is handed back, and its
//! owner keeps it (a dirty set absorbs more). Writes that wait together become one transaction. After so many bytes or
//! transactions, or when asked, a transaction is durable. There is no timer: whoever wants one sends
//! [`EngineCommand::Sync`].
//!
//! The first error is reported once, every command is refused from then on, and what waited is dropped.

use std::collections::BTreeMap;
use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, OnceLock};
use std::thread::{self, JoinHandle};

use bytes::Bytes;
use concur_core::GroupId;

use super::{Bulk, Engine, EngineError, EngineRead, Write};

/// What one command counts in bytes beside its keys and values.
const COMMAND_BYTES: usize = 64;

/// Bounds and intervals.
#[derive(Clone, Copy, Debug)]
pub struct EngineOptions {
    /// Commands that may wait.
    pub queue_max: usize,
    /// Bytes of keys, values and marks that may wait. A single command may exceed it when nothing else waits.
    pub queue_bytes_max: usize,
    /// Bytes that one transaction takes from those that wait.
    pub transaction_bytes_max: usize,
    /// Bytes after which a transaction is durable.
    pub sync_bytes: usize,
    /// Transactions after which one is durable.
    pub sync_transactions: usize,
}

impl Default for EngineOptions {
    fn default() -> Self {
        EngineOptions {
            queue_max: 1024,
            queue_bytes_max: 32 << 20,
            transaction_bytes_max: 1 << 20,
            sync_bytes: 16 << 20,
            sync_transactions: 256,
        }
    }
}

/// What the thread is asked to do. Commands are carried out in the order they were submitted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EngineCommand {
    /// Apply what execution changed.
    Write(Write),
    /// Make everything before durable.
    Sync,
    /// Begin to gather a state for a group.
    BeginInstall(GroupId),
    /// Add to it.
    Install(GroupId, Bulk),
    /// Put it in the place of the group's state, at this mark.
    FinishInstall(GroupId, Bytes),
    /// Say so when everything before is carried out.
    Tell(u64),
    /// Give unused space back to the file system, and say whether that was done.
    Compact(u64),
}

/// What the thread reports. Called on its thread: hand it on and return.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EngineEvent {
    /// Readers of the engine see a group's state up to this mark.
    Written(GroupId, Bytes),
    /// A crash keeps a group's state up to this mark.
    Durable(GroupId, Bytes),
    /// What was to be told under this number; of a compaction, whether it was done.
    Told(u64, bool),
    /// The engine failed. The last event.
    Failed(EngineError),
}

/// Why a command was not taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refused {
    /// The queue is full: here is the command back.
    Busy(EngineCommand),
    /// The engine failed.
    Failed(EngineError),
}

/// The handle. Dropping it carries out what waits, makes it durable, and waits for that.
pub struct EngineThread {
    queue: Option<SyncSender<EngineCommand>>,
    queued_bytes: Arc<AtomicUsize>,
    queue_bytes_max: usize,
    failed: Arc<OnceLock<EngineError>>,
    reader: Arc<dyn EngineRead>,
    thread: Option<JoinHandle<()>>,
}

impl EngineThread {
    /// Starts the thread.
    pub fn spawn(
        engine: impl Engine + 'static,
        options: EngineOptions,
        report: impl FnMut(EngineEvent) + Send + 'static,
    ) -> io::Result<EngineThread> {
        let (queue, commands) = sync_channel(options.queue_max.max(1));
        let (queued_bytes, failed) = (Arc::new(AtomicUsize::new(0)), Arc::new(OnceLock::new()));
        let reader = engine.reader();
        let worker = Worker {
            engine,
            options,
            report,
            commands,
            queued_bytes: queued_bytes.clone(),
            failed: failed.clone(),
            unsynced: BTreeMap::new(),
            unsynced_bytes: 0,
            unsynced_transactions: 0,
        };
        let thread = thread::Builder::new().name("engine".into()).spawn(move || worker.run())?;
        let queue_bytes_max = options.queue_bytes_max;
        Ok(EngineThread { queue: Some(queue), queued_bytes, queue_bytes_max, failed, reader, thread: Some(thread) })
    }

    /// Puts a command into the queue. Never waits.
    pub fn submit(&self, command: EngineCommand) -> Result<(), Refused> {
        if let Some(error) = self.failed.get() {
            return Err(Refused::Failed(error.clone()));
        }
        let Some(queue) = &self.queue else {
            return Err(Refused::Busy(command));
        };
        let bytes = command_bytes(&command);
        let waiting = self.queued_bytes.fetch_add(bytes, Ordering::Relaxed);
        if waiting > 0 && waiting + bytes > self.queue_bytes_max {
            self.queued_bytes.fetch_sub(bytes, Ordering::Relaxed);
            return Err(Refused::Busy(command));
        }
        queue.try_send(command).map_err(|error| {
            self.queued_bytes.fetch_sub(bytes, Ordering::Relaxed);
            match error {
                TrySendError::Full(command) => Refused::Busy(command),
                TrySendError::Disconnected(_) => Refused::Failed(self.failed.get().cloned().unwrap_or_else(gone)),
            }
        })
    }

    /// Bytes that wait in the queue.
    pub fn queued_bytes(&self) -> usize {
        self.queued_bytes.load(Ordering::Relaxed)
    }

    /// The reading side of the engine, for any thread.
    pub fn reader(&self) -> Arc<dyn EngineRead> {
        self.reader.clone()
    }
}

impl Drop for EngineThread {
    fn drop(&mut self) {
        self.queue = None;
        if let Some(thread) = self.thread.take() {
            // A panic on it was reported there.
            drop(thread.join());
        }
    }
}

impl std::fmt::Debug for EngineThread {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EngineThread")
            .field("queued_bytes", &self.queued_bytes())
            .field("failed", &self.failed.get())
            .finish_non_exhaustive()
    }
}

struct Worker<E, R> {
    engine: E,
    options: EngineOptions,
    report: R,
    commands: Receiver<EngineCommand>,
    queued_bytes: Arc<AtomicUsize>,
    failed: Arc<OnceLock<EngineError>>,
    /// Marks that are written and not durable.
    unsynced: BTreeMap<GroupId, Bytes>,
    unsynced_bytes: usize,
    unsynced_transactions: usize,
}

impl<E: Engine, R: FnMut(EngineEvent)> Worker<E, R> {
    fn run(mut self) {
        let ended = self.serve().and_then(|()| self.sync());
        if let Err(error) = ended {
            // Set before it is reported, so that whoever hears of it finds commands refused.
            drop(self.failed.set(error.clone()));
            (self.report)(EngineEvent::Failed(error));
        }
    }

    /// Carries out commands until the handle is dropped.
    fn serve(&mut self) -> Result<(), EngineError> {
        let mut next = self.commands.recv().ok();
        while let Some(command) = next {
            self.queued_bytes.fetch_sub(command_bytes(&command), Ordering::Relaxed);
            next = match command {
                EngineCommand::Write(write) => self.write(write)?,
                other => {
                    self.carry_out(other)?;
                    None
                }
            };
            next = next.or_else(|| self.commands.recv().ok());
        }
        Ok(())
    }

    /// Applies a write, and those that wait behind it. Answers the command that follows them, if one was taken.
    fn write(&mut self, first: Write) -> Result<Option<EngineCommand>, EngineError> {
        let mut bytes = write_bytes(&first);
        let mut writes = vec![first];
        let mut next = None;
        while bytes < self.options.transaction_bytes_max {
            match self.commands.try_recv() {
                Ok(EngineCommand::Write(write)) => {
                    let more = write_bytes(&write);
                    self.queued_bytes.fetch_sub(more, Ordering::Relaxed);
                    bytes += more;
                    writes.push(write);
                }
                Ok(other) => {
                    next = Some(other);
                    break;
                }
                Err(_) => break,
            }
        }
        self.unsynced_bytes += bytes;
        self.unsynced_transactions += 1;
        let durable = self.unsynced_bytes >= self.options.sync_bytes || self.unsynced_transactions >= self.options.sync_transactions;
        self.engine.apply(&writes, durable)?;
        let marks: BTreeMap<GroupId, Bytes> = writes.into_iter().map(|write| (write.group, write.mark)).collect();
        for (group, mark) in marks {
            (self.report)(EngineEvent::Written(group, mark.clone()));
            self.unsynced.insert(group, mark);
        }
        if durable {
            self.synced();
        }
        Ok(next)
    }

    fn carry_out(&mut self, command: EngineCommand) -> Result<(), EngineError> {
        match command {
            EngineCommand::Write(write) => self.write(write).map(drop),
            EngineCommand::Sync => self.sync(),
            EngineCommand::Tell(number) => {
                (self.report)(EngineEvent::Told(number, true));
                Ok(())
            }
            EngineCommand::Compact(number) => {
                self.sync()?;
                let done = self.engine.compact()?;
                (self.report)(EngineEvent::Told(number, done));
                Ok(())
            }
            EngineCommand::BeginInstall(group) => self.engine.begin_install(group),
            EngineCommand::Install(group, bulk) => self.engine.install(group, &bulk),
            EngineCommand::FinishInstall(group, mark) => {
                self.engine.finish_install(group, &mark)?;
                (self.report)(EngineEvent::Written(group, mark.clone()));
                self.unsynced.insert(group, mark);
                self.synced();
                Ok(())
            }
        }
    }

    fn sync(&mut self) -> Result<(), EngineError> {
        if !self.unsynced.is_empty() {
            self.engine.apply(&[], true)?;
        }
        self.synced();
        Ok(())
    }

    /// Reports that everything applied is durable.
    fn synced(&mut self) {
        self.unsynced_bytes = 0;
        self.unsynced_transactions = 0;
        for (group, mark) in std::mem::take(&mut self.unsynced) {
            (self.report)(EngineEvent::Durable(group, mark));
        }
    }
}

fn command_bytes(command: &EngineCommand) -> usize {
    match command {
        EngineCommand::Write(write) => write_bytes(write),
        EngineCommand::Install(_, bulk) => bulk_bytes(bulk),
        EngineCommand::FinishInstall(_, mark) => COMMAND_BYTES + mark.len(),
        EngineCommand::Sync | EngineCommand::BeginInstall(_) | EngineCommand::Tell(_) | EngineCommand::Compact(_) => COMMAND_BYTES,
    }
}

fn write_bytes(write: &Write) -> usize {
    write.mark.len() + bulk_bytes(&write.bulk)
}

fn bulk_bytes(bulk: &Bulk) -> usize {
    let entries = bulk.iter().map(|(key, value)| COMMAND_BYTES + key.len() + value.as_ref().map_or(0, Bytes::len));
    COMMAND_BYTES + entries.sum::<usize>()
}

fn gone() -> EngineError {
    EngineError { operation: "run", full: false, message: "its thread ended".into() }
}
