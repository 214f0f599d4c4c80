//! Mencius: the right to propose rotates, so that every site has its own commands decided in a round trip of its own.
//!
//! What it is. Yanhua Mao, Flavio Junqueira and Keith Marzullo, "Mencius: building efficient replicated state machines for WANs",
//! OSDI 2008. One lane of slots; slot s belongs to voter s mod n, its *owner* (the paper's coordinator; a slot is the paper's
//! instance of simple consensus). At ballot zero the owner proposes a value there (SUGGEST) or *skips* it; everybody else may propose
//! only a no-op there, at a higher ballot, after a full phase 1 that proposes again whatever it finds (*revocation*). So a skip is
//! settled by one message: whoever hears it knows that nothing but a no-op can be chosen.
//!
//! How it works. An owner proposes in its lowest free slot, once the proposal is durable here, since in a later run it must not
//! propose there again. Whoever votes for a proposal in slot s skips its own free slots below s in the same breath (Rule 1), durably,
//! and names exactly these in the answer (Optimization 1; links need not be FIFO, so that nothing is implied); to the others these
//! names travel with its next proposal, or by themselves after a quarter of a heartbeat (Optimization 2, Accelerator 1). Execution
//! takes the contiguous prefix, so that a value waits for whoever owns the slots before it. A no-op in place of a value refuses that
//! as lost, and the replica submits it again (Rule 3).
//!
//! **A skip is a vote for nothing at ballot zero in an own slot.** Its record is durable before anyone hears of it, this replica's
//! own execution too, which learns it by a message to itself. A slot where an own vote stands, or for which a ballot was joined, is
//! not *free*: nothing is proposed or skipped there any more.
//!
//! **Revocation** (Rule 2, Optimization 3). A voter that is silent for an election timeout, whose connection broke, or whose wanted
//! slot does not move, is revoked: one phase 1 for all its undecided slots up to `AHEAD` (the paper's 2β) beyond the last used, and
//! one phase 2 for what comes of it. It is renewed when half of that is used up, at once, by the first of the living; so the others
//! go on at normal latency, and while nobody proposes nothing is revoked. Ballots are joined slot by slot; one is durable here, in
//! every slot that it is used for, before anyone hears of it, so that no run uses it twice. What voters report is bounded by a
//! message's bytes: the revoker goes on with what a whole quorum reported, and takes up the rest afterwards. An owner that is
//! wrongly suspected joins like anyone and goes on behind the revoked slots; what it had proposed there is decided nevertheless, or
//! lost once the no-op is learned. Two revokers take turns, and back off at random when they meet.
//!
//! **What is used** may hold a value: `used` lies one past the last slot in which a value was proposed or voted for.
//! From there on slots are nobody's business, though some be revoked: they are not handed to execution, not read, not asked for, and
//! need no skip; so a revocation far ahead does not make the others skip to its end.
//!
//! **A process that restarts** resumes nothing at ballot zero: its undecided own slots it finishes by phase 1, like anyone's. What
//! was decided it learns from the others; only skips it knows by itself. No record is written of decisions.
//!
//! **Departures.** (1) The paper relies on FIFO links and implies skips; we name spans. (2) Its revoker runs one instance for each
//! slot; ours one ballot and one message for all, in which every slot is named. (3) Its failure detector is given; ours also takes a
//! living owner whose wanted slot does not move for two election timeouts for gone (its disk stalls, say), until it uses or skips a
//! slot again. (4) Reads are not its subject: ours ask a quorum what is used and execute everything below, asking owners for what is
//! missing. (5) An owner that is told to stop skips ahead, so that it need not be revoked.
//!
//! **Latency of a lone write** at site s, nothing else under way, with rtt(s, r) the round trips and d_maj(s) that to the nearest
//! majority: the greatest of d_maj(s) and rtt(s, r) over the owners r of the slots between the last used one and this one. In a fresh
//! epoch these are the voters before s. If s itself wrote last they are all the others: the farthest round trip. If the voter before
//! s wrote last there are none: d_maj(s). If all sites write at once in a fresh epoch, s waits for the voters r before it: the
//! greatest of d_maj(s) and d_maj(r) + rtt(r, s) / 2.
//!
//! Not here: leaders, batching, execution, at-most-once, and the paper's execution of commuting commands out of turn, which a
//! total order does not have.

mod accept;
mod commit;
mod learn;
mod messages;
mod pace;
mod propose;
mod read;
mod recover;
mod restart;

pub use messages::{Message, Record, Report, Span, Stretch, Timer};

