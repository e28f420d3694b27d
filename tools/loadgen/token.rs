//! Tokens for the clients: minted with the server's secret, or asked of a server in development mode.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde_json::{Value, json};

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
    let mut stream = TcpStream::connect(&url.authority)?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    stream.set_write_timeout(Some(TIMEOUT))?;
    let HttpUrl { authority, path } = url;
    let length = body.len();
    let head = format!(
        "POST {path} HTTP/1.1\r\nHost: {authority}\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\
         Connection: close\r\n\r\n"
    );
    stream.write_all((head + &body).as_bytes())?;
    let mut answer = Vec::new();
    stream.take(64 * 1024).read_to_end(&mut answer)?;
    parse_answer(&answer)
}

/// The token of a response with `Connection: close`.
fn parse_answer(answer: &[u8]) -> io::Result<String> {
    let text = String::from_utf8_lossy(answer);
    let (head, body) =
        text.split_once("\r\n\r\n").ok_or_else(|| io::Error::other("the token server sent no response"))?;
    let status = head.lines().next().unwrap_or_default();
    if !matches!(status.split(' ').nth(1), Some("200" | "201")) {
        return Err(io::Error::other(format!("no token: {status}: {body}")));
    }
    // A chunked body is one chunk here, and JSON holds the only braces in it.
    let json = body.find('{').zip(body.rfind('}')).and_then(|(from, to)| body.get(from..=to)).unwrap_or_default();
    let value: Value = serde_json::from_str(json).map_err(io::Error::other)?;
    let token = value["token"].as_str().ok_or_else(|| io::Error::other("the answer has no token"))?;
    Ok(token.to_owned())
}

/// An `http:` or `ws:` URL: there is no TLS here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpUrl {
    /// Host and port, to connect to and to name in `Host`.
    pub authority: String,
    /// With the query.
    pub path: String,
}

impl HttpUrl {
    /// `None` when the scheme is another or the host is missing.
    pub fn parse(scheme: &str, url: &str) -> Option<HttpUrl> {
        let rest = url.strip_prefix(scheme)?.strip_prefix("://")?;
        let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        let has_port = authority.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok());
        let authority = if has_port { authority.to_owned() } else { format!("{authority}:80") };
        let path = if path.is_empty() { "/" } else { path };
        (!authority.starts_with(':')).then(|| HttpUrl { authority, path: path.to_owned() })
    }
}

const TIMEOUT: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_taken_apart() {
        let url = |authority: &str, path: &str| Some(HttpUrl { authority: authority.into(), path: path.into() });
        for (scheme, text, parsed) in [
            ("ws", "ws://127.0.0.1:3000/video-calls/ws", url("127.0.0.1:3000", "/video-calls/ws")),
            ("ws", "ws://[::1]:3000", url("[::1]:3000", "/")),
            ("ws", "ws://[::1]/x", url("[::1]:80", "/x")),
            ("http", "http://example.org/dev/token?a=b", url("example.org:80", "/dev/token?a=b")),
            ("ws", "wss://example.org/", None),
            ("http", "ws://example.org/", None),
            ("http", "http:///x", None),
        ] {
            assert_eq!(HttpUrl::parse(scheme, text), parsed, "{text}");
        }
    }

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
            assert_eq!(parse_answer(answer.as_bytes()).ok().as_deref(), token, "{answer}");
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
