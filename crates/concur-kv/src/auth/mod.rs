//! Who may do what: users, roles, and the permissions that roles hold, with the rules of etcd v3.
//!
//! A user has a hash of a password and roles; a role has permissions, each to read, write or both, on one key or a range of keys.
//! The role `root` may do everything. None of it matters until auth is enabled, which needs a user `root` that has the role `root`.
//!
//! **Where it is judged.** A command says who asks ([`Asker`]) and which revision of the users and roles that was read from. It is
//! judged when it is executed, on every replica, against the users and roles as they are at that point of the order (`judge.rs`):
//! whoever lost a permission before a command was ordered does not execute it, wherever it entered. Whoever asks under an older
//! revision than the present one is refused and asks again with a fresh token. Reads are judged when they are answered. A command
//! or query that names nobody is let through only while auth is off; what a node proposes on its own account says so.
//!
//! **What is remembered.** Users, roles, whether auth is on, and the revision are part of the durable image (`image.rs`) and of the
//! digest. Each change of them adds one to the revision, enabling excepted. A user's permissions are also kept merged into intervals
//! (`grants.rs`), made anew when they change, so that judging is a search.
//!
//! **Tokens** are not state: their life is measured by clocks. Authenticating is a command all the same, so that every node learns of
//! the token ([`Auth::assigned`]); [`Auth::holds`] says whether one is still good as far as users and passwords go. Of a token only a
//! digest comes here, so that a log holds nothing that opens a door.
//!
//! Not here: passwords in the clear, hashing, tokens and how long they live, certificates, and which gRPC call needs what.

mod account;
mod change;
mod command;
mod grants;
mod image;
mod judge;

pub(crate) use account::{COMMAND_AS, QUERY_AS, put_account};
pub use account::{command_as, query_as};
pub use command::{Access, Asker, AuthCommand, AuthRevision, Permission};

use crate::KvError;
use bytes::Bytes;
use concur_core::wire_struct;
use grants::Grants;
pub(crate) use image::AUTH;
pub use image::PortableAuth;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// The user without whom auth cannot be enabled, and the role that may do everything.
pub const ROOT: &str = "root";

/// Tokens that are remembered until whoever keeps them looks; what is older is forgotten, and whoever holds it authenticates again.
const ASSIGNED_MAX: usize = 4096;

/// Users, roles, and whether they matter.
#[derive(Debug)]
pub struct Auth {
    enabled: bool,
    revision: AuthRevision,
    /// The revision at which auth was last disabled: tokens assigned before it are void.
    disabled_at: AuthRevision,
    users: BTreeMap<String, User>,
    roles: BTreeMap<String, Role>,
    /// What the durable image does not have yet.
    dirty: BTreeSet<image::Entry>,
    /// Tokens assigned lately, oldest first, and how many came before the first of them. Not part of the image.
    assigned: VecDeque<Assigned>,
    assigned_before: u64,
    /// How often anything above changed in this process.
    changes: u64,
}

/// A user.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct User {
    /// A hash of the password; empty: no password opens this account.
    pub password: Bytes,
    /// Whether the user comes with a certificate only.
    pub no_password: bool,
    /// The roles, in order.
    pub roles: BTreeSet<String>,
    /// The revision at which the user was added or the password last changed: tokens assigned before it are void.
    since: AuthRevision,
    /// What the roles permit, merged.
    grants: Grants,
}

/// A role.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Role {
    /// What it permits, by key.
    pub permissions: Vec<Permission>,
}

/// A token that was assigned to a user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Assigned {
    /// A digest of it.
    pub token: Bytes,
    /// Whose.
    pub user: String,
    /// The revision at which it was.
    pub revision: AuthRevision,
}

/// Whether auth is on, and the revision.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct AuthStatus {
    /// The store's revision.
    pub revision: crate::Revision,
    /// Whether users and roles matter.
    pub enabled: bool,
    /// The revision of users and roles.
    pub auth_revision: AuthRevision,
}

wire_struct!(AuthStatus { revision, enabled, auth_revision });
wire_struct!(Role { permissions });

impl Default for Auth {
    fn default() -> Self {
        Self {
            enabled: false,
            revision: AuthRevision::FIRST,
            disabled_at: AuthRevision(0),
            users: BTreeMap::new(),
            roles: BTreeMap::new(),
            dirty: BTreeSet::new(),
            assigned: VecDeque::new(),
            assigned_before: 0,
            changes: 0,
        }
    }
}

impl Auth {
    /// Whether users and roles matter.
    pub fn is_enabled(&self) -> bool {
        self.enabled
    }

    /// The revision of users and roles: 1 at first.
    pub fn revision(&self) -> AuthRevision {
        self.revision
    }

    /// All users, by name.
    pub fn users(&self) -> impl Iterator<Item = (&str, &User)> {
        self.users.iter().map(|(name, user)| (name.as_str(), user))
    }

    /// All roles, by name.
    pub fn roles(&self) -> impl Iterator<Item = (&str, &Role)> {
        self.roles.iter().map(|(name, role)| (name.as_str(), role))
    }

    /// A user.
    pub fn user(&self, name: &str) -> Option<&User> {
        self.users.get(name)
    }

    /// What a role permits. That of `root` is everything, whatever was granted to it.
    pub fn permissions_of(&self, role: &str) -> Result<Vec<Permission>, KvError> {
        let permissions = &self.roles.get(role).ok_or(KvError::RoleNotFound)?.permissions;
        let everything = || Permission { access: Access::ReadWrite, key: Bytes::new(), range_end: Bytes::from_static(&[0]) };
        Ok(if role == ROOT { vec![everything()] } else { permissions.clone() })
    }

    /// The hash that a password of a user must match, and the revision at which it is so.
    pub fn password_of(&self, user: &str) -> Result<(Bytes, AuthRevision), KvError> {
        if !self.enabled {
            return Err(KvError::AuthNotEnabled);
        }
        let user = self.users.get(user).ok_or(KvError::AuthFailed)?;
        if user.no_password { Err(KvError::NoPasswordUser) } else { Ok((user.password.clone(), self.revision)) }
    }

    /// Whether a token that was assigned to a user at a revision is good, as far as users and passwords go.
    pub fn holds(&self, user: &str, at: AuthRevision) -> bool {
        self.enabled && at >= self.disabled_at && self.users.get(user).is_some_and(|user| at >= user.since)
    }

    /// A number that is another whenever users, roles or assigned tokens are. It means nothing beyond this process.
    pub fn changes(&self) -> u64 {
        self.changes
    }

    /// The tokens assigned after the first `seen` ones, as far as they are remembered, and how many there were ever.
    pub fn assigned(&self, seen: u64) -> (impl Iterator<Item = &Assigned>, u64) {
        let skip = usize::try_from(seen.saturating_sub(self.assigned_before)).unwrap_or(usize::MAX);
        (self.assigned.iter().skip(skip), self.assigned_before + self.assigned.len() as u64)
    }

    /// Takes the place of what was there before in the same process: the numbers above go on.
    pub(crate) fn follow(&mut self, before: &Self) {
        self.assigned_before = before.assigned_before + before.assigned.len() as u64;
        self.changes = before.changes + 1;
    }
}
