//! WebSocket, server side (RFC 6455): the opening handshake and the frames, bytes in, bytes out.
//!
//! Frames are tungstenite's; this module feeds it from memory, bounds everything, and keeps time: pings, silence,
//! the closing handshake. Driven by [`crate::shard`]. Knows nothing of rooms or JSON. No extensions are negotiated,
//! so there is no decompression.

use crate::base::limit::TokenBucket;
use crate::http::{Method, Request, Response};
use std::io::{self, Read, Write};
use std::time::{Duration, Instant};
use tungstenite::error::Error as WsError;
use tungstenite::protocol::frame::CloseFrame;
use tungstenite::protocol::{Message, Role, WebSocketConfig, WebSocketContext};

pub use tungstenite::Utf8Bytes;

/// The subprotocol of our signaling.
pub const PROTOCOL: &str = "webrtc-engine.v1";

/// Bounds of one connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of one incoming message, over all its fragments, until [`Ws::set_max_message`].
    pub message: usize,
    /// Bytes that wait to be written; beyond, [`Ws::send`] refuses.
    pub outgoing: usize,
    /// Between our pings. Longer than the idle time of a proxy on the way loses connections.
    pub ping_interval: Duration,
    /// Without a byte from the client for this long it is taken for gone.
    pub silence: Duration,
    /// For the client's part of the closing handshake.
    pub close_time: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            message: 16 * 1024,
            outgoing: 256 * 1024,
            ping_interval: Duration::from_secs(20),
            silence: Duration::from_secs(45),
            close_time: Duration::from_secs(5),
        }
    }
}

/// What [`Ws::poll_event`] gives. After `Closed`, `Invalid` or `TooLarge` nothing more comes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A complete text message.
    Text(Utf8Bytes),
    /// A complete binary message, already dropped.
    Binary,
    /// The answer to one of our pings.
    Pong,
    /// The client closed, with this code, 1005 if it gave none; or it has fallen silent (`None`).
    Closed { code: Option<u16> },
    /// The client broke the protocol (answered with 1002) or sent text that is not UTF-8 (1007).
    Invalid,
    /// A message is larger than allowed (answered with 1009).
    TooLarge,
}

/// The outgoing queue is full: the client reads too slowly. The message was not queued.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QueueFull;

/// One connection after its handshake. Plain data: moves between threads by value, whatever it holds.
#[derive(Debug)]
pub struct Ws {
    limits: Limits,
    context: WebSocketContext,
    pipe: Pipe,
    state: State,
    last_heard: Instant,
    next_ping: Instant,
    /// Payload of the client's latest ping that has no answer yet.
    owed_pong: Option<tungstenite::Bytes>,
    pongs: TokenBucket,
    /// When an owed pong may be tried again.
    next_pong: Option<Instant>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Open,
    /// Our close frame is queued, the client's has not come.
    Closing {
        deadline: Instant,
    },
    /// An event that ends the connection is to be told.
    Ended(End),
    Closed,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Closed { code: Option<u16> },
    Invalid,
    TooLarge,
}

/// Incoming bytes beyond this are welcome only after some were consumed; the hard bound is a message more.
const INBOUND_WANTED: usize = 32 * 1024;
/// tungstenite allocates it at once per connection; larger saves copies in large messages, and costs memory when idle.
const READ_BUFFER: usize = 2 * 1024;
const PONGS_PER_SECOND: u32 = 10;

impl Ws {
    pub fn new(now: Instant, limits: Limits) -> Self {
        let config = WebSocketConfig::default()
            .read_buffer_size(READ_BUFFER)
            // Straight to the pipe, which is memory.
            .write_buffer_size(0)
            .max_message_size(Some(limits.message))
            .max_frame_size(Some(limits.message));
        Ws {
            context: WebSocketContext::new(Role::Server, Some(config)),
            pipe: Pipe::default(),
            state: State::Open,
            last_heard: now,
            next_ping: now + limits.ping_interval,
            owed_pong: None,
            pongs: TokenBucket::new(now, PONGS_PER_SECOND, PONGS_PER_SECOND),
            next_pong: None,
            limits,
        }
    }

