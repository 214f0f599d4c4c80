//! The contract of Concur: ids, ballots, frontiers, quorum systems, footprints, state machines, inputs, effects, traces.
