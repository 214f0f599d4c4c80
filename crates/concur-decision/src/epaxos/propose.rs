//! Propose: a command gets an instance, is noted by the others, and takes the fast path if nobody knows more.

use super::{BACKLOG_MAX, Chosen, Deps, EPaxos, FAST, Lead, Message, Progress, Record, Stage, Timer, ZERO};
use concur_core::{Context, Instance, Refusal, ReplicaId, ReplicaSet, Value};

impl EPaxos {
    /// A batch or seal is to be decided.
    pub(super) fn submit(&mut self, value: Value, cx: &mut Context<Self>) {
        let Some(id) = value.id() else { return };
        if self.proposed.contains_key(&id) {
            return;
        }
        match self.obstacle(&value, cx) {
            Some(reason) => cx.refuse(id, reason),
            None => self.propose(value, cx),
        }
    }

    /// Why nothing can be proposed.
    fn obstacle(&self, value: &Value, cx: &Context<Self>) -> Option<Refusal> {
        let Some(lane) = self.lane else {
            return Some(Refusal::Redirect(None));
        };
        let backlog = self.next - self.floor[usize::from(lane.0)];
        // Nobody proposes beside a seal that may be decided; the seal itself must pass when a dead voter has filled the backlog.
        let full = self.proposed.len() >= cx.config.window_max || (backlog >= BACKLOG_MAX && !value.is_seal());
        (full || self.leaving || !self.seals.is_empty()).then_some(Refusal::Busy)
    }

    fn propose(&mut self, value: Value, cx: &mut Context<Self>) {
        let lane = self.lane.expect("only voters propose");
        let instance = Instance { lane, number: self.next };
        let mut deps = self.conflicts.bounds(value.footprint());
        deps.join(&self.floor);
        assert!(deps.below(lane) <= instance.number, "an instance never comes before itself");

        self.note(instance, value.clone(), deps.clone(), deps.clone());
        self.proposed.insert(value.id().expect("a no-op is not submitted"), instance.number);
        let stage = Stage::PreAccept { answers: ReplicaSet::EMPTY, equal: ReplicaSet::EMPTY, union: deps.clone() };
        let holders = ReplicaSet::one(self.me);
        self.leads.insert(instance, Lead { ballot: ZERO, stage, holders, ticks: 0, attempts: 0, overtaken: false });
        cx.persist(Record::PreAccepted { instance, value: value.clone(), initial: deps.clone(), deps: None });
        cx.solicit(FAST, 0, Message::PreAccept { instance, value, deps });
        self.wake(cx);
    }

    /// Notes a command, in the vote and in the index.
    fn note(&mut self, instance: Instance, value: Value, initial: Deps, deps: Deps) {
        self.conflicts.add(instance, value.footprint());
        self.note_seal(instance, &value);
        let vote = self.vote_mut(instance);
        vote.command = Some(value);
        vote.initial = initial;
        vote.deps = deps;
        vote.progress = Progress::PreAccepted;
    }

    /// The coordinator's command arrives. A duplicate gets the same answer.
    pub(super) fn pre_accept(&mut self, from: ReplicaId, instance: Instance, value: Value, initial: Deps, cx: &mut Context<Self>) {
        if from != self.coordinator(instance) {
            return;
        }
        let vote = self.vote(instance).map(|vote| (vote.progress, vote.joined)).unwrap_or_default();
        match vote {
            (Progress::Committed, _) => return self.tell_one(from, instance, cx),
            (_, joined) if joined > ZERO => return cx.send(ReplicaSet::one(from), Message::Refused { instance, ballot: joined }),
            (Progress::Accepted, _) => return,
            (Progress::PreAccepted, _) => {}
            (Progress::Initial, _) => {
                let mut deps = self.conflicts.bounds(value.footprint());
                // What comes before it in its own lane its coordinator knows best.
                deps.0[usize::from(instance.lane.0)] = 0;
                deps.join(&initial.0);
                let added = (deps != initial).then(|| deps.clone());
                cx.persist(Record::PreAccepted { instance, value: value.clone(), initial: initial.clone(), deps: added });
                self.note(instance, value, initial, deps);
                self.watch(instance, cx);
            }
        }
        let vote = self.vote(instance).expect("noted above");
        let deps = (vote.deps != vote.initial).then(|| vote.deps.clone());
        cx.send(ReplicaSet::one(from), Message::PreAccepted { instance, deps });
    }

