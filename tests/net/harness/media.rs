//! A WebRTC connection of a client: str0m over a socket, whole RTP packets in and out.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::{Duration, Instant};

use str0m::change::{SdpAnswer, SdpPendingOffer};
use str0m::format::Codec;
use str0m::media::{Direction, MediaKind, Mid, Pt, Rid, Simulcast, SimulcastLayer};
use str0m::net::{Protocol, Receive};
use str0m::rtp::{ExtensionMap, ExtensionValues, RtpWrite, Ssrc};
use str0m::{Candidate, Event, IceCreds, Input, Output, Rtc, RtcConfig};

use super::DEADLINE;

/// A connection, and what came over it.
pub struct MediaClient {
    pub rtc: Rtc,
    socket: UdpSocket,
    local: SocketAddr,
    pub connected: bool,
    /// The server said goodbye.
    pub closed: bool,
    /// What it sends, with the packets sent so far; rid for simulcast.
    sends: Vec<Sends>,
    next: Instant,
    /// By line, the stamps of the publishers and how many packets came from each.
    pub heard: BTreeMap<(Mid, u8), usize>,
    /// Packets that came again although they were not lost, or that nobody stamped.
    pub odd: usize,
    /// The packet of this payload type and sequence number is lost on the way to the server.
    pub withheld: Option<(u8, u16)>,
    /// Packets that the server asked for again.
    pub nacks: u64,
}

struct Sends {
    mid: Mid,
    rid: Option<Rid>,
    codec: Codec,
    /// Of an offer that was written by hand: SSRC and payload type.
    by_hand: Option<(Ssrc, Pt)>,
    stamp: u8,
    sent: u64,
}

impl MediaClient {
    pub fn new() -> Self {
        Self::with(RtcConfig::new())
    }

    /// Without header extensions, as plain encoders are.
    pub fn plain() -> Self {
        Self::with(RtcConfig::new().set_extension_map(ExtensionMap::empty()))
    }

