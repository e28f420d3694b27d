//! One WebRTC connection: ICE-lite, DTLS, SRTP and RTP in both directions with one participant.
//!
//! The only module that names [`str0m::Rtc`]. It turns m-lines into [`Line`]s, owns negotiation and glare (RFC 8829), and the
//! maps from mid, ssrc and codec to what travels on the wire. It does not know rooms, nor who gets what.
//!
//! Driven by [`crate::shard`]: one mutation, then everything that str0m has to say is drained into a [`Sink`] (its
//! single-mutation contract). A panic inside str0m ends this peer and nothing else.

pub mod channels;
pub mod crypto;
mod estimate;
mod extensions;
pub mod red;
pub mod sdp;
pub mod stats;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustc_hash::FxHashMap;
use str0m::bwe::{Bitrate, BweKind};
use str0m::change::{SdpAnswer, SdpOffer, SdpPendingOffer};
use str0m::format::Codec;
use str0m::media::{Direction, KeyframeRequestKind, MediaKind, Mid, Pt, Rid};
use str0m::net::{Protocol, Receive, TcpType};
use str0m::rtp::{RtpPacket, RtpWrite, Ssrc, StreamTx};
use str0m::stats::PeerStats;
use str0m::{Candidate, Event as RtcEvent, IceConnectionState, Input, Output, Rtc, RtcConfig, RtcError};

use crate::base::Class;
use crate::config::VideoCodec;
use crate::sfu::Forward;

pub use channels::{Delivery, Sending};
pub use sdp::SdpError;
pub use stats::Stats;

use channels::Channels;
use estimate::{Aim, Doubt, Steady, Trial};
use red::Redundancy;

/// What all peers of a shard have in common.
#[derive(Debug, Clone)]
pub struct PeerConfig {
    /// Host candidates, as announced; at least one.
    pub candidates: Vec<SocketAddr>,
    /// Passive TCP candidates (RFC 6544 §4.5), as announced: where framed packets (RFC 4571) are accepted.
    pub tcp_candidates: Vec<SocketAddr>,
    /// Video codecs in the order of preference; those missing are not offered.
    pub video_codecs: Vec<VideoCodec>,
    /// Caps put into every SDP, in bits per second.
    pub audio_bitrate: u32,
    pub video_max_bitrate: u32,
    /// Retransmissions as a share of what is sent, 0 to 1.
    pub retransmission_share: f32,
    /// Bounds for SDP that comes from outside.
    pub limits: sdp::Limits,
    /// Data channels that a client may have, octets of a message, octets that may wait for a client.
    pub channels: usize,
    pub channel_message: usize,
    pub channel_buffer: usize,
}

/// A packet to send: a datagram, or a frame on the TCP connection from `destination`.
pub struct Transmit {
    pub protocol: Protocol,
    /// The announced address to send from: one of [`PeerConfig::candidates`] or [`PeerConfig::tcp_candidates`].
    pub source: SocketAddr,
    pub destination: SocketAddr,
    pub class: Class,
    pub data: Vec<u8>,
}

/// An RTP packet that arrived.
pub struct Received {
    pub mid: Mid,
    pub rid: Option<Rid>,
    pub codec: Codec,
    pub red: bool,
    /// The payload type of the primary codec as this publisher numbers it.
    pub inner_pt: Pt,
    pub clock_rate: u32,
    pub packet: RtpPacket,
}

/// What a peer has to tell its shard.
pub enum Event {
    /// ICE and DTLS are up; media may flow.
    Connected,
    /// An authenticated connectivity check came from this address (RFC 8445 §7.3): it belongs to this peer.
    AddressVerified(Protocol, SocketAddr),
    /// A subscriber asks for a key frame on this outgoing line.
    KeyframeRequest(Mid),
    /// What can be sent to the client was estimated anew: [`Peer::estimate`].
    Estimate,
    /// The client sent a message on a data channel.
    Message { label: Arc<str>, delivery: Delivery, binary: bool, data: Vec<u8> },
    /// A message was larger than allowed, or a channel one too many: it was dropped.
    ChannelRefused,
    /// The remote closed, or ICE is beyond hope.
    Closed,
    /// str0m panicked; the peer is dead.
    Panicked,
}

/// Where a peer puts what comes out of it. Reused between calls, so that nothing is allocated once warm.
#[derive(Default)]
pub struct Sink {
    pub transmits: VecDeque<Transmit>,
    pub events: Vec<Event>,
    pub received: Vec<Received>,
}

impl Sink {
    /// Forgets what came out of a peer that is thrown away.
    pub fn clear(&mut self) {
        self.transmits.clear();
        self.events.clear();
        self.received.clear();
    }
}

/// An m-line as the server sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    pub mid: Mid,
    pub kind: MediaKind,
    /// The client sends on it.
    pub receives: bool,
    /// The server may send on it.
    pub sends: bool,
    /// Rejected or stopped: never to be used again.
    pub stopped: bool,
    /// The client understands the dependency descriptor on it.
    pub has_descriptor: bool,
}

/// A change that the server wants to negotiate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    Add(MediaKind, Direction),
    Direct(Mid, Direction),
}

/// An offer of the server.
pub struct Offer {
    /// What an answer echoes.
    pub id: u64,
    pub sdp: String,
    /// The mids of the [`Change::Add`]s, in their order.
    pub added: Vec<Mid>,
}

/// Why a description was not taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NegotiationError {
    /// It is not acceptable; the text says why.
    Sdp(String),
    /// An answer to an offer that the server has dropped.
    Stale,
    /// An answer without an offer.
    Unexpected,
    /// The peer is gone.
    Dead,
}

