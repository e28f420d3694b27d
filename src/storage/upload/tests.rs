//! Uploads in a world of which everything but the disk, what is written down and the store may go at any moment.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use super::super::tests::{Scratch, entry};
use super::backoff::GIVE_UP_AFTER;
use super::fake::{Fake, Fate, apply};
use super::machine::{Action, Config, Machine, Outcome};
use super::{key, sidecar, task};
use crate::recording::library::{Entry, FileKind, Status};
use crate::recording::upload::{Change, Phase, Upload};
use crate::recording::{metadata, names};
use crate::storage::store::{Fault, FaultKind};

const PART: u64 = 1000;

/// What survives a kill, and time.
struct World {
    scratch: Scratch,
    store: Fake,
    upload: Option<Upload>,
    entry: Entry,
    keep_local: bool,
    now: Instant,
    wall: SystemTime,
    seeds: u64,
    /// Steps to the kill.
    fuse: Option<u32>,
}

/// Somebody was killed, or it came to an end.
#[derive(Debug, PartialEq)]
enum End {
    Killed,
    /// Nothing to do before something is told.
    Idle,
    Over(Outcome),
}

impl World {
    fn new(name: &str, sizes: &[u64]) -> World {
        let scratch = Scratch::new(name);
        let mut entry = Entry { status: Status::Uploading, ..entry(1) };
        let directory = scratch.path().join(&entry.directory);
        fs::create_dir_all(&directory).expect("room");
        let names = ["recording.webm", "ann-1.webm", "b%20b-1.webm", "speakers.vtt", "poster.webp"];
        for (place, size) in sizes.iter().enumerate() {
            let kind = if place == 0 { FileKind::Call } else { FileKind::Participant };
            let octets: Vec<u8> = (0..*size).map(|at| (at * 7 + at / 251 + place as u64) as u8).collect();
            fs::write(directory.join(names[place]), &octets).expect("room");
            let sha256 = names::hex(&openssl::sha::sha256(&octets));
            entry.files.push(metadata::file(names[place], kind, *size, sha256));
        }
        fs::write(directory.join(names::METADATA), b"{}").expect("room");
        let sha256 = names::hex(&openssl::sha::sha256(b"{}"));
        entry.files.push(metadata::file(names::METADATA, FileKind::Metadata, 2, sha256));
        World {
            scratch,
            store: Fake::new(PART),
            upload: None,
            entry,
            keep_local: false,
            now: Instant::now(),
            wall: UNIX_EPOCH + Duration::from_secs(1_790_000_000),
            seeds: 0,
            fuse: None,
        }
    }

    fn config(&self) -> Config {
        Config { provider: "fake", part_size: PART, keep_local: self.keep_local }
    }

    /// Made again out of what is left.
    fn machine(&mut self) -> Machine {
        self.seeds += 1;
        let directory = self.entry.directory.clone();
        match self.upload.clone() {
            Some(upload) => Machine::resume(self.config(), upload, directory, self.now, self.wall, self.seeds),
            None => Machine::new(self.config(), self.entry.recording.clone(), directory, self.seeds),
        }
    }

    fn ended(&mut self) -> Machine {
        let mut machine = self.machine();
        machine.handle_ended(self.entry.clone());
        machine
    }

    /// A step is done, or somebody is killed before.
    fn burns(&mut self) -> bool {
        let Some(fuse) = &mut self.fuse else { return false };
        *fuse = fuse.saturating_sub(1);
        *fuse == 0
    }

    fn drive(&mut self, machine: &mut Machine) -> End {
        for _ in 0..100_000 {
            match machine.poll(self.now) {
                Action::Write(change) => {
                    if self.burns() {
                        return End::Killed;
                    }
                    self.apply(*change);
                    if self.burns() {
                        return End::Killed;
                    }
                    machine.handle_written(self.now, true);
                }
                Action::Do(task) => {
                    if self.burns() {
                        return End::Killed;
                    }
                    let directory = self.scratch.path().join(machine.directory());
                    let done = task::run(&task, &self.store, &directory);
                    if self.burns() {
                        return End::Killed;
                    }
                    machine.handle_done(self.now, self.wall, done);
                }
                Action::Wait(Some(at)) => {
                    let wait = at.saturating_duration_since(self.now);
                    assert!(wait <= Duration::from_secs(3600));
                    (self.now, self.wall) = (at, self.wall + wait);
                }
                Action::Wait(None) => return End::Idle,
                Action::Over(outcome) => return End::Over(outcome),
            }
        }
        panic!("no end: {machine:?}");
    }

