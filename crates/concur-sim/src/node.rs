//! One node: its disk, its engine, its clocks, and while it runs, the process with the replica that it drives.

use crate::fault::Fault;
use crate::witness::Witness;
use bytes::Bytes;
use concur_core::{Change, Epoch, Frontier, ReplicaId, Ticket, Time};
use concur_peers::Configuration;
use concur_replica::Replica;
use concur_store::log::{Log, MemDisk};
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

/// A node, up or down.
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) process: Option<Box<Process>>,
    /// The disk while no process has it.
    pub(crate) disk: Option<MemDisk>,
    /// What the engine holds durably.
    pub(crate) image: BTreeMap<Bytes, Bytes>,
    /// How often it was started.
    pub(crate) boot: u64,
    /// Its number in the group, while it has one.
    pub(crate) id: Option<ReplicaId>,
    /// The configuration that it was set up with, and whether it came later than the group began.
    pub(crate) home: Arc<Configuration>,
    pub(crate) joins: bool,
    /// Which life of its disk this is, and which start in it.
    pub(crate) life: Life,
    /// The latest life in which it met each of its peers; part of its disk.
    pub(crate) met: BTreeMap<ReplicaId, Life>,
    /// The last epoch whose beginning the engine holds.
    pub(crate) entered: Epoch,
    /// It was started once, and not stopped for good: a machine that stands by is not started by itself.
    pub(crate) may_start: bool,
    /// The disk was lost, and it does not vote yet in this life of it.
    pub(crate) mending: bool,
    /// Its disk is an old copy: its peers have nothing to do with it.
    pub(crate) shunned: bool,
    /// A copy of all that is durable, to be put back later.
    pub(crate) copy: Option<Box<Copied>>,
    /// It refused its disk and stays down.
    pub(crate) damaged: bool,
    /// A byte of its disk was changed, of the log or of the state.
    pub(crate) flipped: Option<Fault>,
    /// It runs, or is going to, a program of another version than the group began with.
    pub(crate) foreign: bool,
    /// Its disk lied about a write, or is about to.
    pub(crate) lie: Option<Lie>,
    pub(crate) paused: bool,
    pub(crate) clock: Clock,
    pub(crate) wall_offset_ms: i64,
    /// How many times longer syncs and the engine take.
    pub(crate) sync_factor: u32,
    pub(crate) engine_factor: u32,
    pub(crate) stalled_until: Time,
    /// Lose power at the next such point, until when.
    pub(crate) crash_at: Option<(Point, Time)>,
    /// No restart before.
    pub(crate) down_until: Time,
    pub(crate) disk_full: bool,
    /// What its vote had made durable.
    pub(crate) ballot: (Epoch, u64),
    /// Everything in the log below is attested by something durable behind it.
    pub(crate) attested: u64,
    /// Everything in the log below was said to be durable.
    pub(crate) synced: u64,
}

/// A write that a disk lies about.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Lie {
    pub(crate) fault: Fault,
    /// From where on the log may not be as it was written; `None` before the write.
    pub(crate) from: Option<u64>,
}

/// A life of a disk, and a start in it; later ones are greater.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub(crate) struct Life {
    pub(crate) incarnation: u64,
    pub(crate) run: u64,
}

/// What a node had durable at some moment.
#[derive(Debug)]
pub(crate) struct Copied {
    pub(crate) disk: MemDisk,
    pub(crate) image: BTreeMap<Bytes, Bytes>,
    pub(crate) met: BTreeMap<ReplicaId, Life>,
    pub(crate) life: Life,
}

/// Where a power loss is aimed at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Point {
    /// After a write, before its sync.
    Written,
    /// After a sync, before anything follows from it.
    Synced,
}

/// A running process.
pub(crate) struct Process {
    pub(crate) replica: Replica<Witness>,
    pub(crate) log: Log<MemDisk>,
    /// The processor is taken until then.
    pub(crate) busy_until: Time,
    pub(crate) step_at: Option<Time>,
    pub(crate) wake_at: Option<Time>,
    /// The ticket of the last record that was appended, and of the last that is being synced.
    pub(crate) appended: Ticket,
    pub(crate) syncing: Option<Ticket>,
    /// Where the write that is being synced begins.
    pub(crate) writing_from: u64,
    /// Where the last checkpoint begins.
    pub(crate) checkpoint_at: u64,
    /// How large the last three are: what was kept then may have been forgotten since, and the one before the last goes when the
    /// next write is durable.
    pub(crate) checkpoints_bytes: [u64; 3],
    pub(crate) engine: VecDeque<Job>,
    /// Requests that wait for a reply.
    pub(crate) tokens: BTreeMap<u64, Asked>,
    pub(crate) token_next: u64,
    pub(crate) stopping: bool,
    /// The epoch in which it executes.
    pub(crate) epoch: Epoch,
    /// The protocol of its epoch as its last step left it; `None` before the first.
    pub(crate) voted_by: Option<&'static str>,
}

/// Something the engine is to make durable.
#[derive(Debug)]
pub(crate) struct Job {
    pub(crate) replace: bool,
    pub(crate) changes: Vec<Change>,
    pub(crate) frontier: Frontier,
}

