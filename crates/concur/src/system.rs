//! The description of a replicated system, as plain data.

use crate::{Document, Finding, Invalid, Prediction, Security};
use concur_core::{QuorumRule, QuorumSystem, ReplicaId, ReplicaSet};
use concur_decision::DecisionMaking;
use concur_network::Volume;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

/// A replicated system. Write a literal that ends in `..System::default()`, or read one with [`System::from_toml`].
#[derive(Debug, Clone, PartialEq)]
pub struct System {
    /// How many replicas vote. It is the number of `members`, if they are listed; without a list that many are made.
    pub quorum_size: usize,
    /// How messages are sent.
    pub network: Network,
    /// Who is in, and how that changes.
    pub peer_management: PeerManagement,
    /// How replicas vote.
    pub decision_making: DecisionMaking,
    /// When a decision is final.
    pub execution: Execution,
    /// What the default namespace orders.
    pub order: Order,
    /// How many votes are enough.
    pub quorums: Quorums,
    /// The members; none: as many as `quorum_size`, named `n1`, `n2` and so on, on free ports of this machine.
    pub members: Vec<Member>,
    /// Where members can be, by name.
    pub regions: BTreeMap<String, Region>,
    /// Round trips between regions, for predictions.
    pub links: Vec<Link>,
    /// Namespaces beside the default one, each a group of its own.
    pub namespaces: Vec<Namespace>,
    /// The namespace that the etcd API serves; empty: the default one.
    pub etcd_namespace: String,
    /// Where members keep their data, each in a directory of its own name. Empty: a node of its own uses `NAME.concur`, and a whole
    /// cluster in one program a temporary directory that goes with it.
    pub data_dir: PathBuf,
    /// Tells clusters apart that have the same members.
    pub cluster_token: String,
    /// How long to wait.
    pub timeouts: Timeouts,
    /// How much to hold.
    pub limits: Limits,
    /// What the system must achieve; checked, not enforced.
    pub goals: Goals,
    /// Whether listeners beyond this machine may go without TLS.
    pub insecure: bool,
    /// How connections are encrypted, and whose are taken.
    pub security: Security,
}

/// How messages are sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Network {
    /// Over long-lived streams between processes.
    Stream {
        /// What the streams are made of.
        protocol: Transport,
        /// To whom a quorum's messages go.
        volume: Volume,
    },
    /// Within this program, without sockets.
    InProcess,
}

/// What streams between processes are made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// gRPC over HTTP/2.
    Grpc,
}

/// Who is in, and how that changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PeerManagement {
    /// Those that are listed, for good.
    Static,
    /// Those that are listed at first; members and strategy may be changed while the system runs.
    Dynamic,
}

/// When a decision is final.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Execution {
    /// The reply comes once the command was executed.
    OnCommit,
}

/// What a namespace orders.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// All commands: each write takes the next revision of the whole namespace.
    Total,
    /// Commands that touch the same key: each key has versions of its own.
    PerKey,
}

/// How fresh reads are, unless they say so themselves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Level {
    /// Linearizable.
    Strong,
    /// Some committed state, at once.
    Eventual,
}

/// How many votes are enough.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Quorums {
    /// What the strategy asks for: majorities, by weight where members have weights.
    Majority,
    /// So many, a phase.
    Counts {
        /// To elect or recover, and to serve strong reads.
        prepare: usize,
        /// To write.
        accept: usize,
        /// To write in one fast round, where the strategy has those.
        fast: usize,
    },
}

/// A member.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Its name; unique.
    pub name: String,
    /// The region it is in, or empty.
    pub region: String,
    /// Where its peers reach it: `host:port`, or with `https://` before it by TLS.
    pub peer: String,
    /// Where clients reach it, in the same form.
    pub client: String,
    /// How much its vote weighs.
    pub weight: u64,
}

/// A place that fails as one.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Region {
    /// Whose law holds there, or empty.
    pub jurisdiction: String,
}

/// The round trip between two regions, or within one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// The two regions.
    pub between: (String, String),
    /// There and back.
    pub round_trip: Duration,
}

/// A namespace beside the default one, with a group of its own.
#[derive(Debug, Clone, PartialEq)]
pub struct Namespace {
    /// Its name; unique.
    pub name: String,
    /// How its replicas vote; nothing: as the system's.
    pub decision_making: Option<DecisionMaking>,
    /// What it orders.
    pub order: Order,
    /// Which members vote in it; none: all.
    pub members: Vec<String>,
    /// How fresh reads are that do not say.
    pub reads: Level,
    /// The jurisdiction that its data must not leave, or empty.
    pub jurisdiction: String,
}

/// How long to wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timeouts {
    /// How often an idle leader or coordinator shows that it lives.
    pub heartbeat: Duration,
    /// How long silence lasts before somebody takes over; members draw from one to two of these.
    pub election: Duration,
    /// How long a request may take that names no deadline.
    pub request: Duration,
    /// How long a stopping node may take to hand over and to finish what it began.
    pub stop: Duration,
}

/// How much to hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// The largest request.
    pub request_bytes_max: usize,
    /// The largest batch.
    pub batch_bytes_max: usize,
    /// How many batches of one member may be undecided.
    pub batches_in_flight_max: usize,
    /// How many commands may wait at one member; more are refused.
    pub pending_commands_max: usize,
    /// How many bytes of decided commands are kept for members that lag.
    pub retained_bytes_max: usize,
    /// How large the store of one namespace may become.
    pub quota_bytes: u64,
    /// How much the log grows before it is shortened.
    pub checkpoint_bytes: u64,
}

