//! The cryptography under every WebRTC connection: DTLS handshake, SRTP, STUN integrity, certificate.
//!
//! This is the [`CryptoProvider`] that each `Rtc` is configured with. It knows packets only as bytes: framing, replay
//! windows and key derivation labels are str0m's. Driven by [`crate::peer`], which passes [`provider`] and
//! [`certificate`] to every `RtcConfig`.
//!
//! - `srtp`: AES-GCM (RFC 7714) and AES-CM (RFC 3711) on OpenSSL, one keyed context per direction for the life of
//!   the session. Nothing is fetched, keyed or allocated per packet.
//! - `hash`: SHA-1, SHA-256 and HMAC-SHA1 on OpenSSL.
//! - `dtls`: the handshake, by dimpl on aws-lc-rs, with one validated configuration shared by all connections.
//! - `rsa`: the handshake with clients whose certificate may be one of RSA, by OpenSSL.
//! - `cert`: one self-signed certificate per process.
//!
//! The provider and the certificate are process-wide and immutable after their first use; nothing here is a secret of
//! one connection.

mod cert;
mod dtls;
mod hash;
mod rsa;
mod srtp;

use std::sync::{Arc, OnceLock};

use str0m::config::DtlsCert;
use str0m::crypto::CryptoProvider;

/// The provider for `RtcConfig::set_crypto_provider`. Every call returns the same one.
///
/// The first call resolves the ciphers in OpenSSL.
///
/// # Panics
///
/// On the first call, if the linked OpenSSL lacks AES-128-GCM, AES-256-GCM, AES-128-CTR or AES-ECB. Call it once at
/// start-up, so that a broken build is noticed before anyone joins.
pub fn provider() -> Arc<CryptoProvider> {
    static PROVIDER: OnceLock<Arc<CryptoProvider>> = OnceLock::new();
    let provider = PROVIDER.get_or_init(|| {
        srtp::resolve_ciphers();
        Arc::new(CryptoProvider {
            srtp_provider: &srtp::Srtp,
            sha1_hmac_provider: &hash::Hashes,
            sha1_provider: &hash::Hashes,
            sha256_provider: &hash::Hashes,
            dtls_provider: &dtls::DTLS,
        })
    });
    Arc::clone(provider)
}

