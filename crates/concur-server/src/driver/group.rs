//! One group on this node: its replica, who waits for what, and what stands beside it.

use super::ask::{Answer, Ask, GroupStatus, Kept, Look, MemberStatus};
use super::{Clock, Nodes};
use crate::door::{Executed, Refusal, Stamp as DoorStamp};
use crate::node::GroupOptions;
use bytes::Bytes;
use concur_core::{Epoch, Footprint, GroupId, ReplicaId, ReplicaSet, StateMachine, Time, Wire};
use concur_peers::{ChangeError, Configuration, Outcome};
use concur_replica::{Event, Level, Output, Refused, Replica, Reply, Request, Stamp, Token};
use std::collections::BTreeMap;
use std::task::Context;
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, oneshot};

/// Requests taken from a queue at once.
const ASKS_MAX: usize = 4096;
/// How often what the replica says of itself is looked at, at least and at most.
const FACTS_AFTER: Duration = Duration::from_millis(2);
const FACTS_WITHIN: Duration = Duration::from_millis(50);

/// Who waits for an answer.
pub(crate) enum Waiter<M> {
    /// Nobody: the node asked by itself.
    Nobody,
    /// A caller of the handle.
    Reply(oneshot::Sender<Answer>),
    /// A caller of the door.
    Door(oneshot::Sender<Executed>),
    /// Somebody who looks at the state.
    Look(Look<M>),
    /// Somebody who looks at the state where it is kept.
    Kept(oneshot::Sender<Kept>),
}

/// What somebody wants of the engine.
pub(crate) enum Wanted {
    /// That it has everything executed so far; and whether that is all that was acknowledged.
    Kept(oneshot::Sender<Kept>, bool),
    /// That it gives unused space back.
    Compacted(oneshot::Sender<Result<(), Refusal>>),
}

/// Who waits, by token.
pub(crate) struct Waiters<M> {
    slots: Vec<Option<Waiter<M>>>,
    free: Vec<usize>,
}

impl<M> Waiters<M> {
    fn keep(&mut self, waiter: Waiter<M>) -> Token {
        let at = self.free.pop().unwrap_or_else(|| {
            self.slots.push(None);
            self.slots.len() - 1
        });
        self.slots[at] = Some(waiter);
        Token(at as u64)
    }

    fn take(&mut self, token: Token) -> Option<Waiter<M>> {
        let at = usize::try_from(token.0).ok()?;
        let waiter = self.slots.get_mut(at)?.take()?;
        self.free.push(at);
        Some(waiter)
    }

    fn len(&self) -> usize {
        self.slots.len() - self.free.len()
    }
}

/// What is known of who leads, looked at now and then.
#[derive(Debug, Clone, Default)]
pub(crate) struct Facts {
    pub(crate) role: &'static str,
    /// Who leads, or stands for it where nobody does.
    pub(crate) leader: Option<ReplicaId>,
    pub(crate) term: u64,
    pub(crate) executed: u64,
    pub(crate) stored: u64,
    /// The epoch of what is stored, and how much of it.
    pub(crate) stored_at: (u64, u64),
    pub(crate) behind: u64,
    pub(crate) pending: u64,
    pub(crate) failed: u64,
    pub(crate) errors: Vec<String>,
}

/// The numbers of a group's members, and the nodes to which they belong.
#[derive(Debug, Clone, Default)]
pub(crate) struct Numbers {
    cluster: u64,
    nodes: BTreeMap<ReplicaId, u64>,
    ids: BTreeMap<u64, ReplicaId>,
}

impl Numbers {
    pub(crate) fn new(cluster: u64, configuration: &Configuration) -> Self {
        let mut numbers = Self { cluster, ..Self::default() };
        numbers.learn(configuration);
        numbers
    }

    /// Takes in what a configuration says.
    pub(crate) fn learn(&mut self, configuration: &Configuration) {
        for member in &configuration.members {
            let node = crate::node::member_id(self.cluster, &member.name);
            self.nodes.insert(member.id, node);
            self.ids.insert(node, member.id);
        }
    }