    fn apply(&mut self, change: Change) {
        if let Some(entry) = change.entry {
            self.entry = *entry;
        }
        apply(&mut self.upload, change.what);
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.scratch.path().join(&self.entry.directory).join(name)
    }

    fn local(&self) -> BTreeMap<String, Vec<u8>> {
        let files = fs::read_dir(self.path("")).expect("a directory").map(|file| file.expect("a file"));
        files
            .map(|file| (file.file_name().into_string().expect("a name"), fs::read(file.path()).expect("octets")))
            .collect()
    }

    /// All is there, once, and as it was.
    fn check_completed(&self, before: &BTreeMap<String, Vec<u8>>) {
        assert_eq!((self.entry.status, self.entry.error.as_deref()), (Status::Completed, None));
        assert_eq!((self.entry.progress, &self.upload), (1.0, &None));
        let expected: BTreeMap<String, Vec<u8>> =
            before.iter().map(|(name, octets)| (key(&self.entry.directory, name), octets.clone())).collect();
        assert!(self.store.objects() == expected, "the objects are the files");
        for file in &self.entry.files {
            let remote = file.remote.as_ref().expect("it is in the store");
            assert_eq!(remote.key, key(&self.entry.directory, &file.name));
            assert_eq!(remote.url, format!("fake://bucket/{}", remote.key));
            let is_only = !self.keep_local && file.kind != FileKind::Metadata;
            assert_eq!((remote.is_only, self.path(&file.name).exists()), (is_only, !is_only), "{}", file.name);
        }
        let mut found = self.entry.clone();
        found.files.iter_mut().for_each(|file| file.remote = None);
        assert!(sidecar::apply(&self.path(""), &mut found));
        assert_eq!(found, self.entry, "a database that is lost finds it again");
    }
}

fn fault(kind: FaultKind) -> Fault {
    Fault::new(kind, format!("{kind:?}"))
}

const SIZES: [u64; 5] = [5 * PART + 17, 2 * PART, PART, 1, PART + 1];

#[test]
fn everything_goes_up_and_then_away() {
    for keep_local in [false, true] {
        let mut world = World::new("upload", &SIZES);
        world.keep_local = keep_local;
        let before = world.local();
        let mut machine = world.ended();
        assert_eq!(world.drive(&mut machine), End::Over(Outcome::Completed));
        world.check_completed(&before);
        assert_eq!((world.store.uploads().len(), world.store.count("put"), world.store.count("part")), (0, 3, 10));
    }
}

/// A recording that grows: what cannot change any more is sent, the beginning and the end when it is over.
#[test]
fn parts_are_sent_while_the_file_grows() {
    let mut world = World::new("upload-live", &[5 * PART + 17]);
    let before = world.local();
    let mut machine = world.machine();
    for (stable, uploads, parts) in [(PART, 0, 0), (2 * PART - 1, 0, 0), (2 * PART, 1, 1), (4 * PART + 5, 1, 3)] {
        machine.handle_grown("recording.webm", stable);
        assert_eq!(world.drive(&mut machine), End::Idle);
        let sent = world.store.uploads();
        assert_eq!((sent.len(), sent.first().map_or(0, |(_, parts)| *parts)), (uploads, parts), "{stable}");
    }
    // The head is written at the end.
    let mut octets = before["recording.webm"].clone();
    octets[..10].copy_from_slice(b"a new head");
    fs::write(world.path("recording.webm"), &octets).expect("room");
    world.entry.files[0].sha256 = names::hex(&openssl::sha::sha256(&octets));
    let before = world.local();
    machine.handle_ended(world.entry.clone());
    assert_eq!(world.drive(&mut machine), End::Over(Outcome::Completed));
    world.check_completed(&before);
    assert_eq!((world.store.count("create"), world.store.count("part")), (1, 6), "nothing twice");
}

