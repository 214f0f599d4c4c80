//! One epoch's members, weights, quorums and strategy.

use concur_core::{
    Epoch, Malformed, QuorumRule, QuorumSystem, REPLICAS_MAX, Reader, ReplicaId, ReplicaSet, Strategy, Wire, wire_enum, wire_struct,
};

/// The longest name, address, region or strategy, in bytes.
pub(crate) const TEXT_BYTES_MAX: usize = 1024;
/// No epoch has such a number, and no term: what says so is malformed.
const COUNTED_MAX: u64 = 1 << 62;

/// Who is in one epoch of a group, and by which strategy it decides.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Configuration {
    /// The epoch.
    pub epoch: Epoch,
    /// The protocol's name in the registry.
    pub strategy: String,
    /// The members, by number.
    pub members: Vec<Member>,
    /// Sizes of quorums that the user chose: phase 1, phase 2, a fast round. `None`: those of the strategy.
    pub counts: Option<(u64, u64, u64)>,
    /// Who leads at first, where somebody does.
    pub first: Option<ReplicaId>,
    /// Terms of earlier epochs are at most this, as far as whoever sealed the last one knew: what clients are shown never falls.
    pub term_base: u64,
    /// The number given last. Numbers are not given again soon, so that nobody is taken for somebody who just left.
    pub last_id: u64,
}

/// One member.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Member {
    /// Its number.
    pub id: ReplicaId,
    /// Its name, unique in the configuration.
    pub name: String,
    /// What it does.
    pub role: Role,
    /// The weight of its vote.
    pub weight: u64,
    /// The life of its disk in which it votes; 0 if the first that shows itself does. A disk that was lost or restored has another,
    /// and does not vote.
    pub incarnation: u64,
    /// Where peers reach it.
    pub peer: String,
    /// Where clients reach it, or empty.
    pub client: String,
    /// Its region, or empty.
    pub region: String,
}

/// What a member does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Role {
    /// Votes.
    #[default]
    Voter,
    /// Follows, serves reads and forwards writes; does not vote.
    Observer,
    /// An observer that is made a voter as soon as it is close behind; it takes the place of another, if one is named.
    Promised {
        /// Who leaves in the same change.
        replaces: Option<ReplicaId>,
    },
}

impl Role {
    /// Whether it votes.
    pub fn votes(self) -> bool {
        self == Self::Voter
    }

    /// In a word: `voter`, `observer`, `joining`.
    pub fn word(self) -> &'static str {
        match self {
            Self::Voter => "voter",
            Self::Observer => "observer",
            Self::Promised { .. } => "joining",
        }
    }
}

impl Configuration {
    /// The first configuration of a group: these voters, numbered as listed.
    pub fn genesis(strategy: &str, members: Vec<Member>) -> Self {
        let last_id = members.iter().map(|member| u64::from(member.id.0)).max().unwrap_or(0);
        Self { strategy: strategy.into(), members, last_id, ..Self::default() }
    }

    /// A configuration that says no more than who votes.
    pub fn of_voters(epoch: Epoch, strategy: &str, voters: ReplicaSet) -> Self {
        let member = |id: ReplicaId| Member { id, name: format!("n{}", id.0 + 1), weight: 1, ..Member::default() };
        Self { epoch, ..Self::genesis(strategy, voters.iter().map(member).collect()) }
    }

    /// The member with this number.
    pub fn member(&self, id: ReplicaId) -> Option<&Member> {
        self.members.iter().find(|member| member.id == id)
    }

    /// The member with this name.
    pub fn named(&self, name: &str) -> Option<&Member> {
        self.members.iter().find(|member| member.name == name)
    }

    /// Everybody.
    pub fn everyone(&self) -> ReplicaSet {
        self.members.iter().map(|member| member.id).collect()
    }

    /// Who votes.
    pub fn voters(&self) -> ReplicaSet {
        self.members.iter().filter(|member| member.role.votes()).map(|member| member.id).collect()
    }

    /// Whether `id` votes in the life `incarnation` of its disk. A life that the configuration does not know has forgotten what it
    /// promised.
    pub fn may_vote(&self, id: ReplicaId, incarnation: u64) -> bool {
        let may = |member: &Member| member.role.votes() && (member.incarnation == 0 || member.incarnation == incarnation);
        self.member(id).is_some_and(may)
    }

    /// The quorums among its voters: those that were chosen, weighted ones where weights differ, or the strategy's own.
    pub fn quorums(&self, strategy: &Strategy) -> QuorumSystem {
        let voters = self.voters();
        if let Some((prepare, accept, fast)) = self.counts {
            let [prepare, accept, fast] = [prepare, accept, fast].map(|count| usize::try_from(count).unwrap_or(usize::MAX));
            return QuorumSystem { voters, rule: QuorumRule::Counts { prepare, accept, fast } };
        }
        if !self.is_weighted() {
            return (strategy.quorums)(voters);
        }
        let mut weights = vec![0; REPLICAS_MAX];
        for member in self.members.iter().filter(|member| member.role.votes()) {
            weights[usize::from(member.id.0)] = member.weight;
        }
        QuorumSystem { voters, rule: QuorumRule::Weighted { weights } }
    }

    /// Whether votes differ in weight.
    pub fn is_weighted(&self) -> bool {
        self.differ_in_weight(Role::votes)
    }

    /// Whether they differ once those vote to whom it is promised.
    pub(crate) fn will_be_weighted(&self) -> bool {
        self.differ_in_weight(|role| role != Role::Observer)
    }

    fn differ_in_weight(&self, counts: impl Fn(Role) -> bool) -> bool {
        let mut members = self.members.iter().filter(|member| counts(member.role));
        let first = members.next().map_or(1, |member| member.weight);
        members.any(|member| member.weight != first)
    }
}

impl Wire for Configuration {
    fn put(&self, out: &mut Vec<u8>) {
        let Self { epoch, strategy, members, counts, first, term_base, last_id } = self;
        epoch.put(out);
        strategy.put(out);
        members.put(out);
        counts.put(out);
        first.put(out);
        term_base.put(out);
        last_id.put(out);
    }

    fn get(r: &mut Reader) -> Result<Self, Malformed> {
        let this = Self {
            epoch: Wire::get(r)?,
            strategy: Wire::get(r)?,
            members: Wire::get(r)?,
            counts: Wire::get(r)?,
            first: Wire::get(r)?,
            term_base: Wire::get(r)?,
            last_id: Wire::get(r)?,
        };
        let short = |text: &String| text.len() <= TEXT_BYTES_MAX;
        let is_sound = |m: &Member| [&m.name, &m.peer, &m.client, &m.region].into_iter().all(short);
        let counted = this.epoch.0.max(this.term_base) < COUNTED_MAX;
        let sound = counted && this.members.is_sorted_by(|a, b| a.id < b.id) && this.members.iter().all(is_sound) && short(&this.strategy);
        if sound { Ok(this) } else { Err(Malformed { what: "configuration" }) }
    }
}

wire_struct!(Member { id, name, role, weight, incarnation, peer, client, region });
wire_enum!(Role { 0 => Voter, 1 => Observer, 2 => Promised { replaces } });
