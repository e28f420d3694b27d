//! Completes what a crash cut off, and finds again what a lost database has known.
//!
//! A directory with a manifest and without `metadata.json` is unfinished. Every whole block of the file of the call stays, head
//! and cues are made again out of file and manifest, then everything goes as after a stop. No file of a recording is deleted.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, Read, SeekFrom};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use super::disk;
use super::finish::{Error, Finish, call_file, finish};
use super::journal::{Journal, OpenError};
use super::live::Room;
use super::upload::sidecar;
use crate::base::{RecordingId, RoomId};
use crate::recording::library::{Entry, Status};
use crate::recording::manifest::{self, Extent, Line, ms};
use crate::recording::metadata::{self, Metadata};
use crate::recording::{Description, names};
use crate::webm::repair::{self, Known, Scan};
use crate::webm::{self, Event, Media, Muxer, Reader, Tag};

/// What became of a directory.
#[derive(Debug)]
pub struct Report {
    /// Below the root.
    pub directory: PathBuf,
    pub outcome: Outcome,
    /// What is known of the recording, if anything.
    pub entry: Option<Entry>,
}

#[derive(Debug, PartialEq, Eq)]
pub enum Outcome {
    /// There was nothing to do.
    Complete,
    /// It is complete again.
    Repaired,
    /// Somebody else is at it: it is being recorded, or repaired.
    InUse,
    /// There is no time for it.
    Cancelled,
    /// Nothing was changed, or not all; the reason, for people.
    Failed(String),
}

/// What is told, and asked, while a recording is repaired.
pub struct Work<'a> {
    /// Told that there is something to do, before it is done.
    pub begins: &'a mut dyn FnMut(&Entry),
    /// From 0 to 1.
    pub progress: &'a mut dyn FnMut(&RecordingId, f32),
    pub cancel: &'a AtomicBool,
    /// Whether so many octets may be taken from the disk. What runs must not end because of what is made of others.
    pub may_take: &'a dyn Fn(u64) -> bool,
    /// See there.
    pub room: &'a Room,
}

/// Repairs whatever is below a root. `on_report` hears of each as it is done.
///
/// Errors: the root cannot be read. What is wrong with a recording is in its report.
pub fn repair_all(root: &Path, mut on_report: impl FnMut(&Report)) -> io::Result<Vec<Report>> {
    let cancel = AtomicBool::new(false);
    let mut reports = Vec::new();
    for directory in directories(root)? {
        let may_take = |octets| disk::free(root).map_or(true, |free| free >= octets);
        let mut work = Work {
            begins: &mut |_| {},
            progress: &mut |_, _| {},
            cancel: &cancel,
            may_take: &may_take,
            room: &Room::default(),
        };
        let report = repair(root, &directory, &mut work);
        on_report(&report);
        reports.push(report);
    }
    Ok(reports)
}

/// What is below a root, without changing anything. Of what is unfinished there is what its manifest says; of what never began,
/// nothing.
pub fn list(root: &Path) -> io::Result<Vec<Report>> {
    let look = |directory: PathBuf| match complete_entry(root, &directory) {
        Some((entry, _)) => Report { directory, outcome: Outcome::Complete, entry: Some(entry) },
        None => match Journal::open(&root.join(&directory)) {
            Ok(journal) => {
                let outcome = Outcome::Failed("it is not finished; it can be repaired".into());
                Report { directory, outcome, entry: metadata::entry(journal.state()) }
            }
            Err(error) => unopened(root, directory, error),
        },
    };
    let reports = directories(root)?.into_iter().map(look);
    Ok(reports.filter(|report| report.outcome != Outcome::Complete || report.entry.is_some()).collect())
}

