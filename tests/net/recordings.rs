//! Recordings that are kept: listed, shown, downloaded, deleted. None is made here; entries are put into the database before the
//! server starts, and their files beside it.

use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};
use webrtc_engine::auth::{Claims, Overrides, Role, RoomScope, Signer};
use webrtc_engine::base::{RecordingId, RoomId, UserId};
use webrtc_engine::config::{AuthConfig, Secret};
use webrtc_engine::db::Database;
use webrtc_engine::recording::library::{Entry, FileEntry, FileKind, MediaSummary, Request, Status, Update};

use crate::harness::client::Versions;
use crate::harness::{DEADLINE, Http, Response, Server, Setup, Stream};

const SECRET: &str = "a secret of these tests, of 32 bytes and more";
const TLS13: Versions = &[&rustls::version::TLS13];
const CALL: &str = "call";
const TEXT: &[u8] = b"0123456789abcdefghij";

/// A server's directory before it starts.
struct Shelf {
    setup: Setup,
    entries: Vec<Entry>,
}

impl Shelf {
    fn new() -> Shelf {
        Shelf { setup: Setup::new().env("JWT_SECRET", SECRET), entries: Vec::new() }
    }

    fn root(&self) -> PathBuf {
        self.setup.temp_dir().path().join("recordings")
    }

    /// Puts a recording there with a file of this content.
    fn put(&mut self, entry: Entry, content: &[u8]) {
        let directory = self.root().join(&entry.directory);
        std::fs::create_dir_all(&directory).unwrap();
        std::fs::write(directory.join("recording.webm"), content).unwrap();
        self.entries.push(entry);
    }

    /// Puts a recording there whose file is large, mostly holes, and has its offset at every mebibyte.
    fn put_large(&mut self, entry: Entry, size: u64) {
        self.put(entry, b"");
        let entry = self.entries.last().unwrap();
        let path = self.root().join(&entry.directory).join("recording.webm");
        let file = std::fs::OpenOptions::new().write(true).open(path).unwrap();
        file.set_len(size).unwrap();
        for offset in (0..size).step_by(MARK) {
            file.write_all_at(&mark(offset), offset).unwrap();
        }
    }

    fn start(self) -> Server {
        let data = self.setup.temp_dir().path().join("data");
        std::fs::create_dir_all(&data).unwrap();
        let database = Database::start(&data.join("webrtc-engine.db"), &self.root()).expect("it starts");
        for entry in self.entries {
            let update = Request::Update(Update::Save(Box::new(entry)));
            assert!(database.sender().try_send(update).is_ok());
        }
        database.close();
        self.setup.start()
    }
}

/// The `number`th of the call, with one file.
fn entry(number: u64, size: u64) -> Entry {
    let recording = RecordingId::new(1_750_000_000_000 + number, [3; 9]);
    Entry {
        directory: Path::new(CALL).join(recording.as_str()),
        recording,
        room: RoomId::new(CALL).unwrap(),
        status: Status::Completed,
        progress: 1.0,
        audio_only: false,
        participants: None,
        started_by: Some(UserId::new("bob").unwrap()),
        started: UNIX_EPOCH + Duration::from_millis(1_750_000_000_500),
        ended: Some(UNIX_EPOCH + Duration::from_millis(1_750_000_002_000)),
        end_reason: Some("requested".into()),
        duration_ms: 1_500,
        size,
        recovered: true,
        error: None,
        files: vec![file("recording.webm", size)],
    }
}

fn file(name: &str, size: u64) -> FileEntry {
    FileEntry {
        name: name.into(),
        kind: FileKind::Call,
        content_type: "video/webm".into(),
        participant: None,
        size,
        sha256: "5a".repeat(32),
        media: Some(MediaSummary { duration_ms: 1_500, tracks: Vec::new() }),
        remote: None,
    }
}

fn id(number: u64) -> RecordingId {
    entry(number, 0).recording
}

fn list() -> String {
    format!("/video-calls/{CALL}/recording")
}

fn status(number: u64) -> String {
    format!("{}/{}", list(), id(number))
}

