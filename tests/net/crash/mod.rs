//! Recordings whose server is killed, stopped, or finds its disk full: what is left of them, and what calls notice of it.
//!
//! Two simulated browsers send frames that are numbered and say when they were sent, so that what a file has can be compared with
//! what was sent until the moment of a kill. Chance is seeded; what it meets is not, since threads are scheduled.
//! `tools/crash.sh` kills a hundred times.
//!
//! Here: what is looked at, and kills. [`ends`] are those that are wanted, [`disk`] is about full ones.

mod disk;
mod ends;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use libc::{SIGKILL, SIGTERM};
use serde_json::{Value, json};
use webrtc_engine::auth::Role;

use crate::client::{Plan, SLOTS};
use crate::harness::call::{Call, MS, SECOND};
use crate::harness::server::TempDir;
use crate::harness::{DEADLINE, Film, Http, Response, Server, Setup, Ws, token};
use crate::payload::Source;
use crate::weather::{DARK, FAIR, Weather};

/// Nothing is lost on the way, and nothing takes time.
const DIRECT: Weather = Weather { delay: Duration::ZERO, ..FAIR };
/// More than what is sent again makes up for.
const LOSS: Weather = Weather { loss: 0.25, delay: Duration::from_millis(80), ..FAIR };
const BROWSER: Plan = SLOTS;
const CAMERA: Source = Source::Camera;
/// What a kill may cost.
const LOST_MAX: Duration = SECOND;

// ---- what is asked, and what is there ----

fn start_in(dir: &TempDir) -> Server {
    setup_in(dir).start()
}

fn setup_in(dir: &TempDir) -> Setup {
    // Machines that test have small disks.
    Setup::new().env("RECORDING_MIN_FREE_DISK", "0").dir(dir)
}

fn get(server: &Server, path: &str) -> Response {
    ask(server, "GET", path)
}

fn ask(server: &Server, method: &str, path: &str) -> Response {
    let authorization = format!("Authorization: Bearer {}", token("root", Role::Host));
    Http::connect(server).request(method, path, &[&authorization], "")
}

fn command(server: &Server, room: &str, word: &str) -> Response {
    ask(server, "POST", &format!("/video-calls/{room}/recording/{word}"))
}

/// Begins one, and gives its id.
fn record(server: &Server, room: &str) -> String {
    let response = command(server, room, "start");
    assert_eq!(response.status, 201, "{response:?}");
    id(&response)
}

fn id(response: &Response) -> String {
    response.json()["recordingId"].as_str().expect("an id").to_owned()
}

fn status(server: &Server, recording: &str) -> Value {
    let response = get(server, &format!("/video-calls/r/recording/{recording}"));
    assert_eq!(response.status, 200, "{response:?}");
    response.json()
}

/// Waits for the end of all work on a recording.
fn completed(server: &Server, recording: &str) -> Value {
    let until = Instant::now() + DEADLINE;
    loop {
        let response = get(server, &format!("/video-calls/r/recording/{recording}"));
        // A database that was lost learns of it again.
        let status = if response.status == 404 { Value::Null } else { response.json() };
        if status["status"] == "completed" {
            return status;
        }
        assert!(status["status"] != "failed" && Instant::now() < until, "{status}");
        std::thread::sleep(5 * MS);
    }
}

fn directory(dir: &TempDir, recording: &str) -> PathBuf {
    dir.path().join("recordings").join("r").join(recording)
}

fn call_file(dir: &TempDir, recording: &str) -> PathBuf {
    directory(dir, recording).join("recording.webm")
}

/// What the status says is what is there: these files, with these sizes and hashes, and no others.
fn check_files(directory: &Path, status: &Value) {
    let files = status["files"].as_array().expect("files");
    let names: BTreeSet<String> = files.iter().map(|file| file["name"].as_str().unwrap().to_owned()).collect();
    let there = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    assert_eq!(there.collect::<BTreeSet<_>>(), names, "nothing is left over, and nothing is missing");
    for file in files {
        let bytes = fs::read(directory.join(file["name"].as_str().unwrap())).unwrap();
        let sha256: String = openssl::sha::sha256(&bytes).iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!((file["size"].as_u64(), file["sha256"].as_str()), (Some(bytes.len() as u64), Some(&sha256[..])));
    }
}

