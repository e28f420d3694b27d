//! The content of `metadata.json`: what a finished recording is, for programs and for a database that was lost.
//!
//! It is the last file of a recording to be written: where it is, everything else is. Fields are only ever added to a version.

use std::path::Path;
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use super::library::{Entry, FileEntry, FileKind, Status, TrackSummary};
use super::manifest::{State, from_unix_ms, unix_ms};
use super::names;
use crate::base::{RecordingId, RoomId, UserId, rfc3339};

pub const VERSION: u32 = 1;

/// All that is read again; what is for others only stands beside it, see [`encode`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Metadata {
    pub version: u32,
    pub call_id: String,
    pub recording_id: String,
    pub status: Status,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// Something is missing that can still be made: another try is worth it.
    #[serde(default)]
    pub incomplete: bool,
    #[serde(default)]
    pub recovered: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_by: Option<String>,
    #[serde(default)]
    pub audio_only: bool,
    /// Only these. Not there: everybody.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub only_participants: Option<Vec<String>>,
    pub started: String,
    pub started_unix_ms: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended_unix_ms: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub end_reason: Option<String>,
    pub duration_ms: u64,
    /// All but this one.
    pub files: Vec<FileEntry>,
}

impl Metadata {
    /// Of an entry that is as it stays.
    pub fn of(entry: &Entry, incomplete: bool) -> Metadata {
        Metadata {
            version: VERSION,
            call_id: entry.room.as_str().to_owned(),
            recording_id: entry.recording.as_str().to_owned(),
            status: entry.status,
            error: entry.error.clone(),
            incomplete,
            recovered: entry.recovered,
            started_by: entry.started_by.as_ref().map(|user| user.as_str().to_owned()),
            audio_only: entry.audio_only,
            only_participants: entry
                .participants
                .as_ref()
                .map(|users| users.iter().map(|user| user.as_str().to_owned()).collect()),
            started: rfc3339(entry.started),
            started_unix_ms: unix_ms(entry.started),
            ended: entry.ended.map(rfc3339),
            ended_unix_ms: entry.ended.map(unix_ms),
            end_reason: entry.end_reason.clone(),
            duration_ms: entry.duration_ms,
            files: entry.files.iter().filter(|file| file.kind != FileKind::Metadata).cloned().collect(),
        }
    }

    /// Back from a file; `None` when it is none, or names something that there cannot be. `size`, `sha256`: of that file.
    pub fn to_entry(&self, size: u64, sha256: String) -> Option<Entry> {
        let room = RoomId::new(&self.call_id).ok()?;
        let recording = RecordingId::parse(&self.recording_id)?;
        let mut files: Vec<FileEntry> = self.files.clone();
        if files.iter().any(|file| Path::new(&file.name).file_name().is_none_or(|name| name != file.name.as_str())) {
            return None;
        }
        files.push(file(names::METADATA, FileKind::Metadata, size, sha256));
        Some(Entry {
            directory: names::directory(&room, &recording),
            recording,
            room,
            status: self.status,
            progress: 1.0,
            audio_only: self.audio_only,
            participants: self.only_participants.as_deref().map(users),
            started_by: self.started_by.as_deref().and_then(|user| UserId::new(user).ok()),
            started: from_unix_ms(self.started_unix_ms),
            ended: self.ended_unix_ms.map(from_unix_ms),
            end_reason: self.end_reason.clone(),
            duration_ms: self.duration_ms,
            size: files.iter().fold(0, |size, file| size.saturating_add(file.size)),
            recovered: self.recovered,
            error: self.error.clone(),
            files,
        })
    }
}