    /// The node of a number, or 0.
    pub(crate) fn node(&self, id: ReplicaId) -> u64 {
        self.nodes.get(&id).copied().unwrap_or(0)
    }

    /// The number of a node.
    pub(crate) fn id(&self, node: u64) -> Option<ReplicaId> {
        self.ids.get(&node).copied()
    }

    /// Those of the numbers whose nodes are among these.
    fn among(&self, nodes: &Nodes) -> ReplicaSet {
        self.nodes.iter().filter(|(_, node)| nodes.connected.contains(node)).map(|(&id, _)| id).collect()
    }
}

/// A replica, and who waits for it.
pub(crate) struct Seat<M> {
    pub(crate) id: GroupId,
    pub(crate) name: String,
    pub(crate) replica: Replica<M>,
    /// Which node a number belongs to, and the other way round; numbers of members that left stay until they are given again.
    pub(crate) numbers: Numbers,
    /// Whether members and strategy may change.
    pub(crate) dynamic: bool,
    pub(crate) facts: Facts,
    pub(crate) now: Instant,
    /// Why commands that take space are refused, if they are.
    pub(crate) full: bool,
    pub(crate) stopping: bool,
    /// What the driver has to see to.
    pub(crate) wanted: Vec<Wanted>,
    waiters: Waiters<M>,
    /// Something was offered since the last step.
    offered: bool,
    facts_at: Option<Instant>,
}

/// What stands beside a replica and looks after what is special to its state machine.
pub(crate) trait Desk<M: StateMachine> {
    /// Takes what is asked; answers whether anything was.
    fn poll(&mut self, cx: &mut Context<'_>, seat: &mut Seat<M>) -> bool;
    /// The state changed, or what is known of who leads.
    fn stepped(&mut self, seat: &mut Seat<M>);
    /// Time passed: about ten times a second.
    fn tick(&mut self, seat: &mut Seat<M>, wall_ms: u64);
    /// A peer said where clients reach it.
    fn met(&mut self, node: u64, client_urls: &[String]);
    /// Who is in changed.
    fn reconfigured(&mut self, configuration: &Configuration, numbers: &Numbers);
    /// Whether [`Desk::stepped`] has more to do at once.
    fn is_unfinished(&self) -> bool;
    /// The store's revision; 0 if it has none.
    fn revision(&self, machine: &M) -> u64;
    /// The node stops.
    fn close(&mut self);
}

/// A group on this node.
pub(crate) struct Group<M: StateMachine> {
    pub(crate) seat: Seat<M>,
    pub(crate) desk: Option<Box<dyn Desk<M>>>,
    pub(crate) out: Output,
    /// Bytes that were logged since the last checkpoint, and how many are enough for the next.
    pub(crate) logged_bytes: u64,
    pub(crate) checkpoint_at: u64,
    /// How much the engine held at the last checkpoint.
    pub(crate) checkpoint_stored: (u64, u64),
    asks: mpsc::Receiver<Ask<M>>,
    asked: Vec<Ask<M>>,
    changed: bool,
}

impl<M: StateMachine> Seat<M> {
    /// Offers something to the replica for the next step.
    pub(crate) fn offer(&mut self, event: Event) {
        self.offered = true;
        self.replica.offer(event);
    }

    /// Asks the replica on behalf of `waiter`.
    pub(crate) fn request(&mut self, waiter: Waiter<M>, request: Request) {
        let token = self.waiters.keep(waiter);
        self.offer(Event::Request { token, request });
    }

    /// Executes a command that nobody waits for.
    pub(crate) fn propose(&mut self, body: Bytes) {
        let timeout = Duration::from_secs(5);
        self.request(Waiter::Nobody, Request::Command { session: None, body, timeout });
    }

