//! Multi-Paxos: one leader prepares one ballot for all slots at once, and then has each value voted for in a single round trip.
//!
//! What it is. Leslie Lamport, "Paxos Made Simple", 2001, §3, with what Chandra, Griesemer and Redstone, "Paxos Made Live", 2007, and
//! van Renesse and Altinbuken, "Paxos Made Moderately Complex", 2015, found missing in it. Lamport's *proposal number* is our ballot,
//! his *instance* our slot; PMMC's *commander* is one entry of a leader's `pending`, its *scout* our candidate, its *pvalue* a vote.
//!
//! How it works. Every replica is an acceptor: it *promises* a ballot for all slots in one durable record and takes no lower one from
//! then on, and it *votes* slot by slot. A candidate whose ballot a quorum has promised, and which has their votes from its first
//! undecided slot on, leads: it proposes again, at its own ballot, the value of the highest vote reported in each slot, and nothing
//! where there is none; behind these come new values. A value that a quorum has voted for at one ballot is decided. Later
//! leaders find it, since their quorums meet that one, so that whoever leads afterwards proposes nothing else there. A leader needs no
//! log that is at least as good as others': it *learns* what it lacks in phase 1, and what the acceptors have forgotten it fetches
//! before it leads. Acceptors vote in any order; nothing has to match what lies before.
//!
//! - `elect`: patience, the round before phase 1, whom to follow, check-quorum, handing over.
//! - `prepare`: phase 1, at the candidate and at the acceptors.
//! - `propose`: what a leader takes up, and its own votes.
//! - `replicate`: phase 2, in a window for each acceptor; sending again; heartbeats.
//! - `commit`: counting, learning from the leader what is decided, forgetting.
//! - `learn`: decisions and state that were missed.
//! - `read`: read index, at the leader and for followers.
//! - `recover`: starting from records.
//!
//! **What "decided below" tells.** A leader says up to which slot everything is decided, and not what. Whoever voted in a slot at an
//! older ballot may have voted for something else than what was decided, so this counts only where one's own vote is at that leader's very
//! ballot: it proposed one value a slot there, and says so only if that value was decided. Everything else is asked for. For the same
//! reason a leader learns from nobody: if state comes that covers a slot which it has not decided itself, somebody else may lead, what
//! it proposed there may not be what was decided, and it steps down before it says another word.
//!
//! **Votes for what is decided.** An acceptor that knows a slot to be decided answers an Accept for it as if it had voted. If the
//! leader's value is the decided one, a quorum has voted for it already and nothing can go wrong. If it is not, the decision was
//! made at a higher ballot (a leader of a higher one than the first at which the value was chosen proposes that value): a quorum
//! had promised that before anybody could know of a decision, and a quorum of answers to the lower ballot includes one of them whose
//! answer was a vote, given before the promise and reported with it. So such an answer completes no quorum for anything else.
//!
//! **Departures.** Lamport lets any process propose to the leader and says nothing of elections. Here comes a round before phase 1, in
//! which nothing is promised: a candidate goes on only if a quorum hears no leader (as Raft's pre-vote; Howard and Mortier 2020
//! compare the two protocols), so that whoever is cut off, in part or wholly, raises no ballot. PMMC's replicas decide by messages of
//! commanders to everyone; here the next Accept or heartbeat says it, and at once a message to where the value came from, or to
//! everyone when nothing else is pending. Its scouts are answered with all votes at once; here in parts, each asked for: the promise
//! freezes the votes below the ballot, so that parts read at different times are one answer, and what was decided or forgotten
//! between two parts is true as well.
//! PMMC bounds slots by a window over configurations; epochs replace that. No master leases (Paxos Made Live §5.2), no snapshots
//! (§5.5): state is fetched by the replica.
//!
//! What it does not do: batching, forwarding and retry of proposals, membership, leases, at-most-once.

mod commit;
mod elect;
mod learn;
mod messages;
mod prepare;
mod propose;
mod read;
mod replicate;
mod restart;

pub use messages::{Message, Record, Report, Timer};

