//! A client that watches every key: it hears of each revision once, in order, and each time of what was executed, on whichever nodes
//! it is served, one after the other.
//!
//! A node serves it what it has executed since, out of the store's history, as the server does with whoever comes from elsewhere. It
//! stays until the node's process is gone or clients are cut off from it. How changes are handed to a million watchers is the
//! server's own examination.

use crate::ledger::Violation;
use crate::witness::hash_of;
use crate::world::World;
use concur_core::ReplicaId;
use concur_kv::{Ordering, Revision};

/// Where it watches: which node, in which run of its process. And the first revision that it has not heard of.
#[derive(Debug)]
pub(crate) struct Watcher {
    at: Option<(usize, u64)>,
    next: Revision,
}

impl Watcher {
    pub(crate) fn new() -> Self {
        Self { at: None, next: Revision(2) }
    }
}

impl World<'_> {
    /// A node took a step: the watcher is served if it is there, or comes if it is nowhere.
    pub(crate) fn serve_watcher(&mut self, index: usize) -> Result<(), Violation> {
        // Ordered per key there is no history.
        if self.schedule.ordering != Ordering::Total {
            return Ok(());
        }
        let here = (index, self.nodes[index].boot);
        match self.watcher.at {
            Some(at) if at == here => {}
            Some((node, boot)) if self.is_running(node, boot) && self.serves_clients(node) => return Ok(()),
            _ if self.serves_clients(index) => self.watcher.at = Some(here),
            _ => return Ok(()),
        }
        if self.serves_clients(index) { self.hear(index) } else { Ok(()) }
    }

    fn serves_clients(&self, node: usize) -> bool {
        !self.links.is_client_cut(node) && !self.nodes[node].shunned
    }

    /// The watcher hears what a node has executed and it has not heard of.
    fn hear(&mut self, index: usize) -> Result<(), Violation> {
        let Self { nodes, watcher, ledger, .. } = self;
        let Some(process) = &nodes[index].process else { return Ok(()) };
        let kv = process.replica.machine().kv();
        if kv.revision() < watcher.next {
            return Ok(());
        }
        let broken = |message: String| Err(Violation::new("watch", format!("r{index} {message}")));
        let history = match kv.history(watcher.next, kv.revision()) {
            Ok(history) => history,
            Err(error) => return broken(format!("does not serve revision {}: {error}", watcher.next)),
        };
        for changes in history {
            if changes.revision != watcher.next {
                return broken(format!("tells of revision {}, and {} comes next", changes.revision, watcher.next));
            }
            if ledger.revision(changes.revision) != Some(hash_of(changes.records)) {
                return broken(format!("tells of revision {} what was not executed there: {:?}", changes.revision, changes.records));
            }
            watcher.next = watcher.next.next();
        }
        if watcher.next != kv.revision().next() {
            return broken(format!("stands at revision {}, and its history ends before {}", kv.revision(), watcher.next));
        }
        Ok(())
    }

    /// At the end the watcher hears of everything that is left.
    pub(crate) fn hear_the_rest(&mut self) -> Result<(), Violation> {
        let Some(last) = self.ledger.last_revision().filter(|_| self.schedule.ordering == Ordering::Total) else { return Ok(()) };
        let running: Vec<usize> = (0..self.nodes.len()).filter(|&node| self.nodes[node].process.is_some()).collect();
        running.iter().try_for_each(|&node| self.hear(node))?;
        if self.watcher.next == last.next() {
            return Ok(());
        }
        let message = format!("the last revision is {last}, and {} was never told, not even by {:?}", self.watcher.next, running);
        Err(Violation::new("watch", message))
    }

    /// What a replica says that a revision changed is what the first to execute it said.
    pub(crate) fn changed(&mut self, index: usize, changes: &[(Revision, u64)]) -> Result<(), Violation> {
        if self.schedule.ordering != Ordering::Total {
            return Ok(());
        }
        self.ledger.changed(ReplicaId(index as u8), changes)
    }
}
