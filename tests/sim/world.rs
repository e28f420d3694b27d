//! Shards, clients and the network between them, in virtual time, with one source of chance; and what must always hold.
//!
//! Keys and transaction ids stay random, so two runs of one seed agree in behaviour, not in bytes.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap, HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use webrtc_engine::auth::{Claims, Role, RoomScope, Signer, Verifier};
use webrtc_engine::base::{ConnKey, RoomId, UserId, WorkerId};
use webrtc_engine::config::{AuthConfig, Config, Secret, VideoCodec};
use webrtc_engine::metrics::Metrics;
use webrtc_engine::peer::{PeerConfig, sdp};
use webrtc_engine::shard::{Mail, Output, Shard, ShardConfig};
use webrtc_engine::signal;
use webrtc_engine::signal::session::{Phase, Session};

use crate::client::{Client, Plan, Seen};
use crate::net::{Counts, FAIR, Link, Weather};
use crate::recording::Studio;

pub const MS: Duration = Duration::from_millis(1);
pub const SECOND: Duration = Duration::from_secs(1);
/// How long a participant whose socket was lost may come back.
const GONE_AFTER: Duration = Duration::from_secs(30);
/// Rounds in which shards may ask to be called again within one millisecond.
const TURNS_MAX: u32 = 40;
/// Until TCP finds out that a line passes again.
const TCP_RETRY: Duration = Duration::from_millis(200);

pub struct World {
    pub random: fastrand::Rng,
    pub now: Duration,
    base: Instant,
    wall: SystemTime,
    signer: Signer,
    verifier: Arc<Verifier>,
    limits: signal::Limits,
    nodes: Vec<Node>,
    pub clients: Vec<Client>,
    ends: Vec<End>,
    queue: BinaryHeap<Reverse<(Duration, u64, Boxed)>>,
    serial: u64,
    /// Signaling on its way: with none of it, what clients believe must be true.
    talk: usize,
    rooms: Vec<String>,
    /// Where a client connects to.
    home: Vec<usize>,
    /// Who owns a public address, for ever.
    owners: HashMap<SocketAddr, usize>,
    strangers: HashSet<SocketAddr>,
    muted: BTreeMap<(u32, bool), Vec<(Duration, Duration)>>,
    /// By subscriber: whom it refused, and since when.
    refused: BTreeMap<(usize, String), Duration>,
    violations: Vec<String>,
    clock_told: Duration,
    draining: bool,
    /// Mail between shards takes this long; a scenario that wants races makes it longer.
    pub mail_delay: Duration,
    pub signal_delay: Duration,
    pub counters: Counters,
    pub studio: Studio,
    /// Nothing was ever lost, on no line.
    fair: bool,
    /// A line on which nothing passes holds signaling up as well.
    pub dark_holds_talk: bool,
    step: Duration,
    last_up: Option<Vec<u8>>,
}

#[derive(Debug, Default)]
pub struct Counters {
    pub datagrams_up: u64,
    pub datagrams_down: u64,
    /// Feedback about arrival times (draft-holmer-rmcat-transport-wide-cc-extensions-01) from clients.
    pub twcc_up: u64,
    pub ticks: u64,
    pub moves: u64,
}

struct Node {
    shard: Shard,
    address: SocketAddr,
    conns: Vec<(u32, Option<usize>)>,
    verified: HashSet<SocketAddr>,
    /// Numbers that went out: by client and SSRC.
    sent: HashMap<(usize, u32), Numbers>,
}

#[derive(Default)]
struct Numbers {
    highest: u64,
    seen: BTreeSet<u64>,
}

/// The world's side of a client.
struct End {
    conn: Option<(usize, ConnKey)>,
    /// Told by its shard that it has joined.
    joined: bool,
    /// Its socket closed without a word then: it may come back for a while, and the others see no leave.
    lost: Option<Duration>,
    up: Link,
    down: Link,
    public: SocketAddr,
    port: u16,
    held: Vec<String>,
    moving: bool,
    gone: bool,
    /// Texts that wait for the line to pass again: up and down.
    stuck: Vec<(bool, String)>,
}

enum Item {
    Up {
        shard: usize,
        source: SocketAddr,
        data: Vec<u8>,
    },
    Down {
        client: usize,
        source: SocketAddr,
        to: SocketAddr,
        data: Vec<u8>,
    },
    TextUp {
        client: usize,
        text: String,
    },
    TextDown {
        client: usize,
        text: String,
    },
    CloseDown {
        client: usize,
        conn: (usize, ConnKey),
        code: u16,
    },
    CloseUp {
        client: usize,
    },
    /// A connection that its client has given up.
    ConnUp {
        client: usize,
        shard: usize,
        conn: ConnKey,
    },
    Mail {
        to: usize,
        mail: Mail,
    },
    Arrival {
        to: usize,
        client: usize,
        session: Box<Session>,
        room: RoomId,
    },
}

