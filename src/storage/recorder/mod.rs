//! Starts the threads of recordings, hands them what shards send, and stops them.
//!
//! A recording stays on one of the threads that record. One more thread finishes and repairs, one sees to it that what was
//! written reaches the disk, and some upload where there is a store.

use std::hash::{Hash, Hasher};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

use super::disk;
use super::finisher::{self, Task};
use super::live::Room;
use super::machine::{Machine, Recorder};
use super::outbox::Outbox;
use super::thread::{SyncTask, Thread, sync};
use super::uploader::{self, Uploads};
use crate::base::queue::{Full, Sender, bounded};
use crate::base::{RecordingId, WorkerId};
use crate::config;
use crate::recording::feed::{Feed, Notice};
use crate::recording::library::Request;

/// What the threads go by.
#[derive(Clone)]
pub struct Config {
    /// Where recordings are written. It is made when the first one begins.
    pub directory: PathBuf,
    /// That record.
    pub threads: usize,
    /// Recordings at once, of all threads.
    pub recordings_max: usize,
    /// Of one.
    pub length_max: Duration,
    /// Octets of the call's file.
    pub size_max: u64,
    /// Octets that have to be free for one to begin. With less than half of it, those that run end.
    pub free_min: u64,
    /// Asked for octets that are free.
    pub free: fn(&Path) -> io::Result<u64>,
    /// See there.
    pub room: Room,
    /// Recordings go into a store as well.
    pub upload: Option<uploader::Config>,
}

impl Config {
    pub fn of(config: &config::Config, workers: usize) -> Config {
        Config {
            directory: config.recording.output_dir.clone(),
            threads: workers.div_ceil(WORKERS_PER_THREAD).max(1),
            recordings_max: config.limits.recordings,
            length_max: config.limits.recording_length,
            size_max: config.limits.recording_size,
            free_min: config.recording.min_free_disk,
            free: disk::free,
            room: Room::default(),
            upload: None,
        }
    }

    /// Octets of the disk; also where the directory is not there yet.
    pub fn free(&self) -> io::Result<u64> {
        let mut path = self.directory.as_path();
        loop {
            let is_relative_root = path.as_os_str().is_empty();
            match (self.free)(if is_relative_root { Path::new(".") } else { path }) {
                Err(error) if error.kind() == io::ErrorKind::NotFound && !is_relative_root => match path.parent() {
                    Some(parent) => path = parent,
                    None => return Err(error),
                },
                free => return free,
            }
        }
    }

    /// With less, what runs ends.
    pub fn free_floor(&self) -> u64 {
        (self.free_min / 2).max(FREE_FLOOR)
    }
}

/// Takes a notice to the worker of the room. Must not block.
pub type NoticeTo = dyn Fn(WorkerId, Notice) + Send + Sync;

/// What all threads have in common.
pub struct Shared {
    pub config: Config,
    pub notice: Arc<NoticeTo>,
    pub outbox: Arc<Outbox>,
    /// `None`: recordings stay here.
    pub uploads: Option<uploader::Handle>,
    pub finisher: Sender<Task>,
    pub syncer: Sender<SyncTask>,
    /// Recordings that are made.
    pub count: AtomicUsize,
    /// Look for what is unfinished: at the start, and when the finisher's queue was full.
    pub rescan: AtomicBool,
    stopping: AtomicBool,
    /// The time is up: what is not finished is for the next start.
    pub cancel: AtomicBool,
}

impl Shared {
    pub fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Relaxed)
    }
}

/// To a thread that records.
#[derive(Debug)]
pub enum Message {
    Feed(Feed),
    /// Somebody has to look whether it is time to stop.
    Wake,
}

/// Hands on what shards send; cloned for each.
#[derive(Clone)]
pub struct Handle {
    queues: Arc<[Sender<Message>]>,
}

impl Handle {
    /// Comes back when the thread has too much to do, or is gone.
    pub fn send(&self, feed: Feed) -> Result<(), Feed> {
        let recording = match &feed {
            Feed::Begin(begin) => &begin.recording,
            Feed::Batch { recording, .. } => recording,
        };
        let queue = &self.queues[place(recording, self.queues.len())];
        queue.try_send(Message::Feed(feed)).map_err(|Full(message)| match message {
            Message::Feed(feed) => feed,
            Message::Wake => unreachable!("what was sent comes back"),
        })
    }
}

fn place(recording: &RecordingId, count: usize) -> usize {
    let mut hasher = rustc_hash::FxHasher::default();
    recording.hash(&mut hasher);
    // The upper bits are those that depend on all others.
    ((hasher.finish() >> 32) % count as u64) as usize
}

