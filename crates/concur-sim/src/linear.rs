//! The second checker: searches for an order of each key's operations that real time and the answers allow, knowing nothing else.
//!
//! The algorithm is Wing and Gong's with Lowe's memory of what was tried (*Testing for linearizability*, 2017). A key is a
//! register; values are unique, so a put whose outcome is unknown and whose value nobody saw can be left out. It has a budget, and
//! says so when that is spent.

use crate::clients::Event;
use crate::ledger::Violation;
use crate::requests;
use crate::schedule::{Act, Schedule};
use crate::witness::key;
use crate::world::Verdict;
use bytes::Bytes;
use concur_core::{Time, Wire};
use concur_kv::{Answer, KeyValue, OpReply, Reply};
use std::collections::BTreeSet;

/// How many steps one key's search may take.
const STEPS_MAX: u64 = 2_000_000;

/// The value of a register: 0 for none.
type Value = u64;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Write(Value),
    Read(Value),
}

#[derive(Debug, Clone, Copy)]
struct Op {
    step: Step,
    invoked: Time,
    /// `None`: it may have happened, at any time later.
    returned: Option<Time>,
}

pub(crate) fn check(schedule: &Schedule, events: &[&Event]) -> Verdict {
    for number in 0..=schedule.keys {
        let ops = project(schedule, events, number);
        match search(&ops) {
            Some(true) => {}
            Some(false) => {
                let message = format!("no order explains what clients saw of key {:?}", key(number));
                return Verdict::Violated(Violation::new("linearizability", message));
            }
            None => return Verdict::Unknown(format!("the search on key {:?} ran out of budget", key(number))),
        }
    }
    Verdict::Valid
}

/// One key's operations.
fn project(schedule: &Schedule, events: &[&Event], number: u8) -> Vec<Op> {
    let mut ops: Vec<Op> = Vec::new();
    let mut doubtful: Vec<Op> = Vec::new();
    for event in events {
        if event.operation.act == Act::Peek || !requests::keys(&event.operation, schedule.keys).contains(&number) {
            continue;
        }
        let own = 1 + (u64::from(event.id.client) << 32 | u64::from(event.id.number));
        let op = |step| Op { step, invoked: event.invoked, returned: event.returned };
        if event.returned.is_some() {
            ops.push(op(answered(event, number, own)));
        } else {
            match event.operation.act {
                Act::Put | Act::Swap | Act::PutTwo => doubtful.push(op(Step::Write(own))),
                Act::Delete => ops.push(op(Step::Write(0))),
                Act::Get | Act::GetAll | Act::Peek => {}
            }
        }
    }
    let read: BTreeSet<Value> = ops.iter().filter_map(|op| if let Step::Read(value) = op.step { Some(value) } else { None }).collect();
    ops.extend(doubtful.into_iter().filter(|op| matches!(op.step, Step::Write(value) if read.contains(&value))));
    ops.sort_by_key(|op| op.invoked);
    ops
}

/// What an operation that was answered did to the key.
fn answered(event: &Event, number: u8, own: Value) -> Step {
    match (event.operation.act, Reply::from_bytes(&event.answer)) {
        (Act::Put | Act::PutTwo, _) => Step::Write(own),
        (Act::Delete, _) => Step::Write(0),
        (Act::Swap, Ok(Reply::Txn(txn))) if !txn.succeeded => match txn.replies.first() {
            Some(OpReply::Range(range)) => Step::Read(value_of(&range.kvs, number)),
            _ => Step::Read(u64::MAX),
        },
        (Act::Swap, _) => Step::Write(own),
        (_, Ok(Reply::Read(Answer::Range(range)))) => Step::Read(value_of(&range.kvs, number)),
        // An answer that is none of these explains nothing.
        _ => Step::Read(u64::MAX),
    }
}

fn value_of(kvs: &[KeyValue], number: u8) -> Value {
    kvs.iter().find(|kv| kv.key == key(number)).map_or(0, |kv| parse(&kv.value).unwrap_or(u64::MAX))
}

fn parse(value: &Bytes) -> Option<Value> {
    let text = std::str::from_utf8(value).ok()?.strip_prefix('c')?.trim_end_matches('.');
    let (client, number) = text.split_once('.')?;
    Some(1 + (client.parse::<u64>().ok()? << 32 | number.parse::<u64>().ok()?))
}