/// `<callId>/<recordingId>` of all that are called so, in order. Nothing else is looked at.
pub fn directories(root: &Path) -> io::Result<Vec<PathBuf>> {
    let below = |directory: &Path| -> io::Result<Vec<String>> {
        let names = fs::read_dir(directory)?.filter_map(Result::ok);
        let names = names.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
        Ok(names.filter_map(|entry| entry.file_name().into_string().ok()).collect())
    };
    let mut found = Vec::new();
    let calls = match below(root) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
        calls => calls?,
    };
    for call in calls.into_iter().filter(|call| RoomId::new(call).is_ok()) {
        // One that cannot be read hides no other.
        let recordings = below(&root.join(&call)).unwrap_or_default();
        let recordings = recordings.iter().filter(|name| RecordingId::parse(name).is_some());
        found.extend(recordings.map(|recording| Path::new(&call).join(recording)));
    }
    found.sort();
    Ok(found)
}

/// One of [`directories`].
pub fn repair(root: &Path, directory: &Path, work: &mut Work<'_>) -> Report {
    let before = complete_entry(root, directory);
    let was_recovered = before.as_ref().map(|(entry, _)| entry.recovered);
    let directory = directory.to_owned();
    if let Some((entry, false)) = before {
        return Report { directory, outcome: Outcome::Complete, entry: Some(entry) };
    }
    let journal = match Journal::open(&root.join(&directory)) {
        Ok(journal) => journal,
        Err(error) => return unopened(root, directory, error),
    };
    let Some(entry) = metadata::entry(journal.state()).filter(|entry| entry.directory == directory) else {
        let outcome = Outcome::Failed("its manifest is not of this recording".into());
        return Report { directory, outcome, entry: None };
    };
    (work.begins)(&entry);
    // What was only incomplete has not crashed.
    let is_recovered = was_recovered.unwrap_or(true);
    match complete(&root.join(&directory), journal, false, is_recovered, work) {
        Ok(entry) => Report { directory, outcome: Outcome::Repaired, entry: Some(entry) },
        Err(Error::Cancelled) => Report { directory, outcome: Outcome::Cancelled, entry: Some(entry) },
        Err(error) => {
            let error = error.to_string();
            let entry = Entry { status: Status::Failed, error: Some(error.clone()), recovered: true, ..entry };
            Report { directory, outcome: Outcome::Failed(error), entry: Some(entry) }
        }
    }
}

/// Makes all of a recording whose journal one has. `is_whole`: its file of the call has head and cues already.
pub fn complete(
    directory: &Path,
    mut journal: Journal,
    is_whole: bool,
    recovered: bool,
    work: &mut Work<'_>,
) -> Result<Entry, Error> {
    // What was set aside for the end is needed now: the disk may be full.
    disk::remove_temporaries(directory)?;
    let (extents, duration_ms) = match (is_whole, &journal.state().end) {
        (true, Some(end)) => {
            let duration_ms = end.duration_ms;
            if let Some(path) = call_file(directory, journal.state()) {
                File::open(path)?.sync_all()?;
            }
            (journal.state().extents.clone(), duration_ms)
        }
        _ => mend(directory, &mut journal)?,
    };
    let before = journal.state().finished.as_ref().is_some_and(|(finished, _)| finished.recovered);
    let recovered = recovered || before;
    finish(Finish { directory, journal: &mut journal, extents: &extents, duration_ms, recovered, work })
}

/// What `metadata.json` says, and whether something is still to be made.
fn complete_entry(root: &Path, directory: &Path) -> Option<(Entry, bool)> {
    let path = root.join(directory).join(names::METADATA);
    let mut bytes = Vec::new();
    File::open(path).ok()?.take(METADATA_MAX).read_to_end(&mut bytes).ok()?;
    let metadata: Metadata = serde_json::from_slice(&bytes).ok()?;
    let sha256 = names::hex(&openssl::sha::sha256(&bytes));
    let mut entry = metadata.to_entry(bytes.len() as u64, sha256)?;
    sidecar::apply(&root.join(directory), &mut entry);
    (entry.directory == directory).then_some((entry, metadata.incomplete))
}

