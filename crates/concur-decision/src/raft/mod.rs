//! Raft: one leader a term appends to its log; what a quorum holds of the leader's own term is decided.
//!
//! What it is. Diego Ongaro and John Ousterhout, "In search of an understandable consensus algorithm", USENIX ATC 2014, with the
//! parts of Ongaro's dissertation (2014) that a production system needs: pre-vote (§9.6), check-quorum (§6.2), read index (§6.4),
//! leadership transfer (§3.10). The paper's *index* is our instance number and starts at 0; where the paper says *last index* we say
//! *length*, a count; the paper's *commit index* is [`Raft::decided`](Raft), a count too; its *snapshot* is executed state that the
//! replica fetches, and the log's *base* is where the log begins.
//!
//! How it works. A [`Point`] (a length and the term of the last entry in it) names a prefix of a log: equal points mean equal
//! prefixes (the Log Matching Property, §5.3). A follower that hears no leader asks everybody whether they would vote for it
//! (`PreVote`), then asks for votes in the next term (`Vote`); it is elected by a quorum that finds its last point at least as late as
//! theirs. A leader appends a no-op, then what is submitted, and streams `Append`s that name the point they continue; a follower that
//! lacks this point rejects with a hint, and the leader probes from there. Acknowledgements are held until they are durable, the
//! leader's own too, which is a message to itself; the `Append`s leave in parallel with its own fsync, under its durable term. What
//! followers are told as decided is a point as well, so that one message serves all of them, whatever their logs hold.
//!
//! - `elect`: timeouts, pre-votes, votes, check-quorum, transfer of leadership.
//! - `propose`: what a leader takes up.
//! - `replicate`: `Append`, its answers, probing, retransmission, followers that need state.
//! - `commit`: counting and learning what is decided; forgetting.
//! - `read`: read index, at the leader and for followers.
//! - `recover`: starting from records, and taking over installed state.
//!
//! What it does not do. No membership change (epochs replace §6 of the paper), no leases, no state transfer (a follower that needs
//! older entries than are kept is told to fetch state), no batching or retry of proposals. An up-to-date replica that reaches no
//! quorum cannot be elected, and one that reaches a quorum but is behind cannot either (the constrained election of Ng, Haridi and
//! Carbone 2023): such a partition stops Raft until it changes.

mod commit;
mod elect;
mod log;
mod messages;
mod propose;
mod read;
mod replicate;
mod restart;

use messages::TERM_MAX;
pub use messages::{Entry, Message, Point, Record, Term, Timer};

use concur_core::{
    BatchId, Boot, Context, Corrupt, Delay, Family, Floor, Health, Input, Inspection, Ordering, Protocol, ReplicaId, ReplicaSet, Ticket,
    Time, Traits,
};
use elect::Candidate;
use log::Log;
use read::{Forwarded, Reads};
use replicate::Progress;
use std::collections::{BTreeSet, VecDeque};
use std::time::Duration;

/// One replica's vote in Raft.
#[derive(Debug, Clone, Hash)]
pub struct Raft {
    /// The latest term seen.
    term: Term,
    /// For whom this replica voted in it.
    vote: Option<ReplicaId>,
    /// The record that holds both.
    ballot: Ticket,
    /// The entries, from the base on.
    log: Log,
    /// How many instances are known to be decided, from the first on: the paper's commit index. At least the log's base.
    decided: u64,
    /// The executed state does not reach the log's base: it has to be fetched.
    lacking: bool,
    /// What this replica is.
    role: Role,
    /// Reads for which the leader was asked, oldest first.
    forwarded: VecDeque<Forwarded>,
}

/// What a replica is in its term.
#[derive(Debug, Clone, Hash)]
enum Role {
    Follower(Follower),
    Candidate(Candidate),
    Leader(Box<Leader>),
}

/// Follows a leader, or waits for one.
#[derive(Debug, Clone, Hash)]
struct Follower {
    /// Who leads this term, if it is known.
    leader: Option<ReplicaId>,
    /// When the leader was heard last, a vote was granted, or the wait began.
    heard: Time,
    /// How long silence may last from then on.
    patience: Duration,
    /// The connection to the leader was lost after it was heard last.
    down: bool,
}

/// Leads its term.
#[derive(Debug, Clone, Hash)]
struct Leader {
    /// The position of the no-op that opened the term.
    opened: u64,
    /// What is known of each voter's log, in order of their numbers, this replica's own too.
    peers: Vec<Progress>,
    /// The names of the undecided values in the log.
    proposed: BTreeSet<BatchId>,
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

impl Protocol for Raft {
    type Message = Message;
    type Record = Record;
    type Timer = Timer;
    type Order = Term;

