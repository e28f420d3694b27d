//! A signaling client: frames by tungstenite, or by hand where every byte counts.

use std::io::{ErrorKind, Write};
use std::os::fd::{AsRawFd, RawFd};
use std::time::Instant;

use serde_json::{Value, json};
use tungstenite::protocol::{Role as WsRole, WebSocket};
use tungstenite::{Error, Message};
use webrtc_engine::auth::Role;

use super::{DEADLINE, Http, Response, Server, Stream, token};

/// An open WebSocket.
pub struct Ws {
    socket: WebSocket<Stream>,
}

impl Ws {
    /// As `user`, who may enter every room.
    pub fn connect(server: &Server, user: &str) -> Self {
        Ws::over(Stream::connect(server.address()), user)
    }

    pub fn over(stream: Stream, user: &str) -> Self {
        Ws::with_token(stream, &token(user, Role::Participant))
    }

    pub fn with_token(stream: Stream, token: &str) -> Self {
        let authorization = format!("Authorization: Bearer {token}");
        Ws::upgrade(stream, &[&authorization], "").unwrap_or_else(|response| panic!("{response:?}"))
    }

    /// With these header lines and that query. A refusal is given back.
    pub fn upgrade(stream: Stream, headers: &[&str], query: &str) -> Result<Self, Response> {
        Ws::upgrade_with(stream, headers, query).map(|(ws, _)| ws)
    }

    pub fn upgrade_with(stream: Stream, headers: &[&str], query: &str) -> Result<(Self, Response), Response> {
        let mut http = Http::over(stream);
        let mut all = vec![
            "Upgrade: websocket",
            "Connection: Upgrade",
            "Sec-WebSocket-Version: 13",
            "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
        ];
        all.extend(headers);
        let response = http.get(&format!("/video-calls/ws{query}"), &all);
        if response.status != 101 {
            return Err(response);
        }
        assert_eq!(response.header("sec-websocket-accept"), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
        Ok((Ws::after(http), response))
    }

    /// On a connection whose upgrade has been answered.
    pub fn after(http: Http) -> Self {
        let (stream, rest) = http.into_parts();
        Ws { socket: WebSocket::from_partially_read(stream, rest, WsRole::Client, None) }
    }

    /// Connected and joined, the others' presence not yet read.
    pub fn join(server: &Server, user: &str, room: &str) -> Self {
        let mut ws = Ws::connect(server, user);
        ws.enter(room);
        ws
    }

    /// Joins; gives the data of `joined`.
    pub fn enter(&mut self, room: &str) -> Value {
        self.send(json!({"type": "join", "roomId": room}));
        self.expect("joined")["data"].take()
    }

    pub fn send(&mut self, message: Value) {
        self.socket.send(Message::text(message.to_string())).expect("the server reads");
    }

    /// Bytes on the wire as they are.
    pub fn send_raw(&mut self, bytes: &[u8]) {
        self.socket.get_mut().write_all(bytes).expect("the server reads");
        self.socket.get_mut().flush().unwrap();
    }

    pub fn send_message(&mut self, message: Message) {
        self.socket.send(message).expect("the server reads");
    }

    /// The next text, parsed.
    pub fn receive(&mut self) -> Value {
        let until = Instant::now() + DEADLINE;
        loop {
            // The server's pings would keep us waiting for ever.
            assert!(Instant::now() < until, "no message");
            match self.socket.read() {
                Ok(Message::Text(text)) => return serde_json::from_str(&text).expect("messages are JSON"),
                Ok(Message::Close(frame)) => panic!("the server closed: {frame:?}"),
                Ok(_) => {}
                Err(e) => panic!("no message: {e}"),
            }
        }
    }

    /// The next message of that type; those of other types before it are skipped.
    pub fn expect(&mut self, kind: &str) -> Value {
        loop {
            let message = self.receive();
            if message["type"] == kind {
                return message;
            }
            assert!(message["type"] != "error", "waiting for {kind}: {message}");
        }
    }

    /// The next message is an error with that code.
    pub fn expect_error(&mut self, code: &str) -> Value {
        let message = self.receive();
        assert_eq!((&message["type"], &message["data"]["code"]), (&json!("error"), &json!(code)), "{message}");
        message
    }

    /// The next message is the answer to a ping: all that was sent before has been understood.
    pub fn ping(&mut self) {
        self.send(json!({"type": "ping", "id": "sync"}));
        let answer = self.receive();
        assert_eq!((&answer["type"], &answer["id"]), (&json!("pong"), &json!("sync")), "{answer}");
    }

    /// As [`Ws::ping`], whatever comes before.
    pub fn ping_among_others(&mut self) {
        self.send(json!({"type": "ping", "id": "sync"}));
        self.expect("pong");
    }

    /// The next frame of any kind.
    pub fn frame(&mut self) -> Message {
        self.socket.read().expect("a frame")
    }

    /// The code with which the server closes, whatever it says before; the connection ends after it.
    pub fn close_code(&mut self) -> u16 {
        let until = Instant::now() + DEADLINE;
        let code = loop {
            assert!(Instant::now() < until, "no close frame");
            match self.socket.read() {
                Ok(Message::Close(frame)) => break frame.map_or(1005, |frame| frame.code.into()),
                Ok(_) => {}
                Err(e) => panic!("no close frame: {e}"),
            }
        };
        loop {
            match self.socket.read() {
                Err(Error::ConnectionClosed) => return code,
                Ok(_) => {}
                Err(e) => panic!("no end after the close frame: {e}"),
            }
        }
    }

    /// Whether the server ends the connection.
    pub fn is_ended(&mut self) -> bool {
        self.socket.get_mut().is_closed_by_server()
    }

    pub fn stream(&mut self) -> &mut Stream {
        self.socket.get_mut()
    }

    /// From here on nothing waits: for [`Ws::poll`] and [`Ws::queue`].
    pub fn polled(self) -> Self {
        self.socket.get_ref().socket().set_nonblocking(true).unwrap();
        self
    }

    /// The next text, if it is there.
    pub fn poll(&mut self) -> Option<String> {
        loop {
            match self.socket.read() {
                Ok(Message::Text(text)) => return Some(text.as_str().to_owned()),
                Ok(Message::Close(frame)) => panic!("the server closed: {frame:?}"),
                Ok(_) => {}
                Err(Error::Io(e)) if e.kind() == ErrorKind::WouldBlock => return None,
                Err(e) => panic!("no message: {e}"),
            }
        }
    }

    /// Sends it, at once or when there is room.
    pub fn queue(&mut self, text: String) {
        match self.socket.send(Message::text(text)) {
            Err(Error::Io(e)) if e.kind() == ErrorKind::WouldBlock => {}
            sent => sent.expect("the server reads"),
        }
    }

    pub fn fd(&self) -> RawFd {
        self.socket.get_ref().socket().as_raw_fd()
    }
}

/// A frame of a client, masked.
pub fn frame(is_final: bool, opcode: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![u8::from(is_final) << 7 | opcode];
    match payload.len() {
        n @ 0..=125 => bytes.push(0x80 | n as u8),
        n @ 126..=0xffff => {
            bytes.push(0x80 | 126);
            bytes.extend((n as u16).to_be_bytes());
        }
        n => {
            bytes.push(0x80 | 127);
            bytes.extend((n as u64).to_be_bytes());
        }
    }
    let mask = [0x37, 0xfa, 0x21, 0x3d];
    bytes.extend(mask);
    bytes.extend(payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    bytes
}

/// A text message as one frame.
pub fn text(message: Value) -> Vec<u8> {
    frame(true, 1, message.to_string().as_bytes())
}
