//! A simulated browser: str0m with full ICE and another crypto library than the server's, our signaling, synthetic media,
//! and a critical eye on what arrives.
//!
//! Here: the session and the negotiation. [`send`] is what it publishes, [`receive`] what it gets.

mod receive;
mod send;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use str0m::bwe::BweKind;
use str0m::change::{SdpAnswer, SdpOffer, SdpPendingOffer};
use str0m::channel::{ChannelConfig, ChannelId, Reliability};
use str0m::config::CryptoProvider;
use str0m::media::{Direction, MediaKind, Mid};
use str0m::net::{Protocol, Receive};
use str0m::rtp::{Extension, ExtensionMap};
use str0m::{Candidate, Event, IceConnectionState, Input, Output, Rtc, RtcConfig};

use crate::encoder::{self, Video};
use crate::payload::Source;

use receive::{Assigned, Heard, Line};
use send::Sender;

pub use receive::{AudioShare, Seen};
pub use send::{Asked, Voice};

/// How a client wants to receive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    Slots,
    Tracks,
}

/// What a client does by itself.
#[derive(Debug, Clone)]
pub struct Plan {
    pub mode: Mode,
    pub audio: bool,
    pub video: bool,
    pub share: bool,
    pub camera: Video,
    pub screen: Video,
    pub audio_slots: usize,
    pub video_slots: usize,
    pub audio_every: Duration,
    pub audio_octets: usize,
    /// Sends and takes redundant audio (RFC 2198).
    pub red: bool,
    /// Opens data channels.
    pub data: bool,
    /// Measures its own line and sends what that can carry.
    pub bwe: bool,
    /// Tells nobody what arrives, as simple players do.
    pub no_feedback: bool,
    pub auto_subscribe: bool,
    pub role: webrtc_engine::auth::Role,
    /// Joins and offers nothing by itself.
    pub media: bool,
    /// Sends the ids of offers back.
    pub echo_ids: bool,
}

pub const SLOTS: Plan = Plan {
    mode: Mode::Slots,
    audio: true,
    video: true,
    share: false,
    camera: encoder::PLAIN,
    screen: encoder::SCREEN,
    audio_slots: 3,
    video_slots: 4,
    audio_every: Duration::from_millis(20),
    audio_octets: 80,
    red: false,
    data: false,
    bwe: false,
    no_feedback: false,
    auto_subscribe: true,
    role: webrtc_engine::auth::Role::Participant,
    media: true,
    echo_ids: true,
};
pub const TRACKS: Plan = Plan { mode: Mode::Tracks, ..SLOTS };
/// As our SDK has it: simulcast and redundant audio.
pub const BROWSER: Plan = Plan { camera: encoder::SIMULCAST, red: true, ..SLOTS };

/// Encodings by rid, and whether somebody watches them.
pub type Wanted = Vec<(Option<String>, bool)>;

/// The first packets of an SSRC. str0m refuses what is older than the first one that it gets; browsers do not, so these
/// are sorted before str0m sees them.
#[derive(Default)]
struct Early {
    until: Option<Duration>,
    packets: Vec<(u16, SocketAddr, Vec<u8>)>,
}

/// A message of a data channel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DataMessage {
    pub at: Duration,
    pub label: String,
    pub binary: bool,
    pub data: Vec<u8>,
}

