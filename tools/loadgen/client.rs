//! One participant: its channel to the server, one `Rtc` over its UDP socket, media in and out.
//!
//! Driven by [`crate::driver`], which waits for the sockets and deadlines of many.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use mio::net::UdpSocket;
use serde_json::{Value, json};
use str0m::change::{SdpAnswer, SdpOffer, SdpPendingOffer};
use str0m::config::{CryptoProvider, DtlsCert};
use str0m::format::Codec;
use str0m::media::{Direction, MediaKind, Mid, Pt};
use str0m::net::{Protocol, Receive};
use str0m::rtp::{ExtensionValues, RtpPacket, RtpWrite, Ssrc};
use str0m::{Candidate, Event, Input, Output, Rtc};

use crate::channel::{Channel, Incoming};
use crate::clock;
use crate::driver::{Shared, Timings};
use crate::frames::FirstKeyFrame;
use crate::media::{AudioSource, Kind, MediaPacket, Stamp, VideoConfig, VideoSource};
use crate::stats::Flow;
use crate::udp::{self, Batch};

/// How the server delivers media (interface.md §4, `join`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReceiveMode {
    Slots,
    Tracks,
}

/// What all clients of a run have in common.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Of each room.
    pub publishers: usize,
    pub video: Option<VideoConfig>,
    /// Payload bytes of an audio packet.
    pub audio_bytes: Option<usize>,
    pub mode: ReceiveMode,
    /// Most lines for receiving, by [`Kind`].
    pub slots: [usize; 2],
    pub crypto: (Arc<CryptoProvider>, DtlsCert),
    pub kernel_timestamps: bool,
    pub seed: u64,
}

impl Settings {
    fn sends(&self, kind: Kind) -> bool {
        match kind {
            Kind::Audio => self.audio_bytes.is_some(),
            Kind::Video => self.video.is_some(),
        }
    }
}

/// Who a client is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// Sets its names apart from those of other runs.
    pub run: String,
    pub room: usize,
    pub room_id: String,
    /// Its number in the room; the publishers come first.
    pub member: usize,
    pub user_id: String,
    pub publishes: bool,
    pub receives: bool,
}

impl Plan {
    /// The publishers of its room, by number, that it should receive.
    pub fn wanted(&self, publishers: usize) -> impl Iterator<Item = usize> + use<> {
        let own = self.publishes.then_some(self.member);
        let count = if self.receives { publishers } else { 0 };
        (0..count).filter(move |publisher| Some(*publisher) != own)
    }
}

/// A channel that is open, with the participant that it is for.
#[derive(Debug)]
pub struct Opened {
    pub plan: Plan,
    pub channel: Channel,
    pub opened_at: Instant,
}

/// What a client saw, when the run is over.
#[derive(Debug)]
pub struct Outcome {
    pub plan: Plan,
    pub joined_after: Option<Duration>,
    pub connected_after: Option<Duration>,
    pub first_media_after: Option<Duration>,
    /// From `join` to the first whole key frame of anybody whose video was there already, and of everybody.
    pub first_frame_after: Option<Duration>,
    pub every_frame_after: Option<Duration>,
    /// Packets in the window, by [`Kind`].
    pub sent: [u64; 2],
    /// By publisher of the room and [`Kind`].
    pub flows: Vec<[Flow; 2]>,
    pub key_frames: u64,
    pub key_frame_requests: u64,
    /// Packets that the own socket did not take.
    pub send_failures: u64,
    /// Packets of another room.
    pub foreign: u64,
    /// Packets on a line that `track-subscribed` gave to somebody else, or to nobody.
    pub mislabelled: u64,
    /// Packets with a payload that no publisher made.
    pub unstamped: u64,
    pub offers_answered: u64,
    /// Why it did not last.
    pub failure: Option<String>,
}

pub struct Client {
    settings: Arc<Settings>,
    channel: Channel,
    udp: UdpSocket,
    local: SocketAddr,
    rtc: Rtc,
    rtc_deadline: Instant,
    opened_at: Instant,
    /// When it said `join`, or sent its offer.
    join_at: Instant,
    joined: bool,
    connected: bool,
    ready: bool,
    pending: Option<SdpPendingOffer>,
    /// Lines that the own offer made for sending, by [`Kind`].
    send_mids: [Option<Mid>; 2],
    video: Option<Sender<VideoSource>>,
    audio: Option<Sender<AudioSource>>,
    lines: HashMap<Mid, Line>,
    /// The publishers whose video was there when it joined, and that it has not yet seen.
    unseen: HashMap<usize, FirstKeyFrame>,
    /// Found once per stream; there are few.
    streams: Vec<(Ssrc, Mid, Kind)>,
    arrival: ArrivalTime,
    outcome: Outcome,
}

