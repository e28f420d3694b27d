//! The threads, a real database, real files, and a store in memory.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::sync::atomic::AtomicUsize;

use super::super::recorder::{self, Recorders};
use super::super::standin;
use super::super::tests::{Scratch, begin, entry, user};
use super::super::upload::fake::{Fake, Fate};
use super::*;
use crate::db::Database;
use crate::db::deletion::Retention;
use crate::recording::feed::{Feed, Item, Notice, NoticeKind, Packet, TrackInfo};
use crate::recording::library::{FileKind, ReplyTo, Status, Update};
use crate::recording::{metadata, names};
use crate::storage::live::Room;
use crate::storage::store::{Fault, FaultKind};

const PATIENCE: Duration = Duration::from_secs(60);
const PART: u64 = 1000;

/// What survives a restart.
struct Place {
    scratch: Scratch,
    store: Arc<Fake>,
}

/// A server of nothing but recordings.
struct Server {
    database: Option<Database>,
    uploads: Option<Uploads>,
    notices: Receiver<NoticeKind>,
}

impl Place {
    fn new(name: &str) -> Place {
        Place { scratch: Scratch::new(name), store: Arc::new(Fake::new(PART)) }
    }

    fn recordings(&self) -> PathBuf {
        self.scratch.path().join("recordings")
    }

    fn database(&self, retention: Option<Retention>) -> Database {
        Database::start_with(&self.scratch.path().join("test.db"), &self.recordings(), retention).expect("it starts")
    }

    fn start(&self) -> Server {
        self.start_with(None)
    }

    fn start_with(&self, retention: Option<Retention>) -> Server {
        let database = self.database(retention);
        let config = Config::new(self.store.clone(), &self.recordings(), false);
        let (tell, notices) = channel();
        let notice = Arc::new(move |_: WorkerId, notice: Notice| drop(tell.send(notice.what)));
        let outbox = Arc::new(Outbox::new(database.sender()));
        let uploads = Uploads::start(config, database.sender(), outbox, notice).expect("threads");
        Server { database: Some(database), uploads: Some(uploads), notices }
    }

    /// Files of a recording that is over; each of so many octets.
    fn put(&self, number: u8, sizes: &[u64]) -> Entry {
        let mut entry = Entry { status: Status::Uploading, ..entry(number) };
        entry.ended = Some(entry.started);
        let directory = self.recordings().join(&entry.directory);
        fs::create_dir_all(&directory).expect("room");
        for (place, size) in sizes.iter().enumerate() {
            let name = format!("{place}.webm");
            let octets: Vec<u8> = (0..*size).map(|at| (at * 7 + at / 251 + place as u64) as u8).collect();
            fs::write(directory.join(&name), &octets).expect("room");
            let sha256 = names::hex(&openssl::sha::sha256(&octets));
            entry.files.push(metadata::file(&name, FileKind::Participant, *size, sha256));
        }
        entry
    }

    /// Of a recording, by key.
    fn local(&self, entry: &Entry) -> BTreeMap<String, Vec<u8>> {
        let octets = |file: &crate::recording::library::FileEntry| {
            let octets = fs::read(self.recordings().join(&entry.directory).join(&file.name)).ok()?;
            Some((format!("{}/{}", entry.directory.display(), file.name), octets))
        };
        entry.files.iter().filter_map(octets).collect()
    }
}

impl Server {
    fn send(&self, request: Request) {
        assert!(self.database.as_ref().expect("it runs").sender().try_send(request).is_ok(), "room");
    }

    fn ask(&self, inquiry: Inquiry) -> Result<Answer, Unavailable> {
        let (send, answer) = channel();
        let reply: ReplyTo = Box::new(move |answer| drop(send.send(answer)));
        self.send(Request::Ask { inquiry, reply });
        answer.recv_timeout(PATIENCE).expect("an answer")
    }

    fn status(&self, entry: &Entry) -> Result<Entry, Unavailable> {
        match self.ask(Inquiry::Status { room: entry.room.clone(), recording: entry.recording.clone() })? {
            Answer::Entry(entry) => Ok(*entry),
            other => panic!("not an entry: {other:?}"),
        }
    }

