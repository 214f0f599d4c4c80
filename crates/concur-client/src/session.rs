//! Sessions: each command has a number in one, and the replicas remember which numbers ran.

use crate::retry::random;
use std::collections::BTreeSet;
use std::sync::{Mutex, MutexGuard};

/// The session of a client.
#[derive(Debug)]
pub(crate) struct Sessions {
    current: Mutex<Session>,
    /// Held by whoever opens one.
    pub(crate) opening: tokio::sync::Mutex<()>,
}

#[derive(Debug)]
struct Session {
    id: u64,
    opened: bool,
    next: u64,
    /// Numbers whose replies are waited for.
    waiting: BTreeSet<u64>,
}

impl Session {
    fn closed() -> Self {
        Self { id: 0, opened: false, next: 1, waiting: BTreeSet::new() }
    }
}

/// No session is open.
#[derive(Debug)]
pub(crate) struct Closed;

/// A command's place in a session; its reply is waited for until this is dropped.
#[derive(Debug)]
pub(crate) struct Numbered<'s> {
    sessions: &'s Sessions,
    pub(crate) session: u64,
    pub(crate) number: u64,
}

impl Sessions {
    pub(crate) fn new() -> Self {
        Self { current: Mutex::new(Session::closed()), opening: tokio::sync::Mutex::new(()) }
    }

    fn lock(&self) -> MutexGuard<'_, Session> {
        self.current.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// The next number, if a session is open.
    pub(crate) fn number(&self) -> Result<Numbered<'_>, Closed> {
        let mut session = self.lock();
        if !session.opened {
            return Err(Closed);
        }
        let number = session.next;
        session.next += 1;
        session.waiting.insert(number);
        Ok(Numbered { sessions: self, session: session.id, number })
    }

    /// A session to be opened, which nobody has tried to open before.
    pub(crate) fn drawn(&self) -> u64 {
        random()
    }

    /// A session is open from now on.
    pub(crate) fn opened(&self, id: u64) {
        *self.lock() = Session { id, opened: true, ..Session::closed() };
    }

    /// The replicas do not know the session: the next command opens another.
    pub(crate) fn lost(&self, id: u64) {
        let mut session = self.lock();
        if session.id == id {
            *session = Session::closed();
        }
    }
}

impl Numbered<'_> {
    /// The client has the replies to all numbers below this one, or asks for them no more.
    pub(crate) fn received_below(&self) -> u64 {
        let session = self.sessions.lock();
        let first = session.waiting.first().copied().unwrap_or(self.number);
        if session.id == self.session { first.min(self.number) } else { 0 }
    }
}

impl Drop for Numbered<'_> {
    fn drop(&mut self) {
        let mut session = self.sessions.lock();
        if session.id == self.session {
            session.waiting.remove(&self.number);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replies_are_received_below_the_first_that_is_waited_for() {
        let sessions = Sessions::new();
        assert!(sessions.number().is_err());
        let id = sessions.drawn();
        sessions.opened(id);
        let (one, two) = (sessions.number().unwrap(), sessions.number().unwrap());
        assert_eq!((one.number, two.number, two.received_below()), (1, 2, 1));
        drop(one);
        let three = sessions.number().unwrap();
        assert_eq!((two.received_below(), three.received_below()), (2, 2));
        drop(two);
        assert_eq!(three.received_below(), 3);
        sessions.lost(id);
        assert_eq!(three.received_below(), 0);
        assert!(sessions.number().is_err());
        assert_ne!(sessions.drawn(), id);
    }
}
