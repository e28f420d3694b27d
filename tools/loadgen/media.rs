//! What a publisher sends: VP8- and Opus-shaped payloads that carry a [`Stamp`], paced as a browser paces them.
//!
//! Sans-IO: the sources are asked when the next packet is due and give it when that time has come. The pictures are not
//! decodable, but everything that a forwarder, a recorder or a subscriber looks at is valid: the payload descriptor and
//! frame header of VP8 (RFC 7741 §4.2, RFC 6386 §9.1), the TOC byte of Opus (RFC 6716 §3.1), markers and timestamps.

use std::sync::Arc;
use std::time::{Duration, Instant};

/// Audio or video; indexes the arrays of two that counters are kept in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    Audio = 0,
    Video = 1,
}

impl Kind {
    pub const ALL: [Kind; 2] = [Kind::Audio, Kind::Video];

    pub fn as_str(self) -> &'static str {
        match self {
            Kind::Audio => "audio",
            Kind::Video => "video",
        }
    }
}

/// Says who sent a packet, as which of its packets, and when.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp {
    pub kind: Kind,
    /// Index of the publisher among all of the run.
    pub publisher: u32,
    /// Counts the packets of this kind of this publisher, from 0.
    pub counter: u64,
    /// CLOCK_MONOTONIC, nanoseconds.
    pub sent_ns: u64,
}

impl Stamp {
    /// Bytes that a stamp takes.
    pub const LEN: usize = 24;

    fn write(&self, to: &mut [u8]) {
        let magic = match self.kind {
            Kind::Audio => MAGIC_AUDIO,
            Kind::Video => MAGIC_VIDEO,
        };
        to[..4].copy_from_slice(&magic);
        to[4..8].copy_from_slice(&self.publisher.to_be_bytes());
        to[8..16].copy_from_slice(&self.counter.to_be_bytes());
        to[16..24].copy_from_slice(&self.sent_ns.to_be_bytes());
    }

    /// The stamp of a received payload; `None` when it carries none, such as padding or media of someone else.
    pub fn parse(kind: Kind, payload: &[u8]) -> Option<Stamp> {
        let (offset, magic) = match kind {
            Kind::Audio => (AUDIO_STAMP_OFFSET, MAGIC_AUDIO),
            Kind::Video => (VIDEO_STAMP_OFFSET, MAGIC_VIDEO),
        };
        let bytes = payload.get(offset..offset + Stamp::LEN)?;
        let (found, rest) = bytes.split_first_chunk::<4>()?;
        let (publisher, rest) = rest.split_first_chunk::<4>()?;
        let (counter, rest) = rest.split_first_chunk::<8>()?;
        let sent_ns = rest.first_chunk::<8>()?;
        (*found == magic).then(|| Stamp {
            kind,
            publisher: u32::from_be_bytes(*publisher),
            counter: u64::from_be_bytes(*counter),
            sent_ns: u64::from_be_bytes(*sent_ns),
        })
    }
}

/// A packet that is due.
#[derive(Debug)]
pub struct MediaPacket {
    pub payload: Arc<[u8]>,
    /// RTP timestamp, in the clock of the codec (48 or 90 kHz).
    pub rtp_time: u32,
    pub marker: bool,
    /// When it should have been sent. How late the generator is, is how busy it is.
    pub due: Instant,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub struct VideoConfig {
    /// Bits per second of payload, key frames included.
    pub bitrate: u32,
    /// Frames per second.
    pub fps: u32,
    /// Largest payload, bytes.
    pub packet_size: usize,
    /// Time from one unasked key frame to the next.
    pub key_interval: Duration,
    /// How many times larger than another frame a key frame is.
    pub key_factor: f64,
    /// Packets leave at this multiple of the bitrate, as from the pacer of a browser (libwebrtc: 2.5).
    pub pacing: f64,
}

impl VideoConfig {
    /// Frames from one unasked key frame to the next.
    fn key_frames_apart(&self) -> u64 {
        ((self.key_interval.as_secs_f64() * f64::from(self.fps)).round() as u64).max(1)
    }

    /// Bytes of a frame, such that key frames and others together make the bitrate.
    fn frame_bytes(&self, key: bool) -> usize {
        let mean = f64::from(self.bitrate) / 8.0 / f64::from(self.fps.max(1));
        let apart = self.key_frames_apart() as f64;
        let other = mean * apart / (apart - 1.0 + self.key_factor);
        let bytes = if key { other * self.key_factor } else { other };
        (bytes as usize).max(VIDEO_OVERHEAD)
    }

