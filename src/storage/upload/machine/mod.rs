//! Decides what is next in the upload of one recording.
//!
//! Driven by [`uploader`](crate::storage::uploader): asked by [`Machine::poll`], one thing at a time; told by `handle_*` what came of
//! it, and meanwhile what becomes of the recording. It goes by what is written down ([`Upload`]) and by what the recording says of
//! itself ([`Entry`]), never by what it remembers having done: so a machine that was made again from both goes on like the one
//! that is gone.
//!
//! `plan` has the decisions; what is here is what is told, what is asked, and what was not written down yet.
//!
//! Invariant: nothing is asked of the store while something is not written down.

mod plan;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime};

use super::backoff::{DELAY_MAX, GIVE_UP_AFTER, delay};
use super::task::{Done, Task};
use super::{key, total};
use crate::base::RecordingId;
use crate::recording::library::{Entry, FileEntry, Status};
use crate::recording::manifest::{from_unix_ms, unix_ms};
use crate::recording::upload::{Change, FileUpload, Head, Part, Phase, Step, Upload, What};
use crate::storage::store::{Fault, FaultKind, PartTag, UploadId};

/// What all uploads go by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Config {
    pub provider: &'static str,
    /// Octets of every part but the last.
    pub part_size: u64,
    /// Local copies stay.
    pub keep_local: bool,
}

/// See the module's documentation.
#[derive(Debug)]
pub struct Machine {
    config: Config,
    /// `<callId>/<recordingId>`.
    directory: PathBuf,
    upload: Upload,
    /// Once all its files are there.
    entry: Option<Entry>,
    /// What it had to say before anything was uploaded.
    remark: Option<String>,
    /// The file of the call, and how many of its octets do not change any more; while it is recorded.
    live: Option<(String, u64)>,
    goal: Goal,
    unsaved: Unsaved,
    /// What is being written, to be tried again.
    saving: Option<Unsaved>,
    doing: Option<Task>,
    /// Parts that were sent by somebody else: what they were made of may not be there any more.
    unchecked: BTreeSet<(String, u32)>,
    /// Files that may have been put, or put together, without anybody having heard of it.
    unsure: BTreeSet<String>,
    /// Keys of which nothing is in the store any more.
    deleted: BTreeSet<String>,
    /// Not before.
    wait: Option<Instant>,
    /// The last fault is the store's, so that others' luck is ours.
    may_hurry: bool,
    over: Option<Outcome>,
    random: fastrand::Rng,
}

/// What an upload is to come to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Goal {
    /// All of it is in the store.
    Stored,
    /// There is nothing to be stored: what was begun is aborted.
    Nothing,
    /// Nothing of it is in the store.
    Deleted,
}

/// What is to be done.
#[derive(Debug, PartialEq)]
pub enum Action {
    /// Answered by [`Machine::handle_written`].
    Write(Box<Change>),
    /// Answered by [`Machine::handle_done`].
    Do(Task),
    /// Nothing, until then or until something is told.
    Wait(Option<Instant>),
    /// Nothing any more.
    Over(Outcome),
}

#[derive(Debug, Clone, PartialEq)]
pub enum Outcome {
    Completed,
    /// It was given up.
    Failed,
    /// There was nothing to be stored.
    Nothing,
    Deleted,
    /// For people.
    NotDeleted(String),
}

/// What is not written down yet.
#[derive(Debug, Clone, Default)]
struct Unsaved {
    head: bool,
    entry: bool,
    files: BTreeSet<String>,
    /// The only thing that is new of a file.
    part: Option<(String, u32)>,
    /// Nothing is to be left.
    remove: bool,
}

impl Unsaved {
    fn is_empty(&self) -> bool {
        !self.head && !self.entry && self.files.is_empty() && self.part.is_none() && !self.remove
    }
}

impl Machine {
    /// One of which nothing is written down.
    pub fn new(config: Config, recording: RecordingId, directory: PathBuf, seed: u64) -> Machine {
        let head = Head {
            recording,
            provider: config.provider.to_owned(),
            phase: Phase::Live,
            keep_local: false,
            attempts: 0,
            restarts: 0,
            next_try_ms: None,
            first_failure_ms: None,
            error: None,
        };
        Machine {
            config,
            directory,
            upload: Upload { head, files: Vec::new() },
            entry: None,
            remark: None,
            live: None,
            goal: Goal::Stored,
            unsaved: Unsaved::default(),
            saving: None,
            doing: None,
            unchecked: BTreeSet::new(),
            unsure: BTreeSet::new(),
            deleted: BTreeSet::new(),
            wait: None,
            may_hurry: false,
            over: None,
            random: fastrand::Rng::with_seed(seed),
        }
    }

