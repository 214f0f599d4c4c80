//! Each file under `files/` is a description of a system; beside it stands what is found in it. A file is named for what it shows.
//!
//! With `CONCUR_TEST_WRITE=1` the expected texts are written anew, to be reviewed as changed behaviour.

use std::fmt::Write;
use std::path::Path;

fn found(text: &str) -> String {
    let document = concur::Document::read(text);
    let mut out = String::new();
    for finding in document.findings() {
        writeln!(out, "{finding}").unwrap();
    }
    match document.prediction() {
        None => writeln!(out, "invalid").unwrap(),
        Some(p) => {
            writeln!(out, "valid: {} voters, a quorum is {}, {} may be lost", p.voters, p.quorum, p.failures_survived).unwrap();
            for latency in p.latencies {
                writeln!(out, "  {} writes in {:?}, {:?} when commands collide", latency.member, latency.usual, latency.collided).unwrap();
            }
        }
    }
    out
}

#[test]
fn each_file_is_answered_with_what_stands_beside_it() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/files");
    let write = std::env::var_os("CONCUR_TEST_WRITE").is_some();
    let mut seen = 0;
    let mut wrong = Vec::new();
    for entry in std::fs::read_dir(&folder).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|e| e != "toml") {
            continue;
        }
        seen += 1;
        let got = found(&std::fs::read_to_string(&path).unwrap());
        let expected = path.with_extension("txt");
        if write {
            std::fs::write(&expected, &got).unwrap();
        }
        let wanted = std::fs::read_to_string(&expected).unwrap_or_default();
        if got != wanted {
            wrong.push(format!("== {}\n-- wanted\n{wanted}-- got\n{got}", path.display()));
        }
    }
    assert!(seen >= 16, "only {seen} files");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_code_that_is_used_is_explained_once() {
    let mut codes: Vec<_> = concur::explanations().iter().map(|e| e.code).collect();
    codes.sort_unstable();
    codes.dedup();
    assert_eq!(codes.len(), concur::explanations().len());
    assert!(concur::explain("c020").is_some());
    assert!(concur::explain("C999").is_none());
}
