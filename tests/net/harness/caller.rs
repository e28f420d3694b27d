//! A participant with audio: str0m with another crypto library than the server's, over any number of UDP sockets and TCP
//! connections of its own.

use std::collections::BTreeMap;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use openssl::hash::MessageDigest;
use openssl::pkey::PKey;
use openssl::sign::Signer;
use serde_json::json;
use str0m::change::SdpAnswer;
use str0m::media::{Direction, Frequency, MediaKind, MediaTime, Mid};
use str0m::net::{Protocol, Receive, TcpType};
use str0m::{Candidate, Event, Input, Output, Rtc, RtcConfig};

use super::{DEADLINE, Server, Ws};

/// A way for packets, with a local address of its own.
pub enum Wire {
    Udp(UdpSocket),
    Tcp(Framed),
}

impl Wire {
    pub fn udp(ip: &str) -> Wire {
        let socket = UdpSocket::bind((ip, 0)).expect("a socket");
        socket.set_nonblocking(true).unwrap();
        Wire::Udp(socket)
    }

    pub fn tcp(server: &Server) -> Wire {
        Wire::Tcp(Framed::connect(server.address()))
    }

    fn protocol(&self) -> Protocol {
        match self {
            Wire::Udp(_) => Protocol::Udp,
            Wire::Tcp(_) => Protocol::Tcp,
        }
    }

    pub fn local(&self) -> SocketAddr {
        match self {
            Wire::Udp(socket) => socket.local_addr().unwrap(),
            Wire::Tcp(framed) => framed.local,
        }
    }

    fn candidate(&self) -> Candidate {
        match self {
            Wire::Udp(_) => Candidate::host(self.local(), Protocol::Udp).unwrap(),
            Wire::Tcp(_) => Candidate::builder().tcp().host(self.local()).tcptype(TcpType::Active).build().unwrap(),
        }
    }

    fn fd(&self) -> i32 {
        match self {
            Wire::Udp(socket) => socket.as_raw_fd(),
            Wire::Tcp(framed) => framed.socket.as_raw_fd(),
        }
    }
}

/// A TCP connection to the server with framed packets.
pub struct Framed {
    socket: TcpStream,
    local: SocketAddr,
    remote: SocketAddr,
    buffer: Vec<u8>,
    pub is_closed: bool,
}

impl Framed {
    pub fn connect(address: SocketAddr) -> Framed {
        Framed::over(TcpStream::connect_timeout(&address, DEADLINE).expect("the server accepts"))
    }

    pub fn over(socket: TcpStream) -> Framed {
        socket.set_nodelay(true).unwrap();
        socket.set_read_timeout(Some(DEADLINE)).unwrap();
        socket.set_write_timeout(Some(DEADLINE)).unwrap();
        let (local, remote) = (socket.local_addr().unwrap(), socket.peer_addr().unwrap());
        Framed { socket, local, remote, buffer: Vec::new(), is_closed: false }
    }

    pub fn send(&mut self, packet: &[u8]) {
        self.send_raw(&framed(packet));
    }

    /// What a server that has closed does not want is lost.
    pub fn send_raw(&mut self, bytes: &[u8]) {
        if self.socket.write_all(bytes).is_err() {
            self.is_closed = true;
        }
    }

    /// The next packet, waited for; `None` when the server closes instead.
    pub fn receive(&mut self) -> Option<Vec<u8>> {
        self.socket.set_nonblocking(false).unwrap();
        loop {
            if let Some(packet) = self.take() {
                return Some(packet);
            }
            if self.is_closed {
                return None;
            }
            if let Err(e) = self.fill() {
                panic!("neither a packet nor the end: {e}");
            }
        }
    }

    /// Whether the server closes without having sent a byte more.
    pub fn is_closed_in_silence(&mut self) -> bool {
        self.receive().is_none() && self.buffer.is_empty()
    }