/// What the system must achieve.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Goals {
    /// A write must be answered within this, from every region.
    pub write_latency: Option<Duration>,
    /// So many whole regions may be lost.
    pub regions_lost: usize,
}

/// What [`System::validate`] found in a valid system.
#[derive(Debug, Clone, PartialEq)]
pub struct Report {
    /// What is allowed and probably not meant.
    pub warnings: Vec<Finding>,
    /// What to expect of it.
    pub prediction: Prediction,
}

impl Default for System {
    fn default() -> Self {
        Self {
            quorum_size: 3,
            network: Network::Stream { protocol: Transport::Grpc, volume: Volume::Broadcast },
            peer_management: PeerManagement::Dynamic,
            decision_making: concur_decision::registry()[0].into(),
            execution: Execution::OnCommit,
            order: Order::Total,
            quorums: Quorums::Majority,
            members: Vec::new(),
            regions: BTreeMap::new(),
            links: Vec::new(),
            namespaces: Vec::new(),
            etcd_namespace: String::new(),
            data_dir: PathBuf::new(),
            cluster_token: String::from("concur"),
            timeouts: Timeouts::default(),
            limits: Limits::default(),
            goals: Goals::default(),
            insecure: false,
            security: Security::default(),
        }
    }
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            heartbeat: Duration::from_millis(100),
            election: Duration::from_millis(1000),
            request: Duration::from_secs(7),
            stop: Duration::from_secs(5),
        }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            request_bytes_max: 3 << 19, // 1.5 MiB, as etcd.
            batch_bytes_max: 1 << 20,
            batches_in_flight_max: 1,
            pending_commands_max: 16_384,
            retained_bytes_max: 8 << 20,
            quota_bytes: 2 << 30,
            checkpoint_bytes: 32 << 20,
        }
    }
}

impl Member {
    /// A member in no region, of weight 1.
    pub fn new(name: impl Into<String>, peer: impl Into<String>, client: impl Into<String>) -> Self {
        Self { name: name.into(), region: String::new(), peer: peer.into(), client: client.into(), weight: 1 }
    }
}

impl Namespace {
    /// A namespace in which all members vote, as in the default one.
    pub fn new(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            decision_making: None,
            order: Order::Total,
            members: Vec::new(),
            reads: Level::Strong,
            jurisdiction: String::new(),
        }
    }
}

impl System {
    /// Reads a system; refuses what [`System::validate`] refuses.
    pub fn from_toml(text: &str) -> Result<Self, Invalid> {
        Document::read(text).into_system()
    }

    /// Looks for everything that is wrong, and says what to expect of what is right.
    pub fn validate(&self) -> Result<Report, Invalid> {
        let findings = crate::check::check(self);
        if findings.iter().any(Finding::is_error) {
            return Err(Invalid { findings });
        }
        Ok(Report { warnings: findings, prediction: self.predict() })
    }

    /// What to expect: latencies where round trips are given, and the losses survived.
    pub fn predict(&self) -> Prediction {
        crate::predict::predict(self)
    }

    /// The members in the order that numbers them: by name. Without a list, those that would be made, without addresses.
    pub fn numbered_members(&self) -> Vec<Member> {
        let mut members = self.members.clone();
        if members.is_empty() {
            members = (1..=self.quorum_size).map(|n| Member::new(format!("n{n}"), "", "")).collect();
        }
        members.sort_by(|a, b| natural(&a.name).cmp(&natural(&b.name)));
        members
    }

    /// The quorums of the default namespace.
    pub fn quorum_system(&self) -> QuorumSystem {
        self.quorums_of(self.decision_making, ReplicaSet::first(self.numbered_members().len().min(concur_core::REPLICAS_MAX)))
    }

    /// The quorums of a namespace.
    pub fn namespace_quorums(&self, namespace: &Namespace) -> QuorumSystem {
        let members = self.numbered_members();
        let votes = |m: &Member| namespace.members.is_empty() || namespace.members.contains(&m.name);
        let members = members.iter().enumerate().take(concur_core::REPLICAS_MAX);
        let voters = members.filter(|(_, m)| votes(m)).map(|(i, _)| ReplicaId(i as u8)).collect();
        let decision_making = namespace.decision_making.unwrap_or(self.decision_making);
        let own = System { quorums: Quorums::Majority, ..self.clone() };
        if namespace.members.is_empty() && namespace.decision_making.is_none_or(|d| d == self.decision_making) {
            return self.quorums_of(decision_making, voters);
        }
        own.quorums_of(decision_making, voters)
    }

    fn quorums_of(&self, decision_making: DecisionMaking, voters: ReplicaSet) -> QuorumSystem {
        let weights: Vec<u64> = self.numbered_members().iter().map(|m| m.weight).collect();
        match self.quorums {
            Quorums::Counts { prepare, accept, fast } => QuorumSystem { voters, rule: QuorumRule::Counts { prepare, accept, fast } },
            Quorums::Majority if weights.iter().any(|&w| w != 1) => QuorumSystem { voters, rule: QuorumRule::Weighted { weights } },
            Quorums::Majority => (decision_making.0.quorums)(voters),
        }
    }
}

/// `n2` before `n10`: the name cut into text and the number behind it.
fn natural(name: &str) -> (&str, u64, &str) {
    let text = name.trim_end_matches(|c: char| c.is_ascii_digit());
    (text, name[text.len()..].parse().unwrap_or(0), name)
}
