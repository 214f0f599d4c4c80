//! Who asks: passwords, tokens and certificates, in front of the store's users and roles.
//!
//! The store judges what a user may do ([`concur_kv::Auth`]); what stands here finds out which user it is. A request shows a token in
//! its metadata, or came over a connection whose certificate names somebody (its credentials); the [`Authority`] turns that into an
//! [`Asker`], which travels with the command or read to where it is judged. While auth is off none of it is looked at.
//!
//! **Passwords** (`passwords.rs`) are kept as bcrypt hashes, made and compared off the node's thread, few at a time.
//!
//! **Simple tokens** are sixteen random letters and a number. Authenticating is a command, by which every node learns a digest of
//! the token ([`Known`]), so that it is good at each of them. A node forgets one that was not shown to it for its time to live, that
//! its user's end or new password voids, or with the end of the process; whoever shows it authenticates again. A node that does not
//! know a token catches up with the others once before it says no.
//!
//! **JWT** (`jwt.rs`): the token itself says who and under which revision, signed; nothing is kept, and nothing but its time and a
//! later revision of the users ends it.
//!
//! Not here: TLS, which only leaves the name of a verified certificate with the request ([`ClientName`]), and which call needs what.

mod jwt;
mod known;
mod options;
mod passwords;
mod ring_crypto;

pub use known::Known;
pub use options::{AuthOptions, AuthOptionsError, TOKEN_TTL};

use std::time::Instant;

use concur_kv::{Asker, AuthRevision};
use http::Extensions;
use ring::rand::{SecureRandom, SystemRandom};
use tonic::Status;
use tonic::metadata::MetadataMap;

use concur_tls::ClientName;

use crate::door::{Door, Level};
use crate::etcd::{errors, reads_all, refused};
use jwt::Jwt;
use passwords::Passwords;

/// Letters in front of the number of a simple token.
const TOKEN_LETTERS: usize = 16;

/// What a request shows of who it comes from.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Credentials {
    token: Option<String>,
    common_name: Option<ClientName>,
}

impl Credentials {
    /// As etcd reads them: a token in `token`, else in `authorization`; else the certificate, unless a gateway passes the request on
    /// for somebody else.
    pub(crate) fn of(metadata: &MetadataMap, extensions: &Extensions) -> Self {
        let shown = metadata.get("token").or_else(|| metadata.get("authorization"));
        let token = shown.map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned());
        let passed_on = metadata.contains_key("grpcgateway-accept");
        let common_name = extensions.get::<ClientName>().filter(|_| !passed_on).cloned();
        Self { token, common_name }
    }
}

/// How tokens are made and read.
#[derive(Debug)]
enum Tokens {
    Simple,
    Jwt(Box<Jwt>),
}

/// Finds out who asks, and lets users in.
#[derive(Debug)]
pub struct Authority {
    tokens: Tokens,
    passwords: Passwords,
}

impl Default for Authority {
    fn default() -> Self {
        Self { tokens: Tokens::Simple, passwords: Passwords::new(options::BCRYPT_COST) }
    }
}

/// A token for a user, and what must be decided before it is good.
pub(crate) struct Fresh {
    pub(crate) token: String,
    /// A digest that every node must learn, if it must.
    pub(crate) digest: Option<[u8; 32]>,
}

impl Authority {
    /// As the options say; reads the keys that they name.
    pub fn new(options: &AuthOptions) -> Result<Self, AuthOptionsError> {
        let tokens = options.tokens()?.map_or(Tokens::Simple, |jwt| Tokens::Jwt(Box::new(jwt)));
        Ok(Self { tokens, passwords: Passwords::new(options.bcrypt_cost) })
    }

    /// Who shows these credentials. Called only while auth is on at this node.
    pub(crate) async fn asker(&self, door: &Door, shown: &Credentials, deadline: Instant) -> Result<Asker, Status> {
        let known = door.pulse().auth();
        let user = |name: String| Asker::User { name, revision: known.revision() };
        match (&shown.token, &shown.common_name, &self.tokens) {
            (Some(token), _, Tokens::Jwt(jwt)) => jwt.read(token).ok_or_else(|| errors::INVALID_AUTH_TOKEN.into()),
            (Some(token), _, Tokens::Simple) => simple(door, token, deadline).await.map(user),
            (None, Some(ClientName(name)), _) => Ok(user(name.to_string())),
            (None, None, _) => Ok(Asker::Nobody),
        }
    }