/// The certificate for `RtcConfig::set_dtls_cert`. Every call returns the same one.
///
/// All connections of a process share it: its fingerprint identifies the process, and one per connection would only
/// make joining slower. The first call makes it and reads the wall clock for its dates, by which nothing here decides.
///
/// # Panics
///
/// On the first call, if OpenSSL cannot make a P-256 key (no entropy, no memory). Call it once at start-up.
pub fn certificate() -> &'static DtlsCert {
    static CERTIFICATE: OnceLock<DtlsCert> = OnceLock::new();
    CERTIFICATE.get_or_init(|| {
        cert::self_signed(std::time::SystemTime::now()).expect("OpenSSL can make a P-256 key and sign with it")
    })
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::net::SocketAddr;
    use std::time::{Duration, Instant};

    use str0m::config::{DtlsVersion, KeyingMaterial};
    use str0m::crypto::CryptoError;
    use str0m::crypto::dtls::{DtlsImplError, DtlsInstance, DtlsOutput, DtlsProvider, ProtocolVersion, SrtpProfile};
    use str0m::media::{Direction, MediaKind, Mid};
    use str0m::net::{Protocol, Receive};
    use str0m::rtp::RtpWrite;
    use str0m::{Candidate, Event, Input, Output, Rtc};

    use super::*;

    // ---- For the tests of all modules here ----

    pub fn ours() -> &'static CryptoProvider {
        static OURS: OnceLock<Arc<CryptoProvider>> = OnceLock::new();
        OURS.get_or_init(provider)
    }

    /// The independent implementation that ours is checked against.
    pub fn aws() -> &'static CryptoProvider {
        static AWS: OnceLock<CryptoProvider> = OnceLock::new();
        AWS.get_or_init(str0m_aws_lc_rs::default_provider)
    }

    /// Bytes of hexadecimal digits; white space is ignored.
    pub fn hex(digits: &str) -> Vec<u8> {
        let digits: Vec<u8> = digits.chars().filter_map(|c| c.to_digit(16)).map(|digit| digit as u8).collect();
        digits.chunks(2).map(|pair| pair[0] << 4 | pair[1]).collect()
    }

    pub fn array<const N: usize>(digits: &str) -> [u8; N] {
        hex(digits).try_into().expect("as many digits as the array needs")
    }

    // ---- Identity ----

    #[test]
    fn provider_and_certificate_are_the_same_each_time() {
        assert!(Arc::ptr_eq(&provider(), &provider()));
        assert!(std::ptr::eq(certificate(), certificate()));
        let generated = ours().dtls_provider.generate_certificate().unwrap();
        assert_eq!(generated.certificate, certificate().certificate);
        assert_eq!(generated.private_key, certificate().private_key);
    }

    #[test]
    fn the_fingerprint_is_that_of_the_certificate() {
        let config = Rtc::builder().set_crypto_provider(provider()).set_dtls_cert(certificate().clone());
        let mut rtc = config.build(Instant::now());
        let fingerprint = rtc.direct_api().local_dtls_fingerprint().clone();
        assert_eq!(fingerprint.hash_func, "sha-256");
        assert_eq!(fingerprint.bytes, aws().sha256_provider.sha256(&certificate().certificate));
    }

    // ---- Whole calls against aws-lc-rs ----

    const OFFERER: &str = "192.0.2.1:1000";
    const ANSWERER: &str = "192.0.2.2:2000";

    /// str0m answers `passive`, so the offerer is the DTLS client.
    #[test]
    fn ours_as_dtls_client_calls_aws_lc() {
        for version in [DtlsVersion::Dtls12, DtlsVersion::Dtls13, DtlsVersion::Auto] {
            check_call(Side::new(OFFERER, ours(), version), Side::new(ANSWERER, aws(), version));
        }
    }

    #[test]
    fn ours_as_dtls_server_calls_aws_lc() {
        for version in [DtlsVersion::Dtls12, DtlsVersion::Dtls13, DtlsVersion::Auto] {
            check_call(Side::new(OFFERER, aws(), version), Side::new(ANSWERER, ours(), version));
        }
    }

    /// `Auto` meets a side that knows DTLS 1.2 only.
    #[test]
    fn auto_falls_back_to_dtls_12() {
        for (offerer, answerer) in [(DtlsVersion::Auto, DtlsVersion::Dtls12), (DtlsVersion::Dtls12, DtlsVersion::Auto)]
        {
            check_call(Side::new(OFFERER, ours(), offerer), Side::new(ANSWERER, aws(), answerer));
        }
    }

    /// Both ends of a connection inside one process show the same certificate.
    #[test]
    fn ours_calls_ours() {
        let version = DtlsVersion::Dtls12;
        check_call(Side::new(OFFERER, ours(), version), Side::new(ANSWERER, ours(), version));
    }

    /// Two dimpl ends always agree on AES-256-GCM; a wrapper makes them use the profiles of other clients too.
    #[test]
    fn every_srtp_profile_carries_a_call() {
        for (profile, key_and_salt_len) in [
            (SrtpProfile::AES128_CM_SHA1_80, 16 + 14),
            (SrtpProfile::AEAD_AES_128_GCM, 16 + 12),
            (SrtpProfile::AEAD_AES_256_GCM, 32 + 12),
        ] {
            let version = DtlsVersion::Dtls12;
            let [ours, aws] = [ours(), aws()].map(|provider| force_profile(provider, profile, 2 * key_and_salt_len));
            check_call(Side::new(OFFERER, &ours, version), Side::new(ANSWERER, &aws, version));
        }
    }

    /// Negotiates, connects, and passes RTP of many sizes and RTCP both ways, all under virtual time.
    fn check_call(mut offerer: Side, mut answerer: Side) {
        let mid = negotiate(&mut offerer, &mut answerer);
        let mut wire = Wire { now: offerer.wake, flight: VecDeque::new() };

        wire.run(&mut offerer, &mut answerer, |side| side.rtc.is_connected());

        let payloads: Vec<Vec<u8>> = [1, 2, 15, 16, 17, 80, 500, 1100].map(|len: usize| vec![len as u8; len]).into();
        offerer.send(mid, &payloads, wire.now);
        answerer.send(mid, &payloads, wire.now);
        wire.run(&mut offerer, &mut answerer, |side| side.received.len() >= payloads.len());
        assert_eq!(offerer.received, payloads);
        assert_eq!(answerer.received, payloads);

        wire.run(&mut offerer, &mut answerer, |side| side.has_receiver_report);
    }

    fn negotiate(offerer: &mut Side, answerer: &mut Side) -> Mid {
        let mut change = offerer.rtc.sdp_api();
        let mid = change.add_media(MediaKind::Audio, Direction::SendRecv, None, None, None);
        let (offer, pending) = change.apply().unwrap();
        let answer = answerer.rtc.sdp_api().accept_offer(offer).unwrap();
        assert!(answer.to_sdp_string().contains("a=setup:passive"), "the offerer is the DTLS client");
        offerer.rtc.sdp_api().accept_answer(pending, answer).unwrap();
        mid
    }

    struct Side {
        rtc: Rtc,
        wake: Instant,
        received: Vec<Vec<u8>>,
        /// Which proves that RTCP arrived and was decrypted.
        has_receiver_report: bool,
    }

    struct Datagram {
        source: SocketAddr,
        destination: SocketAddr,
        contents: Vec<u8>,
    }

    /// A network without loss or delay, and the clock of the test.
    struct Wire {
        now: Instant,
        flight: VecDeque<Datagram>,
    }

    impl Side {
        fn new(address: &str, provider: &CryptoProvider, version: DtlsVersion) -> Side {
            let now = Instant::now();
            let mut rtc = Rtc::builder()
                .set_crypto_provider(Arc::new(provider.clone()))
                .set_dtls_version(version)
                .set_rtp_mode(true)
                .set_stats_interval(Some(Duration::from_secs(1)))
                .build(now);
            let address = address.parse().expect("an address");
            rtc.add_local_candidate(Candidate::host(address, "udp").unwrap()).unwrap();
            Side { rtc, wake: now, received: Vec::new(), has_receiver_report: false }
        }

        /// Gives one input and takes all output.
        fn step(&mut self, input: Input, flight: &mut VecDeque<Datagram>) {
            self.rtc.handle_input(input).unwrap();
            loop {
                match self.rtc.poll_output().unwrap() {
                    Output::Timeout(wake) => break self.wake = wake,
                    Output::Transmit(transmit) => flight.push_back(Datagram {
                        source: transmit.source,
                        destination: transmit.destination,
                        contents: transmit.contents.to_vec(),
                    }),
                    Output::Event(Event::RtpPacket(packet)) => self.received.push(packet.payload.to_vec()),
                    Output::Event(Event::MediaEgressStats(stats)) if stats.remote.is_some() => {
                        self.has_receiver_report = true;
                    }
                    Output::Event(_) => {}
                }
            }
        }

        /// The sequence numbers cross the 16-bit boundary, so the rollover counter is in play.
        fn send(&mut self, mid: Mid, payloads: &[Vec<u8>], now: Instant) {
            let pt = self.rtc.codec_config().find(|params| params.spec().codec.is_audio()).unwrap().pt();
            let mut api = self.rtc.direct_api();
            let stream = api.stream_tx_by_mid(mid, None).unwrap();
            for (sequence, payload) in (65_533_u64..).zip(payloads) {
                stream.write_rtp(RtpWrite::new(pt, sequence.into(), 960, now, payload.as_slice()));
            }
        }
    }

    impl Wire {
        /// Runs until both are `done`; panics if that takes more than ten virtual seconds.
        fn run(&mut self, a: &mut Side, b: &mut Side, done: impl Fn(&Side) -> bool) {
            let deadline = self.now + Duration::from_secs(10);
            while !(done(a) && done(b)) {
                assert!(self.now < deadline, "no progress");
                a.step(Input::Timeout(self.now), &mut self.flight);
                b.step(Input::Timeout(self.now), &mut self.flight);
                while let Some(datagram) = self.flight.pop_front() {
                    let side = if datagram.destination.port() == 1000 { &mut *a } else { &mut *b };
                    let receive = Receive {
                        proto: Protocol::Udp,
                        source: datagram.source,
                        destination: datagram.destination,
                        contents: datagram.contents.as_slice().try_into().unwrap(),
                    };
                    side.step(Input::Receive(self.now, receive), &mut self.flight);
                }
                self.now = a.wake.min(b.wake).max(self.now + Duration::from_millis(1));
            }
        }
    }

    // ---- Another SRTP profile than the negotiated one ----

    /// `provider`, but with SRTP set up for `profile` and the first `key_len` bytes of the keys that DTLS exports.
    fn force_profile(provider: &CryptoProvider, profile: SrtpProfile, key_len: usize) -> CryptoProvider {
        let forced = ForcedProfile { inner: provider.dtls_provider, profile, key_len };
        CryptoProvider { dtls_provider: Box::leak(Box::new(forced)), ..provider.clone() }
    }

    #[derive(Debug)]
    struct ForcedProfile<T> {
        inner: T,
        profile: SrtpProfile,
        key_len: usize,
    }

    impl DtlsProvider for ForcedProfile<&'static dyn DtlsProvider> {
        fn generate_certificate(&self) -> Option<DtlsCert> {
            self.inner.generate_certificate()
        }

        fn new_dtls(
            &self,
            cert: &DtlsCert,
            now: Instant,
            version: DtlsVersion,
            mtu: Option<usize>,
        ) -> Result<Box<dyn DtlsInstance>, CryptoError> {
            let inner = self.inner.new_dtls(cert, now, version, mtu)?;
            Ok(Box::new(ForcedProfile { inner, profile: self.profile, key_len: self.key_len }))
        }
    }

    impl DtlsInstance for ForcedProfile<Box<dyn DtlsInstance>> {
        fn poll_output<'a>(&mut self, buf: &'a mut [u8]) -> DtlsOutput<'a> {
            match self.inner.poll_output(buf) {
                DtlsOutput::KeyingMaterial(material, _) => {
                    DtlsOutput::KeyingMaterial(KeyingMaterial::new(&material[..self.key_len]), self.profile)
                }
                output => output,
            }
        }

        fn set_active(&mut self, active: bool) {
            self.inner.set_active(active);
        }

        fn handle_packet(&mut self, packet: &[u8]) -> Result<(), DtlsImplError> {
            self.inner.handle_packet(packet)
        }

        fn handle_timeout(&mut self, now: Instant) -> Result<(), DtlsImplError> {
            self.inner.handle_timeout(now)
        }

        fn send_application_data(&mut self, data: &[u8]) -> Result<usize, DtlsImplError> {
            self.inner.send_application_data(data)
        }

        fn is_active(&self) -> bool {
            self.inner.is_active()
        }

        fn protocol_version(&self) -> Option<ProtocolVersion> {
            self.inner.protocol_version()
        }

        fn close(&mut self) -> Result<(), DtlsImplError> {
            self.inner.close()
        }
    }
}