    /// Takes bytes from the client; poll for events afterwards. Should a caller not respect [`Ws::wants_read`] until
    /// a message and 1 MiB are waiting, that ends the connection as too large.
    pub fn handle_bytes(&mut self, now: Instant, bytes: &[u8]) {
        if !matches!(self.state, State::Open | State::Closing { .. }) || bytes.is_empty() {
            return;
        }
        self.last_heard = now;
        if self.pipe.waiting() + bytes.len() > self.context.get_config().max_message_size.unwrap_or(0) + (1 << 20) {
            self.fail(End::TooLarge, 1009, "too much at once");
            return;
        }
        self.pipe.push(bytes);
    }

    /// Whether more bytes are welcome. While not, the caller leaves them in the socket.
    pub fn wants_read(&self) -> bool {
        !self.is_closed() && self.pipe.waiting() < INBOUND_WANTED
    }

    /// The next event; to be called until it gives `None`. Bytes are parsed only as far as one event needs, so a
    /// changed [`Ws::set_max_message`] holds for what follows the event.
    pub fn poll_event(&mut self, now: Instant) -> Option<Event> {
        loop {
            if let State::Ended(end) = self.state {
                self.state = State::Closed;
                self.pipe.inbound = Vec::new();
                return Some(match end {
                    End::Closed { code } => Event::Closed { code },
                    End::Invalid => Event::Invalid,
                    End::TooLarge => Event::TooLarge,
                });
            }
            if self.state == State::Closed {
                return None;
            }
            match self.context.read(&mut self.pipe) {
                // RFC 6455 §1.4: what comes after our close frame is discarded.
                Ok(Message::Text(_) | Message::Binary(_) | Message::Pong(_) | Message::Ping(_))
                    if self.state != State::Open => {}
                Ok(Message::Text(text)) => return Some(Event::Text(text)),
                Ok(Message::Binary(_)) => return Some(Event::Binary),
                Ok(Message::Pong(_)) => return Some(Event::Pong),
                Ok(Message::Ping(payload)) => {
                    self.drop_automatic_pong();
                    self.owed_pong = Some(payload);
                }
                Ok(Message::Close(frame)) => {
                    // Writes the reply if one is due; the error says that both sides are done.
                    let _ = self.context.flush(&mut self.pipe);
                    // 1005: a close frame without a code (RFC 6455 §7.1.5).
                    let code = Some(frame.map_or(1005, |frame| frame.code.into()));
                    self.state = State::Ended(End::Closed { code });
                }
                Ok(Message::Frame(_)) => {}
                Err(WsError::Io(error)) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.answer_ping(now);
                    return None;
                }
                Err(WsError::Capacity(_)) => self.fail(End::TooLarge, 1009, "message too large"),
                Err(WsError::Utf8(_)) => self.fail(End::Invalid, 1007, "not UTF-8"),
                Err(WsError::ConnectionClosed | WsError::AlreadyClosed) => {
                    self.state = State::Ended(End::Closed { code: None });
                }
                Err(_) => self.fail(End::Invalid, 1002, "protocol error"),
            }
        }
    }

    /// Largest incoming message in bytes, from the next frame on.
    pub fn set_max_message(&mut self, bytes: usize) {
        self.context.set_config(|config| {
            config.max_message_size = Some(bytes);
            config.max_frame_size = Some(bytes);
        });
    }

    /// Queues a text message; after the close it is dropped.
    pub fn send(&mut self, text: Utf8Bytes) -> Result<(), QueueFull> {
        if self.state != State::Open {
            return Ok(());
        }
        if self.pipe.outbound.len() + text.len() > self.limits.outgoing {
            return Err(QueueFull);
        }
        // The pipe takes everything, so nothing but a closed state could fail.
        let _ = self.context.write(&mut self.pipe, Message::Text(text));
        Ok(())
    }

    /// Starts the closing handshake. `reason` is cut to what a close frame holds (123 bytes). The second close, and
    /// one after the client's, does nothing.
    pub fn close(&mut self, now: Instant, code: u16, reason: &str) {
        if self.state == State::Open {
            self.queue_close(code, reason);
            self.state = State::Closing { deadline: now + self.limits.close_time };
        }
    }

    /// Moves the bytes to write to the end of `out`. To be called when what was taken before has been written, as
    /// the bound of the queue is checked against what is still here.
    pub fn take_output(&mut self, out: &mut Vec<u8>) {
        if out.is_empty() {
            std::mem::swap(out, &mut self.pipe.outbound);
        } else {
            out.append(&mut self.pipe.outbound);
        }
    }

    pub fn has_output(&self) -> bool {
        !self.pipe.outbound.is_empty()
    }

    /// Bytes that wait to be taken.
    pub fn output_len(&self) -> usize {
        self.pipe.outbound.len()
    }

    /// Poll for events and output afterwards.
    pub fn handle_timeout(&mut self, now: Instant) {
        match self.state {
            State::Open => {
                if now >= self.last_heard + self.limits.silence {
                    self.state = State::Ended(End::Closed { code: None });
                    return;
                }
                if now >= self.next_ping {
                    self.next_ping = now + self.limits.ping_interval;
                    if self.pipe.outbound.len() < self.limits.outgoing {
                        let _ = self.context.write(&mut self.pipe, Message::Ping(tungstenite::Bytes::new()));
                    }
                }
                self.answer_ping(now);
            }
            State::Closing { deadline } if now >= deadline => self.state = State::Ended(End::Closed { code: None }),
            State::Closing { .. } | State::Ended(_) | State::Closed => {}
        }
    }

    /// When to call [`Ws::handle_timeout`]; `None` when closed.
    pub fn poll_timeout(&self) -> Option<Instant> {
        match self.state {
            State::Open => {
                let kept = self.next_ping.min(self.last_heard + self.limits.silence);
                Some(self.next_pong.map_or(kept, |pong| kept.min(pong)))
            }
            State::Closing { deadline } => Some(deadline),
            State::Ended(_) | State::Closed => None,
        }
    }

    /// The closing handshake is done or has failed: the caller drops the connection once the output is written.
    pub fn is_closed(&self) -> bool {
        matches!(self.state, State::Ended(_) | State::Closed)
    }

    fn fail(&mut self, end: End, code: u16, reason: &str) {
        if self.state == State::Open {
            self.queue_close(code, reason);
        }
        self.state = State::Ended(end);
    }

    fn queue_close(&mut self, code: u16, reason: &str) {
        let end = (0..=reason.len().min(123)).rev().find(|end| reason.is_char_boundary(*end)).unwrap_or(0);
        let reason = &reason[..end];
        let frame = CloseFrame { code: code.into(), reason: reason.into() };
        let _ = self.context.close(&mut self.pipe, Some(frame));
    }

    /// tungstenite answers each ping with its next operation. This makes the answer go nowhere, so that only the
    /// latest ping is answered, and not more often than [`PONGS_PER_SECOND`].
    fn drop_automatic_pong(&mut self) {
        let length = self.pipe.outbound.len();
        let _ = self.context.flush(&mut self.pipe);
        self.pipe.outbound.truncate(length);
    }

    fn answer_ping(&mut self, now: Instant) {
        self.next_pong = None;
        if self.owed_pong.is_none() || self.state != State::Open {
            return;
        }
        if self.pipe.outbound.len() >= self.limits.outgoing || !self.pongs.take(now) {
            self.next_pong = Some(now + Duration::from_secs(1) / PONGS_PER_SECOND);
            return;
        }
        if let Some(payload) = self.owed_pong.take() {
            let _ = self.context.write(&mut self.pipe, Message::Pong(payload));
        }
    }
}

