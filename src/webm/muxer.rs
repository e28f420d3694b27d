//! Writes WebM and Matroska (RFC 9559) without touching a file: says which octets go around each payload, and which are
//! written over others.
//!
//! ```text
//!   0          EBML header │ Segment │ SeekHead │ Info │ Tracks │ Tags │ Void        head: always as long, written again and again
//!   head_size  Cluster │ Cluster │ …                                                 only appended to, but for the sizes of Clusters
//!   at the end Cues │ Chapters │ …                                                   what finishing appends
//! ```
//!
//! While it is being written a file can be played: its sizes are unknown, and the head has what is known. A track that
//! comes later makes another head of the same length. Finishing appends what did not fit into the head, and completes it;
//! that takes the time to write the cues, however long the file is.
//!
//! A block goes in two steps, so that a failed write changes nothing: [`Muxer::frame`] says what to write around the payload,
//! [`Muxer::commit`] that it was. [`Writer`](super::writer::Writer) does both, for anything that can be written to.
//!
//! ```
//! # use webrtc_engine::webm::{Block, Codec, Config, Muxer, Track};
//! let mut muxer = Muxer::new(Config::default()).unwrap();
//! muxer.add_track(Track::video(1, 4711, Codec::Vp8, 640, 360)).unwrap();
//! let mut file = muxer.head();
//! let payload = [&b"in two "[..], b"pieces"];
//! let frame = muxer.frame(&Block::new(1, 0, true), 13).unwrap();
//! for piece in [frame.prefix(), payload[0], payload[1], frame.suffix()] {
//!     file.extend_from_slice(piece);
//! }
//! muxer.commit(&frame);
//! let end = muxer.finish();
//! file.extend_from_slice(&end.tail);
//! for patch in end.patches() {
//!     file[patch.position as usize..][..patch.bytes.len()].copy_from_slice(patch.bytes);
//! }
//! ```

use super::cues::{CUES_MAX, Cue, Cues};
use super::ebml::{self, Put, SIZE_UNKNOWN, Small};
use super::info::{self, Chapter, Info, Tag};
use super::track::{Media, Track};
use super::{Error, ids};

/// The least that a head may be: everything but tracks, with titles and names of programs of usual length.
pub const HEAD_SIZE_MIN: u32 = 512;
/// The largest payload of a block. A frame of 4K at the highest quality is a tenth of it.
pub const PAYLOAD_MAX: usize = 16 * 1024 * 1024;
/// How many tracks are written into a file.
pub const TRACKS_MAX: usize = 4096;

/// How a file is written.
#[derive(Debug, Clone)]
pub struct Config {
    /// Octets before the first Cluster. A track with its tags takes 200 to 400. Tracks that do not fit go to the end, where
    /// browsers do not look. At least [`HEAD_SIZE_MIN`].
    pub head_size: u32,
    /// What the file says about itself; the duration is set by the muxer.
    pub info: Info,
    /// A Cluster is over after so long. Shorter ones make seeking more exact where there are no cues, and cost 20 octets each.
    pub cluster_ns: u64,
    /// A Cluster is over after so many octets.
    pub cluster_size: u64,
    /// Puts the cues into the head when they fit: a player of a file on a server does without one request. Otherwise they go
    /// to the end.
    pub cues_in_head: bool,
    /// Writes the size of each Cluster over the unknown one when it is over. Without, a file is never written over but for its
    /// head, and the finished Segment has no size either: FFmpeg complains of unknown sizes in a known one.
    pub cluster_sizes: bool,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            head_size: 64 * 1024,
            info: Info::default(),
            cluster_ns: 1_000_000_000,
            cluster_size: 4 * 1024 * 1024,
            cues_in_head: false,
            cluster_sizes: true,
        }
    }
}

/// What is said about a payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Block {
    pub track: u32,
    /// From the beginning of the file, with the track's codec delay. Rounded to the timestamp scale.
    pub timestamp_ns: u64,
    /// Whether it can be decoded without any other; always, for sound.
    pub is_keyframe: bool,
    /// How long it is shown or heard, where the track does not say and the next block does not either.
    pub duration_ns: Option<u64>,
    /// Of what is decoded, how much at the end (negative: at the beginning) is not to be heard.
    pub discard_padding_ns: i64,
}

