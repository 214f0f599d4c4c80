//! The signatures of tokens, by *ring*: HMAC, RSA (PKCS#1 and PSS), ECDSA on P-256 and P-384, Ed25519.
//!
//! The library that reads and writes the tokens leaves cryptography to whoever provides it. ECDSA on P-521 is not provided.

use jsonwebtoken::crypto::{CryptoProvider, JwtSigner, JwtVerifier, KeyUtils};
use jsonwebtoken::errors::{Error, ErrorKind};
use jsonwebtoken::signature::{self, Signer, Verifier};
use jsonwebtoken::{Algorithm, AlgorithmFamily, DecodingKey, EncodingKey};
use ring::rand::SystemRandom;
use ring::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED, ECDSA_P384_SHA384_FIXED_SIGNING, ED25519,
    EcdsaKeyPair, EcdsaSigningAlgorithm, Ed25519KeyPair, KeyPair, RSA_PKCS1_2048_8192_SHA256, RSA_PKCS1_2048_8192_SHA384,
    RSA_PKCS1_2048_8192_SHA512, RSA_PKCS1_SHA256, RSA_PKCS1_SHA384, RSA_PKCS1_SHA512, RSA_PSS_2048_8192_SHA256, RSA_PSS_2048_8192_SHA384,
    RSA_PSS_2048_8192_SHA512, RSA_PSS_SHA256, RSA_PSS_SHA384, RSA_PSS_SHA512, RsaEncoding, RsaKeyPair, UnparsedPublicKey,
    VerificationAlgorithm,
};
use ring::{hmac, signature as rings};

/// Makes this the process's provider, once.
pub(super) fn install() {
    static PROVIDER: CryptoProvider =
        CryptoProvider { signer_factory: signer, verifier_factory: verifier, key_utils: KeyUtils::new_unimplemented() };
    // Whoever was first installed the same.
    let _ = PROVIDER.install_default();
}

/// The key that reads what `key` signs.
pub(super) fn public_of(algorithm: Algorithm, key: &EncodingKey) -> Result<DecodingKey, String> {
    let unusable = |_| "the private key is not of the sign-method's kind".to_owned();
    Ok(match Private::of(algorithm, key).map_err(unusable)? {
        Private::Secret(_) => DecodingKey::from_secret(key.as_bytes()),
        Private::Rsa(pair, _) => DecodingKey::from_rsa_der(pair.public().as_ref()),
        Private::Ec(pair) => DecodingKey::from_ec_der(pair.public_key().as_ref()),
        Private::Ed(pair) => DecodingKey::from_ed_der(pair.public_key().as_ref()),
    })
}

enum Private {
    Secret(hmac::Key),
    Rsa(Box<RsaKeyPair>, &'static dyn RsaEncoding),
    Ec(Box<EcdsaKeyPair>),
    Ed(Box<Ed25519KeyPair>),
}

impl Private {
    fn of(algorithm: Algorithm, key: &EncodingKey) -> Result<Self, Error> {
        if key.family() != algorithm.family() {
            return Err(ErrorKind::InvalidKeyFormat.into());
        }
        let (bytes, unusable) = (key.as_bytes(), |_| Error::from(ErrorKind::InvalidKeyFormat));
        let ec = |curve: &'static EcdsaSigningAlgorithm| EcdsaKeyPair::from_pkcs8(curve, bytes, &SystemRandom::new());
        Ok(match algorithm {
            Algorithm::ES256 => Self::Ec(Box::new(ec(&ECDSA_P256_SHA256_FIXED_SIGNING).map_err(unusable)?)),
            Algorithm::ES384 => Self::Ec(Box::new(ec(&ECDSA_P384_SHA384_FIXED_SIGNING).map_err(unusable)?)),
            Algorithm::EdDSA => Self::Ed(Box::new(Ed25519KeyPair::from_pkcs8_maybe_unchecked(bytes).map_err(unusable)?)),
            _ => match (hmac_of(algorithm), padding_of(algorithm)) {
                (Some(hash), _) => Self::Secret(hmac::Key::new(hash, bytes)),
                (_, Some(padding)) => Self::Rsa(Box::new(RsaKeyPair::from_der(bytes).map_err(unusable)?), padding),
                _ => return Err(ErrorKind::InvalidAlgorithm.into()),
            },
        })
    }

    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, ring::error::Unspecified> {
        match self {
            Self::Secret(key) => Ok(hmac::sign(key, message).as_ref().to_vec()),
            Self::Rsa(pair, padding) => {
                let mut signed = vec![0; pair.public().modulus_len()];
                pair.sign(*padding, &SystemRandom::new(), message, &mut signed)?;
                Ok(signed)
            }
            Self::Ec(pair) => Ok(pair.sign(&SystemRandom::new(), message)?.as_ref().to_vec()),
            Self::Ed(pair) => Ok(pair.sign(message).as_ref().to_vec()),
        }
    }
}

fn hmac_of(algorithm: Algorithm) -> Option<hmac::Algorithm> {
    match algorithm {
        Algorithm::HS256 => Some(hmac::HMAC_SHA256),
        Algorithm::HS384 => Some(hmac::HMAC_SHA384),
        Algorithm::HS512 => Some(hmac::HMAC_SHA512),
        _ => None,
    }
}

fn padding_of(algorithm: Algorithm) -> Option<&'static dyn RsaEncoding> {
    match algorithm {
        Algorithm::RS256 => Some(&RSA_PKCS1_SHA256),
        Algorithm::RS384 => Some(&RSA_PKCS1_SHA384),
        Algorithm::RS512 => Some(&RSA_PKCS1_SHA512),
        Algorithm::PS256 => Some(&RSA_PSS_SHA256),
        Algorithm::PS384 => Some(&RSA_PSS_SHA384),
        Algorithm::PS512 => Some(&RSA_PSS_SHA512),
        _ => None,
    }
}

