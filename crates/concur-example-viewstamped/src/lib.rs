//! A seventh protocol: Viewstamped Replication, in a crate of its own.
//!
//! This is an example of how a protocol is added to Concur from outside. Everything that makes it one stands in this folder; nothing
//! elsewhere knows its name. `docs/adding-a-protocol.md` leads through it, and `tests/examination.rs` has it examined as every
//! protocol of the registry is.
//!
//! What it is. Barbara Liskov and James Cowling, "Viewstamped Replication Revisited", MIT-CSAIL-TR-2012-021, 2012. The paper's
//! *op-number* is the length of our log, its *commit-number* is [`Viewstamped::decided`](Viewstamped), a count too; positions start
//! at 0. Its *state* and *checkpoint* are the replica's business: a protocol asks for them with one word ([`Context::fetch`]).
//!
//! How it works. Views are numbered, and each has one primary that everybody can tell from the number: the voters take turns. Within
//! a view every log is a prefix of the primary's, so that a backup appends what continues its own and acknowledges a length; what a
//! quorum holds durably is decided, whatever view it was proposed in (§4.1). A backup that does not hear the primary wishes for the
//! next view; when a quorum wishes for it, they promise to take nothing of earlier views any more and tell its primary how good their
//! logs are: first by the last view whose log they held in full, then by length (§4.2). It takes the best log of a quorum for its own
//! and begins the view. Nobody is elected, and whoever is next need not have a good log: it gets one. In this, and in that entries of
//! old views are decided by counting, it differs from Raft; that everybody holds the whole log a view begins with *before* it
//! acknowledges anything in the view is what makes both sound.
//!
//! - `normal`: what a primary proposes and backups append.
//! - `commit`: counting, learning what is decided, forgetting.
//! - `view_change`: wishes, promises, choosing a log, handing over.
//! - `transfer`: getting a log, or the state behind it, from whoever has it.
//! - `read`: which frontier makes a read linearizable.
//! - `recover`: starting from records.
//!
//! Where it departs from the paper, and why that is sound:
//!
//! - Promises and logs are durable before they count, so that a replica that crashed is one that was slow: there is no recovery
//!   protocol (§4.3), and no nonce. But a primary's messages leave beside its own sync, so that after a crash it may have sent what it
//!   no longer has: a replica that starts again never leads the view that it is in.
//! - `StartViewChange` binds nobody; the promise is `DoViewChange`. An isolated replica wishes for ever and disturbs nobody. In the
//!   paper too it is the second message that carries what the choice of a log rests on.
//! - Logs do not travel inside `DoViewChange` and `StartView`. Whoever lacks entries asks for them (`GetState`, §5.2), in parts that
//!   fit a message. Entries carry the view that they were proposed in, so that a [`Point`] says up to where two logs are equal.
//!
//! What it does not do. No reconfiguration (§7; epochs replace it), no leases and so no reads at the primary alone (§6.3: reads ask a
//! quorum), no batching (§6.2; the replica's), no witnesses (§6.1). Views pass to the next replica in turn even if that is down, at
//! the price of one more timeout.

mod commit;
mod log;
mod messages;
mod normal;
mod read;
mod restart;
mod transfer;
mod view_change;

pub use messages::{Entry, Message, Point, Record, Timer, View};

use concur_core::{
    Boot, Context, Corrupt, Delay, Family, Floor, Health, Input, Inspection, Ordering, Protocol, ReadId, ReplicaId, ReplicaSet, Ticket,
    Time, Traits,
};
use log::Log;
use normal::Primary;
use read::Asked;
use std::collections::BTreeMap;
use std::time::Duration;
use transfer::Gather;
use view_change::Report;

/// One replica's vote in Viewstamped Replication.
///
/// The core is plain data: it can be cloned, hashed and compared with what a paper's figure shows.
#[derive(Debug, Clone, Hash)]
pub struct Viewstamped {
    /// The view promised to: the paper's view-number. It never falls, and is durable before anybody hears of it.
    view: View,
    /// The record that holds it.
    promised: Ticket,
    /// Whose turn it is to be its primary; nobody's in view 0.
    turn: Option<ReplicaId>,
    /// The last view whose log was held in full.
    normal: View,
    /// The entries, from a base on.
    log: Log,
    /// The primary's entries that came before their turn, by position; of this view only.
    early: BTreeMap<u64, Entry>,
    /// How many instances are known to be decided, from the first on. At least the log's base.
    decided: u64,
    /// The executed state does not reach the log's base: it has to be fetched.
    lacking: bool,
    /// What this replica is in its view.
    role: Role,
    /// When the primary was heard last, or the wait began.
    heard: Time,
    /// How long silence may last from then on.
    patience: Duration,
    /// The connection to the primary was lost after it was heard last.
    down: bool,
    /// The views that others, and this replica, wish for while the primary is not heard.
    wishes: BTreeMap<ReplicaId, View>,
    /// Reads that wait.
    reads: BTreeMap<ReadId, Asked>,
}

/// What a replica is in its view: the paper's status, and whether it is the primary.
#[derive(Debug, Clone, Hash)]
enum Role {
    /// It has promised, and does not hold the view's log yet.
    Waiting(Waiting),
    /// It follows the primary.
    Backup,
    /// It is the primary, and the view has begun.
    Primary(Box<Primary>),
}

