//! A listener's side.

use crate::files::{self, Kept};
use crate::verify::Allowed;
use crate::{ClientName, Rules, Stream, TlsError, TlsOptions, dial, inspect};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use rustls::sign::CertifiedKey;
use rustls::{RootCertStore, ServerConfig};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;

/// How long a caller may take to agree on keys.
const HANDSHAKE_TIME_MAX: Duration = Duration::from_secs(5);

/// Handshakes under way at one listener; callers beyond that are cut.
const HANDSHAKES_MAX: usize = 512;

/// How often callers that were refused are told of in the log.
const TELL_INTERVAL: Duration = Duration::from_millis(200);

/// What a listener shows, and whom it takes.
#[derive(Debug)]
pub struct ServerTls {
    kept: Kept<ServerConfig>,
    /// Whether callers are who their certificates say.
    authenticates: bool,
    under_way: AtomicUsize,
    told: Mutex<Option<Instant>>,
}

impl ServerTls {
    /// Reads everything once.
    pub fn new(options: TlsOptions, rules: Rules) -> Result<Self, TlsError> {
        rules.check()?;
        let names = [&options.cert_file, &options.key_file, &options.trusted_ca_file, &options.crl_file];
        let files = names.into_iter().cloned().collect();
        let authenticates = options.client_cert_auth;
        let kept = Kept::new(files, move || configuration(&options, &rules))?;
        Ok(Self { kept, authenticates, under_way: AtomicUsize::new(0), told: Mutex::new(None) })
    }

    /// Agrees on keys with a caller, and says who it is if that is proven; nothing if it was refused, which is logged.
    pub async fn accept(self: Arc<Self>, stream: TcpStream, from: SocketAddr) -> Option<(Stream, Option<ClientName>)> {
        let count = self.under_way.fetch_add(1, Ordering::Relaxed);
        let agreed =
            if count < HANDSHAKES_MAX { self.clone().agree(stream).await } else { Err("too many handshakes are under way".into()) };
        self.under_way.fetch_sub(1, Ordering::Relaxed);
        agreed.map_err(|why| self.tell(from, &why)).ok()
    }

    async fn agree(self: Arc<Self>, stream: TcpStream) -> Result<(Stream, Option<ClientName>), String> {
        let own = self.clone();
        let looking = tokio::task::spawn_blocking(move || own.kept.get()).await;
        let configuration = looking.map_err(|_| "the node is stopping".to_owned())?;
        let agreeing = TlsAcceptor::from(configuration).accept(stream);
        let agreed = tokio::time::timeout(HANDSHAKE_TIME_MAX, agreeing).await.map_err(|_| "it did not agree on keys in time".to_owned())?;
        let stream = agreed.map_err(|error| said(&error))?;
        let shown = stream.get_ref().1.peer_certificates().and_then(<[_]>::first).filter(|_| self.authenticates);
        let name = shown.and_then(inspect::common_name).map(|name| ClientName(name.into()));
        Ok((Stream::Tls(Box::new(stream.into())), name))
    }

    fn tell(&self, from: SocketAddr, why: &str) {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        if told.is_none_or(|at| at.elapsed() >= TELL_INTERVAL) {
            *told = Some(Instant::now());
            tracing::warn!(%from, "a connection was refused: {why}");
        }
    }
}

/// What an error of a handshake means.
fn said(error: &std::io::Error) -> String {
    let tls = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    match tls {
        Some(rustls::Error::InvalidMessage(_)) => "it does not speak TLS, and this port does: the address is to begin with https://".into(),
        Some(rustls::Error::NoCertificatesPresented) => {
            "it showed no certificate, and this listener wants one that its authorities signed".into()
        }
        Some(rustls::Error::AlertReceived(alert)) => {
            format!("it refused what this listener shows ({alert:?}): the two trust other authorities, or names differ")
        }
        _ => error.to_string(),
    }
}

fn configuration(options: &TlsOptions, rules: &Rules) -> Result<ServerConfig, TlsError> {
    let builder = ServerConfig::builder_with_provider(rules.provider()).with_protocol_versions(&rules.versions());
    let builder = builder.map_err(|error| TlsError::Unknown { what: error.to_string(), known: "TLS1.2 and TLS1.3".into() })?;
    let builder = match verifier(options, rules)? {
        Some(verifier) => builder.with_client_cert_verifier(verifier),
        None => builder.with_no_client_auth(),
    };
    let (chain, key) = pair(&options.cert_file, &options.key_file, rules)?;
    let mismatch = |error: rustls::Error| mismatch(&options.cert_file, &options.key_file, &error);
    let mut configuration = builder.with_single_cert(chain, key).map_err(mismatch)?;
    configuration.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(configuration)
}

fn verifier(options: &TlsOptions, rules: &Rules) -> Result<Option<Arc<dyn ClientCertVerifier>>, TlsError> {
    let named = !options.trusted_ca_file.as_os_str().is_empty();
    if !named && !options.client_cert_auth {
        return Ok(None);
    }
    let roots: RootCertStore = dial::authorities(&options.trusted_ca_file)?;
    let mut builder = WebPkiClientVerifier::builder_with_provider(roots.into(), rules.provider());
    if !options.crl_file.as_os_str().is_empty() {
        let lists = files::revoked(&options.crl_file)?;
        builder = builder.with_crls(lists).only_check_end_entity_revocation().allow_unknown_revocation_status();
    }
    let path = if options.crl_file.as_os_str().is_empty() { &options.trusted_ca_file } else { &options.crl_file };
    let inner = builder.build().map_err(|error| TlsError::Unusable { path: path.clone(), why: error.to_string() })?;
    let (names, hosts) = (options.allowed_names.clone(), options.allowed_hosts.clone());
    Ok(Some(Arc::new(Allowed { inner, names, hosts })))
}

/// A certificate with what signed it, and its key.
pub(crate) fn pair(
    certificate: &Path,
    key: &Path,
    rules: &Rules,
) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>), TlsError> {
    let present = match (certificate.as_os_str().is_empty(), key.as_os_str().is_empty()) {
        (true, false) => Some(key),
        (false, true) => Some(certificate),
        _ => None,
    };
    if let Some(present) = present {
        return Err(TlsError::HalfAPair { present: present.display().to_string() });
    }
    let (chain, secret) = (files::certificates("certificate", certificate)?, files::key(key)?);
    let signing = rules.provider().key_provider.load_private_key(secret.clone_key()).map_err(|error| mismatch(certificate, key, &error))?;
    CertifiedKey::new(chain.clone(), signing).keys_match().map_err(|error| mismatch(certificate, key, &error))?;
    if let Some(why) = inspect::out_of_time(&chain[0], SystemTime::now()) {
        tracing::warn!(
            "warning[C068]: the certificate in {} {why}: whoever verifies it refuses. Replace the file; it is read again without a restart",
            certificate.display()
        );
    }
    Ok((chain, secret))
}

fn mismatch(certificate: &Path, key: &Path, error: &rustls::Error) -> TlsError {
    TlsError::KeyMismatch { key: key.into(), certificate: certificate.into(), why: error.to_string() }
}
