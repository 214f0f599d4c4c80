//! Validate: a command that may have been decided fast is noted by a slow quorum, and what speaks against it is asked for.
//!
//! Steps 5 to 9 of the paper's recovery. Something speaks against a fast decision of a command if it interferes with it and neither
//! lists the other. If it is decided, the command was not decided fast. If it is not yet, whoever recovers waits until it is.
//!
//! **Who waits is not stuck.** What is in doubt is asked for and recovered like anything else, so only a circle of commands that
//! wait for each other could stand still, all their coordinators dead (one that answers ends the wait for its command). Let L be
//! the voters that live, at least N−f, all of whom answer in time. Two commands of which neither lists the other are not both noted
//! by one voter with nothing to add; so of a command and the next one in the circle, each voter of L is outside a fast quorum of one
//! at least, and on the average of the circle |L|/2 voters of L are outside one's. So is the coordinator of the next, which is not
//! in L. Since N ≥ 2e+f−1, that makes |L|/2 + 1 > e, and whoever recovers a command for which it is more than e gives it up. The
//! paper has those who wait tell each other who agreed; here everyone who answers late is counted instead, and that is enough.

use super::{Chosen, Deps, EPaxos, Lead, Message, Progress, Record, Stage, Verdict};
use concur_core::{Context, Footprint, Instance, LaneId, ReplicaId, ReplicaSet};

/// How many instances one verdict may hold in doubt. With more there is none, and it is asked for again.
const DOUBTS_MAX: usize = 4096;

/// What becomes of a command that is in doubt.
enum Doubt {
    Open,
    Settled,
    /// It is decided, and neither lists the other.
    Against,
}

impl Lead {
    /// Whether it waits for what becomes of other commands.
    pub(super) fn waits(&self) -> bool {
        matches!(&self.stage, Stage::Recover(inquiry) if !inquiry.doubts.is_empty())
    }
}

impl EPaxos {
    /// Has the command noted by those who have reported and were not asked yet. Once a slow quorum has noted it, and nothing that is
    /// in doubt can speak against it any more, it is put to the vote.
    pub(super) fn validate_or_wait(&mut self, instance: Instance, cx: &mut Context<Self>) {
        let Some(Lead { ballot, stage: Stage::Recover(inquiry), .. }) = self.leads.get_mut(&instance) else { return };
        let (value, initial) = inquiry.noted().expect("at most e of a slow quorum disagree");
        let reported: ReplicaSet = inquiry.reports.keys().copied().collect();
        let asked = std::mem::replace(&mut inquiry.asked, reported);
        let (ballot, enough) = (*ballot, inquiry.validated.len() >= self.limits.slow);
        let to = reported.minus(asked);
        if asked.is_empty() {
            cx.note("command validated", Some(instance));
        }
        cx.send(to, Message::Validate { instance, ballot, value: value.clone(), initial: initial.clone() });
        if !enough {
            return;
        }
        let Some(Lead { stage: Stage::Recover(inquiry), .. }) = self.leads.get(&instance) else { return };
        let mut open = false;
        for other in inquiry.doubts.clone() {
            match self.doubt(other, instance) {
                Doubt::Settled => {}
                Doubt::Against => return self.put_to_vote(instance, Chosen::Noop, Deps::none(self.lanes.len()), cx),
                Doubt::Open => {
                    open = true;
                    self.seek(other, cx);
                }
            }
        }
        if !open {
            self.put_to_vote(instance, Chosen::Command(value), initial, cx);
        }
    }

    /// What became of `other`, which interferes with `instance` and is not listed by it.
    fn doubt(&self, other: Instance, instance: Instance) -> Doubt {
        match self.vote(other).filter(|vote| vote.progress == Progress::Committed) {
            Some(vote) if vote.noop || vote.deps.lists(instance) => Doubt::Settled,
            Some(_) => Doubt::Against,
            // What is forgotten and not listed: see `verdict`.
            None if self.is_forgotten(other) => Doubt::Against,
            None => Doubt::Open,
        }
    }

    /// Looks again at what waits for others.
    pub(super) fn judge_again(&mut self, cx: &mut Context<Self>) {
        let waiting: Vec<Instance> = self.leads.iter().filter(|(_, lead)| lead.waits()).map(|(&instance, _)| instance).collect();
        waiting.into_iter().for_each(|instance| self.judge(instance, cx));
    }

