//! What is kept of an upload while it is under way, so that whoever is killed goes on where they were. Plain values without
//! secrets: the database thread keeps them, `storage` works on them.
//!
//! An upload has no rows any more once all of it is there: then each [`FileEntry`](super::library::FileEntry) says where it is.

use super::library::Entry;
use crate::base::RecordingId;

/// The upload of one recording.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Upload {
    pub head: Head,
    /// Those that were begun, by name.
    pub files: Vec<FileUpload>,
}

/// What is said of an upload as a whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Head {
    pub recording: RecordingId,
    /// Whose upload ids these are, as [`provider`](crate::storage::store::Store::provider) says.
    pub provider: String,
    pub phase: Phase,
    /// Local copies stay, whatever is configured: something can still be made of them.
    pub keep_local: bool,
    /// Tries without progress.
    pub attempts: u32,
    /// How often a file was begun anew.
    pub restarts: u32,
    /// Milliseconds since 1970; not before, after a fault.
    pub next_try_ms: Option<u64>,
    /// Milliseconds since 1970: nothing has gone on since.
    pub first_failure_ms: Option<u64>,
    /// The last fault, for people.
    pub error: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// The call is being recorded, or what comes after it is being made.
    Live,
    /// All files are there and are sent.
    Sending,
    /// All are in the store, as was verified; the local copies go.
    Settling,
    /// It was given up, until somebody says otherwise.
    Failed,
    /// It is being deleted.
    Deleting,
}

impl Phase {
    pub fn as_str(self) -> &'static str {
        match self {
            Phase::Live => "live",
            Phase::Sending => "sending",
            Phase::Settling => "settling",
            Phase::Failed => "failed",
            Phase::Deleting => "deleting",
        }
    }

    pub fn parse(text: &str) -> Option<Phase> {
        let all = [Phase::Live, Phase::Sending, Phase::Settling, Phase::Failed, Phase::Deleting];
        all.into_iter().find(|phase| phase.as_str() == text)
    }
}

/// The upload of one file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileUpload {
    pub name: String,
    pub key: String,
    pub content_type: String,
    pub step: Step,
    /// Octets of every part but the last.
    pub part_size: u64,
    /// The multipart upload, and the key by which the store knows its object where that is another.
    pub id: Option<String>,
    pub object: Option<String>,
    /// The answer to the put or completion.
    pub etag: Option<String>,
    pub url: Option<String>,
    /// SHA-256 in hexadecimal and octets of what was verified to be there, or is about to be.
    pub sha256: String,
    pub size: u64,
    /// Ascending.
    pub parts: Vec<Part>,
}

/// What is to be done about a file next, or was about to be done when somebody was killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// A multipart upload is made; it is not known whether the store has one.
    Creating,
    /// Parts are sent.
    Parts,
    /// The parts are put together; it is not known whether they are already.
    Completing,
    /// All of it is sent in one request; it is not known whether it is there already.
    Putting,
    /// What is there is compared.
    Verifying,
    Done,
}

impl Step {
    pub fn as_str(self) -> &'static str {
        match self {
            Step::Creating => "creating",
            Step::Parts => "parts",
            Step::Completing => "completing",
            Step::Putting => "putting",
            Step::Verifying => "verifying",
            Step::Done => "done",
        }
    }

    pub fn parse(text: &str) -> Option<Step> {
        let all = [Step::Creating, Step::Parts, Step::Completing, Step::Putting, Step::Verifying, Step::Done];
        all.into_iter().find(|step| step.as_str() == text)
    }
}

/// A part that was sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    /// From 1.
    pub number: u32,
    pub etag: String,
    pub size: u64,
    /// The store's own, where it has one.
    pub checksum: Option<String>,
    /// Of what was sent, in hexadecimal.
    pub sha256: String,
}

/// Something that has to be written before the upload goes on. Done as a whole or not at all; done twice, it is the same.
#[derive(Debug, Clone, PartialEq)]
pub struct Change {
    pub recording: RecordingId,
    pub what: What,
    /// The recording, as it is from now on.
    pub entry: Option<Box<Entry>>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum What {
    Head(Head),
    /// A file as it is, with all its parts.
    File(Head, FileUpload),
    /// A file of which only this part is new.
    Part(Head, String, Part),
    /// A file is not to be there.
    Forget(Head, String),
    /// The whole upload is over.
    Remove,
}

/// An upload that is to go on, and its recording; one of them may be unknown.
#[derive(Debug, Clone, PartialEq)]
pub struct Unfinished {
    pub recording: RecordingId,
    pub upload: Option<Upload>,
    pub entry: Option<Entry>,
}
