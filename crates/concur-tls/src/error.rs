//! What can be wrong with files, and what to do.

use std::path::PathBuf;

/// Why TLS cannot be set up. Each says what to do.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A listener is to speak TLS and has nothing to show.
    #[error(
        "error[C064]: {address} asks for TLS, and there is no certificate for {whom}. Name one and its key (--{prefix}cert-file, \
         --{prefix}key-file), or say --{prefix}auto-tls for one that encrypts and proves nothing"
    )]
    NoCertificate {
        /// The listener.
        address: String,
        /// `clients` or `peers`.
        whom: &'static str,
        /// What their flags begin with.
        prefix: &'static str,
    },
    /// One of certificate and key is not named.
    #[error("error[C064]: a certificate goes with its key: name both ({present} is named alone)")]
    HalfAPair {
        /// The one that is.
        present: String,
    },
    /// A file cannot be read.
    #[error("error[C065]: {what} cannot be read: {}: {source}. Correct the path, or its permissions for this user", path.display())]
    Unreadable {
        /// What it should hold.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// The operating system's answer.
        source: std::io::Error,
    },
    /// A file holds something else.
    #[error("error[C066]: there is no {what} in {}{found}. It must be PEM: {expected}", path.display())]
    NotPem {
        /// What it should hold.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// What was found in its place, or empty.
        found: String,
        /// The line that it begins with.
        expected: &'static str,
    },
    /// The key is another certificate's, or of a kind that is not spoken.
    #[error(
        "error[C067]: the key in {} does not go with the certificate in {}: {why}. Name the key that the certificate was made for",
        key.display(),
        certificate.display()
    )]
    KeyMismatch {
        /// The key's file.
        key: PathBuf,
        /// The certificate's.
        certificate: PathBuf,
        /// What was found.
        why: String,
    },
    /// The authorities, or the list of revoked certificates, cannot be used.
    #[error("error[C066]: what {} holds cannot be used: {why}", path.display())]
    Unusable {
        /// The file.
        path: PathBuf,
        /// What was found.
        why: String,
    },
    /// There is no authority to trust.
    #[error(
        "error[C064]: no authority is named, and the operating system knows none ({why}): name a file of them ({flag}), or install your \
         system's certificates"
    )]
    NoAuthorities {
        /// The flag that names them.
        flag: &'static str,
        /// Why the system's are missing.
        why: String,
    },
    /// A cipher suite or a version that is not spoken.
    #[error("error[C069]: {what}; there are {known}")]
    Unknown {
        /// What was asked for.
        what: String,
        /// What there is.
        known: String,
    },
    /// A certificate could not be made.
    #[error("a certificate could not be made: {0}")]
    Making(String),
}