impl Block {
    /// What fits into a SimpleBlock.
    pub fn new(track: u32, timestamp_ns: u64, is_keyframe: bool) -> Block {
        Block { track, timestamp_ns, is_keyframe, duration_ns: None, discard_padding_ns: 0 }
    }
}

/// What stands around a payload; see [`Muxer::frame`].
#[derive(Debug, Clone, Copy)]
#[must_use = "it is only in the file once it was written and committed"]
pub struct Frame {
    prefix: Small<64>,
    suffix: Small<32>,
    patch: Option<(u64, [u8; 8])>,
    block: Block,
    ticks: u64,
    /// Where it goes, what it takes with everything, and where in it the block begins.
    position: u64,
    size: u64,
    block_at: u64,
    begins: bool,
    /// The Cluster that it is in, and the track's time: what the next frame goes by.
    cluster: Open,
}

/// What a frame goes by of the Cluster before it.
#[derive(Debug, Clone, Copy)]
struct Open {
    data: u64,
    size_at: Option<u64>,
    ticks: u64,
}

impl Frame {
    /// Goes before the payload.
    pub fn prefix(&self) -> &[u8] {
        &self.prefix
    }

    /// Goes after the payload. Mostly empty.
    pub fn suffix(&self) -> &[u8] {
        &self.suffix
    }

    /// The size of the Cluster that is over, to be written over the unknown one once this frame is in the file.
    pub fn patch(&self) -> Option<Patch<'_>> {
        self.patch.as_ref().map(|(position, bytes)| Patch { position: *position, bytes })
    }

    /// Where the prefix goes, from the beginning of the file: the end of what was committed.
    pub fn position(&self) -> u64 {
        self.position
    }
}

/// Octets that take the place of as many others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Patch<'a> {
    /// From the beginning of the file.
    pub position: u64,
    pub bytes: &'a [u8],
}

/// What completes a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finish {
    /// To be appended; then the file is as long as it stays.
    pub tail: Vec<u8>,
    /// To be written at the beginning, after the tail: it refers to it.
    pub head: Vec<u8>,
    /// The size of the last Cluster, as in [`Frame::patch`].
    cluster: Option<(u64, [u8; 8])>,
    /// Octets of the whole file.
    pub length: u64,
}

impl Finish {
    /// What is written over, in this order, after the tail was appended.
    pub fn patches(&self) -> impl Iterator<Item = Patch<'_>> {
        let cluster = self.cluster.as_ref().map(|(position, bytes)| Patch { position: *position, bytes });
        cluster.into_iter().chain([Patch { position: 0, bytes: &self.head }])
    }
}

#[derive(Debug)]
struct Entry {
    track: Track,
    /// Of its last block, and of its last cue.
    last_ticks: Option<u64>,
    last_cue: Option<u64>,
}

#[derive(Debug)]
struct Cluster {
    /// Of its id, and of its first child.
    position: u64,
    data: u64,
    /// Where its unknown size of eight octets is. `None`: another one's business.
    size_at: Option<u64>,
    ticks: u64,
    /// A bit for each of the first tracks that has a block here.
    seen: u64,
}

impl Cluster {
    fn open(&self) -> Open {
        Open { data: self.data, size_at: self.size_at, ticks: self.ticks }
    }
}

impl Open {
    /// Its size, when it ends at a position.
    fn patch(&self, end: u64) -> Option<(u64, [u8; 8])> {
        Some((self.size_at?, ebml::vint(end - self.data, 8)))
    }
}

/// A file that is written.
#[derive(Debug)]
pub struct Muxer {
    config: Config,
    tracks: Vec<Entry>,
    /// Number and place in `tracks`, sorted.
    numbers: Vec<(u32, usize)>,
    tags: Vec<Tag>,
    chapters: Vec<Chapter>,
    cues: Cues,
    cluster: Option<Cluster>,
    position: u64,
    end_ns: u64,
    has_video: bool,
}