use crate::slots::{Peers, Slots};
use concur_core::{
    Ballot, Boot, Context, Corrupt, Delay, Family, Floor, Health, Input, Inspection, Ordering, Protocol, REPLICAS_MAX, ReplicaId,
    ReplicaSet, Ticket, Time, Traits,
};
use elect::Canvass;
use messages::Given;
use prepare::Candidate;
use propose::Proposal;
use read::{Forwarded, Reads};
use replicate::Progress;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

/// No round lies above: ballots that do make no sense.
const ROUND_MAX: u64 = 1 << 48;
/// No slot that a leader uses lies further beyond what is decided, or beyond the slot before it: messages that say so make no sense.
const SPAN_MAX: u64 = 1 << 24;

/// One replica's vote in Multi-Paxos.
#[derive(Debug, Clone, Hash)]
pub struct MultiPaxos {
    /// The highest ballot joined, for all slots. A leader's or candidate's own ballot.
    promised: Ballot,
    /// The record that holds it.
    promise: Ticket,
    /// Votes and decisions.
    slots: Slots,
    /// The leader of the promised ballot said that everything below is decided.
    announced: u64,
    /// The highest round heard of, joined or not.
    round: u64,
    /// How often this replica asked whether it may lead, in this run.
    attempts: u64,
    /// The executed state does not reach the first slot that is kept: it has to be fetched.
    lacking: bool,
    /// What this replica is.
    role: Role,
    /// What the others are known to know.
    peers: Peers,
    /// Batches that were submitted here while this replica led, by the slot in which they were proposed, as long as that is undecided.
    given: BTreeMap<u64, Given>,
    /// Reads for which the leader was asked, oldest first.
    forwarded: VecDeque<Forwarded>,
}

/// What a replica is at its ballot.
#[derive(Debug, Clone, Hash)]
enum Role {
    Follower(Follower),
    /// Asks whether it may prepare a ballot.
    Canvass(Canvass),
    /// In phase 1.
    Candidate(Box<Candidate>),
    Leader(Box<Leader>),
}

/// Follows a leader, or waits for one.
#[derive(Debug, Clone, Hash)]
struct Follower {
    /// Who leads the ballot that is promised, if it is known.
    leader: Option<ReplicaId>,
    /// When the leader was heard last, a promise was given, or the wait began.
    heard: Time,
    /// How long silence may last from then on.
    patience: Duration,
    /// The connection to the leader was lost after it was heard last.
    down: bool,
    /// What its last heartbeat said to be decided: whoever does not know that by the next one has missed something.
    told: u64,
    /// When whoever prepares the promised ballot last asked for a part of the promise.
    asked: Option<Time>,
}

/// Leads its ballot.
#[derive(Debug, Clone, Hash)]
struct Leader {
    /// One past the last slot that phase 1 brought up. What was decided before this ballot lies below.
    opened: u64,
    /// The first slot that nothing was proposed in.
    next: u64,
    /// What is proposed at this ballot and not decided, by slot. The values are this replica's own votes.
    pending: BTreeMap<u64, Proposal>,
    /// The names of these values.
    proposed: BTreeSet<concur_core::BatchId>,
    /// What is known of each voter, in order of their numbers, this replica too.
    peers: Vec<Progress>,
    /// Reads that wait here.
    reads: Reads,
    /// The leadership is being handed over.
    transfer: Option<Transfer>,
}

/// A leadership that is being handed over.
#[derive(Debug, Clone, Copy, Hash)]
struct Transfer {
    to: ReplicaId,
    since: Time,
}

impl Leader {
    fn peer(&mut self, id: ReplicaId) -> Option<&mut Progress> {
        self.peers.iter_mut().find(|peer| peer.id == id)
    }

    /// The voters of which `is` holds.
    fn those(&self, is: impl Fn(&Progress) -> bool) -> ReplicaSet {
        self.peers.iter().filter(|peer| is(peer)).map(|peer| peer.id).collect()
    }
}

impl Protocol for MultiPaxos {
    type Message = Message;
    type Record = Record;
    type Timer = Timer;
    type Order = ();

