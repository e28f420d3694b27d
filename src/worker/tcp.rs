//! One TCP connection: TLS when there is a certificate, HTTP first, then signaling; or framed media (ICE-TCP), which is never
//! inside TLS of ours. Everything but the socket is plain data, so that the whole moves between workers by value, with
//! whatever TLS and WebSocket have buffered.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr};
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use mio::net::TcpStream;
use rustls::{ServerConfig, ServerConnection};

use crate::base::Class;
use crate::frames::{self, Reader, Writer};
use crate::http;
use crate::http::recordings::Terms;
use crate::recording::library::ReadFrom;
use crate::ws::Ws;

/// What speaks on the connection.
pub enum Protocol {
    Http(Box<http::Connection>),
    Signaling(Box<Ws>),
    Media(Box<Media>),
    /// Nothing more is understood; what is queued goes out, then the socket closes.
    Closing,
}

/// Framed packets, both ways.
pub struct Media {
    pub reader: Reader,
    writer: Writer,
    pub state: MediaState,
    /// When the connection ends, unless something happens that moves it.
    pub deadline: Instant,
}

/// How far a connection with framed packets has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MediaState {
    /// Its first packet was not seen, or is for nobody on the workers it has been to, so many of them.
    Opening { visited: u8 },
    /// Its first packet was for somebody here; nothing has proved that it came from there. So many packets were read.
    Claimed { local: SocketAddr, packets: u8 },
    /// An authenticated check came over it.
    Verified { local: SocketAddr },
}

impl Media {
    /// Nothing is read while so much waits to be understood: as long as nobody has claimed the connection, little more than
    /// one packet.
    fn read_max(&self) -> usize {
        match self.state {
            MediaState::Opening { .. } => frames::FRAME_MAX,
            _ => READ_BUDGET,
        }
    }

    /// The announced address that the connection was opened to, once it is in use.
    pub fn local(&self) -> Option<SocketAddr> {
        match self.state {
            MediaState::Opening { .. } => None,
            MediaState::Claimed { local, .. } | MediaState::Verified { local } => Some(local),
        }
    }
}

