//! The thread that does what comes after a recording, one after the other: first what has just ended, then what was found
//! unfinished at the start.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use super::finish::Error;
use super::journal::Journal;
use super::live::Room;
use super::recorder::Shared;
use super::repair::{self, Outcome, Report, Work};
use super::upload::sidecar;
use crate::base::WorkerId;
use crate::recording::feed::{Notice, NoticeKind};
use crate::recording::library::{Entry, Status};

/// A recording that has ended.
pub struct Job {
    /// From here.
    pub directory: PathBuf,
    pub entry: Entry,
    pub worker: WorkerId,
    /// `None`: whoever had it broke; a repair opens it.
    pub journal: Option<Journal>,
    /// Head and cues are in the file of the call.
    pub is_whole: bool,
}

pub enum Task {
    Finish(Box<Job>),
    /// Nothing follows.
    Stop,
}

/// Until it is told to stop, or nobody is left who could tell.
pub fn run(shared: &Arc<Shared>, tasks: &Receiver<Task>) {
    // Listed by the first look for what was left over.
    let mut found: VecDeque<PathBuf> = VecDeque::new();
    loop {
        let timeout = match (found.is_empty() && !shared.rescan.load(Ordering::Relaxed), shared.outbox.flush()) {
            (false, _) => Duration::ZERO,
            (true, false) => RETRY,
            (true, true) => IDLE,
        };
        match tasks.recv_timeout(timeout) {
            Ok(Task::Finish(job)) => guarded(shared, *job),
            Ok(Task::Stop) | Err(RecvTimeoutError::Disconnected) => return,
            Err(RecvTimeoutError::Timeout) if shared.cancel.load(Ordering::Relaxed) => return,
            Err(RecvTimeoutError::Timeout) => {
                if found.is_empty() && shared.rescan.swap(false, Ordering::Relaxed) {
                    found = list(shared);
                }
                if let Some(directory) = found.pop_front().filter(|_| !shared.is_stopping()) {
                    look_at(shared, directory);
                    // Uploads of which the database was told meanwhile.
                    if let Some(uploads) = shared.uploads.as_ref().filter(|_| found.is_empty()) {
                        uploads.rescan();
                    }
                }
            }
        }
    }
}

fn list(shared: &Shared) -> VecDeque<PathBuf> {
    let root = &shared.config.directory;
    match repair::directories(root) {
        Ok(found) => found.into(),
        Err(error) => {
            tracing::error!(directory = %root.display(), %error, "recordings cannot be listed");
            VecDeque::new()
        }
    }
}

/// Whatever breaks is one recording; the next start tries it again.
fn guarded(shared: &Shared, job: Job) {
    let (mut entry, worker) = (job.entry.clone(), job.worker);
    let done = catch_unwind(AssertUnwindSafe(|| finish(shared, job)));
    let entry = match done {
        Ok(None) => return,
        Ok(Some(entry)) => entry,
        Err(_) => {
            (entry.status, entry.error) = (Status::Failed, Some("it could not be finished".into()));
            entry
        }
    };
    let Some(entry) = hand_over(shared, entry, Some(worker)) else { return };
    let what = match entry.status {
        Status::Completed => NoticeKind::Completed { duration_ms: entry.duration_ms, size: entry.size },
        _ => NoticeKind::Failed { error: entry.error.clone().unwrap_or_default() },
    };
    tracing::info!(recording = %entry.recording, status = entry.status.as_str(), error = entry.error, "recording done");
    (shared.notice)(worker, Notice { room: entry.room.clone(), recording: entry.recording.clone(), what });
}

/// Says what became of a recording. `None`: it has to be uploaded before it is completed, and whoever does that says so.
fn hand_over(shared: &Shared, entry: Entry, worker: Option<WorkerId>) -> Option<Entry> {
    let Some(uploads) = &shared.uploads else {
        shared.outbox.save(&entry);
        return Some(entry);
    };
    if entry.status == Status::Completed {
        let mut entry = Entry { status: Status::Uploading, progress: 0.0, ..entry };
        // One that is completed once more has been there before, and most of it is the same.
        sidecar::apply(&shared.config.directory.join(&entry.directory), &mut entry);
        shared.outbox.save(&entry);
        uploads.ended(&entry, worker);
        return None;
    }
    shared.outbox.save(&entry);
    uploads.nothing(&entry.recording);
    Some(entry)
}

