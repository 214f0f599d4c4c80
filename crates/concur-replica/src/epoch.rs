//! From one epoch to the next: a seal is executed, its configuration becomes the replica's, and the vote in it begins once the state
//! at the seal is durable.
//!
//! ```text
//!   epoch e      … batch ─ seal            (what lies behind the seal is void, whoever decided it)
//!                            │ execute: the vote in e is given up; configuration and mark "start of e+1" go to the engine
//!                            │          everybody of e and of e+1 is told
//!   passage                  ├─ the engine holds the start of e+1 durably
//!   epoch e+1                └─ vote: promised to whoever the seal names to lead; early messages are taken; what waits is proposed
//! ```
//!
//! Only execution passes a seal, by the protocol's order or by what another replica executed ([`crate::follow`]); or a later state
//! is installed, which stands for everything before it. Batches that lay behind the seal are proposed again, under their names, by
//! their origins; reads that waited for a barrier of the old epoch ask for another, since that one may speak of what lies behind
//! the seal; a seal that was not executed goes back to whoever asked for it. Whoever sends something of an earlier epoch is told
//! how far this replica is, and then asks for what it lacks.
//!
//! Restarted during the passage, a replica is in the old epoch or in the new one, as its engine says: it never votes in one and
//! holds the state of the other. The member that the seal names may lead without an election only in the run that executed the
//! seal, since a later run may have forgotten what it sent.

use crate::api::{Output, Refused, Reply, Status};
use crate::commit::Peer;
use crate::replica::Replica;
use bytes::Bytes;
use concur_core::{
    AnyBoot, AnyInput, AnyProtocol, Epoch, Frontier, Health, Inspection, Mark, ReplicaId, ReplicaSet, Rng, Seal, Start, StateMachine, Time,
    Wire,
};
use concur_execution::{Level, Sequencer};
use concur_network::Body;
use concur_peers::{ChangeError, Configuration, Outcome};
use std::collections::VecDeque;

/// How many messages of an epoch that was not entered yet are kept, and of how many bytes.
const EARLY_MAX: usize = 1024;
const EARLY_BYTES_MAX: usize = 4 << 20;

/// A replica on its way into an epoch: it votes once the engine holds this.
pub(crate) struct Passage {
    mark: Mark<Bytes>,
    /// Its vote in the epoch before. It takes nothing any more, but what it promised stays in the log until the engine holds the
    /// state behind the seal: restarted before, this replica would vote in that epoch again.
    before: Option<Box<dyn AnyProtocol>>,
    /// Whether this run executed the seal, and so begins the epoch with the others.
    fresh: bool,
    since: Time,
}

/// Messages of epochs that this replica has not entered: what is lost of them is sent again, only later.
#[derive(Debug, Default)]
pub(crate) struct Early {
    messages: VecDeque<(ReplicaId, Epoch, Body)>,
    bytes: usize,
}

impl Early {
    pub(crate) fn push(&mut self, from: ReplicaId, epoch: Epoch, body: Body) {
        self.bytes += body.size_bytes();
        self.messages.push_back((from, epoch, body));
        while self.messages.len() > EARLY_MAX || self.bytes > EARLY_BYTES_MAX {
            let Some((_, _, dropped)) = self.messages.pop_front() else { return };
            self.bytes -= dropped.size_bytes();
        }
    }
}

impl<M: StateMachine> Replica<M> {
    /// A seal was executed: the epoch is over.
    pub(crate) fn pass(&mut self, seal: &Seal, out: &mut Output) {
        let Ok(next) = Configuration::from_bytes(&seal.body) else { panic!("a seal is read before it is proposed") };
        assert_eq!(next.epoch.0, self.epoch().0 + 1, "a seal leads to the next epoch");
        out.notes.push(("seal executed", None));
        self.executed.begin(seal.id);
        if let Some(token) = self.flights.sealed(seal.id) {
            let (body, stamp) = (Outcome::Done(next.clone()).to_bytes(), self.stamp(Level::Strong));
            out.replies.push((token, Ok(Reply { body, stamp })));
        }
        let mark = Mark::start(next.epoch);
        self.enter(next, mark, true, out);
    }

    /// Goes over to another epoch: what belongs to the old one is given up.
    pub(crate) fn enter(&mut self, next: Configuration, mark: Mark<Bytes>, fresh: bool, out: &mut Output) {
        let before = self.settings.configuration.everyone();
        if let Err(error) = self.settings.adopt(next) {
            panic!("{error}: a configuration is checked before it is proposed");
        }
        let vote = self.give_up_vote();
        self.sequencer = match self.settings.may_vote() {
            true => Sequencer::new(self.settings.strategy.traits.order, &mark),
            false => Sequencer::followed(mark.clone()),
        };
        self.floor = Frontier::start(self.epoch());
        self.promise_seen = None;
        let sources = if self.settings.may_vote() { ReplicaSet::EMPTY } else { self.other_members() };
        self.following.enter(sources, self.now);
        self.void_reads(out);
        self.void_changes(fresh, out);
        self.decided = true;
        (self.reconfigured, self.unstored, self.hurried, out.changed) = (true, true, true, true);
        let everyone = self.settings.configuration.everyone();
        self.peers.retain(|id, _| everyone.contains(*id));
        for id in self.other_members().iter() {
            self.peers.entry(id).or_insert_with(|| Peer::met(self.now));
        }
        assert!(self.passage.is_none(), "nothing is executed on the way into an epoch");
        self.passage = Some(Passage { mark, before: vote, fresh, since: self.now });
        // Who has not executed the seal has to get it from those who have.
        self.tell_everyone(before.union(everyone).without(self.me()), out);
    }