/// What the database is to know of a recording of which only the manifest is left; `status` [`Status::Processing`]. `None`: the
/// manifest does not even say what it is of.
pub fn entry(state: &State) -> Option<Entry> {
    let begin = state.begin.as_ref()?;
    let (room, recording) = (RoomId::new(&begin.call).ok()?, RecordingId::parse(&begin.recording)?);
    Some(Entry {
        directory: names::directory(&room, &recording),
        recording,
        room,
        status: Status::Processing,
        progress: 0.0,
        audio_only: begin.audio_only,
        participants: begin.participants.as_deref().map(users),
        started_by: begin.by.as_deref().and_then(|user| UserId::new(user).ok()),
        started: from_unix_ms(begin.started_ms),
        ended: state.end.as_ref().map(|end| from_unix_ms(end.wall_ms)),
        end_reason: state.end.as_ref().map(|end| end.reason.clone()),
        duration_ms: state.end.as_ref().map_or(0, |end| end.duration_ms),
        size: 0,
        recovered: false,
        error: None,
        files: Vec::new(),
    })
}

/// When a recording ended of which nobody has said so: with the last that is known of it.
pub fn ended_at_least(state: &State, duration_ms: u64) -> SystemTime {
    let started_ms = state.begin.as_ref().map_or(0, |begin| begin.started_ms);
    from_unix_ms(state.wall_ms.max(started_ms.saturating_add(duration_ms)))
}

/// A file without media.
pub fn file(name: &str, kind: FileKind, size: u64, sha256: String) -> FileEntry {
    let content_type = match kind {
        FileKind::Metadata => "application/json",
        FileKind::Manifest => "application/jsonl",
        FileKind::Captions => "text/vtt",
        FileKind::Poster => "image/webp",
        FileKind::Call | FileKind::Participant => "application/octet-stream",
    };
    let (name, content_type) = (name.to_owned(), content_type.to_owned());
    FileEntry { name, kind, content_type, participant: None, size, sha256, media: None, remote: None }
}

fn users(names: &[String]) -> Vec<UserId> {
    names.iter().filter_map(|name| UserId::new(name).ok()).collect()
}

/// The whole file. `tracks`: those of the call's file.
pub fn encode(metadata: &Metadata, state: &State, tracks: &[TrackSummary]) -> Vec<u8> {
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct All<'a> {
        #[serde(flatten)]
        metadata: &'a Metadata,
        participants: &'a [super::manifest::Presence],
        tracks: Vec<TrackOfCall<'a>>,
        mutes: &'a [super::manifest::Muted],
        pauses: Vec<Pause>,
        gaps: &'a [super::manifest::Gap],
        overflows: &'a [super::manifest::Overflow],
        clock_corrections: &'a [super::manifest::Slewed],
        /// Lines of the manifest that made no sense.
        manifest_damages: u64,
    }
    let pauses = state.pauses.iter().map(|(from, to)| Pause {
        at_ms: from.at_ms,
        paused_unix_ms: from.wall_ms,
        resumed_unix_ms: to.as_ref().map(|to| to.wall_ms),
    });
    let all = All {
        metadata,
        participants: &state.presences,
        tracks: tracks.iter().map(|summary| TrackOfCall::of(summary, state)).collect(),
        mutes: &state.mutes,
        pauses: pauses.collect(),
        gaps: &state.gaps,
        overflows: &state.overflows,
        clock_corrections: &state.slews,
        manifest_damages: state.unknown,
    };
    // Plain structures with names for keys have a form in JSON.
    let mut bytes = serde_json::to_vec_pretty(&all).unwrap_or_default();
    bytes.push(b'\n');
    bytes
}

/// A track of the call's file, and of the call.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct TrackOfCall<'a> {
    #[serde(flatten)]
    summary: &'a TrackSummary,
    /// What mutes, gaps and corrections call it.
    source_number: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    track_id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<&'a str>,
}

impl<'a> TrackOfCall<'a> {
    fn of(summary: &'a TrackSummary, state: &'a State) -> TrackOfCall<'a> {
        let source_number = state.track(summary.number).map_or(0, |track| track.source_number);
        let origin = state.origin(source_number);
        let track_id = origin.map(|origin| origin.source.id.as_str());
        TrackOfCall { summary, source_number, track_id, name: origin.and_then(|origin| origin.source.name.as_deref()) }
    }
}

/// Nothing of a pause is in the file, so it is a moment there.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Pause {
    at_ms: u64,
    paused_unix_ms: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    resumed_unix_ms: Option<u64>,
}
