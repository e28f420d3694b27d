//! The machine that owns everything of one core: sessions, rooms, participants, their peers and who gets whose media.
//!
//! Still a machine: it is fed texts, datagrams, mail and time, and asked for outputs and the next deadline. The worker
//! drives it on a real loop, the simulator with virtual time. Machines inside it never call each other; the shard
//! carries values between them.
//!
//! One turn: any number of `handle_*`, then [`Shard::flush`] once, then [`Shard::poll_output`] and
//! [`Shard::poll_transmit`] until `None`, then sleep until [`Shard::poll_timeout`].
//!
//! - [`demux`]: whose datagram is this
//! - [`directory`]: which worker a room lives on
//! - `recording`: what is recorded of a room
//! - `media`: datagrams, forwarding, negotiation of what a participant receives
//! - `control`: who speaks, and what of each track everybody gets
//! - `presence`: who is lost, back, or gone
//! - `stats`: how good everybody's connection is
//! - `data`: messages on data channels
//! - `signaling`: what a message of a client does
//! - `whip`: questions that come by HTTP, WHIP and WHEP sessions

mod control;
mod data;
pub mod demux;
pub mod directory;
mod media;
mod presence;
mod recording;
mod signaling;
mod stats;
mod whip;

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use rustc_hash::FxHashMap;
use slab::Slab;
use str0m::media::{MediaKind, Mid};
use str0m::net::Protocol;
use tungstenite::Utf8Bytes;

use crate::auth::Verifier;
use crate::base::limit::TokenBucket;
use crate::base::wheel::Wheel;
use crate::base::{ConnKey, ParticipantKey, RoomId, TrackId, UserId, WorkerId};
use crate::config::Config;
use crate::http::question::{Question, Reply};
use crate::metrics::WorkerMetrics;
use crate::p2p::P2p;
use crate::peer::{Peer, PeerConfig, Sink, Transmit};
use crate::quality::{self, Meter};
use crate::recording::feed::{EndReason, Feed, Notice};
use crate::room::{LeaveReason, Room};
use crate::sfu::allocate::{Allocator, Caps, Current};
use crate::sfu::speaker::Speakers;
use crate::sfu::{Forward, LayerInfo, Sfu, SfuConfig, Target};
use crate::signal::message::{EncodingWanted, LayerReason, Receive, TrackName, TrackRef};
use crate::signal::session::{Action, Phase, Session};

use control::{TICK, VOICES};
use directory::Directory;
use presence::Presence;
use signaling::{MESSAGES_BURST, MESSAGES_PER_SECOND};

pub use whip::Asker;

/// What a shard needs to know of its surroundings.
pub struct ShardConfig {
    pub worker: WorkerId,
    pub workers: u8,
    pub config: Arc<Config>,
    pub peer: Arc<PeerConfig>,
    pub verifier: Arc<Verifier>,
    pub metrics: Arc<WorkerMetrics>,
    /// No key was configured: the first to join a call is its host.
    pub dev_mode: bool,
    /// Seeds everything that need not be secret, so that a simulation repeats.
    pub seed: u64,
}

/// What a shard asks its worker to do.
#[derive(Debug)]
pub enum Output {
    /// A signaling message for a client.
    Send { conn: ConnKey, text: Utf8Bytes },
    /// Close a client's WebSocket once what was sent before is out.
    Close { conn: ConnKey, code: u16, reason: &'static str },
    /// Hand the connection, with [`Shard::take_session`], to the worker of this room. When it has gone meanwhile:
    /// [`Shard::handle_lost_arrival`].
    Move { conn: ConnKey, room: RoomId, to: WorkerId },
    /// Mail for another worker's shard. When its mailbox is full: [`Shard::handle_undeliverable`].
    Mail { to: WorkerId, mail: Mail },
    /// Close the TCP connection that `source` opened for media, once what was sent before is out.
    CloseStream { source: SocketAddr },
    /// For the thread that records. When it does not take it: [`Shard::handle_feed_refused`].
    Record(Feed),
    /// Answer the request that was given to [`Shard::handle_question`] with this number.
    Answer { conn: ConnKey, number: u32, reply: Reply },
}

/// What shards write to each other.
#[derive(Debug)]
pub enum Mail {
    /// To worker 0: where does this room live?
    Locate { from: WorkerId, conn: ConnKey, room: RoomId, create: bool },
    /// The answer.
    Located { conn: ConnKey, room: RoomId, place: Result<WorkerId, directory::Refusal> },
    /// To worker 0: these joins are accounted for, see [`directory`].
    Settle { room: RoomId, arrivals: u64 },
    /// To worker 0: a question about a room.
    Ask { from: Asker, room: RoomId, question: Box<Question> },
    /// From worker 0 to the worker of the room: the same, counted as a join when it is one.
    Visit { from: Asker, room: RoomId, question: Box<Question> },
    /// To where the question came from.
    Answer { to: Asker, reply: Reply },
    /// From the thread that records.
    Recording(Notice),
}

/// See the module's documentation.
pub struct Shard {
    id: WorkerId,
    config: Arc<Config>,
    peer_config: Arc<PeerConfig>,
    verifier: Arc<Verifier>,
    metrics: Arc<WorkerMetrics>,
    dev_mode: bool,
    draining: bool,
    message_limits: crate::signal::Limits,
    wall: SystemTime,
    random: fastrand::Rng,

