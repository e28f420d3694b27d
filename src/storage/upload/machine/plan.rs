//! What is next, by what is written down and by what the recording is.

use super::super::task::Task;
use super::super::{key, sidecar};
use super::{Machine, Next, Outcome, Unsaved};
use crate::recording::library::{Entry, FileEntry, FileKind, Remote, Status};
use crate::recording::names;
use crate::recording::upload::{FileUpload, Part, Phase, Step};
use crate::storage::store::{PartTag, UploadId};

impl Machine {
    /// Parts of the file of the call that do not change any more, but for the first.
    pub(super) fn plan_live(&mut self) -> Next {
        let Some((name, stable)) = self.live.clone() else { return Next::Nothing };
        if let Some(next) = self.plan_stale(&|file| file.name == name) {
            return next;
        }
        let whole = u32::try_from(stable / self.config.part_size.max(1)).unwrap_or(u32::MAX);
        let Some(file) = self.file(&name) else {
            if whole >= FIRST_LIVE {
                let content_type = names::content_type(name == names::call(true)).to_owned();
                self.begin_file(&name, &content_type, Step::Creating);
                return Next::Again;
            }
            return Next::Nothing;
        };
        match file.step {
            Step::Creating => Next::Task(create(file)),
            _ => match missing(file, FIRST_LIVE..=whole) {
                Some(number) => self.send(&name, number, self.config.part_size),
                None => Next::Nothing,
            },
        }
    }

    /// One file after the other.
    pub(super) fn plan_files(&mut self) -> Next {
        let Some(entry) = self.entry.clone() else { return Next::Nothing };
        let part_size = self.config.part_size;
        let is_wanted = |file: &FileUpload| {
            let Some(of) = entry.files.iter().find(|of| of.name == file.name) else { return false };
            match file.step {
                Step::Done => file.sha256 == of.sha256 && file.size == of.size,
                Step::Putting => of.size <= part_size,
                // What was put has no parts, and no upload.
                Step::Verifying => (file.id.is_none() && file.parts.is_empty()) == (of.size <= part_size),
                Step::Creating | Step::Parts | Step::Completing => of.size > part_size,
            }
        };
        if let Some(next) = self.plan_stale(&is_wanted) {
            return next;
        }
        for of in &entry.files {
            if self.is_there(of) {
                continue;
            }
            let Some(file) = self.file(&of.name) else {
                let step = if of.size > part_size { Step::Creating } else { Step::Putting };
                self.begin_file(&of.name, &of.content_type, step);
                return Next::Again;
            };
            match (file.step, &file.id) {
                (Step::Done, None) => {}
                (Step::Done, Some(_)) => return Next::Task(abort(file)),
                _ => return self.plan_file(of),
            }
        }
        self.settle(&entry);
        Next::Again
    }

    fn plan_file(&mut self, of: &FileEntry) -> Next {
        let Some(file) = self.file(&of.name) else { return Next::Again };
        if (file.sha256.as_str(), file.size) != (of.sha256.as_str(), of.size) {
            // It is as long as it stays.
            let (key, part_size) = (file.key.clone(), self.config.part_size);
            self.change_file(&key, |file| {
                (file.sha256, file.size) = (of.sha256.clone(), of.size);
                file.parts.retain(|part| part.size == part_length(part.number, of.size, part_size));
                file.step = match file.step {
                    // What is there is of something else.
                    Step::Completing | Step::Verifying if !file.parts.is_empty() => Step::Parts,
                    Step::Verifying => Step::Putting,
                    step => step,
                };
            });
            return Next::Again;
        }
        match file.step {
            Step::Creating => Next::Task(create(file)),
            Step::Parts => self.plan_parts(of),
            Step::Completing if self.unsure.contains(&of.name) => Next::Task(verify(file)),
            Step::Completing => Next::Task(Task::Complete {
                key: file.key.clone(),
                content_type: file.content_type.clone(),
                upload: id(file),
                parts: tags(file),
            }),
            Step::Putting if self.unsure.contains(&of.name) => Next::Task(verify(file)),
            Step::Putting => Next::Task(Task::Put {
                key: file.key.clone(),
                content_type: file.content_type.clone(),
                name: file.name.clone(),
                size: file.size,
                sha256: file.sha256.clone(),
            }),
            Step::Verifying => Next::Task(verify(file)),
            Step::Done => Next::Again,
        }
    }

