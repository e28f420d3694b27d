//! The database: SQLite on a thread of its own, asked by [`Request`]s.
//!
//! It keeps what is known of recordings. What recordings are is on the disk beside them; a database that is lost is made again
//! from there. So it never stops anything: while it cannot be used, questions are answered with [`Unavailable::Database`], and
//! what changes is kept until it can be written.
//!
//! - [`store`]: the file, opened and opened again; [`schema`]: its tables
//! - [`recordings`]: the queries
//! - [`pending`]: what is not written yet
//! - [`uploads`]: the queries about what is on its way into a store
//! - [`removal`]: directories of recordings that are deleted
//! - [`deletion`]: recordings that are deleted, whatever has to go, and those that are too old

pub mod deletion;
pub mod pending;
pub mod recordings;
pub mod removal;
pub mod schema;
pub mod store;
pub mod uploads;

#[cfg(test)]
mod tests;

use std::fmt;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use crate::base::queue::{Sender, bounded};
use crate::base::{RecordingId, RoomId};
use crate::recording::library::{Answer, Entry, Inquiry, Request, Status, Unavailable, Update};
use crate::recording::upload::{self, Unfinished};

use deletion::{Deletions, Retention};
use pending::{Change, Pending, Progress};
use store::{Failure, Newer, Store};

/// The running thread.
pub struct Database {
    queue: Sender<Request>,
    ended: Receiver<()>,
}

/// Why there is none.
#[derive(Debug)]
pub enum StartError {
    Newer { path: PathBuf, newer: Newer },
    Thread(io::Error),
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StartError::Newer { path, newer } => write!(
                f,
                "{} was written by a later version of this program: its tables are of version {}, and those known here end \
                 at {}",
                path.display(),
                newer.found,
                newer.known
            ),
            StartError::Thread(error) => write!(f, "the thread of the database: {error}"),
        }
    }
}

impl std::error::Error for StartError {}

impl Database {
    /// Opens the database at `path`, makes it when there is none, and starts the thread. A file that cannot be used is no error:
    /// it is tried again. `recordings`: the directory below which recordings are, for those that are deleted.
    pub fn start(path: &Path, recordings: &Path) -> Result<Database, StartError> {
        Database::start_with(path, recordings, None)
    }

    /// The same, and deletes what is too old.
    pub fn start_with(path: &Path, recordings: &Path, retention: Option<Retention>) -> Result<Database, StartError> {
        let store =
            Store::open(path, Instant::now()).map_err(|newer| StartError::Newer { path: path.to_owned(), newer })?;
        let mut keeper = Keeper {
            store,
            pending: Pending::default(),
            write_again: Instant::now(),
            recordings: recordings.to_owned(),
            deletions: Deletions::start(retention).map_err(StartError::Thread)?,
        };
        keeper.give_up();
        let (queue, inbox) = bounded(QUEUE);
        // Held by the thread, dropped with its end.
        let (ending, ended) = bounded::<()>(1);
        let work = move || {
            let _ending = ending;
            keeper.run(&inbox);
        };
        thread::Builder::new().name("db".into()).spawn(work).map_err(StartError::Thread)?;
        Ok(Database { queue, ended })
    }

    /// For whoever has questions or updates. Full: the question is not answered, the update is lost.
    pub fn sender(&self) -> Sender<Request> {
        self.queue.clone()
    }

    /// Waits until everything that was said is written, or cannot be. All senders must be gone; else it waits in vain, though not
    /// for ever.
    pub fn close(self) {
        let Database { queue, ended } = self;
        drop(queue);
        let _ = ended.recv_timeout(CLOSE_WITHIN);
    }
}

/// What the thread works on.
struct Keeper {
    store: Store,
    pending: Pending,
    /// Not before, while something is pending.
    write_again: Instant,
    /// Below which recordings are.
    recordings: PathBuf,
    deletions: Deletions,
}

impl Keeper {
    fn run(mut self, inbox: &Receiver<Request>) {
        loop {
            let first = inbox.recv_timeout(self.sleep_for(Instant::now()));
            let is_over = matches!(first, Err(RecvTimeoutError::Disconnected));
            self.guarded(|keeper| {
                let mut next = first.ok();
                // Many updates at once, as at a start after long absence, are written as one.
                for _ in 0..BATCH {
                    let Some(request) = next else { break };
                    keeper.handle(request);
                    next = inbox.try_recv().ok();
                }
                if let Some(request) = next {
                    keeper.handle(request);
                }
            });
            self.guarded(Keeper::work);
            if is_over {
                break;
            }
        }
        self.finish();
    }

