//! What a seed stands for, as plain data: the system, its surroundings, what clients do, and which faults strike when.
//!
//! A [`Schedule`] is drawn from a seed and from nothing else, can be printed, and can be made smaller by hand or by
//! [`shrink`](crate::shrink()): every episode, client and operation stands for itself. Two runs of one schedule are equal to the
//! byte. The randomness of a run (jitter, which sectors a power loss keeps) comes from the seed as well.

use crate::fault::{Episode, Fault};
use crate::lives;
use crate::plan::{Plan, Wish};
use concur_core::{Family, Phase, Protocol, QuorumRule, ReplicaId, ReplicaSet, Rng, Strategy};
use concur_kv::Ordering;
use concur_network::Volume;
use std::fmt;
use std::time::Duration;

/// What is drawn, and what is given.
#[derive(Debug, Clone)]
pub struct Options {
    /// The protocol.
    pub strategy: Strategy,
    /// How many replicas; 3 to 7 are drawn if it is not given.
    pub replicas: Option<usize>,
    /// How the store's writes are ordered; drawn if it is not given.
    pub ordering: Option<Ordering>,
    /// Which kinds of fault may strike.
    pub faults: Vec<Fault>,
    /// The protocols that an epoch may name. If the one above is among them, the group goes over to others and back.
    pub strategies: fn(&str) -> Option<Strategy>,
}

impl Options {
    /// Everything is drawn, every fault may strike.
    pub fn new(strategy: Strategy) -> Self {
        Self { strategy, replicas: None, ordering: None, faults: Fault::ALL.to_vec(), strategies: concur_decision::find }
    }

    /// The same, for a protocol that need not be registered.
    pub fn of<P: Protocol>() -> Self {
        Self { strategies: find_with::<P>, ..Self::new(Strategy::of::<P>()) }
    }

    /// The ordering that a word names: `total` or `per-key`.
    pub fn ordering_named(word: &str) -> Option<Ordering> {
        match word {
            "total" => Some(Ordering::Total),
            "per-key" => Some(Ordering::PerKey),
            _ => None,
        }
    }
}

/// The protocol of that name: `P`, or a registered one.
fn find_with<P: Protocol>(name: &str) -> Option<Strategy> {
    Some(Strategy::of::<P>()).filter(|strategy| strategy.traits.name == name).or_else(|| concur_decision::find(name))
}

/// One run, as data.
#[derive(Debug, Clone)]
pub struct Schedule {
    /// Where it comes from, and the source of the run's own randomness.
    pub seed: u64,
    /// The protocol.
    pub strategy: Strategy,
    /// The protocols that an epoch may name.
    pub strategies: fn(&str) -> Option<Strategy>,
    /// How many replicas begin the group.
    pub replicas: usize,
    /// How many machines stand by, and come in when somebody wants it.
    pub spares: usize,
    /// The sizes of quorums with which the group begins: phase 1, phase 2, a fast round. `None`: those of the protocol.
    pub sizes: Option<(u64, u64, u64)>,
    /// How the store's writes are ordered.
    pub ordering: Ordering,
    /// How the replicas are set up.
    pub tuning: Tuning,
    /// How messages travel.
    pub network: Network,
    /// How many keys clients use.
    pub keys: u8,
    /// Who asks for what.
    pub clients: Vec<Client>,
    /// What goes wrong.
    pub episodes: Vec<Episode>,
    /// What is to change, of who is in and how they decide.
    pub wishes: Vec<Wish>,
    /// Whether somebody looks after the members: rebuilds those whose disks were lost, and stops those that were removed.
    pub operated: bool,
    /// Whether the first configuration names the lives of its members' disks.
    pub named: bool,
    /// Whether whoever is about to pass from one epoch to the next, or gets or gives state, is likely to crash.
    pub harassed: bool,
    /// Whether many messages to a node that is down arrive once it has started again.
    pub late: bool,
    /// When everything is healed.
    pub healed: Duration,
}

