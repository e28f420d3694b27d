//! Tokens for the clients: minted with the server's secret, or asked of a server in development mode.

use std::io;
use std::time::{SystemTime, UNIX_EPOCH};

use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde_json::{Value, json};

use crate::http::{self, HttpUrl, Response};

/// Where tokens come from.
#[derive(Debug, Clone)]
pub enum Source {
    /// `JWT_SECRET` of the server.
    Secret(String),
    /// `POST /dev/token`.
    Url(HttpUrl),
}

impl Source {
    /// A token for one user and one room.
    ///
    /// # Errors
    ///
    /// When the server does not answer or answers anything but a token.
    pub fn token(&self, user: &str, room: &str) -> io::Result<String> {
        match self {
            Source::Secret(secret) => mint(secret, user, room),
            Source::Url(url) => ask(url, user, room),
        }
    }
}

fn mint(secret: &str, user: &str, room: &str) -> io::Result<String> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_err(io::Error::other)?.as_secs();
    let claims =
        json!({ "sub": user, "name": user, "role": "participant", "roomId": room, "iat": now, "exp": now + 24 * 3600 });
    jsonwebtoken::encode(&Header::new(Algorithm::HS256), &claims, &EncodingKey::from_secret(secret.as_bytes()))
        .map_err(io::Error::other)
}

fn ask(url: &HttpUrl, user: &str, room: &str) -> io::Result<String> {
    let body = json!({ "userId": user, "name": user, "role": "participant", "roomId": room }).to_string();
    token_of(&http::exchange("POST", url, &["Content-Type: application/json"], &body)?)
}

fn token_of(response: &Response) -> io::Result<String> {
    let Response { status, body, .. } = response;
    if !matches!(status, 200 | 201) {
        return Err(io::Error::other(format!("no token: {status} {body}")));
    }
    // A chunked body is one chunk here, and JSON holds the only braces in it.
    let json = body.find('{').zip(body.rfind('}')).and_then(|(from, to)| body.get(from..=to)).unwrap_or_default();
    let value: Value = serde_json::from_str(json).map_err(io::Error::other)?;
    let token = value["token"].as_str().ok_or_else(|| io::Error::other("the answer has no token"))?;
    Ok(token.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_of_the_token_server_are_read() {
        for (answer, token) in [
            ("HTTP/1.1 200 OK\r\nContent-Length: 13\r\n\r\n{\"token\":\"t\"}", Some("t")),
            ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nd\r\n{\"token\":\"t\"}\r\n0\r\n\r\n", Some("t")),
            ("HTTP/1.1 404 Not Found\r\n\r\n{\"token\":\"t\"}", None),
            ("HTTP/1.1 200 OK\r\n\r\n{}", None),
            ("HTTP/1.1 200 OK\r\n\r\n} {", None),
            ("HTTP/1.1 200 OK", None),
        ] {
            let response = Response::parse(answer.as_bytes(), true).ok().flatten();
            assert_eq!(response.and_then(|r| token_of(&r).ok()).as_deref(), token, "{answer}");
        }
    }

    #[test]
    fn minted_tokens_carry_user_and_room() {
        use jsonwebtoken::{DecodingKey, Validation, decode};
        let secret = "0123456789abcdef0123456789abcdef";
        let token = Source::Secret(secret.into()).token("u-1", "r-1").expect("minted");
        let key = DecodingKey::from_secret(secret.as_bytes());
        let claims = decode::<Value>(&token, &key, &Validation::new(Algorithm::HS256)).expect("valid").claims;
        assert_eq!((claims["sub"].as_str(), claims["roomId"].as_str()), (Some("u-1"), Some("r-1")));
    }
}
