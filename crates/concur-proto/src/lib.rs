//! The messages and services on the wire: what nodes, clients and etcd's clients say to one another.
//!
//! Three families live here. `etcdserverpb`, `mvccpb`, `authpb`, `leasepb`, `v3lockpb` and `v3electionpb` are etcd's v3 API: the
//! packages, names and numbers are its public facts, the files under `proto/etcd` are written from them. [`concur::v1`]
//! is the native front door, [`concur::peer::v1`] what nodes say to one another, and [`grpc::health::v1`] the health
//! check that load balancers know.
//!
//! The Rust text under `src/generated` is checked in, so that a build needs neither protoc nor a generator. The test
//! `generated` makes it again from `proto/` and compares; with `CONCUR_PROTO_WRITE=1` in the environment it writes it.
//! Every `bytes` field is a [`bytes::Bytes`], sliced from the frame it arrived in.
//!
//! What is not here: behaviour. Converting a request into a command, and checking it, is the front doors' work.

/// The compiled `.proto` files of everything that clients speak, as a `FileDescriptorSet` of Protocol Buffers; checked in and compared as
/// the Rust text is.
pub const DESCRIPTORS: &[u8] = include_bytes!("descriptors.bin");

/// etcd's v3 API: key-value, watch, lease, cluster, maintenance and auth services.
#[allow(missing_docs, clippy::all, clippy::pedantic, unreachable_pub)]
pub mod etcdserverpb {
    include!("generated/etcdserverpb.rs");
}

/// Key-value pairs and events of etcd's v3 API.
#[allow(missing_docs, clippy::all, clippy::pedantic, unreachable_pub)]
pub mod mvccpb {
    include!("generated/mvccpb.rs");
}

/// Users, roles and permissions of etcd's v3 API.
#[allow(missing_docs, clippy::all, clippy::pedantic, unreachable_pub)]
pub mod authpb {
    include!("generated/authpb.rs");
}

/// Leases as etcd keeps them in its database.
#[allow(missing_docs, clippy::all, clippy::pedantic, unreachable_pub)]
pub mod leasepb {
    include!("generated/leasepb.rs");
}

/// etcd's lock service.
#[allow(missing_docs, clippy::all, clippy::pedantic, unreachable_pub)]
pub mod v3lockpb {
    include!("generated/v3lockpb.rs");
}

/// etcd's election service.
#[allow(missing_docs, clippy::all, clippy::pedantic, unreachable_pub)]
pub mod v3electionpb {
    include!("generated/v3electionpb.rs");
}

/// Concur's own services.
pub mod concur {
    /// The native front door.
    #[allow(missing_docs, clippy::all, clippy::pedantic, unreachable_pub)]
    pub mod v1 {
        include!("generated/concur.v1.rs");
    }
    /// What nodes say to one another.
    pub mod peer {
        /// The first version of it.
        #[allow(missing_docs, clippy::all, clippy::pedantic, unreachable_pub)]
        pub mod v1 {
            include!("generated/concur.peer.v1.rs");
        }
    }
}

/// Services that gRPC itself defines.
pub mod grpc {
    /// The health check.
    pub mod health {
        /// Its only version.
        #[allow(missing_docs, clippy::all, clippy::pedantic, unreachable_pub)]
        pub mod v1 {
            include!("generated/grpc.health.v1.rs");
        }
    }
}
