//! How replicas vote: one folder a protocol, and the registry that lists them.