/// Where a source's packets go.
struct Sender<S> {
    source: S,
    ssrc: Ssrc,
    pt: Pt,
    next_seq: u64,
}

/// What `track-subscribed` says of a line.
struct Line {
    publisher: Option<usize>,
    since: Instant,
}

/// Of the datagram that is being handled, CLOCK_MONOTONIC.
#[derive(Debug, Clone, Copy, Default)]
struct ArrivalTime {
    kernel_ns: Option<u64>,
    seen_ns: u64,
}

impl Client {
    /// Says `join`, or sends the offer of a session; what follows comes of what the server answers.
    ///
    /// # Errors
    ///
    /// When no UDP socket can be had.
    pub fn new(settings: Arc<Settings>, opened: Opened, now: Instant) -> io::Result<Client> {
        let Opened { plan, channel, opened_at } = opened;
        let local_ip = channel.local_ip()?;
        let udp = UdpSocket::from_std(udp::bind(local_ip, settings.kernel_timestamps)?);
        let local = udp.local_addr()?;
        let (provider, certificate) = settings.crypto.clone();
        let mut rtc = Rtc::builder()
            .set_crypto_provider(provider)
            .set_dtls_cert(certificate)
            .set_rtp_mode(true)
            .clear_codecs()
            .enable_opus(true, false)
            .enable_vp8(true)
            .build(now);
        let candidate = Candidate::host(local, "udp").map_err(io::Error::other)?;
        rtc.add_local_candidate(candidate);
        let flows = vec![Default::default(); settings.publishers];
        let outcome = Outcome {
            plan,
            joined_after: None,
            connected_after: None,
            first_media_after: None,
            first_frame_after: None,
            every_frame_after: None,
            sent: [0; 2],
            flows,
            key_frames: 0,
            key_frame_requests: 0,
            send_failures: 0,
            foreign: 0,
            mislabelled: 0,
            unstamped: 0,
            offers_answered: 0,
            failure: None,
        };
        let mut client = Client {
            settings,
            channel,
            udp,
            local,
            rtc,
            rtc_deadline: now + NO_DEADLINE,
            opened_at,
            join_at: now,
            joined: false,
            connected: false,
            ready: false,
            pending: None,
            send_mids: [None; 2],
            video: None,
            audio: None,
            lines: HashMap::new(),
            unseen: HashMap::new(),
            streams: Vec::new(),
            arrival: ArrivalTime::default(),
            outcome,
        };
        client.outcome.failure = client.join().err().map(|e| format!("join: {e}"));
        Ok(client)
    }

    fn join(&mut self) -> Result<(), String> {
        if let Channel::Whip(_) = self.channel {
            // Those who publish have come before, as far as this end can know.
            self.expect_video_of(0..self.settings.publishers);
            return self.offer();
        }
        let receive = match self.settings.mode {
            ReceiveMode::Slots => "slots",
            ReceiveMode::Tracks => "tracks",
        };
        let plan = &self.outcome.plan;
        let data = json!({ "receive": receive, "autoSubscribe": plan.receives, "displayName": plan.user_id });
        self.channel.send(&json!({ "type": "join", "roomId": plan.room_id, "id": "join", "data": data }))
    }

    fn expect_video_of(&mut self, present: impl Iterator<Item = usize>) {
        if !self.settings.sends(Kind::Video) {
            return;
        }
        let wanted: Vec<usize> = self.outcome.plan.wanted(self.settings.publishers).collect();
        self.unseen = present.filter(|publisher| wanted.contains(publisher)).map(|p| (p, Default::default())).collect();
    }

    /// What tells that there is something to read.
    ///
    /// # Errors
    ///
    /// When the connection is gone.
    pub fn channel_fd(&self) -> io::Result<i32> {
        self.channel.fd()
    }

    pub fn udp_mut(&mut self) -> &mut UdpSocket {
        &mut self.udp
    }

