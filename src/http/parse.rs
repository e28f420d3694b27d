//! The request stream of one connection (RFC 9112), strict: what could be read in two ways is refused.

use super::{Headers, Method, Request, Response};
use std::time::{Duration, Instant};

/// Bounds of a request; all in bytes unless said otherwise.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Request line without its CRLF; beyond: 414.
    pub request_line: usize,
    /// Request line, header fields and their line ends; beyond: 431.
    pub head: usize,
    /// Number of header fields; beyond: 431.
    pub headers: usize,
    /// Decoded content; beyond: 413.
    pub body: usize,
    /// The same for session descriptions (`application/sdp`), which have a bound of their own.
    pub sdp: usize,
    /// From the first byte of a head (on a fresh connection: from its opening) to its end.
    pub head_time: Duration,
    /// From the end of the head to the end of the content.
    pub body_time: Duration,
    /// Between an answer and the next request.
    pub idle_time: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            request_line: 8 * 1024,
            head: 16 * 1024,
            headers: 64,
            body: 64 * 1024,
            sdp: 128 * 1024,
            head_time: Duration::from_secs(10),
            body_time: Duration::from_secs(30),
            idle_time: Duration::from_secs(60),
        }
    }
}

impl Limits {
    /// Decoded content of a request with these headers.
    pub fn body_max(&self, headers: &Headers) -> usize {
        let content_type = headers.get("content-type").unwrap_or_default();
        let essence = content_type.split(';').next().unwrap_or_default().trim();
        if essence.eq_ignore_ascii_case(super::whip::SDP) { self.sdp } else { self.body }
    }
}

/// What [`Connection::poll`] gives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Poll {
    /// Nothing before more bytes, an answer or a timeout.
    Pending,
    /// To be answered; nothing more comes before [`Connection::response_sent`].
    Request(Request),
    /// Write [`CONTINUE`]: the client waits before it sends its content.
    Continue,
    /// Answer with this, then close. The machine is done.
    Refuse(Refusal),
    /// Close without an answer. The machine is done.
    Close,
}

/// The interim answer to `Expect: 100-continue` (RFC 9110 §10.1.1).
pub const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";

/// Why a request is not served; the connection closes after the answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Refusal {
    /// HTTP status.
    pub status: u16,
    /// Stable word for programs.
    pub code: &'static str,
    /// For people.
    pub detail: &'static str,
}

impl Refusal {
    pub fn response(&self) -> Response {
        let title = match self.status {
            405 => "Method not allowed",
            408 => "Request timeout",
            413 | 414 | 431 => "Request too large",
            415 => "Unsupported content coding",
            417 => "Expectation failed",
            501 => "Not implemented",
            505 => "HTTP version not supported",
            _ => "Bad request",
        };
        let response = Response::problem(self.status, self.code, title, self.detail);
        match self.status {
            405 => response.header("Allow", "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"),
            // RFC 9110 §12.5.3: tells the client what would have been taken.
            415 => response.header("Accept-Encoding", "identity"),
            _ => response,
        }
    }
}

/// The machine for the requests of one connection.
///
/// Requests may be pipelined; they come out one at a time, each after the answer to the one before was queued.
#[derive(Debug)]
pub struct Connection {
    limits: Limits,
    /// Received, not consumed. Bounded by the caller's respect for [`Connection::wants_read`].
    buffer: Vec<u8>,
    state: State,
}

#[derive(Debug)]
enum State {
    /// `is_idle`: after an answer, before any byte of the next request.
    Head {
        scan: Scan,
        is_idle: bool,
        deadline: Instant,
    },
    Body {
        request: Box<Request>,
        framing: Framing,
        owes_continue: bool,
        deadline: Instant,
    },
    Answering {
        keep_alive: bool,
    },
    /// Said with the next poll.
    Refusing(Refusal),
    /// Said with the next poll.
    Closing,
    Done,
}

/// How far the head has been read.
#[derive(Debug, Clone, Copy, Default)]
struct Scan {
    at: usize,
    line_begin: usize,
    /// Complete lines.
    lines: usize,
    skipped_empty_line: bool,
}

/// Where the content ends (RFC 9112 §6.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Framing {
    Length { remaining: usize },
    Chunked(Chunk),
}

/// Position in a chunked content (RFC 9112 §7.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Chunk {
    Size { digits: usize, size: usize },
    Extension { size: usize, length: usize },
    SizeLf { size: usize },
    Data { remaining: usize },
    DataCr,
    DataLf,
    Trailer { line: usize, total: usize },
    TrailerLf { line: usize, total: usize },
    End,
}

/// Of one chunk size line; nothing in use needs any.
const EXTENSION_MAX: usize = 256;
/// Of the buffer, should a caller not respect `wants_read`.
const BUFFER_MAX: usize = 1 << 20;

impl Connection {
    pub fn new(now: Instant, limits: &Limits) -> Self {
        Connection {
            limits: limits.clone(),
            buffer: Vec::new(),
            state: State::Head { scan: Scan::default(), is_idle: false, deadline: now + limits.head_time },
        }
    }

    /// Takes bytes from the client.
    pub fn handle_bytes(&mut self, now: Instant, bytes: &[u8]) {
        if bytes.is_empty() || matches!(self.state, State::Refusing(_) | State::Closing | State::Done) {
            return;
        }
        if self.buffer.len() + bytes.len() > BUFFER_MAX {
            self.state = State::Refusing(TOO_MUCH_PIPELINED);
            return;
        }
        if let State::Head { is_idle: is_idle @ true, deadline, .. } = &mut self.state {
            *is_idle = false;
            *deadline = now + self.limits.head_time;
        }
        self.buffer.extend_from_slice(bytes);
    }

    /// What happens next; to be called until it says [`Poll::Pending`].
    pub fn poll(&mut self, now: Instant) -> Poll {
        loop {
            let step = match &mut self.state {
                State::Head { .. } => self.poll_head(now),
                State::Body { .. } => self.poll_body(),
                State::Answering { .. } | State::Done => Ok(Some(Poll::Pending)),
                State::Refusing(refusal) => Err(*refusal),
                State::Closing => {
                    self.state = State::Done;
                    Ok(Some(Poll::Close))
                }
            };
            match step {
                Ok(None) => continue,
                Ok(Some(poll)) => return poll,
                Err(refusal) => {
                    self.state = State::Done;
                    self.buffer = Vec::new();
                    return Poll::Refuse(refusal);
                }
            }
        }
    }