/// The two directions in memory.
#[derive(Debug, Default)]
struct Pipe {
    inbound: Vec<u8>,
    /// Bytes of `inbound` that were read already.
    read: usize,
    outbound: Vec<u8>,
}

impl Pipe {
    fn push(&mut self, bytes: &[u8]) {
        self.inbound.drain(..self.read);
        self.read = 0;
        self.inbound.extend_from_slice(bytes);
    }

    fn waiting(&self) -> usize {
        self.inbound.len() - self.read
    }
}

impl Read for Pipe {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let mut waiting = &self.inbound[self.read..];
        if waiting.is_empty() {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let read = waiting.read(into)?;
        self.read += read;
        if self.waiting() == 0 {
            // An idle connection holds no buffer.
            self.inbound = Vec::new();
            self.read = 0;
        }
        Ok(read)
    }
}

impl Write for Pipe {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.outbound.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// What an opening handshake asked for.
#[derive(Clone, PartialEq, Eq)]
pub struct Accept {
    /// From the subprotocol `bearer.<jwt>`; a secret, not verified.
    pub token: Option<String>,
    /// The client offered [`PROTOCOL`], and it is selected.
    pub has_protocol: bool,
    key: String,
}

impl std::fmt::Debug for Accept {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let token = self.token.as_ref().map(|_| "…");
        f.debug_struct("Accept").field("token", &token).field("has_protocol", &self.has_protocol).finish()
    }
}

