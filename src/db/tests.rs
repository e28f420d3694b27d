//! The database as others see it: through its queue, over files in every state.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rusqlite::Connection;

use super::{Database, StartError, schema};
use crate::base::{RecordingId, RoomId, UserId};
use crate::recording::Quality;
use crate::recording::library::{
    Answer, Entry, FileEntry, FileKind, Inquiry, MediaSummary, Remote, Request, Status, TrackSummary, Unavailable,
    Update,
};

/// How long anything may take.
const DEADLINE: Duration = Duration::from_secs(20);
/// What those who ask may have to wait while the database does not answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(2);

/// A directory with a database and recordings; goes with the value.
struct Place(PathBuf);

impl Place {
    fn new(name: &str) -> Place {
        let path = std::env::temp_dir().join(format!("webrtc-engine-db-{}-{name}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        std::fs::create_dir_all(path.join("recordings")).unwrap();
        Place(path)
    }

    fn database(&self) -> PathBuf {
        self.0.join("test.db")
    }

    fn recordings(&self) -> PathBuf {
        self.0.join("recordings")
    }

    fn start(&self) -> Kept {
        Kept(Some(Database::start(&self.database(), &self.recordings()).expect("it starts")))
    }

    /// A file of a recording is on the disk.
    fn put(&self, entry: &Entry, name: &str) {
        let directory = self.recordings().join(&entry.directory);
        std::fs::create_dir_all(&directory).unwrap();
        std::fs::write(directory.join(name), b"").unwrap();
    }

    fn connect(&self) -> Connection {
        Connection::open(self.database()).unwrap()
    }

    /// How many recordings are written.
    fn rows(&self) -> i64 {
        self.connect().query_row("SELECT count(*) FROM recordings", [], |row| row.get(0)).unwrap_or(0)
    }

    /// The names of files beside the database that were put aside.
    fn put_aside(&self) -> Vec<String> {
        let names = std::fs::read_dir(&self.0).unwrap().map(|e| e.unwrap().file_name().to_string_lossy().into_owned());
        names
            .filter(|name| name.starts_with("test.db.corrupt-") && !name.ends_with("-wal") && !name.ends_with("-shm"))
            .collect()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A running database; closed with the value.
struct Kept(Option<Database>);

impl Kept {
    fn ask(&self, inquiry: Inquiry) -> Result<Answer, Unavailable> {
        let (send, answer) = mpsc::channel();
        let reply = Box::new(move |answer| send.send(answer).unwrap());
        self.send(Request::Ask { inquiry, reply });
        answer.recv_timeout(DEADLINE).expect("an answer")
    }

    fn update(&self, update: Update) {
        self.send(Request::Update(update));
    }

    fn save(&self, entry: &Entry) {
        self.update(Update::Save(Box::new(entry.clone())));
    }

    fn send(&self, request: Request) {
        let queue = self.0.as_ref().unwrap().sender();
        assert!(queue.try_send(request).is_ok(), "the queue has room");
    }

    fn status(&self, entry: &Entry) -> Result<Entry, Unavailable> {
        let inquiry = Inquiry::Status { room: entry.room.clone(), recording: entry.recording.clone() };
        self.ask(inquiry).map(|answer| match answer {
            Answer::Entry(entry) => *entry,
            other => panic!("not an entry: {other:?}"),
        })
    }

    fn list(&self, limit: usize, cursor: Option<&str>) -> Result<(Vec<Entry>, Option<String>), Unavailable> {
        let cursor = cursor.map(str::to_owned);
        self.ask(Inquiry::List { room: room("r"), limit, cursor }).map(|answer| match answer {
            Answer::List { entries, next_cursor } => (entries, next_cursor),
            other => panic!("not a list: {other:?}"),
        })
    }

    fn file(&self, entry: &Entry, name: &str) -> Result<PathBuf, Unavailable> {
        let (room, recording) = (entry.room.clone(), entry.recording.clone());
        self.ask(Inquiry::File { room, recording, name: name.to_owned() }).map(|answer| match answer {
            Answer::File { path, file } => {
                assert_eq!(file.name, name);
                path
            }
            other => panic!("not a file: {other:?}"),
        })
    }

    fn delete(&self, entry: &Entry) -> Result<Answer, Unavailable> {
        self.ask(Inquiry::Delete { room: entry.room.clone(), recording: entry.recording.clone() })
    }

    /// Asks until the database answers what is wanted.
    fn wait_for<T>(&self, what: &str, mut ask: impl FnMut(&Kept) -> Option<T>) -> T {
        let until = Instant::now() + DEADLINE;
        loop {
            if let Some(found) = ask(self) {
                return found;
            }
            assert!(Instant::now() < until, "never: {what}");
            std::thread::yield_now();
        }
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        if let Some(database) = self.0.take() {
            database.close();
        }
    }
}

fn room(name: &str) -> RoomId {
    RoomId::new(name).unwrap()
}

fn at(ms: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_millis(ms)
}

/// The `number`th recording of call `r`, completed, with everything that an entry can have.
fn entry(number: u64) -> Entry {
    let recording = RecordingId::new(1_700_000_000_000 + number, [7; 9]);
    let track = TrackSummary {
        number: 1,
        participant: "ann".into(),
        source: "camera".into(),
        codec: "vp8".into(),
        width: Some(640),
        height: None,
        start_offset_ms: 12,
        duration_ms: 34,
        quality: Quality { packets: 5, drift_ppm: -3, ..Quality::default() },
    };
    let media = MediaSummary { duration_ms: 56, tracks: vec![track] };
    let file = |name: &str, kind, participant: Option<&str>, media| FileEntry {
        name: name.into(),
        kind,
        content_type: "video/webm".into(),
        participant: participant.map(str::to_owned),
        size: 1 << 40,
        sha256: "ab".repeat(32),
        media,
        remote: None,
    };
    Entry {
        directory: Path::new("r").join(recording.as_str()),
        recording,
        room: room("r"),
        status: Status::Completed,
        progress: 0.5,
        audio_only: true,
        participants: Some(vec![UserId::new("ann \"ü\"").unwrap()]),
        started_by: Some(UserId::new("bob").unwrap()),
        started: at(1_700_000_000_123),
        ended: Some(at(1_700_000_001_456)),
        end_reason: Some("requested".into()),
        duration_ms: 1_333,
        size: u64::MAX >> 1,
        recovered: true,
        error: Some("none".into()),
        files: vec![
            file("recording.webm", FileKind::Call, None, Some(media)),
            file("ann-1.webm", FileKind::Participant, Some("ann"), None),
        ],
    }
}

/// One of which little is known.
fn bare(number: u64, status: Status) -> Entry {
    Entry {
        status,
        progress: 0.0,
        audio_only: false,
        participants: None,
        started_by: None,
        ended: None,
        end_reason: None,
        duration_ms: 0,
        size: 0,
        recovered: false,
        error: None,
        files: Vec::new(),
        ..entry(number)
    }
}

#[test]
fn an_entry_comes_back_as_it_was_also_after_a_restart() {
    let place = Place::new("entry");
    let (full, bare) = (entry(1), bare(2, Status::Recording));
    let db = place.start();
    db.save(&full);
    db.save(&bare);
    assert_eq!(db.status(&full), Ok(full.clone()));
    for file in ["test.db", "test.db-wal", "test.db-shm"] {
        let mode = std::fs::metadata(place.0.join(file)).unwrap().permissions().mode();
        assert_eq!(mode & 0o077, 0, "{file} is for nobody else");
    }
    drop(db);
    place.put(&bare, "manifest.jsonl");
    let db = place.start();
    assert_eq!(db.status(&full), Ok(full.clone()));
    // A live one of a former run is as it was: it is repaired.
    assert_eq!(db.status(&bare), Ok(bare.clone()));
    let mut there = full.clone();
    there.files[0].remote = Some(Remote {
        provider: "s3".into(),
        key: "r/x/recording.webm".into(),
        url: "s3://bucket/r/x/recording.webm".into(),
        is_only: true,
    });
    db.save(&there);
    assert_eq!(db.status(&there), Ok(there.clone()));
    let later =
        Entry { status: Status::Failed, error: Some("disk".into()), files: vec![full.files[1].clone()], ..full };
    db.save(&later);
    assert_eq!(db.status(&later), Ok(later.clone()));
    db.update(Update::Remove(later.recording.clone()));
    assert_eq!(db.status(&later), Err(Unavailable::NotFound));
    drop(db);
    assert_eq!(place.start().status(&later), Err(Unavailable::NotFound));
    let files: i64 = place.connect().query_row("SELECT count(*) FROM recording_files", [], |row| row.get(0)).unwrap();
    assert_eq!(files, 0, "files go with their recording");
}

#[test]
fn another_call_has_none_of_it() {
    let place = Place::new("rooms");
    let db = place.start();
    let entry = entry(1);
    db.save(&entry);
    let foreign = Entry { room: room("other"), ..entry.clone() };
    assert_eq!(db.status(&foreign), Err(Unavailable::NotFound));
    assert_eq!(db.file(&foreign, "recording.webm"), Err(Unavailable::NotFound));
    assert_eq!(db.delete(&foreign), Err(Unavailable::NotFound));
    assert_eq!(db.ask(Inquiry::Latest { room: room("other") }), Err(Unavailable::NotFound));
    assert_eq!(db.status(&entry), Ok(entry));
}

#[test]
fn what_is_found_does_not_overwrite() {
    let place = Place::new("found");
    let db = place.start();
    let known = entry(1);
    let found = |entry: &Entry| Update::Found(Box::new(Entry { recovered: false, ..entry.clone() }));
    db.save(&known);
    db.update(found(&known));
    assert_eq!(db.status(&known), Ok(known.clone()));
    // Nor when the row is written already.
    drop(db);
    let db = place.start();
    db.update(found(&known));
    assert_eq!(db.status(&known), Ok(known.clone()));
    let new = entry(2);
    db.update(found(&new));
    assert!(!db.status(&new).unwrap().recovered);
    db.save(&new);
    assert_eq!(db.status(&new), Ok(new.clone()));
    // One that was removed and is there again after all.
    db.update(Update::Remove(new.recording.clone()));
    db.update(found(&new));
    assert!(!db.status(&new).unwrap().recovered);
}

#[test]
fn what_is_found_takes_the_place_of_what_a_killed_process_left() {
    use Status::*;
    let full = |status| Entry { status, ..entry(1) };
    let failed = |files| Entry { files, error: Some("the disk".into()), ..bare(1, Failed) };
    // Row: what is known, what is found, whether that takes its place.
    let rows = [
        (bare(1, Recording), full(Completed), true),
        (bare(1, Paused), full(Completed), true),
        (bare(1, Stopping), full(Completed), true),
        (bare(1, Processing), full(Completed), true),
        (bare(1, Processing), full(Failed), true),
        (failed(vec![]), full(Completed), true),
        (failed(vec![]), full(Failed), false),
        (failed(full(Failed).files), full(Completed), false),
        (bare(1, Uploading), full(Completed), false),
        (bare(1, Completed), full(Completed), false),
    ];
    // Side by side, since each waits for a lock.
    std::thread::scope(|scope| {
        for (number, (known, found, takes_place)) in rows.into_iter().enumerate() {
            scope.spawn(move || {
                let expected = if takes_place { found.clone() } else { known.clone() };
                found_over(&Place::new(&format!("left-{number}")), &known, found, &expected);
            });
        }
    });
}

#[test]
fn what_was_not_finished_and_is_gone_has_failed() {
    use Status::*;
    let place = Place::new("gone");
    let names = ["", "recording.webm"];
    let statuses = [Recording, Paused, Stopping, Processing, Uploading, Completed, Failed];
    let all: Vec<(Entry, &str)> = statuses
        .iter()
        .flat_map(|status| names.map(|name| (*status, name)))
        .zip(1..)
        .map(|((status, name), number)| (bare(number, status), name))
        .collect();
    let db = place.start();
    for (entry, name) in &all {
        db.save(entry);
        if !name.is_empty() {
            place.put(entry, name);
        }
    }
    drop(db);
    let check = |db: &Kept, is_there: bool| {
        for (entry, name) in &all {
            let is_unfinished = matches!(entry.status, Recording | Paused | Stopping | Processing);
            let has_failed = is_there && is_unfinished && name.is_empty();
            let found = db.status(entry).unwrap();
            assert_eq!(found.status, if has_failed { Failed } else { entry.status }, "{name:?}");
            assert_eq!(found.error.is_some(), has_failed);
        }
    };
    // A disk that is not there is no reason.
    let away = place.0.join("away");
    std::fs::rename(place.recordings(), &away).unwrap();
    check(&place.start(), false);
    std::fs::rename(&away, place.recordings()).unwrap();
    check(&place.start(), true);
    let db = place.start();
    check(&db, true);
    // It may be deleted then; or be there again after all.
    let (first, again) = (&all[0].0, &all[2].0);
    assert_eq!(db.delete(first), Ok(Answer::Deleted));
    let found = Entry { status: Completed, ..again.clone() };
    db.update(Update::Found(Box::new(found.clone())));
    assert_eq!(db.status(&found), Ok(found.clone()));
}

/// While the row waits to be written, while what was found does, and when both are written.
fn found_over(place: &Place, known: &Entry, found: Entry, expected: &Entry) {
    let found = || Update::Found(Box::new(found.clone()));
    place.put(known, "metadata.json");
    let db = place.start();
    db.wait_for("the tables", |db| db.list(1, None).ok());
    let other = place.connect();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    db.save(known);
    db.update(found());
    assert_eq!(db.status(known).as_ref(), Ok(expected), "{known:?} waits");
    other.execute_batch("ROLLBACK").unwrap();
    drop(db);
    other.execute_batch("DELETE FROM recordings").unwrap();
    place.start().save(known);
    let db = place.start();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    db.update(found());
    assert_eq!(db.status(known).as_ref(), Ok(expected), "{known:?} is written");
    other.execute_batch("ROLLBACK").unwrap();
    drop(db);
    assert_eq!(place.start().status(known).as_ref(), Ok(expected), "both are written");
}

#[test]
fn progress_is_of_live_ones_and_of_this_run() {
    let place = Place::new("progress");
    let db = place.start();
    let live = bare(1, Status::Recording);
    place.put(&live, "manifest.jsonl");
    db.save(&live);
    let progress = |entry: &Entry| Update::Progress {
        recording: entry.recording.clone(),
        duration_ms: 5,
        size: 6,
        progress: 0.25,
    };
    db.update(progress(&live));
    let shown = Entry { duration_ms: 5, size: 6, progress: 0.25, ..live.clone() };
    assert_eq!(db.status(&live), Ok(shown.clone()));
    assert_eq!(db.list(9, None).unwrap().0, [shown]);
    drop(db);
    let db = place.start();
    assert_eq!(db.status(&live), Ok(live.clone()));
    // What is said as a whole counts more, and of one that is over there is none.
    db.update(progress(&live));
    db.save(&live);
    assert_eq!(db.status(&live), Ok(live));
    let over = entry(2);
    db.save(&over);
    db.update(progress(&over));
    assert_eq!(db.status(&over), Ok(over));
}

#[test]
fn lists_go_backwards_page_by_page() {
    let place = Place::new("list");
    let db = place.start();
    for number in [3, 1, 7, 2, 6, 5, 4] {
        db.save(&bare(number, Status::Completed));
    }
    db.save(&Entry { room: room("other"), ..bare(9, Status::Completed) });
    let number = |entry: &Entry| (1..9).find(|n| bare(*n, Status::Completed).recording == entry.recording).unwrap();
    let page = |db: &Kept, limit, cursor: Option<&str>| {
        let (entries, next) = db.list(limit, cursor).unwrap();
        (entries.iter().map(number).collect::<Vec<_>>(), next)
    };
    let (first, next) = page(&db, 3, None);
    assert_eq!(first, [7, 6, 5]);
    // Newer ones, and the loss of the one that the cursor names, do not disturb.
    db.save(&bare(8, Status::Recording));
    db.update(Update::Remove(bare(5, Status::Completed).recording));
    let (second, next) = page(&db, 3, next.as_deref());
    assert_eq!(second, [4, 3, 2]);
    assert_eq!(page(&db, 3, next.as_deref()), (vec![1], None));
    assert_eq!(page(&db, 7, None), (vec![8, 7, 6, 4, 3, 2, 1], None));
    assert_eq!(db.list(3, Some("nonsense")).unwrap_err(), Unavailable::Cursor);
    let Ok(Answer::Entry(latest)) = db.ask(Inquiry::Latest { room: room("r") }) else { panic!("there is one") };
    assert_eq!(number(&latest), 8);
}

#[test]
fn files_are_those_listed_once_they_are_done() {
    let place = Place::new("files");
    let db = place.start();
    let mut entry = entry(1);
    let expected = place.recordings().join("r").join(entry.recording.as_str()).join("recording.webm");
    for status in [Status::Processing, Status::Uploading, Status::Completed, Status::Failed] {
        entry.status = status;
        db.save(&entry);
        assert_eq!(db.file(&entry, "recording.webm").as_ref(), Ok(&expected), "{status:?}");
        assert_eq!(db.file(&entry, "manifest.jsonl"), Err(Unavailable::NotFound));
    }
    for status in [Status::Recording, Status::Paused, Status::Stopping] {
        entry.status = status;
        db.save(&entry);
        assert_eq!(db.file(&entry, "recording.webm"), Err(Unavailable::NotFound), "{status:?}");
    }
    // Also such as are listed, which cannot be.
    entry.status = Status::Completed;
    for name in ["..", "../metadata.json", "/etc/passwd", "a/b", ".hidden", "", "a\0b"] {
        entry.files[0].name = name.to_owned();
        db.save(&entry);
        assert_eq!(db.file(&entry, name), Err(Unavailable::NotFound), "{name:?}");
    }
    entry.files[0].name = "recording.webm".into();
    for directory in ["..", "/etc", "r/../../x", "r", "../r/x"] {
        entry.directory = directory.into();
        db.save(&entry);
        assert_eq!(db.file(&entry, "recording.webm"), Err(Unavailable::NotFound), "{directory}");
        assert_eq!(db.delete(&entry), Err(Unavailable::Files), "{directory}");
    }
}

#[test]
fn a_deleted_recording_is_gone_with_its_files() {
    let place = Place::new("delete");
    let db = place.start();
    let (first, second, third) = (entry(1), entry(2), entry(3));
    let directory = |entry: &Entry| place.recordings().join(&entry.directory);
    for entry in [&first, &second] {
        std::fs::create_dir_all(directory(entry)).unwrap();
        std::fs::write(directory(entry).join("recording.webm"), "x").unwrap();
        db.save(entry);
    }
    for status in [Status::Recording, Status::Paused, Status::Stopping, Status::Processing] {
        db.save(&Entry { status, ..first.clone() });
        assert_eq!(db.delete(&first), Err(Unavailable::Active), "{status:?}");
    }
    // One that waits for a store which nobody knows any more.
    db.save(&Entry { status: Status::Uploading, ..first.clone() });
    assert_eq!(db.delete(&first), Ok(Answer::Deleted));
    assert!(!directory(&first).exists() && directory(&second).join("recording.webm").exists());
    assert_eq!(db.delete(&first), Err(Unavailable::NotFound));
    // One without a directory.
    db.save(&third);
    assert_eq!(db.delete(&third), Ok(Answer::Deleted));
    drop(db);
    let db = place.start();
    assert_eq!(db.list(9, None).unwrap().0, [second]);
}

/// What a link leads to is none of ours.
#[test]
fn nothing_is_deleted_over_a_link() {
    let place = Place::new("link");
    let db = place.start();
    let entry = entry(1);
    let outside = place.0.join("outside");
    std::fs::create_dir_all(&outside).unwrap();
    std::fs::write(outside.join("kept"), "x").unwrap();
    let directory = place.recordings().join(&entry.directory);
    std::fs::create_dir_all(&directory).unwrap();
    std::os::unix::fs::symlink(&outside, directory.join("link")).unwrap();
    db.save(&entry);
    assert_eq!(db.delete(&entry), Ok(Answer::Deleted));
    assert!(!directory.exists() && outside.join("kept").exists());
}

#[test]
fn every_older_database_becomes_a_newer_one() {
    for version in 0..=schema::known() {
        let place = Place::new(&format!("version-{version}"));
        let old = place.connect();
        for step in &schema::MIGRATIONS[..version as usize] {
            old.execute_batch(step).unwrap();
        }
        old.pragma_update(None, "user_version", version).unwrap();
        drop(old);
        let db = place.start();
        db.save(&entry(1));
        assert_eq!(db.status(&entry(1)), Ok(entry(1)), "from version {version}");
        drop(db);
        let found: i64 = place.connect().query_row("PRAGMA user_version", [], |row| row.get(0)).unwrap();
        assert_eq!(found, schema::known());
    }
}

/// Rows as the first version wrote them, whatever the code is today.
#[test]
fn rows_of_the_first_version_are_read() {
    let place = Place::new("first");
    let old = place.connect();
    old.execute_batch(schema::MIGRATIONS[0]).unwrap();
    let id = RecordingId::new(1_700_000_000_001, [7; 9]);
    old.execute_batch(&format!(
        "PRAGMA user_version = 1;
         INSERT INTO recordings VALUES ('{id}', 'r', 'completed', 1.0, 0, '[\"ann\"]', 'bob', 1700000000123, 1700000001456,
            'requested', 1333, 99, 1, NULL, 'r/{id}');
         INSERT INTO recording_files VALUES ('{id}', 0, 'recording.webm', 'call', 'video/webm', NULL, 99, 'aa',
            '{{\"durationMs\":1333,\"tracks\":[]}}');
         INSERT INTO recordings VALUES ('nonsense', 'r', 'completed', 1.0, 0, NULL, NULL, 1, NULL, NULL, 0, 0, 0, NULL, 'x');",
    ))
    .unwrap();
    drop(old);
    let (entries, _) = place.start().list(9, None).unwrap();
    let [entry] = &entries[..] else { panic!("one of them is a recording: {entries:?}") };
    assert_eq!((&entry.recording, entry.started, entry.duration_ms), (&id, at(1_700_000_000_123), 1333));
    assert_eq!(entry.participants, Some(vec![UserId::new("ann").unwrap()]));
    assert_eq!(entry.files[0].media, Some(MediaSummary { duration_ms: 1333, tracks: Vec::new() }));
    assert_eq!(entry.files[0].remote, None, "it was here");
}

#[test]
fn a_database_of_a_later_version_stays_as_it_is() {
    let place = Place::new("newer");
    place.connect().pragma_update(None, "user_version", schema::known() + 1).unwrap();
    let before = std::fs::read(place.database()).unwrap();
    let error = match Database::start(&place.database(), &place.recordings()) {
        Err(error @ StartError::Newer { .. }) => error.to_string(),
        Err(other) => panic!("{other}"),
        Ok(_) => panic!("it starts"),
    };
    assert!(error.contains("later version") && error.contains("test.db"), "{error}");
    assert!(place.put_aside().is_empty());
    assert_eq!(std::fs::read(place.database()).unwrap(), before);
}

#[test]
fn what_is_no_database_is_put_aside() {
    for content in [&b"this is no database, and long enough to be taken for one.".repeat(100)[..], &[0xff; 8192]] {
        let place = Place::new("garbage");
        std::fs::write(place.database(), content).unwrap();
        let db = place.start();
        db.save(&entry(1));
        assert_eq!(db.status(&entry(1)), Ok(entry(1)));
        let aside = place.put_aside();
        assert_eq!(aside.len(), 1, "{aside:?}");
        assert_eq!(std::fs::read(place.0.join(&aside[0])).unwrap(), content);
    }
}

/// A page in the middle is overwritten, which only a look at all of it shows.
#[test]
fn a_database_that_broke_is_put_aside_with_its_journal() {
    let place = Place::new("corrupt");
    let db = place.start();
    for number in 0..50 {
        db.save(&entry(number));
    }
    drop(db);
    let mut bytes = std::fs::read(place.database()).unwrap();
    for at in (4096..bytes.len()).step_by(4096) {
        bytes[at..at + 2000].fill(0x5a);
    }
    std::fs::write(place.database(), &bytes).unwrap();
    let db = place.start();
    assert_eq!(db.list(9, None), Ok((Vec::new(), None)));
    assert_eq!(place.put_aside().len(), 1);
    db.save(&entry(1));
    assert_eq!(db.status(&entry(1)), Ok(entry(1)));
}

/// The same while it runs: what is broken is noticed with a question, and what comes after is kept.
#[test]
fn a_database_that_breaks_is_made_again() {
    let place = Place::new("breaks");
    let db = place.start();
    for number in 0..50 {
        db.save(&entry(number));
    }
    db.wait_for("the rows", |_| (place.rows() == 50).then_some(()));
    // Everything is in the file itself, and nothing in the journal.
    db.wait_for("an empty journal", |_| {
        let busy = place.connect().query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get::<_, i64>(0));
        (busy == Ok(0)).then_some(())
    });
    let file = std::fs::OpenOptions::new().write(true).open(place.database()).unwrap();
    let pages = file.metadata().unwrap().len() / 4096;
    for page in 1..pages {
        std::os::unix::fs::FileExt::write_all_at(&file, &[0x5a; 4096], page * 4096).unwrap();
    }
    // The connection has a few pages in memory, and asks for others as soon as something has changed.
    place.connect().pragma_update(None, "user_version", schema::known()).unwrap();
    db.wait_for("a new database", |db| (db.list(200, None) == Ok((Vec::new(), None))).then_some(()));
    assert_eq!(place.put_aside().len(), 1);
    db.save(&entry(1));
    assert_eq!(db.status(&entry(1)), Ok(entry(1)));
}

#[test]
fn a_locked_database_is_waited_for_and_left_alone() {
    let place = Place::new("locked");
    let other = place.connect();
    other.execute_batch("PRAGMA locking_mode = EXCLUSIVE; PRAGMA journal_mode = WAL; CREATE TABLE x (y); ").unwrap();
    let db = place.start();
    for _ in 0..3 {
        let asked = Instant::now();
        assert_eq!(db.list(9, None), Err(Unavailable::Database));
        assert!(asked.elapsed() < ANSWER_WITHIN, "{:?}", asked.elapsed());
    }
    assert_eq!(db.delete(&entry(1)), Err(Unavailable::Database));
    db.save(&entry(1));
    db.update(Update::Found(Box::new(entry(2))));
    db.save(&entry(3));
    db.update(Update::Remove(entry(3).recording));
    drop(other);
    let (entries, _) = db.wait_for("an answer", |db| db.list(9, None).ok());
    assert_eq!(entries, [entry(2), entry(1)]);
    assert!(place.put_aside().is_empty());
    drop(db);
    assert_eq!(place.start().list(9, None).unwrap().0, [entry(2), entry(1)], "they were written");
}

/// Somebody writes and does not end: what is known can still be told, what changes is kept, and counts.
#[test]
fn a_writer_that_does_not_end_hides_nothing() {
    let place = Place::new("writer");
    let db = place.start();
    db.save(&entry(1));
    db.save(&entry(2));
    db.wait_for("the rows", |_| (place.rows() == 2).then_some(()));
    let other = place.connect();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    let changed = Entry { status: Status::Failed, ..entry(1) };
    db.save(&changed);
    db.save(&entry(3));
    for _ in 0..3 {
        let asked = Instant::now();
        assert_eq!(db.list(9, None).unwrap().0, [entry(3), entry(2), changed.clone()]);
        assert_eq!(db.list(2, None).unwrap().0, [entry(3), entry(2)]);
        assert!(asked.elapsed() < 2 * ANSWER_WITHIN, "{:?}", asked.elapsed());
    }
    assert_eq!(db.delete(&entry(2)), Ok(Answer::Deleted));
    assert_eq!(db.list(9, None).unwrap().0, [entry(3), changed.clone()]);
    assert_eq!(place.rows(), 2, "nothing of it is written");
    other.execute_batch("ROLLBACK").unwrap();
    drop(db);
    assert_eq!(place.start().list(9, None).unwrap().0, [entry(3), changed]);
}

/// However many of the newest are gone, or others, in what is not written.
#[test]
fn what_is_not_written_is_part_of_every_page() {
    let place = Place::new("pages");
    let db = place.start();
    for number in 1..=6 {
        db.save(&entry(number));
    }
    db.wait_for("the rows", |_| (place.rows() == 6).then_some(()));
    let other = place.connect();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    for number in 3..=6 {
        db.update(Update::Remove(entry(number).recording));
    }
    let found = Entry { recovered: false, ..entry(3) };
    db.update(Update::Found(Box::new(found.clone())));
    let cursor = |number: u64| Some(entry(number).recording.to_string());
    let check = |db: &Kept| {
        assert_eq!(db.list(1, None), Ok((vec![found.clone()], cursor(3))));
        assert_eq!(db.list(1, cursor(3).as_deref()), Ok((vec![entry(2)], cursor(2))));
        assert_eq!(db.list(1, cursor(2).as_deref()), Ok((vec![entry(1)], None)));
    };
    check(&db);
    assert_eq!(place.rows(), 6, "nothing of it is written");
    other.execute_batch("ROLLBACK").unwrap();
    drop(db);
    check(&place.start());
}

#[test]
fn a_place_that_is_not_there_is_tried_again() {
    let place = Place::new("missing");
    let path = place.0.join("later").join("test.db");
    let db = Kept(Some(Database::start(&path, &place.recordings()).expect("it starts")));
    assert_eq!(db.list(9, None), Err(Unavailable::Database));
    db.save(&entry(1));
    std::fs::create_dir(place.0.join("later")).unwrap();
    let (entries, _) = db.wait_for("an answer", |db| db.list(9, None).ok());
    assert_eq!(entries, [entry(1)]);
}

/// Whoever may do everything is not kept from writing.
#[test]
fn a_database_that_may_not_be_written_is_left_alone() {
    let place = Place::new("read-only");
    let db = place.start();
    db.save(&entry(1));
    drop(db);
    let allow = |mode: u32| std::fs::set_permissions(place.database(), std::fs::Permissions::from_mode(mode)).unwrap();
    allow(0o444);
    if std::fs::OpenOptions::new().write(true).open(place.database()).is_ok() {
        return;
    }
    let db = place.start();
    assert_eq!(db.list(9, None), Err(Unavailable::Database));
    db.save(&entry(2));
    assert!(place.put_aside().is_empty());
    allow(0o644);
    let (entries, _) = db.wait_for("an answer", |db| db.list(9, None).ok());
    assert_eq!(entries, [entry(2), entry(1)]);
}

/// A reply that panics stands for any bug in the thread.
#[test]
fn a_panic_ends_one_answer_and_nothing_else() {
    let place = Place::new("panic");
    let db = place.start();
    db.save(&entry(1));
    let reply = Box::new(|_| panic!("as a bug would"));
    db.send(Request::Ask { inquiry: Inquiry::Latest { room: room("r") }, reply });
    assert_eq!(db.wait_for("an answer", |db| db.status(&entry(1)).ok()), entry(1));
}
