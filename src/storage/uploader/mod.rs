//! The threads that upload: each takes a [`Machine`](super::upload::machine::Machine) whose turn it is, does what it wants done, and puts it back.
//!
//! Fed by whoever records, finishes or deletes, who never wait: what they say is noted, and what cannot be noted is found again in
//! the database, which is the queue. A machine does nothing while the database does not take what it has to write down.
//!
//! - `slots`: all uploads and what was said to them; whose turn it is
//! - `turn`: what a thread does with one of them

mod slots;
mod turn;

#[cfg(test)]
mod tests;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::thread;
use std::time::{Duration, Instant};

use super::outbox::Outbox;
use super::recorder::NoticeTo;
use super::store::Store;
use super::upload::machine;
use crate::base::queue::{Full, Sender};
use crate::base::{RecordingId, WorkerId};
use crate::recording::library::{Answer, Deletion, Entry, Inquiry, Request, Unavailable, Uploader};
use slots::{Slots, Turn};

/// What uploads go by.
#[derive(Clone)]
pub struct Config {
    pub store: Arc<dyn Store>,
    /// Below which recordings are.
    pub directory: PathBuf,
    pub keep_local: bool,
    /// Uploads at once. Each holds a buffer of the provider's and 256 KiB.
    pub threads: usize,
}

impl Config {
    pub fn new(store: Arc<dyn Store>, directory: &Path, keep_local: bool) -> Config {
        Config { store, directory: directory.to_owned(), keep_local, threads: THREADS }
    }

    fn machine(&self) -> machine::Config {
        machine::Config {
            provider: self.store.provider(),
            part_size: self.store.part_size().max(1),
            keep_local: self.keep_local,
        }
    }
}

/// All threads.
pub struct Uploads {
    handle: Handle,
    /// Nothing comes; they are over when whoever could send is gone.
    over: Receiver<()>,
}

/// Takes what is said to uploads; cloned for each who has something to say. Nobody waits.
#[derive(Clone)]
pub struct Handle(Arc<Inner>);

struct Inner {
    config: Config,
    library: Sender<Request>,
    outbox: Arc<Outbox>,
    notice: Arc<NoticeTo>,
    slots: Mutex<Slots>,
    /// Something was said.
    wake: Condvar,
    stopping: AtomicBool,
}

impl Uploads {
    /// Starts them with what the database has unfinished. Errors: a thread cannot be made.
    pub fn start(
        config: Config,
        library: Sender<Request>,
        outbox: Arc<Outbox>,
        notice: Arc<NoticeTo>,
    ) -> io::Result<Uploads> {
        let threads = config.threads.max(1);
        let inner = Arc::new(Inner {
            config,
            library,
            outbox,
            notice,
            slots: Mutex::new(Slots::new(Instant::now())),
            wake: Condvar::new(),
            stopping: AtomicBool::new(false),
        });
        let (is_running, over) = channel::<()>();
        // Whoever asks the database to delete after this finds somebody who can.
        let mut late = inner.library.try_send(Request::Uploader(Handle::weak(&inner))).err();
        for number in 0..threads {
            let (inner, is_running, late) = (inner.clone(), is_running.clone(), late.take());
            thread::Builder::new().name(format!("upload-{number}")).spawn(move || {
                if let Some(Full(request)) = late {
                    inner.tell(request);
                }
                inner.run();
                drop(is_running);
            })?;
        }
        Ok(Uploads { handle: Handle(inner), over })
    }

    pub fn handle(&self) -> Handle {
        self.handle.clone()
    }

    /// Ends between two requests. What is under way longer than that, or is not sent, the next start goes on with.
    pub fn stop(self, deadline: Instant) {
        self.handle.0.stopping.store(true, Ordering::Relaxed);
        self.handle.0.wake.notify_all();
        let left = deadline.saturating_duration_since(Instant::now());
        if self.over.recv_timeout(left) != Err(RecvTimeoutError::Disconnected) {
            tracing::warn!("uploads are under way; the next start goes on with them");
        }
    }
}

impl Handle {
    /// The file of the call has so many octets that do not change any more. `directory`: below that of all recordings.
    pub fn grown(&self, recording: &RecordingId, directory: &Path, name: &str, stable: u64) {
        self.0.slots().grown(&self.0.config.machine(), recording, directory, name, stable);
        self.0.wake.notify_one();
    }