impl From<SdpError> for NegotiationError {
    fn from(e: SdpError) -> Self {
        NegotiationError::Sdp(e.to_string())
    }
}

/// One connection. See the module's documentation.
pub struct Peer {
    rtc: Rtc,
    config: Arc<PeerConfig>,
    /// When offer and answer were first exchanged: from then on the connection has to come up.
    negotiated: Option<Instant>,
    state: State,
    pending: Option<Pending>,
    has_offered: bool,
    /// The remote DTLS fingerprints of the first description: another one means another PeerConnection.
    remote_fingerprint: Option<String>,
    /// In the order of negotiation.
    lines: Vec<Line>,
    receivers: FxHashMap<u32, Receiver>,
    outgoing: FxHashMap<Mid, Outgoing>,
    /// Payload types that carry audio, a bit each.
    audio_pts: u128,
    /// When str0m wants to be called again.
    deadline: Instant,
    /// Where everything but STUN goes, from and to: the pair of addresses that the client nominated last.
    path: Option<(Protocol, SocketAddr, SocketAddr)>,
    /// When something that is the client's came last.
    heard: Instant,
    /// Bit/s to the client. `None`: it gives no feedback to estimate from.
    estimate: Option<u64>,
    /// The same without [`Doubt`].
    measured: Option<u64>,
    steady: Steady,
    /// The estimate is str0m's own, by the client's feedback.
    is_measured: bool,
    /// The client said that it gives such feedback, or nothing yet.
    has_feedback: bool,
    /// What is to be filled up with padding, and what would be sent if there were room for it, in bit/s.
    minimum: u64,
    desired: u64,
    aim: Aim,
    /// What the estimator was told of both.
    told: (u64, u64),
    trial: Trial,
    doubt: Doubt,
    /// What the most important picture takes at its smallest, which may be more than [`ESTIMATE_LEAST`], and the doubt that goes
    /// so far.
    least: u64,
    doubt_more: Doubt,
    stats: Stats,
    channels: Channels,
    /// The client negotiated data channels.
    has_channels: bool,
    counters: Counters,
}

/// Counted for statistics.
#[derive(Debug, Default, Clone, Copy)]
pub struct Counters {
    pub packets_in: u64,
    pub bytes_in: u64,
    pub packets_out: u64,
    pub bytes_out: u64,
    /// Packets that this peer could not take, because it did not negotiate the codec.
    pub codec_missing: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// No description yet.
    Fresh,
    Connecting,
    Connected,
    Dead,
}

struct Pending {
    id: u64,
    pending: SdpPendingOffer,
    mids: Vec<String>,
    added: Vec<(Mid, MediaKind)>,
    restart_ufrag: Option<String>,
}

#[derive(Debug, Clone, Copy)]
struct Receiver {
    mid: Mid,
    rid: Option<Rid>,
}

struct Outgoing {
    ssrc: Ssrc,
    /// What this line may carry: codec, payload type, payload type of RFC 2198 around it.
    formats: Vec<(Codec, Pt, Option<Pt>)>,
    kind: MediaKind,
    redundancy: Redundancy,
}

impl Peer {
    pub fn new(now: Instant, config: Arc<PeerConfig>) -> Peer {
        let mut rtc_config = RtcConfig::new()
            .set_crypto_provider(crypto::provider())
            .set_dtls_cert(crypto::certificate().clone())
            .set_rtp_mode(true)
            .set_ice_lite(true)
            .set_stats_interval(Some(STATS_INTERVAL))
            .set_extension_map(extensions::map())
            .enable_bwe(Some(Bitrate::bps(ESTIMATE_INITIAL)))
            .set_sctp_max_buffered_amount(config.channel_buffer)
            .set_sctp_max_message_size(config.channel_message.try_into().unwrap_or(u32::MAX))
            .set_send_buffer_video(RTX_CACHE_VIDEO)
            .set_send_buffer_audio(RTX_CACHE_AUDIO)
            .clear_codecs()
            .enable_opus(true, true);
        for codec in &config.video_codecs {
            rtc_config = match codec {
                VideoCodec::Vp8 => rtc_config.enable_vp8(true),
                VideoCodec::H264 => rtc_config.enable_h264(true),
                VideoCodec::Vp9 => rtc_config.enable_vp9(true),
                VideoCodec::Av1 => rtc_config.enable_av1(true),
            };
        }
        let mut rtc = rtc_config.build(now);
        for address in &config.candidates {
            // An address that cannot be a candidate was refused when the configuration was read.
            if let Ok(candidate) = Candidate::host(*address, Protocol::Udp) {
                rtc.add_local_candidate(candidate);
            }
        }
        for address in &config.tcp_candidates {
            if let Ok(candidate) = Candidate::builder().tcp().host(*address).tcptype(TcpType::Passive).build() {
                rtc.add_local_candidate(candidate);
            }
        }
        Peer {
            rtc,
            config,
            negotiated: None,
            state: State::Fresh,
            pending: None,
            has_offered: false,
            remote_fingerprint: None,
            lines: Vec::new(),
            receivers: FxHashMap::default(),
            outgoing: FxHashMap::default(),
            audio_pts: 0,
            deadline: now,
            path: None,
            heard: now,
            estimate: None,
            measured: None,
            doubt: Doubt::new(DOUBT_PAUSE_MAX),
            least: ESTIMATE_LEAST,
            doubt_more: Doubt::new(DOUBT_MORE_PAUSE_MAX),
            steady: Steady::default(),
            is_measured: false,
            has_feedback: true,
            minimum: 0,
            desired: 0,
            aim: Aim::default(),
            told: (0, 0),
            trial: Trial::default(),
            stats: Stats::default(),
            channels: Channels::default(),
            has_channels: false,
            counters: Counters::default(),
        }
    }

