//! Commands and queries on somebody's account.
//!
//! An account is written in front of a command or query that stays as it is, so that a front door puts one there without reading
//! what it passes on. Under an account there is no other: what claims one already is refused.

use super::Asker;
use crate::command::{Command, FORMAT_AUTH, Query};
use bytes::Bytes;
use concur_core::Wire;
use concur_core::wire::encoded;

/// The tag of a command on an account.
pub(crate) const COMMAND_AS: u8 = 15;
/// The tag of a query on an account.
pub(crate) const QUERY_AS: u8 = 12;

impl Command {
    /// The command on a node's own account.
    pub fn by_node(self) -> Self {
        Self::As { asker: Asker::Node, command: Box::new(self) }
    }

    /// The encoding of a command on somebody's account; on nobody's it is that of the command.
    pub fn to_bytes_as(&self, asker: &Asker) -> Bytes {
        encoded(|out| {
            put_account(COMMAND_AS, asker, out);
            self.put(out);
        })
    }

    /// Who asks, and for what.
    pub fn apart(&self) -> (&Asker, &Self) {
        match self {
            Self::As { asker, command } => (asker, command),
            command => (&Asker::Nobody, command),
        }
    }
}

impl Query {
    /// Who asks, and for what.
    pub fn apart(&self) -> (&Asker, &Self) {
        match self {
            Self::As { asker, query } => (asker, query),
            query => (&Asker::Nobody, query),
        }
    }
}

/// Puts an encoded command that came from outside on an account. `None` if it claims one already.
pub fn command_as(asker: &Asker, command: &Bytes) -> Option<Bytes> {
    under(COMMAND_AS, asker, command)
}

/// Puts an encoded query that came from outside on an account. `None` if it claims one already.
pub fn query_as(asker: &Asker, query: &Bytes) -> Option<Bytes> {
    under(QUERY_AS, asker, query)
}

pub(crate) fn put_account(tag: u8, asker: &Asker, out: &mut Vec<u8>) {
    if *asker != Asker::Nobody {
        out.push(FORMAT_AUTH);
        out.push(tag);
        asker.put(out);
    }
}

fn under(tag: u8, asker: &Asker, body: &Bytes) -> Option<Bytes> {
    if body.starts_with(&[FORMAT_AUTH, tag]) {
        return None;
    }
    if *asker == Asker::Nobody {
        return Some(body.clone());
    }
    Some(encoded(|out| {
        put_account(tag, asker, out);
        out.extend_from_slice(body);
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{AuthCommand, AuthRevision};

    fn alice() -> Asker {
        Asker::User { name: "alice".into(), revision: AuthRevision(7) }
    }

    #[test]
    fn what_is_put_on_an_account_reads_as_if_made_so() {
        let command = Command::Auth(AuthCommand::Enable);
        let made = Command::As { asker: alice(), command: Box::new(command.clone()) };
        assert_eq!(command.to_bytes_as(&alice()), made.to_bytes());
        assert_eq!(command_as(&alice(), &command.to_bytes()), Some(made.to_bytes()));
        assert_eq!(command.to_bytes_as(&Asker::Nobody), command.to_bytes());
        let query = Query::As { asker: alice(), query: Box::new(Query::Users) };
        assert_eq!(query_as(&alice(), &Query::Users.to_bytes()), Some(query.to_bytes()));
        assert_eq!(Query::from_bytes(&query.to_bytes()), Ok(query));
    }

    #[test]
    fn no_account_is_under_another_however_deep() {
        let forged = Command::Forget.by_node().to_bytes();
        assert_eq!(command_as(&alice(), &forged), None);
        let mut twice = forged.to_vec();
        for _ in 0..100_000 {
            twice.splice(0..0, [FORMAT_AUTH, COMMAND_AS, 1]);
        }
        assert!(Command::from_bytes(&Bytes::from(twice)).is_err());
        let node = Query::As { asker: Asker::Node, query: Box::new(Query::Users) };
        assert_eq!(query_as(&alice(), &node.to_bytes()), None);
        let within = Command::As { asker: alice(), command: Box::new(Command::Read(node)) };
        assert!(Command::from_bytes(&within.to_bytes()).is_err(), "a decided read has the account of its command");
    }
}