    sessions: FxHashMap<ConnKey, Session>,
    /// The key of the session at a slot of the worker's table, for its timer.
    session_at: FxHashMap<u32, ConnKey>,
    participants: Slab<Participant>,
    next_generation: u32,
    next_track: u64,
    next_offer: u64,
    rooms: Slab<RoomState>,
    room_by_id: FxHashMap<RoomId, usize>,
    /// Addresses from which an authenticated check came.
    addresses: FxHashMap<(Protocol, SocketAddr), ParticipantKey>,
    /// Peers that passed a connectivity check and whose DTLS handshake is not done.
    connecting: usize,
    ufrags: FxHashMap<Box<[u8]>, ParticipantKey>,
    /// Only worker 0 has it.
    directory: Option<Directory>,

    wheel: Wheel,
    /// Participants whose peer was fed or written to in this turn.
    touched: Vec<ParticipantKey>,
    /// Participants whose outgoing lines may have to change.
    unplanned: Vec<ParticipantKey>,
    sink: Sink,
    forwards: Vec<Forward>,
    allocator: Allocator<usize>,
    layers: Vec<LayerInfo>,
    ratings: Vec<quality::Event>,
    /// What the thread that records had no room for, and when to try again. Bounded there.
    unfed: Vec<(Instant, Feed)>,
    outputs: VecDeque<Output>,
    transmits: VecDeque<Transmit>,
}

/// A person in a room, with the session and the peer that serve them.
struct Participant {
    generation: u32,
    /// The signaling connection. `None`: there is none (WHIP, WHEP), or it was lost and may be resumed.
    conn: Option<ConnKey>,
    /// It takes part by WHIP or WHEP: it goes with its media connection.
    whip: Option<Box<crate::whip::Session>>,
    room: usize,
    user: UserId,
    receive: Receive,
    auto_subscribe: bool,
    /// Of `subscribe` and `unsubscribe`, the latest last.
    wishes: Vec<Wish>,
    may_subscribe: bool,
    peer: Option<Peer>,
    /// The peer whose first offer was crossed by the client's own, until it is clear which of the two the client goes by.
    shelved: Option<Peer>,
    /// Which PeerConnection of the client's the peer belongs to ([`sdp::identity`]), and to which the one before did.
    identity: Option<String>,
    ended: Option<String>,
    ufrags: Vec<Box<[u8]>>,
    addresses: Vec<(Protocol, SocketAddr)>,
    published: Vec<Published>,
    carried: Vec<Carried>,
    /// Bit/s of video that was allotted last, and whether that is less than wished for.
    allotted: u64,
    is_limited: bool,
    /// What the estimator was told last: minimum and desired, in bit/s.
    bitrates: (u64, u64),
    /// Until then no better layer is given.
    raise_after: Instant,
    /// More was sent than its line takes, and what waits there has not left yet.
    is_flooded: bool,
    replays: control::Replays,
    names: Vec<TrackName>,
    candidates: usize,
    restart_wanted: bool,
    presence: Presence,
    /// When a packet of its came last.
    packet_at: Instant,
    meter: Meter,
    assess_at: Instant,
    /// What a client shows to go on after its socket was lost. `None`: it has no use for one.
    resume_token: Option<Box<str>>,
    /// Messages on data channels.
    messages: TokenBucket,
    /// When the DTLS handshake under way is given up.
    handshake_until: Option<Instant>,
    touched: bool,
    /// Is among [`Shard::unplanned`].
    unplanned: bool,
    /// Something was written to the peer since its last flush.
    dirty: bool,
}

/// What a client wants to receive of a track, or of all tracks of a user.
#[derive(Debug, Clone)]
struct Wish {
    what: TrackRef,
    /// `unsubscribe` says that it does not.
    wanted: bool,
    paused: bool,
    /// Greater is more important.
    priority: u32,
    caps: Caps,
}

/// An outgoing line that carries a track.
#[derive(Debug, Clone, Copy)]
struct Carried {
    mid: Mid,
    kind: MediaKind,
    track: TrackId,
    /// What the last allocation gave.
    current: Current,
    bitrate: u64,
    reason: LayerReason,
    /// What it is to be sent, and what the sfu was told of that. `None`: nothing yet.
    wanted: Target,
    target: Option<Target>,
    /// A lower encoding is to be sent than still is.
    lowers: bool,
    /// Since when bandwidth is short of the size that a screen has.
    short_since: Option<Instant>,
    /// What the client told of its picture.
    freezes: Option<stats::Freezes>,
}

impl Carried {
    fn new(mid: Mid, kind: MediaKind, track: TrackId) -> Carried {
        Carried {
            mid,
            kind,
            track,
            current: Current::Nothing,
            bitrate: 0,
            reason: LayerReason::Source,
            wanted: Target::Paused,
            target: None,
            lowers: false,
            short_since: None,
            freezes: None,
        }
    }
}

#[derive(Debug, Clone, Copy)]
struct Published {
    mid: Mid,
    track: TrackId,
}

/// A room and what belongs to it.
struct RoomState {
    id: RoomId,
    room: Room,
    sfu: Sfu,
    p2p: P2p,
    /// Who publishes a track, and on which line.
    sources: FxHashMap<TrackId, (ParticipantKey, Mid)>,
    speakers: Speakers<TrackId>,
    /// The tracks that are heard first, one more than each subscriber gets, since nobody hears oneself.
    voices: Vec<TrackId>,
    /// Which encodings publishers were told to send or not to.
    wanted: FxHashMap<TrackId, Vec<EncodingWanted>>,
    created: SystemTime,
    /// Joins that came here, see [`directory`].
    arrivals: u64,
    /// Bounds how often WHIP and WHEP sessions are opened, once one was.
    openings: Option<TokenBucket>,
    /// What is recorded of it.
    tap: Option<recording::Tap>,
    /// Something of it is or was recorded, or should have been: the settings want that once only.
    was_recorded: bool,
}

impl Participant {
    /// Somebody who has just entered the room, which knows the name.
    fn new(now: Instant, key: ParticipantKey, index: usize, room: &Room) -> Participant {
        let user = room.participant(key).map(|p| p.user.clone()).expect("it has entered the room");
        Participant {
            generation: key.generation,
            conn: None,
            whip: None,
            room: index,
            user,
            receive: Receive::Slots,
            auto_subscribe: true,
            wishes: Vec::new(),
            may_subscribe: false,
            peer: None,
            shelved: None,
            identity: None,
            ended: None,
            ufrags: Vec::new(),
            addresses: Vec::new(),
            published: Vec::new(),
            carried: Vec::new(),
            allotted: 0,
            is_limited: false,
            bitrates: (0, 0),
            raise_after: now,
            is_flooded: false,
            replays: control::Replays::default(),
            names: Vec::new(),
            candidates: 0,
            restart_wanted: false,
            presence: Presence::default(),
            packet_at: now,
            meter: Meter::default(),
            assess_at: now,
            resume_token: None,
            messages: TokenBucket::new(now, MESSAGES_PER_SECOND, MESSAGES_BURST),
            handshake_until: None,
            touched: false,
            unplanned: false,
            dirty: false,
        }
    }
}

/// All that have a deadline share one wheel.
#[derive(Debug, Clone, Copy)]
enum TimerKey {
    Participant(usize),
    /// What the sfu wants.
    Room(usize),
    /// The regular look at a room.
    Tick(usize),
    Session(u32),
}

impl TimerKey {
    fn index(self) -> usize {
        match self {
            TimerKey::Participant(slot) => slot * 4,
            TimerKey::Room(slot) => slot * 4 + 1,
            TimerKey::Tick(slot) => slot * 4 + 2,
            TimerKey::Session(slot) => slot as usize * 4 + 3,
        }
    }

