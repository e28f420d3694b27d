//! What the benches of whole calls share: a shard with str0m clients in memory, an allocator that counts, statistics.
//!
//! [`World`] is one [`Shard`] without sockets, and clients on virtual time. What the shard does is measured in turns,
//! as a worker makes them; what the clients do (decryption above all) is never part of a figure. The network between
//! them has no delay and no loss.

// Every bench is a crate of its own and uses a part of this.
#![allow(dead_code)]

pub mod allocations;
pub mod client;
#[path = "../../tools/loadgen/crypto.rs"]
pub mod crypto;
pub mod statistics;
pub mod token;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant, SystemTime};

use webrtc_engine::auth::Verifier;
use webrtc_engine::base::{ConnKey, WorkerId};
use webrtc_engine::config::{Config, VideoCodec};
use webrtc_engine::metrics::WorkerMetrics;
use webrtc_engine::peer::{self, PeerConfig, Transmit, sdp};
use webrtc_engine::recording::feed::{Begin, Feed, Item, Notice, NoticeKind};
use webrtc_engine::shard::{Mail, Output, Shard, ShardConfig};
use webrtc_engine::signal::session::Session;

use allocations::Counts;
use client::{Client, ClientConfig};

/// What the shard spent on something.
#[derive(Debug, Clone, Copy, Default)]
pub struct Cost {
    pub time: Duration,
    pub allocations: Counts,
    /// Taken from the heap of C and not given back.
    pub c_bytes: i64,
    pub turns: u64,
    pub datagrams_in: u64,
    pub datagrams_out: u64,
}

impl std::ops::AddAssign for Cost {
    fn add_assign(&mut self, other: Cost) {
        self.time += other.time;
        self.allocations += other.allocations;
        self.c_bytes += other.c_bytes;
        self.turns += other.turns;
        self.datagrams_in += other.datagrams_in;
        self.datagrams_out += other.datagrams_out;
    }
}

/// A shard, its clients and the time.
///
/// The shard's work is measured in CPU of this thread, so that whoever else runs on the machine costs caches but not
/// time.
pub struct World {
    pub shard: Shard,
    pub now: Instant,
    pub clients: Vec<Client>,
    /// Everything the shard did outside of the turns that a bench measured by itself: joins, checks, RTCP, timers.
    pub rest: Cost,
    /// The part of `rest` that signaling messages caused, with the first datagrams that follow at once.
    pub signaling: Cost,
    /// Counts what the shard holds of C's heap, in [`Cost::c_bytes`]; asking costs, but is not measured.
    pub watch_c_heap: bool,
    /// Of reading the clock twice; no part of any figure.
    clock_cost: Duration,
    verifier: Verifier,
    config: Arc<Config>,
    by_address: HashMap<SocketAddr, usize>,
    wall: SystemTime,
    /// Datagrams of the shard that no client has yet.
    wire: Vec<Transmit>,
    /// What the shard gave to be recorded, and from whom it was taken off ([`Begin::backlog`]).
    pub batches: Vec<Vec<Item>>,
    pub begun: Option<Begin>,
}

impl World {
    pub fn new() -> World {
        World::with(|_| ())
    }

    /// Every call is recorded: see [`World::batches`].
    pub fn recorded() -> World {
        World::with(|config| config.recording.auto = true)
    }