pub struct Client {
    pub index: u32,
    pub user: String,
    pub room: String,
    pub room_number: u32,
    pub plan: Plan,
    pub private: SocketAddr,
    pub joined: bool,
    /// It has a socket; without one, media goes on for as long as the server lets it.
    pub online: bool,
    pub closed: Option<u64>,
    pub resume_token: Option<String>,
    /// How often it joined, and how often that continued an earlier session.
    pub joins: u32,
    pub resumes: u32,
    pub roster: BTreeSet<String>,
    /// By id: whose, and what it shows.
    pub tracks: BTreeMap<String, (String, Option<Source>)>,
    /// Who is said to be muted, video or not. A moderator's mute outlives the session it was for.
    pub muted: BTreeSet<(String, bool)>,
    /// Texts to the server, datagrams to the server.
    pub outbox: VecDeque<String>,
    pub transmits: VecDeque<(SocketAddr, Vec<u8>)>,
    pub texts: Vec<(Duration, Value)>,
    pub errors: Vec<String>,
    pub last_offer: String,
    pub heard: BTreeMap<(u32, Source), Heard>,
    pub arrived: Vec<Seen>,
    pub violations: Vec<String>,
    pub keyframe_requests: Vec<Asked>,
    /// What `layers-wanted` said.
    pub encodings_wanted: Vec<(Duration, Source, Wanted)>,
    pub connections: u32,
    /// Offers of the server that crossed one of this client's.
    pub glares: u32,
    /// The longest that a packet may be on its way, retransmissions included.
    pub patience: Duration,
    /// Nothing that was sent to this client was ever lost.
    pub lossless: bool,
    pub voice: Voice,
    pub estimate: Option<u64>,
    pub messages: Vec<DataMessage>,
    channels: BTreeMap<String, ChannelId>,
    /// Labels of those that are open.
    open: BTreeSet<String>,
    base: Instant,
    crypto: Arc<CryptoProvider>,
    rtc: Option<Rtc>,
    wakes: Duration,
    pub connected: bool,
    pub disconnected_since: Option<Duration>,
    pending: Option<(SdpPendingOffer, String)>,
    offers: u64,
    renegotiate_at: Option<Duration>,
    restart_wanted: bool,
    /// The m-lines of this connection, as far as both have agreed.
    agreed: Vec<String>,
    senders: Vec<Sender>,
    lines: BTreeMap<Mid, Line>,
    unexplained: Vec<Seen>,
    server: Vec<SocketAddr>,
    max_stun_rto: Option<Duration>,
    check_at: Duration,
    /// How far packets overtake each other on the way here.
    pub disorder: Duration,
    early: BTreeMap<u32, Early>,
    /// Pictures or packets of audio that were sent.
    pub frames_sent: BTreeMap<Source, u32>,
    /// Frames per encoding, of which a new connection goes on counting.
    frames_of: BTreeMap<(Source, usize), u32>,
    /// When each packet of audio was sent.
    sent: BTreeMap<Source, Vec<(u32, Duration)>>,
}

impl Client {
    pub fn new(base: Instant, index: u32, user: &str, room: &str, room_number: u32, plan: Plan) -> Client {
        Client {
            index,
            user: user.into(),
            room: room.into(),
            room_number,
            plan,
            private: SocketAddr::from(([10, 0, (index >> 8) as u8, index as u8], 5000)),
            joined: false,
            online: true,
            closed: None,
            resume_token: None,
            joins: 0,
            resumes: 0,
            roster: BTreeSet::new(),
            tracks: BTreeMap::new(),
            muted: BTreeSet::new(),
            outbox: VecDeque::new(),
            transmits: VecDeque::new(),
            texts: Vec::new(),
            errors: Vec::new(),
            last_offer: String::new(),
            heard: BTreeMap::new(),
            arrived: Vec::new(),
            violations: Vec::new(),
            keyframe_requests: Vec::new(),
            encodings_wanted: Vec::new(),
            connections: 0,
            glares: 0,
            // Of this the pacer may take most: what was queued before the estimate fell leaves at the lower rate.
            patience: Duration::from_secs(6),
            lossless: true,
            voice: Voice::Speech(-30),
            estimate: None,
            messages: Vec::new(),
            channels: BTreeMap::new(),
            open: BTreeSet::new(),
            base,
            crypto: Arc::new(str0m_aws_lc_rs::default_provider()),
            rtc: None,
            wakes: Duration::MAX,
            connected: false,
            disconnected_since: None,
            pending: None,
            offers: 0,
            renegotiate_at: None,
            restart_wanted: false,
            agreed: Vec::new(),
            senders: Vec::new(),
            lines: BTreeMap::new(),
            unexplained: Vec::new(),
            server: Vec::new(),
            max_stun_rto: None,
            check_at: Duration::MAX,
            disorder: Duration::ZERO,
            early: BTreeMap::new(),
            frames_sent: BTreeMap::new(),
            frames_of: BTreeMap::new(),
            sent: BTreeMap::new(),
        }
    }