    /// One that somebody else has begun.
    pub fn resume(
        config: Config,
        upload: Upload,
        directory: PathBuf,
        now: Instant,
        wall: SystemTime,
        seed: u64,
    ) -> Machine {
        let mut machine = Machine::new(config, upload.head.recording.clone(), directory, seed);
        if upload.head.provider != config.provider {
            // Its ids mean nothing here, and where they mean something nobody may be asked any more.
            let (recording, provider) = (&upload.head.recording, &upload.head.provider);
            tracing::warn!(%recording, provider, "an upload into another store is begun anew in this one");
            machine.upload.head.phase = match upload.head.phase {
                Phase::Settling => Phase::Sending,
                phase => phase,
            };
            machine.unsaved.remove = true;
            return machine;
        }
        for file in &upload.files {
            machine.unchecked.extend(file.parts.iter().map(|part| (file.name.clone(), part.number)));
            if matches!(file.step, Step::Putting | Step::Completing) {
                machine.unsure.insert(file.name.clone());
            }
        }
        machine.wait = upload.head.next_try_ms.map(|at| {
            // A clock that was set makes nobody wait for years.
            let left = from_unix_ms(at).duration_since(wall).unwrap_or_default();
            now + left.min(DELAY_MAX)
        });
        machine.upload = upload;
        machine
    }

    pub fn recording(&self) -> &RecordingId {
        &self.upload.head.recording
    }

    /// Below the directory of all recordings.
    pub fn directory(&self) -> &PathBuf {
        &self.directory
    }

    pub fn entry(&self) -> Option<&Entry> {
        self.entry.as_ref()
    }

    pub fn upload(&self) -> &Upload {
        &self.upload
    }

    /// The last fault, where there is one.
    pub fn error(&self) -> Option<&str> {
        self.upload.head.error.as_deref()
    }

    /// Whether it waits because of a fault that may be over for all when it is over for one.
    pub fn waits_for_store(&self) -> bool {
        self.may_hurry && self.wait.is_some() && self.upload.head.attempts > 0
    }

    /// Whether nothing has to be written down.
    pub fn is_written(&self) -> bool {
        self.unsaved.is_empty() && self.saving.is_none()
    }

    /// From 0 to 1.
    pub fn progress(&self) -> f32 {
        let Some(entry) = &self.entry else { return 0.0 };
        let sent = |file: &FileEntry| match self.file(&file.name) {
            Some(upload) if upload.step == Step::Done => file.size,
            Some(upload) => upload.parts.iter().map(|part| part.size).sum::<u64>().min(file.size),
            None if file.remote.is_some() => file.size,
            None => 0,
        };
        let sent: u64 = entry.files.iter().map(sent).sum();
        (sent as f64 / total(entry).max(1) as f64).min(1.0) as f32
    }

    /// The recording goes on: so many octets of its file do not change any more.
    pub fn handle_grown(&mut self, name: &str, stable: u64) {
        if self.entry.is_none() {
            self.live = Some((name.to_owned(), stable));
        }
    }

    /// All files are there. `entry`: what is known of it, to be uploaded.
    pub fn handle_ended(&mut self, mut entry: Entry) {
        self.live = None;
        self.remark = entry.error.take().filter(|error| Some(error) != self.upload.head.error.as_ref());
        let head = &mut self.upload.head;
        head.keep_local |= self.remark.is_some();
        if matches!(head.phase, Phase::Live | Phase::Failed) {
            head.phase = Phase::Sending;
        }
        if entry.recovered {
            // The file may have been cut since.
            let parts = |file: &FileUpload| -> Vec<_> {
                file.parts.iter().map(|part| (file.name.clone(), part.number)).collect()
            };
            self.unchecked.extend(self.upload.files.iter().flat_map(parts));
        }
        entry.status = Status::Uploading;
        entry.error = self.upload.head.error.clone().or(self.remark.clone());
        self.entry = Some(entry);
        self.over = None;
        self.unsaved.head = true;
    }

    /// It did not come to anything that is to be stored. What is there already stays.
    pub fn handle_nothing(&mut self) {
        if self.goal == Goal::Stored && self.upload.head.phase == Phase::Live {
            self.goal = Goal::Nothing;
            self.wait = None;
        }
    }