    fn from_index(index: usize) -> TimerKey {
        match index % 4 {
            0 => TimerKey::Participant(index / 4),
            1 => TimerKey::Room(index / 4),
            2 => TimerKey::Tick(index / 4),
            _ => TimerKey::Session((index / 4) as u32),
        }
    }
}

impl Shard {
    pub fn new(now: Instant, wall: SystemTime, config: ShardConfig) -> Shard {
        let directory =
            (config.worker == WorkerId(0)).then(|| Directory::new(config.workers, config.config.limits.rooms));
        Shard {
            id: config.worker,
            config: config.config.clone(),
            peer_config: config.peer,
            verifier: config.verifier,
            metrics: config.metrics,
            dev_mode: config.dev_mode,
            draining: false,
            message_limits: crate::signal::Limits {
                json_depth: config.config.limits.json_depth,
                json_members: config.config.limits.json_members,
                ..crate::signal::Limits::default()
            },
            wall,
            random: fastrand::Rng::with_seed(config.seed),
            sessions: FxHashMap::default(),
            session_at: FxHashMap::default(),
            connecting: 0,
            participants: Slab::new(),
            next_generation: 0,
            // The worker's number in the upper bits keeps the ids of two workers apart.
            next_offer: 1,
            next_track: u64::from(config.worker.0) << 56 | 1,
            rooms: Slab::new(),
            room_by_id: FxHashMap::default(),
            addresses: FxHashMap::default(),
            ufrags: FxHashMap::default(),
            directory,
            wheel: Wheel::new(now),
            touched: Vec::new(),
            unplanned: Vec::new(),
            sink: Sink::default(),
            forwards: Vec::new(),
            allocator: Allocator::default(),
            layers: Vec::new(),
            ratings: Vec::new(),
            unfed: Vec::new(),
            outputs: VecDeque::new(),
            transmits: VecDeque::new(),
        }
    }