    /// What a former run has left unfinished is finished by whoever finds it on the disk; what is not there any more, by nobody.
    /// Should it come back, it is found.
    fn give_up(&mut self) {
        // A disk that is not there now says nothing of what is on it.
        if !self.recordings.is_dir() {
            return;
        }
        let Ok(rows) = self.store.run(Instant::now(), |connection| recordings::unfinished(connection)) else { return };
        for row in rows {
            let directory = removal::directory(&self.recordings, &row);
            if directory.is_none_or(|directory| !directory.exists()) {
                tracing::warn!(recording = %row.recording, "a recording was not finished, and its files are gone");
                let error = Some("its files are gone".into());
                let entry = Entry { status: Status::Failed, error, files: Vec::new(), ..row };
                self.note(entry.recording.clone(), Change::Save(Box::new(entry)));
            }
        }
    }

    /// A panic is a bug of ours, and nothing that calls are to suffer from.
    fn guarded(&mut self, step: impl FnOnce(&mut Self)) {
        if catch_unwind(AssertUnwindSafe(|| step(self))).is_err() {
            tracing::error!("the thread of the database panicked, and goes on");
            self.store.close(Instant::now());
        }
    }

    fn sleep_for(&self, now: Instant) -> Duration {
        let write = (!self.pending.is_empty() && self.store.is_open()).then_some(self.write_again);
        let next = [self.store.poll_timeout(), write, self.deletions.poll_timeout(now)].into_iter().flatten().min();
        next.map_or(IDLE, |at| at.saturating_duration_since(now))
    }

    /// All that is due.
    fn work(&mut self) {
        let now = Instant::now();
        self.store.handle_timeout(now);
        self.delete_old(now);
        let gone = self.finish_removals();
        self.write(now);
        // Once it is written; or once it is noted that it is to be.
        for reply in gone {
            reply(Ok(Answer::Deleted));
        }
    }

    /// Writes what is pending, as far as that is possible now.
    fn write(&mut self, now: Instant) {
        while !self.pending.is_empty() && self.store.is_open() && now >= self.write_again {
            let batch = self.pending.next(BATCH);
            let written = match self.apply(now, &batch) {
                // One that is refused must not hold up the others.
                Err(Failure::Refused(_)) => batch.iter().try_for_each(|one| self.apply_one(now, one)),
                result => result,
            };
            if written.is_err() {
                self.write_again = now + WRITE_AGAIN;
                return;
            }
            self.store.praise();
            for (recording, _) in &batch {
                self.pending.forget(recording);
            }
        }
    }

    fn apply_one(&mut self, now: Instant, one: &(RecordingId, Change)) -> Result<(), Failure> {
        match self.apply(now, std::slice::from_ref(one)) {
            Err(Failure::Refused(error)) => {
                tracing::error!(recording = %one.0, %error, "the database does not take what is known of a recording");
                Ok(())
            }
            result => result,
        }
    }

    /// All or nothing.
    fn apply(&mut self, now: Instant, changes: &[(RecordingId, Change)]) -> Result<(), Failure> {
        self.store.run(now, |connection| {
            let transaction = connection.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
            for (recording, change) in changes {
                match change {
                    Change::Save(entry) => recordings::save(&transaction, entry)?,
                    Change::Found(entry) => recordings::save_found(&transaction, entry)?,
                    Change::Remove => {
                        recordings::remove(&transaction, recording)?;
                        uploads::remove(&transaction, recording)?;
                    }
                }
            }
            transaction.commit()
        })
    }

    fn handle(&mut self, request: Request) {
        match request {
            Request::Update(Update::Save(entry)) => self.note(entry.recording.clone(), Change::Save(entry)),
            Request::Update(Update::Found(entry)) => self.note(entry.recording.clone(), Change::Found(entry)),
            Request::Update(Update::Remove(recording)) => self.note(recording, Change::Remove),
            Request::Update(Update::Progress { recording, duration_ms, size, progress }) => {
                self.pending.note_progress(recording, Progress { duration_ms, size, progress });
            }
            Request::Ask { inquiry: Inquiry::Delete { room, recording }, reply } => self.delete(room, recording, reply),
            Request::Ask { inquiry, reply } => reply(self.answer(inquiry)),
            Request::Write { change, reply } => reply(self.write_now(&change)),
            Request::Uploader(uploader) => self.deletions.uploader = Some(uploader),
            Request::Deleted { recording, result } => self.deleted_there(recording, result),
        }
    }

