//! The self-signed certificate of DTLS-SRTP.
//!
//! Nobody checks who signed it: the other side compares its SHA-256 with the `a=fingerprint` line of the SDP (RFC 8122
//! §5, RFC 8827 §6.5). So it names nobody and carries no extensions.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use openssl::asn1::{Asn1Integer, Asn1Time};
use openssl::bn::{BigNum, MsbOption};
use openssl::ec::{EcGroup, EcKey};
use openssl::error::ErrorStack;
use openssl::hash::MessageDigest;
use openssl::nid::Nid;
use openssl::pkey::PKey;
use openssl::x509::{X509Builder, X509NameBuilder};
use str0m::config::DtlsCert;

/// Makes a P-256 key and a certificate over it, signed with ECDSA and SHA-256; both in DER, the key as PKCS #8.
///
/// It is valid from [`SLACK`] before `now` until [`LIFETIME`] after. A `now` before 1970 counts as 1970.
///
/// # Errors
///
/// What OpenSSL reports: no entropy, no memory.
pub fn self_signed(now: SystemTime) -> Result<DtlsCert, ErrorStack> {
    let group = EcGroup::from_curve_name(Nid::X9_62_PRIME256V1)?;
    let key = PKey::from_ec_key(EcKey::generate(&group)?)?;
    let name = {
        let mut name = X509NameBuilder::new()?;
        name.append_entry_by_nid(Nid::COMMONNAME, COMMON_NAME)?;
        name.build()
    };

    let mut builder = X509Builder::new()?;
    builder.set_version(X509_V3)?;
    let serial = serial_number()?;
    builder.set_serial_number(&serial)?;
    builder.set_subject_name(&name)?;
    builder.set_issuer_name(&name)?;
    builder.set_not_before(asn1_time(now.checked_sub(SLACK).unwrap_or(UNIX_EPOCH))?.as_ref())?;
    builder.set_not_after(asn1_time(now + LIFETIME)?.as_ref())?;
    builder.set_pubkey(&key)?;
    builder.sign(&key, MessageDigest::sha256())?;

    Ok(DtlsCert { certificate: builder.build().to_der()?, private_key: key.private_key_to_pkcs8()? })
}

/// A random positive number of 127 bits: RFC 5280 §4.1.2.2 allows 20 octets and forbids zero and negative numbers.
fn serial_number() -> Result<Asn1Integer, ErrorStack> {
    let mut serial = BigNum::new()?;
    serial.rand(127, MsbOption::ONE, false)?;
    serial.to_asn1_integer()
}

fn asn1_time(time: SystemTime) -> Result<Asn1Time, ErrorStack> {
    let seconds = time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    Asn1Time::from_unix(i64::try_from(seconds).unwrap_or(i64::MAX))
}

/// What libwebrtc writes too, so it tells nothing about the server.
const COMMON_NAME: &str = "WebRTC";

/// The field counts from zero.
const X509_V3: i32 = 2;

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// A client whose clock is behind by less than this still sees a valid certificate.
const SLACK: Duration = DAY;

/// Longer than any process runs, since the certificate lives as long as the process. Browsers look only at the
/// fingerprint; the rare native client that checks dates would lose every call on a shorter one. A new process has a
/// new key, so a long lifetime keeps no key alive.
const LIFETIME: Duration = Duration::from_secs(3650 * 24 * 60 * 60);

#[cfg(test)]
mod tests {
    use std::cmp::Ordering;

    use openssl::x509::X509;

    use super::*;

    /// 2026-01-01 00:00:00 UTC.
    fn new_year() -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(1_767_225_600)
    }

    #[test]
    fn is_a_self_signed_p256_certificate_over_its_own_key() {
        let made = self_signed(new_year()).unwrap();
        let x509 = X509::from_der(&made.certificate).unwrap();
        let key = PKey::private_key_from_der(&made.private_key).unwrap();

        assert!(x509.verify(&key).unwrap(), "signed by its own key");
        assert!(x509.public_key().unwrap().public_eq(&key), "carries the public half of the private key");
        assert_eq!(key.ec_key().unwrap().group().curve_name(), Some(Nid::X9_62_PRIME256V1));
        assert_eq!(x509.signature_algorithm().object().nid(), Nid::ECDSA_WITH_SHA256);
        let serial = x509.serial_number().to_bn().unwrap();
        assert!(!serial.is_negative() && serial.num_bits() == 127);
    }

    #[test]
    fn is_valid_from_a_day_ago_for_years() {
        let x509 = X509::from_der(&self_signed(new_year()).unwrap().certificate).unwrap();
        let valid_at = |time: SystemTime| {
            let time = asn1_time(time).unwrap();
            x509.not_before().compare(&time).unwrap() != Ordering::Greater
                && x509.not_after().compare(&time).unwrap() != Ordering::Less
        };
        let rows = [
            (new_year() - 2 * DAY, false),
            (new_year() - SLACK, true),
            (new_year(), true),
            (new_year() + 1000 * DAY, true),
            (new_year() + LIFETIME, true),
            (new_year() + LIFETIME + DAY, false),
        ];
        for (time, valid) in rows {
            assert_eq!(valid_at(time), valid, "{time:?}");
        }
    }

    #[test]
    fn survives_a_clock_that_is_far_off() {
        // Before 1970, and past 2049, where X.509 switches to another time format.
        for now in [UNIX_EPOCH - DAY, UNIX_EPOCH, UNIX_EPOCH + 30_000 * DAY] {
            let made = self_signed(now).unwrap();
            assert!(X509::from_der(&made.certificate).is_ok(), "{now:?}");
        }
    }

    #[test]
    fn each_has_its_own_key_and_serial_number() {
        let (a, b) = (self_signed(new_year()).unwrap(), self_signed(new_year()).unwrap());
        assert_ne!(a.private_key, b.private_key);
        assert_ne!(a.certificate, b.certificate);
    }
}
