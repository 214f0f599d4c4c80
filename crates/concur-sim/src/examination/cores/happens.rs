//! What happens in the small world: messages come, records become durable, timers are due, and what a core asks for is done.

use super::{Cores, ELECTION, SOON, Thing, typed};
use concur_core::{
    Batch, BatchId, Effect, Floor, Footprint, Input, Instance, Order, Ordering, Protocol, Refusal, ReplicaId, ReplicaSet, Span, Ticket,
    Value, Wire,
};
use std::time::Duration;

impl<P: Protocol> Cores<P> {
    pub(super) fn happen(&mut self, thing: Thing<P::Message, P::Timer>) -> Option<usize> {
        match thing {
            Thing::Message { from, to, message } => {
                self.nodes[to].running.as_ref()?;
                self.input(to, Input::Receive { from, message });
                Some(to)
            }
            Thing::Synced { node, boot, durable } => {
                let it = &mut self.nodes[node];
                if it.boot != boot || it.running.is_none() {
                    return None;
                }
                it.durable = it.durable.max(durable);
                if it.durable == it.records.len() {
                    it.durable_ballot = it.ballot;
                }
                self.release(node);
                Some(node)
            }
            Thing::Stored { node, boot } => {
                if self.nodes[node].boot != boot || self.nodes[node].running.is_none() {
                    return None;
                }
                self.store(node);
                Some(node)
            }
            Thing::Timer { node, boot, timer } => {
                let it = &mut self.nodes[node];
                if it.boot != boot || it.timers.get(&timer).is_none_or(|&due| due > self.now) {
                    return None;
                }
                it.timers.remove(&timer);
                self.input(node, Input::Expired(timer));
                Some(node)
            }
            Thing::State { from, to } => self.transfer(from, to),
            Thing::Submit { node, id } => {
                self.nodes[node].running.as_ref()?;
                let value = self.pending.get(&id)?.clone();
                self.input(node, Input::Submit(value));
                Some(node)
            }
            Thing::Retry => {
                let ids: Vec<BatchId> = self.pending.keys().copied().collect();
                for id in ids {
                    self.after(Duration::ZERO, Thing::Submit { node: usize::from(id.origin.0), id });
                }
                self.after(ELECTION, Thing::Retry);
                None
            }
        }
    }

    pub(super) fn input(&mut self, node: usize, input: Input<P>) {
        let now = self.now;
        let Some((core, cx)) = &mut self.nodes[node].running else { return };
        cx.now = now;
        core.step(input, cx);
        self.perform(node);
    }

    /// Does what a core asked for, and what it asks for as it hears what execution waits for.
    pub(super) fn perform(&mut self, node: usize) {
        while let Some((_, cx)) = &mut self.nodes[node].running {
            let effects = cx.take_effects();
            if effects.is_empty() {
                break;
            }
            let before = self.nodes[node].records.len();
            effects.into_iter().for_each(|effect| self.effect(node, effect));
            let (boot, durable) = (self.nodes[node].boot, self.nodes[node].records.len());
            if durable > before {
                let delay = self.micros(100, 3_000);
                self.after(delay, Thing::Synced { node, boot, durable });
            }
            self.execute(node);
        }
        self.look(node);
    }

    fn effect(&mut self, node: usize, effect: Effect<P>) {
        let boot = self.nodes[node].boot;
        match effect {
            Effect::Persist(record) => {
                self.heard.records.insert(record.to_bytes());
                self.nodes[node].records.push(record);
            }
            Effect::Send { to, message, after } => self.hold(node, to, message, after),
            Effect::Solicit { message, after, .. } => self.hold(node, ReplicaSet::first(self.setup.replicas), message, after),
            Effect::Arm { timer, due } => {
                self.nodes[node].timers.insert(timer, due);
                self.at(due.max(self.now), Thing::Timer { node, boot, timer });
            }
            Effect::Disarm { timer } => drop(self.nodes[node].timers.remove(&timer)),
            Effect::Decide { run, value, order } => {
                for number in run.first.number..run.first.number + run.count {
                    self.decide(node, Instance { number, ..run.first }, &value, &order);
                }
            }
            Effect::ReadAt { .. } => self.granted += 1,
            Effect::Refuse { id, reason: Refusal::Redirect(Some(to)) } => {
                self.after(SOON, Thing::Submit { node: usize::from(to.0) % self.setup.replicas, id });
            }
            Effect::Fetch { from, .. } => self.after(SOON, Thing::State { from: usize::from(from.0), to: node }),
            // What is refused otherwise is tried again in a while.
            Effect::Refuse { .. } | Effect::RefuseRead { .. } | Effect::Note { .. } => {}
        }
    }

    fn hold(&mut self, node: usize, to: ReplicaSet, message: P::Message, after: Ticket) {
        self.heard.messages.insert(message.to_bytes());
        let it = &mut self.nodes[node];
        if it.before as u64 + after.0 > it.durable as u64 && after > Ticket(0) {
            it.held.entry(after).or_default().push((to, message));
        } else {
            self.launch(node, to, &message);
        }
    }

    fn release(&mut self, node: usize) {
        let it = &mut self.nodes[node];
        let due = Ticket((it.durable - it.before) as u64 + 1);
        let later = it.held.split_off(&due);
        let held = std::mem::replace(&mut it.held, later);
        for (to, message) in held.into_values().flatten() {
            self.launch(node, to, &message);
        }
    }

