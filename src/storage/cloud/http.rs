//! Requests to stores: what is sent and what comes back, with bounds on both, and what goes wrong as a [`Fault`].
//!
//! No redirects, no proxies from the environment, no cookies. Nothing is tried twice here.

use std::fs::File;
use std::io::{self, ErrorKind, Read, Seek, SeekFrom};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use ureq::http::{HeaderMap, Request as HttpRequest};
use ureq::tls::{Certificate, PemItem, RootCerts, TlsConfig, parse_pem};
use ureq::unversioned::resolver::DefaultResolver;
use ureq::unversioned::transport::{Connector, RustlsConnector};
use ureq::{Agent, SendBody};

use super::super::store::{Fault, FaultKind, Range};
use super::tcp::{TcpConnector, Timeouts};
use crate::config::Secret;

/// The client of one store.
pub struct Http {
    agent: Agent,
    /// For requests whose answer may take long.
    patient: Agent,
    /// Never to be seen in a fault.
    secrets: Vec<Secret>,
}

pub struct Request<'a> {
    pub method: &'static str,
    pub url: &'a str,
    pub headers: &'a [(&'a str, &'a str)],
    pub body: Body<'a>,
    pub pace: Pace,
}

/// How soon an answer is to be expected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pace {
    Soon,
    /// The store puts an object together first.
    Completion,
}

