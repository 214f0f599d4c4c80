//! Execute: what is decided and in order runs on the state machine, each batch once; its changes go to the engine, off the reply
//! path.

use crate::api::{Bulk, Output, Refused, Reply};
use crate::item::{self, Item, Outcome};
use crate::replica::{CONFIGURATION_KEY, EXECUTED_PREFIX, MACHINE_PREFIX, MARK_KEY, Replica};
use bytes::Bytes;
use concur_core::{AnyInput, At, Batch, Change, Ordering, StateMachine, Value, Wire};
use concur_execution::{Level, Next, Seen, Stamp};
use std::collections::BTreeSet;

impl<M: StateMachine> Replica<M> {
    /// Executes everything that is in order; then the protocol is told what execution waits for.
    pub(crate) fn execute(&mut self, out: &mut Output) {
        while let Some(next) = self.sequencer.pop() {
            self.run(next, out);
        }
        self.keep_noops();
        self.ask_for_wanted();
    }

    /// Tells the protocol, once each, of the undecided instances that execution waits for.
    fn ask_for_wanted(&mut self) {
        if !std::mem::take(&mut self.decided) {
            return;
        }
        let wanted: BTreeSet<_> = self.sequencer.wanted().into_iter().collect();
        self.inputs.extend(wanted.difference(&self.wanted).copied().map(AnyInput::Wanted));
        self.wanted = wanted;
    }

    /// What is executed goes through here, whoever put it in order.
    pub(crate) fn run(&mut self, next: Next, out: &mut Output) {
        out.changed = true;
        let Next { instance, value, order } = next;
        if self.settings.record_executions {
            out.executed.push((self.epoch(), instance, value.id()));
        }
        // Kept first: a seal ends the epoch under which it is kept.
        self.keep_for_feed(Next { instance, value: value.clone(), order });
        match value {
            Value::Noop => {}
            Value::Batch(batch) => self.run_batch(&batch, out),
            Value::Seal(seal) => self.pass(&seal, out),
        }
    }

    fn run_batch(&mut self, batch: &Batch, out: &mut Output) {
        if !self.executed.begin(batch.id) {
            return out.notes.push(("duplicate batch skipped", None));
        }
        let time_ms = match self.settings.order {
            Ordering::Total => self.executed.advance_time(batch.logged_ms),
            // What commutes must not see each other's time: each batch has its own.
            Ordering::Partial => batch.logged_ms,
        };
        let mine = batch.id.origin == self.me() && batch.id.boot == self.settings.boot;
        let flight = if mine { self.flights.remove(batch.id.number) } else { None };
        let mut waiting = flight.map(|flight| flight.waiting).unwrap_or_default().into_iter();
        let stamp = self.stamp(Level::Strong);
        for item in item::decode(&batch.commands) {
            let Ok(item) = item else {
                out.notes.push(("malformed batch cut short", None));
                break;
            };
            let token = waiting.next().flatten().map(|(token, _)| token);
            let outcome = self.run_item(item, time_ms, mine);
            out.replies.extend(token.map(|token| (token, outcome.map(|body| Reply { body, stamp }))));
        }
        // Whoever is left waited for what could not be read.
        out.replies.extend(waiting.flatten().map(|(token, _)| (token, Err(Refused::Unknown))));
    }

    fn run_item(&mut self, item: Item, time_ms: u64, mine: bool) -> Outcome {
        let at = At { time_ms };
        match item {
            Item::Apply { session: None, body } => Ok(self.machine.apply(&body, &at)),
            Item::Apply { session: Some(place), body } => match self.executed.seen(place, time_ms) {
                Seen::First => {
                    let reply = self.machine.apply(&body, &at);
                    self.executed.keep_reply(place, reply.clone());
                    Ok(reply)
                }
                Seen::Before(reply) => Ok(reply),
                Seen::NoSession => Err(Refused::NoSession),
            },
            Item::Query { body } if mine => Ok(self.machine.query(&body)),
            Item::Query { .. } => Ok(Bytes::new()),
            Item::Open { session } => {
                self.executed.open(session, time_ms);
                Ok(Bytes::new())
            }
            Item::Expire { idle_ms } => {
                self.executed.expire(time_ms.saturating_sub(idle_ms));
                Ok(Bytes::new())
            }
        }
    }

    /// What a reply from the state as it is may say of itself.
    pub(crate) fn stamp(&self, level: Level) -> Stamp {
        let position = self.sequencer.executed_count();
        Stamp { level, epoch: self.settings.config.epoch, position, replica: self.me() }
    }

    /// Hands what changed to the engine.
    pub(crate) fn store(&mut self, out: &mut Output) {
        if !out.changed {
            return;
        }
        let mut changes: Vec<Change> = Vec::new();
        changes.extend(self.machine.changes().into_iter().map(|change| prefixed(MACHINE_PREFIX, change)));
        changes.extend(self.executed.changes().into_iter().map(|change| prefixed(EXECUTED_PREFIX, change)));
        let mark = self.sequencer.mark();
        changes.push(Change { key: Bytes::from_static(MARK_KEY), value: Some(mark.to_bytes()) });
        if std::mem::take(&mut self.unstored) {
            changes.push(Change { key: Bytes::from_static(CONFIGURATION_KEY), value: Some(self.settings.configuration.to_bytes()) });
        }
        let urgent = std::mem::take(&mut self.hurried);
        match &mut out.bulk {
            Some(bulk) => {
                bulk.changes.extend(changes);
                bulk.mark = mark;
                bulk.urgent |= urgent;
            }
            None => out.bulk = Some(Bulk { changes, mark, urgent }),
        }
    }

    /// The whole durable image.
    pub(crate) fn image(&self) -> Vec<(Bytes, Bytes)> {
        let configuration = (Bytes::from_static(CONFIGURATION_KEY), self.settings.configuration.to_bytes());
        let mut entries = vec![configuration, (Bytes::from_static(MARK_KEY), self.sequencer.mark().to_bytes())];
        entries.extend(self.executed.image().into_iter().map(|(key, value)| (with_prefix(EXECUTED_PREFIX, &key), value)));
        entries.extend(self.machine.image().map(|(key, value)| (with_prefix(MACHINE_PREFIX, &key), value)));
        entries
    }
}

fn prefixed(prefix: u8, change: Change) -> Change {
    Change { key: with_prefix(prefix, &change.key), value: change.value }
}

fn with_prefix(prefix: u8, key: &Bytes) -> Bytes {
    let mut out = Vec::with_capacity(1 + key.len());
    out.push(prefix);
    out.extend_from_slice(key);
    Bytes::from(out)
}
