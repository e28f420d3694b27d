//! What a thread does with an upload whose turn it is: some steps, then others have theirs.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use super::slots::{Mail, Taken};
use super::{ASK_AGAIN, Inner};
use crate::base::{RecordingId, WorkerId};
use crate::recording::feed::{Notice, NoticeKind};
use crate::recording::library::{Answer, Entry, Inquiry, Request, Status, Unavailable};
use crate::recording::upload::{Phase, Unfinished};
use crate::storage::store::{Fault, FaultKind};
use crate::storage::upload::machine::{Action, Machine, Outcome};
use crate::storage::upload::task::{self, Done};

/// What became of a turn.
enum Next {
    /// Its turn comes again then; `None`: when something is said.
    Wait(Option<Instant>),
    Over(Option<Outcome>),
}

impl Inner {
    pub(super) fn upload(self: &Arc<Inner>, taken: Taken) {
        let Taken { recording, machine, mail, worker, seed } = taken;
        let machine = match machine {
            Some(machine) => Ok(machine),
            None => self.read(&recording, &mail, seed),
        };
        let now = Instant::now();
        let mut machine = match machine {
            Ok(machine) => machine,
            Err(Some(again)) => return self.slots().put_back(now, &recording, None, mail, Some(again)),
            Err(None) => return self.slots().remove(now, &recording),
        };
        let deleting = mail.delete.is_some();
        let next = catch_unwind(AssertUnwindSafe(|| {
            read_mail(&mut machine, mail);
            self.work(&mut machine)
        }));
        let now = Instant::now();
        match next {
            Ok(Next::Wait(due)) => self.slots().put_back(now, &recording, Some(machine), Mail::default(), due),
            Ok(Next::Over(outcome)) => {
                if let Some(outcome) = outcome {
                    self.tell_outcome(&machine, outcome, worker);
                }
                self.slots().remove(now, &recording);
            }
            Err(_) => {
                tracing::error!(%recording, "an upload broke, and is read again from what was written down");
                if deleting {
                    let result = Err("it broke".into());
                    self.tell(Request::Deleted { recording: recording.clone(), result });
                }
                self.slots().put_back(now, &recording, None, Mail::default(), Some(now + BROKEN));
            }
        }
    }

    /// What is written down of it. Errors: it is to be read again then, or there is nothing to do.
    fn read(&self, recording: &RecordingId, mail: &Mail, seed: u64) -> Result<Box<Machine>, Option<Instant>> {
        let ask = |reply| {
            let inquiry = Inquiry::UploadOf { recording: recording.clone() };
            Request::Ask { inquiry, reply }
        };
        let Ok(Answer::Uploads(found)) = self.ask(ask) else { return Err(Some(Instant::now() + ASK_AGAIN)) };
        let Some(Unfinished { upload, entry, .. }) = found.into_iter().next() else { return Err(None) };
        let entry = mail.ended.as_deref().or(mail.delete.as_deref()).or(entry.as_ref());
        let directory = entry.map(|entry| entry.directory.clone());
        let (config, phase) = (self.config.machine(), upload.as_ref().map(|upload| upload.head.phase));
        let of_key = || {
            // The recording is gone, and its keys say where it was.
            let key = upload.as_ref()?.files.first()?.key.rsplit_once('/')?.0;
            Some(key.into())
        };
        let directory = directory.or_else(of_key).unwrap_or_default();
        let mut machine = match upload {
            Some(upload) => Machine::resume(config, upload, directory, Instant::now(), SystemTime::now(), seed),
            None => Machine::new(config, recording.clone(), directory, seed),
        };
        if mail.ended.is_some() || mail.delete.is_some() {
            return Ok(Box::new(machine));
        }
        match (entry.map(|entry| entry.status), phase) {
            (Some(Status::Uploading), _) => machine.handle_ended(entry.cloned().ok_or(None)?),
            // Whoever recorded it was killed, and it came to nothing; what is still repaired has its say.
            (None | Some(Status::Completed | Status::Failed), Some(Phase::Live)) => machine.handle_nothing(),
            (_, Some(Phase::Live)) => {}
            _ => return Err(None),
        }
        Ok(Box::new(machine))
    }

