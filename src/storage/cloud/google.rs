//! A service account of Google: tokens for its requests (RFC 7523), and its signature.

use std::fmt;
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use jsonwebtoken::{Algorithm, EncodingKey, Header};
use openssl::hash::MessageDigest;
use openssl::pkey::{PKey, Private};
use openssl::sign::Signer;
use serde::{Deserialize, Serialize};

use super::super::store::{Fault, FaultKind};
use super::encoded;
use super::http::{Body, Http, Pace, Request, kind_of_status};
use crate::config::Secret;
use crate::recording::names;

/// What the JSON file of a service account says.
pub struct ServiceAccount {
    pub email: String,
    token_uri: String,
    key_id: Option<String>,
    encoding_key: EncodingKey,
    key: PKey<Private>,
}

#[derive(Deserialize)]
struct KeyFile {
    #[serde(rename = "type")]
    kind: String,
    client_email: Option<String>,
    private_key_id: Option<String>,
    private_key: Option<String>,
    token_uri: Option<String>,
}

impl ServiceAccount {
    /// The error is one line that names the file and never shows what is in it.
    pub fn read(path: &Path) -> Result<ServiceAccount, String> {
        let line = |text: &str| format!("{}: {text}", path.display());
        let size = std::fs::metadata(path).map_err(|error| line(&error.to_string()))?.len();
        if size > FILE_MAX {
            return Err(line("is too large for the JSON of a service account"));
        }
        let json = std::fs::read(path).map_err(|error| line(&error.to_string()))?;
        Self::parse(&json).map_err(|text| line(&text))
    }

    fn parse(json: &[u8]) -> Result<ServiceAccount, String> {
        // What serde says may repeat a value.
        let file: KeyFile = serde_json::from_slice(json).map_err(|error| {
            format!("is not the JSON of a service account (line {}, column {})", error.line(), error.column())
        })?;
        if file.kind != "service_account" {
            return Err("is not of a service account, which alone can sign; its type is another".to_owned());
        }
        let missing = |name: &str| format!("lacks {name}");
        let email = file.client_email.ok_or_else(|| missing("client_email"))?;
        let token_uri = file.token_uri.ok_or_else(|| missing("token_uri"))?;
        let pem = file.private_key.ok_or_else(|| missing("private_key"))?;
        if !token_uri.starts_with("https://") && !token_uri.starts_with("http://") {
            return Err("has a token_uri that is no URL".to_owned());
        }
        let unusable = || "has a private_key that cannot be used".to_owned();
        let encoding_key = EncodingKey::from_rsa_pem(pem.as_bytes()).map_err(|_| unusable())?;
        let key = PKey::private_key_from_pem(pem.as_bytes()).map_err(|_| unusable())?;
        if key.rsa().is_err() {
            return Err(unusable());
        }
        Ok(ServiceAccount { email, token_uri, key_id: file.private_key_id, encoding_key, key })
    }

    /// RSA with SHA-256 (PKCS #1 v1.5), in hexadecimal.
    pub fn sign(&self, text: &str) -> Result<String, Fault> {
        let sign = || {
            let mut signer = Signer::new(MessageDigest::sha256(), &self.key)?;
            signer.sign_oneshot_to_vec(text.as_bytes())
        };
        let unusable = |_: openssl::error::ErrorStack| unusable_key();
        sign().map(|signature| names::hex(&signature)).map_err(unusable)
    }

    fn assertion(&self, now: SystemTime) -> Result<String, Fault> {
        let issued = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let claims = Claims {
            iss: &self.email,
            scope: SCOPE,
            aud: &self.token_uri,
            iat: issued,
            exp: issued + ASSERTION_VALID.as_secs(),
        };
        let mut header = Header::new(Algorithm::RS256);
        header.kid.clone_from(&self.key_id);
        jsonwebtoken::encode(&header, &claims, &self.encoding_key).map_err(|_| unusable_key())
    }

    fn fetch(&self, http: &Http) -> Result<Token, Fault> {
        let assertion = self.assertion(SystemTime::now())?;
        let form = format!("grant_type={}&assertion={assertion}", encoded(GRANT, false));
        let headers = [("content-type", "application/x-www-form-urlencoded"), ("accept", "application/json")];
        let body = Body::Octets(form.as_bytes());
        let asked = Instant::now();
        let reply =
            http.send(Request { method: "POST", url: &self.token_uri, headers: &headers, body, pace: Pace::Soon })?;
        if !reply.is_success() {
            let refused: Refused = serde_json::from_slice(&reply.body).unwrap_or_default();
            let kind = kind_of_refusal(reply.status, &refused);
            return Err(http.refusal(&reply, kind, &refused.error, &refused.error_description));
        }
        let granted: Granted = serde_json::from_slice(&reply.body)
            .map_err(|_| Fault::new(FaultKind::Server, "the answer to a token request is not what it should be"))?;
        let valid = Duration::from_secs(granted.expires_in.unwrap_or(0)).min(ASSERTION_VALID);
        // Before it expires, also one of a short life.
        let fresh = valid.saturating_sub(REFRESH_BEFORE).max(valid / 2);
        Ok(Token { secret: Secret::new(&granted.access_token), until: asked + fresh })
    }
}

