//! Classic Paxos, one instance a slot, without a leader: whoever has a value to propose runs both phases for a slot of its own choice.
//!
//! It is the protocol of Leslie Lamport, "The Part-Time Parliament" (1998) §2-3 and "Paxos Made Simple" (2001) §2. Our *ballot* is
//! the paper's ballot number, or number of a proposal; *join* is to promise; *voter* is acceptor and learner at once; a *slot* is a
//! decree's number, or an instance; Prepare and Promise are NextBallot and LastVote, Accept and Accepted are BeginBallot and Voted,
//! Decided is Success.
//!
//! How it works. A proposer joins a ballot of its own in a slot, durably, and asks the others to join (phase 1). A quorum that has
//! joined says how it voted there last; the value of the highest ballot voted at goes on, and if there is none the proposer is free
//! to put its own to the vote (phase 2). What a quorum votes for at one ballot is decided, and can be found by every later phase 1,
//! because the quorums of the two phases meet. Then everyone is told. Promises and votes are durable before they are answered, the
//! proposer's own are messages to itself like the others'. Slots are decided independently, several at a time; execution takes them
//! in order.
//!
//! **No leader.** The papers elect a president, or a distinguished proposer, so that phase 1 is done once for all slots and proposers
//! do not outbid each other; that is Multi-Paxos, which has a folder of its own. Here every value pays for phase 1, and everybody
//! proposes at any time: contention is kept low by turns (`propose`), and where two meet nevertheless one gives way (`recover`). A
//! value whose slot turned out to be somebody else's goes on to another slot; it is decided, or refused as lost.
//!
//! **Restart.** A ballot is on record before it is used, and a later run takes a higher one: so no ballot is ever used for two values.
//! A run that begins resumes nothing. What it finds undecided in its records it finishes like anyone's.
//!
//! - `propose`: which slot a value gets, and what lies below it; starting phase 1.
//! - `prepare`: phase 1 at those who are asked, and counting their promises.
//! - `accept`: phase 2.
//! - `commit`: decisions, told and settled.
//! - `recover`: refusals, waiting, finishing what others left.
//! - `read`: which slots a read must wait for.
//! - `learn`: catching up, and taking over installed state.
//! - `pace`: the heartbeat, and what is sent again.
//! - `restart`: records.
//!
//! What it does not do: no lease, no membership (epochs replace §3.3.4 of the first paper), no batching of what is submitted, no
//! retry of what was refused.

mod accept;
mod commit;
mod learn;
mod messages;
mod pace;
mod prepare;
mod propose;
mod read;
mod recover;
mod restart;

pub use messages::{Known, Message, Proposal, Record, Refusal, Stretch, Timer, Voted};

use crate::slots::{Peers, Reads, Slots};
use concur_core::{
    Ballot, BatchId, Boot, Context, Corrupt, Delay, Family, Floor, Health, Input, Inspection, Ordering, Protocol, ReplicaId, ReplicaSet,
    Traits, Value,
};
use messages::SLOTS_MAX;
use propose::Turns;
use recover::Watch;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

/// One voter of classic Paxos in one epoch.
#[derive(Debug, Clone, Hash)]
pub struct Paxos {
    /// Ballots joined, votes and decisions.
    slots: Slots,
    /// One past the last slot with a vote or a decision.
    voted: u64,
    /// The executed state does not reach the first slot that is kept: it has to be fetched.
    lacking: bool,
    /// How far the others are.
    peers: Peers,
    /// Reads that wait for a quorum.
    reads: Reads,
    /// What the next slot is chosen by.
    turns: Turns,
    /// Slots that this replica drives towards a decision.
    leads: BTreeMap<u64, Lead>,
    /// Undecided slots that it has waited for, or was outbid in.
    watches: BTreeMap<u64, Watch>,
    /// Values submitted here and undecided, by the slot that each waits for. At most the window.
    own: BTreeMap<u64, Own>,
    /// And by name.
    proposed: BTreeMap<BatchId, u64>,
    /// Own values that need another slot; none once a step is over.
    moving: VecDeque<Arc<Value>>,
    /// By how many ticks this replica lets others go first, of holes that it first sees in this tick.
    stagger: Option<u32>,
    ticking: bool,
    leaving: bool,
}

