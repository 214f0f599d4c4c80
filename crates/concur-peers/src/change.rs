//! What can be asked to change, and why it may not.

use crate::configuration::TEXT_BYTES_MAX;
use crate::{Configuration, Member, Role};
use concur_core::{Epoch, Family, Phase, QuorumRule, REPLICAS_MAX, ReplicaId, ReplicaSet, Strategy, wire_enum, wire_struct};

/// One step from a configuration to the next.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Change {
    /// Somebody comes in, as an observer; `votes`: and becomes a voter as soon as it is close behind.
    Add {
        /// Who.
        newcomer: Newcomer,
        /// Whether it is to vote.
        votes: bool,
    },
    /// A member leaves.
    Remove {
        /// Who.
        id: ReplicaId,
    },
    /// An observer votes from now on, in this life of its disk.
    Promote {
        /// Who.
        id: ReplicaId,
        /// The life of its disk; it names itself to those whom it follows.
        incarnation: u64,
    },
    /// A voter becomes an observer that is promoted as soon as it is close behind, in whatever life of its disk it comes: one whose
    /// disk was lost is rebuilt so, and one that is away pins nothing.
    Rebuild {
        /// Who.
        id: ReplicaId,
    },
    /// Somebody comes in and takes the place of a member as soon as it is close behind.
    Replace {
        /// Who leaves.
        id: ReplicaId,
        /// Who comes.
        newcomer: Newcomer,
    },
    /// A vote weighs so much from now on.
    Weigh {
        /// Whose.
        id: ReplicaId,
        /// How much.
        weight: u64,
    },
    /// A voter leads the next epoch at first.
    Lead {
        /// Who.
        id: ReplicaId,
    },
    /// The group decides by another strategy.
    Switch {
        /// Its name in the registry.
        strategy: String,
    },
    /// A member is reached elsewhere.
    Move {
        /// Who.
        id: ReplicaId,
        /// Where peers reach it.
        peer: String,
        /// Where clients reach it, or empty.
        client: String,
    },
}

/// Who comes in.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Newcomer {
    /// Its name.
    pub name: String,
    /// Where peers reach it.
    pub peer: String,
    /// Where clients reach it, or empty.
    pub client: String,
    /// Its region, or empty.
    pub region: String,
}

/// Why a change is refused. Nothing was done.
#[derive(Debug, Clone, PartialEq, Eq, Hash, thiserror::Error)]
pub enum ChangeError {
    /// The configuration names nobody like that.
    #[error("there is no member {who}; `concur members` lists who is in")]
    NoMember {
        /// Who was named.
        who: String,
    },
    /// The name is taken.
    #[error("there is a member named {name} already; choose another name, or `concur member replace {name}` if its disk was lost")]
    NameTaken {
        /// The name.
        name: String,
    },
    /// The address is taken.
    #[error("the peer address {address} is {name}'s; two members cannot be reached at one address")]
    AddressTaken {
        /// The address.
        address: String,
        /// Whose it is.
        name: String,
    },
    /// A name or address that nobody can have.
    #[error("{what} is empty or too long; {TEXT_BYTES_MAX} bytes are the most")]
    BadText {
        /// What was given.
        what: String,
    },
    /// There are as many members as can be numbered.
    #[error("there are {REPLICAS_MAX} members, and no more can be numbered; remove one first")]
    Full,
    /// The change would leave nobody to vote.
    #[error("{name} is the only voter: without it nobody could decide anything; add another voter first")]
    LastVoter {
        /// Who.
        name: String,
    },
    /// It is what it is already.
    #[error("nothing would change: {what}")]
    Same {
        /// What is so already.
        what: String,
    },
    /// It does not vote, and must.
    #[error("{name} does not vote; promote it first")]
    NoVoter {
        /// Who.
        name: String,
    },
    /// The life of its disk is not known here.
    #[error("{name} has not shown itself yet, so nobody knows which disk it votes with; start it, and promote it once it follows")]
    NotSeen {
        /// Who.
        name: String,
    },
    /// No protocol has that name.
    #[error("there is no strategy `{strategy}`; `concur strategies` lists them")]
    NoStrategy {
        /// The name.
        strategy: String,
    },
    /// The strategy counts every vote as one.
    #[error("{strategy} counts every vote as one, and the members' weights differ; its quorums are proved for equal votes")]
    Weights {
        /// The strategy.
        strategy: String,
    },
    /// A weight that is no weight.
    #[error("a weight lies between 1 and {}; {weight} does not", u32::MAX)]
    BadWeight {
        /// The weight.
        weight: u64,
    },
    /// Nobody leads by that strategy.
    #[error("{strategy} has no leader that could be moved")]
    NoLeader {
        /// The strategy.
        strategy: String,
    },
    /// The sizes of quorums that were chosen do not fit the next voters.
    #[error("the quorum sizes that were chosen for {voters} voters do not fit: {why}; the change would need other sizes")]
    Sizes {
        /// How many voters there would be.
        voters: u64,
        /// What is wrong.
        why: String,
    },
    /// Too few of the next voters are there and close behind.
    #[error(
        "the next voters could not form a quorum: of {voters}, only {close} can be reached and are close behind; start the missing ones or \
         wait until they have caught up"
    )]
    NoQuorum {
        /// Who would vote.
        voters: String,
        /// Who of them is there.
        close: String,
    },
    /// It lags.
    #[error("{name} is not close behind yet ({lag} decisions); wait until it has caught up")]
    Behind {
        /// Who.
        name: String,
        /// By how many decisions, or how many are known.
        lag: u64,
    },
    /// Another change is under way.
    #[error("another change is under way: {what}; one happens at a time, so ask again when it is done")]
    UnderWay {
        /// What.
        what: String,
    },
    /// Another change was decided first.
    #[error("another change came first: the group is in epoch {} now; look at it and ask again", epoch.0)]
    Superseded {
        /// The epoch that it led to.
        epoch: Epoch,
    },
    /// The system says that its members do not change.
    #[error("this system's members are static; `peer_management = \"dynamic\"` in its configuration lets them change")]
    Static,
    /// It has to be asked of a member that votes.
    #[error("this member has no vote, or none yet; ask one that votes")]
    NotIn,
}