#[derive(Clone, Copy)]
pub enum Body<'a> {
    None,
    Octets(&'a [u8]),
    /// Read while it is sent.
    File(Range<'a>),
}

/// An answer, whatever its status.
pub struct Reply {
    pub status: u16,
    headers: HeaderMap,
    /// At most [`REPLY_MAX`] octets.
    pub body: Vec<u8>,
    at: SystemTime,
}

impl Http {
    /// Roots are those of the system, or the ones that come with us where it has none, and those of the file. The error is one
    /// line about that file.
    pub fn new(ca_file: Option<&Path>, timeouts: Timeouts, secrets: Vec<Secret>) -> Result<Http, String> {
        let tls = TlsConfig::builder()
            .root_certs(RootCerts::new_with_certs(&roots(ca_file)?))
            .unversioned_rustls_crypto_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
            .build();
        let config = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .proxy(None)
            .tls_config(tls)
            .user_agent(concat!("webrtc-engine/", env!("CARGO_PKG_VERSION")))
            .max_response_header_size(REPLY_HEAD_MAX)
            .max_idle_connections(IDLE_CONNECTIONS)
            .max_idle_connections_per_host(IDLE_CONNECTIONS)
            .timeout_resolve(Some(timeouts.connect))
            .timeout_connect(Some(timeouts.connect))
            // How the transport knows that it is an answer that is waited for; it has a limit of its own.
            .timeout_recv_response(Some(ANSWER_MAX))
            .build();
        let agent = |answer| {
            let connector = TcpConnector(Timeouts { answer, ..timeouts }).chain(RustlsConnector::default());
            Agent::with_parts(config.clone(), connector, DefaultResolver::default())
        };
        Ok(Http { agent: agent(timeouts.answer), patient: agent(timeouts.completion), secrets })
    }

    /// Sends a request and reads all of the answer.
    pub fn send(&self, request: Request<'_>) -> Result<Reply, Fault> {
        let (mut reply, body, host) = self.begin(request)?;
        body.take(REPLY_MAX + 1).read_to_end(&mut reply.body).map_err(|e| io_fault(&e, &host))?;
        if reply.body.len() as u64 > REPLY_MAX {
            return Err(Fault::new(FaultKind::Server, format!("{host}: an answer without end")));
        }
        Ok(reply)
    }

    /// Sends a request; the body of an answer that is a success is still to be read.
    pub fn open(&self, request: Request<'_>) -> Result<(Reply, Option<Box<dyn Read + Send>>), Fault> {
        let (mut reply, mut body, host) = self.begin(request)?;
        if reply.is_success() {
            return Ok((reply, Some(body)));
        }
        body.by_ref().take(REPLY_MAX).read_to_end(&mut reply.body).map_err(|e| io_fault(&e, &host))?;
        Ok((reply, None))
    }

    fn begin(&self, request: Request<'_>) -> Result<(Reply, Box<dyn Read + Send>, String), Fault> {
        let host = host_of(request.url);
        let agent = if request.pace == Pace::Soon { &self.agent } else { &self.patient };
        let run = |request: HttpRequest<SendBody<'_>>| agent.run(request).map_err(|error| fault(error, &host));
        let mut builder = HttpRequest::builder().method(request.method).uri(request.url);
        for (name, value) in request.headers {
            builder = builder.header(*name, *value);
        }
        // Not shown: the URL may be signed.
        let unsendable = |_| Fault::new(FaultKind::Refused, format!("{host}: not a URL or header that can be sent"));
        let response = match request.body {
            Body::None => run(builder.body(SendBody::none()).map_err(unsendable)?)?,
            Body::Octets(octets) => {
                let mut reader = octets;
                let body = SendBody::from_reader(&mut reader);
                run(builder.header("content-length", octets.len()).body(body).map_err(unsendable)?)?
            }
            Body::File(range) => {
                let mut reader = FileBody::open(range)?;
                let body = SendBody::from_reader(&mut reader);
                let builder = builder.header("content-length", range.length);
                let result = run(builder.body(body).map_err(unsendable)?);
                if let Some(error) = reader.failed {
                    return Err(local(range.path, &error));
                }
                result?
            }
        };
        let (head, body) = response.into_parts();
        let reply =
            Reply { status: head.status.as_u16(), headers: head.headers, body: Vec::new(), at: SystemTime::now() };
        Ok((reply, Box::new(body.into_with_config().limit(u64::MAX).reader()), host))
    }

    /// What a refusal is to us. `code` and `message` are the store's; what might be secret in them is not shown.
    pub fn refusal(&self, reply: &Reply, mut kind: FaultKind, code: &str, message: &str) -> Fault {
        if kind == FaultKind::Credentials && reply.is_skewed() {
            kind = FaultKind::Clock;
        }
        let mut text = format!("{}: {}", cause(kind), reply.status);
        for (before, part) in [(" ", code), (": ", message)] {
            if !part.is_empty() {
                text.push_str(before);
                text.push_str(&self.masked(part));
            }
        }
        Fault { kind, text, retry_after: reply.retry_after() }
    }

    /// One line of at most [`SHOWN_MAX`] characters, without anything that looks like a key, a token or a signature.
    fn masked(&self, text: &str) -> String {
        let mut text = text.to_owned();
        for secret in self.secrets.iter().filter(|secret| !secret.expose().is_empty()) {
            text = text.replace(secret.expose(), "***");
        }
        let is_part = |c: char| c.is_ascii_alphanumeric() || "+/=_-%.~".contains(c);
        let mut shown = String::new();
        for word in text.split_inclusive(|c| !is_part(c)) {
            let body = word.trim_end_matches(|c| !is_part(c));
            shown.push_str(if body.len() > WORD_MAX { "***" } else { body });
            shown.extend(word[body.len()..].chars().map(|c| if c.is_control() { ' ' } else { c }));
        }
        shown.trim().chars().take(SHOWN_MAX).collect()
    }
}

impl Reply {
    pub fn is_success(&self) -> bool {
        (200..300).contains(&self.status)
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// All values of a header that may come more than once.
    pub fn headers<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.headers.get_all(name).iter().filter_map(|value| value.to_str().ok())
    }

    pub fn content_length(&self) -> Option<u64> {
        self.header("content-length")?.trim().parse().ok()
    }

    /// Body as text, as far as it is.
    pub fn text(&self) -> std::borrow::Cow<'_, str> {
        String::from_utf8_lossy(&self.body)
    }

    /// Seconds or a date; at most [`RETRY_AFTER_MAX`].
    fn retry_after(&self) -> Option<Duration> {
        let text = self.header("retry-after")?.trim();
        let after = match text.parse() {
            Ok(seconds) => Duration::from_secs(seconds),
            Err(_) => http_date(text)?.duration_since(self.at).unwrap_or_default(),
        };
        Some(after.min(RETRY_AFTER_MAX))
    }

    /// The store's clock and ours are so far apart that it accepts no signature of ours.
    fn is_skewed(&self) -> bool {
        let Some(date) = self.header("date").and_then(http_date) else { return false };
        let apart = date.duration_since(self.at).or_else(|_| self.at.duration_since(date)).unwrap_or_default();
        apart > SKEW_MAX
    }
}