/// Why a request does not open a WebSocket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HandshakeError {
    /// Not a `GET` of HTTP/1.1 without content.
    Request,
    /// `Upgrade: websocket` or `Connection: Upgrade` is missing.
    NoUpgrade,
    /// Not version 13.
    Version,
    /// `Sec-WebSocket-Key` is not 16 bytes in base64, once.
    Key,
}

impl HandshakeError {
    /// The answer to give (RFC 6455 §4.2.1, §4.4).
    pub fn response(self) -> Response {
        let (status, detail) = match self {
            HandshakeError::Request => (400, "A WebSocket opens with a GET of HTTP/1.1 without content."),
            HandshakeError::NoUpgrade => (426, "This resource is a WebSocket."),
            HandshakeError::Version => (426, "The WebSocket version is 13."),
            HandshakeError::Key => (400, "Sec-WebSocket-Key is 16 bytes in base64."),
        };
        let response = Response::problem(status, "bad_handshake", "Not a WebSocket handshake", detail);
        if status == 426 {
            return response.header("Upgrade", "websocket").header("Sec-WebSocket-Version", "13");
        }
        response
    }
}

/// Checks an opening handshake (RFC 6455 §4.2.1). Whether the origin and the token may enter is for the caller.
pub fn accept(request: &Request) -> Result<Accept, HandshakeError> {
    let headers = &request.headers;
    if !headers.list_has("upgrade", "websocket") || !headers.list_has("connection", "upgrade") {
        return Err(HandshakeError::NoUpgrade);
    }
    if request.method != Method::Get || request.version_minor < 1 || !request.body.is_empty() {
        return Err(HandshakeError::Request);
    }
    if sole(headers.get_all("sec-websocket-version")) != Some("13") {
        return Err(HandshakeError::Version);
    }
    let key = sole(headers.get_all("sec-websocket-key")).filter(|key| is_16_bytes(key)).ok_or(HandshakeError::Key)?;
    let mut offered = headers.list("sec-websocket-protocol");
    let token = offered.find_map(|protocol| protocol.strip_prefix("bearer.")).filter(|token| !token.is_empty());
    Ok(Accept {
        token: token.map(str::to_owned),
        has_protocol: headers.list("sec-websocket-protocol").any(|protocol| protocol == PROTOCOL),
        key: tungstenite::handshake::derive_accept_key(key.as_bytes()),
    })
}

impl Accept {
    /// The bytes of the 101 answer. Never has the token in it.
    pub fn response(&self, request_id: &str) -> Vec<u8> {
        let protocol =
            if self.has_protocol { format!("Sec-WebSocket-Protocol: {PROTOCOL}\r\n") } else { String::new() };
        format!(
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Accept: {}\r\n{protocol}X-Request-Id: {request_id}\r\n\r\n",
            self.key
        )
        .into_bytes()
    }
}

fn sole<'a>(mut values: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let first = values.next()?;
    values.next().is_none().then_some(first)
}