    fn delete(&self, entry: &Entry) -> Result<Answer, Unavailable> {
        self.ask(Inquiry::Delete { room: entry.room.clone(), recording: entry.recording.clone() })
    }

    /// As the finisher does.
    fn ended(&self, entry: &Entry) {
        self.send(Request::Update(Update::Save(Box::new(entry.clone()))));
        self.uploads.as_ref().expect("they run").handle().ended(entry, Some(WorkerId(1)));
    }

    fn wait_for<T>(&self, what: &str, mut look: impl FnMut(&Server) -> Option<T>) -> T {
        let until = Instant::now() + PATIENCE;
        loop {
            if let Some(found) = look(self) {
                return found;
            }
            assert!(Instant::now() < until, "never: {what}");
            thread::sleep(Duration::from_millis(2));
        }
    }

    fn completed(&self, entry: &Entry) -> Entry {
        self.wait_for("completed", |server| server.status(entry).ok().filter(|entry| entry.status == Status::Completed))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(uploads) = self.uploads.take() {
            uploads.stop(Instant::now() + PATIENCE);
        }
        if let Some(database) = self.database.take() {
            database.close();
        }
    }
}

fn fault(kind: FaultKind) -> Fate {
    Fate::Before(Fault::new(kind, format!("{kind:?}")))
}

#[test]
fn recordings_go_up_and_their_files_away() {
    let place = Place::new("uploader");
    let server = place.start();
    let entries: Vec<Entry> = (1..6).map(|number| place.put(number, &[3 * PART + 7, PART, 1])).collect();
    let mut objects = BTreeMap::new();
    entries.iter().for_each(|entry| objects.extend(place.local(entry)));
    entries.iter().for_each(|entry| server.ended(entry));
    for entry in &entries {
        let done = server.completed(entry);
        assert!(done.files.iter().all(|file| file.remote.as_ref().is_some_and(|remote| remote.is_only)));
        assert!(place.local(entry).is_empty(), "they are in the store");
        let (room, recording) = (entry.room.clone(), entry.recording.clone());
        let answer = server.ask(Inquiry::File { room, recording, name: "0.webm".into() }).expect("a file");
        let Answer::Remote { remote, file } = answer else { panic!("only the store has it") };
        assert_eq!((remote.url, file.size), (format!("fake://bucket/{}", remote.key), 3 * PART + 7));
        assert!(matches!(server.notices.recv_timeout(PATIENCE), Ok(NoticeKind::Completed { .. })));
    }
    assert!(place.store.objects() == objects);
    server.wait_for("idle", |server| server.uploads.as_ref()?.handle().is_idle().then_some(()));
}

/// The server is stopped over and over while the store fails every now and then: each file is there once at the end.
#[test]
fn restarts_lose_and_double_nothing() {
    let place = Place::new("uploader-restarts");
    let entries: Vec<Entry> = (1..4).map(|number| place.put(number, &[5 * PART + 7, PART + 1, 9])).collect();
    let mut objects = BTreeMap::new();
    entries.iter().for_each(|entry| objects.extend(place.local(entry)));
    let server = place.start();
    entries.iter().for_each(|entry| server.send(Request::Update(Update::Save(Box::new(entry.clone())))));
    drop(server);
    for round in 0.. {
        let calls = place.store.calls();
        let stop_at = calls + 5;
        let (reached, stop) = channel();
        place.store.plan(move |number, _| {
            if number >= stop_at {
                let _ = reached.send(());
            }
            Fate::Fine
        });
        let server = place.start();
        // Either so many calls, or all is done.
        server.wait_for("calls or the end", |server| {
            let is_done = |entry: &Entry| server.status(entry).is_ok_and(|entry| entry.status == Status::Completed);
            (stop.try_recv().is_ok() || entries.iter().all(is_done)).then_some(())
        });
        let is_done = |entry: &Entry| server.status(entry).is_ok_and(|entry| entry.status == Status::Completed);
        if entries.iter().all(is_done) {
            assert!(round > 2, "it was interrupted");
            break;
        }
    }
    assert!(place.store.objects() == objects && place.store.uploads().is_empty());
}

