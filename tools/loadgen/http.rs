//! As much of HTTP/1.1 as it takes to get a token and to open and end sessions of WHIP and WHEP. There is no TLS here.

use std::io::{self, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::time::Duration;

/// An `http:` or `ws:` URL.
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

    /// Another resource of the same server.
    pub fn with_path(&self, path: &str) -> HttpUrl {
        HttpUrl { authority: self.authority.clone(), path: path.to_owned() }
    }
}

/// A blocking connection to a server.
///
/// # Errors
///
/// When there is no such server, or it takes longer than [`TIMEOUT`].
pub fn connect(authority: &str) -> io::Result<TcpStream> {
    let address = authority.to_socket_addrs()?.next().ok_or(io::ErrorKind::AddrNotAvailable)?;
    let stream = TcpStream::connect_timeout(&address, TIMEOUT)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    stream.set_write_timeout(Some(TIMEOUT))?;
    Ok(stream)
}

/// The bytes of a request. `headers` are whole lines without their ends.
pub fn request(method: &str, url: &HttpUrl, headers: &[&str], body: &str) -> Vec<u8> {
    let HttpUrl { authority, path } = url;
    let mut text = format!("{method} {path} HTTP/1.1\r\nHost: {authority}\r\nContent-Length: {}\r\n", body.len());
    for header in headers {
        text.push_str(header);
        text.push_str("\r\n");
    }
    text.push_str("\r\n");
    text.push_str(body);
    text.into_bytes()
}

/// One request on a connection of its own, and its response.
///
/// # Errors
///
/// Those of the connection, and a response that is none.
pub fn exchange(method: &str, url: &HttpUrl, headers: &[&str], body: &str) -> io::Result<Response> {
    let mut stream = connect(&url.authority)?;
    let headers = [headers, &["Connection: close"]].concat();
    stream.write_all(&request(method, url, &headers, body))?;
    let mut answer = Vec::new();
    stream.take(RESPONSE_MAX as u64).read_to_end(&mut answer)?;
    Response::parse(&answer, true)?.ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
}

#[derive(Debug, PartialEq, Eq)]
pub struct Response {
    pub status: u16,
    head: String,
    pub body: String,
}

impl Response {
    /// `None`: there is more to come. At its `end` a connection tells how long a body of no known length is.
    ///
    /// # Errors
    ///
    /// When this is no response, or longer than [`RESPONSE_MAX`].
    pub fn parse(bytes: &[u8], end: bool) -> io::Result<Option<Response>> {
        let none = || io::Error::new(io::ErrorKind::InvalidData, "no HTTP response");
        let Some(head_len) = bytes.windows(4).position(|window| window == b"\r\n\r\n") else {
            return if end || bytes.len() > RESPONSE_MAX { Err(none()) } else { Ok(None) };
        };
        let head = std::str::from_utf8(&bytes[..head_len]).map_err(|_| none())?.to_owned();
        let status = head.strip_prefix("HTTP/1.1 ").and_then(|rest| rest.get(..3)?.parse().ok()).ok_or_else(none)?;
        let mut response = Response { status, head, body: String::new() };
        let rest = &bytes[head_len + 4..];
        let len = match response.header("content-length").map(str::parse::<usize>) {
            Some(Ok(len)) if len <= RESPONSE_MAX => len,
            Some(_) => return Err(none()),
            None if matches!(status, 204 | 304) => 0,
            None if end => rest.len(),
            None => return Ok(None),
        };
        let Some(body) = rest.get(..len) else { return if end { Err(none()) } else { Ok(None) } };
        response.body = String::from_utf8_lossy(body).into_owned();
        Ok(Some(response))
    }

    /// The value of the first header field of this name, which is in lower case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().skip(1).find_map(|line| {
            let (other, value) = line.split_once(':')?;
            other.eq_ignore_ascii_case(name).then(|| value.trim())
        })
    }
}

const TIMEOUT: Duration = Duration::from_secs(10);
/// Longer than any answer with an SDP.
const RESPONSE_MAX: usize = 256 * 1024;

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
    fn requests_say_what_they_carry() {
        let url = HttpUrl { authority: "h:1".into(), path: "/p?q".into() };
        let text = String::from_utf8(request("POST", &url, &["A: b"], "body")).expect("text");
        assert_eq!(text, "POST /p?q HTTP/1.1\r\nHost: h:1\r\nContent-Length: 4\r\nA: b\r\n\r\nbody");
    }

    #[test]
    fn responses_may_come_in_parts() {
        let bytes = b"HTTP/1.1 201 Created\r\nlocation: /x\r\nContent-Length: 5\r\n\r\nv=0\r\nmore";
        let whole = bytes.len() - 4;
        for len in 0..whole {
            assert_eq!(Response::parse(&bytes[..len], false).expect("so far so good"), None, "{len}");
            assert!(Response::parse(&bytes[..len], true).is_err(), "cut off at {len}");
        }
        let response = Response::parse(bytes, false).expect("a response").expect("all of it");
        assert_eq!((response.status, response.body.as_str()), (201, "v=0\r\n"));
        assert_eq!((response.header("location"), response.header("etag")), (Some("/x"), None));
    }

    #[test]
    fn lengths_are_told_or_end_with_the_connection() {
        let parse = |text: &str, end| Response::parse(text.as_bytes(), end).map(|r| r.map(|r| (r.status, r.body)));
        let ok = |status, body: &str| Some((status, body.to_owned()));
        assert_eq!(parse("HTTP/1.1 204 No Content\r\n\r\n", false).expect("a response"), ok(204, ""));
        assert_eq!(parse("HTTP/1.1 200 OK\r\n\r\nab", true).expect("a response"), ok(200, "ab"));
        assert_eq!(parse("HTTP/1.1 200 OK\r\n\r\nab", false).expect("not yet"), None);
        for bad in ["HTTP/1.1 x\r\n\r\n", "SMTP\r\n\r\n", "HTTP/1.1 200 OK\r\nContent-Length: 9999999\r\n\r\n"] {
            assert!(parse(bad, false).is_err(), "{bad}");
        }
    }
}
