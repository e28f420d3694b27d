//! Bodies about a recording while it is made: packets become frames, and what happens in a call becomes a file.

use std::collections::{BTreeMap, VecDeque};
use std::io::Cursor;
use std::sync::Arc;
use std::time::{Duration, Instant};

use str0m::format::Codec;
use str0m::media::MediaKind;

use super::{Source, Written, start, wall, webm_blocks};
use crate::base::{TrackId, UserId};
use crate::recording::feed::{EndReason, Item, Packet, Report, TrackInfo};
use crate::recording::frames::{Assembler, Frame};
use crate::recording::manifest::{self, Line};
use crate::recording::{Block, Config, Description, Note, Recorder};
use crate::webm;

/// Packets of one track, with losses, other encodings and garbage: pictures begin, and begin again, with a key frame, every
/// frame is one, and what is counted is what came out.
pub fn recording_frames(data: &[u8]) {
    let mut source = Source(data);
    let Some(first) = source.byte() else { return };
    let kind = if first & 1 == 0 { MediaKind::Video } else { MediaKind::Audio };
    let mut track = Track::new(kind, codec(first >> 1));
    while let Some(operation) = source.byte().filter(|_| track.packets < PACKETS_MAX) {
        match operation & 7 {
            0 => track.reset(),
            1 => track.packet.codec = codec(operation >> 3),
            2 => track.packet.ssrc = u32::from(operation >> 3),
            3 => {
                // The middle of something large.
                track.packet.marker = false;
                (0..source.byte().unwrap_or(0)).for_each(|_| track.handle(0));
            }
            _ => {
                let lost = track.next(&mut source);
                track.handle(lost);
            }
        }
    }
}

fn codec(byte: u8) -> Codec {
    [Codec::Vp8, Codec::Vp9, Codec::Av1, Codec::H264, Codec::Opus, Codec::H265][usize::from(byte) % 6]
}

/// A track that is assembled, and what is to be expected of it.
struct Track {
    kind: MediaKind,
    assembler: Assembler,
    /// The next one.
    packet: Packet,
    before: Option<(u32, Codec)>,
    /// Something is missing.
    needs_key: bool,
    /// What the file was told last.
    described: Option<Description>,
    packets: u64,
    lost: u64,
    frames: u64,
}

impl Track {
    fn new(kind: MediaKind, codec: Codec) -> Track {
        let packet = Packet {
            track: 1,
            ssrc: 1,
            seq_no: 0,
            time: 0xffff_0000,
            clock_rate: 90_000,
            codec,
            red: false,
            marker: false,
            payload: Arc::from([]),
            arrival: start(),
        };
        Track {
            kind,
            assembler: Assembler::new(kind),
            packet,
            before: None,
            needs_key: true,
            described: None,
            packets: 0,
            lost: 0,
            frames: 0,
        }
    }

    /// Makes the next packet, and says how many are missing before it.
    fn next(&mut self, source: &mut Source) -> u64 {
        let flags = source.byte().unwrap_or(0);
        let packet = &mut self.packet;
        packet.marker = flags & 1 != 0;
        packet.red = flags & 8 != 0;
        let step = match flags >> 1 & 3 {
            0 => 0,
            1 => 960,
            2 => 3000,
            _ => source.number() as u32,
        };
        packet.time = packet.time.wrapping_add(step);
        let lost = match flags >> 4 & 3 {
            0 | 1 => 0,
            2 => 1,
            _ => source.number(),
        };
        let size = source.size() % 2048;
        let mut payload = source.take(size).to_vec();
        if flags & 0x40 != 0 {
            payload.resize(payload.len() + 240 * usize::from(source.byte().unwrap_or(0)), 0x55);
        }
        packet.payload = payload.into();
        lost
    }

    fn reset(&mut self) {
        self.assembler.reset();
        self.needs_key = true;
    }

    fn handle(&mut self, lost: u64) {
        self.packets += 1;
        self.lost += lost;
        self.packet.arrival += Duration::from_millis(1);
        let now = (self.packet.ssrc, self.packet.codec);
        let is_other = self.before.replace(now) != Some(now);
        self.needs_key |= lost > 0 || is_other;
        let before = self.assembler.counters();
        let mut out = VecDeque::new();
        self.assembler.handle(&self.packet, lost, &mut out);
        let most = if self.kind == MediaKind::Video { 2 } else { 1 + lost };
        assert!(out.len() as u64 <= most, "{} frames of a packet", out.len());
        out.iter().for_each(|frame| self.check(frame));
        let counters = self.assembler.counters();
        if out.is_empty() && counters.dropped > before.dropped {
            self.needs_key = true;
        }
        assert_eq!(counters.frames, self.frames);
        assert!(counters.recovered <= self.lost, "what was not lost is not recovered");
        assert!(counters.frames - counters.recovered + counters.dropped <= self.packets, "a frame has a packet");
        assert!(self.kind == MediaKind::Video || !self.assembler.wants_keyframe());
    }

