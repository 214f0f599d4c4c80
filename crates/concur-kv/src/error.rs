//! Why a request is refused.
//!
//! Clients of etcd's API compare the exact text and the gRPC code of an error, so both are part of what the store promises:
//! [`KvError`] prints the text, [`KvError::grpc_code`] gives the number.

use concur_core::wire_enum;

/// Why a request was refused. It changed nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum KvError {
    /// A request without a key.
    #[error("etcdserver: key is not provided")]
    EmptyKey,
    /// `ignore_value` or `ignore_lease` on a key that does not exist, or an operation of a transaction that asks for nothing.
    #[error("etcdserver: key not found")]
    KeyNotFound,
    /// `ignore_value` together with a value.
    #[error("etcdserver: value is provided")]
    ValueProvided,
    /// `ignore_lease` together with a lease.
    #[error("etcdserver: lease is provided")]
    LeaseProvided,
    /// More operations than a transaction may have.
    #[error("etcdserver: too many operations in txn request")]
    TooManyOps,
    /// A transaction that writes one key twice.
    #[error("etcdserver: duplicate key given in txn request")]
    DuplicateKey,
    /// A sort order or target that does not exist.
    #[error("etcdserver: invalid sort option")]
    InvalidSortOption,
    /// A revision below the compacted one.
    #[error("etcdserver: mvcc: required revision has been compacted")]
    Compacted,
    /// A revision that is not written yet.
    #[error("etcdserver: mvcc: required revision is a future revision")]
    FutureRevision,
    /// The quota is exceeded.
    #[error("etcdserver: mvcc: database space exceeded")]
    NoSpace,
    /// No lease has this id.
    #[error("etcdserver: requested lease not found")]
    LeaseNotFound,
    /// A lease has this id already.
    #[error("etcdserver: lease already exists")]
    LeaseExists,
    /// A time to live above the largest.
    #[error("etcdserver: too large lease TTL")]
    LeaseTtlTooLarge,
    /// A request above the size limit.
    #[error("etcdserver: request is too large")]
    RequestTooLarge,
    /// The alarm for a corrupt member is armed.
    #[error("etcdserver: corrupt cluster")]
    Corrupt,
    /// What needs a global revision was asked of a namespace that is ordered per key.
    #[error(
        "concur: this namespace is ordered per key and has no global revision; ask one that is ordered totally for history, revisions and compaction"
    )]
    OrderedPerKey,
    /// What only a namespace ordered per key has was asked of one that is ordered totally.
    #[error("concur: this namespace is ordered totally; deleted keys are forgotten by compaction")]
    OrderedTotally,
    /// A transaction that writes was asked as a read.
    #[error("concur: a transaction that writes cannot be served as a read")]
    NotReadOnly,
    /// Bytes that are no request.
    #[error("concur: malformed request")]
    Malformed,
}

wire_enum!(KvError {
    0 => EmptyKey, 1 => KeyNotFound, 2 => ValueProvided, 3 => LeaseProvided, 4 => TooManyOps, 5 => DuplicateKey,
    6 => InvalidSortOption, 7 => Compacted, 8 => FutureRevision, 9 => NoSpace, 10 => LeaseNotFound, 11 => LeaseExists,
    12 => LeaseTtlTooLarge, 13 => RequestTooLarge, 14 => Corrupt, 15 => OrderedPerKey, 16 => OrderedTotally, 17 => NotReadOnly,
    18 => Malformed,
});

impl KvError {
    /// Every error.
    pub const ALL: [Self; 19] = [
        Self::EmptyKey,
        Self::KeyNotFound,
        Self::ValueProvided,
        Self::LeaseProvided,
        Self::TooManyOps,
        Self::DuplicateKey,
        Self::InvalidSortOption,
        Self::Compacted,
        Self::FutureRevision,
        Self::NoSpace,
        Self::LeaseNotFound,
        Self::LeaseExists,
        Self::LeaseTtlTooLarge,
        Self::RequestTooLarge,
        Self::Corrupt,
        Self::OrderedPerKey,
        Self::OrderedTotally,
        Self::NotReadOnly,
        Self::Malformed,
    ];

    /// The number of the gRPC status that goes with it.
    pub fn grpc_code(self) -> i32 {
        const INVALID_ARGUMENT: i32 = 3;
        const NOT_FOUND: i32 = 5;
        const RESOURCE_EXHAUSTED: i32 = 8;
        const FAILED_PRECONDITION: i32 = 9;
        const OUT_OF_RANGE: i32 = 11;
        const UNIMPLEMENTED: i32 = 12;
        const DATA_LOSS: i32 = 15;
        match self {
            Self::EmptyKey
            | Self::KeyNotFound
            | Self::ValueProvided
            | Self::LeaseProvided
            | Self::TooManyOps
            | Self::DuplicateKey
            | Self::InvalidSortOption
            | Self::RequestTooLarge
            | Self::NotReadOnly
            | Self::Malformed => INVALID_ARGUMENT,
            Self::Compacted | Self::FutureRevision | Self::LeaseTtlTooLarge => OUT_OF_RANGE,
            Self::NoSpace => RESOURCE_EXHAUSTED,
            Self::LeaseNotFound => NOT_FOUND,
            Self::LeaseExists => FAILED_PRECONDITION,
            Self::Corrupt => DATA_LOSS,
            Self::OrderedPerKey | Self::OrderedTotally => UNIMPLEMENTED,
        }
    }

    /// The text that clients compare.
    pub fn text(self) -> String {
        self.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use concur_core::Wire;

    #[test]
    fn texts_and_codes_are_those_that_clients_compare() {
        for (error, code, text) in [
            (KvError::EmptyKey, 3, "etcdserver: key is not provided"),
            (KvError::KeyNotFound, 3, "etcdserver: key not found"),
            (KvError::ValueProvided, 3, "etcdserver: value is provided"),
            (KvError::LeaseProvided, 3, "etcdserver: lease is provided"),
            (KvError::TooManyOps, 3, "etcdserver: too many operations in txn request"),
            (KvError::DuplicateKey, 3, "etcdserver: duplicate key given in txn request"),
            (KvError::InvalidSortOption, 3, "etcdserver: invalid sort option"),
            (KvError::Compacted, 11, "etcdserver: mvcc: required revision has been compacted"),
            (KvError::FutureRevision, 11, "etcdserver: mvcc: required revision is a future revision"),
            (KvError::NoSpace, 8, "etcdserver: mvcc: database space exceeded"),
            (KvError::LeaseNotFound, 5, "etcdserver: requested lease not found"),
            (KvError::LeaseExists, 9, "etcdserver: lease already exists"),
            (KvError::LeaseTtlTooLarge, 11, "etcdserver: too large lease TTL"),
            (KvError::RequestTooLarge, 3, "etcdserver: request is too large"),
            (KvError::Corrupt, 15, "etcdserver: corrupt cluster"),
        ] {
            assert_eq!((error.grpc_code(), error.text().as_str()), (code, text));
        }
    }

    #[test]
    fn every_error_survives_the_wire() {
        for error in KvError::ALL {
            assert_eq!(KvError::from_bytes(&error.to_bytes()), Ok(error));
        }
    }
}
