//! An engine that forgets when the process ends. A view copies what it shows: meant for small states.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use concur_core::GroupId;

use super::{Bulk, Engine, EngineError, EngineRead, View, Write};

/// The engine. See the [module](self).
#[derive(Debug, Default)]
pub struct MemoryEngine {
    groups: Arc<Groups>,
    installs: BTreeMap<GroupId, BTreeMap<Bytes, Bytes>>,
}

#[derive(Debug, Default)]
struct Groups(Mutex<BTreeMap<GroupId, Group>>);

#[derive(Debug, Default)]
struct Group {
    mark: Bytes,
    table: BTreeMap<Bytes, Bytes>,
}

impl Groups {
    /// Nothing can panic half way through a change, so that a poisoned lock still guards a whole state.
    fn lock(&self) -> MutexGuard<'_, BTreeMap<GroupId, Group>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn put(table: &mut BTreeMap<Bytes, Bytes>, bulk: &Bulk) {
    for (key, value) in bulk {
        match value {
            Some(value) => table.insert(key.clone(), value.clone()),
            None => table.remove(key),
        };
    }
}

impl Engine for MemoryEngine {
    fn apply(&mut self, writes: &[Write], _durable: bool) -> Result<(), EngineError> {
        let mut groups = self.groups.lock();
        for write in writes {
            let group = groups.entry(write.group).or_default();
            put(&mut group.table, &write.bulk);
            group.mark = write.mark.clone();
        }
        Ok(())
    }

    fn begin_install(&mut self, group: GroupId) -> Result<(), EngineError> {
        self.installs.insert(group, BTreeMap::new());
        Ok(())
    }

    fn install(&mut self, group: GroupId, bulk: &Bulk) -> Result<(), EngineError> {
        put(self.installs.entry(group).or_default(), bulk);
        Ok(())
    }

    fn finish_install(&mut self, group: GroupId, mark: &Bytes) -> Result<(), EngineError> {
        let table = self.installs.remove(&group).unwrap_or_default();
        self.groups.lock().insert(group, Group { mark: mark.clone(), table });
        Ok(())
    }

    fn compact(&mut self) -> Result<bool, EngineError> {
        Ok(true)
    }

    fn reader(&self) -> Arc<dyn EngineRead> {
        self.groups.clone()
    }
}

impl EngineRead for Groups {
    fn groups(&self) -> Result<Vec<GroupId>, EngineError> {
        Ok(self.lock().keys().copied().collect())
    }

    fn mark(&self, group: GroupId) -> Result<Option<Bytes>, EngineError> {
        Ok(self.lock().get(&group).map(|group| group.mark.clone()))
    }

    fn get(&self, group: GroupId, key: &[u8]) -> Result<Option<Bytes>, EngineError> {
        Ok(self.lock().get(&group).and_then(|group| group.table.get(key).cloned()))
    }

    fn view(&self, group: GroupId) -> Result<Option<View>, EngineError> {
        let groups = self.lock();
        let view = groups.get(&group).map(|group| {
            let entries: Vec<_> = group.table.iter().map(|(key, value)| Ok((key.clone(), value.clone()))).collect();
            View::new(group.mark.clone(), move || Ok(Box::new(entries.clone().into_iter())))
        });
        Ok(view)
    }
}