    /// Whether the connection can stay open after the answer to the request at hand.
    pub fn keep_alive(&self) -> bool {
        matches!(self.state, State::Answering { keep_alive: true })
    }

    /// The answer to the request at hand is queued; `keep_alive` is what it said. Poll again: the next request may
    /// be there already.
    pub fn response_sent(&mut self, now: Instant, keep_alive: bool) {
        if !matches!(self.state, State::Answering { .. }) {
            return;
        }
        if !keep_alive {
            self.state = State::Closing;
            return;
        }
        let is_idle = self.buffer.is_empty();
        let time = if is_idle { self.limits.idle_time } else { self.limits.head_time };
        self.state = State::Head { scan: Scan::default(), is_idle, deadline: now + time };
    }

    /// Whether more bytes are welcome. While not, the caller leaves them in the socket.
    pub fn wants_read(&self) -> bool {
        match self.state {
            State::Head { .. } | State::Body { .. } | State::Answering { .. } => self.buffer.len() < self.limits.head,
            State::Refusing(_) | State::Closing | State::Done => false,
        }
    }

    /// When to call [`Connection::handle_timeout`]; `None` while an answer is awaited.
    pub fn poll_timeout(&self) -> Option<Instant> {
        match self.state {
            State::Head { deadline, .. } | State::Body { deadline, .. } => Some(deadline),
            _ => None,
        }
    }

    /// Poll afterwards.
    pub fn handle_timeout(&mut self, now: Instant) {
        if self.poll_timeout().is_some_and(|deadline| deadline <= now) {
            let is_silent = self.buffer.is_empty() && matches!(self.state, State::Head { .. });
            self.state = if is_silent { State::Closing } else { State::Refusing(TIMEOUT) };
        }
    }

    /// The bytes that came after the request at hand, for whoever takes the connection over (an upgrade).
    pub fn take_rest(self) -> Vec<u8> {
        self.buffer
    }

    /// `Ok(None)`: the state has changed, poll on.
    fn poll_head(&mut self, now: Instant) -> Result<Option<Poll>, Refusal> {
        let State::Head { scan, .. } = &mut self.state else { return Ok(None) };
        let Some(end) = scan_head(scan, &mut self.buffer, &self.limits)? else { return Ok(Some(Poll::Pending)) };
        let head = parse_head(&self.buffer[..end], &self.limits)?;
        self.buffer.drain(..end);
        let owes_continue = head.expects_continue && self.buffer.is_empty();
        self.state = State::Body {
            request: Box::new(head.request),
            framing: head.framing,
            owes_continue,
            deadline: now + self.limits.body_time,
        };
        Ok(None)
    }

    fn poll_body(&mut self) -> Result<Option<Poll>, Refusal> {
        let State::Body { request, framing, owes_continue, .. } = &mut self.state else { return Ok(None) };
        let is_complete = match framing {
            Framing::Length { remaining } => {
                let take = (*remaining).min(self.buffer.len());
                request.body.extend(self.buffer.drain(..take));
                *remaining -= take;
                *remaining == 0
            }
            Framing::Chunked(chunk) => {
                let consumed = decode_chunks(chunk, &self.buffer, request, &self.limits)?;
                self.buffer.drain(..consumed);
                *chunk == Chunk::End
            }
        };
        if !is_complete {
            let poll = if std::mem::take(owes_continue) { Poll::Continue } else { Poll::Pending };
            return Ok(Some(poll));
        }
        let keep_alive = wants_keep_alive(request);
        if self.buffer.is_empty() {
            // A connection that waits holds no buffer.
            self.buffer = Vec::new();
        }
        match std::mem::replace(&mut self.state, State::Answering { keep_alive }) {
            State::Body { request, .. } => Ok(Some(Poll::Request(*request))),
            _ => unreachable!("matched above"),
        }
    }
}

/// RFC 9112 §9.3.
fn wants_keep_alive(request: &Request) -> bool {
    let has = |option| request.headers.list_has("connection", option);
    !has("close") && (request.version_minor >= 1 || has("keep-alive"))
}

/// Finds the end of the head, and refuses what no lenient reading shall be given to: line ends that are not CRLF,
/// control characters, too many bytes. An empty line before the request is skipped, once (RFC 9112 §2.2).
fn scan_head(scan: &mut Scan, buffer: &mut Vec<u8>, limits: &Limits) -> Result<Option<usize>, Refusal> {
    while let Some(&byte) = buffer.get(scan.at) {
        let after_cr = scan.at > scan.line_begin && buffer.get(scan.at - 1) == Some(&b'\r');
        scan.at += 1;
        match byte {
            b'\n' if after_cr => {
                let is_empty = scan.at - scan.line_begin == 2;
                scan.line_begin = scan.at;
                if is_empty && scan.lines > 0 {
                    return if scan.at > limits.head { Err(HEAD_TOO_LARGE) } else { Ok(Some(scan.at)) };
                }
                if is_empty && scan.skipped_empty_line {
                    return Err(BAD_REQUEST_LINE);
                }
                if is_empty {
                    buffer.drain(..scan.at);
                    *scan = Scan { skipped_empty_line: true, ..Scan::default() };
                    continue;
                }
                scan.lines += 1;
            }
            b'\n' => return Err(BARE_LF),
            _ if after_cr => return Err(BARE_CR),
            b'\r' | b'\t' | b' '..=b'~' | 0x80.. => {}
            _ => return Err(CONTROL),
        }
        if scan.lines == 0 && byte != b'\r' && scan.at - scan.line_begin > limits.request_line {
            return Err(TARGET_TOO_LONG);
        }
        if scan.at > limits.head {
            return Err(HEAD_TOO_LARGE);
        }
    }
    Ok(None)
}

#[derive(Debug)]
struct Head {
    request: Request,
    framing: Framing,
    expects_continue: bool,
}