    /// Nothing of it is to be in the store. `entry`: what is known of it.
    pub fn handle_delete(&mut self, entry: Entry) {
        self.goal = Goal::Deleted;
        (self.wait, self.over, self.live) = (None, None, None);
        self.deleted.clear();
        let is_begun = !self.upload.files.is_empty() || entry.status == Status::Uploading;
        self.entry = Some(entry);
        if is_begun {
            self.mark_deleting("it is being deleted");
        }
    }

    /// Somebody else had luck with the store.
    pub fn handle_luck(&mut self) {
        if self.waits_for_store() {
            self.wait = None;
        }
    }

    /// What is next; the same again until it was answered.
    pub fn poll(&mut self, now: Instant) -> Action {
        if self.saving.is_some() || self.doing.is_some() {
            return Action::Wait(None);
        }
        if let Some(at) = self.wait {
            if now < at {
                return Action::Wait(Some(at));
            }
            self.wait = None;
        }
        loop {
            if !self.unsaved.is_empty() {
                let (change, taken) = self.change();
                self.saving = Some(taken);
                return Action::Write(Box::new(change));
            }
            if let Some(outcome) = &self.over {
                return Action::Over(outcome.clone());
            }
            let next = match self.goal {
                Goal::Deleted => self.plan_deletion(),
                Goal::Nothing => self.plan_nothing(),
                Goal::Stored if self.upload.head.phase == Phase::Settling => self.plan_settling(),
                Goal::Stored if self.entry.is_some() => self.plan_files(),
                Goal::Stored => self.plan_live(),
            };
            match next {
                Next::Task(task) => {
                    self.doing = Some(task.clone());
                    return Action::Do(task);
                }
                Next::Again => {}
                Next::Nothing => return Action::Wait(None),
            }
        }
    }

    /// Whether what was to be written is. Where it is not known, it is not.
    pub fn handle_written(&mut self, now: Instant, is_written: bool) {
        let Some(saving) = self.saving.take().filter(|_| !is_written) else { return };
        let Unsaved { head, entry, files, part, remove } = saving;
        self.unsaved.head |= head;
        self.unsaved.entry |= entry;
        self.unsaved.files.extend(files);
        match (&self.unsaved.part, part) {
            // Two parts of a file are the file.
            (Some((name, _)), Some(_)) => {
                let name = name.clone();
                self.unsaved.files.insert(name);
                self.unsaved.part = None;
            }
            (None, part) => self.unsaved.part = part,
            (Some(_), None) => {}
        }
        self.unsaved.remove |= remove;
        self.wait = Some(now + WRITE_AGAIN);
        self.may_hurry = false;
    }

    /// What came of the task. `wall`: of this machine.
    pub fn handle_done(&mut self, now: Instant, wall: SystemTime, result: Result<Done, Fault>) {
        let Some(task) = self.doing.take() else { return };
        match result {
            Ok(done) => self.done(now, wall, task, done),
            Err(fault) => self.failed(now, wall, &task, fault),
        }
    }

    fn done(&mut self, now: Instant, wall: SystemTime, task: Task, done: Done) {
        match (task, done) {
            (Task::Create { key, .. }, Done::Created(UploadId { id, object })) => {
                self.change_file(&key, |file| (file.id, file.object, file.step) = (Some(id), object, Step::Parts));
            }
            (Task::Part { name, number, .. }, Done::Sent(tag, sha256)) => {
                let PartTag { etag, size, checksum, .. } = tag;
                self.note_part(&name, Part { number, etag, size, checksum, sha256 });
                self.succeeded(false);
            }
            (Task::Check { name, offset, .. }, Done::Checked(is_same)) => {
                let number = self.number_at(offset);
                self.unchecked.remove(&(name.clone(), number));
                if !is_same {
                    let key = key(&self.directory, &name);
                    self.change_file(&key, |file| file.parts.retain(|part| part.number != number));
                }
            }
            (Task::Complete { key, .. } | Task::Put { key, .. }, Done::Stored(stored)) => {
                if let Some(file) = self.upload.files.iter().find(|file| file.key == key) {
                    self.unsure.remove(&file.name);
                }
                self.change_file(&key, |file| {
                    (file.etag, file.url, file.step) = (Some(stored.etag), Some(stored.url), Step::Verifying);
                });
            }
            (Task::Verify { key, .. }, Done::Verified(Some(stored))) => {
                self.change_file(&key, |file| {
                    (file.url, file.step) = (Some(stored.url), Step::Done);
                    // Whether its upload was completed nobody has heard: what is there may be of an earlier one.
                    if file.etag.take().is_some() {
                        (file.id, file.object) = (None, None);
                    }
                    file.parts.clear();
                });
                self.succeeded(true);
            }
            (Task::Verify { key, name, .. }, Done::Verified(None)) => {
                let was_unsure = self.unsure.remove(&name);
                if !was_unsure {
                    let fault = Fault::new(FaultKind::Corrupt, format!("{name}: the store has something else"));
                    self.begin_anew(&key);
                    self.fault(now, wall, fault);
                }
            }
            (Task::Abort { key, .. }, _) => self.change_file(&key, |file| {
                (file.id, file.object) = (None, None);
                file.parts.clear();
            }),
            (Task::Delete { key }, _) => {
                self.deleted.insert(key);
            }
            (Task::Settle { .. }, _) => {
                if let Some(entry) = &mut self.entry {
                    (entry.status, entry.progress, entry.error) = (Status::Completed, 1.0, self.remark.clone());
                }
                self.unsaved = Unsaved { entry: true, remove: true, ..Unsaved::default() };
                self.over = Some(Outcome::Completed);
            }
            // What a task does not come to.
            (Task::Create { .. } | Task::Part { .. } | Task::Check { .. } | Task::Complete { .. }, _)
            | (Task::Put { .. } | Task::Verify { .. }, _) => {}
        }
    }

