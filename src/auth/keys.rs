//! Key material → keys of one algorithm.

use std::fmt;

use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey};
use openssl::ec::EcKeyRef;
use openssl::nid::Nid;
use openssl::pkey::{HasPublic, Id, PKey, PKeyRef, Private, Public};

use crate::config::AuthConfig;

/// Why the configured key cannot be used: one line that names the setting and never shows the key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyError {
    /// `JWT_SECRET`, `JWT_PUBLIC_KEY_FILE` or `JWT_PRIVATE_KEY_FILE`.
    pub setting: &'static str,
    pub problem: &'static str,
}

impl fmt::Display for KeyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.setting, self.problem)
    }
}

impl std::error::Error for KeyError {}

pub(super) struct KeyPair {
    pub verify: DecodingKey,
    pub sign: Option<EncodingKey>,
    pub algorithm: Algorithm,
}

const PUBLIC: &str = "JWT_PUBLIC_KEY_FILE";
const PRIVATE: &str = "JWT_PRIVATE_KEY_FILE";

impl KeyPair {
    pub fn new(config: &AuthConfig) -> Result<Self, KeyError> {
        if let Some(secret) = &config.jwt_secret {
            let secret = secret.expose().as_bytes();
            if secret.len() < 32 {
                return Err(KeyError { setting: "JWT_SECRET", problem: "must have at least 32 bytes" });
            }
            return Ok(KeyPair {
                verify: DecodingKey::from_secret(secret),
                sign: Some(EncodingKey::from_secret(secret)),
                algorithm: Algorithm::HS256,
            });
        }
        let private =
            match &config.private_key_pem {
                Some(pem) => {
                    // The callback answers for an encrypted key; without one OpenSSL would ask at the terminal and wait.
                    let key = PKey::private_key_from_pem_callback(pem.expose().as_bytes(), |_| Ok(0));
                    Some(key.map_err(|_| KeyError {
                        setting: PRIVATE,
                        problem: "is not an unencrypted private key in PEM",
                    })?)
                }
                None => None,
            };
        match (&config.public_key_pem, &private) {
            (Some(pem), _) => {
                let public = read_public(pem)?;
                let algorithm = algorithm(&public, PUBLIC)?;
                if private.as_ref().is_some_and(|private| !private.public_eq(&public)) {
                    return Err(KeyError { setting: PRIVATE, problem: "does not belong to JWT_PUBLIC_KEY_FILE" });
                }
                Self::of(algorithm, &public, PUBLIC, private.as_deref())
            }
            (None, Some(private)) => {
                let algorithm = algorithm(private, PRIVATE)?;
                Self::of(algorithm, private, PRIVATE, Some(private))
            }
            (None, None) => Err(KeyError { setting: "JWT_SECRET", problem: "is missing" }),
        }
    }

    fn of<T: HasPublic>(
        algorithm: Algorithm,
        public: &PKeyRef<T>,
        setting: &'static str,
        private: Option<&PKeyRef<Private>>,
    ) -> Result<Self, KeyError> {
        let unusable = |setting| KeyError { setting, problem: "cannot be used" };
        let public = public.public_key_to_pem().map_err(|_| unusable(setting))?;
        let verify = match algorithm {
            Algorithm::RS256 => DecodingKey::from_rsa_pem(&public),
            Algorithm::ES256 => DecodingKey::from_ec_pem(&public),
            _ => DecodingKey::from_ed_pem(&public),
        }
        .map_err(|_| unusable(setting))?;
        let sign = match private {
            Some(private) => {
                let pem = private.private_key_to_pem_pkcs8().map_err(|_| unusable(PRIVATE))?;
                let key = match algorithm {
                    Algorithm::RS256 => EncodingKey::from_rsa_pem(&pem),
                    Algorithm::ES256 => EncodingKey::from_ec_pem(&pem),
                    _ => EncodingKey::from_ed_pem(&pem),
                }
                .map_err(|_| unusable(PRIVATE))?;
                // Minting has no error: what cannot sign is found here.
                jsonwebtoken::crypto::sign(b"", &key, algorithm).map_err(|_| unusable(PRIVATE))?;
                Some(key)
            }
            None => None,
        };
        Ok(KeyPair { verify, sign, algorithm })
    }
}

fn read_public(pem: &[u8]) -> Result<PKey<Public>, KeyError> {
    PKey::public_key_from_pem(pem)
        .or_else(|e| openssl::rsa::Rsa::public_key_from_pem_pkcs1(pem).and_then(PKey::from_rsa).map_err(|_| e))
        .map_err(|_| KeyError { setting: PUBLIC, problem: "is not a public key in PEM" })
}

fn algorithm<T: HasPublic>(key: &PKeyRef<T>, setting: &'static str) -> Result<Algorithm, KeyError> {
    let p256 = |ec: &EcKeyRef<T>| ec.group().curve_name() == Some(Nid::X9_62_PRIME256V1);
    match key.id() {
        Id::RSA if key.bits() >= 2048 => Ok(Algorithm::RS256),
        Id::RSA => Err(KeyError { setting, problem: "must be an RSA key of at least 2048 bits" }),
        Id::EC if key.ec_key().is_ok_and(|ec| p256(&ec)) => Ok(Algorithm::ES256),
        Id::EC => Err(KeyError { setting, problem: "must be an EC key on P-256" }),
        Id::ED25519 => Ok(Algorithm::EdDSA),
        _ => Err(KeyError { setting, problem: "must be an RSA, EC (P-256) or Ed25519 key" }),
    }
}