    /// What has to be written before somebody goes on.
    fn write_now(&mut self, change: &upload::Change) -> Result<Answer, Unavailable> {
        if self.pending.is_removed(&change.recording) {
            return Err(Unavailable::NotFound);
        }
        let written = self.store.run(Instant::now(), |connection| {
            let transaction = connection.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
            uploads::apply(&transaction, change)?;
            transaction.commit()
        });
        available(written)?;
        self.store.praise();
        if change.entry.is_some() {
            self.pending.overtake(&change.recording);
        }
        Ok(Answer::Written)
    }

    fn note(&mut self, recording: RecordingId, change: Change) {
        if !self.pending.note(recording.clone(), change) {
            tracing::error!(%recording, "too much waits for the database; what is known of a recording is lost");
        }
    }

    fn answer(&mut self, inquiry: Inquiry) -> Result<Answer, Unavailable> {
        match inquiry {
            Inquiry::List { room, limit, cursor } => self.list(&room, limit, cursor.as_deref()),
            Inquiry::Status { room, recording } => {
                self.find(&room, &recording).map(|entry| Answer::Entry(Box::new(entry)))
            }
            Inquiry::Latest { room } => {
                let latest = self.newest(&room, None, 1)?.into_iter().next().ok_or(Unavailable::NotFound)?;
                Ok(Answer::Entry(Box::new(latest)))
            }
            Inquiry::File { room, recording, name } => {
                let entry = self.find(&room, &recording)?;
                self.file(&entry, &name).ok_or(Unavailable::NotFound)
            }
            Inquiry::Uploads { after, limit } => self.unfinished(after.as_ref(), limit),
            Inquiry::UploadOf { recording } => self.unfinished_one(recording).map(|one| Answer::Uploads(vec![one])),
            Inquiry::Upload { recordings } => self.upload_again(recordings),
            Inquiry::Delete { .. } => unreachable!("answered when it is done"),
        }
    }

    fn list(&mut self, room: &RoomId, limit: usize, cursor: Option<&str>) -> Result<Answer, Unavailable> {
        let limit = limit.clamp(1, LIST_MAX);
        let before = match cursor {
            Some(cursor) => Some(RecordingId::parse(cursor).ok_or(Unavailable::Cursor)?),
            None => None,
        };
        let mut entries = self.newest(room, before.as_ref(), limit + 1)?;
        let is_more = entries.len() > limit;
        entries.truncate(limit);
        let next_cursor = entries.last().filter(|_| is_more).map(|last| last.recording.as_str().to_owned());
        Ok(Answer::List { entries, next_cursor })
    }

    /// At most `count`, newest first.
    fn newest(&mut self, room: &RoomId, before: Option<&RecordingId>, count: usize) -> Result<Vec<Entry>, Unavailable> {
        // Each change that is pending takes at most one of them away.
        let enough = count + self.pending.len();
        let rows = self.store.run(Instant::now(), |connection| recordings::list(connection, room, before, enough));
        let mut entries = self.pending.over_list(room, before, available(rows)?);
        entries.truncate(count);
        Ok(entries)
    }

    fn find(&mut self, room: &RoomId, recording: &RecordingId) -> Result<Entry, Unavailable> {
        let row = self.store.run(Instant::now(), |connection| recordings::find(connection, recording));
        let entry = self.pending.over(recording, available(row)?);
        entry.filter(|entry| entry.room == *room).ok_or(Unavailable::NotFound)
    }

    fn file(&self, entry: &Entry, name: &str) -> Option<Answer> {
        // Until the end has come the files still change, whatever is said of them.
        if entry.status.is_live() || entry.status == Status::Stopping {
            return None;
        }
        let file = entry.files.iter().find(|file| file.name == name)?;
        // Listed or not: what is no plain name is none of ours.
        if name.is_empty() || name.starts_with('.') || name.contains(['/', '\0']) {
            return None;
        }
        if let Some(remote) = file.remote.as_ref().filter(|remote| remote.is_only) {
            return Some(Answer::Remote { remote: remote.clone(), file: file.clone() });
        }
        let path = removal::directory(&self.recordings, entry)?.join(name);
        Some(Answer::File { path, file: file.clone() })
    }