/// In the heap by time and serial number only.
struct Boxed(Box<Item>);
impl PartialEq for Boxed {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}
impl Eq for Boxed {}
impl PartialOrd for Boxed {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Boxed {
    fn cmp(&self, _: &Self) -> std::cmp::Ordering {
        std::cmp::Ordering::Equal
    }
}

impl World {
    pub fn new(seed: u64, shards: u8) -> World {
        fastrand::seed(seed);
        let mut random = fastrand::Rng::with_seed(seed);
        let base = Instant::now();
        let wall = SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000);
        let auth =
            AuthConfig { jwt_secret: Some(Secret::new("Zq8vN3xT6bLw1KfYp0HsRj5DgMuC7aEo")), ..AuthConfig::default() };
        let verifier = Arc::new(Verifier::new(&auth).expect("a secret verifies"));
        let signer = Signer::new(&auth).expect("the secret is long enough").expect("a secret signs");
        let mut config = Config::default();
        config.auth = auth;
        let config = Arc::new(config);
        let metrics = Metrics::new(usize::from(shards));
        let nodes = (0..shards)
            .map(|n| {
                let address = SocketAddr::from(([198, 51, 100, 1], 40000 + u16::from(n)));
                let peer = PeerConfig {
                    candidates: vec![address],
                    tcp_candidates: Vec::new(),
                    video_codecs: vec![VideoCodec::Vp8, VideoCodec::H264, VideoCodec::Vp9],
                    audio_bitrate: 128_000,
                    video_max_bitrate: 2_000_000,
                    retransmission_share: 0.25,
                    limits: sdp::Limits::default(),
                    channels: 16,
                    channel_message: 64 * 1024,
                    channel_buffer: 1024 * 1024,
                };
                let shard = ShardConfig {
                    worker: WorkerId(n),
                    workers: shards,
                    config: config.clone(),
                    peer: Arc::new(peer),
                    verifier: verifier.clone(),
                    metrics: metrics.workers[usize::from(n)].clone(),
                    dev_mode: false,
                    seed: random.u64(..),
                };
                Node {
                    shard: Shard::new(base, wall, shard),
                    address,
                    conns: Vec::new(),
                    verified: HashSet::new(),
                    sent: HashMap::new(),
                }
            })
            .collect();
        World {
            random,
            now: Duration::ZERO,
            base,
            wall,
            signer,
            verifier,
            limits: signal::Limits::default(),
            nodes,
            clients: Vec::new(),
            ends: Vec::new(),
            queue: BinaryHeap::new(),
            serial: 0,
            talk: 0,
            rooms: Vec::new(),
            home: Vec::new(),
            owners: HashMap::new(),
            strangers: HashSet::new(),
            muted: BTreeMap::new(),
            refused: BTreeMap::new(),
            violations: Vec::new(),
            clock_told: Duration::ZERO,
            draining: false,
            mail_delay: MS,
            signal_delay: 15 * MS,
            counters: Counters::default(),
            studio: Studio::default(),
            fair: true,
            dark_holds_talk: false,
            step: MS,
            last_up: None,
        }
    }

    // ---- what scenarios do ----

    /// A connection to shard 0 that joins at once.
    pub fn join(&mut self, user: &str, room: &str, plan: &Plan) -> usize {
        self.join_at(0, user, room, plan, FAIR)
    }

    pub fn join_at(&mut self, shard: usize, user: &str, room: &str, plan: &Plan, weather: Weather) -> usize {
        let client = self.connect(shard, user, room, plan, weather);
        self.clients[client].join();
        self.collect(client);
        client
    }

    /// A connection that has not joined yet.
    pub fn connect(&mut self, shard: usize, user: &str, room: &str, plan: &Plan, weather: Weather) -> usize {
        let number = self.rooms.iter().position(|r| r == room).unwrap_or_else(|| {
            self.rooms.push(room.to_owned());
            self.rooms.len() - 1
        });
        let index = self.clients.len();
        let mut client = Client::new(self.base, index as u32, user, room, number as u32, plan.clone());
        let session = self.session(user, plan.role);
        let public = SocketAddr::from(([203, 0, (index >> 8) as u8, index as u8], 10000));
        self.owners.insert(public, index);
        client.lossless = weather.is_lossless();
        client.disorder = weather.disorder();
        self.clients.push(client);
        self.home.push(shard);
        self.ends.push(End {
            conn: None,
            joined: false,
            lost: None,
            up: Link::new(weather),
            down: Link::new(weather),
            public,
            port: 10000,
            held: Vec::new(),
            moving: false,
            gone: false,
            stuck: Vec::new(),
        });
        self.fair &= weather.is_lossless();
        let conn = self.allot(shard, index);
        self.nodes[shard].shard.handle_open(conn, session);
        index
    }

