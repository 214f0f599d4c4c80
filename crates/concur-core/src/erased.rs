//! Any protocol behind one face that speaks bytes.
//!
//! [`Strategy::of`] turns a [`Protocol`] into an entry of a registry. Behind it, [`Erased`] encodes what the protocol sends and
//! persists, decodes what comes back, and keeps its timers, so that a replica is written once and holds `dyn AnyProtocol`. In front
//! of each record stands the epoch in which it was written; those of earlier epochs say nothing any more and are passed over.

use crate::wire::encoded;
use crate::{
    BatchId, Boot, BootCount, Config, Context, Corrupt, Effect, Epoch, Footprint, Frontier, Health, Input, Inspection, Instance, Mark,
    Phase, Protocol, QuorumSystem, ReadId, Reader, Refusal, ReplicaId, ReplicaSet, Rng, Run, Ticket, Time, Traits, Urgent, Value, Wire,
};
use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// An entry of a registry: everything that is needed to run a protocol by name.
#[derive(Clone, Copy)]
pub struct Strategy {
    /// What it is.
    pub traits: &'static Traits,
    /// The quorums it needs among these voters.
    pub quorums: fn(ReplicaSet) -> QuorumSystem,
    /// Starts a replica's vote.
    pub recover: Recover,
    /// A message for people.
    pub describe: fn(&Bytes) -> String,
}

/// Starts a replica's vote; what it asks for first is appended.
pub type Recover = fn(AnyBoot, Start, &mut Vec<AnyEffect>) -> Result<Box<dyn AnyProtocol>, Corrupt>;

impl std::fmt::Debug for Strategy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Strategy({})", self.traits.name)
    }
}

impl Strategy {
    /// The entry of `P`.
    pub const fn of<P: Protocol>() -> Self {
        Self { traits: &P::TRAITS, quorums: P::quorums, recover: recover::<P>, describe: describe::<P> }
    }
}

/// What a replica's vote is started with besides its records.
#[derive(Debug)]
pub struct Start {
    /// The time.
    pub now: Time,
    /// Randomness of its own.
    pub rng: Rng,
    /// Its group.
    pub config: Arc<Config>,
}

/// [`Boot`], in bytes.
#[derive(Debug, Clone)]
pub struct AnyBoot {
    /// The records since the last checkpoint.
    pub records: Vec<Bytes>,
    /// How far the executed state has come.
    pub mark: Mark<Bytes>,
    /// Who leads the epoch at first.
    pub first: Option<ReplicaId>,
    /// Whether this run entered the epoch.
    pub fresh: bool,
    /// The process's run.
    pub boot: BootCount,
}

/// [`Input`], in bytes. Timers are kept behind this face: [`AnyInput::Tick`] fires those that are due.
#[derive(Debug, Clone)]
pub enum AnyInput {
    /// Propose this.
    Submit(Value),
    /// A message.
    Receive {
        /// Who sent it.
        from: ReplicaId,
        /// What.
        message: Bytes,
    },
    /// Time passed.
    Tick,
    /// Execution waits for this.
    Wanted(Instance),
    /// Find a frontier for reads of this footprint.
    Read {
        /// Its name.
        id: ReadId,
        /// What the reads touch.
        footprint: Footprint,
    },
    /// State was installed.
    Installed(Mark<Bytes>),
    /// This may be forgotten.
    Floor(Frontier),
    /// A hint.
    Peer(ReplicaId, Health),
    /// The node is about to stop.
    Leave,
}