    fn with(config: RtcConfig) -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").expect("a socket");
        let local = socket.local_addr().unwrap();
        let config = config
            .set_crypto_provider(Arc::new(str0m_aws_lc_rs::default_provider()))
            .set_rtp_mode(true)
            .set_stats_interval(Some(Duration::from_millis(100)));
        let mut rtc = config.build(Instant::now());
        rtc.add_local_candidate(Candidate::host(local, "udp").unwrap());
        MediaClient {
            rtc,
            socket,
            local,
            connected: false,
            closed: false,
            sends: Vec::new(),
            next: Instant::now(),
            heard: BTreeMap::new(),
            odd: 0,
            withheld: None,
            nacks: 0,
        }
    }

    pub fn local(&self) -> SocketAddr {
        self.local
    }

    /// An offer with these lines, whose packets carry `stamp`; video lines with these rids.
    pub fn offer(&mut self, lines: &[(MediaKind, Direction)], rids: &[&str], stamp: u8) -> (String, SdpPendingOffer) {
        let mut api = self.rtc.sdp_api();
        let mut mids = Vec::new();
        for &(kind, direction) in lines {
            let is_simulcast = kind == MediaKind::Video && !rids.is_empty();
            let simulcast = is_simulcast.then(|| Simulcast {
                send: rids.iter().map(|rid| SimulcastLayer::new(rid)).collect(),
                recv: Vec::new(),
            });
            mids.push((kind, direction, api.add_media(kind, direction, None, None, simulcast)));
        }
        let (offer, pending) = api.apply().expect("changes");
        for (kind, direction, mid) in mids {
            if !direction.is_sending() {
                continue;
            }
            let codec = if kind == MediaKind::Audio { Codec::Opus } else { Codec::Vp8 };
            let of_line: Vec<Option<Rid>> = match kind {
                MediaKind::Video if !rids.is_empty() => rids.iter().map(|rid| Some((*rid).into())).collect(),
                _ => vec![None],
            };
            for rid in of_line {
                self.sends.push(Sends { mid, rid, codec, by_hand: None, stamp, sent: 0 });
            }
        }
        (offer.to_sdp_string(), pending)
    }

    /// str0m reads no bandwidth lines below m-lines; browsers do.
    pub fn accept(&mut self, pending: SdpPendingOffer, answer: &str) {
        let answer: String =
            answer.lines().filter(|line| !line.starts_with("b=")).map(|line| format!("{line}\r\n")).collect();
        let answer = SdpAnswer::from_sdp_string(&answer).expect("an answer");
        self.rtc.sdp_api().accept_answer(pending, answer).expect("accepted");
    }

    pub fn credentials(&mut self) -> IceCreds {
        self.rtc.direct_api().local_ice_credentials()
    }

    pub fn fingerprint(&mut self) -> String {
        self.rtc.direct_api().local_dtls_fingerprint().to_string()
    }

    /// Takes an answer without SDP, as an encoder does that has written its offer by hand: line, kind, codec, payload type,
    /// SSRC.
    pub fn accept_by_hand(&mut self, answer: &str, lines: &[(&str, MediaKind, Codec, u8, u32)], stamp: u8) {
        let value = |name: &str| {
            let line = answer.lines().find_map(|line| line.strip_prefix(name));
            line.unwrap_or_else(|| panic!("{name} in {answer}")).trim().to_owned()
        };
        let mut api = self.rtc.direct_api();
        api.set_ice_controlling(true);
        api.set_remote_ice_credentials(IceCreds { ufrag: value("a=ice-ufrag:"), pass: value("a=ice-pwd:") });
        api.set_remote_fingerprint(value("a=fingerprint:").parse().expect("a fingerprint"));
        for &(mid, kind, codec, pt, ssrc) in lines {
            let (mid, ssrc) = (Mid::from(mid), Ssrc::from(ssrc));
            api.declare_media(mid, kind);
            api.declare_stream_tx(ssrc, None, mid, None);
            self.sends.push(Sends { mid, rid: None, codec, by_hand: Some((ssrc, pt.into())), stamp, sent: 0 });
        }
        api.start_dtls(true).expect("DTLS");
        let candidate = format!("candidate:{}", value("a=candidate:"));
        self.rtc.add_remote_candidate(Candidate::from_sdp_string(&candidate).expect("a candidate"));
    }

    /// Packets with this stamp, over all lines of a kind that is told by them.
    pub fn heard_of(&self, stamp: u8) -> usize {
        self.heard.iter().filter(|((_, other), _)| *other == stamp).map(|(_, count)| count).sum()
    }

    /// Says goodbye over DTLS.
    pub fn close(&mut self) {
        self.rtc.close().expect("str0m");
        self.closed = true;
        while !matches!(self.poll(), Output::Timeout(_)) {}
    }

    pub fn sent(&self) -> u64 {
        self.sends.iter().map(|sends| sends.sent).sum()
    }

    /// Of what it sends of that kind: the payload type, and the wire's number of the next packet. For one encoding alone.
    pub fn next_packet(&self, kind: MediaKind) -> (u8, u16) {
        let is_audio = kind == MediaKind::Audio;
        let sends = self.sends.iter().find(|sends| (sends.codec == Codec::Opus) == is_audio).expect("sent");
        let params = self.rtc.codec_config().find(|params| params.spec().codec == sends.codec).expect("the codec");
        let pt = sends.by_hand.map_or(params.pt(), |hand| hand.1);
        (*pt, (FIRST_SEQUENCE + sends.sent) as u16)
    }

    /// One step: what str0m wants to send, what is due, what has arrived.
    fn step(&mut self) {
        loop {
            match self.poll() {
                Output::Timeout(_) => break,
                Output::Transmit(_) => {}
                Output::Event(event) => self.on_event(event),
            }
        }
        let now = Instant::now();
        if self.connected && !self.closed && now >= self.next {
            self.next = now + Duration::from_millis(20);
            self.send(now);
            self.rtc.handle_input(Input::Timeout(now)).expect("str0m");
            return;
        }
        let mut buffer = [0; 2000];
        match self.socket.recv_from(&mut buffer) {
            Ok((n, source)) => {
                if let Ok(receive) = Receive::new(Protocol::Udp, source, self.local, &buffer[..n]) {
                    self.rtc.handle_input(Input::Receive(Instant::now(), receive)).expect("str0m");
                }
            }
            Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                self.rtc.handle_input(Input::Timeout(Instant::now())).expect("str0m");
            }
            // Nobody listens there any more.
            Err(e) if e.kind() == ErrorKind::ConnectionRefused => {}
            Err(e) => panic!("{e}"),
        }
    }

    /// The next output, sent if that is what it wants.
    fn poll(&mut self) -> Output {
        let output = self.rtc.poll_output().expect("str0m");
        if let Output::Transmit(t) = &output {
            if let [_, second, high, low, ..] = t.contents[..]
                && self.withheld == Some((second & 0x7f, u16::from_be_bytes([high, low])))
            {
                return output;
            }
            let _ = self.socket.send_to(&t.contents, t.destination);
        }
        output
    }

    fn on_event(&mut self, event: Event) {
        match event {
            Event::Connected => self.connected = true,
            Event::Closed => self.closed = true,
            Event::MediaEgressStats(stats) => self.nacks = self.nacks.max(stats.nacks),
            Event::RtpPacket(packet) => {
                let ssrc = packet.header.ssrc;
                let mid = self.rtc.direct_api().stream_rx(&ssrc).map(|stream| stream.mid());
                // Redundant audio repeats older frames in front of the newest, which is last.
                match (mid, packet.payload.last()) {
                    (Some(mid), Some(stamp)) => *self.heard.entry((mid, *stamp)).or_default() += 1,
                    _ => self.odd += 1,
                }
            }
            _ => {}
        }
    }

    fn send(&mut self, now: Instant) {
        for sends in &mut self.sends {
            let params = self.rtc.codec_config().find(|p| p.spec().codec == sends.codec).expect("the codec");
            let (pt, clock) = (sends.by_hand.map_or(params.pt(), |hand| hand.1), params.spec().clock_rate.get());
            let time = (sends.sent * u64::from(clock) / 50) as u32;
            let payload = payload(sends.codec, sends.sent, sends.stamp);
            let mut api = self.rtc.direct_api();
            let stream = match sends.by_hand {
                Some((ssrc, _)) => api.stream_tx(&ssrc),
                None => api.stream_tx_by_mid(sends.mid, sends.rid),
            };
            let mid = sends.by_hand.is_none().then_some(sends.mid);
            let ext = ExtensionValues { mid, rid: sends.rid, ..Default::default() };
            let sequence = FIRST_SEQUENCE + sends.sent;
            // str0m repeats packets on a stream for retransmissions alone.
            let nackable = sends.by_hand.is_none();
            let write = RtpWrite::new(pt, sequence.into(), time, now, payload).marker(true).nackable(nackable);
            let write = write.ext_vals(ext);
            stream.expect("a stream").write_rtp(write);
            sends.sent += 1;
        }
    }
}