    fn fill(&mut self) -> io::Result<()> {
        let mut bytes = [0; 4096];
        match self.socket.read(&mut bytes) {
            Ok(0) => self.is_closed = true,
            Ok(n) => self.buffer.extend_from_slice(&bytes[..n]),
            Err(e) if e.kind() == ErrorKind::ConnectionReset => self.is_closed = true,
            Err(e) => return Err(e),
        }
        Ok(())
    }

    fn take(&mut self) -> Option<Vec<u8>> {
        let length = usize::from(u16::from_be_bytes([*self.buffer.first()?, *self.buffer.get(1)?]));
        if self.buffer.len() < 2 + length {
            return None;
        }
        let packet = self.buffer[2..2 + length].to_vec();
        self.buffer.drain(..2 + length);
        Some(packet)
    }

    fn poll(&mut self) -> Option<Vec<u8>> {
        self.socket.set_nonblocking(true).unwrap();
        while !self.is_closed && self.take_is_short() {
            if self.fill().is_err() {
                break;
            }
        }
        self.socket.set_nonblocking(false).unwrap();
        self.take()
    }

    fn take_is_short(&self) -> bool {
        !matches!(self.buffer[..], [high, low, ref rest @ ..] if rest.len() >= usize::from(u16::from_be_bytes([high, low])))
    }
}

/// A packet behind its length.
pub fn framed(packet: &[u8]) -> Vec<u8> {
    [&(packet.len() as u16).to_be_bytes(), packet].concat()
}

/// What a check needs to be taken for genuine.
#[derive(Debug, Clone)]
pub struct Credentials {
    user: String,
    password: String,
}

impl Credentials {
    pub fn with_password(mut self, password: &str) -> Self {
        self.password = password.to_owned();
        self
    }

    pub fn for_nobody(mut self) -> Self {
        self.user = "nobody:here".to_owned();
        self
    }

    /// A binding request (RFC 8489, RFC 8445 §7.1.1), told from others by `number`.
    pub fn check(&self, number: u8, nominates: bool) -> Vec<u8> {
        let mut message = vec![0, 1, 0, 0, 0x21, 0x12, 0xa4, 0x42];
        message.extend([number; 12]);
        let mut add = |kind: u16, value: &[u8], after: usize| {
            message.extend(kind.to_be_bytes());
            message.extend((value.len() as u16).to_be_bytes());
            message.extend(value);
            message.resize(message.len().next_multiple_of(4), 0);
            let length = (message.len() - 20 + after) as u16;
            message[2..4].copy_from_slice(&length.to_be_bytes());
            message.clone()
        };
        add(0x0006, self.user.as_bytes(), 0);
        add(0x0024, &[0x6e, 0, 0, 1], 0);
        if nominates {
            add(0x0025, &[], 0);
        }
        // What is signed counts the signature itself.
        let signed = add(0x802a, &[0xff; 8], 24);
        let key = PKey::hmac(self.password.as_bytes()).expect("a key");
        let integrity = Signer::new(MessageDigest::sha1(), &key).unwrap().sign_oneshot_to_vec(&signed).unwrap();
        let covered = add(0x0008, &integrity, 8);
        add(0x8028, &(crc32(&covered) ^ 0x5354_554e).to_be_bytes(), 0)
    }
}

/// Whether a packet is the answer to the check with that number.
pub fn answers(packet: &[u8], number: u8) -> bool {
    packet.starts_with(&[1, 1]) && packet.get(8..20) == Some(&[number; 12])
}

fn crc32(data: &[u8]) -> u32 {
    let step = |crc: u32, _| if crc & 1 == 1 { crc >> 1 ^ 0xedb8_8320 } else { crc >> 1 };
    !data.iter().fold(!0, |crc, byte| (0..8).fold(crc ^ u32::from(*byte), step))
}

/// One audio line out and three in (`slots`), so that a single offer is all there is to negotiate.
pub struct Caller {
    pub wires: Vec<Wire>,
    pub ws: Ws,
    /// The server's answer.
    pub answer: String,
    pub credentials: Credentials,
    pub is_connected: bool,
    /// Frames by the byte that fills them.
    pub heard: BTreeMap<u8, usize>,
    /// SRTP packets by wire.
    pub media: Vec<usize>,
    /// What fills this one's frames, how long they are, and how often one is sent.
    pub voice: u8,
    pub octets: usize,
    pub every: Duration,
    /// Reads nothing.
    pub is_deaf: bool,
    rtc: Rtc,
    mid: Mid,
    sent: u64,
    next: Instant,
    wakes: Instant,
}

