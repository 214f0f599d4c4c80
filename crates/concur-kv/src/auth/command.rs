//! What changes users and roles, who asks, and how both are written down.

use bytes::Bytes;
use concur_core::{wire_enum, wire_newtype, wire_struct};
use std::fmt;

/// A number that each change of users and roles adds one to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct AuthRevision(pub u64);

impl AuthRevision {
    /// That of a store without users.
    pub const FIRST: Self = Self(1);
}

impl fmt::Display for AuthRevision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

wire_newtype!(AuthRevision);

/// On whose account a command or query comes.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Asker {
    /// It is not said: enough while auth is off.
    #[default]
    Nobody,
    /// A node's own: it may do everything. Front doors never let it in from outside.
    Node,
    /// A user's, whose token was read at a revision.
    User {
        /// The name.
        name: String,
        /// The revision.
        revision: AuthRevision,
    },
}

/// What a permission permits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Access {
    /// To read.
    Read,
    /// To write and delete.
    Write,
    /// Both.
    ReadWrite,
}

/// What is permitted on a key, or on a range of keys.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Permission {
    /// To read, to write, or both.
    pub access: Access,
    /// The key, or the first of the range; never empty.
    pub key: Bytes,
    /// The key behind the last; empty for one key, `\0` for every key from the first on.
    pub range_end: Bytes,
}

/// A change of users and roles.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AuthCommand {
    /// From now on users and roles matter.
    Enable,
    /// From now on they do not; every token is void.
    Disable,
    /// Tells every node of a token. Only a node may, which has checked the password.
    Authenticate {
        /// Whose.
        user: String,
        /// A digest of it.
        token: Bytes,
        /// The revision at which the password was checked; at any other the command is refused.
        revision: AuthRevision,
    },
    /// Adds a user.
    UserAdd {
        /// The name.
        name: String,
        /// A hash of the password.
        password: Bytes,
        /// Whether the user has none and comes with a certificate.
        no_password: bool,
    },
    /// Deletes a user.
    UserDelete {
        /// The name.
        name: String,
    },
    /// Changes a user's password; the user's tokens are void.
    UserChangePassword {
        /// The name.
        name: String,
        /// A hash of the password.
        password: Bytes,
    },
    /// Gives a user a role.
    UserGrantRole {
        /// The user.
        name: String,
        /// The role.
        role: String,
    },
    /// Takes a role from a user.
    UserRevokeRole {
        /// The user.
        name: String,
        /// The role.
        role: String,
    },
    /// Adds a role that permits nothing.
    RoleAdd {
        /// The name.
        name: String,
    },
    /// Deletes a role, and takes it from whoever has it.
    RoleDelete {
        /// The name.
        name: String,
    },
    /// Has a role permit something; a permission on the same keys is replaced.
    RoleGrantPermission {
        /// The role.
        name: String,
        /// What; it must be there.
        permission: Option<Permission>,
    },
    /// Has a role no longer permit anything on just these keys.
    RoleRevokePermission {
        /// The role.
        name: String,
        /// The key, as it was granted.
        key: Bytes,
        /// The range's end, as it was granted.
        range_end: Bytes,
    },
}

wire_enum!(Asker { 0 => Nobody, 1 => Node, 2 => User { name, revision } });
wire_enum!(Access { 0 => Read, 1 => Write, 2 => ReadWrite });
wire_struct!(Permission { access, key, range_end });
wire_enum!(AuthCommand {
    0 => Enable, 1 => Disable, 2 => Authenticate { user, token, revision },
    3 => UserAdd { name, password, no_password }, 4 => UserDelete { name }, 5 => UserChangePassword { name, password },
    6 => UserGrantRole { name, role }, 7 => UserRevokeRole { name, role },
    8 => RoleAdd { name }, 9 => RoleDelete { name }, 10 => RoleGrantPermission { name, permission },
    11 => RoleRevokePermission { name, key, range_end },
});
