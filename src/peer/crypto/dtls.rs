//! The DTLS handshake (RFC 5764), by dimpl with aws-lc-rs.
//!
//! Only glue: a factory that hands the same validated configuration to every connection, and a wrapper that passes
//! str0m's calls on. Comparing the certificate with the SDP's fingerprint is str0m's.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use dimpl::{Config, Dtls};
use str0m::config::{DtlsCert, DtlsVersion};
use str0m::crypto::CryptoError;
use str0m::crypto::dtls::{DtlsImplError, DtlsInstance, DtlsOutput, DtlsProvider, ProtocolVersion};

/// The factory of all connections of this process.
pub static DTLS: Factory = Factory { configs: Mutex::new(Vec::new()) };

/// Makes DTLS instances over cached configurations.
///
/// `Config::build` tests every cipher and key exchange of its crypto provider each time it runs, which takes about a
/// millisecond, more than the handshake itself. Hence the cache.
#[derive(Debug)]
pub struct Factory {
    configs: Mutex<Vec<CachedConfig>>,
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
        Ok(Box::new(Instance(new(self.config(mtu)?, cert.clone(), now))))
    }
}

/// One DTLS association.
#[derive(Debug)]
struct Instance(Dtls);

impl DtlsInstance for Instance {
    fn set_active(&mut self, active: bool) {
        self.0.set_active(active);
    }

    fn handle_packet(&mut self, packet: &[u8]) -> Result<(), DtlsImplError> {
        self.0.handle_packet(packet)
    }

    fn poll_output<'a>(&mut self, buf: &'a mut [u8]) -> DtlsOutput<'a> {
        self.0.poll_output(buf)
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

    fn is_closing(&self) -> bool {
        self.0.is_closing()
    }

    fn is_closed(&self) -> bool {
        self.0.is_closed()
    }

    fn close(&mut self) -> Result<(), DtlsImplError> {
        self.0.close()
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
        Factory { configs: Mutex::new(Vec::new()) }
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