impl Caller {
    pub fn join(server: &Server, user: &str, room: &str, wires: Vec<Wire>) -> Caller {
        let mut ws = Ws::connect(server, user);
        ws.send(json!({"type": "join", "roomId": room, "data": {"receive": "slots"}}));
        ws.expect("joined");
        Caller::offer(ws, wires)
    }

    /// In a room that was joined in slots mode.
    pub fn offer(mut ws: Ws, wires: Vec<Wire>) -> Caller {
        let now = Instant::now();
        let mut rtc = RtcConfig::new().set_crypto_provider(Arc::new(str0m_aws_lc_rs::default_provider())).build(now);
        for wire in &wires {
            rtc.add_local_candidate(wire.candidate());
        }
        let mut api = rtc.sdp_api();
        let mid = api.add_media(MediaKind::Audio, Direction::SendOnly, None, None, None);
        for _ in 0..3 {
            api.add_media(MediaKind::Audio, Direction::RecvOnly, None, None, None);
        }
        let (offer, pending) = api.apply().expect("changes");
        let offer = offer.to_sdp_string();
        ws.send(json!({"type": "offer", "id": 1, "data": {"sdp": offer}}));
        let answer = ws.expect("answer")["data"]["sdp"].as_str().expect("the form that the client used").to_owned();
        // str0m reads no bandwidth lines below m-lines; browsers do.
        let readable: String =
            answer.lines().filter(|line| !line.starts_with("b=")).map(|line| format!("{line}\r\n")).collect();
        let parsed = SdpAnswer::from_sdp_string(&readable).expect("an answer");
        rtc.sdp_api().accept_answer(pending, parsed).expect("accepted");
        let line = |sdp: &str, name: &str| {
            let value = sdp.lines().find_map(|line| line.strip_prefix(name)).expect("credentials");
            value.trim().to_owned()
        };
        let user = format!("{}:{}", line(&answer, "a=ice-ufrag:"), line(&offer, "a=ice-ufrag:"));
        let credentials = Credentials { user, password: line(&answer, "a=ice-pwd:") };
        Caller {
            media: vec![0; wires.len()],
            wires,
            ws,
            answer,
            credentials,
            is_connected: false,
            heard: BTreeMap::new(),
            voice: b'?',
            octets: 60,
            every: Duration::from_millis(20),
            is_deaf: false,
            rtc,
            mid,
            sent: 0,
            next: now,
            wakes: now,
        }
    }

    pub fn voice(mut self, voice: u8) -> Self {
        self.voice = voice;
        self
    }

    /// Another way, which str0m does not know of.
    pub fn add_wire(&mut self, wire: Wire) -> usize {
        self.wires.push(wire);
        self.media.push(0);
        self.wires.len() - 1
    }

    pub fn heard_of(&self, voice: u8) -> usize {
        self.heard.get(&voice).copied().unwrap_or(0)
    }

    /// A check of our own on that wire; it nominates.
    pub fn nominate(&mut self, wire: usize, server: SocketAddr) {
        let check = self.credentials.check(200 + wire as u8, true);
        self.send(wire, server, &check);
    }

    fn send(&mut self, wire: usize, destination: SocketAddr, packet: &[u8]) {
        match &mut self.wires[wire] {
            Wire::Udp(socket) => {
                let _ = socket.send_to(packet, destination);
            }
            Wire::Tcp(framed) => framed.send(packet),
        }
    }

