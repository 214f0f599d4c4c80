//! Strong reads: all that wait share one barrier of the protocol's, and are answered once what it names is executed.

use crate::api::{Output, Reply, Token};
use crate::replica::Replica;
use bytes::Bytes;
use concur_core::{AnyInput, BootCount, Footprint, Frontier, Ordering, ReadId, ReplicaId, ReplicaSet, StateMachine, Time};
use concur_execution::Level;
use concur_network::Body;
use std::collections::BTreeMap;

/// How many barriers may be under way; reads that come meanwhile share the next.
const ROUNDS_MAX: usize = 2;
/// How many barriers may be looked for on behalf of members that do not vote.
const REMOTE_MAX: usize = 1024;

/// Reads that wait for a barrier, for its answer, or for execution to reach it.
#[derive(Debug, Default)]
pub(crate) struct Reads {
    waiting: Vec<Read>,
    rounds: BTreeMap<ReadId, Round>,
    granted: Vec<(Frontier, Vec<Read>)>,
    /// Barriers that members without a vote asked for: who, and their names for them.
    remote: BTreeMap<ReadId, (ReplicaId, ReadId, Time)>,
    /// How many reads wait, in all three.
    count: usize,
    next: u64,
}

/// One read.
#[derive(Debug)]
pub(crate) struct Read {
    pub(crate) token: Token,
    pub(crate) footprint: Footprint,
    pub(crate) query: Option<Bytes>,
    pub(crate) deadline: Time,
}

#[derive(Debug)]
struct Round {
    reads: Vec<Read>,
    /// Ask again, under a new id, if there is no answer by then.
    retry_at: Time,
    /// The protocol here had no barrier for it.
    unanswered: bool,
}

impl Reads {
    pub(crate) fn len(&self) -> usize {
        self.count
    }

    /// A read waits for the next barrier.
    pub(crate) fn push(&mut self, read: Read) {
        self.count += 1;
        self.waiting.push(read);
    }

    /// Another epoch begins: barriers of the old one may speak of what lies behind its seal, so that everything waits for another.
    /// False if nothing was asked.
    pub(crate) fn void(&mut self) -> bool {
        let rounds = std::mem::take(&mut self.rounds).into_values().map(|round| round.reads);
        let granted = std::mem::take(&mut self.granted).into_iter().map(|(_, reads)| reads);
        let before = self.waiting.len();
        self.waiting.extend(rounds.chain(granted).flatten());
        self.waiting.len() > before
    }

    /// Who waits for barriers elsewhere, and under which names.
    pub(crate) fn take_remote(&mut self) -> Vec<(ReplicaId, ReadId)> {
        std::mem::take(&mut self.remote).into_values().map(|(by, id, _)| (by, id)).collect()
    }

    fn id(&mut self, boot: BootCount) -> ReadId {
        self.next += 1;
        ReadId { boot, number: self.next - 1 }
    }

    pub(crate) fn wake_at(&self) -> Option<Time> {
        self.rounds.values().map(|round| round.retry_at).min()
    }

    /// The protocol named the frontier at which a round may be served.
    pub(crate) fn granted(&mut self, id: ReadId, frontier: Frontier) {
        if let Some(round) = self.rounds.remove(&id) {
            self.granted.push((frontier, round.reads));
        }
    }

    /// The protocol here has no barrier for a round: it is asked again when it may have one, and by then at the latest.
    pub(crate) fn unanswered(&mut self, id: ReadId, retry_at: Time) {
        if let Some(round) = self.rounds.get_mut(&id) {
            round.retry_at = round.retry_at.min(retry_at);
            round.unanswered = true;
        }
    }

    /// It may have one.
    pub(crate) fn ask_again(&mut self, now: Time) {
        for round in self.rounds.values_mut().filter(|round| round.unanswered) {
            round.retry_at = round.retry_at.min(now);
        }
    }

    /// A peer cannot serve a round: another is asked soon.
    pub(crate) fn refused(&mut self, id: ReadId, retry_at: Time) {
        if let Some(round) = self.rounds.get_mut(&id) {
            round.retry_at = round.retry_at.min(retry_at);
        }
    }

    /// Takes out the reads whose clients' time is up.
    pub(crate) fn expire(&mut self, now: Time, mut expired: impl FnMut(Token)) {
        let rounds = self.rounds.values_mut().map(|round| &mut round.reads);
        let granted = self.granted.iter_mut().map(|(_, reads)| reads);
        for reads in std::iter::once(&mut self.waiting).chain(rounds).chain(granted) {
            let before = reads.len();
            reads.retain(|read| {
                if read.deadline <= now {
                    expired(read.token);
                }
                read.deadline > now
            });
            self.count -= before - reads.len();
        }
        self.rounds.retain(|_, round| !round.reads.is_empty());
        self.remote.retain(|_, (_, _, until)| *until > now);
        self.granted.retain(|(_, reads)| !reads.is_empty());
    }
}