    /// Has the engine come to what is executed, behind a barrier if one can be had in time.
    pub(crate) fn keep(&mut self, deadline: Instant, reply: oneshot::Sender<Kept>) {
        let timeout = self.left(deadline);
        let everything = Request::Read { level: Level::Strong, footprint: Footprint::Everything, query: None, timeout };
        self.request(Waiter::Kept(reply), everything);
    }

    /// How long a caller still waits.
    pub(crate) fn left(&self, deadline: Instant) -> Duration {
        deadline.saturating_duration_since(self.now)
    }

    /// How many requests wait for an answer.
    pub(crate) fn waiting(&self) -> usize {
        self.waiters.len()
    }

    pub(crate) fn me(&self) -> ReplicaId {
        self.replica.settings().config.me
    }

    /// Whether no configuration that this node knows lists it.
    pub(crate) fn is_removed(&self) -> bool {
        self.replica.settings().configuration.member(self.me()).is_none()
    }

    pub(crate) fn voters(&self) -> ReplicaSet {
        self.replica.settings().config.voters()
    }

    /// Everybody, as this node sees them.
    fn member_status(&self, replica: &concur_replica::Status, nodes: &Nodes) -> Vec<MemberStatus> {
        let status = |member: &concur_peers::Member| {
            let node = self.numbers.node(member.id);
            let peer = replica.peers.iter().find(|(id, _)| *id == member.id).map(|(_, peer)| peer);
            let mine = member.id == self.me();
            MemberStatus {
                member: member.clone(),
                node,
                heard: mine || nodes.connected.contains(&node),
                epoch: if mine { self.epoch().0 } else { peer.map_or(0, |peer| peer.executed.epoch.0) },
                lag: if mine { Some(0) } else { peer.and_then(|peer| peer.lag) },
            }
        };
        replica.configuration.members.iter().map(status).collect()
    }

    fn epoch(&self) -> Epoch {
        self.replica.settings().config.epoch
    }
}

impl<M: StateMachine> Group<M> {
    pub(crate) fn new(
        options: &GroupOptions,
        cluster: u64,
        dynamic: bool,
        replica: Replica<M>,
        out: Output,
        desk: Option<Box<dyn Desk<M>>>,
        asks: mpsc::Receiver<Ask<M>>,
    ) -> Self {
        let seat = Seat {
            id: options.id,
            name: options.name.clone(),
            numbers: Numbers::new(cluster, &replica.settings().configuration),
            dynamic,
            replica,
            facts: Facts::default(),
            now: Instant::now(),
            full: false,
            stopping: false,
            wanted: Vec::new(),
            waiters: Waiters { slots: Vec::new(), free: Vec::new() },
            offered: true,
            facts_at: None,
        };
        Self {
            seat,
            desk,
            out,
            logged_bytes: 0,
            checkpoint_at: options.checkpoint_bytes,
            checkpoint_stored: (0, 0),
            asks,
            asked: Vec::new(),
            changed: true,
        }
    }

    /// Takes what is asked of this group; answers whether anything was.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>, nodes: &Nodes) -> bool {
        let mut any = self.desk.as_mut().is_some_and(|desk| desk.poll(cx, &mut self.seat));
        let mut asked = std::mem::take(&mut self.asked);
        if self.asks.poll_recv_many(cx, &mut asked, ASKS_MAX).is_ready() && !asked.is_empty() {
            any = true;
            asked.drain(..).for_each(|ask| self.ask(ask, nodes));
        }
        self.asked = asked;
        any
    }

