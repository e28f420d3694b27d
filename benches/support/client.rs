//! A participant: an `Rtc` that says what goes to the server, by WebSocket and by UDP. Sans-IO like the shard.

use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use str0m::change::{SdpAnswer, SdpPendingOffer};
use str0m::config::{CryptoProvider, DtlsCert};
use str0m::format::Codec;
use str0m::media::{Direction, MediaKind, Mid, Pt};
use str0m::net::{Protocol, Receive};
use str0m::rtp::{Extension, ExtensionMap, ExtensionValues, RtpWrite, Ssrc};
use str0m::{Candidate, Event, Input, Output, Rtc};

use super::crypto::{self, Backend};

/// Who it is and which lines it offers.
#[derive(Debug, Clone, Default)]
pub struct ClientConfig {
    pub user: String,
    pub room: String,
    pub sends: Vec<MediaKind>,
    pub receives: Vec<MediaKind>,
    /// Offers every codec that str0m knows, as a browser does, not only Opus and VP8.
    pub all_codecs: bool,
    /// Gives no feedback to estimate bandwidth from.
    pub no_feedback: bool,
    /// Packets of a picture; 0 is 1.
    pub picture_packets: u32,
}

pub struct Client {
    pub rtc: Rtc,
    pub address: SocketAddr,
    pub config: ClientConfig,
    pub connected: bool,
    pub deadline: Instant,
    /// For the server: destination and contents.
    pub outgoing: Vec<(SocketAddr, Vec<u8>)>,
    /// A key frame was asked for since this was last made false.
    pub keyframe_wanted: bool,
    /// Lines to which the server gave a track.
    pub carried: usize,
    /// RTP packets with media.
    pub received: u64,
    /// The first payload byte after the descriptor of the last one: what [`Sender::write`] was told to mark it with.
    pub last_stamp: Option<u32>,
    /// In the order of [`ClientConfig::sends`], once connected.
    pub senders: Vec<Sender>,
    mids: Vec<(Mid, MediaKind)>,
    pending: Option<SdpPendingOffer>,
}

/// One outgoing stream.
pub struct Sender {
    kind: MediaKind,
    ssrc: Ssrc,
    pt: Pt,
    next_seq: u64,
    time: u32,
    picture_id: u16,
    /// Of a picture, and those of the last one that are there.
    picture_packets: u32,
    sent_packets: u32,
}

impl Client {
    pub fn new(now: Instant, address: SocketAddr, config: ClientConfig) -> Client {
        let (provider, certificate) = cryptography();
        let mut rtc_config = Rtc::builder().set_crypto_provider(provider).set_dtls_cert(certificate).set_rtp_mode(true);
        if !config.all_codecs {
            rtc_config = rtc_config.clear_codecs().enable_opus(true, false).enable_vp8(true);
        }
        if config.no_feedback {
            let mut extensions = ExtensionMap::empty();
            let all = ExtensionMap::standard();
            for (id, extension) in all.iter().filter(|(_, e)| **e != Extension::TransportSequenceNumber) {
                extensions.set(id, extension.clone());
            }
            rtc_config = rtc_config.set_extension_map(extensions);
        }
        let mut rtc = rtc_config.build(now);
        rtc.add_local_candidate(Candidate::host(address, "udp").expect("an address of a host"));
        Client {
            rtc,
            address,
            config,
            connected: false,
            deadline: now + NEVER,
            outgoing: Vec::new(),
            keyframe_wanted: false,
            carried: 0,
            received: 0,
            last_stamp: None,
            senders: Vec::new(),
            mids: Vec::new(),
            pending: None,
        }
    }

    pub fn join_message(&self) -> String {
        let data = json!({ "receive": "slots", "autoSubscribe": !self.config.receives.is_empty() });
        json!({ "type": "join", "roomId": self.config.room, "id": "join", "data": data }).to_string()
    }

    /// Takes a message of the server and says what to send back.
    pub fn handle_text(&mut self, now: Instant, text: &str) -> Option<String> {
        let message: Value = serde_json::from_str(text).expect("the server speaks JSON");
        let data = &message["data"];
        match message["type"].as_str() {
            Some("joined") => return Some(self.offer()),
            Some("answer") => {
                let pending = self.pending.take().expect("there was an offer");
                let answer = SdpAnswer::from_sdp_string(&sdp_text(data)).expect("the server's SDP");
                self.rtc.sdp_api().accept_answer(pending, answer).expect("the answer fits the offer");
                self.handle_timeout(now);
            }
            Some("track-subscribed") if !data["trackId"].is_null() => self.carried += 1,
            Some("error") => panic!("the server refuses: {text}"),
            _ => {}
        }
        None
    }

    fn offer(&mut self) -> String {
        let mut api = self.rtc.sdp_api();
        for kind in &self.config.sends {
            self.mids.push((api.add_media(*kind, Direction::SendOnly, None, None, None), *kind));
        }
        for kind in &self.config.receives {
            api.add_media(*kind, Direction::RecvOnly, None, None, None);
        }
        let (offer, pending) = api.apply().expect("there are lines");
        self.pending = Some(pending);
        let data = json!({ "sdp": offer.to_sdp_string() });
        json!({ "type": "offer", "roomId": self.config.room, "id": "offer", "data": data }).to_string()
    }

    pub fn handle_datagram(&mut self, now: Instant, source: SocketAddr, data: &[u8]) {
        let Ok(receive) = Receive::new(Protocol::Udp, source, self.address, data) else { return };
        self.rtc.handle_input(Input::Receive(now, receive)).expect("the server sends what can be read");
        self.drain(now);
    }