/// What a status means where nothing else is said.
pub fn kind_of_status(status: u16) -> FaultKind {
    match status {
        401 | 403 => FaultKind::Credentials,
        404 | 410 => FaultKind::Missing,
        408 => FaultKind::Network,
        429 | 503 => FaultKind::Throttled,
        500.. => FaultKind::Server,
        _ => FaultKind::Refused,
    }
}

/// A file that cannot be read.
pub fn local(path: &Path, error: &io::Error) -> Fault {
    Fault::new(FaultKind::Local, format!("{}: {error}", path.display()))
}

/// How a fault begins: what is to be seen to.
fn cause(kind: FaultKind) -> &'static str {
    match kind {
        FaultKind::Credentials => "the credentials are not accepted",
        FaultKind::Clock => "the clock of this machine is too far off",
        FaultKind::Bucket => "the bucket or store is not there",
        FaultKind::Region => "the bucket is in another region",
        FaultKind::Network => "the network fails",
        FaultKind::Tls => "the certificate is not trusted",
        FaultKind::Throttled => "the store asks to wait",
        FaultKind::Server => "the store fails",
        FaultKind::Missing => "there is no such object or upload",
        FaultKind::Corrupt => "what arrived is not what was sent",
        FaultKind::Local => "a file here cannot be read",
        FaultKind::Refused => "the store refuses",
    }
}

/// Host and port of a URL, which can be shown.
pub fn host_of(url: &str) -> String {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    authority.rsplit('@').next().unwrap_or_default().to_owned()
}

fn fault(error: ureq::Error, host: &str) -> Fault {
    use ureq::Error;
    let network = |text: &str| Fault::new(FaultKind::Network, format!("{}: {host}: {text}", cause(FaultKind::Network)));
    match error {
        Error::Io(error) => io_fault(&error, host),
        Error::Timeout(ureq::Timeout::Resolve) => network("its name is not resolved in time"),
        Error::Timeout(ureq::Timeout::Connect) => network("no connection in time"),
        Error::Timeout(_) => network("no answer in time"),
        Error::HostNotFound => network("there is no such host"),
        Error::Rustls(error) => tls_fault(&error, host),
        Error::Tls(text) => Fault::new(FaultKind::Tls, format!("{}: {host}: {text}", cause(FaultKind::Tls))),
        Error::ConnectionFailed => network("no connection"),
        Error::Protocol(_) | Error::LargeResponseHeader(..) | Error::BodyStalled => network("its answer is not HTTP"),
        // Others would be ours, and may repeat what was asked.
        _ => Fault::new(FaultKind::Refused, format!("{host}: the request cannot be made")),
    }
}

fn io_fault(error: &io::Error, host: &str) -> Fault {
    if let Some(error) = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
        return tls_fault(error, host);
    }
    let text = match error.kind() {
        ErrorKind::TimedOut | ErrorKind::WouldBlock => "nothing moves any more".to_owned(),
        ErrorKind::UnexpectedEof => "the connection ended too early".to_owned(),
        // Written by the system or by the transport, which know no secrets.
        _ if error.raw_os_error().is_some() || error.get_ref().is_none() => error.to_string(),
        ErrorKind::PermissionDenied => "link-local addresses are not used".to_owned(),
        _ => "the connection broke".to_owned(),
    };
    Fault::new(FaultKind::Network, format!("{}: {host}: {text}", cause(FaultKind::Network)))
}