    /// The vote of the old epoch ends; what it promised no longer matters, since the seal is decided.
    fn give_up_vote(&mut self) -> Option<Box<dyn AnyProtocol>> {
        self.ticket_base = self.persisted().0;
        self.held.clear();
        self.effects.clear();
        self.wanted.clear();
        self.inputs.clear();
        self.transfers.enter();
        self.protocol.take()
    }

    fn void_reads(&mut self, out: &mut Output) {
        if self.reads.void() {
            out.notes.push(("read voided by a seal", None));
        }
        for (to, id) in self.reads.take_remote() {
            self.answer_barrier(to, id, None, out);
        }
    }

    /// Changes that were not executed go back to whoever asked for them. Behind a state that was installed nobody knows which were.
    fn void_changes(&mut self, executed: bool, out: &mut Output) {
        let (epoch, stamp) = (self.epoch(), self.stamp(Level::Strong));
        for token in self.flights.void_seals() {
            out.notes.push(("seal voided", None));
            let body = Outcome::Refused(ChangeError::Superseded { epoch }).to_bytes();
            let answer = if executed { Ok(Reply { body, stamp }) } else { Err(Refused::Unknown) };
            out.replies.extend(token.map(|token| (token, answer)));
        }
    }

    /// What the log must keep of the vote.
    pub(crate) fn kept_records(&self) -> Vec<Bytes> {
        let vote = match &self.passage {
            Some(passage) => passage.before.as_ref(),
            None => self.protocol.as_ref(),
        };
        vote.map(|vote| vote.checkpoint()).unwrap_or_default()
    }

    /// The engine holds the start of the epoch: the vote in it begins.
    pub(crate) fn arrive(&mut self, out: &mut Output) {
        let Some(Passage { fresh, since, .. }) = self.passage.take_if(|passage| self.stored.covers(&passage.mark.frontier)) else { return };
        self.passed = Some(self.now.since(since));
        out.notes.push((if fresh { "epoch entered" } else { "epoch entered by state" }, None));
        if self.settings.may_vote() {
            self.begin_vote(fresh, out);
        } else if self.settings.config.voters().contains(self.me()) {
            out.notes.push(("disk of another life does not vote", None));
        }
        if self.flights.resubmit(self.now) {
            out.notes.push(("batch voided by a seal", None));
        }
        let epoch = self.epoch();
        for (from, of, body) in std::mem::take(&mut self.early).messages {
            if of == epoch {
                self.of_this_epoch(from, body, out);
            }
        }
        self.tell_everyone(self.other_members(), out);
    }

    fn begin_vote(&mut self, fresh: bool, out: &mut Output) {
        let first = self.settings.configuration.first;
        if fresh && first == Some(self.me()) {
            out.notes.push(("entered as first", None));
        }
        let boot = AnyBoot { records: Vec::new(), mark: self.sequencer.mark(), first, fresh, boot: self.settings.boot };
        let start = Start { now: self.now, rng: Rng::new(self.rng.next_u64()), config: self.settings.config.clone() };
        match (self.settings.strategy.recover)(boot, start, &mut self.effects) {
            Ok(protocol) => self.protocol = Some(protocol),
            // Its quorums were looked at before the seal was proposed.
            Err(error) => panic!("{error}: no vote can begin in {:?}", self.settings.configuration),
        }
        self.perform(out);
        for id in self.peers_here().iter() {
            self.inputs.push_back(AnyInput::Peer(id, Health::Up));
        }
    }

    /// Who is known to have entered this epoch.
    fn peers_here(&self) -> ReplicaSet {
        let here = |id: &ReplicaId| {
            let executed = self.peers.get(id).and_then(|peer| peer.executed.as_ref());
            executed.is_some_and(|executed| executed.epoch == self.epoch())
        };
        self.settings.config.others().iter().filter(here).collect()
    }

    /// What this replica says of itself.
    pub fn status(&self) -> Status {
        Status {
            protocol: self.inspect(),
            executed: self.sequencer.frontier(),
            stored: self.stored.clone(),
            peers: self.peer_status(),
            pending_commands: self.pending.len(),
            batches_in_flight: self.flights.len(),
            unexecuted: self.sequencer.waiting(),
            fetching: self.transfers.fetching(),
            configuration: self.settings.configuration.clone(),
            role: self.role(),
            follows: self.following.source(),
            change: self.flights.change(),
            passage: self.passed,
        }
    }

    /// What its vote says of itself; nothing where it has none.
    pub fn inspect(&self) -> Inspection {
        self.protocol.as_ref().map(|protocol| protocol.inspect()).unwrap_or_default()
    }

    /// How many batches of its clients are undecided.
    pub fn batches_in_flight(&self) -> usize {
        self.flights.len()
    }

    /// What it is in the group now, in a word.
    pub fn role(&self) -> &'static str {
        match self.settings.configuration.member(self.me()) {
            _ if self.passage.is_some() => "sealed",
            _ if self.empty => "joining",
            _ if self.protocol.is_some() => "voter",
            None => "removed",
            Some(member) if member.role.votes() => "joining",
            Some(member) => member.role.word(),
        }
    }
}