/// All of a recording of Ann and Bob, of whom no frame is missing.
fn check_recording(directory: &Path, status: &Value) -> Film {
    let film = check_people(directory, status, &[ANN, BOB]);
    film.check_holes(&[ANN, BOB]);
    film
}

/// All of a recording of some people: the file of the call, and each one's own, in which the same frames are.
fn check_people(directory: &Path, status: &Value, people: &[u32]) -> Film {
    check_files(directory, status);
    let call = Film::read(&directory.join("recording.webm"));
    call.check_complete();
    call.check_tracks(people);
    let duration = status["durationMs"].as_u64().expect("a duration");
    assert!(duration.abs_diff(call.duration.unwrap().as_millis() as u64) <= 1, "{duration} is not {:?}", call.duration);
    let files = status["files"].as_array().unwrap();
    for client in people {
        let own = files.iter().find(|file| file["participant"] == USERS[*client as usize]).expect("a file of each");
        let own = Film::read(&directory.join(own["name"].as_str().unwrap()));
        own.check_complete();
        own.check_tracks(&[*client]);
        for (of, take) in own.takes {
            let there = &call.takes[&of];
            assert_eq!((take.first, take.last, take.frames), (there.first, there.last, there.frames), "{of:?}");
        }
    }
    call
}

const ANN: u32 = 0;
const BOB: u32 = 1;
const EVE: u32 = 2;
const USERS: [&str; 3] = ["ann", "bob", "eve"];

/// Ann and Bob see and hear each other.
fn pair(server: &Server) -> Call<'_> {
    let mut call = Call::new(server);
    for user in &USERS[..2] {
        call.join(user, &BROWSER, DIRECT);
    }
    call.expect("both see and hear each other", DEADLINE, flows(5));
    call
}

/// Each has got so many packets more of the other than when this was called first.
fn flows(more: u64) -> impl FnMut(&Call) -> bool {
    let mut first: Option<Vec<u64>> = None;
    move |call| {
        let heard = |to: usize, from, video| call.people[to].client.heard_of(from, video);
        let heard =
            [(0, BOB, false), (0, BOB, true), (1, ANN, false), (1, ANN, true)].map(|(to, from, v)| heard(to, from, v));
        let first = first.get_or_insert_with(|| heard.to_vec());
        heard.iter().zip(first).all(|(now, before)| *now >= *before + more)
    }
}

/// A pair that is recorded, and frames of it are on the disk.
fn recorded<'a>(server: &'a Server, dir: &TempDir) -> (Call<'a>, String) {
    let mut call = pair(server);
    let recording = record(server, "r");
    let file = call_file(dir, &recording);
    let has_all = |_: &Call| Film::read(&file).takes.len() == 4;
    call.expect("frames of all are on the disk", DEADLINE, has_all);
    (call, recording)
}

/// Of no track more is lost, up to this moment of the call, than a kill may cost.
fn check_lost(film: &Film, until: Duration) {
    let worst = film.takes.values().map(|take| until.saturating_sub(take.last_sent())).max().expect("a track");
    assert!(worst <= LOST_MAX, "up to {worst:?} of a track are lost: {:?}", film.takes);
}

/// What the database says, of a server that is not there any more.
fn row(dir: &TempDir, recording: &str) -> String {
    let database = rusqlite::Connection::open(dir.path().join("data").join("webrtc-engine.db")).unwrap();
    let sql = "SELECT status FROM recordings WHERE recording = ?1";
    database.query_row(sql, [recording], |row| row.get(0)).expect("a row")
}

fn told(call: &Call, kind: &str, reason: &str) -> bool {
    call.people.iter().all(|b| b.client.texts_of(kind).any(|(_, text)| text["data"]["reason"] == reason))
}

// ---- kills ----

fn kill(server: &Server) {
    server.signal(SIGKILL);
}

/// Of what is in a directory.
fn sizes(directory: &Path) -> BTreeMap<String, u64> {
    let entries = fs::read_dir(directory).unwrap().filter_map(Result::ok);
    entries.filter_map(|entry| Some((entry.file_name().into_string().ok()?, entry.metadata().ok()?.len()))).collect()
}

