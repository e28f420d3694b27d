//! The DTLS handshake (RFC 5764), by dimpl with aws-lc-rs, or by OpenSSL for clients whose certificate may be one of RSA.
//!
//! Only glue: a factory that hands the same validated configuration to every connection, and a wrapper that passes
//! str0m's calls on; the first datagram of a client decides, see [`super::rsa`]. Comparing the certificate with the SDP's fingerprint is str0m's.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use dimpl::{Config, Dtls};
use openssl::ssl::SslContext;
use str0m::config::{DtlsCert, DtlsVersion};
use str0m::crypto::CryptoError;
use str0m::crypto::dtls::{DtlsImplError, DtlsInstance, DtlsOutput, DtlsProvider, ProtocolVersion};

use super::rsa;

/// The factory of all connections of this process.
pub static DTLS: Factory = Factory { configs: Mutex::new(Vec::new()), context: Mutex::new(None) };

/// Makes DTLS instances over cached configurations.
///
/// `Config::build` tests every cipher and key exchange of its crypto provider each time it runs, which takes about a
/// millisecond, more than the handshake itself. Hence the cache.
#[derive(Debug)]
pub struct Factory {
    configs: Mutex<Vec<CachedConfig>>,
    /// OpenSSL's, for the certificate that was used last: a process has but one.
    context: Mutex<Option<(DtlsCert, SslContext)>>,
}

/// One built configuration and the MTU it was asked for; `None` is dimpl's default.
struct CachedConfig {
    mtu: Option<usize>,
    config: Arc<Config>,
}

impl Factory {
    /// The configuration for `mtu`, built when asked for the first time.
    ///
    /// The lock is held while building, so that a burst of first joins builds once.
    fn config(&self, mtu: Option<usize>) -> Result<Arc<Config>, DtlsImplError> {
        // A panic cannot leave a half-built entry behind, so a poisoned lock is as good as any.
        let mut configs = self.configs.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(cached) = configs.iter().find(|cached| cached.mtu == mtu) {
            return Ok(Arc::clone(&cached.config));
        }
        let config = Arc::new(build_config(mtu)?);
        if configs.len() == CONFIGS_MAX {
            configs.remove(0);
        }
        configs.push(CachedConfig { mtu, config: Arc::clone(&config) });
        Ok(config)
    }

    /// OpenSSL's context for `cert`, built when the first client needs it.
    fn context(&self, cert: &DtlsCert) -> Result<SslContext, openssl::error::ErrorStack> {
        let mut context = self.context.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, context)) = context.as_ref().filter(|(known, _)| known.certificate == cert.certificate) {
            return Ok(context.clone());
        }
        let made = rsa::context(cert)?;
        *context = Some((cert.clone(), made.clone()));
        Ok(made)
    }
}

fn build_config(mtu: Option<usize>) -> Result<Config, DtlsImplError> {
    let builder = Config::builder()
        .with_crypto_provider(dimpl::crypto::aws_lc_rs::default_provider())
        // The cookie makes a client prove that it receives at its address before the server spends work on it. ICE has
        // proved that by an authenticated check before any DTLS packet gets here, so it would only add a round trip.
        .use_server_cookie(false);
    match mtu {
        Some(mtu) => builder.mtu(mtu),
        None => builder,
    }
    .build()
}

impl DtlsProvider for Factory {
    /// The certificate of the process, see [`super::certificate`].
    fn generate_certificate(&self) -> Option<DtlsCert> {
        Some(super::certificate().clone())
    }

    fn new_dtls(
        &self,
        cert: &DtlsCert,
        now: Instant,
        dtls_version: DtlsVersion,
        mtu: Option<usize>,
    ) -> Result<Box<dyn DtlsInstance>, CryptoError> {
        let new = match dtls_version {
            DtlsVersion::Dtls12 => Dtls::new_12,
            DtlsVersion::Dtls13 => Dtls::new_13,
            DtlsVersion::Auto => Dtls::new_auto,
            other => return Err(CryptoError::Other(format!("{other} is not supported"))),
        };
        let config = self.config(mtu)?;
        let fallback =
            (dtls_version != DtlsVersion::Dtls13).then(|| Fallback { cert: cert.clone(), mtu: config.mtu(), now });
        Ok(Box::new(Instance { engine: Engine::Dimpl(Box::new(new(config, cert.clone(), now))), fallback }))
    }
}

/// One DTLS association.
#[derive(Debug)]
struct Instance {
    engine: Engine,
    /// Until the first datagram has come.
    fallback: Option<Fallback>,
}

#[derive(Debug)]
enum Engine {
    Dimpl(Box<Dtls>),
    OpenSsl(Box<rsa::Server>),
}

/// What it takes to go on with OpenSSL.
#[derive(Debug)]
struct Fallback {
    cert: DtlsCert,
    mtu: usize,
    now: Instant,
}

impl Instance {
    /// Looks at the first datagram of a client.
    fn decide(&mut self, packet: &[u8]) {
        // str0m passes an empty one before any that has come.
        if packet.is_empty() || self.is_active() {
            return;
        }
        let Some(Fallback { cert, mtu, now }) = self.fallback.take() else { return };
        if !rsa::may_have_rsa(packet) {
            return;
        }
        match DTLS.context(&cert).and_then(|context| rsa::Server::new(&context, mtu, now)) {
            Ok(server) => self.engine = Engine::OpenSsl(Box::new(server)),
            // Perhaps its certificate is none of RSA.
            Err(error) => tracing::warn!(%error, "OpenSSL makes no DTLS association"),
        }
    }
}

