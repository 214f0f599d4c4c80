//! What a node knows of users and tokens without asking: kept current by the driver, read by every request.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use concur_kv::{Auth, AuthRevision};

use super::TOKEN_TTL;

/// Simple tokens that a node remembers; beyond it the one that was not shown for the longest goes.
const TOKENS_MAX: usize = 100_000;

/// Whether auth is on, the revision, and whose the simple tokens are, as far as this node has executed.
#[derive(Debug)]
pub struct Known {
    enabled: AtomicBool,
    revision: AtomicU64,
    /// One more than the changes seen; 0 before the first look.
    seen: AtomicU64,
    ttl: Duration,
    tokens: Mutex<Tokens>,
}

#[derive(Debug, Default)]
struct Tokens {
    by_digest: HashMap<[u8; 32], Token>,
    /// How many of the assigned ones were taken over.
    taken: u64,
}

#[derive(Debug)]
struct Token {
    user: String,
    assigned: AuthRevision,
    shown: Instant,
}

impl Default for Known {
    fn default() -> Self {
        Self::new(TOKEN_TTL)
    }
}

impl Known {
    /// Nothing is known; a simple token lives for `ttl` after it was last shown.
    pub fn new(ttl: Duration) -> Self {
        let (enabled, revision, seen) = (AtomicBool::new(false), AtomicU64::new(1), AtomicU64::new(0));
        Self { enabled, revision, seen, ttl, tokens: Mutex::default() }
    }

    /// Whether auth is on.
    pub fn is_enabled(&self) -> bool {
        self.enabled.load(Ordering::Relaxed)
    }

    /// The revision of users and roles.
    pub fn revision(&self) -> AuthRevision {
        AuthRevision(self.revision.load(Ordering::Relaxed))
    }

    /// Driver: looks at the users after each step, and when it begins.
    pub fn observe(&self, auth: &Auth) {
        let changes = auth.changes() + 1;
        if self.seen.load(Ordering::Relaxed) == changes {
            return;
        }
        let mut tokens = self.tokens();
        let now = Instant::now();
        let (assigned, ever) = auth.assigned(tokens.taken);
        for assigned in assigned {
            if let Ok(digest) = <[u8; 32]>::try_from(&assigned.token[..]) {
                let token = Token { user: assigned.user.clone(), assigned: assigned.revision, shown: now };
                tokens.by_digest.insert(digest, token);
            }
        }
        tokens.taken = ever;
        tokens.by_digest.retain(|_, token| auth.holds(&token.user, token.assigned) && now - token.shown < self.ttl);
        while tokens.by_digest.len() > TOKENS_MAX {
            let oldest = tokens.by_digest.iter().min_by_key(|(_, token)| token.shown).map(|(digest, _)| *digest);
            oldest.and_then(|digest| tokens.by_digest.remove(&digest));
        }
        self.enabled.store(auth.is_enabled(), Ordering::Relaxed);
        self.revision.store(auth.revision().0, Ordering::Relaxed);
        self.seen.store(changes, Ordering::Relaxed);
    }

    /// Whose a token is, if it is known and was shown lately. It lives on from here.
    pub(super) fn user_of(&self, digest: &[u8; 32]) -> Option<String> {
        let mut tokens = self.tokens();
        let token = tokens.by_digest.get_mut(digest)?;
        if token.shown.elapsed() >= self.ttl {
            tokens.by_digest.remove(digest);
            return None;
        }
        token.shown = Instant::now();
        Some(token.user.clone())
    }

    // One thread holds it, for a moment; a panic leaves it whole.
    fn tokens(&self) -> MutexGuard<'_, Tokens> {
        self.tokens.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What is kept of a token: of one that is not known it tells nothing.
pub(super) fn digest(token: &str) -> [u8; 32] {
    let digest = ring::digest::digest(&ring::digest::SHA256, token.as_bytes());
    let mut bytes = [0; 32];
    bytes.copy_from_slice(digest.as_ref());
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use concur_kv::{AuthCommand, Command, Config, Kv};

    fn execute(kv: &mut Kv, command: AuthCommand) {
        kv.execute(&Command::Auth(command).by_node(), 0);
    }

    fn guarded() -> Kv {
        let mut kv = Kv::new(Config::default());
        let root = || "root".to_owned();
        execute(&mut kv, AuthCommand::UserAdd { name: root(), password: "hash".into(), no_password: false });
        execute(&mut kv, AuthCommand::UserGrantRole { name: root(), role: root() });
        execute(&mut kv, AuthCommand::Enable);
        kv
    }

    fn assign(kv: &mut Kv, token: &str) {
        let revision = kv.auth().revision();
        let token = bytes::Bytes::copy_from_slice(&digest(token));
        execute(kv, AuthCommand::Authenticate { user: "root".into(), token, revision });
    }

    #[test]
    fn a_token_is_known_until_it_is_not_shown_or_void() {
        let mut kv = guarded();
        let known = Known::new(Duration::from_secs(300));
        assert!(!known.is_enabled());
        assign(&mut kv, "a.1");
        known.observe(kv.auth());
        assert!(known.is_enabled());
        assert_eq!(known.user_of(&digest("a.1")).as_deref(), Some("root"));
        assert_eq!(known.user_of(&digest("b.1")), None);
        execute(&mut kv, AuthCommand::RoleAdd { name: "r".into() });
        known.observe(kv.auth());
        assert!(known.user_of(&digest("a.1")).is_some(), "other changes leave it");
        execute(&mut kv, AuthCommand::UserChangePassword { name: "root".into(), password: "new".into() });
        known.observe(kv.auth());
        assert_eq!(known.user_of(&digest("a.1")), None);
        let brief = Known::new(Duration::ZERO);
        assign(&mut kv, "c.1");
        brief.observe(kv.auth());
        assert_eq!(brief.user_of(&digest("c.1")), None, "its time is up");
    }

    #[test]
    fn a_state_that_takes_the_place_of_another_is_looked_at() {
        let known = Known::default();
        let mut kv = Kv::new(Config::default());
        known.observe(kv.auth());
        let image: Vec<_> = guarded().image().collect();
        concur_core::StateMachine::load(&mut kv, &mut image.into_iter()).expect("an image");
        known.observe(kv.auth());
        assert!(known.is_enabled());
        assign(&mut kv, "a.1");
        known.observe(kv.auth());
        assert!(known.user_of(&digest("a.1")).is_some());
    }
}