    /// A token for a user whose password was checked at a revision.
    pub(crate) async fn token(&self, user: &str, revision: AuthRevision) -> Result<Fresh, Status> {
        match &self.tokens {
            Tokens::Jwt(jwt) => Ok(Fresh { token: jwt.sign(user, revision).await?, digest: None }),
            Tokens::Simple => {
                let token = format!("{}.{revision}", random_letters()?);
                let digest = known::digest(&token);
                Ok(Fresh { token, digest: Some(digest) })
            }
        }
    }

    pub(crate) fn passwords(&self) -> &Passwords {
        &self.passwords
    }
}

/// Whose a simple token is. A node that does not know it may only be behind the one that assigned it.
async fn simple(door: &Door, token: &str, deadline: Instant) -> Result<String, Status> {
    let invalid = || errors::INVALID_AUTH_TOKEN.into();
    let numbered = token.rsplit_once('.').is_some_and(|(letters, number)| !letters.is_empty() && number.parse::<u64>().is_ok());
    if !numbered {
        return Err(invalid());
    }
    let digest = known::digest(token);
    if let Some(user) = door.pulse().auth().user_of(&digest) {
        return Ok(user);
    }
    let pulse = door.pulse().clone();
    let look = move |kv: &concur_kv::Kv| {
        pulse.auth().observe(kv.auth());
        pulse.auth().user_of(&digest)
    };
    let (user, _) = door.read(Level::Strong, reads_all(), deadline, look).await.map_err(refused)?;
    user.ok_or_else(invalid)
}

fn random_letters() -> Result<String, Status> {
    const LETTERS: &[u8; 52] = b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ";
    let (random, mut letters) = (SystemRandom::new(), String::with_capacity(TOKEN_LETTERS));
    while letters.len() < TOKEN_LETTERS {
        let mut bytes = [0; TOKEN_LETTERS];
        random.fill(&mut bytes).map_err(|_| Status::internal("concur: the operating system gives no random numbers"))?;
        // Those that no whole round of the alphabet reaches are left out, or some letters would come more often.
        let fair = bytes.iter().filter(|&&byte| usize::from(byte) < LETTERS.len() * 4);
        letters.extend(fair.take(TOKEN_LETTERS - letters.len()).map(|&byte| char::from(LETTERS[usize::from(byte) % LETTERS.len()])));
    }
    Ok(letters)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_shows_its_token_or_else_its_certificate() {
        let (mut metadata, mut extensions) = (MetadataMap::new(), Extensions::new());
        assert_eq!(Credentials::of(&metadata, &extensions), Credentials::default());
        let name = ClientName("alice".into());
        extensions.insert(name.clone());
        let certified = Credentials { token: None, common_name: Some(name) };
        assert_eq!(Credentials::of(&metadata, &extensions), certified);
        metadata.insert("authorization", "second".parse().expect("a value"));
        assert_eq!(Credentials::of(&metadata, &extensions).token.as_deref(), Some("second"));
        metadata.insert("token", "first".parse().expect("a value"));
        assert_eq!(Credentials::of(&metadata, &extensions).token.as_deref(), Some("first"));
        let mut passed_on = MetadataMap::new();
        passed_on.insert("grpcgateway-accept", "*/*".parse().expect("a value"));
        assert_eq!(Credentials::of(&passed_on, &extensions), Credentials::default(), "the gateway's certificate is nobody's");
    }

    #[test]
    fn letters_are_letters_and_differ() {
        let (a, b) = (random_letters().expect("letters"), random_letters().expect("letters"));
        assert!(a.len() == TOKEN_LETTERS && a.bytes().all(|byte| byte.is_ascii_alphabetic()), "{a}");
        assert_ne!(a, b);
    }
}
