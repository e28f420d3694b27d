//! A recorder for tests of what is around it: a packet is a frame, in the order in which it comes.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

use str0m::format::Codec;

use crate::recording::feed::{Item, Packet};
use crate::recording::{Block, Description, Note, Payload, Quality};
use crate::webm::{self, Audio, Media, Video, opus};

#[derive(Default)]
pub struct Config;

/// Timestamps are those of arrival. VP8 comes without its descriptor; of H.264 the first octet stands for parameter sets: when
/// it is another one, so is the track of the file.
pub struct Recorder {
    begin: Instant,
    paused: Option<Instant>,
    skipped: Duration,
    /// Of each track: number of the file's, codec, parameters, next packet.
    tracks: HashMap<u32, (u32, Codec, u8, u64)>,
    numbers: u32,
    blocks: VecDeque<Block>,
    notes: VecDeque<Note>,
    wanted: VecDeque<u32>,
    quality: HashMap<u32, Quality>,
    is_finished: bool,
}

impl Recorder {
    pub fn new(now: Instant, _config: Config) -> Self {
        Recorder {
            begin: now,
            paused: None,
            skipped: Duration::ZERO,
            tracks: HashMap::new(),
            numbers: 0,
            blocks: VecDeque::new(),
            notes: VecDeque::new(),
            wanted: VecDeque::new(),
            quality: HashMap::new(),
            is_finished: false,
        }
    }

    pub fn handle_item(&mut self, now: Instant, item: &Item) {
        match item {
            Item::Packet(packet) if self.paused.is_none() => self.packet(packet),
            Item::Paused { at } => self.paused = Some(*at),
            Item::Resumed { at } => {
                if let Some(paused) = self.paused.take() {
                    self.skipped += at.saturating_duration_since(paused);
                }
            }
            Item::Finish { .. } => self.is_finished = true,
            Item::Speakers { users, .. } if users.iter().any(|user| user.as_str() == "panic") => {
                panic!("a recorder that breaks at {now:?}")
            }
            _ => {}
        }
    }

    fn packet(&mut self, packet: &Packet) {
        let parameters = if packet.codec == Codec::H264 { packet.payload.first().copied().unwrap_or(0) } else { 0 };
        let timestamp_ns = self.position_ns(packet.arrival);
        let before = self.tracks.get(&packet.track).copied();
        let is_same = before.is_some_and(|(_, codec, old, _)| codec == packet.codec && old == parameters);
        let number = match before {
            Some((number, ..)) if is_same => number,
            _ => {
                self.numbers += 1;
                self.numbers
            }
        };
        let quality = self.quality.entry(packet.track).or_default();
        quality.packets += 1;
        if let Some((.., next)) = before.filter(|(.., next)| packet.seq_no > *next) {
            quality.lost += packet.seq_no - next;
            let (source, packets) = (packet.track, packet.seq_no - next);
            self.notes.push_back(Note::Gap { source, at_ns: timestamp_ns, duration: Duration::ZERO, packets });
            self.wanted.push_back(source);
        }
        self.tracks.insert(packet.track, (number, packet.codec, parameters, packet.seq_no + 1));
        let is_keyframe = packet.codec == Codec::Opus || packet.payload.first().is_some_and(|octet| octet & 1 == 0);
        let mut payload = Payload::default();
        payload.push(&packet.payload, 0..packet.payload.len());
        let begins = (!is_same).then(|| describe(packet.codec, parameters));
        let size = (is_keyframe && packet.codec != Codec::Opus).then_some((320, 180));
        let (source, duration_ns) = (packet.track, None);
        self.blocks.push_back(Block { source, number, begins, size, timestamp_ns, is_keyframe, duration_ns, payload });
    }

    pub fn handle_timeout(&mut self, _now: Instant) {}

    pub fn poll_timeout(&self) -> Option<Instant> {
        None
    }

    pub fn poll_block(&mut self) -> Option<Block> {
        self.blocks.pop_front()
    }

    pub fn poll_keyframe_request(&mut self, _now: Instant) -> Option<u32> {
        self.wanted.pop_front()
    }

    pub fn poll_note(&mut self) -> Option<Note> {
        self.notes.pop_front()
    }

    pub fn quality(&self, track: u32) -> Quality {
        self.quality.get(&track).copied().unwrap_or_default()
    }

    pub fn position_ns(&self, now: Instant) -> u64 {
        let now = self.paused.unwrap_or(now);
        let position = now.saturating_duration_since(self.begin).saturating_sub(self.skipped);
        position.as_nanos().try_into().unwrap_or(u64::MAX)
    }

    pub fn is_finished(&self) -> bool {
        self.is_finished && self.blocks.is_empty()
    }
}

fn describe(codec: Codec, parameters: u8) -> Description {
    let description = Description {
        media: Media::Video(Video { width: 320, height: 180, display: None }),
        codec: webm::Codec::Vp8,
        private: Vec::new(),
        codec_delay_ns: 0,
        seek_pre_roll_ns: 0,
        default_duration_ns: None,
    };
    match codec {
        Codec::Opus => Description {
            media: Media::Audio(Audio { sampling_frequency: 48_000.0, channels: 2 }),
            codec: webm::Codec::Opus,
            private: opus::Head::relayed().encode().to_vec(),
            seek_pre_roll_ns: opus::SEEK_PRE_ROLL_NS,
            default_duration_ns: Some(20_000_000),
            ..description
        },
        Codec::H264 => Description { codec: webm::Codec::H264, private: vec![1, parameters], ..description },
        _ => description,
    }
}
