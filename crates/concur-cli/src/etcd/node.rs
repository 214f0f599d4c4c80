//! The node that etcd's flags describe.

use super::flags::Settings;
use crate::exit::Failure;
use crate::serve::{self, Launch, go_duration};
use concur::{AuthOptions, HttpRules, Member, Security, ServeLimits, Serving, System, TlsOptions, Version};
use std::path::PathBuf;
use std::time::Duration;

/// The most operations that a transaction can have here.
const TXN_OPS_MAX: usize = 128;

/// What the settings start.
pub(super) fn launch(settings: &Settings) -> Result<Launch, String> {
    let name = settings.text("name").to_owned();
    let listen_client = addresses(settings, "listen-client-urls")?;
    let mut system = system(settings, &name, &listen_client)?;
    system.security = security(settings)?;
    let data_dir = match settings.text("data-dir") {
        "" => PathBuf::from(format!("{name}.etcd")),
        path => path.into(),
    };
    let joins = match settings.text("initial-cluster-state") {
        "new" => false,
        "existing" => true,
        other => return Err(format!("invalid value \"{other}\" for flag -initial-cluster-state: it is new or existing")),
    };
    let mut clients = listen_client;
    clients.extend(addresses(settings, "listen-client-http-urls")?);
    let revisions = match settings.text("auto-compaction-mode") {
        "periodic" => false,
        "revision" => true,
        other => return Err(format!("unknown auto-compaction-mode \"{other}\"")),
    };
    let retention = serve::retention(revisions, settings.text("auto-compaction-retention")).map_err(Failure::into_message)?;
    let serving = Serving {
        data_dir: Some(data_dir),
        listen_peer: addresses(settings, "listen-peer-urls")?,
        listen_client: clients,
        listen_metrics: addresses(settings, "listen-metrics-urls")?,
        joins,
        retention,
        auth: AuthOptions {
            auth_token: settings.text("auth-token").into(),
            token_ttl: Duration::from_secs(settings.number("auth-token-ttl")?),
            bcrypt_cost: settings.number("bcrypt-cost")?,
        },
        http: HttpRules {
            cors: settings.list("cors"),
            hosts: settings.list("host-whitelist"),
            gateway: settings.is("enable-grpc-gateway"),
        },
        serve: limits(settings)?,
        txn_ops_max: Some(operations(settings)?),
        notify_interval: Some(interval(settings)?),
        ..Serving::default()
    };
    warn_of_open_doors(&serving);
    Ok(Launch { system, name, serving })
}

fn system(settings: &Settings, name: &str, listen_client: &[String]) -> Result<System, String> {
    let own_peer = addresses(settings, "initial-advertise-peer-urls")?;
    let mut members = serve::members_of(&settings.list("initial-cluster")).map_err(Failure::into_message)?;
    if members.is_empty() {
        members.push(Member::new(name, own_peer.first().cloned().unwrap_or_default(), ""));
    }
    let known = members.iter_mut().find(|member| member.name == name);
    let own = known.ok_or_else(|| format!("couldn't find local name \"{name}\" in the initial cluster configuration"))?;
    // Where nothing is said, where it listens tells more than etcd's default.
    let advertised = if settings.is_given("advertise-client-urls") || !settings.is_given("listen-client-urls") {
        addresses(settings, "advertise-client-urls")?
    } else {
        listen_client.to_vec()
    };
    own.client = advertised.into_iter().next().unwrap_or_default();
    let strategy = Some(settings.text("strategy")).filter(|name| !name.is_empty());
    let decision_making = serve::decision_making_of(strategy).map_err(Failure::into_message)?;
    let mut system = System { quorum_size: members.len(), members, decision_making, insecure: true, ..System::default() };
    system.cluster_token = settings.text("initial-cluster-token").to_owned();
    system.timeouts.heartbeat = Duration::from_millis(settings.number("heartbeat-interval")?);
    system.timeouts.election = Duration::from_millis(settings.number("election-timeout")?);
    system.limits.request_bytes_max = settings.number("max-request-bytes")?;
    system.limits.quota_bytes = match settings.number::<i64>("quota-backend-bytes")? {
        0 => system.limits.quota_bytes,
        // A negative quota is none.
        bytes => u64::try_from(bytes).unwrap_or(u64::MAX),
    };
    Ok(system)
}

