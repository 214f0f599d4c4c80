//! The flags of TLS, named as etcd's.

use crate::exit::{Exit, Failure, Outcome};
use clap::{Args, ValueEnum};
use concur::{Security, TlsOptions, Version};
use std::path::PathBuf;

/// TLS for clients and for peers; which listeners speak it is said by their URLs
#[derive(Debug, Default, Args)]
#[command(next_help_heading = "TLS")]
pub(crate) struct TlsFlags {
    /// The certificate that is shown to clients, with what signed it behind it
    #[arg(long, env = "CONCUR_CERT_FILE", value_name = "FILE")]
    cert_file: Option<PathBuf>,
    /// Its key
    #[arg(long, env = "CONCUR_KEY_FILE", value_name = "FILE")]
    key_file: Option<PathBuf>,
    /// Take only clients that show a certificate; they are who it says
    #[arg(long, env = "CONCUR_CLIENT_CERT_AUTH")]
    client_cert_auth: bool,
    /// The authorities that clients' certificates must be signed by
    #[arg(long, env = "CONCUR_TRUSTED_CA_FILE", value_name = "FILE")]
    trusted_ca_file: Option<PathBuf>,
    /// Certificates of clients that count no more
    #[arg(long, env = "CONCUR_CLIENT_CRL_FILE", value_name = "FILE")]
    client_crl_file: Option<PathBuf>,
    /// Host names of clients' certificates that are taken
    #[arg(long, env = "CONCUR_CLIENT_CERT_ALLOWED_HOSTNAME", value_name = "HOST,…", value_delimiter = ',')]
    client_cert_allowed_hostname: Vec<String>,
    /// Show clients a certificate that this node makes: it encrypts, and proves nothing
    #[arg(long, env = "CONCUR_AUTO_TLS")]
    auto_tls: bool,
    /// The certificate that is shown to peers
    #[arg(long, env = "CONCUR_PEER_CERT_FILE", value_name = "FILE")]
    peer_cert_file: Option<PathBuf>,
    /// Its key
    #[arg(long, env = "CONCUR_PEER_KEY_FILE", value_name = "FILE")]
    peer_key_file: Option<PathBuf>,
    /// The certificate that is shown to peers that are dialled, if it is another
    #[arg(long, env = "CONCUR_PEER_CLIENT_CERT_FILE", value_name = "FILE")]
    peer_client_cert_file: Option<PathBuf>,
    /// Its key
    #[arg(long, env = "CONCUR_PEER_CLIENT_KEY_FILE", value_name = "FILE")]
    peer_client_key_file: Option<PathBuf>,
    /// Take only peers that show a certificate
    #[arg(long, env = "CONCUR_PEER_CLIENT_CERT_AUTH")]
    peer_client_cert_auth: bool,
    /// The authorities that peers' certificates must be signed by
    #[arg(long, env = "CONCUR_PEER_TRUSTED_CA_FILE", value_name = "FILE")]
    peer_trusted_ca_file: Option<PathBuf>,
    /// Certificates of peers that count no more
    #[arg(long, env = "CONCUR_PEER_CRL_FILE", value_name = "FILE")]
    peer_crl_file: Option<PathBuf>,
    /// Common names of peers' certificates that are taken
    #[arg(long, env = "CONCUR_PEER_CERT_ALLOWED_CN", value_name = "NAME,…", value_delimiter = ',')]
    peer_cert_allowed_cn: Vec<String>,
    /// Host names of peers' certificates that are taken
    #[arg(long, env = "CONCUR_PEER_CERT_ALLOWED_HOSTNAME", value_name = "HOST,…", value_delimiter = ',')]
    peer_cert_allowed_hostname: Vec<String>,
    /// Show peers a certificate that this node makes, and verify none
    #[arg(long, env = "CONCUR_PEER_AUTO_TLS")]
    peer_auto_tls: bool,
    /// For how many years a certificate counts that this node makes [default: 1]
    #[arg(long, env = "CONCUR_SELF_SIGNED_CERT_VALIDITY", value_name = "YEARS")]
    self_signed_cert_validity: Option<u32>,
    /// Cipher suites that are spoken [default: all that are sound]
    #[arg(long, env = "CONCUR_CIPHER_SUITES", value_name = "NAME,…", value_delimiter = ',')]
    cipher_suites: Vec<String>,
    /// The oldest version that is spoken [default: TLS1.2]
    #[arg(long, env = "CONCUR_TLS_MIN_VERSION", value_enum, value_name = "VERSION")]
    tls_min_version: Option<TlsVersion>,
    /// The newest version that is spoken [default: TLS1.3]
    #[arg(long, env = "CONCUR_TLS_MAX_VERSION", value_enum, value_name = "VERSION")]
    tls_max_version: Option<TlsVersion>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum TlsVersion {
    #[value(name = "TLS1.2")]
    V12,
    #[value(name = "TLS1.3")]
    V13,
}

impl TlsVersion {
    fn version(self) -> Version {
        match self {
            Self::V12 => Version::V12,
            Self::V13 => Version::V13,
        }
    }
}

impl TlsFlags {
    /// Puts what the flags say over what a file says.
    pub(crate) fn over(&self, security: &mut Security) -> Outcome {
        self.over_clients(&mut security.client);
        self.over_peers(&mut security.peer);
        security.self_signed_years = self.self_signed_cert_validity.unwrap_or(security.self_signed_years);
        let rules = &mut security.rules;
        listed(&mut rules.cipher_suites, &self.cipher_suites);
        rules.version_min = self.tls_min_version.map_or(rules.version_min, TlsVersion::version);
        rules.version_max = self.tls_max_version.map_or(rules.version_max, TlsVersion::version);
        rules.check().map_err(|error| Failure::new(Exit::Invalid, error.to_string()))
    }

    fn over_clients(&self, tls: &mut TlsOptions) {
        named(&mut tls.cert_file, self.cert_file.as_ref());
        named(&mut tls.key_file, self.key_file.as_ref());
        named(&mut tls.trusted_ca_file, self.trusted_ca_file.as_ref());
        named(&mut tls.crl_file, self.client_crl_file.as_ref());
        tls.client_cert_auth |= self.client_cert_auth;
        tls.auto |= self.auto_tls;
        listed(&mut tls.allowed_hosts, &self.client_cert_allowed_hostname);
    }

    fn over_peers(&self, tls: &mut TlsOptions) {
        named(&mut tls.cert_file, self.peer_cert_file.as_ref());
        named(&mut tls.key_file, self.peer_key_file.as_ref());
        named(&mut tls.client_cert_file, self.peer_client_cert_file.as_ref());
        named(&mut tls.client_key_file, self.peer_client_key_file.as_ref());
        named(&mut tls.trusted_ca_file, self.peer_trusted_ca_file.as_ref());
        named(&mut tls.crl_file, self.peer_crl_file.as_ref());
        tls.client_cert_auth |= self.peer_client_cert_auth;
        tls.auto |= self.peer_auto_tls;
        listed(&mut tls.allowed_names, &self.peer_cert_allowed_cn);
        listed(&mut tls.allowed_hosts, &self.peer_cert_allowed_hostname);
    }
}

fn named(path: &mut PathBuf, flag: Option<&PathBuf>) {
    if let Some(flag) = flag {
        path.clone_from(flag);
    }
}

fn listed(list: &mut Vec<String>, flag: &[String]) {
    if !flag.is_empty() {
        *list = flag.to_vec();
    }
}