    const TRAITS: Traits = Traits {
        name: "raft",
        title: "Raft",
        paper: "Ongaro and Ousterhout, In search of an understandable consensus algorithm, 2014; Ongaro, Consensus: bridging theory and \
                practice, 2014",
        family: Family::Leadership,
        order: Ordering::Total,
        floor: Floor::Local,
        has_leader: true,
        one_ballot: true,
        delay: Delay::Leader,
        delays: "2 at the leader, 4 elsewhere",
        quorums: "a majority elects and a majority appends; other sizes and weights where two elections always share a voter, and an \
                  election and an append too",
        reads: "read index: one round of heartbeats, shared by all that wait, after an entry of the leader's own term is decided",
        choose: "a leader near its clients, a total order, the best understood protocol and the lowest cost a command on a LAN",
        avoid: "clients spread over distant regions; every write crosses the leader, whose loss stops the group for an election timeout",
        transitions: &[
            ELECTED,
            STEPPED_DOWN,
            PRE_VOTE_REFUSED,
            VOTE_REFUSED,
            APPEND_REJECTED,
            SUFFIX_TRUNCATED,
            STATE_FETCHED,
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
            Input::Wanted(instance) => self.fetch_if_lost(instance, cx),
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
        let mut details = vec![("length", self.log.length().to_string()), ("decided", self.decided.to_string())];
        details.push(("base", self.log.base().to_string()));
        if let Role::Leader(leader) = &self.role {
            let each: Vec<String> = leader.peers.iter().map(|p| format!("{}:{}/{}", p.id, p.matched, p.next)).collect();
            details.push(("matched/next", each.join(" ")));
        }
        Inspection {
            role: self.role.name(),
            ballot: self.term.0,
            leader: if matches!(self.role, Role::Leader(_)) { self.vote } else { self.leader() },
            undecided: self.log.length() - self.decided,
            retained: self.log.length() - self.log.base(),
            retained_bytes: self.log.bytes(),
            details,
        }
    }
}

const ELECTED: &str = "elected";
const STEPPED_DOWN: &str = "stepped down without a quorum";
const PRE_VOTE_REFUSED: &str = "pre-vote refused";
const VOTE_REFUSED: &str = "vote refused: log behind";
const APPEND_REJECTED: &str = "append rejected";
const SUFFIX_TRUNCATED: &str = "suffix truncated";
const STATE_FETCHED: &str = "state fetched";
const READ_SERVED: &str = "read served by index";
const READ_FORWARDED: &str = "read forwarded";
const TRANSFERRED: &str = "leadership transferred";

impl Role {
    fn name(&self) -> &'static str {
        match self {
            Self::Follower(_) => "follower",
            Self::Candidate(_) => "candidate",
            Self::Leader(_) => "leader",
        }
    }
}

impl Raft {
    /// Takes a message from another voter or from itself. The terms of answers are those of the questions; whoever asks in a term
    /// that is over is told so by `Newer`.
    fn receive(&mut self, from: ReplicaId, message: Message, cx: &mut Context<Self>) {
        let voters = cx.config.voters();
        if !voters.contains(from) || !voters.contains(cx.config.me) || message.terms().into_iter().any(|term| term > TERM_MAX) {
            return;
        }
        match message {
            Message::PreVote { term, log } => self.asked_for_pre_vote(from, term, log, cx),
            Message::PreVoted { asked, granted, term } => self.pre_voted(from, asked, granted, term, cx),
            Message::Vote { term, log, transfer } => self.asked_for_vote(from, term, log, transfer, cx),
            Message::Voted { term, granted } => self.voted(from, term, granted, cx),
            Message::Newer { term } => self.outdated_by(term, cx),
            Message::HandOver { term } => self.take_over(from, term, cx),
            Message::Append { term, prior, decided, entries } => self.asked_to_append(from, term, prior, decided, entries, cx),
            Message::Appended { term, length } => self.appended(from, term, length, cx),
            Message::Rejected { term, at, hint } => self.rejected(from, term, at, hint, cx),
            Message::Behind { term, base } => self.behind(from, term, base, cx),
            Message::Heartbeat { term, round, decided } => self.heartbeat(from, term, round, decided, cx),
            Message::Heard { term, round } => self.heard(from, term, round, cx),
            Message::Decided { term, decided } => self.told_decided(from, term, decided, cx),
            Message::Read { id } => self.asked_to_read(from, id, cx),
            Message::ReadAt { id, decided } => self.read_at(id, decided, cx),
            Message::ReadLost { id } => self.read_lost(id, cx),
        }
    }

    /// Who can propose, if this replica knows somebody else that can.
    fn leader(&self) -> Option<ReplicaId> {
        match &self.role {
            Role::Follower(follower) => follower.leader,
            Role::Candidate(_) | Role::Leader(_) => None,
        }
    }

    /// Enters a term, or votes in it. Persisted at once, so that whatever is sent afterwards waits for it.
    fn promise(&mut self, term: Term, vote: Option<ReplicaId>, cx: &mut Context<Self>) {
        assert!(term >= self.term, "a term never falls");
        assert!(term > self.term || self.vote.is_none() || self.vote == vote, "one vote a term");
        self.term = term;
        self.vote = vote;
        self.ballot = cx.persist(Record::Ballot { term, vote });
    }
}