    fn check(&mut self, frame: &Frame) {
        self.frames += 1;
        assert_eq!(frame.ssrc, self.packet.ssrc, "another one is the end of what was");
        assert!(frame.arrival <= self.packet.arrival);
        let size: usize = frame.payload.slices().map(<[u8]>::len).sum();
        assert_eq!(size, frame.payload.len(), "the size of its slices");
        assert!((1..=webm::muxer::PAYLOAD_MAX).contains(&size));
        assert!(frame.payload.slices().all(|slice| !slice.is_empty()));
        match self.kind {
            MediaKind::Video => {
                assert!(!self.needs_key || frame.is_keyframe, "nothing comes out before a key frame");
                self.needs_key = false;
                assert!(frame.size.is_none_or(|(width, height)| width > 0 && height > 0), "{:?}", frame.size);
                assert!(frame.samples == 0 && (frame.is_keyframe || frame.size.is_none()));
                if size <= LOOKED_AT_MAX {
                    check_picture(self.packet.codec, frame, &frame.payload.to_vec());
                }
            }
            MediaKind::Audio => {
                assert_eq!((frame.is_keyframe, frame.size), (true, None));
                assert_eq!(webm::opus::samples(&frame.payload.to_vec()), Some(frame.samples));
                let shared = frame.payload.slices().next().is_some_and(|slice| is_part(&self.packet.payload, slice));
                assert!(shared, "a packet is not copied");
            }
        }
        assert!(frame.begins.is_some() || self.described.is_some(), "the first one begins");
        if let Some(begins) = &frame.begins {
            assert!(frame.is_keyframe && self.described.as_ref() != Some(begins), "nothing new begins");
            assert!(begins.private.len() <= webm::track::PRIVATE_MAX);
            self.described = Some(begins.clone());
        }
    }
}

fn is_part(packet: &Arc<[u8]>, slice: &[u8]) -> bool {
    let (packet, slice) = (packet.as_ptr_range(), slice.as_ptr_range());
    packet.start <= slice.start && slice.end <= packet.end
}

/// What can be seen of a picture without decoding it.
fn check_picture(codec: Codec, frame: &Frame, payload: &[u8]) {
    match codec {
        Codec::Vp8 => assert_eq!(frame.is_keyframe, payload[0] & 1 == 0),
        Codec::H264 => {
            let mut rest = payload;
            while let Some((length, after)) = rest.split_first_chunk() {
                let (nal, after) = after.split_at(u32::from_be_bytes(*length) as usize);
                assert!((1..24).contains(&(nal[0] & 0x1f)), "a NAL unit of a picture");
                rest = after;
            }
            assert!(rest.is_empty());
        }
        Codec::Av1 => {
            let mut rest = payload;
            while !rest.is_empty() {
                let (obu, after) = webm::av1::Obu::parse(rest).expect("OBUs with sizes");
                assert!(obu.is_kept());
                rest = after;
            }
        }
        _ => {}
    }
}

/// What may happen in a call, in any order and at any time, up to a file that is read again: it has what came out, in time;
/// time ascends, nothing of a pause is in it, nothing waits for long.
pub fn recording_ops(data: &[u8]) {
    let mut source = Source(data);
    let Some(flags) = source.byte() else { return };
    let mut call = Call::new(flags);
    while let Some(operation) = source.byte() {
        call.operate(operation, &mut source);
    }
    call.finish();
}

/// A call that is recorded, and what is known of it.
struct Call {
    recorder: Recorder,
    now: Instant,
    /// When the last thing happened.
    at: Instant,
    /// Blocks are taken as soon as they are there; or else at the end.
    takes: bool,
    paused: Option<Instant>,
    paused_for: Duration,
    /// Where the recording went on after a pause.
    floor_ns: u64,
    /// For how long nobody woke the recorder, altogether.
    stalled: Duration,
    tracks: BTreeMap<u32, Sender>,
    /// All, by where their payloads are.
    packets: BTreeMap<usize, Packet>,
    writer: webm::Writer<Cursor<Vec<u8>>>,
    file: Vec<webm::Track>,
    /// By the file's number: source and time of the last block.
    numbers: BTreeMap<u32, (u32, Option<u64>)>,
    written: Vec<Written>,
    /// Of each source.
    blocks: BTreeMap<u32, u64>,
}

