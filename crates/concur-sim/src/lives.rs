//! Disks that are lost, hurt, or put back as they were, and the lives that follow.
//!
//! Nobody who is careful loses so much that too few are left: a disk is hurt only while those that are not are a quorum of the last
//! configuration, hold its beginning durably, and would be one in whatever is about to follow it. What was lost is another life of
//! the disk; it comes in as an observer, until the operator has had the member rebuilt.
//!
//! Half of the disks are lost at the worst of moments: a minority was cut off and missed what was decided, and as soon as the disk is
//! gone, that minority and the disk's next life are a majority, and whoever knows better is cut off.
//!
//! An old copy that is put back was started less often than its peers have seen: they have nothing to do with it (as the server's
//! streams refuse it), and whoever watches it empties the disk.

use crate::chase::apart;
use crate::fault::Episode;
use crate::ledger::Violation;
use crate::node::{Copied, Life};
use crate::world::{Thing, World};
use concur_core::{Health, ReplicaId, ReplicaSet, Rng};
use concur_peers::{Change, Configuration, Role};
use std::time::Duration;

impl World<'_> {
    /// Whether a node may lose what it promised, and enough others are left.
    pub(crate) fn may_hurt(&self, index: usize) -> bool {
        if !self.schedule.operated {
            return self.roster.is_quorum(self.roster.newest(), self.unhurt(|node| node != index));
        }
        let newest = self.roster.newest();
        let entered = |node: usize| self.nodes[node].entered >= newest.epoch;
        !self.is_in_doubt()
            && self.roster.is_quorum(newest, self.unhurt(|node| node != index && entered(node)))
            && self.is_sound(newest, |node| node != index)
    }

    /// Whether those that are not hurt, and `others` than those that are about to be, are a quorum of a configuration and of all that
    /// its promises may lead to.
    pub(crate) fn is_sound(&self, configuration: &Configuration, others: impl Fn(usize) -> bool) -> bool {
        let unhurt = self.unhurt(others);
        let promised: Vec<ReplicaId> =
            configuration.members.iter().filter(|member| matches!(member.role, Role::Promised { .. })).map(|member| member.id).collect();
        (0..1_u32 << promised.len().min(8)).all(|some| {
            let mut next = configuration.clone();
            for (_, &id) in promised.iter().enumerate().filter(|(place, _)| some & 1 << place != 0) {
                let change = Change::Promote { id, incarnation: 1 };
                // Whoever is replaced by one of them is not there to be replaced by another.
                next = next.next(&change, |name| Some(self.roster.strategy(name))).unwrap_or(next);
            }
            self.roster.is_quorum(&next, unhurt)
        })
    }

    fn unhurt(&self, but: impl Fn(usize) -> bool) -> ReplicaSet {
        let sound = |&node: &usize| !self.nodes[node].is_hurt() && but(node);
        (0..self.nodes.len()).filter(sound).filter_map(|node| self.nodes[node].id).collect()
    }

    /// Whether a quorum holds the beginning of the last epoch, so that nobody who left is needed.
    pub(crate) fn is_entered(&self) -> bool {
        let newest = self.roster.newest();
        self.roster.is_quorum(newest, self.unhurt(|node| self.nodes[node].entered >= newest.epoch))
    }

    /// A life that no disk had.
    pub(crate) fn next_life(&mut self) -> u64 {
        self.operator.lives += 1;
        1_000 + self.operator.lives
    }

    /// A disk is lost as soon as it may be.
    pub(crate) fn lose_disk_or_wait(&mut self, index: usize, episode: &Episode) {
        let Some(node) = episode.nodes.iter().next().map(|id| usize::from(id.0)) else { return };
        if self.nodes[node].is_hurt() || !self.nodes[node].may_start {
            return;
        }
        let election = self.schedule.tuning.election;
        if is_aimed(episode) && !self.turns.contains_key(&index) {
            let behind = self.some_others(node);
            self.cut_apart(index, behind);
            let later = Duration::from_nanos(self.rng.between(election.as_nanos() as u64 / 4, election.as_nanos() as u64 * 2));
            return self.after(later, Thing::Again(index));
        }
        if !self.may_hurt(node) {
            let later = Duration::from_micros(self.rng.between(5_000, 50_000));
            return self.after(later, Thing::Again(index));
        }
        self.met.insert(episode.fault.name());
        self.note_world(node, || "loses its disk".to_owned());
        self.cut_power(node, self.now);
        self.nodes[node].damaged = true;
        match self.turns.get(&index).copied() {
            None => self.plan_rebirth(node),
            Some(behind) => {
                self.met.insert("disk lost by one that knew to those that did not");
                let ahead = ReplicaSet::first(self.nodes.len()).minus(behind).without(ReplicaId(node as u8));
                self.cut_apart(index, ahead);
                let later = Duration::from_nanos(self.rng.below(election.as_nanos() as u64 / 4));
                self.after(later, Thing::Reborn { node });
            }
        }
    }

    /// A minority of those that are in, without `node`; machines, not members.
    fn some_others(&mut self, node: usize) -> ReplicaSet {
        let mut others: Vec<usize> = self.present().into_iter().filter(|&other| other != node).collect();
        let minority = others.len() / 2;
        let machine = |others: &mut Vec<usize>, rng: &mut Rng| others.swap_remove(rng.below(others.len() as u64) as usize);
        (0..minority).map(|_| ReplicaId(machine(&mut others, &mut self.rng) as u8)).collect()
    }

    /// Some machines are cut off from the others, in place of those that this episode had cut off.
    fn cut_apart(&mut self, index: usize, machines: ReplicaSet) {
        self.mend_cut(index);
        self.links.cut(&apart(machines), &self.everywhere(), true);
        self.turns.insert(index, machines);
        self.note_cuts();
    }

    /// What an episode of lost disks cut off is not cut off any longer.
    pub(crate) fn mend_cut(&mut self, index: usize) {
        if let Some(machines) = self.turns.remove(&index) {
            self.links.cut(&apart(machines), &self.everywhere(), false);
        }
    }

    /// Whoever watches a node is going to empty its disk.
    pub(crate) fn plan_rebirth(&mut self, node: usize) {
        let later = Duration::from_nanos(self.rng.below(self.schedule.tuning.election.as_nanos() as u64 * 2));
        self.after(later, Thing::Reborn { node });
    }

    /// Another life of a disk begins, empty, if the machine is still in.
    pub(crate) fn reborn(&mut self, node: usize) -> Result<(), Violation> {
        if !(self.nodes[node].damaged || self.nodes[node].shunned) {
            return Ok(());
        }
        self.drop_held(node);
        self.stop_process(node);
        let life = self.next_life();
        self.nodes[node].wipe(life);
        self.nodes[node].paused = false;
        let newest = self.roster.newest();
        if self.nodes[node].id.is_some_and(|id| newest.member(id).is_some()) {
            self.nodes[node].mending = true;
            self.start(node)?;
            self.tell_peers(node, Health::Up, 900_000);
        } else {
            // It was removed meanwhile, and nothing of it is left.
            (self.nodes[node].id, self.nodes[node].may_start, self.nodes[node].mending) = (None, false, false);
        }
        Ok(())
    }

    /// A copy is made; the node goes on, and is started twice more; then the copy is put back, once it may be and everyone that votes
    /// has met the node in a later run than the copy will claim.
    pub(crate) fn copy_or_put_back(&mut self, index: usize, episode: &Episode) {
        let Some(node) = episode.nodes.iter().next().map(|id| usize::from(id.0)) else { return };
        if self.nodes[node].is_hurt() || !self.nodes[node].may_start {
            self.nodes[node].copy = None;
            return;
        }
        let life = self.nodes[node].life;
        match &self.nodes[node].copy {
            None => self.copy(node),
            Some(copy) if copy.life.incarnation != life.incarnation => self.nodes[node].copy = None,
            Some(copy) if life.run < copy.life.run + 2 => self.start_again(node),
            Some(copy) => {
                let claimed = Life { run: copy.life.run + 1, ..copy.life };
                if self.is_known_by_voters(node, claimed) && self.may_hurt(node) {
                    self.met.insert(episode.fault.name());
                    return self.put_back(node);
                }
            }
        }
        let later = Duration::from_micros(self.rng.between(5_000, 80_000));
        self.after(later, Thing::Again(index));
    }

    fn copy(&mut self, index: usize) {
        let node = &mut self.nodes[index];
        // One that is a quorum by itself would go on deciding or reading, whatever others think of it.
        let configuration = node.process.as_ref().map(|process| process.replica.status().configuration);
        let alone = ReplicaSet::one(node.id.unwrap_or_default());
        if configuration.is_none_or(|configuration| self.roster.is_part_quorum(&configuration, alone)) {
            return;
        }
        let Some(process) = &mut node.process else { return };
        let mut disk = process.log.disk_mut().clone();
        disk.restart();
        let copied = Copied { disk, image: node.image.clone(), met: node.met.clone(), life: node.life };
        node.copy = Some(Box::new(copied));
        self.note_world(index, || "is copied".to_owned());
    }

    fn start_again(&mut self, node: usize) {
        if self.nodes[node].process.is_some() {
            let up_again = self.now + Duration::from_micros(self.rng.between(1_000, 20_000));
            self.kill(node, up_again);
            self.at(up_again, Thing::Restart { node });
        }
    }

    fn is_known_by_voters(&self, node: usize, claimed: Life) -> bool {
        let Some(id) = self.nodes[node].id else { return false };
        let others = self.roster.newest().voters().without(id);
        let knows = |other: ReplicaId| {
            let other = self.roster.machine(other).map(|machine| &self.nodes[machine]);
            other.is_some_and(|other| other.met.get(&id).is_some_and(|met| *met > claimed))
        };
        others.iter().all(knows)
    }

    fn put_back(&mut self, index: usize) {
        let up_again = self.now + Duration::from_micros(self.rng.between(1_000, 20_000));
        self.kill(index, up_again);
        let node = &mut self.nodes[index];
        let Some(copied) = node.copy.take() else { return };
        let Copied { mut disk, image, met, life } = *copied;
        // It is put back where there is room.
        disk.set_capacity_bytes(u64::MAX);
        (node.disk, node.image, node.met, node.life) = (Some(disk), image, met, life);
        (node.shunned, node.down_until, node.paused, node.disk_full) = (true, up_again, false, false);
        self.note_world(index, || format!("is given back an old copy of its disk, of its {}. run", life.run));
        self.at(up_again, Thing::Restart { node: index });
        let later = Duration::from_nanos(self.rng.below(self.schedule.tuning.election.as_nanos() as u64)) + Duration::from_millis(30);
        self.after(later, Thing::Reborn { node: index });
    }
}

/// Whether a disk is lost at the worst of moments.
pub(crate) fn is_aimed(episode: &Episode) -> bool {
    episode.strength > 50
}