    /// The user-name fragments that checks for this peer carry first (RFC 8445 §7.2.2): the current one, and that of
    /// an ICE restart under way.
    pub fn ufrags(&mut self) -> Vec<String> {
        let current = self.rtc.direct_api().local_ice_credentials().ufrag;
        let next = self.pending.as_ref().and_then(|p| p.restart_ufrag.clone());
        std::iter::once(current).chain(next).collect()
    }

    pub fn lines(&self) -> &[Line] {
        &self.lines
    }

    pub fn is_connected(&self) -> bool {
        self.state == State::Connected
    }

    pub fn is_dead(&self) -> bool {
        self.state == State::Dead
    }

    /// No description was exchanged yet.
    pub fn is_fresh(&self) -> bool {
        self.state == State::Fresh && self.pending.is_none()
    }

    /// The first offer that was ever made to this client waits for its answer.
    pub fn awaits_first_answer(&self) -> bool {
        self.state == State::Fresh && self.pending.is_some()
    }

    /// Whether a description answers the pending offer: by the mids of its lines.
    pub fn is_answered_by(&self, text: &str) -> bool {
        self.pending.as_ref().is_some_and(|p| p.mids == sdp::mids(text))
    }

    /// The id of the offer that waits for its answer.
    pub fn pending_offer(&self) -> Option<u64> {
        self.pending.as_ref().map(|p| p.id)
    }

    /// Drops the pending offer, so that what it asked for can be offered anew.
    pub fn forget_offer(&mut self) {
        self.pending = None;
    }

    /// When offer and answer were first exchanged. `None`: an offer may wait for its answer as long as a person needs to
    /// allow a camera.
    pub fn negotiated(&self) -> Option<Instant> {
        self.negotiated
    }

    pub fn counters(&self) -> Counters {
        self.counters
    }

    pub fn stats(&self) -> &Stats {
        &self.stats
    }

    /// When something that is the client's came last: an authenticated check or media. A lively client sends a check every
    /// few seconds (RFC 7675).
    pub fn heard(&self) -> Instant {
        self.heard
    }

    /// Bit/s that the way to the client is believed to take. `None`: the client gives no feedback to estimate from.
    pub fn estimate(&self) -> Option<u64> {
        self.estimate
    }

    /// Tells the estimator what is to be sent, in bit/s: `minimum` is filled up with padding, so that the step to the next
    /// layer can be tried before it is taken; up to `desired` it probes.
    pub fn set_bitrates(&mut self, minimum: u64, desired: u64, sink: &mut Sink) {
        (self.minimum, self.desired) = (minimum, desired);
        self.aim(sink);
    }

    /// Tells the estimator what of that it is to find out next.
    fn aim(&mut self, sink: &mut Sink) {
        let aim = self.aim.of(self.measured.unwrap_or(ESTIMATE_INITIAL), self.desired);
        if (self.minimum, aim) != self.told {
            self.told = (self.minimum, aim);
            let (minimum, aim) = (Bitrate::bps(self.minimum), Bitrate::bps(aim));
            let _ = self.guard(sink, |rtc| rtc.bwe().set_bitrate(minimum, aim));
        }
    }

    /// How long the oldest video packet for the client waits by now: no more leaves than the estimate allows.
    pub fn video_wait(&mut self, now: Instant) -> Duration {
        let mut api = self.rtc.direct_api();
        let video = self.outgoing.values().filter(|o| o.kind == MediaKind::Video);
        let oldest = video.filter_map(|o| api.stream_tx(&o.ssrc)?.queue_info()?.first_unsent()).min();
        oldest.map_or(Duration::ZERO, |at| now.saturating_duration_since(at))
    }

    /// Repeats nothing of what was sent on a line until now, whatever the client misses: it gets something else.
    pub fn forget_sent(&mut self, mid: Mid) {
        let Some(outgoing) = self.outgoing.get(&mid) else { return };
        if let Some(stream) = self.rtc.direct_api().stream_tx(&outgoing.ssrc) {
            keep_sent(stream, outgoing.kind, &self.config);
        }
    }

    /// Packets in which each audio frame is repeated on the way to the client.
    pub fn redundancy(&self) -> usize {
        self.outgoing.values().map(|o| o.redundancy.depth()).max().unwrap_or(0)
    }

    /// Bit/s of audio that went to the client in the last second.
    pub fn audio_sent(&self) -> u64 {
        let audio = |mid: Mid| self.outgoing.get(&mid).is_some_and(|o| o.kind == MediaKind::Audio);
        self.stats.sent().filter(|(mid, _)| audio(*mid)).map(|(_, sent)| sent.bitrate).sum()
    }

    /// The client negotiated data channels.
    pub fn has_channels(&self) -> bool {
        self.has_channels
    }

    /// Sends a message on the channel of this label, which is opened when there is none.
    pub fn send_message(
        &mut self,
        label: &Arc<str>,
        delivery: Delivery,
        binary: bool,
        data: &Arc<[u8]>,
        sink: &mut Sink,
    ) -> Sending {
        if !self.has_channels || !self.is_connected() {
            return Sending::Unavailable;
        }
        let most = self.config.channels;
        let mut channels = std::mem::take(&mut self.channels);
        let sent = self.guard(sink, |rtc| channels.send(rtc, label, delivery, most, binary, data));
        self.channels = channels;
        sent.unwrap_or(Sending::Unavailable)
    }

