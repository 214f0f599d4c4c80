//! The native client: sessions, retries with budgets, levels of read, watch.
