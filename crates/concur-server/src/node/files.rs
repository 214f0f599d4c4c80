//! Small files of the data directory that the node keeps: which system it belongs to, and which lives its peers were met in.

use super::{NodeError, NodeOptions, io};
use crate::peers::Life;
use concur_core::Ordering;
use concur_store::dir::{DataDir, write_whole};
use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::Path;
use std::time::SystemTime;

/// Compares the system with the one that the directory was written by, or notes it down.
/// Where configurations were changed since, `moved`, a difference is told and is no error.
pub(super) fn check_system(dir: &DataDir, options: &NodeOptions, moved: bool) -> Result<(), NodeError> {
    let path = dir.root().join("system");
    let wanted = describe(options);
    let found = match std::fs::read_to_string(&path) {
        Ok(found) => found,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return write_whole(&path, wanted.as_bytes()).map_err(io(format!("cannot write {}", path.display())));
        }
        Err(error) => return Err(io(format!("cannot read {}", path.display()))(error)),
    };
    let differs = |line: &&str| !wanted.lines().any(|other| other == *line);
    let gone = found.lines().find(differs);
    let added = wanted.lines().find(|line| !found.lines().any(|other| other == *line) && !line.starts_with("namespace"));
    let difference = match (gone, added) {
        (None, None) if found.lines().count() == wanted.lines().count() => return Ok(()),
        // A namespace that is new begins with an empty history.
        (None, None) => return write_whole(&path, wanted.as_bytes()).map_err(io(format!("cannot write {}", path.display()))),
        (Some(gone), _) => format!("it says “{gone}”, and the configuration does not"),
        (None, Some(added)) => format!("the configuration says “{added}”, and it does not"),
    };
    if moved {
        tracing::warn!("the description of this system differs from the data, which count: {difference}");
        return Ok(());
    }
    Err(NodeError::OtherSystem { path: dir.root().to_owned(), difference })
}

fn describe(options: &NodeOptions) -> String {
    let mut text = String::new();
    let names = |set: concur_core::ReplicaSet| {
        let names = set.iter().filter_map(|id| options.members.get(usize::from(id.0)));
        names.map(|member| member.name.as_str()).collect::<Vec<_>>().join(" ")
    };
    let _ = writeln!(text, "token {}", options.cluster_token);
    let _ = writeln!(text, "members {}", names(concur_core::ReplicaSet::first(options.members.len())));
    for group in &options.groups {
        let order = if group.order == Ordering::Total { "total" } else { "per-key" };
        let (name, strategy) = (&group.name, group.strategy.traits.name);
        let _ = writeln!(
            text,
            "namespace {name}: strategy {strategy}, order {order}, voters {}, {:?}",
            names(group.quorums.voters),
            group.quorums.rule
        );
    }
    text
}

/// Writes down under which lives peers were met.
pub(crate) fn write_lives(dir: &DataDir, lives: &BTreeMap<u64, Life>) -> Result<(), NodeError> {
    let path = dir.root().join("peers");
    let mut text = String::new();
    for (id, life) in lives {
        let _ = writeln!(text, "{id:016x} {} {}", life.incarnation, life.boot);
    }
    let _ = writeln!(text, "end {}", lives.len());
    write_whole(&path, text.as_bytes()).map_err(io(format!("cannot write {}", path.display())))
}

/// Reads them back.
pub(super) fn read_lives(dir: &DataDir) -> Result<BTreeMap<u64, Life>, NodeError> {
    let path = dir.root().join("peers");
    let text = match std::fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(BTreeMap::new()),
        Err(error) => return Err(io(format!("cannot read {}", path.display()))(error)),
    };
    parse_lives(&text).ok_or_else(|| {
        let source = std::io::Error::new(std::io::ErrorKind::InvalidData, "its lines are not as written");
        io(format!("cannot read {}; which lives of its peers this node trusted is no longer known", path.display()))(source)
    })
}

fn parse_lives(text: &str) -> Option<BTreeMap<u64, Life>> {
    let mut lives = BTreeMap::new();
    let (lines, end) = text.trim_end().rsplit_once('\n').unwrap_or(("", text.trim_end()));
    for line in lines.lines() {
        let mut words = line.split(' ');
        let id = u64::from_str_radix(words.next()?, 16).ok()?;
        lives.insert(id, Life { incarnation: words.next()?.parse().ok()?, boot: words.next()?.parse().ok()? });
    }
    (end == format!("end {}", lives.len())).then_some(lives)
}

/// When the group was last known to live: as it was noted, or else when something was last written to the log, by the file system's word.
pub(crate) fn last_alive_ms(data_dir: &Path) -> Option<u64> {
    if let Some(noted) = std::fs::read_to_string(data_dir.join(ALIVE)).ok().and_then(|text| text.trim().parse().ok()) {
        return Some(noted);
    }
    let modified = |entry: std::io::Result<std::fs::DirEntry>| entry.ok()?.metadata().ok()?.modified().ok();
    let newest = std::fs::read_dir(data_dir.join("log")).ok()?.filter_map(modified).max()?;
    u64::try_from(newest.duration_since(SystemTime::UNIX_EPOCH).ok()?.as_millis()).ok()
}

/// The note of when the group was last known to live. It stands until the group lives again: starts in vain, and what is done while no
/// node runs, write to the log too.
const ALIVE: &str = "alive";

/// Writes it down.
pub(crate) fn note_last_alive(dir: &DataDir, wall_ms: u64) -> Result<(), NodeError> {
    let path = dir.root().join(ALIVE);
    write_whole(&path, format!("{wall_ms}\n").as_bytes()).map_err(io(format!("cannot write {}", path.display())))
}

/// The group lives: from now on the log tells.
pub(crate) fn forget_last_alive(dir: &DataDir) {
    let _ = std::fs::remove_file(dir.root().join(ALIVE));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lives_come_back_and_cut_ones_do_not() {
        let text = "0 17 2\n2 18 1\nend 2\n";
        let lives = parse_lives(text).unwrap();
        assert_eq!(lives[&2], Life { incarnation: 18, boot: 1 });
        for n in 0..text.len() - 1 {
            assert!(parse_lives(&text[..n]).is_none(), "{n}");
        }
    }
}
