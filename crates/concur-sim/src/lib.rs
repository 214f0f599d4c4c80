//! The deterministic world: clock, network, disks, faults, clients, checkers.
