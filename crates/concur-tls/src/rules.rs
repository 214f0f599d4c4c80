//! Which versions and suites are spoken.

use crate::TlsError;
use rustls::crypto::{CryptoProvider, ring};
use rustls::{ProtocolVersion, SupportedCipherSuite, SupportedProtocolVersion};
use std::sync::Arc;

/// A version of TLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Version {
    /// TLS 1.2.
    V12,
    /// TLS 1.3.
    V13,
}

impl Version {
    /// `TLS1.2` or `TLS1.3`.
    pub fn named(text: &str) -> Option<Self> {
        match text {
            "TLS1.2" => Some(Self::V12),
            "TLS1.3" => Some(Self::V13),
            _ => None,
        }
    }

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::V12 => "TLS1.2",
            Self::V13 => "TLS1.3",
        }
    }
}

/// What is spoken by all listeners and all who dial.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rules {
    /// Suites by their registered names; none: all that there are. Those of TLS 1.3 are limited only if one of them is listed.
    pub cipher_suites: Vec<String>,
    /// The oldest version.
    pub version_min: Version,
    /// The newest.
    pub version_max: Version,
}

impl Default for Rules {
    fn default() -> Self {
        Self { cipher_suites: Vec::new(), version_min: Version::V12, version_max: Version::V13 }
    }
}

/// The registered name of a suite.
fn name(suite: &SupportedCipherSuite) -> String {
    format!("{:?}", suite.suite()).replace("TLS13_", "TLS_")
}

/// Go leaves the hash out of two names.
fn is_named(suite: &SupportedCipherSuite, text: &str) -> bool {
    let name = name(suite);
    name == text || (text.ends_with("CHACHA20_POLY1305") && name.strip_suffix("_SHA256") == Some(text))
}

fn is_13(suite: &SupportedCipherSuite) -> bool {
    suite.version().version == ProtocolVersion::TLSv1_3
}

impl Rules {
    /// Looks whether all that is asked for is there.
    pub fn check(&self) -> Result<(), TlsError> {
        if self.version_min > self.version_max {
            let what = format!("the oldest version of TLS ({}) is above the newest ({})", self.version_min.name(), self.version_max.name());
            return Err(TlsError::Unknown { what, known: "TLS1.2 and TLS1.3".into() });
        }
        let known = ring::ALL_CIPHER_SUITES;
        if let Some(wrong) = self.cipher_suites.iter().find(|text| !known.iter().any(|suite| is_named(suite, text))) {
            let known = known.iter().map(name).collect::<Vec<_>>().join(", ");
            return Err(TlsError::Unknown { what: format!("no cipher suite is called `{wrong}`"), known });
        }
        if self.version_min == Version::V13 && !self.cipher_suites.is_empty() && !self.limits_13() {
            let what = "cipher suites of TLS 1.2 are listed where only TLS 1.3 is spoken".to_owned();
            return Err(TlsError::Unknown { what, known: "none that both allow".into() });
        }
        Ok(())
    }

    /// Whether suites of TLS 1.3 are listed.
    fn limits_13(&self) -> bool {
        let of_13 = ring::ALL_CIPHER_SUITES.iter().filter(|suite| is_13(suite));
        of_13.into_iter().any(|suite| self.cipher_suites.iter().any(|text| is_named(suite, text)))
    }

    fn suites(&self) -> impl Iterator<Item = SupportedCipherSuite> {
        let listed = |suite: &SupportedCipherSuite| self.cipher_suites.iter().any(|text| is_named(suite, text));
        let limits_13 = self.limits_13();
        let taken = move |suite: &&SupportedCipherSuite| self.cipher_suites.is_empty() || listed(suite) || (is_13(suite) && !limits_13);
        ring::ALL_CIPHER_SUITES.iter().filter(taken).copied()
    }

    pub(crate) fn provider(&self) -> Arc<CryptoProvider> {
        Arc::new(CryptoProvider { cipher_suites: self.suites().collect(), ..ring::default_provider() })
    }

    pub(crate) fn versions(&self) -> Vec<&'static SupportedProtocolVersion> {
        let all = [(Version::V13, &rustls::version::TLS13), (Version::V12, &rustls::version::TLS12)];
        all.into_iter().filter(|(version, _)| (self.version_min..=self.version_max).contains(version)).map(|(_, spoken)| spoken).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn suites_are_those_that_are_named() {
        let rules = |names: &[&str]| Rules { cipher_suites: names.iter().map(|name| (*name).to_owned()).collect(), ..Rules::default() };
        assert_eq!(Rules::default().suites().count(), ring::ALL_CIPHER_SUITES.len());
        let one = rules(&["TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256"]);
        assert!(one.check().is_ok());
        assert_eq!(one.suites().filter(|suite| !is_13(suite)).count(), 1);
        assert_eq!(one.suites().filter(is_13).count(), 3, "what TLS 1.3 has is not limited by names of TLS 1.2");
        assert_eq!(rules(&["TLS_AES_128_GCM_SHA256"]).suites().count(), 1);
        assert!(rules(&["TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305"]).check().is_ok(), "as Go calls it");
        let error = rules(&["TLS_RSA_WITH_RC4_128_SHA"]).check().unwrap_err().to_string();
        assert!(error.contains("C069") && error.contains("RC4") && error.contains("TLS_AES_128_GCM_SHA256"), "{error}");
        let crossed = Rules { version_min: Version::V13, version_max: Version::V12, ..Rules::default() };
        assert!(crossed.check().is_err());
        let only_12 = Rules { version_min: Version::V13, ..one };
        assert!(only_12.check().is_err());
        assert_eq!(Rules { version_max: Version::V12, ..Rules::default() }.versions().len(), 1);
    }
}
