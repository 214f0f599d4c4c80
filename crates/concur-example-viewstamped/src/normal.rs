//! Normal operation (§4.1): the primary orders what is proposed, backups append it and acknowledge.
//!
//! What is appended streams to every backup that has come so far, a bounded number of entries ahead of its acknowledgements. What
//! is not acknowledged for a while is sent again from there. Nothing says which entry it follows: within a view a position does.

use super::{Entry, Message, Record, Role, STEPPED_DOWN, Timer, View, Viewstamped};
use concur_core::{BatchId, Context, Phase, REPLICAS_MAX, Refusal, ReplicaId, ReplicaSet, Time, Value};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

/// How many unacknowledged entries may be on their way to one backup.
const AHEAD_MAX: u64 = 256;

/// What a primary knows besides its log.
#[derive(Debug, Clone, Hash)]
pub(super) struct Primary {
    /// How long the log was with which the view began: who acknowledges less has not joined it.
    pub(super) started: u64,
    /// What is known of each voter, this replica too.
    pub(super) peers: Vec<Peer>,
    /// The names of the undecided values in the log.
    pub(super) proposed: BTreeSet<BatchId>,
}

/// What a primary knows of one voter.
#[derive(Debug, Clone, Hash)]
pub(super) struct Peer {
    /// Who.
    pub(super) id: ReplicaId,
    /// Its log is the primary's up to here, durably; `None` before it joins the view.
    pub(super) acknowledged: Option<u64>,
    /// The position of the next entry to send.
    pub(super) next: u64,
    /// When it was heard last.
    pub(super) heard: Time,
    /// When it last acknowledged more, or was first sent what it has not acknowledged.
    progressed: Time,
}

impl Primary {
    /// Nobody has joined yet.
    pub(super) fn new(started: u64, voters: ReplicaSet, proposed: BTreeSet<BatchId>, now: Time) -> Self {
        let peer = |id| Peer { id, acknowledged: None, next: started, heard: now, progressed: now };
        Self { started, peers: voters.iter().map(peer).collect(), proposed }
    }

    pub(super) fn peer(&mut self, id: ReplicaId) -> Option<&mut Peer> {
        self.peers.iter_mut().find(|peer| peer.id == id)
    }

    /// The voters of which `is` holds.
    pub(super) fn those(&self, is: impl Fn(&Peer) -> bool) -> ReplicaSet {
        self.peers.iter().filter(|peer| is(peer)).map(|peer| peer.id).collect()
    }
}

impl Peer {
    /// Whether it takes entries of a log of this length.
    fn ready(&self, length: u64) -> bool {
        self.acknowledged.is_some_and(|acknowledged| self.next < length && self.next < acknowledged.saturating_add(AHEAD_MAX))
    }

    /// What was sent and not acknowledged is sent again.
    fn go_back(&mut self, now: Time) {
        self.next = self.acknowledged.unwrap_or(self.next);
        self.progressed = now;
    }
}

impl Viewstamped {
    /// Takes a batch or seal up, or says who can. One that is in the log and undecided is not appended again; one that was executed
    /// is recognised when it is executed.
    pub(super) fn submit(&mut self, value: Value, cx: &mut Context<Self>) {
        let Some(id) = value.id() else { return };
        let undecided = self.log.length() - self.decided;
        let refusal = match &mut self.role {
            Role::Primary(primary) if primary.proposed.contains(&id) => return,
            Role::Primary(_) if undecided >= proposals_max(cx) => Refusal::Busy,
            Role::Primary(primary) => {
                primary.proposed.insert(id);
                return self.order(value, cx);
            }
            Role::Backup => Refusal::Redirect(self.turn),
            Role::Waiting(_) => Refusal::Redirect(None),
        };
        cx.refuse(id, refusal);
    }

