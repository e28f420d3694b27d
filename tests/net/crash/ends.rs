//! Recordings that end as they should: by a stop, the last leave, a limit, the end of the server; and those that are refused.

use libc::SIGTERM;
use serde_json::json;

use super::*;

#[test]
fn a_stopped_server_has_completed_its_recording_when_it_ends() {
    // No time to drain; and somebody who does not wait for it.
    for (timeout, signals) in [("0s", 1), ("60s", 2)] {
        let dir = TempDir::new();
        let mut server = setup_in(&dir).env("SHUTDOWN_TIMEOUT", timeout).start();
        let (mut call, recording) = recorded(&server, &dir);
        call.run(300 * MS);
        let stopped = call.now();
        // They stay, and say nothing more.
        let _people = std::mem::take(&mut call.people);
        drop(call);
        server.signal(SIGTERM);
        if signals > 1 {
            server.wait_for_log("draining", 1);
            server.signal(SIGTERM);
        }
        assert_eq!(server.wait(), 0);
        drop(server);
        let film = Film::read(&call_file(&dir, &recording));
        film.check_complete();
        film.check_tracks(&[ANN, BOB]);
        film.check_holes(&[ANN, BOB]);
        assert_eq!(row(&dir, &recording), "completed", "the database has heard of it");

        let server = start_in(&dir);
        let status = completed(&server, &recording);
        assert_eq!((&status["recovered"], &status["endReason"]), (&json!(false), &json!("server-stopped")));
        check_lost(&check_recording(&directory(&dir, &recording), &status), stopped);
    }
}

#[test]
fn the_last_leave_ends_a_recording() {
    let dir = TempDir::new();
    let server = start_in(&dir);
    let (mut call, recording) = recorded(&server, &dir);
    call.people[ANN as usize].leave();
    call.run(200 * MS);
    assert_eq!(status(&server, &recording)["status"], "recording");
    call.people[BOB as usize].leave();
    let status = completed(&server, &recording);
    assert_eq!((&status["recovered"], &status["endReason"]), (&json!(false), &json!("call-ended")));
    check_recording(&directory(&dir, &recording), &status);
}

#[test]
fn what_may_be_asked_of_a_recording() {
    let dir = TempDir::new();
    let server = setup_in(&dir).env("LIMIT_RECORDINGS", 1).start();
    let code = |response: Response| (response.status, response.code());
    for word in ["start", "pause", "stop"] {
        assert_eq!(
            command(&server, "r", word).status,
            if word == "pause" { 409 } else { 404 },
            "{word} without a call"
        );
    }
    let mut call = pair(&server);
    let _other = Ws::join(&server, "eve", "other");
    let recording = record(&server, "r");
    let again = command(&server, "r", "start");
    assert_eq!((again.status, id(&again)), (409, recording.clone()));
    assert_eq!(again.code(), "recording_active");
    assert_eq!(code(command(&server, "other", "start")), (503, "overloaded".into()));
    for (word, is) in [("pause", "paused"), ("pause", "paused"), ("resume", "recording"), ("resume", "recording")] {
        let response = command(&server, "r", word);
        assert_eq!(
            (response.status, response.json()),
            (200, json!({"recordingId": recording, "status": is})),
            "{word}"
        );
        call.expect("the status says so", DEADLINE, |_| status(&server, &recording)["status"] == is);
    }
    let file = call_file(&dir, &recording);
    call.expect("frames of all are on the disk", DEADLINE, |_| Film::read(&file).takes.len() == 4);
    for _ in 0..2 {
        let response = command(&server, "r", "stop");
        assert_eq!((response.status, id(&response)), (200, recording.clone()));
    }
    let status = completed(&server, &recording);
    assert_eq!(status["endReason"], "requested");
    call.expect("everybody is told", DEADLINE, |call| told(call, "recording-stopped", "requested"));
    check_files(&directory(&dir, &recording), &status);
    // There is room again.
    record(&server, "other");
}

#[test]
fn where_recordings_are_not_allowed_none_is_made() {
    let server = Setup::new().env("RECORDING_ALLOWED", "false").start();
    let mut ann = Ws::join(&server, "ann", "r");
    let refused = command(&server, "r", "start");
    assert_eq!((refused.status, refused.code().as_str()), (403, "recording_not_allowed"));
    ann.ping();
}

#[test]
fn a_recording_ends_at_its_limit_and_the_call_goes_on() {
    let dir = TempDir::new();
    let server = setup_in(&dir).env("LIMIT_RECORDING_LENGTH", "2s").start();
    let (mut call, recording) = recorded(&server, &dir);
    call.expect("everybody is told", DEADLINE, |call| told(call, "recording-stopped", "limit"));
    call.expect("it is completed", DEADLINE, |call| {
        call.people.iter().all(|b| b.client.texts_of("recording-completed").count() == 1)
    });
    call.expect("the call goes on", DEADLINE, flows(30));
    let status = status(&server, &recording);
    assert_eq!((&status["status"], &status["endReason"]), (&json!("completed"), &json!("limit")));
    let film = check_recording(&directory(&dir, &recording), &status);
    let duration = film.duration.unwrap();
    assert!((1500 * MS..4 * SECOND).contains(&duration), "{duration:?}");
    // The next one may begin.
    assert_ne!(record(&server, "r"), recording);
}