use crate::slots::{Peers, Reads, Slot, Slots};
use concur_core::{
    Ballot, BatchId, Boot, Context, Corrupt, Delay, Family, Floor, Health, Input, Inspection, Instance, Ordering, Protocol, ReplicaId,
    ReplicaSet, Traits, Value,
};
use recover::Revocation;
use std::collections::BTreeMap;
use std::sync::Arc;

/// The owners' ballot, below every other.
const ZERO: Ballot = Ballot { round: 0, owner: ReplicaId(0) };
/// So many slots beyond the last used are revoked together with those that are wanted.
const AHEAD: u64 = 512;
/// A replica takes part in slots that are at most so far ahead of what it knows to be decided.
const REACH: u64 = 1 << 16;
/// How many slots an owner may be ahead of what it knows to be decided.
const BACKLOG_MAX: u64 = 1 << 14;
/// No round of a ballot is higher: one that is is nobody's.
const ROUND_MAX: u64 = 1 << 62;

/// One voter of Mencius in one epoch.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Mencius {
    me: ReplicaId,
    /// This replica's place among the voters: it owns every slot that leaves this remainder. An observer has none.
    place: Option<u64>,
    /// The owners, in the order of their places.
    voters: Vec<ReplicaId>,
    slots: Slots,
    /// For each place, its first slot that is not known to be decided.
    open: Vec<u64>,
    /// The first own slot that is free: neither proposed, skipped, promised to a revoker, nor decided.
    next: u64,
    /// One past the last slot that may hold a value. What is decided below was handed to execution.
    used: u64,
    /// Own slots that are skipped and of which not everyone was told.
    unsaid: Vec<Span>,
    /// Own proposals of this run that are undecided.
    leads: BTreeMap<u64, Lead>,
    /// Their slots, by the names of their values.
    proposed: BTreeMap<BatchId, u64>,
    /// Whose slots this replica finishes, by place.
    revocations: BTreeMap<u64, Revocation>,
    /// How the first undecided slot of each place moves.
    watches: Vec<Watch>,
    reads: Reads,
    peers: Peers,
    /// Slots below are executed durably here.
    floor: u64,
    /// And elsewhere, as far as is known.
    floors: BTreeMap<ReplicaId, u64>,
    /// After a restart: who has not said anything yet.
    unheard: ReplicaSet,
    /// Whose state to fetch at the next tick if what it covers is still not known to be decided.
    fetch: Option<(ReplicaId, u64)>,
    /// What was decided at the last tick.
    decided_before: u64,
    ticking: bool,
    flushing: bool,
    leaving: bool,
}

/// An own proposal at ballot zero.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Lead {
    value: Arc<Value>,
    /// Who voted for it.
    oks: ReplicaSet,
    /// Who has joined a higher ballot.
    refused: ReplicaSet,
    /// For how many ticks nothing was heard.
    ticks: u32,
}

/// How a place's first undecided slot moves.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
struct Watch {
    /// The slot.
    slot: u64,
    /// For how many ticks it has been wanted and has not moved.
    ticks: u32,
    /// How many ticks later than it might this replica revokes it, drawn at the first.
    delay: Option<u32>,
    /// How often a revocation was overtaken since it moved last.
    attempts: u32,
    /// A round that somebody has joined.
    round: u64,
    /// The owner was heard and did not move: it counts as gone until it does.
    slow: bool,
}

impl Protocol for Mencius {
    type Message = Message;
    type Record = Record;
    type Timer = Timer;
    type Order = ();

    const TRAITS: Traits = Traits {
        name: "mencius",
        title: "Mencius",
        paper: "Mao, Junqueira and Marzullo, Mencius: building efficient replicated state machines for WANs, 2008",
        family: Family::Ballots,
        order: Ordering::Total,
        floor: Floor::Local,
        has_leader: false,
        one_ballot: false,
        delay: Delay::Turns,
        delays: "2, or the turns before: at worst the farthest round trip, until whoever owns the slots before has used or skipped them",
        quorums: "a majority votes; a majority is asked before slots of another are finished; other sizes where the two always meet",
        reads: "a majority's answers: a round trip, then everything below the last used slot is executed",
        choose: "clients in several regions write at even rates, in one total order, and no replica may be the bottleneck",
        avoid: "one region writes and the others are far or slow: every write waits for the farthest, and a lost one for a timeout",
        transitions: &[SKIPPED, REVOKED, RENEWED, OVERTAKEN, FOUND, FINISHED, OWN_FINISHED, OWN_REVOKED, OWN_LOST, LEARNED, READ],
    };

    fn recover(boot: Boot<Self>, cx: &mut Context<Self>) -> Result<Self, Corrupt> {
        restart::restart(boot, cx)
    }