    /// When [`Peer::flush`] is due, at the latest.
    pub fn deadline(&self) -> Instant {
        self.deadline
    }

    /// True when this description comes from another PeerConnection than the ones before: the client started anew.
    pub fn is_foreign(&self, text: &str) -> bool {
        match (&self.remote_fingerprint, sdp::fingerprint(text)) {
            (Some(known), Some(theirs)) => *known != theirs,
            _ => false,
        }
    }

    /// Takes the client's offer and gives the answer. A pending offer of the server is dropped: on glare the server
    /// gives way (RFC 8829 §4.1.10), and its changes have to be offered again.
    pub fn handle_offer(&mut self, now: Instant, text: &str, sink: &mut Sink) -> Result<String, NegotiationError> {
        let summary = sdp::check(text, &self.config.limits)?;
        let answer = self.guard(sink, |rtc| -> Result<String, String> {
            let offer = SdpOffer::from_sdp_string(&sdp::essential(text)).map_err(|e| e.to_string())?;
            let answer = rtc.sdp_api().accept_offer(offer).map_err(|e| e.to_string())?;
            Ok(answer.to_sdp_string())
        })?;
        self.pending = None;
        let answer = answer.map_err(NegotiationError::Sdp)?;
        if self.remote_fingerprint.is_none() {
            self.remote_fingerprint = summary.fingerprint;
        }
        for line in &summary.lines {
            match line.kind {
                Some(kind) => self.note_line(line.mid, kind),
                None => self.has_channels = true,
            }
        }
        self.note_descriptors(&summary.lines);
        self.after_negotiation(now, sink);
        self.note_feedback(text, sink);
        Ok(sdp::finish(&sdp::narrow(&answer, text), &self.config))
    }

    /// Makes an offer of these changes; `None` when they need none. There must be no pending one. `id` is for the answer to
    /// echo: never 0, and never the same for one client.
    pub fn create_offer(
        &mut self,
        now: Instant,
        id: u64,
        changes: &[Change],
        ice_restart: bool,
        sink: &mut Sink,
    ) -> Result<Option<Offer>, NegotiationError> {
        debug_assert!(self.pending.is_none(), "one offer at a time");
        let mut added = Vec::new();
        let mut restart_ufrag = None;
        let made = self.guard(sink, |rtc| {
            let mut api = rtc.sdp_api();
            for change in changes {
                match *change {
                    Change::Add(kind, direction) => {
                        added.push((api.add_media(kind, direction, None, None, None), kind));
                    }
                    Change::Direct(mid, direction) => api.set_direction(mid, direction),
                }
            }
            if ice_restart {
                restart_ufrag = Some(api.ice_restart(true).ufrag);
            }
            api.apply().map(|(offer, pending)| (offer.to_sdp_string(), pending))
        })?;
        self.drain(now, sink);
        let Some((text, pending)) = made else { return Ok(None) };
        self.has_offered = true;
        let mids = sdp::mids(&text);
        let offer = Offer { id, sdp: sdp::finish(&text, &self.config), added: added.iter().map(|a| a.0).collect() };
        self.pending = Some(Pending { id, pending, mids, added, restart_ufrag });
        Ok(Some(offer))
    }

    /// Takes the client's answer to the pending offer; `id` is what it echoed, if it did.
    pub fn handle_answer(
        &mut self,
        now: Instant,
        id: Option<u64>,
        text: &str,
        sink: &mut Sink,
    ) -> Result<(), NegotiationError> {
        let Some(pending) = &self.pending else {
            return Err(if self.has_offered { NegotiationError::Stale } else { NegotiationError::Unexpected });
        };
        if id.is_some_and(|id| id != pending.id) {
            return Err(NegotiationError::Stale);
        }
        let summary = sdp::check(text, &self.config.limits)?;
        if summary.lines.iter().map(|l| l.mid_text.as_str()).ne(pending.mids.iter().map(String::as_str)) {
            return Err(NegotiationError::Stale);
        }
        let Pending { pending, added, .. } = self.pending.take().expect("checked above");
        let accepted = self.guard(sink, |rtc| -> Result<(), String> {
            let answer = SdpAnswer::from_sdp_string(&sdp::essential(text)).map_err(|e| e.to_string())?;
            rtc.sdp_api().accept_answer(pending, answer).map_err(|e| e.to_string())
        })?;
        accepted.map_err(NegotiationError::Sdp)?;
        if self.remote_fingerprint.is_none() {
            self.remote_fingerprint = summary.fingerprint;
        }
        for (mid, kind) in added {
            self.note_line(mid, kind);
        }
        self.note_descriptors(&summary.lines);
        self.after_negotiation(now, sink);
        self.note_feedback(text, sink);
        Ok(())
    }

