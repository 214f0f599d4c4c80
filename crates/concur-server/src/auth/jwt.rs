//! Tokens that say themselves who shows them: JSON Web Tokens with etcd's claims, `username`, `revision` and `exp`.
//!
//! A node with a public key only reads tokens that somebody else signs; it lets nobody in by password. Signing runs off the node's
//! thread, reading does not: it takes some tens of microseconds.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use concur_kv::{Asker, AuthRevision};
use jsonwebtoken::{Algorithm, AlgorithmFamily, DecodingKey, EncodingKey, Header, Validation};
use serde::{Deserialize, Serialize};
use tonic::Status;

use super::ring_crypto;

/// What is signed.
#[derive(Serialize)]
struct Claims {
    username: String,
    revision: u64,
    /// Seconds since 1970.
    exp: u64,
}

/// What is read: whoever signs may write numbers with a point, and leave the end out, as with etcd.
#[derive(Deserialize)]
struct Claimed {
    username: String,
    revision: f64,
    exp: Option<f64>,
}

/// Reads tokens, and signs them if there is a key for it.
pub(super) struct Jwt {
    algorithm: Algorithm,
    validation: Validation,
    reads: DecodingKey,
    signs: Option<Arc<EncodingKey>>,
    ttl: Duration,
}

impl std::fmt::Debug for Jwt {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Jwt({:?})", self.algorithm)
    }
}

impl Jwt {
    /// Of keys in PEM; for an HMAC the private one is the secret, as it stands in its file. The error says what is wrong.
    pub(super) fn new(algorithm: Algorithm, public: Option<Vec<u8>>, private: Option<Vec<u8>>, ttl: Duration) -> Result<Self, String> {
        ring_crypto::install();
        let signs = private.as_deref().map(|pem| signing_key(algorithm, pem)).transpose()?;
        let own = signs.as_ref().map(|key| ring_crypto::public_of(algorithm, key)).transpose()?;
        let given = public.as_deref().filter(|_| algorithm.family() != AlgorithmFamily::Hmac);
        let given = given.map(|pem| reading_key(algorithm, pem)).transpose()?;
        let reads = match (own, given) {
            (None, None) => return Err("no priv-key and no pub-key is given".into()),
            (None, Some(given)) => given,
            (Some(own), None) => own,
            (Some(own), Some(given)) if own.try_get_as_bytes().ok() == given.try_get_as_bytes().ok() => own,
            (Some(_), Some(_)) => return Err("the public key is not that of the private key".into()),
        };
        let mut validation = Validation::new(algorithm);
        validation.required_spec_claims.clear();
        validation.leeway = 0;
        let jwt = Self { algorithm, validation, reads, signs: signs.map(Arc::new), ttl };
        jwt.try_out()?;
        Ok(jwt)
    }

    /// Who a token says shows it, if its signature and time hold.
    pub(super) fn read(&self, token: &str) -> Option<Asker> {
        let read = jsonwebtoken::decode::<Claimed>(token, &self.reads, &self.validation).ok()?;
        let Claimed { username, revision, exp } = read.claims;
        // The second named is the first in which it is no longer good.
        let holds = exp.is_none_or(|exp| exp > now_s() as f64);
        holds.then_some(Asker::User { name: username, revision: AuthRevision(revision as u64) })
    }

    /// A token for a user.
    pub(super) async fn sign(&self, user: &str, revision: AuthRevision) -> Result<String, Status> {
        let verify_only = || Status::unknown("auth: token signing attempted with verify-only key");
        let key = self.signs.clone().ok_or_else(verify_only)?;
        let (header, claims) = (Header::new(self.algorithm), self.claims(user, revision));
        let signed = tokio::task::spawn_blocking(move || jsonwebtoken::encode(&header, &claims, &key)).await;
        signed.ok().and_then(Result::ok).ok_or_else(|| Status::internal("concur: the token cannot be signed"))
    }

