//! The server's side of a DTLS 1.2 handshake by OpenSSL, for clients whose certificate may be one of RSA.
//!
//! dimpl knows ECDSA certificates only, as browsers have them. GStreamer before 1.28 makes itself an RSA one, and sends none at
//! all when the server does not ask for such a one. Nothing in a ClientHello says which certificate will follow. But browsers
//! and others whose certificates are ECDSA offer no suite with DHE (RFC 5288), while OpenSSL's and Mbed TLS's own lists, which
//! such clients leave as they are, hold them: see [`may_have_rsa`]. Whoever is taken for one wrongly gets as good a handshake,
//! which costs the server three times the CPU and twice the memory.
//!
//! Datagrams in, datagrams out; comparing the certificate with the SDP's fingerprint is str0m's. A flight that was lost is sent
//! again as it was, by the time that is passed in. What OpenSSL itself does by its own clock, it does only when a datagram
//! comes, and is as harmless as a datagram that arrives twice.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::panic::{RefUnwindSafe, UnwindSafe};
use std::time::{Duration, Instant};

use openssl::error::ErrorStack;
use openssl::pkey::PKey;
use openssl::srtp::SrtpProfileId;
use openssl::ssl::{
    ErrorCode, Ssl, SslContext, SslContextBuilder, SslMethod, SslOptions, SslSessionCacheMode, SslStream,
    SslVerifyMode, SslVersion,
};
use openssl::x509::X509;
use str0m::config::DtlsCert;
use str0m::crypto::dtls::{DtlsImplError, DtlsOutput, KeyingMaterial, SrtpProfile};

/// What all handshakes with this certificate have in common.
///
/// # Errors
///
/// What OpenSSL says of a certificate or key that is none.
pub fn context(cert: &DtlsCert) -> Result<SslContext, ErrorStack> {
    let mut builder = SslContextBuilder::new(SslMethod::dtls_server())?;
    builder.set_min_proto_version(Some(SslVersion::DTLS1_2))?;
    builder.set_max_proto_version(Some(SslVersion::DTLS1_2))?;
    // The MTU is told, since there is no socket to ask.
    builder.set_options(SslOptions::NO_QUERY_MTU | SslOptions::NO_TICKET | SslOptions::NO_RENEGOTIATION);
    builder.set_options(SslOptions::CIPHER_SERVER_PREFERENCE);
    builder.set_session_cache_mode(SslSessionCacheMode::OFF);
    builder.set_cipher_list(CIPHERS)?;
    builder.set_groups_list("X25519:P-256:P-384")?;
    builder.set_tlsext_use_srtp(SRTP_PROFILES)?;
    // Whose it is, is known by its fingerprint alone.
    builder.set_verify_callback(SslVerifyMode::PEER | SslVerifyMode::FAIL_IF_NO_PEER_CERT, |_, _| true);
    let certificate = X509::from_der(&cert.certificate)?;
    builder.set_certificate(&certificate)?;
    let key = PKey::private_key_from_der(&cert.private_key)?;
    builder.set_private_key(&key)?;
    builder.check_private_key()?;
    Ok(builder.build())
}

/// Whether the first datagram of a client is a ClientHello of one whose certificate may be of RSA.
pub fn may_have_rsa(datagram: &[u8]) -> bool {
    cipher_suites(datagram)
        .is_some_and(|suites| suites.chunks_exact(2).any(|suite| DHE.iter().any(|dhe| suite == *dhe)))
}

/// Of a ClientHello (RFC 6347 §4.2.1, §4.3.2), as far as it is in this datagram.
fn cipher_suites(datagram: &[u8]) -> Option<&[u8]> {
    let (record, rest) = datagram.split_first_chunk::<13>()?;
    let (handshake, rest) = rest.split_first_chunk::<12>()?;
    let is_first = handshake[6..9] == [0, 0, 0];
    if record[0] != HANDSHAKE || handshake[0] != CLIENT_HELLO || !is_first {
        return None;
    }
    // Version and random, then session id, cookie, suites.
    let rest = rest.get(34..)?;
    let rest = rest.get(1 + usize::from(*rest.first()?)..)?;
    let rest = rest.get(1 + usize::from(*rest.first()?)..)?;
    let (len, suites) = rest.split_first_chunk::<2>()?;
    Some(&suites[..suites.len().min(usize::from(u16::from_be_bytes(*len)))])
}