/// How the replicas of a run are set up.
#[derive(Debug, Clone)]
pub struct Tuning {
    /// [`concur_core::Config::heartbeat`].
    pub heartbeat: Duration,
    /// [`concur_core::Config::election`].
    pub election: Duration,
    /// [`concur_core::Config::window_max`].
    pub window_max: usize,
    /// [`concur_core::Config::message_bytes_max`].
    pub message_bytes_max: usize,
    /// [`concur_core::Config::retained_bytes_max`].
    pub retained_bytes_max: usize,
    /// [`concur_replica::Settings::batches_in_flight_max`].
    pub batches_in_flight_max: usize,
    /// [`concur_replica::Settings::batch_commands_max`].
    pub batch_commands_max: usize,
    /// [`concur_replica::Settings::transfer_bytes_max`].
    pub transfer_bytes_max: usize,
    /// [`concur_replica::Settings::volume`].
    pub volume: Volume,
    /// [`concur_replica::Settings::feed_bytes_max`].
    pub feed_bytes_max: usize,
    /// [`concur_replica::Settings::close_instances_max`].
    pub close_instances_max: u64,
    /// [`concur_replica::Settings::absence_max`].
    pub absence_max: Option<Duration>,
    /// [`concur_replica::Settings::session_ttl`].
    pub session_ttl: Duration,
    /// How large the log grows between two checkpoints.
    pub checkpoint_bytes: u64,
    /// Bytes of a segment of the log.
    pub segment_bytes: u64,
    /// How long one step keeps the processor, at most.
    pub step_max: Duration,
    /// How long a sync takes, at least and at most.
    pub sync: (Duration, Duration),
    /// How long the engine takes to write, at least and at most.
    pub engine: (Duration, Duration),
}

/// How long sessions live in runs in which none ends: for longer than those last.
const SESSION_TTL: Duration = Duration::from_secs(600);

/// How messages travel.
#[derive(Debug, Clone)]
pub struct Network {
    /// Half a round trip, from replica to replica.
    pub one_way: Vec<Vec<Duration>>,
    /// How much longer a message may take.
    pub jitter: Duration,
    /// How many of a million messages are lost.
    pub loss_per_million: u32,
    /// From a client to a node.
    pub client: Duration,
}

/// A client and what it does, one operation after the other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Client {
    /// The node that it asks first.
    pub home: ReplicaId,
    /// Whether it asks another node for each operation.
    pub moves: bool,
    /// Whether it has a session, and so retries what it does not know the outcome of.
    pub session: bool,
    /// What it does.
    pub operations: Vec<Operation>,
}

/// One thing that a client does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Operation {
    /// Its number in its client, part of the value that it writes.
    pub number: u32,
    /// What.
    pub act: Act,
    /// On which key.
    pub key: u8,
    /// How long the client waits before it.
    pub think: Duration,
    /// How many bytes the value that it writes is longer than its name.
    pub padding: u16,
}

/// What an operation does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Act {
    /// Writes a value that nobody else writes.
    Put,
    /// Writes it if the key is as the client saw it last, and reads it otherwise.
    Swap,
    /// Writes it to this key and to the next, at once.
    PutTwo,
    /// Deletes the key.
    Delete,
    /// Reads the key, strongly.
    Get,
    /// Reads every key, strongly.
    GetAll,
    /// Reads the key as it is at the node.
    Peek,
}

