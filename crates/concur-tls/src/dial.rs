//! The side of whoever connects.

use crate::files::{self, Kept};
use crate::verify::Anyone;
use crate::{Rules, Stream, TlsError, TlsOptions, listen};
use http::Uri;
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore};
use std::io;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tower_service::Service;

/// Connects: to `https://` by TLS, to whatever else in the clear. The default one trusts the operating system's authorities and shows no
/// certificate.
#[derive(Debug, Clone, Default)]
pub struct Dialer(Option<Arc<Kept<ClientConfig>>>);

impl Dialer {
    /// One that trusts the authorities of `options` and shows its certificate. With `auto` and no authorities, or with
    /// `skip_verification`, it takes any server.
    pub fn new(options: TlsOptions, rules: Rules, skip_verification: bool) -> Result<Self, TlsError> {
        rules.check()?;
        let shown = if options.client_cert_file.as_os_str().is_empty() && options.client_key_file.as_os_str().is_empty() {
            (options.cert_file, options.key_file)
        } else {
            (options.client_cert_file, options.client_key_file)
        };
        let authorities = options.trusted_ca_file;
        let skip = skip_verification || (options.auto && authorities.as_os_str().is_empty());
        let files = vec![shown.0.clone(), shown.1.clone(), authorities.clone()];
        let kept = Kept::new(files, move || configuration(&shown.0, &shown.1, &authorities, skip, &rules))?;
        Ok(Self(Some(Arc::new(kept))))
    }

    /// What tonic's endpoints connect with.
    pub fn connector(&self) -> Connector {
        Connector(self.clone())
    }

    async fn connect(self, to: Uri) -> io::Result<Stream> {
        let host = to.host().unwrap_or_default().trim_matches(['[', ']']).to_owned();
        let secure = to.scheme_str() == Some("https");
        let port = to.port_u16().unwrap_or(if secure { 443 } else { 80 });
        let stream = TcpStream::connect((host.as_str(), port)).await?;
        stream.set_nodelay(true)?;
        if !secure {
            return Ok(Stream::Plain(stream));
        }
        let configuration = tokio::task::spawn_blocking(move || self.configuration()).await.map_err(io::Error::other)??;
        let name = ServerName::try_from(host).map_err(io::Error::other)?;
        let stream = TlsConnector::from(configuration).connect(name, stream).await?;
        Ok(Stream::Tls(Box::new(stream.into())))
    }

    fn configuration(&self) -> io::Result<Arc<ClientConfig>> {
        if let Some(kept) = &self.0 {
            return Ok(kept.get());
        }
        let none = Path::new("");
        configuration(none, none, none, false, &Rules::default()).map(Arc::new).map_err(io::Error::other)
    }
}

/// Connects to the URIs that it is given.
#[derive(Debug, Clone)]
pub struct Connector(Dialer);

impl Service<Uri> for Connector {
    type Response = TokioIo<Stream>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<TokioIo<Stream>>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, to: Uri) -> Self::Future {
        let dialer = self.0.clone();
        Box::pin(async move { dialer.connect(to).await.map(TokioIo::new) })
    }
}

fn configuration(certificate: &Path, key: &Path, ca: &Path, skip: bool, rules: &Rules) -> Result<ClientConfig, TlsError> {
    let provider = rules.provider();
    let builder = ClientConfig::builder_with_provider(provider.clone()).with_protocol_versions(&rules.versions());
    let builder = builder.map_err(|error| TlsError::Unknown { what: error.to_string(), known: "TLS1.2 and TLS1.3".into() })?;
    let builder = if skip {
        builder.dangerous().with_custom_certificate_verifier(Arc::new(Anyone(provider)))
    } else {
        builder.with_root_certificates(authorities(ca)?)
    };
    let mut configuration = if certificate.as_os_str().is_empty() && key.as_os_str().is_empty() {
        builder.with_no_client_auth()
    } else {
        let (chain, secret) = listen::pair(certificate, key, rules)?;
        let why = |error: rustls::Error| TlsError::KeyMismatch { key: key.into(), certificate: certificate.into(), why: error.to_string() };
        builder.with_client_auth_cert(chain, secret).map_err(why)?
    };
    configuration.alpn_protocols = vec![b"h2".to_vec()];
    Ok(configuration)
}

/// The authorities of a file, or the operating system's.
pub(crate) fn authorities(file: &Path) -> Result<RootCertStore, TlsError> {
    let mut store = RootCertStore::empty();
    if file.as_os_str().is_empty() {
        let loaded = rustls_native_certs::load_native_certs();
        store.add_parsable_certificates(loaded.certs);
        if store.is_empty() {
            let why = loaded.errors.first().map_or("none were found".into(), ToString::to_string);
            return Err(TlsError::NoAuthorities { flag: "--trusted-ca-file, --peer-trusted-ca-file or --cacert", why });
        }
        return Ok(store);
    }
    for certificate in files::certificates("authority's certificate", file)? {
        store.add(certificate).map_err(|error| TlsError::Unusable { path: file.into(), why: error.to_string() })?;
    }
    Ok(store)
}