fn unopened(root: &Path, directory: PathBuf, error: OpenError) -> Report {
    let outcome = match error {
        OpenError::Locked => Outcome::InUse,
        OpenError::Io(error) if error.kind() == io::ErrorKind::NotFound && never_began(&root.join(&directory)) => {
            Outcome::Complete
        }
        OpenError::Io(error) => Outcome::Failed(format!("its manifest cannot be read: {error}")),
    };
    Report { directory, outcome, entry: None }
}

/// Somebody was killed, or is just about, to make the first file of it. It is left alone, since that may be somebody who lives.
fn never_began(directory: &Path) -> bool {
    let is_temporary = |name: &OsStr| name.as_bytes().ends_with(names::TEMPORARY.as_bytes());
    fs::read_dir(directory)
        .is_ok_and(|mut entries| entries.all(|entry| entry.is_ok_and(|entry| is_temporary(&entry.file_name()))))
}

/// Completes the file of the call in place. Where the blocks of its tracks are, and milliseconds of it; nothing and 0 when not
/// a single one is there.
fn mend(directory: &Path, journal: &mut Journal) -> Result<(Vec<Extent>, u64), Error> {
    let Some(path) = call_file(directory, journal.state()) else { return Ok((Vec::new(), 0)) };
    let mut file = File::options().read(true).write(true).open(&path)?;
    let Some(mended) = mend_file(&mut file, journal)? else { return Ok((Vec::new(), 0)) };
    file.sync_all()?;
    let is_webm = journal.state().tracks.iter().all(manifest::Track::is_webm);
    let name = names::call(is_webm);
    if path != directory.join(&name) {
        fs::rename(&path, directory.join(&name))?;
        disk::sync_dir(directory);
    }
    if journal.state().file.as_ref().is_none_or(|file| *file != name) && !is_webm {
        journal.write(&Line::Renamed(manifest::Renamed { file: name }))?;
    }
    Ok(mended)
}

