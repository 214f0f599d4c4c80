//! A protocol for one voter that does as a script says: for the claims about what a replica does with refusals, silence, and what
//! was decided before a restart.

use bytes::Bytes;
use concur_core::*;
use std::cell::RefCell;
use std::collections::{BTreeSet, VecDeque};

/// What the toy does with the next thing that it is asked for.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Act {
    Refuse(Refusal),
    Swallow,
    /// Decides nothing at this number.
    Decide(u64),
    /// Asks for the state of so many instances.
    Fetch(ReplicaId, u64),
}

/// What it was asked, and what it is to do; it takes things up when the script has run out.
#[derive(Debug, Default)]
pub(crate) struct Script {
    pub(crate) submits: VecDeque<Act>,
    pub(crate) reads: VecDeque<Act>,
    pub(crate) submitted: Vec<BatchId>,
    pub(crate) asked: Vec<ReadId>,
    pub(crate) floors: Vec<Frontier>,
    pub(crate) installed: Vec<Frontier>,
    pub(crate) wanted: Vec<u64>,
}

thread_local! {
    static SCRIPT: RefCell<Script> = RefCell::default();
}

/// Looks at the script of this thread's toys, or changes it.
pub(crate) fn script<T>(f: impl FnOnce(&mut Script) -> T) -> T {
    SCRIPT.with_borrow_mut(f)
}

#[derive(Debug, Clone, Hash)]
pub(crate) struct Toy {
    values: Vec<Value>,
    decided: u64,
    proposed: BTreeSet<BatchId>,
}

#[derive(Debug, Clone, Hash)]
pub(crate) struct Durable {
    length: u64,
}
wire_struct!(Durable { length });
impl Urgent for Durable {}

#[derive(Debug, Clone, Hash)]
pub(crate) struct Proposed {
    value: Value,
}
wire_struct!(Proposed { value });

impl Toy {
    fn decide(&mut self, length: u64, cx: &mut Context<Self>) {
        while self.decided < length {
            let value = self.values[self.decided as usize].clone();
            value.id().map(|id| self.proposed.remove(&id));
            cx.decide(Instance::slot(self.decided), value, ());
            self.decided += 1;
        }
    }
}

impl Protocol for Toy {
    type Message = Durable;
    type Record = Proposed;
    type Timer = u8;
    type Order = ();

    const TRAITS: Traits = Traits {
        name: "toy",
        title: "Toy",
        paper: "none",
        family: Family::Classic,
        order: Ordering::Total,
        floor: Floor::Local,
        has_leader: false,
        one_ballot: false,
        delay: Delay::Turns,
        delays: "0",
        quorums: "one voter",
        reads: "as the script says",
        choose: "in tests",
        avoid: "elsewhere",
        transitions: &[],
    };

    fn recover(boot: Boot<Self>, cx: &mut Context<Self>) -> Result<Self, Corrupt> {
        let values: Vec<Value> = boot.records.into_iter().map(|record| record.value).collect();
        let executed = boot.mark.frontier.below(LaneId(0));
        assert!(executed <= values.len() as u64, "what is executed was durable");
        let mut toy = Self { values, decided: executed, proposed: BTreeSet::new() };
        toy.decide(toy.values.len() as u64, cx);
        Ok(toy)
    }

    fn step(&mut self, input: Input<Self>, cx: &mut Context<Self>) {
        match input {
            Input::Submit(value) => {
                let id = value.id().expect("no no-op is submitted");
                let act = script(|script| {
                    script.submitted.push(id);
                    script.submits.pop_front()
                });
                match act {
                    Some(Act::Refuse(reason)) => cx.refuse(id, reason),
                    Some(Act::Swallow) => {}
                    Some(Act::Decide(number)) => cx.decide(Instance::slot(number), Value::Noop, ()),
                    Some(Act::Fetch(from, length)) => cx.fetch(from, Frontier::slots(cx.config.epoch, length)),
                    None if self.proposed.insert(id) => {
                        cx.persist(Proposed { value: value.clone() });
                        self.values.push(value);
                        cx.send(ReplicaSet::one(cx.config.me), Durable { length: self.values.len() as u64 });
                    }
                    None => {}
                }
            }
            Input::Receive { message, .. } => self.decide(message.length, cx),
            Input::Read { id, .. } => {
                let act = script(|script| {
                    script.asked.push(id);
                    script.reads.pop_front()
                });
                match act {
                    Some(Act::Refuse(reason)) => cx.refuse_read(id, reason),
                    Some(_) => {}
                    None => cx.read_at(id, Frontier::slots(cx.config.epoch, self.decided)),
                }
            }
            Input::Floor(floor) => script(|script| script.floors.push(floor)),
            Input::Installed(mark) => script(|script| script.installed.push(mark.frontier)),
            Input::Wanted(instance) => script(|script| script.wanted.push(instance.number)),
            Input::Expired(_) | Input::Peer(..) | Input::Leave => {}
        }
    }

    fn checkpoint(&self) -> Vec<Proposed> {
        self.values.iter().cloned().map(|value| Proposed { value }).collect()
    }

    fn inspect(&self) -> Inspection {
        Inspection { role: "toy", ..Inspection::default() }
    }
}

/// An encoded record of the toy's.
pub(crate) fn record(value: Value) -> Bytes {
    [Epoch(0).to_bytes(), Proposed { value }.to_bytes()].concat().into()
}
