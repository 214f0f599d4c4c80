//! What is said of snapshots and of what was made from them.

use concur::offline::{EtcdSummary, Forced, Held, Restored, Summary};
use serde_json::{Value, json};
use std::path::Path;

pub(super) fn namespace_of(summary: &Summary) -> Option<&'static str> {
    (summary.group.0 == 0).then_some("default")
}

pub(super) fn figures(summary: &Summary, bytes: u64) -> String {
    format!("revision {}   epoch {}   {} entries   {bytes} bytes", summary.revision, summary.configuration.epoch.0, summary.entries)
}

pub(super) fn names(configuration: &concur_peers::Configuration) -> String {
    configuration.members.iter().map(|member| format!("{} ({})", member.name, member.role.word())).collect::<Vec<_>>().join(", ")
}

pub(super) fn rest(summary: &Summary) -> String {
    let Summary { cluster, node, group, configuration, order, hash, .. } = summary;
    format!(
        "of cluster {cluster:x}, made by {node:x}, group {:x}, ordered {order}, hash {hash:016x}\n{}: {}\n",
        group.0,
        configuration.strategy,
        names(configuration)
    )
}

pub(super) fn value(summary: &Summary, file: &Path, bytes: u64) -> Value {
    json!({
        "file": file.display().to_string(),
        "namespace": namespace_of(summary),
        "group": format!("{:x}", summary.group.0),
        "revision": summary.revision,
        "epoch": summary.configuration.epoch.0,
        "entries": summary.entries,
        "bytes": bytes,
        "hash": format!("{:016x}", summary.hash),
        "cluster": format!("{:x}", summary.cluster),
        "node": format!("{:x}", summary.node),
        "strategy": summary.configuration.strategy,
        "order": summary.order,
        "logged_ms": summary.logged_ms,
        "members": summary.configuration.members.iter().map(|member| &member.name).collect::<Vec<_>>(),
    })
}

pub(super) fn restored_value(restored: &Restored) -> Value {
    json!({
        "namespace": restored.namespace,
        "revision": restored.from.as_ref().map(Held::revision),
        "epoch_before": restored.from.as_ref().and_then(Held::epoch).map(|epoch| epoch.0),
        "epoch": restored.after.epoch.0,
        "strategy": restored.after.strategy,
        "members": restored.after.members.iter().map(|member| &member.name).collect::<Vec<_>>(),
    })
}

pub(super) fn restored_text(name: &str, data_dir: &Path, restored: &[Restored]) -> String {
    let mut text = format!("{name} is restored in {}\n", data_dir.display());
    for Restored { namespace, from, after } in restored {
        text += &match from {
            Some(held) => {
                let before = held.epoch().map_or("from etcd".into(), |epoch| format!("epoch {}", epoch.0));
                let (revision, epoch) = (held.revision(), after.epoch.0);
                format!(
                    "{namespace}: revision {revision}, {before} → {}{epoch}, {}: {}\n",
                    if held.epoch().is_none() { "epoch " } else { "" },
                    after.strategy,
                    names(after)
                )
            }
            None => format!("{namespace}: empty\n"),
        };
    }
    text + "next: restore every other member from the same files, and start them all with `concur serve`, described as here\n"
}

pub(super) fn forced_value(forced: &Forced) -> Value {
    json!({
        "group": format!("{:x}", forced.group.0),
        "epoch_before": forced.before.epoch.0,
        "epoch": forced.after.epoch.0,
        "revision_kept": forced.kept_revision,
        "revision": forced.revision,
        "strategy": forced.after.strategy,
        "members_before": forced.before.members.iter().map(|member| &member.name).collect::<Vec<_>>(),
        "members": forced.after.members.iter().map(|member| &member.name).collect::<Vec<_>>(),
    })
}

pub(super) fn forced_text(data_dir: &Path, forced: &[Forced]) -> String {
    let mut text = String::new();
    for Forced { group, before, after, revision, kept_revision } in forced {
        let namespace = if group.0 == 0 { "default".to_owned() } else { format!("namespace {:x}", group.0) };
        let epochs = format!("epoch {} → {}", before.epoch.0, after.epoch.0);
        text += &format!("{namespace}: {epochs}, {} → {}\n", names(before), names(after));
        let from_log =
            if kept_revision < revision { format!(", of which {kept_revision} was kept and the rest in the log") } else { String::new() };
        text += &format!("{namespace}: it goes on at revision {revision}{from_log}\n");
    }
    let name = forced.first().and_then(|forced| forced.after.members.first()).map_or("NAME", |member| &member.name);
    text + &format!(
        "next: start {name} on {} as before (concur serve); add members again with `concur member add`, each with an empty data directory.\n\
         Never start the others on their old directories: delete those, or put them away\n",
        data_dir.display()
    )
}

pub(super) fn etcd_figures(summary: &EtcdSummary, bytes: u64) -> String {
    let EtcdSummary { revision, keys, versions, leases, .. } = summary;
    let compacted = if summary.compacted > 0 { format!(", compacted to {}", summary.compacted) } else { String::new() };
    format!("etcd's format   revision {revision}{compacted}   {keys} keys in {versions} versions   {leases} leases   {bytes} bytes")
}

pub(super) fn etcd_rest(summary: &EtcdSummary) -> String {
    let checked = if summary.hash_checked { "its SHA-256 is right" } else { "its SHA-256 was not looked at" };
    let version = Some(&summary.storage_version).filter(|version| !version.is_empty());
    let storage = version.map(|version| format!("storage {version}, ")).unwrap_or_default();
    format!("{storage}{checked}, hash {:016x}\n", summary.hash)
}

pub(super) fn etcd_value(summary: &EtcdSummary, file: &Path, bytes: u64) -> Value {
    json!({
        "file": file.display().to_string(),
        "format": "etcd",
        "revision": summary.revision,
        "compacted": summary.compacted,
        "keys": summary.keys,
        "versions": summary.versions,
        "leases": summary.leases,
        "bytes": bytes,
        "storage_version": summary.storage_version,
        "hash_checked": summary.hash_checked,
        "hash": format!("{:016x}", summary.hash),
    })
}
