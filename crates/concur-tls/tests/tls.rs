//! Listeners and those who dial, over real sockets, with certificates that the tests make.

use concur_tls::{ClientName, Dialer, Rules, ServerTls, Stream, TlsError, TlsOptions, self_signed};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CertifiedIssuer, DnType, IsCa, KeyIdMethod, KeyPair,
    KeyUsagePurpose, RevokedCertParams, SerialNumber,
};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use time::{Duration, OffsetDateTime};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tower_service::Service;

/// A directory for a test; it goes, unless the test failed.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("concur-tls-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }
}

/// An authority, whose certificates lie in a directory.
struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    directory: PathBuf,
    name: String,
}

impl Authority {
    fn new(directory: &Path, name: &str) -> Self {
        let mut parameters = CertificateParams::new(Vec::new()).unwrap();
        parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        parameters.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        parameters.distinguished_name.push(DnType::CommonName, name);
        let issuer = CertifiedIssuer::self_signed(parameters, KeyPair::generate().unwrap()).unwrap();
        std::fs::write(directory.join(format!("{name}.pem")), issuer.pem()).unwrap();
        Self { issuer, directory: directory.into(), name: name.into() }
    }

    fn file(&self) -> PathBuf {
        self.directory.join(format!("{}.pem", self.name))
    }

    /// Signs a certificate; it and its key are in files called so.
    fn sign(&self, file: &str, common_name: &str, host: &str, serial: u64) -> (PathBuf, PathBuf) {
        let key = KeyPair::generate().unwrap();
        let mut parameters = CertificateParams::new(vec![host.to_owned()]).unwrap();
        parameters.distinguished_name.push(DnType::CommonName, common_name);
        parameters.serial_number = Some(SerialNumber::from(serial));
        parameters.not_before = OffsetDateTime::now_utc() - Duration::hours(1);
        let certificate = parameters.signed_by(&key, &self.issuer).unwrap();
        let paths = (self.directory.join(format!("{file}.crt")), self.directory.join(format!("{file}.key")));
        std::fs::write(&paths.0, certificate.pem()).unwrap();
        std::fs::write(&paths.1, key.serialize_pem()).unwrap();
        paths
    }
}

fn options(pair: &(PathBuf, PathBuf), authority: Option<&Authority>) -> TlsOptions {
    let trusted_ca_file = authority.map(Authority::file).unwrap_or_default();
    TlsOptions { cert_file: pair.0.clone(), key_file: pair.1.clone(), trusted_ca_file, ..TlsOptions::default() }
}

/// A listener that echoes, and who was let in.
async fn listen(tls: ServerTls) -> (SocketAddr, mpsc::UnboundedReceiver<Option<ClientName>>) {
    let (listener, tls) = (TcpListener::bind("127.0.0.1:0").await.unwrap(), Arc::new(tls));
    let address = listener.local_addr().unwrap();
    let (let_in, names) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Ok((stream, from)) = listener.accept().await {
            let (tls, let_in) = (tls.clone(), let_in.clone());
            tokio::spawn(async move {
                let Some((mut stream, name)) = tls.accept(stream, from).await else { return };
                let _ = let_in.send(name);
                let mut byte = [0];
                while stream.read_exact(&mut byte).await.is_ok() && stream.write_all(&byte).await.is_ok() {}
            });
        }
    });
    (address, names)
}

fn dialer(options: TlsOptions) -> Dialer {
    Dialer::new(options, Rules::default(), false).unwrap()
}

async fn dial(dialer: &Dialer, to: SocketAddr) -> Result<Stream, String> {
    let uri = format!("https://localhost:{}", to.port()).parse().unwrap();
    let mut stream = dialer.connector().call(uri).await.map_err(|error| error.to_string())?.into_inner();
    // With TLS 1.3 a caller is refused behind its own handshake.
    echo(&mut stream).await.map_err(|error| error.to_string())?;
    Ok(stream)
}

async fn echo(stream: &mut Stream) -> std::io::Result<()> {
    stream.write_all(b"x").await?;
    stream.read_exact(&mut [0]).await.map(drop)
}

/// The serial number of what a server showed.
fn shown(stream: &Stream) -> Vec<u8> {
    let Stream::Tls(stream) = stream else { panic!("it is in the clear") };
    stream.get_ref().1.peer_certificates().unwrap()[0].to_vec()
}

