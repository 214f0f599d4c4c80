//! Learn: a replica that lags asks for the next stretch of what is decided, and fetches state from whoever has forgotten it.

use super::messages::{Message, NUMBER_MAX, Record};
use super::{LEARNED, LOST, Paxos, STATE_FETCHED};
use crate::slots::{Learn, Lesson};
use concur_core::{Context, Frontier, Instance, LaneId, Mark, Refusal, ReplicaId, ReplicaSet, Ticket, Value};

impl Paxos {
    /// A peer says what it knows, or asks.
    pub(super) fn hear(&mut self, from: ReplicaId, said: Learn, cx: &mut Context<Self>) {
        match &said {
            Learn::Summary { decided, known } => {
                self.turns.heard_decided(*decided);
                if (*decided, *known) != (self.slots.decided(), self.slots.known()) {
                    // If either lags, the heartbeats go on until neither does.
                    self.wake(cx);
                }
            }
            Learn::Told { decided: below, .. } | Learn::Forgotten { below } => self.turns.heard_decided(*below),
            Learn::Ask { .. } => {}
        }
        let Lesson { decided, answer, fetch } = self.peers.take(from, said, &mut self.slots, cx.config.message_bytes_max);
        for (slot, value) in decided {
            cx.note(LEARNED, Some(Instance::slot(slot)));
            // Nothing depends on this record: it spares asking after a restart.
            cx.persist(Record::Decided { slot, value: Value::clone(&value) });
            self.settled(slot, &value, cx);
        }
        if let Some(answer) = answer {
            // What is decided is durable at a quorum, and a question promises nothing.
            cx.send_after(Ticket(0), ReplicaSet::one(from), Message::Learn(answer));
        }
        if let Some(below) = fetch {
            cx.fetch(from, Frontier::slots(cx.config.epoch, below));
            self.wake(cx);
        }
    }

    /// Whether what is said can be.
    pub(super) fn can_be_said(said: &Learn) -> bool {
        match said {
            Learn::Summary { decided, known } => decided <= known && *known < NUMBER_MAX,
            Learn::Ask { from } => *from < NUMBER_MAX,
            Learn::Told { first, values, decided } => *first < NUMBER_MAX && *decided < NUMBER_MAX && values.len() < 1 << 32,
            Learn::Forgotten { below } => *below < NUMBER_MAX,
        }
    }

    /// State came from a peer and is durable. What became of own values in the slots that it stands for is not known: whoever
    /// submits them again will learn.
    pub(super) fn installed(&mut self, mark: &Mark<()>, cx: &mut Context<Self>) {
        if mark.frontier.epoch != cx.config.epoch {
            return;
        }
        let below = mark.frontier.below(LaneId(0));
        self.lacking &= below < self.slots.base();
        if !self.slots.cover(below) {
            return;
        }
        cx.note(STATE_FETCHED, Some(Instance::slot(below)));
        self.voted = self.voted.max(self.slots.decided());
        self.leads.retain(|&slot, _| slot >= below);
        self.watches.retain(|&slot, _| slot >= below);
        let open = self.own.split_off(&below);
        for (slot, own) in std::mem::replace(&mut self.own, open) {
            let id = own.value.id().expect("only what has a name is proposed");
            self.proposed.remove(&id);
            cx.note(LOST, Some(Instance::slot(slot)));
            cx.refuse(id, Refusal::Lost);
        }
        self.wake(cx);
    }

    /// Execution waits for a slot.
    pub(super) fn want(&mut self, instance: Instance, cx: &mut Context<Self>) {
        if instance.lane != LaneId(0) || instance.number >= NUMBER_MAX {
            return;
        }
        self.lacking |= instance.number < self.slots.base();
        self.slots.hear_of(instance.number + 1);
        self.wake(cx);
    }

    /// Asks for the state that stands for what is forgotten here, if execution has not come so far.
    pub(super) fn fetch_lacking(&mut self, cx: &mut Context<Self>) {
        let base = self.slots.base();
        if self.lacking
            && let Some(from) = self.peers.fullest(base.saturating_sub(1))
        {
            cx.fetch(from, Frontier::slots(cx.config.epoch, base));
        }
    }
}
