//! A cluster that begins from etcd's file: the way in.
//!
//! The store goes on at the next revision, in an epoch of its own. Its leases' clock begins when the new cluster first leads: what was
//! left of a lease in the file is left of it then.

use super::snapshot::PART_BYTES;
use super::{EtcdSummary, FORCED_EPOCHS, FileError, FileOptions, OfflineError};
use crate::etcd_file;
use bytes::Bytes;
use concur_core::{Epoch, GroupId};
use concur_peers::Configuration;
use concur_replica::{kept_key, stand_first};
use concur_store::engine::{Bulk, Engine, EngineError, RedbEngine};
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;

/// Whether it is etcd's file, by its beginning.
pub(super) fn is_one(file: &mut File) -> std::io::Result<bool> {
    let mut beginning = Vec::new();
    file.take(32).read_to_end(&mut beginning)?;
    file.seek(SeekFrom::Start(0))?;
    Ok(etcd_file::is_one(&beginning))
}

/// Reads a whole file and says what it holds.
pub(super) fn examine(path: &Path, file: File, options: FileOptions) -> Result<EtcdSummary, OfflineError> {
    etcd_file::examine(file, options).map_err(|error| OfflineError::Etcd { path: path.to_owned(), error })
}

/// Puts the store of a file into a group that begins with these members. Leases have what is left of them from `logged_ms` on.
pub(super) fn install(
    engine: &mut RedbEngine,
    group: GroupId,
    path: &Path,
    summary: &EtcdSummary,
    founding: Configuration,
    logged_ms: u64,
) -> Result<Configuration, OfflineError> {
    // No term that a client has seen of etcd comes again.
    let after = Configuration { epoch: Epoch(FORCED_EPOCHS), term_base: summary.term.max(FORCED_EPOCHS), ..founding };
    let failed = |failed| match failed {
        Failed::File(error) => OfflineError::Etcd { path: path.to_owned(), error },
        Failed::Engine(error) => error.into(),
    };
    put_all(engine, group, path, summary, &after, logged_ms).map_err(failed)?;
    Ok(after)
}

fn put_all(
    engine: &mut RedbEngine,
    group: GroupId,
    path: &Path,
    summary: &EtcdSummary,
    after: &Configuration,
    logged_ms: u64,
) -> Result<(), Failed> {
    engine.begin_install(group)?;
    let file = File::open(path).map_err(FileError::from)?;
    let (mut part, mut bytes) = (Bulk::new(), 0);
    etcd_file::Import::new(file, summary)?.entries(logged_ms, |key: Bytes, value: Bytes| -> Result<(), Failed> {
        bytes += key.len() + value.len();
        part.push((kept_key(&key), Some(value)));
        if bytes >= PART_BYTES {
            engine.install(group, &std::mem::take(&mut part))?;
            bytes = 0;
        }
        Ok(())
    })?;
    let head = stand_first(after);
    let mark = head.last().map(|(_, mark)| mark.clone()).unwrap_or_default();
    part.extend(head.into_iter().map(|(key, value)| (key, Some(value))));
    engine.install(group, &part)?;
    Ok(engine.finish_install(group, &mark)?)
}

enum Failed {
    File(FileError),
    Engine(EngineError),
}

impl From<FileError> for Failed {
    fn from(error: FileError) -> Self {
        Self::File(error)
    }
}

impl From<EngineError> for Failed {
    fn from(error: EngineError) -> Self {
        Self::Engine(error)
    }
}