    fn step(&mut self, input: Input<Self>, cx: &mut Context<Self>) {
        let used = self.used;
        match input {
            Input::Submit(value) => self.submit(value, cx),
            Input::Receive { from, message } => self.receive(from, message, cx),
            Input::Expired(Timer::Tick) => self.tick(cx),
            Input::Expired(Timer::Flush) => self.flush(cx),
            Input::Wanted(instance) => self.want(instance, cx),
            Input::Read { id, footprint: _ } => self.read(id, cx),
            Input::Installed(mark) => self.installed(&mark.frontier, cx),
            Input::Floor(frontier) => self.raise_floor(&frontier, cx),
            Input::Peer(id, Health::Up) => self.peer_up(id, cx),
            Input::Peer(id, Health::Down) => self.peers.hint(id, true),
            Input::Leave => self.leave(cx),
        }
        if self.used > used {
            self.renew_revocations(cx);
        }
    }

    fn checkpoint(&self) -> Vec<Record> {
        self.records()
    }

    fn inspect(&self) -> Inspection {
        let (retained, retained_bytes) = self.slots.retained();
        let rounds = self.slots.iter_from(self.slots.decided()).map(|(_, slot)| match slot {
            Slot::Open { joined, .. } => joined.round,
            Slot::Decided(_) => 0,
        });
        Inspection {
            role: if self.place.is_some() { "replica" } else { "observer" },
            ballot: rounds.max().unwrap_or(0),
            leader: None,
            undecided: self.used.saturating_sub(self.slots.decided()),
            retained,
            retained_bytes,
            details: vec![
                ("next own slot", self.next.to_string()),
                ("decided below", self.slots.decided().to_string()),
                ("used below", self.used.to_string()),
                ("decided below, an owner", format!("{:?}", self.open)),
                ("revocations under way", self.revocations.len().to_string()),
            ],
        }
    }
}

const SKIPPED: &str = "own slots skipped";
const REVOKED: &str = "another's slots revoked";
const RENEWED: &str = "revocation renewed";
const OVERTAKEN: &str = "revocation overtaken";
const FOUND: &str = "revocation finished with a value";
const FINISHED: &str = "revocation finished with no-ops";
const OWN_FINISHED: &str = "own slots finished by phase 1";
const OWN_REVOKED: &str = "own free slots promised to a revoker";
const OWN_LOST: &str = "own value lost to a no-op";
const LEARNED: &str = "learned by asking";
const READ: &str = "quorum read";

impl Mencius {
    /// The table of messages. What makes no sense is dropped.
    fn receive(&mut self, from: ReplicaId, message: Message, cx: &mut Context<Self>) {
        if self.place.is_none() || !self.voters.contains(&from) || !self.makes_sense(from, &message) {
            return;
        }
        self.peers.heard(from);
        self.unheard.remove(from);
        match message {
            Message::Accept { slot, value, skipped } => self.accept(from, slot, value, &skipped, cx),
            Message::Accepted { slot, skipped } => self.accepted(from, slot, &skipped, cx),
            Message::Commit { slot } => self.told_decided(from, slot, cx),
            Message::Settled { stretch } => self.told(from, &stretch, cx),
            Message::Prepare { owner, span, ballot } => self.prepare(from, owner, span, ballot, cx),
            Message::Promised { owner, span, ballot, end, reports } => self.promised(from, (owner, span, ballot), end, reports, cx),
            Message::Propose { span, ballot, stretch } => self.asked_to_vote(from, span, ballot, &stretch, cx),
            Message::Voted { owner, span, ballot } => self.voted(from, (owner, span, ballot), cx),
            Message::Refused { owner, span, ballot } => self.refused(from, owner, span, ballot, cx),
            Message::Want { owner, span } => self.wanted(from, owner, span, cx),
            Message::Query { id } => self.queried(from, id, cx),
            Message::Known { id, known } => self.known(from, id, known, cx),
            Message::Learn { said, next, floor } => self.learn(from, said, [next, floor], cx),
        }
    }