impl Muxer {
    /// Errors: a head that is too small, or scales and sizes of 0.
    pub fn new(config: Config) -> Result<Muxer, Error> {
        let scale = config.info.timestamp_scale_ns;
        if config.head_size < HEAD_SIZE_MIN
            || !(1..=SCALE_MAX_NS).contains(&scale)
            || config.cluster_ns == 0
            || config.cluster_size == 0
        {
            return Err(Error::Config);
        }
        let position = u64::from(config.head_size);
        let muxer = Muxer {
            config,
            tracks: Vec::new(),
            numbers: Vec::new(),
            tags: Vec::new(),
            chapters: Vec::new(),
            cues: Cues::new(CUES_MAX),
            cluster: None,
            position,
            end_ns: 0,
            has_video: false,
        };
        // The largest that has to fit: with a duration, and nothing else that can go elsewhere.
        match muxer.layout(true).head.len() <= muxer.config.head_size as usize {
            true => Ok(muxer),
            false => Err(Error::Config),
        }
    }

    /// At any time; the head has to be written again. Errors: a number or uid that is taken, a field that cannot be written,
    /// too many.
    pub fn add_track(&mut self, track: Track) -> Result<(), Error> {
        track.check()?;
        if self.tracks.len() >= TRACKS_MAX {
            return Err(Error::TooLarge);
        }
        let place = match self.numbers.binary_search_by_key(&track.number, |(number, _)| *number) {
            Ok(_) => return Err(Error::TrackNumber(track.number)),
            Err(place) => place,
        };
        if self.tracks.iter().any(|entry| entry.track.uid == track.uid) {
            return Err(Error::TrackField(track.number));
        }
        self.numbers.insert(place, (track.number, self.tracks.len()));
        self.has_video |= matches!(track.media, Media::Video(_));
        self.tracks.push(Entry { track, last_ticks: None, last_cue: None });
        Ok(())
    }

    /// Says something else about a track, e.g. a name. The head has to be written again. Errors: it is not there, or as for
    /// [`add_track`](Self::add_track).
    pub fn replace_track(&mut self, track: Track) -> Result<(), Error> {
        track.check()?;
        let index = self.find(track.number).ok_or(Error::TrackNumber(track.number))?;
        let is_taken = |(at, entry): (usize, &Entry)| at != index && entry.track.uid == track.uid;
        if self.tracks.iter().enumerate().any(is_taken) {
            return Err(Error::TrackField(track.number));
        }
        self.has_video |= matches!(track.media, Media::Video(_));
        self.tracks[index].track = track;
        Ok(())
    }

    /// The picture has this size from here on. The file says the largest in either direction; VP8 and VP9 carry each size in
    /// its key frame. Whether what the head says has changed; it may as well be written at the end.
    pub fn note_size(&mut self, track: u32, width: u32, height: u32) -> bool {
        let Some(index) = self.find(track) else { return false };
        let Media::Video(video) = &mut self.tracks[index].track.media else { return false };
        let before = *video;
        (video.width, video.height) = (video.width.max(width), video.height.max(height));
        *video != before
    }

    pub fn tracks(&self) -> impl Iterator<Item = &Track> {
        self.tracks.iter().map(|entry| &entry.track)
    }

    /// Instead of those that were there. They are in the head as soon as it is written again, if there is room.
    pub fn set_tags(&mut self, tags: Vec<Tag>) {
        self.tags = tags;
    }

    /// Instead of those that were there. As [`set_tags`](Self::set_tags).
    pub fn set_chapters(&mut self, chapters: Vec<Chapter>) {
        self.chapters = chapters;
    }