    /// Feeds one packet, a datagram or a frame, and drains what follows from it (a second one before the drain would lose
    /// a packet).
    ///
    /// `destination` is the announced address that it reached. Bytes that are none of STUN, DTLS, RTP are dropped.
    pub fn handle_packet(
        &mut self,
        now: Instant,
        protocol: Protocol,
        source: SocketAddr,
        destination: SocketAddr,
        data: &[u8],
        sink: &mut Sink,
    ) {
        let Ok(receive) = Receive::new(protocol, source, destination, data) else { return };
        self.counters.packets_in += 1;
        self.counters.bytes_in += data.len() as u64;
        let is_check = data[0] < 2;
        let before = sink.transmits.len();
        let fed = self.guard(sink, |rtc| rtc.handle_input(Input::Receive(now, receive)));
        match fed {
            Ok(Ok(())) => {}
            // What cannot be used is dropped; no error of this kind may end a session (robustness: bad SRTP, odd STUN).
            Ok(Err(e)) => tracing::debug!(error = %e, "datagram not taken"),
            Err(_) => return,
        }
        let received = sink.received.len();
        self.drain(now, sink);
        if sink.received.len() > received {
            self.heard = now;
        }
        // An ICE agent answers only checks whose MESSAGE-INTEGRITY holds.
        if is_check && sink.transmits.iter().skip(before).any(|t| t.destination == source && is_stun_success(&t.data)) {
            self.heard = now;
            sink.events.push(Event::AddressVerified(protocol, source));
            // An address translator that rebinds makes a pair of the same priority as the one before, and str0m then stays
            // with the older until it has been silent for 15 s. A controlling client nominates the one it uses, so the
            // latest nomination is the one to follow.
            if nominates(data) {
                self.path = Some((protocol, destination, source));
            }
        }
    }

    /// The TCP connection from there is gone. Until the client nominates another pair, str0m chooses among those it knows.
    pub fn handle_stream_closed(&mut self, source: SocketAddr) {
        if self.path.is_some_and(|(protocol, _, remote)| protocol == Protocol::Tcp && remote == source) {
            self.path = None;
        }
    }

    /// Queues one packet; it leaves with the next [`Peer::flush`]. Returns false when this peer cannot take it.
    pub fn write(&mut self, forward: Forward, sink: &mut Sink) -> bool {
        let Some(outgoing) = self.outgoing.get_mut(&forward.slot.mid) else { return false };
        let Some(&(_, pt, red)) = outgoing.formats.iter().find(|f| f.0 == forward.codec) else {
            self.counters.codec_missing += 1;
            return false;
        };
        let ssrc = outgoing.ssrc;
        let (pt, payload) = match (forward.red, red) {
            (is_red, Some(red_pt)) if outgoing.redundancy.depth() > 0 => {
                match outgoing.redundancy.protect(forward.time, &forward.payload, is_red, *pt) {
                    Some(payload) => (red_pt, payload),
                    None => return false,
                }
            }
            (false, _) => (pt, forward.payload),
            (true, Some(red_pt)) if forward.inner_pt == pt => (red_pt, forward.payload),
            (true, Some(red_pt)) => match red::renumber(&forward.payload, *forward.inner_pt, *pt) {
                Some(payload) => (red_pt, payload),
                None => return false,
            },
            // This peer has no RED: only the newest frame goes to it.
            (true, None) => match red::primary(&forward.payload) {
                Some(payload) => (pt, payload.into()),
                None => return false,
            },
        };
        self.counters.packets_out += 1;
        self.counters.bytes_out += payload.len() as u64;
        let mut rtp = RtpWrite::new(pt, forward.seq_no, forward.time, forward.arrival, payload)
            .marker(forward.marker)
            .nackable(forward.nackable)
            .ext_vals(forward.ext);
        if let Some(patch) = forward.vp8_patch {
            rtp = rtp.vp8_patch(patch);
        }
        let written = self.guard(sink, |rtc| match rtc.direct_api().stream_tx(&ssrc) {
            Some(stream) => {
                stream.write_rtp(rtp);
                true
            }
            None => false,
        });
        written.unwrap_or(false)
    }

    /// Asks the client for a key frame.
    pub fn request_keyframe(&mut self, mid: Mid, rid: Option<Rid>, sink: &mut Sink) {
        let _ = self.guard(sink, |rtc| {
            if let Some(stream) = rtc.direct_api().stream_rx_by_mid(mid, rid) {
                stream.request_keyframe(KeyframeRequestKind::Pli);
            }
        });
    }

    /// Lets time pass and packets out. Serves str0m's immediate re-arms (its pacer asks to be called a microsecond
    /// later) at once, a bounded number of times, so that a burst does not wait for the next turn of the loop.
    pub fn flush(&mut self, now: Instant, sink: &mut Sink) {
        let mut at = now;
        for _ in 0..FLUSH_ROUNDS {
            match self.guard(sink, |rtc| rtc.handle_input(Input::Timeout(at))) {
                Ok(Ok(())) => {}
                Ok(Err(e)) => {
                    tracing::debug!(error = %e, "peer failed");
                    self.die(Event::Closed, sink);
                    return;
                }
                Err(_) => return,
            }
            self.drain(at, sink);
            if self.state == State::Dead || self.deadline > now + IMMEDIATE {
                return;
            }
            at = at.max(self.deadline);
        }
    }

    /// Ends the connection: the remote gets a DTLS close_notify, as far as it can be reached.
    pub fn close(&mut self, now: Instant, sink: &mut Sink) {
        let _ = self.guard(sink, |rtc| rtc.close());
        self.drain(now, sink);
        self.state = State::Dead;
    }

    fn note_line(&mut self, mid: Mid, kind: MediaKind) {
        if !self.lines.iter().any(|l| l.mid == mid) {
            self.lines.push(Line { mid, kind, receives: false, sends: false, stopped: false, has_descriptor: false });
        }
    }