/// `None`: there is no time for it.
fn finish(shared: &Shared, job: Job) -> Option<Entry> {
    let mut last = Instant::now();
    let mut tell = |entry: &Entry, part: f32| {
        if last.elapsed() >= PROGRESS_EVERY {
            last = Instant::now();
            shared.outbox.progress(&entry.recording, entry.duration_ms, entry.size, part);
        }
    };
    let entry = &job.entry;
    let mut progress = |_: &_, part: f32| tell(entry, part);
    let mut work = Work {
        begins: &mut |_| {},
        progress: &mut progress,
        cancel: &shared.cancel,
        may_take: &|octets| may_take(shared, octets),
        room: &Room::default(),
    };
    let done = match job.journal {
        Some(journal) => repair::complete(&job.directory, journal, job.is_whole, !job.is_whole, &mut work),
        None => {
            let report = unlocked(shared, entry, &mut work);
            return match (report.outcome, report.entry) {
                (Outcome::Cancelled, _) => None,
                (_, Some(entry)) => Some(entry),
                (Outcome::Failed(error), None) => Some(failed(job.entry, error)),
                (outcome, None) => Some(failed(job.entry, format!("{outcome:?}"))),
            };
        }
    };
    match done {
        Ok(entry) => Some(entry),
        Err(Error::Cancelled) => None,
        Err(error) => {
            tracing::error!(directory = %job.directory.display(), %error, "a recording is not finished");
            Some(failed(job.entry, error.to_string()))
        }
    }
}

/// With that gone, what is recorded meanwhile still has what it needs. A disk that cannot be asked says no by itself.
fn may_take(shared: &Shared, octets: u64) -> bool {
    let needed = octets.saturating_add(shared.config.free_floor());
    shared.config.free().map_or(true, |free| free >= needed)
}

/// Who syncs the manifest has it for a moment longer than who broke.
fn unlocked(shared: &Shared, entry: &Entry, work: &mut Work<'_>) -> Report {
    let mut tries = UNLOCK_TRIES;
    loop {
        let report = repair::repair(&shared.config.directory, &entry.directory, work);
        tries -= 1;
        if report.outcome != Outcome::InUse || tries == 0 {
            return report;
        }
        std::thread::sleep(RETRY);
    }
}

fn failed(entry: Entry, error: String) -> Entry {
    Entry { status: Status::Failed, error: Some(error), ..entry }
}

/// What was found at the start.
fn look_at(shared: &Shared, directory: PathBuf) {
    let mut begins = |entry: &Entry| {
        tracing::warn!(recording = %entry.recording, "a recording was not finished, and is repaired");
        shared.outbox.save(entry);
    };
    let mut progress = |recording: &_, part: f32| shared.outbox.progress(recording, 0, 0, part);
    let mut work = Work {
        begins: &mut begins,
        progress: &mut progress,
        cancel: &shared.cancel,
        may_take: &|octets| may_take(shared, octets),
        room: &Room::default(),
    };
    let root = &shared.config.directory;
    let report = catch_unwind(AssertUnwindSafe(|| repair::repair(root, &directory, &mut work)));
    let Ok(Report { outcome, entry, .. }) = report else {
        tracing::error!(directory = %directory.display(), "a recording breaks whoever repairs it");
        return;
    };
    match (&outcome, entry) {
        // One that is recorded or about to be finished has its say itself.
        (Outcome::InUse | Outcome::Cancelled, _) => {}
        (Outcome::Complete, Some(mut entry)) => {
            let is_stored = entry.files.iter().all(|file| file.remote.is_some());
            if shared.uploads.is_some() && !is_stored && entry.status == Status::Completed {
                // Where nothing is known of it, nothing is known of an upload either.
                (entry.status, entry.progress) = (Status::Uploading, 0.0);
            }
            if !shared.outbox.found(Box::new(entry), FOUND_WITHIN) {
                tracing::warn!(directory = %directory.display(), "the database does not take a recording that was found");
            }
        }
        (Outcome::Failed(error), entry) => {
            tracing::warn!(directory = %directory.display(), error, "a recording cannot be repaired");
            entry.into_iter().for_each(|entry| drop(hand_over(shared, entry, None)));
        }
        (_, entry) => entry.into_iter().for_each(|entry| drop(hand_over(shared, entry, None))),
    }
}

/// Between two tries to tell the database.
const RETRY: Duration = Duration::from_millis(100);
/// Nothing is to be done; a look at whether somebody else left something for the database.
const IDLE: Duration = Duration::from_secs(1);
/// Ten seconds, which a disk may take to sync.
const UNLOCK_TRIES: usize = 100;
const PROGRESS_EVERY: Duration = Duration::from_secs(1);
/// The database is given so long to take what was found, before the next is looked at.
const FOUND_WITHIN: Duration = Duration::from_secs(10);