/// Who asks a node for something.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Asker {
    /// A client.
    Client(usize),
    /// The operator, for the how manieth of the things that it cares for.
    Operator(usize),
}

/// Whose request a token stands for.
#[derive(Debug, Clone)]
pub(crate) struct Asked {
    pub(crate) by: Asker,
    pub(crate) attempt: u32,
    /// A query that the node answers itself once the read is granted.
    pub(crate) query: Option<Bytes>,
}

impl std::fmt::Debug for Process {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.replica.fmt(f)
    }
}

impl Node {
    /// A machine that begins the group under this number, or stands by.
    pub(crate) fn new(id: Option<ReplicaId>, incarnation: u64, home: Arc<Configuration>) -> Self {
        Self {
            id,
            joins: id.is_none(),
            may_start: id.is_some(),
            home,
            life: Life { incarnation, run: 0 },
            met: BTreeMap::new(),
            entered: Epoch(0),
            mending: false,
            shunned: false,
            copy: None,
            process: None,
            disk: Some(MemDisk::default()),
            image: BTreeMap::new(),
            boot: 0,
            damaged: false,
            flipped: None,
            foreign: false,
            lie: None,
            paused: false,
            clock: Clock::default(),
            wall_offset_ms: 0,
            sync_factor: 1,
            engine_factor: 1,
            stalled_until: Time(0),
            crash_at: None,
            down_until: Time(0),
            disk_full: false,
            ballot: (Epoch(0), 0),
            attested: 0,
            synced: 0,
        }
    }

    /// Whether something was lost of what it promised: it must not vote as it is.
    pub(crate) fn is_hurt(&self) -> bool {
        self.flipped.is_some() || self.lie.is_some() || self.damaged || self.mending || self.shunned
    }

    /// Before it starts: what it lied about last, and no later write attests, the disk has told the truth about. A fault that was
    /// still to come is forgotten.
    pub(crate) fn keep_honest(&mut self, disk: &mut MemDisk) {
        let Some(Lie { from, .. }) = self.lie else { return };
        if from.is_none_or(|from| self.attested <= from) {
            disk.tell_the_truth();
            self.lie = None;
        }
    }

    /// Everything that was on its disk is gone: another life begins.
    pub(crate) fn wipe(&mut self, incarnation: u64) {
        self.disk = Some(MemDisk::default());
        self.image.clear();
        self.met.clear();
        self.life = Life { incarnation, run: 0 };
        (self.joins, self.damaged, self.flipped, self.shunned, self.disk_full) = (true, false, None, false, false);
        (self.ballot, self.attested, self.synced, self.lie) = ((Epoch(0), 0), 0, 0, None);
        (self.entered, self.crash_at, self.copy) = (Epoch(0), None, None);
    }

    /// The engine finished a job: what it holds is durable up to the frontier that is answered.
    pub(crate) fn keep(&mut self, job: Job) -> Frontier {
        self.entered = self.entered.max(job.frontier.epoch);
        if job.replace {
            self.image.clear();
        }
        for Change { key, value } in job.changes {
            match value {
                Some(value) => self.image.insert(key, value),
                None => self.image.remove(&key),
            };
        }
        job.frontier
    }
}

/// A monotonic clock that may run fast or slow.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Clock {
    world: Time,
    local: Time,
    drift_per_million: i64,
}

impl Clock {
    /// What it shows.
    pub(crate) fn read(&self, world: Time) -> Time {
        let passed = world.0 - self.world.0;
        // Million by million, so that nothing overflows.
        let (millions, rest) = (passed / 1_000_000, passed % 1_000_000);
        Time(self.local.0 + millions * self.rate() + rest * self.rate() / 1_000_000)
    }

    /// When it will show `local`.
    pub(crate) fn when(&self, local: Time) -> Time {
        let passed = local.0.saturating_sub(self.local.0);
        let (rates, rest) = (passed / self.rate(), passed % self.rate());
        Time(self.world.0 + rates * 1_000_000 + (rest * 1_000_000).div_ceil(self.rate()))
    }

    /// How far it gets in a million.
    fn rate(&self) -> u64 {
        1_000_000_u64.saturating_add_signed(self.drift_per_million)
    }

    /// It runs at another rate from now on.
    pub(crate) fn drift(&mut self, world: Time, drift_per_million: i64) {
        *self = Self { world, local: self.read(world), drift_per_million };
    }

    /// The machine was started: it shows another time.
    pub(crate) fn restart(&mut self, world: Time, local: Time) {
        *self = Self { world, local, drift_per_million: self.drift_per_million };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_shows_a_time_when_it_says_that_it_will() {
        for drift in [-90_000, -1, 0, 7, 100_000] {
            let mut clock = Clock::default();
            clock.drift(Time(1_000), drift);
            for local in [1_000, 1_001, 5_555_555, 9_000_000_001] {
                let when = clock.when(Time(local));
                assert!(clock.read(when).0 >= local, "{drift} {local}");
                assert!(when.0 == 1_000 || clock.read(Time(when.0 - 1)).0 < local, "{drift} {local}");
            }
        }
    }
}
