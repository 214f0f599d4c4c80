//! The SHA-256 that etcd puts behind a snapshot. A copied database file has none: its size, in whole sectors, tells.

use crate::BoltError;
use sha2::{Digest, Sha256};
use std::io::{Read, Seek, SeekFrom, Write};

/// Bytes of the hash.
pub const HASH_BYTES: usize = 32;
/// A sector: databases are whole ones.
const SECTOR_BYTES: u64 = 512;
const READ_BYTES: usize = 256 << 10;

/// Whether a hash stands behind the database, and how long that is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sealed {
    /// Bytes of the database.
    pub bytes: u64,
    /// Whether the hash follows.
    pub hash: bool,
}

impl Sealed {
    /// What a file of this size is.
    pub fn of_size(bytes: u64) -> Self {
        let hash = bytes % SECTOR_BYTES == HASH_BYTES as u64;
        Self { bytes: if hash { bytes - HASH_BYTES as u64 } else { bytes }, hash }
    }

    /// Reads the whole file and compares its hash. An error if it has none.
    pub fn check(self, file: &mut (impl Read + Seek)) -> Result<(), BoltError> {
        if !self.hash {
            return Err(BoltError::NoHash);
        }
        file.seek(SeekFrom::Start(0))?;
        let (mut hash, mut left, mut buffer) = (Sha256::new(), self.bytes, vec![0; READ_BYTES]);
        while left > 0 {
            let part = &mut buffer[..usize::try_from(left).unwrap_or(READ_BYTES).min(READ_BYTES)];
            file.read_exact(part)?;
            hash.update(&*part);
            left -= part.len() as u64;
        }
        let mut trailer = [0; HASH_BYTES];
        file.read_exact(&mut trailer)?;
        if hash.finalize()[..] == trailer { Ok(()) } else { Err(BoltError::OtherHash) }
    }
}

/// Hashes what passes through it.
#[derive(Debug)]
pub struct Hashing<W> {
    out: W,
    hash: Sha256,
}

impl<W: Write> Hashing<W> {
    /// Writes to `out`.
    pub fn new(out: W) -> Self {
        Self { out, hash: Sha256::new() }
    }

    /// The hash of everything that was written, and what it was written to.
    pub fn finish(self) -> ([u8; HASH_BYTES], W) {
        (self.hash.finalize().into(), self.out)
    }
}

impl<W: Write> Write for Hashing<W> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let count = self.out.write(bytes)?;
        self.hash.update(&bytes[..count]);
        Ok(count)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.out.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Cursor;

    #[test]
    fn a_hash_is_found_by_the_size_and_checked() {
        let mut hashing = Hashing::new(Vec::new());
        hashing.write_all(&[7; 4096]).unwrap();
        let (hash, mut file) = hashing.finish();
        file.extend(hash);
        let sealed = Sealed::of_size(file.len() as u64);
        assert_eq!(sealed, Sealed { bytes: 4096, hash: true });
        sealed.check(&mut Cursor::new(&file)).unwrap();
        for at in [0, 4095, 4096, 4127] {
            let mut damaged = file.clone();
            damaged[at] ^= 1;
            assert!(matches!(sealed.check(&mut Cursor::new(damaged)), Err(BoltError::OtherHash)), "{at}");
        }
        assert!(matches!(Sealed::of_size(4096).check(&mut Cursor::new(&file)), Err(BoltError::NoHash)));
        assert!(matches!(Sealed::of_size(8192 + 32).check(&mut Cursor::new(&file)), Err(BoltError::Io(_))));
    }
}