    /// Gives a value the next position.
    fn order(&mut self, value: Value, cx: &mut Context<Self>) {
        let entry = Entry { view: self.view, value: Arc::new(value) };
        cx.persist(Record::Append { at: self.log.length(), entries: vec![entry.clone()] });
        self.log.push(entry);
        self.acknowledge(cx.config.me, cx);
        self.replicate(cx);
    }

    /// Says how much of the view's log is here. It is held until that is durable, to oneself as to others.
    pub(super) fn acknowledge(&self, to: ReplicaId, cx: &mut Context<Self>) {
        cx.send(ReplicaSet::one(to), Message::PrepareOk { view: self.view, length: self.log.length() });
    }

    /// Sends to every backup what it can take. Those that need the same share one message.
    pub(super) fn replicate(&mut self, cx: &mut Context<Self>) {
        let Self { log, role: Role::Primary(primary), view, promised, decided, .. } = self else { return };
        let (me, now, length) = (cx.config.me, cx.now, log.length());
        let ready = |peer: &Peer| peer.id != me && peer.ready(length) && peer.next >= log.base();
        while let Some(at) = primary.peers.iter().find(|peer| ready(peer)).map(|peer| peer.next) {
            let to = primary.those(|peer| ready(peer) && peer.next == at);
            let entries = log.from(at, cx.config.message_bytes_max);
            for peer in primary.peers.iter_mut().filter(|peer| to.contains(peer.id)) {
                if peer.acknowledged == Some(at) {
                    peer.progressed = now;
                }
                peer.next = at + entries.len() as u64;
            }
            // The entries need not be durable here. A restart that loses them leaves this replica without a view to lead, and until
            // then it counts its own copy only once that is durable.
            cx.send_after(*promised, to, Message::Prepare { view: *view, at, entries, decided: *decided });
        }
    }

    /// The primary's entries. What this log has already is passed over; what comes before its turn, since links reorder, is held
    /// until what is between has come.
    pub(super) fn prepare(&mut self, at: u64, entries: Vec<Entry>, decided: u64, cx: &mut Context<Self>) {
        if let Role::Backup = self.role {
            let length = self.log.length();
            let wanted = length..length.saturating_add(AHEAD_MAX);
            let placed = (at..=u64::MAX).zip(entries).filter(|(position, _)| wanted.contains(position));
            self.early.extend(placed);
            self.append_early(cx);
        }
        self.heard_primary(decided, cx);
    }

    /// Appends what has its turn now.
    fn append_early(&mut self, cx: &mut Context<Self>) {
        let at = self.log.length();
        let mut fresh = Vec::new();
        while let Some(entry) = self.early.remove(&(at + fresh.len() as u64)) {
            fresh.push(entry);
        }
        if !fresh.is_empty() && self.continues(self.log.end().view, &fresh) {
            cx.persist(Record::Append { at, entries: fresh.clone() });
            fresh.into_iter().for_each(|entry| self.log.push(entry));
        }
        self.early = self.early.split_off(&self.log.length());
    }

    /// Whether entries may stand behind one of view `last`: views never fall along a log, and none is later than the present one.
    pub(super) fn continues(&self, last: View, entries: &[Entry]) -> bool {
        let mut last = last;
        entries.iter().all(|entry| {
            let fits = entry.view >= last && entry.view <= self.view && entry.view > View(0);
            last = entry.view;
            fits
        })
    }

    /// The primary lives, and so many are decided. A backup says how much it has; who has not joined the view does so.
    pub(super) fn heard_primary(&mut self, decided: u64, cx: &mut Context<Self>) {
        let Some(primary) = self.turn else { return };
        if let Role::Primary(_) = self.role {
            return;
        }
        self.heard = cx.now;
        self.down = false;
        self.wishes.clear();
        match &self.role {
            Role::Backup => {
                self.acknowledge(primary, cx);
                self.learn(decided.min(self.log.length()), cx);
            }
            _ if primary != cx.config.me => self.join(primary, cx),
            _ => {}
        }
        self.fetch_lacking(cx);
    }