fn security(settings: &Settings) -> Result<Security, String> {
    let path = |name| PathBuf::from(settings.text(name));
    let mut security = Security {
        client: TlsOptions {
            cert_file: path("cert-file"),
            key_file: path("key-file"),
            trusted_ca_file: path("trusted-ca-file"),
            client_cert_auth: settings.is("client-cert-auth"),
            crl_file: path("client-crl-file"),
            auto: settings.is("auto-tls"),
            allowed_hosts: settings.list("client-cert-allowed-hostname"),
            ..TlsOptions::default()
        },
        peer: TlsOptions {
            cert_file: path("peer-cert-file"),
            key_file: path("peer-key-file"),
            client_cert_file: path("peer-client-cert-file"),
            client_key_file: path("peer-client-key-file"),
            trusted_ca_file: path("peer-trusted-ca-file"),
            client_cert_auth: settings.is("peer-client-cert-auth"),
            crl_file: path("peer-crl-file"),
            auto: settings.is("peer-auto-tls"),
            allowed_names: settings.list("peer-cert-allowed-cn"),
            allowed_hosts: settings.list("peer-cert-allowed-hostname"),
        },
        self_signed_years: settings.number("self-signed-cert-validity")?,
        ..Security::default()
    };
    security.rules.cipher_suites = settings.list("cipher-suites");
    let version = |name, none| match settings.text(name) {
        "" => Ok(none),
        text => Version::named(text).ok_or_else(|| format!("unexpected TLS version \"{text}\"")),
    };
    security.rules.version_min = version("tls-min-version", Version::V12)?;
    security.rules.version_max = version("tls-max-version", Version::V13)?;
    Ok(security)
}

fn limits(settings: &Settings) -> Result<ServeLimits, String> {
    Ok(ServeLimits {
        streams_max: settings.number("max-concurrent-streams")?,
        ping_interval: duration(settings, "grpc-keepalive-interval")?,
        ping_time_max: duration(settings, "grpc-keepalive-timeout")?,
        ping_apart_min: duration(settings, "grpc-keepalive-min-time")?,
        ..ServeLimits::default()
    })
}

fn operations(settings: &Settings) -> Result<usize, String> {
    let asked: usize = settings.number("max-txn-ops")?;
    if asked > TXN_OPS_MAX {
        tracing::warn!("--max-txn-ops is {asked}, and a transaction has at most {TXN_OPS_MAX} operations of a kind here");
    }
    Ok(asked.min(TXN_OPS_MAX))
}

fn interval(settings: &Settings) -> Result<Duration, String> {
    let older = "experimental-watch-progress-notify-interval";
    duration(settings, if settings.is_given(older) { older } else { "watch-progress-notify-interval" })
}

/// A duration as Go writes it (`1h30m`, `500ms`), or a number of nanoseconds as files have it.
fn duration(settings: &Settings, name: &'static str) -> Result<Duration, String> {
    let text = settings.text(name);
    let nanos = text.parse().ok().map(Duration::from_nanos);
    nanos.or_else(|| go_duration(text)).ok_or_else(|| format!("invalid value \"{text}\" for flag -{name}: parse error"))
}

fn addresses(settings: &Settings, name: &'static str) -> Result<Vec<String>, String> {
    serve::addresses(&format!("--{name}"), &settings.list(name)).map_err(Failure::into_message)
}

/// Says what is open to other machines: etcd does, and whatever starts it goes on.
fn warn_of_open_doors(serving: &Serving) {
    for (who, addresses) in [("client", &serving.listen_client), ("peer", &serving.listen_peer)] {
        for address in addresses.iter().filter(|address| !concur_tls::is_tls(address) && !serve::is_loopback(address)) {
            tracing::warn!(address, "serving {who} traffic insecurely; this is strongly discouraged!");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_are_etcds() {
        let Launch { system, name, serving } = launch(&Settings::default()).unwrap();
        assert_eq!((name.as_str(), serving.data_dir), ("default", Some("default.etcd".into())));
        assert_eq!((serving.listen_client, serving.listen_peer), (vec!["127.0.0.1:2379".into()], vec!["127.0.0.1:2380".into()]));
        assert_eq!((system.members[0].peer.as_str(), system.members[0].client.as_str()), ("127.0.0.1:2380", "127.0.0.1:2379"));
        assert_eq!((system.cluster_token.as_str(), system.limits.quota_bytes), ("etcd-cluster", 2 << 30));
        assert!(system.validate().is_ok());
        let mut other = Settings::default();
        other.set("initial-cluster", "a=http://10.0.0.1:2380,b=http://10.0.0.2:2380".into()).unwrap();
        assert!(launch(&other).unwrap_err().contains("couldn't find local name \"default\""));
    }
}
