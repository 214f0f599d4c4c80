//! The driver: takes what comes from clients, peers, timers and the disk to the replicas, and does what they ask.
//!
//! One loop on the node's one thread. It waits until something came, lets every task that is ready add to it, and takes all of
//! it through the replicas in one step each. Messages leave first; then every group's records go to the log in one frame and one
//! sync, while the messages travel; then the replicas hear that they are durable, which lets go of votes, acknowledgements and
//! replies. There is no timer for batching: what comes during a sync is the next batch.
//!
//! State goes to the engine behind all that (`behind`). Once the engine holds more than at the last checkpoint and the log has
//! grown by enough, a group's records are replaced by a checkpoint, so that the log before it is given up.
//!
//! A log that fails stops the node at once: after a failed sync nobody knows what the disk has. When the disk is full, commands
//! that take space are refused, the space put aside is given up, and reads and deletions go on.

mod ask;
mod behind;
mod group;
mod kv;
mod membership;
mod upkeep;

pub use ask::{Answer, Ask, GroupStatus, Handle, InSession, Kept, Level, Look, MemberStatus, Refused, Reply, Stamp};
pub(crate) use behind::Behind;
pub(crate) use group::{Desk, Group};
pub(crate) use kv::{DeskOptions, KvDesk};

use crate::metrics::Metrics;
use crate::node::NodeError;
use crate::peers::{FromPeer, Life, Peers};
use bytes::Bytes;
use concur_core::{GroupId, Mark, Reader, StateMachine, Time, Wire};
use concur_replica::Event;
use concur_store::dir::DataDir;
use concur_store::engine::EngineEvent;
use concur_store::log::{FileDisk, Log, LogError};
use std::collections::{BTreeMap, BTreeSet};
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant, SystemTime};
use tokio::sync::{mpsc, watch};
use tokio::time::Sleep;

/// How often the desks look at the time, and the engine gets what gathered.
const TICK: Duration = Duration::from_millis(100);
/// How often the engine is made durable, the log attested, and the disk's space looked at.
const SYNC: Duration = Duration::from_secs(2);
/// How often a full log is tried again.
const REFILL: Duration = Duration::from_millis(250);
/// Rounds of steps in one turn; clients and peers are looked at again after so many.
const STEPS_MAX: usize = 64;
/// A group that needs what is so many checkpoints old is checkpointed though it is quiet.
const QUIET_CHECKPOINTS: u64 = 4;

/// The clocks of a node.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Clock {
    origin: Instant,
}

impl Clock {
    /// A monotonic clock from now on.
    pub(crate) fn start() -> Self {
        Self { origin: Instant::now() }
    }

    pub(crate) fn now(&self) -> Time {
        Time(u64::try_from(self.origin.elapsed().as_nanos()).unwrap_or(u64::MAX))
    }

    pub(crate) fn wall_ms(&self) -> u64 {
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
    }

    fn at(&self, time: Time) -> Instant {
        // Far enough for a timer, and never beyond what an instant can hold.
        self.origin + Duration::from_nanos(time.0).min(self.origin.elapsed() + Duration::from_secs(3600))
    }
}

/// The other nodes that can be reached.
#[derive(Debug, Clone, Default)]
pub(crate) struct Nodes {
    pub(crate) connected: BTreeSet<u64>,
}

/// What a driver is made of.
pub(crate) struct Parts<M: StateMachine> {
    pub(crate) clock: Clock,
    pub(crate) nodes: Nodes,
    pub(crate) groups: Vec<Group<M>>,
    pub(crate) log: Log<FileDisk>,
    pub(crate) dir: DataDir,
    pub(crate) behind: Behind,
    pub(crate) engine_events: mpsc::UnboundedReceiver<EngineEvent>,
    pub(crate) peers: Peers,
    pub(crate) lives: BTreeMap<u64, Life>,
    pub(crate) metrics: Vec<Arc<Metrics>>,
    pub(crate) checkpoint_bytes: u64,
    pub(crate) reserve_bytes: u64,
    pub(crate) stop_time_max: Duration,
    /// Told once every group here knows who proposes.
    pub(crate) ready: watch::Sender<bool>,
}