/// `None`: there is not a single block.
fn mend_file<F: repair::File>(file: &mut F, journal: &mut Journal) -> Result<Option<(Vec<Extent>, u64)>, Error> {
    adopt(file, journal)?;
    let mut extents = BTreeMap::new();
    let scan = match scan(file, journal, &mut extents) {
        Err(webm::Error::NotMatroska) if has_blocks(file, journal)? => {
            restore_head(file, journal)?;
            scan(file, journal, &mut extents)
        }
        scan => scan,
    };
    let scan = match scan {
        Ok(scan) => scan,
        Err(webm::Error::NoBlocks) => return Ok(None),
        // Killed before there was anything.
        Err(webm::Error::NotMatroska) if is_shorter_than_head(file, journal)? => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    if !scan.is_finished {
        scan.plan().apply(file)?;
    }
    Ok(Some((extents.into_values().collect(), ms(scan.duration_ns()))))
}

fn scan<F: repair::File>(
    file: &mut F,
    journal: &Journal,
    extents: &mut BTreeMap<u32, Extent>,
) -> Result<Scan, webm::Error> {
    let state = journal.state();
    let known = Known {
        info: Some(state.info()),
        tracks: state.webm_tracks(),
        tags: state.tags(),
        chapters: state.chapters(),
        head_size: state.begin.as_ref().map(|begin| begin.head_size),
        ..Known::default()
    };
    extents.clear();
    repair::scan(file, known, |found| {
        let octets = found.payload.end - found.payload.start;
        let extent = extents.entry(found.block.track);
        extent
            .and_modify(|extent| extent.add(&found.block, octets))
            .or_insert_with(|| Extent::of(&found.block, octets));
    })
}

/// Tracks that the file's head has and the manifest has lost, as when the power went between the two.
fn adopt<F: repair::File>(file: &mut F, journal: &mut Journal) -> Result<(), Error> {
    let mut reader = match Reader::new(&mut *file, webm::reader::Limits::default()) {
        Ok(reader) => reader,
        Err(webm::Error::Io(error)) => return Err(error.into()),
        Err(_) => return Ok(()),
    };
    let (mut tracks, mut tags): (Vec<webm::Track>, Vec<Tag>) = (Vec::new(), Vec::new());
    while let Some(event) = reader.next_event()? {
        match event {
            Event::Tracks(found) => tracks.extend(found),
            Event::Tags(found) => tags.extend(found),
            Event::Cluster(_) | Event::Damage(_) => break,
            _ => {}
        }
    }
    tracks.retain(|track| journal.state().track(track.number).is_none());
    for track in tracks {
        let said = |name: &str| {
            let tag = tags.iter().find(|tag| tag.track_uid == Some(track.uid));
            let value = tag.and_then(|tag| tag.values.iter().find(|(key, _)| key == name));
            value.map_or_else(|| "unknown".to_owned(), |(_, value)| value.clone())
        };
        let mut line = manifest::Track {
            at_ms: 0,
            number: track.number,
            uid: track.uid,
            source_number: 0,
            user: said("PARTICIPANT_ID"),
            role: said("ROLE"),
            source: said("SOURCE"),
            name: track.name.clone(),
            codec: String::new(),
            private: String::new(),
            size: None,
            sound: None,
            codec_delay_ns: 0,
            seek_pre_roll_ns: 0,
            default_duration_ns: None,
        };
        if !matches!(track.media, Media::Other(_)) {
            line.describe(&describe(track));
            journal.write(&Line::Track(line))?;
        }
    }
    Ok(())
}

fn describe(track: webm::Track) -> Description {
    Description {
        media: track.media,
        codec: track.codec,
        private: track.private,
        codec_delay_ns: track.codec_delay_ns,
        seek_pre_roll_ns: track.seek_pre_roll_ns,
        default_duration_ns: track.default_duration_ns,
    }
}

/// Whether there is something where the first block has to be, so that it is worth making a head.
fn has_blocks<F: repair::File>(file: &mut F, journal: &Journal) -> io::Result<bool> {
    let Some(begin) = &journal.state().begin else { return Ok(false) };
    let mut octets = [0; 4];
    file.seek(SeekFrom::Start(begin.head_size.into()))?;
    match file.read_exact(&mut octets) {
        Ok(()) => Ok(u32::from_be_bytes(octets) == webm::ids::CLUSTER),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
        Err(error) => Err(error),
    }
}

/// Then there is nothing behind it, and there never was.
fn is_shorter_than_head<F: repair::File>(file: &mut F, journal: &Journal) -> io::Result<bool> {
    let head_size = journal.state().begin.as_ref().map_or(0, |begin| begin.head_size);
    Ok(file.seek(SeekFrom::End(0))? <= head_size.into())
}

/// The beginning of the file is nothing at all; the manifest knows what it was.
fn restore_head<F: repair::File>(file: &mut F, journal: &Journal) -> Result<(), Error> {
    let state = journal.state();
    let head_size = state.begin.as_ref().map_or(0, |begin| begin.head_size);
    let mut muxer = Muxer::new(webm::Config { head_size, info: state.info(), ..webm::Config::default() })?;
    for track in state.webm_tracks() {
        muxer.add_track(track)?;
    }
    file.seek(SeekFrom::Start(0))?;
    file.write_all(&muxer.head())?;
    Ok(())
}

impl repair::File for File {
    fn set_len(&mut self, length: u64) -> io::Result<()> {
        File::set_len(self, length)
    }

    fn sync(&mut self) -> io::Result<()> {
        self.sync_data()
    }
}

/// Octets that are read of it. A day of a busy call takes a tenth.
const METADATA_MAX: u64 = 256 * 1024 * 1024;

#[cfg(test)]
mod tests;
