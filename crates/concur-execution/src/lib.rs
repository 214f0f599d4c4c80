//! When a decision is final: sequencers, sessions, levels of read.
