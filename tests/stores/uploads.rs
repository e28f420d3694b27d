//! Recordings on their way into a real store, through every kind of weather: whatever happens, each object is the file in the
//! end, and nothing is left over.
//!
//! `UPLOADS=n` sends so many recordings through each weather, `tools/uploads.sh` twenty.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::mpsc::channel;
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use webrtc_engine::base::{RecordingId, RoomId, WorkerId};
use webrtc_engine::db::Database;
use webrtc_engine::recording::feed::Notice;
use webrtc_engine::recording::library::{
    Answer, Entry, FileEntry, FileKind, Inquiry, ReplyTo, Request, Status, Update,
};
use webrtc_engine::storage::outbox::Outbox;
use webrtc_engine::storage::store::Store;
use webrtc_engine::storage::uploader::{Config, Uploads};

use crate::faults::{Do, Proxy};
use crate::harness::{self, BUCKET, S3sFs, Scratch, content};
use crate::server::Head;

/// A recording: the file of the call has two parts, the others are put.
const SIZES: [(&str, FileKind, u64); 3] = [
    ("recording.webm", FileKind::Call, (8 << 20) + 70_001),
    ("ann-1.webm", FileKind::Participant, 300_000),
    ("metadata.json", FileKind::Metadata, 900),
];
/// Back-off begins with a second, and nothing fails more than some times.
const PATIENCE: Duration = Duration::from_secs(120);

fn recordings() -> usize {
    std::env::var("UPLOADS").ok().and_then(|count| count.parse().ok()).unwrap_or(3)
}

/// What survives a restart: the disk, and the store.
struct Place {
    scratch: Scratch,
    store: Arc<dyn Store>,
}

struct Server {
    database: Option<Database>,
    uploads: Option<Uploads>,
}

impl Place {
    fn directory(&self) -> PathBuf {
        self.scratch.path().join("recordings")
    }

    fn start(&self) -> Server {
        let database = Database::start(&self.scratch.path().join("test.db"), &self.directory()).expect("it starts");
        let config = Config::new(self.store.clone(), &self.directory(), false);
        let outbox = Arc::new(Outbox::new(database.sender()));
        let notice = Arc::new(|_: WorkerId, _: Notice| {});
        let uploads = Uploads::start(config, database.sender(), outbox, notice).expect("threads");
        Server { database: Some(database), uploads: Some(uploads) }
    }

    /// A recording that is over, with its files.
    fn recorded(&self, number: usize) -> Entry {
        let (room, recording) = (format!("room-{number}"), format!("rec_{number:024}"));
        let directory = PathBuf::from(&room).join(&recording);
        fs::create_dir_all(self.directory().join(&directory)).expect("room");
        let file = |(name, kind, size): (&str, FileKind, u64)| {
            // Each is another.
            let octets = content(size + number as u64);
            fs::write(self.directory().join(&directory).join(name), &octets).expect("room");
            FileEntry {
                name: name.to_owned(),
                kind,
                content_type: "video/webm".to_owned(),
                participant: None,
                size: octets.len() as u64,
                sha256: hex(&openssl::sha::sha256(&octets)),
                media: None,
                remote: None,
            }
        };
        let files: Vec<FileEntry> = SIZES.into_iter().map(file).collect();
        Entry {
            recording: RecordingId::parse(&recording).expect("an id"),
            room: RoomId::new(&room).expect("an id"),
            status: Status::Uploading,
            progress: 0.0,
            audio_only: false,
            participants: None,
            started_by: None,
            started: SystemTime::now(),
            ended: Some(SystemTime::now()),
            end_reason: None,
            duration_ms: 1000,
            size: files.iter().map(|file| file.size).sum(),
            recovered: false,
            error: None,
            directory,
            files,
        }
    }
}

impl Server {
    fn send(&self, request: Request) {
        assert!(self.database.as_ref().expect("it runs").sender().try_send(request).is_ok(), "room");
    }

    fn ended(&self, entry: &Entry) {
        self.send(Request::Update(Update::Save(Box::new(entry.clone()))));
        self.uploads.as_ref().expect("they run").handle().ended(entry, None);
    }

    fn status(&self, of: &Entry) -> Option<Entry> {
        let (send, answer) = channel();
        let reply: ReplyTo = Box::new(move |answer| drop(send.send(answer)));
        let inquiry = Inquiry::Status { room: of.room.clone(), recording: of.recording.clone() };
        self.send(Request::Ask { inquiry, reply });
        match answer.recv_timeout(PATIENCE).expect("an answer") {
            Ok(Answer::Entry(entry)) => Some(*entry),
            _ => None,
        }
    }

    fn completed(&self, of: &Entry, weather: &str) -> Entry {
        let until = Instant::now() + PATIENCE;
        loop {
            let seen = self.status(of);
            if let Some(entry) = seen.clone().filter(|entry| entry.status == Status::Completed) {
                return entry;
            }
            assert!(Instant::now() < until, "{weather}: {seen:?}");
            thread::sleep(Duration::from_millis(20));
        }
    }