    /// Wall time, for humans and tokens only. To be told about once a second.
    pub fn handle_clock(&mut self, wall: SystemTime) {
        self.wall = wall;
    }

    /// A WebSocket was accepted on this worker.
    pub fn handle_open(&mut self, conn: ConnKey, session: Session) {
        self.sessions.insert(conn, session);
        self.session_at.insert(conn.slot, conn);
        self.arm_session(conn);
    }

    /// A connection came from another worker; its join goes on here.
    pub fn handle_arrival(&mut self, now: Instant, conn: ConnKey, session: Session) {
        self.handle_open(conn, session);
        self.enter(now, conn);
        self.settle(now);
    }

    /// A connection that was to come from another worker was gone before it could.
    pub fn handle_lost_arrival(&mut self, room: RoomId) {
        self.account(room, 1);
    }

    /// Takes the session of a connection that moves away.
    pub fn take_session(&mut self, conn: ConnKey) -> Option<Session> {
        let session = self.sessions.remove(&conn)?;
        self.session_at.remove(&conn.slot);
        self.wheel.cancel(TimerKey::Session(conn.slot).index());
        Some(session)
    }

    /// The largest message, in bytes, that a connection may send next. `None` while its join is under way: what follows
    /// has to wait until the join is answered.
    pub fn message_max(&self, conn: ConnKey) -> Option<usize> {
        match self.sessions.get(&conn) {
            Some(session) if matches!(session.phase(), Phase::Joining { .. }) => None,
            Some(session) => Some(session.message_bytes_max()),
            None => Some(self.config.limits.message),
        }
    }

    pub fn handle_text(&mut self, now: Instant, conn: ConnKey, text: &str) {
        let Some(session) = self.sessions.get_mut(&conn) else { return };
        let participant = session.participant();
        let action = session.handle_text(now, text);
        self.act(now, conn, participant, action);
        self.settle(now);
    }

    pub fn handle_binary(&mut self, now: Instant, conn: ConnKey) {
        let Some(session) = self.sessions.get_mut(&conn) else { return };
        let participant = session.participant();
        let action = session.handle_binary(now);
        self.act(now, conn, participant, action);
        self.settle(now);
    }

