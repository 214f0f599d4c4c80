//! How tokens are made, as `--auth-token` says in etcd's words: `simple`, or `jwt` with its keys.

use std::path::{Path, PathBuf};
use std::time::Duration;

use jsonwebtoken::Algorithm;

use super::jwt::Jwt;

/// How long a simple token lives after it was last shown, unless something else is said.
pub const TOKEN_TTL: Duration = Duration::from_secs(300);

/// How much a hash of a password costs, unless something else is said.
pub(super) const BCRYPT_COST: u32 = 10;

/// How long a JWT lives, unless its options say so.
const JWT_TTL: Duration = Duration::from_secs(300);

/// What a node is told of passwords and tokens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuthOptions {
    /// `simple`, or `jwt,sign-method=NAME` with `priv-key=FILE`, `pub-key=FILE`, `ttl=DURATION`.
    pub auth_token: String,
    /// How long a simple token lives after it was last shown.
    pub token_ttl: Duration,
    /// The cost of a hash of a password: 4 to 31, each one more doubles it.
    pub bcrypt_cost: u32,
}

impl Default for AuthOptions {
    fn default() -> Self {
        Self { auth_token: "simple".into(), token_ttl: TOKEN_TTL, bcrypt_cost: BCRYPT_COST }
    }
}

/// Why the options cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum AuthOptionsError {
    /// They are not of the form.
    #[error("--auth-token: {what}. Write `simple`, or `jwt,sign-method=RS256,pub-key=FILE,priv-key=FILE,ttl=5m`")]
    Form {
        /// What is wrong.
        what: String,
    },
    /// A key cannot be read.
    #[error("--auth-token: {}: {source}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// The operating system's answer.
        source: std::io::Error,
    },
    /// A key cannot be used.
    #[error(
        "--auth-token: {what}. Keys are PEM: an RSA key, or an EC or Ed25519 key in PKCS#8 (`openssl pkcs8 -topk8 -nocrypt` makes one)"
    )]
    Key {
        /// What is wrong.
        what: String,
    },
}

impl AuthOptions {
    /// What reads and signs tokens, if they are JWT.
    pub(super) fn tokens(&self) -> Result<Option<Jwt>, AuthOptionsError> {
        let mut parts = self.auth_token.split(',');
        match parts.next() {
            Some("simple") => Ok(None),
            Some("jwt") => JwtOptions::of(parts)?.jwt().map(Some),
            kind => Err(form(format!("there are no tokens of the kind `{}`", kind.unwrap_or_default()))),
        }
    }
}

/// What follows `jwt`.
#[derive(Default)]
struct JwtOptions {
    method: Option<String>,
    public: Option<PathBuf>,
    private: Option<PathBuf>,
    ttl: Option<Duration>,
}

impl JwtOptions {
    fn of<'t>(parts: impl Iterator<Item = &'t str>) -> Result<Self, AuthOptionsError> {
        let mut options = Self::default();
        for part in parts {
            let (name, value) = part.split_once('=').filter(|(_, value)| !value.contains('=')).ok_or_else(|| form(format!("`{part}`")))?;
            let twice = match name {
                "sign-method" => options.method.replace(value.to_owned()).is_some(),
                "pub-key" => options.public.replace(value.into()).is_some(),
                "priv-key" => options.private.replace(value.into()).is_some(),
                "ttl" => options.ttl.replace(go_duration(value).ok_or_else(|| form(format!("`{value}` is no duration")))?).is_some(),
                _ => return Err(form(format!("there is no option `{name}`"))),
            };
            if twice {
                return Err(form(format!("`{name}` is given twice")));
            }
        }
        Ok(options)
    }

    fn jwt(&self) -> Result<Jwt, AuthOptionsError> {
        let method = self.method.as_deref().ok_or_else(|| form("no sign-method is given".into()))?;
        let algorithm: Algorithm = method.parse().map_err(|_| form(format!("the sign-method `{method}` is not served")))?;
        let read = |path: &Option<PathBuf>| path.as_deref().map(read).transpose();
        Jwt::new(algorithm, read(&self.public)?, read(&self.private)?, self.ttl.unwrap_or(JWT_TTL))
            .map_err(|what| AuthOptionsError::Key { what })
    }
}

fn form(what: String) -> AuthOptionsError {
    AuthOptionsError::Form { what }
}

fn read(path: &Path) -> Result<Vec<u8>, AuthOptionsError> {
    std::fs::read(path).map_err(|source| AuthOptionsError::File { path: path.to_owned(), source })
}

/// A duration as Go writes it, in whole numbers: `5m`, `1h30m`, `300s`, `500ms`.
fn go_duration(text: &str) -> Option<Duration> {
    let (mut rest, mut total) = (text, Duration::ZERO);
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit())?;
        let count: u64 = rest[..digits].parse().ok()?;
        let units = rest[digits..].find(|c: char| c.is_ascii_digit()).map_or(rest.len(), |at| digits + at);
        let millis = match &rest[digits..units] {
            "h" => count.checked_mul(3_600_000)?,
            "m" => count.checked_mul(60_000)?,
            "s" => count.checked_mul(1000)?,
            "ms" => count,
            _ => return None,
        };
        total = total.checked_add(Duration::from_millis(millis))?;
        rest = &rest[units..];
    }
    Some(total).filter(|total| !total.is_zero())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_that_are_none_are_refused_with_what_is_wrong() {
        for (text, says) in [
            ("", "no tokens of the kind ``"),
            ("nop", "no tokens of the kind `nop`"),
            ("jwt", "no sign-method"),
            ("jwt,sign-method", "`sign-method`"),
            ("jwt,sign-method=RS256,sign-method=RS256", "given twice"),
            ("jwt,sign-method=none", "sign-method `none`"),
            ("jwt,sign-method=HS256,colour=red", "no option `colour`"),
            ("jwt,sign-method=HS256,ttl=soon", "no duration"),
            ("jwt,sign-method=HS256", "priv-key"),
            ("jwt,sign-method=RS256,pub-key=/nowhere", "/nowhere"),
        ] {
            let options = AuthOptions { auth_token: text.into(), ..AuthOptions::default() };
            let error = options.tokens().expect_err(text).to_string();
            assert!(error.contains(says), "{text}: {error}");
        }
        assert!(AuthOptions::default().tokens().expect("simple tokens").is_none());
    }

    #[test]
    fn durations_are_read_as_go_writes_them() {
        for (text, seconds) in [("5m", Some(300)), ("1h30m", Some(5400)), ("300s", Some(300)), ("0s", None), ("", None), ("5", None)] {
            assert_eq!(go_duration(text).map(|d| d.as_secs()), seconds, "{text}");
        }
    }
}
