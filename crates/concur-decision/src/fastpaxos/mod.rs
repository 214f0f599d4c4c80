//! Fast Paxos: whoever has a value sends it straight to the voters, and a quorum that is somewhat larger chooses it in two delays.
//!
//! Leslie Lamport, "Fast Paxos", Distributed Computing 19(2), 2006. The paper's *acceptor* is our voter, its *round* our ballot, its
//! *coordinator* ours; *instance* is slot. One lane of slots is decided, and executed in order.
//!
//! **How it works.** A *coordinator* is elected like a leader of Multi-Paxos: by phase 1 for every slot from its first undecided one
//! on. It finishes what the answers report by classic votes and then says "any" for every later slot, once: from slot `k` on its
//! ballot is *fast* (§3.1). In a fast round a proposer sends its value, with the slot that it believes to be the next free one,
//! to all voters; each votes for the first value that reaches it for that slot in that round, durably, and tells the proposer and
//! the coordinator. Equal votes of a fast quorum choose the value; the proposer sees that first and tells everyone. A proposer whose
//! value lost its slot proposes it again in a later one.
//!
//! **Ballots come in pairs.** An even round is a coordinator's own, for all slots: classic below `k`, fast from there on, so that
//! it never sends "any" and a value for one slot at one ballot. The odd round above it, of the same owner, finishes single slots
//! of the even one: those in which values collided, votes are missing, or nobody voted (a hole). In the paper a vote of round i
//! counts as a promise for round i+1 if the two have one coordinator (§3.2, coordinated recovery). Here a ballot orders by round and
//! then by owner, so that others' ballots lie between the two; hence a fast vote *joins* the odd round for its slot, in the same
//! record, and what counts as a promise is one. Otherwise voters are asked (`Finish`), and join by an answer.
//!
//! **Which value** (rule O4, `choose`): that of the highest ballot voted in; if that one was fast and has several values, the one that
//! a fast quorum may have chosen, as far as the answers tell ([`QuorumSystem::may_be_chosen`]): since two fast quorums and one of
//! phase 1 always share a voter, there is at most one. Else any: the one with most votes. Where quorums do not meet so (weights, or
//! sizes that a user chose), no round is ever fast ([`FastPaxos`] decides by classic rounds only).
//!
//! **Falling back.** Slots that needed recovery are weighed against those that did not; when they are too many, or too few
//! voters live for a fast quorum, the coordinator closes the fast round by a phase 1 of its own at its next even ballot, and
//! stays classic for a while: values are forwarded to it. It returns by an "any" for the slots that it has not used. A seal never
//! travels in a fast round; the coordinator closes the round, proposes the seal, and opens no other beside it.
//!
//! **The first ballot needs no phase 1,** since nothing older was voted for: everybody enters an epoch promised to round 2 of
//! the first voter, open from slot 0 on, so that anybody proposes at once. That voter coordinates it only in the run of the process
//! that entered the epoch; a later run may have forgotten what it sent, and is elected like anyone.
//!
//! **A process that restarts.** A promise, a vote, and that a ballot is fast are durable before they are answered, so that a voter
//! never votes twice in a round. A coordinator never resumes its ballot, nor the odd one that belongs to it: its own promise is
//! durable before its first phase 1a leaves, and it is elected anew above. A proposer keeps no record: should it use a slot again for
//! another value in the same round, that is one proposal more to a voter that votes once, and votes carry the name of what they
//! are for, so that they are never counted for another. So a proposal waits for no disk but the voters'.
//!
//! **Not in the paper:** a canvass before phase 1, so that wrong suspicion disturbs no coordinator; check-quorum and a look at its own
//! disk, by which a coordinator that cannot do its work gives it up; learning and reads as other slot protocols here have them.
//! Uncoordinated recovery (§3.2) is not here: the coordinator hears of every vote anyhow, and voters that pick by themselves must
//! see each other's votes. Proposals go to all voters whatever the volume says: a fast quorum is nearly all of them.
//!
//! - `elect`: suspicion, the canvass, who is followed.
//! - `prepare`: phase 1, and what it reports.
//! - `propose`: what is submitted, here and in fast rounds.
//! - `accept`: the voter.
//! - `collide`: the coordinator's tally: collisions, missing votes, holes.
//! - `lead`: the coordinator between classic and fast.
//! - `commit`: decisions, told and learned.
//! - `pace`: the heartbeat. `read`: quorum reads. `recover`: restart, installed state, forgetting.
//!
//! What it does not do: batching, execution, at-most-once, membership. It does not order what one proposer has in several fast slots.

