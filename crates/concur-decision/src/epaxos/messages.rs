//! What replicas say to each other and keep: messages, records, dependencies, timers.

use concur_core::{Footprint, Frontier, Instance, LaneId, Order, ReadId, Urgent, Value, wire_enum, wire_newtype, wire_struct};

pub use concur_core::Ballot;

/// Dependencies, a number a lane: every interfering instance of lane `l` below `0[l]` comes first.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Deps(pub Vec<u64>);

impl Deps {
    /// None, in so many lanes.
    pub fn none(lanes: usize) -> Self {
        Self(vec![0; lanes])
    }

    /// The bound in a lane.
    pub fn below(&self, lane: LaneId) -> u64 {
        self.0.get(usize::from(lane.0)).copied().unwrap_or(0)
    }

    /// Whether `instance` is below the bound of its lane.
    pub fn lists(&self, instance: Instance) -> bool {
        instance.number < self.below(instance.lane)
    }

    /// The greater bound in each lane.
    pub fn join(&mut self, other: &[u64]) {
        for (mine, theirs) in self.0.iter_mut().zip(other) {
            *mine = (*mine).max(*theirs);
        }
    }
}

impl Order for Deps {
    fn dependencies(&self) -> Option<&[u64]> {
        Some(&self.0)
    }
}

/// What is voted for in an instance. Its coordinator proposes one command there, once, so that a voter which has that command
/// need not be sent it again.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Chosen {
    /// Nothing.
    Noop,
    /// The command of this instance, which the receiver has.
    Known,
    /// The command of this instance.
    Command(Value),
}

/// What a voter knows of an instance when it joins a ballot to recover it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Report {
    /// Nothing.
    Nothing,
    /// It was pre-accepted.
    PreAccepted {
        /// The command.
        value: Value,
        /// The coordinator's dependencies.
        initial: Deps,
        /// Whether this voter had none to add.
        equal: bool,
    },
    /// A vote was cast.
    Accepted {
        /// At this ballot.
        ballot: Ballot,
        /// For the command, or for nothing.
        chosen: Chosen,
        /// With these dependencies.
        deps: Deps,
    },
}

/// What a voter says of a command that may have been decided fast, after it noted it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Verdict {
    /// It may have been, unless one of these is decided and does not list it. They interfere with it, neither lists the other, and
    /// they are not decided here.
    Possible {
        /// Which, none twice.
        doubts: Vec<Instance>,
    },
    /// It was not: something is decided that interferes, and neither lists the other; or too many voters would have added something.
    Impossible,
}

/// What a voter will do from here on: in each of its answers it lists everything below `bounds`, whether it interferes or not.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Pledge {
    /// A bound a lane.
    pub bounds: Vec<u64>,
    /// What it noted before it began to lies below these numbers.
    pub noted: Vec<u64>,
}

/// A decided instance.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Decided {
    /// Which.
    pub instance: Instance,
    /// The command, or a no-op.
    pub value: Value,
    /// Its dependencies.
    pub deps: Deps,
}

/// Instances of one lane, `count` of them.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Stretch {
    /// The first.
    pub first: Instance,
    /// How many.
    pub count: u64,
}

