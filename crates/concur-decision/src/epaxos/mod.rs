//! EPaxos: no leader; any replica has a command decided in one round trip to its nearest fast quorum if nothing interferes.
//!
//! Each voter owns a lane and proposes its commands in its own instances. The *coordinator* of a command asks the others which
//! commands interfere with it; they note it (*pre-accept*) and answer with what they know beyond the coordinator's own list. If a
//! fast quorum has nothing to add, the list stands and the command is decided. Otherwise the union of a slow quorum's lists is put
//! to the vote like any value in Paxos. Of two commands that interfere at least one lists the other, since the quorums that noted
//! them meet; execution follows the lists, as a graph, and so every replica executes the two in one order. Whoever misses a
//! decision asks for it, and if nobody knows it finishes the instance at a higher ballot, with its command or with nothing.
//!
//! This is the corrected protocol, EPaxos\* (Ryabinin, Gotsman and Sutra, "Making Democracy Work: Fixing and Simplifying
//! Egalitarian Paxos", 2025), of Moraru, Andersen and Kaminsky's "There Is More Consensus in Egalitarian Parliaments" (2013). Of N
//! voters f = ⌊(N−1)/2⌋ may fail, and e of them without leaving the fast path: the greatest e ≤ f with N ≥ 2e+f−1. A slow quorum is
//! N−f voters, a fast one N−e: 2 of 3, 3 of 4, 3 of 5, 4 of 6, 5 of 7. Any two quorums meet. The papers' `bal` and `abal` are
//! [`Vote::joined`] and [`Vote::voted`], `initCmd` is [`Vote::command`], `initDep` [`Vote::initial`], `cmd` and `dep` are
//! [`Vote::noop`] with the command, and [`Vote::deps`].
//!
//! **Why a recovery decides what a fast quorum may have decided.** Whoever recovers has answers of a slow quorum Q. If the
//! coordinator is among them it has joined the ballot and will not commit fast, so without a vote in Q the instance becomes a no-op.
//! Otherwise let R be those in Q that noted the command and added nothing. A fast commit leaves at most e of Q outside R; if more
//! are outside, it is a no-op. If not, the command may have been decided with its coordinator's list D, and if it was not, it may be
//! decided so only if whatever interferes with it is in D or lists it. So all of Q note it, durably, and say what they noted or know
//! decided that interferes and of which neither lists the other. Something decided: then the command was not decided fast, by what
//! is to be shown for everything decided before, and it is a no-op. Nothing: whatever is decided later has a quorum that meets Q in
//! a voter that noted this command first, and lists it, or is itself recovered and finds it in Q. In between, what is noted and not
//! decided is waited for, unless that shows more than e voters to be outside a fast quorum (`validate`).
//!
//! **A process that restarts.** Every note, ballot and vote is durable before it is answered, and the index of what interferes is
//! made again from the records. A fast commit is durable at the coordinator before anything follows from it, because in the next
//! run the coordinator answers a recovery, and its answer says that it did not commit fast. A restarted coordinator never resumes
//! the zero ballot: it finishes its undecided instances at a higher one like anyone's. A proposal leaves after its own record, so
//! that the numbers in the records bound those that anyone knows.
//!
//! **Dependencies are a number a lane,** every interfering instance below it. They may list more than interferes: the proofs ask that
//! what interferes is listed, and a fast commit that nobody added anything. In the coordinator's own lane its own list is right as it
//! is (its earlier commands are in its index), so that voters add nothing there and reordered messages cost nothing.
//!
//! **Forgetting.** What is executed durably here may be forgotten here ([`Floor::Local`]), so that a dead voter pins nothing for ever;
//! but the replica keeps it until all voters have executed it, or the group has gone on without them. It is decided, so a forgetter
//! answers every question about it with "decided, fetch my state"; recovery counts only those who remember; and the index answers
//! with at least the bound of what was evicted from it, so that nothing interfering goes unlisted. Of another command a voter that
//! forgot can no longer say whether something forgotten speaks against it: so that it need not, nothing is forgotten before a slow
//! quorum has pledged to list it (`forget`).
//!
//! Not here: weights, an order on reads of several keys, batching, execution, at-most-once. Nor a bound on components: whoever submits
//! must hold back while much of its own is not executed.

mod accept;
mod commit;
mod conflicts;
mod forget;
mod learn;
mod messages;
mod pace;
mod propose;
mod read;
mod recover;
mod restart;
mod validate;

