//! Tokens: bytes + key + time → [`Grants`].
//!
//! Only [`Verifier::verify`] makes a [`Grants`], so holding one is the proof. The algorithm is fixed by the configured
//! key and never by the token; key material inside a token (`jwk`, `jku`, `x5u`, `x5c`) and `kid` are ignored.
//! JSON Web Token: RFC 7519, signatures: RFC 7515, good practice: RFC 8725.

mod grants;
mod keys;
#[cfg(test)]
mod tests;

use std::fmt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;

pub use grants::{Overrides, Permissions, Role, RoomScope, Source, Sources};
pub use keys::KeyError;

use crate::base::{RoomId, UserId};
use crate::config::AuthConfig;
use keys::KeyPair;

/// How far clocks may be apart.
pub const LEEWAY: Duration = Duration::from_secs(30);

/// Bytes of the longest token that is looked at.
pub const TOKEN_SIZE_MAX: usize = 8 * 1024;

/// Characters of the longest display name; what is over is cut off.
pub const NAME_LENGTH_MAX: usize = 256;

/// What a verified token allows. There is no other way to one than [`Verifier::verify`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grants {
    user: UserId,
    name: Option<String>,
    role: Role,
    rooms: RoomScope,
    permissions: Permissions,
    expires_at: SystemTime,
}

impl Grants {
    pub fn user(&self) -> &UserId {
        &self.user
    }

    /// Display name: not empty, at most [`NAME_LENGTH_MAX`] characters, no control characters.
    pub fn name(&self) -> Option<&str> {
        self.name.as_deref()
    }

    pub fn role(&self) -> Role {
        self.role
    }

    pub fn rooms(&self) -> &RoomScope {
        &self.rooms
    }

    /// The role's, with the token's overrides.
    pub fn permissions(&self) -> &Permissions {
        &self.permissions
    }

    /// The `exp` of the token, without leeway.
    pub fn expires_at(&self) -> SystemTime {
        self.expires_at
    }

    pub fn may_enter(&self, room: &RoomId) -> bool {
        self.rooms.contains(room)
    }
}

/// Why a token is refused. None of them says anything about the key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AuthError {
    /// Over [`TOKEN_SIZE_MAX`].
    TooLong,
    /// Not three parts of base64url with JSON in them, or a member twice.
    Malformed,
    /// Not the algorithm of the configured key.
    Algorithm,
    Signature,
    /// `crit` names extensions; none is known here (RFC 7515 §4.1.11).
    Critical,
    Expired,
    /// `nbf` or `iat` lies in the future.
    NotYetValid,
    /// Not the configured `iss`.
    Issuer,
    /// None of the configured `aud`.
    Audience,
    /// This claim is missing or is not what it must be.
    Claim(&'static str),
}

impl fmt::Display for AuthError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            AuthError::TooLong => f.write_str("the token is too long"),
            AuthError::Malformed => f.write_str("the token is malformed"),
            AuthError::Algorithm => f.write_str("the token is signed with another algorithm"),
            AuthError::Signature => f.write_str("the token's signature is wrong"),
            AuthError::Critical => f.write_str("the token needs an extension that is not known here"),
            AuthError::Expired => f.write_str("the token has expired"),
            AuthError::NotYetValid => f.write_str("the token is not valid yet"),
            AuthError::Issuer => f.write_str("the token has another issuer"),
            AuthError::Audience => f.write_str("the token is for another audience"),
            AuthError::Claim(name) => write!(f, "the token's claim {name} is missing or wrong"),
        }
    }
}

impl std::error::Error for AuthError {}

/// Checks tokens with the configured key.
pub struct Verifier {
    key: DecodingKey,
    algorithm: Algorithm,
    validation: Validation,
    issuer: Option<String>,
    audience: Vec<String>,
}

