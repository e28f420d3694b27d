//! What tests of recordings on disk share: directories that go away, people, and blocks that say what they are.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant, UNIX_EPOCH};

use str0m::media::MediaKind;

use super::live::{Ended, Live, Room};
use crate::base::{RecordingId, RoomId, TrackId, UserId, WorkerId};
use crate::recording::feed::{Begin, EndReason, Item, TrackInfo};
use crate::recording::library::{Entry, Status};
use crate::recording::{Block, Description, Payload, manifest, names};
use crate::webm::{self, Audio, Chapter, Codec, Event, Info, Media, Reader, Tag, Track, Video, opus};

pub const MS: u64 = 1_000_000;

/// A directory for a test.
pub struct Scratch(PathBuf);

impl Scratch {
    pub fn new(name: &str) -> Scratch {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("recordings-{}-{count}-{name}", std::process::id()));
        fs::create_dir_all(&path).expect("a directory");
        Scratch(path)
    }

    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

pub fn user(name: &str) -> UserId {
    UserId::new(name).expect("a name")
}

pub fn begin(number: u8) -> Begin {
    let unix_ms = 1_790_000_000_000 + u64::from(number);
    Begin {
        recording: RecordingId::new(unix_ms, [number; 9]),
        room: RoomId::new("call").expect("a name"),
        worker: WorkerId(number),
        at: Instant::now(),
        wall: UNIX_EPOCH + Duration::from_millis(unix_ms),
        by: Some(user("ann")),
        audio_only: false,
        participants: None,
        backlog: Arc::default(),
    }
}

pub fn begin_line() -> manifest::Begin {
    let begin = begin(0);
    let (started, started_ms) = manifest::Begin::at(begin.wall);
    manifest::Begin {
        version: manifest::VERSION,
        recording: begin.recording.as_str().into(),
        call: "call".into(),
        started,
        started_ms,
        by: None,
        audio_only: false,
        participants: None,
        head_size: super::live::HEAD_SIZE,
    }
}

pub fn entry(number: u8) -> Entry {
    let begin = begin(number);
    Entry {
        directory: names::directory(&begin.room, &begin.recording),
        recording: begin.recording,
        room: begin.room,
        status: Status::Recording,
        progress: 0.0,
        audio_only: false,
        participants: None,
        started_by: None,
        started: begin.wall,
        ended: None,
        end_reason: None,
        duration_ms: 0,
        size: 0,
        recovered: false,
        error: None,
        files: Vec::new(),
    }
}

pub fn vp8_line(number: u32, user: &str, source: &str) -> manifest::Track {
    line(number, user, source, &vp8())
}

pub fn opus_line(number: u32, user: &str, source: &str) -> manifest::Track {
    line(number, user, source, &sound())
}

fn line(number: u32, user: &str, source: &str, description: &Description) -> manifest::Track {
    let mut line = manifest::Track {
        at_ms: 0,
        number,
        uid: number.into(),
        source_number: number,
        user: user.into(),
        role: String::new(),
        source: source.into(),
        name: String::new(),
        codec: String::new(),
        private: String::new(),
        size: None,
        sound: None,
        codec_delay_ns: 0,
        seek_pre_roll_ns: 0,
        default_duration_ns: None,
    };
    line.describe(description);
    line
}

pub fn vp8() -> Description {
    Description {
        media: Media::Video(Video { width: 320, height: 180, display: None }),
        codec: Codec::Vp8,
        private: Vec::new(),
        codec_delay_ns: 0,
        seek_pre_roll_ns: 0,
        default_duration_ns: None,
    }
}

pub fn h264(private: u8) -> Description {
    Description { codec: Codec::H264, private: vec![1, private], ..vp8() }
}

pub fn sound() -> Description {
    Description {
        media: Media::Audio(Audio { sampling_frequency: 48_000.0, channels: 2 }),
        codec: Codec::Opus,
        private: opus::Head::relayed().encode().to_vec(),
        seek_pre_roll_ns: opus::SEEK_PRE_ROLL_NS,
        default_duration_ns: Some(20 * MS),
        ..vp8()
    }
}

/// A block of a source; the key frames are a picture of VP8, as far as its size goes.
pub fn block(source: u32, number: u32, at_ms: u64, is_keyframe: bool) -> Block {
    let mut bytes = vec![if is_keyframe { 0x10 } else { 0x11 }, 0, 0, 0x9d, 0x01, 0x2a, 0x40, 1, 0xb4, 0];
    bytes.extend_from_slice(format!("{number} at {at_ms}").as_bytes());
    let mut payload = Payload::default();
    payload.push(&Arc::from(bytes), 0..10 + format!("{number} at {at_ms}").len());
    Block {
        source,
        number,
        begins: None,
        size: None,
        timestamp_ns: at_ms * MS,
        is_keyframe,
        duration_ns: None,
        payload,
    }
}

/// A recording whose blocks are written one by one.
pub struct Script {
    pub live: Live,
    pub begin: Begin,
}

