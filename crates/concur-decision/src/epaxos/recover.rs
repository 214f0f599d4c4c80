//! Recover: an instance that nobody finishes is finished at a higher ballot, with its command or with nothing.
//!
//! The five steps of the paper's recovery that are needed with e = 1 stand in [`EPaxos::conclude`]; the module's essay says why
//! the others are not.

use super::{Ballot, Chosen, Deps, EPaxos, Lead, Message, Progress, Record, Report, Stage, Watch, chosen_value};
use concur_core::{Context, Instance, ReplicaId, ReplicaSet};
use std::collections::BTreeMap;

impl EPaxos {
    /// Takes an instance up at a ballot of this replica's own, never used before: it is durable before anyone hears of it.
    pub(super) fn take_up(&mut self, instance: Instance, cx: &mut Context<Self>) {
        let watch = self.watches.remove(&instance).unwrap_or_default();
        let own = self.coordinator(instance) == self.me;
        cx.note(if own { "recovery of an own instance" } else { "recovery of another's instance" }, Some(instance));
        let me = self.me;
        let vote = self.vote_mut(instance);
        assert!(vote.progress != Progress::Committed, "what is decided is not recovered");
        let ballot = Ballot { round: vote.joined.round.max(watch.round) + 1, owner: me };
        vote.joined = ballot;
        let report = report(vote);
        cx.persist(Record::Joined { instance, ballot });
        let stage = Stage::Recover { answers: BTreeMap::new() };
        let attempts = watch.attempts + 1;
        self.leads.insert(instance, Lead { ballot, stage, holders: ReplicaSet::EMPTY, ticks: 0, attempts, overtaken: false });
        cx.send(cx.config.others(), Message::Recover { instance, ballot });
        cx.send(ReplicaSet::one(me), Message::Recovered { instance, ballot, report });
    }

    /// Somebody wants to finish an instance.
    pub(super) fn join(&mut self, from: ReplicaId, instance: Instance, ballot: Ballot, cx: &mut Context<Self>) {
        if from != ballot.owner {
            return;
        }
        let vote = self.vote_mut(instance);
        if vote.progress == Progress::Committed {
            return self.tell_one(from, instance, cx);
        }
        if ballot < vote.joined {
            let joined = vote.joined;
            return cx.send(ReplicaSet::one(from), Message::Refused { instance, ballot: joined });
        }
        if ballot > vote.joined {
            vote.joined = ballot;
            cx.persist(Record::Joined { instance, ballot });
            // Whoever joins a ballot drives at no lower one, least of all the coordinator at the zero ballot.
            self.release(instance, cx);
            self.moved(instance, cx);
        }
        let report = report(self.vote_mut(instance));
        cx.send(ReplicaSet::one(from), Message::Recovered { instance, ballot, report });
    }

    /// A voter has joined and says what it knew.
    pub(super) fn count_report(&mut self, from: ReplicaId, instance: Instance, ballot: Ballot, report: Report, cx: &mut Context<Self>) {
        let slow = self.limits.slow;
        let Some(lead) = self.leads.get_mut(&instance).filter(|lead| lead.ballot == ballot) else { return };
        lead.ticks = 0;
        let Stage::Recover { answers } = &mut lead.stage else { return };
        answers.insert(from, report);
        if answers.len() >= slow {
            let answers = std::mem::take(answers);
            self.conclude(instance, ballot, answers, cx);
        }
    }