/// Waits for its view's log.
#[derive(Debug, Clone, Hash, Default)]
struct Waiting {
    /// What others, and this replica, told the primary to be: empty elsewhere.
    reports: BTreeMap<ReplicaId, Report>,
    /// The log that is being got, once it is known from whom.
    gather: Option<Gather>,
}

impl Protocol for Viewstamped {
    type Message = Message;
    type Record = Record;
    type Timer = Timer;
    type Order = View;

    const TRAITS: Traits = Traits {
        name: "viewstamped",
        title: "Viewstamped Replication",
        paper: "Liskov and Cowling, Viewstamped Replication Revisited, 2012",
        family: Family::Leadership,
        order: Ordering::Total,
        floor: Floor::Local,
        has_leader: true,
        one_ballot: true,
        delay: Delay::Leader,
        delays: "2 at the primary, 4 elsewhere",
        quorums: "a majority changes the view and a majority appends; other sizes and weights where the two always share a voter",
        reads: "strong, by asking a quorum how long its logs are",
        choose: "to see how a protocol is added; elections that cannot be split between candidates",
        avoid: "replicas that are down for long: views pass through their turns",
        transitions: &[SUSPECTED, PROMISED, BEST_LOG_TAKEN, STARTED, JOINED, SUFFIX_CUT, STATE_TAKEN, READ, HANDED_OVER, STEPPED_DOWN],
    };

    fn recover(boot: Boot<Self>, cx: &mut Context<Self>) -> Result<Self, Corrupt> {
        Self::start(boot, cx)
    }

    /// The one door. Each arm is one call, so that this is the table of contents.
    fn step(&mut self, input: Input<Self>, cx: &mut Context<Self>) {
        match input {
            Input::Submit(value) => self.submit(value, cx),
            Input::Receive { from, message } => self.receive(from, message, cx),
            Input::Expired(Timer::Patience) => self.lose_patience(cx),
            Input::Expired(Timer::Pulse) => self.pulse(cx),
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
        let (role, leader) = match &self.role {
            Role::Waiting(_) => ("candidate", None),
            Role::Backup => ("follower", self.turn),
            Role::Primary(_) => ("leader", self.turn),
        };
        let details = vec![
            ("length", self.log.length().to_string()),
            ("decided", self.decided.to_string()),
            ("base", self.log.base().to_string()),
            ("normal", self.normal.0.to_string()),
        ];
        Inspection {
            role,
            ballot: self.view.0,
            leader,
            undecided: self.log.length() - self.decided,
            retained: self.log.length() - self.log.base(),
            retained_bytes: self.log.bytes(),
            details,
        }
    }
}

const SUSPECTED: &str = "primary suspected";
const PROMISED: &str = "promised to a later view";
const BEST_LOG_TAKEN: &str = "best log taken from another";
const STARTED: &str = "view started";
const JOINED: &str = "view joined";
const SUFFIX_CUT: &str = "suffix given up";
const STATE_TAKEN: &str = "log replaced by state";
const READ: &str = "read served by a quorum";
const HANDED_OVER: &str = "primary handed over";
const STEPPED_DOWN: &str = "primary without a quorum";

impl Viewstamped {
    /// Takes a message from another voter, or from itself.
    fn receive(&mut self, from: ReplicaId, message: Message, cx: &mut Context<Self>) {
        let voters = cx.config.voters();
        if !voters.contains(from) || !voters.contains(cx.config.me) {
            return;
        }
        match message {
            // These concern no view, or one in which nobody is yet.
            Message::Read { id } => self.asked_to_read(from, id, cx),
            Message::Length { id, length } => self.told_length(from, id, length, cx),
            Message::StartViewChange { view } => self.wished(from, view, cx),
            message => self.receive_in_view(from, message, cx),
        }
    }

    /// Takes what somebody says in a view: not in an earlier one than this replica's, and in a later one only after promising to it.
    fn receive_in_view(&mut self, from: ReplicaId, message: Message, cx: &mut Context<Self>) {
        let Some(view) = message.view() else { return };
        if view < self.view {
            return cx.send(ReplicaSet::one(from), Message::Newer { view: self.view });
        }
        if view > self.view {
            self.promise(view, cx);
        }
        let by_primary = self.turn == Some(from);
        match message {
            Message::DoViewChange { normal, length, .. } => self.reported(from, Report { normal, length }, cx),
            Message::GetState { end, decided, .. } => self.asked_for_state(from, end, decided, cx),
            Message::NewState { prior, entries, until, decided, .. } => self.new_state(from, prior, entries, until, decided, cx),
            Message::StartView { .. } if by_primary => self.heard_primary(0, cx),
            Message::Prepare { at, entries, decided, .. } if by_primary => self.prepare(at, entries, decided, cx),
            Message::Commit { decided, .. } if by_primary => self.heard_primary(decided, cx),
            Message::PrepareOk { length, .. } => self.prepared(from, length, cx),
            Message::Behind { base, .. } => self.behind(from, base, cx),
            _ => {}
        }
    }
}