    fn with(change: impl FnOnce(&mut Config)) -> World {
        peer::crypto::provider();
        peer::crypto::certificate();
        let mut config = Config::default();
        config.auth = token::auth();
        config.limits.participants = 10_000;
        change(&mut config);
        let config = Arc::new(config);
        let verifier = Verifier::new(&config.auth).expect("the secret is long enough");
        let (now, wall) = (Instant::now(), SystemTime::now());
        let shard = Shard::new(
            now,
            wall,
            ShardConfig {
                worker: WorkerId(0),
                workers: 1,
                peer: Arc::new(peer_config(&config)),
                verifier: Arc::new(Verifier::new(&config.auth).expect("the secret is long enough")),
                metrics: Arc::new(WorkerMetrics::default()),
                dev_mode: false,
                seed: 1,
                config: Arc::clone(&config),
            },
        );
        World {
            shard,
            now,
            clients: Vec::new(),
            rest: Cost::default(),
            signaling: Cost::default(),
            watch_c_heap: false,
            clock_cost: statistics::clock_cost(),
            verifier,
            config,
            by_address: HashMap::new(),
            wall,
            wire: Vec::new(),
            batches: Vec::new(),
            begun: None,
        }
    }

    /// One turn of a worker's loop: input, deadlines, flush, and everything to send drained. What comes out reaches the
    /// clients with [`World::settle`].
    pub fn turn(&mut self, input: impl FnOnce(&mut Shard, Instant)) -> Cost {
        let queued = self.wire.len();
        let c_heap = if self.watch_c_heap { allocations::c_heap() } else { 0 };
        let (counts, start) = (allocations::counts(), statistics::thread_cpu());
        input(&mut self.shard, self.now);
        self.shard.handle_timeout(self.now);
        self.shard.flush(self.now);
        while let Some(transmit) = self.shard.poll_transmit() {
            self.wire.push(transmit);
        }
        let time = statistics::thread_cpu().saturating_sub(start).saturating_sub(self.clock_cost);
        let allocations = allocations::counts() - counts;
        let datagrams_out = (self.wire.len() - queued) as u64;
        let c_bytes = if self.watch_c_heap { allocations::c_heap() - c_heap } else { 0 };
        Cost { time, allocations, c_bytes, turns: 1, datagrams_in: 0, datagrams_out }
    }

    /// Joins a client: WebSocket accepted, `join`, offer, answer, ICE, DTLS. Returns its index.
    ///
    /// # Panics
    ///
    /// When it is not connected after ten virtual seconds.
    pub fn join(&mut self, config: ClientConfig) -> usize {
        let index = self.clients.len();
        let conn = ConnKey { slot: index as u32, generation: 0 };
        let token = token::mint(&config.user, &config.room, self.wall);
        let client = Client::new(self.now, client_address(index), config);
        self.by_address.insert(client.address, index);
        let join = client.join_message();
        self.clients.push(client);
        let limits = webrtc_engine::signal::Limits::default();
        let grants = self.verifier.verify(&token, self.wall).expect("our own token");
        let cost = self.turn(|shard, now| {
            shard.handle_open(conn, Session::new(now, grants, &limits));
            shard.handle_text(now, conn, &join);
        });
        self.rest += cost;
        self.signaling += cost;
        self.settle();
        let patience = self.now + Duration::from_secs(10);
        while !self.clients[index].connected {
            assert!(self.now < patience, "client {index} does not connect");
            self.advance(Duration::from_millis(5));
        }
        index
    }

    /// Carries what is on its way to where it goes, and what comes of that, until nobody has anything to say.
    pub fn settle(&mut self) {
        loop {
            while let Some(output) = self.shard.poll_output() {
                match output {
                    Output::Send { conn, text } => {
                        let client = &mut self.clients[conn.slot as usize];
                        let reply = client.handle_text(self.now, &text);
                        self.free(text);
                        let Some(reply) = reply else { continue };
                        let cost = self.turn(|shard, now| shard.handle_text(now, conn, &reply));
                        self.rest += cost;
                        self.signaling += cost;
                    }
                    Output::Record(Feed::Begin(begin)) => {
                        let (room, recording) = (begin.room.clone(), begin.recording.clone());
                        self.begun = Some(*begin);
                        let notice = Notice { room, recording, what: NoticeKind::Opened };
                        let cost = self.turn(|shard, now| shard.handle_mail(now, Mail::Recording(notice)));
                        self.rest += cost;
                    }
                    Output::Record(Feed::Batch { items, .. }) => {
                        if let Some(begin) = &self.begun {
                            let octets: usize = items.iter().map(octets_of).sum();
                            begin.backlog.fetch_sub(octets, Ordering::Relaxed);
                        }
                        self.batches.push(items);
                    }
                    other => panic!("a shard alone does not ask for {other:?}"),
                }
            }
            let mut wire = std::mem::take(&mut self.wire);
            for transmit in wire.drain(..) {
                let Some(client) = self.by_address.get(&transmit.destination) else { continue };
                self.clients[*client].handle_datagram(self.now, transmit.source, &transmit.data);
                self.free(transmit);
            }
            self.wire = wire;
            if !self.take_replies() && self.wire.is_empty() {
                return;
            }
        }
    }