/// Of every line.
pub const FIRST_SEQUENCE: u64 = 1000;

/// A frame in one packet, the first of every 25 a key frame, with a stamp at its end.
fn payload(codec: Codec, number: u64, stamp: u8) -> Vec<u8> {
    let is_key = number.is_multiple_of(25);
    let mut bytes = match codec {
        Codec::Opus => vec![0xfc; 40],
        Codec::Vp8 if is_key => vec![0x10, 0x10, 0x02, 0x00, 0x9d, 0x01, 0x2a, 0x80, 0x02, 0x68, 0x01],
        Codec::Vp8 => vec![0x10, 0x11, 0x02, 0x00],
        Codec::H264 if is_key => {
            // STAP-A of SPS and PPS would precede it in a packet of its own; an IDR alone starts a key frame as well.
            vec![0x65, 0x88]
        }
        Codec::H264 => vec![0x41, 0x9a],
        other => panic!("{other:?} is not sent here"),
    };
    bytes.resize(bytes.len() + 60, 0x55);
    bytes.push(stamp);
    bytes
}

/// Runs these connections until it is so.
pub fn run(clients: &mut [&mut MediaClient], what: &str, is_so: impl Fn(&[&mut MediaClient]) -> bool) {
    let started = Instant::now();
    for client in clients.iter() {
        let wait = Duration::from_millis(1);
        client.socket.set_read_timeout(Some(wait)).unwrap();
    }
    while !is_so(clients) {
        if started.elapsed() > DEADLINE {
            let seen: Vec<_> = clients.iter().map(|c| (c.connected, c.closed, c.sent(), &c.heard)).collect();
            panic!("never {what}: connected, closed, sent, heard: {seen:?}");
        }
        for client in clients.iter_mut() {
            client.step();
        }
    }
}
