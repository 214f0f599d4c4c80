//! One node as a process: what it refuses, how it stops, and what it says.

mod common;

use common::{PATIENCE, Process, Scratch, concur, free, page};
use concur_proto::etcdserverpb::auth_client::AuthClient;
use concur_proto::etcdserverpb::cluster_client::ClusterClient;
use concur_proto::etcdserverpb::{
    AuthEnableRequest, AuthStatusRequest, AuthUserAddRequest, AuthUserGrantRoleRequest, AuthenticateRequest, MemberAddRequest,
    MemberRemoveRequest,
};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Instant;

/// A node alone, killed when it is dropped.
struct Alone {
    process: Process,
    client: String,
    log: PathBuf,
}

fn serve(directory: &Path, client: &str) -> Command {
    let peer = free();
    let mut command = concur();
    command.arg("serve").args(["--name", "n1", "--log-segment-bytes", "1MiB"]).arg("--data-dir").arg(directory.join("data"));
    command.args(["--listen-client-urls", &format!("http://{client}"), "--listen-peer-urls", &format!("http://{peer}")]);
    command
}

impl Alone {
    fn start(scratch: &Scratch) -> Self {
        let (client, log) = (free(), scratch.0.join("log"));
        let _ = std::fs::remove_file(&log);
        let process = Process::start(serve(&scratch.0, &client), &log);
        let mut alone = Self { process, client, log };
        alone.wait_for("ready to serve client requests");
        alone
    }

