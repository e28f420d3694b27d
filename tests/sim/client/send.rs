//! What a client publishes: voices, cameras, screens; what is paused, and how much of it a narrow line gets.

use std::collections::BTreeMap;
use std::time::Duration;

use str0m::format::Codec;
use str0m::media::{Mid, Pt, Rid, Simulcast, SimulcastLayer};
use str0m::rtp::{ExtensionValues, RtpWrite};

use super::{Client, Plan};
use crate::encoder::{Encoder, Size, Video};
use crate::payload::{self, NONE, Source, Tag, Vp8, Vp9};

/// What a microphone hears.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Voice {
    /// Words and the pauses between them, at this level in dBov.
    Speech(i8),
    /// Noise of the room.
    Silence,
    /// Silence, of which the encoder sends a packet every 400 ms.
    Dtx,
}

/// A key frame that was asked of this client.
#[derive(Debug, Clone, Copy)]
pub struct Asked {
    pub at: Duration,
    pub rid: Option<Rid>,
}

/// An m-line on which this client sends.
pub(super) struct Sender {
    pub mid: Mid,
    pub source: Source,
    pub sending: bool,
    pub next: Duration,
    time: u32,
    /// Pictures, or packets of audio.
    count: u32,
    streams: Vec<Stream>,
    /// The last packets of audio, for RFC 2198: time and payload.
    history: Vec<(u32, Vec<u8>)>,
    is_tuned: bool,
}

/// An SSRC of a sender.
struct Stream {
    rid: Option<Rid>,
    seq: u64,
    picture_id: u16,
    key_wanted: bool,
    /// Somebody watches.
    is_wanted: bool,
    /// The line has room for it.
    is_affordable: bool,
    encoder: Option<Encoder>,
}

impl Stream {
    fn is_active(&self) -> bool {
        self.is_wanted && self.is_affordable
    }
}

impl Sender {
    /// `sent` and `frames`: how far former connections counted.
    pub fn new(
        now: Duration,
        mid: Mid,
        source: Source,
        index: u32,
        plan: &Plan,
        sent: &BTreeMap<Source, u32>,
        frames: &BTreeMap<(Source, usize), u32>,
    ) -> Sender {
        let seed = u64::from(index) << 8 | source as u64;
        let count = sent.get(&source).copied().unwrap_or(0);
        let stream = |at: usize, rid: Option<&str>, encoder| Stream {
            rid: rid.map(Rid::from),
            seq: 1000 + u64::from(index) * 7 + at as u64 * 10_000,
            picture_id: 32700 - at as u16 * 3000,
            key_wanted: true,
            is_wanted: true,
            is_affordable: true,
            encoder,
        };
        let streams = match plan.video_of(source) {
            Some(video) => {
                let encodings = video.encodings.iter().enumerate();
                let first = |at| frames.get(&(source, at)).copied().unwrap_or(0);
                encodings
                    .map(|(at, e)| stream(at, e.rid, Some(Encoder::new(video, *e, seed + at as u64, first(at)))))
                    .collect()
            }
            None => vec![stream(0, None, None)],
        };
        Sender {
            mid,
            source,
            sending: true,
            next: now,
            time: 12345,
            count,
            streams,
            history: Vec::new(),
            is_tuned: false,
        }
    }

    pub fn restart(&mut self, now: Duration) {
        self.next = now;
        for stream in &mut self.streams {
            stream.key_wanted = true;
        }
    }
}

impl Plan {
    fn video_of(&self, source: Source) -> Option<&Video> {
        match source {
            Source::Camera => Some(&self.camera),
            Source::Screen => Some(&self.screen),
            Source::Microphone | Source::ScreenAudio => None,
        }
    }

    /// For the SDP of a new line.
    pub(super) fn simulcast_of(&self, source: Source) -> Option<Simulcast> {
        let rids = self.video_of(source)?.encodings.iter().filter_map(|e| e.rid);
        let send: Vec<SimulcastLayer> = rids.map(SimulcastLayer::new).collect();
        (!send.is_empty()).then(|| Simulcast { send, recv: Vec::new() })
    }
}

impl Client {
    /// `layers-wanted`: what nobody watches is not sent, and what somebody watches begins with a key frame.
    pub(super) fn want_layers(&mut self, now: Duration, mid: &str, encodings: &[(Option<String>, bool)]) {
        let Some(sender) = self.senders.iter_mut().find(|s| s.mid.to_string() == mid) else { return };
        for (rid, wanted) in encodings {
            let rid = rid.as_deref().map(Rid::from);
            for stream in sender.streams.iter_mut().filter(|s| s.rid == rid) {
                stream.key_wanted |= *wanted && !stream.is_wanted;
                stream.is_wanted = *wanted;
            }
        }
        self.encodings_wanted.push((now, sender.source, encodings.to_vec()));
    }