    /// As browsers do on a path that answers: a check a second or so.
    pub fn set_check_interval(&mut self, interval: Duration) {
        self.max_stun_rto = Some(interval);
    }

    pub fn join(&mut self) {
        let receive = if self.plan.mode == Mode::Slots { "slots" } else { "tracks" };
        let mut data = json!({"receive": receive, "autoSubscribe": self.plan.auto_subscribe});
        if let Some(token) = &self.resume_token {
            data["resumeToken"] = json!(token);
        }
        self.say("join", data);
    }

    pub fn say(&mut self, kind: &str, data: Value) {
        self.send_text(json!({"type": kind, "roomId": self.room, "data": data}).to_string());
    }

    pub fn say_to(&mut self, kind: &str, user: &str, data: Value) {
        self.send_text(json!({"type": kind, "roomId": self.room, "targetUserId": user, "data": data}).to_string());
    }

    /// Without a socket it goes nowhere.
    fn send_text(&mut self, text: String) {
        if self.online {
            self.outbox.push_back(text);
        }
    }

    /// The socket is gone. Media goes on.
    pub fn go_offline(&mut self) {
        self.online = false;
        self.joined = false;
        self.outbox.clear();
    }

    /// There is another socket: joins again, and says who it was.
    pub fn come_back(&mut self) {
        self.online = true;
        self.join();
    }

    /// When [`Client::handle_timeout`] is due.
    pub fn deadline(&self) -> Duration {
        if self.closed.is_some() {
            return Duration::MAX;
        }
        let media = self.senders.iter().filter(|s| s.sending && self.connected).map(|s| s.next).min();
        let again = self.renegotiate_at.filter(|_| self.joined && self.pending.is_none());
        let early = self.early.values().filter_map(|e| e.until).min();
        let check = Some(early.map_or(self.check_at, |at| at.min(self.check_at))).filter(|_| self.rtc.is_some());
        [Some(self.wakes).filter(|_| self.rtc.is_some()), media, again, check]
            .into_iter()
            .flatten()
            .min()
            .unwrap_or(Duration::MAX)
    }

    pub fn handle_timeout(&mut self, now: Duration) {
        if self.closed.is_some() {
            return;
        }
        if self.renegotiate_at.is_some_and(|at| at <= now) && self.joined && self.pending.is_none() {
            self.renegotiate_at = None;
            self.offer(now);
        }
        if self.connected {
            self.send_media(now);
        }
        self.release_early(now);
        if self.check_at <= now {
            self.check_at = now + CHECK;
            self.check_decoders(now);
        }
        self.pump(now);
        if let Some(since) = self.disconnected_since
            && now > since + Duration::from_secs(2)
        {
            self.disconnected_since = Some(now);
            self.say("restart-ice", json!({}));
        }
    }

    pub fn handle_datagram(&mut self, now: Duration, source: SocketAddr, data: &[u8]) {
        if let [128..=191, second, a, b, _, _, _, _, s0, s1, s2, s3, ..] = *data
            && !(192..=223).contains(&second)
            && self.rtc.is_some()
        {
            let disorder = self.disorder;
            let first = || Early { until: (!disorder.is_zero()).then(|| now + disorder), packets: Vec::new() };
            let early = self.early.entry(u32::from_be_bytes([s0, s1, s2, s3])).or_insert_with(first);
            if early.until.is_some() {
                early.packets.push((u16::from_be_bytes([a, b]), source, data.to_vec()));
                return;
            }
        }
        self.feed(now, source, data);
    }