    /// Puts to the vote what the answers of a slow quorum allow. (A voter that knows the decision has sent it instead.)
    fn conclude(&mut self, instance: Instance, ballot: Ballot, answers: BTreeMap<ReplicaId, Report>, cx: &mut Context<Self>) {
        let highest = answers.values().filter_map(|report| match report {
            Report::Accepted { ballot, chosen, deps } => Some((*ballot, chosen, deps)),
            _ => None,
        });
        let none = Deps::none(self.lanes.len());
        let coordinator = self.coordinator(instance);
        // R of the paper: those that noted the command and had nothing to add.
        let mut agreed = answers.values().filter_map(|report| match report {
            Report::PreAccepted { value, initial, equal: true } => Some((value, initial)),
            _ => None,
        });
        let failures_on_fast_path = self.voters.len() - self.limits.fast;
        let (chosen, deps) = if let Some((_, chosen, deps)) = highest.max_by_key(|(ballot, ..)| *ballot) {
            (chosen.clone(), deps.clone())
        } else if answers.contains_key(&coordinator) || agreed.clone().count() + failures_on_fast_path < answers.len() {
            (Chosen::Noop, none)
        } else {
            let (value, initial) = agreed.next().expect("a slow quorum of which at most one is missing");
            (Chosen::Command(value.clone()), initial.clone())
        };
        self.put_to_vote(instance, ballot, chosen, deps, cx);
    }

    fn put_to_vote(&mut self, instance: Instance, ballot: Ballot, chosen: Chosen, deps: Deps, cx: &mut Context<Self>) {
        let lead = self.leads.get_mut(&instance).expect("concluded by its lead");
        lead.stage = Stage::Accept { oks: ReplicaSet::EMPTY };
        let held = self.hold(instance, chosen.clone()).expect("reports carry the command");
        let vote = self.vote_mut(instance);
        assert_eq!(vote.joined, ballot, "a ballot left behind drives no more");
        vote.voted = ballot;
        vote.progress = Progress::Accepted;
        vote.noop = held == Chosen::Noop;
        vote.deps.clone_from(&deps);
        cx.persist(Record::Accepted { instance, ballot, chosen: held, deps: deps.clone() });
        cx.send(cx.config.others(), Message::Accept { instance, ballot, chosen, deps });
        cx.send(ReplicaSet::one(self.me), Message::Accepted { instance, ballot });
    }

    /// Somebody has joined a higher ballot than the one that this replica drives at.
    pub(super) fn yield_to(&mut self, instance: Instance, ballot: Ballot, cx: &mut Context<Self>) {
        let Some(lead) = self.leads.get_mut(&instance).filter(|lead| lead.ballot < ballot) else { return };
        if lead.ballot.round == 0 {
            // The others may be enough for the coordinator; if not, it recovers in good time.
            lead.overtaken = true;
            return;
        }
        cx.note("recovery overtaken", Some(instance));
        self.release(instance, cx);
        self.watches.entry(instance).and_modify(|watch| watch.round = watch.round.max(ballot.round));
    }

    /// Stops driving an instance and waits for others to.
    pub(super) fn release(&mut self, instance: Instance, cx: &mut Context<Self>) {
        let lead = self.leads.remove(&instance);
        self.watch(instance, cx);
        let attempts = lead.map_or(0, |lead| lead.attempts);
        self.watches.entry(instance).and_modify(|watch| watch.attempts = watch.attempts.max(attempts));
    }

    /// Something happened to an instance that somebody else drives: wait for it afresh.
    pub(super) fn moved(&mut self, instance: Instance, cx: &mut Context<Self>) {
        self.watch(instance, cx);
        self.watches
            .entry(instance)
            .and_modify(|watch| *watch = Watch { attempts: watch.attempts, round: watch.round, ..Watch::default() });
    }
}

/// What is said to whoever recovers. Only a vote counts as such: a no-op or command noted and not voted for does not.
pub(super) fn report(vote: &super::Vote) -> Report {
    match vote.progress {
        Progress::Initial | Progress::Committed => Report::Nothing,
        Progress::PreAccepted => Report::PreAccepted {
            value: vote.command.clone().expect("noted with its command"),
            initial: vote.initial.clone(),
            equal: vote.deps == vote.initial,
        },
        Progress::Accepted => {
            let chosen = if vote.noop { Chosen::Noop } else { Chosen::Command(chosen_value(vote)) };
            Report::Accepted { ballot: vote.voted, chosen, deps: vote.deps.clone() }
        }
    }
}