impl Verifier {
    /// In development mode `config` has no key: put the development secret into `jwt_secret` first.
    pub fn new(config: &AuthConfig) -> Result<Self, KeyError> {
        let KeyPair { verify: key, algorithm, .. } = KeyPair::new(config)?;
        let mut validation = Validation::new(algorithm);
        // The claims are checked below: the library would read the clock itself and let leeway and rounding differ.
        validation.required_spec_claims.clear();
        validation.validate_exp = false;
        validation.validate_nbf = false;
        validation.validate_aud = false;
        let (issuer, audience) = (config.issuer.clone(), config.audience.clone());
        Ok(Verifier { key, algorithm, validation, issuer, audience })
    }

    /// `now` is wall time. The signature is checked before any claim is looked at.
    pub fn verify(&self, token: &str, now: SystemTime) -> Result<Grants, AuthError> {
        if token.len() > TOKEN_SIZE_MAX {
            return Err(AuthError::TooLong);
        }
        let decoded =
            jsonwebtoken::decode::<RawClaims>(token, &self.key, &self.validation).map_err(|e| self.why(token, &e))?;
        if decoded.header.crit.is_some() {
            return Err(AuthError::Critical);
        }
        self.grants(decoded.claims, now)
    }

    /// The library cannot parse algorithms that it does not have, such as `none`.
    fn why(&self, token: &str, error: &jsonwebtoken::errors::Error) -> AuthError {
        use jsonwebtoken::errors::ErrorKind;
        match error.kind() {
            ErrorKind::InvalidSignature => AuthError::Signature,
            ErrorKind::InvalidAlgorithm => AuthError::Algorithm,
            _ => match jsonwebtoken::decode_header(token) {
                Ok(header) if header.alg != self.algorithm => AuthError::Algorithm,
                _ => AuthError::Malformed,
            },
        }
    }

    fn grants(&self, claims: RawClaims, now: SystemTime) -> Result<Grants, AuthError> {
        let expires_at = numeric_date(claims.exp.as_ref(), "exp")?.ok_or(AuthError::Claim("exp"))?;
        if expires_at.checked_add(LEEWAY).is_some_and(|end| now >= end) {
            return Err(AuthError::Expired);
        }
        let latest_start = now.checked_add(LEEWAY).unwrap_or(now);
        for start in [numeric_date(claims.nbf.as_ref(), "nbf")?, numeric_date(claims.iat.as_ref(), "iat")?] {
            if start.is_some_and(|start| start > latest_start) {
                return Err(AuthError::NotYetValid);
            }
        }
        if let Some(issuer) = &self.issuer
            && claims.iss.as_ref().and_then(Value::as_str) != Some(issuer)
        {
            return Err(AuthError::Issuer);
        }
        if !self.audience.is_empty() {
            let is_ours = |v: &Value| v.as_str().is_some_and(|text| self.audience.iter().any(|ours| ours == text));
            let named = match &claims.aud {
                Some(Value::Array(several)) => several.iter().any(is_ours),
                Some(one) => is_ours(one),
                None => false,
            };
            if !named {
                return Err(AuthError::Audience);
            }
        }

        let user = claims.sub.as_ref().and_then(Value::as_str).and_then(|sub| UserId::new(sub).ok());
        let role = match &claims.role {
            None => Role::Participant,
            Some(value) => value.as_str().and_then(Role::parse).ok_or(AuthError::Claim("role"))?,
        };
        let name = match &claims.name {
            None | Some(Value::Null) => None,
            Some(value) => display_name(value.as_str().ok_or(AuthError::Claim("name"))?),
        };
        let rooms = claims.room_id.map_or(Some(RoomScope::Any), |value| RoomScope::from_claim(&value));
        let overrides = match claims.permissions {
            None => Overrides::default(),
            Some(value) => serde_json::from_value(value).map_err(|_| AuthError::Claim("permissions"))?,
        };
        Ok(Grants {
            user: user.ok_or(AuthError::Claim("sub"))?,
            name,
            role,
            rooms: rooms.ok_or(AuthError::Claim("roomId"))?,
            permissions: Permissions::resolve(role, &overrides),
            expires_at,
        })
    }
}

impl fmt::Debug for Verifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Verifier").field("algorithm", &self.algorithm).finish_non_exhaustive()
    }
}

