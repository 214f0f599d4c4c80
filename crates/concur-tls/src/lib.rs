//! TLS for listeners and for those who dial: certificates from files that may change, and what is verified.
//!
//! [`TlsOptions`] names files, as etcd's flags do; [`ServerTls`] is a listener's side of them and [`Dialer`] the side of whoever
//! connects. Both look at their files at each handshake, in a thread for what may block: a certificate, key, list of authorities or of
//! revoked certificates that was replaced counts from the next connection on, and connections that there are go on. Files that cannot be
//! used (half of a pair replaced, say) are told once and the last good ones stay.
//!
//! A listener that names authorities takes only callers whose certificate one of them signed, that is not revoked, and whose names are
//! allowed; [`ServerTls::accept`] tells the verified common name ([`ClientName`]) where the listener is told to authenticate by it. Who
//! dials verifies the name that it dialled. [`self_signed`] makes a certificate that encrypts and proves nothing.
//!
//! Protocols are TLS 1.2 and 1.3 by rustls on ring. A handshake has a time limit, and refusals of callers are logged with their
//! address, a few a second.
//!
//! What is not here: whether TLS is asked for (the addresses say), HTTP, and what a name may do.

mod dial;
mod error;
mod files;
mod inspect;
mod listen;
mod rules;
mod signed;
mod stream;
mod verify;

use std::path::PathBuf;

pub use dial::{Connector, Dialer};
pub use error::TlsError;
pub use listen::ServerTls;
pub use rules::{Rules, Version};
pub use signed::self_signed;
pub use stream::Stream;

/// The scheme of an address that is reached by TLS.
pub const HTTPS: &str = "https://";

/// The common name of a client's certificate, which an authority signed. In the extensions of each of its requests, where the listener
/// authenticates clients by their certificates.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ClientName(pub std::sync::Arc<str>);

/// The files of one kind of connection, clients' or peers'. An empty path is no file.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TlsOptions {
    /// The certificate that listeners show, with what signed it behind it; PEM.
    pub cert_file: PathBuf,
    /// Its key; PEM.
    pub key_file: PathBuf,
    /// The certificate that is shown when dialling; empty: the listeners'.
    pub client_cert_file: PathBuf,
    /// Its key.
    pub client_key_file: PathBuf,
    /// The authorities that others' certificates are to be signed by; PEM. Empty: the operating system's. A listener that is given
    /// some takes nobody without a certificate.
    pub trusted_ca_file: PathBuf,
    /// Whether callers must show a certificate, and are who it says they are.
    pub client_cert_auth: bool,
    /// Certificates that count no more; PEM or DER.
    pub crl_file: PathBuf,
    /// Whether listeners without a certificate make one themselves, and those who dial do not verify.
    pub auto: bool,
    /// Common names of callers that are taken; none: all.
    pub allowed_names: Vec<String>,
    /// Host names of callers' certificates that are taken; none: all.
    pub allowed_hosts: Vec<String>,
}

impl TlsOptions {
    /// Whether there is something to show.
    pub fn has_certificate(&self) -> bool {
        !self.cert_file.as_os_str().is_empty() || !self.key_file.as_os_str().is_empty()
    }
}

/// Whether an address is reached by TLS.
pub fn is_tls(address: &str) -> bool {
    address.starts_with(HTTPS)
}

/// `host:port` of an address, with or without a scheme.
pub fn host_port(address: &str) -> &str {
    let bare = address.strip_prefix(HTTPS).or_else(|| address.strip_prefix("http://")).unwrap_or(address);
    bare.trim_end_matches('/')
}

/// The URL of an address.
pub fn url(address: &str) -> String {
    if is_tls(address) { address.to_owned() } else { format!("http://{}", host_port(address)) }
}

/// The address that a URL names: `host:port`, or with `https://` before it.
pub fn address(url: &str) -> String {
    if is_tls(url) { format!("{HTTPS}{}", host_port(url)) } else { host_port(url).to_owned() }
}
