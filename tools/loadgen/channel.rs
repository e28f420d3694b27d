//! A participant's way to the server beside its media: the WebSocket of signaling, or a session of WHIP or WHEP.

use std::io;
use std::net::{IpAddr, TcpStream};
use std::os::fd::{AsRawFd, RawFd};

use serde_json::{Value, json};
use tungstenite::{Message, WebSocket};

use crate::whip::Session;

/// What the participants of a run use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Via {
    Signaling,
    /// Publishers by WHIP, subscribers by WHEP.
    Whip,
}

/// An open way. Nothing of it blocks but the end of a session.
#[derive(Debug)]
pub enum Channel {
    Signaling(Box<WebSocket<TcpStream>>),
    Whip(Session<TcpStream>),
}

#[derive(Debug)]
pub enum Incoming {
    Message(Value),
    /// To the offer of a session.
    Answer(String),
    /// Text that is no message.
    Garbage(String),
}

impl Channel {
    /// Of this end, and of the descriptor that says when there is something to poll. A session needs neither later.
    fn stream(&self) -> io::Result<&TcpStream> {
        match self {
            Channel::Signaling(socket) => Ok(socket.get_ref()),
            Channel::Whip(session) => session.stream().ok_or_else(|| io::ErrorKind::NotConnected.into()),
        }
    }

    /// # Errors
    ///
    /// When the connection is gone.
    pub fn local_ip(&self) -> io::Result<IpAddr> {
        Ok(self.stream()?.local_addr()?.ip())
    }

    /// # Errors
    ///
    /// When the connection is gone.
    pub fn fd(&self) -> io::Result<RawFd> {
        Ok(self.stream()?.as_raw_fd())
    }

    /// Whether the server says which line carries what.
    pub fn has_labels(&self) -> bool {
        matches!(self, Channel::Signaling(_))
    }

    /// What has come; ask until `None`.
    ///
    /// # Errors
    ///
    /// Why nothing will come any more.
    pub fn poll(&mut self) -> Result<Option<Incoming>, String> {
        let socket = match self {
            Channel::Signaling(socket) => socket,
            Channel::Whip(session) => return Ok(session.poll_answer()?.map(Incoming::Answer)),
        };
        loop {
            match socket.read() {
                Ok(Message::Text(text)) => {
                    let message = serde_json::from_str(&text);
                    return Ok(Some(message.map_or_else(|e| Incoming::Garbage(e.to_string()), Incoming::Message)));
                }
                Ok(Message::Close(frame)) => {
                    let why = frame.map_or("no code".into(), |f| format!("{} {}", f.code, f.reason));
                    return Err(format!("the server closed: {why}"));
                }
                Ok(_) => {}
                Err(tungstenite::Error::Io(e)) if e.kind() == io::ErrorKind::WouldBlock => {
                    // Pongs, and what the socket did not take before.
                    let _ = socket.flush();
                    return Ok(None);
                }
                Err(e) => return Err(format!("WebSocket: {e}")),
            }
        }
    }

    /// A message of signaling; sessions have none. What the socket does not take at once is kept, and goes out when it can be
    /// written again.
    ///
    /// # Errors
    ///
    /// When the connection is gone.
    pub fn send(&mut self, message: &Value) -> Result<(), String> {
        let Channel::Signaling(socket) = self else { return Ok(()) };
        match socket.send(Message::text(message.to_string())) {
            Err(tungstenite::Error::Io(e)) if e.kind() == io::ErrorKind::WouldBlock => Ok(()),
            Err(e) => Err(format!("WebSocket: {e}")),
            Ok(()) => Ok(()),
        }
    }

    /// Says goodbye. [`Channel::handle_goodbye`] has to follow until it is over.
    ///
    /// # Errors
    ///
    /// When that was of no use.
    pub fn leave(&mut self, room_id: &str) -> Result<(), String> {
        match self {
            Channel::Signaling(_) => self.send(&json!({ "type": "leave", "roomId": room_id })),
            Channel::Whip(session) => session.end().map_err(|e| e.to_string()),
        }
    }

    /// Reads what still comes; a socket that is closed with unread data resets the connection, and the server may never
    /// see the goodbye. True when the server has closed.
    pub fn handle_goodbye(&mut self) -> bool {
        let Channel::Signaling(socket) = self else { return true };
        loop {
            match socket.read() {
                Ok(_) => {}
                Err(tungstenite::Error::Io(e)) if e.kind() == io::ErrorKind::WouldBlock => {
                    let _ = socket.flush();
                    return false;
                }
                Err(_) => return true,
            }
        }
    }
}
