//! Certificates: those of the file are trusted, others are not, and names are compared.

use std::net::TcpListener;
use std::sync::Arc;
use std::thread;

use openssl::asn1::Asn1Time;
use openssl::bn::BigNum;
use openssl::hash::MessageDigest;
use openssl::pkey::{PKey, Private};
use openssl::rsa::Rsa;
use openssl::ssl::{SslAcceptor, SslMethod};
use openssl::x509::extension::{BasicConstraints, SubjectAlternativeName};
use openssl::x509::{X509, X509Name, X509NameBuilder};
use std::io::Write;
use webrtc_engine::config::ConfigError;
use webrtc_engine::storage::cloud::open;
use webrtc_engine::storage::store::{FaultKind, Store};

use crate::harness::*;
use crate::server::{Response, Server, read_head};

struct Ca {
    key: PKey<Private>,
    certificate: X509,
}

fn name(text: &str) -> X509Name {
    let mut builder = X509NameBuilder::new().expect("a name");
    builder.append_entry_by_text("CN", text).expect("a name");
    builder.build()
}

fn certificate(subject: &str, key: &PKey<Private>, issuer: Option<&Ca>, address: Option<&str>) -> X509 {
    let mut builder = X509::builder().expect("a builder");
    builder.set_version(2).expect("a version");
    let serial = BigNum::from_u32(if issuer.is_some() { 2 } else { 1 }).and_then(|n| n.to_asn1_integer());
    builder.set_serial_number(&serial.expect("a number")).expect("a number");
    builder.set_subject_name(&name(subject)).expect("a name");
    builder.set_issuer_name(&name(if issuer.is_some() { "test ca" } else { subject })).expect("a name");
    builder.set_pubkey(key).expect("a key");
    builder.set_not_before(&Asn1Time::days_from_now(0).expect("a time")).expect("a time");
    builder.set_not_after(&Asn1Time::days_from_now(2).expect("a time")).expect("a time");
    match address {
        Some(address) => {
            let context = builder.x509v3_context(issuer.map(|ca| &*ca.certificate), None);
            let names = SubjectAlternativeName::new().ip(address).build(&context).expect("an extension");
            builder.append_extension(names).expect("an extension");
        }
        None => {
            let constraints = BasicConstraints::new().critical().ca().build().expect("an extension");
            builder.append_extension(constraints).expect("an extension");
        }
    }
    builder.sign(issuer.map_or(key, |ca| &ca.key), MessageDigest::sha256()).expect("a signature");
    builder.build()
}

fn new_key() -> PKey<Private> {
    Rsa::generate(2048).and_then(PKey::from_rsa).expect("a key")
}

fn new_ca() -> Ca {
    let key = new_key();
    let certificate = certificate("test ca", &key, None, None);
    Ca { key, certificate }
}

/// Answers every request with 404, behind TLS. Ends with the process.
fn serve(ca: &Ca, address: &str) -> String {
    let key = new_key();
    let certificate = certificate("a store", &key, Some(ca), Some(address));
    let mut builder = SslAcceptor::mozilla_intermediate_v5(SslMethod::tls()).expect("a server");
    builder.set_private_key(&key).expect("a key");
    builder.set_certificate(&certificate).expect("a certificate");
    let acceptor = Arc::new(builder.build());
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let url = format!("https://{}", listener.local_addr().expect("an address"));
    thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let acceptor = acceptor.clone();
            thread::spawn(move || {
                let Ok(mut stream) = acceptor.accept(stream) else { return };
                while let Ok(Some(head)) = read_head(&mut stream) {
                    let _ = stream.write_all(&Response::new(404, "").octets(head.method == "HEAD"));
                }
            });
        }
    });
    url
}

fn store(url: &str, ca: Option<&str>) -> Result<Arc<dyn Store>, ConfigError> {
    let mut env = vec![
        ("RECORDING_STORAGE_PROVIDER", "s3"),
        ("RECORDING_S3_ENDPOINT", url),
        ("RECORDING_S3_BUCKET", BUCKET),
        ("RECORDING_S3_ACCESS_KEY_ID", ACCESS_KEY),
        ("RECORDING_S3_SECRET_ACCESS_KEY", SECRET_KEY),
        ("RECORDING_S3_PATH_STYLE", "true"),
    ];
    env.extend(ca.map(|path| ("TLS_CA_FILE", path)));
    open(&config(&env)).map(|store| store.expect("a store"))
}

#[test]
fn roots_of_the_file_are_trusted_and_others_are_not() {
    let scratch = Scratch::new();
    let (ours, other) = (new_ca(), new_ca());
    let path = scratch.path().join("ca.pem");
    let path = path.to_str().expect("a path");
    let mut pem = other.certificate.to_pem().expect("a certificate");
    pem.extend(ours.certificate.to_pem().expect("a certificate"));
    std::fs::write(path, pem).expect("it can be written");

    let url = serve(&ours, "127.0.0.1");
    let trusting = store(&url, Some(path)).expect("a store");
    assert_eq!(trusting.head("k"), Ok(None));
    assert_eq!(trusting.head("k"), Ok(None));
    let fault = store(&url, None).expect("a store").head("k").expect_err("nobody knows the issuer");
    assert_eq!(fault.kind, FaultKind::Tls, "{fault}");

    let misnamed = serve(&ours, "127.0.0.2");
    let fault = store(&misnamed, Some(path)).expect("a store").head("k").expect_err("it is of another");
    assert_eq!(fault.kind, FaultKind::Tls, "{fault}");

    let plain = Server::start(|_| Response::new(404, ""));
    let fault = store(&plain.url().replace("http:", "https:"), Some(path)).expect("a store").head("k");
    let fault = fault.expect_err("there is no TLS");
    assert!(matches!(fault.kind, FaultKind::Tls | FaultKind::Network), "{fault}");
}