    /// Whether owners own what is said of their slots, and ballots belong to who uses them.
    fn makes_sense(&self, from: ReplicaId, message: &Message) -> bool {
        let sane = |ballot: &Ballot| (1..=ROUND_MAX).contains(&ballot.round);
        let span = |span: &Span| span.from < span.end;
        match message {
            Message::Accept { slot, value, .. } => self.owner(*slot) == from && !value.is_noop(),
            Message::Commit { slot } => self.owner(*slot) == from,
            Message::Accepted { .. } | Message::Query { .. } | Message::Known { .. } | Message::Learn { .. } => true,
            Message::Settled { stretch } => self.is_whole(stretch),
            Message::Prepare { owner, span: slots, ballot } => {
                self.voters.contains(owner) && span(slots) && sane(ballot) && ballot.owner == from
            }
            Message::Promised { owner, span: slots, ballot, end, reports } => {
                let end = slots.from < *end && *end <= slots.end;
                let inside = |it: &Span| slots.from <= it.from && it.end <= slots.end.saturating_add(self.stride());
                let known = |ballot: &Ballot| *ballot < Ballot { round: ROUND_MAX + 1, ..ZERO };
                let reports = reports.iter().all(|it| span(&it.span) && inside(&it.span) && it.ballot.as_ref().is_none_or(known));
                self.voters.contains(owner) && ballot.owner == self.me && end && reports
            }
            Message::Propose { span: slots, ballot, stretch } => {
                let inside = stretch.values.iter().all(|(slot, _)| (slots.from..slots.end).contains(slot));
                span(slots) && sane(ballot) && ballot.owner == from && self.is_whole(stretch) && inside
            }
            Message::Voted { owner, .. } => self.voters.contains(owner),
            Message::Refused { owner, ballot, .. } => self.voters.contains(owner) && sane(ballot),
            Message::Want { owner, span: slots } => self.voters.contains(owner) && span(slots),
        }
    }

    /// Whether a stretch speaks of one owner's slots, and of values where it says so.
    fn is_whole(&self, stretch: &Stretch) -> bool {
        let nothing = |slot: &u64| stretch.noops.iter().any(|span| (span.from..span.end).contains(slot));
        let own = |(slot, value): &(u64, Value)| self.owner(*slot) == stretch.owner && !value.is_noop() && !nothing(slot);
        self.voters.contains(&stretch.owner) && stretch.values.iter().all(own)
    }

    /// How many voters there are: how far apart the slots of one owner lie.
    fn stride(&self) -> u64 {
        self.voters.len().max(1) as u64
    }

    /// Whose slot it is.
    fn owner(&self, slot: u64) -> ReplicaId {
        self.voters[(slot % self.stride()) as usize]
    }

    /// A voter's place.
    fn place_of(&self, id: ReplicaId) -> u64 {
        self.voters.iter().position(|&voter| voter == id).expect("only voters are spoken of") as u64
    }

    /// The first slot of a place from a number on.
    fn first_of(&self, place: u64, from: u64) -> u64 {
        let n = self.stride();
        from.saturating_add((place + n - from % n) % n)
    }

    /// The slots of a place among these numbers, as far as this replica takes part.
    fn each(&self, place: u64, span: Span) -> impl Iterator<Item = u64> + use<> {
        let end = span.end.min(self.reach());
        let first = self.first_of(place, span.from.min(end));
        (first..end.max(first)).step_by(self.stride() as usize)
    }

    /// This replica takes no part in slots from here on: it has to learn what is decided first.
    fn reach(&self) -> u64 {
        self.slots.decided().saturating_add(REACH)
    }

    /// Whether an own slot can be proposed in or skipped.
    fn is_free(&self, slot: u64) -> bool {
        !self.slots.is_decided(slot) && self.slots.get(slot).is_none()
    }

    /// Moves on to the first own slot that is free.
    fn pass_taken(&mut self) {
        while self.place.is_some() && !self.is_free(self.next) {
            self.next += self.stride();
        }
    }

    /// Slots below `known` are used, or lie below one that is: own free ones among them are skipped at once, and the others are
    /// waited for.
    fn hear_of(&mut self, known: u64, cx: &mut Context<Self>) {
        let known = known.min(self.reach());
        self.use_up_to(known, cx);
        self.skip_below(known, cx);
    }

    /// A value may stand below `known`. What is decided there is executed.
    fn use_up_to(&mut self, known: u64, cx: &mut Context<Self>) {
        if known <= self.used {
            return;
        }
        let before = std::mem::replace(&mut self.used, known);
        for (slot, kept) in self.slots.iter_from(before).take_while(|(slot, _)| *slot < known) {
            if let Slot::Decided(value) = kept {
                cx.decide(Instance::slot(slot), Value::clone(value), ());
            }
        }
        self.wake(cx);
    }
}

impl Stretch {
    /// Nothing yet.
    fn of(owner: ReplicaId) -> Self {
        Self { owner, noops: Vec::new(), values: Vec::new() }
    }

    /// Adds the next slot, `stride` being how far apart the owner's slots lie.
    fn push(&mut self, slot: u64, value: &Value, stride: u64) {
        match self.noops.last_mut() {
            _ if !value.is_noop() => self.values.push((slot, value.clone())),
            Some(last) if last.end == slot => last.end = slot + stride,
            _ => self.noops.push(Span { from: slot, end: slot + stride }),
        }
    }

    /// Whether it speaks of no slot.
    fn is_empty(&self) -> bool {
        self.noops.is_empty() && self.values.is_empty()
    }
}