/// The driver of one node.
pub(crate) struct Driver<M: StateMachine> {
    parts: Parts<M>,
    from_peers: Vec<FromPeer>,
    /// Groups whose records are in the log's buffer, and not durable.
    unsynced: Vec<usize>,
    membership: membership::Membership,
    upkeep: upkeep::Upkeep,
    timer: Pin<Box<Sleep>>,
    tick_at: Instant,
    sync_at: Instant,
    refill_at: Instant,
    /// The disk is full.
    full: bool,
    /// The engine takes nothing more, for this reason.
    engine_failed: Option<String>,
}

impl<M: StateMachine> Driver<M> {
    pub(crate) fn new(parts: Parts<M>) -> Self {
        let now = Instant::now();
        let unsynced = (0..parts.groups.len()).collect();
        let timer = Box::pin(tokio::time::sleep(Duration::ZERO));
        let (tick_at, sync_at, refill_at) = (now, now + SYNC, now);
        let (membership, upkeep) = (membership::Membership::default(), upkeep::Upkeep::default());
        Self {
            parts,
            from_peers: Vec::new(),
            unsynced,
            membership,
            upkeep,
            timer,
            tick_at,
            sync_at,
            refill_at,
            full: false,
            engine_failed: None,
        }
    }

    /// Runs until `stop` holds true and everything was handed over, or something fails for good. `drained` ends once the
    /// listeners have finished what they began.
    pub(crate) async fn run(mut self, mut stop: watch::Receiver<bool>, drained: impl Future<Output = ()>) -> Result<(), NodeError> {
        // What starting the replicas asked for.
        self.perform().await?;
        loop {
            let stopping = self.wait(Some(&mut stop)).await;
            self.turn().await?;
            if stopping || self.is_gone() {
                break;
            }
        }
        self.leave(drained).await
    }

    /// Waits until something came, then lets everything that is ready come too. Answers whether the node is to stop.
    async fn wait(&mut self, mut stop: Option<&mut watch::Receiver<bool>>) -> bool {
        let wake = self.wake_at();
        if wake < self.timer.deadline().into_std() || self.timer.is_elapsed() || wake > self.timer.deadline().into_std() + TICK {
            self.timer.as_mut().reset(wake.into());
        }
        let mut stopped = pin!(async move {
            match &mut stop {
                Some(stop) => drop(stop.wait_for(|stop| *stop).await),
                None => std::future::pending().await,
            }
        });
        let stopping = poll_fn(|cx| {
            if stopped.as_mut().poll(cx).is_ready() {
                return Poll::Ready(true);
            }
            let came = self.take(cx);
            if came || self.timer.as_mut().poll(cx).is_ready() { Poll::Ready(false) } else { Poll::Pending }
        })
        .await;
        tokio::task::yield_now().await;
        poll_fn(|cx| {
            self.take(cx);
            Poll::Ready(())
        })
        .await;
        stopping
    }

    /// Takes what came from peers, clients and the engine.
    fn take(&mut self, cx: &mut Context<'_>) -> bool {
        let parts = &mut self.parts;
        let now = Instant::now();
        let mut any = parts.peers.poll(cx, &mut self.from_peers);
        if parts.nodes.connected != *parts.peers.connected() {
            parts.nodes.connected.clone_from(parts.peers.connected());
        }
        for group in &mut parts.groups {
            group.seat.now = now;
            any |= group.poll(cx, &parts.nodes);
        }
        while let Poll::Ready(Some(event)) = self.parts.engine_events.poll_recv(cx) {
            any = true;
            self.engine_told(event);
        }
        any
    }

    fn engine_told(&mut self, event: EngineEvent) {
        match event {
            EngineEvent::Durable(group, mark) => {
                let frontier = Mark::<Bytes>::from_bytes(&mark).map(|mark| mark.frontier);
                let group = self.parts.groups.iter_mut().find(|g| g.seat.id == group);
                if let (Ok(frontier), Some(group)) = (frontier, group) {
                    group.seat.offer(Event::Stored(frontier));
                }
            }
            EngineEvent::Failed(error) => self.engine_gone(&error),
            EngineEvent::Told(number, done) => self.upkeep.told(number, done, &self.parts.behind),
            EngineEvent::Written(..) => {}
        }
    }

