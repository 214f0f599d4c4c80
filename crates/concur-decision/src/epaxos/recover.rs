//! Recover: an instance that nobody finishes is finished at a higher ballot, with its command or with nothing.
//!
//! The steps of the paper's recovery stand in [`EPaxos::judge`], those that ask what speaks against a fast decision in `validate`.

use super::{Ballot, Chosen, Deps, EPaxos, Lead, Message, Progress, ROUND_MAX, Record, Report, Stage, chosen_value};
use concur_core::{Context, Instance, ReplicaId, ReplicaSet, Value};
use std::collections::{BTreeMap, BTreeSet};

/// What whoever recovers an instance has learned at its ballot.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub(super) struct Inquiry {
    /// Who has joined, and what they knew.
    pub(super) reports: BTreeMap<ReplicaId, Report>,
    /// Who of them was asked to note the command.
    pub(super) asked: ReplicaSet,
    /// Who has.
    pub(super) validated: ReplicaSet,
    /// What may speak against its fast decision.
    pub(super) doubts: BTreeSet<Instance>,
    /// Whether something does.
    pub(super) impossible: bool,
}

/// An instance that this replica does not drive.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub(super) struct Watch {
    /// For how many ticks nothing has moved.
    pub(super) ticks: u32,
    /// How many ticks later than it might this replica takes it up, drawn at the first.
    pub(super) delay: Option<u32>,
    /// How often it was tried.
    pub(super) attempts: u32,
    /// A round that somebody has joined.
    pub(super) round: u64,
}

impl Inquiry {
    /// The command and its coordinator's list, from whoever noted it and had nothing to add.
    pub(super) fn noted(&self) -> Option<(Value, Deps)> {
        self.reports.values().find_map(|report| match report {
            Report::PreAccepted { value, initial, equal: true } => Some((value.clone(), initial.clone())),
            _ => None,
        })
    }
}

impl EPaxos {
    /// Takes an instance up at a ballot of this replica's own, never used before: it is durable before anyone hears of it.
    pub(super) fn take_up(&mut self, instance: Instance, cx: &mut Context<Self>) {
        let joined = self.vote(instance).map_or(0, |vote| vote.joined.round);
        if joined.max(self.watches.get(&instance).map_or(0, |watch| watch.round)) >= ROUND_MAX {
            return; // The rounds are used up.
        }
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
        let stage = Stage::Recover(Inquiry::default());
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

    /// A voter has joined and says what it knew. Who is late is heard as well: its answer may end a wait.
    pub(super) fn count_report(&mut self, from: ReplicaId, instance: Instance, ballot: Ballot, report: Report, cx: &mut Context<Self>) {
        let Some(lead) = self.leads.get_mut(&instance).filter(|lead| lead.ballot == ballot) else { return };
        lead.ticks = 0;
        let Stage::Recover(inquiry) = &mut lead.stage else { return };
        inquiry.reports.insert(from, report);
        self.judge(instance, cx);
    }

    /// Puts to the vote what the answers of a slow quorum allow, or asks and waits until they allow something. (A voter that knows
    /// the decision has sent it instead.)
    pub(super) fn judge(&mut self, instance: Instance, cx: &mut Context<Self>) {
        let Some(Lead { stage: Stage::Recover(inquiry), .. }) = self.leads.get(&instance) else { return };
        let reports = &inquiry.reports;
        if reports.len() < self.limits.slow {
            return;
        }
        let votes = reports.values().filter_map(|report| match report {
            Report::Accepted { ballot, chosen, deps } => Some((*ballot, chosen, deps)),
            _ => None,
        });
        if let Some((_, chosen, deps)) = votes.max_by_key(|(ballot, ..)| *ballot) {
            let (chosen, deps) = (chosen.clone(), deps.clone());
            return self.put_to_vote(instance, chosen, deps, cx);
        }
        // Who joined this ballot and had not noted the command, or had something to add, is in no fast quorum; nor are the
        // coordinators of what is in doubt, which noted their own commands and not this one.
        let agrees = |report: &Report| matches!(report, Report::PreAccepted { equal: true, .. });
        let mut outside: ReplicaSet = reports.iter().filter(|(_, report)| !agrees(report)).map(|(&id, _)| id).collect();
        outside = outside.union(inquiry.doubts.iter().map(|&other| self.coordinator(other)).collect());
        let hopeless = reports.contains_key(&self.coordinator(instance)) || outside.len() > self.limits.failures;
        if hopeless || inquiry.impossible {
            return self.put_to_vote(instance, Chosen::Noop, Deps::none(self.lanes.len()), cx);
        }
        self.validate_or_wait(instance, cx);
    }

    pub(super) fn put_to_vote(&mut self, instance: Instance, chosen: Chosen, deps: Deps, cx: &mut Context<Self>) {
        let lead = self.leads.get_mut(&instance).expect("concluded by its lead");
        let ballot = lead.ballot;
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