    /// When it next wants [`Client::handle_timeout`].
    pub fn deadline(&self) -> Instant {
        let video = self.video.as_ref().map(|s| s.source.next_at());
        let audio = self.audio.as_ref().map(|s| s.source.next_at());
        [video, audio].into_iter().flatten().fold(self.rtc_deadline, Instant::min)
    }

    // ---- signaling ----

    /// The channel can be read, or written again.
    pub fn handle_channel(&mut self, now: Instant, shared: &Shared, timings: &mut Timings) {
        while self.outcome.failure.is_none() {
            match self.channel.poll() {
                Ok(Some(Incoming::Message(message))) => self.handle_message(now, shared, timings, &message),
                Ok(Some(Incoming::Answer(sdp))) => {
                    self.on_joined(now, shared);
                    match self.on_answer(&sdp) {
                        Ok(()) => self.handle_rtc_timeout(now, shared, timings),
                        Err(e) => self.fail(shared, &e),
                    }
                }
                Ok(Some(Incoming::Garbage(why))) => shared.on_error("not_json", &why),
                Ok(None) => return,
                Err(e) => self.fail(shared, &e),
            }
        }
    }

    fn handle_message(&mut self, now: Instant, shared: &Shared, timings: &mut Timings, message: &Value) {
        let data = &message["data"];
        let done = match message["type"].as_str().unwrap_or_default() {
            "joined" => {
                self.on_joined(now, shared);
                self.on_participants(data).and_then(|()| self.offer())
            }
            "answer" => self.on_answer(&sdp_text(data)),
            "track-published" => self.pin(&message["userId"], &data["track"]),
            "offer" => self.on_offer(data, &message["id"]),
            "ice-candidate" => self.on_candidate(data),
            "track-subscribed" => {
                self.on_track_subscribed(now, message);
                Ok(())
            }
            "error" => {
                let code = data["code"].as_str().unwrap_or("?");
                shared.on_error(code, data["message"].as_str().unwrap_or_default());
                if self.joined { Ok(()) } else { Err(format!("refused: {code}")) }
            }
            _ => Ok(()),
        };
        if let Err(e) = done {
            return self.fail(shared, &e);
        }
        self.handle_rtc_timeout(now, shared, timings);
    }

    fn on_joined(&mut self, now: Instant, shared: &Shared) {
        self.joined = true;
        self.outcome.joined_after = Some(now - self.opened_at);
        shared.joined.fetch_add(1, Ordering::Relaxed);
    }

    /// Who is there already, with what.
    fn on_participants(&mut self, joined: &Value) -> Result<(), String> {
        let tracks = |participant: &Value| participant["tracks"].as_array().cloned().unwrap_or_default();
        let participants = joined["participants"].as_array().map(Vec::as_slice).unwrap_or_default();
        let has_video = |participant: &&Value| tracks(participant).iter().any(|track| track["kind"] == "video");
        let present = participants.iter().filter(has_video).filter_map(|p| member_of(p["userId"].as_str()?));
        self.expect_video_of(present);
        for participant in participants {
            tracks(participant).iter().try_for_each(|track| self.pin(&participant["userId"], track))?;
        }
        Ok(())
    }

    /// Asks for the voice of everybody: else the server forwards the loudest alone.
    fn pin(&mut self, user: &Value, track: &Value) -> Result<(), String> {
        let plan = &self.outcome.plan;
        let publisher = user.as_str().and_then(member_of);
        let is_wanted =
            publisher.is_some_and(|publisher| plan.wanted(self.settings.publishers).any(|p| p == publisher));
        if track["kind"] != "audio" || !is_wanted {
            return Ok(());
        }
        let data = json!({ "trackId": track["trackId"] });
        self.channel.send(&json!({ "type": "subscribe", "roomId": plan.room_id, "data": data }))
    }