    /// The client closed its connection on purpose, or broke the rules of it.
    pub fn handle_left(&mut self, now: Instant, conn: ConnKey) {
        self.handle_closed_session(now, conn, LeaveReason::Left);
        self.settle(now);
    }

    /// The connection is gone without a word.
    pub fn handle_closed(&mut self, now: Instant, conn: ConnKey) {
        if let Some(session) = self.take_session(conn)
            && let Some(participant) = session.participant()
        {
            self.lose_socket(now, participant);
        }
        self.settle(now);
    }

    /// The client answered a ping.
    pub fn handle_pong(&mut self, now: Instant, conn: ConnKey) {
        if let Some(session) = self.sessions.get_mut(&conn) {
            session.note_heard(now);
        }
    }

    pub fn handle_mail(&mut self, now: Instant, mail: Mail) {
        match mail {
            Mail::Locate { from, conn, room, create } => {
                let place = match &mut self.directory {
                    Some(directory) => directory.locate(&room, create),
                    None => Err(directory::Refusal::NotFound),
                };
                self.outputs.push_back(Output::Mail { to: from, mail: Mail::Located { conn, room, place } });
            }
            Mail::Located { conn, room, place } => self.on_located(now, conn, room, place),
            Mail::Settle { room, arrivals } => {
                if let Some(directory) = &mut self.directory {
                    directory.settle(&room, arrivals);
                }
            }
            Mail::Ask { from, room, question } => self.direct(now, from, room, *question),
            Mail::Visit { from, room, question } => self.visit(now, from, room, *question),
            Mail::Answer { to, reply } => self.on_answer(to, reply),
            Mail::Recording(notice) => self.on_notice(now, notice),
        }
        self.settle(now);
    }

    /// No new joins; everyone is told. The worker waits until [`Shard::is_idle`].
    pub fn handle_drain(&mut self) {
        if !self.draining {
            self.draining = true;
            self.announce_draining();
        }
    }

    /// Ends everything: media connections get a close_notify, sockets 1001.
    pub fn handle_stop(&mut self, now: Instant) {
        self.draining = true;
        for index in self.rooms.iter().map(|(index, _)| index).collect::<Vec<_>>() {
            self.end_recording(now, index, EndReason::ServerStopped, None);
        }
        let keys: Vec<ParticipantKey> = self.keys().collect();
        for key in keys {
            self.remove_participant(now, key, LeaveReason::ServerStopped);
        }
        let conns: Vec<ConnKey> = self.sessions.keys().copied().collect();
        for conn in conns {
            self.outputs.push_back(Output::Close { conn, code: 1001, reason: "server going away" });
        }
        self.settle(now);
        self.flush(now);
    }

    /// Nobody is in a call here.
    pub fn is_idle(&self) -> bool {
        self.participants.is_empty()
    }

    pub fn participant_count(&self) -> usize {
        self.participants.len()
    }

    pub fn room_count(&self) -> usize {
        self.rooms.len()
    }

    /// Serves every deadline that has passed.
    pub fn handle_timeout(&mut self, now: Instant) {
        while let Some(index) = self.wheel.expired(now) {
            match TimerKey::from_index(index) {
                TimerKey::Participant(slot) => {
                    if let Some(key) = self.key_of(slot) {
                        self.handle_peer_timeout(now, key);
                    }
                }
                TimerKey::Room(slot) => {
                    if let Some(state) = self.rooms.get_mut(slot) {
                        state.sfu.handle_timeout(now);
                    }
                    self.serve_sfu(now, slot);
                }
                TimerKey::Tick(slot) => self.tick(now, slot),
                TimerKey::Session(slot) => self.handle_session_timeout(now, slot),
            }
        }
        self.feed_again(now);
        self.settle(now);
    }

    /// The end of a turn: every peer that was fed or written to gets its time and says what it sends.
    pub fn flush(&mut self, now: Instant) {
        let mut touched = std::mem::take(&mut self.touched);
        for key in touched.drain(..) {
            self.flush_peer(now, key);
        }
        // Flushing may have touched others: a peer that died takes its tracks with it.
        touched.append(&mut self.touched);
        self.touched = touched;
        self.settle(now);
        self.metrics.set_rooms(self.rooms.len());
        self.metrics.set_participants(self.participants.len());
    }