    fn stop(mut self) {
        if let Some(uploads) = self.uploads.take() {
            uploads.stop(Instant::now() + PATIENCE);
        }
        if let Some(database) = self.database.take() {
            database.close();
        }
    }
}

fn hex(octets: &[u8]) -> String {
    octets.iter().map(|octet| format!("{octet:02x}")).collect()
}

/// Each object is the file, and no upload is open.
fn check(s3: &S3sFs, place: &Place, entries: &[Entry], weather: &str) {
    check_objects(s3, place, entries, weather);
    assert_eq!(left_over(s3), (0, 0), "{weather}: uploads and parts are left");
}

fn check_objects(s3: &S3sFs, place: &Place, entries: &[Entry], weather: &str) {
    for entry in entries {
        for file in &entry.files {
            let key = format!("{}/{}", entry.directory.display(), file.name);
            let object = fs::read(s3.kept(&key)).unwrap_or_else(|error| panic!("{weather}: {key}: {error}"));
            assert_eq!(hex(&openssl::sha::sha256(&object)), file.sha256, "{weather}: {key}");
            let local = place.directory().join(&entry.directory).join(&file.name);
            let stays = file.kind == FileKind::Metadata;
            assert_eq!(local.exists(), stays, "{weather}: {key} here");
        }
    }
}

/// Uploads that are open, and parts: s3s-fs keeps them in its root until they are completed or aborted.
fn left_over(s3: &S3sFs) -> (usize, usize) {
    let root = s3.kept("").parent().expect("above the bucket").to_owned();
    let names = fs::read_dir(&root).expect("it is there").flatten().map(|left| left.file_name());
    let names: Vec<String> = names.map(|name| name.to_string_lossy().into_owned()).collect();
    let count = |start: &str| names.iter().filter(|name| name.starts_with(start)).count();
    (count(".upload-"), count(".upload_id-"))
}

/// Answers every request so that is among the first `bad` of its kind.
fn first(bad: usize, is_it: fn(&Head) -> bool, what: Do) -> impl FnMut(usize, &Head) -> Do + Send + 'static {
    let mut seen = 0;
    move |_, head| {
        seen += usize::from(is_it(head));
        if is_it(head) && seen <= bad { what.clone() } else { Do::Pass }
    }
}

fn is_any(_: &Head) -> bool {
    true
}

fn is_part(head: &Head) -> bool {
    head.target.contains("partNumber=")
}

fn is_completion(head: &Head) -> bool {
    head.method == "POST" && head.target.contains("uploadId=")
}

fn has_body(head: &Head) -> bool {
    head.method == "PUT"
}

/// Through a proxy with such a script `recordings()` go up at once.
fn survive(weather: &str, script: impl FnMut(usize, &Head) -> Do + Send + 'static) {
    let Some(s3) = S3sFs::start(weather) else { return };
    let proxy = Proxy::start(s3.program.address, script);
    let place = Place { scratch: Scratch::new(), store: harness::s3(&proxy.url()) };
    let server = place.start();
    let entries: Vec<Entry> = (0..recordings()).map(|number| place.recorded(number)).collect();
    entries.iter().for_each(|entry| server.ended(entry));
    for entry in &entries {
        let done = server.completed(entry, weather);
        assert_eq!(done.error, None, "{weather}");
        let url = format!("s3://{BUCKET}/{}/recording.webm", entry.directory.display());
        let remote = done.files[0].remote.as_ref().expect("it is there");
        assert_eq!((remote.url.as_str(), remote.is_only), (url.as_str(), true), "{weather}");
    }
    server.stop();
    check(&s3, &place, &entries, weather);
}

#[test]
fn fine_weather() {
    survive("fine weather", |_, _| Do::Pass);
}

#[test]
fn access_is_denied_for_a_while() {
    survive("403", first(2, is_any, Do::error(403, "AccessDenied")));
}

#[test]
fn the_store_fails_for_a_while() {
    survive("500", first(3, is_any, Do::error(500, "InternalError")));
}

#[test]
fn the_store_wants_less() {
    survive("503", first(3, has_body, Do::slow_down(1)));
}

#[test]
fn connections_break_in_the_middle_of_parts() {
    survive("reset", first(2, is_part, Do::ResetBody { after: 3_000_000 }));
}

#[test]
fn parts_stall() {
    survive("stall", first(1, is_part, Do::Stall { after: 1_000_000 }));
}

#[test]
fn a_slow_line() {
    // The smaller files: a part of 8 MiB would take a quarter of an hour.
    let small = |head: &Head| has_body(head) && !is_part(head) && head.target.contains("metadata");
    survive("10 KB/s", first(usize::MAX, small, Do::Slow { octets_per_second: 10_000 }));
}

#[test]
fn tags_are_wrong() {
    survive("wrong ETag", first(2, has_body, Do::WrongEtag));
}

#[test]
fn a_token_expires() {
    survive("expired token", first(2, is_any, Do::expired_token()));
}

