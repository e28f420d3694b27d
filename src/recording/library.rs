//! What is kept about recordings, what may be asked about them, and what is answered. Plain values: the database thread answers,
//! [`crate::http`] puts it into words.

use std::fmt;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use super::block::Quality;
use super::upload::{Change, Unfinished};
use crate::base::{RecordingId, RoomId, UserId};

/// Where a recording stands (interface.md §3).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    Recording,
    Paused,
    /// The file is being completed.
    Stopping,
    /// The whole call can be played; the files of participants are made.
    Processing,
    Uploading,
    Completed,
    Failed,
}

impl Status {
    pub fn as_str(self) -> &'static str {
        match self {
            Status::Recording => "recording",
            Status::Paused => "paused",
            Status::Stopping => "stopping",
            Status::Processing => "processing",
            Status::Uploading => "uploading",
            Status::Completed => "completed",
            Status::Failed => "failed",
        }
    }

    pub fn parse(text: &str) -> Option<Status> {
        let all = [
            Status::Recording,
            Status::Paused,
            Status::Stopping,
            Status::Processing,
            Status::Uploading,
            Status::Completed,
            Status::Failed,
        ];
        all.into_iter().find(|status| status.as_str() == text)
    }

    /// Nothing changes it any more.
    pub fn is_final(self) -> bool {
        matches!(self, Status::Completed | Status::Failed)
    }

    /// Media still comes.
    pub fn is_live(self) -> bool {
        matches!(self, Status::Recording | Status::Paused)
    }
}

/// A recording, as the database keeps it and a status shows it.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    pub recording: RecordingId,
    pub room: RoomId,
    pub status: Status,
    /// From 0 to 1: how much of what comes after the stop is done.
    pub progress: f32,
    pub audio_only: bool,
    pub participants: Option<Vec<UserId>>,
    pub started_by: Option<UserId>,
    pub started: SystemTime,
    pub ended: Option<SystemTime>,
    /// Why it ended, as [`EndReason::as_str`](super::feed::EndReason::as_str) says.
    pub end_reason: Option<String>,
    pub duration_ms: u64,
    /// Octets of all files.
    pub size: u64,
    /// It was repaired after a crash.
    pub recovered: bool,
    /// Why it failed; or, while it is uploaded, why that does not go on.
    pub error: Option<String>,
    /// Below `RECORDING_OUTPUT_DIR`: `<callId>/<recordingId>`.
    pub directory: PathBuf,
    pub files: Vec<FileEntry>,
}

/// One file of a recording.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FileEntry {
    pub name: String,
    pub kind: FileKind,
    pub content_type: String,
    /// Whose it is, of [`FileKind::Participant`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub participant: Option<String>,
    pub size: u64,
    /// In hexadecimal.
    pub sha256: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub media: Option<MediaSummary>,
    /// Where else than on this machine it is. The recording's own files do not say so, since they are uploaded before.
    #[serde(skip)]
    pub remote: Option<Remote>,
}

/// A file in a store of objects.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Remote {
    /// `s3`, `gcs` or `vercel-blob`.
    pub provider: String,
    pub key: String,
    /// Without signature: `s3://bucket/key`, `gs://bucket/key`, or one of HTTPS.
    pub url: String,
    /// There is no local copy.
    pub is_only: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FileKind {
    /// The whole call.
    Call,
    /// One participant's camera and microphone, or screen.
    Participant,
    Metadata,
    Manifest,
    Captions,
    Poster,
}

impl FileKind {
    pub fn as_str(self) -> &'static str {
        match self {
            FileKind::Call => "call",
            FileKind::Participant => "participant",
            FileKind::Metadata => "metadata",
            FileKind::Manifest => "manifest",
            FileKind::Captions => "captions",
            FileKind::Poster => "poster",
        }
    }

    pub fn parse(text: &str) -> Option<FileKind> {
        let all = [
            FileKind::Call,
            FileKind::Participant,
            FileKind::Metadata,
            FileKind::Manifest,
            FileKind::Captions,
            FileKind::Poster,
        ];
        all.into_iter().find(|kind| kind.as_str() == text)
    }
}

/// What is in a file.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MediaSummary {
    pub duration_ms: u64,
    pub tracks: Vec<TrackSummary>,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TrackSummary {
    /// Of the file's track.
    pub number: u32,
    pub participant: String,
    /// `camera`, `microphone`, `screen` or `screen-audio`.
    pub source: String,
    /// `vp8`, `vp9`, `av1`, `h264` or `opus`.
    pub codec: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub width: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub height: Option<u32>,
    /// When its first block is, from the beginning of the file.
    pub start_offset_ms: u64,
    pub duration_ms: u64,
    pub quality: Quality,
}

/// To the database thread.
pub enum Request {
    Update(Update),
    Ask {
        inquiry: Inquiry,
        reply: ReplyTo,
    },
    /// To be written now: the answer is [`Answer::Written`], or that nothing was.
    Write {
        change: Box<Change>,
        reply: ReplyTo,
    },
    /// Whoever uploads is there, and does from now on what deleting needs of a store.
    Uploader(Uploader),
    /// What came of a [`Deletion`]. Errors: for people.
    Deleted {
        recording: RecordingId,
        result: Result<(), String>,
    },
}