    /// How long the pacer needs for so many bytes.
    fn pacing_time(&self, bytes: usize) -> Duration {
        Duration::from_secs_f64(bytes as f64 * 8.0 / (f64::from(self.bitrate.max(1)) * self.pacing.max(0.1)))
    }
}

/// One VP8 track.
#[derive(Debug)]
pub struct VideoSource {
    config: VideoConfig,
    publisher: u32,
    counter: u64,
    /// Frames that were begun.
    frames: u64,
    frames_since_key: u64,
    key_wanted: bool,
    picture_id: u16,
    rtp_base: u32,
    /// When frame 0 was captured; moves forward when frames are skipped.
    epoch: Instant,
    frame: Option<Frame>,
    next_at: Instant,
    filler: Arc<[u8]>,
    pub key_frames: u64,
}

/// The frame that is being sent.
#[derive(Debug, Clone, Copy)]
struct Frame {
    key: bool,
    bytes: usize,
    packets: usize,
    sent: usize,
    rtp_time: u32,
}

impl Frame {
    fn packet_bytes(&self) -> usize {
        // Equal parts, the longer ones last, as libwebrtc packetizes VP8.
        let short = self.bytes / self.packets;
        short + usize::from(self.sent >= self.packets - self.bytes % self.packets)
    }
}

impl VideoSource {
    /// The first frame, a key frame, is captured at `start`. `seed` sets where the wire counters begin.
    pub fn new(config: VideoConfig, publisher: u32, start: Instant, seed: u64) -> Self {
        let mut random = fastrand::Rng::with_seed(seed);
        let filler: Vec<u8> = (0..config.packet_size.max(VIDEO_OVERHEAD)).map(|_| random.u8(..)).collect();
        VideoSource {
            config,
            publisher,
            counter: 0,
            frames: 0,
            frames_since_key: 0,
            key_wanted: true,
            picture_id: random.u16(..) & 0x7fff,
            rtp_base: random.u32(..),
            epoch: start,
            frame: None,
            next_at: start,
            filler: filler.into(),
            key_frames: 0,
        }
    }

    /// When the next packet is due.
    pub fn next_at(&self) -> Instant {
        self.next_at
    }

    /// Makes the next frame a key frame.
    pub fn handle_key_frame_request(&mut self) {
        self.key_wanted = true;
    }

    /// The packet that is due at `now`, stamped with `sent_ns`; ask until `None`.
    pub fn poll_packet(&mut self, now: Instant, sent_ns: u64) -> Option<MediaPacket> {
        if now < self.next_at {
            return None;
        }
        let mut frame = match self.frame {
            Some(frame) => frame,
            None => self.begin_frame(now),
        };
        let bytes = frame.packet_bytes();
        let first = frame.sent == 0;
        let mut payload = self.filler[..bytes].to_vec();
        write_descriptor(&mut payload, self.picture_id, first);
        if first {
            write_frame_header(&mut payload[DESCRIPTOR_LEN..], frame.key);
        }
        let stamp = Stamp { kind: Kind::Video, publisher: self.publisher, counter: self.counter, sent_ns };
        stamp.write(&mut payload[VIDEO_STAMP_OFFSET..]);
        self.counter += 1;
        frame.sent += 1;
        let marker = frame.sent == frame.packets;
        let due = self.next_at;
        let free_at = due + self.config.pacing_time(bytes);
        if marker {
            self.frame = None;
            self.picture_id = (self.picture_id + 1) & 0x7fff;
            self.next_at = free_at.max(self.capture_time(self.frames));
        } else {
            self.frame = Some(frame);
            self.next_at = free_at;
        }
        Some(MediaPacket { payload: payload.into(), rtp_time: frame.rtp_time, marker, due })
    }

    fn begin_frame(&mut self, now: Instant) -> Frame {
        // A generator that was stopped for a while goes on from now, as a camera does; it does not catch up.
        let late = now.saturating_duration_since(self.next_at);
        if late > MAX_LATE {
            self.epoch += late;
            self.next_at += late;
        }
        let key = self.key_wanted || self.frames_since_key >= self.config.key_frames_apart();
        if key {
            self.key_wanted = false;
            self.frames_since_key = 0;
            self.key_frames += 1;
        }
        let bytes = self.config.frame_bytes(key);
        // Every packet has room for its headers, whatever sizes are asked for.
        let packets = bytes.div_ceil(self.filler.len()).min(bytes / VIDEO_OVERHEAD).max(1);
        let ticks = self.frames * 90_000 / u64::from(self.config.fps.max(1));
        let frame = Frame {
            key,
            bytes: bytes.min(packets * self.filler.len()),
            packets,
            sent: 0,
            rtp_time: self.rtp_base.wrapping_add(ticks as u32),
        };
        self.frames += 1;
        self.frames_since_key += 1;
        frame
    }

