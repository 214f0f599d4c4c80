//! The faults that a seed can draw, by name, and the episodes in which they strike.

use concur_core::ReplicaSet;
use std::fmt;
use std::time::Duration;

macro_rules! faults {
    ($($(#[doc = $doc:literal])+ $variant:ident = $name:literal in $group:literal),+ $(,)?) => {
        /// One kind of trouble.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Fault {
            $($(#[doc = $doc])+ $variant),+
        }

        impl Fault {
            /// Every kind.
            pub const ALL: &[Fault] = &[$(Fault::$variant),+];

            /// The word that chooses it.
            pub fn name(self) -> &'static str {
                match self { $(Fault::$variant => $name),+ }
            }

            /// The group that it belongs to, which chooses all of its kinds.
            pub fn group(self) -> &'static str {
                match self { $(Fault::$variant => $group),+ }
            }
        }
    };
}

faults! {
    /// Links lose messages.
    Loss = "loss" in "network",
    /// Links deliver messages twice, the second one later.
    Duplicate = "duplicate" in "network",
    /// Links deliver messages out of order.
    Reorder = "reorder" in "network",
    /// Links take from 1 ms to 10 s longer.
    Delay = "delay" in "network",
    /// A few messages arrive seconds late, whatever the links do by then.
    Stale = "stale" in "network",
    /// Two groups of nodes do not hear each other.
    Split = "split" in "partition",
    /// Some nodes are heard and do not hear, or the other way round.
    OneWay = "one-way" in "partition",
    /// Two groups that only one node connects.
    Bridge = "bridge" in "partition",
    /// Each node hears only its two neighbours in a chain.
    Chain = "chain" in "partition",
    /// A split that comes and goes.
    Flap = "flap" in "partition",
    /// Clients do not reach some nodes, which reach each other.
    ClientSplit = "client-split" in "partition",
    /// A process dies; what it wrote stays in the system's cache.
    Kill = "kill" in "crash",
    /// A node loses power: of what was not synced, any subset of sectors stays.
    PowerLoss = "power-loss" in "crash",
    /// Several nodes lose power at once.
    PowerLossSome = "power-loss-some" in "crash",
    /// All nodes lose power at once.
    PowerLossAll = "power-loss-all" in "crash",
    /// A node loses power again and again, soon after it starts.
    CrashLoop = "crash-loop" in "crash",
    /// A node loses power between its next write and the sync.
    CrashAtWrite = "crash-at-write" in "crash",
    /// A node loses power between its next sync and what it would have sent.
    CrashAtSync = "crash-at-sync" in "crash",
    /// Whoever began to lead, or did something else that is rare, is cut off at once, again and again.
    Chase = "chase" in "crash",
    /// A process stands still for longer than any timeout.
    Pause = "pause" in "crash",
    /// A process is asked to stop, hands over, and is started again.
    Stop = "stop" in "crash",
    /// Syncs take many times as long.
    SlowDisk = "slow-disk" in "disk",
    /// A sync does not return.
    StalledDisk = "stalled-disk" in "disk",
    /// There is no room for another segment.
    FullDisk = "full-disk" in "disk",
    /// A sync fails; the node stops.
    FailedSync = "failed-sync" in "disk",
    /// A write reaches the disk in part and fails; the node stops.
    ShortWrite = "short-write" in "disk",
    /// A write is lost, and the disk says that it is there: once a later write attests it, a node that starts must refuse the disk.
    /// Of its very last write a disk can lie so that nobody notices: where no later one was synced before the node starts, it has
    /// told the truth.
    LostWrite = "lost-write" in "disk",
    /// A write goes elsewhere, often over what is durable, and the disk says that it is where it belongs; noticed as a lost one is.
    MisdirectedWrite = "misdirected-write" in "disk",
    /// A byte of what is durable changes while the node is down: it must refuse to vote, or lose nothing.
    FlippedByte = "flipped-byte" in "disk",
    /// A byte of what the embedded engine holds changes while the node is down: it must refuse to start.
    FlippedState = "flipped-state" in "disk",
    /// The embedded engine takes long to write, so that the log grows.
    SlowEngine = "slow-engine" in "disk",
    /// Everyone is told, again and again, that living peers are gone.
    Suspicion = "suspicion" in "hints",
    /// Wall clocks jump, back too.
    ClockJump = "clock-jump" in "hints",
    /// Monotonic clocks run apart, by up to a tenth.
    Drift = "drift" in "hints",
    /// Some nodes are started with a program of another version, and later with this one again: the two do not read each other.
    MixedVersions = "mixed-versions" in "versions",
    /// Members are added, removed, replaced, promoted, rebuilt, weighed and moved, and made to lead.
    Change = "change" in "epochs",
    /// The group goes over to another strategy, and back.
    Switch = "switch" in "epochs",
    /// Members are added that do not vote.
    Observer = "observer" in "epochs",
    /// A node's disk is emptied: it comes back in another life.
    LostDisk = "lost-disk" in "epochs",
    /// A node's disk becomes what it was at an earlier moment: its peers refuse it.
    OldCopy = "old-copy" in "epochs",
}

impl Fault {
    /// The kinds that a comma-separated list of names and groups chooses; the unknown word if there is one. `all` and `none` are
    /// words too.
    pub fn parse(list: &str) -> Result<Vec<Fault>, String> {
        let mut out = Vec::new();
        for word in list.split(',').map(str::trim).filter(|word| !word.is_empty() && *word != "none") {
            let before = out.len();
            out.extend(Self::ALL.iter().copied().filter(|f| word == "all" || f.name() == word || f.group() == word));
            if out.len() == before {
                return Err(word.to_owned());
            }
        }
        out.sort_unstable();
        out.dedup();
        Ok(out)
    }
}

impl Fault {
    /// Whether it is about who is in.
    pub fn is_of_epochs(self) -> bool {
        self.group() == "epochs"
    }

    /// Whether it came later to the list, and is drawn apart: without it, a seed is what it would be if there were no such thing.
    pub(crate) fn is_apart(self) -> bool {
        self.is_of_epochs() || self.is_lie() || matches!(self, Fault::FlippedState | Fault::MixedVersions)
    }

    /// Whether a byte changes on a disk while its node is down.
    pub(crate) fn is_flip(self) -> bool {
        matches!(self, Fault::FlippedByte | Fault::FlippedState)
    }

    /// Whether a disk says that it wrote what it did not.
    pub(crate) fn is_lie(self) -> bool {
        matches!(self, Fault::LostWrite | Fault::MisdirectedWrite)
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// A fault with its time and place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Episode {
    /// What.
    pub fault: Fault,
    /// From when on, since the start of the run.
    pub start: Duration,
    /// For how long.
    pub lasts: Duration,
    /// Whom it strikes; for partitions, one side.
    pub nodes: ReplicaSet,
    /// How hard, from 1 to 100.
    pub strength: u32,
}

impl fmt::Display for Episode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (start, end) = (self.start.as_millis(), (self.start + self.lasts).as_millis());
        write!(f, "{:<16} {start:>6} ms … {end:>6} ms  nodes {:?}  strength {}", self.fault, self.nodes, self.strength)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_are_chosen_by_name_and_by_group() {
        assert_eq!(Fault::parse("kill,loss"), Ok(vec![Fault::Loss, Fault::Kill]));
        assert_eq!(Fault::parse("all").map(|all| all.len()), Ok(Fault::ALL.len()));
        assert_eq!(Fault::parse("none"), Ok(vec![]));
        assert_eq!(Fault::parse("network,earthquake"), Err("earthquake".to_owned()));
    }
}
