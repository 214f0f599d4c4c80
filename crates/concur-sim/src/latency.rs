//! Latency.