/// What happens before a kill.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Before {
    Nothing,
    /// Nothing comes from Bob any more. Others wait for him, though not for long.
    Darkness,
    /// Much of what comes from Bob is lost, and some of that for ever. Others wait for it.
    Loss,
    /// Eve comes, and is seen.
    Join,
    Pause,
}

/// What a kill has cost: of the track that lost most, and in frames of each.
struct Cost {
    worst: Duration,
    frames: Vec<u32>,
}

/// Kills at a random moment, and looks at what the next start makes of it.
fn killed(before: Before, seed: u64) -> Cost {
    let mut random = fastrand::Rng::with_seed(seed);
    let dir = TempDir::new();
    let server = start_in(&dir);
    let (mut call, recording) = recorded(&server, &dir);
    call.run(MS * random.u32(0..2000));
    let changed = call.now();
    match before {
        Before::Nothing => {}
        Before::Darkness => call.people[BOB as usize].set_up(DARK),
        Before::Loss => call.people[BOB as usize].set_up(LOSS),
        Before::Join => {
            call.join("eve", &BROWSER, DIRECT);
            call.expect("Eve is seen", DEADLINE, |call| call.people[ANN as usize].client.heard_of(EVE, true) > 0);
        }
        Before::Pause => assert_eq!(command(&server, "r", "pause").status, 200),
    }
    // Where what is said of Eve counts from.
    let began = call.now();
    if before != Before::Nothing {
        call.run(MS * random.u32(0..1500));
    }
    let killed = call.now();
    kill(&server);
    let sent: Vec<_> = call.people.iter().map(|b| b.client.frames_sent.clone()).collect();
    drop(call);
    drop(server);

    let server = start_in(&dir);
    let status = completed(&server, &recording);
    for (member, value) in [("recovered", json!(true)), ("error", Value::Null), ("endReason", Value::Null)] {
        assert_eq!(status[member], value, "{member}");
    }
    let directory = directory(&dir, &recording);
    // Who came a moment before need not be there.
    let has_eve = before == Before::Join && Film::read(&call_file(&dir, &recording)).takes.contains_key(&(EVE, CAMERA));
    assert!(before != Before::Join || has_eve || killed - began <= LOST_MAX, "Eve is not there");
    let film = check_people(&directory, &status, if has_eve { &[ANN, BOB, EVE] } else { &[ANN, BOB] });
    film.check_holes(if before == Before::Loss { &[ANN] } else { &[ANN, BOB, EVE] });
    let until = |client: u32| match before {
        Before::Nothing | Before::Loss | Before::Join => killed,
        Before::Darkness if client != BOB => killed,
        Before::Darkness | Before::Pause => changed,
    };
    // What the network has lost of Bob's camera cost him all that depends on it.
    let counts = |client: u32| before != Before::Loss || client != BOB;
    let judged = film.takes.iter().filter(|((client, _), _)| counts(*client));
    let lost = judged.map(|((client, _), take)| until(*client).saturating_sub(take.last_sent()));
    let worst = lost.max().expect("a track");
    assert!(worst <= LOST_MAX, "{before:?}: up to {worst:?} are lost: {:?}", film.takes);
    let frames =
        film.takes.iter().map(|((client, source), take)| sent[*client as usize][source] - take.last.picture - 1);
    let frames = frames.collect();
    // And nothing is done twice.
    drop(server);
    assert_eq!(self::status(&start_in(&dir), &recording), status);
    Cost { worst, frames }
}

#[test]
fn a_killed_server_completes_its_recording_at_the_next_start() {
    kills(Before::Nothing, 0, 3);
}

/// As many as are wanted, and what they cost.
fn kills(before: Before, first: u64, rounds: u64) {
    let rounds = std::env::var("CRASH_ROUNDS").map_or(rounds, |all| all.parse().expect("CRASH_ROUNDS is a number"));
    let mut costs = Vec::new();
    for seed in first..first + rounds {
        let Cost { worst, frames } = killed(before, seed);
        println!("{before:?}, seed {seed}: at most {worst:.0?} are lost, frames of each {frames:?}");
        costs.push((worst, frames.into_iter().max().unwrap()));
    }
    costs.sort();
    let at = |share: usize| {
        let (time, frames) = costs[(costs.len() - 1) * share / 100];
        format!("{time:.0?} ({frames} frames)")
    };
    println!("{rounds} kills cost, {before:?}: median {}, 90 % {}, worst {}", at(50), at(90), at(100));
}