    /// Lines for what it sends, and in slots mode for what it receives.
    fn offer(&mut self) -> Result<(), String> {
        let mut api = self.rtc.sdp_api();
        let mut tracks = Vec::new();
        for kind in Kind::ALL {
            if self.outcome.plan.publishes && self.settings.sends(kind) {
                let mid = api.add_media(media_kind(kind), Direction::SendOnly, None, None, None);
                self.send_mids[kind as usize] = Some(mid);
                let source = if kind == Kind::Audio { "microphone" } else { "camera" };
                tracks.push(json!({ "mid": mid.to_string(), "source": source }));
            }
        }
        if self.settings.mode == ReceiveMode::Slots {
            let wanted = self.outcome.plan.wanted(self.settings.publishers).count();
            for kind in Kind::ALL.into_iter().filter(|kind| self.settings.sends(*kind)) {
                for _ in 0..wanted.min(self.settings.slots[kind as usize]) {
                    api.add_media(media_kind(kind), Direction::RecvOnly, None, None, None);
                }
            }
        }
        let Some((offer, pending)) = api.apply() else { return Ok(()) };
        self.pending = Some(pending);
        if let Channel::Whip(session) = &mut self.channel {
            session.offer(&offer.to_sdp_string());
            return Ok(());
        }
        let data = json!({ "sdp": offer.to_sdp_string(), "tracks": tracks });
        let room = &self.outcome.plan.room_id;
        self.channel.send(&json!({ "type": "offer", "roomId": room, "id": "offer", "data": data }))
    }

    fn on_answer(&mut self, sdp: &str) -> Result<(), String> {
        let Some(pending) = self.pending.take() else { return Err("an answer to no offer".into()) };
        let answer = SdpAnswer::from_sdp_string(&without_bandwidth(sdp)).map_err(|e| format!("answer: {e}"))?;
        self.rtc.sdp_api().accept_answer(pending, answer).map_err(|e| format!("answer: {e}"))
    }

    fn on_offer(&mut self, data: &Value, id: &Value) -> Result<(), String> {
        if self.pending.is_some() {
            // The server gives way and offers again (interface.md §4).
            return Ok(());
        }
        let offer =
            SdpOffer::from_sdp_string(&without_bandwidth(&sdp_text(data))).map_err(|e| format!("offer: {e}"))?;
        let answer = self.rtc.sdp_api().accept_offer(offer).map_err(|e| format!("offer: {e}"))?;
        self.outcome.offers_answered += 1;
        let room = &self.outcome.plan.room_id;
        let data = json!({ "sdp": answer.to_sdp_string() });
        self.channel.send(&json!({ "type": "answer", "roomId": room, "id": id, "data": data }))
    }

    fn on_candidate(&mut self, data: &Value) -> Result<(), String> {
        let candidate = &data["candidate"];
        let text = candidate.as_str().or_else(|| candidate["candidate"].as_str()).unwrap_or_default();
        // Those that cannot be used, such as TCP, do no harm: every candidate is in the description as well.
        if let Ok(candidate) = Candidate::from_sdp_string(text) {
            self.rtc.add_remote_candidate(candidate);
        }
        Ok(())
    }

    fn on_track_subscribed(&mut self, now: Instant, message: &Value) {
        let data = &message["data"];
        let Some(mid) = data["mid"].as_str() else { return };
        let publisher = data["userId"].as_str().and_then(member_of).filter(|p| *p < self.settings.publishers);
        let line = Line { publisher, since: now };
        let before = self.lines.insert(mid.into(), line).and_then(|line| line.publisher);
        let kind = if data["kind"] == "audio" { Kind::Audio } else { Kind::Video };
        if let Some(before) = before.filter(|before| Some(*before) != publisher) {
            self.outcome.flows[before][kind as usize].on_unsubscribed();
        }
    }

    fn fail(&mut self, shared: &Shared, why: &str) {
        if self.outcome.failure.is_none() {
            self.outcome.failure = Some(why.to_owned());
            shared.failed.fetch_add(1, Ordering::Relaxed);
            shared.on_error("client", why);
            self.video = None;
            self.audio = None;
            self.rtc.disconnect();
        }
    }

    // ---- media ----

    /// The UDP socket can be read. `realtime_offset_ns` is what the kernel's clock is ahead of the monotonic one.
    pub fn handle_datagrams(
        &mut self,
        now: Instant,
        batch: &mut Batch,
        realtime_offset_ns: i64,
        shared: &Shared,
        timings: &mut Timings,
    ) {
        loop {
            // Errors of earlier sends, such as a refused port, surface here and concern single packets.
            let count = batch.receive(self.udp.as_raw_fd()).unwrap_or(0);
            let seen_ns = clock::monotonic_ns();
            for datagram in batch.datagrams() {
                let kernel_ns = datagram.kernel_ns.and_then(|ns| ns.checked_add_signed(-realtime_offset_ns));
                self.arrival = ArrivalTime { kernel_ns, seen_ns };
                let Ok(receive) = Receive::new(Protocol::Udp, datagram.source, self.local, datagram.contents) else {
                    continue;
                };
                if let Err(e) = self.rtc.handle_input(Input::Receive(now, receive)) {
                    return self.fail(shared, &format!("datagram: {e}"));
                }
                self.drain(now, shared, timings);
            }
            if count < Batch::LEN {
                return;
            }
        }
    }