/// Takes a [`Deletion`] to whoever uploads; it comes back when there are too many. Must not block.
pub type Uploader = Arc<dyn Fn(Deletion) -> Result<(), Box<Deletion>> + Send + Sync>;

/// To whoever uploads: everything of a recording that is in the store has to go, and nothing more is to be sent. The answer is
/// [`Request::Deleted`].
#[derive(Debug)]
pub struct Deletion {
    pub entry: Entry,
}

/// Takes the answer to where it was asked; called once, on the thread that answers. It must not block.
pub type ReplyTo = Box<dyn FnOnce(Result<Answer, Unavailable>) + Send>;

/// From whoever works on recordings.
#[derive(Debug)]
pub enum Update {
    /// As it is from now on, new or not.
    Save(Box<Entry>),
    /// It was found on the disk, and is as its own files say, unless more is known of it already.
    Found(Box<Entry>),
    /// Of a live one; not kept over a restart.
    Progress { recording: RecordingId, duration_ms: u64, size: u64, progress: f32 },
    /// It is gone, with all its files.
    Remove(RecordingId),
}

/// A question. Whoever asks it has been found to be allowed to.
#[derive(Debug, Clone)]
pub enum Inquiry {
    /// Newest first.
    List {
        room: RoomId,
        limit: usize,
        cursor: Option<String>,
    },
    Status {
        room: RoomId,
        recording: RecordingId,
    },
    /// The latest of the call, whatever its state. For a stop when nothing is recorded.
    Latest {
        room: RoomId,
    },
    File {
        room: RoomId,
        recording: RecordingId,
        name: String,
    },
    Delete {
        room: RoomId,
        recording: RecordingId,
    },
    /// Uploads that are to go on, in order, after one of them; at most `limit`.
    Uploads {
        after: Option<RecordingId>,
        limit: usize,
    },
    /// What is known of the upload of one, whatever its state.
    UploadOf {
        recording: RecordingId,
    },
    /// Recordings that are to be uploaded (again): these, or all whose upload was given up. Answered with those that will be.
    Upload {
        recordings: Option<Vec<RecordingId>>,
    },
}

#[derive(Debug, Clone, PartialEq)]
pub enum Answer {
    List {
        entries: Vec<Entry>,
        next_cursor: Option<String>,
    },
    Entry(Box<Entry>),
    /// A file that is here to be read, from this path; its octets do not change any more.
    File {
        path: PathBuf,
        file: FileEntry,
    },
    /// A file that only the store has.
    Remote {
        remote: Remote,
        file: FileEntry,
    },
    Deleted,
    Written,
    Uploads(Vec<Unfinished>),
    Upload(Vec<Entry>),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unavailable {
    /// There is no such recording of this call, or no such file, or it is not there yet.
    NotFound,
    /// The cursor is none of ours.
    Cursor,
    /// It cannot be deleted while it is live or its files are made.
    Active,
    /// The database does not answer. Nothing was changed.
    Database,
    /// Its files could not be deleted; some of them may be gone.
    Files,
    /// The store has files of it that could not be deleted; it is listed, and can be deleted again.
    Store,
}

/// To the threads that read files for downloads: a piece of a file.
pub struct Read {
    pub from: ReadFrom,
    pub offset: u64,
    /// Octets, at most [`PIECE_MAX`].
    pub length: usize,
    /// Takes the piece to where it was asked for; called once, on the thread that reads. It must not block.
    pub reply: Box<dyn FnOnce(Result<Piece, Unreadable>) + Send>,
}

/// Which file.
#[derive(Debug, Clone)]
pub enum ReadFrom {
    /// One that is to be opened.
    Path(PathBuf),
    /// One that an earlier piece came from.
    Open(Arc<OwnedFd>),
    /// One of the store. `rest`: octets that will be read from the offset of the first piece on.
    Remote { remote: Box<Remote>, name: String, rest: u64 },
    /// One of the store from which an earlier piece came.
    Stream(Arc<dyn Stream>),
}

/// A file of the store that is being read.
pub trait Stream: fmt::Debug + Send + Sync {
    /// Octets from there on, all of them; the rest of the file is read on without asking again. Blocks.
    fn read(&self, offset: u64, octets: &mut [u8]) -> Result<(), Unreadable>;
}

/// A piece of a file.
#[derive(Debug)]
pub struct Piece {
    /// As many as were asked for.
    pub octets: Vec<u8>,
    /// To read on from.
    pub from: ReadFrom,
}

/// Why there is no piece.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Unreadable {
    /// It is not there.
    Missing,
    /// It is shorter than it should be, or the disk or store does not give it.
    Failed,
    /// The store gives it to whoever has this URL, for a while.
    Elsewhere(String),
}

/// Octets of a piece. Larger ones cost memory per download, smaller ones more trips between threads.
pub const PIECE_MAX: usize = 256 * 1024;