    fn ask(&mut self, ask: Ask<M>, nodes: &Nodes) {
        let seat = &mut self.seat;
        match ask {
            Ask::Command { reply, .. } if seat.full => {
                let _ = reply.send(Err(Refused::Busy));
            }
            Ask::Command { session, body, deadline, reply } => {
                let timeout = seat.left(deadline);
                seat.request(Waiter::Reply(reply), Request::Command { session, body, timeout });
            }
            Ask::Open { session, deadline, reply } => {
                let timeout = seat.left(deadline);
                seat.request(Waiter::Reply(reply), Request::OpenSession { session, timeout });
            }
            Ask::Query { level, body, deadline, reply } => {
                let (timeout, footprint) = (seat.left(deadline), seat.replica.machine().query_footprint(&body));
                seat.request(Waiter::Reply(reply), Request::Read { level, footprint, query: Some(body), timeout });
            }
            Ask::Look { level, footprint, deadline, run } => {
                let timeout = seat.left(deadline);
                seat.request(Waiter::Look(run), Request::Read { level, footprint, query: None, timeout });
            }
            Ask::Change { reply, .. } if !seat.dynamic => {
                let (body, stamp) = (Outcome::Refused(ChangeError::Static).to_bytes(), seat.replica.stamp_now());
                let _ = reply.send(Ok(Reply { body, stamp }));
            }
            Ask::Change { change, deadline, reply } => {
                let timeout = seat.left(deadline);
                seat.request(Waiter::Reply(reply), Request::Change { change, timeout });
            }
            Ask::Kept { deadline, reply } => seat.keep(deadline, reply),
            Ask::Status(reply) => {
                let _ = reply.send(self.status(nodes));
            }
        }
    }

    /// How the group is.
    pub(crate) fn status(&mut self, nodes: &Nodes) -> GroupStatus {
        self.look_at_facts(nodes);
        let seat = &self.seat;
        let replica = seat.replica.status();
        GroupStatus {
            group: seat.id,
            configuration: replica.configuration.clone(),
            seat: replica.role,
            change: replica.change.clone(),
            passage: replica.passage,
            follows: replica.follows.map_or(0, |id| seat.numbers.node(id)),
            members: seat.member_status(&replica, nodes),
            namespace: seat.name.clone(),
            strategy: seat.replica.settings().strategy.traits.name,
            role: seat.facts.role,
            epoch: seat.epoch().0,
            leader: seat.facts.leader.map_or(0, |id| seat.numbers.node(id)),
            term: seat.facts.term,
            executed: seat.facts.executed,
            stored: seat.facts.stored,
            behind: seat.facts.behind,
            pending: seat.facts.pending,
            revision: self.desk.as_ref().map_or(0, |desk| desk.revision(seat.replica.machine())),
            voters: seat.voters().iter().map(|id| seat.numbers.node(id)).collect(),
            errors: seat.facts.errors.clone(),
        }
    }

    /// Whether a step has something to do.
    pub(crate) fn is_due(&self, now: Time) -> bool {
        self.seat.offered || self.seat.replica.wake_at() <= now
    }

    /// One step of the replica. What it wants done is in `out`.
    pub(crate) fn step(&mut self, clock: &Clock) {
        self.out.clear();
        self.seat.offered = false;
        self.seat.replica.step(clock.now(), clock.wall_ms(), &mut self.out);
        self.changed |= self.out.changed;
    }

    /// Whether nobody waits here, and nothing is left that only this replica can do.
    pub(crate) fn is_settled(&self) -> bool {
        let seat = &self.seat;
        let leads = seat.replica.settings().strategy.traits.has_leader && seat.facts.leader == Some(seat.me());
        let alone = seat.voters().len() == 1;
        seat.waiting() == 0 && (!leads || alone)
    }

    /// Hands the replies of the last step to those who wait.
    pub(crate) fn answer(&mut self) {
        let mut replies = std::mem::take(&mut self.out.replies);
        for (token, answer) in replies.drain(..) {
            let Some(waiter) = self.seat.waiters.take(token) else { continue };
            self.seat.facts.failed += u64::from(answer.is_err());
            match waiter {
                Waiter::Nobody => {}
                Waiter::Reply(reply) => drop(reply.send(answer)),
                Waiter::Door(reply) => drop(reply.send(self.door_answer(answer))),
                Waiter::Kept(reply) => self.seat.wanted.push(Wanted::Kept(reply, answer.is_ok())),
                Waiter::Look(run) => run(answer.map(|reply| (self.seat.replica.machine(), reply.stamp))),
            }
        }
        self.out.replies = replies;
    }