/// [`Effect`], in bytes, without timers.
#[derive(Debug, Clone, PartialEq)]
pub enum AnyEffect {
    /// Persist this record.
    Persist(Bytes),
    /// Send once `after` is durable.
    Send {
        /// To whom.
        to: ReplicaSet,
        /// What.
        message: Bytes,
        /// In the lane of its own.
        urgent: bool,
        /// Durable first.
        after: Ticket,
    },
    /// Send to a quorum of the volume's choice once `after` is durable.
    Solicit {
        /// Which quorum it is for.
        phase: Phase,
        /// How often it was asked before.
        attempt: u32,
        /// What.
        message: Bytes,
        /// In the lane of its own.
        urgent: bool,
        /// Durable first.
        after: Ticket,
    },
    /// Decided.
    Decide {
        /// Which.
        run: Run,
        /// What.
        value: Value,
        /// The order, encoded.
        order: Bytes,
        /// For a graph: a number a lane.
        dependencies: Option<Vec<u64>>,
    },
    /// Reads may be served at this frontier.
    ReadAt {
        /// Which.
        id: ReadId,
        /// When.
        frontier: Frontier,
    },
    /// A proposal is not taken up.
    Refuse {
        /// Which.
        id: BatchId,
        /// Why.
        reason: Refusal,
    },
    /// A round of reads is not taken up.
    RefuseRead {
        /// Which.
        id: ReadId,
        /// Why.
        reason: Refusal,
    },
    /// Fetch state.
    Fetch {
        /// From whom.
        from: ReplicaId,
        /// What it covers.
        frontier: Frontier,
    },
    /// A transition was passed.
    Note {
        /// Which.
        name: &'static str,
        /// Where.
        instance: Option<Instance>,
    },
    /// A message or record that could not be read was dropped.
    Dropped {
        /// Why.
        why: &'static str,
    },
}

/// A protocol whose types are erased.
pub trait AnyProtocol {
    /// Takes one input and appends what is asked for.
    fn step(&mut self, now: Time, input: AnyInput, out: &mut Vec<AnyEffect>);
    /// When to call with [`AnyInput::Tick`] at the latest.
    fn wake_at(&self) -> Option<Time>;
    /// Everything still needed of what was persisted.
    fn checkpoint(&self) -> Vec<Bytes>;
    /// What it says of itself.
    fn inspect(&self) -> Inspection;
    /// The ticket of the last record that it asked to persist.
    fn persisted(&self) -> Ticket;
}

struct Erased<P: Protocol> {
    protocol: P,
    context: Context<P>,
    timers: Timers<P::Timer>,
    effects: Vec<Effect<P>>,
}

/// Armed timers, found by due time and by name.
struct Timers<T> {
    due: BTreeSet<(Time, T)>,
    of: BTreeMap<T, Time>,
}

fn recover<P: Protocol>(boot: AnyBoot, start: Start, out: &mut Vec<AnyEffect>) -> Result<Box<dyn AnyProtocol>, Corrupt> {
    let mut records = Vec::with_capacity(boot.records.len());
    for record in boot.records {
        let mut reader = Reader::new(record);
        match Epoch::get(&mut reader)?.cmp(&start.config.epoch) {
            std::cmp::Ordering::Less => continue,
            std::cmp::Ordering::Equal => records.push(P::Record::get(&mut reader)?),
            std::cmp::Ordering::Greater => return Err(Corrupt::new("the log speaks of a later epoch than the executed state")),
        }
        reader.finish()?;
    }
    let boot = Boot { records, mark: typed_mark::<P>(&boot.mark)?, first: boot.first, fresh: boot.fresh, boot: boot.boot };
    let mut context = Context::new(start.now, start.rng, start.config);
    let protocol = P::recover(boot, &mut context)?;
    let timers = Timers { due: BTreeSet::new(), of: BTreeMap::new() };
    let mut erased = Erased { protocol, context, timers, effects: Vec::new() };
    erased.drain(out);
    Ok(Box::new(erased))
}

fn describe<P: Protocol>(message: &Bytes) -> String {
    match P::Message::from_bytes(message) {
        Ok(message) => format!("{message:?}"),
        Err(error) => error.to_string(),
    }
}

/// A record, behind its epoch.
fn in_epoch(epoch: Epoch, record: &impl Wire) -> Bytes {
    encoded(|out| {
        epoch.put(out);
        record.put(out);
    })
}

fn typed_mark<P: Protocol>(mark: &Mark<Bytes>) -> Result<Mark<P::Order>, Corrupt> {
    let order = |o: &Option<Bytes>| o.as_ref().map(P::Order::from_bytes).transpose();
    Ok(Mark { frontier: mark.frontier.clone(), orders: mark.orders.iter().map(order).collect::<Result<_, _>>()? })
}