    /// Some steps.
    fn work(&self, machine: &mut Machine) -> Next {
        let until = Instant::now() + TURN;
        let mut is_first = true;
        loop {
            // What was done is written down first.
            if machine.is_written() && (self.is_stopping() || (!is_first && Instant::now() >= until)) {
                return Next::Wait(Some(Instant::now()));
            }
            match machine.poll(Instant::now()) {
                Action::Write(change) => {
                    let written = self.ask(|reply| Request::Write { change, reply });
                    if written == Err(Unavailable::NotFound) {
                        // It was deleted, and there is nothing to be written down about any more.
                        return Next::Over(None);
                    }
                    machine.handle_written(Instant::now(), written == Ok(Answer::Written));
                }
                Action::Do(task) => {
                    is_first = false;
                    let directory = self.config.directory.join(machine.directory());
                    let done = task::run(&task, &*self.config.store, &directory);
                    self.note(machine, &done);
                    let is_of_store = !matches!(task, task::Task::Check { .. } | task::Task::Settle { .. });
                    if done.is_ok() && is_of_store {
                        self.slots().lucky(Instant::now());
                        self.wake.notify_one();
                    }
                    machine.handle_done(Instant::now(), SystemTime::now(), done);
                    if let Some(Entry { recording, duration_ms, size, .. }) = machine.entry() {
                        self.outbox.progress(recording, *duration_ms, *size, machine.progress());
                    }
                }
                Action::Wait(at) => return Next::Wait(at),
                Action::Over(outcome) => return Next::Over(Some(outcome)),
            }
        }
    }

    /// Once, however long it lasts.
    fn note(&self, machine: &Machine, done: &Result<Done, Fault>) {
        let recording = machine.recording();
        match done {
            Err(fault) if machine.error() == Some(fault.text.as_str()) => {}
            Err(Fault { kind, text, .. }) => match kind {
                FaultKind::Credentials | FaultKind::Clock | FaultKind::Bucket | FaultKind::Region | FaultKind::Tls => {
                    tracing::error!(%recording, ?kind, error = text, "the store does not take an upload; somebody has to see to it, and it is tried again");
                }
                _ => tracing::warn!(%recording, ?kind, error = text, "an upload does not go on; it is tried again"),
            },
            Ok(_) => {}
        }
    }

    fn tell_outcome(&self, machine: &Machine, outcome: Outcome, worker: Option<WorkerId>) {
        let recording = machine.recording();
        let what = match outcome {
            Outcome::Completed => {
                let entry = machine.entry();
                tracing::info!(%recording, store = self.config.store.provider(), "a recording is uploaded");
                let (duration_ms, size) = entry.map_or((0, 0), |entry| (entry.duration_ms, entry.size));
                NoticeKind::Completed { duration_ms, size }
            }
            Outcome::Failed => {
                let error = machine.error().unwrap_or_default().to_owned();
                tracing::error!(%recording, error, "an upload is given up; `recordings upload` tries it again");
                NoticeKind::Failed { error }
            }
            Outcome::Nothing => return,
            Outcome::Deleted => return self.tell(Request::Deleted { recording: recording.clone(), result: Ok(()) }),
            Outcome::NotDeleted(error) => {
                return self.tell(Request::Deleted { recording: recording.clone(), result: Err(error) });
            }
        };
        if let (Some(worker), Some(entry)) = (worker, machine.entry()) {
            let (room, recording) = (entry.room.clone(), entry.recording.clone());
            (self.notice)(worker, Notice { room, recording, what });
        }
    }
}

fn read_mail(machine: &mut Machine, mail: Mail) {
    if mail.luck {
        machine.handle_luck();
    }
    if let Some((name, stable)) = mail.grown {
        machine.handle_grown(&name, stable);
    }
    if let Some(entry) = mail.ended {
        machine.handle_ended(*entry);
    } else if mail.nothing {
        machine.handle_nothing();
    }
    if let Some(entry) = mail.delete {
        machine.handle_delete(*entry);
    }
}

/// Then others have their turn; a request takes as long as it takes.
const TURN: Duration = Duration::from_secs(5);
/// Something of ours is wrong; it is not tried over and over.
const BROKEN: Duration = Duration::from_secs(60);