fn parse_head(bytes: &[u8], limits: &Limits) -> Result<Head, Refusal> {
    let mut fields = vec![httparse::EMPTY_HEADER; limits.headers];
    let mut parsed = httparse::Request::new(&mut fields);
    match parsed.parse(bytes) {
        Ok(httparse::Status::Complete(length)) if length == bytes.len() => {}
        Ok(_) => return Err(BAD_REQUEST_LINE),
        Err(httparse::Error::TooManyHeaders) => return Err(TOO_MANY_HEADERS),
        Err(httparse::Error::Version) if names_a_version(bytes) => return Err(VERSION),
        Err(httparse::Error::Token | httparse::Error::Version | httparse::Error::NewLine) => {
            return Err(BAD_REQUEST_LINE);
        }
        Err(_) => return Err(BAD_HEADER),
    }
    let (Some(word), Some(target), Some(version_minor)) = (parsed.method, parsed.path, parsed.version) else {
        return Err(BAD_REQUEST_LINE);
    };
    let method = match (Method::parse(word), word) {
        (Some(method), _) => method,
        (None, "CONNECT" | "TRACE") => return Err(METHOD_NOT_ALLOWED),
        (None, _) => return Err(METHOD_UNKNOWN),
    };
    let mut headers = Headers::default();
    for field in parsed.headers.iter() {
        headers.push(field.name, field.value);
    }
    let (path, query) = parse_target(method, target)?;
    check_host(&headers, target, version_minor)?;
    let framing = parse_framing(&headers, version_minor, limits)?;
    if headers.list("content-encoding").any(|coding| !coding.eq_ignore_ascii_case("identity")) {
        return Err(CONTENT_CODING);
    }
    let mut expects_continue = false;
    for expectation in headers.list("expect").filter(|_| version_minor >= 1) {
        if !expectation.eq_ignore_ascii_case("100-continue") {
            return Err(EXPECTATION);
        }
        expects_continue = true;
    }
    let target = target.to_owned();
    let request = Request { method, target, path, query, headers, body: Vec::new(), version_minor };
    Ok(Head { request, framing, expects_continue })
}

/// Whether the request line is three words of which the last is some `HTTP/x.y`.
fn names_a_version(head: &[u8]) -> bool {
    let line = head.split(|byte| *byte == b'\r').next().unwrap_or_default();
    let words: Vec<&[u8]> = line.split(|byte| *byte == b' ').collect();
    matches!(words[..], [_, _, [b'H', b'T', b'T', b'P', b'/', b'0'..=b'9', b'.', b'0'..=b'9']])
}

/// RFC 9112 §3.2: origin form, absolute form, and `*` for `OPTIONS`.
fn parse_target(method: Method, target: &str) -> Result<(String, Option<String>), Refusal> {
    if !target.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'#') {
        return Err(BAD_TARGET);
    }
    if target == "*" && method == Method::Options {
        return Ok(("*".to_owned(), None));
    }
    let local = match authority_of(target) {
        Some(authority) if !is_authority(authority) => return Err(BAD_TARGET),
        Some(authority) => target.split_once("://").and_then(|(_, rest)| rest.get(authority.len()..)),
        None if target.starts_with('/') => Some(target),
        None => None,
    };
    let local = local.ok_or(BAD_TARGET)?;
    let (path, query) = match local.split_once('?') {
        Some((path, query)) => (path, Some(query.to_owned())),
        None => (local, None),
    };
    let path = decode_path(if path.is_empty() { "/" } else { path }).ok_or(BAD_TARGET)?;
    Ok((path, query))
}

/// Host and port in an absolute target.
pub(super) fn authority_of(target: &str) -> Option<&str> {
    let (scheme, rest) = target.split_once("://")?;
    let is_ours = scheme.eq_ignore_ascii_case("http") || scheme.eq_ignore_ascii_case("https");
    is_ours.then(|| rest.split(['/', '?']).next().unwrap_or_default())
}

/// `host`, `host:port`, `[v6]` or `[v6]:port`; no user.
pub(super) fn is_authority(text: &str) -> bool {
    let (host_is_valid, after) = match text.strip_prefix('[') {
        Some(bracketed) => match bracketed.split_once(']') {
            Some((address, after)) => (address.parse::<std::net::Ipv6Addr>().is_ok(), after),
            None => return false,
        },
        None => {
            let (host, after) = text.split_at(text.find(':').unwrap_or(text.len()));
            let is_valid = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
            (!host.is_empty() && host.bytes().all(is_valid), after)
        }
    };
    let port_is_valid = match after.strip_prefix(':') {
        Some(port) => port.bytes().all(|byte| byte.is_ascii_digit()) && port.parse::<u16>().is_ok(),
        None => after.is_empty(),
    };
    host_is_valid && port_is_valid
}

/// As promised at [`Request::path`]. `None` when it cannot be kept.
fn decode_path(raw: &str) -> Option<String> {
    let mut kept = String::with_capacity(raw.len());
    let mut parts = raw.split('%');
    kept.push_str(parts.next()?);
    for part in parts {
        match part.get(..2)? {
            "2f" | "2F" => kept.push_str("%252F"),
            "25" => kept.push_str("%2525"),
            escape => {
                kept.push('%');
                kept.push_str(escape);
            }
        }
        kept.push_str(part.get(2..)?);
    }
    let path = String::from_utf8(super::percent_decode(kept.as_bytes())?).ok()?;
    (!path.chars().any(char::is_control)).then_some(path)
}

/// RFC 9112 §3.2: exactly one in HTTP/1.1, and it agrees with an absolute target.
fn check_host(headers: &Headers, target: &str, version_minor: u8) -> Result<(), Refusal> {
    let mut hosts = headers.get_all("host");
    let (host, another) = (hosts.next(), hosts.next());
    let is_valid = match host {
        Some(host) => {
            another.is_none()
                && is_authority(host)
                && authority_of(target).is_none_or(|authority| authority.eq_ignore_ascii_case(host))
        }
        None => version_minor == 0,
    };
    if is_valid { Ok(()) } else { Err(BAD_HOST) }
}