    pub fn handle_timeout(&mut self, now: Instant) {
        self.rtc.handle_input(Input::Timeout(now)).expect("time passes");
        self.drain(now);
    }

    /// Sends one packet of `size` payload bytes; it is in [`Client::outgoing`] afterwards.
    pub fn send(&mut self, now: Instant, sender: usize, size: usize, stamp: u32) {
        let sender = &mut self.senders[sender];
        // A picture that has begun is not another one any more.
        let keyframe = sender.sent_packets == 0 && std::mem::take(&mut self.keyframe_wanted);
        let write = sender.packet(now, size, keyframe, stamp);
        self.rtc.direct_api().stream_tx(&sender.ssrc).expect("a negotiated line has a stream").write_rtp(write);
        self.handle_timeout(now);
    }

    fn drain(&mut self, now: Instant) {
        loop {
            match self.rtc.poll_output().expect("the connection lasts") {
                Output::Timeout(at) => {
                    self.deadline = at.min(now + NEVER);
                    return;
                }
                Output::Transmit(transmit) => self.outgoing.push((transmit.destination, transmit.contents.into())),
                Output::Event(Event::Connected) => self.on_connected(),
                Output::Event(Event::KeyframeRequest(_)) => self.keyframe_wanted = true,
                Output::Event(Event::RtpPacket(packet)) if packet.payload.len() > STAMP_AT + 4 => {
                    self.received += 1;
                    let stamp = &packet.payload[STAMP_AT..STAMP_AT + 4];
                    self.last_stamp = Some(u32::from_be_bytes(stamp.try_into().expect("four bytes")));
                }
                Output::Event(_) => {}
            }
        }
    }

    fn on_connected(&mut self) {
        self.connected = true;
        self.keyframe_wanted = true;
        for (mid, kind) in &self.mids {
            let codec = if *kind == MediaKind::Audio { Codec::Opus } else { Codec::Vp8 };
            let pt = self.rtc.codec_config().find(|params| params.spec().codec == codec).expect("offered").pt();
            let ssrc = self.rtc.direct_api().stream_tx_by_mid(*mid, None).expect("a sending line").ssrc();
            let picture_packets = self.config.picture_packets.max(1);
            let sender =
                Sender { kind: *kind, ssrc, pt, next_seq: 1, time: 0, picture_id: 0, picture_packets, sent_packets: 0 };
            self.senders.push(sender);
        }
    }
}

impl Sender {
    /// Opus with an audio level, or a part of a picture of VP8 with a 15-bit picture id, TL0PICIDX and TID (RFC 7741 §4.2), of
    /// which the server has to rewrite the first two.
    fn packet(&mut self, now: Instant, size: usize, keyframe: bool, stamp: u32) -> RtpWrite {
        let mut payload = vec![0x55; size];
        payload[STAMP_AT..STAMP_AT + 4].copy_from_slice(&stamp.to_be_bytes());
        let mut extensions = ExtensionValues::default();
        let mut is_last = true;
        match self.kind {
            MediaKind::Audio => {
                extensions.audio_level = Some(-30);
                extensions.voice_activity = Some(true);
                // One frame of 20 ms (RFC 6716 §3.1).
                payload[0] = 0x78;
                self.time = self.time.wrapping_add(960);
            }
            MediaKind::Video => {
                let begins = self.sent_packets == 0;
                if begins {
                    self.picture_id = (self.picture_id + 1) & 0x7fff;
                    self.time = self.time.wrapping_add(600 * self.picture_packets);
                }
                let [high, low] = (self.picture_id | 0x8000).to_be_bytes();
                let descriptor = if begins { 0x90 } else { 0x80 };
                payload[..6].copy_from_slice(&[descriptor, 0xe0, high, low, self.picture_id as u8, 0x00]);
                if begins {
                    // 640 by 360 pixels (RFC 6386 §9.1).
                    payload[6..16].copy_from_slice(&[
                        u8::from(!keyframe),
                        0,
                        0,
                        0x9d,
                        0x01,
                        0x2a,
                        0x80,
                        0x02,
                        0x68,
                        0x01,
                    ]);
                }
                self.sent_packets = (self.sent_packets + 1) % self.picture_packets;
                is_last = self.sent_packets == 0;
            }
        }
        let write = RtpWrite::new(self.pt, self.next_seq.into(), self.time, now, payload)
            .marker(is_last)
            .nackable(self.kind == MediaKind::Video)
            .ext_vals(extensions);
        self.next_seq += 1;
        write
    }
}

/// RTP, and no RTCP, by the first two bytes (RFC 7983 §7, RFC 5761 §4).
pub fn is_media(data: &[u8]) -> bool {
    matches!(data, [128..=191, second, ..] if !(192..=223).contains(second))
}

/// All clients of a bench share it, as another implementation than the server's.
fn cryptography() -> (Arc<CryptoProvider>, DtlsCert) {
    static SHARED: OnceLock<(Arc<CryptoProvider>, DtlsCert)> = OnceLock::new();
    SHARED.get_or_init(|| crypto::provider(Backend::Aws)).clone()
}

/// Without bandwidth lines, of which str0m takes one per m-line at most.
fn sdp_text(data: &Value) -> String {
    let text = data["sdp"].as_str().or_else(|| data["sdp"]["sdp"].as_str()).unwrap_or_default();
    text.split_inclusive('\n').filter(|line| !line.starts_with("b=")).collect()
}

/// Behind every descriptor that is written here.
const STAMP_AT: usize = 16;
const NEVER: Duration = Duration::from_secs(3600);