/// How a change ended.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// It was decided; this is the configuration that it led to.
    Done(Configuration),
    /// It was refused, and nothing was done.
    Refused(ChangeError),
}

fn is_weight(weight: u64) -> bool {
    (1..=u64::from(u32::MAX)).contains(&weight)
}

impl Configuration {
    /// The configuration that follows this one by `change`. `strategy` finds one by name.
    pub fn next(&self, change: &Change, strategy: impl Fn(&str) -> Option<Strategy>) -> Result<Configuration, ChangeError> {
        let mut next = self.clone();
        // Who led first in this epoch may lead no more: unless the change says it, whoever proposes it knows better.
        (next.epoch, next.first) = (Epoch(self.epoch.0 + 1), None);
        match change {
            Change::Add { newcomer, votes } => {
                let role = if *votes { Role::Promised { replaces: None } } else { Role::Observer };
                next.admit(newcomer, role)?;
            }
            Change::Replace { id, newcomer } => {
                let role = self.known(*id)?.role;
                // Who takes an observer's place observes.
                let role = if role == Role::Observer { Role::Observer } else { Role::Promised { replaces: Some(*id) } };
                if role == Role::Observer {
                    next.members.retain(|member| member.id != *id);
                }
                next.admit(newcomer, role)?;
            }
            Change::Remove { id } => {
                let name = self.known(*id)?.name.clone();
                next.members.retain(|member| member.id != *id);
                if next.voters().is_empty() {
                    return Err(ChangeError::LastVoter { name });
                }
                next.forget_replaced(*id);
            }
            Change::Promote { id, incarnation } => next.promote(*id, *incarnation)?,
            Change::Rebuild { id } => {
                let name = self.known(*id)?.name.clone();
                let member = next.known_mut(*id)?;
                (member.role, member.incarnation) = (Role::Promised { replaces: None }, 0);
                if next.voters().is_empty() {
                    return Err(ChangeError::LastVoter { name });
                }
            }
            Change::Weigh { id, weight } => {
                if !is_weight(*weight) {
                    return Err(ChangeError::BadWeight { weight: *weight });
                }
                let member = next.known_mut(*id)?;
                if member.weight == *weight {
                    return Err(ChangeError::Same { what: format!("the vote of {} weighs {weight}", member.name) });
                }
                member.weight = *weight;
            }
            Change::Lead { id } => {
                let member = self.known(*id)?;
                if !member.role.votes() {
                    return Err(ChangeError::NoVoter { name: member.name.clone() });
                }
                next.first = Some(*id);
            }
            Change::Switch { strategy: name } if *name == self.strategy => {
                return Err(ChangeError::Same { what: format!("the strategy is {name}") });
            }
            Change::Switch { strategy: name } => {
                next.strategy.clone_from(name);
                next.counts = None;
            }
            Change::Move { id, peer, client } => {
                check_text("the peer address", peer)?;
                next.check_address(peer, Some(*id))?;
                let member = next.known_mut(*id)?;
                (member.peer, member.client) = (peer.clone(), client.clone());
            }
        }
        next.check(change, strategy)
    }