    fn said(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    fn wait_for(&mut self, text: &str) {
        let until = Instant::now() + PATIENCE;
        while !self.said().contains(text) {
            assert!(self.process.0.try_wait().unwrap().is_none() && Instant::now() < until, "{}", self.said());
            std::thread::yield_now();
        }
    }

    fn page(&self, path: &str) -> String {
        page(&self.client, path)
    }

    fn run(&self, arguments: &[&str]) -> Output {
        concur().args(arguments).args(["--endpoints", &self.client]).output().unwrap()
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[track_caller]
fn refused(output: &Output, code: i32, words: &[&str]) {
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{said}");
    for word in words {
        assert!(said.contains(word), "{word:?} is not in: {said}");
    }
}

#[test]
fn what_was_acknowledged_is_there_after_kill_and_after_a_graceful_stop() {
    let scratch = Scratch::new("again");
    let alone = Alone::start(&scratch);
    assert!(alone.run(&["put", "a", "1"]).status.success());
    assert!(alone.page("/readyz").contains("ok"), "{}", alone.page("/readyz"));
    assert!(alone.page("/metrics").contains("concur_"));
    drop(alone);

    let mut alone = Alone::start(&scratch);
    assert!(text(&alone.run(&["get", "a"]).stdout).contains("1"));
    assert!(alone.run(&["put", "b", "2"]).status.success());
    alone.process.signal(rustix::process::Signal::TERM);
    let status = alone.process.0.wait().unwrap();
    assert!(status.success(), "{status}: {}", alone.said());
    assert!(alone.said().contains("stopped"));

    let alone = Alone::start(&scratch);
    assert!(text(&alone.run(&["get", "b"]).stdout).contains("2"));
}

#[test]
fn a_directory_has_one_owner_and_one_system() {
    let scratch = Scratch::new("owner");
    let alone = Alone::start(&scratch);
    let second = serve(&scratch.0, &free()).output().unwrap();
    refused(&second, 1, &["in use by another concur process"]);
    drop(alone);
    for strategy in concur::registry().iter().filter(|s| s.traits.name != concur::registry()[0].traits.name) {
        let other = serve(&scratch.0, &free()).args(["--strategy", strategy.traits.name]).output().unwrap();
        refused(&other, 3, &["C061", "strategy", "empty data directory"]);
    }
}

#[test]
fn a_log_that_was_changed_is_refused_with_what_to_do() {
    let scratch = Scratch::new("damage");
    let alone = Alone::start(&scratch);
    for i in 0..20 {
        assert!(alone.run(&["put", "k", &format!("{i}")]).status.success());
    }
    drop(alone);
    let segments = std::fs::read_dir(scratch.0.join("data/log")).unwrap().map(|entry| entry.unwrap().path());
    let first = segments.filter(|path| path.extension().is_some_and(|e| e == "wal")).min().unwrap();
    let mut bytes = std::fs::read(&first).unwrap();
    // Inside a record that later ones say is durable.
    bytes[4096 * 4 + 80] ^= 1;
    std::fs::write(&first, bytes).unwrap();
    let damaged = serve(&scratch.0, &free()).output().unwrap();
    refused(&damaged, 1, &["damaged", "must not vote", "Move the data directory away"]);
}

#[test]
fn a_state_that_was_changed_is_refused_with_what_to_do() {
    let scratch = Scratch::new("changed");
    let mut alone = Alone::start(&scratch);
    assert!(alone.run(&["put", "k", "a value that is looked for"]).status.success());
    alone.process.signal(rustix::process::Signal::TERM);
    assert!(alone.process.0.wait().unwrap().success());
    let state = scratch.0.join("data/state.redb");
    let mut bytes = std::fs::read(&state).unwrap();
    // All copies of it: one that the tree does not hold any longer is of no consequence.
    let value = b"a value that is looked for";
    let places: Vec<usize> = (0..bytes.len() - value.len()).filter(|&at| bytes[at..].starts_with(value)).collect();
    places.iter().for_each(|&at| bytes[at] ^= 1);
    assert!(!places.is_empty());
    std::fs::write(&state, bytes).unwrap();
    let damaged = serve(&scratch.0, &free()).output().unwrap();
    refused(&damaged, 1, &["damaged", "Move the data directory away"]);
}

#[test]
fn listening_beyond_this_machine_needs_a_word() {
    let scratch = Scratch::new("beyond");
    let mut command = concur();
    command.arg("serve").arg("--data-dir").arg(scratch.0.join("data")).args(["--listen-client-urls", "http://0.0.0.0:0"]);
    refused(&command.output().unwrap(), 3, &["C060", "--insecure"]);
    let wrong = concur().args(["serve", "--listen-client-urls", "https://127.0.0.1:1"]).output().unwrap();
    refused(&wrong, 3, &["C064", "--cert-file"]);
    let unknown = concur().args(["serve", "--strategy", "rafft"]).output().unwrap();
    refused(&unknown, 3, &["C005", "rafft"]);
}

/// The processes whose command line has this text.
fn processes_with(text: &str) -> usize {
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let line = |entry: std::fs::DirEntry| std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
    entries.map(line).filter(|line| String::from_utf8_lossy(line).contains(text)).count()
}

#[test]
fn a_demo_that_is_killed_takes_its_nodes_along_and_the_next_sweeps() {
    let mut demo = concur().arg("demo").stdout(Stdio::piped()).stdin(Stdio::null()).spawn().unwrap();
    let directory = std::env::temp_dir().join(format!("concur-demo-{}", demo.id()));
    let mut said = String::new();
    let mut out = demo.stdout.take().unwrap();
    let mut buffer = [0; 256];
    while !said.contains("yours now") {
        let n = out.read(&mut buffer).unwrap();
        assert!(n > 0, "{said}");
        said.push_str(&text(&buffer[..n]));
    }
    assert!(!said.contains("missing"), "{said}");
    assert!(processes_with(&directory.to_string_lossy()) >= 3, "{said}");
    demo.kill().unwrap();
    demo.wait().unwrap();
    let until = Instant::now() + PATIENCE;
    while processes_with(&directory.to_string_lossy()) > 0 {
        assert!(Instant::now() < until, "nodes outlive their demo");
        std::thread::yield_now();
    }
    assert!(directory.exists());
    let once = concur().args(["demo", "--once"]).output().unwrap();
    assert!(once.status.success(), "{}{}", text(&once.stdout), text(&once.stderr));
    assert!(!directory.exists(), "the next demo sweeps");
}

#[test]
fn changes_over_etcds_api_are_taken_one_right_behind_another() {
    let scratch = Scratch::new("changes");
    let alone = Alone::start(&scratch);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let mut client = ClusterClient::connect(format!("http://{}", alone.client)).await.unwrap();
        for port in 1..=5 {
            let peer_ur_ls = vec![format!("http://127.0.0.1:{port}")];
            let added = client.member_add(MemberAddRequest { peer_ur_ls, is_learner: true }).await.unwrap().into_inner();
            assert_eq!(added.members.len(), 2);
            let id = added.member.unwrap().id;
            let left = client.member_remove(MemberRemoveRequest { id }).await.unwrap().into_inner();
            assert_eq!(left.members.len(), 1);
        }
    });
}

#[test]
fn users_are_there_after_kill_and_their_tokens_are_asked_for_again() {
    let scratch = Scratch::new("users");
    let alone = Alone::start(&scratch);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let enter = || AuthenticateRequest { name: "root".into(), password: "secret".into() };
    runtime.block_on(async {
        let mut client = AuthClient::connect(format!("http://{}", alone.client)).await.unwrap();
        let add = AuthUserAddRequest { name: "root".into(), password: "secret".into(), ..Default::default() };
        client.user_add(add).await.unwrap();
        client.user_grant_role(AuthUserGrantRoleRequest { user: "root".into(), role: "root".into() }).await.unwrap();
        client.auth_enable(AuthEnableRequest {}).await.unwrap();
        client.authenticate(enter()).await.unwrap();
    });
    drop(alone);
    let again = Alone::start(&scratch);
    refused(&again.run(&["put", "a", "1"]), 3, &["user name is empty"]);
    refused(&again.run(&["put", "a", "1", "--user", "root:wrong"]), 3, &["authentication failed"]);
    assert!(again.run(&["put", "a", "1", "--user", "root:secret"]).status.success());
    assert!(again.run(&["status", "--user", "root:secret"]).status.success());
    // Over the native API too.
    assert!(!again.run(&["put", "a", "2", "--namespace", "default"]).status.success());
    let native = again.run(&["put", "a", "2", "--namespace", "default", "--user", "root:secret"]);
    assert!(native.status.success(), "{}", String::from_utf8_lossy(&native.stderr));
    runtime.block_on(async {
        let mut client = AuthClient::connect(format!("http://{}", again.client)).await.unwrap();
        let status = client.auth_status(AuthStatusRequest {}).await.unwrap().into_inner();
        assert!(status.enabled && status.auth_revision == 3, "{status:?}");
        client.authenticate(enter()).await.unwrap();
    });
}
