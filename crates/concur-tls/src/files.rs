//! Reading files, and noticing that they changed.

use crate::TlsError;
use rustls::pki_types::pem::{PemObject, SectionKind};
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

/// The largest file that is read.
const FILE_BYTES_MAX: u64 = 8 << 20;

/// The certificates of a file, the first one first.
pub(crate) fn certificates(what: &'static str, path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let bytes = read(what, path)?;
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&bytes).collect();
    match found {
        Ok(certificates) if !certificates.is_empty() => Ok(certificates),
        _ => Err(not_pem(what, path, &bytes, "-----BEGIN CERTIFICATE-----")),
    }
}

/// The key of a file.
pub(crate) fn key(path: &Path) -> Result<PrivateKeyDer<'static>, TlsError> {
    let bytes = read("key", path)?;
    PrivateKeyDer::from_pem_slice(&bytes).map_err(|_| not_pem("key", path, &bytes, "-----BEGIN PRIVATE KEY-----, not encrypted"))
}

/// The lists of revoked certificates of a file.
pub(crate) fn revoked(path: &Path) -> Result<Vec<CertificateRevocationListDer<'static>>, TlsError> {
    let bytes = read("list of revoked certificates", path)?;
    if bytes.first() == Some(&0x30) {
        return Ok(vec![CertificateRevocationListDer::from(bytes)]);
    }
    let found: Result<Vec<_>, _> = CertificateRevocationListDer::pem_slice_iter(&bytes).collect();
    match found {
        Ok(lists) if !lists.is_empty() => Ok(lists),
        _ => Err(not_pem("list of revoked certificates", path, &bytes, "-----BEGIN X509 CRL-----")),
    }
}

fn read(what: &'static str, path: &Path) -> Result<Vec<u8>, TlsError> {
    let unreadable = |source| TlsError::Unreadable { what, path: path.into(), source };
    let length = std::fs::metadata(path).map_err(unreadable)?.len();
    if length > FILE_BYTES_MAX {
        return Err(unreadable(std::io::Error::other(format!("it has {length} bytes"))));
    }
    std::fs::read(path).map_err(unreadable)
}

fn not_pem(what: &'static str, path: &Path, bytes: &[u8], expected: &'static str) -> TlsError {
    let kinds: Vec<&str> =
        <(SectionKind, Vec<u8>) as PemObject>::pem_slice_iter(bytes).map_while(Result::ok).map(|(kind, _)| name(kind)).collect();
    let found = if kinds.is_empty() { String::new() } else { format!(", only {}", kinds.join(" and ")) };
    TlsError::NotPem { what, path: path.into(), found, expected }
}

fn name(kind: SectionKind) -> &'static str {
    match kind {
        SectionKind::Certificate => "a certificate",
        SectionKind::PublicKey => "a public key",
        SectionKind::RsaPrivateKey | SectionKind::PrivateKey | SectionKind::EcPrivateKey => "a private key",
        SectionKind::Crl => "a list of revoked certificates",
        SectionKind::Csr => "a request for a certificate",
        _ => "something else",
    }
}

/// Which files were seen: their inode, size and time of change.
type Stamp = Vec<Option<(u64, u64, i64, i64)>>;

/// Something made from files, and made again when they changed.
pub(crate) struct Kept<T> {
    files: Vec<PathBuf>,
    make: Box<dyn Fn() -> Result<T, TlsError> + Send + Sync>,
    current: Mutex<(Stamp, Arc<T>)>,
}

impl<T> std::fmt::Debug for Kept<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Kept").field("files", &self.files).finish_non_exhaustive()
    }
}

impl<T> Kept<T> {
    /// Makes it for the first time.
    pub(crate) fn new(files: Vec<PathBuf>, make: impl Fn() -> Result<T, TlsError> + Send + Sync + 'static) -> Result<Self, TlsError> {
        let files: Vec<PathBuf> = files.into_iter().filter(|file| !file.as_os_str().is_empty()).collect();
        // Looked at before they are read, so that a change in between is seen the next time.
        let stamp = stamp(&files);
        let first = Arc::new(make()?);
        Ok(Self { files, make: Box::new(make), current: Mutex::new((stamp, first)) })
    }

    /// It, made again if a file changed; the last good one while the files cannot be used. May block on files.
    pub(crate) fn get(&self) -> Arc<T> {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        let stamp = stamp(&self.files);
        if stamp != current.0 {
            current.0 = stamp;
            match (self.make)() {
                Ok(made) => {
                    tracing::info!(files = ?self.files, "certificates were replaced, and count from now on");
                    current.1 = Arc::new(made);
                }
                Err(error) => tracing::warn!("certificates were replaced and cannot be used; the last ones stay: {error}"),
            }
        }
        current.1.clone()
    }
}

fn stamp(files: &[PathBuf]) -> Stamp {
    let look = |file: &PathBuf| std::fs::metadata(file).ok().map(|data| (data.ino(), data.len(), data.mtime(), data.mtime_nsec()));
    files.iter().map(look).collect()
}