    fn capture_time(&self, frame: u64) -> Instant {
        let nanos = u128::from(frame) * 1_000_000_000 / u128::from(self.config.fps.max(1));
        self.epoch + Duration::from_nanos(nanos as u64)
    }
}

/// One Opus track: a packet each 20 ms.
#[derive(Debug)]
pub struct AudioSource {
    publisher: u32,
    counter: u64,
    rtp_base: u32,
    next_at: Instant,
    filler: Vec<u8>,
}

impl AudioSource {
    /// `bytes` of payload per packet, at least [`AudioSource::MIN_BYTES`].
    pub fn new(bytes: usize, publisher: u32, start: Instant, seed: u64) -> Self {
        let mut random = fastrand::Rng::with_seed(seed);
        let bytes = bytes.max(AudioSource::MIN_BYTES);
        let mut filler: Vec<u8> = (0..bytes).map(|_| random.u8(..)).collect();
        filler[0] = OPUS_TOC;
        AudioSource { publisher, counter: 0, rtp_base: random.u32(..), next_at: start, filler }
    }

    pub const MIN_BYTES: usize = AUDIO_STAMP_OFFSET + Stamp::LEN;

    pub fn next_at(&self) -> Instant {
        self.next_at
    }

    /// The packet that is due at `now`, stamped with `sent_ns`; ask until `None`.
    pub fn poll_packet(&mut self, now: Instant, sent_ns: u64) -> Option<MediaPacket> {
        if now < self.next_at {
            return None;
        }
        let late = now.saturating_duration_since(self.next_at);
        if late > MAX_LATE {
            self.next_at += late;
        }
        let stamp = Stamp { kind: Kind::Audio, publisher: self.publisher, counter: self.counter, sent_ns };
        let mut payload = self.filler.clone();
        stamp.write(&mut payload[AUDIO_STAMP_OFFSET..]);
        let due = self.next_at;
        let rtp_time = self.rtp_base.wrapping_add((self.counter * 960) as u32);
        // The marker begins a talk spurt, RFC 3551 §4.1.
        let marker = self.counter == 0;
        self.counter += 1;
        self.next_at += AUDIO_INTERVAL;
        Some(MediaPacket { payload: payload.into(), rtp_time, marker, due })
    }
}

/// X and I are set, the picture id has 15 bits (RFC 7741 §4.2).
fn write_descriptor(to: &mut [u8], picture_id: u16, first: bool) {
    to[0] = 0x80 | if first { 0x10 } else { 0 };
    to[1] = 0x80;
    to[2..4].copy_from_slice(&(0x8000 | picture_id).to_be_bytes());
}

/// Frame tag, and for a key frame start code and size of the picture (RFC 6386 §9.1).
fn write_frame_header(to: &mut [u8], key: bool) {
    // Bit 0 is the inverse key frame flag, bit 4 shows the frame; the rest is the size of the first partition.
    let tag: u32 = u32::from(!key) | 1 << 4 | 64 << 5;
    to[..3].copy_from_slice(&tag.to_le_bytes()[..3]);
    if key {
        to[3..6].copy_from_slice(&[0x9d, 0x01, 0x2a]);
        to[6..8].copy_from_slice(&1280u16.to_le_bytes());
        to[8..10].copy_from_slice(&720u16.to_le_bytes());
    }
}

const MAGIC_AUDIO: [u8; 4] = *b"WElA";
const MAGIC_VIDEO: [u8; 4] = *b"WElV";
const DESCRIPTOR_LEN: usize = 4;
/// Behind the descriptor and the longest frame header, in every packet, so that a receiver need not tell them apart.
const VIDEO_STAMP_OFFSET: usize = DESCRIPTOR_LEN + 10;
/// The least that a video packet can be.
pub const VIDEO_OVERHEAD: usize = VIDEO_STAMP_OFFSET + Stamp::LEN;
const AUDIO_STAMP_OFFSET: usize = 1;
/// CELT, full band, 20 ms, mono, one frame.
const OPUS_TOC: u8 = 0xf8;
const AUDIO_INTERVAL: Duration = Duration::from_millis(20);
/// A source that is asked later than this skips instead of sending a burst.
const MAX_LATE: Duration = Duration::from_millis(200);

#[cfg(test)]
mod tests {
    use super::*;