impl<M: StateMachine> Replica<M> {
    /// Asks the protocol for a barrier for the reads that wait.
    pub(crate) fn barrier(&mut self, out: &mut Output) {
        if self.passage.is_some() {
            return;
        }
        let now = self.now;
        let overdue: Vec<ReadId> = self.reads.rounds.iter().filter(|(_, round)| round.retry_at <= now).map(|(&id, _)| id).collect();
        for id in overdue {
            // An id is never used again: a late answer to it must not serve the reads of a later barrier.
            let round = self.reads.rounds.remove(&id).expect("listed above");
            self.reads.waiting.extend(round.reads);
        }
        if self.reads.waiting.is_empty() || self.reads.rounds.len() >= ROUNDS_MAX {
            return;
        }
        let reads = std::mem::take(&mut self.reads.waiting);
        let id = self.reads.id(self.settings.boot);
        let footprint = self.barrier_footprint(&reads);
        self.reads.rounds.insert(id, Round { reads, retry_at: now + self.settings.config.election, unanswered: false });
        if self.protocol.is_some() {
            return self.inputs.push_back(AnyInput::Read { id, footprint });
        }
        // Whoever does not vote asks one who does, another each time.
        let voters = self.settings.config.others();
        let lives = |id: &ReplicaId| self.peers.get(id).is_some_and(|peer| self.seems_up(peer));
        let living: ReplicaSet = voters.iter().filter(lives).collect();
        let asked = if living.is_empty() { voters } else { living };
        if let Some(to) = asked.iter().nth(id.number as usize % asked.len().max(1)) {
            self.send_body(ReplicaSet::one(to), false, Body::BarrierWanted { id, footprint }, out);
        }
    }

    /// A member without a vote asks for a barrier.
    pub(crate) fn barrier_wanted(&mut self, from: ReplicaId, theirs: ReadId, footprint: Footprint, out: &mut Output) {
        if self.protocol.is_none() || self.reads.remote.len() >= REMOTE_MAX {
            return self.answer_barrier(from, theirs, None, out);
        }
        let id = self.reads.id(self.settings.boot);
        self.reads.remote.insert(id, (from, theirs, self.now + self.settings.config.election * 2));
        self.inputs.push_back(AnyInput::Read { id, footprint });
    }

    /// The protocol names the frontier at which reads may be served, here or where they were asked.
    pub(crate) fn granted(&mut self, id: ReadId, frontier: Frontier, out: &mut Output) {
        match self.reads.remote.remove(&id) {
            Some((by, theirs, _)) => self.answer_barrier(by, theirs, Some(frontier), out),
            None => self.reads.granted(id, frontier),
        }
    }

    /// The protocol has no barrier for these reads.
    pub(crate) fn read_refused(&mut self, id: ReadId, out: &mut Output) {
        match self.reads.remote.remove(&id) {
            Some((by, theirs, _)) => self.answer_barrier(by, theirs, None, out),
            None => {
                self.unanswered.asked(self.now);
                self.reads.unanswered(id, self.now + self.settings.config.heartbeat.max(self.question_every()));
            }
        }
    }

    pub(crate) fn answer_barrier(&self, to: ReplicaId, id: ReadId, frontier: Option<Frontier>, out: &mut Output) {
        self.send_body(ReplicaSet::one(to), false, Body::Barrier { id, frontier }, out);
    }

    /// A voter answered with a barrier. One of another epoch than this replica is in serves nothing here.
    pub(crate) fn barrier_answered(&mut self, id: ReadId, frontier: Option<Frontier>) {
        match frontier.filter(|frontier| frontier.epoch == self.epoch()) {
            Some(frontier) => self.reads.granted(id, frontier),
            None => self.reads.refused(id, self.soon()),
        }
    }

    fn barrier_footprint(&self, reads: &[Read]) -> Footprint {
        if self.settings.order == Ordering::Total {
            return Footprint::Everything;
        }
        let mut footprint = Footprint::NOTHING;
        for read in reads {
            footprint.join(read.footprint.clone());
        }
        footprint.normalise();
        footprint
    }

    /// Answers the reads whose barrier is executed.
    pub(crate) fn serve(&mut self, out: &mut Output) {
        let mut granted = std::mem::take(&mut self.reads.granted);
        for (_, reads) in granted.extract_if(.., |(frontier, _)| self.sequencer.covers(frontier)) {
            self.reads.count -= reads.len();
            reads.into_iter().for_each(|read| self.answer(Level::Strong, read, out));
        }
        self.reads.granted = granted;
    }

    /// Answers a read from the state as it is.
    pub(crate) fn answer(&self, level: Level, read: Read, out: &mut Output) {
        let body = read.query.map(|query| self.machine.query(&query)).unwrap_or_default();
        out.replies.push((read.token, Ok(Reply { body, stamp: self.stamp(level) })));
    }
}
