//! Media through the worker's sockets, and silence towards everybody else.

use std::io::ErrorKind;
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::json;
use str0m::change::SdpAnswer;
use str0m::media::{Direction, MediaKind, MediaTime, Mid};
use str0m::net::{Protocol, Receive};
use str0m::{Candidate, Event, Input, Output, Rtc, RtcConfig};

use crate::harness::{DEADLINE, Server, Setup, Ws};

#[test]
fn two_clients_hear_each_other_over_ipv4() {
    two_clients_hear_each_other("127.0.0.1");
}

#[test]
fn two_clients_hear_each_other_over_ipv6() {
    two_clients_hear_each_other("::1");
}

fn two_clients_hear_each_other(ip: &str) {
    let server = Setup::new().env("WORKERS", 2).env("RTC_ANNOUNCED_IPS", ip).start();
    let done = Arc::new(AtomicUsize::new(0));
    let mut ann = Client::join(&server, "ann", ip);
    let mut bob = Client::join(&server, "bob", ip);
    thread::scope(|scope| {
        for (client, own, other) in [(&mut ann, b'a', b'b'), (&mut bob, b'b', b'a')] {
            let done = done.clone();
            scope.spawn(move || client.talk(own, other, &done));
        }
    });
    assert!(server.count("packetsForwarded") >= 2 * ENOUGH as u64);
    assert_eq!(server.count("panics"), 0);
}

/// Packets of the other that prove it.
const ENOUGH: usize = 20;

/// One audio line out and one in (`slots`), so that a single offer is all there is to negotiate.
struct Client {
    rtc: Rtc,
    socket: UdpSocket,
    send: Mid,
    /// Kept open: media ends with it.
    _ws: Ws,
}

impl Client {
    fn join(server: &Server, user: &str, ip: &str) -> Self {
        let socket = UdpSocket::bind((ip, 0)).expect("a socket");
        let mut ws = Ws::connect(server, user);
        ws.send(json!({"type": "join", "roomId": "r", "data": {"receive": "slots"}}));
        ws.expect("joined");
        let mut rtc =
            RtcConfig::new().set_crypto_provider(Arc::new(str0m_aws_lc_rs::default_provider())).build(Instant::now());
        rtc.add_local_candidate(Candidate::host(socket.local_addr().unwrap(), "udp").unwrap());
        let mut api = rtc.sdp_api();
        let send = api.add_media(MediaKind::Audio, Direction::SendOnly, None, None, None);
        api.add_media(MediaKind::Audio, Direction::RecvOnly, None, None, None);
        let (offer, pending) = api.apply().expect("changes");
        ws.send(json!({"type": "offer", "id": 1, "data": {"sdp": offer.to_sdp_string()}}));
        let answer = ws.expect("answer");
        let sdp = answer["data"]["sdp"].as_str().expect("the form that the client used");
        // str0m reads no bandwidth lines below m-lines; browsers do.
        let sdp: String =
            sdp.lines().filter(|line| !line.starts_with("b=")).map(|line| format!("{line}\r\n")).collect();
        rtc.sdp_api().accept_answer(pending, SdpAnswer::from_sdp_string(&sdp).expect("an answer")).expect("accepted");
        Client { rtc, socket, send, _ws: ws }
    }