/// A request whose answer comes from a room, or from those who keep recordings.
pub struct Waiting {
    /// Which question; an answer to another is one that came too late.
    pub number: u32,
    /// No longer than that.
    pub until: Instant,
    /// The request was `HEAD`.
    pub head_only: bool,
    /// Go with the answer.
    pub headers: Vec<(&'static str, String)>,
    /// Of a question about recordings.
    pub terms: Option<Terms>,
}

/// A file on its way to the client, piece by piece.
pub struct Download {
    pub from: ReadFrom,
    /// Octets that were not queued yet.
    pub rest: Range<u64>,
    /// Goes out with the first of them: when there is none, there still is an answer in words.
    pub head: Option<http::Response>,
    /// What the head says.
    pub keep_alive: bool,
    /// The piece that was asked for, and until when it is awaited.
    pub asked: Option<(u32, Instant)>,
    /// Those who read had too much to do; they are asked again then.
    pub again: Option<Instant>,
}

/// See the module's documentation.
pub struct Conn {
    pub stream: TcpStream,
    pub remote: SocketAddr,
    pub protocol: Protocol,
    /// While there is one, no further request is read.
    pub waiting: Option<Waiting>,
    /// The same holds for this.
    pub download: Option<Box<Download>>,
    tls: Option<Box<ServerConnection>>,
    /// Ready for the socket: ciphertext with TLS, else plain.
    out: Vec<u8>,
    written: usize,
    /// Not a byte was read.
    is_fresh: bool,
    /// For the first check of framed media to be verified.
    opening_until: Instant,
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
    /// Packets were queued since the last write.
    pub wants_write: bool,
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
            waiting: None,
            download: None,
            tls,
            out: Vec::new(),
            written: 0,
            is_fresh: true,
            opening_until: now + limits.head_time,
            stalled_since: None,
            ended: false,
            linger_until: None,
            readable: true,
            writable: true,
            is_anonymous: true,
            is_queued: false,
            wants_write: false,
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
            Protocol::Media(media) => media.reader.buffered() < media.read_max(),
            Protocol::Closing => self.is_lingering(),
        }
    }

    /// To be told when the protocol has understood all there is. A client that sends no more gets the answers it waits
    /// for, but a call without a reader is over.
    pub fn understood(&mut self) -> Step {
        match &self.protocol {
            _ if !self.ended || self.waiting.is_some() || self.download.is_some() => Step::Open,
            Protocol::Http(_) => {
                self.finish();
                Step::Open
            }
            Protocol::Signaling(_) | Protocol::Media(_) => Step::Gone,
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
        if std::mem::take(&mut self.is_fresh) && bytes.first().is_some_and(|first| frames::may_begin(*first)) {
            self.tls = None;
            self.protocol = Protocol::Media(Box::new(Media {
                reader: Reader::default(),
                writer: Writer::new(MEDIA_QUEUE),
                state: MediaState::Opening { visited: 0 },
                deadline: self.opening_until,
            }));
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

    /// As [`Conn::queue`], a piece of something that is longer: what was written before it is forgotten.
    pub fn queue_piece(&mut self, bytes: Vec<u8>) -> io::Result<()> {
        self.out.drain(..self.written);
        self.written = 0;
        if self.tls.is_none() && self.out.is_empty() {
            self.out = bytes;
            return Ok(());
        }
        self.queue(&bytes)
    }

    /// Queues a packet; returns how many were dropped for it, itself included. None is sent on a connection that does not
    /// carry media any more.
    pub fn queue_packet(&mut self, class: Class, packet: Vec<u8>) -> u64 {
        let Protocol::Media(media) = &mut self.protocol else { return 1 };
        media.writer.push(class, packet);
        media.writer.take_dropped()
    }

    /// Writes what is queued. What the protocol has is taken over only while little waits, so that its own bound holds.
    pub fn write(&mut self, now: Instant, scratch: &mut Vec<u8>) -> Step {
        loop {
            if self.pending() < LOW_WATER && self.refill(scratch).is_err() {
                return Step::Gone;
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

    fn refill(&mut self, scratch: &mut Vec<u8>) -> io::Result<()> {
        match &mut self.protocol {
            Protocol::Signaling(ws) if ws.has_output() => {
                scratch.clear();
                ws.take_output(scratch);
            }
            Protocol::Media(media) if !media.writer.is_empty() => {
                scratch.clear();
                media.writer.fill(scratch, LOW_WATER);
            }
            _ => return Ok(()),
        }
        // A connection that is never quite done must not keep what it has written.
        self.out.drain(..self.written);
        self.written = 0;
        self.queue(scratch)
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
        let mut rest = Vec::new();
        match &mut self.protocol {
            Protocol::Signaling(ws) if ws.has_output() => ws.take_output(&mut rest),
            Protocol::Media(media) => media.writer.fill(&mut rest, usize::MAX),
            _ => {}
        }
        let _ = self.queue(&rest);
        self.protocol = Protocol::Closing;
        if let Some(tls) = &mut self.tls {
            tls.send_close_notify();
            let _ = flush_tls(tls, &mut self.out);
        }
    }

    /// Nothing more is to be said nor heard: the next [`Conn::write`] drops the connection.
    pub fn abandon(&mut self) {
        self.protocol = Protocol::Closing;
        self.out = Vec::new();
        self.written = 0;
        self.ended = true;
    }

    fn is_finished(&self) -> bool {
        match &self.protocol {
            Protocol::Closing => true,
            Protocol::Signaling(ws) => ws.is_closed(),
            Protocol::Http(_) | Protocol::Media(_) => false,
        }
    }

    /// Octets that the socket has not taken.
    pub fn pending(&self) -> usize {
        self.out.len() - self.written
    }

    /// When [`Conn::handle_timeout`] is due.
    pub fn poll_timeout(&self, write_timeout: Duration) -> Option<Instant> {
        let protocol = match &self.protocol {
            Protocol::Http(http) => http.poll_timeout(),
            Protocol::Signaling(ws) => ws.poll_timeout(),
            Protocol::Media(media) => Some(media.deadline),
            Protocol::Closing => None,
        };
        let stalled = self.stalled_since.map(|since| since + write_timeout);
        let waiting = self.waiting.as_ref().map(|waiting| waiting.until);
        let download = self.download.as_ref();
        let piece = download.and_then(|download| download.asked).map(|(_, until)| until);
        let again = download.and_then(|download| download.again);
        [protocol, stalled, self.linger_until, waiting, piece, again].into_iter().flatten().min()
    }

    /// A piece did not come in time.
    pub fn misses_piece(&self, now: Instant) -> bool {
        self.download.as_ref().and_then(|download| download.asked).is_some_and(|(_, until)| now >= until)
    }

    /// The request waited long enough for its answer.
    pub fn waited_in_vain(&mut self, now: Instant) -> Option<Waiting> {
        self.waiting.take_if(|waiting| now >= waiting.until)
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
            Protocol::Media(media) if now >= media.deadline => return Step::Gone,
            Protocol::Media(_) | Protocol::Closing => {}
        }
        Step::Open
    }
}

fn feed_protocol(protocol: &mut Protocol, now: Instant, bytes: &[u8]) {
    match protocol {
        Protocol::Http(http) => http.handle_bytes(now, bytes),
        Protocol::Signaling(ws) => ws.handle_bytes(now, bytes),
        Protocol::Media(media) => media.reader.handle_bytes(bytes),
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
/// Below this, the next bytes of the protocol are taken over for writing.
const LOW_WATER: usize = 16 * 1024;
/// Packets that wait for one connection: a second at 2 Mbit/s. More would be seen later still.
const MEDIA_QUEUE: usize = 256 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    /// Of what the socket has taken nothing is kept, also when there is always something that it has not.
    #[test]
    fn what_is_written_of_a_download_is_forgotten() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let mut client = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (stream, remote) = listener.accept().unwrap();
        stream.set_nonblocking(true).unwrap();
        let now = Instant::now();
        let mut conn = Conn::new(now, TcpStream::from_std(stream), remote, None, &http::Limits::default()).unwrap();
        const PIECE: usize = 1 << 20;
        let mut was_in_part = false;
        let mut buffer = vec![0; PIECE / 2];
        for number in 0..64 {
            while conn.pending() < PIECE {
                conn.queue_piece(vec![number; PIECE]).unwrap();
                assert_eq!(conn.out.len(), conn.pending(), "what was written is gone");
                conn.writable = true;
                assert_eq!(conn.write(now, &mut Vec::new()), Step::Open);
            }
            client.read_exact(&mut buffer).unwrap();
            conn.writable = true;
            assert_eq!(conn.write(now, &mut Vec::new()), Step::Open);
            was_in_part |= conn.written > 0 && conn.pending() > 0;
        }
        assert!(was_in_part, "the socket took a part of what there was");
    }
}
