//! The `etcd` program, started as those who start etcd start it, and TLS between processes.

mod common;

use common::{LOOK_INTERVAL, PATIENCE, Process, Scratch, concur, free, page};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Instant;

fn etcd() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_etcd"));
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("ETCD_")) {
        command.env_remove(name);
    }
    command.env_remove("CONCUR_LOG").env_remove("NOTIFY_SOCKET");
    command
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// A node, its log, and how long it may take to say something.
struct Node {
    process: Process,
    log: PathBuf,
}

impl Node {
    fn start(command: Command, log: &Path) -> Self {
        Self { process: Process::start(command, log), log: log.into() }
    }

    fn said(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    fn wait_for(&mut self, what: &str) {
        let until = Instant::now() + PATIENCE;
        while !self.said().contains(what) {
            assert!(self.process.0.try_wait().unwrap().is_none() && Instant::now() < until, "{what}: {}", self.said());
            std::thread::sleep(LOOK_INTERVAL);
        }
    }
}

/// What a POST is answered with.
fn post(address: &str, path: &str, body: &str) -> String {
    let mut socket = std::net::TcpStream::connect(address).unwrap();
    write!(socket, "POST {path} HTTP/1.0\r\nContent-Length: {}\r\n\r\n{body}", body.len()).unwrap();
    let mut answer = String::new();
    socket.read_to_string(&mut answer).unwrap();
    answer
}

#[test]
fn it_starts_as_etcd_is_started() {
    let scratch = Scratch::new("etcd");
    let (client, peer, metrics, log) = (free(), free(), free(), scratch.0.join("log"));
    let (client_url, peer_url) = (format!("http://{client}"), format!("http://{peer}"));
    let mut command = etcd();
    command.args(["-name", "m1", "--data-dir"]).arg(scratch.0.join("m1.etcd"));
    command.args(["--listen-client-urls", &client_url, "-advertise-client-urls", &client_url]);
    command.args(["--listen-peer-urls", &peer_url, &format!("--initial-advertise-peer-urls={peer_url}")]);
    command.args(["--initial-cluster", &format!("m1={peer_url}"), "--initial-cluster-state", "new"]);
    command.args(["--initial-cluster-token", "tests", "--snapshot-count", "10000", "--pre-vote", "--logger=zap"]);
    command.args(["--listen-metrics-urls", &format!("http://{metrics}")]).env("ETCD_QUOTA_BACKEND_BYTES", "1073741824");
    let mut node = Node::start(command, &log);
    node.wait_for("\"msg\":\"ready to serve client requests\"");
    for line in node.said().lines() {
        let line: serde_json::Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
        assert!(line["level"].is_string() && line["ts"].is_string() && line["caller"].is_string(), "{line}");
    }
    assert!(node.said().contains("ignored: --pre-vote, --snapshot-count"), "{}", node.said());
    let put = post(&client, "/v3/kv/put", r#"{"key":"Zm9v","value":"YmFy"}"#);
    assert!(put.contains("\"revision\":\"2\""), "{put}");
    let got = concur().args(["get", "foo", "--endpoints", &client]).output().unwrap();
    assert!(text(&got.stdout).contains("bar"), "{}", text(&got.stdout));
    assert!(page(&client, "/version").contains("\"etcdserver\":\"3.7."));
    assert!(page(&metrics, "/metrics").contains("etcd_server_quota_backend_bytes 1073741824"));
    assert!(page(&metrics, "/health").contains("\"health\":\"true\""));
    assert!(post(&metrics, "/v3/kv/range", r#"{"key":"Zm9v"}"#).contains("404"), "only pages are served there");
    node.process.signal(rustix::process::Signal::TERM);
    assert!(node.process.0.wait().unwrap().success(), "{}", node.said());
}

#[test]
fn a_file_counts_alone_and_systemd_is_told() {
    let scratch = Scratch::new("etcd-file");
    let (client, peer, log) = (free(), free(), scratch.0.join("log"));
    let file = scratch.0.join("etcd.yaml");
    let yaml = format!(
        "name: y1\ndata-dir: {0}/y1\nlisten-client-urls: http://{client}\nadvertise-client-urls: http://{client}\n\
         listen-peer-urls: http://{peer}\ninitial-advertise-peer-urls: http://{peer}\ninitial-cluster: y1=http://{peer}\nlog-outputs: [stderr]\n",
        scratch.0.display()
    );
    std::fs::write(&file, yaml).unwrap();
    let socket = std::os::unix::net::UnixDatagram::bind(scratch.0.join("notify")).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut command = etcd();
    command.args(["--name", "ignored"]).arg("--config-file").arg(&file).env("NOTIFY_SOCKET", scratch.0.join("notify"));
    let _node = Node::start(command, &log);
    let mut said = [0; 64];
    let length = socket.recv(&mut said).unwrap();
    assert_eq!(&said[..length], b"READY=1");
    let members = post(&client, "/v3/cluster/member/list", "{}");
    assert!(members.contains("\"name\":\"y1\""), "{members}");
}

#[test]
fn what_it_cannot_do_is_refused_in_etcds_words() {
    let run = |arguments: &[&str]| etcd().args(arguments).stdin(Stdio::null()).output().unwrap();
    let said = |output: &Output| text(&output.stderr) + &text(&output.stdout);
    let unknown = run(&["--nmae", "x"]);
    assert_eq!(unknown.status.code(), Some(2));
    assert!(said(&unknown).contains("flag provided but not defined: -nmae"), "{}", said(&unknown));
    let version = run(&["--version"]);
    assert!(version.status.success() && said(&version).starts_with("etcd Version: 3.7."), "{}", said(&version));
    let other = run(&["--name", "a", "--initial-cluster", "b=http://127.0.0.1:1"]);
    assert_eq!(other.status.code(), Some(1));
    assert!(said(&other).contains("couldn't find local name"), "{}", said(&other));
    let open = run(&["--cert-file", "/nowhere", "--key-file", "/nowhere", "--listen-client-urls", "https://127.0.0.1:1"]);
    assert!(open.status.code() == Some(1) && said(&open).contains("C065"), "{}", said(&open));
}

/// Runs OpenSSL's program, which every machine that has a C compiler and curl has.
fn authority(directory: &Path) {
    let script = r#"set -e
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -keyout ca.key -out ca.pem -days 2 -subj /CN=ca 2> /dev/null
for name in server client; do
  openssl req -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -keyout $name.key -out $name.csr -subj /CN=$name 2> /dev/null
  printf 'subjectAltName=DNS:localhost,IP:127.0.0.1' > san
  openssl x509 -req -in $name.csr -CA ca.pem -CAkey ca.key -CAcreateserial -out $name.pem -days 2 -extfile san 2> /dev/null
done"#;
    let made = Command::new("sh").args(["-c", script]).current_dir(directory).output().expect("a shell");
    assert!(made.status.success(), "openssl could not make certificates: {}", text(&made.stderr));
}

#[test]
fn members_and_clients_speak_tls_and_plain_beside_it() {
    let scratch = Scratch::new("tls");
    authority(&scratch.0);
    let file = |name: &str| scratch.0.join(name).display().to_string();
    let (clients, plain, peers): (Vec<_>, Vec<_>, Vec<_>) =
        ((0..3).map(|_| free()).collect(), (0..3).map(|_| free()).collect(), (0..3).map(|_| free()).collect());
    let cluster = peers.iter().enumerate().map(|(i, peer)| format!("n{i}=https://{peer}")).collect::<Vec<_>>().join(",");
    let mut nodes = Vec::new();
    for i in 0..3 {
        let mut command = concur();
        command.arg("serve").args(["--name", &format!("n{i}"), "--data-dir", &file(&format!("n{i}")), "--log-segment-bytes", "1MiB"]);
        command.args(["--listen-client-urls", &format!("https://{},http://{}", clients[i], plain[i])]);
        command.args([
            "--advertise-client-urls",
            &format!("https://{}", clients[i]),
            "--listen-peer-urls",
            &format!("https://{}", peers[i]),
        ]);
        command.args(["--initial-cluster", &cluster, "--cert-file", &file("server.pem"), "--key-file", &file("server.key")]);
        command.args(["--trusted-ca-file", &file("ca.pem"), "--client-cert-auth", "--peer-client-cert-auth"]);
        command.args(["--peer-cert-file", &file("server.pem"), "--peer-key-file", &file("server.key")]);
        command.args(["--peer-trusted-ca-file", &file("ca.pem"), "--peer-cert-allowed-cn", "server"]);
        nodes.push(Node::start(command, &scratch.0.join(format!("log{i}"))));
    }
    nodes.iter_mut().for_each(|node| node.wait_for("ready to serve client requests"));
    let run = |arguments: &[&str], endpoint: &str, more: &[&str]| {
        concur().args(arguments).args(["--endpoints", endpoint, "--timeout", "20s"]).args(more).output().unwrap()
    };
    let (ca, cert, key) = (file("ca.pem"), file("client.pem"), file("client.key"));
    let with = ["--cacert", ca.as_str(), "--cert", cert.as_str(), "--key", key.as_str()];
    let put = run(&["put", "a", "1"], &clients[0], &with);
    assert!(put.status.success(), "{}", text(&put.stderr));
    for endpoint in [&clients[1], &clients[2]] {
        let got = run(&["get", "a"], &format!("https://{endpoint}"), &with);
        assert!(text(&got.stdout).contains('1'), "{}", text(&got.stderr));
    }
    let native = run(&["put", "b", "2", "-n", "default"], &format!("https://{}", clients[1]), &with);
    assert!(native.status.success(), "{}", text(&native.stderr));
    let got = run(&["get", "a"], &plain[0], &[]);
    assert!(text(&got.stdout).contains('1'), "a plain listener beside the other: {}", text(&got.stderr));
    let nameless = run(&["get", "a"], &format!("https://{}", clients[0]), &["--cacert", &ca]);
    assert_eq!(nameless.status.code(), Some(2), "{}", text(&nameless.stdout));
    let distrusting = run(&["get", "a"], &format!("https://{}", clients[0]), &["--cert", &cert, "--key", &key, "--cacert", &cert]);
    assert_eq!(distrusting.status.code(), Some(2), "{}", text(&distrusting.stdout));
    let members = run(&["members"], &clients[0], &with);
    assert!(text(&members.stdout).contains(&format!("https://{}", clients[0])), "{}", text(&members.stdout));
}

#[test]
fn certificates_that_nodes_make_are_enough_to_encrypt() {
    let scratch = Scratch::new("auto-tls");
    let (client, peer, log) = (free(), free(), scratch.0.join("log"));
    let mut command = etcd();
    command.arg("--data-dir").arg(scratch.0.join("data")).args(["--auto-tls", "--peer-auto-tls"]);
    command.args(["--listen-client-urls", &format!("https://{client}"), "--advertise-client-urls", &format!("https://{client}")]);
    command.args(["--listen-peer-urls", &format!("https://{peer}"), "--initial-advertise-peer-urls", &format!("https://{peer}")]);
    command.args(["--initial-cluster", &format!("default=https://{peer}")]);
    let mut node = Node::start(command, &log);
    node.wait_for("ready to serve client requests");
    let put = concur().args(["put", "a", "1", "--insecure-skip-tls-verify", "--endpoints", &client]).output().unwrap();
    assert!(put.status.success(), "{}", text(&put.stderr));
    let made = scratch.0.join("data/tls/clients/cert.pem").display().to_string();
    let got = concur().args(["get", "a", "--cacert", &made, "--endpoints", &client]).output().unwrap();
    assert!(text(&got.stdout).contains('1'), "{}", text(&got.stderr));
}