    /// The estimate of this client's own line: encodings that it cannot carry are not made, as browsers do.
    pub(super) fn afford(&mut self, estimate: u64) {
        self.estimate = Some(estimate);
        // Audio first.
        let mut left = (estimate as f64 * 0.95 - 60_000.0).max(0.0);
        let mut desired = 0.0;
        let plan = self.plan.clone();
        for sender in &mut self.senders {
            let Some(video) = plan.video_of(sender.source) else { continue };
            for (at, (stream, encoding)) in sender.streams.iter_mut().zip(video.encodings).enumerate() {
                let rate: f64 =
                    encoding.layers.iter().map(|l| if let Size::Rate(r) = l.size { r as f64 } else { 0.0 }).sum();
                desired += rate;
                if rate == 0.0 {
                    continue;
                }
                let share = (left / rate).min(1.0);
                let enough = at == 0 || share >= if stream.is_affordable { 0.4 } else { 0.5 };
                stream.key_wanted |= enough && !stream.is_affordable;
                stream.is_affordable = enough;
                if let Some(encoder) = stream.encoder.as_mut().filter(|_| enough) {
                    encoder.share = share.max(0.2);
                    left -= rate * encoder.share;
                }
                left = left.max(0.0);
            }
        }
        if let Some(rtc) = &mut self.rtc {
            rtc.bwe().set_bitrate(100_000.into(), (desired * 1.2 + 60_000.0).into());
        }
    }

    /// What this client sends, of the encodings of a source: which are active.
    pub fn active_encodings(&self, source: Source) -> Vec<bool> {
        let sender = self.senders.iter().find(|s| s.source == source);
        sender.map_or(Vec::new(), |s| s.streams.iter().map(|stream| s.sending && stream.is_active()).collect())
    }

    pub(super) fn on_keyframe_request(&mut self, now: Duration, mid: Mid, rid: Option<Rid>) {
        self.keyframe_requests.push(Asked { at: now, rid });
        for stream in self.senders.iter_mut().filter(|s| s.mid == mid).flat_map(|s| &mut s.streams) {
            stream.key_wanted |= rid.is_none() || stream.rid == rid;
        }
    }

    pub(super) fn send_media(&mut self, now: Duration) {
        for at in 0..self.senders.len() {
            if self.senders[at].sending {
                self.send_from(now, at);
            }
        }
    }

    fn send_from(&mut self, now: Duration, at: usize) {
        let (source, mid) = (self.senders[at].source, self.senders[at].mid);
        let video = self.plan.video_of(source).cloned();
        let codec = video.as_ref().map_or(Codec::Opus, |v| v.codec);
        let Some(rtc) = &mut self.rtc else { return };
        let params = rtc.codec_config().find(|p| p.spec().codec == codec).copied();
        let is_sending = rtc.media(mid).is_some_and(|m| m.direction().is_sending());
        let Some(params) = params.filter(|_| is_sending) else {
            self.senders[at].next = now + Duration::from_millis(50);
            return;
        };
        if !std::mem::replace(&mut self.senders[at].is_tuned, true) {
            // Browsers retransmit more than str0m does by itself.
            for stream in &self.senders[at].streams {
                if let Some(tx) = rtc.direct_api().stream_tx_by_mid(mid, stream.rid) {
                    tx.set_rtx_cache(1000, Duration::from_secs(2), Some(0.4));
                }
            }
        }
        while self.senders[at].next <= now {
            let every = match &video {
                Some(video) => video.every,
                None if self.voice == Voice::Dtx => Duration::from_millis(400),
                None => self.plan.audio_every,
            };
            match &video {
                Some(video) => self.send_picture(now, at, video, params.pt()),
                None => self.send_audio(now, at, params.pt(), params.red().filter(|_| self.plan.red)),
            }
            let sender = &mut self.senders[at];
            sender.count += 1;
            self.frames_sent.insert(source, sender.count);
            let rate = if source.is_video() { 90 } else { 48 };
            sender.time = sender.time.wrapping_add(every.as_millis() as u32 * rate);
            sender.next = if sender.next + every * 10 < now { now + every } else { sender.next + every };
        }
    }

