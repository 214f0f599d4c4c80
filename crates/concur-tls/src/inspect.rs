//! What a certificate says.

use rustls::pki_types::CertificateDer;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use x509_cert::Certificate;
use x509_cert::der::asn1::ObjectIdentifier;
use x509_cert::der::{Decode, Tag, Tagged};

const COMMON_NAME: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.4.3");

/// The longest name that is taken.
const NAME_BYTES_MAX: usize = 256;

/// The common name of a certificate's subject, if it has one that is text.
pub(crate) fn common_name(certificate: &CertificateDer<'_>) -> Option<String> {
    let certificate = Certificate::from_der(certificate).ok()?;
    let subject = certificate.tbs_certificate().subject().clone();
    let named = subject.iter().find(|part| part.oid == COMMON_NAME)?;
    if !matches!(named.value.tag(), Tag::Utf8String | Tag::PrintableString | Tag::Ia5String | Tag::TeletexString) {
        return None;
    }
    let text = std::str::from_utf8(named.value.value()).ok()?;
    (!text.is_empty() && text.len() <= NAME_BYTES_MAX && !text.contains(char::is_control)).then(|| text.to_owned())
}

/// What is wrong with the time in which a certificate counts, at `now`.
pub(crate) fn out_of_time(certificate: &CertificateDer<'_>, now: SystemTime) -> Option<String> {
    let certificate = Certificate::from_der(certificate).ok()?;
    let validity = certificate.tbs_certificate().validity();
    let now = now.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    let (from, to) = (validity.not_before.to_unix_duration(), validity.not_after.to_unix_duration());
    if now > to {
        return Some(format!("expired on {}", validity.not_after));
    }
    (now < from).then(|| format!("does not count before {}", validity.not_before))
}
