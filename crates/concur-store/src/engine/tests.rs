//! Claims about engines: the same for both, where they have the same to promise.

use std::sync::mpsc::{self, Receiver};

use super::*;
use crate::testing::Scratch;

const G: GroupId = GroupId(1);
const H: GroupId = GroupId(2);
const CACHE_BYTES: usize = 1 << 20;

fn bytes(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

fn write(group: GroupId, entries: &[(&str, Option<&str>)], mark: &str) -> Write {
    Write { group, bulk: bulk(entries), mark: bytes(mark) }
}

fn bulk(entries: &[(&str, Option<&str>)]) -> Bulk {
    entries.iter().map(|(key, value)| (bytes(key), value.map(bytes))).collect()
}

/// A group's whole state as text.
fn shown(reader: &dyn EngineRead, group: GroupId) -> String {
    let Some(view) = reader.view(group).expect("views") else {
        return "nothing".into();
    };
    let mut text = format!("{}:", String::from_utf8_lossy(&view.mark));
    for entry in view.entries().expect("reads") {
        let (key, value) = entry.expect("reads");
        text += &format!(" {}={}", String::from_utf8_lossy(&key), String::from_utf8_lossy(&value));
    }
    text
}

fn with_each_engine(check: impl Fn(&mut dyn Engine)) {
    let scratch = Scratch::new("engine");
    check(&mut MemoryEngine::default());
    check(&mut RedbEngine::open(&scratch.path().join("state.redb"), CACHE_BYTES).expect("opens"));
}

#[test]
fn writes_are_seen_by_group_and_with_their_mark() {
    with_each_engine(|engine| {
        let reader = engine.reader();
        assert_eq!(shown(&*reader, G), "nothing");
        let first = [write(G, &[("a", Some("1")), ("b", Some("2"))], "m1"), write(H, &[("a", Some("9"))], "m7")];
        engine.apply(&first, false).expect("applies");
        engine.apply(&[write(G, &[("a", None), ("c", Some("3")), ("c", Some("4"))], "m2")], true).expect("applies");
        assert_eq!(shown(&*reader, G), "m2: b=2 c=4");
        assert_eq!(shown(&*reader, H), "m7: a=9");
        assert_eq!(reader.get(G, b"c").expect("gets"), Some(bytes("4")));
        assert_eq!(reader.get(G, b"a").expect("gets"), None);
        assert_eq!(reader.mark(H).expect("reads"), Some(bytes("m7")));
        assert_eq!(reader.groups().expect("reads"), [G, H]);
    });
}

#[test]
fn a_view_stays_as_it_was() {
    with_each_engine(|engine| {
        engine.apply(&[write(G, &[("a", Some("1"))], "m1")], false).expect("applies");
        let view = engine.reader().view(G).expect("views").expect("there is a state");
        engine.apply(&[write(G, &[("a", Some("2")), ("b", Some("3"))], "m2")], true).expect("applies");
        assert_eq!(view.mark, bytes("m1"));
        for _ in 0..2 {
            let entries: Vec<_> = view.entries().expect("reads").collect::<Result<_, _>>().expect("reads");
            assert_eq!(entries, [(bytes("a"), bytes("1"))]);
        }
    });
}

#[test]
fn an_install_takes_the_place_of_the_state_at_once() {
    with_each_engine(|engine| {
        let reader = engine.reader();
        engine.apply(&[write(G, &[("old", Some("1"))], "m1")], true).expect("applies");
        engine.begin_install(G).expect("begins");
        engine.install(G, &bulk(&[("given up", Some("1"))])).expect("installs");
        engine.begin_install(G).expect("begins again");
        engine.install(G, &bulk(&[("x", Some("1"))])).expect("installs");
        engine.install(G, &bulk(&[("y", Some("2"))])).expect("installs");
        assert_eq!(shown(&*reader, G), "m1: old=1");
        engine.finish_install(G, &bytes("m9")).expect("finishes");
        assert_eq!(shown(&*reader, G), "m9: x=1 y=2");
        engine.apply(&[write(G, &[("z", Some("3"))], "m10")], true).expect("applies");
        assert_eq!(shown(&*reader, G), "m10: x=1 y=2 z=3");
    });
}

#[test]
fn a_restart_keeps_what_was_durable_and_no_half_install() {
    let scratch = Scratch::new("engine-restart");
    let path = scratch.path().join("state.redb");
    let mut engine = RedbEngine::open(&path, CACHE_BYTES).expect("opens");
    engine.apply(&[write(G, &[("a", Some("1"))], "m1")], true).expect("applies");
    engine.begin_install(G).expect("begins");
    engine.install(G, &bulk(&[("half", Some("1"))])).expect("installs");
    engine.apply(&[], true).expect("syncs");
    // What a crash leaves: the file as it is now, not closed.
    let crashed = scratch.path().join("crashed.redb");
    std::fs::copy(&path, &crashed).expect("copies");
    let mut engine = RedbEngine::open(&crashed, CACHE_BYTES).expect("opens after a crash");
    assert_eq!(shown(&*engine.reader(), G), "m1: a=1");
    engine.begin_install(G).expect("begins");
    engine.finish_install(G, &bytes("m5")).expect("finishes");
    drop(engine);
    let engine = RedbEngine::open(&crashed, CACHE_BYTES).expect("opens");
    assert_eq!(shown(&*engine.reader(), G), "m5:");
}

fn spawned(options: EngineOptions) -> (EngineThread, Receiver<EngineEvent>) {
    let (sender, events) = mpsc::channel();
    let report = move |event| drop(sender.send(event));
    (EngineThread::spawn(MemoryEngine::default(), options, report).expect("starts"), events)
}

#[test]
fn the_thread_reports_what_is_written_and_what_is_durable() {
    let (thread, events) = spawned(EngineOptions::default());
    for i in 0..10 {
        let command = EngineCommand::Write(write(G, &[("k", Some("v"))], &i.to_string()));
        thread.submit(command).expect("there is room");
    }
    thread.submit(EngineCommand::Sync).expect("there is room");
    let mut last = None;
    for event in &events {
        match event {
            EngineEvent::Written(G, mark) => last = Some(mark),
            EngineEvent::Durable(G, mark) => {
                assert_eq!(mark, bytes("9"));
                break;
            }
            other => panic!("unexpected {other:?}"),
        }
    }
    assert_eq!(last, Some(bytes("9")));
    assert_eq!(thread.queued_bytes(), 0);
    thread.submit(EngineCommand::Write(write(H, &[], "last"))).expect("there is room");
    drop(thread);
    assert!(events.iter().any(|event| event == EngineEvent::Durable(H, bytes("last"))), "dropping it syncs");
}

#[test]
fn enough_bytes_or_transactions_are_durable_unasked() {
    for options in
        [EngineOptions { sync_transactions: 1, ..EngineOptions::default() }, EngineOptions { sync_bytes: 100, ..EngineOptions::default() }]
    {
        let (thread, events) = spawned(options);
        thread.submit(EngineCommand::Write(write(G, &[("k", Some("v"))], "m"))).expect("there is room");
        assert_eq!(events.recv(), Ok(EngineEvent::Written(G, bytes("m"))));
        assert_eq!(events.recv(), Ok(EngineEvent::Durable(G, bytes("m"))));
    }
}

/// An engine that waits for leave before each transaction, and may fail.
struct Reluctant {
    leave: Receiver<bool>,
    inner: MemoryEngine,
}

impl Engine for Reluctant {
    fn apply(&mut self, writes: &[Write], durable: bool) -> Result<(), EngineError> {
        match self.leave.recv() {
            Ok(true) => self.inner.apply(writes, durable),
            _ => Err(EngineError { operation: "write", full: true, message: "no".into() }),
        }
    }
    fn begin_install(&mut self, group: GroupId) -> Result<(), EngineError> {
        self.inner.begin_install(group)
    }
    fn install(&mut self, group: GroupId, bulk: &Bulk) -> Result<(), EngineError> {
        self.inner.install(group, bulk)
    }
    fn finish_install(&mut self, group: GroupId, mark: &Bytes) -> Result<(), EngineError> {
        self.inner.finish_install(group, mark)
    }
    fn compact(&mut self) -> Result<bool, EngineError> {
        self.inner.compact()
    }
    fn reader(&self) -> Arc<dyn EngineRead> {
        self.inner.reader()
    }
}

#[test]
fn compaction_gives_space_back_but_not_while_a_view_is_held() {
    let scratch = Scratch::new("compact");
    let path = scratch.path().join("state.redb");
    let mut engine = RedbEngine::open(&path, CACHE_BYTES).expect("opens");
    let large = "v".repeat(100_000);
    let keys: Vec<String> = (0..200).map(|i| format!("{i:04}")).collect();
    let large: Vec<_> = keys.iter().map(|key| (key.as_str(), Some(large.as_str()))).collect();
    let gone: Vec<_> = keys.iter().map(|key| (key.as_str(), None)).collect();
    engine.apply(&[write(G, &large, "m1")], true).expect("applies");
    engine.apply(&[write(G, &gone, "m2"), write(G, &[("left", Some("1"))], "m3")], true).expect("applies");
    let bytes_now = || std::fs::metadata(&path).expect("is there").len();
    let before = bytes_now();
    let view = engine.reader().view(G).expect("views").expect("there is a state");
    assert_eq!(engine.compact(), Ok(false));
    drop(view);
    assert_eq!(engine.compact(), Ok(true));
    assert!(bytes_now() < before / 4, "{} of {before} bytes are left", bytes_now());
    assert_eq!(shown(&*engine.reader(), G), "m3: left=1");
}

#[test]
fn the_thread_tells_in_order() {
    let (thread, events) = spawned(EngineOptions::default());
    thread.submit(EngineCommand::Write(write(G, &[("k", Some("v"))], "m"))).expect("there is room");
    thread.submit(EngineCommand::Tell(7)).expect("there is room");
    thread.submit(EngineCommand::Compact(8)).expect("there is room");
    let told =
        [EngineEvent::Written(G, bytes("m")), EngineEvent::Told(7, true), EngineEvent::Durable(G, bytes("m")), EngineEvent::Told(8, true)];
    assert_eq!(events.iter().take(4).collect::<Vec<_>>(), told);
}

#[test]
fn a_full_queue_hands_back_and_a_failure_is_reported_once_and_stays() {
    let (allow, leave) = mpsc::channel();
    let (sender, events) = mpsc::channel();
    let engine = Reluctant { leave, inner: MemoryEngine::default() };
    let options = EngineOptions { queue_max: 2, ..EngineOptions::default() };
    let thread = EngineThread::spawn(engine, options, move |event| drop(sender.send(event))).expect("starts");
    let command = EngineCommand::Write(write(G, &[("k", Some("v"))], "m"));
    let mut refused = None;
    for _ in 0..2_000_000 {
        if let Err(error) = thread.submit(command.clone()) {
            refused = Some(error);
            break;
        }
    }
    assert_eq!(refused, Some(Refused::Busy(command.clone())));
    allow.send(false).expect("it waits");
    let failure = EngineError { operation: "write", full: true, message: "no".into() };
    assert_eq!(events.recv(), Ok(EngineEvent::Failed(failure.clone())));
    assert_eq!(thread.submit(command), Err(Refused::Failed(failure)));
    assert!(events.recv().is_err(), "nothing is reported after a failure");
}

#[test]
fn the_queue_is_bounded_in_bytes_too() {
    let (_allow, leave) = mpsc::channel();
    let engine = Reluctant { leave, inner: MemoryEngine::default() };
    let options = EngineOptions { queue_bytes_max: 1000, ..EngineOptions::default() };
    let thread = EngineThread::spawn(engine, options, drop).expect("starts");
    let large = "v".repeat(5000);
    let command = || EngineCommand::Write(write(G, &[("k", Some(&large))], "m"));
    let accepted = (0..1000).filter(|_| thread.submit(command()).is_ok()).count();
    assert!((1..=4).contains(&accepted), "{accepted} accepted");
    drop(_allow);
}

/// A byte that changed, a sector that was emptied, an end that is gone: noticed when the engine opens, or of no consequence.
#[test]
fn damage_is_refused_or_changes_nothing() {
    let scratch = Scratch::new("engine-damage");
    let (closed, left, hurt) = (scratch.path().join("state.redb"), scratch.path().join("left.redb"), scratch.path().join("hurt.redb"));
    let expected = filled(&closed, &left);
    let mut rng = concur_core::Rng::new(7);
    for file in [closed, left] {
        let sound = std::fs::read(&file).expect("reads");
        let used: Vec<usize> = (0..sound.len()).filter(|&at| sound[at] != 0 || at < 4_096).collect();
        for kind in ["flipped", "emptied", "cut"] {
            let (mut refused, mut harmless) = (0, 0);
            for _ in 0..60 {
                let at = used[rng.below(used.len() as u64) as usize];
                let mut bytes = sound.clone();
                match kind {
                    "flipped" => bytes[at] ^= 1 << rng.below(8),
                    "emptied" => bytes[at / 512 * 512..][..512].fill(0),
                    _ => bytes.truncate(at),
                }
                std::fs::write(&hurt, bytes).expect("writes");
                let Ok(engine) = RedbEngine::open(&hurt, CACHE_BYTES) else {
                    refused += 1;
                    continue;
                };
                let reader = engine.reader();
                assert_eq!([shown(&*reader, G), shown(&*reader, H)], expected, "{kind} at {at} of {}", file.display());
                harmless += 1;
            }
            assert!(refused > 0, "{kind}, {}: {harmless} harmless", file.display());
        }
    }
}

/// Makes two files, one that was closed and one as a crash leaves it, and answers what both hold.
fn filled(closed: &std::path::Path, left: &std::path::Path) -> [String; 2] {
    let mut engine = RedbEngine::open(closed, CACHE_BYTES).expect("opens");
    let long = "v".repeat(6_000);
    for round in 0..40 {
        let entries: Vec<(String, String)> = (0..50).map(|i| (format!("key {}", round * 50 + i), format!("value {round} {i}"))).collect();
        let mut entries: Vec<_> = entries.iter().map(|(key, value)| (key.as_str(), Some(value.as_str()))).collect();
        entries.push(("long", Some(&long)));
        engine.apply(&[write(G, &entries, &format!("m{round}"))], round % 4 == 3).expect("applies");
    }
    engine.apply(&[write(H, &[("a", Some("1"))], "m1")], true).expect("applies");
    std::fs::copy(closed, left).expect("copies");
    [shown(&*engine.reader(), G), shown(&*engine.reader(), H)]
}
