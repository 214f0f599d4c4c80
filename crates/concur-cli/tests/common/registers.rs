//! Registers under load. Each writer owns one and writes growing numbers into it, each only over a smaller one, so that a write whose
//! client gave up cannot come back over a later one. A strong read that began after a number was acknowledged, or read, must not
//! answer with a smaller one, wherever it is asked. Beside it each writer leaves keys of its own, none of which may be lost.

use bytes::Bytes;
use concur_proto::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use concur_proto::etcdserverpb::request_op::Request;
use concur_proto::etcdserverpb::{Compare, PutRequest, RequestOp, TxnRequest};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::{Duration, Instant};
use tokio::task::JoinHandle;

pub(crate) const WRITERS: usize = 4;
/// How long one call may take.
pub(crate) const CALL_TIME_MAX: Duration = Duration::from_millis(1500);

/// What is known of one register.
#[derive(Default)]
struct Register {
    /// The greatest number that anybody tried to write.
    tried: u64,
    /// The greatest that was acknowledged to its writer, or answered to a reader.
    known: u64,
}

/// What the clients of one run saw.
#[derive(Default)]
pub(crate) struct History {
    registers: [Register; WRITERS],
    pub(crate) acknowledged: Vec<(Bytes, Bytes)>,
    /// When each was.
    pub(crate) times: Vec<Instant>,
    pub(crate) reads: u64,
    pub(crate) violations: Vec<String>,
}

pub(crate) type Shared = Rc<RefCell<History>>;
/// Why something failed, for people.
pub(crate) type Said<T> = Result<T, String>;

pub(crate) async fn within<T, E: ToString>(call: impl Future<Output = Result<T, E>>) -> Said<T> {
    match tokio::time::timeout(CALL_TIME_MAX, call).await {
        Ok(answer) => answer.map_err(|error| error.to_string()),
        Err(_) => Err("no answer".into()),
    }
}

/// A writer's register.
pub(crate) fn key(writer: usize) -> Bytes {
    Bytes::from(format!("register/{writer}"))
}

/// Equal lengths, so that the order of bytes is that of numbers.
pub(crate) fn number(n: u64) -> Bytes {
    Bytes::from(format!("{n:012}"))
}

/// The keys of the writers' own: from here to there.
pub(crate) fn own_keys() -> (Bytes, Bytes) {
    (Bytes::from("written/"), Bytes::from("written0"))
}

pub(crate) fn own_key(writer: usize, n: u64) -> Bytes {
    Bytes::from(format!("written/{writer}/{n:012}"))
}

/// Writes `n` into a register, over etcd's API, if it holds less.
pub(crate) fn write_over_less(writer: usize, n: u64) -> TxnRequest {
    let compare = Compare {
        key: key(writer),
        result: CompareResult::Less as i32,
        target: CompareTarget::Value as i32,
        target_union: Some(TargetUnion::Value(number(n))),
        ..Compare::default()
    };
    let put = PutRequest { key: key(writer), value: number(n), ..PutRequest::default() };
    let success = vec![RequestOp { request: Some(Request::RequestPut(put)) }];
    TxnRequest { compare: vec![compare], success, failure: Vec::new() }
}

impl History {
    pub(crate) fn acknowledge(&mut self, key: Bytes, value: Bytes) {
        self.acknowledged.push((key, value));
        self.times.push(Instant::now());
    }

    pub(crate) fn tries(&mut self, writer: usize, n: u64) {
        self.registers[writer].tried = n;
    }

    /// A writer was told whether its register held less.
    pub(crate) fn wrote(&mut self, writer: usize, n: u64, done: bool) {
        if !done {
            self.violations.push(format!("writer {writer}: {n} was executed twice, or its register went ahead of its writer"));
        }
        let register = &mut self.registers[writer];
        register.known = register.known.max(n);
    }

    /// What a read that begins now has to find at least.
    pub(crate) fn known(&self, register: usize) -> u64 {
        self.registers[register].known
    }

    /// What a strong read says: nothing older than what was known when it began, and nothing that nobody tried to write.
    pub(crate) fn read(&mut self, register: usize, known: u64, value: Option<&[u8]>, at: &str) {
        self.reads += 1;
        let value = value.map(String::from_utf8_lossy);
        let Register { tried, known: greatest } = &mut self.registers[register];
        match value.as_deref().map(str::parse::<u64>) {
            Some(Ok(n)) if n >= known && n <= *tried => *greatest = n.max(*greatest),
            _ => {
                let what = format!("{at} answered {value:?} for register {register}: {known} was known, {tried} was tried");
                self.violations.push(what);
            }
        }
    }

    /// What was acknowledged and is not held.
    pub(crate) fn lost(&self, held: &BTreeMap<Bytes, Bytes>) -> Vec<&Bytes> {
        self.acknowledged.iter().filter(|(key, value)| held.get(key) != Some(value)).map(|(key, _)| key).collect()
    }

    pub(crate) fn assert_sound(&self) {
        assert!(self.violations.is_empty(), "{:#?}", self.violations);
    }
}

/// Ends the clients, none of which may have ended by itself.
pub(crate) async fn stop(tasks: Vec<JoinHandle<()>>) {
    tasks.iter().for_each(JoinHandle::abort);
    for task in tasks {
        assert!(task.await.is_err_and(|error| error.is_cancelled()), "a client panicked");
    }
}