    /// Packets leave at the pace that the estimator believes in. Where nothing will ever be told about what arrives that would be
    /// what it began with, and everything above would come seconds late.
    fn note_feedback(&mut self, description: &str, sink: &mut Sink) {
        let has_feedback = description.contains(sdp::TRANSPORT_FEEDBACK);
        if std::mem::replace(&mut self.has_feedback, has_feedback) && !has_feedback && !self.is_measured {
            let pace = self.measured.unwrap_or(UNKNOWN_PACE);
            let _ = self.guard(sink, |rtc| rtc.bwe().reset(Bitrate::bps(pace)));
        }
    }

    fn note_descriptors(&mut self, described: &[sdp::SummaryLine]) {
        for line in &mut self.lines {
            if let Some(theirs) = described.iter().find(|l| l.mid == line.mid) {
                line.has_descriptor = theirs.has_descriptor;
            }
        }
    }

    fn after_negotiation(&mut self, now: Instant, sink: &mut Sink) {
        if self.state == State::Fresh {
            self.state = State::Connecting;
            self.negotiated = Some(now);
        }
        self.drain(now, sink);
        // Payload types may have moved and lines may have turned.
        self.receivers.clear();
        self.audio_pts = 0;
        for params in self.rtc.codec_config().params() {
            if params.spec().codec.is_audio() {
                for pt in [Some(params.pt()), params.red()].into_iter().flatten() {
                    self.audio_pts |= 1u128 << (*pt & 127);
                }
            }
        }
        for line in &mut self.lines {
            let Some(media) = self.rtc.media(line.mid) else {
                line.stopped = true;
                line.receives = false;
                line.sends = false;
                self.outgoing.remove(&line.mid);
                continue;
            };
            let direction = media.direction();
            line.stopped = media.disabled() || media.stopped();
            line.receives = !line.stopped && direction.is_receiving();
            line.sends = !line.stopped && direction.is_sending();
            if !line.sends {
                self.outgoing.remove(&line.mid);
                continue;
            }
            let remote = media.remote_pts();
            let formats: Vec<_> = self
                .rtc
                .codec_config()
                .params()
                .iter()
                .filter(|p| remote.contains(&p.pt()) && p.spec().codec.kind() == line.kind)
                .map(|p| (p.spec().codec, p.pt(), p.red()))
                .collect();
            let (mid, kind) = (line.mid, line.kind);
            if let Some(stream) = self.rtc.direct_api().stream_tx_by_mid(mid, None) {
                let ssrc = stream.ssrc();
                keep_sent(stream, kind, &self.config);
                // What is known of the way to the client outlives a negotiation.
                let redundancy = self.outgoing.remove(&mid).map(|o| o.redundancy).unwrap_or_default();
                self.outgoing.insert(mid, Outgoing { ssrc, formats, kind, redundancy });
            }
        }
        self.drain(now, sink);
    }

    /// Drains str0m until it says when it wants to be called again. One guard for the whole: outputs are large, and
    /// moving each through one of its own costs as much as our rewriting of a packet.
    fn drain(&mut self, now: Instant, sink: &mut Sink) {
        if self.state == State::Dead {
            return;
        }
        match catch_unwind(AssertUnwindSafe(|| self.drain_unguarded(now, sink))) {
            Ok(Ok(())) => {}
            Ok(Err(e)) => {
                tracing::debug!(error = %e, "peer failed");
                self.die(Event::Closed, sink);
            }
            Err(_) => self.die(Event::Panicked, sink),
        }
    }

    fn drain_unguarded(&mut self, now: Instant, sink: &mut Sink) -> Result<(), RtcError> {
        while self.state != State::Dead {
            match self.rtc.poll_output()? {
                Output::Timeout(at) => {
                    self.deadline = at;
                    return Ok(());
                }
                Output::Transmit(t) => {
                    let data: Vec<u8> = t.contents.into();
                    let class = self.class_of(&data);
                    let (protocol, source, destination) = match self.path {
                        Some(path) if data.first().is_some_and(|first| *first > 3) => path,
                        _ => (t.proto, t.source, t.destination),
                    };
                    sink.transmits.push_back(Transmit { protocol, source, destination, class, data });
                }
                Output::Event(event) => self.on_event(now, event, sink),
            }
        }
        Ok(())
    }

    fn on_event(&mut self, now: Instant, event: RtcEvent, sink: &mut Sink) {
        match event {
            RtcEvent::Connected => {
                self.state = State::Connected;
                sink.events.push(Event::Connected);
            }
            RtcEvent::RtpPacket(packet) => {
                if let Some(received) = self.receive(packet) {
                    sink.received.push(received);
                }
            }
            RtcEvent::KeyframeRequest(request) => sink.events.push(Event::KeyframeRequest(request.mid)),
            // Later ones are means, and come with the statistics as they are.
            RtcEvent::EgressBitrateEstimate(BweKind::Twcc { estimate, .. }) if !self.is_measured => {
                self.is_measured = true;
                self.on_estimate(now, estimate.as_u64(), sink);
            }
            RtcEvent::EgressBitrateEstimate(BweKind::Remb { estimate, .. }) if !self.is_measured => {
                // It is a client's word, and nothing leaves at a pace of 0.
                let estimate = estimate.as_u64().max(PACE_LEAST);
                if !self.has_feedback {
                    let _ = self.guard(sink, |rtc| rtc.bwe().reset(Bitrate::bps(estimate)));
                }
                self.on_estimate(now, estimate, sink);
            }
            RtcEvent::PeerStats(stats) => {
                let is_full = self.stats.on_peer(&stats);
                self.measure(now, &stats, sink);
                if is_full {
                    self.doubt_estimate(now, sink);
                    if let Some(loss) = stats.egress_loss_fraction {
                        for outgoing in self.outgoing.values_mut().filter(|o| o.kind == MediaKind::Audio) {
                            outgoing.redundancy.on_loss(now, loss);
                        }
                    }
                }
            }
            RtcEvent::MediaIngressStats(stats) => self.stats.on_ingress(&stats),
            RtcEvent::MediaEgressStats(stats) => self.stats.on_egress(&stats),
            RtcEvent::ChannelOpen(id, label) => {
                let is_taken = self.channels.on_open(&mut self.rtc, id, label, self.config.channels);
                sink.events.extend((!is_taken).then_some(Event::ChannelRefused));
            }
            RtcEvent::ChannelClose(id) => self.channels.on_close(id),
            RtcEvent::ChannelData(message) => {
                let described = self.channels.describe(message.id);
                match described.filter(|_| message.data.len() <= self.config.channel_message) {
                    Some((label, delivery)) => {
                        let (binary, data) = (message.binary, message.data);
                        sink.events.push(Event::Message { label, delivery, binary, data });
                    }
                    None => sink.events.push(Event::ChannelRefused),
                }
            }
            RtcEvent::IceConnectionStateChange(IceConnectionState::Disconnected) => {
                tracing::debug!("ice disconnected");
            }
            RtcEvent::Closed => self.die(Event::Closed, sink),
            _ => {}
        }
    }