    fn release_early(&mut self, now: Duration) {
        let mut ready: Vec<(u16, SocketAddr, Vec<u8>)> = Vec::new();
        for early in self.early.values_mut().filter(|e| e.until.is_some_and(|at| at <= now)) {
            early.until = None;
            let first = early.packets.first().map_or(0, |p| p.0);
            early.packets.sort_by_key(|p| p.0.wrapping_sub(first) as i16);
            ready.append(&mut early.packets);
        }
        for (_, source, data) in ready {
            self.feed(now, source, &data);
        }
    }

    fn feed(&mut self, now: Duration, source: SocketAddr, data: &[u8]) {
        let at = self.base + now;
        let Some(rtc) = &mut self.rtc else { return };
        let Ok(receive) = Receive::new(Protocol::Udp, source, self.private, data) else { return };
        let _ = rtc.handle_input(Input::Receive(at, receive));
        self.drain(now);
    }

    pub fn handle_closed(&mut self, code: u64) {
        self.closed = Some(code);
        self.joined = false;
        // What was under way does not arrive any more.
        self.forget_connection();
    }

    pub fn handle_text(&mut self, now: Duration, text: &str) {
        let message: Value = serde_json::from_str(text).expect("the server speaks JSON");
        let data = &message["data"];
        let user = message["userId"].as_str().unwrap_or("").to_owned();
        match message["type"].as_str().unwrap_or("") {
            "joined" => {
                self.on_joined(now, data);
                for p in data["participants"].as_array().expect("joined lists participants") {
                    let user = p["userId"].as_str().unwrap().to_owned();
                    for track in p["tracks"].as_array().unwrap() {
                        self.learn_track(user.clone(), track);
                    }
                    self.roster.insert(user);
                }
            }
            "user-joined" => {
                if !self.roster.insert(user.clone()) {
                    self.violations.push(format!("user-joined for {user}, who is there"));
                }
            }
            "user-left" => {
                if !self.roster.remove(&user) {
                    self.violations.push(format!("user-left for {user}, who is not there"));
                }
            }
            "track-published" => {
                self.learn_track(user, &data["track"]);
            }
            "muted" => {
                self.muted.insert((user, data["kind"] == "video"));
            }
            "unmuted" => {
                self.muted.remove(&(user, data["kind"] == "video"));
            }
            "track-unpublished" => {
                if self.tracks.remove(&data["trackId"].to_string()).is_none() {
                    self.violations.push(format!("track-unpublished for an unknown track {data}"));
                }
            }
            "track-subscribed" => {
                let mid: Mid = data["mid"].as_str().expect("track-subscribed names a mid").into();
                let user = data["userId"].as_str().map(str::to_owned);
                let source = data["source"].as_str().and_then(Source::named);
                self.assign(now, mid, Assigned { user, source });
            }
            "layer-changed" => {
                let mid: Mid = data["mid"].as_str().expect("layer-changed names a mid").into();
                self.pause(now, mid, data["paused"] == true);
            }
            "layers-wanted" => {
                let list = data["encodings"].as_array().map(Vec::as_slice).unwrap_or_default();
                let one = |e: &Value| (e["rid"].as_str().map(str::to_owned), e["active"] == true);
                let encodings: Wanted = list.iter().map(one).collect();
                self.want_layers(now, data["mid"].as_str().unwrap_or(""), &encodings);
            }
            "offer" => self.take_offer(now, &message),
            "answer" => self.take_answer(now, &message),
            "error" => {
                self.errors.push(data["code"].as_str().unwrap_or("").to_owned());
                if let Some((_, id)) = &self.pending
                    && message["id"].as_str() == Some(id)
                {
                    self.pending = None;
                    self.renegotiate_at = Some(now + Duration::from_secs(1));
                }
            }
            _ => {}
        }
        if !matches!(message["type"].as_str(), Some("ice-candidate" | "offer" | "answer")) {
            self.texts.push((now, message));
        }
        self.pump(now);
    }

