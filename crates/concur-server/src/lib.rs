//! The node: driver, peer streams, front doors, metrics.
