//! The body about uploads: a recording that grows, ends or is deleted, a store and a database that fail, and kills, in any order.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant, SystemTime};

use super::{Source, start, wall};
use crate::base::{RecordingId, RoomId};
use crate::recording::library::{Entry, FileKind, Status};
use crate::recording::upload::Upload;
use crate::recording::{metadata, names};
use crate::storage::store::{Fault, FaultKind, PartTag, Stored, UploadId};
use crate::storage::upload::fake::apply;
use crate::storage::upload::machine::{Action, Config, Machine, Outcome};
use crate::storage::upload::task::{Done, Task};

/// Whatever happens: local copies go only when every object is whole; at the end, with everything working again, all is in the
/// store once or nothing of it is, and no upload is left but those of which nobody could hear.
pub fn upload_queue(data: &[u8]) {
    let mut source = Source(data);
    let mut world = World::new(&mut source);
    let mut machine = world.machine();
    while let Some(operation) = source.byte() {
        match operation & 7 {
            0..=3 => world.step(&mut machine, Luck::Good, FaultKind::Network),
            4 => world.step(&mut machine, Luck::Before, KINDS[usize::from(operation >> 3) % KINDS.len()]),
            5 => world.step(&mut machine, Luck::After, KINDS[usize::from(operation >> 3) % KINDS.len()]),
            6 => machine = world.machine(),
            _ => world.event(&mut machine, operation >> 3, &mut source),
        }
    }
    world.is_ended = true;
    machine = world.machine();
    for _ in 0..10_000 {
        if world.outcome.is_some() {
            break;
        }
        world.step(&mut machine, Luck::Good, FaultKind::Network);
    }
    world.check();
}

struct World {
    now: Instant,
    wall: SystemTime,
    entry: Entry,
    saved: Option<Upload>,
    is_ended: bool,
    is_deleted: bool,
    outcome: Option<Outcome>,
    /// Octets by key.
    objects: BTreeMap<String, u64>,
    uploads: BTreeMap<String, BTreeMap<u32, u64>>,
    ids: u32,
    /// Made, and their makers never heard, or could not write down.
    unheard: BTreeSet<String>,
}

#[derive(Clone, Copy, PartialEq)]
enum Luck {
    Good,
    /// Nothing is done.
    Before,
    /// It is done, and nobody hears.
    After,
}

impl World {
    fn new(source: &mut Source<'_>) -> World {
        let recording = RecordingId::new(1_800_000_000_000, [1; 9]);
        let room = RoomId::new("call").expect("a name");
        let count = source.byte().unwrap_or(0) % 4;
        let size = |source: &mut Source<'_>| u64::from(source.byte().unwrap_or(1)).max(1);
        let mut files = vec![metadata::file("recording.webm", FileKind::Call, size(source), "0".into())];
        for number in 0..count {
            files.push(metadata::file(&format!("{number}.webm"), FileKind::Participant, size(source), "1".into()));
        }
        World {
            now: start(),
            wall: wall(),
            entry: Entry {
                directory: names::directory(&room, &recording),
                recording,
                room,
                status: Status::Uploading,
                progress: 0.0,
                audio_only: false,
                participants: None,
                started_by: None,
                started: wall(),
                ended: None,
                end_reason: None,
                duration_ms: 0,
                size: 0,
                recovered: false,
                error: None,
                files,
            },
            saved: None,
            is_ended: false,
            is_deleted: false,
            outcome: None,
            objects: BTreeMap::new(),
            uploads: BTreeMap::new(),
            ids: 0,
            unheard: BTreeSet::new(),
        }
    }

    /// Out of what is written down; whoever was there before is gone.
    fn machine(&mut self) -> Machine {
        let config = Config { provider: "fake", part_size: PART, keep_local: false };
        let directory = self.entry.directory.clone();
        let known: BTreeSet<_> =
            self.saved.iter().flat_map(|upload| &upload.files).filter_map(|f| f.id.clone()).collect();
        self.unheard.extend(self.uploads.keys().filter(|id| !known.contains(*id)).cloned());
        let mut machine = match self.saved.clone() {
            Some(upload) => Machine::resume(config, upload, directory, self.now, self.wall, 1),
            None => Machine::new(config, self.entry.recording.clone(), directory, 1),
        };
        if self.is_deleted {
            machine.handle_delete(self.entry.clone());
        } else if self.is_ended && self.entry.status != Status::Completed {
            machine.handle_ended(self.entry.clone());
        }
        machine
    }

    fn event(&mut self, machine: &mut Machine, which: u8, source: &mut Source<'_>) {
        match which % 4 {
            0 if !self.is_ended => {
                let stable = source.size() as u64 % (self.entry.files[0].size + 1);
                machine.handle_grown("recording.webm", stable);
            }
            1 if !self.is_ended && !self.is_deleted => {
                self.is_ended = true;
                machine.handle_ended(self.entry.clone());
            }
            2 if self.is_ended => {
                (self.is_deleted, self.outcome) = (true, None);
                *machine = self.machine();
            }
            3 => machine.handle_luck(),
            _ => {}
        }
    }