fn tls_fault(error: &rustls::Error, host: &str) -> Fault {
    match error {
        rustls::Error::InvalidCertificate(_) | rustls::Error::NoCertificatesPresented => {
            Fault::new(FaultKind::Tls, format!("{}: {host}: {error}", cause(FaultKind::Tls)))
        }
        _ => Fault::new(FaultKind::Tls, format!("no TLS with {host}: {error}")),
    }
}

/// A range of a file that is read once, and whose end is an error where the file is shorter.
struct FileBody {
    file: File,
    left: u64,
    failed: Option<io::Error>,
}

impl FileBody {
    fn open(range: Range<'_>) -> Result<FileBody, Fault> {
        let open = || {
            let mut file = File::open(range.path)?;
            file.seek(SeekFrom::Start(range.offset))?;
            Ok(file)
        };
        let file = open().map_err(|error| local(range.path, &error))?;
        Ok(FileBody { file, left: range.length, failed: None })
    }
}

impl Read for FileBody {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let wanted = usize::try_from(self.left).unwrap_or(usize::MAX).min(buffer.len());
        if wanted == 0 {
            return Ok(0);
        }
        let result = match self.file.read(&mut buffer[..wanted]) {
            Ok(0) => Err(io::Error::new(ErrorKind::UnexpectedEof, "the file is shorter than it was")),
            other => other,
        };
        match result {
            Ok(read) => {
                self.left -= read as u64;
                Ok(read)
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => Err(error),
            Err(error) => {
                let kind = error.kind();
                self.failed = Some(error);
                Err(kind.into())
            }
        }
    }
}

fn roots(ca_file: Option<&Path>) -> Result<Vec<Certificate<'static>>, String> {
    let found = rustls_native_certs::load_native_certs();
    for error in &found.errors {
        tracing::debug!(%error, "some certificates of the system cannot be read");
    }
    let owned = |der: &[u8]| Certificate::from_der(der).to_owned();
    let mut roots: Vec<_> = found.certs.iter().map(|certificate| owned(certificate)).collect();
    if roots.is_empty() {
        roots.extend(webpki_root_certs::TLS_SERVER_ROOT_CERTS.iter().map(|certificate| owned(certificate)));
    }
    if let Some(path) = ca_file {
        let line = |text: &str| format!("{}: {text}", path.display());
        let pem = std::fs::read(path).map_err(|error| line(&error.to_string()))?;
        let before = roots.len();
        for item in parse_pem(&pem) {
            if let PemItem::Certificate(certificate) = item.map_err(|_| line("is not PEM"))? {
                // One that cannot be read would be left out without a word, and then nothing is trusted.
                let mut store = rustls::RootCertStore::empty();
                store.add(certificate.der().to_vec().into()).map_err(|_| line("holds a bad certificate"))?;
                roots.push(certificate);
            }
        }
        if roots.len() == before {
            return Err(line("holds no certificate"));
        }
    }
    Ok(roots)
}

/// RFC 9110 §5.6.7.
fn http_date(text: &str) -> Option<SystemTime> {
    let date = jiff::fmt::rfc2822::DateTimeParser::new().parse_timestamp(text.trim()).ok()?;
    Some(SystemTime::from(date))
}

/// Of any answer that is read as a whole. Those to the largest completion are below it.
pub const REPLY_MAX: u64 = 1024 * 1024;
const REPLY_HEAD_MAX: usize = 64 * 1024;
/// Kept open between requests: as many as there are threads that upload, and a few.
const IDLE_CONNECTIONS: usize = 8;
/// What the client itself grants an answer while its transport sees it move.
const ANSWER_MAX: Duration = Duration::from_secs(3600);
const RETRY_AFTER_MAX: Duration = Duration::from_secs(3600);
/// Of fifteen minutes that S3 grants, and five of Google, either may be seen by the second.
const SKEW_MAX: Duration = Duration::from_secs(300);
const SHOWN_MAX: usize = 300;
/// Longer words are taken for secrets. Names of hosts and objects are shorter.
const WORD_MAX: usize = 39;

