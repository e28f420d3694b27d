//! The ICE servers that a client is told, ready for `RTCPeerConnection`.
//!
//! Pure. With a shared secret the TURN credentials are good for a limited time ("TURN REST API", which coturn calls
//! `use-auth-secret`): the user name is `<unix expiry>:<user>`, the password base64(HMAC-SHA1(secret, user name)).

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use openssl::hash::MessageDigest;
use openssl::pkey::PKey;
use openssl::sign::Signer;
use serde::Serialize;

use crate::base::UserId;
use crate::config::{RtcConfig, Secret};

/// How long TURN credentials are good. coturn checks them at every allocation and refresh, so that a lower value cuts
/// the relay of calls that last longer.
pub const TURN_CREDENTIAL_TTL: Duration = Duration::from_secs(6 * 3600);

/// An `RTCIceServer`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct IceServer {
    pub urls: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub username: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub credential: Option<String>,
}

/// The STUN servers as one entry, the TURN servers as another; none that is not configured. `now` is wall time.
pub fn ice_servers(config: &RtcConfig, user: &UserId, now: SystemTime) -> Vec<IceServer> {
    let mut servers = Vec::new();
    if !config.ice_servers.is_empty() {
        servers.push(IceServer { urls: config.ice_servers.clone(), username: None, credential: None });
    }
    if !config.turn_url.is_empty() {
        let (username, credential) = match &config.turn_secret {
            Some(secret) => {
                let (username, credential) = turn_credential(secret, user, now);
                (Some(username), Some(credential))
            }
            None => (config.turn_username.clone(), config.turn_password.as_ref().map(|p| p.expose().to_owned())),
        };
        servers.push(IceServer { urls: config.turn_url.clone(), username, credential });
    }
    servers
}

/// The same for a `Link` header, where a user name that is not ASCII would come out differently from client to client. It is
/// escaped; whoever checks the password computes it from the name as it is shown.
pub fn link_servers(config: &RtcConfig, user: &UserId, now: SystemTime) -> Vec<IceServer> {
    ice_servers(config, &user.to_ascii(), now)
}

fn turn_credential(secret: &Secret, user: &UserId, now: SystemTime) -> (String, String) {
    let expiry = now.duration_since(UNIX_EPOCH).unwrap_or_default() + TURN_CREDENTIAL_TTL;
    let username = format!("{}:{user}", expiry.as_secs());
    let mac =
        hmac_sha1(secret.expose().as_bytes(), username.as_bytes()).expect("HMAC-SHA1 takes any key and any message");
    (username, openssl::base64::encode_block(&mac))
}

fn hmac_sha1(key: &[u8], message: &[u8]) -> Result<Vec<u8>, openssl::error::ErrorStack> {
    let key = PKey::hmac(key)?;
    Signer::new(MessageDigest::sha1(), &key)?.sign_oneshot_to_vec(message)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(text: &str) -> UserId {
        UserId::new(text).unwrap()
    }

    fn at(seconds: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(seconds)
    }

    /// Vectors computed with Python: `base64.b64encode(hmac.new(secret, name, hashlib.sha1).digest())`.
    #[test]
    fn turn_credentials_are_those_that_coturn_computes() {
        let rows = [
            ("north", "alice", "1800021600:alice", "/l3dkNXPTngAAWsEL2Ztc5ZTTEk="),
            (
                "a secret of more than sixty-four bytes, which HMAC has to hash first, as it must",
                "bob",
                "1800021600:bob",
                "rXTfzCvMRuW28aKeKaPux/koSF4=",
            ),
            ("north", "Zoë:x", "1800021600:Zoë:x", "2C7mcNkzYivqYqIWgmOviJpQMNo="),
        ];
        for (secret, id, username, credential) in rows {
            let config = RtcConfig {
                turn_url: vec!["turn:t.example".to_owned()],
                turn_secret: Some(Secret::new(secret)),
                turn_username: Some("fixed".to_owned()),
                ..RtcConfig::default()
            };
            let servers = ice_servers(&config, &user(id), at(1_800_000_000));
            let expected = IceServer {
                urls: vec!["turn:t.example".to_owned()],
                username: Some(username.to_owned()),
                credential: Some(credential.to_owned()),
            };
            assert_eq!(servers, [expected]);
        }
    }

    #[test]
    fn names_in_headers_are_ascii() {
        let config = RtcConfig {
            turn_url: vec!["turn:t.example".to_owned()],
            turn_secret: Some(Secret::new("north")),
            ..RtcConfig::default()
        };
        let servers = link_servers(&config, &user("Zoë \"x\""), at(0));
        assert_eq!(servers[0].username.as_deref(), Some("21600:Zo%C3%AB \"x\""));
        assert_eq!(link_servers(&config, &user("bob"), at(0)), ice_servers(&config, &user("bob"), at(0)));
    }

    #[test]
    fn an_entry_per_kind_that_is_configured() {
        let mut config = RtcConfig::default();
        let json = |config: &RtcConfig| serde_json::to_value(ice_servers(config, &user("a"), at(0))).unwrap();
        assert_eq!(json(&config), serde_json::json!([]));
        config.ice_servers = vec!["stun:a".to_owned(), "stun:b".to_owned()];
        assert_eq!(json(&config), serde_json::json!([{"urls": ["stun:a", "stun:b"]}]));
        config.turn_url = vec!["turn:c".to_owned()];
        config.turn_username = Some("u".to_owned());
        config.turn_password = Some(Secret::new("p"));
        assert_eq!(
            json(&config),
            serde_json::json!([{"urls": ["stun:a", "stun:b"]}, {"urls": ["turn:c"], "username": "u", "credential": "p"}])
        );
    }
}