impl Script {
    pub fn new(root: &Path, number: u8) -> Script {
        Script::with_room(root, number, Room::default())
    }

    pub fn with_room(root: &Path, number: u8, room: Room) -> Script {
        let begin = begin(number);
        let live = Live::create(root, &begin, room).expect("a recording");
        Script { live, begin }
    }

    pub fn item(&mut self, at_ms: u64, item: impl FnOnce(Instant) -> Item) {
        let item = item(self.begin.at + Duration::from_millis(at_ms));
        self.live.note_item(&item, at_ms).expect("room");
    }

    pub fn join(&mut self, at_ms: u64, name: &str) {
        let display = format!("The {name}");
        self.item(at_ms, |at| Item::Joined { at, user: user(name), name: Some(display), role: "guest" });
    }

    pub fn leave(&mut self, at_ms: u64, name: &str) {
        self.item(at_ms, |at| Item::Left { at, user: user(name), reason: "left" });
    }

    pub fn speak(&mut self, at_ms: u64, names: &[&str]) {
        let users = names.iter().map(|name| user(name)).collect();
        self.item(at_ms, |at| Item::Speakers { at, users });
    }

    pub fn source(&mut self, at_ms: u64, number: u32, name: &str, source: &'static str) {
        let kind = if matches!(source, "camera" | "screen") { MediaKind::Video } else { MediaKind::Audio };
        let track = TrackInfo { number, id: TrackId(number.into()), user: user(name), kind, source, name: None };
        self.item(at_ms, |at| Item::TrackAdded { at, track });
    }

    /// Blocks of a new track of the file every so often, every tenth a key frame.
    pub fn blocks(&mut self, source: u32, number: u32, description: Description, from_ms: u64, to_ms: u64) {
        let is_video = matches!(description.media, Media::Video(_));
        let mut begins = Some(description);
        for (index, at_ms) in (from_ms..to_ms).step_by(if is_video { 40 } else { 20 }).enumerate() {
            let block = block(source, number, at_ms, !is_video || index % 10 == 0);
            self.live.write(&[Block { begins: begins.take(), ..block }]).expect("room");
        }
    }

    pub fn directory(&self) -> PathBuf {
        self.live.directory().to_owned()
    }

    pub fn end(self) -> Ended {
        let wall = self.begin.wall + Duration::from_secs(10);
        self.live.end(EndReason::Requested, wall)
    }
}

/// All that a file holds.
#[derive(Debug, Default)]
pub struct Content {
    pub doc_type: String,
    pub info: Option<Info>,
    pub tracks: Vec<Track>,
    pub tags: Vec<Tag>,
    pub chapters: Vec<Chapter>,
    pub cues: usize,
    /// Where the cues are, from the beginning of the file.
    pub cues_at: u64,
    /// Track, milliseconds, and payload without what makes it a picture.
    pub blocks: Vec<(u32, u64, String)>,
    pub damages: usize,
}

impl Content {
    pub fn read(path: &Path) -> Content {
        let file = File::open(path).expect("a file");
        let mut reader = Reader::new(file, webm::reader::Limits::default()).expect("one of Matroska");
        let mut content = Content { doc_type: reader.doc_type().into(), ..Content::default() };
        let mut payload = Vec::new();
        while let Some(event) = reader.next_event().expect("it can be read") {
            match event {
                Event::Info(info) => content.info = Some(info),
                Event::Tracks(tracks) => content.tracks.extend(tracks),
                Event::Tags(tags) => content.tags.extend(tags),
                Event::Chapters(chapters) => content.chapters.extend(chapters),
                Event::Cues(cues) => {
                    content.cues = cues.len();
                    content.cues_at = reader.event_position();
                }
                Event::Block(found) => {
                    reader.read_payload(&found, &mut payload).expect("it can be read");
                    let text = String::from_utf8_lossy(&payload[10.min(payload.len())..]).into_owned();
                    content.blocks.push((found.block.track, found.block.timestamp_ns / MS, text));
                }
                Event::Damage(_) => content.damages += 1,
                Event::Cluster(_) => {}
            }
        }
        content
    }

    /// Of a track: how many blocks, the first and the last time.
    pub fn span(&self, track: u32) -> (usize, u64, u64) {
        let times: Vec<u64> = self.blocks.iter().filter(|(number, ..)| *number == track).map(|block| block.1).collect();
        (times.len(), times.first().copied().unwrap_or(0), times.last().copied().unwrap_or(0))
    }

    pub fn names(&self) -> Vec<&str> {
        self.tracks.iter().map(|track| track.name.as_str()).collect()
    }
}

/// Names and hashes of all files in a directory.
pub fn hashes(directory: &Path) -> BTreeMap<String, String> {
    let files = fs::read_dir(directory).expect("a directory").map(|entry| entry.expect("an entry"));
    let hash = |entry: fs::DirEntry| {
        let name = entry.file_name().into_string().expect("a name of ours");
        let bytes = fs::read(entry.path()).expect("a file");
        (name, names::hex(&openssl::sha::sha256(&bytes)))
    };
    files.map(hash).collect()
}
