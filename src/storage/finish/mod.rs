//! What is made of a recording after its end: files of participants, captions, a poster, hashes, and `metadata.json` at last.
//!
//! Everything is read once and written once. A file has its name only when all of it is there, and `metadata.json` only when
//! everything else is; so whoever is stopped anywhere can begin again, and makes the same.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use super::disk;
use super::journal::Journal;
use super::live::{self, Room, into_io, uid};
use super::parts::{Lane, Part, parts};
use super::poster::Poster;
use super::repair::Work;
use super::source::Hashing;
use crate::recording::library::{Entry, FileEntry, FileKind, MediaSummary, Status, TrackSummary};
use crate::recording::manifest::{Extent, Finished, Line, NS_PER_MS, State, Track};
use crate::recording::metadata::{self, Metadata};
use crate::recording::{Quality, names, speakers};
use crate::webm::{self, Event, Reader, Writer};

/// A recording whose file of the whole call is complete.
pub struct Finish<'a, 'w> {
    pub directory: &'a Path,
    pub journal: &'a mut Journal,
    /// Of the file of the whole call, in order of the tracks.
    pub extents: &'a [Extent],
    pub duration_ms: u64,
    pub recovered: bool,
    pub work: &'a mut Work<'w>,
}

/// Why a recording is not finished.
#[derive(Debug)]
pub enum Error {
    /// There is no time for it.
    Cancelled,
    /// The manifest does not say what it is of.
    Manifest,
    Io(io::Error),
}

impl From<io::Error> for Error {
    fn from(error: io::Error) -> Self {
        Error::Io(error)
    }
}

impl From<webm::Error> for Error {
    fn from(error: webm::Error) -> Self {
        Error::Io(into_io(error))
    }
}

impl std::fmt::Display for Error {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Error::Cancelled => f.write_str("the server stops"),
            Error::Manifest => f.write_str("the manifest does not say what it is of"),
            Error::Io(error) => error.fmt(f),
        }
    }
}

/// Of a recording without media, and of one whose media never reached the disk.
pub const NO_MEDIA: &str = "no media was received";
pub const NOTHING_LEFT: &str = "nothing of what was received has reached the disk";

/// Makes all files. The entry is [`Status::Completed`], or [`Status::Failed`] where there is nothing to complete.
///
/// When the disk has no room for files of participants, the recording is completed without them, and says so; another try
/// makes them.
pub fn finish(mut work: Finish<'_, '_>) -> Result<Entry, Error> {
    let mut entry = metadata::entry(work.journal.state()).ok_or(Error::Manifest)?;
    disk::remove_temporaries(work.directory)?;
    entry.recovered = work.recovered;
    entry.duration_ms = work.duration_ms;
    entry.ended.get_or_insert(metadata::ended_at_least(work.journal.state(), work.duration_ms));
    entry.progress = 1.0;
    let mut incomplete = false;
    let mut tracks = Vec::new();
    if work.extents.is_empty() {
        entry.status = Status::Failed;
        let is_lost = !work.journal.state().tracks.is_empty();
        entry.error = Some(if is_lost { NOTHING_LEFT } else { NO_MEDIA }.into());
    } else {
        entry.status = Status::Completed;
        tracks = summaries(work.journal.state(), work.extents);
        incomplete = media(&mut work, &mut entry, &tracks)?;
        if incomplete {
            entry.error = Some("the disk has no room for files of participants".into());
        }
    }
    let captions = speakers::captions(work.journal.state(), work.duration_ms);
    if !captions.is_empty() {
        entry.files.push(small(work.directory, names::CAPTIONS, FileKind::Captions, captions.as_bytes())?);
    }
    close(work, &mut entry, incomplete, &tracks)?;
    Ok(entry)
}

