//! One namespace as the front door sees it, whatever its state machine.

use crate::driver::{Answer, GroupStatus, Handle, Kept};
use bytes::Bytes;
use concur_core::{SessionId, StateMachine};
use concur_peers::Change;
use concur_replica::{InSession, Level, Refused};
use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

type Soon<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// A [`Handle`] without the type of its state machine.
pub(crate) trait Namespace: Send + Sync {
    fn execute(&self, session: Option<InSession>, body: Bytes, timeout: Duration) -> Soon<Answer>;
    fn open_session(&self, session: SessionId, timeout: Duration) -> Soon<Answer>;
    fn query(&self, level: Level, body: Bytes, timeout: Duration) -> Soon<Answer>;
    fn status(&self) -> Soon<Result<GroupStatus, Refused>>;
    fn change(&self, change: Change, timeout: Duration) -> Soon<Answer>;
    fn kept(&self, timeout: Duration) -> Soon<Result<Kept, Refused>>;
}

impl<M: StateMachine> Namespace for Handle<M> {
    fn execute(&self, session: Option<InSession>, body: Bytes, timeout: Duration) -> Soon<Answer> {
        let handle = self.clone();
        Box::pin(async move { Handle::execute(&handle, session, body, timeout).await })
    }

    fn open_session(&self, session: SessionId, timeout: Duration) -> Soon<Answer> {
        let handle = self.clone();
        Box::pin(async move { Handle::open_session(&handle, session, timeout).await })
    }

    fn query(&self, level: Level, body: Bytes, timeout: Duration) -> Soon<Answer> {
        let handle = self.clone();
        Box::pin(async move { Handle::query(&handle, level, body, timeout).await })
    }

    fn status(&self) -> Soon<Result<GroupStatus, Refused>> {
        let handle = self.clone();
        Box::pin(async move { Handle::status(&handle).await })
    }

    fn change(&self, change: Change, timeout: Duration) -> Soon<Answer> {
        let handle = self.clone();
        Box::pin(async move { Handle::change(&handle, change, timeout).await })
    }

    fn kept(&self, timeout: Duration) -> Soon<Result<Kept, Refused>> {
        let handle = self.clone();
        Box::pin(async move { Handle::kept(&handle, timeout).await })
    }
}
