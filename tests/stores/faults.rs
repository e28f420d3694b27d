//! A proxy that does to requests what networks and stores do to them, by a script.
//!
//! ```text
//! let proxy = Proxy::start(store_address, |n, head| match n {
//!     0 => Do::slow_down(2),                                   // the first request
//!     1 if head.method == "PUT" => Do::ResetBody { after: 100_000 },
//!     _ => Do::Pass,
//! });
//! // … let the client talk to proxy.url() …
//! proxy.script(|_, _| Do::Pass);                               // the weather clears up
//! assert_eq!(proxy.requests().len(), 7);
//! ```
//!
//! - The script is asked once a request, with the request's number from 0 and its head, before anything is read of its body.
//! - `Host` goes on as it came, so signatures for the proxy's address hold.
//! - [`Proxy::refuse`] closes the port, as when the store is not running; [`Proxy::listen`] opens the same one again.
//! - Every connection carries one request; what a client sees of it is `connection: close`.
//! - Dropped, it breaks what is open.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use socket2::{Domain, SockRef, Socket, Type};

use crate::server::{Head, Listening, Response, read_head};

/// What happens to a request.
#[derive(Debug, Clone)]
#[allow(dead_code)]
pub enum Do {
    Pass,
    /// The connection breaks before anything of the request is answered.
    Reset,
    /// The connection breaks when so many octets of the request's body have come.
    ResetBody {
        after: u64,
    },
    /// The connection breaks when so many octets of the answer have gone, its head counted.
    ResetAnswer {
        after: u64,
    },
    /// The store does it, and nobody hears that it did.
    LoseAnswer,
    /// An answer of the proxy's own, after the whole request.
    Answer {
        status: u16,
        headers: Vec<(String, String)>,
        body: String,
    },
    /// The same at once, and the connection ends without the body being read.
    AnswerEarly {
        status: u16,
        body: String,
    },
    /// So many octets of the request's body come, and then nothing happens until the client gives up.
    Stall {
        after: u64,
    },
    /// All comes, and no answer ever.
    NoAnswer,
    /// The request's body comes, and its answer goes, at this pace.
    Slow {
        octets_per_second: u64,
    },
    /// `etag` of the answer is another.
    WrongEtag,
}

#[allow(dead_code)]
impl Do {
    /// An answer with `<Error>`, as S3 has it.
    pub fn error(status: u16, code: &str) -> Do {
        let body = format!("<?xml version=\"1.0\"?><Error><Code>{code}</Code><Message>by the script</Message></Error>");
        Do::Answer { status, headers: vec![("content-type".into(), "application/xml".into())], body }
    }

    /// 503 with `Retry-After`.
    pub fn slow_down(seconds: u64) -> Do {
        match Do::error(503, "SlowDown") {
            Do::Answer { status, mut headers, body } => {
                headers.push(("retry-after".into(), seconds.to_string()));
                Do::Answer { status, headers, body }
            }
            other => other,
        }
    }

    pub fn expired_token() -> Do {
        Do::error(400, "ExpiredToken")
    }
}

type Script = Box<dyn FnMut(usize, &Head) -> Do + Send>;

struct Shared {
    upstream: SocketAddr,
    script: Mutex<Script>,
    requests: Mutex<Vec<Head>>,
    count: AtomicUsize,
}

pub struct Proxy {
    pub address: SocketAddr,
    shared: Arc<Shared>,
    listening: Mutex<Option<Listening>>,
}