pub use messages::{Ballot, Chosen, Decided, Deps, Message, Pledge, Progress, Record, Report, Stretch, Timer, Verdict, Vote};

use concur_core::{
    BatchId, Boot, Context, Corrupt, Delay, Family, Floor, Frontier, Health, Input, Inspection, Instance, LaneId, Ordering, Phase,
    Protocol, QuorumRule, QuorumSystem, ReadId, ReplicaId, ReplicaSet, Traits, Value,
};
use conflicts::Conflicts;
use forget::Pledges;
use learn::Peer;
use read::Reading;
use recover::{Inquiry, Watch};
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// The coordinator's ballot, below every other.
const ZERO: Ballot = Ballot { round: 0, owner: ReplicaId(0) };
/// No instance has such a number, and no ballot lies above this round: what says so makes no sense.
const NUMBER_MAX: u64 = 1 << 62;
const ROUND_MAX: u64 = 1 << 48;
/// How many of its own instances a replica may be ahead of what it has durably executed.
const BACKLOG_MAX: u64 = 1 << 16;

/// One voter of EPaxos in one epoch.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct EPaxos {
    me: ReplicaId,
    /// This replica's lane: its place among the voters. An observer has none.
    lane: Option<LaneId>,
    /// Whose lane is which.
    voters: Vec<ReplicaId>,
    limits: Limits,
    /// The next number in this replica's lane.
    next: u64,
    lanes: Vec<Lane>,
    conflicts: Conflicts,
    /// Executed durably here and wherever it is waited for, in each lane below this number: it may be forgotten.
    floor: Vec<u64>,
    /// Decided and executed, and as what is not held here: forgotten, or covered by the state of another replica, or decided by a
    /// record that a crash took.
    gone: Frontier,
    /// Of what is gone, the votes may be lost too below these numbers. Beyond them every vote is as it was, and counts.
    forgotten: Vec<u64>,
    /// What this replica will list, as its records say.
    pledge: Pledge,
    /// What the voters will list, in their order.
    pledges: Vec<Pledges>,
    /// Decided instances below the floor that are kept for replicas that lag, oldest first, and their bytes.
    retained: VecDeque<Instance>,
    retained_bytes: usize,
    /// Instances that this replica drives towards a decision.
    leads: BTreeMap<Instance, Lead>,
    /// Undecided instances that somebody else drives, or nobody.
    watches: BTreeMap<Instance, Watch>,
    /// What was submitted in this run and is not decided.
    proposed: BTreeMap<BatchId, u64>,
    /// Own instances that have a slow quorum and wait for a fast one: since the last time patience ran out, and before that.
    waiting: [VecDeque<Instance>; 2],
    /// Seals known here, unless decided as nothing.
    seals: BTreeSet<Instance>,
    reads: BTreeMap<ReadId, Reading>,
    peers: BTreeMap<ReplicaId, Peer>,
    /// Whom to fetch state from if this instance is still undecided at the next tick.
    fetch: Option<(Instance, ReplicaId, Frontier)>,
    ticking: bool,
    leaving: bool,
}

/// How many votes are enough, and how much of them may go wrong.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Limits {
    /// A slow quorum.
    slow: usize,
    /// A fast quorum.
    fast: usize,
    /// How many voters at most are outside of it: e.
    failures: usize,
}

/// One lane.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
struct Lane {
    votes: BTreeMap<u64, Vote>,
    /// Everything below is decided here.
    committed: u64,
    /// `committed` at the last tick.
    committed_before: u64,
    /// Nothing from here on is known to exist.
    known: u64,
}

/// An instance that this replica drives, at one ballot.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Lead {
    ballot: Ballot,
    stage: Stage,
    /// Who certainly has the command.
    holders: ReplicaSet,
    /// For how many ticks nothing was heard.
    ticks: u32,
    /// How often this replica has taken the instance up.
    attempts: u32,
    /// Whether somebody has joined a higher ballot.
    overtaken: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Stage {
    /// Own command, zero ballot: who noted it, who of them had nothing to add, and the union.
    PreAccept { answers: ReplicaSet, equal: ReplicaSet, union: Deps },
    /// A fast commit waits to be durable.
    Durable,
    /// A higher ballot: what is known, and what speaks against a fast decision.
    Recover(Inquiry),
    /// A vote.
    Accept { oks: ReplicaSet },
}