impl Schedule {
    /// Draws the run of `seed`.
    pub fn draw(options: &Options, seed: u64) -> Self {
        let mut rng = Rng::new(seed ^ 0x5eed_0000_c0de);
        let replicas = options.replicas.unwrap_or_else(|| [3, 3, 3, 4, 5, 5, 5, 6, 7][rng.below(9) as usize]);
        let drawn = if rng.chance(500_000) { Ordering::Total } else { Ordering::PerKey };
        let drawn = if options.strategy.traits.has_leader && rng.chance(700_000) { Ordering::Total } else { drawn };
        let ordering = options.ordering.unwrap_or(drawn);
        let wide = rng.chance(250_000);
        let mut network = Network::draw(&mut rng, replicas, wide);
        let mut tuning = Tuning::draw(&mut rng, wide);
        let keys = rng.between(1, 8) as u8;
        let healed = tuning.election * rng.between(5, 9) as u32 + Duration::from_millis(500);
        // What concerns epochs is drawn apart: without it, a seed is what it would be if there were no such thing.
        let (of_epochs, others): (Vec<Fault>, Vec<Fault>) = options.faults.iter().partition(|fault| fault.is_of_epochs());
        let (later, others): (Vec<Fault>, Vec<Fault>) = others.into_iter().partition(|fault| fault.is_apart());
        let mut apart = Rng::new(seed ^ 0x5eed_e70c_0000);
        let mut plan = Plan::draw(&mut apart, &of_epochs, replicas, healed);
        let healed = plan.prolong(healed);
        let mut episodes = draw_episodes(&mut rng, &others, replicas, healed);
        draw_losses(&mut apart, &mut episodes, &of_epochs, replicas, healed);
        let (lies, later): (Vec<Fault>, Vec<Fault>) = later.into_iter().partition(|fault| fault.is_lie());
        draw_apart(&mut Rng::new(seed ^ 0x5eed_11e5_0000), &mut episodes, (&lies, 120_000), replicas, healed);
        draw_apart(&mut Rng::new(seed ^ 0x5eed_5a7e_4000), &mut episodes, (&later, 30_000), replicas, healed);
        let healed = prolong_chase(&mut episodes, healed);
        let clients = draw_clients(&mut rng, &tuning, replicas, keys, healed);
        network.extend(&mut apart, replicas + plan.spares, wide);
        tuning.draw_for_epochs(&mut apart, &episodes);
        tuning.draw_for_sessions(&mut Rng::new(seed ^ 0x5eed_5e55_1000));
        let (strategy, strategies) = (options.strategy, options.strategies);
        let (spares, wishes, operated) = (plan.spares, plan.wishes, !of_epochs.is_empty());
        tuning.absence_max = tuning.absence_max.filter(|_| operated);
        let harassed = operated && apart.chance(400_000);
        let named = apart.chance(300_000);
        let sizes = draw_sizes(&mut Rng::new(seed ^ 0x5eed_512e_5000), &strategy, replicas);
        let late = options.faults.contains(&Fault::Stale) && Rng::new(seed ^ 0x5eed_1a7e_3000).chance(400_000);
        Self {
            seed,
            strategy,
            strategies,
            replicas,
            spares,
            sizes,
            ordering,
            tuning,
            network,
            keys,
            clients,
            episodes,
            wishes,
            operated,
            named,
            harassed,
            late,
            healed,
        }
    }

    /// How many machines there are.
    pub fn machines(&self) -> usize {
        self.replicas + self.spares
    }

    /// How many operations clients are to do.
    pub fn operations(&self) -> usize {
        self.clients.iter().map(|client| client.operations.len()).sum()
    }
}

impl Network {
    fn draw(rng: &mut Rng, replicas: usize, wide: bool) -> Self {
        let micros = |rng: &mut Rng| if wide { rng.between(4_000, 40_000) } else { rng.between(50, 2_000) };
        let mut one_way = vec![vec![Duration::ZERO; replicas]; replicas];
        for (a, b) in (0..replicas).flat_map(|a| (0..a).map(move |b| (a, b))) {
            let delay = Duration::from_micros(micros(rng));
            one_way[a][b] = delay;
            one_way[b][a] = delay;
        }
        Self {
            one_way,
            jitter: Duration::from_micros(rng.between(0, 1_000)),
            loss_per_million: if rng.chance(500_000) { 0 } else { rng.between(0, 5_000) as u32 },
            client: Duration::from_micros(rng.between(10, 1_000)),
        }
    }
}

impl Network {
    /// The ways to and from machines that stand by.
    fn extend(&mut self, rng: &mut Rng, machines: usize, wide: bool) {
        let before = self.one_way.len();
        self.one_way.iter_mut().for_each(|row| row.resize(machines, Duration::ZERO));
        self.one_way.resize(machines, vec![Duration::ZERO; machines]);
        for (a, b) in (before..machines).flat_map(|a| (0..a).map(move |b| (a, b))) {
            let delay = Duration::from_micros(if wide { rng.between(4_000, 40_000) } else { rng.between(50, 2_000) });
            self.one_way[a][b] = delay;
            self.one_way[b][a] = delay;
        }
    }
}