/// Whether the text is base64 of 16 bytes: 22 digits, two of padding.
fn is_16_bytes(text: &str) -> bool {
    let is_digit = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'+' || byte == b'/';
    text.len() == 24 && text.strip_suffix("==").is_some_and(|digits| digits.bytes().all(is_digit))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::Headers;
    use tungstenite::protocol::frame::Frame;
    use tungstenite::protocol::frame::coding::{CloseCode, Data, OpCode};

    /// The counterpart: tungstenite's client role over the same kind of pipe.
    struct Client {
        context: WebSocketContext,
        pipe: Pipe,
    }

    impl Client {
        fn new() -> Self {
            let config = WebSocketConfig::default().write_buffer_size(0);
            Client { context: WebSocketContext::new(Role::Client, Some(config)), pipe: Pipe::default() }
        }

        /// Bytes of a message.
        fn bytes(&mut self, message: Message) -> Vec<u8> {
            self.context.write(&mut self.pipe, message).expect("writable");
            std::mem::take(&mut self.pipe.outbound)
        }

        fn text(&mut self, text: &str) -> Vec<u8> {
            self.bytes(Message::text(text))
        }

        fn fragment(&mut self, text: &str, opcode: Data, is_final: bool) -> Vec<u8> {
            self.bytes(Message::Frame(Frame::message(text.to_owned(), OpCode::Data(opcode), is_final)))
        }

        /// What the server has sent, read.
        fn receive(&mut self, ws: &mut Ws) -> Vec<Message> {
            let mut output = Vec::new();
            ws.take_output(&mut output);
            self.pipe.push(&output);
            std::iter::from_fn(|| self.context.read(&mut self.pipe).ok()).collect()
        }

        fn close_code(&mut self, ws: &mut Ws) -> Option<u16> {
            match self.receive(ws).as_slice() {
                [Message::Close(Some(frame))] => Some(frame.code.into()),
                other => panic!("no close: {other:?}"),
            }
        }
    }

    fn events(ws: &mut Ws, now: Instant) -> Vec<Event> {
        std::iter::from_fn(|| ws.poll_event(now)).collect()
    }

    fn deliver(ws: &mut Ws, now: Instant, bytes: &[u8]) -> Vec<Event> {
        ws.handle_bytes(now, bytes);
        events(ws, now)
    }

    fn start() -> (Instant, Ws, Client) {
        let now = Instant::now();
        (now, Ws::new(now, Limits::default()), Client::new())
    }

    #[test]
    fn whole_and_byte_by_byte_are_the_same() {
        let (now, _, mut client) = start();
        let mut bytes = client.text("one");
        bytes.extend(client.fragment("tw", Data::Text, false));
        bytes.extend(client.bytes(Message::Ping("p".into())));
        bytes.extend(client.fragment("", Data::Continue, false));
        bytes.extend(client.bytes(Message::Pong("q".into())));
        bytes.extend(client.fragment("o", Data::Continue, true));
        bytes.extend(client.bytes(Message::binary(vec![1, 2, 3])));
        bytes.extend(client.text(&"x".repeat(16 * 1024)));
        let expected = [
            Event::Text("one".into()),
            Event::Pong,
            Event::Text("two".into()),
            Event::Binary,
            Event::Text("x".repeat(16 * 1024).into()),
        ];
        for step in [1, 2, 7, 1_000, bytes.len()] {
            let mut ws = Ws::new(now, Limits::default());
            let mut found = Vec::new();
            for part in bytes.chunks(step) {
                found.extend(deliver(&mut ws, now, part));
            }
            assert_eq!(found, expected, "in steps of {step}");
            assert_eq!(Client::new().receive(&mut ws), [Message::Pong("p".into())]);
        }
    }

    #[test]
    fn moves_to_another_thread_in_mid_frame() {
        let (now, mut ws, mut client) = start();
        let mut bytes = client.text("first");
        bytes.extend(client.text("second"));
        let (before, after) = bytes.split_at(bytes.len() - 3);
        ws.handle_bytes(now, before);
        assert_eq!(ws.poll_event(now), Some(Event::Text("first".into())));
        ws.send("reply".into()).expect("room");
        let after = after.to_vec();
        let (mut ws, found) = std::thread::spawn(move || {
            assert_eq!(ws.poll_event(now), None);
            ws.handle_bytes(now, &after);
            let found = events(&mut ws, now);
            (ws, found)
        })
        .join()
        .expect("no panic");
        assert_eq!(found, [Event::Text("second".into())]);
        assert_eq!(client.receive(&mut ws), [Message::text("reply")]);
    }

    #[test]
    fn violations_are_answered_and_end_it() {
        let mask = [0x80, 0, 0, 0, 0];
        let rows: &[(&str, &[u8], u16, Event)] = &[
            ("unmasked", &[0x81, 0x01, b'a'], 1002, Event::Invalid),
            ("reserved bit", &[0xc1, 0x80, 0, 0, 0, 0], 1002, Event::Invalid),
            ("reserved opcode", &[0x83, 0x80, 0, 0, 0, 0], 1002, Event::Invalid),
            ("continuation of nothing", &[0x80, 0x80, 0, 0, 0, 0], 1002, Event::Invalid),
            ("fragmented ping", &[0x09, 0x80, 0, 0, 0, 0], 1002, Event::Invalid),
            ("not UTF-8", &[0x81, 0x81, 0, 0, 0, 0, 0xff], 1007, Event::Invalid),
            ("close with half a code", &[0x88, 0x81, 0, 0, 0, 0, 3], 1002, Event::Invalid),
            ("frame too large", &[0x81, 0xfe, 0x40, 0x01, 0, 0, 0, 0], 1009, Event::TooLarge),
            (
                "frame of 2^63",
                &[0x81, 0xff, 0x7f, 255, 255, 255, 255, 255, 255, 255, 0, 0, 0, 0],
                1009,
                Event::TooLarge,
            ),
        ];
        for (name, bytes, code, event) in rows {
            let (now, mut ws, mut client) = start();
            assert_eq!(deliver(&mut ws, now, bytes).as_slice(), std::slice::from_ref(event), "{name}");
            assert!(ws.is_closed() && !ws.wants_read() && ws.poll_timeout().is_none(), "{name}");
            assert_eq!(client.close_code(&mut ws), Some(*code), "{name}");
            let ping = [&[0x89], &mask[..]].concat();
            assert_eq!(deliver(&mut ws, now, &ping), [], "{name}: done");
            assert_eq!(ws.send("late".into()), Ok(()));
            assert!(!ws.has_output(), "{name}");
        }
    }

    #[test]
    fn the_size_of_a_fragmented_message_counts_as_a_whole() {
        let (now, mut ws, mut client) = start();
        let half = "x".repeat(8 * 1024 + 1);
        assert_eq!(deliver(&mut ws, now, &client.fragment(&half, Data::Text, false)), []);
        assert_eq!(deliver(&mut ws, now, &client.fragment(&half, Data::Continue, true)), [Event::TooLarge]);
        assert_eq!(client.close_code(&mut ws), Some(1009));
    }

    #[test]
    fn a_larger_limit_holds_for_what_is_already_here() {
        let (now, mut ws, mut client) = start();
        let large = "x".repeat(256 * 1024);
        let mut bytes = client.text("join");
        bytes.extend(client.text(&large));
        ws.handle_bytes(now, &bytes);
        assert_eq!(ws.poll_event(now), Some(Event::Text("join".into())));
        ws.set_max_message(256 * 1024);
        assert!(!ws.wants_read());
        assert_eq!(events(&mut ws, now), [Event::Text(large.into())]);
        assert!(ws.wants_read());
        let too_large = "x".repeat(256 * 1024 + 1);
        assert_eq!(deliver(&mut ws, now, &client.text(&too_large)), [Event::TooLarge]);
    }

    #[test]
    fn the_outgoing_queue_is_bounded() {
        let (_, mut ws, mut client) = start();
        let message: Utf8Bytes = "x".repeat(100 * 1024).into();
        assert_eq!(ws.send(message.clone()), Ok(()));
        assert_eq!(ws.send(message.clone()), Ok(()));
        assert_eq!(ws.send(message.clone()), Err(QueueFull));
        assert!(ws.output_len() <= 256 * 1024);
        assert_eq!(client.receive(&mut ws).len(), 2);
        assert_eq!(ws.send(message), Ok(()));
    }

    #[test]
    fn closing_by_the_server() {
        let (now, mut ws, mut client) = start();
        ws.close(now, 4001, &"ü".repeat(100));
        ws.close(now, 1000, "again");
        assert!(!ws.is_closed());
        match client.receive(&mut ws).as_slice() {
            [Message::Close(Some(frame))] => {
                assert_eq!(u16::from(frame.code), 4001);
                assert_eq!(frame.reason.len(), 122);
            }
            other => panic!("{other:?}"),
        }
        // The client's reply was queued as it read.
        let _ = client.context.flush(&mut client.pipe);
        let reply = std::mem::take(&mut client.pipe.outbound);
        assert_eq!(deliver(&mut ws, now, &reply), [Event::Closed { code: Some(4001) }]);
        assert!(ws.is_closed() && !ws.has_output());
    }

    #[test]
    fn messages_after_our_close_are_discarded_and_the_wait_is_bounded() {
        let (now, mut ws, mut client) = start();
        let text = client.text("late");
        ws.close(now, 1001, "");
        assert_eq!(deliver(&mut ws, now, &text), []);
        let deadline = ws.poll_timeout().expect("waiting");
        ws.handle_timeout(deadline - Duration::from_millis(1));
        assert!(!ws.is_closed());
        ws.handle_timeout(deadline);
        assert_eq!(events(&mut ws, deadline), [Event::Closed { code: None }]);
    }

    #[test]
    fn closing_by_the_client() {
        for code in [Some(1000), Some(3999), None] {
            let (now, mut ws, mut client) = start();
            let frame = code.map(|code: u16| CloseFrame { code: CloseCode::from(code), reason: "".into() });
            let bytes = client.bytes(Message::Close(frame.clone()));
            assert_eq!(deliver(&mut ws, now, &bytes), [Event::Closed { code: code.or(Some(1005)) }]);
            assert!(ws.is_closed());
            assert_eq!(client.receive(&mut ws), [Message::Close(frame)]);
        }
    }

    #[test]
    fn pings_and_silence() {
        let (begin, mut ws, mut client) = start();
        let second = Duration::from_secs(1);
        assert_eq!(ws.poll_timeout(), Some(begin + 20 * second));
        ws.handle_timeout(begin + 20 * second);
        assert_eq!(client.receive(&mut ws), [Message::Ping("".into())]);
        // tungstenite's client answers by itself.
        let _ = client.context.flush(&mut client.pipe);
        let pong = std::mem::take(&mut client.pipe.outbound);
        assert_eq!(deliver(&mut ws, begin + 21 * second, &pong), [Event::Pong]);
        for at in [40, 60] {
            assert_eq!(ws.poll_timeout(), Some(begin + at * second));
            ws.handle_timeout(begin + at * second);
        }
        assert_eq!(ws.poll_timeout(), Some(begin + 66 * second));
        ws.handle_timeout(begin + 65 * second);
        assert!(!ws.is_closed());
        ws.handle_timeout(begin + 66 * second);
        assert_eq!(events(&mut ws, begin + 66 * second), [Event::Closed { code: None }]);
        assert_eq!(events(&mut ws, begin + 66 * second), []);
    }

    #[test]
    fn a_flood_of_pings_is_answered_with_the_latest_ten_times_a_second() {
        let (begin, mut ws, mut client) = start();
        let mut sent = 0_u32;
        let mut answers = Vec::new();
        for ms in 0..2_000 {
            let now = begin + Duration::from_millis(ms);
            for _ in 0..5 {
                sent += 1;
                ws.handle_bytes(now, &client.bytes(Message::Ping(sent.to_be_bytes().to_vec().into())));
            }
            assert_eq!(events(&mut ws, now), []);
            answers.extend(client.receive(&mut ws));
        }
        assert!((20..=30).contains(&answers.len()), "{} answers", answers.len());
        assert_eq!(answers[0], Message::Pong(5_u32.to_be_bytes().to_vec().into()));
        // The last one is answered even if nothing more comes.
        let wake = ws.poll_timeout().expect("open");
        assert!(wake <= begin + Duration::from_millis(2_100));
        ws.handle_timeout(wake);
        assert_eq!(client.receive(&mut ws), [Message::Pong(sent.to_be_bytes().to_vec().into())]);
    }

    #[test]
    fn random_bytes_never_panic() {
        for seed in 0..300 {
            let mut random = fastrand::Rng::with_seed(seed);
            let (now, mut ws, mut client) = start();
            let mut bytes = client.text("a message to start with");
            for _ in 0..random.usize(..200) {
                bytes.push(random.u8(..));
            }
            for _ in 0..random.usize(..4) {
                let at = random.usize(..bytes.len());
                bytes[at] ^= 1 << random.u8(..8);
            }
            for part in bytes.chunks(random.usize(1..50)) {
                deliver(&mut ws, now, part);
            }
        }
    }

    fn request(fields: &[(&str, &str)]) -> Request {
        let mut headers = Headers::default();
        for (name, value) in fields {
            headers.push(name, value.as_bytes());
        }
        Request {
            method: Method::Get,
            target: "/video-calls/ws".into(),
            path: "/video-calls/ws".into(),
            query: None,
            headers,
            body: Vec::new(),
            version_minor: 1,
        }
    }

    const GOOD: [(&str, &str); 4] = [
        ("Upgrade", "websocket"),
        ("Connection", "keep-alive, Upgrade"),
        ("Sec-WebSocket-Version", "13"),
        ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="),
    ];

    #[test]
    fn handshake_subprotocols() {
        let rows: &[(&[&str], bool, Option<&str>)] = &[
            (&[], false, None),
            (&["webrtc-engine.v1"], true, None),
            (&["webrtc-engine.v1, bearer.a.b-c_d.e"], true, Some("a.b-c_d.e")),
            (&["bearer.a.b.c", "webrtc-engine.v1"], true, Some("a.b.c")),
            (&["bearer.a.b.c"], false, Some("a.b.c")),
            (&["bearer."], false, None),
            (&["chat, WEBRTC-ENGINE.V1"], false, None),
        ];
        for (offers, has_protocol, token) in rows {
            let offered = offers.iter().map(|offer| ("Sec-WebSocket-Protocol", *offer));
            let fields: Vec<_> = GOOD.into_iter().chain(offered).collect();
            let accept = accept(&request(&fields)).expect("valid");
            assert_eq!((accept.has_protocol, accept.token.as_deref()), (*has_protocol, *token), "{offers:?}");
            let response = String::from_utf8(accept.response("req-1")).expect("text");
            assert!(response.starts_with("HTTP/1.1 101 ") && response.ends_with("X-Request-Id: req-1\r\n\r\n"));
            assert!(response.contains("Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n"), "{response}");
            assert_eq!(response.contains("Sec-WebSocket-Protocol: webrtc-engine.v1\r\n"), *has_protocol);
            assert!(!response.contains("bearer"));
            assert!(!format!("{accept:?}").contains("a.b"));
        }
    }

    #[test]
    fn handshake_refusals() {
        let with = |name: &str, value: &'static str| {
            let fields = GOOD.map(|(field, good)| if field == name { (field, value) } else { (field, good) });
            request(&fields)
        };
        let rows = [
            (with("Upgrade", "h2c"), HandshakeError::NoUpgrade, 426),
            (with("Connection", "keep-alive"), HandshakeError::NoUpgrade, 426),
            (request(&[]), HandshakeError::NoUpgrade, 426),
            (with("Sec-WebSocket-Version", "8"), HandshakeError::Version, 426),
            (with("Sec-WebSocket-Version", "13, 8"), HandshakeError::Version, 426),
            (request(&[&GOOD[..], &[GOOD[2]]].concat()), HandshakeError::Version, 426),
            (request(&GOOD[..3]), HandshakeError::Key, 400),
            (request(&[&GOOD[..], &[GOOD[3]]].concat()), HandshakeError::Key, 400),
            (with("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ="), HandshakeError::Key, 400),
            (with("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQAA"), HandshakeError::Key, 400),
            (with("Sec-WebSocket-Key", "dGhl!HNhbXBsZSBub25jZQ=="), HandshakeError::Key, 400),
            (Request { method: Method::Post, ..request(&GOOD) }, HandshakeError::Request, 400),
            (Request { version_minor: 0, ..request(&GOOD) }, HandshakeError::Request, 400),
            (Request { body: vec![1], ..request(&GOOD) }, HandshakeError::Request, 400),
        ];
        for (request, error, status) in rows {
            assert_eq!(accept(&request), Err(error));
            assert_eq!(error.response().status, status);
        }
    }
}
