//! Deletes the directories of recordings, on a thread of its own: the file system may take its time over large files, and those
//! who ask the database would wait for it.

use std::io;
use std::path::{Component, Path, PathBuf};
use std::sync::mpsc::Receiver;
use std::thread;

use crate::base::RecordingId;
use crate::base::queue::{Full, Sender, bounded};
use crate::recording::library::{Entry, ReplyTo};

pub struct Removal {
    queue: Sender<Task>,
    done: Receiver<Done>,
    /// Tasks that are not done.
    under_way: usize,
}

struct Task {
    directory: PathBuf,
    recording: RecordingId,
    reply: ReplyTo,
}

/// What came of one.
pub struct Done {
    pub recording: RecordingId,
    pub reply: ReplyTo,
    pub result: io::Result<()>,
}

impl Removal {
    pub fn start() -> io::Result<Removal> {
        let (queue, tasks) = bounded::<Task>(QUEUE);
        let (report, done) = bounded::<Done>(QUEUE);
        thread::Builder::new().name("db-removal".into()).spawn(move || {
            while let Ok(Task { directory, recording, reply }) = tasks.recv() {
                let result = remove(&directory);
                if report.try_send(Done { recording, reply, result }).is_err() {
                    return;
                }
            }
        })?;
        Ok(Removal { queue, done, under_way: 0 })
    }

    /// Hands a directory over. The reply comes back when as many wait as may.
    pub fn submit(&mut self, directory: PathBuf, recording: RecordingId, reply: ReplyTo) -> Result<(), ReplyTo> {
        // No more than the other queue takes.
        if self.under_way == QUEUE {
            return Err(reply);
        }
        let task = Task { directory, recording, reply };
        self.queue.try_send(task).map_err(|Full(task)| task.reply)?;
        self.under_way += 1;
        Ok(())
    }

    pub fn is_idle(&self) -> bool {
        self.under_way == 0
    }

    pub fn poll_done(&mut self) -> Option<Done> {
        let done = self.done.try_recv().ok()?;
        self.under_way -= 1;
        Some(done)
    }
}

/// Where the files of a recording are; `None` when what is written there leads anywhere but below `root` into a directory with
/// the recording's name.
pub fn directory(root: &Path, entry: &Entry) -> Option<PathBuf> {
    let is_plain = entry.directory.components().all(|part| matches!(part, Component::Normal(_)));
    let is_its_own = entry.directory.file_name().is_some_and(|name| name == entry.recording.as_str());
    (is_plain && is_its_own).then(|| root.join(&entry.directory))
}

/// One that is gone already is fine. Links are removed and not followed.
fn remove(directory: &Path) -> io::Result<()> {
    match std::fs::remove_dir_all(directory) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}

/// Deletions that wait.
const QUEUE: usize = 256;