#[test]
fn a_fault_is_shown_and_luck_is_shared() {
    let place = Place::new("uploader-fault");
    let entries: Vec<Entry> = (1..5).map(|number| place.put(number, &[10])).collect();
    let is_down = Arc::new(AtomicBool::new(true));
    let down = is_down.clone();
    place.store.plan(move |_, _| if down.load(Ordering::Relaxed) { fault(FaultKind::Credentials) } else { Fate::Fine });
    let server = place.start();
    entries.iter().for_each(|entry| server.ended(entry));
    for entry in &entries {
        let shown =
            server.wait_for("an error", |server| server.status(entry).ok().filter(|entry| entry.error.is_some()));
        assert_eq!((shown.status, shown.error.as_deref()), (Status::Uploading, Some("Credentials")));
    }
    is_down.store(false, Ordering::Relaxed);
    entries.iter().for_each(|entry| assert_eq!(server.completed(entry).error, None));
}

/// A recording that is being made: its parts go up while it grows, and the rest after its end.
#[test]
fn live_recordings_are_uploaded() {
    let place = Place::new("uploader-live");
    let database = place.database(None);
    let part_size = 128 * 1024;
    let store = Arc::new(Fake::new(part_size));
    let config = recorder::Config {
        directory: place.recordings(),
        threads: 1,
        recordings_max: 10,
        length_max: Duration::from_secs(3600),
        size_max: u64::MAX,
        free_min: 0,
        free: |_| Ok(u64::MAX),
        room: Room::default(),
        upload: Some(Config::new(store.clone(), &place.recordings(), false)),
    };
    let (tell, notices) = channel();
    let notice = Arc::new(move |_: WorkerId, notice: Notice| drop(tell.send(notice.what)));
    let recorders = Recorders::start_with::<standin::Recorder>(config, notice, database.sender()).expect("threads");
    let begin = begin(1);
    let send = |feed| assert!(recorders.handle().send(feed).is_ok(), "room");
    send(Feed::Begin(Box::new(begin.clone())));
    let track = TrackInfo {
        number: 1,
        id: crate::base::TrackId(1),
        user: user("ann"),
        kind: str0m::media::MediaKind::Video,
        source: "camera",
        name: None,
    };
    let items = vec![
        Item::Joined { at: begin.at, user: user("ann"), name: None, role: "guest" },
        Item::TrackAdded { at: begin.at, track },
    ];
    send(Feed::Batch { recording: begin.recording.clone(), items });
    let mut sent = 0;
    let packets = |range: std::ops::Range<u64>| {
        let packet = |seq_no: u64| {
            let first = if seq_no.is_multiple_of(10) { 0x10 } else { 0x11 };
            let payload: Vec<u8> =
                [first, 0, 0, 0x9d, 1, 0x2a, 64, 1, 180, 0].into_iter().chain([seq_no as u8; 2000]).collect();
            Item::Packet(Packet {
                track: 1,
                ssrc: 1,
                seq_no,
                time: 0,
                clock_rate: 90_000,
                codec: str0m::format::Codec::Vp8,
                red: false,
                marker: true,
                payload: payload.into(),
                arrival: begin.at + Duration::from_millis(seq_no * 40),
            })
        };
        Feed::Batch { recording: begin.recording.clone(), items: range.map(packet).collect() }
    };
    for _ in 0..5 {
        send(packets(sent..sent + 100));
        sent += 100;
    }
    let until = Instant::now() + PATIENCE;
    while store.count("part") < 3 {
        assert!(Instant::now() < until, "parts are sent while it is recorded");
        thread::sleep(Duration::from_millis(5));
    }
    send(packets(sent..sent + 100));
    let finish = Item::Finish { at: begin.at, reason: crate::recording::feed::EndReason::Requested };
    send(Feed::Batch { recording: begin.recording.clone(), items: vec![finish] });
    let notice = loop {
        match notices.recv_timeout(PATIENCE).expect("it ends") {
            NoticeKind::Opened | NoticeKind::KeyframeWanted { .. } => {}
            notice => break notice,
        }
    };
    assert!(matches!(notice, NoticeKind::Completed { .. }), "{notice:?}");
    recorders.stop(Instant::now() + PATIENCE);
    database.close();
    // The call's file, the participant's, and small ones.
    let objects = store.objects();
    assert!(store.uploads().is_empty() && objects.len() >= 4, "{:?}", objects.keys());
    let key = format!("call/{}/recording.webm", begin.recording.as_str());
    let call = objects.get(&key).expect("the whole call");
    let path = place.scratch.path().join("call.webm");
    fs::write(&path, call).expect("room");
    let content = super::super::tests::Content::read(&path);
    assert_eq!((content.span(1).0, content.damages, content.cues > 0), (600, 0, true));
    let metadata: serde_json::Value =
        serde_json::from_slice(&objects[&format!("call/{}/metadata.json", begin.recording.as_str())]).expect("JSON");
    let file =
        metadata["files"].as_array().and_then(|files| files.iter().find(|file| file["name"] == "recording.webm"));
    assert_eq!(file.expect("a file")["sha256"], names::hex(&openssl::sha::sha256(call)));
    // What stays tells a database that is lost.
    fs::remove_file(place.scratch.path().join("test.db")).expect("a database");
    let reports = super::super::repair::list(&place.recordings()).expect("a directory");
    let entry = reports[0].entry.as_ref().expect("an entry");
    assert!(entry.files.iter().all(|file| file.remote.is_some()) && entry.status == Status::Completed);
}