/// RFC 9112 §6: at most one way to find the end, spelled in the one way everybody understands.
fn parse_framing(headers: &Headers, version_minor: u8, limits: &Limits) -> Result<Framing, Refusal> {
    let mut codings = headers.get_all("transfer-encoding");
    let mut lengths = headers.get_all("content-length");
    match (codings.next(), lengths.next()) {
        (None, None) => Ok(Framing::Length { remaining: 0 }),
        (Some(_), Some(_)) => Err(TWO_FRAMINGS),
        (Some(coding), None) => {
            let is_sole = codings.next().is_none();
            if version_minor == 0 || !is_sole || !coding.eq_ignore_ascii_case("chunked") {
                return Err(BAD_TRANSFER_CODING);
            }
            Ok(Framing::Chunked(Chunk::Size { digits: 0, size: 0 }))
        }
        (None, Some(length)) => {
            if lengths.next().is_some() || length.is_empty() || !length.bytes().all(|byte| byte.is_ascii_digit()) {
                return Err(BAD_LENGTH);
            }
            match length.parse::<usize>() {
                Ok(remaining) if remaining <= limits.body_max(headers) => Ok(Framing::Length { remaining }),
                _ => Err(BODY_TOO_LARGE),
            }
        }
    }
}

/// Decodes what there is into the body of `request`; returns the number of bytes consumed.
fn decode_chunks(chunk: &mut Chunk, bytes: &[u8], request: &mut Request, limits: &Limits) -> Result<usize, Refusal> {
    let body_max = limits.body_max(&request.headers);
    let body = &mut request.body;
    let mut at = 0;
    while *chunk != Chunk::End {
        if let Chunk::Data { remaining } = *chunk {
            let data = bytes.get(at..).unwrap_or_default();
            let data = &data[..remaining.min(data.len())];
            body.extend_from_slice(data);
            at += data.len();
            if data.len() < remaining {
                *chunk = Chunk::Data { remaining: remaining - data.len() };
                break;
            }
            *chunk = Chunk::DataCr;
        }
        let Some(&byte) = bytes.get(at) else { break };
        at += 1;
        *chunk = chunk.after(byte, body_max.saturating_sub(body.len()), limits)?;
    }
    Ok(at)
}

impl Chunk {
    /// One byte further, outside of data; `left` is how much data may still come. Neither white space nor a lone CR or LF is
    /// tolerated anywhere.
    fn after(self, byte: u8, left: usize, limits: &Limits) -> Result<Chunk, Refusal> {
        let is_text = |byte: u8| byte == b'\t' || (byte >= b' ' && byte != 0x7f);
        match (self, byte) {
            (Chunk::Size { digits, size }, b'\r') if digits > 0 => Ok(Chunk::SizeLf { size }),
            (Chunk::Size { digits, size }, b';') if digits > 0 => Ok(Chunk::Extension { size, length: 0 }),
            (Chunk::Size { digits, size }, _) => {
                let digit = char::from(byte).to_digit(16).ok_or(BAD_CHUNK)? as usize;
                if digits == 16 {
                    return Err(BAD_CHUNK);
                }
                // Cannot overflow: `size` was within the limit of the body a digit ago.
                let size = size * 16 + digit;
                if size > left {
                    return Err(BODY_TOO_LARGE);
                }
                Ok(Chunk::Size { digits: digits + 1, size })
            }
            (Chunk::Extension { size, .. }, b'\r') => Ok(Chunk::SizeLf { size }),
            (Chunk::Extension { size, length }, byte) if is_text(byte) && length < EXTENSION_MAX => {
                Ok(Chunk::Extension { size, length: length + 1 })
            }
            (Chunk::SizeLf { size: 0 }, b'\n') => Ok(Chunk::Trailer { line: 0, total: 0 }),
            (Chunk::SizeLf { size }, b'\n') => Ok(Chunk::Data { remaining: size }),
            (Chunk::DataCr, b'\r') => Ok(Chunk::DataLf),
            (Chunk::DataLf, b'\n') => Ok(Chunk::Size { digits: 0, size: 0 }),
            (Chunk::Trailer { total, .. }, _) if total >= limits.head => Err(HEAD_TOO_LARGE),
            (Chunk::Trailer { line, total }, b'\r') => Ok(Chunk::TrailerLf { line, total: total + 1 }),
            (Chunk::Trailer { line, total }, byte) if is_text(byte) => {
                Ok(Chunk::Trailer { line: line + 1, total: total + 1 })
            }
            (Chunk::TrailerLf { line: 0, .. }, b'\n') => Ok(Chunk::End),
            (Chunk::TrailerLf { total, .. }, b'\n') => Ok(Chunk::Trailer { line: 0, total: total + 1 }),
            _ => Err(BAD_CHUNK),
        }
    }
}

const fn bad(code: &'static str, detail: &'static str) -> Refusal {
    Refusal { status: 400, code, detail }
}

const BARE_LF: Refusal = bad("bad_request", "A line ends in LF without CR.");
const BARE_CR: Refusal = bad("bad_request", "A CR is not followed by LF.");
const CONTROL: Refusal = bad("bad_request", "There is a control character in the head.");
const BAD_REQUEST_LINE: Refusal = bad("bad_request", "The request line is malformed.");
const BAD_HEADER: Refusal = bad("bad_request", "A header field is malformed.");
const BAD_TARGET: Refusal = bad("bad_request", "The request target is malformed.");
const BAD_HOST: Refusal = bad("bad_request", "There must be exactly one valid Host.");
const TWO_FRAMINGS: Refusal = bad("bad_request", "Both Content-Length and Transfer-Encoding are given.");
const BAD_TRANSFER_CODING: Refusal = bad("bad_request", "The only transfer coding is chunked, once, in HTTP/1.1.");
const BAD_LENGTH: Refusal = bad("bad_request", "Content-Length must be given once, in digits.");
const BAD_CHUNK: Refusal = bad("bad_request", "The chunked content is malformed.");
const TOO_MUCH_PIPELINED: Refusal = bad("bad_request", "Too much was sent ahead of an answer.");
const METHOD_NOT_ALLOWED: Refusal =
    Refusal { status: 405, code: "method_not_allowed", detail: "This method is not allowed here." };
const TIMEOUT: Refusal =
    Refusal { status: 408, code: "request_timeout", detail: "The request was not complete in time." };
const BODY_TOO_LARGE: Refusal = Refusal { status: 413, code: "body_too_large", detail: "The content is too large." };
const TARGET_TOO_LONG: Refusal =
    Refusal { status: 414, code: "target_too_long", detail: "The request line is too long." };
const CONTENT_CODING: Refusal =
    Refusal { status: 415, code: "unsupported_encoding", detail: "Content-Encoding is not supported." };
const EXPECTATION: Refusal =
    Refusal { status: 417, code: "expectation_failed", detail: "The only expectation met is 100-continue." };