    fn on_joined(&mut self, now: Duration, data: &Value) {
        self.joined = true;
        self.joins += 1;
        self.resume_token = data["resumeToken"].as_str().map(str::to_owned);
        self.roster.clear();
        self.tracks.clear();
        self.muted.clear();
        let resumed = data["resumed"] == true;
        self.resumes += u32::from(resumed);
        if self.joins > 1 {
            // What was under negotiation when the socket was lost is not known to both.
            self.pending = None;
            if !resumed || data["media"] != true {
                self.forget_connection();
            }
        }
        if self.plan.media && (self.plan.mode == Mode::Slots || self.plan.audio || self.plan.video) {
            self.renegotiate_at = Some(now);
        }
    }

    fn learn_track(&mut self, user: String, track: &Value) {
        let key = (user.clone(), track["kind"] == "video");
        if track["muted"] == true {
            self.muted.insert(key);
        } else {
            self.muted.remove(&key);
        }
        let source = track["source"].as_str().and_then(Source::named);
        self.tracks.insert(track["trackId"].to_string(), (user, source));
    }

    // ---- what scenarios ask for ----

    /// Starts or stops publishing a kind, by renegotiation.
    pub fn publish(&mut self, now: Duration, video: bool, on: bool) {
        if video {
            self.plan.video = on;
        } else {
            self.plan.audio = on;
        }
        self.renegotiate_at = Some(now);
    }

    /// Starts or stops sharing the screen.
    pub fn share(&mut self, now: Duration, on: bool) {
        self.plan.share = on;
        self.renegotiate_at = Some(now);
    }

    /// Offers with new ICE credentials.
    pub fn restart_ice(&mut self, now: Duration) {
        self.restart_wanted = true;
        self.renegotiate_at = Some(now);
    }

    /// Messages of a type, with the time they came.
    pub fn texts_of(&self, kind: &str) -> impl Iterator<Item = (Duration, &Value)> {
        self.texts.iter().filter(move |(_, t)| t["type"] == kind).map(|(at, t)| (*at, t))
    }

    /// Writes to a data channel; false when it is not open, or full.
    pub fn send_data(&mut self, now: Duration, label: &str, binary: bool, data: &[u8]) -> bool {
        let Some(id) = self.channels.get(label).copied() else { return false };
        let Some(mut channel) = self.rtc.as_mut().and_then(|rtc| rtc.channel(id)) else { return false };
        let taken = channel.write(binary, data).unwrap_or(false);
        self.pump(now);
        taken
    }

    pub fn is_open(&self, label: &str) -> bool {
        self.open.contains(label)
    }

    /// Throws the PeerConnection away and makes a new one in the same session.
    ///
    /// A client that only answers has no way to say so, and keeps what it has.
    pub fn reconnect(&mut self, now: Duration) {
        if self.plan.mode == Mode::Slots || self.plan.audio || self.plan.video {
            self.forget_connection();
            self.renegotiate_at = Some(now);
        }
    }

    pub fn request_keyframes(&mut self, now: Duration) {
        let mids: Vec<Mid> = self.lines.keys().copied().collect();
        for mid in mids {
            self.pli(mid);
        }
        self.pump(now);
    }

    /// An answer to an offer that nobody made.
    pub fn stale_answer(&mut self) {
        let text = json!({"type": "answer", "roomId": self.room, "id": "4711", "data": {"sdp": "v=0"}});
        self.send_text(text.to_string());
    }

    /// Negotiated, and media goes out.
    pub fn is_sending(&self, video: bool) -> bool {
        self.connected
            && self.pending.is_none()
            && self.renegotiate_at.is_none()
            && self.senders.iter().any(|s| s.source == camera_or_microphone(video) && s.sending)
    }

