//! Passwords and their bcrypt hashes.
//!
//! Hashing is slow on purpose, so it runs on threads of its own, a few at a time; a bounded number waits, and beyond it a request is
//! refused at once. Passwords themselves go no further than this.

use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::Semaphore;
use tonic::Status;

use crate::etcd::errors;

/// Hashes made or compared at once.
const AT_ONCE: usize = 2;

/// Requests that wait for one, those under way included.
const WAITING_MAX: usize = 256;

/// What bcrypt takes.
const PASSWORD_BYTES_MAX: usize = 72;

#[derive(Debug)]
pub(crate) struct Passwords {
    cost: u32,
    places: Semaphore,
    turns: Arc<Semaphore>,
}

impl Passwords {
    pub(super) fn new(cost: u32) -> Self {
        Self { cost, places: Semaphore::new(WAITING_MAX), turns: Arc::new(Semaphore::new(AT_ONCE)) }
    }

    /// A hash of a password.
    pub(crate) async fn hash(&self, password: String) -> Result<Bytes, Status> {
        if password.len() > PASSWORD_BYTES_MAX {
            return Err(Status::unknown("bcrypt: password length exceeds 72 bytes"));
        }
        let cost = self.cost;
        let hashed = self.slowly(move || bcrypt::hash(password, cost)).await?;
        hashed.map(Bytes::from).map_err(|error| Status::internal(format!("concur: the password cannot be hashed: {error}")))
    }

    /// Whether a password matches a hash. No password matches what is no hash.
    pub(crate) async fn matches(&self, password: String, hash: Bytes) -> Result<bool, Status> {
        let compare = move || std::str::from_utf8(&hash).is_ok_and(|hash| bcrypt::verify(password, hash).unwrap_or(false));
        self.slowly(compare).await
    }

    async fn slowly<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Result<T, Status> {
        let _place = self.places.try_acquire().map_err(|_| Status::from(errors::TOO_MANY_REQUESTS))?;
        // The turn goes with the work: whoever gives up waiting does not end it.
        let turn = self.turns.clone().acquire_owned().await.map_err(|_| Status::from(errors::STOPPED))?;
        let run = move || {
            let done = work();
            drop(turn);
            done
        };
        tokio::task::spawn_blocking(run).await.map_err(|_| errors::STOPPED.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_password_matches_its_own_hash() {
        let passwords = Passwords::new(4);
        let hash = passwords.hash("secret".into()).await.expect("a hash");
        assert!(hash.starts_with(b"$2b$04$"), "{hash:?}");
        assert_eq!(passwords.matches("secret".into(), hash.clone()).await.ok(), Some(true));
        assert_eq!(passwords.matches("other".into(), hash).await.ok(), Some(false));
        assert_eq!(passwords.matches(String::new(), Bytes::new()).await.ok(), Some(false));
        // As etcd's own library writes it.
        let theirs = Bytes::from_static(b"$2a$10$N9qo8uLOickgx2ZMRZoMyeIjZAgcfl7p92ldGxad68LJZdL17lhWy");
        assert_eq!(passwords.matches("other".into(), theirs).await.ok(), Some(false));
        let long = passwords.hash("x".repeat(73)).await.expect_err("a refusal");
        assert_eq!(long.message(), "bcrypt: password length exceeds 72 bytes");
        assert!(passwords.hash("x".repeat(72)).await.is_ok());
    }
}