    fn door_answer(&self, answer: Answer) -> Executed {
        let Reply { body, stamp } = answer.map_err(|refused| refusal(refused, self.seat.facts.leader.is_some()))?;
        Ok((body, door_stamp(stamp, self.seat.facts.term)))
    }

    /// Lets the desk know of what the steps changed.
    pub(crate) fn after(&mut self, nodes: &Nodes) {
        let due = self.seat.facts_at.is_none_or(|at| {
            let age = self.seat.now.saturating_duration_since(at);
            age >= FACTS_WITHIN || (age >= FACTS_AFTER && !self.out.notes.is_empty())
        });
        if due {
            self.look_at_facts(nodes);
        }
        let changed = std::mem::take(&mut self.changed);
        if let Some(desk) = &mut self.desk
            && (changed || due || desk.is_unfinished())
        {
            desk.stepped(&mut self.seat);
        }
    }

    fn look_at_facts(&mut self, nodes: &Nodes) {
        let seat = &mut self.seat;
        seat.facts_at = Some(seat.now);
        let status = seat.replica.status();
        let settings = seat.replica.settings();
        let term = settings.configuration.term_base;
        let leads = settings.strategy.traits.has_leader && status.role == "voter";
        let (leader, term) = match leads {
            true => (status.protocol.leader, term + status.protocol.ballot),
            // Where nobody leads, and where it is not known who does, somebody stands for a leader.
            false => (stand_in(seat, nodes, status.role), term + seat.epoch().0 + 1),
        };
        seat.facts.role = status.protocol.role;
        seat.facts.leader = leader;
        seat.facts.term = seat.facts.term.max(term);
        seat.facts.executed = status.executed.count();
        seat.facts.stored = status.stored.count();
        seat.facts.stored_at = (status.stored.epoch.0, status.stored.count());
        seat.facts.behind = status.unexecuted as u64 + status.protocol.undecided;
        seat.facts.pending = (status.pending_commands + status.batches_in_flight) as u64;
    }
}

/// Where nobody leads, the first voter that can be reached stands for a leader, if a quorum can.
fn stand_in<M: StateMachine>(seat: &Seat<M>, nodes: &Nodes, role: &str) -> Option<ReplicaId> {
    let config = &seat.replica.settings().config;
    let reached = seat.numbers.among(nodes).with(config.me).intersection(config.voters());
    let first = seat.replica.settings().configuration.first.filter(|&first| reached.contains(first));
    let enough = config.quorums.is_quorum(concur_core::Phase::Accept, reached) && role != "joining";
    // Who does not vote reaches whoever does through any of them.
    let found = enough || (role == "observer" && !reached.is_empty());
    found.then(|| first.or_else(|| reached.iter().next()))?
}

/// A replica's stamp as the front doors have it.
pub(crate) fn door_stamp(stamp: Stamp, term: u64) -> DoorStamp {
    let level = match stamp.level {
        Level::Strong => crate::door::Level::Strong,
        Level::Eventual => crate::door::Level::Eventual,
    };
    DoorStamp { level, epoch: stamp.epoch, term }
}

/// A replica's refusal as the front doors have it.
pub(crate) fn refusal(refused: Refused, has_leader: bool) -> Refusal {
    match refused {
        Refused::Busy => Refusal::Busy,
        Refused::Expired | Refused::Unknown if !has_leader => Refusal::NoLeader,
        Refused::Expired | Refused::Unknown => Refusal::TimedOut,
        Refused::Stopping => Refusal::Stopped,
        Refused::NoSession => Refusal::Unsupported("the session is not known"),
        Refused::NeedsQuery => Refusal::Unsupported("in a namespace ordered per key this reads one key at a time"),
        Refused::TooLarge => Refusal::Unsupported("the command is larger than a message can carry"),
    }
}