impl Tuning {
    /// What matters only where members come and go. A voter that is silent is given up only where no disk is lost: the group must
    /// not be left with too few that hold what was decided.
    fn draw_for_epochs(&mut self, rng: &mut Rng, episodes: &[Episode]) {
        self.feed_bytes_max = [512, 4_096, 65_536, 1 << 20][rng.below(4) as usize];
        self.close_instances_max = [16, 256, 1_024][rng.below(3) as usize];
        let loses = |episode: &Episode| {
            matches!(episode.fault, Fault::LostDisk | Fault::OldCopy) || episode.fault.is_flip() || episode.fault.is_lie()
        };
        let absence = self.election * rng.between(4, 10) as u32;
        let gives_up = rng.chance(300_000) && !episodes.iter().any(loses);
        self.absence_max = Some(if gives_up { absence } else { Duration::MAX });
    }

    /// In a part of the runs sessions end: an active client mostly keeps its own, as long as it reaches somebody and wall clocks agree.
    fn draw_for_sessions(&mut self, rng: &mut Rng) {
        if rng.chance(400_000) {
            self.session_ttl = self.election * rng.between(3, 12) as u32;
        }
    }

    fn draw(rng: &mut Rng, wide: bool) -> Self {
        let election = Duration::from_millis(if wide { rng.between(600, 1_200) } else { rng.between(150, 600) });
        let micros = Duration::from_micros;
        let sync_min = rng.between(20, 500);
        let engine_min = rng.between(100, 20_000);
        Self {
            heartbeat: election / [3, 3, 4, 6][rng.below(4) as usize],
            election,
            window_max: [4, 16, 64, 256][rng.below(4) as usize],
            // The least takes one command that is not long, and nothing beside.
            message_bytes_max: [192, 4_096, 8_192, 65_536][rng.below(4) as usize],
            retained_bytes_max: [0, 512, 4_096, 65_536][rng.below(4) as usize],
            batches_in_flight_max: [1, 1, 2, 8][rng.below(4) as usize],
            batch_commands_max: [1, 4, 4_096][rng.below(3) as usize],
            transfer_bytes_max: [256, 4_096, 262_144][rng.below(3) as usize],
            volume: if rng.chance(750_000) { Volume::Broadcast } else { Volume::Thrifty },
            feed_bytes_max: 4_096,
            close_instances_max: 1_024,
            absence_max: None,
            session_ttl: SESSION_TTL,
            checkpoint_bytes: [32_768, 131_072, 524_288][rng.below(3) as usize],
            segment_bytes: [16_384, 32_768, 65_536][rng.below(3) as usize],
            step_max: micros([0, 20, 200][rng.below(3) as usize]),
            sync: (micros(sync_min), micros(sync_min * 3)),
            engine: (micros(engine_min), micros(engine_min * 4)),
        }
    }
}

/// Whether a protocol asks for quorums without saying how large they are; one that says it is proved for those alone.
pub(crate) fn takes_sizes(strategy: &Strategy) -> bool {
    !matches!((strategy.quorums)(ReplicaSet::first(3)).rule, QuorumRule::Counts { .. })
}

/// Sizes of quorums that need not be the protocol's, in a part of the runs: those that meet where they must.
fn draw_sizes(rng: &mut Rng, strategy: &Strategy, replicas: usize) -> Option<(u64, u64, u64)> {
    if !takes_sizes(strategy) || !rng.chance(200_000) {
        return None;
    }
    let own = (strategy.quorums)(ReplicaSet::first(replicas));
    let all = replicas as u64;
    // Ballots of their proposers' own need not be taken away from one another.
    let prepare_min = if strategy.traits.family == Family::Classic { 1 } else { all / 2 + 1 };
    let prepare = rng.between(prepare_min, all);
    // Whoever recovers must see enough of those that voted in a fast round to tell what it may have chosen.
    let optimistic = strategy.traits.family == Family::Optimistic;
    let accept_min = if optimistic { own.size(Phase::Accept) as u64 } else { 1 };
    let accept = rng.between(accept_min.max(all + 1 - prepare), all);
    let fast = rng.between(own.size(Phase::Fast) as u64, all);
    Some((prepare, accept, fast))
}