    /// The next datagram to send.
    pub fn poll_transmit(&mut self) -> Option<Transmit> {
        self.transmits.pop_front()
    }

    /// The next thing the worker has to do.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// [`Shard::poll_output`] has something.
    pub fn has_output(&self) -> bool {
        !self.outputs.is_empty()
    }

    /// When [`Shard::handle_timeout`] is due.
    pub fn poll_timeout(&mut self) -> Option<Instant> {
        let unfed = self.unfed.iter().map(|(at, _)| *at).min();
        [self.wheel.next_deadline(), unfed].into_iter().flatten().min()
    }

    /// There are peers that want a [`Shard::flush`].
    pub fn wants_flush(&self) -> bool {
        !self.touched.is_empty()
    }

    fn keys(&self) -> impl Iterator<Item = ParticipantKey> + '_ {
        self.participants.iter().map(|(slot, p)| ParticipantKey { slot: slot as u32, generation: p.generation })
    }

    fn key_of(&self, slot: usize) -> Option<ParticipantKey> {
        let participant = self.participants.get(slot)?;
        Some(ParticipantKey { slot: slot as u32, generation: participant.generation })
    }

    fn participant(&self, key: ParticipantKey) -> Option<&Participant> {
        self.participants.get(key.slot as usize).filter(|p| p.generation == key.generation)
    }

    fn participant_mut(&mut self, key: ParticipantKey) -> Option<&mut Participant> {
        self.participants.get_mut(key.slot as usize).filter(|p| p.generation == key.generation)
    }

    fn touch(&mut self, key: ParticipantKey) {
        if let Some(participant) = self.participant_mut(key)
            && !participant.touched
        {
            participant.touched = true;
            self.touched.push(key);
        }
    }

    /// What this participant receives may have to change; looked at when the step is complete.
    fn want_plan(&mut self, key: ParticipantKey) {
        if let Some(participant) = self.participant_mut(key)
            && !participant.unplanned
        {
            participant.unplanned = true;
            self.unplanned.push(key);
        }
    }

    /// Where expiry is enforced, a joined session ends with its token.
    fn watch_expiry(&mut self, now: Instant, conn: ConnKey) {
        if self.config.auth.enforce_token_expiry
            && let Some(session) = self.sessions.get_mut(&conn)
        {
            let left = session.grants.expires_at().duration_since(self.wall).unwrap_or_default();
            session.set_expiry(now + left);
            self.arm_session(conn);
        }
    }

    fn arm_session(&mut self, conn: ConnKey) {
        let Some(session) = self.sessions.get(&conn) else { return };
        match session.poll_timeout() {
            Some(at) => self.wheel.set(TimerKey::Session(conn.slot).index(), at),
            None => self.wheel.cancel(TimerKey::Session(conn.slot).index()),
        }
    }

    fn handle_session_timeout(&mut self, now: Instant, slot: u32) {
        let Some(conn) = self.session_at.get(&slot).copied() else { return };
        let Some(session) = self.sessions.get_mut(&conn) else { return };
        let participant = session.participant();
        if let Some(action) = session.handle_timeout(now) {
            self.act(now, conn, participant, action);
        }
        self.arm_session(conn);
    }

    /// `participant`: who spoke. A session that closes has forgotten it.
    fn act(&mut self, now: Instant, conn: ConnKey, participant: Option<ParticipantKey>, action: Action) {
        match action {
            Action::Message(request) => self.dispatch(now, conn, request),
            Action::Reply(text) => self.send(conn, text),
            Action::Close { reply, code, reason } => {
                if let Some(text) = reply {
                    self.send(conn, text);
                }
                self.close(now, conn, code, reason);
                if let Some(key) = participant {
                    self.remove_participant(now, key, LeaveReason::Lost);
                }
            }
        }
    }

    fn send(&mut self, conn: ConnKey, text: Utf8Bytes) {
        self.outputs.push_back(Output::Send { conn, text });
    }

    /// Sends to a participant; nothing happens when it has no signaling connection.
    fn send_to(&mut self, key: ParticipantKey, text: Utf8Bytes) {
        if let Some(conn) = self.participant(key).and_then(|p| p.conn) {
            self.send(conn, text);
        }
    }