    fn step(&mut self, machine: &mut Machine, luck: Luck, kind: FaultKind) {
        match machine.poll(self.now) {
            Action::Write(change) => {
                if luck != Luck::Before {
                    if let Some(entry) = change.entry {
                        self.entry = *entry;
                    }
                    apply(&mut self.saved, change.what);
                }
                machine.handle_written(self.now, luck == Luck::Good);
            }
            Action::Do(task) => {
                self.check_written(machine);
                let fault = Fault::new(kind, "no luck");
                let done = match luck {
                    Luck::Good => self.run(&task),
                    Luck::Before => Err(fault),
                    Luck::After => {
                        let ids = self.ids;
                        let done = self.run(&task);
                        self.unheard.extend((ids < self.ids).then(|| format!("u{}", self.ids)));
                        done.and(Err(fault))
                    }
                };
                machine.handle_done(self.now, self.wall, done);
            }
            Action::Wait(Some(at)) => {
                assert!(at >= self.now);
                self.wall += at - self.now;
                self.now = at;
            }
            Action::Wait(None) => {}
            Action::Over(Outcome::NotDeleted(_)) => *machine = self.machine(),
            Action::Over(outcome) => {
                assert!(outcome != Outcome::Failed || self.wall.duration_since(wall()).is_ok_and(|time| time >= WEEK));
                if outcome == Outcome::Failed {
                    // Somebody says that it is to go on.
                    self.entry.status = Status::Uploading;
                    let head = &mut self.saved.as_mut().expect("it was written down").head;
                    (head.first_failure_ms, head.attempts) = (None, 0);
                    *machine = self.machine();
                } else {
                    self.outcome = Some(outcome);
                }
            }
        }
    }

    /// Nothing is asked of the store while something is not written down.
    fn check_written(&self, machine: &Machine) {
        assert!(machine.is_written());
        assert_eq!(machine.upload().files, self.saved.as_ref().map_or(Vec::new(), |upload| upload.files.clone()));
    }

    fn size(&self, name: &str) -> u64 {
        self.entry.files.iter().find(|file| file.name == name).map_or(0, |file| file.size)
    }

    fn run(&mut self, task: &Task) -> Result<Done, Fault> {
        let missing = || Fault::new(FaultKind::Missing, "there is none");
        let stored = |key: &str, size| Stored { size, etag: "e".into(), checksum: None, url: format!("fake://{key}") };
        match task {
            Task::Create { .. } => {
                self.ids += 1;
                let id = format!("u{}", self.ids);
                self.uploads.insert(id.clone(), BTreeMap::new());
                Ok(Done::Created(UploadId { id, object: None }))
            }
            Task::Part { upload, number, name, offset, length, .. } => {
                let (number, size) = (*number, *length);
                assert!(offset + length <= self.size(name) && *offset == u64::from(number - 1) * PART && size > 0);
                assert!(number > 1 || self.is_ended, "the first is written until the end");
                self.uploads.get_mut(&upload.id).ok_or_else(missing)?.insert(number, size);
                Ok(Done::Sent(PartTag { number, etag: "e".into(), size, checksum: None }, "s".into()))
            }
            Task::Check { .. } => Ok(Done::Checked(true)),
            Task::Complete { key, upload, parts, .. } => {
                let sent = self.uploads.get(&upload.id).ok_or_else(missing)?;
                assert!(parts.iter().map(|part| part.number).eq(1..=parts.len() as u32), "all of them, ascending");
                assert!(parts.iter().all(|part| sent.get(&part.number) == Some(&part.size)), "as they were sent");
                let size = parts.iter().map(|part| part.size).sum();
                self.uploads.remove(&upload.id);
                self.objects.insert(key.clone(), size);
                Ok(Done::Stored(stored(key, size)))
            }
            Task::Put { key, size, .. } => {
                assert!(*size <= PART);
                self.objects.insert(key.clone(), *size);
                Ok(Done::Stored(stored(key, *size)))
            }
            Task::Verify { key, size, .. } => {
                Ok(Done::Verified(self.objects.get(key).filter(|there| *there == size).map(|_| stored(key, *size))))
            }
            Task::Abort { upload, .. } => {
                self.uploads.remove(&upload.id);
                Ok(Done::Nothing)
            }
            Task::Delete { key } => {
                self.objects.remove(key);
                Ok(Done::Nothing)
            }
            Task::Settle { .. } => {
                assert!(!self.is_deleted);
                self.check_objects();
                Ok(Done::Nothing)
            }
        }
    }

    fn check_objects(&self) {
        let key = |name: &str| format!("{}/{name}", self.entry.directory.display());
        let files: BTreeMap<String, u64> = self.entry.files.iter().map(|file| (key(&file.name), file.size)).collect();
        assert_eq!(self.objects, files);
    }

    fn check(&self) {
        assert!(self.uploads.keys().all(|id| self.unheard.contains(id)), "{:?}", self.uploads);
        match &self.outcome {
            Some(Outcome::Completed) => {
                assert!(self.saved.is_none() && self.entry.status == Status::Completed);
                self.check_objects();
            }
            Some(Outcome::Deleted) => assert!(self.objects.is_empty()),
            // It was completed, and killed before it could say so.
            None if self.entry.status == Status::Completed && !self.is_deleted => self.check_objects(),
            outcome => panic!("{outcome:?}: {:?}", self.saved),
        }
    }
}

const PART: u64 = 10;
const KINDS: [FaultKind; 6] = [
    FaultKind::Network,
    FaultKind::Missing,
    FaultKind::Corrupt,
    FaultKind::Credentials,
    FaultKind::Local,
    FaultKind::Throttled,
];
const WEEK: Duration = Duration::from_secs(7 * 24 * 60 * 60);
