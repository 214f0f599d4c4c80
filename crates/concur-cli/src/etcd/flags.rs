//! Every flag that etcd has, and what each means here.

use super::args;
use std::collections::BTreeMap;

/// What a flag takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Bool,
    Text,
}

/// What a flag does here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Does {
    /// What it says.
    Same,
    /// Nothing; it is warned of.
    Nothing,
    /// Nothing is started with it, unless it has this value.
    Refused(&'static str, &'static str),
}

#[derive(Debug)]
pub(super) struct Flag {
    pub(super) name: &'static str,
    pub(super) kind: Kind,
    pub(super) default: &'static str,
    pub(super) does: Does,
}

const fn same(name: &'static str, default: &'static str) -> Flag {
    Flag { name, kind: Kind::Text, default, does: Does::Same }
}

const fn switch(name: &'static str, default: &'static str) -> Flag {
    Flag { name, kind: Kind::Bool, default, does: Does::Same }
}

const fn nothing(name: &'static str) -> Flag {
    Flag { name, kind: Kind::Text, default: "", does: Does::Nothing }
}

const fn no_switch(name: &'static str) -> Flag {
    Flag { name, kind: Kind::Bool, default: "", does: Does::Nothing }
}

const fn refused(name: &'static str, but: &'static str, instead: &'static str) -> Flag {
    Flag { name, kind: Kind::Text, default: but, does: Does::Refused(but, instead) }
}

const NO_DISCOVERY: &str = "list the members with --initial-cluster";