    fn session(&self, user: &str, role: Role) -> Session {
        let claims = Claims {
            user: UserId::new(user).expect("a user id"),
            name: None,
            role,
            rooms: RoomScope::Any,
            permissions: None,
            ttl: Duration::from_secs(7200),
        };
        let token = self.signer.mint(&claims, self.wall);
        let grants = self.verifier.verify(&token, self.wall).expect("just minted");
        Session::new(self.at(), grants, &self.limits)
    }

    pub fn set_weather(&mut self, client: usize, weather: Weather) {
        self.set_up(client, weather);
        self.set_down(client, weather);
    }

    /// The way from the client to the server.
    pub fn set_up(&mut self, client: usize, weather: Weather) {
        self.ends[client].up.weather = weather;
        self.note_weather(client, weather);
    }

    /// The way from the server to the client.
    pub fn set_down(&mut self, client: usize, weather: Weather) {
        self.ends[client].down.weather = weather;
        self.note_weather(client, weather);
    }

    /// What passed one direction so far: up, down.
    pub fn counts(&self, client: usize) -> (Counts, Counts) {
        (self.ends[client].up.counts, self.ends[client].down.counts)
    }

    fn is_dark(&self, client: usize) -> bool {
        self.ends[client].up.weather.dark || self.ends[client].down.weather.dark
    }

    fn note_weather(&mut self, client: usize, weather: Weather) {
        if !self.is_dark(client) {
            // TCP tries again, and finds that it passes.
            for (up, text) in std::mem::take(&mut self.ends[client].stuck) {
                let at = self.now + self.signal_delay + TCP_RETRY;
                self.push(at, if up { Item::TextUp { client, text } } else { Item::TextDown { client, text } });
            }
        }
        self.clients[client].disorder = self.ends[client].down.weather.disorder();
        self.fair &= weather.is_lossless();
        self.clients[client].lossless &= weather.is_lossless();
        let way = weather.delay + weather.jitter + 100 * MS;
        self.clients[client].patience = self.clients[client].patience.max(way * 4 + SECOND);
    }

    pub fn set_weather_all(&mut self, weather: Weather) {
        for client in 0..self.clients.len() {
            self.set_weather(client, weather);
        }
    }

    /// The address translator forgets the client's mapping and makes another.
    pub fn rebind(&mut self, client: usize) {
        let end = &mut self.ends[client];
        end.port += 1;
        end.public.set_port(end.port);
        self.owners.insert(end.public, client);
        // What is under way to the old address is lost.
        self.clients[client].lossless = false;
        self.fair = false;
    }

    /// The client loses its socket; its media goes on. `closed`: the server is told, as when the client's machine resets it.
    pub fn lose_socket(&mut self, client: usize, closed: bool) {
        if self.clients[client].closed.is_some() || !self.clients[client].online {
            return;
        }
        self.clients[client].go_offline();
        self.ends[client].held.clear();
        if let Some((shard, conn)) = self.ends[client].conn.take()
            && closed
        {
            self.talk += 1;
            self.push(self.now + self.signal_delay, Item::ConnUp { client, shard, conn });
        }
    }

    /// A client without a socket has another one, and joins with what it remembers.
    pub fn resume(&mut self, client: usize) {
        let shard = self.home[client];
        let (user, role) = (self.clients[client].user.clone(), self.clients[client].plan.role);
        let session = self.session(&user, role);
        let conn = self.allot(shard, client);
        self.nodes[shard].shard.handle_open(conn, session);
        self.clients[client].come_back();
        self.collect(client);
    }

    /// The client's socket is gone without a word, and the client with it.
    pub fn vanish(&mut self, client: usize) {
        if self.clients[client].closed.is_none() {
            self.clients[client].handle_closed(0);
            self.push(self.now + self.signal_delay, Item::CloseUp { client });
            self.talk += 1;
        }
    }

    /// A datagram from an address that belongs to nobody.
    pub fn stranger(&mut self, data: Vec<u8>) {
        let number = self.strangers.len() as u16;
        let source = SocketAddr::from(([192, 0, 2, (number >> 8) as u8], 1024 + number));
        self.strangers.insert(source);
        let shard = self.random.usize(..self.nodes.len());
        self.push(self.now + MS, Item::Up { shard, source, data });
    }

    /// Lets a client speak for itself now.
    pub fn with(&mut self, client: usize, act: impl FnOnce(&mut Client, Duration)) {
        let now = self.now;
        if self.clients[client].closed.is_none() {
            act(&mut self.clients[client], now);
            self.collect(client);
        }
    }