    const CONFIG: VideoConfig = VideoConfig {
        bitrate: 1_500_000,
        fps: 30,
        packet_size: 1160,
        key_interval: Duration::from_secs(4),
        key_factor: 4.0,
        pacing: 2.5,
    };

    /// Runs a source as a punctual driver would.
    fn run(source: &mut VideoSource, until: Instant) -> Vec<(Instant, MediaPacket)> {
        let mut packets = Vec::new();
        while source.next_at() <= until {
            let now = source.next_at();
            while let Some(packet) = source.poll_packet(now, 7) {
                packets.push((now, packet));
            }
        }
        packets
    }

    fn is_key(packet: &MediaPacket) -> bool {
        packet.payload[0] & 0x10 != 0 && packet.payload[DESCRIPTOR_LEN] & 1 == 0
    }

    #[test]
    fn stamps_survive_the_wire() {
        for kind in Kind::ALL {
            let stamp = Stamp { kind, publisher: 0xdead_beef, counter: u64::MAX - 1, sent_ns: 1 << 60 };
            let offset = if kind == Kind::Audio { AUDIO_STAMP_OFFSET } else { VIDEO_STAMP_OFFSET };
            let mut payload = vec![0; offset + Stamp::LEN];
            assert_eq!(Stamp::parse(kind, &payload), None, "no magic");
            stamp.write(&mut payload[offset..]);
            assert_eq!(Stamp::parse(kind, &payload), Some(stamp));
            assert_eq!(Stamp::parse(kind, &payload[..payload.len() - 1]), None, "too short");
            let other = if kind == Kind::Audio { Kind::Video } else { Kind::Audio };
            assert_eq!(Stamp::parse(other, &payload), None, "the kinds are told apart");
        }
    }

    #[test]
    fn video_keeps_bitrate_and_packet_rate() {
        let start = Instant::now();
        let mut source = VideoSource::new(CONFIG, 3, start, 1);
        let packets = run(&mut source, start + Duration::from_secs(40) - Duration::from_millis(1));
        let bytes: usize = packets.iter().map(|(_, p)| p.payload.len()).sum();
        let bitrate = bytes as f64 * 8.0 / 40.0;
        assert!((bitrate / 1_500_000.0 - 1.0).abs() < 0.01, "{bitrate} bit/s");
        assert_eq!(packets.len(), 10 * (119 * 6 + 22), "6 packets a frame, 22 a key frame");
        assert_eq!(source.key_frames, 10);
        assert!(packets.iter().all(|(_, p)| p.payload.len() <= 1160));
    }

    #[test]
    fn video_is_paced_not_sent_in_bursts() {
        let start = Instant::now();
        let packets = run(&mut VideoSource::new(CONFIG, 0, start, 2), start + Duration::from_secs(9));
        for pair in packets.windows(2) {
            let gap = pair[1].0 - pair[0].0;
            let paced = CONFIG.pacing_time(pair[0].1.payload.len());
            assert!(gap >= paced, "{gap:?} after {} bytes", pair[0].1.payload.len());
            assert!(gap <= Duration::from_secs(1) / CONFIG.fps);
        }
        // An ordinary frame has left after 1 / 2.5 of the interval; its successor waits for its own time.
        let second = packets.iter().filter(|(_, p)| p.marker).nth(20).expect("a 21st frame").0;
        let first = packets.iter().filter(|(_, p)| p.marker).nth(19).expect("a 20th frame").0;
        let interval = (second - first).as_secs_f64();
        assert!((interval * 30.0 - 1.0).abs() < 0.01, "{interval} s between frames");
    }

    #[test]
    fn video_frames_are_whole_and_numbered() {
        let start = Instant::now();
        let packets = run(&mut VideoSource::new(CONFIG, 9, start, 3), start + Duration::from_secs(5));
        let mut begins = true;
        let mut frame: Option<(u32, u16)> = None;
        for (counter, (_, packet)) in packets.iter().enumerate() {
            let payload = &packet.payload;
            let stamp = Stamp::parse(Kind::Video, payload).expect("every packet is stamped");
            assert_eq!((stamp.counter, stamp.publisher, stamp.sent_ns), (counter as u64, 9, 7));
            assert_eq!(payload[0] & 0x10 != 0, begins, "S is set on the first packet of a frame only");
            let picture_id = u16::from_be_bytes([payload[2], payload[3]]) & 0x7fff;
            if begins {
                if let Some((rtp_time, id)) = frame {
                    assert_eq!(packet.rtp_time.wrapping_sub(rtp_time), 3000);
                    assert_eq!(picture_id, (id + 1) & 0x7fff);
                }
                frame = Some((packet.rtp_time, picture_id));
            }
            assert_eq!(frame, Some((packet.rtp_time, picture_id)), "one timestamp and picture id per frame");
            begins = packet.marker;
        }
    }