impl Protocol for EPaxos {
    type Message = Message;
    type Record = Record;
    type Timer = Timer;
    type Order = Deps;

    const TRAITS: Traits = Traits {
        name: "epaxos",
        title: "EPaxos",
        paper: "Moraru, Andersen and Kaminsky 2013, as corrected by Ryabinin, Gotsman and Sutra 2025 (EPaxos*)",
        family: Family::Optimistic,
        order: Ordering::Partial,
        floor: Floor::Local,
        has_leader: false,
        one_ballot: false,
        delay: Delay::Fast,
        delays: "2, or 4 in a conflict: at any replica, and a third disk write before the fast answer",
        quorums: "fast: N−e voters (2 of 3, 3 of 5, 5 of 7); slow and recovery: a majority",
        reads: "a majority's answers: a round trip, then what interferes is executed; one key at a time",
        choose: "clients in several regions write mostly different keys, and no replica may be the bottleneck or its loss a pause",
        avoid: "most commands interfere (one counter, one global revision), or every fsync counts",
        transitions: &[
            "fast path",
            "slow path",
            "recovery of another's instance",
            "recovery of an own instance",
            "recovery overtaken",
            "command validated",
            "recovery in doubt",
            "recovery finished with the command",
            "recovery finished with a no-op",
            "learned by asking",
            "own command lost",
            "barrier read",
        ],
    };

    fn quorums(voters: ReplicaSet) -> QuorumSystem {
        let Limits { slow, fast, .. } = Limits::of(voters.len());
        QuorumSystem { voters, rule: QuorumRule::Counts { prepare: slow, accept: slow, fast } }
    }

    fn recover(boot: Boot<Self>, cx: &mut Context<Self>) -> Result<Self, Corrupt> {
        restart::restart(boot, cx)
    }

    fn step(&mut self, input: Input<Self>, cx: &mut Context<Self>) {
        match input {
            Input::Submit(value) => self.submit(value, cx),
            Input::Receive { from, message } => self.receive(from, message, cx),
            Input::Expired(Timer::Tick) => self.tick(cx),
            Input::Expired(Timer::Patience) => self.lose_patience(cx),
            Input::Wanted(instance) => self.want(instance, cx),
            Input::Read { id, footprint } => self.read(id, footprint, cx),
            Input::Installed(mark) => self.install(&mark.frontier, cx),
            Input::Floor(frontier) => self.raise_floor(&frontier, cx),
            Input::Peer(peer, health) => self.hint(peer, health),
            Input::Leave => self.leaving = true,
        }
    }

    fn checkpoint(&self) -> Vec<Record> {
        self.records()
    }

    fn inspect(&self) -> Inspection {
        let votes = || self.lanes.iter().flat_map(|lane| lane.votes.values());
        let rounds = votes().map(|vote| vote.joined.round);
        let bytes = votes().filter_map(|vote| vote.command.as_ref()).map(Value::size_bytes).sum::<usize>();
        Inspection {
            role: if self.lane.is_some() { "replica" } else { "observer" },
            ballot: rounds.max().unwrap_or(0),
            leader: None,
            undecided: (self.leads.len() + self.watches.len()) as u64,
            retained: votes().count() as u64,
            retained_bytes: bytes as u64,
            details: vec![
                ("next", self.next.to_string()),
                ("committed below", format!("{:?}", self.committed())),
                ("executed durably below", format!("{:?}", self.floor)),
                ("pledged to list below", format!("{:?}", self.pledge.bounds)),
                ("may forget below", format!("{:?}", self.bar())),
                ("keys indexed", self.conflicts.len().to_string()),
                ("instances driven", self.leads.len().to_string()),
                ("seals seen", self.seals.len().to_string()),
            ],
        }
    }
}

impl Limits {
    fn of(voters: usize) -> Self {
        let f = voters.saturating_sub(1) / 2;
        // N ≥ 2e+f−1 for the recovery not to stand still, and e ≤ f for two fast quorums to meet.
        let e = f.min((voters + 1 - f) / 2);
        Self { slow: voters - f, fast: voters - e, failures: e }
    }
}