    /// Drops what the shard had allocated and gave away.
    fn free<T>(&mut self, value: T) {
        let before = allocations::counts();
        drop(value);
        self.rest.allocations += allocations::counts() - before;
    }

    /// Hands the clients' datagrams to the shard; false when there were none.
    fn take_replies(&mut self) -> bool {
        let mut any = false;
        for index in 0..self.clients.len() {
            if self.clients[index].outgoing.is_empty() {
                continue;
            }
            any = true;
            let address = self.clients[index].address;
            let mut datagrams = std::mem::take(&mut self.clients[index].outgoing);
            for (_, data) in &datagrams {
                let cost = self.turn(|shard, now| shard.handle_datagram(now, server_address(), address, data));
                self.rest += Cost { datagrams_in: 1, ..cost };
            }
            datagrams.clear();
            if self.clients[index].outgoing.is_empty() {
                self.clients[index].outgoing = datagrams;
            }
        }
        any
    }

    /// Lets time pass, with every deadline of shard and clients served when it is due.
    pub fn advance(&mut self, by: Duration) {
        let until = self.now + by;
        loop {
            let clients = self.clients.iter().map(|c| c.deadline).min();
            let shard = self.shard.poll_timeout();
            let Some(next) = clients.into_iter().chain(shard).min().filter(|next| *next <= until) else { break };
            self.now = self.now.max(next);
            if shard.is_some_and(|at| at <= self.now) {
                let cost = self.turn(|_, _| {});
                self.rest += cost;
            }
            for client in &mut self.clients {
                if client.deadline <= self.now {
                    client.handle_timeout(self.now);
                }
            }
            self.settle();
            // Whoever asks for the same moment again is asked a little later: a loop of the bench, not of the machine.
            self.now += Duration::from_micros(1);
        }
        self.now = self.now.max(until);
    }
}

fn octets_of(item: &Item) -> usize {
    match item {
        Item::Packet(packet) => packet.payload.len(),
        _ => 0,
    }
}

/// As `serve` makes it from the same configuration.
fn peer_config(config: &Config) -> PeerConfig {
    PeerConfig {
        candidates: vec![server_address()],
        tcp_candidates: Vec::new(),
        video_codecs: vec![VideoCodec::Vp8, VideoCodec::H264, VideoCodec::Vp9, VideoCodec::Av1],
        audio_bitrate: config.encoding.audio_bitrate,
        video_max_bitrate: config.encoding.video_max_bitrate,
        retransmission_share: config.limits.retransmission_percent as f32 / 100.0,
        limits: sdp::Limits {
            bytes: config.limits.sdp_size,
            lines: config.limits.sdp_media,
            payload_types_per_line: config.limits.sdp_payload_types,
        },
        channels: config.limits.data_channels,
        channel_message: config.limits.data_message,
        channel_buffer: config.limits.data_buffered,
    }
}

pub fn server_address() -> SocketAddr {
    SocketAddr::from(([192, 0, 2, 1], 40_000))
}

fn client_address(index: usize) -> SocketAddr {
    SocketAddr::from(([10, 1, (index >> 8) as u8, index as u8], 50_000))
}