#[test]
fn another_name_is_another_upload() {
    let mut world = World::new("upload-renamed", &[4 * PART]);
    let mut machine = world.machine();
    machine.handle_grown("recording.webm", 3 * PART);
    assert_eq!(world.drive(&mut machine), End::Idle);
    fs::rename(world.path("recording.webm"), world.path("recording.mkv")).expect("the disk");
    machine.handle_grown("recording.mkv", 3 * PART);
    assert_eq!(world.drive(&mut machine), End::Idle);
    assert_eq!((world.store.uploads(), world.store.count("abort")), (vec![("upload-2".into(), 2)], 1));
    world.entry.files[0].name = "recording.mkv".into();
    let before = world.local();
    machine.handle_ended(world.entry.clone());
    assert_eq!(world.drive(&mut machine), End::Over(Outcome::Completed));
    world.check_completed(&before);
}

/// A crash, a repair that cuts the tail, and octets that the disk has lost.
#[test]
fn what_changed_since_is_sent_again() {
    for (size, damaged) in
        [(5 * PART + 17, Some(2)), (3 * PART + 1, None), (3 * PART, Some(3)), (PART, None), (1, None)]
    {
        let mut world = World::new("upload-cut", &[6 * PART]);
        let mut machine = world.machine();
        machine.handle_grown("recording.webm", 5 * PART + 500);
        assert_eq!(world.drive(&mut machine), End::Idle);
        drop(machine);
        let mut octets = fs::read(world.path("recording.webm")).expect("octets");
        octets.truncate(size as usize);
        if let Some(number) = damaged {
            octets[(number - 1) * PART as usize + 3] ^= 1;
        }
        fs::write(world.path("recording.webm"), &octets).expect("room");
        world.entry.recovered = true;
        world.entry.files[0].size = size;
        world.entry.files[0].sha256 = names::hex(&openssl::sha::sha256(&octets));
        let before = world.local();
        let mut machine = world.ended();
        assert_eq!(world.drive(&mut machine), End::Over(Outcome::Completed));
        world.check_completed(&before);
        assert!(world.store.uploads().is_empty(), "{size}: nothing is left over");
    }
}

/// F16: every call fails once, before or after it was done, in every way.
#[test]
fn every_call_fails_once() {
    let mut world = World::new("upload-count", &SIZES);
    let mut machine = world.ended();
    world.drive(&mut machine);
    let calls = world.store.calls();
    let kinds = [FaultKind::Network, FaultKind::Missing, FaultKind::Corrupt, FaultKind::Credentials, FaultKind::Server];
    for nth in 1..=calls {
        for kind in kinds {
            for is_done in [false, true] {
                let mut world = World::new("upload-nth", &SIZES);
                let before = world.local();
                world.store.plan(move |number, _| match (number == nth, is_done) {
                    (false, _) => Fate::Fine,
                    (true, false) => Fate::Before(fault(kind)),
                    (true, true) => Fate::After(fault(kind)),
                });
                let mut machine = world.ended();
                assert_eq!(world.drive(&mut machine), End::Over(Outcome::Completed), "{nth} {kind:?} {is_done}");
                world.check_completed(&before);
                // An id that the store has made and never told.
                let orphans = world.store.uploads();
                assert!(orphans.iter().all(|(_, parts)| *parts == 0 || kind != FaultKind::Network), "{orphans:?}");
            }
        }
    }
}