fn check_of(algorithm: Algorithm) -> Option<&'static dyn VerificationAlgorithm> {
    Some(match algorithm {
        Algorithm::RS256 => &RSA_PKCS1_2048_8192_SHA256,
        Algorithm::RS384 => &RSA_PKCS1_2048_8192_SHA384,
        Algorithm::RS512 => &RSA_PKCS1_2048_8192_SHA512,
        Algorithm::PS256 => &RSA_PSS_2048_8192_SHA256,
        Algorithm::PS384 => &RSA_PSS_2048_8192_SHA384,
        Algorithm::PS512 => &RSA_PSS_2048_8192_SHA512,
        Algorithm::ES256 => &ECDSA_P256_SHA256_FIXED,
        Algorithm::ES384 => &ECDSA_P384_SHA384_FIXED,
        Algorithm::EdDSA => &ED25519,
        _ => return None,
    })
}

struct Signs(Algorithm, Private);

impl Signer<Vec<u8>> for Signs {
    fn try_sign(&self, message: &[u8]) -> Result<Vec<u8>, signature::Error> {
        self.1.sign(message).map_err(|_| signature::Error::new())
    }
}

impl JwtSigner for Signs {
    fn algorithm(&self) -> Algorithm {
        self.0
    }
}

fn signer(algorithm: &Algorithm, key: &EncodingKey) -> Result<Box<dyn JwtSigner>, Error> {
    Ok(Box::new(Signs(*algorithm, Private::of(*algorithm, key)?)))
}

enum Public {
    Secret(hmac::Key),
    Key(rings::UnparsedPublicKey<Vec<u8>>),
}

struct Verifies(Algorithm, Public);

impl Verifier<Vec<u8>> for Verifies {
    fn verify(&self, message: &[u8], signed: &Vec<u8>) -> Result<(), signature::Error> {
        let verdict = match &self.1 {
            Public::Secret(key) => hmac::verify(key, message, signed),
            Public::Key(key) => key.verify(message, signed),
        };
        verdict.map_err(|_| signature::Error::new())
    }
}

impl JwtVerifier for Verifies {
    fn algorithm(&self) -> Algorithm {
        self.0
    }
}

fn verifier(algorithm: &Algorithm, key: &DecodingKey) -> Result<Box<dyn JwtVerifier>, Error> {
    // A public key must never serve as a secret.
    let hmac = algorithm.family() == AlgorithmFamily::Hmac;
    if key.family() != algorithm.family() {
        return Err(ErrorKind::InvalidKeyFormat.into());
    }
    let bytes = key.try_get_as_bytes()?;
    let public = match (hmac_of(*algorithm), check_of(*algorithm)) {
        (Some(hash), _) if hmac => Public::Secret(hmac::Key::new(hash, bytes)),
        (_, Some(check)) => Public::Key(UnparsedPublicKey::new(check, bytes.to_vec())),
        _ => return Err(ErrorKind::InvalidAlgorithm.into()),
    };
    Ok(Box::new(Verifies(*algorithm, public)))
}
