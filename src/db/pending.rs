//! What is not written yet: the last change of each recording, and what is known of live ones. Laid over what the database
//! has, so that answers are right however long it does not take anything (the disk is full, say, which is why a recording ended).

use std::collections::BTreeMap;

use super::recordings::gives_way;
use crate::base::{RecordingId, RoomId};
use crate::recording::library::Entry;

/// What is to be done about one recording.
#[derive(Debug, Clone)]
pub enum Change {
    Save(Box<Entry>),
    /// Unless more is known already.
    Found(Box<Entry>),
    Remove,
}

/// How far a live one is.
#[derive(Debug, Clone, Copy)]
pub struct Progress {
    pub duration_ms: u64,
    pub size: u64,
    pub progress: f32,
}

#[derive(Debug, Default)]
pub struct Pending {
    changes: BTreeMap<RecordingId, Change>,
    progress: BTreeMap<RecordingId, Progress>,
}

impl Pending {
    /// Notes a change. False when there are as many as may be, and it is lost.
    pub fn note(&mut self, recording: RecordingId, change: Change) -> bool {
        if !matches!(change, Change::Found(_)) {
            self.progress.remove(&recording);
        }
        if self.changes.len() >= CHANGES_MAX && !self.changes.contains_key(&recording) {
            return false;
        }
        let change = match (self.changes.get(&recording), change) {
            (Some(Change::Save(known)), Change::Found(found)) if gives_way(known, &found) => Change::Save(found),
            (Some(Change::Save(_) | Change::Found(_)), Change::Found(_)) => return true,
            (Some(Change::Remove), Change::Found(entry)) => Change::Save(entry),
            (_, change) => change,
        };
        self.changes.insert(recording, change);
        true
    }

    /// Nothing happens when there are as many live ones as may be: then their status says what it said before.
    pub fn note_progress(&mut self, recording: RecordingId, progress: Progress) {
        if self.progress.len() < CHANGES_MAX || self.progress.contains_key(&recording) {
            self.progress.insert(recording, progress);
        }
    }

    pub fn is_empty(&self) -> bool {
        self.changes.is_empty()
    }

    pub fn len(&self) -> usize {
        self.changes.len()
    }

    /// The next to be written, at most `count`, each with what it changes.
    pub fn next(&self, count: usize) -> Vec<(RecordingId, Change)> {
        self.changes.iter().take(count).map(|(recording, change)| (recording.clone(), change.clone())).collect()
    }

    /// It was written, or never will be.
    pub fn forget(&mut self, recording: &RecordingId) {
        self.changes.remove(recording);
    }

    /// What is known of it was written otherwise, and is later than whatever waits.
    pub fn overtake(&mut self, recording: &RecordingId) {
        self.changes.remove(recording);
        self.progress.remove(recording);
    }

    /// It is gone, and only the database does not know yet.
    pub fn is_removed(&self, recording: &RecordingId) -> bool {
        matches!(self.changes.get(recording), Some(Change::Remove))
    }

    /// What a recording is, of which the database has this.
    pub fn over(&self, recording: &RecordingId, row: Option<Entry>) -> Option<Entry> {
        let entry = match (self.changes.get(recording), row) {
            (None, row) => row,
            (Some(Change::Found(found)), Some(row)) if !gives_way(&row, found) => Some(row),
            (Some(Change::Save(entry) | Change::Found(entry)), _) => Some((**entry).clone()),
            (Some(Change::Remove), _) => None,
        };
        entry.map(|entry| self.with_progress(entry))
    }

    /// The same for those of a call that are older than `before`; `rows` are the newest of them. Newest first.
    pub fn over_list(&self, room: &RoomId, before: Option<&RecordingId>, rows: Vec<Entry>) -> Vec<Entry> {
        let mut all: BTreeMap<RecordingId, Option<Entry>> =
            rows.into_iter().map(|entry| (entry.recording.clone(), Some(entry))).collect();
        for recording in self.changes.keys().filter(|recording| before.is_none_or(|before| *recording < before)) {
            all.entry(recording.clone()).or_insert(None);
        }
        let known = all.into_iter().rev().filter_map(|(recording, row)| self.over(&recording, row));
        known.filter(|entry| entry.room == *room).collect()
    }

    fn with_progress(&self, mut entry: Entry) -> Entry {
        if let Some(progress) = self.progress.get(&entry.recording)
            && !entry.status.is_final()
        {
            entry.duration_ms = progress.duration_ms;
            entry.size = progress.size;
            entry.progress = progress.progress;
        }
        entry
    }
}

/// Recordings that change while the database cannot be used: as many as end in days. What is beyond is found again on the
/// disk at the next start.
pub const CHANGES_MAX: usize = 4096;