#[tokio::test]
async fn both_sides_prove_who_they_are() {
    let scratch = Scratch::new("both");
    let (ca, other) = (Authority::new(&scratch.0, "ca"), Authority::new(&scratch.0, "other"));
    let server = ca.sign("server", "server", "localhost", 1);
    let tls = ServerTls::new(TlsOptions { client_cert_auth: true, ..options(&server, Some(&ca)) }, Rules::default()).unwrap();
    let (address, mut names) = listen(tls).await;
    let alice = ca.sign("alice", "alice", "client", 2);
    dial(&dialer(options(&alice, Some(&ca))), address).await.unwrap();
    assert_eq!(names.recv().await, Some(Some(ClientName("alice".into()))));
    let none = TlsOptions { trusted_ca_file: ca.file(), ..TlsOptions::default() };
    dial(&dialer(none), address).await.expect_err("no certificate");
    let mallory = other.sign("mallory", "alice", "client", 3);
    let forged = TlsOptions { trusted_ca_file: ca.file(), ..options(&mallory, None) };
    dial(&dialer(forged), address).await.expect_err("another authority's certificate");
    let error = dial(&dialer(options(&alice, Some(&other))), address).await.expect_err("a server that another authority signed");
    assert!(error.contains("UnknownIssuer"), "{error}");
    let elsewhere = ca.sign("elsewhere", "server", "elsewhere", 4);
    let (address, _names) = listen(ServerTls::new(options(&elsewhere, None), Rules::default()).unwrap()).await;
    let error = dial(&dialer(options(&alice, Some(&ca))), address).await.expect_err("a server of another name");
    assert!(error.contains("not valid for name"), "{error}");
}

#[tokio::test]
async fn names_and_revoked_certificates_are_looked_at() {
    let scratch = Scratch::new("names");
    let ca = Authority::new(&scratch.0, "ca");
    let server = ca.sign("server", "server", "localhost", 1);
    let crl = scratch.0.join("crl.pem");
    let now = OffsetDateTime::now_utc();
    let revoked = |serial: u64| RevokedCertParams {
        serial_number: SerialNumber::from(serial),
        revocation_time: now,
        reason_code: None,
        invalidity_date: None,
    };
    let list = |serials: &[u64]| {
        let parameters = CertificateRevocationListParams {
            this_update: now - Duration::hours(1),
            next_update: now + Duration::hours(1),
            crl_number: SerialNumber::from(1),
            issuing_distribution_point: None,
            revoked_certs: serials.iter().map(|serial| revoked(*serial)).collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        std::fs::write(&crl, parameters.signed_by(&ca.issuer).unwrap().pem().unwrap()).unwrap();
    };
    list(&[7]);
    let allowed = |names: &[&str], hosts: &[&str]| TlsOptions {
        crl_file: crl.clone(),
        allowed_names: names.iter().map(|name| (*name).to_owned()).collect(),
        allowed_hosts: hosts.iter().map(|host| (*host).to_owned()).collect(),
        ..options(&server, Some(&ca))
    };
    let (alice, bob) = (ca.sign("alice", "alice", "a.test", 2), ca.sign("bob", "bob", "b.test", 7));
    let (alice, bob) = (dialer(options(&alice, Some(&ca))), dialer(options(&bob, Some(&ca))));
    let (address, _names) = listen(ServerTls::new(allowed(&[], &[]), Rules::default()).unwrap()).await;
    dial(&alice, address).await.unwrap();
    dial(&bob, address).await.expect_err("a revoked certificate");
    list(&[2, 7]);
    dial(&alice, address).await.expect_err("one that was revoked meanwhile");
    list(&[]);
    for (names, hosts, alices, bobs) in
        [(&["alice"][..], &[][..], true, false), (&[], &["b.test"], false, true), (&["x"], &[], false, false)]
    {
        let (address, _names) = listen(ServerTls::new(allowed(names, hosts), Rules::default()).unwrap()).await;
        assert_eq!(dial(&alice, address).await.is_ok(), alices, "{names:?} {hosts:?}");
        assert_eq!(dial(&bob, address).await.is_ok(), bobs, "{names:?} {hosts:?}");
    }
}

#[tokio::test]
async fn files_that_are_replaced_count_from_the_next_connection_on() {
    let scratch = Scratch::new("rotate");
    let ca = Authority::new(&scratch.0, "ca");
    let server = ca.sign("server", "first", "localhost", 1);
    let (address, _names) = listen(ServerTls::new(options(&server, None), Rules::default()).unwrap()).await;
    let dialer = dialer(TlsOptions { trusted_ca_file: ca.file(), ..TlsOptions::default() });
    let mut before = dial(&dialer, address).await.unwrap();
    ca.sign("server", "second", "localhost", 2);
    let after = dial(&dialer, address).await.unwrap();
    assert_ne!(shown(&before), shown(&after));
    echo(&mut before).await.expect("a connection that there is goes on");
    // Half of a pair, and no certificate at all: the last good ones stay.
    ca.sign("another", "another", "localhost", 3);
    std::fs::copy(scratch.0.join("another.crt"), &server.0).unwrap();
    assert_eq!(shown(&dial(&dialer, address).await.unwrap()), shown(&after));
    std::fs::remove_file(&server.0).unwrap();
    assert_eq!(shown(&dial(&dialer, address).await.unwrap()), shown(&after));
    std::fs::copy(scratch.0.join("another.crt"), &server.0).unwrap();
    std::fs::copy(scratch.0.join("another.key"), &server.1).unwrap();
    assert_ne!(shown(&dial(&dialer, address).await.unwrap()), shown(&after));
    // Whom the caller trusts is read again too.
    let next = Authority::new(&scratch.0, "ca");
    next.sign("server", "third", "localhost", 4);
    dial(&dialer, address).await.unwrap();
}

#[tokio::test]
async fn who_says_nothing_keeps_nobody_waiting() {
    let scratch = Scratch::new("silent");
    let ca = Authority::new(&scratch.0, "ca");
    let server = ca.sign("server", "server", "localhost", 1);
    let (address, _names) = listen(ServerTls::new(options(&server, None), Rules::default()).unwrap()).await;
    let mut silent = Vec::new();
    for _ in 0..32 {
        silent.push(tokio::net::TcpStream::connect(address).await.unwrap());
    }
    silent[0].write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    let dialer = dialer(TlsOptions { trusted_ca_file: ca.file(), ..TlsOptions::default() });
    dial(&dialer, address).await.unwrap();
}

#[tokio::test]
async fn a_certificate_that_is_made_encrypts_and_proves_nothing() {
    let scratch = Scratch::new("made");
    let hosts = ["localhost".to_owned(), "127.0.0.1".to_owned()];
    let pair = self_signed(&scratch.0.join("tls"), &hosts, 1).unwrap();
    let made = std::fs::read(&pair.0).unwrap();
    assert_eq!(self_signed(&scratch.0.join("tls"), &hosts, 1).unwrap(), pair);
    assert_eq!(std::fs::read(&pair.0).unwrap(), made, "the one that there is stays");
    let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&pair.1).unwrap().permissions());
    assert_eq!(mode & 0o077, 0, "nobody else reads the key");
    let (address, _names) = listen(ServerTls::new(options(&pair, None), Rules::default()).unwrap()).await;
    let automatic = TlsOptions { auto: true, ..TlsOptions::default() };
    dial(&dialer(automatic), address).await.unwrap();
    dial(&Dialer::new(TlsOptions::default(), Rules::default(), true).unwrap(), address).await.unwrap();
    dial(&dialer(TlsOptions { trusted_ca_file: pair.0, ..TlsOptions::default() }), address).await.expect("it can be trusted by name");
}