    pub fn run(&mut self, time: Duration) {
        let until = self.now + time;
        self.run_until(until, |_| false);
    }

    /// Runs until the condition holds; false when it does not within this time.
    pub fn wait(&mut self, time: Duration, condition: impl FnMut(&World) -> bool) -> bool {
        let until = self.now + time;
        self.run_until(until, condition)
    }

    /// Waits, and counts it as a violation when it does not come true.
    pub fn expect(&mut self, what: &str, time: Duration, condition: impl FnMut(&World) -> bool) -> Duration {
        let from = self.now;
        if !self.wait(time, condition) {
            self.violations.push(format!("not within {time:?}: {what}"));
            self.report();
        }
        self.now - from
    }

    /// One row of the table of figures (`cargo test --test sim figure -- --show-output`).
    pub fn figure(&self, what: &str, values: &[(&str, String)]) {
        let values: Vec<String> = values.iter().map(|(name, value)| format!("{name} {value}")).collect();
        println!("| {what} | {} |", values.join(" | "));
    }

    pub fn check(&mut self, holds: bool, what: impl FnOnce() -> String) {
        if !holds {
            self.violations.push(what());
            self.report();
        }
    }

    /// Told on the test's standard output, for those who want numbers (`--nocapture`).
    pub fn note(&self, what: impl FnOnce() -> String) {
        println!("{}", what());
    }

    /// Whatever is due within this time is done in one turn, as a busy loop does.
    pub fn set_step(&mut self, step: Duration) {
        self.step = step;
    }

    /// A stranger repeats the last datagram that a client sent: a check with a user name of ours, or media.
    pub fn replay_as_stranger(&mut self) {
        if let Some(mut data) = self.last_up.clone() {
            // Whoever repeats a check bit by bit is answered: an ICE-lite agent cannot tell.
            if data.len() > 40 && (data[0] < 2 || self.random.bool()) {
                let at = self.random.usize(20..40);
                data[at] ^= 1;
            }
            self.stranger(data);
        }
    }

    pub fn describe(&self, clients: &[usize]) {
        for client in clients {
            eprintln!("{client}: {}", self.clients[*client].describe());
        }
    }

    /// Who does not get what it should, within this time: by listener, publisher and kind.
    pub fn silences(&mut self, alive: &[usize], time: Duration) -> Vec<(usize, usize, bool)> {
        let mut before = Vec::new();
        for &to in alive {
            // Of many voices only some are forwarded; those who are lost may have one as well.
            let room = &self.clients[to].room;
            let is_here = |end: &End| end.joined || end.lost.is_some();
            let ends = self.clients.iter().zip(&self.ends);
            let voices = ends.filter(|(c, end)| c.room == *room && is_here(end)).count() - 1;
            for &from in alive {
                for video in [false, true] {
                    if (video || voices <= 3) && self.should_hear(to, from, video) {
                        before.push((to, from, video, self.clients[to].heard_of(from as u32, video)));
                    }
                }
            }
        }
        self.run(time);
        let silent = |(to, from, video, count): &(usize, usize, bool, u64)| {
            self.clients[*to].heard_of(*from as u32, *video) == *count
        };
        before.iter().filter(|row| silent(row)).map(|(to, from, video, _)| (*to, *from, *video)).collect()
    }

    fn should_hear(&self, to: usize, from: usize, video: bool) -> bool {
        let (listener, publisher) = (&self.clients[to], &self.clients[from]);
        let spans = self.muted.get(&(from as u32, video)).map(Vec::as_slice).unwrap_or_default();
        to != from
            && listener.room == publisher.room
            && listener.joined
            && publisher.joined
            && listener.connected
            && publisher.connected
            && listener.plan.auto_subscribe
            && publisher.is_sending(video)
            && spans.iter().all(|(_, until)| *until < self.now)
            && !listener.muted.contains(&(publisher.user.clone(), video))
            && !self.refused.contains_key(&(to, publisher.user.clone()))
            // A slot may be taken by another.
            && listener.plan.mode == crate::client::Mode::Tracks
    }

    /// No new calls.
    pub fn drain(&mut self) {
        self.draining = true;
        for index in 0..self.nodes.len() {
            self.nodes[index].shard.handle_drain();
            self.take_outputs(index);
        }
    }

    /// The end.
    pub fn stop(&mut self) {
        for index in 0..self.nodes.len() {
            let at = self.at();
            self.nodes[index].shard.handle_stop(at);
            self.take_outputs(index);
            self.take_transmits(index);
        }
    }

    pub fn participants(&self) -> usize {
        self.nodes.iter().map(|n| n.shard.participant_count()).sum()
    }

    pub fn rooms_alive(&self, shard: usize) -> usize {
        self.nodes[shard].shard.room_count()
    }