fn draw_clients(rng: &mut Rng, tuning: &Tuning, replicas: usize, keys: u8, healed: Duration) -> Vec<Client> {
    let count = rng.between(3, 9);
    let each = 200_u64.div_ceil(count) + rng.below(8);
    let writes = rng.between(30, 80);
    // Where most values are long, what a replica lacks does not fit into one message; but state should into a few dozen.
    let long = match tuning {
        Tuning { message_bytes_max: ..4_096, .. } => 0,
        Tuning { transfer_bytes_max: 4_096.., .. } if rng.chance(250_000) => 700_000,
        _ => 100_000,
    };
    let think_max = 2 * healed.as_micros() as u64 * 8 / 10 / each;
    let client = |rng: &mut Rng, index: u64| {
        let operation = |rng: &mut Rng, number: u64| {
            let act = draw_act(rng, writes);
            let key = rng.below(u64::from(keys)) as u8;
            let padding = match act {
                Act::Put if long == 0 => 100,
                _ if rng.chance(long) => rng.between(400, 1_500) as u16,
                _ => 0,
            };
            Operation { number: number as u32, act, key, think: Duration::from_micros(rng.below(think_max)), padding }
        };
        let home = ReplicaId((index % replicas as u64) as u8);
        let (moves, session) = (rng.chance(400_000), rng.chance(600_000));
        Client { home, moves, session, operations: (0..each).map(|number| operation(rng, number)).collect() }
    };
    (0..count).map(|index| client(rng, index)).collect()
}

fn draw_act(rng: &mut Rng, writes: u64) -> Act {
    let of = |rng: &mut Rng, acts: &[Act]| acts[rng.below(acts.len() as u64) as usize];
    if rng.below(100) < writes {
        of(rng, &[Act::Put, Act::Put, Act::Put, Act::Put, Act::Swap, Act::Swap, Act::PutTwo, Act::Delete])
    } else {
        of(rng, &[Act::Get, Act::Get, Act::Get, Act::GetAll, Act::Peek])
    }
}

/// At least three kinds if so many are enabled, in overlapping episodes. At most one node's disk is flipped: what stays damaged
/// is a minority.
fn draw_episodes(rng: &mut Rng, faults: &[Fault], replicas: usize, healed: Duration) -> Vec<Episode> {
    let mut left = faults.to_vec();
    let kinds = rng.between(3, 6).min(left.len() as u64);
    let mut kinds: Vec<Fault> = (0..kinds).map(|_| left.swap_remove(rng.below(left.len() as u64) as usize)).collect();
    // The chase brings about what is rarest: in a good part of the runs it comes on top.
    let chase = left.contains(&Fault::Chase) && rng.chance(300_000);
    kinds.extend(chase.then_some(Fault::Chase));
    let mut episodes = Vec::new();
    for fault in kinds {
        let times = if matches!(fault, Fault::FlippedByte | Fault::Chase) { 1 } else { rng.between(1, 3) };
        for _ in 0..times {
            episodes.push(draw_episode(rng, fault, replicas, healed));
        }
    }
    episodes.sort_by_key(|episode| episode.start);
    episodes
}

/// Disks that are lost, or put back as they were.
fn draw_losses(rng: &mut Rng, episodes: &mut Vec<Episode>, faults: &[Fault], replicas: usize, healed: Duration) {
    for (fault, odds) in [(Fault::LostDisk, 200_000), (Fault::OldCopy, 120_000)] {
        if faults.contains(&fault) && rng.chance(odds) {
            for _ in 0..rng.between(1, 2) {
                let mut episode = draw_episode(rng, fault, replicas, healed);
                // One that is aimed takes its time, before and after.
                if fault == Fault::LostDisk && lives::is_aimed(&episode) {
                    episode.lasts = (healed / 2).min(healed - episode.start);
                }
                episodes.push(episode);
            }
        }
    }
    episodes.sort_by_key(|episode| episode.start);
}