    /// Closes a connection from this side; whoever was on it leaves at once.
    fn close(&mut self, now: Instant, conn: ConnKey, code: u16, reason: &'static str) {
        self.outputs.push_back(Output::Close { conn, code, reason });
        self.handle_closed_session(now, conn, LeaveReason::Lost);
    }

    fn handle_closed_session(&mut self, now: Instant, conn: ConnKey, reason: LeaveReason) {
        if let Some(session) = self.take_session(conn)
            && let Some(participant) = session.participant()
        {
            self.remove_participant(now, participant, reason);
        }
    }

    /// Takes a participant out of room, media and tables; the session, if there is one, is the caller's.
    fn remove_participant(&mut self, now: Instant, key: ParticipantKey, reason: LeaveReason) {
        if self.participant(key).is_none() {
            return;
        }
        self.drop_peer(now, key);
        let participant = self.participants.remove(key.slot as usize);
        self.wheel.cancel(TimerKey::Participant(key.slot as usize).index());
        let room = participant.room;
        if let Some(state) = self.rooms.get_mut(room) {
            state.room.leave(key, reason);
            state.sfu.remove_participant(key);
            state.p2p.leave(key);
        }
        self.pump(now, room);
        self.end_room_if_empty(now, room);
    }

    fn end_room_if_empty(&mut self, now: Instant, index: usize) {
        if !self.rooms.get(index).is_some_and(|state| state.room.is_empty()) {
            return;
        }
        self.end_recording(now, index, EndReason::CallEnded, None);
        let state = self.rooms.remove(index);
        self.wheel.cancel(TimerKey::Room(index).index());
        self.wheel.cancel(TimerKey::Tick(index).index());
        self.room_by_id.remove(&state.id);
        tracing::debug!(room = %state.id, "room ended");
        self.account(state.id, state.arrivals);
    }

    /// Tells the directory that joins are accounted for.
    fn account(&mut self, room: RoomId, arrivals: u64) {
        match &mut self.directory {
            Some(directory) => directory.settle(&room, arrivals),
            None => self.outputs.push_back(Output::Mail { to: WorkerId(0), mail: Mail::Settle { room, arrivals } }),
        }
    }

    /// Where this room is among [`Shard::rooms`]. It is made when it is not there, and then somebody has to enter at once.
    fn room_for(&mut self, now: Instant, id: &RoomId) -> usize {
        if let Some(index) = self.room_by_id.get(id) {
            return *index;
        }
        let limits = &self.config.limits;
        let index = self.rooms.insert(RoomState {
            id: id.clone(),
            room: Room::new(id.clone(), limits.participants).with_tracks_per_publisher(limits.tracks),
            sfu: Sfu::new(SfuConfig {
                keyframe_low: limits.keyframe_interval_low,
                keyframe_high: limits.keyframe_interval_high,
                encodings_max: limits.encodings,
                seed: self.random.u64(..),
                ..SfuConfig::default()
            }),
            p2p: P2p::with_candidates_max(limits.candidates as u32),
            sources: Default::default(),
            speakers: Speakers::new(VOICES + 1),
            voices: Vec::new(),
            wanted: Default::default(),
            created: self.wall,
            arrivals: 0,
            openings: None,
            tap: None,
            was_recorded: false,
        });
        self.room_by_id.insert(id.clone(), index);
        self.wheel.set(TimerKey::Tick(index).index(), now + TICK);
        index
    }

    /// The key of the participant that is inserted next.
    fn vacant_key(&mut self) -> ParticipantKey {
        let generation = self.next_generation;
        self.next_generation = self.next_generation.wrapping_add(1);
        ParticipantKey { slot: self.participants.vacant_key() as u32, generation }
    }

    /// Does what the steps before have left to do, until nothing is left.
    fn settle(&mut self, now: Instant) {
        while let Some(key) = self.unplanned.pop() {
            self.plan(now, key);
        }
    }
}

/// A media connection that is not up after this time is given up; the session stays (interface.md §4).
const CONNECT_TIMEOUT: Duration = Duration::from_secs(30);
/// Addresses that one participant may have verified at a time.
const MAX_ADDRESSES: usize = 16;
/// Lines of a kind that the server offers in *tracks* mode.
const MAX_OFFERED_LINES: usize = 16;
