//! How a node is driven, as the real one is: what comes is offered, a step is taken, messages leave at once, records are appended
//! and synced, one sync at a time for all that waits, and what was executed goes to the engine, off the reply path.
//!
//! The log is the real one, over a disk in memory; only time is made up.

use crate::examination::Kept;
use crate::fault::Fault;
use crate::ledger::Violation;
use crate::node::{Asked, Asker, Job, Lie, Life, Node, Point, Process};
use crate::plan::Kind;
use crate::roster::Roster;
use crate::schedule::Schedule;
use crate::witness::Witness;
use crate::world::{Letter, Thing, World};
use bytes::Bytes;
use concur_core::{BootCount, Config, Epoch, GroupId, Health, Ordering, ReplicaId, Rng, Ticket, Time};
use concur_kv::Ordering as Order;
use concur_replica::{Event, Outgoing, Output, Recovered, Refused, Replica, Reply, Settings, Token};
use concur_store::log::{Log, LogError, LogIdentity, LogOptions, SECTOR};
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

const GROUP: GroupId = GroupId(0);
/// When a write is tried again that found the disk full.
const FULL_RETRY: Duration = Duration::from_millis(100);
/// No job of a slow engine takes more election timeouts.
const SLOW_ELECTIONS_MAX: u32 = 8;