    /// The first part last: it has been written until the end.
    fn plan_parts(&mut self, of: &FileEntry) -> Next {
        let Some(file) = self.file(&of.name) else { return Next::Again };
        let part_size = self.config.part_size;
        let unchecked = |part: &&Part| self.unchecked.contains(&(of.name.clone(), part.number));
        if let Some(part) = file.parts.iter().find(unchecked) {
            return Next::Task(Task::Check {
                name: of.name.clone(),
                offset: u64::from(part.number - 1) * part_size,
                length: part.size,
                sha256: part.sha256.clone(),
            });
        }
        let count = u32::try_from(of.size.div_ceil(part_size)).unwrap_or(u32::MAX);
        match missing(file, FIRST_LIVE..=count).or_else(|| missing(file, 1..=1)) {
            Some(number) => self.send(&of.name, number, part_length(number, of.size, part_size)),
            None => {
                let key = file.key.clone();
                self.change_file(&key, |file| file.step = Step::Completing);
                Next::Again
            }
        }
    }

    /// An earlier upload of the recording has brought it there, and it is the same still.
    fn is_there(&self, of: &FileEntry) -> bool {
        let is_ours = of.remote.as_ref().is_some_and(|remote| remote.provider == self.config.provider);
        is_ours && self.file(&of.name).is_none()
    }

    /// Everything is there, as was verified.
    fn settle(&mut self, entry: &Entry) {
        let is_only = !(self.config.keep_local || self.upload.head.keep_local);
        let remotes: Vec<Option<Remote>> = entry
            .files
            .iter()
            .map(|of| {
                if let Some(remote) = of.remote.as_ref().filter(|_| self.is_there(of)) {
                    let is_only = remote.is_only || (is_only && of.kind != FileKind::Metadata);
                    return Some(Remote { is_only, ..remote.clone() });
                }
                let file = self.file(&of.name)?;
                Some(Remote {
                    provider: self.config.provider.to_owned(),
                    key: file.key.clone(),
                    url: file.url.clone().unwrap_or_default(),
                    // By this one a database that is lost finds the recording again.
                    is_only: is_only && of.kind != FileKind::Metadata,
                })
            })
            .collect();
        if let Some(entry) = &mut self.entry {
            for (file, remote) in entry.files.iter_mut().zip(remotes) {
                file.remote = remote;
            }
            entry.progress = 1.0;
        }
        self.upload.head.phase = Phase::Settling;
        (self.unsaved.head, self.unsaved.entry) = (true, true);
    }

    /// Whoever looks for a file is sent to the store already.
    pub(super) fn plan_settling(&mut self) -> Next {
        let Some(entry) = &self.entry else { return Next::Nothing };
        let is_only = |file: &&FileEntry| file.remote.as_ref().is_some_and(|remote| remote.is_only);
        let remove = entry.files.iter().filter(is_only).map(|file| file.name.clone()).collect();
        Next::Task(Task::Settle { sidecar: sidecar::encode(entry), remove })
    }

    pub(super) fn plan_nothing(&mut self) -> Next {
        if let Some(next) = self.plan_stale(&|_| false) {
            return next;
        }
        self.unsaved = Unsaved { remove: true, ..Unsaved::default() };
        self.over = Some(Outcome::Nothing);
        Next::Again
    }

    pub(super) fn plan_deletion(&mut self) -> Next {
        if let Some(file) = self.upload.files.iter().find(|file| file.id.is_some()) {
            return Next::Task(abort(file));
        }
        let Some(entry) = &self.entry else { return Next::Nothing };
        let provider = self.config.provider;
        let elsewhere = |file: &&FileEntry| file.remote.as_ref().is_some_and(|remote| remote.provider != provider);
        if let Some(remote) = entry.files.iter().find(elsewhere).and_then(|file| file.remote.as_ref()) {
            let error = format!("it is in {}, and {provider} is configured", remote.provider);
            self.over = Some(Outcome::NotDeleted(error));
            return Next::Again;
        }
        let of_files = self.upload.files.iter().map(|file| &file.key);
        let of_entry = entry.files.iter().filter_map(|file| Some(&file.remote.as_ref()?.key));
        match of_files.chain(of_entry).find(|key| !self.deleted.contains(*key)) {
            Some(key) => Next::Task(Task::Delete { key: key.clone() }),
            None => {
                self.over = Some(Outcome::Deleted);
                Next::Again
            }
        }
    }

    pub(super) fn deletion_failed(&mut self, error: &str) {
        // Some of it may be gone, so it is not what it was.
        if !self.deleted.is_empty() || self.upload.head.phase == Phase::Deleting {
            self.mark_deleting(&format!("its deletion is not finished: {error}"));
        }
        self.over = Some(Outcome::NotDeleted(error.to_owned()));
    }

