//! One TCP connection: TLS when there is a certificate, HTTP first, then signaling. Everything but the socket is plain
//! data, so that the whole moves between workers by value, with whatever TLS and WebSocket have buffered.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use mio::net::TcpStream;
use rustls::{ServerConfig, ServerConnection};

use crate::http;
use crate::ws::Ws;

/// What speaks on the connection.
pub enum Protocol {
    Http(Box<http::Connection>),
    Signaling(Box<Ws>),
    /// Nothing more is understood; what is queued goes out, then the socket closes.
    Closing,
}

/// See the module's documentation.
pub struct Conn {
    pub stream: TcpStream,
    pub remote: SocketAddr,
    pub protocol: Protocol,
    tls: Option<Box<ServerConnection>>,
    /// Ready for the socket: ciphertext with TLS, else plain.
    out: Vec<u8>,
    written: usize,
    /// Since when the socket has taken nothing although there was something.
    stalled_since: Option<Instant>,
    /// The client has sent its last byte; what it said before is still answered.
    ended: bool,
    /// Everything is said and the client knows it; what it still sends is thrown away until it closes, or until then.
    /// Closing a socket with unread bytes resets the connection, and the client might never see why.
    linger_until: Option<Instant>,
    /// What the last notice of the loop said; an edge, so it is remembered until the socket would block.
    pub readable: bool,
    pub writable: bool,
    /// Counted among those that have shown no valid token.
    pub is_anonymous: bool,
    pub is_queued: bool,
}

/// How a step on the socket went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Goes on.
    Open,
    /// The connection is to be dropped.
    Gone,
}

impl Conn {
    /// `tls`: speak HTTPS with this configuration.
    pub fn new(
        now: Instant,
        stream: TcpStream,
        remote: SocketAddr,
        tls: Option<Arc<ServerConfig>>,
        limits: &http::Limits,
    ) -> Result<Conn, rustls::Error> {
        let tls = match tls {
            Some(config) => {
                let mut connection = ServerConnection::new(config)?;
                // Everything written is taken out at once; the bounds are those of the protocols.
                connection.set_buffer_limit(None);
                Some(Box::new(connection))
            }
            None => None,
        };
        Ok(Conn {
            stream,
            remote,
            protocol: Protocol::Http(Box::new(http::Connection::new(now, limits))),
            tls,
            out: Vec::new(),
            written: 0,
            stalled_since: None,
            ended: false,
            linger_until: None,
            readable: true,
            writable: true,
            is_anonymous: true,
            is_queued: false,
        })
    }

    /// Reads what the socket has, up to a fair amount, and feeds the protocol.
    pub fn read(&mut self, now: Instant, scratch: &mut [u8]) -> Step {
        let mut budget = READ_BUDGET;
        while self.readable && budget > 0 && self.wants_read() {
            match self.stream.read(scratch) {
                Ok(0) => self.ended = true,
                Ok(n) => {
                    budget = budget.saturating_sub(n);
                    if self.feed(now, &scratch[..n]).is_err() {
                        return Step::Gone;
                    }
                }
                Err(e) if e.kind() == ErrorKind::WouldBlock => self.readable = false,
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(_) => return Step::Gone,
            }
        }
        Step::Open
    }

    /// More could be read at once, had the budget allowed it.
    pub fn wants_turn(&self) -> bool {
        self.readable && self.wants_read()
    }

    fn wants_read(&self) -> bool {
        match &self.protocol {
            _ if self.ended => false,
            Protocol::Http(http) => http.wants_read(),
            Protocol::Signaling(ws) => ws.wants_read(),
            Protocol::Closing => self.is_lingering(),
        }
    }

    /// To be told when the protocol has understood all there is. A client that sends no more gets the answers it waits
    /// for, but a call without a reader is over.
    pub fn understood(&mut self) -> Step {
        match &self.protocol {
            _ if !self.ended => Step::Open,
            Protocol::Http(_) => {
                self.finish();
                Step::Open
            }
            Protocol::Signaling(_) => Step::Gone,
            Protocol::Closing => Step::Open,
        }
    }

    /// Only the client's end of the connection is awaited.
    pub fn is_lingering(&self) -> bool {
        self.linger_until.is_some()
    }

    fn feed(&mut self, now: Instant, mut bytes: &[u8]) -> io::Result<()> {
        if self.is_lingering() {
            return Ok(());
        }
        let Some(tls) = &mut self.tls else {
            feed_protocol(&mut self.protocol, now, bytes);
            return Ok(());
        };
        let mut plain = [0u8; 4096];
        while !bytes.is_empty() {
            let taken = tls.read_tls(&mut bytes)?;
            let state = tls.process_new_packets();
            // Whatever it was, an alert may have to go out.
            flush_tls(tls, &mut self.out)?;
            state.map_err(io::Error::other)?;
            loop {
                match tls.reader().read(&mut plain) {
                    Ok(0) => {
                        self.ended = true;
                        return Ok(());
                    }
                    Ok(n) => feed_protocol(&mut self.protocol, now, &plain[..n]),
                    Err(e) if e.kind() == ErrorKind::WouldBlock => break,
                    Err(e) => return Err(e),
                }
            }
            if taken == 0 {
                break;
            }
        }
        Ok(())
    }