/// One association, in the server's role.
pub struct Server {
    stream: SslStream<Datagrams>,
    state: State,
    outputs: VecDeque<Out>,
    /// The last flight of the handshake, until it is over.
    flight: Vec<Vec<u8>>,
    resend: Resend,
    /// The latest that was told.
    now: Instant,
}

// OpenSSL's objects are not torn by a panic of ours: none happens inside their calls.
impl UnwindSafe for Server {}
impl RefUnwindSafe for Server {}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Handshaking,
    Connected,
    /// By either side's goodbye.
    Closed,
    /// By an error, of which the other side has been told where that is possible.
    Failed,
}

/// When the last flight goes out once more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Resend {
    Never,
    /// It went out just now, at a time that is yet to be told.
    Begins,
    At {
        at: Instant,
        next: Duration,
    },
}

/// What is to be told, in this order.
#[derive(Debug)]
enum Out {
    Packet(Vec<u8>),
    PeerCert(Vec<u8>),
    Keys(Vec<u8>, SrtpProfile),
    Connected,
    Data(Vec<u8>),
    CloseNotify,
}

/// Both ways of the wire, as OpenSSL sees it.
#[derive(Debug, Default)]
struct Datagrams {
    incoming: VecDeque<Vec<u8>>,
    outgoing: Vec<Vec<u8>>,
}

impl Server {
    /// `mtu`: largest datagram, in octets.
    ///
    /// # Errors
    ///
    /// When OpenSSL has no memory.
    pub fn new(context: &SslContext, mtu: usize, now: Instant) -> Result<Server, ErrorStack> {
        let mut ssl = Ssl::new(context)?;
        ssl.set_accept_state();
        ssl.set_mtu(u32::try_from(mtu).unwrap_or(u32::MAX))?;
        Ok(Server {
            stream: SslStream::new(ssl, Datagrams::default())?,
            state: State::Handshaking,
            outputs: VecDeque::new(),
            flight: Vec::new(),
            resend: Resend::Never,
            now,
        })
    }

    pub fn handle_packet(&mut self, packet: &[u8]) -> Result<(), DtlsImplError> {
        match self.state {
            State::Closed | State::Failed => return Err(DtlsImplError::ConnectionClosed),
            State::Handshaking | State::Connected => {}
        }
        self.stream.get_mut().incoming.push_back(packet.to_vec());
        let result = self.advance();
        self.stream.get_mut().incoming.clear();
        self.collect();
        if result.is_err() {
            self.state = State::Failed;
            self.resend = Resend::Never;
        }
        result
    }

    /// Takes all that there is to read.
    fn advance(&mut self) -> Result<(), DtlsImplError> {
        if self.state == State::Handshaking {
            match self.stream.do_handshake() {
                Ok(()) => self.on_connected()?,
                Err(error) if error.code() == ErrorCode::WANT_READ => return Ok(()),
                Err(error) => return Err(failed(&error)),
            }
        }
        let mut data = vec![0; RECORD_MAX];
        loop {
            match self.stream.ssl_read(&mut data) {
                Ok(len) => self.outputs.push_back(Out::Data(data[..len].to_vec())),
                Err(error) => match error.code() {
                    ErrorCode::WANT_READ => return Ok(()),
                    ErrorCode::ZERO_RETURN => {
                        self.state = State::Closed;
                        // Whose goodbye is answered knows that it was heard. There is nobody to care when it is not.
                        let _ = self.stream.shutdown();
                        self.outputs.push_back(Out::CloseNotify);
                        return Ok(());
                    }
                    _ => return Err(failed(&error)),
                },
            }
        }
    }

    fn on_connected(&mut self) -> Result<(), DtlsImplError> {
        let ssl = self.stream.ssl();
        let certificate = ssl.peer_certificate().and_then(|certificate| certificate.to_der().ok());
        let profile = ssl.selected_srtp_profile().and_then(|profile| srtp_profile(profile.id()));
        // The one is demanded by the context. A client that wants no SRTP is none.
        let (Some(certificate), Some(profile)) = (certificate, profile) else {
            return Err(failed(&"no certificate or no SRTP profile"));
        };
        let mut keys = vec![0; profile.keying_material_len()];
        ssl.export_keying_material(&mut keys, "EXTRACTOR-dtls_srtp", None).map_err(|error| failed(&error))?;
        // The last flight precedes what is told of its success.
        self.collect();
        self.state = State::Connected;
        // If the last flight is lost, the client sends its own again, which OpenSSL answers.
        self.resend = Resend::Never;
        self.flight.clear();
        self.outputs.extend([Out::PeerCert(certificate), Out::Keys(keys, profile), Out::Connected]);
        Ok(())
    }