#[test]
fn nobody_hears_of_a_completion() {
    survive("lost completion", first(2, is_completion, Do::LoseAnswer));
}

#[test]
fn nobody_hears_of_parts_and_puts() {
    survive("lost answers", first(3, has_body, Do::LoseAnswer));
}

#[test]
fn the_store_is_not_there_for_a_while() {
    let Some(s3) = S3sFs::start("refused") else { return };
    let proxy = Proxy::start(s3.program.address, |_, _| Do::Pass);
    let place = Place { scratch: Scratch::new(), store: harness::s3(&proxy.url()) };
    proxy.refuse();
    let server = place.start();
    let entries: Vec<Entry> = (0..recordings()).map(|number| place.recorded(number)).collect();
    entries.iter().for_each(|entry| server.ended(entry));
    let until = Instant::now() + PATIENCE;
    while entries.iter().any(|entry| server.status(entry).is_none_or(|seen| seen.error.is_none())) {
        assert!(Instant::now() < until, "nobody says what is wrong");
        thread::sleep(Duration::from_millis(20));
    }
    proxy.listen();
    entries.iter().for_each(|entry| drop(server.completed(entry, "refused")));
    server.stop();
    check(&s3, &place, &entries, "refused");
}

/// The program itself, started again and again: killed at its first request that reaches the store, at its second, and so on.
#[test]
fn kills_at_every_request() {
    let Some(s3) = S3sFs::start("kills") else { return };
    let proxy = Proxy::start(s3.program.address, |_, _| Do::Pass);
    let place = Place { scratch: Scratch::new(), store: harness::s3(&proxy.url()) };
    let entries: Vec<Entry> = (0..recordings()).map(|number| place.recorded(number)).collect();
    let data = place.scratch.path().join("data");
    let database = || Database::start(&data.join("webrtc-engine.db"), &place.directory()).expect("it starts");
    fs::create_dir_all(&data).expect("room");
    let server = Server { database: Some(database()), uploads: None };
    entries.iter().for_each(|entry| server.send(Request::Update(Update::Save(Box::new(entry.clone())))));
    server.stop();
    let mut kills = 0;
    let until = Instant::now() + PATIENCE;
    loop {
        let seen = proxy.requests().len();
        let mut child = Command::new(env!("CARGO_BIN_EXE_webrtc-engine"))
            .args(["recordings", "upload"])
            .env_clear()
            .envs(harness::s3_environment(&proxy.url()))
            .env("DATA_DIR", &data)
            .env("RECORDING_OUTPUT_DIR", place.directory())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("it can be started");
        let ended = loop {
            assert!(Instant::now() < until, "after {kills} kills");
            if let Some(status) = child.try_wait().expect("a child") {
                break Some(status);
            }
            // Every second time a moment later, when the store has done it.
            if proxy.requests().len() > seen + kills as usize / 2 {
                thread::sleep(Duration::from_millis(30 * (kills % 2)));
                child.kill().expect("it runs");
                child.wait().expect("a child");
                break None;
            }
            thread::sleep(Duration::from_millis(1));
        };
        match ended {
            Some(status) => break assert!(status.success(), "{status}"),
            None => kills += 1,
        }
    }
    assert!(kills > 5, "it was killed {kills} times");
    let server = Server { database: Some(database()), uploads: None };
    for entry in &entries {
        let seen = server.status(entry).expect("it is known");
        assert_eq!((seen.status, seen.error), (Status::Completed, None));
    }
    server.stop();
    check_objects(&s3, &place, &entries, "kills");
    // One that was made when whoever asked for it was killed has no parts, and nobody can name it.
    let (uploads, parts) = left_over(&s3);
    assert!(uploads <= recordings() && parts == 0, "{uploads} uploads and {parts} parts are left");
}

/// Whoever uploads is gone after each request that changes something, and begins again.
#[test]
fn restarts_after_every_step() {
    let Some(s3) = S3sFs::start("restarts") else { return };
    let proxy = Proxy::start(s3.program.address, |_, _| Do::Pass);
    let place = Place { scratch: Scratch::new(), store: harness::s3(&proxy.url()) };
    let entries: Vec<Entry> = (0..recordings()).map(|number| place.recorded(number)).collect();
    let server = place.start();
    entries.iter().for_each(|entry| server.send(Request::Update(Update::Save(Box::new(entry.clone())))));
    server.stop();
    let mut restarts = 0;
    loop {
        let seen = proxy.requests().len();
        let server = place.start();
        let until = Instant::now() + PATIENCE;
        let is_done = |entry: &Entry| server.status(entry).is_some_and(|entry| entry.status == Status::Completed);
        while proxy.requests().len() <= seen && !entries.iter().all(is_done) {
            assert!(Instant::now() < until, "it does not go on");
            thread::sleep(Duration::from_millis(1));
        }
        let is_over = entries.iter().all(is_done);
        server.stop();
        if is_over {
            break;
        }
        restarts += 1;
    }
    assert!(restarts > 3, "it was interrupted");
    check(&s3, &place, &entries, "restarts");
}
