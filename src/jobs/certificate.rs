//! Certificates for HTTPS: from files, or made for the addresses of this host.

use std::net::IpAddr;
use std::sync::Arc;

use openssl::asn1::Asn1Time;
use openssl::bn::{BigNum, MsbOption};
use openssl::ec::{EcGroup, EcKey};
use openssl::error::ErrorStack;
use openssl::hash::MessageDigest;
use openssl::nid::Nid;
use openssl::pkey::PKey;
use openssl::x509::extension::{BasicConstraints, ExtendedKeyUsage, SubjectAlternativeName};
use openssl::x509::{X509, X509NameBuilder};
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};

use crate::config::TlsFiles;

/// Reads a chain and its key (PEM). The error is one line that names the file.
pub fn load(files: &TlsFiles) -> Result<Arc<ServerConfig>, String> {
    let cert_error = |e: &dyn std::fmt::Display| format!("TLS_CERT_FILE {}: {e}", files.cert.display());
    let key_error = |e: &dyn std::fmt::Display| format!("TLS_KEY_FILE {}: {e}", files.key.display());
    let chain: Vec<CertificateDer<'static>> =
        CertificateDer::pem_file_iter(&files.cert).and_then(|certs| certs.collect()).map_err(|e| cert_error(&e))?;
    if chain.is_empty() {
        return Err(cert_error(&"has no certificate"));
    }
    let key = PrivateKeyDer::from_pem_file(&files.key).map_err(|e| key_error(&e))?;
    configure(chain, key).map_err(|e| key_error(&e))
}

/// A certificate of its own for these addresses and `localhost`: browsers warn about it, and after that cameras work.
pub fn self_signed(addresses: &[IpAddr]) -> Result<Arc<ServerConfig>, String> {
    let (cert, key) = make(addresses).map_err(|e| format!("TLS_SELF_SIGNED: {e}"))?;
    configure(vec![cert.into()], PrivatePkcs8KeyDer::from(key).into()).map_err(|e| format!("TLS_SELF_SIGNED: {e}"))
}

fn configure(
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
) -> Result<Arc<ServerConfig>, rustls::Error> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])?
        .with_no_client_auth()
        .with_single_cert(chain, key)?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

fn make(addresses: &[IpAddr]) -> Result<(Vec<u8>, Vec<u8>), ErrorStack> {
    let group = EcGroup::from_curve_name(Nid::X9_62_PRIME256V1)?;
    let key = PKey::from_ec_key(EcKey::generate(&group)?)?;
    let mut name = X509NameBuilder::new()?;
    name.append_entry_by_nid(Nid::COMMONNAME, "WebRTC Engine")?;
    let name = name.build();
    let mut serial = BigNum::new()?;
    serial.rand(127, MsbOption::MAYBE_ZERO, false)?;
    let mut builder = X509::builder()?;
    builder.set_version(2)?;
    builder.set_serial_number(&*serial.to_asn1_integer()?)?;
    builder.set_subject_name(&name)?;
    builder.set_issuer_name(&name)?;
    builder.set_pubkey(&key)?;
    builder.set_not_before(&*Asn1Time::days_from_now(0)?)?;
    builder.set_not_after(&*Asn1Time::days_from_now(SELF_SIGNED_DAYS)?)?;
    builder.append_extension(BasicConstraints::new().critical().build()?)?;
    builder.append_extension(ExtendedKeyUsage::new().server_auth().build()?)?;
    let mut names = SubjectAlternativeName::new();
    names.dns("localhost");
    for address in addresses {
        names.ip(&address.to_string());
    }
    let names = names.build(&builder.x509v3_context(None, None))?;
    builder.append_extension(names)?;
    builder.sign(&key, MessageDigest::sha256())?;
    Ok((builder.build().to_der()?, key.private_key_to_pkcs8()?))
}

/// Phones refuse more than 398 days.
const SELF_SIGNED_DAYS: u32 = 397;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn self_signed_works_for_no_address_and_for_both_families() {
        self_signed(&[]).unwrap();
        self_signed(&["127.0.0.1".parse().unwrap(), "::1".parse().unwrap()]).unwrap();
    }

    #[test]
    fn missing_file_is_named() {
        let files = TlsFiles { cert: "/nowhere/cert.pem".into(), key: "/nowhere/key.pem".into() };
        let error = load(&files).unwrap_err();
        assert!(error.contains("TLS_CERT_FILE /nowhere/cert.pem"), "{error}");
    }
}