    fn claims(&self, user: &str, revision: AuthRevision) -> Claims {
        Claims { username: user.to_owned(), revision: revision.0, exp: now_s() + self.ttl.as_secs().max(1) }
    }

    /// Signs and reads a token, so that a key of the wrong kind is found when the node starts.
    fn try_out(&self) -> Result<(), String> {
        let Some(key) = &self.signs else { return Ok(()) };
        let claims = self.claims("nobody", AuthRevision::FIRST);
        let token = jsonwebtoken::encode(&Header::new(self.algorithm), &claims, key).map_err(|error| error.to_string())?;
        let read = self.read(&token).is_some();
        if read { Ok(()) } else { Err("a token signed with the private key does not read as signed".into()) }
    }
}

fn signing_key(algorithm: Algorithm, pem: &[u8]) -> Result<EncodingKey, String> {
    let key = match algorithm.family() {
        AlgorithmFamily::Hmac if pem.is_empty() => return Err("the secret is empty".into()),
        AlgorithmFamily::Hmac => return Ok(EncodingKey::from_secret(pem)),
        AlgorithmFamily::Rsa => EncodingKey::from_rsa_pem(pem),
        AlgorithmFamily::Ec => EncodingKey::from_ec_pem(pem),
        AlgorithmFamily::Ed => EncodingKey::from_ed_pem(pem),
    };
    key.map_err(|error| format!("the private key cannot be read: {error}"))
}

fn reading_key(algorithm: Algorithm, pem: &[u8]) -> Result<DecodingKey, String> {
    let key = match algorithm.family() {
        AlgorithmFamily::Hmac => return Ok(DecodingKey::from_secret(pem)),
        AlgorithmFamily::Rsa => DecodingKey::from_rsa_pem(pem),
        AlgorithmFamily::Ec => DecodingKey::from_ec_pem(pem),
        AlgorithmFamily::Ed => DecodingKey::from_ed_pem(pem),
    };
    key.map_err(|error| format!("the public key cannot be read: {error}"))
}

