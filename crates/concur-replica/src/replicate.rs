//! Replicate: the protocol takes its inputs; what it asks for is done, or held until what it promises is durable.

use crate::api::{Decision, Outgoing, Output};
use crate::replica::Replica;
use bytes::Bytes;
use concur_core::{AnyEffect, AnyInput, Refusal, ReplicaSet, StateMachine, Ticket};
use concur_network::{Body, Envelope};

/// A message that waits for records to be durable.
#[derive(Debug)]
pub(crate) struct Held {
    to: ReplicaSet,
    message: Bytes,
    urgent: bool,
}

impl<M: StateMachine> Replica<M> {
    /// Gives the protocol everything that waits for it, and does what it asks for. False if there was nothing.
    pub(crate) fn replicate(&mut self, out: &mut Output) -> bool {
        let mut any = false;
        let question_every = self.question_every();
        while let Some(input) = self.inputs.pop_front() {
            any = true;
            match &mut self.protocol {
                Some(protocol) => {
                    if !matches!(input, AnyInput::Submit(_) | AnyInput::Read { .. }) {
                        self.unanswered.may_tell(question_every);
                    }
                    protocol.step(self.now, input, &mut self.effects);
                    self.perform(out);
                }
                None => self.without_vote(input, out),
            }
        }
        any
    }

    /// Does what the protocol asked for.
    pub(crate) fn perform(&mut self, out: &mut Output) {
        let mut effects = std::mem::take(&mut self.effects);
        for effect in effects.drain(..) {
            match effect {
                AnyEffect::Persist(record) => out.records.push(record),
                AnyEffect::Send { to, message, urgent, after } => self.hold(self.ticket(after), Held { to, message, urgent }, out),
                AnyEffect::Solicit { phase, attempt, message, urgent, after } => {
                    let config = &self.settings.config;
                    let to = self.settings.volume.targets(&config.quorums, phase, attempt, config.me);
                    self.hold(self.ticket(after), Held { to, message, urgent }, out);
                }
                AnyEffect::Decide { run, value, order, dependencies } => {
                    self.commit(Decision { epoch: self.epoch(), run, value, order, dependencies }, out);
                }
                AnyEffect::ReadAt { id, frontier } => self.granted(id, frontier, out),
                AnyEffect::Refuse { id, reason } => self.refused(id, reason, out),
                AnyEffect::RefuseRead { id, reason: _ } => self.read_refused(id, out),
                AnyEffect::Fetch { from, frontier } => self.fetch(from, Some(&frontier), out),
                AnyEffect::Note { name, instance } => out.notes.push((name, instance)),
                AnyEffect::Dropped { why } => out.notes.push((why, None)),
            }
        }
        self.effects = effects;
        out.through = self.persisted();
    }

    /// The replica's ticket for one of the present vote's: what stands before the first of its records stands before all.
    fn ticket(&self, after: Ticket) -> Ticket {
        if after == Ticket(0) { after } else { Ticket(self.ticket_base + after.0) }
    }

    /// An input for a protocol, where there is no vote: proposals go to somebody who has one.
    fn without_vote(&mut self, input: AnyInput, out: &mut Output) {
        if let AnyInput::Submit(value) = input
            && let Some(id) = value.id()
        {
            self.refused(id, Refusal::Redirect(None), out);
        }
    }

    /// Sends, once `after` is durable.
    fn hold(&mut self, after: Ticket, held: Held, out: &mut Output) {
        if after > self.durable {
            self.held.entry(after).or_default().push(held);
        } else {
            self.release(held, out);
        }
    }

    /// Every record up to `ticket` is durable: what waited for it goes.
    pub(crate) fn durable(&mut self, ticket: Ticket, out: &mut Output) {
        assert!(ticket <= self.persisted(), "durable beyond what was persisted");
        self.durable = self.durable.max(ticket);
        while let Some(entry) = self.held.first_entry() {
            if *entry.key() > self.durable {
                return;
            }
            for held in entry.remove() {
                self.release(held, out);
            }
        }
    }

    fn release(&mut self, held: Held, out: &mut Output) {
        let Held { to, message, urgent } = held;
        let me = self.me();
        if to.contains(me) {
            self.inputs.push_back(AnyInput::Receive { from: me, message: message.clone() });
        }
        self.send_body(to.without(me), urgent, Body::Protocol(message), out);
    }

    /// Sends to peers at once.
    pub(crate) fn send_body(&self, to: ReplicaSet, urgent: bool, body: Body, out: &mut Output) {
        if to.is_empty() {
            return;
        }
        let config = &self.settings.config;
        let bytes = Envelope { group: config.group, epoch: config.epoch, body }.encode();
        out.sends.extend(to.iter().map(|to| Outgoing { to, urgent, bytes: bytes.clone() }));
    }
}