    pub fn handle_timeout(&mut self, now: Instant, shared: &Shared, timings: &mut Timings) {
        if self.outcome.failure.is_some() {
            self.rtc_deadline = now + NO_DEADLINE;
            return;
        }
        let mut wrote = false;
        while let Some(video) = &mut self.video
            && let Some(packet) = video.source.poll_packet(now, clock::monotonic_ns())
        {
            wrote |= video.write(&mut self.rtc, now, &packet, Kind::Video);
            self.outcome.on_sent(Kind::Video, &packet, shared, timings);
        }
        while let Some(audio) = &mut self.audio
            && let Some(packet) = audio.source.poll_packet(now, clock::monotonic_ns())
        {
            wrote |= audio.write(&mut self.rtc, now, &packet, Kind::Audio);
            self.outcome.on_sent(Kind::Audio, &packet, shared, timings);
        }
        // What was written leaves with the next timeout only.
        if wrote || self.rtc_deadline <= now {
            self.handle_rtc_timeout(now, shared, timings);
        }
    }

    fn handle_rtc_timeout(&mut self, now: Instant, shared: &Shared, timings: &mut Timings) {
        if let Err(e) = self.rtc.handle_input(Input::Timeout(now)) {
            return self.fail(shared, &format!("timeout: {e}"));
        }
        self.drain(now, shared, timings);
    }

    fn drain(&mut self, now: Instant, shared: &Shared, timings: &mut Timings) {
        loop {
            match self.rtc.poll_output() {
                Ok(Output::Timeout(deadline)) => {
                    self.rtc_deadline = deadline.min(now + NO_DEADLINE);
                    return;
                }
                Ok(Output::Transmit(transmit)) => {
                    if self.udp.send_to(&transmit.contents, transmit.destination).is_err() {
                        self.outcome.send_failures += 1;
                    }
                }
                Ok(Output::Event(event)) => self.handle_event(now, shared, timings, event),
                Err(e) => {
                    self.rtc_deadline = now + NO_DEADLINE;
                    return self.fail(shared, &format!("media connection: {e}"));
                }
            }
        }
    }

    fn handle_event(&mut self, now: Instant, shared: &Shared, timings: &mut Timings, event: Event) {
        match event {
            Event::RtpPacket(packet) => self.on_packet(now, shared, timings, &packet),
            Event::Connected => self.on_connected(now, shared),
            Event::KeyframeRequest(request) if Some(request.mid) == self.send_mids[Kind::Video as usize] => {
                self.outcome.key_frame_requests += 1;
                if let Some(video) = &mut self.video {
                    video.source.handle_key_frame_request();
                }
            }
            Event::IceConnectionStateChange(state) if state.is_disconnected() && self.connected => {
                shared.on_error("ice", "a connection lost its path");
            }
            _ => {}
        }
    }

    fn on_connected(&mut self, now: Instant, shared: &Shared) {
        if self.connected {
            return;
        }
        self.connected = true;
        self.outcome.connected_after = Some(now - self.opened_at);
        let plan = &self.outcome.plan;
        let publisher = (plan.room * self.settings.publishers + plan.member) as u32;
        let seed = self.settings.seed.wrapping_add(u64::from(publisher) << 8);
        let mut random = fastrand::Rng::with_seed(seed);
        // Cameras are not synchronous.
        let mut phase = |interval_us: u64| now + Duration::from_micros(random.u64(..interval_us.max(1)));
        if let Some(config) = self.settings.video {
            let start = phase(1_000_000 / u64::from(config.fps.max(1)));
            let source = VideoSource::new(config, publisher, start, seed);
            self.video = self.sender(Kind::Video, source);
        }
        if let Some(bytes) = self.settings.audio_bytes {
            let source = AudioSource::new(bytes, publisher, phase(20_000), seed + 1);
            self.audio = self.sender(Kind::Audio, source);
        }
        if self.outcome.plan.wanted(self.settings.publishers).next().is_none() {
            self.on_ready(shared);
        }
    }