    /// All files of a recording are there, and the database was told that it is being uploaded. `worker`: that of its room.
    pub fn ended(&self, entry: &Entry, worker: Option<WorkerId>) {
        self.0.slots().ended(entry, worker);
        self.0.wake.notify_one();
    }

    /// A recording comes to nothing that is to be uploaded.
    pub fn nothing(&self, recording: &RecordingId) {
        self.0.slots().nothing(recording);
        self.0.wake.notify_one();
    }

    /// The database may know of some that are not known here.
    pub fn rescan(&self) {
        self.0.slots().rescan(Instant::now());
        self.0.wake.notify_one();
    }

    /// Whether nothing is to be done, as far as is known.
    pub fn is_idle(&self) -> bool {
        self.0.slots().is_empty()
    }

    fn weak(inner: &Arc<Inner>) -> Uploader {
        // The database, which keeps this, ends when nobody is left who could ask it.
        let inner: Weak<Inner> = Arc::downgrade(inner);
        Arc::new(move |deletion: Deletion| {
            let Some(inner) = inner.upgrade() else { return Err(Box::new(deletion)) };
            let taken = inner.slots().delete(deletion);
            inner.wake.notify_one();
            taken
        })
    }
}

impl Inner {
    fn slots(&self) -> MutexGuard<'_, Slots> {
        // Each of its changes is whole before anything can panic.
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Relaxed)
    }

    fn run(self: &Arc<Inner>) {
        while let Some(turn) = self.next() {
            match turn {
                Turn::Rescan => self.look(),
                Turn::Upload(taken) => self.upload(*taken),
            }
        }
    }

    /// Whose turn it is; waits until there is somebody. `None`: it is time to stop.
    fn next(&self) -> Option<Turn> {
        let mut slots = self.slots();
        loop {
            if self.is_stopping() {
                return None;
            }
            let now = Instant::now();
            if let Some(turn) = slots.next(now, |recording| self.outbox.holds(recording)) {
                return Some(turn);
            }
            let timeout = slots.poll_timeout().map_or(IDLE, |at| at.saturating_duration_since(now)).min(IDLE);
            let waited = self.wake.wait_timeout(slots, timeout.max(Duration::from_millis(1)));
            slots = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// What the database has unfinished gets its place.
    fn look(&self) {
        let mut after: Option<RecordingId> = None;
        loop {
            match self
                .ask(|reply| Request::Ask { inquiry: Inquiry::Uploads { after: after.clone(), limit: PAGE }, reply })
            {
                Ok(Answer::Uploads(found)) => {
                    let is_last = found.len() < PAGE;
                    after = found.last().map(|unfinished| unfinished.recording.clone());
                    let mut slots = self.slots();
                    let has_room = found.into_iter().all(|unfinished| slots.found(unfinished.recording));
                    match (is_last, has_room) {
                        // Those that have none wait for those that have.
                        (_, false) => return slots.looked(Some(Instant::now() + LOOK_AGAIN)),
                        (true, true) => return slots.looked(None),
                        (false, true) => {}
                    }
                }
                _ => return self.slots().looked(Some(Instant::now() + ASK_AGAIN)),
            }
            if self.is_stopping() {
                return;
            }
        }
    }

    /// Asks the database, and waits for the answer, but not for ever.
    fn ask(&self, request: impl FnOnce(crate::recording::library::ReplyTo) -> Request) -> Result<Answer, Unavailable> {
        let (send, answer) = channel();
        // Who has waited long enough is not there any more.
        let request = request(Box::new(move |answer| drop(send.send(answer))));
        self.library.try_send(request).map_err(|_| Unavailable::Database)?;
        answer.recv_timeout(ANSWER_WITHIN).unwrap_or(Err(Unavailable::Database))
    }

    /// Says it as soon as the database has room. Lost when that is not before the end.
    fn tell(&self, request: Request) {
        let mut request = request;
        while let Err(Full(back)) = self.library.try_send(request) {
            if self.is_stopping() {
                return;
            }
            request = back;
            thread::sleep(TELL_AGAIN);
        }
    }
}

/// More would only share the line.
const THREADS: usize = 2;
/// Uploads that the database names at once.
const PAGE: usize = 100;
/// The database is slow, or gone.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);
const ASK_AGAIN: Duration = Duration::from_secs(1);
const TELL_AGAIN: Duration = Duration::from_millis(20);
/// With more uploads than have a place.
const LOOK_AGAIN: Duration = Duration::from_secs(60);
/// With nothing to do.
const IDLE: Duration = Duration::from_secs(3600);
