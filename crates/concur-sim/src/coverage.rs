//! What a sweep has met: in how many seeds each fault struck, and each transition was passed. A transition of the swept protocol is
//! one that was passed by that protocol, whatever other protocols of the run have of the same name.

use crate::fault::Fault;
use crate::schedule::takes_sizes;
use crate::world::Outcome;
use concur_core::Strategy;
use std::collections::BTreeMap;
use std::fmt;

/// In how many seeds each thing was met.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Coverage {
    /// How many seeds there were.
    pub seeds: u64,
    /// Everything that was met in at least one.
    pub met: BTreeMap<&'static str, u64>,
}

/// From this many seeds on a transition is to be met in [`TRANSITION_SEEDS`] of them.
const LARGE_SWEEP: u64 = 10_000;
const TRANSITION_SEEDS: u64 = 100;

/// A group began with sizes of quorums of its own.
pub(crate) const SIZES_CHOSEN: &str = "sizes of quorums chosen";

/// What every strategy passes through in a sweep with all faults: the replica's own transitions, and the world's.
const EVERYWHERE: &[(&str, Option<Fault>)] = &[
    ("torn tail at restart", Some(Fault::PowerLoss)),
    ("restarted from records", Some(Fault::Kill)),
    ("power lost between write and sync", Some(Fault::CrashAtWrite)),
    ("power lost between sync and send", Some(Fault::CrashAtSync)),
    ("sync failed", Some(Fault::FailedSync)),
    ("write failed", Some(Fault::ShortWrite)),
    ("log full", Some(Fault::FullDisk)),
    ("write refused: disk full", Some(Fault::FullDisk)),
    ("damage refused at restart", Some(Fault::FlippedByte)),
    ("damaged state refused at restart", Some(Fault::FlippedState)),
    ("message of another version refused", Some(Fault::MixedVersions)),
    ("lost write refused at restart", Some(Fault::LostWrite)),
    ("misdirected write refused at restart", Some(Fault::MisdirectedWrite)),
    (SIZES_CHOSEN, None),
    ("message waits for a restart", Some(Fault::Stale)),
    ("log checkpoint", None),
    ("state fetched", Some(Fault::PowerLoss)),
    ("state installed", Some(Fault::PowerLoss)),
    ("retried in a session", Some(Fault::Loss)),
    ("duplicate batch skipped", Some(Fault::Loss)),
    ("session lost", None),
    ("outcome unknown", Some(Fault::PowerLossAll)),
    ("seal executed", Some(Fault::Change)),
    ("seal executed from the feed", Some(Fault::Change)),
    ("seal voided", Some(Fault::Change)),
    ("batch voided by a seal", Some(Fault::Change)),
    ("read voided by a seal", Some(Fault::Change)),
    ("epoch entered", Some(Fault::Change)),
    ("epoch entered by state", Some(Fault::Change)),
    ("entered as first", Some(Fault::Change)),
    ("state of a later epoch installed", Some(Fault::Change)),
    ("fed", Some(Fault::Change)),
    ("feed gone", Some(Fault::Change)),
    ("promotion proposed", Some(Fault::Change)),
    ("change refused", Some(Fault::Change)),
    ("disk of another life does not vote", Some(Fault::LostDisk)),
    ("voter added", Some(Fault::Change)),
    ("promise kept", Some(Fault::Change)),
    ("newcomer to take another's place", Some(Fault::Change)),
    ("member replaced", Some(Fault::Change)),
    ("voter removed", Some(Fault::Change)),
    ("leader removed", Some(Fault::Change)),
    ("voter rebuilt", Some(Fault::Change)),
    ("vote weighed", Some(Fault::Change)),
    ("another made to lead", Some(Fault::Change)),
    ("member moved", Some(Fault::Change)),
    ("an even number of voters", Some(Fault::Change)),
    ("seven voters", Some(Fault::Change)),
    ("a single voter is left", Some(Fault::Change)),
    ("a removed machine stopped for good", Some(Fault::Change)),
    ("observer added", Some(Fault::Observer)),
    ("observer promoted", Some(Fault::Observer)),
    ("observer removed", Some(Fault::Observer)),
    ("strategy switched", Some(Fault::Switch)),
    ("strategy switched back", Some(Fault::Switch)),
    ("newcomer crashed in its transfer", Some(Fault::Change)),
    ("crashed between two epochs", Some(Fault::Change)),
    ("crashed while it followed", Some(Fault::Change)),
    ("disk lost by one that knew to those that did not", Some(Fault::LostDisk)),
    ("a lost disk votes again", Some(Fault::LostDisk)),
];

/// A line of the table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// What.
    pub name: &'static str,
    /// In how many seeds it was met.
    pub seeds: u64,
    /// In how many it has to be.
    pub least: u64,
}

impl Coverage {
    /// Counts one run.
    pub fn add(&mut self, outcome: &Outcome) {
        self.seeds += 1;
        for &name in &outcome.met {
            *self.met.entry(name).or_default() += 1;
        }
    }

    /// Counts what another part of the sweep met.
    pub fn join(&mut self, other: &Coverage) {
        self.seeds += other.seeds;
        for (&name, &seeds) in &other.met {
            *self.met.entry(name).or_default() += seeds;
        }
    }

    /// The table: every enabled fault, and every transition, with what was met of it and what has to be. Where the sweep is too
    /// small to say anything of something rare, nothing has to be.
    pub fn lines(&self, strategy: &Strategy, faults: &[Fault]) -> Vec<Line> {
        let seeds = |name| self.met.get(name).copied().unwrap_or(0);
        let enough = if self.seeds >= LARGE_SWEEP { TRANSITION_SEEDS } else { u64::from(self.seeds >= 1_000) };
        // A sweep of a few kinds of fault need not pass through what others bring about.
        let whole = Fault::ALL.iter().all(|fault| faults.contains(fault));
        let fault_least = if self.seeds >= 300 { (self.seeds / 100).max(1) } else { 0 };
        let of_faults = faults.iter().map(|fault| Line { name: fault.name(), seeds: seeds(fault.name()), least: fault_least });
        let mine = |name: &str, fault: Option<Fault>| {
            let may_be = name != SIZES_CHOSEN || takes_sizes(strategy);
            may_be && fault.is_none_or(|fault| faults.contains(&fault)) && !strategy.traits.transitions.contains(&name)
        };
        let of_world = EVERYWHERE.iter().filter(|&&(name, fault)| mine(name, fault));
        let of_world = of_world.map(|&(name, _)| Line { name, seeds: seeds(name), least: if whole { enough } else { 0 } });
        let transitions = strategy.traits.transitions.iter();
        let of_protocol = transitions.map(|&name| Line { name, seeds: seeds(name), least: if whole { enough } else { 0 } });
        of_faults.chain(of_world).chain(of_protocol).collect()
    }

    /// The lines that fall short.
    pub fn missing(&self, strategy: &Strategy, faults: &[Fault]) -> Vec<Line> {
        self.lines(strategy, faults).into_iter().filter(|line| line.seeds < line.least).collect()
    }
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let short = if self.seeds < self.least { format!("  ✗ at least {}", self.least) } else { String::new() };
        write!(f, "{:>9}  {}{short}", self.seeds, self.name)
    }
}