fn content(number: u64) -> String {
    format!("{}/files/recording.webm", status(number))
}

fn token(role: Role) -> String {
    mint(role, RoomScope::Any, None)
}

fn mint(role: Role, rooms: RoomScope, record: Option<bool>) -> String {
    let config = AuthConfig { jwt_secret: Some(Secret::new(SECRET)), ..AuthConfig::default() };
    let permissions = Some(Overrides { record, ..Overrides::default() });
    let user = UserId::new("ann").unwrap();
    let claims = Claims { user, name: None, role, rooms, permissions, ttl: Duration::from_secs(3600) };
    Signer::new(&config).unwrap().unwrap().mint(&claims, SystemTime::now())
}

fn bearer(token: &str) -> String {
    format!("Authorization: Bearer {token}")
}

/// As a moderator.
fn get(http: &mut Http, path: &str, headers: &[&str]) -> Response {
    ask(http, "GET", path, headers)
}

fn ask(http: &mut Http, method: &str, path: &str, headers: &[&str]) -> Response {
    let authorization = bearer(&token(Role::Moderator));
    let headers: Vec<&str> = headers.iter().copied().chain([authorization.as_str()]).collect();
    http.request(method, path, &headers, "")
}

/// As it has to be sent when the answer is read by hand.
fn raw(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: x\r\n{}\r\n\r\n", bearer(&token(Role::Moderator)))
}

const MARK: usize = 1 << 20;

fn mark(offset: u64) -> [u8; 8] {
    (offset + 1).to_be_bytes()
}

/// Reads what [`Shelf::put_large`] has written, from this offset; `buffer` was read before.
struct LargeReader {
    stream: Stream,
    buffer: Vec<u8>,
    offset: u64,
}

impl LargeReader {
    /// The head was read from `http`.
    fn new(http: Http) -> LargeReader {
        let (stream, buffer) = http.into_parts();
        LargeReader { stream, buffer, offset: 0 }
    }

    /// Reads and compares until `end`.
    fn read_to(&mut self, end: u64) {
        let mut chunk = vec![0; 64 * 1024];
        while self.offset < end {
            if self.buffer.is_empty() {
                let want = chunk.len().min((end - self.offset) as usize);
                let n = self.stream.read(&mut chunk[..want]).expect("the server goes on");
                assert!(n > 0, "it ends at {} of {end}", self.offset);
                self.buffer.extend_from_slice(&chunk[..n]);
            }
            let count = self.buffer.len().min((end - self.offset) as usize);
            compare(self.offset, &self.buffer[..count]);
            self.buffer.drain(..count);
            self.offset += count as u64;
        }
    }

    fn into_http(self) -> Http {
        assert!(self.buffer.is_empty());
        Http::over(self.stream)
    }
}

fn compare(offset: u64, octets: &[u8]) {
    let begin = offset as usize / MARK * MARK;
    let end = offset as usize + octets.len();
    let mut expected = vec![0; octets.len()];
    for at in (begin..end).step_by(MARK) {
        for (index, byte) in mark(at as u64).into_iter().enumerate() {
            if let Some(place) = (at + index).checked_sub(offset as usize).and_then(|place| expected.get_mut(place)) {
                *place = byte;
            }
        }
    }
    assert!(octets == expected, "the octets from {offset} are others");
}