pub(super) const FLAGS: &[Flag] = &[
    same("config-file", ""),
    switch("version", "false"),
    // Ours.
    same("strategy", ""),
    // Member.
    same("name", "default"),
    same("data-dir", ""),
    same("heartbeat-interval", "100"),
    same("election-timeout", "1000"),
    same("listen-peer-urls", "http://localhost:2380"),
    same("listen-client-urls", "http://localhost:2379"),
    same("listen-client-http-urls", ""),
    same("listen-metrics-urls", ""),
    same("quota-backend-bytes", "0"),
    same("auth-token", "simple"),
    same("auth-token-ttl", "300"),
    same("bcrypt-cost", "10"),
    same("max-txn-ops", "128"),
    same("max-request-bytes", "1572864"),
    same("max-concurrent-streams", "4096"),
    switch("enable-grpc-gateway", "true"),
    same("grpc-keepalive-min-time", "5s"),
    same("grpc-keepalive-interval", "2h"),
    same("grpc-keepalive-timeout", "20s"),
    same("watch-progress-notify-interval", "10m"),
    same("experimental-watch-progress-notify-interval", ""),
    same("auto-compaction-mode", "periodic"),
    same("auto-compaction-retention", "0"),
    // Clustering.
    same("initial-advertise-peer-urls", "http://localhost:2380"),
    same("initial-cluster", ""),
    same("initial-cluster-state", "new"),
    same("initial-cluster-token", "etcd-cluster"),
    same("advertise-client-urls", "http://localhost:2379"),
    refused("discovery", "", NO_DISCOVERY),
    refused("discovery-token", "", NO_DISCOVERY),
    refused("discovery-endpoints", "", NO_DISCOVERY),
    refused("discovery-srv", "", NO_DISCOVERY),
    Flag {
        name: "force-new-cluster",
        kind: Kind::Bool,
        default: "false",
        does: Does::Refused("false", "run `concur recover`, which goes on from this member's data alone"),
    },
    // Security.
    same("cert-file", ""),
    same("key-file", ""),
    switch("client-cert-auth", "false"),
    same("client-crl-file", ""),
    same("client-cert-allowed-hostname", ""),
    same("trusted-ca-file", ""),
    switch("auto-tls", "false"),
    same("peer-cert-file", ""),
    same("peer-key-file", ""),
    switch("peer-client-cert-auth", "false"),
    same("peer-trusted-ca-file", ""),
    same("peer-cert-allowed-cn", ""),
    same("peer-cert-allowed-hostname", ""),
    same("peer-client-cert-file", ""),
    same("peer-client-key-file", ""),
    same("peer-crl-file", ""),
    switch("peer-auto-tls", "false"),
    same("self-signed-cert-validity", "1"),
    same("cipher-suites", ""),
    same("tls-min-version", "TLS1.2"),
    same("tls-max-version", ""),
    same("cors", "*"),
    same("host-whitelist", "*"),
    // Logging.
    same("logger", "zap"),
    same("log-outputs", "default"),
    same("log-level", "info"),
    same("log-format", "json"),
    no_switch("enable-log-rotation"),
    nothing("log-rotation-config-json"),
    // What has no meaning here: there is no bbolt, no snapshot of a log, no v2 store; syncing and pre-voting are not optional.
    nothing("wal-dir"),
    nothing("snapshot-count"),
    nothing("snapshot-catchup-entries"),
    nothing("max-snapshots"),
    nothing("max-wals"),
    nothing("max-learners"),
    nothing("backend-bbolt-freelist-type"),
    nothing("backend-batch-interval"),
    nothing("backend-batch-limit"),
    no_switch("initial-election-tick-advance"),
    no_switch("socket-reuse-port"),
    no_switch("socket-reuse-address"),
    // With underscores, since a protocol is named by its folder and the registry only.
    nothing("raft_read_timeout"),
    nothing("raft_write_timeout"),
    no_switch("strict-reconfig-check"),
    no_switch("pre-vote"),
    nothing("discovery-fallback"),
    nothing("discovery-proxy"),
    nothing("discovery-srv-name"),
    nothing("discovery-dial-timeout"),
    nothing("discovery-request-timeout"),
    nothing("discovery-keepalive-time"),
    nothing("discovery-keepalive-timeout"),
    no_switch("discovery-insecure-transport"),
    no_switch("discovery-insecure-skip-tls-verify"),
    nothing("discovery-cert"),
    nothing("discovery-key"),
    nothing("discovery-cacert"),
    nothing("discovery-user"),
    nothing("discovery-password"),
    nothing("client-cert-file"),
    nothing("client-key-file"),
    no_switch("peer-skip-client-san-verification"),
    no_switch("enable-pprof"),
    nothing("metrics"),
    nothing("v2-deprecation"),
    nothing("feature-gates"),
    no_switch("unsafe-no-fsync"),
    nothing("force-new-cluster-bump-amount"),
    nothing("compaction-batch-limit"),
    nothing("compaction-sleep-interval"),
    nothing("compact-hash-check-time"),
    nothing("corrupt-check-time"),
    nothing("downgrade-check-time"),
    nothing("warning-apply-duration"),
    nothing("warning-unary-request-duration"),
    nothing("bootstrap-defrag-threshold-megabytes"),
    no_switch("memory-mlock"),
    no_switch("enable-distributed-tracing"),
    nothing("distributed-tracing-address"),
    nothing("distributed-tracing-service-name"),
    nothing("distributed-tracing-instance-id"),
    nothing("distributed-tracing-sampling-rate"),
    // Of older versions.
    no_switch("enable-v2"),
    no_switch("debug"),
    nothing("log-package-levels"),
    nothing("experimental-backend-bbolt-freelist-type"),
    nothing("experimental-bootstrap-defrag-threshold-megabytes"),
    no_switch("experimental-compact-hash-check-enabled"),
    nothing("experimental-compact-hash-check-time"),
    nothing("experimental-compaction-batch-limit"),
    nothing("experimental-compaction-sleep-interval"),
    nothing("experimental-corrupt-check-time"),
    nothing("experimental-distributed-tracing-address"),
    nothing("experimental-distributed-tracing-instance-id"),
    nothing("experimental-distributed-tracing-sampling-rate"),
    nothing("experimental-distributed-tracing-service-name"),
    nothing("experimental-downgrade-check-time"),
    no_switch("experimental-enable-distributed-tracing"),
    no_switch("experimental-enable-lease-checkpoint"),
    no_switch("experimental-enable-lease-checkpoint-persist"),
    nothing("experimental-enable-v2v3"),
    no_switch("experimental-initial-corrupt-check"),
    nothing("experimental-max-learners"),
    no_switch("experimental-memory-mlock"),
    no_switch("experimental-peer-skip-client-san-verification"),
    nothing("experimental-snapshot-catchup-entries"),
    no_switch("experimental-stop-grpc-service-on-defrag"),
    no_switch("experimental-txn-mode-write-with-shared-buffer"),
    nothing("experimental-warning-apply-duration"),
    nothing("experimental-warning-unary-request-duration"),
];

/// The flag of a name.
pub(super) fn find(name: &str) -> Option<&'static Flag> {
    FLAGS.iter().find(|flag| flag.name == name || (flag.name.contains('_') && flag.name.replace('_', "-") == name))
}

/// What each flag is, a line each.
pub(super) fn help() -> String {
    let line = |flag: &Flag| match flag.does {
        Does::Same => format!("  --{} '{}'\n", flag.name, flag.default),
        Does::Nothing => format!("  --{}\n    Taken, and without a meaning here.\n", flag.name.replace('_', "-")),
        Does::Refused(_, instead) => format!("  --{}\n    Not served: {instead}.\n", flag.name),
    };
    FLAGS.iter().map(line).collect()
}

/// The settings of a node, from its flags, its environment or its file.
#[derive(Debug, Default)]
pub(super) struct Settings {
    given: BTreeMap<&'static str, String>,
    warnings: Vec<String>,
}

impl Settings {
    /// Puts them together: of a flag and its variable the flag counts, and if a file is named it counts alone.
    pub(super) fn gather(flags: Vec<(String, String)>, variables: impl Iterator<Item = (String, String)>) -> Result<Self, String> {
        let mut settings = Self::default();
        for (variable, value) in variables {
            settings.variable(&variable, value)?;
        }
        for (name, value) in flags {
            settings.set(&name, value)?;
        }
        if let Some(file) = settings.given.get("config-file").filter(|file| !file.is_empty()).cloned() {
            let strategy = settings.given.remove("strategy");
            settings = Self::default();
            for (name, value) in super::file::read(&file)? {
                if find(&name).is_none() {
                    settings.warnings.push(format!("{file}: `{name}` is not known, and ignored"));
                } else {
                    settings.set(&name, value).map_err(|why| format!("{file}: {why}"))?;
                }
            }
            settings.given.extend(strategy.map(|strategy| ("strategy", strategy)));
        }
        settings.check()?;
        Ok(settings)
    }