    /// What the next configuration must be like, whatever changed.
    fn check(mut self, change: &Change, strategy: impl Fn(&str) -> Option<Strategy>) -> Result<Configuration, ChangeError> {
        let missing = || ChangeError::NoStrategy { strategy: self.strategy.clone() };
        let strategy = strategy(&self.strategy).ok_or_else(missing)?;
        let traits = strategy.traits;
        self.fits(&strategy)?;
        if matches!(change, Change::Lead { .. }) && !traits.has_leader {
            return Err(ChangeError::NoLeader { strategy: traits.title.into() });
        }
        // Who leads must vote.
        let voters = self.voters();
        self.first = self.first.filter(|&first| traits.has_leader && voters.contains(first));
        Ok(self)
    }

    /// Whether its voters can decide by `strategy` at all; why not.
    pub fn fits(&self, strategy: &Strategy) -> Result<(), ChangeError> {
        let (traits, voters) = (strategy.traits, self.voters());
        if voters.is_empty() {
            return Err(ChangeError::LastVoter { name: self.members.first().map_or_else(String::new, |member| member.name.clone()) });
        }
        if let Some(member) = self.members.iter().find(|member| !is_weight(member.weight)) {
            return Err(ChangeError::BadWeight { weight: member.weight });
        }
        if self.will_be_weighted() && !traits.has_leader {
            return Err(ChangeError::Weights { strategy: traits.title.into() });
        }
        self.sizes_fit(strategy)?;
        // What is promised has to be kept later, and nobody asks again by then.
        self.with_promises_kept().sizes_fit(strategy)
    }

    /// Whether the sizes of quorums that were chosen, if any were, fit those who vote.
    fn sizes_fit(&self, strategy: &Strategy) -> Result<(), ChangeError> {
        let Some((prepare, accept, fast)) = self.counts else { return Ok(()) };
        let (quorums, voters) = (self.quorums(strategy), self.voters().len());
        let too_large = [Phase::Prepare, Phase::Accept].into_iter().any(|phase| quorums.size(phase) > voters);
        // All but Classic Paxos take a quorum's promises for proof that nobody else has one, as `validate` says too (C020).
        let others: &[Phase] = if strategy.traits.family == Family::Classic { &[Phase::Accept] } else { &[Phase::Prepare, Phase::Accept] };
        let apart = others.iter().find_map(|&phase| quorums.disjoint(Phase::Prepare, phase));
        let own = (strategy.quorums)(self.voters()).rule;
        let why = match (apart, own) {
            _ if self.will_be_weighted() => "they count every vote as one, and the members' weights differ".into(),
            (Some((a, b)), _) => format!("{a:?} and {b:?} would never meet"),
            _ if too_large => "a quorum would be larger than all voters together".into(),
            (_, QuorumRule::Counts { prepare: p, accept: a, fast: f }) if [p, a, f].map(|size| size as u64) != [prepare, accept, fast] => {
                format!("{} is proved for {p}, {a} and {f} alone", strategy.traits.title)
            }
            _ => return Ok(()),
        };
        Err(ChangeError::Sizes { voters: voters as u64, why })
    }

    /// This configuration once everybody votes to whom it is promised.
    fn with_promises_kept(&self) -> Self {
        let mut kept = self.clone();
        for id in self.everyone().iter() {
            let promised = kept.member(id).is_some_and(|member| matches!(member.role, Role::Promised { .. }));
            if promised {
                // Its own incarnation is only known by then; any is as good here.
                let _ = kept.promote(id, 1);
            }
        }
        kept
    }

    /// Whether this configuration, which is to follow, could not decide with those who are there and `close` behind.
    pub fn blocked(&self, strategy: &Strategy, close: ReplicaSet) -> Option<ChangeError> {
        let (quorums, close) = (self.quorums(strategy), close.intersection(self.voters()));
        let enough = quorums.is_quorum(Phase::Prepare, close) && quorums.is_quorum(Phase::Accept, close);
        let names = |set: ReplicaSet| {
            let names: Vec<&str> = self.members.iter().filter(|m| set.contains(m.id)).map(|m| m.name.as_str()).collect();
            if names.is_empty() { "none".into() } else { names.join(", ") }
        };
        (!enough).then(|| ChangeError::NoQuorum { voters: names(quorums.voters), close: names(close) })
    }

    fn known(&self, id: ReplicaId) -> Result<&Member, ChangeError> {
        self.member(id).ok_or_else(|| ChangeError::NoMember { who: id.to_string() })
    }

    fn known_mut(&mut self, id: ReplicaId) -> Result<&mut Member, ChangeError> {
        self.members.iter_mut().find(|member| member.id == id).ok_or_else(|| ChangeError::NoMember { who: id.to_string() })
    }

    /// The numbers that nobody has; those that were used longest ago come first.
    fn free_numbers(&self) -> impl DoubleEndedIterator<Item = ReplicaId> {
        let (taken, last) = (self.everyone(), self.last_id);
        let numbers = (1..=REPLICAS_MAX as u64).map(move |step| ReplicaId((last.wrapping_add(step) % REPLICAS_MAX as u64) as u8));
        numbers.filter(move |id| !taken.contains(*id))
    }

