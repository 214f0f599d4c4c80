//! Accept: a value is voted for at a ballot, the coordinator's or a recoverer's.

use super::{Chosen, Deps, EPaxos, Message, Progress, Record, Stage, ZERO};
use concur_core::{Context, Instance, ReplicaId, ReplicaSet, Value};

impl EPaxos {
    /// A vote is asked for.
    pub(super) fn accept(
        &mut self,
        from: ReplicaId,
        instance: Instance,
        ballot: super::Ballot,
        chosen: Chosen,
        deps: Deps,
        cx: &mut Context<Self>,
    ) {
        if from != self.owner(instance, ballot) {
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
        if vote.progress == Progress::Accepted && vote.voted == ballot && vote.joined == ballot {
            return cx.send(ReplicaSet::one(from), Message::Accepted { instance, ballot });
        }
        // Whoever is sent `Known` has said that it holds the command; if not, that is not its answer, and the whole comes again.
        let Some(chosen) = self.hold(instance, chosen) else { return };
        let lower = self.leads.get(&instance).is_some_and(|lead| lead.ballot < ballot);
        if lower {
            self.release(instance, cx);
        }
        let vote = self.vote_mut(instance);
        vote.joined = ballot;
        vote.voted = ballot;
        vote.progress = Progress::Accepted;
        vote.noop = chosen == Chosen::Noop;
        vote.deps.clone_from(&deps);
        cx.persist(Record::Accepted { instance, ballot, chosen, deps });
        cx.send(ReplicaSet::one(from), Message::Accepted { instance, ballot });
        self.moved(instance, cx);
    }

    /// Keeps the command of `chosen` if it is the first time that it is seen, and says what a record must hold of it. `None` if
    /// it is referred to and not known.
    ///
    /// A no-op that is voted for leaves the command in the index: it may yet be decided, by others who voted for it.
    pub(super) fn hold(&mut self, instance: Instance, chosen: Chosen) -> Option<Chosen> {
        let known = self.vote(instance).and_then(|vote| vote.command.as_ref()).map(Value::id);
        match chosen {
            Chosen::Noop => Some(Chosen::Noop),
            Chosen::Known => known.map(|_| Chosen::Known),
            Chosen::Command(value) if known.is_some() => {
                assert_eq!(known, Some(value.id()), "two commands proposed in {instance}");
                Some(Chosen::Known)
            }
            Chosen::Command(value) => {
                self.conflicts.add(instance, value.footprint());
                self.note_seal(instance, &value);
                self.vote_mut(instance).command = Some(value.clone());
                Some(Chosen::Command(value))
            }
        }
    }

    /// A vote was cast.
    pub(super) fn count_acceptance(&mut self, from: ReplicaId, instance: Instance, ballot: super::Ballot, cx: &mut Context<Self>) {
        let slow = self.limits.slow;
        let Some(lead) = self.leads.get_mut(&instance).filter(|lead| lead.ballot == ballot) else { return };
        lead.ticks = 0;
        let Stage::Accept { oks } = &mut lead.stage else { return };
        oks.insert(from);
        lead.holders.insert(from);
        if oks.len() < slow {
            return;
        }
        let vote = self.vote(instance).expect("what is driven is noted");
        assert_eq!((vote.progress, vote.voted), (Progress::Accepted, ballot), "who asks for votes has voted");
        let name = match (ballot == ZERO, vote.noop) {
            (true, _) => "slow path",
            (false, false) => "recovery finished with the command",
            (false, true) => "recovery finished with a no-op",
        };
        let (deps, noop) = (vote.deps.clone(), vote.noop);
        cx.note(name, Some(instance));
        let chosen = if noop { Chosen::Noop } else { Chosen::Known };
        self.vote_mut(instance).progress = Progress::Committed;
        self.announce(instance, cx);
        cx.persist(Record::Committed { instance, chosen, deps });
        self.settle(instance, cx);
    }
}
