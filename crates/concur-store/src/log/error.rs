//! What can go wrong with a log, and what its owner should do.

use std::io;

use thiserror::Error;

/// Content that was durable and is not as it was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage {
    /// The segment.
    pub segment: u64,
    /// Bytes from the segment's beginning.
    pub offset: u64,
    /// What was found there.
    pub what: &'static str,
}

/// Why the log cannot be opened or go on. Each says what to do.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum LogError {
    /// Durable content is gone or changed: the disk, or somebody, altered it.
    #[error(
        "the log is damaged in segment {:016x} at offset {}: {}. What this node has promised is no longer known, so it must not vote. \
         Move the data directory away, replace the disk if it reports errors, and let the node join again with an empty directory: \
         it is rebuilt from its peers",
        .0.segment, .0.offset, .0.what
    )]
    Damage(Damage),

    /// The log belongs to another node.
    #[error(
        "the log belongs to node {:016x} of cluster {:016x}, not to node {:016x} of cluster {:016x}. \
         Start the node with its own data directory",
        found.node, found.cluster, expected.node, expected.cluster
    )]
    Foreign {
        /// Whose it is.
        found: super::LogIdentity,
        /// Who opened it.
        expected: super::LogIdentity,
    },

    /// The log was written by a newer program.
    #[error("segment {segment:016x} has log format {found}, and this program reads up to {supported}. Start a newer concur on this data")]
    Newer {
        /// The segment.
        segment: u64,
        /// Its version.
        found: u32,
        /// The newest version that this program reads.
        supported: u32,
    },

    /// The log should exist and does not.
    #[error(
        "the log is gone: its directory holds no segments, though this node has run before. What it has promised is no longer known. \
         Bring the files back, or let the node join again with an empty data directory"
    )]
    Missing,

    /// There is no room for another segment. Nothing is lost, and the call may be tried again.
    #[error(
        "the disk is full: the log needs a segment of {needed_bytes} bytes. Free space on the data directory's filesystem; \
         the node serves reads until then"
    )]
    Full {
        /// Bytes that are missing.
        needed_bytes: u64,
    },

    /// The disk refused an operation. The log is poisoned.
    #[error(
        "the disk failed to {operation} segment {segment:016x} of the log ({kind}): {message}. \
         The node must stop; check the disk before starting it again"
    )]
    Failed {
        /// What was asked of the disk.
        operation: &'static str,
        /// Of which segment.
        segment: u64,
        /// The operating system's error.
        kind: io::ErrorKind,
        /// In its own words.
        message: String,
    },

    /// The options cannot be met.
    #[error("a log cannot have {what}: {value}")]
    Options {
        /// Which option.
        what: &'static str,
        /// Its value.
        value: u64,
    },
}

impl LogError {
    pub(super) fn damage(segment: u64, offset: u64, what: &'static str) -> LogError {
        LogError::Damage(Damage { segment, offset, what })
    }

    pub(super) fn failed(operation: &'static str, segment: u64, error: &io::Error) -> LogError {
        LogError::Failed { operation, segment, kind: error.kind(), message: error.to_string() }
    }
}