#[allow(dead_code)]
impl Proxy {
    pub fn start(upstream: SocketAddr, script: impl FnMut(usize, &Head) -> Do + Send + 'static) -> Proxy {
        let shared = Arc::new(Shared {
            upstream,
            script: Mutex::new(Box::new(script)),
            requests: Mutex::new(Vec::new()),
            count: AtomicUsize::new(0),
        });
        let listener = listener("127.0.0.1:0".parse().expect("an address"));
        let address = listener.local_addr().expect("an address");
        let proxy = Proxy { address, shared, listening: Mutex::new(None) };
        proxy.listen_with(listener);
        proxy
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// From the next request on; their numbers go on.
    pub fn script(&self, script: impl FnMut(usize, &Head) -> Do + Send + 'static) {
        *self.shared.script.lock().expect("no panic") = Box::new(script);
    }

    /// The heads of all requests so far.
    pub fn requests(&self) -> Vec<Head> {
        self.shared.requests.lock().expect("no panic").clone()
    }

    /// Connections are refused, and those that are open break.
    pub fn refuse(&self) {
        if let Some(mut listening) = self.listening.lock().expect("no panic").take() {
            listening.stop();
        }
    }

    /// Listens again after [`Proxy::refuse`].
    pub fn listen(&self) {
        if self.listening.lock().expect("no panic").is_none() {
            self.listen_with(listener(self.address));
        }
    }

    fn listen_with(&self, listener: TcpListener) {
        let shared = self.shared.clone();
        let listening = Listening::start(listener, move |stream| serve(&shared, stream));
        *self.listening.lock().expect("no panic") = Some(listening);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.refuse();
    }
}

/// With little room for what is not read yet, so that a slow reader is felt at the other end.
fn listener(address: SocketAddr) -> TcpListener {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    socket.set_reuse_address(true).expect("an option");
    socket.set_recv_buffer_size(8 * 1024).expect("an option");
    socket.bind(&address.into()).expect("the port is free");
    socket.listen(128).expect("it can listen");
    socket.into()
}

fn serve(shared: &Shared, mut client: &TcpStream) -> io::Result<()> {
    let Some(head) = read_head(&mut client)? else { return Ok(()) };
    let number = shared.count.fetch_add(1, Ordering::SeqCst);
    shared.requests.lock().expect("no panic").push(head.clone());
    let what = (shared.script.lock().expect("no panic"))(number, &head);
    let length: u64 = head.header("content-length").and_then(|length| length.parse().ok()).unwrap_or(0);
    match what {
        Do::Reset => reset(client),
        Do::ResetBody { after } => {
            swallow(&mut client, after.min(length))?;
            reset(client)
        }
        Do::Stall { after } => {
            swallow(&mut client, after.min(length))?;
            wait_for_end(client);
            Ok(())
        }
        Do::NoAnswer => {
            swallow(&mut client, length)?;
            wait_for_end(client);
            Ok(())
        }
        Do::Answer { status, headers, body } => {
            swallow(&mut client, length)?;
            let mut response = Response::new(status, body).with("connection", "close");
            response.headers.extend(headers);
            client.write_all(&response.octets(head.method == "HEAD"))
        }
        Do::AnswerEarly { status, body } => {
            let response = Response::new(status, body).with("connection", "close");
            client.write_all(&response.octets(head.method == "HEAD"))
            // Closed with what is unread, which breaks it for the other end.
        }
        Do::Pass | Do::Slow { .. } | Do::ResetAnswer { .. } | Do::LoseAnswer | Do::WrongEtag => {
            forward(shared, client, &head, length, &what)
        }
    }
}

fn forward(shared: &Shared, mut client: &TcpStream, head: &Head, length: u64, what: &Do) -> io::Result<()> {
    let pace = match what {
        Do::Slow { octets_per_second } => Some(*octets_per_second),
        _ => None,
    };
    let mut store = TcpStream::connect(shared.upstream)?;
    let mut text = format!("{} {} HTTP/1.1\r\nconnection: close\r\n", head.method, head.target);
    for (name, value) in head.headers.iter().filter(|(name, _)| !name.eq_ignore_ascii_case("connection")) {
        text.push_str(&format!("{name}: {value}\r\n"));
    }
    store.write_all((text + "\r\n").as_bytes())?;
    copy((&mut client).take(length), &mut store, pace)?;
    let mut answer = Vec::new();
    match what {
        Do::LoseAnswer => {
            store.read_to_end(&mut answer)?;
            reset(client)
        }
        Do::ResetAnswer { after } => {
            copy((&mut store).take(*after), &mut client, None)?;
            reset(client)
        }
        Do::WrongEtag => {
            let head = read_head(&mut store)?.unwrap_or_default();
            let mut text = format!("{} {} -\r\n", head.method, head.target);
            for (name, value) in &head.headers {
                let is_etag = name.eq_ignore_ascii_case("etag");
                let value = if is_etag { "\"00000000000000000000000000000000\"" } else { value.as_str() };
                text.push_str(&format!("{name}: {value}\r\n"));
            }
            client.write_all((text + "\r\n").as_bytes())?;
            copy(&mut store, &mut client, None)
        }
        _ => copy(&mut store, &mut client, pace),
    }
}

/// At a pace: a tenth of a second's worth at a time.
fn copy(mut from: impl Read, to: &mut impl Write, octets_per_second: Option<u64>) -> io::Result<()> {
    let size = octets_per_second.map_or(64 * 1024, |pace| (pace / 10).max(1));
    let mut buffer = vec![0; size as usize];
    let (begin, mut sent) = (Instant::now(), 0_u64);
    loop {
        let read = from.read(&mut buffer)?;
        if read == 0 {
            return Ok(());
        }
        to.write_all(&buffer[..read])?;
        sent += read as u64;
        if let Some(pace) = octets_per_second {
            let due = Duration::from_millis(sent * 1000 / pace);
            thread::sleep(due.saturating_sub(begin.elapsed()));
        }
    }
}

fn swallow(client: &mut &TcpStream, octets: u64) -> io::Result<()> {
    io::copy(&mut Read::take(client, octets), &mut io::sink()).map(|_| ())
}

/// The end of the connection, which follows, is a reset and no orderly one.
fn reset(client: &TcpStream) -> io::Result<()> {
    SockRef::from(client).set_linger(Some(Duration::ZERO))
}

/// Until the other end, or the proxy, has had enough. What still comes stays unread.
fn wait_for_end(client: &TcpStream) {
    let mut poll = libc::pollfd { fd: std::os::fd::AsRawFd::as_raw_fd(client), events: libc::POLLRDHUP, revents: 0 };
    // SAFETY: one structure, ours for the call.
    unsafe { libc::poll(&mut poll, 1, -1) };
}