    /// Takes what OpenSSL has written.
    fn collect(&mut self) {
        let written = std::mem::take(&mut self.stream.get_mut().outgoing);
        if written.is_empty() {
            return;
        }
        if self.state == State::Handshaking {
            self.flight.clone_from(&written);
            self.resend = Resend::Begins;
        }
        self.outputs.extend(written.into_iter().map(Out::Packet));
    }

    pub fn poll_output<'a>(&mut self, buf: &'a mut [u8]) -> DtlsOutput<'a> {
        let needed = match self.outputs.front() {
            None => return DtlsOutput::Timeout(self.deadline()),
            Some(Out::Packet(bytes) | Out::PeerCert(bytes) | Out::Data(bytes)) => bytes.len(),
            Some(Out::Keys(..) | Out::Connected | Out::CloseNotify) => 0,
        };
        if buf.len() < needed {
            return DtlsOutput::BufferTooSmall { needed };
        }
        match self.outputs.pop_front().expect("the front was looked at") {
            Out::Packet(bytes) => DtlsOutput::Packet(copied(&bytes, buf)),
            Out::PeerCert(bytes) => DtlsOutput::PeerCert(copied(&bytes, buf)),
            Out::Data(bytes) => DtlsOutput::ApplicationData(copied(&bytes, buf)),
            Out::Keys(keys, profile) => DtlsOutput::KeyingMaterial(KeyingMaterial::new(&keys), profile),
            Out::Connected => DtlsOutput::Connected,
            Out::CloseNotify => DtlsOutput::CloseNotify,
        }
    }

    fn deadline(&self) -> Instant {
        match self.resend {
            Resend::Never => self.now + NEVER,
            Resend::Begins => self.now,
            Resend::At { at, .. } => at,
        }
    }

    pub fn handle_timeout(&mut self, now: Instant) {
        self.now = self.now.max(now);
        match self.resend {
            Resend::Begins => self.resend = Resend::At { at: now + RESEND_FIRST, next: RESEND_FIRST * 2 },
            Resend::At { at, next } if at <= now => {
                self.outputs.extend(self.flight.iter().cloned().map(Out::Packet));
                self.resend = Resend::At { at: now + next, next: (next * 2).min(RESEND_MAX) };
            }
            Resend::At { .. } | Resend::Never => {}
        }
    }

    /// All or nothing; nothing before the handshake is over.
    pub fn send_application_data(&mut self, data: &[u8]) -> Result<usize, DtlsImplError> {
        match self.state {
            State::Handshaking => return Ok(0),
            State::Closed | State::Failed => return Err(DtlsImplError::ConnectionClosed),
            State::Connected => {}
        }
        if data.is_empty() {
            return Ok(0);
        }
        let written = self.stream.ssl_write(data).map_err(|error| failed(&error));
        self.collect();
        written
    }

    pub fn is_connected(&self) -> bool {
        self.state == State::Connected
    }

    pub fn is_closing(&self) -> bool {
        self.state == State::Closed
    }

    pub fn is_closed(&self) -> bool {
        self.state == State::Closed && self.outputs.is_empty()
    }

    /// Says goodbye, if there is anybody to hear it.
    pub fn close(&mut self) {
        if self.state == State::Connected {
            let _ = self.stream.shutdown();
            self.collect();
        }
        self.resend = Resend::Never;
        self.state = State::Closed;
    }
}

impl std::fmt::Debug for Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Server").field("state", &self.state).finish_non_exhaustive()
    }
}

impl Read for Datagrams {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let datagram = self.incoming.pop_front().ok_or(io::ErrorKind::WouldBlock)?;
        // As a socket does: what does not fit is lost.
        let len = datagram.len().min(buf.len());
        buf[..len].copy_from_slice(&datagram[..len]);
        Ok(len)
    }
}

impl Write for Datagrams {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.outgoing.push(buf.to_vec());
        Ok(buf.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// `buf` has room for them.
fn copied<'a>(bytes: &[u8], buf: &'a mut [u8]) -> &'a [u8] {
    let buf = &mut buf[..bytes.len()];
    buf.copy_from_slice(bytes);
    buf
}