    /// A voter has so much of the view's log, this replica itself included.
    pub(super) fn prepared(&mut self, from: ReplicaId, length: u64, cx: &mut Context<Self>) {
        let end = self.log.length();
        let Role::Primary(primary) = &mut self.role else { return };
        let started = primary.started;
        let Some(peer) = primary.peer(from) else { return };
        if length > end || length < started {
            return;
        }
        peer.heard = cx.now;
        match peer.acknowledged {
            Some(before) if before >= length => {}
            before => {
                peer.acknowledged = Some(length);
                peer.progressed = cx.now;
                peer.next = if before.is_some() { peer.next.max(length) } else { length };
            }
        }
        self.count(cx);
        self.replicate(cx);
    }

    /// Time for a sign of life, and for what was not answered.
    pub(super) fn pulse(&mut self, cx: &mut Context<Self>) {
        cx.arm(Timer::Pulse, cx.config.heartbeat);
        self.read_again(cx);
        self.wish_again(cx);
        match &self.role {
            Role::Primary(_) if !self.keeps_quorum(cx) => {
                cx.note(STEPPED_DOWN, None);
                self.promise(self.view.next(), cx);
            }
            Role::Primary(_) => self.lead_on(cx),
            Role::Waiting(_) => self.wait_on(cx),
            Role::Backup => {}
        }
    }

    fn lead_on(&mut self, cx: &mut Context<Self>) {
        self.acknowledge(cx.config.me, cx);
        let base = self.log.base();
        let Role::Primary(primary) = &mut self.role else { return };
        let (now, overdue) = (cx.now, overdue(cx));
        let waits = |peer: &Peer| peer.acknowledged.is_some_and(|acknowledged| acknowledged < peer.next);
        for peer in primary.peers.iter_mut().filter(|peer| waits(peer) && now.since(peer.progressed) >= overdue) {
            peer.go_back(now);
        }
        let absent = primary.those(|peer| peer.acknowledged.is_none()).without(cx.config.me);
        let behind = primary.those(|peer| peer.acknowledged.is_some() && peer.next < base).without(cx.config.me);
        // What these say is durable here, or at a quorum: a restart contradicts nothing.
        cx.send_after(self.promised, cx.config.others(), Message::Commit { view: self.view, decided: self.decided });
        cx.send_after(self.promised, absent, Message::StartView { view: self.view });
        cx.send_after(self.promised, behind, Message::Behind { view: self.view, base });
        self.fetch_lacking(cx);
        self.replicate(cx);
    }

    /// Whether the primary should go on: it hears a quorum, and its own disk keeps up. (Its own acknowledgement is held until what it
    /// speaks of is durable, so that silence from itself is a stalled disk.)
    fn keeps_quorum(&self, cx: &Context<Self>) -> bool {
        let Role::Primary(primary) = &self.role else { return false };
        let heard = primary.those(|peer| cx.now.since(peer.heard) < cx.config.election);
        cx.config.quorums.is_quorum(Phase::Accept, heard) && heard.contains(cx.config.me)
    }

    /// A connection works again: what was on its way is lost.
    pub(super) fn peer_up(&mut self, id: ReplicaId, cx: &mut Context<Self>) {
        self.down &= self.turn != Some(id);
        if let Role::Primary(primary) = &mut self.role
            && let Some(peer) = primary.peer(id)
        {
            peer.go_back(cx.now);
        }
        self.replicate(cx);
    }
}

/// The window is a proposer's, and every member may forward what it proposes.
fn proposals_max(cx: &Context<Viewstamped>) -> u64 {
    (cx.config.window_max.max(1) * REPLICAS_MAX) as u64
}

/// How long an unacknowledged entry is waited for.
fn overdue(cx: &Context<Viewstamped>) -> Duration {
    (cx.config.election / 4).max(cx.config.heartbeat * 2)
}