mod accept;
mod choose;
mod collide;
mod commit;
mod elect;
mod lead;
mod messages;
mod pace;
mod prepare;
mod propose;
mod read;
mod restart;

pub use messages::{Message, Progress, Record, Reported, Timer};

use crate::slots::{Peers, Reads, Slots};
use concur_core::{
    Ballot, BatchId, Boot, Context, Corrupt, Delay, Family, Floor, Health, Input, Inspection, Ordering, Protocol, QuorumSystem, ReplicaId,
    ReplicaSet, Time, Traits,
};
use elect::Candidate;
use lead::Leading;
use prepare::Preparing;
use propose::Mine;
use std::collections::BTreeMap;
use std::time::Duration;

/// One replica's vote in Fast Paxos.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct FastPaxos {
    me: ReplicaId,
    /// Its place among the voters. An observer has none.
    place: Option<usize>,
    /// Whether any round may be fast: two fast quorums and one of phase 1 always share a voter.
    may_be_fast: bool,
    /// The ballot that is promised for every slot; its round is even.
    promised: Ballot,
    /// From where on that ballot is known to be fast.
    fast: Option<u64>,
    /// The highest round heard of.
    round: u64,
    /// Votes and decisions; what is joined there is above `promised`, for one slot.
    slots: Slots,
    peers: Peers,
    /// Every slot below is executed durably here, and at the others as far as they said.
    floor: u64,
    floors: BTreeMap<ReplicaId, u64>,
    role: Role,
    /// What was submitted here and is not decided.
    mine: BTreeMap<BatchId, Mine>,
    /// Which of it is proposed in a slot.
    places: BTreeMap<u64, BatchId>,
    reads: Reads,
    /// When the owner of `promised` was last heard.
    heard: Time,
    /// Since when something waits for a coordinator, and how long it may.
    stalled: Option<(Time, Duration)>,
    /// Something was refused that a coordinator could take.
    wanting: bool,
    /// How often the fast round was closed for its collisions, of late.
    relapses: u32,
    /// Decisions were asked for since the last tick.
    asked: bool,
    ticking: bool,
    leaving: bool,
}

/// What a replica does beside voting.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Role {
    Follower,
    Candidate(Candidate),
    Preparing(Box<Preparing>),
    Leading(Box<Leading>),
}

impl Protocol for FastPaxos {
    type Message = Message;
    type Record = Record;
    type Timer = Timer;
    type Order = ();

    const TRAITS: Traits = Traits {
        name: "fastpaxos",
        title: "Fast Paxos",
        paper: "Lamport, Fast Paxos, 2006",
        family: Family::Optimistic,
        order: Ordering::Total,
        floor: Floor::Local,
        has_leader: false,
        one_ballot: true,
        delay: Delay::Fast,
        delays: "2, or 4 in a collision: at any replica, and more if several collide again; 2 at the coordinator and 4 elsewhere once it \
                 falls back to classic rounds",
        quorums: "fast: three quarters of the voters, rounded up; classic and recovery: a majority. With weights, or sizes where two \
                  fast quorums and one of recovery need not share a voter, classic rounds only",
        reads: "a majority's answers: a round trip, then every slot that it knows of is executed",
        choose: "writes come one at a time, from anywhere, and the way to a leader would cost more than the larger quorum",
        avoid: "several replicas write at the same time: they collide in every slot, and it works as Multi-Paxos does, or slower",
        transitions: &[
            FAST,
            CLASSIC,
            COLLISION,
            RECOVERY,
            HOLE,
            AGAIN,
            ELECTED,
            FELL_BACK,
            RETURNED,
            CLOSED_FOR_SEAL,
            CANVASS_REFUSED,
            OVERTAKEN,
            RESIGNED,
            RESTARTED,
            ASKED,
            FETCHED,
            BARRIER,
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
            Input::Expired(Timer::Patience) => self.lose_patience(cx),
            Input::Wanted(instance) => self.want(instance, cx),
            Input::Read { id, footprint: _ } => self.read(id, cx),
            Input::Installed(mark) => self.installed(&mark, cx),
            Input::Floor(frontier) => self.raise_floor(&frontier, cx),
            Input::Peer(id, Health::Up) => self.peer_up(id, cx),
            Input::Peer(id, Health::Down) => self.peer_down(id, cx),
            Input::Leave => self.leave(cx),
        }
        self.wake_if_busy(cx);
    }

    fn checkpoint(&self) -> Vec<Record> {
        self.records()
    }