    /// The engine failed: what is executed is still answered from memory, and nothing more is taken up.
    fn engine_gone(&mut self, error: &concur_store::engine::EngineError) {
        if self.engine_failed.is_none() {
            tracing::error!(
                full = error.full,
                "{error}; commands are refused and reads are served. Free space or check the disk, then restart"
            );
            self.engine_failed = Some(error.to_string());
            self.upkeep = upkeep::Upkeep::default();
            self.show_fullness();
        }
    }

    /// Gives what peers sent to the groups.
    fn deliver(&mut self) -> Result<(), NodeError> {
        let mut events = std::mem::take(&mut self.from_peers);
        for event in events.drain(..) {
            match event {
                FromPeer::Frames(from, frames) => frames.into_iter().for_each(|bytes| self.envelope(from, bytes)),
                FromPeer::Health(id, health) => {
                    for group in &mut self.parts.groups {
                        if let Some(id) = group.seat.numbers.id(id) {
                            group.seat.offer(Event::Peer(id, health));
                        }
                    }
                }
                FromPeer::Met(id, life, client_urls) => self.met(id, life, &client_urls)?,
                FromPeer::Stranger(address) => self.stranger(address),
                FromPeer::Told(reply) => self.told(&reply),
            }
        }
        self.from_peers = events;
        Ok(())
    }

    fn envelope(&mut self, from: u64, bytes: Bytes) {
        let Some(id) = group_of(&bytes) else { return };
        let group = self.parts.groups.iter_mut().find(|g| g.seat.id == id);
        if let Some(group) = group
            && let Some(from) = group.seat.numbers.id(from)
        {
            group.seat.offer(Event::Message { from, bytes });
        }
    }

    /// Remembers durably under which life a peer was met, before anything it says counts.
    fn met(&mut self, id: u64, life: Life, client_urls: &[String]) -> Result<(), NodeError> {
        for desk in self.parts.groups.iter_mut().filter_map(|group| group.desk.as_mut()) {
            desk.met(id, client_urls);
        }
        let known = self.parts.lives.entry(id).or_default();
        if *known != life {
            *known = life; // What may not come back is refused before.
            crate::node::write_lives(&self.parts.dir, &self.parts.lives)?;
        }
        Ok(())
    }

    /// Everything that came goes through the replicas, until nothing is left to do.
    async fn turn(&mut self) -> Result<(), NodeError> {
        self.deliver()?;
        let clock = self.parts.clock;
        for _ in 0..STEPS_MAX {
            let now = clock.now();
            let mut stepped = false;
            for (i, group) in self.parts.groups.iter_mut().enumerate() {
                if group.is_due(now) {
                    group.step(&clock);
                    stepped = true;
                    if !group.out.records.is_empty() {
                        self.unsynced.push(i);
                    }
                } else {
                    group.out.clear();
                }
            }
            if !stepped {
                break;
            }
            self.perform().await?;
        }
        self.look_after_the_engine();
        self.look_at_the_time().await?;
        for group in &mut self.parts.groups {
            group.after(&self.parts.nodes);
        }
        if !*self.parts.ready.borrow() && self.parts.groups.iter().all(|group| group.seat.facts.leader.is_some()) {
            self.parts.ready.send_replace(true);
            crate::node::forget_last_alive(&self.parts.dir);
        }
        self.look_at_membership();
        Ok(())
    }

    /// Does what the replicas asked for in their last step.
    async fn perform(&mut self) -> Result<(), NodeError> {
        let parts = &mut self.parts;
        for group in &mut parts.groups {
            let numbers = &group.seat.numbers;
            for send in group.out.sends.drain(..) {
                parts.peers.send(numbers.node(send.to), send.urgent, send.bytes);
            }
        }
        let sent = parts.peers.flush();
        for group in &mut parts.groups {
            group.answer();
            for record in &group.out.records {
                group.logged_bytes += record.len() as u64;
                parts.log.append(group.seat.id, record);
            }
        }
        if parts.log.pending_bytes() > 0 {
            if sent {
                // The messages leave while the disk works.
                tokio::task::yield_now().await;
            }
            self.persist()?;
        }
        self.store()?;
        self.reconfigure()
    }