    /// A number for somebody who is not in: one that is given to nobody soon.
    pub fn number_of_a_stranger(&self) -> ReplicaId {
        self.free_numbers().next_back().unwrap_or(ReplicaId(REPLICAS_MAX as u8 - 1))
    }

    /// Takes a newcomer in under a number that was not used lately.
    fn admit(&mut self, newcomer: &Newcomer, role: Role) -> Result<(), ChangeError> {
        let Newcomer { name, peer, client, region } = newcomer.clone();
        check_text("the name", &name)?;
        check_text("the peer address", &peer)?;
        if client.len().max(region.len()) > TEXT_BYTES_MAX {
            return Err(ChangeError::BadText { what: "the client address or the region".into() });
        }
        if self.named(&name).is_some() {
            return Err(ChangeError::NameTaken { name });
        }
        self.check_address(&peer, None)?;
        let id = self.free_numbers().next().ok_or(ChangeError::Full)?;
        self.last_id = u64::from(id.0);
        self.members.push(Member { id, name, role, weight: 1, incarnation: 0, peer, client, region });
        self.members.sort_by_key(|member| member.id);
        Ok(())
    }

    fn promote(&mut self, id: ReplicaId, incarnation: u64) -> Result<(), ChangeError> {
        let member = self.known_mut(id)?;
        let replaces = match member.role {
            Role::Voter => return Err(ChangeError::Same { what: format!("{} votes", member.name) }),
            Role::Observer => None,
            Role::Promised { replaces } => replaces,
        };
        if incarnation == 0 {
            return Err(ChangeError::NotSeen { name: member.name.clone() });
        }
        (member.role, member.incarnation) = (Role::Voter, incarnation);
        if let Some(old) = replaces {
            self.members.retain(|member| member.id != old);
            self.forget_replaced(old);
        }
        Ok(())
    }

    /// Somebody left: nobody waits to take their place.
    fn forget_replaced(&mut self, id: ReplicaId) {
        for member in &mut self.members {
            if member.role == (Role::Promised { replaces: Some(id) }) {
                member.role = Role::Promised { replaces: None };
            }
        }
    }

    fn check_address(&self, peer: &str, but: Option<ReplicaId>) -> Result<(), ChangeError> {
        let taken = self.members.iter().find(|member| Some(member.id) != but && member.peer == peer);
        match taken {
            Some(member) => Err(ChangeError::AddressTaken { address: peer.into(), name: member.name.clone() }),
            None => Ok(()),
        }
    }
}

impl std::fmt::Display for Change {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Add { newcomer, votes: true } => write!(f, "add {}", newcomer.name),
            Self::Add { newcomer, votes: false } => write!(f, "add the observer {}", newcomer.name),
            Self::Remove { id } => write!(f, "remove {id}"),
            Self::Promote { id, .. } => write!(f, "promote {id}"),
            Self::Rebuild { id } => write!(f, "rebuild {id}"),
            Self::Replace { id, newcomer } => write!(f, "replace {id} by {}", newcomer.name),
            Self::Weigh { id, weight } => write!(f, "weigh {id} with {weight}"),
            Self::Lead { id } => write!(f, "let {id} lead"),
            Self::Switch { strategy } => write!(f, "switch to {strategy}"),
            Self::Move { id, peer, .. } => write!(f, "move {id} to {peer}"),
        }
    }
}

fn check_text(what: &str, text: &str) -> Result<(), ChangeError> {
    if text.is_empty() || text.len() > TEXT_BYTES_MAX { Err(ChangeError::BadText { what: what.into() }) } else { Ok(()) }
}

wire_struct!(Newcomer { name, peer, client, region });
wire_enum!(Change {
    0 => Add { newcomer, votes },
    1 => Remove { id },
    2 => Promote { id, incarnation },
    3 => Rebuild { id },
    4 => Replace { id, newcomer },
    5 => Weigh { id, weight },
    6 => Lead { id },
    7 => Switch { strategy },
    8 => Move { id, peer, client },
});
wire_enum!(Outcome { 0 => Done(configuration), 1 => Refused(error) });
wire_enum!(ChangeError {
    0 => NoMember { who },
    1 => NameTaken { name },
    2 => AddressTaken { address, name },
    3 => BadText { what },
    4 => Full,
    5 => LastVoter { name },
    6 => Same { what },
    7 => NoVoter { name },
    8 => NotSeen { name },
    9 => NoStrategy { strategy },
    10 => Weights { strategy },
    11 => BadWeight { weight },
    12 => NoLeader { strategy },
    13 => Sizes { voters, why },
    14 => NoQuorum { voters, close },
    15 => Behind { name, lag },
    16 => UnderWay { what },
    17 => Superseded { epoch },
    18 => NotIn,
    19 => Static,
});