    fn inspect(&self) -> Inspection {
        let (retained, retained_bytes) = self.slots.retained();
        let classic = matches!(&self.role, Role::Leading(leading) if leading.fast.is_none());
        Inspection {
            role: self.role.name(self.place.is_some()),
            ballot: self.promised.round,
            leader: if classic { Some(self.promised.owner) } else { self.coordinator().filter(|_| self.fast.is_none()) },
            undecided: self.slots.known() - self.slots.decided(),
            retained,
            retained_bytes,
            details: vec![
                ("coordinator", format!("{} at {}", self.promised.owner, self.promised.round)),
                ("fast from", self.fast.map_or("-".into(), |slot| slot.to_string())),
                ("decided", self.slots.decided().to_string()),
                ("base", self.slots.base().to_string()),
                ("own proposals", self.mine.len().to_string()),
            ],
        }
    }
}

const FAST: &str = "fast decision";
const CLASSIC: &str = "classic decision";
const COLLISION: &str = "collision";
const RECOVERY: &str = "coordinated recovery";
const HOLE: &str = "hole filled";
const AGAIN: &str = "value proposed again after losing its slot";
const ELECTED: &str = "coordinator elected";
const FELL_BACK: &str = "fell back to classic";
const RETURNED: &str = "returned to fast";
const CLOSED_FOR_SEAL: &str = "fast round closed for a seal";
const CANVASS_REFUSED: &str = "canvass refused";
const OVERTAKEN: &str = "coordinator overtaken";
const RESIGNED: &str = "coordinator resigned";
const RESTARTED: &str = "restarted coordinator";
const ASKED: &str = "learned by asking";
const FETCHED: &str = "state fetched for what is forgotten";
const BARRIER: &str = "barrier read";

/// No slot and no round from here on is taken seriously, so that numbers can be counted up.
const NUMBERS_MAX: u64 = 1 << 62;
/// How far beyond what is decided here slots are voted in and proposed for.
const BACKLOG_MAX: u64 = 1 << 16;

impl Role {
    fn name(&self, votes: bool) -> &'static str {
        match self {
            _ if !votes => "observer",
            Self::Follower => "replica",
            Self::Candidate(_) | Self::Preparing(_) => "candidate",
            Self::Leading(_) => "coordinator",
        }
    }
}

impl FastPaxos {
    /// The table of messages. What makes no sense, or does not come from a voter, is dropped.
    fn receive(&mut self, from: ReplicaId, message: Message, cx: &mut Context<Self>) {
        if self.place.is_none() || !cx.config.voters().contains(from) || !self.makes_sense(from, &message, cx) {
            return;
        }
        self.peers.heard(from);
        match message {
            Message::Canvass { ballot } => self.asked_for_favour(from, ballot, cx),
            Message::Canvassed { ballot, granted, round } => self.count_favour(from, ballot, granted, round, cx),
            Message::Prepare { ballot, from: slot } => self.asked_to_promise(from, ballot, slot, cx),
            Message::Promised { ballot, from: slot, below, to, slots } => self.count_promise(from, ballot, [slot, below, to], slots, cx),
            Message::Refused { ballot } => self.overtaken_by(ballot, cx),
            Message::Lead { ballot, fast, progress } => self.led(from, ballot, fast, progress, cx),
            Message::Followed { ballot, fast, progress } => self.followed(from, ballot, fast, progress, cx),
            Message::Propose { ballot, fast, slot, value } => self.asked_fast(from, ballot, fast, slot, value, cx),
            Message::Accept { ballot, slot, value } => self.asked_to_accept(from, ballot, slot, value, cx),
            Message::Voted { ballot, slot, id } => self.count_vote(from, ballot, slot, id, cx),
            Message::Finish { ballot, slot } => self.asked_to_join(from, ballot, slot, cx),
            Message::Joined { ballot, slot, vote } => self.count_join(from, ballot, slot, vote, cx),
            Message::Decided { slot, id } => self.told_decided(from, slot, id, cx),
            Message::Beat { progress } => self.beaten(from, progress, cx),
            Message::Learn(learn) => self.learn(from, learn, cx),
            Message::Query { id } => self.asked_what_is_known(from, id, cx),
            Message::Known { id, known } => self.count_known(from, id, known, cx),
            Message::TakeOver { ballot } => self.take_over(from, ballot, cx),
            Message::Echo { ballot } => self.hear_echo(from, ballot),
        }
    }