/// Resident memory of the server in KiB: at the moment, or at most so far.
fn memory_kib(directory: &Path, what: &str) -> u64 {
    let directory = directory.canonicalize().unwrap();
    let of_server = |process: &PathBuf| {
        let is_there = std::fs::read_link(process.join("cwd")).is_ok_and(|cwd| cwd == directory);
        is_there && std::fs::read_to_string(process.join("comm")).is_ok_and(|name| name.starts_with("webrtc-engine"))
    };
    let process = std::fs::read_dir("/proc").unwrap().map(|e| e.unwrap().path()).find(of_server).expect("the server");
    let text = std::fs::read_to_string(process.join("status")).unwrap();
    let line = text.lines().find(|line| line.starts_with(what)).expect("a line");
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

#[test]
fn recordings_are_listed_and_shown() {
    let mut shelf = Shelf::new();
    for number in 1..=5 {
        shelf.put(entry(number, TEXT.len() as u64), TEXT);
    }
    shelf.put(Entry { room: RoomId::new("other").unwrap(), ..entry(6, 0) }, b"");
    let server = shelf.start();
    let mut http = Http::connect(&server);

    let shown = get(&mut http, &status(2), &[]);
    assert_eq!((shown.status, shown.header("cache-control")), (200, "no-store"));
    let expected = json!({
        "recordingId": id(2).as_str(), "callId": CALL, "status": "completed", "progress": 1.0,
        "startedAt": "2025-06-15T15:06:40.500Z", "endedAt": "2025-06-15T15:06:42.000Z", "durationMs": 1500, "size": 20,
        "startedBy": "bob", "audioOnly": false, "participants": null, "recovered": true, "endReason": "requested",
        "error": null,
        "files": [{
            "name": "recording.webm", "kind": "call", "participant": null, "contentType": "video/webm", "size": 20,
            "sha256": "5a".repeat(32), "media": {"durationMs": 1500, "tracks": []}, "url": content(2),
            "location": "local", "storageUrl": null,
        }],
    });
    assert_eq!(shown.json(), expected);

    let ids = |list: &Value| -> Vec<String> {
        list["items"].as_array().unwrap().iter().map(|item| item["recordingId"].as_str().unwrap().to_owned()).collect()
    };
    let all = get(&mut http, &list(), &[]).json();
    assert_eq!(ids(&all), [5, 4, 3, 2, 1].map(|number| id(number).to_string()));
    assert_eq!((&all["nextCursor"], &all["items"][3]), (&Value::Null, &expected));
    let first = get(&mut http, &format!("{}?limit=3", list()), &[]).json();
    assert_eq!(ids(&first), [5, 4, 3].map(|number| id(number).to_string()));
    let cursor = first["nextCursor"].as_str().expect("a cursor");
    let second = get(&mut http, &format!("{}?limit=3&cursor={cursor}", list()), &[]).json();
    assert_eq!((ids(&second).len(), &second["nextCursor"]), (2, &Value::Null));

    for (path, status, code) in [
        (format!("{}?limit=0", list()), 400, "bad_request"),
        (format!("{}?limit=x", list()), 400, "bad_request"),
        (format!("{}?cursor=x", list()), 400, "bad_request"),
        (status(6), 404, "recording_not_found"),
        (status(7), 404, "recording_not_found"),
        (format!("{}/rec_x", list()), 404, "recording_not_found"),
        ("/video-calls/no%20id/recording".into(), 404, "call_not_found"),
    ] {
        let response = get(&mut http, &path, &[]);
        assert_eq!((response.status, response.code().as_str()), (status, code), "{path}");
    }
    assert_eq!(get(&mut http, &format!("{}?limit=9999", list()), &[]).status, 200);
    assert_eq!(get(&mut http, "/video-calls/none/recording", &[]).json(), json!({"items": [], "nextCursor": null}));
    for path in [list(), status(2)] {
        let (head, get) = (ask(&mut http, "HEAD", &path, &[]), get(&mut http, &path, &[]));
        assert_eq!((head.status, head.header("content-length")), (200, get.header("content-length")));
    }
    let refused = ask(&mut http, "PUT", &status(2), &[]);
    assert_eq!((refused.status, refused.header("allow")), (405, "GET, HEAD, DELETE, OPTIONS"));
}

#[test]
fn who_may_see_and_who_may_delete() {
    let mut shelf = Shelf::new();
    shelf.put(entry(1, TEXT.len() as u64), TEXT);
    let server = shelf.start();
    let mut http = Http::connect(&server);
    let own = || RoomScope::Rooms(vec![RoomId::new(CALL).unwrap()]);
    let other = || RoomScope::Rooms(vec![RoomId::new("other").unwrap()]);
    // Role, rooms, whether the token says something of recording; the status of seeing and of deleting.
    for (role, rooms, record, see, delete) in [
        (Role::Viewer, RoomScope::Any, None, 403, 403),
        (Role::Participant, own(), None, 403, 403),
        (Role::Participant, own(), Some(true), 200, 403),
        (Role::Moderator, own(), None, 200, 403),
        (Role::Moderator, RoomScope::Any, Some(true), 200, 403),
        (Role::Moderator, other(), None, 404, 404),
        (Role::Host, other(), None, 404, 404),
        (Role::Participant, other(), Some(true), 404, 404),
        (Role::Host, own(), None, 200, 404),
        (Role::Admin, RoomScope::Any, None, 200, 404),
    ] {
        let authorization = bearer(&mint(role, rooms, record));
        let said = format!("{role:?} {record:?} {see}");
        for path in [list(), status(1), content(1)] {
            assert_eq!(http.get(&path, &[&authorization]).status, see, "{said}: {path}");
            assert_eq!(http.request("HEAD", &path, &[&authorization], "").status, see, "{said}: {path}");
        }
        // Of one that is not there, so that all can try.
        assert_eq!(http.request("DELETE", &status(9), &[&authorization], "").status, delete, "{said}");
    }
    for path in [list(), status(1), content(1)] {
        assert_eq!(http.get(&path, &[]).status, 401);
    }
}

#[test]
fn a_token_in_the_address_is_for_downloads() {
    let mut shelf = Shelf::new();
    shelf.put(entry(1, TEXT.len() as u64), TEXT);
    let server = shelf.start();
    let mut http = Http::connect(&server);
    let token = token(Role::Host);
    let linked = |path: String| format!("{path}?token={token}");
    assert_eq!(http.get(&linked(content(1)), &[]).body, TEXT);
    assert_eq!(http.request("HEAD", &linked(content(1)), &[], "").status, 200);
    for path in [linked(list()), linked(status(1))] {
        assert_eq!(http.get(&path, &[]).status, 401);
    }
    assert_eq!(http.request("DELETE", &linked(status(1)), &[], "").status, 401);
    let bad = http.get(&format!("{}?token=x", content(1)), &[]);
    assert_eq!((bad.status, bad.header("www-authenticate")), (401, "Bearer error=\"invalid_token\""));
    assert!(!server.log().contains(&token), "tokens are not logged");
}

#[test]
fn files_in_whole_and_in_part() {
    let mut shelf = Shelf::new();
    shelf.put(entry(1, TEXT.len() as u64), TEXT);
    shelf.put(entry(2, 0), b"");
    let server = shelf.start();
    let mut http = Http::connect(&server);

    let whole = get(&mut http, &content(1), &[]);
    assert_eq!((whole.status, &whole.body[..]), (200, TEXT));
    let tag = format!("\"{}\"", "5a".repeat(32));
    for (name, value) in [
        ("etag", tag.as_str()),
        ("accept-ranges", "bytes"),
        ("content-type", "video/webm"),
        ("content-disposition", "inline; filename=\"recording.webm\""),
        ("cache-control", "private, no-cache"),
        ("x-content-type-options", "nosniff"),
        ("content-length", "20"),
        ("content-range", ""),
    ] {
        assert_eq!(whole.header(name), value, "{name}");
    }
    for (range, wanted) in [
        ("bytes=0-0", Some("0-0")),
        ("bytes=5-7", Some("5-7")),
        ("bytes=18-", Some("18-19")),
        ("bytes=-3", Some("17-19")),
        ("bytes=-999", Some("0-19")),
        ("bytes=0-999", Some("0-19")),
        ("bytes=20-", None),
        ("bytes=-0", None),
    ] {
        let response = get(&mut http, &content(1), &[&format!("Range: {range}")]);
        let Some(wanted) = wanted else {
            assert_eq!((response.status, response.header("content-range")), (416, "bytes */20"), "{range}");
            assert_eq!(response.code(), "range_not_satisfiable");
            continue;
        };
        let (first, last) = wanted.split_once('-').unwrap();
        let (first, last): (usize, usize) = (first.parse().unwrap(), last.parse().unwrap());
        assert_eq!((response.status, &response.body[..]), (206, &TEXT[first..=last]), "{range}");
        assert_eq!(response.header("content-range"), format!("bytes {wanted}/20"));
        assert_eq!(response.header("etag"), tag);
    }
    for range in ["bytes=3-2", "bytes=a-b", "bytes=0-1,3-4", "lines=0-1", "bytes"] {
        let response = get(&mut http, &content(1), &[&format!("Range: {range}")]);
        assert_eq!((response.status, &response.body[..]), (200, TEXT), "{range}");
    }
    let same = get(&mut http, &content(1), &["Range: bytes=1-2", &format!("If-Range: {tag}")]);
    assert_eq!((same.status, &same.body[..]), (206, &TEXT[1..3]));
    let other = get(&mut http, &content(1), &["Range: bytes=1-2", "If-Range: \"other\""]);
    assert_eq!((other.status, &other.body[..]), (200, TEXT));
    let known = get(&mut http, &content(1), &[&format!("If-None-Match: \"x\", {tag}")]);
    assert_eq!((known.status, known.header("etag")), (304, tag.as_str()));
    let head = ask(&mut http, "HEAD", &content(1), &["Range: bytes=1-2"]);
    assert_eq!((head.status, head.header("content-length"), head.header("etag")), (200, "20", tag.as_str()));

    let empty = get(&mut http, &content(2), &[]);
    assert_eq!((empty.status, empty.header("content-length")), (200, "0"));
    assert_eq!(get(&mut http, &content(2), &["Range: bytes=0-"]).status, 416);
}

#[test]
fn pages_elsewhere_may_read_what_they_need() {
    let mut shelf = Shelf::new();
    shelf.put(entry(1, TEXT.len() as u64), TEXT);
    shelf.setup = shelf.setup.env("ALLOWED_ORIGINS", "https://app.example");
    let server = shelf.start();
    let mut http = Http::connect(&server);
    let origin = "Origin: https://app.example";
    let preflight = ask(&mut http, "OPTIONS", &status(1), &[origin, "Access-Control-Request-Method: DELETE"]);
    assert!(preflight.header("access-control-allow-methods").contains("DELETE"));
    for (path, status) in [(list(), 200), (status(1), 200), (content(1), 200), (status(2), 404), (content(2), 404)] {
        let response = get(&mut http, &path, &[origin]);
        assert_eq!((response.status, response.header("access-control-allow-origin")), (status, "https://app.example"));
        for name in ["Content-Range", "ETag", "Accept-Ranges", "Content-Disposition"] {
            assert!(response.header("access-control-expose-headers").contains(name), "{name}");
        }
    }
}

/// Only what is listed, and only as a file of the recording's own directory.
#[test]
fn no_name_leads_elsewhere() {
    let mut shelf = Shelf::new();
    let mut one = entry(1, TEXT.len() as u64);
    let listed = ["ann%40x-1.webm", "link.webm", "gone.webm", "../evil.webm", "ü.webm"];
    one.files.extend(listed.map(|name| file(name, TEXT.len() as u64)));
    shelf.put(one, TEXT);
    let directory = shelf.root().join(CALL).join(id(1).as_str());
    for name in ["ann%40x-1.webm", "../evil.webm", "metadata.json", "ü.webm"] {
        std::fs::write(directory.join(name), TEXT).unwrap();
    }
    std::os::unix::fs::symlink(directory.join("metadata.json"), directory.join("link.webm")).unwrap();
    let server = shelf.start();
    let mut http = Http::connect(&server);
    for (name, expected, code) in [
        ("ann%2540x-1.webm", 200, ""),
        ("%C3%BC.webm", 200, ""),
        ("metadata.json", 404, "file_not_found"),
        ("gone.webm", 404, "file_not_found"),
        ("link.webm", 500, "storage_failed"),
        ("..%2Fevil.webm", 404, "file_not_found"),
        ("%2e%2e%2Fevil.webm", 404, "file_not_found"),
        ("..%252Fevil.webm", 404, "file_not_found"),
        ("..", 404, "file_not_found"),
        ("%2e", 404, "file_not_found"),
        ("..%2F..%2F..%2Fdata%2Fwebrtc-engine.db", 404, "file_not_found"),
        ("%2Fetc%2Fpasswd", 404, "file_not_found"),
        ("recording.webm%2F", 404, "file_not_found"),
        ("../evil.webm", 404, "not_found"),
        ("../../../data/webrtc-engine.db", 404, "not_found"),
    ] {
        let response = get(&mut http, &format!("{}/files/{name}", status(1)), &[]);
        assert_eq!(response.status, expected, "{name}");
        match expected {
            200 => assert_eq!(response.body, TEXT),
            _ => assert_eq!(response.code(), code, "{name}"),
        }
    }
    let shown = get(&mut http, &status(1), &[]).json();
    let url = shown["files"][1]["url"].as_str().unwrap();
    let response = get(&mut http, url, &[]);
    assert_eq!((response.status, &response.body[..]), (200, TEXT), "{url}");
    assert_eq!(
        response.header("content-disposition"),
        "inline; filename=\"ann_40x-1.webm\"; filename*=UTF-8''ann%2540x-1.webm"
    );
}

#[test]
fn deleted_with_its_files() {
    let mut shelf = Shelf::new();
    shelf.put(entry(1, TEXT.len() as u64), TEXT);
    shelf.put(Entry { status: Status::Processing, ..entry(2, TEXT.len() as u64) }, TEXT);
    shelf.put(Entry { status: Status::Recording, ..entry(3, TEXT.len() as u64) }, TEXT);
    let directory = shelf.root().join(CALL);
    let server = shelf.start();
    let mut http = Http::connect(&server);
    let host = bearer(&token(Role::Host));
    let mut delete = |number| http.request("DELETE", &status(number), &[&host], "");
    assert_eq!(delete(1).status, 204);
    assert!(!directory.join(id(1).as_str()).exists());
    let again = delete(1);
    assert_eq!((again.status, again.code().as_str()), (404, "recording_not_found"));
    for number in [2, 3] {
        let active = delete(number);
        assert_eq!((active.status, active.code().as_str()), (409, "recording_active"));
        assert!(directory.join(id(number).as_str()).join("recording.webm").exists());
    }
    assert_eq!(get(&mut http, &status(1), &[]).status, 404);
    assert_eq!(get(&mut http, &content(1), &[]).status, 404);
    // The whole call can be played while the rest is made, and not before.
    assert_eq!(get(&mut http, &content(2), &[]).body, TEXT);
    assert_eq!(get(&mut http, &content(3), &[]).code(), "file_not_found");
    assert_eq!(get(&mut http, &status(3), &[]).json()["status"], "recording");
}

#[test]
fn requests_after_a_download_are_answered_in_their_order() {
    let mut shelf = Shelf::new();
    shelf.put_large(entry(1, 5 << 20), 5 << 20);
    shelf.put(entry(2, TEXT.len() as u64), TEXT);
    let server = shelf.start();
    let mut http = Http::connect(&server);
    http.send(&[raw(&content(2)), raw(&content(1)), raw(&status(2)), raw(&content(2)), raw("/healthz")].concat());
    assert_eq!(http.response().body, TEXT);
    let large = http.response();
    compare(0, &large.body);
    assert_eq!(large.body.len(), 5 << 20);
    assert_eq!(http.response().json()["recordingId"], id(2).as_str());
    assert_eq!(http.response().body, TEXT);
    assert_eq!(http.response().json(), json!({"status": "ok"}));
}

#[test]
fn a_client_that_says_no_more_gets_all_of_it() {
    let mut shelf = Shelf::new();
    shelf.put_large(entry(1, 5 << 20), 5 << 20);
    let server = shelf.start();
    let last = raw(&content(1)).replacen("Host:", "Connection: close\r\nHost:", 1);
    for (text, says_end) in [(raw(&content(1)), true), (last, false)] {
        let mut http = Http::connect(&server);
        http.send(&text);
        if says_end {
            http.stream.shutdown();
        }
        assert_eq!(http.response().body.len(), 5 << 20);
        http.ends();
    }
}

/// 64 MiB, of which the client takes the beginning and then, for a while, nothing: the server must not hold what it does not
/// take, and is there for others. (What the kernel holds of it is no memory of the server's.)
#[test]
fn a_large_file_takes_no_more_memory_than_a_small_one() {
    const SIZE: u64 = 64 << 20;
    for tls in [false, true] {
        let mut shelf = Shelf::new();
        shelf.put_large(entry(1, SIZE), SIZE);
        shelf.setup = shelf.setup.env("TLS_SELF_SIGNED", tls).env("LIMIT_WRITE_TIMEOUT", "60s");
        let directory = shelf.setup.temp_dir();
        let server = shelf.start();
        let connect = || match tls {
            true => Http::over(Stream::connect_tls(server.address(), usize::MAX, TLS13)),
            false => Http::connect(&server),
        };
        let mut other = connect();
        // Everything that is made once is made.
        assert_eq!(get(&mut other, &content(1), &["Range: bytes=0-1000000"]).body.len(), 1_000_001);
        let before = memory_kib(directory.path(), "VmHWM:");
        let mut readers: Vec<LargeReader> = (0..4)
            .map(|_| {
                let mut http = connect();
                http.send(&raw(&content(1)));
                let head = http.response_to(true);
                assert_eq!((head.status, head.header("content-length")), (200, SIZE.to_string().as_str()));
                LargeReader::new(http)
            })
            .collect();
        for part in 1..=4 {
            readers.iter_mut().for_each(|reader| reader.read_to(SIZE / 8 * part));
            // By now, whatever the server would take without a bound is in it.
            for _ in 0..50 {
                assert_eq!(get(&mut other, &content(1), &["Range: bytes=1048576-1048583"]).body, mark(MARK as u64));
            }
        }
        for mut reader in readers {
            reader.read_to(SIZE);
            assert_eq!(get(&mut reader.into_http(), &status(1), &[]).status, 200);
        }
        let after = memory_kib(directory.path(), "VmHWM:");
        assert!(after < before + 12 * 1024, "{before} KiB before, {after} KiB after, TLS: {tls}");
    }
}

#[test]
fn a_client_that_reads_nothing_is_given_up() {
    const SIZE: u64 = 64 << 20;
    let mut shelf = Shelf::new();
    shelf.put_large(entry(1, SIZE), SIZE);
    shelf.setup = shelf.setup.env("LIMIT_WRITE_TIMEOUT", "1s");
    let server = shelf.start();
    let mut http = Http::connect(&server);
    http.send(&raw(&content(1)));
    assert_eq!(http.response_to(true).status, 200);
    let admin = bearer(&token(Role::Admin));
    let until = Instant::now() + DEADLINE;
    loop {
        let mut asking = Http::connect(&server);
        if asking.get("/stats", &[&admin]).json()["workers"][0]["connections"] == 1 {
            break;
        }
        assert!(Instant::now() < until, "the connection stays");
    }
    assert!(http.stream.is_closed_by_server());
}

/// More clients go away in the middle than there may be downloads at once.
#[test]
fn clients_that_go_away_leave_their_places() {
    const SIZE: u64 = 64 << 20;
    let mut shelf = Shelf::new();
    shelf.put_large(entry(1, SIZE), SIZE);
    let server = shelf.start();
    let until = Instant::now() + DEADLINE;
    let (mut begun, mut refused) = (0, 0);
    while begun < 300 {
        let mut http = Http::connect(&server);
        http.send(&raw(&content(1)));
        match http.response_to(true).status {
            200 => begun += 1,
            503 => refused += 1,
            other => panic!("{other}"),
        }
        assert!(Instant::now() < until, "{begun} have begun, {refused} were refused");
    }
    let mut http = Http::connect(&server);
    assert_eq!(get(&mut http, &content(1), &["Range: bytes=0-7"]).body, mark(0));
}

#[test]
fn so_many_downloads_at_once() {
    const SIZE: u64 = 64 << 20;
    let mut shelf = Shelf::new();
    shelf.put_large(entry(1, SIZE), SIZE);
    shelf.setup = shelf.setup.env("LIMIT_UNAUTHENTICATED_PER_ADDRESS", 1000).env("LIMIT_WRITE_TIMEOUT", "60s");
    let server = shelf.start();
    let begin = || {
        let mut http = Http::connect(&server);
        http.send(&raw(&content(1)));
        (http.response_to(true), http)
    };
    let held: Vec<Http> = (0..256)
        .map(|number| {
            let (head, http) = begin();
            assert_eq!(head.status, 200, "number {number}");
            http
        })
        .collect();
    let (head, _) = begin();
    assert_eq!((head.status, head.header("retry-after")), (503, "5"));
    let mut http = Http::connect(&server);
    assert_eq!(get(&mut http, &status(1), &[]).status, 200, "what is no download goes on");
    drop(held);
    let until = Instant::now() + DEADLINE;
    while get(&mut http, &content(1), &["Range: bytes=0-7"]).status != 206 {
        assert!(Instant::now() < until, "no place becomes free");
    }
}

#[test]
fn a_file_that_is_shorter_than_it_should_be_ends_the_connection() {
    let mut shelf = Shelf::new();
    shelf.put_large(entry(1, 3 << 20), 1 << 20);
    shelf.put(entry(2, 1000), TEXT);
    let server = shelf.start();
    let mut http = Http::connect(&server);
    // Nothing of it was sent yet, so that it can be said.
    let short = get(&mut http, &content(2), &[]);
    assert_eq!((short.status, short.code().as_str()), (500, "storage_failed"));
    http.send(&raw(&content(1)));
    assert_eq!(http.response_to(true).header("content-length"), (3 << 20).to_string());
    let mut reader = LargeReader::new(http);
    reader.read_to(1 << 20);
    assert!(reader.stream.is_closed_by_server() && reader.buffer.is_empty());
    let mut http = Http::connect(&server);
    assert_eq!(get(&mut http, &content(1), &["Range: bytes=0-7"]).body, mark(0));
}

#[test]
fn without_a_database_the_server_runs_and_says_so() {
    let setup = Setup::new().env("JWT_SECRET", SECRET);
    let path = setup.temp_dir().path().join("data").join("webrtc-engine.db");
    std::fs::create_dir_all(&path).unwrap();
    let server = setup.start();
    let mut http = Http::connect(&server);
    for (method, path) in [("GET", list()), ("GET", status(1)), ("HEAD", content(1)), ("DELETE", status(1))] {
        let response = http.request(method, &path, &[&bearer(&token(Role::Admin))], "");
        assert_eq!((response.status, response.header("retry-after")), (503, "1"), "{method} {path}");
        if method != "HEAD" {
            assert_eq!(response.code(), "database_unavailable");
        }
    }
    assert_eq!(http.get("/readyz", &[]).status, 200);
    server.wait_for_log("the database cannot be used", 1);
    // As soon as it can be made it is.
    std::fs::remove_dir(&path).unwrap();
    let until = Instant::now() + DEADLINE;
    while get(&mut http, &list(), &[]).status != 200 {
        assert!(Instant::now() < until, "the database stays away");
    }
}

#[test]
fn a_database_of_a_later_version_is_not_touched() {
    let setup = Setup::new().env("JWT_SECRET", SECRET);
    let data = setup.temp_dir().path().join("data");
    std::fs::create_dir_all(&data).unwrap();
    let database = rusqlite::Connection::open(data.join("webrtc-engine.db")).unwrap();
    database.pragma_update(None, "user_version", 999).unwrap();
    drop(database);
    let (code, _, log) = setup.run();
    assert_ne!(code, 0);
    assert!(log.contains("webrtc-engine.db was written by a later version of this program"), "{log}");
}