/// What a track sends.
struct Sender {
    kind: MediaKind,
    is_there: bool,
    is_muted: bool,
    seq_no: u64,
    time: u32,
    packets: u64,
}

impl Call {
    fn new(flags: u8) -> Call {
        let config = webm::Config {
            head_size: if flags & 2 == 0 { 4096 } else { webm::muxer::HEAD_SIZE_MIN },
            cluster_sizes: flags & 4 == 0,
            ..webm::Config::default()
        };
        Call {
            recorder: Recorder::new(start(), Config::default()),
            now: start(),
            at: start(),
            takes: flags & 1 == 0,
            paused: None,
            paused_for: Duration::ZERO,
            floor_ns: 0,
            stalled: Duration::ZERO,
            tracks: BTreeMap::new(),
            packets: BTreeMap::new(),
            writer: webm::Writer::new(config, [], Cursor::new(Vec::new())).expect("a head of that size is enough"),
            file: Vec::new(),
            numbers: BTreeMap::new(),
            written: Vec::new(),
            blocks: BTreeMap::new(),
        }
    }

    fn operate(&mut self, operation: u8, source: &mut Source) {
        let track = u32::from(operation >> 4) % TRACKS + 1;
        let byte = source.byte().unwrap_or(0);
        match operation & 15 {
            0 => self.add(track, byte),
            1 => {
                let at = self.moment(byte);
                self.item(Item::TrackRemoved { at, track });
                self.tracks.entry(track).and_modify(|sender| sender.is_there = false);
            }
            2 => {
                let (at, muted) = (self.moment(byte), byte & 0x80 != 0);
                self.tracks.entry(track).and_modify(|sender| sender.is_muted = sender.is_there && muted);
                self.item(Item::Muted { at, track, muted });
            }
            3 => {
                let report = self.report(track, byte, source);
                self.item(Item::Report(report));
            }
            4 => self.item(Item::Overflow { at: self.now, track, packets: source.number() as u32 }),
            5 => self.pause(byte),
            6 => self.resume(byte),
            7 => {
                let user = user(byte);
                self.item(Item::Left { at: self.now, user, reason: "left" });
            }
            8 => {
                let long = self.left().min(Duration::from_millis(4 * u64::from(byte)));
                self.now += long;
                self.stalled += long;
            }
            9 => self.run(Duration::from_millis(u64::from(byte) << (operation >> 4 & 7))),
            10 => self.burst(track, byte),
            _ => {
                if let Some(packet) = self.packet(track, byte, source) {
                    self.send(packet);
                }
            }
        }
    }

    /// Somewhat before now, but in order.
    fn moment(&mut self, byte: u8) -> Instant {
        let before = self.now.checked_sub(Duration::from_millis(u64::from(byte & 63))).unwrap_or(self.now);
        self.at = self.at.max(before);
        self.at
    }

    fn add(&mut self, track: u32, byte: u8) {
        let (kind, from) = match byte & 1 {
            0 => (MediaKind::Video, "camera"),
            _ => (MediaKind::Audio, "microphone"),
        };
        let sender = Sender {
            kind,
            is_there: true,
            is_muted: false,
            seq_no: u64::from(byte) << 20,
            time: track.wrapping_mul(0x3243_f6a8),
            packets: 0,
        };
        self.tracks.entry(track).or_insert(sender);
        let id = TrackId(track.into());
        let info = TrackInfo { number: track, id, user: user(byte >> 1), kind, source: from, name: None };
        let at = self.moment(byte);
        self.item(Item::TrackAdded { at, track: info });
    }

    fn pause(&mut self, byte: u8) {
        let at = self.moment(byte);
        self.recorder.handle_item(self.now, &Item::Paused { at });
        if self.paused.replace(self.paused.unwrap_or(at)).is_none() {
            self.take_blocks();
        }
        self.take();
    }

    fn resume(&mut self, byte: u8) {
        let at = self.moment(byte);
        if let Some(paused) = self.paused.take() {
            self.paused_for += at - paused;
            self.floor_ns = self.position_ns(at);
        }
        self.item(Item::Resumed { at });
    }

