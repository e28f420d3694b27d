//! What the database is to know of recordings, kept until it takes it. Nobody waits for it here.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::base::RecordingId;
use crate::base::queue::{Full, Sender};
use crate::recording::library::{Entry, Request, Update};

/// Of all threads that know something: what was said last is what comes last.
pub struct Outbox {
    library: Sender<Request>,
    /// The latest of each recording that the database has no room for. As many as change while it is stuck.
    waiting: Mutex<BTreeMap<RecordingId, Box<Entry>>>,
}

impl Outbox {
    pub fn new(library: Sender<Request>) -> Outbox {
        Outbox { library, waiting: Mutex::new(BTreeMap::new()) }
    }

    /// It is never lost, and takes the place of an older one of the same recording.
    pub fn save(&self, entry: &Entry) {
        let mut waiting = self.waiting();
        waiting.insert(entry.recording.clone(), Box::new(entry.clone()));
        self.send(&mut waiting);
    }

    /// How far it is; lost when there is no room, since another one follows.
    pub fn progress(&self, recording: &RecordingId, duration_ms: u64, size: u64, progress: f32) {
        let waiting = self.waiting();
        if !waiting.contains_key(recording) {
            let update = Update::Progress { recording: recording.clone(), duration_ms, size, progress };
            let _ = self.library.try_send(Request::Update(update));
        }
    }

    /// Whether something about it waits.
    pub fn holds(&self, recording: &RecordingId) -> bool {
        self.waiting().contains_key(recording)
    }

    /// Waits for room, for at most so long. Whether it was taken.
    pub fn found(&self, entry: Box<Entry>, within: Duration) -> bool {
        let deadline = Instant::now() + within;
        let mut update = Request::Update(Update::Found(entry));
        loop {
            match self.library.try_send(update) {
                Ok(()) => return true,
                Err(Full(_)) if Instant::now() >= deadline => return false,
                Err(Full(back)) => update = back,
            }
            std::thread::sleep(RETRY);
        }
    }

    /// Tries again. Whether nothing waits any more.
    pub fn flush(&self) -> bool {
        let mut waiting = self.waiting();
        self.send(&mut waiting);
        waiting.is_empty()
    }

    fn send(&self, waiting: &mut BTreeMap<RecordingId, Box<Entry>>) {
        while let Some((recording, entry)) = waiting.pop_first() {
            if let Err(Full(Request::Update(Update::Save(entry)))) =
                self.library.try_send(Request::Update(Update::Save(entry)))
            {
                waiting.insert(recording, entry);
                return;
            }
        }
    }

    fn waiting(&self) -> MutexGuard<'_, BTreeMap<RecordingId, Box<Entry>>> {
        // A map of values is whole whoever has panicked.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

const RETRY: Duration = Duration::from_millis(20);

#[cfg(test)]
mod tests {
    use super::super::tests::entry;
    use super::*;
    use crate::base::queue::bounded;
    use crate::recording::library::Status;

    #[test]
    fn the_latest_of_each_waits_for_room() {
        let (library, requests) = bounded(1);
        let outbox = Outbox::new(library);
        let entry = |number, status| Entry { status, ..entry(number) };
        for status in [Status::Recording, Status::Stopping, Status::Processing, Status::Completed] {
            outbox.save(&entry(1, status));
            outbox.save(&entry(2, status));
        }
        // Behind what waits it would only be confusing.
        outbox.progress(&entry(1, Status::Completed).recording, 1, 1, 0.5);
        assert!(!outbox.flush());
        assert!(!outbox.found(Box::new(entry(3, Status::Completed)), Duration::ZERO));
        let mut saved = Vec::new();
        while let Ok(request) = requests.try_recv() {
            let Request::Update(Update::Save(entry)) = request else { panic!("only saves") };
            saved.push((entry.recording.clone(), entry.status));
            outbox.flush();
        }
        let of = |number| entry(number, Status::Failed).recording;
        assert_eq!(saved[0], (of(1), Status::Recording));
        let last = |number| saved.iter().rfind(|(recording, _)| *recording == of(number)).map(|(_, status)| *status);
        assert_eq!((last(1), last(2)), (Some(Status::Completed), Some(Status::Completed)));
        assert_eq!(saved.len(), 3);
        assert!(outbox.flush());
        assert!(outbox.found(Box::new(entry(3, Status::Completed)), Duration::ZERO));
    }
}