    fn measure(&mut self, now: Instant, stats: &PeerStats, sink: &mut Sink) {
        let Some(present) = stats.bwe_tx.filter(|_| self.is_measured) else { return };
        let measured = self.steady.on_estimate(present.as_u64(), self.stats.is_longer());
        if self.measured != Some(measured) {
            self.on_estimate(now, measured, sink);
        }
    }

    fn on_estimate(&mut self, now: Instant, measured: u64, sink: &mut Sink) {
        self.measured = Some(measured);
        self.aim(sink);
        // Without proof that the path is narrower, there is room for a picture and a voice.
        self.estimate = Some(measured.max(self.undoubted(now)));
        sink.events.push(Event::Estimate);
    }

    /// What the path is taken to have room for, whatever the estimator says.
    fn undoubted(&self, now: Instant) -> u64 {
        match (self.doubt.holds(now), self.doubt_more.holds(now)) {
            (true, true) => self.least,
            (true, false) => ESTIMATE_LEAST,
            (false, _) => 0,
        }
    }

    /// What it takes to show the most important picture at its smallest, beside the voices, in bit/s. A publisher with a single
    /// encoding sends more than an estimate begins with, and waiting for the probes leaves everybody without a picture for
    /// seconds.
    pub fn set_least(&mut self, now: Instant, least: u64, sink: &mut Sink) {
        let least = least.clamp(ESTIMATE_LEAST, self.config.video_max_bitrate as u64 * 3 / 2);
        // Rates swing; what hardly differs is not worth a new beginning.
        if least.abs_diff(self.least) > self.least / 8 {
            self.least = least;
            if self.is_connected() && self.measured.is_some() {
                self.raise(now, sink);
            }
        }
    }

    /// Lets the estimator begin anew where it is below what is not doubted.
    fn raise(&mut self, now: Instant, sink: &mut Sink) {
        let (Some(measured), least) = (self.measured, self.undoubted(now)) else { return };
        if measured >= least / 8 * 7 {
            return;
        }
        self.doubt.on_raise(now);
        if least > ESTIMATE_LEAST {
            self.doubt_more.on_raise(now);
        }
        let reset = self.guard(sink, |rtc| rtc.bwe().reset(Bitrate::bps(least)));
        if reset.is_ok() {
            self.on_estimate(now, least, sink);
        }
    }

    /// The estimator takes jitter for a queue that grows, and on a path with much of it, or to a machine that is busy, falls
    /// without end. What arrives is what the path can take, at least; so while hardly anything is lost and the round trip
    /// shows no queue, an estimate far below that is wrong, and begins anew from there. Likewise one that has no room for the
    /// smallest picture; but the path may be as narrow as that, so a doubt that proves wrong is not raised again for longer
    /// and longer.
    fn doubt_estimate(&mut self, now: Instant, sink: &mut Sink) {
        let audio = |mid: Mid| self.outgoing.get(&mid).is_some_and(|o| o.kind == MediaKind::Audio);
        let reported = self.stats.sent().filter(|(mid, _)| audio(*mid)).filter_map(|(_, sent)| sent.loss);
        let reported = reported.fold(None, |most, loss| Some(loss.max(most.unwrap_or(0.0))));
        if self.stats.is_starved(reported) {
            self.doubt.on_congestion(now);
            self.doubt_more.on_congestion(now);
        }
        let Some(measured) = self.measured else { return };
        let arrives = self.stats.arrives().filter(|_| !self.stats.has_queue(reported)).unwrap_or(0);
        let is_calm = measured < self.desired && !self.stats.has_queue(reported);
        let believed = if measured < arrives / 4 * 3 && arrives >= self.undoubted(now) { arrives } else { measured };
        if self.trial.is_due(now, is_calm, measured) || believed > measured {
            self.rtc.bwe().reset(Bitrate::bps(believed));
        }
        // The doubt may have ended or begun.
        self.on_estimate(now, believed, sink);
        self.raise(now, sink);
    }