/// Whether some order explains everything; `None` if the budget was spent before that was known.
fn search(ops: &[Op]) -> Option<bool> {
    let mut search = Search {
        done: vec![0; ops.len().div_ceil(64)],
        first: 0,
        left: ops.iter().filter(|op| op.returned.is_some()).count(),
        tried: BTreeSet::new(),
        steps: 0,
    };
    // The operations taken so far, with the value before each.
    let mut stack: Vec<(usize, Value)> = Vec::new();
    let mut value = 0;
    let mut from = 0;
    while search.left > 0 {
        search.steps += 1;
        if search.steps > STEPS_MAX {
            return None;
        }
        if let Some((index, next)) = search.candidate(ops, from, value) {
            search.take(ops, index, true);
            if search.tried.insert((search.done.clone(), next)) {
                stack.push((index, value));
                (value, from) = (next, 0);
            } else {
                search.take(ops, index, false);
                from = index + 1;
            }
            continue;
        }
        let Some((index, before)) = stack.pop() else { return Some(false) };
        search.take(ops, index, false);
        (value, from) = (before, index + 1);
    }
    Some(true)
}

struct Search {
    done: Vec<u64>,
    /// Everything before is done.
    first: usize,
    /// Answered operations that are not done.
    left: usize,
    tried: BTreeSet<(Vec<u64>, Value)>,
    steps: u64,
}

impl Search {
    fn is_done(&self, index: usize) -> bool {
        self.done[index / 64] & 1 << (index % 64) != 0
    }

    fn take(&mut self, ops: &[Op], index: usize, done: bool) {
        self.done[index / 64] ^= 1 << (index % 64);
        let answered = usize::from(ops[index].returned.is_some());
        if done {
            self.left -= answered;
            while self.first < ops.len() && self.is_done(self.first) {
                self.first += 1;
            }
        } else {
            self.left += answered;
            self.first = self.first.min(index);
        }
    }

    /// The next operation, from `from` on, that may come now: asked before any other that is left was answered, and explained by
    /// the value.
    fn candidate(&self, ops: &[Op], from: usize, value: Value) -> Option<(usize, Value)> {
        let mut earliest = Time(u64::MAX);
        for (index, op) in ops.iter().enumerate().skip(self.first) {
            if op.invoked > earliest {
                return None;
            }
            if self.is_done(index) {
                continue;
            }
            let next = match op.step {
                Step::Write(written) => Some(written),
                Step::Read(read) => (read == value).then_some(value),
            };
            if index >= from
                && let Some(next) = next
            {
                return Some((index, next));
            }
            earliest = earliest.min(op.returned.unwrap_or(Time(u64::MAX)));
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn op(step: Step, invoked: u64, returned: u64) -> Op {
        Op { step, invoked: Time(invoked), returned: (returned > 0).then_some(Time(returned)) }
    }

    #[test]
    fn histories_are_told_apart() {
        use Step::{Read, Write};
        for (ops, linearizable) in [
            (vec![op(Write(1), 1, 2), op(Read(1), 3, 4)], true),
            (vec![op(Write(1), 1, 2), op(Read(0), 3, 4)], false),
            (vec![op(Write(1), 1, 5), op(Read(0), 2, 3), op(Read(1), 4, 6)], true),
            (vec![op(Write(1), 1, 9), op(Read(1), 2, 3), op(Read(0), 4, 6)], false),
            (vec![op(Write(1), 1, 0), op(Read(0), 2, 3), op(Read(1), 8, 9)], true),
            (vec![op(Write(1), 1, 0), op(Read(1), 2, 3), op(Read(0), 8, 9)], false),
            (vec![op(Write(1), 1, 4), op(Write(2), 2, 5), op(Read(1), 6, 7), op(Read(2), 8, 9)], false),
            (vec![op(Write(0), 1, 0), op(Write(1), 2, 3), op(Read(1), 4, 5), op(Read(0), 6, 7)], true),
        ] {
            assert_eq!(search(&ops), Some(linearizable), "{ops:?}");
        }
    }
}