/// The claims that matter, each checked by hand so that a wrong one can be named. A claim that is there twice is an
/// error of the parser.
#[derive(Deserialize)]
struct RawClaims {
    #[serde(default, deserialize_with = "present")]
    sub: Option<Value>,
    #[serde(default, deserialize_with = "present")]
    exp: Option<Value>,
    #[serde(default, deserialize_with = "present")]
    nbf: Option<Value>,
    #[serde(default, deserialize_with = "present")]
    iat: Option<Value>,
    #[serde(default, deserialize_with = "present")]
    iss: Option<Value>,
    #[serde(default, deserialize_with = "present")]
    aud: Option<Value>,
    #[serde(default, deserialize_with = "present")]
    name: Option<Value>,
    #[serde(default, deserialize_with = "present")]
    role: Option<Value>,
    #[serde(default, deserialize_with = "present", rename = "roomId")]
    room_id: Option<Value>,
    #[serde(default, deserialize_with = "present")]
    permissions: Option<Value>,
}

/// `null` is a value, not absence: a `"roomId":null` by accident must not mean every room.
fn present<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Value>, D::Error> {
    Value::deserialize(deserializer).map(Some)
}

/// Whole seconds since 1970 (RFC 7519 §2 allows fractions; an integer is what issuers send).
fn numeric_date(value: Option<&Value>, claim: &'static str) -> Result<Option<SystemTime>, AuthError> {
    let Some(value) = value else { return Ok(None) };
    let seconds = value.as_u64().ok_or(AuthError::Claim(claim))?;
    UNIX_EPOCH.checked_add(Duration::from_secs(seconds)).map(Some).ok_or(AuthError::Claim(claim))
}

/// Cuts to [`NAME_LENGTH_MAX`] characters, removes control characters and outer blanks; `None` when nothing is left.
pub fn display_name(text: &str) -> Option<String> {
    let name: String = text.chars().filter(|c| !c.is_control()).take(NAME_LENGTH_MAX).collect();
    let name = name.trim();
    (!name.is_empty()).then(|| name.to_owned())
}

/// What a minted token says.
#[derive(Debug, Clone)]
pub struct Claims {
    pub user: UserId,
    pub name: Option<String>,
    pub role: Role,
    pub rooms: RoomScope,
    pub permissions: Option<Overrides>,
    pub ttl: Duration,
}

/// Mints tokens that [`Verifier`] of the same configuration accepts.
pub struct Signer {
    key: EncodingKey,
    algorithm: Algorithm,
    issuer: Option<String>,
    audience: Option<String>,
}

impl Signer {
    /// `Ok(None)`: only a public key is configured.
    pub fn new(config: &AuthConfig) -> Result<Option<Self>, KeyError> {
        let KeyPair { sign, algorithm, .. } = KeyPair::new(config)?;
        let (issuer, audience) = (config.issuer.clone(), config.audience.first().cloned());
        Ok(sign.map(|key| Signer { key, algorithm, issuer, audience }))
    }

    /// `now` is wall time. Adds the configured issuer and the first configured audience.
    pub fn mint(&self, claims: &Claims, now: SystemTime) -> String {
        let issued = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let minted = Minted {
            sub: &claims.user,
            name: claims.name.as_deref(),
            role: claims.role.name(),
            room_id: claims.rooms.to_claim(),
            permissions: claims.permissions.as_ref(),
            iss: self.issuer.as_deref(),
            aud: self.audience.as_deref(),
            iat: issued,
            exp: issued.saturating_add(claims.ttl.as_secs()),
        };
        jsonwebtoken::encode(&Header::new(self.algorithm), &minted, &self.key)
            .expect("a key that signed when it was loaded signs again")
    }
}

impl fmt::Debug for Signer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Signer").field("algorithm", &self.algorithm).finish_non_exhaustive()
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Minted<'a> {
    sub: &'a UserId,
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<&'a str>,
    role: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    room_id: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    permissions: Option<&'a Overrides>,
    #[serde(skip_serializing_if = "Option::is_none")]
    iss: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    aud: Option<&'a str>,
    iat: u64,
    exp: u64,
}