    /// What is to be done at this time; returns when it wants to be called again.
    fn turn(&mut self) -> Instant {
        for index in 0..self.wires.len() {
            while let Some((source, packet)) = self.receive(index) {
                if packet.first().is_some_and(|first| (128..192).contains(first)) {
                    self.media[index] += 1;
                }
                let (protocol, local) = (self.wires[index].protocol(), self.wires[index].local());
                if let Ok(receive) = Receive::new(protocol, source, local, &packet) {
                    // A check's answer on a wire of which str0m does not know is none of its business.
                    let _ = self.rtc.handle_input(Input::Receive(Instant::now(), receive));
                    self.drain();
                }
            }
        }
        let now = Instant::now();
        if self.wakes <= now {
            self.rtc.handle_input(Input::Timeout(now)).expect("str0m");
            self.drain();
        }
        while self.is_connected && self.next <= now {
            self.next = self.next.max(now - self.every) + self.every;
            let writer = self.rtc.writer(self.mid).expect("a line to send on");
            let pt = writer.payload_params().next().expect("a codec").pt();
            let time = MediaTime::new(self.sent * 960, Frequency::FORTY_EIGHT_KHZ);
            writer.write(pt, now, time, vec![self.voice; self.octets]).expect("written");
            self.sent += 1;
            self.drain();
        }
        if self.is_connected { self.wakes.min(self.next) } else { self.wakes }
    }

    fn receive(&mut self, wire: usize) -> Option<(SocketAddr, Vec<u8>)> {
        if self.is_deaf {
            return None;
        }
        match &mut self.wires[wire] {
            Wire::Udp(socket) => {
                let mut buffer = [0; 2000];
                let (n, source) = socket.recv_from(&mut buffer).ok()?;
                Some((source, buffer[..n].to_vec()))
            }
            Wire::Tcp(framed) => Some((framed.remote, framed.poll()?)),
        }
    }

    fn drain(&mut self) {
        loop {
            match self.rtc.poll_output().expect("str0m") {
                Output::Timeout(at) => {
                    self.wakes = at;
                    return;
                }
                Output::Transmit(t) => {
                    let is_its = |w: &Wire| w.protocol() == t.proto && w.local() == t.source;
                    if let Some(wire) = self.wires.iter().position(is_its) {
                        self.send(wire, t.destination, &t.contents);
                    }
                }
                Output::Event(Event::Connected) => {
                    self.is_connected = true;
                    self.next = Instant::now();
                }
                Output::Event(Event::MediaData(data)) => {
                    let voice = data.data[0];
                    assert!(data.data.iter().all(|byte| *byte == voice), "one voice in a frame");
                    *self.heard.entry(voice).or_default() += 1;
                }
                Output::Event(_) => {}
            }
        }
    }
}

/// Lets all of them talk and listen until it is so.
pub fn until(what: &str, callers: &mut [&mut Caller], mut is_so: impl FnMut(&mut [&mut Caller]) -> bool) {
    let deadline = Instant::now() + DEADLINE;
    loop {
        let next = callers.iter_mut().map(|caller| caller.turn()).min().expect("somebody");
        if is_so(callers) {
            return;
        }
        let now = Instant::now();
        assert!(now < deadline, "{what}: {}", describe(callers));
        let mut fds: Vec<libc::pollfd> = callers
            .iter()
            .filter(|caller| !caller.is_deaf)
            .flat_map(|caller| &caller.wires)
            .filter(|wire| !matches!(wire, Wire::Tcp(framed) if framed.is_closed))
            .map(|wire| libc::pollfd { fd: wire.fd(), events: libc::POLLIN, revents: 0 })
            .collect();
        // Conditions may also be about the server.
        let wait = next.saturating_duration_since(now).clamp(Duration::from_millis(1), Duration::from_millis(50));
        // SAFETY: the pointer and the length are those of the vector, which outlives the call.
        unsafe { libc::poll(fds.as_mut_ptr(), fds.len() as libc::nfds_t, wait.as_millis() as i32) };
    }
}

fn describe(callers: &[&mut Caller]) -> String {
    let one = |c: &&mut Caller| {
        let voice = char::from(c.voice);
        format!("{voice}: connected {}, sent {}, heard {:?}, by wire {:?}", c.is_connected, c.sent, c.heard, c.media)
    };
    callers.iter().map(one).collect::<Vec<_>>().join("; ")
}
