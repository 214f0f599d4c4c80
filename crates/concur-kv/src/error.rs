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
    /// The user `root` is not there, without whom auth cannot be enabled.
    #[error("etcdserver: root user does not exist")]
    RootUserNotExist,
    /// The user `root` has not the role `root`.
    #[error("etcdserver: root user does not have root role")]
    RootRoleNotExist,
    /// A user of that name is there.
    #[error("etcdserver: user name already exists")]
    UserExists,
    /// A user without a name; or nobody says who asks, though that matters.
    #[error("etcdserver: user name is empty")]
    UserEmpty,
    /// No user has this name.
    #[error("etcdserver: user name not found")]
    UserNotFound,
    /// A role of that name is there.
    #[error("etcdserver: role name already exists")]
    RoleExists,
    /// No role has this name.
    #[error("etcdserver: role name not found")]
    RoleNotFound,
    /// A role without a name.
    #[error("etcdserver: role name is empty")]
    RoleEmpty,
    /// No such user, or another password.
    #[error("etcdserver: authentication failed, invalid user ID or password")]
    AuthFailed,
    /// A grant of nothing.
    #[error("etcdserver: permission not given")]
    PermissionNotGiven,
    /// Whoever asks may not.
    #[error("etcdserver: permission denied")]
    PermissionDenied,
    /// The user has not this role.
    #[error("etcdserver: role is not granted to the user")]
    RoleNotGranted,
    /// The role has no permission on these keys.
    #[error("etcdserver: permission is not granted to the role")]
    PermissionNotGranted,
    /// What needs auth was asked while it is off.
    #[error("etcdserver: authentication is not enabled")]
    AuthNotEnabled,
    /// A change that would lock everybody out, or a permission on no range.
    #[error("etcdserver: invalid auth management")]
    InvalidAuthManagement,
    /// Who asks was read from users and roles that have changed since.
    #[error("etcdserver: revision of auth store is old")]
    AuthOldRevision,
    /// A password was given for a user who has none.
    #[error("auth: authentication failed, password was given for no password user")]
    NoPasswordUser,
}

wire_enum!(KvError {
    0 => EmptyKey, 1 => KeyNotFound, 2 => ValueProvided, 3 => LeaseProvided, 4 => TooManyOps, 5 => DuplicateKey,
    6 => InvalidSortOption, 7 => Compacted, 8 => FutureRevision, 9 => NoSpace, 10 => LeaseNotFound, 11 => LeaseExists,
    12 => LeaseTtlTooLarge, 13 => RequestTooLarge, 14 => Corrupt, 15 => OrderedPerKey, 16 => OrderedTotally, 17 => NotReadOnly,
    18 => Malformed, 19 => RootUserNotExist, 20 => RootRoleNotExist, 21 => UserExists, 22 => UserEmpty, 23 => UserNotFound, 24 => RoleExists, 25 => RoleNotFound, 26 => RoleEmpty, 27 => AuthFailed, 28 => PermissionNotGiven, 29 => PermissionDenied, 30 => RoleNotGranted, 31 => PermissionNotGranted, 32 => AuthNotEnabled, 33 => InvalidAuthManagement, 34 => AuthOldRevision, 35 => NoPasswordUser,
});

impl KvError {
    /// Every error.
    pub const ALL: [Self; 36] = [
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
        Self::RootUserNotExist,
        Self::RootRoleNotExist,
        Self::UserExists,
        Self::UserEmpty,
        Self::UserNotFound,
        Self::RoleExists,
        Self::RoleNotFound,
        Self::RoleEmpty,
        Self::AuthFailed,
        Self::PermissionNotGiven,
        Self::PermissionDenied,
        Self::RoleNotGranted,
        Self::PermissionNotGranted,
        Self::AuthNotEnabled,
        Self::InvalidAuthManagement,
        Self::AuthOldRevision,
        Self::NoPasswordUser,
    ];

    /// The number of the gRPC status that goes with it.
    pub fn grpc_code(self) -> i32 {
        const UNKNOWN: i32 = 2;
        const INVALID_ARGUMENT: i32 = 3;
        const NOT_FOUND: i32 = 5;
        const PERMISSION_DENIED: i32 = 7;
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
            | Self::Malformed
            | Self::UserEmpty
            | Self::RoleEmpty
            | Self::AuthFailed
            | Self::PermissionNotGiven
            | Self::InvalidAuthManagement
            | Self::AuthOldRevision => INVALID_ARGUMENT,
            Self::Compacted | Self::FutureRevision | Self::LeaseTtlTooLarge => OUT_OF_RANGE,
            Self::NoSpace => RESOURCE_EXHAUSTED,
            Self::LeaseNotFound => NOT_FOUND,
            Self::LeaseExists
            | Self::RootUserNotExist
            | Self::RootRoleNotExist
            | Self::UserExists
            | Self::UserNotFound
            | Self::RoleExists
            | Self::RoleNotFound
            | Self::RoleNotGranted
            | Self::PermissionNotGranted
            | Self::AuthNotEnabled => FAILED_PRECONDITION,
            Self::PermissionDenied => PERMISSION_DENIED,
            Self::NoPasswordUser => UNKNOWN,
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
            (KvError::RootUserNotExist, 9, "etcdserver: root user does not exist"),
            (KvError::RootRoleNotExist, 9, "etcdserver: root user does not have root role"),
            (KvError::UserExists, 9, "etcdserver: user name already exists"),
            (KvError::UserEmpty, 3, "etcdserver: user name is empty"),
            (KvError::UserNotFound, 9, "etcdserver: user name not found"),
            (KvError::RoleExists, 9, "etcdserver: role name already exists"),
            (KvError::RoleNotFound, 9, "etcdserver: role name not found"),
            (KvError::RoleEmpty, 3, "etcdserver: role name is empty"),
            (KvError::AuthFailed, 3, "etcdserver: authentication failed, invalid user ID or password"),
            (KvError::PermissionNotGiven, 3, "etcdserver: permission not given"),
            (KvError::PermissionDenied, 7, "etcdserver: permission denied"),
            (KvError::RoleNotGranted, 9, "etcdserver: role is not granted to the user"),
            (KvError::PermissionNotGranted, 9, "etcdserver: permission is not granted to the role"),
            (KvError::AuthNotEnabled, 9, "etcdserver: authentication is not enabled"),
            (KvError::InvalidAuthManagement, 3, "etcdserver: invalid auth management"),
            (KvError::AuthOldRevision, 3, "etcdserver: revision of auth store is old"),
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
