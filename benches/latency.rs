//! How long is a packet on its way through the server, from a publisher's `send` to a subscriber's `recv`?
//!
//! `cargo bench --bench latency`; `-- --quick` for a try. The server is the binary of the same build, a process of its
//! own on loopback with one worker. This process holds the publisher and the subscribers, each with its UDP socket, on
//! one thread that never sleeps, on the last core, the server's worker being on the first: a subscriber's packet is seen within one round over all sockets, the length of which is
//! printed. One packet is on its way at a time, so nobody queues behind another packet; with N subscribers the row has
//! the delays of all of them, and *last* is the one who got it last.
//!
//! The way has two crossings of loopback, a wake-up of the server, one decryption and N encryptions. The clients'
//! cryptography is outside of it. Wants two idle cores: on one that others use, the tail is theirs.

mod support;

use std::io::{self, BufRead, BufReader};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use str0m::media::MediaKind;
use tungstenite::client::ClientRequestBuilder;
use tungstenite::{Message, WebSocket};

use support::client::{Client, ClientConfig, is_media};
use support::statistics::{self, quantile};
use support::{crypto, token};

fn main() {
    let packets = if statistics::has_option("--quick") { 100 } else { 10_000 };
    statistics::print_conditions();
    println!("\n| payload | N | packets | p50 µs | p99 | p99.9 | max | last p50 | last p99 | lost | round p50 µs |");
    println!("| --- | --: | --: | --: | --: | --: | --: | --: | --: | --: | --: |");
    for (kind, size) in [(MediaKind::Audio, 120), (MediaKind::Video, 1150)] {
        for subscribers in [1, 10] {
            let server = Server::start();
            // Of its own, since a process inherits the cores of the thread that starts it.
            thread::scope(|scope| scope.spawn(|| measure(&server, kind, size, subscribers, packets)).join())
                .expect("the clients come through");
        }
    }
    println!("\nSRTP profiles of the connections: {:?}, load average {}", crypto::profiles(), statistics::load());
}

fn measure(server: &Server, kind: MediaKind, size: usize, subscribers: usize, packets: u32) {
    statistics::pin_to_last_core();
    let mut call = Call { members: Vec::new() };
    call.join(server, ClientConfig { user: "p".into(), sends: vec![kind], ..Default::default() });
    for n in 0..subscribers {
        call.join(server, ClientConfig { user: format!("s{n}"), receives: vec![kind], ..Default::default() });
    }
    // Past the throttling of key frames; the server's caches and ours are warm.
    for stamp in 0..WARM_UP {
        call.send(stamp, size);
    }
    let (mut all, mut last, mut rounds, mut lost) = (Vec::new(), Vec::new(), Vec::new(), 0);
    for stamp in WARM_UP..WARM_UP + packets {
        let (mut delays, round) = call.send(stamp, size);
        lost += subscribers - delays.len();
        if delays.len() == subscribers {
            last.push(delays.iter().copied().fold(0.0, f64::max));
        }
        all.append(&mut delays);
        rounds.push(round);
    }
    println!(
        "| {} {size} B | {subscribers} | {packets} | {:.0} | {:.0} | {:.0} | {:.0} | {:.0} | {:.0} | {lost} | {:.1} |",
        if kind == MediaKind::Audio { "audio" } else { "video" },
        quantile(&mut all, 0.5),
        quantile(&mut all, 0.99),
        quantile(&mut all, 0.999),
        quantile(&mut all, 1.0),
        quantile(&mut last, 0.5),
        quantile(&mut last, 0.99),
        quantile(&mut rounds, 0.5),
    );
}

/// The publisher is the first.
struct Call {
    members: Vec<Member>,
}

struct Member {
    client: Client,
    udp: UdpSocket,
    socket: WebSocket<TcpStream>,
}

impl Call {
    fn join(&mut self, server: &Server, config: ClientConfig) {
        let config = ClientConfig { room: "latency".into(), ..config };
        let socket = server.open(&config.user, &config.room);
        let udp = UdpSocket::bind("127.0.0.1:0").expect("loopback has ports");
        udp.set_nonblocking(true).expect("a socket may be told");
        let client = Client::new(Instant::now(), udp.local_addr().expect("bound"), config);
        let mut member = Member { client, udp, socket };
        member.say(member.client.join_message());
        self.members.push(member);
        let patience = Instant::now() + Duration::from_secs(10);
        while self.members.last().is_some_and(|m| !m.client.connected) {
            assert!(Instant::now() < patience, "the connection does not come up");
            self.serve();
        }
    }

    /// Everything but measured media: signaling, checks, RTCP.
    fn serve(&mut self) {
        let mut buffer = [0; 2048];
        for member in &mut self.members {
            while let Ok((len, source)) = member.udp.recv_from(&mut buffer) {
                member.client.handle_datagram(Instant::now(), source, &buffer[..len]);
            }
            member.serve();
        }
    }

