//! Recordings on a disk that is nearly full, or becomes so, on a small one of their own.

use std::os::unix::fs::MetadataExt;

use libc::SIGSTOP;
use serde_json::json;

use super::*;
use crate::harness::server::Disk;

#[test]
fn nothing_is_recorded_on_a_disk_that_is_nearly_full() {
    let server = Setup::new().env("RECORDING_MIN_FREE_DISK", "1000000GiB").start();
    let mut call = pair(&server);
    let refused = command(&server, "r", "start");
    assert_eq!((refused.status, refused.code().as_str()), (507, "disk_full"));
    call.expect("the call goes on", DEADLINE, flows(30));
    assert!(call.people.iter().all(|b| b.client.texts_of("recording-started").count() == 0));
    assert_eq!(get(&server, "/video-calls/r/recording").json()["items"], json!([]));
}

#[test]
fn a_disk_that_becomes_nearly_full_ends_a_recording_and_no_call() {
    // What is left is less than is kept free; and nothing at all.
    for left in [40 << 20, 0] {
        let Some(disk) = small_disk() else { return };
        let dir = TempDir::new();
        let server = setup_in(&dir).disk(&disk).start();
        let (mut call, recording, directory) = recorded_on(&server, &disk);
        let filled = call.now();
        fill(&disk, left);
        call.expect("everybody is told", DEADLINE, |call| told(call, "recording-stopped", "disk-full"));
        call.expect("the call goes on", DEADLINE, flows(30));
        call.expect("it is completed", DEADLINE, |call| {
            call.people.iter().all(|b| b.client.texts_of("recording-completed").count() == 1)
        });
        let refused = command(&server, "r", "start");
        assert_eq!((refused.status, refused.code().as_str()), (507, "disk_full"));
        let status = status(&server, &recording);
        assert_eq!((&status["status"], &status["endReason"]), (&json!("completed"), &json!("disk-full")), "{status}");
        check_without_parts(&directory, &status, filled);
        call.expect("the call goes on", DEADLINE, flows(30));
        kill(&server);
        drop(call);
        drop(server);

        // With room there is all of it.
        fs::remove_file(disk.path().join("filler")).unwrap();
        let server = setup_in(&dir).disk(&disk).start();
        let status = completed_with_parts(&server, &recording);
        assert_eq!(status["recovered"], false);
        check_lost(&check_recording(&directory, &status), filled);
    }
}

#[test]
fn a_server_killed_on_a_full_disk_completes_what_it_can_and_later_the_rest() {
    let Some(disk) = small_disk() else { return };
    let dir = TempDir::new();
    let server = setup_in(&dir).disk(&disk).start();
    let (call, recording, directory) = recorded_on(&server, &disk);
    let filled = call.now();
    // Before it notices.
    server.signal(SIGSTOP);
    fill(&disk, 0);
    kill(&server);
    drop(call);
    drop(server);
    assert!(
        directory.join("ballast.tmp").exists(),
        "there is room for the end only where something was set aside for it"
    );
    let server = setup_in(&dir).disk(&disk).start();
    let status = completed(&server, &recording);
    assert_eq!(status["recovered"], true);
    check_without_parts(&directory, &status, filled);
    drop(server);
    fs::remove_file(disk.path().join("filler")).unwrap();
    let server = setup_in(&dir).disk(&disk).start();
    let status = completed_with_parts(&server, &recording);
    assert_eq!(status["recovered"], true);
    check_lost(&check_recording(&directory, &status), filled);
}

/// `None`: nobody may mount here, and nothing can be tried.
fn small_disk() -> Option<Disk> {
    let disk = Disk::new(100 << 20);
    if disk.is_none() {
        eprintln!("nobody may mount here");
    }
    disk
}

/// As [`recorded`], and the directory of the recording.
fn recorded_on<'a>(server: &'a Server, disk: &Disk) -> (Call<'a>, String, PathBuf) {
    let mut call = pair(server);
    let recording = record(server, "r");
    let directory = disk.path().join("r").join(&recording);
    let file = directory.join("recording.webm");
    call.expect("frames of all are on the disk", DEADLINE, |_| Film::read(&file).takes.len() == 4);
    (call, recording, directory)
}

/// The file of the call is there, and there was no room for those of participants.
fn check_without_parts(directory: &Path, status: &Value, until: Duration) {
    assert_eq!(status["error"], "the disk has no room for files of participants");
    check_files(directory, status);
    let film = Film::read(&directory.join("recording.webm"));
    film.check_complete();
    film.check_tracks(&[ANN, BOB]);
    film.check_holes(&[ANN, BOB]);
    check_lost(&film, until);
}

/// Waits until those are there as well.
fn completed_with_parts(server: &Server, recording: &str) -> Value {
    let until = Instant::now() + DEADLINE;
    loop {
        let status = completed(server, recording);
        if status["error"].is_null() {
            return status;
        }
        assert!(Instant::now() < until, "{status}");
    }
}

/// So many octets stay free.
fn fill(disk: &Disk, left: u64) {
    let file = fs::File::create(disk.path().join("filler")).unwrap();
    // Whoever records takes some meanwhile.
    for _ in 0..1000 {
        let taken = file.metadata().unwrap().blocks() * 512;
        let free = webrtc_engine::storage::disk::free(&disk.path()).unwrap();
        let octets = (taken + free - left) as i64;
        // SAFETY: it is a file of ours, and takes no memory of the process.
        match unsafe { libc::posix_fallocate(std::os::fd::AsRawFd::as_raw_fd(&file), 0, octets) } {
            0 => return,
            libc::ENOSPC => {}
            error => panic!("{}", std::io::Error::from_raw_os_error(error)),
        }
    }
    panic!("what is free changes all the time");
}
