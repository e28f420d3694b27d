//! One recording while it is made: its directory, the file of the whole call, and the manifest beside it.
//!
//! What is written is in the hands of the system at once, so that a killed process loses nothing of it; when it reaches the
//! disk is up to whoever syncs [`Live::files`].

use std::collections::HashMap;
use std::collections::hash_map::Entry as Place;
use std::fs::{self, File};
use std::io::{self, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use str0m::media::MediaKind;

use super::disk::{self, Ballast};
use super::journal::Journal;
use crate::base::{UserId, rfc3339};
use crate::recording::feed::{Begin, EndReason, Item, TrackInfo};
use crate::recording::manifest::{self, Extent, Line, cut, ms, unix_ms};
use crate::recording::{Block, Description, Note, Quality, names};
use crate::webm::{self, Writer};

/// A recording that is made.
#[derive(Debug)]
pub struct Live {
    directory: PathBuf,
    writer: Writer<Output>,
    journal: Journal,
    ballast: Option<Ballast>,
    is_webm: bool,
    /// By the number of the file's track.
    extents: HashMap<u32, Extent>,
    /// The recording began at both of them.
    at: Instant,
    wall: SystemTime,
    /// Blocks that no file takes.
    refused: u64,
    /// Nothing is written any more but the end.
    is_closed: bool,
}

/// Why a recording cannot go on.
#[derive(Debug)]
pub enum Failure {
    DiskFull,
    Write(io::Error),
}

impl Failure {
    pub fn reason(&self) -> EndReason {
        match self {
            Failure::DiskFull => EndReason::DiskFull,
            Failure::Write(_) => EndReason::WriteFailed,
        }
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        if disk::is_full(&error) { Failure::DiskFull } else { Failure::Write(error) }
    }
}

/// What is left when a recording is over.
#[derive(Debug)]
pub struct Ended {
    pub journal: Journal,
    pub duration_ms: u64,
    /// Whether head and cues are in the file of the whole call. Otherwise it has to be repaired.
    pub completed: io::Result<()>,
}

impl Live {
    /// Makes directory and files. Errors are those of the disk, or that the recording is there already.
    pub fn create(root: &Path, begin: &Begin, room: Room) -> io::Result<Live> {
        let directory = disk::create_dir(root, &names::directory(&begin.room, &begin.recording))?;
        // Whoever made it first has it; what it holds is not ours.
        let journal = Journal::create(&directory, begin_line(begin))?;
        Live::create_in(&directory, begin, journal, room).inspect_err(|_| {
            for name in [names::call(true).as_str(), names::MANIFEST] {
                let _ = fs::remove_file(directory.join(name));
            }
            let _ = fs::remove_dir(&directory);
        })
    }

    fn create_in(directory: &Path, begin: &Begin, journal: Journal, room: Room) -> io::Result<Live> {
        let file = File::options().read(true).write(true).create_new(true).open(directory.join(names::call(true)))?;
        let config = webm::Config { head_size: HEAD_SIZE, info: journal.state().info(), ..webm::Config::default() };
        let writer = Writer::new(config, [], Output::new(file, room)).map_err(into_io)?;
        let ballast = Some(Ballast::create(directory)?);
        disk::sync_dir(directory);
        Ok(Live {
            directory: directory.to_owned(),
            writer,
            journal,
            ballast,
            is_webm: true,
            extents: HashMap::new(),
            at: begin.at,
            wall: begin.wall,
            refused: 0,
            is_closed: false,
        })
    }

    /// Writes what is said about the call. `at_ms`: of the file, when it happened.
    pub fn note_item(&mut self, item: &Item, at_ms: u64) -> Result<(), Failure> {
        let line = match item {
            Item::Packet(_) | Item::Arrival(_) | Item::Report(_) | Item::Finish { .. } => return Ok(()),
            Item::Joined { at, user, name, role } => Line::Joined(manifest::Joined {
                at_ms,
                wall_ms: self.wall_ms(*at),
                user: user.as_str().to_owned(),
                name: name.as_deref().map(|name| cut(name, NAME_MAX).to_owned()),
                role: (*role).to_owned(),
            }),
            Item::Left { at, user, reason } => Line::Left(manifest::Left {
                at_ms,
                wall_ms: self.wall_ms(*at),
                user: user.as_str().to_owned(),
                reason: (*reason).to_owned(),
            }),
            Item::TrackAdded { track, .. } => Line::Source(source(track, at_ms)),
            Item::TrackRemoved { track, .. } => Line::SourceEnded(manifest::SourceEnded { at_ms, source: *track }),
            Item::Muted { track, muted, .. } => Line::Muted(manifest::Muted { at_ms, source: *track, muted: *muted }),
            Item::Speakers { users, .. } => Line::Speakers(manifest::Speakers { at_ms, users: texts(users) }),
            Item::Overflow { track, packets, .. } => {
                Line::Overflow(manifest::Overflow { at_ms, source: *track, packets: *packets })
            }
            Item::Paused { at } => Line::Paused(manifest::Moment { at_ms, wall_ms: self.wall_ms(*at) }),
            Item::Resumed { at } => Line::Resumed(manifest::Moment { at_ms, wall_ms: self.wall_ms(*at) }),
        };
        self.line(&line)
    }

    pub fn note(&mut self, note: &Note) -> Result<(), Failure> {
        self.line(&match *note {
            Note::Gap { source, at_ns, duration, packets } => Line::Gap(manifest::Gap {
                at_ms: ms(at_ns),
                source,
                duration_ms: duration.as_millis().try_into().unwrap_or(u64::MAX),
                packets,
            }),
            Note::Changed { source, at_ns, size } => {
                Line::Changed(manifest::Changed { at_ms: ms(at_ns), source, size })
            }
            Note::Slewed { source, at_ns, by_ns } => {
                Line::Slewed(manifest::Slewed { at_ms: ms(at_ns), source, by_us: by_ns / 1000 })
            }
        })
    }

    pub fn note_quality(&mut self, source: u32, quality: Quality) -> Result<(), Failure> {
        match self.journal.state().origin(source) {
            Some(origin) if origin.quality != quality => {
                self.line(&Line::Quality(manifest::Measured { source, quality }))
            }
            _ => Ok(()),
        }
    }

    /// Appends blocks, and their tracks before the first of each. Those that no file takes are counted and left out.
    pub fn write(&mut self, blocks: &[Block]) -> Result<(), Failure> {
        // What stands before a track that is new is in the file before it.
        for blocks in blocks.chunk_by(|_, next| next.begins.is_none()) {
            if self.is_closed {
                return Ok(());
            }
            if let Some((block, description)) = blocks.first().and_then(|block| Some((block, block.begins.as_ref()?))) {
                self.add_track(block, description)?;
            }
            let mut refused = Vec::new();
            let payloads = blocks.iter().map(|block| (block.header(), block.payload.slices()));
            match self.writer.write_blocks(payloads, |place, _| refused.push(place)) {
                Ok(()) => {}
                Err(webm::Error::Io(error)) => return Err(self.close(error.into())),
                Err(_) => refused = (0..blocks.len()).collect(),
            }
            self.refused += refused.len() as u64;
            for (_, block) in blocks.iter().enumerate().filter(|(place, _)| refused.binary_search(place).is_err()) {
                self.note_block(block)?;
            }
        }
        Ok(())
    }

    fn note_block(&mut self, block: &Block) -> Result<(), Failure> {
        let header = block.header();
        let octets = block.payload.len() as u64;
        match self.extents.entry(block.number) {
            Place::Occupied(mut place) => place.get_mut().add(&header, octets),
            Place::Vacant(place) => {
                place.insert(Extent::of(&header, octets));
            }
        }
        match block.size {
            Some((width, height)) if self.writer.muxer_mut().note_size(block.number, width, height) => {
                let at_ms = ms(block.timestamp_ns);
                self.line(&Line::Size(manifest::Size { at_ms, track: block.number, width, height }))
            }
            _ => Ok(()),
        }
    }

    /// The manifest has it first: without it a repair would not know whose the blocks are.
    fn add_track(&mut self, block: &Block, description: &Description) -> Result<(), Failure> {
        let state = self.journal.state();
        if state.track(block.number).is_some() || state.tracks.len() >= webm::muxer::TRACKS_MAX {
            return Ok(());
        }
        let line = self.track(block, description);
        let is_webm = line.is_webm();
        self.line(&Line::Track(line))?;
        if self.is_webm && !is_webm {
            let file = names::call(false);
            let renamed = fs::rename(self.directory.join(names::call(true)), self.directory.join(&file));
            renamed.map_err(|error| self.close(error.into()))?;
            self.is_webm = false;
            self.line(&Line::Renamed(manifest::Renamed { file }))?;
        }
        let state = self.journal.state();
        let (tags, chapters) = (state.tags(), state.chapters());
        // As a repair would make it, the first of its kind being what is played.
        let Some(track) = state.webm_tracks().pop().filter(|track| track.number == block.number) else {
            return Ok(());
        };
        self.writer.muxer_mut().set_tags(tags);
        self.writer.muxer_mut().set_chapters(chapters);
        match self.writer.add_track(track) {
            Err(webm::Error::Io(error)) => Err(self.close(error.into())),
            // Its blocks are refused as well.
            Ok(()) | Err(_) => Ok(()),
        }
    }

    fn track(&self, block: &Block, description: &Description) -> manifest::Track {
        let state = self.journal.state();
        let origin = state.origin(block.source);
        let user = origin.map_or("unknown", |origin| &origin.source.user);
        let source = origin.map_or("unknown", |origin| &origin.source.source);
        let name = format!("{} ({})", cut(state.display_name(user), NAME_MAX), source.replace('-', " "));
        let recording = state.begin.as_ref().map_or("", |begin| &begin.recording);
        let mut track = manifest::Track {
            at_ms: ms(block.timestamp_ns),
            number: block.number,
            uid: uid(recording, block.number),
            source_number: block.source,
            user: user.to_owned(),
            role: state.role(user).to_owned(),
            source: source.to_owned(),
            name,
            codec: String::new(),
            private: String::new(),
            size: None,
            sound: None,
            codec_delay_ns: 0,
            seek_pre_roll_ns: 0,
            default_duration_ns: None,
        };
        track.describe(description);
        track
    }

    /// Completes the file: head, cues, tags, chapters. Nothing is lost when that fails; a repair does it later.
    pub fn end(mut self, reason: EndReason, wall: SystemTime) -> Ended {
        // From here on the room that was set aside is needed.
        self.ballast = None;
        self.is_closed = true;
        let duration_ms = ms(self.writer.muxer().duration_ns());
        let mut extents: Vec<Extent> = self.extents.values().copied().collect();
        extents.sort_by_key(|extent| extent.track);
        let end = manifest::End {
            wall_ms: unix_ms(wall),
            reason: reason.as_str().to_owned(),
            duration_ms,
            size: self.writer.muxer().position(),
        };
        let mut lines = extents.into_iter().map(Line::Extent).chain([Line::End(end)]);
        let written = lines.try_for_each(|line| self.journal.write(&line));
        let state = self.journal.state();
        let (tags, chapters) = (state.tags(), state.chapters());
        self.writer.muxer_mut().set_tags(tags);
        self.writer.muxer_mut().set_chapters(chapters);
        if self.refused > 0 {
            tracing::warn!(directory = %self.directory.display(), blocks = self.refused, "blocks that no file takes");
        }
        let completed = self.writer.finish().map_err(into_io).and_then(|length| {
            // After a write that failed there may be more than was meant.
            self.writer.get_ref().file.set_len(length)
        });
        Ended { journal: self.journal, duration_ms, completed: completed.and(written) }
    }

    /// Numbers of the tracks of the call that are there.
    pub fn sources(&self) -> Vec<u32> {
        let there = self.journal.state().sources.iter().filter(|origin| origin.ended_ms.is_none());
        there.map(|origin| origin.source.number).collect()
    }

    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// To the end of the last block.
    pub fn duration_ms(&self) -> u64 {
        ms(self.writer.muxer().duration_ns())
    }

    /// Octets of the file of the whole call.
    pub fn size(&self) -> u64 {
        self.writer.muxer().position()
    }

    /// Octets of it that do not change any more, but for its head.
    pub fn stable_len(&self) -> u64 {
        self.writer.muxer().stable_len()
    }

    /// The file of the whole call, as it is called at the moment.
    pub fn name(&self) -> String {
        names::call(self.is_webm)
    }

    /// What has to reach the disk, in this order.
    pub fn files(&self) -> [Arc<File>; 2] {
        [self.writer.get_ref().file.clone(), self.journal.file().clone()]
    }

    fn line(&mut self, line: &Line) -> Result<(), Failure> {
        if self.is_closed {
            return Ok(());
        }
        self.journal.write(line).map_err(|error| self.close(error.into()))
    }

    fn close(&mut self, failure: Failure) -> Failure {
        self.is_closed = true;
        failure
    }

    fn wall_ms(&self, at: Instant) -> u64 {
        unix_ms(self.wall + at.saturating_duration_since(self.at))
    }
}

fn begin_line(begin: &Begin) -> manifest::Begin {
    manifest::Begin {
        version: manifest::VERSION,
        recording: begin.recording.as_str().to_owned(),
        call: begin.room.as_str().to_owned(),
        started: rfc3339(begin.wall),
        started_ms: unix_ms(begin.wall),
        by: begin.by.as_ref().map(|user| user.as_str().to_owned()),
        audio_only: begin.audio_only,
        participants: begin.participants.as_deref().map(texts),
        head_size: HEAD_SIZE,
    }
}

fn source(track: &TrackInfo, at_ms: u64) -> manifest::Source {
    manifest::Source {
        at_ms,
        number: track.number,
        id: track.id.to_string(),
        user: track.user.as_str().to_owned(),
        is_video: track.kind == MediaKind::Video,
        source: track.source.to_owned(),
        name: track.name.as_deref().map(|name| cut(name, NAME_MAX).to_owned()),
    }
}

fn texts(users: &[UserId]) -> Vec<String> {
    users.iter().take(USERS_MAX).map(|user| user.as_str().to_owned()).collect()
}

/// What tags refer to: the same whoever makes it, unlike that of any other track.
pub fn uid(name: &str, number: u32) -> u64 {
    let mut sha = openssl::sha::Sha256::new();
    sha.update(name.as_bytes());
    sha.update(&number.to_be_bytes());
    let hash = sha.finish();
    let [a, b, c, d, e, f, g, h, ..] = hash;
    u64::from_be_bytes([a, b, c, d, e, f, g, h]).max(1)
}

/// As an error of the world.
pub fn into_io(error: webm::Error) -> io::Error {
    match error {
        webm::Error::Io(error) => error,
        other => io::Error::other(other),
    }
}

/// A file that is written, on which somebody else may have a hand as well, to sync it.
#[derive(Debug)]
pub struct Output {
    file: Arc<File>,
    room: Room,
}

impl Output {
    pub fn new(file: File, room: Room) -> Output {
        Output { file: Arc::new(file), room }
    }

    pub fn file(&self) -> &Arc<File> {
        &self.file
    }
}

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let bytes = &bytes[..self.room.take(bytes.len())?];
        (&*self.file).write(bytes)
    }

    fn write_vectored(&mut self, slices: &[io::IoSlice<'_>]) -> io::Result<usize> {
        let size = slices.iter().map(|slice| slice.len()).sum();
        match self.room.take(size)? {
            room if room == size => (&*self.file).write_vectored(slices),
            room => (&*self.file).write(slices.first().map_or(&[], |slice| &slice[..room.min(slice.len())])),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Seek for Output {
    fn seek(&mut self, position: SeekFrom) -> io::Result<u64> {
        (&*self.file).seek(position)
    }
}

/// How much a disk takes; a test has one that is as small as it wants.
#[derive(Debug, Clone, Default)]
pub struct Room {
    #[cfg(test)]
    pub left: Option<Arc<std::sync::atomic::AtomicUsize>>,
}

impl Room {
    #[cfg(not(test))]
    #[inline]
    fn take(&self, size: usize) -> io::Result<usize> {
        Ok(size)
    }

    /// At least one octet, or the disk is full.
    #[cfg(test)]
    fn take(&self, size: usize) -> io::Result<usize> {
        use std::sync::atomic::Ordering::Relaxed;
        let Some(left) = &self.left else { return Ok(size) };
        let taken = left.load(Relaxed).min(size);
        left.fetch_sub(taken, Relaxed);
        if taken == 0 && size > 0 { Err(io::ErrorKind::StorageFull.into()) } else { Ok(taken) }
    }
}

/// Room for 200 tracks; what does not fit goes to the end when the recording does.
pub const HEAD_SIZE: u32 = 64 * 1024;
/// Octets of names of people and tracks; with what is appended they fit into a track's name.
const NAME_MAX: usize = 512;
/// Of lists in a line. A room has fewer.
const USERS_MAX: usize = 1000;

#[cfg(test)]
mod tests;