/// OpenSSL's words are for the log: str0m's error has no place for them.
fn failed(why: &impl std::fmt::Display) -> DtlsImplError {
    tracing::debug!(%why, "DTLS failed");
    DtlsImplError::ConnectionClosed
}

fn srtp_profile(id: SrtpProfileId) -> Option<SrtpProfile> {
    Some(match id {
        SrtpProfileId::SRTP_AEAD_AES_256_GCM => SrtpProfile::AEAD_AES_256_GCM,
        SrtpProfileId::SRTP_AEAD_AES_128_GCM => SrtpProfile::AEAD_AES_128_GCM,
        SrtpProfileId::SRTP_AES128_CM_SHA1_80 => SrtpProfile::AES128_CM_SHA1_80,
        _ => return None,
    })
}

/// The server's own certificate is of ECDSA.
const CIPHERS: &str = "ECDHE-ECDSA-AES128-GCM-SHA256:ECDHE-ECDSA-AES256-GCM-SHA384:ECDHE-ECDSA-CHACHA20-POLY1305";
/// In dimpl's order.
const SRTP_PROFILES: &str = "SRTP_AEAD_AES_256_GCM:SRTP_AEAD_AES_128_GCM:SRTP_AES128_CM_SHA1_80";
/// TLS_DHE_RSA_WITH_AES_128_GCM_SHA256 and TLS_DHE_RSA_WITH_AES_256_GCM_SHA384.
const DHE: [[u8; 2]; 2] = [[0x00, 0x9e], [0x00, 0x9f]];
const HANDSHAKE: u8 = 22;
const CLIENT_HELLO: u8 = 1;
/// Plaintext of one record, RFC 6347 §4.1.
const RECORD_MAX: usize = 1 << 14;
/// RFC 6347 §4.2.4.1 wants a second at first, doubled each time.
const RESEND_FIRST: Duration = Duration::from_secs(1);
const RESEND_MAX: Duration = Duration::from_secs(8);
/// Far enough to mean it.
const NEVER: Duration = Duration::from_secs(24 * 60 * 60);

#[cfg(test)]
mod tests {
    use openssl::hash::MessageDigest;
    use openssl::rsa::Rsa;
    use openssl::ssl::SslContextBuilder;
    use str0m::config::DtlsVersion;
    use str0m::crypto::dtls::{DtlsInstance, DtlsProvider};

    use super::super::dtls::DTLS;
    use super::super::tests::aws;
    use super::*;

    /// A client on OpenSSL with its own list of suites.
    struct Client {
        stream: SslStream<Datagrams>,
        connected: bool,
        received: Vec<u8>,
    }

    fn rsa_certificate() -> DtlsCert {
        let key = PKey::from_rsa(Rsa::generate(2048).unwrap()).unwrap();
        let mut builder = X509::builder().unwrap();
        builder.set_pubkey(&key).unwrap();
        builder.set_not_before(&openssl::asn1::Asn1Time::days_from_now(0).unwrap()).unwrap();
        builder.set_not_after(&openssl::asn1::Asn1Time::days_from_now(1).unwrap()).unwrap();
        builder.sign(&key, MessageDigest::sha256()).unwrap();
        let certificate = builder.build().to_der().unwrap();
        DtlsCert { certificate, private_key: key.private_key_to_pkcs8().unwrap() }
    }

    impl Client {
        fn new(cert: Option<&DtlsCert>, srtp: &str) -> Client {
            let mut builder = SslContextBuilder::new(SslMethod::dtls_client()).unwrap();
            builder.set_cipher_list("ALL:!aNULL").unwrap();
            builder.set_options(SslOptions::NO_QUERY_MTU);
            if !srtp.is_empty() {
                builder.set_tlsext_use_srtp(srtp).unwrap();
            }
            builder.set_verify(SslVerifyMode::NONE);
            if let Some(cert) = cert {
                let certificate = X509::from_der(&cert.certificate).unwrap();
                builder.set_certificate(&certificate).unwrap();
                let key = PKey::private_key_from_der(&cert.private_key).unwrap();
                builder.set_private_key(&key).unwrap();
            }
            let mut ssl = Ssl::new(&builder.build()).unwrap();
            ssl.set_connect_state();
            ssl.set_mtu(1200).unwrap();
            let stream = SslStream::new(ssl, Datagrams::default()).unwrap();
            Client { stream, connected: false, received: Vec::new() }
        }