/// The call's file is read, those of participants are written. Whether there was no room for those.
fn media(work: &mut Finish<'_, '_>, entry: &mut Entry, tracks: &[TrackSummary]) -> Result<bool, Error> {
    let call =
        call_file(work.directory, work.journal.state()).ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))?;
    let name = call.file_name().and_then(|name| name.to_str()).unwrap_or_default().to_owned();
    let state = work.journal.state().clone();
    let parts = parts(&state, work.extents);
    let mut made = Made::default();
    // As much again as there is, and what stands around it.
    let octets: u64 = work.extents.iter().map(|extent| extent.octets + extent.blocks * BLOCK_HEAD_SIZE).sum();
    let mut is_full = !(work.work.may_take)(octets);
    let batches = parts.chunks(OUTPUTS_MAX);
    let count = batches.len().max(1);
    for (index, batch) in batches.enumerate() {
        if is_full {
            break;
        }
        let Work { progress, cancel, room, .. } = &mut *work.work;
        let mut tell = |part: f32| progress(&entry.recording, (index as f32 + part) / count as f32);
        let mut pass =
            Pass { directory: work.directory, state: &state, call: &call, progress: &mut tell, cancel, room };
        match pass.run(batch, work.extents, index == 0, &mut made) {
            Ok(()) => {}
            Err(Error::Io(error)) if disk::is_full(&error) => is_full = true,
            Err(error) => return Err(error),
        }
        if is_full {
            disk::remove_temporaries(work.directory)?;
        }
    }
    let (size, sha256) = match made.call.take() {
        Some(call) => call,
        None => hash(&call, work.work.cancel)?,
    };
    let is_webm = name == names::call(true);
    let media = MediaSummary { duration_ms: work.duration_ms, tracks: tracks.to_vec() };
    let content_type = names::content_type(is_webm).to_owned();
    let file = metadata::file(&name, FileKind::Call, size, sha256);
    entry.files.push(FileEntry { content_type, media: Some(media), ..file });
    entry.files.append(&mut made.files);
    if let Some(poster) = made.poster.and_then(Poster::into_file) {
        match small(work.directory, names::POSTER, FileKind::Poster, &poster) {
            Ok(file) => entry.files.push(file),
            Err(error) if disk::is_full(&error) => is_full = true,
            Err(error) => return Err(error.into()),
        }
    }
    Ok(is_full)
}

/// The manifest says that all is there, then `metadata.json` does.
fn close(work: Finish<'_, '_>, entry: &mut Entry, incomplete: bool, tracks: &[TrackSummary]) -> Result<(), Error> {
    if work.work.cancel.load(Ordering::Relaxed) {
        return Err(Error::Cancelled);
    }
    let finished = (Finished { recovered: entry.recovered }, entry.files.clone());
    if work.journal.state().finished.as_ref() != Some(&finished) {
        for file in &entry.files {
            work.journal.write(&Line::File(file.clone()))?;
        }
        work.journal.write(&Line::Finished(finished.0))?;
        work.journal.sync()?;
    }
    let (size, sha256) = hash(&work.directory.join(names::MANIFEST), work.work.cancel)?;
    entry.files.push(metadata::file(names::MANIFEST, FileKind::Manifest, size, sha256));
    let bytes = metadata::encode(&Metadata::of(entry, incomplete), work.journal.state(), tracks);
    entry.files.push(small(work.directory, names::METADATA, FileKind::Metadata, &bytes)?);
    entry.size = entry.files.iter().map(|file| file.size).sum();
    Ok(())
}

/// The file of the whole call: as the manifest calls it, or else whichever is there.
pub fn call_file(directory: &Path, state: &State) -> Option<PathBuf> {
    let names = state.file.iter().cloned().chain([names::call(true), names::call(false)]);
    names.map(|name| directory.join(name)).find(|path| path.is_file())
}

fn small(directory: &Path, name: &str, kind: FileKind, bytes: &[u8]) -> io::Result<FileEntry> {
    disk::write_whole(directory, name, bytes)?;
    Ok(metadata::file(name, kind, bytes.len() as u64, names::hex(&openssl::sha::sha256(bytes))))
}

fn hash(path: &Path, cancel: &AtomicBool) -> Result<(u64, String), Error> {
    disk::hash(path, |_| !cancel.load(Ordering::Relaxed)).map_err(|error| match error.kind() {
        io::ErrorKind::Interrupted => Error::Cancelled,
        _ => Error::Io(error),
    })
}

/// What is said of each track of the call's file.
fn summaries(state: &State, extents: &[Extent]) -> Vec<TrackSummary> {
    let tracks = extents.iter().filter_map(|extent| Some((extent, state.track(extent.track)?)));
    tracks.map(|(extent, track)| summary(state, track, track.number, extent)).collect()
}

fn summary(state: &State, track: &Track, number: u32, extent: &Extent) -> TrackSummary {
    TrackSummary {
        number,
        participant: track.user.clone(),
        source: track.source.clone(),
        codec: track.codec_name().to_owned(),
        width: track.size.map(|(width, _)| width),
        height: track.size.map(|(_, height)| height),
        start_offset_ms: extent.start_ms,
        duration_ms: extent.end_ms - extent.start_ms,
        quality: state.origin(track.source_number).map(|origin| origin.quality).unwrap_or_default(),
    }
}

/// What passes over the file have made so far.
#[derive(Default)]
struct Made {
    /// Size and hash of the call's file.
    call: Option<(u64, String)>,
    poster: Option<Poster>,
    files: Vec<FileEntry>,
}

