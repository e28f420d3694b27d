//! A simulated browser: str0m with full ICE and another crypto library than the server's, our signaling, synthetic media,
//! and a critical eye on what arrives.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use str0m::change::{SdpAnswer, SdpOffer, SdpPendingOffer};
use str0m::config::CryptoProvider;
use str0m::format::Codec;
use str0m::media::{Direction, KeyframeRequestKind, MediaKind, Mid};
use str0m::net::{Protocol, Receive};
use str0m::rtp::{ExtensionValues, RtpPacket, RtpWrite};
use str0m::{Candidate, Event, IceConnectionState, Input, Output, Rtc, RtcConfig};

use crate::payload::{self, Tag};

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
    pub audio_slots: usize,
    pub video_slots: usize,
    pub audio_every: Duration,
    pub frame_every: Duration,
    pub packets_per_frame: u8,
    pub octets: usize,
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
    audio_slots: 3,
    video_slots: 4,
    audio_every: Duration::from_millis(20),
    frame_every: Duration::from_millis(33),
    packets_per_frame: 3,
    octets: 300,
    auto_subscribe: true,
    role: webrtc_engine::auth::Role::Participant,
    media: true,
    echo_ids: true,
};
pub const TRACKS: Plan = Plan { mode: Mode::Tracks, ..SLOTS };

/// A packet that arrived.
#[derive(Debug, Clone)]
pub struct Seen {
    pub at: Duration,
    pub mid: Mid,
    pub seq: u64,
    pub time: u32,
    pub picture_id: Option<u16>,
    pub tag: Tag,
}

/// What came from one track of one client.
#[derive(Debug, Default)]
pub struct Heard {
    pub packets: u64,
    /// Packets per frame, and the time each frame was complete.
    pub frames: BTreeMap<u32, FrameSeen>,
    pub first_at: Duration,
    pub last_at: Duration,
}

#[derive(Debug, Default)]
pub struct FrameSeen {
    got: BTreeSet<u8>,
    count: u8,
}

impl FrameSeen {
    pub fn is_complete(&self) -> bool {
        self.got.len() == usize::from(self.count)
    }
}

struct Sender {
    mid: Mid,
    video: bool,
    sending: bool,
    next: Duration,
    seq: u64,
    time: u32,
    frame: u32,
    picture_id: u16,
    tl0: u8,
    key_wanted: bool,
}

/// An m-line as receiver: what the server said that it carries, and the packets that came lately.
#[derive(Default)]
struct Line {
    assigned: Vec<(Duration, Option<String>)>,
    recent: BTreeMap<u64, Seen>,
    /// The lowest number of the first half second; `None` again once it was judged.
    first: Option<Seen>,
}