        fn step(&mut self) -> Vec<Vec<u8>> {
            if !self.connected {
                self.connected = self.stream.do_handshake().is_ok();
            }
            let mut data = [0; 2000];
            while let Ok(len @ 1..) = self.stream.ssl_read(&mut data) {
                self.received.extend(&data[..len]);
            }
            std::mem::take(&mut self.stream.get_mut().outgoing)
        }
    }

    /// What an instance has told, besides packets.
    #[derive(Debug, Default)]
    struct Told {
        names: Vec<&'static str>,
        certificate: Vec<u8>,
        keys: Vec<u8>,
        profile: Option<SrtpProfile>,
        data: Vec<u8>,
        deadline: Option<Instant>,
    }

    fn drain(server: &mut dyn DtlsInstance, told: &mut Told) -> Vec<Vec<u8>> {
        let (mut packets, mut buf) = (Vec::new(), [0; 2000]);
        loop {
            match server.poll_output(&mut buf) {
                DtlsOutput::Packet(packet) => {
                    assert!(packet.len() <= MTU, "{} octets", packet.len());
                    packets.push(packet.to_vec());
                }
                DtlsOutput::PeerCert(der) => {
                    told.names.push("certificate");
                    told.certificate = der.to_vec();
                }
                DtlsOutput::KeyingMaterial(keys, profile) => {
                    told.names.push("keys");
                    told.keys = keys.to_vec();
                    told.profile = Some(profile);
                }
                DtlsOutput::Connected => told.names.push("connected"),
                DtlsOutput::ApplicationData(data) => told.data.extend(data),
                DtlsOutput::CloseNotify => told.names.push("closed"),
                DtlsOutput::Timeout(at) => {
                    told.deadline = Some(at);
                    return packets;
                }
                other => panic!("{other:?}"),
            }
        }
    }

    const MTU: usize = 600;

    fn server(now: Instant) -> Box<dyn DtlsInstance> {
        let mut server = DTLS.new_dtls(super::super::certificate(), now, DtlsVersion::Dtls12, Some(MTU)).unwrap();
        server.set_active(false);
        server.handle_timeout(now).unwrap();
        server
    }

    /// Passes datagrams until neither side has any; the error is that of the server.
    fn exchange(client: &mut Client, server: &mut dyn DtlsInstance, told: &mut Told) -> Result<(), DtlsImplError> {
        loop {
            let mut is_quiet = true;
            for packet in client.step() {
                is_quiet = false;
                server.handle_packet(&packet)?;
            }
            for packet in drain(server, told) {
                is_quiet = false;
                client.stream.get_mut().incoming.push_back(packet);
            }
            if is_quiet {
                return Ok(());
            }
        }
    }

    #[test]
    fn a_client_with_an_rsa_certificate_connects() {
        for (offered, profile) in [
            (SRTP_PROFILES, SrtpProfile::AEAD_AES_256_GCM),
            ("SRTP_AES128_CM_SHA1_80:SRTP_AEAD_AES_128_GCM", SrtpProfile::AEAD_AES_128_GCM),
            ("SRTP_AES128_CM_SHA1_80", SrtpProfile::AES128_CM_SHA1_80),
        ] {
            let certificate = rsa_certificate();
            let (mut client, mut server) = (Client::new(Some(&certificate), offered), server(Instant::now()));
            let mut told = Told::default();
            assert_eq!(server.send_application_data(b"too early").unwrap(), 0);
            exchange(&mut client, &mut *server, &mut told).unwrap();
            assert!(client.connected);
            assert_eq!(told.names, ["certificate", "keys", "connected"]);
            assert_eq!((&told.certificate, told.profile), (&certificate.certificate, Some(profile)));
            let mut keys = vec![0; profile.keying_material_len()];
            client.stream.ssl().export_keying_material(&mut keys, "EXTRACTOR-dtls_srtp", None).unwrap();
            assert_eq!(told.keys, keys);

            assert_eq!(client.stream.ssl_write(b"up").unwrap(), 2);
            assert_eq!(server.send_application_data(b"down").unwrap(), 4);
            exchange(&mut client, &mut *server, &mut told).unwrap();
            assert_eq!((told.data.as_slice(), client.received.as_slice()), (&b"up"[..], &b"down"[..]));
        }
    }