/// A slot that this replica drives, at one ballot.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Lead {
    ballot: Ballot,
    stage: Stage,
    /// Who has joined a higher ballot.
    refused: ReplicaSet,
    /// The highest round among those.
    seen: u64,
    /// For how many ticks this stage lasts.
    ticks: u32,
    /// How often this replica has tried before.
    attempts: u32,
    /// Whether others left the slot behind.
    hole: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Stage {
    /// Phase 1: who joined, and the highest vote among theirs.
    Prepare { answers: ReplicaSet, best: Option<(Ballot, Arc<Value>)> },
    /// Phase 2: who voted for the value.
    Accept { value: Arc<Value>, votes: ReplicaSet },
}

/// A value submitted here, in the slot that it waits for.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Own {
    value: Arc<Value>,
    /// Whether it was ever put to the vote there, so that it may be decided there whoever drives the slot.
    offered: bool,
}

impl Lead {
    fn new(ballot: Ballot, attempts: u32) -> Self {
        let stage = Stage::Prepare { answers: ReplicaSet::EMPTY, best: None };
        Self { ballot, stage, refused: ReplicaSet::EMPTY, seen: 0, ticks: 0, attempts, hole: false }
    }

    fn next_stage(&mut self, stage: Stage) {
        (self.stage, self.refused, self.ticks) = (stage, ReplicaSet::EMPTY, 0);
    }
}

const DECIDED: &str = "decided";
const FOUND: &str = "found another's value in phase 1";
const REFUSED: &str = "ballot refused";
const BACKED_OFF: &str = "duel backed off";
const FILLED: &str = "hole finished with a no-op";
const FINISHED: &str = "hole finished with a value";
const PASSED_OVER: &str = "turn passed over";
const MOVED: &str = "own value moved to another slot";
const LOST: &str = "own command lost";
const LEARNED: &str = "learned by asking";
const STATE_FETCHED: &str = "state fetched";
const BARRIER_READ: &str = "barrier read";

impl Protocol for Paxos {
    type Message = Message;
    type Record = Record;
    type Timer = Timer;
    type Order = ();

    const TRAITS: Traits = Traits {
        name: "paxos",
        title: "Classic Paxos",
        paper: "Lamport, The part-time parliament, 1998; Lamport, Paxos made simple, 2001",
        family: Family::Classic,
        order: Ordering::Total,
        floor: Floor::Local,
        has_leader: false,
        one_ballot: false,
        delay: Delay::TwoRounds,
        delays: "4: two round trips to a majority, at any replica",
        quorums: "a majority joins and a majority votes; other sizes and weights where a quorum of the one meets every one of the other",
        reads: "a majority's answers: a round trip, then what it has voted on is decided and executed",
        choose: "clients everywhere and modest load: any replica writes at the price of its own two round trips, and no loss of one is a pause \
                 for those that go on; the smallest protocol to reason about",
        avoid: "one round trip must do, or many replicas write fast at very different distances",
        transitions: &[
            DECIDED,
            FOUND,
            REFUSED,
            BACKED_OFF,
            FILLED,
            FINISHED,
            PASSED_OVER,
            MOVED,
            LOST,
            LEARNED,
            STATE_FETCHED,
            BARRIER_READ,
        ],
    };

    fn recover(boot: Boot<Self>, cx: &mut Context<Self>) -> Result<Self, Corrupt> {
        Self::start(boot, cx)
    }

    fn step(&mut self, input: Input<Self>, cx: &mut Context<Self>) {
        match input {
            Input::Submit(value) => self.submit(value, cx),
            Input::Receive { from, message } => self.receive(from, message, cx),
            Input::Expired(Timer::Tick) => self.tick(cx),
            Input::Wanted(instance) => self.want(instance, cx),
            Input::Read { id, footprint: _ } => self.read(id, cx),
            Input::Installed(mark) => self.installed(&mark, cx),
            Input::Floor(frontier) => self.raise_floor(&frontier, cx),
            Input::Peer(id, Health::Up) => self.peer_up(id, cx),
            Input::Peer(id, Health::Down) => self.peer_down(id, cx),
            Input::Leave => self.leaving = true,
        }
    }