    pub fn shard_of(&self, client: usize) -> Option<usize> {
        self.ends[client].conn.map(|c| c.0)
    }

    /// Ends the scenario: whatever went wrong is told.
    pub fn report(&mut self) {
        for (index, client) in self.clients.iter_mut().enumerate() {
            let user = client.user.clone();
            self.violations.extend(client.violations.drain(..).map(|v| format!("client {index} ({user}): {v}")));
        }
        if !self.violations.is_empty() {
            let count = self.violations.len();
            let first: Vec<&str> = self.violations.iter().take(5).map(String::as_str).collect();
            panic!("at {:?}, {count} violations:\n  {}", self.now, first.join("\n  "));
        }
    }

    // ---- the loop ----

    /// As the shards know this time.
    pub fn instant(&self, time: Duration) -> Instant {
        self.base + time
    }

    fn at(&self) -> Instant {
        self.base + self.now
    }

    fn run_until(&mut self, until: Duration, mut condition: impl FnMut(&World) -> bool) -> bool {
        loop {
            if condition(self) {
                return true;
            }
            let mut next = self.queue.peek().map_or(Duration::MAX, |Reverse((at, ..))| *at);
            next = self.clients.iter().map(Client::deadline).fold(next, Duration::min);
            for node in &mut self.nodes {
                if let Some(at) = node.shard.poll_timeout() {
                    next = next.min(at.saturating_duration_since(self.base));
                }
            }
            // Whatever is due within a step is done in one turn, as a loop with batches does.
            let step = self.step.as_micros();
            let next = Duration::from_micros((next.min(until).as_micros().div_ceil(step) * step) as u64);
            if next >= until {
                self.now = until;
                self.judge();
                return condition(self);
            }
            self.now = next.max(self.now + MS);
            self.turn();
            if !self.violations.is_empty() {
                self.report();
            }
        }
    }

    fn turn(&mut self) {
        self.counters.ticks += 1;
        let now = self.now;
        let at = self.at();
        if now >= self.clock_told + SECOND {
            self.clock_told = now;
            // A socket that is open answers pings, as long as something passes.
            for client in 0..self.ends.len() {
                if let Some((shard, conn)) = self.ends[client].conn
                    && !(self.dark_holds_talk && self.is_dark(client))
                {
                    self.nodes[shard].shard.handle_pong(self.base + now, conn);
                }
            }
            for node in &mut self.nodes {
                node.shard.handle_clock(self.wall + now);
            }
        }
        while self.queue.peek().is_some_and(|Reverse((at, ..))| *at <= now) {
            let Some(Reverse((_, _, item))) = self.queue.pop() else { break };
            self.deliver(*item.0);
        }
        for index in 0..self.nodes.len() {
            let mut turns = 0;
            loop {
                let shard = &mut self.nodes[index].shard;
                shard.handle_timeout(at);
                shard.flush(at);
                self.take_outputs(index);
                self.take_transmits(index);
                let shard = &mut self.nodes[index].shard;
                if !shard.wants_flush() && shard.poll_timeout().is_none_or(|due| due > at) {
                    break;
                }
                turns += 1;
                if turns > TURNS_MAX {
                    let due = shard.poll_timeout().map(|due| due.saturating_duration_since(self.base));
                    let wants = shard.wants_flush();
                    self.violations.push(format!("shard {index} spins: due {due:?} at {now:?}, flush {wants}"));
                    break;
                }
            }
        }
        for client in 0..self.clients.len() {
            if self.clients[client].deadline() <= now {
                self.clients[client].handle_timeout(now);
                self.collect(client);
            }
        }
        self.judge();
    }

    fn push(&mut self, at: Duration, item: Item) {
        self.serial += 1;
        self.queue.push(Reverse((at, self.serial, Boxed(Box::new(item)))));
    }

