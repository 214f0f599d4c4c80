//! The engine on redb, a copy-on-write B-tree in one file.
//!
//! One table `groups` holds, for each group, the *generation* of its state and its mark; the state itself is a table named
//! after group and generation. Ordinary writes go to the present generation. An install fills the next one, and its last
//! transaction names it in `groups` and drops the old: tables that `groups` does not name are left of an interrupted install
//! and are dropped at opening.
//!
//! Commits that need not be durable stay in memory and in the page cache. Durable ones save the allocator's state and use two
//! phases (`quick repair`): slower, but off the reply path, and after a crash nothing has to be repaired. A start reads the whole file
//! anyway, since the state goes into memory, and looks at the checksum of every page first.

use std::collections::BTreeMap;
use std::panic::catch_unwind;
use std::path::Path;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};

use bytes::Bytes;
use concur_core::GroupId;
use redb::{
    Builder, CompactionError, Database, Durability, ReadOnlyTable, ReadTransaction, ReadableDatabase, ReadableTable, TableDefinition,
    TableHandle, WriteTransaction,
};

use super::{Bulk, Engine, EngineError, EngineRead, Entries, View, Write};

/// The version of the tables that this program writes, and the newest that it reads.
pub const ENGINE_FORMAT_VERSION: u64 = 1;

const META: TableDefinition<'_, &str, u64> = TableDefinition::new("meta");
/// Group: generation of its state, mark.
const GROUPS: TableDefinition<'_, u64, (u64, &[u8])> = TableDefinition::new("groups");

type State<'a> = TableDefinition<'a, &'static [u8], &'static [u8]>;
type ReadOnlyState = ReadOnlyTable<&'static [u8], &'static [u8]>;

/// The engine. See the [module](self).
#[derive(Debug)]
pub struct RedbEngine {
    shared: Arc<Shared>,
    /// Generations that are being gathered.
    installs: BTreeMap<GroupId, u64>,
}

/// Compaction needs the database for itself; nobody else writes to the lock.
#[derive(Debug)]
struct Shared(RwLock<Database>);

impl RedbEngine {
    /// Opens the file, or creates it. Of memory it uses `cache_bytes`. Fails if anything in it is not as it was written.
    pub fn open(path: &Path, cache_bytes: usize) -> Result<RedbEngine, EngineError> {
        // Before the checksums of pages are looked at, what is damaged may make the library panic.
        let database = catch_unwind(|| open_checked(path, cache_bytes)).unwrap_or_else(|_| Err(damaged("a page makes no sense")))?;
        let engine = RedbEngine { shared: Arc::new(Shared(RwLock::new(database))), installs: BTreeMap::new() };
        engine.prepare()?;
        Ok(engine)
    }

    /// Checks the version and drops what interrupted installs left.
    fn prepare(&self) -> Result<(), EngineError> {
        let transaction = self.begin(true)?;
        {
            let mut meta = transaction.open_table(META).map_err(error("open"))?;
            let found = meta.get("format").map_err(error("open"))?.map(|found| found.value());
            match found {
                Some(found) if found > ENGINE_FORMAT_VERSION => return Err(newer(found)),
                Some(_) => {}
                None => drop(meta.insert("format", ENGINE_FORMAT_VERSION).map_err(error("open"))?),
            }
            let groups = transaction.open_table(GROUPS).map_err(error("open"))?;
            let mut named = Vec::new();
            for group in groups.iter().map_err(error("open"))? {
                let (group, state) = group.map_err(error("open"))?;
                named.push(table(GroupId(group.value()), state.value().0));
            }
            let tables: Vec<_> = transaction.list_tables().map_err(error("open"))?.collect();
            for left in
                tables.into_iter().filter(|table| table.name().starts_with("state-") && !named.iter().any(|name| name == table.name()))
            {
                transaction.delete_table(left).map_err(error("open"))?;
            }
        }
        transaction.commit().map_err(error("open"))
    }