    /// Sends a packet and waits for it: the delays of those who got it, and how long one round over the sockets was, on
    /// average, in microseconds.
    fn send(&mut self, stamp: u32, size: usize) -> (Vec<f64>, f64) {
        let due = Instant::now() + INTERVAL;
        while Instant::now() < due {
            self.serve();
        }
        let publisher = &mut self.members[0];
        publisher.client.send(Instant::now(), 0, size, stamp);
        let at = publisher.client.outgoing.iter().position(|(_, data)| is_media(data)).expect("it was sent");
        let (destination, data) = publisher.client.outgoing.remove(at);
        let sent = Instant::now();
        publisher.udp.send_to(&data, destination).expect("loopback takes it");

        let mut arrived: Vec<(usize, Duration, SocketAddr, Vec<u8>)> = Vec::with_capacity(2 * self.members.len());
        let mut buffer = [0; 2048];
        let (mut missing, mut rounds) = (self.members.len() - 1, 0);
        while missing > 0 && sent.elapsed() < LOST {
            rounds += 1;
            for (index, member) in self.members.iter().enumerate().skip(1) {
                if let Ok((len, source)) = member.udp.recv_from(&mut buffer) {
                    arrived.push((index, sent.elapsed(), source, buffer[..len].to_vec()));
                    // Reports may come between; retransmissions do not, as nothing is lost.
                    missing = missing.saturating_sub(usize::from(is_media(&buffer[..len])));
                }
            }
        }
        let round = sent.elapsed().as_nanos() as f64 / 1000.0 / f64::from(rounds.max(1));
        let mut delays = Vec::with_capacity(arrived.len());
        for (index, delay, source, data) in arrived {
            let client = &mut self.members[index].client;
            client.handle_datagram(Instant::now(), source, &data);
            if is_media(&data) && client.last_stamp == Some(stamp) {
                delays.push(delay.as_nanos() as f64 / 1000.0);
            }
        }
        (delays, round)
    }
}

impl Member {
    fn say(&mut self, text: String) {
        self.socket.send(Message::text(text)).expect("the server listens");
    }

    fn serve(&mut self) {
        match self.socket.read() {
            Ok(Message::Text(text)) => {
                if let Some(reply) = self.client.handle_text(Instant::now(), &text) {
                    self.say(reply);
                }
            }
            Ok(_) => {}
            Err(tungstenite::Error::Io(e)) if e.kind() == io::ErrorKind::WouldBlock => {}
            Err(e) => panic!("the server is gone: {e}"),
        }
        if self.client.deadline <= Instant::now() {
            self.client.handle_timeout(Instant::now());
        }
        for (destination, data) in self.client.outgoing.drain(..) {
            self.udp.send_to(&data, destination).expect("loopback takes it");
        }
    }
}

/// The server's process; ends with this value.
struct Server {
    process: Child,
    authority: String,
    data: std::path::PathBuf,
}

impl Server {
    fn start() -> Server {
        let data = std::env::temp_dir().join(format!("webrtc-engine-latency-{}", std::process::id()));
        let mut process = Command::new(env!("CARGO_BIN_EXE_webrtc-engine"))
            .env_clear()
            .envs([("HOST", "127.0.0.1"), ("PORT", "0"), ("WORKERS", "1"), ("RTC_UDP_PORT", "0")])
            .envs([("RTC_ANNOUNCED_IPS", "127.0.0.1"), ("JWT_SECRET", token::SECRET), ("LOG_LEVEL", "error")])
            .env("DATA_DIR", &data)
            .stdout(Stdio::piped())
            .spawn()
            .expect("the server's binary was built with this bench");
        let mut line = String::new();
        let stdout = process.stdout.take().expect("piped");
        BufReader::new(stdout).read_line(&mut line).expect("the server says where it is");
        let authority = line.split("http://").nth(1).and_then(|rest| rest.split('/').next()).map(str::to_owned);
        let authority = authority.unwrap_or_else(|| panic!("not understood: {line:?}"));
        Server { process, authority, data }
    }

    fn open(&self, user: &str, room: &str) -> WebSocket<TcpStream> {
        let token = token::mint(user, room, SystemTime::now());
        let stream = TcpStream::connect(&self.authority).expect("the server listens");
        stream.set_nodelay(true).expect("a socket may be told");
        let uri = format!("ws://{}/video-calls/ws", self.authority).parse().expect("a URI");
        let request = ClientRequestBuilder::new(uri)
            .with_header("Authorization", format!("Bearer {token}"))
            .with_sub_protocol("webrtc-engine.v1");
        let (socket, _) = tungstenite::client(request, stream).expect("the server upgrades");
        socket.get_ref().set_nonblocking(true).expect("a socket may be told");
        socket
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Nobody waits for a graceful end here; what is left are a lock and an empty directory.
        let _ = self.process.kill();
        let _ = self.process.wait();
        let _ = std::fs::remove_dir_all(&self.data);
    }
}

/// Between two packets.
const INTERVAL: Duration = Duration::from_millis(2);
/// A packet that takes longer counts as lost.
const LOST: Duration = Duration::from_millis(200);
/// 1500 × 2 ms: past the throttling of key frames.
const WARM_UP: u32 = 1_500;