    /// Makes what was logged durable, and tells the replicas.
    fn persist(&mut self) -> Result<(), NodeError> {
        let parts = &mut self.parts;
        match parts.log.write() {
            Ok(_) => {}
            Err(LogError::Full { .. }) => {
                self.set_full(true);
                self.refill_at = Instant::now() + REFILL;
                return Ok(());
            }
            Err(error) => return Err(error.into()),
        }
        let began = Instant::now();
        parts.log.sync()?;
        let took = began.elapsed();
        parts.metrics.iter().for_each(|metrics| metrics.wal_synced(took));
        for i in self.unsynced.drain(..) {
            let group = &mut parts.groups[i];
            group.seat.offer(Event::Durable(group.out.through));
        }
        let full = parts.log.is_full();
        self.set_full(full);
        self.checkpoint()
    }

    /// Hands what was executed to the engine.
    fn store(&mut self) -> Result<(), NodeError> {
        for i in 0..self.parts.groups.len() {
            let group = &mut self.parts.groups[i];
            let (id, install, bulk) = (group.seat.id, group.out.install.take(), group.out.bulk.take());
            let installed = install.map_or(Ok(()), |install| self.parts.behind.install(id, install));
            let urgent = bulk.as_ref().is_some_and(|bulk| bulk.urgent);
            let written = installed.and_then(|()| bulk.map_or(Ok(()), |bulk| self.parts.behind.write(id, bulk)));
            let written = written.and_then(|()| if urgent { self.parts.behind.sync() } else { Ok(()) });
            if let Err(error) = written {
                self.engine_gone(&error);
            }
        }
        Ok(())
    }