    /// For a person who wonders why a scenario failed.
    pub fn describe(&self) -> String {
        let lines: Vec<String> =
            self.lines.iter().map(|(mid, l)| format!("{mid}: {:?}, {} packets", l.assigned, l.recent.len())).collect();
        let heard: Vec<String> = self
            .heard
            .iter()
            .map(|(k, h)| format!("{k:?}: {}, {:?}..{:?}", h.packets, h.first_at, h.last_at))
            .collect();
        let senders: Vec<String> = self
            .senders
            .iter()
            .map(|s| {
                let direction = self.rtc.as_ref().and_then(|r| r.media(s.mid)).map(|m| m.direction());
                format!("{} {:?} sending {} next {:?} {direction:?}", s.mid, s.source, s.sending, s.next)
            })
            .collect();
        format!(
            "{} plan {:?} pending {} at {:?} senders {senders:?} connected {}, errors {:?}, sent {:?}, asked {:?}\n  lines {}\n  heard {}",
            self.user,
            self.plan.mode,
            self.pending.is_some(),
            self.renegotiate_at,
            self.connected,
            self.errors,
            self.frames_sent,
            self.keyframe_requests,
            lines.join("; "),
            heard.join("; ")
        )
    }

    // ---- negotiation ----

    fn forget_connection(&mut self) {
        self.rtc = None;
        self.connected = false;
        self.disconnected_since = None;
        self.pending = None;
        self.agreed.clear();
        self.senders.clear();
        self.channels.clear();
        self.open.clear();
        self.early.clear();
        for line in self.lines.values_mut() {
            line.recent.clear();
            line.first = None;
            line.decoder.reset();
        }
        self.unexplained.clear();
    }

    fn ensure_rtc(&mut self, now: Duration) {
        if self.rtc.is_some() {
            return;
        }
        let mut config = RtcConfig::new()
            .set_crypto_provider(self.crypto.clone())
            .set_rtp_mode(true)
            .clear_codecs()
            .enable_opus(true, self.plan.red)
            .enable_vp8(true)
            .enable_vp9(true);
        if self.plan.no_feedback {
            config = config.clear_extension_map();
            let all = ExtensionMap::standard();
            for (id, extension) in all.iter().filter(|(_, e)| **e != Extension::TransportSequenceNumber) {
                config = config.set_extension(id, extension.clone());
            }
        }
        if self.plan.bwe {
            config = config.enable_bwe(Some(600_000.into()));
        }
        if let Some(rto) = self.max_stun_rto {
            config.set_max_stun_rto(rto);
        }
        let mut rtc = config.build(self.base + now);
        rtc.add_local_candidate(Candidate::host(self.private, "udp").expect("a host candidate"));
        self.rtc = Some(rtc);
        self.check_at = now + CHECK;
        self.connections += 1;
    }