/// What is rare, at most one of each kind in a run, so many times in a million.
fn draw_apart(rng: &mut Rng, episodes: &mut Vec<Episode>, (faults, odds): (&[Fault], u32), replicas: usize, healed: Duration) {
    for &fault in faults {
        if rng.chance(odds) {
            episodes.push(draw_episode(rng, fault, replicas, healed));
        }
    }
    episodes.sort_by_key(|episode| episode.start);
}

/// One leader after the other takes its time: a chase goes on for longer than all else.
fn prolong_chase(episodes: &mut [Episode], healed: Duration) -> Duration {
    let Some(chase) = episodes.iter_mut().find(|episode| episode.fault == Fault::Chase) else { return healed };
    chase.lasts = healed * 3 - chase.start;
    healed * 3
}

fn draw_episode(rng: &mut Rng, fault: Fault, replicas: usize, healed: Duration) -> Episode {
    let whole = healed.as_micros() as u64;
    let start = rng.between(whole / 20, whole * 8 / 10);
    let lasts = rng.between(whole / 50, whole / 3).min(whole - start);
    let one = ReplicaSet::one(ReplicaId(rng.below(replicas as u64) as u8));
    let some: ReplicaSet = (0..replicas as u8).map(ReplicaId).filter(|_| rng.chance(500_000)).collect();
    let some = if some.is_empty() || some.len() == replicas { one } else { some };
    let nodes = match fault {
        Fault::PowerLossAll => ReplicaSet::first(replicas),
        Fault::Split | Fault::OneWay | Fault::Flap | Fault::ClientSplit | Fault::PowerLossSome => some,
        Fault::Suspicion | Fault::MixedVersions => some,
        Fault::Loss | Fault::Duplicate | Fault::Reorder | Fault::Delay | Fault::Stale | Fault::ClockJump | Fault::Drift => {
            if rng.chance(500_000) { ReplicaSet::first(replicas) } else { some }
        }
        _ => one,
    };
    let strength = rng.between(1, 100) as u32;
    Episode { fault, start: Duration::from_micros(start), lasts: Duration::from_micros(lasts), nodes, strength }
}

/// Runs of no more operations show each.
const OPERATIONS_SHOWN: usize = 40;

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { number, act, key, think, padding } = self;
        write!(f, "after {:>6} ms: {act:?} {number} of key {key}", think.as_millis())?;
        if *padding > 0 { write!(f, ", {padding} bytes long") } else { Ok(()) }
    }
}

impl fmt::Display for Schedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { strategy, replicas, ordering, tuning, .. } = self;
        write!(f, "{} of {replicas} replicas", strategy.traits.name)?;
        if self.spares > 0 {
            write!(f, " and {} that stand by", self.spares)?;
        }
        writeln!(f, ", {ordering:?} order, {} keys", self.keys)?;
        if let Some((prepare, accept, fast)) = self.sizes {
            writeln!(f, "  quorums of {prepare} in phase 1, {accept} in phase 2 and {fast} in a fast round")?;
        }
        writeln!(f, "  election {:?}, heartbeat {:?}, healed at {:?}", tuning.election, tuning.heartbeat, self.healed)?;
        if self.late {
            writeln!(f, "  messages wait for restarts")?;
        }
        if tuning.session_ttl < SESSION_TTL {
            writeln!(f, "  sessions end after {:?}", tuning.session_ttl)?;
        }
        for (index, client) in self.clients.iter().enumerate() {
            let kind = if client.session { "session" } else { "single shots" };
            let place = if client.moves { "moving" } else { "staying" };
            writeln!(f, "  client c{index} at {}, {place}, {kind}: {} operations", client.home, client.operations.len())?;
            if self.operations() <= OPERATIONS_SHOWN {
                client.operations.iter().try_for_each(|operation| writeln!(f, "    {operation}"))?;
            }
        }
        self.episodes.iter().try_for_each(|episode| writeln!(f, "  {episode}"))?;
        self.wishes.iter().try_for_each(|wish| writeln!(f, "  {wish}"))
    }
}