/// One pass over the call's file, with all outputs of a batch open.
struct Pass<'a> {
    directory: &'a Path,
    state: &'a State,
    call: &'a Path,
    /// Told from 0 to 1.
    progress: &'a mut dyn FnMut(f32),
    cancel: &'a AtomicBool,
    room: &'a Room,
}

impl Pass<'_> {
    fn run(&mut self, parts: &[Part], extents: &[Extent], is_first: bool, made: &mut Made) -> Result<(), Error> {
        let mut outputs: Vec<Output> = Vec::with_capacity(parts.len());
        for part in parts {
            outputs.push(Output::create(self.directory, self.state, part, self.room)?);
        }
        self.copy(parts, &mut outputs, is_first, made)?;
        let total: u64 = outputs.iter().map(|output| output.writer.muxer().position()).sum();
        let mut hashed = 0;
        for (part, output) in parts.iter().zip(outputs) {
            let (path, name) = (output.path.clone(), &part.name);
            let duration_ms = output.finish()?;
            let (size, sha256) = disk::hash(&path, |octets| {
                hashed += octets;
                (self.progress)(COPY_SHARE + (1.0 - COPY_SHARE) * (hashed as f32 / total.max(1) as f32).min(1.0));
                !self.cancel.load(Ordering::Relaxed)
            })
            .map_err(|error| match error.kind() {
                io::ErrorKind::Interrupted => Error::Cancelled,
                _ => Error::Io(error),
            })?;
            fs::rename(&path, self.directory.join(name))?;
            made.files.push(self.file(part, extents, duration_ms, size, sha256));
        }
        disk::sync_dir(self.directory);
        Ok(())
    }

    fn copy(&mut self, parts: &[Part], outputs: &mut [Output], is_first: bool, made: &mut Made) -> Result<(), Error> {
        let mut routes: HashMap<u32, Route> = HashMap::new();
        for (output, part) in parts.iter().enumerate() {
            for lane in part.lanes() {
                let is_video = part.video.as_ref() == Some(lane);
                let route = Route { output, number: lane.number, waits: is_video };
                routes.extend(lane.tracks.iter().map(|track| (*track, route)));
            }
        }
        let file = File::open(self.call)?;
        let mut reader = Reader::new(Hashing::new(file, is_first), webm::reader::Limits::default())?;
        let length = reader.length().max(1);
        let mut payload = Vec::new();
        let mut poster = is_first.then(Poster::default);
        let mut blocks = 0u64;
        while let Some(event) = reader.next_event()? {
            let Event::Block(found) = event else { continue };
            blocks += 1;
            if blocks.is_multiple_of(TELL_EVERY) {
                if self.cancel.load(Ordering::Relaxed) {
                    return Err(Error::Cancelled);
                }
                (self.progress)(COPY_SHARE * (found.element.start as f32 / length as f32));
            }
            let Some(route) = routes.get_mut(&found.block.track) else { continue };
            // Whatever a part begins with, it can be decoded.
            if route.waits && !found.block.is_keyframe {
                continue;
            }
            route.waits = false;
            reader.read_payload(&found, &mut payload)?;
            if let Some(poster) = &mut poster
                && self.state.track(found.block.track).is_some_and(|track| track.codec_name() == "vp8")
            {
                poster.offer(found.block.timestamp_ns, found.block.is_keyframe, &payload);
            }
            let block = webm::Block { track: route.number, ..found.block };
            outputs[route.output].writer.write_block(&block, [payload.as_slice()])?;
        }
        if is_first {
            made.call = reader.into_inner().finish()?;
            made.poster = poster;
        }
        Ok(())
    }

    fn file(&self, part: &Part, extents: &[Extent], duration_ms: u64, size: u64, sha256: String) -> FileEntry {
        let of = |number: u32| extents.iter().find(|extent| extent.track == number);
        let lane = |lane: &Lane| {
            let first = of(*lane.tracks.first()?)?;
            let last = lane.tracks.last().copied().and_then(of)?;
            let track = merged(self.state, lane)?;
            let summary = summary(self.state, &track, lane.number, &Extent { end_ms: last.end_ms, ..*first });
            Some(TrackSummary { quality: quality(self.state, lane), ..summary })
        };
        let media = MediaSummary { duration_ms, tracks: part.lanes().filter_map(lane).collect() };
        let file = metadata::file(&part.name, FileKind::Participant, size, sha256);
        FileEntry {
            content_type: names::content_type(part.is_webm).to_owned(),
            participant: Some(part.user.clone()),
            media: Some(media),
            ..file
        }
    }
}

/// Where blocks of a track go.
#[derive(Debug, Clone, Copy)]
struct Route {
    output: usize,
    number: u32,
    /// For a key frame.
    waits: bool,
}

/// A participant's file while it is written.
struct Output {
    writer: Writer<live::Output>,
    path: PathBuf,
}

