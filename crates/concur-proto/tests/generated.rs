//! The checked-in Rust text is what the `.proto` files say.
//!
//! `CONCUR_PROTO_WRITE=1 cargo test -p concur-proto --test generated` writes it again after a change.

use prost::Message;
use std::path::{Path, PathBuf};
use std::{env, fs, process};

const PROTOS: [&str; 9] = [
    "etcd/kv.proto",
    "etcd/auth.proto",
    "etcd/lease.proto",
    "etcd/rpc.proto",
    "etcd/lock.proto",
    "etcd/election.proto",
    "concur/concur.proto",
    "concur/peer.proto",
    "grpc/health.proto",
];

fn generate(into: &Path) {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("proto");
    let files = PROTOS.iter().map(|name| root.join(name));
    let set = protox::compile(files, [&root]).expect("the .proto files compile");
    tonic_prost_build::configure().bytes(".").out_dir(into).compile_fds(set).expect("the compiled files generate");
}

/// The descriptors of what clients speak: without the peers' streams, and without the comments.
fn descriptors() -> Vec<u8> {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("proto");
    let files = PROTOS.iter().filter(|name| **name != "concur/peer.proto").map(|name| root.join(name));
    let mut set = protox::compile(files, [&root]).expect("the .proto files compile");
    set.file.iter_mut().for_each(|file| file.source_code_info = None);
    set.encode_to_vec()
}

#[test]
fn checked_in_descriptors_are_what_the_protos_say() {
    let kept = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("src/descriptors.bin");
    let fresh = descriptors();
    if env::var_os("CONCUR_PROTO_WRITE").is_some() {
        fs::write(&kept, &fresh).expect("the checked-in file is writable");
    }
    let old = fs::read(&kept).unwrap_or_default();
    assert!(old == fresh, "{} is stale: run again with CONCUR_PROTO_WRITE=1", kept.display());
}

#[test]
fn checked_in_text_is_what_the_protos_say() {
    let fresh = env::temp_dir().join(format!("concur-proto-{}", process::id()));
    fs::create_dir_all(&fresh).expect("a temporary directory");
    generate(&fresh);
    let kept = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("src/generated");
    let write = env::var_os("CONCUR_PROTO_WRITE").is_some();
    let mut names = Vec::new();
    for entry in fs::read_dir(&fresh).expect("the generated files") {
        let name = entry.expect("a generated file").file_name();
        let text = fs::read_to_string(fresh.join(&name)).expect("generated text");
        if write {
            fs::write(kept.join(&name), &text).expect("the checked-in file is writable");
        }
        let old = fs::read_to_string(kept.join(&name)).unwrap_or_default();
        assert!(old == text, "{} is stale: run again with CONCUR_PROTO_WRITE=1", name.display());
        names.push(name);
    }
    fs::remove_dir_all(&fresh).expect("the temporary directory goes away");
    let strays = fs::read_dir(&kept).expect("checked-in files").count();
    assert_eq!(strays, names.len(), "src/generated holds a file that no .proto makes");
}