impl<P: Protocol> Erased<P> {
    fn input(&mut self, input: Input<P>, out: &mut Vec<AnyEffect>) {
        self.protocol.step(input, &mut self.context);
        self.drain(out);
    }

    fn tick(&mut self, out: &mut Vec<AnyEffect>) {
        while let Some(&(due, timer)) = self.timers.due.first() {
            if due > self.context.now {
                return;
            }
            self.timers.disarm(timer);
            self.input(Input::Expired(timer), out);
        }
    }

    fn drain(&mut self, out: &mut Vec<AnyEffect>) {
        let mut effects = std::mem::take(&mut self.effects);
        self.context.swap_effects(&mut effects);
        for effect in effects.drain(..) {
            out.push(match effect {
                Effect::Arm { timer, due } => {
                    self.timers.arm(timer, due);
                    continue;
                }
                Effect::Disarm { timer } => {
                    self.timers.disarm(timer);
                    continue;
                }
                Effect::Persist(record) => AnyEffect::Persist(in_epoch(self.context.config.epoch, &record)),
                Effect::Send { to, message, after } => AnyEffect::Send { to, urgent: message.urgent(), message: message.to_bytes(), after },
                Effect::Solicit { phase, attempt, message, after } => {
                    AnyEffect::Solicit { phase, attempt, urgent: message.urgent(), message: message.to_bytes(), after }
                }
                Effect::Decide { run, value, order } => {
                    use crate::Order;
                    let dependencies = order.dependencies().map(<[u64]>::to_vec);
                    AnyEffect::Decide { run, value, order: order.to_bytes(), dependencies }
                }
                Effect::ReadAt { id, frontier } => AnyEffect::ReadAt { id, frontier },
                Effect::Refuse { id, reason } => AnyEffect::Refuse { id, reason },
                Effect::RefuseRead { id, reason } => AnyEffect::RefuseRead { id, reason },
                Effect::Fetch { from, frontier } => AnyEffect::Fetch { from, frontier },
                Effect::Note { name, instance } => AnyEffect::Note { name, instance },
            });
        }
        self.effects = effects;
    }
}

impl<P: Protocol> AnyProtocol for Erased<P> {
    fn step(&mut self, now: Time, input: AnyInput, out: &mut Vec<AnyEffect>) {
        self.context.now = now;
        let input = match input {
            AnyInput::Tick => return self.tick(out),
            AnyInput::Submit(value) => Input::Submit(value),
            AnyInput::Receive { from, message } => match P::Message::from_bytes(&message) {
                Ok(message) => Input::Receive { from, message },
                Err(error) => return out.push(AnyEffect::Dropped { why: error.what }),
            },
            AnyInput::Wanted(instance) => Input::Wanted(instance),
            AnyInput::Read { id, footprint } => Input::Read { id, footprint },
            AnyInput::Installed(mark) => match typed_mark::<P>(&mark) {
                Ok(mark) => Input::Installed(mark),
                Err(_) => return out.push(AnyEffect::Dropped { why: "mark" }),
            },
            AnyInput::Floor(frontier) => Input::Floor(frontier),
            AnyInput::Peer(id, health) => Input::Peer(id, health),
            AnyInput::Leave => Input::Leave,
        };
        self.input(input, out);
    }

    fn wake_at(&self) -> Option<Time> {
        self.timers.due.first().map(|&(due, _)| due)
    }

    fn checkpoint(&self) -> Vec<Bytes> {
        self.protocol.checkpoint().iter().map(|record| in_epoch(self.context.config.epoch, record)).collect()
    }

    fn inspect(&self) -> Inspection {
        self.protocol.inspect()
    }

    fn persisted(&self) -> Ticket {
        self.context.persisted()
    }
}

impl<T: Copy + Ord> Timers<T> {
    fn arm(&mut self, timer: T, due: Time) {
        self.disarm(timer);
        self.due.insert((due, timer));
        self.of.insert(timer, due);
    }

    fn disarm(&mut self, timer: T) {
        if let Some(due) = self.of.remove(&timer) {
            self.due.remove(&(due, timer));
        }
    }
}