#[test]
fn a_server_killed_while_somebody_cannot_be_heard() {
    kills(Before::Darkness, 200, 3);
}

#[test]
fn a_server_killed_while_much_of_somebody_is_lost() {
    kills(Before::Loss, 300, 2);
}

#[test]
fn a_server_killed_after_somebody_came() {
    kills(Before::Join, 400, 2);
}

#[test]
fn a_server_killed_while_a_recording_is_paused() {
    kills(Before::Pause, 500, 1);
}

#[test]
fn a_server_killed_while_a_recording_begins_leaves_nothing_half_done() {
    let dir = TempDir::new();
    for seed in 600..608 {
        let mut random = fastrand::Rng::with_seed(seed);
        let server = start_in(&dir);
        let mut ann = Ws::join(&server, "ann", "r");
        let mut http = Http::connect(&server);
        let authorization = format!("Authorization: Bearer {}", token("root", Role::Host));
        http.send(&format!("POST /video-calls/r/recording/start HTTP/1.1\r\nHost: x\r\n{authorization}\r\n\r\n"));
        std::thread::sleep(Duration::from_micros(random.u64(0..12_000)));
        kill(&server);
        ann.stream().is_closed_by_server();
    }
    let server = start_in(&dir);
    let is_over = |status: &Value| status == "failed" || status == "completed";
    let until = Instant::now() + DEADLINE;
    let items = loop {
        let items = get(&server, "/video-calls/r/recording").json()["items"].as_array().unwrap().clone();
        if items.iter().all(|item| is_over(&item["status"])) {
            break items;
        }
        assert!(Instant::now() < until, "{items:?}");
    };
    for item in &items {
        assert_eq!((&item["recovered"], &item["error"]), (&json!(true), &json!("no media was received")));
    }
    drop(server);
    let (code, out, error) = Setup::new().dir(&dir).arg("recordings").arg("repair").run();
    assert!(code == 0 && out.contains(" 0 repaired, 0 failed"), "{code} {out}{error}");
}

#[test]
fn a_server_killed_while_it_finishes_does_so_at_the_next_start() {
    for round in 0..5 {
        let mut random = fastrand::Rng::with_seed(100 + round);
        let dir = TempDir::new();
        let server = start_in(&dir);
        let (mut call, recording) = recorded(&server, &dir);
        call.run(300 * MS);
        let stopped = call.now();
        assert_eq!(command(&server, "r", "stop").status, 200);
        // Any moment of what comes after the answer.
        std::thread::sleep(Duration::from_micros(random.u64(0..50_000)));
        kill(&server);
        drop(call);
        drop(server);

        let server = start_in(&dir);
        let status = completed(&server, &recording);
        let film = check_recording(&directory(&dir, &recording), &status);
        check_lost(&film, stopped);
    }
}

#[test]
fn a_server_killed_again_and_again_while_it_repairs_gets_there() {
    let origin = TempDir::new();
    let server = start_in(&origin);
    let (mut call, recording) = recorded(&server, &origin);
    call.run(500 * MS);
    let killed = call.now();
    kill(&server);
    drop(call);
    drop(server);
    for seed in 0..4 {
        let mut random = fastrand::Rng::with_seed(seed);
        let dir = TempDir::new();
        copy(origin.path(), dir.path());
        let directory = directory(&dir, &recording);
        for kill in 0..6 {
            kill_amid_repair(&dir, &directory, Duration::from_micros(random.u64(0..(kill + 1) * 1500)));
        }
        let server = start_in(&dir);
        let status = completed(&server, &recording);
        assert_eq!(status["recovered"], true);
        check_lost(&check_recording(&directory, &status), killed);
    }
}

/// Kills a server so long after it has begun to change something. A repair of so little takes some milliseconds.
fn kill_amid_repair(dir: &TempDir, directory: &Path, after: Duration) {
    let before = sizes(directory);
    if before.contains_key("metadata.json") {
        return;
    }
    let server = setup_in(dir).spawn();
    let until = Instant::now() + DEADLINE;
    while sizes(directory) == before {
        assert!(Instant::now() < until, "nothing is repaired");
        std::thread::yield_now();
    }
    std::thread::sleep(after);
    kill(&server);
    drop(server);
    println!("killed {after:?} after the first change: {:?}", sizes(directory));
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap().map(Result::unwrap) {
        let to = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &to)
        } else {
            fs::copy(entry.path(), to).map(drop).unwrap()
        }
    }
}