    /// Queues bytes that are written as they are (HTTP answers).
    pub fn queue(&mut self, bytes: &[u8]) -> io::Result<()> {
        match &mut self.tls {
            Some(tls) => {
                tls.writer().write_all(bytes)?;
                flush_tls(tls, &mut self.out)
            }
            None => {
                self.out.extend_from_slice(bytes);
                Ok(())
            }
        }
    }

    /// Writes what is queued. What the WebSocket has is taken over only while little waits, so that its own bound holds.
    pub fn write(&mut self, now: Instant, scratch: &mut Vec<u8>) -> Step {
        loop {
            if self.pending() < LOW_WATER
                && let Protocol::Signaling(ws) = &mut self.protocol
                && ws.has_output()
            {
                scratch.clear();
                ws.take_output(scratch);
                if self.queue(scratch).is_err() {
                    return Step::Gone;
                }
            }
            if self.pending() == 0 {
                self.stalled_since = None;
                if self.written > 0 {
                    self.out.clear();
                    self.written = 0;
                    // One large answer must not hold its memory for the life of the connection.
                    if self.out.capacity() > 4 * LOW_WATER {
                        self.out = Vec::new();
                    }
                }
                return if self.is_finished() { self.linger(now) } else { Step::Open };
            }
            if !self.writable {
                self.stalled_since.get_or_insert(now);
                return Step::Open;
            }
            match self.stream.write(&self.out[self.written..]) {
                Ok(0) => return Step::Gone,
                Ok(n) => {
                    self.written += n;
                    self.stalled_since = None;
                }
                Err(e) if e.kind() == ErrorKind::WouldBlock => self.writable = false,
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(_) => return Step::Gone,
            }
        }
    }

    /// Everything is out.
    fn linger(&mut self, now: Instant) -> Step {
        let until = *self.linger_until.get_or_insert(now + LINGER);
        if self.ended || now >= until || self.stream.shutdown(Shutdown::Write).is_err() {
            return Step::Gone;
        }
        self.protocol = Protocol::Closing;
        Step::Open
    }

    /// Nothing more is to be said: the socket closes when everything is out.
    pub fn finish(&mut self) {
        if let Protocol::Signaling(ws) = &mut self.protocol
            && ws.has_output()
        {
            let mut rest = Vec::new();
            ws.take_output(&mut rest);
            let _ = self.queue(&rest);
        }
        self.protocol = Protocol::Closing;
        if let Some(tls) = &mut self.tls {
            tls.send_close_notify();
            let _ = flush_tls(tls, &mut self.out);
        }
    }

    fn is_finished(&self) -> bool {
        match &self.protocol {
            Protocol::Closing => true,
            Protocol::Signaling(ws) => ws.is_closed(),
            Protocol::Http(_) => false,
        }
    }

    fn pending(&self) -> usize {
        self.out.len() - self.written
    }

    /// When [`Conn::handle_timeout`] is due.
    pub fn poll_timeout(&self, write_timeout: Duration) -> Option<Instant> {
        let protocol = match &self.protocol {
            Protocol::Http(http) => http.poll_timeout(),
            Protocol::Signaling(ws) => ws.poll_timeout(),
            Protocol::Closing => None,
        };
        let stalled = self.stalled_since.map(|since| since + write_timeout);
        [protocol, stalled, self.linger_until].into_iter().flatten().min()
    }

    pub fn handle_timeout(&mut self, now: Instant, write_timeout: Duration) -> Step {
        if self.stalled_since.is_some_and(|since| now >= since + write_timeout)
            || self.linger_until.is_some_and(|until| now >= until)
        {
            return Step::Gone;
        }
        match &mut self.protocol {
            Protocol::Http(http) => http.handle_timeout(now),
            Protocol::Signaling(ws) => ws.handle_timeout(now),
            Protocol::Closing => {}
        }
        Step::Open
    }
}

fn feed_protocol(protocol: &mut Protocol, now: Instant, bytes: &[u8]) {
    match protocol {
        Protocol::Http(http) => http.handle_bytes(now, bytes),
        Protocol::Signaling(ws) => ws.handle_bytes(now, bytes),
        Protocol::Closing => {}
    }
}

fn flush_tls(tls: &mut ServerConnection, out: &mut Vec<u8>) -> io::Result<()> {
    while tls.wants_write() {
        tls.write_tls(out)?;
    }
    Ok(())
}

/// Bytes read from one connection before the others have their turn.
const READ_BUDGET: usize = 64 * 1024;
/// A client that goes on sending for longer after the last answer may see a reset instead of it.
const LINGER: Duration = Duration::from_secs(1);
/// Below this, the next bytes of the WebSocket are taken over for writing.
const LOW_WATER: usize = 16 * 1024;