    fn begin(&self, durable: bool) -> Result<WriteTransaction, EngineError> {
        let mut transaction = self.shared.read().begin_write().map_err(error("begin a transaction"))?;
        transaction.set_quick_repair(durable);
        let durability = if durable { Durability::Immediate } else { Durability::None };
        transaction.set_durability(durability).map_err(error("begin a transaction"))?;
        Ok(transaction)
    }
}

impl Engine for RedbEngine {
    fn apply(&mut self, writes: &[Write], durable: bool) -> Result<(), EngineError> {
        let transaction = self.begin(durable)?;
        for write in writes {
            let generation = generation(&transaction, write.group)?.unwrap_or(0);
            put(&transaction, &table(write.group, generation), &write.bulk)?;
            let mut groups = transaction.open_table(GROUPS).map_err(error("write"))?;
            groups.insert(write.group.0, (generation, &write.mark[..])).map_err(error("write"))?;
        }
        transaction.commit().map_err(error("commit"))
    }

    fn begin_install(&mut self, group: GroupId) -> Result<(), EngineError> {
        let transaction = self.begin(false)?;
        if let Some(given_up) = self.installs.remove(&group) {
            let name = table(group, given_up);
            transaction.delete_table(State::new(&name)).map_err(error("give up an install"))?;
        }
        let next = generation(&transaction, group)?.map_or(1, |present| present + 1);
        let name = table(group, next);
        drop(transaction.open_table(State::new(&name)).map_err(error("install"))?);
        transaction.commit().map_err(error("commit"))?;
        self.installs.insert(group, next);
        Ok(())
    }

    fn install(&mut self, group: GroupId, bulk: &Bulk) -> Result<(), EngineError> {
        let generation = *self.installs.get(&group).ok_or_else(not_begun)?;
        let transaction = self.begin(false)?;
        put(&transaction, &table(group, generation), bulk)?;
        transaction.commit().map_err(error("commit"))
    }

    fn finish_install(&mut self, group: GroupId, mark: &Bytes) -> Result<(), EngineError> {
        let next = self.installs.remove(&group).ok_or_else(not_begun)?;
        let transaction = self.begin(true)?;
        if let Some(present) = generation(&transaction, group)? {
            transaction.delete_table(State::new(&table(group, present))).map_err(error("install"))?;
        }
        {
            let mut groups = transaction.open_table(GROUPS).map_err(error("install"))?;
            groups.insert(group.0, (next, &mark[..])).map_err(error("install"))?;
        }
        transaction.commit().map_err(error("commit"))
    }

    fn compact(&mut self) -> Result<bool, EngineError> {
        let mut database = self.shared.0.write().unwrap_or_else(PoisonError::into_inner);
        match database.compact() {
            Ok(_) => Ok(true),
            Err(CompactionError::TransactionInProgress) => Ok(false),
            Err(source) => Err(error("compact")(source)),
        }
    }

    fn reader(&self) -> Arc<dyn EngineRead> {
        self.shared.clone()
    }
}

impl Shared {
    fn read(&self) -> RwLockReadGuard<'_, Database> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn begin(&self) -> Result<ReadTransaction, EngineError> {
        self.read().begin_read().map_err(error("read"))
    }

    /// The state's table and mark, as they stand together.
    fn state(&self, group: GroupId) -> Result<Option<(ReadOnlyState, Bytes)>, EngineError> {
        let transaction = self.begin()?;
        let groups = transaction.open_table(GROUPS).map_err(error("read"))?;
        let Some(found) = ReadableTable::get(&groups, group.0).map_err(error("read"))? else {
            return Ok(None);
        };
        let (generation, mark) = found.value();
        let state = transaction.open_table(State::new(&table(group, generation))).map_err(error("read"))?;
        Ok(Some((state, Bytes::copy_from_slice(mark))))
    }
}

