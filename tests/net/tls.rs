//! HTTPS and WSS, and certificates that change while the server runs.

use std::path::Path;

use openssl::asn1::Asn1Time;
use openssl::ec::{EcGroup, EcKey};
use openssl::hash::MessageDigest;
use openssl::nid::Nid;
use openssl::pkey::PKey;
use openssl::x509::{X509, X509NameBuilder};

use crate::harness::client::Versions;
use crate::harness::{Http, Server, Setup, Stream, Ws};

const TLS13: Versions = &[&rustls::version::TLS13];
const TLS12: Versions = &[&rustls::version::TLS12];

/// Writes a new certificate and its key; gives the certificate.
fn make_certificate(dir: &Path) -> Vec<u8> {
    let group = EcGroup::from_curve_name(Nid::X9_62_PRIME256V1).unwrap();
    let key = PKey::from_ec_key(EcKey::generate(&group).unwrap()).unwrap();
    let mut name = X509NameBuilder::new().unwrap();
    name.append_entry_by_nid(Nid::COMMONNAME, "localhost").unwrap();
    let name = name.build();
    let mut builder = X509::builder().unwrap();
    builder.set_version(2).unwrap();
    builder.set_subject_name(&name).unwrap();
    builder.set_issuer_name(&name).unwrap();
    builder.set_pubkey(&key).unwrap();
    builder.set_not_before(&Asn1Time::days_from_now(0).unwrap()).unwrap();
    builder.set_not_after(&Asn1Time::days_from_now(1).unwrap()).unwrap();
    builder.sign(&key, MessageDigest::sha256()).unwrap();
    let cert = builder.build();
    std::fs::write(dir.join("cert.pem"), cert.to_pem().unwrap()).unwrap();
    std::fs::write(dir.join("key.pem"), key.private_key_to_pem_pkcs8().unwrap()).unwrap();
    cert.to_der().unwrap()
}

fn with_certificate() -> (Setup, Vec<u8>) {
    let setup = Setup::new().env("TLS_CERT_FILE", "cert.pem").env("TLS_KEY_FILE", "key.pem");
    let cert = make_certificate(setup.temp_dir().path());
    (setup, cert)
}

fn connect(server: &Server) -> Stream {
    Stream::connect_tls(server.address(), usize::MAX, TLS13)
}

#[test]
fn https_and_wss_whatever_the_segments() {
    let (setup, cert) = with_certificate();
    let server = setup.start();
    assert!(server.line.contains("https://"), "{}", server.line);
    for versions in [TLS13, TLS12] {
        for chunk in [1, 7, 100, usize::MAX] {
            let mut http = Http::over(Stream::connect_tls(server.address(), chunk, versions));
            assert_eq!(http.stream.certificate(), cert);
            assert_eq!(http.get("/client.js", &[]).status, 200);
            let mut ws = Ws::over(http.into_parts().0, "ann");
            ws.enter("r");
            ws.ping();
        }
    }
}

#[test]
fn plain_http_on_the_https_port_is_closed() {
    let (setup, _) = with_certificate();
    let server = setup.start();
    let mut http = Http::connect(&server);
    http.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    assert!(http.stream.is_closed_by_server());
}

#[test]
fn a_self_signed_certificate_names_the_addresses() {
    let server = Setup::new().env("TLS_SELF_SIGNED", "true").start();
    let mut http = Http::over(connect(&server));
    assert_eq!(http.get("/healthz", &[]).status, 200);
    let cert = X509::from_der(&http.stream.certificate()).unwrap();
    let names = cert.subject_alt_names().expect("names");
    assert!(names.iter().any(|name| name.dnsname() == Some("localhost")));
    assert!(names.iter().any(|name| name.ipaddress() == Some(&[127, 0, 0, 1])));
}

#[test]
fn a_replaced_certificate_is_for_new_connections() {
    let (setup, old) = with_certificate();
    let dir = setup.temp_dir();
    let server = setup.env("WORKERS", 2).start();
    let mut ann = Ws::over(connect(&server), "ann");
    ann.enter("r");

    let new = make_certificate(dir.path());
    server.signal(libc::SIGHUP);
    let until = std::time::Instant::now() + crate::harness::DEADLINE;
    // Each worker takes it over on its own.
    let mut in_a_row = 0;
    while in_a_row < 16 {
        let shown = connect(&server).certificate();
        assert!(shown == new || shown == old);
        in_a_row = if shown == new { in_a_row + 1 } else { 0 };
        assert!(std::time::Instant::now() < until, "the old certificate stays");
    }
    ann.ping();

    // What cannot be used changes nothing.
    for (file, text) in [("cert.pem", "broken"), ("key.pem", "-----BEGIN PRIVATE KEY-----\n")] {
        std::fs::write(dir.path().join(file), text).unwrap();
        server.signal(libc::SIGHUP);
        server.wait_for_log("the certificate in use stays", if file == "cert.pem" { 1 } else { 2 });
        assert_eq!(connect(&server).certificate(), new);
    }
    ann.ping();
}
