//! Users and roles in the durable image.
//!
//! | key | value |
//! | --- | --- |
//! | `a`, `m` | the summary: whether auth is on, the revision, when it was last disabled |
//! | `a`, `r`, name | a role's permissions |
//! | `a`, `u`, name | a user: password, roles, since when |
//!
//! A store that never had a user or role has none of these, and the image that it had before there were any.

use super::{Auth, AuthRevision, Role, User};
use bytes::Bytes;
use concur_core::{Change, Corrupt, Wire, wire_struct};
use std::collections::BTreeSet;

/// The first byte of every key of this part.
pub(crate) const AUTH: u8 = b'a';
const SUMMARY: u8 = b'm';
const ROLE: u8 = b'r';
const USER: u8 = b'u';

const FORMAT: u8 = 1;

/// An entry of the image.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Entry {
    Summary,
    Role(String),
    User(String),
}

struct Summary {
    format: u8,
    enabled: bool,
    revision: AuthRevision,
    disabled_at: AuthRevision,
}

/// A user as kept.
struct Kept {
    password: Bytes,
    no_password: bool,
    roles: BTreeSet<String>,
    since: AuthRevision,
}

wire_struct!(Summary { format, enabled, revision, disabled_at });
wire_struct!(Kept { password, no_password, roles, since });

impl Entry {
    fn key(&self) -> Bytes {
        let (kind, name) = match self {
            Self::Summary => (SUMMARY, ""),
            Self::Role(name) => (ROLE, name.as_str()),
            Self::User(name) => (USER, name.as_str()),
        };
        [&[AUTH, kind], name.as_bytes()].concat().into()
    }
}

/// An entry of the image in plain terms.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PortableAuth {
    /// Whether auth is on, and the revision.
    Summary {
        /// Whether it is.
        enabled: bool,
        /// The revision of users and roles.
        revision: AuthRevision,
    },
    /// A role.
    Role {
        /// Its name.
        name: String,
        /// What it permits.
        role: Role,
    },
    /// A user.
    User {
        /// The name.
        name: String,
        /// A hash of the password; empty: no password opens this account.
        password: Bytes,
        /// Whether the user comes with a certificate only.
        no_password: bool,
        /// The roles.
        roles: BTreeSet<String>,
    },
}

impl PortableAuth {
    pub(crate) fn read(key: &[u8], value: &Bytes) -> Result<Self, Corrupt> {
        Ok(match key {
            [AUTH, SUMMARY] => {
                let Summary { enabled, revision, .. } = Summary::of(value)?;
                Self::Summary { enabled, revision }
            }
            [AUTH, ROLE, of @ ..] => Self::Role { name: name(of)?, role: Role::from_bytes(value)? },
            [AUTH, USER, of @ ..] => {
                let Kept { password, no_password, roles, .. } = Kept::from_bytes(value)?;
                Self::User { name: name(of)?, password, no_password, roles }
            }
            _ => return Err(Corrupt::new("image: a key of no kind")),
        })
    }

    /// The entry of an image. Tokens of elsewhere mean nothing there, so that none is void for its age.
    pub(crate) fn to_image(&self) -> (Bytes, Bytes) {
        match self.clone() {
            Self::Summary { enabled, revision } => {
                (Entry::Summary.key(), Summary { format: FORMAT, enabled, revision, disabled_at: AuthRevision(0) }.to_bytes())
            }
            Self::Role { name, role } => (Entry::Role(name).key(), role.to_bytes()),
            Self::User { name, password, no_password, roles } => {
                (Entry::User(name).key(), Kept { password, no_password, roles, since: AuthRevision(0) }.to_bytes())
            }
        }
    }
}

impl Summary {
    fn of(value: &Bytes) -> Result<Self, Corrupt> {
        let summary = Self::from_bytes(value)?;
        if summary.format == FORMAT { Ok(summary) } else { Err(Corrupt::new("image: users and roles of another format")) }
    }
}

fn name(from: &[u8]) -> Result<String, Corrupt> {
    String::from_utf8(from.to_vec()).map_err(|_| Corrupt::new("image: a name that is no text"))
}

impl Auth {
    /// What changed since the last call.
    pub(crate) fn take_changes(&mut self) -> impl Iterator<Item = Change> {
        let dirty = std::mem::take(&mut self.dirty);
        dirty.into_iter().map(|entry| Change { key: entry.key(), value: self.value(&entry) })
    }

    /// All entries, in the order of their keys.
    pub(crate) fn image(&self) -> impl Iterator<Item = (Bytes, Bytes)> + '_ {
        let summary = (self.revision > AuthRevision::FIRST).then_some(Entry::Summary);
        let roles = self.roles.keys().map(|name| Entry::Role(name.clone()));
        let users = self.users.keys().map(|name| Entry::User(name.clone()));
        summary.into_iter().chain(roles).chain(users).filter_map(|entry| Some((entry.key(), self.value(&entry)?)))
    }

    /// Takes in an entry of an image.
    pub(crate) fn load(&mut self, key: &Bytes, value: &Bytes) -> Result<(), Corrupt> {
        match &key[..] {
            [AUTH, SUMMARY] => {
                let summary = Summary::of(value)?;
                (self.enabled, self.revision, self.disabled_at) = (summary.enabled, summary.revision, summary.disabled_at);
            }
            [AUTH, ROLE, of @ ..] => {
                self.roles.insert(name(of)?, Role::from_bytes(value)?);
            }
            [AUTH, USER, of @ ..] => {
                let Kept { password, no_password, roles, since } = Kept::from_bytes(value)?;
                let name = name(of)?;
                self.users.insert(name.clone(), User { password, no_password, roles, since, ..User::default() });
                // Roles come before users in the order of keys.
                self.merge_grants(&name);
            }
            _ => return Err(Corrupt::new("image: a key of no kind")),
        }
        Ok(())
    }

    fn value(&self, entry: &Entry) -> Option<Bytes> {
        match entry {
            Entry::Summary => {
                let (enabled, revision, disabled_at) = (self.enabled, self.revision, self.disabled_at);
                Some(Summary { format: FORMAT, enabled, revision, disabled_at }.to_bytes())
            }
            Entry::Role(name) => self.roles.get(name).map(Wire::to_bytes),
            Entry::User(name) => self.users.get(name).map(|user| {
                let User { password, no_password, roles, since, .. } = user.clone();
                Kept { password, no_password, roles, since }.to_bytes()
            }),
        }
    }
}
