//! What an operator is going to want while clients run: a list of wishes, drawn from the seed, each standing for itself.
//!
//! A wish says what kind of change is wanted, not of whom: who is in by then is known only when its time has come. So a wish means
//! something whatever became of those before it, and a run that fails can be made smaller by leaving wishes out.

use crate::fault::Fault;
use concur_core::Rng;
use std::fmt;
use std::time::Duration;

/// One change that is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wish {
    /// From when on, since the start of the run.
    pub at: Duration,
    /// Only once the wish before it is granted, or given up.
    pub waits: bool,
    /// What.
    pub kind: Kind,
    /// Which of those that it may be about, counted round.
    pub pick: u32,
    /// Who is asked for it.
    pub asked: Asked,
}

/// What kind of change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// A machine comes in and is to vote.
    AddVoter,
    /// A machine comes in and observes.
    AddObserver,
    /// A voter leaves.
    Remove,
    /// Whoever leads leaves.
    RemoveLeader,
    /// An observer leaves.
    RemoveObserver,
    /// A machine takes a voter's place.
    Replace,
    /// An observer votes from then on.
    Promote,
    /// A voter is made one that is promised a vote.
    Rebuild,
    /// A vote weighs more, or again what the others weigh.
    Weigh,
    /// A voter leads.
    Lead,
    /// The group decides by another strategy.
    Switch,
    /// A member is reached elsewhere.
    Move,
}

/// Who is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Asked {
    /// A member, by its place.
    Member(u32),
    /// Whom the change is about, if it is in.
    Itself,
    /// Whoever leads.
    Leader,
    /// Any machine, even one that was removed or is not in yet.
    Anybody(u32),
}

/// The most voters that a group grows to.
pub(crate) const VOTERS_MAX: usize = 7;
/// How many machines there are at most.
pub(crate) const MACHINES_MAX: usize = 10;

/// What is wanted in a run, and how many machines stand by.
#[derive(Debug, Default)]
pub(crate) struct Plan {
    pub(crate) wishes: Vec<Wish>,
    pub(crate) spares: usize,
}

impl Plan {
    /// Draws the wishes of a run in which these kinds of trouble may strike; `whole` is the time until everything is healed.
    pub(crate) fn draw(rng: &mut Rng, faults: &[Fault], replicas: usize, whole: Duration) -> Self {
        let kinds = kinds(faults);
        if kinds.is_empty() {
            return Self::default();
        }
        let mut wishes = match rng.below(10) {
            0 | 1 if faults.contains(&Fault::Change) => grow_and_shrink(rng, replicas, whole),
            0..=3 => series(rng, &kinds, whole),
            _ => scattered(rng, &kinds, whole),
        };
        complete(rng, faults, whole, &mut wishes);
        wishes.sort_by_key(|wish| wish.at);
        let comes = wishes.iter().filter(|wish| matches!(wish.kind, Kind::AddVoter | Kind::AddObserver | Kind::Replace)).count();
        Self { spares: comes.min(5).min(MACHINES_MAX - replicas), wishes }
    }

    /// Wishes take their time: the run is made longer by it, and its answer is until when.
    pub(crate) fn prolong(&mut self, whole: Duration) -> Duration {
        let eighths = 8 + self.wishes.len() as u32;
        for wish in &mut self.wishes {
            wish.at = wish.at * eighths / 8;
        }
        whole * eighths / 8
    }
}

/// The kinds that these faults let be wanted, the likelier ones more than once.
fn kinds(faults: &[Fault]) -> Vec<Kind> {
    use Kind::{AddObserver, AddVoter, Lead, Move, Promote, Rebuild, Remove, RemoveLeader, RemoveObserver, Replace, Switch, Weigh};
    let mut kinds = Vec::new();
    if faults.contains(&Fault::Change) {
        kinds.extend([AddVoter, AddVoter, AddVoter, Remove, Remove, RemoveLeader, Replace, Replace]);
        kinds.extend([Promote, Rebuild, Weigh, Weigh, Lead, Lead, Move]);
    }
    if faults.contains(&Fault::Observer) {
        kinds.extend([AddObserver, AddObserver, RemoveObserver]);
    }
    if faults.contains(&Fault::Switch) {
        kinds.extend([Switch, Switch, Switch]);
    }
    kinds
}