/// Every call fails from the Nth on, until it is given up; the files stay, and another try completes.
#[test]
fn a_dead_store_loses_nothing() {
    for nth in 1..=24 {
        let mut world = World::new("upload-dead", &SIZES);
        let before = world.local();
        world.store.plan(move |number, _| match number >= nth {
            true => Fate::Before(fault(FaultKind::Bucket)),
            false => Fate::Fine,
        });
        let mut machine = world.ended();
        let began = world.wall;
        assert_eq!(world.drive(&mut machine), End::Over(Outcome::Failed), "{nth}");
        let took = world.wall.duration_since(began).expect("later");
        assert!(took >= GIVE_UP_AFTER && took < GIVE_UP_AFTER + Duration::from_secs(600), "{took:?}");
        assert_eq!((world.entry.status, world.entry.error.as_deref()), (Status::Failed, Some("Bucket")));
        assert!(world.local() == before, "everything is here");
        assert_eq!(world.upload.as_ref().map(|upload| upload.head.phase), Some(Phase::Failed));
        world.store.heal();
        // As the database does it for whoever asks.
        let head = &mut world.upload.as_mut().expect("rows").head;
        (head.phase, head.attempts, head.first_failure_ms, head.error) = (Phase::Sending, 0, None, None);
        (world.entry.status, world.entry.error) = (Status::Uploading, None);
        let mut machine = world.ended();
        assert_eq!(world.drive(&mut machine), End::Over(Outcome::Completed), "{nth}");
        world.check_completed(&before);
        assert!(world.store.uploads().is_empty());
    }
}

#[test]
fn what_is_wrong_is_shown_while_it_lasts() {
    let mut world = World::new("upload-shown", &SIZES);
    let before = world.local();
    world.store.plan(|number, _| match number {
        6..9 => Fate::Before(Fault { retry_after: Some(Duration::from_secs(77)), ..fault(FaultKind::Credentials) }),
        _ => Fate::Fine,
    });
    let mut machine = world.ended();
    let mut shown = Vec::new();
    let end = loop {
        match machine.poll(world.now) {
            Action::Write(change) => {
                world.apply(*change);
                shown.push((world.entry.status, world.entry.error.clone()));
                machine.handle_written(world.now, true);
            }
            Action::Do(task) => {
                let done = task::run(&task, &world.store, &world.path(""));
                machine.handle_done(world.now, world.wall, done);
            }
            Action::Wait(Some(at)) => {
                let wait = at - world.now;
                assert!(wait >= Duration::from_secs(77), "the store has said when");
                assert!(!machine.waits_for_store());
                assert!((0.0..1.0).contains(&machine.progress()));
                (world.now, world.wall) = (at, world.wall + wait);
            }
            Action::Wait(None) => panic!("nothing is missing"),
            Action::Over(outcome) => break outcome,
        }
    };
    assert_eq!(end, Outcome::Completed);
    assert!(shown.contains(&(Status::Uploading, Some("Credentials".into()))));
    shown.dedup();
    let errors: Vec<_> = shown.iter().map(|(_, error)| error.is_some()).collect();
    assert_eq!(errors, [false, true, false, false]);
    world.check_completed(&before);
}

/// Somebody is killed at every moment, once; what is left goes on.
#[test]
fn killed_at_every_step() {
    for step in 1.. {
        let mut world = World::new("upload-killed", &SIZES);
        let before = world.local();
        world.fuse = Some(step);
        let mut machine = world.machine();
        machine.handle_grown("recording.webm", 4 * PART);
        let mut end = world.drive(&mut machine);
        let was_live = end == End::Killed;
        if end == End::Idle {
            machine.handle_ended(world.entry.clone());
            end = world.drive(&mut machine);
        }
        drop(machine);
        world.fuse = None;
        if end == End::Killed {
            assert!(world.upload.is_some() || world.store.uploads().is_empty(), "step {step}: who is to know of it");
            if world.entry.status != Status::Completed {
                let mut machine = world.ended();
                assert_eq!(world.drive(&mut machine), End::Over(Outcome::Completed), "step {step}");
            }
        }
        world.check_completed(&before);
        let orphans = world.store.uploads();
        // The one thing that nobody can know: an upload that was made, whose id was not written down.
        assert!(orphans.len() <= 1 && orphans.iter().all(|(_, parts)| *parts == 0), "step {step}: {orphans:?}");
        assert!(!was_live || step < 100);
        if end == End::Over(Outcome::Completed) {
            assert!(step > 40, "there were steps");
            return;
        }
    }
}