fn now_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    macro_rules! key {
        ($file:literal) => {
            Some(include_bytes!(concat!("../../tests/keys/", $file)).to_vec())
        };
    }

    fn alice(revision: u64) -> Asker {
        Asker::User { name: "alice".into(), revision: AuthRevision(revision) }
    }

    #[tokio::test]
    async fn what_is_signed_reads_as_signed_by_every_method() {
        let (hour, secret) = (Duration::from_secs(3600), Some(b"a secret of some length".to_vec()));
        for (algorithm, public, private) in [
            (Algorithm::HS256, None, secret.clone()),
            (Algorithm::HS384, None, secret.clone()),
            (Algorithm::HS512, None, secret),
            (Algorithm::RS256, key!("rsa.pub.pem"), key!("rsa.pem")),
            (Algorithm::RS384, None, key!("rsa.pem")),
            (Algorithm::RS512, None, key!("rsa1.pem")),
            (Algorithm::PS256, None, key!("rsa.pem")),
            (Algorithm::PS384, None, key!("rsa.pem")),
            (Algorithm::PS512, None, key!("rsa.pem")),
            (Algorithm::ES256, key!("ec.pub.pem"), key!("ec.pem")),
            (Algorithm::ES384, None, key!("ec384.pem")),
            (Algorithm::EdDSA, key!("ed.pub.pem"), key!("ed.pem")),
        ] {
            let jwt = Jwt::new(algorithm, public.clone(), private, hour).unwrap_or_else(|error| panic!("{algorithm:?}: {error}"));
            let token = jwt.sign("alice", AuthRevision(7)).await.expect("a token");
            assert_eq!(jwt.read(&token), Some(alice(7)), "{algorithm:?}");
            let (signed, signature) = token.rsplit_once('.').expect("three parts");
            let other = if signature.starts_with('A') { "B" } else { "A" };
            assert_eq!(jwt.read(&format!("{signed}.{other}{}", &signature[1..])), None, "{algorithm:?}");
            if public.is_some() {
                let reads_only = Jwt::new(algorithm, public, None, hour).expect("a key");
                assert_eq!(reads_only.read(&token), Some(alice(7)), "{algorithm:?}");
                let refused = reads_only.sign("alice", AuthRevision(7)).await.expect_err("a refusal");
                assert_eq!(refused.message(), "auth: token signing attempted with verify-only key");
            }
        }
    }

    #[test]
    fn keys_that_do_not_fit_are_refused_when_the_node_starts() {
        let hour = Duration::from_secs(3600);
        for (algorithm, public, private, says) in [
            (Algorithm::RS256, None, None, "no priv-key"),
            (Algorithm::RS256, key!("ec.pub.pem"), None, "public key cannot be read"),
            (Algorithm::RS256, None, key!("ec.pem"), "private key cannot be read"),
            (Algorithm::ES256, None, key!("ec384.pem"), "not of the sign-method's kind"),
            (Algorithm::EdDSA, None, key!("rsa.pem"), "private key cannot be read"),
            (Algorithm::ES384, key!("ec.pub.pem"), key!("ec384.pem"), "not that of the private key"),
            (Algorithm::HS256, None, Some(Vec::new()), "secret is empty"),
        ] {
            let error = Jwt::new(algorithm, public, private, hour).expect_err("a refusal");
            assert!(error.contains(says), "{algorithm:?}: {error}");
        }
    }

    #[test]
    fn tokens_of_others_and_old_ones_are_nobodys() {
        let hour = Duration::from_secs(3600);
        let secret = b"a secret of some length";
        let jwt = Jwt::new(Algorithm::HS256, None, Some(secret.to_vec()), hour).expect("a key");
        let signed = |algorithm, claims: &str, secret: &[u8]| {
            let claims: serde_json::Value = serde_json::from_str(claims).expect("claims");
            jsonwebtoken::encode(&Header::new(algorithm), &claims, &EncodingKey::from_secret(secret)).expect("a token")
        };
        let later = now_s() + 60;
        for (algorithm, claims, secret, reads) in [
            (Algorithm::HS256, format!(r#"{{"username":"alice","revision":3,"exp":{later}}}"#), &secret[..], Some(alice(3))),
            (Algorithm::HS256, r#"{"username":"alice","revision":3.0}"#.to_owned(), secret, Some(alice(3))),
            (Algorithm::HS256, r#"{"username":"alice","revision":3,"exp":1}"#.to_owned(), secret, None),
            (Algorithm::HS256, r#"{"username":"alice"}"#.to_owned(), secret, None),
            (Algorithm::HS256, r#"{"revision":3}"#.to_owned(), secret, None),
            (Algorithm::HS512, r#"{"username":"alice","revision":3}"#.to_owned(), secret, None),
            (Algorithm::HS256, r#"{"username":"alice","revision":3}"#.to_owned(), b"another", None),
        ] {
            assert_eq!(jwt.read(&signed(algorithm, &claims, secret)), reads, "{algorithm:?} {claims}");
        }
        let unsigned = "eyJhbGciOiJub25lIiwidHlwIjoiSldUIn0.eyJ1c2VybmFtZSI6InJvb3QiLCJyZXZpc2lvbiI6MX0.";
        assert_eq!(jwt.read(unsigned), None);
        // A public key as an HMAC's secret, the oldest trick.
        let rsa = Jwt::new(Algorithm::RS256, key!("rsa.pub.pem"), None, hour).expect("a key");
        let forged = signed(Algorithm::HS256, r#"{"username":"root","revision":9}"#, include_bytes!("../../tests/keys/rsa.pub.pem"));
        assert_eq!(rsa.read(&forged), None);
        for text in ["", ".", "..", "a.b.c", "a.1"] {
            assert_eq!(jwt.read(text), None, "{text:?}");
        }
    }
}