    const TRAITS: Traits = Traits {
        name: "multipaxos",
        title: "Multi-Paxos",
        paper: "Lamport, Paxos made simple, 2001, §3; Chandra, Griesemer and Redstone, Paxos made live, 2007; van Renesse and Altinbuken, \
                Paxos made moderately complex, 2015",
        family: Family::Leadership,
        order: Ordering::Total,
        floor: Floor::Local,
        has_leader: true,
        one_ballot: true,
        delay: Delay::Leader,
        delays: "2 at the leader, 4 elsewhere",
        quorums: "a majority promises and a majority votes; other sizes and weights where every quorum that promises meets every one that votes",
        reads: "read index: one round of heartbeats, shared by all that wait, after what phase 1 brought up is decided",
        choose: "a leader near its clients and a total order; whoever reaches a majority can lead, whatever it has missed, so that \
                 partitions that stop a protocol whose leader must have the latest log do not stop this one",
        avoid: "clients spread over distant regions; every write crosses the leader, whose loss stops the group for an election timeout",
        transitions: &[
            ELECTED,
            STEPPED_DOWN,
            CANVASS_REFUSED,
            OVERTAKEN,
            PROPOSED_AGAIN,
            PROMISE_IN_PARTS,
            LEARNED_IN_PHASE_1,
            LEARNED,
            STATE_FETCHED,
            PROPOSAL_LOST,
            READ_SERVED,
            READ_FORWARDED,
            TRANSFERRED,
        ],
    };

    fn recover(boot: Boot<Self>, cx: &mut Context<Self>) -> Result<Self, Corrupt> {
        Self::start(boot, cx)
    }

    fn step(&mut self, input: Input<Self>, cx: &mut Context<Self>) {
        match input {
            Input::Submit(value) => self.submit(value, cx),
            Input::Receive { from, message } => self.receive(from, message, cx),
            Input::Expired(Timer::Election) => self.lose_patience(cx),
            Input::Expired(Timer::Pulse) => self.pulse(cx),
            Input::Expired(Timer::Forward) => self.forward_again(cx),
            Input::Read { id, footprint: _ } => self.read(id, cx),
            Input::Wanted(instance) => self.want(instance, cx),
            Input::Installed(mark) => self.installed(&mark, cx),
            Input::Floor(frontier) => self.forget(&frontier, cx),
            Input::Peer(id, Health::Up) => self.peer_up(id, cx),
            Input::Peer(id, Health::Down) => self.peer_down(id, cx),
            Input::Leave => self.leave(cx),
        }
    }

    fn checkpoint(&self) -> Vec<Record> {
        self.records()
    }

    fn inspect(&self) -> Inspection {
        let (retained, retained_bytes) = self.slots.retained();
        let mut details = vec![
            ("ballot", format!("{}.{}", self.promised.round, self.promised.owner)),
            ("decided", self.slots.decided().to_string()),
            ("base", self.slots.base().to_string()),
        ];
        if let Role::Leader(leader) = &self.role {
            let each: Vec<String> = leader.peers.iter().map(|p| format!("{}:{}/{}", p.id, p.decided, p.next)).collect();
            details.push(("decided/next", each.join(" ")));
        }
        Inspection {
            role: self.role.name(),
            ballot: number(self.promised),
            leader: if let Role::Leader(_) = self.role { Some(self.promised.owner) } else { self.leader() },
            undecided: self.slots.known() - self.slots.decided(),
            retained,
            retained_bytes,
            details,
        }
    }
}

const ELECTED: &str = "elected";
const STEPPED_DOWN: &str = "stepped down without a quorum";
const CANVASS_REFUSED: &str = "pre-prepare refused";
const OVERTAKEN: &str = "ballot overtaken";
const PROPOSED_AGAIN: &str = "value proposed again";
const PROMISE_IN_PARTS: &str = "promise in parts";
const LEARNED_IN_PHASE_1: &str = "decision learned in phase 1";
const LEARNED: &str = "learned by asking";
const STATE_FETCHED: &str = "installed state taken over";
const PROPOSAL_LOST: &str = "own proposal lost";
const READ_SERVED: &str = "read served by index";
const READ_FORWARDED: &str = "read forwarded";
const TRANSFERRED: &str = "leadership transferred";

/// A ballot as one number, another for each and in their order.
fn number(ballot: Ballot) -> u64 {
    ballot.round * REPLICAS_MAX as u64 + u64::from(ballot.owner.0)
}

impl Role {
    fn name(&self) -> &'static str {
        match self {
            Self::Follower(_) => "follower",
            Self::Canvass(_) | Self::Candidate(_) => "candidate",
            Self::Leader(_) => "leader",
        }
    }
}