    fn failed(&mut self, now: Instant, wall: SystemTime, task: &Task, fault: Fault) {
        if self.goal == Goal::Deleted {
            // What was under way before is of no interest any more.
            if matches!(task, Task::Abort { .. } | Task::Delete { .. }) {
                self.deletion_failed(&fault.text);
            }
            return;
        }
        match (task, fault.kind) {
            // It may have been completed before, and nobody has heard of it. Some stores say otherwise that the upload is gone.
            (Task::Complete { key, .. }, FaultKind::Missing) => {
                self.change_file(key, |file| file.step = Step::Verifying);
                return;
            }
            (Task::Part { key, .. }, FaultKind::Missing) | (Task::Complete { key, .. }, FaultKind::Corrupt) => {
                self.begin_anew(key);
            }
            // The same keys have just been good for looking at the object: what is refused is an upload that is gone.
            (Task::Abort { key, .. }, FaultKind::Credentials | FaultKind::Refused) if self.is_done(key) => {
                self.change_file(key, |file| (file.id, file.object) = (None, None));
                return;
            }
            (Task::Complete { key, .. }, _) => {
                let name = self.upload.files.iter().find(|file| file.key == *key).map(|file| file.name.clone());
                self.unsure.extend(name);
            }
            _ => {}
        }
        self.fault(now, wall, fault);
    }

    /// It is tried again later, or given up.
    fn fault(&mut self, now: Instant, wall: SystemTime, fault: Fault) {
        let head = &mut self.upload.head;
        head.attempts = head.attempts.saturating_add(1);
        let first_ms = *head.first_failure_ms.get_or_insert(unix_ms(wall));
        let wait = delay(head.attempts.max(head.restarts), fault.retry_after, &mut self.random);
        head.next_try_ms = Some(unix_ms(wall + wait));
        head.error = Some(fault.text.clone());
        self.wait = Some(now + wait);
        self.may_hurry = fault.retry_after.is_none() && is_of_store(fault.kind);
        self.unsaved.head = true;
        let is_hopeless = Duration::from_millis(unix_ms(wall).saturating_sub(first_ms)) >= GIVE_UP_AFTER;
        if let Some(entry) = &mut self.entry {
            self.unsaved.entry |= entry.error.as_ref() != Some(&fault.text);
            entry.error = Some(fault.text);
            if is_hopeless {
                entry.status = Status::Failed;
                (self.upload.head.phase, self.upload.head.next_try_ms) = (Phase::Failed, None);
                (self.wait, self.over, self.unsaved.entry) = (None, Some(Outcome::Failed), true);
            }
        } else if is_hopeless && self.goal == Goal::Nothing {
            self.unsaved.remove = true;
            (self.wait, self.over) = (None, Some(Outcome::Nothing));
        }
    }

    /// It goes on. `is_file`: a whole file is there.
    fn succeeded(&mut self, is_file: bool) {
        self.may_hurry = false;
        let head = &mut self.upload.head;
        // What is begun again and again makes no progress by its parts.
        if is_file {
            head.restarts = 0;
        } else if head.restarts > 0 {
            return;
        }
        (head.attempts, head.next_try_ms, head.first_failure_ms) = (0, None, None);
        if head.error.take().is_some()
            && let Some(entry) = &mut self.entry
        {
            entry.error = self.remark.clone();
            (self.unsaved.head, self.unsaved.entry) = (true, true);
        }
    }