#[test]
fn deleting_takes_what_the_store_has() {
    let place = Place::new("uploader-delete");
    let entry = place.put(1, &[3 * PART + 7, PART, 1]);
    let server = place.start();
    server.ended(&entry);
    server.completed(&entry);
    // The store does not let go of the second: it stays listed, and says so.
    let deletes = Arc::new(AtomicUsize::new(0));
    let count = deletes.clone();
    place.store.plan(move |_, what| match what == "delete" && count.fetch_add(1, Ordering::Relaxed) == 1 {
        true => fault(FaultKind::Server),
        false => Fate::Fine,
    });
    assert_eq!(server.delete(&entry), Err(Unavailable::Store));
    let listed = server.status(&entry).expect("it is listed");
    assert_eq!(listed.status, Status::Failed);
    assert!(listed.error.as_deref().is_some_and(|error| error.contains("deletion")), "{:?}", listed.error);
    assert_eq!(server.delete(&entry), Ok(Answer::Deleted));
    assert_eq!(server.status(&entry), Err(Unavailable::NotFound));
    assert!(place.store.objects().is_empty());
    assert!(!place.recordings().join(&entry.directory).exists());
    assert_eq!(server.delete(&entry), Err(Unavailable::NotFound));
}

#[test]
fn what_is_being_uploaded_can_be_deleted() {
    let place = Place::new("uploader-delete-live");
    let entry = place.put(1, &[9 * PART + 7, PART]);
    place.store.plan(|number, _| if number > 3 { fault(FaultKind::Network) } else { Fate::Fine });
    let server = place.start();
    server.ended(&entry);
    server.wait_for("a fault", |server| server.status(&entry).ok()?.error);
    assert_eq!(place.store.uploads().len(), 1);
    // It cannot be aborted now, and is neither uploaded nor forgotten.
    assert_eq!(server.delete(&entry), Err(Unavailable::Store));
    assert_eq!(server.status(&entry).map(|entry| entry.status), Ok(Status::Failed));
    drop(server);
    place.store.heal();
    let server = place.start();
    assert_eq!(server.delete(&entry), Ok(Answer::Deleted));
    assert!(place.store.uploads().is_empty() && place.store.objects().is_empty());
    assert_eq!(server.status(&entry), Err(Unavailable::NotFound));
}

#[test]
fn a_store_that_is_not_configured_keeps_its_recordings_listed() {
    let place = Place::new("uploader-none");
    let entry = place.put(1, &[PART]);
    let server = place.start();
    server.ended(&entry);
    server.completed(&entry);
    drop(server);
    let database = place.database(None);
    let (_tell, notices) = channel();
    let server = Server { database: Some(database), uploads: None, notices };
    assert_eq!(server.delete(&entry), Err(Unavailable::Store));
    assert_eq!(server.status(&entry).map(|entry| entry.status), Ok(Status::Completed));
}

