//! The layers of ARCHITECTURE.md hold: the edges between crates are those of its table, and a protocol's name stands in its own
//! folder and in the registry's list only.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().unwrap()
}

/// What each crate uses, as the table says.
fn table() -> BTreeMap<String, BTreeSet<String>> {
    let text = std::fs::read_to_string(root().join("ARCHITECTURE.md")).unwrap();
    let rows = text.lines().filter(|line| line.starts_with("| `concur"));
    let full = |short: &str| if short == "concur" { short.to_owned() } else { format!("concur-{short}") };
    rows.map(|row| {
        let mut cells = row.trim_matches('|').split('|').map(str::trim);
        let name = cells.next().unwrap().trim_matches('`').to_owned();
        (name, cells.next().unwrap().split_whitespace().filter(|word| *word != "–").map(full).collect())
    })
    .collect()
}

/// What each crate uses, as cargo says; what only its tests use does not count.
fn edges() -> BTreeMap<String, BTreeSet<String>> {
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".into());
    let output =
        Command::new(cargo).args(["metadata", "--no-deps", "--format-version", "1", "--offline"]).current_dir(root()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let packages = metadata["packages"].as_array().unwrap();
    let name = |package: &serde_json::Value| package["name"].as_str().unwrap().to_owned();
    let ours: BTreeSet<String> = packages.iter().map(name).collect();
    let uses = |package: &serde_json::Value| {
        let dependencies = package["dependencies"].as_array().unwrap().iter().filter(|d| d["kind"] != "dev").map(name);
        dependencies.filter(|d| ours.contains(d)).collect()
    };
    packages.iter().map(|package| (name(package), uses(package))).collect()
}

#[test]
fn crates_use_what_the_table_says() {
    assert_eq!(edges(), table(), "left: cargo metadata; right: the table in ARCHITECTURE.md");
}

#[test]
fn only_the_server_and_the_client_know_sockets() {
    let heavy = ["tokio", "hyper", "tonic"];
    for name in ["core", "network", "decision", "execution", "kv", "store", "replica", "sim", "example-viewstamped"] {
        let manifest = std::fs::read_to_string(root().join(format!("crates/concur-{name}/Cargo.toml"))).unwrap();
        let dependencies = manifest.split("[dev-dependencies]").next().unwrap();
        assert!(!heavy.iter().any(|dep| dependencies.lines().any(|line| line.starts_with(dep))), "concur-{name} must not know sockets");
    }
}

fn sources(dir: &Path, out: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, out);
        } else if path.extension().is_some_and(|e| e == "rs") {
            out.push(path);
        }
    }
}

/// The code of a file: without comments, and without its unit tests.
fn code(path: &Path) -> String {
    let text = std::fs::read_to_string(path).unwrap();
    let text = text.split("#[cfg(test)]").next().unwrap_or_default();
    text.lines().map(|line| line.split("//").next().unwrap_or_default()).collect::<Vec<_>>().join("\n")
}

#[test]
fn a_protocol_is_named_in_its_folder_and_in_the_registry_only() {
    let decision = root().join("crates/concur-decision/src");
    // What several protocols share stands in a folder too, and is none.
    let is_protocol = |p: &PathBuf| std::fs::read_to_string(p.join("mod.rs")).is_ok_and(|text| text.contains("const TRAITS: Traits"));
    let folders = std::fs::read_dir(&decision).unwrap().map(|e| e.unwrap().path()).filter(is_protocol);
    let names: Vec<String> = folders.map(|p| p.file_name().unwrap().to_str().unwrap().to_owned()).collect();
    assert!(names.len() >= 2, "{names:?}");
    let mut files = Vec::new();
    for krate in std::fs::read_dir(root().join("crates")).unwrap() {
        let src = krate.unwrap().path().join("src");
        if src.is_dir() {
            sources(&src, &mut files);
        }
    }
    let word = |c: char| c.is_alphanumeric() || c == '_';
    for file in files {
        let own_folder = file.strip_prefix(&decision).ok().and_then(|p| p.components().next()).map(|c| c.as_os_str().to_owned());
        let generated = file.components().any(|c| c.as_os_str() == "generated");
        if generated || file == decision.join("lib.rs") {
            continue;
        }
        // A word in capitals is part of a text that etcd's API prescribes; one that begins with one, in a text, is part of a title.
        let named = |w: &&str, text: bool| {
            let mut letters = w.chars();
            let capital = letters.next().is_some_and(char::is_uppercase);
            names.contains(&w.to_lowercase()) && letters.any(|c| c.is_lowercase()) && !(text && capital)
        };
        let code = code(&file);
        let parts = code.split('"').enumerate();
        for found in parts.flat_map(|(at, part)| part.split(|c| !word(c)).filter(move |w| named(w, at % 2 == 1))) {
            let at_home = own_folder.as_ref().is_some_and(|folder| *folder == *found.to_lowercase());
            assert!(at_home, "{} names {found}: iterate the registry instead", file.display());
        }
    }
}