/// What replicas say.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Message {
    /// The coordinator proposes a command.
    PreAccept {
        /// Where.
        instance: Instance,
        /// What.
        value: Value,
        /// What interferes with it at the coordinator.
        deps: Deps,
    },
    /// The command is noted here.
    PreAccepted {
        /// Which.
        instance: Instance,
        /// The dependencies with this voter's added, if there were any to add.
        deps: Option<Deps>,
    },
    /// A vote is asked for: by the coordinator at the zero ballot, or by whoever recovers.
    Accept {
        /// Where.
        instance: Instance,
        /// At which ballot.
        ballot: Ballot,
        /// For what.
        chosen: Chosen,
        /// With which dependencies.
        deps: Deps,
    },
    /// The vote is cast.
    Accepted {
        /// Where.
        instance: Instance,
        /// At which ballot.
        ballot: Ballot,
    },
    /// To oneself: the record of a fast commit is durable.
    Durable {
        /// Which.
        instance: Instance,
    },
    /// An instance is decided.
    Commit {
        /// Which.
        instance: Instance,
        /// As what.
        chosen: Chosen,
        /// With which dependencies.
        deps: Deps,
    },
    /// Somebody wants to finish an instance: join this ballot and say what is known.
    Recover {
        /// Which.
        instance: Instance,
        /// The ballot.
        ballot: Ballot,
    },
    /// The ballot is joined.
    Recovered {
        /// Which.
        instance: Instance,
        /// The ballot.
        ballot: Ballot,
        /// What was known.
        report: Report,
    },
    /// The command may have been decided fast: note it, and say what speaks against that.
    Validate {
        /// Which.
        instance: Instance,
        /// The ballot, which the receiver has joined.
        ballot: Ballot,
        /// The command.
        value: Value,
        /// The coordinator's dependencies.
        initial: Deps,
    },
    /// It is noted.
    Validated {
        /// Which.
        instance: Instance,
        /// The ballot.
        ballot: Ballot,
        /// What speaks against it.
        verdict: Verdict,
    },
    /// A higher ballot was joined before.
    Refused {
        /// Which.
        instance: Instance,
        /// The ballot joined.
        ballot: Ballot,
    },
    /// Are these decided?
    Ask {
        /// Which.
        stretches: Vec<Stretch>,
    },
    /// These are.
    Answer {
        /// What is decided.
        decided: Vec<Decided>,
        /// What did not fit.
        rest: Option<Stretch>,
    },
    /// It was decided, executed and forgotten here.
    Forgotten {
        /// Which.
        instance: Instance,
        /// Everything that was forgotten.
        gone: Frontier,
    },
    /// How far this replica is: a heartbeat.
    Summary {
        /// Below these numbers everything is decided here.
        committed: Vec<u64>,
        /// Below these numbers everything is forgotten here.
        gone: Vec<u64>,
        /// Below these numbers everything is executed durably here.
        floor: Vec<u64>,
    },
    /// What this replica will list.
    Pledged {
        /// Durably.
        pledge: Pledge,
    },
    /// What interferes with these reads?
    Query {
        /// The round of reads.
        read: ReadId,
        /// What they touch.
        footprint: Footprint,
    },
    /// This does.
    Bounds {
        /// The round of reads.
        read: ReadId,
        /// A bound a lane.
        deps: Deps,
    },
}

impl Urgent for Message {
    fn urgent(&self) -> bool {
        use Message::{Ask, Bounds, Query, Recover, Refused, Summary, Validated};
        matches!(self, Recover { .. } | Validated { .. } | Refused { .. } | Ask { .. } | Summary { .. } | Query { .. } | Bounds { .. })
    }
}

/// How far a voter has come with an instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum Progress {
    /// Nothing but perhaps a ballot joined.
    #[default]
    Initial,
    /// The command is noted, with dependencies.
    PreAccepted,
    /// A vote is cast.
    Accepted,
    /// Decided.
    Committed,
}

/// All that a voter knows of an instance. The ballot joined and the ballot voted at are apart: taking one for the other is what
/// was wrong in the first EPaxos.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Vote {
    /// The highest ballot joined.
    pub joined: Ballot,
    /// The ballot of the last vote.
    pub voted: Ballot,
    /// How far it is.
    pub progress: Progress,
    /// The coordinator's command, if known, also when a no-op is voted for.
    pub command: Option<Value>,
    /// Whether the vote is, or the decision was, for nothing.
    pub noop: bool,
    /// The coordinator's dependencies, if the command was noted here, by pre-accepting or by validating it.
    pub initial: Deps,
    /// The dependencies noted, voted for or decided.
    pub deps: Deps,
}

