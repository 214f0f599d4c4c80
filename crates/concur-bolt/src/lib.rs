//! Database files of bbolt, the store under etcd: what its snapshots are made of.
//!
//! A file is pages of one size. Each begins with its number, its kind, how many elements it has and how many pages follow that belong
//! to it (a large value overflows). Pages 0 and 1 are *metas*, of which the valid one with the higher transaction counts: it names the
//! root. From the root on, *branch* pages lead to *leaf* pages, all in the order of keys. The leaves of the root hold *buckets*: each a
//! tree of its own, or, if it is small, a leaf that is written in place of a page's number.
//!
//! | part | bytes, all numbers little-endian |
//! | --- | --- |
//! | page | number (8), kind (2), elements (2), overflow (4), elements, keys and values |
//! | meta | magic (4), version (4), page size (4), flags (4), root (8), sequence (8), free list (8), pages (8), transaction (8), FNV-1a (8) |
//! | leaf element | flags (4), where the key is from here (4), length of the key (4), of the value (4) |
//! | branch element | where the key is from here (4), length of the key (4), page (8) |
//! | bucket | root (8), sequence (8), and if the root is 0 a leaf page |
//!
//! [`Writer`] makes a file from sorted entries in one pass and keeps one page a level of the tree in memory. The metas come first and
//! say where the root will be, so a file is written twice: to nowhere for its [`Layout`], then out. [`Reader`] reads one, from wherever
//! it comes: every number is checked before it is used, no page is visited twice, and what is not as it must be is an error that names
//! the page. [`Sealed`] and [`seal`](trailer::Hashing) know the SHA-256 that etcd puts behind a snapshot.
//!
//! Left out: changing a file in place, free pages, buckets within buckets (etcd has none), and any knowledge of what the buckets mean.

mod reader;
pub mod trailer;
mod writer;

pub use reader::{Entries, Reader};
pub use trailer::Sealed;
pub use writer::{BucketWriter, Layout, Writer};

use std::io;

/// The size of the pages that are written.
pub const PAGE_BYTES: usize = 4096;
/// No key is longer, by bbolt's rule.
pub const KEY_BYTES_MAX: usize = 32768;
/// No value is longer here. What clients may send to etcd is far smaller.
pub const VALUE_BYTES_MAX: usize = 256 << 20;

const MAGIC: u32 = 0xED0C_DAED;
const VERSION: u32 = 2;
const PAGE_HEADER: usize = 16;
const META: usize = 64;
const ELEMENT: usize = 16;
const BUCKET_HEADER: usize = 16;

const BRANCH: u16 = 0x01;
const LEAF: u16 = 0x02;
const META_PAGE: u16 = 0x04;
const FREE_LIST: u16 = 0x10;

/// A leaf's element that is a bucket.
const IS_BUCKET: u32 = 0x01;

/// Why a file cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum BoltError {
    /// The file failed.
    #[error("the file failed: {0}")]
    Io(#[from] io::Error),
    /// Neither of its first two pages begins a database.
    #[error("it is not a bbolt database")]
    NotOne,
    /// It was changed since it was written, or never was whole.
    #[error("page {page} is damaged: {what}")]
    Damaged {
        /// The page.
        page: u64,
        /// What was found.
        what: &'static str,
    },
    /// The trailer is not the hash of what is before it.
    #[error("its SHA-256 is not that of its contents")]
    OtherHash,
    /// There is no trailer.
    #[error("it has no SHA-256 behind it")]
    NoHash,
    /// What was to be written cannot be.
    #[error("it cannot be written: {0}")]
    Unwritable(&'static str),
}

/// FNV-1a, by which a meta page is checked.
fn fnv(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, &byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}