/// Faults of every kind and kills at random, with deaths of the database between.
#[test]
fn weather() {
    for seed in 0..300 {
        let mut random = fastrand::Rng::with_seed(seed);
        let sizes: Vec<u64> = (0..random.usize(1..=5)).map(|_| random.u64(1..4 * PART)).collect();
        let mut world = World::new("upload-weather", &sizes);
        world.keep_local = random.bool();
        let before = world.local();
        let mut dice = random.fork();
        world.store.plan(move |_, what| {
            let kinds =
                [FaultKind::Network, FaultKind::Server, FaultKind::Throttled, FaultKind::Missing, FaultKind::Corrupt];
            let fault = fault(kinds[dice.usize(0..kinds.len())]);
            match dice.u32(0..10) {
                0 => Fate::Before(fault),
                // What was created and not told is known to nobody; it is counted elsewhere.
                1 if what != "create" => Fate::After(fault),
                _ => Fate::Fine,
            }
        });
        let live = random.bool().then(|| random.u64(0..=sizes[0]));
        let mut is_ended = live.is_none();
        let mut created_and_killed = 0;
        loop {
            world.fuse = Some(random.u32(1..60));
            let creates = world.store.count("create");
            let mut machine = if is_ended { world.ended() } else { world.machine() };
            if let Some(stable) = live.filter(|_| !is_ended) {
                machine.handle_grown("recording.webm", stable);
            }
            let end = world.drive(&mut machine);
            created_and_killed += usize::from(end == End::Killed && world.store.count("create") > creates);
            match end {
                End::Over(Outcome::Completed) => break,
                End::Over(outcome) => panic!("seed {seed}: {outcome:?}"),
                End::Idle => is_ended = true,
                End::Killed => is_ended |= random.bool(),
            }
            if world.entry.status == Status::Completed {
                break;
            }
        }
        world.check_completed(&before);
        assert!(world.store.uploads().iter().filter(|(_, parts)| *parts == 0).count() <= created_and_killed);
    }
}

#[test]
fn what_comes_to_nothing_leaves_nothing() {
    let mut world = World::new("upload-nothing", &[4 * PART]);
    let mut machine = world.machine();
    machine.handle_grown("recording.webm", 4 * PART);
    assert_eq!(world.drive(&mut machine), End::Idle);
    drop(machine);
    world.store.plan(|number, what| match what == "abort" && number.is_multiple_of(2) {
        true => Fate::Before(fault(FaultKind::Network)),
        false => Fate::Fine,
    });
    let mut machine = world.machine();
    machine.handle_nothing();
    assert_eq!(world.drive(&mut machine), End::Over(Outcome::Nothing));
    assert!(world.upload.is_none() && world.store.uploads().is_empty() && world.store.objects().is_empty());
}

/// Deleted at every moment of an upload, with a store that fails at every call once: what is not deleted is listed, and is deleted
/// the next time.
#[test]
fn deleted_at_any_time() {
    for step in 1.. {
        let mut world = World::new("upload-deleted", &SIZES);
        world.fuse = Some(step);
        let mut machine = world.ended();
        let end = world.drive(&mut machine);
        world.fuse = None;
        if end == End::Killed {
            machine = world.machine();
        }
        // Whatever fails first.
        let first = world.store.calls() + 1 + u64::from(step % 3);
        world.store.plan(move |number, _| match number == first {
            true => Fate::Before(fault(FaultKind::Network)),
            false => Fate::Fine,
        });
        let mut tries = 0;
        loop {
            tries += 1;
            machine.handle_delete(world.entry.clone());
            match world.drive(&mut machine) {
                End::Over(Outcome::Deleted) => break,
                End::Over(Outcome::NotDeleted(error)) => assert_eq!(error, "Network"),
                end => panic!("step {step}: {end:?}"),
            }
            assert!(world.entry.status.is_final(), "it is listed");
            machine = world.machine();
        }
        assert!(tries <= 2, "step {step}");
        assert!(world.store.objects().is_empty(), "step {step}: {:?}", world.store.objects().keys());
        assert!(world.store.uploads().iter().all(|(_, parts)| *parts == 0) && world.store.uploads().len() <= 1);
        if end != End::Killed {
            return;
        }
    }
}

#[test]
fn an_upload_that_the_store_has_lost_begins_anew() {
    let mut world = World::new("upload-lost", &[5 * PART]);
    let before = world.local();
    let mut machine = world.machine();
    machine.handle_grown("recording.webm", 4 * PART);
    assert_eq!(world.drive(&mut machine), End::Idle);
    world.store.lose_uploads();
    machine.handle_ended(world.entry.clone());
    assert_eq!(world.drive(&mut machine), End::Over(Outcome::Completed));
    world.check_completed(&before);
    assert_eq!((world.store.count("create"), world.store.uploads().len()), (2, 0));
}