#[test]
fn what_the_command_has_repaired_the_server_knows() {
    let dir = TempDir::new();
    let server = start_in(&dir);
    let (call, recording) = recorded(&server, &dir);
    let killed = call.now();
    let run = |word: &str| Setup::new().dir(&dir).arg("recordings").arg(word).run();
    let (code, out, _) = run("repair");
    assert!(code == 0 && out.contains("in use, left alone"), "{out}");
    kill(&server);
    drop(call);
    drop(server);
    let (code, out, _) = run("list");
    assert!(code == 0 && out.contains(&recording) && out.contains("it can be repaired"), "{out}");
    // Another one, of which nobody knows any more what it is.
    let lost = dir.path().join("recordings").join("lost").join(&recording);
    copy(&directory(&dir, &recording), &lost);
    fs::remove_file(lost.join("manifest.jsonl")).unwrap();
    let (code, out, error) = run("repair");
    assert!(code == 1 && out.contains("2 recordings looked at, 1 repaired, 1 failed"), "{out}{error}");
    assert!(out.contains("FAILED: its manifest cannot be read"), "{out}");
    let (code, out, _) = run("list");
    assert!(code == 0 && out.contains(&recording) && out.contains("completed"), "{out}");
    // What its database last heard of it is that it is made.
    let status = completed(&start_in(&dir), &recording);
    assert_eq!(status["recovered"], true);
    check_lost(&check_recording(&directory(&dir, &recording), &status), killed);
}

// ---- a database that is gone ----

fn delete_database(dir: &TempDir) {
    for end in ["", "-wal", "-shm"] {
        let _ = fs::remove_file(dir.path().join("data").join(format!("webrtc-engine.db{end}")));
    }
}

#[test]
fn a_deleted_database_is_made_again_from_what_is_on_the_disk() {
    let dir = TempDir::new();
    let mut server = start_in(&dir);
    let (mut call, first) = recorded(&server, &dir);
    assert_eq!(command(&server, "r", "stop").status, 200);
    let finished = completed(&server, &first);
    let second = record(&server, "r");
    call.run(500 * MS);
    assert_eq!(command(&server, "r", "stop").status, 200);
    completed(&server, &second);
    let before = get(&server, "/video-calls/r/recording").json();
    assert_eq!(before["items"].as_array().map(Vec::len), Some(2));
    drop(call);
    server.signal(SIGTERM);
    server.wait();
    delete_database(&dir);

    let server = start_in(&dir);
    completed(&server, &first);
    completed(&server, &second);
    assert_eq!(get(&server, "/video-calls/r/recording").json(), before);
    assert_eq!(status(&server, &first), finished);

    // And with one that was under way.
    let (call, third) = recorded(&server, &dir);
    let killed = call.now();
    kill(&server);
    drop(call);
    drop(server);
    delete_database(&dir);
    let server = start_in(&dir);
    let status = completed(&server, &third);
    assert_eq!((&status["recovered"], &status["startedBy"]), (&json!(true), &json!("root")));
    check_lost(&check_recording(&directory(&dir, &third), &status), killed);
    completed(&server, &first);
    completed(&server, &second);
    let after = get(&server, "/video-calls/r/recording").json();
    assert_eq!(after["items"].as_array().unwrap()[1..], before["items"].as_array().unwrap()[..]);
}

#[test]
fn a_recording_that_was_killed_and_is_gone_can_be_deleted() {
    let dir = TempDir::new();
    let server = start_in(&dir);
    let (call, recording) = recorded(&server, &dir);
    kill(&server);
    drop(call);
    drop(server);
    fs::remove_dir_all(directory(&dir, &recording)).unwrap();
    let server = start_in(&dir);
    let status = status(&server, &recording);
    assert_eq!((&status["status"], &status["error"]), (&json!("failed"), &json!("its files are gone")));
    assert_eq!(ask(&server, "DELETE", &format!("/video-calls/r/recording/{recording}")).status, 204);
}