    /// Whether a message's ballot belongs to whom it has to and is of the right kind, its slot is one that this replica can take,
    /// and nothing travels in a fast round that may not.
    fn makes_sense(&self, from: ReplicaId, message: &Message, cx: &Context<Self>) -> bool {
        let slot_ok = |slot: u64| slot < self.slots.decided().saturating_add(BACKLOG_MAX).min(NUMBERS_MAX);
        let own = |ballot: &Ballot| is_main(*ballot) && ballot.owner == from;
        let known = |ballot: &Ballot| ballot.round < NUMBERS_MAX && cx.config.voters().contains(ballot.owner);
        let mine = |ballot: &Ballot| ballot.owner == cx.config.me;
        match message {
            Message::Canvass { ballot } | Message::Lead { ballot, .. } | Message::TakeOver { ballot } => own(ballot),
            Message::Prepare { ballot, from } => own(ballot) && *from < NUMBERS_MAX,
            Message::Canvassed { ballot, round, .. } => mine(ballot) && *round < NUMBERS_MAX,
            Message::Promised { ballot, from, below, to, slots } => {
                let inside = |reported: &Reported| (*from..*to).contains(&reported.slot) && reported.slot < NUMBERS_MAX;
                mine(ballot) && *below < NUMBERS_MAX && from < to && slots.is_sorted_by(|a, b| a.slot < b.slot) && slots.iter().all(inside)
            }
            Message::Followed { ballot, .. } | Message::Echo { ballot } => mine(ballot),
            Message::Refused { ballot } | Message::Voted { ballot, .. } => known(ballot),
            Message::Propose { ballot, fast, slot, value } => {
                is_main(*ballot)
                    && known(ballot)
                    && self.may_be_fast
                    && fast <= slot
                    && slot_ok(*slot)
                    && value.id().is_some()
                    && !value.is_seal()
            }
            Message::Accept { ballot, slot, .. } => known(ballot) && ballot.round > 1 && ballot.owner == from && slot_ok(*slot),
            Message::Finish { ballot, slot } => known(ballot) && is_finishing(*ballot) && ballot.owner == from && slot_ok(*slot),
            Message::Joined { ballot, vote, .. } => mine(ballot) && vote.as_ref().is_none_or(|vote| vote.ballot <= *ballot),
            Message::Decided { slot, .. } => slot_ok(*slot),
            Message::Beat { .. } | Message::Learn(_) | Message::Query { .. } | Message::Known { .. } => true,
        }
    }

    /// Who coordinates, if this replica promised somebody else who may live.
    fn coordinator(&self) -> Option<ReplicaId> {
        let owner = Some(self.promised.owner).filter(|&owner| owner != self.me && !self.peers.is_down(owner));
        owner.filter(|_| matches!(self.role, Role::Follower))
    }

    /// Whether nobody coordinates as far as is known: it would be this replica, which does no longer.
    fn is_orphan(&self) -> bool {
        matches!(self.role, Role::Follower) && self.promised.owner == self.me
    }
}

/// Whether a ballot is a coordinator's own, for all slots.
fn is_main(ballot: Ballot) -> bool {
    ballot.round > 0 && ballot.round.is_multiple_of(2) && ballot.round < NUMBERS_MAX
}

/// Whether it finishes single slots of the one below.
fn is_finishing(ballot: Ballot) -> bool {
    ballot.round > 1 && !ballot.round.is_multiple_of(2) && ballot.round < NUMBERS_MAX
}

/// The ballot that finishes slots of this one.
fn finishing(main: Ballot) -> Ballot {
    debug_assert!(is_main(main), "only a coordinator's own ballot has slots to finish");
    Ballot { round: main.round + 1, ..main }
}

/// The coordinator's own ballot that this one is, or belongs to.
fn main_of(ballot: Ballot) -> Ballot {
    Ballot { round: ballot.round & !1, ..ballot }
}

/// Whether rule O4 has at most one value to choose, whatever the votes (§3.1): any two fast quorums and any one of phase 1 share a
/// voter. Of weights only those of the fast quorums of two can be said, so that there no round is fast.
fn may_be_fast(quorums: &QuorumSystem) -> bool {
    use concur_core::{Phase, QuorumRule};
    let voters = quorums.voters.len();
    let (prepare, fast) = (quorums.size(Phase::Prepare), quorums.size(Phase::Fast));
    !matches!(quorums.rule, QuorumRule::Weighted { .. }) && fast <= voters && prepare.saturating_add(fast.saturating_mul(2)) > 2 * voters
}

fn one(id: ReplicaId) -> ReplicaSet {
    ReplicaSet::one(id)
}