    fn deliver(&mut self, item: Item) {
        let at = self.at();
        match item {
            Item::Up { shard, source, data } => {
                self.counters.twcc_up += u64::from(data.starts_with(&[0x8f, 205]));
                let node = &mut self.nodes[shard];
                node.shard.handle_datagram(at, node.address, source, &data);
                self.counters.datagrams_up += 1;
            }
            Item::Down { client, source, to, data } => {
                // A mapping that was given up leads nowhere.
                if self.ends[client].public == to && self.clients[client].closed.is_none() {
                    self.clients[client].handle_datagram(self.now, source, &data);
                    self.collect(client);
                }
                self.counters.datagrams_down += 1;
            }
            Item::TextUp { client, text } => {
                self.talk -= 1;
                self.text_up(client, text);
            }
            Item::TextDown { client, text } => {
                self.talk -= 1;
                if self.clients[client].closed.is_none() && self.clients[client].online {
                    self.clients[client].handle_text(self.now, &text);
                    self.collect(client);
                }
            }
            Item::ConnUp { client, shard, conn } => {
                self.talk -= 1;
                // Unless it came back sooner than this did.
                if self.ends[client].conn.is_none() && std::mem::take(&mut self.ends[client].joined) {
                    self.ends[client].lost = (!self.draining).then_some(self.now);
                }
                self.nodes[shard].shard.handle_closed(at, conn);
                self.release(shard, conn);
                self.take_outputs(shard);
            }
            Item::CloseDown { client, conn, code } => {
                self.talk -= 1;
                if self.ends[client].conn != Some(conn) {
                    let (shard, conn) = conn;
                    self.nodes[shard].shard.handle_closed(at, conn);
                    self.release(shard, conn);
                    return;
                }
                self.clients[client].handle_closed(u64::from(code));
                self.talk += 1;
                self.push(self.now + self.signal_delay, Item::CloseUp { client });
            }
            Item::CloseUp { client } => {
                self.talk -= 1;
                self.ends[client].gone = true;
                if std::mem::take(&mut self.ends[client].joined) && !self.draining {
                    self.ends[client].lost = Some(self.now);
                }
                if let Some((shard, conn)) = self.ends[client].conn.take() {
                    self.nodes[shard].shard.handle_closed(at, conn);
                    self.release(shard, conn);
                }
            }
            Item::Mail { to, mail } => {
                self.talk -= 1;
                self.nodes[to].shard.handle_mail(at, mail);
            }
            Item::Arrival { to, client, session, room } => {
                self.talk -= 1;
                self.ends[client].moving = false;
                if self.ends[client].gone {
                    self.nodes[to].shard.handle_lost_arrival(room);
                    return;
                }
                let conn = self.allot(to, client);
                self.nodes[to].shard.handle_arrival(at, conn, *session);
                for text in std::mem::take(&mut self.ends[client].held) {
                    self.text_up(client, text);
                }
            }
        }
    }

    fn text_up(&mut self, client: usize, text: String) {
        if self.ends[client].moving {
            self.ends[client].held.push(text);
            return;
        }
        let Some((shard, conn)) = self.ends[client].conn else { return };
        self.note_wishes(client, &text);
        let at = self.at();
        self.nodes[shard].shard.handle_text(at, conn, &text);
        self.take_outputs(shard);
    }

    /// What a client asked not to get must not come any more.
    fn note_wishes(&mut self, client: usize, text: &str) {
        if !self.ends[client].joined || !text.contains("subscribe\"") && !text.contains("\"unmute\"") {
            return;
        }
        let Ok(message) = serde_json::from_str::<serde_json::Value>(text) else { return };
        if message["type"] == "unmute" && message["targetUserId"].is_null() {
            // With nobody else in the room, nobody is told.
            let video = message["data"]["kind"] == "video";
            if let Some((_, until)) = self.muted.get_mut(&(client as u32, video)).and_then(|s| s.last_mut()) {
                *until = self.now.min(*until);
            }
            return;
        }
        let Some(user) = message["data"]["userId"].as_str() else { return };
        let room = &self.clients[client].room;
        let is_there = |c: &Client| c.user == user && c.room == *room && self.ends[c.index as usize].joined;
        let known = self.clients.iter().any(is_there);
        match message["type"].as_str() {
            Some("unsubscribe") if known => {
                self.refused.entry((client, user.to_owned())).or_insert(self.now);
            }
            Some("subscribe") => {
                self.refused.remove(&(client, user.to_owned()));
            }
            _ => {}
        }
    }