const HEAD_TOO_LARGE: Refusal = Refusal { status: 431, code: "head_too_large", detail: "The head is too large." };
const TOO_MANY_HEADERS: Refusal =
    Refusal { status: 431, code: "head_too_large", detail: "There are too many header fields." };
const METHOD_UNKNOWN: Refusal =
    Refusal { status: 501, code: "method_unknown", detail: "This method is not implemented." };
const VERSION: Refusal =
    Refusal { status: 505, code: "version_not_supported", detail: "Only HTTP/1.1 and HTTP/1.0 are supported." };

#[cfg(test)]
mod tests {
    use super::super::decode_segment;
    use super::*;

    /// What comes out when `bytes` arrive in parts of `step`, each request being answered at once; and whether the
    /// connection is still open then.
    fn run(bytes: &[u8], step: usize) -> (Vec<Poll>, bool) {
        let now = Instant::now();
        let mut connection = Connection::new(now, &Limits::default());
        let mut found = Vec::new();
        for part in bytes.chunks(step) {
            connection.handle_bytes(now, part);
            loop {
                match connection.poll(now) {
                    Poll::Pending => break,
                    Poll::Request(request) => {
                        found.push(Poll::Request(request));
                        let keep_alive = connection.keep_alive();
                        connection.response_sent(now, keep_alive);
                    }
                    // Depends on how much has arrived.
                    Poll::Continue => {}
                    other => found.push(other),
                }
            }
        }
        (found, connection.wants_read())
    }

    fn whole(text: impl AsRef<[u8]>) -> (Vec<Poll>, bool) {
        let bytes = text.as_ref();
        let at_once = run(bytes, bytes.len().max(1));
        for step in [1, 3, 50] {
            assert_eq!(run(bytes, step), at_once, "{:?} in steps of {step}", String::from_utf8_lossy(bytes));
        }
        at_once
    }

    /// The only request in `text`.
    fn request(text: &str) -> Request {
        match whole(text).0.as_slice() {
            [Poll::Request(request)] => request.clone(),
            other => panic!("{text:?}: {other:?}"),
        }
    }

    /// The status that `text` is refused with, and nothing served before or after.
    fn refusal(text: impl AsRef<[u8]>) -> u16 {
        let text = text.as_ref();
        match whole(text) {
            (found, false) => match found.as_slice() {
                [Poll::Refuse(refusal)] => refusal.status,
                other => panic!("{:?}: {other:?}", String::from_utf8_lossy(text)),
            },
            (found, true) => panic!("{:?} stays open: {found:?}", String::from_utf8_lossy(text)),
        }
    }

    #[test]
    fn a_request_in_all_its_parts() {
        let found = request(
            "POST /video-calls/a%20b?x=1&token=a%2Eb+c HTTP/1.1\r\nhOsT: example.org:3000\r\nX-A:  1 \r\nx-a:2,, 3\r\n\
             Authorization: bearer  abc\r\nContent-Length: 0003\r\n\r\nabc",
        );
        assert_eq!(found.method, Method::Post);
        assert_eq!(found.target, "/video-calls/a%20b?x=1&token=a%2Eb+c");
        assert_eq!(found.path, "/video-calls/a b");
        assert_eq!(found.query.as_deref(), Some("x=1&token=a%2Eb+c"));
        assert_eq!(found.query_param("token").as_deref(), Some("a.b c"));
        assert_eq!(found.query_param("y"), None);
        assert_eq!(found.host(), Some("example.org:3000"));
        assert_eq!(found.headers.get("X-A"), Some("1"));
        assert_eq!(found.headers.list("x-A").collect::<Vec<_>>(), ["1", "2", "3"]);
        assert_eq!(found.headers.len(), 5);
        assert_eq!(found.bearer(), Some("abc"));
        assert_eq!(found.body, b"abc");
        assert_eq!(found.version_minor, 1);
        let printed = format!("{found:?}");
        assert!(
            printed.contains("/video-calls/a b") && !printed.contains("token") && !printed.contains("abc"),
            "{printed}"
        );
    }

    #[test]
    fn targets() {
        let rows: &[(&str, &str, Option<&str>)] = &[
            ("/", "/", None),
            ("/?", "/", Some("")),
            ("/a?b?c", "/a", Some("b?c")),
            ("//a//b/", "//a//b/", None),
            ("/a/../b/./c", "/a/../b/./c", None),
            ("/%2e%2E/x", "/../x", None),
            ("/a%2Fb/c%2fd", "/a%2Fb/c%2Fd", None),
            ("/a%252Fb", "/a%252Fb", None),
            ("/%c3%BC", "/ü", None),
            ("/a+b", "/a+b", None),
            ("http://example.org", "/", None),
            ("http://example.org?q", "/", Some("q")),
            ("HTTPS://Example.org/a/b?q", "/a/b", Some("q")),
        ];
        for (target, path, query) in rows {
            let found = request(&format!("GET {target} HTTP/1.1\r\nHost: example.org\r\n\r\n"));
            assert_eq!((found.path.as_str(), found.query.as_deref()), (*path, *query), "{target}");
        }
        assert_eq!(request("OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n").path, "*");
        assert_eq!(decode_segment("a%2Fb"), "a/b");
        assert_eq!(decode_segment("a%252Fb"), "a%2Fb");

        for target in [
            "*",
            "a",
            "/%",
            "/%4",
            "/%zz",
            "/%00",
            "/a%00b",
            "/%0a",
            "/%7f",
            "/%ff",
            "/%c3",
            "/a#b",
            "/\u{fc}",
            "ftp://example.org/",
            "http://",
            "http:///a",
            "http://user@example.org/",
            "http://example.org:x/",
            "http://other.org/",
            "example.org:80",
        ] {
            assert_eq!(refusal(format!("GET {target} HTTP/1.1\r\nHost: example.org\r\n\r\n")), 400, "{target}");
        }
    }

    #[test]
    fn query_parameters() {
        let rows: &[(&str, Option<&str>)] = &[
            ("a=1", Some("1")),
            ("b=2&a=1&a=3", Some("1")),
            ("a", Some("")),
            ("a=", Some("")),
            ("a=b=c", Some("b=c")),
            ("%61=x", Some("x")),
            ("a=%C3%BC+%2B", Some("ü +")),
            ("a=%", None),
            ("a=%ff", None),
            ("A=1", None),
            ("aa=1&&", None),
            ("", None),
        ];
        for (query, value) in rows {
            let found = request(&format!("GET /?{query} HTTP/1.1\r\nHost: a\r\n\r\n"));
            assert_eq!(found.query_param("a").as_deref(), *value, "{query}");
        }
    }