    #[test]
    fn goodbyes_are_heard_on_both_sides() {
        for server_begins in [true, false] {
            let certificate = rsa_certificate();
            let (mut client, mut server) = (Client::new(Some(&certificate), SRTP_PROFILES), server(Instant::now()));
            let mut told = Told::default();
            exchange(&mut client, &mut *server, &mut told).unwrap();
            if server_begins {
                server.close().unwrap();
                assert!(server.is_closing() && !server.is_closed(), "the goodbye is not yet sent");
            } else {
                client.stream.shutdown().unwrap();
            }
            exchange(&mut client, &mut *server, &mut told).unwrap();
            assert!(client.stream.get_shutdown().contains(openssl::ssl::ShutdownState::RECEIVED));
            assert_eq!(told.names.contains(&"closed"), !server_begins);
            assert!(server.is_closed());
            assert!(server.send_application_data(b"late").is_err() && server.handle_packet(&[22; 40]).is_err());
        }
    }

    /// An ECDSA certificate is as good, whichever implementation it meets.
    #[test]
    fn a_client_with_an_ecdsa_certificate_connects() {
        let certificate = aws().dtls_provider.generate_certificate().unwrap();
        let (mut client, mut server) = (Client::new(Some(&certificate), SRTP_PROFILES), server(Instant::now()));
        let mut told = Told::default();
        exchange(&mut client, &mut *server, &mut told).unwrap();
        assert_eq!((client.connected, told.certificate), (true, certificate.certificate));
    }

    #[test]
    fn whoever_has_no_certificate_or_wants_no_srtp_is_refused() {
        let certificate = rsa_certificate();
        for mut client in [Client::new(None, SRTP_PROFILES), Client::new(Some(&certificate), "")] {
            let (mut server, mut told) = (server(Instant::now()), Told::default());
            assert!(exchange(&mut client, &mut *server, &mut told).is_err());
            assert!(server.handle_packet(&[22; 40]).is_err(), "it stays so");
            assert!(told.names.is_empty() && server.send_application_data(b"x").is_err());
        }
    }

    #[test]
    fn a_flight_that_is_lost_is_sent_again() {
        let certificate = rsa_certificate();
        let mut now = Instant::now();
        let (mut client, mut server) = (Client::new(Some(&certificate), SRTP_PROFILES), server(now));
        let mut told = Told::default();
        for packet in client.step() {
            server.handle_packet(&packet).unwrap();
        }
        let lost = drain(&mut *server, &mut told);
        assert!(lost.len() > 1, "more than one datagram holds");
        for seconds in [1, 2, 4, 8, 8] {
            server.handle_timeout(now).unwrap();
            assert!(drain(&mut *server, &mut told).is_empty());
            assert_eq!(told.deadline, Some(now + Duration::from_secs(seconds)));
            now += Duration::from_secs(seconds);
            server.handle_timeout(now).unwrap();
            assert_eq!(drain(&mut *server, &mut told), lost);
        }
        client.stream.get_mut().incoming.extend(lost);
        exchange(&mut client, &mut *server, &mut told).unwrap();
        assert!(client.connected);
        server.handle_timeout(now + Duration::from_secs(60)).unwrap();
        assert!(drain(&mut *server, &mut told).is_empty(), "nothing is sent again when it is over");
    }

    #[test]
    fn clients_are_told_apart_by_their_suites() {
        let hello = Client::new(None, SRTP_PROFILES).step().remove(0);
        assert!(may_have_rsa(&hello));
        // dimpl's own, like those of browsers, has no such suite.
        let now = Instant::now();
        let mut dimpl = aws()
            .dtls_provider
            .new_dtls(&aws().dtls_provider.generate_certificate().unwrap(), now, DtlsVersion::Dtls12, None)
            .unwrap();
        dimpl.set_active(true);
        dimpl.handle_timeout(now).unwrap();
        let mut buf = [0; 2000];
        let DtlsOutput::Packet(other) = dimpl.poll_output(&mut buf) else { panic!("a ClientHello comes first") };
        assert!(cipher_suites(other).is_some_and(|suites| !suites.is_empty()) && !may_have_rsa(other));
        // Whatever else comes is none, and does no harm.
        for len in 0..hello.len().min(60) {
            assert!(!may_have_rsa(&hello[..len]), "{len}");
        }
        for (at, value) in [(0, 20), (13, 2), (19, 1)] {
            let mut changed = hello.clone();
            changed[at] = value;
            assert!(!may_have_rsa(&changed), "{at}");
        }
        for at in 0..hello.len() {
            for value in [0, 0x7f, 0xff] {
                let mut changed = hello.clone();
                changed[at] = value;
                may_have_rsa(&changed);
            }
        }
    }
}