    /// `None` when no line for sending this kind was negotiated.
    fn sender<S>(&mut self, kind: Kind, source: S) -> Option<Sender<S>> {
        let mid = self.send_mids[kind as usize]?;
        let codec = if kind == Kind::Audio { Codec::Opus } else { Codec::Vp8 };
        let pt = self.rtc.codec_config().find(|params| params.spec().codec == codec)?.pt();
        let ssrc = self.rtc.direct_api().stream_tx_by_mid(mid, None)?.ssrc();
        // A receiver assumes that the rollover counter begins at 0.
        let next_seq = fastrand::Rng::with_seed(self.settings.seed ^ u64::from(*ssrc)).u64(..30_000);
        Some(Sender { source, ssrc, pt, next_seq })
    }

    fn on_ready(&mut self, shared: &Shared) {
        if !self.ready {
            self.ready = true;
            shared.ready.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn on_packet(&mut self, now: Instant, shared: &Shared, timings: &mut Timings, packet: &RtpPacket) {
        let ssrc = packet.header.ssrc;
        let known = self.streams.iter().find(|(known, ..)| *known == ssrc).map(|(_, mid, kind)| (*mid, *kind));
        let Some((mid, kind)) = known.or_else(|| self.learn_stream(ssrc)) else {
            self.outcome.unstamped += 1;
            return;
        };
        if packet.payload.is_empty() {
            return;
        }
        let Some(stamp) = Stamp::parse(kind, &packet.payload) else {
            self.outcome.unstamped += 1;
            return;
        };
        let publishers = self.settings.publishers.max(1);
        let (room, publisher) = (stamp.publisher as usize / publishers, stamp.publisher as usize % publishers);
        if room != self.outcome.plan.room {
            self.outcome.foreign += 1;
            return;
        }
        let is_wrong =
            |line: &Line| line.publisher != Some(publisher) && now.saturating_duration_since(line.since) > LABEL_LAG;
        if self.channel.has_labels() && self.lines.get(&mid).is_none_or(is_wrong) {
            self.outcome.mislabelled += 1;
        }
        if self.outcome.first_media_after.is_none() {
            self.outcome.first_media_after = Some(now - self.opened_at);
            self.on_ready(shared);
        }
        if kind == Kind::Video {
            self.look_for_frame(now, publisher, packet);
        }
        let measured = shared.window().contains(stamp.sent_ns);
        self.outcome.flows[publisher][kind as usize].on_packet(stamp.counter, measured);
        if measured {
            let ArrivalTime { kernel_ns, seen_ns } = self.arrival;
            timings.seen.record_ns(seen_ns.saturating_sub(stamp.sent_ns));
            if let Some(kernel_ns) = kernel_ns {
                timings.latency[kind as usize].record_ns(kernel_ns.saturating_sub(stamp.sent_ns));
            }
        }
    }

    /// Of those who were there before, who can be seen now?
    fn look_for_frame(&mut self, now: Instant, publisher: usize, packet: &RtpPacket) {
        let Some(first) = self.unseen.get_mut(&publisher) else { return };
        let RtpPacket { seq_no, header, payload, .. } = packet;
        if first.on_packet(**seq_no, header.timestamp, header.marker, payload) {
            self.unseen.remove(&publisher);
            let after = now - self.join_at;
            self.outcome.first_frame_after.get_or_insert(after);
            if self.unseen.is_empty() {
                self.outcome.every_frame_after = Some(after);
            }
        }
    }

    fn learn_stream(&mut self, ssrc: Ssrc) -> Option<(Mid, Kind)> {
        let mid = self.rtc.direct_api().stream_rx(&ssrc)?.mid();
        let kind = match self.rtc.media(mid)?.kind() {
            MediaKind::Audio => Kind::Audio,
            MediaKind::Video => Kind::Video,
        };
        self.streams.push((ssrc, mid, kind));
        Some((mid, kind))
    }

    /// Says goodbye. [`Client::handle_goodbye`] has to follow until it is over.
    pub fn leave(&mut self, shared: &Shared) {
        if self.outcome.failure.is_none()
            && let Err(e) = self.channel.leave(&self.outcome.plan.room_id)
        {
            shared.on_error("leave", &e);
        }
    }

    /// Reads what still comes. True when the server has closed.
    pub fn handle_goodbye(&mut self) -> bool {
        self.channel.handle_goodbye()
    }

    /// What happened.
    pub fn into_outcome(mut self) -> Outcome {
        self.outcome.key_frames = self.video.as_ref().map_or(0, |video| video.source.key_frames);
        self.outcome
    }
}

impl<S> Sender<S> {
    fn write(&mut self, rtc: &mut Rtc, now: Instant, packet: &MediaPacket, kind: Kind) -> bool {
        let mut extensions = ExtensionValues::default();
        if kind == Kind::Audio {
            // Somebody is speaking, so that whoever selects by level selects it.
            extensions.audio_level = Some(-30);
            extensions.voice_activity = Some(true);
        }
        let write = RtpWrite::new(self.pt, self.next_seq.into(), packet.rtp_time, now, Arc::clone(&packet.payload))
            .marker(packet.marker)
            .nackable(kind == Kind::Video)
            .ext_vals(extensions);
        self.next_seq += 1;
        let mut api = rtc.direct_api();
        let Some(stream) = api.stream_tx(&self.ssrc) else { return false };
        stream.write_rtp(write);
        true
    }
}

impl Outcome {
    fn on_sent(&mut self, kind: Kind, packet: &MediaPacket, shared: &Shared, timings: &mut Timings) {
        let Some(stamp) = Stamp::parse(kind, &packet.payload) else { return };
        if shared.window().contains(stamp.sent_ns) {
            self.sent[kind as usize] += 1;
            timings.bytes_sent += packet.payload.len() as u64;
            timings.lateness.record(Instant::now().saturating_duration_since(packet.due));
        }
    }
}

/// The name of member `member` of room `room`.
pub fn user_id(run: &str, room: usize, member: usize) -> String {
    format!("load-{run}-{room}-{member}")
}

fn member_of(user_id: &str) -> Option<usize> {
    user_id.rsplit_once('-')?.1.parse().ok()
}

/// `sdp` as text, or as an object that has it.
fn sdp_text(data: &Value) -> String {
    data["sdp"].as_str().or_else(|| data["sdp"]["sdp"].as_str()).unwrap_or_default().to_owned()
}

/// Without bandwidth lines, of which str0m takes one per m-line at most (RFC 8866 §5.8 allows any number) and makes nothing.
fn without_bandwidth(sdp: &str) -> String {
    sdp.split_inclusive('\n').filter(|line| !line.starts_with("b=")).collect()
}

fn media_kind(kind: Kind) -> MediaKind {
    match kind {
        Kind::Audio => MediaKind::Audio,
        Kind::Video => MediaKind::Video,
    }
}

/// Far enough to mean never, near enough to be harmless.
const NO_DEADLINE: Duration = Duration::from_secs(1);
/// Media and signaling take different ways; a line may carry its next track for so long before it counts as wrong.
const LABEL_LAG: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_are_known_by_name() {
        assert_eq!(member_of(&user_id("ab12", 3, 17)), Some(17));
        for foreign in ["sfu", "load-x-1-", "load-x-1-y", ""] {
            assert_eq!(member_of(foreign), None, "{foreign}");
        }
    }

    #[test]
    fn nobody_wants_oneself() {
        let plan = |member, publishes, receives| Plan {
            run: String::new(),
            room: 0,
            room_id: String::new(),
            member,
            user_id: String::new(),
            publishes,
            receives,
        };
        for (plan, wanted) in
            [(plan(1, true, true), vec![0, 2]), (plan(1, true, false), vec![]), (plan(3, false, true), vec![0, 1, 2])]
        {
            assert_eq!(plan.wanted(3).collect::<Vec<_>>(), wanted, "{plan:?}");
        }
    }

    #[test]
    fn descriptions_come_in_two_forms() {
        assert_eq!(sdp_text(&json!({ "sdp": "v=0" })), "v=0");
        assert_eq!(sdp_text(&json!({ "sdp": { "type": "offer", "sdp": "v=0" } })), "v=0");
        assert_eq!(sdp_text(&json!({})), "");
        let text = "v=0\r\nm=audio 9 RTP 0\r\nb=AS:1\r\nb=TIAS:1\r\na=mid:0\r\n";
        assert_eq!(without_bandwidth(text), "v=0\r\nm=audio 9 RTP 0\r\na=mid:0\r\n");
    }
}