/// Too old: here and in the store, by itself. What is young, or is being made, stays.
#[test]
fn what_is_too_old_goes() {
    let place = Place::new("uploader-retention");
    let (old, young) = (place.put(1, &[PART]), place.put(2, &[PART]));
    let server = place.start();
    let age = |entry: &Entry, days: u64| {
        let ended = std::time::SystemTime::now() - Duration::from_secs(days * 24 * 60 * 60 + 60);
        Entry { ended: Some(ended), ..entry.clone() }
    };
    let (old, young) = (age(&old, 7), age(&young, 6));
    let live = Entry { status: Status::Recording, ended: None, files: Vec::new(), ..entry(3) };
    let failed = Entry { status: Status::Failed, ..age(&place.put(4, &[1]), 8) };
    [&old, &young].iter().for_each(|entry| server.ended(entry));
    [&live, &failed].iter().for_each(|entry| server.send(Request::Update(Update::Save(Box::new((*entry).clone())))));
    [&old, &young].iter().for_each(|entry| drop(server.completed(entry)));
    drop(server);
    fs::create_dir_all(place.recordings().join(&live.directory)).expect("room");
    let short = Duration::from_millis(20);
    let week = Retention::days(7).expect("not for ever");
    assert!(Retention::days(0).is_none());
    let server = place.start_with(Some(Retention { first: short, every: short, ..week }));
    for entry in [&old, &failed] {
        server.wait_for("gone", |server| (server.status(entry) == Err(Unavailable::NotFound)).then_some(()));
        assert!(!place.recordings().join(&entry.directory).exists());
    }
    assert!(server.status(&young).is_ok() && server.status(&live).is_ok());
    assert_eq!(place.store.objects().len(), 1);
}

#[test]
fn what_was_given_up_is_tried_when_somebody_says_so() {
    let place = Place::new("uploader-again");
    let (given_up, old, never) = (place.put(1, &[3 * PART]), place.put(2, &[5]), place.put(3, &[5]));
    let database = place.database(None);
    let (_tell, notices) = channel();
    let server = Server { database: Some(database), uploads: None, notices };
    let head = crate::recording::upload::Head {
        recording: given_up.recording.clone(),
        provider: "fake".into(),
        phase: crate::recording::upload::Phase::Failed,
        keep_local: false,
        attempts: 9,
        restarts: 0,
        next_try_ms: None,
        first_failure_ms: Some(1),
        error: Some("Bucket".into()),
    };
    let failed = Entry { status: Status::Failed, error: Some("Bucket".into()), ..given_up.clone() };
    let (send, written) = channel();
    let change = Box::new(crate::recording::upload::Change {
        recording: failed.recording.clone(),
        what: crate::recording::upload::What::Head(head),
        entry: Some(Box::new(failed)),
    });
    server.send(Request::Write { change, reply: Box::new(move |answer| drop(send.send(answer))) });
    assert_eq!(written.recv_timeout(PATIENCE), Ok(Ok(Answer::Written)));
    for (entry, status) in [(&old, Status::Completed), (&never, Status::Failed)] {
        let entry = Entry { status, ..entry.clone() };
        server.send(Request::Update(Update::Save(Box::new(entry))));
    }
    let again = |recordings| match server.ask(Inquiry::Upload { recordings }) {
        Ok(Answer::Upload(entries)) => entries.into_iter().map(|entry| entry.recording).collect::<Vec<_>>(),
        other => panic!("{other:?}"),
    };
    assert_eq!(again(None), std::slice::from_ref(&given_up.recording));
    let named = vec![old.recording.clone(), never.recording.clone()];
    assert_eq!(again(Some(named)), std::slice::from_ref(&old.recording), "what was never whole is not uploaded");
    drop(server);
    let server = place.start();
    [&given_up, &old].iter().for_each(|entry| drop(server.completed(entry)));
    assert_eq!(server.status(&never).map(|entry| entry.status), Ok(Status::Failed));
}