#[test]
fn wrong_files_are_refused_with_what_to_do() {
    let scratch = Scratch::new("wrong");
    let ca = Authority::new(&scratch.0, "ca");
    let (one, two) = (ca.sign("one", "one", "localhost", 1), ca.sign("two", "two", "localhost", 2));
    let text = scratch.0.join("text");
    std::fs::write(&text, "not a certificate").unwrap();
    let missing = scratch.0.join("missing");
    let refused = |certificate: &Path, key: &Path, authority: &Path| -> String {
        let options =
            TlsOptions { cert_file: certificate.into(), key_file: key.into(), trusted_ca_file: authority.into(), ..TlsOptions::default() };
        let error: TlsError = ServerTls::new(options, Rules::default()).unwrap_err();
        error.to_string()
    };
    let none = Path::new("");
    for (said, parts) in [
        (refused(&missing, &one.1, none), ["C065", "missing"]),
        (refused(&text, &one.1, none), ["C066", "BEGIN CERTIFICATE"]),
        (refused(&one.1, &one.1, none), ["C066", "only a private key"]),
        (refused(&one.0, &one.0, none), ["C066", "BEGIN PRIVATE KEY"]),
        (refused(&one.0, &two.1, none), ["C067", "does not go with"]),
        (refused(&one.0, none, none), ["C064", "one.crt"]),
        (refused(&one.0, &one.1, &text), ["C066", "authority"]),
    ] {
        assert!(parts.iter().all(|part| said.contains(part)), "{said}");
    }
}