impl EPaxos {
    /// The table of messages. What makes no sense is dropped; what was forgotten is answered so, whatever is asked about it.
    fn receive(&mut self, from: ReplicaId, message: Message, cx: &mut Context<Self>) {
        if self.lane.is_none() || !self.voters.contains(&from) || !self.makes_sense(&message) {
            return;
        }
        self.heard(from);
        if let Some(instance) = self.forgotten_in(&message) {
            return self.say_forgotten(from, instance, cx);
        }
        match message {
            Message::PreAccept { instance, value, deps } => self.pre_accept(from, instance, value, deps, cx),
            Message::PreAccepted { instance, deps } => self.count_pre_acceptance(from, instance, deps, cx),
            Message::Accept { instance, ballot, chosen, deps } => self.accept(from, instance, ballot, chosen, deps, cx),
            Message::Accepted { instance, ballot } => self.count_acceptance(from, instance, ballot, cx),
            Message::Durable { instance } => self.announce_fast_commit(from, instance, cx),
            Message::Commit { instance, chosen, deps } => self.learn(from, instance, chosen, deps, cx),
            Message::Recover { instance, ballot } => self.join(from, instance, ballot, cx),
            Message::Recovered { instance, ballot, report } => self.count_report(from, instance, ballot, report, cx),
            Message::Validate { instance, ballot, value, initial } => self.validate(from, instance, ballot, value, initial, cx),
            Message::Validated { instance, ballot, verdict } => self.count_verdict(from, instance, ballot, verdict, cx),
            Message::Refused { instance, ballot } => self.yield_to(instance, ballot, cx),
            Message::Ask { stretches } => self.tell(from, &stretches, cx),
            Message::Answer { decided, rest } => self.learn_all(from, decided, rest, cx),
            Message::Forgotten { instance, gone } => self.note_forgotten(from, instance, gone, cx),
            Message::Summary { committed, gone, floor } => self.compare(from, [committed, gone, floor], cx),
            Message::Pledged { pledge } => self.note_pledge(from, pledge),
            Message::Query { read, footprint } => self.bound(from, read, &footprint, cx),
            Message::Bounds { read, deps } => self.count_bounds(from, read, &deps, cx),
        }
    }

    /// Whether every lane that is named exists, every list has the right length, every ballot belongs to who uses it, and no number is out
    /// of all bounds.
    fn makes_sense(&self, message: &Message) -> bool {
        let lanes = self.lanes.len();
        let lane = |instance: &Instance| usize::from(instance.lane.0) < lanes && instance.number < NUMBER_MAX;
        let list = |list: &[u64]| list.len() == lanes && list.iter().all(|&below| below <= NUMBER_MAX);
        let deps = |deps: &Deps| list(&deps.0);
        let ballot = |ballot: &Ballot| ballot.round <= ROUND_MAX;
        let stretch = |stretch: &Stretch| lane(&stretch.first) && stretch.count <= NUMBER_MAX;
        match message {
            Message::PreAccept { instance, value, deps: noted } => {
                lane(instance) && deps(noted) && !value.is_noop() && noted.below(instance.lane) <= instance.number
            }
            Message::PreAccepted { instance, deps: noted } => lane(instance) && noted.as_ref().is_none_or(deps),
            Message::Accept { instance, ballot: at, deps: chosen, .. } => lane(instance) && ballot(at) && deps(chosen),
            Message::Commit { instance, deps: chosen, .. } => lane(instance) && deps(chosen),
            Message::Accepted { instance, ballot: at } | Message::Refused { instance, ballot: at } => lane(instance) && ballot(at),
            Message::Durable { instance } | Message::Forgotten { instance, .. } => lane(instance),
            Message::Recover { instance, ballot: at } => lane(instance) && at.round > 0 && ballot(at),
            Message::Recovered { instance, report, .. } => {
                let report = match report {
                    Report::Nothing => true,
                    Report::PreAccepted { value, initial, .. } => deps(initial) && !value.is_noop(),
                    Report::Accepted { chosen, deps: voted, .. } => deps(voted) && *chosen != Chosen::Known,
                };
                lane(instance) && report
            }
            Message::Validate { instance, ballot: at, value, initial } => {
                lane(instance) && at.round > 0 && ballot(at) && deps(initial) && !value.is_noop()
            }
            Message::Validated { instance, verdict, .. } => {
                let doubt = |other: &Instance| lane(other) && other.lane != instance.lane;
                lane(instance) && !matches!(verdict, Verdict::Possible { doubts } if !doubts.iter().all(doubt))
            }
            Message::Pledged { pledge } => list(&pledge.bounds) && list(&pledge.noted),
            Message::Ask { stretches } => stretches.iter().all(stretch),
            Message::Answer { decided, rest } => {
                decided.iter().all(|decided| lane(&decided.instance) && deps(&decided.deps)) && rest.as_ref().is_none_or(stretch)
            }
            Message::Summary { committed, gone, floor } => [committed, gone, floor].into_iter().all(|bounds| list(bounds)),
            Message::Query { .. } => true,
            Message::Bounds { deps: bounds, .. } => deps(bounds),
        }
    }