    /// Time without what was paused.
    fn position_ns(&self, at: Instant) -> u64 {
        ns(self.paused.unwrap_or(at).saturating_duration_since(start()).saturating_sub(self.paused_for))
    }

    fn report(&self, track: u32, byte: u8, source: &mut Source) -> Report {
        let clock_rate = self.rate(track, byte);
        let wild = source.number();
        let elapsed = self.now - start();
        let ntp = match byte & 3 {
            0 => wall() + elapsed,
            1 => wall() + elapsed + Duration::from_millis(wild & 0xff),
            2 => wall() + Duration::from_millis(wild),
            _ => std::time::UNIX_EPOCH + Duration::from_secs(wild << (byte >> 2 & 31)),
        };
        let time = if byte & 0x20 == 0 { self.rtp(track, clock_rate) } else { wild as u32 };
        Report { track, ssrc: u32::from(byte >> 6 & 1), ntp, time, clock_rate, arrival: self.now }
    }

    fn rate(&self, track: u32, byte: u8) -> u32 {
        match self.tracks.get(&track).map(|sender| sender.kind) {
            _ if byte == 0xff => [0, 1, u32::MAX][track as usize % 3],
            Some(MediaKind::Audio) => 48_000,
            _ => 90_000,
        }
    }

    /// RTP time now, of a sender whose clock is right.
    fn rtp(&self, track: u32, clock_rate: u32) -> u32 {
        let ms = (self.now - start()).as_millis() as u64;
        track.wrapping_mul(0x3243_f6a8).wrapping_add((ms * u64::from(clock_rate) / 1000) as u32)
    }

    /// Packets as they should be, every 20 or 40 ms; the first picture is a key frame.
    fn burst(&mut self, track: u32, byte: u8) {
        for n in 0..byte & 31 {
            let kind = n.min(1) | byte & 0x80;
            let Some(packet) = self.packet(track, 0, &mut Source(&[0x20, kind])) else { return };
            let step = if packet.codec == Codec::Opus { 20 } else { 40 };
            self.send(packet);
            self.run(Duration::from_millis(step));
        }
    }

    /// `None`: nobody knows the track.
    fn packet(&mut self, track: u32, byte: u8, source: &mut Source) -> Option<Packet> {
        let flags = source.byte().unwrap_or(0);
        let clock_rate = self.rate(track, byte);
        let (now, rtp) = (self.now, self.rtp(track, clock_rate));
        let sender = self.tracks.get_mut(&track)?;
        sender.seq_no = match flags & 7 {
            0..=3 => sender.seq_no.wrapping_add(1),
            4 => sender.seq_no.saturating_add(source.byte().unwrap_or(0).into()),
            5 => sender.seq_no.saturating_sub(source.byte().unwrap_or(0).into()),
            6 => source.number(),
            _ => u64::MAX - source.number(),
        };
        sender.time = match flags >> 3 & 3 {
            0 => rtp,
            1 => sender.time,
            2 => rtp.wrapping_add(source.number() as u32).wrapping_sub(1 << 23),
            _ => (source.number() as u32) << 8,
        };
        let is_raw = flags & 0x80 != 0;
        let (codec, payload) = match (sender.kind, is_raw) {
            (_, true) => {
                let (codec, size) = (codec(source.byte().unwrap_or(0)), source.size() % 2048);
                (codec, source.take(size).to_vec())
            }
            // Nothing of a kind that it is not.
            (MediaKind::Audio, false) => (Codec::Opus, vec![0xfc, 0xff, source.byte().unwrap_or(0)]),
            (MediaKind::Video, false) => (Codec::Vp8, picture(source.byte().unwrap_or(0))),
        };
        Some(Packet {
            track,
            ssrc: u32::from(flags >> 6 & 1),
            seq_no: sender.seq_no,
            time: sender.time,
            clock_rate,
            codec,
            red: is_raw && byte & 0x80 != 0,
            marker: flags & 0x20 != 0,
            payload: payload.into(),
            arrival: now.checked_sub(Duration::from_millis((byte & 63).into())).unwrap_or(now),
        })
    }

    fn send(&mut self, packet: Packet) {
        if let Some(sender) = self.tracks.get_mut(&packet.track) {
            sender.packets += u64::from(sender.is_there);
        }
        self.packets.insert(packet.payload.as_ptr().addr(), packet.clone());
        self.item(Item::Packet(packet));
    }

