//! `concur serve`: one node of a cluster, from a file or from etcd's flags.

mod front;
mod tls;

use crate::config;
use crate::exit::{Exit, Failure, Outcome};
use clap::{Args, ValueEnum};
use concur::{AuthOptions, DecisionMaking, Document, Member, NodeError, Retention, RunError, Serving, System, parse_duration};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};

/// Run one node of a cluster
///
/// The cluster is described by a file, or by the flags that etcd has. Logs go to standard error; the filter is CONCUR_LOG.
#[derive(Debug, Args)]
pub(crate) struct Serve {
    /// The description of the system, in TOML
    #[arg(long, env = "CONCUR_CONFIG", value_name = "FILE", conflicts_with_all = ["initial_cluster", "initial_advertise_peer_urls"])]
    config: Option<PathBuf>,
    /// Which member this node is
    #[arg(long, env = "CONCUR_NAME", value_name = "NAME")]
    name: Option<String>,
    /// Where it keeps its data [default: NAME.concur]
    #[arg(long, env = "CONCUR_DATA_DIR", value_name = "DIRECTORY")]
    data_dir: Option<PathBuf>,
    /// Where it listens for clients
    #[arg(long, env = "CONCUR_LISTEN_CLIENT_URLS", value_name = "URL,…", value_delimiter = ',')]
    listen_client_urls: Vec<String>,
    /// Where it listens for peers
    #[arg(long, env = "CONCUR_LISTEN_PEER_URLS", value_name = "URL,…", value_delimiter = ',')]
    listen_peer_urls: Vec<String>,
    /// Where clients reach it
    #[arg(long, env = "CONCUR_ADVERTISE_CLIENT_URLS", value_name = "URL,…", value_delimiter = ',')]
    advertise_client_urls: Vec<String>,
    /// Where peers reach it
    #[arg(long, env = "CONCUR_INITIAL_ADVERTISE_PEER_URLS", value_name = "URL,…", value_delimiter = ',')]
    initial_advertise_peer_urls: Vec<String>,
    /// All members and where peers reach them
    #[arg(long, env = "CONCUR_INITIAL_CLUSTER", value_name = "NAME=URL,…", value_delimiter = ',')]
    initial_cluster: Vec<String>,
    /// Whether the cluster is new; a node with data goes on with it either way
    #[arg(long, env = "CONCUR_INITIAL_CLUSTER_STATE", value_enum, default_value = "new", value_name = "STATE")]
    initial_cluster_state: ClusterState,
    /// Tells clusters apart that have the same members
    #[arg(long, env = "CONCUR_INITIAL_CLUSTER_TOKEN", value_name = "TEXT")]
    initial_cluster_token: Option<String>,
    /// How replicas vote, as `concur strategies` names it; for a node without a file
    #[arg(long, env = "CONCUR_STRATEGY", value_name = "NAME", conflicts_with = "config")]
    strategy: Option<String>,
    /// How often an idle leader shows that it lives, in milliseconds or with a unit
    #[arg(long, env = "CONCUR_HEARTBEAT_INTERVAL", value_parser = millis, value_name = "TIME")]
    heartbeat_interval: Option<Duration>,
    /// How long silence lasts before somebody takes over, in milliseconds or with a unit
    #[arg(long, env = "CONCUR_ELECTION_TIMEOUT", value_parser = millis, value_name = "TIME")]
    election_timeout: Option<Duration>,
    /// How large the store may become, in bytes or with a unit
    #[arg(long, env = "CONCUR_QUOTA_BACKEND_BYTES", value_parser = size, value_name = "SIZE")]
    quota_backend_bytes: Option<u64>,
    /// What automatic compaction counts
    #[arg(long, env = "CONCUR_AUTO_COMPACTION_MODE", value_enum, default_value = "periodic", value_name = "MODE")]
    auto_compaction_mode: CompactionMode,
    /// What automatic compaction keeps: a time (hours without a unit), or so many revisions; 0 keeps everything
    #[arg(long, env = "CONCUR_AUTO_COMPACTION_RETENTION", default_value = "0", value_name = "TIME|COUNT")]
    auto_compaction_retention: String,
    /// How tokens of users are made: `simple`, or `jwt,sign-method=RS256,pub-key=FILE,priv-key=FILE,ttl=5m`
    #[arg(long, env = "CONCUR_AUTH_TOKEN", default_value = "simple", value_name = "KIND,…")]
    auth_token: String,
    /// How long a simple token lives after it was last shown, in seconds
    #[arg(long, env = "CONCUR_AUTH_TOKEN_TTL", default_value_t = 300, value_parser = clap::value_parser!(u64).range(1..), value_name = "SECONDS")]
    auth_token_ttl: u64,
    /// The cost of a hash of a password; each one more doubles it
    #[arg(long, env = "CONCUR_BCRYPT_COST", default_value_t = 10, value_parser = clap::value_parser!(u32).range(4..=31), value_name = "COST")]
    bcrypt_cost: u32,
    /// Listen beyond this machine without TLS
    #[arg(long, env = "CONCUR_INSECURE")]
    insecure: bool,
    #[command(flatten)]
    tls: tls::TlsFlags,
    #[command(flatten)]
    front: front::FrontFlags,
    /// Bytes of a segment of a log that is created
    #[arg(long, env = "CONCUR_LOG_SEGMENT_BYTES", value_parser = size, value_name = "SIZE", hide_short_help = true)]
    log_segment_bytes: Option<u64>,
    /// How logs are written
    #[arg(long, env = "CONCUR_LOG_FORMAT", value_enum, default_value = "text", value_name = "FORMAT")]
    log_format: LogFormat,
    /// Stop at once when standard input ends, as it does when whoever started this node is gone
    #[arg(long, env = "CONCUR_UNTIL_STDIN_ENDS", hide_short_help = true)]
    until_stdin_ends: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum ClusterState {
    New,
    Existing,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum CompactionMode {
    Periodic,
    Revision,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum LogFormat {
    Text,
    Json,
}

impl Serve {
    pub(crate) fn run(self) -> Outcome {
        start_logs(self.log_format);
        let (system, name) = self.system()?;
        let mut serving = Serving {
            data_dir: self.data_dir.clone(),
            listen_peer: addresses("--listen-peer-urls", &self.listen_peer_urls)?,
            listen_client: addresses("--listen-client-urls", &self.listen_client_urls)?,
            joins: self.initial_cluster_state == ClusterState::Existing,
            retention: self.retention()?,
            listen_metrics: addresses("--listen-metrics-urls", &self.front.listen_metrics_urls)?,
            auth: AuthOptions {
                auth_token: self.auth_token.clone(),
                token_ttl: Duration::from_secs(self.auth_token_ttl),
                bcrypt_cost: self.bcrypt_cost,
            },
            segment_bytes: self.log_segment_bytes,
            ..Serving::default()
        };
        self.front.put(&mut serving);
        if !system.insecure {
            loopback_only(serving.listen_peer.iter().chain(&serving.listen_client).chain(&serving.listen_metrics))?;
        }
        if self.until_stdin_ends {
            std::thread::spawn(stop_with_stdin);
        }
        launch(&Launch { system, name, serving }).map_err(failure)
    }

    /// The system, and which member this node is.
    fn system(&self) -> Outcome<(System, String)> {
        let mut system = match &self.config {
            Some(file) => system_under(file, |system| system.insecure |= self.insecure)?,
            None => self.system_of_flags()?,
        };
        system.insecure |= self.insecure;
        self.tls.over(&mut system.security)?;
        system.timeouts.heartbeat = self.heartbeat_interval.unwrap_or(system.timeouts.heartbeat);
        system.timeouts.election = self.election_timeout.unwrap_or(system.timeouts.election);
        system.limits.quota_bytes = self.quota_backend_bytes.unwrap_or(system.limits.quota_bytes);
        if let Some(token) = &self.initial_cluster_token {
            system.cluster_token.clone_from(token);
        }
        let name = match (&self.name, &system.members[..]) {
            (Some(name), _) => name.clone(),
            (None, [only]) => only.name.clone(),
            (None, _) => return Err(Failure::new(Exit::Usage, "which member is this node? Name it with --name")),
        };
        let advertised = addresses("--advertise-client-urls", &self.advertise_client_urls)?;
        if let (Some(member), Some(client)) = (system.members.iter_mut().find(|m| m.name == name), advertised.into_iter().next()) {
            member.client = client;
        }
        Ok((system, name))
    }

    /// The system that etcd's flags describe, with etcd's defaults.
    fn system_of_flags(&self) -> Outcome<System> {
        let name = self.name.clone().unwrap_or_else(|| "default".into());
        let listen_client = addresses("--listen-client-urls", &self.listen_client_urls)?;
        let listen_peer = addresses("--listen-peer-urls", &self.listen_peer_urls)?;
        let first = |list: &[String], default: &str| list.first().cloned().unwrap_or_else(|| default.into());
        let advertised = addresses("--initial-advertise-peer-urls", &self.initial_advertise_peer_urls)?;
        let own_peer = first(&advertised, &first(&listen_peer, "127.0.0.1:2380"));
        let mut members = members_of(&self.initial_cluster)?;
        if members.is_empty() {
            members.push(Member::new(&name, own_peer, ""));
        }
        if let Some(own) = members.iter_mut().find(|member| member.name == name) {
            own.client = first(&listen_client, "127.0.0.1:2379");
        }
        let decision_making = decision_making_of(self.strategy.as_deref())?;
        let own_dir = PathBuf::new();
        Ok(System { quorum_size: members.len(), members, decision_making, data_dir: own_dir, ..System::default() })
    }

    fn retention(&self) -> Outcome<Retention> {
        retention(self.auto_compaction_mode == CompactionMode::Revision, &self.auto_compaction_retention)
    }
}

/// A node to start.
#[derive(Debug)]
pub(crate) struct Launch {
    pub(crate) system: System,
    /// Which member it is.
    pub(crate) name: String,
    pub(crate) serving: Serving,
}

/// Runs a node until it is told to stop, and says when it is ready.
pub(crate) fn launch(launch: &Launch) -> Result<(), RunError> {
    let Launch { system, name, serving } = launch;
    tracing::info!(name, version = env!("CARGO_PKG_VERSION"), strategy = system.decision_making.0.traits.name, "starting");
    let ready = move || {
        tracing::info!("ready to serve client requests");
        notify_systemd();
    };
    system.serve(name, serving, stopped(), ready).inspect(|()| tracing::info!("stopped"))
}

/// What automatic compaction keeps.
pub(crate) fn retention(revisions: bool, text: &str) -> Outcome<Retention> {
    let wrong = || Failure::new(Exit::Usage, format!("--auto-compaction-retention takes a time or a count, not `{text}`"));
    let count = text.parse::<u64>().ok();
    Ok(match (revisions, count) {
        (_, Some(0)) => Retention::Everything,
        (true, count) => Retention::Revisions { keep: count.and_then(|n| i64::try_from(n).ok()).ok_or_else(wrong)? },
        (false, Some(hours)) => Retention::Period { keep_ms: hours.saturating_mul(3_600_000) },
        (false, None) => {
            let keep = go_duration(text).ok_or_else(wrong)?;
            match u64::try_from(keep.as_millis()).map_err(|_| wrong())? {
                0 => Retention::Everything,
                keep_ms => Retention::Period { keep_ms },
            }
        }
    })
}

/// The system that a file describes.
pub(crate) fn system_of_file(file: &Path) -> Outcome<System> {
    system_under(file, |_| {})
}

/// The system of a file, with what flags say over it.
fn system_under(file: &Path, said: impl FnOnce(&mut System)) -> Outcome<System> {
    let document = Document::read_under(&config::read(file)?, said);
    document.into_system().map_err(|invalid| Failure::new(Exit::Invalid, format!("{}\n{invalid}", file.display())))
}

/// The members that `--initial-cluster` lists.
pub(crate) fn members_of(initial_cluster: &[String]) -> Outcome<Vec<Member>> {
    let mut members: Vec<Member> = Vec::new();
    for entry in initial_cluster {
        let (name, url) =
            entry.split_once('=').ok_or_else(|| Failure::new(Exit::Usage, format!("--initial-cluster takes NAME=URL, not `{entry}`")))?;
        // A member with several URLs is reached by the first.
        if !members.iter().any(|member| member.name == name) {
            members.push(Member::new(name, address("--initial-cluster", url)?, ""));
        }
    }
    Ok(members)
}

/// The strategy of that name, or the one that is taken where none is named.
pub(crate) fn decision_making_of(name: Option<&str>) -> Outcome<DecisionMaking> {
    let Some(name) = name else { return Ok(System::default().decision_making) };
    concur::find(name).map(Into::into).ok_or_else(|| {
        let names: Vec<&str> = concur::registry().iter().map(|strategy| strategy.traits.name).collect();
        Failure::new(Exit::Invalid, format!("error[C005]: no strategy is called `{name}`; there are {}", names.join(", ")))
    })
}

fn failure(error: RunError) -> Failure {
    let exit = match &error {
        RunError::Invalid(_) | RunError::NoSuchMember { .. } | RunError::NoAddress { .. } => Exit::Invalid,
        RunError::Node { error: NodeError::OtherSystem { .. } | NodeError::Tls(_) | NodeError::Auth(_), .. } => Exit::Invalid,
        RunError::Node { .. } | RunError::Offline(_) | RunError::Io { .. } => Exit::Failure,
    };
    Failure::new(exit, error.to_string())
}

/// A duration as Go writes it: numbers with units, one after another, such as `1h30m`.
pub(crate) fn go_duration(text: &str) -> Option<Duration> {
    let (mut total, mut rest) = (Duration::ZERO, text);
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, behind) = rest.split_at(digits);
        let letters = behind.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(behind.len());
        let (unit, behind) = behind.split_at(letters);
        let seconds = match unit {
            "h" => 3600.0,
            "m" => 60.0,
            "s" => 1.0,
            "ms" => 1e-3,
            "us" | "µs" | "μs" => 1e-6,
            "ns" => 1e-9,
            _ => return None,
        };
        let part = Duration::try_from_secs_f64(number.parse::<f64>().ok()? * seconds).ok()?;
        total = total.checked_add(part)?;
        rest = behind;
    }
    (!text.is_empty()).then_some(total)
}

/// Milliseconds as etcd takes them, or a duration with a unit.
fn millis(text: &str) -> Result<Duration, String> {
    let plain = text.parse().map(Duration::from_millis).ok();
    plain.or_else(|| parse_duration(text)).ok_or_else(|| "write a number of milliseconds, or a duration such as 2s".into())
}

fn size(text: &str) -> Result<u64, String> {
    concur::parse_size(text).ok_or_else(|| "write a number of bytes, or a size such as 2GiB".into())
}

pub(crate) fn addresses(flag: &str, urls: &[String]) -> Outcome<Vec<String>> {
    urls.iter().filter(|url| !url.is_empty()).map(|url| address(flag, url)).collect()
}

/// The address that a URL names: `host:port`, with `https://` before it where it is reached by TLS.
fn address(flag: &str, url: &str) -> Outcome<String> {
    let address = concur_tls::address(url);
    match concur_tls::host_port(url).rsplit_once(':') {
        Some((host, port)) if !host.is_empty() && !host.contains('/') && port.parse::<u16>().is_ok() => {
            // By TLS a host is reached under the name that its certificate has.
            Ok(if concur_tls::is_tls(url) { address } else { address.replace("localhost:", "127.0.0.1:") })
        }
        _ => Err(Failure::new(Exit::Usage, format!("{flag}: this is not a URL with a port: `{url}`. Write http://HOST:PORT, or https://"))),
    }
}

/// Whether only this machine reaches an address.
pub(crate) fn is_loopback(address: &str) -> bool {
    let host = concur_tls::host_port(address).rsplit_once(':').map_or("", |(host, _)| host).trim_matches(['[', ']']);
    host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

fn loopback_only<'a>(addresses: impl Iterator<Item = &'a String>) -> Outcome {
    for address in addresses.filter(|address| !concur_tls::is_tls(address)) {
        if !is_loopback(address) {
            let what = format!(
                "error[C060]: {address} is reached from other machines, and nothing encrypts or authenticates it. \
                 Give it TLS (https:// with --cert-file and --key-file), listen on 127.0.0.1, or say --insecure if the network itself \
                 is trusted"
            );
            return Err(Failure::new(Exit::Invalid, what));
        }
    }
    Ok(())
}

fn start_logs(format: LogFormat) {
    let filter = tracing_subscriber::EnvFilter::try_from_env("CONCUR_LOG").unwrap_or_else(|_| "info".into());
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    let coloured = std::io::IsTerminal::is_terminal(&std::io::stderr()) && std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty());
    match format {
        LogFormat::Text => builder.with_ansi(coloured).with_target(false).init(),
        LogFormat::Json => builder.json().init(),
    }
}