    fn checkpoint(&self) -> Vec<Record> {
        self.records()
    }

    fn inspect(&self) -> Inspection {
        let (retained, retained_bytes) = self.slots.retained();
        let open = self.slots.iter_from(self.slots.decided()).map(|(slot, _)| self.slots.joined(slot).round);
        Inspection {
            role: "replica",
            ballot: open.max().unwrap_or(0),
            leader: None,
            undecided: self.slots.known() - self.slots.decided(),
            retained,
            retained_bytes,
            details: vec![
                ("decided below", self.slots.decided().to_string()),
                ("known below", self.slots.known().to_string()),
                ("base", self.slots.base().to_string()),
                ("slots driven", self.leads.len().to_string()),
                ("own values under way", self.own.len().to_string()),
                ("turns reached ahead", self.turns.reach.to_string()),
            ],
        }
    }
}

impl Paxos {
    /// The table of messages. What makes no sense is dropped.
    fn receive(&mut self, from: ReplicaId, message: Message, cx: &mut Context<Self>) {
        let voters = cx.config.voters();
        if !voters.contains(from) || !voters.contains(cx.config.me) || !makes_sense(from, &message) {
            return;
        }
        self.peers.heard(from);
        match message {
            Message::Prepare { stretches } => self.promise(from, &stretches, cx),
            Message::Promise { joined, votes } => self.count_promises(from, &joined, votes, cx),
            Message::Accept { noops, proposals } => self.vote(from, &noops, proposals, cx),
            Message::Accepted { voted } => self.count_votes(from, &voted, cx),
            Message::Refused { refusals } => self.count_refusals(from, &refusals, cx),
            Message::Decided { chosen, values } => self.told(from, &chosen, values, cx),
            Message::Lacking { chosen } => self.tell(from, &chosen, cx),
            Message::Learn(said) => self.hear(from, said, cx),
            Message::Query { id } => self.bound(from, id, cx),
            Message::Bound { id, voted } => self.count_bound(from, id, voted, cx),
        }
        self.place(cx);
    }

    fn peer_down(&mut self, id: ReplicaId, cx: &mut Context<Self>) {
        self.peers.hint(id, true);
        self.suspect_what_is_left_of(id, cx);
    }
}

/// Whether every number is one that is used, no message names too many slots, and every ballot belongs to who uses it.
fn makes_sense(from: ReplicaId, message: &Message) -> bool {
    let slot = |slot: u64| slot < messages::NUMBER_MAX;
    let ballot = |ballot: Ballot| (1..messages::NUMBER_MAX).contains(&ballot.round);
    let few = |stretches: &[Stretch]| {
        let count = stretches.iter().try_fold(0, |sum: u64, stretch| sum.checked_add(stretch.count));
        stretches.iter().all(Stretch::makes_sense) && count.is_some_and(|count| count <= SLOTS_MAX)
    };
    let owned = |stretches: &[Stretch]| few(stretches) && stretches.iter().all(|stretch| stretch.ballot.owner == from);
    match message {
        Message::Prepare { stretches } => owned(stretches),
        Message::Promise { joined, votes } => {
            few(joined) && votes.iter().all(|voted| slot(voted.slot) && ballot(voted.vote.ballot) && voted.vote.ballot <= voted.ballot)
        }
        Message::Accept { noops, proposals } => {
            let vote = |vote: &crate::slots::Vote| ballot(vote.ballot) && vote.ballot.owner == from;
            owned(noops) && proposals.iter().all(|proposal| slot(proposal.slot) && vote(&proposal.vote))
        }
        Message::Accepted { voted } => few(voted),
        Message::Refused { refusals } => refusals.iter().all(|refusal| slot(refusal.slot) && ballot(refusal.joined)),
        Message::Decided { chosen, values } => few(chosen) && values.iter().all(|known| slot(known.slot)),
        Message::Lacking { chosen } => few(chosen),
        Message::Learn(said) => Paxos::can_be_said(said),
        Message::Bound { voted, .. } => slot(*voted),
        Message::Query { .. } => true,
    }
}
