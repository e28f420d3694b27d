//! As much of an HTTP/1.1 server as stand-ins need: a thread for each connection, requests with a length or in chunks, whole
//! bodies in memory. Ends when it is dropped.

use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};

/// A request without its body.
#[derive(Debug, Clone, Default)]
pub struct Head {
    pub method: String,
    /// Path and query, as they came.
    pub target: String,
    pub headers: Vec<(String, String)>,
}

impl Head {
    /// The first header of that name.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(found, _)| found.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    pub fn path(&self) -> &str {
        self.target.split('?').next().unwrap_or_default()
    }

    /// A value of the query, decoded.
    pub fn query(&self, name: &str) -> Option<String> {
        let (_, query) = self.target.split_once('?')?;
        let mut pairs = query.split('&').map(|pair| pair.split_once('=').unwrap_or((pair, "")));
        pairs.find(|(found, _)| *found == name).map(|(_, value)| decoded(&value.replace('+', " ")))
    }
}

pub struct Request {
    pub head: Head,
    pub body: Vec<u8>,
}

pub struct Response {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Response {
    pub fn new(status: u16, body: impl Into<Vec<u8>>) -> Response {
        Response { status, headers: Vec::new(), body: body.into() }
    }

    pub fn with(mut self, name: &str, value: impl Into<String>) -> Response {
        self.headers.push((name.to_owned(), value.into()));
        self
    }

    /// Head and body, as they go out. To `HEAD` the body is only counted.
    pub fn octets(&self, is_head: bool) -> Vec<u8> {
        let mut out = format!("HTTP/1.1 {} -\r\ncontent-length: {}\r\n", self.status, self.body.len());
        for (name, value) in &self.headers {
            out.push_str(&format!("{name}: {value}\r\n"));
        }
        let mut out = (out + "\r\n").into_bytes();
        if !is_head {
            out.extend_from_slice(&self.body);
        }
        out
    }
}

pub struct Server {
    pub address: SocketAddr,
    listening: Listening,
}

impl Server {
    pub fn start(answer: impl Fn(&Request) -> Response + Send + Sync + 'static) -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("an address");
        let listening = Listening::start(listener, move |mut stream| {
            while let Some(head) = read_head(&mut stream)? {
                let body = read_body(&mut stream, &head)?;
                let is_head = head.method == "HEAD";
                let response = answer(&Request { head, body });
                stream.write_all(&response.octets(is_head))?;
            }
            Ok(())
        });
        Server { address, listening }
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.listening.stop();
    }
}

/// A listener and the connections that it has taken, each on a thread.
pub struct Listening {
    address: SocketAddr,
    is_over: Arc<AtomicBool>,
    open: Arc<Mutex<HashMap<usize, TcpStream>>>,
    thread: Option<JoinHandle<()>>,
}

impl Listening {
    pub fn start(
        listener: TcpListener,
        serve: impl Fn(&TcpStream) -> io::Result<()> + Send + Sync + 'static,
    ) -> Listening {
        let address = listener.local_addr().expect("an address");
        let (is_over, open) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(HashMap::new())));
        let serve = Arc::new(serve);
        let (over, connections) = (is_over.clone(), open.clone());
        let thread = thread::spawn(move || {
            for (number, stream) in listener.incoming().enumerate() {
                if over.load(Ordering::SeqCst) {
                    return;
                }
                let Ok(stream) = stream else { continue };
                let Ok(copy) = stream.try_clone() else { continue };
                connections.lock().expect("no panic").insert(number, copy);
                let (serve, connections) = (serve.clone(), connections.clone());
                thread::spawn(move || {
                    // An error is a connection that ended, which is what clients do.
                    let _ = serve(&stream);
                    connections.lock().expect("no panic").remove(&number);
                });
            }
        });
        Listening { address, is_over, open, thread: Some(thread) }
    }

    /// Nobody listens any more, and everything that is open breaks.
    pub fn stop(&mut self) {
        let Some(thread) = self.thread.take() else { return };
        self.is_over.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(self.address);
        let _ = thread.join();
        for (_, stream) in self.open.lock().expect("no panic").drain() {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

/// `None`: the connection ended between requests. Never reads beyond the head.
pub fn read_head(stream: &mut impl Read) -> io::Result<Option<Head>> {
    let mut octets = Vec::new();
    let mut octet = [0];
    while !octets.ends_with(b"\r\n\r\n") {
        match stream.read(&mut octet)? {
            0 if octets.is_empty() => return Ok(None),
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            _ => octets.push(octet[0]),
        }
        if octets.len() > 64 * 1024 {
            return Err(io::ErrorKind::InvalidData.into());
        }
    }
    let text = String::from_utf8(octets).map_err(|_| io::Error::from(io::ErrorKind::InvalidData))?;
    let mut lines = text.split("\r\n");
    let mut first = lines.next().unwrap_or_default().split(' ');
    let mut word = || first.next().unwrap_or_default().to_owned();
    let (method, target) = (word(), word());
    let headers = lines.filter_map(|line| line.split_once(':'));
    let headers = headers.map(|(name, value)| (name.trim().to_owned(), value.trim().to_owned())).collect();
    Ok(Some(Head { method, target, headers }))
}

pub fn read_body(stream: &mut impl Read, head: &Head) -> io::Result<Vec<u8>> {
    let mut body = Vec::new();
    if head.header("transfer-encoding").is_some_and(|coding| coding.eq_ignore_ascii_case("chunked")) {
        loop {
            let size = usize::from_str_radix(read_line(stream)?.split(';').next().unwrap_or_default().trim(), 16)
                .map_err(|_| io::Error::from(io::ErrorKind::InvalidData))?;
            if size == 0 {
                while !read_line(stream)?.is_empty() {}
                return Ok(body);
            }
            let start = body.len();
            body.resize(start + size, 0);
            stream.read_exact(&mut body[start..])?;
            read_line(stream)?;
        }
    }
    let length = head.header("content-length").and_then(|length| length.parse().ok()).unwrap_or(0);
    body.resize(length, 0);
    stream.read_exact(&mut body)?;
    Ok(body)
}

fn read_line(stream: &mut impl Read) -> io::Result<String> {
    let (mut line, mut octet) = (Vec::new(), [0]);
    while !line.ends_with(b"\r\n") {
        stream.read_exact(&mut octet)?;
        line.push(octet[0]);
    }
    line.truncate(line.len() - 2);
    String::from_utf8(line).map_err(|_| io::ErrorKind::InvalidData.into())
}

/// Percent-encoding undone.
pub fn decoded(text: &str) -> String {
    let (mut out, mut rest) = (Vec::new(), text.as_bytes());
    while let Some((octet, after)) = rest.split_first() {
        let pair = after.get(..2).and_then(|pair| std::str::from_utf8(pair).ok());
        match pair.and_then(|pair| u8::from_str_radix(pair, 16).ok()).filter(|_| *octet == b'%') {
            Some(value) => {
                out.push(value);
                rest = &after[2..];
            }
            None => {
                out.push(*octet);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}