/// Ends with the first signal that asks to stop; the second ends the process.
async fn stopped() {
    let (Ok(mut terminate), Ok(mut interrupt)) = (signal(SignalKind::terminate()), signal(SignalKind::interrupt())) else {
        return std::future::pending().await;
    };
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    tracing::info!("stopping: handing over and finishing what was begun");
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        std::process::exit(1);
    });
}

/// Ends the process with standard input.
fn stop_with_stdin() {
    let mut byte = [0; 64];
    while std::io::stdin().read(&mut byte).is_ok_and(|n| n > 0) {}
    std::process::exit(1);
}

/// Tells systemd that the node is ready, if it asked to be told (`Type=notify`).
fn notify_systemd() {
    let Some(path) = std::env::var_os("NOTIFY_SOCKET") else { return };
    let sent = std::os::unix::net::UnixDatagram::unbound().and_then(|socket| socket.send_to(b"READY=1", &path));
    if let Err(error) = sent {
        tracing::warn!(%error, "systemd could not be told");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_those_of_go() {
        for (text, seconds) in [("2h", 7200.0), ("1h30m", 5400.0), ("1.5s", 1.5), ("100ms", 0.1), ("0s", 0.0)] {
            assert_eq!(go_duration(text), Some(Duration::from_secs_f64(seconds)), "{text}");
        }
        for wrong in ["", "5x", "h", "1h-5m", "-1s", "1e400h"] {
            assert_eq!(go_duration(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn retentions_are_read_as_etcd_reads_them() {
        let hours = |hours: u64| Some(Retention::Period { keep_ms: hours * 3_600_000 });
        let minutes = |minutes: u64| Some(Retention::Period { keep_ms: minutes * 60_000 });
        for (text, expected) in [
            ("0", Some(Retention::Everything)),
            ("1", hours(1)),
            ("72", hours(72)),
            ("72h", hours(72)),
            ("5m", minutes(5)),
            ("1h30m", minutes(90)),
            ("0.5h", minutes(30)),
            ("90m0s", minutes(90)),
            ("-1", None),
            ("5x", None),
            ("h", None),
            ("", None),
            ("0s", Some(Retention::Everything)),
        ] {
            assert_eq!(retention(false, text).ok(), expected, "{text}");
        }
        assert_eq!(retention(true, "1000").ok(), Some(Retention::Revisions { keep: 1000 }));
        assert_eq!(retention(true, "0").ok(), Some(Retention::Everything));
        assert_eq!(retention(true, "5m").ok(), None);
    }
}
