//! A TCP or TLS connection, and HTTP/1.1 on it, by hand.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, ClientConnection, DigitallySignedStruct, SignatureScheme};

use super::{DEADLINE, Server};

/// A connection. Writes at most `chunk` bytes at a time, each in a segment of its own.
pub struct Stream {
    socket: TcpStream,
    chunk: usize,
    tls: Option<Box<ClientConnection>>,
}

impl Stream {
    pub fn connect(address: SocketAddr) -> Self {
        let socket = TcpStream::connect_timeout(&address, DEADLINE).expect("the server accepts");
        socket.set_nodelay(true).unwrap();
        socket.set_read_timeout(Some(DEADLINE)).unwrap();
        socket.set_write_timeout(Some(DEADLINE)).unwrap();
        Stream { socket, chunk: usize::MAX, tls: None }
    }

    /// With TLS, the handshake done; any certificate will do.
    pub fn connect_tls(address: SocketAddr, chunk: usize, versions: Versions) -> Self {
        let mut stream = Stream::connect(address).chunk(chunk);
        let mut tls = ClientConnection::new(client_config(versions), "localhost".try_into().unwrap()).unwrap();
        while tls.is_handshaking() {
            tls.complete_io(&mut stream).expect("the handshake succeeds");
        }
        // The last message of the handshake is still to be written.
        while tls.wants_write() {
            tls.write_tls(&mut stream).unwrap();
        }
        stream.tls = Some(Box::new(tls));
        stream
    }

    pub fn chunk(mut self, chunk: usize) -> Self {
        self.chunk = chunk;
        self
    }

    pub fn set_chunk(&mut self, chunk: usize) {
        self.chunk = chunk;
    }

    /// The certificate that the server showed.
    pub fn certificate(&self) -> Vec<u8> {
        let tls = self.tls.as_ref().expect("a TLS connection");
        tls.peer_certificates().expect("a certificate")[0].to_vec()
    }

    pub fn socket(&self) -> &TcpStream {
        &self.socket
    }

    /// Nothing more will be sent.
    pub fn shutdown(&self) {
        self.socket.shutdown(Shutdown::Write).unwrap();
    }

    /// Whether the server closes the connection, whatever it says before.
    pub fn is_closed_by_server(&mut self) -> bool {
        let mut rest = Vec::new();
        match self.read_to_end(&mut rest) {
            Ok(_) => true,
            Err(e) => matches!(e.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe | ErrorKind::UnexpectedEof),
        }
    }
}

impl Read for Stream {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        match self.tls.take() {
            None => self.socket.read(into),
            Some(mut tls) => {
                let result = rustls::Stream::new(&mut *tls, &mut *self).read(into);
                self.tls = Some(tls);
                result
            }
        }
    }
}

impl Write for Stream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self.tls.take() {
            None => self.socket.write(&bytes[..bytes.len().min(self.chunk)]),
            Some(mut tls) => {
                let result = rustls::Stream::new(&mut *tls, &mut *self).write(bytes);
                self.tls = Some(tls);
                result
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self.tls.take() {
            None => Ok(()),
            Some(mut tls) => {
                let result = rustls::Stream::new(&mut *tls, &mut *self).flush();
                self.tls = Some(tls);
                result
            }
        }
    }
}

/// Which versions of TLS a client offers.
pub type Versions = &'static [&'static rustls::SupportedProtocolVersion];

fn client_config(versions: Versions) -> Arc<ClientConfig> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(versions)
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(AnyCertificate))
        .with_no_client_auth();
    Arc::new(config)
}

/// Tests compare the certificate themselves.
#[derive(Debug)]
struct AnyCertificate;

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let provider = rustls::crypto::aws_lc_rs::default_provider();
        rustls::crypto::verify_tls12_signature(message, cert, dss, &provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let provider = rustls::crypto::aws_lc_rs::default_provider();
        rustls::crypto::verify_tls13_signature(message, cert, dss, &provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        rustls::crypto::aws_lc_rs::default_provider().signature_verification_algorithms.supported_schemes()
    }
}