impl MultiPaxos {
    /// Takes a message from another voter or from itself. The ballots of answers are those of the questions; whoever asks at a ballot
    /// that is overtaken is told so by `Newer`.
    fn receive(&mut self, from: ReplicaId, message: Message, cx: &mut Context<Self>) {
        let voters = cx.config.voters();
        if !voters.contains(from) || !voters.contains(cx.config.me) || !makes_sense(from, cx.config.me, &message) {
            return;
        }
        match message {
            Message::PrePrepare { attempt } => self.asked_whether_led(from, attempt, cx),
            Message::PrePrepared { attempt, granted, round, base, decided } => {
                self.pre_prepared(from, attempt, granted, round, [base, decided], cx);
            }
            Message::Prepare { ballot, from: slot, transfer } => self.asked_to_promise(from, ballot, slot, transfer, cx),
            Message::Promise { ballot, from: slot, reports, next, base } => self.promised_by(from, ballot, slot, reports, (next, base), cx),
            Message::Newer { ballot } => self.outdated_by(ballot, cx),
            Message::HandOver { ballot } => self.take_over(from, ballot, cx),
            Message::Accept { ballot, first, values, decided } => self.asked_to_accept(from, ballot, first, values, decided, cx),
            Message::Accepted { ballot, first, count } => self.accepted(from, ballot, first, count, cx),
            Message::Heartbeat { ballot, round, decided, opened } => self.heartbeat(from, ballot, round, [decided, opened], cx),
            Message::Heard { ballot, round, decided } => self.heard(from, ballot, round, decided, cx),
            Message::Decided { ballot, decided } => self.told_decided(from, ballot, decided, cx),
            Message::Read { id } => self.asked_to_read(from, id, cx),
            Message::ReadAt { id, ballot, decided } => self.read_at(id, ballot, decided, cx),
            Message::ReadLost { id } => self.read_lost(id, cx),
            Message::Learn(said) => self.learn(from, said, cx),
        }
    }

    /// Who can propose, if this replica knows somebody else that can.
    fn leader(&self) -> Option<ReplicaId> {
        match &self.role {
            Role::Follower(follower) => follower.leader,
            Role::Canvass(_) | Role::Candidate(_) | Role::Leader(_) => None,
        }
    }

    /// Joins a ballot for all slots. Persisted at once, so that whatever is sent afterwards waits for it.
    fn promise(&mut self, ballot: Ballot, cx: &mut Context<Self>) {
        assert!(ballot > self.promised, "a promise never falls");
        self.promised = ballot;
        self.announced = 0;
        self.promise = cx.persist(Record::Promised { ballot });
    }
}

/// Whether every ballot belongs to whom it has to, and no number is out of all bounds.
fn makes_sense(from: ReplicaId, me: ReplicaId, message: &Message) -> bool {
    let of = |ballot: &Ballot, owner: ReplicaId| ballot.owner == owner && (1..=ROUND_MAX).contains(&ballot.round);
    match message {
        Message::Prepare { ballot, .. } => of(ballot, from),
        Message::HandOver { ballot }
        | Message::Heartbeat { ballot, .. }
        | Message::Decided { ballot, .. }
        | Message::ReadAt { ballot, .. } => of(ballot, from) && from != me,
        Message::Accept { ballot, first, values, decided } => {
            let ends = first.checked_add(values.len() as u64).is_some_and(|end| end < u64::MAX && end <= decided.saturating_add(SPAN_MAX));
            of(ballot, from) && from != me && ends && !values.is_empty()
        }
        Message::Promise { ballot, from, reports, next, base } => {
            of(ballot, me) && prepare::in_order(*ballot, *from, reports, (*next, *base))
        }
        Message::Accepted { ballot, first, count } => of(ballot, me) && first.checked_add(*count).is_some(),
        Message::Heard { ballot, .. } => of(ballot, me),
        Message::Newer { ballot } => ballot.round <= ROUND_MAX,
        Message::PrePrepared { round, .. } => *round <= ROUND_MAX,
        Message::PrePrepare { .. } | Message::Read { .. } | Message::ReadLost { .. } | Message::Learn(_) => true,
    }
}
