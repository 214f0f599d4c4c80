//! Who asks, for the native door.
//!
//! A namespace that keeps users (a store, which has a [`Door`]) guards its calls once auth is on there; any other lets everybody in.
//! What comes from outside never claims an account of its own: it is put on the one that its token names.

use std::time::Instant;

use bytes::Bytes;
use concur_kv::{Asker, KvError};
use tonic::{Request, Status};

use super::Native;
use crate::auth::Credentials;
use crate::door::{Door, Level};
use crate::etcd::{kv_error, reads_all, refused};

/// Who may.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Who {
    /// Any user.
    User,
    /// Who has the role `root`.
    Root,
}

/// What a request shows.
pub(super) fn shown<R>(request: &Request<R>) -> Credentials {
    Credentials::of(request.metadata(), request.extensions())
}

impl Native {
    /// Who asks something of a namespace.
    pub(super) async fn asker(&self, namespace: &str, shown: &Credentials) -> Result<Asker, Status> {
        match self.shared.doors.get(namespace).filter(|door| door.pulse().auth().is_enabled()) {
            Some(door) => self.shared.authority.asker(door, shown, self.guard_deadline()).await,
            None => Ok(Asker::Nobody),
        }
    }

    /// Refuses whoever may not do what the store itself does not judge.
    pub(super) async fn permit(&self, namespace: &str, shown: &Credentials, who: Who) -> Result<(), Status> {
        let Some(door) = self.shared.doors.get(namespace).filter(|door| door.pulse().auth().is_enabled()) else { return Ok(()) };
        let asker = self.shared.authority.asker(door, shown, self.guard_deadline()).await?;
        judged(door, asker, who, self.guard_deadline()).await
    }

    /// A command from outside on the account of whoever sent it.
    pub(super) async fn command(&self, namespace: &str, shown: &Credentials, command: Bytes) -> Result<Bytes, Status> {
        if !self.shared.doors.contains_key(namespace) {
            return Ok(command);
        }
        concur_kv::command_as(&self.asker(namespace, shown).await?, &command).ok_or_else(claims_an_account)
    }

    /// A query from outside on the account of whoever sent it.
    pub(super) async fn query(&self, namespace: &str, shown: &Credentials, query: Bytes) -> Result<Bytes, Status> {
        if !self.shared.doors.contains_key(namespace) {
            return Ok(query);
        }
        concur_kv::query_as(&self.asker(namespace, shown).await?, &query).ok_or_else(claims_an_account)
    }

    fn guard_deadline(&self) -> Instant {
        Instant::now() + self.shared.request_time_max
    }
}

async fn judged(door: &Door, asker: Asker, who: Who, deadline: Instant) -> Result<(), Status> {
    let judge = move |kv: &concur_kv::Kv| match who {
        Who::User => kv.auth().check_user(&asker),
        Who::Root => kv.auth().check_root(&asker),
    };
    let verdict: Result<(), KvError> = door.read(Level::Eventual, reads_all(), deadline, judge).await.map_err(refused)?.0;
    verdict.map_err(kv_error)
}

fn claims_an_account() -> Status {
    Status::invalid_argument("a command or query from outside says nothing of who asks: show a token instead")
}