    /// The descriptor is read by str0m as the server's own reader would.
    #[test]
    fn descriptors_are_those_of_rfc_7741() {
        let start = Instant::now();
        let packets = run(&mut VideoSource::new(CONFIG, 0, start, 4), start + Duration::from_millis(100));
        assert!(is_key(&packets[0].1), "a track begins with a key frame");
        assert_eq!(packets[0].1.payload[DESCRIPTOR_LEN + 3..DESCRIPTOR_LEN + 6], [0x9d, 0x01, 0x2a]);
        for (_, packet) in &packets {
            let descriptor = str0m::rtp::Vp8Descriptor::parse(&packet.payload).expect("a valid descriptor");
            assert_eq!(descriptor.starts_keyframe(&packet.payload), is_key(packet));
        }
    }

    #[test]
    fn a_request_makes_the_next_frame_a_key_frame_and_only_that() {
        let start = Instant::now();
        let mut source = VideoSource::new(CONFIG, 0, start, 5);
        run(&mut source, start + Duration::from_secs(1));
        assert_eq!(source.key_frames, 1);
        source.handle_key_frame_request();
        source.handle_key_frame_request();
        let packets = run(&mut source, start + Duration::from_secs(2));
        let starts: Vec<_> = packets.iter().filter(|(_, p)| p.payload[0] & 0x10 != 0).collect();
        assert!(is_key(&starts[0].1));
        assert_eq!(source.key_frames, 2);
        // The interval to the next unasked one counts from it.
        run(&mut source, start + Duration::from_millis(4900));
        assert_eq!(source.key_frames, 2);
        run(&mut source, start + Duration::from_millis(5200));
        assert_eq!(source.key_frames, 3);
    }

    #[test]
    fn a_late_driver_skips_instead_of_bursting() {
        let start = Instant::now();
        let mut video = VideoSource::new(CONFIG, 0, start, 6);
        run(&mut video, start + Duration::from_secs(1));
        let late = start + Duration::from_secs(11);
        let mut at_once = 0;
        while video.poll_packet(late, 0).is_some() {
            at_once += 1;
        }
        assert!(at_once <= 30, "{at_once} packets in one go");
        assert!(video.next_at() > late);

        let mut audio = AudioSource::new(80, 0, start, 6);
        while audio.poll_packet(start, 0).is_some() {}
        let mut at_once = 0;
        while audio.poll_packet(late, 0).is_some() {
            at_once += 1;
        }
        assert_eq!(at_once, 1);
    }

    #[test]
    fn extreme_sizes_still_carry_a_stamp() {
        for (bitrate, packet_size) in [(1000, 1160), (1_500_000, 1), (20_000_000, 1200), (30_000, 60)] {
            let config = VideoConfig { bitrate, packet_size, ..CONFIG };
            let start = Instant::now();
            for (_, packet) in run(&mut VideoSource::new(config, 1, start, 7), start + Duration::from_secs(1)) {
                assert!(Stamp::parse(Kind::Video, &packet.payload).is_some());
                assert!(packet.payload.len() <= packet_size.max(VIDEO_OVERHEAD));
            }
        }
        let mut audio = AudioSource::new(0, 1, Instant::now(), 8);
        let packet = audio.poll_packet(audio.next_at(), 5).expect("due");
        assert_eq!(Stamp::parse(Kind::Audio, &packet.payload).map(|s| s.sent_ns), Some(5));
    }

    #[test]
    fn audio_has_fifty_packets_a_second() {
        let start = Instant::now();
        let mut source = AudioSource::new(80, 2, start, 9);
        let mut times = Vec::new();
        while source.next_at() < start + Duration::from_secs(1) {
            let packet = source.poll_packet(source.next_at(), 0).expect("due");
            assert_eq!(packet.payload.len(), 80);
            assert_eq!(packet.marker, times.is_empty());
            times.push(packet.rtp_time);
        }
        assert_eq!(times.len(), 50);
        assert!(times.windows(2).all(|t| t[1].wrapping_sub(t[0]) == 960));
        assert_eq!(source.counter, 50);
    }
}