    /// Sends `own` until both have heard enough of the other.
    fn talk(&mut self, own: u8, other: u8, done: &AtomicUsize) {
        let started = Instant::now();
        let (mut heard, mut sent, mut connected) = (0, 0_u64, false);
        let mut next = started;
        let mut buffer = [0; 2000];
        while done.load(Ordering::Relaxed) < 2 {
            assert!(started.elapsed() < DEADLINE, "connected: {connected}, sent {sent}, heard {heard}");
            let wake = loop {
                match self.rtc.poll_output().expect("str0m") {
                    Output::Timeout(at) => break at,
                    Output::Transmit(t) => {
                        let _ = self.socket.send_to(&t.contents, t.destination);
                    }
                    Output::Event(Event::Connected) => connected = true,
                    Output::Event(Event::MediaData(data)) => {
                        assert!(data.data.iter().all(|byte| *byte == other), "only the other is heard");
                        heard += 1;
                        if heard == ENOUGH {
                            done.fetch_add(1, Ordering::Relaxed);
                        }
                    }
                    Output::Event(_) => {}
                }
            };
            let now = Instant::now();
            if connected && now >= next {
                next = now + Duration::from_millis(20);
                let writer = self.rtc.writer(self.send).expect("a line to send on");
                let pt = writer.payload_params().next().expect("a codec").pt();
                let time = MediaTime::new(sent * 960, str0m::media::Frequency::FORTY_EIGHT_KHZ);
                writer.write(pt, now, time, vec![own; 60]).expect("written");
                sent += 1;
                continue;
            }
            let until = if connected { wake.min(next) } else { wake };
            let wait = until.saturating_duration_since(now).clamp(Duration::from_millis(1), Duration::from_millis(20));
            self.socket.set_read_timeout(Some(wait)).unwrap();
            match self.socket.recv_from(&mut buffer) {
                Ok((n, source)) => {
                    let local = self.socket.local_addr().unwrap();
                    if let Ok(receive) = Receive::new(Protocol::Udp, source, local, &buffer[..n]) {
                        self.rtc.handle_input(Input::Receive(Instant::now(), receive)).expect("str0m");
                    }
                }
                Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                    self.rtc.handle_input(Input::Timeout(Instant::now())).expect("str0m");
                }
                Err(e) => panic!("{e}"),
            }
        }
    }
}

/// A binding request (RFC 8489) with these attributes.
fn stun(attributes: &[(u16, &[u8])]) -> Vec<u8> {
    let mut body = Vec::new();
    for (kind, value) in attributes {
        body.extend(kind.to_be_bytes());
        body.extend((value.len() as u16).to_be_bytes());
        body.extend(*value);
        body.resize(body.len().next_multiple_of(4), 0);
    }
    let mut message = vec![0, 1];
    message.extend((body.len() as u16).to_be_bytes());
    message.extend([0x21, 0x12, 0xa4, 0x42]);
    message.extend([7; 12]);
    message.extend(body);
    message
}

#[test]
fn strangers_get_no_answer() {
    let server = Setup::new().start();
    let mut client = Client::join(&server, "ann", "127.0.0.1");
    let sdp = {
        // A ufrag that exists, as somebody who saw the SDP would know it.
        client._ws.send(json!({"type": "restart-ice", "id": 9}));
        client._ws.expect("offer")["data"]["sdp"].as_str().expect("text").to_owned()
    };
    let ufrag = sdp.lines().find_map(|line| line.strip_prefix("a=ice-ufrag:")).expect("a ufrag").trim();
    let user = format!("{ufrag}:abcd");
    let wrong = [0x5a; 20];
    let datagrams = [
        stun(&[]),
        stun(&[(6, b"nobody:abcd"), (8, &wrong)]),
        stun(&[(6, user.as_bytes())]),
        stun(&[(6, user.as_bytes()), (0x24, &[1, 2, 3, 4]), (8, &wrong), (0x8028, &[1, 2, 3, 4])]),
        // A ClientHello, as far as anybody looks.
        [vec![22, 0xfe, 0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 40, 1], vec![0; 60]].concat(),
        [vec![0x80, 96, 0, 1], vec![0; 100]].concat(),
        [vec![0x80, 200, 0, 6], vec![0; 24]].concat(),
        b"GET / HTTP/1.1\r\n\r\n".to_vec(),
        vec![0],
        vec![0xff; 1472],
    ];
    let address: SocketAddr = server.media[0];
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let before = server.stats();
    for datagram in &datagrams {
        socket.send_to(datagram, address).unwrap();
    }
    server.wait_for_stats("that all were read", |stats| {
        let count = |stats: &serde_json::Value| stats["workers"][0]["datagramsIn"].as_u64().unwrap();
        count(stats) >= count(&before) + datagrams.len() as u64
    });
    assert_eq!(server.count("datagramsOut"), 0);
    socket.set_nonblocking(true).unwrap();
    assert_eq!(socket.recv(&mut [0; 100]).unwrap_err().kind(), ErrorKind::WouldBlock);
    client._ws.ping_among_others();
}