    fn offer(&mut self, now: Duration) {
        let fresh = self.rtc.is_none();
        self.ensure_rtc(now);
        let rtc = self.rtc.as_mut().expect("just made");
        // Browsers number their m-lines from 0, so another connection of a client has the same mids as the one before.
        let kept = fastrand::u64(..);
        if fresh {
            fastrand::seed(u64::from(self.index));
        }
        let mut senders = std::mem::take(&mut self.senders);
        let (audio, video, share) = (self.plan.audio, self.plan.video, self.plan.share);
        let mut made = Vec::new();
        let mut api = rtc.sdp_api();
        for (source, wanted) in [(Source::Microphone, audio), (Source::Camera, video), (Source::Screen, share)] {
            match senders.iter_mut().find(|s| s.source == source) {
                Some(sender) if sender.sending != wanted => {
                    sender.sending = wanted;
                    sender.restart(now);
                    api.set_direction(sender.mid, if wanted { Direction::SendOnly } else { Direction::Inactive });
                }
                None if wanted => made.push(source),
                _ => {}
            }
        }
        for source in made {
            let kind = if source.is_video() { MediaKind::Video } else { MediaKind::Audio };
            let simulcast = self.plan.simulcast_of(source);
            let mid = api.add_media(kind, Direction::SendOnly, None, None, simulcast);
            senders.push(Sender::new(now, mid, source, self.index, &self.plan, &self.frames_sent, &self.frames_of));
        }
        self.senders = senders;
        if fresh && self.plan.mode == Mode::Slots {
            for _ in 0..self.plan.audio_slots {
                api.add_media(MediaKind::Audio, Direction::RecvOnly, None, None, None);
            }
            for _ in 0..self.plan.video_slots {
                api.add_media(MediaKind::Video, Direction::RecvOnly, None, None, None);
            }
        }
        if fresh && self.plan.data {
            let label = |label: &str| ChannelConfig { label: label.to_owned(), ..ChannelConfig::default() };
            let reliability = Reliability::MaxRetransmits { retransmits: 0 };
            let lossy = ChannelConfig { ordered: false, reliability, ..label("lossy") };
            for config in [label("reliable"), lossy] {
                let name = config.label.clone();
                self.channels.insert(name, api.add_channel_with_config(config));
            }
        }
        if std::mem::take(&mut self.restart_wanted) && !fresh {
            api.ice_restart(true);
        }
        let made = api.apply();
        fastrand::seed(kept);
        let Some((offer, pending)) = made else { return };
        self.offers += 1;
        let id = format!("o{}", self.offers);
        let sdp = spoken(&offer.to_sdp_string());
        let mut data = json!({"sdp": sdp});
        self.last_offer = sdp;
        // Cameras and microphones need no name.
        let named = self.senders.iter().filter(|s| !matches!(s.source, Source::Camera | Source::Microphone));
        let named: Vec<Value> =
            named.map(|s| json!({"mid": s.mid.to_string(), "source": s.source.name(), "name": "a screen"})).collect();
        if !named.is_empty() {
            data["tracks"] = json!(named);
        }
        self.send_text(json!({"type": "offer", "roomId": self.room, "id": id, "data": data}).to_string());
        self.pending = Some((pending, id));
    }

    fn take_answer(&mut self, now: Duration, message: &Value) {
        let Some((pending, id)) = self.pending.take() else { return };
        if message["id"].as_str() != Some(&id) {
            self.pending = Some((pending, id));
            return;
        }
        let sdp = description(&message["data"]);
        let Some(rtc) = &mut self.rtc else { return };
        let answer =
            SdpAnswer::from_sdp_string(&sdp).unwrap_or_else(|e| panic!("the server's answer is not SDP: {e}\n{sdp}"));
        match rtc.sdp_api().accept_answer(pending, answer) {
            Ok(()) => self.agreed = mids(&sdp),
            // The server has given this connection up, and answers with another one.
            Err(e) if e.to_string().contains("Ice restart in answer") => return self.reconnect(now),
            Err(e) => self.violations.push(format!("the server's answer is refused: {e}")),
        }
        self.learn_server(&sdp);
        self.pump(now);
    }

    fn take_offer(&mut self, now: Duration, message: &Value) {
        // On glare the server gives way. An offer for the connection before is nothing for a new one, which offers first.
        if self.pending.is_some() {
            self.glares += 1;
        }
        if self.pending.is_some() || self.rtc.is_none() && self.renegotiate_at.is_some() {
            return;
        }
        let sdp = description(&message["data"]);
        if !mids(&sdp).starts_with(&self.agreed) {
            // The server has given this connection up and begins another one.
            self.forget_connection();
            self.renegotiate_at = (self.plan.audio || self.plan.video).then_some(now);
        }
        self.ensure_rtc(now);
        let rtc = self.rtc.as_mut().expect("just made");
        let offer = match SdpOffer::from_sdp_string(&sdp) {
            Ok(offer) => offer,
            Err(e) => return self.violations.push(format!("the server's offer is not SDP: {e}")),
        };
        let answer = match rtc.sdp_api().accept_offer(offer) {
            Ok(answer) => answer.to_sdp_string(),
            Err(e) => return self.violations.push(format!("the server's offer is refused: {e}")),
        };
        self.agreed = mids(&sdp);
        let mut reply = json!({"type": "answer", "roomId": self.room, "data": {"sdp": spoken(&answer)}});
        if self.plan.echo_ids {
            reply["id"] = message["id"].clone();
        }
        self.send_text(reply.to_string());
        self.learn_server(&sdp);
        self.pump(now);
    }