impl fmt::Debug for ServiceAccount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServiceAccount").field("email", &self.email).finish_non_exhaustive()
    }
}

/// The one token that all requests share. Whoever finds it old gets another, while the others wait for that.
#[derive(Debug, Default)]
pub struct Tokens(Mutex<Option<Token>>);

#[derive(Debug, Clone)]
struct Token {
    secret: Secret,
    until: Instant,
}

impl Tokens {
    /// `refused`: a token that was just refused; it is not given again.
    pub fn token(&self, account: &ServiceAccount, http: &Http, refused: Option<&Secret>) -> Result<Secret, Fault> {
        let mut held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(token) = &*held
            && token.until > Instant::now()
            && Some(&token.secret) != refused
        {
            return Ok(token.secret.clone());
        }
        *held = None;
        let token = account.fetch(http)?;
        let secret = token.secret.clone();
        *held = Some(token);
        Ok(secret)
    }
}

#[derive(Serialize)]
struct Claims<'a> {
    iss: &'a str,
    scope: &'a str,
    aud: &'a str,
    iat: u64,
    exp: u64,
}

#[derive(Deserialize)]
struct Granted {
    access_token: String,
    /// Seconds.
    expires_in: Option<u64>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Refused {
    error: String,
    error_description: String,
}

fn kind_of_refusal(status: u16, refused: &Refused) -> FaultKind {
    let description = refused.error_description.to_ascii_lowercase();
    match refused.error.as_str() {
        "invalid_grant" if ["timeframe", "iat", "clock"].iter().any(|word| description.contains(word)) => {
            FaultKind::Clock
        }
        "invalid_grant" | "invalid_client" | "unauthorized_client" | "access_denied" | "invalid_scope" => {
            FaultKind::Credentials
        }
        // The address of tokens is wrong, not an object.
        _ if status == 404 => FaultKind::Refused,
        _ => kind_of_status(status),
    }
}

fn unusable_key() -> Fault {
    Fault::new(FaultKind::Credentials, "the private key of the service account cannot sign")
}

const GRANT: &str = "urn:ietf:params:oauth:grant-type:jwt-bearer";
/// Objects alone, not the bucket's settings.
const SCOPE: &str = "https://www.googleapis.com/auth/devstorage.read_write";
/// The longest that Google grants.
const ASSERTION_VALID: Duration = Duration::from_secs(3600);
/// A request that begins with a token ends before it does not hold any more.
const REFRESH_BEFORE: Duration = Duration::from_secs(300);
const FILE_MAX: u64 = 64 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    fn json(edit: impl Fn(&mut serde_json::Value)) -> Vec<u8> {
        let key = openssl::rsa::Rsa::generate(2048).expect("a key");
        let pem = PKey::from_rsa(key).and_then(|key| key.private_key_to_pem_pkcs8()).expect("a key");
        let mut value = serde_json::json!({
            "type": "service_account",
            "client_email": "a@b.example",
            "private_key_id": "k1",
            "private_key": String::from_utf8(pem).expect("PEM is text"),
            "token_uri": "https://oauth2.example/token",
        });
        edit(&mut value);
        serde_json::to_vec(&value).expect("a value")
    }

    #[test]
    fn files_of_accounts_are_judged() {
        assert!(ServiceAccount::parse(&json(|_| ())).is_ok());
        type Row = (fn(&mut serde_json::Value), &'static str);
        let rows: [Row; 5] = [
            (|v| v["type"] = "authorized_user".into(), "is not of a service account"),
            (|v| v["client_email"] = serde_json::Value::Null, "lacks client_email"),
            (|v| v["private_key"] = "SECRET".into(), "has a private_key that cannot be used"),
            (|v| v["token_uri"] = "ftp://x".into(), "has a token_uri that is no URL"),
            (|v| v["type"] = 5.into(), "is not the JSON of a service account"),
        ];
        for (edit, expected) in rows {
            let line = ServiceAccount::parse(&json(edit)).err().unwrap_or_default();
            assert!(line.starts_with(expected) && !line.contains("SECRET"), "{line}");
        }
        assert!(ServiceAccount::parse(b"{\"type\":\"service_account\"").is_err());
    }

    #[test]
    fn accounts_are_shown_without_their_key() {
        let account = ServiceAccount::parse(&json(|_| ())).expect("an account");
        let shown = format!(
            "{account:?} {:?}",
            Tokens(Mutex::new(Some(Token { secret: Secret::new("ya29.token"), until: Instant::now() })))
        );
        assert!(!shown.contains("ya29") && !shown.contains("PRIVATE") && shown.contains("a@b.example"), "{shown}");
    }

    #[test]
    fn refusals_of_tokens() {
        for (status, error, description, expected) in [
            (400, "invalid_grant", "Invalid JWT: Token must be in a reasonable timeframe", FaultKind::Clock),
            (400, "invalid_grant", "Invalid JWT Signature.", FaultKind::Credentials),
            (401, "", "", FaultKind::Credentials),
            (404, "", "", FaultKind::Refused),
            (500, "", "", FaultKind::Server),
        ] {
            let refused = Refused { error: error.into(), error_description: description.into() };
            assert_eq!(kind_of_refusal(status, &refused), expected, "{status} {error}");
        }
    }
}