    fn take_outputs(&mut self, index: usize) {
        while let Some(output) = self.nodes[index].shard.poll_output() {
            match output {
                Output::Send { conn, text } => {
                    let Some(client) = self.client_of(index, conn) else { continue };
                    if self.ends[client].conn != Some((index, conn)) {
                        // A socket that its client has lost.
                        continue;
                    }
                    self.note_truth(client, text.as_str());
                    self.talk += 1;
                    let text = text.as_str().to_owned();
                    if self.dark_holds_talk && self.is_dark(client) {
                        self.ends[client].stuck.push((false, text));
                    } else {
                        self.push(self.now + self.signal_delay, Item::TextDown { client, text });
                    }
                }
                Output::Close { conn, code, .. } => {
                    let Some(client) = self.client_of(index, conn) else { continue };
                    if self.ends[client].conn == Some((index, conn)) {
                        self.ends[client].joined = false;
                    }
                    self.talk += 1;
                    let conn = (index, conn);
                    self.push(self.now + self.signal_delay, Item::CloseDown { client, conn, code });
                }
                Output::Move { conn, room, to } => {
                    self.counters.moves += 1;
                    let Some(session) = self.nodes[index].shard.take_session(conn) else {
                        self.nodes[index].shard.handle_lost_arrival(room);
                        continue;
                    };
                    if !matches!(session.phase(), Phase::Joining { .. }) {
                        self.violations.push("a session that is not joining moves".into());
                        continue;
                    }
                    let Some(client) = self.client_of(index, conn) else {
                        self.nodes[index].shard.handle_lost_arrival(room);
                        continue;
                    };
                    self.release(index, conn);
                    self.ends[client].conn = None;
                    self.ends[client].moving = true;
                    self.talk += 1;
                    let to = usize::from(to.0);
                    self.push(
                        self.now + self.mail_delay,
                        Item::Arrival { to, client, session: Box::new(session), room },
                    );
                }
                Output::Mail { to, mail } => {
                    self.talk += 1;
                    self.push(self.now + self.mail_delay, Item::Mail { to: usize::from(to.0), mail });
                }
                Output::CloseStream { source } => self.violations.push(format!("there is no connection from {source}")),
                Output::Record(feed) => match self.studio.handle(self.now, feed) {
                    Ok(None) => {}
                    Ok(Some(notice)) => {
                        self.talk += 1;
                        self.push(self.now + self.mail_delay, Item::Mail { to: index, mail: Mail::Recording(notice) });
                    }
                    Err(feed) => {
                        let at = self.at();
                        self.nodes[index].shard.handle_feed_refused(at, feed);
                    }
                },
                // Nobody here speaks HTTP.
                Output::Answer { .. } => {}
            }
        }
    }

    /// What the server tells everybody is what it must keep to.
    fn note_truth(&mut self, client: usize, text: &str) {
        if text.starts_with("{\"type\":\"joined\"") {
            self.ends[client].joined = true;
            // An older session of the same user is replaced or resumed.
            let (user, room) = (self.clients[client].user.clone(), self.clients[client].room.clone());
            for (other, end) in self.clients.iter().zip(&mut self.ends) {
                if other.user == user && other.room == room {
                    end.lost = None;
                }
            }
            return;
        }
        let muted = text.starts_with("{\"type\":\"muted\"");
        if !muted && !text.starts_with("{\"type\":\"unmuted\"") {
            return;
        }
        let Ok(message) = serde_json::from_str::<serde_json::Value>(text) else { return };
        let (user, room) = (message["userId"].as_str().unwrap_or(""), self.clients[client].room.clone());
        let video = message["data"]["kind"] == "video";
        for c in self.clients.iter().filter(|c| c.user == user && c.room == room && self.ends[c.index as usize].joined)
        {
            let spans = self.muted.entry((c.index, video)).or_default();
            match spans.last_mut() {
                Some((_, until)) if *until == Duration::MAX => {
                    if !muted {
                        *until = self.now;
                    }
                }
                _ if muted => spans.push((self.now, Duration::MAX)),
                _ => {}
            }
        }
    }

    fn take_transmits(&mut self, index: usize) {
        while let Some(t) = self.nodes[index].shard.poll_transmit() {
            let node = &mut self.nodes[index];
            let Some(client) = self.owners.get(&t.destination).copied() else {
                self.violations.push(format!("a datagram for {}, which is nobody's", t.destination));
                continue;
            };
            if t.source != node.address {
                self.violations.push(format!("a datagram from {}", t.source));
            }
            if t.data.starts_with(&[1, 1]) {
                node.verified.insert(t.destination);
            } else if !node.verified.contains(&t.destination) {
                self.violations.push(format!("a datagram for {} before any check from there", t.destination));
            }
            if let [128..=191, second, a, b, _, _, _, _, s0, s1, s2, s3, ..] = *t.data
                && !(192..=223).contains(&second)
            {
                let numbers = node.sent.entry((client, u32::from_be_bytes([s0, s1, s2, s3]))).or_default();
                if !numbers.take(u16::from_be_bytes([a, b])) {
                    self.violations.push(format!("sequence number {} was sent twice", u16::from_be_bytes([a, b])));
                }
            }
            let source = node.address;
            for at in self.ends[client].down.pass(&mut self.random, self.now, t.data.len()) {
                self.push(at, Item::Down { client, source, to: t.destination, data: t.data.clone() });
            }
        }
    }

    /// Takes what a client wants to send.
    fn collect(&mut self, client: usize) {
        while let Some(text) = self.clients[client].outbox.pop_front() {
            self.talk += 1;
            if self.dark_holds_talk && self.is_dark(client) {
                self.ends[client].stuck.push((true, text));
            } else {
                self.push(self.now + self.signal_delay, Item::TextUp { client, text });
            }
        }
        while let Some((destination, data)) = self.clients[client].transmits.pop_front() {
            let Some(shard) = self.nodes.iter().position(|n| n.address == destination) else { continue };
            let source = self.ends[client].public;
            self.last_up = Some(data.clone());
            for at in self.ends[client].up.pass(&mut self.random, self.now, data.len()) {
                self.push(at, Item::Up { shard, source, data: data.clone() });
            }
        }
        let arrived = std::mem::take(&mut self.clients[client].arrived);
        for seen in arrived {
            self.judge_packet(client, &seen);
        }
    }