    fn learn_server(&mut self, sdp: &str) {
        let Some(rtc) = &mut self.rtc else { return };
        let texts = sdp.lines().filter_map(|l| l.strip_prefix("a=candidate:"));
        for text in texts {
            if let Ok(candidate) = Candidate::from_sdp_string(&format!("candidate:{text}")) {
                self.server.push(candidate.addr());
                rtc.add_remote_candidate(candidate);
            }
        }
    }

    // ---- media ----

    fn pump(&mut self, now: Duration) {
        let mut at = now;
        for _ in 0..500 {
            let Some(rtc) = &mut self.rtc else { return };
            if rtc.handle_input(Input::Timeout(self.base + at)).is_err() {
                return self.forget_connection();
            }
            self.drain(now);
            // A pacer asks to be called a microsecond later.
            if self.wakes > now + Duration::from_micros(50) {
                return;
            }
            at = at.max(self.wakes);
        }
    }

    fn drain(&mut self, now: Duration) {
        loop {
            let Some(rtc) = &mut self.rtc else { return };
            match rtc.poll_output() {
                Ok(Output::Timeout(at)) => {
                    self.wakes = at.saturating_duration_since(self.base);
                    if !rtc.is_alive() {
                        self.forget_connection();
                    }
                    return;
                }
                Ok(Output::Transmit(t)) => self.transmits.push_back((t.destination, t.contents.to_vec())),
                Ok(Output::Event(event)) => self.on_event(now, event),
                // Such as a handshake that was never answered.
                Err(_) => return self.forget_connection(),
            }
        }
    }

    fn on_event(&mut self, now: Duration, event: Event) {
        match event {
            Event::Connected => {
                self.connected = true;
                for sender in &mut self.senders {
                    sender.next = now;
                }
            }
            Event::EgressBitrateEstimate(BweKind::Twcc { estimate, .. }) => self.afford(estimate.as_u64()),
            Event::ChannelOpen(id, label) => {
                self.open.insert(label.clone());
                self.channels.insert(label, id);
            }
            Event::ChannelClose(id) => {
                self.channels.retain(|_, open| *open != id);
                self.open.retain(|label| self.channels.contains_key(label));
            }
            Event::ChannelData(data) => {
                let label = self.channels.iter().find(|(_, id)| **id == data.id).map(|(label, _)| label.clone());
                let message =
                    DataMessage { at: now, label: label.unwrap_or_default(), binary: data.binary, data: data.data };
                self.messages.push(message);
            }
            Event::IceConnectionStateChange(IceConnectionState::Disconnected) => self.disconnected_since = Some(now),
            Event::IceConnectionStateChange(_) => self.disconnected_since = None,
            Event::KeyframeRequest(request) => self.on_keyframe_request(now, request.mid, request.rid),
            Event::RtpPacket(packet) => self.receive(now, packet),
            _ => {}
        }
    }
}

fn mids(sdp: &str) -> Vec<String> {
    sdp.lines().filter_map(|l| l.strip_prefix("a=mid:")).map(str::to_owned).collect()
}

fn camera_or_microphone(video: bool) -> Source {
    if video { Source::Camera } else { Source::Microphone }
}

/// A description as a client writes it that limits what it wants to get, in both notations.
fn spoken(sdp: &str) -> String {
    sdp.replace("c=IN IP4 0.0.0.0\r\n", "c=IN IP4 0.0.0.0\r\nb=AS:2000\r\nb=TIAS:2000000\r\n")
}

fn description(data: &Value) -> String {
    let text = data["sdp"].as_str().or_else(|| data["sdp"]["sdp"].as_str()).unwrap_or("");
    // str0m's parser knows one bandwidth line per m-line; browsers take both notations.
    text.split_inclusive('\n').filter(|line| !line.starts_with("b=TIAS")).collect()
}

/// How often a client looks whether its pictures move.
const CHECK: Duration = Duration::from_millis(100);