    fn item(&mut self, item: Item) {
        self.recorder.handle_item(self.now, &item);
        self.take();
    }

    /// What a body may take of time.
    fn left(&self) -> Duration {
        LONGEST.saturating_sub(self.now - start())
    }

    /// Time goes on; the recorder is woken when it wants to be.
    fn run(&mut self, long: Duration) {
        let until = self.now + long.min(self.left());
        let mut wakes = 0;
        while let Some(at) = self.recorder.poll_timeout().filter(|at| *at <= until) {
            wakes = if at <= self.now { wakes + 1 } else { 0 };
            assert!(wakes < 100, "it wants to be woken again and again");
            self.now = self.now.max(at);
            self.recorder.handle_timeout(self.now);
            self.take();
            if !self.takes {
                break;
            }
        }
        self.now = until;
        self.recorder.handle_timeout(until);
        self.take();
    }

    fn take(&mut self) {
        assert_eq!(self.recorder.position_ns(self.now), self.position_ns(self.now));
        let (paused, blocks) = (self.paused.is_some(), self.written.len());
        self.take_blocks();
        assert!(!paused || blocks == self.written.len(), "nothing is written of a pause");
        assert!(!paused || self.recorder.poll_timeout().is_none());
        if !self.takes {
            return;
        }
        while let Some(track) = self.recorder.poll_keyframe_request(self.now) {
            let sender = self.tracks.get(&track).expect("a track of the call");
            assert!(!paused && sender.kind == MediaKind::Video && sender.is_there && !sender.is_muted);
        }
        while let Some(note) = self.recorder.poll_note() {
            self.check_note(&note);
        }
    }

    fn take_blocks(&mut self) {
        while let Some(block) = self.takes.then(|| self.recorder.poll_block()).flatten() {
            self.check_time(&block);
            self.write(&block);
        }
    }

    /// When it leaves. A picture of VP9 or AV1 whose marker is missing may be waited for.
    fn check_time(&self, block: &Block) {
        let ahead = Duration::from_nanos(block.timestamp_ns).as_millis() as u64;
        let position = self.position_ns(self.now) / 1_000_000;
        assert!(ahead <= position + AHEAD_MAX_MS, "at {ahead} ms, when it is {position} ms");
        let Some(packet) = block.payload.slices().filter_map(|slice| self.packet_of(slice)).last() else {
            // Silence goes on where the last block ended.
            let end_ns = block.timestamp_ns + block.duration_ns.unwrap_or(0);
            return assert!(end_ns > self.floor_ns, "silence of a pause");
        };
        assert!(block.timestamp_ns >= self.floor_ns, "from before the end of a pause");
        let late = self.now - packet.arrival;
        assert!(!packet.marker || late <= LATE_MAX + self.stalled, "it waited for {late:?}");
    }

    fn packet_of(&self, slice: &[u8]) -> Option<&Packet> {
        let (_, packet) = self.packets.range(..=slice.as_ptr().addr()).next_back()?;
        is_part(&packet.payload, slice).then_some(packet)
    }

    fn check_note(&self, note: &Note) {
        let (source, at_ns, long) = match note {
            Note::Gap { source, at_ns, duration, packets } => {
                assert!(*packets > 0);
                (source, at_ns, *duration)
            }
            Note::Changed { source, at_ns, .. } | Note::Slewed { source, at_ns, .. } => (source, at_ns, Duration::ZERO),
        };
        assert!(self.tracks.contains_key(source));
        let end_ms = (*at_ns + ns(long)) / 1_000_000;
        assert!(end_ms <= self.position_ns(self.now) / 1_000_000 + AHEAD_MAX_MS, "{note:?}");
    }