/// What must survive a crash.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Record {
    /// A command was noted.
    PreAccepted {
        /// Where.
        instance: Instance,
        /// What.
        value: Value,
        /// The coordinator's dependencies.
        initial: Deps,
        /// These and this voter's, if it had any to add.
        deps: Option<Deps>,
    },
    /// A ballot was joined.
    Joined {
        /// Where.
        instance: Instance,
        /// Which.
        ballot: Ballot,
    },
    /// A command was noted by validating it. `Known` if it stands in an earlier record.
    Validated {
        /// Where.
        instance: Instance,
        /// What.
        chosen: Chosen,
        /// The coordinator's dependencies.
        initial: Deps,
    },
    /// A vote was cast. `Known` if the command stands in an earlier record.
    Accepted {
        /// Where.
        instance: Instance,
        /// At which ballot.
        ballot: Ballot,
        /// For what.
        chosen: Chosen,
        /// With which dependencies.
        deps: Deps,
    },
    /// Everything below these numbers is listed in each answer from here on.
    Pledged {
        /// A bound a lane.
        bounds: Vec<u64>,
    },
    /// An instance is decided. `Known` if the command stands in an earlier record.
    Committed {
        /// Where.
        instance: Instance,
        /// As what.
        chosen: Chosen,
        /// With which dependencies.
        deps: Deps,
    },
    /// The start of a checkpoint: what is not held, and the next number in this replica's lane.
    Base {
        /// Decided, executed, and held as a vote at most.
        gone: Frontier,
        /// Of it, the votes may be lost below these numbers.
        forgotten: Vec<u64>,
        /// The next number.
        next: u64,
    },
    /// In a checkpoint: everything about one instance.
    Whole {
        /// Which.
        instance: Instance,
        /// Everything.
        vote: Vote,
    },
}

/// What can be waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Timer {
    /// The heartbeat, by which everything is sent again, asked for, suspected and given up.
    Tick,
    /// The last answers of a fast quorum were waited for long enough.
    Patience,
}

wire_newtype!(Deps);
wire_enum!(Chosen { 0 => Noop, 1 => Known, 2 => Command(value) });
wire_enum!(Report { 0 => Nothing, 1 => PreAccepted { value, initial, equal }, 2 => Accepted { ballot, chosen, deps } });
wire_enum!(Verdict { 0 => Possible { doubts }, 1 => Impossible });
wire_struct!(Pledge { bounds, noted });
wire_struct!(Decided { instance, value, deps });
wire_struct!(Stretch { first, count });
wire_enum!(Progress { 0 => Initial, 1 => PreAccepted, 2 => Accepted, 3 => Committed });
wire_struct!(Vote { joined, voted, progress, command, noop, initial, deps });
wire_enum!(Message {
    0 => PreAccept { instance, value, deps },
    1 => PreAccepted { instance, deps },
    2 => Accept { instance, ballot, chosen, deps },
    3 => Accepted { instance, ballot },
    4 => Durable { instance },
    5 => Commit { instance, chosen, deps },
    6 => Recover { instance, ballot },
    7 => Recovered { instance, ballot, report },
    8 => Refused { instance, ballot },
    9 => Ask { stretches },
    10 => Answer { decided, rest },
    11 => Forgotten { instance, gone },
    12 => Summary { committed, gone, floor },
    13 => Query { read, footprint },
    14 => Bounds { read, deps },
    15 => Validate { instance, ballot, value, initial },
    16 => Validated { instance, ballot, verdict },
    17 => Pledged { pledge },
});
wire_enum!(Record {
    0 => PreAccepted { instance, value, initial, deps },
    1 => Joined { instance, ballot },
    2 => Accepted { instance, ballot, chosen, deps },
    3 => Committed { instance, chosen, deps },
    4 => Base { gone, forgotten, next },
    5 => Whole { instance, vote },
    6 => Validated { instance, chosen, initial },
    7 => Pledged { bounds },
});