impl DtlsInstance for Instance {
    fn set_active(&mut self, active: bool) {
        if let Engine::Dimpl(dtls) = &mut self.engine {
            dtls.set_active(active);
        }
    }

    fn handle_packet(&mut self, packet: &[u8]) -> Result<(), DtlsImplError> {
        self.decide(packet);
        match &mut self.engine {
            Engine::Dimpl(dtls) => dtls.handle_packet(packet),
            Engine::OpenSsl(server) => server.handle_packet(packet),
        }
    }

    fn poll_output<'a>(&mut self, buf: &'a mut [u8]) -> DtlsOutput<'a> {
        match &mut self.engine {
            Engine::Dimpl(dtls) => dtls.poll_output(buf),
            Engine::OpenSsl(server) => server.poll_output(buf),
        }
    }

    fn handle_timeout(&mut self, now: Instant) -> Result<(), DtlsImplError> {
        if let Some(fallback) = &mut self.fallback {
            fallback.now = now;
        }
        match &mut self.engine {
            Engine::Dimpl(dtls) => dtls.handle_timeout(now),
            Engine::OpenSsl(server) => {
                server.handle_timeout(now);
                Ok(())
            }
        }
    }

    fn send_application_data(&mut self, data: &[u8]) -> Result<usize, DtlsImplError> {
        if self.fallback.is_some() && !self.is_active() {
            // Whoever would keep it may not be the one to send it.
            return Ok(0);
        }
        match &mut self.engine {
            Engine::Dimpl(dtls) => dtls.send_application_data(data),
            Engine::OpenSsl(server) => server.send_application_data(data),
        }
    }

    fn is_active(&self) -> bool {
        match &self.engine {
            Engine::Dimpl(dtls) => dtls.is_active(),
            Engine::OpenSsl(_) => false,
        }
    }

    fn protocol_version(&self) -> Option<ProtocolVersion> {
        match &self.engine {
            Engine::Dimpl(dtls) => dtls.protocol_version(),
            Engine::OpenSsl(server) => server.is_connected().then_some(ProtocolVersion::DTLS1_2),
        }
    }

    fn is_closing(&self) -> bool {
        match &self.engine {
            Engine::Dimpl(dtls) => dtls.is_closing(),
            Engine::OpenSsl(server) => server.is_closing(),
        }
    }

    fn is_closed(&self) -> bool {
        match &self.engine {
            Engine::Dimpl(dtls) => dtls.is_closed(),
            Engine::OpenSsl(server) => server.is_closed(),
        }
    }

    fn close(&mut self) -> Result<(), DtlsImplError> {
        match &mut self.engine {
            Engine::Dimpl(dtls) => dtls.close(),
            Engine::OpenSsl(server) => {
                server.close();
                Ok(())
            }
        }
    }
}

impl std::fmt::Debug for CachedConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CachedConfig").field("mtu", &self.mtu).finish_non_exhaustive()
    }
}

/// Distinct MTUs kept; the oldest goes first. The MTU comes from our own configuration, so one or two are in use.
const CONFIGS_MAX: usize = 4;

#[cfg(test)]
mod tests {
    use super::*;

    fn empty() -> Factory {
        Factory { configs: Mutex::new(Vec::new()), context: Mutex::new(None) }
    }

    #[test]
    fn builds_one_config_per_mtu() {
        let factory = empty();
        let first = factory.config(Some(1150)).unwrap();
        assert!(Arc::ptr_eq(&first, &factory.config(Some(1150)).unwrap()));
        assert!(!Arc::ptr_eq(&first, &factory.config(Some(1200)).unwrap()));
        assert!(!Arc::ptr_eq(&first, &factory.config(None).unwrap()));
        assert_eq!(first.mtu(), 1150);
        assert_eq!(factory.config(Some(1200)).unwrap().mtu(), 1200);
        assert!(!first.use_server_cookie());
        assert_eq!(first.rng_seed(), None);
    }

    #[test]
    fn forgets_the_oldest_config_when_full() {
        let factory = empty();
        let mtus = 1000..=1000 + CONFIGS_MAX;
        let first = factory.config(Some(*mtus.start())).unwrap();
        for mtu in mtus.clone() {
            factory.config(Some(mtu)).unwrap();
        }
        assert_eq!(factory.configs.lock().unwrap().len(), CONFIGS_MAX);
        assert!(!Arc::ptr_eq(&first, &factory.config(Some(*mtus.start())).unwrap()));
    }

    #[test]
    fn reports_an_impossible_mtu() {
        let factory = empty();
        let now = Instant::now();
        let result = factory.new_dtls(super::super::certificate(), now, DtlsVersion::Dtls12, Some(32));
        assert!(matches!(result, Err(CryptoError::DtlsImpl(DtlsImplError::ConfigError(_)))), "{result:?}");
        assert!(factory.configs.lock().unwrap().is_empty());
    }

    /// A server only knows its version when it was fixed beforehand; `Auto` waits for the client.
    #[test]
    fn honours_the_version() {
        let rows = [
            (DtlsVersion::Dtls12, Some(ProtocolVersion::DTLS1_2)),
            (DtlsVersion::Dtls13, Some(ProtocolVersion::DTLS1_3)),
            (DtlsVersion::Auto, None),
        ];
        for (version, expected) in rows {
            let dtls = DTLS.new_dtls(super::super::certificate(), Instant::now(), version, None).unwrap();
            assert_eq!(dtls.protocol_version(), expected, "{version}");
            assert!(!dtls.is_active(), "{version}: the server's role, until told otherwise");
        }
    }
}