    fn write(&mut self, block: &Block) {
        let sender = &self.tracks[&block.source];
        let is_video = sender.kind == MediaKind::Video;
        assert!(is_video || block.is_keyframe);
        assert!(block.is_keyframe || (block.begins.is_none() && block.size.is_none()));
        assert_eq!(block.duration_ns.is_some(), !is_video);
        assert!(block.duration_ns.is_none_or(|long| (1..=120_000_000).contains(&long)));
        if let Some(begins) = &block.begins {
            assert!(self.numbers.insert(block.number, (block.source, None)).is_none(), "a number is there once");
            let track = self.describe(block, begins);
            self.writer.add_track(track.clone()).expect("the file takes it");
            self.file.push(track);
        }
        let (source, last) = self.numbers.get_mut(&block.number).expect("a number begins before its blocks");
        assert_eq!(*source, block.source);
        let ms = manifest::ms(block.timestamp_ns);
        assert!(last.is_none_or(|last| last < ms), "time ascends");
        *last = Some(ms);
        if let Some((width, height)) = block.size {
            self.writer.muxer_mut().note_size(block.number, width, height);
        }
        let header = block.header();
        self.writer.write_block(&header, block.payload.slices()).expect("the file takes it");
        let header = webm::Block { timestamp_ns: ms * 1_000_000, ..header };
        self.written.push((header, block.payload.to_vec()));
        *self.blocks.entry(block.source).or_default() += 1;
    }

    /// As the manifest has it.
    fn describe(&self, block: &Block, begins: &Description) -> webm::Track {
        let mut line = manifest::Track {
            at_ms: manifest::ms(block.timestamp_ns),
            number: block.number,
            uid: u64::from(block.number),
            source_number: block.source,
            user: "ann".into(),
            role: "host".into(),
            source: "camera".into(),
            name: String::new(),
            codec: String::new(),
            private: String::new(),
            size: None,
            sound: None,
            codec_delay_ns: 0,
            seek_pre_roll_ns: 0,
            default_duration_ns: None,
        };
        line.describe(begins);
        let bytes = Line::Track(line.clone()).encode();
        assert_eq!(Line::parse(&bytes), Some(Line::Track(line.clone())));
        let track = line.to_webm(true).expect("a track of a file");
        let Description { media, codec, private, .. } = begins.clone();
        assert_eq!((&track.media, &track.codec, &track.private), (&media, &codec, &private));
        track
    }

    fn finish(mut self) {
        let at = self.now;
        let end_ns = self.position_ns(at);
        self.item(Item::Finish { at, reason: EndReason::Requested });
        if !self.takes {
            while let Some(block) = self.recorder.poll_block() {
                self.write(&block);
            }
            assert!(self.written.len() <= WAITING_MAX, "{} blocks waited", self.written.len());
        }
        assert!(self.recorder.is_finished() && self.recorder.poll_timeout().is_none());
        assert!(self.recorder.poll_block().is_none());
        for (number, sender) in &self.tracks {
            let quality = self.recorder.quality(*number);
            let blocks = self.blocks.get(number).copied().unwrap_or(0);
            assert!(quality.packets <= sender.packets && quality.keyframes <= quality.frames, "{quality:?}");
            assert!(quality.frames <= blocks, "{quality:?}, {blocks} blocks");
            assert!(sender.kind == MediaKind::Audio || quality.frames == blocks);
        }
        let duration_ms = self.writer.muxer().duration_ns() / 1_000_000;
        assert!(duration_ms <= end_ns / 1_000_000 + AHEAD_MAX_MS, "{duration_ms} ms of {end_ns} ns");
        self.writer.finish().expect("memory takes it");
        let bytes = self.writer.into_inner().into_inner();
        assert!(webm_blocks(&bytes) == Some((self.written, 0)), "what was written is read");
    }
}

fn user(byte: u8) -> UserId {
    UserId::new(["ann", "bob"][usize::from(byte & 1)]).expect("an id")
}

/// A picture of VP8 in one packet; of an even number, a key frame.
fn picture(number: u8) -> Vec<u8> {
    let mut payload = vec![0x10, 0x10 | number & 1, 2, 0];
    if number & 1 == 0 {
        payload.extend_from_slice(&[0x9d, 0x01, 0x2a, number, 1, 64, 1]);
    }
    payload.push(number);
    payload
}

fn ns(long: Duration) -> u64 {
    long.as_nanos() as u64
}

/// What is to be tried of one input.
const PACKETS_MAX: u64 = 20_000;
const LOOKED_AT_MAX: usize = 64 * 1024;
const TRACKS: u32 = 6;
const LONGEST: Duration = Duration::from_secs(70);
/// By how much a block may be ahead of the time that it is, and what is rounded.
const AHEAD_MAX_MS: u64 = 1100;
/// From the arrival of a packet until its block is written: holes are waited for, then other tracks, and what is ahead of its
/// time for that.
const LATE_MAX: Duration = Duration::from_millis(500 + 650 + 350);
/// Blocks that nobody takes.
const WAITING_MAX: usize = 2 * 16 * 1024 + 1;