    fn lane(&self, lane: LaneId) -> &Lane {
        &self.lanes[usize::from(lane.0)]
    }

    fn lane_mut(&mut self, lane: LaneId) -> &mut Lane {
        &mut self.lanes[usize::from(lane.0)]
    }

    fn vote(&self, instance: Instance) -> Option<&Vote> {
        self.lane(instance.lane).votes.get(&instance.number)
    }

    /// The vote of an instance, made if there is none. An own number that somebody else brought up is not used again.
    fn vote_mut(&mut self, instance: Instance) -> &mut Vote {
        if self.lane == Some(instance.lane) {
            self.next = self.next.max(instance.number + 1);
        }
        let lane = self.lane_mut(instance.lane);
        lane.known = lane.known.max(instance.number + 1);
        lane.votes.entry(instance.number).or_default()
    }

    /// Who proposes in an instance's lane.
    fn coordinator(&self, instance: Instance) -> ReplicaId {
        self.voters[usize::from(instance.lane.0)]
    }

    /// Who may use a ballot.
    fn owner(&self, instance: Instance, ballot: Ballot) -> ReplicaId {
        if ballot == ZERO { self.coordinator(instance) } else { ballot.owner }
    }

    /// Whether it is decided, as far as is known here.
    fn is_decided(&self, instance: Instance) -> bool {
        instance.number < self.lane(instance.lane).committed || self.gone.contains(instance) || self.holds_decision(instance)
    }

    /// Whether it is known as what it is decided.
    fn holds_decision(&self, instance: Instance) -> bool {
        self.vote(instance).is_some_and(|vote| vote.progress == Progress::Committed)
    }

    /// Whether its votes may be lost here.
    fn is_forgotten(&self, instance: Instance) -> bool {
        instance.number < self.forgotten[usize::from(instance.lane.0)] && self.gone.contains(instance)
    }

    /// The instance that a message wants something about which is not to be had here. (Nobody needs another note of what is decided.)
    fn forgotten_in(&self, message: &Message) -> Option<Instance> {
        let (instance, note) = match message {
            Message::PreAccept { instance, .. } => (*instance, true),
            Message::Accept { instance, .. } | Message::Recover { instance, .. } | Message::Validate { instance, .. } => (*instance, false),
            _ => return None,
        };
        let gone = self.is_forgotten(instance) || (note && self.vote(instance).is_none() && self.gone.contains(instance));
        gone.then_some(instance)
    }

    /// Remembers a seal, unless it is known to be decided: as nothing, or else there is no more to propose beside it.
    fn note_seal(&mut self, instance: Instance, value: &Value) {
        if value.is_seal() && !self.is_decided(instance) {
            self.seals.insert(instance);
        }
    }

    /// Below these numbers everything is decided here.
    fn committed(&self) -> Vec<u64> {
        self.lanes.iter().map(|lane| lane.committed).collect()
    }

    /// From these numbers on nothing is known to exist.
    fn known(&self) -> Vec<u64> {
        self.lanes.iter().map(|lane| lane.known).collect()
    }

    /// Below these numbers everything is forgotten here.
    fn gone_below(&self) -> Vec<u64> {
        (0..self.lanes.len()).map(|lane| self.gone.below(LaneId(lane as u8))).collect()
    }

    fn hint(&mut self, peer: ReplicaId, health: Health) {
        if let Some(peer) = self.peers.get_mut(&peer) {
            peer.down = health == Health::Down;
        }
    }

    fn heard(&mut self, from: ReplicaId) {
        if let Some(peer) = self.peers.get_mut(&from) {
            peer.silent = 0;
            peer.down = false;
        }
    }
}

/// What a vote is for, or what was decided.
fn chosen_value(vote: &Vote) -> Value {
    if vote.noop {
        return Value::Noop;
    }
    vote.command.clone().expect("a command that is voted for or decided is known")
}

/// The phase of [`Context::solicit`] that a pre-acceptance is for.
const FAST: Phase = Phase::Fast;