/// All threads.
pub struct Recorders {
    handle: Handle,
    shared: Arc<Shared>,
    /// Nothing comes; they are over when whoever could send is gone.
    recording: Receiver<()>,
    finishing: Receiver<()>,
    uploads: Option<Uploads>,
}

impl Recorders {
    /// Starts them; whatever is unfinished is repaired meanwhile. Errors: a thread cannot be made.
    pub fn start(config: Config, notice: Arc<NoticeTo>, library: Sender<Request>) -> io::Result<Recorders> {
        Recorders::start_with::<Recorder>(config, notice, library)
    }

    pub fn start_with<M: Machine>(
        config: Config,
        notice: Arc<NoticeTo>,
        library: Sender<Request>,
    ) -> io::Result<Recorders> {
        let outbox = Arc::new(Outbox::new(library.clone()));
        let start = |config| Uploads::start(config, library, outbox.clone(), notice.clone());
        let uploads = config.upload.clone().map(start).transpose()?;
        let (finisher, tasks) = bounded(FINISHER_QUEUE);
        let (syncer, syncs) = bounded(SYNC_QUEUE);
        let threads = config.threads.max(1);
        let shared = Arc::new(Shared {
            config,
            notice,
            outbox,
            uploads: uploads.as_ref().map(Uploads::handle),
            finisher,
            syncer,
            count: AtomicUsize::new(0),
            rescan: AtomicBool::new(true),
            stopping: AtomicBool::new(false),
            cancel: AtomicBool::new(false),
        });
        let (is_recording, recording) = channel();
        let mut queues = Vec::with_capacity(threads);
        for number in 0..threads {
            let (queue, messages) = bounded(QUEUE);
            queues.push(queue);
            let (shared, is_recording) = (shared.clone(), is_recording.clone());
            thread::Builder::new().name(format!("recorder-{number}")).spawn(move || {
                Thread::<M>::new(shared).run(&messages);
                drop(is_recording);
            })?;
        }
        thread::Builder::new().name("recorder-sync".into()).spawn(move || sync(&syncs))?;
        let (is_finishing, finishing) = channel::<()>();
        let of_finisher = shared.clone();
        thread::Builder::new().name("recorder-end".into()).spawn(move || {
            finisher::run(&of_finisher, &tasks);
            drop(is_finishing);
        })?;
        Ok(Recorders { handle: Handle { queues: queues.into() }, shared, recording, finishing, uploads })
    }

    pub fn handle(&self) -> Handle {
        self.handle.clone()
    }

    /// Ends what still runs, and waits for what was begun up to a moment. What is not finished then, the next start finishes.
    pub fn stop(self, deadline: Instant) {
        self.shared.stopping.store(true, Ordering::Relaxed);
        // Whose queue is full is awake.
        self.handle.queues.iter().for_each(|queue| drop(queue.try_send(Message::Wake)));
        let mut is_over = wait(&self.recording, deadline);
        if is_over {
            while self.shared.finisher.try_send(Task::Stop).is_err() && Instant::now() < deadline {
                thread::sleep(Duration::from_millis(10));
            }
            is_over = wait(&self.finishing, deadline);
        }
        self.shared.cancel.store(true, Ordering::Relaxed);
        if !is_over {
            tracing::warn!("recordings are not finished; the next start does that");
            wait(&self.finishing, Instant::now() + GRACE);
        }
        if let Some(uploads) = self.uploads {
            uploads.stop(deadline.min(Instant::now() + GRACE));
        }
        // The database may be gone already.
        let deadline = deadline.min(Instant::now() + GRACE);
        while !self.shared.outbox.flush() && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(10));
        }
    }
}

/// Whether nobody is left who could send.
fn wait(over: &Receiver<()>, deadline: Instant) -> bool {
    let left = deadline.saturating_duration_since(Instant::now());
    matches!(over.recv_timeout(left), Err(RecvTimeoutError::Disconnected))
}

/// One thread does the recordings of four workers with ease: it copies octets to the system, nothing more.
const WORKERS_PER_THREAD: usize = 4;
/// Batches and beginnings that wait for a thread; a batch is what a shard has in one turn, and its octets are bounded by the
/// shard (`LIMIT_RECORDING_QUEUE`). Full: the shard keeps it, or notes a gap.
const QUEUE: usize = 1024;
/// Recordings that wait to be finished. Full: they are found by a look through the directories.
const FINISHER_QUEUE: usize = 1024;
/// Files that wait for the disk. Full: asked again a moment later.
const SYNC_QUEUE: usize = 64;
/// Whatever is configured: the database and the log want to go on as well.
const FREE_FLOOR: u64 = 64 * 1024 * 1024;
/// For whoever is told to leave off to do so, and for the database to hear the last of it.
const GRACE: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests;