    fn judge_packet(&mut self, client: usize, seen: &Seen) {
        let me = &self.clients[client];
        if seen.tag.room != me.room_number {
            self.violations.push(format!("media of another room at {}: {seen:?}", me.user));
        }
        if seen.tag.client == client as u32 {
            self.violations.push(format!("{} hears itself: {seen:?}", me.user));
        }
        let sent = Duration::from_millis(u64::from(seen.tag.sent_ms));
        let spans = self.muted.get(&(seen.tag.client, seen.tag.is_video())).map(Vec::as_slice).unwrap_or_default();
        if spans.iter().any(|(from, until)| sent > *from && until.checked_sub(2 * SECOND).is_some_and(|u| sent < u)) {
            self.violations.push(format!("{} hears what is muted: {seen:?}", me.user));
        }
        let publisher = &self.clients[seen.tag.client as usize].user;
        if self.refused.get(&(client, publisher.clone())).is_some_and(|since| sent > *since) {
            self.violations.push(format!("{} hears {publisher}, whom it does not want: {seen:?}", me.user));
        }
    }

    fn judge(&mut self) {
        let names: Vec<String> = self.clients.iter().map(|c| c.user.clone()).collect();
        let (now, fair) = (self.now, self.fair);
        for client in &mut self.clients {
            client.judge_names(now, fair, |index| names[index as usize].clone());
            if !client.violations.is_empty() {
                let user = client.user.clone();
                self.violations.extend(client.violations.drain(..).map(|v| format!("{user}: {v}")));
            }
        }
        // The moment at which a lost participant is given up is known within a look.
        let is_settled = |since: &Duration| now < *since + GONE_AFTER || now > *since + GONE_AFTER + SECOND;
        if !self.ends.iter().filter_map(|e| e.lost.as_ref()).all(is_settled) {
            return;
        }
        // Between an output and its delivery the two may differ; with nothing under way they may not.
        if self.talk > 0 {
            return;
        }
        let is_here = |end: &End| end.joined || end.lost.is_some_and(|since| now < since + GONE_AFTER);
        let joined = self.ends.iter().filter(|e| is_here(e)).count();
        let present = self.participants();
        if present != joined {
            self.violations.push(format!("{present} participants, but {joined} sessions were told that they joined"));
        }
        for (index, client) in self.clients.iter().enumerate() {
            if !self.ends[index].joined || !client.online {
                continue;
            }
            let others: BTreeSet<String> = self
                .clients
                .iter()
                .filter(|c| c.room == client.room && c.index as usize != index && is_here(&self.ends[c.index as usize]))
                .map(|c| c.user.clone())
                .collect();
            if others != client.roster {
                let (user, seen) = (&client.user, &client.roster);
                self.violations.push(format!("{user} believes that {seen:?} are there, but {others:?} are"));
            }
        }
    }

    // ---- connections ----

    fn allot(&mut self, shard: usize, client: usize) -> ConnKey {
        let conns = &mut self.nodes[shard].conns;
        let slot = conns.iter().position(|c| c.1.is_none()).unwrap_or_else(|| {
            conns.push((0, None));
            conns.len() - 1
        });
        conns[slot] = (conns[slot].0 + 1, Some(client));
        let conn = ConnKey { slot: slot as u32, generation: conns[slot].0 };
        self.ends[client].conn = Some((shard, conn));
        conn
    }

    fn release(&mut self, shard: usize, conn: ConnKey) {
        self.nodes[shard].conns[conn.slot as usize].1 = None;
    }

    fn client_of(&self, shard: usize, conn: ConnKey) -> Option<usize> {
        let (generation, client) = *self.nodes[shard].conns.get(conn.slot as usize)?;
        client.filter(|_| generation == conn.generation)
    }
}

impl Numbers {
    /// False when the number was there before. Numbers go forward by less than half their range.
    fn take(&mut self, number: u16) -> bool {
        let ahead = number.wrapping_sub(self.highest as u16) as i16;
        let extended = match self.highest {
            0 => u64::from(number) + (1 << 20),
            highest => highest.saturating_add_signed(i64::from(ahead)),
        };
        self.highest = self.highest.max(extended);
        if self.seen.len() > 4000 {
            self.seen.pop_first();
        }
        self.seen.insert(extended)
    }
}