/// One after the other comes in, up to seven voters; then one after the other leaves.
fn grow_and_shrink(rng: &mut Rng, replicas: usize, whole: Duration) -> Vec<Wish> {
    let start = whole / 20;
    let left = rng.between(1, 3) as usize;
    let comes = (replicas..VOTERS_MAX).map(|_| Kind::AddVoter);
    let goes: Vec<Kind> = (left..VOTERS_MAX).map(|_| if rng.chance(300_000) { Kind::RemoveLeader } else { Kind::Remove }).collect();
    comes.chain(goes).enumerate().map(|(place, kind)| Wish { at: start, waits: place > 0, ..wish(rng, kind) }).collect()
}

/// One after the other, each as soon as the last is granted.
fn series(rng: &mut Rng, all: &[Kind], whole: Duration) -> Vec<Wish> {
    let count = rng.between(3, 8);
    let start = whole / 20;
    (0..count).map(|place| Wish { at: start, waits: place > 0, ..any(rng, all) }).collect()
}

/// Now and then, often two at once.
fn scattered(rng: &mut Rng, all: &[Kind], whole: Duration) -> Vec<Wish> {
    let mut wishes: Vec<Wish> = Vec::new();
    for _ in 0..rng.between(2, 7) {
        let together = wishes.last().map(|last| last.at).filter(|_| rng.chance(300_000));
        let at = Duration::from_micros(rng.between(whole.as_micros() as u64 / 20, whole.as_micros() as u64 * 9 / 10));
        wishes.push(Wish { at: together.unwrap_or(at), ..any(rng, all) });
    }
    wishes
}

/// In every run somebody is wanted in or out, and another strategy is, if both may be.
fn complete(rng: &mut Rng, faults: &[Fault], whole: Duration, wishes: &mut Vec<Wish>) {
    let is_change = |wish: &Wish| !matches!(wish.kind, Kind::Switch | Kind::AddObserver | Kind::RemoveObserver);
    let changes = (Fault::Change, [Kind::AddVoter, Kind::Remove, Kind::RemoveLeader, Kind::Replace], wishes.iter().any(is_change));
    let switches = (Fault::Switch, [Kind::Switch; 4], wishes.iter().any(|wish| wish.kind == Kind::Switch));
    for (fault, kinds, is_there) in [changes, switches] {
        if faults.contains(&fault) && !is_there {
            let at = Duration::from_micros(rng.between(whole.as_micros() as u64 / 5, whole.as_micros() as u64 * 9 / 10));
            wishes.push(Wish { at, ..any(rng, &kinds) });
        }
    }
}

fn any(rng: &mut Rng, kinds: &[Kind]) -> Wish {
    let kind = kinds[rng.below(kinds.len() as u64) as usize];
    wish(rng, kind)
}

fn wish(rng: &mut Rng, kind: Kind) -> Wish {
    let pick = rng.below(1 << 16) as u32;
    let asked = match rng.below(10) {
        0 | 1 => Asked::Itself,
        2 | 3 => Asked::Leader,
        4 => Asked::Anybody(pick / 7),
        _ => Asked::Member(pick / 5),
    };
    Wish { at: Duration::ZERO, waits: false, kind, pick, asked }
}

impl fmt::Display for Wish {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { at, waits, kind, pick, asked } = self;
        let when = if *waits { "then" } else { "from" };
        write!(f, "wish: {when} {:>6} ms {kind:?} {pick}, asked of {asked:?}", at.as_millis())
    }
}
