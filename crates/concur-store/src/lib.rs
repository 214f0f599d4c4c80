//! What survives a crash: the write-ahead log, the state engine and snapshots.