    /// Replaces the records of groups that logged much since their last checkpoint, or that hold old segments back.
    fn checkpoint(&mut self) -> Result<(), NodeError> {
        let parts = &mut self.parts;
        let quiet = parts.log.oldest_need().filter(|(_, at)| parts.log.written().0 - at.0 > QUIET_CHECKPOINTS * parts.checkpoint_bytes);
        let mut written = false;
        for group in &mut parts.groups {
            let stored = group.seat.facts.stored_at;
            let is_quiet = quiet.is_some_and(|(id, _)| id == group.seat.id) && group.logged_bytes < group.checkpoint_at;
            let is_due = group.logged_bytes >= group.checkpoint_at && stored > group.checkpoint_stored;
            if !is_due && !is_quiet {
                continue;
            }
            let records = group.seat.replica.checkpoint();
            let bytes: u64 = records.iter().map(|record| record.len() as u64).sum();
            parts.log.checkpoint(group.seat.id, &records);
            tracing::debug!(group = group.seat.name, bytes, "checkpoint of the log");
            group.logged_bytes = 0;
            group.checkpoint_stored = stored;
            // What stays in a checkpoint is written again with each, so a large one comes less often.
            group.checkpoint_at = parts.checkpoint_bytes.max(2 * bytes);
            written = true;
        }
        if written {
            match parts.log.write() {
                Ok(_) => drop(parts.log.sync()?),
                Err(LogError::Full { .. }) => self.set_full(true),
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// What is done because time passed.
    async fn look_at_the_time(&mut self) -> Result<(), NodeError> {
        let now = Instant::now();
        if now >= self.tick_at {
            self.tick_at = now + TICK;
            let wall_ms = self.parts.clock.wall_ms();
            for group in &mut self.parts.groups {
                if let Some(desk) = &mut group.desk {
                    desk.tick(&mut group.seat, wall_ms);
                }
            }
            if let Err(error) = self.parts.behind.flush() {
                self.engine_gone(&error);
            }
            self.show_fullness();
        }
        if now >= self.sync_at {
            self.sync_at = now + SYNC;
            if let Err(error) = self.parts.behind.sync() {
                self.engine_gone(&error);
            }
            if self.parts.log.attest()? {
                self.parts.log.sync()?;
            }
        }
        if self.full && now >= self.refill_at {
            self.refill_at = now + REFILL;
            self.refill()?;
        }
        Ok(())
    }

    /// Looks whether a full disk has room again.
    fn refill(&mut self) -> Result<(), NodeError> {
        let free = self.parts.dir.free_bytes().unwrap_or(0);
        if free < self.parts.log.segment_bytes() {
            return Ok(());
        }
        let refilled = self.parts.log.refill()?;
        if self.parts.log.pending_bytes() > 0 {
            self.persist()?;
        }
        let segment_bytes = self.parts.log.segment_bytes();
        let reserve_bytes = self.parts.reserve_bytes.min(8 * segment_bytes);
        if refilled && free > reserve_bytes + 2 * segment_bytes {
            self.parts.dir.keep_reserve(reserve_bytes)?;
            self.set_full(self.parts.log.is_full());
        }
        Ok(())
    }

    fn set_full(&mut self, full: bool) {
        if full == self.full {
            return;
        }
        self.full = full;
        if full {
            tracing::error!(
                directory = %self.parts.dir.root().display(),
                "the disk is full: what takes space is refused, reads and deletions are served. Free space on its file system"
            );
            if let Err(error) = self.parts.dir.release_reserve() {
                tracing::error!("{error}");
            }
        } else {
            tracing::info!("the disk has room again");
        }
        self.show_fullness();
    }

    fn show_fullness(&mut self) {
        let refuses = self.full || self.engine_failed.is_some() || self.parts.behind.is_overfull();
        for group in &mut self.parts.groups {
            group.seat.full = refuses;
            group.seat.facts.errors.clear();
            if self.full {
                group.seat.facts.errors.push("the disk is full".into());
            }
            group.seat.facts.errors.extend(self.engine_failed.clone());
        }
    }

    fn wake_at(&self) -> Instant {
        let clock = &self.parts.clock;
        let mut wake = self.tick_at;
        for group in &self.parts.groups {
            let unfinished = group.desk.as_ref().is_some_and(|desk| desk.is_unfinished()) || group.is_due(clock.now());
            wake = wake.min(if unfinished { Instant::now() } else { clock.at(group.seat.replica.wake_at()) });
        }
        if self.full { wake.min(self.refill_at) } else { wake }
    }

    /// Hands over what only this node can do, finishes what clients wait for, and closes everything.
    async fn leave(mut self, drained: impl Future<Output = ()>) -> Result<(), NodeError> {
        let began = Instant::now();
        let (enough, until) = (began + self.parts.stop_time_max / 2, began + self.parts.stop_time_max);
        for group in &mut self.parts.groups {
            group.seat.stopping = true;
            group.seat.offer(Event::Leave);
        }
        let mut drained = Box::pin(drained);
        let mut is_drained = false;
        while Instant::now() < until {
            self.turn().await?;
            let settled = self.parts.groups.iter().all(Group::is_settled) || Instant::now() > enough;
            if settled && is_drained {
                break;
            }
            if settled {
                self.close_desks();
            }
            tokio::select! {
                () = &mut drained, if !is_drained && settled => is_drained = true,
                _ = self.wait(None) => {}
            }
        }
        self.close_desks();
        if let Err(error) = self.parts.behind.sync() {
            self.engine_gone(&error);
        }
        if self.parts.log.attest()? {
            self.parts.log.sync()?;
        }
        Ok(())
    }

    fn close_desks(&mut self) {
        for desk in self.parts.groups.iter_mut().filter_map(|g| g.desk.as_mut()) {
            desk.close();
        }
    }
}

/// The group that an envelope is for: behind the byte of its version.
fn group_of(envelope: &Bytes) -> Option<GroupId> {
    let mut reader = Reader::new(envelope.clone());
    reader.byte().ok()?;
    GroupId::get(&mut reader).ok()
}
