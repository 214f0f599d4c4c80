//! The values of a system, one by one, under the names that they have in a file.

use concur::{Execution, Level, Link, Member, Namespace, Network, Order, PeerManagement, Quorums, Security, System, Transport, Volume};
use std::time::Duration;

/// Names and values, as the file would have them.
pub(super) fn values(system: &System) -> Vec<(String, String)> {
    let mut values = Vec::new();
    let mut set = |name: String, value: String| values.push((name, value));
    top(system, &mut set);
    numbers(system, &mut set);
    for (name, region) in &system.regions {
        set(format!("regions.{name}.jurisdiction"), quoted(&region.jurisdiction));
    }
    system.links.iter().enumerate().for_each(|(i, item)| link(i, item, &mut set));
    system.members.iter().enumerate().for_each(|(i, item)| member(i, item, &mut set));
    system.namespaces.iter().enumerate().for_each(|(i, item)| namespace(i, item, system, &mut set));
    values
}

fn quoted(text: &str) -> String {
    format!("\"{text}\"")
}

fn duration(duration: Duration) -> String {
    format!("\"{duration:?}\"")
}

fn list(texts: &[String]) -> String {
    format!("{texts:?}")
}

fn order(order: Order) -> String {
    quoted(match order {
        Order::Total => "total",
        Order::PerKey => "per-key",
    })
}

fn top(system: &System, set: &mut impl FnMut(String, String)) {
    set("system.quorum_size".into(), system.quorum_size.to_string());
    set("system.decision_making".into(), quoted(system.decision_making.0.traits.name));
    let execution = match system.execution {
        Execution::OnCommit => "on-commit",
    };
    set("system.execution".into(), quoted(execution));
    let management = match system.peer_management {
        PeerManagement::Static => "static",
        PeerManagement::Dynamic => "dynamic",
    };
    set("system.peer_management".into(), quoted(management));
    set("system.order".into(), order(system.order));
    set("system.data_dir".into(), quoted(&system.data_dir.display().to_string()));
    set("system.cluster_token".into(), quoted(&system.cluster_token));
    match system.network {
        Network::InProcess => set("network.protocol".into(), quoted("in-process")),
        Network::Stream { protocol: Transport::Grpc, volume } => {
            set("network.protocol".into(), quoted("grpc"));
            let volume = match volume {
                Volume::Broadcast => "broadcast",
                Volume::Thrifty => "thrifty",
            };
            set("network.volume".into(), quoted(volume));
        }
    }
    if let Quorums::Counts { prepare, accept, fast } = system.quorums {
        for (name, size) in [("prepare", prepare), ("accept", accept), ("fast", fast)] {
            set(format!("quorums.{name}"), size.to_string());
        }
    }
}

fn numbers(system: &System, set: &mut impl FnMut(String, String)) {
    let (timeouts, limits) = (&system.timeouts, &system.limits);
    for (name, value) in
        [("heartbeat", timeouts.heartbeat), ("election", timeouts.election), ("request", timeouts.request), ("stop", timeouts.stop)]
    {
        set(format!("timeouts.{name}"), duration(value));
    }
    for (name, value) in [
        ("request_bytes_max", limits.request_bytes_max as u64),
        ("batch_bytes_max", limits.batch_bytes_max as u64),
        ("batches_in_flight_max", limits.batches_in_flight_max as u64),
        ("pending_commands_max", limits.pending_commands_max as u64),
        ("retained_bytes_max", limits.retained_bytes_max as u64),
        ("quota_bytes", limits.quota_bytes),
        ("checkpoint_bytes", limits.checkpoint_bytes),
    ] {
        set(format!("limits.{name}"), value.to_string());
    }
    if let Some(latency) = system.goals.write_latency {
        set("goals.write_latency".into(), duration(latency));
    }
    set("goals.regions_lost".into(), system.goals.regions_lost.to_string());
    set("etcd.namespace".into(), quoted(&system.etcd_namespace));
    set("security.insecure".into(), system.insecure.to_string());
    security(&system.security, set);
}

fn security(security: &Security, set: &mut impl FnMut(String, String)) {
    set("security.cipher_suites".into(), list(&security.rules.cipher_suites));
    set("security.tls_version_min".into(), quoted(security.rules.version_min.name()));
    set("security.tls_version_max".into(), quoted(security.rules.version_max.name()));
    set("security.self_signed_years".into(), security.self_signed_years.to_string());
    for (side, tls) in [("client", &security.client), ("peer", &security.peer)] {
        let files = [
            ("cert_file", &tls.cert_file),
            ("key_file", &tls.key_file),
            ("client_cert_file", &tls.client_cert_file),
            ("client_key_file", &tls.client_key_file),
            ("trusted_ca_file", &tls.trusted_ca_file),
            ("crl_file", &tls.crl_file),
        ];
        for (name, file) in files {
            set(format!("security.{side}.{name}"), quoted(&file.display().to_string()));
        }
        set(format!("security.{side}.client_cert_auth"), tls.client_cert_auth.to_string());
        set(format!("security.{side}.auto"), tls.auto.to_string());
        set(format!("security.{side}.allowed_names"), list(&tls.allowed_names));
        set(format!("security.{side}.allowed_hosts"), list(&tls.allowed_hosts));
    }
}

fn link(i: usize, link: &Link, set: &mut impl FnMut(String, String)) {
    set(format!("link[{i}].between"), list(&[link.between.0.clone(), link.between.1.clone()]));
    set(format!("link[{i}].round_trip"), duration(link.round_trip));
}

fn member(i: usize, member: &Member, set: &mut impl FnMut(String, String)) {
    for (name, value) in [("name", &member.name), ("region", &member.region), ("peer", &member.peer), ("client", &member.client)] {
        set(format!("members[{i}].{name}"), quoted(value));
    }
    set(format!("members[{i}].weight"), member.weight.to_string());
}

fn namespace(i: usize, namespace: &Namespace, system: &System, set: &mut impl FnMut(String, String)) {
    let decision_making = namespace.decision_making.unwrap_or(system.decision_making);
    let reads = match namespace.reads {
        Level::Strong => "strong",
        Level::Eventual => "eventual",
    };
    for (name, value) in [
        ("name", quoted(&namespace.name)),
        ("decision_making", quoted(decision_making.0.traits.name)),
        ("order", order(namespace.order)),
        ("members", list(&namespace.members)),
        ("reads", quoted(reads)),
        ("jurisdiction", quoted(&namespace.jurisdiction)),
    ] {
        set(format!("namespace[{i}].{name}"), value);
    }
}