/// What the store has put together is something else, always: it is not tried for ever, and the file stays.
#[test]
fn an_object_that_never_agrees_is_given_up() {
    let mut world = World::new("upload-other", &[2 * PART]);
    let before = world.local();
    world.store.plan(|_, what| match what {
        "agrees" => Fate::Before(fault(FaultKind::Missing)),
        "complete" => Fate::After(fault(FaultKind::Corrupt)),
        _ => Fate::Fine,
    });
    let mut machine = world.ended();
    assert_eq!(world.drive(&mut machine), End::Over(Outcome::Failed));
    assert!(world.local() == before);
    assert!(world.store.uploads().is_empty());
    assert!(world.store.count("create") < 7 * 24 * 60 * 60 / 100, "{}", world.store.count("create"));
}

#[test]
fn another_part_size_and_another_store_begin_anew() {
    let mut world = World::new("upload-other-store", &[4 * PART]);
    let before = world.local();
    let mut machine = world.machine();
    machine.handle_grown("recording.webm", 4 * PART);
    assert_eq!(world.drive(&mut machine), End::Idle);
    let mut upload = world.upload.clone().expect("rows");
    let file = &mut upload.files[0];
    file.part_size = 2 * PART;
    world.upload = Some(upload.clone());
    let mut machine = world.ended();
    assert_eq!(world.drive(&mut machine), End::Over(Outcome::Completed));
    world.check_completed(&before);
    assert!(world.store.uploads().is_empty());

    let mut world = World::new("upload-elsewhere", &[4 * PART]);
    upload.head.provider = "elsewhere".into();
    world.upload = Some(upload);
    let mut machine = world.ended();
    assert_eq!(world.drive(&mut machine), End::Over(Outcome::Completed));
    world.check_completed(&before);
}

/// A file is not what was recorded any more: nothing of it is put, and nothing is removed.
#[test]
fn another_file_is_not_put_in_its_place() {
    let mut world = World::new("upload-changed", &[10]);
    let mut file = File::options().read(true).write(true).open(world.path("recording.webm")).expect("a file");
    let mut first = [0];
    file.read_exact(&mut first).expect("an octet");
    file.seek(SeekFrom::Start(0)).expect("a file");
    std::io::Write::write_all(&mut file, &[first[0] ^ 1]).expect("room");
    let mut machine = world.ended();
    assert_eq!(world.drive(&mut machine), End::Over(Outcome::Failed));
    assert_eq!(world.store.objects().len(), 0);
    assert!(world.entry.error.as_deref().is_some_and(|error| error.contains("is not the file")), "{:?}", world.entry);
}

/// A recording that lacked something is completed once more: what is the same is not sent again, and nothing is removed before.
#[test]
fn completed_once_more() {
    let mut world = World::new("upload-again", &SIZES);
    world.entry.error = Some("the disk has no room".into());
    let mut machine = world.ended();
    assert_eq!(world.drive(&mut machine), End::Over(Outcome::Completed));
    assert_eq!(world.entry.error.as_deref(), Some("the disk has no room"));
    assert_eq!(world.local().len(), SIZES.len() + 2, "all of it, and where it is");
    let (puts, parts) = (world.store.count("put"), world.store.count("part"));
    fs::write(world.path(names::METADATA), b"{ }").expect("room");
    let mut before = world.local();
    before.remove(sidecar::NAME);
    let last = world.entry.files.last_mut().expect("metadata");
    (last.size, last.sha256) = (3, names::hex(&openssl::sha::sha256(b"{ }")));
    last.remote = None;
    (world.entry.status, world.entry.error) = (Status::Uploading, None);
    let mut machine = world.ended();
    assert_eq!(world.drive(&mut machine), End::Over(Outcome::Completed));
    world.check_completed(&before);
    assert_eq!((world.store.count("put"), world.store.count("part")), (puts + 1, parts));
}