    /// `webm` or `matroska`, as the tracks allow.
    pub fn doc_type(&self) -> &'static str {
        if self.tracks.iter().all(|entry| entry.track.codec.is_webm()) { "webm" } else { "matroska" }
    }

    /// Whether the head of the live file lacks tracks, because there is no room for them.
    pub fn is_head_full(&self) -> bool {
        self.layout(false).lacks_tracks
    }

    /// Octets of the file that are as they stay, but for the head and what finishing appends: the size of a Cluster is written
    /// over the unknown one when the next one begins.
    pub fn stable_len(&self) -> u64 {
        self.cluster.as_ref().map_or(self.position, |cluster| cluster.position)
    }

    /// Octets of the file as it was committed, head included.
    pub fn position(&self) -> u64 {
        self.position
    }

    /// To the end of the last block that was committed.
    pub fn duration_ns(&self) -> u64 {
        self.end_ns
    }

    /// The beginning of a file that is not finished: [`Config::head_size`] octets for position 0.
    pub fn head(&self) -> Vec<u8> {
        self.layout(false).head
    }

    /// What goes around a payload of so many octets, and where. Changes nothing.
    ///
    /// Timestamps of a track may go back, and those of different tracks may be in any order. A block that is more than 32 s
    /// older than its Cluster begins another one.
    ///
    /// Errors: an unknown track, a payload above [`PAYLOAD_MAX`], a time that has no place in a file (292 years).
    pub fn frame(&self, block: &Block, payload_size: usize) -> Result<Frame, Error> {
        self.frame_after([].iter(), block, payload_size)
    }

    /// The same for one that goes behind others that are not committed yet, so that several are written at once. They are
    /// committed in their order, all or the first of them.
    pub fn frame_after<'f>(
        &self,
        pending: impl DoubleEndedIterator<Item = &'f Frame> + Clone,
        block: &Block,
        payload_size: usize,
    ) -> Result<Frame, Error> {
        let (open, position) = match pending.clone().next_back() {
            Some(last) => (Some(last.cluster), last.position + last.size),
            None => (self.cluster.as_ref().map(Cluster::open), self.position),
        };
        let last_ticks = || pending.rev().find(|frame| frame.block.track == block.track).map(|frame| frame.ticks);
        self.frame_behind(open, position, last_ticks, block, payload_size)
    }

    fn frame_behind(
        &self,
        before: Option<Open>,
        position: u64,
        last_ticks: impl FnOnce() -> Option<u64>,
        block: &Block,
        payload_size: usize,
    ) -> Result<Frame, Error> {
        let index = self.find(block.track).ok_or(Error::TrackNumber(block.track))?;
        if payload_size > PAYLOAD_MAX {
            return Err(Error::TooLarge);
        }
        let longest = block.timestamp_ns.checked_add(block.duration_ns.unwrap_or(0));
        if longest.is_none_or(|end| i64::try_from(end).is_err()) {
            return Err(Error::Timestamp);
        }
        let entry = &self.tracks[index];
        let ticks = self.ticks(block.timestamp_ns);
        let relative = |cluster: &Open| i16::try_from(ticks as i64 - cluster.ticks as i64).ok();
        let open = before.as_ref().filter(|cluster| {
            let age_ns = ticks.saturating_sub(cluster.ticks).saturating_mul(self.config.info.timestamp_scale_ns);
            let is_video_key = block.is_keyframe && matches!(entry.track.media, Media::Video(_));
            // Seeking is best where a Cluster begins with what is sought.
            let age_max_ns = if is_video_key { self.config.cluster_ns / 2 } else { self.config.cluster_ns };
            let size = position - cluster.data + payload_size as u64;
            relative(cluster).is_some() && age_ns < age_max_ns && size <= self.config.cluster_size
        });
        let begins = open.is_none();
        let mut frame = Frame {
            prefix: Small::default(),
            suffix: Small::default(),
            patch: before.filter(|_| begins).and_then(|cluster| cluster.patch(position)),
            block: *block,
            ticks,
            position,
            size: 0,
            block_at: 0,
            begins,
            cluster: open.copied().unwrap_or_else(|| self.open_at(position, ticks)),
        };
        if begins {
            frame.prefix.id(ids::CLUSTER);
            frame.prefix.put(&SIZE_UNKNOWN);
            frame.prefix.uint(ids::TIMESTAMP, ticks);
        }
        frame.block_at = frame.prefix.len() as u64;
        let offset = open.and_then(relative).unwrap_or(0);

        let number = u64::from(block.track);
        let number_length = ebml::vint_length(number);
        let data_size = (number_length + 3 + payload_size) as u64;
        let is_simple = block.duration_ns.is_none() && block.discard_padding_ns == 0;
        if is_simple {
            frame.prefix.id(ids::SIMPLE_BLOCK);
        } else {
            if let Some(duration) = block.duration_ns {
                frame.suffix.uint(ids::BLOCK_DURATION, self.ticks(duration));
            }
            if !block.is_keyframe {
                // What says that it is no key frame (RFC 9559 §5.1.3.5.4): it refers to the one before, as far as we know.
                let reference = last_ticks().or(entry.last_ticks).map_or(0, |last| last as i64 - ticks as i64);
                frame.suffix.int(ids::REFERENCE_BLOCK, reference);
            }
            if block.discard_padding_ns != 0 {
                frame.suffix.int(ids::DISCARD_PADDING, block.discard_padding_ns);
            }
            let block_head = 1 + ebml::vint_length(data_size) as u64;
            frame.prefix.id(ids::BLOCK_GROUP);
            frame.prefix.size(block_head + data_size + frame.suffix.len() as u64);
            frame.prefix.id(ids::BLOCK);
        }
        frame.prefix.size(data_size);
        frame.prefix.put(&ebml::vint(number, number_length)[..number_length]);
        frame.prefix.put(&offset.to_be_bytes());
        frame.prefix.put(&[if is_simple && block.is_keyframe { 0x80 } else { 0 }]);
        frame.size = (frame.prefix.len() + payload_size + frame.suffix.len()) as u64;
        Ok(frame)
    }

    /// The frame is in the file, payload and all. Panics when another one was committed since it was made.
    pub fn commit(&mut self, frame: &Frame) {
        assert_eq!(frame.position, self.position, "a frame is committed once, in the order in which they are made");
        let index = self.find(frame.block.track).expect("tracks do not go away");
        if frame.begins {
            let Open { data, size_at, ticks } = frame.cluster;
            self.cluster = Some(Cluster { position: frame.position, data, size_at, ticks, seen: 0 });
        }
        let data = self.cluster.as_ref().expect("a block is in a Cluster").data;
        self.note_block(index, &frame.block, frame.ticks, frame.position + frame.block_at - data);
        self.position += frame.size;
    }

    /// Cues and ends, after the Cluster was opened.
    fn note_block(&mut self, index: usize, block: &Block, ticks: u64, relative: u64) {
        let segment = self.segment_data();
        let scale = self.config.info.timestamp_scale_ns;
        let Some(cluster) = &mut self.cluster else { return };
        let entry = &mut self.tracks[index];
        let is_first = index >= 64 || cluster.seen & 1 << index == 0;
        if index < 64 {
            cluster.seen |= 1 << index;
        }
        let far = |distance_ns: u64| {
            entry.last_cue.is_none_or(|last| last.abs_diff(ticks).saturating_mul(scale) >= distance_ns)
        };
        let is_cue = match entry.track.media {
            Media::Video(_) => block.is_keyframe,
            // Who seeks in a file with video seeks by that; but a track may be alone when somebody plays it.
            _ if self.has_video => is_first && far(SOUND_CUES_BESIDE_VIDEO_NS),
            _ => is_first && far(SOUND_CUES_NS),
        };
        if is_cue {
            let block = u32::try_from(relative).ok();
            let cue = Cue { ticks, track: entry.track.number, cluster: cluster.position - segment, block };
            if self.cues.push(cue, entry.last_cue) {
                entry.last_cue = Some(ticks);
            }
        }
        let duration = block.duration_ns.or(entry.track.default_duration_ns).unwrap_or(0);
        self.end_ns = self.end_ns.max((ticks * scale).saturating_add(duration));
        entry.last_ticks = Some(ticks);
    }

    /// Octets of nothing between blocks, `size` altogether: what stands at their beginning, the rest may be anything. `None`:
    /// one octet is too few. [`commit_void`](Self::commit_void) says that they are in the file.
    pub fn void(&self, size: u64) -> Option<Small<9>> {
        ebml::void(size)
    }

    pub fn commit_void(&mut self, size: u64) {
        self.position += size;
    }

    // For repair, which tells what it has found in a file instead of what is written.

    pub(super) fn found_cluster(&mut self, position: u64, data: u64, ticks: u64) {
        self.cluster = Some(Cluster { position, data, size_at: None, ticks, seen: 0 });
    }

    /// `relative`: to the data of the Cluster. A track that is not known has no cues.
    pub(super) fn found_block(&mut self, block: &Block, relative: u64) {
        let ticks = self.ticks(block.timestamp_ns);
        if let Some(index) = self.find(block.track) {
            self.note_block(index, block, ticks, relative);
        }
    }

    pub(super) fn has_cues(&self) -> bool {
        !self.cues.is_empty()
    }

    pub(super) fn found_end(&mut self, position: u64, has_cluster_sizes: bool) {
        self.position = position;
        self.config.cluster_sizes = has_cluster_sizes;
    }

    /// What completes the file. Changes nothing, so it can be asked for again after a failure.
    pub fn finish(&self) -> Finish {
        let layout = self.layout(true);
        Finish {
            length: self.position + layout.tail.len() as u64,
            tail: layout.tail,
            head: layout.head,
            cluster: self.cluster_patch(),
        }
    }

    fn cluster_patch(&self) -> Option<(u64, [u8; 8])> {
        self.cluster.as_ref()?.open().patch(self.position)
    }

    /// A Cluster that begins at a position.
    fn open_at(&self, position: u64, ticks: u64) -> Open {
        let data = position + CLUSTER_HEAD;
        Open { data, size_at: self.config.cluster_sizes.then_some(data - SIZE_UNKNOWN.len() as u64), ticks }
    }

    fn find(&self, number: u32) -> Option<usize> {
        let place = self.numbers.binary_search_by_key(&number, |(number, _)| *number).ok()?;
        Some(self.numbers[place].1)
    }

    /// To the nearest.
    fn ticks(&self, ns: u64) -> u64 {
        let scale = self.config.info.timestamp_scale_ns;
        ns / scale + u64::from(ns % scale >= scale.div_ceil(2))
    }

    /// Where the Segment's data begins, which is what positions in a file are counted from.
    fn segment_data(&self) -> u64 {
        EBML_HEADER_SIZE + SEGMENT_HEAD
    }

    /// Head and tail. Everything that finds room is in the head, in order of importance. What is there from the beginning stands
    /// where it will stand at the end, so that a head that was only half written over has lost nothing of it.
    fn layout(&self, is_finished: bool) -> Layout {
        let mut info = Vec::new();
        let duration_ns = is_finished.then_some(self.end_ns);
        Info { duration_ns, ..self.config.info.clone() }.encode(&mut info);
        let encode = |fill: &dyn Fn(&mut Vec<u8>)| {
            let mut bytes = Vec::new();
            fill(&mut bytes);
            bytes
        };
        let segment = self.segment_data();
        let head_size = u64::from(self.config.head_size);
        let mut room = (head_size.saturating_sub(segment + SEEK_HEAD_SIZE)) as usize;
        let mut lacks_tracks = false;
        let mut tracks = encode(&|out| self.encode_tracks(out, usize::MAX));
        if !is_finished && info.len() + tracks.len() > room {
            lacks_tracks = true;
            tracks = encode(&|out| self.encode_tracks(out, room.saturating_sub(info.len())));
        }
        let mut parts = vec![(ids::INFO, info), (ids::TRACKS, tracks)];
        parts.push((ids::TAGS, encode(&|out| info::encode_tags(&self.tags, out))));
        parts.push((ids::CHAPTERS, encode(&|out| info::encode_chapters(&self.chapters, out))));
        if is_finished {
            parts.push((ids::CUES, encode(&|out| self.cues.encode(out))));
        }

        let (mut inside, mut outside) = (Vec::new(), Vec::new());
        for (id, bytes) in parts.into_iter().filter(|(_, bytes)| !bytes.is_empty()) {
            let may_be_inside = id != ids::CUES || self.config.cues_in_head;
            if id == ids::INFO || (may_be_inside && bytes.len() <= room) {
                room = room.saturating_sub(bytes.len());
                inside.push((id, bytes));
            } else if is_finished {
                outside.push((id, bytes));
            }
        }
        let tail: Vec<u8> = outside.iter().flat_map(|(_, bytes)| bytes.iter().copied()).collect();

        let mut head = Vec::with_capacity(self.config.head_size as usize);
        self.encode_ebml_header(&mut head);
        head.id(ids::SEGMENT);
        if is_finished && self.config.cluster_sizes {
            head.put(&ebml::vint(self.position + tail.len() as u64 - segment, 8));
        } else {
            head.put(&SIZE_UNKNOWN);
        }
        let inside_size: u64 = inside.iter().map(|(_, bytes)| bytes.len() as u64).sum();
        // Nothing cannot be one octet long; then the size of the SeekHead takes it.
        let is_one_left = segment + SEEK_HEAD_SIZE + inside_size + 1 == head_size;
        let size_length = if is_one_left { 2 } else { 1 };
        head.id(ids::SEEK_HEAD);
        head.put(&ebml::vint(SEEKS * SEEK_SIZE, size_length)[..size_length]);
        let mut at = segment + SEEK_HEAD_SIZE + u64::from(is_one_left);
        for (id, bytes) in &inside {
            encode_seek(*id, at - segment, &mut head);
            at += bytes.len() as u64;
        }
        at = self.position;
        for (id, bytes) in &outside {
            encode_seek(*id, at - segment, &mut head);
            at += bytes.len() as u64;
        }
        for _ in inside.len() + outside.len()..SEEKS as usize {
            head.binary(ids::VOID, &[0; SEEK_SIZE as usize - 2]);
        }
        inside.iter().for_each(|(_, bytes)| head.put(bytes));
        if let Some(void) = head_size.checked_sub(head.len() as u64).and_then(ebml::void) {
            head.put(&void);
            head.resize(self.config.head_size as usize, 0);
        }
        Layout { head, tail, lacks_tracks }
    }

    /// As many as fit, in their order; nothing for none.
    fn encode_tracks(&self, out: &mut Vec<u8>, room: usize) {
        let mut entries = Vec::new();
        for entry in &self.tracks {
            let before = entries.len();
            entry.track.encode(&mut entries);
            if entries.len().saturating_add(TRACKS_HEAD) > room {
                entries.truncate(before);
            }
        }
        if !entries.is_empty() {
            out.binary(ids::TRACKS, &entries);
        }
    }

    /// [`EBML_HEADER_SIZE`] octets, whatever the name of the type: what it is shorter, a number is longer.
    fn encode_ebml_header(&self, out: &mut Vec<u8>) {
        let doc_type = self.doc_type();
        out.master(ids::EBML, |header| {
            header.uint(ids::EBML_VERSION, 1);
            header.uint(ids::EBML_READ_VERSION, 1);
            header.uint(ids::EBML_MAX_ID_LENGTH, ebml::ID_LENGTH_MAX as u64);
            header.uint(ids::EBML_MAX_SIZE_LENGTH, ebml::SIZE_LENGTH_MAX as u64);
            header.string(ids::DOC_TYPE, doc_type);
            header.uint_of(ids::DOC_TYPE_VERSION, 4, 1 + "matroska".len() - doc_type.len());
            header.uint(ids::DOC_TYPE_READ_VERSION, 2);
        });
    }
}