    fn variable(&mut self, variable: &str, value: String) -> Result<(), String> {
        let Some(name) = variable.strip_prefix("ETCD_") else {
            if variable == "CONCUR_STRATEGY" {
                self.set("strategy", value)?;
            }
            return Ok(());
        };
        let name = name.to_ascii_lowercase().replace('_', "-");
        if value.is_empty() {
            return Ok(());
        }
        if find(&name).is_none() {
            self.warnings.push(format!("unrecognized environment variable {variable}={value}"));
            return Ok(());
        }
        self.set(&name, value).map_err(|why| format!("invalid value for {variable}: {why}"))
    }

    pub(super) fn set(&mut self, name: &str, value: String) -> Result<(), String> {
        let flag = find(name).ok_or_else(|| format!("flag provided but not defined: -{name}"))?;
        let value = if flag.kind == Kind::Bool { args::boolean(name, &value)? } else { value };
        self.given.insert(flag.name, value);
        Ok(())
    }

    /// Refuses what would change the meaning of everything else, and notes what has no meaning.
    fn check(&mut self) -> Result<(), String> {
        let mut without = Vec::new();
        for (&name, value) in &self.given {
            match find(name).map(|flag| flag.does) {
                Some(Does::Refused(but, instead)) if value != but => return Err(format!("--{name} is not served here: {instead}")),
                Some(Does::Nothing) => without.push(format!("--{}", name.replace('_', "-"))),
                _ => {}
            }
        }
        if !without.is_empty() {
            self.warnings.push(format!("without a meaning here, and ignored: {}", without.join(", ")));
        }
        Ok(())
    }

    /// What is to be told once there is a log.
    pub(super) fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// Whether a flag was given.
    pub(super) fn is_given(&self, name: &str) -> bool {
        self.given.get(name).is_some_and(|value| !value.is_empty())
    }

    /// The value of a flag.
    pub(super) fn text(&self, name: &'static str) -> &str {
        match self.given.get(name).filter(|value| !value.is_empty()) {
            Some(value) => value,
            None => find(name).map_or("", |flag| flag.default),
        }
    }

    pub(super) fn is(&self, name: &'static str) -> bool {
        self.text(name) == "true"
    }

    /// The parts of a list.
    pub(super) fn list(&self, name: &'static str) -> Vec<String> {
        self.text(name).split(',').map(str::trim).filter(|part| !part.is_empty()).map(str::to_owned).collect()
    }

    /// A number.
    pub(super) fn number<N: std::str::FromStr>(&self, name: &'static str) -> Result<N, String> {
        let text = self.text(name);
        text.parse().map_err(|_| format!("invalid value \"{text}\" for flag -{name}: parse error"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gathered(flags: &[(&str, &str)], variables: &[(&str, &str)]) -> Result<Settings, String> {
        let owned = |pairs: &[(&str, &str)]| pairs.iter().map(|(a, b)| ((*a).to_owned(), (*b).to_owned())).collect::<Vec<_>>();
        Settings::gather(owned(flags), owned(variables).into_iter())
    }

    #[test]
    fn a_flag_goes_before_its_variable() {
        let settings =
            gathered(&[("name", "a")], &[("ETCD_NAME", "b"), ("ETCD_DATA_DIR", "/d"), ("ETCD_NOPE", "1"), ("HOME", "/")]).unwrap();
        assert_eq!((settings.text("name"), settings.text("data-dir")), ("a", "/d"));
        assert_eq!(settings.text("initial-cluster-token"), "etcd-cluster");
        assert_eq!(settings.warnings(), ["unrecognized environment variable ETCD_NOPE=1"]);
    }

    #[test]
    fn what_has_no_meaning_is_named_and_what_has_another_is_refused() {
        let settings = gathered(&[("snapshot-count", "5"), ("max-wals", "1"), ("force-new-cluster", "false")], &[]).unwrap();
        assert_eq!(settings.warnings(), ["without a meaning here, and ignored: --max-wals, --snapshot-count"]);
        assert!(gathered(&[("discovery-srv", "example.com")], &[]).unwrap_err().contains("--initial-cluster"));
        assert!(gathered(&[], &[("ETCD_AUTO_TLS", "maybe")]).unwrap_err().contains("ETCD_AUTO_TLS"));
    }

    #[test]
    fn no_flag_is_listed_twice() {
        let names: std::collections::BTreeSet<&str> = FLAGS.iter().map(|flag| flag.name).collect();
        assert_eq!(names.len(), FLAGS.len());
    }
}