    fn receive(&mut self, packet: RtpPacket) -> Option<Received> {
        let ssrc = packet.header.ssrc;
        let receiver = match self.receivers.get(&*ssrc) {
            Some(receiver) => *receiver,
            None => {
                let mut api = self.rtc.direct_api();
                let stream = api.stream_rx(&ssrc)?;
                let receiver = Receiver { mid: stream.mid(), rid: stream.rid() };
                // Encoders without a retransmission stream repeat the packet itself, but str0m does not ask them to. Audio
                // has no use for it.
                if self.lines.iter().any(|l| l.mid == receiver.mid && l.kind == MediaKind::Video) {
                    stream.suppress_nack(false);
                }
                if self.receivers.len() >= MAX_RECEIVERS {
                    self.receivers.clear();
                }
                self.receivers.insert(*ssrc, receiver);
                receiver
            }
        };
        let pt = packet.header.payload_type;
        let params = self.rtc.codec_config().find(|p| p.pt() == pt || p.red() == Some(pt))?;
        Some(Received {
            mid: receiver.mid,
            rid: receiver.rid,
            codec: params.spec().codec,
            red: params.red() == Some(pt),
            inner_pt: params.pt(),
            clock_rate: params.spec().clock_rate.get(),
            packet,
        })
    }

    fn class_of(&self, data: &[u8]) -> Class {
        match data {
            // RTCP is told from RTP by its second byte (RFC 5761 §4).
            [128..=191, 192..=223, ..] => Class::Control,
            [128..=191, second, ..] if self.audio_pts >> (second & 127) & 1 == 1 => Class::Audio,
            [128..=191, ..] => Class::Video,
            _ => Class::Control,
        }
    }

    fn die(&mut self, event: Event, sink: &mut Sink) {
        if self.state != State::Dead {
            self.state = State::Dead;
            sink.events.push(event);
        }
    }

    /// Runs one step of str0m. A panic ends this peer: it has no thread and holds no lock, so it can be discarded whole.
    fn guard<T>(&mut self, sink: &mut Sink, step: impl FnOnce(&mut Rtc) -> T) -> Result<T, NegotiationError> {
        if self.state == State::Dead {
            return Err(NegotiationError::Dead);
        }
        match catch_unwind(AssertUnwindSafe(|| step(&mut self.rtc))) {
            Ok(value) => Ok(value),
            Err(_) => {
                self.die(Event::Panicked, sink);
                Err(NegotiationError::Dead)
            }
        }
    }
}

/// From now on packets are kept to be sent again; what was kept is not.
fn keep_sent(stream: &mut StreamTx, kind: MediaKind, config: &PeerConfig) {
    let packets = if kind == MediaKind::Video { RTX_CACHE_VIDEO } else { RTX_CACHE_AUDIO };
    // Without a share its history is forgotten: what was repeated of a flood is no reason to repeat nothing of what follows.
    stream.set_rtx_cache(packets, RTX_CACHE_AGE, None);
    stream.set_rtx_cache(packets, RTX_CACHE_AGE, Some(config.retransmission_share));
}

fn is_stun_success(data: &[u8]) -> bool {
    // Binding success response: RFC 8489 §5.
    data.starts_with(&[0x01, 0x01])
}

/// Whether a connectivity check carries USE-CANDIDATE (RFC 8445 §7.1.2), in the part that its integrity covers.
fn nominates(check: &[u8]) -> bool {
    const MESSAGE_INTEGRITY: u16 = 0x0008;
    const USE_CANDIDATE: u16 = 0x0025;
    let mut rest = check.get(20..).unwrap_or_default();
    while let [t0, t1, l0, l1, ..] = *rest {
        match u16::from_be_bytes([t0, t1]) {
            USE_CANDIDATE => return true,
            MESSAGE_INTEGRITY => return false,
            _ => {}
        }
        let length = usize::from(u16::from_be_bytes([l0, l1])).next_multiple_of(4);
        rest = rest.get(4 + length..).unwrap_or_default();
    }
    false
}

/// What an estimate is raised to where nothing speaks against it: a small picture and a voice.
const ESTIMATE_LEAST: u64 = 300_000;
/// Longer spares a line that is too narrow more tries, shorter brings the picture back sooner where it was bad only for a while.
const DOUBT_PAUSE_MAX: Duration = Duration::from_secs(8);
/// A line that is flooded with a large picture loses voices too.
const DOUBT_MORE_PAUSE_MAX: Duration = Duration::from_secs(30);
/// Where estimating the way to a client begins, in bit/s. More floods a narrow line for its first second, less delays the first
/// picture; probes find out what there is beyond within that second.
const ESTIMATE_INITIAL: u64 = 1_000_000;
/// The least pace that a client may ask for by REMB, in bit/s: less than a voice takes.
const PACE_LEAST: u64 = 30_000;
/// The pace where nothing is known of the way to a client and never will be, in bit/s.
const UNKNOWN_PACE: u64 = 100_000_000;
/// Shorter costs time per connection, longer notices later that a path has become narrow.
const STATS_INTERVAL: Duration = Duration::from_millis(100);
/// Packets kept for retransmission per outgoing line. More costs about 440 bytes each and serves longer round trips.
const RTX_CACHE_VIDEO: usize = 512;
const RTX_CACHE_AUDIO: usize = 50;
const RTX_CACHE_AGE: Duration = Duration::from_secs(1);
/// A deadline this near is served in the same turn.
const IMMEDIATE: Duration = Duration::from_micros(50);
const FLUSH_ROUNDS: usize = 256;
/// Streams of one publisher that are told apart before the map is learned anew: 4 tracks of 3 encodings, twice.
const MAX_RECEIVERS: usize = 32;
