//! What is done to a data directory while no node runs on it.
//!
//! [`go_on_alone`] is the last resort for a group that has lost its quorum for good: it makes one node's state the whole of the group.
//! What the lost members had acknowledged and this one had not executed is gone; should any of them come back, they would go on
//! with a history of their own. The epoch is raised by a lot, so that whatever they say is of an earlier one.

use crate::node::NodeError;
use concur_core::{Epoch, GroupId};
use concur_peers::{Configuration, Role};
use concur_replica::stand_elsewhere;
use concur_store::dir::DataDir;
use concur_store::engine::{Engine, RedbEngine, Write};
use std::path::Path;

/// By how much a forced epoch lies above the one before.
const FORCED_EPOCHS: u64 = 1000;
const CACHE_BYTES: usize = 16 << 20;

/// What was made of one group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Forced {
    /// The group.
    pub group: GroupId,
    /// Who was in.
    pub before: Configuration,
    /// Who is.
    pub after: Configuration,
}

/// Makes the node whose directory this is the only member of each of its groups. Nothing is decided, nothing asked of anybody.
pub fn go_on_alone(data_dir: &Path) -> Result<Vec<Forced>, NodeError> {
    let dir = DataDir::open_existing(data_dir)?;
    let mut engine = RedbEngine::open(&dir.state_file(), CACHE_BYTES)?;
    let reader = engine.reader();
    let mut all = Vec::new();
    for group in reader.groups()? {
        let Some(view) = reader.view(group)? else { continue };
        let image = view.entries.collect::<Result<Vec<_>, _>>()?;
        let corrupt = |error| NodeError::Corrupt { group: format!("{:016x}", group.0), error };
        let mut before = Configuration::default();
        let next = |found: &Configuration| {
            before = found.clone();
            alone(found, &dir.identity().name, dir.identity().incarnation)
        };
        let (after, entries) = stand_elsewhere(&image, next).map_err(corrupt)?;
        if after.members.is_empty() {
            let what = format!("{} is not among its members", dir.identity().name);
            return Err(corrupt(concur_core::Corrupt::new(what)));
        }
        let mark = entries.last().map(|(_, mark)| mark.clone()).unwrap_or_default();
        let bulk = entries.into_iter().map(|(key, value)| (key, Some(value))).collect();
        engine.apply(&[Write { group, bulk, mark }], true)?;
        all.push(Forced { group, before, after });
    }
    Ok(all)
}

/// The configuration of one member alone, which votes with the disk that it has.
fn alone(before: &Configuration, name: &str, incarnation: u64) -> Configuration {
    let mut next = before.clone();
    next.epoch = Epoch(before.epoch.0 + FORCED_EPOCHS);
    next.members.retain(|member| member.name == name);
    for member in &mut next.members {
        (member.role, member.weight, member.incarnation) = (Role::Voter, 1, incarnation);
    }
    (next.counts, next.first) = (None, None);
    next
}
