//! Recordings that are deleted, because somebody said so or because they are too old.
//!
//! What is in a store goes first, then the directory, then the rows: what fails or is cut off anywhere leaves the recording listed,
//! and is finished when it is asked for again.

use std::collections::BTreeMap;
use std::io;
use std::time::{Duration, Instant, SystemTime};

use super::Keeper;
use super::pending::Change;
use super::removal::{self, Done, Removal};
use super::{available, recordings, uploads};
use crate::base::{RecordingId, RoomId};
use crate::recording::library::{Deletion, Entry, ReplyTo, Status, Unavailable, Uploader};

/// What is under way.
pub struct Deletions {
    removal: Removal,
    /// Whoever knows the store.
    pub uploader: Option<Uploader>,
    /// What a store has of these is being deleted, and those wait for it.
    waiting: BTreeMap<RecordingId, (Entry, Vec<ReplyTo>)>,
    retention: Option<Retention>,
    /// The next look for what is too old.
    look: Instant,
    /// Both at one moment: a clock that leaps ahead must not make everything old at once.
    began: (Instant, SystemTime),
}

/// How long recordings are kept.
#[derive(Debug, Clone, Copy)]
pub struct Retention {
    /// From their end.
    pub keep: Duration,
    /// From the start to the first look.
    pub first: Duration,
    pub every: Duration,
}

impl Retention {
    /// `None`: for ever.
    pub fn days(days: u32) -> Option<Retention> {
        let keep = Duration::from_secs(u64::from(days) * 24 * 60 * 60);
        // Until then whoever knows the store is there.
        (days > 0).then_some(Retention { keep, first: Duration::from_secs(60), every: Duration::from_secs(60 * 60) })
    }
}

impl Deletions {
    pub fn start(retention: Option<Retention>) -> io::Result<Deletions> {
        let now = Instant::now();
        Ok(Deletions {
            removal: Removal::start()?,
            uploader: None,
            waiting: BTreeMap::new(),
            look: now + retention.map_or(Duration::ZERO, |retention| retention.first),
            retention,
            began: (now, SystemTime::now()),
        })
    }

    /// Whether no directory is on its way.
    pub fn is_idle(&self) -> bool {
        self.removal.is_idle()
    }

    pub fn poll_timeout(&self, now: Instant) -> Option<Instant> {
        let removal = (!self.removal.is_idle()).then(|| now + LOOK);
        removal.into_iter().chain(self.retention.map(|_| self.look)).min()
    }
}

impl Keeper {
    pub(super) fn delete(&mut self, room: RoomId, recording: RecordingId, reply: ReplyTo) {
        let entry = match self.find(&room, &recording) {
            Ok(entry) if !entry.status.is_final() && entry.status != Status::Uploading => {
                return reply(Err(Unavailable::Active));
            }
            Ok(entry) => entry,
            Err(why) => return reply(Err(why)),
        };
        if let Some((_, replies)) = self.deletions.waiting.get_mut(&recording) {
            if replies.len() < WAITING_MAX {
                replies.push(reply);
            } else {
                reply(Err(Unavailable::Active));
            }
            return;
        }
        let upload = self.store.run(Instant::now(), |connection| uploads::find(connection, &recording));
        let upload = match available(upload) {
            Ok(upload) => upload,
            Err(why) => return reply(Err(why)),
        };
        let is_there = upload.is_some() || entry.files.iter().any(|file| file.remote.is_some());
        match &self.deletions.uploader {
            // One that is being uploaded may have been begun without our knowing yet.
            Some(uploader) if is_there || entry.status == Status::Uploading => {
                if self.deletions.waiting.len() >= WAITING_MAX {
                    return reply(Err(Unavailable::Database));
                }
                match uploader(Deletion { entry: entry.clone() }) {
                    Ok(()) => drop(self.deletions.waiting.insert(recording, (entry, vec![reply]))),
                    Err(_) => reply(Err(Unavailable::Database)),
                }
            }
            None if is_there => {
                tracing::error!(%recording, "a recording is in a store that is not configured, and is not deleted");
                reply(Err(Unavailable::Store));
            }
            _ => self.remove_directory(&entry, reply),
        }
    }

    /// What came of what a store has had.
    pub(super) fn deleted_there(&mut self, recording: RecordingId, result: Result<(), String>) {
        let Some((entry, replies)) = self.deletions.waiting.remove(&recording) else { return };
        let all: ReplyTo = Box::new(move |answer| {
            for reply in replies {
                reply(answer.clone());
            }
        });
        match result {
            Ok(()) => self.remove_directory(&entry, all),
            Err(error) => {
                tracing::error!(%recording, error, "a recording cannot be deleted from the store");
                all(Err(Unavailable::Store));
            }
        }
    }

    fn remove_directory(&mut self, entry: &Entry, reply: ReplyTo) {
        let recording = entry.recording.clone();
        let Some(directory) = removal::directory(&self.recordings, entry) else {
            tracing::error!(%recording, directory = %entry.directory.display(), "not the directory of a recording");
            return reply(Err(Unavailable::Files));
        };
        if let Err(reply) = self.deletions.removal.submit(directory, recording, reply) {
            reply(Err(Unavailable::Database));
        }
    }

    /// Of which directories are gone, the rows go; whoever is to be told comes back.
    pub(super) fn finish_removals(&mut self) -> Vec<ReplyTo> {
        let done: Vec<Done> = std::iter::from_fn(|| self.deletions.removal.poll_done()).collect();
        let mut gone = Vec::new();
        for Done { recording, reply, result } in done {
            match result {
                Ok(()) => {
                    self.note(recording, Change::Remove);
                    gone.push(reply);
                }
                Err(error) => {
                    tracing::error!(%recording, %error, "a recording cannot be deleted");
                    reply(Err(Unavailable::Files));
                }
            }
        }
        gone
    }

    /// What ended too long ago goes, some of it at a time. What cannot be deleted is tried again the next time.
    pub(super) fn delete_old(&mut self, now: Instant) {
        let deletions = &mut self.deletions;
        let Some(retention) = deletions.retention.filter(|_| now >= deletions.look) else { return };
        deletions.look = now + retention.every;
        let (at, wall) = deletions.began;
        let wall = SystemTime::now().min(wall + now.saturating_duration_since(at));
        let Some(before) = wall.checked_sub(retention.keep) else { return };
        let old = self.store.run(now, |connection| recordings::ended_before(connection, before, OLD_AT_ONCE));
        let Ok(old) = old else { return };
        if old.len() == OLD_AT_ONCE {
            self.deletions.look = now + retention.every.min(MORE_AFTER);
        }
        for Entry { room, recording, .. } in old {
            let of = recording.clone();
            let reply: ReplyTo = Box::new(move |answer| match answer {
                Ok(_) => tracing::info!(recording = %of, "a recording is deleted: it was kept as long as it should be"),
                Err(Unavailable::NotFound) => {}
                Err(why) => tracing::warn!(recording = %of, ?why, "a recording that is too old is not deleted"),
            });
            self.delete(room, recording, reply);
        }
    }
}

/// How often it is seen that directories are gone.
pub const LOOK: Duration = Duration::from_millis(10);
/// Recordings whose objects are being deleted, and those who wait for one of them.
const WAITING_MAX: usize = 64;
/// Half of what may wait: others want to delete as well.
const OLD_AT_ONCE: usize = 32;
const MORE_AFTER: Duration = Duration::from_secs(60);
