//! What the file of a recording shows of simulated browsers: which of their frames are in it, whole and in order.
//!
//! Of cameras that send [`PLAIN`](crate::encoder::PLAIN), and microphones without redundancy.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::Path;
use std::time::Duration;

use webrtc_engine::recording::frames::opus;
use webrtc_engine::webm::reader::Found;
use webrtc_engine::webm::{Event, Reader};

use crate::payload::{Source, Tag};

/// A file that was read to its end.
#[derive(Debug, Default)]
pub struct Film {
    /// By whom it is of, and what it shows.
    pub takes: BTreeMap<(u32, Source), Take>,
    /// What its head says; `None` until it is complete.
    pub duration: Option<Duration>,
    pub cues: usize,
    /// When the last block begins.
    end: Duration,
    /// Blocks that were put where nothing came for a while.
    pub silences: usize,
    /// By number of the track.
    by_track: BTreeMap<u32, (u32, Source)>,
}

/// What is there of a track.
#[derive(Debug, Clone)]
pub struct Take {
    pub first: Tag,
    pub last: Tag,
    pub frames: u32,
    /// Numbers before and after frames that are not there.
    pub holes: Vec<(u32, u32)>,
    /// The timestamp of the last block.
    at: Duration,
}

impl Film {
    /// Every block has to be whole, of one track, in order.
    pub fn read(path: &Path) -> Film {
        let file = File::open(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        let mut reader = Reader::new(file, Default::default()).expect("a file of ours");
        let mut film = Film::default();
        let mut payload = Vec::new();
        while let Some(event) = reader.next_event().expect("it can be read") {
            match event {
                Event::Info(info) => film.duration = info.duration_ns.map(Duration::from_nanos),
                Event::Cues(cues) => film.cues = cues.len(),
                Event::Damage(damage) => panic!("{}: {damage:?}", path.display()),
                Event::Block(found) => {
                    reader.read_payload(&found, &mut payload).expect("it can be read");
                    film.add(&found, &payload);
                }
                _ => {}
            }
        }
        film
    }

    fn add(&mut self, found: &Found, payload: &[u8]) {
        let at = Duration::from_nanos(found.block.timestamp_ns);
        self.end = self.end.max(at);
        if *payload == opus::silence(SOUND)[..] {
            self.silences += 1;
            return;
        }
        let tag = Tag::read(payload).unwrap_or_else(|| panic!("a block of {} octets says nothing", payload.len()));
        let of = (tag.client, tag.source);
        let is_video = tag.source.is_video();
        assert_eq!(*self.by_track.entry(found.block.track).or_insert(of), of, "a track is of one source");
        check_whole(&tag, payload);
        assert_eq!(found.block.is_keyframe, tag.key || !is_video, "{tag:?}");
        match self.takes.get_mut(&of) {
            Some(take) => take.add(tag, at),
            None => {
                assert!(tag.key || !is_video, "it begins with a key frame");
                self.takes.insert(of, Take { first: tag, last: tag, frames: 1, holes: Vec::new(), at });
            }
        }
    }

    /// Head and cues are there, and the head is right.
    pub fn check_complete(&self) {
        let end = self.end;
        let duration = self.duration.expect("the head says how long it is");
        assert!(
            (end..end + Duration::from_millis(200)).contains(&duration),
            "{duration:?}, and the last is at {end:?}"
        );
        assert!(self.cues > 0, "it has cues");
    }

    /// All of these are there, and nobody else.
    pub fn check_tracks(&self, clients: &[u32]) {
        let wanted = clients.iter().flat_map(|client| [(*client, Source::Microphone), (*client, Source::Camera)]);
        assert_eq!(self.takes.keys().copied().collect::<Vec<_>>(), wanted.collect::<Vec<_>>());
    }

    /// Nothing of these is missing between the first and the last frame.
    pub fn check_holes(&self, clients: &[u32]) {
        for (of, take) in self.takes.iter().filter(|((client, _), _)| clients.contains(client)) {
            assert!(take.holes.is_empty(), "of {of:?} frames are missing: {:?}", take.holes);
        }
    }
}

impl Take {
    fn add(&mut self, tag: Tag, at: Duration) {
        assert!(at >= self.at, "{tag:?} is at {at:?}, after {:?}", self.at);
        assert!(tag.frame > self.last.frame, "{tag:?} comes after {:?}", self.last);
        if tag.frame != self.last.frame + 1 {
            self.holes.push((self.last.frame, tag.frame));
        }
        (self.last, self.at) = (tag, at);
        self.frames += 1;
    }

    /// When its last frame was sent.
    pub fn last_sent(&self) -> Duration {
        Duration::from_millis(self.last.sent_ms.into())
    }
}

/// All packets of the frame, in order, and nothing else.
fn check_whole(last: &Tag, payload: &[u8]) {
    assert!(last.is_last(), "{last:?}");
    if !last.source.is_video() {
        return assert_eq!(payload.first(), Some(&SOUND), "{last:?}");
    }
    let count = usize::from(last.count);
    assert_eq!(payload.len() % count, 0, "{last:?}: {} octets", payload.len());
    for (index, packet) in payload.chunks(payload.len() / count).enumerate() {
        let tag = Tag::read(packet).expect("every packet is signed");
        assert_eq!(tag, Tag { index: index as u8, ..*last });
    }
    if last.key {
        assert_eq!(payload[3..6], [0x9d, 0x01, 0x2a]);
    }
}

/// What frames of a simulated microphone begin with.
const SOUND: u8 = 0x78;