#[cfg(test)]
mod tests {
    use super::*;

    fn http(secret: &str) -> Http {
        Http::new(None, Timeouts::default(), vec![Secret::new(secret)]).expect("a client")
    }

    fn reply(status: u16, headers: &[(&str, &str)]) -> Reply {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            let name = ureq::http::HeaderName::from_bytes(name.as_bytes()).expect("a name");
            map.append(name, value.parse().expect("a value"));
        }
        // Sun, 06 Nov 1994 08:49:37 GMT
        let at = SystemTime::UNIX_EPOCH + Duration::from_secs(784_111_777);
        Reply { status, headers: map, body: Vec::new(), at }
    }

    #[test]
    fn when_to_come_back() {
        for (text, expected) in [
            ("7", Some(7)),
            (" 0 ", Some(0)),
            ("99999999", Some(3600)),
            ("Sun, 06 Nov 1994 08:49:47 GMT", Some(10)),
            ("Sun, 06 Nov 1994 08:49:27 GMT", Some(0)),
            ("soon", None),
            ("-5", None),
        ] {
            let found = reply(503, &[("retry-after", text)]).retry_after();
            assert_eq!(found, expected.map(Duration::from_secs), "{text}");
        }
    }

    #[test]
    fn a_clock_that_is_off_is_seen() {
        let client = http("s");
        for (date, expected) in [
            ("Sun, 06 Nov 1994 08:50:37 GMT", FaultKind::Credentials),
            ("Sun, 06 Nov 1994 09:49:37 GMT", FaultKind::Clock),
            ("Sun, 06 Nov 1994 07:49:37 GMT", FaultKind::Clock),
            ("nonsense", FaultKind::Credentials),
        ] {
            let fault = client.refusal(&reply(403, &[("date", date)]), FaultKind::Credentials, "AccessDenied", "");
            assert_eq!(fault.kind, expected, "{date}");
        }
    }

    #[test]
    fn refusals_are_one_line_without_secrets() {
        let client = http("hunter2");
        let signature = "0123456789abcdef".repeat(4);
        let message = format!("no\nhunter2 X-Amz-Signature={signature}&x Bearer {signature} end\u{7f}");
        let fault = client.refusal(&reply(403, &[]), FaultKind::Credentials, "AccessDenied", &message);
        assert_eq!(fault.text, "the credentials are not accepted: 403 AccessDenied: no *** ***&x Bearer *** end");
        let long = client.refusal(&reply(400, &[]), FaultKind::Refused, "", &"word ".repeat(1000));
        assert!(long.text.chars().count() < SHOWN_MAX + 40, "{}", long.text);
    }

    #[test]
    fn hosts_are_shown_without_what_is_secret() {
        for (url, expected) in [
            ("https://a.example:9000/b?X-Amz-Signature=1", "a.example:9000"),
            ("https://user:password@a.example/b", "a.example"),
            ("http://[::1]:5/x", "[::1]:5"),
        ] {
            assert_eq!(host_of(url), expected);
        }
    }

    #[test]
    fn files_of_roots_are_judged() {
        let path = std::env::temp_dir().join(format!("webrtc-engine-ca-{}.pem", std::process::id()));
        let open = || Http::new(Some(&path), Timeouts::default(), Vec::new()).err().unwrap_or_default();
        let _ = std::fs::remove_file(&path);
        assert!(open().contains("No such file"), "{}", open());
        for (text, expected) in [
            ("", "holds no certificate"),
            ("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", "holds a bad certificate"),
        ] {
            std::fs::write(&path, text).expect("it can be written");
            assert!(open().ends_with(expected), "{}", open());
        }
        std::fs::remove_file(path).expect("it is there");
    }
}