    /// Uploads that are to go on.
    fn unfinished(&mut self, after: Option<&RecordingId>, limit: usize) -> Result<Answer, Unavailable> {
        // What was said before the question counts.
        self.write(Instant::now());
        let limit = limit.clamp(1, LIST_MAX);
        let ids = self.store.run(Instant::now(), |connection| recordings::uploading(connection, after, limit));
        let unfinished = available(ids)?.into_iter().map(|recording| self.unfinished_one(recording));
        Ok(Answer::Uploads(unfinished.collect::<Result<_, Unavailable>>()?))
    }

    fn unfinished_one(&mut self, recording: RecordingId) -> Result<Unfinished, Unavailable> {
        let found = self.store.run(Instant::now(), |connection| {
            Ok((uploads::find(connection, &recording)?, recordings::find(connection, &recording)?))
        });
        let (upload, row) = available(found)?;
        Ok(Unfinished { entry: self.pending.over(&recording, row), recording, upload })
    }

    /// Those that can be, and are not whole in a store.
    fn upload_again(&mut self, wanted: Option<Vec<RecordingId>>) -> Result<Answer, Unavailable> {
        self.write(Instant::now());
        let wanted = match wanted {
            Some(wanted) => wanted,
            None => available(self.store.run(Instant::now(), |connection| uploads::failed(connection, AGAIN_MAX)))?,
        };
        let mut again = Vec::new();
        for recording in wanted.into_iter().take(AGAIN_MAX) {
            let found = self.store.run(Instant::now(), |connection| {
                let transaction = connection.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
                let entry = recordings::find(&transaction, &recording)?;
                let phase = uploads::find(&transaction, &recording)?.map(|upload| upload.head.phase);
                let Some(mut entry) = entry.filter(|entry| may_be_uploaded(entry, phase)) else { return Ok(None) };
                (entry.status, entry.error, entry.progress) = (Status::Uploading, None, 0.0);
                recordings::save(&transaction, &entry)?;
                uploads::again(&transaction, &recording)?;
                transaction.commit()?;
                Ok(Some(entry))
            });
            again.extend(available(found)?);
        }
        Ok(Answer::Upload(again))
    }

    /// The last turn: nobody can say anything any more.
    fn finish(&mut self) {
        let until = Instant::now() + CLOSE_WITHIN;
        while (!self.deletions.is_idle() || !self.pending.is_empty()) && Instant::now() < until {
            self.guarded(Keeper::work);
            thread::sleep(deletion::LOOK);
        }
        if !self.pending.is_empty() {
            tracing::error!(recordings = self.pending.len(), "the database was not brought up to date");
        }
    }
}

/// Whether there is something to be uploaded, and nothing against it.
fn may_be_uploaded(entry: &Entry, phase: Option<upload::Phase>) -> bool {
    match entry.status {
        Status::Uploading => true,
        Status::Completed => entry.files.iter().any(|file| file.remote.is_none()),
        // What failed before it was whole stays here.
        Status::Failed => phase == Some(upload::Phase::Failed) && !entry.files.is_empty(),
        Status::Recording | Status::Paused | Status::Stopping | Status::Processing => false,
    }
}

fn available<T>(result: Result<T, Failure>) -> Result<T, Unavailable> {
    result.map_err(|failure| {
        if let Failure::Refused(error) = failure {
            tracing::error!(%error, "a question to the database");
        }
        Unavailable::Database
    })
}

/// Requests that wait: questions of a second or so.
const QUEUE: usize = 1024;
/// Changes that are written as one, and requests that are handled before anything is written.
const BATCH: usize = 256;
const LIST_MAX: usize = 200;
const WRITE_AGAIN: Duration = Duration::from_secs(1);
/// Uploads that are begun again at once.
const AGAIN_MAX: usize = 1000;
/// With nothing to do.
const IDLE: Duration = Duration::from_secs(3600);
const CLOSE_WITHIN: Duration = Duration::from_secs(2);