    /// `@` stands for a valid Host field, so that a row shows only what it is about.
    #[test]
    fn refusals() {
        let rows: &[(&str, u16)] = &[
            // Framing in doubt (request smuggling).
            ("POST / HTTP/1.1\r\n@Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
            ("POST / HTTP/1.1\r\n@Transfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n0\r\n\r\n", 400),
            ("POST / HTTP/1.1\r\n@Content-Length: 3\r\nContent-Length: 3\r\n\r\nabc", 400),
            ("POST / HTTP/1.1\r\n@Content-Length: 3\r\nContent-Length: 0\r\n\r\nabc", 400),
            ("POST / HTTP/1.1\r\n@Content-Length: 3, 3\r\n\r\nabc", 400),
            ("POST / HTTP/1.1\r\n@Content-Length: +3\r\n\r\nabc", 400),
            ("POST / HTTP/1.1\r\n@Content-Length: -3\r\n\r\nabc", 400),
            ("POST / HTTP/1.1\r\n@Content-Length: 0x3\r\n\r\nabc", 400),
            ("POST / HTTP/1.1\r\n@Content-Length: 3 3\r\n\r\nabc", 400),
            ("POST / HTTP/1.1\r\n@Content-Length: 3.0\r\n\r\nabc", 400),
            ("POST / HTTP/1.1\r\n@Content-Length:\r\n\r\n", 400),
            ("POST / HTTP/1.1\r\n@Content-Length : 3\r\n\r\nabc", 400),
            ("POST / HTTP/1.1\r\n@Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n", 400),
            ("POST / HTTP/1.1\r\n@Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n", 400),
            ("POST / HTTP/1.1\r\n@Transfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n", 400),
            ("POST / HTTP/1.1\r\n@Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n", 400),
            ("POST / HTTP/1.1\r\n@Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", 400),
            ("POST / HTTP/1.1\r\n@Transfer-Encoding: identity\r\n\r\n", 400),
            ("POST / HTTP/1.1\r\n@Transfer-Encoding: \r\n\r\n", 400),
            ("POST / HTTP/1.1\r\n@Transfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n", 400),
            ("POST / HTTP/1.1\r\n@Transfer-Encoding: chunked;q=1\r\n\r\n0\r\n\r\n", 400),
            ("POST / HTTP/1.1\r\n@Transfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\n", 400),
            ("POST / HTTP/1.0\r\n@Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
            // Line ends, folding, control characters.
            ("GET / HTTP/1.1\n@\r\n", 400),
            ("GET / HTTP/1.1\r\nHost: a\n\r\n", 400),
            ("GET / HTTP/1.1\r\nHost: a\r\n\n", 400),
            ("GET / HTTP/1.1\r\n@X: a\rb\r\n\r\n", 400),
            ("GET / HTTP/1.1\r\n@X: a\r\r\n\r\n", 400),
            ("GET / HTTP/1.1\r\n@X: a\r\n b\r\n\r\n", 400),
            ("GET / HTTP/1.1\r\n@X: a\r\n\tb\r\n\r\n", 400),
            ("GET / HTTP/1.1\r\n X: a\r\n@\r\n", 400),
            ("GET / HTTP/1.1\r\n@X: a\0b\r\n\r\n", 400),
            ("GET / HTTP/1.1\r\n@X: a\x7fb\r\n\r\n", 400),
            ("GET / HTTP/1.1\r\n@X : a\r\n\r\n", 400),
            ("GET / HTTP/1.1\r\n@X\r\n\r\n", 400),
            ("GET / HTTP/1.1\r\n@: a\r\n\r\n", 400),
            ("GET / HTTP/1.1\r\n@X(Y): a\r\n\r\n", 400),
            ("\r\n\r\nGET / HTTP/1.1\r\n@\r\n", 400),
            ("\nGET / HTTP/1.1\r\n@\r\n", 400),
            // Request line.
            ("GET  / HTTP/1.1\r\n@\r\n", 400),
            ("GET /  HTTP/1.1\r\n@\r\n", 400),
            (" GET / HTTP/1.1\r\n@\r\n", 400),
            ("GET / HTTP/1.1 \r\n@\r\n", 400),
            ("GET\t/ HTTP/1.1\r\n@\r\n", 400),
            ("GET / a HTTP/1.1\r\n@\r\n", 400),
            ("GET /\r\n\r\n", 400),
            ("GET\r\n\r\n", 400),
            ("G(T / HTTP/1.1\r\n@\r\n", 400),
            ("GET / http/1.1\r\n@\r\n", 400),
            ("GET / HTTP/1.12\r\n@\r\n", 400),
            ("GET / HTTP/2.0\r\n@\r\n", 505),
            ("GET / HTTP/1.2\r\n@\r\n", 505),
            ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505),
            ("BREW / HTTP/1.1\r\n@\r\n", 501),
            ("get / HTTP/1.1\r\n@\r\n", 501),
            ("TRACE / HTTP/1.1\r\n@\r\n", 405),
            ("CONNECT a:80 HTTP/1.1\r\n@\r\n", 405),
            // Host.
            ("GET / HTTP/1.1\r\n\r\n", 400),
            ("GET / HTTP/1.1\r\n@@\r\n", 400),
            ("GET / HTTP/1.0\r\n@@\r\n", 400),
            ("GET / HTTP/1.1\r\nHost:\r\n\r\n", 400),
            ("GET / HTTP/1.1\r\nHost: a, b\r\n\r\n", 400),
            ("GET / HTTP/1.1\r\nHost: a/b\r\n\r\n", 400),
            ("GET / HTTP/1.1\r\nHost: u@a\r\n\r\n", 400),
            ("GET / HTTP/1.1\r\nHost: a:b\r\n\r\n", 400),
            ("GET / HTTP/1.1\r\nHost: [::1\r\n\r\n", 400),
            // Expectations and codings.
            ("POST / HTTP/1.1\r\n@Content-Encoding: gzip\r\nContent-Length: 1\r\n\r\na", 415),
            ("POST / HTTP/1.1\r\n@Expect: 200-ok\r\nContent-Length: 1\r\n\r\na", 417),
            // Sizes known from the head.
            ("POST / HTTP/1.1\r\n@Content-Length: 65537\r\n\r\n", 413),
            ("POST / HTTP/1.1\r\n@Content-Length: 99999999999999999999999999\r\n\r\n", 413),
        ];
        for (row, status) in rows {
            assert_eq!(refusal(row.replace('@', "Host: example.org\r\n")), *status, "{row:?}");
        }
    }

    #[test]
    fn chunked_content() {
        let chunked =
            |content: &str| format!("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: Chunked\r\n\r\n{content}");
        let good: &[(&str, &str)] = &[
            ("0\r\n\r\n", ""),
            ("3\r\nabc\r\n0\r\n\r\n", "abc"),
            ("1\r\na\r\n2\r\nbc\r\n000\r\n\r\n", "abc"),
            ("a\r\n0123456789\r\nA;x=\"y\"\r\n0123456789\r\n0;z\r\n\r\n", "01234567890123456789"),
            ("2\r\n\r\n\r\n0\r\n\r\n", "\r\n"),
            ("1\r\na\r\n0\r\nX-Trailer: dropped\r\nHost: b\r\n\r\n", "a"),
        ];
        for (content, body) in good {
            let found = request(&chunked(content));
            assert_eq!(found.body, body.as_bytes(), "{content:?}");
            assert_eq!(found.headers.len(), 2);
        }
        let many = "1\r\nx\r\n".repeat(64 * 1024);
        assert_eq!(run(chunked(&format!("{many}0\r\n\r\n")).as_bytes(), 5_000).0.len(), 1);

        let long_extension = format!("1;{}\r\na\r\n0\r\n\r\n", "x".repeat(300));
        let endless_trailer = format!("0\r\n{}", "X: y\r\n".repeat(3_000));
        let too_many = format!("{many}1\r\nx\r\n0\r\n\r\n");
        let bad: &[(&str, u16)] = &[
            ("\r\n", 400),
            ("g\r\n", 400),
            ("-1\r\n", 400),
            ("0x3\r\nabc\r\n0\r\n\r\n", 400),
            (" 3\r\nabc\r\n0\r\n\r\n", 400),
            ("3 \r\nabc\r\n0\r\n\r\n", 400),
            ("3\nabc\r\n0\r\n\r\n", 400),
            ("3;\nabc\r\n0\r\n\r\n", 400),
            ("3;a\rb\r\nabc\r\n0\r\n\r\n", 400),
            ("3\r\nabcd\r\n0\r\n\r\n", 400),
            ("3\r\nabc\n0\r\n\r\n", 400),
            ("3\r\nabc0\r\n\r\n", 400),
            ("0\r\n\n", 400),
            ("0\r\nX: y\n\r\n", 400),
            ("00000000000000000\r\n\r\n", 400),
            ("10001\r\n", 413),
            ("ffffffffffffffff\r\n", 413),
            (&long_extension, 400),
            (&endless_trailer, 431),
            (&too_many, 413),
        ];
        for (content, status) in bad {
            assert_eq!(refusal(chunked(content)), *status, "{:?}", content.get(..40).unwrap_or(content));
        }
    }

    #[test]
    fn sizes_at_their_bounds() {
        let line = |length: usize| format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", "x".repeat(length - 14));
        assert_eq!(request(&line(8 * 1024)).target.len(), 8 * 1024 - 13);
        assert_eq!(refusal(line(8 * 1024 + 1)), 414);
        assert_eq!(refusal("x".repeat(8 * 1024 + 1)), 414);

        let head = |length: usize| {
            let fixed = "GET / HTTP/1.1\r\nHost: a\r\nX: \r\n\r\n".len();
            format!("GET / HTTP/1.1\r\nHost: a\r\nX: {}\r\n\r\n", "x".repeat(length - fixed))
        };
        request(&head(16 * 1024));
        assert_eq!(refusal(head(16 * 1024 + 1)), 431);

        let fields = |count: usize| format!("GET / HTTP/1.1\r\nHost: a\r\n{}\r\n", "X: y\r\n".repeat(count - 1));
        assert_eq!(request(&fields(64)).headers.len(), 64);
        assert_eq!(refusal(fields(65)), 431);

        let body = "x".repeat(64 * 1024);
        let whole = format!("PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 65536\r\n\r\n{body}");
        assert_eq!(request(&whole).body.len(), 64 * 1024);
    }

    #[test]
    fn staying_open() {
        let rows: &[(&str, &str, bool)] = &[
            ("1.1", "", true),
            ("1.1", "Connection: close\r\n", false),
            ("1.1", "Connection: x, Close\r\n", false),
            ("1.1", "Connection: keep-alive\r\nConnection: close\r\n", false),
            ("1.0", "", false),
            ("1.0", "Connection: Keep-Alive\r\n", true),
            ("1.0", "Connection: keep-alive, close\r\n", false),
        ];
        for (version, field, stays) in rows {
            let text = format!("GET / HTTP/{version}\r\nHost: a\r\n{field}\r\n");
            let (found, wants_read) = whole(text.repeat(2));
            let expected = if *stays { 2 } else { 1 };
            let requests = found.iter().filter(|poll| matches!(poll, Poll::Request(_))).count();
            assert_eq!((requests, wants_read), (expected, *stays), "{version} {field:?}");
            assert_eq!(found.last() == Some(&Poll::Close), !stays);
        }
    }

    #[test]
    fn pipelined_requests_wait_for_answers() {
        let now = Instant::now();
        let mut connection = Connection::new(now, &Limits::default());
        let get = |path: &str| format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n");
        let post = "\r\nPOST /b HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi";
        connection.handle_bytes(now, format!("{}{post}{}", get("/a"), get("/c")).as_bytes());
        for (path, body) in [("/a", ""), ("/b", "hi"), ("/c", "")] {
            match connection.poll(now) {
                Poll::Request(request) => {
                    assert_eq!((request.path.as_str(), &request.body[..]), (path, body.as_bytes()))
                }
                other => panic!("{other:?}"),
            }
            assert_eq!(connection.poll(now), Poll::Pending);
            assert_eq!(connection.poll_timeout(), None);
            assert!(connection.keep_alive());
            connection.response_sent(now, true);
        }
        assert_eq!(connection.poll(now), Poll::Pending);

        // Unanswered, it stops being read.
        connection.handle_bytes(now, get("/d").as_bytes());
        assert!(matches!(connection.poll(now), Poll::Request(_)));
        while connection.wants_read() {
            connection.handle_bytes(now, get("/e").as_bytes());
        }
        assert!(connection.buffer.len() < 17 * 1024);
    }

    #[test]
    fn an_upgrade_takes_what_follows() {
        let now = Instant::now();
        let mut connection = Connection::new(now, &Limits::default());
        connection.handle_bytes(now, b"GET /ws HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\n\r\n\x81\x80");
        assert!(matches!(connection.poll(now), Poll::Request(_)));
        connection.handle_bytes(now, b"\0\0\0\0");
        assert_eq!(connection.take_rest(), b"\x81\x80\0\0\0\0");
    }

    #[test]
    fn continue_is_said_once_and_only_to_who_waits() {
        let now = Instant::now();
        let head = "PUT / HTTP/1.1\r\nHost: a\r\nExpect: 100-Continue\r\nContent-Length: 4\r\n\r\n";
        let mut connection = Connection::new(now, &Limits::default());
        connection.handle_bytes(now, head.as_bytes());
        assert_eq!(connection.poll(now), Poll::Continue);
        assert_eq!(connection.poll(now), Poll::Pending);
        connection.handle_bytes(now, b"ab");
        assert_eq!(connection.poll(now), Poll::Pending);
        connection.handle_bytes(now, b"cd");
        assert!(matches!(connection.poll(now), Poll::Request(request) if request.body == b"abcd"));

        for (text, expected) in [
            (format!("{head}a"), Poll::Pending),
            (head.replace("1.1", "1.0"), Poll::Pending),
            (head.replace("4", "99999"), Poll::Refuse(BODY_TOO_LARGE)),
        ] {
            let mut connection = Connection::new(now, &Limits::default());
            connection.handle_bytes(now, text.as_bytes());
            assert_eq!(connection.poll(now), expected);
        }
    }

    #[test]
    fn timeouts() {
        const HEAD: &str = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\n";
        let start = Instant::now();
        let second = Duration::from_secs(1);
        let expire = |connection: &mut Connection, after: u32| {
            let deadline = connection.poll_timeout().expect("a deadline");
            assert_eq!(deadline, start + after * second);
            connection.handle_timeout(deadline - Duration::from_millis(1));
            assert_eq!(connection.poll(deadline), Poll::Pending);
            connection.handle_timeout(deadline);
            let poll = connection.poll(deadline);
            assert_eq!((connection.poll(deadline), connection.poll_timeout()), (Poll::Pending, None));
            poll
        };
        // Nothing was ever sent: closed without a word.
        let mut connection = Connection::new(start, &Limits::default());
        assert_eq!(expire(&mut connection, 10), Poll::Close);

        // A head that trickles does not win time.
        let mut connection = Connection::new(start, &Limits::default());
        for (at, byte) in HEAD.bytes().take(9).enumerate() {
            connection.handle_bytes(start + at as u32 * second, &[byte]);
            assert_eq!(connection.poll(start + at as u32 * second), Poll::Pending);
        }
        assert_eq!(expire(&mut connection, 10), Poll::Refuse(TIMEOUT));

        // Content has its own time, from the end of the head.
        let mut connection = Connection::new(start, &Limits::default());
        connection.handle_bytes(start + second, HEAD.as_bytes());
        assert_eq!(connection.poll(start + second), Poll::Pending);
        connection.handle_bytes(start + 20 * second, b"a");
        assert_eq!(expire(&mut connection, 31), Poll::Refuse(TIMEOUT));

        // Between requests: idle time, then a head's time from its first byte.
        for speaks in [false, true] {
            let mut connection = Connection::new(start, &Limits::default());
            connection.handle_bytes(start, format!("{HEAD}ab").as_bytes());
            assert!(matches!(connection.poll(start), Poll::Request(_)));
            connection.response_sent(start + second, true);
            if speaks {
                connection.handle_bytes(start + 60 * second, b"G");
                assert_eq!(expire(&mut connection, 70), Poll::Refuse(TIMEOUT));
            } else {
                assert_eq!(expire(&mut connection, 61), Poll::Close);
            }
        }
    }

    #[test]
    fn every_refusal_is_a_problem() {
        let allow = METHOD_NOT_ALLOWED.response();
        assert!(allow.headers.iter().any(|(name, value)| name == "Allow" && value.contains("DELETE")));
        for refusal in [BARE_LF, TIMEOUT, BODY_TOO_LARGE, TARGET_TOO_LONG, CONTENT_CODING, HEAD_TOO_LARGE, VERSION] {
            assert_eq!(refusal.response().status, refusal.status);
            assert_eq!(refusal.response().code(), Some(refusal.code));
        }
    }

    /// Valid requests with random damage, and noise, in random parts: no panic, and parts do not matter.
    #[test]
    fn random_bytes() {
        let seeds: [&[u8]; 3] = [
            b"GET /a/b?c=d HTTP/1.1\r\nHost: example.org:80\r\nConnection: close\r\n\r\n",
            b"POST /a HTTP/1.1\r\nHost: [::1]\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nX: y\r\n\r\n",
            b"PUT http://a/%20%2f HTTP/1.0\r\nHost: a\r\nContent-Length: 5\r\n\r\n12345",
        ];
        for seed in 0..3_000 {
            let mut random = fastrand::Rng::with_seed(seed);
            let mut bytes = Vec::new();
            for _ in 0..random.usize(1..4) {
                bytes.extend_from_slice(seeds[random.usize(..seeds.len())]);
            }
            for _ in 0..random.usize(..4) {
                let at = random.usize(..bytes.len());
                match random.u8(..4) {
                    0 => bytes[at] = random.u8(..),
                    1 if bytes.len() > 1 => drop(bytes.remove(at)),
                    2 => bytes.insert(at, b" \t\r\n:,;%\0"[random.usize(..9)]),
                    _ => bytes.truncate(at.max(1)),
                }
            }
            if seed % 10 == 0 {
                bytes = std::iter::repeat_with(|| random.u8(..)).take(200).collect();
            }
            let step = random.usize(1..60);
            assert_eq!(run(&bytes, step), run(&bytes, bytes.len().max(1)), "seed {seed}");
        }
    }
}