pub struct Client {
    pub index: u32,
    pub user: String,
    pub room: String,
    pub room_number: u32,
    pub plan: Plan,
    pub private: SocketAddr,
    pub joined: bool,
    pub closed: Option<u64>,
    pub roster: BTreeSet<String>,
    pub tracks: BTreeMap<String, String>,
    /// Who is said to be muted, video or not. A moderator's mute outlives the session it was for.
    pub muted: BTreeSet<(String, bool)>,
    /// Texts to the server, datagrams to the server.
    pub outbox: VecDeque<String>,
    pub transmits: VecDeque<(SocketAddr, Vec<u8>)>,
    pub texts: Vec<Value>,
    pub errors: Vec<String>,
    pub heard: BTreeMap<(u32, bool), Heard>,
    pub arrived: Vec<Seen>,
    pub violations: Vec<String>,
    pub keyframe_requests: Vec<Duration>,
    pub connections: u32,
    /// Offers of the server that crossed one of this client's.
    pub glares: u32,
    /// The longest that a packet may be on its way, retransmissions included.
    pub patience: Duration,
    /// Nothing that was sent to this client was ever lost.
    pub lossless: bool,
    base: Instant,
    crypto: Arc<CryptoProvider>,
    rtc: Option<Rtc>,
    wakes: Duration,
    pub connected: bool,
    disconnected_since: Option<Duration>,
    pending: Option<(SdpPendingOffer, String)>,
    offers: u64,
    renegotiate_at: Option<Duration>,
    senders: Vec<Sender>,
    lines: BTreeMap<Mid, Line>,
    unexplained: Vec<Seen>,
    server: Vec<SocketAddr>,
    max_stun_rto: Option<Duration>,
    pub frames_sent: BTreeMap<bool, u32>,
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
            closed: None,
            roster: BTreeSet::new(),
            tracks: BTreeMap::new(),
            muted: BTreeSet::new(),
            outbox: VecDeque::new(),
            transmits: VecDeque::new(),
            texts: Vec::new(),
            errors: Vec::new(),
            heard: BTreeMap::new(),
            arrived: Vec::new(),
            violations: Vec::new(),
            keyframe_requests: Vec::new(),
            connections: 0,
            glares: 0,
            // Of this the pacer may take most: what was queued before the estimate fell leaves at the lower rate.
            patience: Duration::from_secs(6),
            lossless: true,
            base,
            crypto: Arc::new(str0m_aws_lc_rs::default_provider()),
            rtc: None,
            wakes: Duration::MAX,
            connected: false,
            disconnected_since: None,
            pending: None,
            offers: 0,
            renegotiate_at: None,
            senders: Vec::new(),
            lines: BTreeMap::new(),
            unexplained: Vec::new(),
            server: Vec::new(),
            max_stun_rto: None,
            frames_sent: BTreeMap::new(),
        }
    }

    /// As browsers do on a path that answers: a check a second or so.
    pub fn set_check_interval(&mut self, interval: Duration) {
        self.max_stun_rto = Some(interval);
    }

    pub fn join(&mut self) {
        let receive = if self.plan.mode == Mode::Slots { "slots" } else { "tracks" };
        let data = json!({"receive": receive, "autoSubscribe": self.plan.auto_subscribe});
        self.say("join", data);
    }

    pub fn say(&mut self, kind: &str, data: Value) {
        self.outbox.push_back(json!({"type": kind, "roomId": self.room, "data": data}).to_string());
    }

    pub fn say_to(&mut self, kind: &str, user: &str, data: Value) {
        let text = json!({"type": kind, "roomId": self.room, "targetUserId": user, "data": data});
        self.outbox.push_back(text.to_string());
    }

    /// When [`Client::handle_timeout`] is due.
    pub fn deadline(&self) -> Duration {
        if self.closed.is_some() {
            return Duration::MAX;
        }
        let media = self.senders.iter().filter(|s| s.sending && self.connected).map(|s| s.next).min();
        let again = self.renegotiate_at.filter(|_| self.joined && self.pending.is_none());
        [Some(self.wakes).filter(|_| self.rtc.is_some()), media, again]
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
        self.pump(now);
        if let Some(since) = self.disconnected_since
            && now > since + Duration::from_secs(2)
        {
            self.disconnected_since = Some(now);
            self.say("restart-ice", json!({}));
        }
    }

    pub fn handle_datagram(&mut self, now: Duration, source: SocketAddr, data: &[u8]) {
        let at = self.base + now;
        let Some(rtc) = &mut self.rtc else { return };
        let Ok(receive) = Receive::new(Protocol::Udp, source, self.private, data) else { return };
        let _ = rtc.handle_input(Input::Receive(at, receive));
        self.drain(now);
    }

    pub fn handle_closed(&mut self, code: u64) {
        self.closed = Some(code);
        self.joined = false;
        self.rtc = None;
    }

    pub fn handle_text(&mut self, now: Duration, text: &str) {
        let message: Value = serde_json::from_str(text).expect("the server speaks JSON");
        let data = &message["data"];
        let user = message["userId"].as_str().unwrap_or("").to_owned();
        match message["type"].as_str().unwrap_or("") {
            "joined" => {
                self.joined = true;
                for p in data["participants"].as_array().expect("joined lists participants") {
                    let user = p["userId"].as_str().unwrap().to_owned();
                    for track in p["tracks"].as_array().unwrap() {
                        self.learn_track(user.clone(), track);
                    }
                    self.roster.insert(user);
                }
                if self.plan.media && (self.plan.mode == Mode::Slots || self.plan.audio || self.plan.video) {
                    self.renegotiate_at = Some(now);
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
                let whom = data["userId"].as_str().map(str::to_owned);
                self.lines.entry(mid).or_default().assigned.push((now, whom));
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
            self.texts.push(message);
        }
        self.pump(now);
    }

    fn learn_track(&mut self, user: String, track: &Value) {
        let key = (user.clone(), track["kind"] == "video");
        if track["muted"] == true {
            self.muted.insert(key);
        } else {
            self.muted.remove(&key);
        }
        self.tracks.insert(track["trackId"].to_string(), user);
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
        if let Some(rtc) = &mut self.rtc {
            for mid in mids {
                if rtc.media(mid).is_some_and(|m| m.kind() == MediaKind::Video)
                    && let Some(stream) = rtc.direct_api().stream_rx_by_mid(mid, None)
                {
                    stream.request_keyframe(KeyframeRequestKind::Pli);
                }
            }
        }
        self.pump(now);
    }

    /// An answer to an offer that nobody made.
    pub fn stale_answer(&mut self) {
        let text = json!({"type": "answer", "roomId": self.room, "id": "4711", "data": {"sdp": "v=0"}});
        self.outbox.push_back(text.to_string());
    }

    /// Negotiated, and media goes out.
    pub fn is_sending(&self, video: bool) -> bool {
        self.connected
            && self.pending.is_none()
            && self.renegotiate_at.is_none()
            && self.senders.iter().any(|s| s.video == video && s.sending)
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
                format!("{} video {} sending {} next {:?} {direction:?}", s.mid, s.video, s.sending, s.next)
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

    /// What was heard of one track of another client.
    pub fn heard_of(&self, client: u32, video: bool) -> u64 {
        self.heard.get(&(client, video)).map_or(0, |h| h.packets)
    }

    // ---- negotiation ----

    fn forget_connection(&mut self) {
        self.rtc = None;
        self.connected = false;
        self.disconnected_since = None;
        self.pending = None;
        self.senders.clear();
        for line in self.lines.values_mut() {
            line.recent.clear();
            line.first = None;
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
            .enable_opus(true, false)
            .enable_vp8(true);
        if let Some(rto) = self.max_stun_rto {
            config.set_max_stun_rto(rto);
        }
        let mut rtc = config.build(self.base + now);
        rtc.add_local_candidate(Candidate::host(self.private, "udp").expect("a host candidate"));
        self.rtc = Some(rtc);
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
        let mut api = rtc.sdp_api();
        for (video, wanted) in [(false, self.plan.audio), (true, self.plan.video)] {
            let kind = if video { MediaKind::Video } else { MediaKind::Audio };
            match self.senders.iter_mut().find(|s| s.video == video) {
                Some(sender) if sender.sending != wanted => {
                    sender.sending = wanted;
                    sender.key_wanted = true;
                    sender.next = now;
                    api.set_direction(sender.mid, if wanted { Direction::SendOnly } else { Direction::Inactive });
                }
                None if wanted => {
                    let mid = api.add_media(kind, Direction::SendOnly, None, None, None);
                    self.senders.push(Sender {
                        mid,
                        video,
                        sending: true,
                        next: now,
                        seq: 1000 + u64::from(self.index) * 7,
                        time: 12345,
                        // Another connection goes on counting.
                        frame: self.frames_sent.get(&video).copied().unwrap_or(0),
                        picture_id: 32700,
                        tl0: 250,
                        key_wanted: true,
                    });
                }
                _ => {}
            }
        }
        if fresh && self.plan.mode == Mode::Slots {
            for _ in 0..self.plan.audio_slots {
                api.add_media(MediaKind::Audio, Direction::RecvOnly, None, None, None);
            }
            for _ in 0..self.plan.video_slots {
                api.add_media(MediaKind::Video, Direction::RecvOnly, None, None, None);
            }
        }
        let made = api.apply();
        fastrand::seed(kept);
        let Some((offer, pending)) = made else { return };
        self.offers += 1;
        let id = format!("o{}", self.offers);
        let text =
            json!({"type": "offer", "roomId": self.room, "id": id, "data": {"sdp": spoken(&offer.to_sdp_string())}});
        self.outbox.push_back(text.to_string());
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
        if let Err(e) = rtc.sdp_api().accept_answer(pending, answer) {
            self.violations.push(format!("the server's answer is refused: {e}"));
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
        self.ensure_rtc(now);
        let sdp = description(&message["data"]);
        let rtc = self.rtc.as_mut().expect("just made");
        let offer = match SdpOffer::from_sdp_string(&sdp) {
            Ok(offer) => offer,
            Err(e) => return self.violations.push(format!("the server's offer is not SDP: {e}")),
        };
        let answer = match rtc.sdp_api().accept_offer(offer) {
            Ok(answer) => answer.to_sdp_string(),
            Err(e) => return self.violations.push(format!("the server's offer is refused: {e}")),
        };
        let mut reply = json!({"type": "answer", "roomId": self.room, "data": {"sdp": spoken(&answer)}});
        if self.plan.echo_ids {
            reply["id"] = message["id"].clone();
        }
        self.outbox.push_back(reply.to_string());
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

    fn send_media(&mut self, now: Duration) {
        let Some(rtc) = &mut self.rtc else { return };
        for sender in self.senders.iter_mut().filter(|s| s.sending) {
            let codec = if sender.video { Codec::Vp8 } else { Codec::Opus };
            let Some(pt) = rtc.codec_config().find(|p| p.spec().codec == codec).map(|p| p.pt()) else { continue };
            if !rtc.media(sender.mid).is_some_and(|m| m.direction().is_sending()) {
                sender.next = now + Duration::from_millis(50);
                continue;
            }
            while sender.next <= now {
                let every = if sender.video { self.plan.frame_every } else { self.plan.audio_every };
                sender.next = if sender.next + every * 10 < now { now + every } else { sender.next + every };
                let key = sender.video && std::mem::take(&mut sender.key_wanted);
                let count = if sender.video { self.plan.packets_per_frame * if key { 2 } else { 1 } } else { 1 };
                for index in 0..count {
                    let tag = Tag {
                        video: sender.video,
                        client: self.index,
                        room: self.room_number,
                        frame: sender.frame,
                        index,
                        count,
                        key,
                        sent_ms: now.as_millis() as u32,
                    };
                    let payload = if sender.video {
                        payload::vp8(&tag, sender.picture_id, sender.tl0, self.plan.octets)
                    } else {
                        payload::opus(&tag, self.plan.octets.min(80))
                    };
                    let mut write = RtpWrite::new(pt, sender.seq.into(), sender.time, self.base + now, payload)
                        .marker(sender.video && index + 1 == count)
                        .nackable(sender.video);
                    if !sender.video {
                        write = write.ext_vals(ExtensionValues {
                            audio_level: Some(-30),
                            voice_activity: Some(true),
                            ..ExtensionValues::default()
                        });
                    }
                    sender.seq += 1;
                    if let Some(stream) = rtc.direct_api().stream_tx_by_mid(sender.mid, None) {
                        stream.write_rtp(write);
                    }
                }
                sender.frame += 1;
                self.frames_sent.insert(sender.video, sender.frame);
                sender.picture_id = sender.picture_id.wrapping_add(1) & 0x7fff;
                sender.tl0 = sender.tl0.wrapping_add(1);
                let rate = if sender.video { 90 } else { 48 };
                sender.time = sender.time.wrapping_add(every.as_millis() as u32 * rate);
            }
        }
    }

    fn pump(&mut self, now: Duration) {
        let at = self.base + now;
        for _ in 0..64 {
            let Some(rtc) = &mut self.rtc else { return };
            if rtc.handle_input(Input::Timeout(at)).is_err() {
                return self.forget_connection();
            }
            self.drain(now);
            if self.wakes > now {
                return;
            }
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
            Event::IceConnectionStateChange(IceConnectionState::Disconnected) => self.disconnected_since = Some(now),
            Event::IceConnectionStateChange(_) => self.disconnected_since = None,
            Event::KeyframeRequest(request) => {
                self.keyframe_requests.push(now);
                for sender in self.senders.iter_mut().filter(|s| s.mid == request.mid) {
                    sender.key_wanted = true;
                }
            }
            Event::RtpPacket(packet) => self.receive(now, packet),
            _ => {}
        }
    }

    fn receive(&mut self, now: Duration, packet: RtpPacket) {
        let Some(rtc) = &mut self.rtc else { return };
        let Some(mid) = rtc.direct_api().stream_rx(&packet.header.ssrc).map(|s| s.mid()) else { return };
        let Some(tag) = Tag::read(&packet.payload) else {
            self.violations.push(format!("a payload of {} octets is none of ours", packet.payload.len()));
            return;
        };
        let picture_id = if tag.video { payload::picture_id(&packet.payload) } else { None };
        let seen = Seen { at: now, mid, seq: *packet.seq_no, time: packet.header.timestamp, picture_id, tag };
        let line = self.lines.entry(mid).or_default();
        if let Some(other) = line.recent.get(&seen.seq)
            && other.tag != seen.tag
        {
            self.violations.push(format!("one sequence number, two payloads: {other:?} and {seen:?}"));
        }
        if let Some((_, before)) = line.recent.range(..seen.seq).next_back()
            && before.seq + 1 == seen.seq
        {
            self.violations.extend(follows(before, &seen));
        }
        if let Some((_, after)) = line.recent.range(seen.seq + 1..).next()
            && after.seq == seen.seq + 1
        {
            self.violations.extend(follows(&seen, after));
        }
        if line.recent.is_empty() || line.first.as_ref().is_some_and(|first| seen.seq < first.seq) {
            line.first = Some(seen.clone());
        }
        line.recent.insert(seen.seq, seen.clone());
        if line.recent.len() > 1500 {
            line.recent.pop_first();
        }
        let heard = self.heard.entry((tag.client, tag.video)).or_default();
        if heard.packets == 0 {
            heard.first_at = now;
        }
        heard.packets += 1;
        heard.last_at = now;
        let frame = heard.frames.entry(tag.frame).or_default();
        frame.count = tag.count;
        frame.got.insert(tag.index);
        self.arrived.push(seen.clone());
        self.unexplained.push(seen);
    }

    /// What comes on a mid is from the user whom the server named for it, give or take the time that word and media need.
    pub fn judge_names(&mut self, now: Duration, name_of: impl Fn(u32) -> String) {
        for line in self.lines.values_mut() {
            if let Some(first) = line.first.take_if(|first| now > first.at + Duration::from_millis(500))
                && first.tag.video
                && self.lossless
                && !(first.tag.key && first.tag.index == 0)
            {
                self.violations.push(format!("a line starts within a picture: {first:?}"));
            }
        }
        let (patience, lines, violations) = (self.patience, &self.lines, &mut self.violations);
        self.unexplained.retain(|seen| {
            let user = name_of(seen.tag.client);
            let assigned = lines.get(&seen.mid).map(|l| &l.assigned[..]).unwrap_or_default();
            let explained = assigned.iter().enumerate().any(|(i, (from, whom))| {
                let until = assigned.get(i + 1).map_or(Duration::MAX, |next| next.0);
                whom.as_deref() == Some(&user)
                    && seen.at + patience >= *from
                    && seen.at <= until.saturating_add(patience)
            });
            if !explained && now > seen.at + patience {
                violations.push(format!("media of {user} on mid {}, which carries {assigned:?}: {seen:?}", seen.mid));
                return false;
            }
            !explained
        });
    }
}

/// What is wrong with a packet that directly follows another one by its sequence number.
fn follows(a: &Seen, b: &Seen) -> Option<String> {
    let wrong = |what: &str| Some(format!("{what}: {b:?} after {a:?}"));
    let same_source = a.tag.client == b.tag.client;
    if a.tag.video != b.tag.video {
        return wrong("audio and video on one line");
    }
    if !b.tag.video {
        return if same_source && b.tag.frame <= a.tag.frame { wrong("audio goes back") } else { None };
    }
    let starts_key = b.tag.key && b.tag.index == 0;
    let same_frame = same_source && a.tag.frame == b.tag.frame;
    let continues = same_frame && b.tag.index == a.tag.index + 1
        || same_source && b.tag.frame == a.tag.frame + 1 && b.tag.index == 0 && a.tag.index + 1 == a.tag.count;
    if !continues && !starts_key {
        return wrong("neither the next packet nor the start of a key frame");
    }
    let (Some(pa), Some(pb)) = (a.picture_id, b.picture_id) else { return wrong("no picture id") };
    let ahead = pb.wrapping_sub(pa) & 0x7fff;
    let later = b.time.wrapping_sub(a.time);
    // A line that left a track and took it again begins with a whole key frame, if with the one of which it had a part.
    let begins_anew = starts_key && b.tag.index <= a.tag.index;
    if same_frame && !begins_anew {
        if ahead != 0 || later != 0 {
            return wrong("one frame with two picture ids or times");
        }
    } else if ahead == 0 || ahead >= 0x4000 {
        return wrong("the picture id does not go forward");
    } else if later == 0 || later >= 1 << 31 {
        return wrong("the time does not go forward");
    }
    None
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