/// An answer.
#[derive(Debug)]
pub struct Response {
    pub status: u16,
    headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Response {
    /// `""` when there is none.
    pub fn header(&self, name: &str) -> &str {
        self.headers.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map_or("", |(_, value)| value)
    }

    /// All of that name.
    pub fn headers<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.headers.iter().filter(move |(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|e| panic!("{e}: {}", String::from_utf8_lossy(&self.body)))
    }

    /// The `code` of a problem, which has all its members.
    pub fn code(&self) -> String {
        assert_eq!(self.header("content-type"), "application/problem+json", "{self:?}");
        let problem = self.json();
        assert_eq!(problem["status"], self.status);
        assert_eq!(problem["requestId"], self.header("x-request-id"));
        for member in ["type", "title", "detail"] {
            assert!(problem[member].is_string(), "{member} of {problem}");
        }
        problem["code"].as_str().expect("a code").to_owned()
    }
}

/// HTTP on a connection.
pub struct Http {
    pub stream: Stream,
    buffer: Vec<u8>,
}

impl Http {
    pub fn connect(server: &Server) -> Self {
        Http::over(Stream::connect(server.address()))
    }

    pub fn over(stream: Stream) -> Self {
        Http { stream, buffer: Vec::new() }
    }

    pub fn send(&mut self, text: &str) {
        self.stream.write_all(text.as_bytes()).expect("the server reads");
        self.stream.flush().unwrap();
    }

    /// `GET` with these header lines, and its answer.
    pub fn get(&mut self, path: &str, headers: &[&str]) -> Response {
        self.request("GET", path, headers, "")
    }

    pub fn request(&mut self, method: &str, path: &str, headers: &[&str], body: &str) -> Response {
        let mut request = format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\n");
        for header in headers {
            request.push_str(header);
            request.push_str("\r\n");
        }
        if !body.is_empty() {
            request.push_str(&format!("Content-Length: {}\r\n", body.len()));
        }
        self.send(&format!("{request}\r\n{body}"));
        self.response_to(method == "HEAD")
    }

    pub fn response(&mut self) -> Response {
        self.response_to(false)
    }

    /// `head_only`: the request was a `HEAD`.
    pub fn response_to(&mut self, head_only: bool) -> Response {
        let end = loop {
            match self.buffer.windows(4).position(|w| w == b"\r\n\r\n") {
                Some(at) => break at + 4,
                None => self.more(),
            }
        };
        let head = String::from_utf8(self.buffer.drain(..end).collect()).expect("a head in ASCII");
        let mut lines = head.split("\r\n");
        let status_line = lines.next().unwrap();
        assert!(status_line.starts_with("HTTP/1.1 "), "{status_line}");
        let status = status_line[9..12].parse().expect("a status");
        let headers = lines.filter_map(|line| line.split_once(": "));
        let headers: Vec<_> = headers.map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
        let mut response = Response { status, headers, body: Vec::new() };
        if !head_only && response.status >= 200 && !matches!(status, 204 | 304) {
            let length = response.header("content-length").parse().expect("a Content-Length");
            while self.buffer.len() < length {
                self.more();
            }
            response.body = self.buffer.drain(..length).collect();
        }
        if status >= 200 {
            assert!(!response.header("x-request-id").is_empty(), "{head}");
        }
        response
    }

    /// Bytes after the last answer, read already.
    pub fn into_parts(self) -> (Stream, Vec<u8>) {
        (self.stream, self.buffer)
    }

    /// Nothing more comes but the end.
    pub fn ends(mut self) {
        assert!(self.stream.is_closed_by_server(), "the server closes the connection");
        assert!(self.buffer.is_empty());
    }

    fn more(&mut self) {
        let mut bytes = [0; 16 * 1024];
        let n = self.stream.read(&mut bytes).expect("the server answers");
        assert!(n > 0, "the server closed the connection after {:?}", String::from_utf8_lossy(&self.buffer));
        self.buffer.extend_from_slice(&bytes[..n]);
    }
}
