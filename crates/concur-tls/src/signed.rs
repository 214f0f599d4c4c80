//! Certificates that a node makes itself: they encrypt, and prove nothing.

use crate::{TlsError, files, inspect};
use rcgen::{CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, KeyPair};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::SystemTime;
use time::{Duration, OffsetDateTime};

/// A certificate for these hosts, and its key, in files of `directory`: those that are there if they still count, else new ones that
/// count for `years`.
pub fn self_signed(directory: &Path, hosts: &[String], years: u32) -> Result<(PathBuf, PathBuf), TlsError> {
    let (certificate, key) = (directory.join("cert.pem"), directory.join("key.pem"));
    let counts = |chain: Vec<_>| chain.first().is_some_and(|first| inspect::out_of_time(first, SystemTime::now()).is_none());
    if files::certificates("certificate", &certificate).is_ok_and(counts) && files::key(&key).is_ok() {
        return Ok((certificate, key));
    }
    let making = |error: rcgen::Error| TlsError::Making(error.to_string());
    let pair = KeyPair::generate().map_err(making)?;
    let mut parameters = CertificateParams::new(hosts.to_vec()).map_err(making)?;
    let mut name = DistinguishedName::new();
    name.push(DnType::OrganizationName, "concur");
    parameters.distinguished_name = name;
    let now = OffsetDateTime::now_utc();
    (parameters.not_before, parameters.not_after) = (now - Duration::hours(1), now + Duration::days(365 * i64::from(years.clamp(1, 100))));
    parameters.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    let made = parameters.self_signed(&pair).map_err(making)?;
    let written = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(directory);
    let written =
        written.and_then(|()| write(&key, pair.serialize_pem().as_bytes())).and_then(|()| write(&certificate, made.pem().as_bytes()));
    written.map_err(|source| TlsError::Unreadable { what: "directory of certificates", path: directory.into(), source })?;
    Ok((certificate, key))
}

/// Writes a file that only its owner reads, in place of what was there.
fn write(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let next = path.with_extension("new");
    let mut file = std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&next)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    std::fs::rename(&next, path)
}