    fn note_part(&mut self, name: &str, part: Part) {
        let number = part.number;
        let Some(file) = self.upload.files.iter_mut().find(|file| file.name == name) else { return };
        let is_again = file.parts.iter().any(|known| known.number == number);
        file.parts.retain(|known| known.number != number);
        let place = file.parts.partition_point(|known| known.number < number);
        file.parts.insert(place, part);
        if is_again || self.unsaved.part.is_some() {
            self.unsaved.files.insert(name.to_owned());
        } else {
            self.unsaved.part = Some((name.to_owned(), number));
        }
    }

    /// What was sent of it is of no use. The upload it had is aborted first: whoever says that there is none may be wrong.
    fn begin_anew(&mut self, key: &str) {
        self.upload.head.restarts = self.upload.head.restarts.saturating_add(1);
        let part_size = self.config.part_size;
        let name = self.upload.files.iter().find(|file| file.key == key).map(|file| file.name.clone());
        let size =
            self.entry.as_ref().and_then(|entry| entry.files.iter().find(|file| Some(&file.name) == name.as_ref()));
        let is_put = size.is_some_and(|file| file.size <= part_size);
        self.change_file(key, |file| {
            file.step = if is_put { Step::Putting } else { Step::Creating };
            (file.etag, file.url) = (None, None);
            file.parts.clear();
        });
    }

    fn change_file(&mut self, key: &str, change: impl FnOnce(&mut FileUpload)) {
        if let Some(file) = self.upload.files.iter_mut().find(|file| file.key == key) {
            change(file);
            self.unsaved.files.insert(file.name.clone());
        }
    }

    fn is_done(&self, key: &str) -> bool {
        self.upload.files.iter().any(|file| file.key == key && file.step == Step::Done)
    }

    fn file(&self, name: &str) -> Option<&FileUpload> {
        self.upload.files.iter().find(|file| file.name == name)
    }

    fn number_at(&self, offset: u64) -> u32 {
        u32::try_from(offset / self.config.part_size.max(1) + 1).unwrap_or(u32::MAX)
    }

    /// One thing at a time, the most there is to say.
    fn change(&mut self) -> (Change, Unsaved) {
        let mut taken = Unsaved { entry: std::mem::take(&mut self.unsaved.entry), ..Unsaved::default() };
        let head = self.upload.head.clone();
        let what = if std::mem::take(&mut self.unsaved.remove) {
            taken.remove = true;
            What::Remove
        } else if let Some(name) = self.unsaved.files.pop_first() {
            self.unsaved.head = false;
            self.unsaved.part.take_if(|(of, _)| *of == name);
            taken.files.insert(name.clone());
            match self.file(&name) {
                Some(file) => What::File(head, file.clone()),
                None => What::Forget(head, name),
            }
        } else if let Some((name, number)) = self.unsaved.part.take() {
            self.unsaved.head = false;
            let part = self.file(&name).and_then(|file| file.parts.iter().find(|part| part.number == number));
            let what = part.cloned().map_or(What::Head(head.clone()), |part| What::Part(head, name.clone(), part));
            taken.part = Some((name, number));
            what
        } else {
            self.unsaved.head = false;
            taken.head = true;
            What::Head(head)
        };
        let entry = taken.entry.then(|| self.entry.clone()).flatten().map(Box::new);
        let entry = entry.map(|mut entry| {
            entry.progress = if entry.status == Status::Uploading { self.progress() } else { entry.progress };
            entry
        });
        (Change { recording: self.recording().clone(), what, entry }, taken)
    }
}

/// What planning comes to.
enum Next {
    Task(Task),
    /// Something has to be written first, or is to be looked at again.
    Again,
    Nothing,
}

/// Whether it is the same for everybody who asks the store.
fn is_of_store(kind: FaultKind) -> bool {
    match kind {
        FaultKind::Credentials
        | FaultKind::Clock
        | FaultKind::Bucket
        | FaultKind::Region
        | FaultKind::Network
        | FaultKind::Tls
        | FaultKind::Throttled
        | FaultKind::Server => true,
        FaultKind::Missing | FaultKind::Corrupt | FaultKind::Local | FaultKind::Refused => false,
    }
}

/// While the database does not take it.
const WRITE_AGAIN: Duration = Duration::from_secs(1);