impl World<'_> {
    /// Starts a node's process.
    pub(crate) fn start(&mut self, index: usize) -> Result<(), Violation> {
        let (now, world_seed) = (self.now, self.schedule.seed);
        let origin = Time(self.rng.below(1 << 40));
        let node = &mut self.nodes[index];
        let Some(mut disk) = node.disk.take() else { return Ok(()) };
        if node.flipped == Some(Fault::FlippedState) {
            // The engine looks at the checksums of all that it holds when it opens; that it finds what changed is its own examination.
            return self.refuse_disk(index, "the state is damaged");
        }
        node.keep_honest(&mut disk);
        node.boot += 1;
        node.life.run += 1;
        node.clock.restart(now, origin);
        let identity = LogIdentity { cluster: 1, node: index as u64 };
        let segment_bytes = self.schedule.tuning.segment_bytes;
        let salt = world_seed ^ (node.life.incarnation - 1);
        let options = LogOptions { identity, segment_bytes, spares: 1, salt, must_exist: node.life.run > 1 && node.attested > 0 };
        let backup = node.disk_full.then(|| disk.clone());
        let (log, recovered) = match Log::open(disk, options) {
            Ok(opened) => opened,
            Err(LogError::Full { .. } | LogError::Failed { .. }) if backup.is_some() => {
                node.disk = backup;
                self.after(Duration::from_millis(20), Thing::Restart { node: index });
                return Ok(());
            }
            Err(error) => return self.refuse_disk(index, &error.to_string()),
        };
        if recovered.end.0 < node.synced && !node.shunned {
            let (synced, end) = (node.synced, recovered.end.0);
            return Err(Violation::new("durability", format!("the log of r{index} was durable up to {synced} and ends at {end}")));
        }
        (node.attested, node.synced, node.lie) = (recovered.end.0, log.synced().0, None);
        if let Some(torn) = recovered.torn {
            self.met.insert(if torn.frames_beyond > 0 { "hole before the torn tail at restart" } else { "torn tail at restart" });
        }
        let records = recovered.groups.get(&GROUP).cloned().unwrap_or_default();
        if !recovered.fresh {
            self.met.insert(if records.is_empty() { "restarted without records" } else { "restarted from records" });
        }
        self.start_replica(index, log, records)
    }

    fn start_replica(&mut self, index: usize, log: Log<concur_store::log::MemDisk>, records: Vec<Bytes>) -> Result<(), Violation> {
        let checkpoint_bytes = records.iter().map(|record| record.len() as u64 + 64).sum();
        let Some(settings) = self.settings(index) else { return Ok(()) };
        let machine = Witness::new(self.schedule.ordering, self.schedule.keys);
        let node = &self.nodes[index];
        let image = node.image.iter().map(|(key, value)| (key.clone(), value.clone())).collect();
        let (local, wall_ms) = (node.clock.read(self.now), self.wall_ms(index));
        let rng = Rng::new(self.rng.next_u64());
        let mut out = std::mem::take(&mut self.out);
        out.clear();
        let started = Replica::start(settings, Recovered { records, image }, machine, local, wall_ms, rng, &mut out);
        let replica = match started {
            Ok(replica) => replica,
            Err(error) => return self.refuse_disk(index, &error.to_string()),
        };
        let writing_from = log.written().0;
        // What was logged before counts too: a node that restarts often must come to a checkpoint all the same.
        let checkpoint_at = log.oldest_need().map_or(writing_from, |(_, at)| at.0);
        let process = Process {
            replica,
            log,
            busy_until: self.now,
            step_at: None,
            wake_at: None,
            appended: Ticket(0),
            syncing: None,
            writing_from,
            checkpoint_at,
            checkpoints_bytes: [checkpoint_bytes; 3],
            engine: VecDeque::new(),
            tokens: BTreeMap::new(),
            token_next: 0,
            stopping: false,
            epoch: Epoch(0),
            voted_by: None,
        };
        let chains = process.replica.machine().chains().clone();
        let persisted = self.check_persisted(index, &process);
        self.nodes[index].process = Some(Box::new(process));
        let life = self.nodes[index].life;
        self.note_world(index, || format!("starts, the {}. time in life {} of its disk", life.run, life.incarnation));
        persisted?;
        let result = self.perform(index, &mut out);
        self.out = out;
        // It executes what it had decided as it starts, and so the ledger hears of that first.
        result.and_then(|()| self.ledger.check_chains(ReplicaId(index as u8), &chains))
    }

    /// Nothing that was durable fell back: not the epoch, and in it not the ballot.
    fn check_persisted(&self, index: usize, process: &Process) -> Result<(), Violation> {
        let (floor, node) = (self.nodes[index].ballot, &self.nodes[index]);
        let status = process.replica.status();
        let (epoch, ballot) = (status.configuration.epoch, status.protocol.ballot);
        let votes = process.replica.settings().strategy.traits.one_ballot && status.role == "voter";
        let fell = epoch < floor.0 || (epoch == floor.0 && votes && ballot < floor.1);
        if node.shunned || !fell {
            return Ok(());
        }
        Err(Violation::new("persistence", format!("r{index} had made {floor:?} durable and restarts at {ballot} of {epoch:?}")))
    }

    fn refuse_disk(&mut self, index: usize, why: &str) -> Result<(), Violation> {
        let node = &self.nodes[index];
        if !(node.flipped.is_some() || node.lie.is_some()) {
            return Err(Violation::new("damage", format!("r{index} refuses a disk that nobody hurt: {why}")));
        }
        self.met.insert(match node.flipped.or(node.lie.map(|lie| lie.fault)) {
            Some(Fault::LostWrite) => "lost write refused at restart",
            Some(Fault::MisdirectedWrite) => "misdirected write refused at restart",
            Some(Fault::FlippedState) => "damaged state refused at restart",
            _ => "damage refused at restart",
        });
        self.nodes[index].damaged = true;
        self.note_world(index, || format!("refuses to start: {why}"));
        if self.schedule.operated {
            self.plan_rebirth(index);
        }
        Ok(())
    }

    /// How a node's replica is set up; `None` if it belongs to no group.
    fn settings(&mut self, index: usize) -> Option<Settings> {
        let id = self.nodes[index].id?;
        if self.nodes[index].joins && self.nodes[index].image.is_empty() {
            // Whoever starts it knows who is in.
            self.nodes[index].home = self.roster.newest_with(id)?.clone();
        }
        let Self { schedule, nodes, roster, .. } = &*self;
        let (tuning, node) = (&schedule.tuning, &nodes[index]);
        let strategy = roster.strategy(&node.home.strategy);
        let config = Config {
            group: GROUP,
            epoch: node.home.epoch,
            me: id,
            quorums: node.home.quorums(&strategy),
            heartbeat: tuning.heartbeat,
            election: tuning.election,
            window_max: tuning.window_max,
            message_bytes_max: tuning.message_bytes_max,
            retained_bytes_max: tuning.retained_bytes_max,
        };
        let boot = BootCount(node.life.incarnation << 32 | node.life.run);
        let mut settings = Settings::new(Arc::new(config), strategy, boot);
        settings.order = self.order();
        settings.configuration = node.home.clone();
        settings.incarnation = node.life.incarnation;
        settings.joins = node.joins;
        settings.strategies = schedule.strategies;
        settings.volume = tuning.volume;
        settings.batches_in_flight_max = tuning.batches_in_flight_max;
        settings.batch_commands_max = tuning.batch_commands_max;
        settings.transfer_bytes_max = tuning.transfer_bytes_max;
        settings.feed_bytes_max = tuning.feed_bytes_max;
        settings.close_instances_max = tuning.close_instances_max;
        settings.absence_max = tuning.absence_max;
        settings.session_ttl = tuning.session_ttl;
        settings.record_executions = true;
        Some(settings)
    }

    /// What the store orders, in every epoch alike. Where another strategy may come, a total order is not taken for granted.
    fn order(&self) -> Ordering {
        let Schedule { ordering, strategy, wishes, .. } = self.schedule;
        match ordering {
            Order::Total => Ordering::Total,
            Order::PerKey if wishes.iter().any(|wish| wish.kind == Kind::Switch) => Ordering::Partial,
            Order::PerKey => strategy.traits.order,
        }
    }

    fn wall_ms(&self, index: usize) -> u64 {
        (1_700_000_000_000 + self.now.0 as i64 / 1_000_000 + self.nodes[index].wall_offset_ms) as u64
    }

    pub(crate) fn is_running(&self, node: usize, boot: u64) -> bool {
        self.nodes[node].boot == boot && self.nodes[node].process.is_some()
    }

    /// Tells the replica of something, and steps it as soon as it has the processor.
    pub(crate) fn offer(&mut self, index: usize, event: Event) -> Result<(), Violation> {
        let Some(process) = &mut self.nodes[index].process else { return Ok(()) };
        process.replica.offer(event);
        if process.step_at.is_some() {
            return Ok(());
        }
        if process.busy_until <= self.now {
            return self.step(index);
        }
        let at = process.busy_until;
        process.step_at = Some(at);
        let boot = self.nodes[index].boot;
        self.at(at, Thing::Step { node: index, boot });
        Ok(())
    }

    pub(crate) fn step_due(&mut self, node: usize, boot: u64) -> Result<(), Violation> {
        if !self.is_running(node, boot) {
            return Ok(());
        }
        self.step(node)
    }

    pub(crate) fn wake(&mut self, node: usize, boot: u64) -> Result<(), Violation> {
        if !self.is_running(node, boot) {
            return Ok(());
        }
        let now = self.now;
        let process = self.nodes[node].process.as_mut().expect("it is running");
        if process.wake_at.is_none_or(|at| at > now) {
            return Ok(()); // An earlier step moved it.
        }
        process.wake_at = None;
        if process.step_at.is_some() {
            return Ok(());
        }
        if process.busy_until > now {
            let at = process.busy_until;
            process.step_at = Some(at);
            self.at(at, Thing::Step { node, boot });
            return Ok(());
        }
        self.step(node)
    }

    fn step(&mut self, index: usize) -> Result<(), Violation> {
        let (local, wall_ms) = (self.nodes[index].clock.read(self.now), self.wall_ms(index));
        let mut out = std::mem::take(&mut self.out);
        out.clear();
        let process = self.nodes[index].process.as_mut().expect("only a running process steps");
        process.step_at = None;
        process.replica.step(local, wall_ms, &mut out);
        let result = self.perform(index, &mut out);
        self.out = out;
        result
    }

    /// Does what a step asks for.
    fn perform(&mut self, index: usize, out: &mut Output) -> Result<(), Violation> {
        self.witness(index, out)?;
        for outgoing in out.sends.drain(..) {
            self.send(index, outgoing);
        }
        let process = self.nodes[index].process.as_mut().expect("only a running process steps");
        if !out.records.is_empty() {
            process.appended = out.through;
        }
        for record in out.records.drain(..) {
            process.log.append(GROUP, &record);
        }
        if out.install.is_some() || out.bulk.is_some() {
            self.store(index, out);
        }
        for (token, result) in out.replies.drain(..) {
            self.reply(index, token, result)?;
        }
        self.write(index)?;
        let step_max = self.schedule.tuning.step_max.as_nanos() as u64;
        let took = if step_max == 0 { 0 } else { self.rng.below(step_max) };
        if let Some(process) = &mut self.nodes[index].process {
            process.busy_until = self.now + Duration::from_nanos(took);
            self.set_wake(index);
        }
        Ok(())
    }

    /// What the step shows goes to the checkers.
    fn witness(&mut self, index: usize, out: &mut Output) -> Result<(), Violation> {
        let me = ReplicaId(index as u8);
        let voted_by = self.voted_by(index, out);
        for &(name, _) in &out.notes {
            self.note_passed(voted_by, name);
            self.chase_passing(index, name);
            self.harass(index, name);
        }
        self.trace_step(index, out);
        let led = if out.notes.is_empty() { None } else { self.leads(index)? };
        out.decided.iter().try_for_each(|decision| self.ledger.decisions.add(me, decision))?;
        if let Some(commits) = &mut self.commits {
            let own = out.decided.iter().filter_map(|decision| decision.value.id()).filter(|batch| batch.origin == me);
            commits.extend(own.map(|batch| (self.now, batch)));
        }
        self.executed(index, out)?;
        let process = self.nodes[index].process.as_ref().expect("only a running process steps");
        process.replica.machine().take_notes(&mut self.notes);
        let mut notes = std::mem::take(&mut self.notes);
        let applied = notes.applied.drain(..).try_for_each(|mut applied| {
            let changes = std::mem::take(&mut applied.changes);
            self.ledger.applied(me, applied)?;
            self.changed(index, &changes)
        });
        notes.looked.drain(..).for_each(|looked| self.ledger.looked(looked));
        self.notes = notes;
        led.into_iter().for_each(|(epoch, ballot)| self.chase_leader(index, epoch, ballot));
        applied?;
        self.serve_watcher(index)?;
        if let Some(configuration) = out.configuration.take() {
            self.configured(index, &configuration)?;
        }
        match &self.nodes[index].process {
            Some(process) if out.install.is_some() => self.ledger.check_chains(me, process.replica.machine().chains()),
            _ => Ok(()),
        }
    }

    /// By which protocol a node voted in the step that it has just taken: a vote ends where its epoch does, and another begins only
    /// when the engine holds the beginning of the next, which is in a later step.
    fn voted_by(&mut self, index: usize, out: &Output) -> &'static str {
        let process = self.nodes[index].process.as_mut().expect("only a running process steps");
        let (next, epoch) = (process.replica.settings().strategy.traits.name, process.replica.settings().config.epoch);
        let passed = out.notes.iter().any(|(name, _)| *name == "seal executed");
        // What it executes as it starts may end the epoch in which it went down.
        let before = if passed { epoch.0.saturating_sub(1) } else { epoch.0 };
        let first = self.roster.strategy_of(Epoch(before)).traits.name;
        process.voted_by.replace(next).unwrap_or(first)
    }

    /// A transition was passed. One of the run's own protocol counts only where that was at work: others have some of the same name.
    fn note_passed(&mut self, voted_by: &'static str, name: &'static str) {
        let own = self.schedule.strategy.traits;
        if voted_by == own.name || !own.transitions.contains(&name) {
            self.met.insert(name);
        }
    }

    /// Whether a node leads, in which epoch and at which ballot: nobody else must, nor must another run of it. Whoever coordinates
    /// is held to that too, and is no leader otherwise.
    fn leads(&mut self, index: usize) -> Result<Option<(Epoch, u64)>, Violation> {
        let Node { process, boot, shunned, .. } = &self.nodes[index];
        let process = process.as_ref().expect("only a running process leads");
        let Settings { strategy, config, .. } = process.replica.settings();
        // An old copy may lead again what it led before: nobody hears of it.
        if !strategy.traits.one_ballot || *shunned {
            return Ok(None);
        }
        let (has_leader, epoch, protocol) = (strategy.traits.has_leader, config.epoch, process.replica.inspect());
        if protocol.role != if has_leader { "leader" } else { "coordinator" } {
            return Ok(None);
        }
        let me = ReplicaId(index as u8);
        // A round is coordinated by several, one after the other: what is shown of a ballot is its round, and it has an owner.
        let owner = (!has_leader).then_some(me);
        self.ledger.leads((me, *boot), (epoch, protocol.ballot, owner))?;
        Ok(has_leader.then_some((epoch, protocol.ballot)))
    }

    /// What was executed is what everyone executes, and nothing behind a seal.
    fn executed(&mut self, index: usize, out: &Output) -> Result<(), Violation> {
        let me = ReplicaId(index as u8);
        for &(epoch, instance, id) in &out.executed {
            let process = self.nodes[index].process.as_mut().expect("only a running process executes");
            if epoch < process.epoch {
                let message = format!("r{index} executed {instance} of epoch {}, and had passed on to {}", epoch.0, process.epoch.0);
                return Err(Violation::new("sealed", message));
            }
            process.epoch = epoch;
            let total = self.roster.strategy_of(epoch).traits.order == Ordering::Total;
            let ends = self.ledger.instance(me, epoch, instance, id, total)?;
            process.epoch.0 += u64::from(ends);
        }
        Ok(())
    }

    /// Sends to whoever has that number, if a connection between the two can be made.
    fn send(&mut self, from: usize, outgoing: Outgoing) {
        let Some(to) = self.roster.machine(outgoing.to) else { return };
        let Some((me, life)) = self.nodes[from].id.map(|id| (id, self.nodes[from].life)) else { return };
        if self.links.is_cut(from, to) || self.refuses(to, from) {
            return;
        }
        let fate = self.links.send(&self.schedule.network, from, to, &mut self.rng);
        let foreign = self.nodes[from].foreign;
        let letter = Letter { to: outgoing.to, from: me, sender: from, life, foreign, bytes: outgoing.bytes, stale: false };
        if let Some(delay) = fate.second {
            let letter = Letter { stale: fate.stale, ..letter.clone() };
            self.after(delay, Thing::Arrive { node: to, letter });
            self.met.insert(if fate.stale { "stale message" } else { "message repeated" });
        }
        match fate.first {
            Some(delay) => self.after(delay, Thing::Arrive { node: to, letter }),
            None => {
                self.met.insert("message lost");
            }
        }
    }

    /// Whether a node has nothing to do with another: it met that in a later life, or the other way round.
    fn refuses(&self, node: usize, other: usize) -> bool {
        let later = |a: usize, b: usize| {
            let (a, b) = (&self.nodes[a], &self.nodes[b]);
            b.id.is_some_and(|id| a.met.get(&id).is_some_and(|met| *met > b.life))
        };
        self.nodes[node].shunned || self.nodes[other].shunned || later(node, other) || later(other, node)
    }

    /// Whether a message to a node that is down is late by more than that: whoever starts again hears of what it began before.
    fn waits_for_restart(&mut self) -> bool {
        !self.healed && self.schedule.late && self.rng.chance(600_000)
    }

    pub(crate) fn arrive(&mut self, node: usize, letter: Letter) -> Result<(), Violation> {
        let Letter { to, from, sender, life, foreign, bytes, stale } = letter;
        // Whoever came in again since has another number, and an old copy hears from nobody.
        if self.nodes[node].id != Some(to) || self.nodes[node].shunned || (!stale && self.links.is_cut(sender, node)) {
            return Ok(());
        }
        if self.nodes[node].process.is_none() && self.waits_for_restart() {
            let election = self.schedule.tuning.election.as_nanos() as u64;
            let later = Duration::from_nanos(self.rng.between(1, 2 * election));
            self.met.insert("message waits for a restart");
            self.late_until = self.late_until.max(self.now + later);
            self.after(later, Thing::Arrive { node, letter: Letter { to, from, sender, life, foreign, bytes, stale: true } });
            return Ok(());
        }
        if foreign != self.nodes[node].foreign {
            return self.arrive_unread(node, from, &bytes);
        }
        if self.nodes[node].process.is_some() {
            let met: &mut Life = self.nodes[node].met.entry(from).or_default();
            *met = life.max(*met);
        }
        self.trace_arrival(node, from, &bytes);
        self.offer(node, Event::Message { from, bytes })
    }

    /// A message arrives that a program of another version wrote: real connections are refused before one is sent, and should one
    /// come through all the same, it is not read.
    fn arrive_unread(&mut self, node: usize, from: ReplicaId, bytes: &Bytes) -> Result<(), Violation> {
        self.met.insert("message of another version refused");
        let mut bytes = bytes.to_vec();
        // The version comes first.
        bytes[0] ^= 0x80;
        let bytes = Bytes::from(bytes);
        if concur_network::Envelope::decode(&bytes).is_ok() {
            return Err(Violation::new("version", format!("r{node} reads a message of another version from {from}: {bytes:?}")));
        }
        self.trace_arrival(node, from, &bytes);
        self.offer(node, Event::Message { from, bytes })
    }

    /// Starts a write of all that was appended, unless one is under way.
    fn write(&mut self, index: usize) -> Result<(), Violation> {
        let checkpoint_bytes = self.schedule.tuning.checkpoint_bytes;
        let node = &mut self.nodes[index];
        let process = node.process.as_mut().expect("only a running process writes");
        if process.syncing.is_some() || process.log.pending_bytes() == 0 {
            return Ok(());
        }
        if process.log.written().0 - process.checkpoint_at > checkpoint_bytes {
            process.checkpoint_at = process.log.written().0;
            let records = process.replica.checkpoint();
            let bytes = records.iter().map(|record| record.len() as u64 + 64).sum();
            let [_, last, next] = process.checkpoints_bytes;
            process.checkpoints_bytes = [last, next, bytes];
            process.log.checkpoint(GROUP, records);
            self.met.insert("log checkpoint");
        }
        let from = process.log.written().0;
        // A write of one sector cannot tear: most of these power losses wait for a longer one.
        let strikes = process.log.pending_bytes() > SECTOR || self.rng.chance(150_000);
        let written = process.log.write();
        // It may have lied about a part of it, and fail in the next.
        if let Some(Lie { fault, from: told @ None }) = &mut node.lie
            && process.log.disk().has_lied()
        {
            *told = Some(from);
            self.met.insert(fault.name());
        }
        match written {
            Ok(_) => {}
            Err(LogError::Full { .. }) => {
                self.met.insert("log full");
                let boot = node.boot;
                self.after(FULL_RETRY, Thing::Rewrite { node: index, boot });
                return Ok(());
            }
            Err(_) => {
                self.met.insert("write failed");
                self.die(index, "a write failed");
                return Ok(());
            }
        }
        process.writing_from = from;
        process.syncing = Some(process.appended);
        if let Some((Point::Written, until)) = node.crash_at.filter(|_| strikes) {
            node.crash_at = None;
            node.down_until = until;
            self.met.insert("power lost between write and sync");
            self.lose_power(index);
            return Ok(());
        }
        let (least, most) = self.schedule.tuning.sync;
        let took = Duration::from_nanos(self.rng.between(least.as_nanos() as u64, most.as_nanos() as u64));
        let (boot, factor, stalled) = (node.boot, node.sync_factor, node.stalled_until);
        let at = (self.now + took * factor).max(stalled);
        self.at(at, Thing::Synced { node: index, boot });
        Ok(())
    }

    pub(crate) fn rewrite(&mut self, node: usize, boot: u64) -> Result<(), Violation> {
        if !self.is_running(node, boot) {
            return Ok(());
        }
        let process = self.nodes[node].process.as_mut().expect("it is running");
        if process.log.refill().is_err() {
            self.die(node, "the log failed");
            return Ok(());
        }
        self.write(node)
    }

    pub(crate) fn synced(&mut self, index: usize, boot: u64) -> Result<(), Violation> {
        if !self.is_running(index, boot) {
            return Ok(());
        }
        let node = &mut self.nodes[index];
        if node.stalled_until > self.now {
            let at = node.stalled_until;
            self.at(at, Thing::Synced { node: index, boot });
            return Ok(());
        }
        let process = node.process.as_mut().expect("it is running");
        if process.log.sync().is_err() {
            self.met.insert("sync failed");
            self.die(index, "a sync failed");
            return Ok(());
        }
        let through = process.syncing.take().expect("a sync was under way");
        (node.attested, node.synced) = (process.writing_from, process.log.synced().0);
        if node.lie.and_then(|lie| lie.from).is_some_and(|from| from < node.attested) {
            process.log.disk_mut().stand_by_its_lies();
        }
        if let Some((Point::Synced, until)) = node.crash_at {
            node.crash_at = None;
            node.down_until = until;
            self.met.insert("power lost between sync and send");
            self.lose_power(index);
            return Ok(());
        }
        if process.log.pending_bytes() == 0 && process.replica.role() == "voter" {
            let Settings { config, strategy, .. } = process.replica.settings();
            // Where there is no such ballot, only the epoch is looked at.
            let ballot = if strategy.traits.one_ballot { process.replica.inspect().ballot } else { 0 };
            let (before, durable) = (node.ballot, (config.epoch, ballot));
            node.ballot = before.max(durable);
            if durable < before && !node.shunned {
                return Err(Violation::new("persistence", format!("r{index} had made {before:?} durable and is at {durable:?}")));
            }
        }
        // What waited is on its way before what was waited for goes out: the disk is never idle.
        self.write(index)?;
        self.chase_synced(index);
        self.offer(index, Event::Durable(through))
    }

    /// Gives the engine what a step changed.
    fn store(&mut self, index: usize, out: &mut Output) {
        let node = &mut self.nodes[index];
        let process = node.process.as_mut().expect("only a running process stores");
        let idle = process.engine.is_empty();
        for (replace, bulk) in [(true, out.install.take()), (false, out.bulk.take())] {
            let Some(bulk) = bulk else { continue };
            if replace {
                self.met.insert("state installed");
            }
            let frontier = bulk.mark.frontier;
            let waits = process.engine_waits(idle) && !replace;
            match process.engine.back_mut().filter(|job| waits && !job.replace) {
                Some(job) => {
                    job.changes.extend(bulk.changes);
                    job.frontier = frontier;
                }
                None => process.engine.push_back(Job { replace, changes: bulk.changes, frontier }),
            }
        }
        if idle {
            self.start_engine(index);
        }
    }

    fn start_engine(&mut self, index: usize) {
        let node = &self.nodes[index];
        if node.process.as_ref().is_none_or(|process| process.engine.is_empty()) {
            return;
        }
        let (least, most) = self.schedule.tuning.engine;
        let (boot, factor) = (node.boot, node.engine_factor);
        let took = Duration::from_nanos(self.rng.between(least.as_nanos() as u64, most.as_nanos() as u64));
        // What a slow engine is at may outlast the fault, but not liveness's patience.
        let took = (took * factor).min(took.max(self.schedule.tuning.election * SLOW_ELECTIONS_MAX));
        self.after(took, Thing::Stored { node: index, boot });
    }

    pub(crate) fn stored(&mut self, index: usize, boot: u64) -> Result<(), Violation> {
        if !self.is_running(index, boot) {
            return Ok(());
        }
        let process = self.nodes[index].process.as_mut().expect("it is running");
        let Some(job) = process.engine.pop_front() else { return Ok(()) };
        let frontier = self.nodes[index].keep(job);
        self.start_engine(index);
        self.offer(index, Event::Stored(frontier))
    }

    /// A client's request arrives at a node.
    pub(crate) fn request(&mut self, index: usize, sent: crate::clients::Sent) -> Result<(), Violation> {
        if self.links.is_client_cut(index) {
            self.never_came(sent.by, sent.attempt);
            return Ok(());
        }
        let Some(process) = &mut self.nodes[index].process else {
            self.never_came(sent.by, sent.attempt);
            self.answer(index, sent.by, sent.attempt, Err(Refused::Stopping));
            return Ok(());
        };
        if sent.writes && process.log.is_full() {
            self.met.insert("write refused: disk full");
            self.never_came(sent.by, sent.attempt);
            self.answer(index, sent.by, sent.attempt, Err(Refused::Busy));
            return Ok(());
        }
        let token = Token(process.token_next);
        process.token_next += 1;
        process.tokens.insert(token.0, Asked { by: sent.by, attempt: sent.attempt, query: sent.query });
        self.came(sent.by, sent.attempt);
        self.offer(index, Event::Request { token, request: sent.request })
    }

    /// The replica answers a client.
    fn reply(&mut self, index: usize, token: Token, result: Result<Reply, Refused>) -> Result<(), Violation> {
        let process = self.nodes[index].process.as_mut().expect("only a running process replies");
        let Some(Asked { by, attempt, query }) = process.tokens.remove(&token.0) else {
            return Err(Violation::new("reply", format!("r{index} answers a request twice, or one that nobody made")));
        };
        let result = match (result, query) {
            (Ok(reply), Some(query)) => {
                let body = concur_core::StateMachine::query(process.replica.machine(), &query);
                process.replica.machine().take_notes(&mut self.notes);
                for looked in self.notes.looked.drain(..) {
                    self.ledger.looked(looked);
                }
                Ok(Reply { body, ..reply })
            }
            (result, _) => result,
        };
        match by {
            Asker::Client(client) => {
                if let Ok(reply) = &result
                    && let Some(op) = self.clients[client].command_of(attempt)
                {
                    self.ledger.acknowledged(ReplicaId(index as u8), op, &reply.body)?;
                }
                if matches!(result, Err(Refused::NoSession)) {
                    self.check_session_ended(index, client, attempt)?;
                }
            }
            Asker::Operator(_) => self.change_answered(index, by, attempt, &result)?,
        }
        self.answer(index, by, attempt, result);
        Ok(())
    }

    /// A replica does not know the session of a client, in which nothing was executed any more for as long as one lives, by logged
    /// time.
    fn check_session_ended(&self, index: usize, client: usize, attempt: u32) -> Result<(), Violation> {
        let Some((session, ops)) = self.clients[client].session_of(attempt) else { return Ok(()) };
        let active_ms = ops.filter_map(|op| self.ledger.executed(op)).map(|executed| executed.time_ms).max().unwrap_or(0);
        let (ttl_ms, logged_ms) = (self.schedule.tuning.session_ttl.as_millis() as u64, self.ledger.decisions.logged_ms());
        if active_ms + ttl_ms < logged_ms {
            return Ok(());
        }
        let message = format!(
            "r{index} does not know {session:?} of client c{client}, which was active at {active_ms} ms and ends {ttl_ms} ms later; \
             it is {logged_ms} ms by the log"
        );
        Err(Violation::new("session", message))
    }

    fn answer(&mut self, index: usize, by: Asker, attempt: u32, result: Result<Reply, Refused>) {
        if !self.links.is_client_cut(index) {
            self.after(self.schedule.network.client, Thing::Reply { to: by, attempt, result });
        }
    }

    pub(crate) fn hint(&mut self, node: usize, about: usize, health: Health) -> Result<(), Violation> {
        match self.nodes[about].id {
            Some(id) => self.offer(node, Event::Peer(id, health)),
            None => Ok(()),
        }
    }

    /// Plans the next wake-up.
    pub(crate) fn set_wake(&mut self, index: usize) {
        let node = &mut self.nodes[index];
        let Some(process) = &mut node.process else { return };
        let at = node.clock.when(process.replica.wake_at()).max(process.busy_until).max(self.now + Duration::from_nanos(1));
        if process.wake_at.is_some_and(|planned| planned <= at && planned > self.now) {
            return;
        }
        process.wake_at = Some(at);
        let boot = node.boot;
        self.at(at, Thing::Wake { node: index, boot });
    }

    /// The process dies of its disk; it is started again a little later.
    pub(crate) fn die(&mut self, index: usize, why: &str) {
        self.note_world(index, || format!("stops: {why}"));
        self.stop_process(index);
        if let Some(disk) = &mut self.nodes[index].disk {
            disk.restart();
        }
        let later = Duration::from_nanos(self.rng.below(self.schedule.tuning.election.as_nanos() as u64));
        self.after(later, Thing::Restart { node: index });
    }

    /// The process is gone; the disk stays as the system has it.
    pub(crate) fn stop_process(&mut self, index: usize) {
        let node = &mut self.nodes[index];
        let Some(process) = node.process.take() else { return };
        node.disk = Some(process.log.into_disk());
    }

    /// Power is lost: of what was not synced, any subset of sectors stays.
    pub(crate) fn lose_power(&mut self, index: usize) {
        self.note_world(index, || "loses power".to_owned());
        self.stop_process(index);
        let Self { nodes, rng, .. } = self;
        // Often all or nothing, which hits the borders; otherwise sector by sector.
        let mood = rng.below(4);
        if let Some(disk) = &mut nodes[index].disk {
            disk.crash(|versions| match mood {
                0 => 0,
                1 => versions - 1,
                _ => rng.below(versions),
            });
        }
    }

    /// The world looks at a node.
    pub(crate) fn look_at(&mut self, index: usize) -> Result<(), Violation> {
        let tuning = &self.schedule.tuning;
        let Some(process) = &self.nodes[index].process else { return Ok(()) };
        let flights = process.replica.batches_in_flight() > tuning.batches_in_flight_max;
        if flights || process.tokens.len() > 2_000 {
            return Err(Violation::new("bounds", format!("r{index} holds more than it may: {:?}", process.replica.status())));
        }
        if let Some(kept) = &mut self.kept {
            let concur_core::Inspection { retained, retained_bytes, .. } = process.replica.inspect();
            kept.push(Kept { at: self.now.since(Time(1_000_000_000)), node: index, retained, retained_bytes });
        }
        self.leads(index).map(drop)
    }
}

impl Process {
    /// Whether the last job in the engine's queue has not begun.
    fn engine_waits(&self, was_idle: bool) -> bool {
        self.engine.len() > usize::from(!was_idle)
    }
}

/// Messages for people.
pub(crate) fn describe(roster: &Roster, bytes: &Bytes) -> String {
    use concur_network::{Body, Envelope};
    match Envelope::decode(bytes) {
        Ok(Envelope { body: Body::Protocol(message), epoch, .. }) => (roster.strategy_of(epoch).describe)(&message),
        Ok(Envelope { body, .. }) => format!("{body:?}"),
        Err(error) => error.to_string(),
    }
}