impl EngineRead for Shared {
    fn groups(&self) -> Result<Vec<GroupId>, EngineError> {
        let groups = self.begin()?.open_table(GROUPS).map_err(error("read"))?;
        let ids = groups.iter().map_err(error("read"))?.map(|group| group.map(|(id, _)| GroupId(id.value())));
        ids.collect::<Result<_, _>>().map_err(error("read"))
    }

    fn mark(&self, group: GroupId) -> Result<Option<Bytes>, EngineError> {
        Ok(self.state(group)?.map(|(_, mark)| mark))
    }

    fn get(&self, group: GroupId, key: &[u8]) -> Result<Option<Bytes>, EngineError> {
        let Some((state, _)) = self.state(group)? else {
            return Ok(None);
        };
        let found = ReadableTable::get(&state, key).map_err(error("read"))?;
        Ok(found.map(|value| Bytes::copy_from_slice(value.value())))
    }

    fn view(&self, group: GroupId) -> Result<Option<View>, EngineError> {
        let Some((state, mark)) = self.state(group)? else {
            return Ok(None);
        };
        let entries = move || {
            let range = state.range_owned::<&[u8]>(..).map_err(error("read"))?;
            let entries = range.map(|entry| {
                let (key, value) = entry.map_err(error("read"))?;
                Ok((Bytes::copy_from_slice(key.value()), Bytes::copy_from_slice(value.value())))
            });
            Ok(Box::new(entries) as Entries)
        };
        Ok(Some(View::new(mark, entries)))
    }
}

/// Opens the file and reads all of it, against the checksums of its pages. Everything durable was committed in two phases, so that
/// what is damaged is an error: no earlier commit takes its place.
fn open_checked(path: &Path, cache_bytes: usize) -> Result<Database, EngineError> {
    let mut database = Builder::new().set_cache_size(cache_bytes).create(path).map_err(error("open"))?;
    database.check_integrity().map_err(error("open"))?;
    Ok(database)
}

/// The name of a state's table.
fn table(group: GroupId, generation: u64) -> String {
    format!("state-{:016x}-{generation:016x}", group.0)
}

fn generation(transaction: &WriteTransaction, group: GroupId) -> Result<Option<u64>, EngineError> {
    let groups = transaction.open_table(GROUPS).map_err(error("read"))?;
    let found = groups.get(group.0).map_err(error("read"))?;
    Ok(found.map(|found| found.value().0))
}

fn put(transaction: &WriteTransaction, table: &str, bulk: &Bulk) -> Result<(), EngineError> {
    let mut state = transaction.open_table(State::new(table)).map_err(error("write"))?;
    for (key, value) in bulk {
        match value {
            Some(value) => drop(state.insert(&key[..], &value[..]).map_err(error("write"))?),
            None => drop(state.remove(&key[..]).map_err(error("write"))?),
        }
    }
    Ok(())
}

fn error<E: Into<redb::Error>>(operation: &'static str) -> impl Fn(E) -> EngineError {
    move |source| {
        let source = source.into();
        if let redb::Error::Corrupted(what) = &source {
            return damaged(what);
        }
        let full = matches!(&source, redb::Error::Io(error) if error.kind() == std::io::ErrorKind::StorageFull);
        EngineError { operation, full, message: source.to_string() }
    }
}

fn damaged(what: &str) -> EngineError {
    let message = format!(
        "it is damaged: {what}. Move the data directory away, replace the disk if it reports errors, and let the node join again with \
         an empty directory: it is rebuilt from its peers"
    );
    EngineError { operation: "read what it holds", full: false, message }
}

fn newer(found: u64) -> EngineError {
    let message = format!("its format is {found}, and this program reads up to {ENGINE_FORMAT_VERSION}; start a newer concur");
    EngineError { operation: "open", full: false, message }
}

fn not_begun() -> EngineError {
    EngineError { operation: "install", full: false, message: "no install was begun".into() }
}