    fn launch(&mut self, node: usize, to: ReplicaSet, message: &P::Message) {
        let from = ReplicaId(node as u8);
        let voters = ReplicaSet::first(self.setup.replicas);
        for to in to.intersection(voters).iter().map(|to| usize::from(to.0)) {
            if to == node {
                self.after(Duration::ZERO, Thing::Message { from, to, message: message.clone() });
                continue;
            }
            let times = 1 + usize::from(self.rng.chance(self.setup.repeats));
            for _ in 0..times {
                let late = if self.setup.loss > 0 && self.rng.chance(50_000) { 60_000 } else { 3_000 };
                let delay = self.micros(500, late);
                if !self.rng.chance(self.setup.loss) {
                    self.after(delay, Thing::Message { from, to, message: message.clone() });
                }
            }
            if self.sent.len() < 4_000 {
                self.sent.push((from, to, message.clone()));
            }
        }
    }

    fn decide(&mut self, node: usize, instance: Instance, value: &Value, order: &P::Order) {
        let first = self.decided.entry(instance).or_insert_with(|| (value.clone(), order.clone()));
        let same = first.0 == *value && first.1 == *order;
        assert!(same, "{instance} is decided as {:?} {:?}, and at r{node} as {value:?} {order:?}", first.0, first.1);
        let dependencies = order.dependencies().map(<[u64]>::to_vec);
        self.nodes[node].sequencer.decided(instance.into(), value.clone(), order.to_bytes(), dependencies);
    }

    fn execute(&mut self, node: usize) {
        let mut any = false;
        while let Some(next) = self.nodes[node].sequencer.pop() {
            any = true;
            let Value::Batch(batch) = next.value else { continue };
            let chain = self.nodes[node].chains.entry(key_of(&batch)).or_default();
            if chain.contains(&batch.id) {
                continue; // Proposed twice, executed once.
            }
            chain.push(batch.id);
            let known = self.chains.entry(key_of(&batch)).or_default();
            let place = chain.len() - 1;
            match known.get(place) {
                None => known.push(batch.id),
                Some(first) => assert_eq!(*first, batch.id, "number {place} of a key's history differs at r{node}"),
            }
            if usize::from(batch.id.origin.0) == node {
                self.pending.remove(&batch.id);
            }
        }
        if any {
            let (boot, delay) = (self.nodes[node].boot, self.micros(1_000, 20_000));
            self.after(delay, Thing::Stored { node, boot });
        }
        let it = &mut self.nodes[node];
        let wanted: Vec<Instance> = it.sequencer.wanted().into_iter().filter(|wanted| it.wanted.insert(*wanted)).collect();
        if let Some((core, cx)) = &mut it.running {
            wanted.into_iter().for_each(|wanted| core.step(Input::Wanted(wanted), cx));
        }
    }

    /// The engine holds what is executed; what everybody holds who has to, or this replica alone, may be forgotten.
    fn store(&mut self, node: usize) {
        let it = &mut self.nodes[node];
        it.stored = it.sequencer.mark();
        it.stored_chains = it.chains.clone();
        let alone = P::TRAITS.floor == Floor::Local && P::TRAITS.order == Ordering::Total;
        let floor = match alone {
            true => it.stored.frontier.clone(),
            false => {
                let mut everywhere = it.stored.frontier.clone();
                self.nodes.iter().for_each(|node| everywhere.keep_prefix(&node.stored.frontier));
                everywhere
            }
        };
        self.input(node, Input::Floor(floor));
    }

    /// A replica's state goes to one that asked for it.
    fn transfer(&mut self, from: usize, to: usize) -> Option<usize> {
        if from >= self.nodes.len() || self.nodes[from].running.is_none() || self.nodes[to].running.is_none() {
            return None;
        }
        let (mark, chains) = (self.nodes[from].sequencer.mark(), self.nodes[from].chains.clone());
        let it = &mut self.nodes[to];
        if it.sequencer.covers(&mark.frontier) || !mark.frontier.covers(&it.sequencer.frontier()) {
            return None;
        }
        it.sequencer.install(&mark);
        (it.chains, it.stored, it.stored_chains) = (chains.clone(), mark.clone(), chains);
        let mine: Vec<BatchId> = it.chains.values().flatten().copied().filter(|id| usize::from(id.origin.0) == to).collect();
        mine.iter().for_each(|id| drop(self.pending.remove(id)));
        self.input(to, Input::Installed(typed::<P>(&mark)));
        Some(to)
    }

    /// What a core says of itself makes sense.
    fn look(&mut self, node: usize) {
        let Some(it) = self.inspect(node) else { return };
        let me = ReplicaId(node as u8);
        assert!(!it.role.is_empty(), "Inspection::role of r{node} is empty: one word that says what it is");
        assert!(it.retained > 0 || it.retained_bytes == 0, "r{node} retains no instance and {} bytes", it.retained_bytes);
        if !P::TRAITS.has_leader {
            return;
        }
        let before = std::mem::replace(&mut self.nodes[node].ballot, it.ballot);
        assert!(it.ballot >= before, "Inspection::ballot of r{node} fell from {before} to {}", it.ballot);
        if it.role == "leader" {
            assert_eq!(it.leader, Some(me), "r{node} says that it leads and that somebody else does");
            let first = *self.leaders.entry(it.ballot).or_insert(me);
            assert_eq!(first, me, "two lead at ballot {}", it.ballot);
        }
    }
}

/// The one key that a batch writes.
fn key_of(batch: &Batch) -> u8 {
    match &batch.footprint {
        Footprint::Spans { writes, .. } => writes.first().map(Span::start).and_then(|key| key.first()).copied().unwrap_or(0),
        Footprint::Everything => 0,
    }
}