    /// A voter noted the command.
    pub(super) fn count_pre_acceptance(&mut self, from: ReplicaId, instance: Instance, deps: Option<Deps>, cx: &mut Context<Self>) {
        let Some(lead) = self.leads.get_mut(&instance) else { return };
        lead.ticks = 0;
        lead.holders.insert(from);
        match &mut lead.stage {
            Stage::PreAccept { answers, equal, union } => {
                if !answers.insert(from) {
                    return;
                }
                if let Some(deps) = deps {
                    union.join(&deps.0);
                } else {
                    equal.insert(from);
                }
                self.weigh(instance, false, cx);
            }
            // Too late for the list, in time for the vote.
            Stage::Accept { oks } if lead.ballot == ZERO && !oks.contains(from) => {
                let deps = self.vote(instance).expect("what is driven is noted").deps.clone();
                cx.send(ReplicaSet::one(from), Message::Accept { instance, ballot: ZERO, chosen: Chosen::Known, deps });
            }
            _ => {}
        }
    }

    /// Decides fast, goes the slow way, or waits for more answers. Up to e voters may have something to add and a fast quorum still be
    /// found among the others; but once a slow quorum has answered and one of it had, the second round trip begins: it takes about as
    /// long as to wait for those who are farther away, who may have something to add as well.
    fn weigh(&mut self, instance: Instance, impatient: bool, cx: &mut Context<Self>) {
        let Some(Lead { stage: Stage::PreAccept { answers, equal, union }, .. }) = self.leads.get(&instance) else { return };
        let vote = self.vote(instance).expect("what is driven is noted");
        assert_eq!((vote.joined, vote.progress), (ZERO, Progress::PreAccepted), "a coordinator that joined a ballot drives no more");
        if !answers.contains(self.me) {
            return;
        }
        // A seal ends the epoch everywhere: it never takes the fast path.
        let seal = vote.command.as_ref().is_some_and(Value::is_seal);
        if !seal && equal.len() >= self.limits.fast {
            return self.commit_fast(instance, cx);
        }
        if answers.len() < self.limits.slow {
            return;
        }
        let may_answer = self.peers.iter().filter(|(id, peer)| !answers.contains(**id) && self.lives(peer, cx)).count();
        let hopeless = equal.len() + may_answer < self.limits.fast;
        if seal || impatient || hopeless || equal != answers {
            let union = union.clone();
            return self.begin_slow_path(instance, union, cx);
        }
        if !self.waiting.iter().any(|waiting| waiting.contains(&instance)) {
            if self.waiting.iter().all(|waiting| waiting.is_empty()) {
                cx.arm(Timer::Patience, cx.config.heartbeat / 2);
            }
            self.waiting[0].push_back(instance);
        }
    }

    /// What has waited for a fast quorum for one to two periods goes the slow way.
    pub(super) fn lose_patience(&mut self, cx: &mut Context<Self>) {
        let young = std::mem::take(&mut self.waiting[0]);
        let old = std::mem::replace(&mut self.waiting[1], young);
        for instance in old {
            self.weigh(instance, true, cx);
        }
        if self.waiting.iter().any(|waiting| !waiting.is_empty()) {
            cx.arm(Timer::Patience, cx.config.heartbeat / 2);
        }
    }

    /// A fast quorum had nothing to add. Nothing follows until that is durable here: in its next run this replica answers whoever
    /// recovers the instance, and that answer would say that it was not decided.
    fn commit_fast(&mut self, instance: Instance, cx: &mut Context<Self>) {
        let vote = self.vote_mut(instance);
        vote.progress = Progress::Committed;
        let deps = vote.deps.clone();
        cx.persist(Record::Committed { instance, chosen: Chosen::Known, deps });
        let lead = self.leads.get_mut(&instance).expect("weighed");
        lead.stage = Stage::Durable;
        cx.send(ReplicaSet::one(self.me), Message::Durable { instance });
    }

    /// The slow path: the union of a slow quorum's lists is put to the vote at the zero ballot. The requests leave after this
    /// replica's own vote is durable.
    fn begin_slow_path(&mut self, instance: Instance, union: Deps, cx: &mut Context<Self>) {
        let lead = self.leads.get_mut(&instance).expect("weighed");
        lead.stage = Stage::Accept { oks: ReplicaSet::EMPTY };
        let holders = lead.holders.without(self.me);
        let vote = self.vote_mut(instance);
        vote.progress = Progress::Accepted;
        vote.voted = ZERO;
        vote.deps.clone_from(&union);
        cx.persist(Record::Accepted { instance, ballot: ZERO, chosen: Chosen::Known, deps: union.clone() });
        cx.send(holders, Message::Accept { instance, ballot: ZERO, chosen: Chosen::Known, deps: union });
        cx.send(ReplicaSet::one(self.me), Message::Accepted { instance, ballot: ZERO });
    }
}
