//! Faults at work: what an episode does when it begins, while it lasts, and when it ends.

use crate::fault::{Episode, Fault};
use crate::ledger::Violation;
use crate::node::{Lie, Point};
use crate::world::{Thing, World};
use concur_core::{Health, ReplicaId, ReplicaSet, Time};
use concur_replica::Event;
use concur_store::log::{BLOCK, Disk, MemDisk, WriteFault};
use std::time::Duration;

/// An episode as it strikes: whom, of those who are in when it begins.
#[derive(Debug, Clone)]
pub(crate) struct Struck {
    pub(crate) episode: Episode,
    /// Where each machine stands among those that are in; one that is not stands where another does.
    pub(crate) places: Vec<usize>,
}

impl World<'_> {
    /// The machines that are in, or were lately.
    pub(crate) fn present(&self) -> Vec<usize> {
        (0..self.nodes.len()).filter(|&node| self.nodes[node].id.is_some()).collect()
    }

    /// Whom an episode strikes: it was drawn when nobody knew who would be in.
    fn strikes(&self, episode: &Episode) -> Struck {
        let present = self.present();
        let places: Vec<usize> =
            (0..self.nodes.len()).map(|node| present.iter().position(|&other| other == node).unwrap_or(node % present.len())).collect();
        let meant = |id: ReplicaId| usize::from(id.0) % present.len();
        let meant: Vec<usize> = episode.nodes.iter().map(meant).collect();
        let everyone = episode.nodes.len() == self.schedule.replicas;
        let apart = matches!(episode.fault, Fault::Split | Fault::OneWay | Fault::Flap | Fault::ClientSplit);
        let mine = |node: &usize| everyone || (meant.contains(&places[*node]) && (apart || self.nodes[*node].id.is_some()));
        let nodes: ReplicaSet = (0..self.nodes.len()).filter(mine).map(|node| ReplicaId(node as u8)).collect();
        Struck { episode: Episode { nodes, ..episode.clone() }, places }
    }

    pub(crate) fn begin_episode(&mut self, index: usize) -> Result<(), Violation> {
        if self.healed {
            return Ok(());
        }
        let struck = self.strikes(&self.schedule.episodes[index]);
        self.struck[index] = Some(struck.clone());
        let Struck { episode, places } = struck;
        if !episode.fault.is_of_epochs() && !episode.fault.is_lie() {
            self.met.insert(episode.fault.name());
        }
        self.note_world(episode.nodes.iter().next().map_or(0, |id| usize::from(id.0)), || format!("begins: {episode}"));
        match episode.fault {
            Fault::Loss | Fault::Duplicate | Fault::Reorder | Fault::Delay | Fault::Stale => self.links.noise(&episode, true),
            Fault::Split | Fault::OneWay | Fault::Bridge | Fault::Chain => self.links.cut(&episode, &places, true),
            Fault::Flap | Fault::CrashLoop | Fault::Suspicion | Fault::LostDisk | Fault::OldCopy => self.again(index)?,
            Fault::ClientSplit => self.links.cut_clients(episode.nodes, true),
            Fault::Chase => self.chase(true),
            _ => {
                let end = self.now + episode.lasts;
                for id in episode.nodes.iter() {
                    self.strike(&episode, usize::from(id.0), end)?;
                }
            }
        }
        self.note_cuts();
        Ok(())
    }

    /// An episode strikes one node.
    fn strike(&mut self, episode: &Episode, node: usize, end: Time) -> Result<(), Violation> {
        match episode.fault {
            Fault::Kill => self.kill(node, end),
            Fault::PowerLoss | Fault::PowerLossSome | Fault::PowerLossAll => self.cut_power(node, end),
            Fault::FlippedByte => {
                self.cut_power(node, end);
                self.flip(node);
            }
            Fault::FlippedState => {
                self.cut_power(node, end);
                self.flip_state(node);
            }
            Fault::MixedVersions => self.change_program(node, true),
            Fault::CrashAtWrite => self.nodes[node].crash_at = Some((Point::Written, end)),
            Fault::CrashAtSync => self.nodes[node].crash_at = Some((Point::Synced, end)),
            Fault::Pause => self.nodes[node].paused = true,
            Fault::Stop => return self.ask_to_stop(node, end),
            Fault::SlowDisk => self.nodes[node].sync_factor = 1 + episode.strength,
            Fault::SlowEngine => self.nodes[node].engine_factor = 1 + episode.strength,
            Fault::StalledDisk => self.nodes[node].stalled_until = end,
            Fault::FullDisk => {
                self.nodes[node].disk_full = true;
                self.with_disk(node, |disk| disk.set_capacity_bytes(disk.used_bytes()));
            }
            Fault::FailedSync if self.nodes[node].process.is_some() => self.with_disk(node, MemDisk::fail_next_sync),
            Fault::ShortWrite if self.nodes[node].process.is_some() => {
                let bytes = self.rng.below(8_192);
                self.with_disk(node, |disk| disk.spoil_next_write(WriteFault::Short { bytes }));
            }
            Fault::FailedSync | Fault::ShortWrite => {}
            Fault::LostWrite | Fault::MisdirectedWrite => self.plan_lie(node, episode.fault),
            Fault::ClockJump => self.jump(node, episode.strength),
            Fault::Drift => {
                let most = i64::from(episode.strength) * 1_000;
                let drift = self.rng.below(2 * most as u64) as i64 - most;
                self.nodes[node].clock.drift(self.now, drift);
                self.set_wake(node);
            }
            _ => unreachable!("{} does not strike nodes one by one", episode.fault),
        }
        Ok(())
    }

    /// An episode that strikes again and again does so, and plans the next time.
    pub(crate) fn again(&mut self, index: usize) -> Result<(), Violation> {
        let Some(Struck { episode, places }) = self.struck[index].clone() else { return Ok(()) };
        let end = Time(1_000_000_000) + episode.start + episode.lasts;
        if self.healed || self.now >= end {
            return Ok(());
        }
        match episode.fault {
            Fault::Flap => {
                let period = (episode.lasts / (2 + episode.strength / 10)).max(Duration::from_millis(1));
                let on = (self.now.since(Time(1_000_000_000) + episode.start).as_nanos() / period.as_nanos()).is_multiple_of(2);
                self.links.flap(index, &episode, &places, on);
                self.note_cuts();
                self.after(period, Thing::Again(index));
            }
            Fault::CrashLoop => {
                for id in episode.nodes.iter() {
                    let up_again = self.now + Duration::from_micros(self.rng.between(1_000, 30_000));
                    self.cut_power(usize::from(id.0), up_again);
                    self.at(up_again, Thing::Restart { node: usize::from(id.0) });
                }
                let next = Duration::from_micros(self.rng.between(30_000, 400_000));
                self.after(next, Thing::Again(index));
            }
            Fault::Suspicion => {
                let present = self.present();
                let about = present[self.rng.below(present.len() as u64) as usize];
                for node in episode.nodes.iter().map(|id| usize::from(id.0)).filter(|&node| node != about) {
                    self.after(Duration::ZERO, Thing::Hint { node, about, health: Health::Down });
                    self.after(Duration::from_millis(5), Thing::Hint { node, about, health: Health::Up });
                }
                let next = self.rng.between(1_000, 1_000 + 2_000 * u64::from(101 - episode.strength));
                self.after(Duration::from_micros(next), Thing::Again(index));
            }
            Fault::LostDisk => self.lose_disk_or_wait(index, &episode),
            Fault::OldCopy => self.copy_or_put_back(index, &episode),
            _ => {}
        }
        Ok(())
    }

    pub(crate) fn end_episode(&mut self, index: usize) -> Result<(), Violation> {
        if self.healed {
            return Ok(());
        }
        let Some(Struck { episode, places }) = self.struck[index].take() else { return Ok(()) };
        self.note_world(episode.nodes.iter().next().map_or(0, |id| usize::from(id.0)), || format!("ends: {}", episode.fault));
        match episode.fault {
            Fault::Loss | Fault::Duplicate | Fault::Reorder | Fault::Delay | Fault::Stale => self.links.noise(&episode, false),
            Fault::Split | Fault::OneWay | Fault::Bridge | Fault::Chain => self.links.cut(&episode, &places, false),
            Fault::Flap => self.links.flap(index, &episode, &places, false),
            Fault::LostDisk => self.mend_cut(index),
            Fault::ClientSplit => self.links.cut_clients(episode.nodes, false),
            Fault::Chase => self.chase(false),
            _ => {
                for id in episode.nodes.iter() {
                    self.relent(&episode, usize::from(id.0))?;
                }
            }
        }
        Ok(())
    }

    /// An episode leaves one node alone.
    fn relent(&mut self, episode: &Episode, node: usize) -> Result<(), Violation> {
        match episode.fault {
            Fault::Pause if self.nodes[node].paused => self.resume(node),
            Fault::SlowDisk => self.nodes[node].sync_factor = 1,
            Fault::SlowEngine => self.nodes[node].engine_factor = 1,
            Fault::FullDisk => {
                self.nodes[node].disk_full = false;
                self.with_disk(node, |disk| disk.set_capacity_bytes(u64::MAX));
                self.refill(node);
            }
            Fault::ClockJump => self.jump(node, episode.strength),
            Fault::Drift => {
                self.nodes[node].clock.drift(self.now, 0);
                self.set_wake(node);
            }
            Fault::CrashAtWrite | Fault::CrashAtSync => {
                self.nodes[node].crash_at = None;
                return self.restart(node);
            }
            Fault::LostWrite | Fault::MisdirectedWrite => self.find_lie(node, Duration::from_millis(20)),
            Fault::MixedVersions => self.change_program(node, false),
            Fault::Kill | Fault::Stop | Fault::FlippedByte | Fault::FlippedState | Fault::CrashLoop => return self.restart(node),
            Fault::PowerLoss | Fault::PowerLossSome | Fault::PowerLossAll => return self.restart(node),
            _ => {}
        }
        Ok(())
    }

    /// Everything is healed: what is down comes up within an election timeout.
    pub(crate) fn heal(&mut self) -> Result<(), Violation> {
        self.note_world(0, || "everything is healed".to_owned());
        self.end_chase();
        self.turns.clear();
        self.links.heal();
        for index in 0..self.nodes.len() {
            let now = self.now;
            let node = &mut self.nodes[index];
            (node.sync_factor, node.engine_factor, node.stalled_until) = (1, 1, now);
            (node.crash_at, node.down_until, node.disk_full) = (None, now, false);
            node.clock.drift(now, 0);
            self.with_disk(index, |disk| disk.set_capacity_bytes(u64::MAX));
            self.refill(index);
            if self.nodes[index].paused {
                self.resume(index);
            }
            if self.nodes[index].foreign {
                self.change_program(index, false);
            }
            self.find_lie(index, self.schedule.tuning.election);
            self.set_wake(index);
            if self.nodes[index].process.is_none() {
                let later = Duration::from_nanos(self.rng.below(self.schedule.tuning.election.as_nanos() as u64));
                self.after(later, Thing::Restart { node: index });
            }
        }
        self.healed_now();
        Ok(())
    }

    /// Starts a node if it is down and may come up.
    pub(crate) fn restart(&mut self, index: usize) -> Result<(), Violation> {
        let node = &self.nodes[index];
        if node.process.is_some() || node.damaged || node.paused || !node.may_start {
            return Ok(());
        }
        if node.down_until > self.now {
            let at = node.down_until;
            self.at(at, Thing::Restart { node: index });
            return Ok(());
        }
        self.start(index)?;
        self.tell_peers(index, Health::Up, 900_000);
        Ok(())
    }

    /// Peers notice that a connection to a node was reset or made, most of the time.
    pub(crate) fn tell_peers(&mut self, about: usize, health: Health, per_million: u32) {
        for node in (0..self.nodes.len()).filter(|&node| node != about) {
            let hears = !self.links.is_cut(about, node) && self.nodes[node].id.is_some() && self.rng.chance(per_million);
            if hears {
                let delay = self.schedule.network.one_way[about][node];
                self.after(delay, Thing::Hint { node, about, health });
            }
        }
    }

    /// The process is killed; the system and its caches go on.
    pub(crate) fn kill(&mut self, node: usize, until: Time) {
        if self.nodes[node].process.is_none() {
            return;
        }
        self.note_world(node, || "is killed".to_owned());
        self.drop_held(node);
        self.nodes[node].down_until = until;
        self.nodes[node].paused = false;
        self.stop_process(node);
        if let Some(disk) = &mut self.nodes[node].disk {
            disk.restart();
        }
        self.tell_peers(node, Health::Down, 800_000);
    }

    pub(crate) fn cut_power(&mut self, node: usize, until: Time) {
        self.drop_held(node);
        self.nodes[node].down_until = until;
        self.nodes[node].paused = false;
        self.lose_power(node);
        self.tell_peers(node, Health::Down, 300_000);
    }

    /// The process is asked to stop, and does after a while.
    fn ask_to_stop(&mut self, node: usize, until: Time) -> Result<(), Violation> {
        let Some(process) = &mut self.nodes[node].process else { return Ok(()) };
        process.stopping = true;
        let boot = self.nodes[node].boot;
        self.nodes[node].down_until = until;
        let later = Duration::from_micros(self.rng.between(1_000, 200_000)).min(until.since(self.now));
        self.after(later, Thing::Exit { node, boot });
        if self.nodes[node].paused { Ok(()) } else { self.offer(node, Event::Leave) }
    }

    pub(crate) fn exit(&mut self, node: usize, boot: u64) -> Result<(), Violation> {
        if self.is_running(node, boot) && self.nodes[node].process.as_ref().is_some_and(|process| process.stopping) {
            let until = self.nodes[node].down_until;
            self.kill(node, until);
            self.after(until.since(self.now), Thing::Restart { node });
        }
        Ok(())
    }

    /// What waited for a process that is gone never comes.
    pub(crate) fn drop_held(&mut self, node: usize) {
        for sent in self.take_held_requests(node) {
            self.never_came(sent.by, sent.attempt);
        }
    }

    fn jump(&mut self, node: usize, strength: u32) {
        let most = u64::from(strength) * 100;
        self.nodes[node].wall_offset_ms += self.rng.below(2 * most) as i64 - most as i64;
    }

    fn with_disk(&mut self, node: usize, hurt: impl FnOnce(&mut MemDisk)) {
        let node = &mut self.nodes[node];
        if let Some(process) = &mut node.process {
            hurt(process.log.disk_mut());
        } else if let Some(disk) = &mut node.disk {
            hurt(disk);
        }
    }

    /// A log that was full takes what there is room for.
    fn refill(&mut self, index: usize) {
        if let Some(process) = &mut self.nodes[index].process
            && process.log.refill().is_err()
        {
            self.die(index, "the log failed");
        }
    }

    /// The next write of a node's log is lost or goes elsewhere, if enough others are left.
    fn plan_lie(&mut self, index: usize, fault: Fault) {
        if self.nodes[index].process.is_none() || self.nodes[index].is_hurt() || !self.may_hurt(index) {
            return;
        }
        let write_fault = if fault == Fault::LostWrite { WriteFault::Lost } else { self.misdirection(index) };
        self.with_disk(index, |disk| disk.spoil_next_write(write_fault));
        self.nodes[index].lie = Some(Lie { fault, from: None });
    }

    /// Often over what is durable; otherwise anywhere.
    fn misdirection(&mut self, index: usize) -> WriteFault {
        let (attested, segment_bytes) = (self.nodes[index].attested, self.schedule.tuning.segment_bytes);
        let Some(process) = &self.nodes[index].process else { return WriteFault::Lost };
        let segments: Vec<u64> = process.log.disk().segments().map(|(id, _)| id).collect();
        let first = segments.iter().find(|&&id| id >> 63 == 0).map_or(0, |id| id * segment_bytes);
        let anywhere = segments[self.rng.below(segments.len() as u64) as usize];
        let (segment, place) = if first < attested && self.rng.chance(600_000) {
            let position = self.rng.between(first, attested - 1);
            (position / segment_bytes, position % segment_bytes)
        } else {
            (anywhere, self.rng.below(segment_bytes))
        };
        WriteFault::Misdirected { segment, offset: place / BLOCK as u64 * BLOCK as u64 }
    }

    /// A node whose disk lied is started again within `most`, and finds out; one whose disk is about to lie is spared.
    fn find_lie(&mut self, node: usize, most: Duration) {
        let Some(lie) = self.nodes[node].lie else { return };
        if lie.from.is_none() {
            self.nodes[node].lie = None;
            return self.with_disk(node, MemDisk::restart);
        }
        if self.nodes[node].process.is_none() {
            return;
        }
        let up_again = self.now + Duration::from_nanos(self.rng.between(1_000_000, most.as_nanos() as u64));
        if self.rng.chance(500_000) {
            self.kill(node, up_again)
        } else {
            self.cut_power(node, up_again)
        }
        self.at(up_again, Thing::Restart { node });
    }

    /// A node is stopped, and started again with a program of another version, or of the first.
    fn change_program(&mut self, node: usize, foreign: bool) {
        let up_again = self.now + Duration::from_micros(self.rng.between(1_000, 50_000));
        self.kill(node, up_again);
        self.nodes[node].foreign = foreign;
        self.at(up_again, Thing::Restart { node });
    }

    /// Changes a byte of what the engine holds, as long as enough others are left.
    fn flip_state(&mut self, index: usize) {
        let entries = self.nodes[index].image.len() as u64;
        if !self.may_hurt(index) || entries == 0 || self.nodes[index].is_hurt() {
            return;
        }
        let place = self.rng.below(entries) as usize;
        let Some((_, value)) = self.nodes[index].image.iter_mut().nth(place).filter(|(_, value)| !value.is_empty()) else { return };
        let mut bytes = value.to_vec();
        bytes[self.rng.below(value.len() as u64) as usize] ^= 1 << self.rng.below(8);
        *value = bytes.into();
        self.nodes[index].flipped = Some(Fault::FlippedState);
        self.met.insert("byte of the state flipped");
    }

    /// Changes a byte of the log that is durable, and that something durable behind it attests: the log must notice. As long as
    /// enough others are left.
    fn flip(&mut self, index: usize) {
        let (attested, segment_bytes) = (self.nodes[index].attested, self.schedule.tuning.segment_bytes);
        if !self.may_hurt(index) || attested == 0 || self.nodes[index].lie.is_some() || self.nodes[index].flipped.is_some() {
            return;
        }
        let Some(disk) = &mut self.nodes[index].disk else { return };
        let first = disk.segments().map(|(id, _)| id).find(|id| id >> 63 == 0).unwrap_or(0) * segment_bytes;
        if first >= attested {
            return;
        }
        // Most of a block is empty: a few tries find something that means something.
        let mut block = vec![0; BLOCK];
        for _ in 0..16 {
            let position = self.rng.between(first, attested - 1);
            let (segment, offset) = (position / segment_bytes, position % segment_bytes);
            let within = offset % BLOCK as u64;
            let readable = disk.read(segment, offset - within, &mut block).is_ok();
            if readable && block[within as usize] != 0 {
                disk.flip(segment, offset, 1 << self.rng.below(8));
                self.nodes[index].flipped = Some(Fault::FlippedByte);
                self.met.insert("byte flipped");
                return;
            }
        }
    }
}
