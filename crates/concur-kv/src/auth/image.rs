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
        let name = |from: &[u8]| String::from_utf8(from.to_vec()).map_err(|_| Corrupt::new("image: a name that is no text"));
        match &key[..] {
            [AUTH, SUMMARY] => {
                let summary = Summary::from_bytes(value)?;
                if summary.format != FORMAT {
                    return Err(Corrupt::new("image: users and roles of another format"));
                }
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