    fn send_picture(&mut self, now: Duration, at: usize, video: &Video, pt: Pt) {
        let (client, room) = (self.index, self.room_number);
        let Some(rtc) = &mut self.rtc else { return };
        let sender = &mut self.senders[at];
        for (encoding, stream) in sender.streams.iter_mut().enumerate() {
            if !stream.is_active() {
                continue;
            }
            let Some(encoder) = &mut stream.encoder else { continue };
            let frames = encoder.encode(std::mem::take(&mut stream.key_wanted));
            self.frames_of.insert((sender.source, encoding), encoder.next());
            // SSRCs have clocks with offsets of their own.
            let time = sender.time.wrapping_add(encoding as u32 * 900_000);
            let sizes: Vec<(u16, u16)> = frames.iter().map(|f| (f.width, f.height)).collect();
            for frame in frames {
                let count = frame.packets.len() as u8;
                for (index, octets) in frame.packets.iter().enumerate() {
                    let tag = Tag {
                        source: sender.source,
                        client,
                        room,
                        encoding: encoding as u8,
                        spatial: frame.spatial,
                        temporal: frame.temporal,
                        width: frame.width,
                        picture: sender.count,
                        frame: frame.number,
                        needs: frame.needs,
                        index: index as u8,
                        count,
                        key: frame.key,
                        sent_ms: now.as_millis() as u32,
                    };
                    let (picture_id, tl0, sync) = (stream.picture_id, frame.tl0, frame.sync);
                    let payload = if video.codec == Codec::Vp9 {
                        let is_top = usize::from(frame.spatial) + 1 == sizes.len();
                        let key_picture = frame.key_picture;
                        let vp9 = Vp9 { picture_id, tl0, sync, key_picture, sizes: sizes.clone(), is_top };
                        payload::vp9(&tag, &vp9, *octets)
                    } else {
                        payload::vp8(&tag, &Vp8 { picture_id, tl0, sync, height: frame.height }, *octets)
                    };
                    let write = RtpWrite::new(pt, stream.seq.into(), time, self.base + now, payload)
                        .marker(frame.is_last && tag.is_last())
                        .nackable(true);
                    stream.seq += 1;
                    if let Some(tx) = rtc.direct_api().stream_tx_by_mid(sender.mid, stream.rid) {
                        tx.write_rtp(write);
                    }
                }
            }
            stream.picture_id = stream.picture_id.wrapping_add(1) & 0x7fff;
        }
    }

    fn send_audio(&mut self, now: Duration, at: usize, pt: Pt, red: Option<Pt>) {
        let Some(rtc) = &mut self.rtc else { return };
        let sender = &mut self.senders[at];
        let tag = Tag {
            source: sender.source,
            client: self.index,
            room: self.room_number,
            encoding: 0,
            spatial: 0,
            temporal: 0,
            width: 0,
            picture: sender.count,
            frame: sender.count,
            needs: [NONE; 2],
            index: 0,
            count: 1,
            key: false,
            sent_ms: now.as_millis() as u32,
        };
        // Words of 270 ms, pauses of 80 ms.
        let in_word = sender.count % 18 < 14;
        let level = match self.voice {
            Voice::Speech(level) if in_word => level.saturating_add(fastrand::i8(-3..=3)).clamp(-127, 0),
            Voice::Speech(_) => -60,
            Voice::Silence => -75,
            Voice::Dtx => -127,
        };
        self.sent.entry(sender.source).or_default().push((sender.count, now));
        let opus = payload::opus(&tag, self.plan.audio_octets);
        let (pt, payload) = match red {
            Some(red) => {
                let older =
                    sender.history.iter().map(|(time, payload)| (sender.time.wrapping_sub(*time), &payload[..]));
                // What does not fit 14 bits is too old.
                let older: Vec<(u32, &[u8])> = older.filter(|(before, _)| *before < 1 << 14).collect();
                (red, payload::red(*pt, &older, &opus))
            }
            None => (pt, opus.clone()),
        };
        sender.history.push((sender.time, opus));
        if sender.history.len() > RED_DEPTH {
            sender.history.remove(0);
        }
        let write = RtpWrite::new(pt, sender.streams[0].seq.into(), sender.time, self.base + now, payload).ext_vals(
            ExtensionValues {
                audio_level: Some(level),
                voice_activity: Some(level > -50),
                ..ExtensionValues::default()
            },
        );
        sender.streams[0].seq += 1;
        if let Some(tx) = rtc.direct_api().stream_tx_by_mid(sender.mid, None) {
            tx.write_rtp(write);
        }
    }
}

/// Older packets of audio that go along with each one.
const RED_DEPTH: usize = 1;