impl Output {
    fn create(directory: &Path, state: &State, part: &Part, room: &Room) -> Result<Output, Error> {
        let recording = state.begin.as_ref().map_or("", |begin| &begin.recording);
        let name = state.display_name(&part.user);
        let mut info = state.info();
        let what = if part.is_screen { " (screen)" } else { "" };
        info.title = format!("{}: {name}{what}", info.title);
        let mut tracks = Vec::new();
        let mut tags = Vec::new();
        for lane in part.lanes() {
            let Some(track) = merged(state, lane) else { continue };
            let uid = uid(&format!("{recording}/{}", part.name), lane.number);
            tags.push(track.tag(uid));
            let track = Track { number: lane.number, uid, ..track };
            tracks.extend(track.to_webm(true));
        }
        let config = webm::Config { head_size: head_size(part), info, cues_in_head: true, ..webm::Config::default() };
        let path = disk::temporary(directory, &part.name);
        let file = File::options().read(true).write(true).create(true).truncate(true).open(&path)?;
        let mut writer = Writer::new(config, tracks, live::Output::new(file, room.clone()))?;
        writer.muxer_mut().set_tags(tags);
        Ok(Output { writer, path })
    }

    /// Milliseconds of it.
    fn finish(mut self) -> Result<u64, Error> {
        let length = self.writer.finish()?;
        let duration_ms = self.writer.muxer().duration_ns() / NS_PER_MS;
        let file = self.writer.get_ref().file();
        file.set_len(length)?;
        file.sync_all()?;
        Ok(duration_ms)
    }
}

/// The first track of a lane, as large as the largest.
fn merged(state: &State, lane: &Lane) -> Option<Track> {
    let mut tracks = lane.tracks.iter().filter_map(|number| state.track(*number));
    let mut first = tracks.next()?.clone();
    for (width, height) in tracks.filter_map(|track| track.size) {
        if let Some(size) = &mut first.size {
            *size = (size.0.max(width), size.1.max(height));
        }
    }
    Some(first)
}

/// Of all sources of a lane together; one that has several tracks counts once.
fn quality(state: &State, lane: &Lane) -> Quality {
    let mut sources: Vec<u32> =
        lane.tracks.iter().filter_map(|number| state.track(*number)).map(|track| track.source_number).collect();
    sources.dedup();
    let qualities = sources.into_iter().filter_map(|source| state.origin(source)).map(|origin| origin.quality);
    let sum = |a: Quality, b: Quality| Quality {
        packets: a.packets.saturating_add(b.packets),
        lost: a.lost.saturating_add(b.lost),
        recovered: a.recovered.saturating_add(b.recovered),
        frames: a.frames.saturating_add(b.frames),
        dropped: a.dropped.saturating_add(b.dropped),
        gaps: a.gaps.saturating_add(b.gaps),
        keyframes: a.keyframes.saturating_add(b.keyframes),
        keyframe_interval_ms: a.keyframe_interval_ms.max(b.keyframe_interval_ms),
        drift_ppm: if a.drift_ppm.unsigned_abs() > b.drift_ppm.unsigned_abs() { a.drift_ppm } else { b.drift_ppm },
    };
    qualities.reduce(sum).unwrap_or_default()
}

/// Room for the cues in front, so that a browser need not look for them at the end.
fn head_size(part: &Part) -> u32 {
    let seconds = |lane: &Lane| lane.end_ms / 1000 + 1;
    let cues = match (&part.video, &part.sound) {
        (Some(video), sound) => video.keyframes + sound.as_ref().map_or(0, |sound| seconds(sound) / 10 + 1),
        (None, Some(sound)) => seconds(sound),
        (None, None) => 0,
    };
    (HEAD_SIZE_MIN + cues.saturating_mul(CUE_SIZE)).min(HEAD_SIZE_MAX) as u32
}

/// Octets of a block beside its payload, with its part of cues and Clusters; a few more than it is.
const BLOCK_HEAD_SIZE: u64 = 12;
/// Files that are open at once: a system lets a process have a thousand, and sockets are wanted as well.
const OUTPUTS_MAX: usize = 256;
/// Blocks between two looks at whether to go on.
const TELL_EVERY: u64 = 4096;
/// Of the whole work; hashing what was written is the rest.
const COPY_SHARE: f32 = 0.75;
/// Octets of a head without cues: texts of people are short, but may be 2 KiB altogether.
const HEAD_SIZE_MIN: u64 = 8 * 1024;
const HEAD_SIZE_MAX: u64 = 4 * 1024 * 1024;
/// Of a cue of its own.
const CUE_SIZE: u64 = 32;

#[cfg(test)]
mod tests;
