//! HTTP/1.1 as bytes in, bytes out (RFC 9110, RFC 9112).
//!
//! [`Connection`] turns the bytes of one connection into [`Request`]s and says what has to be refused; [`Response`]
//! turns answers into bytes; [`cors`] knows which origins may ask. No sockets, no routes, no rooms. Driven by
//! [`crate::shard`]. Where the framing of a request is in any doubt it is refused and the connection closes, so that
//! this server and a proxy before it can never disagree about where a request ends.

pub mod api;
pub mod cors;
pub mod forwarded;
pub mod parse;
pub mod question;
pub mod record;
pub mod recordings;
pub mod response;
pub mod whip;

pub use parse::{Connection, Limits, Poll, Refusal};
pub use response::{Body, Response};

use std::fmt;

/// The methods this server has a use for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Method {
    Get,
    Head,
    Post,
    Put,
    Patch,
    Delete,
    Options,
}

impl Method {
    pub fn as_str(self) -> &'static str {
        match self {
            Method::Get => "GET",
            Method::Head => "HEAD",
            Method::Post => "POST",
            Method::Put => "PUT",
            Method::Patch => "PATCH",
            Method::Delete => "DELETE",
            Method::Options => "OPTIONS",
        }
    }

    /// Case-sensitive (RFC 9110 §9.1); `None` for every other word.
    pub fn parse(word: &str) -> Option<Self> {
        const ALL: [Method; 7] =
            [Method::Get, Method::Head, Method::Post, Method::Put, Method::Patch, Method::Delete, Method::Options];
        ALL.into_iter().find(|method| method.as_str() == word)
    }
}

/// A complete request. `Debug` leaves out what may hold a token.
#[derive(Clone, PartialEq, Eq)]
pub struct Request {
    pub method: Method,
    /// The request target as it was sent. May contain a token: not for logs.
    pub target: String,
    /// The path, percent-decoded, valid UTF-8 without control characters, beginning with `/` (or `*` for `OPTIONS *`).
    /// A `/` or `%` that came encoded stays `%2F` or `%25`, so that the path splits where the client split it;
    /// [`decode_segment`] gives the rest. Segments may be `.` or `..`: never a path of files.
    pub path: String,
    /// What follows the first `?`, as it was sent. May contain a token: not for logs.
    pub query: Option<String>,
    pub headers: Headers,
    /// Decoded from its transfer coding; empty when there is none.
    pub body: Vec<u8>,
    /// 0 or 1: HTTP/1.0 or HTTP/1.1.
    pub version_minor: u8,
}

impl Request {
    /// Host and port that the client wants: the `Host` header, which cannot differ from that of an absolute target.
    /// `None` only in HTTP/1.0.
    pub fn host(&self) -> Option<&str> {
        self.headers.get("host").or_else(|| parse::authority_of(&self.target))
    }

    /// The first query parameter of that name, decoded as forms are (`+` is a space). `None` when it is absent or
    /// not decodable.
    pub fn query_param(&self, name: &str) -> Option<String> {
        self.query_values(name).next()?
    }

    /// All query parameters of that name that are decodable, in order.
    pub fn query_params(&self, name: &str) -> impl Iterator<Item = String> {
        self.query_values(name).flatten()
    }

    fn query_values(&self, name: &str) -> impl Iterator<Item = Option<String>> {
        self.query.as_deref().unwrap_or_default().split('&').filter_map(move |pair| {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            (decode_form(key)? == name).then(|| decode_form(value))
        })
    }

    /// The token of `Authorization: Bearer <token>` (RFC 6750 §2.1). `None` when the header is absent, repeated or
    /// of another scheme.
    pub fn bearer(&self) -> Option<&str> {
        let mut values = self.headers.get_all("authorization");
        let (scheme, token) = values.next()?.split_once(' ')?;
        let token = token.trim_matches(' ');
        let is_sole = values.next().is_none();
        (is_sole && scheme.eq_ignore_ascii_case("bearer") && !token.is_empty()).then_some(token)
    }
}

/// The header fields of a request, in order. `Debug` gives the names only.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Headers(Vec<(String, String)>);

impl Headers {
    /// Adds a field. Bytes of the value that are not UTF-8 become U+FFFD.
    pub fn push(&mut self, name: &str, value: &[u8]) {
        let value = value.trim_ascii();
        self.0.push((name.to_ascii_lowercase(), String::from_utf8_lossy(value).into_owned()));
    }

    /// The first value of that name, in whatever case.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    /// All values of that name, in whatever case.
    pub fn get_all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> + 'a {
        self.0.iter().filter(move |(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    /// The elements of a comma-separated list, over all fields of that name, without the empty ones (RFC 9110 §5.6.1).
    pub fn list<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> + 'a {
        self.get_all(name)
            .flat_map(|value| value.split(','))
            .map(|element| element.trim_matches([' ', '\t']))
            .filter(|element| !element.is_empty())
    }

    /// Whether the list has that element, in whatever case.
    pub fn list_has(&self, name: &str, element: &str) -> bool {
        self.list(name).any(|found| found.eq_ignore_ascii_case(element))
    }

    /// Names in lower case, and values.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl fmt::Debug for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Request")
            .field("method", &self.method)
            .field("path", &self.path)
            .field("headers", &self.headers)
            .field("body", &self.body.len())
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Headers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.0.iter().map(|(name, _)| name)).finish()
    }
}

/// Decodes what is still encoded in a segment of [`Request::path`]: `%2F` and `%25`.
pub fn decode_segment(segment: &str) -> String {
    segment.replace("%2F", "/").replace("%25", "%")
}

/// Percent-decoding, with `+` for a space. `None` for a broken escape or what is not UTF-8.
fn decode_form(text: &str) -> Option<String> {
    let spaced = text.replace('+', " ");
    String::from_utf8(percent_decode(spaced.as_bytes())?).ok()
}

/// `None` when a `%` is not followed by two hexadecimal digits.
fn percent_decode(text: &[u8]) -> Option<Vec<u8>> {
    let mut decoded = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((byte, after)) = rest.split_first() {
        if *byte != b'%' {
            decoded.push(*byte);
            rest = after;
            continue;
        }
        let [high, low, after @ ..] = after else { return None };
        let digit = |byte: &u8| char::from(*byte).to_digit(16);
        decoded.push((digit(high)? << 4 | digit(low)?) as u8);
        rest = after;
    }
    Some(decoded)
}
