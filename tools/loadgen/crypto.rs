//! Which cryptography the clients use, and which SRTP profile the handshakes end with.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use str0m::config::{DtlsCert, DtlsVersion};
use str0m::crypto::dtls::{DtlsImplError, DtlsInstance, DtlsOutput, DtlsProvider, ProtocolVersion, SrtpProfile};
use str0m::crypto::{CryptoError, CryptoProvider};

/// `aws` checks the server against an implementation that shares no code with it; `own` is the server's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Backend {
    Aws,
    Own,
}

/// The provider and the certificate that all clients of a run share.
pub fn provider(backend: Backend) -> (Arc<CryptoProvider>, DtlsCert) {
    let inner = match backend {
        Backend::Aws => str0m_aws_lc_rs::default_provider(),
        Backend::Own => CryptoProvider::clone(&webrtc_engine::peer::crypto::provider()),
    };
    let certificate = inner.dtls_provider.generate_certificate().expect("a certificate can be made");
    let noted = Noted(inner.dtls_provider);
    (Arc::new(CryptoProvider { dtls_provider: Box::leak(Box::new(noted)), ..inner }), certificate)
}

/// The profiles so far and how many connections agreed on each.
pub fn profiles() -> Vec<(&'static str, u64)> {
    let names = ["AES128_CM_SHA1_80", "AEAD_AES_128_GCM", "AEAD_AES_256_GCM", "other"];
    let counts = PROFILES.iter().map(|count| count.load(Ordering::Relaxed));
    names.into_iter().zip(counts).filter(|(_, count)| *count > 0).collect()
}

static PROFILES: [AtomicU64; 4] = [const { AtomicU64::new(0) }; 4];

/// Passes everything on and notes the profile when the keys come out.
#[derive(Debug)]
struct Noted<T>(T);

impl DtlsProvider for Noted<&'static dyn DtlsProvider> {
    fn generate_certificate(&self) -> Option<DtlsCert> {
        self.0.generate_certificate()
    }

    fn new_dtls(
        &self,
        cert: &DtlsCert,
        now: Instant,
        version: DtlsVersion,
        mtu: Option<usize>,
    ) -> Result<Box<dyn DtlsInstance>, CryptoError> {
        Ok(Box::new(Noted(self.0.new_dtls(cert, now, version, mtu)?)))
    }
}

impl DtlsInstance for Noted<Box<dyn DtlsInstance>> {
    fn poll_output<'a>(&mut self, buf: &'a mut [u8]) -> DtlsOutput<'a> {
        let output = self.0.poll_output(buf);
        if let DtlsOutput::KeyingMaterial(_, profile) = &output {
            let index = match *profile {
                SrtpProfile::AES128_CM_SHA1_80 => 0,
                SrtpProfile::AEAD_AES_128_GCM => 1,
                SrtpProfile::AEAD_AES_256_GCM => 2,
                _ => 3,
            };
            PROFILES[index].fetch_add(1, Ordering::Relaxed);
        }
        output
    }

    fn set_active(&mut self, active: bool) {
        self.0.set_active(active);
    }

    fn handle_packet(&mut self, packet: &[u8]) -> Result<(), DtlsImplError> {
        self.0.handle_packet(packet)
    }

    fn handle_timeout(&mut self, now: Instant) -> Result<(), DtlsImplError> {
        self.0.handle_timeout(now)
    }

    fn send_application_data(&mut self, data: &[u8]) -> Result<usize, DtlsImplError> {
        self.0.send_application_data(data)
    }

    fn is_active(&self) -> bool {
        self.0.is_active()
    }

    fn protocol_version(&self) -> Option<ProtocolVersion> {
        self.0.protocol_version()
    }

    fn close(&mut self) -> Result<(), DtlsImplError> {
        self.0.close()
    }
}