    pub(super) fn mark_deleting(&mut self, error: &str) {
        self.upload.head.phase = Phase::Deleting;
        self.upload.head.next_try_ms = None;
        if let Some(entry) = &mut self.entry {
            (entry.status, entry.error) = (Status::Failed, Some(error.to_owned()));
        }
        (self.unsaved.head, self.unsaved.entry) = (true, true);
    }

    /// What was begun and is of no use: it is aborted, what may be there of it deleted, and then forgotten.
    fn plan_stale(&mut self, is_wanted: &dyn Fn(&FileUpload) -> bool) -> Option<Next> {
        let part_size = self.config.part_size;
        let is_stale = |file: &&FileUpload| {
            let has_other_parts = file.part_size != part_size && file.step != Step::Done;
            // It begins anew, and has an upload from before.
            let was_left = matches!(file.step, Step::Creating | Step::Putting) && file.id.is_some();
            !is_wanted(file) || has_other_parts || was_left
        };
        let file = self.upload.files.iter().find(is_stale)?;
        if file.id.is_some() {
            return Some(Next::Task(abort(file)));
        }
        // One that takes its place is written over it.
        let is_of_recording =
            self.entry.as_ref().is_some_and(|entry| entry.files.iter().any(|of| of.name == file.name));
        let may_be_there = matches!(file.step, Step::Completing | Step::Putting | Step::Verifying | Step::Done);
        if may_be_there && !is_of_recording && !self.deleted.contains(&file.key) {
            return Some(Next::Task(Task::Delete { key: file.key.clone() }));
        }
        let name = file.name.clone();
        self.upload.files.retain(|file| file.name != name);
        self.unchecked.retain(|(of, _)| *of != name);
        self.unsure.remove(&name);
        self.unsaved.files.insert(name);
        Some(Next::Again)
    }

    fn begin_file(&mut self, name: &str, content_type: &str, step: Step) {
        let of = self.entry.as_ref().and_then(|entry| entry.files.iter().find(|of| of.name == name));
        let (sha256, size) = of.map(|of| (of.sha256.clone(), of.size)).unwrap_or_default();
        self.upload.files.push(FileUpload {
            name: name.to_owned(),
            key: key(&self.directory, name),
            content_type: content_type.to_owned(),
            step,
            part_size: self.config.part_size,
            id: None,
            object: None,
            etag: None,
            url: None,
            sha256,
            size,
            parts: Vec::new(),
        });
        self.upload.files.sort_by(|a, b| a.name.cmp(&b.name));
        self.unsaved.files.insert(name.to_owned());
    }

    fn send(&self, name: &str, number: u32, length: u64) -> Next {
        let Some(file) = self.file(name) else { return Next::Again };
        Next::Task(Task::Part {
            key: file.key.clone(),
            content_type: file.content_type.clone(),
            upload: id(file),
            number,
            name: name.to_owned(),
            offset: u64::from(number - 1) * self.config.part_size,
            length,
        })
    }
}

fn create(file: &FileUpload) -> Task {
    Task::Create { key: file.key.clone(), content_type: file.content_type.clone() }
}

fn abort(file: &FileUpload) -> Task {
    Task::Abort { key: file.key.clone(), content_type: file.content_type.clone(), upload: id(file) }
}

fn verify(file: &FileUpload) -> Task {
    Task::Verify {
        key: file.key.clone(),
        name: file.name.clone(),
        size: file.size,
        parts: tags(file),
        etag: file.etag.clone(),
    }
}

fn id(file: &FileUpload) -> UploadId {
    UploadId { id: file.id.clone().unwrap_or_default(), object: file.object.clone() }
}

fn tags(file: &FileUpload) -> Vec<PartTag> {
    let tag = |part: &Part| PartTag {
        number: part.number,
        etag: part.etag.clone(),
        size: part.size,
        checksum: part.checksum.clone(),
    };
    file.parts.iter().map(tag).collect()
}

fn missing(file: &FileUpload, mut numbers: std::ops::RangeInclusive<u32>) -> Option<u32> {
    numbers.find(|number| file.parts.binary_search_by_key(number, |part| part.number).is_err())
}

/// Octets of a part of a file of this size; 0 behind its end.
fn part_length(number: u32, size: u64, part_size: u64) -> u64 {
    size.saturating_sub(u64::from(number.max(1) - 1) * part_size).min(part_size)
}

/// The first part that is sent while the call is recorded.
const FIRST_LIVE: u32 = 2;
