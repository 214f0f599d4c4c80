//! How connections are encrypted, and whose are taken.
//!
//! An address that begins with `https://` is served by TLS, and dialled by TLS; one without stays in the clear beside it. Clients and peers
//! have files of their own, so that a client's authority lets nobody vote.

use concur_server::node::Listeners;
use concur_tls::{Dialer, Rules, ServerTls, TlsError, TlsOptions, host_port, is_tls, self_signed};
use std::path::Path;
use std::sync::Arc;

/// How connections are encrypted, and whose are taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Security {
    /// Clients' connections.
    pub client: TlsOptions,
    /// Peers' connections.
    pub peer: TlsOptions,
    /// Versions and suites.
    pub rules: Rules,
    /// For how many years a certificate counts that a node makes itself.
    pub self_signed_years: u32,
}

impl Default for Security {
    fn default() -> Self {
        Self { client: TlsOptions::default(), peer: TlsOptions::default(), rules: Rules::default(), self_signed_years: 1 }
    }
}

/// What a node's listeners and connections need.
pub(crate) struct Tls {
    client: Option<Arc<ServerTls>>,
    peer: Option<Arc<ServerTls>>,
    pub(crate) dialer: Dialer,
}

impl Security {
    /// Reads the files, and makes what is to be made in `directory`. Where nothing asks for TLS, no file is looked at.
    pub(crate) fn open(&self, directory: &Path, client: &[String], peer: &[String], members: &[String]) -> Result<Tls, TlsError> {
        let mut peers = self.peer.clone();
        let peer = self.listener(&mut peers, "peers", "peer-", peer, directory)?;
        let mut clients = self.client.clone();
        let client = self.listener(&mut clients, "clients", "", client, directory)?;
        let dials = peer.is_some() || members.iter().any(|address| is_tls(address));
        let dialer = if dials { Dialer::new(peers, self.rules.clone(), false)? } else { Dialer::default() };
        if peer.is_some() && self.peer.trusted_ca_file.as_os_str().is_empty() && !self.peer.client_cert_auth {
            tracing::warn!(
                "whoever reaches the peers' port may speak there: have certificates asked for (--peer-client-cert-auth, --peer-trusted-ca-file)"
            );
        }
        Ok(Tls { client, peer, dialer })
    }

    fn listener(
        &self,
        options: &mut TlsOptions,
        whom: &'static str,
        prefix: &'static str,
        addresses: &[String],
        directory: &Path,
    ) -> Result<Option<Arc<ServerTls>>, TlsError> {
        let Some(first) = addresses.iter().find(|address| is_tls(address)) else { return Ok(None) };
        if !options.has_certificate() {
            if !options.auto {
                return Err(TlsError::NoCertificate { address: first.clone(), whom, prefix });
            }
            let hosts = hosts(addresses);
            (options.cert_file, options.key_file) = self_signed(&directory.join("tls").join(whom), &hosts, self.self_signed_years)?;
        }
        ServerTls::new(options.clone(), self.rules.clone()).map(Arc::new).map(Some)
    }
}

impl Tls {
    pub(crate) fn bind_clients(&self, addresses: &[String]) -> Result<Listeners, concur_server::node::NodeError> {
        Listeners::bind(addresses.iter().map(String::as_str), self.client.as_ref())
    }

    pub(crate) fn bind_peers(&self, addresses: &[String]) -> Result<Listeners, concur_server::node::NodeError> {
        Listeners::bind(addresses.iter().map(String::as_str), self.peer.as_ref())
    }
}

/// The hosts of addresses, and this machine as it calls itself.
fn hosts(addresses: &[String]) -> Vec<String> {
    let host = |address: &String| host_port(address).rsplit_once(':').map(|(host, _)| host.trim_matches(['[', ']']).to_owned());
    let own = ["localhost", "127.0.0.1", "::1"].map(str::to_owned);
    let mut hosts: Vec<String> = addresses.iter().filter_map(host).chain(own).collect();
    hosts.sort_unstable();
    hosts.dedup();
    hosts
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Document, System, Version};

    const FILE: &str = "
[security]
tls_version_min = \"TLS1.3\"
self_signed_years = 2

[security.client]
cert_file = \"c.pem\"
key_file = \"c.key\"
trusted_ca_file = \"ca.pem\"
client_cert_auth = true

[security.peer]
auto = true
allowed_names = [\"peer\"]

[[members]]
name = \"n1\"
peer = \"https://10.0.0.1:2380\"
client = \"https://10.0.0.1:2379\"
";

    #[test]
    fn a_file_says_how_connections_are_encrypted() {
        let security = System::from_toml(FILE).expect("beyond loopback, but by TLS").security;
        assert_eq!((security.rules.version_min, security.self_signed_years), (Version::V13, 2));
        assert!(security.client.client_cert_auth && security.peer.auto);
        assert_eq!(
            (security.client.trusted_ca_file.as_path(), &security.peer.allowed_names[..]),
            (Path::new("ca.pem"), &["peer".to_owned()][..])
        );
        let found = |text: &str| Document::read(text).findings().iter().map(|finding| finding.code).collect::<Vec<_>>();
        assert!(found(&FILE.replace("key_file = \"c.key\"\n", "")).contains(&"C064"), "half a pair");
        assert!(found(&FILE.replace("auto = true\n", "")).contains(&"C064"), "no certificate for peers");
        assert!(found(&FILE.replace("[security.client]", "cipher_suites = [\"RC4\"]\n[security.client]")).contains(&"C069"));
        assert!(found(&FILE.replace("https://10.0.0.1:2379", "10.0.0.1:2379")).contains(&"C060"), "in the clear");
    }

    #[test]
    fn certificates_that_are_made_are_for_where_a_node_listens() {
        let hosts = hosts(&["https://[::1]:1".into(), "https://n1.test:2".into(), "127.0.0.1:3".into()]);
        assert_eq!(hosts, ["127.0.0.1", "::1", "localhost", "n1.test"]);
    }
}
