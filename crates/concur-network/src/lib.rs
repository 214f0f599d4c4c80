//! How messages are sent: volumes and the wire envelope between replicas.