struct Layout {
    head: Vec<u8>,
    tail: Vec<u8>,
    lacks_tracks: bool,
}

/// One of fixed length, so that what it says does not move what it speaks of.
fn encode_seek(id: u32, position: u64, out: &mut Vec<u8>) {
    out.master(ids::SEEK, |seek| {
        seek.binary(ids::SEEK_ID, &id.to_be_bytes());
        seek.uint_of(ids::SEEK_POSITION, position, 8);
    });
}

/// Of every file: see [`Muxer::encode_ebml_header`].
const EBML_HEADER_SIZE: u64 = 40;
/// Id and size, as they are written; of Tracks at most.
const SEGMENT_HEAD: u64 = 12;
const CLUSTER_HEAD: u64 = 12;
const TRACKS_HEAD: usize = 8;
/// Info, Tracks, Tags, Chapters and Cues.
const SEEKS: u64 = 5;
const SEEK_SIZE: u64 = 21;
const SEEK_HEAD_SIZE: u64 = 5 + SEEKS * SEEK_SIZE;
/// A second. Larger ticks would make no sense of media.
const SCALE_MAX_NS: u64 = 1_000_000_000;
/// Between the cues of a track with sound. Players need no more than one for each Cluster to seek in sound alone.
const SOUND_CUES_NS: u64 = 1_000_000_000;
const SOUND_CUES_BESIDE_VIDEO_NS: u64 = 10_000_000_000;
