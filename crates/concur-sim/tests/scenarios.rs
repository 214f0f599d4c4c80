//! Every story in `scenarios/` holds.

use concur_sim::scenario::play;
use std::path::Path;

#[test]
fn every_story_holds() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("scenarios");
    let mut files: Vec<_> = std::fs::read_dir(folder).expect("there are some").map(|entry| entry.expect("it can be read").path()).collect();
    files.sort();
    let mut failed = Vec::new();
    for file in &files {
        let name = file.file_name().expect("it has a name").to_string_lossy().into_owned();
        if let Err(fails) = play(&std::fs::read_to_string(file).expect("it is text")) {
            failed.push(format!("{name}: {fails}"));
        }
    }
    assert!(failed.is_empty(), "{}", failed.join("\n"));
    println!("{} stories", files.len());
}