    /// A command that may have been decided fast is noted, and what speaks against it is said. It is noted durably first: from here on
    /// whatever is noted later lists it.
    pub(super) fn validate(
        &mut self,
        from: ReplicaId,
        instance: Instance,
        ballot: super::Ballot,
        value: concur_core::Value,
        initial: Deps,
        cx: &mut Context<Self>,
    ) {
        if from != ballot.owner {
            return;
        }
        let Some(vote) = self.vote(instance) else { return };
        let (progress, joined, noted) = (vote.progress, vote.joined, !vote.initial.0.is_empty());
        if progress == Progress::Committed {
            return self.tell_one(from, instance, cx);
        }
        if ballot < joined {
            return cx.send(ReplicaSet::one(from), Message::Refused { instance, ballot: joined });
        }
        // A question of before the vote at this ballot; or one that makes no sense.
        if ballot != joined || progress == Progress::Accepted || (noted && vote.initial != initial) {
            return;
        }
        let footprint = value.footprint().clone();
        if !noted {
            let chosen = self.hold(instance, Chosen::Command(value)).expect("the command is there");
            self.vote_mut(instance).initial.clone_from(&initial);
            cx.persist(Record::Validated { instance, chosen, initial: initial.clone() });
        }
        self.moved(instance, cx);
        if let Some(verdict) = self.verdict(instance, &footprint, &initial) {
            cx.send(ReplicaSet::one(from), Message::Validated { instance, ballot, verdict });
        }
    }

    /// What speaks here against a fast decision of a command with the dependencies `initial`. In its own lane nothing does: its
    /// coordinator's list is right there.
    ///
    /// What is forgotten cannot be looked at. But it was forgotten only when a slow quorum had pledged to list it, so a command that
    /// does not was noted by all of them with something to add (see `forget`).
    fn verdict(&self, instance: Instance, footprint: &Footprint, initial: &Deps) -> Option<Verdict> {
        let listed = self.conflicts.bounds(footprint);
        let mut doubts = Vec::new();
        for (index, lane) in self.lanes.iter().enumerate() {
            let id = LaneId(index as u8);
            let from = initial.below(id);
            if id == instance.lane {
                continue;
            }
            if from < self.forgotten[index] {
                return Some(Verdict::Impossible);
            }
            for (&number, vote) in lane.votes.range(from..listed.below(id).max(from)) {
                let interferes = vote.command.as_ref().is_some_and(|command| command.footprint().interferes(footprint));
                match vote.progress {
                    _ if !interferes => {}
                    Progress::Committed if vote.noop || vote.deps.lists(instance) => {}
                    Progress::Committed => return Some(Verdict::Impossible),
                    // Not noted here, so that others answer for it; or it lists this one, whatever becomes of it.
                    _ if vote.initial.0.is_empty() || vote.initial.lists(instance) => {}
                    _ => doubts.push(Instance { lane: id, number }),
                }
            }
        }
        (doubts.len() <= DOUBTS_MAX).then_some(Verdict::Possible { doubts })
    }

    /// A voter has noted the command and said what speaks against it.
    pub(super) fn count_verdict(
        &mut self,
        from: ReplicaId,
        instance: Instance,
        ballot: super::Ballot,
        verdict: Verdict,
        cx: &mut Context<Self>,
    ) {
        let Some(lead) = self.leads.get_mut(&instance).filter(|lead| lead.ballot == ballot) else { return };
        lead.ticks = 0;
        let Stage::Recover(inquiry) = &mut lead.stage else { return };
        if !inquiry.asked.contains(from) || !inquiry.validated.insert(from) {
            return;
        }
        let undoubted = !inquiry.impossible && inquiry.doubts.is_empty();
        match verdict {
            Verdict::Impossible => inquiry.impossible = true,
            Verdict::Possible { doubts } => inquiry.doubts.extend(doubts),
        }
        if undoubted && (inquiry.impossible || !inquiry.doubts.is_empty()) {
            cx.note("recovery in doubt", Some(instance));
        }
        self.judge(instance, cx);
    }
}
