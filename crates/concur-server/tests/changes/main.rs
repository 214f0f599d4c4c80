//! What changed in etcd 3.6 and 3.7, and in the last of 3.5, that a client can see: a list, walked.
//!
//! Each entry of `table` has a test of this folder, which asks over real gRPC and real HTTP, or names one elsewhere, or says why it
//! cannot concern Concur. The page `docs/etcd-changes.md` is the list; with `CONCUR_TEST_WRITE=1` it is written anew.
//!
//! With `CONCUR_TEST_ETCD=PATH` the tests ask a real etcd instead, which must pass all of them: so the list is held to etcd itself.

#[path = "../common/mod.rs"]
mod common;
mod guard;
mod kv;
mod leases;
mod members;
mod pages;
mod side;
mod table;
mod watch;

use std::collections::BTreeSet;
use std::fmt::Write;
use std::path::{Path, PathBuf};

use table::{CHANGES, Change, How};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

#[tokio::test]
async fn every_change_is_provoked_or_cannot_concern_concur() {
    let (mut here, mut wrong) = (BTreeSet::new(), Vec::new());
    for change in CHANGES {
        let How::Here(name, test) = &change.how else { continue };
        if here.insert(name) {
            let test = tokio::spawn(test());
            let stop = test.abort_handle();
            match tokio::time::timeout(4 * side::PATIENCE, test).await {
                Ok(Ok(())) => {}
                Ok(Err(panic)) => wrong.push(format!("{name}: {panic}")),
                Err(_) => {
                    stop.abort();
                    wrong.push(format!("{name}: it does not end"));
                }
            }
        }
    }
    let count = |is: fn(&How) -> bool| CHANGES.iter().filter(|change| is(&change.how)).count();
    println!(
        "{} changes: {} provoked here by {} tests, {} by tests elsewhere, {} with a reason why not",
        CHANGES.len(),
        count(|how| matches!(how, How::Here(..))),
        here.len(),
        count(|how| matches!(how, How::There(..))),
        count(|how| matches!(how, How::Not(_))),
    );
    assert!(wrong.is_empty(), "{} went wrong:\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn tests_elsewhere_are_there_and_reasons_are_given() {
    for change in CHANGES {
        match change.how {
            How::Here(..) => {}
            How::There(file, name) => {
                let text = std::fs::read_to_string(root().join(file)).unwrap_or_else(|error| panic!("{file}: {error}"));
                assert!(text.contains(&format!("fn {name}(")), "{file} has no test {name}");
            }
            How::Not(why) => assert!(why.len() > 20, "no reason: {}", change.what),
        }
    }
}

#[test]
fn the_page_shows_the_list() {
    let path = root().join("docs/etcd-changes.md");
    let page = page();
    if std::env::var_os("CONCUR_TEST_WRITE").is_some() {
        std::fs::write(&path, &page).unwrap();
    }
    assert_eq!(std::fs::read_to_string(&path).unwrap(), page, "write it anew with CONCUR_TEST_WRITE=1, and look at what changed");
}

const HEAD: &str = "# What changed in etcd 3.6 and 3.7

What changed in etcd 3.6 and 3.7, and in 3.5 from 3.5.2 on, that a client of the v3 API can see, and what becomes of it here: a test that provokes it
against Concur, and that etcd 3.7.3 passes too where it stands in `tests/changes`; or the reason why it does not concern Concur, or is not so here. The
list is gathered from etcd's announcements, advisories and change logs (3.7 up to 3.7.1; 3.6 up to 3.6.17, and of 3.6.7 to 3.6.15 what they say is fixed),
and from the source of 3.7.3. It is the table that `crates/concur-server/tests/changes` walks, which writes this page.

";

fn page() -> String {
    let mut page = HEAD.to_owned();
    for api in ["KV", "Watch", "Lease", "Cluster", "Maintenance", "Auth", "HTTP", "Metrics", "Program", "Tools"] {
        write!(page, "## {api}\n\n| since | what | here |\n| --- | --- | --- |\n").unwrap();
        for change in CHANGES.iter().filter(|change| change.api == api) {
            writeln!(page, "| {} | {} | {} |", since(change), change.what, here(&change.how)).unwrap();
        }
        page.push('\n');
    }
    page.truncate(page.trim_end().len());
    page + "\n"
}

fn since(change: &Change) -> String {
    match change.at {
        "" => change.since.to_owned(),
        at if at.starts_with("GHSA") => format!("[{}](https://github.com/etcd-io/etcd/security/advisories/{at})", change.since),
        at => format!("[{}](https://github.com/etcd-io/etcd/pull/{at})", change.since),
    }
}

fn here(how: &How) -> String {
    match how {
        How::Here(name, _) => {
            let (file, test) = name.split_once("::").expect("a module and a name");
            format!("[`{test}`](../crates/concur-server/tests/changes/{file}.rs)")
        }
        How::There(file, name) => format!("[`{name}`](../{file})"),
        How::Not(why) => (*why).into(),
    }
}
